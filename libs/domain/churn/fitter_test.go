package churn

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// panel is a world whose customers are learnt from one label at a time.
type panel struct {
	w       world
	setting Setting
	config  FitterConfig
	fitter  Fitter
	states  []Customer
	labels  []Label
	models  int
	stats   []Stat
	stored  bool // customers, labels, stats and fitter go through their bytes each time
	t       interface{ Fatal(...any) }
}

func draw(i int) uint64 {
	z := uint64(i)*0x9e3779b97f4a7c15 + 1
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	return z ^ z>>27
}

// live goes through a world up to a day.
func (p *panel) live(until int) {
	if p.setting.Policy == (Policy{}) {
		p.setting = DefaultSetting()
	}
	p.states, p.labels = make([]Customer, len(p.w.orders)), make([]Label, len(p.w.orders))
	type thing struct {
		at  int64
		who int
	}
	next := make([]int, len(p.w.orders))
	var due []thing
	wait := func(i int, now int64) {
		if at, ok := p.labels[i].Next(&p.states[i], draw(i), now, &p.setting); ok {
			due = append(due, thing{at, i})
		}
	}
	for d := range until + 1 {
		now := int64(d+7) * dayMicros
		for {
			k := -1
			for j := range due {
				if due[j].at <= now && (k < 0 || due[j].at < due[k].at) {
					k = j
				}
			}
			if k < 0 {
				break
			}
			x := due[k]
			due = slices.Delete(due, k, k+1)
			p.turn(x.who, x.at)
			wait(x.who, x.at)
		}
		for i, orders := range p.w.orders {
			for next[i] < len(orders) && orders[next[i]] <= d {
				p.states[i].Order(now, now, int64(p.w.spend[i]*1e6), "EUR", &p.setting)
				if next[i]++; next[i] == 1 {
					wait(i, now)
				}
			}
		}
	}
}

func (p *panel) turn(i int, at int64) {
	stat, ok := p.labels[i].Turn(&p.states[i], draw(i), at, &p.setting)
	if !ok {
		return
	}
	if err := stat.Validate(); err != nil {
		p.t.Fatal(err)
	}
	if p.stored {
		b, err := stat.AppendBinary(nil)
		if err != nil {
			p.t.Fatal(err)
		}
		stat = Stat{}
		if err := stat.UnmarshalBinary(b); err != nil || len(b) > 113 {
			p.t.Fatal(len(b), err)
		}
		b, err = p.fitter.MarshalBinary()
		if err != nil {
			p.t.Fatal(err)
		}
		p.fitter = Fitter{}
		if err := p.fitter.UnmarshalBinary(b); err != nil {
			p.t.Fatal(err)
		}
		l := &p.labels[i]
		if b, err = l.AppendBinary(nil); err != nil || len(b) != LabelBytes && l.Open() || len(b) > 64 {
			p.t.Fatal(len(b), err)
		}
		*l = Label{}
		if err := l.UnmarshalBinary(b); err != nil {
			p.t.Fatal(err)
		}
	}
	p.stats = append(p.stats, stat)
	p.learn(stat)
}

func (p *panel) learn(stat Stat) {
	if m, worth := p.fitter.Learn(stat, p.config, &p.setting); worth {
		if err := m.Validate(); err != nil {
			p.t.Fatal(err)
		}
		p.models++
		if err := m.Into(&p.setting); err != nil {
			p.t.Fatal(err)
		}
	}
}

// TestFitterLearnsAsItRuns: where spend tells who stays, one label a customer says
// so; where the base model is the truth, it costs next to nothing.
func TestFitterLearnsAsItRuns(t *testing.T) {
	const until = 420
	for _, tells := range []float64{1, 0} {
		p := panel{t: t, w: newWorld(2500, until+90, tells, 11), config: DefaultFitterConfig()}
		p.live(until)
		base, corrected := p.w.briers(&Trainer{setting: p.setting}, p.states, until)
		n, share := p.fitter.Customers()
		t.Logf("spend tells %g: base %.4f, corrected %.4f, running gain %.4f of %.0f labels, %d customers, %d models", tells, base, corrected, p.fitter.Gain(), p.fitter.Labels(), n, p.models)
		if tells > 0 && !(corrected < base-.001) || tells == 0 && corrected > base+.001 {
			t.Errorf("spend tells %g: Brier score %.4f, base %.4f", tells, corrected, base)
		}
		if share != 1 || !p.fitter.Fitted() || p.models < until/7/2 || p.models > until {
			t.Errorf("share %g, fitted %t, %d models", share, p.fitter.Fitted(), p.models)
		}
		if b, _ := p.fitter.MarshalBinary(); len(b) > 50_000 {
			t.Errorf("%d bytes", len(b))
		}
	}
}

// TestTheBaseFitIsThatOfAllCustomers: a histogram of the histories as they were
// when the open labels opened gives nearly the parameters that all histories give.
func TestTheBaseFitIsThatOfAllCustomers(t *testing.T) {
	p := panel{t: t, w: newWorld(3000, 500, 0, 3), config: DefaultFitterConfig()}
	p.live(400)
	var cells []Cell
	var gaps float64
	for i := range p.states {
		if p.states[i].Orders() > 0 {
			cells = append(cells, Cell{p.states[i].History(int64(407)*dayMicros, &p.setting), 1})
			gaps += p.states[i].LogGaps()
		}
	}
	all, _, err := Fit(cells, gaps, p.config.Fit)
	if err != nil {
		t.Fatal(err)
	}
	got := p.setting.Params
	t.Logf("fitted %+v, all customers %+v, %d cells, width %d", got, all, len(p.fitter.cells), p.fitter.width)
	if got.K != all.K {
		t.Errorf("k %d, want %d", got.K, all.K)
	}
	for i := range p.states {
		if h := p.states[i].History(int64(407)*dayMicros, &p.setting); p.states[i].Orders() > 0 && math.Abs(got.Score(h, 90)-all.Score(h, 90)) > .05 {
			t.Fatalf("%+v: score %.3f, with all customers %.3f", h, got.Score(h, 90), all.Score(h, 90))
		}
	}
}

// TestFitterPacked: whatever went through its bytes between any two stats is what
// did not, to the last bit.
func TestFitterPacked(t *testing.T) {
	w := newWorld(300, 400, 1, 5)
	var packed [2][]byte
	for i := range packed {
		p := panel{t: t, w: w, config: DefaultFitterConfig(), stored: i == 1}
		p.config.Cells, p.config.Ring = 128, 60 // both are full
		p.live(390)
		if p.fitter.width == 0 || len(p.fitter.ring) != 60 {
			t.Errorf("width %d, ring of %d", p.fitter.width, len(p.fitter.ring))
		}
		packed[i], _ = p.fitter.MarshalBinary()
	}
	if !bytes.Equal(packed[0], packed[1]) {
		t.Error("a fitter that was stored differs from one that was not")
	}
}

// TestWhatClosesIsTakenBack: a sample whose customers all leave it leaves nothing.
func TestWhatClosesIsTakenBack(t *testing.T) {
	p := panel{t: t, w: newWorld(200, 300, 1, 7), config: DefaultFitterConfig()}
	p.config.Cells = 128
	p.live(290)
	now := int64(298) * dayMicros
	for i := range p.states {
		p.states[i].Object(now, true, &p.setting)
		p.turn(i, now)
	}
	n, _ := p.fitter.Customers()
	if n != 0 || len(p.fitter.cells) != 0 || p.fitter.unknown == 0 || p.fitter.logGaps != 0 {
		t.Errorf("%d customers, %d cells, %d void labels, log gaps %g", n, len(p.fitter.cells), p.fitter.unknown, p.fitter.logGaps)
	}
	for i := range p.labels {
		if _, ok := p.labels[i].Next(&p.states[i], draw(i), now, &p.setting); ok || p.labels[i].Open() {
			t.Fatal("who objected is learnt from")
		}
	}
}

// TestTheSampleIsHalved: of a greater shop fewer are learnt from, and the model says so.
func TestTheSampleIsHalved(t *testing.T) {
	p := panel{t: t, w: newWorld(1500, 400, 1, 9), config: DefaultFitterConfig()}
	p.config.Customers = 200
	p.live(390)
	n, share := p.fitter.Customers()
	if n > 400 || n < 50 || share > .25 || p.setting.Study.Halvings < 2 || math.Exp2(-float64(p.setting.Study.Halvings)) != share {
		t.Errorf("%d customers, share %g, setting %+v", n, share, p.setting.Study)
	}
}

// TestLabels: a label closes when its horizon is over and not before, whatever the
// customer does, and says whether he ordered in it.
func TestLabels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DefaultSetting()
		outage := rapid.Int64Range(0, 40).Draw(t, "outage")
		from := noon(rapid.IntRange(0, 300).Draw(t, "since"))
		to := from + outage*dayMicros
		s.Observed = func(a, b int64) int64 { return b - a - max(0, min(b, to)-max(a, from)) }
		var c Customer
		var l Label
		hash := rapid.Uint64().Draw(t, "hash")
		orders := rapid.SliceOfNDistinct(rapid.IntRange(0, 400), 1, 30, rapid.ID[int]).Draw(t, "orders")
		slices.Sort(orders)
		horizon := int64(90) * dayMicros
		now := noon(orders[0])
		c.Order(now, now, 5e6, "EUR", &s)
		var opened int64
		for k := 1; now < noon(420); {
			at, ok := l.Next(&c, hash, now, &s)
			if !ok || opened != 0 && at != max(now, opened+horizon) || opened == 0 && at > now+horizon+second {
				t.Fatalf("next at %v (%t), opened at %v", time.UnixMicro(at), ok, time.UnixMicro(opened))
			}
			if k < len(orders) && noon(orders[k]) < at {
				now = noon(orders[k])
				k++
				c.Order(now, now, 5e6, "EUR", &s)
				if _, ok := l.Turn(&c, hash, now, &s); ok && now != at {
					t.Fatal("a label turns before its time")
				}
				continue
			}
			now = at
			stat, ok := l.Turn(&c, hash, now, &s)
			if !ok || stat.Opened == nil || (stat.Closed == nil) != (opened == 0) || stat.Validate() != nil {
				t.Fatalf("%+v", stat)
			}
			if e := stat.Closed; e != nil {
				var in int
				for _, d := range orders[:k] {
					if at := noon(d); at > opened && at <= now {
						in++
					}
				}
				lost := max(0, min(now, to)-max(opened, from))
				if void := float64(lost) > unseen*float64(horizon)+1; void != e.Void || !void && e.Churned != (in == 0) || e.Opened != opened/second {
					t.Fatalf("%+v, %d orders in it, %v lost", e, in, time.Duration(lost)*1000)
				}
			}
			opened = now
		}
	})
}

// TestFitterIsFinite: no stats lead to what is no number.
func TestFitterIsFinite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := DefaultFitterConfig()
		c.Ring, c.Cells, c.Customers = 32, 128, 100
		s := DefaultSetting()
		var f Fitter
		number := rapid.OneOf(rapid.Float32Range(-30, 30), rapid.SampledFrom([]float32{0, 1e15, -1e15, 1e-30}))
		anySnapshot := func() Snapshot {
			p := Snapshot{X: rapid.Uint16().Draw(t, "x"), Recency: rapid.Uint32().Draw(t, "recency"), LogGaps: number.Draw(t, "gaps")}
			p.Age = max(p.Recency, rapid.Uint32().Draw(t, "age"))
			for i := range p.Noted {
				p.Noted[i] = rapid.Int16().Draw(t, "noted")
			}
			return p
		}
		at := int64(rapid.Uint32Range(1, math.MaxUint32/2).Draw(t, "at"))
		for range rapid.IntRange(0, 80).Draw(t, "stats") {
			at = max(1, at+rapid.Int64Range(-20*86400, 40*86400).Draw(t, "later"))
			stat := Stat{At: at, Halvings: rapid.IntRange(0, MaxHalvings).Draw(t, "halvings")}
			if rapid.Bool().Draw(t, "opens") {
				stat.Opened = &Opening{anySnapshot(), number.Draw(t, "base"), number.Draw(t, "mean")}
			}
			if rapid.Bool().Draw(t, "closes") {
				stat.Closed = &Example{Snapshot: anySnapshot(), Opened: max(1, at-rapid.Int64Range(0, 200*86400).Draw(t, "ago")), Base: number.Draw(t, "base"), Churned: rapid.Bool().Draw(t, "churned"), Expected: number.Draw(t, "expected"), Spent: number.Draw(t, "spent")}
				if v := number.Draw(t, "said"); v != 0 {
					stat.Closed.Said = &v
				}
			}
			if stat.Validate() != nil {
				continue
			}
			if m, worth := f.Learn(stat, c, &s); worth {
				if err := m.Validate(); err != nil {
					t.Fatal(err)
				}
				if err := m.Into(&s); err != nil {
					t.Fatal(err)
				}
			}
			b, err := f.MarshalBinary()
			if err == nil {
				err = new(Fitter).UnmarshalBinary(b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzFitter: no bytes break the reading, and what was read can be learnt from and
// written.
func FuzzFitter(f *testing.F) {
	p := panel{t: f, w: newWorld(120, 250, 1, 1), config: DefaultFitterConfig()}
	p.live(240)
	b, err := p.fitter.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{fitterVersion, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var x, y Fitter
		if x.UnmarshalBinary(b) != nil {
			return
		}
		s := DefaultSetting()
		if m, worth := x.Learn(p.stats[len(p.stats)-1], p.config, &s); worth && m.Validate() != nil {
			t.Skip("a fitter that nothing has learnt may say anything, but not break")
		}
		c, err := x.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		_ = y.UnmarshalBinary(c)
	})
}

// FuzzStat: what is read as a stat is read again as it was.
func FuzzStat(f *testing.F) {
	p := panel{t: f, w: newWorld(20, 250, 1, 1), config: DefaultFitterConfig()}
	p.live(240)
	for _, s := range p.stats {
		b, _ := s.AppendBinary(nil)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again Stat
		if s.UnmarshalBinary(b) != nil {
			return
		}
		c, _ := s.AppendBinary(nil)
		if err := again.UnmarshalBinary(c); err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%+v was read, and %+v again: %v", s, again, err)
		}
	})
}

// FuzzLabel: what is read as a label is written as it was.
func FuzzLabel(f *testing.F) {
	var c Customer
	var l Label
	s := DefaultSetting()
	c.Order(noon(1), noon(1), 5e6, "EUR", &s)
	at, _ := l.Next(&c, 8, noon(1), &s)
	l.Turn(&c, 8, at, &s)
	b, _ := l.AppendBinary(nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var l Label
		if l.UnmarshalBinary(b) != nil || len(b) == 0 {
			return
		}
		if c, _ := l.AppendBinary(nil); !bytes.Equal(b, c) {
			t.Errorf("%x was read, %x written", b, c)
		}
	})
}
