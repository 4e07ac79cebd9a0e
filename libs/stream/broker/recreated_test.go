package broker_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/sillage-io/sillage/libs/stream/broker"
)

// TestReadersStayWithTheirLog: who reads a topic that is deleted and made again,
// and already longer than it was, is told so; records of the new one are none of
// his.
func TestReadersStayWithTheirLog(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 1)
		writer := c.NewSharedProducer()
		defer writer.Close(t.Context())
		if err := writer.Produce(t.Context(), outs(name, 0, 0, 3)); err != nil {
			t.Fatal(err)
		}
		at := broker.PartitionOffset{Topic: name}
		got, err := c.Fetch(t.Context(), []broker.PartitionOffset{at}, time.Second, 1<<20)
		if err != nil || got[0].Err != nil || got[0].Next != 3 {
			t.Fatalf("before: %+v, %v", got, err)
		}
		at.Offset, at.Term = got[0].Next, got[0].Term
		was, err := c.LogID(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		transport := &kafka.Transport{Context: ctx}
		defer func() { transport.CloseIdleConnections(); cancel() }()
		admin := &kafka.Client{Addr: kafka.TCP(brokers...), Timeout: 10 * time.Second, Transport: transport}
		gone, err := admin.DeleteTopics(t.Context(), &kafka.DeleteTopicsRequest{Topics: []string{name}})
		if err != nil || gone.Errors[name] != nil {
			t.Fatalf("delete %s: %v, %v", name, err, gone)
		}
		other := connect(t, brokers)
		for n := 0; ; n++ { // gone from every broker's mind
			err := other.EnsureTopics(t.Context(), []broker.TopicSpec{{Name: name, Partitions: 1, RetentionMS: -1}})
			if is, again := other.LogID(t.Context(), name); err == nil && again == nil && is != was {
				break
			}
			if n == 100 {
				t.Fatalf("%s is not made again: %v", name, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		anew := other.NewSharedProducer()
		defer anew.Close(t.Context())
		if err := anew.Produce(t.Context(), outs(name, 0, 100, 10)); err != nil {
			t.Fatal(err)
		}
		for n := 0; ; n++ {
			got, err := c.Fetch(t.Context(), []broker.PartitionOffset{at}, 100*time.Millisecond, 1<<20)
			if err == nil && len(got[0].Records) > 0 {
				t.Fatalf("%d records of another log", len(got[0].Records))
			}
			if err == nil && errors.Is(got[0].Err, broker.ErrRecreated) {
				break
			}
			if n == 100 {
				t.Fatalf("told %+v, %v, want that the topic is another one", got, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		got, err = other.Fetch(t.Context(), []broker.PartitionOffset{{Topic: name}}, time.Second, 1<<20)
		if err != nil || got[0].Err != nil || len(got[0].Records) != 10 {
			t.Errorf("who comes later reads %+v, %v, want the ten records of the new one", got, err)
		}
	})
}

// TestDivergedLogIsOutOfRange: a leader that says that its log differs from what
// was read so far (it has lost the end of it) is not read on.
func TestDivergedLogIsOutOfRange(t *testing.T) {
	answer := func(tags ...byte) []byte {
		b := append([]byte(nil), make([]byte, 4+2+4)...) // throttled, no error, session
		b = append(b, 2)                                 // one topic
		b = append(b, make([]byte, 16)...)               // its id
		b = append(b, 2)                                 // one partition
		b = append(b, make([]byte, 4+2)...)              // its number, no error
		for _, n := range []uint64{7, 7, 0} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		b = append(b, 0)                      // nothing aborted
		b = append(b, 0xff, 0xff, 0xff, 0xff) // no preferred replica
		b = append(b, 1)                      // no bytes
		b = append(b, tags...)
		return append(b, 0, 0)
	}
	epoch := append([]byte{1, 0, 13}, make([]byte, 13)...) // tag 0: epoch, end offset, no tags
	got, err := broker.ReadFetched(answer(epoch...), "t")
	if err != nil || len(got) != 1 || !errors.Is(got[0].Err, broker.ErrOutOfRange) {
		t.Errorf("diverged: %+v, %v, want out of range", got, err)
	}
	got, err = broker.ReadFetched(answer(0), "t")
	if err != nil || len(got) != 1 || got[0].Err != nil || got[0].HighWatermark != 7 {
		t.Errorf("nothing new: %+v, %v", got, err)
	}
	for cut := range answer(0) {
		if _, err := broker.ReadFetched(answer(0)[:cut], "t"); err == nil {
			t.Errorf("an answer cut off at %d is taken", cut)
		}
	}
}
