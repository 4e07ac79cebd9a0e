package stream_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// BenchmarkHandOver measures how long a partition's state stands still in the
// store under steady load while instances come, go and die: with everything that
// a claim does. It runs on the real servers that SILLAGE_TEST_KAFKA and
// SILLAGE_TEST_REDIS name, best on new ones.
func BenchmarkHandOver(b *testing.B) {
	kafka, redis := os.Getenv("SILLAGE_TEST_KAFKA"), os.Getenv("SILLAGE_TEST_REDIS")
	if kafka == "" || redis == "" {
		b.Skip("SILLAGE_TEST_KAFKA and SILLAGE_TEST_REDIS are not set: no real broker and store to measure")
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "state stands still for, ms\tmoved\tstayed\t\n")
	for _, c := range []struct {
		name     string
		static   bool
		wait     time.Duration
		instance int // how many there are
		do       func(s *shift)
	}{
		{"nothing happens", false, 2 * time.Second, 2, func(*shift) {}},
		{"another one joins", false, 3 * time.Second, 1, func(s *shift) { s.start("") }},
		{"one of two leaves", false, 3 * time.Second, 2, func(s *shift) { s.hands[1].stop() }},
		{"one of two is killed", false, 9 * time.Second, 2, func(s *shift) { s.hands[1].kill() }},
		{"a static one of two is killed and back 1 s later", true, 4 * time.Second, 2, func(s *shift) {
			s.hands[1].kill()
			time.Sleep(time.Second)
			s.start("i1")
		}},
	} {
		moved, stayed := handOver(b, strings.Split(kafka, ","), redis, c.instance, c.static, c.wait, c.do)
		fmt.Fprintf(w, "%s\t%d\t%d\t\n", c.name, moved.Milliseconds(), stayed.Milliseconds())
	}
	w.Flush()
	b.Logf("\n%s", table.String())
	b.ReportMetric(0, "ns/op")
}

// shift are the instances that work on one processor.
type shift struct {
	b       *testing.B
	brokers []string
	redis   string
	p       stream.Processor
	hands   []*hand
}

// hand is one instance.
type hand struct {
	wire  *freezer
	store *state.Store
	stop  func()
}

// kill ends an instance without a word to broker or store.
func (h *hand) kill() {
	h.wire.cut.Store(true)
	h.store.Close()
	h.stop()
}

func (s *shift) start(instance string) {
	h := &hand{wire: &freezer{}}
	bcfg, scfg := broker.DefaultConfig(), state.DefaultConfig()
	bcfg.Brokers, bcfg.InstanceID, bcfg.Dial = s.brokers, instance, h.wire.dial
	scfg.Addrs = []string{s.redis}
	client, err := broker.New(bcfg)
	if err != nil {
		s.b.Fatal(err)
	}
	if h.store, err = state.Open(scfg); err != nil {
		s.b.Fatal(err)
	}
	cfg := stream.DefaultConfig()
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.b.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := stream.New(cfg, client, h.store, nil, slog.New(slog.DiscardHandler)).Run(ctx, s.p); err != nil && !h.wire.cut.Load() {
			s.b.Error(err)
		}
	})
	h.stop = sync.OnceFunc(func() {
		cancel()
		if h.wire.cut.Load() {
			go func() { running.Wait(); client.Close() }() // nobody waits for the dead
			return
		}
		running.Wait()
		client.Close()
		h.store.Close()
	})
	s.hands = append(s.hands, h)
}

func handOver(b *testing.B, brokers []string, redis string, instances int, static bool, wait time.Duration, do func(*shift)) (moved, stayed time.Duration) {
	b.Helper()
	bcfg, scfg := broker.DefaultConfig(), state.DefaultConfig()
	bcfg.Brokers, scfg.Addrs = brokers, []string{redis}
	client, err := broker.New(bcfg)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	store, err := state.Open(scfg)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	if err := client.EnsureTopics(b.Context(), stream.Specs(partitions)); err != nil {
		b.Fatal(err)
	}
	s := &shift{b: b, brokers: brokers, redis: redis, p: processors()[0]}
	s.p.Name += strconv.FormatInt(time.Now().UnixNano(), 36)
	f := &feed{t: b, producer: client.NewSharedProducer(), prefix: strconv.FormatInt(time.Now().UnixNano(), 36) + "-h-", now: time.Now().UnixMilli() - 1_000_000}
	defer f.producer.Close(context.Background())
	ending := make(chan struct{})
	var busy sync.WaitGroup
	defer busy.Wait()
	defer close(ending)
	busy.Go(func() {
		for {
			select {
			case <-ending:
				return
			case <-time.After(10 * time.Millisecond):
				f.events(20)
				f.tick(10)
			}
		}
	})
	for i := range instances {
		instance := ""
		if static {
			instance = "i" + strconv.Itoa(i)
		}
		s.start(instance)
	}
	defer func() {
		for _, h := range s.hands {
			h.stop()
		}
	}()
	type part struct {
		next    int64
		at      time.Time
		nonce   string
		moved   bool
		longest time.Duration
	}
	var parts [partitions]part
	look := func() {
		for i := range parts {
			text, err := store.Fence(b.Context(), s.p.Tag(int32(i)))
			if err != nil || text == "" {
				continue
			}
			fence, err := step.ParseFence(text)
			if err != nil {
				b.Fatal(err)
			}
			p, now := &parts[i], time.Now()
			p.longest = max(p.longest, now.Sub(p.at))
			if fence.Next != p.next {
				p.next, p.at = fence.Next, now
			}
			if fence.Nonce != p.nonce {
				p.nonce, p.moved = fence.Nonce, true
			}
		}
		time.Sleep(time.Millisecond)
	}
	// Everything is read, and everybody has a share.
	for begun := time.Now(); time.Since(begun) < 5*time.Second; {
		look()
	}
	for {
		behind := int64(0)
		look()
		for i := range parts {
			_, end, err := client.Bounds(b.Context(), s.p.Topic, int32(i))
			if err != nil {
				b.Fatal(err)
			}
			behind = max(behind, end-parts[i].next)
		}
		if behind < 200 {
			break
		}
	}
	for i := range parts {
		parts[i].at, parts[i].longest, parts[i].moved = time.Now(), 0, false
	}
	acted := make(chan struct{})
	go func() {
		do(s)
		close(acted)
	}()
	for begun := time.Now(); time.Since(begun) < wait; {
		look()
	}
	<-acted
	for i := range parts {
		if parts[i].moved {
			moved = max(moved, parts[i].longest)
		} else {
			stayed = max(stayed, parts[i].longest)
		}
	}
	return moved, stayed
}
