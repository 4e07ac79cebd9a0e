package step_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
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
// activity (customers, in time order) -> alerts; and customers -> stats (fitter,
// on arrival) -> activity again, as what they all read. Log, store and commits
// are memory; faults come from a seeded generator between any two steps.

const (
	day       = int64(86_400_000) // ms
	threshold = 100 * day         // silence that raises an alert
	typeFact  = "test.fact.v1"
	typeModel = "test.model.v1"
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
	Model   int64 // as it was when something happened last
}

type customerFold struct{}

func (customerFold) Model(shop string, data []byte) (any, error) {
	return strconv.ParseInt(string(data), 10, 64)
}

// read notes what the fitter had learnt.
func (s *customer) read(out *step.Effects) {
	if n, ok := out.Model().(int64); ok {
		s.Model = n
	}
}

func (customerFold) Record(s *customer, f step.Fact, now step.Instant, out *step.Effects) error {
	s.Hash = xxhash.Sum64String(fmt.Sprint(s.Hash, f.ID, int64(now), f.EventTime))
	s.read(out)
	if string(f.Value) != "order" {
		return nil
	}
	out.Publish(step.Message{Topic: "stats", Key: "customers", Type: typeFact, Kind: "stat", Value: []byte(f.ID)})
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
	s.read(out)
	s.Hash = xxhash.Sum64String(fmt.Sprint(s.Hash, "raised", int64(now)))
	out.Publish(step.Message{Topic: "alerts", Key: key.ID, Type: "alert", ID: fmt.Sprintf("raised/%s/%d", key, int64(now))})
}

// fitter adds up what the customers of a shop tell, in whatever order, and tells
// them all.
type fitter struct {
	N, Sum uint64
}

type fitterFold struct{}

func (fitterFold) Record(s *fitter, f step.Fact, _ step.Instant, out *step.Effects) error {
	s.N, s.Sum = s.N+1, s.Sum+xxhash.Sum64(f.Value)
	if s.N%3 == 0 {
		out.Publish(step.Message{Topic: "activity", Broadcast: true, Type: typeModel, Kind: "model", Value: strconv.AppendUint(nil, s.N, 10)})
	}
	return nil
}

func (fitterFold) Wake(*fitter, step.Key, step.Instant, *step.Effects) {}

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

// register is what the store holds of a partition. Entities and logs are never
// changed in place.
type register struct {
	fence    string
	entities map[string][]byte
	logs     map[string][]byte
	digest   string // of the entities, where the model asks for it
}

// store is the store of one partition: a primary whose fence is watched, and a
// replica that lags.
type store struct {
	register
	replica register
	touched int // how often the fence was written, wiped or rolled back
	life    int // of the connections: a failover ends them
}

// wipe is a store that lost everything.
func (s *store) wipe() { s.register = register{}; s.touched++ }

// apply makes one atomic write over a connection.
func (s *store) apply(l *link, wr *step.Write) (step.Outcome, string) {
	if l.life != s.life {
		return step.NotWritten, ""
	}
	// A fence that was missing when it was watched, and still is, protects
	// nothing: real servers commit.
	if l.touched != s.touched && (!l.missing || s.fence != "") {
		return step.Lost, s.fence
	}
	r := register{fence: wr.Target, entities: maps.Clone(s.entities), logs: maps.Clone(s.logs)}
	if wr.Wipe || r.entities == nil {
		r.entities, r.logs = map[string][]byte{}, map[string][]byte{}
	}
	for _, e := range wr.Entities {
		if e.Value == nil {
			delete(r.entities, e.Key)
			continue
		}
		r.entities[e.Key] = e.Value
	}
	for _, g := range wr.Logs {
		if g.Data == nil {
			delete(r.logs, g.Name)
			continue
		}
		r.logs[g.Name] = append(slices.Clone(r.logs[g.Name]), g.Data...)
	}
	s.register = r
	s.touched++
	l.touched, l.missing = s.touched, false
	return step.Applied, ""
}

// link is an owner's connection to a store.
type link struct {
	up      bool
	touched int // of the fence, when it was watched
	life    int
	missing bool
}

// queueLog is one partition of a topic, with the broker's checks of idempotent
// producers: epoch, then sequence.
type queueLog struct {
	recs      []record.Record
	pace      int64 // milliseconds of append time from one record to the next
	producers map[int64]*producerState
}

type producerState struct {
	e    int16
	next int32
}

// append appends what one producer sends in one request.
func (l *queueLog) append(by step.Producer, seq int32, outs []record.Out) error {
	s := l.producers[by.ID]
	if s == nil {
		s = &producerState{e: by.Epoch}
		if l.producers == nil {
			l.producers = map[int64]*producerState{}
		}
		l.producers[by.ID] = s
	}
	switch {
	case by.Epoch < s.e:
		return errors.New("epoch of the past")
	case by.Epoch > s.e:
		if seq != 0 {
			return errors.New("out of order")
		}
		s.e, s.next = by.Epoch, 0
	case seq > s.next:
		return errors.New("out of order")
	case seq < s.next:
		return nil // a repeat: dropped, whatever is in it
	}
	s.next = seq + int32(len(outs))
	for i := range outs {
		l.add(outs[i])
	}
	return nil
}

func (l *queueLog) add(o record.Out) {
	l.recs = append(l.recs, record.Record{Topic: o.Topic, Partition: o.Partition, Offset: int64(len(l.recs)), AppendTime: 1_600_000_000_000 + int64(len(l.recs))*l.pace, Key: o.Key, Value: o.Value, Headers: o.Headers})
}

// committed is what a group has committed for a partition.
type committed struct {
	offset int64
	mark   string
}

// flight is a request that its sender has given up, and that may still arrive.
type flight struct {
	link  link
	tag   string
	write *step.Write // to the store

	topic string // or to the broker
	index int32
	by    step.Producer
	seq   int32
	outs  []record.Out
}

// share is one partition of one processor: who may commit for it, and where its
// state is.
type share struct {
	tag      string
	name     string
	cfg      step.Config
	make     func(step.Config) step.Folder
	store    store
	commit   *committed
	assigned int // process
	term     int // how often it has moved
	owners   []*owner
}

// owner is one process's worker on one partition; m is nil where it has none.
type owner struct {
	of      *share
	process int
	term    int
	m       *step.Machine
	fold    step.Folder
	link    link
	writing step.Producer
	seqs    map[string]int32 // by topic and partition
	noted   *committed
}

// event is something that happened to a world, for who has to understand it.
type happening struct {
	turn uint64
	what string
}

// world is brokers, stores and processes around machines. All that is random in
// it is a function of seed, turn and the number of the question: leaving one
// fault out moves no other.
type world struct {
	n      int32
	seed   uint64
	faults bool
	only   map[uint64]bool // turns whose faults happen; nil: all
	turn   uint64
	asked  uint64
	idle   int

	topics  map[string][]*queueLog
	shares  []*share
	owners  []*owner
	frozen  []uint64 // by process: until which turn
	feed    [][]record.Out
	slow    []uint64 // by source partition: until which turn nothing comes
	flights []flight
	nextPID int64
	seeds   int
	cut     int // most records of a fetch
	dirty   int // MaxDirty

	broken error
	kinds  map[string]int
	past   []happening // faults
	trace  *xxhash.Digest
	tell   func(string) // nil: nobody listens
}

const processes = 2

func newWorld(n int32, seed uint64, faults bool) *world {
	w := &world{
		n: n, seed: seed, faults: faults, topics: map[string][]*queueLog{}, cut: 1 + int(seed%9), dirty: 1 + int(seed%5), kinds: map[string]int{},
		frozen: make([]uint64, processes), feed: make([][]record.Out, n), slow: make([]uint64, n), trace: xxhash.New(),
	}
	for _, t := range []string{"events", "activity", "stats", "alerts", "dead"} {
		for range n {
			w.topics[t] = append(w.topics[t], &queueLog{pace: int64(seed%3) * 600_000})
		}
	}
	for p := range n {
		w.hire("devices", "events", p)
		w.hire("customers", "activity", p)
		w.hire("fitter", "stats", p)
	}
	return w
}

func (w *world) hire(name, topic string, p int32) {
	cfg := step.Config{Processor: name, Topic: topic, Partition: p, LogID: "log-" + topic, FoldVersion: 1, Sources: int(w.n), DeadLetters: "dead", Types: []string{typeFact}, MaxDirty: w.dirty, MaxOuts: 1000}
	s := &share{name: name, tag: fmt.Sprintf("%s.%d", name, p), assigned: int(p) % processes}
	switch name {
	case "devices":
		cfg.Client, cfg.Types, cfg.PassTo = true, []string{step.TypeEvent}, []step.Target{{Topic: "activity", Partitions: w.n}}
		s.make = func(c step.Config) step.Folder { return step.NewPartition(c, deviceFold{}, asJSON[device]{}) }
	case "fitter":
		cfg.Broadcast = []step.Target{{Topic: "activity", Partitions: w.n}}
		s.make = func(c step.Config) step.Folder { return step.NewPartition(c, fitterFold{}, asJSON[fitter]{}) }
	default:
		cfg.Order, cfg.Model = step.InTimeOrder, typeModel
		s.make = func(c step.Config) step.Folder { return step.NewPartition(c, customerFold{}, asJSON[customer]{}) }
	}
	s.cfg = cfg
	for i := range processes {
		o := &owner{of: s, process: i}
		s.owners, w.owners = append(s.owners, o), append(w.owners, o)
	}
	w.shares = append(w.shares, s)
	w.start(s.owners[s.assigned])
}

// start gives an owner a new machine.
func (w *world) start(o *owner) {
	w.seeds++
	o.fold = o.of.make(o.of.cfg)
	o.m = step.NewMachine(o.of.cfg, o.fold, "n"+strconv.Itoa(w.seeds))
	o.link, o.writing, o.seqs, o.noted, o.term = link{}, step.Producer{}, nil, nil, o.of.term
}

// any is a number in [0, n) that depends on seed, turn and question alone.
func (w *world) any(n int) int {
	w.asked++
	z := w.seed*0x9E3779B97F4A7C15 + w.turn*0xD1B54A32D192ED03 + w.asked*0x8CB92BA72F3D8DD7
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return int((z ^ z>>31) >> 1 % uint64(n))
}

// fault tells whether something that happens once in so many turns happens now.
func (w *world) fault(once int, what string) bool {
	if w.any(once) != 0 || !w.faults || w.only != nil && !w.only[w.turn] {
		return false
	}
	w.kinds[what]++
	w.past = append(w.past, happening{w.turn, what})
	w.say("FAULT " + what)
	return true
}

// say adds to the trace: two runs of one seed have the same.
func (w *world) say(what string) {
	_, _ = w.trace.WriteString(what)
	if w.tell != nil {
		w.tell(fmt.Sprintf("%6d %s", w.turn, what))
	}
}

// partitionOf stands for murmur2.
func (w *world) partitionOf(key []byte) int32 {
	return int32(xxhash.Sum64(key) % uint64(w.n))
}

// append puts a record into a topic, from outside.
func (w *world) append(o record.Out) {
	if o.Partition == record.ByKey {
		o.Partition = w.partitionOf(o.Key)
	}
	w.topics[o.Topic][o.Partition].add(o)
}

// later puts a record of the front door where it will be appended from, in order.
func (w *world) later(o record.Out) {
	w.feed[o.Partition] = append(w.feed[o.Partition], o)
}

// next lets one thing happen.
func (w *world) next() {
	w.turn++
	w.asked = 0
	if w.disturb() || w.deliver() {
		w.idle = 0
		return
	}
	o := w.owners[w.any(len(w.owners))]
	if o.m == nil || w.frozen[o.process] > w.turn || !w.drive(o) {
		w.idle++
		return
	}
	w.idle = 0
}

// disturb is what happens to processes, stores and the coordinator.
func (w *world) disturb() bool {
	if !w.faults {
		return false
	}
	process, s := w.any(processes), w.shares[w.any(len(w.shares))]
	switch {
	case w.fault(700, "kill"): // it comes back at once, as the member it was
		for _, o := range w.owners {
			if o.process == process && o.m != nil {
				o.m = nil
				if o.of.assigned == process {
					w.start(o)
				}
			}
		}
		w.frozen[process] = 0
	case w.fault(700, "freeze"):
		w.frozen[process] = w.turn + uint64(w.any(400))
		// The coordinator has heard nothing of it for a session.
		for _, s := range w.shares {
			if s.assigned == process && w.any(2) == 0 {
				w.move(s)
			}
		}
	case w.fault(400, "rebalance"):
		w.move(s)
	case w.fault(300, "failover"):
		s.store.register = s.store.replica
		s.store.touched++
		s.store.life++
	case w.fault(500, "rollback under open connections"):
		s.store.register = s.store.replica
		s.store.touched++
	case w.fault(800, "wipe"):
		s.store.wipe()
		s.store.replica = register{}
	case w.fault(800, "fence lost"): // evicted, or deleted by hand
		s.store.fence = ""
		s.store.touched++
	case w.fault(300, "slow source"):
		w.slow[w.any(int(w.n))] = w.turn + uint64(w.any(600))
	default:
		if w.any(6) == 0 {
			s.store.replica = s.store.register
		}
		return false
	}
	return true
}

// move gives a partition to the other process. The old owner does not know yet.
func (w *world) move(s *share) {
	s.assigned = (s.assigned + 1) % processes
	s.term++
	w.start(s.owners[s.assigned])
}

// deliver lets something arrive: an event, a commit, a late request, or the news
// that a partition has moved.
func (w *world) deliver() bool {
	p := w.any(int(w.n))
	if w.any(3) == 0 && len(w.feed[p]) > 0 && (w.slow[p] <= w.turn || !w.faults) {
		w.append(w.feed[p][0])
		w.feed[p] = w.feed[p][1:]
		return true
	}
	o := w.owners[w.any(len(w.owners))]
	if o.m == nil || w.frozen[o.process] > w.turn {
		return false
	}
	if o.noted != nil && w.any(4) == 0 {
		if o.of.assigned == o.process && o.term == o.of.term {
			o.of.commit = o.noted
		}
		o.noted = nil
		return true
	}
	if (o.of.assigned != o.process || o.term != o.of.term) && w.any(8) == 0 && !o.m.Stopping() {
		o.m.Stop()
		w.say("stop " + o.of.tag)
		return true
	}
	if len(w.flights) > 0 && w.any(10) == 0 {
		i := w.any(len(w.flights))
		f := w.flights[i]
		w.flights = slices.Delete(w.flights, i, i+1)
		w.say("late arrival")
		if f.write != nil {
			for _, s := range w.shares {
				if s.tag == f.tag {
					s.store.apply(&f.link, f.write)
				}
			}
		} else {
			_ = w.topics[f.topic][f.index].append(f.by, f.seq, f.outs)
		}
		return true
	}
	return false
}

// drive lets an owner do its next step, faults included. It tells whether
// anything but an empty fetch happened.
func (w *world) drive(o *owner) bool {
	c := o.m.Next()
	var r step.Result
	s := &o.of.store
	busy := true
	log := w.topics[o.of.cfg.Topic][o.of.cfg.Partition]
	switch c.Op {
	case step.OpArm:
		r.Fence = s.fence
		o.link = link{up: true, touched: s.touched, life: s.life, missing: s.fence == ""}
		busy = !o.m.Idle()
	case step.OpReadMark:
		r.Commit = -1
		if at := o.of.commit; at != nil {
			r.Commit, r.Mark = at.offset, at.mark
		}
	case step.OpReadBounds:
		r.End = int64(len(log.recs))
	case step.OpReadAnchor:
		r.Records = log.recs[c.Offset : c.Offset+1]
	case step.OpNewProducer:
		w.nextPID++
		r.Producer = step.Producer{ID: w.nextPID}
	case step.OpClaim, step.OpApply, step.OpRelease:
		r = w.write(o, c.Write)
	case step.OpLoad:
		if !o.link.up || o.link.life != s.life {
			r.Err = errors.New("connection lost")
			break
		}
		r.State = step.State{Fence: s.fence}
		for _, k := range slices.Sorted(maps.Keys(s.entities)) {
			r.State.Entities = append(r.State.Entities, step.Entity{Key: k, Value: s.entities[k]})
		}
		for _, k := range slices.Sorted(maps.Keys(s.logs)) {
			r.State.Logs = append(r.State.Logs, step.LogAppend{Name: k, Data: s.logs[k]})
		}
	case step.OpCommitClaim:
		if o.of.assigned != o.process || o.term != o.of.term {
			r.Err = errors.New("not the group's member")
			busy = false
			break
		}
		o.of.commit = &committed{c.Commit, c.Mark.String()}
	case step.OpCommit:
		o.noted = &committed{c.Commit, c.Mark.String()}
	case step.OpFetch:
		to := min(int64(len(log.recs)), c.Offset+1+int64(w.any(w.cut)))
		if c.Offset < to {
			r.Records = log.recs[c.Offset:to]
		} else {
			busy = o.m.Stopping()
		}
	case step.OpPublish:
		r.Err = w.publish(o, c)
	case step.OpBackoff:
		o.noted = nil // the committer drops the commits of a claim that is lost
	case step.OpHalt:
		w.broken = fmt.Errorf("%s halted: %w", o.of.tag, c.Reason)
	}
	if busy {
		w.say(fmt.Sprintf("%s/%d %v %d", o.of.tag, o.process, c.Op, c.Offset))
	}
	o.m.Done(r)
	if o.m.Next().Op == step.OpDone {
		o.m = nil
		if o.of.assigned == o.process {
			w.start(o) // it has come back to this process meanwhile
		}
	}
	return busy
}

// write is an atomic write, with requests and answers that are lost.
func (w *world) write(o *owner, wr step.Write) step.Result {
	s := &o.of.store
	if !o.link.up {
		return step.Result{Outcome: step.NotWritten, Err: errors.New("connection lost")}
	}
	lost := step.Result{Outcome: step.Ambiguous, Err: errors.New("timeout")}
	switch {
	case w.fault(200, "write, request lost"):
	case w.fault(200, "write, answer lost"):
		s.apply(&o.link, &wr)
	case w.fault(200, "write, request late"):
		w.flights = append(w.flights, flight{link: o.link, tag: o.of.tag, write: &wr})
	default:
		outcome, current := s.apply(&o.link, &wr)
		if outcome == step.NotWritten {
			o.link.up = false
		}
		return step.Result{Outcome: outcome, Current: current}
	}
	o.link.up = false
	return lost
}

// publish appends partition by partition, each in a request of its own.
func (w *world) publish(o *owner, c step.Command) error {
	if o.seqs == nil || o.writing != c.Producer {
		o.writing, o.seqs = c.Producer, map[string]int32{}
	}
	type request struct {
		topic string
		index int32
		outs  []record.Out
	}
	var requests []*request
	for _, out := range c.Outs {
		if out.Partition == record.ByKey {
			out.Partition = w.partitionOf(out.Key)
		}
		i := slices.IndexFunc(requests, func(r *request) bool { return r.topic == out.Topic && r.index == out.Partition })
		if i < 0 {
			requests = append(requests, &request{topic: out.Topic, index: out.Partition})
			i = len(requests) - 1
		}
		requests[i].outs = append(requests[i].outs, out)
	}
	var failed error
	for _, r := range requests {
		at := r.topic + strconv.Itoa(int(r.index))
		seq := o.seqs[at]
		o.seqs[at] += int32(len(r.outs))
		send := func() error { return w.topics[r.topic][r.index].append(o.writing, seq, r.outs) }
		switch {
		case w.fault(150, "append, request lost"):
			failed = errors.New("broker away")
		case w.fault(150, "append, answer lost"):
			_ = send()
			failed = errors.New("timeout")
		case w.fault(150, "append, answer lost and sent again"):
			_ = send()
			failed = errors.Join(failed, send())
		case w.fault(150, "append, request late"):
			w.flights = append(w.flights, flight{topic: r.topic, index: r.index, by: o.writing, seq: seq, outs: r.outs})
			failed = errors.New("timeout")
		default:
			failed = errors.Join(failed, send())
		}
	}
	if failed != nil {
		o.seqs = nil
	}
	return failed
}

// rest runs until nothing moves; faults end when the log has been read a few times.
func (w *world) rest() error {
	begin := w.turn
	w.idle = 0
	for w.broken == nil {
		if w.idle > 16*len(w.owners) && len(w.flights) == 0 && !slices.ContainsFunc(w.feed, func(f []record.Out) bool { return len(f) > 0 }) && !w.asleep() {
			return nil
		}
		if w.turn-begin > 300_000 {
			stands := "the world does not come to rest (I10)"
			for _, o := range w.owners {
				if o.m != nil {
					next, low, mark := o.m.Offsets()
					stands += fmt.Sprintf("; %s/%d: %v next %d low %d mark %d of %d", o.of.tag, o.process, o.m.Next().Op, next, low, mark, len(w.topics[o.of.cfg.Topic][o.of.cfg.Partition].recs))
				}
			}
			return errors.New(stands)
		}
		if w.turn-begin > stormy {
			w.faults = false
		}
		w.next()
	}
	return w.broken
}

func (w *world) asleep() bool {
	return slices.ContainsFunc(w.frozen, func(until uint64) bool { return until > w.turn })
}

// stormy is how many turns a world has faults for.
const stormy = 4000

// run lets the world come to rest, and once more without faults and with new
// owners, and compares it with an offline fold.
func (w *world) run() error {
	if err := w.rest(); err != nil {
		return err
	}
	w.faults = false
	for _, o := range w.owners {
		o.m = nil
		if o.of.assigned == o.process {
			w.start(o)
		}
	}
	return errors.Join(w.rest(), w.check())
}

// settle is run, for a test that goes on only where all is well.
func (w *world) settle(t testing.TB) {
	t.Helper()
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
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
	w.later(record.Out{Topic: "events", Partition: p, Key: []byte("s/d" + strconv.Itoa(dev)), Value: v, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeEvent)}, {Key: record.HeaderID, Value: []byte(e.MessageId)}}})
}

func (w *world) mark(p int32, seq int64, s eventv1.ImportMark_Step, at int64) {
	v, err := proto.Marshal(&eventv1.ImportMark{Shop: "s", ImportId: "i", Step: s, TimeUs: at * 1000, Sequence: seq})
	if err != nil {
		panic(err)
	}
	w.later(record.Out{Topic: "events", Partition: p, Value: v, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeImport)}, {Key: record.HeaderID, Value: []byte("mark")}}})
}

func (w *world) tick(p int32, at int64) {
	v, err := proto.Marshal(&eventv1.Tick{TimeUs: at * 1000})
	if err != nil {
		panic(err)
	}
	w.later(record.Out{Topic: "events", Partition: p, Value: v, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeTick)}, {Key: record.HeaderID, Value: []byte("tick")}}})
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
		for i := range p.recs {
			ids[string(p.recs[i].Header(record.HeaderID))] = true
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// entities is the state of a processor's entities, over all partitions, but for
// what hangs on the moment at which something was learnt.
func (w *world) entities(name string) map[string]string {
	all := map[string]string{}
	for _, s := range w.shares {
		if s.name != name {
			continue
		}
		for k, v := range s.store.entities {
			if k != step.MetaKey && !strings.HasSuffix(k, "/") {
				all[k] = anyModel.ReplaceAllString(string(v), "")
			}
		}
	}
	return all
}

var anyModel = regexp.MustCompile(`,"Model":[0-9]+`)

// check compares the store, and what was published, with an offline fold of the
// log. It returns what is wrong.
func (w *world) check() error {
	var errs []error
	for _, s := range w.shares {
		errs = append(errs, w.checkShare(s))
	}
	return errors.Join(errs...)
}

func (w *world) checkShare(s *share) error {
	var errs []error
	wrong := func(format string, args ...any) {
		if len(errs) < 5 {
			errs = append(errs, fmt.Errorf(s.tag+": "+format, args...))
		}
	}
	f := s.make(s.cfg)
	if err := f.Restore(step.State{}, step.Fence{}); err != nil {
		return err
	}
	log := w.topics[s.cfg.Topic][s.cfg.Partition].recs
	type effect struct {
		value string
		seen  bool
	}
	effects := map[string]*effect{} // by topic, partition and position
	for rest := log; len(rest) > 0; {
		b, r, err := f.Fold(rest)
		if err != nil {
			return err
		}
		f.Settled()
		rest = r
		for _, o := range b.Outs {
			if o.Partition == record.ByKey {
				o.Partition = w.partitionOf(o.Key)
			}
			if at := (&record.Record{Headers: o.Headers}).Header(record.HeaderPosition); at != nil {
				effects[o.Topic+strconv.Itoa(int(o.Partition))+"|"+string(at)] = &effect{value: string(o.Value)}
			}
		}
	}
	// I1, I3: state is the fold of the log.
	if fence, err := step.ParseFence(s.store.fence); err != nil || fence.Next != int64(len(log)) {
		wrong("the fence is %q, the log ends at %d", s.store.fence, len(log))
	}
	want := map[string][]byte{}
	for _, e := range f.Dump() {
		want[e.Key] = e.Value
	}
	for k, v := range want {
		if string(s.store.entities[k]) != string(v) {
			wrong("entity %q is\n %q, offline fold has\n %q", k, s.store.entities[k], v)
		}
	}
	for k := range s.store.entities {
		if _, ok := want[k]; !ok {
			wrong("entity %q should not be there", k)
		}
	}
	ids := func(data []byte) (all []uint64) {
		for ; len(data) >= 8; data = data[8:] {
			all = append(all, binary.LittleEndian.Uint64(data))
		}
		slices.Sort(all)
		return all
	}
	logs := map[string][]uint64{}
	for _, l := range f.Logs() {
		logs[l.Name] = ids(l.Data)
	}
	for name, data := range s.store.logs {
		if name == "waiting" {
			continue // when it was written hangs on how the log was cut into batches
		}
		if !slices.Equal(logs[name], ids(data)) {
			wrong("dedupe ids of hour %s differ", name)
		}
	}
	// I4: effects are those of the fold, each with its payload.
	source := fmt.Sprintf("%s/%d/", s.cfg.LogID, s.cfg.Partition)
	for _, topic := range []string{"activity", "stats", "alerts"} {
		for p, l := range w.topics[topic] {
			for i := range l.recs {
				at := string(l.recs[i].Header(record.HeaderPosition))
				if !strings.HasPrefix(at, source) {
					continue
				}
				e := effects[topic+strconv.Itoa(p)+"|"+at]
				switch {
				case e == nil:
					wrong("nothing in the log causes %s in %s", at, topic)
				case e.value != string(l.recs[i].Value):
					wrong("%s in %s has another payload", at, topic)
				default:
					e.seen = true
				}
			}
		}
	}
	for at, e := range effects {
		if !e.seen && !strings.HasPrefix(at, "dead") {
			wrong("%s was never published", at)
		}
	}
	return errors.Join(errs...)
}
