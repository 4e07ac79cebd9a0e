package restock

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// StateBytes is the size of a packed [Product].
const StateBytes = 225

// Versions of the packed form. The first knew no layer, checks or offers.
const (
	stateVersion = 2
	firstVersion = 1
	firstBytes   = 209
)

// PackedBytes returns the length of the packed product that begins with a version,
// and 0 where there is none of it.
func PackedBytes(version byte) int {
	switch version {
	case firstVersion:
		return firstBytes
	case stateVersion:
		return StateBytes
	}
	return 0
}

// ErrState is wrapped by every error of [Product.UnmarshalBinary].
var ErrState = errors.New("not a product")

// Bits of the flags.
const (
	flagKnown = 1 << iota
	flagStock
	flagSignalled
	flagsEnd
	bandShift = 4 // the price band lies above the flags
)

func (l *lot) fields(w *wire) {
	w.u32(&l.ordered)
	w.u32(&l.due)
	w.u32(&l.left)
	w.u32(&l.size)
}

// fields is what lies between the flags and the tail, of the first version or of
// this.
func (p *Product) fields(c *wire, first bool) {
	for k := range p.experts {
		e := &p.experts[k]
		c.f32(&e.a)
		c.f32(&e.b)
		c.f32(&e.v)
		c.f32(&e.m)
	}
	for k := range p.losses {
		c.f32(&p.losses[k])
		c.f32(&p.week[k].mean)
		c.f32(&p.week[k].variance)
	}
	c.i32(&p.weekSold)
	c.u32(&p.weekExposed)
	c.i32((*int32)(&p.first))
	c.i32((*int32)(&p.open))
	c.u32(&p.empty)
	c.i32(&p.sold)
	c.u32(&p.outSince)
	c.u32(&p.outSeconds)
	c.i32(&p.onHand)
	c.i32(&p.reserved)
	c.f32(&p.leadN)
	c.f32(&p.leadMean)
	c.f32(&p.leadSquares)
	p.oldest.fields(c)
	p.others.fields(c)
	c.u32(&p.cycle)
	c.u32(&p.quantity)
	if first {
		var gone uint32 // since when it was signalled, and the first sale
		c.u32(&gone)
		c.u32(&gone)
	}
	c.u32(&p.lastSale)
	c.u32(&p.pack)
	c.u32(&p.minimum)
	if first {
		return
	}
	c.f32(&p.long.mean)
	c.f32(&p.long.variance)
	c.i32(&p.longSold)
	c.f32(&p.price)
	c.f32(&p.size)
	c.f32(&p.ref)
	c.f32(&p.offerPrice)
}

// AppendBinary appends the packed product, [StateBytes] bytes of little-endian
// fields behind a version, and never fails.
func (p *Product) AppendBinary(b []byte) ([]byte, error) {
	var flags byte
	if p.known {
		flags |= flagKnown
	}
	if p.stockKnown {
		flags |= flagStock
	}
	if p.signalled {
		flags |= flagSignalled
	}
	c := wire{b: append(b, stateVersion, flags|p.band<<bandShift)}
	p.fields(&c, false)
	b = append(c.b, p.deal, p.feature, byte(p.severity))
	b = binary.LittleEndian.AppendUint16(b, p.group)
	return binary.LittleEndian.AppendUint16(b, p.revision), nil
}

// MarshalBinary returns the packed product.
func (p *Product) MarshalBinary() ([]byte, error) {
	return p.AppendBinary(make([]byte, 0, StateBytes))
}

// UnmarshalBinary restores a packed product. It refuses what no product can be,
// and then leaves p alone.
func (p *Product) UnmarshalBinary(b []byte) error {
	if len(b) == 0 || len(b) != PackedBytes(b[0]) {
		version := -1
		if len(b) > 0 {
			version = int(b[0])
		}
		return fmt.Errorf("%w: %d bytes of version %d, want %d of version %d", ErrState, len(b), version, StateBytes, stateVersion)
	}
	version, flags := b[0], b[1]
	c := wire{b: b[2:], reading: true}
	first := version == firstVersion
	n := Product{known: flags&flagKnown != 0, stockKnown: flags&flagStock != 0, signalled: flags&flagSignalled != 0}
	if !first {
		n.band = flags >> bandShift
		flags &= 1<<bandShift - 1
	}
	n.fields(&c, first)
	if first {
		price := float64(int64(binary.LittleEndian.Uint64(c.b))) / 1e6
		n.price, n.band, n.longSold = f32(price), uint8(band(price)), spoilt
		n.severity = Severity(c.b[8])
		n.revision = binary.LittleEndian.Uint16(c.b[9:])
	} else {
		n.deal, n.feature, n.severity = c.b[0], c.b[1], Severity(c.b[2])
		n.group, n.revision = binary.LittleEndian.Uint16(c.b[3:]), binary.LittleEndian.Uint16(c.b[5:])
	}
	if err := n.check(flags); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	*p = n
	return nil
}

// farDay bounds days, both ways.
const farDay = 1 << 20

// check refuses states that no sequence of facts leads to and that would break
// what reads them.
func (p *Product) check(flags byte) error {
	good := true
	for k, e := range p.experts {
		for _, v := range [7]float32{e.a, e.b, e.v, e.m, p.losses[k], p.week[k].mean, p.week[k].variance} {
			good = good && v >= 0 && v <= 1e30 // false for NaN
		}
	}
	for _, v := range [7]float32{p.leadN, p.leadMean, p.leadSquares, p.long.mean, p.long.variance, p.price, p.size} {
		good = good && v >= 0 && v <= 1e30
	}
	for _, v := range [2]float32{p.ref, p.offerPrice} {
		good = good && v >= -100 && v <= 100
	}
	switch {
	case flags >= flagsEnd:
		return fmt.Errorf("flags %#x", flags)
	case !good:
		return errors.New("a number outside its range")
	case p.first < -farDay || p.open < p.first || p.open > farDay:
		return errors.New("days outside their range")
	case p.band >= bands || p.longSold < -maxUnits && p.longSold != spoilt:
		return errors.New("a price band or check that there is none of")
	case p.severity > Critical || p.signalled != (p.severity != 0):
		return errors.New("a severity without a signal, or a signal without one")
	case p.stockKnown && !p.known:
		return errors.New("stock of a product never heard of")
	case p.reserved < 0 || p.onHand < -maxUnits || p.sold < -maxUnits || p.weekSold < -maxUnits,
		max(p.pack, p.minimum, p.quantity, p.oldest.left, p.oldest.size, p.others.left, p.others.size) > maxUnits,
		p.oldest.left > p.oldest.size || p.others.left > p.others.size,
		p.oldest.left == 0 && (p.oldest != lot{} || p.others.left > 0), p.others.left == 0 && p.others != lot{}:
		return errors.New("units outside their range")
	}
	return nil
}
