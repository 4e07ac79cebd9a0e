// Package topics is the catalogue of Sillage's topics, as data: name, key, who
// writes and reads, where the clock comes from, how long it is kept. The
// command line creates topics from it, the documentation is generated from it,
// and services name their topics by it.
//
// It holds no behaviour and knows no broker.
package topics
