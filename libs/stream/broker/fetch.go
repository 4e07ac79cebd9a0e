package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
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
	// Log is the topic's [Client.LogID]: only that log is read, and not another one
	// that was made under the same name since. Empty: whatever has the name. All
	// places of a fetch have one, or none.
	Log string
}

// Fetched is what one partition gave.
type Fetched struct {
	Topic         string
	Partition     int32
	Records       []record.Record
	Next          int64 // where to go on: behind the last batch read
	HighWatermark int64
	LogStart      int64
	Err           error // ErrOutOfRange, or what may pass
}

// Fetch reads from partitions that one broker leads, waiting up to maxWait for
// the first record. It returns at once where nothing can be read. The error is
// of the request as a whole; those of partitions are in Fetched.
func (c *Client) Fetch(ctx context.Context, wants []PartitionOffset, maxWait time.Duration, maxBytes int32) ([]Fetched, error) {
	e, names, err := c.fetchRequest(wants, maxWait, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}

	ctx, cancel := context.WithTimeout(ctx, maxWait+requestTimeout)
	defer cancel()
	if _, err := c.transport.RoundTrip(ctx, c.addr, e); err != nil {
		if ctx.Err() == nil {
			c.refresh(ctx)
		}
		return nil, fmt.Errorf("fetch: %w", err)
	}
	got, stale, err := fetched(e, wants, names)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	if stale {
		c.refresh(ctx)
	}
	if len(got) == 0 {
		return nil, errors.New("fetch: empty answer")
	}
	return got, nil
}

// Versions of the request: the second names topics by their ids.
const (
	fetchByName = 11
	fetchByID   = 13
)

// fetchRequest writes a request, and tells which topics its ids are.
func (c *Client) fetchRequest(wants []PartitionOffset, maxWait time.Duration, maxBytes int32) (*routed, map[string]string, error) {
	e := &routed{exchange{key: protocol.Fetch, version: fetchByName, client: c.cfg.ClientID}}
	if len(wants) > 0 && wants[0].Log != "" {
		e.version, e.flexible = fetchByID, true
	}
	count := func(b []byte, n int) []byte {
		if e.flexible {
			return binaryUvarint(b, uint64(n+1))
		}
		return appendInt32(b, int32(n))
	}
	tags := func(b []byte) []byte {
		if e.flexible {
			return append(b, 0)
		}
		return b
	}
	var topics []string
	byTopic := map[string][]PartitionOffset{}
	for _, w := range wants {
		if byTopic[w.Topic] == nil {
			topics = append(topics, w.Topic)
		}
		byTopic[w.Topic] = append(byTopic[w.Topic], w)
	}
	names := map[string]string{}
	var body []byte
	body = appendInt32(body, -1)
	body = appendInt32(body, int32(maxWait.Milliseconds()))
	body = appendInt32(body, 1)
	body = appendInt32(body, maxBytes)
	body = append(body, 0)
	body = appendInt32(body, 0)
	body = appendInt32(body, -1)
	body = count(body, len(topics))
	for _, t := range topics {
		if e.flexible {
			id, err := topicID(byTopic[t][0].Log)
			if err != nil {
				return nil, nil, err
			}
			names[string(id)] = t
			body = append(body, id...)
		} else {
			body = appendString(body, t)
		}
		body = count(body, len(byTopic[t]))
		for _, w := range byTopic[t] {
			body = appendInt32(body, w.Partition)
			body = appendInt32(body, -1)
			body = appendInt64(body, w.Offset)
			if e.flexible {
				body = appendInt32(body, -1) // epoch of the record before: not kept
			}
			body = appendInt64(body, -1)
			body = appendInt32(body, maxBytes)
			body = tags(body)
			e.routes = append(e.routes, route{w.Topic, w.Partition})
		}
		body = tags(body)
	}
	body = count(body, 0) // forgotten
	if e.flexible {
		body = append(body, 1) // no rack
	} else {
		body = appendString(body, "")
	}
	e.body = tags(body)
	return e, names, nil
}

// topicID is the topic's id in what [Client.LogID] returns.
func topicID(log string) ([]byte, error) {
	id, err := hex.DecodeString(log[strings.LastIndexByte(log, ':')+1:])
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("log %q names no topic", log)
	}
	return id, nil
}

// fetched reads the answer. Stale: a leader is not where it was.
func fetched(e *routed, wants []PartitionOffset, names map[string]string) (got []Fetched, stale bool, err error) {
	r := reader{b: e.answer}
	count, tags := r.count, func() {}
	if e.flexible {
		count, tags = r.compactCount, r.tags
	}
	r.int32() // throttled
	if code := kafka.Error(r.int16()); code != 0 {
		return nil, false, otherLog(code)
	}
	r.int32() // session
	for range count() {
		var topic string
		if e.flexible {
			topic = names[string(r.take(16))]
		} else {
			topic = r.string()
		}
		for range count() {
			f := Fetched{Topic: topic, Partition: r.int32()}
			code := kafka.Error(r.int16())
			f.HighWatermark = r.int64()
			r.int64() // last stable offset
			f.LogStart = r.int64()
			for range count() {
				r.int64()
				r.int64()
				tags()
			}
			r.int32() // preferred replica
			var data []byte
			if e.flexible {
				data = r.take(max(0, r.uvarint()-1))
			} else {
				data = r.bytes()
			}
			tags()
			if r.err != nil {
				break
			}
			switch code {
			case 0:
				for _, w := range wants {
					if w.Topic == topic && w.Partition == f.Partition {
						f.Records, f.Next, f.Err = record.DecodeBatches(topic, f.Partition, w.Offset, data)
					}
				}
			case kafka.OffsetOutOfRange:
				f.Err = ErrOutOfRange
			default:
				f.Err, stale = otherLog(code), true
			}
			got = append(got, f)
		}
		tags()
	}
	return got, stale, r.err
}

// otherLog gives an error a name where the topic is not the one that was meant.
func otherLog(code kafka.Error) error {
	const unknownTopicID, inconsistentTopicID = kafka.Error(100), kafka.Error(103)
	if code == unknownTopicID || code == inconsistentTopicID {
		return fmt.Errorf("%w: %w", ErrOtherLog, code)
	}
	return code
}
