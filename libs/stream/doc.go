// Package stream is the runtime of Sillage's processors.
//
// A [Processor] names its topic and how its partitions fold. [Runtime.Run]
// joins the processor's consumer group and drives, for each assigned
// partition, a step.Machine: it does with sockets what the machine says has to
// be done, one thing after the other, on one connection to the store and with
// one idempotent producer. A [View] is memory built from topics, beside any
// group. [Verify] folds a partition's log again and compares.
//
// What is decided lives in package step; what is said to Kafka in package
// broker; what is said to the store in package state. Here are only
// goroutines, retries and status.
package stream
