package churn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Study says who is learnt from, and what is tried on them. It decides nothing.
type Study struct {
	// Halvings of the sample: 0 takes every customer, and each one takes half.
	Halvings int
	// Trial is the correction in full, its intercept such that as many leave by it as
	// by the base score; it is noted before it is known whether it may speak. nil: none.
	Trial *Correction
}

// Validate reports every mistake.
func (s Study) Validate() error {
	var errs []error
	if s.Halvings < 0 || s.Halvings > MaxHalvings {
		errs = append(errs, fmt.Errorf("churn.study.halvings: %d is not inside [0, %d]", s.Halvings, MaxHalvings))
	}
	if s.Trial != nil {
		errs = append(errs, s.Trial.Validate())
	}
	return errors.Join(errs...)
}

// MaxHalvings is how often the sample is halved at most.
const MaxHalvings = 32

// Halvings returns up to how many halvings of the sample a customer of a hash is
// learnt from.
func Halvings(draw uint64) int { return bits.LeadingZeros32(uint32(draw >> 32)) }

// noted is how many features are kept of a customer who is learnt from: those that
// follow neither from the history nor from the base score.
const noted = featSpend - featLastGap + 1 + NumFeatures - featWeek

// notedUnit makes a feature, which is inside +-4, a 16-bit number.
const notedUnit = 8000

// Snapshot is what learning reads of a customer at one moment.
type Snapshot struct {
	X       uint16
	Recency uint32 // observed seconds
	Age     uint32
	LogGaps float32
	Noted   [noted]int16 // features in 8000ths
}

// snapshot takes one of a customer who has ordered.
func (c *Customer) snapshot(h History, f *Features) Snapshot {
	sec := func(days float64) uint32 { return uint32(min(max(days*86400, 0), math.MaxUint32)) }
	p := Snapshot{X: uint16(min(h.X, math.MaxUint16)), Recency: sec(h.Recency), Age: sec(h.Age), LogGaps: float32(c.logGaps)}
	for i := range p.Noted {
		p.Noted[i] = int16(math.Round(min(max(f[p.feature(i)], -4), 4) * notedUnit))
	}
	return p
}

// feature is the one that is noted in a place.
func (*Snapshot) feature(i int) int {
	if i += featLastGap; i > featSpend {
		i += featWeek - featSpend - 1
	}
	return i
}

// history is what the base model reads.
func (p *Snapshot) history() History {
	return History{int(p.X), float64(p.Recency) / 86400, float64(max(p.Age, p.Recency)) / 86400}
}

// features returns all, for the logit of a base score.
func (p *Snapshot) features(h History, horizon, base float64) Features {
	f := h.features(horizon)
	for i, v := range p.Noted {
		f[p.feature(i)] = float64(v) / notedUnit
	}
	f.complete(base)
	return f
}

// Opening is a customer of the sample whose label opens.
type Opening struct {
	Snapshot
	Base float32 // logit of the base score as it is said
	Mean float32 // spend of a repeat order
}

// Example is a label that has closed: what was known when it opened, and what
// became of it.
type Example struct {
	Snapshot
	Opened   int64    // seconds
	Base     float32  // logit of the base score, as it was said
	Said     *float32 // of the score with the trial; nil: there was none
	Churned  bool
	Void     bool // nothing is known of what became of it: the customer objected, or the horizon was not observed
	Expected float32
	Spent    float32 // in units of the currency
}

// Stat is what a customer's label says to the shop's [Fitter]: that one has closed,
// or one opens, or both. It follows from the customer's records and the setting.
type Stat struct {
	At       int64 // seconds since 1970
	Halvings int   // of the sample which the customer is still in
	Closed   *Example
	Opened   *Opening
}

// Validate refuses what no label says and what would spoil a fit.
func (s *Stat) Validate() error {
	finite := func(v ...float32) bool {
		for _, x := range v {
			if math.IsNaN(float64(x)) || math.Abs(float64(x)) > 1e15 {
				return false
			}
		}
		return true
	}
	switch {
	case s.At < 1 || s.At > math.MaxUint32:
		return fmt.Errorf("stat at second %d", s.At)
	case s.Halvings < 0 || s.Halvings > MaxHalvings:
		return fmt.Errorf("stat of a customer of %d halvings", s.Halvings)
	case s.Opened != nil && (s.Opened.Recency > s.Opened.Age || !finite(s.Opened.LogGaps, s.Opened.Base, s.Opened.Mean)):
		return errors.New("stat with an impossible opening")
	}
	if e := s.Closed; e != nil {
		said := float32(0)
		if e.Said != nil {
			said = *e.Said
		}
		if e.Recency > e.Age || e.Opened < 1 || e.Opened > s.At || !finite(e.LogGaps, e.Base, said, e.Expected, e.Spent) {
			return errors.New("stat with an impossible example")
		}
	}
	return nil
}

// Label is the one open label of a customer of the sample; the zero value: none is
// open. It opens at a moment that a hash of the customer's key fixes, so that every
// day of a shop has some, closes when its horizon is over and not when the customer
// orders, and then the next one opens.
type Label struct {
	Snapshot
	opened   uint32 // seconds; 0: none
	base     float32
	said     float32 // NaN: nothing was tried
	total    int64   // spend so far in micros
	expected float32
}

// Open tells whether a label is open.
func (l *Label) Open() bool { return l.opened != 0 }

// horizonSeconds of the labels.
func (s *Setting) horizonSeconds() int64 { return int64(s.Policy.HorizonDays * 86400) }

// opens returns the first moment from now on at which a customer's label may open.
func opens(draw uint64, now, horizon int64) int64 {
	phase := int64(uint64(uint32(draw)) * uint64(horizon) >> 32)
	if now <= phase {
		return phase
	}
	return phase + (now-phase+horizon-1)/horizon*horizon
}

// studied tells whether a customer is one of those who are learnt from.
func (c *Customer) studied(draw uint64, s *Setting) bool {
	return c.first != 0 && !c.objected && Halvings(draw) >= s.Study.Halvings
}

// Next returns when [Label.Turn] is to be asked next, after now, and false if that
// is not before a further fact. The draw is a hash of the customer's key.
func (l *Label) Next(c *Customer, draw uint64, now int64, s *Setting) (int64, bool) {
	if l.opened != 0 {
		return max(now, (int64(l.opened)+s.horizonSeconds())*second), true
	}
	if !c.studied(draw, s) {
		return 0, false
	}
	return opens(draw, now/second+1, s.horizonSeconds()) * second, true
}

// Turn closes and opens what is due now, and returns what is to be learnt from it.
// It is to be asked after every call that changes the customer.
func (l *Label) Turn(c *Customer, draw uint64, now int64, s *Setting) (Stat, bool) {
	sec, horizon := int64(seconds(now)), s.horizonSeconds()
	stat := Stat{At: sec, Halvings: Halvings(draw)}
	studied := c.studied(draw, s)
	gone := c.first == 0 || c.objected
	switch {
	case l.opened == 0 && (!studied || opens(draw, sec, horizon) != sec),
		l.opened != 0 && !gone && sec < int64(l.opened)+horizon:
		return stat, false
	case l.opened != 0:
		stat.Closed = l.close(c, sec, horizon, gone, s)
		*l = Label{}
	}
	if studied {
		stat.Opened = l.open(c, draw, sec, s)
	}
	return stat, true
}

// unseen is how much of a horizon may not have been observed, or nobody knows
// whether an order was missed.
const unseen = .02

func (l *Label) close(c *Customer, sec, horizon int64, gone bool, s *Setting) *Example {
	from := int64(l.opened)
	e := &Example{Snapshot: l.Snapshot, Opened: from, Base: l.base}
	if said := l.said; !math.IsNaN(float64(said)) {
		e.Said = &said
	}
	if gone || float64(s.Observed.span(from*second, sec*second)) < (1-unseen)*float64(horizon*second) {
		e.Void = true
		return e
	}
	e.Churned = c.LastOrder() <= from*second
	if l.expected > 0 {
		e.Expected, e.Spent = l.expected, float32(max(-1e15, min(1e15, float64(addMicros(c.total, -l.total))/1e6)))
	}
	return e
}

// asked of the hashes' last bits: one of sixteen customers is asked for the spend of
// the horizon, because that costs more than all the rest.
const asked = 15

func (l *Label) open(c *Customer, draw uint64, sec int64, s *Setting) *Opening {
	now := sec * second
	h := c.History(now, s)
	base := logit(s.base(h))
	f := c.features(h, now, s)
	*l = Label{Snapshot: c.snapshot(h, &f), opened: uint32(sec), base: float32(base), said: float32(math.NaN()), total: c.total}
	if t := s.Study.Trial; t != nil {
		f.complete(base)
		l.said = float32(base + t.Intercept + t.Weights.dot(&f))
	}
	x, mean := c.Spend()
	if c.total > 0 && draw&asked == 0 {
		l.expected = float32(min(1e15, s.Value.Mean(x, mean)*s.Params.PAlive(h)*s.Params.ExpectedOrders(h, s.horizon())))
	}
	return &Opening{Snapshot: l.Snapshot, Base: l.base, Mean: float32(min(mean, 1e15))}
}

// LabelBytes is the size of a packed open [Label].
const LabelBytes = 1 + snapshotBytes + 4 + 2*4 + 8 + 4

const snapshotBytes = 2 + 3*4 + 2*noted

const labelVersion = 1

// AppendBinary appends the packed label: nothing where none is open.
func (l *Label) AppendBinary(b []byte) ([]byte, error) {
	if l.opened == 0 {
		return b, nil
	}
	le := binary.LittleEndian
	b = l.append(append(b, labelVersion))
	b = le.AppendUint32(b, l.opened)
	b = le.AppendUint32(b, math.Float32bits(l.base))
	b = le.AppendUint32(b, math.Float32bits(l.said))
	b = le.AppendUint64(b, uint64(l.total))
	return le.AppendUint32(b, math.Float32bits(l.expected)), nil
}

// UnmarshalBinary restores a packed label. It refuses what none can be.
func (l *Label) UnmarshalBinary(b []byte) error {
	*l = Label{}
	if len(b) == 0 {
		return nil
	}
	if len(b) != LabelBytes || b[0] != labelVersion {
		return fmt.Errorf("%w: a label of %d bytes and version %d, want %d of version %d", ErrState, len(b), b[0], LabelBytes, labelVersion)
	}
	r := reader(b[1:])
	var n Label
	n.read(&r)
	n.opened = r.u32()
	n.base, n.said = math.Float32frombits(r.u32()), math.Float32frombits(r.u32())
	n.total, n.expected = int64(r.u64()), math.Float32frombits(r.u32())
	within := func(v, most float32) bool { return v >= -most && v <= most }
	if n.opened == 0 || n.Recency > n.Age || !within(n.base, 1e3) || !within(n.said, 1e6) && n.said == n.said || !within(n.LogGaps, 1e9) || !within(n.expected, 1e15) {
		return fmt.Errorf("%w: an impossible label", ErrState)
	}
	*l = n
	return nil
}

func (p *Snapshot) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, p.X)
	b = le.AppendUint32(b, p.Recency)
	b = le.AppendUint32(b, p.Age)
	b = le.AppendUint32(b, math.Float32bits(p.LogGaps))
	for _, v := range p.Noted {
		b = le.AppendUint16(b, uint16(v))
	}
	return b
}

func (p *Snapshot) read(r *reader) {
	p.X, p.Recency, p.Age, p.LogGaps = r.u16(), r.u32(), r.u32(), math.Float32frombits(r.u32())
	for i := range p.Noted {
		p.Noted[i] = int16(r.u16())
	}
}

const statVersion = 1

// What a packed stat has.
const (
	statCloses = 1 << iota
	statOpens
	statSaid
	statChurned
	statVoid
)

// AppendBinary appends the packed stat, of 113 bytes at most, and never fails.
func (s *Stat) AppendBinary(b []byte) ([]byte, error) {
	p := packer(append(b, statVersion, 0, uint8(s.Halvings)))
	p.u(uint64(s.At))
	if e := s.Closed; e != nil {
		set := byte(statCloses)
		if e.Churned {
			set |= statChurned
		}
		if e.Void {
			set |= statVoid
		}
		said := float32(0)
		if e.Said != nil {
			set |= statSaid
			said = *e.Said
		}
		p[len(b)+1] |= set
		p.u(uint64(e.Opened))
		p = e.append(p)
		p.f32(e.Base, said, e.Expected, e.Spent)
	}
	if o := s.Opened; o != nil {
		p[len(b)+1] |= statOpens
		p = o.append(p)
		p.f32(o.Base, o.Mean)
	}
	return p, nil
}

// UnmarshalBinary restores a packed stat. It refuses what none can be.
func (s *Stat) UnmarshalBinary(b []byte) error {
	u := &unpacker{b: b, what: "stat"}
	head := u.take(3)
	if head[0] != statVersion {
		u.fail("another version")
	}
	n := Stat{At: int64(u.u(math.MaxUint32)), Halvings: int(head[2])}
	flags := head[1]
	if flags&statCloses != 0 {
		e := &Example{Opened: int64(u.u(math.MaxUint32)), Snapshot: u.snapshot(), Base: u.f32()}
		if said := u.f32(); flags&statSaid != 0 {
			e.Said = &said
		}
		e.Churned, e.Void, e.Expected, e.Spent = flags&statChurned != 0, flags&statVoid != 0, u.f32(), u.f32()
		n.Closed = e
	}
	if flags&statOpens != 0 {
		n.Opened = &Opening{Snapshot: u.snapshot(), Base: u.f32(), Mean: u.f32()}
	}
	if err := u.end(); err != nil {
		return err
	}
	if err := n.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	*s = n
	return nil
}
