package identity

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestStoredIDs pins ids that state and logs already hold; the values were
// computed once with Python's hmac.
func TestStoredIDs(t *testing.T) {
	secret := []byte("0123456789abcdef")
	for _, tc := range []struct{ name, got, want string }{
		{"user", ProfileID(secret, "demo", "ada@example.com"), "c76f4e284655419c5871acc7d0aa739f"},
		{"device", DeviceProfileID(secret, "demo", "demo/a:42"), "6f7c689ace7e61093e1adff08cc2e82d"},
		{"empty secret", ProfileID(nil, "demo", "ada@example.com"), "83119b42844847db70762a43021568f4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.got != tc.want {
				t.Errorf("id %s, want %s", tc.got, tc.want)
			}
		})
	}
}

// TestIDsDiffer holds for any two different inputs.
func TestIDsDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching(`[ab/:]{0,4}`)
		s1, i1, s2, i2 := part.Draw(t, "shop"), part.Draw(t, "id"), part.Draw(t, "other shop"), part.Draw(t, "other id")
		k := []byte("secret")
		if same := s1 == s2 && i1 == i2; (ProfileID(k, s1, i1) == ProfileID(k, s2, i2)) != same {
			t.Errorf("(%q, %q) and (%q, %q): equality of ids is not that of inputs", s1, i1, s2, i2)
		}
		if ProfileID(k, s1, i1) == DeviceProfileID(k, s2, i2) {
			t.Error("a user's profile is a device's")
		}
		id := ProfileID(k, s1, i1)
		if id == ProfileID([]byte("another"), s1, i1) {
			t.Error("the secret does not matter")
		}
		if len(id) != IDLength || strings.Trim(id, "0123456789abcdef") != "" {
			t.Errorf("id %q", id)
		}
	})
}

func TestDeviceKey(t *testing.T) {
	for _, tc := range []struct {
		name string
		ids  Ids
		want string
	}{
		{"a device", Ids{Anonymous: "42"}, "s/a:42"},
		{"a device at login keeps its key", Ids{Anonymous: "42", User: "ada"}, "s/a:42"},
		{"a server event of a user", Ids{User: "ada", Order: "7"}, "s/u:ada"},
		{"a server event of an order", Ids{Order: "7", Customer: "9"}, "s/o:7"},
		{"a webhook of a customer", Ids{Customer: "9"}, "s/c:9"},
		{"nobody", Ids{}, ""},
		{"same text, another kind", Ids{User: "42"}, "s/u:42"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := DeviceKey("s", tc.ids); got != tc.want {
				t.Errorf("key %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWho(t *testing.T) {
	k := []byte("secret")
	user, device := ProfileID(k, "s", "ada"), DeviceProfileID(k, "s", "s/a:42")
	for _, tc := range []struct{ name, eventUser, deviceUser, deviceKey, want string }{
		{"nobody known", "", "", "s/a:42", device},
		{"the device's user", "", "ada", "s/a:42", user},
		{"the event's user wins over the device's", "ada", "bob", "s/a:42", user},
		{"a server event", "ada", "", "", user},
		{"nothing at all", "", "", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Who(k, "s", tc.eventUser, tc.deviceUser, tc.deviceKey); got != tc.want {
				t.Errorf("profile %s, want %s", got, tc.want)
			}
		})
	}
}
