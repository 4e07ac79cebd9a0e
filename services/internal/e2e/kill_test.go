package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// binary is the command under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "sillage-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "sillage")
	build := exec.Command("go", "build", "-o", binary, "github.com/sillage-io/sillage/services/cmd/sillage")
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

// system is one all-in-one process and how to start it again.
type system struct {
	t     *testing.T
	dir   string
	args  []string
	ports map[string]string
	cmd   *exec.Cmd
	done  chan error
	log   *os.File
}

// freePort finds a port that nobody uses now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func newSystem(t *testing.T, args ...string) *system {
	t.Helper()
	s := &system{t: t, dir: filepath.Join(t.TempDir(), "data"), args: args, ports: map[string]string{}}
	for _, flag := range []string{"http.listen", "admin.listen", "grpc.listen", "embedded-kafka", "embedded-redis"} {
		s.ports[flag] = freePort(t)
	}
	var err error
	if s.log, err = os.Create(filepath.Join(filepath.Dir(s.dir), "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		s.log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(s.log.Name())
			t.Logf("log of up:\n%s", b[max(0, len(b)-4000):])
		}
	})
	return s
}

// start starts the process and waits until it says that it is ready.
func (s *system) start() {
	s.t.Helper()
	args := append([]string{"up", "--data-dir", s.dir, "--identity-secret", secret}, s.args...)
	for flag, addr := range s.ports {
		args = append(args, "--"+flag, addr)
	}
	s.cmd = exec.Command(binary, args...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan error, 1)
	ready := make(chan bool, 1)
	cmd, done := s.cmd, s.done
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
	case err := <-s.done:
		s.done <- err
		s.t.Fatalf("up ended: %v", err)
	case <-time.After(60 * time.Second):
		s.t.Fatal("up is not ready after a minute")
	}
}

// kill ends the process as a power cut of the process would.
func (s *system) kill() {
	if s.cmd == nil || s.done == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	<-s.done
	s.done = nil
}

// stop ends the process as a scheduler would, and fails where it takes too long.
func (s *system) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.done:
		s.done = nil
		if err != nil {
			s.t.Errorf("up ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		s.t.Error("not stopped within the budget")
	}
}

// command prepares a sub-command that talks with the system.
func (s *system) command(ctx context.Context, args ...string) *exec.Cmd {
	for _, a := range []struct{ of, flag, value string }{
		{"replay", "--collector", "http://" + s.ports["http.listen"]},
		{"replay status", "--admin", "http://" + s.ports["admin.listen"]},
		{"replay verify", "--data-dir", s.dir},
		{"tail verify", "--kafka", s.ports["embedded-kafka"]},
		{"verify", "--redis", s.ports["embedded-redis"]},
		{"verify", "--identity-secret", secret},
	} {
		if strings.Contains(" "+a.of+" ", " "+args[0]+" ") {
			args = append(args, a.flag, a.value)
		}
	}
	c := exec.CommandContext(ctx, binary, args...)
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

// ids are the ids of an outgoing topic, each once.
func (s *system) ids(topic string) []string {
	s.t.Helper()
	seen := map[string]bool{}
	for line := range strings.Lines(s.run("tail", topic, "--from", "start", "--until", "end", "--json")) {
		var r struct{ ID string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		seen[r.ID] = true
	}
	ids := make([]string, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

// history writes a shop's history in the form of UCI Online Retail: customers
// with habits of their own, some of whom leave, and products that sell at
// different rates.
func history(t *testing.T, lines int) string {
	t.Helper()
	random := rand.New(rand.NewPCG(7, 11))
	var b bytes.Buffer
	b.WriteString("ts,invoice_no,stock_code,description,quantity,unit_price,customer_id,country\n")
	type order struct {
		at       time.Time
		customer int
	}
	var orders []order
	begin := time.Date(2020, 1, 1, 8, 0, 0, 0, time.UTC)
	for c := range lines / 60 {
		gap := 3 + random.ExpFloat64()*25
		at := begin.Add(time.Duration(random.Float64() * 200 * 24 * float64(time.Hour)))
		for at.Before(begin.AddDate(1, 0, 0)) {
			orders = append(orders, order{at.Truncate(time.Minute), c})
			if random.Float64() < .12 {
				break
			}
			at = at.Add(time.Duration((.2 + random.ExpFloat64()) * gap * 24 * float64(time.Hour)))
		}
	}
	sort.Slice(orders, func(i, j int) bool { return orders[i].at.Before(orders[j].at) })
	n := 0
	for i, o := range orders {
		for range 1 + random.IntN(8) {
			p := int(random.ExpFloat64() * 12)
			invoice, quantity := strconv.Itoa(500000+i), 1+random.IntN(6)
			if i%50 == 49 {
				invoice, quantity = "C"+invoice, -1
			}
			customer := strconv.Itoa(10000 + o.customer)
			if i%7 == 6 {
				customer = ""
			}
			fmt.Fprintf(&b, "%s,%s,%d,PRODUCT %d,%d,%d.%02d,%s,United Kingdom\n", o.at.Format("2006-01-02T15:04:05"), invoice, 20000+p, p, quantity, 1+p%9, p%100, customer)
			n++
		}
		if n >= lines {
			break
		}
	}
	name := filepath.Join(t.TempDir(), "history.csv")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

var reconciled = regexp.MustCompile(`lines=(\d+) sent=(\d+) acked=(\d+) rejected=(\d+) folded=(\d+) lost=0 duplicated=0`)

// checkNumbers fails where the numbers of a replay do not add up.
func checkNumbers(t *testing.T, out string) {
	t.Helper()
	m := reconciled.FindStringSubmatch(out)
	if m == nil || m[2] != m[3] || m[3] != m[5] {
		t.Errorf("the numbers do not add up:\n%s", out)
	}
}

// effects are what leaves the system.
type effects struct{ Alerts, Signals []string }

// TestKilledAgainAndAgain replays a year of a shop: undisturbed; while the
// process is killed in the middle, again and again; and with another number of
// partitions. State has to be the fold of the log, and alerts and signals the
// same.
func TestKilledAgainAndAgain(t *testing.T) {
	file := history(t, 12_000)
	replay := []string{"replay", "uci-online-retail", file, "--shop", "shop", "--stock", "simulate"}
	outcome := func(s *system) effects {
		s.run("verify")
		return effects{s.ids("churn.alerts.v1"), s.ids("restock.signals.v1")}
	}

	calm := newSystem(t)
	calm.start()
	checkNumbers(t, calm.run(replay...))
	want := outcome(calm)
	if len(want.Alerts) < 20 || len(want.Signals) < 20 {
		t.Fatalf("%d alerts and %d signals: too few to compare", len(want.Alerts), len(want.Signals))
	}
	calm.stop()
	calm.start() // what was kept is enough to go on
	if d := cmp.Diff(want, outcome(calm)); d != "" {
		t.Errorf("after a restart (-before +after):\n%s", d)
	}
	calm.stop()

	t.Run("killed", func(t *testing.T) {
		s := newSystem(t)
		s.start()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		// Slow enough that the kills fall into the middle.
		c := s.command(ctx, append(replay[:len(replay):len(replay)], "--speed", "2500000")...)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(3, 4))
		for range 5 {
			time.Sleep(time.Duration(800+random.IntN(1200)) * time.Millisecond)
			s.kill()
			s.start()
		}
		if err := c.Wait(); err != nil {
			t.Fatalf("replay: %v\n%s", err, out.String())
		}
		checkNumbers(t, out.String())
		if d := cmp.Diff(want, outcome(s)); d != "" {
			t.Errorf("killed differs (-calm +killed):\n%s", d)
		}
		s.stop()
	})

	t.Run("replay killed", func(t *testing.T) {
		s := newSystem(t)
		s.start()
		for _, after := range []time.Duration{time.Second, 1500 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			_ = s.command(ctx, append(replay[:len(replay):len(replay)], "--speed", "4000000")...).Run() // killed: that is the point
			cancel()
		}
		checkNumbers(t, s.run(replay...))
		if d := cmp.Diff(want, outcome(s)); d != "" {
			t.Errorf("a replay that was killed differs (-calm +killed):\n%s", d)
		}
		s.stop()
	})

	t.Run("two partitions", func(t *testing.T) {
		s := newSystem(t, "--partitions", "2")
		s.start()
		checkNumbers(t, s.run(replay...))
		if d := cmp.Diff(want, outcome(s)); d != "" {
			t.Errorf("another number of partitions differs (-4 +2):\n%s", d)
		}
		s.stop()
	})
}
