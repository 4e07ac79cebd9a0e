package identity

import (
	"crypto/hmac"
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

func keyed(secret []byte, domain, shop, id string) string {
	mac := hmac.New(sha256.New, secret)
	var b [8]byte
	for _, part := range [...]string{domain, shop, id} {
		binary.BigEndian.PutUint64(b[:], uint64(len(part)))
		mac.Write(b[:])
		mac.Write([]byte(part))
	}
	var sum [sha256.Size]byte
	return hex.EncodeToString(mac.Sum(sum[:0])[:IDLength/2])
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
