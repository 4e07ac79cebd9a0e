package restock

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// event is something told of a product; kind as in tellTo.
type event struct {
	at    int64
	kind  int
	units int64
}

func (e event) tellTo(p *Product, s *Setting) (Signal, bool) {
	switch e.kind {
	case 0:
		return p.StockLevel(e.at, e.units*5, s)
	case 1:
		return p.PurchaseOrder(e.at, e.units*3, 0, s)
	case 2:
		return p.Receipt(e.at, e.units*3, 0, s)
	case 3:
		return p.StockAdjust(e.at, e.units-4, s)
	case 4:
		return p.Cancel(e.at, min(e.units, 2), s)
	}
	return p.Sale(e.at, e.units, 10e6, s)
}

// drawLife is a shop's history of one product: facts of all kinds, mostly sales.
func drawLife(random *rand.Rand) (all []event) {
	at := noon(0)
	all = append(all, event{at, 0, random.Int64N(60)})
	waits := [6]int64{second, 3600 * second, 20 * 3600 * second, dayMicros, 3 * dayMicros, 20 * dayMicros}
	for range 1 + random.IntN(40) {
		at += waits[random.IntN(len(waits))]
		all = append(all, event{at, random.IntN(16), random.Int64N(9)})
	}
	return all
}

// lived is what came of a life: signals, and wake-ups.
type lived struct {
	signals []Signal
	wakes   int
}

// live lets a product live, and wakes it when after says so.
func live(life []event, end int64, s *Setting, after func(p *Product, now int64, woken bool) (int64, bool)) (l lived, p Product) {
	hear := func(g Signal, said bool) {
		if said {
			l.signals = append(l.signals, g)
		}
	}
	var due int64
	waits := false
	wake := func(until int64) {
		for waits && due < until {
			now := due
			hear(p.Wake(now, s))
			l.wakes++
			due, waits = after(&p, now, true)
		}
	}
	for _, e := range life {
		wake(e.at)
		hear(e.tellTo(&p, s))
		due, waits = after(&p, e.at, false)
	}
	wake(end)
	p.CloseDay(s.Day(end)-1, s)
	return l, p
}

// TestAskedAtTheCloseIsEnough: to search for the close that changes something when a day is
// closed, and not after each of its facts, gives the same signals at the same times. A
// search skips days and takes the experts' weights of its own day, so that one that
// starts a day later may find another close: in about one life of a hundred, and then
// nearer to what is decided by who looks every midnight.
func TestAskedAtTheCloseIsEnough(t *testing.T) {
	const lives, offset = 300, 17 * second
	random := rand.New(rand.NewPCG(5, 6))
	var differ, wasDaily, isDaily, searches, before int
	for range lives {
		s := DefaultSetting()
		life := drawLife(random)
		end := life[len(life)-1].at + 40*dayMicros
		want, wantEnd := live(life, end, &s, func(p *Product, now int64, _ bool) (int64, bool) {
			before++
			return p.NextWake(now, offset, &s)
		})
		got, gotEnd := live(life, end, &s, func(p *Product, now int64, woken bool) (int64, bool) {
			if !woken {
				return p.NextClose(now, offset, &s)
			}
			searches++
			return p.NextWake(now, offset, &s)
		})
		if reflect.DeepEqual(want.signals, got.signals) {
			if wantEnd != gotEnd {
				t.Fatal("equal signals and different products")
			}
			continue
		}
		differ++
		daily, _ := live(life, end, &s, func(p *Product, now int64, _ bool) (int64, bool) { return p.NextClose(now, offset, &s) })
		wasDaily += unlike(want.signals, daily.signals)
		isDaily += unlike(got.signals, daily.signals)
	}
	t.Logf("%d of %d lives differ, by %d signals from daily decisions where it were %d; %d searches where it were %d", differ, lives, isDaily, wasDaily, searches, before)
	if differ > lives/50 || isDaily > wasDaily || searches > before {
		t.Error("too many, or further from daily decisions, or more searches")
	}
}

// unlike is how many signals of two runs have no equal in the other.
func unlike(a, b []Signal) (n int) {
	for _, both := range [2][2][]Signal{{a, b}, {b, a}} {
		for _, g := range both[0] {
			if !slices.ContainsFunc(both[1], func(h Signal) bool { return h.Due == g.Due && h.Kind == g.Kind && h.Quantity == g.Quantity }) {
				n++
			}
		}
	}
	return n
}

// TestWokenToTell: a product that is asked wakes at the end of its weeks, tells each of them
// once, and ends as one that slept.
func TestWokenToTell(t *testing.T) {
	const offset = 17 * second
	random := rand.New(rand.NewPCG(7, 8))
	for range 40 {
		s := DefaultSetting()
		life := drawLife(random)
		life[0].kind = 9 // stock is not known, so that nothing else wakes it
		for i := range life {
			if life[i].kind == 0 {
				life[i].kind = 9
			}
		}
		end := life[len(life)-1].at + 100*dayMicros
		_, slept := live(life, end, &s, func(*Product, int64, bool) (int64, bool) { return 0, false })
		var weeks []Day
		var sales int
		s.Tell = func(told Stat) {
			switch told.Kind {
			case StatWeek:
				weeks = append(weeks, told.Day)
			case StatDay:
				sales++
			}
		}
		got, woken := live(life, end, &s, func(p *Product, now int64, woken bool) (int64, bool) {
			due, ok := p.NextTold(now, offset, &s)
			if closes, also := p.NextClose(now, offset, &s); also && !woken {
				due = min(due, closes)
			}
			return due, ok
		})
		if slept != woken {
			t.Fatal("telling changes the product")
		}
		if want := int(woken.open-woken.first) / 7; len(weeks) != want || got.wakes < want || got.wakes > want+len(life) {
			t.Fatalf("%d weeks are told in %d wake-ups, want %d", len(weeks), got.wakes, want)
		}
		for i, day := range weeks {
			if want := woken.first + Day(7*i+6); day != want {
				t.Fatalf("week %d ends on day %d, want %d", i, day, want)
			}
		}
	}
}
