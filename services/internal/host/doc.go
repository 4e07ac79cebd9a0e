// Package host is what every service stands on: the connections to broker and
// store, the runtime that drives processors, and the ways in which answers read
// state and topics. The all-in-one process and the single ones are made of it.
package host
