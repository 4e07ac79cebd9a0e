package recommend

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// Part is the quality over a part of the cases.
type Part struct {
	Cases int         `json:"cases"`
	HR20  eval.Figure `json:"hr20"`
	MRR20 eval.Figure `json:"mrr20"`
}

// Latency are percentiles of the time of one answer, in microseconds.
type Latency struct {
	P50  eval.Figure `json:"p50"`
	P99  eval.Figure `json:"p99"`
	P995 eval.Figure `json:"p995"`
}

// Against compares a method with the baseline over the same cases: differences
// with their 95 % intervals, from resampling sessions.
type Against struct {
	Method Method        `json:"method"`
	HR20   eval.Interval `json:"hr20"`
	MRR20  eval.Interval `json:"mrr20"`
	NDCG20 eval.Interval `json:"ndcg20"`
}

// Result is what a method reached.
type Result struct {
	Dataset   string         `json:"dataset"`
	Mode      Mode           `json:"mode"`
	Method    Method         `json:"method"`
	Current   string         `json:"current"` // keep or drop: may the current item be recommended
	Cases     int            `json:"cases"`
	Sessions  int            `json:"sessions"`
	HR20      eval.Figure    `json:"hr20"`
	MRR20     eval.Figure    `json:"mrr20"`
	NDCG20    eval.Figure    `json:"ndcg20"`
	HR20CI    [2]eval.Figure `json:"hr20_ci95"`
	MRR20CI   [2]eval.Figure `json:"mrr20_ci95"`
	Coverage  eval.Figure    `json:"coverage20"`        // share of the items known that stood in an answer
	Discovery Part           `json:"discovery"`         // what the session had not had
	Repeat    Part           `json:"repeat"`            // what it had had
	Young     *Part          `json:"young"`             // items seen first less than 24 hours ago, or never; nil where the file has no times
	Kernel    Latency        `json:"kernel_us"`         // without reasons
	Reasons   *Latency       `json:"kernel_reasons_us"` // with reasons, of every eighth case; nil for methods that have none
	Update    eval.Figure    `json:"update_us"`         // to apply one event to the index
	Learn     eval.Figure    `json:"learn_us"`          // one step of the ranker
	Build     eval.Figure    `json:"build_s"`           // of the index over all that is learned from, as a stream
	Heap      eval.Figure    `json:"heap_mb"`           // of that index
	Against   *Against       `json:"against,omitempty"`
	Run       *eval.Run      `json:"run,omitempty"`
}

// gains are the measures of one rank.
func gains(rank uint8) (hr, mrr, ndcg float64) {
	if rank == 0 {
		return 0, 0, 0
	}
	return 1, 1 / float64(rank), 1 / math.Log2(1+float64(rank))
}

// ratio is a/b, or not defined.
func ratio(a, b float64) eval.Figure {
	if b == 0 {
		return eval.Figure(math.NaN())
	}
	return eval.Figure(a / b)
}

// part sums up the cases that are chosen.
func (o *Outcome) part(y *tally, choose func(one) bool) Part {
	var p Part
	hits, mrr := 0.0, 0.0
	for i, c := range o.cases {
		if choose(c) {
			h, m, _ := gains(y.rank[i])
			p.Cases++
			hits += h
			mrr += m
		}
	}
	p.HR20, p.MRR20 = ratio(hits, float64(p.Cases)), ratio(mrr, float64(p.Cases))
	return p
}

// bySession sums a value of cases up by session.
func (o *Outcome) bySession(value func(i int) float64) (sums, sizes []float64) {
	at := map[uint32]int{}
	for i, c := range o.cases {
		k, ok := at[c.session]
		if !ok {
			k = len(sums)
			at[c.session] = k
			sums, sizes = append(sums, 0), append(sizes, 0)
		}
		sums[k] += value(i)
		sizes[k]++
	}
	return sums, sizes
}

// tally of a method; nil where it did not run.
func (o *Outcome) tally(m Method) *tally {
	for _, y := range o.tallies {
		if y.method == m {
			return y
		}
	}
	return nil
}

// Results sums up the methods that were asked for, and with all the baseline
// too.
func (o *Outcome) Results(all bool) []Result {
	var out []Result
	for _, y := range o.tallies {
		if all || slices.Contains(o.Config.Methods, y.method) {
			out = append(out, o.result(y))
		}
	}
	return out
}

func (o *Outcome) result(y *tally) Result {
	pick := func(f func(hr, mrr, ndcg float64) float64) func(int) float64 {
		return func(i int) float64 { return f(gains(y.rank[i])) }
	}
	hr := pick(func(hr, _, _ float64) float64 { return hr })
	mrr := pick(func(_, mrr, _ float64) float64 { return mrr })
	ndcg := pick(func(_, _, ndcg float64) float64 { return ndcg })
	interval := func(value func(int) float64) eval.Interval {
		sums, sizes := o.bySession(value)
		return eval.BootstrapRatio(o.Config.Resamples, o.Config.Seed, sums, sizes)
	}
	h, m, n := interval(hr), interval(mrr), interval(ndcg)
	r := Result{
		Dataset: o.Log.Name, Mode: o.Config.Mode, Method: y.method, Current: "drop", Cases: len(o.cases),
		HR20: h.Value, MRR20: m.Value, NDCG20: n.Value, HR20CI: [2]eval.Figure{h.Low, h.High}, MRR20CI: [2]eval.Figure{m.Low, m.High},
		Discovery: o.part(y, func(c one) bool { return !c.repeat }), Repeat: o.part(y, func(c one) bool { return c.repeat }),
		Kernel: Latency{percentile(y.micros, .5), percentile(y.micros, .99), percentile(y.micros, .995)},
		Update: ratio(float64(o.cost.apply.Nanoseconds())/1000, float64(o.cost.events)), Learn: ratio(float64(o.cost.learn.Nanoseconds())/1000, float64(o.cost.steps)),
		Build: eval.Figure(o.cost.apply.Seconds()), Heap: eval.Figure(float64(o.cost.heap) / 1e6),
	}
	if len(y.full) > 0 {
		r.Reasons = &Latency{percentile(y.full, .5), percentile(y.full, .99), percentile(y.full, .995)}
	}
	if o.Config.KeepCurrent {
		r.Current = "keep"
	}
	sessions := map[uint32]bool{}
	for _, c := range o.cases {
		sessions[c.session] = true
	}
	r.Sessions = len(sessions)
	if o.Log.Timed {
		p := o.part(y, func(c one) bool { return c.young })
		r.Young = &p
	}
	shown := 0
	for _, s := range y.shown {
		if s {
			shown++
		}
	}
	r.Coverage = ratio(float64(shown), float64(o.known))
	if base := o.tally(o.Config.Baseline); base != nil && base != y {
		diff := func(f func(hr, mrr, ndcg float64) float64) eval.Interval {
			return interval(func(i int) float64 { return f(gains(y.rank[i])) - f(gains(base.rank[i])) })
		}
		r.Against = &Against{
			Method: base.method, HR20: diff(func(hr, _, _ float64) float64 { return hr }),
			MRR20: diff(func(_, mrr, _ float64) float64 { return mrr }), NDCG20: diff(func(_, _, ndcg float64) float64 { return ndcg }),
		}
	}
	return r
}

// percentile is the smallest value that a share p of all does not exceed.
func percentile(v []float32, p float64) eval.Figure {
	if len(v) == 0 {
		return eval.Figure(math.NaN())
	}
	s := slices.Sorted(slices.Values(v))
	return eval.Figure(s[min(len(s)-1, max(0, int(math.Ceil(p*float64(len(s))))-1))])
}

// Settings are all settings of a run, for its report.
func (o *Outcome) Settings(r Reading) []eval.Setting {
	c := o.Config
	out := []eval.Setting{
		eval.Set("mode", c.Mode), eval.Set("methods", c.Methods), eval.Set("baseline", c.Baseline), eval.Set("current item may be recommended", c.KeepCurrent),
		eval.Set("split", o.Log.How), eval.Set("test-split", r.TestSplit), eval.Set("gap that ends a visitor's session", r.Gap),
		eval.Set("scored sessions at most", c.Sessions), eval.Set("silence that ends a session of the file", r.Silence), eval.Set("clicks held in memory", r.Hold),
		eval.Set("VMIS-kNN", fmt.Sprintf("%+v", c.VMIS)), eval.Set("index", fmt.Sprintf("%+v", c.Index)), eval.Set("resamples", c.Resamples), eval.Set("timing", timing),
	}
	if !o.Log.Timed {
		out = append(out, eval.Set("time between two sessions, which the file does not say", r.PerSession), eval.Set("time between two clicks", r.PerClick))
	}
	return out
}

// Report makes the page.
func (o *Outcome) Report(run eval.Run) (*eval.Report, error) {
	results := o.Results(true)
	first := results[0]
	r := &eval.Report{Title: fmt.Sprintf("Recommendations on %s, %s", o.Log.Name, o.Config.Mode), Run: run}
	r.Lede = fmt.Sprintf("Over %s cases of %s sessions, %s had the next item among its first 20 in %s %% of the cases, at a mean reciprocal rank of %s.",
		group(first.Cases), group(first.Sessions), first.Method, percent(first.HR20), first.MRR20.Format(4))
	if a := first.Against; a != nil {
		r.Lede += fmt.Sprintf(" That is %s points of hit rate from %s, %s to %s with 95 %% confidence.", signed(100*a.HR20.Value, 2), a.Method, signed(100*a.HR20.Low, 2), signed(100*a.HR20.High, 2))
	}
	o.tables(r, results)
	if err := o.plots(r, results); err != nil {
		return nil, err
	}
	return r, nil
}

func percent(f eval.Figure) string { return (100 * f).Format(1) }

func signed(f eval.Figure, digits int) string {
	if f >= 0 {
		return "+" + f.Format(digits)
	}
	return f.Format(digits)
}

// group writes a whole number with separated thousands.
func group(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (o *Outcome) tables(r *eval.Report, results []Result) {
	what := "Every prefix of a scored session is a case: its items are the query, the next one is what should have been shown. All items compete, and items that nobody had seen count as misses."
	if o.Config.Mode == Online {
		what += " Each event is predicted, scored and then learned, in time order."
	} else {
		what += " All is learned from the sessions before; nothing moves during the test."
	}
	current := "The current item may be recommended."
	if !o.Config.KeepCurrent {
		current = "The current item is never recommended."
	}
	r.Section("Quality", what, "Split: "+o.Log.How+". "+current)
	g := eval.Grid{Head: []string{"method", "HR@20", "MRR@20", "NDCG@20", "coverage", "HR@20 95 %", "MRR@20 95 %"}, Bold: 1}
	for _, x := range results {
		g.Rows = append(g.Rows, []string{
			string(x.Method), x.HR20.Format(4), x.MRR20.Format(4), x.NDCG20.Format(4), x.Coverage.Format(3),
			x.HR20CI[0].Format(4) + " to " + x.HR20CI[1].Format(4), x.MRR20CI[0].Format(4) + " to " + x.MRR20CI[1].Format(4),
		})
	}
	r.Table(g)
	d := eval.Grid{Caption: "Difference from the baseline over the same cases, with the 95 % interval from resampling whole sessions", Head: []string{"method", "baseline", "HR@20", "interval", "MRR@20", "interval", "NDCG@20", "interval"}}
	for _, x := range results {
		if a := x.Against; a != nil {
			d.Rows = append(d.Rows, []string{
				string(x.Method), string(a.Method), signed(a.HR20.Value, 4), signed(a.HR20.Low, 4) + " to " + signed(a.HR20.High, 4),
				signed(a.MRR20.Value, 4), signed(a.MRR20.Low, 4) + " to " + signed(a.MRR20.High, 4), signed(a.NDCG20.Value, 4), signed(a.NDCG20.Low, 4) + " to " + signed(a.NDCG20.High, 4),
			})
		}
	}
	if len(d.Rows) > 0 {
		r.Table(d)
	}
	p := eval.Grid{Caption: "Parts of the cases: HR@20 / MRR@20", Head: []string{"method", fmt.Sprintf("discovery (%s)", group(results[0].Discovery.Cases)), fmt.Sprintf("repeat (%s)", group(results[0].Repeat.Cases))}}
	if results[0].Young != nil {
		p.Head = append(p.Head, fmt.Sprintf("items younger than 24 h (%s)", group(results[0].Young.Cases)))
	}
	both := func(p Part) string { return p.HR20.Format(4) + " / " + p.MRR20.Format(4) }
	for _, x := range results {
		row := []string{string(x.Method), both(x.Discovery), both(x.Repeat)}
		if x.Young != nil {
			row = append(row, both(*x.Young))
		}
		p.Rows = append(p.Rows, row)
	}
	r.Table(p)
	r.Section("Cost", fmt.Sprintf("Times are %s around one call, without network or store. The index holds %s items and takes %s MB; one event is applied in %s µs and learned from in %s µs; the whole history before the test was applied in %s s.",
		timing, group(o.known), results[0].Heap.Format(1), results[0].Update.Format(2), results[0].Learn.Format(1), results[0].Build.Format(2)))
	k := eval.Grid{Caption: "One answer of 20 items, in microseconds", Head: []string{"method", "p50", "p99", "p99.5"}}
	for _, x := range results {
		k.Rows = append(k.Rows, []string{string(x.Method), x.Kernel.P50.Format(1), x.Kernel.P99.Format(1), x.Kernel.P995.Format(1)})
		if f := x.Reasons; f != nil {
			k.Rows = append(k.Rows, []string{string(x.Method) + ", with reasons", f.P50.Format(1), f.P99.Format(1), f.P995.Format(1)})
		}
	}
	r.Table(k)
	var about []string
	for _, x := range results {
		about = append(about, string(x.Method)+": "+x.Method.about()+".")
	}
	r.Section("Methods", about...)
}

// longestPrefix bounds the plot by prefix: beyond it there are few cases.
const longestPrefix = 15

func (o *Outcome) plots(r *eval.Report, results []Result) error {
	bars := eval.Plot{Name: "methods", Title: "Quality by method", Y: "HR@20, MRR@20", Note: "Whiskers are 95 % intervals over sessions.", Bars: []eval.Bars{{Label: "HR@20"}, {Label: "MRR@20"}}}
	for _, x := range results {
		bars.Categories = append(bars.Categories, string(x.Method))
		bars.Bars[0].Values = append(bars.Bars[0].Values, float64(x.HR20))
		bars.Bars[0].Low, bars.Bars[0].High = append(bars.Bars[0].Low, float64(x.HR20CI[0])), append(bars.Bars[0].High, float64(x.HR20CI[1]))
		bars.Bars[1].Values = append(bars.Bars[1].Values, float64(x.MRR20))
		bars.Bars[1].Low, bars.Bars[1].High = append(bars.Bars[1].Low, float64(x.MRR20CI[0])), append(bars.Bars[1].High, float64(x.MRR20CI[1]))
	}
	prefix := eval.Plot{Name: "prefix", Title: "Hit rate by length of the session so far", X: "items so far", Y: "HR@20", Note: fmt.Sprintf("Prefixes of %d items and more are one group.", longestPrefix)}
	bin, bins := o.bins()
	day := eval.Plot{Name: "days", Title: "Hit rate over time, by " + bins, X: "time of the current item (UTC)", Y: "HR@20", TimeX: true}
	lat := eval.Plot{Name: "latency", Title: "Time of one answer", X: "microseconds (" + timing + ")", Y: "share of answers that took longer", LogX: true, LogY: true, Note: "Both axes are logarithmic: .01 is the 99th percentile."}
	rank := eval.Plot{Name: "ranks", Title: "Hit rate by length of the list", X: "items shown", Y: "hit rate", Note: "How often the next item is among the first so many."}
	for _, y := range o.tallies {
		prefix.Lines = append(prefix.Lines, o.curve(y, func(c one) float64 { return float64(min(c.prefix, longestPrefix)) }))
		day.Lines = append(day.Lines, o.curve(y, func(c one) float64 { return math.Floor(float64(c.at)/1000/bin) * bin }))
		lat.Lines = append(lat.Lines, tail(y))
		rank.Lines = append(rank.Lines, depth(y))
	}
	r.Section("Pictures")
	plots := []eval.Plot{bars, prefix, rank, lat}
	if o.Log.Timed {
		plots = append(plots, day)
	}
	for _, p := range plots {
		if err := r.Plot(p); err != nil {
			return err
		}
	}
	return nil
}

// bins are the seconds of time that a point of the plot by time stands for: days,
// or less where there are few.
func (o *Outcome) bins() (seconds float64, name string) {
	lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
	for _, c := range o.cases {
		lo, hi = min(lo, c.at), max(hi, c.at)
	}
	if hi-lo < 4*86_400_000 {
		return 3 * 3600, "periods of three hours"
	}
	return 86400, "day"
}

// curve is the hit rate by some number of the case, with a 95 % band for the
// first method.
func (o *Outcome) curve(y *tally, by func(one) float64) eval.Line {
	type sum struct{ n, hits float64 }
	sums := map[float64]*sum{}
	for i, c := range o.cases {
		s := sums[by(c)]
		if s == nil {
			s = new(sum)
			sums[by(c)] = s
		}
		h, _, _ := gains(y.rank[i])
		s.n++
		s.hits += h
	}
	l := eval.Line{Label: string(y.method)}
	for x := range sums {
		l.X = append(l.X, x)
	}
	slices.Sort(l.X)
	for _, x := range l.X {
		p, n := sums[x].hits/sums[x].n, sums[x].n
		l.Y = append(l.Y, p)
		if y == o.tallies[0] { // Wilson's interval
			const z = 1.96
			mid := (p + z*z/(2*n)) / (1 + z*z/n)
			half := z / (1 + z*z/n) * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
			l.Low, l.High = append(l.Low, mid-half), append(l.High, mid+half)
		}
	}
	return l
}

// tail is the share of answers that took longer.
func tail(y *tally) eval.Line {
	s := slices.Sorted(slices.Values(y.micros))
	l := eval.Line{Label: string(y.method)}
	n := len(s)
	for _, p := range tailShares(n) {
		l.X = append(l.X, float64(s[min(n-1, int((1-p)*float64(n)))]))
		l.Y = append(l.Y, p)
	}
	return l
}

// tailShares go from 1 down to the last answers, twenty a decade.
func tailShares(n int) (out []float64) {
	for k := 0; ; k++ {
		p := math.Pow(10, -float64(k)/20)
		if p*float64(n) < 1 {
			return out
		}
		out = append(out, p)
	}
}

// depth is the hit rate by length of the list.
func depth(y *tally) eval.Line {
	var at [top + 1]float64
	for _, r := range y.rank {
		at[r]++
	}
	l := eval.Line{Label: string(y.method)}
	hits := 0.0
	for k := 1; k <= top; k++ {
		hits += at[k]
		l.X, l.Y = append(l.X, float64(k)), append(l.Y, hits/float64(max(1, len(y.rank))))
	}
	return l
}

// Span says how long the log is, for people.
func (l *Log) Span() string {
	if !l.Timed {
		return "no times"
	}
	return l.From.Format(time.DateOnly) + " to " + l.Until.Format(time.DateOnly)
}
