package restock

import (
	"hash/fnv"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/sillage-io/sillage/libs/domain/restock"
)

// Constants of the simulation of stock.
const (
	leadCV      = .35
	review      = 1.  // days
	cover       = 14. // days of mean demand that an order brings above the reorder point
	warmUp      = 28  // days that are simulated and not judged
	stockedDays = 50. // days of stock at which out-of-stock days are compared
	lineFill    = .97 // service at which days of stock are compared
)

// targets are the service levels that a frontier is drawn from.
var targets = [12]float64{.5, .6, .7, .8, .9, .95, .97, .98, .99, .995, .999, .9995}

// Point is a policy at one service level.
type Point struct {
	Target   float64 `json:"target"`
	Days     float64 `json:"days_of_stock"` // value of the stock on hand, in days of the demand's value
	LineFill float64 `json:"line_fill"`     // share of the order lines served whole from stock
	UnitFill float64 `json:"unit_fill"`
	Cycles   float64 `json:"cycle_service"` // share of the cycles from order to delivery in which nothing was missed
	Missed   float64 `json:"missed_value"`  // share of the demand's value
	OutPct   float64 `json:"oos_days_pct"`  // share of the days that ended without stock
}

// Frontier is what service costs under one method.
type Frontier struct {
	Points          []Point
	DaysAtFill      float64 // NaN: never reached, or always
	OutPct          float64 // at 50 days of stock; NaN: not covered
	SignalsPerOrder float64 // NaN: no order
	Duplicates      int64
}

// supplier of a series: a mean lead time in days. There are twenty of five kinds.
func supplier(id string) float64 {
	h := fnv.New32a()
	h.Write([]byte(id))
	return [5]float64{5, 7, 10, 14, 21}[h.Sum32()%20/4]
}

// leadDays draws the lead time of an order: the same for every method that orders the
// series on that day.
func leadDays(seed uint64, series, day int, mean float64) int {
	const shape = 1 / (leadCV * leadCV)
	g := distuv.Gamma{Alpha: shape, Beta: shape / mean, Src: rand.NewPCG(seed+uint64(series)*0x9e3779b97f4a7c15, uint64(day))}
	return max(1, int(g.Rand()+.5))
}

// stocker says how much stock a series needs over a lead time and a review.
type stocker interface {
	close(t int)
	// need returns the quantiles at targets of the demand over a lead time of the
	// given mean and the review, and the mean demand a day.
	need(series int, lead float64) (q [len(targets)]float64, rate float64)
}

func (c *classic) need(i int, lead float64) (q [len(targets)]float64, rate float64) {
	d := c.all[i].over(lead + review)
	for j, tau := range targets {
		q[j] = d.quantile(tau)
	}
	return q, d.mean / (lead + review)
}

func (o *online) need(i int, lead float64) (q [len(targets)]float64, rate float64) {
	d, rate := o.products[i].OverLead(restock.LeadTime{Mean: lead, Variance: leadCV * leadCV * lead * lead}, review, &o.setting)
	var out [len(targets)]int64
	d.Quantiles(targets[:], out[:])
	for j, n := range out {
		q[j] = float64(n)
	}
	return q, rate
}

// oracle knows the demand to come, and of the lead time what everybody does.
type oracle struct {
	h   *History
	now int
}

func (o *oracle) close(t int) { o.now = t + 1 }

func (o *oracle) need(i int, lead float64) (q [len(targets)]float64, rate float64) {
	const shape = 1 / (leadCV * leadCV)
	g := distuv.Gamma{Alpha: shape, Beta: shape / lead}
	s := &o.h.Series[i]
	for j, tau := range targets {
		q[j] = s.sum(o.now, o.now+int(math.Ceil(g.Quantile(tau)+review)))
	}
	return q, s.sum(o.now, o.now+cover) / cover
}

// shelf is the stock of a series under one service level.
type shelf struct {
	hand, ordered int64
	arrivals      []arrival
}

type arrival struct {
	day    int
	units  int64
	missed bool // something, since it was ordered
}

// tallied is what happened under one service level.
type tallied struct {
	value, demandValue float64
	lines, served      float64
	units, shipped     float64
	days, out          float64
	orders, naive      float64
	missedValue        float64
	cycles, whole      float64
}

// stocked are the series that are simulated: as old and alive at the start of the test
// as those that are forecast.
func (h *History) stocked(test int) []int {
	var all []int
	for i := range h.Series {
		s := &h.Series[i]
		if s.First <= test-56 && s.sum(test-180, test) > 0 {
			all = append(all, i)
		}
	}
	return all
}

// prices are the mean prices paid for series before the test; 1 where none is known.
func (h *History) prices(test int) []float64 {
	sum, n := make([]float64, len(h.Series)), make([]float64, len(h.Series))
	for _, l := range h.Lines {
		if int(l.Period) < test && l.Price > 0 {
			sum[l.Series] += float64(l.Price)
			n[l.Series]++
		}
	}
	for i := range sum {
		if sum[i] = sum[i] / max(n[i], 1); n[i] == 0 {
			sum[i] = 1
		}
	}
	return sum
}

// simulate runs (s, S) policies of a method over the test: daily review, sales that
// cannot be served are lost, and the method sees all demand.
func simulate(h *History, m stocker, test int, seed uint64) Frontier {
	all := h.stocked(test)
	price := h.prices(test)
	shelves := make([][len(targets)]shelf, len(all))
	place := make([]int, len(h.Series)) // in all, from 1
	lead := make([]float64, len(all))
	for n, i := range all {
		place[i] = n + 1
		lead[n] = supplier(h.Series[i].ID)
	}
	var sums [len(targets)]tallied
	next := 0
	for t := range h.Periods {
		begin := next
		for next < len(h.Lines) && int(h.Lines[next].Period) == t {
			next++
		}
		if t < test {
			m.close(t)
			continue
		}
		if t == test {
			for n, i := range all {
				q, rate := m.need(i, lead[n])
				for j := range targets {
					shelves[n][j].hand = int64(math.Ceil(q[j] + cover/2*rate))
				}
			}
		}
		judged := t >= test+warmUp
		for n := range all {
			for j := range targets {
				shelves[n][j].receive(t, judged, &sums[j])
			}
		}
		for _, l := range h.Lines[begin:next] {
			n := place[l.Series] - 1
			if n < 0 || l.Units <= 0 {
				continue
			}
			for j := range targets {
				shelves[n][j].serve(int64(l.Units), price[l.Series], judged, &sums[j])
			}
		}
		m.close(t)
		for n, i := range all {
			q, rate := m.need(i, lead[n])
			for j := range targets {
				x, sum := &shelves[n][j], &sums[j]
				if judged {
					sum.days++
					sum.value += float64(x.hand) * price[i]
					if x.hand <= 0 {
						sum.out++
					}
					if float64(x.hand) <= q[j] {
						sum.naive++
					}
				}
				position := float64(x.hand + x.ordered)
				if position > q[j] {
					continue
				}
				amount := int64(math.Ceil(q[j] + max(cover*rate, 1) - position))
				if amount <= 0 {
					continue
				}
				x.ordered += amount
				x.arrivals = append(x.arrivals, arrival{day: t + leadDays(seed, i, t, lead[n]), units: amount})
				if judged {
					sum.orders++
				}
			}
		}
	}
	f := Frontier{Points: make([]Point, len(targets))}
	for j := range targets {
		f.Points[j] = sums[j].point(targets[j])
	}
	f.DaysAtFill = meet(f.Points, lineFill, func(p Point) (x, y float64) { return p.LineFill, p.Days })
	f.OutPct = meet(f.Points, stockedDays, func(p Point) (x, y float64) { return p.Days, p.OutPct })
	// At a service level of 95 %: who compares the stock on hand with a threshold every
	// day says it again until the delivery comes.
	at := sums[5]
	f.SignalsPerOrder = at.naive / at.orders
	f.Duplicates = int64(max(0, at.naive-at.orders))
	return f
}

func (s *shelf) receive(t int, judged bool, sum *tallied) {
	kept := s.arrivals[:0]
	for _, a := range s.arrivals {
		if a.day > t {
			kept = append(kept, a)
			continue
		}
		s.hand += a.units
		s.ordered -= a.units
		if !judged {
			continue
		}
		sum.cycles++
		if !a.missed {
			sum.whole++
		}
	}
	s.arrivals = kept
}

func (s *shelf) serve(units int64, price float64, judged bool, sum *tallied) {
	shipped := min(units, max(s.hand, 0))
	s.hand -= shipped
	if shipped < units {
		for i := range s.arrivals {
			s.arrivals[i].missed = true
		}
	}
	if !judged {
		return
	}
	sum.lines++
	if shipped == units {
		sum.served++
	}
	sum.units += float64(units)
	sum.shipped += float64(shipped)
	sum.demandValue += float64(units) * price
	sum.missedValue += float64(units-shipped) * price
}

func (s *tallied) point(target float64) Point {
	return Point{
		Target: target, Days: s.value / s.demandValue, LineFill: s.served / s.lines, UnitFill: s.shipped / s.units, OutPct: 100 * s.out / s.days,
		Cycles: s.whole / s.cycles, Missed: s.missedValue / s.demandValue,
	}
}

// meet returns y where a frontier passes an x, between its points; NaN where it does
// not.
func meet(points []Point, x float64, of func(Point) (x, y float64)) float64 {
	for i := 1; i < len(points); i++ {
		x0, y0 := of(points[i-1])
		x1, y1 := of(points[i])
		if x0 <= x && x <= x1 && x1 > x0 {
			return y0 + (y1-y0)*(x-x0)/(x1-x0)
		}
	}
	return math.NaN()
}
