package restock

import (
	"cmp"
	"math"
	"slices"

	"github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// censoredTarget is the service level of the censored replay: low, so that many
// products run out.
const censoredTarget = .75

// Censored is what a method loses by seeing only what was sold, and not what was
// wanted, and how much of it exposure brings back: line fill at one service level.
type Censored struct {
	Uncensored eval.Figure `json:"uncensored"` // the method sees all demand
	Blind      eval.Figure `json:"blind"`      // it sees sales, and no stock
	Exposed    eval.Figure `json:"exposed"`    // it sees sales, and when stock was out
	Recovered  eval.Figure `json:"recovered"`  // share of the loss
}

// sight is what products are told in a loop.
type sight uint8

const (
	seesDemand sight = iota
	seesSales
	seesStock
)

// censor runs the three loops.
func censor(h *History, test int, seed uint64) Censored {
	all := fill(h, test, seed, seesDemand)
	blind := fill(h, test, seed, seesSales)
	exposed := fill(h, test, seed, seesStock)
	return Censored{eval.Figure(all), eval.Figure(blind), eval.Figure(exposed), eval.Figure((exposed - blind) / (all - blind))}
}

// loop is a shop in which what is sold depends on what was ordered.
type loop struct {
	h       *History
	o       *online
	stocked []int
	place   []int // in stocked, from 1
	shelves []shelf
	lead    []float64
	next    int
}

// newLoop replays the history up to the test with all demand seen.
func newLoop(h *History, test int) *loop {
	l := &loop{h: h, o: newOnline(h), stocked: h.stocked(test), place: make([]int, len(h.Series))}
	for t := range test {
		l.o.close(t)
	}
	l.next = l.o.next
	l.shelves, l.lead = make([]shelf, len(l.stocked)), make([]float64, len(l.stocked))
	for n, i := range l.stocked {
		l.place[i] = n + 1
		l.lead[n] = supplier(h.Series[i].ID)
	}
	return l
}

// day returns the lines of a day. They come evenly over its hours.
func (l *loop) day(t int) []Line {
	begin := l.next
	for l.next < len(l.h.Lines) && int(l.h.Lines[l.next].Period) == t {
		l.next++
	}
	l.o.next = l.next
	return l.h.Lines[begin:l.next]
}

// at is an instant within a day, in (0, 1).
func (l *loop) at(t int, share float64) int64 {
	return (int64(l.h.First)+int64(t))*dayMicros + int64(share*dayMicros)
}

// fill returns the share of order lines filled at the censored target.
func fill(h *History, test int, seed uint64, sees sight) float64 {
	l := newLoop(h, test)
	o := l.o
	need := func(n int) (float64, float64) {
		d, rate := o.products[l.stocked[n]].OverLead(restock.LeadTime{Mean: l.lead[n], Variance: leadCV * leadCV * l.lead[n] * l.lead[n]}, review, &o.setting)
		return float64(d.Quantile(censoredTarget)), rate
	}
	for n, i := range l.stocked {
		q, rate := need(n)
		l.shelves[n].hand = int64(math.Ceil(q + cover/2*rate))
		if sees == seesStock {
			o.products[i].StockLevel(l.at(test, 0), l.shelves[n].hand, &o.setting)
		}
	}
	var sum tallied
	for t := test; t < h.Periods; t++ {
		for n, i := range l.stocked {
			before := l.shelves[n].hand
			l.shelves[n].receive(t, false, nil)
			if got := l.shelves[n].hand - before; got > 0 && sees == seesStock {
				o.products[i].StockAdjust(l.at(t, 0), got, &o.setting)
			}
		}
		lines := l.day(t)
		for k, line := range lines {
			at := l.at(t, (float64(k)+.5)/float64(len(lines)))
			sold := int64(line.Units)
			if n := l.place[line.Series] - 1; n >= 0 {
				shipped := min(sold, max(l.shelves[n].hand, 0))
				l.shelves[n].serve(sold, 1, t >= test+warmUp, &sum)
				if sees != seesDemand {
					sold = shipped
				}
			}
			if sold > 0 {
				o.products[line.Series].Sale(at, sold, int64(float64(line.Price)*1e6), &o.setting)
			}
		}
		o.close(t)
		for n, i := range l.stocked {
			q, rate := need(n)
			x := &l.shelves[n]
			if position := float64(x.hand + x.ordered); position <= q {
				amount := int64(math.Ceil(q + max(cover*rate, 1) - position))
				x.ordered += amount
				x.arrivals = append(x.arrivals, arrival{day: t + leadDays(seed, i, t, l.lead[n]), units: amount})
			}
		}
	}
	return sum.served / sum.lines
}

// Signals is what the products' own signals did in a shop that follows them: an order
// is placed the morning after a signal, for what the latest one asks.
type Signals struct {
	Raised     int64       `json:"raised"`
	Updated    int64       `json:"updated"`
	Orders     int64       `json:"orders"`
	Duplicates int64       `json:"duplicates"` // raised again while one stood, or with an old id
	LineFill   eval.Figure `json:"line_fill"`
	Days       eval.Figure `json:"days_of_stock"`
}

// signals lets the products decide. Lead times are learnt from receipts, from the
// supplier's mean on.
func signals(h *History, test int, seed uint64) Signals {
	l := newLoop(h, test)
	o := l.o
	price := h.prices(test)
	settings := make([]restock.Setting, len(l.stocked))
	asked := make([]int64, len(l.stocked)) // by the signal that stands
	type id struct {
		n        int
		cycle    uint32
		revision uint16
	}
	told := map[id]bool{}
	var out Signals
	var sum tallied
	judged := false
	hear := func(n int, s restock.Signal, said bool) {
		if !said {
			return
		}
		if s.Kind == restock.Withdrawn {
			asked[n] = 0
			return
		}
		if judged {
			key := id{n, s.Cycle, s.Revision}
			switch {
			case told[key] || s.Kind == restock.Raised && asked[n] > 0:
				out.Duplicates++
			case s.Kind == restock.Raised:
				out.Raised++
			default:
				out.Updated++
			}
			told[key] = true
		}
		asked[n] = s.Quantity
	}
	for n, i := range l.stocked {
		settings[n] = o.setting
		settings[n].Policy.LeadDays, settings[n].Policy.LeadCV = l.lead[n], leadCV
		need := o.products[i].Need(l.at(test, 0), 0, &settings[n])
		l.shelves[n].hand = need.Units + int64(math.Ceil(cover/2*need.Demand.Mean/need.WindowDays))
		s, said := o.products[i].StockLevel(l.at(test, 0), l.shelves[n].hand, &settings[n])
		hear(n, s, said)
	}
	for t := test; t < h.Periods; t++ {
		judged = t >= test+warmUp
		morning := l.at(t, .001)
		for n, i := range l.stocked {
			p, set, x := &o.products[i], &settings[n], &l.shelves[n]
			set.Layer = o.setting.Layer
			for _, a := range x.arrivals {
				if a.day <= t {
					s, said := p.Receipt(morning, a.units, 0, set)
					hear(n, s, said)
				}
			}
			x.receive(t, false, nil)
			if asked[n] > 0 {
				amount := asked[n]
				s, said := p.PurchaseOrder(morning, amount, 0, set)
				hear(n, s, said)
				x.ordered += amount
				x.arrivals = append(x.arrivals, arrival{day: t + leadDays(seed, i, t, l.lead[n]), units: amount})
				asked[n] = 0
				if judged {
					out.Orders++
				}
			}
		}
		lines := l.day(t)
		for k, line := range lines {
			n := l.place[line.Series] - 1
			at := l.at(t, .01+.98*(float64(k)+.5)/float64(len(lines)))
			sold, set := int64(line.Units), &o.setting
			if n >= 0 {
				shipped := min(sold, max(l.shelves[n].hand, 0))
				l.shelves[n].serve(sold, price[line.Series], judged, &sum)
				sold, set = shipped, &settings[n]
			}
			if sold <= 0 {
				continue
			}
			s, said := o.products[line.Series].Sale(at, sold, int64(float64(line.Price)*1e6), set)
			if n >= 0 {
				hear(n, s, said)
			}
		}
		o.close(t)
		for n, i := range l.stocked {
			s, said := o.products[i].Wake(l.at(t+1, 0), &settings[n])
			hear(n, s, said)
			if judged {
				sum.value += float64(l.shelves[n].hand) * price[i]
				sum.days++
			}
		}
	}
	p := sum.point(0)
	out.LineFill, out.Days = eval.Figure(p.LineFill), eval.Figure(p.Days)
	return out
}

// coldAges are the ages in days at which new series are forecast.
var coldAges = [4]int{1, 3, 7, 28}

// Cold is the pinball loss over the demand of the 28 days that follow, for series that
// were launched so many days before.
type Cold struct {
	Launches int         `json:"launches"`
	Day1     eval.Figure `json:"day1"`
	Day3     eval.Figure `json:"day3"`
	Day7     eval.Figure `json:"day7"`
	Day28    eval.Figure `json:"day28"`
}

// coldCases are the launches of a daily history after its first quarter of a year,
// at every age, and how old each is.
func (h *History) coldCases() (cases []Case, launches int) {
	const ahead, quarter = 28, 91
	for i := range h.Series {
		s := &h.Series[i]
		if h.Period != 1 || s.First < quarter || s.First+coldAges[3]+ahead > h.Periods {
			continue
		}
		launches++
		for _, age := range coldAges {
			t := s.First + age
			cases = append(cases, Case{Series: i, Origin: t, Horizon: ahead, Age: age, Actual: s.sum(t, t+ahead)})
		}
	}
	slices.SortFunc(cases, func(a, b Case) int {
		return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Series, b.Series))
	})
	return cases, launches
}

// coldStart judges a method on launches; nil where the history has none.
func coldStart(h *History, m method) *Cold {
	cases, launches := h.coldCases()
	if launches == 0 {
		return nil
	}
	s := score(h, m, cases)
	wpl := func(age int) eval.Figure { return eval.Figure(s.ByAge[age].loss / s.ByAge[age].actual) }
	return &Cold{launches, wpl(coldAges[0]), wpl(coldAges[1]), wpl(coldAges[2]), wpl(coldAges[3])}
}
