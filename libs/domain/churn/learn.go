package churn

import (
	"errors"
	"fmt"
	"math"
)

// LearnConfig says how a correction is learnt.
type LearnConfig struct {
	// Deviation is the standard deviation of the normal prior of each weight, whose
	// mean is zero: a shop without labels has the base score.
	Deviation float64
	// HalfLife is the days after which a label weighs half.
	HalfLife float64
	// Persistence is the share of the base score's last error of level that is
	// expected again until a shop's own record says more, in [0, 1].
	Persistence float64
	// Annual is the share expected again of the error of a year ago, in [0, 1].
	Annual float64
	// Shift bounds how far the level may be moved, in log-odds.
	Shift float64
}

// DefaultLearnConfig returns what did best, or nearly, in all of eleven validation
// cuts of the training parts of three public sets. The figures hardly depend on
// any of them: halving or doubling one moves Brier by a tenth of the gain.
func DefaultLearnConfig() LearnConfig {
	return LearnConfig{Deviation: .3, HalfLife: 180, Persistence: .3, Annual: .5, Shift: .3}
}

// Validate reports every setting outside its range.
func (c LearnConfig) Validate() error {
	var errs []error
	in := func(name string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) {
			errs = append(errs, fmt.Errorf("churn.learn.%s: %g is not inside [%g, %g]", name, v, lo, hi))
		}
	}
	in("deviation", c.Deviation, .001, 10)
	in("half-life", c.HalfLife, 1, 36500)
	in("persistence", c.Persistence, 0, 1)
	in("annual", c.Annual, 0, 1)
	in("shift", c.Shift, 0, 5)
	return errors.Join(errs...)
}

// dim is the intercept and the features.
const dim = NumFeatures + 1

// Learner learns the weights of a [Correction] one label at a time: logistic
// regression with the logit of the base score as offset, a normal prior, and the
// posterior kept normal by one step of the extended Kalman filter a label
// (Fahrmeir, JASA 1992). An update costs 2 dim^2 multiplications and no memory.
//
// What is learnt is who is riskier than who, and not how risky all are together:
// features are taken from their mean of the day, and the intercept is a nuisance
// that each day of labels finds anew. A season moves all customers at once, and a
// level learnt in one season is wrong in the next; see [Level] for that.
type Learner struct {
	prior float64 // variance
	mean  [dim]float64
	cov   [dim][dim]float64
	n     float64 // labels, weighted
}

// nuisance is the prior deviation of the intercept of a day.
const nuisance = 1

// NewLearner returns one that knows nothing.
func NewLearner(c LearnConfig) *Learner {
	l := &Learner{prior: c.Deviation * c.Deviation}
	for i := range dim {
		l.cov[i][i] = l.prior
	}
	return l
}

// Forget lets what was learnt weigh the given share, in (0, 1], and begins a day
// of labels.
func (l *Learner) Forget(share float64) {
	var scale [dim]float64
	for i := range dim {
		scale[i] = 1 / math.Sqrt(share)
		// Never less certain than the prior.
		if v := l.cov[i][i] / share; v > l.prior {
			scale[i] *= math.Sqrt(l.prior / v)
		}
	}
	for i := range dim {
		for j := range dim {
			l.cov[i][j] *= scale[i] * scale[j]
		}
	}
	for j := range dim {
		l.cov[0][j], l.cov[j][0] = 0, 0
	}
	l.cov[0][0] = nuisance * nuisance
	l.n *= share
}

// Learn learns from a customer whose label has closed: features less their mean,
// the logit of the base score, whether he ordered nothing, and what the label
// weighs, at most 1. Labels of overlapping windows should weigh together what one
// of them would.
func (l *Learner) Learn(f *Features, base float64, churned bool, weight float64) {
	var g [dim]float64 // covariance times features
	eta := base + l.mean[0]
	for i := range dim {
		row := &l.cov[i]
		v := row[0]
		for j := range f {
			v += row[j+1] * f[j]
		}
		g[i] = v
	}
	spread := g[0]
	for j := range f {
		spread += g[j+1] * f[j]
		eta += l.mean[j+1] * f[j]
	}
	p := sigmoid(eta)
	curve := weight * p * (1 - p)
	gain := 1 / (1 + curve*spread)
	y := 0.0
	if churned {
		y = 1
	}
	step := gain * weight * (y - p)
	shrink := gain * curve
	if math.IsNaN(step) || math.IsNaN(shrink) {
		return
	}
	for i := range dim {
		l.mean[i] += step * g[i]
		row := &l.cov[i]
		d := shrink * g[i]
		for j := range dim {
			row[j] -= d * g[j]
		}
	}
	l.n += weight
}

// Weights returns the weights as they are.
func (l *Learner) Weights() Features { return Features(l.mean[1:]) }

// Labels returns the weight of what was learnt, decayed.
func (l *Learner) Labels() float64 { return l.n }

// Level foretells how far the base score of all customers together will be off,
// in log-odds, from how far it was: Persistence of the last closed error, and
// Annual of that of a year before the horizon, both adjusted to what the shop's
// own record shows, which is regression through the origin with a prior of two
// horizons' weight.
type Level struct {
	cfg   LearnConfig
	errs  []levelError // by day
	first float64      // day of the first customer
	last  moment
	year  moment
}

type levelError struct{ day, err float64 }

// moment is a sum with a half-life.
type moment struct{ xx, xy float64 }

const (
	levelDeviation = .2 // usual error of a level
	levelPrior     = 2  // horizons
	yearDays       = 364
	// yearBefore is how much history the base score must have had a year ago.
	yearBefore = 180
)

// NewLevel returns one for a shop whose first customer came on a day.
func NewLevel(c LearnConfig, first float64) *Level { return &Level{cfg: c, first: first} }

// Closed adds the error of the base scores of a day, as they were said on it.
// Days come in order, step days apart; the horizon is that of the labels.
func (l *Level) Closed(day, err, step, horizon float64) {
	if math.IsNaN(err) || day-l.first < horizon {
		return // a base score of the first days is a guess, and so is its error
	}
	w := min(1, step/horizon)
	keep := math.Exp2(-step / (4 * l.cfg.HalfLife))
	for i, lag := range []float64{horizon, yearDays} {
		sum := &l.last
		if i == 1 {
			sum = &l.year
		}
		sum.xx, sum.xy = sum.xx*keep, sum.xy*keep
		if before, ok := l.at(day-lag, step); ok && (i == 0 || day-lag-l.first >= yearBefore) {
			sum.xx += w * before * before
			sum.xy += w * before * err
		}
	}
	l.errs = append(l.errs, levelError{day, min(max(err, -2), 2)})
	if n := len(l.errs); n > 400 {
		l.errs = append(l.errs[:0], l.errs[n-300:]...)
	}
}

// at returns the last error of a day or of the step before it.
func (l *Level) at(day, step float64) (float64, bool) {
	for i := len(l.errs) - 1; i >= 0; i-- {
		if d := day - l.errs[i].day; d >= -.5 {
			return l.errs[i].err, d < 1.5*step
		}
	}
	return 0, false
}

// slope is the share of an error that comes again.
func slope(prior float64, m moment) float64 {
	const v = levelPrior * levelDeviation * levelDeviation
	return min(max((prior*v+m.xy)/(v+m.xx), 0), 1)
}

// Ahead returns the error to expect of base scores of a day, within +-Shift.
func (l *Level) Ahead(day, step, horizon float64) float64 {
	shift := 0.0
	if err, ok := l.at(day-horizon, step); ok {
		shift = slope(l.cfg.Persistence, l.last) * err
	}
	if err, ok := l.at(day-yearDays, step); ok && day-yearDays-l.first >= yearBefore {
		share := slope(l.cfg.Annual, l.year)
		shift = (1-share)*shift + share*err
	}
	return min(max(shift, -l.cfg.Shift), l.cfg.Shift)
}

// shiftTo returns what is to be added to logits so that their probabilities sum
// to a total, by Newton's method within +-8.
func shiftTo(logits []float64, total float64) float64 {
	n := float64(len(logits))
	total = min(max(total, .25), n-.25) // of none or all there is no finite shift
	if n < 1 {
		return 0
	}
	low, high, shift := -8.0, 8.0, 0.0
	for range 60 {
		var sum, slope float64
		for _, l := range logits {
			p := sigmoid(l + shift)
			sum += p
			slope += p * (1 - p)
		}
		if sum < total {
			low = shift
		} else {
			high = shift
		}
		next := shift + (total-sum)/slope
		if !(next > low && next < high) {
			next = (low + high) / 2
		}
		if math.Abs(next-shift) < 1e-12 {
			break
		}
		shift = next
	}
	return shift
}
