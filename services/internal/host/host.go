package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
)

// Host is the ground of one process. It is safe for concurrent use.
type Host struct {
	Client     *broker.Client
	Store      *state.Store
	Runtime    *stream.Runtime
	Log        *slog.Logger
	Partitions int         // of the topics that carry the clock
	Dir        string      // for snapshots of views; "": none are kept
	Full       func() bool // tells whether there is no room for more events; nil: never asked

	mu    sync.Mutex
	views map[stream.Place]int64 // from where on their snapshots need the log
}

// Kept notes that a view has a snapshot on disk that goes on at next.
func (h *Host) Kept(next map[stream.Place]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.views == nil {
		h.views = map[stream.Place]int64{}
	}
	maps.Copy(h.views, next)
}

// KeptAt tells from where on the snapshot of a view needs a topic's partition;
// false where there is none.
func (h *Host) KeptAt(at stream.Place) (int64, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, ok := h.views[at]
	return n, ok
}

// Part is what a service adds to a process.
type Part struct {
	Processors []stream.Processor
	Components []service.Component
	Register   func(*grpc.Server)       // nil: it answers no gRPC
	Measure    func(metric.Meter) error // nil: it counts nothing of its own
	Addresses  []string                 // what else it answers on, as name=address
}

// Config is what a host connects to.
type Config struct {
	Broker     broker.Config
	Store      *state.Config // nil: none, for a process that folds and looks up nothing
	Bases      *state.Bases  // nil where the store is durable itself
	BaseEvery  time.Duration // how often a base is taken; 0: the default
	Partitions int           // of topics that are not there yet; 0: they are waited for
}

// Open connects, and waits until broker, store and topics are there.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Host, error) {
	client, err := broker.New(cfg.Broker)
	if err != nil {
		return nil, err
	}
	h := &Host{Client: client, Log: log}
	if cfg.Store != nil {
		if h.Store, err = state.Open(*cfg.Store); err != nil {
			client.Close()
			return nil, err
		}
		rcfg := stream.DefaultConfig()
		if cfg.BaseEvery > 0 {
			rcfg.BaseEvery = cfg.BaseEvery
		}
		if cfg.Bases != nil {
			rcfg.FetchBytes = 1 << 20 // broker and store share this memory
		}
		h.Runtime = stream.New(rcfg, client, h.Store, cfg.Bases, log)
	}
	specs := stream.Specs(cfg.Partitions)
	for i := range specs {
		if cfg.Bases != nil {
			specs[i].RetentionMS = -1 // cut by stream.Retention
		}
	}
	if cfg.Partitions == 0 {
		specs = nil
	}
	if err := h.await(ctx, specs); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// await waits for broker, store and topics, and says once what it waits for.
func (h *Host) await(ctx context.Context, specs []broker.TopicSpec) error {
	said := ""
	for {
		err := h.reach(ctx, specs)
		if err == nil {
			return nil
		}
		if what := err.Error(); what != said {
			h.Log.Warn("waiting", slog.Any("for", err))
			said = what
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for broker, store and topics: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// reach asks broker and store once, and makes the topics where it may.
func (h *Host) reach(ctx context.Context, specs []broker.TopicSpec) error {
	err := h.Client.Ping(ctx)
	if h.Store != nil {
		err = errors.Join(err, h.Store.Ping(ctx))
	}
	if err != nil {
		return err
	}
	if len(specs) > 0 {
		if err := h.Client.EnsureTopics(ctx, specs); err != nil {
			return err
		}
	}
	h.Partitions, err = h.Client.Partitions(ctx, topics.Events)
	if err != nil {
		return fmt.Errorf("topics (sillage topics apply makes them): %w", err)
	}
	return nil
}

// Close ends the connections.
func (h *Host) Close() {
	if h.Store != nil {
		h.Store.Close()
	}
	h.Client.Close()
}

// Component runs a processor. It is ready also where a partition is silent or has
// halted: another instance would fare no better; its detail says so.
func (h *Host) Component(p stream.Processor) service.Component {
	return service.Component{
		Name:   p.Name,
		Run:    func(ctx context.Context) error { return h.Runtime.Run(ctx, p) },
		Detail: func() string { return detail(h.Runtime.Info(), p.Name) },
	}
}

// detail says which partitions of a processor need an operator.
func detail(all []stream.PartitionInfo, name string) string {
	var reasons []string
	which := map[string][]string{}
	for _, i := range all {
		if i.Processor != name || i.Reason == "" {
			continue
		}
		if which[i.Reason] == nil {
			reasons = append(reasons, i.Reason)
		}
		which[i.Reason] = append(which[i.Reason], strconv.Itoa(int(i.Partition)))
	}
	for n, r := range reasons {
		reasons[n] = "partition " + strings.Join(which[r], ", ") + " " + r
	}
	return strings.Join(reasons, "; ")
}

// place is where an entity of a processor lies.
func (h *Host) place(p stream.Processor, shop, id string) state.Place {
	key := step.Key{Shop: shop, ID: id}.String()
	return state.Place{Tag: p.Tag(record.Partition([]byte(key), h.Partitions)), Layout: p.Layout, Name: key}
}

// Lookup reads the states of entities of one shop in one round trip; nil where
// there is none.
func (h *Host) Lookup(p stream.Processor) func(ctx context.Context, shop string, ids []string) ([][]byte, error) {
	return func(ctx context.Context, shop string, ids []string) ([][]byte, error) {
		places := make([]state.Place, len(ids))
		for i, id := range ids {
			places[i] = h.place(p, shop, id)
		}
		values, err := h.Store.ReadMany(ctx, places)
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			if v == nil {
				continue
			}
			if values[i], err = step.StateOf(v); err != nil {
				return nil, err
			}
		}
		return values, nil
	}
}

// LookupOne reads the state of one entity.
func (h *Host) LookupOne(p stream.Processor) func(ctx context.Context, shop, id string) ([]byte, bool, error) {
	many := h.Lookup(p)
	return func(ctx context.Context, shop, id string) ([]byte, bool, error) {
		values, err := many(ctx, shop, []string{id})
		if err != nil {
			return nil, false, err
		}
		return values[0], values[0] != nil, nil
	}
}

// Clock reads where a shop's clock stands in the partition of an entity.
func (h *Host) Clock(p stream.Processor) func(ctx context.Context, shop, id string) (step.Instant, []step.Interval, error) {
	return func(ctx context.Context, shop, id string) (step.Instant, []step.Interval, error) {
		at := h.place(p, shop, id)
		data, ok, err := h.Store.Read(ctx, at.Tag, at.Layout, step.MetaKey)
		if err != nil || !ok {
			return 0, nil, err
		}
		return step.ShopTime(data, shop)
	}
}

// Watch calls each for every record appended to a topic from now on.
func (h *Host) Watch(ctx context.Context, topic string, each func(record.Record) error) error {
	return stream.NewView(h.Client, h.Log, stream.FromEnd, each, topic).Run(ctx)
}
