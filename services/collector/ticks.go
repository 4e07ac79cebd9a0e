package collector

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// tickPeriod is how often the time is appended: a round of ticks grows with the
// square of the partitions behind, so that many partitions tick less often.
func tickPeriod(partitions int) time.Duration {
	return max(time.Second, time.Duration(partitions*partitions)*time.Second/256)
}

// tick appends the time to every partition until ctx ends. A tick goes the way
// of the events and one is under way at a time, so none overtakes an event that
// was accepted before it; while the broker is away, time stands still.
func (c *Collector) tick(ctx context.Context) {
	t := time.NewTicker(tickPeriod(c.deps.Partitions))
	defer t.Stop()
	for {
		now := c.deps.Now()
		outs := c.everywhere(step.TypeTick, &eventv1.Tick{TimeUs: now.UnixMicro()}, "tick/"+strconv.FormatInt(now.UnixMicro(), 10))
		if err := c.deps.Publish(ctx, outs); err != nil && ctx.Err() == nil {
			c.deps.Log.Warn("tick not appended", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// everywhere is a control record for every partition.
func (c *Collector) everywhere(kind string, m proto.Message, id string) []record.Out {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // only for text that is not UTF-8, which is checked before
	}
	outs := make([]record.Out, c.deps.Partitions)
	for p := range outs {
		outs[p] = record.Out{Topic: topics.Events, Partition: int32(p), Value: value, Headers: []record.Header{
			{Key: record.HeaderSpecVersion, Value: []byte("1.0")},
			{Key: record.HeaderID, Value: []byte(id)},
			{Key: record.HeaderType, Value: []byte(kind)},
			{Key: record.HeaderSource, Value: []byte("/sillage/collector")},
			{Key: record.HeaderContentType, Value: []byte("application/protobuf")},
		}}
	}
	return outs
}
