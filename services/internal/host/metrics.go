package host

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// measure registers how the partitions that a runtime owns stand. The counters
// are those of the partition's state: they go on where another owner was.
func measure(m metric.Meter, r *stream.Runtime) error {
	b := builder{meter: m}
	counters := map[string]metric.Int64ObservableCounter{}
	for name, what := range map[string]string{
		"folded": "Facts folded into state.", "duplicates": "Records known already, folded once.",
		"unknown": "Records of a type that the processor does not read.", "dead": "Records put into the dead-letter topic.",
		"published": "Records published.", "woken": "Wake-ups that have come due.",
		"requeued": "Dead records that an operator has put back, folded again.",
	} {
		counters[name] = b.counter("processor.records."+name, what)
	}
	rewinds := b.counter("processor.rewinds", "Times a partition went back to what the store holds, since the claim.")
	gaps := b.counter("processor.gaps", "Times a claim found that the log had lost records before they were folded.")
	lost := b.gauge("processor.gap.records", "Records that the log had lost at the last such claim.")
	rollbacks := b.counter("processor.rollbacks", "Times the state had gone back behind what was committed.")
	rolledBack := b.counter("processor.rollback.records", "Records that were folded again because of that.")
	withheld := b.counter("processor.effects.withheld", "Effects not published: below the emission mark, or in silence.")
	unverified := b.counter("processor.anchors.unverified", "Claims that could not compare the log with the state, because the record had expired.")
	incomplete := b.gauge("processor.incomplete", "Gaps of the log that the state has stepped over, since it began.")
	silent := b.gauge("processor.silent", "1 where the partition folds without publishing until an operator decides.")
	lag := b.gauge("consumer.lag", "Records between the next one to fold and the end of the log.")
	waiting := b.gauge("processor.waiting", "Facts and wake-ups that wait for their time.")
	entities := b.gauge("processor.entities", "Entities with state.")
	state := b.gauge("processor.state", "1 for the state that the partition is in.")
	base := b.gauge("processor.base.age", "Seconds since the newest base of the state was taken.")
	clock := b.gauge("processor.clock.lag", "Seconds that the slowest live shop's clock is behind; shops at rest or importing do not count.")
	if b.err != nil {
		return b.err
	}
	_, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		now := time.Now()
		for _, i := range r.Info() {
			of := metric.WithAttributes(attribute.String("processor", i.Processor), attribute.Int("partition", int(i.Partition)))
			c := i.Status.Counts
			for name, n := range map[string]int64{
				"folded": c.Folded, "duplicates": c.Duplicates, "unknown": c.Unknown, "dead": c.Dead, "published": c.Published, "woken": c.Woken,
				"requeued": c.Requeued,
			} {
				o.ObserveInt64(counters[name], n, of)
			}
			o.ObserveInt64(rewinds, i.Stats.Rewinds, of)
			o.ObserveInt64(gaps, i.Stats.Gaps, of)
			o.ObserveInt64(lost, i.Stats.GapTo-i.Stats.GapFrom, of)
			o.ObserveInt64(rollbacks, i.Rollbacks, of)
			o.ObserveInt64(rolledBack, i.RolledBack, of)
			o.ObserveInt64(withheld, i.Stats.Silent, of)
			o.ObserveInt64(unverified, i.Stats.Unverified, of)
			o.ObserveInt64(incomplete, int64(len(i.Status.Incomplete)), of)
			mute := int64(0)
			if i.State == "silent" {
				mute = 1
			}
			o.ObserveInt64(silent, mute, of)
			o.ObserveInt64(lag, max(0, i.End-i.Next), of)
			o.ObserveInt64(waiting, int64(i.Status.Waiting), of)
			o.ObserveInt64(entities, int64(i.Status.Entities), of)
			o.ObserveInt64(state, 1, of, metric.WithAttributes(attribute.String("state", i.State)))
			if !i.BaseAt.IsZero() {
				o.ObserveInt64(base, int64(now.Sub(i.BaseAt).Seconds()), of)
			}
			if behind, ok := clockLag(i, now); ok {
				o.ObserveInt64(clock, behind, of)
			}
		}
		return nil
	}, b.all...)
	return err
}

// builder makes instruments, and remembers the first error and all instruments.
type builder struct {
	meter metric.Meter
	all   []metric.Observable
	err   error
}

func (b *builder) counter(name, what string) metric.Int64ObservableCounter {
	c, err := b.meter.Int64ObservableCounter(name, metric.WithDescription(what))
	b.add(c, err)
	return c
}

func (b *builder) gauge(name, what string) metric.Int64ObservableGauge {
	g, err := b.meter.Int64ObservableGauge(name, metric.WithDescription(what))
	b.add(g, err)
	return g
}

func (b *builder) add(o metric.Observable, err error) {
	if err != nil && b.err == nil {
		b.err = err
	}
	b.all = append(b.all, o)
}

// clockLag is how many seconds the slowest live shop of a partition is behind.
func clockLag(i stream.PartitionInfo, now time.Time) (behind int64, ok bool) {
	for _, s := range i.Status.Shops {
		if s.Mode == step.ModeLive && s.Clock > 0 {
			behind, ok = max(behind, (now.UnixMicro()-int64(s.Clock))/1_000_000), true
		}
	}
	return behind, ok
}
