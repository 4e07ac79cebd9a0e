package churn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// StateBytes is the size of a packed [Customer].
const StateBytes = 95

const stateVersion = 2

// Version 1 had visits in 32-bit numbers, nothing else of behaviour, and no
// squares of the gaps' logarithms.
const (
	stateVersion1 = 1
	stateBytes1   = 87
)

// ErrState is wrapped by every error of [Customer.UnmarshalBinary].
var ErrState = errors.New("not a customer")

// AppendBinary appends the packed customer, [StateBytes] bytes of little-endian
// fields behind a version, and never fails.
func (c *Customer) AppendBinary(b []byte) ([]byte, error) {
	le := binary.LittleEndian
	flags := byte(c.state)
	if c.objected {
		flags |= 4
	}
	b = append(b, stateVersion, flags)
	b = append(b, c.currency[:]...)
	b = le.AppendUint32(b, c.first)
	b = le.AppendUint32(b, c.repeats)
	b = le.AppendUint32(b, c.recency)
	b = le.AppendUint64(b, math.Float64bits(c.logGaps))
	b = le.AppendUint32(b, math.Float32bits(c.logGaps2))
	for _, r := range c.recent {
		b = le.AppendUint32(b, r)
	}
	b = append(b, c.perDay[:]...)
	b = le.AppendUint64(b, uint64(c.total))
	b = le.AppendUint64(b, uint64(c.opening))
	b = le.AppendUint32(b, c.behaved)
	for _, d := range [...]decayed{c.week, c.quarter, c.minutes, c.searches, c.carts, c.mails} {
		b = le.AppendUint16(b, uint16(d))
	}
	b = le.AppendUint32(b, c.episode)
	b = le.AppendUint32(b, c.raisedAt)
	b = le.AppendUint32(b, math.Float32bits(c.raisedP))
	return le.AppendUint16(b, c.refunds), nil
}

// MarshalBinary returns the packed customer.
func (c *Customer) MarshalBinary() ([]byte, error) {
	return c.AppendBinary(make([]byte, 0, StateBytes))
}

// PackedBytes returns the size of the packed customer that b begins with, of this
// version or an older one, and 0 where there is none.
func PackedBytes(b []byte) int {
	n := 0
	switch {
	case len(b) == 0:
	case b[0] == stateVersion:
		n = StateBytes
	case b[0] == stateVersion1:
		n = stateBytes1
	}
	if len(b) < n {
		return 0
	}
	return n
}

// UnmarshalBinary restores a packed customer of any version. It refuses what no
// customer can be, and then leaves c alone.
func (c *Customer) UnmarshalBinary(b []byte) error {
	if n := PackedBytes(b); n == 0 || n != len(b) {
		version := -1
		if len(b) > 0 {
			version = int(b[0])
		}
		return fmt.Errorf("%w: %d bytes of version %d, want %d of version %d", ErrState, len(b), version, StateBytes, stateVersion)
	}
	r := reader(b[2:])
	n := Customer{state: alertState(b[1] & 3), objected: b[1]&4 != 0}
	copy(n.currency[:], r.take(3))
	n.first, n.repeats, n.recency = r.u32(), r.u32(), r.u32()
	n.logGaps = math.Float64frombits(r.u64())
	if b[0] == stateVersion {
		n.logGaps2 = math.Float32frombits(r.u32())
	} else if n.repeats > 0 { // the least that they can be: all gaps alike
		n.logGaps2 = float32(n.logGaps * n.logGaps / float64(n.repeats))
	}
	for i := range n.recent {
		n.recent[i] = r.u32()
	}
	copy(n.perDay[:], r.take(kept))
	n.total, n.opening = int64(r.u64()), int64(r.u64())
	n.behaved = r.u32()
	if b[0] == stateVersion {
		for _, d := range []*decayed{&n.week, &n.quarter, &n.minutes, &n.searches, &n.carts, &n.mails} {
			*d = decayed(r.u16())
		}
	} else {
		n.week = decayed(0).plus(float64(math.Float32frombits(r.u32())))
		n.quarter = decayed(0).plus(float64(math.Float32frombits(r.u32())))
	}
	n.episode, n.raisedAt, n.raisedP = r.u32(), r.u32(), math.Float32frombits(r.u32())
	n.refunds = r.u16()
	if err := n.check(b[1]); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	*c = n
	return nil
}

// check refuses states that no sequence of facts leads to and that would break
// what reads them.
func (c *Customer) check(flags byte) error {
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	switch {
	case flags&^7 != 0 || c.state >= alertStates:
		return fmt.Errorf("flags %#x", flags)
	case c.repeats == math.MaxUint32:
		return errors.New("too many orders")
	case c.first == 0 && (c.repeats != 0 || c.recency != 0 || c.recent != [kept]uint32{}):
		return errors.New("orders without a first")
	case c.first != 0 && c.recent[0] < c.first:
		return errors.New("the last order is before the first")
	case !finite(c.logGaps), !finite(float64(c.logGaps2)), !(c.raisedP >= 0 && c.raisedP <= 1):
		return errors.New("a number outside its range")
	}
	for i := 1; i < kept; i++ {
		if r := c.recent[i]; r != 0 && (r >= c.recent[i-1] || r < c.first) {
			return errors.New("order days out of order")
		}
	}
	if c.first != 0 && (c.repeats == 0) != (c.recent[0] == c.first) {
		return errors.New("a last order that does not match the number of orders")
	}
	return nil
}

// reader takes fields off the front.
type reader []byte

func (r *reader) take(n int) []byte {
	b := (*r)[:n]
	*r = (*r)[n:]
	return b
}
func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
