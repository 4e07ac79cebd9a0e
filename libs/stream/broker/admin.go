package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strconv"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
)

// described is an answer of Metadata version 10.
type described struct {
	cluster string
	topics  []describedTopic
}

type describedTopic struct {
	err        kafka.Error
	name       string
	id         topicID
	partitions int
}

// one says what is wrong with the answer about one topic.
func (d described) one(topic string) error {
	if len(d.topics) != 1 || d.topics[0].name != topic {
		return fmt.Errorf("%d topics in the answer", len(d.topics))
	}
	if code := d.topics[0].err; code != 0 {
		return code
	}
	return nil
}

// describe asks a broker itself: kafka-go's metadata has no topic ids.
func (c *Client) describe(ctx context.Context, topics ...string) (described, error) {
	body := binaryUvarint(nil, uint64(len(topics)+1))
	for _, t := range topics {
		body = append(body, make([]byte, 16)...) // topic id: by name
		body = binaryUvarint(body, uint64(len(t)+1))
		body = append(append(body, t...), 0)
	}
	// No automatic creation, no authorised operations, no tags.
	body = append(body, 0, 0, 0, 0)
	e := &exchange{key: protocol.Metadata, version: 10, flexible: true, client: c.cfg.ClientID, body: body}
	if _, err := c.roundTrip(ctx, e); err != nil {
		return described{}, err
	}
	r := reader{b: e.answer}
	r.int32() // throttled
	for range r.compactCount() {
		r.int32()
		r.compact()
		r.int32()
		r.compact()
		r.tags()
	}
	d := described{cluster: r.compact()}
	r.int32() // controller
	for range r.compactCount() {
		t := describedTopic{err: kafka.Error(r.int16()), name: r.compact()}
		t.id = r.topicID()
		r.int8() // internal
		for range r.compactCount() {
			r.int16()
			r.int32()
			r.int32()
			r.int32()
			for range 3 {
				r.take(4 * r.compactCount())
			}
			r.tags()
			t.partitions++
		}
		r.int32()
		r.tags()
		d.topics = append(d.topics, t)
	}
	return d, r.err
}

func binaryUvarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

// ClusterID is the id of the cluster.
func (c *Client) ClusterID(ctx context.Context) (string, error) {
	d, err := c.describe(ctx)
	if err != nil {
		return "", fmt.Errorf("ask %s for the cluster: %w", strings.Join(c.cfg.Brokers, ","), err)
	}
	return d.cluster, nil
}

// LogID tells a topic's log from every other one: cluster id and topic id. A
// topic that was deleted and made again has another.
func (c *Client) LogID(ctx context.Context, topic string) (string, error) {
	d, err := c.describe(ctx, topic)
	if err == nil {
		err = d.one(topic)
	}
	if err != nil {
		return "", fmt.Errorf("ask for the id of %s: %w", topic, err)
	}
	// Separators of positions and fences do not occur in it.
	return strings.NewReplacer("/", "_", "|", "_").Replace(d.cluster) + ":" + hex.EncodeToString(d.topics[0].id[:]), nil
}

// Partitions is how many partitions a topic has.
func (c *Client) Partitions(ctx context.Context, topic string) (int, error) {
	leaders, err := c.leaders(ctx, topic)
	if err != nil {
		c.refresh(ctx)
		leaders, err = c.leaders(ctx, topic)
	}
	return len(leaders), err
}

// Topics lists the topics with their number of partitions, internal ones left
// out.
func (c *Client) Topics(ctx context.Context) (map[string]int, error) {
	c.refresh(ctx)
	if _, err := c.leaders(ctx, "!"); err != nil && !errors.Is(err, kafka.UnknownTopicOrPartition) {
		return nil, err
	}
	topics := map[string]int{}
	for name, leaders := range c.layout.Load().topics {
		if !strings.HasPrefix(name, "__") {
			topics[name] = len(leaders)
		}
	}
	return topics, nil
}

// TopicSpec is a topic as it should be.
type TopicSpec struct {
	Name        string
	Partitions  int
	Compact     bool
	RetentionMS int64 // -1: for ever
	Replication int   // 0: the broker's default
	Config      map[string]string
}

// EnsureTopics creates the topics that are missing. One that exists with
// another number of partitions is an error: keys would move.
func (c *Client) EnsureTopics(ctx context.Context, specs []TopicSpec) error {
	have, err := c.Topics(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	var errs []error
	req := &kafka.CreateTopicsRequest{}
	for _, s := range specs {
		if n, ok := have[s.Name]; ok {
			if n != s.Partitions {
				errs = append(errs, fmt.Errorf("topic %s has %d partitions, want %d: the number is chosen when the topics are made, for good", s.Name, n, s.Partitions))
			}
			continue
		}
		replication := s.Replication
		if replication == 0 {
			replication = -1
		}
		t := kafka.TopicConfig{Topic: s.Name, NumPartitions: s.Partitions, ReplicationFactor: replication}
		config := map[string]string{"message.timestamp.type": "LogAppendTime", "retention.ms": strconv.FormatInt(s.RetentionMS, 10)}
		if s.Compact {
			config["cleanup.policy"] = "compact"
			// Values of a key are few: what is stale goes within the hour.
			config["segment.ms"] = "3600000"
		}
		maps.Copy(config, s.Config)
		names := make([]string, 0, len(config))
		for k := range config {
			names = append(names, k)
		}
		sort.Strings(names)
		for _, k := range names {
			t.ConfigEntries = append(t.ConfigEntries, kafka.ConfigEntry{ConfigName: k, ConfigValue: config[k]})
		}
		req.Topics = append(req.Topics, t)
	}
	if len(errs) > 0 || len(req.Topics) == 0 {
		return errors.Join(errs...)
	}
	res, err := c.kafka.CreateTopics(ctx, req)
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	for _, t := range req.Topics {
		if err := res.Errors[t.Topic]; err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
			errs = append(errs, fmt.Errorf("create topic %s: %w", t.Topic, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	// Made is not yet led: wait until every partition has its leader.
	for n := 0; ; n++ {
		c.refresh(ctx)
		if c.led(ctx, specs) {
			return nil
		}
		if !backoff(ctx, n) {
			return fmt.Errorf("wait for the leaders of new topics: %w", ctx.Err())
		}
	}
}

func (c *Client) led(ctx context.Context, specs []TopicSpec) bool {
	for _, s := range specs {
		leaders, err := c.leaders(ctx, s.Name)
		if err != nil || len(leaders) != s.Partitions {
			return false
		}
		for _, l := range leaders {
			if l < 0 {
				return false
			}
		}
	}
	return true
}

// Timestamps with a meaning of their own in ListOffsets.
const (
	atStart = -2
	atEnd   = -1
)

// Bounds returns the first offset of a partition and the one that the next
// record will get.
func (c *Client) Bounds(ctx context.Context, topic string, partition int32) (start, end int64, err error) {
	if start, err = c.offset(ctx, topic, partition, atStart); err != nil {
		return 0, 0, err
	}
	end, err = c.offset(ctx, topic, partition, atEnd)
	return start, end, err
}

// OffsetAt returns the first offset whose append time is not before ms
// (milliseconds UTC), or -1 where there is none.
func (c *Client) OffsetAt(ctx context.Context, topic string, partition int32, ms int64) (int64, error) {
	return c.offset(ctx, topic, partition, ms)
}

func (c *Client) offset(ctx context.Context, topic string, partition int32, at int64) (int64, error) {
	var off int64
	// As patient as with coordinators: a topic that was just made has leaders
	// who do not know of it yet.
	err := c.again(ctx, coordinatorTries, passing, func() (err error) {
		off, err = c.askOffset(ctx, topic, partition, at)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ask for an offset of %s/%d: %w", topic, partition, err)
	}
	return off, nil
}

func (c *Client) askOffset(ctx context.Context, topic string, partition int32, at int64) (int64, error) {
	m, err := c.roundTrip(ctx, &listoffsets.Request{ReplicaID: -1, Topics: []listoffsets.RequestTopic{{
		Topic: topic, Partitions: []listoffsets.RequestPartition{{Partition: partition, CurrentLeaderEpoch: -1, Timestamp: at}},
	}}})
	if err != nil {
		return 0, err
	}
	res := m.(*listoffsets.Response)
	if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
		return 0, errors.New("answer of another partition")
	}
	p := res.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		return 0, kafka.Error(p.ErrorCode)
	}
	return p.Offset, nil
}

// Trim deletes the records of a partition below offset.
func (c *Client) Trim(ctx context.Context, topic string, partition int32, offset int64) error {
	var body []byte
	body = appendInt32(body, 1)
	body = appendString(body, topic)
	body = appendInt32(body, 1)
	body = appendInt32(body, partition)
	body = appendInt64(body, offset)
	body = appendInt32(body, int32(requestTimeout.Milliseconds()))
	e := &routed{exchange{key: protocol.DeleteRecords, version: 1, client: c.cfg.ClientID, body: body, routes: []route{{topic, partition}}}}
	if _, err := c.roundTrip(ctx, e); err != nil {
		return fmt.Errorf("trim %s/%d: %w", topic, partition, err)
	}
	r := reader{b: e.answer}
	r.int32()
	for range r.count() {
		r.string()
		for range r.count() {
			r.int32()
			r.int64()
			if code := kafka.Error(r.int16()); code != 0 {
				return fmt.Errorf("trim %s/%d: %w", topic, partition, code)
			}
		}
	}
	return r.err
}
