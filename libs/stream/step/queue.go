package step

import "container/heap"

// waiting is a fact that may not count yet.
type waiting struct {
	fact      Fact
	effective Instant
	origin
}

// name is the entity that the fact is about.
func (w *waiting) name() string { return w.fact.Shop + "/" + w.fact.Key }

// before orders one entity's facts: effective time, event time, id.
func (w *waiting) before(o *waiting) bool {
	if w.effective != o.effective {
		return w.effective < o.effective
	}
	if w.fact.EventTime != o.fact.EventTime {
		return w.fact.EventTime < o.fact.EventTime
	}
	return w.fact.ID < o.fact.ID
}

// factQueue is a heap of waiting facts.
type factQueue struct {
	items []*waiting
	less  func(a, b *waiting) bool
}

func (q *factQueue) Len() int           { return len(q.items) }
func (q *factQueue) Less(i, j int) bool { return q.less(q.items[i], q.items[j]) }
func (q *factQueue) Swap(i, j int)      { q.items[i], q.items[j] = q.items[j], q.items[i] }
func (q *factQueue) Push(x any)         { q.items = append(q.items, x.(*waiting)) }
func (q *factQueue) Pop() any {
	n := len(q.items) - 1
	w := q.items[n]
	q.items[n] = nil
	q.items = q.items[:n]
	return w
}
func (q *factQueue) add(w *waiting) { heap.Push(q, w) }
func (q *factQueue) head() *waiting {
	if len(q.items) == 0 {
		return nil
	}
	return q.items[0]
}
func (q *factQueue) take() { heap.Pop(q) }

// offsetQueue is the waiting facts in the order of their offsets, which is the
// order in which they come.
type offsetQueue struct {
	items []*waiting
	taken int // of items, done with
}

func (q *offsetQueue) add(w *waiting) { q.items = append(q.items, w) }

// head is the oldest fact that still waits, nil where none does.
func (q *offsetQueue) head() *waiting {
	for q.taken < len(q.items) && q.items[q.taken].done {
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

// alarmQueue is a heap of wake-ups.
type alarmQueue []alarm

func (q alarmQueue) Len() int { return len(q) }
func (q alarmQueue) Less(i, j int) bool {
	if q[i].due != q[j].due {
		return q[i].due < q[j].due
	}
	return q[i].key < q[j].key
}
func (q alarmQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *alarmQueue) Push(x any)   { *q = append(*q, x.(alarm)) }
func (q *alarmQueue) Pop() any {
	old := *q
	n := len(old) - 1
	a := old[n]
	*q = old[:n]
	return a
}
func (q *alarmQueue) add(a alarm) { heap.Push(q, a) }
func (q *alarmQueue) take() alarm { return heap.Pop(q).(alarm) }
