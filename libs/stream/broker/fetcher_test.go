package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
)

func fetcher(t *testing.T, c *broker.Client, topic string, bytes int32) *broker.Fetcher {
	t.Helper()
	f := c.NewFetcher(topic, broker.FetcherConfig{Wait: 100 * time.Millisecond, Bytes: bytes, Total: 10 * bytes, Gather: time.Millisecond})
	t.Cleanup(f.Close)
	return f
}

// take reads n records from offset on, as an owner does.
func take(ctx context.Context, r *broker.Reader, offset int64, n int) ([]record.Record, error) {
	var all []record.Record
	for len(all) < n {
		got, err := r.Fetch(ctx, offset)
		if err != nil {
			return all, err
		}
		if got.Err != nil {
			return all, got.Err
		}
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
		all = append(all, got.Records...)
		if len(all) > 0 {
			offset = all[len(all)-1].Offset + 1
		}
	}
	return all, nil
}

// inOrder tells what is wrong with the records of a partition.
func inOrder(recs []record.Record, from, n int) error {
	if len(recs) != n {
		return fmt.Errorf("%d records, want %d", len(recs), n)
	}
	for i, r := range recs {
		if r.Offset != int64(from+i) || string(r.Value) != fmt.Sprintf("value %d", from+i) {
			return fmt.Errorf("record %d has offset %d and is %q", from+i, r.Offset, r.Value)
		}
	}
	return nil
}

// TestReadersAreFed reads several partitions at once, in requests that are
// smaller than a batch, larger, and as large as all.
func TestReadersAreFed(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		const partitions, records = 5, 900
		c := connect(t, brokers)
		name := topic(t, c, partitions)
		p := producer(t, c)
		for i := 0; i < records; i += 60 {
			for part := range int32(partitions) {
				if _, err := p.Produce(t.Context(), outs(name, part, i, 60)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, bytes := range []int32{100, 8 << 10, 1 << 20} {
			f := fetcher(t, c, name, bytes)
			var reading sync.WaitGroup
			for part := range int32(partitions) {
				reading.Go(func() {
					r := f.Reader(part)
					defer r.Close()
					from := int(part) * 100 // within a batch, too
					recs, err := take(t.Context(), r, int64(from), records-from)
					if err := errors.Join(err, inOrder(recs, from, records-from)); err != nil {
						t.Errorf("partition %d, %d bytes: %v", part, bytes, err)
					}
				})
			}
			reading.Wait()
		}
	})
}

func TestAReaderMayGoBack(t *testing.T) {
	backends(t, func(t *testing.T, brokers []string) {
		c := connect(t, brokers)
		name := topic(t, c, 2)
		p := producer(t, c)
		if _, err := p.Produce(t.Context(), outs(name, 0, 0, 50)); err != nil {
			t.Fatal(err)
		}
		f := fetcher(t, c, name, 1<<20)
		r, idle := f.Reader(0), f.Reader(1)
		for _, from := range []int{20, 0, 49, 30} {
			recs, err := take(t.Context(), r, int64(from), 50-from)
			if err := errors.Join(err, inOrder(recs, from, 50-from)); err != nil {
				t.Errorf("from %d: %v", from, err)
			}
		}
		if got, err := idle.Fetch(t.Context(), 0); err != nil || got.Err != nil || len(got.Records) != 0 {
			t.Errorf("an empty partition gives %d records, %v, %v", len(got.Records), got.Err, err)
		}
		if got, err := r.Fetch(t.Context(), 51); err != nil || !errors.Is(got.Err, broker.ErrOutOfRange) {
			t.Errorf("behind the end: %v, %v; want it out of range", got.Err, err)
		}
		// What is appended while nothing is there to read comes by itself.
		done := make(chan error, 1)
		go func() {
			recs, err := take(t.Context(), r, 50, 10)
			done <- errors.Join(err, inOrder(recs, 50, 10))
		}()
		if _, err := p.Produce(t.Context(), outs(name, 0, 50, 10)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		// One that is not read any more does not hold the others up.
		if _, err := p.Produce(t.Context(), outs(name, 1, 0, 10)); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if recs, err := take(t.Context(), idle, 0, 10); err != nil || inOrder(recs, 0, 10) != nil {
			t.Error(err, inOrder(recs, 0, 10))
		}
	})
}

// TestLeadersMove moves the leaders of all partitions while records are appended
// and read: nothing is missing, doubled or out of order. A broker of one node,
// real or not, has nowhere to move them to.
func TestLeadersMove(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	const partitions, records = 4, 600
	c := connect(t, cluster.ListenAddrs())
	name := topic(t, c, partitions)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f := fetcher(t, c, name, 4<<10)
	var working, moving sync.WaitGroup
	stop := make(chan struct{})
	moving.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				cluster.ShufflePartitionLeaders()
			}
		}
	})
	for part := range int32(partitions) {
		working.Go(func() {
			id, err := c.InitProducerID(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			p := c.NewProducer(id)
			for i := 0; i < records; i += 5 {
				if _, err := p.Produce(ctx, outs(name, part, i, 5)); err != nil {
					t.Error(err)
					return
				}
			}
		})
		working.Go(func() {
			r := f.Reader(part)
			var all []record.Record
			for len(all) < records && ctx.Err() == nil {
				recs, _ := take(ctx, r, int64(len(all)), records-len(all)) // the owner tries again after an error
				all = append(all, recs...)
			}
			if err := inOrder(all, 0, records); err != nil {
				t.Errorf("partition %d: %v", part, err)
			}
		})
	}
	working.Wait()
	close(stop)
	moving.Wait()
}
