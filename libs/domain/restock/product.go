package restock

import "math"

// lot is an outstanding purchase order, or several taken together.
type lot struct {
	ordered uint32 // seconds since 1970
	due     uint32 // 0: no date was given
	left    uint32 // units still to come
	size    uint32 // units ordered
}

// Product is the state of one product. The zero value has not been heard of.
// Numbers inside have the precision of the packed form, so that a packed product
// decides as an unpacked one.
type Product struct {
	experts [experts]expert // as of the anchor: the last closed day that was not empty
	empty   uint32          // empty days of full exposure since the anchor
	losses  [experts]float32
	week    [experts]weekForecast
	long    weekForecast // of four weeks, by the ensemble

	longSold    int32 // in the ended weeks of the four
	weekSold    int32
	weekExposed uint32 // seconds of nominal days of 86,400

	known      bool // a first fact was seen
	stockKnown bool
	first      Day // of the first fact; weeks count from it
	open       Day // the day that is not closed yet
	sold       int32
	outSince   uint32 // since when nothing is left, 0: in stock, or not known
	outSeconds uint32 // of the open day without stock, up to outSince

	onHand, reserved int32

	leadN, leadMean, leadSquares float32

	oldest lot
	others lot // all younger ones, as one

	signalled bool
	severity  Severity
	cycle     uint32
	revision  uint16
	quantity  uint32

	lastSale   uint32
	price      float32 // of the last sale
	band       uint8   // of the first price
	size       float32 // units of a day with sales: the calendar counts such days, so that it sees how often rather than how much
	ref        float32 // logarithm of the usual price; 0: not known
	offerPrice float32 // logarithm of the price offered; 0: not known
	deal       uint8   // of the offer, in 255ths
	feature    uint8
	group      uint16

	pack, minimum uint32
}

// StockKnown tells whether a stock level was ever heard: without one there are
// forecasts, but no signals.
func (p *Product) StockKnown() bool { return p.stockKnown }

// Stock returns the units on hand (below 0: backorders), on order and reserved.
func (p *Product) Stock() (onHand, onOrder, reserved int64) {
	return int64(p.onHand), int64(p.oldest.left) + int64(p.others.left), int64(p.reserved)
}

// Cycle counts the signals raised; a signal's id holds it.
func (p *Product) Cycle() uint32 { return p.cycle }

// Signalled tells whether a signal stands.
func (p *Product) Signalled() bool { return p.signalled }

// LastSale returns the instant of the last sale in microseconds, or 0.
func (p *Product) LastSale() int64 { return int64(p.lastSale) * second }

// Sale counts units sold at an instant, each at a price in micros (0: not known).
func (p *Product) Sale(at int64, units int64, price int64, s *Setting) (Signal, bool) {
	p.roll(at, s)
	p.sold = add32(p.sold, units)
	p.lastSale = seconds(at)
	if price > 0 {
		p.price = float32(float64(price) / 1e6)
		if p.band == 0 {
			p.band = uint8(band(float64(p.price)))
		}
	}
	p.stock(at, add32(p.onHand, -units))
	return p.decide(at, causeSale, s)
}

// Cancel takes units of a sale back, into stock: they were no demand.
func (p *Product) Cancel(at int64, units int64, s *Setting) (Signal, bool) {
	p.roll(at, s)
	p.sold = add32(p.sold, -units)
	p.stock(at, add32(p.onHand, units))
	return p.decide(at, causeStock, s)
}

// Return puts units back into stock that had been wanted.
func (p *Product) Return(at int64, units int64, s *Setting) (Signal, bool) {
	return p.StockAdjust(at, units, s)
}

// StockLevel sets the units on hand, as counted.
func (p *Product) StockLevel(at int64, level int64, s *Setting) (Signal, bool) {
	p.roll(at, s)
	p.stockKnown = true
	p.stock(at, add32(0, level))
	return p.decide(at, causeStock, s)
}

// StockAdjust changes the units on hand. It is passed over while no level is known.
func (p *Product) StockAdjust(at int64, delta int64, s *Setting) (Signal, bool) {
	p.roll(at, s)
	p.stock(at, add32(p.onHand, delta))
	return p.decide(at, causeStock, s)
}

// Reserve changes the units that are on hand but promised.
func (p *Product) Reserve(at int64, delta int64, s *Setting) (Signal, bool) {
	p.roll(at, s)
	p.reserved = max(0, add32(p.reserved, delta))
	return p.decide(at, causeStock, s)
}

// Terms sets the supplier's pack size and minimum order; 0 and 1 mean none.
func (p *Product) Terms(at int64, pack, minimum uint32, s *Setting) (Signal, bool) {
	p.roll(at, s)
	p.pack, p.minimum = min(pack, maxUnits), min(minimum, maxUnits)
	return p.decide(at, causeStock, s)
}

// PurchaseOrder counts units ordered from the supplier at an instant, due at
// another (0: not said). Units below 0 cancel what was ordered last.
func (p *Product) PurchaseOrder(at int64, units int64, due int64, s *Setting) (Signal, bool) {
	p.roll(at, s)
	if units > 0 {
		l := &p.oldest
		if l.left > 0 {
			l = &p.others
		}
		if l.left == 0 {
			*l = lot{ordered: seconds(at)}
		}
		if due > 0 && (l.due == 0 || seconds(due) < l.due) {
			l.due = seconds(due)
		}
		l.left = uint32(min(int64(l.left)+units, maxUnits))
		l.size = uint32(min(int64(l.size)+units, maxUnits))
	} else {
		p.others.left, units = take(p.others.left, -units)
		p.oldest.left, _ = take(p.oldest.left, units)
		p.settleLots()
	}
	return p.decide(at, causeOrder, s)
}

// Receipt counts units that arrived from the supplier. Ordered is the instant of
// their purchase order, or 0: then they are of the oldest one outstanding. The lead
// time learns from it by the share of the order that arrived.
func (p *Product) Receipt(at int64, units int64, ordered int64, s *Setting) (Signal, bool) {
	p.roll(at, s)
	if units <= 0 {
		return Signal{}, false
	}
	weight := 1.
	if p.oldest.left > 0 {
		weight = min(1, float64(units)/float64(p.oldest.size))
		if ordered <= 0 {
			ordered = int64(p.oldest.ordered) * second
		}
	}
	if ordered > 0 && ordered <= at {
		p.learnLead(days(at-ordered), weight)
	}
	rest := units
	p.oldest.left, rest = take(p.oldest.left, rest)
	p.others.left, _ = take(p.others.left, rest)
	p.settleLots()
	p.stock(at, add32(p.onHand, units))
	return p.decide(at, causeReceipt, s)
}

// settleLots lets the others move up when the oldest is through.
func (p *Product) settleLots() {
	if p.oldest.left == 0 {
		p.oldest, p.others = p.others, lot{}
	}
	if p.oldest.left == 0 {
		p.oldest = lot{}
	}
	if p.others.left == 0 {
		p.others = lot{}
	}
}

// take removes up to n units from a number and returns what is left of both.
func take(from uint32, n int64) (left uint32, rest int64) {
	t := min(int64(from), n)
	return uint32(int64(from) - t), n - t
}

// stock sets the units on hand and keeps the time without any.
func (p *Product) stock(at int64, level int32) {
	if !p.stockKnown {
		return
	}
	p.onHand = level
	now := seconds(at)
	switch {
	case level <= 0 && p.outSince == 0:
		p.outSince = now
	case level > 0 && p.outSince != 0:
		p.outSeconds += now - min(now, p.outSince)
		p.outSince = 0
	}
}

// roll closes the days before that of the instant, or begins the product's life.
func (p *Product) roll(at int64, s *Setting) {
	day := s.Day(at)
	if !p.known {
		p.known, p.first, p.open = true, day, day
		p.startWeek(s)
		return
	}
	p.closeTo(day, s)
}

// CloseDay closes every day up to and with the given one, without a decision:
// those are made by facts and by [Product.Wake].
func (p *Product) CloseDay(d Day, s *Setting) {
	if p.known {
		p.closeTo(d+1, s)
	}
}

// closeTo closes the days before d, a week's end at a time.
func (p *Product) closeTo(d Day, s *Setting) {
	for p.open < d {
		week := Day(s.week())
		weekEnd := p.first + week*((p.open-p.first)/week+1)
		end := min(d, weekEnd)
		for p.open < end {
			if p.sold == 0 && p.outSeconds == 0 && !p.offering() && p.allSeen(end, s) {
				// Nothing happens before end: as many empty days, or days without stock.
				if p.outSince == 0 {
					p.empty += uint32(end - p.open)
					p.weekExposed += 86400 * uint32(end-p.open)
				} else if start := s.Start(p.open); int64(p.outSince)*second > start {
					p.closeOne(s) // the day on which stock ran out
					continue
				}
				p.open = end
				continue
			}
			p.closeOne(s)
		}
		if p.open == weekEnd {
			p.endWeek(s)
			p.startWeek(s)
		}
	}
}

// allSeen tells that every event from the open day to the end was received.
func (p *Product) allSeen(end Day, s *Setting) bool {
	if s.Observed == nil {
		return true
	}
	from, to := s.Start(p.open), s.Start(end)
	return s.Observed.span(from, to) == to-from
}

// cutOff is what the sale that emptied the shelf was cut short by, in usual sales less
// one unit: who wants more than is left takes what is left, and orders of a geometric
// size have no memory. Where units are sold one by one nothing is added.
const cutOff = 1.

// closeOne closes the open day.
func (p *Product) closeOne(s *Setting) {
	start, end := s.Start(p.open), s.Start(p.open+1)
	length := end - start
	out := int64(p.outSeconds) * second
	if p.outSince != 0 {
		out += max(0, end-max(start, int64(p.outSince)*second))
	}
	seen := s.Observed.span(start, end)
	exposure := float64(length-min(out, length)) / float64(length) * float64(seen) / float64(length)
	sold := float64(p.sold)
	switch {
	case seen == 0: // sales of a wholly unobserved day go with its exposure
	case sold == 0 && exposure == 1 && !p.offering():
		p.empty++
		p.weekExposed += 86400
	case sold == 0 && exposure == 0:
	default:
		if sold > 0 {
			exposure = max(exposure, minExposed) // a last minute's sales are no rate
		}
		if sold > 0 && int64(p.outSince)*second > start {
			sold += cutOff * max(0, float64(p.size)-1)
		}
		p.learn(sold, exposure, s)
		p.empty = 0
		p.weekExposed += uint32(86400 * exposure)
		p.weekSold = add32(p.weekSold, int64(p.sold))
	}
	p.open++
	p.sold, p.outSeconds = 0, 0
}

// learn lets every expert see the open day. Cancelled sales of earlier days lower
// the level and are no error.
func (p *Product) learn(sold, exposure float64, s *Setting) {
	d, cal := s.kept(), s.calendar()
	launch := p.launch(s)
	anchor := p.open - Day(p.empty)
	c := cal.window(p.open, 1)
	x, offered := p.offered()
	lift := s.effect(p.group, x)
	var a, b, v, m, mean [experts]float64
	for k, e := range p.experts {
		a[k], b[k] = float64(e.a), float64(e.b)*cal.mean(k, anchor, int(anchor-p.first))
	}
	rate, _ := rates(a, b, launch, s.period())
	for k, e := range p.experts {
		a[k], b[k], v[k], m[k] = e.grown(d[k], p.empty, rate[k], cal.mean(k, p.open, int(p.empty)))
		mean[k] = b[k] * cal.mean(k, p.open, int(p.open-p.first))
	}
	rate, _ = rates(a, mean, launch, s.period())
	if offered {
		p.tellOffer(x, sold, rate, exposure*c, s)
	}
	for k := range p.experts {
		mu := rate[k] * exposure * c * lift
		g := d[k]
		if exposure != 1 {
			g = math.Pow(g, exposure)
		}
		miss := (max(sold, 0) - mu) / max(lift, 1)
		mu /= max(lift, 1)
		if p.open == p.first { // nobody knew: how far a launch is missed says nothing of a spread
			miss, mu = 0, 0
		}
		p.experts[k] = expert{f32(g*a[k] + sold), f32(g*b[k] + exposure*lift), f32(g*v[k] + miss*miss), f32(g*m[k] + mu)}
	}
	if !(sold > 0) {
		return
	}
	if p.size == 0 {
		p.size = float32(sold)
	}
	if s.Tell != nil {
		s.Tell(Stat{Kind: StatDay, Day: p.open, Units: float32(min(sold/float64(p.size), 5))})
	}
	p.size += .1 * (float32(sold) - p.size)
}

// offering tells that a day cannot be counted as an empty one like the others,
// because of what is offered on it.
func (p *Product) offering() bool {
	return p.offerPrice != 0 || p.deal > 0 || p.feature > 0
}

// tellOffer says what demand was under an offer, and lets the usual price drift to
// the present one.
func (p *Product) tellOffer(x [terms]float64, sold float64, rate [experts]float64, c float64, s *Setting) {
	if p.offerPrice != 0 {
		p.ref += float32(min(refDrift*s.period(), .5)) * (p.offerPrice - p.ref)
	}
	base := (rate[1] + rate[2]) / 2 * c
	if s.Tell == nil || !(base > .5) || p.open-p.first < 2 {
		return
	}
	told := Stat{
		Kind: StatOffer, Day: p.open, Group: p.group,
		Effect: float32(math.Log((max(sold, 0) + .5) / (base + .5))), Noise: float32(effectNoise + 1/base),
	}
	for i := range x {
		told.Features[i] = float32(x[i])
	}
	s.Tell(told)
}

// seconds of an instant, inside what the state can hold.
func seconds(at int64) uint32 {
	return uint32(min(max(at/second, 1), math.MaxUint32))
}

// add32 adds inside what is counted.
func add32(a int32, b int64) int32 {
	return int32(min(max(int64(a)+min(max(b, -maxUnits), maxUnits), -maxUnits), maxUnits))
}
