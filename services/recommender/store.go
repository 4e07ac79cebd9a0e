package recommender

import (
	"encoding/binary"
	"errors"
)

// Codec is how a visitor lies in the store.
type Codec struct{}

const codecVersion = 1

// Append appends the visitor's bytes.
func (Codec) Append(b []byte, v *Visitor) []byte {
	b = append(b, codecVersion)
	refuses := byte(0)
	if v.Refuses {
		refuses = 1
	}
	b = append(b, refuses)
	b = binary.LittleEndian.AppendUint64(b, v.Session)
	b = binary.AppendVarint(b, v.LastSeen)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(v.Items)))
	for _, t := range v.Items {
		text(t.Item)
		b = append(b, t.Kinds)
		b = binary.AppendVarint(b, v.LastSeen-t.At) // small
	}
	b = binary.AppendUvarint(b, uint64(len(v.Purchased)))
	for _, p := range v.Purchased {
		text(p)
	}
	return b
}

var errCodec = errors.New("not a visitor of a known version")

// Unmarshal reads what any version has written.
func (Codec) Unmarshal(b []byte, v *Visitor) error {
	if len(b) < 10 || b[0] != codecVersion || b[1] > 1 {
		return errCodec
	}
	*v = Visitor{Refuses: b[1] == 1, Session: binary.LittleEndian.Uint64(b[2:])}
	b = b[10:]
	bad := false
	number := func() uint64 {
		n, k := binary.Uvarint(b)
		if k <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[k:]
		return n
	}
	signed := func() int64 {
		n, k := binary.Varint(b)
		if k <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[k:]
		return n
	}
	text := func() string {
		n := number()
		if n > uint64(len(b)) {
			bad, b = true, nil
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	v.LastSeen = signed()
	for n := number(); n > 0 && !bad; n-- {
		t := Touched{Item: text()}
		if len(b) == 0 {
			return errCodec
		}
		t.Kinds, b = b[0], b[1:]
		t.At = v.LastSeen - signed()
		v.Items = append(v.Items, t)
	}
	for n := number(); n > 0 && !bad; n-- {
		v.Purchased = append(v.Purchased, text())
	}
	if bad || len(b) > 0 {
		return errCodec
	}
	return nil
}
