package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Domains keep kinds of ids apart. Their text is part of every stored id: it must
// never change.
const (
	domainUser   = "sillage/profile/user/v1"
	domainDevice = "sillage/profile/device/v1"
)

// IDLength is the length of a profile id, in characters.
const IDLength = 32

// ProfileID returns the id of the profile of a known user of a shop: 32
// hexadecimal characters. The secret should have at least 16 random bytes; user
// ids compare byte by byte.
func ProfileID(secret []byte, shop, userID string) string {
	return keyed(secret, domainUser, shop, userID)
}

// DeviceProfileID returns the id of the profile of a device of a shop whose user
// is not known. It never equals one of [ProfileID].
func DeviceProfileID(secret []byte, shop, deviceKey string) string {
	return keyed(secret, domainDevice, shop, deviceKey)
}

// keyed is HMAC-SHA256 (RFC 2104, section 2), written out over buffers on the
// stack: it is computed for every event.
func keyed(secret []byte, domain, shop, id string) string {
	var key [sha256.BlockSize]byte
	if len(secret) > len(key) {
		sum := sha256.Sum256(secret)
		copy(key[:], sum[:])
	} else {
		copy(key[:], secret)
	}
	var inner [sha256.BlockSize + 192]byte
	b := inner[:sha256.BlockSize]
	for i, k := range key {
		b[i] = k ^ 0x36
	}
	for _, part := range [...]string{domain, shop, id} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	var outer [sha256.BlockSize + sha256.Size]byte
	for i, k := range key {
		outer[i] = k ^ 0x5c
	}
	copy(outer[sha256.BlockSize:], sum[:])
	sum = sha256.Sum256(outer[:])
	var text [IDLength]byte
	hex.Encode(text[:], sum[:IDLength/2])
	return string(text[:])
}

// Ids are what an event says about who did it; any may be empty. They have been
// checked before: a placeholder is empty here.
type Ids struct {
	Anonymous string // of the device
	User      string
	Order     string // of server events that name neither device nor user
	Customer  string // likewise, such as a webhook's
}

// DeviceKey returns the key by which events of one device keep their order in the
// log, or "" if the event names nobody: the shop and the first of anonymous id,
// user id, order and customer that is there. Keys of different kinds differ.
//
// The anonymous id comes first although the user is known: an order of events
// that changed its key at login would be lost just between browsing and buying.
func DeviceKey(shop string, ids Ids) string {
	for _, k := range [...]struct{ kind, id string }{
		{"a:", ids.Anonymous}, {"u:", ids.User}, {"o:", ids.Order}, {"c:", ids.Customer},
	} {
		if k.id != "" {
			return shop + "/" + k.kind + k.id
		}
	}
	return ""
}

// Who returns the profile an event belongs to: the user of the event; else the
// current user of its device, known from earlier events, if there is one; else
// the device itself. It returns "" where all three are empty.
func Who(secret []byte, shop, eventUser, deviceUser, deviceKey string) string {
	switch {
	case eventUser != "":
		return ProfileID(secret, shop, eventUser)
	case deviceUser != "":
		return ProfileID(secret, shop, deviceUser)
	case deviceKey != "":
		return DeviceProfileID(secret, shop, deviceKey)
	default:
		return ""
	}
}
