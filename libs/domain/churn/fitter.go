package churn

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// FitterConfig says how a shop's model is learnt while it runs.
type FitterConfig struct {
	Step       float64 // days between two fits of the base model, and of a lesson
	Every      float64 // days between two corrections
	Customers  int     // in the sample at most; the sample of a greater shop is halved
	Ring       int     // openings that are kept, to say how the customers of now are
	Cells      int     // of the histogram at most; beyond, its bins are made twice as wide
	Try        float64 // labels from which the weights are tried: of fewer they are noise, and a record of noise lasts
	Noticeable float64 // mean change of a score from which a model is worth saying before a step is over
	Fit        FitConfig
	Learn      LearnConfig
}

// DefaultFitterConfig returns a sample of 20,000 customers at most, a fit a week and
// a correction a day. Ring and Cells keep a packed [Fitter] below 50 kB. Try was
// chosen among 0, 100 and 300 on validation cuts of the training parts of public
// sets: a shop of 1,500 customers gains by it, and none loses.
func DefaultFitterConfig() FitterConfig {
	return FitterConfig{
		Step: 7, Every: 1, Customers: 20_000, Ring: 400, Cells: 1200, Try: 300, Noticeable: .01, Fit: DefaultFitConfig(), Learn: DefaultLearnConfig(),
	}
}

// Validate reports every setting outside its range.
func (c FitterConfig) Validate() error {
	errs := []error{c.Fit.Validate(), c.Learn.Validate()}
	in := func(name string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) {
			errs = append(errs, fmt.Errorf("churn.fitter.%s: %g is not inside [%g, %g]", name, v, lo, hi))
		}
	}
	in("step", c.Step, 1, 366)
	in("every", c.Every, 1, c.Step)
	in("customers", float64(c.Customers), 100, 1e9)
	in("ring", float64(c.Ring), 32, 1e5)
	in("cells", float64(c.Cells), 128, 1e6)
	in("try", c.Try, 0, 1e6)
	in("noticeable", c.Noticeable, 0, 1)
	return errors.Join(errs...)
}

// Fitter learns the model of one shop from the stats of its customers' labels, one
// at a time and in any order, while the shop runs. The zero value has heard of
// nothing. It is plain data whose size is bounded ([FitterConfig]), and needs its
// caller's care when shared.
//
// It is the streaming form of [Trainer], and shares its lessons. A Trainer looks at
// all customers every week and has thirteen labels open for each; a Fitter has one
// for each, hears of it when it opens and when it closes, and forgets it. What it
// keeps of customers: a histogram of their histories, each as it was when the label
// that is open now opened; the openings heard of last; and sums of the labels that
// closed last.
type Fitter struct {
	setting Setting // what was learnt, without a policy
	lessons lessons
	means   Features // of the features of closed labels, running
	meansN  float64
	anchor  float64   // what makes as many of closed labels leave by the weights as by the base score, running
	slope   float64   // of that
	week    int       // latest step in which a label opened that has closed
	over    int       // latest whose lesson is over
	open    [2]lesson // of week, and of the one before

	cells    map[cellKey]cell // nil: none
	width    int              // halvings of the histogram's resolution
	logGaps  float64          // of all customers of the histogram
	bySample [MaxHalvings + 1]int64
	halvings int

	ring []opening
	at   int // the next place in the ring

	first, now      float64 // days of the first and the latest stat
	fitted          float64 // day of the last fit, 0: none
	fittedN         int64   // customers then
	corrected       float64 // day of the last correction
	said            Setting // as the last model that was worth saying
	saidOn          float64
	version         uint32
	fits            uint32
	labels, unknown uint64 // labels that closed, and void ones
}

// opening is what the ring keeps of one.
type opening struct {
	day      float32
	mean     float32
	snapshot Snapshot
}

const (
	// leastCustomers is below how many a shop's own history is not fitted.
	leastCustomers = 50
	// meanMemory is over how many labels the means of features run.
	meanMemory = 300
	// lastDays is how long ago the openings are that tell what the base score says of
	// all customers now, where there are at least leastOpenings of them.
	lastDays      = 14
	leastOpenings = 64
)

// Version counts the models that were worth saying.
func (f *Fitter) Version() int { return int(f.version) }

// Gain is [Trainer.Gain].
func (f *Fitter) Gain() float64 { return f.lessons.gain }

// Labels is [Trainer.Labels].
func (f *Fitter) Labels() float64 {
	if f.lessons.learner == nil {
		return 0
	}
	return f.lessons.learner.Labels()
}

// Customers returns how many have a label open, and what share of all that is.
func (f *Fitter) Customers() (n int64, share float64) {
	return f.bySample[0], math.Exp2(-float64(f.halvings))
}

// Fitted tells whether the shop's own history has been fitted.
func (f *Fitter) Fitted() bool { return f.fitted != 0 }

// Into puts what was learnt into a setting, as [Model.Into] does.
func (f *Fitter) Into(s *Setting) {
	if f.Fitted() {
		s.Params, s.Value, s.ValueLevel, s.Correction, s.Study = f.setting.Params, f.setting.Value, f.setting.ValueLevel, f.setting.Correction, f.setting.Study
	}
}

// Learn takes in a stat, and returns the model where it is worth saying: it has
// changed noticeably, the sample is to be halved, or the last one is a step old.
// The setting is that of the labels, of which the policy's horizon is read.
//
// It costs about a microsecond, a correction a millisecond, and a fit of the base
// model tens of them.
func (f *Fitter) Learn(stat Stat, c FitterConfig, s *Setting) (Model, bool) {
	day := float64(stat.At) / 86400
	if f.lessons.learner == nil {
		f.lessons = newLessons(c.Learn)
	}
	f.lessons.cfg = c.Learn
	if f.first == 0 {
		f.first, f.now = day, day
		f.setting = Setting{Params: s.Params, Value: s.Value}
		f.slope = .15
		f.lessons.begin(day)
	}
	f.lessons.level.cfg = c.Learn
	f.now = max(f.now, day)
	horizon := float64(s.horizonSeconds()) / 86400
	if e := stat.Closed; e != nil {
		f.count(&e.Snapshot, stat.Halvings, -1, c)
		if e.Void {
			f.unknown++
		} else {
			f.labels++
			f.close(e, c, s, horizon)
		}
	}
	if o := stat.Opened; o != nil {
		f.count(&o.Snapshot, stat.Halvings, 1, c)
		f.keep(opening{float32(day), o.Mean, o.Snapshot}, c)
	}
	halved := false
	for f.halvings < MaxHalvings && f.bySample[f.halvings] > int64(c.Customers) {
		f.halvings++
		halved = true
	}
	f.setting.Study.Halvings = f.halvings
	if !halved && f.now < max(f.first+c.Step, f.corrected+c.Every) {
		return Model{}, false
	}
	f.correct(c, s, horizon)
	if !halved && (!f.Fitted() || f.saidOn != 0 && f.now < f.saidOn+c.Step && f.changed(s, horizon) <= c.Noticeable) {
		return Model{}, false
	}
	f.version++
	f.said, f.saidOn = f.setting, f.now
	n, share := f.Customers()
	named := f.setting
	named.Policy = s.Policy
	return ModelOf(fmt.Sprintf("learnt-%d", f.version), named, Learnt{
		From: date(f.first), To: date(f.now), Customers: int(float64(n) / share), Labels: math.Round(f.Labels()),
	}), true
}

// close learns from a label.
func (f *Fitter) close(e *Example, c FitterConfig, s *Setting, horizon float64) {
	now := *s
	now.Params, now.Season = f.setting.Params, 0
	h := e.history()
	base := logit(now.base(h))
	features := e.features(h, s.Policy.HorizonDays, base)

	opened := float64(e.Opened) / 86400
	lesson := f.lesson(opened, c.Step, horizon)
	f.meansN = min(f.meansN+1, meanMemory)
	for i, v := range features {
		f.means[i] += (v - f.means[i]) / f.meansN
	}
	features.less(&f.means)
	// What was said when the label opened, or what is tried now where nothing was.
	was, said := float64(e.Base), float64(e.Base)
	if t := f.setting.Study.Trial; t != nil {
		tried := f.anchored(base, base+t.Weights.dot(&features))
		if e.Said == nil {
			was, said = base, tried
		}
	}
	if e.Said != nil {
		said = float64(*e.Said)
	}
	if lesson != nil {
		lesson.add(was, said, e.Churned, float64(e.Spent), float64(e.Expected))
	}
	f.lessons.learner.Learn(&features, base, e.Churned, 1)
}

// anchored adds to a corrected logit of a closed label what keeps the mean of all at
// that of the base scores. The intercept of the trial does not: it is of customers
// as they are now, and labels are of those of a horizon ago.
func (f *Fitter) anchored(base, corrected float64) float64 {
	said := corrected + f.anchor
	p := sigmoid(said)
	f.slope += (p*(1-p) - f.slope) / meanMemory
	f.anchor += (sigmoid(base) - p) / (meanMemory * max(f.slope, .02))
	f.anchor = min(max(f.anchor, -4), 4)
	return said
}

// lesson returns the one that labels of a day belong to, nil where it is over. A
// step's is over when a label has closed that opened a day into the next.
func (f *Fitter) lesson(opened, step, horizon float64) *lesson {
	over := func() {
		f.lessons.closed(f.open[1], step, horizon)
		if v := f.lessons.valueLevel(); v > 0 {
			f.setting.ValueLevel = v
		}
		f.open[1] = lesson{}
	}
	week := int(opened / step)
	begin := func(w int) lesson { return lesson{day: (float64(w) + .5) * step} }
	if f.labels == 1 {
		f.week, f.over, f.open[0] = week, week-1, begin(week)
	}
	if week > f.week {
		f.lessons.forget(step * float64(week-f.week))
		over()
		f.open[1] = f.open[0]
		if week > f.week+1 {
			over()
		}
		f.over = week - 2
		f.week, f.open[0] = week, begin(week)
	}
	if f.over < f.week-1 && opened >= float64(f.week)*step+1 {
		over()
		f.over = f.week - 1
	}
	switch week {
	case f.week:
		return &f.open[0]
	case f.week - 1:
		if f.over < week {
			return &f.open[1]
		}
	}
	return nil
}

// correct fits the base model where that is due, and finds anew what is said
// beside it.
func (f *Fitter) correct(c FitterConfig, s *Setting, horizon float64) {
	f.corrected = f.now
	if n := f.bySample[0]; n >= leastCustomers && (f.fitted == 0 || f.now >= f.fitted+c.Step || 4*n > 5*f.fittedN) {
		f.fit(c)
	}
	set := &f.setting
	logits, features, recent := f.openings(set, s, horizon)
	if len(logits) < leastOpenings/2 {
		return
	}
	weights := f.lessons.learner.Weights()
	corrected := make([]float64, len(logits))
	for i, l := range logits {
		corrected[i] = l + weights.dot(&features[i])
	}
	anchor, mean := anchored(logits, corrected)
	set.Study.Trial = nil
	if f.Labels() > c.Try {
		set.Study.Trial = &Correction{Intercept: anchor, Weights: weights}
	}
	// The openings are of the whole horizon, which is long; how far off the level is,
	// is asked of those of the last days.
	ahead := f.lessons.level.Ahead(f.now, recent, 2*c.Step, horizon)
	share := sigmoid(logit(mean) + logit(ahead) - logit(recent))
	set.Correction = f.lessons.correction(logits, corrected, share)
}

// openings returns, of the customers of the ring whose label is open, the logit of
// the base score with a model and their features, and the mean base score of those
// who opened last.
func (f *Fitter) openings(model, s *Setting, horizon float64) (logits []float64, features []Features, recent float64) {
	with := *s
	with.Params, with.Season = model.Params, 0
	n := 0.0
	for i := range f.ring {
		// Newest first.
		o := &f.ring[((f.at-1-i)%len(f.ring)+len(f.ring))%len(f.ring)]
		if float64(o.day) < f.now-horizon {
			continue
		}
		h := o.snapshot.history()
		p := with.base(h)
		base := logit(p)
		logits = append(logits, base)
		features = append(features, o.snapshot.features(h, s.Policy.HorizonDays, base))
		if n < leastOpenings || float64(o.day) >= f.now-lastDays {
			n++
			recent += (p - recent) / n
		}
	}
	return logits, features, recent
}

// changed returns by how much scores differ in the mean from what was said last.
func (f *Fitter) changed(s *Setting, horizon float64) float64 {
	now, features, _ := f.openings(&f.setting, s, horizon)
	before, old, _ := f.openings(&f.said, s, horizon)
	sum := 0.0
	for i := range now {
		a, b := now[i], before[i]
		if t := f.setting.Correction; t != nil {
			a += t.Intercept + t.Weights.dot(&features[i])
		}
		if t := f.said.Correction; t != nil {
			b += t.Intercept + t.Weights.dot(&old[i])
		}
		sum += math.Abs(sigmoid(a)-sigmoid(b)) / float64(len(now))
	}
	return sum
}

// fit keeps the last good fit where there is none.
func (f *Fitter) fit(c FitterConfig) {
	if f.fits%coldFit == 0 {
		f.fitValue()
	}
	with := c.Fit
	if f.fits%coldFit != 0 {
		with.Warm = f.setting.Params
	}
	f.fits++
	if p, _, err := Fit(f.histogram(), f.logGaps, with); err == nil {
		f.setting.Params = p
		f.fitted, f.fittedN = f.now, f.bySample[0]
	}
}

// fitValue fits spend to the openings of the ring.
func (f *Fitter) fitValue() {
	var spends []Spend
	for _, o := range f.ring {
		if o.snapshot.X > 0 && o.mean > 0 {
			spends = append(spends, Spend{X: int(o.snapshot.X), Mean: float64(o.mean), N: 1})
		}
	}
	if len(spends) < leastSpends {
		return
	}
	if v, err := FitValue(spends); err == nil && v.Validate() == nil {
		f.setting.Value = v
	}
}

// keep puts an opening into the ring, in place of the oldest one.
func (f *Fitter) keep(o opening, c FitterConfig) {
	if len(f.ring) < c.Ring && f.at == len(f.ring) {
		f.ring = append(f.ring, o)
		f.at = len(f.ring) % c.Ring
		return
	}
	f.at %= len(f.ring) // a longer ring may have been configured
	f.ring[f.at] = o
	f.at = (f.at + 1) % len(f.ring)
}

// cellKey is a bin of the histogram of histories: repeat orders, exact below 8,
// and the steps of 1/8 of an octave of recency and age, beyond a week, made wider
// as often as the histogram had too many cells.
type cellKey struct{ x, recency, age uint8 }

// cell holds sums, in whole hours: they can be taken back, and their means are
// better than the middle of a bin.
type cell struct{ n, x, recency, age int64 }

// maxWidth is how often bins are made wider: one covers eight octaves then.
const maxWidth = 6

// binsPerOctave before the histogram is made coarser.
const binsPerOctave = 8

// bin returns a snapshot's bin.
func (p *Snapshot) bin(width int) (cellKey, cell) {
	octaves := func(hours uint32) uint8 { return uint8(int(binsPerOctave*math.Log2(1+float64(hours)/(7*24))) >> width) }
	recency, age := p.Recency/3600, max(p.Age, p.Recency)/3600
	x := p.X
	if x >= 8 {
		x = uint16(8 + int(4*math.Log2(float64(x)/8))>>max(0, width-2))
	}
	return cellKey{uint8(x), octaves(recency), octaves(age)}, cell{1, int64(p.X), int64(recency), int64(age)}
}

// count puts a customer's history into the histogram, or takes it back.
func (f *Fitter) count(p *Snapshot, halvings int, sign int64, c FitterConfig) {
	for i := range min(halvings, MaxHalvings) + 1 {
		f.bySample[i] += sign
	}
	f.logGaps += float64(sign) * float64(p.LogGaps)
	if f.bySample[0] == 0 {
		f.logGaps = 0 // and not what rounding left
	}
	if f.cells == nil {
		f.cells = map[cellKey]cell{}
	}
	key, one := p.bin(f.width)
	f.add(key, one, sign)
	for len(f.cells) > c.Cells && f.width < maxWidth {
		f.widen()
	}
}

func (f *Fitter) add(key cellKey, by cell, sign int64) {
	v := f.cells[key]
	v = cell{v.n + sign*by.n, v.x + sign*by.x, v.recency + sign*by.recency, v.age + sign*by.age}
	if v == (cell{}) {
		delete(f.cells, key)
		return
	}
	f.cells[key] = v
}

// widen makes bins twice as wide in recency and age, and many orders' too.
func (f *Fitter) widen() {
	f.width++
	fine := f.cells
	f.cells = make(map[cellKey]cell, len(fine))
	for k, v := range fine {
		if k.x >= 8 && f.width > 2 {
			k.x = 8 + (k.x-8)>>1
		}
		f.add(cellKey{k.x, k.recency >> 1, k.age >> 1}, v, 1)
	}
}

// keys are those of the histogram in order.
func (f *Fitter) keys() []cellKey {
	keys := make([]cellKey, 0, len(f.cells))
	for k := range f.cells {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b cellKey) int {
		return cmp.Or(cmp.Compare(a.x, b.x), cmp.Compare(a.recency, b.recency), cmp.Compare(a.age, b.age))
	})
	return keys
}

// histogram returns the cells for [Fit].
func (f *Fitter) histogram() []Cell {
	var cells []Cell
	for _, k := range f.keys() {
		v := f.cells[k]
		if v.n <= 0 || v.x < 0 || v.recency < 0 || v.age < v.recency {
			continue // a customer who left it was never in it
		}
		n := float64(v.n)
		cells = append(cells, Cell{History{int(math.Round(float64(v.x) / n)), float64(v.recency) / n / 24, float64(v.age) / n / 24}, n})
	}
	return cells
}

// date of a day since 1970.
func date(day float64) string { return time.Unix(int64(day*86400), 0).UTC().Format(time.DateOnly) }
