package churn

import (
	"cmp"
	"context"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/sillage-io/sillage/libs/domain/churn"
)

// streamed lives through a shop up to a day as the churn service does: each
// customer of the sample has one open label, a fitter hears of it as it opens and
// closes, and its models decide from then on. It returns the setting in force on the
// last day and on an earlier one.
func streamed(ctx context.Context, s *Shop, until, earlier int, setting churn.Setting, c Config) (last, early churn.Setting, fitter *churn.Fitter, err error) {
	fitter = &churn.Fitter{}
	states := make([]churn.Customer, len(s.Customers))
	labels := make([]churn.Label, len(s.Customers))
	draws := make([]uint64, len(s.Customers))
	for i := range draws {
		draws[i] = xxhash.Sum64String(s.Customers[i].ID)
	}
	due := make([][]turn, until+2) // by the day before which they end
	wait := func(i int32, now int64) {
		if at, ok := labels[i].Next(&states[i], draws[i], now, &setting); ok {
			if d := int((at - day(0) + day(1) - day(0) - 1) / (day(1) - day(0))); d <= until {
				due[d] = append(due[d], turn{at, i})
			}
		}
	}
	at := func(i int32, now int64) {
		stat, ok := labels[i].Turn(&states[i], draws[i], now, &setting)
		if !ok {
			return
		}
		if m, worth := fitter.Learn(stat, c.Fitter, &setting); worth {
			err = m.Into(&setting)
		}
	}
	next := make([]int, len(s.Customers))
	for d, orders := range byDay(s, until) {
		if err := ctx.Err(); err != nil {
			return setting, early, nil, err
		}
		slices.SortFunc(due[d], func(a, b turn) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.who, b.who)) })
		for _, t := range due[d] {
			at(t.who, t.at)
			wait(t.who, t.at)
		}
		due[d] = nil
		for _, i := range orders {
			states[i].Order(day(d), day(d), micros(s.Customers[i].Spend[next[i]]), "", &setting)
			next[i]++
			if next[i] == 1 {
				wait(i, day(d))
			}
		}
		if err != nil {
			return setting, early, nil, err
		}
		if d == earlier {
			early = setting
		}
	}
	return setting, early, fitter, nil
}

// turn is when a label is to be looked at.
type turn struct {
	at  int64
	who int32
}

// byDay lists who orders on each day up to one.
func byDay(s *Shop, until int) [][]int32 {
	days := make([][]int32, until+1)
	for i := range s.Customers {
		for _, d := range s.Customers[i].Days {
			if int(d) <= until {
				days[d] = append(days[d], int32(i))
			}
		}
	}
	return days
}
