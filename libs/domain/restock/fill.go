package restock

import (
	"math"

	"gonum.org/v1/gonum/mathext"
	"gonum.org/v1/gonum/stat/distuv"
)

// Short returns E(D - s)+, the units that a stock of s is short of on average: of a
// stock below 0, the backorders besides. It costs an incomplete gamma or beta function
// and, where forecasts are recalibrated, a step for every unit up to the last fortieth of
// the distribution.
func (d Demand) Short(s float64) float64 {
	none := !(s > 0)
	switch {
	case d.warp == nil && none:
		return d.Mean - min(s, 0)
	case d.warp == nil:
		return d.short(s)
	}
	t, ok := d.tail()
	switch {
	case ok && none:
		return t.mean - min(s, 0)
	case ok:
		return t.short(d, s)
	}
	return d.warped(max(s, 0)) - min(s, 0)
}

// short is E(D - s)+ before recalibration, s >= 0. E(D; D > s) is the mean times a
// probability of the size-biased distribution, and that is the distribution's own and a
// term: of counts P(D > k) + p(k)(1 + k/r) with k = floor(s), of a gamma of shape n
// P(D > s) + x^n exp(-x)/n! with x = s n/mean.
func (d Demand) short(s float64) float64 {
	if !(d.Mean > nothing) {
		return 0
	}
	if d.Mean > bulk {
		n := d.shape()
		x := s * n / d.Mean
		if !(x > 0) {
			return d.Mean
		}
		factorial, _ := math.Lgamma(n + 1)
		return max(0, (d.Mean-s)*gammaExceeds(n, x)+d.Mean*math.Exp(n*math.Log(x)-x-factorial))
	}
	k := math.Floor(s)
	over := Demand{Mean: d.Mean, Variance: d.Variance}.Exceeds(k)
	logP0, r, fail := d.count0()
	factorial, _ := math.Lgamma(k + 1)
	if r == 0 {
		return max(0, d.Mean*(over+math.Exp(logP0+k*math.Log(d.Mean)-factorial))-s*over)
	}
	above, _ := math.Lgamma(k + r)
	below, _ := math.Lgamma(r)
	return max(0, d.Mean*(over+math.Exp(logP0+k*math.Log(fail)+above-below-factorial)*(1+k/r))-s*over)
}

// gammaExceeds is P(X > x) of a gamma of a shape, x in units of its scale.
func gammaExceeds(shape, x float64) float64 {
	if shape < smooth {
		return mathext.GammaIncRegComp(shape, x)
	}
	return 1 - distuv.UnitNormal.CDF((math.Cbrt(x/shape)-1+1/(9*shape))*3*math.Sqrt(shape))
}

// tail is where the last bin of a recalibration begins: from there on the recalibrated
// probability of more is a multiple of the forecast's.
type tail struct {
	start int64   // the smallest k with raw(k) >= 1 - 1/bins; 0 where nothing is recalibrated
	slope float64 // the multiple
	mean  float64 // after recalibration
	count counter // at 0
}

// counter steps through the probabilities of counts.
type counter struct{ k, pmf, cdf, p, fail float64 }

func (c *counter) next() {
	c.k++
	c.pmf *= c.p / c.k
	c.p += c.fail
	c.cdf = min(c.cdf+c.pmf, 1)
}

// tail of counts that can be stepped through; false for the rest.
func (d Demand) tail() (t tail, ok bool) {
	if d.Mean > bulk || !(d.Mean > nothing) {
		return t, false
	}
	logP0, r, fail := d.count0()
	if logP0 < -700 {
		return t, false
	}
	p := r * fail
	if r == 0 {
		p, fail = d.Mean, 0
	}
	pmf := math.Exp(logP0)
	t.count = counter{0, pmf, pmf, p, fail}
	if d.warp == nil {
		t.slope, t.mean = 1, d.Mean
		return t, true
	}
	t.slope = (1 - d.warp[bins-1]) * bins
	c := t.count
	for ; c.cdf < 1-1./bins; c.next() {
		if c.k >= 4096 {
			return t, false
		}
		t.mean += 1 - d.warp.share(c.cdf)
	}
	t.start = int64(c.k)
	t.mean += t.slope * d.short(c.k)
	return t, true
}

// short is E(D - s)+ = sum over k >= s of P(D > k), for s between two units on the line
// between them.
func (t *tail) short(d Demand, s float64) float64 {
	floor := math.Floor(s)
	if floor >= float64(t.start) {
		return t.slope * d.short(s)
	}
	sum := t.slope * d.short(float64(t.start))
	for c := t.count; int64(c.k) < t.start; c.next() {
		if c.k >= floor {
			over := 1 - d.warp.share(c.cdf)
			if c.k == floor {
				over *= 1 - (s - floor)
			}
			sum += over
		}
	}
	return sum
}

// warped is E(D - s)+ of a recalibrated distribution by its bins: with k the forecast's
// quantile at u, the part above u is E(D - k)+ + (k - s)(1 - u).
func (d Demand) warped(s float64) float64 {
	plain := Demand{Mean: d.Mean, Variance: d.Variance}
	first := min(int(plain.raw(s)*bins), bins-1)
	if s <= 0 {
		first = 0
	}
	slope := (d.warp[first+1] - d.warp[first]) * bins
	sum := slope * plain.Short(s)
	for i := first + 1; i < bins; i++ {
		u := float64(i) / bins
		k := max(float64(plain.Quantile(u)), s)
		next := (d.warp[i+1] - d.warp[i]) * bins
		sum += (next - slope) * (plain.short(k) + (k-s)*(1-u))
		slope = next
	}
	return max(0, sum)
}

// FillPoint returns the smallest stock s for which E(D - s)+ is not above (1 - beta)
// times the units that an order brings (below 1: 1): what a fill rate beta asks for, the
// share of units that is to be served from stock. Beta is inside (0, 1).
func (d Demand) FillPoint(beta, order float64) int64 {
	var out [1]int64
	d.FillPoints([]float64{beta}, order, out[:])
	return out[0]
}

// FillPoints puts into out the fill points of betas, which rise, for little more than the
// last of them costs alone.
func (d Demand) FillPoints(betas []float64, order float64, out []int64) {
	if len(betas) == 0 {
		return
	}
	order = max(order, 1)
	i, from := 0, int64(-1)
	if t, ok := d.tail(); ok {
		i, from = d.scan(betas, order, out, &t)
	}
	for ; i < len(betas); i++ {
		allowed := (1 - betas[i]) * order
		low, high := from, min(max(1, units(d.Mean), 2*from), maxUnits)
		for d.Short(float64(high)) > allowed && high < maxUnits {
			low, high = high, min(2*high, maxUnits)
		}
		for high-low > 1 {
			mid := low + (high-low)/2
			if d.Short(float64(mid)) <= allowed {
				high = mid
			} else {
				low = mid
			}
		}
		out[i] = high
	}
}

// patience is how many units beyond the mean and the start of the tail are stepped
// through.
const patience = 1024

// scan finds fill points by E(D - s - 1)+ = E(D - s)+ - P(D > s), and returns how many
// it found and a stock that is too small for the rest.
func (d Demand) scan(betas []float64, order float64, out []int64, t *tail) (found int, below int64) {
	short := t.mean
	c := t.count
	for last := t.mean + float64(t.start+patience); c.k < last; c.next() {
		for short <= (1-betas[found])*order {
			out[found] = int64(c.k)
			if found++; found == len(betas) {
				return found, 0
			}
		}
		short = max(0, short-(1-d.warp.share(c.cdf)))
	}
	return found, int64(c.k) - 1
}
