// Package record holds what Sillage knows of a Kafka record without any I/O:
// the record itself, its header names, where a derived record comes from (its
// position), how a key chooses its partition, and the version 2 record batch
// as bytes.
//
// It is pure: no network, clock or goroutine. The packages broker (the door to
// Kafka) and step (the protocol of one partition) both stand on it.
package record
