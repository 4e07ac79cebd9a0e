package restock_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/testkit"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	"github.com/sillage-io/sillage/services/restock"
)

// history is supply.v1 of a shop of 1,000 products, half a line of each a day on average and
// more of some than of others, for 200 days with two ticks each. Where stock is known,
// supplies of two weeks are ordered and come.
func history(b *testing.B, stock bool) (all []record.Record) {
	b.Helper()
	const products, days = 1000, 200
	random := rand.New(rand.NewPCG(1, 2))
	add := func(kind, product string, at time.Time, m proto.Message) {
		value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		n := int64(len(all))
		r := record.Record{Topic: topics.Supply, Offset: n, AppendTime: at.UnixMilli(), Value: value, Headers: []record.Header{
			{Key: record.HeaderID, Value: fmt.Appendf(nil, "c27ddba17a252131-%010d.0", n)},
			{Key: record.HeaderType, Value: []byte(kind)},
			{Key: record.HeaderTime, Value: strconv.AppendInt(nil, at.UnixMilli(), 10)},
			{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, at.UnixMicro(), 10)},
			{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "events", Offset: n}.String())},
		}}
		if product != "" {
			r.Key = []byte(testkit.Shop + "/" + product)
		}
		all = append(all, r)
	}
	fact := func(product int, kind eventv1.Kind, units int64, at time.Time) {
		id := strconv.Itoa(20000 + product)
		add(topics.TypeSupply, id, at, &profilev1.Supply{
			ProductId: id, Kind: kind, Units: units, EventTimeMs: at.UnixMilli(), OrderId: strconv.Itoa(len(all)), Name: "WHITE HANGING HEART T-LIGHT HOLDER", Price: &eventv1.Money{Micros: 2_550_000},
		})
	}
	for d := range days {
		at := opening.AddDate(0, 0, d)
		for p := range products {
			daily := float64(products) / float64(p+50) / 6
			if stock {
				switch period := int64(14*3*daily) + 1; (d + p) % 14 {
				case 0:
					fact(p, eventv1.Kind_KIND_GOODS_RECEIVED, period, at)
				case 7:
					fact(p, eventv1.Kind_KIND_PURCHASE_ORDERED, period, at)
				}
				if d == 0 {
					fact(p, eventv1.Kind_KIND_STOCK_LEVEL, 2*int64(14*3*daily)+2, at)
				}
			}
			for random.Float64() < daily/(1+daily) {
				fact(p, eventv1.Kind_KIND_ORDER_COMPLETED, 1+random.Int64N(5), at.Add(time.Duration(p)*10*time.Second))
			}
		}
		for _, h := range []int{4, 16} {
			t := at.Add(time.Duration(h) * time.Hour)
			add(step.TypeTick, "", t, &eventv1.Tick{TimeUs: t.UnixMicro()})
		}
	}
	return all
}

// fold folds a log from its start, in batches of a thousand.
func fold(b *testing.B, p stream.Processor, all []record.Record, follows func(step.Batch)) {
	b.Helper()
	folder := p.New(p.Config("log", 0, 1))
	if err := folder.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
		b.Fatal(err)
	}
	for from := 0; from < len(all); from += 1000 {
		for rest := all[from:min(from+1000, len(all))]; len(rest) > 0; {
			var batch step.Batch
			var err error
			if batch, rest, err = folder.Fold(rest); err != nil {
				b.Fatal(err)
			}
			follows(batch)
			folder.Settled()
		}
	}
}

// BenchmarkFold is a rebuild of restock.products without broker and store, of a shop whose
// products tell and whose layers come, and of one that is pinned.
func BenchmarkFold(b *testing.B) {
	for _, stock := range []bool{false, true} {
		for _, pinned := range []bool{true, false} {
			b.Run(fmt.Sprintf("stock=%t/pinned=%t", stock, pinned), func(b *testing.B) {
				cfg := restock.DefaultConfig()
				cfg.Pinned = pinned
				all := history(b, stock)
				supplies := len(all)
				if !pinned {
					all = learnt(b, cfg, all)
				}
				b.ReportAllocs()
				var stats, signals int
				n, before := 0, used(b)
				for b.Loop() {
					fold(b, restock.Processor(cfg), all, func(batch step.Batch) {
						for _, o := range batch.Outs {
							switch o.Topic {
							case topics.RestockStats:
								stats++
							case topics.RestockSignals:
								signals++
							}
						}
					})
					n += supplies
				}
				b.ReportMetric(float64((used(b)-before).Microseconds())/float64(n), "cpu-us/each")
				b.ReportMetric(float64(len(all)-supplies), "layers")
				b.ReportMetric(float64(stats)/float64(n), "stats/each")
				b.ReportMetric(float64(signals)/float64(n), "signals/each")
			})
		}
	}
}

// learnt is the log with the layers that a fitter puts into it, behind the ticks that made
// products tell.
func learnt(b *testing.B, cfg restock.Config, all []record.Record) (log []record.Record) {
	b.Helper()
	p, f := restock.Processor(cfg), restock.Fitter()
	products, fitter := p.New(p.Config("log", 0, 1)), f.New(f.Config("log", 0, 1))
	for _, folder := range []step.Folder{products, fitter} {
		if err := folder.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
			b.Fatal(err)
		}
	}
	var stats int64
	follow := func(folder step.Folder, r record.Record, follows func(record.Record)) {
		for rest := []record.Record{r}; len(rest) > 0; {
			batch, left, err := folder.Fold(rest)
			if err != nil {
				b.Fatal(err)
			}
			rest = left
			for _, o := range batch.Outs {
				if o.Topic == topics.RestockStats || o.Topic == topics.Supply {
					follows(record.Record{Topic: o.Topic, Key: o.Key, Value: o.Value, Headers: o.Headers, AppendTime: r.AppendTime})
				}
			}
			folder.Settled()
		}
	}
	var add func(r record.Record)
	add = func(r record.Record) {
		r.Offset = int64(len(log))
		log = append(log, r)
		follow(products, r, func(stat record.Record) {
			stat.Offset = stats
			stats++
			follow(fitter, stat, add)
		})
	}
	for _, r := range all {
		add(r)
	}
	return log
}

// used is the processor time of this process: wall time says little on a machine that
// others use.
func used(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
