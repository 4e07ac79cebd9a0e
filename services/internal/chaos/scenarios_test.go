package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	"github.com/sillage-io/sillage/services/internal/lab"
)

// What cannot end well ends in a halt or in a gap that is said: each such fault
// is a scenario of its own, with what an operator does about it.

// stage is a rig with some life in it.
type stage struct {
	*rig
	sent *load
}

func newStage(t *testing.T, name string, more ...capability) *stage {
	t.Helper()
	if *flagSystem != "real" {
		t.Skip("-chaos.system is not real: scenarios need a broker and a store that are processes of their own")
	}
	logs := t.TempDir()
	if *flagOut != "" {
		logs = filepath.Join(*flagOut, "scenario-"+name+".logs")
		if err := errors.Join(os.RemoveAll(logs), os.MkdirAll(logs, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	var can capability
	for _, c := range more {
		can |= c
	}
	s := &stage{rig: newReal(t, logs, 1, can)}
	s.key("admin", "")
	if s.has(skewed) {
		s.setClock(time.Until(historyEnds))
	}
	s.sent = newLoad("http://"+s.front.Addr, []string{s.key("secret", "shop-0")}, 1, 50, 1000, *flagSeed)
	s.start()
	t.Cleanup(s.sent.client.CloseIdleConnections)
	s.live()
	return s
}

// live sends some events, and waits until all are folded.
func (s *stage) live() { s.t.Helper(); s.events(1000); s.rest() }

// events sends some events.
func (s *stage) events(n int) {
	s.t.Helper()
	from := s.sent.senders[0]
	for range n / s.sent.batch {
		body, first, bad := from.compose(s.sent.batch)
		if !s.sent.deliver(s.t.Context(), from, body, first, bad) {
			s.t.Fatalf("events are not taken: %v", s.sent.unexpected)
		}
	}
}

func (s *stage) rest() {
	s.t.Helper()
	if err := s.settle(s.t.Context(), settleWithin); err != nil {
		s.t.Fatalf("%v; halted: %v", err, s.halts())
	}
}

// service is the process of a service.
func (s *stage) service(name string) *lab.Process {
	return s.services[slices.IndexFunc(s.services, func(p *lab.Process) bool { return p.Name() == name })]
}

// until waits for something that has to come.
func (s *stage) until(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(recoverWithin); !is(); time.Sleep(pollEvery) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: never; halted: %v", what, s.halts())
		}
	}
}

// again deletes a topic and makes it again.
func (s *stage) again(topic string) {
	s.t.Helper()
	before, err := s.client.LogID(s.t.Context(), topic)
	if err == nil {
		err = lab.DeleteTopic(s.kafka[0], topic)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.until("the topic is made again", func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
		defer cancel()
		if s.command(ctx, "topics", "apply", "--partitions", fmt.Sprint(partitions)).Run() != nil {
			return false
		}
		now, err := s.client.LogID(ctx, topic)
		return err == nil && now != before
	})
}

// halted waits until partitions of a processor have halted, so many, for a
// reason.
func (s *stage) halted(processor, reason string, partitions int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%s halts, because %s", processor, reason), func() bool {
		seen := map[string]bool{}
		for _, h := range s.halts() {
			at, why, _ := strings.Cut(h, ": ")
			if strings.HasPrefix(at, processor+"/") && strings.Contains(why, reason) {
				seen[at] = true
			}
		}
		return len(seen) >= partitions
	})
}

// equal folds the log of processors offline.
func (s *stage) equal(processors ...string) {
	s.t.Helper()
	s.run(append([]string{"verify"}, processors...)...)
}

func (s *stage) standings(processor string) []stream.Standing {
	s.t.Helper()
	all, err := stream.Survey(s.t.Context(), s.client, s.state, processors())
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(st stream.Standing) bool { return st.Processor != processor })
}

// TestRetentionOvertakesAReader: what is gone unread is said, counted and flagged,
// and the reader goes on.
func TestRetentionOvertakesAReader(t *testing.T) {
	s := newStage(t, "retention")
	reader := s.service("churn")
	reader.Stop()
	s.events(1000)
	s.until("the others have read on", func() bool { return s.standings("recommender.visitors")[0].Lag() < 20 })
	for i := range int32(partitions) {
		_, end, err := s.client.Bounds(t.Context(), topics.Activity, i)
		if err == nil {
			err = s.client.Trim(t.Context(), topics.Activity, i, end-1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	reader.Start()
	s.live()
	for _, st := range s.standings("churn.customers") {
		if len(st.Status.Incomplete) == 0 {
			t.Errorf("partition %d does not say that its state is incomplete", st.Partition)
		}
	}
	text, err := get("http://" + s.admin["churn"] + "/metrics")
	if gaps := regexp.MustCompile(`(?m)^sillage_processor_gaps\S* ([1-9]\S*)`).FindAllString(text, -1); err != nil || len(gaps) != partitions {
		t.Errorf("the gaps are not counted: %v, %v", gaps, err)
	}
	if log, err := os.ReadFile(reader.Log); err != nil || bytes.Count(log, []byte("the log has lost records before they were ")) < partitions {
		t.Errorf("the log says nothing of it (%v)", err)
	}
	s.equal("profile.devices", "restock.products")
	s.stop()
}

// TestTopicMadeAgain: state of the old topic is not continued with the new one.
// The operator's way on is to drop it: then it is that of the new log, without a
// restart of anybody.
func TestTopicMadeAgain(t *testing.T) {
	s := newStage(t, "recreated")
	for _, p := range s.folding() {
		p.Stop()
	}
	s.again(topics.Activity)
	for _, p := range s.folding() {
		p.Start()
	}
	s.halted("churn.customers", "belongs to another log", partitions)
	s.halted("recommender.visitors", "belongs to another log", partitions)
	s.events(500)
	s.run("rebuild", "churn.customers", "--drop")
	s.run("rebuild", "recommender.visitors", "--drop")
	s.live()
	s.equal("churn.customers", "recommender.visitors", "restock.products")
	s.stop()
}

// TestTopicMadeAgainBehindAReader: a reader that was away while its topic was
// made again, and that finds as many records in the new one as it had read in the
// old one, does not go on as if nothing had been.
func TestTopicMadeAgainBehindAReader(t *testing.T) {
	s := newStage(t, "recreated-behind")
	away := s.service("churn")
	before := s.standings("churn.customers")
	s.service("recommender").Stop()
	away.Freeze()
	frozen := time.Now()
	s.again(topics.Activity)
	s.until("the new topic is as long as the old one", func() bool {
		s.events(200)
		for _, st := range before {
			if _, end, err := s.client.Bounds(t.Context(), st.Topic, st.Partition); err != nil || end <= st.Next+10 {
				return false
			}
		}
		return true
	})
	t.Logf("away for %v", time.Since(frozen))
	away.Thaw()
	s.halted("churn.customers", "another log", partitions)
	s.stop()
}

// TestBrokerLosesItsEnd: a broker that comes back without the end of a log is not
// followed.
func TestBrokerLosesItsEnd(t *testing.T) {
	s := newStage(t, "truncated")
	s.stop()
	s.broker.Terminate(0)
	files, err := filepath.Glob(filepath.Join(s.broker.Dir, "data", topics.Activity+"-0", "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("find the log of %s/0: %v", topics.Activity, err)
	}
	name := files[len(files)-1]
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	// Whoever stops cleanly is believed without a look: what is cut has to be read.
	err = os.Remove(filepath.Join(s.broker.Dir, "data", ".kafka_cleanshutdown"))
	if err := errors.Join(err, os.Truncate(name, info.Size()/2)); err != nil {
		t.Fatal(err)
	}
	s.broker.Start()
	s.start()
	s.events(100)
	s.halted("churn.customers", "the log", 1)
	s.halted("recommender.visitors", "the log", 1)
	s.equal("restock.products")
	s.stop()
}

// TestStoreOutOfMemory: a store that refuses writes for good halts what writes to
// it; once it has room, a restart goes on where it was.
func TestStoreOutOfMemory(t *testing.T) {
	s := newStage(t, "memory")
	if err := s.say("CONFIG SET maxmemory 1mb"); err != nil {
		t.Fatal(err)
	}
	s.events(200)
	s.halted("profile.devices", "the store refuses writes", partitions)
	if err := s.say("CONFIG SET maxmemory 0"); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.folding() {
		p.Stop()
		p.Start()
	}
	s.live()
	s.equal()
	s.stop()
}

// TestMarksLost: a processor that does not know what it has published folds and
// keeps silent, and says so, until the operator says from where on it is to speak:
// then everything is published that was not.
func TestMarksLost(t *testing.T) {
	s := newStage(t, "marks")
	p := s.service("churn")
	p.Stop()
	if err := lab.DeleteGroup(s.kafka[0], "sillage.churn.customers"); err != nil {
		t.Fatal(err)
	}
	p.Start()
	s.live()
	silent := regexp.MustCompile(`(?m)^sillage_processor_state\{.*state="silent"`)
	s.until("it says that it is silent", func() bool {
		text, err := get("http://" + s.admin["churn"] + "/metrics")
		return err == nil && len(silent.FindAllString(text, -1)) == partitions
	})
	s.run("speak", "churn.customers", "--from", "mark")
	s.until("it speaks", func() bool {
		text, err := get("http://" + s.admin["churn"] + "/metrics")
		return err == nil && len(silent.FindAllString(text, -1)) == 0
	})
	s.live()
	s.equal("churn.customers")
	s.stop()
}

// historyEnds is just behind the last order of lab.History.
var historyEnds = time.Date(2021, 1, 1, 12, 0, 0, 0, time.UTC)

// alerts counts those that are nobody's history.
func (s *stage) alerts() (live int, kinds map[string]int) {
	s.t.Helper()
	kinds = map[string]int{}
	err := s.scan(s.t.Context(), topics.ChurnAlerts, func(r *record.Record) error {
		if string(r.Header(record.HeaderHistorical)) != "1" {
			live++
			kinds[string(r.Value)[:min(len(r.Value), 120)]]++
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return live, kinds
}

// TestOutageOfDays: a shop with a history goes live, and for a month nothing is
// taken in: that is no silence of its customers. A clock that goes back by a day
// changes nothing, either.
func TestOutageOfDays(t *testing.T) {
	s := newStage(t, "outage", skewed)
	if summary := s.replay(lab.History(t, 6000)); !reconciled(summary) {
		t.Fatal(summary)
	}
	s.run("shop", "live", "imported", "--collector", "http://"+s.collector, "--data-dir", s.data())
	s.live()
	before, _ := s.alerts()
	s.taking().Kill()
	s.setClock(s.wrongBy + 30*24*time.Hour)
	s.taking().Start()
	s.live()
	if after, said := s.alerts(); after != before {
		t.Errorf("%d alerts after an outage, %d before: %v", after, before, said)
	}
	s.setClock(s.wrongBy - 24*time.Hour)
	s.live()
	s.equal()
	// The same time again, seen: then it is silence.
	s.setClock(s.wrongBy + 24*time.Hour)
	for range 200 {
		s.setClock(s.wrongBy + 50*time.Minute)
		time.Sleep(1100 * time.Millisecond)
		if after, _ := s.alerts(); after > before {
			break
		}
	}
	if after, _ := s.alerts(); after == before {
		t.Error("days of silence that was seen raise no alert: the outage has shown nothing")
	}
	s.stop()
}

// refused counts the partitions that a log says belong to another fold version.
func refused(t *testing.T, log string) int {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for line := range bytes.Lines(data) {
		var l struct{ Partition int }
		if bytes.Contains(line, []byte("another fold version")) && json.Unmarshal(line, &l) == nil {
			seen[l.Partition] = true
		}
	}
	return len(seen)
}

// TestRollingUpgrade rolls a service from one version of its fold to the next and
// back, under load. While both run, each partition is folded by one of them, which
// took it over from an owner that had left cleanly. What a crash of the next
// version has left is refused by the one before, until the next one has finished
// it.
func TestRollingUpgrade(t *testing.T) {
	s := newStage(t, "upgrade")
	next := filepath.Join(binaries, "churn-next")
	if err := lab.BuildChanged(next, "github.com/sillage-io/sillage/services/cmd/churn", "churn/churn.go", "FoldVersion: 2", "FoldVersion: 3"); err != nil {
		t.Fatal(err)
	}
	owners := func(version int) (n int) {
		for i := range int32(partitions) {
			if text, err := s.state.Fence(t.Context(), fmt.Sprintf("churn.customers.%d", i)); err == nil {
				if f, err := step.ParseFence(text); err == nil && f.FoldVersion == version && !f.Released {
					n++
				}
			}
		}
		return n
	}
	old := s.service("churn")
	s.until("the version before has all", func() bool { return owners(2) == partitions })
	newer := s.twin(old, "churn-next")
	newer.Start()
	s.until("each version has its share", func() bool { s.events(50); return owners(3) > 0 && owners(2) > 0 })
	s.live()
	if found := s.halts(); len(found) > 0 {
		t.Errorf("halted in the mixed window: %v", found)
	}

	// A crash of the next version.
	left := owners(3)
	newer.Kill()
	s.until("the version before refuses what a crash of the next one has left", func() bool { return refused(t, old.Log) >= left })
	s.events(200)
	newer.Start()
	old.Stop()
	s.until("the next version has finished what it had left, and has all", func() bool { s.events(50); return owners(3) == partitions })
	s.live()

	// And back.
	newer.Stop()
	old.Start()
	s.until("the version before has all again", func() bool { s.events(50); return owners(2) == partitions })
	s.live()
	s.equal()
	s.stop()
}
