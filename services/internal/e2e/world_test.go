package e2e

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/topics"
	"github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/collector"
	"github.com/sillage-io/sillage/services/internal/host"
	"github.com/sillage-io/sillage/services/internal/simulator"
	"github.com/sillage-io/sillage/services/profile"
	"github.com/sillage-io/sillage/services/recommender"
	"github.com/sillage-io/sillage/services/restock"
)

// inside answers requests without a network.
type inside struct{ handler http.Handler }

func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	i.handler.ServeHTTP(answer, r)
	return answer.Result(), nil
}

// queued is a pipe whose writes do not wait for the reader, as a socket's do not:
// a client that sends many commands at once would wait for the server, and the
// server, which answers the first, for the client.
type queued struct {
	net.Conn

	mu      sync.Mutex
	waiting []byte
	closed  bool
	wake    chan struct{} // 1: something waits
}

func newQueued(c net.Conn) *queued {
	q := &queued{Conn: c, wake: make(chan struct{}, 1)}
	go q.pass()
	return q
}

func (q *queued) pass() {
	for range q.wake {
		q.mu.Lock()
		b := q.waiting
		q.waiting = nil
		q.mu.Unlock()
		if _, err := q.Conn.Write(b); err != nil {
			return
		}
	}
}

func (q *queued) Write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, net.ErrClosed
	}
	q.waiting = append(q.waiting, b...)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return len(b), nil
}

// SetWriteDeadline has nothing to bound: writes do not wait.
func (q *queued) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline bounds reads.
func (q *queued) SetDeadline(t time.Time) error { return q.SetReadDeadline(t) }

func (q *queued) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.wake)
	}
	return q.Conn.Close()
}

// TestAShopInVirtualTime lets the simulated shop live for a quarter of an hour on
// all services, the real clients of broker and store among them, on a clock that
// runs as fast as the work is done: whoever is due in that time is alerted, at the
// moment and once.
func TestAShopInVirtualTime(t *testing.T) {
	const lives = 15 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		wires := &kfake.VirtualNetwork{}
		kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(wires.Listen))
		if err != nil {
			t.Fatal(err)
		}
		defer kafka.Close()
		redis := miniredis.NewMiniRedis()
		defer redis.Close()
		cfg := host.Config{Broker: broker.DefaultConfig(), Partitions: 2}
		cfg.Broker.Brokers, cfg.Broker.Dial = kafka.ListenAddrs(), wires.DialContext
		store := state.DefaultConfig()
		store.Addrs = []string{"127.0.0.1:6379"}
		store.Dial = func(context.Context, string, string) (net.Conn, error) {
			c, err := redis.Dial()
			if err != nil {
				return nil, err
			}
			return newQueued(c), nil
		}
		cfg.Store = &store
		log := slog.New(slog.DiscardHandler)
		h, err := host.Open(t.Context(), cfg, log)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()

		dir := t.TempDir()
		keys := filepath.Join(dir, "keys.yaml")
		if err := collector.WriteKeys(keys, []collector.Key{
			{ID: "admin", Key: "ak_of-the-world", Kind: collector.Admin},
			{ID: "public", Key: "pk_of-the-world", Kind: collector.Public, Shop: "demo"},
			{ID: "secret", Key: "sk_of-the-world", Kind: collector.Secret, Shop: "demo"},
		}); err != nil {
			t.Fatal(err)
		}
		producer := h.Client.NewSharedProducer()
		ccfg := collector.DefaultConfig()
		ccfg.KeysFile, ccfg.ShopsFile = keys, filepath.Join(dir, "shops.json")
		door, err := collector.New(ccfg, collector.Deps{Publish: producer.Produce, Partitions: h.Partitions, Now: time.Now, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		components := []service.Component{{Name: "ticks", Run: door.Run}}
		add := func(p host.Part, err error) {
			if err != nil {
				t.Fatal(err)
			}
			components = append(components, p.Components...)
		}
		pcfg, rcfg, kcfg := profile.DefaultConfig(), recommender.DefaultConfig(), churn.DefaultConfig()
		pcfg.IdentitySecret, rcfg.IdentitySecret, kcfg.IdentitySecret = secret, secret, secret
		add(profile.Part(h, pcfg))
		add(recommender.Part(h, rcfg))
		add(churn.Part(h, kcfg))
		add(restock.Part(h, restock.DefaultConfig()))

		// What leaves the system, with when it did.
		late, signals := map[string]time.Duration{}, 0
		var mu sync.Mutex
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			_ = h.Watch(ctx, topics.ChurnAlerts, func(r record.Record) error {
				var a churn.Payload
				if err := json.Unmarshal(r.Value, &a); err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				if _, again := late[a.AlertID]; again {
					t.Errorf("alert %s twice", a.AlertID)
				}
				if a.Kind == "raised" && !a.Historical {
					late[a.AlertID] = time.Since(time.UnixMilli(a.DueMS))
				}
				return nil
			})
		})
		running.Go(func() {
			_ = h.Watch(ctx, topics.RestockSignals, func(r record.Record) error {
				mu.Lock()
				defer mu.Unlock()
				if string(r.Header(record.HeaderHistorical)) != "1" {
					signals++
				}
				return nil
			})
		})
		group := service.New(service.DefaultConfig(), log)
		ready := make(chan struct{}, 1)
		running.Go(func() {
			if err := group.Run(ctx, func() { ready <- struct{}{} }, components...); err != nil {
				t.Error(err)
			}
		})
		<-ready

		shop := simulator.DefaultConfig()
		shop.URL, shop.Admin, shop.Public, shop.Secret = "http://collector", "ak_of-the-world", "pk_of-the-world", "sk_of-the-world"
		shop.EventsPerSecond, shop.Client, shop.Log = 2, &http.Client{Transport: inside{door.Handler()}}, log
		opened := make(chan struct{}, 1)
		shop.Opened = func() { opened <- struct{}{} }
		running.Go(func() {
			if err := simulator.Run(ctx, shop); err != nil {
				t.Error(err)
			}
		})
		<-opened
		time.Sleep(lives)
		stop()
		running.Wait()
		drain, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
		defer cancel()
		producer.Close(drain)

		if len(late) < 20 || signals == 0 {
			t.Errorf("%d alerts and %d signals in %v of a shop of which dozens were to leave, want more", len(late), signals, lives)
		}
		for id, d := range late {
			// A tick period and the way through two processors.
			if d < 0 || d > 3*time.Second {
				t.Errorf("alert %s came %v after it was due", id, d)
			}
		}
		t.Logf("%d alerts, %d signals", len(late), signals)
	})
}
