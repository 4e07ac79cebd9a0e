package churn

import (
	"bufio"
	"compress/gzip"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// buyer is what one customer of a data set did, by day since the set's first.
type buyer struct {
	days   []int
	spends []float64 // of each day
}

// rows returns the rows of a data file, or skips the test and says why.
func rows(t testing.TB, name string) [][]string {
	t.Helper()
	dir := os.Getenv("SILLAGE_DATA")
	if dir == "" {
		t.Skipf("SKIPPED: SILLAGE_DATA does not name the folder that holds %s", name)
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Errorf("close %s: %v", name, err)
		}
	}()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	lines := bufio.NewScanner(z)
	lines.Scan() // the header
	for lines.Scan() {
		out = append(out, strings.Split(lines.Text(), ","))
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// cdnow returns the buyers of CDNOW, or of its published 1/10 sample.
func cdnow(t testing.TB, sample bool) []buyer {
	t.Helper()
	start := time.Date(1997, 1, 1, 0, 0, 0, 0, time.UTC)
	byID := map[string]*buyer{}
	var ids []string
	for _, r := range rows(t, "cdnow.csv.gz") {
		id := r[1]
		if sample {
			id = r[4]
		}
		if id == "" {
			continue
		}
		at, err := time.Parse(time.DateOnly, r[0])
		if err != nil {
			t.Fatal(err)
		}
		spend, err := strconv.ParseFloat(r[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		b := byID[id]
		if b == nil {
			b = &buyer{}
			byID[id] = b
			ids = append(ids, id)
		}
		day := int(at.Sub(start).Hours() / 24)
		if n := len(b.days); n > 0 && b.days[n-1] == day {
			b.spends[n-1] += spend
			continue
		}
		b.days, b.spends = append(b.days, day), append(b.spends, spend)
	}
	sort.Strings(ids)
	out := make([]buyer, len(ids))
	for i, id := range ids {
		out[i] = *byID[id]
	}
	return out
}

// until returns the buyer's history up to and with a day, and the sum of log gaps.
func (b buyer) until(day int, perDay float64) (h History, spends []float64, logGaps float64, ok bool) {
	n := sort.SearchInts(b.days, day+1)
	if n == 0 {
		return History{}, nil, 0, false
	}
	for i := 1; i < n; i++ {
		logGaps += math.Log(float64(b.days[i]-b.days[i-1]) * perDay)
	}
	return History{n - 1, float64(b.days[n-1]-b.days[0]) * perDay, float64(day-b.days[0]) * perDay}, b.spends[:n], logGaps, true
}

func cells(buyers []buyer, day int, perDay float64) ([]Cell, float64) {
	var out []Cell
	var sum float64
	for _, b := range buyers {
		if h, _, g, ok := b.until(day, perDay); ok {
			out = append(out, Cell{h, 1})
			sum += g
		}
	}
	return out, sum
}

// bgLogLikelihood is BG/NBD (Fader, Hardie and Lee, 2005), to show that it is the
// cells that are right where MBG/NBD agrees with its published fit.
func bgLogLikelihood(p Params, cells []Cell) float64 {
	var sum float64
	for _, c := range cells {
		x := float64(c.X)
		v := lgamma(p.R+x) - lgamma(p.R) + p.R*math.Log(p.Alpha) + lgamma(p.A+p.B) + lgamma(p.B+x) - lgamma(p.B) - lgamma(p.A+p.B+x)
		a := -(p.R + x) * math.Log(p.Alpha+c.Age)
		if c.X > 0 {
			b := math.Log(p.A) - math.Log(p.B+x-1) - (p.R+x)*math.Log(p.Alpha+c.Recency)
			a = max(a, b) + math.Log1p(math.Exp(min(a, b)-max(a, b)))
		}
		sum += c.N * (v + a)
	}
	return sum
}

// TestPublishedFits holds the fits of the CDNOW sample of 39 weeks against the
// published ones, in weeks.
func TestPublishedFits(t *testing.T) {
	buyers := cdnow(t, true)
	if len(buyers) != 2357 {
		t.Fatalf("%d customers, want 2357", len(buyers))
	}
	weeks, _ := cells(buyers, 272, 1./7)
	if ll := bgLogLikelihood(Params{.243, 4.414, .793, 2.426, 1}, weeks); math.Abs(ll+9582.4) > .1 {
		t.Errorf("BG/NBD log-likelihood %.2f, want -9582.4", ll)
	}
	published := Params{.525, 6.183, .891, 1.614, 1}
	if ll := published.LogLikelihood(weeks, 0); math.Abs(ll+9582.1) > .1 {
		t.Errorf("MBG/NBD log-likelihood %.2f, want -9582.1", ll)
	}
	p, ll, err := Fit(weeks, 0, FitConfig{Center: Params{1, 1, 1, 1, 1}, MaxK: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("MBG/NBD %+v, log-likelihood %.2f", p, ll)
	for _, v := range []struct{ got, want float64 }{{p.R, .525}, {p.Alpha, 6.183}, {p.A, .891}, {p.B, 1.614}} {
		if math.Abs(v.got-v.want) > .002*max(1, v.want) {
			t.Errorf("fitted %+v, want %+v", p, published)
			break
		}
	}
	days, _ := cells(buyers, 272, 1)
	published2 := Pareto{.553, 10.577, .607, 11.677}
	if ll := published2.LogLikelihood(weeks); math.Abs(ll+9595.0) > .1 {
		t.Errorf("Pareto/NBD log-likelihood %.2f, want -9595.0", ll)
	}
	pareto, ll, err := FitPareto(days)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Pareto/NBD %+v in days, log-likelihood %.2f", pareto, ll)
	for _, v := range []struct{ got, want float64 }{{pareto.R, .553}, {pareto.Alpha / 7, 10.577}, {pareto.S, .607}, {pareto.Beta / 7, 11.677}} {
		if math.Abs(v.got-v.want) > .01*v.want {
			t.Errorf("fitted %+v, want %+v in weeks", pareto, published2)
			break
		}
	}
	var spends []Spend
	for _, b := range buyers {
		if h, s, _, ok := b.until(272, 1); ok && h.X > 0 {
			var sum float64
			for _, v := range s[1:] {
				sum += v
			}
			spends = append(spends, Spend{h.X, sum / float64(h.X), 1})
		}
	}
	v, err := FitValue(spends)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("gamma-gamma %+v of %d customers", v, len(spends))
	for _, w := range []struct{ got, want float64 }{{v.P, 6.25}, {v.Q, 3.74}, {v.Gamma, 15.44}} {
		if math.Abs(w.got-w.want) > .01*w.want {
			t.Errorf("fitted %+v, want {6.25 3.74 15.44}", v)
			break
		}
	}
}

// auc is the probability that a churner scores above a returner.
func auc(score []float64, churned []bool) float64 {
	order := make([]int, len(score))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(i, j int) bool { return score[order[i]] < score[order[j]] })
	var ranks, pos float64
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && score[order[j]] == score[order[i]] {
			j++
		}
		for _, o := range order[i:j] {
			if churned[o] {
				ranks += float64(i+j+1) / 2
				pos++
			}
		}
		i = j
	}
	return (ranks - pos*(pos+1)/2) / (pos * (float64(len(order)) - pos))
}

// TestScoreOnCDNOW scores every customer of week 39 for the next 91 days.
func TestScoreOnCDNOW(t *testing.T) {
	buyers := cdnow(t, false)
	days, logGaps := cells(buyers, 272, 1)
	one := DefaultFitConfig()
	one.MaxK = 1
	p, _, err := Fit(days, 0, one)
	if err != nil {
		t.Fatal(err)
	}
	histogram := Histogram{}
	var score []float64
	var churned []bool
	var brier float64
	for _, b := range buyers {
		h, _, _, ok := b.until(272, 1)
		if !ok {
			continue
		}
		last := b.days[h.X]
		histogram[Bin{int32(h.X), int32(b.days[0] / 7), int32(last / 7)}]++
		c := p.Score(h, 91)
		gone := len(b.days) == h.X+1 || b.days[h.X+1] > 272+91
		score, churned = append(score, c), append(churned, gone)
		y := 0.
		if gone {
			y = 1
		}
		brier += (c - y) * (c - y)
	}
	brier /= float64(len(score))
	a := auc(score, churned)
	t.Logf("%d customers, %+v: AUC %.4f, Brier %.4f", len(score), p, a, brier)
	if a < .765 || brier > .119 {
		t.Errorf("AUC %.4f, want at least .765; Brier %.4f, want at most .119", a, brier)
	}
	binned := histogram.Cells(272)
	q, _, err := Fit(binned, logGaps, DefaultFitConfig())
	if err != nil {
		t.Fatal(err)
	}
	if q.K != 1 {
		t.Errorf("Erlang order %d, want 1", q.K)
	}
	var worst float64
	for _, b := range buyers {
		if h, _, _, ok := b.until(272, 1); ok {
			worst = max(worst, math.Abs(p.Score(h, 91)-q.Score(h, 91)))
		}
	}
	t.Logf("%d bins: %+v, greatest difference of a score %.5f", len(binned), q, worst)
	if worst > .005 {
		t.Errorf("a score moves by %.5f when fitted from weekly bins", worst)
	}
}
