package churn

import (
	"errors"
	"fmt"
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
	lessons lessons
	slices  []slice // open labels, oldest first
	refits  int
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
	return &Trainer{cfg: c, setting: s, lessons: newLessons(c.Learn)}
}

// Setting returns the model as learnt up to the last snapshot.
func (t *Trainer) Setting() Setting { return t.setting }

// Fitted tells whether the shop's own history has been fitted, and not only the
// shipped parameters used.
func (t *Trainer) Fitted() bool { return t.refits > 0 }

// Gain returns by how much the running Brier score of the base exceeds that of the
// correction; the correction speaks where it is positive.
func (t *Trainer) Gain() float64 { return t.lessons.gain }

// Labels returns how many labels have been learnt, decayed and in whole windows.
func (t *Trainer) Labels() float64 { return t.lessons.learner.Labels() }

// Snapshot takes the shop as it is at an instant: closes the labels whose horizon
// is over, fits the base model to the histogram, and takes new snapshots. Customers
// are addressed by their index, which must not change.
func (t *Trainer) Snapshot(now int64, customers []Customer, g Histogram, sumLogGap float64) {
	day := days(now)
	horizon := t.setting.Policy.HorizonDays
	t.refit(day, customers, g, sumLogGap)
	if !t.cfg.Correct {
		return
	}
	for len(t.slices) > 0 && t.slices[0].day+horizon <= day {
		t.close(&t.slices[0], customers)
		t.slices[0] = slice{}
		t.slices = t.slices[1:]
	}
	t.take(now, day, customers)
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
	t.lessons.begin(day)
	rate := min(1, float64(t.cfg.Sample)/float64(ordered))
	weights := t.lessons.learner.Weights()
	sl := slice{day: day, spoken: t.Labels() > 0}
	var logits, corrected []float64
	orders := NewOrders(s.Params)
	for i := range customers {
		c := &customers[i]
		if c.first == 0 || rate < 1 && !sampled(i, int64(day), rate) {
			continue
		}
		h := c.History(now, s)
		base := logit(s.base(h))
		f := c.features(h, now, s)
		k := taken{who: i, order: c.LastOrder(), history: h, base: float32(base), spend: c.total}
		for j, v := range f {
			k.features[j] = float32(v)
		}
		if c.total > 0 && sampled(i, -int64(day), valued/float64(ordered)) {
			x, mean := c.Spend()
			k.expected = float32(s.Value.Mean(x, mean) * s.Params.PAlive(h) * orders.Expected(h, s.horizon()))
		}
		f.complete(base)
		logits = append(logits, base)
		corrected = append(corrected, base+weights.dot(&f))
		sl.taken = append(sl.taken, k)
	}
	if len(sl.taken) == 0 {
		return
	}
	// As many are said to leave as the base score says.
	anchor, mean := anchored(logits, corrected)
	for i := range sl.taken {
		sl.taken[i].said = float32(corrected[i] + anchor)
	}
	sl.mean = mean
	t.slices = append(t.slices, sl)
	ahead := t.lessons.level.Ahead(day, mean, t.cfg.Step, s.Policy.HorizonDays)
	s.Correction = t.lessons.correction(logits, corrected, ahead)
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
	said := make([]float64, n)
	features := make([]Features, n)
	logits := make([]float64, n) // of the base score with the parameters of now
	var mean Features
	for i := range sl.taken {
		k := &sl.taken[i]
		churned[i] = customers[k.who].LastOrder() <= k.order
		said[i] = float64(k.said)
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
		features[i].less(&mean)
	}
	standIn := !sl.spoken && t.Labels() > 0
	if standIn {
		// Nothing was known when it was taken: what is known now stands in, from
		// labels that closed before these.
		weights := t.lessons.learner.Weights()
		for i := range said {
			said[i] = logits[i] + weights.dot(&features[i])
		}
		anchor, _ := anchored(logits, said)
		for i := range said {
			said[i] += anchor
		}
	}
	l := lesson{day: sl.day}
	for i := range sl.taken {
		k := &sl.taken[i]
		base := float64(k.base)
		if standIn {
			base = logits[i]
		}
		l.add(base, said[i], churned[i], float64(customers[k.who].total-k.spend)/1e6, float64(k.expected))
	}
	l.mean = sl.mean * float64(n) // as it was said
	t.lessons.closed(l, t.cfg.Step, horizon)
	if v := t.lessons.valueLevel(); v > 0 {
		s.ValueLevel = v
	}

	t.lessons.forget(t.cfg.Step)
	stride(n, func(i int) { t.lessons.learner.Learn(&features[i], logits[i], churned[i], min(1, t.cfg.Step/horizon)) })
}

// Open returns the number of snapshots whose labels are open.
func (t *Trainer) Open() int {
	n := 0
	for _, s := range t.slices {
		n += len(s.taken)
	}
	return n
}
