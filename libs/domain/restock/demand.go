package restock

import "math"

// experts is how many discounted models follow the demand.
const experts = 3

// Constants of the demand model. They were chosen on the first parts of histories
// of a wholesaler (days), a supermarket (days, weeks) and a parts shop (months), and
// little hangs on any of them.
const (
	drift      = .02 // gamma²: variance of what is not modelled, relative to the squared mean
	eta        = .5  // w ~ exp(-eta loss)
	floor      = .05 // smallest weight of an expert
	pooled     = 30. // weeks that the losses of all products are worth to one
	phiPrior   = 2.  // dispersion believed before any error is seen
	phiWeight  = 1.  // and how many units of demand it is worth
	lossKept   = .96 // discount of the experts' losses a week
	minExposed = .05 // exposure counted at least on a day with sales
	leadPoints = 5
)

// kept is what the experts keep of their evidence from one period of so many days
// to the next: half-lives of 6.6, 23 and 138 days.
func kept(period float64) [experts]float64 {
	d := [experts]float64{.9, .97, .995}
	if period != 1 {
		for k := range d {
			d[k] = math.Pow(d[k], period)
		}
	}
	return d
}

// power is d to the n-th, by squaring: the same bits everywhere, and for the few days
// that a product sleeps faster than a logarithm.
func power(d float64, n int) float64 {
	p := 1.
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			p *= d
		}
		d *= d
	}
	return p
}

// expert is a discounted gamma-Poisson model, kept as it was at the anchor: sales,
// exposure in days of any weight, squared error and mean.
type expert struct{ a, b, v, m float32 }

// level is an expert brought up to date: mean rate of an average day, its certainty
// in average days, and the dispersion.
type level struct{ rate, certain, phi float64 }

// grown returns the expert's a, b, V, M after n days of full exposure and no
// sales, in closed form: the sums of n terms at the rate of the anchor. It is used
// for one day, too. Mean is the mean weight of those days.
func (e expert) grown(d float64, n uint32, rate, mean float64) (a, b, v, m float64) {
	a, b, v, m = float64(e.a), float64(e.b), float64(e.v), float64(e.m)
	if n == 0 {
		return a, b, v, m
	}
	g := power(d, int(n))
	sum := (1 - g) / (1 - d)
	mu := rate * mean
	return g * a, g*b + sum, g*v + mu*mu*sum, g*m + mu*sum
}

// rates returns the posterior mean rates of an average day, and how many average
// days they rest on. Each expert is drawn to the next slower one with one or two days
// of it, and the slowest to the launch rate, so that what is known of a product
// stands for what is not known of its present.
func rates(a, b [experts]float64, launch prior, period float64) (rate, certain [experts]float64) {
	q := launch
	for k := experts - 1; k >= 0; k-- {
		certain[k] = max(b[k]+q.days, 1e-3)
		rate[k] = (a[k] + q.days*q.rate) / certain[k]
		q = prior{float64(k) / period, rate[k]}
	}
	return rate, certain
}

// prior is a belief: so many days of exposure at a rate.
type prior struct{ days, rate float64 }

// launch is what is believed of a product that was never seen.
func (p *Product) launch(s *Setting) prior {
	q := prior{s.Policy.LaunchDays / s.period(), s.Policy.LaunchRate * s.period()}
	if l := s.Layer; l != nil && l.launches.sure > 0 {
		r, sure := float64(l.launches.rate[p.band]), float64(l.launches.sure)
		q.rate = (r*sure + q.rate) / (sure + 1)
	}
	return q
}

// levels returns the experts after the empty days that were counted.
func (p *Product) levels(s *Setting) (out [experts]level) {
	d := s.kept()
	cal := s.calendar()
	anchor := p.open - Day(p.empty)
	launch := p.launch(s)
	var a, b, v, m, c [experts]float64
	for k, e := range p.experts {
		a[k], b[k] = float64(e.a), float64(e.b)*cal.mean(k, anchor, int(anchor-p.first))
	}
	was, _ := rates(a, b, launch, s.period())
	for k, e := range p.experts {
		c[k] = cal.mean(k, p.open, int(p.empty))
		a[k], b[k], v[k], m[k] = e.grown(d[k], p.empty, was[k], c[k])
		b[k] *= cal.mean(k, p.open, int(p.open-p.first))
	}
	rate, certain := rates(a, b, launch, s.period())
	for k := range out {
		out[k] = level{rate[k], certain[k], max(1, (v[k]+phiPrior*phiWeight)/(m[k]+phiWeight))}
	}
	return out
}

// demand over the weight c of a window: phi m C + phi m C²/(b+kappa) + gamma² mean².
// Square is the sum of the weights times what offers lift them by once more: C where
// nothing is offered. A lift is a scale: the variance goes with
// its square.
func (l level) demand(c, square float64) (mean, variance float64) {
	mean = l.rate * c
	return mean, l.phi*l.rate*square + l.phi*mean*c/l.certain + drift*mean*mean
}

// f32 rounds, and keeps the result finite and not negative.
func f32(v float64) float32 {
	if !(v > 0) {
		return 0
	}
	return float32(min(v, 1e30))
}

// ensemble is the experts at one moment.
type ensemble struct {
	levels  [experts]level
	weights [experts]float64
	cal     *calendar
	warps   *warps
	now     Day
	short   float64 // periods of the short check
}

// at returns the ensemble after the empty days that were counted.
func (p *Product) at(s *Setting) ensemble {
	e := ensemble{levels: p.levels(s), cal: s.calendar(), now: p.open, short: float64(s.week())}
	if s.Layer != nil {
		e.warps = s.Layer.warps
	}
	e.weights = p.weigh(s, e.mean(float64(s.week())))
	return e
}

// mean is the even mix's mean over a window.
func (e *ensemble) mean(window float64) float64 {
	c := e.cal.window(e.now, window)
	var m float64
	for _, l := range e.levels {
		m += l.rate * c / experts
	}
	return m
}

// weigh returns w ~ exp(-eta L), each at least the floor. L is the product's own
// losses and those of all products of its volume, worth so many weeks.
func (p *Product) weigh(s *Setting, mean float64) [experts]float64 {
	var l [experts]float64
	for k := range l {
		l[k] = float64(p.losses[k])
		if s.Layer != nil {
			l[k] += pooled * float64(s.Layer.losses[volume(mean)][k])
		}
	}
	best := min(l[0], l[1], l[2])
	var w [experts]float64
	var sum float64
	for k := range l {
		w[k] = math.Exp(-eta * (l[k] - best))
		sum += w[k]
	}
	for k := range w {
		w[k] = floor + (1-experts*floor)*w[k]/sum
	}
	return w
}

// over returns the weighted demand over a window from the start of the open day: mu
// = sum w mu_k, v = sum w (v_k + mu_k²) - mu².
func (e *ensemble) over(window float64) Demand {
	c := e.cal.window(e.now, window)
	return e.weighing(c, c, window)
}

// weighing is the demand over a window of the given weight, and that weight with the
// offers' lifts squared.
func (e *ensemble) weighing(c, lifted, window float64) Demand {
	var mu, square float64
	for k, l := range e.levels {
		m, v := l.demand(c, lifted)
		mu += e.weights[k] * m
		square += e.weights[k] * (v + m*m)
	}
	return e.warped(mu, square-mu*mu, window)
}

// overLead returns the demand over a lead time of equally likely lengths and the
// review.
func (e *ensemble) overLead(lead [leadPoints]float64, review float64) Demand {
	var mu, square, window float64
	for _, l := range lead {
		d := e.over(l + review)
		mu += d.Mean / leadPoints
		square += (d.Variance + d.Mean*d.Mean) / leadPoints
		window += (l + review) / leadPoints
	}
	return e.warped(mu, square-mu*mu, window)
}

// warped is a distribution over a window with what is known of such forecasts.
func (e *ensemble) warped(mean, variance, window float64) Demand {
	d := Demand{Mean: mean, Variance: max(mean, variance)}
	d.warp = e.warps.of(d, window/e.short)
	return d
}

// rate is the mean rate of an average day, every expert counting the same: the
// weights lean to the median and would bias it.
func (e *ensemble) rate() float64 {
	var even float64
	for _, l := range e.levels {
		even += l.rate / experts
	}
	return even
}

// weekForecast is what was expected of the open week, or of four.
type weekForecast struct{ mean, variance float32 }

// startWeek notes what every expert expects of the coming week and, every fourth
// week, what all of them do of the next four.
func (p *Product) startWeek(s *Setting) {
	e := p.at(s)
	week := s.week()
	c := e.cal.window(e.now, float64(week))
	for k, l := range e.levels {
		m, v := l.demand(c, c)
		p.week[k] = weekForecast{f32(m), f32(v)}
	}
	p.weekSold, p.weekExposed = 0, 0
	if int(p.open-p.first)/week%longWeeks == 0 {
		d := e.over(float64(longWeeks * week))
		p.long, p.longSold = weekForecast{f32(d.Mean), f32(d.Variance)}, 0
	}
}

// longWeeks is how many weeks the long check spans.
const longWeeks = 4

// endWeek charges every expert with the pinball losses of its .5, .9 and .95
// quantiles, in units of the spread expected by all. A week that was not almost
// wholly exposed judges nobody. What came of the forecasts is told.
func (p *Product) endWeek(s *Setting) {
	week := s.week()
	if float64(p.weekExposed) < 6./7*86400*float64(week) {
		p.longSold = spoilt
		return
	}
	if x, offered := p.offered(); offered {
		// What was offered was not known a week ago, and is no fault of anybody's.
		lift := s.effect(p.group, x)
		for k := range p.week {
			w := &p.week[k]
			w.mean, w.variance = f32(float64(w.mean)*lift), f32(float64(w.variance)*lift*max(lift, 1))
		}
		p.longSold = spoilt
	}
	var scale, even float64
	for _, w := range p.week {
		scale += math.Sqrt(float64(w.variance)) / experts
		even += float64(w.mean) / experts
	}
	weights := p.weigh(s, even)
	sold := float64(p.weekSold)
	told := Stat{Kind: StatWeek, Day: p.open - 1, Class: uint8(volume(even))}
	var losses [experts]float64
	var mu, square float64
	for k, w := range p.week {
		d := Demand{Mean: float64(w.mean), Variance: float64(w.variance)}
		mu += weights[k] * d.Mean
		square += weights[k] * (d.Variance + d.Mean*d.Mean)
		var loss float64
		for _, tau := range [3]float64{.5, .9, .95} {
			q := float64(d.Quantile(tau))
			loss += max(tau*(sold-q), (tau-1)*(sold-q))
		}
		losses[k] = loss / max(scale, .1)
		told.Losses[k] = f32(losses[k])
		p.losses[k] = f32(lossKept*float64(p.losses[k]) + losses[k])
	}
	if p.longSold != spoilt {
		p.longSold = add32(p.longSold, int64(p.weekSold))
	}
	if s.Tell == nil {
		return
	}
	s.Tell(told)
	s.Tell(check(p.open-1, 0, Demand{Mean: mu, Variance: max(mu, square-mu*mu)}, sold))
	if weeks := int(p.open-p.first) / week; weeks%longWeeks == 0 {
		if p.longSold != spoilt {
			s.Tell(check(p.open-1, 1, Demand{Mean: float64(p.long.mean), Variance: float64(p.long.variance)}, float64(p.longSold)))
		}
		if weeks == longWeeks {
			rate := float64(max(p.longSold, 0)) / max(e0(p, s), 1e-3)
			if p.longSold != spoilt {
				s.Tell(Stat{Kind: StatLaunch, Day: p.open - 1, Band: p.band, Units: f32(rate)})
			}
		}
	}
}

func e0(p *Product, s *Setting) float64 {
	return s.calendar().window(p.first, float64(p.open-p.first))
}

// spoilt marks a long check that cannot be made.
const spoilt = math.MinInt32

// check says where an outcome fell in a forecast.
func check(day Day, horizon uint8, d Demand, sold float64) Stat {
	return Stat{Kind: StatCheck, Day: day, Horizon: horizon, Class: uint8(d.kind()), Low: share32(d.CDF(sold - 1)), High: share32(d.CDF(sold))}
}

// share32 rounds a probability.
func share32(v float64) float32 { return float32(min(max(v, 0), 1)) }
