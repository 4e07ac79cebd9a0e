package recommend

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/sillage-io/sillage/libs/domain/recommend"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// Mode says whether the model moves during the test.
type Mode string

// Modes.
const (
	Frozen Mode = "frozen"
	Online Mode = "online"
)

// top is how long an answer is.
const top = 20

// young is the age up to which an item is new to the shop.
const young = 24 * time.Hour

// Config says what is measured.
type Config struct {
	Mode        Mode
	Methods     []Method
	Baseline    Method // that the others are compared with; it runs too. "": none
	KeepCurrent bool   // the current item may be recommended
	VMIS        VMISConfig
	Index       recommend.Config
	Seed        uint64
	Resamples   int // of the bootstrap
	Sessions    int // scored sessions at most; of more, so many are drawn
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{Mode: Frozen, Methods: []Method{Hybrid}, Baseline: VMIS, VMIS: DefaultVMIS(), Index: recommend.DefaultConfig(), Seed: 1, Resamples: eval.Resamples, Sessions: 100_000}
}

// Validate reports every setting outside its range.
func (c Config) Validate() error {
	var errs []error
	if c.Mode != Frozen && c.Mode != Online {
		errs = append(errs, fmt.Errorf("mode: %q is neither frozen nor online", c.Mode))
	}
	if len(c.Methods) == 0 {
		errs = append(errs, errors.New("method: none is named"))
	}
	if c.Resamples < 100 || c.Resamples > 100_000 {
		errs = append(errs, fmt.Errorf("resamples: %d is not inside [100, 100000]", c.Resamples))
	}
	if c.Sessions < 1 || c.Sessions > math.MaxInt32 {
		errs = append(errs, fmt.Errorf("score: %d is not inside [1, %d]", c.Sessions, math.MaxInt32))
	}
	return errors.Join(append(errs, c.VMIS.Validate(), c.Index.Validate())...)
}

// one is a case: a prefix and what came next.
type one struct {
	session uint32
	at      int64 // of the current item
	prefix  uint16
	repeat  bool // the session had the item before
	young   bool // the item was first seen less than a day ago, or never
}

// tally is what a method did with the cases.
type tally struct {
	method Method
	rank   []uint8   // by case, from 1; 0: not among the answers
	micros []float32 // of answers without reasons
	full   []float32 // of answers with reasons: every eighth is one
	shown  []bool    // by item
}

// Outcome is what came out, before it is summed up.
type Outcome struct {
	Config  Config
	Log     *Log
	cases   []one
	tallies []*tally
	known   int // items that could be recommended
	cost    cost
}

// cost is what building the index took.
type cost struct {
	events int           // applied
	apply  time.Duration // CPU
	learn  time.Duration // CPU, of all steps
	steps  int           // of learning
	heap   int64         // bytes, without the log
}

// runner measures.
type runner struct {
	log     *Log
	cfg     Config
	out     *Outcome
	index   *recommend.Index
	scratch *recommend.Scratch
	answers []recommend.Answer
	trails  map[uint32]*trail
	free    []*trail
	born    []int64 // first click, by item
	number  map[string]uint32
	learns  bool // some method is taught
	control *control
	built   int32 // day that the control was built for
}

// trail is a session on its way.
type trail struct {
	recommend.Trail
	key    uint64
	items  []uint32
	clicks []Click // of a session that is learned as a whole
}

// begin starts a session.
func (t *trail) begin(session uint32) {
	t.again(session)
	t.clicks = t.clicks[:0]
}

// again starts it once more, with its clicks as they are.
func (t *trail) again(session uint32) {
	t.key, t.items = uint64(session)+1, t.items[:0]
	t.Begin(t.key)
}

// Run measures. It takes the memory of the index, of the sessions that are open at
// a time, and of the cases.
func Run(ctx context.Context, log *Log, cfg Config, progress *eval.Progress) (*Outcome, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	runtime.LockOSThread() // for the CPU time of this thread
	defer runtime.UnlockOSThread()
	r := &runner{log: log, cfg: cfg, out: &Outcome{Config: cfg, Log: log}, scratch: new(recommend.Scratch)}
	r.number = make(map[string]uint32, len(log.Items))
	for i, id := range log.Items {
		r.number[id] = uint32(i)
	}
	methods := slices.Clone(cfg.Methods)
	if cfg.Baseline != "" && !slices.Contains(methods, cfg.Baseline) {
		methods = append(methods, cfg.Baseline)
	}
	for _, m := range methods {
		r.out.tallies = append(r.out.tallies, &tally{method: m, shown: make([]bool, len(log.Items))})
	}
	r.learns = slices.Contains(methods, Hybrid)
	if slices.Contains(methods, VMIS) {
		r.control = newControl(cfg.VMIS)
	}
	if err := r.measureBuild(ctx, progress); err != nil {
		return nil, err
	}
	var err error
	if cfg.Mode == Frozen {
		err = r.frozen(ctx, progress)
	} else {
		err = r.online(ctx, progress)
	}
	if err != nil {
		return nil, err
	}
	r.out.known = r.index.Stats().Items
	return r.out, nil
}

// reset begins a pass over the log with a new index.
func (r *runner) reset() {
	r.index = recommend.New(r.cfg.Index)
	r.rewind()
}

// rewind begins a pass over the log with the index as it is.
func (r *runner) rewind() {
	r.trails, r.free = map[uint32]*trail{}, nil
	r.born = make([]int64, len(r.log.Items))
	for i := range r.born {
		r.born[i] = math.MaxInt64
	}
}

// trail is the session of a click.
func (r *runner) trail(c Click) *trail {
	t := r.trails[c.Session]
	if t == nil {
		if n := len(r.free); n > 0 {
			t, r.free = r.free[n-1], r.free[:n-1]
		} else {
			t = new(trail)
		}
		t.begin(c.Session)
		r.trails[c.Session] = t
	}
	return t
}

// done notes that a click is behind; the last one of a session frees its trail.
func (r *runner) done(c Click, t *trail) {
	r.born[c.Item] = min(r.born[c.Item], c.At)
	if c.Last {
		delete(r.trails, c.Session)
		r.free = append(r.free, t)
	}
}

// chosen tells whether a session that may be scored is: all are, or as many as
// Config.Sessions in the mean, drawn by their number and the seed.
func (r *runner) chosen(session uint32) bool {
	if r.log.Scored <= r.cfg.Sessions {
		return true
	}
	share := float64(r.cfg.Sessions) / float64(r.log.Scored)
	return float64(mix(uint64(session)^mix(r.cfg.Seed)))*0x1p-64 < share
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// query asks at the current end of a session.
func (r *runner) query(t *trail, m recommend.Method) recommend.Query {
	items := t.Items()
	now := items[len(items)-1]
	return recommend.Query{
		Session: t.key, Items: items, N: top, Now: now.At, Surface: recommend.SurfaceProduct,
		KeepSeen: true, KeepCurrent: r.cfg.KeepCurrent, Method: m,
	}
}

// learn teaches the ranker what came next in a session, where it is one of those
// that teach: the services do not learn from every session either.
func (r *runner) learn(c Click, t *trail) {
	if !r.learns || len(t.items) == 0 || !r.index.Teaches(t.key, recommend.SurfaceProduct) {
		return
	}
	q := r.query(t, recommend.Hybrid)
	before := threadTime()
	r.index.Learn(q, r.log.Items[c.Item], r.scratch)
	r.out.cost.learn += threadTime() - before
	r.out.cost.steps++
}

// apply gives a click to the index.
func (r *runner) apply(c Click, t *trail) {
	r.index.Apply(t.add(r.log, c))
	if c.Last && r.control != nil {
		r.control.add(c.At, t.items)
	}
}

// add puts a click into the session.
func (t *trail) add(log *Log, c Click) recommend.Delta {
	t.items = append(t.items, c.Item)
	return t.Add(log.Items[c.Item], c.Kind, c.At)
}

// kase is the case of a click; false where the session begins with it.
func (r *runner) kase(c Click, t *trail) (one, bool) {
	n := len(t.items)
	if n == 0 {
		return one{}, false
	}
	now := t.Items()
	return one{
		session: c.Session, at: now[len(now)-1].At, prefix: uint16(min(n, math.MaxUint16)),
		repeat: slices.Contains(t.items, c.Item), young: c.At-r.born[c.Item] < young.Milliseconds() || r.born[c.Item] > c.At,
	}, true
}

// ask lets a method answer before a click, and scores it.
func (r *runner) ask(y *tally, c Click, t *trail) {
	rank := 0
	var took time.Duration
	if m, ok := y.method.served(); ok {
		q := r.query(t, m)
		q.Bare = !y.explains()
		want := r.log.Items[c.Item]
		before := threadTime()
		r.answers = r.index.Recommend(q, r.scratch, r.answers[:0])
		took = threadTime() - before
		for i, a := range r.answers {
			if a.Item == want {
				rank = i + 1
			}
			y.shown[r.number[a.Item]] = true
		}
	} else {
		before := threadTime()
		answers := r.control.answer(t.items, top)
		took = threadTime() - before
		for i, a := range answers {
			if a.Item == c.Item {
				rank = i + 1
			}
			y.shown[a.Item] = true
		}
	}
	micros := float32(took.Nanoseconds()) / 1000
	if y.explains() {
		y.full = append(y.full, micros)
	} else {
		y.micros = append(y.micros, micros)
	}
	y.rank = append(y.rank, uint8(rank))
}

// withReasons is how many answers there are for one with reasons. They are the
// same answers; what is timed is others.
const withReasons = 8

// explains tells whether the next answer comes with its reasons.
func (y *tally) explains() bool {
	return y.method == Hybrid && len(y.rank)%withReasons == withReasons-1
}

// pass goes through the clicks in time order.
func (r *runner) pass(ctx context.Context, p *eval.Progress, what string, each func(c Click)) error {
	p.Start(what, r.log.Clicks)
	defer p.Done()
	i := int64(0)
	return r.log.Each(func(c Click) error {
		if i%1024 == 0 {
			p.At(i)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		i++
		each(c)
		return nil
	})
}

// chunk is how many events are applied between two looks at the clock.
const chunk = 512

// measureBuild builds the index once as a stream, without learning, for what it
// costs: the deltas of a chunk are made first, then applied under the clock.
func (r *runner) measureBuild(ctx context.Context, p *eval.Progress) error {
	before := inUse()
	r.reset()
	deltas := make([]recommend.Delta, 0, chunk)
	previous := make([]recommend.Previous, 0, chunk*r.cfg.Index.Steps)
	flush := func() {
		start := threadTime()
		for i := range deltas {
			r.index.Apply(deltas[i])
		}
		r.out.cost.apply += threadTime() - start
		r.out.cost.events += len(deltas)
		deltas, previous = deltas[:0], previous[:0]
	}
	err := r.pass(ctx, p, "timing the build", func(c Click) {
		if r.log.Test(c.Session) {
			return
		}
		t := r.trail(c)
		d := t.add(r.log, c)
		first := len(previous)
		previous = append(previous, d.Previous[:min(len(d.Previous), r.cfg.Index.Steps)]...)
		d.Previous = previous[first:len(previous):len(previous)]
		deltas = append(deltas, d)
		if len(deltas) == chunk {
			flush()
		}
		r.done(c, t)
	})
	flush()
	r.trails, r.free, r.born, deltas, previous = nil, nil, nil, nil, nil
	r.out.cost.heap = max(0, inUse()-before)
	runtime.KeepAlive(r.index)
	r.index = nil
	return err
}

// inUse is what the heap holds after a collection.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// frozen learns from what is not scored, then scores with nothing moving. A
// session is learned as a whole when it ends: its prefixes are then predicted by
// an index that does not hold it yet, as those of the scored sessions will be.
func (r *runner) frozen(ctx context.Context, p *eval.Progress) error {
	r.reset()
	err := r.pass(ctx, p, "learning", func(c Click) {
		if r.log.Test(c.Session) {
			return
		}
		t := r.trail(c)
		if t.clicks = append(t.clicks, c); !c.Last {
			return
		}
		for _, c := range t.clicks {
			r.learn(c, t)
			t.add(r.log, c)
		}
		t.again(c.Session)
		for _, c := range t.clicks {
			r.apply(c, t)
		}
		r.done(c, t)
	})
	if err != nil {
		return err
	}
	if r.control != nil {
		r.control.build(r.cfg.KeepCurrent, nil)
	}
	for i, y := range r.out.tallies {
		r.rewind()
		err := r.pass(ctx, p, "scoring "+string(y.method), func(c Click) {
			if !r.log.Test(c.Session) || !r.chosen(c.Session) {
				r.born[c.Item] = min(r.born[c.Item], c.At)
				return
			}
			t := r.trail(c)
			if k, ok := r.kase(c, t); ok {
				if i == 0 {
					r.out.cases = append(r.out.cases, k)
				}
				r.ask(y, c, t)
			}
			t.add(r.log, c)
			r.done(c, t)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// online predicts, scores and then learns, event by event.
func (r *runner) online(ctx context.Context, p *eval.Progress) error {
	r.reset()
	r.built = math.MinInt32
	return r.pass(ctx, p, "predicting and learning", func(c Click) {
		t := r.trail(c)
		if r.log.Test(c.Session) && r.chosen(c.Session) {
			if k, ok := r.kase(c, t); ok {
				if day := int32(c.At / 86_400_000); r.control != nil && day != r.built {
					r.control.build(r.cfg.KeepCurrent, r.trails)
					r.built = day
				}
				r.out.cases = append(r.out.cases, k)
				for _, y := range r.out.tallies {
					r.ask(y, c, t)
				}
			}
		}
		r.learn(c, t)
		r.apply(c, t)
		r.done(c, t)
	})
}
