package embedded_test

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sillage-io/sillage/libs/embedded"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(dir string) embedded.Config {
	return embedded.Config{Dir: dir, KafkaAddr: "127.0.0.1:0", RedisAddr: "127.0.0.1:0"}
}

func TestLogCommitsAndBasesSurvive(t *testing.T) {
	dir := t.TempDir()
	var logID string
	use := func(f func(c *broker.Client, s *state.Store, b *embedded.Backend)) {
		t.Helper()
		b, err := embedded.Open(config(dir))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		bcfg, scfg := broker.DefaultConfig(), state.DefaultConfig()
		bcfg.Brokers, scfg.Addrs = b.Brokers, []string{b.Redis}
		c, err := broker.New(bcfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := state.Open(scfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		f(c, s, b)
	}
	use(func(c *broker.Client, _ *state.Store, b *embedded.Backend) {
		if err := c.EnsureTopics(t.Context(), []broker.TopicSpec{{Name: "x", Partitions: 1, RetentionMS: -1}}); err != nil {
			t.Fatal(err)
		}
		id, err := c.InitProducerID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.NewProducer(id).Produce(t.Context(), []record.Out{{Topic: "x", Value: []byte("a")}, {Topic: "x", Value: []byte("b")}}); err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(t.Context(), "g", "x", map[int32]broker.Committed{0: {Offset: 1, Metadata: "mark"}}); err != nil {
			t.Fatal(err)
		}
		if logID, err = c.LogID(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		if err := b.Bases.Save("p.0", 7, step.State{Fence: "fence", Entities: []step.Entity{{Key: "s/a", Value: []byte("1")}}}, "mark"); err != nil {
			t.Fatal(err)
		}
		if n, err := b.DiskUsage(); err != nil || n == 0 {
			t.Errorf("disk usage %d, %v", n, err)
		}
	})
	use(func(c *broker.Client, s *state.Store, b *embedded.Backend) {
		if _, end, err := c.Bounds(t.Context(), "x", 0); end != 2 || err != nil {
			t.Errorf("the log ends at %d, %v, want 2", end, err)
		}
		if got, err := c.Committed(t.Context(), "g", "x"); err != nil || got[0] != (broker.Committed{Offset: 1, Metadata: "mark"}) {
			t.Errorf("commit %v, %v", got, err)
		}
		if id, err := c.LogID(t.Context(), "x"); id != logID || err != nil {
			t.Errorf("log id %q, %v, want %q", id, err, logID)
		}
		if err := b.Load(t.Context(), s, func(string) state.Layout { return state.PerKey }, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if v, ok, err := s.Read(t.Context(), "p.0", state.PerKey, "s/a"); string(v) != "1" || !ok || err != nil {
			t.Errorf("entity %q, %v, %v", v, ok, err)
		}
	})
}

func TestOneProcessADataDirectory(t *testing.T) {
	dir := t.TempDir()
	b, err := embedded.Open(config(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := embedded.Open(config(dir)); !errors.Is(err, embedded.ErrLocked) {
		t.Errorf("a second one: %v, want ErrLocked", err)
	}
}

func TestNewerDataIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "FORMAT"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Open(config(dir))
	if err == nil || !strings.Contains(err.Error(), "format 99") {
		t.Errorf("%v: does not name the format", err)
	}
}

func TestTakenPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, change := range map[string]func(*embedded.Config){
		"kafka": func(c *embedded.Config) { c.KafkaAddr = l.Addr().String() },
		"redis": func(c *embedded.Config) { c.RedisAddr = l.Addr().String() },
	} {
		cfg := config(t.TempDir())
		change(&cfg)
		_, err := embedded.Open(cfg)
		if !errors.Is(err, embedded.ErrPort) || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
