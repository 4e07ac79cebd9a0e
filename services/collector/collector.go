package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// Config is the service's configuration.
type Config struct {
	KeysFile  string        `yaml:"keys-file" usage:"file of write keys, read again when it changes"`
	ShopsFile string        `yaml:"shops-file" usage:"file in which the state of shops is kept"`
	MaxBody   int           `yaml:"max-body" usage:"largest body of a call, inflated, in bytes"`
	MaxEvent  int           `yaml:"max-event" usage:"largest event, in bytes"`
	MaxEvents int           `yaml:"max-events" usage:"most events of a call"`
	Rate      float64       `yaml:"rate" usage:"events a second that a public key may send, with a burst of ten seconds; 0: no limit"`
	Timeout   time.Duration `yaml:"timeout" usage:"how long a call waits for the broker before it answers 503"`
}

// DefaultConfig returns the defaults; the files have none.
func DefaultConfig() Config {
	return Config{MaxBody: 1 << 20, MaxEvent: 32 << 10, MaxEvents: 2500, Rate: 2000, Timeout: 10 * time.Second}
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if c.KeysFile == "" {
		errs = append(errs, errors.New("keys-file: missing"))
	}
	if c.ShopsFile == "" {
		errs = append(errs, errors.New("shops-file: missing"))
	}
	if c.MaxBody < 1<<10 || c.MaxEvent < 1<<10 || c.MaxEvent > 512<<10 || c.MaxEvents < 1 {
		errs = append(errs, errors.New("max-body, max-event, max-events: at least 1 KiB, 1 KiB to 512 KiB, 1"))
	}
	if c.Rate < 0 {
		errs = append(errs, fmt.Errorf("rate: %g is below 0", c.Rate))
	}
	if c.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("timeout: %v is not positive", c.Timeout))
	}
	return errors.Join(errs...)
}

// Deps is what the collector needs of its surroundings.
type Deps struct {
	// Publish appends records, and returns when all are acknowledged by all
	// in-sync replicas. Records of one partition keep the order of the calls.
	Publish    func(ctx context.Context, outs []record.Out) error
	Partitions int // of events.v1
	Now        func() time.Time
	Log        *slog.Logger
	// Full tells whether there is no room for more events; nil: never asked.
	Full func() bool
}

// Collector is the front door. It is safe for concurrent use.
type Collector struct {
	cfg    Config
	deps   Deps
	keys   *Keys
	shops  *Shops
	limits limiter
	counts counters

	mu      sync.Mutex
	imports map[string]*sync.Mutex // one request of an import at a time
}

// New reads the files and returns a collector.
func New(cfg Config, deps Deps) (*Collector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	keys, err := LoadKeys(cfg.KeysFile, deps.Log)
	if err != nil {
		return nil, err
	}
	shops, err := LoadShops(cfg.ShopsFile)
	if err != nil {
		return nil, err
	}
	return &Collector{cfg: cfg, deps: deps, keys: keys, shops: shops, limits: limiter{rate: cfg.Rate, buckets: map[string]*bucket{}}, imports: map[string]*sync.Mutex{}}, nil
}

// Run appends the time and watches the keys until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { c.keys.Watch(ctx) })
	c.tick(ctx)
	return nil
}

// limiter bounds what each key sends.
type limiter struct {
	rate    float64
	mu      sync.Mutex
	buckets map[string]*bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

// burst is how many seconds' worth a key may send at once.
const burst = 10

// take takes n tokens; where there are too few, it returns how long to wait.
func (l *limiter) take(key string, n int, now time.Time) time.Duration {
	if l.rate == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		b = &bucket{tokens: burst * l.rate, at: now}
		l.buckets[key] = b
	}
	b.tokens = min(burst*l.rate, b.tokens+now.Sub(b.at).Seconds()*l.rate)
	b.at = now
	if b.tokens < float64(n) && b.tokens < burst*l.rate {
		return time.Duration((float64(n) - b.tokens) / l.rate * float64(time.Second))
	}
	b.tokens -= float64(n)
	return 0
}
