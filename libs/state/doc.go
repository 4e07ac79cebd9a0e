// Package state is the one door to Redis (or Valkey): it keeps what the
// processors' partitions remember, and lets one owner at a time write.
//
// All keys of a partition carry one hash tag, so a partition lies on one node
// of a cluster and is written by one transaction. Beside its entities stand
// its fence, the entity that belongs to none (its clocks and counters), and
// its append-only logs. A write is one round trip on a connection that watches
// the fence: it succeeds only if nobody has written the partition since.
//
// A [Partition] is an owner's side, a [Store] what readers and tools need, and
// [Bases] are checksummed snapshots in files, for the embedded store that has
// no disk of its own.
package state
