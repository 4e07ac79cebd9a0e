package recommend

import (
	"cmp"
	"math"
	"slices"
)

const (
	hourMillis = 3_600_000.0
	dayMillis  = 24 * hourMillis
)

// decay is the scale of forward decay: at time t an event weighs
// exp((t-landmark)/tau), and a stored weight is worth that much less at now.
type decay struct {
	tau      float64 // milliseconds
	landmark int64   // milliseconds since 1970
	set      bool
}

// landmarkLimit is the exponent at which the landmark moves: stored weights are
// single precision, and sums of many e^60 stay far below its range.
const landmarkLimit = 60

// weight returns what an event at time t adds. If that would leave the number
// range, it moves the landmark to t and returns in shift what every stored weight
// must be multiplied with; otherwise shift is 1.
func (d *decay) weight(t int64) (w, shift float64) {
	if !d.set {
		d.landmark, d.set = t, true
	}
	e := d.exponent(t)
	if e <= landmarkLimit {
		return math.Exp(e), 1
	}
	d.landmark = t
	return 1, math.Exp(-e)
}

// worth returns the factor from stored weights to weights at now, which must not
// lie before the latest event.
func (d *decay) worth(now int64) float64 { return math.Exp(min(0, -d.exponent(now))) }

// exponent is computed in floats: the difference of two extreme times would
// overflow an integer.
func (d *decay) exponent(t int64) float64 { return (float64(t) - float64(d.landmark)) / d.tau }

// expTable tabulates exp(-i/scale) for i = 0..n-1.
func expTable(n int, scale float64) []float32 {
	t := make([]float32, n)
	for i := range t {
		t[i] = float32(math.Exp(-float64(i) / scale))
	}
	return t
}

// ageSteps and ageResolution tabulate exp(-age/L1) in steps of L1/64 up to 8 L1;
// older sessions weigh as much as one of that age, so that an answer from old
// sessions is still ordered by similarity.
const (
	ageResolution = 64
	ageSteps      = 8*ageResolution + 1
)

func sortEdges(s []edge) {
	slices.SortFunc(s, func(a, b edge) int {
		return cmp.Or(cmp.Compare(b.total(), a.total()), cmp.Compare(a.to, b.to))
	})
}

// log2 is the binary logarithm of a positive number, linear between powers of
// two: at most .09 too low, the same on every machine, and a nanosecond.
func log2(x float32) float32 {
	return float32(int32(math.Float32bits(x))-127<<23) * (1.0 / (1 << 23))
}
