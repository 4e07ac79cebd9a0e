package restock

import "math"

// Short returns E(D - s)+, the units that a stock of s is short of on average. It is
// of the distribution before recalibration.
func (d Demand) Short(s float64) float64 {
	if !(s > 0) {
		return d.Mean
	}
	if !(d.Mean > nothing) {
		return 0
	}
	// E(D; D > s) is the mean times a probability of the size-biased distribution, one
	// unit larger: negative binomial with r+1, Poisson as it is, gamma with shape+1.
	var over, tail float64
	k := math.Floor(s)
	plain := Demand{Mean: d.Mean, Variance: d.Variance}
	switch {
	case d.Mean > bulk:
		n := d.shape()
		bigger := Demand{Mean: d.Mean * (n + 1) / n, Variance: d.Mean * d.Mean / n * (n + 1) / n}
		over, tail = bigger.Exceeds(k-1), plain.Exceeds(k)
	case d.poisson():
		over, tail = plain.Exceeds(k-1), plain.Exceeds(k)
	default:
		r := d.Mean * d.Mean / (d.Variance - d.Mean)
		// The same p with r+1.
		bigger := Demand{Mean: d.Mean * (r + 1) / r, Variance: d.Variance * (r + 1) / r}
		over, tail = bigger.Exceeds(k-1), plain.Exceeds(k)
	}
	return max(0, d.Mean*over-s*tail)
}

// FillPoints puts into out the smallest stocks s for which E(D - s)+ is not above (1 -
// beta) times the units that an order brings, for every fill rate beta: the share of
// units that is to be served from stock. Betas rise.
func (d Demand) FillPoints(betas []float64, order float64, out []int64) {
	order = max(order, 1)
	if d.Mean <= bulk {
		if logP0, r, fail := d.count0(); logP0 > -700 {
			d.scan(betas, order, out, math.Exp(logP0), r, fail)
			return
		}
	}
	for i, b := range betas {
		low, high := int64(-1), max(1, units(d.Mean))
		for d.Short(float64(high)) > (1-b)*order && high < maxUnits {
			low, high = high, min(2*high, maxUnits)
		}
		for high-low > 1 {
			mid := low + (high-low)/2
			if d.Short(float64(mid)) <= (1-b)*order {
				high = mid
			} else {
				low = mid
			}
		}
		out[i] = high
	}
}

// scan finds fill points by E(D - s - 1)+ = E(D - s)+ - P(D > s).
func (d Demand) scan(betas []float64, order float64, out []int64, pmf, r, fail float64) {
	short, tail := d.Mean, 1.
	i := 0
	for s := int64(0); i < len(betas); s++ {
		for i < len(betas) && (short <= (1-betas[i])*order || s > 1<<20) {
			out[i] = s
			i++
		}
		tail = max(0, tail-pmf)
		short = max(0, short-tail)
		if r == 0 {
			pmf *= d.Mean / float64(s+1)
		} else {
			pmf *= (r + float64(s)) / float64(s+1) * fail
		}
	}
}
