package step_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// TestMessageIDsAreRememberedForTwoDays of append time, also by the next owner.
func TestMessageIDsAreRememberedForTwoDays(t *testing.T) {
	l := newLane(t, step.Config{Client: true})
	for _, c := range []struct {
		id   string
		hour int64
		dup  bool
	}{
		{"a", 100, false},
		{"a", 100, true},
		{"a", 147, true},
		{"b", 148, false},
		{"a", 148, true},
		{"c", 149, false}, // hour 100 is over
		{"a", 149, false},
		{"d", 20, false}, // so old that nobody remembers it
		{"d", 20, false},
		{"b", 149, true},
		{"a", 150, true},
	} {
		value, err := proto.Marshal(&eventv1.Event{MessageId: c.id, Shop: "s", EventTimeMs: c.hour * 3_600_000})
		if err != nil {
			t.Fatal(err)
		}
		before := l.p.Status().Counts.Duplicates
		l.append(record.Record{
			AppendTime: c.hour * 3_600_000, Key: []byte("s/k"), Value: value,
			Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeEvent)}},
		})
		if dup := l.p.Status().Counts.Duplicates > before; dup != c.dup {
			t.Errorf("id %s in hour %d is known: %t, want %t", c.id, c.hour, dup, c.dup)
		}
		// Another owner takes over what the store holds.
		if err := l.p.Restore(step.State{Entities: l.p.Dump(), Logs: l.p.Logs()}, step.Fence{LogID: "log", Next: l.next}); err != nil {
			t.Fatal(err)
		}
	}
}
