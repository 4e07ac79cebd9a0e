package churn

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gonum.org/v1/gonum/mathext"
	"pgregory.net/rapid"
)

var ones = Params{1, 1, 1, 1, 1}

func withK(k int) Params { p := ones; p.K = k; return p }

// near compares within 1e-9, relative above 1.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if !(math.Abs(got-want) <= 1e-9*max(1, math.Abs(want))) {
		t.Errorf("%s is %.12g, want %.12g", what, got, want)
	}
}

// TestByHand holds the formulas against integrals done on paper, with all
// parameters 1.
func TestByHand(t *testing.T) {
	once := History{0, 0, 1}
	near(t, "P(alive)", ones.PAlive(once), 1./3)
	near(t, "C_2(1)", ones.Score(once, 2), 5./6)
	near(t, "P(alive), k=2", withK(2).PAlive(once), 3./7)
	near(t, "C_2(1), k=2", withK(2).Score(once, 2), 69./84)
	near(t, "P(alive), k=3", withK(3).PAlive(once), 7./15)
	at, ok := ones.Crossing(History{}, .9, 2) // (2+T)(3+T) = 20
	if near(t, "crossing", at, 2); !ok {
		t.Error("no crossing")
	}
	near(t, "median gap", ones.NextOrderQuantile(once, .5), 2)
	near(t, "median gap, k=2", withK(2).NextOrderQuantile(History{}, .5), 1+math.Sqrt2)
	near(t, "value", Value{2, 3, 10}.Mean(1, 20), 15)
	back := History{1, 1, 2}
	near(t, "L, x=0", ones.LogLikelihood([]Cell{{once, 1}}, 0), math.Log(.75))
	near(t, "L, x=0, k=2", withK(2).LogLikelihood([]Cell{{once, 1}}, 0), math.Log(.875))
	near(t, "L, x=1", ones.LogLikelihood([]Cell{{back, 1}}, 0), math.Log(1./24+1./27))
	near(t, "L, x=1, k=2", withK(2).LogLikelihood([]Cell{{back, 1}}, 0), math.Log(1./24+4./81))
	near(t, "L, twice, with gaps", withK(3).LogLikelihood([]Cell{{back, 2}}, .5)-withK(3).LogLikelihood([]Cell{{back, 2}}, 0), 1)
}

// TestExpectedOrdersClosedForm holds the quadrature against the closed form of
// Batislam et al., where that is defined (a != 1).
func TestExpectedOrdersClosedForm(t *testing.T) {
	for _, p := range []Params{{.6, 60, .5, 1.2, 1}, {1.3, 48, .41, .8, 1}, {.9, 32, 2.3, 3, 1}} {
		for _, h := range []History{{0, 0, 0}, {3, 80, 80}, {12, 300, 340}} {
			const days = 90
			n, x, t0 := p.shape(h), float64(h.X), p.Alpha+h.Age
			want := (p.A + p.B + x) / (p.A - 1) * (1 - math.Pow(t0/(t0+days), n)*mathext.Hypergeo(n, p.B+x+1, p.A+p.B+x, days/(t0+days)))
			if got := p.ExpectedOrders(h, days); math.Abs(got-want) > .005*want {
				t.Errorf("%+v %+v: %g orders, want %g", p, h, got, want)
			}
		}
	}
}

func anyParams(t *rapid.T) Params {
	e := func(name string, lo, hi float64) float64 { return math.Exp(rapid.Float64Range(lo, hi).Draw(t, name)) }
	return Params{e("r", -4, 4), e("alpha", -2, 8), e("a", -6, 4), e("b", -4, 6), rapid.IntRange(1, MaxK).Draw(t, "k")}
}

func anyHistory(t *rapid.T) History {
	x := rapid.IntRange(0, 500).Draw(t, "x")
	recency := 0.0
	if x > 0 {
		recency = rapid.Float64Range(0, 4000).Draw(t, "recency")
	}
	return History{x, recency, recency + rapid.Float64Range(0, 4000).Draw(t, "silence")}
}

func TestScoresAreProbabilities(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, h := anyParams(t), anyHistory(t)
		horizon := rapid.Float64Range(1, 400).Draw(t, "horizon")
		c, alive := p.Score(h, horizon), p.PAlive(h)
		for _, v := range []float64{c, alive, p.pSilent(h, horizon)} {
			if !(v >= 0 && v <= 1) {
				t.Fatalf("score %g, alive %g", c, alive)
			}
		}
		if further := p.Score(h, horizon*1.5); further > c+1e-9 {
			t.Errorf("a longer horizon raises the risk from %g to %g", c, further)
		}
		if later := p.Score(h.at(h.Age-h.Recency+1), horizon); p.K == 1 && later < c-1e-9 {
			t.Errorf("silence lowers the risk from %g to %g", c, later)
		}
		if moved := p.Score(h.at(h.Age-h.Recency+1e-7), horizon); math.Abs(moved-c) > 1e-3 {
			t.Errorf("the score jumps from %g to %g", c, moved)
		}
		q := p.NextOrderQuantile(h, .5)
		if !(q >= 0) || !(p.NextOrderQuantile(h, .3) <= q) || !(q <= p.NextOrderQuantile(h, .9)) {
			t.Errorf("median gap %g is out of order", q)
		}
		if !math.IsInf(q, 0) {
			if got := 1 - p.pSilent(h, q); math.Abs(got-.5) > 1e-6 {
				t.Errorf("an order within %g days has probability %g, want .5", q, got)
			}
		}
	})
}

func TestCrossingIsWhereTheScoreCrosses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, h := anyParams(t), anyHistory(t)
		theta := rapid.Float64Range(.3, .95).Draw(t, "theta")
		at, ok := p.Crossing(h, theta, 90)
		if !ok {
			if c := p.Score(h.at(50*365), 90); c >= theta+1e-9 && p.K == 1 {
				t.Fatalf("no crossing, but %g after 50 years", c)
			}
			return
		}
		if at < h.Recency {
			t.Fatalf("crossing at %g, before the last order at %g", at, h.Recency)
		}
		score := p.Score(History{h.X, h.Recency, at}, 90)
		if at > h.Recency && math.Abs(score-theta) > 1e-6 {
			t.Errorf("at the crossing the score is %g, want %g", score, theta)
		}
		if later := p.Score(History{h.X, h.Recency, at + 1}, 90); at > h.Recency && later < theta-1e-6 {
			t.Errorf("a day later the score is %g, below %g", later, theta)
		}
	})
}

// TestRegularBuyersFirstBecomeSafer shows why the minimum is looked for.
func TestRegularBuyersFirstBecomeSafer(t *testing.T) {
	p := Params{20, 100, .5, 2, 3} // a gap of about 15 days
	h := History{X: 20, Recency: 300, Age: 300}
	fresh, soon := p.Score(h, 8), p.Score(h.at(10), 8)
	if soon >= fresh {
		t.Fatalf("score %g after 10 days, %g after the order: no minimum", soon, fresh)
	}
	at, ok := p.Crossing(h, .8, 8)
	if !ok || at < h.Recency+10 {
		t.Errorf("crossing at %g (%t), want to the right of the minimum", at, ok)
	}
}

// TestOneOrderIsNoProofOfLife: BG/NBD calls every customer of one order alive.
func TestOneOrderIsNoProofOfLife(t *testing.T) {
	p := DefaultParams()
	last := 1.0
	for _, silence := range []float64{0, 30, 365, 3650} {
		alive := p.PAlive(History{0, 0, silence})
		if alive >= last {
			t.Errorf("P(alive) is %g after %g days, was %g", alive, silence, last)
		}
		last = alive
	}
	if last > .2 {
		t.Errorf("P(alive) is %g after ten years", last)
	}
}

// simulated returns the cells of customers drawn from p, with a fixed seed.
func simulated(t *testing.T, p Params, n int) ([]Cell, float64) {
	t.Helper()
	rnd := newRand(7)
	var out []Cell
	var logGaps float64
	for range n {
		rate := rnd.gamma(p.R) / p.Alpha
		a, b := rnd.gamma(p.A), rnd.gamma(p.B)
		leave := a / (a + b)
		const horizon = 700.0
		h := History{Age: horizon}
		for at := 0.0; rnd.uniform() >= leave; {
			gap := 0.0
			for range p.K {
				gap += -math.Log(rnd.uniform()) / rate
			}
			if at += gap; at > horizon {
				break
			}
			h.X, h.Recency = h.X+1, at
			logGaps += math.Log(gap)
		}
		out = append(out, Cell{h, 1})
	}
	return out, logGaps
}

func TestFitFindsWhatMadeTheData(t *testing.T) {
	for _, truth := range []Params{{.8, 40, .7, 1.8, 1}, {1.5, 20, .6, 2, 2}, {2, 15, .6, 2, 3}} {
		cells, logGaps := simulated(t, truth, 3000)
		p, ll, err := Fit(cells, logGaps, DefaultFitConfig())
		if err != nil {
			t.Fatal(err)
		}
		if p.K != truth.K {
			t.Errorf("order %d, want %d", p.K, truth.K)
		}
		mean, want := p.R/p.Alpha, truth.R/truth.Alpha
		leave, wantLeave := p.A/(p.A+p.B), truth.A/(truth.A+truth.B)
		if math.Abs(mean-want) > .15*want || math.Abs(leave-wantLeave) > .05 {
			t.Errorf("rate %.4f and leaving %.3f of %+v, want %.4f and %.3f", mean, leave, p, want, wantLeave)
		}
		if of := truth.LogLikelihood(cells, logGaps); ll < of-5 {
			t.Errorf("log-likelihood %.1f, but %.1f at the truth", ll, of)
		}
	}
}

func TestFitOfLittle(t *testing.T) {
	for _, tc := range []struct {
		name  string
		cells []Cell
		fails bool
	}{
		{"nobody", nil, true},
		{"one order of one customer", []Cell{{History{0, 0, 3}, 1}}, false},
		{"nobody has left", []Cell{{History{9, 89, 90}, 300}, {History{12, 88, 90}, 200}}, false},
		{"everybody ordered once", []Cell{{History{0, 0, 300}, 5000}}, false},
		{"age before the last order", []Cell{{History{1, 5, 3}, 1}}, true},
		{"not a number", []Cell{{History{1, math.NaN(), 3}, 1}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, ll, err := Fit(tc.cells, 0, DefaultFitConfig())
			if (err != nil) != tc.fails {
				t.Fatalf("error %v", err)
			}
			if err == nil && (p.Validate() != nil || math.IsNaN(ll)) {
				t.Errorf("%+v, log-likelihood %g", p, ll)
			}
		})
	}
}

func TestHistogramCells(t *testing.T) {
	g := Histogram{{0, 2, 2}: 3, {1, 2, 2}: 1, {2, 2, 5}: 4, {9, 9, 9}: 0}
	want := []Cell{
		{History{0, 0, 83}, 3}, {History{1, 8. / 3, 83}, 1}, {History{2, 21, 83}, 4},
	}
	if diff := cmp.Diff(want, g.Cells(100)); diff != "" {
		t.Error(diff)
	}
}

// rand is a small generator (splitmix64), so that tests do not depend on math/rand.
type rand struct{ s uint64 }

func newRand(seed uint64) *rand { return &rand{seed} }

func (r *rand) uniform() float64 {
	r.s += 0x9e3779b97f4a7c15
	z := r.s
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return (float64((z^z>>31)>>11) + .5) / (1 << 53)
}

// gamma draws from gamma(shape, 1) by inversion.
func (r *rand) gamma(shape float64) float64 { return mathext.GammaIncRegInv(shape, r.uniform()) }
