package restock

import "math"

// Offer is how a product is offered: its price, and how much of it is promoted. The
// zero Offer is not known, and changes nothing.
type Offer struct {
	Price         float64 // of a unit, in any currency that stays
	Deal, Feature float64 // shares in [0, 1]: a deal at the shelf, a place in the leaflet
}

// terms of the regression: logarithm of price over reference, deal, feature.
const terms = 3

// Constants of the effects.
const (
	effectKept   = .9995 // discount of the evidence an observation
	effectNoise  = .5    // variance of an observation's logarithm
	effectSpread = 1.    // variance of a coefficient before any observation
	effectLimit  = 3.    // of a logarithm, both ways
	refDrift     = .03   // a day, of the reference towards the price
)

// effectPrior is the elasticity, and what deal and feature are believed to add.
func effectPrior() [terms]float64 { return [terms]float64{-1, .2, .2} }

// effects are what price and promotion do to demand, learnt by recursive least
// squares with forgetting (Ljung, System Identification, 1999, 11.2). The zero value
// is not ready: see newEffects.
type effects struct {
	beta [terms]float64
	cov  [terms][terms]float64
}

func newEffects() effects {
	e := effects{beta: effectPrior()}
	for i := range e.cov {
		e.cov[i][i] = effectSpread
	}
	return e
}

// learn takes one observation: log demand over what was expected of it, with the
// expectation's noise.
func (e *effects) learn(x [terms]float64, y, noise float64) {
	var px [terms]float64
	var spread, fit float64
	for i := range px {
		for j := range x {
			px[i] += e.cov[i][j] * x[j]
		}
		fit += e.beta[i] * x[i]
	}
	for i := range px {
		spread += x[i] * px[i]
	}
	gain := 1 / (noise + max(spread, 0))
	miss := min(max(y, -2*effectLimit), 2*effectLimit) - fit
	var trace float64
	for i := range px {
		e.beta[i] += px[i] * gain * miss
		for j := range px {
			e.cov[i][j] -= px[i] * px[j] * gain
		}
		trace += e.cov[i][i]
	}
	if trace >= terms*effectSpread { // forgetting must not outgrow the prior
		return
	}
	for i := range e.cov {
		for j := range e.cov[i] {
			e.cov[i][j] /= effectKept
		}
	}
}

// factor is what an offer multiplies demand by, for the given coefficients.
func factor(beta, x [terms]float64) float64 {
	var sum float64
	for i := range x {
		sum += beta[i] * x[i]
	}
	return math.Exp(min(max(sum, -effectLimit), effectLimit))
}

// features of an offer against a reference price.
func features(o Offer, ref float64) (x [terms]float64) {
	if o.Price > 0 && ref != 0 {
		x[0] = min(max(math.Log(o.Price)-ref, -effectLimit), effectLimit)
	}
	x[1], x[2] = min(max(o.Deal, 0), 1), min(max(o.Feature, 0), 1)
	return x
}

// Offer says how the product is offered from an instant on.
func (p *Product) Offer(at int64, o Offer, s *Setting) {
	p.roll(at, s)
	if !(o.Price > 0 && o.Price < 1e12) {
		o.Price = 0
	}
	p.offerPrice = 0
	if o.Price > 0 {
		l := math.Log(o.Price)
		p.offerPrice = float32(l)
		if p.ref == 0 {
			p.ref = float32(l)
		}
	}
	p.deal, p.feature = share8(o.Deal), share8(o.Feature)
}

// Group says which products' prices act alike: a number below 2^16 of the
// category. 0 is a group, too.
func (p *Product) Group(g uint16) { p.group = g }

func share8(v float64) uint8 {
	if !(v > 0) {
		return 0
	}
	return uint8(min(v, 1)*255 + .5)
}

// offered is what the standing offer's features are; false: nothing is known of it.
func (p *Product) offered() (x [terms]float64, known bool) {
	x[1], x[2] = float64(p.deal)/255, float64(p.feature)/255
	if p.offerPrice != 0 && p.ref != 0 {
		x[0] = min(max(float64(p.offerPrice)-float64(p.ref), -effectLimit), effectLimit)
	}
	return x, p.offerPrice != 0 || p.deal > 0 || p.feature > 0
}

// effect of an offer's features on the product's demand.
func (s *Setting) effect(group uint16, x [terms]float64) float64 {
	if x == ([terms]float64{}) {
		return 1
	}
	if s.Layer != nil {
		if beta, ok := s.Layer.effects[group]; ok {
			return factor(beta, x)
		}
	}
	return factor(effectPrior(), x)
}
