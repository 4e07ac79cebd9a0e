package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// PartitionOffset is a place in a log.
type PartitionOffset struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Fetched is what one partition gave.
type Fetched struct {
	Topic         string
	Partition     int32
	Records       []record.Record
	Next          int64 // where to go on: behind the last batch read
	Size          int   // bytes, as they came
	HighWatermark int64
	LogStart      int64
	Err           error // ErrOutOfRange, or what may pass
}

// maxFetch bounds an answer with many partitions.
const maxFetch = 16 << 20

// Fetch reads up to maxBytes from each of some partitions that one broker leads,
// waiting up to maxWait for the first record. It returns at once where nothing can be read. The error is
// of the request as a whole; those of partitions are in Fetched.
func (c *Client) Fetch(ctx context.Context, wants []PartitionOffset, maxWait time.Duration, maxBytes int32) ([]Fetched, error) {
	var body []byte
	body = appendInt32(body, -1)
	body = appendInt32(body, int32(maxWait.Milliseconds()))
	body = appendInt32(body, 1)
	body = appendInt32(body, int32(min(int64(len(wants))*int64(maxBytes), max(maxFetch, int64(maxBytes)))))
	body = append(body, 0)
	body = appendInt32(body, 0)
	body = appendInt32(body, -1)
	var topics []string
	byTopic := map[string][]PartitionOffset{}
	for _, w := range wants {
		if byTopic[w.Topic] == nil {
			topics = append(topics, w.Topic)
		}
		byTopic[w.Topic] = append(byTopic[w.Topic], w)
	}
	e := &routed{exchange{key: protocol.Fetch, version: 11, client: c.cfg.ClientID}}
	body = appendInt32(body, int32(len(topics)))
	for _, t := range topics {
		body = appendString(body, t)
		body = appendInt32(body, int32(len(byTopic[t])))
		for _, w := range byTopic[t] {
			body = appendInt32(body, w.Partition)
			body = appendInt32(body, -1)
			body = appendInt64(body, w.Offset)
			body = appendInt64(body, -1)
			body = appendInt32(body, maxBytes)
			e.routes = append(e.routes, route{w.Topic, w.Partition})
		}
	}
	body = appendInt32(body, 0)
	body = appendString(body, "")
	e.body = body

	ctx, cancel := context.WithTimeout(ctx, maxWait+requestTimeout)
	defer cancel()
	if _, err := c.transport.RoundTrip(ctx, c.addr, e); err != nil {
		if ctx.Err() == nil {
			c.refresh(ctx)
		}
		return nil, fmt.Errorf("fetch: %w", err)
	}
	r := reader{b: e.answer}
	r.int32() // throttled
	if code := kafka.Error(r.int16()); code != 0 {
		return nil, fmt.Errorf("fetch: %w", code)
	}
	r.int32() // session
	var got []Fetched
	stale := false
	for range r.count() {
		topic := r.string()
		for range r.count() {
			f := Fetched{Topic: topic, Partition: r.int32()}
			code := kafka.Error(r.int16())
			f.HighWatermark = r.int64()
			r.int64() // last stable offset
			f.LogStart = r.int64()
			for range r.count() {
				r.int64()
				r.int64()
			}
			r.int32() // preferred replica
			data := r.bytes()
			f.Size = len(data)
			if r.err != nil {
				break
			}
			switch code {
			case 0:
				for _, w := range byTopic[topic] {
					if w.Partition == f.Partition {
						f.Records, f.Next, f.Err = record.DecodeBatches(topic, f.Partition, w.Offset, data)
					}
				}
			case kafka.OffsetOutOfRange:
				f.Err = ErrOutOfRange
			default:
				f.Err, stale = code, true
			}
			got = append(got, f)
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("fetch: %w", r.err)
	}
	if stale {
		c.refresh(ctx)
	}
	if len(got) == 0 {
		return nil, errors.New("fetch: empty answer")
	}
	return got, nil
}
