package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

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
	Partitions int    // of the topics that carry the clock
	Dir        string // for snapshots of views; "": none are kept
}

// Part is what a service adds to a process.
type Part struct {
	Processors []stream.Processor
	Components []service.Component
	Register   func(*grpc.Server)
}

// Open connects, and waits until broker and store answer and the topics are
// there: made where Partitions is above 0, else expected. Bases is nil where
// the store is durable itself.
func Open(ctx context.Context, b broker.Config, s state.Config, bases *state.Bases, partitions int, log *slog.Logger) (*Host, error) {
	client, err := broker.New(b)
	if err != nil {
		return nil, err
	}
	store, err := state.Open(s)
	if err != nil {
		client.Close()
		return nil, err
	}
	h := &Host{Client: client, Store: store, Log: log, Runtime: stream.New(stream.DefaultConfig(), client, store, bases, log)}
	if err := h.await(ctx, partitions); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// await waits for broker, store and topics.
func (h *Host) await(ctx context.Context, partitions int) error {
	said := false
	for {
		err := errors.Join(h.Client.Ping(ctx), h.Store.Ping(ctx))
		if err == nil {
			break
		}
		if !said {
			h.Log.Warn("waiting for broker and store", slog.Any("err", err))
			said = true
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for broker and store: %w", err)
		case <-time.After(500 * time.Millisecond):
		}
	}
	if partitions > 0 {
		if err := h.Client.EnsureTopics(ctx, stream.Specs(partitions)); err != nil {
			return err
		}
	}
	n, err := h.Client.Partitions(ctx, topics.Events)
	if err != nil {
		return fmt.Errorf("find topics (sillage topics apply makes them): %w", err)
	}
	h.Partitions = n
	return nil
}

// Close ends the connections.
func (h *Host) Close() {
	h.Store.Close()
	h.Client.Close()
}

// Component runs a processor.
func (h *Host) Component(p stream.Processor) service.Component {
	return service.Component{Name: p.Name, Run: func(ctx context.Context) error { return h.Runtime.Run(ctx, p) }}
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
