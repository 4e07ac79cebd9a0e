package stream_test

import (
	"context"
	"encoding/binary"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
)

// freezer is the way to the brokers of a process that can be stopped as SIGSTOP
// does: nothing goes in or out until it is thawed, and then everything goes on
// where it was.
type freezer struct {
	mu     sync.Mutex
	thawed chan struct{} // closed while nothing is frozen
	cut    atomic.Bool   // for ever
}

func (f *freezer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	f.wait()
	if f.cut.Load() {
		return nil, net.ErrClosed
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return frozen{conn, f}, nil
}

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.thawed = make(chan struct{})
}

func (f *freezer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.thawed)
}

func (f *freezer) wait() {
	f.mu.Lock()
	thawed := f.thawed
	f.mu.Unlock()
	if thawed != nil {
		<-thawed
	}
}

type frozen struct {
	net.Conn
	by *freezer
}

func (c frozen) Write(b []byte) (int, error) {
	c.by.wait()
	if c.by.cut.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c frozen) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.by.wait()
	return n, err
}

// instance runs all processors as a process of its own would, with short timeouts.
func instance(t *testing.T, at place, ps []stream.Processor) (r *stream.Runtime, wire *freezer, stop func()) {
	t.Helper()
	wire = &freezer{}
	cfg := broker.DefaultConfig()
	cfg.Brokers, cfg.Dial = at.brokers, wire.dial
	cfg.SessionTimeout, cfg.HeartbeatInterval = 2*time.Second, 50*time.Millisecond
	client, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	at.client = client
	r, stop = member(t, at, ps)
	return r, wire, stop
}

// owned counts the partitions of each processor.
func owned(r *stream.Runtime) map[string]int {
	n := map[string]int{}
	for _, i := range r.Info() {
		n[i.Processor]++
	}
	return n
}

// TestOrderAndStateWhileInstancesComeAndGo goes from one instance to three, lets
// one of them freeze for longer than its session and come back, and goes down to
// two, all under load. Then the log is folded again, and what was published is
// read in the order of the log: every key's facts are there, one after the other.
func TestOrderAndStateWhileInstancesComeAndGo(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		if err := at.client.EnsureTopics(t.Context(), stream.Specs(partitions)); err != nil {
			t.Fatal(err)
		}
		ps := processors()
		if at.bases == nil { // a real store outlives the test: names of its own
			suffix := strconv.FormatInt(time.Now().UnixNano(), 36)
			ps[0].Name, ps[1].Name = ps[0].Name+suffix, ps[1].Name+suffix
		}
		at.bases = nil // of one process
		begun := make([]int64, partitions)
		for p := range begun {
			var err error
			if _, begun[p], err = at.client.Bounds(t.Context(), topics.Activity, int32(p)); err != nil {
				t.Fatal(err)
			}
		}
		f := &feed{t: t, producer: at.client.NewSharedProducer(), prefix: strconv.FormatInt(time.Now().UnixNano(), 36) + "-s-", now: time.Now().UnixMilli() - 1_000_000}
		defer f.producer.Close(context.Background())
		f.tick(0)
		ending := make(chan struct{})
		var loading sync.WaitGroup
		loading.Go(func() {
			for {
				select {
				case <-ending:
					return
				case <-time.After(10 * time.Millisecond):
					f.events(10)
					f.tick(10)
				}
			}
		})
		end := sync.OnceFunc(func() { close(ending); loading.Wait() })
		defer end()
		all := func(rs ...*stream.Runtime) bool {
			for _, p := range ps {
				n := 0
				for _, r := range rs {
					has := owned(r)[p.Name]
					if has < partitions/len(rs) {
						return false
					}
					n += has
				}
				if n != partitions {
					return false
				}
			}
			return true
		}
		moved := func(rs ...*stream.Runtime) func() bool {
			before := map[*stream.Runtime]int64{}
			for _, r := range rs {
				before[r] = folded(r, ps[0].Name)
			}
			return func() bool {
				for _, r := range rs {
					if folded(r, ps[0].Name) <= before[r] {
						return false
					}
				}
				return true
			}
		}
		first, _, stopFirst := instance(t, at, ps)
		waitFor(t, "one has all", func() bool { return all(first) })
		waitFor(t, "one works", moved(first))
		second, _, stopSecond := instance(t, at, ps)
		third, wire, stopThird := instance(t, at, ps)
		waitFor(t, "three share", func() bool { return all(first, second, third) })
		waitFor(t, "three work", moved(first, second, third))
		wire.freeze()
		waitFor(t, "two have all", func() bool { return all(first, second) })
		waitFor(t, "two work", moved(first, second))
		wire.thaw()
		waitFor(t, "three share again", func() bool { return all(first, second, third) })
		waitFor(t, "three work again", moved(first, second, third))
		stopFirst()
		waitFor(t, "the other two have all", func() bool { return all(second, third) })
		waitFor(t, "the other two work", moved(second, third))
		end()
		// Beyond what tests before this one have told a log that outlives them (one of
		// them goes through 18 s, and may have begun 4 s ago), and not so far that those
		// behind it could not go on from there.
		f.tick(30_000)
		waitFor(t, "all is folded", func() bool { return caught(t, at, 2*partitions, second, third) })
		stopSecond()
		stopThird()

		for _, p := range ps {
			for i := range int32(partitions) {
				v, err := stream.Verify(t.Context(), at.client, at.store, nil, p, i)
				if err != nil {
					t.Fatal(err)
				}
				if !v.OK() {
					t.Errorf("%s/%d: %+v", p.Name, i, v)
				}
			}
			marksAreThoseOfTheFences(t, at, p)
		}
		facts := inOrder(t, at.client, f.prefix, begun)
		if want := uint64(f.sent - f.sent/97); facts != want {
			t.Errorf("%d facts published, want %d", facts, want)
		}
	})
}

// marksAreThoseOfTheFences checks that the last word on every partition was its
// last owner's, who has left cleanly.
func marksAreThoseOfTheFences(t *testing.T, at place, p stream.Processor) {
	t.Helper()
	committed, err := at.client.Committed(t.Context(), p.Group(), p.Topic)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int32(partitions) {
		held, err := at.store.Dump(t.Context(), p.Tag(i), p.Layout)
		if err != nil {
			t.Fatal(err)
		}
		fence, err := step.ParseFence(held.Fence)
		if err != nil {
			t.Fatal(err)
		}
		mark, err := step.ParseMark(committed[i].Metadata)
		if err != nil {
			t.Fatal(err)
		}
		want := step.Mark{LogID: fence.LogID, ProducerID: fence.ProducerID, Epoch: fence.Epoch, Offset: fence.Next}
		if !fence.Released || mark != want || committed[i].Offset != fence.Next {
			t.Errorf("%s/%d: committed %d with %+v, the fence is %+v", p.Name, i, committed[i].Offset, mark, fence)
		}
	}
}

// inOrder reads what has been published for the test's keys and returns how many
// facts that is. A record with a position that is not new is dropped, as readers
// do.
func inOrder(t *testing.T, client *broker.Client, prefix string, begun []int64) (total uint64) {
	t.Helper()
	type place struct {
		offset  int64
		ordinal int32
	}
	for p := range begun {
		last := map[string]uint64{}
		highest := map[string]place{}
		_, end, err := client.Bounds(t.Context(), topics.Activity, int32(p))
		if err != nil {
			t.Fatal(err)
		}
		for at := begun[p]; at < end; {
			got, err := client.Fetch(t.Context(), []broker.PartitionOffset{{Topic: topics.Activity, Partition: int32(p), Offset: at}}, time.Second, 1<<20)
			if err != nil || got[0].Err != nil {
				t.Fatal(err, got)
			}
			at = got[0].Next
			for _, r := range got[0].Records {
				if string(r.Header(record.HeaderType)) != "count" || !strings.HasPrefix(string(r.Key), "shop/"+prefix) {
					continue
				}
				source, offset, ordinal, ok := record.CutPosition(r.Header(record.HeaderPosition))
				if !ok {
					t.Fatalf("%s: position %q", r.Key, r.Header(record.HeaderPosition))
				}
				before, known := highest[string(source)]
				if known && (offset < before.offset || offset == before.offset && ordinal <= before.ordinal) {
					continue
				}
				highest[string(source)] = place{offset, ordinal}
				n, _ := binary.Uvarint(r.Value)
				if want := last[string(r.Key)] + 1; n != want {
					t.Fatalf("%s: fact %d stands where fact %d belongs", r.Key, n, want)
				}
				last[string(r.Key)] = n
				total++
			}
		}
	}
	return total
}
