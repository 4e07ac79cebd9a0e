package restock

import (
	"math"

	"github.com/sillage-io/sillage/libs/domain/restock"
)

// levels are the quantiles that are scored.
var levels = [7]float64{.1, .25, .5, .75, .9, .95, .99}

// method forecasts all series of a history, a period at a time.
type method interface {
	// close tells that a period is over.
	close(t int)
	// over returns the quantiles at levels and the mean of the demand for a series
	// in the coming periods.
	over(series int, periods float64) (q [len(levels)]float64, mean float64)
}

// classic runs one baseline a series.
type classic struct {
	h   *History
	all []baseline
}

func newClassic(h *History, name string, test int) *classic {
	c := &classic{h: h, all: make([]baseline, len(h.Series))}
	for i := range c.all {
		c.all[i] = newBaseline(name, h, h.Series[i].First, test)
	}
	return c
}

func (c *classic) close(t int) {
	for i := range c.all {
		if s := &c.h.Series[i]; t >= s.First {
			c.all[i].next(s.at(t))
		}
	}
}

func (c *classic) over(i int, periods float64) (q [len(levels)]float64, mean float64) {
	d := c.all[i].over(periods)
	for j, tau := range levels {
		q[j] = d.quantile(tau)
	}
	return q, d.mean
}

// online drives the products and the pool that the service runs, as the service does:
// those products tell that the layer in force asks, and layers come when the pool makes
// one.
type online struct {
	h        *History
	setting  restock.Setting // without Tell; see tells
	pool     *restock.Pool
	told     restock.Told
	products []restock.Product
	asked    []bool // of products
	next     int    // line
	now      int    // period that is open
	offers   []restock.Offer
}

const dayMicros = 86400_000_000

func newOnline(h *History) *online {
	o := &online{h: h, setting: restock.DefaultSetting(), pool: restock.NewPool(h.Period), products: make([]restock.Product, len(h.Series)), asked: make([]bool, len(h.Series))}
	o.setting.Period = h.Period
	for i := range h.Series {
		o.products[i].Group(h.Series[i].Group)
	}
	o.ask()
	return o
}

// ask notes whom the layer in force asks.
func (o *online) ask() {
	for i := range o.asked {
		o.asked[i] = o.setting.Layer.Asks(o.h.Series[i].ID)
	}
}

// tells lets something happen to a product, and the pool hear what it tells of it.
func (o *online) tells(i int, happens func(p *restock.Product, s *restock.Setting)) {
	if !o.asked[i] {
		happens(&o.products[i], &o.setting)
		return
	}
	s := o.setting
	o.told.Sampling, o.told.Stats = s.Layer.Sampling(), o.told.Stats[:0]
	s.Tell = func(t restock.Stat) { o.told.Stats = append(o.told.Stats, t) }
	happens(&o.products[i], &s)
	o.pool.Hear(o.told)
}

func (o *online) close(t int) {
	o.now = t + 1
	day := o.h.First + restock.Day(t)
	at := int64(day)*dayMicros + dayMicros/2
	for ; o.next < len(o.h.Lines) && int(o.h.Lines[o.next].Period) <= t; o.next++ {
		l := &o.h.Lines[o.next]
		o.tells(int(l.Series), func(p *restock.Product, s *restock.Setting) {
			if l.Price > 0 && o.h.Offers {
				p.Offer(at, l.offer(), s)
			}
			if l.Units > 0 {
				p.Sale(at, int64(l.Units), int64(float64(l.Price)*1e6), s)
			}
		})
	}
	for i := range o.products {
		o.tells(i, func(p *restock.Product, s *restock.Setting) { p.CloseDay(day, s) })
	}
	if l, due := o.pool.Next(); due {
		o.setting.Layer = l
		o.ask()
	}
}

func (o *online) over(i int, periods float64) (q [len(levels)]float64, mean float64) {
	d, even := o.products[i].Demand(periods, o.plan(i, int(periods)), &o.setting)
	var out [len(levels)]int64
	d.Quantiles(levels[:], out[:])
	for j, n := range out {
		q[j] = float64(n)
	}
	return q, even
}

// plan is what is offered of a series in the coming periods, where the file says.
func (o *online) plan(i, periods int) []restock.Offer {
	if !o.h.Offers {
		return nil
	}
	s := &o.h.Series[i]
	o.offers = o.offers[:0]
	for t := o.now; t < o.now+periods && t-s.First < len(s.offers); t++ {
		o.offers = append(o.offers, s.offers[max(t-s.First, 0)])
	}
	return o.offers
}

// Case is one forecast that is scored.
type Case struct {
	Series, Origin int
	Horizon        int     // in periods
	Age            int     // of a launch, in periods
	Weight         float64 // what the series sold in the four weeks before, in money
	Scale          float64 // 0: cannot be scaled
	Actual         float64
}

// Scores are of one method over all cases.
type Scores struct {
	Cases                           int
	SPL, SPL95, SPL99               float64
	Cov                             [len(levels)]float64
	WAPE, Bias, WPL, WSPL, WAPEMean float64
	PerCase                         []float64     // scaled pinball loss
	ByAge                           map[int]ratio // of launches
}

// minChange is the least weekly change that a loss is scaled by, in units: or the
// products that were never in demand decide the mean.
const minChange = .5

// ratio is a loss over the demand.
type ratio struct{ loss, actual float64 }

// cases are the forecasts to be made: in every week, and in every period where that is
// longer, of the test part.
func (h *History) cases(test, horizon int) []Case {
	week := max(1, int(7/h.Period+.5))
	age, silent := max(int(56/h.Period+.5), 2), max(int(180/h.Period+.5), 2)
	changes := make([]float64, len(h.Series)) // sums of weekly changes
	weeks := make([]int, len(h.Series))
	last := make([]float64, len(h.Series))
	lastSale := make([]int, len(h.Series))
	price := h.prices(test)
	var out []Case
	for t := range h.Periods {
		origin := t >= test && t+horizon <= h.Periods && h.isOrigin(t)
		for i := range h.Series {
			s := &h.Series[i]
			if t < s.First {
				continue
			}
			if n := t - s.First; n > 0 && n%week == 0 {
				y := s.sum(t-week, t)
				if weeks[i] > 0 {
					changes[i] += math.Abs(y - last[i])
				}
				weeks[i]++
				last[i] = y
			}
			if origin && t-s.First >= age && (!h.Orders || t-lastSale[i] <= silent) {
				c := Case{Series: i, Origin: t, Horizon: horizon, Actual: s.sum(t, t+horizon), Weight: s.sum(t-4*week, t) * price[i]}
				if weeks[i] > 1 {
					c.Scale = max(changes[i]/float64(weeks[i]-1), minChange) * math.Sqrt(float64(horizon)/float64(week))
				}
				out = append(out, c)
			}
			if s.at(t) > 0 {
				lastSale[i] = t
			}
		}
	}
	return out
}

// isOrigin tells whether forecasts are made at the start of a period: Mondays.
func (h *History) isOrigin(t int) bool {
	return h.Period != 1 || (int(h.First)+t)%7 == 4 // 1970-01-01 was a Thursday
}

// test is the period at which the test begins: the last five months of a history of
// 15 months and more, the last third of a shorter one.
func (h *History) test() int {
	n := int(152/h.Period + .5)
	return h.Periods - max(min(n, h.Periods/3), 1)
}

// score runs a method over the history.
func score(h *History, m method, cases []Case) Scores {
	var s Scores
	var loss, actual, err, errMean, bias float64
	var n, weight float64
	next := 0
	s.PerCase, s.ByAge = make([]float64, len(cases)), map[int]ratio{}
	for t := range h.Periods {
		for ; next < len(cases) && cases[next].Origin == t; next++ {
			c := cases[next]
			q, mean := m.over(c.Series, float64(c.Horizon))
			var all float64
			for j, tau := range levels {
				e := c.Actual - q[j]
				l := 2 * max(tau*e, (tau-1)*e)
				all += l / float64(len(levels))
				if c.Scale > 0 {
					switch tau {
					case .95:
						s.SPL95 += l / c.Scale
					case .99:
						s.SPL99 += l / c.Scale
					}
				}
				if c.Actual <= q[j] {
					s.Cov[j]++
				}
			}
			loss += all
			if c.Age > 0 {
				r := s.ByAge[c.Age]
				s.ByAge[c.Age] = ratio{r.loss + all, r.actual + c.Actual}
			}
			if c.Scale > 0 {
				s.PerCase[next] = all / c.Scale
				s.SPL += all / c.Scale
				s.WSPL += c.Weight * all / c.Scale
				weight += c.Weight
				n++
			}
			actual += c.Actual
			err += math.Abs(c.Actual - q[2])
			errMean += math.Abs(c.Actual - mean)
			bias += mean - c.Actual
			s.Cases++
		}
		m.close(t)
	}
	if s.Cases == 0 {
		return s
	}
	n = max(n, 1)
	s.WSPL /= max(weight, 1e-9)
	s.SPL, s.SPL95, s.SPL99 = s.SPL/n, s.SPL95/n, s.SPL99/n
	for j := range s.Cov {
		s.Cov[j] /= float64(s.Cases)
	}
	if actual > 0 {
		s.WAPE, s.WAPEMean, s.Bias, s.WPL = err/actual, errMean/actual, bias/actual, loss/actual
	}
	return s
}
