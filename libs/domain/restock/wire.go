package restock

import (
	"encoding/binary"
	"math"
)

// wire writes little-endian fields to bytes, or reads them: one list of fields for
// both directions. Reading past the end gives zeros and is remembered.
type wire struct {
	b       []byte
	reading bool
	short   bool // fewer bytes than fields
}

// whole tells that what was read is all there was.
func (w *wire) whole() bool { return !w.short && len(w.b) == 0 }

// next returns the next n bytes that are read.
func (w *wire) next(n int) ([]byte, bool) {
	if len(w.b) < n {
		w.short, w.b = true, nil
		return nil, false
	}
	b := w.b[:n]
	w.b = w.b[n:]
	return b, true
}

func (w *wire) u8(v *uint8) {
	if !w.reading {
		w.b = append(w.b, *v)
		return
	}
	*v = 0
	if b, ok := w.next(1); ok {
		*v = b[0]
	}
}

func (w *wire) u16(v *uint16) {
	if !w.reading {
		w.b = binary.LittleEndian.AppendUint16(w.b, *v)
		return
	}
	*v = 0
	if b, ok := w.next(2); ok {
		*v = binary.LittleEndian.Uint16(b)
	}
}

func (w *wire) u32(v *uint32) {
	if !w.reading {
		w.b = binary.LittleEndian.AppendUint32(w.b, *v)
		return
	}
	*v = 0
	if b, ok := w.next(4); ok {
		*v = binary.LittleEndian.Uint32(b)
	}
}

func (w *wire) i32(v *int32) {
	u := uint32(*v)
	w.u32(&u)
	*v = int32(u)
}

func (w *wire) day(v *Day) { w.i32((*int32)(v)) }

func (w *wire) f32(v *float32) {
	u := math.Float32bits(*v)
	w.u32(&u)
	*v = math.Float32frombits(u)
}

func (w *wire) f32s(v []float32) {
	for i := range v {
		w.f32(&v[i])
	}
}

func (w *wire) f64(v *float64) {
	if !w.reading {
		w.b = binary.LittleEndian.AppendUint64(w.b, math.Float64bits(*v))
		return
	}
	*v = 0
	if b, ok := w.next(8); ok {
		*v = math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
}

func (w *wire) f64s(v []float64) {
	for i := range v {
		w.f64(&v[i])
	}
}

// inside tells that all numbers lie in a range; false for NaN.
func inside[F float32 | float64](low, high F, all ...F) bool {
	for _, v := range all {
		if v < low || v > high || v != v {
			return false
		}
	}
	return true
}
