package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sillage-io/sillage/libs/topics"
	"github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/internal/lab"
)

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
// process is killed (or told to stop) in the middle, again and again, also on a real broker and
// store and one service at a time; and with another number of partitions. State has to be the fold of the
// log, and alerts and signals the same: with models that are pinned, because two runs learn at different
// moments. Where they learn, state and effects have to be those of the log all the same.
func TestKilledAgainAndAgain(t *testing.T) {
	file := lab.History(t, 12_000)
	replay := []string{"replay", "uci-online-retail", file, "--shop", "shop", "--stock", "simulate"}
	outcome := func(s *system) effects {
		s.run("verify", "--models", "pinned")
		return effects{s.ids("churn.alerts.v1"), s.ids("restock.signals.v1")}
	}

	calm := newSystem(t, "--models", "pinned")
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

	killed := func(t *testing.T, s *system, judge func(*testing.T, *system)) {
		t.Helper()
		s.start()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		// Slow enough that the kills fall into the middle.
		c := s.command(ctx, append(slices.Clip(replay), "--speed", "2500000")...)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(3, 4))
		for i := range 4 + len(s.processes) {
			time.Sleep(time.Duration(800+random.IntN(1200)) * time.Millisecond)
			victim := s.processes[random.IntN(len(s.processes))]
			if i%4 == 2 {
				victim.Stop() // under load: what is in hand is finished
			} else {
				victim.Kill()
			}
			victim.Start()
		}
		if err := c.Wait(); err != nil {
			t.Fatalf("replay: %v\n%s", err, out.String())
		}
		checkNumbers(t, out.String())
		judge(t, s)
		s.stop()
	}
	same := func(t *testing.T, s *system) {
		t.Helper()
		if d := cmp.Diff(want, outcome(s)); d != "" {
			t.Errorf("killed differs (-calm +killed):\n%s", d)
		}
	}
	t.Run("killed", func(t *testing.T) { killed(t, newSystem(t, "--models", "pinned"), same) })
	t.Run("real", func(t *testing.T) { killed(t, newRealSystem(t, "--models", "pinned"), same) })
	t.Run("real and apart", func(t *testing.T) { killed(t, newApartSystem(t, "--pinned"), same) })
	t.Run("learning", func(t *testing.T) { killed(t, newSystem(t), hasLearnt) })
	t.Run("learning apart", func(t *testing.T) { killed(t, newApartSystem(t), hasLearnt) })

	t.Run("replay killed", func(t *testing.T) {
		s := newSystem(t, "--models", "pinned")
		s.start()
		for _, after := range []time.Duration{time.Second, 1500 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			_ = s.command(ctx, append(slices.Clip(replay), "--speed", "4000000")...).Run() // killed: that is the point
			cancel()
		}
		checkNumbers(t, s.run(replay...))
		if d := cmp.Diff(want, outcome(s)); d != "" {
			t.Errorf("a replay that was killed differs (-calm +killed):\n%s", d)
		}
		s.stop()
	})

	t.Run("cut logs", func(t *testing.T) { cut(t, replay, want) })

	t.Run("two partitions", func(t *testing.T) {
		s := newSystem(t, "--partitions", "2", "--models", "pinned")
		s.start()
		checkNumbers(t, s.run(replay...))
		if d := cmp.Diff(want, outcome(s)); d != "" {
			t.Errorf("another number of partitions differs (-4 +2):\n%s", d)
		}
		s.stop()
	})
}

// hasLearnt: what the shop taught has decided, and stands in the log for who folds it again.
func hasLearnt(t *testing.T, s *system) {
	t.Helper()
	s.run("verify")
	alerts := s.run("tail", "churn.alerts.v1", "--from", "start", "--until", "end", "--json")
	versions := map[string]int{}
	for _, v := range regexp.MustCompile(`"model_version":"([^"]*)"`).FindAllStringSubmatch(alerts, -1) {
		versions[v[1]]++
	}
	if len(versions) < 2 || len(versions) == 2 && versions[churn.ShippedVersion] > 0 {
		t.Errorf("alerts by model: %v; want several that were learnt", versions)
	}
	if layers := strings.Count(s.run("tail", "supply.v1", "--from", "start", "--until", "end", "--json"), topics.TypeRestockLayer); layers == 0 {
		t.Error("no layer was broadcast")
	}
}

// cut replays on a disk that is too small for the log: it is cut behind the
// readers while it grows, callers wait where it is not fast enough, and the
// effects are the same. What was learnt is still there after a restart, from
// bases and what is left of the log; without the bases it is built of what is
// left, and said to be incomplete.
func cut(t *testing.T, replay []string, want effects) {
	t.Helper()
	s := newSystem(t, "--models", "pinned", "--disk-limit", "6", "--base-every", "500ms")
	s.start()
	checkNumbers(t, s.run(replay...))
	got := func() effects { return effects{s.ids("churn.alerts.v1"), s.ids("restock.signals.v1")} }
	if d := cmp.Diff(want, got()); d != "" {
		t.Errorf("on a small disk (-calm +cut):\n%s", d)
	}
	// More of it, as another shop, until the first one's events are gone.
	for i := 0; s.starts("events.v1") == 0; i++ {
		if i == 20 {
			t.Fatal("the log has never been cut")
		}
		checkNumbers(t, s.run("replay", replay[1], replay[2], "--shop", fmt.Sprintf("other-%d", i)))
		time.Sleep(3 * time.Second)
	}
	folded := func() string {
		out := s.run("status", "--json")
		var status struct {
			Processors []struct {
				Processor string
				Status    struct{ Counts struct{ Folded int64 } }
			}
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			t.Fatal(err)
		}
		counts := map[string]int64{}
		for _, p := range status.Processors {
			counts[p.Processor] += p.Status.Counts.Folded
		}
		return fmt.Sprint(counts)
	}
	log, err := os.ReadFile(s.processes[0].Log)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte(`"msg":"disk limit","reached":true`)) {
		// A slow sender may never meet a full disk; that the collector refuses then
		// is shown by its own tests.
		t.Logf("the log was cut in time, the disk was never full:\n%s", log)
	}
	before := folded()
	if out := s.run("verify", "--models", "pinned"); !strings.Contains(out, "equal since") {
		t.Errorf("verify does not say from where on:\n%s", out)
	}
	s.stop()
	s.start()
	if after := folded(); after != before {
		t.Errorf("folded %s after a restart, %s before", after, before)
	}
	s.run("verify")
	s.stop()

	if err := os.RemoveAll(filepath.Join(s.dir, "bases")); err != nil {
		t.Fatal(err)
	}
	s.start()
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(s.run("status"), "INCOMPLETE since") {
		if time.Now().After(deadline) {
			t.Fatalf("without its bases the state is not said to be incomplete:\n%s", s.run("status"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.stop()
}
