package restock

import (
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestTextbooks: values that others print.
func TestTextbooks(t *testing.T) {
	// Nahmias, Production and Operations Analysis, newsstand: a paper costs 25 cents, sells
	// at 75 and brings 10 afterwards: Cu = 50, Co = 15, ratio .77.
	stand := Policy{Margin: 50. / 75, Markdown: 15. / 75}
	near(t, "newsstand's ratio", stand.critical(1), 50./65, 1e-12)
	// Snyder and Shen, Fundamentals of Supply Chain Theory, example 4.3: h = .18, p = .70,
	// Normal(50, 8): S = 56.6, which is .826 deviations; at a mean where counts are
	// Normal.
	shop := Policy{Margin: .7, Markdown: .18}
	tau := shop.critical(1)
	near(t, "critical ratio", tau, .7955, 1e-4)
	near(t, "newsvendor", (float64(Demand{Mean: 1e6, Variance: 8000 * 8000}.Quantile(tau))-1e6)/8000, .826, .004)
	// Silver, Pyke and Thomas, charge B2 per unit short, sales lost: Qr/(Qr + D B2) with
	// r = .24, an order for two months and B2 = .2 of the value is .04/.24.
	charge := Policy{Margin: .2, HoldingRate: .24}
	near(t, "charge per unit short", 1-charge.critical(365./6), .04/.24, 1e-12)

	// Snyder and Shen, example 3.1: K = 8, h = .225, 1,300 a year: 304.05.
	near(t, "EOQ", Policy{OrderCost: 8, HoldingRate: .25}.batch(1300./365, .9), 304.0467800264368, 1e-9)
	// Nahmias, number two pencils: K = 12, 60 a week, 2 cents, 25 % a year: 3,870.
	near(t, "EOQ of pencils", Policy{OrderCost: 12, HoldingRate: .25}.batch(60*52/365., .02), 3870, 1e-4)

	// The unit Normal loss function, as every table of it has it.
	for z, want := range map[float64]float64{0: .3989, .5: .1978, 1: .0833, 1.5: .0293, 2: .0085} {
		d := Demand{Mean: 1e8, Variance: 1e10} // Normal to a thousandth
		near(t, "loss", d.Short(1e8+z*1e5)/1e5, want, 3e-4)
	}
	// Nahmias, Harvey's speciality shop: Q = 100, Normal(100, 25), 98 % of the units:
	// L(z) = .08, z = 1.02; 98 % of the cycles: z = 2.05. The same in deviations.
	jar := Demand{Mean: 1e6, Variance: 2500 * 2500}
	near(t, "fill rate", (float64(jar.FillPoint(.98, 1e4))-1e6)/2500, 1.02, .01)
	near(t, "cycle service", (float64(jar.Quantile(.98))-1e6)/2500, 2.05, .015)
	// Poisson(1), a stock of 1: E(D-1)+ = 1 - (1 - 1/e); of 2: that less 1 - 2/e.
	one := Demand{Mean: 1, Variance: 1}
	near(t, "short of 1", one.Short(1), 1/math.E, 1e-12)
	near(t, "short of 2", one.Short(2), 1/math.E-(1-2/math.E), 1e-12)
	near(t, "short of none and two backorders", one.Short(-2), 3, 1e-12)
	// An order of 10, 95 %: half a unit may be missing: 1 will do; of 1: 3.
	if a, b := one.FillPoint(.95, 10), one.FillPoint(.95, 1); a != 1 || b != 3 {
		t.Errorf("fill points of Poisson(1) %d and %d, want 1 and 3", a, b)
	}
}

// recalibrated draws a demand, sometimes with a warp.
func recalibrated(t *rapid.T, logMean float64) Demand {
	mean := math.Exp(rapid.Float64Range(-5, logMean).Draw(t, "log mean"))
	d := Demand{Mean: mean, Variance: mean * (1 + math.Exp(rapid.Float64Range(-8, 6).Draw(t, "log dispersion")))}
	if rapid.Bool().Draw(t, "recalibrated") {
		var h pit
		for range rapid.IntRange(1, 300).Draw(t, "outcomes") {
			low := rapid.Float64Range(0, 1).Draw(t, "low")
			h.add(low, low+rapid.Float64Range(0, .5).Draw(t, "width"))
		}
		d.warp = h.warp()
	}
	return d
}

// TestShortageIsTheTail: E(D-s)+ is the sum of P(D > k) from s on, recalibrated or not,
// falls with s, and is a line between units.
func TestShortageIsTheTail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := recalibrated(t, 6)
		s := float64(rapid.IntRange(0, int(2*d.Mean)+5).Draw(t, "stock"))
		spread := math.Sqrt(d.Variance)
		var sum float64
		for k := s; k < s+2e5; k++ {
			over := d.Exceeds(k)
			if over < 1e-12 {
				break
			}
			sum += over
		}
		if sum > .3*spread*spread { // cut off
			return
		}
		// Where the tail is long the sum stops too early; continuous forms are half a unit off.
		tolerance := 1e-5*(1+sum) + 1e-5*spread
		if d.Mean > bulk {
			tolerance = .03 * (1 + sum + .1*spread)
			if d.warp != nil { // bins end at approximate quantiles: it shows where a recalibration is steep
				tolerance *= 4
			}
		} else if logP0, _, _ := d.count0(); logP0 < -700 || d.warp != nil {
			tolerance += 2e-3 * (1 + sum)
		}
		got := d.Short(s)
		if math.Abs(got-sum) > tolerance {
			t.Fatalf("short %g of %g of %+v (recalibrated %t), the tail is %g", got, s, d, d.warp != nil, sum)
		}
		more := d.Short(s + 1)
		if !(more >= 0 && more <= got*(1+1e-9)+1e-9) {
			t.Fatalf("short %g of %g and %g of one more", got, s, more)
		}
		if half := d.Short(s + .5); math.Abs(half-(got+more)/2) > tolerance {
			t.Fatalf("short %g between %g and %g", half, got, more)
		}
	})
}

// TestFillPointsAreTheSmallest, and rise with the fill rate and as orders get smaller.
func TestFillPointsAreTheSmallest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := recalibrated(t, 9)
		order := rapid.Float64Range(0, 2000).Draw(t, "order")
		betas := []float64{.5, .8, .95, .99, .9999}
		var out, smaller [5]int64
		d.FillPoints(betas, order, out[:])
		d.FillPoints(betas, order/2, smaller[:])
		tolerance := 1e-6*d.Mean + 1e-9
		for i, b := range betas {
			if out[i] < 0 || i > 0 && out[i] < out[i-1] || smaller[i] < out[i] {
				t.Fatalf("fill points %v, of smaller orders %v", out, smaller)
			}
			if one := d.FillPoint(b, order); one != out[i] {
				t.Fatalf("fill %g: %d alone, %d among others", b, one, out[i])
			}
			allowed := (1 - b) * max(order, 1)
			if short := d.Short(float64(out[i])); out[i] < maxUnits && short > allowed*(1+1e-6)+tolerance {
				t.Fatalf("fill %g: short %g at %d, allowed %g", b, short, out[i], allowed)
			}
			if short := d.Short(float64(out[i] - 1)); out[i] > 0 && short < allowed*(1-1e-6)-tolerance {
				t.Fatalf("fill %g: short only %g at one less than %d, allowed %g", b, short, out[i], allowed)
			}
		}
	})
}

// anyPolicy draws a valid one.
func anyPolicy(t *rapid.T) Policy {
	p := DefaultPolicy()
	p.Target = Target(rapid.IntRange(0, 2).Draw(t, "target"))
	p.ServiceLevel = rapid.Float64Range(.5, .9999).Draw(t, "service level")
	p.FillRate = rapid.Float64Range(.5, .9999).Draw(t, "fill rate")
	p.Margin = rapid.Float64Range(.001, 1).Draw(t, "margin")
	p.Goodwill = rapid.Float64Range(0, 1).Draw(t, "goodwill")
	p.Markdown = rapid.Float64Range(0, 1).Draw(t, "markdown")
	p.HoldingRate = rapid.Float64Range(0, 1).Draw(t, "holding rate")
	p.ReviewDays = rapid.SampledFrom([]float64{0, 1, 7, 30}).Draw(t, "review")
	p.OrderDays = rapid.Float64Range(0, 100).Draw(t, "order days")
	p.OrderCost = rapid.SampledFrom([]float64{0, 0, 1, 1000}).Draw(t, "order cost")
	p.MaxCoverDays = rapid.Float64Range(1, 365).Draw(t, "cover")
	p.ShelfDays = rapid.SampledFrom([]float64{0, 0, 1, 5, 60}).Draw(t, "shelf")
	p.LeadDays = rapid.Float64Range(.1, 60).Draw(t, "lead")
	return p
}

// TestAnyPolicy: under every target one order ends a signal, quantities obey packs,
// minimums and caps, and what does not is said; reasons add up to the reorder point.
func TestAnyPolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		s.Policy = anyPolicy(t)
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		var p Product
		now := noon(0)
		for range rapid.IntRange(1, 25).Draw(t, "facts") {
			if rapid.IntRange(0, 9).Draw(t, "terms") == 0 {
				p.Terms(now, rapid.Uint32Range(0, 24).Draw(t, "pack"), rapid.Uint32Range(0, 300).Draw(t, "minimum"), &s)
			}
			was := p.Signalled()
			var g Signal
			var ok bool
			now, g, ok = act(t, &p, now, &s)
			if ok && was != (g.Kind != Raised) {
				t.Fatalf("%s while signalled is %t", g.Kind, was)
			}
			if due, woken := p.NextWake(now, 17*second, &s); woken && due < now {
				t.Fatalf("wake-up at %d, now is %d", due, now)
			}
			if ask, asks := p.Ask(now, 7, &s); asks && !(ask.Quantity >= 1 && ask.Cost >= 0 && ask.Saved >= 0 && !math.IsInf(ask.Saved, 1)) {
				t.Fatalf("asks for %+v", ask)
			}
			if !ok || g.Kind == Withdrawn {
				continue
			}
			checkOrder(t, &p, g, &s)
			if g.Kind != Raised {
				continue
			}
			after := p
			after.PurchaseOrder(now, g.Quantity, now+second, &s)
			if after.Signalled() {
				t.Fatalf("%+v; after its order still signalled: %+v", g, after.outlook(now, &s).goal)
			}
			if again, said := after.Sale(now, 0, 0, &s); said && again.Kind == Raised {
				t.Fatalf("%+v; raised again after its order: %+v", g, again)
			}
		}
	})
}

// checkOrder looks at one signal's numbers.
func checkOrder(t *rapid.T, p *Product, g Signal, s *Setting) {
	t.Helper()
	codes := map[string]float64{}
	var sum float64
	for _, r := range g.Reasons {
		if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
			t.Fatalf("%+v", g.Reasons)
		}
		codes[r.Code] = r.Value
		switch r.Code {
		case ReasonLevel, ReasonTrend, ReasonDemandSpread, ReasonLeadSpread, ReasonShelfLife:
			sum += r.Value
		}
	}
	if math.Abs(sum-float64(g.ReorderPoint)) > 1e-6*(1+math.Abs(float64(g.ReorderPoint))) {
		t.Fatalf("reasons add up to %g, the reorder point is %d", sum, g.ReorderPoint)
	}
	switch g.Target {
	case FillRate:
		if codes[ReasonFillRate] != s.Policy.FillRate {
			t.Fatalf("the fill rate is not told: %+v", g.Reasons)
		}
	case Economic:
		if codes[ReasonEconomic] != g.ServiceLevel {
			t.Fatalf("the service level is not told: %+v", g.Reasons)
		}
	}
	if !(g.ServiceLevel >= 0 && g.ServiceLevel <= 1) || g.OrderUpTo < g.ReorderPoint {
		t.Fatalf("%+v", g)
	}
	minimum, pack := int64(p.minimum), max(int64(p.pack), 1)
	if g.Quantity < max(minimum, 1) || g.Quantity%pack != 0 {
		t.Fatalf("%d ordered, minimum %d, packs of %d", g.Quantity, minimum, pack)
	}
	forced := int64(codes[ReasonMinimum])
	over := g.Position + g.Quantity - max(forced, 0) - (pack - 1)
	if g.Kind == Raised && forced == 0 {
		over -= max(0, minimum-g.Needed) // inside the caps, or it would have been told
	}
	rate := g.Rate
	if cover := max(g.ReorderPoint, units(math.Ceil(rate*s.Policy.MaxCoverDays))); g.Kind == Raised && over > max(cover, g.OrderUpTo)+1 {
		t.Fatalf("%d are too many for a cover of %d: %+v", g.Quantity, cover, g)
	}
	if s.Policy.ShelfDays > 0 && g.Kind == Raised {
		if shelf := max(1, units(math.Ceil(rate*(g.Lead.Mean+s.Policy.ShelfDays)))); over > shelf || g.ReorderPoint > shelf {
			t.Fatalf("%d will spoil beyond %d: %+v", g.Quantity, shelf, g)
		}
	}
}

// formerly decides as the policy did when it had one target.
func formerly(p *Product, o *outlook, c cause, s *Setting) (kind Kind, reorder, upTo, needed, amount int64) {
	reorder = o.demand.Quantile(s.Policy.ServiceLevel)
	rate := o.ensemble.rate()
	upTo = reorder + units(math.Ceil(max(rate*s.Policy.OrderDays, rate*s.Policy.ReviewDays)))
	needed = max(0, upTo-o.position)
	cover := max(reorder, units(math.Ceil(rate*s.Policy.MaxCoverDays)))
	amount = max(min(needed, cover-o.position), int64(p.minimum), 1)
	if pack := int64(p.pack); pack > 1 {
		amount = (amount + pack - 1) / pack * pack
	}
	trigger := 1 - s.Policy.ServiceLevel
	switch {
	case !p.signalled && o.risk < trigger:
	case !p.signalled:
		kind = Raised
	case o.risk <= trigger/2 || (c == causeReceipt || c == causeOrder) && o.risk < trigger:
		kind = Withdrawn
	case p.urgency(o) > p.severity || math.Abs(float64(amount)-float64(p.quantity)) > .25*float64(p.quantity):
		kind = Updated
	}
	return kind, reorder, upTo, needed, amount
}

// TestShippedPolicyDecidesAsBefore: to a cycle service of 95 % nothing was changed by the
// targets beside it.
func TestShippedPolicyDecidesAsBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		pool := NewPool(1)
		s.Tell = func(told Stat) { pool.Hear(Told{Stats: []Stat{told}}) }
		var p Product
		now := noon(0)
		for i := range rapid.IntRange(1, 40).Draw(t, "facts") {
			if i == 3 {
				p.Terms(now, rapid.Uint32Range(0, 24).Draw(t, "pack"), rapid.Uint32Range(0, 300).Draw(t, "minimum"), &s)
			}
			if i%10 == 9 {
				s.Layer = pool.layer(p.open)
			}
			now, _, _ = act(t, &p, now, &s)
			if !p.stockKnown {
				continue
			}
			q := p
			q.roll(now, &s)
			o := q.outlook(now, &s)
			for _, c := range [5]cause{causeSale, causeStock, causeOrder, causeReceipt, causeDay} {
				kind, reorder, upTo, needed, amount := formerly(&q, &o, c, &s)
				if got := q.verdict(&o, c, &s); got != kind {
					t.Fatalf("%s, formerly %s", got, kind)
				}
				x := q.plan(&o, &s)
				if d := cmp.Diff([4]int64{reorder, upTo, needed, amount}, [4]int64{x.need.units, x.upTo, x.needed, x.amount}); d != "" {
					t.Fatalf("reorder, up to, needed, amount (-formerly +now):\n%s", d)
				}
				r := q
				if g, ok := r.decide(now, c, &s); ok && (g.Target != CycleService || g.ServiceLevel != .95 || g.ReorderPoint != reorder) {
					t.Fatalf("%+v", g)
				}
			}
		}
	})
}

// TestNeedRises with what is asked for, the lead time and the demand.
func TestNeedRises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		s.Policy.Target = Target(rapid.IntRange(0, 2).Draw(t, "target"))
		daily := rapid.Int64Range(1, 30).Draw(t, "daily")
		days := rapid.IntRange(10, 60).Draw(t, "days")
		gap := rapid.IntRange(1, 5).Draw(t, "gap")
		life := func(units int64) Product {
			var p Product
			for d := 0; d < days; d += gap {
				p.Sale(noon(d), units, 10e6, &s)
			}
			return p
		}
		need := func(p Product, change func(*Policy)) int64 {
			c := s
			change(&c.Policy)
			return p.Need(noon(days), 0, &c).Units
		}
		p := life(daily)
		set := func(level float64) func(*Policy) {
			return func(y *Policy) {
				y.ServiceLevel, y.FillRate = level, level
				y.Goodwill = 10 * (level - .5)
			}
		}
		a, b := rapid.Float64Range(.5, .9999).Draw(t, "level"), rapid.Float64Range(.5, .9999).Draw(t, "level'")
		if low, high := need(p, set(min(a, b))), need(p, set(max(a, b))); low > high {
			t.Errorf("%d for more, %d for less", high, low)
		}
		lead := rapid.Float64Range(1, 40).Draw(t, "lead")
		at := func(days float64) func(*Policy) {
			return func(y *Policy) { set(.9)(y); y.LeadDays = days }
		}
		if short, long := need(p, at(lead)), need(p, at(1.5*lead)); short > long {
			t.Errorf("%d for a lead time of %g days, %d for half as much again", short, lead, long)
		}
		if less, more := need(p, at(7)), need(life(2*daily), at(7)); less > more {
			t.Errorf("%d for %d a day, %d for twice that", less, daily, more)
		}
	})
}

// TestPointsAreNeeds: many at once, or one at a time.
func TestPointsAreNeeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		s.Policy = anyPolicy(t)
		var p Product
		now := noon(0)
		for range rapid.IntRange(1, 25).Draw(t, "facts") {
			now, _, _ = act(t, &p, now, &s)
		}
		levels := []float64{.5, .77, .95, .999}
		var out [4]int64
		rate := p.Points(p.LeadTime(&s), levels, out[:], &s)
		for i, level := range levels {
			c := s
			c.Policy.ServiceLevel, c.Policy.FillRate, c.Policy.Margin = level, level, level
			if n := p.Need(now, 0, &c); n.Units != out[i] {
				t.Fatalf("%s of %g: point %d, need %d", s.Policy.Target, level, out[i], n.Units)
			}
		}
		if !(rate >= 0) {
			t.Fatalf("rate %g", rate)
		}
	})
}

// TestCapsAreTold: what the supplier's minimum breaks is ordered, and said.
func TestCapsAreTold(t *testing.T) {
	reasons := func(change func(*Policy), minimum uint32) (Signal, map[string]float64) {
		s := DefaultSetting()
		change(&s.Policy)
		p := stocked(&s, 1e6)
		p.Terms(noon(120), 0, minimum, &s)
		g, ok := p.StockLevel(noon(120), 2, &s)
		if !ok {
			t.Fatalf("no signal with 2 left of 4 a day")
		}
		codes := map[string]float64{}
		for _, r := range g.Reasons {
			codes[r.Code] = r.Value
		}
		return g, codes
	}
	g, said := reasons(func(y *Policy) { y.OrderDays, y.MaxCoverDays = 60, 30 }, 0)
	if said[ReasonMaxCover] != float64(g.Needed-g.Quantity) || g.Position+g.Quantity > 121 {
		t.Errorf("a cover of 30 days: %+v", g)
	}
	g, said = reasons(func(y *Policy) { y.OrderDays, y.MaxCoverDays = 60, 30 }, 500)
	if g.Quantity != 500 || said[ReasonMinimum] < 350 {
		t.Errorf("a minimum of 500 beyond a cover of 30 days: %+v", g)
	}
	g, said = reasons(func(y *Policy) { y.ShelfDays = 3 }, 0)
	if g.Position+g.Quantity > 41 || said[ReasonSpoils] == 0 {
		t.Errorf("a shelf life of 3 days: %+v", g)
	}
	g, said = reasons(func(y *Policy) { y.ShelfDays, y.ServiceLevel = 1, .9999 }, 100)
	if said[ReasonShelfLife] >= 0 || said[ReasonMinimum] == 0 || g.Quantity != 100 {
		t.Errorf("a shelf life of a day and a minimum of 100: %+v", g)
	}
	if g, said = reasons(func(*Policy) {}, 0); len(said) != 5 {
		t.Errorf("nothing is capped: %+v", g)
	}
}

// TestEmptyShelfIsFilled: where a minimum order would last for ever, a fill rate allows
// more to be missing than is asked for until a delivery; the product is ordered all the
// same, until nobody asks for it any more.
func TestEmptyShelfIsFilled(t *testing.T) {
	for _, target := range []Target{FillRate, Economic} {
		s := DefaultSetting()
		s.Policy.Target = target
		p := stocked(&s, 1e6)
		p.Terms(noon(120), 0, 5000, &s)
		if g, ok := p.StockLevel(noon(120), 0, &s); !ok || g.Kind != Raised || g.Quantity != 5000 || g.ReorderPoint < 1 {
			t.Errorf("%s: %+v (%t)", target, g, ok)
		}
		q := stocked(&s, 1e6)
		q.StockLevel(noon(121), 1e6, &s)
		if g, ok := q.StockLevel(noon(3000), 0, &s); ok {
			t.Errorf("%s: after eight years without a sale %+v", target, g)
		}
	}
}

func TestPolicyReportsEverything(t *testing.T) {
	p := DefaultPolicy()
	p.Target, p.ServiceLevel, p.FillRate, p.Margin, p.Goodwill, p.Markdown, p.HoldingRate, p.ShelfDays = 9, .3, 1, 0, -1, 2, math.Inf(1), .5
	err := p.Validate()
	if err == nil || strings.Count(err.Error(), "\n") != 7 {
		t.Errorf("want eight mistakes: %v", err)
	}
	for _, target := range []Target{CycleService, FillRate, Economic} {
		if got, err := ParseTarget(target.String()); err != nil || got != target {
			t.Errorf("%s is read as %s (%v)", target, got, err)
		}
	}
	if _, err := ParseTarget("turnover"); err == nil || !strings.Contains(err.Error(), "fill-rate") {
		t.Errorf("an unknown target: %v", err)
	}
}

// FuzzPolicy: whatever is typed in is refused, or decides without NaN.
func FuzzPolicy(f *testing.F) {
	d := DefaultPolicy()
	f.Add(uint8(0), .95, .97, .4, .1, .02, .25, 1., 14., 0., 90., 0., 7., .35)
	f.Add(uint8(1), .95, .9999, .4, .1, .02, .25, 0., 0., 5., 1., 1., .01, 3.)
	f.Add(uint8(2), .5, .5, .001, 0., 0., 0., 365., 3650., 1e9, 3650., 3650., 730., .01)
	f.Fuzz(func(t *testing.T, target uint8, level, fill, margin, goodwill, markdown, holding, review, order, cost, cover, shelf, lead, cv float64) {
		s := DefaultSetting()
		s.Policy = Policy{
			Target: Target(target), ServiceLevel: level, FillRate: fill, Margin: margin, Goodwill: goodwill, Markdown: markdown, HoldingRate: holding,
			ReviewDays: review, OrderDays: order, OrderCost: cost, MaxCoverDays: cover, ShelfDays: shelf, LookAhead: d.LookAhead,
			LeadDays: lead, LeadCV: cv, LeadOrders: d.LeadOrders, LaunchRate: d.LaunchRate, LaunchDays: d.LaunchDays,
		}
		if s.Validate() != nil {
			return
		}
		var p Product
		p.StockLevel(noon(0), 40, &s)
		for day := range 12 {
			p.Sale(noon(day), int64(day%4), 3e6, &s)
		}
		g, _ := p.StockLevel(noon(12), 0, &s)
		n := p.Need(noon(13), 0, &s)
		a, _ := p.Ask(noon(13), 7, &s)
		for _, v := range []float64{g.Risk, g.ServiceLevel, n.Level, n.TargetLevel, a.Cost, a.Saved} {
			if !(v >= 0 && v < 1e18) {
				t.Fatalf("%g in %+v, %+v, %+v", v, g, n, a)
			}
		}
		if n.Units < 0 || n.Units > maxUnits || g.Quantity < 0 || g.Quantity > 2*maxUnits {
			t.Fatalf("%+v, %+v", g, n)
		}
		if due, ok := p.NextWake(noon(13), 0, &s); ok && due < noon(13) {
			t.Fatalf("a wake-up at %d before %d", due, noon(13))
		}
	})
}

// saved adds up what a choice saves and costs.
func saved(asks []Ask, chosen []int) (saved, cost float64) {
	for _, i := range chosen {
		saved += asks[i].Saved
		cost += asks[i].Cost
	}
	return saved, cost
}

func TestSpend(t *testing.T) {
	asks := []Ask{{Cost: 60, Saved: 66}, {Cost: 50, Saved: 60}, {Cost: 50, Saved: 40}, {Saved: 9}, {Cost: 1, Saved: math.NaN()}}
	for budget, want := range map[float64][]int{0: nil, 49: nil, 50: {1}, 60: {0}, 100: {1, 2}, 110: {1, 0}, 1000: {1, 0, 2}, -1: nil, math.NaN(): nil} {
		if got := Spend(asks, budget); !slices.Equal(got, want) {
			t.Errorf("of %g are spent %v, want %v", budget, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 9).Draw(t, "asks")
		asks := make([]Ask, n)
		var largest float64
		for i := range asks {
			asks[i] = Ask{Cost: rapid.Float64Range(0, 100).Draw(t, "cost"), Saved: rapid.Float64Range(0, 100).Draw(t, "saved")}
		}
		a, b := rapid.Float64Range(0, 400).Draw(t, "budget"), rapid.Float64Range(0, 400).Draw(t, "budget'")
		if a > b {
			a, b = b, a
		}
		low, cost := saved(asks, Spend(asks, a))
		high, _ := saved(asks, Spend(asks, b))
		if cost > a {
			t.Fatalf("%g spent of %g", cost, a)
		}
		if high < low-1e-9 {
			t.Fatalf("%g saves %g, %g saves %g", a, low, b, high)
		}
		var best float64
		for set := range 1 << n {
			var s, c float64
			for i, ask := range asks {
				if set>>i&1 == 1 && ask.Cost > 0 {
					s += ask.Saved
					c += ask.Cost
				}
			}
			if c <= a {
				best = max(best, s)
			}
		}
		for _, ask := range asks {
			if ask.Cost <= a {
				largest = max(largest, ask.Saved)
			}
		}
		if low > best+1e-6 || low < best/2-1e-9 || low < best-largest-1e-9 {
			t.Fatalf("saves %g, the best choice %g, the largest ask %g", low, best, largest)
		}
	})
}

// TestAskSavesWhatItSells: of an order that comes in a week, to a product of 4 a day with
// nothing left, about 4 a day are saved until the next order comes; one that has plenty
// asks for nothing.
func TestAskSavesWhatItSells(t *testing.T) {
	s := DefaultSetting()
	p := stocked(&s, 0)
	for wait, want := range map[float64]float64{1: 4, 7: 28} {
		a, ok := p.Ask(noon(120), wait, &s)
		if !ok {
			t.Fatal("asks for nothing")
		}
		// At a price of 10, a margin of 4 and goodwill of 1 a unit. A tenth of the orders comes
		// so late that some of it is missed all the same.
		near(t, "saved", a.Saved, want*5, .12)
		near(t, "cost", a.Cost, float64(a.Quantity)*6, 1e-9)
	}
	full := stocked(&s, 1000)
	if a, ok := full.Ask(noon(120), 7, &s); ok {
		t.Errorf("asks for %+v with 1,000 on hand", a)
	}
	var unknown Product
	if a, ok := unknown.Ask(noon(120), 7, &s); ok {
		t.Errorf("asks for %+v without known stock", a)
	}
}

// processTime is what this process has used of processors: wall time says little on a
// machine that others use.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkNeed: what one decision costs, without allocation.
func BenchmarkNeed(b *testing.B) {
	for _, target := range []Target{CycleService, FillRate, Economic} {
		for _, layered := range []bool{false, true} {
			name := target.String()
			s := DefaultSetting()
			if layered {
				name += "/recalibrated"
				pool := NewPool(1)
				s.Tell = func(told Stat) { pool.Hear(Told{Stats: []Stat{told}}) }
				var p Product
				sell(&p, 0, 400, 4, &s)
				s.Layer = pool.layer(p.open)
			}
			s.Policy.Target = target
			p := stocked(&s, 1e6)
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				var n Need
				before := processTime(b)
				for b.Loop() {
					n = p.Need(noon(120), 0, &s)
				}
				b.ReportMetric(float64(processTime(b)-before)/float64(b.N)/1e3, "cpu-us/each")
				if n.Units < 1 {
					b.Fatal(n)
				}
			})
		}
	}
}
