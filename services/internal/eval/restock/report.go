package restock

import (
	"fmt"
	"strconv"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// Settings are all that an evaluation ran with.
func (c Config) Settings(h *History) []eval.Setting {
	return []eval.Setting{
		eval.Set("horizon in days", c.HorizonDays), eval.Set("methods", c.Methods), eval.Set("period in days", h.Period),
		eval.Set("periods", h.Periods), eval.Set("first period of the test", h.test()), eval.Set("quantiles", levels),
		eval.Set("least weekly change that a loss is scaled by", minChange), eval.Set("prices known ahead", h.Offers), eval.Set("stock simulated", c.Inventory && h.Orders),
		eval.Set("lead time: coefficient of variation", leadCV), eval.Set("lead time: mean days by supplier", "5, 7, 10, 14, 21"),
		eval.Set("review in days", review), eval.Set("days of demand that an order brings", cover), eval.Set("days simulated before judging", warmUp),
		eval.Set("service levels", targets), eval.Set("resamples", eval.Resamples),
	}
}

// Report is the page about a run.
func Report(h *History, results []Result, run eval.Run) (*eval.Report, error) {
	r := &eval.Report{Title: "Demand and stock", Run: run}
	best := results[0]
	for _, x := range results {
		if x.SPL < best.SPL {
			best = x
		}
	}
	r.Lede = fmt.Sprintf("%d series over %d periods of %.4g days; %d forecasts of %d days a method. The smallest scaled pinball loss is that of %s, %s.", len(h.Series), h.Periods, h.Period, best.Cases, best.Horizon, best.Method, best.SPL.Format(3))
	r.Section("Forecasts", "Scaled pinball loss over seven quantiles, smaller is better; the share of outcomes at or below the .95 and .99 quantiles; the error of the medians (WAPE) and the bias of the means relative to the demand. The last column is the loss over that of the 28-day mean, less 1, with its 95 % interval over series.")
	g := eval.Grid{Head: []string{"Method", "SPL", "SPL .95", "SPL .99", "Cover .95", "Cover .99", "WAPE", "Bias", "WPL", "Against the 28-day mean"}}
	coverage := eval.Plot{Name: "coverage", Title: "Coverage of the quantiles", X: "Quantile", Y: "Share of outcomes at or below", Lines: []eval.Line{{Label: "ideal", X: []float64{0, 1}, Y: []float64{0, 1}, Dashed: true}}, Note: "Counts have ties at zero, so that the low quantiles of slow products cover more than they say."}
	losses := eval.Plot{Name: "loss", Title: "Scaled pinball loss", X: "Method", Y: "SPL"}
	bar := eval.Bars{Label: "SPL"}
	for i, x := range results {
		over := "-"
		if x.Over != nil {
			over = fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", 100*x.Over.Value, 100*x.Over.Low, 100*x.Over.High)
		}
		g.Rows = append(g.Rows, []string{x.Method, x.SPL.Format(3), x.SPL95.Format(3), x.SPL99.Format(3), x.Cov95.Format(3), x.Cov99.Format(3), x.WAPE.Format(3), x.Bias.Format(3), x.WPL.Format(3), over})
		if x.Method == best.Method {
			g.Bold = i + 1
		}
		coverage.Lines = append(coverage.Lines, eval.Line{Label: x.Method, X: levels[:], Y: x.Scores.Cov[:]})
		losses.Categories = append(losses.Categories, x.Method)
		bar.Values = append(bar.Values, float64(x.SPL))
	}
	losses.Bars = []eval.Bars{bar}
	r.Table(g)
	if err := r.Plot(losses); err != nil {
		return nil, err
	}
	if err := r.Plot(coverage); err != nil {
		return nil, err
	}
	if len(results[0].Frontier.Points) == 0 {
		return r, nil
	}
	if err := stockSection(r, results); err != nil {
		return nil, err
	}
	for _, x := range results {
		if len(x.Targets) > 0 {
			return r, targetSection(r, x.Targets, x.Budget)
		}
	}
	return r, nil
}

// stockSection shows what service costs.
func stockSection(r *eval.Report, results []Result) error {
	r.Section("Stock", "Daily review, orders up to 14 days of demand above the reorder point, random lead times that are the same for all methods, lost sales. A line counts as filled when it is served whole from stock. Alerts are counted at a service level of 95 %.")
	g := eval.Grid{Head: []string{"Method", "Days of stock at 97 % line fill", "Out-of-stock days at 50 days of stock, %", "Alerts per order", "Repeated alerts"}}
	lines := eval.Plot{Name: "line-fill", Title: "Order lines filled against days of stock", X: "Days of stock", Y: "Order lines filled"}
	outs := eval.Plot{Name: "out-of-stock", Title: "Days out of stock against days of stock", X: "Days of stock", Y: "Days out of stock, %"}
	fills := eval.Plot{Name: "unit-fill", Title: "Units filled against days of stock", X: "Days of stock", Y: "Units filled"}
	for _, x := range results {
		repeated := "-"
		if x.Duplicates != nil {
			repeated = strconv.FormatInt(*x.Duplicates, 10)
		}
		g.Rows = append(g.Rows, []string{x.Method, x.DaysAtFill.Format(1), x.OutPct.Format(2), x.SignalsPerOrder.Format(2), repeated})
		var days, line, unit, out []float64
		for _, p := range x.Frontier.Points {
			if p.Days > 150 {
				break
			}
			days, line, unit, out = append(days, p.Days), append(line, p.LineFill), append(unit, p.UnitFill), append(out, p.OutPct)
		}
		lines.Lines = append(lines.Lines, eval.Line{Label: x.Method, X: days, Y: line})
		fills.Lines = append(fills.Lines, eval.Line{Label: x.Method, X: days, Y: unit})
		outs.Lines = append(outs.Lines, eval.Line{Label: x.Method, X: days, Y: out})
		if len(x.Oracle.Points) > 0 {
			var days, line []float64
			for _, p := range x.Oracle.Points {
				days, line = append(days, p.Days), append(line, p.LineFill)
			}
			lines.Lines = append(lines.Lines, eval.Line{Label: "demand known", X: days, Y: line, Dashed: true})
		}
	}
	r.Table(g)
	for _, p := range []eval.Plot{lines, fills, outs} {
		if err := r.Plot(p); err != nil {
			return err
		}
	}
	return nil
}
