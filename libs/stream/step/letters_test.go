package step_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// tally counts what it folds, and cannot fold what is called poison as long as it
// is not healed.
type tally struct {
	healed bool
	topic  string
}

type tallied struct {
	Facts int
	IDs   []string
}

func (f tally) Record(s *tallied, fact step.Fact, _ step.Instant, out *step.Effects) error {
	if string(fact.Value) == "poison" && !f.healed {
		return errors.New("poison")
	}
	var e eventv1.Event
	if proto.Unmarshal(fact.Value, &e) == nil && e.Name == "poison" && !f.healed {
		return errors.New("poison")
	}
	s.Facts++
	s.IDs = append(s.IDs, fact.ID)
	if f.topic != "" {
		out.Publish(step.Message{Topic: f.topic, Key: out.Key().ID, Type: typeFact, Kind: "fact", Value: []byte("fact")})
	}
	return nil
}

func (tally) Wake(*tallied, step.Key, step.Instant, *step.Effects) {}

// fataler is a test of either kind.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

// keeper keeps what a partition writes, as a store does.
type keeper struct {
	entities map[string][]byte
	logs     map[string][]byte
	fence    step.Fence
}

func newKeeper() *keeper { return &keeper{entities: map[string][]byte{}, logs: map[string][]byte{}} }

func (k *keeper) take(b step.Batch) {
	for _, e := range b.Write.Entities {
		k.entities[e.Key] = e.Value
		if e.Value == nil {
			delete(k.entities, e.Key)
		}
	}
	for _, l := range b.Write.Logs {
		k.logs[l.Name] = append(slices.Clone(k.logs[l.Name]), l.Data...)
		if l.Data == nil {
			delete(k.logs, l.Name)
		}
	}
	k.fence.Next, k.fence.Low, k.fence.Anchor, k.fence.KeyDone, k.fence.Ordinal = b.Next, b.Low, b.Anchor, b.KeyDone, b.Ordinal
}

func (k *keeper) state() step.State {
	s := step.State{Fence: k.fence.String()}
	for name, v := range k.entities {
		s.Entities = append(s.Entities, step.Entity{Key: name, Value: v})
	}
	for name, v := range k.logs {
		s.Logs = append(s.Logs, step.LogAppend{Name: name, Data: v})
	}
	return s
}

// fold folds all of recs, at most parts batches of them, and returns what was
// published.
func (k *keeper) fold(t fataler, p step.Folder, recs []record.Record, parts int) []record.Out {
	t.Helper()
	var outs []record.Out
	for ; len(recs) > 0 && parts > 0; parts-- {
		b, rest, err := p.Fold(recs)
		if err != nil {
			t.Fatal(err)
		}
		k.take(b)
		outs = append(outs, b.Outs...)
		p.Settled()
		recs = rest
	}
	return outs
}

func (k *keeper) restored(t fataler, p step.Folder) step.Folder {
	t.Helper()
	if err := p.Restore(k.state(), k.fence); err != nil {
		t.Fatal(err)
	}
	return p
}

func clientConfig() step.Config {
	return step.Config{Processor: "devices", Topic: "events", LogID: "log", FoldVersion: 1, Client: true, Sources: 1, DeadLetters: "dead", Types: []string{step.TypeEvent}}
}

func orderedConfig() step.Config {
	return step.Config{Processor: "customers", Topic: "activity", LogID: "log", FoldVersion: 1, Order: step.InTimeOrder, Sources: 1, DeadLetters: "dead", Types: []string{typeFact}}
}

func event(t fataler, offset int64, id, name string) record.Record {
	t.Helper()
	v, err := proto.Marshal(&eventv1.Event{MessageId: id, Shop: "s", Name: name, EventTimeMs: 1000, KeyId: "k"})
	if err != nil {
		t.Fatal(err)
	}
	return record.Record{Topic: "events", Offset: offset, AppendTime: 1_600_000_000_000 + offset, Key: []byte("s/d"), Value: v, Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte(id)}, {Key: record.HeaderType, Value: []byte(step.TypeEvent)}, {Key: record.HeaderTime, Value: []byte("1000")},
	}}
}

func fact(offset, effective int64, key, value string) record.Record {
	return record.Record{Topic: "activity", Offset: offset, AppendTime: 1_600_000_000_000 + offset, Key: []byte("s/" + key), Value: []byte(value), Headers: []record.Header{
		{Key: record.HeaderID, Value: fmt.Appendf(nil, "f%d", offset)},
		{Key: record.HeaderType, Value: []byte(typeFact)},
		{Key: record.HeaderTime, Value: []byte("7")},
		{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, effective, 10)},
		{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "up", Offset: offset}.String())},
	}}
}

func derivedTick(t fataler, offset, us int64) record.Record {
	t.Helper()
	v, err := proto.Marshal(&eventv1.Tick{TimeUs: us})
	if err != nil {
		t.Fatal(err)
	}
	return record.Record{Topic: "activity", Offset: offset, AppendTime: 1_600_000_000_000 + offset, Value: v, Headers: []record.Header{
		{Key: record.HeaderType, Value: []byte(step.TypeTick)}, {Key: record.HeaderPosition, Value: []byte(record.Position{Log: "up", Offset: offset}.String())},
	}}
}

// again is the record of a letter, put back at an offset.
func again(t fataler, letter record.Out, offset int64, processor string) record.Record {
	t.Helper()
	r := record.Record{Topic: "events", Offset: offset, AppendTime: 1_700_000_000_000, Key: letter.Key, Value: letter.Value, Headers: slices.Clone(letter.Headers)}
	origin := string((&r).Header(record.HeaderDeadOrigin))
	at := origin[len(origin)-1:]
	r.Headers = append(r.Headers[:len(r.Headers)-7:len(r.Headers)-7],
		record.Header{Key: record.HeaderRequeueFor, Value: []byte(processor)}, record.Header{Key: record.HeaderRequeueOf, Value: []byte("log/0/" + at)},
		record.Header{Key: record.HeaderRequeueAttempt, Value: []byte("2")})
	return r
}

func counts(f step.Folder) step.Counts { return f.Status().Counts }

// TestRequeuedOnce: a record that died is folded when it is put back, once,
// however often it is; with the same id and event time, and by nobody else. A
// fold that could have folded it in the first place, and reads the whole log,
// folds it once, too.
func TestRequeuedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  step.Config
		log  []record.Record
		tail record.Record // lets time pass
	}{
		"on arrival":    {clientConfig(), []record.Record{event(t, 0, "m0", "x"), event(t, 1, "m1", "poison"), event(t, 2, "m2", "x")}, event(t, 9, "m9", "x")},
		"in time order": {orderedConfig(), []record.Record{fact(0, 10, "d", "x"), fact(1, 11, "d", "poison"), derivedTick(t, 2, 50)}, derivedTick(t, 9, 100)},
	} {
		t.Run(name, func(t *testing.T) {
			make := func(healed bool) step.Folder {
				return step.NewPartition(c.cfg, tally{healed: healed, topic: "out"}, asJSON[tallied]{})
			}
			k := newKeeper()
			sick := make(false)
			outs := k.fold(t, sick, c.log, 100)
			i := slices.IndexFunc(outs, func(o record.Out) bool { return o.Topic == "dead" })
			if i < 0 || counts(sick).Dead != 1 {
				t.Fatalf("no letter among %v", outs)
			}
			letter := outs[i]
			put := []record.Record{
				again(t, letter, 3, "somebody else"), again(t, letter, 4, c.cfg.Processor), again(t, letter, 5, c.cfg.Processor), c.tail,
			}

			healed := k.restored(t, make(true))
			outs = k.fold(t, healed, put[:2], 100)
			healed = k.restored(t, make(true)) // also where the owner changes in between
			outs = append(outs, k.fold(t, healed, put[2:], 100)...)
			got := counts(healed)
			if got.Requeued != 1 || got.Duplicates != 1 || got.Unknown != 1 {
				t.Errorf("%+v, want one folded again, one known and one of somebody else's", got)
			}
			var ids, times []string
			for _, o := range outs {
				if o.Topic == "out" {
					ids, times = append(ids, header(o, record.HeaderID)), append(times, header(o, record.HeaderTime))
				}
			}
			wantID, wantTime := "m1/fact", "1000"
			if name == "in time order" {
				wantID, wantTime = "f1/fact", "7"
			}
			if len(ids) == 0 || ids[0] != wantID || times[0] != wantTime {
				t.Errorf("what follows has ids %v and times %v, want first %s and %s, as if it had never died", ids, times, wantID, wantTime)
			}

			// Offline, as verify does, with either fold.
			whole := append(slices.Clone(c.log), put...)
			fresh := make(true)
			newKeeper().fold(t, fresh, whole, 100)
			if g := counts(fresh); g.Requeued != 0 || g.Folded != got.Folded || g.Dead != 0 {
				t.Errorf("a fold that knows better: %+v, want %d folded, and none again", g, got.Folded)
			}
			still := make(false)
			l := newKeeper()
			outs = l.fold(t, still, whole, 100)
			if g := counts(still); g.Requeued != 1 || g.Dead != 2 {
				t.Errorf("a fold that is still sick: %+v, want two dead, one of them again", g)
			}
			i = slices.IndexFunc(outs, func(o record.Out) bool { return o.Topic == "dead" && header(o, record.HeaderDeadAttempts) == "2" })
			if i < 0 {
				t.Fatal("the second letter does not say that it was the second attempt")
			}
			if got := header(outs[i], record.HeaderDeadOrigin); got != c.cfg.Topic+"/0/4" {
				t.Errorf("the second letter is of %s, want the record that was put back", got)
			}
			if d := cmp.Diff(l.state().Entities, still.Dump(), cmp.Transformer("byName", func(all []step.Entity) map[string]string {
				m := map[string]string{}
				for _, e := range all {
					m[e.Key] = string(e.Value)
				}
				return m
			})); d != "" {
				t.Errorf("store and memory (-store +memory):\n%s", d)
			}
		})
	}
}

// TestLettersExpire: which records died is forgotten after the letters are.
func TestLettersExpire(t *testing.T) {
	k := newKeeper()
	p := step.NewPartition(clientConfig(), tally{}, asJSON[tallied]{})
	var letters []record.Out
	for i := range 12 {
		r := event(t, int64(i), fmt.Sprintf("m%d", i), "poison")
		r.AppendTime += int64(i) * 7 * 86_400_000
		letters = append(letters, k.fold(t, p, []record.Record{r}, 1)...)
	}
	dead := 0
	for name := range k.logs {
		if name[0] == 'd' {
			dead++
		}
	}
	if dead != 6 {
		t.Errorf("%d weeks of dead records kept, want 6: %v", dead, k.logs)
	}
	old, late := again(t, letters[2], 20, "devices"), again(t, letters[9], 21, "devices")
	k.fold(t, p, []record.Record{old, late}, 10)
	if c := counts(p); c.Requeued != 1 || c.Duplicates != 1 {
		t.Errorf("%+v, want the late one folded and the old one forgotten", c)
	}
}

func header(o record.Out, name string) string {
	for _, h := range o.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// TestDeadAsTheyCame: whatever a record was, the letter has all of it, also after
// it has waited.
func TestDeadAsTheyCame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		usual := rapid.Bool().Draw(t, "usual")
		r := fact(0, 10, "d", "poison")
		if usual {
			r.Headers = published(t)
		} else {
			text := rapid.SampledFrom([]string{"", "1", "01", "+7", "x", "s/d", "application/protobuf", "1.0"})
			names := []string{record.HeaderSpecVersion, record.HeaderSource, record.HeaderShop, record.HeaderSubject, record.HeaderHistorical, record.HeaderTraceParent, record.HeaderContentType, record.HeaderTime, "other"}
			for range rapid.IntRange(0, 4).Draw(t, "more") {
				h := record.Header{Key: rapid.SampledFrom(names).Draw(t, "name"), Value: []byte(text.Draw(t, "value"))}
				i := rapid.IntRange(0, len(r.Headers)).Draw(t, "at")
				r.Headers = slices.Insert(r.Headers, i, h)
			}
			if rapid.Bool().Draw(t, "zeroes") {
				for i := range r.Headers {
					if r.Headers[i].Key == record.HeaderEffective {
						r.Headers[i].Value = []byte("0010")
					}
				}
			}
		}
		if rapid.Bool().Draw(t, "long") {
			r.Value = []byte("poison")
		}
		p := step.NewPartition(orderedConfig(), tally{}, asJSON[tallied]{})
		k := newKeeper()
		k.fold(t, p, []record.Record{r}, 1)
		if rapid.Bool().Draw(t, "moved") { // into a snapshot, and to another owner
			a := p.Archive()
			k.logs[a.Name], k.fence.Low = a.Data, k.fence.Next
			p = step.NewPartition(orderedConfig(), tally{}, asJSON[tallied]{})
			k.restored(t, p)
		}
		v, err := proto.Marshal(&eventv1.Tick{TimeUs: 50})
		if err != nil {
			t.Fatal(err)
		}
		outs := k.fold(t, p, []record.Record{{Offset: 1, Value: v, Headers: []record.Header{
			{Key: record.HeaderType, Value: []byte(step.TypeTick)}, {Key: record.HeaderPosition, Value: []byte("up/0/5/0")},
		}}}, 10)
		if len(outs) != 1 {
			t.Fatalf("%d letters, want one", len(outs))
		}
		o := outs[0]
		n := len(o.Headers) - 7
		if d := cmp.Diff(r.Headers, o.Headers[:n]); d != "" {
			t.Errorf("headers (-record +letter):\n%s", d)
		}
		if string(o.Key) != string(r.Key) || string(o.Value) != string(r.Value) {
			t.Errorf("key %q and value %q, want %q and %q", o.Key, o.Value, r.Key, r.Value)
		}
		want := map[string]string{
			record.HeaderReason: "poison", record.HeaderDeadProcessor: "customers", record.HeaderDeadOrigin: "activity/0/0", record.HeaderDeadPosition: "log/0/1/0",
			record.HeaderDeadAppended: "1600000000000", record.HeaderDeadFold: "1", record.HeaderDeadAttempts: "1",
		}
		for name, v := range want {
			if got := header(o, name); got != v {
				t.Errorf("%s is %q, want %q", name, got, v)
			}
		}
	})
}

// published are the headers that a fold's messages have.
func published(t *rapid.T) []record.Header {
	f := func(n string) bool { return rapid.Bool().Draw(t, n) }
	h := []record.Header{
		{Key: record.HeaderSpecVersion, Value: []byte("1.0")},
		{Key: record.HeaderID, Value: []byte(rapid.StringN(0, 10, 20).Draw(t, "id"))},
		{Key: record.HeaderType, Value: []byte(typeFact)},
		{Key: record.HeaderSource, Value: []byte("/sillage/s")},
		{Key: record.HeaderTime, Value: strconv.AppendInt(nil, rapid.Int64().Draw(t, "time"), 10)},
		{Key: record.HeaderShop, Value: []byte("s")},
		{Key: record.HeaderEffective, Value: []byte("12")},
		{Key: record.HeaderPosition, Value: []byte("up/0/0/3")},
	}
	if f("subject") {
		h = append(h, record.Header{Key: record.HeaderSubject, Value: []byte("d")})
	}
	if f("historical") {
		h = append(h, record.Header{Key: record.HeaderHistorical, Value: []byte("1")})
	}
	if f("trace") {
		h = append(h, record.Header{Key: record.HeaderTraceParent, Value: []byte("00-x-y-01")})
	}
	kind := "application/protobuf"
	if f("json") {
		kind = "application/json"
	}
	return append(h, record.Header{Key: record.HeaderContentType, Value: []byte(kind)})
}

// TestArchiveIsWhatWaits: a state with an archive needs nothing of the log before
// it, comes to the same, and lets the archive go once nothing of it waits, also
// where a tick is settled in parts and the owner changes between them.
func TestArchiveIsWhatWaits(t *testing.T) {
	cfg := orderedConfig()
	cfg.MaxDirty = 1
	make := func() *step.Partition[tallied] { return step.NewPartition(cfg, tally{}, asJSON[tallied]{}) }
	var log []record.Record
	for i := range 12 {
		log = append(log, fact(int64(i), int64(100+10*i), "d"+strconv.Itoa(i%5), "x"))
	}
	ticks := []record.Record{derivedTick(t, 12, 145), derivedTick(t, 13, 1000)}

	straight, p := newKeeper(), make()
	straight.fold(t, p, append(slices.Clone(log), ticks...), 100)

	k, first := newKeeper(), make()
	k.fold(t, first, log, 100)
	a := first.Archive()
	k.logs[a.Name], k.fence.Low = a.Data, k.fence.Next
	var at step.Folder
	for _, tick := range ticks {
		for part := 0; ; part++ {
			at = k.restored(t, make())
			k.fold(t, at, []record.Record{tick}, 1)
			if k.fence.Next > tick.Offset {
				break
			}
			if part > 20 {
				t.Fatal("the tick is never settled")
			}
		}
		if got, want := at.Status().Waiting, map[int64]int{12: 7, 13: 0}[tick.Offset]; got != want {
			t.Errorf("%d wait after the tick at %d, want %d", got, tick.Offset, want)
		}
	}
	if _, ok := k.logs[a.Name]; ok {
		t.Error("the archive is still there")
	}
	if d := cmp.Diff(straight.entities, k.entities); d != "" {
		t.Errorf("with an archive (-log +archive):\n%s", d)
	}
}

// TestWhatWaitsForLongLeavesTheLog: facts that have waited for an hour of append
// time go into the state's archive, so that the log need not be kept for them; a
// claim takes them from there, each once, also where a copy stands in what is
// read again; when none of them waits any more, the archive goes.
func TestWhatWaitsForLongLeavesTheLog(t *testing.T) {
	const hour = 3_600_000
	k := newKeeper()
	make := func() step.Folder { return step.NewPartition(orderedConfig(), tally{}, asJSON[tallied]{}) }
	late := fact(2, 30, "d", "x")
	late.AppendTime += hour
	again := fact(1, 20, "d", "x") // the first owner published it and died
	again.Offset, again.AppendTime = 3, late.AppendTime
	log := []record.Record{fact(0, 10, "d", "x"), fact(1, 20, "d", "x"), late, again}
	first := make()
	k.fold(t, first, log[:2], 100)
	if k.fence.Low != 0 || len(k.logs["waiting"]) > 0 {
		t.Fatalf("low %d, archive of %d bytes before anything has waited for long", k.fence.Low, len(k.logs["waiting"]))
	}
	k.fold(t, first, log[2:], 100)
	if k.fence.Low != 2 || len(k.logs["waiting"]) == 0 {
		t.Fatalf("low %d, archive of %d bytes; want the log needed from 2 on", k.fence.Low, len(k.logs["waiting"]))
	}
	second := k.restored(t, make())
	if err := second.Reread(log[k.fence.Low:]); err != nil {
		t.Fatal(err)
	}
	if got := second.Status().Waiting; got != 3 {
		t.Errorf("%d facts wait behind a claim, want 3", got)
	}
	k.fold(t, second, []record.Record{derivedTick(t, 4, 100)}, 100)
	k.fold(t, second, []record.Record{derivedTick(t, 5, 200)}, 100)
	if _, ok := k.logs["waiting"]; ok || k.fence.Low != 6 {
		t.Errorf("the archive is still there: %d bytes, low %d", len(k.logs["waiting"]), k.fence.Low)
	}
	var s tallied
	data, err := step.StateOf(k.entities["s/d"])
	if err == nil {
		err = asJSON[tallied]{}.Unmarshal(data, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"f0", "f1", "f2"}, s.IDs); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
}
