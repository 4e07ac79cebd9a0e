package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// maxBatch bounds an encoded batch; brokers take 1 MiB by default.
const maxBatch = 900 << 10

// Error codes with a meaning of their own for an idempotent producer.
const (
	errCoordinatorLoading = kafka.Error(14)
	errOutOfOrder         = kafka.Error(45)
	errDuplicate          = kafka.Error(46)
	errEpoch              = kafka.Error(47)
)

// ProducerID is the identity of an idempotent producer. Who raises Epoch cuts
// off whoever writes with a lower one.
type ProducerID struct {
	ID    int64
	Epoch int16
}

// InitProducerID gets an identity that nobody has had.
func (c *Client) InitProducerID(ctx context.Context) (ProducerID, error) {
	for n := 0; ; n++ {
		m, err := c.roundTrip(ctx, &initproducerid.Request{TransactionTimeoutMs: -1, ProducerID: -1, ProducerEpoch: -1})
		if err == nil {
			r := m.(*initproducerid.Response)
			if r.ErrorCode == 0 {
				return ProducerID{ID: r.ProducerID, Epoch: r.ProducerEpoch}, nil
			}
			err = kafka.Error(r.ErrorCode)
			if !passing(err) && r.ErrorCode != int16(errCoordinatorLoading) {
				return ProducerID{}, fmt.Errorf("get a producer id: %w", err)
			}
		}
		if n >= 20 || !backoff(ctx, n) {
			return ProducerID{}, fmt.Errorf("get a producer id: %w", err)
		}
	}
}

// partition names a partition.
type partition struct {
	topic string
	index int32
}

// Producer appends records as one idempotent producer: what it was told is
// acknowledged stands in the log once, in the order it was given. It is not
// safe for concurrent use.
type Producer struct {
	client *Client
	id     ProducerID
	next   map[partition]int32 // sequence of the next record
}

// NewProducer returns a producer that has written nothing yet under id.
func (c *Client) NewProducer(id ProducerID) *Producer {
	return &Producer{client: c, id: id, next: map[partition]int32{}}
}

// chunk is an encoded batch of one partition.
type chunk struct {
	data  []byte // with its length in front, as the request wants it
	outs  []int  // indices into what Produce was given
	count int32
}

// queue is what has to go to one partition, in order.
type queue struct {
	at     partition
	chunks []chunk
	err    error // kept for the message: what the last attempt said
}

// Produce appends outs with acknowledgements of all in-sync replicas, and
// returns their offsets (-1 where the broker had the record already from an
// attempt whose answer was lost). It tries until ctx ends. After an error the
// producer must not be used again: what was in flight may or may not be in the
// log.
func (p *Producer) Produce(ctx context.Context, outs []record.Out) ([]int64, error) {
	if len(outs) == 0 {
		return nil, nil
	}
	queues, err := p.place(ctx, outs)
	if err != nil {
		return nil, err
	}
	offsets := make([]int64, len(outs))
	for n := 0; len(queues) > 0; {
		byLeader, unled, err := p.leaders(ctx, queues)
		if err != nil {
			if !passing(err) {
				return nil, err
			}
			unled = true
		}
		failed := unled
		var mu sync.Mutex
		var fatal []error
		var sending sync.WaitGroup
		for _, group := range byLeader {
			sending.Go(func() {
				bad, err := p.send(ctx, group, offsets)
				mu.Lock()
				defer mu.Unlock()
				failed = failed || bad
				if err != nil {
					fatal = append(fatal, err)
				}
			})
		}
		sending.Wait()
		if len(fatal) > 0 {
			return nil, errors.Join(fatal...)
		}
		left := queues[:0]
		for _, q := range queues {
			if len(q.chunks) > 0 {
				left = append(left, q)
			}
		}
		queues = left
		if !failed {
			n = 0
			continue
		}
		n++
		// Who waits for a new leader must not sleep past it.
		if !pause(ctx, min(10*time.Millisecond<<min(n-1, 6), 100*time.Millisecond)) {
			why := ctx.Err()
			for _, q := range queues {
				why = errors.Join(why, q.err)
			}
			return nil, fmt.Errorf("append %d records: %w", len(outs), why)
		}
		p.client.refresh(ctx)
	}
	return offsets, nil
}

// place encodes outs by partition.
func (p *Producer) place(ctx context.Context, outs []record.Out) ([]*queue, error) {
	counts := map[string]int32{}
	queues := map[partition]*queue{}
	var order []*queue
	type run struct {
		idx  []int
		size int
	}
	runs := map[partition]*run{}
	now := time.Now().UnixMilli()
	flush := func(at partition, r *run) {
		q := queues[at]
		batch := record.Batch{ProducerID: p.id.ID, Epoch: p.id.Epoch, Sequence: p.next[at], Time: now}
		b := record.AppendBatchOf(make([]byte, 4, r.size+128), batch, outs, r.idx)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		q.chunks = append(q.chunks, chunk{data: b, outs: r.idx, count: int32(len(r.idx))})
		p.next[at] = advance(p.next[at], int32(len(r.idx)))
		r.idx, r.size = nil, 0
	}
	for i := range outs {
		o := &outs[i]
		at := partition{o.Topic, o.Partition}
		if o.Partition == record.ByKey {
			n, ok := counts[o.Topic]
			if !ok {
				m, err := p.client.Partitions(ctx, o.Topic)
				if err != nil {
					return nil, fmt.Errorf("count partitions of %s: %w", o.Topic, err)
				}
				n = int32(m)
				counts[o.Topic] = n
			}
			at.index = record.Partition(o.Key, int(n))
		}
		size := record.RecordSize(o)
		if size > maxBatch {
			return nil, fmt.Errorf("record of %d bytes for %s: %w", size, o.Topic, ErrTooLarge)
		}
		r := runs[at]
		if r == nil {
			r = &run{}
			runs[at] = r
			queues[at] = &queue{at: at}
			order = append(order, queues[at])
		}
		if r.size+size > maxBatch {
			flush(at, r)
		}
		r.idx, r.size = append(r.idx, i), r.size+size
	}
	for _, q := range order {
		if r := runs[q.at]; len(r.idx) > 0 {
			flush(q.at, r)
		}
	}
	return order, nil
}

// advance adds to a sequence number, which wraps to 0 behind the largest int32.
func advance(seq, n int32) int32 { return int32((int64(seq) + int64(n)) % (1 << 31)) }

// leaders groups the queues by the broker that leads them.
func (p *Producer) leaders(ctx context.Context, queues []*queue) (groups map[int32][]*queue, unled bool, err error) {
	groups = map[int32][]*queue{}
	for _, q := range queues {
		leaders, err := p.client.leaders(ctx, q.at.topic)
		if err != nil {
			return nil, true, err
		}
		if int(q.at.index) >= len(leaders) || q.at.index < 0 {
			return nil, true, fmt.Errorf("topic %s has no partition %d: %w", q.at.topic, q.at.index, kafka.UnknownTopicOrPartition)
		}
		leader := leaders[q.at.index]
		if leader < 0 {
			q.err = fmt.Errorf("%s/%d has no leader", q.at.topic, q.at.index)
			unled = true
			continue
		}
		groups[leader] = append(groups[leader], q)
	}
	return groups, unled, nil
}

// send sends the first batch of each queue in one request. What is
// acknowledged leaves its queue. Bad: something has to be sent again.
func (p *Producer) send(ctx context.Context, queues []*queue, offsets []int64) (bad bool, err error) {
	req := &rawproduce.Request{Acks: -1, Timeout: 5000}
	at := map[string]int{}
	size := 0
	for _, q := range queues {
		if size > 0 && size+len(q.chunks[0].data) > 8<<20 {
			break // the rest goes with the next round
		}
		size += len(q.chunks[0].data)
		i, ok := at[q.at.topic]
		if !ok {
			i = len(req.Topics)
			at[q.at.topic] = i
			req.Topics = append(req.Topics, rawproduce.RequestTopic{Topic: q.at.topic})
		}
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rawproduce.RequestPartition{
			Partition: q.at.index, RecordSet: protocol.RawRecordSet{Reader: bytes.NewReader(q.chunks[0].data)},
		})
	}
	m, err := p.client.roundTrip(ctx, req)
	if err != nil {
		for _, q := range queues {
			q.err = err
		}
		return true, nil // the answer may be lost: the same bytes go again
	}
	byPartition := map[partition]*queue{}
	for _, q := range queues {
		byPartition[q.at] = q
	}
	for _, t := range m.(*produce.Response).Topics {
		for _, r := range t.Partitions {
			q := byPartition[partition{t.Topic, r.Partition}]
			if q == nil {
				continue
			}
			code := kafka.Error(r.ErrorCode)
			switch code {
			case 0, errDuplicate:
				for i, o := range q.chunks[0].outs {
					offsets[o] = -1
					if code == 0 && r.BaseOffset >= 0 {
						offsets[o] = r.BaseOffset + int64(i)
					}
				}
				q.chunks, q.err = q.chunks[1:], nil
			case errEpoch:
				return false, fmt.Errorf("append to %s/%d: %w", t.Topic, r.Partition, ErrOwnershipLost)
			case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge:
				return false, fmt.Errorf("append to %s/%d: %w", t.Topic, r.Partition, ErrTooLarge)
			default:
				q.err = fmt.Errorf("append to %s/%d: %w", t.Topic, r.Partition, code)
				if !passing(code) || code == errOutOfOrder {
					return false, q.err
				}
				bad = true
			}
		}
	}
	return bad, nil
}
