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
	// Term is the Fetched.Term behind which Offset stands; 0: not known. With it
	// the broker tells whether its log is still the one that was read so far.
	Term int32
}

// Fetched is what one partition gave.
type Fetched struct {
	Topic         string
	Partition     int32
	Records       []record.Record
	Next          int64 // where to go on: behind the last batch read
	Term          int32 // of the leader that took the last batch read, counted from 1; 0: none was read
	Size          int   // bytes, as they came
	HighWatermark int64
	LogStart      int64
	Err           error // ErrOutOfRange, ErrRecreated, or what may pass
}

// maxFetch bounds an answer with many partitions.
const maxFetch = 16 << 20

// Error codes of a fetch by topic id.
const (
	errUnknownTopicID      = kafka.Error(100)
	errInconsistentTopicID = kafka.Error(103)
)

// Fetch reads up to maxBytes from each of some partitions that one broker leads,
// waiting up to maxWait for the first record. It returns at once where nothing
// can be read. The error is of the request as a whole; those of partitions are in
// Fetched.
//
// A topic is asked for by its id, the one it had when this client first read it:
// who reads a log does not find himself in another one of the same name.
func (c *Client) Fetch(ctx context.Context, wants []PartitionOffset, maxWait time.Duration, maxBytes int32) ([]Fetched, error) {
	var topics []string
	byTopic := map[string][]PartitionOffset{}
	for _, w := range wants {
		if byTopic[w.Topic] == nil {
			topics = append(topics, w.Topic)
		}
		byTopic[w.Topic] = append(byTopic[w.Topic], w)
	}
	body := appendInt32(nil, -1) // no replica
	body = appendInt32(body, int32(maxWait.Milliseconds()))
	body = appendInt32(body, 1)
	body = appendInt32(body, int32(min(int64(len(wants))*int64(maxBytes), max(maxFetch, int64(maxBytes)))))
	body = append(body, 0)      // read what is not committed, too: nobody writes transactions
	body = appendInt32(body, 0) // no session
	body = appendInt32(body, -1)
	e := &routed{exchange{key: protocol.Fetch, version: 13, flexible: true, client: c.cfg.ClientID}}
	body = binaryUvarint(body, uint64(len(topics)+1))
	names := make(map[topicID]string, len(topics))
	for _, t := range topics {
		id, err := c.topicID(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("fetch: %w", err)
		}
		names[id] = t
		body = append(body, id[:]...)
		body = binaryUvarint(body, uint64(len(byTopic[t])+1))
		for _, w := range byTopic[t] {
			body = appendInt32(body, w.Partition)
			body = appendInt32(body, -1) // whatever the leader's epoch
			body = appendInt64(body, w.Offset)
			body = appendInt32(body, w.Term-1)
			body = appendInt64(body, -1)
			body = appendInt32(body, maxBytes)
			body = append(body, 0)
			e.routes = append(e.routes, route{w.Topic, w.Partition})
		}
		body = append(body, 0)
	}
	body = append(body, 1, 1, 0) // nothing forgotten, no rack, no tags
	e.body = body

	ctx, cancel := context.WithTimeout(ctx, maxWait+requestTimeout)
	defer cancel()
	if _, err := c.transport.RoundTrip(ctx, c.addr, e); err != nil {
		if ctx.Err() == nil {
			c.refresh(ctx)
		}
		return nil, fmt.Errorf("fetch: %w", err)
	}
	got, stale, err := readFetched(e.answer, names, byTopic)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	for i := range got {
		if errors.Is(got[i].Err, errUnknownTopicID) || errors.Is(got[i].Err, errInconsistentTopicID) {
			if c.recreated(ctx, got[i].Topic) {
				got[i].Err = fmt.Errorf("%s: %w", got[i].Topic, ErrRecreated)
			}
		}
	}
	if stale {
		c.refresh(ctx)
	}
	if len(got) == 0 {
		return nil, errors.New("fetch: empty answer")
	}
	return got, nil
}

// readFetched reads the answer to a fetch. Stale: somebody else may lead.
func readFetched(answer []byte, names map[topicID]string, wants map[string][]PartitionOffset) (got []Fetched, stale bool, err error) {
	r := reader{b: answer}
	r.int32() // throttled
	if code := kafka.Error(r.int16()); code != 0 {
		return nil, false, code
	}
	r.int32() // session
	for range r.compactCount() {
		topic := names[r.topicID()]
		for range r.compactCount() {
			f := Fetched{Topic: topic, Partition: r.int32()}
			code := kafka.Error(r.int16())
			f.HighWatermark = r.int64()
			r.int64() // last stable offset
			f.LogStart = r.int64()
			for range r.compactCount() {
				r.int64()
				r.int64()
				r.tags()
			}
			r.int32() // preferred replica
			data := r.compactBytes()
			diverged := r.divergence()
			f.Size = len(data)
			if r.err != nil {
				break
			}
			switch {
			case code == 0 && diverged:
				f.Err = fmt.Errorf("the log of %s/%d is another one than was read so far: %w", topic, f.Partition, ErrOutOfRange)
			case code == 0:
				for _, w := range wants[topic] {
					if w.Partition == f.Partition {
						f.Records, f.Next, f.Err = record.DecodeBatches(topic, f.Partition, w.Offset, data)
						f.Term = record.LeaderEpoch(data, f.Next) + 1
					}
				}
			case code == kafka.OffsetOutOfRange:
				f.Err = ErrOutOfRange
			default:
				f.Err, stale = code, true
			}
			got = append(got, f)
		}
		r.tags()
	}
	r.tags()
	return got, stale, r.err
}

// topicID is what a topic's log is called by the brokers.
type topicID [16]byte

// topicID is the id that a topic had when it was first asked for.
func (c *Client) topicID(ctx context.Context, topic string) (topicID, error) {
	c.idsMu.Lock()
	id, ok := c.ids[topic]
	c.idsMu.Unlock()
	if ok {
		return id, nil
	}
	id, err := c.askTopicID(ctx, topic)
	if err != nil {
		return id, err
	}
	c.idsMu.Lock()
	defer c.idsMu.Unlock()
	if first, ok := c.ids[topic]; ok {
		return first, nil
	}
	c.ids[topic] = id
	return id, nil
}

func (c *Client) askTopicID(ctx context.Context, topic string) (id topicID, err error) {
	err = c.again(ctx, idTries, passing, func() error {
		d, err := c.describe(ctx, topic)
		if err == nil {
			err = d.one(topic)
		}
		if err == nil {
			id = d.topics[0].id
		}
		return err
	})
	if err != nil {
		return id, fmt.Errorf("ask for the id of %s: %w", topic, err)
	}
	return id, nil
}

// idTries bounds the wait for an answer to some tenths of a second: a connection
// that was idle may be dead.
const idTries = 4

// recreated tells whether a topic has another id by now. A broker that has not
// heard of a new topic yet does not know its id either.
func (c *Client) recreated(ctx context.Context, topic string) bool {
	was, err := c.topicID(ctx, topic)
	if err != nil {
		return false
	}
	now, err := c.askTopicID(ctx, topic)
	return err == nil && now != was
}
