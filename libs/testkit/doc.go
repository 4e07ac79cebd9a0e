// Package testkit lets the folds of services live through a history in tests:
// one partition of a processor in memory, with facts and ticks, and what
// followed from them. It has no broker, no store and no clock.
//
// What it is not: a test of the protocol (crashes, repeats, several partitions)
// is in package step, a test of everything together in services/internal/e2e.
package testkit
