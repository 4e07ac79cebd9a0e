package churn

import (
	"context"
	"fmt"

	"github.com/sillage-io/sillage/libs/domain/churn"
)

// Train lives through all of a shop's orders, as [Evaluate] does up to an origin,
// and returns what was learnt: what the churn service may be given to decide with.
// A history that is shorter than the horizon, or in which nobody has come back,
// teaches nothing: that is an error.
func Train(ctx context.Context, s *Shop, name string, c Config) (churn.Model, error) {
	setting := churn.DefaultSetting()
	setting.Policy.HorizonDays = float64(c.Horizon)
	if s.Days <= c.Horizon {
		return churn.Model{}, fmt.Errorf("learn from %d days of orders: a label closes only after %d", s.Days, c.Horizon)
	}
	l := &life{states: make([]churn.Customer, len(s.Customers)), bins: churn.Histogram{}}
	trainer := churn.NewTrainer(c.Train, setting)
	next := make([]int, len(s.Customers))
	step := int(c.Train.Step)
	c.Progress.Start("learn from "+s.Date(0)+" to "+s.Date(s.Days), int64(s.Days))
	for d, orders := range byDay(s, s.Days) {
		if err := ctx.Err(); err != nil {
			return churn.Model{}, err
		}
		for _, i := range orders {
			l.fold(int(i), d, s.Customers[i].Spend[next[i]], &setting)
			next[i]++
		}
		if (s.Days-d)%step == 0 && d >= 2*step && len(l.bins) > 0 {
			trainer.Snapshot(day(d), l.states, l.bins, l.gaps)
			setting.Value = trainer.Setting().Value
		}
		c.Progress.At(int64(d))
	}
	c.Progress.Done()
	if !trainer.Fitted() {
		return churn.Model{}, fmt.Errorf("learn from %d customers: too few have come back to fit a model", len(s.Customers))
	}
	return churn.ModelOf(name, trainer.Setting(), churn.Learnt{
		From: s.Date(0), To: s.Date(s.Days), Customers: len(s.Customers), Orders: s.Orders, Labels: trainer.Labels(),
	}), nil
}
