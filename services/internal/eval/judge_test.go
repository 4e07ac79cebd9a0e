package eval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/color"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An interval that holds the truth less often than it says is worth nothing:
// sessions of a known hit rate are drawn many times over, with cases that depend
// on each other inside a session. With 400 trials the share that hold the truth
// lies within .95 +- .033 with 99.8 % probability; percentile intervals of 150
// units are known to be slightly short.
func TestIntervalsHoldTheTruth(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	const trials, sessions = 400, 150
	var mean, ratio, statistic int
	for trial := range trials {
		var diffs, hits, cases []float64
		for range sessions {
			p := r.Float64() // the session's own rate; .5 on average
			n := float64(1 + r.IntN(6))
			h := 0.0
			for range int(n) {
				if r.Float64() < p {
					h++
				}
			}
			hits, cases = append(hits, h), append(cases, n)
			diffs = append(diffs, r.ExpFloat64()-.8) // skewed, mean .2
		}
		holds := func(i Interval, truth float64) int {
			if float64(i.Low) <= truth && truth <= float64(i.High) {
				return 1
			}
			return 0
		}
		mean += holds(Bootstrap(300, uint64(trial), diffs), .2)
		ratio += holds(BootstrapRatio(300, uint64(trial), hits, cases), .5)
		statistic += holds(BootstrapStatistic(300, uint64(trial), sessions, func(times []int) float64 {
			a, b := 0.0, 0.0
			for i, n := range times {
				a += float64(n) * hits[i]
				b += float64(n) * cases[i]
			}
			return a / b
		}), .5)
	}
	for name, n := range map[string]int{"mean": mean, "ratio": ratio, "statistic": statistic} {
		if share := float64(n) / trials; share < .91 || share > .985 {
			t.Errorf("%s: %.3f of the intervals hold the truth, want about .95", name, share)
		}
	}
}

func TestIntervalsOfLittle(t *testing.T) {
	if i := Bootstrap(100, 1, nil); i.Value.Defined() || i.Low.Defined() {
		t.Errorf("of nothing: %+v", i)
	}
	if i := Bootstrap(100, 1, []float64{.5}); i != (Interval{.5, .5, .5}) {
		t.Errorf("of one: %+v", i)
	}
	if a, b := Bootstrap(100, 1, []float64{1, 2, 3}), Bootstrap(100, 1, []float64{1, 2, 3}); a != b {
		t.Errorf("the same seed gives %+v and %+v", a, b)
	}
	if i := BootstrapRatio(100, 1, []float64{1, 0}, []float64{1, 0}); !i.High.Defined() || i.Value != 1 {
		t.Errorf("of a unit without cases: %+v", i)
	}
}

func TestFiguresInJSON(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, map[string]Figure{"a": .123456789, "b": Figure(math.NaN()), "c": Figure(math.Inf(1)), "d": 60858}); err != nil {
		t.Fatal(err)
	}
	if want := `{"a":0.1234568,"b":null,"c":null,"d":60858}` + "\n"; b.String() != want {
		t.Errorf("%s, want %s", b.String(), want)
	}
	var back map[string]Figure
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back["b"].Defined() || back["d"] != 60858 {
		t.Errorf("%v %v", back, err)
	}
}

// samplePlots are one plot of each kind, and what is hard to draw.
func samplePlots() []Plot {
	x := []float64{1, 2, 3, 4, 5, 6}
	return []Plot{
		{Name: "lines", Title: "Lines with a band", X: "prefix length", Y: "HR@20", Lines: []Line{
			{Label: "hybrid", X: x, Y: []float64{.5, .55, .56, .57, .6, .58}, Low: []float64{.49, .53, .54, .55, .57, .52}, High: []float64{.51, .57, .58, .59, .63, .64}},
			{Label: "ideal", X: x, Y: []float64{.4, .45, .5, .52, .53, .53}, Dashed: true},
		}},
		{Name: "dots", Title: "Dots on logarithmic axes", X: "x", Y: "y", LogX: true, LogY: true, Lines: []Line{{Label: "some", Points: true, X: []float64{0, 1, 10, 100, -1}, Y: []float64{1, 1, .1, .01, 5}}}},
		{Name: "time", Title: "By day", X: "day", Y: "HR@20", TimeX: true, Lines: []Line{{Label: "online", X: []float64{1306800000, 1306886400, 1306972800}, Y: []float64{.5, .6, .55}}}},
		{Name: "bars", Title: "Methods", X: "", Y: "HR@20", Categories: []string{"hybrid", "vmis", "vstan", "markov", "covisit", "popular"}, Bars: []Bars{
			{Label: "HR@20", Values: []float64{.55, .5, .52, .4, .45, .05}, Low: []float64{.54, .49, .51, .39, .44, .04}, High: []float64{.56, .51, .53, .41, .46, .06}},
			{Label: "MRR@20", Values: []float64{.2, .18, .19, .12, .14, .01}},
		}},
		{Name: "nothing", Title: "Nothing", X: "x", Y: "y", LogX: true, Lines: []Line{{Label: "none", X: []float64{math.NaN()}, Y: []float64{1}}}},
		{Name: "flat", Title: "One value", X: "x", Y: "y", Lines: []Line{{X: []float64{3}, Y: []float64{0}}}},
		{Name: "flat-log", Title: "One value", X: "x", Y: "y", LogX: true, LogY: true, Lines: []Line{{X: []float64{3, 3}, Y: []float64{2, 2}}}},
		{Name: "odd-bars", Title: "Undefined bars", X: "x", Y: "y", Categories: []string{"a", "b"}, Bars: []Bars{{Values: []float64{math.NaN()}, Low: []float64{math.Inf(1)}, High: []float64{math.NaN()}}}},
	}
}

// The page stands alone: nothing in it is loaded from elsewhere.
func TestReport(t *testing.T) {
	dir := os.Getenv("SILLAGE_REPORT_DIR") // to look at
	if dir == "" {
		dir = filepath.Join(t.TempDir(), "new", "report")
	}
	r := &Report{Title: "Title <b>", Lede: "What came out.", Run: Run{Command: "sillage eval --map 'a=b c'", Version: "v0", Seed: 3, Files: []Source{{Path: "x.csv", SHA256: "00ff", Rows: 3, Columns: []Found{{"date", "ts", "ymd"}}, Rejected: []Rejection{{"date is empty", 1, 2}}}}, Settings: []Setting{Set("k", 150)}}}
	r.Table(Grid{Caption: "Methods", Head: []string{"method", "HR@20", "what"}, Rows: [][]string{{"hybrid", ".5"}, {"vmis", "-", "control", "too much"}}, Bold: 1})
	r.Section("Plots", "As they come.")
	for _, p := range samplePlots() {
		if err := r.Plot(p); err != nil {
			t.Fatal(err)
		}
	}
	path, err := r.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Title &lt;b&gt;", "What came out.", "sillage eval --map", "00ff", "date is empty", "k</th>", "150"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, never := range []string{"http://", "https://", "src=\"/", "<script", "too much", "ZgotmplZ"} {
		if strings.Contains(string(page), never) {
			t.Errorf("the page has %q", never)
		}
	}
	if n := strings.Count(string(page), "data:image/png;base64,"); n != 2*len(samplePlots()) {
		t.Errorf("%d pictures, want each plot for light and dark", n)
	}
	for _, p := range samplePlots() {
		f, err := os.Open(filepath.Join(dir, p.Name+".png"))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := png.DecodeConfig(f)
		f.Close()
		if err != nil || cfg.Width < 1000 {
			t.Errorf("%s: %+v %v", p.Name, cfg, err)
		}
	}
}

func TestNumericCells(t *testing.T) {
	got := map[string]bool{}
	for _, c := range []string{".55", "-", "1,234", "+.003 [.001, .005]", "12 %", "hybrid", "2011-05-31", "", "5 of 6"} {
		got[c] = numeric(c)
	}
	want := map[string]bool{".55": true, "-": true, "1,234": true, "+.003 [.001, .005]": true, "12 %": true, "hybrid": false, "2011-05-31": false, "": false, "5 of 6": true}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Every curve of a plot looks like no other, by its mark and its dashes and not
// only by its colour, and stands out from the page: at least 3:1, which is what
// WCAG 2.1 asks of graphics (1.4.11).
func TestCurvesCanBeToldApart(t *testing.T) {
	linear := func(v uint8) float64 {
		c := float64(v) / 255
		if c <= .04045 {
			return c / 12.92
		}
		return math.Pow((c+.055)/1.055, 2.4)
	}
	luminance := func(c color.RGBA) float64 { return .2126*linear(c.R) + .7152*linear(c.G) + .0722*linear(c.B) }
	for name, s := range map[string]shades{"light": light(), "dark": dark()} {
		seen := map[string]int{}
		for i := range 12 {
			l := s.look(i)
			for _, key := range []string{fmt.Sprintf("%T %v", l.mark, l.mark), fmt.Sprint(l.colour, l.dashes)} {
				if j, ok := seen[key]; ok {
					t.Errorf("%s: curves %d and %d share %s", name, i, j, key)
				}
				seen[key] = i
			}
			a, b := luminance(l.colour), luminance(s.paper)
			if ratio := (max(a, b) + .05) / (min(a, b) + .05); ratio < 3 {
				t.Errorf("%s: curve %d has a contrast of %.1f", name, i, ratio)
			}
		}
	}
}
