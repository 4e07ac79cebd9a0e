package stream

import (
	"fmt"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
)

// Processor is one consumer of one topic, with the state that follows from
// it.
type Processor struct {
	Name        string // service.processor: names group, state and status
	Topic       string
	Layout      state.Layout
	Order       step.Order
	Client      bool                                      // reads client records, which it stamps itself
	Foreign     func(*record.Record, *step.Foreign) error // reads what others write, see step.Foreign
	PassTo      []string                                  // topics that get the clock
	Model       string                                    // type of the records with what the shop's fitter has learnt (see step.Modelled)
	Broadcast   []string                                  // topics whose every partition the fold may write at once; outputs, too
	Types       []string                                  // record types that the fold knows
	Wants       func(step.Fact) bool                      // of these types; nil: all (see step.Config)
	FoldVersion int
	Outputs     []string // topics it publishes to, for verify
	New         func(step.Config) step.Folder
}

// Of returns the constructor of a processor's partitions.
func Of[S any](fold step.Fold[S], codec step.Codec[S]) func(step.Config) step.Folder {
	return func(cfg step.Config) step.Folder { return step.NewPartition(cfg, fold, codec) }
}

// Group is the processor's consumer group.
func (p Processor) Group() string { return "sillage." + p.Name }

// Tag names the state of one partition in the store.
func (p Processor) Tag(partition int32) string { return fmt.Sprintf("%s.%d", p.Name, partition) }

// Config is the step configuration of one partition.
func (p Processor) Config(log string, partition int32, partitions int) step.Config {
	cfg := step.Config{
		Processor: p.Name, Topic: p.Topic, Partition: partition, LogID: log,
		FoldVersion: p.FoldVersion, Order: p.Order, Client: p.Client, Sources: partitions,
		DeadLetters: topics.DeadLetters, Types: p.Types, Wants: p.Wants, Foreign: p.Foreign, Model: p.Model,
	}
	for _, t := range p.Broadcast {
		cfg.Broadcast = append(cfg.Broadcast, step.Target{Topic: t, Partitions: int32(partitions)})
	}
	for _, t := range p.PassTo {
		cfg.PassTo = append(cfg.PassTo, step.Target{Topic: t, Partitions: int32(partitions)})
	}
	return cfg
}

// Specs are the catalogue's topics as the broker creates them, with n
// partitions each.
func Specs(n int) []broker.TopicSpec {
	var specs []broker.TopicSpec
	for _, t := range topics.All() {
		keep := t.Keep.Milliseconds()
		if t.Compact {
			keep = -1
		}
		specs = append(specs, broker.TopicSpec{Name: t.Name, Partitions: n, Compact: t.Compact, RetentionMS: keep})
	}
	return specs
}
