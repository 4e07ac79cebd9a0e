package step_test

import (
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// Rules that random worlds hit too seldom to rely on.

// seen is the ids that an entity was told, in order.
type seen struct{ IDs []string }

type seenFold struct{}

func (seenFold) Record(s *seen, f step.Fact, now step.Instant, out *step.Effects) error {
	s.IDs = append(s.IDs, fmt.Sprintf("%s@%d", f.ID, now))
	out.Publish(step.Message{Topic: "behind", Key: f.Key, Type: typeFact, Kind: "seen"})
	return nil
}

func (seenFold) Wake(*seen, step.Key, step.Instant, *step.Effects) {}

// lane is a partition that is fed by hand.
type lane struct {
	t    *testing.T
	p    *step.Partition[seen]
	next int64
	outs []record.Out
}

func newLane(t *testing.T, cfg step.Config) *lane {
	t.Helper()
	cfg.Processor, cfg.Topic, cfg.LogID, cfg.Types = "seen", "facts", "log", []string{typeFact, step.TypeEvent}
	l := &lane{t: t, p: step.NewPartition[seen](cfg, seenFold{}, asJSON[seen]{})}
	if err := l.p.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lane) append(r record.Record) {
	l.t.Helper()
	r.Offset = l.next
	l.next++
	for rest := []record.Record{r}; len(rest) > 0; {
		var b step.Batch
		var err error
		if b, rest, err = l.p.Fold(rest); err != nil {
			l.t.Fatal(err)
		}
		l.outs = append(l.outs, b.Outs...)
		l.p.Settled()
	}
}

// fact is a derived record of a source partition.
func (l *lane) fact(source int32, offset int64, id string, effective, eventTime int64) {
	l.t.Helper()
	l.append(record.Record{Key: []byte("s/k"), Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte(id)},
		{Key: record.HeaderType, Value: []byte(typeFact)},
		{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, effective, 10)},
		{Key: record.HeaderTime, Value: strconv.AppendInt(nil, eventTime, 10)},
		{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "up", Partition: source, Offset: offset}.String())},
	}})
}

// control is a control record of a source partition; of this one where the
// partition reads client records.
func (l *lane) control(source int32, offset int64, kind string, m proto.Message) {
	l.t.Helper()
	v, err := proto.Marshal(m)
	if err != nil {
		l.t.Fatal(err)
	}
	l.append(record.Record{Value: v, AppendTime: 1 << 50, Headers: []record.Header{
		{Key: record.HeaderType, Value: []byte(kind)},
		{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "up", Partition: source, Offset: offset}.String())},
	}})
}

func (l *lane) tick(source int32, offset, at int64) {
	l.t.Helper()
	l.control(source, offset, step.TypeTick, &eventv1.Tick{TimeUs: at})
}

// ids are what the entity s/k was told.
func (l *lane) ids() []string {
	l.t.Helper()
	for _, e := range l.p.Dump() {
		if e.Key != "s/k" {
			continue
		}
		b, err := step.StateOf(e.Value)
		if err != nil {
			l.t.Fatal(err)
		}
		var s seen
		if err := (asJSON[seen]{}).Unmarshal(b, &s); err != nil {
			l.t.Fatal(err)
		}
		return s.IDs
	}
	return nil
}

// TestOneInstantHasOneOrder: facts of two sources that count at the same instant
// are told in the order of event time and then of id, whichever came first.
func TestOneInstantHasOneOrder(t *testing.T) {
	want := []string{"c@500", "a@500", "b@500"} // c happened first
	type fact struct {
		source int32
		id     string
		at     int64
	}
	for name, order := range map[string][]fact{
		"one way":   {{0, "a", 2}, {1, "b", 2}, {1, "c", 1}},
		"the other": {{1, "b", 2}, {1, "c", 1}, {0, "a", 2}},
		"a third":   {{1, "c", 1}, {0, "a", 2}, {1, "b", 2}},
	} {
		l := newLane(t, step.Config{Order: step.InTimeOrder, Sources: 2})
		offsets := map[int32]int64{}
		for _, f := range order {
			l.fact(f.source, offsets[f.source], f.id, 500, f.at)
			offsets[f.source]++
		}
		l.tick(0, 10, 501)
		l.tick(1, 10, 501)
		if d := cmp.Diff(want, l.ids()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestEffectiveTimesOfAKeyGrow: two events of one moment count one after the other,
// so that every reader keeps their order.
func TestEffectiveTimesOfAKeyGrow(t *testing.T) {
	l := newLane(t, step.Config{Client: true, Sources: 1})
	for _, id := range []string{"second", "first", "third"} {
		v, err := proto.Marshal(&eventv1.Event{Shop: "s", MessageId: id, EventTimeMs: 7})
		if err != nil {
			t.Fatal(err)
		}
		l.append(record.Record{Key: []byte("s/k"), Value: v, AppendTime: 8, Headers: []record.Header{
			{Key: record.HeaderID, Value: []byte(id)}, {Key: record.HeaderType, Value: []byte(step.TypeEvent)},
		}})
	}
	if d := cmp.Diff([]string{"second@7000", "first@7001", "third@7002"}, l.ids()); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
	for i, want := range []string{"7000", "7001", "7002"} {
		if got := string((&record.Record{Headers: l.outs[i].Headers}).Header(record.HeaderEffective)); got != want {
			t.Errorf("effective time of what follows: %s, want %s", got, want)
		}
	}
}

// TestAnImportWaitsForAllSources: from a shop's first mark of an import on, a
// source that has not sent it holds its time back, also where that source's wall
// time was heard before.
func TestAnImportWaitsForAllSources(t *testing.T) {
	l := newLane(t, step.Config{Order: step.InTimeOrder, Sources: 2})
	l.tick(0, 0, 1_000_000)
	l.tick(1, 0, 1_000_000)
	begun := &eventv1.ImportMark{Shop: "s", ImportId: "i", Step: eventv1.ImportMark_STEP_BEGUN, Sequence: 1}
	at600 := &eventv1.ImportMark{Shop: "s", ImportId: "i", Step: eventv1.ImportMark_STEP_TICK, TimeUs: 600, Sequence: 3}
	l.control(0, 1, step.TypeImport, begun)
	l.fact(0, 2, "early", 500, 1)
	l.control(0, 3, step.TypeImport, at600)
	if got := l.ids(); got != nil {
		t.Fatalf("told %v while a source has not begun the import", got)
	}
	l.control(1, 1, step.TypeImport, begun)
	l.fact(1, 2, "earlier", 400, 1)
	if got := l.ids(); got != nil {
		t.Fatalf("told %v while a source has not come so far", got)
	}
	l.control(1, 3, step.TypeImport, at600)
	if d := cmp.Diff([]string{"earlier@400", "early@500"}, l.ids()); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
}

// eagerFold asks to be woken before now, and tells when it was.
type eagerFold struct{}

func (eagerFold) Record(s *seen, _ step.Fact, now step.Instant, out *step.Effects) error {
	s.IDs = append(s.IDs, fmt.Sprintf("fact@%d", now))
	out.WakeAt(now - 100)
	return nil
}

func (eagerFold) Wake(s *seen, _ step.Key, now step.Instant, out *step.Effects) {
	s.IDs = append(s.IDs, fmt.Sprintf("woken@%d", now))
	out.Sleep()
}

// TestNobodyIsWokenInThePast: a wake-up that is asked for before now is due now, or
// effects would be dated before what caused them.
func TestNobodyIsWokenInThePast(t *testing.T) {
	l := newLane(t, step.Config{Order: step.InTimeOrder, Sources: 1})
	l.p = step.NewPartition[seen](step.Config{Processor: "eager", Order: step.InTimeOrder, Sources: 1, Types: []string{typeFact}}, eagerFold{}, asJSON[seen]{})
	if err := l.p.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
		t.Fatal(err)
	}
	l.fact(0, 0, "a", 500, 1)
	l.tick(0, 1, 1000)
	if d := cmp.Diff([]string{"fact@500", "woken@500"}, l.ids()); d != "" {
		t.Errorf("lived (-want +got):\n%s", d)
	}
}

// TestTheMarkNeverGoesBack: an owner that folds again below the mark, because the
// store was rolled back, stays silent there and commits the mark as it was: if it
// were lowered, the next one who has to fold from the start would say it all again.
func TestTheMarkNeverGoesBack(t *testing.T) {
	cfg := step.Config{Processor: "seen", Topic: "facts", LogID: "log", FoldVersion: 1, Sources: 1, Types: []string{typeFact}}
	m := step.NewMachine(cfg, step.NewPartition[seen](cfg, seenFold{}, asJSON[seen]{}), "seed")
	fence := step.Fence{LogID: "log", FoldVersion: 1, Nonce: "n", Next: 5, Low: 5, Anchor: "a", ProducerID: 1, Epoch: 1}
	current, published := fence.String(), 0
	const mark = 7
	fact := func(offset int64) record.Record {
		return record.Record{Offset: offset, Key: []byte("s/k"), Headers: []record.Header{
			{Key: record.HeaderID, Value: []byte("f" + strconv.FormatInt(offset, 10))},
			{Key: record.HeaderType, Value: []byte(typeFact)},
			{Key: record.HeaderEffective, Value: []byte("1")},
			{Key: record.HeaderTime, Value: []byte("1")},
			{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "up", Offset: offset}.String())},
		}}
	}
	var commits []int64
	for range 40 {
		switch c := m.Next(); c.Op {
		case step.OpArm:
			m.Done(step.Result{Fence: current})
		case step.OpReadMark:
			m.Done(step.Result{Commit: 5, Mark: step.Mark{LogID: "log", ProducerID: 1, Epoch: 1, Offset: mark}.String()})
		case step.OpReadBounds:
			m.Done(step.Result{Start: 0, End: 20})
		case step.OpClaim, step.OpApply:
			current = c.Write.Target
			m.Done(step.Result{Outcome: step.Applied, Current: current})
		case step.OpLoad:
			m.Done(step.Result{State: step.State{Fence: current}})
		case step.OpFetch:
			if c.Offset == 9 {
				if published != 2 { // of offsets 7 and 8
					t.Errorf("%d effects published, want those at and behind the mark alone", published)
				}
				if d := cmp.Diff([]int64{mark, mark, 8, 9}, commits); d != "" {
					t.Errorf("marks committed (-want +got):\n%s", d)
				}
				return
			}
			m.Done(step.Result{Records: []record.Record{fact(c.Offset)}})
		case step.OpPublish:
			published += len(c.Outs)
			m.Done(step.Result{})
		case step.OpCommit:
			commits = append(commits, c.Mark.Offset)
			m.Done(step.Result{})
		case step.OpReadAnchor, step.OpCommitClaim, step.OpNewProducer:
			m.Done(step.Result{Producer: step.Producer{ID: 2}})
		default:
			t.Fatalf("asked for %v: %v", c.Op, c.Reason)
		}
	}
	t.Fatal("never got so far")
}

// TestEveryClaimHasItsOwnFence: a claim's fence is nobody else's, nor this owner's
// from before, also where all else is equal; or a write that arrives late would
// find its base again.
func TestEveryClaimHasItsOwnFence(t *testing.T) {
	cfg := step.Config{Processor: "seen", Topic: "facts", LogID: "log", FoldVersion: 1, Sources: 1, Types: []string{typeFact}}
	seen := map[string]bool{}
	for _, seed := range []string{"a", "b"} {
		m := step.NewMachine(cfg, step.NewPartition[heard](cfg, heardFold{}, heardCodec{}), seed)
		for claims := 0; claims < 3; {
			c := m.Next()
			r := step.Result{Commit: -1, Producer: step.Producer{ID: 1}}
			if c.Op == step.OpClaim {
				if seen[c.Write.Target] {
					t.Errorf("the fence %q was claimed with before", c.Write.Target)
				}
				seen[c.Write.Target] = true
				claims++
				r.Outcome = step.Lost
			}
			m.Done(r)
		}
	}
}

// TestStateOfAnotherOwnerIsNotFolded: who loads what another owner has claimed
// meanwhile claims again. The write would be refused, but what follows from old
// records and a newer state would have been published by then.
func TestStateOfAnotherOwnerIsNotFolded(t *testing.T) {
	cfg := step.Config{Processor: "seen", Topic: "facts", LogID: "log", FoldVersion: 1, Sources: 1, Types: []string{typeFact}}
	m := step.NewMachine(cfg, step.NewPartition[heard](cfg, heardFold{}, heardCodec{}), "a")
	for range 10 {
		c := m.Next()
		r := step.Result{Commit: -1, Producer: step.Producer{ID: 1}, Outcome: step.Applied}
		if c.Op == step.OpLoad {
			r.State.Fence = step.Fence{LogID: "log", FoldVersion: 1, Nonce: "b-1", Next: 4, Low: 4}.String()
		}
		m.Done(r)
		if c.Op == step.OpLoad {
			if got := m.Next().Op; got != step.OpBackoff {
				t.Errorf("%v after a state of another owner was loaded, want backoff", got)
			}
			return
		}
	}
	t.Fatal("nothing was loaded")
}

// TestWhoseStateIsTakenOver: a state of another log is refused for good; one of
// another fold is waited for, until its owner has released it.
func TestWhoseStateIsTakenOver(t *testing.T) {
	cfg := step.Config{Processor: "seen", Topic: "facts", LogID: "log", FoldVersion: 1, Sources: 1, Types: []string{typeFact}}
	for name, c := range map[string]struct {
		fence step.Fence
		want  step.Op
	}{
		"another log":                 {step.Fence{LogID: "other", FoldVersion: 1, Released: true}, step.OpHalt},
		"another fold, at work":       {step.Fence{LogID: "log", FoldVersion: 2}, step.OpBackoff},
		"another fold, released":      {step.Fence{LogID: "log", FoldVersion: 2, Released: true}, step.OpReadMark},
		"the same fold, not released": {step.Fence{LogID: "log", FoldVersion: 1}, step.OpReadMark},
	} {
		m := step.NewMachine(cfg, step.NewPartition[heard](cfg, heardFold{}, heardCodec{}), "a")
		m.Done(step.Result{Fence: c.fence.String()})
		if got := m.Next().Op; got != c.want || (m.Waits() != nil) != (c.want == step.OpBackoff) {
			t.Errorf("%s: %v (waits for %v), want %v", name, got, m.Waits(), c.want)
		}
	}
}

// TestATickIsFinishedBeforeTheOwnerLeaves: whoever is told to stop between two parts
// of a tick settles the rest first: what is released is whole.
func TestATickIsFinishedBeforeTheOwnerLeaves(t *testing.T) {
	cfg := step.Config{Processor: "model", Topic: "log", LogID: "log", FoldVersion: 1, Order: step.InTimeOrder, Sources: 1, Types: []string{typeFact}, MaxDirty: 1}
	m := step.NewMachine(cfg, step.NewPartition[heard](cfg, heardFold{}, heardCodec{}), "a")
	log := numbered(modelFact("a", "1", 0, 10), modelFact("b", "2", 1, 20), modelTick(2, 30))
	current, settled := "", 0
	for range 60 {
		c := m.Next()
		r := step.Result{Commit: -1, Producer: step.Producer{ID: 1}, End: int64(len(log)), Fence: current, Outcome: step.Applied}
		switch c.Op {
		case step.OpClaim, step.OpApply:
			current = c.Write.Target
			if f, err := step.ParseFence(current); err == nil && f.KeyDone != "" {
				m.Stop()
			}
		case step.OpLoad:
			r.State.Fence = current
		case step.OpFetch:
			r.Records = log[c.Offset:]
		case step.OpPublish:
			settled += len(c.Outs)
		case step.OpRelease:
			if f, err := step.ParseFence(c.Write.Target); err != nil || f.KeyDone != "" || f.Next != 3 || settled != 2 {
				t.Errorf("released at %q (%v) with %d effects published, want the whole tick settled", c.Write.Target, err, settled)
			}
			return
		}
		m.Done(r)
	}
	t.Fatal("never released")
}

// TestNothingCountsBeforeTheClock: what is known late counts from when it is known.
func TestNothingCountsBeforeTheClock(t *testing.T) {
	l := newLane(t, step.Config{Client: true, Sources: 1})
	l.tick(0, 0, 9_000_000)
	v, err := proto.Marshal(&eventv1.Event{Shop: "s", MessageId: "late", EventTimeMs: 7})
	if err != nil {
		t.Fatal(err)
	}
	l.append(record.Record{Key: []byte("s/k"), Value: v, AppendTime: 9001, Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte("late")}, {Key: record.HeaderType, Value: []byte(step.TypeEvent)},
	}})
	if d := cmp.Diff([]string{"late@9000000"}, l.ids()); d != "" {
		t.Errorf("told (-want +got):\n%s", d)
	}
}

// TestTicksThatDoNotCount: a tick of the past does not take the time back that a
// shop starts with; one that is minutes ahead of when it was appended is nobody's
// time.
func TestTicksThatDoNotCount(t *testing.T) {
	l := newLane(t, step.Config{Order: step.InTimeOrder, Sources: 1})
	l.tick(0, 0, 1000)
	l.tick(0, 1, 500)
	l.fact(0, 2, "first of its shop", 800, 1)
	if d := cmp.Diff([]string{"first of its shop@1000"}, l.ids()); d != "" {
		t.Errorf("behind a tick of the past (-want +got):\n%s", d)
	}

	l = newLane(t, step.Config{Client: true, Sources: 1})
	v, err := proto.Marshal(&eventv1.Tick{TimeUs: 6 * 60 * 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	l.append(record.Record{Value: v, AppendTime: 1, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeTick)}}})
	if v, err = proto.Marshal(&eventv1.Event{Shop: "s", MessageId: "now", EventTimeMs: 7}); err != nil {
		t.Fatal(err)
	}
	l.append(record.Record{Key: []byte("s/k"), Value: v, AppendTime: 8, Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte("now")}, {Key: record.HeaderType, Value: []byte(step.TypeEvent)},
	}})
	if d := cmp.Diff([]string{"now@7000"}, l.ids()); d != "" {
		t.Errorf("behind a tick of the future (-want +got):\n%s", d)
	}
}

// halfFold publishes, and then finds that it cannot.
type halfFold struct{}

func (halfFold) Record(_ *seen, _ step.Fact, _ step.Instant, out *step.Effects) error {
	out.Publish(step.Message{Topic: "behind", Key: "k", Type: typeFact, Kind: "half"})
	return errors.New("cannot go on")
}

func (halfFold) Wake(*seen, step.Key, step.Instant, *step.Effects) {}

// TestWhatFailsPublishesNothing: of a fold that fails, only the dead letter is left.
func TestWhatFailsPublishesNothing(t *testing.T) {
	l := newLane(t, step.Config{Sources: 1})
	l.p = step.NewPartition[seen](step.Config{Processor: "half", LogID: "log", Sources: 1, Types: []string{typeFact}, DeadLetters: "dead"}, halfFold{}, asJSON[seen]{})
	if err := l.p.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
		t.Fatal(err)
	}
	l.fact(0, 0, "a", 500, 1)
	if len(l.outs) != 1 || l.outs[0].Topic != "dead" {
		t.Errorf("published %v, want the dead letter alone", l.outs)
	}
}

// TestProducerOfAClaim: a claim goes on with the producer that fence and mark agree
// on, one epoch above both; where they differ, one of them went back, and which
// epochs were used is not known: a new one.
func TestProducerOfAClaim(t *testing.T) {
	cfg := step.Config{Processor: "seen", Topic: "facts", LogID: "log", FoldVersion: 1, Sources: 1, Types: []string{typeFact}}
	for name, c := range map[string]struct {
		fence step.Fence
		mark  string
		want  step.Producer // zero: a new one
	}{
		"both agree":               {step.Fence{ProducerID: 7, Epoch: 3}, step.Mark{LogID: "log", ProducerID: 7, Epoch: 5}.String(), step.Producer{ID: 7, Epoch: 6}},
		"the fence is ahead":       {step.Fence{ProducerID: 7, Epoch: 8}, step.Mark{LogID: "log", ProducerID: 7, Epoch: 5}.String(), step.Producer{ID: 7, Epoch: 9}},
		"the fence is an old one":  {step.Fence{ProducerID: 7, Epoch: 3}, step.Mark{LogID: "log", ProducerID: 8}.String(), step.Producer{}},
		"there is no mark":         {step.Fence{ProducerID: 7, Epoch: 3}, "", step.Producer{}},
		"the epochs are used up":   {step.Fence{ProducerID: 7, Epoch: 32760}, step.Mark{LogID: "log", ProducerID: 7}.String(), step.Producer{}},
		"the mark is another logs": {step.Fence{ProducerID: 7, Epoch: 3}, step.Mark{LogID: "other", ProducerID: 7, Epoch: 5}.String(), step.Producer{}},
	} {
		c.fence.LogID, c.fence.FoldVersion = "log", 1
		m := step.NewMachine(cfg, step.NewPartition[heard](cfg, heardFold{}, heardCodec{}), "a")
		m.Done(step.Result{Fence: c.fence.String()})
		m.Done(step.Result{Mark: c.mark}) // the commit
		m.Done(step.Result{})             // the bounds
		got := m.Next()
		if c.want == (step.Producer{}) {
			if got.Op != step.OpNewProducer {
				t.Errorf("%s: %v with %v, want a new producer", name, got.Op, got.Producer)
			}
		} else if got.Op != step.OpClaim || got.Producer != c.want {
			t.Errorf("%s: %v with %v, want a claim with %v", name, got.Op, got.Producer, c.want)
		}
	}
}
