// Package recommend is the core of the online session recommender: an index of
// recent shopping sessions that moves with every event, a ranker that learns with
// every event, and the answer "what next" computed from both.
//
// # Model
//
// One [Index] holds one shop. It is fed by [Delta] values ("item j joined
// session s, at step k after item i") and by the catalogue ([Index.SetProduct]),
// and keeps, in flat arenas with a cap on everything:
//
//   - a log of the most recent sessions and, per item, a ring of the sessions
//     that had it, for nearest-neighbour search (V-STAN form: positions,
//     distances and age decay exponentially);
//   - per item and relation a short list of counted neighbours with lazy
//     exponential decay: seen in one session (directly next, later, earlier),
//     carted after, bought after, bought with;
//   - decayed counters of one hour, one day, one week and a month for what is
//     trending and what is popular, and per category its most popular and its
//     newest items, so that a product nobody has seen can be found.
//
// [Index.Recommend] gathers candidates from these sources and from a two-hop
// walk, drops what must not be shown before it ranks, describes each candidate by
// features of about 0..1, ranks by a linear model of them, and fills a short
// list from trending and popular items. A score is the probability that the item
// comes next, among the candidates. Every [Answer] names its [Level] and the
// counted evidence behind it.
//
// [Index.Learn] is one step of listwise softmax regression (ListNet's top-one
// loss, Cao et al., ICML 2007, with the item that came next as the only relevant
// one) by AdaGrad, from a neutral prior, with weights of their own for sessions of
// 1, 2, 3 to 4, and more items, and for the cart page. Weights of another shop are
// not taken over: they can be worse than none.
//
// [VMIS] is the reference method (VMIS-kNN, Kersbergen et al., SIGMOD 2022),
// built in one go from finished sessions. It is the control that the served
// form is measured against; [Method] names further baselines over the same index.
//
// # Predict, score, learn
//
// A running shop hands every delta to [Index.Observe], which learns from some
// sessions and applies all. An evaluation that must not let a session see itself
// takes it whole: predict each step with [Index.Recommend] and a [Trail], and only
// then learn and apply; see the example.
//
// # Time
//
// The package reads no clock: time comes with deltas and queries, in
// milliseconds since 1970. Decay is forward decay (Cormode et al., ICDE 2009):
// a count at time t is stored as exp((t-L)/tau) for a landmark L, so that stored
// weights of any age compare without touching them. A log without times can count
// a minute a session; no default is sensitive to it within a factor of two.
//
// # Concurrency
//
// An Index is not safe for concurrent writes. [Index.Apply], [Index.Learn],
// [Index.Observe] and [Index.SetProduct] need exclusive access; [Index.Recommend]
// and [Index.WriteTo] only read and may run at the same time as each other, each
// Recommend with a [Scratch] of its own. A service holds a sync.RWMutex per
// index, applies deltas under the write lock, and answers under the read lock.
//
// # What it is not
//
// It does not sessionise, drop duplicates, or speak to a log or a store: deltas
// arrive once each.
package recommend
