package stream_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/embedded"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counter counts facts and says so; wake-ups count, too.
type counter struct {
	topic string
	every step.Instant
}

type count struct{ facts, wakes uint64 }

func (c counter) Record(s *count, f step.Fact, now step.Instant, out *step.Effects) error {
	if strings.HasSuffix(f.ID, "-poison") {
		return fmt.Errorf("poison")
	}
	s.facts++
	if c.topic != "" {
		out.Publish(step.Message{Topic: c.topic, Key: out.Key().ID, Type: "count", Kind: "count", Value: binary.AppendUvarint(nil, s.facts)})
	}
	out.WakeAt(now + c.every)
	return nil
}

func (c counter) Wake(s *count, _ step.Key, _ step.Instant, _ *step.Effects) { s.wakes++ }

type countCodec struct{}

func (countCodec) Append(b []byte, s *count) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, s.facts), s.wakes)
}

func (countCodec) Unmarshal(b []byte, s *count) error {
	var n int
	s.facts, n = binary.Uvarint(b)
	s.wakes, _ = binary.Uvarint(b[n:])
	return nil
}

func processors() []stream.Processor {
	return []stream.Processor{
		{
			Name: "test.arrival", Topic: topics.Events, Layout: state.PerKey, Order: step.OnArrival, Client: true, PassTo: []string{topics.Activity},
			Types: []string{step.TypeEvent}, FoldVersion: 1, Outputs: []string{topics.Activity},
			New: stream.Of[count](counter{topics.Activity, 3_600_000_000}, countCodec{}),
		},
		{
			Name: "test.ordered", Topic: topics.Activity, Layout: state.Buckets, Order: step.InTimeOrder,
			Types: []string{"count"}, FoldVersion: 1,
			New: stream.Of[count](counter{"", 500_000}, countCodec{}),
		},
	}
}

// place is a broker and a store: the embedded ones, or real ones.
type place struct {
	brokers []string
	client  *broker.Client
	store   *state.Store
	bases   *state.Bases
}

func backends(t *testing.T, run func(t *testing.T, at place)) {
	t.Helper()
	connect := func(t *testing.T, brokers []string, redis string) place {
		bcfg, scfg := broker.DefaultConfig(), state.DefaultConfig()
		bcfg.Brokers, scfg.Addrs, scfg.Buckets = brokers, []string{redis}, 32
		client, err := broker.New(bcfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		store, err := state.Open(scfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return place{brokers: brokers, client: client, store: store}
	}
	t.Run("embedded", func(t *testing.T) {
		b, err := embedded.Open(embedded.Config{Dir: t.TempDir(), KafkaAddr: "127.0.0.1:0", RedisAddr: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		at := connect(t, b.Brokers, b.Redis)
		at.bases = b.Bases
		run(t, at)
	})
	t.Run("real", func(t *testing.T) {
		kafka, redis := os.Getenv("SILLAGE_TEST_KAFKA"), os.Getenv("SILLAGE_TEST_REDIS")
		if kafka == "" || redis == "" {
			t.Skip("SILLAGE_TEST_KAFKA and SILLAGE_TEST_REDIS are not set: no real broker and store to test against")
		}
		run(t, connect(t, strings.Split(kafka, ","), redis))
	})
}

const partitions = 4

// feed appends events and ticks as a collector does.
type feed struct {
	t        *testing.T
	producer *broker.SharedProducer
	prefix   string
	sent     int
	now      int64 // ms
}

func (f *feed) events(n int) {
	f.t.Helper()
	var outs []record.Out
	for range n {
		id := f.prefix + strconv.Itoa(f.sent)
		if f.sent%97 == 96 {
			id += "-poison"
		}
		e := &eventv1.Event{MessageId: id, Shop: "shop", EventTimeMs: f.now - int64(f.sent%5000), Kind: eventv1.Kind_KIND_OTHER}
		value, err := proto.Marshal(e)
		if err != nil {
			f.t.Fatal(err)
		}
		out := record.Out{Topic: topics.Events, Partition: record.ByKey, Key: fmt.Appendf(nil, "shop/%s%d", f.prefix, f.sent%53), Value: value, Headers: []record.Header{
			{Key: record.HeaderID, Value: []byte(id)},
			{Key: record.HeaderType, Value: []byte(step.TypeEvent)},
			{Key: record.HeaderTime, Value: strconv.AppendInt(nil, e.EventTimeMs, 10)},
		}}
		outs = append(outs, out)
		if f.sent%11 == 0 {
			outs = append(outs, out) // the client has sent it twice
		}
		f.sent++
	}
	if err := f.producer.Produce(f.t.Context(), outs); err != nil {
		f.t.Fatal(err)
	}
}

func (f *feed) tick(ms int64) {
	f.t.Helper()
	f.now += ms
	value, err := proto.Marshal(&eventv1.Tick{TimeUs: f.now * 1000})
	if err != nil {
		f.t.Fatal(err)
	}
	var outs []record.Out
	for p := range int32(partitions) {
		outs = append(outs, record.Out{Topic: topics.Events, Partition: p, Value: value, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeTick)}}})
	}
	if err := f.producer.Produce(f.t.Context(), outs); err != nil {
		f.t.Fatal(err)
	}
}

// member runs all processors until stop is called.
func member(t *testing.T, at place, ps []stream.Processor) (r *stream.Runtime, stop func()) {
	cfg := stream.DefaultConfig()
	cfg.BaseEvery = 200 * time.Millisecond
	r = stream.New(cfg, at.client, at.store, at.bases, slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError})))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, p := range ps {
		running.Go(func() {
			if err := r.Run(ctx, p); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); running.Wait() }) }
	t.Cleanup(stop)
	return r, stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// TestStateIsTheFoldOfTheLog runs two hops while members come and go, and then
// folds the log again.
func TestStateIsTheFoldOfTheLog(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		if err := at.client.EnsureTopics(t.Context(), stream.Specs(partitions)); err != nil {
			t.Fatal(err)
		}
		ps := processors()
		if at.bases == nil { // a real store outlives the test: names of its own
			suffix := strconv.FormatInt(time.Now().UnixNano(), 36)
			ps[0].Name, ps[1].Name = ps[0].Name+suffix, ps[1].Name+suffix
		}
		f := &feed{t: t, producer: at.client.NewSharedProducer(), prefix: strconv.FormatInt(time.Now().UnixNano(), 36) + "-", now: time.Now().UnixMilli() - 1_000_000}
		defer f.producer.Close(context.Background())
		f.tick(0)
		first, stopFirst := member(t, at, ps)
		f.events(500)
		f.tick(1000)
		waitFor(t, "the first member works", func() bool { return folded(first, ps[0].Name) > 0 })
		second, stopSecond := member(t, at, ps)
		for range 10 {
			f.events(100)
			f.tick(1000)
		}
		waitFor(t, "both members work", func() bool { return len(first.Info()) > 0 && len(second.Info()) > 0 })
		f.events(300)
		stopFirst()
		f.events(200)
		f.tick(4000)
		third, stopThird := member(t, at, ps)
		f.events(100)
		f.tick(2000)
		f.tick(10_000_000)
		waitFor(t, "all is folded", func() bool { return caught(t, at, 2*partitions, second, third) })
		stopSecond()
		stopThird()

		var facts, poison uint64
		for _, p := range ps {
			for i := range int32(partitions) {
				v, err := stream.Verify(t.Context(), at.client, at.store, nil, p, i)
				if err != nil {
					t.Fatal(err)
				}
				if !v.OK() {
					t.Errorf("%s/%d: %+v", p.Name, i, v)
				}
				if v.To == 0 {
					t.Errorf("%s/%d: nothing was folded", p.Name, i)
				}
				poison += uint64(v.Dead)
				held, err := at.store.Dump(t.Context(), p.Tag(i), p.Layout)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range held.Entities {
					if e.Key == step.MetaKey || !strings.HasPrefix(e.Key, "shop/"+f.prefix) {
						continue
					}
					data, err := step.StateOf(e.Value)
					if err != nil {
						t.Fatal(err)
					}
					var c count
					if err := (countCodec{}).Unmarshal(data, &c); err != nil {
						t.Fatal(err)
					}
					facts += c.facts
				}
			}
		}
		if want := uint64(2 * (f.sent - f.sent/97)); facts != want {
			t.Errorf("%d facts counted in two hops, want %d", facts, want)
		}
		if want := uint64(f.sent / 97); poison < want {
			t.Errorf("%d dead letters, want %d", poison, want)
		}
		if at.bases != nil {
			tags, err := at.bases.Tags()
			if err != nil || len(tags) == 0 {
				t.Errorf("bases of %v, %v: want some", tags, err)
			}
		}
	})
}

// caught tells whether n partitions are at the end of their log, with nothing
// waiting for its time.
func caught(t *testing.T, at place, n int, rs ...*stream.Runtime) bool {
	t.Helper()
	for _, r := range rs {
		for _, i := range r.Info() {
			if i.State != "running" || i.Status.Waiting > 0 {
				return false
			}
			_, end, err := at.client.Bounds(t.Context(), i.Topic, i.Partition)
			if err != nil || i.Next != end {
				return false
			}
			n--
		}
	}
	return n == 0
}

func folded(r *stream.Runtime, name string) (n int64) {
	for _, i := range r.Info() {
		if i.Processor == name {
			n += i.Status.Counts.Folded
		}
	}
	return n
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 600 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("waited in vain: %s", what)
}

// TestStoreThatLostEverythingIsFilledAgain wipes the store under the
// processors: state comes back from the log, and nothing is said twice.
func TestStoreThatLostEverythingIsFilledAgain(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		if err := at.client.EnsureTopics(t.Context(), stream.Specs(partitions)); err != nil {
			t.Fatal(err)
		}
		ps := processors()[:1]
		if at.bases == nil { // a real store outlives the test: a name of its own
			ps[0].Name += strconv.FormatInt(time.Now().UnixNano(), 36)
		}
		f := &feed{t: t, producer: at.client.NewSharedProducer(), prefix: strconv.FormatInt(time.Now().UnixNano(), 36) + "-w-", now: time.Now().UnixMilli() - 1_000_000}
		defer f.producer.Close(context.Background())
		f.tick(0)
		r, stop := member(t, at, ps)
		f.events(400)
		f.tick(1000)
		waitFor(t, "all is folded", func() bool { return caught(t, at, partitions, r) })
		want := folded(r, ps[0].Name) // more than was sent, where the log is older than the test
		stop()
		for i := range int32(partitions) {
			if err := at.store.Restore(t.Context(), ps[0].Tag(i), ps[0].Layout, step.State{}); err != nil {
				t.Fatal(err)
			}
		}
		r, stop = member(t, at, ps)
		waitFor(t, "all is folded again", func() bool { return caught(t, at, partitions, r) })
		if got := folded(r, ps[0].Name); got != want {
			t.Errorf("%d folded again, want %d", got, want)
		}
		f.events(50)
		f.tick(1000)
		want += int64(f.sent - f.sent/97 - 400 + 400/97)
		waitFor(t, "it goes on", func() bool { return folded(r, ps[0].Name) == want })
		stop()
		for i := range int32(partitions) {
			v, err := stream.Verify(t.Context(), at.client, at.store, nil, ps[0], i)
			if err != nil {
				t.Fatal(err)
			}
			// On a log that is older, processors of other tests have said the same.
			if !v.OK() || v.Repeats > 0 && at.bases != nil {
				t.Errorf("partition %d: %+v", i, v)
			}
		}
	})
}

// TestViewHandsOverEveryRecord reads two topics with a reader for each partition,
// which begin while the others are still being started.
func TestViewHandsOverEveryRecord(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		if err := at.client.EnsureTopics(t.Context(), stream.Specs(partitions)); err != nil {
			t.Fatal(err)
		}
		f := &feed{t: t, producer: at.client.NewSharedProducer(), prefix: strconv.FormatInt(time.Now().UnixNano(), 36) + "-v-", now: time.Now().UnixMilli() - 1_000_000}
		defer f.producer.Close(context.Background())
		f.events(300)
		var mu sync.Mutex
		seen := map[string]int{}
		view := stream.NewView(at.client, slog.New(slog.DiscardHandler), stream.FromStart, func(r record.Record) error {
			if id := string(r.Header(record.HeaderID)); strings.HasPrefix(id, f.prefix) {
				mu.Lock()
				defer mu.Unlock()
				seen[string(r.Key)+id]++
			}
			return nil
		}, topics.Events, topics.Activity)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- view.Run(ctx) }()
		waitFor(t, "all is handed over", func() bool { return view.Lag() == 0 })
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(seen) != f.sent {
			t.Errorf("%d records handed over, want %d", len(seen), f.sent)
		}
	})
}
