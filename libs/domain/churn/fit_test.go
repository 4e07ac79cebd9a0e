package churn

import (
	"math"
	"testing"
)

// TestGradient holds the derivatives against differences.
func TestGradient(t *testing.T) {
	cells := []Cell{{History{0, 0, 80}, 30}, {History{1, 12, 60}, 9}, {History{4, 60, 61}, 7}, {History{4, 60, 160}, 2}, {History{40, 300, 302}, 1}}
	for k := 1; k <= MaxK; k++ {
		f := &fitLoss{cells: cells, n: 49, k: k, pull: 1e-3, sumLogGap: 30}
		for _, v := range [][]float64{{0, 3, -1, .5}, {1.3, 5, 2, -2}, {-2, 7, 3, -3}} {
			g := make([]float64, 4)
			f.gradient(g, v)
			for i := range g {
				const d = 1e-5
				up, down := append([]float64(nil), v...), append([]float64(nil), v...)
				up[i] += d
				down[i] -= d
				want := (f.loss(up) - f.loss(down)) / (2 * d)
				if math.Abs(g[i]-want) > 1e-5*max(1, math.Abs(want)) {
					t.Errorf("k=%d at %v: derivative %d is %.8g, differences say %.8g", k, v, i, g[i], want)
				}
			}
		}
	}
}

// TestParetoIsTheIntegral holds the quadrature against a sum of many small steps.
func TestParetoIsTheIntegral(t *testing.T) {
	rule := newParetoRule()
	for _, p := range []Pareto{{.55, 74, .6, 81}, {2, 20, .05, 300}, {.3, 5, 3, 10}} {
		for _, h := range []History{{0, 0, 3}, {0, 0, 500}, {1, 20, 400}, {8, 200, 210}, {150, 600, 900}} {
			// Relative to (alpha+t_x)^-(r+x) (beta+t_x)^-s.
			n, a0, b0 := p.R+float64(h.X), p.Alpha+h.Recency, p.Beta+h.Recency
			silence := h.Age - h.Recency
			const steps = 400_000
			sum := math.Exp(-n*math.Log1p(silence/a0) - p.S*math.Log1p(silence/b0))
			for i := range steps {
				u := (float64(i) + .5) / steps * silence
				sum += silence / steps * p.S / b0 * math.Exp(-n*math.Log1p(u/a0)-(p.S+1)*math.Log1p(u/b0))
			}
			want := math.Log(sum) - n*math.Log(a0) - p.S*math.Log(b0)
			if got := p.logBracket(h, rule); math.Abs(got-want) > 1e-7 {
				t.Errorf("%+v %+v: %.10f, want %.10f", p, h, got, want)
			}
		}
	}
}
