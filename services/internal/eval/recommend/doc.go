// Package recommend measures the session recommender on a log of sessions: what
// would it have shown before each click of the test sessions, and was the click
// among it. It runs the package that the services run
// ([github.com/sillage-io/sillage/libs/domain/recommend]) beside plain methods,
// over the same cases.
//
// # Protocol
//
// A session is a test session when it ends in the last days of the log, or where
// the file says so itself. Every prefix of a test session is one case: the items
// so far are the query, the next one is what should have been shown. All items
// compete; none is sampled, and no case is left out because it is inconvenient:
// items that nobody had seen before count as misses.
//
// Frozen: everything is learned from the sessions before, nothing moves during
// the test; this is what papers report. Online: events come in time order, and
// each is predicted, scored, and then learned, as in production. Both score the
// same cases.
//
// # Size
//
// A log of any length is read in memory that does not grow with it: clicks beyond
// Reading.Hold go to temporary files, sorted runs first, then one file in time
// order, which is read once a pass. A log is in time order where no click is
// earlier than one before it; its runs need no sorting, and how many clicks stood
// elsewhere is said. A session ends where its name has been silent for long, so
// that only those of a day are open at once. What stays is the index, which is
// capped, the reference method over its newest million sessions, the ids of items,
// a bit a click and a session, and the cases, of at most Config.Sessions sessions.
//
// # Measures
//
// HR@20 is the share of cases whose item is among the first 20, MRR@20 the mean
// of 1/rank (0 beyond 20), NDCG@20 the mean of 1/log2(1+rank). Intervals come
// from resampling whole sessions. Latency is CPU time of one thread around one
// answer, where the system can tell it, so that it means the same on a busy
// machine.
package recommend
