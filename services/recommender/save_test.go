package recommender

import (
	"testing"
	"time"
)

// TestWhoCatchesUpSavesOften: however often it is killed, an index that has much to
// read gets further; one that has caught up has better things to do.
func TestWhoCatchesUpSavesOften(t *testing.T) {
	for _, c := range []struct {
		name string
		took time.Duration
		lag  int64
		want time.Duration
	}{
		{"ends of the topics not known yet", 0, -1, 3 * time.Second},
		{"catching up, small", 10 * time.Millisecond, 1 << 20, 3 * time.Second},
		{"catching up, large", 2 * time.Second, 1 << 20, 40 * time.Second},
		{"catching up, huge", time.Minute, 1 << 20, snapshotEvery},
		{"caught up", 10 * time.Millisecond, 12, snapshotEvery},
	} {
		if got := untilNextSave(c.took, c.lag); got != c.want {
			t.Errorf("%s: after %v, want %v", c.name, got, c.want)
		}
	}
}
