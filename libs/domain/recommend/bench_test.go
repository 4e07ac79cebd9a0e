package recommend

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Benchmarks report processor time of their own thread in microseconds, by
// percentile where single operations matter, so that neighbours on the machine
// weigh less. Those of Diginetica need SILLAGE_DATA.

// clocked collects the processor time of single operations.
type clocked struct{ took []time.Duration }

func (c *clocked) time(f func()) {
	t := threadCPU()
	f()
	c.took = append(c.took, threadCPU()-t)
}

func (c *clocked) report(b *testing.B) {
	slices.Sort(c.took)
	for _, p := range []struct {
		name string
		at   float64
	}{{"p50-us", .5}, {"p99-us", .99}, {"p99.5-us", .995}} {
		b.ReportMetric(float64(c.took[int(p.at*float64(len(c.took)-1))].Nanoseconds())/1e3, p.name)
	}
}

// thread locks the benchmark to a thread, whose time is then its own.
func thread(b *testing.B) {
	b.Helper()
	runtime.LockOSThread()
	b.Cleanup(runtime.UnlockOSThread)
}

// synthetic is a shop with power-law popularity and session lengths (exponents of
// the ETUDE load generator's kind, ICDE 2024).
type synthetic struct {
	r     *rand.Rand
	items int
	at    int64
	key   uint64
	trail Trail
	ids   []string
}

func newSynthetic(items int) *synthetic {
	s := &synthetic{r: rand.New(rand.NewPCG(1, 2)), items: items, at: start, ids: make([]string, items)}
	for i := range s.ids {
		s.ids[i] = "item-" + strconv.Itoa(i)
	}
	return s
}

// session plays a session and hands out its deltas; the trail is then its end.
func (s *synthetic) session(apply func(Delta)) {
	s.key++
	s.trail.Begin(s.key)
	near := int(math.Pow(s.r.Float64(), 3) * float64(s.items))
	n := 2 + int(min(28, math.Pow(s.r.Float64(), -1/1.8)-1))
	for range n {
		s.at += int64(s.r.IntN(20_000))
		i := int(math.Pow(s.r.Float64(), 3) * float64(s.items))
		if s.r.IntN(3) > 0 { // sessions stay in a neighbourhood of the catalogue
			i = (near + s.r.IntN(40)) % s.items
		}
		apply(s.trail.Add(s.ids[i], View, s.at))
	}
}

func (s *synthetic) query() Query {
	return Query{N: 21, Items: s.trail.Items(), Now: s.at, Surface: SurfaceProduct}
}

// BenchmarkObserve is the running shop's cost of an event, lessons included, and
// BenchmarkApply without them.
func BenchmarkApply(b *testing.B) {
	for _, mode := range []string{"apply", "observe"} {
		b.Run(mode, func(b *testing.B) {
			thread(b)
			sh := newSynthetic(20_000)
			x, scratch := New(DefaultConfig()), new(Scratch)
			for range 50_000 {
				sh.session(x.Apply)
			}
			var ds []Delta
			for range 20_000 {
				sh.session(func(d Delta) {
					d.Previous = slices.Clone(d.Previous)
					ds = append(ds, d)
				})
			}
			b.ReportAllocs()
			t, n := threadCPU(), 0
			for b.Loop() {
				if d := ds[n%len(ds)]; mode == "apply" {
					x.Apply(d)
				} else {
					x.Observe(d, scratch)
				}
				n++
			}
			b.ReportMetric(float64((threadCPU()-t).Nanoseconds())/1e3/float64(n), "cpu-us/event")
		})
	}
}

// BenchmarkItems is the table of sizes: a shop of 10^4 to 10^6 items under
// power-law load, three sessions an item, at most MaxSessions held.
func BenchmarkItems(b *testing.B) {
	for _, items := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(items), func(b *testing.B) {
			thread(b)
			var before, after runtime.MemStats
			sh := newSynthetic(items)
			runtime.GC()
			runtime.ReadMemStats(&before)
			cfg := DefaultConfig()
			cfg.MaxItems, cfg.MaxSessions = max(cfg.MaxItems, items), max(cfg.MaxSessions, items)
			cfg.LearnEvery = 256
			x, s := New(cfg), new(Scratch)
			events, t := 0, threadCPU()
			for range min(3*items, 2_000_000) {
				sh.session(func(d Delta) { x.Apply(d); events++ })
			}
			update := threadCPU() - t
			runtime.GC()
			runtime.ReadMemStats(&after)
			for range 300 { // open the gate honestly or not at all
				sh.session(func(d Delta) { x.Observe(d, s) })
			}
			var c clocked
			out := make([]Answer, 0, 100)
			for b.Loop() {
				sh.session(func(Delta) {})
				c.time(func() { out = x.Recommend(sh.query(), s, out[:0]) })
			}
			c.report(b)
			b.ReportMetric(float64(update.Nanoseconds())/1e3/float64(events), "update-us/event")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "heap-MB")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(x.id)), "B/item")
			b.ReportMetric(float64(len(x.id)), "items")
		})
	}
}

// BenchmarkDiginetica builds an index of the standard training sessions as a
// stream, takes it back from a snapshot, and answers the test sessions' steps.
func BenchmarkDiginetica(b *testing.B) {
	rows := openData(b, "diginetica_sessions.csv.gz")[1:]
	var train, test [][]string
	for _, r := range rows {
		if items := strings.Fields(r[2]); r[0] == "train" {
			train = append(train, items)
		} else {
			test = append(test, items)
		}
	}
	build := func(cfg Config, learn bool) (*Index, int) {
		x, s, events := New(cfg), new(Scratch), 0
		var tr Trail
		for k, items := range train {
			tr.Begin(uint64(k + 1))
			for _, id := range items {
				if d := tr.Add(id, View, int64(k)*60_000); learn {
					x.Observe(d, s)
				} else {
					x.Apply(d)
				}
				events++
			}
		}
		return x, events
	}
	b.Run("build", func(b *testing.B) {
		thread(b)
		t, events, n := threadCPU(), 0, 0
		for b.Loop() {
			_, e := build(DefaultConfig(), false)
			events += e
			n++
		}
		took := threadCPU() - t
		b.ReportMetric(took.Seconds()/float64(n), "cpu-s/build")
		b.ReportMetric(float64(took.Nanoseconds())/1e3/float64(events), "cpu-us/event")
	})
	b.Run("restore", func(b *testing.B) {
		thread(b)
		x, _ := build(DefaultConfig(), false)
		var snapshot, again bytes.Buffer
		if _, err := x.WriteTo(&snapshot); err != nil {
			b.Fatal(err)
		}
		t, n := threadCPU(), 0
		var y *Index
		for b.Loop() {
			var err error
			if y, err = ReadIndex(bytes.NewReader(snapshot.Bytes()), DefaultConfig()); err != nil {
				b.Fatal(err)
			}
			n++
		}
		b.ReportMetric((threadCPU()-t).Seconds()/float64(n), "cpu-s/restore")
		b.ReportMetric(float64(snapshot.Len())/1e6, "MB")
		if _, err := y.WriteTo(&again); err != nil || !bytes.Equal(snapshot.Bytes(), again.Bytes()) {
			b.Errorf("the restored index writes another snapshot (%v)", err)
		}
	})
	for _, rate := range []float64{0, DefaultConfig().SecondRate} {
		name := map[bool]string{true: "linear", false: "second stage"}[rate == 0]
		b.Run(name, func(b *testing.B) {
			thread(b)
			cfg := DefaultConfig()
			cfg.SecondRate, cfg.LearnEvery = rate, 64
			x, _ := build(cfg, true)
			if x.ranker.second.on != (rate > 0) {
				b.Fatalf("second stage on: %v", x.ranker.second.on)
			}
			var c clocked
			var tr Trail
			s, out := new(Scratch), make([]Answer, 0, 100)
			b.ReportAllocs()
			for k := 0; b.Loop(); k++ {
				tr.Begin(0)
				for i, id := range test[k%len(test)] {
					if i > 0 {
						q := Query{N: 20, Items: tr.Items(), Now: x.latest, Surface: SurfaceProduct, KeepSeen: true, KeepCurrent: true}
						c.time(func() { out = x.Recommend(q, s, out[:0]) })
					}
					tr.Add(id, View, x.latest)
				}
			}
			c.report(b)
		})
	}
	b.Run("VMIS-kNN", func(b *testing.B) {
		thread(b)
		number := func(items []string) []uint32 {
			var out []uint32
			for _, id := range items {
				n, err := strconv.ParseUint(id, 10, 32)
				if err != nil {
					b.Fatal(err)
				}
				out = append(out, uint32(n))
			}
			return out
		}
		var sessions []VMISSession
		for k, items := range train {
			sessions = append(sessions, VMISSession{Last: int64(k), Items: number(items)})
		}
		v := NewVMIS(sessions, 500, 50, 20, 1)
		var c clocked
		b.ReportAllocs()
		for k := 0; b.Loop(); k++ {
			items := number(test[k%len(test)])
			for n := 1; n < len(items); n++ {
				c.time(func() { v.Recommend(items[max(0, n-2):n], 20) })
			}
		}
		c.report(b)
	})
}

func TestAnswersDoNotAllocate(t *testing.T) {
	sh := newSynthetic(2000)
	x, s := New(DefaultConfig()), new(Scratch)
	for range 3000 {
		sh.session(func(d Delta) { x.Observe(d, s) })
	}
	for _, on := range []bool{false, true} {
		x.ranker.second.on = on
		out := make([]Answer, 0, 100)
		answer := func() {
			sh.session(func(Delta) {})
			out = x.Recommend(sh.query(), s, out[:0])
		}
		for range 2000 { // the scratch grows to what the queries need
			answer()
		}
		if n := testing.AllocsPerRun(500, answer); n != 0 {
			t.Errorf("%g allocations per answer, second stage %v, want 0", n, on)
		}
	}
	sessions := []VMISSession{{1, []uint32{1, 2, 3}}, {2, []uint32{2, 3, 4}}, {3, []uint32{5, 2}}}
	v := NewVMIS(sessions, 2, 2, 9, 1)
	v.Recommend([]uint32{1, 2, 3, 4, 5, 6}, 20)
	if n := testing.AllocsPerRun(100, func() { v.Recommend([]uint32{2, 3}, 20) }); n != 0 {
		t.Errorf("%g allocations per answer of the reference, want 0", n)
	}
}
