package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sillage-io/sillage/libs/stream/broker"
)

// binaries is the directory of the commands under test, built once.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sillage-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	build := exec.Command("go", "build", "-o", dir+"/", "github.com/sillage-io/sillage/services/cmd/...")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// secret is the same in all systems: profile ids, and so ids of alerts, hang
// on it.
const secret = "a secret of the end-to-end tests"

// process is a command that serves, and how to start it again.
type process struct {
	t    testing.TB
	args []string // the command first
	log  *os.File
	cmd  *exec.Cmd
	done chan error
}

func newProcess(t testing.TB, args ...string) *process {
	t.Helper()
	p := &process{t: t, args: args}
	var err error
	if p.log, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		p.log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(p.log.Name())
			t.Logf("log of %s:\n%s", args[0], b[max(0, len(b)-4000):])
		}
	})
	return p
}

// start starts the process and waits until it says that it is ready.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(filepath.Join(binaries, p.args[0]), p.args[1:]...)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan error, 1)
	ready := make(chan bool, 1)
	cmd, done := p.cmd, p.done
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "ready ") {
				ready <- true
			}
		}
		done <- cmd.Wait()
	}()
	select {
	case <-ready:
	case err := <-p.done:
		p.done <- err
		p.t.Fatalf("%s ended: %v", p.args[0], err)
	case <-time.After(60 * time.Second):
		p.t.Fatalf("%s is not ready after a minute", p.args[0])
	}
}

// kill ends the process as a power cut of the process would.
func (p *process) kill() {
	if p.cmd == nil || p.done == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	p.done = nil
}

// stop ends the process as a scheduler would, and fails where it takes too long.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.done:
		p.done = nil
		if err != nil {
			p.t.Errorf("%s ended with %v", p.args[0], err)
		}
	case <-time.After(30 * time.Second):
		p.t.Errorf("%s has not stopped within the budget", p.args[0])
	}
}

// freePort finds a port that nobody uses now, nor the one after it: a broker
// takes both. It is below the range from which systems take ports for outgoing
// connections, so that none of those comes in between.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := 20000 + 2*rand.IntN(6000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		next, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		l.Close()
		if err == nil {
			next.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no two free ports beside each other")
	return ""
}

// system is Sillage, in one process or in one of each service.
type system struct {
	t         testing.TB
	dir       string
	processes []*process
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
	s := &system{t: t, dir: filepath.Join(t.TempDir(), "data"), collector: freePort(t), kafka: freePort(t), redis: freePort(t), grpc: freePort(t)}
	admin := freePort(t)
	s.status = []string{"--admin", "http://" + admin}
	s.processes = []*process{newProcess(t, append([]string{
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
	scripts, err := filepath.Abs("../../../scripts")
	if err != nil {
		t.Fatal(err)
	}
	pids = map[string]int{}
	server := func(name string) string {
		dir := filepath.Join(t.TempDir(), name)
		_, port, err := net.SplitHostPort(freePort(t))
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		start := exec.Command(filepath.Join(scripts, name), "start", dir, port)
		start.Stderr = &said
		addr, err := start.Output()
		if err != nil {
			t.Fatalf("start %s: %v\n%s", name, err, said.String())
		}
		t.Cleanup(func() {
			if out, err := exec.Command(filepath.Join(scripts, name), "stop", dir).CombinedOutput(); err != nil {
				t.Errorf("stop %s: %v\n%s", name, err, out)
			}
		})
		pid, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			t.Fatal(err)
		}
		if pids[name], err = strconv.Atoi(strings.TrimSpace(string(pid))); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(addr))
	}
	return server("kafka"), server("redis"), pids
}

// newRealSystem is the all-in-one process on real servers.
func newRealSystem(t testing.TB, args ...string) *system {
	t.Helper()
	kafka, redis, pids := realServers(t)
	s := newSystem(t, append([]string{"--partitions", "4", "--kafka", kafka, "--redis", redis}, args...)...)
	s.kafka, s.redis, s.servers = kafka, redis, pids
	return s
}

// newApartSystem is each service as a process of its own, on real servers.
func newApartSystem(t testing.TB) *system {
	t.Helper()
	kafka, redis, pids := realServers(t)
	s := &system{t: t, dir: t.TempDir(), collector: freePort(t), kafka: kafka, redis: redis, servers: pids, status: []string{"--kafka", kafka, "--redis", redis}}
	if out, err := exec.Command(filepath.Join(binaries, "sillage"), "key", "add", "admin", "--data-dir", s.dir).CombinedOutput(); err != nil {
		t.Fatalf("add a key: %v\n%s", err, out)
	}
	s.run("topics", "apply", "--partitions", "4")
	for _, name := range []string{"profile", "recommender", "churn", "restock", "collector"} {
		args := []string{name, "--admin.listen", freePort(t), "--grpc.listen", freePort(t), "--broker.brokers", kafka}
		if name == "collector" {
			args = append(args, "--http.listen", s.collector, "--keys-file", filepath.Join(s.dir, "keys.yaml"), "--shops-file", filepath.Join(s.dir, "shops.json"))
		} else {
			args = append(args, "--store.addrs", redis)
		}
		if name != "collector" && name != "restock" {
			args = append(args, "--identity-secret", secret)
		}
		s.processes = append(s.processes, newProcess(t, args...))
	}
	return s
}

func (s *system) start() {
	s.t.Helper()
	for _, p := range s.processes {
		p.start()
	}
}

func (s *system) stop() {
	s.t.Helper()
	for _, p := range slices.Backward(s.processes) {
		p.stop()
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
