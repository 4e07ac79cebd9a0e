package churn

import (
	"cmp"
	"fmt"
	"math"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
)

// cpu returns a function that reports the processor time of this process for each
// of n since, because wall time says little on a machine that others use.
func cpu(b *testing.B) func(n int) {
	b.Helper()
	used := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	before := used()
	return func(n int) {
		b.Helper()
		b.ReportMetric(float64(used()-before)/float64(n)/1e3, "cpu-us/each")
	}
}

// regular is a customer of a few orders who visits, and a setting that corrects.
func regular() (Customer, Setting) {
	s := DefaultSetting()
	s.Correction = &Correction{Intercept: .1}
	for i := range s.Correction.Weights {
		s.Correction.Weights[i] = .1 - .01*float64(i)
	}
	var c Customer
	for _, d := range []int{0, 31, 75, 110, 140, 200} {
		c.Order(noon(d), noon(d), 30e6, "EUR", &s)
		c.Behave(noon(d), Behaviour{Visits: 1, Minutes: 5})
	}
	return c, s
}

func BenchmarkScore(b *testing.B) {
	for k := 1; k <= MaxK; k++ {
		b.Run(fmt.Sprintf("base/k=%d", k), func(b *testing.B) {
			p, h := DefaultParams(), History{5, 200, 260}
			p.K = k
			done := cpu(b)
			for b.Loop() {
				p.Score(h, 90)
			}
			done(b.N)
		})
	}
	b.Run("corrected", func(b *testing.B) {
		c, s := regular()
		now := noon(260)
		done := cpu(b)
		for b.Loop() {
			c.Score(now, &s)
		}
		done(b.N)
	})
}

func BenchmarkCrossing(b *testing.B) {
	for k := 1; k <= MaxK; k++ {
		b.Run(fmt.Sprintf("base/k=%d", k), func(b *testing.B) {
			p, h := DefaultParams(), History{5, 200, 200}
			p.K = k
			done := cpu(b)
			for b.Loop() {
				p.Crossing(h, .8, 90)
			}
			done(b.N)
		})
	}
	b.Run("corrected", func(b *testing.B) {
		c, s := regular()
		done := cpu(b)
		for b.Loop() {
			c.Crossing(&s)
		}
		done(b.N)
	})
}

// BenchmarkOrder is what an order costs: state, and when to look again.
func BenchmarkOrder(b *testing.B) {
	s := DefaultSetting()
	s.Location = time.UTC
	var c Customer
	at := noon(0)
	done := cpu(b)
	for b.Loop() {
		at += 3 * dayMicros
		if at > noon(20000) {
			c, at = Customer{}, noon(0)
		}
		c.Order(at, at, 20e6, "EUR", &s)
		c.NextWake(at, &s)
	}
	done(b.N)
}

// BenchmarkLearn is what a closed label costs.
func BenchmarkLearn(b *testing.B) {
	l := NewLearner(DefaultLearnConfig())
	var f Features
	i := 0
	done := cpu(b)
	for b.Loop() {
		f[i%NumFeatures] = float64(i%7) - 3
		l.Learn(&f, .5, i%3 != 0, .1)
		i++
	}
	done(b.N)
}

// BenchmarkCustomers is what a shop of so many customers costs: bytes in the store
// and in memory for each, and time for each of its orders.
func BenchmarkCustomers(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := DefaultSetting()
			var before, after runtime.MemStats
			const rounds = 2
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				done := cpu(b)
				customers := make([]Customer, n)
				for round := range rounds {
					for i := range customers {
						at := noon(80*round + i%80)
						customers[i].Order(at, at, 20e6, "EUR", &s)
						customers[i].NextWake(at, &s)
					}
				}
				done(rounds * n)
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(customers)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "heap-B/customer")
			b.ReportMetric(StateBytes, "packed-B/customer")
		})
	}
}

// BenchmarkFit is a fit from the histogram of so many customers: it costs by bins,
// not by customers.
func BenchmarkFit(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rnd := newRand(3)
			p := Params{.8, 40, .7, 1.8, 1}
			g, gaps := Histogram{}, 0.0
			for range n {
				first := int32(rnd.uniform() * 52)
				x, at := int32(0), float64(first)
				rate := rnd.gamma(p.R) / p.Alpha * 7
				for leave := math.Pow(rnd.uniform(), 1.4); rnd.uniform() > leave; {
					gap := -math.Log(rnd.uniform()) / rate
					if at+gap > 104 {
						break
					}
					at += gap
					gaps += math.Log(max(1, 7*gap))
					x++
				}
				g[Bin{x, first, int32(at)}]++
			}
			cells := g.Cells(728)
			c := DefaultFitConfig()
			done := cpu(b)
			for b.Loop() {
				q, _, err := Fit(cells, gaps, c)
				if err != nil {
					b.Fatal(err)
				}
				c.Warm = q
			}
			done(b.N)
			b.ReportMetric(float64(len(cells)), "bins")
		})
	}
}

// BenchmarkSnapshot is a step of the trainer, with labels closing, for a shop of so
// many customers of whom at most 10,000 are sampled.
func BenchmarkSnapshot(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := DefaultSetting()
			customers := make([]Customer, n)
			g, gaps := Histogram{}, 0.0
			for i := range customers {
				at := noon(i % 300)
				customers[i].Order(at, at, 20e6, "EUR", &s)
				if i%3 == 0 {
					at += int64(1+i%90) * dayMicros
					customers[i].Order(at, at, 20e6, "EUR", &s)
				}
				bin, _ := customers[i].Bin()
				g[bin]++
				gaps += customers[i].LogGaps()
			}
			t := NewTrainer(DefaultTrainConfig(), s)
			day := 400
			for range 14 { // labels are open for thirteen steps
				t.Snapshot(noon(day), customers, g, gaps)
				day += 7
			}
			done := cpu(b)
			for b.Loop() {
				t.Snapshot(noon(day), customers, g, gaps)
				day += 7
			}
			done(b.N)
			b.ReportMetric(float64(t.Open()), "open-labels")
		})
	}
}

// BenchmarkFitter is what a stat costs a fitter of so many customers, fits and
// corrections included, and how long it is when packed.
func BenchmarkFitter(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 40_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rnd := newRand(5)
			config := DefaultFitterConfig()
			s := DefaultSetting()
			var stats []Stat
			for i := range n {
				var c Customer
				var l Label
				day := int(rnd.uniform() * 90)
				c.Order(noon(day), noon(day), 20e6, "EUR", &s)
				for {
					at, ok := l.Next(&c, draw(i), c.LastOrder(), &s)
					if !ok || at > noon(400) {
						break
					}
					if stat, ok := l.Turn(&c, draw(i), at, &s); ok {
						stats = append(stats, stat)
					}
					if rnd.uniform() < .6 {
						when := at + int64(rnd.uniform()*80)*dayMicros
						c.Order(when, when, int64(1e6+rnd.uniform()*50e6), "EUR", &s)
					}
				}
			}
			slices.SortStableFunc(stats, func(a, b Stat) int { return cmp.Compare(a.At, b.At) })
			var f Fitter
			done := cpu(b)
			var folded int
			for b.Loop() {
				f = Fitter{}
				for _, stat := range stats {
					f.Learn(stat, config, &s)
				}
				folded += len(stats)
			}
			done(folded)
			packed, err := f.MarshalBinary()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(packed)), "packed-B")
			b.ReportMetric(float64(len(f.cells)), "cells")
		})
	}
}
