package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/web"
	"github.com/sillage-io/sillage/services/internal/host"
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
	HTTP      web.Config    `yaml:"http"`
}

// DefaultConfig returns the defaults; the files have none.
func DefaultConfig() Config {
	return Config{MaxBody: 1 << 20, MaxEvent: 32 << 10, MaxEvents: 2500, Rate: 2000, Timeout: 10 * time.Second, HTTP: web.Config{Listen: "127.0.0.1:8080"}}
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
	if err := c.HTTP.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("http: %w", err))
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
	url    string

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

// Open makes a collector that appends through a host, and what it adds to the
// process: HTTP server, ticks and producer.
func Open(h *host.Host, cfg Config) (*Collector, host.Part, error) {
	producer := h.Client.NewSharedProducer()
	closing := service.Component{Name: "collector.producer", Run: waiting, Close: func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		producer.Close(ctx)
	}}
	c, err := New(cfg, Deps{Publish: producer.Produce, Partitions: h.Partitions, Now: time.Now, Log: h.Log, Full: h.Full})
	if err != nil {
		closing.Close()
		return nil, host.Part{}, err
	}
	server, err := web.Listen("collector", "http.listen", cfg.HTTP, c.Handler(), h.Log)
	if err != nil {
		closing.Close()
		return nil, host.Part{}, err
	}
	c.url = server.URL()
	return c, host.Part{
		Components: []service.Component{closing, {Name: "collector.ticks", Run: c.Run}, server.Component()},
		Measure:    c.measure, Addresses: []string{"collector=" + c.url},
	}, nil
}

// closeTimeout bounds the last flush; what is in hand has been answered by then.
const closeTimeout = 5 * time.Second

// waiting has nothing to do until the stop.
func waiting(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Part is the service as a part of a process.
func Part(h *host.Host, cfg Config) (host.Part, error) {
	_, p, err := Open(h, cfg)
	return p, err
}

// URL is where the collector of [Open] answers.
func (c *Collector) URL() string { return c.url }

// measure registers the totals.
func (c *Collector) measure(m metric.Meter) error {
	_, err := m.Int64ObservableCounter("collector.events", metric.WithDescription("Events by what became of them."), metric.WithInt64Callback(
		func(_ context.Context, o metric.Int64Observer) error {
			n := c.Counts()
			for outcome, v := range map[string]int64{"accepted": n.Accepted, "rejected": n.Rejected, "refused": n.Refused, "failed": n.Failed} {
				o.Observe(v, metric.WithAttributes(attribute.String("outcome", outcome)))
			}
			return nil
		}))
	return err
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
