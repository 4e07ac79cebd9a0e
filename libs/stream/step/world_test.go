package step_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// The world of these tests: clients -> events (devices, on arrival) ->
// activity (customers, in time order) -> alerts. Log, store and commits are
// memory; faults come from a seeded generator between any two steps.

const (
	day       = int64(86_400_000) // ms
	threshold = 100 * day         // silence that raises an alert
	typeFact  = "test.fact.v1"
)

// device counts its events and reports each to its customer, and a finished
// visit 30 minutes after the last one.
type device struct {
	Events, Last int64
}

type deviceFold struct{}

func (deviceFold) Record(s *device, f step.Fact, now step.Instant, out *step.Effects) error {
	var e eventv1.Event
	if err := proto.Unmarshal(f.Value, &e); err != nil {
		return err
	}
	if e.Name == "poison" {
		return errors.New("poison")
	}
	s.Events++
	s.Last = int64(now)
	out.Publish(step.Message{Topic: "activity", Key: e.UserId, Type: typeFact, Kind: "fact", EventTime: e.EventTimeMs, Value: []byte("order")})
	out.WakeAt(now + step.FromMillis(30*60*1000))
	return nil
}

func (deviceFold) Wake(s *device, key step.Key, _ step.Instant, out *step.Effects) {
	out.Publish(step.Message{Topic: "activity", Key: "u" + strings.TrimLeft(key.ID, "d"), Type: typeFact, Kind: "ended", Value: []byte("ended")})
}

// customer raises after silence, recovers with the next order. It keeps a
// hash of all it saw in order, so that a wrong order shows.
type customer struct {
	Hash    uint64
	Orders  int64
	LastEff int64
	Raised  bool
}

type customerFold struct{}

func (customerFold) Record(s *customer, f step.Fact, now step.Instant, out *step.Effects) error {
	s.Hash = xxhash.Sum64String(fmt.Sprint(s.Hash, f.ID, int64(now), f.EventTime))
	if string(f.Value) != "order" {
		return nil
	}
	s.Orders++
	s.LastEff = int64(now)
	if s.Raised {
		s.Raised = false
		out.Publish(step.Message{Topic: "alerts", Key: f.Key, Type: "alert", ID: fmt.Sprintf("recovered/%s/%s/%d", f.Shop, f.Key, int64(now))})
	}
	out.WakeAt(now + step.FromMillis(threshold))
	return nil
}

func (customerFold) Wake(s *customer, key step.Key, now step.Instant, out *step.Effects) {
	s.Raised = true
	s.Hash = xxhash.Sum64String(fmt.Sprint(s.Hash, "raised", int64(now)))
	out.Publish(step.Message{Topic: "alerts", Key: key.ID, Type: "alert", ID: fmt.Sprintf("raised/%s/%d", key, int64(now))})
}

// asJSON keeps any state as JSON.
type asJSON[S any] struct{}

func (asJSON[S]) Append(dst []byte, s *S) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return append(dst, b...)
}
func (asJSON[S]) Unmarshal(data []byte, s *S) error { return json.Unmarshal(data, s) }

type stored struct {
	fence    string
	entities map[string][]byte
	logs     map[string][]byte
}

func (s *stored) clone() *stored {
	c := &stored{fence: s.fence, entities: map[string][]byte{}, logs: map[string][]byte{}}
	maps.Copy(c.entities, s.entities)
	maps.Copy(c.logs, s.logs)
	return c
}

type committed struct {
	offset int64
	mark   string
}

type world struct {
	n       int32
	rng     *rand.Rand
	faults  bool
	topics  map[string][][]record.Record
	store   map[string]*stored
	history map[string][]*stored
	commits map[string]committed
	nextPID int64
	owners  int
	workers []*owner
	cut     int // most records of a fetch
	dirty   int // MaxDirty
	kinds   map[string]int
}

// owner is one process's worker on one partition.
type owner struct {
	name string
	cfg  step.Config
	tag  string
	make func(step.Config) step.Folder
	m    *step.Machine
	fold step.Folder
	arm  string // the fence as watched
}

func newWorld(n int32, seed uint64, faults bool) *world {
	w := &world{n: n, rng: rand.New(rand.NewPCG(seed, 7)), faults: faults, topics: map[string][][]record.Record{}, store: map[string]*stored{}, history: map[string][]*stored{}, commits: map[string]committed{}, cut: 1 + int(seed%9), dirty: 1 + int(seed%5), kinds: map[string]int{}}
	for _, t := range []string{"events", "activity", "alerts", "dead"} {
		w.topics[t] = make([][]record.Record, n)
	}
	for p := range n {
		w.hire("devices", "events", p)
		w.hire("customers", "activity", p)
	}
	return w
}

func (w *world) hire(name, topic string, p int32) {
	cfg := step.Config{Processor: name, Topic: topic, Partition: p, LogID: "log-" + topic, FoldVersion: 1, Sources: int(w.n), DeadLetters: "dead", Types: []string{typeFact}, MaxDirty: w.dirty, MaxOuts: 1000}
	o := &owner{name: name, tag: fmt.Sprintf("%s.%d", name, p)}
	if name == "devices" {
		cfg.Client, cfg.Types, cfg.PassTo = true, []string{step.TypeEvent}, []step.Target{{Topic: "activity", Partitions: w.n}}
		o.make = func(c step.Config) step.Folder { return step.NewPartition(c, deviceFold{}, asJSON[device]{}) }
	} else {
		cfg.Order = step.InTimeOrder
		o.make = func(c step.Config) step.Folder { return step.NewPartition(c, customerFold{}, asJSON[customer]{}) }
	}
	o.cfg = cfg
	w.workers = append(w.workers, o)
	w.start(o)
}

func (w *world) start(o *owner) {
	w.owners++
	o.fold = o.make(o.cfg)
	o.m = step.NewMachine(o.cfg, o.fold, "n"+strconv.Itoa(w.owners))
}

// partitionOf stands for murmur2.
func (w *world) partitionOf(key []byte) int32 {
	return int32(xxhash.Sum64(key) % uint64(w.n))
}

func (w *world) append(o record.Out) {
	p := o.Partition
	if p == record.ByKey {
		p = w.partitionOf(o.Key)
	}
	log := w.topics[o.Topic]
	log[p] = append(log[p], record.Record{Topic: o.Topic, Partition: p, Offset: int64(len(log[p])), AppendTime: 1_600_000_000_000, Key: o.Key, Value: o.Value, Headers: o.Headers})
}

func (w *world) state(tag string) *stored {
	s := w.store[tag]
	if s == nil {
		s = &stored{entities: map[string][]byte{}, logs: map[string][]byte{}}
		w.store[tag] = s
	}
	return s
}

// turn drives one owner one step, faults included. It tells whether anything
// but an empty fetch happened.
func (w *world) turn(t *testing.T, o *owner) bool {
	if w.faults {
		switch w.rng.IntN(400) {
		case 0: // the process dies
			w.kinds["kill"]++
			w.start(o)
		case 1: // the store goes back
			if h := w.history[o.tag]; len(h) > 0 {
				w.kinds["rollback"]++
				w.store[o.tag] = h[w.rng.IntN(len(h))].clone()
			}
		case 2: // the store is wiped
			w.kinds["wipe"]++
			delete(w.store, o.tag)
		}
	}
	c := o.m.Next()
	var r step.Result
	s := w.state(o.tag)
	busy := true
	switch c.Op {
	case step.OpArm:
		r.Fence = s.fence
		o.arm = s.fence
	case step.OpReadMark:
		at, ok := w.commits[o.tag]
		if !ok {
			at.offset = -1
		}
		r.Commit, r.Mark = at.offset, at.mark
	case step.OpReadBounds:
		r.End = int64(len(w.topics[o.cfg.Topic][o.cfg.Partition]))
	case step.OpReadAnchor:
		r.Records = w.topics[o.cfg.Topic][o.cfg.Partition][c.Offset : c.Offset+1]
	case step.OpNewProducer:
		w.nextPID++
		r.Producer = step.Producer{ID: w.nextPID}
	case step.OpClaim, step.OpApply, step.OpRelease:
		r = w.write(o, s, c.Write)
	case step.OpLoad:
		if s.fence != o.arm {
			r.Err = errors.New("fence moved")
			break
		}
		r.State = step.State{Fence: s.fence}
		for k, v := range s.entities {
			r.State.Entities = append(r.State.Entities, step.Entity{Key: k, Value: v})
		}
		for k, v := range s.logs {
			r.State.Logs = append(r.State.Logs, step.LogAppend{Name: k, Data: v})
		}
	case step.OpCommitClaim, step.OpCommit:
		if c.Op == step.OpCommit && w.faults && w.rng.IntN(3) == 0 {
			break // the committer had not sent it when the process died
		}
		w.commits[o.tag] = committed{c.Commit, c.Mark.String()}
	case step.OpFetch:
		log := w.topics[o.cfg.Topic][o.cfg.Partition]
		to := min(int64(len(log)), c.Offset+1+int64(w.rng.IntN(w.cut)))
		if c.Offset < to {
			r.Records = log[c.Offset:to]
		} else {
			busy = false
		}
	case step.OpPublish:
		n := len(c.Outs)
		if w.faults && w.rng.IntN(60) == 0 {
			w.kinds["publish cut"]++
			n = w.rng.IntN(n + 1)
			r.Err = errors.New("broker away")
		}
		for _, out := range c.Outs[:n] {
			w.append(out)
		}
	case step.OpHalt:
		t.Fatalf("%s halted: %v", o.tag, c.Reason)
	}
	o.m.Done(r)
	return busy
}

// write is the store's atomic write, with lost answers.
func (w *world) write(o *owner, s *stored, wr step.Write) step.Result {
	if s.fence != o.arm || s.fence != wr.Base {
		o.arm = s.fence
		return step.Result{Outcome: step.Lost, Current: s.fence}
	}
	lost := w.faults && w.rng.IntN(80) == 0
	if lost && w.rng.IntN(2) == 0 {
		w.kinds["ambiguous, not written"]++
		return step.Result{Outcome: step.Ambiguous, Err: errors.New("timeout")}
	}
	if wr.Wipe {
		s.entities, s.logs = map[string][]byte{}, map[string][]byte{}
	}
	for _, e := range wr.Entities {
		if e.Value == nil {
			delete(s.entities, e.Key)
			continue
		}
		s.entities[e.Key] = e.Value
	}
	for _, l := range wr.Logs {
		if l.Data == nil {
			delete(s.logs, l.Name)
			continue
		}
		s.logs[l.Name] = append(slices.Clone(s.logs[l.Name]), l.Data...)
	}
	s.fence, o.arm = wr.Target, wr.Target
	if w.faults && w.rng.IntN(10) == 0 {
		w.history[o.tag] = append(w.history[o.tag], s.clone())
	}
	if lost {
		w.kinds["ambiguous, written"]++
		return step.Result{Outcome: step.Ambiguous, Err: errors.New("timeout")}
	}
	return step.Result{Outcome: step.Applied}
}

// rest runs until nothing moves; faults end when the log has been read once.
func (w *world) rest(t *testing.T) {
	t.Helper()
	idle := 0
	for i := 0; idle < 12*len(w.workers); i++ {
		if i > 200_000 {
			for _, o := range w.workers {
				next, low, mark := o.m.Offsets()
				t.Logf("%s: %v next %d low %d mark %d of %d, %+v", o.tag, o.m.Next().Op, next, low, mark, len(w.topics[o.cfg.Topic][o.cfg.Partition]), o.m.Stats())
			}
			t.Fatal("the world does not come to rest")
		}
		if i > 20_000 {
			w.faults = false
		}
		if w.turn(t, w.workers[w.rng.IntN(len(w.workers))]) {
			idle = 0
		} else {
			idle++
		}
	}
}

// settle lets the world come to rest without further faults.
func (w *world) settle(t *testing.T) {
	t.Helper()
	w.rest(t)
	w.faults = false
	for _, o := range w.workers {
		w.start(o)
	}
	w.rest(t)
}

func (w *world) event(line int, p int32, seq int64, user, dev int, at, notBefore int64, name string) {
	e := &eventv1.Event{MessageId: fmt.Sprintf("m%06d", line), Shop: "s", Name: name, UserId: "u" + strconv.Itoa(user), EventTimeMs: at, KeyId: "k"}
	if seq > 0 {
		e.Import = &eventv1.Import{ImportId: "i", Sequence: seq, NotBeforeUs: notBefore * 1000, Lines: 1}
	}
	v, err := proto.Marshal(e)
	if err != nil {
		panic(err)
	}
	w.append(record.Out{Topic: "events", Partition: p, Key: []byte("s/d" + strconv.Itoa(dev)), Value: v, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeEvent)}, {Key: record.HeaderID, Value: []byte(e.MessageId)}}})
}

func (w *world) mark(p int32, seq int64, s eventv1.ImportMark_Step, at int64) {
	v, err := proto.Marshal(&eventv1.ImportMark{Shop: "s", ImportId: "i", Step: s, TimeUs: at * 1000, Sequence: seq})
	if err != nil {
		panic(err)
	}
	w.append(record.Out{Topic: "events", Partition: p, Value: v, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeImport)}, {Key: record.HeaderID, Value: []byte("mark")}}})
}

func (w *world) tick(p int32, at int64) {
	v, err := proto.Marshal(&eventv1.Tick{TimeUs: at * 1000})
	if err != nil {
		panic(err)
	}
	w.append(record.Out{Topic: "events", Partition: p, Value: v, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeTick)}, {Key: record.HeaderID, Value: []byte("tick")}}})
}

// line is one line of the imported file.
type line struct {
	user int
	at   int64
	name string
}

// file makes ten years of a few customers, out of order by up to a day.
func file(seed uint64, lines int) []line {
	rng := rand.New(rand.NewPCG(seed, 1))
	var f []line
	at := int64(1_000_000) * 1000
	for range lines {
		at += rng.Int64N(60 * day)
		name := "order"
		if rng.IntN(40) == 0 {
			name = "poison"
		}
		f = append(f, line{user: rng.IntN(5), at: at - rng.Int64N(day), name: name})
	}
	return f
}

// importFile puts the file into the log as a replay would, grid ticks
// anywhere; repeated says which lines are sent twice.
func (w *world) importFile(f []line, grid int, repeat bool) {
	seq := make([]int64, w.n)
	next := func(p int32) int64 { seq[p]++; return seq[p] }
	for p := range w.n {
		w.mark(p, next(p), eventv1.ImportMark_STEP_BEGUN, 0)
	}
	most := int64(0)
	for i, l := range f {
		most = max(most, l.at)
		p := w.partitionOf([]byte("s/d" + strconv.Itoa(l.user)))
		s := next(p)
		w.event(i, p, s, l.user, l.user, l.at, most, l.name)
		if repeat && i%3 == 0 {
			w.event(i, p, s, l.user, l.user, l.at, most, l.name)
		}
		if grid > 0 && i%grid == grid-1 {
			for p := range w.n {
				w.mark(p, next(p), eventv1.ImportMark_STEP_TICK, most)
			}
		}
	}
	for p := range w.n {
		w.mark(p, next(p), eventv1.ImportMark_STEP_ENDED, most+1000)
	}
}

// effects are the ids of the alerts, each with its due time in it.
func (w *world) effects() []string {
	ids := map[string]bool{}
	for _, p := range w.topics["alerts"] {
		for i := range p {
			ids[string(p[i].Header(record.HeaderID))] = true
		}
	}
	all := make([]string, 0, len(ids))
	for id := range ids {
		all = append(all, id)
	}
	sort.Strings(all)
	return all
}

// entities is the state of a processor's entities, over all partitions.
func (w *world) entities(name string) map[string]string {
	all := map[string]string{}
	for _, o := range w.workers {
		if o.name != name {
			continue
		}
		for k, v := range w.state(o.tag).entities {
			if k != step.MetaKey {
				all[k] = string(v)
			}
		}
	}
	return all
}

// check compares the store with an offline fold of the log.
func (w *world) check(t *testing.T) {
	t.Helper()
	for _, o := range w.workers {
		s := w.state(o.tag)
		f := o.make(o.cfg)
		if err := f.Restore(step.State{}, step.Fence{}); err != nil {
			t.Fatal(err)
		}
		rest := w.topics[o.cfg.Topic][o.cfg.Partition]
		for len(rest) > 0 {
			_, r, err := f.Fold(rest)
			if err != nil {
				t.Fatal(err)
			}
			rest = r
		}
		want := map[string][]byte{}
		for _, e := range f.Dump() {
			want[e.Key] = e.Value
		}
		if len(want) != len(s.entities) {
			t.Errorf("%s: %d entities, offline fold has %d", o.tag, len(s.entities), len(want))
		}
		for k, v := range want {
			if string(s.entities[k]) != string(v) {
				t.Errorf("%s: entity %q is\n %q, offline fold has\n %q", o.tag, k, s.entities[k], v)
			}
		}
		ids := 0
		for _, l := range s.logs {
			ids += len(l) / 8
			for i := 0; i+8 <= len(l); i += 8 {
				_ = binary.LittleEndian.Uint64(l[i:])
			}
		}
		logs := 0
		for _, l := range f.Logs() {
			logs += len(l.Data) / 8
		}
		if ids != logs {
			t.Errorf("%s: %d dedupe ids, offline fold has %d", o.tag, ids, logs)
		}
	}
}
