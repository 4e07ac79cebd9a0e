package restock

import (
	"math"

	"gonum.org/v1/gonum/mathext"
)

// LeadTime is the belief about the days from a purchase order to its receipt.
type LeadTime struct {
	Mean, Variance float64
	Receipts       float64 // seen, partial ones in part
}

// Quantile returns the gamma quantile of the lead time in days, 0 < q < 1.
func (l LeadTime) Quantile(q float64) float64 {
	if !(l.Variance > 1e-12*l.Mean*l.Mean) {
		return l.Mean
	}
	return mathext.GammaIncRegInv(l.Mean*l.Mean/l.Variance, q) * l.Variance / l.Mean
}

// exceeds returns P(L > days).
func (l LeadTime) exceeds(days float64) float64 {
	if !(l.Variance > 1e-12*l.Mean*l.Mean) {
		if days < l.Mean {
			return 1
		}
		return 0
	}
	return mathext.GammaIncRegComp(l.Mean*l.Mean/l.Variance, max(0, days)*l.Mean/l.Variance)
}

// Remaining returns the median of the days still to wait for an order that has
// been open for the given days: an open order is a censored lead time, L | L > A.
func (l LeadTime) Remaining(open float64) float64 {
	still := l.exceeds(open)
	if !(still > 1e-9) {
		return math.Sqrt(l.Variance) // so late that the belief says nothing: one spread more
	}
	return max(0, l.Quantile(1-still/2)-open)
}

// points returns five equally likely lead times with the belief's mean: the
// midpoints of its fifths, scaled.
func (l LeadTime) points() [leadPoints]float64 {
	var x [leadPoints]float64
	var sum float64
	n := l.Mean * l.Mean / max(l.Variance, 1e-12*l.Mean*l.Mean)
	// Standard normal quantiles of .1, .3, .5, .7, .9.
	for i, z := range [leadPoints]float64{-1.2815515655446004, -.5244005127080407, 0, .5244005127080407, 1.2815515655446004} {
		if n < 1 {
			x[i] = l.Quantile((float64(i) + .5) / leadPoints)
		} else { // Wilson and Hilferty: within 1 % here, and fifty times as fast
			w := 1 - 1/(9*n) + z/(3*math.Sqrt(n))
			x[i] = l.Mean * max(0, w*w*w)
		}
		sum += x[i] / leadPoints
	}
	for i := range x {
		x[i] *= l.Mean / sum
	}
	return x
}

// LeadTime returns the belief after the receipts so far: the policy's prior, worth
// LeadOrders receipts, pooled with the mean and the squares seen (a
// normal-inverse-gamma update, as to the first two moments).
func (p *Product) LeadTime(s *Setting) LeadTime {
	n0, m0 := s.Policy.LeadOrders, s.Policy.LeadDays
	n, m := float64(p.leadN), float64(p.leadMean)
	sd := s.Policy.LeadCV * m0
	mean := (n0*m0 + n*m) / (n0 + n)
	variance := (n0*sd*sd + float64(p.leadSquares) + n0*n/(n0+n)*(m-m0)*(m-m0)) / (n0 + n)
	return LeadTime{max(mean, .01), variance, n}
}

// learnLead adds a lead time of the given weight by Welford's update.
func (p *Product) learnLead(days, weight float64) {
	if !(weight > 0) || !(days >= 0) {
		return
	}
	n := float64(p.leadN) + weight
	d := days - float64(p.leadMean)
	mean := float64(p.leadMean) + d*weight/n
	p.leadSquares = f32(float64(p.leadSquares) + weight*d*(days-mean))
	p.leadN, p.leadMean = f32(n), f32(mean)
}
