package churn

import "math"

// lessons is what a shop's closed labels have taught, in whichever way they come:
// all customers of a day at once to a [Trainer], or one at a time to a [Fitter].
type lessons struct {
	cfg     LearnConfig
	learner *Learner
	level   *Level
	gain    float64    // decayed Brier score of the base less that of the correction
	spent   [2]float64 // decayed logarithms of spend by what was foretold of it, and their weight
	trust   [2]float64 // decayed products of what the correction changed with what was wrong, and with itself
}

func newLessons(c LearnConfig) lessons { return lessons{cfg: c, learner: NewLearner(c)} }

// begin notes the day of the first customers.
func (t *lessons) begin(day float64) {
	if t.level == nil {
		t.level = NewLevel(t.cfg, day)
	}
}

// lesson sums the labels of a day, or of a few, that have closed.
type lesson struct {
	day              float64 // on which they opened
	n, gone          float64
	mean             float64 // sum of the base scores as they were said
	gain, num, den   float64 // sums of what [lessons] decays
	foretold, earned float64 // spend of the customers who were asked for it
}

// add counts a label: the logits of the base and of the corrected score as they
// were said, whether the customer left, and his spend beside what was foretold
// of it; 0: he was not asked.
func (l *lesson) add(base, said float64, churned bool, spent, foretold float64) {
	y := 0.0
	if churned {
		y = 1
	}
	p0, p1 := sigmoid(base), sigmoid(said)
	a, b := p0-y, p1-y
	l.n++
	l.gone += y
	l.mean += p0
	l.gain += a*a - b*b
	l.num += (y - p0) * (p1 - p0)
	l.den += (p1 - p0) * (p1 - p0)
	if foretold > 0 {
		l.foretold += foretold
		l.earned += spent
	}
}

// closed takes in the labels of a day, step days after those before.
func (t *lessons) closed(l lesson, step, horizon float64) {
	if l.n == 0 {
		return
	}
	keep := t.keep(step)
	t.gain = t.gain*keep + l.gain/l.n
	t.trust[0], t.trust[1] = t.trust[0]*keep+l.num/l.n, t.trust[1]*keep+l.den/l.n
	t.begin(l.day)
	t.level.Closed(l.day, l.mean/l.n, l.gone/l.n, step, horizon)
	if l.earned > 0 && l.foretold > 0 {
		weight := min(1, step/horizon)
		t.spent[0] = t.spent[0]*keep + weight*math.Log(l.earned/l.foretold)
		t.spent[1] = t.spent[1]*keep + weight
	}
}

// keep is what is left of a label's weight after some days.
func (t *lessons) keep(days float64) float64 { return math.Exp2(-days / t.cfg.HalfLife) }

// forget lets days pass between two days of labels.
func (t *lessons) forget(days float64) { t.learner.Forget(t.keep(days)) }

// valueLevel is what expected spend is to be multiplied with, 1 by a prior of one
// horizon; 0: nothing is known.
func (t *lessons) valueLevel() float64 {
	if t.spent[1] == 0 {
		return 0
	}
	return min(max(math.Exp(t.spent[0]/(t.spent[1]+1)), .25), 4)
}

// correction returns what the lessons say beside the base score, for customers as
// they are now: the logits of their base scores and those with the weights in full,
// which are overwritten, and the share expected to leave. The weights speak only
// where they have gained, and as much as the record says.
func (t *lessons) correction(logits, corrected []float64, share float64) *Correction {
	total := float64(len(logits)) * share
	if t.gain > 0 {
		much := min(1, max(0, (t.trust[0]+t.cfg.Trust)/(t.trust[1]+t.cfg.Trust)))
		weights := t.learner.Weights()
		for i, l := range logits {
			corrected[i] = l + much*(corrected[i]-l)
		}
		for i := range weights {
			weights[i] *= much
		}
		return &Correction{Intercept: shiftTo(corrected, total), Weights: weights}
	}
	if shift := shiftTo(logits, total); math.Abs(shift) > 1e-9 {
		return &Correction{Intercept: shift}
	}
	return nil
}

// anchored returns what is to be added to corrected logits so that as many leave by
// them as by the base score, and the mean of that.
func anchored(logits, corrected []float64) (shift, mean float64) {
	for _, l := range logits {
		mean += sigmoid(l)
	}
	return shiftTo(corrected, mean), mean / float64(len(logits))
}
