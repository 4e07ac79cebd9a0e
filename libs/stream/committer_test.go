package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sillage-io/sillage/libs/stream/broker"
)

// coordinator takes commits, or refuses them.
type coordinator struct {
	mu      sync.Mutex
	refuse  error
	hold    chan struct{} // nil: it answers at once
	entered chan struct{} // 1: a commit has come
	tries   int
	taken   map[int32]int64
}

func newCoordinator() *coordinator {
	return &coordinator{entered: make(chan struct{}, 1), taken: map[int32]int64{}}
}

func (c *coordinator) send(_ context.Context, offs map[int32]broker.Committed) error {
	c.mu.Lock()
	hold := c.hold
	c.tries++
	c.mu.Unlock()
	select {
	case c.entered <- struct{}{}:
	default:
	}
	if hold != nil {
		<-hold
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return c.refuse
	}
	for p, at := range offs {
		c.taken[p] = at.Offset
	}
	return nil
}

func (c *coordinator) set(refuse error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = refuse
}

func (c *coordinator) seen() (tries int, taken map[int32]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tries, maps.Clone(c.taken)
}

// running starts a committer that sends by itself as good as never.
func running(t *testing.T, c *coordinator) (commits *committer, logged *bytes.Buffer, stop func()) {
	t.Helper()
	logged = &bytes.Buffer{}
	commits = newCommitter("t", time.Hour, c.send)
	var working sync.WaitGroup
	working.Go(func() { commits.run(slog.New(slog.NewTextHandler(logged, nil))) })
	stop = sync.OnceFunc(func() { commits.stop(); working.Wait() })
	t.Cleanup(stop)
	return commits, logged, stop
}

func at(offset int64) broker.Committed { return broker.Committed{Offset: offset} }

func TestCommitRefusedByARebalanceGoesOutLater(t *testing.T) {
	c := newCoordinator()
	c.set(fmt.Errorf("refused: %w", broker.ErrRebalancing))
	commits, logged, stop := running(t, c)
	commits.note(1, at(10))
	answer := make(chan error, 1)
	go func() { answer <- commits.commit(t.Context(), 2, at(20)) }()
	for n := 0; n < 3; n, _ = c.seen() {
		<-c.entered
	}
	commits.note(1, at(11)) // what is newer is not overwritten by what was refused
	select {
	case err := <-answer:
		t.Fatalf("answered with %v while nothing was taken", err)
	default:
	}
	c.set(nil)
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	stop()
	_, taken := c.seen()
	if d := cmp.Diff(map[int32]int64{1: 11, 2: 20}, taken); d != "" {
		t.Error(d)
	}
	if logged.Len() > 0 {
		t.Errorf("a rebalance is no trouble: %s", logged)
	}
}

func TestCommitThatFailsIsAnsweredAndKept(t *testing.T) {
	c := newCoordinator()
	c.set(errors.New("broken"))
	commits, logged, stop := running(t, c)
	if err := commits.commit(t.Context(), 1, at(10)); err == nil {
		t.Error("no error")
	}
	c.set(nil)
	stop()
	if _, taken := c.seen(); taken[1] != 10 {
		t.Errorf("taken %v, want what had failed before", taken)
	}
	if !strings.Contains(logged.String(), "broken") {
		t.Errorf("logged %q", logged)
	}
}

// TestLostClaimHasNoMoreToSay drops while a commit is under way: it is over when
// drop returns, and nothing of it comes later.
func TestLostClaimHasNoMoreToSay(t *testing.T) {
	c := newCoordinator()
	c.hold = make(chan struct{})
	c.set(fmt.Errorf("refused: %w", broker.ErrRebalancing))
	commits, _, stop := running(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- commits.commit(ctx, 1, at(10)) }()
	commits.note(2, at(20))
	<-c.entered
	dropped := make(chan struct{})
	go func() {
		commits.drop(1)
		close(dropped)
	}()
	time.Sleep(10 * time.Millisecond)
	select {
	case <-dropped:
		t.Error("dropped while it was under way")
	default:
	}
	close(c.hold)
	<-dropped
	if err := <-answer; err == nil {
		t.Error("who waited for the commit of a lost claim heard that it was taken")
	}
	c.set(nil)
	stop()
	if _, taken := c.seen(); taken[1] != 0 {
		t.Errorf("taken %v of a lost claim", taken)
	}
	commits.drop(1) // of nothing, and twice
}

func TestNothingNotedIsFlushedAtOnce(t *testing.T) {
	c := newCoordinator()
	c.hold = make(chan struct{})
	defer close(c.hold)
	commits := newCommitter("t", time.Hour, c.send) // not running
	if err := commits.flushed(t.Context(), 1); err != nil {
		t.Error(err)
	}
}
