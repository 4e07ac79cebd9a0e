package stream

import (
	"context"
	"fmt"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// Standing is how a processor's partition stands, by what broker and store
// hold: it needs no owner, and tells nothing of one.
type Standing struct {
	Processor string               `json:"processor"`
	Topic     string               `json:"topic"`
	Partition int32                `json:"partition"`
	Claimed   bool                 `json:"claimed"` // somebody has claimed it at least once
	Released  bool                 `json:"released"`
	Next      int64                `json:"next"`
	Low       int64                `json:"low"` // oldest record that waits
	Start     int64                `json:"start"`
	End       int64                `json:"end"`
	Mark      int64                `json:"mark"`             // emission mark; -1 where there is none
	Silent    step.Silence         `json:"silent,omitempty"` // why it publishes nothing
	Voice     string               `json:"voice,omitempty"`  // what an operator has decided of that
	Status    step.PartitionStatus `json:"status"`
}

// Lag is how many records are not folded yet.
func (s Standing) Lag() int64 { return s.End - s.Next }

// Survey asks broker and store how all partitions of the processors stand.
func Survey(ctx context.Context, client *broker.Client, store *state.Store, ps []Processor) ([]Standing, error) {
	var all []Standing
	for _, p := range ps {
		n, err := client.Partitions(ctx, p.Topic)
		if err != nil {
			return nil, err
		}
		committed, err := client.Committed(ctx, p.Group(), p.Topic)
		if err != nil {
			return nil, err
		}
		places := make([]state.Place, n)
		for i := range places {
			places[i] = state.Place{Tag: p.Tag(int32(i)), Layout: p.Layout, Name: step.MetaKey}
		}
		metas, err := store.ReadMany(ctx, places)
		if err != nil {
			return nil, err
		}
		for i := range int32(n) {
			s := Standing{Processor: p.Name, Topic: p.Topic, Partition: i, Mark: -1}
			if s.Start, s.End, err = client.Bounds(ctx, p.Topic, i); err != nil {
				return nil, err
			}
			fence, err := store.Fence(ctx, p.Tag(i))
			if err != nil {
				return nil, err
			}
			if fence != "" {
				f, err := step.ParseFence(fence)
				if err != nil {
					return nil, fmt.Errorf("%s/%d: %w", p.Name, i, err)
				}
				s.Claimed, s.Released, s.Next, s.Low = true, f.Released, f.Next, f.Low
				if s.Silent = f.Voice.Silent; s.Silent == "" {
					s.Voice = f.Voice.String()
				}
			}
			if at, ok := committed[i]; ok {
				if m, err := step.ParseMark(at.Metadata); err == nil {
					s.Mark = m.Offset
				}
			}
			if metas[i] != nil {
				if s.Status, err = step.StatusOf(metas[i], p.Config("", i, n)); err != nil {
					return nil, fmt.Errorf("%s/%d: %w", p.Name, i, err)
				}
			}
			all = append(all, s)
		}
	}
	return all, nil
}
