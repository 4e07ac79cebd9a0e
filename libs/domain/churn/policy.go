package churn

import (
	"errors"
	"fmt"
	"time"
)

// Policy says when to alert, and whom to leave alone.
type Policy struct {
	Theta         float64 // score at which a customer is raised, inside (0, 1)
	HorizonDays   float64 // h of the score
	QuietDays     float64 // silence below which nobody is raised
	QuietQuantile float64 // and the quantile of a customer's own gap below which he is not
	MaxSilence    float64 // days of silence after which everybody is raised
	SleepDays     float64 // longest time between two looks at a customer
	Holdout       float64 // share of alerts that no action may follow, 0..1
	HighRisk      float64 // score from which an alert is of TierHigh
}

// DefaultPolicy returns a threshold of .8 over 90 days with the quiet rule that
// was measured with it: 14 days and the 30 % quantile of the customer's own gap. A
// customer who sleeps is looked at every 30 days, which is how long a new model may
// take to reach him: it costs a score, and no record.
func DefaultPolicy() Policy {
	return Policy{Theta: .8, HorizonDays: 90, QuietDays: 14, QuietQuantile: .3, MaxSilence: 365, SleepDays: 30, Holdout: .1, HighRisk: .9}
}

// Validate reports every setting outside its range.
func (p Policy) Validate() error {
	var errs []error
	in := func(name string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) { // also catches NaN
			errs = append(errs, fmt.Errorf("churn.%s: %g is not inside [%g, %g]", name, v, lo, hi))
		}
	}
	in("theta", p.Theta, .01, .999)
	in("horizon-days", p.HorizonDays, 1, 3650)
	in("quiet-days", p.QuietDays, 0, 3650)
	in("quiet-quantile", p.QuietQuantile, 0, .99)
	in("max-silence", p.MaxSilence, 1, 36500)
	in("sleep-days", p.SleepDays, 1, 3650)
	in("holdout", p.Holdout, 0, 1)
	in("high-risk", p.HighRisk, 0, 1)
	if p.QuietDays > p.MaxSilence {
		errs = append(errs, fmt.Errorf("churn.quiet-days: %g exceeds max-silence, %g", p.QuietDays, p.MaxSilence))
	}
	return errors.Join(errs...)
}

// Observed returns how much of [from, to) was observed, in microseconds: to - from
// less the union of the intervals in which the shop's events were not received.
// It is additive over neighbouring intervals. A nil Observed saw everything.
type Observed func(from, to int64) int64

// span is the observed time between two instants, never negative.
func (o Observed) span(from, to int64) int64 {
	if to <= from {
		return 0
	}
	if o == nil {
		return to - from
	}
	return min(to-from, max(0, o(from, to)))
}

// after returns the first instant by which d microseconds since from were
// observed. Inside an unobserved interval that is its end.
func (o Observed) after(from, d int64) int64 {
	low, high := from, from+d
	if o == nil || d <= 0 {
		return high
	}
	for step := d; o.span(from, high) < d; step *= 2 {
		if high > farMicros {
			return high
		}
		low, high = high, high+step
	}
	for high-low > 1 { // span(from, low) < d <= span(from, high)
		mid := low + (high-low)/2
		if o.span(from, mid) >= d {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// Setting is what decisions read besides the customer.
type Setting struct {
	Params     Params
	Value      Value
	ValueLevel float64     // multiplies what [Value] expects of a customer; 0: 1
	Season     float64     // orders expected in the horizon by those of the recent past; 0: 1
	Correction *Correction // nil: the base score is the score
	Study      Study       // read by [Label] only
	Policy     Policy
	Observed   Observed       // nil: no gaps
	Location   *time.Location // whose days merge orders; nil: UTC
}

// DefaultSetting returns the defaults of everything, in UTC, without gaps.
func DefaultSetting() Setting {
	return Setting{Params: DefaultParams(), Value: DefaultValue(), Policy: DefaultPolicy(), Location: time.UTC}
}

// Validate reports every mistake of the parts.
func (s *Setting) Validate() error {
	errs := []error{s.Params.Validate(), s.Value.Validate(), s.Policy.Validate(), s.Study.Validate()}
	if !(s.ValueLevel >= 0 && s.ValueLevel <= 100) {
		errs = append(errs, fmt.Errorf("churn.value-level: %g is not inside [0, 100]", s.ValueLevel))
	}
	if !(s.Season >= 0 && s.Season <= 10) {
		errs = append(errs, fmt.Errorf("churn.season: %g is not inside [0, 10]", s.Season))
	}
	if s.Correction != nil {
		errs = append(errs, s.Correction.Validate())
	}
	return errors.Join(errs...)
}

// day is the local day of an instant, counted from 1970-01-01.
func (s *Setting) day(at int64) int64 {
	loc := s.Location
	if loc == nil {
		loc = time.UTC
	}
	y, m, d := time.UnixMicro(at).In(loc).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400
}

const (
	second    = int64(1e6)
	dayMicros = 86400 * second
	farMicros = int64(1) << 60
)

// days converts microseconds.
func days(micros int64) float64 { return float64(micros) / float64(dayMicros) }
