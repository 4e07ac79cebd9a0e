package restock

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// drawTold is anything that a product may tell.
func drawTold(t *rapid.T, day Day) Told {
	told := Told{Sampling: rapid.SampledFrom([]uint8{0, 0, 0, 1, 2}).Draw(t, "sampling")}
	share := rapid.Float32Range(0, 1)
	for range rapid.IntRange(1, 3).Draw(t, "stats") {
		s := Stat{Kind: StatKind(rapid.IntRange(1, 5).Draw(t, "kind")), Day: day - Day(rapid.IntRange(0, 3).Draw(t, "before"))}
		switch s.Kind {
		case StatDay:
			s.Units = rapid.Float32Range(0, 5).Draw(t, "units")
		case StatWeek:
			s.Class = uint8(rapid.IntRange(0, volumes-1).Draw(t, "volume"))
			s.Losses = [experts]float32{share.Draw(t, "a"), share.Draw(t, "b"), share.Draw(t, "c")}
		case StatCheck:
			s.Horizon, s.Class = uint8(rapid.IntRange(0, 1).Draw(t, "horizon")), uint8(rapid.IntRange(0, kinds-1).Draw(t, "kind"))
			s.Low = share.Draw(t, "low")
			s.High = s.Low + (1-s.Low)*share.Draw(t, "width")
		case StatLaunch:
			s.Band, s.Units = uint8(rapid.IntRange(0, bands-1).Draw(t, "band")), rapid.Float32Range(0, 100).Draw(t, "rate")
		case StatOffer:
			s.Group = uint16(rapid.IntRange(0, 300).Draw(t, "group"))
			s.Features = [terms]float32{2*share.Draw(t, "price") - 1, share.Draw(t, "deal"), share.Draw(t, "feature")}
			s.Effect, s.Noise = rapid.Float32Range(-3, 3).Draw(t, "effect"), effectNoise+share.Draw(t, "noise")
		}
		told.Stats = append(told.Stats, s)
	}
	return told
}

// TestPackedPoolLearnsTheSame: a pool that is packed and read again whenever, and what is
// told to it as bytes, make the same layers to the last bit, and so does a layer of bytes.
func TestPackedPoolLearnsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var whole, packed Pool
		day := Day(19000)
		for range rapid.IntRange(1, 60).Draw(t, "tellings") {
			day += Day(rapid.SampledFrom([]int{0, 0, 1, 1, 7, 40, 3000}).Draw(t, "later"))
			told := drawTold(t, day)
			b, _ := told.AppendBinary(nil)
			var again Told
			if err := again.UnmarshalBinary(b); err != nil || !reflect.DeepEqual(again, told) {
				t.Fatalf("%+v is read as %+v: %v", told, again, err)
			}
			whole.Hear(told)
			packed.Hear(again)
			b, _ = packed.AppendBinary(nil)
			if packed = (Pool{}); len(b) > 50_000 {
				t.Fatalf("%d bytes", len(b))
			}
			if err := packed.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			want, due := whole.Next()
			got, also := packed.Next()
			if due != also || due && !reflect.DeepEqual(want, got) {
				t.Fatalf("a layer %t of the whole, %t of the packed, or another one", due, also)
			}
			if !due {
				continue
			}
			b, _ = want.MarshalBinary()
			var read Layer
			if err := read.UnmarshalBinary(b); err != nil || len(b) > 10_000 {
				t.Fatalf("a layer of %d bytes: %v", len(b), err)
			}
			s := DefaultSetting()
			p := Product{known: true, first: day - 9, open: day, experts: [experts]expert{{30, 9, 20, 30}, {30, 9, 20, 30}, {30, 9, 20, 30}}}
			s.Layer = want
			d, mean := p.Demand(28, nil, &s)
			s.Layer = &read
			dRead, meanRead := p.Demand(28, nil, &s)
			if dRead.Mean != d.Mean || dRead.Variance != d.Variance || mean != meanRead || dRead.Quantile(.9) != d.Quantile(.9) || read.Until() != want.Until() {
				t.Fatalf("forecast with the layer %+v, with its bytes %+v", d, dRead)
			}
		}
	})
}

// TestPoolIsBounded: after fifty years of everything it has its largest size.
func TestPoolIsBounded(t *testing.T) {
	var p Pool
	for d := range Day(50 * 365) {
		var told Told
		for g := range uint16(4) {
			told.Stats = append(told.Stats, Stat{Kind: StatDay, Day: d, Units: 1}, Stat{Kind: StatOffer, Day: d, Group: uint16(d)*4 + g, Features: [terms]float32{.1}, Effect: -.2, Noise: 1})
		}
		p.Hear(told)
	}
	b, _ := p.MarshalBinary()
	if len(b) > 27_000 || len(p.totals) != maxDays || len(p.groups) != maxGroups {
		t.Errorf("%d bytes, %d days, %d groups", len(b), len(p.totals), len(p.groups))
	}
	if got := p.first + maxDays - 1; got != 50*365-1 || p.totals[maxDays-1] != 4 {
		t.Errorf("the last total is of day %d: %g", got, p.totals[maxDays-1])
	}
}

// TestSampleFitsTheShop: when far more tell than is needed, fewer are asked, until it is
// about enough; the totals stay comparable; and when the shop is small again, more are.
func TestSampleFitsTheShop(t *testing.T) {
	var p Pool
	var l *Layer
	const shop = 12000 // products that sell every day
	names := make([]string, shop)
	for i := range names {
		names[i] = fmt.Sprintf("product %d", i)
	}
	asked := func() (n int) {
		for _, name := range names {
			if l.Asks(name) {
				n++
			}
		}
		return n
	}
	live := func(from, to Day, share int) {
		for d := from; d < to; d++ {
			for i, name := range names {
				if i%share == 0 && l.Asks(name) {
					p.Hear(Told{Sampling: l.Sampling(), Stats: []Stat{{Kind: StatDay, Day: d, Units: 1}}})
				}
			}
			if next, due := p.Next(); due {
				l = next
			}
		}
	}
	live(0, 60, 1)
	if n := asked(); n > enough || n < enough/4 {
		t.Errorf("%d of %d products are asked, want about %d", n, shop, enough)
	}
	want := float64(shop) / float64(scale(int(p.sampling)))
	for d := range Day(59) {
		if got := float64(p.totals[d]); math.Abs(got-want) > .15*want {
			t.Fatalf("the total of day %d is %g, want %g: as if the sample had always been the present one", d, got, want)
		}
	}
	large := p.sampling
	live(60, 200, 60)
	if p.sampling >= large {
		t.Errorf("one of 2^%d is asked in a shop of %d, one of 2^%d in one of %d", p.sampling, shop/60, large, shop)
	}
}

// TestAsked: who is asked with a small sample is asked with every larger one.
func TestAsked(t *testing.T) {
	var n [6]int
	for i := range 40000 {
		name := fmt.Sprintf("%05d", i)
		was := true
		for k := range n {
			asks := (&Layer{sampling: uint8(k)}).Asks(name)
			if asks && !was {
				t.Fatalf("%s is asked with a sampling of %d and not with less", name, k)
			}
			if was = asks; asks {
				n[k]++
			}
		}
	}
	for k, got := range n {
		if want := 40000 / float64(scale(k)); math.Abs(float64(got)-want) > 4*math.Sqrt(want) {
			t.Errorf("%d are asked with a sampling of %d, want about %g", got, k, want)
		}
	}
}

// TestLayersCome: soon, then every week, and none of a day that is not over.
func TestLayersCome(t *testing.T) {
	var p Pool
	var days []Day
	for d := range Day(60) {
		p.Hear(Told{Stats: []Stat{{Kind: StatDay, Day: 100 + d, Units: 1}}})
		if l, due := p.Next(); due {
			days = append(days, l.Until()-100)
			if l.almanac.days > int(d) {
				t.Errorf("the layer until day %d knows %d days", l.Until(), l.almanac.days)
			}
		}
	}
	if want := []Day{1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 34, 41, 48, 55}; !reflect.DeepEqual(days, want) {
		t.Errorf("layers on days %v, want %v", days, want)
	}
}

// TestOrderOfTellingDoesNotMatter for what is added up by day.
func TestOrderOfTellingDoesNotMatter(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var told []Told
	for d := range Day(40) {
		for range 1 + d%7 {
			told = append(told, Told{Stats: []Stat{{Kind: StatDay, Day: d, Units: 1}}})
		}
	}
	var inOrder, mixed Pool
	for _, x := range told {
		inOrder.Hear(x)
	}
	random.Shuffle(len(told), func(i, j int) { told[i], told[j] = told[j], told[i] })
	for _, x := range told {
		mixed.Hear(x)
	}
	if a, b := inOrder.layer(40), mixed.layer(40); !reflect.DeepEqual(a, b) {
		t.Errorf("calendars differ: %+v, %+v", a.almanac, b.almanac)
	}
}

func FuzzPool(f *testing.F) {
	var p Pool
	b, _ := p.MarshalBinary()
	f.Add(b)
	p.Hear(Told{Stats: []Stat{{Kind: StatDay, Day: 3, Units: 1}, {Kind: StatOffer, Features: [terms]float32{1}, Noise: 1}, {Kind: StatCheck, High: .5}}})
	b, _ = p.MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Pool
		if p.UnmarshalBinary(b) != nil {
			return
		}
		if again, _ := p.MarshalBinary(); !bytes.Equal(again, b) {
			t.Fatalf("%x packs as %x", b, again)
		}
		p.Hear(Told{Stats: []Stat{{Kind: StatDay, Day: p.today + 7, Units: 1}}})
		l, due := p.Next()
		if !due {
			return
		}
		packed, _ := l.MarshalBinary()
		if err := new(Layer).UnmarshalBinary(packed); err != nil {
			t.Fatalf("its layer is none: %v", err)
		}
	})
}

func FuzzLayer(f *testing.F) {
	var p Pool
	for d := range Day(400) {
		p.Hear(Told{Stats: []Stat{{Kind: StatDay, Day: d, Units: 5}, {Kind: StatCheck, Day: d, High: .3}, {Kind: StatLaunch, Day: d, Units: 2}}})
	}
	b, _ := p.layer(400).MarshalBinary()
	f.Add(b)
	b, _ = (&Layer{almanac: almanac{period: 1}}).MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var l Layer
		if l.UnmarshalBinary(b) != nil {
			return
		}
		again, _ := l.MarshalBinary()
		if !bytes.Equal(again, b) {
			t.Fatalf("%x packs as %x", b, again)
		}
		s := DefaultSetting()
		s.Layer = &l
		q := stocked(&s, 20)
		d, rate := q.Forecast(noon(130), 28, &s)
		if !(d.Mean >= 0 && d.Variance >= d.Mean && rate >= 0) || d.Quantile(.9) < 0 || math.IsInf(d.Variance, 0) {
			t.Fatalf("forecast %+v, rate %g", d, rate)
		}
	})
}

func FuzzTold(f *testing.F) {
	told := Told{Stats: []Stat{{Kind: StatDay, Day: 3, Units: 1}, {Kind: StatOffer, Noise: 1}, {Kind: StatCheck}, {Kind: StatWeek}, {Kind: StatLaunch}}}
	b, _ := told.AppendBinary(nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var told Told
		if told.UnmarshalBinary(b) != nil {
			return
		}
		if again, _ := told.AppendBinary(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x packs as %x", b, again)
		}
		var p Pool
		p.Hear(told)
		packed, _ := p.MarshalBinary()
		if err := new(Pool).UnmarshalBinary(packed); err != nil {
			t.Fatal(err)
		}
	})
}
