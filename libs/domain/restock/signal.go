package restock

import "math"

// Kind says what a [Signal] is.
type Kind uint8

// Kinds of signal.
const (
	Raised    Kind = iota + 1 // order now
	Updated                   // more severe, or another quantity
	Withdrawn                 // no longer needed
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case Raised:
		return "RAISED"
	case Updated:
		return "UPDATED"
	case Withdrawn:
		return "WITHDRAWN"
	}
	return "UNKNOWN"
}

// Severity orders signals by urgency.
type Severity uint8

// Severities.
const (
	Low      Severity = iota + 1 // stock is likely to last for a lead time
	Medium                       // it runs out within a mean lead time with 10 %
	High                         // with 50 %
	Critical                     // it is out, or likely to be before the fastest receipt
)

// String returns the severity's name.
func (s Severity) String() string {
	switch s {
	case Low:
		return "LOW"
	case Medium:
		return "MEDIUM"
	case High:
		return "HIGH"
	case Critical:
		return "CRITICAL"
	}
	return "UNKNOWN"
}

// Codes of reasons. The first four, and shelf_life behind them where it is, add up to the
// reorder point, in units.
const (
	ReasonLevel         = "level"                 // demand over lead time and review at the slow expert's rate
	ReasonTrend         = "trend"                 // what the weighted rate adds to it
	ReasonDemandSpread  = "demand_variability"    // safety against demand, were the lead time its mean
	ReasonLeadSpread    = "lead_time_variability" // safety against the lead time
	ReasonShelfLife     = "shelf_life"            // below 0: what of it would spoil
	ReasonFillRate      = "fill_rate"             // share of units to be served from stock: the target where it is one
	ReasonEconomic      = "economic"              // service level that costs least: the target where it is one
	ReasonMaxCover      = "max_cover"             // units left out of the order because they would lie for too long
	ReasonSpoils        = "spoils"                // units left out of the order because they would spoil
	ReasonMinimum       = "minimum_order"         // units that the supplier's minimum is above what cover and shelf life allow
	ReasonOnHand        = "on_hand"
	ReasonOnOrder       = "on_order" // in time only
	ReasonReserved      = "reserved"
	ReasonOrdered       = "ordered"  // of a withdrawal: a purchase order covered the need
	ReasonReceived      = "received" // a receipt did
	ReasonRiskFell      = "risk_fell"
	ReasonStockAdjusted = "stock_adjusted"
)

// Reason is one cause in units, of a target its number; of a withdrawal the value is the
// inventory position.
type Reason struct {
	Code  string
	Value float64
}

// Signal is what a decision tells the supply chain. Instants are in microseconds.
type Signal struct {
	Kind     Kind
	Severity Severity
	Cycle    uint32 // (product, Cycle, Revision, Kind) names a signal
	Revision uint16
	Due      int64 // the instant of the decision

	OnHand, OnOrder, Reserved, Position int64 // Position counts only what is on order and in time

	Lead         LeadTime
	LeadP90      float64
	Target       Target
	TargetLevel  float64 // tau, or beta of a fill rate
	ServiceLevel float64 // cycle service: tau, of a fill rate what its reorder point comes to
	Risk         float64 // rho
	WindowDays   float64 // mean lead time and review
	Demand       Demand  // over the lead time and the review
	Rate         float64 // units a day, mean of the equal mix

	ReorderPoint int64 // s
	OrderUpTo    int64 // S
	Needed       int64 // S less the position
	Quantity     int64 // to order: Needed after cover, minimum and pack

	StockOut [3]int64 // 10, 50 and 90 %; 0: not within a year
	Reasons  []Reason
}

// cause is what a decision follows.
type cause uint8

const (
	causeSale cause = iota
	causeStock
	causeOrder
	causeReceipt
	causeDay
)

// outlook is what a decision computes first.
type outlook struct {
	now      int64
	ensemble ensemble
	lead     LeadTime
	points   [leadPoints]float64
	demand   Demand
	position int64
	inTime   int64 // units on order that count
	risk     float64
	goal     goal

	awaited  bool // arrivals are known
	arrivals [2]float64
}

func (p *Product) outlook(now int64, s *Setting) outlook {
	o := outlook{now: now, ensemble: p.at(s), lead: p.LeadTime(s)}
	o.points = o.lead.points()
	o.demand = o.ensemble.overLead(o.points, s.Policy.ReviewDays)
	horizon := now + int64((o.lead.Mean+s.Policy.ReviewDays)*float64(dayMicros))
	for _, l := range [2]lot{p.oldest, p.others} {
		if int64(l.due)*second <= horizon {
			o.inTime += int64(l.left)
		}
	}
	o.position = int64(p.onHand) + o.inTime - int64(p.reserved)
	o.risk = o.demand.Exceeds(float64(o.position))
	p.aim(&o, s)
	return o
}

// Forecast returns the demand over the coming days (0 to 3650) as of an instant,
// and the mean rate a day. The rate is that of the equal mix of the experts: the
// weights lean to the median and would bias it.
func (p *Product) Forecast(now int64, window float64, s *Setting) (d Demand, rate float64) {
	q := *p
	q.roll(now, s)
	e := q.at(s)
	rate = e.rate()
	return e.over(min(max(window, 0), 3650)), rate
}

// Need is the stock needed at an instant.
type Need struct {
	Units       int64 // what the target asks for of Demand
	Target      Target
	TargetLevel float64 // tau, or beta of a fill rate
	Level       float64 // cycle service: tau, of a fill rate what Units come to
	Demand      Demand  // over lead time and review from the instant
	Lead        LeadTime
	WindowDays  float64 // their mean

	parts parts
}

// Reasons are what the units add up from, and the target where it is no cycle service.
func (n *Need) Reasons() []Reason { return n.parts.reasons(n.Target, n.TargetLevel) }

// Need returns the stock needed at an instant for a service level (outside (0, 1): for
// the policy's target): Q_tau of the demand over lead time and review from then on, or
// its fill point. Until then the days without news count as days without sales, if the
// instant lies ahead of the last fact. It does not allocate.
func (p *Product) Need(at int64, tau float64, s *Setting) Need {
	q := *p
	q.roll(at, s)
	o := q.outlook(at, s)
	if tau > 0 && tau < 1 {
		o.goal = goal{target: CycleService, level: tau, shelf: o.goal.shelf}
	}
	x := o.need(s)
	return Need{
		Units: x.units, Target: o.goal.target, TargetLevel: o.goal.level, Level: o.service(x.units), Demand: o.demand, Lead: o.lead,
		WindowDays: o.lead.Mean + s.Policy.ReviewDays, parts: x,
	}
}

// service is the cycle service of a reorder point.
func (o *outlook) service(point int64) float64 {
	if o.goal.target == FillRate {
		return o.demand.CDF(float64(point))
	}
	return o.goal.level
}

// parts are what a reorder point adds up from.
type parts struct {
	units                                int64
	level, trend, demand, lead, spoiling float64
}

func (x *parts) reasons(t Target, level float64) []Reason {
	all := append(make([]Reason, 0, 8), Reason{ReasonLevel, x.level}, Reason{ReasonTrend, x.trend}, Reason{ReasonDemandSpread, x.demand}, Reason{ReasonLeadSpread, x.lead})
	if x.spoiling != 0 {
		all = append(all, Reason{ReasonShelfLife, x.spoiling})
	}
	switch t {
	case FillRate:
		all = append(all, Reason{ReasonFillRate, level})
	case Economic:
		all = append(all, Reason{ReasonEconomic, level})
	}
	return all
}

// need returns the reorder point and the parts that it adds up from.
func (o *outlook) need(s *Setting) parts {
	window := o.lead.Mean + s.Policy.ReviewDays
	x := parts{units: o.goal.point(o.demand), level: o.ensemble.levels[experts-1].rate * window}
	fixed := float64(o.goal.point(o.ensemble.over(window)))
	x.trend, x.demand, x.lead = o.demand.Mean-x.level, fixed-o.demand.Mean, float64(x.units)-fixed
	if o.goal.shelf > 0 && x.units > o.goal.shelf {
		x.spoiling = float64(o.goal.shelf - x.units)
		x.units = o.goal.shelf
	}
	return x
}

// StockOut returns when what is available runs out with probability q, counting
// what is on order when it is expected, and 0 if that is not within a year or no
// stock is known.
func (p *Product) StockOut(now int64, q float64, s *Setting) int64 {
	if !p.stockKnown {
		return 0
	}
	c := *p
	c.roll(now, s)
	o := c.outlook(now, s)
	return c.stockOut(&o, q)
}

// far is how many days ahead a stock-out can be seen.
const far = 365.

// stockOut returns when stock is out with probability q, 0 where that is not
// within a year.
func (p *Product) stockOut(o *outlook, q float64) int64 {
	if p.onHand <= p.reserved {
		return o.now
	}
	at := int64(0)
	p.stretches(o, func(from, to float64, available int64) bool {
		if !o.outWithin(to, available, q) {
			return true
		}
		for range 20 {
			mid := (from + to) / 2
			if o.outWithin(mid, available, q) {
				to = mid
			} else {
				from = mid
			}
		}
		at = o.now + int64(to*float64(dayMicros))
		return false
	})
	return at
}

// outBefore tells whether stockOut(o, q) is within d days, for a tenth of what it
// costs to know when.
func (p *Product) outBefore(o *outlook, q, d float64) (out bool) {
	if p.onHand <= p.reserved {
		return d > 0
	}
	p.stretches(o, func(from, to float64, available int64) bool {
		if d <= from {
			return false
		}
		out = o.outWithin(min(to, d), available, q)
		return !out && to < d
	})
	return out
}

// outWithin is P(out within d days) >= q for as long as nothing arrives:
// P(D >= available).
func (o *outlook) outWithin(d float64, available int64, q float64) bool {
	over := o.ensemble.over(d)
	return over.Exceeds(float64(available-1)) >= q
}

// stretches calls each for the times between arrivals, in days from now, with the
// units that are there for demand until then, while each returns true.
func (p *Product) stretches(o *outlook, each func(from, to float64, available int64) bool) {
	available := int64(p.onHand) - int64(p.reserved)
	if !o.awaited { // dear where no date was given, and the same for all that is asked of one outlook
		o.awaited, o.arrivals = true, [2]float64{o.arrival(p.oldest), o.arrival(p.others)}
	}
	a, b := o.arrivals[0], o.arrivals[1]
	arrivals := [3]struct {
		in    float64
		units uint32
	}{{a, p.oldest.left}, {b, p.others.left}, {far, 0}}
	if b < a {
		arrivals[0], arrivals[1] = arrivals[1], arrivals[0]
	}
	from := 0.
	for _, next := range arrivals {
		to := min(next.in, far)
		if !each(from, to, available) {
			return
		}
		available += int64(next.units)
		from = to
	}
}

// arrival returns the days until a lot is expected.
func (o *outlook) arrival(l lot) float64 {
	if l.left == 0 {
		return 0
	}
	if due := int64(l.due) * second; due > o.now {
		return days(due - o.now)
	}
	return o.lead.Remaining(max(0, days(o.now-int64(l.ordered)*second)))
}

// plan is what a signal proposes.
type plan struct {
	stockOut       [3]int64
	severity       Severity
	need           parts
	upTo           int64
	needed, amount int64
	lies, spoils   int64 // units left out because of cover and of shelf life
	forced         int64 // units of the minimum above what these allow
}

func (p *Product) plan(o *outlook, s *Setting) plan {
	var x plan
	for i, q := range [3]float64{.1, .5, .9} {
		x.stockOut[i] = p.stockOut(o, q)
	}
	x.severity = p.urgency(o)
	p.quantities(o, s, &x)
	return x
}

// urgency is the severity that a signal would have.
func (p *Product) urgency(o *outlook) Severity {
	for v := Critical; v > Low; v-- {
		if p.urgent(o, v) {
			return v
		}
	}
	return Low
}

// urgent tells whether a signal would be of a severity, if of no higher one.
func (p *Product) urgent(o *outlook, v Severity) bool {
	switch v {
	case Critical:
		return p.onHand-p.reserved <= 0 || p.outBefore(o, .5, o.points[0])
	case High:
		return p.outBefore(o, .5, o.lead.Mean)
	case Medium:
		return p.outBefore(o, .1, o.lead.Mean)
	}
	return true
}

// worse tells whether a signal would be more severe than the one that stands, without
// asking whether it would be less.
func (p *Product) worse(o *outlook) bool {
	for v := Critical; v > p.severity; v-- {
		if p.urgent(o, v) {
			return true
		}
	}
	return false
}

// quantities fills in what to order: S less the position, not beyond the longest cover or
// what spoils, but the supplier's minimum at least, in whole packs.
func (p *Product) quantities(o *outlook, s *Setting, x *plan) {
	x.need = o.need(s)
	g := &o.goal
	whole := x.need.units + units(math.Ceil(g.batch))
	x.upTo = whole
	if g.shelf > 0 {
		x.upTo = min(whole, g.shelf)
	}
	x.needed = max(0, x.upTo-o.position)
	cover := max(x.need.units, units(math.Ceil(g.rate*s.Policy.MaxCoverDays)))
	allowed := min(x.needed, cover-o.position)
	x.amount = p.packed(max(allowed, int64(p.minimum), 1))
	x.spoils = whole - x.upTo
	x.lies = max(0, x.needed-max(allowed, 0))
	if x.spoils > 0 || x.lies > 0 {
		x.forced = max(0, int64(p.minimum)-max(allowed, 1))
	}
}

// limits are the reasons why an order is not what the target asks for.
func (x *plan) limits(to []Reason) []Reason {
	for _, r := range [3]struct {
		code  string
		units int64
	}{{ReasonMaxCover, x.lies}, {ReasonSpoils, x.spoils}, {ReasonMinimum, x.forced}} {
		if r.units > 0 {
			to = append(to, Reason{r.code, float64(r.units)})
		}
	}
	return to
}

// verdict decides without changing anything. What a signal proposes is another
// question, and most verdicts are asked for without it.
func (p *Product) verdict(o *outlook, c cause, s *Setting) Kind {
	lack, trigger := o.goal.lack, o.goal.trigger
	switch {
	case !p.signalled && lack < trigger:
		return 0
	case !p.signalled:
		return Raised
	case lack <= trigger/2 || (c == causeReceipt || c == causeOrder) && lack < trigger:
		return Withdrawn // far below the trigger, or below it by what was asked for
	case p.worse(o):
		return Updated
	}
	var x plan
	if p.quantities(o, s, &x); math.Abs(float64(x.amount)-float64(p.quantity)) > .25*float64(p.quantity) {
		return Updated
	}
	return 0
}

// decide makes what decision is due at an instant, and tells what came of it.
func (p *Product) decide(now int64, c cause, s *Setting) (Signal, bool) {
	if !p.stockKnown {
		return Signal{}, false
	}
	o := p.outlook(now, s)
	kind := p.verdict(&o, c, s)
	var x plan
	switch kind {
	case 0:
		return Signal{}, false
	case Raised, Updated:
		x = p.plan(&o, s)
	}
	switch kind {
	case Raised:
		p.signalled, p.cycle, p.revision = true, p.cycle+1, 0
		p.severity, p.quantity = x.severity, uint32(min(x.amount, maxUnits))
	case Updated:
		if p.revision < math.MaxUint16 {
			p.revision++
		}
		p.severity, p.quantity = x.severity, uint32(min(x.amount, maxUnits))
	}
	onHand, onOrder, reserved := p.Stock()
	if kind == Withdrawn {
		x.need = o.need(s)
	}
	g := Signal{
		Kind: kind, Severity: p.severity, Cycle: p.cycle, Revision: p.revision, Due: now,
		OnHand: onHand, OnOrder: onOrder, Reserved: reserved, Position: o.position,
		Lead: o.lead, LeadP90: o.lead.Quantile(.9), Target: o.goal.target, TargetLevel: o.goal.level, ServiceLevel: o.service(x.need.units), Risk: o.risk,
		WindowDays: o.lead.Mean + s.Policy.ReviewDays, Demand: o.demand, Rate: o.goal.rate,
		ReorderPoint: x.need.units, OrderUpTo: x.upTo, Needed: x.needed, Quantity: x.amount, StockOut: x.stockOut,
	}
	if kind == Withdrawn {
		code := ReasonRiskFell
		switch c {
		case causeOrder:
			code = ReasonOrdered
		case causeReceipt:
			code = ReasonReceived
		case causeStock:
			code = ReasonStockAdjusted
		}
		g.Reasons = []Reason{{code, float64(o.position)}}
		p.signalled, p.severity, p.quantity = false, 0, 0
		return g, true
	}
	g.Reasons = x.limits(x.need.reasons(g.Target, g.TargetLevel))
	g.Reasons = append(g.Reasons, Reason{ReasonOnHand, float64(onHand)})
	if o.inTime > 0 {
		g.Reasons = append(g.Reasons, Reason{ReasonOnOrder, float64(o.inTime)})
	}
	if reserved > 0 {
		g.Reasons = append(g.Reasons, Reason{ReasonReserved, float64(reserved)})
	}
	return g, true
}

// Wake closes the days that are over by an instant, and decides.
func (p *Product) Wake(now int64, s *Setting) (Signal, bool) {
	if !p.known {
		return Signal{}, false
	}
	p.roll(now, s)
	return p.decide(now, causeDay, s)
}

// NextWake returns the first day close that would change a decision if nothing
// more were sold, and false if none does within the days that are looked ahead:
// then the product sleeps, and a later fact or question brings it up to date. The
// instant is the local midnight and an offset in microseconds, of a hash of the
// product inside an hour, that spreads the work. It is to be asked after every
// [Product.Wake]; after a fact [Product.NextClose] is enough.
//
// The day after next and later are tried in doubling steps and then by bisection,
// with the experts' weights of today.
func (p *Product) NextWake(now int64, offset int64, s *Setting) (int64, bool) {
	if !p.known || !p.stockKnown {
		return 0, false
	}
	quiet := *s
	quiet.Tell = nil // what is tried out did not happen
	s = &quiet
	q := *p
	today := max(s.Day(now), q.open)
	q.closeTo(today+1, s)
	due := func(n int) int64 { return s.Start(today+Day(n)) + offset }
	changes := func(n int) bool { // the n-th close from now
		c := q
		c.open += Day(n - 1) // the calendar goes on
		if c.outSince == 0 {
			c.empty += uint32(n - 1)
		}
		o := c.outlook(due(n), s)
		return c.verdict(&o, causeDay, s) != 0
	}
	o := q.outlook(due(1), s)
	if q.verdict(&o, causeDay, s) != 0 {
		return max(now, due(1)), true
	}
	if !q.signalled && o.goal.lack < o.goal.trigger/2 {
		// Without sales what lacks falls but for a widening mixture: far below the trigger
		// nothing comes of it.
		return 0, false
	}
	last := s.Policy.LookAhead
	low, high := 1, min(2, last)
	for !changes(high) {
		if high >= last {
			return 0, false
		}
		low, high = high, min(2*high, last)
	}
	for high-low > 1 {
		mid := (low + high) / 2
		if changes(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return max(now, due(high)), true
}

// Demand returns the demand over so many periods from the start of the open day,
// and its mean with every expert counting the same. A plan says what is offered in
// the first of them; where it ends, the offer is the usual one.
func (p *Product) Demand(window float64, plan []Offer, s *Setting) (d Demand, mean float64) {
	e := p.at(s)
	if len(plan) == 0 {
		return e.over(window), e.mean(window)
	}
	c := e.cal.window(e.now, window)
	lifted := c
	for i, o := range plan[:min(len(plan), int(window))] {
		day := e.cal.window(e.now+Day(i), 1)
		lift := s.effect(p.group, features(o, float64(p.ref)))
		c += day * (lift - 1)
		lifted += day * (lift*max(lift, 1) - 1)
	}
	for _, l := range e.levels {
		mean += l.rate * c / experts
	}
	return e.weighing(c, lifted, window), mean
}

// OverLead returns the demand over a lead time and a review from the start of the
// open day, for a belief about the lead time that the caller has, and the mean rate
// a day of that time.
func (p *Product) OverLead(l LeadTime, review float64, s *Setting) (d Demand, rate float64) {
	e := p.at(s)
	window := max(l.Mean+review, 1e-3)
	return e.overLead(l.points(), review), e.mean(window) / window
}

// LineValue is what an order line of the product is worth: its price for the units of a
// day with sales; 0 where either is not known.
func (p *Product) LineValue() float64 { return float64(p.price) * float64(p.size) }
