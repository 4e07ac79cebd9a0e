// Package simulator is a shop that never was: products with affinities,
// visitors who look and sometimes buy, customers with habits, some of whom
// leave, and a buyer who reorders. Everything follows from a seed, so what is
// true is known. It speaks with Sillage as a shop does: through the collector.
package simulator
