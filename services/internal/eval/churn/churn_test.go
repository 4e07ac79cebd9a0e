package churn

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// TestMeasuresByHand: two churners and two buyers, worked out on paper.
func TestMeasuresByHand(t *testing.T) {
	score := []float64{.9, .6, .6, .2}
	churned := []bool{true, true, false, false}
	m := measure(score, churned)
	for name, v := range map[string][2]float64{
		"AUC":     {float64(m.AUC), 3.5 / 4}, // one tie in four pairs
		"Brier":   {float64(m.Brier), (.01 + .16 + .36 + .04) / 4},
		"ECE":     {float64(m.ECE), (.1 + .2 + .2) / 4}, // tenths from .9, .6 and .2
		"flagged": {float64(m.Flagged), .75},            // both churners are needed, and the tie comes along
		"FPR":     {float64(m.FalsePos), .5},
		"lift":    {float64(m.LiftChurners), 2},
		"buyers":  {float64(m.LiftBuyers), 2},
		"mean":    {float64(m.MeanPredicted), 2.3 / 4},
	} {
		if math.Abs(v[0]-v[1]) > 1e-12 {
			t.Errorf("%s is %g, want %g", name, v[0], v[1])
		}
	}
	for name, m := range map[string]Measures{"of nobody": measure(nil, nil), "of one class": measure([]float64{.5, .7}, []bool{true, true})} {
		if m.AUC.Defined() || m.Slope.Defined() || m.Flagged.Defined() {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

// TestSlopeIsThatOfTheTruth: log-odds that are twice too bold have slope a half.
func TestSlopeIsThatOfTheTruth(t *testing.T) {
	var score []float64
	var churned []bool
	for i := range 200 {
		l := float64(i)/50 - 2
		p := 1 / (1 + math.Exp(-l))
		for k := range 100 { // as many as the probability says
			score = append(score, 1/(1+math.Exp(-2*l)))
			churned = append(churned, float64(k) < 100*p-.5)
		}
	}
	if got := slope(score, churned); math.Abs(got-.5) > .01 {
		t.Errorf("slope %g, want .5", got)
	}
}

func TestAUCCountsTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 20).Draw(t, "n")
		var score, many []float64
		var churned, more []bool
		var times []int
		for i := range n {
			p, c, k := float64(rapid.IntRange(0, 5).Draw(t, "score"))/5, rapid.Bool().Draw(t, "churned"), rapid.IntRange(0, 3).Draw(t, "times")
			if i < 2 {
				c, k = i == 0, 1
			}
			score, churned, times = append(score, p), append(churned, c), append(times, k)
			for range k {
				many, more = append(many, p), append(more, c)
			}
		}
		got, want := auc(sorted(score), score, churned, times), auc(sorted(many), many, more, nil)
		if math.Abs(got-want) > 1e-12 {
			t.Errorf("weighted %g, repeated %g", got, want)
		}
	})
}

// TestDelays: one churned silence, and returns after 5, 10, 15 and 20 days. At
// 25 % false alerts a fixed silence of 15 days is the earliest: it alerts only the
// one who comes back after 20.
func TestDelays(t *testing.T) {
	spells := []spell{{31, true}, {5, false}, {10, false}, {15, false}, {20, false}}
	fixed := func(_, d int) float64 { return float64(d) }
	mean, in := delays(spells, 30, .25, fixed)
	if mean != 15 || in != 1 {
		t.Errorf("alerted after %g days, share in time %g, want 15 and 1", mean, in)
	}
	if mean, in = delays(spells, 30, 0, fixed); mean != 20 || in != 1 {
		t.Errorf("without false alerts after %g days, want 20", mean)
	}
	blind := func(int, int) float64 { return 1 }
	if mean, _ := delays(spells, 30, .25, blind); math.Abs(mean-(.25*1+.75*30)) > 1e-9 {
		t.Errorf("by lot after %g days, want a quarter at once and the others never", mean)
	}
	knows := func(i, _ int) float64 { return map[bool]float64{true: 1, false: 0}[spells[i].churned] }
	if mean, in := delays(spells, 30, .1, knows); mean > 1+1e-9 || in != 1 {
		t.Errorf("one who knows alerts after %g days", mean)
	}
	if mean, _ := delays(spells[1:], 30, .1, fixed); !math.IsNaN(mean) {
		t.Errorf("%g days of no churned silence", mean)
	}
}

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "orders.csv")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadFollowsItsRules(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []Customer
		rejected   map[string]int64
	}{
		{"orders out of order, twice a day", "date,customer_id\n2020-03-01,b\n2020-01-01,a\n2020-03-01,b\n2020-02-01,b\n", []Customer{
			{"a", []int32{0}, []float64{0}}, {"b", []int32{31, 60}, []float64{0, 0}},
		}, nil},
		{"invoice lines", "InvoiceNo;InvoiceDate;CustomerID;Quantity;UnitPrice\n1;2020-01-01 08:00;7.0;2;1.5\n1;2020-01-01 08:00;7.0;1;4\nC2;2020-01-02 08:00;7.0;-1;4\nA3;2020-01-02 08:00;7.0;1;4\n4;2020-01-03 08:00;;1;4\n5;2020-01-05 23:59;8;0;4\n6;2020-01-05 23:59;8;1;0\n7;2020-01-05 23:59;8;1;3\n", []Customer{
			{"7", []int32{0}, []float64{7}}, {"8", []int32{4}, []float64{3}},
		}, map[string]int64{"credit note": 1, "bad debt": 1, "customer": 1, "no positive quantity": 1, "no positive price": 1}},
		{"amounts", "day,user_id,total\n2020-01-01,x,0\n2020-01-02,x,-3\n2020-01-09,x,12.50\n", []Customer{{"x", []int32{0, 8}, []float64{0, 12.5}}}, map[string]int64{"refund": 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, source, err := Read(t.Context(), write(t, tc.text), eval.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, s.Customers); d != "" {
				t.Errorf("customers (-want +got):\n%s", d)
			}
			var n int64
			for reason, rows := range tc.rejected {
				n += rows
				if !slices.ContainsFunc(source.Rejected, func(r eval.Rejection) bool { return strings.Contains(r.Reason, reason) && r.Rows == rows }) {
					t.Errorf("no %d rows rejected for %q: %+v", rows, reason, source.Rejected)
				}
			}
			if source.Rows-source.Used() != n {
				t.Errorf("%d rows rejected, want %d: %+v", source.Rows-source.Used(), n, source.Rejected)
			}
		})
	}
}

func TestLocalDays(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Skipf("SKIPPED: no time zones: %v", err)
	}
	s, _, err := Read(t.Context(), write(t, "ts,customer\n2020-06-01T22:30:00Z,a\n2020-06-02T21:30:00Z,a\n2020-06-02T22:30:00Z,a\n"), eval.Options{Location: paris})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]int32{0, 1}, s.Customers[0].Days); d != "" || s.Date(0) != "2020-06-02" {
		t.Errorf("days from %s (-want +got):\n%s", s.Date(0), d)
	}
}

func TestOrigins(t *testing.T) {
	s := &Shop{First: time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC), Days: 545}
	for name, want := range map[string]int{"272": 272, "1997-09-30": 272, "1996-12-31": -1} {
		if got, err := s.Origin(name); err != nil || got != want {
			t.Errorf("origin %s is day %d (%v), want %d", name, got, err, want)
		}
	}
	if _, err := s.Origin("30.9.1997"); err == nil {
		t.Error("an origin of another form is taken")
	}
	for _, bad := range [][2]int{{-1, 30}, {516, 30}, {100, 0}, {100, 9999}} {
		if err := s.check(bad[0], bad[1]); !errors.Is(err, ErrOrigin) {
			t.Errorf("origin %d and horizon %d: %v", bad[0], bad[1], err)
		}
	}
}

func quick(horizon int, origins ...int) Config {
	c := DefaultConfig()
	c.Horizon, c.Origins, c.Resamples = horizon, origins, 20
	return c
}

// TestAnyShopIsMeasured: whatever the history, every model answers, no score is
// NaN or outside [0, 1], and equal runs give equal results.
func TestAnyShopIsMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Shop{First: time.Unix(0, 0).UTC(), Priced: rapid.Bool().Draw(t, "priced")}
		amount := rapid.SampledFrom([]float64{0, 0, 1, 25, 1e12, 1e-9})
		for i := range rapid.IntRange(1, 12).Draw(t, "customers") {
			days := rapid.SliceOfNDistinct(rapid.Int32Range(0, 240), 1, 25, rapid.ID[int32]).Draw(t, "days")
			if rapid.IntRange(0, 4).Draw(t, "kind") == 0 {
				days = days[:1]
			}
			slices.Sort(days)
			c := Customer{ID: fmt.Sprint(i), Days: days}
			for range days {
				c.Spend = append(c.Spend, amount.Draw(t, "amount"))
			}
			s.Customers = append(s.Customers, c)
			s.Days = max(s.Days, int(days[len(days)-1]))
			s.Orders += len(days)
		}
		s.Customers[0].Days[0] = 0
		horizon := rapid.IntRange(1, 90).Draw(t, "horizon")
		if s.Days < horizon {
			return
		}
		c := quick(horizon, rapid.IntRange(0, s.Days-horizon).Draw(t, "origin"))
		c.Models = []string{Online, Streamed, MBG, Recency}
		results, err := Evaluate(t.Context(), s, c)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			for _, p := range r.scores {
				if !(p >= 0 && p <= 1) {
					t.Fatalf("%s says %g", r.Model, p)
				}
			}
			if !r.Brier.Defined() || !(r.Brier >= 0 && r.Brier <= 1) || r.Customers != len(r.scores) {
				t.Fatalf("%+v", r)
			}
		}
		var b bytes.Buffer
		if err := eval.JSON(&b, results...); err != nil || strings.Contains(b.String(), "NaN") {
			t.Fatalf("%v: %s", err, b.String())
		}
	})
}

// made is a shop of customers who come every so many days until they leave.
func made(customers, days int) *Shop {
	s := &Shop{First: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), Days: days, Priced: true}
	x := uint64(12345)
	rnd := func(n int) int { x = x*6364136223846793005 + 1442695040888963407; return int(x>>33) % n }
	for i := range customers {
		c := Customer{ID: fmt.Sprintf("%06d", i)}
		gap, stays := 5+rnd(60), rnd(12)
		for d := rnd(days / 3); d <= days; d += 1 + gap/2 + rnd(gap) {
			c.Days, c.Spend = append(c.Days, int32(d)), append(c.Spend, 5+float64(stays)*4+float64(rnd(9)))
			if rnd(12) >= stays {
				break
			}
		}
		s.Customers = append(s.Customers, c)
		s.Orders += len(c.Days)
	}
	s.Customers[0].Days[0] = 0
	return s
}

func TestEvaluateAndReport(t *testing.T) {
	s := made(300, 400)
	c := quick(60, 250, 340)
	results, err := Evaluate(t.Context(), s, c)
	if err != nil {
		t.Fatal(err)
	}
	only := c
	only.Models, only.Origins = []string{Online}, c.Origins[:1]
	again, err := Evaluate(t.Context(), s, only)
	if err != nil {
		t.Fatal(err)
	}
	var one, first, second bytes.Buffer
	if err := errors.Join(eval.JSON(&one, results...), eval.JSON(&first, results[0]), eval.JSON(&second, again...)); err != nil || first.String() != second.String() {
		t.Errorf("two runs differ (%v):\n%s\n%s", err, first.String(), second.String())
	}
	if len(results) != 10 {
		t.Fatalf("%d results, want one for each of five models and two origins", len(results))
	}
	for _, r := range results {
		if !(r.AUC > .6) || !r.Lead.Defined() || r.Model == Recency && math.Abs(float64(r.Lead)) > 1e-9 {
			t.Errorf("%s on %s: AUC %g, lead %g", r.Model, r.Origin, r.AUC, r.Lead)
		}
	}
	for at, line := range strings.Split(strings.TrimSpace(one.String()), "\n") {
		var keys map[string]any
		if err := json.Unmarshal([]byte(line), &keys); err != nil {
			t.Fatal(err)
		}
		for _, k := range []string{"customers", "base_rate", "model", "auc", "brier", "ece", "slope", "flagged_at_81", "fpr_at_81", "lead_vs_fixed"} {
			if _, ok := keys[k]; !ok {
				t.Errorf("line %d has no %s", at, k)
			}
		}
	}
	dir := t.TempDir()
	r, err := Report(eval.Run{Command: "sillage eval churn", Settings: Settings(c, s)}, s, c, results)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"calibration-250.png", "recall-340.png", "timing-340.png"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := png.Decode(bytes.NewReader(b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTrain: what is learnt from all of a history is a model that can be pinned, and
// what teaches nothing is said.
func TestTrain(t *testing.T) {
	s := made(120, 500)
	m, err := Train(t.Context(), s, "spring", quick(90))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
	if m.Params == churn.DefaultParams() || m.Learnt.Customers != len(s.Customers) || m.HorizonDays != 90 {
		t.Errorf("learnt %+v", m)
	}
	for name, s := range map[string]*Shop{"shorter than the horizon": made(20, 60), "nobody": {}} {
		if m, err := Train(t.Context(), s, "none", quick(90)); err == nil {
			t.Errorf("%s: learnt %+v", name, m)
		}
	}
}

func TestModelsAreKnown(t *testing.T) {
	c := quick(30, 100)
	c.Models = []string{"oracle"}
	if _, err := Evaluate(t.Context(), made(20, 200), c); err == nil {
		t.Error("an unknown model is measured")
	}
	if _, err := Evaluate(t.Context(), &Shop{}, quick(30, 0)); !errors.Is(err, ErrOrigin) {
		t.Errorf("a shop without orders: %v", err)
	}
}

// FuzzRead: no file breaks the reading, and what was read can be measured.
func FuzzRead(f *testing.F) {
	f.Add([]byte("date,customer,amount\n2020-01-01,a,5\n2020-05-01,a,7 EUR\n2020-09-01,b,-1\n"))
	f.Add([]byte("ts;invoice_no;customer_id;quantity;unit_price\r\n1577836800;C1;1.0;1;2,5\r\n1577836800;2;1.0;1;2,5\r\n"))
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write([]byte("date\tcustomer\n0001-01-01\tx\n9999-12-31\tx\n"))
	_ = w.Close()
	f.Add(z.Bytes())
	f.Add(z.Bytes()[:z.Len()/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _, err := Read(t.Context(), write(t, string(b)), eval.Options{})
		if err != nil {
			return
		}
		if s.Days > 5000 || len(s.Customers) > 50 {
			return
		}
		c := quick(30, max(0, s.Days-30))
		c.Models = []string{Online}
		if _, err := Evaluate(t.Context(), s, c); err != nil && !errors.Is(err, ErrOrigin) && !errors.Is(err, churn.ErrFit) {
			t.Errorf("%v", err)
		}
	})
}

// data opens a file of the public sets, or skips and says why.
func data(t *testing.T, name string) *Shop {
	t.Helper()
	dir := os.Getenv("SILLAGE_DATA")
	if dir == "" {
		t.Skipf("SKIPPED: SILLAGE_DATA does not name the folder that holds %s", name)
	}
	s, _, err := Read(t.Context(), filepath.Join(dir, name), eval.Options{})
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("SKIPPED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestPublicSets holds the figures on public sets against what published models
// reach there: lifetimes' Pareto/NBD has .7717/.1175 on CDNOW at day 272.
func TestPublicSets(t *testing.T) {
	for _, tc := range []struct {
		file            string
		origin, horizon int
		auc, base       float64 // at least
		brier, ece      float64 // at most
	}{
		{"cdnow.csv.gz", 272, 91, .776, .767, .1175, .025},
		{"cdnow.csv.gz", 363, 91, .803, .795, .1055, .02},
		{"grocery_elog.csv.gz", 364, 91, .91, .9, .0905, .035},
		{"uci_online_retail_ii_until_2011-05-31.csv.gz", 455, 90, .785, .77, .175, .09},
	} {
		t.Run(fmt.Sprintf("%s day %d", tc.file, tc.origin), func(t *testing.T) {
			c := quick(tc.horizon, tc.origin)
			c.fast, c.Models = true, []string{Online, Streamed, MBG}
			results, err := Evaluate(t.Context(), data(t, tc.file), c)
			if err != nil {
				t.Fatal(err)
			}
			online, streamed, base := results[0], results[1], results[2]
			t.Logf("online %.4f/%.4f/%.3f, streamed %.4f/%.4f/%.3f, base %.4f/%.4f/%.3f", online.AUC, online.Brier, online.ECE, streamed.AUC, streamed.Brier, streamed.ECE, base.AUC, base.Brier, base.ECE)
			if float64(online.AUC) < tc.auc || float64(base.AUC) < tc.base || float64(online.Brier) > tc.brier || float64(online.ECE) > tc.ece {
				t.Errorf("want AUC %.3f (base %.3f), Brier %.4f, ECE %.3f", tc.auc, tc.base, tc.brier, tc.ece)
			}
			if online.Brier > base.Brier+.0005 {
				t.Errorf("the correction costs %.4f", online.Brier-base.Brier)
			}
		})
	}
}
