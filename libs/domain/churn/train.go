package churn

import (
	"errors"
	"fmt"
	"math"
)

// TrainConfig says how a shop's model is learnt from its customers' lives.
type TrainConfig struct {
	Step    float64 // days between two snapshots of the shop
	Sample  int     // customers in a snapshot at most; a greater shop is sampled
	Fit     FitConfig
	Learn   LearnConfig
	Correct bool // learn a correction; false: the base model only
}

// DefaultTrainConfig returns a snapshot a week of at most 10,000 customers.
func DefaultTrainConfig() TrainConfig {
	return TrainConfig{Step: 7, Sample: 10_000, Fit: DefaultFitConfig(), Learn: DefaultLearnConfig(), Correct: true}
}

// Validate reports every setting outside its range.
func (c TrainConfig) Validate() error {
	errs := []error{c.Fit.Validate(), c.Learn.Validate()}
	if !(c.Step >= 1 && c.Step <= 366) {
		errs = append(errs, fmt.Errorf("churn.train.step: %g is not inside [1, 366]", c.Step))
	}
	if c.Sample < 100 || c.Sample > 1e6 {
		errs = append(errs, fmt.Errorf("churn.train.sample: %d is not inside [100, 1000000]", c.Sample))
	}
	return errors.Join(errs...)
}

// Trainer learns the model of one shop from the lives of its customers, in time
// order. At every step of days its caller calls [Trainer.Snapshot] with the
// customers as they are; a label closes when its horizon is over, and not when
// the customer orders: learning early from returns would bias all scores down.
//
// Its memory is Sample snapshots for each step of the horizon, and the histogram.
// It is plain data, and needs its caller's care when shared.
type Trainer struct {
	cfg     TrainConfig
	setting Setting
	learner *Learner
	level   *Level
	slices  []slice    // open labels, oldest first
	gain    float64    // decayed Brier score of the base less that of the correction
	spent   [2]float64 // decayed logarithms of spend by what was foretold of it, and their weight
	trust   [2]float64 // decayed products of what the correction changed with what was wrong, and with itself
	refits  int
	last    float64 // day of the last snapshot
}

// slice is a snapshot of the shop on a day.
type slice struct {
	day    float64
	mean   float64 // of the base scores as they were said
	spoken bool    // the correction had weights when it was taken
	taken  []taken
}

// taken is what a label needs of a customer on the day of the snapshot.
type taken struct {
	who      int
	order    int64 // last order
	history  History
	features [NumFeatures]float32 // without those that follow from the base score
	base     float32              // logit of the base score as it was said
	said     float32              // of the corrected score
	spend    int64
	expected float32 // of spend in the horizon
}

// NewTrainer returns a trainer that begins with a setting and keeps its policy,
// location and value.
func NewTrainer(c TrainConfig, s Setting) *Trainer {
	s.Correction, s.Season = nil, 0
	return &Trainer{cfg: c, setting: s, learner: NewLearner(c.Learn)}
}

// Setting returns the model as learnt up to the last snapshot.
func (t *Trainer) Setting() Setting { return t.setting }

// Fitted tells whether the shop's own history has been fitted, and not only the
// shipped parameters used.
func (t *Trainer) Fitted() bool { return t.refits > 0 }

// Gain returns by how much the running Brier score of the base exceeds that of the
// correction; the correction speaks where it is positive.
func (t *Trainer) Gain() float64 { return t.gain }

// Labels returns how many labels have been learnt, decayed and in whole windows.
func (t *Trainer) Labels() float64 { return t.learner.Labels() }

// Snapshot takes the shop as it is at an instant: closes the labels whose horizon
// is over, fits the base model to the histogram, and takes new snapshots. Customers
// are addressed by their index, which must not change.
func (t *Trainer) Snapshot(now int64, customers []Customer, g Histogram, sumLogGap float64) {
	day := days(now)
	horizon := t.setting.Policy.HorizonDays
	t.refit(day, customers, g, sumLogGap)
	if !t.cfg.Correct {
		t.last = day
		return
	}
	for len(t.slices) > 0 && t.slices[0].day+horizon <= day {
		t.close(&t.slices[0], customers)
		t.slices[0] = slice{}
		t.slices = t.slices[1:]
	}
	t.take(now, day, customers)
	t.last = day
}

// coldFit is after how many fits one starts again from all starts, lest it stays at
// a maximum that is none any more.
const coldFit = 13

// refit keeps the last good fit where there is none.
func (t *Trainer) refit(day float64, customers []Customer, g Histogram, sumLogGap float64) {
	if t.refits%coldFit == 0 {
		t.refitValue(customers)
	}
	cells := g.Cells(day)
	c := t.cfg.Fit
	if t.refits%coldFit != 0 {
		c.Warm = t.setting.Params
	}
	if p, _, err := Fit(cells, sumLogGap, c); err == nil {
		t.setting.Params = p
		t.refits++
	}
}

// refitValue fits the value model to at most Sample customers. What weights were
// learnt about spend stays true: it is spend beside other customers of the day.
func (t *Trainer) refitValue(customers []Customer) {
	var spends []Spend
	stride(len(customers), func(i int) {
		if x, mean := customers[i].Spend(); x > 0 && mean > 0 && len(spends) < t.cfg.Sample {
			spends = append(spends, Spend{X: x, Mean: mean, N: 1})
		}
	})
	if len(spends) < leastSpends {
		return
	}
	if v, err := FitValue(spends); err == nil && v.Validate() == nil {
		t.setting.Value = v
	}
}

// leastSpends is how many repeat customers say more of a shop's spend than the
// shipped model does.
const leastSpends = 30

// stride visits all of n in an order that has nothing to do with theirs.
func stride(n int, visit func(i int)) {
	if n == 0 {
		return
	}
	step := int(float64(n)*.6180339887) | 1
	for gcd(step, n) != 1 {
		step += 2
	}
	for i, at := 0, 0; i < n; i++ {
		visit(at)
		at = (at + step) % n
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// valued is how many customers of a snapshot are asked for their spend: the level
// of all needs no more, and each costs more than its score.
const valued = 500

// take takes a snapshot, and sets the correction to what is known on its day.
func (t *Trainer) take(now int64, day float64, customers []Customer) {
	s := &t.setting
	ordered := 0
	for i := range customers {
		if customers[i].first != 0 {
			ordered++
		}
	}
	if ordered == 0 {
		return
	}
	if t.level == nil {
		t.level = NewLevel(t.cfg.Learn, day)
	}
	rate := min(1, float64(t.cfg.Sample)/float64(ordered))
	weights := t.learner.Weights()
	sl := slice{day: day, spoken: t.learner.Labels() > 0}
	var logits, corrected []float64
	var total float64
	orders := NewOrders(s.Params)
	for i := range customers {
		c := &customers[i]
		if c.first == 0 || rate < 1 && !sampled(i, int64(day), rate) {
			continue
		}
		h := c.History(now, s)
		base := s.base(h)
		f := c.features(h, now, s)
		k := taken{who: i, order: c.LastOrder(), history: h, base: float32(logit(base)), spend: c.total}
		for j, v := range f {
			k.features[j] = float32(v)
		}
		if c.total > 0 && sampled(i, -int64(day), valued/float64(ordered)) {
			x, mean := c.Spend()
			k.expected = float32(s.Value.Mean(x, mean) * s.Params.PAlive(h) * orders.Expected(h, s.horizon()))
		}
		f.complete(logit(base))
		logits = append(logits, logit(base))
		corrected = append(corrected, logit(base)+weights.dot(&f))
		total += base
		sl.taken = append(sl.taken, k)
	}
	// As many are said to leave as the base score says.
	anchor := shiftTo(corrected, total)
	for i := range sl.taken {
		sl.taken[i].said = float32(corrected[i] + anchor)
	}
	if n := len(sl.taken); n > 0 {
		sl.mean = total / float64(n)
		t.slices = append(t.slices, sl)
	}
	if n := float64(len(logits)); n > 0 {
		total = n * t.level.Ahead(day, total/n, t.cfg.Step, s.Policy.HorizonDays)
	}
	if t.gain > 0 {
		much := min(1, max(0, (t.trust[0]+t.cfg.Learn.Trust)/(t.trust[1]+t.cfg.Learn.Trust)))
		for i, l := range logits {
			corrected[i] = l + much*(corrected[i]-l)
		}
		for i := range weights {
			weights[i] *= much
		}
		s.Correction = &Correction{Intercept: shiftTo(corrected, total), Weights: weights}
		return
	}
	s.Correction = nil
	if shift := shiftTo(logits, total); math.Abs(shift) > 1e-9 {
		s.Correction = &Correction{Intercept: shift}
	}
}

// sampled chooses customers by a hash of who and when.
func sampled(who int, day int64, rate float64) bool {
	z := uint64(who)*0x9e3779b97f4a7c15 + uint64(day)*0xd1342543de82ef95
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11)/(1<<53) < rate
}

// close learns from the labels of a snapshot whose horizon is over.
func (t *Trainer) close(sl *slice, customers []Customer) {
	s := &t.setting
	horizon := s.Policy.HorizonDays
	n := len(sl.taken)
	churned := make([]bool, n)
	base, said := make([]float64, n), make([]float64, n)
	features := make([]Features, n)
	logits := make([]float64, n) // of the base score with the parameters of now
	var mean Features
	var gone, foretold, spent float64
	for i := range sl.taken {
		k := &sl.taken[i]
		c := &customers[k.who]
		churned[i] = c.LastOrder() <= k.order
		if churned[i] {
			gone++
		}
		if k.expected > 0 {
			spent += float64(c.total-k.spend) / 1e6
			foretold += float64(k.expected)
		}
		base[i], said[i] = float64(k.base), float64(k.said)
		logits[i] = logit(s.base(k.history))
		f := &features[i]
		for j, v := range k.features {
			f[j] = float64(v)
		}
		f.complete(logits[i])
		for j, v := range f {
			mean[j] += v / float64(n)
		}
	}
	for i := range features {
		for j := range mean {
			features[i][j] -= mean[j]
		}
	}
	weights := t.learner.Weights()
	if !sl.spoken && t.learner.Labels() > 0 {
		// Nothing was known when it was taken: what is known now stands in, from
		// labels that closed before these.
		var total float64
		for i := range said {
			said[i] = logits[i] + weights.dot(&features[i])
			base[i] = logits[i]
			total += sigmoid(logits[i])
		}
		anchor := shiftTo(said, total)
		for i := range said {
			said[i] += anchor
		}
	}
	var gain, num, den float64
	for i := range said {
		y := 0.0
		if churned[i] {
			y = 1
		}
		p0, p1 := sigmoid(base[i]), sigmoid(said[i])
		a, b := p0-y, p1-y
		gain += (a*a - b*b) / float64(n)
		num += (y - p0) * (p1 - p0) / float64(n)
		den += (p1 - p0) * (p1 - p0) / float64(n)
	}
	keep := math.Exp2(-t.cfg.Step / t.cfg.Learn.HalfLife)
	t.gain = t.gain*keep + gain
	t.trust[0], t.trust[1] = t.trust[0]*keep+num, t.trust[1]*keep+den
	t.level.Closed(sl.day, sl.mean, gone/float64(n), t.cfg.Step, horizon)

	weight := min(1, t.cfg.Step/horizon)
	if spent > 0 && foretold > 0 {
		t.spent[0] = t.spent[0]*keep + weight*math.Log(spent/foretold)
		t.spent[1] = t.spent[1]*keep + weight
		s.ValueLevel = min(max(math.Exp(t.spent[0]/(t.spent[1]+1)), .25), 4) // 1 by a prior of one horizon
	}

	t.learner.Forget(keep)
	stride(n, func(i int) { t.learner.Learn(&features[i], logits[i], churned[i], weight) })
}

// Open returns the number of snapshots whose labels are open.
func (t *Trainer) Open() int {
	n := 0
	for _, s := range t.slices {
		n += len(s.taken)
	}
	return n
}
