// Package collector is the front door: what shops send over HTTP becomes
// records of events.v1.
//
// It speaks the Segment HTTP API, so the SDKs of Segment and RudderStack send
// to it as they are. It answers 200 when the broker has acknowledged the events
// with all its in-sync replicas, and never before; what is wrong with single
// events stands in the body of the 200, because clients repeat a batch that
// was refused. Beside the events it appends the time (ticks) and the marks of
// imports.
//
// It keeps two small files, write keys and the state of shops, and no events:
// while the broker is away it answers 503.
package collector
