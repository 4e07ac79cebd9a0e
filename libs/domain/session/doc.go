// Package session cuts a visitor's events into visits: a visit ends when nothing
// was heard for longer than a gap, by default 30 minutes.
//
// # Model
//
// A [Visit] is a small value that its owner stores and hands in with each event;
// [Window] is the rule. Time comes with the events. Since silence is what ends a
// visit, its end can be known without another event: [Window.Due] says when.
//
// An event that is exactly the gap after the last one still belongs to the visit;
// a visit is over strictly after its due time, as wake-ups fire strictly before
// the clock. Events known late, with a time before the visit's last, join it: they
// never move its end back, and its start only by up to the gap. A visit that is
// over is never opened again.
//
// # What it is not
//
// It holds no timer, knows no storage, and does not decide whose visit it is.
package session
