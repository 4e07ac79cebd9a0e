package restock

import "math"

// bins of a histogram of probability integral transforms.
const bins = 40

// Constants of the recalibration.
const (
	pitKept  = .9998 // discount of a histogram an outcome
	few      = 50    // outcomes that say more than those of the other horizon
	pitPrior = 400.  // outcomes that a uniform histogram is worth
)

// pit is a histogram of where outcomes fell in the distributions that were
// forecast. Counts have ties: an outcome spreads its one unit evenly over the
// probabilities from P(D < y) to P(D <= y), which is the non-randomised transform
// of Czado, Gneiting and Held (2009), so that nothing is drawn.
type pit struct {
	mass  [bins]float32
	total float32
}

func (h *pit) add(low, high float64) {
	low, high = min(max(low, 0), 1), min(max(high, 0), 1)
	for i := range h.mass {
		h.mass[i] *= pitKept
	}
	h.total = h.total*pitKept + 1
	if high-low < 1e-9 {
		h.mass[min(int(low*bins), bins-1)]++
		return
	}
	for i := int(low * bins); i < bins; i++ {
		from, to := max(low, float64(i)/bins), min(high, float64(i+1)/bins)
		if to <= from {
			break
		}
		h.mass[i] += float32((to - from) / (high - low))
	}
}

// warp is what a histogram says of a forecast's probabilities: knots[i] is the
// share of outcomes below the forecast's quantile i/bins.
type warp [bins + 1]float64

// warp smooths the histogram with a uniform one. Its knots have the precision of a
// packed layer.
func (h *pit) warp() *warp {
	var w warp
	sum := 0.
	for i, m := range h.mass {
		sum += float64(m) + pitPrior/bins
		w[i+1] = sum
	}
	for i := range w {
		w[i] = float64(float32(w[i] / sum))
	}
	w[bins] = 1
	return &w
}

// share is the share of outcomes below the forecast's quantile u.
func (w *warp) share(u float64) float64 {
	if w == nil {
		return u
	}
	x := min(max(u, 0), 1) * bins
	i := min(int(x), bins-1)
	return w[i] + (x-float64(i))*(w[i+1]-w[i])
}

// level is the forecast's quantile below which a share tau of the outcomes falls.
func (w *warp) level(tau float64) float64 {
	if w == nil {
		return tau
	}
	low, high := 0, bins
	for high-low > 1 {
		if mid := (low + high) / 2; w[mid] <= tau {
			low = mid
		} else {
			high = mid
		}
	}
	return (float64(low) + (tau-w[low])/max(w[high]-w[low], 1e-12)) / bins
}

// horizons of the checks that a product makes of its own forecasts: a week and four.
const horizons = 2

// volumes are the classes in which the experts are weighed: the mean of a week.
const volumes = 5

// kinds are the classes of forecasts that are recalibrated apart: by shape and, in
// two parts, by mean.
const (
	shapes = 7
	kinds  = 2 * shapes
)

// kind is the class of a forecast. The shape r = mean²/(variance-mean) of its negative
// binomial says how lumpy the demand is: the lumpiest are forecast too wide, because
// the largest order of the past is, and the steadiest too narrow.
func (d Demand) kind() int {
	r := d.Mean * d.Mean / max(d.Variance-d.Mean, 1e-9)
	k := shapes - 1
	for i, limit := range [shapes - 1]float64{.0625, .125, .25, .5, 1, 2} {
		if !(r > limit) {
			k = i
			break
		}
	}
	if d.Mean >= 8 {
		k += shapes
	}
	return k
}

// volume is the class of a mean.
func volume(mean float64) int {
	switch {
	case mean < 1:
		return 0
	case mean < 5:
		return 1
	case mean < 25:
		return 2
	case mean < 100:
		return 3
	}
	return 4
}

// steps from the short check to the long one, on a scale of logarithms, for which
// warps are kept ready: those between are mixed of the two.
const steps = 5

// warps of a layer; nil where nothing is known.
type warps [kinds][steps]*warp

// checked is what the two checks say of forecasts of one kind; nil: nothing is known.
type checked [kinds]*[horizons]warp

// newChecked reads the histograms.
func newChecked(all *[horizons][kinds]pit) checked {
	var c checked
	for v := range c {
		short, long := &all[0][v], &all[1][v]
		if short.total == 0 && long.total == 0 {
			continue
		}
		if long.total < few {
			long = short
		}
		c[v] = &[horizons]warp{*short.warp(), *long.warp()}
	}
	return c
}

// newWarps prepares what the checks say.
func newWarps(c *checked) *warps {
	var w warps
	for v, both := range c {
		if both == nil {
			continue
		}
		for i := range w[v] {
			x := float64(i) / (steps - 1)
			var m warp
			for j := range m {
				m[j] = (1-x)*both[0][j] + x*both[1][j]
			}
			w[v][i] = &m
		}
	}
	return &w
}

// of returns the warp of a distribution over so many short checks.
func (w *warps) of(d Demand, checks float64) *warp {
	if w == nil {
		return nil
	}
	x := math.Log2(max(checks, 1)) / 2
	return w[d.kind()][int(min(max(x, 0), 1)*(steps-1)+.5)]
}
