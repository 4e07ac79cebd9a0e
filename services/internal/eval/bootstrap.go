package eval

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Interval is an estimate with the range that holds the true value in 95 of 100
// samples.
type Interval struct {
	Value Figure `json:"value"`
	Low   Figure `json:"low"`
	High  Figure `json:"high"`
}

// Resamples is how many samples a bootstrap should draw: the ends of a 95 %
// interval then move by about a fiftieth of its width.
const Resamples = 2000

// Bootstrap returns the mean of paired differences with its percentile interval
// over n resamples (Efron and Tibshirani, An Introduction to the Bootstrap,
// 1993, chapter 13). Each difference is one independent unit. Without
// differences nothing is defined.
func Bootstrap(n int, seed uint64, differences []float64) Interval {
	ones := make([]float64, len(differences))
	for i := range ones {
		ones[i] = 1
	}
	return BootstrapRatio(n, seed, differences, ones)
}

// BootstrapRatio returns the ratio of two sums over units, such as the hits and
// the cases of sessions, with its interval: units are resampled, so that the
// cases of one unit stay together. Differences between two methods are paired by
// being the numerators. It takes about 5 ns a unit and resample.
func BootstrapRatio(n int, seed uint64, numerators, denominators []float64) Interval {
	total := func(v []float64) (sum float64) {
		for _, x := range v {
			sum += x
		}
		return sum
	}
	ratio := func(a, b float64) float64 {
		if b == 0 {
			return math.NaN()
		}
		return a / b
	}
	r := rand.New(rand.NewPCG(seed, uint64(len(numerators))))
	draws := make([]float64, 0, n)
	for range n {
		a, b := 0.0, 0.0
		for range numerators {
			i := r.IntN(len(numerators))
			a += numerators[i]
			b += denominators[i]
		}
		draws = append(draws, ratio(a, b))
	}
	return percentiles(ratio(total(numerators), total(denominators)), draws)
}

// BootstrapStatistic returns a statistic over units with its interval.
// The statistic is told how often each unit counts; it is called n+1 times, at
// first with 1 for each.
func BootstrapStatistic(n int, seed uint64, units int, statistic func(times []int) float64) Interval {
	times := make([]int, units)
	for i := range times {
		times[i] = 1
	}
	value := statistic(times)
	r := rand.New(rand.NewPCG(seed, uint64(units)))
	draws := make([]float64, 0, n)
	for range n {
		clear(times)
		for range units {
			times[r.IntN(units)]++
		}
		draws = append(draws, statistic(times))
	}
	return percentiles(value, draws)
}

// percentiles cuts 2.5 % at both ends. Draws that are not defined do not count.
func percentiles(value float64, draws []float64) Interval {
	draws = slices.DeleteFunc(draws, math.IsNaN)
	if len(draws) == 0 || math.IsNaN(value) {
		return Interval{Figure(value), Figure(math.NaN()), Figure(math.NaN())}
	}
	slices.Sort(draws)
	at := func(p float64) Figure {
		h := p * float64(len(draws)-1)
		i := int(h)
		j := min(i+1, len(draws)-1)
		return Figure(draws[i] + (h-float64(i))*(draws[j]-draws[i]))
	}
	return Interval{Figure(value), at(.025), at(.975)}
}
