package churn_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	domain "github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/libs/domain/identity"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/testkit"
	"github.com/sillage-io/sillage/libs/topics"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	"github.com/sillage-io/sillage/services/churn"
)

// lane is one partition of a processor and the log that it reads.
type lane struct {
	p         stream.Processor
	log       string
	partition int32
	of        int
	folder    step.Folder
	records   []record.Record
}

func newLane(t *testing.T, p stream.Processor, log string, partition int32, of int) *lane {
	t.Helper()
	l := &lane{p: p, log: log, partition: partition, of: of}
	l.folder = p.New(p.Config(log, partition, of))
	if err := l.folder.Restore(step.State{}, step.Fence{LogID: log}); err != nil {
		t.Fatal(err)
	}
	return l
}

// append puts a record at the end of the log, and returns what follows.
func (l *lane) append(t *testing.T, r record.Record) []record.Out {
	t.Helper()
	r.Topic, r.Partition, r.Offset = l.p.Topic, l.partition, int64(len(l.records))
	l.records = append(l.records, r)
	return fold(t, l.folder, r)
}

func fold(t *testing.T, f step.Folder, r record.Record) []record.Out {
	t.Helper()
	var outs []record.Out
	for rest := []record.Record{r}; len(rest) > 0; {
		var b step.Batch
		var err error
		if b, rest, err = f.Fold(rest); err != nil {
			t.Fatal(err)
		}
		for _, o := range b.Outs {
			if o.Topic == topics.DeadLetters {
				t.Fatalf("dead letter: %s", headerOf(o.Headers, record.HeaderReason))
			}
			outs = append(outs, o)
		}
		f.Settled()
	}
	return outs
}

func headerOf(all []record.Header, name string) string {
	for _, h := range all {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// shop is both processors of the service with n partitions of customers.
type shop struct {
	t         *testing.T
	n         int
	customers []*lane
	fitter    *lane
	stats     []domain.Stat
	versions  []string // of the models that were broadcast
	alerts    []churn.Payload
	facts     int64
}

func newShop(t *testing.T, n int, cfg churn.Config) *shop {
	t.Helper()
	s := &shop{t: t, n: n, fitter: newLane(t, churn.Fitter(cfg), "stats", 0, n)}
	for i := range n {
		s.customers = append(s.customers, newLane(t, churn.Processor(cfg), "activity", int32(i), n))
	}
	return s
}

// derived is a record as profile writes it.
func (s *shop) derived(key, kind string, at time.Time, m proto.Message) record.Record {
	s.t.Helper()
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	s.facts++
	r := record.Record{AppendTime: at.UnixMilli(), Value: value, Headers: []record.Header{
		{Key: record.HeaderID, Value: fmt.Appendf(nil, "fact-%d", s.facts)},
		{Key: record.HeaderType, Value: []byte(kind)},
		{Key: record.HeaderTime, Value: strconv.AppendInt(nil, at.UnixMilli(), 10)},
		{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, at.UnixMicro(), 10)},
	}}
	if key != "" {
		r.Key = []byte(testkit.Shop + "/" + key)
	}
	return r
}

// at is a record with its place in events.v1.
func at(r record.Record, partition int32, offset int64) record.Record {
	r.Headers = append(slices.Clip(r.Headers), record.Header{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "events", Partition: partition, Offset: offset}.String())})
	return r
}

func (s *shop) order(who string, when time.Time, euros int64) {
	s.t.Helper()
	id := identity.ProfileID([]byte(secret), testkit.Shop, who)
	a := order(fmt.Sprintf("%s-%d", who, s.facts), euros)
	a.ProfileId, a.EventTimeMs = id, when.UnixMilli()
	r := s.derived(id, topics.TypeActivity, when, a)
	p := record.Partition(r.Key, s.n)
	s.took(s.customers[p].append(s.t, at(r, 0, s.facts)))
}

// tick says on every source and to every partition what time it is.
func (s *shop) tick(when time.Time) {
	s.t.Helper()
	for source := range s.n {
		r := s.derived("", step.TypeTick, when, &eventv1.Tick{TimeUs: when.UnixMicro()})
		for _, l := range s.customers {
			s.took(l.append(s.t, at(r, int32(source), s.facts)))
		}
	}
}

// took carries what follows to who reads it.
func (s *shop) took(outs []record.Out) {
	s.t.Helper()
	for _, o := range outs {
		r := record.Record{Key: o.Key, Value: o.Value, Headers: o.Headers}
		switch o.Topic {
		case topics.ChurnStats:
			var v churnv1.Stat
			var stat domain.Stat
			if err := proto.Unmarshal(o.Value, &v); err != nil {
				s.t.Fatal(err)
			}
			if err := stat.UnmarshalBinary(v.Example); err != nil {
				s.t.Fatal(err)
			}
			s.stats = append(s.stats, stat)
			s.took(s.fitter.append(s.t, r))
		case topics.Activity:
			if o.Partition == 0 {
				_, version, err := churn.ReadModelRecord(o.Value)
				if err != nil {
					s.t.Fatal(err)
				}
				s.versions = append(s.versions, version)
			}
			s.took(s.customers[o.Partition].append(s.t, r))
		case topics.ChurnAlerts:
			var p churn.Payload
			if err := json.Unmarshal(o.Value, &p); err != nil {
				s.t.Fatal(err)
			}
			s.alerts = append(s.alerts, p)
		}
	}
}

// live lets customers order for some days, the same whatever n is.
func (s *shop) live(customers, days int) {
	s.t.Helper()
	type life struct {
		next, gap, stays int
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	lives := make([]life, customers)
	for i := range lives {
		lives[i] = life{rnd.IntN(days / 2), 8 + rnd.IntN(40), 1 + rnd.IntN(9)}
	}
	for d := range days {
		day := opening.AddDate(0, 0, d)
		for i := range lives {
			if l := &lives[i]; l.next == d && l.stays > 0 {
				s.order(fmt.Sprintf("customer-%d", i), day.Add(time.Duration(i)*time.Second), int64(10+5*l.gap))
				l.next += 1 + l.gap/2 + rnd.IntN(l.gap)
				l.stays--
			}
		}
		s.tick(day.Add(12 * time.Hour))
	}
}

// dump is what a lane's folder holds.
func dump(f step.Folder) string {
	var b strings.Builder
	for _, e := range f.Dump() {
		fmt.Fprintf(&b, "%q %x\n", e.Key, e.Value)
	}
	return b.String()
}

// TestWhatAShopTeachesDecides: customers tell the fitter what became of them, its
// models come back, and alerts from then on name them; duplicates and a second
// reading change nothing.
func TestWhatAShopTeachesDecides(t *testing.T) {
	s := newShop(t, 2, config())
	s.live(150, 330)
	var closed int
	for _, stat := range s.stats {
		if stat.Closed != nil {
			closed++
		}
	}
	if closed < 150 || len(s.versions) < 10 {
		t.Fatalf("%d labels have closed, %d models were said", closed, len(s.versions))
	}
	var shipped, learnt int
	for _, a := range s.alerts {
		switch {
		case a.ModelVersion == churn.ShippedVersion:
			shipped++
			if learnt > 0 && a.Kind == "raised" && shipped > len(s.alerts) {
				t.Error("the shipped model decides again")
			}
		case slices.Contains(s.versions, a.ModelVersion):
			learnt++
		default:
			t.Errorf("an alert names %q, which nobody has said", a.ModelVersion)
		}
	}
	if last := s.alerts[len(s.alerts)-1]; learnt == 0 || !slices.Contains(s.versions[len(s.versions)-3:], last.ModelVersion) {
		t.Errorf("%d alerts of the shipped model and %d of learnt ones; the last names %s, the models said last are %v", shipped, learnt, last.ModelVersion, s.versions[len(s.versions)-3:])
	}
	for _, l := range append(slices.Clone(s.customers), s.fitter) {
		want := dump(l.folder)
		second := newLane(t, l.p, l.log, l.partition, l.of)
		var again int
		for _, r := range l.records {
			again += len(fold(t, second.folder, r))
		}
		if got := dump(second.folder); got != want {
			t.Errorf("%s.%d: a second reading leads elsewhere", l.p.Name, l.partition)
		}
		// Producers repeat what they are not sure of: the same records behind all others.
		for _, r := range l.records[len(l.records)-len(l.records)/4:] {
			r.Offset = int64(len(l.records))
			l.records = append(l.records, r)
			if outs := fold(t, l.folder, r); len(outs) > 0 {
				t.Fatalf("%s.%d: a repeated record leads to %s", l.p.Name, l.partition, outs[0].Topic)
			}
		}
		if again == 0 && l != s.fitter {
			t.Errorf("%s.%d: nothing followed", l.p.Name, l.partition)
		}
		if got := entities(l.folder); got != entities(second.folder) {
			t.Errorf("%s.%d: repeated records change what is remembered", l.p.Name, l.partition)
		}
	}
	size := 0
	for _, e := range s.fitter.folder.Dump() {
		size = max(size, len(e.Value))
	}
	if size > 50_000 {
		t.Errorf("the fitter's state is %d bytes", size)
	}
}

// entities are what a folder holds without its own notes.
func entities(f step.Folder) string {
	var b strings.Builder
	for _, e := range f.Dump() {
		if e.Key != step.MetaKey {
			fmt.Fprintf(&b, "%q %x\n", e.Key, e.Value)
		}
	}
	return b.String()
}

// TestTheSameIsLearntWhateverN: who tells what, and when, does not depend on the
// number of partitions.
func TestTheSameIsLearntWhateverN(t *testing.T) {
	facts := func(n int) []string {
		s := newShop(t, n, config())
		s.live(80, 260)
		var all []string
		for _, stat := range s.stats {
			// What the model of the day says of a customer is the one thing that may differ
			// by a tick.
			if c := stat.Closed; c != nil {
				c.Base, c.Said, c.Expected, c.Spent, c.Noted[3] = 0, nil, 0, 0, 0
			}
			if o := stat.Opened; o != nil {
				o.Base, o.Noted[3] = 0, 0 // spend is beside the shop's
			}
			b, err := json.Marshal(stat)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, string(b))
		}
		slices.SortFunc(all, cmp.Compare)
		return all
	}
	one, four := facts(1), facts(4)
	if len(one) < 100 {
		t.Fatalf("%d stats", len(one))
	}
	if d := gocmp.Diff(one, four); d != "" {
		t.Errorf("-one partition +four:\n%s", d)
	}
}

// TestPinnedListensToNobody: where a model is pinned nothing is told, and what a
// fitter says is passed by.
func TestPinnedListensToNobody(t *testing.T) {
	learns := newShop(t, 1, config())
	learns.live(80, 120)
	cfg := config()
	cfg.Pinned = true
	s := newShop(t, 1, cfg)
	for _, r := range learns.customers[0].records {
		s.took(s.customers[0].append(t, r))
	}
	if len(learns.versions) == 0 || len(s.stats) > 0 {
		t.Errorf("%d models were said where it was listened to; %d stats where not", len(learns.versions), len(s.stats))
	}
	for _, a := range s.alerts {
		if a.ModelVersion != churn.ShippedVersion {
			t.Fatalf("an alert of %s", a.ModelVersion)
		}
	}
	if bytes.Contains([]byte(entities(s.customers[0].folder)), []byte(strconv.Quote(step.ModelName(testkit.Shop)))) {
		t.Error("a model is remembered that decides nothing")
	}
}
