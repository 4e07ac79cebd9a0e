package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Build builds packages into a directory of its own, which remove deletes.
func Build(packages ...string) (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp("", "sillage-lab-")
	if err != nil {
		return "", nil, fmt.Errorf("make a directory for the binaries: %w", err)
	}
	remove = func() { os.RemoveAll(dir) }
	build := exec.Command("go", append([]string{"build", "-o", dir + "/"}, packages...)...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		remove()
		return "", nil, fmt.Errorf("build %s: %w", strings.Join(packages, " "), err)
	}
	return dir, remove, nil
}

// BuildTest builds the tests of a package as a command.
func BuildTest(name, pkg string) error {
	build := exec.Command("go", "test", "-c", "-o", name, pkg)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the tests of %s: %w", pkg, err)
	}
	return nil
}

// BuildChanged builds a command with one of its source files changed: in file,
// which is named from the root of the module services, old becomes new.
func BuildChanged(name, pkg, file, old, changed string) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/sillage-io/sillage/services").Output()
	if err != nil {
		return fmt.Errorf("find the sources: %w", err)
	}
	source := filepath.Join(strings.TrimSpace(string(out)), file)
	data, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("read the sources: %w", err)
	}
	if strings.Count(string(data), old) != 1 {
		return fmt.Errorf("%s does not hold %q once", file, old)
	}
	copied, overlay := name+".go.changed", name+".overlay"
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {source: copied}})
	if err == nil {
		err = errors.Join(os.WriteFile(copied, []byte(strings.Replace(string(data), old, changed, 1)), 0o600), os.WriteFile(overlay, replace, 0o600))
	}
	if err != nil {
		return fmt.Errorf("write the changed source: %w", err)
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-o", name, pkg)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build a changed %s: %w", pkg, err)
	}
	return nil
}

// readyWithin is how long a process may take until it says that it is ready:
// with other tests beside it on two cores, and a log to fold first.
const readyWithin = 2 * time.Minute

// stopWithin is how long a process may take to stop.
const stopWithin = 30 * time.Second

// Process is a command that serves, and how to start it again. It is not safe
// for concurrent use.
type Process struct {
	Log string // file of what it says, over all its starts

	t     testing.TB
	dir   string
	args  []string // the command first
	log   *os.File
	cmd   *exec.Cmd
	ready chan bool
	done  chan struct{} // closed when it has ended
	err   error
}

// NewProcess prepares a command of the directory dir. What it says is kept in
// the directory logs, of the test's own where that is empty.
func NewProcess(t testing.TB, dir, logs string, args ...string) *Process {
	t.Helper()
	if logs == "" {
		logs = t.TempDir()
	}
	p := &Process{t: t, dir: dir, args: args, Log: filepath.Join(logs, args[0]+".log")}
	var err error
	if p.log, err = os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(p.Log)
			t.Logf("log of %s ends with:\n%s", args[0], b[max(0, len(b)-4000):])
		}
	})
	return p
}

// Twin prepares another process of the same command, or of another one, with more
// arguments: of a flag that is given twice the last one counts.
func (p *Process) Twin(command, logs string, args ...string) *Process {
	p.t.Helper()
	return NewProcess(p.t, p.dir, logs, append(append([]string{command}, p.args[1:]...), args...)...)
}

// Name is the command.
func (p *Process) Name() string { return p.args[0] }

// Launch starts the process and does not wait.
func (p *Process) Launch() {
	p.t.Helper()
	p.cmd = exec.Command(filepath.Join(p.dir, p.args[0]), p.args[1:]...)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done, p.ready = make(chan struct{}), make(chan bool, 1)
	cmd, done, ready := p.cmd, p.done, p.ready
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "ready ") {
				ready <- true
			}
		}
		p.err = cmd.Wait()
		close(done)
	}()
}

// Await waits until the process says that it is ready.
func (p *Process) Await() {
	p.t.Helper()
	select {
	case <-p.ready:
	case <-p.done:
		p.done = nil
		p.t.Fatalf("%s ended: %v", p.args[0], p.err)
	case <-time.After(readyWithin):
		p.t.Fatalf("%s is not ready after %v", p.args[0], readyWithin)
	}
}

// Start starts the process and waits until it says that it is ready.
func (p *Process) Start() {
	p.t.Helper()
	p.Launch()
	p.Await()
}

// Ended tells whether it has been started and has ended by itself.
func (p *Process) Ended() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		p.done = nil
		return true
	default:
		return false
	}
}

// Running tells whether it has been started and has not been ended by us.
func (p *Process) Running() bool { return p.done != nil }

// Pid is the process' id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the process as a power cut of the process would.
func (p *Process) Kill() {
	if p.cmd == nil || p.done == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	p.done = nil
}

// Stop ends the process, where it runs, as a scheduler would, and fails where it
// takes too long.
func (p *Process) Stop() {
	p.t.Helper()
	if p.done == nil {
		return
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatalf("%s cannot be stopped: %v", p.args[0], err)
	}
	select {
	case <-p.done:
		p.done = nil
		if p.err != nil {
			p.t.Errorf("%s ended with %v", p.args[0], p.err)
		}
	case <-time.After(stopWithin):
		p.t.Errorf("%s has not stopped within %v", p.args[0], stopWithin)
	}
}

// DiskFull lets every write of a process to a file fail, or lets it write again,
// as a file system does that is full and has room again. It needs no rights: the
// process may make its files no longer ("file too large").
func DiskFull(t testing.TB, pid int, full bool) {
	t.Helper()
	limit := "unlimited:"
	if full {
		limit = "1:"
	}
	if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(pid), "--fsize="+limit).CombinedOutput(); err != nil {
		t.Errorf("limit the files of process %d: %v: %s", pid, err, out)
	}
}

// Freeze stops the process in the middle of whatever it does, as a long pause of
// its machine would; Thaw lets it go on.
func (p *Process) Freeze() { signal(p.t, p.Pid(), syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() { signal(p.t, p.Pid(), syscall.SIGCONT) }

func signal(t testing.TB, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatalf("send %v to process %d: %v", s, pid, err)
	}
}

// Resident is how many bytes of memory a process holds; false where the system
// does not tell.
func Resident(pid int) (int64, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err == nil
}

// FreePort finds an address whose port nobody uses now, nor the one after it.
func FreePort(t testing.TB) string {
	t.Helper()
	return "127.0.0.1:" + strconv.Itoa(FreePorts(t, 2))
}

// FreePorts finds the first of n ports beside each other that nobody uses now.
// They are below the range from which systems take ports for outgoing
// connections, so that none of those comes in between.
func FreePorts(t testing.TB, n int) int {
	t.Helper()
search:
	for range 1000 {
		first := 20000 + rand.IntN(12000/n)*n
		for i := range n {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+i))
			if err != nil {
				continue search
			}
			l.Close()
		}
		return first
	}
	t.Fatalf("no %d free ports beside each other", n)
	return 0
}
