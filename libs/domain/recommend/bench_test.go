package recommend

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// synthetic returns deltas and queries of a shop with power-law popularity and
// session lengths.
func synthetic(items, sessions int) ([]Delta, []Query) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(near int) string {
		if near > 0 && r.IntN(3) > 0 { // sessions stay in a neighbourhood of the catalogue
			return fmt.Sprint("item-", (near+r.IntN(40))%items)
		}
		return fmt.Sprint("item-", int(math.Pow(r.Float64(), 3)*float64(items)))
	}
	var ds []Delta
	var qs []Query
	at := int64(start)
	for k := range sessions {
		near := int(math.Pow(r.Float64(), 3) * float64(items))
		var prev []Previous
		n := 2 + int(min(18, r.ExpFloat64()*3))
		q := Query{N: 21, Surface: SurfaceProduct}
		for range n {
			at += int64(r.IntN(20_000))
			id := pick(near)
			d := Delta{Session: uint64(k + 1), Item: id, At: at, First: true}
			for _, p := range prev {
				if p.Item == id {
					d.First = false
				} else {
					d.Previous = append(d.Previous, p)
				}
			}
			ds = append(ds, d)
			prev = append([]Previous{{id, View, at}}, d.Previous...)
			q.Items = append(q.Items, QueryItem{Item: id, At: at})
		}
		q.Now = at
		qs = append(qs, q)
	}
	return ds, qs[len(qs)-min(len(qs), 2000):]
}

func BenchmarkApply(b *testing.B) {
	ds, _ := synthetic(20_000, 50_000)
	x := New(DefaultConfig())
	for _, d := range ds {
		x.Apply(d)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.Apply(ds[i%len(ds)])
	}
}

func BenchmarkRecommend(b *testing.B) {
	ds, qs := synthetic(20_000, 50_000)
	x := New(DefaultConfig())
	for _, d := range ds {
		x.Apply(d)
	}
	s := new(Scratch)
	out := make([]Answer, 0, 100)
	for _, q := range qs {
		out = x.Recommend(q, s, out[:0])
	}
	b.ReportAllocs()
	cands := 0
	n := 0
	for i := 0; b.Loop(); i++ {
		out = x.Recommend(qs[i%len(qs)], s, out[:0])
		cands += len(s.cands)
		n++
	}
	b.ReportMetric(float64(cands)/float64(n), "candidates/op")
}

func TestAnswersDoNotAllocate(t *testing.T) {
	ds, qs := synthetic(2000, 3000)
	x := New(DefaultConfig())
	for _, d := range ds {
		x.Apply(d)
	}
	s := new(Scratch)
	out := make([]Answer, 0, 100)
	for _, q := range qs { // the scratch grows to what the queries need
		out = x.Recommend(q, s, out[:0])
	}
	i := 0
	if n := testing.AllocsPerRun(500, func() {
		out = x.Recommend(qs[i%len(qs)], s, out[:0])
		i++
	}); n != 0 {
		t.Errorf("%g allocations per answer, want 0", n)
	}
}
