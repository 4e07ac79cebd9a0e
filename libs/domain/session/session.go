package session

import (
	"errors"
	"fmt"
	"slices"
)

// Instant is a time in milliseconds since 1970.
type Instant = int64

// Window is the rule that cuts visits.
type Window struct {
	Gap     int64 // silence that a visit survives, in milliseconds
	Longest int64 // a visit that would become longer is cut, in milliseconds; 0 is no limit
	Items   int   // distinct items kept per visit, newest first
}

// DefaultWindow is the field's customary half hour, with 20 items, and a limit of
// a day: something that never rests is a machine, not a visit.
func DefaultWindow() Window { return Window{Gap: 30 * 60_000, Longest: 24 * 3_600_000, Items: 20} }

// Validate reports every setting outside its range.
func (w Window) Validate() error {
	var errs []error
	if w.Gap <= 0 {
		errs = append(errs, fmt.Errorf("session.gap: %d ms is not positive", w.Gap))
	}
	if w.Longest < 0 || w.Longest > 0 && w.Longest < w.Gap {
		errs = append(errs, fmt.Errorf("session.longest: %d ms is neither 0 nor at least the gap", w.Longest))
	}
	if w.Items < 1 || w.Items > 1000 {
		errs = append(errs, fmt.Errorf("session.items: %d is not inside [1, 1000]", w.Items))
	}
	return errors.Join(errs...)
}

// Visit is a visit so far. The zero value is none.
type Visit struct {
	Opened      Instant // time of the event that opened it; never moves, and with the device it names the visit
	Start, Last Instant // earliest and latest time of an event
	Events      int
	Items       []string // distinct, in the order they were heard of, newest first
}

// Open reports whether there is a visit.
func (v Visit) Open() bool { return v.Events > 0 }

// Add returns the visit that an event at the time belongs to and, if the event
// opened a new one over an old one, the old one, which it closed. An empty item
// is an event without one. The visit handed in is not changed.
func (w Window) Add(v Visit, item string, at Instant) (open Visit, closed *Visit) {
	if v.Open() && w.over(v, at) {
		c := v
		closed, v = &c, Visit{}
	}
	if !v.Open() {
		v = Visit{Opened: at, Start: at, Last: at}
	}
	v.Last, v.Events = max(v.Last, at), v.Events+1
	if at < v.Start && v.Start-at <= w.Gap && (w.Longest == 0 || v.Last-at <= w.Longest) {
		v.Start = at
	}
	if item != "" {
		items := make([]string, 1, len(v.Items)+1)
		items[0] = item
		for _, i := range v.Items {
			if i != item {
				items = append(items, i)
			}
		}
		v.Items = slices.Clip(items[:min(len(items), w.Items)])
	}
	return v, closed
}

// over reports whether an event at the time is not part of v.
func (w Window) over(v Visit, at Instant) bool {
	return at-v.Last > w.Gap || w.Longest > 0 && at-v.Start > w.Longest
}

// Due returns when an open visit is over unless something is heard: it is over
// strictly after that.
func (w Window) Due(v Visit) Instant { return v.Last + w.Gap }

// Over reports whether an open visit has ended by silence at a time.
func (w Window) Over(v Visit, now Instant) bool { return v.Open() && now > w.Due(v) }
