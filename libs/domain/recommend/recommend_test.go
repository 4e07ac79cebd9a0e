package recommend

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
	start  = 1_700_000_000_000
)

func smallConfig() Config {
	c := DefaultConfig()
	c.MaxItems, c.MaxSessions, c.SessionLength = 64, 32, 5
	c.PostingsPerItem, c.NeighboursPerItem, c.TopItems = 6, 3, 4
	c.MaxCandidates, c.MaxAnswers = 32, 20
	return c
}

// visitor sends what a sessioniser would send for one session.
type visitor struct {
	x    *Index
	key  uint64
	prev []Previous
	had  map[string]bool
}

func visit(x *Index, key uint64) *visitor { return &visitor{x: x, key: key, had: map[string]bool{}} }

func (v *visitor) does(kind Kind, at int64, items ...string) *visitor {
	for _, id := range items {
		var others []Previous
		strongest := kind
		for _, p := range v.prev {
			if p.Item == id {
				strongest = max(strongest, p.Kind)
			} else {
				others = append(others, p)
			}
		}
		what := fmt.Sprint(kind, id)
		v.x.Apply(Delta{Session: v.key, Item: id, Kind: kind, At: at, First: !v.had[what], Previous: others})
		v.had[what] = true
		v.prev = append([]Previous{{id, strongest, at}}, others...)
	}
	return v
}

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-5*max(1, math.Abs(want)) }

// tie returns how strongly an item is tied to another at a time.
func tie(x *Index, r relation, from, to string, now int64) (step, ahead, behind float64, n uint32) {
	s, _ := x.near[r].find(&x.items[x.id[from]].near[r], x.id[to])
	worth := x.pair.worth(now)
	return float64(s.step) * worth, float64(s.ahead) * worth, float64(s.behind) * worth, s.n
}

// weightOf returns a relation's weight ahead and evidence at a time.
func weightOf(x *Index, r relation, from, to string, now int64) (float64, uint32) {
	_, w, _, n := tie(x, r, from, to, now)
	return w, n
}

func TestPairWeights(t *testing.T) {
	cfg := smallConfig() // gap half-life 15 minutes, age half-life 21 days
	x := New(cfg)
	visit(x, 1).does(View, start, "a").does(View, start+15*minute, "b").does(View, start+15*minute, "c")
	for _, tc := range []struct {
		name     string
		r        relation
		from, to string
		now      int64
		want     float64
		n        uint32
	}{
		{"one step, one gap half-life", viewed, "a", "b", start + 15*minute, 1. / 2, 1},
		{"two steps, one gap half-life", viewed, "a", "c", start + 15*minute, 1. / 2 / 2, 1},
		{"one step, no gap", viewed, "b", "c", start + 15*minute, 1, 1},
		{"ahead is directed", viewed, "c", "b", start + 15*minute, 0, 1},
		{"an age half-life later", viewed, "b", "c", start + 15*minute + 60*day, 1. / 2, 1},
		{"views are no carts", cartedAfter, "a", "b", start, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, n := weightOf(x, tc.r, tc.from, tc.to, tc.now)
			if !near(got, tc.want) || n != tc.n {
				t.Errorf("weight %g by %d sessions, want %g by %d", got, n, tc.want, tc.n)
			}
		})
	}
	for _, tc := range []struct {
		from, to            string
		step, ahead, behind float64
	}{
		{"a", "b", 1. / 2, 1. / 2, 0},
		{"b", "a", 0, 0, 1. / 2},
		{"a", "c", 0, 1. / 4, 0},
		{"c", "a", 0, 0, 1. / 4},
	} {
		step, ahead, behind, _ := tie(x, viewed, tc.from, tc.to, start+15*minute)
		if !near(step, tc.step) || !near(ahead, tc.ahead) || !near(behind, tc.behind) {
			t.Errorf("%s-%s: step %g, ahead %g, behind %g, want %g, %g, %g", tc.from, tc.to, step, ahead, behind, tc.step, tc.ahead, tc.behind)
		}
	}
}

func TestReturnToAnItemIsNoSecondSession(t *testing.T) {
	x := New(smallConfig())
	visit(x, 1).does(View, start, "a", "b", "a", "b")
	if _, ahead, behind, n := tie(x, viewed, "a", "b", start); !near(ahead, 2) || !near(behind, 1) || n != 1 {
		t.Errorf("a-b ahead %g, behind %g by %d sessions, want 2, 1 by 1", ahead, behind, n)
	}
	if n := x.items[x.id["a"]].sessions; n != 1 {
		t.Errorf("a in %d sessions, want 1", n)
	}
}

func TestCartAndOrderRelations(t *testing.T) {
	x := New(smallConfig())
	visit(x, 1).does(View, start, "seen", "bag").does(Cart, start, "bag").does(View, start, "strap").
		does(Cart, start, "strap").does(Order, start, "bag", "strap")
	for _, tc := range []struct {
		name     string
		r        relation
		from, to string
		want     float64
	}{
		{"carted after it was seen", cartedAfter, "seen", "bag", 1},
		{"items of one cart, forward", cartedAfter, "bag", "strap", 1},
		{"items of one cart, back", cartedAfter, "strap", "bag", 1},
		{"a cart does not lead back to what was only seen", cartedAfter, "bag", "seen", 0},
		{"lines of one order", boughtWith, "bag", "strap", 1},
		{"lines of one order, back", boughtWith, "strap", "bag", 1},
		{"bought after it was seen, two steps", boughtAfter, "seen", "bag", 1. / 2},
		{"what was bought with it is not bought after it", boughtAfter, "bag", "strap", 0},
		{"nothing was bought with what was only seen", boughtWith, "seen", "bag", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, _ := weightOf(x, tc.r, tc.from, tc.to, start); !near(got, tc.want) {
				t.Errorf("weight %g, want %g", got, tc.want)
			}
		})
	}
}

func TestLandmarkMoves(t *testing.T) {
	x := New(smallConfig())
	visit(x, 1).does(View, start, "a", "b")
	far := start + 60*365*day // 60 years: exponents of every scale leave their range
	visit(x, 2).does(View, far, "b", "c")
	if w, _ := weightOf(x, viewed, "b", "c", far); !near(w, 1) {
		t.Errorf("new pair %g, want 1", w)
	}
	if w, _ := weightOf(x, viewed, "a", "b", far); w > 1e-9 {
		t.Errorf("old pair %g, want nothing", w)
	}
	if c := float64(x.items[x.id["c"]].count[Hour]) * x.win[Hour].worth(far); !near(c, 1) {
		t.Errorf("hour count %g, want 1", c)
	}
	visit(x, 3).does(View, start, "c", "a") // known late
	if w, _ := weightOf(x, viewed, "c", "a", far); math.IsNaN(w) || w > 1e-9 {
		t.Errorf("late pair %g, want nothing", w)
	}
}

// TestNeighbourScore follows the formula by hand. The query is p, q (q newest);
// session 1 is q, r and session 2 is p, s; they share one item each.
func TestNeighbourScore(t *testing.T) {
	cfg := smallConfig()
	cfg.AgeDays = 10
	x := New(cfg)
	visit(x, 1).does(View, start, "q", "r")
	visit(x, 2).does(View, start+5*day, "s", "p")
	now := start + 10*day
	s := new(Scratch)
	s.begin(x)
	q := Query{Items: []QueryItem{{Item: "p"}, {Item: "q"}}, Now: now}
	x.read(&q, s)
	x.neighbours(&q, s)
	// position weight x age weight / sqrt(2 items) x match weight x distance weight (x backward)
	want := map[string]float64{
		"r": 1 * math.Exp(-1) / math.Sqrt2 * 1 * math.Exp(-1/cfg.Distance),
		"s": math.Exp(-1/cfg.QueryStep) * math.Exp(-.5) / math.Sqrt2 * math.Exp(-1/cfg.MatchStep) * math.Exp(-1/cfg.Distance) * cfg.Backward,
	}
	got := map[string]float64{}
	for _, c := range s.cands {
		// Both items are in one of two sessions: the same factor 1 + w ln 2.
		got[x.ids[c.item]] = float64(c.from[fromSessions]) / (1 + cfg.IDFWeight*math.Ln2)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-5, 0)); diff != "" {
		t.Errorf("votes (-want +got)\n%s", diff)
	}
}

// TestRelatedShares follows shares and the two-hop walk by hand.
func TestRelatedShares(t *testing.T) {
	x := New(smallConfig())
	for k := range uint64(3) {
		visit(x, 1+k).does(View, start, "a", "b")
	}
	visit(x, 4).does(View, start, "a", "c")
	visit(x, 5).does(View, start, "b", "d")
	s := new(Scratch)
	s.begin(x)
	q := Query{Items: []QueryItem{{Item: "a"}}, Now: start}
	x.read(&q, s)
	x.relate(&q, s)
	x.walk(&q, s)
	share := map[string]float64{"b": 3. / (4 + smoothing), "c": 1. / (4 + smoothing)}
	// From a to b .6 and on to d, of b's ties d 1 and back to a 3.
	hops := map[string]float64{"d": 3. / (4 + smoothing) * 1 / (4 + smoothing)}
	for _, c := range s.cands {
		id := x.ids[c.item]
		if got := float64(c.from[fromAhead]); !near(got, share[id]) {
			t.Errorf("%s: share %g, want %g", id, got, share[id])
		}
		if got := float64(c.from[fromWalk]); !near(got, hops[id]) {
			t.Errorf("%s: walk %g, want %g", id, got, hops[id])
		}
	}
	if len(s.cands) != 3 {
		t.Errorf("%d candidates, want b, c, d", len(s.cands))
	}
}

func TestWindows(t *testing.T) {
	x := New(smallConfig())
	for k := range uint64(48) { // one an hour, two days long
		visit(x, 1+k).does(View, start+int64(k)*hour, "steady")
	}
	now := start + 47*hour
	count := func(w Window, at int64) float64 {
		return float64(x.items[x.id["steady"]].count[w]) * x.win[w].worth(at)
	}
	e := math.Exp(-1)
	for _, tc := range []struct {
		name string
		got  float64
		want float64
	}{
		{"hour: sum of e^-k", count(Hour, now), (1 - math.Pow(e, 48)) / (1 - e)},
		{"day: sum of e^-k/24", count(Day, now), (1 - math.Exp(-2)) / (1 - math.Exp(-1./24))},
		{"an hour later, of the hour", count(Hour, now+hour), e * (1 - math.Pow(e, 48)) / (1 - e)},
		{"a half-life of the popular counter later", count(Month, now+30*day) / count(Month, now), .5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !near(tc.got, tc.want) {
				t.Errorf("count %g, want %g", tc.got, tc.want)
			}
		})
	}
}

func answers(as []Answer) string {
	var b strings.Builder
	for _, a := range as {
		fmt.Fprintf(&b, "%s:%s ", a.Item, a.Level)
	}
	return strings.TrimSpace(b.String())
}

func TestFallbackChain(t *testing.T) {
	x := New(smallConfig())
	if got := x.Recommend(Query{N: 5, Now: start}, new(Scratch), nil); len(got) != 0 {
		t.Fatalf("an empty index answers %v", got)
	}
	visit(x, 1).does(View, start-60*day, "old").does(Order, start-60*day, "old")
	for k := range uint64(3) {
		visit(x, 2+k).does(View, start, "hot")
		visit(x, 10+k).does(View, start, "a", "b")
		visit(x, 20+k).does(View, start, "b", "c")
	}
	for _, tc := range []struct {
		name string
		q    Query
		want string
	}{
		{"nothing known", Query{N: 5}, "b:trending hot:trending a:trending c:trending old:popular"},
		{"unknown items only", Query{N: 1, Items: []QueryItem{{Item: "?"}}}, "b:trending"},
		{"one item", Query{N: 2, Items: []QueryItem{{Item: "a"}}}, "b:item c:item"},
		{"several items", Query{N: 3, Items: []QueryItem{{Item: "a"}, {Item: "b"}}}, "c:personal hot:trending old:popular"},
		{"only popular is left of a quiet shop", Query{N: 2, Now: start + 90*day}, "b:popular old:popular"},
		{"none asked for", Query{N: 0}, ""},
		{"more than the cap asked for", Query{N: 1000, Exclude: []string{"a", "b", "c", "hot"}}, "old:popular"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := answers(x.Recommend(tc.q, new(Scratch), nil)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestFilters(t *testing.T) {
	x := New(smallConfig())
	for k := range uint64(3) {
		visit(x, 1+k).does(View, start, "a", "b", "c", "d", "e")
	}
	x.SetProduct("e", "E", "", "", 1, false)
	has := func(as []Answer, id string) bool {
		for _, a := range as {
			if a.Item == id {
				return true
			}
		}
		return false
	}
	items := []QueryItem{{Item: "c", Kind: Order}, {Item: "b"}, {Item: "a"}}
	for _, tc := range []struct {
		name string
		q    Query
		id   string
		want bool
	}{
		{"nothing against it", Query{Items: items}, "d", true},
		{"excluded", Query{Items: items, Exclude: []string{"d", "unknown"}}, "d", false},
		{"purchased before", Query{Items: items, Purchased: []string{"d"}}, "d", false},
		{"inactive", Query{Items: items}, "e", false},
		{"inactive, nothing else known", Query{}, "e", false},
		{"seen", Query{Items: items}, "b", false},
		{"seen, may come back", Query{Items: items, KeepSeen: true}, "b", true},
		{"bought in this session", Query{Items: items, KeepSeen: true}, "c", false},
		{"current item", Query{Items: items, KeepSeen: true}, "a", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.q.N = 20
			if got := has(x.Recommend(tc.q, new(Scratch), nil), tc.id); got != tc.want {
				t.Errorf("%s shown: %v, want %v", tc.id, got, tc.want)
			}
		})
	}
	x.SetProduct("e", "E", "", "", 1, true)
	if !has(x.Recommend(Query{Items: items, N: 20}, new(Scratch), nil), "e") {
		t.Error("back in the catalogue, but not shown")
	}
}

func TestOwnSessionIsNoNeighbour(t *testing.T) {
	x := New(smallConfig())
	visit(x, 7).does(View, start, "a", "b")
	s := new(Scratch)
	for _, tc := range []struct {
		name string
		key  uint64
		want int
	}{{"own", 7, 0}, {"another's", 8, 1}, {"no session", 0, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			s.begin(x)
			q := Query{Session: tc.key, Items: []QueryItem{{Item: "a"}}, Now: start}
			x.read(&q, s)
			x.neighbours(&q, s)
			if len(s.near) != tc.want {
				t.Errorf("%d neighbours, want %d", len(s.near), tc.want)
			}
		})
	}
}

func TestDiversityCaps(t *testing.T) {
	x := New(smallConfig())
	for _, p := range [][3]string{{"b", "shoes", "x"}, {"c", "shoes", "y"}, {"d", "bags", "x"}, {"e", "", ""}} {
		x.SetProduct(p[0], "", p[1], p[2], 0, true)
	}
	visit(x, 1).does(View, start, "a", "b", "c", "d", "e")
	for _, tc := range []struct {
		name string
		q    Query
		want string
	}{
		{"no cap", Query{}, "b:item c:item d:item e:item"},
		{"per category", Query{PerCategory: 1}, "b:item d:item e:item"},
		{"per brand", Query{PerBrand: 1}, "b:item c:item e:item"},
		{"both", Query{PerBrand: 1, PerCategory: 1}, "b:item e:item"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.q.Items, tc.q.N, tc.q.Now = []QueryItem{{Item: "a"}}, 20, start
			if got := answers(x.Recommend(tc.q, new(Scratch), nil)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestReasons(t *testing.T) {
	x := New(smallConfig())
	x.SetProduct("strap", "Leather strap", "bags", "Acme", 19_990_000, true)
	for k := range uint64(4) {
		visit(x, 1+k).does(View, start, "bag", "strap").does(Cart, start, "bag", "strap").does(Order, start, "bag", "strap")
	}
	q := Query{Items: []QueryItem{{Item: "bag", Kind: Cart}}, N: 1, Now: start, Surface: SurfaceCart}
	got := x.Recommend(q, new(Scratch), nil)
	if len(got) != 1 || got[0].Item != "strap" || got[0].Name != "Leather strap" {
		t.Fatalf("got %v, want the strap", got)
	}
	if r := got[0].Reasons[0]; r.String() != "bought with bag by 4 sessions" {
		t.Errorf("on the cart page the first reason is %q", r)
	}
	q.Surface = SurfaceProduct
	if r := x.Recommend(q, new(Scratch), nil)[0].Reasons[0]; r.String() != "in 4 similar sessions" {
		t.Errorf("on the product page the first reason is %q", r)
	}
	home := x.Recommend(Query{N: 1, Now: start}, new(Scratch), nil)
	if r := home[0].Reasons[0]; r.Kind != TrendingNow || r.Count != 12 { // 4 sessions x view, cart, order
		t.Errorf("at home the reason is %q", r)
	}
	for k := range reasonKinds {
		if s := (Reason{Kind: k, Item: "x"}).String(); s == "" || strings.Contains(s, "unknown") {
			t.Errorf("reason kind %d says %q", k, s)
		}
	}
	want := Product{"Leather strap", "bags", "Acme", 19_990_000, true}
	if p, ok := x.Product("strap"); !ok || p != want {
		t.Errorf("product %v %v, want %v", p, ok, want)
	}
}

func TestDropForgetsTheLongestUnseen(t *testing.T) {
	cfg := smallConfig()
	cfg.MaxItems = 16 // dropped one at a time
	x := New(cfg)
	for k := range int64(16) {
		visit(x, uint64(k+1)).does(View, start+k*minute, fmt.Sprint("i", k))
	}
	visit(x, 99).does(View, start+hour, "i0", "i1", "new")
	if _, ok := x.Product("i2"); ok {
		t.Error("i2 was unseen for longest and is still known")
	}
	for _, id := range []string{"i0", "i1", "i3", "i15", "new"} {
		if _, ok := x.Product(id); !ok {
			t.Errorf("%s is forgotten", id)
		}
	}
	verify(t, x)
}

func TestRefusedIDs(t *testing.T) {
	x := New(smallConfig())
	x.Apply(Delta{Session: 1, Item: "", At: start, First: true})
	x.Apply(Delta{Session: 1, Item: strings.Repeat("x", maxID+1), At: start, First: true})
	x.SetProduct("", "", "", "", 0, true)
	x.SetProduct("long", strings.Repeat("é", maxName), "", "", 0, true)
	if s := x.Stats(); s.Refused != 3 || s.Items != 1 || s.Sessions != 0 {
		t.Errorf("stats %+v, want 3 refused and nothing but one product", s)
	}
	if p, _ := x.Product("long"); p.Name != strings.Repeat("é", maxName/2) {
		t.Errorf("name cut to %d bytes", len(p.Name))
	}
	x.SetProduct("odd", "x"+strings.Repeat("é", maxName), "", "", 0, true)
	if p, _ := x.Product("odd"); p.Name != "x"+strings.Repeat("é", maxName/2-1) {
		t.Errorf("name cut inside a character")
	}
}

// TestVMISByHand follows the reference on four sessions: query a, b.
func TestVMISByHand(t *testing.T) {
	const a, b, c, d, z = 1, 2, 3, 4, 9
	v := NewVMIS([]VMISSession{
		{1, []uint32{a, c}}, {2, []uint32{b, d, d}}, {3, []uint32{a, b, c}}, {4, []uint32{z, d}},
	}, 10, 10, 3, 1)
	// Similarity: b newest weighs 2/2, a 1/2. Session 1: .5; 2: 1; 3: 1.5.
	// Weight of the newest shared item: b .9, a .8. Nine entries; a, b, c, d in two each.
	idf := math.Log(9. / 2)
	want := []VMISAnswer{
		{c, idf * (.8*.5 + .9*1.5)}, {a, idf * (.8*.5 + .9*1.5)}, {d, idf * .9},
	}
	less := func(x, y VMISAnswer) bool { return x.Item < y.Item }
	got := v.Recommend([]uint32{a, b}, 10)
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0), cmpopts.SortSlices(less)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got[2].Item != d {
		t.Errorf("last is %d, want d", got[2].Item)
	}
	if got := v.Recommend([]uint32{a, b}, 1); len(got) != 1 {
		t.Errorf("%d answers, want 1", len(got))
	}
	if got := NewVMIS(nil, 1, 1, 9, 1).Recommend([]uint32{a}, 5); len(got) != 0 {
		t.Errorf("knows nothing, answers %v", got)
	}
	// m = 1 keeps only the newest session of all: session 3.
	one := NewVMIS([]VMISSession{{1, []uint32{b, d}}, {3, []uint32{a, c}}}, 1, 10, 9, 1).Recommend([]uint32{a, b}, 10)
	if len(one) != 2 || one[0].Item == d || one[1].Item == d {
		t.Errorf("with m = 1 got %v, want a and c of the newer session", one)
	}
}

// TestSessionKey pins the hash, since keys lie in logs: 64-bit FNV-1a of eight
// little-endian bytes of the time, then of the device key, computed apart.
func TestSessionKey(t *testing.T) {
	for _, tc := range []struct {
		device string
		opened int64
	}{{"s/a:42", start}, {"s/a:42", start + 1}, {"s/a:43", start}, {"", -1}} {
		h := fnv.New64a()
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(tc.opened)))
		h.Write([]byte(tc.device))
		if got := SessionKey(tc.device, tc.opened); got != h.Sum64() {
			t.Errorf("%q at %d is %x, want %x", tc.device, tc.opened, got, h.Sum64())
		}
	}
}

func TestConfigValidateReportsAll(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("default: %v", err)
	}
	c := DefaultConfig()
	c.MaxItems, c.Backward, c.AgeDays, c.PostingsPerItem = 0, 2, math.NaN(), 1<<17
	err := c.Validate()
	for _, want := range []string{"max-items", "backward", "age-days", "postings-per-item"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	c = DefaultConfig()
	c.MaxItems, c.PostingsPerItem = 1<<26, 60_000
	if c.Validate() == nil {
		t.Error("arenas beyond 32 bits are accepted")
	}
}
