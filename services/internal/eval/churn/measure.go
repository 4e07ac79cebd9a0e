package churn

import (
	"cmp"
	"math"
	"slices"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// Measures are of one list of probabilities against what happened.
type Measures struct {
	AUC, Brier, ECE, Slope       eval.Figure
	LiftChurners, MaxChurners    eval.Figure // share of churners among the tenth at highest risk by the share of all
	LiftBuyers, MaxBuyers        eval.Figure // share of buyers among the tenth at lowest risk by the share of all
	Flagged, Precision, FalsePos eval.Figure // to reach Recall of the churners
	MeanPredicted                eval.Figure
}

// Recall is the share of churners that a French operator said it spots: never
// quoted without the share flagged and the false-positive rate.
const Recall = .81

// measure measures probabilities, of which none is NaN.
func measure(score []float64, churned []bool) Measures {
	n := float64(len(score))
	nan := eval.Figure(math.NaN())
	m := Measures{AUC: nan, Brier: nan, ECE: nan, Slope: nan, LiftChurners: nan, MaxChurners: nan, LiftBuyers: nan, MaxBuyers: nan, Flagged: nan, Precision: nan, FalsePos: nan, MeanPredicted: nan}
	if n == 0 {
		return m
	}
	order := sorted(score)
	var gone, brier, total float64
	for i, p := range score {
		y := outcome(churned[i])
		gone += y
		total += p
		brier += (p - y) * (p - y)
	}
	m.Brier, m.MeanPredicted = eval.Figure(brier/n), eval.Figure(total/n)
	m.ECE = eval.Figure(calibrationError(bins(score, churned), n))
	if gone == 0 || gone == n {
		return m // of one class there is nothing to tell apart
	}
	m.AUC = eval.Figure(auc(order, score, churned, nil))
	m.Slope = eval.Figure(slope(score, churned))
	tenth := max(1, int(math.Round(n/10)))
	var top, bottom float64
	for i := range tenth {
		bottom += 1 - outcome(churned[order[i]])
		top += outcome(churned[order[len(order)-1-i]])
	}
	k := float64(tenth)
	m.LiftChurners, m.MaxChurners = eval.Figure(top/k/(gone/n)), eval.Figure(min(1, gone/k)/(gone/n))
	m.LiftBuyers, m.MaxBuyers = eval.Figure(bottom/k/((n-gone)/n)), eval.Figure(min(1, (n-gone)/k)/((n-gone)/n))
	// Everybody of one score is flagged together.
	var flagged, caught float64
	for i := len(order) - 1; i >= 0; {
		j := i
		for ; j >= 0 && score[order[j]] == score[order[i]]; j-- {
			flagged++
			caught += outcome(churned[order[j]])
		}
		if i = j; caught >= Recall*gone {
			break
		}
	}
	m.Flagged, m.Precision, m.FalsePos = eval.Figure(flagged/n), eval.Figure(caught/flagged), eval.Figure((flagged-caught)/(n-gone))
	return m
}

func outcome(churned bool) float64 {
	if churned {
		return 1
	}
	return 0
}

// sorted returns the indices by ascending score.
func sorted(score []float64) []int {
	order := make([]int, len(score))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(score[a], score[b]), cmp.Compare(a, b)) })
	return order
}

// auc is the probability that a churner scores above a buyer, ties being half
// (Mann and Whitney). Each customer counts so many times; nil: once.
func auc(order []int, score []float64, churned []bool, times []int) float64 {
	var below, both, gone, stayed float64 // below: buyers with a lower score
	for i := 0; i < len(order); {
		var g, b float64
		j := i
		for ; j < len(order) && score[order[j]] == score[order[i]]; j++ {
			w := 1.0
			if times != nil {
				w = float64(times[order[j]])
			}
			if churned[order[j]] {
				g += w
			} else {
				b += w
			}
		}
		both += g * (below + b/2)
		below += b
		gone, stayed = gone+g, stayed+b
		i = j
	}
	return both / (gone * stayed)
}

// bin is a tenth of the range of probabilities.
type bin struct{ n, predicted, churned float64 }

func bins(score []float64, churned []bool) [10]bin {
	var all [10]bin
	for i, p := range score {
		b := &all[min(9, max(0, int(p*10)))]
		b.n++
		b.predicted += p
		b.churned += outcome(churned[i])
	}
	return all
}

// calibrationError is the expected calibration error over ten equal bins.
func calibrationError(all [10]bin, n float64) float64 {
	var sum float64
	for _, b := range all {
		sum += math.Abs(b.predicted - b.churned)
	}
	return sum / n
}

// slope is that of the logistic regression of what happened on the predicted
// log-odds: 1 where they are right, below 1 where they are too bold. It is NaN
// where they do not differ or tell the classes apart without fail.
func slope(score []float64, churned []bool) float64 {
	logits := make([]float64, len(score))
	for i, p := range score {
		logits[i] = logit(p)
	}
	_, b := logistic(churned, 0, func(i int) float64 { return logits[i] })
	if !(math.Abs(b) < 40) {
		return math.NaN()
	}
	return b
}

// logistic is the regression of what happened on one number, by Newton's method
// from (0, 1), toward which it is pulled like by so many customers; NaN where the
// numbers do not differ and nothing pulls.
func logistic(churned []bool, pull float64, x func(i int) float64) (a, b float64) {
	b = 1
	for range 50 {
		ga, gb, haa, hab, hbb := -pull*a, pull*(1-b), pull, 0.0, pull
		for i, gone := range churned {
			v := x(i)
			q := 1 / (1 + math.Exp(-a-b*v))
			r, w := outcome(gone)-q, q*(1-q)
			ga += r
			gb += r * v
			haa += w
			hab += w * v
			hbb += w * v * v
		}
		det := haa*hbb - hab*hab
		if !(det > 1e-9*haa*hbb) {
			return math.NaN(), math.NaN()
		}
		da, db := (hbb*ga-hab*gb)/det, (haa*gb-hab*ga)/det
		if f := max(math.Abs(da), math.Abs(db)); f > 1 { // no leap beyond what the curve is good for
			da, db = da/f, db/f
		}
		a, b = a+da, b+db
		if math.Abs(da)+math.Abs(db) < 1e-10 {
			break
		}
	}
	return a, b
}

func logit(p float64) float64 {
	p = min(max(p, 1e-6), 1-1e-6)
	return math.Log(p) - math.Log1p(-p)
}
