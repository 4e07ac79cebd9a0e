package chaos

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	flagMutants = flag.String("chaos.mutants", "", "directory of the mutants that libs/stream/step has written: break services built of them, and want the judge to notice")
	flagMutant  = flag.String("chaos.mutant", "", "with chaos.mutants: those whose name contains this")
)

// mutant is the protocol without one guard, where a real process can show that it is
// gone: which faults it takes.
type mutant struct {
	name   string // as libs/stream/step/mutants_test.go has it
	system string
	kinds  string
}

// Whose want a process shows. The rest takes what no process can be made to do at
// will (an answer that is lost between two given steps, a tick in parts, a log that is
// cut under its reader), or shows in nothing that counts (equal copies): model,
// simulation and rules have those. The embedded store goes back with its process, and
// all that follows is folded again: most of it takes the real one.
func mutants() []mutant {
	const kills = "^kill a service|^kill everything"
	return []mutant{
		{"what waits is forgotten", "embedded", kills + "|stop a service"},
		{"message ids are not remembered", "embedded", "records twice|answers eaten|requests arrive late"},
		{"an import's lines count again", "embedded", "stop a service|" + kills},
		{"time is told to one partition", "embedded", "bad calls"},
		{"publish after apply", "real", kills},
		{"repeats count", "real", kills},
		{"models are forgotten", "real", kills},
		{"models are not restored", "real", kills},
		{"failed publish is ignored", "real", "^broker: "},
		{"lost write is taken for made", "real", "zombie|^store: "},
		{"ambiguous write is taken for made", "real", "^store: "},
		{"memory survives a rewind", "real", "zombie|^broker: |^store: "},
	}
}

// TestChaosNoticesMutants builds the services without one guard after the other and
// breaks them, while the judge folds with the shipped protocol.
func TestChaosNoticesMutants(t *testing.T) {
	if *flagMutants == "" {
		t.Skip("-chaos.mutants is not given: make mutants-chaos")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i, m := range mutants() {
		if !strings.Contains(m.name, *flagMutant) {
			continue
		}
		overlay := filepath.Join(*flagMutants, strings.ReplaceAll(m.name, " ", "-"), "overlay.json")
		if _, err := os.Stat(overlay); err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
		c := exec.CommandContext(ctx, self, "-test.run=^TestChaos$", "-test.timeout=14m", "-test.v", "-chaos.system", m.system, "-chaos.kinds", m.kinds,
			"-chaos.faults", "30", "-chaos.rate", "1500", "-chaos.seed", strconv.Itoa(2*i+1), "-chaos.out", t.TempDir())
		// The services are built with it; this program, which judges, was not.
		c.Env = append(os.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
		out, err := c.CombinedOutput()
		late := ctx.Err() != nil
		cancel()
		said := firstComplaint(string(out))
		switch {
		case late:
			t.Errorf("%s: takes too long to say anything", m.name)
		case err == nil:
			t.Errorf("%s: nobody notices", m.name)
		case said == "":
			t.Errorf("%s: %v, and no word of the judge's:\n%s", m.name, err, out[max(0, len(out)-3000):])
		default:
			t.Logf("%s (%s): %s", m.name, m.system, said)
			lines = append(lines, "| "+m.name+" | "+m.system+" | "+strings.ReplaceAll(said, "|", "/")+" |")
		}
	}
	t.Logf("%d mutants noticed\n\n| Without it | System | The judge says |\n|---|---|---|\n%s", len(lines), strings.Join(lines, "\n"))
}

// firstComplaint is what TestChaos says first of what is wrong: neither the faults
// that were made nor the ledger.
func firstComplaint(out string) string {
	if !strings.Contains(out, "--- FAIL: TestChaos") {
		return ""
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "_test.go:") && !strings.Contains(line, " lasted ") && !strings.Contains(line, "; logs are in ") {
			return line[:min(len(line), 200)]
		}
	}
	return ""
}
