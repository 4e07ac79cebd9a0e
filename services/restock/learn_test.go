package restock_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	domain "github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/testkit"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	restockv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/restock/v1"
	"github.com/sillage-io/sillage/services/restock"
)

// log is one partition of a topic, and who reads it.
type log struct {
	folder  step.Folder
	records []record.Record
}

func newLog(t *testing.T, p stream.Processor, partition, partitions int) *log {
	t.Helper()
	l := &log{folder: p.New(p.Config("log", int32(partition), partitions))}
	if err := l.folder.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
		t.Fatal(err)
	}
	return l
}

// append adds a record, and returns what follows.
func (l *log) append(t *testing.T, r record.Record) (outs []record.Out) {
	t.Helper()
	r.Offset = int64(len(l.records))
	l.records = append(l.records, r)
	for rest := []record.Record{r}; len(rest) > 0; {
		var b step.Batch
		var err error
		if b, rest, err = l.folder.Fold(rest); err != nil {
			t.Fatal(err)
		}
		for _, o := range b.Outs {
			if o.Topic == topics.DeadLetters {
				t.Fatalf("a dead letter: %q", o.Headers)
			}
		}
		outs = append(outs, b.Outs...)
		l.folder.Settled()
	}
	return outs
}

// state is what lies in the store under a name, as a lookup gives it.
func (l *log) state(t *testing.T, name string) []byte {
	t.Helper()
	for _, e := range l.folder.Dump() {
		if e.Key == testkit.Shop+"/"+name {
			b, err := step.StateOf(e.Value)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	return nil
}

// shop is both processors with some partitions of products.
type shop struct {
	t        *testing.T
	products []*log
	fitter   *log
	again    bool  // what follows is appended twice, as after a crash
	told     int   // stats
	layers   []int // day of each layer
	day      int
	n        int64
}

func newShop(t *testing.T, cfg restock.Config, partitions int) *shop {
	t.Helper()
	s := &shop{t: t, fitter: newLog(t, restock.Fitter(), 0, partitions)}
	for p := range partitions {
		s.products = append(s.products, newLog(t, restock.Processor(cfg), p, 1))
	}
	return s
}

// of is the partition of a product.
func (s *shop) of(product string) *log {
	return s.products[record.Partition([]byte(testkit.Shop+"/"+product), len(s.products))]
}

// follow routes what follows, and what follows from that.
func (s *shop) follow(outs []record.Out) {
	for _, o := range outs {
		times := 1
		if s.again {
			times = 2
		}
		for range times {
			r := record.Record{Topic: o.Topic, Key: o.Key, Value: o.Value, Headers: o.Headers, AppendTime: opening.UnixMilli()}
			switch o.Topic {
			case topics.RestockStats:
				s.told++
				s.follow(s.fitter.append(s.t, r))
			case topics.Supply:
				if len(o.Key) > 0 || o.Partition == record.ByKey {
					s.t.Fatalf("a layer of key %q for partition %d", o.Key, o.Partition)
				}
				if o.Partition == 0 {
					s.layers = append(s.layers, s.day)
				}
				s.follow(s.products[o.Partition].append(s.t, r))
			}
		}
	}
}

// supply is a record of supply.v1; without a product a tick.
func (s *shop) supply(kind, product string, at time.Time, m proto.Message) record.Record {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	s.n++
	r := record.Record{Topic: topics.Supply, AppendTime: at.UnixMilli(), Value: value, Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte("fact-" + strconv.FormatInt(s.n, 10))},
		{Key: record.HeaderType, Value: []byte(kind)},
		{Key: record.HeaderTime, Value: strconv.AppendInt(nil, at.UnixMilli(), 10)},
		{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, at.UnixMicro(), 10)},
		{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "events", Offset: s.n}.String())},
	}}
	if product != "" {
		r.Key = []byte(testkit.Shop + "/" + product)
	}
	return r
}

// tick says everywhere that it is so late.
func (s *shop) tick(at time.Time) {
	for _, p := range s.products {
		s.follow(p.append(s.t, s.supply(step.TypeTick, "", at, &eventv1.Tick{TimeUs: at.UnixMicro()})))
	}
}

// sold is what a product sells on a day: nothing on Saturdays, more on Fridays.
func sold(product, day int) int64 {
	weekday := opening.AddDate(0, 0, day).Weekday()
	switch {
	case weekday == time.Saturday || (day+product)%3 == 0:
		return 0
	case weekday == time.Friday:
		return int64(6 + (day*7+product*13)%5)
	}
	return int64(2 + (day*7+product*13)%3)
}

const assortment = 30

func named(product int) string { return fmt.Sprintf("p%02d", product) }

// lives lets the shop sell so many days.
func (s *shop) lives(days int) {
	s.t.Helper()
	for end := s.day + days; s.day < end; s.day++ {
		at := opening.AddDate(0, 0, s.day)
		for p := range assortment {
			units := sold(p, s.day)
			if units == 0 {
				continue
			}
			m := &profilev1.Supply{ProductId: named(p), Kind: eventv1.Kind_KIND_ORDER_COMPLETED, Units: units, EventTimeMs: at.UnixMilli(), OrderId: fmt.Sprintf("order-%d-%d", p, s.day)}
			s.follow(s.of(named(p)).append(s.t, s.supply(topics.TypeSupply, named(p), at, m)))
		}
		for t := at; t.Before(at.AddDate(0, 0, 1)); t = t.Add(30 * time.Minute) {
			s.tick(t)
		}
	}
}

// server answers from what lies in the store.
func (s *shop) server(cfg restock.Config) *restock.Server {
	return restock.NewServer(cfg, restock.Deps{
		Lookup: func(_ context.Context, _, id string) ([]byte, bool, error) {
			b := s.of(id).state(s.t, id)
			return b, b != nil, nil
		},
		Clock: func(context.Context, string, string) (step.Instant, []step.Interval, error) {
			return step.Instant(opening.AddDate(0, 0, s.day).UnixMicro()), nil, nil
		},
	})
}

func (s *shop) forecast(cfg restock.Config, product string, days uint32) *restockv1.GetForecastResponse {
	s.t.Helper()
	f, err := s.server(cfg).GetForecast(s.t.Context(), &restockv1.GetForecastRequest{Shop: testkit.Shop, ProductId: product, Days: days})
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// evaluated is the same shop as sillage eval restock replays it: products and pool side by
// side, every day closed for all of them.
func evaluated(days int) ([]domain.Product, *domain.Setting) {
	setting := domain.DefaultSetting()
	pool := domain.NewPool(1)
	products := make([]domain.Product, assortment)
	for d := range days {
		at := opening.AddDate(0, 0, d).UnixMicro()
		for p := range products {
			var told domain.Told
			setting.Tell = func(s domain.Stat) { told.Stats = append(told.Stats, s) }
			if units := sold(p, d); units > 0 {
				products[p].Sale(at, units, 0, &setting)
			}
			products[p].CloseDay(setting.Day(at), &setting)
			pool.Hear(told)
		}
		if l, due := pool.Next(); due {
			setting.Layer = l
		}
	}
	setting.Tell = nil
	return products, &setting
}

// TestWhatProductsTellComesBack: products in one partition or four tell a fitter, and what
// it learns changes their forecasts as it does in the evaluation.
func TestWhatProductsTellComesBack(t *testing.T) {
	const days = 75
	cfg := restock.DefaultConfig()
	pinned := cfg
	pinned.Pinned = true
	products, setting := evaluated(days)
	for _, partitions := range []int{1, 4} {
		t.Run(strconv.Itoa(partitions), func(t *testing.T) {
			s, unlearnt := newShop(t, cfg, partitions), newShop(t, pinned, partitions)
			s.lives(days)
			unlearnt.lives(days)
			if len(s.layers) < 12 || s.layers[0] > 2 || len(s.layers) > 30 {
				t.Errorf("layers on days %v", s.layers)
			}
			if s.told < assortment*days/2 || s.told > 2*assortment*days {
				t.Errorf("%d products have told on %d days", s.told, days)
			}
			if unlearnt.told != 0 || len(unlearnt.layers) != 0 {
				t.Errorf("pinned, and %d stats and %d layers", unlearnt.told, len(unlearnt.layers))
			}
			for p := range assortment {
				got, without := s.forecast(cfg, named(p), 1), unlearnt.forecast(pinned, named(p), 1)
				// The next day is a Saturday.
				if next := opening.AddDate(0, 0, days).Weekday(); next != time.Saturday {
					t.Fatalf("day %d is a %s", days, next)
				}
				if !strings.HasPrefix(got.ModelVersion, restock.ModelVersion+"+2026") || without.ModelVersion != restock.ModelVersion {
					t.Fatalf("versions %q and %q", got.ModelVersion, without.ModelVersion)
				}
				if !(got.Demand.Mean < .5*without.Demand.Mean) {
					t.Errorf("%s on a Saturday, when nothing was ever sold: %g, and %g without what was learnt", named(p), got.Demand.Mean, without.Demand.Mean)
				}
				long := s.forecast(cfg, named(p), 28)
				at := opening.AddDate(0, 0, days).UnixMicro()
				want, _ := products[p].Forecast(at, 28, setting)
				if math.Abs(long.Demand.Mean-want.Mean) > .01*want.Mean || math.Abs(float64(long.Demand.P90-want.Quantile(.9))) > 2 {
					t.Errorf("%s: 28 days of %g, 90 %% below %d; in the evaluation %g and %d", named(p), long.Demand.Mean, long.Demand.P90, want.Mean, want.Quantile(.9))
				}
			}
		})
	}
}

// TestRepeatsTeachNothing: what is published again after a crash, of products and of the
// fitter, changes no state; and who reads all partitions again ends with the same bytes.
func TestRepeatsTeachNothing(t *testing.T) {
	cfg := restock.DefaultConfig()
	once, twice := newShop(t, cfg, 2), newShop(t, cfg, 2)
	twice.again = true
	once.lives(40)
	twice.lives(40)
	dump := func(l *log) (all []byte) {
		for _, e := range l.folder.Dump() {
			if e.Key == step.MetaKey {
				continue // counts repeats
			}
			all = append(append(all, e.Key...), e.Value...)
		}
		return all
	}
	for i, l := range append(slices.Clone(once.products), once.fitter) {
		other := append(slices.Clone(twice.products), twice.fitter)[i]
		if len(dump(l)) == 0 || !bytes.Equal(dump(l), dump(other)) {
			t.Errorf("log %d: %d bytes of state, and others with repeats", i, len(dump(l)))
		}
		p := restock.Processor(cfg)
		if l == once.fitter {
			p = restock.Fitter()
		}
		partition, partitions := i, 1
		if l == once.fitter {
			partition, partitions = 0, 2
		}
		again := newLog(t, p, partition, partitions)
		for _, r := range l.records {
			again.append(t, r)
		}
		if !bytes.Equal(dump(again), dump(l)) {
			t.Errorf("log %d read again gives another state", i)
		}
	}
}

func TestFitterSaysWhatItCannotRead(t *testing.T) {
	for name, value := range map[string][]byte{"not protobuf": {0xff}, "no stats": {}, "other stats": {0x0a, 2, 9, 9}} {
		p := domain.Pool{}
		if err := (restock.FitterFold{}).Record(&p, step.Fact{Value: value}, 0, &step.Effects{}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := restock.NewFold(restock.DefaultConfig()).Model("", value); err == nil {
			t.Errorf("%s as a layer: no error", name)
		}
	}
}

func TestFitterCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p, got domain.Pool
		for range rapid.IntRange(0, 20).Draw(t, "days") {
			p.Hear(domain.Told{Stats: []domain.Stat{{Kind: domain.StatDay, Day: domain.Day(rapid.IntRange(0, 3000).Draw(t, "day")), Units: 1}}})
		}
		b := restock.FitterCodec{}.Append(nil, &p)
		if err := (restock.FitterCodec{}).Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(restock.FitterCodec{}.Append(nil, &got), b) {
			t.Fatal("packed, read and packed again it is another pool")
		}
	})
}
