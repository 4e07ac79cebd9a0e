package restock

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Layer is what the products of a shop share: how demand depends on the calendar,
// how forecasts turned out, which experts did well, what new products sell. It is
// made by [Pool.Next], is only read, and may be shared between goroutines. A nil
// Layer is neutral: one day is like the other, forecasts stand as they are, and the
// policy says what a new product sells.
//
// Its numbers have the precision of the packed form, so that a layer that was packed
// decides as the one that was not.
type Layer struct {
	until    Day // learnt from the days before
	sampling uint8
	almanac  almanac
	checked  checked
	losses   [volumes][experts]float32
	launches launches
	effects  map[uint16][terms]float64 // coefficients, of the precision of a float32

	// What follows from these.
	calendar calendar
	warps    *warps
}

// Until is the day before which the layer was learnt.
func (l *Layer) Until() Day { return l.until }

// Sampling is how often the sample of the products that tell of themselves was halved.
func (l *Layer) Sampling() uint8 {
	if l == nil {
		return 0
	}
	return l.sampling
}

// Asks tells whether the product of a name is one of those that tell of themselves: all
// while the shop is small, or was not heard of. Who is asked with a smaller sample is asked
// with a larger one, too.
func (l *Layer) Asks(name string) bool {
	if l.Sampling() == 0 {
		return true
	}
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h ^= h >> 33 // its low bits say little of the last characters
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h&(1<<l.sampling-1) == 0
}

// ready makes what follows from the rest.
func (l *Layer) ready() *Layer {
	l.calendar = l.almanac.calendar(kept(l.almanac.period))
	l.warps = newWarps(&l.checked)
	return l
}

// Bounds of the packed form.
const (
	maxDays      = 2048 // of the calendar
	maxGroups    = 128
	layerVersion = 1
)

// ErrLayer is wrapped by every error of [Layer.UnmarshalBinary].
var ErrLayer = errors.New("not a layer")

// AppendBinary appends the packed layer: 600 bytes and 160 for every kind of forecast
// that was checked, 8 kB at most. It never fails.
func (l *Layer) AppendBinary(b []byte) ([]byte, error) {
	w := wire{b: append(b, layerVersion)}
	l.fields(&w)
	return w.b, nil
}

// MarshalBinary returns the packed layer.
func (l *Layer) MarshalBinary() ([]byte, error) { return l.AppendBinary(make([]byte, 0, 8<<10)) }

// UnmarshalBinary reads a packed layer, some 50 us. It refuses what no pool learns, and
// then leaves l alone.
func (l *Layer) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || b[0] != layerVersion {
		return fmt.Errorf("%w: %d bytes, or of another version than %d", ErrLayer, len(b), layerVersion)
	}
	w := wire{b: b[1:], reading: true}
	var n Layer
	n.fields(&w)
	if !w.whole() || !n.valid() {
		return fmt.Errorf("%w: %d bytes, too few, too many, or with a number outside its range", ErrLayer, len(b))
	}
	*l = *n.ready()
	return nil
}

func (l *Layer) fields(w *wire) {
	w.day(&l.until)
	w.u8(&l.sampling)
	w.f64(&l.almanac.period)
	l.almanac.fields(w)
	l.checked.fields(w)
	for v := range l.losses {
		w.f32s(l.losses[v][:])
	}
	w.f32s(l.launches.rate[:])
	w.f32(&l.launches.sure)
	groups := slices.Sorted(maps.Keys(l.effects))
	n := uint16(len(groups))
	w.u16(&n)
	if n > maxGroups {
		w.short = true
		return
	}
	if w.reading {
		groups, l.effects = make([]uint16, n), make(map[uint16][terms]float64, n)
	}
	for _, g := range groups {
		beta := l.effects[g]
		var packed [terms]float32
		for i := range beta {
			packed[i] = float32(beta[i])
		}
		w.u16(&g)
		w.f32s(packed[:])
		if w.reading {
			for i := range beta {
				beta[i] = float64(packed[i])
			}
			l.effects[g] = beta
		}
	}
	if len(l.effects) != int(n) { // one group twice
		w.short = true
	}
}

// fields are the knots of the kinds that are known.
func (c *checked) fields(w *wire) {
	var known uint16
	for v := range c {
		if c[v] != nil {
			known |= 1 << v
		}
	}
	w.u16(&known)
	if known >= 1<<kinds {
		w.short = true
		return
	}
	for v := range c {
		if known&(1<<v) == 0 {
			continue
		}
		if w.reading {
			c[v] = &[horizons]warp{}
		}
		for h := range c[v] {
			for i := 1; i < bins; i++ {
				k := float32(c[v][h][i])
				w.f32(&k)
				c[v][h][i] = float64(k)
			}
			c[v][h][bins] = 1
		}
	}
}

// valid tells that forecasts with the layer are forecasts.
func (l *Layer) valid() bool {
	for _, both := range l.checked {
		if both == nil {
			continue
		}
		for h := range both {
			for i := range bins {
				if !(both[h][i] <= both[h][i+1]) {
					return false
				}
			}
		}
	}
	for v := range l.losses {
		if !inside(0, 1e30, l.losses[v][:]...) {
			return false
		}
	}
	for _, beta := range l.effects {
		if !inside(-1e6, 1e6, beta[:]...) {
			return false
		}
	}
	return l.until >= -farDay && l.until <= farDay && l.sampling <= maxSampling && inside(1./64, 3660, l.almanac.period) &&
		(l.almanac.days == 0 || l.almanac.valid()) && inside(0, 1e30, l.launches.rate[:]...) && inside(0, 1e30, l.launches.sure)
}

// bands of prices: eight to an order of magnitude... from cents to ten thousands.
const bands = 12

// band of a price in units of money; 0 where it is not known.
func band(price float64) int {
	if !(price > 0) {
		return 0
	}
	return 1 + min(max(int(math.Floor(math.Log2(price)+3)), 0), bands-2)
}

// launches are the rates a day of new products by price band.
type launches struct {
	rate [bands]float32
	sure float32 // 0: nothing was launched yet
}
