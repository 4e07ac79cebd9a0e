package restock

import (
	"fmt"
	"strconv"

	"github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// margins are the levels of the economic target.
var margins = [len(targets)]float64{.001, .01, .02, .05, .1, .15, .2, .3, .4, .6, .8, 1}

// goals are the reorder points that the products' own policy sets for a target.
type goals struct {
	*online
	own    restock.Setting
	levels [len(targets)]float64
}

func newGoals(h *History, t restock.Target) *goals {
	g := &goals{online: newOnline(h), levels: targets}
	g.own = g.setting
	g.own.Policy.Target, g.own.Policy.ReviewDays, g.own.Policy.OrderDays = t, review, cover
	if t == restock.Economic {
		g.levels = margins
	}
	return g
}

func (g *goals) close(t int) {
	g.online.close(t)
	g.own.Layer = g.setting.Layer
}

func (g *goals) need(i int, lead float64) (q [len(targets)]float64, rate float64) {
	var out [len(targets)]int64
	rate = g.products[i].Points(restock.LeadTime{Mean: lead, Variance: leadCV * leadCV * lead * lead}, g.levels[:], out[:], &g.own)
	for j, n := range out {
		q[j] = float64(n)
	}
	return q, rate
}

// Reached is what came of asking for a target.
type Reached struct {
	Target   string      `json:"target"`
	Asked    float64     `json:"asked"`   // service level, fill rate or margin
	Reached  eval.Figure `json:"reached"` // share of the cycles from order to delivery in which nothing was missed, or of units
	LineFill eval.Figure `json:"line_fill"`
	UnitFill eval.Figure `json:"unit_fill"`
	Days     eval.Figure `json:"days_of_stock"`
	Cost     eval.Figure `json:"cost_pct"` // of missed sales and of holding, of the demand's value, at the shipped margin, goodwill and holding rate
}

// reach simulates the products' own policy for every level of the targets besides cycle
// service, whose frontier is given.
func reach(h *History, cycles Frontier, test int, seed uint64) []Reached {
	all := reached(restock.CycleService, targets, cycles)
	for _, t := range [2]restock.Target{restock.FillRate, restock.Economic} {
		g := newGoals(h, t)
		all = append(all, reached(t, g.levels, simulate(h, g, test, seed))...)
	}
	return all
}

func reached(t restock.Target, levels [len(targets)]float64, f Frontier) []Reached {
	var all []Reached
	y := restock.DefaultPolicy()
	for j, p := range f.Points {
		r := Reached{
			Target: t.String(), Asked: levels[j], Reached: eval.Figure(p.Cycles), LineFill: eval.Figure(p.LineFill), UnitFill: eval.Figure(p.UnitFill), Days: eval.Figure(p.Days),
			Cost: eval.Figure(100 * ((y.Margin+y.Goodwill)*p.Missed + y.HoldingRate/365*p.Days)),
		}
		if t == restock.FillRate {
			r.Reached = r.UnitFill
		}
		all = append(all, r)
	}
	return all
}

// targetSection shows what is reached of what a shop may ask for.
func targetSection(r *eval.Report, all []Reached, tight *Budgeted) error {
	y := restock.DefaultPolicy()
	r.Section("Targets", fmt.Sprintf("What the products' own policy reaches of what it is asked for, in the same simulation. Of a cycle service: the share of the cycles from order to delivery in which nothing was missed. Of a fill rate: the share of units served. An economic target is asked for by the margin of a unit, as a share of its price. The cost is that of missed sales (%.3g of their value) and of holding stock (%.3g of it a year), in per cent of the demand's value.", y.Margin+y.Goodwill, y.HoldingRate))
	g := eval.Grid{Head: []string{"Target", "Asked", "Reached", "Lines filled", "Units filled", "Days of stock", "Cost, %"}}
	asked := eval.Plot{Name: "targets", Title: "Service reached of service asked for", X: "Asked", Y: "Reached", Lines: []eval.Line{{Label: "ideal", X: []float64{.5, 1}, Y: []float64{.5, 1}, Dashed: true}}}
	units := eval.Plot{Name: "target-frontiers", Title: "Units filled against days of stock, by target", X: "Days of stock", Y: "Units filled"}
	for len(all) > 0 {
		n := 0
		reach, frontier := eval.Line{Label: all[0].Target}, eval.Line{Label: all[0].Target}
		for n < len(all) && all[n].Target == all[0].Target {
			x := all[n]
			n++
			g.Rows = append(g.Rows, []string{x.Target, strconv.FormatFloat(x.Asked, 'g', 4, 64), x.Reached.Format(3), x.LineFill.Format(3), x.UnitFill.Format(3), x.Days.Format(1), x.Cost.Format(2)})
			if !x.Reached.Defined() || !x.Days.Defined() {
				continue
			}
			reach.X, reach.Y = append(reach.X, x.Asked), append(reach.Y, float64(x.Reached))
			if x.Days <= 200 {
				frontier.X, frontier.Y = append(frontier.X, float64(x.Days)), append(frontier.Y, float64(x.UnitFill))
			}
		}
		if all[0].Target != restock.Economic.String() {
			asked.Lines = append(asked.Lines, reach)
		}
		units.Lines = append(units.Lines, frontier)
		all = all[n:]
	}
	r.Table(g)
	if err := r.Plot(asked); err != nil {
		return err
	}
	if err := r.Plot(units); err != nil {
		return err
	}
	if tight != nil {
		r.Section("Budget", fmt.Sprintf("A shop that may order each day for %.4g, %.3g of what its sales cost in the quarter before, and follows its products. Where those orders come first that save most for their money, %s %% of the demand's value is missed; where all take turns, %s %%.", float64(tight.PerDay), budgetShare, percent(tight.Ranked), percent(tight.InTurns)))
	}
	return nil
}

func percent(f eval.Figure) string { return (100 * f).Format(1) }
