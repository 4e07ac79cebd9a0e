package lab

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Server is a broker or a store that a script of the repository starts. What it
// stores is in Dir, also when it is started again. It is not safe for concurrent
// use.
type Server struct {
	Addr string // host:port, of all nodes
	Dir  string

	t      testing.TB
	script string
	port   int
	env    []string
	nodes  int
}

// NewServer prepares a server that scripts/<name> starts in dir on a port, with
// variables for the script. It is stopped when the test ends.
func NewServer(t testing.TB, name, dir string, port int, env ...string) *Server {
	t.Helper()
	script, err := filepath.Abs(filepath.Join("..", "..", "..", "scripts", name))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, script: script, Dir: dir, port: port, env: env, nodes: 1}
	for _, e := range env {
		if n, ok := strings.CutPrefix(e, "NODES="); ok {
			if s.nodes, err = strconv.Atoi(n); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() {
		for n := range s.nodes {
			if pid := s.Pid(n); pid > 0 {
				_ = syscall.Kill(pid, syscall.SIGCONT) // what is frozen does not stop
			}
		}
		s.Stop()
	})
	return s
}

// Start starts what is not running, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.Addr = strings.TrimSpace(s.run("start", s.Dir, strconv.Itoa(s.port)))
}

// Stop stops the server as an operator would.
func (s *Server) Stop() {
	s.t.Helper()
	s.run("stop", s.Dir)
}

func (s *Server) run(args ...string) string {
	s.t.Helper()
	c := exec.Command(s.script, args...)
	c.Env = append(os.Environ(), s.env...)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		s.t.Errorf("%s %s: %v\n%s", filepath.Base(s.script), strings.Join(args, " "), err, said.String())
	}
	return string(out)
}

// Nodes is how many processes it consists of.
func (s *Server) Nodes() int { return s.nodes }

// Pid is the process of node n, counted from 0; 0 where it does not run.
func (s *Server) Pid(n int) int {
	name := filepath.Join(s.Dir, "pid")
	if s.nodes > 1 {
		name = filepath.Join(s.Dir, strconv.Itoa(n+1), "pid")
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return 0
	}
	return pid
}

// Kill ends node n as a power cut of the process would, and waits until it is
// gone.
func (s *Server) Kill(n int) { s.Signal(n, syscall.SIGKILL); s.gone(n) }

// Terminate asks node n to stop, and waits until it is gone.
func (s *Server) Terminate(n int) { s.Signal(n, syscall.SIGTERM); s.gone(n) }

func (s *Server) gone(n int) {
	s.t.Helper()
	if !s.Ends(n) {
		s.t.Errorf("%s: node %d has not ended", s.script, n)
	}
}

// Ends waits until node n is gone, for a minute at most.
func (s *Server) Ends(n int) bool {
	for range 600 {
		if s.Pid(n) == 0 {
			return true
		}
		pause()
	}
	return false
}

// Freeze stops node n in the middle of whatever it does; Thaw lets it go on.
func (s *Server) Freeze(n int) { s.Signal(n, syscall.SIGSTOP) }

// Thaw lets a frozen node go on.
func (s *Server) Thaw(n int) { s.Signal(n, syscall.SIGCONT) }

// Signal sends a signal to node n.
func (s *Server) Signal(n int, sig syscall.Signal) {
	s.t.Helper()
	pid := s.Pid(n)
	if pid == 0 {
		s.t.Errorf("%s: node %d does not run", s.script, n)
		return
	}
	signal(s.t, pid, sig)
}

// NewKafka prepares an Apache Kafka of one or more nodes. Where proxies are
// given, one for each node, services reach the nodes through them: at
// [Server.Addr] it answers without. Where twice as many are, the nodes reach each
// other through the second half.
func NewKafka(t testing.TB, dir string, nodes int, proxies ...*Proxy) *Server {
	t.Helper()
	const ports = 4 // of a node: scripts/kafka says which
	port := FreePorts(t, ports*nodes)
	env := []string{fmt.Sprintf("NODES=%d", nodes)}
	for i, name := range []string{"ADVERTISE", "BETWEEN"} {
		if len(proxies) < (i+1)*nodes {
			break
		}
		var addrs []string
		for n, p := range proxies[i*nodes : (i+1)*nodes] {
			addrs = append(addrs, p.Addr)
			p.Redirect(net.JoinHostPort("127.0.0.1", strconv.Itoa(port+ports*n+2+i)))
		}
		env = append(env, name+"="+strings.Join(addrs, ","))
	}
	return NewServer(t, "kafka", dir, port, env...)
}

// NewRedis prepares a store, which a command as redis-server starts, with further
// arguments.
func NewRedis(t testing.TB, dir, command string, args ...string) *Server {
	t.Helper()
	return newRedis(t, dir, command, FreePorts(t, 1), args)
}

func newRedis(t testing.TB, dir, command string, port int, args []string) *Server {
	t.Helper()
	return NewServer(t, "redis", dir, port, "REDIS_SERVER="+command, "REDIS_ARGS="+strings.Join(args, " "))
}

// NewCluster starts a cluster of three masters with a replica each.
func NewCluster(t testing.TB, dir, command string, args ...string) []*Server {
	t.Helper()
	const nodes = 6
	port := FreePorts(t, 2*nodes)
	var all []*Server
	create := []string{"--cluster", "create"}
	for i := range nodes {
		s := newRedis(t, filepath.Join(dir, strconv.Itoa(i)), command, port+2*i, append([]string{
			"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(port + 2*i + 1), "--cluster-node-timeout", "1500", "--repl-diskless-sync-delay", "0",
		}, args...))
		s.Start()
		all = append(all, s)
		create = append(create, s.Addr)
	}
	if out, err := exec.Command("redis-cli", append(create, "--cluster-replicas", "1", "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("make a cluster: %v\n%s", err, out)
	}
	return all
}
