package recommend

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sillage-io/sillage/libs/domain/recommend"
)

// Method is a way to recommend.
type Method string

// Methods: what the services serve, and what it is measured against.
const (
	Hybrid  Method = "hybrid"  // all sources, ranked by what was learned
	VMIS    Method = "vmis"    // VMIS-kNN as its authors publish it
	VSTAN   Method = "vstan"   // similar sessions alone
	Markov  Method = "markov"  // what came directly after the current item
	Covisit Method = "covisit" // what was seen together with the session's items
	Popular Method = "popular" // trending, then popular
)

// Methods returns all, the served one first.
func Methods() []Method { return []Method{Hybrid, VMIS, VSTAN, Markov, Covisit, Popular} }

// MethodsOf returns the methods that a name means: one, or all.
func MethodsOf(name string) ([]Method, error) {
	if name == "all" {
		return Methods(), nil
	}
	if m := Method(name); slices.Contains(Methods(), m) {
		return []Method{m}, nil
	}
	var names []string
	for _, m := range Methods() {
		names = append(names, string(m))
	}
	return nil, fmt.Errorf("method: %q is none of %s, all", name, strings.Join(names, ", "))
}

// about says what a method does, for the report.
func (m Method) about() string {
	switch m {
	case Hybrid:
		return "what the services serve: candidates of all sources, ranked by what was learned from each event"
	case VMIS:
		return "VMIS-kNN as its authors publish it (Kersbergen et al., SIGMOD 2022); online, it is built again each day, as they do"
	case VSTAN:
		return "similar sessions alone, in V-STAN form (Ludewig et al., 2021)"
	case Markov:
		return "what came directly after the current item, counted with decay"
	case Covisit:
		return "what was seen together with the session's items, counted with decay"
	default:
		return "what the shop looks at now, then what it looked at over weeks"
	}
}

// served are the methods that the index answers itself.
func (m Method) served() (recommend.Method, bool) {
	switch m {
	case Hybrid:
		return recommend.Hybrid, true
	case VSTAN:
		return recommend.BySessions, true
	case Markov:
		return recommend.ByTransition, true
	case Covisit:
		return recommend.ByCoOccurrence, true
	case Popular:
		return recommend.ByPopularity, true
	default:
		return 0, false
	}
}

// VMISConfig are the settings of the reference method.
type VMISConfig struct {
	M    int     // sessions looked at
	K    int     // sessions that vote
	Last int     // newest items of a session that are used
	IDF  float64 // weight of the inverse document frequency
}

// DefaultVMIS returns what its authors ship.
func DefaultVMIS() VMISConfig { return VMISConfig{M: 500, K: 50, Last: 2, IDF: 1} }

// Validate reports every setting outside its range.
func (c VMISConfig) Validate() error {
	var errs []error
	for _, v := range []struct {
		name string
		v    int
	}{{"m", c.M}, {"k", c.K}, {"last", c.Last}} {
		if v.v < 1 || v.v > 1<<20 {
			errs = append(errs, fmt.Errorf("vmis-%s: %d is not inside [1, %d]", v.name, v.v, 1<<20))
		}
	}
	if !(c.IDF >= 0 && c.IDF <= 1000) {
		errs = append(errs, fmt.Errorf("vmis-idf: %g is not inside [0, 1000]", c.IDF))
	}
	return errors.Join(errs...)
}

// longest is the share of sessions that VMIS-kNN keeps, the shortest ones.
const longest = .995

// control is the reference method over the sessions that it was built from.
type control struct {
	cfg     VMISConfig
	vmis    *recommend.VMIS
	history []recommend.VMISSession
	at      map[uint32]int32 // session to its place in history
}

func newControl(cfg VMISConfig) *control { return &control{cfg: cfg, at: map[uint32]int32{}} }

// add notes an event for the next build.
func (c *control) add(e Click) {
	i, ok := c.at[e.Session]
	if !ok {
		i = int32(len(c.history))
		c.at[e.Session] = i
		c.history = append(c.history, recommend.VMISSession{})
	}
	h := &c.history[i]
	h.Last = e.At
	if !slices.Contains(h.Items, e.Item) {
		h.Items = append(h.Items, e.Item)
	}
}

// build makes the index of all that was noted.
func (c *control) build(keepCurrent bool) {
	sessions := slices.Clone(c.history)
	slices.SortStableFunc(sessions, func(a, b recommend.VMISSession) int { return cmp.Compare(a.Last, b.Last) })
	lengths := make([]int, len(sessions))
	for i, s := range sessions {
		lengths[i] = len(s.Items)
	}
	slices.Sort(lengths)
	most := 1
	if n := len(lengths); n > 0 {
		most = lengths[int(longest*float64(n-1))]
	}
	c.vmis = recommend.NewVMIS(sessions, c.cfg.M, c.cfg.K, most, c.cfg.IDF)
	c.vmis.KeepCurrent = keepCurrent
}

// answer returns item numbers, best first.
func (c *control) answer(prefix []uint32, n int) []recommend.VMISAnswer {
	if c.vmis == nil {
		return nil
	}
	return c.vmis.Recommend(prefix[max(0, len(prefix)-c.cfg.Last):], n)
}
