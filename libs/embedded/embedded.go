package embedded

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/alicebob/miniredis/v2"
	"github.com/gofrs/flock"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/sillage-io/sillage/libs/state"
)

// Format is the version of the data directory that this binary writes.
const Format = 1

// Config says where the embedded broker and store live.
type Config struct {
	Dir       string // data directory; it is made where it is missing
	KafkaAddr string // host:port to listen on; port 0 chooses one
	RedisAddr string // host:port to listen on; port 0 chooses one
	Fsync     bool   // acknowledge only what is on disk
	DiskLimit int64  // bytes that the log is meant to stay below; 0: none
}

// segment is the size of a log's file. The newest of each partition is never cut,
// so together they have to stay well below the limit.
func (c Config) segment() int64 {
	const most, least, files = 8 << 20, 64 << 10, 256
	if c.DiskLimit == 0 {
		return most
	}
	return min(most, max(least, c.DiskLimit/files))
}

// ErrLocked says that another process uses the data directory.
var ErrLocked = errors.New("another process uses this data directory")

// ErrPort says that an address is taken.
var ErrPort = errors.New("address is taken")

// Backend is the embedded broker and store of one data directory.
type Backend struct {
	Dir     string
	Brokers []string
	Redis   string
	Bases   *state.Bases

	lock  *flock.Flock
	kafka *kfake.Cluster
	redis *miniredis.Miniredis
}

// Open locks the data directory and starts broker and store. The store is
// empty: [Backend.Load] fills it.
func Open(cfg Config) (*Backend, error) {
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	b := &Backend{Dir: cfg.Dir, lock: flock.New(filepath.Join(cfg.Dir, "LOCK"))}
	ok, err := b.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", cfg.Dir, err)
	}
	if !ok {
		return nil, fmt.Errorf("%s: %w", cfg.Dir, ErrLocked)
	}
	if err := b.start(cfg); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Backend) start(cfg Config) error {
	if err := checkFormat(cfg.Dir); err != nil {
		return err
	}
	id, err := clusterID(cfg.Dir)
	if err != nil {
		return err
	}
	if b.Bases, err = state.NewBases(filepath.Join(cfg.Dir, "bases")); err != nil {
		return err
	}
	if err := free(cfg.KafkaAddr, "kafka"); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(cfg.KafkaAddr)
	if err != nil {
		return fmt.Errorf("embedded broker's address: %w", err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("embedded broker's port %q: %w", port, err)
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1), kfake.Ports(n), kfake.ClusterID(id), kfake.DataDir(filepath.Join(cfg.Dir, "kafka")),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return net.Listen(network, net.JoinHostPort(host, port))
		}),
		// Commits carry the emission marks: they must not expire, and here they
		// would under a live member, too.
		kfake.BrokerConfigs(map[string]string{
			"offsets.retention.minutes": "2147483647",
			// A member says itself how soon it is to be missed.
			"group.min.session.timeout.ms": "100",
			// What is cut is freed by whole segments.
			"log.segment.bytes": strconv.FormatInt(cfg.segment(), 10),
		}),
	}
	if cfg.Fsync {
		opts = append(opts, kfake.SyncWrites())
	}
	if b.kafka, err = kfake.NewCluster(opts...); err != nil {
		return fmt.Errorf("start the embedded broker: %w", err)
	}
	b.Brokers = b.kafka.ListenAddrs()
	if err := free(cfg.RedisAddr, "redis"); err != nil {
		return err
	}
	b.redis = miniredis.NewMiniRedis()
	if err := b.redis.StartAddr(cfg.RedisAddr); err != nil {
		b.redis = nil
		return fmt.Errorf("start the embedded store: %w", err)
	}
	b.Redis = b.redis.Addr()
	return nil
}

// free tells whether an address can be listened on, with an error that names
// it where not.
func free(addr, what string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w: %s for the embedded %s (%w)", ErrPort, addr, what, err)
	}
	return l.Close()
}

func checkFormat(dir string) error {
	name := filepath.Join(dir, "FORMAT")
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return os.WriteFile(name, []byte(strconv.Itoa(Format)+"\n"), 0o644)
	}
	if err != nil {
		return fmt.Errorf("read the format of the data directory: %w", err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return fmt.Errorf("%s is %q, want a number", name, strings.TrimSpace(string(data)))
	}
	if v > Format {
		return fmt.Errorf("data directory %s has format %d, this program knows up to %d: use the newer program that wrote it", dir, v, Format)
	}
	return nil
}

func clusterID(dir string) (string, error) {
	name := filepath.Join(dir, "CLUSTER")
	data, err := os.ReadFile(name)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the cluster's id: %w", err)
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make a cluster id: %w", err)
	}
	id := "embedded-" + hex.EncodeToString(b[:])
	return id, os.WriteFile(name, []byte(id+"\n"), 0o644)
}

// Load puts the newest whole base of each partition into the store. A damaged
// base is reported and the one before it taken: the log is folded again from
// there.
func (b *Backend) Load(ctx context.Context, store *state.Store, layout func(tag string) state.Layout, log *slog.Logger) error {
	tags, err := b.Bases.Tags()
	if err != nil {
		return err
	}
	for _, tag := range tags {
		base, err := b.Bases.Newest(tag)
		if err != nil {
			log.Error("damaged base", slog.Any("err", err))
		}
		if base == nil {
			continue
		}
		if err := store.Restore(ctx, tag, layout(tag), base.State); err != nil {
			return err
		}
	}
	return nil
}

// DiskUsage is how many bytes the data directory holds.
func (b *Backend) DiskUsage() (int64, error) {
	var total int64
	err := filepath.WalkDir(b.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // what is deleted while we look is not counted
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total, err
}

// Close stops both and frees the data directory.
func (b *Backend) Close() {
	if b.kafka != nil {
		b.kafka.Close()
	}
	if b.redis != nil {
		b.redis.Close()
	}
	_ = b.lock.Unlock()
}
