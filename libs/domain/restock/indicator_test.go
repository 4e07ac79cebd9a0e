package restock

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// found returns the indicators that hold, by kind.
func found(p *Product, now int64, s *Setting) map[Indicator]Finding {
	all := map[Indicator]Finding{}
	for _, f := range p.Indicators(now, s) {
		all[f.Indicator] = f
	}
	return all
}

func TestIndicators(t *testing.T) {
	s := DefaultSetting()
	steady := stocked(&s, 100)
	if got := found(&steady, noon(120), &s); len(got) != 0 {
		t.Errorf("of a product with 25 days of stock: %+v", got)
	}
	full := stocked(&s, 2000)
	f, ok := found(&full, noon(120), &s)[Overstock]
	if !ok || f.Reasons[0].Value != 2000 || f.Reasons[2].Value != 2000-f.Reasons[1].Value || f.Reasons[1].Value < 360 {
		t.Errorf("of 500 days of stock: %+v", f)
	}
	f, ok = found(&full, noon(1500), &s)[Dead]
	if !ok || f.Reasons[0] != (Reason{ReasonOnHand, 2000}) || f.Reasons[1].Value != 1381 {
		t.Errorf("after years without a sale: %+v", f)
	}
	full.StockLevel(noon(1500), 0, &s)
	if f, ok := found(&full, noon(1500), &s)[Dead]; ok {
		t.Errorf("without any stock: %+v", f)
	}
	up := stocked(&s, 1e6)
	sell(&up, 121, 21, 60, &s)
	f, ok = found(&up, noon(142), &s)[NewTrend]
	if !ok || f.Reasons[0].Value < 2*f.Reasons[1].Value {
		t.Errorf("of demand fifteen times what it was: %+v", f)
	}
	sell(&up, 142, 400, 60, &s)
	if f, ok := found(&up, noon(542), &s)[NewTrend]; ok {
		t.Errorf("of what has been so for a year: %+v", f)
	}
}

// TestChanceRisesIsNoTrend: demand that is what it was, in a shop's many rhythms, seldom
// looks like a trend.
func TestChanceRisesIsNoTrend(t *testing.T) {
	s := DefaultSetting()
	r := rand.New(rand.NewPCG(3, 4))
	trends, looks := 0, 0
	for product := range 60 {
		often, size := []float64{.05, .3, 1}[product%3], []int64{1, 6, 40}[product/3%3]
		var p Product
		for day := range 500 {
			if r.Float64() < often {
				p.Sale(noon(day), 1+r.Int64N(size), 5e6, &s)
			}
			if day > 60 && day%7 == 0 {
				looks++
				if _, ok := found(&p, noon(day), &s)[NewTrend]; ok {
					trends++
				}
			}
		}
	}
	if share := float64(trends) / float64(looks); share > .01 {
		t.Errorf("%.2g %% of the looks see a trend where there is none", 100*share)
	}
}

// TestFasterByHand: of two exponential rates with the same mean, one is above the other in
// half of the cases and above thrice the other in a quarter.
func TestFasterByHand(t *testing.T) {
	one := level{rate: 1, certain: 1, phi: 1}
	near(t, "above", faster(level{rate: 1 + 1e-9, certain: 1, phi: 1}, one, 1), .5, 1e-6)
	// P(X/Y > c) = 1/(1+c) with X four times as large: above thrice is above c = 3/4.
	near(t, "above thrice", faster(level{rate: 4, certain: .25, phi: 1}, one, 3), 4./7, 1e-12)
}

func TestAnyFinding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		var p Product
		now := noon(0)
		for range rapid.IntRange(0, 30).Draw(t, "facts") {
			now, _, _ = act(t, &p, now, &s)
			for _, f := range p.Indicators(now, &s) {
				if !(f.Chance > .5 && f.Chance <= 1) || len(f.Reasons) == 0 {
					t.Fatalf("%s: %+v", f.Indicator, f)
				}
				for _, r := range f.Reasons {
					if !(r.Value >= 0) || math.IsInf(r.Value, 0) {
						t.Fatalf("%s: %+v", f.Indicator, f)
					}
				}
			}
		}
	})
}
