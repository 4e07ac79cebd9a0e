package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// doors cannot fold what is called door before it has seen a key: what died can
// be folded later, by the same fold.
type doors struct {
	topic, door, key string
}

type room struct {
	Facts uint64
	Open  bool
}

func (d doors) Record(s *room, f step.Fact, _ step.Instant, out *step.Effects) error {
	if strings.Contains(f.ID, d.door) && !s.Open {
		return errors.New("locked: " + d.door)
	}
	s.Open = s.Open || strings.Contains(f.ID, d.key)
	s.Facts++
	if d.topic != "" {
		out.Publish(step.Message{Topic: d.topic, Key: out.Key().ID, Type: "count", Kind: "count", Subject: out.Key().ID, Value: []byte(f.ID)})
	}
	return nil
}

func (doors) Wake(*room, step.Key, step.Instant, *step.Effects) {}

type roomCodec struct{}

func (roomCodec) Append(b []byte, s *room) []byte { return fmt.Appendf(b, "%d %t", s.Facts, s.Open) }

func (roomCodec) Unmarshal(b []byte, s *room) error {
	_, err := fmt.Sscanf(string(b), "%d %t", &s.Facts, &s.Open)
	return err
}

// yard is two processors on topics of their own, one behind the other.
type yard struct {
	t        *testing.T
	at       place
	ps       []stream.Processor
	producer *broker.SharedProducer
	op       *stream.Operator
	in, out  string
	sent     int
	now      int64 // ms
}

const yardPartitions = 2

func newYard(t *testing.T, at place) *yard {
	suffix := strconv.FormatInt(time.Now().UnixNano(), 36)
	y := &yard{t: t, at: at, in: "in-" + suffix, out: "out-" + suffix, now: time.Now().UnixMilli() - 1_000_000, producer: at.client.NewSharedProducer()}
	t.Cleanup(func() { y.producer.Close(context.Background()) })
	y.op = &stream.Operator{Client: at.client, Store: at.store, Bases: at.bases}
	for _, spec := range []broker.TopicSpec{{Name: y.in, Partitions: yardPartitions, RetentionMS: -1}, {Name: y.out, Partitions: yardPartitions, RetentionMS: -1}} {
		if err := at.client.EnsureTopics(t.Context(), []broker.TopicSpec{spec}); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := at.client.Topics(t.Context()); err != nil || have[topics.DeadLetters] == 0 {
		if err := at.client.EnsureTopics(t.Context(), stream.Specs(partitions)); err != nil {
			t.Fatal(err)
		}
	}
	y.ps = []stream.Processor{
		{
			Name: "yard.arrival" + suffix, Topic: y.in, Layout: state.PerKey, Order: step.OnArrival, Client: true, PassTo: []string{y.out},
			Types: []string{step.TypeEvent}, FoldVersion: 1, Outputs: []string{y.out}, New: stream.Of[room](doors{y.out, "1door", "1key"}, roomCodec{}),
		},
		{
			Name: "yard.ordered" + suffix, Topic: y.out, Layout: state.Buckets, Order: step.InTimeOrder,
			Types: []string{"count"}, FoldVersion: 1, New: stream.Of[room](doors{"", "2door", "2key"}, roomCodec{}),
		},
	}
	return y
}

// events appends n events, or, where names are given, one of each.
func (y *yard) events(n int, names ...string) {
	y.t.Helper()
	var outs []record.Out
	for i := range max(n, len(names)) {
		id := fmt.Sprintf("m%06d", y.sent)
		key := y.sent % 23
		if len(names) > 0 {
			id, key = id+"-"+names[i], 1000
		}
		y.sent++
		v, err := proto.Marshal(&eventv1.Event{MessageId: id, Shop: "shop", EventTimeMs: y.now - int64(y.sent%500), KeyId: "k"})
		if err != nil {
			y.t.Fatal(err)
		}
		outs = append(outs, record.Out{Topic: y.in, Partition: record.ByKey, Key: fmt.Appendf(nil, "shop/e%d", key), Value: v, Headers: []record.Header{
			{Key: record.HeaderID, Value: []byte(id)}, {Key: record.HeaderType, Value: []byte(step.TypeEvent)},
		}})
	}
	if err := y.producer.Produce(y.t.Context(), outs); err != nil {
		y.t.Fatal(err)
	}
}

func (y *yard) tick(ms int64) {
	y.t.Helper()
	y.now += ms
	v, err := proto.Marshal(&eventv1.Tick{TimeUs: y.now * 1000})
	if err != nil {
		y.t.Fatal(err)
	}
	var outs []record.Out
	for p := range int32(yardPartitions) {
		outs = append(outs, record.Out{Topic: y.in, Partition: p, Value: v, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeTick)}}})
	}
	if err := y.producer.Produce(y.t.Context(), outs); err != nil {
		y.t.Fatal(err)
	}
}

// folded waits until all is folded, whether it may be published or not.
func (y *yard) folded(r *stream.Runtime) {
	y.t.Helper()
	waitFor(y.t, "all is folded", func() bool {
		n := 0
		for _, i := range r.Info() {
			_, end, err := y.at.client.Bounds(y.t.Context(), i.Topic, i.Partition)
			if err != nil || i.Next != end || i.State != "running" && i.State != "silent" {
				return false
			}
			n++
		}
		return n == len(y.ps)*yardPartitions
	})
}

// verified folds everything again, offline, and returns the sum of the verdicts.
func (y *yard) verified() (sum stream.Verdict) {
	y.t.Helper()
	for _, p := range y.ps {
		for i := range int32(yardPartitions) {
			v, err := stream.Verify(y.t.Context(), y.at.client, y.at.store, y.at.bases, p, i)
			if err != nil {
				y.t.Fatal(err)
			}
			if !v.OK() {
				y.t.Errorf("%s/%d: %+v", p.Name, i, v)
			}
			sum.Repeats, sum.Withheld, sum.Dead, sum.Effects = sum.Repeats+v.Repeats, sum.Withheld+v.Withheld, sum.Dead+v.Dead, sum.Effects+v.Effects
		}
	}
	return sum
}

// state is what a store holds of all partitions, by entity.
func (y *yard) state(store *state.Store) map[string]string {
	y.t.Helper()
	all := map[string]string{}
	for _, p := range y.ps {
		for i := range int32(yardPartitions) {
			held, err := store.Dump(y.t.Context(), p.Tag(i), p.Layout)
			if err != nil {
				y.t.Fatal(err)
			}
			for _, e := range held.Entities {
				all[p.Tag(i)+"|"+e.Key] = string(e.Value)
			}
		}
	}
	return all
}

// ends are how many records stand in a topic.
func (y *yard) ends(topic string) (n int64) {
	y.t.Helper()
	count, err := y.at.client.Partitions(y.t.Context(), topic)
	if err != nil {
		y.t.Fatal(err)
	}
	for i := range int32(count) {
		_, end, err := y.at.client.Bounds(y.t.Context(), topic, i)
		if err != nil {
			y.t.Fatal(err)
		}
		n += end
	}
	return n
}

func (y *yard) letters(f stream.LetterFilter) []stream.Letter {
	y.t.Helper()
	all, _, _, err := y.op.Letters(y.t.Context(), f)
	if err != nil {
		y.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(l stream.Letter) bool { return l.Topic != y.in && l.Topic != y.out })
}

// TestRequeuedLettersAreFoldedOnce puts back what died in two hops, twice, while
// owners come and go.
func TestRequeuedLettersAreFoldedOnce(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		y := newYard(t, at)
		y.tick(0)
		r, stop := member(t, at, y.ps)
		y.events(100)
		y.events(0, "1door", "2door", "2door-b", "x")
		y.tick(1000)
		y.tick(1000)
		y.folded(r)
		any := stream.LetterFilter{Partition: -1, Open: true}
		open := y.letters(any)
		if len(open) != 3 {
			t.Fatalf("%d letters, want 3: %+v", len(open), open)
		}
		for _, l := range open {
			if l.Shop != "shop" || !strings.HasPrefix(l.Reason, "locked: ") || l.Attempts != 1 || l.FoldVersion != 1 || l.Appended.IsZero() || l.Key != "shop/e1000" {
				t.Errorf("letter %+v", l)
			}
		}
		f := any
		f.Reason, f.Processor, f.Shop = "2door", y.ps[1].Name, "shop"
		if got := y.letters(f); len(got) != 2 {
			t.Errorf("%d letters of the second hop, want 2", len(got))
		}
		f.IDs = []string{open[0].ID[:8], open[1].ID[:8], open[2].ID[:8]}
		f.Limit = 1
		if got := y.letters(f); len(got) != 1 {
			t.Errorf("%d letters, want one by the limit", len(got))
		}
		y.verified()

		// Still locked: they die again, as letters of their own.
		put := func(letters []stream.Letter) {
			t.Helper()
			done, err := y.op.Requeue(t.Context(), y.ps, letters, "a test", "because", func(stream.Letter) {})
			if err != nil || len(done) != len(letters) {
				t.Fatalf("%d of %d put back: %v", len(done), len(letters), err)
			}
		}
		put(open[:1])
		y.folded(r)
		again := y.letters(any)
		if len(again) != 3 {
			t.Fatalf("%d open letters, want 3: %+v", len(again), again)
		}
		if last := again[len(again)-1]; last.Attempts != 2 || last.Key != open[0].Key || last.EventID != open[0].EventID {
			t.Errorf("the second letter is %+v, want the second attempt of %+v", last, open[0])
		}
		if _, err := y.op.Requeue(t.Context(), y.ps, y.letters(stream.LetterFilter{Partition: -1, Requeued: true}), "a test", "", func(stream.Letter) {}); !errors.Is(err, stream.ErrNotRequeued) {
			t.Errorf("put back what was put back: %v", err)
		}

		y.events(0, "1key-2key")
		y.tick(1000)
		y.folded(r)
		put(again)
		stop()
		put(again) // by somebody who had looked before
		r, stop = member(t, at, y.ps)
		y.folded(r)
		if left := y.letters(any); len(left) != 0 {
			t.Errorf("still open: %+v", left)
		}
		done := y.letters(stream.LetterFilter{Partition: -1, Requeued: true})
		if len(done) != 4 || done[0].Requeued.By != "a test" || done[0].Requeued.Why != "because" || done[0].Requeued.Offset < 0 {
			t.Errorf("%d answered letters, want 4: %+v", len(done), done)
		}
		y.tick(1000) // what the first hop has made of its letter counts in the second
		y.folded(r)
		stop()
		sum := y.verified()
		if sum.Dead != 4 {
			t.Errorf("%d dead in all, want 4", sum.Dead)
		}
		for _, p := range y.ps {
			got := facts(t, y, p, "shop/e1000")
			if got != 5 {
				t.Errorf("%s has folded %d facts of that entity, want 5, each once", p.Name, got)
			}
		}
	})
}

func facts(t *testing.T, y *yard, p stream.Processor, key string) uint64 {
	t.Helper()
	for i := range int32(yardPartitions) {
		v, ok, err := y.at.store.Read(t.Context(), p.Tag(i), p.Layout, key)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue
		}
		data, err := step.StateOf(v)
		if err != nil {
			t.Fatal(err)
		}
		var s room
		if err := (roomCodec{}).Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		return s.Facts
	}
	return 0
}

// TestSnapshotMovesState saves a running system, with records that wait, and goes
// on from it in another store after the log has lost what is older: silently up to
// where it had been, and to the same state.
func TestSnapshotMovesState(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		y := newYard(t, at)
		y.tick(0)
		r, stop := member(t, at, y.ps)
		y.events(200)
		y.events(0, "1door", "2door")
		y.tick(1000)
		y.events(60) // waits in the second hop
		y.folded(r)
		dir := filepath.Join(t.TempDir(), "snapshot")
		m, err := y.op.Save(t.Context(), y.ps, dir, func(stream.SnapshotPart) {})
		if err != nil {
			t.Fatal(err)
		}
		waiting := 0
		for _, p := range m.Partitions {
			waiting += p.Waiting
		}
		if len(m.Partitions) != 4 || waiting < 60 {
			t.Errorf("%d partitions, %d records wait: want 4, and 60 at least", len(m.Partitions), waiting)
		}
		if _, err := y.op.Save(t.Context(), y.ps, dir, func(stream.SnapshotPart) {}); err == nil {
			t.Error("saved over a snapshot")
		}
		for _, p := range y.ps {
			for i := range int32(yardPartitions) {
				v, err := stream.VerifySnapshot(t.Context(), at.client, dir, nil, p, i)
				if err != nil || !v.OK() {
					t.Errorf("the snapshot of %s/%d: %+v, %v", p.Name, i, v, err)
				}
			}
		}
		y.events(100)
		y.tick(1000)
		y.events(30)
		y.tick(1000)
		y.folded(r)

		// Refused as long as they run, and for whom it does not fit.
		restore := func(op *stream.Operator, opt stream.RestoreOptions) error {
			_, err := op.Restore(t.Context(), y.ps, dir, opt, func(stream.SnapshotPart) {})
			return err
		}
		if err := restore(y.op, stream.RestoreOptions{Partition: -1}); !errors.Is(err, stream.ErrInUse) {
			t.Errorf("restored under running owners: %v", err)
		}
		stop()
		want, published, dead := y.state(at.store), y.ends(y.out), y.ends(topics.DeadLetters)
		alien := slices.Clone(y.ps)
		alien[0].Topic = y.out
		if _, err := y.op.Restore(t.Context(), alien, dir, stream.RestoreOptions{Partition: -1}, func(stream.SnapshotPart) {}); !errors.Is(err, stream.ErrSnapshot) {
			t.Errorf("restored to another log: %v", err)
		}
		damage(t, dir, y.ps[1].Tag(1), func() {
			if err := restore(y.op, stream.RestoreOptions{Partition: -1}); !errors.Is(err, stream.ErrSnapshot) {
				t.Errorf("restored a damaged file: %v", err)
			}
		})

		other := miniredis.RunT(t)
		scfg := state.DefaultConfig()
		scfg.Addrs = []string{other.Addr()}
		store, err := state.Open(scfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		moved := &stream.Operator{Client: at.client, Store: store}
		// The log goes on where the snapshot stands: what waits is nowhere else.
		for _, part := range m.Partitions {
			i := slices.IndexFunc(y.ps, func(p stream.Processor) bool { return p.Name == part.Processor })
			if err := at.client.Trim(t.Context(), y.ps[i].Topic, part.Partition, part.Next); err != nil {
				t.Fatal(err)
			}
		}
		if err := restore(moved, stream.RestoreOptions{Partition: -1, DryRun: true}); err != nil {
			t.Fatal(err)
		}
		if got := y.state(store); len(got) != 0 {
			t.Errorf("a dry run has written %d entities", len(got))
		}
		if err := restore(moved, stream.RestoreOptions{Partition: -1}); err != nil {
			t.Fatal(err)
		}
		there := at
		there.store, there.bases = store, nil
		r, stop = member(t, there, y.ps)
		y.folded(r)
		for _, i := range r.Info() {
			if i.State != "running" || len(i.Status.Incomplete) > 0 || i.Rollbacks != 1 {
				t.Errorf("%s/%d is %s (%s), incomplete since %v, went back %d times: want it to run on from the snapshot", i.Processor, i.Partition, i.State, i.Reason, i.Status.Incomplete, i.Rollbacks)
			}
		}
		stop()
		if d := cmp.Diff(want, y.state(store)); d != "" {
			t.Errorf("from the snapshot (-there +moved):\n%s", d)
		}
		if a, b := y.ends(y.out), y.ends(topics.DeadLetters); a != published || at.bases != nil && b != dead {
			t.Errorf("published again: %d records behind, want %d; %d letters, want %d", a, published, b, dead)
		}
		r, stop = member(t, there, y.ps)
		y.events(10)
		y.tick(1000)
		y.folded(r)
		stop()
		if a := y.ends(y.out); a < published+10 {
			t.Errorf("%d records behind, want 10 more than %d: it does not speak", a, published)
		}
	})
}

// damage flips a byte of a partition's base while f runs.
func damage(t *testing.T, dir, tag string, f func()) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, tag, "*.base"))
	if err != nil || len(names) != 1 {
		t.Fatalf("bases %v, %v", names, err)
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(data)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(names[0], bad, 0o600); err != nil {
		t.Fatal(err)
	}
	f()
	if err := os.WriteFile(names[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// spoil changes an entity behind the owner's back.
func (y *yard) spoil(p stream.Processor, partition int32) {
	y.t.Helper()
	for range 200 {
		held, err := y.at.store.Dump(y.t.Context(), p.Tag(partition), p.Layout)
		if err != nil {
			y.t.Fatal(err)
		}
		i := slices.IndexFunc(held.Entities, func(e step.Entity) bool { return e.Key != step.MetaKey })
		if i < 0 {
			y.t.Fatalf("%s/%d has no entities", p.Name, partition)
		}
		part := y.at.store.Partition(p.Tag(partition), p.Layout)
		fence, err := part.Arm(y.t.Context())
		if err != nil {
			y.t.Fatal(err)
		}
		bad := held.Entities[i]
		bad.Value = append(bytes.Clone(bad.Value), '9')
		outcome, _, err := part.Apply(y.t.Context(), step.Write{Base: fence, Target: fence, Entities: []step.Entity{bad}})
		part.Close()
		if err != nil {
			y.t.Fatal(err)
		}
		if outcome == step.Applied {
			return
		}
	}
	y.t.Fatal("the owner is always faster")
}

// TestRebuildBesideAndUnderItsOwner spoils a state and has it built again: while
// its owner runs, while nobody does, with the state dropped first, and from a base
// or snapshot where the log has lost its start.
func TestRebuildBesideAndUnderItsOwner(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		y := newYard(t, at)
		y.tick(0)
		r, stop := member(t, at, y.ps)
		y.events(300)
		y.events(0, "1door", "2door")
		y.tick(1000)
		y.events(40)
		y.folded(r)
		y.verified()
		dir := filepath.Join(t.TempDir(), "snapshot")
		if _, err := y.op.Save(t.Context(), y.ps, dir, func(stream.SnapshotPart) {}); err != nil {
			t.Fatal(err)
		}
		rebuild := func(p stream.Processor, opt stream.RebuildOptions) stream.Rebuilt {
			t.Helper()
			got, err := y.op.Rebuild(t.Context(), p, 0, opt)
			if err != nil {
				t.Fatalf("%+v: %v", got, err)
			}
			return got
		}
		check := func(what string, got stream.Rebuilt, changed bool) {
			t.Helper()
			if !got.Written || !got.Verified || (got.Changed > 0) != changed || got.To <= got.From || got.Entities == 0 || got.Rate <= 0 {
				t.Errorf("%s: %+v", what, got)
			}
		}
		for _, p := range y.ps {
			y.spoil(p, 0)
			if got := rebuild(p, stream.RebuildOptions{DryRun: true}); got.Changed != 1 || got.Written {
				t.Errorf("a dry run of %s: %+v, want one entity that differs, and nothing written", p.Name, got)
			}
			check("running", rebuild(p, stream.RebuildOptions{}), true)
			y.events(20)
			y.folded(r)
			y.verified()

			y.spoil(p, 0)
			check("dropped", rebuild(p, stream.RebuildOptions{Drop: true}), false)
			y.folded(r)
			y.verified()
		}
		stop()
		for _, p := range y.ps {
			y.spoil(p, 0)
			calls := 0
			check("stopped", rebuild(p, stream.RebuildOptions{Report: func(stream.Progress) { calls++ }}), true)
			if calls == 0 {
				t.Error("nothing was heard of its progress")
			}
			if err := at.store.Restore(t.Context(), p.Tag(0), p.Layout, step.State{}); err != nil {
				t.Fatal(err)
			}
			check("lost", rebuild(p, stream.RebuildOptions{}), true)
			if _, err := y.op.Rebuild(t.Context(), p, 0, stream.RebuildOptions{Drop: true}); err == nil {
				t.Error("dropped a state that nobody would fold again")
			}
			if _, err := y.op.Rebuild(t.Context(), p, 99, stream.RebuildOptions{}); err == nil {
				t.Error("rebuilt a partition that is not there")
			}
		}
		before := y.ends(y.out)
		r, stop = member(t, at, y.ps)
		y.folded(r)
		if got := y.ends(y.out); got != before {
			t.Errorf("%d records behind after the rebuild, want %d", got, before)
		}
		y.verified()

		// The log loses its start.
		for i := range int32(yardPartitions) {
			if err := at.client.Trim(t.Context(), y.in, i, 20); err != nil {
				t.Fatal(err)
			}
		}
		y.spoil(y.ps[0], 0)
		if at.bases == nil {
			if got, err := y.op.Rebuild(t.Context(), y.ps[0], 0, stream.RebuildOptions{}); err == nil {
				t.Errorf("rebuilt over a gap: %+v", got)
			}
		}
		check("from a snapshot", rebuild(y.ps[0], stream.RebuildOptions{From: dir}), true)
		y.events(20)
		y.tick(1000)
		y.folded(r)
		stop()
		for i := range int32(yardPartitions) {
			got, err := y.op.Rebuild(t.Context(), y.ps[0], i, stream.RebuildOptions{From: dir, DryRun: true})
			if err != nil || got.Changed != 0 || got.From == 0 {
				t.Errorf("%+v, %v: want the state to be base plus tail", got, err)
			}
		}
	})
}

// TestSpeak loses the mark: owners fold in silence, whoever they are, until an
// operator decides; then what was withheld is published, or not, as decided.
func TestSpeak(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		y := newYard(t, at)
		p := y.ps[0]
		speak := func(from stream.SpeakFrom) []stream.Spoke {
			t.Helper()
			var all []stream.Spoke
			for i := range int32(yardPartitions) {
				s, err := y.op.Speak(t.Context(), p, i, from)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, s)
			}
			return all
		}
		lose := func() {
			t.Helper()
			all, err := at.client.Committed(t.Context(), p.Group(), p.Topic)
			if err != nil {
				t.Fatal(err)
			}
			for i, at := range all {
				at.Metadata = ""
				all[i] = at
			}
			if err := at.client.Commit(t.Context(), p.Group(), p.Topic, all); err != nil {
				t.Fatal(err)
			}
		}
		y.tick(0)
		r, stop := member(t, at, y.ps)
		y.events(100)
		y.tick(1000)
		y.folded(r)
		if _, err := y.op.Speak(t.Context(), p, 0, stream.SpeakFrom{Now: true}); !errors.Is(err, stream.ErrSpeaks) {
			t.Errorf("spoke to one who speaks: %v", err)
		}
		stop()
		lose()
		said := y.ends(y.out)
		for range 2 { // the second owner finds a mark that the first has committed
			r, stop = member(t, at, y.ps)
			y.events(50)
			y.tick(1000)
			y.folded(r)
			for _, i := range r.Info() {
				if silent := i.Processor == p.Name; silent != (i.State == "silent") || silent != strings.Contains(i.Reason, "sillage speak") {
					t.Errorf("%s/%d is %s: %s", i.Processor, i.Partition, i.State, i.Reason)
				}
			}
			if got := y.ends(y.out); got != said {
				t.Errorf("%d records behind, want %d: it was to be silent", got, said)
			}
			if v := y.verified(); v.Withheld == 0 {
				t.Error("verify does not know of what was withheld")
			}
			stop()
		}
		st, err := stream.Survey(t.Context(), at.client, at.store, y.ps[:1])
		if err != nil || st[0].Silent != step.SilentUnmarked {
			t.Errorf("survey says %+v, %v", st, err)
		}

		// Its owner runs: all that was withheld is published now.
		r, stop = member(t, at, y.ps)
		y.folded(r)
		for _, s := range speak(stream.SpeakFrom{Mark: true, DryRun: true}) {
			if s.Written || s.Again == 0 {
				t.Errorf("a dry run: %+v", s)
			}
		}
		for _, s := range speak(stream.SpeakFrom{Mark: true}) {
			if !s.Written || s.Again == 0 || s.Was != step.SilentUnmarked {
				t.Errorf("%+v", s)
			}
		}
		y.events(20)
		y.tick(1000)
		waitFor(t, "it speaks", func() bool { return y.ends(y.out) > said })
		y.folded(r)
		if v := y.verified(); v.Withheld != 0 {
			t.Errorf("%+v: something is still withheld", v)
		}
		stop()

		// Its owner is stopped: what was withheld stays so.
		lose()
		r, stop = member(t, at, y.ps)
		y.events(50)
		y.folded(r)
		stop()
		said = y.ends(y.out)
		for _, s := range speak(stream.SpeakFrom{Now: true}) {
			if !s.Written || s.Again != 0 || s.From != s.Next {
				t.Errorf("%+v", s)
			}
		}
		r, stop = member(t, at, y.ps)
		y.folded(r)
		if got := y.ends(y.out); got != said {
			t.Errorf("%d records behind, want %d: what was folded in silence stays unsaid", got, said)
		}
		y.events(30)
		y.folded(r)
		stop()
		if got := y.ends(y.out); got != said+30 {
			t.Errorf("%d records behind, want %d", got, said+30)
		}
		if v := y.verified(); v.Withheld < 50 {
			t.Errorf("%d withheld, want 50", v.Withheld)
		}
	})
}

// TestRebuildOfAnEmptyPartition: one that is claimed, and to which nothing has come,
// has nothing to be written, and is what its log says.
func TestRebuildOfAnEmptyPartition(t *testing.T) {
	backends(t, func(t *testing.T, at place) {
		y := newYard(t, at)
		r, stop := member(t, at, y.ps)
		defer stop()
		y.folded(r)
		for _, p := range y.ps {
			for _, opt := range []stream.RebuildOptions{{DryRun: true}, {Drop: true}, {}} {
				got, err := y.op.Rebuild(t.Context(), p, 0, opt)
				if err != nil || got.Changed > 0 || got.Entities > 0 {
					t.Errorf("%s, %+v: %+v, %v", p.Name, opt, got, err)
				}
			}
		}
	})
}
