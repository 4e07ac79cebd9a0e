package churn

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// Models are the methods, in the order of a report.
func Models() []string { return []string{Online, Streamed, MBG, ParetoNBD, Recency} }

// Names of the models.
const (
	Online    = "online"   // base model, correction and level, learnt from all customers week by week, as sillage model fit does
	Streamed  = "streamed" // the same, learnt from one open label a customer, as the churn service does while it runs
	MBG       = "mbg"      // the base model alone: MBG/CNBD-k, k by likelihood
	ParetoNBD = "pareto"   // Pareto/NBD
	Recency   = "recency"  // days since the last order, made a probability on labels closed at the origin
)

// Config says what is evaluated.
type Config struct {
	Origins   []int // days
	Horizon   int   // days
	Models    []string
	Seed      uint64
	Resamples int
	Train     churn.TrainConfig
	Fitter    churn.FitterConfig
	fast      bool // no timing, for tests
	Progress  *eval.Progress
}

// Result is what one model gave at one origin.
type Result struct {
	Customers   int         `json:"customers"`
	BaseRate    eval.Figure `json:"base_rate"`
	Model       string      `json:"model"`
	AUC         eval.Figure `json:"auc"`
	Brier       eval.Figure `json:"brier"`
	ECE         eval.Figure `json:"ece"`
	Slope       eval.Figure `json:"slope"`
	Flagged     eval.Figure `json:"flagged_at_81"`
	FalsePos    eval.Figure `json:"fpr_at_81"`
	Precision   eval.Figure `json:"precision_at_81"`
	Lead        eval.Figure `json:"lead_vs_fixed"`        // days earlier than fixed silence, at 20 % false alerts
	LeadStrict  eval.Figure `json:"lead_vs_fixed_at_10"`  // at 10 %
	LeadGap     eval.Figure `json:"lead_vs_gap"`          // days earlier than k times the own gap, at 20 %
	LiftTop     eval.Figure `json:"lift_churners"`        // of the tenth at highest risk
	MaxLiftTop  eval.Figure `json:"max_lift_churners"`    // of a perfect order
	LiftLow     eval.Figure `json:"lift_buyers"`          // of buyers, in the tenth at lowest risk
	MaxLiftLow  eval.Figure `json:"max_lift_buyers"`      // of a perfect order
	Predicted   eval.Figure `json:"mean_predicted"`       // mean probability, beside base_rate
	Baseline    string      `json:"baseline"`             // what the differences are to
	AUCGain     Interval    `json:"auc_gain"`             // 95 %, customers resampled in pairs
	BrierGain   Interval    `json:"brier_gain"`           // positive is better
	Origin      string      `json:"origin"`               // date
	Day         int         `json:"day"`                  // days from the first order
	HorizonDays int         `json:"horizon"`              //
	Parameters  string      `json:"parameters,omitempty"` // of the fit
	Spoke       *bool       `json:"correction_speaks,omitempty"`
	Value       *Value      `json:"value,omitempty"`

	scores  []float64
	churned []bool
	timings []Timing
	setting churn.Setting
}

// Interval is [eval.Interval]: an estimate with its 95 % range.
type Interval = eval.Interval

// Value is how well the spend of the horizon was foretold.
type Value struct {
	Top10       eval.Figure `json:"top10"`        // share of revenue of the tenth foretold to spend most
	Top10Past   eval.Figure `json:"top10_past"`   // of the tenth that had spent most
	Top10Best   eval.Figure `json:"top10_best"`   // of the tenth that did spend most
	Level       eval.Figure `json:"level"`        // revenue foretold by actual
	LevelNoCorr eval.Figure `json:"level_before"` // without the level correction
}

// Evaluate measures the models at every origin. The first error of an origin ends
// it: nothing is left out silently.
func Evaluate(ctx context.Context, s *Shop, c Config) ([]Result, error) {
	for _, m := range c.Models {
		if !slices.Contains(Models(), m) {
			return nil, fmt.Errorf("model %q is none of %v", m, Models())
		}
	}
	if len(s.Customers) == 0 {
		return nil, fmt.Errorf("%w: no orders", ErrOrigin)
	}
	var all []Result
	for _, origin := range c.Origins {
		if err := s.check(origin, c.Horizon); err != nil {
			return nil, err
		}
		results, err := at(ctx, s, origin, c)
		if err != nil {
			return nil, fmt.Errorf("origin %s: %w", s.Date(origin), err)
		}
		all = append(all, results...)
	}
	return all, nil
}

// day is an instant of a shop's day: midnight of the day, counted so that day 0 is
// the eighth of 1970, because states hold unsigned seconds.
func day(d int) int64 { return (int64(d) + 7) * 86400 * 1e6 }

// life is a shop's customers as the churn service would hold them.
type life struct {
	states []churn.Customer
	bins   churn.Histogram
	gaps   float64
}

// fold counts an order of customer i.
func (l *life) fold(i, d int, spend float64, s *churn.Setting) {
	c := &l.states[i]
	if b, ok := c.Bin(); ok {
		if l.bins[b]--; l.bins[b] == 0 {
			delete(l.bins, b)
		}
		l.gaps -= c.LogGaps()
	}
	c.Order(day(d), day(d), micros(spend), "", s)
	if b, ok := c.Bin(); ok {
		l.bins[b]++
		l.gaps += c.LogGaps()
	}
}

func micros(v float64) int64 { return int64(math.Round(min(max(v, 0), 1e12) * 1e6)) }

// begun is a silence that began after the timing day.
type begun struct {
	spell
	state churn.Customer
	at    int
}

// at evaluates one origin.
func at(ctx context.Context, s *Shop, origin int, c Config) ([]Result, error) {
	setting := churn.DefaultSetting()
	setting.Policy.HorizonDays = float64(c.Horizon)
	step := int(c.Train.Step)
	l := &life{states: make([]churn.Customer, len(s.Customers)), bins: churn.Histogram{}}

	if c.Models == nil {
		c.Models = Models()
	}
	online := slices.Contains(c.Models, Online)
	train := c.Train
	train.Correct = online
	trainer := churn.NewTrainer(train, setting)
	// What is known when the silences begin that timing looks at.
	timingDay := origin - c.Horizon
	var early churn.Setting
	var earlyCells []churn.Cell
	var silences []begun
	next := make([]int, len(s.Customers)) // index of the next order
	c.Progress.Start("live through "+s.Date(0)+" to "+s.Date(origin), int64(origin))
	for d, orders := range byDay(s, origin) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for _, i := range orders {
			k := next[i]
			next[i]++
			l.fold(int(i), d, s.Customers[i].Spend[k], &setting)
			if d > timingDay && timingDay >= 0 {
				lasted, churned := c.Horizon+1, true
				if k+1 < len(s.Customers[i].Days) {
					if gap := int(s.Customers[i].Days[k+1]) - d; gap <= c.Horizon {
						lasted, churned = gap, false
					}
				}
				silences = append(silences, begun{spell{lasted, churned}, l.states[i], d})
			}
		}
		if (origin-d)%step == 0 && (d >= 2*step || d == origin) && (online || d == origin) {
			if trainer.Fitted() || d == origin || len(l.bins) > 0 {
				trainer.Snapshot(day(d), l.states, l.bins, l.gaps)
			}
			setting.Value = trainer.Setting().Value
		}
		if d <= timingDay && d+step > timingDay {
			early = trainer.Setting()
		}
		if d == timingDay {
			earlyCells = cellsOf(s, d)
		}
		c.Progress.At(int64(d))
	}
	c.Progress.Done()

	present, churned := labels(s, origin, c.Horizon)
	if len(present) == 0 {
		return nil, fmt.Errorf("%w: nobody had ordered", ErrOrigin)
	}
	var rate float64
	for _, g := range churned {
		rate += outcome(g) / float64(len(churned))
	}
	cells, gaps := cellsOf(s, origin), l.gaps

	// The base model is always fitted: it is what the others are compared with.
	base := setting
	base.Correction = nil
	baseFit, baseLL, baseErr := churn.Fit(cells, gaps, c.Train.Fit)
	if baseErr == nil {
		base.Params = baseFit
	}
	score := func(f func(i int) float64) []float64 {
		out := make([]float64, len(present))
		for k, i := range present {
			out[k] = f(i)
		}
		return out
	}
	scores := map[string][]float64{
		MBG:     score(func(i int) float64 { p, _ := l.states[i].Base(day(origin), &base); return p }),
		Recency: recency(s, origin, c.Horizon, present),
	}
	learned := trainer.Setting()
	var flowing, flowingEarly churn.Setting
	var fitter *churn.Fitter
	if slices.Contains(c.Models, Streamed) {
		c.Progress.Start("learn as it runs up to "+s.Date(origin), 0)
		fresh := churn.DefaultSetting()
		fresh.Policy.HorizonDays = float64(c.Horizon)
		var err error
		if flowing, flowingEarly, fitter, err = streamed(ctx, s, origin, timingDay, fresh, c); err != nil {
			return nil, err
		}
		scores[Streamed] = score(func(i int) float64 { p, _ := l.states[i].Score(day(origin), &flowing); return p })
		c.Progress.Done()
	}
	if online {
		scores[Online] = score(func(i int) float64 { p, _ := l.states[i].Score(day(origin), &learned); return p })
	}
	var pareto churn.Pareto
	var paretoLL float64
	if slices.Contains(c.Models, ParetoNBD) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.Progress.Start("fit Pareto/NBD", 0)
		var err error
		if pareto, paretoLL, err = churn.FitPareto(cells); err != nil {
			return nil, fmt.Errorf("fit Pareto/NBD: %w", err)
		}
		f := pareto.Scorer(float64(c.Horizon))
		scores[ParetoNBD] = score(func(i int) float64 { return f(history(s, i, origin)) })
		c.Progress.Done()
	}
	var timings map[string][]Timing
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !c.fast {
		timings = timing(c, silences, early, flowingEarly, earlyCells, base.Policy)
	}
	var out []Result
	for _, m := range c.Models {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v := measure(scores[m], churned)
		r := Result{
			Customers: len(present), BaseRate: eval.Figure(rate), Model: m, AUC: v.AUC, Brier: v.Brier, ECE: v.ECE, Slope: v.Slope,
			Flagged: v.Flagged, FalsePos: v.FalsePos, Precision: v.Precision, LiftTop: v.LiftChurners, MaxLiftTop: v.MaxChurners,
			LiftLow: v.LiftBuyers, MaxLiftLow: v.MaxBuyers, Predicted: v.MeanPredicted,
			Origin: s.Date(origin), Day: origin, HorizonDays: c.Horizon,
			scores: scores[m], churned: churned, timings: timings[m], setting: base,
		}
		r.Lead, r.LeadStrict, r.LeadGap = eval.Figure(math.NaN()), eval.Figure(math.NaN()), eval.Figure(math.NaN())
		if len(r.timings) == 2 {
			r.Lead, r.LeadStrict, r.LeadGap = r.timings[0].Lead(), r.timings[1].Lead(), r.timings[0].Gap-r.timings[0].Model
		}
		r.Baseline = MBG
		if m == MBG {
			r.Baseline = Recency
		}
		r.AUCGain, r.BrierGain = compare(scores[m], scores[r.Baseline], churned, c)
		switch m {
		case Online:
			r.learnt(learned, trainer.Labels(), valueOf(s, origin, c.Horizon, present, l, learned))
		case Streamed:
			r.learnt(flowing, fitter.Labels(), valueOf(s, origin, c.Horizon, present, l, flowing))
		case MBG:
			p := base.Params
			r.Parameters = fmt.Sprintf("r %.4g, alpha %.4g d, a %.4g, b %.4g, k %d; log-likelihood %.1f", p.R, p.Alpha, p.A, p.B, p.K, baseLL)
			if baseErr != nil {
				r.Parameters = "shipped: " + baseErr.Error()
			}
		case ParetoNBD:
			r.Parameters = fmt.Sprintf("r %.4g, alpha %.4g d, s %.4g, beta %.4g d; log-likelihood %.1f", pareto.R, pareto.Alpha, pareto.S, pareto.Beta, paretoLL)
		}
		out = append(out, r)
	}
	return out, nil
}

// learnt notes the setting that a model learnt.
func (r *Result) learnt(s churn.Setting, labels float64, v *Value) {
	speaks := s.Correction != nil && s.Correction.Weights != churn.Features{}
	r.setting, r.Spoke, r.Value = s, &speaks, v
	p := s.Params
	r.Parameters = fmt.Sprintf("r %.4g, alpha %.4g d, a %.4g, b %.4g, k %d; %.0f labels", p.R, p.Alpha, p.A, p.B, p.K, labels)
}

// labels returns who had ordered by the origin, and who then did not in the horizon.
func labels(s *Shop, origin, horizon int) (present []int, churned []bool) {
	for i := range s.Customers {
		n := until(s, i, origin)
		if n == 0 {
			continue
		}
		days := s.Customers[i].Days
		present = append(present, i)
		churned = append(churned, n == len(days) || int(days[n]) > origin+horizon)
	}
	return present, churned
}

// until is the number of orders of a customer up to and with a day.
func until(s *Shop, i, d int) int {
	n, _ := slices.BinarySearch(s.Customers[i].Days, int32(d)+1)
	return n
}

func history(s *Shop, i, d int) churn.History {
	n := until(s, i, d)
	days := s.Customers[i].Days
	return churn.History{X: n - 1, Recency: float64(days[n-1] - days[0]), Age: float64(d) - float64(days[0])}
}

// cellsOf are all customers with an order by a day, exact.
func cellsOf(s *Shop, d int) []churn.Cell {
	var cells []churn.Cell
	for i := range s.Customers {
		if until(s, i, d) > 0 {
			cells = append(cells, churn.Cell{History: history(s, i, d), N: 1})
		}
	}
	return cells
}

// recency makes probabilities of the days since the last order, by logistic
// regression on their logarithm at the last day whose labels have closed: the same
// order of customers as the days themselves. Without such labels the odds are a
// month's.
func recency(s *Shop, origin, horizon int, present []int) []float64 {
	at := func(i, d int) float64 {
		h := history(s, i, d)
		return math.Log((h.Age - h.Recency + 3) / 30)
	}
	a, b := 0.0, 1.0
	if before := origin - horizon; before >= 0 {
		who, gone := labels(s, before, horizon)
		// With a weak pull toward (0, 1), and kept rising.
		a, b = logistic(gone, 1, func(k int) float64 { return at(who[k], before) })
		b = max(b, 1e-3)
	}
	out := make([]float64, len(present))
	for k, i := range present {
		out[k] = 1 / (1 + math.Exp(-a-b*at(i, origin)))
	}
	return out
}

// compare resamples customers in pairs.
func compare(score, base []float64, churned []bool, c Config) (auroc, brier Interval) {
	diff := make([]float64, len(score))
	var gone int
	for i := range score {
		y := outcome(churned[i])
		diff[i] = (base[i]-y)*(base[i]-y) - (score[i]-y)*(score[i]-y)
		gone += int(y)
	}
	brier = eval.Bootstrap(c.Resamples, c.Seed, diff)
	nan := eval.Figure(math.NaN())
	auroc = Interval{Value: nan, Low: nan, High: nan}
	if gone == 0 || gone == len(churned) {
		return auroc, brier
	}
	a, b := sorted(score), sorted(base)
	// A tenth of the resamples: each sorts nothing, but passes twice over everybody.
	auroc = eval.BootstrapStatistic(max(c.Resamples/10, 1), c.Seed, len(score), func(times []int) float64 {
		return auc(a, score, churned, times) - auc(b, base, churned, times)
	})
	return auroc, brier
}

// timing compares the alerts of every model with fixed silence and the own gap.
func timing(c Config, silences []begun, early, flowing churn.Setting, cells []churn.Cell, policy churn.Policy) map[string][]Timing {
	if len(silences) == 0 || len(cells) == 0 || early.Params == (churn.Params{}) {
		return nil
	}
	spells := make([]spell, len(silences))
	var churned int
	for i, b := range silences {
		spells[i] = b.spell
		if b.churned {
			churned++
		}
	}
	var recencies, repeats float64
	for _, x := range cells {
		recencies += x.N * x.Recency
		repeats += x.N * float64(x.X)
	}
	usual := (recencies + 30) / (repeats + 1) // days between orders in the shop
	fixed := func(_, d int) float64 { return float64(d) }
	gap := func(i, d int) float64 {
		h := silences[i].state.History(day(silences[i].at), &early)
		return float64(d) / ((h.Recency + usual) / (float64(h.X) + 1))
	}
	base := early
	base.Correction = nil
	policies := map[string]func(i, d int) float64{
		Online: func(i, d int) float64 {
			b := &silences[i]
			p, _ := b.state.Score(day(b.at+d), &early)
			return p
		},
		Streamed: func(i, d int) float64 {
			b := &silences[i]
			p, _ := b.state.Score(day(b.at+d), &flowing)
			return p
		},
		MBG: func(i, d int) float64 {
			b := &silences[i]
			p, _ := b.state.Base(day(b.at+d), &base)
			return p
		},
		Recency: fixed,
	}
	if slices.Contains(c.Models, ParetoNBD) {
		if p, _, err := churn.FitPareto(cells); err == nil {
			f := p.Scorer(policy.HorizonDays)
			policies[ParetoNBD] = func(i, d int) float64 {
				b := &silences[i]
				return f(b.state.History(day(b.at+d), &early))
			}
		}
	}
	out := map[string][]Timing{}
	for _, share := range []float64{.2, .1} {
		f, _ := delays(spells, c.Horizon, share, fixed)
		g, _ := delays(spells, c.Horizon, share, gap)
		for _, m := range c.Models {
			if policies[m] == nil {
				continue
			}
			v, in := delays(spells, c.Horizon, share, policies[m])
			out[m] = append(out[m], Timing{
				Churned: churned, Returning: len(spells) - churned, FalseAlerts: share,
				Fixed: eval.Figure(f), Gap: eval.Figure(g), Model: eval.Figure(v), InTime: eval.Figure(in),
			})
		}
	}
	return out
}

// valueOf compares the spend foretold for the horizon with the spend.
func valueOf(s *Shop, origin, horizon int, present []int, l *life, learned churn.Setting) *Value {
	if !s.Priced {
		return nil
	}
	n := len(present)
	foretold, past, actual := make([]float64, n), make([]float64, n), make([]float64, n)
	var sumForetold, sumActual float64
	orders := churn.NewOrders(learned.Params)
	for k, i := range present {
		c := &s.Customers[i]
		cut := until(s, i, origin)
		for j, d := range c.Days {
			if j < cut {
				past[k] += c.Spend[j]
			} else if int(d) <= origin+horizon {
				actual[k] += c.Spend[j]
			}
		}
		h := history(s, i, origin)
		x, mean := l.states[i].Spend()
		foretold[k] = learned.Value.Mean(x, mean) * learned.Params.PAlive(h) * orders.Expected(h, float64(horizon))
		sumForetold += foretold[k]
		sumActual += actual[k]
	}
	if sumActual <= 0 {
		return nil
	}
	top := func(by []float64) eval.Figure {
		order := sorted(by)
		var sum float64
		for i := range max(1, int(math.Round(float64(n)/10))) {
			sum += actual[order[n-1-i]]
		}
		return eval.Figure(sum / sumActual)
	}
	level := learned.ValueLevel
	if level == 0 {
		level = 1
	}
	return &Value{Top10: top(foretold), Top10Past: top(past), Top10Best: top(actual), Level: eval.Figure(level * sumForetold / sumActual), LevelNoCorr: eval.Figure(sumForetold / sumActual)}
}
