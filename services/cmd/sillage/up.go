package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/embedded"
	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/topics"
	"github.com/sillage-io/sillage/libs/web"
	"github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/collector"
	"github.com/sillage-io/sillage/services/internal/host"
	"github.com/sillage-io/sillage/services/internal/simulator"
	"github.com/sillage-io/sillage/services/profile"
	"github.com/sillage-io/sillage/services/recommender"
	"github.com/sillage-io/sillage/services/restock"
)

// upConfig is the configuration of the all-in-one process.
type upConfig struct {
	DataDir    string        `yaml:"data-dir" usage:"directory of everything that is kept"`
	Partitions int           `yaml:"partitions" usage:"partitions of the topics, chosen at the first start for good; 0: 4 embedded, 16 on a real broker"`
	Fsync      bool          `yaml:"fsync" usage:"embedded: acknowledge only what is on disk"`
	BaseEvery  time.Duration `yaml:"base-every" usage:"embedded: how often each partition's state is written to disk; what came since is folded again at a start"`
	Demo       bool          `yaml:"demo" usage:"let a simulated shop live: its past at the first start, then visits"`
	DemoSeed   int64         `yaml:"demo-seed" usage:"seed of the simulated shop"`
	DemoRate   float64       `yaml:"demo-rate" usage:"events a second of the simulated shop"`
	DiskLimit  int64         `yaml:"disk-limit" usage:"embedded: mebibytes that the data directory may take; near it, logs are cut to what is still needed, at it events are refused with 503; 0: no limit"`
	Kafka      []string      `yaml:"kafka" usage:"host:port of real Kafka brokers, in place of the embedded one; needs --redis"`
	Redis      []string      `yaml:"redis" usage:"host:port of a real Redis or Valkey, in place of the embedded one; needs --kafka"`

	HTTP          web.Config `yaml:"http"`
	EmbeddedKafka string     `yaml:"embedded-kafka" usage:"host:port of the embedded broker"`
	EmbeddedRedis string     `yaml:"embedded-redis" usage:"host:port of the embedded store"`

	Models         string  `yaml:"models" usage:"which models decide: learnt, what each shop teaches while it runs; pinned, the shipped ones; or pinned=NAME or pinned=FILE, of sillage model fit or import. Another choice judges the past anew: sillage rebuild"`
	IdentitySecret string  `yaml:"identity-secret" usage:"key of the hash that makes profile ids; empty: one made at the first start" secret:"true"`
	Timezone       string  `yaml:"timezone" usage:"IANA name of the zone whose days the shops live by"`
	Threshold      float64 `yaml:"churn-threshold" usage:"probability of no order within 90 days at which an alert is raised"`
	ServiceLevel   float64 `yaml:"service-level" usage:"share of order cycles without a stock-out"`

	Process host.Process `yaml:",inline"`
}

func defaultUp() upConfig {
	return upConfig{
		DataDir: ".run", BaseEvery: stream.DefaultConfig().BaseEvery, DemoSeed: 1, DemoRate: simulator.DefaultConfig().EventsPerSecond,
		HTTP: collector.DefaultConfig().HTTP, EmbeddedKafka: "127.0.0.1:19092", EmbeddedRedis: "127.0.0.1:16379",
		Models: learnt, Timezone: "UTC", Threshold: churn.DefaultConfig().Threshold, ServiceLevel: restock.DefaultConfig().ServiceLevel,
		Process: host.DefaultProcess(),
	}
}

// Validate reports all mistakes.
func (c upConfig) Validate() error {
	var errs []error
	if (len(c.Kafka) == 0) != (len(c.Redis) == 0) {
		errs = append(errs, errors.New("kafka and redis: real ones are given together"))
	}
	if c.Partitions < 0 || c.Partitions > 1024 {
		errs = append(errs, fmt.Errorf("partitions: %d is not between 1 and 1024", c.Partitions))
	}
	if c.DemoRate <= 0 || c.DemoRate > 10_000 {
		errs = append(errs, fmt.Errorf("demo-rate: %g is not between 0 and 10000", c.DemoRate))
	}
	if _, err := c.modelFile(); err != nil {
		errs = append(errs, err)
	}
	if c.BaseEvery < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("base-every: %v is below 100ms", c.BaseEvery))
	}
	if c.DiskLimit < 0 {
		errs = append(errs, fmt.Errorf("disk-limit: %d is below 0", c.DiskLimit))
	}
	secret := c.IdentitySecret
	if secret == "" {
		secret = strings.Repeat("x", 16)
	}
	errs = append(errs, c.Process.Validate(), c.collector().Validate(), c.profile(secret).Validate(), c.recommender(secret).Validate(), c.churn(secret).Validate(), c.restock().Validate())
	return errors.Join(errs...)
}

func (c upConfig) collector() collector.Config {
	p := collector.DefaultConfig()
	p.KeysFile, p.ShopsFile, p.HTTP = c.keysFile(), filepath.Join(c.DataDir, "shops.json"), c.HTTP
	return p
}

func (c upConfig) profile(secret string) profile.Config {
	p := profile.DefaultConfig()
	p.IdentitySecret = secret
	return p
}

func (c upConfig) churn(secret string) churn.Config {
	p := churn.DefaultConfig()
	p.IdentitySecret, p.Timezone, p.Threshold = secret, c.Timezone, c.Threshold
	p.ModelFile, _ = c.modelFile() // Validate has told
	p.Pinned = c.Models != learnt
	return p
}

// learnt are the models that the shops teach while the system runs.
const learnt = "learnt"

// modelFile is the file of the model that is pinned; "" where it is the shipped one,
// or none.
func (c upConfig) modelFile() (string, error) {
	if c.Models == learnt {
		return "", nil
	}
	name, pinned := strings.CutPrefix(c.Models, "pinned")
	if name == "" && pinned {
		return "", nil
	}
	name, named := strings.CutPrefix(name, "=")
	if !pinned || !named || name == "" {
		return "", fmt.Errorf("models: %q is not learnt, pinned, pinned=NAME or pinned=FILE", c.Models)
	}
	return modelPath(c.DataDir, name), nil
}

func (c upConfig) restock() restock.Config {
	p := restock.DefaultConfig()
	p.Timezone, p.ServiceLevel, p.Pinned = c.Timezone, c.ServiceLevel, c.Models != learnt
	return p
}

func (c upConfig) recommender(secret string) recommender.Config {
	p := recommender.DefaultConfig()
	p.IdentitySecret = secret
	return p
}

func (c upConfig) embedded() bool { return len(c.Kafka) == 0 }

func upCommand() *cobra.Command {
	cfg := defaultUp()
	return host.Command("up", "Run everything in one process", `Run collector, profile, recommender, churn and restock in one process, on an embedded
broker and store or on real ones. Everything it keeps is under --data-dir.`, &cfg,
		func(ctx context.Context, stdout, stderr io.Writer) error { return up(ctx, cfg, stdout, stderr) })
}

// up runs until ctx ends.
func up(ctx context.Context, cfg upConfig, stdout, stderr io.Writer) error {
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	cfg.Process.Broker.Brokers, cfg.Process.Store.Addrs = cfg.Kafka, cfg.Redis
	if len(cfg.Redis) > 1 {
		cfg.Process.Store.Cluster = cfg.Process.Store.Master == ""
	}
	u := &upper{cfg: cfg}
	if cfg.embedded() {
		var err error
		u.backend, err = embedded.Open(embedded.Config{Dir: cfg.DataDir, KafkaAddr: cfg.EmbeddedKafka, RedisAddr: cfg.EmbeddedRedis, Fsync: cfg.Fsync, DiskLimit: cfg.DiskLimit << 20})
		if err != nil {
			return portHint(err)
		}
		defer u.backend.Close()
		u.cfg.Process.Broker.Brokers, u.cfg.Process.Store.Addrs = u.backend.Brokers, []string{u.backend.Redis}
	}
	return cfg.Process.Run(ctx, "sillage", stdout, stderr, u.build)
}

// portHint names the flag that chooses another address.
func portHint(err error) error {
	if errors.Is(err, embedded.ErrPort) {
		return fmt.Errorf("%w; choose another one with --embedded-kafka or --embedded-redis", err)
	}
	if errors.Is(err, embedded.ErrLocked) {
		return fmt.Errorf("%w; stop it, or choose another directory with --data-dir", err)
	}
	return err
}

func layouts(ps []stream.Processor) func(tag string) state.Layout {
	return func(tag string) state.Layout {
		for _, p := range ps {
			if strings.HasPrefix(tag, p.Name+".") {
				return p.Layout
			}
		}
		return state.Buckets
	}
}

// defaultPartitions is what is there, or what a new system gets.
func defaultPartitions(ctx context.Context, cfg upConfig) int {
	if client, err := broker.New(cfg.Process.Broker); err == nil {
		defer client.Close()
		if have, err := client.Topics(ctx); err == nil && have[topics.Events] > 0 {
			return have[topics.Events]
		}
	}
	if cfg.embedded() {
		return topics.EmbeddedPartitions
	}
	return topics.DefaultPartitions
}

// identitySecret is the configured one, or one made at the first start.
func identitySecret(cfg upConfig) (string, error) {
	if cfg.IdentitySecret != "" {
		return cfg.IdentitySecret, nil
	}
	return kept(cfg.DataDir, "identity-secret", "an identity secret")
}

// kept reads a random name from a file of the data directory, or makes it at the
// first start.
func kept(dir, file, what string) (string, error) {
	name := filepath.Join(dir, file)
	data, err := os.ReadFile(name)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read %s: %w", what, err)
	}
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make %s: %w", what, err)
	}
	made := hex.EncodeToString(b[:])
	return made, os.WriteFile(name, []byte(made+"\n"), 0o600)
}

func (c upConfig) keysFile() string { return filepath.Join(c.DataDir, "keys.yaml") }

// Keys of the simulated shop. They are no secrets: the shop is none.
const (
	demoShop   = "demo"
	demoPublic = "pk_demo_not_secret"
	demoSecret = "sk_demo_not_secret"
)

// firstKeys makes an admin key where there are no keys, and those of the
// simulated shop where it is asked for.
func firstKeys(file string, demo bool) error {
	keys, err := collector.ReadKeys(file)
	if err != nil {
		return err
	}
	before := len(keys)
	if before == 0 {
		admin, err := collector.NewKey(collector.Admin, "")
		if err != nil {
			return err
		}
		keys = append(keys, admin)
	}
	if demo && !slices.ContainsFunc(keys, func(k collector.Key) bool { return k.Shop == demoShop }) {
		keys = append(keys, collector.Key{ID: "demo-public", Key: demoPublic, Kind: collector.Public, Shop: demoShop},
			collector.Key{ID: "demo-secret", Key: demoSecret, Kind: collector.Secret, Shop: demoShop})
	}
	if len(keys) == before {
		return nil
	}
	return collector.WriteKeys(file, keys)
}

// upper is the running all-in-one process.
type upper struct {
	cfg        upConfig
	host       *host.Host
	backend    *embedded.Backend
	processors []stream.Processor
	log        *slog.Logger
	collector  *collector.Collector
	group      *service.Group
	full       atomic.Bool
	usage      atomic.Int64
}

// build connects, makes what is made at the first start, and puts the parts
// together.
func (u *upper) build(ctx context.Context, f *host.Frame) (*host.Host, []host.Part, error) {
	u.log, u.group = f.Telemetry.Log, f.Group
	secret, err := identitySecret(u.cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := firstKeys(u.cfg.keysFile(), u.cfg.Demo); err != nil {
		return nil, nil, err
	}
	if !u.cfg.embedded() && u.cfg.Process.Broker.InstanceID == "" {
		// A real broker outlives a crash of this process, which then finds its place
		// again. The embedded one goes down with it.
		if u.cfg.Process.Broker.InstanceID, err = kept(u.cfg.DataDir, "instance-id", "an instance id"); err != nil {
			return nil, nil, err
		}
	}
	hcfg := host.Config{Broker: u.cfg.Process.Broker, Store: u.cfg.Process.Store, Partitions: u.cfg.Partitions}
	if hcfg.Partitions == 0 {
		hcfg.Partitions = defaultPartitions(ctx, u.cfg)
	}
	if u.backend != nil {
		hcfg.Bases, hcfg.BaseEvery = u.backend.Bases, u.cfg.BaseEvery
	}
	if u.host, err = host.Open(ctx, hcfg, u.log); err != nil {
		return nil, nil, err
	}
	u.host.Dir, u.host.Full = u.cfg.DataDir, u.full.Load
	parts, err := u.parts(ctx, f, secret)
	if err != nil {
		u.host.Close()
		return nil, nil, err
	}
	return u.host, parts, nil
}

// parts are the services, and then what watches them.
func (u *upper) parts(ctx context.Context, f *host.Frame, secret string) ([]host.Part, error) {
	var all []host.Part
	var failed error
	add := func(p host.Part, err error) {
		failed = errors.Join(failed, err)
		u.processors = append(u.processors, p.Processors...)
		all = append(all, p)
	}
	add(profile.Part(u.host, u.cfg.profile(secret)))
	add(recommender.Part(u.host, u.cfg.recommender(secret)))
	add(churn.Part(u.host, u.cfg.churn(secret)))
	add(restock.Part(u.host, u.cfg.restock()))
	c, p, err := collector.Open(u.host, u.cfg.collector()) //nolint:contextcheck // its producer is closed after ctx has ended
	u.collector = c
	if add(p, err); failed != nil {
		return nil, failed
	}
	if u.backend != nil {
		if err := u.backend.Load(ctx, u.host.Store, layouts(u.processors), u.log); err != nil {
			return nil, err
		}
	}
	watched := newPage(u.host, f.GRPC.Addr())
	f.Admin.HandleFunc("GET /status", u.serveStatus)
	f.Admin.HandleFunc("GET /{$}", servePage)
	f.Admin.HandleFunc("GET /page/state", u.servePageState(watched))
	own := host.Part{
		Components: []service.Component{{Name: "page", Run: watched.run}},
		Addresses:  []string{"page=" + f.AdminURL, "kafka=" + strings.Join(u.cfg.Process.Broker.Brokers, ","), "redis=" + strings.Join(u.cfg.Process.Store.Addrs, ","), "data=" + u.cfg.DataDir},
	}
	if u.backend != nil {
		own.Components = append(own.Components, service.Component{Name: "disk", Run: u.disk})
	}
	if u.cfg.Demo {
		// Ready once its past is told: whoever sends it an event before would make
		// it live without one.
		var opened atomic.Bool
		own.Components = append(own.Components, service.Component{
			Name: "demo",
			Run:  func(ctx context.Context) error { return u.demo(ctx, u.collector.URL(), func() { opened.Store(true) }) },
			Ready: func(context.Context) error {
				if !opened.Load() {
					return errors.New("the simulated shop's past is being told")
				}
				return nil
			},
		})
	}
	return append(all, own), nil
}

// demo lets the simulated shop live.
func (u *upper) demo(ctx context.Context, url string, opened func()) error {
	admin, err := adminKey(u.cfg.DataDir)
	if err != nil {
		return err
	}
	cfg := simulator.DefaultConfig()
	cfg.URL, cfg.Shop, cfg.Admin, cfg.Public, cfg.Secret = url, demoShop, admin, demoPublic, demoSecret
	cfg.Opened = opened
	cfg.Seed, cfg.EventsPerSecond, cfg.Client, cfg.Log = uint64(u.cfg.DemoSeed), u.cfg.DemoRate, http.DefaultClient, u.log
	return simulator.Run(ctx, cfg)
}

// How often disk is looked at, and logs are cut: what is older than it is kept
// may stay for minutes, but where there is no room every moment counts.
const (
	lookEvery    = 500 * time.Millisecond
	cutEvery     = 5 * time.Minute
	cutIfPressed = 2 * time.Second
	pressedAt    = .8 // of the limit
)

// disk cuts logs, and closes the collector's door while there is no room.
func (u *upper) disk(ctx context.Context) error {
	limit := float64(u.cfg.DiskLimit << 20)
	retention := &stream.Retention{Client: u.host.Client, Bases: u.backend.Bases, Processors: u.processors, Kept: u.host.KeptAt}
	cutAt := time.Now()
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		used, err := u.backend.DiskUsage()
		if err != nil {
			u.log.Warn("disk usage not known", slog.Any("err", err))
		}
		u.usage.Store(used)
		full := limit > 0 && float64(used) >= limit
		if full != u.full.Swap(full) {
			u.log.Warn("disk limit", slog.Bool("reached", full), slog.Int64("used", used), slog.Int64("limit", int64(limit)))
		}
		pressed := limit > 0 && float64(used) >= pressedAt*limit
		if since := time.Since(cutAt); since >= cutEvery || pressed && since >= cutIfPressed {
			cutAt = time.Now()
			cut, err := retention.Cut(ctx, cutAt, pressed)
			if err != nil && ctx.Err() == nil {
				u.log.Warn("not all logs could be cut", slog.Any("err", err))
			}
			if cut > 0 {
				u.log.Info("logs cut", slog.Int64("records", cut), slog.Bool("pressed", pressed))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// status is what GET /status answers.
type status struct {
	Version    string                 `json:"version"`
	Ready      bool                   `json:"ready"`
	Parts      []service.Health       `json:"parts"`
	Shops      []collector.Shop       `json:"shops"`
	Collector  collector.Counts       `json:"collector"`
	Partitions int                    `json:"partitions"`
	Processors []stream.Standing      `json:"processors"`
	Owned      []stream.PartitionInfo `json:"owned"`
	DiskUsed   int64                  `json:"disk_used,omitempty"`
}

func (u *upper) serveStatus(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	s := status{Version: web.Version(), Shops: u.collector.Shops(), Collector: u.collector.Counts(), Partitions: u.host.Partitions, Owned: u.host.Runtime.Info(), DiskUsed: u.usage.Load()}
	s.Ready, s.Parts = u.group.Check(ctx)
	var err error
	if s.Processors, err = stream.Survey(ctx, u.host.Client, u.host.Store, u.processors); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s) // the client is gone: nobody to tell
}
