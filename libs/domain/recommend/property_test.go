package recommend

import (
	"bytes"
	stdcmp "cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// verify checks what must hold of any index.
func verify(t interface {
	Helper()
	Errorf(string, ...any)
}, x *Index,
) {
	t.Helper()
	cfg := x.cfg
	if len(x.id) > cfg.MaxItems || len(x.session) > cfg.MaxSessions || len(x.sessKey) > cfg.MaxSessions {
		t.Errorf("%d items, %d sessions, caps %d and %d", len(x.id), len(x.session), cfg.MaxItems, cfg.MaxSessions)
	}
	room := max(cfg.MaxItems, len(x.items)) // a restore holds the snapshot's items before it drops
	if n := 3 * room * cfg.PostingsPerItem; len(x.posts.seq) > n {
		t.Errorf("%d posting slots, at most %d", len(x.posts.seq), n)
	}
	known := func(i uint32) bool { return int(i) < len(x.items) && x.items[i].used }
	for r := range x.near {
		if n := 3 * room * 2 * cfg.NeighboursPerItem; len(x.near[r].to) > n {
			t.Errorf("relation %d: %d slots, at most %d", r, len(x.near[r].to), n)
		}
	}
	for i := range x.items {
		it := &x.items[i]
		if int(it.post.n) > cfg.PostingsPerItem {
			t.Errorf("item %d: %d postings", i, it.post.n)
		}
		for r := range it.near {
			l := it.near[r]
			if int(l.n) > 2*cfg.NeighboursPerItem {
				t.Errorf("item %d relation %d: %d neighbours", i, r, l.n)
			}
			seen := map[uint32]bool{}
			for k := l.off; k < l.off+uint32(l.n); k++ {
				to, w := x.near[r].to[k], float64(x.near[r].w[k].total())
				if !known(to) || to == uint32(i) || seen[to] || !(w >= 0 && w < math.MaxFloat32) {
					t.Errorf("item %d relation %d: neighbour %d weight %g", i, r, to, w)
				}
				seen[to] = true
			}
		}
		for w, c := range it.count {
			if !(c >= 0 && c < math.MaxFloat32) {
				t.Errorf("item %d window %d: count %g", i, w, c)
			}
		}
	}
	for s, v := range x.visits {
		if int(v.n) > cfg.SessionLength {
			t.Errorf("session slot %d: %d items", s, v.n)
		}
		for _, i := range x.run(s) {
			if !known(i) {
				t.Errorf("session slot %d names item %d", s, i)
			}
		}
	}
	shelved(t, x)
	for w := range x.top {
		top := x.top[w]
		if len(top) > cfg.TopItems {
			t.Errorf("top list %d has %d items", w, len(top))
		}
		for r, i := range top {
			if !known(i) || int(x.items[i].rank[w]) != r+1 || r > 0 && x.items[top[(r-1)/2]].count[w] > x.items[i].count[w] {
				t.Errorf("top list %d place %d: item %d out of order", w, r, i)
			}
		}
	}
}

// shelved checks the categories' lists.
func shelved(t interface {
	Helper()
	Errorf(string, ...any)
}, x *Index,
) {
	t.Helper()
	for c, s := range x.shelves {
		if len(s.top) > shelfTop || len(s.fresh) > shelfFresh {
			t.Errorf("category %d: %d at the top, %d fresh", c, len(s.top), len(s.fresh))
		}
		for _, list := range [][]uint32{s.top, s.fresh} {
			seen := map[uint32]bool{}
			for _, i := range list {
				if int(i) >= len(x.items) || !x.items[i].used || x.items[i].category != uint32(c) || seen[i] {
					t.Errorf("category %d: item %d", c, i)
				}
				seen[i] = true
			}
		}
		for r := 1; r < len(s.top); r++ {
			if x.items[s.top[r-1]].count[Month] < x.items[s.top[r]].count[Month] {
				t.Errorf("category %d: place %d out of order", c, r)
			}
		}
	}
}

// heaviest is the top list by brute force; only its weights are unambiguous.
func heaviest(x *Index, w Window) []float32 {
	var all []float32
	for i := range x.items {
		if x.items[i].used && x.items[i].count[w] > 0 {
			all = append(all, x.items[i].count[w])
		}
	}
	slices.SortFunc(all, func(a, b float32) int { return stdcmp.Compare(b, a) })
	return all[:min(len(all), x.cfg.TopItems)]
}

func drawConfig(t *rapid.T) Config {
	c := smallConfig()
	c.MaxItems = rapid.IntRange(3, 40).Draw(t, "max items")
	c.MaxSessions = rapid.IntRange(1, 12).Draw(t, "max sessions")
	c.SessionLength = rapid.IntRange(2, 6).Draw(t, "session length")
	c.PostingsPerItem = rapid.IntRange(1, 9).Draw(t, "postings")
	c.NeighboursPerItem = rapid.IntRange(1, 5).Draw(t, "neighbours")
	c.TopItems = rapid.IntRange(1, 8).Draw(t, "top")
	c.MaxCandidates = rapid.IntRange(1, 40).Draw(t, "candidates")
	c.QueryItems = rapid.IntRange(1, 6).Draw(t, "query items")
	c.M, c.K = rapid.IntRange(1, 12).Draw(t, "m"), rapid.IntRange(1, 6).Draw(t, "k")
	return c
}

// drawTraffic returns steps that feed an index: deltas of a few sessions at a
// time, products, times that mostly go on and sometimes leap or fall back.
func drawTraffic(t *rapid.T) []func(x *Index) {
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	n := rapid.IntRange(0, 300).Draw(t, "events")
	items := rapid.IntRange(1, 60).Draw(t, "catalogue")
	at := int64(start)
	type state struct {
		prev []Previous
		had  map[string]bool
	}
	open := map[uint64]*state{}
	var steps []func(x *Index)
	for k := range n {
		switch r.IntN(100) {
		case 0:
			at += int64(r.IntN(2000)) * day
		case 1:
			at -= int64(r.IntN(40)) * day
		default:
			at += int64(r.IntN(20)) * minute
		}
		id := fmt.Sprint("i", min(r.IntN(items), r.IntN(items)))
		if r.IntN(20) == 0 {
			category, active := fmt.Sprint("c", r.IntN(4)), r.IntN(4) > 0
			steps = append(steps, func(x *Index) { x.SetProduct(id, "n"+id, category, "brand", 5, active) })
			continue
		}
		key := uint64(1 + k/12 + r.IntN(3))
		s := open[key]
		if s == nil {
			s = &state{had: map[string]bool{}}
			open[key] = s
		}
		kind := Kind(max(0, r.IntN(6)-3))
		others := slices.DeleteFunc(slices.Clone(s.prev), func(p Previous) bool { return p.Item == id })
		what := fmt.Sprint(kind, id)
		d := Delta{Session: key, Item: id, Kind: kind, At: at, First: !s.had[what], Previous: others}
		s.had[what] = true
		s.prev = append([]Previous{{id, kind, at}}, others...)
		q := Query{Session: key, Now: at, KeepSeen: true, Surface: Surface(r.IntN(int(surfaces)))}
		for _, p := range slices.Backward(others) {
			q.Items = append(q.Items, QueryItem(p))
		}
		steps = append(steps, func(x *Index) {
			x.Learn(q, id, new(Scratch))
			x.Apply(d)
		})
	}
	return steps
}

func drawQuery(t *rapid.T) Query {
	q := Query{
		Session: rapid.Uint64Range(0, 30).Draw(t, "session"), N: rapid.IntRange(0, 25).Draw(t, "n"),
		Surface: Surface(rapid.IntRange(0, int(surfaces)).Draw(t, "surface")), KeepSeen: rapid.Bool().Draw(t, "keep seen"), KeepCurrent: rapid.Bool().Draw(t, "keep current"),
		Method:      Method(rapid.IntRange(0, int(ByPopularity)).Draw(t, "method")),
		PerCategory: rapid.IntRange(0, 3).Draw(t, "per category"), PerBrand: rapid.IntRange(0, 9).Draw(t, "per brand"),
		Now: start + rapid.Int64Range(-day, 4000*day).Draw(t, "now"),
	}
	id := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("i", rapid.IntRange(0, 62).Draw(t, "id")) })
	for range rapid.IntRange(0, 8).Draw(t, "length") {
		q.Items = append(q.Items, QueryItem{id.Draw(t, "item"), Kind(rapid.IntRange(0, 2).Draw(t, "kind")), start})
	}
	q.Exclude = rapid.SliceOfN(id, 0, 4).Draw(t, "exclude")
	q.Purchased = rapid.SliceOfN(id, 0, 4).Draw(t, "purchased")
	return q
}

// TestAnyTraffic holds for any traffic, caps and query: caps and structure,
// equal indexes from equal deltas, equal bytes and answers after a restore,
// answers that obey the query, and no influence of the scratch's past.
func TestAnyTraffic(t *testing.T) {
	used := new(Scratch) // of all runs
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawConfig(t)
		x, y := New(cfg), New(cfg)
		steps := drawTraffic(t)
		for _, step := range steps {
			step(x)
		}
		for _, step := range steps {
			step(y)
		}
		verify(t, x)
		var bx, by, bz bytes.Buffer
		for _, w := range []struct {
			x *Index
			b *bytes.Buffer
		}{{x, &bx}, {y, &by}} {
			if n, err := w.x.WriteTo(w.b); err != nil || n != int64(w.b.Len()) {
				t.Fatalf("wrote %d of %d bytes: %v", n, w.b.Len(), err)
			}
		}
		if !bytes.Equal(bx.Bytes(), by.Bytes()) {
			t.Fatal("the same deltas made another index")
		}
		z, err := ReadIndex(bytes.NewReader(bx.Bytes()), cfg)
		if err != nil {
			t.Fatal(err)
		}
		verify(t, z)
		if _, err := z.WriteTo(&bz); err != nil || !bytes.Equal(bx.Bytes(), bz.Bytes()) {
			t.Fatalf("a restored index writes other bytes (%v)", err)
		}
		more := drawTraffic(t)
		for range 3 {
			q := drawQuery(t)
			want := x.Recommend(q, new(Scratch), nil)
			obeys(t, x, q, want)
			if diff := cmp.Diff(want, z.Recommend(q, used, nil)); diff != "" {
				t.Fatalf("a restored index with a used scratch answers otherwise\n%s", diff)
			}
			for _, step := range more { // a restored index goes on like the first
				step(x)
				step(z)
			}
		}
		verify(t, z)
	})
}

func obeys(t *rapid.T, x *Index, q Query, got []Answer) {
	if len(got) > max(0, q.N) {
		t.Errorf("%d answers, asked for %d", len(got), q.N)
	}
	seen := map[string]bool{}
	category := map[string]int{}
	for k, a := range got {
		p, ok := x.Product(a.Item)
		if !ok || !p.Active || seen[a.Item] || slices.Contains(q.Exclude, a.Item) || slices.Contains(q.Purchased, a.Item) {
			t.Errorf("answer %q must not be shown", a.Item)
		}
		seen[a.Item] = true
		for j, e := range q.Items {
			if e.Item == a.Item && (e.Kind == Order || j == len(q.Items)-1 && !q.KeepCurrent || a.Item != q.Items[len(q.Items)-1].Item && !q.KeepSeen) {
				t.Errorf("answer %q is of the session", a.Item)
			}
		}
		if p.Category != "" {
			category[p.Category]++
			if q.PerCategory > 0 && category[p.Category] > q.PerCategory {
				t.Errorf("category %q is shown too often", p.Category)
			}
		}
		if !(a.Score >= 0 && a.Score <= 100) {
			t.Errorf("answer %q scores %g", a.Item, a.Score)
		}
		if k > 0 && (got[k-1].Level > a.Level || got[k-1].Level == a.Level && got[k-1].Score < a.Score) {
			t.Errorf("answers %d and %d are out of order", k-1, k)
		}
		if len(a.Reasons) == 0 {
			t.Errorf("answer %q has no reason", a.Item)
		}
		for _, r := range a.Reasons {
			if !(r.Share >= 0 && r.Share <= 1+1e-6) {
				t.Errorf("reason %v has share %g", r, r.Share)
			}
		}
	}
}

// TestTopListsAreExact compares the bounded lists with a full sort; items are
// never dropped here, since a drop may leave a list short until it fills again.
func TestTopListsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := drawConfig(t)
		cfg.MaxItems = 100
		x := New(cfg)
		for _, step := range drawTraffic(t) {
			step(x)
		}
		for w := range windows {
			var got []float32
			for _, i := range x.top[w] {
				if c := x.items[i].count[w]; c > 0 {
					got = append(got, c)
				}
			}
			slices.SortFunc(got, func(a, b float32) int { return stdcmp.Compare(b, a) })
			if diff := cmp.Diff(heaviest(x, w), got); diff != "" {
				t.Fatalf("%s (-want +got)\n%s", w, diff)
			}
		}
	})
}

func TestSelectFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sims := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 60).Draw(t, "sims")
		var a []neighbour
		for k, s := range sims {
			a = append(a, neighbour{sim: uint64(s), slot: uint32(k), age: uint32(k)})
		}
		want := slices.Clone(a)
		slices.SortFunc(want, func(a, b neighbour) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		k := rapid.IntRange(1, len(a)).Draw(t, "k")
		selectFirst(a, k)
		got := a[:k]
		slices.SortFunc(got, func(a, b neighbour) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		if !slices.Equal(got, want[:k]) {
			t.Errorf("first %d are %v, want %v", k, got, want[:k])
		}
	})
}

func TestSequenceNumbersWrap(t *testing.T) {
	cfg := smallConfig()
	x := New(cfg)
	x.nextSeq = x.wrap() - uint32(cfg.MaxSessions)/2 // as after four thousand million sessions
	x.sessKey, x.visits = make([]uint64, cfg.MaxSessions), make([]slot, cfg.MaxSessions)
	x.sessItem = make([]uint32, cfg.MaxSessions*cfg.SessionLength)
	for k := range cfg.MaxSessions {
		visit(x, uint64(1000+k)).does(View, start+int64(k), "a", fmt.Sprint("b", k))
	}
	verify(t, x)
	post := &x.items[x.id["a"]].post
	for k := range int(post.n) {
		s, ok := x.slot(x.posts.at(post, k))
		if want := uint64(1000 + cfg.MaxSessions - 1 - k); !ok || x.sessKey[s] != want {
			t.Errorf("posting %d: session %d held %v, want %d", k, x.sessKey[s], ok, want)
		}
	}
}

func TestRestoreUnderOtherCaps(t *testing.T) {
	cfg := smallConfig()
	x := New(cfg)
	for k := range uint64(40) {
		visit(x, 1+k).does(View, start+int64(k)*minute, fmt.Sprint("i", k), fmt.Sprint("i", k+1), "hub", fmt.Sprint("i", k+2))
	}
	var b bytes.Buffer
	if _, err := x.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	small, large := cfg, cfg
	small.MaxItems, small.MaxSessions, small.SessionLength = 20, 10, 3
	small.PostingsPerItem, small.NeighboursPerItem, small.TopItems = 2, 1, 2
	large.MaxItems, large.MaxSessions, large.TopItems = 100, 100, 50
	for name, c := range map[string]Config{"smaller": small, "larger": large} {
		t.Run(name, func(t *testing.T) {
			y, err := ReadIndex(bytes.NewReader(b.Bytes()), c)
			if err != nil {
				t.Fatal(err)
			}
			verify(t, y)
			visit(y, 100).does(View, start+hour, "hub", "fresh", "more", "i41")
			verify(t, y)
			if got := y.Recommend(Query{Items: []QueryItem{{Item: "hub"}}, N: 3}, new(Scratch), nil); len(got) != 3 {
				t.Errorf("answers %v, want 3", got)
			}
		})
	}
	other := cfg
	other.PairDays++
	if _, err := ReadIndex(bytes.NewReader(b.Bytes()), other); !errors.Is(err, ErrSnapshot) {
		t.Errorf("another decay time gives %v, want ErrSnapshot", err)
	}
}

func sampleSnapshot(tb testing.TB) []byte {
	tb.Helper()
	x := New(smallConfig())
	x.SetProduct("b", "B", "shoes", "Acme", 1, true)
	visit(x, 1).does(View, start, "a", "b", "c").does(Cart, start, "b").does(Order, start, "b", "c")
	visit(x, 2).does(View, start+hour, "c", "a")
	var b bytes.Buffer
	if _, err := x.WriteTo(&b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestDamagedSnapshots(t *testing.T) {
	good := sampleSnapshot(t)
	for k := range good {
		if _, err := ReadIndex(bytes.NewReader(good[:k]), smallConfig()); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("cut at %d: %v, want ErrSnapshot", k, err)
		}
		bad := bytes.Clone(good)
		bad[k] ^= 0x10
		if _, err := ReadIndex(bytes.NewReader(bad), smallConfig()); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("bit turned in byte %d: %v, want ErrSnapshot", k, err)
		}
	}
}

// FuzzReadIndex reads any bytes, with the checksum set right so that the parser
// behind it is reached.
func FuzzReadIndex(f *testing.F) {
	good := sampleSnapshot(f)
	f.Add(good[4 : len(good)-8]) // one frame without its length and the end
	f.Add([]byte(snapshotMagic + "\x02"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var framed bytes.Buffer
		e := &encoder{w: &framed, table: castagnoli(), buf: body[:min(len(body), chunk)]}
		e.end()
		x, err := ReadIndex(&framed, smallConfig())
		if err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatalf("%v does not wrap ErrSnapshot", err)
			}
			return
		}
		visit(x, 5).does(View, start, "a", "z", "c").does(Order, start+day, "c", "y")
		for _, a := range x.Recommend(Query{Items: []QueryItem{{Item: "a"}}, N: 20, Now: start}, new(Scratch), nil) {
			if math.IsNaN(a.Score) {
				t.Fatalf("%q scores NaN", a.Item)
			}
		}
		if _, err := x.WriteTo(&bytes.Buffer{}); err != nil {
			t.Fatal(err)
		}
	})
}
