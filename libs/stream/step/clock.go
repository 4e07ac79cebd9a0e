package step

import (
	"math"
	"sort"
)

// never is a clock that has not been heard: nothing is before it.
const never = Instant(math.MinInt64)

// ShopMode is how a shop's time runs.
type ShopMode string

// A shop lives by the wall clock, is being imported, or rests at the last
// moment of an import.
const (
	ModeLive      ShopMode = "live"
	ModeImporting ShopMode = "importing"
	ModeResting   ShopMode = "resting"
)

// sourceClock is a shop's time as one source partition tells it.
type sourceClock struct {
	Mode  ShopMode `json:"mode"`
	Clock Instant  `json:"clock"`
}

// shopState is a shop's time in one partition.
type shopState struct {
	Clock      Instant               `json:"clock"`
	Since      Instant               `json:"since,omitempty"` // live since: earlier wall gaps do not concern it
	Imported   bool                  `json:"imported,omitempty"`
	Sources    map[int32]sourceClock `json:"sources,omitempty"`
	Unobserved []Interval            `json:"unobserved,omitempty"`
}

// clocks keeps the time of every shop of a partition: the minimum over the
// sources, of what each source has said (a watermark).
type clocks struct {
	sources int // partitions 0..sources-1 tell the time; or the one in own
	own     int32
	single  bool

	// What was not observed, by shop, as computed since time last moved.
	cached map[*shopState][]Interval
	// The shop that was asked for last.
	lastName string
	lastShop *shopState

	Wall       map[int32]Instant     `json:"wall,omitempty"`
	Shops      map[string]*shopState `json:"shops,omitempty"`
	Unobserved []Interval            `json:"unobserved,omitempty"`
}

func (c *clocks) init() {
	if c.Wall == nil {
		c.Wall = map[int32]Instant{}
	}
	if c.Shops == nil {
		c.Shops = map[string]*shopState{}
	}
}

// shop returns a shop's state, made on first sight: a shop is live until an
// import says otherwise.
func (c *clocks) shop(name string) *shopState {
	if c.lastShop != nil && c.lastName == name {
		return c.lastShop
	}
	s := c.Shops[name]
	if s == nil {
		s = &shopState{Clock: never}
		c.Shops[name] = s
		s.Clock = c.now(s)
	}
	c.lastName, c.lastShop = name, s
	return s
}

// now is a shop's clock: the minimum over the sources, and never back.
func (c *clocks) now(s *shopState) Instant {
	least := Instant(math.MaxInt64)
	each := func(source int32) {
		wall, heard := c.Wall[source]
		if !heard {
			wall = never
		}
		at := wall
		if s.Imported {
			src, ok := s.Sources[source]
			switch {
			case !ok:
				at = never
			case src.Mode == ModeLive:
				at = max(src.Clock, wall)
			default:
				at = src.Clock
			}
		}
		least = min(least, at)
	}
	if c.single {
		each(c.own)
	} else {
		for i := range int32(c.sources) {
			each(i)
		}
	}
	return max(least, s.Clock)
}

// mode is how the shop's time runs, all sources together.
func (s *shopState) mode() ShopMode {
	if !s.Imported {
		return ModeLive
	}
	mode := ModeLive
	for _, src := range s.Sources {
		switch src.Mode {
		case ModeImporting:
			return ModeImporting
		case ModeResting:
			mode = ModeResting
		}
	}
	return mode
}

// names lists the shops in the order of their entities' keys.
func (c *clocks) names() []string {
	names := make([]string, 0, len(c.Shops))
	for name := range c.Shops {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return names[i]+"/" < names[j]+"/" })
	return names
}

// unobserved is the union of what no source observed, for one shop.
func (c *clocks) unobserved(s *shopState) []Interval {
	if len(c.Unobserved) == 0 {
		return s.Unobserved
	}
	if known, ok := c.cached[s]; ok {
		return known
	}
	all := append([]Interval(nil), s.Unobserved...)
	if s.mode() == ModeLive {
		for _, i := range c.Unobserved {
			if i.To > s.Since {
				all = append(all, Interval{From: max(i.From, s.Since), To: i.To})
			}
		}
	}
	all = union(all)
	if c.cached == nil {
		c.cached = map[*shopState][]Interval{}
	}
	c.cached[s] = all
	return all
}

// union sorts intervals and joins those that touch.
func union(all []Interval) []Interval {
	sort.Slice(all, func(i, j int) bool { return all[i].From < all[j].From })
	joined := all[:0]
	for _, i := range all {
		if n := len(joined); n > 0 && i.From <= joined[n-1].To {
			joined[n-1].To = max(joined[n-1].To, i.To)
			continue
		}
		joined = append(joined, i)
	}
	return joined
}

// observed moves a due time out of the interval that strictly holds it, to
// the interval's end.
func observed(due Instant, unobserved []Interval) Instant {
	for _, i := range unobserved {
		if i.From < due && due < i.To {
			return i.To
		}
	}
	return due
}
