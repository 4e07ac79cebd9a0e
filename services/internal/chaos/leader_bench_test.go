package chaos

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/services/internal/lab"
)

// BenchmarkLeaderMove measures how long writing and reading stand still when the
// leader of a topic moves to another of three brokers, as it does at a rolling
// restart: the longest time between two answers around each of 20 moves. It
// starts the brokers it needs.
func BenchmarkLeaderMove(b *testing.B) {
	if *flagSystem != "three" {
		b.Skip("-chaos.system is not three: no three brokers of its own")
	}
	const (
		topic   = "moving"
		nodes   = 3
		moves   = 20
		pace    = 2 * time.Millisecond
		settled = 1500 * time.Millisecond
	)
	server := lab.NewKafka(b, b.TempDir(), nodes)
	server.Start()
	cfg := broker.DefaultConfig()
	cfg.Brokers = strings.Split(server.Addr, ",")
	client, err := broker.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	err = client.EnsureTopics(ctx, []broker.TopicSpec{{Name: topic, Partitions: 1, Config: map[string]string{"min.insync.replicas": "2"}}})
	if err != nil {
		b.Fatal(err)
	}
	id, err := client.InitProducerID(ctx)
	if err != nil {
		b.Fatal(err)
	}

	var written, read answers
	var running sync.WaitGroup
	work, stop := context.WithCancel(ctx)
	running.Go(func() {
		p := client.NewProducer(id)
		for work.Err() == nil {
			if _, err := p.Produce(work, []record.Out{{Topic: topic, Value: []byte("x")}}); err != nil {
				if !errors.Is(err, context.Canceled) {
					b.Errorf("write: %v", err)
				}
				return
			}
			written.note()
			time.Sleep(pace)
		}
	})
	fetcher := client.NewFetcher(topic, broker.FetcherConfig{Wait: 500 * time.Millisecond, Bytes: 1 << 20, Total: 4 << 20})
	defer fetcher.Close()
	running.Go(func() {
		r := fetcher.Reader(0)
		defer r.Close()
		for at := int64(0); work.Err() == nil; {
			got, err := r.Fetch(work, at)
			if err = errors.Join(err, got.Err); err != nil {
				continue // as an owner does, which asks again
			}
			if len(got.Records) > 0 {
				read.note()
			}
			at = max(at, got.Next)
		}
	})
	time.Sleep(settled)
	var writing, reading []time.Duration
	for i := range moves {
		began := time.Now()
		if err := lab.PreferLeader(cfg.Brokers[0], topic, 1, int32(i%nodes+1), nodes); err != nil {
			b.Fatal(err)
		}
		time.Sleep(settled)
		writing, reading = append(writing, written.longest(began)), append(reading, read.longest(began))
	}
	stop()
	running.Wait()
	for _, c := range []struct {
		name string
		took []time.Duration
	}{{"write", writing}, {"read", reading}} {
		slices.Sort(c.took)
		b.ReportMetric(float64(c.took[moves/2].Milliseconds()), c.name+"-ms-median")
		b.ReportMetric(float64(c.took[moves-1].Milliseconds()), c.name+"-ms-longest")
	}
	b.ReportMetric(0, "ns/op") // it is one run
}

// answers are the times at which something was answered. It is safe for
// concurrent use.
type answers struct {
	mu sync.Mutex
	at []time.Time
}

func (a *answers) note() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = append(a.at, time.Now())
}

// longest is the longest time without an answer since one before from.
func (a *answers) longest(from time.Time) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 1; i < len(a.at); i++ {
		if a.at[i].After(from) {
			longest = max(longest, a.at[i].Sub(a.at[i-1]))
		}
	}
	if n := len(a.at); n > 0 {
		longest = max(longest, time.Since(a.at[n-1]))
	}
	return longest
}
