package step

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// envelope is what the protocol reads of a client's event
// (sillage.event.v1.Event); the rest is the fold's.
type envelope struct {
	messageID, shop, keyID string
	eventTime              int64 // ms

	imported  bool
	importID  string
	sequence  int64
	notBefore int64 // us
	lines     int64
}

var errEnvelope = errors.New("not an event")

// readEnvelope scans an event for its envelope: the fold decodes all of it, so
// that twice would be once too often.
func readEnvelope(b []byte) (e envelope, err error) {
	err = fields(b, func(field protowire.Number, text []byte, number uint64) error {
		switch field {
		case 1:
			return take(&e.messageID, text)
		case 2:
			return take(&e.shop, text)
		case 3:
			return take(&e.keyID, text)
		case 10:
			e.eventTime = int64(number)
		case 19:
			e.imported = true
			return fields(text, func(field protowire.Number, text []byte, number uint64) error {
				switch field {
				case 1:
					return take(&e.importID, text)
				case 2:
					e.sequence = int64(number)
				case 3:
					e.notBefore = int64(number)
				case 5:
					e.lines = int64(uint32(number))
				}
				return nil
			})
		}
		return nil
	})
	return e, err
}

// take keeps a text, which ends up in state and has to be UTF-8 there.
func take(to *string, b []byte) error {
	if !utf8.Valid(b) {
		return errEnvelope
	}
	*to = string(b)
	return nil
}

// fields calls each for every field of a message: with its bytes or its number,
// whichever it is.
func fields(b []byte, each func(field protowire.Number, text []byte, number uint64) error) error {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errEnvelope
		}
		b = b[n:]
		var text []byte
		var number uint64
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return errEnvelope
		}
		b = b[n:]
		if err := each(field, text, number); err != nil {
			return err
		}
	}
	return nil
}
