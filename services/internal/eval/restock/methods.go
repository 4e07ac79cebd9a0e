package restock

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/sillage-io/sillage/libs/domain/restock"
)

// spread is a predictive distribution: Normal, cut off at none, or a count.
type spread struct {
	mean, variance float64
	normal         bool
	demand         restock.Demand
}

func normal(mean, variance float64) spread {
	return spread{mean: mean, variance: variance, normal: true}
}

func counts(mean, variance float64) spread {
	return spread{mean: mean, variance: variance, demand: restock.Demand{Mean: mean, Variance: max(variance, mean)}}
}

func (s spread) quantile(tau float64) float64 {
	if s.normal {
		return max(0, s.mean+distuv.UnitNormal.Quantile(tau)*math.Sqrt(s.variance))
	}
	return float64(s.demand.Quantile(tau))
}

// baseline forecasts one series from its own past.
type baseline interface {
	// next takes the demand of the next period.
	next(y float64)
	// over returns the demand of the coming periods.
	over(periods float64) spread
}

// rolling keeps the last periods and their sums.
type rolling struct {
	last []float64
	n    int
}

func newRolling(n int) *rolling { return &rolling{last: make([]float64, max(n, 1))} }

func (r *rolling) next(y float64) {
	r.last[r.n%len(r.last)] = y
	r.n++
}

// moments are mean and variance of what is kept.
func (r *rolling) moments() (mean, variance float64) {
	n := min(r.n, len(r.last))
	if n == 0 {
		return 0, 0
	}
	var sum, square float64
	for _, y := range r.last[:n] {
		sum += y
	}
	mean = sum / float64(n)
	for _, y := range r.last[:n] {
		square += (y - mean) * (y - mean)
	}
	return mean, square / float64(max(n-1, 1))
}

// window is the mean of the last days with a Normal spread, as the apps of shops
// compute it.
type window struct{ *rolling }

func (w window) over(periods float64) spread {
	m, v := w.moments()
	return normal(m*periods, v*periods)
}

// ses is simple exponential smoothing with a Normal spread.
type ses struct {
	alpha, level, square float64
	n                    int
}

func (s *ses) next(y float64) {
	if s.n == 0 {
		s.level = y
	}
	e := y - s.level
	s.n++
	// The first periods are averaged, or the first of them would count for ever.
	a := max(s.alpha, 1/float64(s.n))
	s.level += a * e
	s.square += a * (e*e - s.square)
}

func (s *ses) over(periods float64) spread {
	return normal(s.level*periods, s.square*periods*(1+s.alpha*s.alpha*(periods-1)/2))
}

// croston smooths the sizes of demand and the intervals between them (1972);
// bias is 1, or 1 - alpha/2 for Syntetos and Boylan's approximation (2005).
type croston struct {
	alpha, bias      float64
	size, gap, since float64
	square           float64
	n                int
}

func (c *croston) next(y float64) {
	if c.n > 0 {
		c.n++
		e := y - c.rate()
		c.square += max(c.alpha/2, 1/float64(c.n)) * (e*e - c.square)
	}
	c.since++
	if y <= 0 {
		return
	}
	if c.n == 0 {
		c.n, c.size, c.gap, c.square = 1, y, c.since, y
	} else {
		c.size += c.alpha * (y - c.size)
		c.gap += c.alpha * (c.since - c.gap)
	}
	c.since = 0
}

func (c *croston) rate() float64 { return c.bias * c.size / max(c.gap, 1) }

func (c *croston) over(periods float64) spread {
	return counts(c.rate()*periods, c.square*periods)
}

// tsb is the method of Teunter, Syntetos and Babai (2011) with a negative binomial
// spread.
type tsb struct {
	alpha, beta  float64
	size, chance float64
	square       float64
	n, sales     int
}

func (m *tsb) next(y float64) {
	e := y - m.size*m.chance
	m.n++
	m.square += max(m.beta, 1/float64(m.n)) * (e*e - m.square)
	b := max(m.beta, 1/float64(m.n))
	if y > 0 {
		m.sales++
		m.size += max(m.alpha, 1/float64(m.sales)) * (y - m.size)
		m.chance += b * (1 - m.chance)
	} else {
		m.chance -= b * m.chance
	}
}

func (m *tsb) over(periods float64) spread {
	return counts(m.size*m.chance*periods, m.square*periods)
}

// naive says that the next periods will be as many of the last ones were; lag says
// which: 0 the ones just past, else those so many periods ago.
type naive struct {
	lag  int
	past []float64
}

func (m *naive) next(y float64) { m.past = append(m.past, y) }

func (m *naive) over(periods float64) spread {
	h := max(int(periods+.5), 1)
	n := len(m.past)
	lag := max(m.lag, h)
	total := func(end int) float64 {
		var sum float64
		for t := max(end-h, 0); t < end; t++ {
			sum += m.past[t]
		}
		return sum * float64(h) / float64(max(min(end, h), 1))
	}
	forecast := func(now int) float64 {
		if end := now - lag + h; end >= h {
			return total(end)
		}
		return total(now) // no such past yet
	}
	var square float64
	var k int
	for now := n - h; now >= h && k < 12; now -= h {
		e := total(now+h) - forecast(now)
		square += e * e
		k++
	}
	f := forecast(n)
	if k == 0 {
		return normal(f, f)
	}
	return normal(f, square/float64(k))
}

// holtWinters is the additive method with a damped... fixed parameters and a season
// of so many periods.
type holtWinters struct {
	season             []float64
	level, trend       float64
	square             float64
	n                  int
	alpha, beta, gamma float64
}

func (m *holtWinters) next(y float64) {
	i := m.n % len(m.season)
	m.n++
	if m.n == 1 {
		m.level = y
	}
	e := y - (m.level + m.trend + m.season[i])
	a := max(m.alpha, 1/float64(m.n))
	old := m.level
	m.level += m.trend + a*e
	m.trend += m.beta * (m.level - old - m.trend)
	m.season[i] += m.gamma * (1 - a) * e
	m.square += a * (e*e - m.square)
}

func (m *holtWinters) over(periods float64) spread {
	var mean float64
	for t := 1.; t <= periods+.5; t++ {
		mean += max(0, m.level+m.trend*t+m.season[(m.n+int(t)-1)%len(m.season)])
	}
	return normal(mean, m.square*periods)
}

// static is what was typed in: the mean and the spread of the quarter before a
// day, and of that before every so many periods after it; 0: never again.
type static struct {
	*rolling
	set, every     int
	mean, variance float64
}

func (m *static) next(y float64) {
	m.rolling.next(y)
	if m.n <= m.set || m.every > 0 && (m.n-m.set)%m.every == 0 {
		m.mean, m.variance = m.moments()
	}
}

func (m *static) over(periods float64) spread { return normal(m.mean*periods, m.variance*periods) }

// Methods returns the names of all methods, ours first.
func Methods() []string {
	return []string{"online", "window", "velocity", "tsb", "sba", "croston", "ses", "naive", "snaive", "holtwinters", "static", "minmax"}
}

// newBaseline returns a method for one series that begins at a period.
func newBaseline(name string, h *History, first, test int) baseline {
	days := func(n float64) int { return max(1, int(n/h.Period+.5)) }
	daily := h.Period == 1
	slow, fast := .05, .1
	if !daily {
		slow, fast = .2, .2
	}
	switch name {
	case "window":
		return window{newRolling(max(days(28), 3))}
	case "velocity":
		return window{newRolling(max(days(30), 4))}
	case "ses":
		return &ses{alpha: slow}
	case "croston":
		return &croston{alpha: fast, bias: 1}
	case "sba":
		return &croston{alpha: fast, bias: 1 - fast/2}
	case "tsb":
		return &tsb{alpha: fast, beta: slow}
	case "naive":
		return &naive{}
	case "snaive":
		return &naive{lag: days(364)}
	case "holtwinters":
		season := 7
		if !daily {
			season = days(364)
		}
		return &holtWinters{season: make([]float64, season), alpha: slow, beta: slow / 10, gamma: slow}
	case "static":
		return &static{rolling: newRolling(max(days(91), 3)), set: test - first}
	case "minmax":
		return &static{rolling: newRolling(max(days(91), 3)), set: test - first, every: days(30)}
	}
	return nil
}
