package churn

import "math"

// Kind says what an [Alert] is.
type Kind uint8

// Kinds of alert.
const (
	Raised    Kind = iota + 1 // the risk passed the threshold
	Recovered                 // the customer ordered again
	Withdrawn                 // the customer objected or was erased
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case Raised:
		return "RAISED"
	case Recovered:
		return "RECOVERED"
	case Withdrawn:
		return "WITHDRAWN"
	}
	return "UNKNOWN"
}

// Tier is how urgent an alert is.
type Tier uint8

// Tiers.
const (
	TierMedium Tier = iota + 1 // at the threshold, or raised by the backstop below it
	TierHigh                   // from Policy.HighRisk
)

// Arm says whether an alert may be acted upon.
type Arm uint8

// Arms.
const (
	Treat   Arm = iota + 1
	Holdout     // to be left alone, for comparison
)

// String returns the arm's name.
func (a Arm) String() string {
	switch a {
	case Treat:
		return "treat"
	case Holdout:
		return "holdout"
	}
	return "unknown"
}

// Codes of reasons.
const (
	// ReasonNewcomer: Value is the score of a customer right after a first order.
	// Its Contribution is the part of the log-odds that is nobody's in particular.
	ReasonNewcomer = "newcomer"
	// ReasonOrders: Value is the customer's transactions, Typical 1, the newcomer's;
	// Contribution is what they changed by the time of the last.
	ReasonOrders = "orders"
	// ReasonSilence: Value is the days of silence, Typical the customer's median gap;
	// Contribution is what the silence changed.
	ReasonSilence = "silence"
	// ReasonRhythm: Value is the score with what the shop's closed labels say of such
	// gaps and spend, Typical the score without.
	ReasonRhythm = "rhythm"
	// ReasonBehaviour: Value is the decayed number of visits; Contribution is that of
	// visits, searches, carts, mails and refunds together.
	ReasonBehaviour = "behaviour"
	// ReasonMaxSilence: Value is the days of silence, Typical the policy's maximum. The
	// alert was raised by the backstop; it contributes nothing to the score.
	ReasonMaxSilence = "max_silence"
)

// Reason is one cause of a score. The contributions of an alert's reasons add up
// to the log-odds of its probability.
type Reason struct {
	Code                         string
	Value, Typical, Contribution float64
}

// Alert is what a decision tells the CRM. Instants are in microseconds.
type Alert struct {
	Kind    Kind
	Episode uint32 // of the RAISED: (customer, Episode, Kind) names an alert
	Due     int64  // the instant of the decision
	Expires int64  // Raised: the end of the horizon

	Probability  float64 // Raised, Withdrawn: of no order within the horizon; Recovered: as it was raised with
	HorizonDays  float64
	SilenceDays  float64    // observed days since the last transaction
	UsualGapDays [3]float64 // 30, 50 and 90 % quantiles of the gap expected at the last order
	Orders       int
	Reasons      []Reason // Raised only

	ValueAtRisk float64 // Raised: expected spend in the horizon that silence put at risk, in units of Currency
	Currency    string
	Tier        Tier // Raised only
	Arm         Arm  // Raised only: the answers keep the arm of what they answer

	RaisedAt     int64   // Recovered, Withdrawn: Due of the RAISED
	DaysToReturn float64 // Recovered: from RaisedAt
	OrderValue   int64   // Recovered: of the order, in micros
}

// due returns when the customer is to be raised, and false if that is not before an
// instant: when the silence is that of the crossing, and long enough by the quiet
// rule; at the maximum silence whatever the score. Most answers are false, and take
// one score and no search.
func (c *Customer) due(s *Setting, until int64) (int64, bool) {
	h := c.History(0, s).after()
	p := s.Policy
	last := c.LastOrder()
	limit := days(s.Observed.span(last, until)) + 1./86400
	if limit < p.MaxSilence {
		switch {
		case limit < p.QuietDays, 1-s.Params.pSilent(h, limit) < p.QuietQuantile:
			return 0, false // it is quiet until then
		case s.Correction == nil && s.Params.Score(h.at(limit), s.horizon()) < p.Theta:
			return 0, false // what the score falls to and rises from lies before
		}
	}
	quiet := max(p.QuietDays, s.Params.NextOrderQuantile(h, p.QuietQuantile))
	silence, ok := c.crossing(h, quiet, min(limit, p.MaxSilence), s)
	switch {
	case ok:
		silence = min(silence, p.MaxSilence)
	case limit < p.MaxSilence:
		return 0, false
	default:
		silence = p.MaxSilence
	}
	at := s.Observed.after(last, int64(math.Ceil(silence*float64(dayMicros))))
	return at, at <= until
}

// Crossing returns the instant at which the score reaches the threshold if the
// customer stays silent, whatever the quiet rule, and false for a customer without
// orders or if that is never. It lies in the past for a score above the threshold.
func (c *Customer) Crossing(s *Setting) (int64, bool) {
	if c.first == 0 {
		return 0, false
	}
	silence, ok := c.crossing(c.History(0, s).after(), 0, s.Policy.MaxSilence, s)
	if !ok {
		return 0, false
	}
	return s.Observed.after(c.LastOrder(), int64(math.Ceil(silence*float64(dayMicros)))), true
}

// crossing returns the days of silence, at least quiet, at which the score
// reaches the threshold, and false if a corrected one does not before a limit, or
// another one never.
//
// The corrected score need not grow with silence: the first crossing after the
// quiet time counts, looked for in steps of a fifth of the silence, at least a
// day, and then closed in on down to a second or
// a millionth of the score.
func (c *Customer) crossing(h History, quiet, limit float64, s *Setting) (float64, bool) {
	p := s.Policy
	if s.Correction == nil {
		age, ok := s.Params.Crossing(h, p.Theta, s.horizon())
		return max(age-h.Recency, quiet), ok
	}
	last := c.LastOrder()
	above := func(silence float64) float64 {
		return s.score(c, h.at(silence), last+int64(silence*float64(dayMicros))) - p.Theta
	}
	low := quiet
	if low >= limit {
		return 0, false
	}
	below := above(low)
	if below >= 0 {
		return quiet, true
	}
	for low < limit {
		high := min(p.MaxSilence, low+max(1, low/5))
		over := above(high)
		if over >= 0 {
			return root(above, low, below, high, over, 1./86400, 1e-6), true
		}
		low, below = high, over
	}
	return 0, false
}

// NextWake returns when to look at the customer next, and false if that is not
// before a further fact. It is never before now, nor longer than the policy's
// sleep away: another model and late unobserved intervals are seen by then. It is
// to be asked after every call that changes the customer.
func (c *Customer) NextWake(now int64, s *Setting) (int64, bool) {
	if c.first == 0 || c.objected || c.state != stateNone {
		return 0, false
	}
	sleep := now + int64(s.Policy.SleepDays*float64(dayMicros))
	if at, ok := c.due(s, sleep); ok {
		return max(now, at), true
	}
	return sleep, true
}

// Wake decides at a wake-up: it raises the customer if that is due. The draw is a
// keyed hash of customer and episode, uniform over all values, and chooses the
// arm. A wake-up that comes early changes nothing, and [Customer.NextWake] tells
// when to come again.
func (c *Customer) Wake(now int64, draw uint64, s *Setting) (Alert, bool) {
	if c.first == 0 || c.objected || c.state != stateNone {
		return Alert{}, false
	}
	if _, ok := c.due(s, now); !ok {
		return Alert{}, false
	}
	a := c.describe(Raised, now, s)
	h := c.History(now, s)
	p, horizon := s.Params, s.horizon()
	fresh := p.Score(h.after(), horizon)
	a.Reasons = c.reasons(h, now, s)
	if a.Probability < s.Policy.Theta && a.SilenceDays >= s.Policy.MaxSilence*(1-1e-9) {
		a.Reasons = append(a.Reasons, Reason{ReasonMaxSilence, a.SilenceDays, s.Policy.MaxSilence, 0})
	}
	a.Expires = now + int64(s.Policy.HorizonDays*float64(dayMicros))
	x, mean := c.Spend()
	a.ValueAtRisk = s.level() * s.Value.Mean(x, mean) * p.ExpectedOrders(h.after(), horizon) * max(0, a.Probability-fresh)
	a.Tier = TierMedium
	if a.Probability >= s.Policy.HighRisk {
		a.Tier = TierHigh
	}
	a.Arm = Treat
	if float64(draw>>11)/(1<<53) < s.Policy.Holdout {
		a.Arm = Holdout
	}
	c.state, c.raisedAt, c.raisedP = stateRaised, seconds(now), float32(a.Probability)
	return a, true
}

// Reasons returns what makes the score of a customer who has ordered.
func (c *Customer) Reasons(now int64, s *Setting) []Reason {
	if c.first == 0 {
		return nil
	}
	return c.reasons(c.History(now, s), now, s)
}

func (c *Customer) reasons(h History, now int64, s *Setting) []Reason {
	p, horizon := s.Params, s.horizon()
	newcomer, fresh, base := p.Score(History{}, horizon), p.Score(h.after(), horizon), p.Score(h, horizon)
	gap := p.NextOrderQuantile(h.after(), .5)
	all := []Reason{
		{ReasonSilence, h.Age - h.Recency, gap, logit(base) - logit(fresh)},
		{ReasonOrders, float64(h.X + 1), 1, logit(fresh) - logit(newcomer)},
		{ReasonNewcomer, newcomer, newcomer, logit(newcomer)},
	}
	if s.Correction == nil {
		return all
	}
	f := c.features(h, now, s)
	f.complete(logit(base))
	var rhythm, behaviour float64
	for i, w := range s.Correction.Weights {
		if i < featWeek {
			rhythm += w * f[i]
		} else {
			behaviour += w * f[i]
		}
	}
	if by := s.Correction.Intercept + rhythm; by != 0 {
		all = append(all, Reason{ReasonRhythm, sigmoid(logit(base) + by), base, by})
	}
	if behaviour != 0 {
		d := max(0, days(now-int64(c.behaved)*second))
		all = append(all, Reason{ReasonBehaviour, c.quarter.value() * math.Exp2(-d/quarterHalf), 0, behaviour})
	}
	return all
}

// Object notes an objection to profiling, or its end. An objection withdraws what
// is raised, and the customer is not scored while it lasts.
func (c *Customer) Object(now int64, objected bool, s *Setting) (Alert, bool) {
	c.objected = objected
	if !objected {
		return Alert{}, false
	}
	return c.Withdraw(now, s)
}

// Withdraw ends a raised alert, for a customer who objected or is to be erased.
// The episode is spent: nothing is raised before the next order.
func (c *Customer) Withdraw(now int64, s *Setting) (Alert, bool) {
	if c.state != stateRaised {
		return Alert{}, false
	}
	a := c.describe(Withdrawn, now, s)
	c.state, c.raisedAt, c.raisedP = stateSpent, 0, 0
	return a, true
}

// recover describes the return of a raised customer, before the order counts.
func (c *Customer) recover(now, value int64, s *Setting) (Alert, bool) {
	if c.state != stateRaised {
		return Alert{}, false
	}
	a := c.describe(Recovered, now, s)
	a.Probability = float64(c.raisedP)
	a.DaysToReturn = max(0, days(now-a.RaisedAt))
	a.OrderValue = value
	return a, true
}

// describe fills in what every kind of alert says.
func (c *Customer) describe(k Kind, now int64, s *Setting) Alert {
	h := c.History(now, s)
	a := Alert{
		Kind: k, Episode: c.episode, Due: now, HorizonDays: s.Policy.HorizonDays,
		Probability: s.score(c, h, now), SilenceDays: h.Age - h.Recency,
		Orders: c.Orders(), Currency: c.Currency(),
	}
	for i, q := range [3]float64{.3, .5, .9} {
		a.UsualGapDays[i] = s.Params.NextOrderQuantile(h.after(), q)
	}
	if c.state == stateRaised {
		a.RaisedAt = int64(c.raisedAt) * second
	}
	return a
}
