package recommend

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// taught is an index with a few hundred sessions of small families of items.
func taught(cfg Config) *Index {
	x, s := New(cfg), new(Scratch)
	r := rand.New(rand.NewPCG(3, 4))
	for k := range uint64(300) {
		family := r.IntN(10)
		v := visit(x, k+1)
		for range 2 + r.IntN(4) {
			at := start + int64(k)*minute
			id := fmt.Sprint(family, "-", r.IntN(6))
			others := v.prev
			x.Learn(Query{Session: k + 1, Items: itemsOf(others), Now: at, Surface: SurfaceProduct, KeepSeen: true}, id, s)
			v.does(View, at, id)
		}
	}
	return x
}

// itemsOf turns newest first into oldest first.
func itemsOf(previous []Previous) []QueryItem {
	var items []QueryItem
	for _, p := range slices.Backward(previous) {
		items = append(items, QueryItem(p))
	}
	return items
}

// probability is what the linear ranker gives an item.
func probability(x *Index, q Query, id string) float64 {
	s := new(Scratch)
	s.begin(x)
	x.read(&q, s)
	x.gather(&q, s)
	x.describe(&q, s)
	x.judge(&q, s)
	top, sum := softmax(s.logits)
	return math.Exp(float64(s.logits[s.marks[x.id[id]].cand-1]-top)) / sum
}

// TestLearnDescends compares the first step of Learn with the slope of the
// loss, found by moving one weight at a time: AdaGrad's first step goes against
// the slope's sign, by rate times slope over its size.
func TestLearnDescends(t *testing.T) {
	cfg := DefaultConfig()
	cfg.PriorPull, cfg.SecondRate = 0, 0
	x := taught(cfg)
	q := Query{Items: []QueryItem{{Item: "3-1"}, {Item: "3-2"}}, Now: x.latest, Surface: SurfaceProduct, KeepSeen: true}
	const target = "3-4"
	h := &x.ranker.head[browseHead]
	h.shared.g, h.own = row{}, [buckets]coordinates{}
	b := bucketOf(2)
	h.add(b)
	before := *h
	loss := func() float64 { return -math.Log(probability(x, q, target)) }
	var slope [features]float64
	for f := range features {
		const d = 1e-2
		h.sum[b][f] = before.sum[b][f] + d
		up := loss()
		h.sum[b][f] = before.sum[b][f] - d
		slope[f] = (up - loss()) / (2 * d)
		h.sum[b][f] = before.sum[b][f]
	}
	was := loss()
	if !x.Learn(q, target, new(Scratch)) {
		t.Fatal("nothing was learned")
	}
	some := false
	for f, d := range slope {
		want := -cfg.LearningRate * d / math.Sqrt(d*d+1e-2)
		some = some || math.Abs(want) > .01
		if got := float64(h.shared.w[f] - before.shared.w[f]); math.Abs(got-want) > .01*cfg.LearningRate+.05*math.Abs(want) {
			t.Errorf("weight %d moved by %g, its slope %g asks for %g", f, got, d, want)
		}
	}
	if !some {
		t.Error("no weight had a slope")
	}
	if is := loss(); is >= was {
		t.Errorf("the loss went from %g to %g", was, is)
	}
}

func TestWhatTeachesNothing(t *testing.T) {
	x := taught(DefaultConfig())
	x.SetProduct("3-3", "", "", "", 0, false)
	items := []QueryItem{{Item: "3-1"}, {Item: "3-2"}}
	for name, tc := range map[string]struct {
		q      Query
		target string
		want   bool
	}{
		"what came next":            {Query{Items: items}, "3-4", true},
		"an unknown item":           {Query{Items: items}, "?", false},
		"no session":                {Query{}, "3-4", false},
		"an unknown session":        {Query{Items: []QueryItem{{Item: "?"}}}, "3-4", false},
		"the current item":          {Query{Items: items, KeepSeen: true}, "3-2", false},
		"the current, kept":         {Query{Items: items, KeepCurrent: true}, "3-2", true},
		"what was seen":             {Query{Items: items}, "3-1", false},
		"what was seen, kept":       {Query{Items: items, KeepSeen: true}, "3-1", true},
		"what is excluded":          {Query{Items: items, Exclude: []string{"3-4"}}, "3-4", false},
		"what may not be shown":     {Query{Items: items}, "3-3", false},
		"what no source would have": {Query{Items: items}, "7-1", false},
	} {
		if got := x.Learn(tc.q, tc.target, new(Scratch)); got != tc.want {
			t.Errorf("%s: learned %v, want %v", name, got, tc.want)
		}
	}
}

// TestLearningPays lets a shop behave as its similar sessions do not tell:
// visitors look at three things of a family, whichever, and never come back to
// one, though they might.
func TestLearningPays(t *testing.T) {
	run := func(every int) (cameBack float64) {
		cfg := DefaultConfig()
		cfg.LearnEvery = every
		x, s := New(cfg), new(Scratch)
		r := rand.New(rand.NewPCG(5, 6))
		for k := range uint64(3000) {
			at := start + int64(k)*minute
			family, three := r.IntN(10), r.Perm(20)
			id := func(n int) string { return fmt.Sprint(family, "-", three[n]) }
			q := Query{N: 1, Items: []QueryItem{{Item: id(0)}, {Item: id(1)}}, Now: at, Surface: SurfaceProduct, KeepSeen: true}
			if k > 2000 && x.Recommend(q, s, nil)[0].Item == id(0) {
				cameBack += 1. / 999
			}
			if x.Teaches(k+1, SurfaceProduct) {
				x.Learn(q, id(2), s)
			}
			visit(x, k+1).does(View, at, id(0), id(1), id(2))
		}
		return cameBack
	}
	if with, without := run(1), run(0); with > .05 || without < .5 {
		t.Errorf("what was seen leads %.3f of the answers with learning, %.3f without", with, without)
	}
}

// TestCartLessons: what is added to a cart teaches the cart head, by the cart as
// it was, and a view teaches the browsing head.
func TestCartLessons(t *testing.T) {
	x, s := New(smallConfig()), new(Scratch)
	observe := func(key uint64, kind Kind, item string, previous ...Previous) {
		x.Observe(Delta{Session: key, Item: item, Kind: kind, At: start, First: true, Previous: previous}, s)
	}
	for k := range uint64(4) {
		observe(k+1, View, "bag")
		observe(k+1, Cart, "bag")
		observe(k+1, View, "strap", Previous{"bag", Cart, start})
		observe(k+1, Cart, "strap", Previous{"bag", Cart, start})
	}
	if b, c := x.ranker.head[browseHead].learned, x.ranker.head[cartHead].learned; b != 3 || c != 4 {
		t.Errorf("%d lessons of browsing, %d of carts, want 3, as the strap is new to the first, and 4", b, c)
	}
}

// TestTeaches: all sessions at first, then one in so many, the same everywhere.
func TestTeaches(t *testing.T) {
	cfg := smallConfig()
	cfg.LearnWarm, cfg.LearnEvery = 10, 8
	x, y := New(cfg), New(cfg)
	if !x.Teaches(1, SurfaceProduct) || !x.Teaches(2, SurfaceProduct) {
		t.Error("a session of the first ten lessons does not teach")
	}
	for _, x := range []*Index{x, y} {
		x.ranker.head[browseHead].learned = 10
	}
	n := 0
	for key := range uint64(8000) {
		if x.Teaches(key, SurfaceProduct) != y.Teaches(key, SurfaceProduct) {
			t.Fatalf("session %d teaches one replica and not the other", key)
		}
		if x.Teaches(key, SurfaceProduct) {
			n++
		}
	}
	if n < 900 || n > 1100 {
		t.Errorf("%d of 8000 sessions teach, want about 1000", n)
	}
	if !x.Teaches(1, SurfaceCart) {
		t.Error("lessons of browsing count as lessons of the cart")
	}
	cfg.LearnEvery = 0
	if New(cfg).Teaches(1, SurfaceProduct) {
		t.Error("a session teaches where none shall")
	}
}

// TestGate: open after enough lessons that the second stage ranks better by more
// than chance, closed as soon as it ranks no better at all.
func TestGate(t *testing.T) {
	var n network
	n.reset()
	r := rand.New(rand.NewPCG(7, 8))
	for range 10_000 { // chance
		n.judge(r.NormFloat64() * .2)
	}
	if n.on && n.mean < .004 {
		t.Errorf("open at a mean gain of %g", n.mean)
	}
	n.reset()
	for k := range gateLessons {
		n.judge(.02 + r.NormFloat64()*.2)
		if n.on && k < gateLessons/4-1 {
			t.Fatalf("open after %d lessons", k+1)
		}
	}
	if !n.on {
		t.Errorf("closed at a mean gain of %g", n.mean)
	}
	for range 4 * gateLessons {
		n.judge(-.02 + r.NormFloat64()*.2)
	}
	if n.on {
		t.Errorf("open at a mean gain of %g", n.mean)
	}
}

// TestSecondStageDescends compares the network's first step with the slope of
// its loss.
func TestSecondStageDescends(t *testing.T) {
	x := taught(DefaultConfig())
	n := x.ranker.second
	q := Query{Items: []QueryItem{{Item: "3-1"}, {Item: "3-2"}}, Now: x.latest, Surface: SurfaceProduct, KeepSeen: true}
	looks := func() []look {
		s := new(Scratch)
		s.begin(x)
		x.read(&q, s)
		x.gather(&q, s)
		x.describe(&q, s)
		x.judge(&q, s)
		s.pile()
		x.lookAgain(s)
		return s.looks
	}
	target := len(looks()) - 1
	loss := func(n *network) float64 {
		ls := looks()
		n.refine(ls)
		logits := make([]float32, len(ls))
		for k := range ls {
			logits[k] = ls[k].logit
		}
		top, sum := softmax(logits)
		return math.Log(sum) - float64(ls[target].logit-top)
	}
	n.inGrad, n.outGrad = [inputs][hidden]float32{}, [hidden]float32{}
	after := n
	after.teach(looks(), target, .01)
	moved := false
	for f := range inputs {
		for h := range hidden {
			const d = 1e-2
			up, down := n, n
			up.in[f][h] += d
			down.in[f][h] -= d
			slope := (loss(&up) - loss(&down)) / (2 * d)
			want := -.01 * slope / math.Sqrt(slope*slope+1e-2)
			got := float64(after.in[f][h] - n.in[f][h])
			moved = moved || math.Abs(got) > 1e-4
			if math.Abs(got-want) > 1e-3 { // the kink of a unit lies anywhere
				t.Errorf("weight %d of unit %d moved by %g, its slope %g asks for %g", f, h, got, slope, want)
			}
		}
	}
	if is, was := loss(&after), loss(&n); is >= was || !moved {
		t.Errorf("the loss went from %g to %g", was, is)
	}
}

// TestLearnedSurvives: a snapshot holds what was learned, and an index goes on
// learning from it as if nothing had been.
func TestLearnedSurvives(t *testing.T) {
	x := taught(DefaultConfig())
	if x.ranker.head[browseHead].learned == 0 || x.ranker.second.lessons == 0 {
		t.Fatal("nothing was learned")
	}
	var b bytes.Buffer
	if _, err := x.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	y, err := ReadIndex(bytes.NewReader(b.Bytes()), x.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if x.ranker != y.ranker {
		t.Error("a restored index knows something else")
	}
	if _, err := ReadIndex(&b, x.cfg); err != nil {
		t.Errorf("read again: %v", err)
	}
	q := Query{Items: []QueryItem{{Item: "3-1"}}, Now: x.latest, Surface: SurfaceProduct}
	x.Learn(q, "3-4", new(Scratch))
	y.Learn(q, "3-4", new(Scratch))
	if x.ranker != y.ranker {
		t.Error("a restored index learns something else")
	}
}

// TestNewProduct: a product nobody has seen is found by its category.
func TestNewProduct(t *testing.T) {
	x := New(smallConfig())
	x.SetProduct("bag", "", "bags", "Acme", 20_000_000, true)
	visit(x, 1).does(View, start, "bag", "hat")
	x.SetProduct("satchel", "", "bags", "Acme", 22_000_000, true)
	x.SetProduct("spade", "", "garden", "Hoe", 9_000_000, true)
	got := x.Recommend(Query{N: 2, Items: []QueryItem{{Item: "bag"}}, Now: start}, new(Scratch), nil)
	if len(got) != 2 || got[1].Item != "satchel" || got[1].Level != Item {
		t.Fatalf("got %v, want the hat and the new satchel", got)
	}
	if r := got[1].Reasons[0]; r.String() != "of the same category as bag, in 0 sessions" {
		t.Errorf("its reason is %q", r)
	}
}

// TestMethods: each baseline ranks by its own source.
func TestMethods(t *testing.T) {
	x := New(smallConfig())
	for k := range uint64(3) {
		visit(x, 1+k).does(View, start, "a", "b", "c")
	}
	visit(x, 9).does(View, start, "d", "d2", "a")
	for m, want := range map[Method]string{
		BySessions:     "b:item c:item d2:item d:item",
		ByTransition:   "b:item",
		ByCoOccurrence: "b:item d2:item c:item d:item", // shares of 3/5.5, 1/2.5, 1.5/5.5, .5/2.5
		ByPopularity:   "b:trending c:trending",
	} {
		n := 4
		switch m {
		case ByTransition:
			n = 1
		case ByPopularity:
			n = 2
		}
		if got := answers(x.Recommend(Query{N: n, Items: []QueryItem{{Item: "a"}}, Now: start, Method: m}, new(Scratch), nil)); got != want {
			t.Errorf("%s: got %s, want %s", m, got, want)
		}
	}
}
