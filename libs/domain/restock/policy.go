package restock

import (
	"errors"
	"fmt"
	"time"
)

// Target says what a reorder point is to reach.
type Target uint8

// Targets.
const (
	CycleService Target = iota // a share of the order cycles without a stock-out
	FillRate                   // a share of the units served from stock
	Economic                   // the service that costs least
)

// String returns the target's name.
func (t Target) String() string {
	switch t {
	case CycleService:
		return "cycle-service"
	case FillRate:
		return "fill-rate"
	case Economic:
		return "economic"
	}
	return "unknown"
}

// ParseTarget returns the target of a name.
func ParseTarget(name string) (Target, error) {
	for _, t := range [3]Target{CycleService, FillRate, Economic} {
		if name == t.String() {
			return t, nil
		}
	}
	return 0, fmt.Errorf("restock.target: %q is not %s, %s or %s", name, CycleService, FillRate, Economic)
}

// Policy says how well to be stocked, and how to order.
type Policy struct {
	Target       Target  // which of the three decides
	ServiceLevel float64 // tau, of CycleService: share of order cycles without a stock-out, [.5, .9999]
	FillRate     float64 // beta, of FillRate: share of units served from stock, [.5, .9999]

	// Of Economic, as shares of the price, so that it needs no product's cost.
	Margin   float64 // what a unit sold earns
	Goodwill float64 // what a unit missed costs besides
	Markdown float64 // what a unit that was not wanted in its cycle is likely to lose

	ReviewDays   float64 // R: days between two chances to order
	OrderDays    float64 // days of mean demand that one order is to bring, without an order cost
	OrderCost    float64 // K: cost of placing an order, in money of the prices; above 0, with a price, the quantity is EOQ
	HoldingRate  float64 // yearly holding cost as a share of the price
	MaxCoverDays float64 // no order beyond so many days of mean demand, unless the minimum order is
	ShelfDays    float64 // days for which a unit can be sold after it came; 0: it does not spoil
	LookAhead    int     // days for which a product without sales is thought ahead

	// Lead time: what is believed before receipts are seen, worth so many of them.
	LeadDays   float64
	LeadCV     float64
	LeadOrders float64

	// Demand: the launch rate in units a day, worth so many days of exposure.
	LaunchRate float64
	LaunchDays float64
}

// DefaultPolicy returns a cycle service of 95 %, daily review, orders of 14 days
// of demand, a lead time of 7 days (CV .35) worth 4 receipts, and a launch prior
// of one unit in five days worth 5 days. The other targets, were they asked for,
// would be a fill rate of 97 %, and the economy of a margin of 40 %, a lost sale that
// costs another 10 %, a holding cost of 25 % a year and a markdown of 2 %: for orders
// of 14 days a service of 94.4 %.
func DefaultPolicy() Policy {
	return Policy{
		Target: CycleService, ServiceLevel: .95, FillRate: .97, Margin: .4, Goodwill: .1, Markdown: .02,
		ReviewDays: 1, OrderDays: 14, HoldingRate: .25, MaxCoverDays: 90, LookAhead: 90,
		LeadDays: 7, LeadCV: .35, LeadOrders: 4, LaunchRate: .2, LaunchDays: 5,
	}
}

// Validate reports every setting outside its range, of the targets that do not decide,
// too.
func (p Policy) Validate() error {
	var errs []error
	if p.Target > Economic {
		errs = append(errs, fmt.Errorf("restock.target: there is none of number %d", p.Target))
	}
	in := func(name string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) { // also catches NaN
			errs = append(errs, fmt.Errorf("restock.%s: %g is not inside [%g, %g]", name, v, lo, hi))
		}
	}
	in("service-level", p.ServiceLevel, leastService, mostService)
	in("fill-rate", p.FillRate, leastService, mostService)
	in("margin", p.Margin, .001, 1)
	in("goodwill", p.Goodwill, 0, 100)
	in("markdown", p.Markdown, 0, 1)
	in("review-days", p.ReviewDays, 0, 365)
	in("order-days", p.OrderDays, 0, 3650)
	in("order-cost", p.OrderCost, 0, 1e9)
	in("holding-rate", p.HoldingRate, 0, 100)
	in("max-cover-days", p.MaxCoverDays, 1, 3650)
	if p.ShelfDays != 0 {
		in("shelf-days", p.ShelfDays, 1, 3650)
	}
	in("look-ahead", float64(p.LookAhead), 1, 365)
	in("lead-days", p.LeadDays, .01, 730)
	in("lead-cv", p.LeadCV, .01, 3)
	in("lead-orders", p.LeadOrders, .1, 1e6)
	in("launch-rate", p.LaunchRate, 0, 1e6)
	in("launch-days", p.LaunchDays, .1, 365)
	return errors.Join(errs...)
}

// Observed returns how much of [from, to) was observed, in microseconds: to - from
// less the union of the intervals in which the shop's events were not received.
// It is additive over neighbouring intervals. A nil Observed saw everything.
type Observed func(from, to int64) int64

// span is the observed time between two instants, never negative.
func (o Observed) span(from, to int64) int64 {
	if to <= from {
		return 0
	}
	if o == nil {
		return to - from
	}
	return min(to-from, max(0, o(from, to)))
}

// Setting is what decisions read besides the product.
type Setting struct {
	Policy   Policy
	Observed Observed       // nil: no gaps
	Location *time.Location // whose days are closed; nil: UTC
	Layer    *Layer         // what the shop's products share; nil: neutral
	Tell     func(Stat)     // takes what products tell of themselves; nil: nobody does
	Period   float64        // length of a day of the products' in days, where history was summed up before it came; 0: 1

	neutral calendar // of no layer
}

// kept is what the experts keep from one period to the next.
func (s *Setting) kept() [experts]float64 {
	return kept(s.period())
}

func (s *Setting) period() float64 {
	if s.Period > 0 {
		return s.Period
	}
	return 1
}

// week is how many periods make a week, 1 at least.
func (s *Setting) week() int { return max(1, int(7/s.period()+.5)) }

// calendar never is nil.
func (s *Setting) calendar() *calendar {
	if s.Layer == nil {
		return &s.neutral
	}
	return &s.Layer.calendar
}

// DefaultSetting returns the default policy in UTC, without gaps.
func DefaultSetting() Setting { return Setting{Policy: DefaultPolicy(), Location: time.UTC} }

// Validate reports every mistake of the parts.
func (s *Setting) Validate() error { return s.Policy.Validate() }

// Day is a local day, counted from 1970-01-01.
type Day int32

// Day returns the local day of an instant.
func (s *Setting) Day(at int64) Day {
	if s.utc() {
		d := at / dayMicros
		if at%dayMicros < 0 {
			d--
		}
		return Day(d)
	}
	y, m, d := time.UnixMicro(at).In(s.location()).Date()
	return Day(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

// Start returns the first instant of a local day, in microseconds, where clocks
// skip midnight the first after it.
func (s *Setting) Start(d Day) int64 {
	if s.utc() {
		return int64(d) * dayMicros
	}
	y, m, day := time.Unix(int64(d)*86400, 0).UTC().Date()
	at := time.Date(y, m, day, 0, 0, 0, 0, s.location())
	for got := s.Day(at.UnixMicro()); got < d; got = s.Day(at.UnixMicro()) {
		at = at.Add(time.Hour)
	}
	return at.UnixMicro()
}

// utc tells that days need no calendar.
func (s *Setting) utc() bool { return s.Location == nil || s.Location == time.UTC }

func (s *Setting) location() *time.Location {
	if s.Location == nil {
		return time.UTC
	}
	return s.Location
}

const (
	second    = int64(1e6)
	dayMicros = 86400 * second
)

// days converts microseconds.
func days(micros int64) float64 { return float64(micros) / float64(dayMicros) }
