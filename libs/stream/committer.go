package stream

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/sillage-io/sillage/libs/stream/broker"
)

// committer sends the commits of all partitions that a process owns of one
// processor, from one goroutine: the group coordinator's connection wants no
// more. It outlives generations: what is refused while the group is shared out
// anew is kept and sent later. What a claim leaves behind that was lost is not
// its to say any more, and is dropped.
type committer struct {
	topic string
	every time.Duration
	send  func(context.Context, map[int32]broker.Committed) error

	sending sync.Mutex // held while a commit is under way
	mu      sync.Mutex
	noted   map[int32]broker.Committed
	wait    []waiting
	wake    chan struct{} // 1: somebody waits
	done    chan struct{}
}

// waiting is somebody who waits for a partition's commit.
type waiting struct {
	partition int32
	answer    chan error
}

func newCommitter(topic string, every time.Duration, send func(context.Context, map[int32]broker.Committed) error) *committer {
	return &committer{topic: topic, every: every, send: send, noted: map[int32]broker.Committed{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// note leaves a commit for the next round.
func (c *committer) note(partition int32, at broker.Committed) {
	c.mu.Lock()
	c.noted[partition] = at
	c.mu.Unlock()
}

// commit commits at once and waits for the answer.
func (c *committer) commit(ctx context.Context, partition int32, at broker.Committed) error {
	c.note(partition, at)
	return c.flushed(ctx, partition)
}

// flushed sends what is noted of a partition at once and waits for the answer.
// While the group is shared out anew there is none.
func (c *committer) flushed(ctx context.Context, partition int32) error {
	answer := make(chan error, 1)
	c.mu.Lock()
	if _, ok := c.noted[partition]; ok {
		c.wait = append(c.wait, waiting{partition, answer})
	} else {
		answer <- nil
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drop forgets what is noted of a partition, and returns when nothing of it is
// under way any more: the claim is lost, or another one begins.
func (c *committer) drop(partition int32) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.noted, partition)
	kept := c.wait[:0]
	for _, w := range c.wait {
		if w.partition == partition {
			w.answer <- context.Canceled
			continue
		}
		kept = append(kept, w)
	}
	c.wait = kept
}

// refusedAgain is how soon what was refused goes out again where somebody waits
// for it.
const refusedAgain = 20 * time.Millisecond

// run sends until stop, and once more then.
func (c *committer) run(log *slog.Logger) {
	t := time.NewTimer(c.every)
	defer t.Stop()
	for {
		last := false
		select {
		case <-t.C:
		case <-c.wake:
		case <-c.done:
			last = true
		}
		c.flush(log)
		if last {
			return
		}
		next := c.every
		c.mu.Lock()
		if len(c.wait) > 0 {
			next = min(next, refusedAgain)
		}
		c.mu.Unlock()
		t.Reset(next)
	}
}

func (c *committer) stop() { close(c.done) }

func (c *committer) flush(log *slog.Logger) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	offs, wait := maps.Clone(c.noted), c.wait
	c.wait = nil
	clear(c.noted)
	c.mu.Unlock()
	if len(offs) == 0 {
		return // who waits has something noted
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := c.send(ctx, offs)
	if err == nil {
		for _, w := range wait {
			w.answer <- nil
		}
		return
	}
	later := errors.Is(err, broker.ErrRebalancing)
	if !later {
		log.Warn("commit not taken", slog.String("topic", c.topic), slog.Any("err", err))
	}
	c.mu.Lock()
	for p, at := range offs {
		if _, newer := c.noted[p]; !newer {
			c.noted[p] = at
		}
	}
	if later {
		c.wait = append(c.wait, wait...)
	}
	c.mu.Unlock()
	if !later {
		for _, w := range wait {
			w.answer <- err
		}
	}
}
