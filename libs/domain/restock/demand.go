package restock

import "math"

// The experts' discounts a day: half-lives of 13.5, 34 and 138 days.
const experts = 3

// Constants of the demand model.
const (
	drift      = .02 // gamma²: variance of what is not modelled, relative to the squared mean
	phiPrior   = 2.  // dispersion believed before any error is seen
	phiWeight  = 1.  // and how many units of demand it is worth
	lossKept   = .96 // discount of the experts' losses a week
	eta        = .5  // w ~ exp(-eta loss)
	floor      = .05 // smallest weight of an expert
	minExposed = .05 // exposure counted at least on a day with sales
	leadPoints = 5
)

// discount of expert k a day.
func discount(k int) float64 { return [experts]float64{.95, .98, .995}[k] }

// expert is a discounted gamma-Poisson model, kept as it was at the anchor.
type expert struct{ a, b, v, m float32 }

// level is an expert brought up to date: mean rate a day, its certainty in days,
// and the dispersion.
type level struct{ rate, certain, phi float64 }

// prior is the launch prior at one moment: so many days of exposure at a rate.
type prior struct{ days, rate float64 }

// prior returns the launch prior after n empty days more than the anchor. It is
// worth LaunchDays for a new product and fades on the clock of the middle expert,
// whose b says how much of that clock has run: its rate is a guess of the policy
// and not, yet, of the product's category, and would bias the fast expert for ever.
func (p *Product) prior(n uint32, s *Setting) prior {
	d := discount(1)
	g := math.Pow(d, float64(n))
	b := g*float64(p.experts[1].b) + (1-g)/(1-d)
	return prior{s.Policy.LaunchDays * max(0, 1-(1-d)*b), s.Policy.LaunchRate}
}

// posterior is the mean of a gamma-Poisson: (a + kappa r0) / (b + kappa).
func (q prior) posterior(a, b float64) float64 {
	if !(b+q.days > 0) {
		return q.rate
	}
	return (a + q.days*q.rate) / (b + q.days)
}

// grown returns the expert's a, b, V, M after n days of full exposure and no
// sales, in closed form: the sums of n terms at the rate of the anchor. It is
// used for one day, too. The prior is that of the anchor.
func (e expert) grown(k int, n uint32, q prior) (a, b, v, m float64) {
	a, b, v, m = float64(e.a), float64(e.b), float64(e.v), float64(e.m)
	if n == 0 {
		return a, b, v, m
	}
	rate := q.posterior(a, b)
	d := discount(k)
	g := math.Pow(d, float64(n))
	sum := (1 - g) / (1 - d)
	return g * a, g*b + sum, g*v + rate*rate*sum, g*m + rate*sum
}

// level returns the expert's level after n empty days, from the priors at the
// anchor and now.
func (e expert) level(k int, n uint32, anchor, now prior) level {
	a, b, v, m := e.grown(k, n, anchor)
	return level{
		rate:    now.posterior(a, b),
		certain: max(b+now.days, 1e-3),
		phi:     max(1, (v+phiPrior*phiWeight)/(m+phiWeight)),
	}
}

// demand over c days: phi m C + phi m C²/(b+kappa) + gamma² mean².
func (l level) demand(c float64) (mean, variance float64) {
	mean = l.rate * c
	return mean, l.phi*mean + l.phi*mean*c/l.certain + drift*mean*mean
}

// close counts a day of the given sales and exposure in [0, 1], after n empty
// days. Cancelled sales of earlier days lower the level and are no error.
func (e expert) close(k int, n uint32, sold, exposure float64, anchor, now prior) expert {
	a, b, v, m := e.grown(k, n, anchor)
	mu := now.posterior(a, b) * exposure
	g := math.Pow(discount(k), exposure)
	miss := max(sold, 0) - mu
	return expert{f32(g*a + sold), f32(g*b + exposure), f32(g*v + miss*miss), f32(g*m + mu)}
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
}

// at returns the ensemble after the empty days that were counted.
func (p *Product) at(s *Setting) ensemble {
	var e ensemble
	n := p.empty
	anchor, now := p.prior(0, s), p.prior(n, s)
	for k := range e.levels {
		e.levels[k] = p.experts[k].level(k, n, anchor, now)
	}
	e.weights = weigh(p.losses)
	return e
}

// weigh returns w ~ exp(-eta L), each at least the floor.
func weigh(losses [experts]float32) [experts]float64 {
	best := min(losses[0], losses[1], losses[2])
	var w [experts]float64
	var sum float64
	for k, l := range losses {
		w[k] = math.Exp(-eta * float64(l-best))
		sum += w[k]
	}
	for k := range w {
		w[k] = floor + (1-experts*floor)*w[k]/sum
	}
	return w
}

// over returns the weighted demand over c days: mu = sum w mu_k, v = sum w (v_k +
// mu_k²) - mu².
func (e *ensemble) over(c float64) Demand {
	var mu, square float64
	for k, l := range e.levels {
		m, v := l.demand(c)
		mu += e.weights[k] * m
		square += e.weights[k] * (v + m*m)
	}
	return Demand{mu, max(mu, square-mu*mu)}
}

// overLead returns the demand over a lead time of equally likely lengths and the
// review.
func (e *ensemble) overLead(lead [leadPoints]float64, review float64) Demand {
	var mu, square float64
	for _, l := range lead {
		d := e.over(l + review)
		mu += d.Mean / leadPoints
		square += (d.Variance + d.Mean*d.Mean) / leadPoints
	}
	return Demand{mu, max(mu, square-mu*mu)}
}

// rate is the mean rate a day, every expert counting the same.
func (e *ensemble) rate() float64 {
	var even float64
	for _, l := range e.levels {
		even += l.rate / experts
	}
	return even
}

// weekForecast is what an expert expected of the open week.
type weekForecast struct{ mean, variance float32 }

// startWeek notes what every expert expects of the coming seven days.
func (p *Product) startWeek(s *Setting) {
	e := p.at(s)
	for k, l := range e.levels {
		m, v := l.demand(7)
		p.week[k] = weekForecast{f32(m), f32(v)}
	}
	p.weekSold, p.weekExposed = 0, 0
}

// endWeek charges every expert with the pinball losses of its .5, .9 and .95
// quantiles, in units of the spread expected by all. A week that was not almost
// wholly exposed judges nobody.
func (p *Product) endWeek() {
	if p.weekExposed < 6*86400 {
		return
	}
	var scale float64
	for _, w := range p.week {
		scale += math.Sqrt(float64(w.variance)) / experts
	}
	sold := float64(p.weekSold)
	for k, w := range p.week {
		d := Demand{float64(w.mean), float64(w.variance)}
		var loss float64
		for _, tau := range [3]float64{.5, .9, .95} {
			q := float64(d.Quantile(tau))
			loss += max(tau*(sold-q), (tau-1)*(sold-q))
		}
		p.losses[k] = f32(lossKept*float64(p.losses[k]) + loss/max(scale, .1))
	}
}
