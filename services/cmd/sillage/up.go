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

	"github.com/sillage-io/sillage/libs/config"
	"github.com/sillage-io/sillage/libs/embedded"
	"github.com/sillage-io/sillage/libs/rpc"
	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/telemetry"
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
	DataDir    string   `yaml:"data-dir" usage:"directory of everything that is kept"`
	Partitions int      `yaml:"partitions" usage:"partitions of the topics, chosen at the first start for good; 0: 4 embedded, 16 on a real broker"`
	Fsync      bool     `yaml:"fsync" usage:"embedded: acknowledge only what is on disk"`
	Demo       bool     `yaml:"demo" usage:"let a simulated shop live: its past at the first start, then visits"`
	DemoSeed   int64    `yaml:"demo-seed" usage:"seed of the simulated shop"`
	DemoRate   float64  `yaml:"demo-rate" usage:"events a second of the simulated shop"`
	DiskLimit  int64    `yaml:"disk-limit" usage:"embedded: mebibytes that the data directory may take before events are refused with 503; 0: no limit"`
	Kafka      []string `yaml:"kafka" usage:"host:port of real Kafka brokers, in place of the embedded one; needs --redis"`
	Redis      []string `yaml:"redis" usage:"host:port of a real Redis or Valkey, in place of the embedded one; needs --kafka"`

	HTTP          web.Config `yaml:"http"`
	Admin         web.Config `yaml:"admin"`
	GRPC          rpc.Config `yaml:"grpc"`
	EmbeddedKafka string     `yaml:"embedded-kafka" usage:"host:port of the embedded broker"`
	EmbeddedRedis string     `yaml:"embedded-redis" usage:"host:port of the embedded store"`

	IdentitySecret string  `yaml:"identity-secret" usage:"key of the hash that makes profile ids; empty: one made at the first start" secret:"true"`
	Timezone       string  `yaml:"timezone" usage:"IANA name of the zone whose days the shops live by"`
	Threshold      float64 `yaml:"churn-threshold" usage:"probability of no order within 90 days at which an alert is raised"`
	ServiceLevel   float64 `yaml:"service-level" usage:"share of order cycles without a stock-out"`

	Broker    broker.Config    `yaml:"broker"`
	Store     state.Config     `yaml:"store"`
	Service   service.Config   `yaml:"service"`
	Telemetry telemetry.Config `yaml:"telemetry"`
}

func defaultUp() upConfig {
	return upConfig{
		DataDir: ".run", DemoSeed: 1, DemoRate: simulator.DefaultConfig().EventsPerSecond,
		HTTP: web.Config{Listen: "127.0.0.1:8080"}, Admin: web.Config{Listen: "127.0.0.1:8081"}, GRPC: rpc.Config{Listen: "127.0.0.1:8082"},
		EmbeddedKafka: "127.0.0.1:19092", EmbeddedRedis: "127.0.0.1:16379",
		Timezone: "UTC", Threshold: churn.DefaultConfig().Threshold, ServiceLevel: restock.DefaultConfig().ServiceLevel,
		Broker: broker.DefaultConfig(), Store: state.DefaultConfig(), Service: service.DefaultConfig(), Telemetry: telemetry.DefaultConfig(),
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
	if c.DiskLimit < 0 {
		errs = append(errs, fmt.Errorf("disk-limit: %d is below 0", c.DiskLimit))
	}
	for name, err := range map[string]error{
		"http": c.HTTP.Validate(), "admin": c.Admin.Validate(), "grpc": c.GRPC.Validate(), "broker": c.Broker.Validate(), "store": c.Store.Validate(), "telemetry": c.Telemetry.Validate(),
	} {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	secret := c.IdentitySecret
	if secret == "" {
		secret = strings.Repeat("x", 16)
	}
	errs = append(errs, c.profile(secret).Validate(), c.churn(secret).Validate(), c.restock().Validate())
	return errors.Join(errs...)
}

func (c upConfig) profile(secret string) profile.Config {
	p := profile.DefaultConfig()
	p.IdentitySecret = secret
	return p
}

func (c upConfig) churn(secret string) churn.Config {
	p := churn.DefaultConfig()
	p.IdentitySecret, p.Timezone, p.Threshold = secret, c.Timezone, c.Threshold
	return p
}

func (c upConfig) restock() restock.Config {
	p := restock.DefaultConfig()
	p.Timezone, p.ServiceLevel = c.Timezone, c.ServiceLevel
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
	var check, show bool
	c := &cobra.Command{
		Use: "up", Short: "Run everything in one process", Args: cobra.NoArgs,
		Long: "Run collector, profile, recommender, churn and restock in one process, on an embedded\nbroker and store or on real ones. Everything it keeps is under --data-dir.",
	}
	set := config.Bind(c.Flags(), &cfg)
	c.Flags().BoolVar(&check, "config.check", false, "check the settings and exit")
	c.Flags().BoolVar(&show, "config.print", false, "print the settings with where they come from, and exit")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := set.Load(os.Environ()); err != nil {
			return err
		}
		if show {
			return set.Print(c.OutOrStdout())
		}
		if check {
			fmt.Fprintln(c.OutOrStdout(), "settings are good")
			return nil
		}
		return up(c.Context(), cfg, c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
}

// up runs until ctx ends.
func up(ctx context.Context, cfg upConfig, stdout, stderr io.Writer) error {
	tel, err := telemetry.Open(ctx, cfg.Telemetry, "sillage", web.Version(), stderr)
	if err != nil {
		return err
	}
	defer func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := tel.Close(drain); err != nil {
			tel.Log.Warn("telemetry not sent", slog.Any("err", err))
		}
	}()
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	cfg.Broker.Brokers, cfg.Store.Addrs = cfg.Kafka, cfg.Redis
	if len(cfg.Redis) > 1 {
		cfg.Store.Cluster = cfg.Store.Master == ""
	}
	var backend *embedded.Backend
	var bases *state.Bases
	partitions := cfg.Partitions
	if cfg.embedded() {
		backend, err = embedded.Open(embedded.Config{Dir: cfg.DataDir, KafkaAddr: cfg.EmbeddedKafka, RedisAddr: cfg.EmbeddedRedis, Fsync: cfg.Fsync})
		if err != nil {
			return portHint(err)
		}
		defer backend.Close()
		cfg.Broker.Brokers, cfg.Store.Addrs = backend.Brokers, []string{backend.Redis}
		bases = backend.Bases
	}
	if partitions == 0 {
		partitions = defaultPartitions(ctx, cfg)
	}
	secret, err := identitySecret(cfg)
	if err != nil {
		return err
	}
	if err := firstKeys(cfg.keysFile(), cfg.Demo); err != nil {
		return err
	}
	h, err := host.Open(ctx, cfg.Broker, cfg.Store, bases, partitions, tel.Log)
	if err != nil {
		return err
	}
	defer h.Close()
	h.Dir = cfg.DataDir

	parts := []host.Part{
		profile.Part(h, cfg.profile(secret)), recommender.Part(h, cfg.recommender(secret)),
		churn.Part(h, cfg.churn(secret)), restock.Part(h, cfg.restock()),
	}
	var processors []stream.Processor
	for _, p := range parts {
		processors = append(processors, p.Processors...)
	}
	if backend != nil {
		if err := backend.Load(ctx, h.Store, layouts(processors), tel.Log); err != nil {
			return err
		}
	}
	u := &upper{cfg: cfg, host: h, backend: backend, processors: processors, log: tel.Log}
	return u.run(ctx, tel, parts, stdout)
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
	if client, err := broker.New(cfg.Broker); err == nil {
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
	name := filepath.Join(cfg.DataDir, "identity-secret")
	data, err := os.ReadFile(name)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the identity secret: %w", err)
	}
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make an identity secret: %w", err)
	}
	secret := hex.EncodeToString(b[:])
	return secret, os.WriteFile(name, []byte(secret+"\n"), 0o600)
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

func (u *upper) run(ctx context.Context, tel *telemetry.Telemetry, parts []host.Part, stdout io.Writer) error {
	u.group = service.New(u.cfg.Service, u.log)
	producer := u.host.Client.NewSharedProducer()
	defer func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		producer.Close(drain)
	}()
	ccfg := collector.DefaultConfig()
	ccfg.KeysFile, ccfg.ShopsFile = u.cfg.keysFile(), filepath.Join(u.cfg.DataDir, "shops.json")
	var err error
	u.collector, err = collector.New(ccfg, collector.Deps{
		Publish: producer.Produce, Partitions: u.host.Partitions, Now: time.Now, Log: u.log, Full: u.full.Load,
	})
	if err != nil {
		return err
	}
	admin := web.Admin(u.group.Check, tel.Metrics)
	admin.HandleFunc("GET /status", u.serveStatus)
	admin.HandleFunc("GET /{$}", servePage)
	adminServer, err := web.Listen("admin", "admin.listen", u.cfg.Admin, admin, u.log)
	if err != nil {
		return err
	}
	grpcServer, err := rpc.Listen("grpc", "grpc.listen", u.cfg.GRPC, u.log)
	if err != nil {
		return err
	}
	watched := newPage(u.host, grpcServer.Addr())
	admin.HandleFunc("GET /page/state", u.servePageState(watched))
	httpServer, err := web.Listen("collector", "http.listen", u.cfg.HTTP, u.collector.Handler(), u.log)
	if err != nil {
		return err
	}
	components := []service.Component{adminServer.Component()}
	for _, p := range parts {
		p.Register(grpcServer.Server)
		components = append(components, p.Components...)
	}
	if u.backend != nil && u.cfg.DiskLimit > 0 {
		components = append(components, service.Component{Name: "disk", Run: u.watchDisk})
	}
	components = append(components, grpcServer.Component(),
		service.Component{Name: "ticks", Run: u.collector.Run}, httpServer.Component(), service.Component{Name: "page", Run: watched.run})
	if u.cfg.Demo {
		components = append(components, service.Component{Name: "demo", Run: func(ctx context.Context) error { return u.demo(ctx, httpServer.URL()) }})
	}
	return u.group.Run(ctx, func() {
		fmt.Fprintf(stdout, "ready collector=%s page=%s grpc=%s kafka=%s redis=%s data=%s\n",
			httpServer.URL(), adminServer.URL(), grpcServer.Addr(), strings.Join(u.cfg.Broker.Brokers, ","), strings.Join(u.cfg.Store.Addrs, ","), u.cfg.DataDir)
	}, components...)
}

// demo lets the simulated shop live.
func (u *upper) demo(ctx context.Context, url string) error {
	admin, err := adminKey(u.cfg.DataDir)
	if err != nil {
		return err
	}
	cfg := simulator.DefaultConfig()
	cfg.URL, cfg.Shop, cfg.Admin, cfg.Public, cfg.Secret = url, demoShop, admin, demoPublic, demoSecret
	cfg.Seed, cfg.EventsPerSecond, cfg.Client, cfg.Log = uint64(u.cfg.DemoSeed), u.cfg.DemoRate, http.DefaultClient, u.log
	return simulator.Run(ctx, cfg)
}

// watchDisk closes the collector's door while there is no room.
func (u *upper) watchDisk(ctx context.Context) error {
	limit := u.cfg.DiskLimit << 20
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		used, err := u.backend.DiskUsage()
		if err != nil {
			u.log.Warn("disk usage not known", slog.Any("err", err))
		} else {
			u.usage.Store(used)
			if full := used >= limit; full != u.full.Swap(full) {
				u.log.Warn("disk limit", slog.Bool("reached", full), slog.Int64("used", used), slog.Int64("limit", limit))
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
