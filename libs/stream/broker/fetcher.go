package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// FetcherConfig bounds a fetcher.
type FetcherConfig struct {
	Wait   time.Duration // how long a request waits for data
	Bytes  int32         // most bytes of one partition in one answer; about as much may wait for its reader
	Total  int32         // what the partitions together may have of that, shared equally
	Gather time.Duration // least time from an answer with few records to the next request
}

// Fetcher reads partitions of one topic for their owners, ahead of them: while a
// batch is folded, published and written, the next ones come and are decoded.
// What one broker leads comes in one request. It is safe for concurrent use.
type Fetcher struct {
	client *Client
	topic  string
	cfg    FetcherConfig
	ctx    context.Context //nolint:containedctx // of the fetching goroutines, ended by Close
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu      sync.Mutex
	leaders map[int32]*leader
	readers int // that are open
}

// leader is what is read from one broker.
type leader struct {
	readers   []*Reader
	first     int                // of readers in the next request: all get their turn
	wake      chan struct{}      // 1: there is something to ask for
	interrupt context.CancelFunc // of the request under way; nil: none
}

// Reader is the owner's side of one partition. It is not safe for concurrent
// use.
type Reader struct {
	fetcher   *Fetcher
	partition int32
	ready     chan struct{} // 1: something came

	// Guarded by the fetcher's lock.
	leader  int32
	wanted  bool
	seeks   int     // answers to requests from before the last one are dropped
	from    int64   // the reader may ask for [from, at] without a new request
	at      int64   // where what waits begins
	next    int64   // where the next request goes on
	term    int32   // of what stands before it; 0: not known
	waiting Fetched // not taken yet; Size is 0 where nothing is
	failed  error   // what came behind it
}

// NewFetcher returns a fetcher of a topic. [Fetcher.Close] ends it.
func (c *Client) NewFetcher(topic string, cfg FetcherConfig) *Fetcher {
	ctx, cancel := context.WithCancel(context.Background())
	return &Fetcher{client: c, topic: topic, cfg: cfg, ctx: ctx, cancel: cancel, leaders: map[int32]*leader{}}
}

// Close ends all requests.
func (f *Fetcher) Close() {
	f.cancel()
	f.wait.Wait()
}

// Reader returns the owner's side of a partition. Nothing is read before the
// first Fetch.
func (f *Fetcher) Reader(partition int32) *Reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers++
	return &Reader{fetcher: f, partition: partition, ready: make(chan struct{}, 1), leader: -1, from: -1, at: -1}
}

// Close stops reading the partition.
func (r *Reader) Close() {
	f := r.fetcher
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	r.leave()
}

// share is the most bytes of one partition.
func (f *Fetcher) share() int32 { return min(f.cfg.Bytes, f.cfg.Total/int32(max(1, f.readers))) }

// leave takes the reader from its leader.
func (r *Reader) leave() {
	if l := r.fetcher.leaders[r.leader]; l != nil {
		for i := range l.readers {
			if l.readers[i] == r {
				l.readers = append(l.readers[:i], l.readers[i+1:]...)
				break
			}
		}
	}
	r.leader, r.wanted = -1, false
	r.seeks++
}

// Fetch returns what is in the partition from offset on, waiting for the first
// record up to the fetcher's Wait or the end of ctx; then there are none, and no
// error. Its Err is as [Client.Fetch] has it.
func (r *Reader) Fetch(ctx context.Context, offset int64) (Fetched, error) {
	f := r.fetcher
	led, err := f.client.leader(ctx, f.topic, r.partition)
	if err != nil {
		return Fetched{}, fmt.Errorf("fetch: %w", err)
	}
	f.mu.Lock()
	r.ask(led, offset) //nolint:contextcheck // who fetches ahead outlives this call
	got, ok := r.take()
	f.mu.Unlock()
	if ok {
		return got, nil
	}
	t := time.NewTimer(f.cfg.Wait)
	defer t.Stop()
	for {
		select {
		case <-r.ready:
		case <-t.C:
			return Fetched{Topic: f.topic, Partition: r.partition, Next: offset}, nil
		case <-ctx.Done():
			return Fetched{Topic: f.topic, Partition: r.partition, Next: offset}, nil
		}
		f.mu.Lock()
		got, ok := r.take()
		f.mu.Unlock()
		if ok {
			return got, nil
		}
	}
}

// ask makes sure that the partition is read from offset on.
func (r *Reader) ask(led int32, offset int64) {
	f := r.fetcher
	moved, elsewhere := r.leader != led, offset < r.from || offset > r.at
	if moved {
		wanted := r.wanted
		r.leave()
		r.leader, r.wanted = led, wanted
		l := f.leaders[led]
		if l == nil {
			l = &leader{wake: make(chan struct{}, 1)}
			f.leaders[led] = l
			f.wait.Go(func() { f.run(l) })
		}
		l.readers = append(l.readers, r)
	}
	again := !r.wanted
	if again || elsewhere {
		r.seeks++
		r.wanted, r.from, r.at, r.next, r.term = true, offset, offset, offset, 0
		r.waiting, r.failed = Fetched{}, nil
	}
	// Who tries again after an error waits for the request under way: one
	// partition that fails must not keep the others from being answered.
	if moved || elsewhere || again {
		f.leaders[led].call(moved || elsewhere)
	}
}

// call says that there is something to ask for; now ends a request that is
// under way without it.
func (l *leader) call(now bool) {
	select {
	case l.wake <- struct{}{}:
	default:
	}
	if now && l.interrupt != nil {
		l.interrupt()
	}
}

// take takes what waits.
func (r *Reader) take() (Fetched, bool) {
	got := r.waiting
	if got.Size == 0 {
		if r.failed == nil {
			return got, false
		}
		got, r.failed = Fetched{Topic: r.fetcher.topic, Partition: r.partition, Err: r.failed}, nil
		r.wanted = false // the next Fetch says where to go on
		return got, true
	}
	r.waiting = Fetched{}
	r.at = got.Next
	if n := len(got.Records); n > 0 {
		r.from = got.Records[n-1].Offset + 1
	}
	if l := r.fetcher.leaders[r.leader]; l != nil {
		l.call(false) // it may have been left out
	}
	return got, true
}

// asked is a reader as a request asks for it.
type asked struct {
	*Reader
	seeks int
	next  int64
}

// run reads from one leader until the fetcher is closed.
func (f *Fetcher) run(l *leader) {
	for f.ctx.Err() == nil {
		wants, readers, bytes, full, ctx := f.collect(l)
		if len(wants) == 0 {
			select {
			case <-l.wake:
			case <-f.ctx.Done():
			}
			continue
		}
		wait := f.cfg.Wait
		if full { // a reader that is left out must not wait for the others
			wait = min(wait, max(f.cfg.Gather, time.Millisecond))
		}
		start := time.Now()
		got, err := f.client.Fetch(ctx, wants, wait, bytes)
		records := f.deliver(ctx, l, readers, got, err)
		if left := f.cfg.Gather - time.Since(start); records > 0 && records < fewRecords && left > 0 {
			pause(f.ctx, left)
		}
	}
}

// fewRecords is an answer that costs more for being one than for what is in it:
// where records come in dribs and drabs, fewer and larger ones are worth a
// little wait. The first record after a pause does not wait.
const fewRecords = 256

// collect says what to ask the leader for. Full: a reader has enough for now.
func (f *Fetcher) collect(l *leader) (wants []PartitionOffset, readers map[int32]asked, bytes int32, full bool, ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	bytes = f.share()
	readers = make(map[int32]asked, len(l.readers))
	for i := range l.readers {
		r := l.readers[(l.first+i)%len(l.readers)]
		if !r.wanted || r.failed != nil {
			continue
		}
		if r.waiting.Size >= int(bytes) {
			full = true
			continue
		}
		wants = append(wants, PartitionOffset{Topic: f.topic, Partition: r.partition, Offset: r.next, Term: r.term})
		readers[r.partition] = asked{Reader: r, seeks: r.seeks, next: r.next}
	}
	if l.first++; len(wants) > 0 {
		ctx, l.interrupt = context.WithCancel(f.ctx)
	}
	return wants, readers, bytes, full, ctx
}

// deliver hands an answer to the readers, and says how many records it had.
func (f *Fetcher) deliver(ctx context.Context, l *leader, readers map[int32]asked, got []Fetched, err error) (records int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	interrupted := ctx.Err() != nil
	l.interrupt()
	l.interrupt = nil
	if err != nil {
		if interrupted {
			return 0
		}
		for p := range readers {
			got = append(got, Fetched{Topic: f.topic, Partition: p, Err: err})
		}
	}
	for _, g := range got {
		r, ok := readers[g.Partition]
		switch w := &r.waiting; {
		case !ok || r.seeks != r.Reader.seeks:
			continue
		case g.Err != nil:
			r.failed = g.Err
		case g.Next == r.next: // nothing, or less than a batch
			continue
		case w.Size == 0:
			*w = g
		default:
			w.Records, w.Next, w.Size, w.HighWatermark = append(w.Records, g.Records...), g.Next, w.Size+g.Size, g.HighWatermark
		}
		if g.Err == nil {
			r.Reader.next, r.term = g.Next, g.Term
		}
		records += len(g.Records)
		select {
		case r.ready <- struct{}{}:
		default:
		}
	}
	return records
}

// leader is the broker that leads a partition.
func (c *Client) leader(ctx context.Context, topic string, partition int32) (int32, error) {
	leaders, err := c.leaders(ctx, topic)
	if err != nil {
		return -1, err
	}
	if partition < 0 || int(partition) >= len(leaders) || leaders[partition] < 0 {
		c.refresh(ctx)
		return -1, fmt.Errorf("%s/%d has no leader: %w", topic, partition, kafka.LeaderNotAvailable)
	}
	return leaders[partition], nil
}
