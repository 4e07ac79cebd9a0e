package churn

import (
	"math"
	"slices"
)

// kept is the number of order days whose instants are remembered, so that a
// refund can take them back.
const kept = 4

// alertState is where a customer stands in the current episode.
type alertState uint8

const (
	stateNone   alertState = iota // may be raised
	stateRaised                   // raised, and not yet back
	stateSpent                    // raised and withdrawn: silent until the next order
	alertStates
)

// Customer is the state of one customer. The zero value has not ordered. Instants
// inside are whole seconds, so that a packed customer decides as an unpacked one.
type Customer struct {
	recent   [kept]uint32 // seconds since 1970 of the last order days, newest first; 0: none
	perDay   [kept]uint8  // orders of each
	first    uint32       // of the first order
	repeats  uint32       // x
	recency  uint32       // t_x in observed seconds
	logGaps  float64      // sum of log gap in days, gaps of less than a day counting as one
	logGaps2 float32      // sum of their squares
	total    int64        // spend in micros
	opening  int64        // of which on the first order day
	behaved  uint32       // as of when behaviour is counted: within a day of the last
	week     decayed      // visits, half-life 7 days; the others 90 days
	quarter  decayed      // visits
	minutes  decayed
	searches decayed
	carts    decayed
	mails    decayed
	episode  uint32
	raisedAt uint32
	raisedP  float32
	refunds  uint16
	state    alertState
	objected bool
	currency [3]byte
}

// Orders returns the number of transactions (order days).
func (c *Customer) Orders() int {
	if c.first == 0 {
		return 0
	}
	return int(c.repeats) + 1
}

// Episode counts the transactions and recoveries so far; it never falls, and an
// alert's id holds it.
func (c *Customer) Episode() uint32 { return c.episode }

// Raised tells whether the customer is raised and not yet back.
func (c *Customer) Raised() bool { return c.state == stateRaised }

// Objected tells whether the customer objected to being profiled.
func (c *Customer) Objected() bool { return c.objected }

// Currency returns the currency of the first order, or "".
func (c *Customer) Currency() string {
	if c.currency == [3]byte{} {
		return ""
	}
	return string(c.currency[:])
}

// LastOrder returns the instant of the last transaction in microseconds, or 0.
func (c *Customer) LastOrder() int64 { return int64(c.recent[0]) * second }

// LogGaps returns the sum of the logarithms of the gaps between transactions in
// days, for [Fit].
func (c *Customer) LogGaps() float64 { return c.logGaps }

// Bin returns the customer's bin of a [Histogram] whose weeks start in 1970, and
// false without orders. The last week is the first plus the observed recency.
func (c *Customer) Bin() (Bin, bool) {
	if c.first == 0 {
		return Bin{}, false
	}
	return Bin{int32(c.repeats), int32(c.first / (7 * 86400)), int32((uint64(c.first) + uint64(c.recency)) / (7 * 86400))}, true
}

// Spend returns the repeat orders and their mean spend, for [FitValue] and
// [Value.Mean], in units of the currency.
func (c *Customer) Spend() (x int, mean float64) {
	if c.repeats == 0 {
		return 0, 0
	}
	return int(c.repeats), max(0, float64(c.total-c.opening)) / 1e6 / float64(c.repeats)
}

// Silence returns the observed days since the last transaction.
func (c *Customer) Silence(now int64, s *Setting) float64 {
	if c.first == 0 {
		return 0
	}
	return days(s.Observed.span(c.LastOrder(), now))
}

// History returns what the model reads, as of now.
func (c *Customer) History(now int64, s *Setting) History {
	t := float64(c.recency) / 86400
	return History{int(c.repeats), t, t + c.Silence(now, s)}
}

// Score returns the probability of no order within the policy's horizon, with
// the shop's correction where it speaks, and false for a customer without orders.
func (c *Customer) Score(now int64, s *Setting) (float64, bool) {
	if c.first == 0 {
		return 0, false
	}
	return s.score(c, c.History(now, s), now), true
}

// Base returns the score without the correction, and false for a customer
// without orders.
func (c *Customer) Base(now int64, s *Setting) (float64, bool) {
	if c.first == 0 {
		return 0, false
	}
	return s.base(c.History(now, s)), true
}

// seconds of an instant, inside what the state can hold.
func seconds(at int64) uint32 {
	return uint32(min(max(at/second, 1), math.MaxUint32))
}

// Order counts an order placed at the instant at and known now, both in
// microseconds, of value micros of the currency. Orders of one local day are one
// transaction. A customer who was raised is back: the alert says RECOVERED, and
// the bool is true. An order that became known late is put where it belongs in
// the history; it ends an alert all the same.
func (c *Customer) Order(at, now, value int64, currency string, s *Setting) (Alert, bool) {
	at = min(at, now)
	back, recovered := c.recover(now, value, s)
	if c.first == 0 && len(currency) == 3 {
		copy(c.currency[:], currency)
	}
	c.total = addMicros(c.total, value)
	sec := seconds(at)
	if i := c.sameDay(sec, s); i >= 0 {
		if c.perDay[i] < math.MaxUint8 {
			c.perDay[i]++
		}
		if c.recent[i] == c.first {
			c.opening = addMicros(c.opening, value)
		}
		if recovered {
			c.bump()
		}
		return back, recovered
	}
	c.bump()
	if c.first == 0 {
		c.first, c.opening = sec, value
		c.recent[0], c.perDay[0] = sec, 1
		return back, recovered
	}
	if c.repeats < math.MaxUint32-1 {
		c.repeats++
	}
	i := 0 // the place among the recent
	for i < kept && c.recent[i] > sec {
		i++
	}
	newer, older := uint32(0), uint32(0)
	if i > 0 {
		newer = c.recent[i-1]
	}
	if i < kept {
		older = c.recent[i]
	}
	switch {
	case newer == 0: // the usual case: after the last
		gap := c.gap(older, sec, s)
		c.recency = addSeconds(c.recency, gap)
		c.gapped(gap, 1)
	case sec < c.first:
		gap := c.gap(sec, c.first, s)
		c.recency = addSeconds(c.recency, gap)
		c.gapped(gap, 1)
		full := i > 0 && c.recent[i-1] == c.first
		c.first, c.opening = sec, value
		if !full {
			return back, recovered // days between it and the remembered ones are forgotten
		}
	case older == 0:
		return back, recovered // between forgotten days, whose gaps are not known any more
	default:
		c.gapped(c.gap(older, sec, s), 1)
		c.gapped(c.gap(sec, newer, s), 1)
		c.gapped(c.gap(older, newer, s), -1)
	}
	if i < kept {
		copy(c.recent[i+1:], c.recent[i:kept-1])
		copy(c.perDay[i+1:], c.perDay[i:kept-1])
		c.recent[i], c.perDay[i] = sec, 1
	}
	return back, recovered
}

// Refund takes back value micros of an order placed at an instant, both as they
// were given to [Customer.Order]. A full refund of the only order of one of the
// last four order days takes the transaction back too; an older one, or part of
// an order, takes back only the money. It ends no alert and changes no episode,
// but may bring the next wake-up nearer.
func (c *Customer) Refund(at, value int64, full bool, s *Setting) {
	if c.first == 0 {
		return
	}
	if c.refunds < math.MaxUint16 {
		c.refunds++
	}
	c.total = addMicros(c.total, -value)
	sec := seconds(at)
	i := c.sameDay(sec, s)
	if i < 0 {
		if s.day(int64(sec)*second) == s.day(int64(c.first)*second) {
			c.opening = addMicros(c.opening, -value)
		}
		return
	}
	opened := c.recent[i] == c.first
	if opened {
		c.opening = addMicros(c.opening, -value)
	}
	if !full {
		return
	}
	if c.perDay[i] > 1 {
		c.perDay[i]--
		return
	}
	older := uint32(0)
	if i+1 < kept {
		older = c.recent[i+1]
	}
	switch {
	case c.repeats == 0:
		// The only transaction: nobody who has ordered is left, but the episode stays,
		// so that no alert id comes twice.
		c.first, c.recency, c.logGaps, c.logGaps2, c.total, c.opening = 0, 0, 0, 0, 0, 0
		c.recent, c.perDay = [kept]uint32{}, [kept]uint8{}
		if c.state != stateRaised {
			c.state = stateNone
		}
		return
	case opened:
		gap := c.gap(c.recent[i], c.recent[i-1], s) // i > 0: there are repeats
		c.recency -= min(c.recency, gap)
		c.gapped(gap, -1)
		c.first = c.recent[i-1]
		// What the next day, the first now, brought is not kept apart: the mean stands in.
		c.opening = c.total / int64(c.repeats)
	case older == 0:
		return // the gap before it is forgotten: it cannot be taken back
	case i == 0:
		gap := c.gap(older, c.recent[0], s)
		c.recency -= min(c.recency, gap)
		c.gapped(gap, -1)
	default:
		newer := c.recent[i-1]
		c.gapped(c.gap(older, newer, s), 1)
		c.gapped(c.gap(older, c.recent[i], s), -1)
		c.gapped(c.gap(c.recent[i], newer, s), -1)
	}
	c.repeats--
	if c.repeats == 0 {
		c.recency, c.logGaps, c.logGaps2 = 0, 0, 0
	}
	copy(c.recent[i:], c.recent[i+1:])
	copy(c.perDay[i:], c.perDay[i+1:])
	c.recent[kept-1], c.perDay[kept-1] = 0, 0
}

// Behaviour is what a customer did beside ordering: a visit, or a reaction to a
// mail. Mails are those that were clicked, and those that were opened where the
// customer agreed that openings are looked at. Amounts below 0 count as 0.
type Behaviour struct {
	Visits, Minutes, Searches, Carts, Mails float64
}

// Behave counts a behaviour of the instant at, late ones with what is left of
// them. Counts decay in steps of a day: rounded at every visit of a busy day they
// would not decay at all.
func (c *Customer) Behave(at int64, b Behaviour) {
	sec := seconds(at)
	left := 0.0 // days that the new one has decayed
	switch {
	case sec >= c.behaved && (c.behaved == 0 || sec-c.behaved >= 86400):
		d := float64(sec-c.behaved) / 86400
		fast, slow := math.Exp2(-d/weekHalf), math.Exp2(-d/quarterHalf)
		c.week = c.week.times(fast)
		for _, v := range []*decayed{&c.quarter, &c.minutes, &c.searches, &c.carts, &c.mails} {
			*v = v.times(slow)
		}
		c.behaved = sec
	case sec < c.behaved:
		left = float64(c.behaved-sec) / 86400
	}
	fast, slow := math.Exp2(-left/weekHalf), math.Exp2(-left/quarterHalf)
	c.week = c.week.plus(b.Visits * fast)
	c.quarter = c.quarter.plus(b.Visits * slow)
	c.minutes = c.minutes.plus(b.Minutes / minutesUnit * slow)
	c.searches = c.searches.plus(b.Searches * slow)
	c.carts = c.carts.plus(b.Carts * slow)
	c.mails = c.mails.plus(b.Mails * slow)
}

// Half-lives of behaviour in days.
const (
	weekHalf    = 7
	quarterHalf = 90
	minutesUnit = 16 // minutes that count as 1
)

// decayed is a decayed count in 256ths, so that a packed customer is the unpacked
// one; it stops at 255.
type decayed uint16

const decayedUnit = 256

func (d decayed) value() float64 { return float64(d) / decayedUnit }

// log is the logarithm of 1 and what is left of the count.
func (d decayed) log(left float64) float64 {
	if d == 0 {
		return 0
	}
	return math.Log(1 + d.value()*left)
}

func (d decayed) times(f float64) decayed { return decayed(math.Round(float64(d) * f)) }
func (d decayed) plus(v float64) decayed {
	if !(v > 0) {
		return d
	}
	return decayed(math.Round(min(float64(d)+v*decayedUnit, math.MaxUint16)))
}

// sameDay returns which of the recent order days an instant falls on, or -1.
func (c *Customer) sameDay(sec uint32, s *Setting) int {
	day := s.day(int64(sec) * second)
	return slices.IndexFunc(c.recent[:], func(r uint32) bool {
		// A local day is never longer than 26 hours.
		return r != 0 && max(r, sec)-min(r, sec) < 26*3600 && s.day(int64(r)*second) == day
	})
}

// gap is the observed time between two transactions in seconds.
func (c *Customer) gap(from, to uint32, s *Setting) uint32 {
	return uint32(s.Observed.span(int64(from)*second, int64(to)*second) / second)
}

// gapped adds a gap to the sums of logarithms, or takes it away.
func (c *Customer) gapped(gap uint32, sign float64) {
	l := logGap(gap)
	c.logGaps += sign * l
	c.logGaps2 += float32(sign * l * l)
}

// logGap is the logarithm of a gap in days, of a day at least.
func logGap(gap uint32) float64 { return math.Log(max(1, float64(gap)/86400)) }

func (c *Customer) bump() {
	c.episode++
	c.state, c.raisedAt, c.raisedP = stateNone, 0, 0
}

func addSeconds(a, b uint32) uint32 {
	return uint32(min(uint64(a)+uint64(b), math.MaxUint32))
}

// addMicros adds without wrapping round.
func addMicros(a, b int64) int64 {
	sum := a + b
	switch {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}
