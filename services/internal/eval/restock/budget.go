package restock

import (
	"math"

	"github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/services/internal/eval"
)

const (
	budgetShare = .7 // of what the goods sold in the quarter before the test cost
	budgetDays  = 7. // a purse keeps what was not spent for so long
)

// Budgeted is what a shop misses that cannot pay for all orders: where those come first
// that save most for their money, and where all take turns.
type Budgeted struct {
	PerDay  eval.Figure `json:"per_day"`       // money
	Ranked  eval.Figure `json:"missed_ranked"` // share of the demand's value
	InTurns eval.Figure `json:"missed_in_turns"`
}

func budgeted(h *History, test int, seed uint64) Budgeted {
	var value float64
	price := h.prices(test)
	for i := range h.Series {
		value += h.Series[i].sum(test-91, test) * price[i]
	}
	daily := budgetShare * value / 91 * (1 - restock.DefaultPolicy().Margin)
	return Budgeted{eval.Figure(daily), eval.Figure(afford(h, test, seed, daily, true)), eval.Figure(afford(h, test, seed, daily, false))}
}

// afford places the orders that the products ask for as far as a budget goes, and returns
// the share of the demand's value that is missed.
func afford(h *History, test int, seed uint64, daily float64, ranked bool) float64 {
	l := newLoop(h, test)
	price := h.prices(test)
	settings := make([]restock.Setting, len(l.stocked))
	for n, i := range l.stocked {
		settings[n] = l.o.setting
		settings[n].Policy.LeadDays, settings[n].Policy.LeadCV = l.lead[n], leadCV
		need := l.o.products[i].Need(l.at(test, 0), 0, &settings[n])
		l.shelves[n].hand = need.Units + int64(math.Ceil(cover/2*need.Demand.Mean/need.WindowDays))
		l.o.products[i].StockLevel(l.at(test, 0), l.shelves[n].hand, &settings[n])
	}
	var sum tallied
	purse := 0.
	asks, of := []restock.Ask{}, []int{}
	for t := test; t < h.Periods; t++ {
		morning := l.at(t, .001)
		purse = min(purse+daily, budgetDays*daily)
		asks, of = asks[:0], of[:0]
		for k := range l.stocked {
			n := (k + 97*t) % len(l.stocked) // whose turn is first
			p, set, x := &l.o.products[l.stocked[n]], &settings[n], &l.shelves[n]
			set.Layer = l.o.setting.Layer
			for _, a := range x.arrivals {
				if a.day <= t {
					p.Receipt(morning, a.units, 0, set)
				}
			}
			x.receive(t, false, nil)
			if a, ok := p.Ask(morning, budgetDays, set); ok && a.Cost > 0 {
				asks, of = append(asks, a), append(of, n)
			}
		}
		for _, k := range grant(asks, purse, ranked) {
			n := of[k]
			purse -= asks[k].Cost
			l.o.products[l.stocked[n]].PurchaseOrder(morning, asks[k].Quantity, 0, &settings[n])
			x := &l.shelves[n]
			x.ordered += asks[k].Quantity
			x.arrivals = append(x.arrivals, arrival{day: t + leadDays(seed, l.stocked[n], t, l.lead[n]), units: asks[k].Quantity})
		}
		lines := l.day(t)
		for k, line := range lines {
			n := l.place[line.Series] - 1
			sold, set := int64(line.Units), &l.o.setting
			if n >= 0 {
				shipped := min(sold, max(l.shelves[n].hand, 0))
				l.shelves[n].serve(sold, price[line.Series], t >= test+warmUp, &sum)
				sold, set = shipped, &settings[n]
			}
			if sold > 0 {
				l.o.products[line.Series].Sale(l.at(t, .01+.98*(float64(k)+.5)/float64(len(lines))), sold, int64(float64(line.Price)*1e6), set)
			}
		}
		l.o.close(t)
	}
	return sum.missedValue / sum.demandValue
}

// grant chooses the asks that are paid for: by what they save, or in turn, each that the
// rest still pays for.
func grant(asks []restock.Ask, purse float64, ranked bool) []int {
	if ranked {
		return restock.Spend(asks, purse)
	}
	var granted []int
	for i, a := range asks {
		if a.Cost <= purse {
			purse -= a.Cost
			granted = append(granted, i)
		}
	}
	return granted
}
