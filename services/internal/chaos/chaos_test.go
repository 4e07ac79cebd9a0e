package chaos

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sillage-io/sillage/services/internal/lab"
)

var (
	flagSystem   = flag.String("chaos.system", "", "system to break: embedded, real, three (brokers), cluster (of the store); empty: none")
	flagFaults   = flag.Int("chaos.faults", 60, "faults to make")
	flagKinds    = flag.String("chaos.kinds", "", "expression that the names of the kinds match; empty: all")
	flagEvents   = flag.Int64("chaos.events", 0, "least number of events to be acknowledged: faults go on until then")
	flagDuration = flag.Duration("chaos.duration", 0, "least time: faults go on until then")
	flagRate     = flag.Float64("chaos.rate", 3000, "events a second")
	flagBatch    = flag.Int("chaos.batch", 100, "events a call")
	flagSeed     = flag.Uint64("chaos.seed", 1, "seed of load and faults")
	flagStore    = flag.String("chaos.store", "redis-server", "command of the store, such as a valkey-server")
	flagOut      = flag.String("chaos.out", "", "directory of ledger and logs; empty: a temporary one")
)

// binaries is the directory of the commands under test, built once.
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	code := 1
	remove := func() {}
	var err error
	if *flagSystem != "" {
		binaries, remove, err = lab.Build("github.com/sillage-io/sillage/services/cmd/...", "github.com/sillage-io/sillage/services/internal/chaos/skewed")
	}
	if err == nil && *flagSystem != "" {
		err = lab.BuildTest(filepath.Join(binaries, "plain.test"), "github.com/sillage-io/sillage/libs/stream/broker")
	}
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	remove()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// Bounds of a run. Faults on two cores beside other work take their time: what is
// measured stands in the ledger, and these only tell slow from never. Who has lost
// the store folds the log from its start, and those behind wait for that: so many
// events a second at least.
const (
	recoverWithin = 2 * time.Minute
	settleWithin  = 5 * time.Minute
	foldsAtLeast  = 10_000
	// before a fault, and, now and then, into the recovery of the one before.
	leastPause, mostPause = 100 * time.Millisecond, 1200 * time.Millisecond
	overlapping           = .15
)

// TestChaos is the random run: load, an import, and one fault after the other.
func TestChaos(t *testing.T) {
	if *flagSystem == "" {
		t.Skip("-chaos.system is not given: make chaos breaks all of them")
	}
	out := *flagOut
	if out == "" {
		out = t.TempDir()
	}
	name := fmt.Sprintf("%s-%d", *flagSystem, *flagSeed)
	logs := filepath.Join(out, name+".logs")
	if err := errors.Join(os.RemoveAll(logs), os.MkdirAll(logs, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d; logs are in %s; once more: go test -count=1 -timeout 2h -v -run TestChaos ./services/internal/chaos -chaos.system %s -chaos.faults %d -chaos.events %d -chaos.rate %g -chaos.batch %d -chaos.seed %d -chaos.kinds %q -chaos.out %s",
				*flagSeed, logs, *flagSystem, *flagFaults, *flagEvents, *flagRate, *flagBatch, *flagSeed, *flagKinds, out)
		}
	})
	var r *rig
	switch *flagSystem {
	case "embedded":
		r = newEmbedded(t, logs)
	case "real":
		r = newReal(t, logs, 1, clockOf(*flagSeed))
	case "three":
		r = newReal(t, logs, 3, clockOf(*flagSeed))
	case "cluster":
		r = newReal(t, logs, 1, clustered|clockOf(*flagSeed))
	default:
		t.Fatalf("-chaos.system %s is none of embedded, real, three, cluster", *flagSystem)
	}
	l := r.breakAndJudge(chosen(t, r))
	l.write(t, filepath.Join(out, name))
}

// clockOf lets every other seed have a collector whose clock is weeks behind, and
// jumps.
func clockOf(seed uint64) capability {
	if seed%2 == 0 {
		return skewed
	}
	return 0
}

// chosen are the kinds of faults that a system can have and that were asked for.
func chosen(t *testing.T, r *rig) []kind {
	t.Helper()
	want, err := regexp.Compile(*flagKinds)
	if err != nil {
		t.Fatal(err)
	}
	var all []kind
	for _, k := range kinds() {
		if r.has(k.needs) && want.MatchString(k.name) {
			all = append(all, k)
		}
	}
	if len(all) == 0 {
		t.Fatalf("no kind of fault matches %q", *flagKinds)
	}
	return all
}

// breakAndJudge makes faults, heals everything, and judges.
func (r *rig) breakAndJudge(all []kind) *ledger {
	t := r.t
	random := rand.New(rand.NewPCG(*flagSeed, 1))
	led := newLedger(r, *flagSeed)
	var keys []string
	r.key("admin", "")
	if r.has(skewed) {
		r.setClock(-60 * 24 * time.Hour)
	}
	for i := range 3 {
		keys = append(keys, r.key("secret", fmt.Sprintf("shop-%d", i)))
	}
	r.start()
	sent := newLoad("http://"+r.front.Addr, keys, 4, *flagBatch, *flagRate, *flagSeed)
	sent.enough = *flagEvents
	sent.start(t.Context())
	imported := make(chan string, 1)
	file := lab.History(t, 6000)
	go func() { imported <- r.replay(file) }()

	if _, err := r.recovered(t.Context(), recoverWithin); err != nil {
		t.Fatalf("before any fault: %v", err)
	}
	led.begin = r.burden()
	beside := r.startPlain()
	p := &poison{}
	var bag []kind
	clean := true // nothing is still recovering
	for n := 0; n < *flagFaults || sent.acked.Load() < *flagEvents || time.Since(led.began) < *flagDuration; n++ {
		if len(bag) == 0 {
			bag = append(bag, all...)
			random.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		k := bag[0]
		bag = bag[1:]
		f := &fault{rig: r, random: random, load: sent, poison: p}
		f.wait(leastPause, mostPause)
		if r.has(replicated) {
			if err := r.whole(); err != nil {
				t.Fatalf("before fault %d: %v", n, err)
			}
		}
		if r.has(clustered) {
			if err := r.steady(); err != nil {
				t.Fatalf("before fault %d: %v", n, err)
			}
		}
		made := time.Now()
		k.does(f)
		if t.Failed() {
			t.Fatalf("fault %d, %s, could not be made", n, k.name)
		}
		lasted := time.Since(made)
		if random.Float64() < overlapping {
			led.fault(k.name, lasted, -1)
			clean = false
			continue
		}
		took, err := r.recovered(t.Context(), recoverWithin+foldedWithin(sent.acked.Load()))
		if err != nil {
			t.Fatalf("fault %d, %s: %v; halted: %v", n, k.name, err, r.halts())
		}
		if !clean {
			took = -took // of two faults
		}
		clean = true
		led.fault(k.name, lasted, took)
		r.rewound(led)
		led.sample(r, sent.acked.Load())
		t.Logf("%4d %-45s lasted %6d ms, recovered in %5d ms, %d events acknowledged", n+1, k.name, lasted.Milliseconds(), max(took, -took).Milliseconds(), sent.acked.Load())
	}
	if err := r.supervise(); err != nil {
		t.Fatal(err)
	}
	sent.finish()
	led.Plain = beside.finish()
	summary := <-imported
	if err := r.settle(t.Context(), settleWithin+foldedWithin(sent.acked.Load())); err != nil {
		t.Fatalf("all is healed, and it does not come to rest: %v; halted: %v", err, r.halts())
	}
	r.judge(led, sent, p, summary)
	r.stop()
	return led
}

// foldedWithin is how long a log of so many events may take to be folded.
func foldedWithin(events int64) time.Duration {
	return time.Duration(events/foldsAtLeast) * time.Second
}

// replay imports a file, and starts again where that ends: a replay goes on where
// it was.
func (r *rig) replay(file string) string {
	var out bytes.Buffer
	for range 60 {
		out.Reset()
		c := r.command(r.t.Context(), "replay", "uci-online-retail", file, "--shop", "imported", "--stock", "simulate", "--speed", "1500000")
		c.Stdout, c.Stderr = &out, &out
		err := c.Run()
		if err == nil || r.t.Context().Err() != nil {
			return out.String()
		}
		time.Sleep(time.Second)
	}
	return out.String()
}

// settle waits until everybody has read everything that stood in the log when
// the senders had ended, and what followed from it.
func (r *rig) settle(ctx context.Context, within time.Duration) error {
	until := time.Now().Add(within)
	for range 5 { // events, what profiles did, what followed, what is learnt from that, and who reads it
		ends := map[string]int64{}
		for _, p := range processors() {
			for i := range int32(partitions) {
				_, end, err := r.bounds(ctx, p.Topic, i)
				if err != nil {
					return err
				}
				ends[p.Tag(i)] = end
			}
		}
		for {
			all, err := r.positions(ctx)
			behind := ""
			for _, a := range all {
				if a.next < ends[a.tag] {
					behind = fmt.Sprintf("%s is at %d of %d", a.tag, a.next, ends[a.tag])
				}
			}
			if err == nil && behind == "" {
				break
			}
			if time.Now().After(until) {
				return fmt.Errorf("%s (%w)", behind, errOr(err))
			}
			if err := r.supervise(); err != nil {
				return err
			}
			time.Sleep(pollEvery)
		}
	}
	return nil
}

// versions of what is broken.
func versions(r *rig) string {
	v := "embedded broker and store"
	if r.broker != nil {
		out, _ := exec.Command(*flagStore, "--version").Output()
		v = "Apache Kafka 4.3.1, " + strings.TrimSpace(string(out))
	}
	return v
}
