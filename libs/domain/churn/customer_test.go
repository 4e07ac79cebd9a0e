package churn

import (
	"bytes"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// noon of a day since the start of 2024, UTC.
func noon(day int) int64 {
	return time.Date(2024, 1, 1+day, 12, 0, 0, 0, time.UTC).UnixMicro()
}

// rest sleeps until a customer is raised, and returns the alert.
func rest(t testing.TB, c *Customer, now int64, s *Setting) Alert {
	t.Helper()
	for range 1000 {
		due, ok := c.NextWake(now, s)
		if !ok {
			t.Fatal("asleep for good, but not raised")
		}
		if due < now {
			t.Fatalf("a wake-up at %d, before %d", due, now)
		}
		now = due
		if a, ok := c.Wake(now, math.MaxUint64, s); ok {
			return a
		}
	}
	t.Fatal("a thousand wake-ups without an alert")
	return Alert{}
}

func TestRaisedOnceAtTheCrossing(t *testing.T) {
	s := DefaultSetting()
	var c Customer
	if _, ok := c.NextWake(noon(0), &s); ok {
		t.Error("a customer without orders is woken")
	}
	for _, d := range []int{0, 20, 45, 60} {
		if a, ok := c.Order(noon(d), noon(d), 30e6, "EUR", &s); ok {
			t.Errorf("%+v on an order of a customer who was not raised", a)
		}
	}
	a := rest(t, &c, noon(60), &s)
	age, _ := s.Params.Crossing(History{3, 60, 60}, .8, 90)
	if want := noon(0) + int64(age*float64(dayMicros)); a.Due < want || a.Due > want+2 {
		t.Errorf("raised at %d, want %d", a.Due, want)
	}
	if a.Kind != Raised || a.Episode != 4 || a.Orders != 4 || a.Arm != Treat || a.Tier != TierMedium || a.Currency != "EUR" || a.Expires != a.Due+90*dayMicros {
		t.Errorf("%+v", a)
	}
	near(t, "silence", a.SilenceDays, days(a.Due-noon(60)))
	near(t, "usual gap", a.UsualGapDays[1], s.Params.NextOrderQuantile(History{3, 60, 60}, .5))
	var sum float64
	for _, r := range a.Reasons {
		sum += r.Contribution
	}
	near(t, "sum of contributions", sum, logit(a.Probability))
	if !(a.ValueAtRisk > 0 && a.ValueAtRisk < 30*90) {
		t.Errorf("value at risk %g", a.ValueAtRisk)
	}
	if _, ok := c.NextWake(a.Due, &s); ok {
		t.Error("a raised customer is woken again")
	}
	if again, ok := c.Wake(a.Due+dayMicros, 0, &s); ok {
		t.Errorf("raised twice: %+v", again)
	}
	back := a.Due + 5*dayMicros
	r, ok := c.Order(back, back, 12e6, "EUR", &s)
	if !ok || r.Kind != Recovered || r.Episode != a.Episode || r.OrderValue != 12e6 || math.Abs(r.DaysToReturn-5) > 1e-4 || r.RaisedAt/second != a.Due/second {
		t.Errorf("%+v (%t)", r, ok)
	}
	if c.Raised() || c.Episode() != 5 || c.Orders() != 5 {
		t.Errorf("raised %t, episode %d, %d orders", c.Raised(), c.Episode(), c.Orders())
	}
	if next := rest(t, &c, back, &s); next.Episode != 5 {
		t.Errorf("raised in episode %d, want 5", next.Episode)
	}
}

// TestOrderAtTheDue is the case of the design: an order before the due, or at
// it, leaves nothing to raise; one after it comes back from a raise.
func TestOrderAtTheDue(t *testing.T) {
	s := DefaultSetting()
	var c Customer
	c.Order(noon(0), noon(0), 1e6, "EUR", &s)
	due, _ := c.due(&s, noon(400))
	at := c
	at.Order(due, due, 1e6, "EUR", &s) // records come before wake-ups
	if a, ok := at.Wake(due, 0, &s); ok {
		t.Errorf("raised after an order at the due: %+v", a)
	}
	after := c
	if _, ok := after.Wake(due-1, 0, &s); ok {
		t.Error("raised a microsecond early")
	}
	if a, ok := after.Wake(due, 0, &s); !ok || a.Arm != Holdout {
		t.Errorf("not raised at the due: %+v", a)
	}
	if a, ok := after.Order(due+second, due+second, 1e6, "EUR", &s); !ok || a.Kind != Recovered {
		t.Errorf("%+v (%t), want RECOVERED", a, ok)
	}
}

// TestWhoIsLookedAtOftenIsRaisedOnTime: looking ahead by a little at a time finds the
// moment that looking at all of the future finds.
func TestWhoIsLookedAtOftenIsRaisedOnTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		s.Params = anyParams(t)
		if rapid.Bool().Draw(t, "corrected") {
			s.Correction = &Correction{Intercept: rapid.Float64Range(-2, 2).Draw(t, "intercept")}
			for i := range s.Correction.Weights {
				s.Correction.Weights[i] = rapid.Float64Range(-.5, .5).Draw(t, "weight")
			}
		}
		s.Policy.SleepDays = rapid.Float64Range(1, 60).Draw(t, "sleep")
		var c Customer
		day := 0
		for range rapid.IntRange(1, 8).Draw(t, "orders") {
			day += rapid.IntRange(1, 90).Draw(t, "gap")
			c.Order(noon(day), noon(day), 20e6, "EUR", &s)
			c.Behave(noon(day), Behaviour{Visits: 2})
		}
		want, ok := c.due(&s, noon(day+400))
		if !ok {
			t.Fatal("never raised")
		}
		now := c.LastOrder()
		for range 500 {
			next, ok := c.NextWake(now, &s)
			if !ok || next < now {
				t.Fatalf("the next look is at %d (%t), now is %d", next, ok, now)
			}
			now = next
			if a, ok := c.Wake(now, 0, &s); ok {
				if a.Due != now || now != want {
					t.Errorf("raised after %.6f days, want %.6f", days(now-c.LastOrder()), days(want-c.LastOrder()))
				}
				return
			}
		}
		t.Fatal("looked 500 times")
	})
}

func TestQuietRuleAndBackstop(t *testing.T) {
	weak := DefaultSetting()
	weak.Params = Params{.1, 1, 5, 1, 1} // hardly anybody comes back
	weak.Policy.QuietQuantile = 0
	var c Customer
	c.Order(noon(0), noon(0), 1e6, "EUR", &weak)
	if p, _ := c.Score(noon(0), &weak); p < .8 {
		t.Fatalf("score %g, the case wants more than .8", p)
	}
	if a := rest(t, &c, noon(0), &weak); a.Due != noon(14) {
		t.Errorf("raised after %g days, want 14", days(a.Due-noon(0)))
	}
	loyal := DefaultSetting()
	loyal.Params = Params{5, 200, 1e-9, 10, 1} // slow buyers whom nothing drives away
	var d Customer
	d.Order(noon(0), noon(0), 1e6, "EUR", &loyal)
	a := rest(t, &d, noon(0), &loyal)
	if a.Due != noon(365) || a.Reasons[len(a.Reasons)-1].Code != ReasonMaxSilence {
		t.Errorf("raised after %g days for %+v, want the backstop after 365", days(a.Due-noon(0)), a.Reasons)
	}
}

// TestOutageIsNobodysSilence: five unobserved days delay the alert by five days.
func TestOutageIsNobodysSilence(t *testing.T) {
	s := DefaultSetting()
	var c Customer
	c.Order(noon(0), noon(0), 1e6, "EUR", &s)
	plain := c
	want := rest(t, &plain, noon(0), &s)
	from, to := noon(3), noon(8)
	s.Observed = func(a, b int64) int64 { return b - a - max(0, min(b, to)-max(a, from)) }
	got := rest(t, &c, noon(0), &s)
	if got.Due-want.Due != 5*dayMicros {
		t.Errorf("delayed by %g days, want 5", days(got.Due-want.Due))
	}
	if math.Abs(got.SilenceDays-want.SilenceDays) > 1e-6 || math.Abs(got.Probability-want.Probability) > 1e-9 {
		t.Errorf("silence %g and probability %g, want %g and %g", got.SilenceDays, got.Probability, want.SilenceDays, want.Probability)
	}
	if at := s.Observed.after(noon(2), dayMicros+1); at != to+1 {
		t.Errorf("due inside the outage at %d, want just after its end %d", at, to)
	}
}

func TestOrdersOfOneLocalDayAreOne(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Skipf("SKIPPED: no time zones: %v", err)
	}
	s := DefaultSetting()
	s.Location = paris
	var c Customer
	for _, at := range []time.Time{
		time.Date(2024, 5, 1, 0, 10, 0, 0, paris), time.Date(2024, 5, 1, 23, 50, 0, 0, paris), time.Date(2024, 5, 2, 0, 5, 0, 0, paris),
	} {
		c.Order(at.UnixMicro(), at.UnixMicro(), 10e6, "EUR", &s)
	}
	if c.Orders() != 2 || c.LogGaps() != 0 {
		t.Errorf("%d transactions and log gaps %g, want 2 and 0 (a gap of under a day counts as one)", c.Orders(), c.LogGaps())
	}
	if x, mean := c.Spend(); x != 1 || mean != 10 {
		t.Errorf("%d repeats of mean %g, want 1 of 10", x, mean)
	}
}

func TestRefundTakesTheTransactionBack(t *testing.T) {
	s := DefaultSetting()
	build := func(ds ...int) Customer {
		var c Customer
		for _, d := range ds {
			c.Order(noon(d), noon(d), 10e6, "EUR", &s)
		}
		return c
	}
	for _, tc := range []struct {
		name string
		days []int
		back int
		want []int
	}{
		{"the last", []int{0, 10, 30}, 30, []int{0, 10}},
		{"one between", []int{0, 10, 30}, 10, []int{0, 30}},
		{"the first", []int{0, 10, 30}, 0, []int{10, 30}},
		{"of two", []int{0, 10}, 10, []int{0}},
		{"the only one", []int{4}, 4, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, want := build(tc.days...), build(tc.want...)
			got.Refund(noon(tc.back), 10e6, true, &s)
			if got.Episode() != uint32(len(tc.days)) {
				t.Errorf("episode %d, want %d: it never falls", got.Episode(), len(tc.days))
			}
			if math.Abs(got.logGaps-want.logGaps) > 1e-12 {
				t.Errorf("log gaps %g, want %g", got.logGaps, want.logGaps)
			}
			got.logGaps, got.logGaps2, got.episode, got.refunds, got.currency = want.logGaps, want.logGaps2, want.episode, 0, want.currency
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(Customer{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	partial := build(0, 10)
	partial.Refund(noon(10), 4e6, false, &s)
	if x, mean := partial.Spend(); x != 1 || mean != 6 {
		t.Errorf("after a partial refund %d repeats of %g, want 1 of 6", x, mean)
	}
	twice := build(0, 10, 10)
	twice.Refund(noon(10), 10e6, true, &s)
	if twice.Orders() != 2 {
		t.Errorf("%d transactions, want 2: another order of the day remains", twice.Orders())
	}
	old := build(0, 10, 20, 30, 40, 50)
	old.Refund(noon(10), 10e6, true, &s)
	if x, mean := old.Spend(); x != 5 || mean != 8 {
		t.Errorf("a forgotten day: %d repeats of %g, want 5 of 8", x, mean)
	}
}

// TestLateOrder: what is known late is put where it belongs, in any order.
func TestLateOrder(t *testing.T) {
	s := DefaultSetting()
	var want Customer
	for _, d := range []int{0, 7, 20, 41} {
		want.Order(noon(d), noon(d), 10e6, "EUR", &s)
	}
	for _, order := range [][]int{{41, 20, 7, 0}, {20, 0, 41, 7}, {0, 41, 7, 20}} {
		var got Customer
		for _, d := range order {
			got.Order(noon(d), noon(50), 10e6, "EUR", &s)
		}
		if math.Abs(got.logGaps-want.logGaps) > 1e-12 {
			t.Errorf("%v: log gaps %g, want %g", order, got.logGaps, want.logGaps)
		}
		if math.Abs(float64(got.logGaps2-want.logGaps2)) > 1e-4 {
			t.Errorf("%v: squared log gaps %g, want %g", order, got.logGaps2, want.logGaps2)
		}
		got.logGaps, got.logGaps2 = want.logGaps, want.logGaps2
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Customer{})); diff != "" {
			t.Errorf("%v: %s", order, diff)
		}
	}
}

func TestObjection(t *testing.T) {
	s := DefaultSetting()
	var c Customer
	c.Order(noon(0), noon(0), 1e6, "EUR", &s)
	a := rest(t, &c, noon(0), &s)
	w, ok := c.Object(a.Due+dayMicros, true, &s)
	if !ok || w.Kind != Withdrawn || w.Episode != a.Episode {
		t.Fatalf("%+v (%t)", w, ok)
	}
	if _, ok := c.NextWake(a.Due+dayMicros, &s); ok || !c.Objected() {
		t.Error("scored in spite of an objection")
	}
	c.Object(a.Due+2*dayMicros, false, &s)
	if _, ok := c.NextWake(a.Due+2*dayMicros, &s); ok {
		t.Error("raised twice in one episode")
	}
	c.Order(noon(400), noon(400), 1e6, "EUR", &s)
	if _, ok := c.NextWake(noon(400), &s); !ok {
		t.Error("not woken after the next order")
	}
}

func TestBehaviourDecays(t *testing.T) {
	var c Customer
	one := Behaviour{Visits: 1, Minutes: 32, Searches: 2}
	c.Behave(noon(0), one)
	c.Behave(noon(7), one)
	c.Behave(noon(0), one) // known late
	const unit = 1. / decayedUnit
	if got := c.week.value(); math.Abs(got-2) > unit {
		t.Errorf("visits of the week %g, want 2", got)
	}
	quarter := 1 + 2*math.Exp2(-7./90)
	for name, v := range map[string][2]float64{
		"visits": {c.quarter.value(), quarter}, "minutes": {c.minutes.value(), 2 * quarter}, "searches": {c.searches.value(), 2 * quarter},
		"carts": {c.carts.value(), 0},
	} {
		if math.Abs(v[0]-v[1]) > 2*unit {
			t.Errorf("%s of the quarter %g, want %g", name, v[0], v[1])
		}
	}
	// A visit every hour of a year: the counts find their level, which they would
	// not if they were rounded every hour.
	for h := range 365 * 24 {
		c.Behave(noon(20)+int64(h)*3600*second, Behaviour{Carts: .02})
	}
	if want, got := .48/math.Ln2*90*(1-math.Exp2(-365./90)), c.carts.value(); math.Abs(got-want) > .05*want {
		t.Errorf("additions to the cart %g, want about %g", got, want)
	}
	c.Behave(noon(900), Behaviour{Visits: 1e9, Minutes: -5, Mails: math.NaN()})
	if c.week.value() < 255 || c.mails.value() != 0 {
		t.Errorf("%g visits and %g mails, want the cap and none", c.week.value(), c.mails.value())
	}
}

// act applies a drawn action and returns the time after it.
func act(t *rapid.T, c *Customer, now int64, s *Setting) int64 {
	now += rapid.Int64Range(0, 60*dayMicros).Draw(t, "wait")
	at := now - rapid.SampledFrom([]int64{0, 0, 0, second, 40 * dayMicros, 900 * dayMicros}).Draw(t, "late")
	value := rapid.Int64Range(0, 500e6).Draw(t, "value")
	switch rapid.IntRange(0, 5).Draw(t, "action") {
	case 0, 1:
		c.Order(at, now, value, "EUR", s)
	case 2:
		if c.Orders() > 0 && rapid.Bool().Draw(t, "last") {
			at = c.LastOrder()
		}
		c.Refund(at, value, rapid.Bool().Draw(t, "full"), s)
	case 3:
		c.Behave(at, Behaviour{Visits: 1, Minutes: rapid.Float64Range(0, 90).Draw(t, "minutes"), Carts: 2})
	case 4:
		c.Object(now, rapid.Bool().Draw(t, "objected"), s)
	case 5:
		if due, ok := c.NextWake(now, s); ok {
			now = due
		}
		c.Wake(now, rapid.Uint64().Draw(t, "draw"), s)
	}
	return now
}

// TestAnyLifePacks: whatever happens, the packed customer is the customer, inside
// its size, with finite answers.
func TestAnyLifePacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		s.Params = anyParams(t)
		var c Customer
		now := noon(2000)
		raised := map[uint32]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "actions") {
			was := c.Raised()
			now = act(t, &c, now, &s)
			if !was && c.Raised() {
				if raised[c.Episode()] {
					t.Fatalf("raised twice in episode %d", c.Episode())
				}
				raised[c.Episode()] = true
			}
			b, err := c.MarshalBinary()
			if err != nil || len(b) != StateBytes || StateBytes > 97 {
				t.Fatalf("%d bytes (%v)", len(b), err)
			}
			var back Customer
			if err := back.UnmarshalBinary(b); err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			if back != c {
				t.Fatal(cmp.Diff(c, back, cmp.AllowUnexported(Customer{})))
			}
			if p, ok := c.Score(now, &s); ok && !(p >= 0 && p <= 1) {
				t.Fatalf("score %g", p)
			}
			if due, ok := c.NextWake(now, &s); ok && (due < now || due > now+90*dayMicros) {
				t.Fatalf("wake-up at %d, now is %d", due, now)
			}
		}
	})
}

func FuzzUnmarshal(f *testing.F) {
	s := DefaultSetting()
	var c Customer
	b, _ := c.MarshalBinary()
	f.Add(b)
	for _, d := range []int{0, 10, 30, 31, 90} {
		c.Order(noon(d), noon(d), 20e6, "EUR", &s)
		b, _ = c.MarshalBinary()
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Customer
		if err := c.UnmarshalBinary(b); err != nil {
			if c != (Customer{}) {
				t.Fatal("changed by bytes that were refused")
			}
			return
		}
		out, err := c.MarshalBinary()
		if err != nil || !bytes.Equal(out, b) {
			t.Fatalf("%x packs as %x (%v)", b, out, err)
		}
		now := c.LastOrder() + noon(0)
		c.Wake(now, 0, &s)
		c.Refund(c.LastOrder(), 1, true, &s)
		c.Behave(now, Behaviour{Visits: 1})
		c.Order(now, now, 1, "EUR", &s)
		if due, ok := c.NextWake(now, &s); ok && due < now {
			t.Fatalf("a wake-up at %d before %d", due, now)
		}
	})
}

func TestValidateReportsEverything(t *testing.T) {
	s := DefaultSetting()
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	if err := DefaultFitConfig().Validate(); err != nil {
		t.Error(err)
	}
	s.Params.R, s.Params.K, s.Value.Q, s.Policy.Theta, s.Policy.QuietDays = math.NaN(), 4, 1, 1, 400
	var n int
	if err := s.Validate(); err != nil {
		n = bytes.Count([]byte(err.Error()), []byte("\n")) + 1
	}
	if n != 5 {
		t.Errorf("%d mistakes reported, want 5: %v", n, s.Validate())
	}
}
