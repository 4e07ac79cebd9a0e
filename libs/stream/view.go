package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
)

// Start says where a view begins in a partition it has no offset for.
type Start int

// Where a view may begin.
const (
	FromStart Start = iota
	FromEnd
)

// Place names a partition of a topic.
type Place struct {
	Topic     string
	Partition int32
}

// View reads whole topics beside any consumer group: memory that is built from
// a log, or a look at what passes. Each record is handed over once for every
// run, in order within its partition.
type View struct {
	client *broker.Client
	topics []string
	start  Start
	each   func(record.Record) error
	log    *slog.Logger

	mu   sync.Mutex // guards what follows, and calls of each
	next map[Place]int64
	end  map[Place]int64
	gaps int64
}

// NewView reads topics and hands each record to each, one at a time. An error
// of each ends the view.
func NewView(client *broker.Client, log *slog.Logger, start Start, each func(record.Record) error, topics ...string) *View {
	return &View{client: client, topics: topics, start: start, each: each, log: log, next: map[Place]int64{}, end: map[Place]int64{}}
}

// Seek sets where Run begins, from a snapshot's offsets.
func (v *View) Seek(next map[Place]int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.Copy(v.next, next)
}

// Frozen calls f with the offsets reached while no record is handed over: a
// snapshot taken in it fits them.
func (v *View) Frozen(f func(next map[Place]int64)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := make(map[Place]int64, len(v.next))
	maps.Copy(next, v.next)
	f(next)
}

// Lag is how many records are in the topics and not handed over, as last
// heard; -1 before the ends are known.
func (v *View) Lag() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.end) == 0 {
		return -1
	}
	var lag int64
	for p, end := range v.end {
		lag += max(0, end-v.next[p])
	}
	return lag
}

// Run reads until ctx ends (then it returns nil) or each fails.
func (v *View) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var reading sync.WaitGroup
	defer reading.Wait()
	var places []Place // of its own: the readers write to v.end as soon as the first of them runs
	for _, topic := range v.topics {
		n, err := v.client.Partitions(ctx, topic)
		if err != nil {
			return fmt.Errorf("count partitions of %s: %w", topic, err)
		}
		for i := range n {
			at := Place{topic, int32(i)}
			places = append(places, at)
			start, end, err := v.client.Bounds(ctx, topic, int32(i))
			if err != nil {
				return err
			}
			v.mu.Lock()
			v.end[at] = end
			if _, ok := v.next[at]; !ok {
				v.next[at] = start
				if v.start == FromEnd {
					v.next[at] = end
				}
			}
			v.mu.Unlock()
		}
	}
	for _, at := range places {
		reading.Go(func() {
			if err := v.read(ctx, at); err != nil {
				cancel(err)
			}
		})
	}
	reading.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func (v *View) read(ctx context.Context, at Place) error {
	for failed := 0; ctx.Err() == nil; {
		v.mu.Lock()
		next := v.next[at]
		v.mu.Unlock()
		got, err := v.client.Fetch(ctx, []broker.PartitionOffset{{Topic: at.Topic, Partition: at.Partition, Offset: next}}, 500*time.Millisecond, 1<<20)
		if err == nil {
			err = got[0].Err
		}
		if errors.Is(err, broker.ErrOutOfRange) {
			start, end, berr := v.client.Bounds(ctx, at.Topic, at.Partition)
			if berr == nil {
				v.log.Warn("view fell out of the log", slog.String("topic", at.Topic), slog.Int("partition", int(at.Partition)), slog.Int64("next", next), slog.Int64("start", start), slog.Int64("end", end))
				v.mu.Lock()
				v.gaps++
				v.next[at] = start
				v.mu.Unlock()
			}
			err = berr
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // told to stop: that is no error
			}
			failed++
			v.log.Debug("view will read again", slog.String("topic", at.Topic), slog.Any("err", err))
			sleep(ctx, ctx, backoff(failed))
			continue
		}
		failed = 0
		if len(got) == 0 || (len(got[0].Records) == 0 && got[0].Next <= next) {
			if len(got) > 0 {
				v.mu.Lock()
				v.end[at] = max(v.end[at], got[0].HighWatermark)
				v.mu.Unlock()
			}
			continue
		}
		if err := v.hand(ctx, at, &got[0]); err != nil {
			return err
		}
	}
	return nil
}

// hand gives the records over, some at a time, so that others can look in
// between.
func (v *View) hand(ctx context.Context, at Place, f *broker.Fetched) error {
	for recs := f.Records; len(recs) > 0; {
		some := recs[:min(64, len(recs))]
		recs = recs[len(some):]
		v.mu.Lock()
		for i := range some {
			if ctx.Err() != nil {
				v.mu.Unlock()
				return nil //nolint:nilerr // told to stop: that is no error
			}
			if err := v.each(some[i]); err != nil {
				v.mu.Unlock()
				return err
			}
			v.next[at] = some[i].Offset + 1
		}
		v.end[at] = max(v.end[at], f.HighWatermark)
		v.mu.Unlock()
	}
	v.mu.Lock()
	v.next[at] = max(v.next[at], f.Next)
	v.mu.Unlock()
	return nil
}
