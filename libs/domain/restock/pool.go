package restock

import "math"

// Layer is what the products of a shop share: how demand depends on the calendar,
// how forecasts turned out, which experts did well, what new products sell. It is
// made by [Pool.Layer], is only read, and may be shared between goroutines. A nil
// Layer is neutral: one day is like the other, forecasts stand as they are, and the
// policy says what a new product sells.
type Layer struct {
	calendar calendar
	warps    *warps
	losses   [volumes][experts]float64
	launches launches
	effects  map[uint16]*effects
}

// Stat is what a product tells of itself, for a [Pool] to learn from. Stats are
// additive and may come in any order within a day; a product that sleeps tells its
// own when it is brought up to date.
type Stat struct {
	Kind StatKind
	Day  Day // the day that was closed

	Units float64 // of a day: sold, in days with sales as they usually are; of a launch: units a day
	Band  int     // of a launch: the price band

	Horizon   int     // of a check: 0 a week, 1 four weeks
	Class     int     // of a check: the kind of the forecast; of a week: the volume
	Low, High float64 // of a check: P(D < y) and P(D <= y)

	Losses [experts]float64 // of a week

	Group    uint16         // of an offer
	Features [terms]float64 // of an offer
	Effect   float64        // of an offer: logarithm of the demand over what is expected without it
	Noise    float64        // and its variance
}

// StatKind says what a [Stat] is about.
type StatKind uint8

// Kinds of stat.
const (
	StatDay    StatKind = iota + 1 // a day with sales was closed
	StatWeek                       // a week was, and charged the experts
	StatCheck                      // a forecast met its outcome
	StatLaunch                     // a product is four weeks old
	StatOffer                      // a period under a known offer is over
)

// Pool learns a [Layer] from what products tell of themselves. It is plain data,
// grows by eight bytes a day, and needs its caller's care when shared.
type Pool struct {
	period  float64
	first   Day
	begun   bool
	totals  []float64
	pits    [horizons][kinds]pit
	losses  [volumes][experts]float64
	weeks   [volumes]float64
	launch  launchSums
	effects map[uint16]*effects
}

// NewPool returns a pool that knows nothing. Period is the length of a day of the
// products' in days: 1, but where history was summed up before it came.
func NewPool(period float64) *Pool { return &Pool{period: period, effects: map[uint16]*effects{}} }

// Add takes what a product tells.
func (p *Pool) Add(s Stat) {
	switch s.Kind {
	case StatDay:
		if !p.begun {
			p.begun, p.first = true, s.Day
		}
		i := int(s.Day - p.first)
		if i < 0 || i > 1<<20 {
			return
		}
		for len(p.totals) <= i {
			p.totals = append(p.totals, 0)
		}
		p.totals[i] += s.Units
	case StatWeek:
		for k, l := range s.Losses {
			p.losses[s.Class][k] = p.losses[s.Class][k]*lossPooled + l
		}
		p.weeks[s.Class] = p.weeks[s.Class]*lossPooled + 1
	case StatCheck:
		p.pits[s.Horizon][s.Class].add(s.Low, s.High)
	case StatLaunch:
		p.launch.add(s.Band, s.Units)
	case StatOffer:
		e := p.effects[s.Group]
		if e == nil {
			e = newEffects()
			p.effects[s.Group] = e
		}
		e.learn(s.Features, s.Effect, s.Noise)
	}
}

// lossPooled is the discount of the pooled losses of the experts, a product's week.
const lossPooled = .9995

// Layer returns what was learnt from the days before the given one.
func (p *Pool) Layer(now Day) *Layer {
	l := &Layer{}
	if p.begun {
		for len(p.totals) < int(now-p.first) && len(p.totals) < 1<<20 {
			p.totals = append(p.totals, 0)
		}
		l.calendar = fitCalendar(p.first, p.totals, p.period, kept(p.period))
	}
	l.warps = newWarps(&p.pits)
	for v := range l.losses {
		for k := range l.losses[v] {
			l.losses[v][k] = p.losses[v][k] / max(p.weeks[v], 1)
		}
	}
	l.launches = p.launch.rates()
	l.effects = make(map[uint16]*effects, len(p.effects))
	for g, e := range p.effects {
		c := *e
		l.effects[g] = &c
	}
	return l
}

// bands of prices: eight to an order of magnitude... from cents to ten thousands.
const bands = 12

// band of a price in units of money; 0 where it is not known.
func band(price float64) int {
	if !(price > 0) {
		return 0
	}
	return 1 + min(max(int(math.Floor(math.Log2(price)+3)), 0), bands-2)
}

// launches are the rates a day of new products by price band.
type launches struct {
	rate [bands]float64
	sure float64 // 0: nothing was launched yet
}

type launchSums struct {
	units, n   [bands]float64
	unitsA, nA float64
}

const launchKept = .998

func (s *launchSums) add(band int, rate float64) {
	s.units[band] = s.units[band]*launchKept + rate
	s.n[band] = s.n[band]*launchKept + 1
	s.unitsA = s.unitsA*launchKept + rate
	s.nA = s.nA*launchKept + 1
}

func (s *launchSums) rates() launches {
	var l launches
	l.sure = s.nA
	if s.nA == 0 {
		return l
	}
	mean := s.unitsA / s.nA
	for b := range l.rate {
		l.rate[b] = (s.units[b] + 10*mean) / (s.n[b] + 10)
	}
	return l
}
