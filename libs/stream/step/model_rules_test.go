package step_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// learner notes which model was in force at each thing that happened to it.
type learner struct{ Read []string }

type learnerFold struct{}

func (learnerFold) Model(shop string, data []byte) (any, error) {
	switch string(data) {
	case "nonsense":
		return nil, errors.New("not a model")
	case "trap":
		panic("trap")
	}
	return shop + ":" + string(data), nil
}

func (learnerFold) Record(s *learner, f step.Fact, now step.Instant, out *step.Effects) error {
	s.Read = append(slices.Clip(s.Read), f.ID+" "+fmt.Sprint(out.Model()))
	out.WakeAt(now + 5)
	return nil
}

func (learnerFold) Wake(s *learner, _ step.Key, _ step.Instant, out *step.Effects) {
	s.Read = append(slices.Clip(s.Read), "woken "+fmt.Sprint(out.Model()))
}

func learnerConfig() step.Config {
	return step.Config{
		Processor: "learners", Topic: "facts", LogID: "log", FoldVersion: 1, Order: step.InTimeOrder, Sources: 1, Types: []string{typeFact}, Model: typeModel, DeadLetters: "dead",
	}
}

func newLearners(t *testing.T, st step.State, f step.Fence) *step.Partition[learner] {
	t.Helper()
	p := step.NewPartition[learner](learnerConfig(), learnerFold{}, asJSON[learner]{})
	if err := p.Restore(st, f); err != nil {
		t.Fatal(err)
	}
	return p
}

// read is what the entities of a partition have read.
func read(t *testing.T, p *step.Partition[learner]) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, e := range p.Dump() {
		if e.Key == step.MetaKey || strings.HasSuffix(e.Key, "/") {
			continue
		}
		b, err := step.StateOf(e.Value)
		if err != nil {
			t.Fatal(err)
		}
		var s learner
		if err := (asJSON[learner]{}).Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		all[e.Key] = s.Read
	}
	return all
}

// ofOtherShop is a record as sharedFact's, of shop z.
func ofOtherShop(source int64, what string) record.Record {
	r := sharedFact(source, what)
	for i := range r.Headers {
		if r.Headers[i].Key == record.HeaderShop {
			r.Headers[i].Value = []byte("z")
		}
	}
	return r
}

// keyless is a record of a fact's type without a key.
func keyless(source int64) record.Record {
	r := sharedFact(source, "")
	for i := range r.Headers {
		if r.Headers[i].Key == record.HeaderType {
			r.Headers[i].Value = []byte(typeFact)
		}
	}
	r.Headers = append(r.Headers, record.Header{Key: record.HeaderEffective, Value: []byte("90")})
	return r
}

// TestAModelCountsFromWhereItStands: what is folded behind a model record reads
// it, wherever the log was cut and whoever reads it, and nothing before does.
func TestAModelCountsFromWhereItStands(t *testing.T) {
	log := numbered(
		modelFact("a", "1", 0, 10), modelTick(1, 12), // folded before there is a model
		sharedFact(0, "x"), ofOtherShop(1, "other"),
		modelFact("b", "2", 2, 30), // waits for the tick behind the next model
		modelTick(3, 20),           // wakes a
		sharedFact(2, "y"),
		sharedFact(0, "x"), // again: known
		modelTick(4, 33),
		sharedFact(3, "nonsense"), sharedFact(4, "trap"),
		keyless(5),       // a fact has to say whose it is
		modelTick(5, 50), // wakes b
	)
	want := map[string][]string{
		"s/a": {"1 <nil>", "woken s:x"},
		"s/b": {"2 s:y", "woken s:y"},
	}
	for cut := range len(log) + 1 {
		p := newLearners(t, step.State{}, step.Fence{LogID: "log"})
		fold := func(recs []record.Record) (fence step.Fence, dead int) {
			b, rest, err := p.Fold(recs)
			if err != nil || len(rest) > 0 {
				t.Fatal(err, len(rest))
			}
			p.Settled()
			for _, o := range b.Outs {
				if o.Topic == "dead" {
					dead++
				}
			}
			return step.Fence{LogID: "log", Next: b.Next, Low: b.Low, Anchor: b.Anchor}, dead
		}
		fence, before := fold(log[:cut])
		st := step.State{Entities: p.Dump(), Logs: p.Logs()}
		p = newLearners(t, st, fence) // another owner, who reads again what waits
		if err := p.Reread(log[fence.Low:]); err != nil {
			t.Fatal(err)
		}
		fence, after := fold(log[cut:])
		if fence.Low != fence.Next {
			t.Errorf("cut at %d: something waits for ever: low %d, next %d", cut, fence.Low, fence.Next)
		}
		if d := cmp.Diff(want, read(t, p)); d != "" {
			t.Errorf("cut at %d: (-want +got)\n%s", cut, d)
		}
		if before+after != 3 {
			t.Errorf("cut at %d: %d records put aside, want 3", cut, before+after)
		}
		if i := slices.IndexFunc(p.Dump(), func(e step.Entity) bool { return e.Key == step.ModelName("s") }); i < 0 {
			t.Errorf("cut at %d: the model is not kept", cut)
		} else if b, err := step.StateOf(p.Dump()[i].Value); err != nil || string(b) != "y" {
			t.Errorf("cut at %d: the store has the model %q, %v", cut, b, err)
		}
	}
}

// TestWhoReadsNoModelPassesByIt: a reader of another kind, and one that is pinned.
func TestWhoReadsNoModelPassesByIt(t *testing.T) {
	for name, change := range map[string]func(*step.Config){
		"pinned":       func(c *step.Config) { c.Model = "" },
		"of its own":   func(c *step.Config) { c.Model = "test.other.v1" },
		"on arrival":   func(c *step.Config) { c.Model, c.Order = "", step.OnArrival },
		"no such fold": nil,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := learnerConfig()
			var p step.Folder = step.NewPartition[seen](cfg, seenFold{}, asJSON[seen]{})
			if change != nil {
				change(&cfg)
				p = step.NewPartition[learner](cfg, learnerFold{}, asJSON[learner]{})
			}
			if err := p.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := p.Fold(numbered(modelFact("a", "1", 0, 10), sharedFact(0, "x"), modelTick(1, 40))); err != nil {
				t.Fatal(err)
			}
			if c := p.Status().Counts; c.Unknown != 1 || c.Folded != 1 || c.Dead != 0 {
				t.Errorf("counts %+v", c)
			}
			if all := p.Dump(); len(all) != 2 {
				t.Errorf("kept %d things, want the entity and the partition's own", len(all))
			}
		})
	}
}

// TestAModelWithoutAShopIsPutAside: it would be nobody's.
func TestAModelWithoutAShopIsPutAside(t *testing.T) {
	r := sharedFact(0, "x")
	r.Headers = slices.DeleteFunc(r.Headers, func(h record.Header) bool { return h.Key == record.HeaderShop })
	p := newLearners(t, step.State{}, step.Fence{LogID: "log"})
	b, _, err := p.Fold(numbered(r))
	if err != nil || len(b.Outs) != 1 || b.Outs[0].Topic != "dead" {
		t.Fatalf("%v, %+v", err, b.Outs)
	}
}

// TestBroadcast: one record for each partition, of one id and places of their own;
// a topic that the processor has not named is a mistake of the fold's.
func TestBroadcast(t *testing.T) {
	fold := func(to string) step.Batch {
		cfg := step.Config{Processor: "fitter", Topic: "stats", LogID: "stats", FoldVersion: 1, Sources: 1, Types: []string{typeFact}, DeadLetters: "dead", Broadcast: []step.Target{{Topic: to, Partitions: 3}}}
		p := step.NewPartition[fitter](cfg, fitterFold{}, asJSON[fitter]{})
		if err := p.Restore(step.State{}, step.Fence{LogID: "stats"}); err != nil {
			t.Fatal(err)
		}
		b, _, err := p.Fold(numbered(modelFact("customers", "1", 0, 10), modelFact("customers", "2", 1, 10), modelFact("customers", "3", 2, 20)))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := fold("activity")
	places, ids := map[string]int32{}, map[string]bool{}
	for i, o := range b.Outs {
		r := record.Record{Headers: o.Headers}
		places[string(r.Header(record.HeaderPosition))] = o.Partition
		ids[string(r.Header(record.HeaderID))] = true
		if o.Key != nil || string(r.Header(record.HeaderShop)) != "s" || string(r.Header(record.HeaderType)) != typeModel || string(o.Value) != "3" || b.Offsets[i] != 2 {
			t.Errorf("record %d is %+v, of offset %d", i, o, b.Offsets[i])
		}
	}
	want := map[string]int32{}
	for i := range int32(3) {
		want["stats/0/2/"+strconv.Itoa(int(i))] = i
	}
	if d := cmp.Diff(want, places); d != "" || len(ids) != 1 {
		t.Errorf("places (-want +got), of %d ids\n%s", len(ids), d)
	}
	if b := fold("elsewhere"); len(b.Outs) != 1 || b.Outs[0].Topic != "dead" {
		t.Errorf("to a topic that is not named: %+v", b.Outs)
	}
}
