package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/services/internal/lab"
)

// binaries is the directory of the commands under test, built once.
var binaries string

func TestMain(m *testing.M) {
	dir, remove, err := lab.Build("github.com/sillage-io/sillage/services/cmd/...")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	code := m.Run()
	remove()
	os.Exit(code)
}

// secret is the same in all systems: profile ids, and so ids of alerts, hang
// on it.
const secret = "a secret of the end-to-end tests"

// system is Sillage, in one process or in one of each service.
type system struct {
	t         testing.TB
	dir       string
	processes []*lab.Process
	collector string         // host:port
	status    []string       // flags that say whom to ask how things stand
	kafka     string         // host:port of the broker
	redis     string         // host:port of the store
	grpc      string         // host:port; "" where the services are apart
	servers   map[string]int // pids of a Kafka and a Redis of its own, nil where it has none
}

// newSystem is the all-in-one process.
func newSystem(t testing.TB, args ...string) *system {
	t.Helper()
	s := &system{t: t, dir: filepath.Join(t.TempDir(), "data"), collector: lab.FreePort(t), kafka: lab.FreePort(t), redis: lab.FreePort(t), grpc: lab.FreePort(t)}
	admin := lab.FreePort(t)
	s.status = []string{"--admin", "http://" + admin}
	s.processes = []*lab.Process{lab.NewProcess(t, binaries, "", append([]string{
		"sillage", "up", "--data-dir", s.dir, "--identity-secret", secret, "--http.listen", s.collector, "--admin.listen", admin, "--grpc.listen", s.grpc,
		"--embedded-kafka", s.kafka, "--embedded-redis", s.redis,
	}, args...)...)}
	return s
}

// realServers starts an Apache Kafka and a Redis for one system: the names of
// the topics are fixed, so that two systems cannot share a broker.
func realServers(t testing.TB) (kafka, redis string, pids map[string]int) {
	t.Helper()
	if os.Getenv("SILLAGE_TEST_KAFKA") == "" || os.Getenv("SILLAGE_TEST_REDIS") == "" {
		t.Skip("SILLAGE_TEST_KAFKA and SILLAGE_TEST_REDIS are not set: no real broker and store to test against")
	}
	broker, store := lab.NewKafka(t, filepath.Join(t.TempDir(), "kafka"), 1), lab.NewRedis(t, filepath.Join(t.TempDir(), "redis"), "redis-server")
	broker.Start()
	store.Start()
	return broker.Addr, store.Addr, map[string]int{"kafka": broker.Pid(0), "redis": store.Pid(0)}
}

// newRealSystem is the all-in-one process on real servers.
func newRealSystem(t testing.TB, args ...string) *system {
	t.Helper()
	kafka, redis, pids := realServers(t)
	s := newSystem(t, append([]string{"--partitions", "4", "--kafka", kafka, "--redis", redis}, args...)...)
	s.kafka, s.redis, s.servers = kafka, redis, pids
	return s
}

// newApartSystem is each service as a process of its own, on real servers; judging
// are arguments for those with models.
func newApartSystem(t testing.TB, judging ...string) *system {
	t.Helper()
	kafka, redis, pids := realServers(t)
	s := &system{t: t, dir: t.TempDir(), collector: lab.FreePort(t), kafka: kafka, redis: redis, servers: pids, status: []string{"--kafka", kafka, "--redis", redis}}
	if out, err := exec.Command(filepath.Join(binaries, "sillage"), "key", "add", "admin", "--data-dir", s.dir).CombinedOutput(); err != nil {
		t.Fatalf("add a key: %v\n%s", err, out)
	}
	s.run("topics", "apply", "--partitions", "4")
	for _, name := range []string{"profile", "recommender", "churn", "restock", "collector"} {
		args := []string{name, "--admin.listen", lab.FreePort(t), "--grpc.listen", lab.FreePort(t), "--broker.brokers", kafka}
		if name == "collector" {
			args = append(args, "--http.listen", s.collector, "--keys-file", filepath.Join(s.dir, "keys.yaml"), "--shops-file", filepath.Join(s.dir, "shops.json"))
		} else {
			args = append(args, "--store.addrs", redis)
		}
		if name != "collector" && name != "restock" {
			args = append(args, "--identity-secret", secret)
		}
		if name == "churn" || name == "restock" {
			args = append(args, judging...)
		}
		s.processes = append(s.processes, lab.NewProcess(t, binaries, "", args...))
	}
	return s
}

func (s *system) start() {
	s.t.Helper()
	for _, p := range s.processes {
		p.Start()
	}
}

func (s *system) stop() {
	s.t.Helper()
	for _, p := range slices.Backward(s.processes) {
		p.Stop()
	}
}

// command prepares a sub-command that talks with the system.
func (s *system) command(ctx context.Context, args ...string) *exec.Cmd {
	switch args[0] {
	case "replay":
		args = append(append(args, "--collector", "http://"+s.collector, "--data-dir", s.dir), s.status...)
	case "tail", "topics":
		args = append(args, "--kafka", s.kafka)
	case "status":
		args = append(args, s.status...)
	case "model":
		args = append(args, "--data-dir", s.dir)
	case "dlq":
		if args = append(args, "--kafka", s.kafka); args[1] == "requeue" {
			args = append(args, "--redis", s.redis)
		}
	case "doctor":
		args = append(args, "--kafka", s.kafka, "--redis", s.redis)
	case "snapshot":
		if args[1] != "show" {
			args = append(args, "--kafka", s.kafka, "--redis", s.redis)
		}
	case "verify", "rebuild", "speak":
		args = append(args, "--kafka", s.kafka, "--redis", s.redis, "--identity-secret", secret, "--data-dir", s.dir)
	}
	c := exec.CommandContext(ctx, filepath.Join(binaries, "sillage"), args...)
	c.Dir = filepath.Dir(s.dir)
	return c
}

// run runs a sub-command and returns what it prints.
func (s *system) run(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	c := s.command(ctx, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		s.t.Fatalf("sillage %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// starts is how many records the system has cut from a topic.
func (s *system) starts(topic string) (n int64) {
	s.t.Helper()
	client, err := broker.New(func() broker.Config { c := broker.DefaultConfig(); c.Brokers = []string{s.kafka}; return c }())
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	partitions, err := client.Partitions(s.t.Context(), topic)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range int32(partitions) {
		start, _, err := client.Bounds(s.t.Context(), topic, i)
		if err != nil {
			s.t.Fatal(err)
		}
		n += start
	}
	return n
}
