package restock

import "math"

// Bounds of every service level, asked for or computed. Below one half a reorder point
// would be less than the median demand: a shop that wants that wants no stock.
const (
	leastService = .5
	mostService  = .9999
)

// longest is how many days a stock is thought to lie at most.
const longest = 3650.

// critical is the newsvendor's ratio Cu/(Cu + Co), inside the bounds of a service level: a
// unit missed costs margin and goodwill, and one too many its holding until the next order
// and a markdown. Days is how long an order lasts. With no markdown it is the rule for a
// charge per unit short, sales being lost, of Silver, Pyke and Thomas (Inventory and
// Production Management in Supply Chains, chapter 6: P(D > s) = Qr/(Qr + D B2)), in which
// Q/D is the days.
func (p Policy) critical(days float64) float64 {
	under := p.Margin + p.Goodwill
	over := p.HoldingRate*min(max(days, 0), longest)/365 + p.Markdown
	if !(under+over > 0) {
		return leastService
	}
	return min(max(under/(under+over), leastService), mostService)
}

// batch is how many units an order is to bring at a mean rate a day: the economic order
// quantity (Harris 1913) where an order and holding cost something and the price is known,
// else the demand of some days, and at least that of a review.
func (p Policy) batch(rate, price float64) float64 {
	batch := rate * p.OrderDays
	if h := p.HoldingRate * price; p.OrderCost > 0 && h > 0 {
		batch = math.Sqrt(2 * p.OrderCost * 365 * rate / h)
	}
	return max(batch, rate*p.ReviewDays)
}

// goal is what the policy asks of a product at one moment. Lack is 0 where nothing is
// wanting and grows as the position falls; from trigger on it is time to order.
type goal struct {
	target        Target
	level         float64 // tau, or beta of a fill rate
	lot           float64 // units that one order brings, in packs
	batch         float64 // before packs, minimum and caps
	rate          float64 // mean, a day
	lack, trigger float64
	stocked       bool  // is worth a unit on the shelf
	shelf         int64 // position that can be sold before it spoils; 0: no limit
}

// aim fills in the goal of an outlook that has a demand, a position and a risk.
func (p *Product) aim(o *outlook, s *Setting) {
	y, g := &s.Policy, &o.goal
	g.target, g.rate = y.Target, o.ensemble.rate()
	g.batch = y.batch(g.rate, float64(p.price))
	if y.ShelfDays > 0 {
		g.shelf = max(1, units(math.Ceil(g.rate*(o.lead.Mean+y.ShelfDays))))
	}
	switch g.target {
	case FillRate:
		g.lot = p.lot(o, s)
		g.level, g.trigger = y.FillRate, 1-y.FillRate
		g.lack = o.demand.Short(float64(o.position)) / g.lot
	case Economic:
		g.lot = p.lot(o, s)
		g.level = y.critical(g.lot / max(g.rate, 1e-9))
		g.lack, g.trigger = o.risk, 1-g.level
	default:
		g.level, g.lack, g.trigger = y.ServiceLevel, o.risk, 1-y.ServiceLevel
	}
	// An empty shelf sells nothing. Whoever asks for cycles without a stock-out has none in
	// which nothing is asked for; of units or of money it would be all of them.
	g.stocked = g.target != CycleService && g.rate*y.MaxCoverDays >= 1
	if g.stocked && o.position < 1 {
		g.lack = max(g.lack, g.trigger)
	}
	if g.shelf > 0 && o.position >= g.shelf {
		g.lack = 0 // what would be ordered could not be sold
	}
}

// lot is what one order brings on average: the batch inside what the caps allow it at the
// most, then the minimum, in packs; and what the position has fallen short of the reorder
// point when the order is placed, the undershoot.
func (p *Product) lot(o *outlook, s *Setting) float64 {
	g := &o.goal
	q := min(math.Ceil(g.batch), max(1, math.Ceil(g.rate*s.Policy.MaxCoverDays)))
	if s.Policy.ShelfDays > 0 {
		q = min(q, max(1, math.Ceil(g.rate*s.Policy.ShelfDays)))
	}
	return float64(p.packed(max(units(q), int64(p.minimum), 1))) + o.undershoot(s)
}

// undershoot is by how much the sale that takes the position to the reorder point, or the
// demand of the review in which it does, goes beyond it: (E X²/E X - 1)/2 units for X units at
// a time, by renewal theory (Tijms, Stochastic Models, 1994).
func (o *outlook) undershoot(s *Setting) float64 {
	d := o.ensemble.over(max(s.Policy.ReviewDays, leastReview))
	if !(d.Mean > nothing) {
		return 0
	}
	return max(0, (d.Variance/d.Mean+d.Mean-1)/2)
}

// leastReview is the window in days whose demand stands for one sale.
const leastReview = 1. / 24

// packed rounds up to whole packs.
func (p *Product) packed(amount int64) int64 {
	if pack := int64(p.pack); pack > 1 {
		amount = (amount + pack - 1) / pack * pack
	}
	return amount
}

// point is the stock of which a demand asks for no more than the goal allows.
func (g *goal) point(d Demand) int64 {
	var n int64
	if g.target == FillRate {
		n = d.FillPoint(g.level, g.lot)
	} else {
		n = d.Quantile(g.level)
	}
	if g.stocked {
		n = max(n, 1)
	}
	return n
}

// Points puts into out the reorder points of the policy's target for every level, which
// rise, and returns the mean rate a day: for a belief about the lead time that the caller
// has, from the start of the open day. A level is a service level, a fill rate, or, of an
// economic target, a margin.
func (p *Product) Points(l LeadTime, levels []float64, out []int64, s *Setting) (rate float64) {
	o := outlook{ensemble: p.at(s), lead: l, points: l.points()}
	o.demand = o.ensemble.overLead(o.points, s.Policy.ReviewDays)
	p.aim(&o, s)
	g := &o.goal
	switch g.target {
	case FillRate:
		o.demand.FillPoints(levels, g.lot, out)
	case Economic:
		y := s.Policy
		for i, margin := range levels {
			y.Margin = margin
			out[i] = o.demand.Quantile(y.critical(g.lot / max(g.rate, 1e-9)))
		}
	default:
		o.demand.Quantiles(levels, out)
	}
	for i := range levels {
		if g.stocked {
			out[i] = max(out[i], 1)
		}
		if g.shelf > 0 {
			out[i] = min(out[i], g.shelf)
		}
	}
	return g.rate
}
