package step_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/bits"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// The model: the shipped machines and partitions, a few of them on one partition
// of one topic, and everything that may happen to them, in every order. It is
// searched breadth first, so that what is found is a shortest way to it.
//
// What is around the machines:
//   - a store: one value of fence and state, watched by connections; a replica
//     that lags; failover to it, a wipe; answers that are lost, writes that
//     arrive after their owner has given up;
//   - a broker: a log that is there from the start, may lose its end and grow
//     again; a topic behind, with the checks of idempotent producers (per
//     partition: epoch, then sequence); appends that fail, lose their answer or
//     arrive late;
//   - a coordinator: one worker is the group's member for the partition and may
//     commit; the others have not heard of it yet (zombies), or are told to stop;
//   - commits that wait in a worker's committer, and expire.
//
// make model searches further than the tests do.
var modelStates = flag.Int("model.states", 4_000, "most states that the search of one model visits")

// heard is the state of an entity in the model: what it was told, in order.
type heard struct{ Hash, N uint64 }

type heardFold struct{ wakes bool }

func (f heardFold) tell(s *heard, what string, now step.Instant, out *step.Effects) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], s.Hash)
	binary.LittleEndian.PutUint64(b[8:], uint64(now))
	d := xxhash.New()
	_, _ = d.Write(b[:])
	_, _ = d.WriteString(what)
	if m, ok := out.Model().(string); ok {
		_, _ = d.WriteString(m)
	}
	s.Hash, s.N = d.Sum64(), s.N+1
	out.Publish(step.Message{Topic: "behind", Key: out.Key().ID, Type: typeFact, Kind: "told", Value: binary.LittleEndian.AppendUint64(nil, s.Hash)})
}

func (heardFold) Model(_ string, data []byte) (any, error) { return string(data), nil }

func (f heardFold) Record(s *heard, r step.Fact, now step.Instant, out *step.Effects) error {
	f.tell(s, r.ID, now, out)
	if f.wakes {
		out.WakeAt(now + 15)
	}
	return nil
}

func (f heardFold) Wake(s *heard, _ step.Key, now step.Instant, out *step.Effects) {
	f.tell(s, "wake", now, out)
}

type heardCodec struct{}

func (heardCodec) Append(b []byte, s *heard) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, s.Hash), s.N)
}

func (heardCodec) Unmarshal(b []byte, s *heard) error {
	s.Hash, s.N = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	return nil
}

// budget is how often each thing may happen on one way.
type budget struct {
	claims    int8 // by each worker; it stands still when they are used up
	crashes   int8
	moves     int8 // of the partition to another member
	answers   int8 // writes whose answer is lost, or that come late
	publishes int8 // appends that fail, lose their answer, or come late
	failovers int8
	wipes     int8
	expiries  int8 // of the commit with the mark
	cuts      int8 // the log loses its end
}

// modelConfig is one model.
type modelConfig struct {
	name    string
	workers int
	order   step.Order
	log     []record.Record
	cut     int // where the log is cut, and goes on with after
	after   []record.Record
	budget  budget

	// What an undisturbed owner makes of the log (and of the one after a cut).
	want [2]expectation
}

// expectation is the offline fold.
type expectation struct {
	state   map[string]string // by next, entity done and ordinal: fence-like
	effects map[string]int    // number, by position
	payload []string
	upto    []uint64 // by offset: the effects of all records below it, as bits
	source  []int64  // by effect: the offset that caused it
}

func (c *modelConfig) cfg() step.Config {
	return step.Config{
		Processor: "model", Topic: "log", LogID: "log", FoldVersion: 1, Order: c.order, Sources: 1,
		Types: []string{typeFact}, Model: typeModel, DeadLetters: "dead", MaxDirty: 1, MaxOuts: 100,
	}
}

func (c *modelConfig) partition() *step.Partition[heard] {
	return step.NewPartition[heard](c.cfg(), heardFold{wakes: c.order == step.InTimeOrder}, heardCodec{})
}

// fact is a derived record of the model's log.
func modelFact(key, id string, source, at int64) record.Record {
	return record.Record{Key: []byte("s/" + key), Value: []byte(id), Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte(id)},
		{Key: record.HeaderType, Value: []byte(typeFact)},
		{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, at, 10)},
		{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "up", Offset: source}.String())},
	}}
}

// sharedFact is a record that a fitter has put into every partition.
func sharedFact(source int64, what string) record.Record {
	return record.Record{Value: []byte(what), Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte("model/" + what)},
		{Key: record.HeaderType, Value: []byte(typeModel)},
		{Key: record.HeaderShop, Value: []byte("s")},
		{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "stats", Offset: source}.String())},
	}}
}

func modelTick(source, at int64) record.Record {
	v, err := proto.Marshal(&eventv1.Tick{TimeUs: at})
	if err != nil {
		panic(err)
	}
	return record.Record{Value: v, Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte("tick")},
		{Key: record.HeaderType, Value: []byte(step.TypeTick)},
		{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "up", Offset: source}.String())},
	}}
}

func numbered(recs ...record.Record) []record.Record {
	for i := range recs {
		recs[i].Offset = int64(i)
	}
	return recs
}

// logOf is the log before or after it was cut.
func (c *modelConfig) logOf(cut bool) []record.Record {
	if !cut {
		return c.log
	}
	return c.after
}

func (c *modelConfig) expect(log []record.Record) expectation {
	e := expectation{state: map[string]string{}, effects: map[string]int{}, upto: make([]uint64, len(log)+1)}
	p := c.partition()
	if err := p.Restore(step.State{}, step.Fence{}); err != nil {
		panic(err)
	}
	have := map[string][]byte{}
	e.state[placeOf(step.Fence{})] = digestOf(have)
	for i := range log {
		for rest := log[i : i+1]; len(rest) > 0; {
			b, left, err := p.Fold(rest)
			if err != nil {
				panic(err)
			}
			for j, o := range b.Outs {
				at := string((&record.Record{Headers: o.Headers}).Header(record.HeaderPosition))
				if _, ok := e.effects[at]; ok {
					panic("two effects of one position")
				}
				e.effects[at] = len(e.payload)
				e.payload = append(e.payload, string(o.Value))
				e.source = append(e.source, b.Offsets[j])
			}
			apply(have, b.Write.Entities)
			p.Settled()
			e.state[placeOf(step.Fence{Next: b.Next, KeyDone: b.KeyDone, Ordinal: b.Ordinal})] = digestOf(have)
			rest = left
		}
		e.upto[i+1] = 1<<len(e.payload) - 1
	}
	return e
}

func placeOf(f step.Fence) string {
	return strconv.FormatInt(f.Next, 10) + "/" + f.KeyDone + "/" + strconv.Itoa(int(f.Ordinal))
}

func apply(have map[string][]byte, entities []step.Entity) {
	for _, e := range entities {
		if e.Value == nil {
			delete(have, e.Key)
			continue
		}
		have[e.Key] = e.Value
	}
}

func digestOf(have map[string][]byte) string {
	names := slices.Sorted(maps.Keys(have))
	var b []byte
	for _, n := range names {
		b = append(append(append(b, n...), 0), have[n]...)
	}
	return string(b)
}

// flying is a request that its sender has given up, and that may still arrive.
type flying struct {
	write *step.Write // to the store, over link
	link  link
	outs  []record.Out // or to the broker
	by    step.Producer
	seq   int32
}

// mworker is a process that owns the partition, or believes to.
type mworker struct {
	m       *step.Machine
	p       *step.Partition[heard]
	born    int8 // how many machines there were before
	claims  int8 // left
	gone    bool // has released the partition, and ended
	link    link
	writing step.Producer
	seq     int32
	marked  int64 // the mark that the claim read; -1: none
	hushed  bool  // the claim has no mark to go by, or one of a silent owner
	term    int8  // of membership, in which it began
	noted   *committed
	halted  bool
	checked bool   // the log was judged after it was cut
	enc     string // of the machine, once asked for
	held    string // of the partition: encoding uses its room, so that only who made it may
}

// mworld is one state of the model.
type mworld struct {
	c        *modelConfig
	left     budget
	store    register
	replica  register
	touched  int // how often the fence was written, wiped or rolled back
	out      uint64
	epochs   []modelProducer // of the partition behind
	commit   *committed
	nextPID  int64
	member   int8
	term     int8 // how often the partition has moved
	isCut    bool
	expired  bool // a commit has expired: who goes on is silent
	silenced bool // ... and somebody has
	workers  []mworker
	flying   []flying
	unlawful string
}

// modelProducer is what the partition behind knows of a producer.
type modelProducer struct {
	id int64
	producerState
}

func newModel(c *modelConfig) *mworld {
	c.log = numbered(c.log...)
	c.want[0] = c.expect(c.log)
	if c.after != nil {
		c.after = numbered(append(slices.Clone(c.log[:c.cut]), c.after...)...)
		c.want[1] = c.expect(c.after)
	}
	w := &mworld{c: c, left: c.budget, store: register{entities: map[string][]byte{}}}
	w.replica = w.store
	for range c.workers {
		w.workers = append(w.workers, mworker{claims: c.budget.claims})
	}
	for i := range w.workers {
		w.restart(i)
		w.workers[i].gone = i > 0 // the others begin when it is their turn
	}
	return w
}

func (w *mworld) restart(i int) {
	o := &w.workers[i]
	o.p = w.c.partition()
	o.m = step.NewMachine(w.c.cfg(), o.p, fmt.Sprintf("%c%d", 'A'+i, o.born))
	o.born++
	o.gone, o.halted, o.checked, o.link, o.noted, o.writing, o.seq, o.marked, o.enc = false, false, w.isCut, link{}, nil, step.Producer{}, 0, -1, ""
	o.held = ""
	o.hushed = false
	o.term = w.term
}

// clone copies the world, worker i deeply: the only one that is about to move.
func (w *mworld) clone(i int) *mworld {
	c := *w
	c.workers, c.epochs, c.flying = slices.Clone(w.workers), slices.Clone(w.epochs), slices.Clone(w.flying)
	if i >= 0 {
		o := &c.workers[i]
		switch o.m.Next().Op {
		case step.OpArm, step.OpLoad, step.OpFetch, step.OpCommit, step.OpClaim, step.OpApply:
			o.p, o.held = o.p.Clone(), "" // the steps that touch it
		}
		o.m = o.m.Clone(o.p)
		o.enc = ""
	}
	return &c
}

// key is what two states that are the same have in common.
func (w *mworld) key() [2]uint64 {
	b := make([]byte, 0, 1024)
	b = fmt.Appendf(b, "%v|%x|%v|%d|%d|%v|", w.left, w.out, w.epochs, w.nextPID, w.member, w.isCut)
	b = append(b, byte(w.term), flagOf(w.expired), flagOf(w.silenced))
	for _, r := range []*register{&w.store, &w.replica} {
		b = append(append(append(append(b, r.fence...), 0), r.digest...), 0)
	}
	b = appendCommit(b, w.commit)
	for i := range w.workers {
		o := &w.workers[i]
		if o.enc == "" {
			o.enc = string(o.m.Encode(nil))
		}
		if o.held == "" {
			o.held = string(o.p.Encode(nil))
		}
		if b = append(b, flagOf(o.gone)); o.gone {
			continue
		}
		b = append(b, o.enc...)
		if o.m.Loaded() {
			b = append(b, o.held...)
		}
		b = append(b, byte(o.term), byte(o.born), byte(o.claims), flagOf(o.halted), flagOf(o.checked), w.watch(&o.link))
		if o.m.Loaded() {
			b = fmt.Appendf(b, "%v|%d|%d|", o.writing, o.seq, o.marked)
		}
		b = append(b, flagOf(o.hushed))
		b = appendCommit(b, o.noted)
	}
	for i := range w.flying {
		f := &w.flying[i]
		b = fmt.Appendf(append(b, w.watch(&f.link)), "|%v|%d|%d|", f.by, f.seq, len(f.outs))
		if f.write != nil {
			b = append(append(append(b, f.write.Base...), 0), f.write.Target...)
		}
		for _, o := range f.outs {
			b = append(b, o.Value...)
		}
	}
	return [2]uint64{xxhash.Sum64(b), xxhash.Sum64(append(b, 's'))}
}

// watch is what matters of a connection: whether a transaction on it would be
// taken now, or could be once more.
func (w *mworld) watch(l *link) byte {
	if !l.up {
		return 0
	}
	return 1 + flagOf(l.touched == w.touched) + 2*flagOf(l.missing)
}

func flagOf(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendCommit(b []byte, c *committed) []byte {
	if c == nil {
		return append(b, '-')
	}
	return append(append(strconv.AppendInt(b, c.offset, 10), c.mark...), 0)
}

func (w *mworld) wrong(format string, args ...any) {
	if w.unlawful == "" {
		w.unlawful = fmt.Sprintf(format, args...)
	}
}

func (w *mworld) want() *expectation {
	if w.isCut {
		return &w.c.want[1]
	}
	return &w.c.want[0]
}

// write is the store's side of an atomic write.
func (w *mworld) write(l *link, wr *step.Write) (step.Outcome, string) {
	missing := w.store.fence == ""
	// A fence that was missing when it was watched, and still is, protects
	// nothing: real servers commit.
	if l.touched != w.touched && (!l.missing || !missing) {
		return step.Lost, w.store.fence
	}
	r := register{fence: wr.Target, entities: maps.Clone(w.store.entities)}
	if wr.Wipe {
		r.entities = map[string][]byte{}
	}
	apply(r.entities, wr.Entities)
	r.digest = digestOf(r.entities)
	w.store = r
	w.touched++
	l.touched, l.missing = w.touched, false
	w.checkState()
	return step.Applied, ""
}

// checkState: I1, state is the fold of the log up to the fence's offset.
func (w *mworld) checkState() {
	f, err := step.ParseFence(w.store.fence)
	if err != nil {
		w.wrong("fence %q: %v", w.store.fence, err)
		return
	}
	if w.isCut {
		return // the owner of before the cut may not know yet: judged at claims
	}

	want, ok := w.want().state[placeOf(f)]
	if f.Next == 0 && f.KeyDone == "" {
		want, ok = "", true
	}
	if !ok {
		w.wrong("I1: nobody who folds the log stands at %s", placeOf(f))
	} else if want != w.store.digest {
		w.wrong("I1: the state at %s is not the fold of the log", placeOf(f))
	}
	// I4: what the records below caused has been published.
	if w.expired {
		return
	}
	if missing := w.want().upto[f.Next] &^ w.out; missing != 0 {
		w.wrong("I4: effect %d of records below %d was never published", bits.TrailingZeros64(missing), f.Next)
	}
}

// appendOuts is the broker's side of an append to the topic behind.
func (w *mworld) appendOuts(f *flying, marked int64) error {
	i := slices.IndexFunc(w.epochs, func(s modelProducer) bool { return s.id == f.by.ID })
	if i < 0 {
		w.epochs = append(w.epochs, modelProducer{f.by.ID, producerState{e: f.by.Epoch}})
		i = len(w.epochs) - 1
	}
	s := &w.epochs[i]
	switch {
	case f.by.Epoch < s.e:
		return errors.New("epoch of the past")
	case f.by.Epoch > s.e:
		if f.seq != 0 {
			return errors.New("out of order")
		}
		s.e, s.next = f.by.Epoch, 0
	case f.seq > s.next:
		return errors.New("out of order")
	case f.seq < s.next:
		return nil // a repeat: dropped, whatever is in it
	}
	s.next = f.seq + int32(len(f.outs))
	for j := range f.outs {
		w.appended(&f.outs[j], marked)
	}
	return nil
}

func (w *mworld) appended(o *record.Out, marked int64) {
	at := string((&record.Record{Headers: o.Headers}).Header(record.HeaderPosition))
	want := w.want()
	n, ok := want.effects[at]
	if !ok || want.payload[n] != string(o.Value) {
		if w.isCut {
			return // of the log before it was cut
		}
		w.wrong("I4: %s is published with a payload that nothing in the log causes", at)
		return
	}
	if marked > want.source[n] {
		w.wrong("silence: %s is published again by a claim that read the mark %d", at, marked)
	}
	w.out |= 1 << n
}

// arrive is a commit at the coordinator.
func (w *mworld) arrive(by int, c committed) bool {
	if int8(by) != w.member || w.workers[by].term != w.term {
		return false // of a generation that is over
	}
	mark, err := step.ParseMark(c.mark)
	if err != nil {
		w.wrong("mark %q: %v", c.mark, err)
		return false
	}
	if mark.Silent == "" && mark.Offset < c.offset {
		w.wrong("the mark %d is below the offset %d of the state, whose effects were published", mark.Offset, c.offset)
	}
	if w.commit != nil {
		if old, err := step.ParseMark(w.commit.mark); err == nil && mark.Offset < old.Offset && mark.Silent == "" {
			w.wrong("the mark goes back from %d to %d", old.Offset, mark.Offset)
		}
	}
	if !w.isCut && mark.Silent == "" && !w.expired {
		if missing := w.want().upto[min(mark.Offset, int64(len(w.c.log)))] &^ w.out; missing != 0 {
			w.wrong("the mark %d says that effect %d was published: it was not", mark.Offset, bits.TrailingZeros64(missing))
		}
	}
	w.commit, w.silenced = &c, w.silenced || mark.Silent != ""
	return true
}

// each calls visit for every state that may come next, with what happens. Where a
// worker is about to do what nobody else can see or influence, that alone comes
// next: in whatever order, the result is the same.
func (w *mworld) each(visit func(what string, next *mworld)) {
	for i := range w.workers {
		if w.unseen(i) {
			w.stepOf(i, visit)
			return
		}
	}
	for i := range w.workers {
		w.eachOf(i, visit)
	}
	for i := range w.flying {
		n := w.clone(-1)
		f := n.flying[i]
		n.flying = slices.Delete(n.flying, i, i+1)
		if f.write != nil {
			l := f.link
			n.write(&l, f.write)
			visit("a late write arrives", n)
		} else {
			_ = n.appendOuts(&f, -1)
			visit("a late append arrives", n)
		}
	}
	if w.left.failovers > 0 {
		if w.replica.fence != w.store.fence {
			n := w.clone(-1)
			n.replica = n.store
			visit("the replica catches up", n)
		}
		n := w.clone(-1)
		n.left.failovers--
		n.store, n.touched, n.flying = n.replica, n.touched+1, withoutWrites(n.flying)
		for i := range n.workers {
			n.workers[i].link.up = false
		}
		visit("failover", n)
	}
	if w.left.wipes > 0 && w.store.fence != "" {
		n := w.clone(-1)
		n.left.wipes--
		n.store, n.touched = register{entities: map[string][]byte{}}, n.touched+1
		visit("wipe", n)
		n = w.clone(-1)
		n.left.wipes--
		n.store.fence, n.touched = "", n.touched+1
		visit("the fence is lost, and nothing else", n)
	}
	if w.left.expiries > 0 && w.commit != nil {
		n := w.clone(-1)
		n.left.expiries--
		n.commit, n.expired = nil, true
		visit("the commit expires", n)
	}
	if w.left.cuts > 0 {
		n := w.clone(-1)
		n.left.cuts--
		n.isCut, n.out = true, 0
		for i := range n.workers {
			n.workers[i].checked = false
		}
		visit("the log loses its end and grows again", n)
	}
	if w.left.moves > 0 {
		n := w.clone(-1)
		n.left.moves--
		n.member, n.term = (n.member+1)%int8(len(n.workers)), n.term+1
		n.restart(int(n.member)) // a worker of an earlier term has ended by then
		visit("the partition moves", n)
	}
}

func withoutWrites(all []flying) []flying {
	return slices.DeleteFunc(all, func(f flying) bool { return f.write != nil })
}

// eachOf is what one worker may do or suffer next.
func (w *mworld) eachOf(i int, visit func(what string, next *mworld)) {
	o := &w.workers[i]
	name := string(rune('A' + i))
	if w.left.crashes > 0 && !o.gone {
		n := w.clone(i)
		n.left.crashes--
		n.restart(i)
		visit(name+" dies and starts again", n)
	}
	if o.noted != nil {
		n := w.clone(i)
		n.arrive(i, *o.noted)
		n.workers[i].noted = nil
		visit(name+"'s commit arrives", n)
	}
	if o.gone || o.halted {
		return
	}
	if int8(i) != w.member && o.m.Running() {
		n := w.clone(i)
		n.workers[i].m.Stop()
		if n.key() != w.key() {
			visit(name+" hears that it has to stop", n)
		}
	}
	w.stepOf(i, visit)
}

// unseen tells whether a worker's next step is its own affair.
func (w *mworld) unseen(i int) bool {
	o := &w.workers[i]
	if o.gone || o.halted || w.c.budget.cuts > 0 {
		return false
	}
	switch c := o.m.Next(); c.Op {
	case step.OpReadBounds, step.OpReadAnchor, step.OpNewProducer, step.OpCommit, step.OpBackoff:
		return true
	case step.OpFetch:
		return c.Offset < int64(len(w.c.log))
	}
	return false
}

// stepOf is what a worker's next step may come to.
func (w *mworld) stepOf(i int, visit func(what string, next *mworld)) {
	o, name := &w.workers[i], string(rune('A'+i))
	c := o.m.Next()
	step1 := func(what string, act func(n *mworld, o *mworker, c step.Command) step.Result) {
		n := w.clone(i)
		o := &n.workers[i]
		r := act(n, o, o.m.Next())
		before := o.m.Next().Op
		o.m.Done(r)
		n.settle(i, before)
		visit(name+" "+what, n)
	}
	switch c.Op {
	case step.OpArm:
		if o.claims > 0 || o.m.Next().Attempt > 0 {
			step1("arms", func(n *mworld, o *mworker, _ step.Command) step.Result {
				o.link = link{up: true, touched: n.touched, missing: n.store.fence == ""}
				return step.Result{Fence: n.store.fence}
			})
		}
	case step.OpReadMark:
		step1("reads the mark", func(n *mworld, o *mworker, _ step.Command) step.Result {
			r := step.Result{Commit: -1}
			f, err := step.ParseFence(n.store.fence)
			o.marked, o.hushed = -1, n.silenced || n.expired && n.commit == nil && err == nil && f.Next > 0
			if n.commit != nil {
				r.Commit, r.Mark = n.commit.offset, n.commit.mark
				if m, err := step.ParseMark(r.Mark); err == nil {
					o.marked = m.Offset
				}
			}
			return r
		})
	case step.OpReadBounds:
		step1("reads the bounds", func(n *mworld, o *mworker, _ step.Command) step.Result {
			o.checked = true
			return step.Result{End: int64(len(n.c.logOf(n.isCut)))}
		})
	case step.OpReadAnchor:
		step1("reads the anchor", func(n *mworld, _ *mworker, c step.Command) step.Result {
			log := n.c.logOf(n.isCut)
			if c.Offset >= int64(len(log)) {
				return step.Result{Range: true}
			}
			return step.Result{Records: log[c.Offset : c.Offset+1]}
		})
	case step.OpNewProducer:
		step1("gets a producer id", func(n *mworld, _ *mworker, _ step.Command) step.Result {
			n.nextPID++
			return step.Result{Producer: step.Producer{ID: n.nextPID}}
		})
	case step.OpClaim, step.OpApply, step.OpRelease:
		w.eachWrite(i, c, step1)
	case step.OpLoad:
		step1("loads", func(n *mworld, o *mworker, _ step.Command) step.Result {
			if !o.link.up {
				return step.Result{Err: errors.New("connection lost")}
			}
			return step.Result{State: n.state()}
		})
	case step.OpCommitClaim:
		step1("commits its claim", func(n *mworld, _ *mworker, c step.Command) step.Result {
			if !n.arrive(i, committed{c.Commit, c.Mark.String()}) {
				return step.Result{Err: errors.New("not the group's member")}
			}
			return step.Result{}
		})
	case step.OpFetch:
		log := w.c.logOf(w.isCut)
		if c.Offset > int64(len(log)) {
			step1("fetches behind the end", func(*mworld, *mworker, step.Command) step.Result { return step.Result{Range: true} })
			return
		}
		left := len(log) - int(c.Offset)
		if left == 0 && !o.m.Stopping() {
			step1("fetches nothing", func(*mworld, *mworker, step.Command) step.Result { return step.Result{} })
		}
		for _, n := range []int{1, left} {
			if n <= left && (n > 0 || o.m.Stopping()) && (n == 1 || left != 1) {
				step1("fetches "+strconv.Itoa(n), func(_ *mworld, _ *mworker, c step.Command) step.Result {
					return step.Result{Records: log[c.Offset : c.Offset+int64(n)]}
				})
			}
		}
	case step.OpPublish:
		publish := func(n *mworld, o *mworker, c step.Command) *flying {
			if o.writing != c.Producer {
				o.writing, o.seq = c.Producer, 0
			}
			f := &flying{outs: c.Outs, by: o.writing, seq: o.seq}
			o.seq += int32(len(c.Outs))
			return f
		}
		step1("publishes", func(n *mworld, o *mworker, c step.Command) step.Result {
			if o.hushed {
				n.wrong("silence: a claim without a mark publishes")
			}
			return step.Result{Err: n.appendOuts(publish(n, o, c), o.marked)}
		})
		if w.left.publishes == 0 {
			return
		}
		step1("publishes in vain", func(n *mworld, o *mworker, c step.Command) step.Result {
			n.left.publishes--
			publish(n, o, c)
			return step.Result{Err: errors.New("broker away")}
		})
		step1("publishes, the answer is lost", func(n *mworld, o *mworker, c step.Command) step.Result {
			n.left.publishes--
			_ = n.appendOuts(publish(n, o, c), o.marked)
			return step.Result{Err: errors.New("timeout")}
		})
		step1("publishes, the request is slow", func(n *mworld, o *mworker, c step.Command) step.Result {
			n.left.publishes--
			n.flying = append(n.flying, *publish(n, o, c))
			return step.Result{Err: errors.New("timeout")}
		})
	case step.OpCommit:
		step1("notes its commit", func(_ *mworld, o *mworker, c step.Command) step.Result {
			o.noted = &committed{c.Commit, c.Mark.String()}
			return step.Result{}
		})
	case step.OpBackoff:
		step1("waits", func(*mworld, *mworker, step.Command) step.Result { return step.Result{} })
	}
}

// eachWrite is what an atomic write can come to.
func (w *mworld) eachWrite(i int, c step.Command, step1 func(string, func(*mworld, *mworker, step.Command) step.Result)) {
	o := &w.workers[i]
	what := c.Op.String() + "s"
	if c.Op == step.OpApply {
		what = "applies"
	}
	if c.Op == step.OpClaim && o.claims == 0 {
		return
	}
	used := func(o *mworker) {
		if c.Op == step.OpClaim {
			o.claims--
		}
	}
	if !o.link.up {
		step1(what+" on a dead connection", func(_ *mworld, o *mworker, _ step.Command) step.Result {
			return step.Result{Outcome: step.NotWritten, Err: errors.New("connection lost")}
		})
		return
	}
	step1(what, func(n *mworld, o *mworker, c step.Command) step.Result {
		used(o)
		outcome, current := n.write(&o.link, &c.Write)
		return step.Result{Outcome: outcome, Current: current}
	})
	if w.left.answers == 0 {
		return
	}
	lost := step.Result{Outcome: step.Ambiguous, Err: errors.New("timeout")}
	step1(what+", the request is lost", func(n *mworld, o *mworker, _ step.Command) step.Result {
		n.left.answers--
		used(o)
		o.link.up = false
		return lost
	})
	step1(what+", the answer is lost", func(n *mworld, o *mworker, c step.Command) step.Result {
		n.left.answers--
		used(o)
		n.write(&o.link, &c.Write)
		o.link.up = false
		return lost
	})
	step1(what+", the request is slow", func(n *mworld, o *mworker, c step.Command) step.Result {
		n.left.answers--
		used(o)
		wr := c.Write
		n.flying = append(n.flying, flying{write: &wr, link: o.link})
		o.link.up = false
		return lost
	})
}

func (w *mworld) state() step.State {
	s := step.State{Fence: w.store.fence}
	for _, name := range slices.Sorted(maps.Keys(w.store.entities)) {
		s.Entities = append(s.Entities, step.Entity{Key: name, Value: w.store.entities[name]})
	}
	return s
}

// settle looks at a worker after its step.
func (w *mworld) settle(i int, was step.Op) {
	o := &w.workers[i]
	c := o.m.Next()
	switch c.Op {
	case step.OpBackoff:
		o.noted = nil // the committer drops the commits of a claim that is lost
	case step.OpDone:
		o.gone = true
	case step.OpHalt:
		o.halted = true
		if !w.isCut || !errors.Is(c.Reason, step.ErrTruncated) && !errors.Is(c.Reason, step.ErrPastEnd) {
			w.wrong("halted: %v", c.Reason)
		}
	case step.OpCommitClaim:
		// What a claim goes on from is the fold of the log as it is now: also
		// where the log has lost its end meanwhile.
		if was == step.OpLoad && o.checked {
			f, err := step.ParseFence(w.store.fence)
			next, _, _ := o.m.Offsets()
			if err == nil && f.Next == next {
				have := map[string][]byte{}
				apply(have, w.state().Entities)
				if want, ok := w.want().state[placeOf(f)]; f.Next > 0 && (!ok || want != digestOf(have)) {
					w.wrong("I5: a claim goes on from a state that is not the fold of the log (at %s)", placeOf(f))
				}
			}
		}
	}
}

// calm runs the group's member to the end of the log, with nothing more
// happening: I10.
func (w *mworld) calm() string {
	n := w.clone(int(w.member))
	n.left = budget{}
	i := int(n.member)
	if n.workers[i].halted || n.isCut {
		return ""
	}
	for range 400 {
		o := &n.workers[i]
		o.claims = 2
		if o.gone || o.m.Stopping() && o.m.Next().Op == step.OpDone {
			n.restart(i)
		}
		if n.unlawful != "" {
			return n.unlawful
		}
		var next *mworld
		n.eachOf(i, func(what string, s *mworld) {
			if next == nil && !strings.Contains(what, "hears") {
				next = s
			}
		})
		if next == nil {
			break
		}
		n = next
	}
	f, err := step.ParseFence(n.store.fence)
	if err != nil || f.Next != int64(len(n.c.log)) {
		return fmt.Sprintf("I10: left alone, the member does not get to the end of the log (%s, %v)", n.store.fence, n.workers[i].m.Next().Op)
	}
	if missing := n.want().upto[len(n.c.log)] &^ n.out; missing != 0 && !n.expired {
		return fmt.Sprintf("I4: at the end, effect %d is missing", bits.TrailingZeros64(missing))
	}
	return ""
}

// found is what a search came to.
type found struct {
	states, steps int
	depth         int
	complete      bool
	unlawful      string
	way           []string
}

type parent struct {
	of   [2]uint64
	what string
}

// search visits all states, breadth first, until one is unlawful.
func search(c *modelConfig, most int) found {
	first := newModel(c)
	seen := map[[2]uint64]parent{first.key(): {}}
	var f found
	level := []*mworld{first}
	way := func(last [2]uint64, what string) {
		f.way = []string{what}
		for at := last; ; {
			p := seen[at]
			if p.what == "" {
				break
			}
			f.way = append(f.way, p.what)
			at = p.of
		}
		slices.Reverse(f.way)
	}
	type arrival struct {
		key  [2]uint64
		from [2]uint64
		what string
		w    *mworld
	}
	for len(level) > 0 {
		f.depth++
		chunks := runtime.GOMAXPROCS(0)
		got := make([][]arrival, chunks)
		steps := make([]int, chunks)
		bad := make([]string, chunks)
		badAt := make([][2]uint64, chunks)
		var working sync.WaitGroup
		for k := range chunks {
			working.Go(func() {
				for i := k; i < len(level); i += chunks {
					from := level[i].key()
					if from[0]%256 == 0 {
						if why := level[i].calm(); why != "" && bad[k] == "" {
							bad[k], badAt[k] = why, from
						}
					}
					level[i].each(func(what string, n *mworld) {
						steps[k]++
						got[k] = append(got[k], arrival{n.key(), from, what, n})
					})
				}
			})
		}
		working.Wait()
		for k := range chunks {
			if bad[k] != "" {
				f.states, f.unlawful = len(seen), bad[k]
				way(badAt[k], "and nothing more happens")
				return f
			}
		}
		level = level[:0]
		for k := range chunks {
			f.steps += steps[k]
			for _, a := range got[k] {
				if _, ok := seen[a.key]; ok {
					continue
				}
				seen[a.key] = parent{a.from, a.what}
				if a.w.unlawful != "" {
					f.states, f.unlawful = len(seen), a.w.unlawful
					way(a.from, a.what)
					return f
				}
				level = append(level, a.w)
			}
		}
		f.states = len(seen)
		if f.states >= most {
			return f
		}
	}
	f.complete = true
	return f
}

// models are the small configurations that are searched.
func models() []*modelConfig {
	arrival := []record.Record{modelFact("a", "1", 0, 10), modelFact("b", "2", 1, 20), modelFact("b", "2", 1, 20), modelFact("a", "3", 2, 30)}
	timely := []record.Record{modelFact("a", "1", 0, 10), modelFact("b", "2", 1, 40), modelTick(2, 30), modelTick(3, 60)}
	learnt := []record.Record{modelFact("a", "1", 0, 40), sharedFact(0, "x"), modelFact("b", "2", 1, 20), modelTick(2, 30), sharedFact(1, "y"), sharedFact(0, "x"), modelTick(3, 60)}
	one, two := arrival[:1], arrival[:2]
	return []*modelConfig{
		{name: "an answer is lost", workers: 2, log: two, budget: budget{claims: 2, moves: 1, answers: 1}},
		{name: "an append fails", workers: 2, log: two, budget: budget{claims: 2, moves: 1, publishes: 1}},
		{name: "owners die", workers: 2, log: arrival[:3], budget: budget{claims: 2, moves: 1, crashes: 1}},
		{name: "the store rolls back under two", workers: 2, log: two, budget: budget{claims: 2, moves: 1, failovers: 1}},
		{name: "the store rolls back, and again", workers: 1, log: arrival, budget: budget{claims: 4, crashes: 1, failovers: 2}},
		{name: "the store is wiped under two", workers: 2, log: one, budget: budget{claims: 2, moves: 1, wipes: 1, answers: 1}},
		{name: "the store rolls back and is wiped", workers: 1, log: two, budget: budget{claims: 4, failovers: 1, wipes: 1, publishes: 1}},
		{name: "the store is wiped, then an older one is back", workers: 1, log: []record.Record{arrival[0], arrival[1], arrival[3]}, budget: budget{claims: 4, crashes: 1, failovers: 1, wipes: 1}},
		{name: "the mark expires", workers: 1, log: two, budget: budget{claims: 4, crashes: 1, expiries: 1, failovers: 1}},
		{name: "the log loses its end", workers: 1, log: two, cut: 1, after: []record.Record{modelFact("a", "4", 2, 30)}, budget: budget{claims: 3, crashes: 2, cuts: 1}},
		{name: "the log loses its end for good", workers: 1, log: two, cut: 1, after: []record.Record{}, budget: budget{claims: 3, crashes: 2, cuts: 1}},
		{name: "in time order, ticks in parts", workers: 1, order: step.InTimeOrder, log: timely, budget: budget{claims: 3, crashes: 1, failovers: 1, answers: 1}},
		{name: "in time order, two owners", workers: 2, order: step.InTimeOrder, log: timely, budget: budget{claims: 1, moves: 1, crashes: 1}},
		{name: "in time order, models between what waits", workers: 1, order: step.InTimeOrder, log: learnt, budget: budget{claims: 3, crashes: 1, failovers: 1, answers: 1}},
		{name: "three owners", workers: 3, log: one, budget: budget{claims: 1, moves: 2, answers: 1}},
		{name: "three owners, and the store rolls back", workers: 3, log: one, budget: budget{claims: 1, moves: 2, failovers: 1}},
	}
}

// TestModel searches every order of events in small configurations.
func TestModel(t *testing.T) {
	total, steps := 0, 0
	for _, c := range models() {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			f := search(c, *modelStates)
			total, steps = total+f.states, steps+f.steps
			extent := "all of them"
			if !f.complete {
				extent = "the search was ended there"
			}
			t.Logf("%d states, %d steps, depth %d, %v: %s", f.states, f.steps, f.depth, time.Since(begin).Round(time.Millisecond), extent)
			if f.unlawful != "" {
				t.Errorf("%s\nhow to get there:\n  %s", f.unlawful, strings.Join(f.way, "\n  "))
			}
		})
	}
	t.Logf("%d states, %d steps", total, steps)
}
