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
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// Config bounds a runtime.
type Config struct {
	FetchWait  time.Duration // how long a fetch waits for data
	FetchBytes int32         // most bytes of one fetch
	Gather     time.Duration // least time from a small fetch to the next: what one record waits at most
	Commit     time.Duration // how often commits go out
	BaseEvery  time.Duration // how often a base is taken where there is a place for it
	Drain      time.Duration // how long the step in hand may take at the end
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{FetchWait: 500 * time.Millisecond, FetchBytes: 1 << 20, Gather: 20 * time.Millisecond, Commit: 200 * time.Millisecond, BaseEvery: 15 * time.Second, Drain: 10 * time.Second}
}

// Runtime runs processors over one broker and one store. It is safe for
// concurrent use.
type Runtime struct {
	cfg    Config
	client *broker.Client
	store  *state.Store
	bases  *state.Bases // nil: the store keeps its own
	log    *slog.Logger

	mu      sync.Mutex
	workers map[string]*worker // by tag
}

// New returns a runtime. Bases is nil where the store is durable itself.
func New(cfg Config, client *broker.Client, store *state.Store, bases *state.Bases, log *slog.Logger) *Runtime {
	return &Runtime{cfg: cfg, client: client, store: store, bases: bases, log: log, workers: map[string]*worker{}}
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
	return r.client.Join(ctx, p.Group(), []string{p.Topic}, func(ctx context.Context, gen broker.Generation) {
		commits := newCommitter(p.Topic, r.cfg.Commit, func(ctx context.Context, offs map[int32]broker.Committed) error {
			return gen.Commit(ctx, p.Topic, offs)
		})
		var committing sync.WaitGroup
		committing.Go(func() { commits.run(r.log) }) //nolint:contextcheck // the last commit comes after ctx has ended
		var working sync.WaitGroup
		for _, partition := range gen.Assigned[p.Topic] {
			working.Go(func() { r.work(ctx, p, partition, partitions, logID, commits) })
		}
		working.Wait()
		commits.stop()
		committing.Wait()
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
	State            string // claiming, running, silent, halted
	Reason           string // of silence or a halt
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
	defer d.part.Close()
	defer d.saving.Wait()
	d.m = step.NewMachine(cfg, d.folder, nonce())
	// What is in hand at the end is finished on a context of its own.
	drain, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(r.cfg.Drain, cancel) })
	defer stop()
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
		if c.Op == step.OpRelease && res.Outcome == step.Applied && r.bases != nil {
			d.last(c.Write.Target)
		}
	}
}

// nonce makes this claim different from anybody else's.
func nonce() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// backoff grows from 20 ms to 2 s, with jitter.
func backoff(attempt int) time.Duration {
	d := min(20*time.Millisecond<<min(attempt, 8), 2*time.Second)
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
	producer  *broker.Producer
	producing step.Producer
	end       int64
	fetched   int // records of the last fetch
	fetchedAt time.Time
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
		d.report("claiming", nil)
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
		return d.fetch(drain, c.Offset, 64<<10)
	case step.OpNewProducer:
		id, err := d.r.client.InitProducerID(drain)
		res.Producer, res.Err = step.Producer{ID: id.ID, Epoch: id.Epoch}, err
	case step.OpClaim, step.OpApply, step.OpRelease:
		res.Outcome, res.Current, res.Err = d.part.Apply(drain, c.Write)
		if res.Outcome == step.Applied {
			d.noticed.fence = c.Write.Target
		}
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
		d.gather(ctx, drain)
		res = d.fetch(ctx, c.Offset, d.r.cfg.FetchBytes)
		d.fetched, d.fetchedAt = len(res.Records), time.Now()
		if ctx.Err() != nil {
			return step.Result{}
		}
		if d.fetched == 0 && res.Err == nil && !res.Range && d.overtaken(ctx) {
			res.Range = true // the claim judges it
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
		d.rewound()
		d.report("claiming", nil)
		sleep(ctx, drain, 50*time.Millisecond+mathrand.N(200*time.Millisecond))
	}
	return res
}

// fewRecords is a batch that costs more for being one than for what is in it.
const fewRecords = 256

// gather waits a little where records come in dribs and drabs, so that fewer and
// larger batches are folded, published and written. The first record after a
// pause does not wait.
func (d *driver) gather(ctx, drain context.Context) {
	if d.fetched == 0 || d.fetched >= fewRecords {
		return
	}
	if left := d.r.cfg.Gather - time.Since(d.fetchedAt); left > 0 {
		sleep(ctx, drain, left)
	}
}

func (d *driver) fetch(ctx context.Context, offset int64, bytes int32) step.Result {
	got, err := d.r.client.Fetch(ctx, []broker.PartitionOffset{{Topic: d.p.Topic, Partition: d.partition, Offset: offset}}, d.r.cfg.FetchWait, bytes)
	if err != nil {
		return step.Result{Err: err}
	}
	var recs []record.Record
	for _, f := range got {
		if errors.Is(f.Err, broker.ErrOutOfRange) {
			return step.Result{Range: true}
		}
		if f.Err != nil {
			return step.Result{Err: f.Err}
		}
		d.end = max(d.end, f.HighWatermark)
		recs = append(recs, f.Records...)
	}
	return step.Result{Records: recs}
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
