package recommend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// castagnoli is the polynomial that processors compute in hardware.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// encoder writes little-endian values in frames: a length of four bytes, then
// so many bytes. An empty frame and a checksum of all others end it. So a decoder
// can read in large pieces and yet no byte too many.
type encoder struct {
	w     io.Writer
	table *crc32.Table
	sum   uint32
	n     int64
	buf   []byte
	err   error
}

// chunk bounds a frame, in bytes.
const chunk = 1 << 16

func (e *encoder) flush() {
	if len(e.buf) > 0 {
		e.raw(binary.LittleEndian.AppendUint32(nil, uint32(len(e.buf))))
		e.raw(e.buf)
		e.sum = crc32.Update(e.sum, e.table, e.buf)
	}
	e.buf = e.buf[:0]
}

func (e *encoder) raw(b []byte) {
	if e.err == nil {
		var n int
		n, e.err = e.w.Write(b)
		e.n += int64(n)
	}
}

// end writes the last frame and the checksum.
func (e *encoder) end() {
	e.flush()
	e.raw(binary.LittleEndian.AppendUint32(make([]byte, 4), e.sum))
}

// room makes sure that a number fits into the buffer.
func (e *encoder) room() {
	if len(e.buf) > chunk-binary.MaxVarintLen64 {
		e.flush()
	}
}

func (e *encoder) uint(v uint64) { e.room(); e.buf = binary.AppendUvarint(e.buf, v) }
func (e *encoder) int(v int64)   { e.room(); e.buf = binary.AppendVarint(e.buf, v) }
func (e *encoder) u8(v uint8)    { e.room(); e.buf = append(e.buf, v) }
func (e *encoder) u32(v uint32)  { e.room(); e.buf = binary.LittleEndian.AppendUint32(e.buf, v) }
func (e *encoder) u64(v uint64)  { e.room(); e.buf = binary.LittleEndian.AppendUint64(e.buf, v) }
func (e *encoder) f32(v float32) { e.u32(math.Float32bits(v)) }
func (e *encoder) f64(v float64) { e.u64(math.Float64bits(v)) }

func (e *encoder) text(s string) {
	e.uint(uint64(len(s)))
	for len(s) > 0 {
		e.room()
		n := min(len(s), chunk-len(e.buf))
		e.buf = append(e.buf, s[:n]...)
		s = s[n:]
	}
}

func (e *encoder) flag(b bool) {
	if b {
		e.u8(1)
	} else {
		e.u8(0)
	}
}

// decoder reads what an encoder wrote; after the first error it returns zeros.
type decoder struct {
	r     io.Reader
	table *crc32.Table
	sum   uint32
	buf   []byte // unread bytes of mem
	mem   []byte
	loose bool // without frames, as in version 1
	err   error
}

func (d *decoder) fail(format string, a ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrSnapshot}, a...)...)
	}
}

// need makes n bytes readable at d.buf, n at most chunk.
func (d *decoder) need(n int) bool {
	if len(d.buf) >= n && d.err == nil {
		return true
	}
	return d.refill(n)
}

func (d *decoder) refill(n int) bool {
	if d.err != nil {
		d.buf = nil
		return false
	}
	if d.mem == nil {
		d.mem = make([]byte, 2*chunk)
	}
	if d.loose {
		d.plain(n)
		return d.err == nil
	}
	k := copy(d.mem, d.buf)
	for k < n && d.err == nil {
		size := d.length()
		if size == 0 || size > chunk {
			d.fail("a frame of %d bytes", size)
		}
		if d.err != nil {
			break
		}
		b := d.mem[k : k+size]
		d.full(b)
		d.sum = crc32.Update(d.sum, d.table, b)
		k += size
	}
	d.buf = d.mem[:k]
	if d.err != nil {
		d.buf = nil
		return false
	}
	return true
}

func (d *decoder) full(b []byte) {
	if d.err != nil {
		return
	}
	if _, err := io.ReadFull(d.r, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			d.fail("it ends too early")
		} else {
			d.err = err
		}
	}
}

func (d *decoder) length() int {
	var b [4]byte
	d.full(b[:])
	return int(binary.LittleEndian.Uint32(b[:]))
}

// end checks that nothing is left, and the checksum.
func (d *decoder) end() {
	if d.err == nil && len(d.buf) > 0 {
		d.fail("%d bytes too many", len(d.buf))
	}
	if n := d.length(); n != 0 {
		d.fail("a frame too many, of %d bytes", n)
	}
	if got := uint32(d.length()); got != d.sum {
		d.fail("checksum %08x, want %08x", got, d.sum)
	}
}

func (d *decoder) take(n int) []byte {
	b := d.buf[:n]
	d.buf = d.buf[n:]
	return b
}

// uvarint reads a variable-length number byte by byte.
func (d *decoder) uvarint() uint64 {
	var v uint64
	for shift := 0; shift < 70; shift += 7 {
		if !d.need(1) {
			return 0
		}
		b := d.take(1)[0]
		if shift == 63 && b > 1 {
			break
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	d.fail("a number is too long")
	return 0
}

func (d *decoder) uint(most uint64) uint64 {
	v := d.uvarint()
	if v > most {
		d.fail("%d where at most %d may stand", v, most)
		return 0
	}
	return v
}

func (d *decoder) int() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) u8() uint8 {
	if !d.need(1) {
		return 0
	}
	return d.take(1)[0]
}

func (d *decoder) flag() bool {
	v := d.u8()
	if v > 1 {
		d.fail("%d where 0 or 1 must stand", v)
	}
	return v == 1
}

func (d *decoder) u32() uint32 {
	if !d.need(4) {
		return 0
	}
	return binary.LittleEndian.Uint32(d.take(4))
}

func (d *decoder) f64() float64 {
	if !d.need(8) {
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(d.take(8)))
	if !(v >= -math.MaxFloat64 && v <= math.MaxFloat64) {
		d.fail("a number of %g", v)
		return 0
	}
	return v
}

// weight reads a finite number that is not negative.
func (d *decoder) weight() float32 {
	v := math.Float32frombits(d.u32())
	if !(v >= 0 && v <= math.MaxFloat32) {
		d.fail("a weight of %g", v)
		return 0
	}
	return v
}

// coordinate reads a finite number.
func (d *decoder) coordinate() float32 {
	v := math.Float32frombits(d.u32())
	if !(v >= -math.MaxFloat32 && v <= math.MaxFloat32) {
		d.fail("a coordinate of %g", v)
		return 0
	}
	return v
}

func (d *decoder) text(most uint64) string {
	n := int(d.uint(most))
	if !d.need(n) {
		return ""
	}
	return string(d.take(n))
}

// each reads n values of size bytes in blocks, and stops at the first error.
func (d *decoder) each(n, size int, f func(i int, b []byte)) {
	per := chunk / size
	for i := 0; i < n; {
		k := min(per, n-i)
		if !d.need(k * size) {
			return
		}
		b := d.take(k * size)
		for j := range k {
			f(i+j, b[j*size:j*size+size])
			if d.err != nil {
				return
			}
		}
		i += k
	}
}
