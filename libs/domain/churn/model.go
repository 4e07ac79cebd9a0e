package churn

import (
	"errors"
	"fmt"
	"math"
)

// MaxK is the largest Erlang order of the gaps.
const MaxK = 3

// farDays bounds every search in time: what lies beyond is never.
const farDays = 200 * 365

// Params are the parameters of MBG/CNBD-k. The unit of time is the day.
type Params struct {
	R     float64 // shape of the gamma distribution of order rates
	Alpha float64 // its rate, in days
	A, B  float64 // beta distribution of the probability to leave after an order
	K     int     // Erlang order of the gaps, 1..MaxK
}

// DefaultParams returns what a shop starts from before it has a history of its
// own: the geometric mean of maximum-likelihood fits with k = 1 to three public
// sets (CDNOW, an online grocery, UCI Online Retail II until May 2011), rounded.
func DefaultParams() Params {
	return Params{R: .87, Alpha: 61.5, A: .35, B: 1.56, K: 1}
}

// Validate reports every parameter outside its range.
func (p Params) Validate() error {
	var errs []error
	for _, v := range []struct {
		name string
		v    float64
	}{{"r", p.R}, {"alpha", p.Alpha}, {"a", p.A}, {"b", p.B}} {
		if !(v.v >= 1e-9 && v.v <= 1e9) { // also catches NaN
			errs = append(errs, fmt.Errorf("churn.%s: %g is not inside [1e-9, 1e9]", v.name, v.v))
		}
	}
	if p.K < 1 || p.K > MaxK {
		errs = append(errs, fmt.Errorf("churn.k: %d is not inside [1, %d]", p.K, MaxK))
	}
	return errors.Join(errs...)
}

// History is what the model needs to know of a customer who has ordered.
type History struct {
	X       int     // repeat orders: transactions after the first
	Recency float64 // t_x: days from the first to the last order
	Age     float64 // T: days from the first order to now, at least Recency
}

// after returns the history as it was right after the last order.
func (h History) after() History { return History{h.X, h.Recency, h.Recency} }

// at returns the history after the given days of silence.
func (h History) at(silence float64) History {
	return History{h.X, h.Recency, h.Recency + max(0, silence)}
}

// shape is the posterior shape of the order rate, r + kx.
func (p Params) shape(h History) float64 { return p.R + float64(p.K*h.X) }

// survival returns S(T) in G(T) = S(T) (alpha+T)^-(r+kx), with
// S(T) = sum over j < k of (r+kx)_j / j! (s/(alpha+T))^j and s the silence:
// the Erlang gap's chance to last longer than s, the rate integrated out.
func (p Params) survival(h History) float64 {
	if p.K == 1 {
		return 1
	}
	n := p.shape(h)
	q := (h.Age - h.Recency) / (p.Alpha + h.Age)
	sum := 1 + n*q
	if p.K == 3 {
		sum += n * (n + 1) / 2 * q * q
	}
	return sum
}

// PAlive returns the probability that the customer has not left, in [0, 1]:
// 1 / (1 + a/(b+x) (alpha+t_x)^-(r+kx) / G(T)).
//
// It is for charts. It is no score: see [Params.Score].
func (p Params) PAlive(h History) float64 {
	grown := math.Exp(p.shape(h) * math.Log((p.Alpha+h.Age)/(p.Alpha+h.Recency)))
	return 1 / (1 + p.A/(p.B+float64(h.X))*grown/p.survival(h))
}

// pSilent returns P(no order within the next days | active): G(T+days)/G(T).
func (p Params) pSilent(h History, days float64) float64 {
	later := h
	later.Age += days
	return min(1, math.Exp(-p.shape(h)*math.Log((p.Alpha+later.Age)/(p.Alpha+h.Age)))*p.survival(later)/p.survival(h))
}

// Score returns C_h(T), the probability of no order within the next horizon
// days, in [0, 1]. It grows with Age for K = 1.
func (p Params) Score(h History, horizon float64) float64 { return 1 - p.returns(h, horizon) }

// returns is the probability of an order within the next days: what is left of 1 by
// the score, exact where that is little.
func (p Params) returns(h History, days float64) float64 {
	return p.PAlive(h) * (1 - p.pSilent(h, days))
}

// Crossing returns the Age at which a customer who stays silent after h.Recency
// reaches Score = theta for good, and false if that is more than 200 years away;
// h.Age is not read. A score that is never below theta crosses at the last order.
func (p Params) Crossing(h History, theta, horizon float64) (float64, bool) {
	score := func(silence float64) float64 { return p.Score(h.at(silence), horizon) }
	low := 0.0
	if p.K > 1 {
		low = p.lowest(h, score)
	}
	if score(low) >= theta {
		return h.Recency, true
	}
	step := (p.Alpha + h.Recency) / p.shape(h) * float64(p.K)
	high := low + step
	for score(high) < theta {
		if high > farDays {
			return math.Inf(1), false
		}
		low, step = high, 2*step
		high += step
	}
	above := func(silence float64) float64 { return score(silence) - theta }
	return h.Recency + root(above, low, above(low), high, above(high), 1e-10*(1+high), 1e-14), true
}

// root closes in on where a function rises through 0, between low where it is below
// and high where it is not, until they are xtol apart or the function at high is at
// most ytol, and returns high: by false position, the side that stays being halved
// (Illinois), which takes a third of the evaluations that bisection needs. Every
// fourth step bisects all the same.
func root(f func(float64) float64, low, below, high, over, xtol, ytol float64) float64 {
	kept := 0
	for i := 1; high-low > xtol && over > ytol; i++ {
		at := low + (high-low)*below/(below-over)
		if i%4 == 0 || !(at > low && at < high) {
			at = low + (high-low)/2
		}
		if at <= low || at >= high {
			break // there is nothing between
		}
		if v := f(at); v >= 0 {
			if high, over = at, v; kept == 1 {
				below /= 2
			}
			kept = 1
		} else {
			if low, below = at, v; kept == -1 {
				over /= 2
			}
			kept = -1
		}
	}
	return high
}

// lowest returns the silence at which the score of regular buyers is smallest,
// on a grid of eighths of the expected gap: exact enough, because only what lies
// to its right is searched and the score is flat there.
func (p Params) lowest(h History, score func(float64) float64) float64 {
	step := (p.Alpha + h.Recency) / p.shape(h) * float64(p.K) / 8
	best, at := score(0), 0.0
	for i := 1; i <= 64; i++ {
		s := float64(i) * step
		v := score(s)
		if v < best {
			best, at = v, s
		} else if i > 16 && v > best+1e-3 {
			break
		}
	}
	return at
}

// NextOrderQuantile returns the number of days from h.Age within which an active
// customer orders next with probability q, 0 <= q < 1. Unconditionally, q divided
// by PAlive is to be given, and there is no such time for a quotient of 1 or more.
func (p Params) NextOrderQuantile(h History, q float64) float64 {
	if !(q > 0) {
		return 0
	}
	if q >= 1 {
		return math.Inf(1)
	}
	if p.K == 1 {
		return (p.Alpha + h.Age) * math.Expm1(-math.Log1p(-q)/p.shape(h))
	}
	ordered := func(days float64) float64 { return 1 - p.pSilent(h, days) - q }
	low, below := 0.0, -q
	high := (p.Alpha + h.Age) / p.shape(h) * float64(p.K) // about the mean gap
	over := ordered(high)
	for over < 0 {
		if high > 1e12 {
			return math.Inf(1)
		}
		low, below, high = high, over, 2*high
		over = ordered(high)
	}
	return root(ordered, low, below, high, over, 1e-12*high, 1e-14)
}

// logit of a probability, kept finite.
func logit(p float64) float64 { return odds(p, 1-p) }

// odds is the logarithm of a probability by what is left of 1, kept finite.
func odds(p, left float64) float64 {
	const least = 1e-12
	return math.Log(max(p, least) / max(left, least))
}
