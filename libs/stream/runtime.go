package stream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sort"
	"sync"
	"time"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// Config bounds a runtime.
type Config struct {
	FetchWait  time.Duration // how long a fetch waits for data
	FetchBytes int32         // most bytes of one fetch of a partition: large batches cost least
	FetchTotal int32         // most bytes of one fetch of all partitions of a processor together
	Gather     time.Duration // least time from a small fetch to the next: what one record waits at most, beside what is in hand
	Commit     time.Duration // how often commits go out
	BaseEvery  time.Duration // how often a base is taken where there is a place for it
	Drain      time.Duration // how long the step in hand may take at the end
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{FetchWait: 500 * time.Millisecond, FetchBytes: 4 << 20, FetchTotal: 32 << 20, Gather: 5 * time.Millisecond, Commit: 200 * time.Millisecond, BaseEvery: 15 * time.Second, Drain: 10 * time.Second}
}

// Runtime runs processors over one broker and one store. It is safe for
// concurrent use.
type Runtime struct {
	cfg    Config
	client *broker.Client
	store  *state.Store
	bases  *state.Bases // nil: the store keeps its own
	log    *slog.Logger

	fetchers fetchers

	mu      sync.Mutex
	workers map[string]*worker // by tag
}

// New returns a runtime. Bases is nil where the store is durable itself.
func New(cfg Config, client *broker.Client, store *state.Store, bases *state.Bases, log *slog.Logger) *Runtime {
	return &Runtime{cfg: cfg, client: client, store: store, bases: bases, log: log, fetchers: fetchers{open: map[string]*fetcher{}}, workers: map[string]*worker{}}
}

// Run joins the processor's group and works until ctx ends; then it finishes
// the step in hand, releases its partitions and commits.
func (r *Runtime) Run(ctx context.Context, p Processor) error {
	partitions, err := r.client.Partitions(ctx, p.Topic)
	if err != nil {
		return fmt.Errorf("count partitions of %s: %w", p.Topic, err)
	}
	logID, err := r.client.LogID(ctx, p.Topic)
	if err != nil {
		return fmt.Errorf("identify the log of %s: %w", p.Topic, err)
	}
	member := r.client.NewMember(p.Group(), p.Topic, r.log)
	commits := newCommitter(p.Topic, r.cfg.Commit, member.Commit)
	var committing sync.WaitGroup
	committing.Go(func() { commits.run(r.log) }) //nolint:contextcheck // the last commit comes after ctx has ended
	defer committing.Wait()
	defer commits.stop()
	return member.Run(ctx, func(ctx context.Context, partition int32) {
		r.work(ctx, p, partition, partitions, logID, commits)
	})
}

// worker is one owned partition.
type worker struct {
	mu   sync.Mutex
	info PartitionInfo
}

// PartitionInfo is how an owned partition stands.
type PartitionInfo struct {
	Processor, Topic string
	Partition        int32
	State            string // claiming, waiting, running, silent, halted
	Reason           string // of waiting, silence or a halt
	Next, Low, Mark  int64
	End              int64 // the log's end, as last heard
	BaseNext         int64 // next of the newest base; -1 where none was taken
	BaseAt           time.Time
	Stats            step.Stats
	Status           step.PartitionStatus
	// How often the state went back to an offset that had been committed, and by
	// how many records, since the claim.
	Rollbacks, RolledBack int64
}

// Info lists all partitions that this runtime owns.
func (r *Runtime) Info() []PartitionInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	infos := make([]PartitionInfo, 0, len(r.workers))
	for _, w := range r.workers {
		w.mu.Lock()
		infos = append(infos, w.info)
		w.mu.Unlock()
	}
	sort.Slice(infos, func(i, j int) bool {
		if infos[i].Processor != infos[j].Processor {
			return infos[i].Processor < infos[j].Processor
		}
		return infos[i].Partition < infos[j].Partition
	})
	return infos
}

// work drives one partition's machine until ctx ends.
func (r *Runtime) work(ctx context.Context, p Processor, partition int32, partitions int, logID string, commits *committer) {
	tag := p.Tag(partition)
	log := r.log.With(slog.String("processor", p.Name), slog.Int("partition", int(partition)))
	w := &worker{info: PartitionInfo{Processor: p.Name, Topic: p.Topic, Partition: partition, State: "claiming", BaseNext: -1}}
	r.mu.Lock()
	r.workers[tag] = w
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		if r.workers[tag] == w {
			delete(r.workers, tag)
		}
		r.mu.Unlock()
	}()

	cfg := p.Config(logID, partition, partitions)
	d := &driver{
		r: r, p: p, partition: partition, log: log, commits: commits, w: w, tag: tag,
		folder: p.New(cfg), part: r.store.Partition(tag, p.Layout),
	}
	reader, release := r.reader(p, partition)
	defer release()
	d.reader = reader
	defer d.part.Close()
	defer d.saving.Wait()
	d.m = step.NewMachine(cfg, d.folder, nonce())
	// What is in hand at the end is finished on a context of its own.
	drain, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(r.cfg.Drain, cancel) })
	defer stop()
	// What was not released is not ours to commit for: another owner may have.
	defer commits.drop(partition)
	for {
		if ctx.Err() != nil {
			d.m.Stop()
		}
		c := d.m.Next()
		if c.Op == step.OpDone || drain.Err() != nil {
			return
		}
		if c.Op == step.OpHalt {
			log.Error("halted", slog.Any("reason", c.Reason))
			d.report("halted", c.Reason)
			if !d.mended(ctx) {
				return
			}
			d.m = step.NewMachine(cfg, d.folder, nonce())
			continue
		}
		if c.Attempt > 0 && !sleep(ctx, drain, backoff(c.Attempt)) {
			return
		}
		res := d.do(ctx, drain, c)
		d.m.Done(res)
		if c.Op == step.OpBackoff || res.Outcome == step.Lost {
			commits.drop(partition) // the claim is over
		}
		if c.Op == step.OpRelease && res.Outcome == step.Applied {
			d.released(drain, c.Write.Target)
		}
	}
}

// handOver bounds the wait for the last commit before a partition is handed over.
const handOver = 2 * time.Second

// released ends the work on a partition that was left cleanly: the next owner
// finds the mark, and a base, up to date. Where the commit is not taken, the mark
// stays behind, which is where a crash would leave it.
func (d *driver) released(drain context.Context, fence string) {
	ctx, cancel := context.WithTimeout(drain, handOver)
	defer cancel()
	if err := d.commits.flushed(ctx, d.partition); err != nil {
		d.log.Info("released without its last commit", slog.Any("err", err))
	}
	if d.r.bases != nil {
		d.last(fence)
	}
}

// nonce makes this claim different from anybody else's.
func nonce() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// backoff grows from 20 ms to half a second, with jitter: what is away for a
// moment is found again soon after.
func backoff(attempt int) time.Duration {
	d := min(20*time.Millisecond<<min(attempt, 8), 500*time.Millisecond)
	return d/2 + mathrand.N(d/2+1)
}

// sleep waits for d; at the end of ctx it returns at once, false only where
// drain has ended too.
func sleep(ctx, drain context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	if ctx.Err() != nil {
		select {
		case <-t.C:
		case <-drain.Done():
		}
		return drain.Err() == nil
	}
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return true
}

// driver does what one partition's machine says.
type driver struct {
	r         *Runtime
	p         Processor
	partition int32
	log       *slog.Logger
	commits   *committer
	w         *worker
	tag       string
	m         *step.Machine
	folder    step.Folder
	part      *state.Partition
	reader    *broker.Reader
	producer  *broker.Producer
	producing step.Producer
	end       int64
	reported  time.Time
	based     time.Time
	baseNext  int64
	saving    sync.WaitGroup
	noticed   noticed
}

func (d *driver) do(ctx, drain context.Context, c step.Command) step.Result {
	res := d.try(ctx, drain, c)
	if res.Err != nil && drain.Err() == nil && (ctx.Err() == nil || c.Op != step.OpFetch) {
		d.log.Warn("will try again", slog.String("step", c.Op.String()), slog.Any("err", res.Err))
	}
	return res
}

func (d *driver) try(ctx, drain context.Context, c step.Command) step.Result {
	var res step.Result
	switch c.Op {
	case step.OpArm:
		if !d.m.Claimed() && d.m.Waits() == nil {
			d.report("claiming", nil)
		}
		res.Fence, res.Err = d.part.Arm(drain)
		d.armed(res.Fence)
	case step.OpReadMark:
		committed, err := d.r.client.Committed(drain, d.p.Group(), d.p.Topic)
		at, ok := committed[d.partition]
		if !ok {
			at.Offset = -1
		}
		res.Commit, res.Mark, res.Err = at.Offset, at.Metadata, err
		d.noticed.committed = at.Offset
	case step.OpReadBounds:
		res.Start, res.End, res.Err = d.r.client.Bounds(drain, d.p.Topic, d.partition)
		d.end = res.End
	case step.OpReadAnchor:
		return d.one(drain, c.Offset)
	case step.OpNewProducer:
		id, err := d.r.client.InitProducerID(drain)
		res.Producer, res.Err = step.Producer{ID: id.ID, Epoch: id.Epoch}, err
	case step.OpClaim, step.OpApply, step.OpRelease:
		res.Outcome, res.Current, res.Err = d.part.Apply(drain, c.Write)
	case step.OpLoad:
		res.State, res.Err = d.part.Load(drain)
	case step.OpCommitClaim:
		if c.Attempt == 0 {
			d.claimed()
		}
		res.Err = d.commits.commit(drain, d.partition, broker.Committed{Offset: c.Commit, Metadata: c.Mark.String()})
	case step.OpFetch:
		d.idle()
		if ctx.Err() != nil {
			return res // the machine has been told to stop
		}
		got, err := d.reader.Fetch(ctx, c.Offset)
		res = d.fetched(got, err)
		if ctx.Err() != nil {
			return step.Result{}
		}
	case step.OpPublish:
		if d.producer == nil || d.producing != c.Producer {
			d.producer, d.producing = d.r.client.NewProducer(broker.ProducerID{ID: c.Producer.ID, Epoch: c.Producer.Epoch}), c.Producer
		}
		if _, err := d.producer.Produce(drain, c.Outs); err != nil {
			d.producer = nil
			res.Err = err
		}
	case step.OpCommit:
		d.commits.note(d.partition, broker.Committed{Offset: c.Commit, Metadata: c.Mark.String()})
	case step.OpBackoff:
		if why := d.m.Waits(); why != nil {
			d.wait(why)
		} else {
			d.rewound()
			d.report("claiming", nil)
		}
		sleep(ctx, drain, 50*time.Millisecond+mathrand.N(200*time.Millisecond))
	}
	return res
}

// wait says, once, why a partition cannot be claimed for the time being.
func (d *driver) wait(why error) {
	if d.w.info.State != "waiting" {
		d.log.Warn("the partition cannot be claimed yet", slog.Any("reason", why))
	}
	d.report("waiting", why)
}

// one fetches the record at offset.
func (d *driver) one(ctx context.Context, offset int64) step.Result {
	got, err := d.r.client.Fetch(ctx, []broker.PartitionOffset{{Topic: d.p.Topic, Partition: d.partition, Offset: offset}}, d.r.cfg.FetchWait, 64<<10)
	if err != nil {
		return step.Result{Err: err}
	}
	return d.fetched(got[0], nil)
}

func (d *driver) fetched(got broker.Fetched, err error) step.Result {
	if err == nil {
		err = got.Err
	}
	switch {
	case errors.Is(err, broker.ErrOutOfRange):
		return step.Result{Range: true}
	case errors.Is(err, broker.ErrRecreated):
		return step.Result{OtherLog: true}
	case err != nil:
		return step.Result{Err: err}
	}
	d.end = max(d.end, got.HighWatermark)
	return step.Result{Records: got.Records}
}

// idle is called between two steps: status and bases are taken here.
func (d *driver) idle() {
	now := time.Now()
	if now.Sub(d.reported) >= 100*time.Millisecond {
		if why := d.m.Silent(); why != "" {
			d.report("silent", silence(why))
		} else {
			d.report("running", nil)
		}
	}
	next, _, _ := d.m.Offsets()
	if d.r.bases == nil || !d.m.Settled() || !d.noticed.replaced && (next == d.baseNext || now.Sub(d.based) < d.r.cfg.BaseEvery) {
		return
	}
	if d.based.IsZero() && !d.noticed.replaced {
		d.based = now // the first one is due after a full interval
		return
	}
	d.base(now, next)
}

// base takes a base of the state as it is, and writes it in the background.
func (d *driver) base(now time.Time, next int64) {
	d.saving.Wait()
	d.based, d.baseNext = now, next
	snapshot, mark := d.m.Snapshot()
	replaced := d.noticed.replaced
	d.noticed.replaced = false
	d.saving.Go(func() {
		if err := d.r.bases.Save(d.tag, next, snapshot, mark.String()); err != nil {
			d.log.Error("base not taken", slog.Any("err", err))
			return
		}
		if replaced {
			// Those before are of a state that an operator did not want.
			if err := d.r.bases.Only(d.tag, next); err != nil {
				d.log.Error("old bases not removed", slog.Any("err", err))
			}
		}
		d.w.mu.Lock()
		d.w.info.BaseNext, d.w.info.BaseAt = next, now
		d.w.mu.Unlock()
	})
}

// last takes the base of a partition that was left cleanly: the next start goes
// on from here.
func (d *driver) last(fence string) {
	d.saving.Wait()
	next, _, _ := d.m.Offsets()
	snapshot, mark := d.m.Snapshot()
	snapshot.Fence = fence
	if err := d.r.bases.Save(d.tag, next, snapshot, mark.String()); err != nil {
		d.log.Error("base not taken", slog.Any("err", err))
	}
}

func (d *driver) report(state string, reason error) {
	d.reported = time.Now()
	next, low, mark := d.m.Offsets()
	status := d.folder.Status()
	d.counted(status.Counts)
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	i := &d.w.info
	i.State, i.Next, i.Low, i.Mark, i.End = state, next, low, mark, max(d.end, next)
	i.Stats, i.Status, i.Reason = d.m.Stats(), status, ""
	i.Rollbacks, i.RolledBack = d.noticed.rollbacks, d.noticed.rolledBack
	if reason != nil {
		i.Reason = reason.Error()
	}
}
