package restock

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// noon of a day since 2024-01-01, UTC.
func noon(day int) int64 {
	return time.Date(2024, 1, 1+day, 12, 0, 0, 0, time.UTC).UnixMicro()
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*max(1, math.Abs(want))) {
		t.Errorf("%s is %.10g, want %.10g", what, got, want)
	}
}

// TestDistributionsByHand: values that can be worked out on paper or stand in
// printed tables.
func TestDistributionsByHand(t *testing.T) {
	// r = 1, p = 1/2: geometric, CDF 1 - 2^-(k+1).
	g := Demand{Mean: 1, Variance: 2}
	near(t, "geometric CDF(0)", g.CDF(0), .5, 1e-12)
	near(t, "geometric CDF(3)", g.CDF(3), 15./16, 1e-12)
	near(t, "geometric P(D>3)", g.Exceeds(3), 1./16, 1e-12)
	// r = 2, p = 1/3: CDF(1) = p² (1 + 2 (1-p)) = 7/27.
	near(t, "negative binomial CDF(1)", Demand{Mean: 4, Variance: 12}.CDF(1), 7./27, 1e-12)
	// Poisson(4) tables: .4335 at 3, .8893 at 6, .9786 at 8.
	for k, want := range map[float64]float64{3: .4335, 6: .8893, 8: .9786} {
		near(t, "Poisson(4)", Demand{Mean: 4, Variance: 4}.CDF(k), want, 5e-5)
	}
	for _, tc := range []struct {
		d    Demand
		tau  float64
		want int64
	}{{g, .49, 0}, {g, .51, 1}, {g, .93, 3}, {g, .94, 4}, {Demand{Mean: 4, Variance: 4}, .95, 8}, {Demand{Mean: 4, Variance: 4}, .5, 4}, {Demand{}, .99, 0}} {
		if got := tc.d.Quantile(tc.tau); got != tc.want {
			t.Errorf("Q(%g) of %+v is %d, want %d", tc.tau, tc.d, got, tc.want)
		}
	}
	// Gamma(2, 1): the median is 1.6783, the 90 % quantile 3.8897.
	l := LeadTime{Mean: 2, Variance: 2}
	near(t, "median lead time", l.Quantile(.5), 1.6783, 5e-5)
	near(t, "P90 lead time", l.Quantile(.9), 3.8897, 5e-5)
	// Exponential lead times have no memory: the rest is the median, ln 2.
	near(t, "rest", LeadTime{Mean: 1, Variance: 1}.Remaining(3), math.Ln2, 1e-9)
}

func TestDemandProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mean := math.Exp(rapid.Float64Range(-7, 9).Draw(t, "log mean"))
		d := Demand{Mean: mean, Variance: mean * (1 + math.Exp(rapid.Float64Range(-8, 5).Draw(t, "log dispersion")))}
		a, b := rapid.Float64Range(.001, .999).Draw(t, "tau"), rapid.Float64Range(.001, .999).Draw(t, "tau'")
		if a > b {
			a, b = b, a
		}
		low, high := d.Quantile(a), d.Quantile(b)
		if low < 0 || low > high {
			t.Fatalf("Q(%g) = %d, Q(%g) = %d", a, low, b, high)
		}
		if c := d.CDF(float64(low)); c < a-1e-6 {
			t.Errorf("CDF(Q(%g)) is %g", a, c)
		}
		if c := d.CDF(float64(low - 1)); low > 0 && c > a+1e-6 {
			t.Errorf("CDF(Q(%g) - 1) is %g: not the smallest", a, c)
		}
		var both [2]int64
		if d.Quantiles([]float64{a, b}, both[:]); both != [2]int64{low, high} {
			t.Errorf("together %v, one at a time %d and %d", both, low, high)
		}
		if sum := d.CDF(float64(low)) + d.Exceeds(float64(low)); math.Abs(sum-1) > 1e-9 {
			t.Errorf("CDF and its complement add up to %g", sum)
		}
	})
}

// TestBulkMeetsCounts: at a mean of 400 the two forms agree.
func TestBulkMeetsCounts(t *testing.T) {
	for _, tau := range []float64{.05, .5, .95, .99} {
		a, b := Demand{Mean: 400, Variance: 2000}.Quantile(tau), Demand{Mean: 400.0001, Variance: 2000}.Quantile(tau)
		if math.Abs(float64(a-b)) > 3 {
			t.Errorf("Q(%g) jumps from %d to %d", tau, a, b)
		}
	}
}

// TestUpdateByHand follows the fast expert on paper: a launch of 1 a day worth 1 day,
// 3 sold, then two empty days.
func TestUpdateByHand(t *testing.T) {
	s := DefaultSetting()
	s.Policy.LaunchDays, s.Policy.LaunchRate = 1, 1
	p := Product{known: true}
	p.sold = 3
	p.closeOne(&s)
	for k, e := range p.experts {
		if want := (expert{3, 1, 0, 0}); e != want { // how far a launch is missed is no spread
			t.Fatalf("expert %d after the launch %+v, want %+v", k, e, want)
		}
	}
	q := p
	q.sold = 5
	q.closeOne(&s)
	for k, e := range q.experts {
		d := kept(1)[k]
		rate := []float64{8. / 3, 7. / 3, 2}[k]
		near(t, "a", float64(e.a), d*3+5, 1e-6)
		near(t, "b", float64(e.b), d+1, 1e-6)
		near(t, "V", float64(e.v), (5-rate)*(5-rate), 1e-5)
		near(t, "M", float64(e.m), rate, 1e-6)
	}
	// The slow expert has (3+1)/(1+1) = 2; the next adds two days of that, the fast one a
	// day of what comes of it.
	rate, certain := rates([experts]float64{3, 3, 3}, [experts]float64{1, 1, 1}, prior{1, 1}, 1)
	near(t, "slow", rate[2], 2, 1e-12)
	near(t, "middle", rate[1], (3+2*2)/3., 1e-12)
	near(t, "fast", rate[0], (3+7./3)/2, 1e-12)
	near(t, "certainty of the fast", certain[0], 2, 1e-12)
	a, b, v, m := p.experts[0].grown(.9, 2, 2, 1)
	// g = .81; sum = 1 + .9.
	near(t, "a", a, .81*3, 1e-6)
	near(t, "b", b, .81+1.9, 1e-6)
	near(t, "V", v, 4*1.9, 1e-6)
	near(t, "M", m, 2*1.9, 1e-6)
	mean, variance := level{rate: 2, certain: 4, phi: 1.5}.demand(3, 3)
	near(t, "mean", mean, 6, 1e-12)
	near(t, "variance", variance, 1.5*6+1.5*2*9/4+.02*36, 1e-12)
	half := Product{known: true, first: -1, outSeconds: 43200}
	half.closeOne(&s)
	if want := (expert{0, .5, .25, .5}); half.experts[0] != want {
		t.Errorf("half a day in stock: %+v, want %+v", half.experts[0], want)
	}
}

func TestLeadTimeByHand(t *testing.T) {
	s := DefaultSetting()
	var p Product
	l := p.LeadTime(&s)
	near(t, "prior mean", l.Mean, 7, 1e-12)
	near(t, "prior variance", l.Variance, 2.45*2.45, 1e-12)
	for _, d := range []float64{9, 11, 10, 10} {
		p.learnLead(d, 1)
	}
	l = p.LeadTime(&s)
	near(t, "mean", l.Mean, 8.5, 1e-6)
	near(t, "variance", l.Variance, (4*2.45*2.45+2+2*9)/8, 1e-6)
	var sum float64
	for _, x := range l.points() {
		sum += x / leadPoints
	}
	near(t, "mean of the points", sum, 8.5, 1e-9)
	p = Product{}
	p.PurchaseOrder(noon(0), 100, 0, &s)
	p.Receipt(noon(4), 25, 0, &s)
	p.Receipt(noon(8), 75, 0, &s)
	l = p.LeadTime(&s)
	near(t, "receipts", l.Receipts, 1, 1e-6)
	near(t, "mean by quantity", l.Mean, (4*7+7)/5., 1e-6)
	if _, onOrder, _ := p.Stock(); onOrder != 0 || p.StockKnown() {
		t.Errorf("%d on order, stock known %t", onOrder, p.StockKnown())
	}
}

// sell lets n days pass with so many units a day.
func sell(p *Product, from, n int, units int64, s *Setting) {
	for d := range n {
		p.Sale(noon(from+d), units, 10e6, s)
	}
}

func TestForecastFollowsSales(t *testing.T) {
	s := DefaultSetting()
	var p Product
	sell(&p, 0, 200, 4, &s)
	d, rate := p.Forecast(noon(200), 28, &s)
	near(t, "rate", rate, 4, .05)
	near(t, "28 days", d.Mean, 112, .05)
	if q, ok := p.Sale(noon(200), 4000, 0, &s); ok {
		t.Errorf("a signal without known stock: %+v", q)
	}
	if _, ok := p.NextWake(noon(200), 0, &s); ok {
		t.Error("woken without known stock")
	}
}

// TestOutOfStockIsNoEvidence: days without stock change no forecast; half a day
// of it counts for half.
func TestOutOfStockIsNoEvidence(t *testing.T) {
	s := DefaultSetting()
	var p Product
	p.StockLevel(noon(0), 10000, &s)
	sell(&p, 0, 60, 4, &s)
	p.StockLevel(s.Start(s.Day(noon(60))), 0, &s)
	p.CloseDay(s.Day(noon(60)), &s)
	before, _ := p.Forecast(noon(61), 28, &s)
	p.CloseDay(s.Day(noon(100)), &s)
	if after, _ := p.Forecast(noon(101), 28, &s); after != before {
		t.Errorf("forty days without stock move the forecast from %+v to %+v", before, after)
	}
	var half, whole Product
	for _, q := range []*Product{&half, &whole} {
		q.StockLevel(noon(0), 1000, &s)
		q.StockAdjust(noon(1), 0, &s)
	}
	half.StockLevel(noon(1), 0, &s)
	half.CloseDay(s.Day(noon(1)), &s)
	whole.CloseDay(s.Day(noon(1)), &s)
	h, w := half.at(&s).levels[0], whole.at(&s).levels[0]
	if !(h.rate > w.rate && h.certain < w.certain) {
		t.Errorf("half a day %+v, a whole day %+v without sales", h, w)
	}
}

func TestUnobservedDaysDoNotCount(t *testing.T) {
	s := DefaultSetting()
	from, to := s.Start(s.Day(noon(30))), s.Start(s.Day(noon(35)))
	s.Observed = func(a, b int64) int64 { return b - a - max(0, min(b, to)-max(a, from)) }
	var p Product
	sell(&p, 0, 30, 4, &s)
	p.CloseDay(s.Day(noon(29)), &s)
	before, _ := p.Forecast(noon(30), 28, &s)
	p.Sale(noon(32), 500, 0, &s) // its day is wholly unobserved
	p.CloseDay(s.Day(noon(34)), &s)
	if after, _ := p.Forecast(noon(35), 28, &s); after != before {
		t.Errorf("an outage moves the forecast from %+v to %+v", before, after)
	}
}

// stocked is a product with 120 days of steady sales, and a known stock on day 120.
func stocked(s *Setting, level int64) Product {
	var p Product
	sell(&p, 0, 120, 4, s)
	p.StockLevel(noon(120), level, s)
	return p
}

func TestOneSignalACycle(t *testing.T) {
	s := DefaultSetting()
	p := stocked(&s, 100)
	if p.Signalled() {
		t.Fatal("signalled with 100 on hand")
	}
	var got []Signal
	day := 120
	for ; !p.Signalled() && day < 200; day++ {
		if g, ok := p.Sale(noon(day), 4, 10e6, &s); ok {
			got = append(got, g)
		}
	}
	if len(got) != 1 || got[0].Kind != Raised || got[0].Cycle != 1 {
		t.Fatalf("%+v", got)
	}
	g := got[0]
	if g.Risk < .05 || g.Position != g.OnHand || g.Position >= g.ReorderPoint || g.OrderUpTo <= g.ReorderPoint || g.Quantity != g.OrderUpTo-g.Position {
		t.Errorf("%+v", g)
	}
	var sum float64
	for _, r := range g.Reasons[:4] {
		sum += r.Value
	}
	near(t, "sum of reasons", sum, float64(g.ReorderPoint), 1e-9)
	if g.StockOut[0] <= g.Due || g.StockOut[0] > g.StockOut[1] || g.StockOut[1] > g.StockOut[2] {
		t.Errorf("stock-out at %v", g.StockOut)
	}
	again := 0
	for range 20 { // sales of the rest of the day
		if _, ok := p.Sale(noon(day-1)+second, 0, 0, &s); ok {
			again++
		}
	}
	if again != 0 {
		t.Errorf("signalled %d times more without news", again)
	}
	w, ok := p.PurchaseOrder(noon(day), g.Quantity, noon(day+7), &s)
	if !ok || w.Kind != Withdrawn || w.Cycle != 1 || w.Reasons[0].Code != ReasonOrdered {
		t.Fatalf("%+v (%t)", w, ok)
	}
	if r, ok := p.Receipt(noon(day+7), g.Quantity, 0, &s); ok {
		t.Errorf("%+v after the receipt", r)
	}
	onHand, onOrder, _ := p.Stock()
	if onHand != g.OnHand+g.Quantity || onOrder != 0 {
		t.Errorf("%d on hand and %d on order", onHand, onOrder)
	}
}

func TestSeverityRisesToCritical(t *testing.T) {
	s := DefaultSetting()
	p := stocked(&s, 34)
	var kinds []Kind
	var last Severity
	for i := range 34 {
		if g, ok := p.Sale(noon(120)+int64(i)*second, 1, 10e6, &s); ok {
			kinds = append(kinds, g.Kind)
			if g.Kind == Updated && g.Severity < last {
				t.Errorf("severity fell from %s to %s", last, g.Severity)
			}
			last = g.Severity
		}
	}
	if last != Critical || len(kinds) > 5 {
		t.Errorf("ended %s after %v", last, kinds)
	}
}

func TestQuantityObeysTerms(t *testing.T) {
	s := DefaultSetting()
	for _, tc := range []struct {
		name          string
		pack, minimum uint32
	}{{"pack of 12", 12, 0}, {"minimum of 500", 0, 500}, {"both", 48, 500}} {
		t.Run(tc.name, func(t *testing.T) {
			p := stocked(&s, 1000)
			p.Terms(noon(120), tc.pack, tc.minimum, &s)
			g, ok := p.StockLevel(noon(120), 5, &s)
			if !ok || g.Quantity < int64(tc.minimum) || tc.pack > 0 && g.Quantity%int64(tc.pack) != 0 || g.Quantity < g.Needed {
				t.Errorf("%d of %d needed (%t)", g.Quantity, g.Needed, ok)
			}
		})
	}
}

// TestInboundBeyondTheHorizonDoesNotCount, nor does it delay a stock-out before it.
func TestInboundBeyondTheHorizonDoesNotCount(t *testing.T) {
	s := DefaultSetting()
	p := stocked(&s, 1000)
	p.PurchaseOrder(noon(120), 500, noon(170), &s)
	g, ok := p.StockLevel(noon(120), 10, &s)
	if !ok || g.OnOrder != 500 || g.Position != 10 {
		t.Fatalf("%+v (%t)", g, ok)
	}
	soon := p.StockOut(noon(120), .5, &s)
	if d := days(soon - noon(120)); d < 1 || d > 5 {
		t.Errorf("out after %g days, want about 2.5", d)
	}
	q := stocked(&s, 10)
	q.PurchaseOrder(noon(120), 500, noon(121), &s)
	if d := days(q.StockOut(noon(120), .5, &s) - noon(120)); d < 60 {
		t.Errorf("out after %g days with 500 due tomorrow", d)
	}
}

// TestWakeDoesWhatWasForeseen: at the wake-up the decision falls that made the
// product be woken, and a product that sleeps would have decided nothing.
func TestWakeDoesWhatWasForeseen(t *testing.T) {
	s := DefaultSetting()
	var p Product
	sell(&p, 0, 60, 2, &s)
	p.Sale(noon(60), 25, 10e6, &s) // one great order on the open day
	if _, ok := p.StockLevel(noon(60), 32, &s); ok {
		t.Fatal("signalled before the close: the case does not arise")
	}
	due, ok := p.NextWake(noon(60), 5*second, &s)
	if !ok || due != s.Start(s.Day(noon(61)))+5*second {
		t.Fatalf("wake-up at %d (%t), want the next close", due, ok)
	}
	if g, ok := p.Wake(due, &s); !ok || g.Kind != Raised || g.Due != due {
		t.Errorf("%+v (%t)", g, ok)
	}
	// Without sales the rate falls until nothing need be ordered.
	due, ok = p.NextWake(due, 5*second, &s)
	for range 90 {
		if !ok || !p.Signalled() {
			break
		}
		p.Wake(due, &s)
		due, ok = p.NextWake(due, 5*second, &s)
	}
	if p.Signalled() || ok {
		t.Errorf("signalled %t, another wake-up %t after quiet weeks", p.Signalled(), ok)
	}
}

func TestDaysAreLocal(t *testing.T) {
	for _, zone := range []string{"Europe/Paris", "America/Santiago", "Pacific/Apia", "Asia/Kolkata"} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Skipf("SKIPPED: no time zones: %v", err)
		}
		s := DefaultSetting()
		s.Location = loc
		last := int64(math.MinInt64)
		for d := s.Day(time.Date(2009, 1, 1, 12, 0, 0, 0, loc).UnixMicro()); d < s.Day(time.Date(2025, 1, 1, 12, 0, 0, 0, loc).UnixMicro()); d++ {
			start := s.Start(d)
			if start < last {
				t.Fatalf("%s: day %d starts before the day before it", zone, d)
			}
			if got := s.Day(start); got < d {
				t.Fatalf("%s: day %d starts on day %d", zone, d, got)
			}
			if got := s.Day(start - 1); got >= d {
				t.Fatalf("%s: a microsecond before day %d is day %d", zone, d, got)
			}
			last = start
		}
	}
}

// act applies a drawn fact and returns the time after it.
func act(t *rapid.T, p *Product, now int64, s *Setting) (int64, Signal, bool) {
	now += rapid.SampledFrom([]int64{0, second, 3600 * second, dayMicros, 9 * dayMicros, 100 * dayMicros}).Draw(t, "wait")
	n := rapid.Int64Range(0, 60).Draw(t, "units")
	var g Signal
	var ok bool
	switch rapid.IntRange(0, 9).Draw(t, "fact") {
	case 0, 1, 2:
		g, ok = p.Sale(now, n, 10e6, s)
	case 3:
		g, ok = p.Cancel(now, n, s)
	case 4:
		g, ok = p.StockLevel(now, n*10-20, s)
	case 5:
		g, ok = p.StockAdjust(now, n-30, s)
	case 6:
		g, ok = p.PurchaseOrder(now, n*5-20, rapid.SampledFrom([]int64{0, now + 5*dayMicros, now + 50*dayMicros}).Draw(t, "due"), s)
	case 7:
		g, ok = p.Receipt(now, n*5, 0, s)
	case 8:
		g, ok = p.Reserve(now, n-30, s)
	case 9:
		if due, woken := p.NextWake(now, 17*second, s); woken {
			now = due
		}
		g, ok = p.Wake(now, s)
	}
	return now, g, ok
}

// TestAnyLife: whatever happens, the packed product is the product, numbers are
// finite and not negative, and signals alternate.
func TestAnyLife(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		if rapid.Bool().Draw(t, "outage") {
			from := noon(rapid.IntRange(0, 50).Draw(t, "from"))
			to := from + rapid.Int64Range(1, 9*dayMicros).Draw(t, "length")
			s.Observed = func(a, b int64) int64 { return b - a - max(0, min(b, to)-max(a, from)) }
		}
		var p Product
		now := noon(0)
		for range rapid.IntRange(1, 40).Draw(t, "facts") {
			was, cycle := p.Signalled(), p.Cycle()
			var g Signal
			var ok bool
			now, g, ok = act(t, &p, now, &s)
			if ok {
				if was != (g.Kind != Raised) || p.Signalled() != (g.Kind != Withdrawn) || (p.Cycle() != cycle) != (g.Kind == Raised) {
					t.Fatalf("%s while signalled is %t", g.Kind, was)
				}
				if !(g.Risk >= 0 && g.Risk <= 1) || g.Kind != Withdrawn && g.Quantity < 1 {
					t.Fatalf("%+v", g)
				}
			} else if p.Signalled() != was {
				t.Fatal("the state changed without a signal")
			}
			b, err := p.MarshalBinary()
			if err != nil || len(b) != StateBytes || StateBytes > 225 {
				t.Fatalf("%d bytes (%v)", len(b), err)
			}
			var back Product
			if err := back.UnmarshalBinary(b); err != nil {
				t.Fatalf("%+v: %v", p, err)
			}
			if back != p {
				t.Fatal(cmp.Diff(p, back, cmp.AllowUnexported(Product{}, expert{}, lot{}, weekForecast{})))
			}
			d, rate := p.Forecast(now, 28, &s)
			need := p.Need(now, .99, &s)
			if !(d.Mean >= 0 && d.Variance >= d.Mean && rate >= 0) || need.Units < p.Need(now, .6, &s).Units {
				t.Fatalf("forecast %+v, rate %g, need %+v", d, rate, need)
			}
			if due, ok := p.NextWake(now, 17*second, &s); ok && due < now {
				t.Fatalf("wake-up at %d, now is %d", due, now)
			}
		}
	})
}

// TestEmptyDaysAtOnceOrOneAtATime: the states are equal to the last bit.
func TestEmptyDaysAtOnceOrOneAtATime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		if rapid.Bool().Draw(t, "outage") {
			from := noon(rapid.IntRange(0, 300).Draw(t, "from"))
			to := from + rapid.Int64Range(1, 9*dayMicros).Draw(t, "length")
			s.Observed = func(a, b int64) int64 { return b - a - max(0, min(b, to)-max(a, from)) }
		}
		var p Product
		now := noon(0)
		for range rapid.IntRange(1, 12).Draw(t, "facts") {
			now, _, _ = act(t, &p, now, &s)
		}
		if !p.known {
			return
		}
		one, all := p, p
		to := p.open + Day(rapid.IntRange(1, 200).Draw(t, "days"))
		for d := p.open; d <= to; d++ {
			one.CloseDay(d, &s)
			one.at(&s) // reading changes nothing
		}
		all.CloseDay(to, &s)
		if one != all {
			t.Fatal(cmp.Diff(one, all, cmp.AllowUnexported(Product{}, expert{}, lot{}, weekForecast{})))
		}
	})
}

func FuzzUnmarshal(f *testing.F) {
	s := DefaultSetting()
	var p Product
	b, _ := p.MarshalBinary()
	f.Add(b)
	p = stocked(&s, 20)
	p.PurchaseOrder(noon(121), 10, 0, &s)
	b, _ = p.MarshalBinary()
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Product
		if err := p.UnmarshalBinary(b); err != nil {
			if p != (Product{}) {
				t.Fatal("changed by bytes that were refused")
			}
			return
		}
		out, err := p.MarshalBinary()
		if err != nil || !bytes.Equal(out, b) {
			t.Fatalf("%x packs as %x (%v)", b, out, err)
		}
		now := s.Start(p.open) + 20*dayMicros
		p.Receipt(now, 3, 0, &s)
		p.Sale(now, 3, 1, &s)
		if d, rate := p.Forecast(now, 28, &s); !(d.Mean >= 0 && rate >= 0) {
			t.Fatalf("forecast %+v, rate %g", d, rate)
		}
		if due, ok := p.NextWake(now, 0, &s); ok && due < now {
			t.Fatalf("a wake-up at %d before %d", due, now)
		}
	})
}

func TestValidateReportsEverything(t *testing.T) {
	s := DefaultSetting()
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	s.Policy.ServiceLevel, s.Policy.LeadDays, s.Policy.LookAhead = 1, math.NaN(), 0
	var n int
	if err := s.Validate(); err != nil {
		n = bytes.Count([]byte(err.Error()), []byte("\n")) + 1
	}
	if n != 3 {
		t.Errorf("%d mistakes reported, want 3: %v", n, s.Validate())
	}
}

func BenchmarkUpdate(b *testing.B) {
	s := DefaultSetting()
	b.ReportAllocs()
	p := Product{known: true, empty: 3}
	p.startWeek(&s)
	for b.Loop() {
		p.sold, p.empty = 2, 3
		p.closeOne(&s)
		p.open--
	}
}

func BenchmarkForecast(b *testing.B) {
	s := DefaultSetting()
	var p Product
	sell(&p, 0, 120, 4, &s)
	e := p.at(&s)
	b.Run("window", func(b *testing.B) {
		for b.Loop() {
			e = p.at(&s)
			e.over(28)
		}
	})
	b.Run("quantiles", func(b *testing.B) {
		taus := []float64{.1, .25, .5, .75, .9, .95, .99}
		var out [7]int64
		b.ReportAllocs()
		for b.Loop() {
			e.over(28).Quantiles(taus, out[:])
		}
	})
}

func BenchmarkSale(b *testing.B) {
	s := DefaultSetting()
	for _, known := range []bool{false, true} {
		name := "stock unknown"
		if known {
			name = "stock known"
		}
		b.Run(name, func(b *testing.B) {
			p := stocked(&s, 1e9)
			if !known {
				p = Product{}
			}
			at := noon(121)
			for b.Loop() {
				at += 3600 * second
				p.Sale(at, 1, 10e6, &s)
				p.NextWake(at, 0, &s)
			}
		})
	}
}

// TestOutBeforeIsStockOut: the cheap answer is that of the dear one, but for a
// minute around it.
func TestOutBeforeIsStockOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		var p Product
		at := int64(1_700_000_000) * second
		p.StockLevel(at, rapid.Int64Range(0, 300).Draw(t, "stock"), &s)
		for range rapid.IntRange(1, 40).Draw(t, "sales") {
			at += rapid.Int64Range(1, 3*86400).Draw(t, "gap") * second
			p.Sale(at, rapid.Int64Range(1, 9).Draw(t, "units"), 0, &s)
		}
		if rapid.Bool().Draw(t, "ordered") {
			p.PurchaseOrder(at, rapid.Int64Range(1, 200).Draw(t, "lot"), 0, &s)
		}
		o := p.outlook(at+3600*second, &s)
		d := rapid.Float64Range(0, 60).Draw(t, "days")
		for _, q := range []float64{.1, .5, .9} {
			out := p.stockOut(&o, q)
			limit := o.now + int64(d*float64(dayMicros))
			if gap := out - limit; out != 0 && gap > -60*second && gap < 60*second {
				continue
			}
			if got, want := p.outBefore(&o, q, d), out != 0 && out < limit; got != want {
				t.Fatalf("out within %g days with %g: %v, want %v (out at %d, limit %d)", d, q, got, want, out, limit)
			}
		}
	})
}

// TestShortage: E(D-s)+ is what adding up 1 - F(k) leaves of the mean, and fill
// points are the smallest that do.
func TestShortage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mean := math.Exp(rapid.Float64Range(-3, 7).Draw(t, "log mean"))
		d := Demand{Mean: mean, Variance: mean * (1 + math.Exp(rapid.Float64Range(-8, 3).Draw(t, "log dispersion")))}
		s := rapid.IntRange(0, int(3*mean)+5).Draw(t, "stock")
		left := d.Mean
		for k := range s {
			left -= d.Exceeds(float64(k))
		}
		// Above a mean of 400 the two are one but for the continuous form.
		tolerance := 1e-6 * mean
		if mean > bulk {
			tolerance = .01 * mean
		}
		if got := d.Short(float64(s)); math.Abs(got-max(0, left)) > tolerance+1e-9 {
			t.Fatalf("short %g of a stock of %d, want %g", got, s, left)
		}
		betas := []float64{.5, .9, .95, .99}
		var out [4]int64
		order := rapid.Float64Range(1, 500).Draw(t, "order")
		d.FillPoints(betas, order, out[:])
		for i, b := range betas {
			allowed := (1 - b) * order
			if d.Short(float64(out[i])) > allowed*(1+1e-6)+tolerance || out[i] > 0 && d.Short(float64(out[i]-1)) < allowed*(1-1e-6)-tolerance {
				t.Fatalf("fill %g of %g at %d: short %g, one less %g, allowed %g", b, order, out[i], d.Short(float64(out[i])), d.Short(float64(out[i]-1)), allowed)
			}
		}
	})
}

// TestPoolLearnsTheShop: a shop that is closed on Saturdays, and sells twice as often in
// the last quarter of the year.
func TestPoolLearnsTheShop(t *testing.T) {
	s := DefaultSetting()
	pool := NewPool(1)
	s.Tell = func(told Stat) { pool.Hear(Told{Stats: []Stat{told}}) }
	products := make([]Product, 40)
	first := s.Day(noon(0))
	const n = 430
	for d := range n {
		day := first + Day(d)
		if weekday(day) != 2 {
			units := int64(4)
			for i := range products {
				// Every other day in spring and summer, every day in autumn.
				if season(day, 1) < 39 && (d+i)%2 == 0 {
					continue
				}
				products[i].Sale(noon(d), units+int64((d*7+i*13)%3-1), 5e6, &s)
			}
		}
		for i := range products {
			products[i].CloseDay(day, &s)
		}
		if d%7 == 6 {
			s.Layer = pool.layer(day + 1)
		}
	}
	var saturday, monday float64
	for d := Day(n); d < n+14; d++ {
		w := s.Layer.calendar.window(first+d, 1)
		switch weekday(first + d) {
		case 2:
			saturday += w
		case 4:
			monday += w
		}
	}
	if !(saturday < .1*monday) {
		t.Errorf("Saturdays weigh %g, Mondays %g", saturday, monday)
	}
	at := products[0].open
	spring, late := s.Layer.calendar.window(at+60, 28), s.Layer.calendar.window(at+250, 28)
	if !(late > 1.15*spring) {
		t.Errorf("the last quarter weighs %g, spring %g", late, spring)
	}
	d, mean := products[0].Demand(28, nil, &s)
	if !(mean > 40 && mean < 140) || d.Quantile(.5) <= 0 {
		t.Errorf("28 days of 2 to 4 on 24 of them: mean %g, %+v", mean, d)
	}
}

// TestOffersAreLearnt: demand of price^-2 is found, and a plan moves the forecast by it.
func TestOffersAreLearnt(t *testing.T) {
	s := DefaultSetting()
	s.Period = 7
	pool := NewPool(7)
	s.Tell = func(told Stat) { pool.Hear(Told{Stats: []Stat{told}}) }
	products := make([]Product, 30)
	for w := range 120 {
		for i := range products {
			price := []float64{1, 1, .7, 1, 1.1}[(w+i)%5]
			products[i].Offer(noon(w), Offer{Price: price}, &s)
			products[i].Sale(noon(w), int64(200*math.Pow(price, -2)+.5), int64(price*1e6), &s)
		}
		for i := range products {
			products[i].CloseDay(s.Day(noon(w)), &s)
		}
		s.Layer = pool.layer(s.Day(noon(w)) + 1)
	}
	near(t, "elasticity", s.Layer.effects[0][0], -2, .15)
	_, usual := products[0].Demand(1, []Offer{{Price: 1}}, &s)
	_, cheap := products[0].Demand(1, []Offer{{Price: .7}}, &s)
	near(t, "lift", cheap/usual, math.Pow(.7, -2), .15)
}

// TestWarpInverts: level and share are inverse, whatever the histogram.
func TestWarpInverts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h pit
		for range rapid.IntRange(0, 400).Draw(t, "outcomes") {
			low := rapid.Float64Range(-.1, 1.1).Draw(t, "low")
			h.add(low, low+rapid.Float64Range(0, 1).Draw(t, "width"))
		}
		w := h.warp()
		u := rapid.Float64Range(0, 1).Draw(t, "u")
		if got := w.level(w.share(u)); math.Abs(got-u) > 1e-6 {
			t.Fatalf("level(share(%g)) is %g", u, got)
		}
		if v := w.share(min(1, u+.1)); v < w.share(u) {
			t.Fatalf("share falls from %g to %g", w.share(u), v)
		}
	})
}

// TestFirstVersionIsRead: what the first version packed still is a product.
func TestFirstVersionIsRead(t *testing.T) {
	old := make([]byte, firstBytes)
	old[0], old[1] = firstVersion, flagKnown|flagStock
	binary.LittleEndian.PutUint32(old[2:], math.Float32bits(30)) // a of the fast expert
	binary.LittleEndian.PutUint32(old[6:], math.Float32bits(10)) // b
	binary.LittleEndian.PutUint64(old[firstBytes-11:], 2_500_000)
	var p Product
	if err := p.UnmarshalBinary(old); err != nil {
		t.Fatal(err)
	}
	if p.experts[0].a != 30 || p.experts[0].b != 10 || p.price != 2.5 || !p.stockKnown || p.longSold != spoilt {
		t.Errorf("%+v", p)
	}
	again, err := p.MarshalBinary()
	if err != nil || len(again) != StateBytes || again[0] != stateVersion {
		t.Errorf("packed again: %d bytes of version %d (%v)", len(again), again[0], err)
	}
}

// BenchmarkEntities: time and memory a product, from 10^4 to 10^6 of them, in random
// order: a day's sale and its close, and seven quantiles of 28 days.
func BenchmarkEntities(b *testing.B) {
	for _, n := range []int{1e4, 1e5, 1e6} {
		s := DefaultSetting()
		all := make([]Product, n)
		for i := range all {
			sell(&all[i], 0, 3, int64(1+i%9), &s)
		}
		b.Run("update/"+strconv.Itoa(n), func(b *testing.B) {
			i, day := 0, 3
			for b.Loop() {
				i += 7919
				if i >= n {
					i -= n
					day++
				}
				p := &all[i]
				p.sold = 2
				p.closeOne(&s)
			}
			b.ReportMetric(float64(unsafe.Sizeof(Product{})), "B/product")
			b.ReportMetric(StateBytes, "B/packed")
		})
		b.Run("quantiles/"+strconv.Itoa(n), func(b *testing.B) {
			taus := []float64{.1, .25, .5, .75, .9, .95, .99}
			var out [7]int64
			i := 0
			for b.Loop() {
				if i += 7919; i >= n {
					i -= n
				}
				d, _ := all[i].Demand(28, nil, &s)
				d.Quantiles(taus, out[:])
			}
		})
	}
}
