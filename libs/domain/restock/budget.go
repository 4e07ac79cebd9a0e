package restock

import (
	"cmp"
	"math"
	"slices"
)

// Ask is an order that a product wants placed, in money.
type Ask struct {
	Quantity int64
	Cost     float64 // of the order: its units at their price less the margin; 0: no price is known
	Saved    float64 // margin and goodwill that are likely to be lost without the order
}

// Ask returns what the product would order at an instant, and false where it needs
// nothing or its stock is not known. The saving is that of the units which the order
// brings and which are asked for between its arrival and that of the next chance to order,
// wait days (at least a review) later: over the units k of the order, the sum of P(D <= k)
// until the first arrival less that until the second.
func (p *Product) Ask(now int64, wait float64, s *Setting) (Ask, bool) {
	if !p.stockKnown {
		return Ask{}, false
	}
	q := *p
	q.roll(now, s)
	o := q.outlook(now, s)
	if o.goal.lack < o.goal.trigger {
		return Ask{}, false
	}
	var x plan
	q.quantities(&o, s, &x)
	first := o.ensemble.overLead(o.points, 0)
	second := o.ensemble.overLead(o.points, min(max(wait, s.Policy.ReviewDays), longest))
	from, to := float64(o.position), float64(o.position+x.amount)
	sold := second.Short(from) - second.Short(to) - (first.Short(from) - first.Short(to))
	price := float64(q.price)
	return Ask{
		Quantity: x.amount,
		Cost:     float64(x.amount) * price * (1 - s.Policy.Margin),
		Saved:    min(max(sold, 0), float64(x.amount)) * price * (s.Policy.Margin + s.Policy.Goodwill),
	}, true
}

// Spend chooses asks that a budget pays for, and returns their places in asks, those
// first that save most for their money. An ask is granted whole, because of packs and
// minimums, or not at all; one without a known cost or saving is left out. Ties are in
// the order of asks.
//
// Asks are taken by saving over cost, each that the rest of the budget still pays for; if
// one ask alone would save more, that one. So what is chosen saves at least half of what
// the best choice would, and less than it by no more than the largest saving of one ask;
// and a larger budget never saves less. It takes n log n.
func Spend(asks []Ask, budget float64) []int {
	var order []int
	best := -1
	for i, a := range asks {
		if !(a.Cost > 0 && a.Cost <= budget && a.Saved > 0) || math.IsInf(a.Saved, 1) {
			continue
		}
		order = append(order, i)
		if best < 0 || a.Saved > asks[best].Saved {
			best = i
		}
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Compare(asks[j].Saved/asks[j].Cost, asks[i].Saved/asks[i].Cost)
	})
	var spent, saved float64
	chosen := order[:0]
	for _, i := range order {
		if spent+asks[i].Cost <= budget {
			spent += asks[i].Cost
			saved += asks[i].Saved
			chosen = append(chosen, i)
		}
	}
	if best >= 0 && asks[best].Saved > saved {
		return append(chosen[:0], best)
	}
	return chosen
}
