package churn

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// DefaultConfig returns all models, learnt as the service learns.
func DefaultConfig() Config {
	return Config{Horizon: 90, Models: Models(), Seed: 1, Resamples: eval.Resamples, Train: churn.DefaultTrainConfig(), Fitter: churn.DefaultFitterConfig()}
}

// Settings are all that a run depends on beside the file.
func Settings(c Config, s *Shop) []eval.Setting {
	var origins []string
	for _, o := range c.Origins {
		origins = append(origins, fmt.Sprintf("%s (day %d)", s.Date(o), o))
	}
	t, f := c.Train, c.Fitter
	return []eval.Setting{
		eval.Set("origins", origins), eval.Set("horizon-days", c.Horizon), eval.Set("models", c.Models), eval.Set("resamples", c.Resamples),
		eval.Set("train.step-days", t.Step), eval.Set("train.sample", t.Sample), eval.Set("fitter.step-days", f.Step), eval.Set("fitter.customers", f.Customers), eval.Set("fitter.ring", f.Ring), eval.Set("fitter.cells", f.Cells), eval.Set("fit.center", fmt.Sprintf("%+v", t.Fit.Center)),
		eval.Set("fit.pull", t.Fit.Pull), eval.Set("fit.max-k", t.Fit.MaxK), eval.Set("learn.deviation", t.Learn.Deviation),
		eval.Set("learn.half-life", t.Learn.HalfLife), eval.Set("learn.persistence", t.Learn.Persistence), eval.Set("learn.annual", t.Learn.Annual), eval.Set("learn.trust", t.Learn.Trust),
		eval.Set("learn.shift", t.Learn.Shift), eval.Set("false-alerts", "0.2 and 0.1"), eval.Set("recall", Recall),
	}
}

// Report makes the page of the results.
func Report(run eval.Run, s *Shop, c Config, results []Result) (*eval.Report, error) {
	r := &eval.Report{Title: "Who is leaving", Run: run}
	if len(results) == 0 {
		return r, nil
	}
	r.Lede = lede(results)
	r.Section("What was measured", append([]string{
		fmt.Sprintf("%d customers ordered on %d days of theirs from %s to %s. A customer counts as leaving who orders nothing in the %d days after the origin.", len(s.Customers), s.Orders, s.Date(0), s.Date(s.Days), c.Horizon),
	}, Rules()...)...)
	var errs []error
	for at := 0; at < len(results); {
		end := at
		for end < len(results) && results[end].Day == results[at].Day {
			end++
		}
		errs = append(errs, one(r, results[at:end]))
		at = end
	}
	return r, errors.Join(errs...)
}

// lede says what came out in two sentences.
func lede(results []Result) string {
	r := results[0]
	if i := slices.IndexFunc(results, func(r Result) bool { return r.Model == Online }); i >= 0 {
		r = results[i]
	}
	return fmt.Sprintf("On %s, %s tells %s of %d customers who will not order within %d days apart with an AUC of %s; the Brier score is %s, and probabilities are off by %s on average. To spot 81 %% of those who leave, %s of all customers have to be flagged, and with them %s of those who stay.",
		r.Origin, r.Model, r.BaseRate.Format(3), r.Customers, r.HorizonDays, r.AUC.Format(3), r.Brier.Format(4), r.ECE.Format(3), r.Flagged.Format(2), r.FalsePos.Format(2))
}

// one adds the results of an origin.
func one(r *eval.Report, results []Result) error {
	first := results[0]
	r.Section("Origin "+first.Origin, fmt.Sprintf("%d customers, of whom %s ordered nothing in the %d days after it.", first.Customers, first.BaseRate.Format(3), first.HorizonDays))
	quality := eval.Grid{
		Caption: "Quality. Differences are to the base model alone (to recency, for the base model itself), with 95 % intervals over customers resampled in pairs; gains are positive.",
		Head:    []string{"Model", "AUC", "Brier", "ECE", "Slope", "Mean predicted", "AUC gained", "Brier gained"},
	}
	action := eval.Grid{
		Caption: "What acting on it costs. Flagged: the customers at highest risk who hold 81 % of those who leave. Lift: in the tenth at highest risk, those who leave by their share of all, and in the tenth at lowest risk, buyers; in brackets what a perfect order would give.",
		Head:    []string{"Model", "Flagged", "Precision", "False positives", "Lift of leavers", "Lift of buyers"},
	}
	when := eval.Grid{
		Caption: "How soon an alert comes after the last order, in days, over silences that lasted for the whole horizon, at equal shares of false alerts among those who came back. Silences begin within the horizon before the origin, and every rule knows what was known before the first of them.",
		Head:    []string{"Model", "False alerts", "Fixed silence", "k x own gap", "This model", "Earlier than fixed", "Alerted in time"},
	}
	ideal := eval.Line{Label: "ideal", X: []float64{0, 1}, Y: []float64{0, 1}, Dashed: true}
	calibration := eval.Plot{Name: fmt.Sprintf("calibration-%d", first.Day), Title: "Calibration, origin " + first.Origin, X: "predicted probability to order nothing", Y: "share that ordered nothing", RangeY: &[2]float64{0, 1}, Lines: []eval.Line{ideal}, Note: "On the dotted line probabilities are shares. Points of fewer than ten customers are left out."}
	gains := eval.Plot{Name: fmt.Sprintf("recall-%d", first.Day), Title: "Leavers found by customers flagged, origin " + first.Origin, X: "share of customers flagged, highest risk first", Y: "share of leavers among them", RangeY: &[2]float64{0, 1}, Lines: []eval.Line{{Label: "by lot", X: []float64{0, 1}, Y: []float64{0, 1}, Dashed: true}}, Note: "Where most customers leave, even a perfect order cannot rise far above the dotted line."}
	for _, v := range results {
		quality.Rows = append(quality.Rows, []string{v.Model, v.AUC.Format(4), v.Brier.Format(4), v.ECE.Format(3), v.Slope.Format(2), v.Predicted.Format(3), within(v.AUCGain), within(v.BrierGain)})
		action.Rows = append(action.Rows, []string{v.Model, v.Flagged.Format(3), v.Precision.Format(3), v.FalsePos.Format(3), of(v.LiftTop, v.MaxLiftTop), of(v.LiftLow, v.MaxLiftLow)})
		for _, t := range v.timings {
			when.Rows = append(when.Rows, []string{v.Model, fmt.Sprint(t.FalseAlerts), t.Fixed.Format(1), t.Gap.Format(1), t.Model.Format(1), t.Lead().Format(1), t.InTime.Format(2)})
		}
		line := eval.Line{Label: v.Model}
		for _, b := range bins(v.scores, v.churned) {
			if b.n >= 10 {
				line.X, line.Y = append(line.X, b.predicted/b.n), append(line.Y, b.churned/b.n)
			}
		}
		calibration.Lines = append(calibration.Lines, line)
		gains.Lines = append(gains.Lines, recall(v))
	}
	r.Table(quality)
	errs := []error{r.Plot(calibration)}
	r.Table(action)
	errs = append(errs, r.Plot(gains))
	if len(when.Rows) > 0 {
		r.Table(when)
		bars := eval.Plot{Name: fmt.Sprintf("timing-%d", first.Day), Title: "Days to the alert, origin " + first.Origin, X: "false alerts among returning customers", Y: "days after the last order", Categories: []string{"20 %", "10 %"}, Note: "Lower is earlier. All rules alert the same share of returning customers falsely."}
		t := first.timings
		bars.Bars = append(bars.Bars, eval.Bars{Label: "fixed silence", Values: values(t, func(t Timing) eval.Figure { return t.Fixed })}, eval.Bars{Label: "k x own gap", Values: values(t, func(t Timing) eval.Figure { return t.Gap })})
		for _, v := range results {
			if v.Model != Recency && len(v.timings) > 0 {
				bars.Bars = append(bars.Bars, eval.Bars{Label: v.Model, Values: values(v.timings, func(t Timing) eval.Figure { return t.Model })})
			}
		}
		errs = append(errs, r.Plot(bars))
	}
	var fitted []string
	for _, v := range results {
		if v.Parameters != "" {
			fitted = append(fitted, v.Model+": "+v.Parameters+".")
		}
	}
	if len(fitted) > 0 {
		r.Section("What was fitted up to "+first.Origin, fitted...)
	}
	for _, v := range results {
		if v.Spoke != nil {
			learnt(r, v)
		}
	}
	return errors.Join(errs...)
}

// learnt shows what the correction says.
func learnt(r *eval.Report, v Result) {
	if v.Value != nil {
		r.Table(eval.Grid{
			Caption: "Spend of the horizon, " + v.Model + ". Share of it that the tenth of customers made who were foretold to spend most; and what was foretold of all by what was spent.",
			Head:    []string{"Foretold", "Past spend", "Perfect", "Level", "Level before correction"},
			Rows:    [][]string{{v.Value.Top10.Format(3), v.Value.Top10Past.Format(3), v.Value.Top10Best.Format(3), v.Value.Level.Format(2), v.Value.LevelNoCorr.Format(2)}},
		})
	}
	c := v.setting.Correction
	if c == nil {
		r.Section("Correction, "+v.Model, "The correction is silent: too few labels have closed, or its running Brier score is no better than the base model's.")
		return
	}
	names := churn.FeatureNames()
	grid := eval.Grid{Caption: fmt.Sprintf("Weights, %s. The intercept is %.3f.", v.Model, c.Intercept), Head: []string{"Feature", "Weight"}}
	for i, w := range c.Weights {
		if w != 0 {
			grid.Rows = append(grid.Rows, []string{names[i], fmt.Sprintf("%.3f", w)})
		}
	}
	if len(grid.Rows) > 0 {
		r.Table(grid)
	}
}

func values(all []Timing, of func(Timing) eval.Figure) []float64 {
	var out []float64
	for _, t := range all {
		out = append(out, float64(of(t)))
	}
	return out
}

// recall is the curve of leavers found by customers flagged.
func recall(v Result) eval.Line {
	order := sorted(v.scores)
	slices.Reverse(order)
	var total float64
	for _, c := range v.churned {
		total += outcome(c)
	}
	line := eval.Line{Label: v.Model, X: []float64{0}, Y: []float64{0}}
	var found float64
	n := float64(len(order))
	for k, i := range order {
		found += outcome(v.churned[i])
		if (k+1)%max(1, len(order)/100) == 0 || k+1 == len(order) {
			line.X, line.Y = append(line.X, float64(k+1)/n), append(line.Y, found/max(1, total))
		}
	}
	return line
}

func within(i Interval) string {
	return i.Value.Format(4) + " [" + i.Low.Format(4) + ", " + i.High.Format(4) + "]"
}

func of(v, most eval.Figure) string { return v.Format(2) + " (" + most.Format(2) + ")" }
