package chaos

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// plain runs what only libs/stream/broker may: a producer as kafka-go has it, and
// ours, on topics of their own, through the same faults.
type plain struct {
	cmd     *exec.Cmd
	input   io.Closer
	counted chan map[string]outcome
}

// outcome is what a log holds of what was acknowledged.
type outcome struct {
	Acknowledged int64 `json:"acknowledged"`
	Lost         int64 `json:"lost"`
	Twice        int64 `json:"twice"`
	Disordered   int64 `json:"disordered"`
}

func (r *rig) startPlain() *plain {
	r.t.Helper()
	addrs := r.kafka
	if r.has(ownBroker) {
		addrs = nil
		for _, p := range r.toBroker {
			addrs = append(addrs, p.Addr)
		}
	}
	log, err := os.Create(filepath.Join(r.logs, "plain.log"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { log.Close() })
	p := &plain{cmd: exec.Command(filepath.Join(binaries, "plain.test"), "-test.run", "TestPlainProduce", "-test.timeout", "0"), counted: make(chan map[string]outcome, 1)}
	p.cmd.Env = append(os.Environ(), "SILLAGE_PLAIN_KAFKA="+strings.Join(addrs, ","))
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // where the run has failed
	appending := make(chan struct{})
	go func() {
		var found map[string]outcome
		lines := bufio.NewScanner(io.TeeReader(out, log))
		for lines.Scan() {
			if lines.Text() == "appending" {
				close(appending)
			}
			if text, ok := strings.CutPrefix(lines.Text(), "counted "); ok {
				_ = json.Unmarshal([]byte(text), &found) // nil is what the caller asks for
			}
		}
		_ = p.cmd.Wait()
		p.counted <- found
	}()
	select {
	case <-appending:
	case found := <-p.counted:
		p.counted <- found
		r.t.Errorf("the producers beside have not begun: see %s", log.Name())
	}
	return p
}

// finish ends both producers and tells what they have left in the log.
func (p *plain) finish() map[string]outcome {
	p.input.Close()
	return <-p.counted
}
