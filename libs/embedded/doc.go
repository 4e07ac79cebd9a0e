// Package embedded is Kafka and Redis inside the process, for the first minute
// and for tests: franz-go's kfake with its log on disk, and miniredis in
// memory, which is loaded from bases at the start (see package state).
//
// What is acknowledged is in the page cache: it survives kill -9, not a power
// cut, unless Config.Fsync is set. Where it differs from a real broker: after
// kill -9 it has forgotten which producer wrote what (derived records carry
// their positions, so repeats are known again), and it has one node.
package embedded
