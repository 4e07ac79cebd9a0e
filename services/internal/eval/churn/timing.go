package churn

import (
	"cmp"
	"math"
	"slices"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// Timing compares the moments at which policies would have raised an alert, over
// the silences that began with an order in the horizon before the origin. Each
// policy sees what was known when the first of them could begin. A silence that
// lasted for the whole horizon is a churned one, the others are returning; each
// policy's threshold is set so that it alerts the same share of returning ones
// falsely, and the days from the order to the alert are compared over the churned,
// a missed one counting the whole horizon.
type Timing struct {
	Churned, Returning int
	FalseAlerts        float64     // share of the returning, .2 or .1
	Fixed              eval.Figure // mean days of an alert after so many days of silence
	Gap                eval.Figure // after so many times the customer's own mean gap, shrunk to the shop's
	Model              eval.Figure // at a score
	InTime             eval.Figure // share of churned silences that the model alerted within the horizon
}

// Lead is by how many days the model's alert is earlier than that of fixed silence.
func (t Timing) Lead() eval.Figure { return t.Fixed - t.Model }

// spell is a silence: what a policy gives for each of its days, as far as it lasted.
type spell struct {
	days    int // until the return
	churned bool
}

// delays returns the mean days to the alert of churned spells and the share alerted,
// with the threshold that gives the share of false alerts. Between two thresholds
// that give less and more, as days do, one is chosen by lot: means are
// interpolated.
func delays(spells []spell, horizon int, share float64, policy func(spell, day int) float64) (mean, inTime float64) {
	var highest []float64 // of returning spells, before the return
	var running [][]step  // of churned ones: the running maximum where it rises
	for i, s := range spells {
		top := math.Inf(-1)
		var rises []step
		for d := 1; d < s.days; d++ {
			if v := policy(i, d); v > top {
				top = v
				if s.churned {
					rises = append(rises, step{v, d})
				}
			}
		}
		if s.churned {
			running = append(running, rises)
		} else {
			highest = append(highest, top)
		}
	}
	if len(highest) == 0 || len(running) == 0 {
		return math.NaN(), math.NaN()
	}
	slices.SortFunc(highest, func(a, b float64) int { return cmp.Compare(b, a) })
	n := float64(len(highest))
	// Alerting above v[k] alerts k of the returning ones falsely, less for ties.
	k := min(int(share*n), len(highest)-1)
	threshold := highest[k]
	above, upTo := 0, 0
	for _, v := range highest {
		if v > threshold {
			above++
		}
		if v >= threshold {
			upTo++
		}
	}
	strictMean, strictIn := alerted(running, horizon, threshold, false)
	looseMean, looseIn := alerted(running, horizon, threshold, true)
	mix := min(1, max(0, (share*n-float64(above))/float64(upTo-above)))
	return strictMean + mix*(looseMean-strictMean), strictIn + mix*(looseIn-strictIn)
}

// step is a day on which a policy's value reached a new height.
type step struct {
	value float64
	day   int
}

func alerted(running [][]step, horizon int, threshold float64, equal bool) (mean, in float64) {
	for _, rises := range running {
		at := horizon
		for _, r := range rises {
			if r.value > threshold || equal && r.value == threshold {
				at = r.day
				in++
				break
			}
		}
		mean += float64(at)
	}
	n := float64(len(running))
	return mean / n, in / n
}
