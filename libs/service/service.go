package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Component is one part of a process.
type Component struct {
	Name string
	// Run works until ctx ends, then finishes what is in hand and returns nil.
	// Returning earlier ends the process.
	Run func(ctx context.Context) error
	// Ready returns nil when others may rely on the component, and what is
	// wrong otherwise: [ErrBehind] where nothing is, but it has a lot to read.
	// Nil: as soon as it runs.
	Ready func(ctx context.Context) error
	// Detail says what people should know of a component that is ready; nil, or
	// "": nothing.
	Detail func() string
	// Close is called after Run has returned, in place of Run for a component
	// that only has something to free.
	Close func()
}

// ErrBehind says that a component works, and is not ready because of all it has
// to read first. The process waits for it as long as it takes, not ready: to end
// would mean to begin again.
var ErrBehind = errors.New("it is catching up")

// Config bounds starting and stopping.
type Config struct {
	Start time.Duration `yaml:"start" usage:"how long a part may take until it is ready, or catches up"`
	Stop  time.Duration `yaml:"stop" usage:"how long a graceful stop may take, all parts together"`
}

// DefaultConfig returns the defaults: the stop fits into the half minute that
// container schedulers give.
func DefaultConfig() Config { return Config{Start: time.Minute, Stop: 25 * time.Second} }

// Group is the parts of one process.
type Group struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	started []*part
	all     bool // everything has been started
	ending  bool
}

type part struct {
	Component
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// New returns an empty group.
func New(cfg Config, log *slog.Logger) *Group { return &Group{cfg: cfg, log: log} }

// ErrStopTimeout says that the budget was over before everything had stopped.
var ErrStopTimeout = errors.New("not stopped within the budget")

// Run starts the components, waits until ctx ends or one of them fails, and
// stops them. Ready is called when all are ready.
func (g *Group) Run(ctx context.Context, ready func(), components ...Component) error {
	failed := make(chan *part, len(components))
	err := g.start(ctx, failed, components)
	if err == nil {
		g.mu.Lock()
		g.all = true
		g.mu.Unlock()
		if ready != nil {
			ready()
		}
		select {
		case <-ctx.Done():
		case p := <-failed:
			err = ended(p)
		}
	}
	return errors.Join(err, g.stop())
}

func ended(p *part) error {
	if p.err == nil {
		return fmt.Errorf("%s: ended by itself", p.Name)
	}
	return fmt.Errorf("%s: %w", p.Name, p.err)
}

func (g *Group) start(ctx context.Context, failed chan *part, components []Component) error {
	for _, c := range components {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // told to stop: that is no error
		}
		// Each part has a context of its own: it ends when its turn comes.
		running, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p := &part{Component: c, cancel: cancel, done: make(chan struct{})}
		g.mu.Lock()
		g.started = append(g.started, p)
		g.mu.Unlock()
		go func() {
			defer close(p.done)
			p.err = guarded(running, p.Run)
			if running.Err() == nil {
				failed <- p
			}
		}()
		if err := g.await(ctx, p, failed); err != nil {
			return err
		}
	}
	return nil
}

// guarded turns a panic into an error.
func guarded(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	if run == nil {
		<-ctx.Done()
		return nil
	}
	return run(ctx)
}

// await waits until a part is ready.
func (g *Group) await(ctx context.Context, p *part, failed chan *part) error {
	if p.Ready == nil {
		return nil
	}
	limit := time.NewTimer(g.cfg.Start)
	defer limit.Stop()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		asked, cancel := context.WithTimeout(ctx, g.cfg.Start)
		err := p.Ready(asked)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-t.C:
		case bad := <-failed:
			return ended(bad)
		case <-ctx.Done():
			return nil
		case <-limit.C:
			if !errors.Is(err, ErrBehind) {
				return fmt.Errorf("%s: not ready after %v: %w", p.Name, g.cfg.Start, err)
			}
			g.log.Warn("not ready yet", slog.String("part", p.Name), slog.Any("err", err))
			limit.Reset(g.cfg.Start)
		}
	}
}

// stop ends the parts, the last one started first.
func (g *Group) stop() error {
	g.mu.Lock()
	g.ending = true
	parts := append([]*part(nil), g.started...)
	g.mu.Unlock()
	limit := time.NewTimer(g.cfg.Stop)
	defer limit.Stop()
	var errs []error
	for _, p := range slices.Backward(parts) {

		p.cancel()
		select {
		case <-p.done:
			if p.err != nil && !errors.Is(p.err, context.Canceled) {
				g.log.Error("part ended", slog.String("part", p.Name), slog.Any("err", p.err))
			}
			if p.Close != nil {
				p.Close()
			}
		case <-limit.C:
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, ErrStopTimeout))
			limit.Reset(0)
		}
	}
	return errors.Join(errs...)
}

// Health is how one part stands.
type Health struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Err  string `json:"err,omitempty"`
	// Detail is what people should know, also where it is ready.
	Detail string `json:"detail,omitempty"`
}

// Check asks every part that can be asked. Ready is false while parts are
// missing, one is not ready, or the process is stopping.
func (g *Group) Check(ctx context.Context) (ready bool, parts []Health) {
	g.mu.Lock()
	started, ready := append([]*part(nil), g.started...), g.all && !g.ending
	g.mu.Unlock()
	for _, p := range started {
		h := Health{Name: p.Name, OK: true}
		select {
		case <-p.done:
			h.OK, h.Err = false, "ended"
		default:
			if p.Ready != nil {
				if err := p.Ready(ctx); err != nil {
					h.OK, h.Err = false, err.Error()
				}
			}
			if p.Detail != nil {
				h.Detail = p.Detail()
			}
		}
		ready = ready && h.OK
		parts = append(parts, h)
	}
	return ready, parts
}

// Signals returns a context that ends at SIGINT or SIGTERM. A second signal
// ends the process at once.
func Signals(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ch:
			signal.Stop(ch) // the next one has its default effect
			cancel()
		case <-ctx.Done():
			signal.Stop(ch)
		}
	}()
	return ctx, func() {
		cancel()
		<-stopped
	}
}
