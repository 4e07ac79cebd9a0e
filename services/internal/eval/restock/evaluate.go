package restock

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// Config is what an evaluation runs with.
type Config struct {
	HorizonDays float64
	Methods     []string // "all" stands for all
	Seed        uint64
	Inventory   bool // simulate stock, where the history is of orders
}

// Result is what came of one method.
type Result struct {
	Series          int         `json:"series"`
	Periods         int         `json:"periods"`
	Method          string      `json:"method"`
	Horizon         int         `json:"horizon"` // in days
	SPL             eval.Figure `json:"spl"`
	SPL95           eval.Figure `json:"spl95"`
	SPL99           eval.Figure `json:"spl99"`
	Cov95           eval.Figure `json:"cov95"`
	Cov99           eval.Figure `json:"cov99"`
	WAPE            eval.Figure `json:"wape"`
	Bias            eval.Figure `json:"bias"`
	DaysAtFill      eval.Figure `json:"days_at_97_line_fill"`
	OutPct          eval.Figure `json:"oos_days_pct"`
	SignalsPerOrder eval.Figure `json:"signals_per_order"`
	Duplicates      *int64      `json:"duplicates"`

	PeriodDays eval.Figure    `json:"period_days"`
	Cases      int            `json:"cases"`
	WPL        eval.Figure    `json:"wpl"`  // pinball loss over the demand
	WSPL       eval.Figure    `json:"wspl"` // SPL, series weighing as their sales do
	Over       *eval.Interval `json:"spl_over_window,omitempty"`

	Cold     *Cold     `json:"cold_start,omitempty"`
	Censored *Censored `json:"censored,omitempty"`
	Signals  *Signals  `json:"signals,omitempty"`
	Targets  []Reached `json:"targets,omitempty"`
	Budget   *Budgeted `json:"budget,omitempty"`

	OracleDays *eval.Figure `json:"oracle_days_at_97_line_fill,omitempty"` // were the demand known, and lead times as random

	Oracle   Frontier `json:"-"`
	Scores   Scores   `json:"-"`
	Frontier Frontier `json:"-"`
}

// MethodError says that there is no such method.
type MethodError struct{ Name string }

func (e MethodError) Error() string {
	return fmt.Sprintf("--method %s: there is none; the methods are all, %s", e.Name, strings.Join(Methods(), ", "))
}

// methods are those that are asked for.
func (c Config) methods() ([]string, error) {
	var all []string
	for _, m := range c.Methods {
		switch {
		case m == "all":
			all = append(all, Methods()...)
		case slices.Contains(Methods(), m):
			all = append(all, m)
		default:
			return nil, MethodError{m}
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	slices.SortFunc(all, func(a, b string) int { return slices.Index(Methods(), a) - slices.Index(Methods(), b) })
	return all, nil
}

// Evaluate runs the methods over a history, the 28-day mean always among them, because
// it is what the others are compared with.
func Evaluate(ctx context.Context, h *History, c Config, progress *eval.Progress) ([]Result, error) {
	methods, err := c.methods()
	if err != nil {
		return nil, err
	}
	if !(c.HorizonDays >= 1 && c.HorizonDays <= 3650) {
		return nil, fmt.Errorf("--horizon %g: not between 1 and 3650 days", c.HorizonDays)
	}
	horizon := max(1, int(c.HorizonDays/h.Period+.5))
	test := h.test()
	cases := h.cases(test, horizon)
	if len(cases) == 0 {
		return nil, fmt.Errorf("no forecast to judge: %d periods of %.4g days leave no window of %d periods behind a series that is 8 weeks old; take a longer history or a shorter --horizon", h.Periods, h.Period, horizon)
	}
	control := score(h, newClassic(h, "window", test), cases)
	var results []Result
	progress.Start("methods", int64(len(methods)))
	for n, name := range methods {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		progress.At(int64(n))
		r := evaluateMethod(h, name, cases, test, c)
		r.Horizon = int(c.HorizonDays + .5)
		if name != "window" {
			over := against(h, cases, r.Scores.PerCase, control.PerCase, c.Seed)
			r.Over = &over
		}
		results = append(results, r)
	}
	progress.Done()
	return results, nil
}

func newMethod(h *History, name string, test int) interface {
	method
	stocker
} {
	if name == "online" {
		return newOnline(h)
	}
	return newClassic(h, name, test)
}

func evaluateMethod(h *History, name string, cases []Case, test int, c Config) Result {
	var s Scores
	if name == "online" {
		s = score(h, newOnline(h), cases)
	} else {
		s = score(h, newClassic(h, name, test), cases)
	}
	r := Result{
		Series: h.demanded(), Periods: h.Periods, Method: name,
		SPL: eval.Figure(s.SPL), SPL95: eval.Figure(s.SPL95), SPL99: eval.Figure(s.SPL99),
		Cov95: eval.Figure(s.Cov[5]), Cov99: eval.Figure(s.Cov[6]), WAPE: eval.Figure(s.WAPE), Bias: eval.Figure(s.Bias),
		PeriodDays: eval.Figure(h.Period), Cases: s.Cases, WPL: eval.Figure(s.WPL), WSPL: eval.Figure(s.WSPL), Scores: s,
	}
	nan := eval.Figure(math.NaN())
	r.DaysAtFill, r.OutPct, r.SignalsPerOrder = nan, nan, nan
	if c.Inventory && h.Orders && h.Periods-test > warmUp+14 {
		r.Frontier = simulate(h, newMethod(h, name, test), test, c.Seed)
		r.DaysAtFill, r.OutPct = eval.Figure(r.Frontier.DaysAtFill), eval.Figure(r.Frontier.OutPct)
		r.SignalsPerOrder, r.Duplicates = eval.Figure(r.Frontier.SignalsPerOrder), &r.Frontier.Duplicates
		if name == "online" {
			own, censored := signals(h, test, c.Seed), censor(h, test, c.Seed)
			r.Signals, r.Censored = &own, &censored
			r.Targets = reach(h, r.Frontier, test, c.Seed)
			tight := budgeted(h, test, c.Seed)
			r.Budget = &tight
			r.Oracle = simulate(h, &oracle{h: h}, test, c.Seed)
			days := eval.Figure(r.Oracle.DaysAtFill)
			r.OracleDays = &days
			r.SignalsPerOrder, r.Duplicates = eval.Figure(float64(own.Raised+own.Updated)/float64(own.Orders)), &own.Duplicates
		}
	}
	if h.Orders {
		r.Cold = coldStart(h, newMethod(h, name, test))
	}
	return r
}

// against is how much less a method loses than another, relative to it: the mean over
// cases, with an interval over series.
func against(h *History, cases []Case, losses, control []float64, seed uint64) eval.Interval {
	less, whole := make([]float64, len(h.Series)), make([]float64, len(h.Series))
	for i, c := range cases {
		less[c.Series] += losses[i] - control[i]
		whole[c.Series] += control[i]
	}
	return eval.BootstrapRatio(eval.Resamples, seed, less, whole)
}
