package step_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A mutant is this package with one guard taken away. make mutants builds each of
// them and lets model, simulation and the tests of single rules try to notice.
var (
	mutantsRun    = flag.Bool("mutants", false, "build and try the mutants")
	mutantsBuild  = flag.Bool("mutants.build", false, "with mutants: only build them")
	mutantsStates = flag.Int("mutants.states", 100_000, "most states that the search of one model visits")
	mutantsWrite  = flag.String("mutants.write", "", "directory to write each mutant's changed files to, for who builds other programs with them; nothing is tried")
	mutantsOnly   = flag.String("mutants.only", "", "those whose name contains this")
)

// edit replaces a text that occurs once in a file.
type edit struct{ file, from, to string }

type mutant struct {
	name  string
	guard string // what is taken away
	edits []edit
}

func mutants() []mutant {
	machine := func(from, to string) []edit { return []edit{{"machine.go", from, to}} }
	partition := func(from, to string) []edit { return []edit{{"partition.go", from, to}} }
	settle := func(from, to string) []edit { return []edit{{"settle.go", from, to}} }
	persist := func(from, to string) []edit { return []edit{{"persist.go", from, to}} }
	queue := func(from, to string) []edit { return []edit{{"queue.go", from, to}} }
	clock := func(from, to string) []edit { return []edit{{"clock.go", from, to}} }
	return []mutant{
		{"publish after apply", "what follows is published before the state is written", []edit{
			{"machine.go", "	m.op = OpApply\n	if len(m.batch.Outs) > 0 {\n		m.op = OpPublish\n	}", "	m.op = OpApply"},
			{"machine.go", "		m.op = OpApply\n	case OpApply:", "		m.op = OpCommit\n	case OpApply:"},
			{"machine.go", "	m.op = after\n}", "	m.op = after\n	if after == OpCommit && len(m.batch.Outs) > 0 {\n		m.op = OpPublish\n	}\n}"},
		}},
		{"failed publish is ignored", "a publish that fails ends the claim", machine("			m.rewind()\n			return\n		}\n		m.op = OpApply", "		}\n		m.op = OpApply")},
		{"lost write is taken for made", "who has lost the fence goes back", machine("			return\n		}\n		m.rewind()\n	case NotWritten", "			return\n		}\n		m.taken(after)\n	case NotWritten")},
		{"ambiguous write is taken for made", "after a lost answer the fence tells", machine("		m.after, m.op = after, OpArm\n		m.attempt++", "		m.taken(after)")},
		{"any fence is the base", "a write is repeated only over its own base", machine("		default:\n			m.rewind()\n		}\n		return\n	}\n	if m.stop", "		default:\n			m.armed, m.write.Base = r.Fence, r.Fence\n			m.op = map[Op]Op{OpLoad: OpClaim, OpCommit: OpApply}[after]\n		}\n		return\n	}\n	if m.stop")},
		{"memory survives a rewind", "a claim loads the state anew", machine("	if err := m.folder.Restore(r.State, m.fence); err != nil {", "	if m.stats.Claims > 1 {\n	} else if err := m.folder.Restore(r.State, m.fence); err != nil {")},
		{"state of another owner is loaded", "what is loaded is of the fence that was claimed", machine("	if r.State.Fence != m.armed {", "	if false {")},
		{"one nonce for all claims", "a claim's nonce is its own", machine(`	f.Nonce = m.seed + "-" + strconv.Itoa(m.claims)`, `	f.Nonce = "n"; _ = strconv.Itoa`)},
		{"remains are kept", "a claim without a fence wipes what is there", machine("Wipe: m.fresh}", "Wipe: false}")},
		{"mark goes back at a claim", "a claim's mark is not below the state's offset", machine("	m.mark.Offset = max(m.mark.Offset, m.fence.Next) // published before it was applied\n", "")},
		{"mark goes back with the state", "the mark is the highest there was", machine("			m.mark.Offset = max(m.mark.Offset, m.fence.Next)\n		}\n		m.stats.Batches++", "			m.mark.Offset = m.fence.Next\n		}\n		m.stats.Batches++")},
		{"not silent below the mark", "what was published is not published again", machine("		if m.batch.Offsets[i] < m.mark.Offset {", "		if i < 0 {")},
		{"silence is forgotten", "who is silent leaves no mark", machine("		m.mark.Silent = m.fence.Voice.Silent\n", "")},
		{"silence goes back with the store", "the mark says that its owner was silent", machine("	case m.mark.Silent != \"\" && f.Voice.Silent == \"\" && !f.Voice.pending():", "	case false:")},
		{"speaks over a gap", "who has missed records is silent", machine("		f.Voice = Voice{Silent: SilentGap}", "		f.Voice = Voice{}")},
		{"speaks without a mark", "a state without a mark is silent", machine("		f.Voice = Voice{Silent: SilentUnmarked}", "		f.Voice = Voice{}")},
		{"epoch is not raised", "a claim raises the producer's epoch", machine("Epoch: epoch + 1}", "Epoch: epoch}")},
		{"epoch of the fence alone", "the epoch survives the store's going back", machine("	epoch := max(m.fence.Epoch, m.mark.Epoch)", "	epoch := m.fence.Epoch")},
		{"any producer goes on", "a new producer where fence and mark differ", machine("m.fence.ProducerID == m.mark.ProducerID && m.fence.ProducerID > 0", "m.fence.ProducerID > 0")},
		{"claim is not committed", "the epoch is committed before it is used", machine("	m.op = OpCommitClaim\n}", "	m.op = OpFetch\n}")},
		{"anchor is not compared", "a log that was replaced is noticed", machine("	case Anchor(&r.Records[0]) != m.fence.Anchor:", "	case false:")},
		{"end is not compared", "a log that lost its end is noticed", machine("	if !m.fresh && m.fence.Next > m.end {", "	if false {")},
		{"idle owner sleeps", "who has nothing to write looks at the fence", machine("m.idle >= checkIdle {", "false {")},
		{"what waits is forgotten", "a claim reads again what waits", machine("	if m.fence.Low < m.fence.Next {\n		m.read = m.fence.Low\n	}", "")},
		{"any fold version takes over", "only a released state is taken over by another fold", machine("if f.FoldVersion != m.cfg.FoldVersion && !f.Released {", "if false {")},
		{"any log will do", "state of another log is refused", machine("		if f.LogID != m.cfg.LogID {", "		if false {")},
		{"mark of another log counts", "a mark of another log is none", machine("err == nil && mark.LogID == m.cfg.LogID {", "err == nil {")},
		{"rest of a tick is dropped", "a tick in parts is finished before the owner stops", machine("	if len(m.rest) > 0 && m.fence.KeyDone != \"\" {", "	if false {")},

		{"repeats count", "a position that was seen is dropped", partition("		if last := h.source.highest; last != nil && !h.position.After(*last) {", "		if last := h.source.highest; false {\n			_ = last")},
		{"a tick's position is noted first", "a tick's position moves with its last part", partition("		if !h.control { // a control record's is noted with its last part\n			p.note(h.source, h.position)\n		}", "		p.note(h.source, h.position)")},
		{"message ids are not remembered", "a message id counts once", partition("	if !p.fresh(r.AppendTime, h.name, e.keyID, e.messageID) {", "	if false {")},
		{"message ids are not stored", "message ids are written with the state", persist("		if data := p.newSeen[hour]; len(data) > 0 {", "		if data := p.newSeen[hour]; false {")},
		{"an import's lines count again", "an import's sequence number counts once", partition("		if e.sequence <= count.Sequence {", "		if false {")},
		{"effective times repeat", "effective times of a key grow", partition("		now = max(now, h.ent.last+1)", "		now = max(now, h.ent.last)")},
		{"effective before the clock", "nothing counts before the clock", partition("	now := max(earliest, p.meta.shop(h.key.Shop).Clock)", "	now := earliest; p.meta.shop(h.key.Shop)")},
		{"an import's order is its ticks'", "a line counts not before those above it", partition("		p.stamp(r, h, max(FromMillis(e.eventTime), Instant(e.notBefore)))", "		p.stamp(r, h, FromMillis(e.eventTime))")},
		{"what fails leaves effects", "a fold that fails publishes nothing", partition("		e.outs, e.source.Ordinal = e.outs[:outs], ordinal\n		p.touch(ent)\n		return err", "		_, _ = outs, ordinal\n		p.touch(ent)\n		return err")},
		{"woken in the past", "a wake-up is not before now", partition("			wake = max(wake, earliest)", "			wake = max(wake, 0)")},
		{"wake-ups go first", "records come before wake-ups of the same instant", partition("		if due >= limit {", "		if due > limit {")},

		{"the fastest source tells the time", "the clock is the minimum over the sources", clock("		least = min(least, at)", "		if least == Instant(math.MaxInt64) || at > least {\n			least = at\n		}")},
		{"a source that has not begun is no matter", "an import waits for all sources", clock("			case !ok:\n				at = never\n", "			case !ok:\n				return\n")},
		{"outages are silence", "what falls due in an outage waits for its end", clock("		if i.From < due && due < i.To {", "		if false {")},

		{"old ticks count", "the highest tick wins", settle("		if heard && at <= wall {", "		if false {")},
		{"ticks from the future count", "a tick ahead of its append time is dropped", settle("if p.cfg.Client && at > FromMillis(r.AppendTime)+5*60*1_000_000 {", "if false {")},
		{"passed is not strict", "what counts at the clock's instant waits", queue("q.heap[0].effective >= upto {", "q.heap[0].effective > upto {")},
		{"entities in any order", "entities are settled in key order", []edit{
			{"queue.go", "	if c := strings.Compare(w.name, o.name); c != 0 {\n		return c", "	if c := strings.Compare(w.name, o.name); c != 0 {\n		return -c"},
			{"settle.go", "	s.names = slices.Compact(s.names)", "	s.names = slices.Compact(s.names)\n	slices.Reverse(s.names)"},
		}},
		{"facts in order of arrival", "an entity's facts are folded in order of time", queue("	if c := cmp.Compare(w.effective, o.effective); c != 0 {", "	if c := cmp.Compare(w.fact.Offset, o.fact.Offset); c != 0 {")},
		{"keys done are done again", "a second reading of a tick skips the entities done", settle("		if p.keyDone == \"\" || name > p.keyDone {", "		if true {")},
		{"time is told to one partition", "the clock is passed on to every partition", settle("		for i := range to.Partitions {", "		for i := range to.Partitions - to.Partitions + 1 {")},
		{"the clock moves with the first part", "the clock moves with a tick's last part", persist("	if p.settling != nil {\n		m.clocks, m.Imports = p.settling.before.clocks, p.settling.before.imports\n	}", "")},
		{"ordinals begin anew", "a tick in parts goes on counting its effects", persist("	p.next, p.anchor, p.keyDone, p.ordinal = f.Next, f.Anchor, f.KeyDone, f.Ordinal", "	p.next, p.anchor, p.keyDone, p.ordinal = f.Next, f.Anchor, f.KeyDone, 0")},
		{"what counted waits again", "a second reading drops what the clock has passed", persist("		if shop != nil && head.effective < shop.Clock {", "		if shop == nil && false {")},
		{"copies wait twice", "a second reading takes a position once", persist("		if p.reading[at] {", "		if false {")},
		{"copies of what is archived wait", "a position in the archive is known to a second reading", []edit{{"letters.go", "		p.reading[string(r.Header(record.HeaderPosition))] = true\n", ""}}},
		{"the archive is forgotten", "a claim restores what is in the archive", persist("			return p.restoreArchive(l.Data)", "			return nil")},
		{"models are forgotten", "a shop's model is written with the state", persist("	w.Entities = append(w.Entities, p.models.changed...)\n", "")},
		{"models are not restored", "a claim restores the models", persist("		if shop, ok := shopOfModel(e.Key); ok {", "		if shop, ok := shopOfModel(e.Key); ok && p.cfg.Model == \"\" {")},
		{"facts may have no key", "a fact without a key is put aside", partition("len(r.Key) == 0 && !p.types[h.fact.Type] {", "len(r.Key) == 0 {")},
		{"a model goes to one partition", "a model is told to every partition", []edit{{"fold.go", "	for i := range e.broadcast[at].Partitions {", "	for i := range e.broadcast[at].Partitions - e.broadcast[at].Partitions + 1 {"}}},
		{"wake-ups read an old model", "a wake-up reads the last model", partition(`e.trace, e.kinds, e.unobserved, e.model = "", e.kinds[:0], unobserved, p.models.of(ent.key.Shop)`, `e.trace, e.kinds, e.unobserved = "", e.kinds[:0], unobserved`)},
		{"what cannot be read replaces a model", "a model that cannot be read is put aside", []edit{{"model.go", "	if err != nil {\n		return err\n	}\n	data := append(", "	data := append("}}},
		{"nothing holds the log", "the fence keeps the oldest offset that waits", persist("		return min(w.fact.Offset, p.next)", "		return p.next")},
	}
}

// tried is what noticed a mutant.
type tried struct {
	name string
	args []string
}

// TestMutants takes every guard away once: the model or the simulation has to
// notice; where neither can, the test of the single rule. Without -mutants, only
// that each guard still stands where the table says: it takes fifty builds.
func TestMutants(t *testing.T) {
	if *mutantsWrite != "" {
		writeMutants(t, *mutantsWrite)
		return
	}
	if !*mutantsRun {
		for _, m := range mutants() {
			if _, err := m.sources("."); err != nil {
				t.Error(err)
			}
		}
		return
	}
	trials := []tried{
		{"model", []string{"-test.run=TestModel$", "-model.states=" + strconv.Itoa(*mutantsStates)}},
		{"simulation", []string{"-test.run=TestSimulation$", "-sim.seeds=150", "-sim.shrink=false"}},
		{"rules", []string{"-test.run=Test", "-test.skip=TestModel|TestSimulation|TestMutants", "-test.short"}},
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	var lines []string
	alive := 0
	for _, m := range mutants() {
		if !strings.Contains(m.name, *mutantsOnly) {
			continue
		}
		dir := t.TempDir()
		binary, err := build(here, dir, m)
		if err != nil {
			t.Error(err)
			continue
		}
		if *mutantsBuild {
			os.Remove(binary)
			continue
		}
		var by []string
		for _, trial := range trials {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
			c := exec.CommandContext(ctx, binary, append([]string{"-test.timeout=18m"}, trial.args...)...)
			c.Dir = here
			out, err := c.CombinedOutput()
			late := ctx.Err() != nil
			cancel()
			if bytes.Contains(out, []byte("panic: test timed out")) || late {
				t.Errorf("%s: %s takes too long to say anything", m.name, trial.name)
				continue
			}
			if err != nil {
				by = append(by, trial.name)
				counts[trial.name]++
				t.Logf("%s: %s says %s", m.name, trial.name, firstWords(string(out)))
			}
		}
		if len(by) == 0 {
			alive++
			t.Errorf("%s: nobody notices that %q is gone", m.name, m.guard)
		}
		lines = append(lines, strings.Join([]string{"| " + m.guard, m.name, strings.Join(by, ", ") + " |"}, " | "))
		os.Remove(binary)
	}
	t.Logf("%d mutants, %d alive; noticed by %v\n\n| Guard | Without it | Noticed by |\n|---|---|---|\n%s", len(lines), alive, counts, strings.Join(lines, "\n"))
}

// sources are the changed files of a mutant.
func (m mutant) sources(here string) (map[string]string, error) {
	sources := map[string]string{}
	for _, e := range m.edits {
		if _, ok := sources[e.file]; !ok {
			b, err := os.ReadFile(filepath.Join(here, e.file))
			if err != nil {
				return nil, err
			}
			sources[e.file] = string(b)
		}
		if n := strings.Count(sources[e.file], e.from); n != 1 {
			return nil, fmt.Errorf("%s: the guard stands %d times in %s, want once:\n%s", m.name, n, e.file, e.from)
		}
		sources[e.file] = strings.Replace(sources[e.file], e.from, e.to, 1)
	}
	return sources, nil
}

// writeMutants writes, for each mutant, an overlay of its name to a directory.
func writeMutants(t *testing.T, to string) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants() {
		dir := filepath.Join(to, strings.ReplaceAll(m.name, " ", "-"))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := m.overlay(here, dir); err != nil {
			t.Error(err)
		}
	}
}

// overlay writes a mutant's changed files to a directory, and the list by which the
// go command takes them in place of the shipped ones.
func (m mutant) overlay(here, dir string) (list string, err error) {
	sources, err := m.sources(here)
	if err != nil {
		return "", err
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for file, text := range sources {
		name := filepath.Join(dir, file)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(here, file)] = name
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list = filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, b, 0o600)
}

// build makes the test binary of a mutant.
func build(here, dir string, m mutant) (string, error) {
	list, err := m.overlay(here, dir)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "mutant")
	c := exec.Command("go", "test", "-c", "-overlay", list, "-o", binary, ".")
	c.Dir = here
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: build: %w\n%s", m.name, err, out)
	}
	return binary, nil
}

// firstWords is what a failed test says first.
func firstWords(out string) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.Contains(line, "_test.go:") && !strings.Contains(line, " states, ") && !strings.Contains(line, " worlds, ") {
			return line[:min(len(line), 150)]
		}
	}
	return "that it failed"
}
