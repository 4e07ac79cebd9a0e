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
