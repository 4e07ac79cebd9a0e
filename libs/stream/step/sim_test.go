package step_test

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sillage-io/sillage/libs/stream/step"
)

// The simulation: worlds of two hops, two processes and all that may happen to
// them, as a function of a seed. make sim SEEDS=100000 lives through as many; a
// seed that fails is run again, shrunk to the faults that it takes, and told.
var (
	simSeeds  = flag.Uint64("sim.seeds", 300, "worlds that the simulation lives through")
	simFrom   = flag.Uint64("sim.from", 0, "first seed")
	simOne    = flag.Int64("sim.seed", -1, "live through this world only, and tell what happens")
	simShrink = flag.Bool("sim.shrink", true, "find the faults that a failure takes")
	simFaults = flag.String("sim.faults", "", "with sim.seed: turns whose faults happen, with commas; empty: all")
)

// life is what came of one world.
type life struct {
	world *world
	err   error
}

// simulate lives through the world of a seed: a file is imported, out of order and
// partly twice, while processes, stores and the coordinator fail; only says whose
// turns' faults happen (nil: all). In the end the store must be an offline fold of
// the log, and alerts and states those of a calm world with another number of
// partitions, other cuts and ticks.
func simulate(seed uint64, only map[uint64]bool, tell func(string)) life {
	f := file(seed, 25+int(seed%4)*10)
	storm := newWorld(int32(1+seed%3), seed, true)
	storm.only, storm.tell = only, tell
	storm.importFile(f, int(seed%13), true)
	err := storm.run()
	if err != nil {
		return life{storm, err}
	}
	calm := newWorld(int32(1+(seed+1)%3), seed+1000, false)
	calm.importFile(f, 10, false)
	if err := calm.run(); err != nil {
		return life{storm, fmt.Errorf("the calm world: %w", err)}
	}
	var errs []error
	if d := cmp.Diff(calm.effects(), storm.effects()); d != "" {
		errs = append(errs, fmt.Errorf("alerts differ (-calm +storm):\n%s", d))
	}
	for _, name := range []string{"devices", "customers", "fitter"} {
		if d := cmp.Diff(calm.entities(name), storm.entities(name)); d != "" {
			errs = append(errs, fmt.Errorf("%s differ (-calm +storm):\n%s", name, d))
		}
	}
	return life{storm, errors.Join(errs...)}
}

// modelled is how many customers have read a model.
func (w *world) modelled() (n uint64) {
	for _, s := range w.shares {
		for k, v := range s.store.entities {
			if s.name == "customers" && k != step.MetaKey && anyModel.Match(v) && !strings.Contains(string(v), `"Model":0`) {
				n++
			}
		}
	}
	return n
}

// shrink leaves faults out as long as the world still fails.
func shrink(seed uint64, past []happening) map[uint64]bool {
	only := map[uint64]bool{}
	for _, h := range past {
		only[h.turn] = true
	}
	for size := max(1, len(only)/2); ; size /= 2 {
		turns := make([]uint64, 0, len(only))
		for turn := range only {
			turns = append(turns, turn)
		}
		slices.Sort(turns)
		for len(turns) > 0 {
			some := turns[:min(size, len(turns))]
			turns = turns[len(some):]
			for _, turn := range some {
				delete(only, turn)
			}
			if simulate(seed, only, nil).err == nil {
				for _, turn := range some {
					only[turn] = true // it takes one of these
				}
			}
		}
		if size <= 1 {
			return only
		}
	}
}

func named(only map[uint64]bool) string {
	turns := make([]uint64, 0, len(only))
	for turn := range only {
		turns = append(turns, turn)
	}
	slices.Sort(turns)
	text := make([]string, len(turns))
	for i, turn := range turns {
		text[i] = strconv.FormatUint(turn, 10)
	}
	return strings.Join(text, ",")
}

func TestSimulation(t *testing.T) {
	if *simOne >= 0 {
		var only map[uint64]bool
		if *simFaults != "" {
			only = map[uint64]bool{}
			for text := range strings.SplitSeq(*simFaults, ",") {
				turn, err := strconv.ParseUint(text, 10, 64)
				if err != nil {
					t.Fatalf("-sim.faults: %v", err)
				}
				only[turn] = true
			}
		}
		if l := simulate(uint64(*simOne), only, func(s string) { t.Log(s) }); l.err != nil {
			t.Error(l.err)
		}
		return
	}
	n := *simSeeds
	if testing.Short() {
		n /= 5
	}
	var next, lived, turns, alerts, models atomic.Uint64
	next.Store(*simFrom)
	var mu sync.Mutex
	kinds, failed := map[string]int{}, map[uint64]life{}
	var living sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		living.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= *simFrom+n {
					return
				}
				l := simulate(seed, nil, nil)
				mu.Lock()
				for k, n := range l.world.kinds {
					kinds[k] += n
				}
				if l.err != nil {
					failed[seed] = l
				}
				enough := len(failed) > 2
				mu.Unlock()
				turns.Add(l.world.turn)
				alerts.Add(uint64(len(l.world.effects())))
				models.Add(l.world.modelled())
				lived.Add(1)
				if enough {
					return
				}
			}
		})
	}
	living.Wait()
	faults := 0
	for _, n := range kinds {
		faults += n
	}
	t.Logf("%d worlds, %d turns, %d alerts, %d customers with a model, %d faults: %v", lived.Load(), turns.Load(), alerts.Load(), models.Load(), faults, kinds)
	for seed, l := range failed {
		if !*simShrink {
			t.Errorf("seed %d: %v", seed, l.err)
			continue
		}
		only := shrink(seed, l.world.past)
		t.Errorf("seed %d: %v\nit takes these %d of %d faults; to see it:\n  go test -run 'TestSimulation$' -v ./libs/stream/step -sim.seed=%d -sim.faults=%s",
			seed, simulate(seed, only, nil).err, len(only), len(l.world.past), seed, named(only))
	}
	for _, k := range []string{
		"kill", "freeze", "rebalance", "failover", "rollback under open connections", "wipe", "fence lost", "slow source",
		"write, request lost", "write, answer lost", "write, request late",
		"append, request lost", "append, answer lost", "append, answer lost and sent again", "append, request late",
	} {
		if kinds[k] == 0 && n > 100 {
			t.Errorf("fault %q never happened", k)
		}
	}
	if models.Load() == 0 {
		t.Error("no customer ever read a model: the simulation shows nothing of them")
	}
	if alerts.Load() == 0 {
		t.Error("no alert was ever due: the simulation shows nothing")
	}
}

// TestSimulationRepeats: a seed gives the same world, step by step.
func TestSimulationRepeats(t *testing.T) {
	for seed := range uint64(5) {
		a, b := simulate(seed, nil, nil).world, simulate(seed, nil, nil).world
		if a.trace.Sum64() != b.trace.Sum64() || a.turn != b.turn {
			t.Errorf("seed %d: two runs differ (%d turns, %d turns)", seed, a.turn, b.turn)
		}
		if len(a.past) == 0 {
			t.Errorf("seed %d: nothing failed", seed)
		}
	}
}
