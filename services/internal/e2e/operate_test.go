package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	"github.com/sillage-io/sillage/services/internal/lab"
)

// runbook is the entries of docs/RUNBOOK.md: their commands, by heading.
func runbook(t *testing.T) (headings []string, commands map[string][]string, text map[string]string) {
	t.Helper()
	data, err := os.ReadFile("../../../docs/RUNBOOK.md")
	if err != nil {
		t.Fatal(err)
	}
	commands, text = map[string][]string{}, map[string]string{}
	heading, inside := "", false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "## "):
			heading = strings.TrimPrefix(line, "## ")
			headings = append(headings, heading)
		case strings.HasPrefix(line, "```"):
			inside = line == "```sh"
		case inside:
			commands[heading] = append(commands[heading], line)
		}
		text[heading] += line + "\n"
	}
	return headings, commands, text
}

// argument is a word of a command line, or one in quotes.
var argument = regexp.MustCompile(`"[^"]*"|\S+`)

// typed runs a command of the runbook, with what its capitals stand for.
func (s *system) typed(line string, stand map[string]string) (string, error) {
	s.t.Helper()
	args := argument.FindAllString(line, -1)
	if args[0] != "sillage" {
		s.t.Fatalf("%q is no command of sillage", line)
	}
	args = args[1:]
	for i := range args {
		args[i] = strings.Trim(args[i], `"`)
		if v, ok := stand[args[i]]; ok {
			args[i] = v
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	c := s.command(ctx, args...)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", line, err, out, errs.String())
	}
	return string(out), err
}

// must runs a command that succeeds.
func (s *system) must(line string, stand map[string]string) string {
	s.t.Helper()
	out, err := s.typed(line, stand)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// client speaks with the system's broker.
func (s *system) client() *broker.Client {
	s.t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Brokers = []string{s.kafka}
	client, err := broker.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	return client
}

func (s *system) store() *state.Store {
	s.t.Helper()
	cfg := state.DefaultConfig()
	cfg.Addrs = []string{s.redis}
	store, err := state.Open(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { store.Close() })
	return store
}

// poison appends a record that profile cannot fold.
func (s *system) poison() {
	s.t.Helper()
	client := s.client()
	producer := client.NewSharedProducer()
	defer producer.Close(context.Background())
	v, err := proto.Marshal(&eventv1.Event{MessageId: "poison", Shop: "somebody-else", EventTimeMs: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := producer.Produce(s.t.Context(), []record.Out{{Topic: topics.Events, Partition: record.ByKey, Key: []byte("shop/d"), Value: v, Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte("poison")}, {Key: record.HeaderType, Value: []byte(step.TypeEvent)}, {Key: "x-own", Value: []byte("kept")},
	}}}); err != nil {
		s.t.Fatal(err)
	}
}

// eventually runs a command until it says what is expected.
func (s *system) eventually(line, want string) {
	s.t.Helper()
	var out string
	expected := regexp.MustCompile(want)
	for range 300 {
		out, _ = s.typed(line, nil)
		if expected.MatchString(out) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Fatalf("%s never says %q:\n%s", line, want, out)
}

// settled waits until all partitions run and speak, and status says none of these.
func (s *system) settled(nor ...string) {
	s.t.Helper()
	var out string
	for range 300 {
		out = s.must("sillage status", nil)
		if !slices.ContainsFunc(append(nor, "silent", "claiming", "halted"), func(bad string) bool { return strings.Contains(out, bad) }) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Errorf("it does not settle:\n%s", out)
}

var restockTags = []string{"restock.products.0", "restock.products.1", "restock.products.2", "restock.products.3"}

// spoil changes an entity of restock behind its owner's back.
func (s *system) spoil() {
	s.t.Helper()
	store := s.store()
	for n := range 400 {
		tag := restockTags[n%len(restockTags)]
		held, err := store.Dump(s.t.Context(), tag, state.Buckets)
		if err != nil {
			s.t.Fatal(err)
		}
		i := slices.IndexFunc(held.Entities, func(e step.Entity) bool { return e.Key != step.MetaKey })
		if i < 0 {
			continue
		}
		part := store.Partition(tag, state.Buckets)
		fence, err := part.Arm(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		e := held.Entities[i]
		e.Value = append(bytes.Clone(e.Value), 0)
		outcome, _, err := part.Apply(s.t.Context(), step.Write{Base: fence, Target: fence, Entities: []step.Entity{e}})
		part.Close()
		if err == nil && outcome == step.Applied {
			return
		}
	}
	s.t.Fatal("restock's state cannot be spoilt")
}

// gap cuts the logs up to their last records, the ticks since a snapshot among them,
// and lets the store lose all: what is folded then begins behind a gap.
func (s *system) gap() {
	s.t.Helper()
	const ticks = 100
	client := s.client()
	for _, topic := range []string{topics.Events, topics.Activity, topics.Supply} {
		for i := range int32(4) {
			start, end, err := client.Bounds(s.t.Context(), topic, i)
			if err != nil {
				s.t.Fatal(err)
			}
			if end-ticks <= start {
				continue
			}
			if err := client.Trim(s.t.Context(), topic, i, end-ticks); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	s.processes[0].Stop()
	if s.servers == nil {
		if err := os.RemoveAll(filepath.Join(s.dir, "bases")); err != nil {
			s.t.Fatal(err)
		}
	}
	s.emptied()
	s.processes[0].Start()
}

// emptied lets a real store lose all; the embedded one does so by itself.
func (s *system) emptied() {
	s.t.Helper()
	if s.servers == nil {
		return
	}
	store := s.store()
	for name, layout := range map[string]state.Layout{"profile.devices": state.PerKey, "recommender.visitors": state.PerKey, "churn.customers": state.Buckets, "restock.products": state.Buckets} {
		for i := range 4 {
			if err := store.Restore(s.t.Context(), fmt.Sprintf("%s.%d", name, i), layout, step.State{}); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// drills bring about what an entry of the runbook is for, type its commands, and
// look whether it has gone.
var drills = map[string]func(s *system, lines []string){
	"Dead letters": func(s *system, lines []string) {
		s.poison()
		s.eventually(lines[0], "profile.devices")
		var listed struct {
			Letters []struct{ ID, Reason string }
		}
		if err := json.Unmarshal([]byte(s.must(lines[0]+" --json", nil)), &listed); err != nil || len(listed.Letters) != 1 {
			s.t.Fatalf("letters %+v, %v", listed, err)
		}
		stand := map[string]string{"ID": listed.Letters[0].ID[:10], "REASON": listed.Letters[0].Reason}
		if out := s.must(lines[1], stand); !strings.Contains(out, "x-own") || !strings.Contains(out, `"message_id":"poison"`) {
			s.t.Errorf("the letter is not shown whole:\n%s", out)
		}
		if out := s.must(lines[2], stand); !strings.Contains(out, "would be put back") {
			s.t.Errorf("a dry run says:\n%s", out)
		}
		out, err := s.typed(lines[3], stand)
		if err == nil || !strings.Contains(err.Error(), "died again") || !strings.Contains(out, "put back as events.v1/") {
			s.t.Errorf("put back, says %q, %v: want that it has died again", out, err)
		}
		if out := s.must("sillage dlq list --all", nil); strings.Count(out, "profile.devices") != 2 || !strings.Contains(out, "put back by") {
			s.t.Errorf("want the first letter answered and the second open:\n%s", out)
		}
		s.must("sillage verify profile.devices", nil)
	},
	"State is not what the log says": func(s *system, lines []string) {
		s.spoil()
		if out := s.must(lines[0], nil); !strings.Contains(out, "1 of its entities were something else") {
			s.t.Errorf("a dry run says:\n%s", out)
		}
		if out, err := s.typed(lines[2], nil); err == nil {
			s.t.Errorf("verify finds nothing:\n%s", out)
		}
		if out := s.must(lines[1], nil); !strings.Contains(out, "read back and equal") {
			s.t.Errorf("rebuild says:\n%s", out)
		}
		s.must(lines[2], nil)
		s.must(lines[1]+" --drop", nil)
		s.must(lines[2], nil)
	},
	"The log has lost records before they were folded": func(s *system, lines []string) {
		dir := filepath.Join(s.t.TempDir(), "snapshot")
		s.must("sillage snapshot save "+dir, nil)
		alerts := s.ids(topics.ChurnAlerts)
		s.gap()
		s.eventually(lines[0], `silent: publishes nothing, for the log has lost records .*INCOMPLETE`)
		for _, line := range lines[1:] {
			if out := s.must(line, map[string]string{"SNAPSHOT": dir}); strings.Contains(line, "rebuild") && strings.Count(out, "it was what the log says") != 4 {
				s.t.Errorf("%s:\n%s", line, out)
			}
		}
		s.settled("INCOMPLETE")
		if again := s.ids(topics.ChurnAlerts); !slices.Equal(alerts, again) {
			s.t.Errorf("alerts %d, were %d", len(again), len(alerts))
		}
	},
	"No snapshot from before a gap": func(s *system, lines []string) {
		s.gap()
		for _, name := range []string{"profile.devices", "recommender.visitors", "churn.customers", "restock.products"} {
			s.eventually("sillage status", regexp.QuoteMeta(name)+` +3 +silent`)
		}
		for _, line := range lines {
			s.must(line, nil)
		}
		s.settled()
	},
	"The store went back, or is empty": func(s *system, lines []string) {
		s.processes[0].Kill()
		s.emptied()
		s.processes[0].Start()
		for _, line := range lines {
			s.must(line, nil)
		}
	},
	"Back up, or move to another store": func(s *system, lines []string) {
		stand := map[string]string{"NEW": filepath.Join(s.t.TempDir(), "snapshot")}
		for _, line := range lines {
			s.must(line, stand)
		}
		if out, err := s.typed("sillage snapshot restore NEW", stand); err == nil || !strings.Contains(err.Error(), "its services are running") {
			s.t.Errorf("restored under running services: %s, %v", out, err)
		}
	},
	"Before going live, and after every change of servers": func(s *system, lines []string) {
		out, err := s.typed(lines[0], nil)
		if s.servers == nil && err != nil {
			s.t.Errorf("the embedded servers are refused: %v", err)
		}
		if !strings.Contains(out, "replication factor 1") {
			s.t.Errorf("one broker is not warned of:\n%s", out)
		}
		if out, err := s.typed(lines[0]+" --production --json", nil); err == nil || !json.Valid([]byte(out)) {
			s.t.Errorf("not refused in production: %v\n%s", err, out)
		}
	},
}

// TestRunbook brings about each situation of the runbook, one after the other on
// one system with a year of a shop, and types what the runbook says.
func TestRunbook(t *testing.T) {
	headings, commands, text := runbook(t)
	run := func(t *testing.T, s *system) {
		t.Helper()
		s.start()
		s.run("replay", "uci-online-retail", lab.History(t, 3000), "--shop", "shop", "--stock", "simulate")
		for _, heading := range headings {
			drill, ok := drills[heading]
			if !ok {
				if len(commands[heading]) > 0 || !strings.Contains(text[heading], "Not run by the end-to-end tests") {
					t.Errorf("%q is not drilled, and does not say why", heading)
				}
				continue
			}
			t.Run(heading, func(t *testing.T) {
				outer := s.t
				s.t = t
				defer func() { s.t = outer }()
				drill(s, commands[heading])
			})
		}
		s.stop()
	}
	t.Run("embedded", func(t *testing.T) { run(t, newSystem(t)) })
	t.Run("real", func(t *testing.T) { run(t, newRealSystem(t)) })
	for heading := range drills {
		if !slices.Contains(headings, heading) {
			t.Errorf("there is a drill for %q, and no such entry", heading)
		}
	}
}

// TestCommandsRefuseNonsense: what cannot be meant ends with an error that says
// what could be.
func TestCommandsRefuseNonsense(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"dlq requeue", "give the ids of letters, filters, or --all"},
		{"dlq list --since yesterday", "neither a time"},
		{"dlq list --processor nobody", "there are profile.devices"},
		{"rebuild", "accepts 1 arg(s)"},
		{"speak churn.customers", `required flag(s) "from" not set`},
		{"speak churn.customers --from never", "none of now, mark, an offset"},
		{"speak churn.customers --from 12", "name it with --partition"},
		{"snapshot show .", "is no snapshot"},
		{"snapshot restore .", "is no snapshot"},
		{"snapshot save ./x nobody", "there are profile.devices"},
		{"rebuild nobody --identity-secret 0123456789abcdef", "there are profile.devices"},
		{"verify nobody --identity-secret 0123456789abcdef", "there are profile.devices"},
		{"dlq show", "accepts 1 arg(s)"},
		{"doctor --kafka 127.0.0.1:1 --redis 127.0.0.1:1", "127.0.0.1:1"},
		{"dlq list --kafka nonsense", "is not host:port"},
		{"snapshot save ./y --redis nonsense --kafka 127.0.0.1:99", "is not host:port"},
	} {
		t.Run(c.line, func(t *testing.T) {
			command := exec.CommandContext(t.Context(), filepath.Join(binaries, "sillage"), strings.Fields(c.line)...)
			command.Dir = t.TempDir()
			out, err := command.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v, says %q, want %q", err, out, c.want)
			}
		})
	}
}
