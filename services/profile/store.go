package profile

import (
	"encoding/binary"
	"errors"

	"github.com/sillage-io/sillage/libs/domain/session"
)

// Codec is how a device lies in the store.
type Codec struct{}

const codecVersion = 1

// Append appends the device's bytes. A product, of which nothing is
// remembered, takes one.
func (Codec) Append(b []byte, d *Device) []byte {
	b = append(b, codecVersion)
	if d.LastSeen == 0 && d.User == "" && !d.Visit.Open() && len(d.Anonymous) == 0 {
		return b
	}
	b = binary.AppendVarint(b, d.LastSeen)
	b = appendText(appendText(b, d.User), d.SessionID)
	for _, t := range [...]int64{d.Visit.Opened, d.Visit.Start, d.Visit.Last, int64(d.Visit.Events)} {
		b = binary.AppendVarint(b, t)
	}
	b = binary.AppendUvarint(b, uint64(len(d.Visit.Items)))
	for _, i := range d.Visit.Items {
		b = appendText(b, i)
	}
	c := d.Counts
	for _, n := range [...]uint32{c.Pages, c.Products, c.Searches, c.CartAdds, c.Orders} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendUvarint(b, uint64(len(d.Anonymous)))
	for _, a := range d.Anonymous {
		b = appendText(b, a)
	}
	return b
}

func appendText[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

var errCodec = errors.New("not a device of a known version")

// Unmarshal reads what any version has written.
func (Codec) Unmarshal(b []byte, d *Device) error {
	if len(b) == 0 || b[0] != codecVersion {
		return errCodec
	}
	b = b[1:]
	*d = Device{}
	if len(b) == 0 {
		return nil
	}
	bad := false
	unsigned := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	signed := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	text := func() string {
		n := unsigned()
		if n > uint64(len(b)) {
			bad, b = true, nil
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	d.LastSeen, d.User, d.SessionID = signed(), text(), text()
	d.Visit = session.Visit{Opened: signed(), Start: signed(), Last: signed(), Events: int(signed())}
	for n := unsigned(); n > 0 && !bad; n-- {
		d.Visit.Items = append(d.Visit.Items, text())
	}
	for _, c := range [...]*uint32{&d.Counts.Pages, &d.Counts.Products, &d.Counts.Searches, &d.Counts.CartAdds, &d.Counts.Orders} {
		*c = uint32(unsigned())
	}
	for n := unsigned(); n > 0 && !bad; n-- {
		d.Anonymous = append(d.Anonymous, []byte(text()))
	}
	if bad || len(b) > 0 {
		return errCodec
	}
	return nil
}
