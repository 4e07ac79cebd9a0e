package churn

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestLearnerFindsWhoIsRiskier: labels are drawn with known weights and a level
// that jumps every day; the weights are found, and the level is none of them.
func TestLearnerFindsWhoIsRiskier(t *testing.T) {
	rnd := newRand(3)
	normal := func() float64 {
		return math.Sqrt(-2*math.Log(rnd.uniform())) * math.Cos(2*math.Pi*rnd.uniform())
	}
	l := NewLearner(DefaultLearnConfig())
	want := map[int]float64{featSpend: -.6, featRatio: .4, featBase: -.3}
	for day := range 40 {
		l.Forget(1)
		jump := 2*float64(day%2) - 1
		for range 500 {
			var f Features
			base := normal()
			f[featSpend], f[featRatio], f[featBase] = normal(), normal(), base
			eta := base + jump
			for i, w := range want {
				eta += w * f[i]
			}
			l.Learn(&f, base, rnd.uniform() < sigmoid(eta), 1)
		}
	}
	got := l.Weights()
	for i, w := range got {
		if math.Abs(w-want[i]) > .07 { // three standard errors of 20,000 labels
			t.Errorf("weight of %s is %.3f, want %.3f", FeatureNames()[i], w, want[i])
		}
	}
}

func TestLearnerIsFinite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewLearner(DefaultLearnConfig())
		value := rapid.OneOf(rapid.Float64Range(-4, 4), rapid.SampledFrom([]float64{0, -4, 4, 1e-300}))
		for range rapid.IntRange(0, 30).Draw(t, "labels") {
			if rapid.Bool().Draw(t, "day") {
				l.Forget(rapid.Float64Range(1e-3, 1).Draw(t, "share"))
			}
			var f Features
			for i := range f {
				f[i] = value.Draw(t, "feature")
			}
			l.Learn(&f, rapid.Float64Range(-28, 28).Draw(t, "base"), rapid.Bool().Draw(t, "churned"), rapid.Float64Range(1e-3, 1).Draw(t, "weight"))
		}
		for i := range dim {
			if v := l.cov[i][i]; !(v >= -1e-9 && v <= 1+1e-9) {
				t.Fatalf("variance %d is %g", i, v)
			}
		}
		for i, w := range l.Weights() {
			if math.IsNaN(w) || math.Abs(w) > 50 {
				t.Fatalf("weight %d is %g", i, w)
			}
		}
	})
}

// TestForgettingGoesBackToThePrior: without labels the weights are zero, and forgetting
// goes back to the prior.
func TestForgettingGoesBackToThePrior(t *testing.T) {
	c := DefaultLearnConfig()
	l := NewLearner(c)
	if l.Weights() != (Features{}) {
		t.Error("weights before the first label")
	}
	f := Features{1, 1, -1}
	for range 100 {
		l.Learn(&f, 0, true, 1)
	}
	known := l.cov[1][1]
	for range 200 {
		l.Forget(.9)
	}
	if prior := c.Deviation * c.Deviation; !(known < prior*.9) || math.Abs(l.cov[1][1]-prior) > 1e-9 {
		t.Errorf("variance %g after labels and %g after forgetting, prior %g", known, l.cov[1][1], prior)
	}
}

func TestShiftTo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logits := rapid.SliceOfN(rapid.Float64Range(-12, 12), 1, 40).Draw(t, "logits")
		total := rapid.Float64Range(-1, 41).Draw(t, "total")
		shift := shiftTo(logits, total)
		if math.IsNaN(shift) || math.Abs(shift) > 8 {
			t.Fatalf("shift %g", shift)
		}
		var sum float64
		for _, l := range logits {
			sum += sigmoid(l + shift)
		}
		n := float64(len(logits))
		want := min(max(total, .25), n-.25)
		if math.Abs(shift) < 7.9 && math.Abs(sum-want) > 1e-6 {
			t.Errorf("%v shifted by %g sum to %g, want %g", logits, shift, sum, want)
		}
	})
	if shiftTo(nil, 1) != 0 {
		t.Error("a shift of nobody")
	}
}

func TestLevel(t *testing.T) {
	c := DefaultLearnConfig()
	tell := func(days int, said, was func(day float64) float64) *Level {
		l := NewLevel(c, 0)
		for d := 14.; d <= float64(days); d += 7 {
			l.Closed(d, said(d), was(d), 7, 91)
		}
		return l
	}
	flat := func(v float64) func(float64) float64 { return func(float64) float64 { return v } }
	if got := NewLevel(c, 0).Ahead(200, .8, 7, 91); math.Abs(got-.8) > 1e-12 {
		t.Errorf("%g foretold of nothing, want what the base score says", got)
	}
	if got := tell(400, flat(.8), flat(.8)).Ahead(491, .8, 7, 91); math.Abs(got-.8) > 1e-9 {
		t.Errorf("%g foretold where the base score is right, want .8", got)
	}
	// The share stays what it was, whatever the base score says: the record shows it.
	if got := tell(700, flat(.85), flat(.8)).Ahead(791, .85, 7, 91); math.Abs(got-.8) > .01 {
		t.Errorf("%g foretold, want nearly .8", got)
	}
	// An error that comes again with the season, and is the opposite half a year on.
	wave := func(d float64) float64 { return .7 + .1*math.Sin(2*math.Pi*d/yearDays) }
	l := tell(1200, flat(.7), wave)
	var foretold, plain float64
	for d := 1291.; d < 1291+yearDays; d += 7 {
		foretold += math.Abs(l.Ahead(d, .7, 7, 91) - wave(d))
		plain += math.Abs(.7 - wave(d))
		l.Closed(d-84, .7, wave(d-84), 7, 91)
	}
	if !(foretold < .5*plain) {
		t.Errorf("errors of %g with the season of three years, %g without", foretold, plain)
	}
	for _, v := range []float64{0, 1, math.NaN()} {
		l.Closed(2000, v, 1-v, 7, 91)
		if got := l.Ahead(2091, min(max(v, 0), 1), 7, 91); !math.IsNaN(v) && !(got >= 0 && got <= 1) {
			t.Errorf("%g foretold", got)
		}
	}
}
