package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/sillage-io/sillage/services/internal/lab"
)

// tally is what became of the faults of one kind.
type tally struct {
	Kind      string  `json:"kind"`
	Count     int     `json:"count"`
	Lasted    float64 `json:"lasted_seconds"`            // in the mean
	Measured  int     `json:"measured"`                  // the others ran into the next fault
	Recovered float64 `json:"recovered_seconds_median"`  // from the end of the fault to the next step of everybody
	Worst     float64 `json:"recovered_seconds_longest"` //
	lasted    []time.Duration
	took      []time.Duration
}

// effect is what became of what should follow from the log.
type effect struct {
	What         string `json:"what"`
	Due          int64  `json:"due"`
	Missing      int64  `json:"missing"`
	Wrong        int64  `json:"wrong"`         // doubled, at another time, of another content, or without a cause
	RecordsAgain int64  `json:"records_again"` // equal copies, which readers drop
}

// ledger is what a run has found.
type ledger struct {
	System       string             `json:"system"`
	Versions     string             `json:"versions"`
	Seed         uint64             `json:"seed"`
	Passed       bool               `json:"passed"`
	Seconds      float64            `json:"seconds"`
	Faults       int                `json:"faults"`
	Kinds        []*tally           `json:"kinds"`
	Acknowledged int64              `json:"events_acknowledged"`
	Lost         int64              `json:"events_lost"`
	Records      int64              `json:"events_in_log"` // with those that stand there twice
	Distinct     int64              `json:"events_distinct"`
	TwiceInLog   int64              `json:"events_twice_in_log"`
	Folded       int64              `json:"events_folded"`
	Duplicates   int64              `json:"duplicates_dropped"`
	SentAgain    int64              `json:"events_sent_again"`
	Repeated     int64              `json:"calls_repeated"`
	Rejected     map[string]int64   `json:"events_rejected"`
	Refused      map[int]int64      `json:"calls_refused"`
	Poison       int64              `json:"poison_records"`
	Appended     int64              `json:"records_appended_twice"`
	Ticks        int64              `json:"ticks_of_a_wrong_clock"`
	Dead         int64              `json:"dead"`
	DeadLetters  int64              `json:"dead_letters"`
	Effects      []*effect          `json:"effects"`
	Batches      int64              `json:"idempotent_batches,omitempty"`
	BatchesTwice int64              `json:"idempotent_batches_twice"`
	Verified     int                `json:"partitions_verified"`
	Gaps         int                `json:"gaps"`
	Exits        int                `json:"processes_that_ended_by_themselves"`
	Plain        map[string]outcome `json:"producers_beside,omitempty"`

	Rewinds int64 `json:"rewinds"`

	Memory []sample `json:"memory"`

	began      time.Time
	rewound    map[string]int64 // counters as last read
	begin, end map[string]burden
	imported   map[string]bool
}

// sample is how much memory the services held at a time: it must not grow with
// time, only with what they have to remember.
type sample struct {
	Seconds      float64          `json:"seconds"`
	Acknowledged int64            `json:"events_acknowledged"`
	Resident     map[string]int64 `json:"resident"` // by process
}

// sample notes the memory in use, at most twice a minute.
func (l *ledger) sample(r *rig, acknowledged int64) {
	now := time.Since(l.began).Seconds()
	if n := len(l.Memory); n > 0 && now-l.Memory[n-1].Seconds < 30 {
		return
	}
	s := sample{Seconds: now, Acknowledged: acknowledged, Resident: map[string]int64{}}
	for _, p := range r.services {
		if b, ok := lab.Resident(p.Pid()); ok { // or it has just been killed
			s.Resident[p.Name()] = b
		}
	}
	l.Memory = append(l.Memory, s)
}

func newLedger(r *rig, seed uint64) *ledger {
	return &ledger{System: r.name, Versions: versions(r), Seed: seed, began: time.Now(), imported: map[string]bool{}, rewound: map[string]int64{}}
}

// fault notes a fault; took is below 0 where it and another one ran into each
// other.
func (l *ledger) fault(kind string, lasted, took time.Duration) {
	l.Faults++
	i := slices.IndexFunc(l.Kinds, func(k *tally) bool { return k.Kind == kind })
	if i < 0 {
		i = len(l.Kinds)
		l.Kinds = append(l.Kinds, &tally{Kind: kind})
	}
	k := l.Kinds[i]
	k.Count++
	k.lasted = append(k.lasted, lasted)
	if took >= 0 {
		k.Measured++
		k.took = append(k.took, took)
	}
}

func (l *ledger) effects(what string) *effect {
	for _, e := range l.Effects {
		if e.What == what {
			return e
		}
	}
	e := &effect{What: what}
	l.Effects = append(l.Effects, e)
	return e
}

// write prints the ledger, and leaves it as text and JSON.
func (l *ledger) write(t *testing.T, name string) {
	t.Helper()
	l.Passed, l.Seconds = !t.Failed(), time.Since(l.began).Seconds()
	for _, k := range l.Kinds {
		var sum time.Duration
		for _, d := range k.lasted {
			sum += d
		}
		k.Lasted = (sum / time.Duration(k.Count)).Seconds()
		if len(k.took) > 0 {
			slices.Sort(k.took)
			k.Recovered, k.Worst = k.took[(len(k.took)-1)/2].Seconds(), k.took[len(k.took)-1].Seconds()
		}
	}
	sort.Slice(l.Kinds, func(i, j int) bool { return l.Kinds[i].Kind < l.Kinds[j].Kind })
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text := l.text()
	t.Logf("ledger:\n%s", text)
	if err := errors.Join(os.WriteFile(name+".json", append(data, '\n'), 0o644), os.WriteFile(name+".txt", []byte(text), 0o644)); err != nil {
		t.Error(err)
	}
}

func (l *ledger) text() string {
	var b bytes.Buffer
	verdict := "passed"
	if !l.Passed {
		verdict = "FAILED"
	}
	fmt.Fprintf(&b, "chaos on %s (%s), seed %d: %s; %d faults of %d kinds in %.0f s\n\n", l.System, l.Versions, l.Seed, verdict, l.Faults, len(l.Kinds), l.Seconds)
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "fault\ttimes\tlasted s\trecovered s, median\tlongest\t")
	for _, k := range l.Kinds {
		median, worst := "-", "-"
		if k.Measured > 0 {
			median, worst = fmt.Sprintf("%.2f", k.Recovered), fmt.Sprintf("%.2f", k.Worst)
		}
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%s\t%s\t\n", k.Kind, k.Count, k.Lasted, median, worst)
	}
	t.Flush()
	fmt.Fprintf(&b, "\nevents: %d acknowledged, %d lost; %d different ones in the log (imports too), %d folded\n", l.Acknowledged, l.Lost, l.Distinct, l.Folded)
	fmt.Fprintf(&b, "repeats: %d calls sent again for want of an answer, %d events on purpose; %d events stand in the log more than once; %d records dropped as known\n", l.Repeated, l.SentAgain, l.TwiceInLog, l.Duplicates)
	fmt.Fprintf(&b, "wrong on purpose: events rejected %s, calls refused %s, poison records %d (dead letters %d), records appended once more %d, wrong ticks %d\n", byName(l.Rejected), byNumber(l.Refused), l.Poison, l.DeadLetters, l.Appended, l.Ticks)
	fmt.Fprintf(&b, "partitions equal to the offline fold: %d; rewinds %d, gaps %d; processes that ended by themselves %d\n", l.Verified, l.Rewinds, l.Gaps, l.Exits)
	if l.Batches > 0 {
		fmt.Fprintf(&b, "batches in the broker's files: %d, of them twice: %d\n", l.Batches, l.BatchesTwice)
	}
	if l.Plain != nil {
		for _, name := range slices.Sorted(maps.Keys(l.Plain)) {
			o := l.Plain[name]
			fmt.Fprintf(&b, "beside it, %s producer: %d records acknowledged, %d lost, %d twice, %d out of order\n", name, o.Acknowledged, o.Lost, o.Twice, o.Disordered)
		}
	}
	fmt.Fprintln(&b)
	t = tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "effects of, or in\tdue\tmissing\twrong or doubled\tequal copies\t")
	for _, e := range l.Effects {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t\n", e.What, e.Due, e.Missing, e.Wrong, e.RecordsAgain)
	}
	t.Flush()
	names := slices.Sorted(maps.Keys(l.end))
	fmt.Fprintln(&b)
	t = tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "process\tMiB at the beginning\tat the end\tgoroutines at the beginning\tat the end\t")
	for _, name := range names {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t\n", name, l.begin[name].Resident>>20, l.end[name].Resident>>20, l.begin[name].Goroutines, l.end[name].Goroutines)
	}
	t.Flush()
	if len(l.Memory) > 1 {
		fmt.Fprintln(&b)
		t = tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "most MiB held in\tseconds\tevents\t"+strings.Join(names, "\t")+"\t")
		const parts = 8
		for i := range min(parts, len(l.Memory)) {
			n := min(parts, len(l.Memory))
			some := l.Memory[i*len(l.Memory)/n : (i+1)*len(l.Memory)/n]
			last := some[len(some)-1]
			fmt.Fprintf(t, "part %d of %d\t%.0f\t%d\t", i+1, n, last.Seconds, last.Acknowledged)
			for _, name := range names {
				most := int64(0)
				for _, s := range some {
					most = max(most, s.Resident[name])
				}
				fmt.Fprintf(t, "%d\t", most>>20)
			}
			fmt.Fprintln(t)
		}
		t.Flush()
	}
	return b.String()
}

func byName(m map[string]int64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}

func byNumber(m map[int]int64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d: %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}
