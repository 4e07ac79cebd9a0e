package commerce

import (
	"strings"
	"unicode/utf8"
)

// MaxID is the longest visitor or customer id that is accepted, in bytes.
const MaxID = 200

// IDVerdict says whether an id names somebody.
type IDVerdict uint8

// Verdicts.
const (
	IDGood        IDVerdict = iota
	IDAbsent                // empty, which clients send for "none"
	IDPlaceholder           // what a client writes when it has none, such as "undefined"
	IDTooLong               // over MaxID bytes
	IDMalformed             // not UTF-8, or with control characters
)

// String returns the verdict in words.
func (v IDVerdict) String() string {
	switch v {
	case IDGood:
		return "good"
	case IDAbsent:
		return "absent"
	case IDPlaceholder:
		return "placeholder"
	case IDTooLong:
		return "too long"
	default:
		return "malformed"
	}
}

// CheckID judges a user or anonymous id. A placeholder shared by many visitors
// would merge them into one customer, so ids that many clients send by mistake
// are refused: the list is that of PostHog's merge rules, compared without case
// and surrounding blanks and quotes, with ids that are nothing but zeros.
func CheckID(id string) IDVerdict {
	if id == "" {
		return IDAbsent
	}
	if len(id) > MaxID {
		return IDTooLong
	}
	if !utf8.ValidString(id) || strings.IndexFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0 {
		return IDMalformed
	}
	s := strings.ToLower(strings.Trim(id, " \"'`"))
	switch s {
	case "", "null", "nil", "none", "undefined", "nan", "true", "false", "anonymous", "anonymous_user", "guest",
		"distinct_id", "distinctid", "id", "not_authenticated", "not authenticated", "unauthenticated", "email", "user", "user_id", "userid",
		"unknown", "n/a", "[object object]", "{}", "[]", "-", "-1", "<nil>", "test":
		return IDPlaceholder
	}
	if strings.Trim(s, "0-") == "" { // 0, 000, the nil UUID
		return IDPlaceholder
	}
	return IDGood
}
