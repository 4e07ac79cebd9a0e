package churn

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/integrate/quad"
	"gonum.org/v1/gonum/optimize"
)

// Pareto is Pareto/NBD (Schmittlein, Morrison and Colombo, 1987): while active, a
// customer orders with exponential gaps at a rate drawn from gamma(R, Alpha), and
// leaves at an exponential time whose rate is drawn from gamma(S, Beta). Days.
//
// Nothing decides by it. It is the standard that an evaluation puts beside the
// model in use, computed over the same cells.
type Pareto struct{ R, Alpha, S, Beta float64 }

// paretoPoints is the order of the quadrature. The integrand is smooth in the
// variable chosen below.
const paretoPoints = 24

// paretoPower is the root taken in the change of variable.
const paretoPower = 3

// paretoRule holds the Gauss-Legendre rule on [0, 1].
type paretoRule struct{ at, weight [paretoPoints]float64 }

func newParetoRule() *paretoRule {
	var r paretoRule
	quad.Legendre{}.FixedLocations(r.at[:], r.weight[:], 0, 1)
	return &r
}

// logBracket is the logarithm of
//
//	int_{t_x}^{T} s (alpha+t)^-(r+x) (beta+t)^-(s+1) dt + (alpha+T)^-(r+x) (beta+T)^-s,
//
// the chance of no order from t_x to T up to what does not depend on T: the
// customer left at some t, or is still active. The published form has 2F1 in
// place of the integral (Fader and Hardie, 2005), which fails for many orders;
// here t is replaced by z = ((alpha+t_x)/(alpha+t))^((r+x+s)/3): the third root spreads
// the mass, and makes the end at infinity smooth.
func (p Pareto) logBracket(h History, rule *paretoRule) float64 {
	n := p.R + float64(h.X)
	a0, b0 := p.Alpha+h.Recency, p.Beta+h.Recency
	silence := h.Age - h.Recency
	// Everything relative to (alpha+t_x)^-n (beta+t_x)^-s.
	grown := math.Log1p(silence / a0)
	active := math.Exp(-n*grown - p.S*math.Log1p(silence/b0))
	if silence <= 0 {
		return -n*math.Log(a0) - p.S*math.Log(b0)
	}
	c := (n + p.S) / paretoPower
	from := math.Exp(-c * grown) // z at T
	var left float64
	for i, w := range rule.at {
		z := from + (1-from)*w
		u := -math.Log(z) / c // log((alpha+t)/(alpha+t_x))
		since := a0 * math.Expm1(u)
		// dt = a0 e^u du, and du = dz e^(cu) / c.
		left += rule.weight[i] * math.Exp((c-n+1)*u-(p.S+1)*math.Log1p(since/b0))
	}
	left *= (1 - from) * p.S * a0 / (c * b0)
	return -n*math.Log(a0) - p.S*math.Log(b0) + math.Log(active+left)
}

// LogLikelihood returns the log-likelihood of the cells.
func (p Pareto) LogLikelihood(cells []Cell) float64 { return p.logLikelihood(cells, newParetoRule()) }

func (p Pareto) logLikelihood(cells []Cell, rule *paretoRule) float64 {
	lgR, constant := lgamma(p.R), p.R*math.Log(p.Alpha)+p.S*math.Log(p.Beta)
	known, term := -1, 0.0
	var sum float64
	for _, c := range cells {
		if c.X != known {
			known, term = c.X, lgamma(p.R+float64(c.X))-lgR+constant
		}
		sum += c.N * (term + p.logBracket(c.History, rule))
	}
	return sum
}

// Scorer returns the score of the model: the probability of no order within the
// horizon's days after h.Age. The function is not safe for concurrent use.
func (p Pareto) Scorer(horizon float64) func(History) float64 {
	rule := newParetoRule()
	return func(h History) float64 {
		later := h
		later.Age += horizon
		return min(1, math.Exp(p.logBracket(later, rule)-p.logBracket(h, rule)))
	}
}

// FitPareto returns the parameters of greatest likelihood with a pull of 1e-6 on
// their logarithms, which is nothing where a history says anything and keeps them
// finite where it does not.
func FitPareto(cells []Cell) (Pareto, float64, error) {
	cells = merge(cells)
	var n float64
	for _, c := range cells {
		n += c.N
	}
	if !(n > 0) {
		return Pareto{}, 0, fmt.Errorf("%w: no customers", ErrFit)
	}
	rule := newParetoRule()
	of := func(v []float64) Pareto {
		return Pareto{math.Exp(v[0]), math.Exp(v[1]), math.Exp(v[2]), math.Exp(v[3])}
	}
	loss := func(cells []Cell, n float64) func(v []float64) float64 {
		return func(v []float64) float64 {
			var pull float64
			for _, u := range v {
				if !(math.Abs(u) < 14) {
					return math.Inf(1)
				}
				pull += 1e-6 * u * u
			}
			return pull - of(v).logLikelihood(cells, rule)/n
		}
	}
	// Where to start is found on some of the cells: a likelihood costs by cells.
	some, m := cells, n
	if step := len(cells) / 500; step > 1 {
		some, m = nil, 0
		for i := 0; i < len(cells); i += step {
			some = append(some, cells[i])
			m += cells[i].N
		}
	}
	best, bestF := []float64(nil), math.Inf(1)
	for _, start := range [][]float64{{-.4, 4, -.5, 4.4}, {.5, 3.5, -2, 5}} {
		r, err := optimize.Minimize(optimize.Problem{Func: loss(some, m)}, start, &optimize.Settings{FuncEvaluations: 500}, &optimize.NelderMead{})
		if r == nil {
			return Pareto{}, 0, fmt.Errorf("%w: %w", ErrFit, err)
		}
		if r.F < bestF {
			best, bestF = r.X, r.F
		}
	}
	if best == nil {
		return Pareto{}, 0, fmt.Errorf("%w: nothing finite near any start", ErrFit)
	}
	r, err := optimize.Minimize(optimize.Problem{Func: loss(cells, n)}, best, &optimize.Settings{FuncEvaluations: 400}, &optimize.NelderMead{SimplexSize: .1})
	if r == nil {
		return Pareto{}, 0, fmt.Errorf("%w: %w", ErrFit, err)
	}
	best = r.X
	p := of(best)
	return p, p.logLikelihood(cells, rule), nil
}

// merge adds up cells of one history and sorts them by it.
func merge(cells []Cell) []Cell {
	cells = slices.Clone(cells)
	slices.SortFunc(cells, func(a, b Cell) int {
		return cmp.Or(cmp.Compare(a.X, b.X), cmp.Compare(a.Recency, b.Recency), cmp.Compare(a.Age, b.Age))
	})
	out := cells[:0]
	for _, c := range cells {
		if n := len(out); n > 0 && out[n-1].History == c.History {
			out[n-1].N += c.N
			continue
		}
		out = append(out, c)
	}
	return out
}
