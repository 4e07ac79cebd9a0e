package restock

import (
	"math"

	"gonum.org/v1/gonum/mathext"
)

// Indicator says of a product what is no cause to order.
type Indicator uint8

// Indicators.
const (
	Overstock Indicator = iota + 1 // more is there and on order than will be asked for within the longest cover
	Dead                           // there is stock, and nobody is likely to ask for any
	NewTrend                       // demand has more than doubled
)

// String returns the indicator's name.
func (i Indicator) String() string {
	switch i {
	case Overstock:
		return "OVERSTOCK"
	case Dead:
		return "DEAD"
	case NewTrend:
		return "NEW_TREND"
	}
	return "UNKNOWN"
}

// Codes of the reasons of indicators.
const (
	ReasonPosition  = "position"   // units on hand and on order that are not reserved
	ReasonEnough    = "enough"     // units that suffice for the longest cover with 95 %
	ReasonExcess    = "excess"     // units beyond these
	ReasonSilence   = "silence"    // days since the last sale
	ReasonFastRate  = "fast_rate"  // units a day, by the expert that forgets in days
	ReasonUsualRate = "usual_rate" // and by the one that forgets in months
)

// Finding is an indicator that holds.
type Finding struct {
	Indicator Indicator
	Chance    float64 // that it is so
	Reasons   []Reason
}

// Limits of the indicators, as restock planning commonly has them.
const (
	overstocked = .95 // P(D over the longest cover < position) above which there is too much
	silentDays  = 90.
	silent      = .9 // P(no sale in these days) above which a product is dead
	doubled     = 2.
	trending    = .95 // P(fast rate > twice the slow one) above which there is a trend
)

// Indicators returns what holds of the product at an instant, in the order of the
// indicators. Of stock that is not known nothing is said. A trend is told late rather than
// wrongly: the rise itself widens what the experts take for chance, so that of steady
// sales a rise to six times is seen after 18 days, and one to four times is not.
func (p *Product) Indicators(now int64, s *Setting) []Finding {
	if !p.known {
		return nil
	}
	q := *p
	q.roll(now, s)
	e := q.at(s)
	var found []Finding
	if q.stockKnown {
		onHand, onOrder, reserved := q.Stock()
		position := onHand + onOrder - reserved
		d := e.over(s.Policy.MaxCoverDays)
		if chance := d.CDF(float64(position - 1)); position > 0 && chance > overstocked {
			enough := d.Quantile(overstocked)
			found = append(found, Finding{Overstock, chance, []Reason{
				{ReasonPosition, float64(position)}, {ReasonEnough, float64(enough)}, {ReasonExcess, float64(position - enough)},
			}})
		}
		if chance := e.over(silentDays).CDF(0); onHand > 0 && chance > silent {
			reasons := []Reason{{ReasonOnHand, float64(onHand)}}
			if q.lastSale > 0 {
				reasons = append(reasons, Reason{ReasonSilence, math.Floor(days(max(0, now-q.LastSale())))})
			}
			found = append(found, Finding{Dead, chance, reasons})
		}
	}
	fast, slow := e.levels[0], e.levels[experts-1]
	if chance := faster(fast, slow, doubled); chance > trending {
		found = append(found, Finding{NewTrend, chance, []Reason{{ReasonFastRate, fast.rate}, {ReasonUsualRate, slow.rate}}})
	}
	return found
}

// faster is the probability that one rate is above so many times another, both being
// gamma with variance phi rate/certainty, and taken as independent: with X and Y of unit
// scale it is P(X/(X+Y) > c/(1+c)), a beta's. The fast expert is drawn to the slower ones,
// so that it is cautious.
func faster(a, b level, times float64) float64 {
	shape := func(l level) float64 { return l.rate * l.certain / l.phi }
	k, n := shape(a), shape(b)
	if !(k > 1e-9) || !(n > 1e-9) || !(a.rate > times*b.rate) {
		return 0
	}
	c := times * b.rate * k / (n * a.rate)
	return 1 - mathext.RegIncBeta(k, n, c/(1+c))
}
