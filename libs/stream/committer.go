package stream

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/sillage-io/sillage/libs/stream/broker"
)

// committer sends the commits of all partitions of a generation from one
// goroutine: the group coordinator's connection wants no more.
type committer struct {
	topic string
	every time.Duration
	send  func(context.Context, map[int32]broker.Committed) error

	mu    sync.Mutex
	noted map[int32]broker.Committed
	wait  []chan error
	wake  chan struct{} // 1: somebody waits
	done  chan struct{}
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
	answer := make(chan error, 1)
	c.mu.Lock()
	c.noted[partition] = at
	c.wait = append(c.wait, answer)
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

// run sends until stop, and once more then.
func (c *committer) run(log *slog.Logger) {
	t := time.NewTicker(c.every)
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
	}
}

func (c *committer) stop() { close(c.done) }

func (c *committer) flush(log *slog.Logger) {
	c.mu.Lock()
	offs, wait := maps.Clone(c.noted), c.wait
	c.wait = nil
	clear(c.noted)
	c.mu.Unlock()
	if len(offs) == 0 {
		for _, w := range wait {
			w <- nil
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := c.send(ctx, offs)
	if err != nil {
		log.Warn("commit not taken", slog.String("topic", c.topic), slog.Any("err", err))
		c.mu.Lock()
		for p, at := range offs {
			if _, newer := c.noted[p]; !newer {
				c.noted[p] = at
			}
		}
		c.mu.Unlock()
	}
	for _, w := range wait {
		w <- err
	}
}
