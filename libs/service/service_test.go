package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sillage-io/sillage/libs/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// diary notes what happens in which order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, s)
}

func (d *diary) part(name string, startup, end time.Duration) service.Component {
	var mu sync.Mutex
	ready := false
	return service.Component{
		Name: name,
		Run: func(ctx context.Context) error {
			d.note("start " + name)
			time.Sleep(startup)
			mu.Lock()
			ready = true
			mu.Unlock()
			<-ctx.Done()
			time.Sleep(end)
			d.note("stop " + name)
			return nil
		},
		Ready: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if !ready {
				return errors.New("starting")
			}
			return nil
		},
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestPartsStartInOrderAndStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		ctx, cancel := context.WithCancel(t.Context())
		g := service.New(service.DefaultConfig(), quiet())
		err := g.Run(ctx, func() {
			d.note("ready")
			if ok, parts := g.Check(ctx); !ok || len(parts) != 3 {
				t.Errorf("check: %v %v", ok, parts)
			}
			cancel()
		}, d.part("a", time.Second, time.Second), d.part("b", 2*time.Second, time.Second), d.part("c", 0, 0))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"start a", "start b", "start c", "ready", "stop c", "stop b", "stop a"}
		if diff := cmp.Diff(want, d.lines); diff != "" {
			t.Error(diff)
		}
		if ok, _ := g.Check(t.Context()); ok {
			t.Error("ready after the end")
		}
	})
}

func TestOneThatFailsEndsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		g := service.New(service.DefaultConfig(), quiet())
		err := g.Run(t.Context(), nil, d.part("a", 0, 0), service.Component{Name: "bad", Run: func(context.Context) error {
			time.Sleep(time.Second)
			return errors.New("broken")
		}})
		if err == nil || err.Error() != "bad: broken" {
			t.Errorf("%v", err)
		}
		if diff := cmp.Diff([]string{"start a", "stop a"}, d.lines); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPanicIsAnErrorWithItsStack(t *testing.T) {
	g := service.New(service.DefaultConfig(), quiet())
	err := g.Run(t.Context(), nil, service.Component{Name: "bad", Run: func(context.Context) error { panic("oh") }})
	if err == nil || !strings.Contains(err.Error(), "panic: oh") || !strings.Contains(err.Error(), "service_test.go") {
		t.Errorf("%v", err)
	}
}

func TestOneThatNeverGetsReadyIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		g := service.New(service.DefaultConfig(), quiet())
		err := g.Run(t.Context(), func() { t.Error("ready") }, d.part("slow", 2*time.Minute, 0))
		if err == nil || !strings.Contains(err.Error(), "slow: not ready after 1m0s: starting") {
			t.Errorf("%v", err)
		}
		time.Sleep(time.Hour) // its goroutine ends
	})
}

// TestWhoCatchesUpIsWaitedFor: a part that only has a lot to read is not taken for
// one that is broken, however long it takes.
func TestWhoCatchesUpIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g := service.New(service.DefaultConfig(), quiet())
		begin := time.Now()
		err := g.Run(ctx, cancel, service.Component{
			Name: "reader", Run: func(ctx context.Context) error { <-ctx.Done(); return nil },
			Ready: func(context.Context) error {
				if time.Since(begin) < 10*time.Minute {
					return fmt.Errorf("behind: %w", service.ErrBehind)
				}
				return nil
			},
		})
		if took := time.Since(begin); err != nil || took < 10*time.Minute {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestStopHasOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		ctx, cancel := context.WithCancel(t.Context())
		g := service.New(service.DefaultConfig(), quiet())
		begin := time.Now()
		err := g.Run(ctx, cancel, d.part("a", 0, 0), d.part("b", 0, 20*time.Second), d.part("c", 0, 20*time.Second))
		if !errors.Is(err, service.ErrStopTimeout) || !strings.Contains(err.Error(), "b: ") {
			t.Errorf("%v", err)
		}
		if took := time.Since(begin); took > 26*time.Second {
			t.Errorf("took %v", took)
		}
		time.Sleep(time.Hour)
	})
}
