// Package chaos breaks everything while a shop lives, and counts what was lost.
//
// Its test starts the product's binaries on an embedded or a real broker and
// store, sends events whose acknowledgements it notes, and makes one fault after
// the other: processes, broker and store are killed, frozen, cut off, rolled back
// and wiped. When all is healed it folds the log offline and compares: what was
// acknowledged with the log, the log with the state, the state's effects with
// what was published. It prints a ledger. docs/CHAOS.md says what is injected and
// what is checked; make chaos runs it.
package chaos
