package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// Operator changes what a store holds for a processor's partitions, for people
// who know why. What it does, it does by writing the partition's fence: an owner
// that runs loses its next write and claims again, one that does not finds it at
// its start. It is safe for concurrent use.
type Operator struct {
	Client *broker.Client
	Store  *state.Store
	Bases  *state.Bases // of an embedded store; nil: none
}

// Progress is how far a partition's fold has come.
type Progress struct {
	Processor string
	Partition int32
	From, At  int64 // offsets
	To        int64
	Elapsed   time.Duration
}

// Rate is in records a second.
func (p Progress) Rate() float64 {
	if p.Elapsed <= 0 {
		return 0
	}
	return float64(p.At-p.From) / p.Elapsed.Seconds()
}

// Left is how long the rest will take at this rate; 0 where that is not known.
func (p Progress) Left() time.Duration {
	rate := p.Rate()
	if rate <= 0 {
		return 0
	}
	return time.Duration(float64(p.To-p.At) / rate * float64(time.Second))
}

// RebuildOptions say how a partition is rebuilt.
type RebuildOptions struct {
	// From is a snapshot's directory to begin with, where the log has lost its
	// start; "": the log's start, or the older base of an embedded store.
	From string
	// Drop drops the state at once and lets the owner, who has to run, fold it
	// again, in place of folding beside it first.
	Drop   bool
	DryRun bool
	// Report is called now and then; nil: never.
	Report func(Progress)
}

// Rebuilt is what came of a rebuild.
type Rebuilt struct {
	Processor string        `json:"processor"`
	Partition int32         `json:"partition"`
	From      int64         `json:"from"` // offset of the first record folded
	To        int64         `json:"to"`   // and behind the last one
	Entities  int           `json:"entities"`
	Changed   int           `json:"changed"` // entities that were not what the log says
	Examples  []string      `json:"examples,omitempty"`
	Digest    string        `json:"digest"`
	Verified  bool          `json:"verified"` // the store was read again, and is what was folded
	Elapsed   time.Duration `json:"elapsed_ns"`
	Rate      float64       `json:"records_per_second"`
	Written   bool          `json:"written"`
}

// ErrNothing says that there is nothing to do it with.
var ErrNothing = errors.New("nobody has ever folded it")

// frame is what all commands have to know of a partition first.
type frame struct {
	p          Processor
	partition  int32
	partitions int
	logID      string
	start, end int64
}

func (o *Operator) frame(ctx context.Context, p Processor, partition int32) (frame, error) {
	f := frame{p: p, partition: partition}
	var err error
	if f.logID, err = o.Client.LogID(ctx, p.Topic); err != nil {
		return f, err
	}
	if f.partitions, err = o.Client.Partitions(ctx, p.Topic); err != nil {
		return f, err
	}
	if partition < 0 || int(partition) >= f.partitions {
		return f, fmt.Errorf("%s has partitions 0 to %d, no %d", p.Name, f.partitions-1, partition)
	}
	f.start, f.end, err = o.Client.Bounds(ctx, p.Topic, partition)
	return f, err
}

func (f frame) tag() string { return f.p.Tag(f.partition) }

// fence reads the partition's fence, and checks that it is of this log: one of
// another comes with [step.ErrOtherLog].
func (o *Operator) fence(ctx context.Context, f frame) (raw string, fence step.Fence, err error) {
	if raw, err = o.Store.Fence(ctx, f.tag()); err != nil || raw == "" {
		return "", fence, err
	}
	if fence, err = step.ParseFence(raw); err != nil {
		return "", fence, fmt.Errorf("%s/%d: %w", f.p.Name, f.partition, err)
	}
	if fence.LogID != f.logID {
		return raw, fence, fmt.Errorf("%s/%d: %w (state of %s, log %s)", f.p.Name, f.partition, step.ErrOtherLog, fence.LogID, f.logID)
	}
	return raw, fence, nil
}

// bases are where a fold can begin when the log has lost its start.
func (o *Operator) bases(from string) (*state.Bases, func(*state.Bases, string) (*state.Base, error), error) {
	if from == "" {
		return o.Bases, (*state.Bases).OldestBase, nil
	}
	if _, err := readManifest(from); err != nil {
		return nil, nil, err
	}
	b, err := state.NewBases(from)
	return b, (*state.Bases).Newest, err
}

// beside folds a partition's log beside its owner. It is not safe for concurrent
// use.
type beside struct {
	client *broker.Client
	frame  frame
	folder step.Folder
	from   int64
	fence  step.Fence // where the fold stands
	began  time.Time
	report func(Progress)
}

// begin prepares a fold from the log's start or from a base.
func (o *Operator) begin(f frame, from string, report func(Progress)) (*beside, error) {
	bases, pick, err := o.bases(from)
	if err != nil {
		return nil, err
	}
	base := &state.Base{State: step.State{Fence: step.Fence{LogID: f.logID}.String()}}
	if f.start > 0 || from != "" {
		if base, err = baseFor(f, bases, pick); err != nil {
			return nil, err
		}
	}
	b := &beside{client: o.Client, frame: f, folder: f.p.New(offline(f.p.Config(f.logID, f.partition, f.partitions))), report: report, began: time.Now()}
	if b.fence, err = step.ParseFence(base.State.Fence); err != nil {
		return nil, err
	}
	if err := b.folder.Restore(base.State, b.fence); err != nil {
		return nil, fmt.Errorf("%s/%d: begin with the base at %d: %w", f.p.Name, f.partition, base.Next, err)
	}
	b.from = b.fence.Next
	return b, nil
}

// baseFor is the base to go on from.
func baseFor(f frame, bases *state.Bases, pick func(*state.Bases, string) (*state.Base, error)) (*state.Base, error) {
	cannot := func(why string) error {
		return fmt.Errorf("%s/%d: the log begins at offset %d, %s: give a snapshot with --from", f.p.Name, f.partition, f.start, why)
	}
	if bases == nil {
		return nil, cannot("and there are no bases")
	}
	base, err := pick(bases, f.tag())
	if err != nil {
		return nil, cannot(err.Error())
	}
	if base == nil {
		return nil, cannot("and there is no base")
	}
	fence, err := step.ParseFence(base.State.Fence)
	switch {
	case err != nil:
		return nil, cannot(err.Error())
	case fence.LogID != f.logID:
		return nil, fmt.Errorf("%s/%d: %w (base of %s, log %s)", f.p.Name, f.partition, step.ErrOtherLog, fence.LogID, f.logID)
	case fence.FoldVersion != f.p.FoldVersion:
		return nil, fmt.Errorf("%s/%d: the base is of fold version %d, this program has %d", f.p.Name, f.partition, fence.FoldVersion, f.p.FoldVersion)
	case min(fence.Low, fence.Next) < f.start:
		return nil, cannot(fmt.Sprintf("and the base at %d needs more of it", base.Next))
	}
	return base, nil
}

// until folds up to an offset.
func (b *beside) until(ctx context.Context, to int64) error {
	at := b.fence.Next
	if b.from == at { // nothing folded yet: what waits is read first
		at = min(b.fence.Low, at)
	}
	if at >= to {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	type piece struct {
		recs []record.Record
		err  error
	}
	pieces := make(chan piece, 1)
	reading.Go(func() {
		defer close(pieces)
		for at < to {
			got, err := b.client.Fetch(ctx, []broker.PartitionOffset{{Topic: b.frame.p.Topic, Partition: b.frame.partition, Offset: at}}, time.Second, 4<<20)
			if err == nil {
				err = got[0].Err
			}
			var p piece
			if err != nil {
				p.err = fmt.Errorf("read the log at %d: %w", at, err)
			} else {
				at = max(at, got[0].Next)
				p.recs = got[0].Records
				p.recs = p.recs[:before(p.recs, to)]
			}
			select {
			case pieces <- p:
			case <-ctx.Done():
				return
			}
			if p.err != nil {
				return
			}
		}
	})
	for p := range pieces {
		if p.err != nil {
			return p.err
		}
		if err := b.fold(p.recs); err != nil {
			return err
		}
		if b.report != nil {
			b.report(Progress{Processor: b.frame.p.Name, Partition: b.frame.partition, From: b.from, At: b.fence.Next, To: to, Elapsed: time.Since(b.began)})
		}
	}
	return ctx.Err()
}

// fold folds records; those before where it stands wait already, or again.
func (b *beside) fold(recs []record.Record) error {
	if n := before(recs, b.fence.Next); n > 0 {
		if err := b.folder.Reread(recs[:n]); err != nil {
			return fmt.Errorf("read again what waits: %w", err)
		}
		recs = recs[n:]
	}
	for len(recs) > 0 {
		batch, rest, err := b.folder.Fold(recs)
		if err != nil {
			return fmt.Errorf("fold %s/%d at %d: %w", b.frame.p.Name, b.frame.partition, b.fence.Next, err)
		}
		b.folder.Settled()
		b.fence.Next, b.fence.Low, b.fence.Anchor = batch.Next, batch.Low, batch.Anchor
		recs = rest
	}
	return nil
}

// state is what was folded, under a fence that takes its owner from another one.
func (b *beside) state(of step.Fence, voice step.Voice) step.State {
	f := byOperator(of)
	f.LogID, f.FoldVersion = b.frame.logID, b.frame.p.FoldVersion
	f.Next, f.Low, f.Anchor = b.fence.Next, b.fence.Low, b.fence.Anchor
	f.Voice = voice
	return step.State{Fence: f.String(), Entities: b.folder.Dump(), Logs: b.folder.Logs()}
}

// Rebuild folds a partition's log again and puts what comes out in the place of
// the state. The owner may run: it works on while the log is folded beside it,
// and claims again when its state has been replaced. Nothing is published that
// was published before: the offset stays where it is, and with it the mark. A
// partition that is silent stays so: see [Operator.Speak].
func (o *Operator) Rebuild(ctx context.Context, p Processor, partition int32, opt RebuildOptions) (Rebuilt, error) {
	r := Rebuilt{Processor: p.Name, Partition: partition}
	f, err := o.frame(ctx, p, partition)
	if err != nil {
		return r, err
	}
	if opt.Drop {
		return o.drop(ctx, f, opt)
	}
	b, err := o.begin(f, opt.From, opt.Report)
	if err != nil {
		return r, err
	}
	r.From = b.from
	for n := 0; ; n++ {
		raw, fence, err := o.fence(ctx, f)
		if errors.Is(err, step.ErrOtherLog) {
			return r, fmt.Errorf("%w: what it has published of this one is not known; --drop begins anew with it", err)
		}
		if err != nil {
			return r, err
		}
		if raw == "" {
			if fence, err = o.lost(ctx, f); err != nil {
				return r, err
			}
		}
		if fence.Next < b.fence.Next {
			return r, fmt.Errorf("%s/%d: its state is at %d, behind the %d that were folded: it went back meanwhile; try again", p.Name, partition, fence.Next, b.fence.Next)
		}
		if err := b.until(ctx, fence.Next); err != nil {
			return r, err
		}
		if r.Elapsed == 0 {
			r.Elapsed = time.Since(b.began)
			if s := r.Elapsed.Seconds(); s > 0 {
				r.Rate = float64(b.fence.Next-r.From) / s
			}
		}
		if fence.KeyDone != "" && n < maxTries { // half a tick is settled: its rest first
			if !sleep(ctx, ctx, 20*time.Millisecond) || ctx.Err() != nil {
				return r, ctx.Err()
			}
			continue
		}
		st := b.state(fence, fence.Voice)
		r.To, r.Entities, r.Digest = b.fence.Next, b.folder.Status().Entities, digest(st.Entities)
		if r.Changed, r.Examples, err = o.compare(ctx, f, st, raw); err != nil {
			if errors.Is(err, errMoved) && n < maxTries {
				continue
			}
			return r, err
		}
		if opt.DryRun {
			return r, nil
		}
		outcome, err := replace(ctx, o.Store, f.tag(), p.Layout, raw, st)
		if err != nil {
			return r, err
		}
		if outcome == step.Lost && n < maxTries {
			continue // the owner was faster: what it has folded since is folded here, too
		}
		if outcome != step.Applied {
			return r, fmt.Errorf("%s/%d: its owner writes faster than it can be replaced: stop it and try again", p.Name, partition)
		}
		r.Written = true
		r.Verified, err = o.proven(ctx, b)
		return r, err
	}
}

// maxTries is how often a command runs after an owner.
const maxTries = 200

// lost is the fence of a state that is gone, up to where it was committed.
func (o *Operator) lost(ctx context.Context, f frame) (step.Fence, error) {
	all, err := o.Client.Committed(ctx, f.p.Group(), f.p.Topic)
	if err != nil {
		return step.Fence{}, err
	}
	at, ok := all[f.partition]
	if !ok {
		return step.Fence{}, fmt.Errorf("%s/%d: %w", f.p.Name, f.partition, ErrNothing)
	}
	if at.Offset > f.end {
		return step.Fence{}, fmt.Errorf("%s/%d: %w (committed %d, log end %d)", f.p.Name, f.partition, step.ErrPastEnd, at.Offset, f.end)
	}
	return step.Fence{Next: at.Offset, Low: at.Offset}, nil
}

var errMoved = errors.New("its owner has moved on")

// compare counts the entities in which the store differs from a state, if the
// store still stands at a fence.
func (o *Operator) compare(ctx context.Context, f frame, st step.State, at string) (int, []string, error) {
	held, err := o.Store.Dump(ctx, f.tag(), f.p.Layout)
	if err != nil {
		return 0, nil, err
	}
	if held.Fence != at {
		return 0, nil, fmt.Errorf("%s/%d: %w", f.p.Name, f.partition, errMoved)
	}
	n, examples := changed(st.Entities, held.Entities)
	return n, examples, nil
}

// proven reads the store again: it is what was folded, also where an owner has
// gone on.
func (o *Operator) proven(ctx context.Context, b *beside) (bool, error) {
	f := b.frame
	held, fence, err := settled(ctx, o.Store, f.p, f.partition)
	if err != nil {
		return false, err
	}
	if fence.Next < b.fence.Next {
		return false, fmt.Errorf("%s/%d: the store has gone back to %d since", f.p.Name, f.partition, fence.Next)
	}
	if err := b.until(ctx, fence.Next); err != nil {
		return false, err
	}
	if n, examples := changed(b.folder.Dump(), held.Entities); n > 0 {
		return false, fmt.Errorf("%s/%d: the store differs in %d entities from what was written: %v", f.p.Name, f.partition, n, examples)
	}
	return true, nil
}

// changed counts differences, and names a few.
func changed(should, is []step.Entity) (int, []string) {
	held := make(map[string]string, len(is))
	for _, e := range is {
		held[e.Key] = string(e.Value)
	}
	n := 0
	for _, e := range should {
		if got, ok := held[e.Key]; !ok || got != string(e.Value) {
			n++
		}
		delete(held, e.Key)
	}
	n += len(held)
	if n == 0 {
		return 0, nil
	}
	return n, differences(should, is)
}

// dropped is the fence of a state that is to be dropped: one of another log does
// not count, and its owner begins with what this log holds.
func (o *Operator) dropped(ctx context.Context, f frame) (raw string, fence step.Fence, err error) {
	raw, fence, err = o.fence(ctx, f)
	if errors.Is(err, step.ErrOtherLog) {
		fence, err = step.Fence{LogID: f.logID, Next: f.end}, nil
	}
	return raw, fence, err
}

// drop drops the state, or takes it back to a base, and waits until the owner has
// folded it again.
func (o *Operator) drop(ctx context.Context, f frame, opt RebuildOptions) (Rebuilt, error) {
	r := Rebuilt{Processor: f.p.Name, Partition: f.partition}
	raw, fence, err := o.dropped(ctx, f)
	if err != nil {
		return r, err
	}
	if raw == "" {
		return r, fmt.Errorf("%s/%d: %w", f.p.Name, f.partition, ErrNothing)
	}
	if n, err := o.Client.Members(ctx, f.p.Group()); err != nil || n == 0 {
		return r, errors.Join(err, fmt.Errorf("%s: nobody runs it who would fold its log again: start it, or leave out --drop", f.p.Name))
	}
	b, err := o.begin(f, opt.From, nil)
	if err != nil {
		return r, err
	}
	var st step.State
	if b.from > 0 {
		st = b.state(fence, fence.Voice)
	}
	r.From, r.To = b.from, fence.Next
	if opt.DryRun {
		return r, nil
	}
	began := time.Now()
	for n := 0; ; n++ {
		outcome, err := replace(ctx, o.Store, f.tag(), f.p.Layout, raw, st)
		if err != nil {
			return r, err
		}
		if outcome == step.Applied {
			break
		}
		if n >= maxTries {
			return r, fmt.Errorf("%s/%d: its owner writes faster than it can be dropped: stop it and try again", f.p.Name, f.partition)
		}
		if raw, fence, err = o.dropped(ctx, f); err != nil {
			return r, err
		}
		r.To = max(r.To, fence.Next)
	}
	r.Written = true
	for {
		_, now, err := o.fence(ctx, f)
		if err != nil {
			return r, err
		}
		if opt.Report != nil {
			opt.Report(Progress{Processor: f.p.Name, Partition: f.partition, From: r.From, At: now.Next, To: r.To, Elapsed: time.Since(began)})
		}
		if now.Next >= r.To && now.KeyDone == "" {
			break
		}
		if !sleep(ctx, ctx, 100*time.Millisecond) || ctx.Err() != nil {
			return r, ctx.Err()
		}
	}
	r.Elapsed = time.Since(began)
	r.Rate = float64(r.To-r.From) / max(r.Elapsed.Seconds(), 1e-9)
	if r.Verified, err = o.proven(ctx, b); err == nil {
		all := b.folder.Dump()
		r.Entities, r.Digest = b.folder.Status().Entities, digest(all)
	}
	return r, err
}

// SpeakFrom says from where on a silent partition publishes again.
type SpeakFrom struct {
	// Now: what was folded in silence is never published. Mark: everything since
	// the silence began. Otherwise Offset: what records there and behind it cause.
	Now, Mark bool
	Offset    int64
	// Base is a snapshot to fold from where the log has lost its start; "": the
	// older base of an embedded store.
	Base   string
	DryRun bool
	Report func(Progress)
}

// Spoke is what an operator's decision comes to.
type Spoke struct {
	Processor string       `json:"processor"`
	Partition int32        `json:"partition"`
	Was       step.Silence `json:"was,omitempty"` // why it was silent
	From      int64        `json:"from"`          // it publishes what records there and behind it cause
	Next      int64        `json:"next"`          // where it stood
	Again     int64        `json:"again"`         // records that are folded again, to be published
	Written   bool         `json:"written"`
}

// ErrSpeaks says that a partition is not silent.
var ErrSpeaks = errors.New("it is not silent")

// Speak lets a silent partition publish again. Where it has folded records in
// silence that are to be published now, its state goes back to the first of them,
// which is folded from the log.
func (o *Operator) Speak(ctx context.Context, p Processor, partition int32, from SpeakFrom) (Spoke, error) {
	s := Spoke{Processor: p.Name, Partition: partition}
	f, err := o.frame(ctx, p, partition)
	if err != nil {
		return s, err
	}
	for n := 0; ; n++ {
		raw, fence, err := o.fence(ctx, f)
		if err != nil {
			return s, err
		}
		if raw == "" {
			return s, fmt.Errorf("%s/%d: %w", p.Name, partition, ErrNothing)
		}
		s.Was, s.Next = fence.Voice.Silent, fence.Next
		if s.Was == "" {
			return s, fmt.Errorf("%s/%d: %w", p.Name, partition, ErrSpeaks)
		}
		if s.From, err = o.speakFrom(ctx, f, fence, from); err != nil {
			return s, err
		}
		s.Again = max(0, fence.Next-s.From)
		if from.DryRun {
			return s, nil
		}
		voice := step.Voice{Word: step.WordSpeak, From: s.From}
		var outcome step.Outcome
		if s.Again == 0 {
			next := byOperator(fence)
			next.KeyDone, next.Ordinal, next.Voice = fence.KeyDone, fence.Ordinal, voice
			outcome, err = refence(ctx, o.Store, f.tag(), p.Layout, raw, next)
		} else {
			outcome, err = o.back(ctx, f, raw, fence, voice, from)
		}
		if err != nil {
			return s, err
		}
		if outcome == step.Applied {
			s.Written = true
			return s, nil
		}
		if n >= maxTries {
			return s, fmt.Errorf("%s/%d: its owner writes faster than it can be told: stop it and try again", p.Name, partition)
		}
	}
}

// speakFrom is the offset that a decision is about.
func (o *Operator) speakFrom(ctx context.Context, f frame, fence step.Fence, from SpeakFrom) (int64, error) {
	switch {
	case from.Now:
		return fence.Next, nil
	case !from.Mark:
		return from.Offset, nil
	}
	all, err := o.Client.Committed(ctx, f.p.Group(), f.p.Topic)
	if err != nil {
		return 0, err
	}
	mark, err := step.ParseMark(all[f.partition].Metadata)
	if err != nil || mark.LogID != f.logID {
		return 0, fmt.Errorf("%s/%d: there is no emission mark of this log: give an offset, or now", f.p.Name, f.partition)
	}
	return mark.Offset, nil
}

// back takes the state back to where it is to speak from.
func (o *Operator) back(ctx context.Context, f frame, raw string, fence step.Fence, voice step.Voice, from SpeakFrom) (step.Outcome, error) {
	b, err := o.begin(f, from.Base, from.Report)
	if err != nil {
		return step.NotWritten, fmt.Errorf("%w; --from now publishes from here on", err)
	}
	if b.fence.Next > voice.From {
		return step.NotWritten, fmt.Errorf("%s/%d: what can be folded begins at %d, behind %d; --from now publishes from here on", f.p.Name, f.partition, b.fence.Next, voice.From)
	}
	if err := b.until(ctx, voice.From); err != nil {
		return step.NotWritten, err
	}
	return replace(ctx, o.Store, f.tag(), f.p.Layout, raw, b.state(fence, voice))
}
