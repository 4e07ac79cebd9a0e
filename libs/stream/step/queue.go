package step

import (
	"cmp"
	"encoding/binary"
	"strings"
)

// waiting is a fact that may not count yet.
type waiting struct {
	fact      Fact
	name      string // of the entity
	effective Instant
	origin
}

// compare orders facts by entity, and those of one by effective time, event
// time, id; what is equal in all is as it came.
func (w *waiting) compare(o *waiting) int {
	if c := strings.Compare(w.name, o.name); c != 0 {
		return c
	}
	if c := cmp.Compare(w.effective, o.effective); c != 0 {
		return c
	}
	return cmp.Or(
		cmp.Compare(w.fact.EventTime, o.fact.EventTime),
		strings.Compare(w.fact.ID, o.fact.ID),
		cmp.Compare(w.fact.Offset, o.fact.Offset),
	)
}

// keyed is a waiting fact with the start of its entity's id, which tells most of
// one shop apart without a look at their names.
type keyed struct {
	start uint64
	*waiting
}

// key8 takes the id of w's entity to begin at a byte of its name.
func key8(w *waiting, at int) keyed {
	var b [8]byte
	copy(b[:], w.name[at:])
	return keyed{binary.BigEndian.Uint64(b[:]), w}
}

// keyedOrder is [waiting.compare] for facts of one shop.
func keyedOrder(a, b keyed) int {
	if a.start != b.start {
		return cmp.Compare(a.start, b.start)
	}
	return a.compare(b.waiting)
}

// heaped is what a heap holds: the least comes first.
type heaped[T any] interface{ less(o T) bool }

// push and pop keep the slice q a heap. Those of container/heap would box every
// element.
func push[T heaped[T]](q []T, x T) []T {
	q = append(q, x)
	i := len(q) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !x.less(q[up]) {
			break
		}
		q[i], i = q[up], up
	}
	q[i] = x
	return q
}

func pop[T heaped[T]](q []T) ([]T, T) {
	first, n := q[0], len(q)-1
	x := q[n]
	clear(q[n:])
	q = q[:n]
	if n == 0 {
		return q, first
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && q[down+1].less(q[down]) {
			down++
		}
		if !q[down].less(x) {
			break
		}
		q[i], i = q[down], down
	}
	q[i] = x
	return q, first
}

// queued is a waiting fact in the heap of its shop.
type queued struct {
	effective Instant
	*waiting
}

func (q queued) less(o queued) bool { return q.effective < o.effective }

// factQueue is a heap of waiting facts.
type factQueue struct{ heap []queued }

func (q *factQueue) add(w *waiting) { q.heap = push(q.heap, queued{w.effective, w}) }

// take takes the first fact that counts before upto, nil where there is none.
func (q *factQueue) take(upto Instant) (w *waiting) {
	if len(q.heap) == 0 || q.heap[0].effective >= upto {
		return nil
	}
	var first queued
	q.heap, first = pop(q.heap)
	return first.waiting
}

// offsetQueue is the waiting facts in the order of their offsets, which is the
// order in which they come.
type offsetQueue struct {
	items []*waiting
	taken int // of items, done with
	// What was folded: nothing points to it any more, and the next ones to wait
	// take its place.
	free []*waiting
}

func (q *offsetQueue) add(w *waiting) { q.items = append(q.items, w) }

// maxFree bounds what is kept of the places after a backlog.
const maxFree = 2048

// room is a place for the next fact that waits.
func (q *offsetQueue) room() *waiting {
	n := len(q.free)
	if n == 0 {
		piece := make([]waiting, 64)
		for i := range piece {
			q.free = append(q.free, &piece[i])
		}
		n = len(piece)
	}
	w := q.free[n-1]
	q.free = q.free[:n-1]
	return w
}

// head is the oldest fact that still waits and is not in the archive, nil where
// there is none.
func (q *offsetQueue) head() *waiting {
	for q.taken < len(q.items) && (q.items[q.taken].done || q.items[q.taken].kept) {
		if w := q.items[q.taken]; w.done && len(q.free) < maxFree {
			q.free = append(q.free, w)
		}
		q.items[q.taken] = nil
		q.taken++
	}
	if q.taken > len(q.items)/2 {
		q.items = q.items[:copy(q.items, q.items[q.taken:])]
		q.taken = 0
	}
	if q.taken == len(q.items) {
		return nil
	}
	return q.items[q.taken]
}

// alarm is a wake-up in the index; it is void where the entity's own wake-up
// differs.
type alarm struct {
	due Instant
	key string
}

func (a alarm) less(o alarm) bool { return a.due < o.due || a.due == o.due && a.key < o.key }

// alarmQueue is a heap of wake-ups.
type alarmQueue struct{ heap []alarm }

func (q *alarmQueue) add(a alarm) { q.heap = push(q.heap, a) }

// take takes the first wake-up before upto; false where there is none.
func (q *alarmQueue) take(upto Instant) (first alarm, ok bool) {
	if len(q.heap) == 0 || q.heap[0].due >= upto {
		return alarm{}, false
	}
	q.heap, first = pop(q.heap)
	return first, true
}
