package restock

import (
	"math"

	"gonum.org/v1/gonum/mathext"
	"gonum.org/v1/gonum/stat/distuv"
)

// bulk is the mean above which counts are taken as continuous (gamma).
const bulk = 400

// smooth is the shape of a gamma from which on Wilson and Hilferty's cube root has
// its upper quantiles to a few hundredths; below, the incomplete gamma function is asked.
const smooth = .3

// Demand is a predictive distribution of units: negative binomial with r =
// mean²/(variance-mean), or Poisson where the variance is not larger; above a mean
// of 400 gamma, in the form of Wilson and Hilferty (1931) where that is good.
type Demand struct {
	Mean, Variance float64 // at least 0

	warp *warp // what is known of such forecasts; nil: they stand as they are
}

// nothing is a mean below which demand is none: P(D > 0) is less than it, and the
// distributions' formulas lose their footing.
const nothing = 1e-12

// CDF returns P(D <= k).
func (d Demand) CDF(k float64) float64 {
	if d.warp != nil {
		return d.warp.share(d.raw(k))
	}
	return d.raw(k)
}

// raw is the CDF before recalibration.
func (d Demand) raw(k float64) float64 {
	k = math.Floor(k)
	switch {
	case k < 0:
		return 0
	case !(d.Mean > nothing):
		return 1
	case d.Mean > bulk:
		n := d.shape()
		if n < smooth {
			return mathext.GammaIncReg(n, (k+.5)*n/d.Mean)
		}
		return distuv.UnitNormal.CDF((math.Cbrt((k+.5)/d.Mean) - 1 + 1/(9*n)) * 3 * math.Sqrt(n))
	case d.poisson():
		return mathext.GammaIncRegComp(k+1, d.Mean)
	}
	r := d.Mean * d.Mean / (d.Variance - d.Mean)
	return mathext.RegIncBeta(r, k+1, r/(r+d.Mean))
}

// Exceeds returns P(D > k).
func (d Demand) Exceeds(k float64) float64 {
	k = math.Floor(k)
	switch {
	case d.warp != nil:
		return 1 - d.CDF(k)
	case k < 0:
		return 1
	case !(d.Mean > nothing):
		return 0
	case d.Mean > bulk:
		return 1 - d.raw(k)
	case d.poisson():
		return mathext.GammaIncReg(k+1, d.Mean)
	}
	r := d.Mean * d.Mean / (d.Variance - d.Mean)
	return mathext.RegIncBeta(k+1, r, d.Mean/(r+d.Mean))
}

// Quantile returns the smallest number of units k with CDF(k) >= tau, 0 < tau < 1.
func (d Demand) Quantile(tau float64) int64 {
	if !(d.Mean > 0) || !(tau > 0) {
		return 0
	}
	tau = d.warp.level(min(tau, 1-1e-9))
	if d.Mean > bulk {
		n := d.shape()
		if n < smooth {
			return units(math.Ceil(mathext.GammaIncRegInv(n, tau)*d.Mean/n - .5))
		}
		x := 1 - 1/(9*n) + distuv.UnitNormal.Quantile(tau)/(3*math.Sqrt(n))
		return units(math.Ceil(d.Mean*max(0, x*x*x) - .5))
	}
	if k, ok := d.count(tau); ok {
		return k
	}
	// The first guess doubles until it is enough; then bisect.
	low, high := int64(-1), int64(math.Ceil(d.Mean))
	for d.raw(float64(high)) < tau {
		if high >= maxUnits {
			return maxUnits
		}
		low, high = high, min(2*high+1, maxUnits)
	}
	for high-low > 1 {
		mid := low + (high-low)/2
		if d.raw(float64(mid)) >= tau {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

// Quantiles puts into out the quantiles at taus, which rise, for little more than the
// last of them costs alone.
func (d Demand) Quantiles(taus []float64, out []int64) {
	i := 0
	if d.Mean > 0 && d.Mean <= bulk {
		if logP0, r, fail := d.count0(); logP0 > -700 {
			pmf := math.Exp(logP0)
			sum := pmf
			p := r * fail // pmf(k+1) = pmf(k) (r fail + k fail) / (k+1)
			if r == 0 {
				p, fail = d.Mean, 0
			}
			tau := d.level(taus, i)
			for k := 0.; k < 4096; k++ {
				for sum >= tau {
					out[i] = int64(k)
					if i++; i == len(taus) {
						return
					}
					tau = d.level(taus, i)
				}
				pmf *= p / (k + 1)
				p += fail
				sum += pmf
			}
		}
	}
	for ; i < len(taus); i++ {
		out[i] = d.Quantile(taus[i])
	}
}

// level is the forecast's probability that stands for the i-th tau.
func (d Demand) level(taus []float64, i int) float64 {
	if len(taus) == 0 {
		return 2
	}
	return d.warp.level(min(taus[i], 1-1e-9))
}

// count finds a quantile by P(k+1) = P(k) (r+k)/(k+1) (1-p), and gives up where the
// tail is long or the start too small for a float.
func (d Demand) count(tau float64) (int64, bool) {
	logP0, r, fail := d.count0()
	if logP0 < -700 {
		return 0, false
	}
	pmf := math.Exp(logP0)
	sum := pmf
	p := r * fail
	if r == 0 {
		p, fail = d.Mean, 0
	}
	for k := 0.; k < 4096; k++ {
		if sum >= tau {
			return int64(k), true
		}
		pmf *= p / (k + 1)
		p += fail
		sum += pmf
	}
	return 0, false
}

// count0 starts the recursion over counts: the logarithm of P(D = 0), and r and 1-p
// of the negative binomial; r is 0 of a Poisson distribution.
func (d Demand) count0() (logP0, r, fail float64) {
	if d.poisson() {
		return -d.Mean, 0, 0
	}
	r = d.Mean * d.Mean / (d.Variance - d.Mean)
	fail = d.Mean / (r + d.Mean)
	return r * math.Log1p(-fail), r, fail
}

// poisson tells that the negative binomial has degenerated.
func (d Demand) poisson() bool { return d.Variance <= d.Mean*(1+1e-9) }

// shape of the gamma that stands for large counts.
func (d Demand) shape() float64 { return d.Mean * d.Mean / max(d.Variance, d.Mean) }

// maxUnits bounds every count.
const maxUnits = math.MaxInt32

// units of a number, inside what is counted.
func units(v float64) int64 {
	if !(v > 0) {
		return 0
	}
	return int64(min(v, maxUnits))
}
