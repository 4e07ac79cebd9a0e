package churn

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// world is a simulated shop whose customers are drawn from MBG/NBD, and who spend
// the more the longer they stay where spend tells.
type world struct {
	orders [][]int // days of each customer
	spend  []float64
}

func newWorld(n, days int, tells float64, seed uint64) world {
	rnd := newRand(seed)
	p := Params{.8, 40, .7, 1.8, 1}
	var w world
	for range n {
		at := rnd.uniform() * float64(days) / 3
		rate := rnd.gamma(p.R) / p.Alpha
		a, b := rnd.gamma(p.A), rnd.gamma(p.B)
		leave := a / (a + b)
		noise := rnd.uniform() - .5
		var orders []int
		for {
			orders = append(orders, int(at))
			if rnd.uniform() < leave {
				break
			}
			if at += max(1, -math.Log(rnd.uniform())/rate); at > float64(days) {
				break
			}
		}
		w.orders = append(w.orders, orders)
		w.spend = append(w.spend, 30*math.Exp(2*noise+tells*(.5-leave)*4))
	}
	return w
}

// train lives through a world up to a day.
func (w world) train(cfg TrainConfig, until int) (*Trainer, []Customer) {
	s := DefaultSetting()
	t := NewTrainer(cfg, s)
	customers := make([]Customer, len(w.orders))
	next := make([]int, len(w.orders))
	bins, gaps := Histogram{}, 0.0
	for d := 0; d <= until; d++ {
		for i, orders := range w.orders {
			for next[i] < len(orders) && orders[next[i]] <= d {
				c := &customers[i]
				if b, ok := c.Bin(); ok {
					bins[b]--
					gaps -= c.LogGaps()
				}
				at := int64(orders[next[i]]+7) * dayMicros
				c.Order(at, at, int64(w.spend[i]*1e6), "EUR", &s)
				b, _ := c.Bin()
				bins[b]++
				gaps += c.LogGaps()
				next[i]++
			}
		}
		if d%7 == until%7 && d > 7 {
			t.Snapshot(int64(d+7)*dayMicros, customers, bins, gaps)
		}
	}
	return t, customers
}

// briers returns the Brier scores of base and corrected scores of the horizon after
// a day.
func (w world) briers(t *Trainer, customers []Customer, day int) (base, corrected float64) {
	s := t.Setting()
	now := int64(day+7) * dayMicros
	var n float64
	for i := range customers {
		p, ok := customers[i].Score(now, &s)
		if !ok {
			continue
		}
		q, _ := customers[i].Base(now, &s)
		y := 1.0
		for _, d := range w.orders[i] {
			if d > day && d <= day+90 {
				y = 0
			}
		}
		base += (q - y) * (q - y)
		corrected += (p - y) * (p - y)
		n++
	}
	return base / n, corrected / n
}

// TestTheCorrectionEarnsOrIsSilent: where spend tells who stays, the corrected
// score is clearly better; where the base model is the truth, it costs nothing.
func TestTheCorrectionEarnsOrIsSilent(t *testing.T) {
	const until = 360
	telling := newWorld(2500, until+90, 1, 11)
	trainer, customers := telling.train(DefaultTrainConfig(), until)
	base, corrected := telling.briers(trainer, customers, until)
	t.Logf("spend tells: base %.4f, corrected %.4f, running gain %.4f of %.0f labels", base, corrected, trainer.Gain(), trainer.Labels())
	if !(corrected < base-.001) || trainer.Setting().Correction.Weights[featSpend] > -.1 {
		t.Errorf("Brier score %.4f, base %.4f: nothing was learnt of spend", corrected, base)
	}
	for seed := uint64(1); seed <= 2; seed++ {
		truth := newWorld(2000, until+90, 0, seed)
		trainer, customers := truth.train(DefaultTrainConfig(), until)
		base, corrected := truth.briers(trainer, customers, until)
		t.Logf("nothing to learn: base %.4f, corrected %.4f", base, corrected)
		if corrected > base+.0005 {
			t.Errorf("Brier score %.4f, base %.4f: the correction costs", corrected, base)
		}
	}
	off := DefaultTrainConfig()
	off.Correct = false
	trainer, _ = telling.train(off, until)
	if trainer.Setting().Correction != nil || trainer.Open() != 0 || !trainer.Fitted() {
		t.Error("a trainer of the base model alone takes snapshots, or does not fit")
	}
}

// TestTrainingRepeats: equal lives give equal models, bit for bit.
func TestTrainingRepeats(t *testing.T) {
	w := newWorld(500, 300, 1, 5)
	a, _ := w.train(DefaultTrainConfig(), 280)
	b, _ := w.train(DefaultTrainConfig(), 280)
	x, y := a.Setting(), b.Setting()
	if x.Params != y.Params || x.Value != y.Value || x.ValueLevel != y.ValueLevel || *x.Correction != *y.Correction {
		t.Errorf("%+v and %+v", x, y)
	}
}

// TestStreamedIsBatch: a customer who was streamed, packed and unpacked between any
// two orders, with orders repeated within their day, has the state and the base
// score of the batch computation.
func TestStreamedIsBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		s.Params = anyParams(t)
		days := rapid.SliceOfNDistinct(rapid.IntRange(0, 3000), 1, 60, rapid.ID[int]).Draw(t, "days")
		slices.Sort(days)
		var c Customer
		for _, d := range days {
			for range rapid.IntRange(1, 3).Draw(t, "times") {
				at := noon(d) + rapid.Int64Range(0, 8*3600).Draw(t, "second")*second
				if first := noon(d); c.LastOrder() < first {
					at = first
				}
				c.Order(at, at, 10e6, "EUR", &s)
			}
			if rapid.Bool().Draw(t, "stored") {
				b, err := c.MarshalBinary()
				if err != nil {
					t.Fatal(err)
				}
				if c = (Customer{}); c.UnmarshalBinary(b) != nil {
					t.Fatal("not unpacked")
				}
			}
		}
		silence := rapid.Float64Range(0, 1000).Draw(t, "silence")
		last := days[len(days)-1]
		batch := History{len(days) - 1, float64(last - days[0]), float64(last-days[0]) + silence}
		now := noon(last) + int64(silence*float64(dayMicros))
		got, _ := c.Base(now, &s)
		if want := s.Params.Score(batch, s.Policy.HorizonDays); math.Abs(got-want) > 1e-9 {
			t.Errorf("streamed %.12f, batch %.12f", got, want)
		}
		var gaps float64
		for i := 1; i < len(days); i++ {
			gaps += math.Log(float64(days[i] - days[i-1]))
		}
		if math.Abs(gaps-c.LogGaps()) > 1e-9 {
			t.Errorf("log gaps %g, batch %g", c.LogGaps(), gaps)
		}
	})
}

// TestVersionOneIsRead: a customer that an older program packed.
func TestVersionOneIsRead(t *testing.T) {
	s := DefaultSetting()
	var c Customer
	for _, d := range []int{0, 20, 30} {
		c.Order(noon(d), noon(d), 5e6, "EUR", &s)
	}
	b, err := c.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	// Version 1: no squares at 25, and visits as two 32-bit numbers at 65.
	old := append([]byte{stateVersion1}, b[1:25]...)
	old = append(old, b[29:65]...)
	old = append(old, 0, 0, 0, 1, 0, 0, 0xc0, 0x3f, 0, 0, 0x20, 0x40) // 1.5 and 2.5 visits
	old = append(old, b[81:]...)
	if len(old) != stateBytes1 {
		t.Fatalf("%d bytes, want %d", len(old), stateBytes1)
	}
	var got Customer
	if err := got.UnmarshalBinary(old); err != nil {
		t.Fatal(err)
	}
	if got.week.value() != 1.5 || got.quarter.value() != 2.5 || got.behaved != 1<<24 {
		t.Errorf("%+v", got)
	}
	now := noon(90)
	x, _ := got.Base(now, &s)
	y, _ := c.Base(now, &s)
	if x != y || got.Orders() != 3 || got.LogGaps() != c.LogGaps() {
		t.Errorf("%+v, want %+v", got, c)
	}
	again, err := got.MarshalBinary()
	if err != nil || len(again) != StateBytes || !bytes.Equal(again[:2], []byte{stateVersion, 0}) {
		t.Errorf("packed again as %x (%v)", again, err)
	}
}

// TestCorrectedCrossing: the crossing of a corrected score is where it crosses, and
// the contributions of the reasons add up to it.
func TestCorrectedCrossing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		s.Params = anyParams(t)
		correction := &Correction{Intercept: rapid.Float64Range(-2, 2).Draw(t, "intercept")}
		for i := range correction.Weights {
			correction.Weights[i] = rapid.Float64Range(-.5, .5).Draw(t, "weight")
		}
		s.Correction = correction
		var c Customer
		day := 0
		for range rapid.IntRange(1, 12).Draw(t, "orders") {
			c.Order(noon(day), noon(day), 20e6, "EUR", &s)
			c.Behave(noon(day), Behaviour{Visits: 2, Minutes: 10})
			day += rapid.IntRange(1, 90).Draw(t, "gap")
		}
		now := noon(day)
		p, _ := c.Score(now, &s)
		var sum float64
		for _, r := range c.Reasons(now, &s) {
			sum += r.Contribution
		}
		if !(p >= 0 && p <= 1) || math.Abs(sum-logit(p)) > 1e-6*max(1, math.Abs(sum)) && math.Abs(sum) < 20 {
			t.Errorf("score %g, but reasons add up to %g", logit(p), sum)
		}
		at, ok := c.Crossing(&s)
		if !ok {
			return
		}
		if at < c.LastOrder() {
			t.Fatal("a crossing before the last order")
		}
		if after, _ := c.Score(at, &s); after < s.Policy.Theta-1e-3 {
			t.Errorf("at its crossing the score is %g", after)
		}
		if before := at - 2*second; before > c.LastOrder() {
			if v, _ := c.Score(before, &s); v > s.Policy.Theta+1e-3 {
				t.Errorf("just before its crossing the score is %g", v)
			}
		}
	})
}
