package recommend

import (
	"errors"
	"fmt"
	"math"
)

// Config bounds an [Index] and sets the constants of its formulas. Caps may
// change between a snapshot and its restore, decay times may not.
type Config struct {
	MaxItems          int // items known at once; the longest unseen are dropped in batches of 1/16
	MaxSessions       int // sessions in the log; the oldest is overwritten
	SessionLength     int // items kept per session, 2..255; the oldest is dropped
	PostingsPerItem   int // sessions listed per item, 1..65535; the oldest is overwritten
	NeighboursPerItem int // neighbours kept per item and relation, 1..16384; lists grow to twice as many, then are pruned by weight
	TopItems          int // length of each trending and popular list, 1..65535
	MaxCandidates     int // candidates scored per answer
	MaxAnswers        int // upper bound of Query.N

	QueryItems int // newest distinct items of a query that are used
	M          int // sessions looked at per answer
	K          int // most similar sessions that vote

	// Constants of the neighbour search (V-STAN, Garg et al., SIGIR 2019, in the
	// form of Ludewig et al., 2021).
	QueryStep   float64 // L2: weight exp(-position/QueryStep) of a query item, newest at 0
	MatchStep   float64 // L4: weight exp(-position/MatchStep) of the newest shared item
	Distance    float64 // L3: weight exp(-|distance|/Distance) of an item around the match
	Backward    float64 // factor on items that came before the match, 0..1
	AgeDays     float64 // L1: weight exp(-age/AgeDays) of a session
	IDFWeight   float64 // w: factor 1 + w*ln(N/n) of an item
	CountedStep float64 // weight exp(-position/CountedStep) of a query item in the counted relations

	Steps        int     // how far back in its session an item is paired, in items
	PairGapHours float64 // half-life of a pair's weight in the time between its two events
	PairDays     float64 // half-life of a pair's weight in age
	PopularDays  float64 // half-life of the popular counter
	WalkFanout   int     // neighbours followed in the first hop of the two-hop walk

	LearningRate float64 // of the ranker's steps
	PriorPull    float64 // of its weights towards where they began, per step
	SecondRate   float64 // of the second stage's steps; 0 is no second stage
	LearnWarm    int     // events of a head that all teach
	LearnEvery   int     // then one session in so many teaches, and slowly fewer; 0 is none ever

	TrendingFloor float64 // decayed events of the last day (or week) below which nothing is called trending
}

// DefaultConfig returns caps for a shop of up to 200,000 items on a small
// machine, and constants chosen on the last training days of a public click log.
func DefaultConfig() Config {
	return Config{
		MaxItems: 200_000, MaxSessions: 250_000, SessionLength: 20,
		PostingsPerItem: 500, NeighboursPerItem: 64, TopItems: 200,
		MaxCandidates: 512, MaxAnswers: 100,
		QueryItems: 8, M: 500, K: 100,
		QueryStep: 3, MatchStep: 8, Distance: 1.5, Backward: .5, AgeDays: 80, IDFWeight: 3, CountedStep: 1,
		Steps: 6, PairGapHours: .25, PairDays: 60, PopularDays: 30, WalkFanout: 8,
		LearningRate: .15, PriorPull: 1e-5, SecondRate: .07, LearnWarm: 5000, LearnEvery: 4,
		TrendingFloor: 2,
	}
}

// Validate reports every setting outside its range.
func (c Config) Validate() error {
	var errs []error
	whole := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			errs = append(errs, fmt.Errorf("recommend.%s: %d is not inside [%d, %d]", name, v, lo, hi))
		}
	}
	real := func(name string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) { // also catches NaN
			errs = append(errs, fmt.Errorf("recommend.%s: %g is not inside [%g, %g]", name, v, lo, hi))
		}
	}
	whole("max-items", c.MaxItems, 1, 1<<26)
	whole("max-sessions", c.MaxSessions, 1, 1<<28)
	whole("session-length", c.SessionLength, 2, 255)
	whole("postings-per-item", c.PostingsPerItem, 1, math.MaxUint16)
	whole("neighbours-per-item", c.NeighboursPerItem, 1, 1<<14)
	// Offsets in the arenas are 32 bits; runs of all classes may triple what is held.
	if n := 3 * int64(c.MaxItems) * int64(max(c.PostingsPerItem, 2*c.NeighboursPerItem)); n > math.MaxUint32 {
		errs = append(errs, fmt.Errorf("recommend: max-items times postings-per-item, or times twice neighbours-per-item, needs %d slots, at most %d can be held", n, int64(math.MaxUint32)))
	}
	whole("top-items", c.TopItems, 1, math.MaxUint16)
	whole("max-candidates", c.MaxCandidates, 1, math.MaxUint16)
	whole("max-answers", c.MaxAnswers, 1, 10_000)
	whole("query-items", c.QueryItems, 1, 255)
	whole("m", c.M, 1, 1<<24)
	whole("k", c.K, 1, 1<<24)
	whole("steps", c.Steps, 1, 255)
	whole("walk-fanout", c.WalkFanout, 0, 64)
	real("query-step", c.QueryStep, 0.01, 1e6)
	real("match-step", c.MatchStep, 0.01, 1e6)
	real("distance", c.Distance, 0.01, 1e6)
	real("backward", c.Backward, 0, 1)
	real("age-days", c.AgeDays, 0.01, 1e6)
	real("idf-weight", c.IDFWeight, 0, 1e3)
	real("counted-step", c.CountedStep, 0.01, 1e6)
	real("pair-gap-hours", c.PairGapHours, 0.01, 1e6)
	real("pair-days", c.PairDays, 0.01, 1e5)
	real("popular-days", c.PopularDays, 0.01, 1e5)
	whole("learn-warm", c.LearnWarm, 0, 1<<30)
	whole("learn-every", c.LearnEvery, 0, 1<<30)
	real("learning-rate", c.LearningRate, 0, 10)
	real("second-rate", c.SecondRate, 0, 10)
	real("prior-pull", c.PriorPull, 0, 1)
	real("trending-floor", c.TrendingFloor, 0, 1e9)
	return errors.Join(errs...)
}
