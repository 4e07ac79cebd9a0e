package churn

import (
	"errors"
	"fmt"
	"math"
)

// Features of a customer, beside the base score, as the correction reads them.
// They are logarithms of amounts divided by usual ones, so that they lie within
// a few units of zero in any shop and need no scaling of its own; each is cut at
// +-4. What is not known is 0.
const (
	featOrders        = iota // log(1 + x)
	featSilence              // log of silence by a month
	featAge                  // log of age by a quarter
	featSingle               // 1 for a customer of one order
	featRatio                // log of silence by the mean gap
	featRatio2               // its square
	featOverdue              // its positive part
	featLastGap              // log of the last gap by the mean gap
	featTrend                // the same of the last three gaps
	featSpread               // deviation of the logarithms of the gaps, less 1
	featSpend                // log of the mean spend by the shop's
	featBase                 // logit of the base score, less 1
	featBase2                // its square
	featOrdersSilence        // product of two
	featOrdersBase           // product of two
	featHorizon              // silence by the horizon, as a step
	featWeek                 // from here on behaviour: log of decayed visits, a week
	featQuarter              // a quarter
	featVisit                // log of the days since the last
	featMinutes              // log of decayed minutes
	featSearches             // log of decayed searches
	featCarts                // log of decayed additions to a cart
	featMails                // log of decayed reactions to mails
	featRefunds              // log of refunds by orders
	// NumFeatures is the number of them.
	NumFeatures
)

// Features are in the order of [FeatureNames].
type Features [NumFeatures]float64

// FeatureNames returns the names of features in a model file or a report.
func FeatureNames() [NumFeatures]string {
	return [NumFeatures]string{
		"orders", "silence", "age", "single", "silence_by_gap", "silence_by_gap_squared", "overdue", "last_gap", "gap_trend", "gap_spread",
		"spend", "base", "base_squared", "orders_x_silence", "orders_x_base", "silence_by_horizon",
		"visits_week", "visits_quarter", "days_since_visit", "minutes", "searches", "carts", "mail_reactions", "refunds",
	}
}

// dot returns the product with weights.
func (f *Features) dot(w *Features) float64 {
	var sum float64
	for i := range f {
		sum += f[i] * w[i]
	}
	return sum
}

// less takes the means away.
func (f *Features) less(mean *Features) {
	for i := range f {
		f[i] -= mean[i]
	}
}

// features returns those that follow from the state; [Features.complete] adds
// those that follow from the base score.
func (c *Customer) features(h History, now int64, s *Setting) Features {
	f := h.features(s.Policy.HorizonDays)
	x := float64(h.X)
	if h.X > 0 {
		gap := h.Recency/x + 7
		k := min(h.X, kept-1)
		for k > 1 && c.recent[k] == 0 { // taken back or added late
			k--
		}
		if c.recent[1] != 0 {
			f[featLastGap] = math.Log((float64(c.recent[0]-c.recent[1])/86400 + 7) / gap)
			f[featTrend] = math.Log((float64(c.recent[0]-c.recent[k])/86400/float64(k) + 7) / gap)
		}
		f[featSpread] = math.Sqrt((max(0, float64(c.logGaps2)-c.logGaps*c.logGaps/x)+1)/(x+1)) - 1
	}
	if c.total > 0 {
		f[featSpend] = math.Log(float64(c.total)/1e6/(x+1)/s.Value.Mean(0, 0)) / 2
	}
	if c.behaved != 0 {
		d := max(0, days(now-int64(c.behaved)*second))
		f[featVisit] = math.Log((d + 3) / 30)
		slow := math.Exp(-d * math.Ln2 / quarterHalf)
		if c.week != 0 {
			f[featWeek] = math.Log(1 + c.week.value()*math.Exp(-d*math.Ln2/weekHalf))
		}
		f[featQuarter] = c.quarter.log(slow)
		f[featMinutes] = c.minutes.log(slow) / 2
		f[featSearches] = c.searches.log(slow)
		f[featCarts] = c.carts.log(slow)
		f[featMails] = c.mails.log(slow)
	}
	if c.refunds > 0 {
		f[featRefunds] = math.Log(1 + float64(c.refunds)/(x+1))
	}
	return f
}

// features returns those that follow from the history and the horizon alone.
func (h History) features(horizon float64) Features {
	var f Features
	x, silence := float64(h.X), h.Age-h.Recency
	f[featOrders] = math.Log(1 + x)
	f[featSilence] = math.Log((silence + 3) / 30)
	f[featAge] = math.Log((h.Age + 7) / 90)
	if h.X > 0 {
		ratio := math.Log((silence + 7) / (h.Recency/x + 7))
		f[featRatio], f[featRatio2], f[featOverdue] = ratio, ratio*ratio/4, max(0, ratio)
	} else {
		f[featSingle] = 1
	}
	f[featHorizon] = 1 - 2/(math.Exp((silence-horizon)/10)+1) // tanh of a twentieth
	return f
}

// complete adds what follows from the logit of the base score, and cuts.
func (f *Features) complete(base float64) {
	f[featBase], f[featBase2] = base-1, base*base/8
	f[featOrdersSilence] = f[featOrders] * f[featSilence] / 2
	f[featOrdersBase] = f[featOrders] * base / 4
	for i, v := range f {
		f[i] = min(max(v, -4), 4)
	}
}

// Correction is what a shop's closed labels say beside its base score:
// logit p = logit C_h + Intercept + Weights . features.
type Correction struct {
	Intercept float64
	Weights   Features
}

// Validate reports weights that no learning leads to.
func (c *Correction) Validate() error {
	var errs []error
	names := FeatureNames()
	if !(math.Abs(c.Intercept) <= 50) {
		errs = append(errs, fmt.Errorf("churn.correction.intercept: %g is not inside [-50, 50]", c.Intercept))
	}
	for i, w := range c.Weights {
		if !(math.Abs(w) <= 50) {
			errs = append(errs, fmt.Errorf("churn.correction.%s: %g is not inside [-50, 50]", names[i], w))
		}
	}
	return errors.Join(errs...)
}

// base returns C_h, the horizon stretched or shrunk by the season.
func (s *Setting) base(h History) float64 { return s.Params.Score(h, s.horizon()) }

// horizon is the policy's, in days of the recent past's intensity of orders.
func (s *Setting) horizon() float64 {
	if s.Season > 0 {
		return s.Policy.HorizonDays * s.Season
	}
	return s.Policy.HorizonDays
}

// score returns the corrected score of a customer who has ordered.
func (s *Setting) score(c *Customer, h History, now int64) float64 {
	left := s.Params.returns(h, s.horizon())
	if s.Correction == nil {
		return 1 - left
	}
	l := odds(1-left, left)
	return sigmoid(l + s.correct(c, h, now, l))
}

// correct returns what the correction adds to the logit of the base score.
func (s *Setting) correct(c *Customer, h History, now int64, base float64) float64 {
	if s.Correction == nil {
		return 0
	}
	f := c.features(h, now, s)
	f.complete(base)
	return s.Correction.Intercept + s.Correction.Weights.dot(&f)
}

func sigmoid(v float64) float64 { return 1 / (1 + math.Exp(-v)) }
