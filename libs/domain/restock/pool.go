package restock

import (
	"errors"
	"fmt"
	"slices"
)

// Pool learns a [Layer] from what products tell of themselves. It is plain data of
// bounded size, and needs its caller's care when shared. The zero Pool knows nothing.
//
// Shops of every size give it about as much to hear: it decides what share of the
// products tell, and says so in the layers. What is a ratio or a mean, a sample tells as
// well as all; totals by day are kept in units of the present sample, so that they are
// halved with it, and so that a total counts as often as it is evidence.
type Pool struct {
	period   float64 // 0: 1
	sampling uint8
	begun    bool
	first    Day // of the totals
	today    Day // latest that was heard of
	start    Day // first that was heard of
	sent     Day // the last layer's
	heard    uint32
	totals   []float32
	pits     [horizons][kinds]pit
	losses   [volumes][experts]float64
	weeks    [volumes]float64
	launch   launchSums
	groups   []grouped // in order
}

// grouped are the effects of the offers of one group.
type grouped struct {
	group uint16
	effects
}

// NewPool returns a pool that knows nothing. Period is the length of a day of the
// products' in days: 1, but where history was summed up before it came.
func NewPool(period float64) *Pool { return &Pool{period: period} }

// Constants of how often a layer is made, and of how many products. That they are
// enough was measured on the first part of a wholesaler's history.
const (
	layerDays   = 7    // from one layer to the next at most
	layerGrowth = 4    // a layer when the history is this part longer
	enough      = 1024 // times a day that products tell; above, every other one is asked no more
	crowd       = 4 * enough * layerDays
)

// day is the length of a day of the products'.
func (p *Pool) day() float64 {
	if p.period > 0 {
		return p.period
	}
	return 1
}

// Hear takes what a product tells.
func (p *Pool) Hear(t Told) {
	if len(t.Stats) == 0 {
		return
	}
	if t.Sampling >= p.sampling {
		p.heard++
	}
	for i := range t.Stats {
		p.add(&t.Stats[i], t.Sampling)
	}
}

func (p *Pool) add(s *Stat, sampling uint8) {
	if !p.begun {
		p.begun, p.first, p.today, p.start, p.sent = true, s.Day, s.Day, s.Day, s.Day
	}
	p.today, p.start = max(p.today, s.Day), min(p.start, s.Day)
	switch s.Kind {
	case StatDay:
		// One of the sample of then stands for so many of the present one.
		if total := p.total(s.Day); total != nil {
			*total += s.Units * scale(int(sampling)-int(p.sampling))
		}
	case StatWeek:
		for k, l := range s.Losses {
			p.losses[s.Class][k] = p.losses[s.Class][k]*lossPooled + float64(l)
		}
		p.weeks[s.Class] = p.weeks[s.Class]*lossPooled + 1
	case StatCheck:
		p.pits[s.Horizon][s.Class].add(float64(s.Low), float64(s.High))
	case StatLaunch:
		p.launch.add(s.Band, float64(s.Units))
	case StatOffer:
		i, known := slices.BinarySearchFunc(p.groups, s.Group, func(g grouped, group uint16) int { return int(g.group) - int(group) })
		if !known {
			if len(p.groups) >= maxGroups {
				return
			}
			p.groups = slices.Insert(p.groups, i, grouped{s.Group, newEffects()})
		}
		var x [terms]float64
		for j := range x {
			x[j] = float64(s.Features[j])
		}
		p.groups[i].learn(x, float64(s.Effect), float64(s.Noise))
	}
}

// total is that of a day; nil where the day is too old to be kept.
func (p *Pool) total(d Day) *float32 {
	i := int(d) - int(p.first)
	if i < 0 {
		if len(p.totals)-i > maxDays {
			return nil
		}
		p.totals = slices.Insert(p.totals, 0, make([]float32, -i)...)
		p.first, i = d, 0
	}
	if over := i + 1 - maxDays; over > 0 {
		p.totals = slices.Delete(p.totals, 0, min(over, len(p.totals)))
		p.first += Day(over)
		i -= over
	}
	for len(p.totals) <= i {
		p.totals = append(p.totals, 0)
	}
	return &p.totals[i]
}

// scale is 2 to the n-th.
func scale(n int) float32 {
	f := float32(1)
	for ; n > 0; n-- {
		f *= 2
	}
	for ; n < 0; n++ {
		f /= 2
	}
	return f
}

// lossPooled is the discount of the pooled losses of the experts, a product's week.
const lossPooled = .9995

// Next returns the next layer once it is due: a day after the first that is heard of, then
// when there is a quarter more to learn from, and from four weeks on every week; and at
// once where far too many products tell. It is to be asked after every Hear, or after as
// many as one likes: a layer is learnt from the days before the latest one, which is
// not over everywhere.
func (p *Pool) Next() (*Layer, bool) {
	if !p.begun {
		return nil, false
	}
	since, age := float64(p.today-p.sent)*p.day(), float64(p.today-p.start)*p.day()
	if p.heard < crowd && !(since >= min(max(age/layerGrowth, 1), layerDays)) {
		return nil, false
	}
	p.resample(float64(p.heard) / max(since, 1))
	p.sent, p.heard = p.today, 0
	return p.layer(p.today), true
}

// resample asks fewer or more products where so many have told a day.
func (p *Pool) resample(daily float64) {
	was := p.sampling
	switch {
	case daily > enough && p.sampling < maxSampling:
		p.sampling++
	case daily < enough/4 && p.sampling > 0:
		p.sampling--
	default:
		return
	}
	f := scale(int(was) - int(p.sampling))
	for i := range p.totals {
		p.totals[i] *= f
	}
}

// layer returns what was learnt from the days before the given one.
func (p *Pool) layer(now Day) *Layer {
	l := &Layer{until: now, sampling: p.sampling, almanac: almanac{period: p.day()}, launches: p.launch.rates(), checked: newChecked(&p.pits)}
	if days := int(now) - int(p.first); len(p.totals) > 0 && days > 0 {
		seen := p.totals[:min(days, len(p.totals))]
		if len(seen) < days { // the shop was closed since
			seen = append(slices.Clone(seen), make([]float32, min(days, maxDays)-len(seen))...)
		}
		l.almanac = fitAlmanac(p.first, seen, p.day())
	}
	for v := range l.losses {
		for k := range l.losses[v] {
			l.losses[v][k] = float32(p.losses[v][k] / max(p.weeks[v], 1))
		}
	}
	l.effects = make(map[uint16][terms]float64, len(p.groups))
	for _, g := range p.groups {
		var beta [terms]float64
		for i := range beta {
			beta[i] = float64(float32(min(max(g.beta[i], -100), 100)))
		}
		l.effects[g.group] = beta
	}
	return l.ready()
}

type launchSums struct {
	units, n   [bands]float64
	unitsA, nA float64
}

const launchKept = .998

func (s *launchSums) add(band uint8, rate float64) {
	s.units[band] = s.units[band]*launchKept + rate
	s.n[band] = s.n[band]*launchKept + 1
	s.unitsA = s.unitsA*launchKept + rate
	s.nA = s.nA*launchKept + 1
}

func (s *launchSums) rates() launches {
	var l launches
	l.sure = float32(s.nA)
	if s.nA == 0 {
		return l
	}
	mean := s.unitsA / s.nA
	for b := range l.rate {
		l.rate[b] = f32((s.units[b] + 10*mean) / (s.n[b] + 10))
	}
	return l
}

// poolVersion is that of the packed form.
const poolVersion = 1

// ErrPool is wrapped by every error of [Pool.UnmarshalBinary].
var ErrPool = errors.New("not a pool")

// AppendBinary appends the packed pool and never fails: 5 kB, 4 bytes for each of the last
// 2,048 days, and 98 for each of the first 128 groups of offers; 26 kB at most.
func (p *Pool) AppendBinary(b []byte) ([]byte, error) {
	w := wire{b: append(b, poolVersion)}
	p.fields(&w)
	return w.b, nil
}

// MarshalBinary returns the packed pool.
func (p *Pool) MarshalBinary() ([]byte, error) { return p.AppendBinary(nil) }

// UnmarshalBinary reads a packed pool. It refuses what no pool can be, and then leaves p
// alone. A pool that was packed learns as one that was not, to the last bit.
func (p *Pool) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || b[0] != poolVersion {
		return fmt.Errorf("%w: %d bytes, or of another version than %d", ErrPool, len(b), poolVersion)
	}
	w := wire{b: b[1:], reading: true}
	var n Pool
	n.fields(&w)
	if !w.whole() || !n.valid() {
		return fmt.Errorf("%w: %d bytes, too few, too many, or with a number outside its range", ErrPool, len(b))
	}
	*p = n
	return nil
}

func (p *Pool) fields(w *wire) {
	var begun uint8
	if p.begun {
		begun = 1
	}
	w.u8(&begun)
	p.begun = begun == 1
	w.short = w.short || begun > 1
	w.u8(&p.sampling)
	w.f64(&p.period)
	w.day(&p.first)
	w.day(&p.today)
	w.day(&p.start)
	w.day(&p.sent)
	w.u32(&p.heard)
	days, groups := uint16(len(p.totals)), uint16(len(p.groups))
	w.u16(&days)
	w.u16(&groups)
	if days > maxDays || groups > maxGroups {
		w.short = true
		return
	}
	if w.reading {
		p.totals, p.groups = make([]float32, days), make([]grouped, groups)
	}
	w.f32s(p.totals)
	for h := range p.pits {
		for v := range p.pits[h] {
			w.f32s(p.pits[h][v].mass[:])
			w.f32(&p.pits[h][v].total)
		}
	}
	for v := range p.losses {
		w.f64s(p.losses[v][:])
	}
	w.f64s(p.weeks[:])
	w.f64s(p.launch.units[:])
	w.f64s(p.launch.n[:])
	w.f64(&p.launch.unitsA)
	w.f64(&p.launch.nA)
	for i := range p.groups {
		g := &p.groups[i]
		w.u16(&g.group)
		w.f64s(g.beta[:])
		for j := range g.cov {
			w.f64s(g.cov[j][:])
		}
	}
}

// valid tells that a pool is one that products have told.
func (p *Pool) valid() bool {
	good := p.sampling <= maxSampling && (p.period == 0 || inside(1./64, 3660, p.period)) && inside(0, 1e30, p.totals...)
	for _, d := range [4]Day{p.first, p.today, p.start, p.sent} {
		good = good && d >= -farDay && d <= farDay
	}
	for h := range p.pits {
		for v := range p.pits[h] {
			good = good && inside(0, 1e9, p.pits[h][v].mass[:]...) && inside(0, 1e9, p.pits[h][v].total)
		}
	}
	for v := range p.losses {
		good = good && inside(0, 1e30, p.losses[v][:]...)
	}
	good = good && inside(0, 1e30, p.weeks[:]...) && inside(0, 1e30, p.launch.units[:]...) && inside(0, 1e30, p.launch.n[:]...) && inside(0, 1e30, p.launch.unitsA, p.launch.nA)
	for i := range p.groups {
		g := &p.groups[i]
		good = good && (i == 0 || g.group > p.groups[i-1].group) && inside(-1e6, 1e6, g.beta[:]...)
		for j := range g.cov {
			good = good && inside(-1e6, 1e6, g.cov[j][:]...)
		}
	}
	return good
}
