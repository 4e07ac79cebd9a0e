package recommend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// run reads and measures, with all methods.
func run(t testing.TB, content string, change func(*Config)) *Outcome {
	t.Helper()
	l, _, err := Read(context.Background(), file(t, content), DefaultReading(), eval.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := small()
	if change != nil {
		change(&cfg)
	}
	o, err := Run(context.Background(), l, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// small is the default configuration for small logs.
func small() Config {
	c := DefaultConfig()
	c.Methods, c.Resamples = Methods(), 100
	return c
}

// of is the result of a method.
func of(t testing.TB, o *Outcome, m Method) Result {
	t.Helper()
	for _, r := range o.Results(true) {
		if r.Method == m {
			return r
		}
	}
	t.Fatalf("no result of %s", m)
	return Result{}
}

// Figures by hand: ranks 1, 3, none and 20 in two sessions.
func TestMeasures(t *testing.T) {
	o := &Outcome{
		Config: Config{Baseline: VMIS, Resamples: 100, Methods: []Method{Hybrid}}, Log: &Log{Timed: true},
		cases: []one{{session: 1, prefix: 1}, {session: 1, prefix: 2, repeat: true}, {session: 2, prefix: 1, young: true}, {session: 2, prefix: 2}},
		tallies: []*tally{
			{method: Hybrid, rank: []uint8{1, 3, 0, 20}, micros: []float32{4, 1, 3, 2}, shown: []bool{true, false, true}},
			{method: VMIS, rank: []uint8{2, 0, 0, 0}, micros: []float32{1, 1, 1, 1}, shown: []bool{true, false, false}},
		},
		known: 4,
	}
	got := of(t, o, Hybrid)
	close := cmpopts.EquateApprox(0, 1e-12)
	want := map[string]float64{
		"hr": .75, "mrr": (1 + 1./3 + 1./20) / 4, "ndcg": (1 + 1/math.Log2(4) + 1/math.Log2(21)) / 4, "coverage": .5,
		"discovery hr": 2. / 3, "discovery mrr": (1 + 1./20) / 3, "repeat hr": 1, "young hr": 0,
		"p50": 2, "p99": 4, "hr against": .5, "mrr against": (.5 + 1./3 + 1./20) / 4,
	}
	have := map[string]float64{
		"hr": float64(got.HR20), "mrr": float64(got.MRR20), "ndcg": float64(got.NDCG20), "coverage": float64(got.Coverage),
		"discovery hr": float64(got.Discovery.HR20), "discovery mrr": float64(got.Discovery.MRR20), "repeat hr": float64(got.Repeat.HR20), "young hr": float64(got.Young.HR20),
		"p50": float64(got.Kernel.P50), "p99": float64(got.Kernel.P99), "hr against": float64(got.Against.HR20.Value), "mrr against": float64(got.Against.MRR20.Value),
	}
	if d := cmp.Diff(want, have, close); d != "" {
		t.Error(d)
	}
	if got.Cases != 4 || got.Sessions != 2 || got.Discovery.Cases != 3 || got.Repeat.Cases != 1 || got.Young.Cases != 1 {
		t.Errorf("%+v", got)
	}
	// Sessions are resampled whole: .75 is 1 in one session and .5 in the other.
	if got.HR20CI[0] < .5 || got.HR20CI[1] > 1 {
		t.Errorf("interval %v", got.HR20CI)
	}
}

// A shop where b always follows a, and d always c.
const simple = "split,session_no,items\n" +
	"train,1,a b\ntrain,2,c d\ntrain,3,a b\ntrain,4,c d\ntrain,5,a b\ntrain,6,c d\ntrain,7,e e\ntrain,8,e a\n" +
	"test,9,a b\ntest,10,c d\ntest,11,a b\n"

func TestFindsWhatAlwaysFollows(t *testing.T) {
	for _, mode := range []Mode{Frozen, Online} {
		o := run(t, simple, func(c *Config) { c.Mode = mode })
		for _, m := range []Method{Hybrid, VMIS, VSTAN, Markov, Covisit} {
			if r := of(t, o, m); r.Cases != 3 || r.HR20 != 1 || r.MRR20 < .5 {
				t.Errorf("%s %s: %d cases, HR@20 %v MRR@20 %v", mode, m, r.Cases, r.HR20, r.MRR20)
			}
		}
	}
}

// An item that is born during the test can be found only by who goes on
// learning; the first time nobody can.
func TestOnlineLearnsWhatIsNew(t *testing.T) {
	log := "ts,session,item\n"
	at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	add := func(session string, items ...string) {
		for _, i := range items {
			at = at.Add(time.Minute)
			log += fmt.Sprintf("%s,%s,%s\n", at.Format(time.RFC3339), session, i)
		}
	}
	for k := range 30 {
		add(fmt.Sprint("s", k), "a", "b")
		at = at.Add(8 * time.Hour)
	}
	for k := range 4 {
		add(fmt.Sprint("t", k), "a", "new")
	}
	frozen := of(t, run(t, log, func(c *Config) { c.Mode = Frozen }), Hybrid)
	online := of(t, run(t, log, func(c *Config) { c.Mode = Online }), Hybrid)
	if frozen.Cases != online.Cases || frozen.Young.Cases != 4 {
		t.Fatalf("%d and %d cases, %d young", frozen.Cases, online.Cases, frozen.Young.Cases)
	}
	if frozen.Young.HR20 != 0 || online.Young.HR20 != .75 {
		t.Errorf("new items: HR@20 frozen %v, online %v, want 0 and .75", frozen.Young.HR20, online.Young.HR20)
	}
}

// The current item is answered only where that is allowed.
func TestCurrentItem(t *testing.T) {
	log := "split,session_no,items\ntrain,1,a a\ntrain,2,a a\ntrain,3,b a\ntest,4,a a\n"
	for _, keep := range []bool{false, true} {
		o := run(t, log, func(c *Config) { c.KeepCurrent = keep })
		want := eval.Figure(0)
		if keep {
			want = 1
		}
		for _, m := range []Method{Hybrid, VMIS, VSTAN} {
			if r := of(t, o, m); r.HR20 != want {
				t.Errorf("keep %v, %s: HR@20 %v, want %v", keep, m, r.HR20, want)
			}
		}
	}
}

// Two runs differ in times only.
func TestSameSeedSameFigures(t *testing.T) {
	times := cmpopts.IgnoreFields(Result{}, "Kernel", "Reasons", "Update", "Learn", "Build", "Heap")
	log := random(3, 300)
	for _, mode := range []Mode{Frozen, Online} {
		set := func(c *Config) { c.Mode = mode }
		if d := cmp.Diff(run(t, log, set).Results(true), run(t, log, set).Results(true), times, cmpopts.EquateNaNs()); d != "" {
			t.Errorf("%s: %s", mode, d)
		}
	}
}

// random is a session file of a shop with a few habits.
func random(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 0))
	var b strings.Builder
	b.WriteString("split,session_no,items\n")
	for s := range n {
		split := "train"
		if s > n*4/5 {
			split = "test"
		}
		fmt.Fprintf(&b, "%s,%d,", split, s)
		i := r.IntN(50)
		for range 1 + r.IntN(8) {
			fmt.Fprintf(&b, "i%d ", i)
			i = (i + r.IntN(4)) % 50
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Small, odd and empty shops have an answer: numbers, or null where there is
// nothing to divide by.
func TestOddShops(t *testing.T) {
	for name, log := range map[string]string{
		"one item":    "split,session_no,items\ntrain,1,a\ntest,2,a a\n",
		"one session": "split,session_no,items\ntrain,1,a b c\ntest,2,a b c\n",
		"all new":     "split,session_no,items\ntrain,1,a b\ntest,2,x y z\n",
		"long":        "split,session_no,items\ntrain,1," + strings.Repeat("a b c d ", 300) + "\ntest,2," + strings.Repeat("b d ", 200) + "\n",
		"one instant": "ts,session,item,split\n2020-01-01,1,a,train\n2020-01-01,1,b,train\n2020-01-01,2,a,test\n2020-01-01,2,b,test\n",
		"early times": "ts,session,item,split\n1900-01-01,1,a,train\n1900-01-01,1,b,train\n2200-01-01,2,a,test\n2200-01-01,2,b,test\n",
		"long ids":    "split,session_no,items\ntrain,1," + strings.Repeat("x", 3000) + " b\ntest,2," + strings.Repeat("x", 3000) + " b\n",
		"carts":       "ts,session,item,split,kind\n2020-01-01,1,a,train,cart\n2020-01-01,1,a,train,order\n2020-01-02,2,a,test,cart\n2020-01-02,2,a,test,order\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, mode := range []Mode{Frozen, Online} {
				o := run(t, log, func(c *Config) { c.Mode = mode })
				var b bytes.Buffer
				if err := eval.JSON(&b, o.Results(true)...); err != nil {
					t.Fatal(err)
				}
				if n := strings.Count(b.String(), "\n"); n != len(Methods()) {
					t.Errorf("%d results", n)
				}
				if mode == Frozen || name != "one item" && name != "one instant" { // pictures take long
					continue
				}
				if _, err := o.Report(eval.Run{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// The keys are what scripts read.
func TestKeys(t *testing.T) {
	var b bytes.Buffer
	if err := eval.JSON(&b, of(t, run(t, simple, nil), Hybrid)); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"dataset", "mode", "method", "cases", "hr20", "mrr20", "ndcg20", "discovery", "kernel_us", "update_us", "heap_mb"} {
		if _, ok := got[key]; !ok {
			t.Errorf("no key %s in %s", key, b.String())
		}
	}
	for _, key := range []string{"cases", "hr20", "mrr20"} {
		if _, ok := got["discovery"].(map[string]any)[key]; !ok {
			t.Errorf("no key discovery.%s", key)
		}
	}
	for _, key := range []string{"p50", "p99", "p995"} {
		if _, ok := got["kernel_us"].(map[string]any)[key]; !ok {
			t.Errorf("no key kernel_us.%s", key)
		}
	}
}

func TestConfigReportsAllMistakes(t *testing.T) {
	c := DefaultConfig()
	c.Mode, c.Methods, c.Resamples, c.VMIS.K, c.VMIS.IDF = "sideways", nil, 1, 0, math.NaN()
	err := c.Validate()
	for _, want := range []string{"mode", "method", "resamples", "vmis-k", "vmis-idf"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func TestStopsWhenTold(t *testing.T) {
	l, _, err := Read(context.Background(), file(t, random(1, 200)), DefaultReading(), eval.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, l, small(), nil); err == nil {
		t.Error("ran to the end")
	}
}

// TestSerenade reproduces what the authors of VMIS-kNN publish for their own log
// (bolcom/serenade, README: HR@20 .6402, MRR@20 .3277 with the configuration they
// ship; .662 to .667 and .338 to .340 with the tuned one), and holds the served
// form to its bar there. Their evaluator breaks ties by hash order, hence the
// tolerance.
func TestSerenade(t *testing.T) {
	dir := os.Getenv("SILLAGE_DATA")
	if dir == "" {
		t.Skip("SKIPPED: set SILLAGE_DATA to the folder with serenade_bol_toy_clicks.csv.gz to measure quality on real sessions")
	}
	l, _, err := Read(context.Background(), filepath.Join(dir, "serenade_bol_toy_clicks.csv.gz"), DefaultReading(), eval.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method                 Method
		vmis                   VMISConfig
		hr, hrTol, mrr, mrrTol float64
	}{
		{VMIS, DefaultVMIS(), .6402, .003, .3277, .002},
		{VMIS, VMISConfig{M: 1502, K: 288, Last: 4, IDF: 1, Held: DefaultVMIS().Held}, .6645, .0035, .339, .003},
	} {
		cfg := small()
		cfg.Methods, cfg.VMIS = []Method{c.method}, c.vmis
		o, err := Run(context.Background(), l, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := of(t, o, c.method)
		t.Logf("%s %+v: %d cases, HR@20 %.4f MRR@20 %.4f", c.method, c.vmis, r.Cases, r.HR20, r.MRR20)
		if r.Cases != 931 || math.Abs(float64(r.HR20)-c.hr) > c.hrTol || math.Abs(float64(r.MRR20)-c.mrr) > c.mrrTol {
			t.Errorf("want 931 cases, HR@20 %.4f within %.4f, MRR@20 %.4f within %.4f", c.hr, c.hrTol, c.mrr, c.mrrTol)
		}
	}
	for _, mode := range []Mode{Frozen, Online} {
		cfg := small()
		cfg.Methods, cfg.Mode = []Method{Hybrid}, mode
		o, err := Run(context.Background(), l, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := of(t, o, Hybrid)
		t.Logf("hybrid, %s: HR@20 %.4f MRR@20 %.4f", mode, r.HR20, r.MRR20)
		if r.HR20 < .675 || r.MRR20 < .38 {
			t.Errorf("hybrid, %s: HR@20 %.4f MRR@20 %.4f, want at least .675 and .38", mode, r.HR20, r.MRR20)
		}
	}
}

// FuzzRead takes any file: no panic, and no result that is not a number.
func FuzzRead(f *testing.F) {
	f.Add([]byte(simple))
	f.Add([]byte("ts,session,item,split\n1590000100,2,c,test\n1590000000,1,a,train\n1590000300,2,d,test\n"))
	f.Add([]byte("date;user;product;event\n2020-01-01;7;a;view\n2020-01-01;7;b;cart\n2020-03-01;7;b;buy\n2020-03-01;7;a;buy\n"))
	cfg := small()
	cfg.Index.MaxItems, cfg.Index.MaxSessions = 100, 50
	f.Fuzz(func(t *testing.T, content []byte) {
		r := DefaultReading()
		r.Hold = 1 + len(content)%5*10 // in memory or not
		l, _, err := Read(context.Background(), file(t, string(content)), r, eval.Options{})
		if err != nil {
			return
		}
		defer l.Close()
		if l.Clicks > 2000 {
			return
		}
		for _, mode := range []Mode{Frozen, Online} {
			cfg.Mode = mode
			o, err := Run(context.Background(), l, cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range o.Results(true) {
				if !r.HR20.Defined() || !r.MRR20.Defined() || r.HR20 < r.MRR20 || r.HR20 > 1 {
					t.Errorf("%s %s: %+v", mode, r.Method, r)
				}
			}
		}
	})
}
