package restock

import "math"

const (
	ahead     = 800  // days that the tables of a calendar reach beyond what was seen
	maxWeight = 1000 // of a day, for whatever reason
)

// calendar gives every day its weight c: the demand that is expected of it,
// relative to an average day. The zero calendar weighs every day 1.
type calendar struct {
	first Day       // of the tables
	cum   []float64 // sum of c over the days before first+i
	seen  [experts][]float64
	kept  [experts]float64
}

// newCalendar makes the tables of the weights of the days from first on, for
// experts that keep so much of their evidence from one day to the next.
func newCalendar(first Day, weights []float64, kept [experts]float64) calendar {
	c := calendar{first: first, cum: make([]float64, len(weights)+1), kept: kept}
	for k := range c.seen {
		// Before the tables every day weighed 1, for ever.
		c.seen[k] = make([]float64, len(weights)+1)
		c.seen[k][0] = 1 / (1 - kept[k])
	}
	for i, w := range weights {
		c.cum[i+1] = c.cum[i] + w
		for k := range c.seen {
			c.seen[k][i+1] = kept[k]*c.seen[k][i] + w
		}
	}
	return c
}

// window is the sum of c over so many days from the start of a day. Days outside
// the tables weigh 1.
func (c *calendar) window(from Day, days float64) float64 {
	if len(c.cum) == 0 {
		return days
	}
	x := float64(from - c.first)
	return c.until(x+days) - c.until(x)
}

func (c *calendar) until(x float64) float64 {
	last := len(c.cum) - 1
	switch {
	case x <= 0:
		return x
	case x >= float64(last):
		return c.cum[last] + x - float64(last)
	}
	i := int(x)
	return c.cum[i] + (x-float64(i))*(c.cum[i+1]-c.cum[i])
}

// mean is the mean weight of the n days before a day, discounted as the evidence
// of expert k is: it turns days of exposure into average days. So a product's
// state need not know the calendar, and a calendar that learns revises every
// product at once.
func (c *calendar) mean(k int, now Day, n int) float64 {
	i := int(now - c.first)
	if n <= 0 || i <= 0 || i >= len(c.cum) {
		return 1
	}
	d := c.kept[k]
	before := 1 / (1 - d)
	if j := i - n; j > 0 {
		before = c.seen[k][j]
	}
	g := power(d, n)
	return max(.02, (c.seen[k][i]-g*before)*(1-d)/(1-g))
}

// season is the slot of the year of a day: 53 slots of a week.
func season(d Day, period float64) int {
	const year = 365.2425
	x := math.Mod(float64(d)*period, year)
	if x < 0 {
		x += year
	}
	return min(int(x/7), seasons-1)
}

const seasons = 53

// weekday of a day: 0 is a Thursday, as 1970-01-01 was.
func weekday(d Day) int { return int(((d % 7) + 7) % 7) }

// Constants of the calendar.
const (
	weekKept    = .97  // discount of what the weekdays are worth, a week
	seasonPower = .8   // how much of last year's season is believed
	pseudo      = 10   // average evidence in every slot, in units of the dispersion
	closedBelow = 8    // a day of less than this expectation may be empty by chance
	yearDays    = 364. // whole weeks
)

// almanac is what a calendar is made of, in the precision of a packed layer. The zero
// almanac knows nothing.
type almanac struct {
	first         Day // that was seen
	days          int // that were
	period        float64
	closed        []byte // a bit for each of the days, the lowest first
	dow           [7]float32
	rates, opened [seasons]float32 // of an open day of a slot of the year; and how much of the slot is open
}

// fitAlmanac learns from the totals of a shop by day, each in units of the dispersion,
// so that a total counts as often as it is evidence. Period is the length of a day of
// the totals in days: seasons come from a year on, weekdays only where the period is a
// day.
func fitAlmanac(first Day, seen []float32, period float64) almanac {
	n := len(seen)
	totals := make([]float64, n)
	for t, y := range seen {
		totals[t] = float64(y)
	}
	a := almanac{first: first, days: n, period: period, closed: make([]byte, (n+7)/8)}
	dow := [7]float64{1, 1, 1, 1, 1, 1, 1}
	if period == 1 {
		dow = fitWeekdays(first, totals)
	}
	for d := range dow {
		a.dow[d] = float32(dow[d])
	}
	open := make([]float64, n) // the weight of the weekday, 0 where the shop was closed
	expected := around(totals, 28/period)
	for t := range open {
		open[t] = float64(a.dow[weekday(first+Day(t))])
		if totals[t] == 0 && expected[t]*open[t] >= closedBelow {
			open[t] = 0
			a.closed[t/8] |= 1 << (t % 8)
		}
	}
	rates, opened := fitSeasons(first, totals, open, dow, period)
	for s := range rates {
		a.rates[s], a.opened[s] = float32(min(rates[s], maxWeight)), float32(min(opened[s], maxWeight))
	}
	return a
}

// calendar makes the tables, for experts that keep so much of their evidence.
func (a *almanac) calendar(kept [experts]float64) calendar {
	if a.days == 0 {
		return calendar{}
	}
	weights := make([]float64, a.days+int(ahead/a.period))
	for t := range weights {
		d := a.first + Day(t)
		s := season(d, a.period)
		weights[t] = float64(a.dow[weekday(d)]) * float64(a.rates[s])
		switch {
		case t >= a.days:
			weights[t] *= float64(a.opened[s])
		case a.closed[t/8]&(1<<(t%8)) != 0:
			weights[t] = 0
		}
	}
	return newCalendar(a.first, weights, kept)
}

// fields are packed; reading leaves no room for more days than are kept.
func (a *almanac) fields(w *wire) {
	n := uint32(a.days)
	w.u32(&n)
	if a.days = int(n); n == 0 {
		return
	}
	if n > maxDays {
		w.short = true
		return
	}
	w.day(&a.first)
	if w.reading {
		a.closed = make([]byte, (n+7)/8)
	}
	for i := range a.closed {
		w.u8(&a.closed[i])
	}
	w.f32s(a.dow[:])
	w.f32s(a.rates[:])
	w.f32s(a.opened[:])
}

// valid tells that a calendar of it is one: finite, and of days that there are.
func (a *almanac) valid() bool {
	return a.first >= -farDay && a.first <= farDay && inside(0, maxWeight, a.dow[:]...) && inside(0, maxWeight, a.rates[:]...) && inside(0, maxWeight, a.opened[:]...)
}

// around is the moving mean over a window, centred where the totals reach so far.
func around(totals []float64, window float64) []float64 {
	n := len(totals)
	w := min(max(int(window+.5), 1), n)
	out := make([]float64, n)
	var sum float64
	from := 0
	for t := range totals[:w] {
		sum += totals[t]
	}
	for t := range out {
		for from < n-w && from < t-w/2 {
			sum += totals[from+w] - totals[from]
			from++
		}
		out[t] = max(sum, 0) / float64(w)
	}
	return out
}

// fitWeekdays returns the weights of the weekdays: totals against the mean of the
// 28 days around them, older weeks counting less.
func fitWeekdays(first Day, totals []float64) (dow [7]float64) {
	base := around(totals, 28)
	var num, den [7]float64
	for t, y := range totals {
		g := math.Pow(weekKept, float64(len(totals)-1-t)/7)
		d := weekday(first + Day(t))
		num[d] += g * min(y, 4*base[t])
		den[d] += g * base[t]
	}
	var sum float64
	for d := range dow {
		dow[d] = (num[d] + pseudo) / (den[d] + pseudo)
		sum += dow[d] / 7
	}
	for d := range dow {
		dow[d] /= sum
	}
	return dow
}

// fitSeasons returns what an open day of every slot of the year is worth, and how
// much of the slot was open.
func fitSeasons(first Day, totals, open []float64, dow [7]float64, period float64) (rates, opened [seasons]float64) {
	for s := range rates {
		rates[s], opened[s] = 1, 1
	}
	year := int(yearDays/period + .5)
	if len(totals) < year {
		return rates, opened
	}
	var num, den, was, should [seasons]float64
	base := around(totals, yearDays/period)
	level := around(open, yearDays/period)
	for t, y := range totals {
		s := season(first+Day(t), period)
		num[s] += y
		den[s] += open[t] * base[t] / max(level[t], .1)
		was[s] += open[t]
		should[s] += dow[weekday(first+Day(t))]
	}
	var raw [seasons]float64
	for s := range raw {
		raw[s] = math.Log((num[s] + pseudo) / (den[s] + pseudo))
		if should[s] > 0 {
			opened[s] = was[s] / should[s]
		}
	}
	for s := range rates {
		left, right := raw[(s+seasons-1)%seasons], raw[(s+1)%seasons]
		rates[s] = math.Exp(seasonPower * (left + 2*raw[s] + right) / 4)
	}
	return rates, opened
}
