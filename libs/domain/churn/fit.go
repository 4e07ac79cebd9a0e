package churn

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mathext"
	"gonum.org/v1/gonum/optimize"
)

// ErrFit is wrapped by every error of [Fit] and [FitValue].
var ErrFit = errors.New("no fit")

// Cell is a number of customers with one history.
type Cell struct {
	History
	N float64 // customers
}

// Bin is the key of a [Histogram]: repeat orders, and the weeks of the first and
// last order, counted from any common origin.
type Bin struct{ X, First, Last int32 }

// Histogram counts customers by (repeat orders, first week, last week). It never
// ages: an order moves one customer from one bin to another. Weeks instead of
// days move the parameters of CDNOW by less than 1 %.
type Histogram map[Bin]int64

// Cells returns the histogram's cells in a fixed order, as of the given day,
// counted like the weeks. Days are the middles of the weeks; two days of one
// week lie 8/3 days apart in the mean.
func (g Histogram) Cells(now float64) []Cell {
	bins := make([]Bin, 0, len(g))
	for b, n := range g {
		if n > 0 {
			bins = append(bins, b)
		}
	}
	slices.SortFunc(bins, func(a, b Bin) int {
		return cmp.Or(cmp.Compare(a.X, b.X), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	cells := make([]Cell, 0, len(bins))
	for _, b := range bins {
		recency := 7 * float64(b.Last-b.First)
		if b.X > 0 && recency <= 0 {
			recency = 8. / 3
		}
		if b.X == 0 {
			recency = 0
		}
		age := max(recency, now-(7*float64(b.First)+3))
		cells = append(cells, Cell{History{int(b.X), recency, age}, float64(g[b])})
	}
	return cells
}

// FitConfig says how to fit.
type FitConfig struct {
	// Center is what the prior pulls toward, and one of the starts. Its K is not read.
	Center Params
	// Pull is the weight of the squared distance of the log parameters from Center
	// against the mean log-likelihood of a customer, at least 0. Without it a short
	// history can say that nobody ever leaves.
	Pull float64
	// MaxK is the largest Erlang order tried, 1..MaxK.
	MaxK int
	// Warm is an earlier fit of the same shop, from where to start; the zero value:
	// none, which costs about three times as much.
	Warm Params
}

// DefaultFitConfig returns a pull of 1e-3 toward [DefaultParams], orders up to 3.
func DefaultFitConfig() FitConfig {
	return FitConfig{Center: DefaultParams(), Pull: 1e-3, MaxK: MaxK}
}

// Validate reports every setting outside its range.
func (c FitConfig) Validate() error {
	center := c.Center
	center.K = 1
	errs := []error{center.Validate()}
	if !(c.Pull >= 0 && c.Pull <= 1) {
		errs = append(errs, fmt.Errorf("churn.pull: %g is not inside [0, 1]", c.Pull))
	}
	if c.Warm.K != 0 {
		errs = append(errs, c.Warm.Validate())
	}
	if c.MaxK < 1 || c.MaxK > MaxK {
		errs = append(errs, fmt.Errorf("churn.max-k: %d is not inside [1, %d]", c.MaxK, MaxK))
	}
	return errors.Join(errs...)
}

// LogLikelihood returns the log-likelihood of the cells: for a customer
//
//	log G(r+kx) - log G(r) + r log alpha + log B(a,b+x)/B(a,b) - log(a+b+x)
//	+ log((b+x) G(T) + a (alpha+t_x)^-(r+kx))
//
// and, over all customers, (k-1) sumLogGap - log Gamma(k) sum x, where sumLogGap
// is the sum of the logarithms of all gaps in days. It is needed to compare
// orders k and may be 0 otherwise.
func (p Params) LogLikelihood(cells []Cell, sumLogGap float64) float64 {
	var sum, orders float64
	lgR, lgB, lgAB, logAlpha := lgamma(p.R), lgamma(p.B), lgamma(p.A+p.B), math.Log(p.Alpha)
	known, term := -1, 0.0 // cells of equal X follow each other
	for _, c := range cells {
		x := float64(c.X)
		n := p.shape(c.History)
		if c.X != known {
			known = c.X
			// log B(a,b+x)/B(a,b) = log G(b+x) G(a+b) / G(b) G(a+b+x), and
			// log G(a+b+x) + log(a+b+x) = log G(a+b+x+1).
			term = lgamma(n) - lgR + p.R*logAlpha + lgamma(p.B+x) - lgB + lgAB - lgamma(p.A+p.B+x+1)
		}
		active := math.Log(p.B+x) - n*math.Log(p.Alpha+c.Age) + math.Log(p.survival(c.History))
		left := math.Log(p.A) - n*math.Log(p.Alpha+c.Recency)
		if active < left {
			active, left = left, active
		}
		sum += c.N * (term + active + math.Log1p(math.Exp(left-active)))
		orders += c.N * x
	}
	return sum + float64(p.K-1)*sumLogGap - orders*lgamma(float64(p.K))
}

// Fit returns the parameters of greatest likelihood less the prior's pull, and
// their log-likelihood, over the Erlang orders up to c.MaxK. Orders above 1 are
// tried only if sumLogGap is given (not 0). Equal input gives equal output.
func Fit(cells []Cell, sumLogGap float64, c FitConfig) (Params, float64, error) {
	if err := c.Validate(); err != nil {
		return Params{}, 0, fmt.Errorf("%w: %w", ErrFit, err)
	}
	cells = merge(cells)
	var n float64
	for _, x := range cells {
		if x.X < 0 || !(x.N >= 0) || math.IsInf(x.N, 1) || !(x.Recency >= 0 && x.Age >= x.Recency) || math.IsInf(x.Age, 1) {
			return Params{}, 0, fmt.Errorf("%w: cell %+v", ErrFit, x)
		}
		n += x.N
	}
	if n == 0 {
		return Params{}, 0, fmt.Errorf("%w: no customers", ErrFit)
	}
	orders := c.MaxK
	if sumLogGap == 0 || math.IsNaN(sumLogGap) || math.IsInf(sumLogGap, 0) {
		orders, sumLogGap = 1, 0
	}
	center := [4]float64{math.Log(c.Center.R), math.Log(c.Center.Alpha), math.Log(c.Center.A), math.Log(c.Center.B)}
	var best Params
	bestLoss := math.Inf(1)
	for k := 1; k <= orders; k++ {
		f := &fitLoss{cells: cells, n: n, k: k, pull: c.Pull, center: center, sumLogGap: sumLogGap}
		// Regular buyers have k times the rate of events between orders.
		alpha := center[1] - math.Log(float64(k))
		starts := [][]float64{{center[0], alpha, center[2], center[3]}, {0, alpha, -1, 1}}
		if w := c.Warm; w.K > 0 {
			starts = [][]float64{{math.Log(w.R), math.Log(w.Alpha) + math.Log(float64(w.K)/float64(k)), math.Log(w.A), math.Log(w.B)}}
		}
		v, l, err := descend(f.loss, f.gradient, starts...)
		if err != nil {
			return Params{}, 0, fmt.Errorf("%w: order %d: %w", ErrFit, k, err)
		}
		if l < bestLoss {
			best, bestLoss = fromLog(v, k), l
		}
	}
	if err := best.Validate(); err != nil {
		return Params{}, 0, fmt.Errorf("%w: %w", ErrFit, err)
	}
	return best, best.LogLikelihood(cells, sumLogGap), nil
}

// fromLog returns the parameters whose logarithms are v.
func fromLog(v []float64, k int) Params {
	return Params{math.Exp(v[0]), math.Exp(v[1]), math.Exp(v[2]), math.Exp(v[3]), k}
}

// edge is where log parameters are stopped: exp(16) is 8.9e6, inside Validate's
// range. A steep square keeps the loss smooth there, as descent needs it.
const edge = 16

// fitLoss is the mean negative log-likelihood of a customer and the prior, as a
// function of the log parameters.
type fitLoss struct {
	cells     []Cell // of equal X together
	n         float64
	k         int
	pull      float64
	center    [4]float64
	sumLogGap float64
}

func (f *fitLoss) loss(v []float64) float64 {
	var sum float64
	for i, u := range v {
		if !(math.Abs(u) < 18) {
			return math.Inf(1)
		}
		sum += f.pull * (u - f.center[i]) * (u - f.center[i])
		over := max(0, math.Abs(u)-edge)
		sum += over * over
	}
	return sum - fromLog(v, f.k).LogLikelihood(f.cells, f.sumLogGap)/f.n
}

// gradient writes the derivatives by the log parameters into g.
func (f *fitLoss) gradient(g, v []float64) {
	p := fromLog(v, f.k)
	var d [4]float64
	psiR, psiB, psiAB, logAlpha := mathext.Digamma(p.R), mathext.Digamma(p.B), mathext.Digamma(p.A+p.B), math.Log(p.Alpha)
	known := -1
	var byR, byA, byB float64
	for _, c := range f.cells {
		x, n := float64(c.X), p.shape(c.History)
		if c.X != known {
			known = c.X
			psiABX := mathext.Digamma(p.A + p.B + x + 1)
			byR = mathext.Digamma(n) - psiR + logAlpha
			byA = psiAB - psiABX
			byB = mathext.Digamma(p.B+x) - psiB + psiAB - psiABX
		}
		// The survival sum S, and its logarithm's derivatives by n and alpha.
		s, byN, byAlpha := 1.0, 0.0, 0.0
		if p.K > 1 {
			q := (c.Age - c.Recency) / (p.Alpha + c.Age)
			byQ := n
			s, byN = 1+n*q, q
			if p.K == 3 {
				s += n * (n + 1) / 2 * q * q
				byN += (2*n + 1) / 2 * q * q
				byQ += n * (n + 1) * q
			}
			byN, byAlpha = byN/s, -byQ*q/(p.Alpha+c.Age)/s
		}
		logAge, logRecency := math.Log(p.Alpha+c.Age), math.Log(p.Alpha+c.Recency)
		w := 1 / (1 + math.Exp(math.Log(p.A)-n*logRecency-(math.Log(p.B+x)-n*logAge+math.Log(s)))) // of being active
		d[0] += c.N * (byR + w*(byN-logAge) - (1-w)*logRecency)
		d[1] += c.N * (p.R/p.Alpha + w*(byAlpha-n/(p.Alpha+c.Age)) - (1-w)*n/(p.Alpha+c.Recency))
		d[2] += c.N * (byA + (1-w)/p.A)
		d[3] += c.N * (byB + w/(p.B+x))
	}
	for i, by := range [4]float64{p.R, p.Alpha, p.A, p.B} {
		over := max(0, math.Abs(v[i])-edge)
		g[i] = 2*f.pull*(v[i]-f.center[i]) + 2*over*math.Copysign(1, v[i]) - by*d[i]/f.n
	}
}

// descend minimises a smooth function from every start, and where its gradient
// leads nowhere, by simplex.
func descend(f func([]float64) float64, gradient func(g, v []float64), starts ...[]float64) ([]float64, float64, error) {
	var best []float64
	bestF := math.Inf(1)
	for _, start := range starts {
		// What ends a descent early, as a line search without progress at the
		// minimum, leaves the best point it has seen.
		r, _ := optimize.Minimize(optimize.Problem{Func: f, Grad: gradient}, start, &optimize.Settings{FuncEvaluations: 300, GradientThreshold: 1e-7}, &optimize.BFGS{})
		if r != nil && r.F < bestF {
			best, bestF = r.X, r.F
		}
	}
	if best != nil {
		g := make([]float64, len(best))
		gradient(g, best)
		if floats.Norm(g, math.Inf(1)) < 1e-4 {
			return best, bestF, nil
		}
		starts = [][]float64{best}
	}
	return minimize(f, starts...)
}

// minimize runs Nelder-Mead from every start and again from where it ended,
// because a simplex may collapse early, until that gains nothing.
func minimize(f func([]float64) float64, starts ...[]float64) ([]float64, float64, error) {
	var best []float64
	bestF := math.Inf(1)
	for _, x := range starts {
		last := math.Inf(1)
		for range 8 {
			// The default converger stops at 1e-10 over 100 iterations.
			r, err := optimize.Minimize(optimize.Problem{Func: f}, x, &optimize.Settings{FuncEvaluations: 4000}, &optimize.NelderMead{})
			if r == nil {
				return nil, 0, fmt.Errorf("minimise from %v: %w", x, err)
			}
			x = r.X
			done := last-r.F < 1e-10
			last = r.F
			if done {
				break
			}
		}
		if last < bestF {
			best, bestF = x, last
		}
	}
	if best == nil {
		return nil, 0, errors.New("nothing finite near any start")
	}
	return best, bestF, nil
}

func lgamma(x float64) float64 {
	v, _ := math.Lgamma(x)
	return v
}
