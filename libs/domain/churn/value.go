package churn

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mathext"
)

// Value is the gamma-gamma model of spend per order. Gamma is in the unit of the
// spends it was fitted to.
type Value struct{ P, Q, Gamma float64 }

// DefaultValue returns P and Q of the CDNOW sample with a Gamma that makes the
// mean order 50 units of the shop's currency. It stands in until a shop is fitted.
func DefaultValue() Value { return Value{6.25, 3.74, 50 * 2.74 / 6.25} }

// Validate reports every parameter outside its range. Q must exceed 1, or the
// mean order is infinite.
func (v Value) Validate() error {
	var errs []error
	if !(v.P > 0 && v.P <= 1e9) {
		errs = append(errs, fmt.Errorf("churn.value.p: %g is not inside (0, 1e9]", v.P))
	}
	if !(v.Q > 1 && v.Q <= 1e9) {
		errs = append(errs, fmt.Errorf("churn.value.q: %g is not inside (1, 1e9]", v.Q))
	}
	if !(v.Gamma > 0 && v.Gamma <= 1e15) {
		errs = append(errs, fmt.Errorf("churn.value.gamma: %g is not inside (0, 1e15]", v.Gamma))
	}
	return errors.Join(errs...)
}

// Mean returns the expected spend per order of a customer whose x repeat orders
// had the given mean: p (gamma + x mean) / (p x + q - 1).
func (v Value) Mean(x int, mean float64) float64 {
	n := float64(x)
	return v.P * (v.Gamma + n*max(0, mean)) / (v.P*n + v.Q - 1)
}

// level is the multiplier of expected spend.
func (s *Setting) level() float64 {
	if s.ValueLevel > 0 {
		return s.ValueLevel
	}
	return 1
}

// Spend is a number of customers of X repeat orders with one mean spend.
type Spend struct {
	X       int
	Mean, N float64
}

// FitValue returns the gamma-gamma parameters of greatest likelihood, of the
// customers with repeat orders of positive mean. The others are passed over.
func FitValue(spends []Spend) (Value, error) {
	var n, total float64
	for _, s := range spends {
		if s.X > 0 && s.Mean > 0 {
			n += s.N
			total += s.N * s.Mean
		}
	}
	if !(n > 0) || math.IsInf(total, 0) || math.IsNaN(total) {
		return Value{}, fmt.Errorf("%w: no customer with a repeat order", ErrFit)
	}
	level := total / n // spends are scaled to mean 1, so that one start fits any currency
	loss := func(u []float64) float64 {
		for _, x := range u {
			if !(math.Abs(x) < 12) {
				return math.Inf(1)
			}
		}
		p, q, g := math.Exp(u[0]), 1+math.Exp(u[1]), math.Exp(u[2])
		var sum float64
		for _, s := range spends {
			if s.X <= 0 || !(s.Mean > 0) {
				continue
			}
			x, m := float64(s.X), s.Mean/level
			px := p * x
			sum += s.N * (lgamma(px+q) - lgamma(px) - lgamma(q) + q*math.Log(g) + (px-1)*math.Log(m) + px*math.Log(x) - (px+q)*math.Log(g+m*x))
		}
		return -sum / n
	}
	u, _, err := minimize(loss, []float64{math.Log(6), math.Log(2.7), math.Log(.45)}, []float64{0, 0, 0})
	if err != nil {
		return Value{}, fmt.Errorf("%w: %w", ErrFit, err)
	}
	return Value{math.Exp(u[0]), 1 + math.Exp(u[1]), level * math.Exp(u[2])}, nil
}

// ExpectedOrders returns the orders expected within the coming days of a
// customer who is active now: E[(1 - exp(-rate p days / k)) / p] over the
// posterior gamma of the rate and beta(a, b+x+1) of the probability p to leave.
// For k > 1 the renewal process is taken at its mean rate.
func (p Params) ExpectedOrders(h History, days float64) float64 {
	return NewOrders(p).Expected(h, days)
}

// orderPoints is the order of the quadrature over the probability to leave: the
// integrand is smooth and bounded in it, so midpoints of equal probability do.
const orderPoints = 64

// Orders computes [Params.ExpectedOrders] for many customers. It remembers the
// points of the quadrature, which depend on the number of orders only
// and cost more than everything else.
type Orders struct {
	p     Params
	leave map[int]*[orderPoints]float64
}

// NewOrders returns one for some parameters. It is not safe for concurrent use.
func NewOrders(p Params) *Orders {
	return &Orders{p, map[int]*[orderPoints]float64{}}
}

// Expected is [Params.ExpectedOrders].
func (o *Orders) Expected(h History, days float64) float64 {
	points := o.leave[h.X]
	if points == nil {
		points = new([orderPoints]float64)
		for i := range points {
			points[i] = mathext.InvRegIncBeta(o.p.A, o.p.B+float64(h.X)+1, (float64(i)+.5)/orderPoints)
		}
		o.leave[h.X] = points
	}
	n, rate := o.p.shape(h), float64(o.p.K)*(o.p.Alpha+h.Age)
	var sum float64
	for _, leave := range points {
		if !(leave > 1e-9) { // the limit for a customer who never leaves
			sum += n * days / rate
			continue
		}
		sum += -math.Expm1(-n*math.Log1p(leave*days/rate)) / leave
	}
	return sum / orderPoints
}
