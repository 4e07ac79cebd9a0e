package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
)

// Retention cuts logs where the broker leaves that to us, as the embedded one
// does: state lives in bases there, and a record may go only when the older of
// two bases of every reader, and the snapshot of every view, no longer need it.
type Retention struct {
	Client     *broker.Client
	Bases      *state.Bases
	Processors []Processor
	// Kept tells from where on a view's snapshot needs a topic's partition; false
	// where no snapshot was taken.
	Kept func(Place) (int64, bool)
}

// Cut cuts what is older than the catalogue keeps it, and, where it is pressed
// for room, all that only our own readers have read. It returns how many records
// it cut. What one partition's readers still need does not keep others from being
// cut; errors are joined.
func (r *Retention) Cut(ctx context.Context, now time.Time, pressed bool) (cut int64, err error) {
	var errs []error
	for _, t := range topics.All() {
		if t.Compact {
			continue
		}
		n, err := r.Client.Partitions(ctx, t.Name)
		if err != nil {
			return cut, errors.Join(append(errs, err)...)
		}
		for i := range int32(n) {
			records, err := r.cut(ctx, t, i, now, pressed)
			cut += records
			if err != nil {
				errs = append(errs, err)
			}
		}
	}
	return cut, errors.Join(errs...)
}

// inside tells a topic's readers that are ours from other systems.
func inside(reader string) bool { return strings.Contains(reader, ".") }

func (r *Retention) cut(ctx context.Context, t topics.Topic, partition int32, now time.Time, pressed bool) (int64, error) {
	start, end, err := r.Client.Bounds(ctx, t.Name, partition)
	if err != nil || start == end {
		return 0, err
	}
	limit := end
	if !pressed || len(t.Readers) == 0 || slices.ContainsFunc(t.Readers, func(reader string) bool { return !inside(reader) }) {
		at, err := r.Client.OffsetAt(ctx, t.Name, partition, now.Add(-t.Keep).UnixMilli())
		if err != nil {
			return 0, err
		}
		if at >= 0 {
			limit = at
		}
	}
	if limit <= start {
		return 0, nil // before anything is read from disk
	}
	for _, reader := range t.Readers {
		if !inside(reader) {
			continue
		}
		needed, err := r.needed(reader, t.Name, partition)
		if err != nil {
			return 0, err
		}
		limit = min(limit, needed)
	}
	if limit <= start {
		return 0, nil
	}
	return limit - start, r.Client.Trim(ctx, t.Name, partition, limit)
}

// needed is the first offset that a reader still needs; 0 where it needs all.
func (r *Retention) needed(reader, topic string, partition int32) (int64, error) {
	for _, p := range r.Processors {
		if p.Name != reader {
			continue
		}
		base, err := r.Bases.OldestBase(p.Tag(partition))
		if err != nil {
			return 0, fmt.Errorf("keep the log of %s/%d: %w", topic, partition, err)
		}
		if base == nil {
			return 0, nil
		}
		fence, err := step.ParseFence(base.State.Fence)
		if err != nil {
			return 0, fmt.Errorf("keep the log of %s/%d: %w", topic, partition, err)
		}
		return min(base.Next, fence.Low), nil
	}
	if r.Kept != nil {
		if at, ok := r.Kept(Place{Topic: topic, Partition: partition}); ok {
			return at, nil
		}
	}
	return 0, nil
}
