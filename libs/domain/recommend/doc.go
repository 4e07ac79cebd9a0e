// Package recommend is the core of the online session recommender: an index of
// recent shopping sessions that moves with every event, and the answer "what
// next" computed from it.
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
//     exponential decay: viewed next, seen together, carted after, bought
//     after, bought with;
//   - decayed counters of one hour, one day, one week and a month for what is
//     trending and what is popular.
//
// [Index.Recommend] gathers candidates from these sources and from a two-hop
// walk, drops what must not be shown before it ranks, adds the sources up with
// fixed weights, and fills a short list from trending and popular items. Every
// [Answer] names its [Level] and the counted evidence behind it.
//
// [VMIS] is the reference method (VMIS-kNN, Kersbergen et al., SIGMOD 2022),
// built in one go from finished sessions. It is the control that the served
// form is measured against.
//
// # Time
//
// The package reads no clock: time comes with deltas and queries, in
// milliseconds since 1970. Decay is forward decay (Cormode et al., ICDE 2009):
// a count at time t is stored as exp((t-L)/tau) for a landmark L, so that stored
// weights of any age compare without touching them.
//
// # Concurrency
//
// An Index is not safe for concurrent writes. [Index.Apply] and
// [Index.SetProduct] need exclusive access; [Index.Recommend] and
// [Index.WriteTo] only read and may run at the same time as each other, each
// Recommend with a [Scratch] of its own. A service holds a sync.RWMutex per
// index, applies deltas in small batches under the write lock, and answers under
// the read lock.
//
// # What it is not
//
// It does not sessionise, drop duplicates, speak to a log or a store, or learn
// weights: deltas arrive once each, and the weights are constants.
package recommend
