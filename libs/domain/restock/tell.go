package restock

import (
	"errors"
	"fmt"
)

// Stat is what a product tells of itself, for a [Pool] to learn from. Stats are
// additive and may come in any order within a day.
type Stat struct {
	Kind StatKind
	Day  Day // the day that was closed

	Units float32 // of a day: sold, in days with sales as they usually are; of a launch: units a day
	Band  uint8   // of a launch: the price band

	Horizon   uint8   // of a check: 0 a week, 1 four weeks
	Class     uint8   // of a check: the kind of the forecast; of a week: the volume
	Low, High float32 // of a check: P(D < y) and P(D <= y)

	Losses [experts]float32 // of a week

	Group    uint16         // of an offer
	Features [terms]float32 // of an offer
	Effect   float32        // of an offer: logarithm of the demand over what is expected without it
	Noise    float32        // and its variance
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

// maxSampling bounds the halvings of a sample.
const maxSampling = 30

// Told is all that one product tells at once.
type Told struct {
	Sampling uint8 // one of 2^Sampling products tells, as the layer in force asked for
	Stats    []Stat
}

// toldVersion is that of the packed form.
const toldVersion = 1

// ErrTold is wrapped by every error of [Told.UnmarshalBinary].
var ErrTold = errors.New("not what a product tells")

// fields of a stat: only those of its kind.
func (s *Stat) fields(w *wire) {
	kind := uint8(s.Kind)
	w.u8(&kind)
	s.Kind = StatKind(kind)
	w.day(&s.Day)
	switch s.Kind {
	case StatDay:
		w.f32(&s.Units)
	case StatWeek:
		w.u8(&s.Class)
		w.f32s(s.Losses[:])
	case StatCheck:
		w.u8(&s.Horizon)
		w.u8(&s.Class)
		w.f32(&s.Low)
		w.f32(&s.High)
	case StatLaunch:
		w.u8(&s.Band)
		w.f32(&s.Units)
	case StatOffer:
		w.u16(&s.Group)
		w.f32s(s.Features[:])
		w.f32(&s.Effect)
		w.f32(&s.Noise)
	}
}

// valid tells that a stat is one that products tell.
func (s *Stat) valid() bool {
	if s.Day < -farDay || s.Day > farDay {
		return false
	}
	switch s.Kind {
	case StatDay:
		return inside(0, 5, s.Units)
	case StatWeek:
		return s.Class < volumes && inside(0, 1e30, s.Losses[:]...)
	case StatCheck:
		return s.Horizon < horizons && s.Class < kinds && inside(0, 1, s.Low, s.High)
	case StatLaunch:
		return s.Band < bands && inside(0, 1e30, s.Units)
	case StatOffer:
		return inside(-effectLimit, effectLimit, s.Features[:]...) && inside(-100, 100, s.Effect) && inside(effectNoise, 100, s.Noise)
	}
	return false
}

// AppendBinary appends what is told, 9 to 25 bytes a stat behind two, and never fails.
func (t *Told) AppendBinary(b []byte) ([]byte, error) {
	w := wire{b: append(b, toldVersion, t.Sampling)}
	for i := range t.Stats {
		t.Stats[i].fields(&w)
	}
	return w.b, nil
}

// UnmarshalBinary reads what was told, into the room that t has. It refuses what no
// product tells.
func (t *Told) UnmarshalBinary(b []byte) error {
	t.Stats = t.Stats[:0]
	if len(b) < 2 || b[0] != toldVersion || b[1] > maxSampling {
		return fmt.Errorf("%w: %d bytes, or of another version than %d", ErrTold, len(b), toldVersion)
	}
	t.Sampling = b[1]
	w := wire{b: b[2:], reading: true}
	for len(w.b) > 0 {
		var s Stat
		s.fields(&w)
		if w.short || !s.valid() {
			n := len(t.Stats)
			t.Stats = t.Stats[:0]
			return fmt.Errorf("%w: stat %d, of kind %d", ErrTold, n, s.Kind)
		}
		t.Stats = append(t.Stats, s)
	}
	return nil
}
