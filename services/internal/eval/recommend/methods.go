package recommend

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
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
	Held int     // newest sessions that it is built from
}

// DefaultVMIS returns what its authors ship, over at most a million sessions.
func DefaultVMIS() VMISConfig { return VMISConfig{M: 500, K: 50, Last: 2, IDF: 1, Held: 1_000_000} }

// Validate reports every setting outside its range.
func (c VMISConfig) Validate() error {
	var errs []error
	for _, v := range []struct {
		name string
		v    int
	}{{"m", c.M}, {"k", c.K}, {"last", c.Last}, {"held", c.Held}} {
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
	cfg   VMISConfig
	vmis  *recommend.VMIS
	items []uint32 // of finished sessions, one behind the other, each once a session
	ends  []int    // of the sessions in items
	last  []int64  // times of their last clicks
}

func newControl(cfg VMISConfig) *control { return &control{cfg: cfg} }

// add notes a finished session for the next build.
func (c *control) add(last int64, items []uint32) {
	if len(c.last) >= c.cfg.Held+c.cfg.Held/4+1 {
		c.forget(len(c.last) - c.cfg.Held)
	}
	c.items = appendDistinct(c.items, items)
	c.ends, c.last = append(c.ends, len(c.items)), append(c.last, last)
}

func appendDistinct(dst, items []uint32) []uint32 {
	from := len(dst)
	for _, i := range items {
		if !slices.Contains(dst[from:], i) {
			dst = append(dst, i)
		}
	}
	return dst
}

// forget drops the n oldest sessions.
func (c *control) forget(n int) {
	gone := c.ends[n-1]
	c.items = c.items[:copy(c.items, c.items[gone:])]
	c.last = c.last[:copy(c.last, c.last[n:])]
	c.ends = c.ends[:copy(c.ends, c.ends[n:])]
	for k := range c.ends {
		c.ends[k] -= gone
	}
}

// build makes the index of what was noted and of the sessions that go on.
func (c *control) build(keepCurrent bool, open map[uint32]*trail) {
	if n := len(c.last) - c.cfg.Held; n > 0 {
		c.forget(n)
	}
	sessions := make([]recommend.VMISSession, 0, len(c.last)+len(open))
	from := 0
	for k, end := range c.ends {
		sessions = append(sessions, recommend.VMISSession{Last: c.last[k], Items: c.items[from:end]})
		from = end
	}
	for _, s := range slices.Sorted(maps.Keys(open)) {
		if t := open[s]; len(t.items) > 0 {
			now := t.Items()
			sessions = append(sessions, recommend.VMISSession{Last: now[len(now)-1].At, Items: appendDistinct(nil, t.items)})
		}
	}
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
