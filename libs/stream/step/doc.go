// Package step is the protocol of one partition of a stream processor, as a
// pure state machine: no goroutine, clock or I/O inside.
//
// A [Partition] folds records. It knows which of them are repeats, keeps each
// shop's clock, holds back what may not count yet, wakes entities when they
// are due, and collects what follows. A [Machine] drives one Partition through
// the steps claim, seek, fold, publish, apply, commit, rewind and halt: it
// says what has to be done next, and is told what came of it. The runtime in
// package stream does what it says with sockets; a model checker or a
// simulation can do it with dice.
//
// The promise: state is a pure function of the partition's log; what follows
// from it is published at least once with equal positions and ids, and never
// lost, wherever the process dies.
//
// What it is not: it knows nothing of Kafka's or Redis' protocols (packages
// broker and state), nor of what events mean (the services' folds).
package step
