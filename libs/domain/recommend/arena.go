package recommend

// blocks hands out runs of slots in flat arrays, in size classes that double up
// to a cap. It owns only offsets; the arrays belong to the caller. Freed runs
// are reused within their class. With n lists at once, no class ever has more than
// n runs, and all classes together are less than three times the largest: memory
// stays below 3 n cap slots.
type blocks struct {
	cap  int // slots of the largest class
	next uint32
	free [24][]uint32
}

const smallestBlock = 4

// size returns the slots of a class; class 0 is no block.
func (b *blocks) size(class uint8) int {
	if class == 0 {
		return 0
	}
	return min(smallestBlock<<(class-1), b.cap)
}

// classOf returns the smallest class with room for n slots, n at most cap.
func (b *blocks) classOf(n int) uint8 {
	class := uint8(0)
	for b.size(class) < n {
		class++
	}
	return class
}

// alloc returns the offset of a run of the class, and how long the arrays must be.
func (b *blocks) alloc(class uint8) (off uint32, need int) {
	if f := b.free[class]; len(f) > 0 {
		off = f[len(f)-1]
		b.free[class] = f[:len(f)-1]
		return off, int(b.next)
	}
	off = b.next
	b.next += uint32(b.size(class))
	return off, int(b.next)
}

func (b *blocks) release(off uint32, class uint8) {
	if class > 0 {
		b.free[class] = append(b.free[class], off)
	}
}

// postings are the items' rings of session sequence numbers.
type postings struct {
	blocks
	seq []uint32
}

// ring is one item's run in postings: n entries, the oldest at head.
type ring struct {
	off   uint32
	n     uint16
	head  uint16
	class uint8
}

// push appends a session, growing the ring up to the cap, then overwriting the
// oldest.
func (p *postings) push(r *ring, seq uint32) {
	size := p.size(r.class)
	if int(r.n) == size && size < p.cap {
		off, need := p.alloc(r.class + 1)
		p.seq = grow(p.seq, need)
		copy(p.seq[off:], p.seq[r.off:int(r.off)+size]) // head is 0: a ring turns only at its cap
		p.release(r.off, r.class)
		r.off, r.class = off, r.class+1
		size = p.size(r.class)
	}
	if int(r.n) < size {
		p.seq[int(r.off)+int(r.n)] = seq
		r.n++
		return
	}
	p.seq[int(r.off)+int(r.head)] = seq
	if r.head++; int(r.head) == size {
		r.head = 0
	}
}

// at returns the i-th newest entry.
func (p *postings) at(r *ring, i int) uint32 {
	j := int(r.head) + int(r.n) - 1 - i
	if j >= int(r.n) {
		j -= int(r.n)
	}
	return p.seq[int(r.off)+j]
}

// strength is how strongly an item is tied to a neighbour, in forward decay.
type strength struct {
	step   float32 // the neighbour came directly after
	ahead  float32 // it came later in the session, less for more steps
	behind float32 // it came earlier
	n      uint32  // sessions that gave evidence
}

func (s strength) total() float32 { return s.ahead + s.behind }

// edges are the items' neighbour lists: two columns with common offsets.
type edges struct {
	blocks
	keep int // neighbours left by a prune; cap is twice that
	to   []uint32
	w    []strength
	sort []edge // of a prune
}

type edge struct {
	to uint32
	strength
}

// list is one item's run in edges, roughly heaviest first.
type list struct {
	off   uint32
	n     uint16
	class uint8
}

// add strengthens the tie to a neighbour, and moves it one place forward where
// it is now heavier than the one before it: heavy neighbours are found early by
// the next add, and by a walk that looks at the first few only.
func (e *edges) add(l *list, x edge) {
	run := e.to[l.off : int(l.off)+int(l.n)]
	for i, t := range run {
		if t != x.to {
			continue
		}
		w := e.w[l.off : int(l.off)+int(l.n)]
		s := &w[i]
		s.step += x.step
		s.ahead += x.ahead
		s.behind += x.behind
		if s.n += x.n; s.n < x.n {
			s.n = ^uint32(0)
		}
		if i > 0 && s.total() > w[i-1].total() {
			run[i], run[i-1] = run[i-1], run[i]
			w[i], w[i-1] = w[i-1], w[i]
		}
		return
	}
	x.n = 1 // a pair that is new here has been seen once, first time or not
	e.append(l, x)
}

func (e *edges) append(l *list, x edge) {
	size := e.size(l.class)
	if int(l.n) == size {
		if size < e.cap {
			e.enlarge(l, l.class+1)
		} else {
			e.prune(l)
		}
	}
	j := int(l.off) + int(l.n)
	e.to[j], e.w[j] = x.to, x.strength
	l.n++
}

// enlarge moves a list into a run of a larger class.
func (e *edges) enlarge(l *list, class uint8) {
	off, need := e.alloc(class)
	e.to, e.w = grow(e.to, need), grow(e.w, need)
	copy(e.to[off:], e.to[l.off:int(l.off)+int(l.n)])
	copy(e.w[off:], e.w[l.off:int(l.off)+int(l.n)])
	e.release(l.off, l.class)
	l.off, l.class = off, class
}

// prune keeps the heaviest neighbours. Forward decay makes the stored weights
// comparable, whenever they were written.
func (e *edges) prune(l *list) {
	e.sort = e.sort[:0]
	for i := int(l.off); i < int(l.off)+int(l.n); i++ {
		e.sort = append(e.sort, edge{e.to[i], e.w[i]})
	}
	sortEdges(e.sort)
	l.n = uint16(min(int(l.n), e.keep))
	for i, x := range e.sort[:l.n] {
		j := int(l.off) + i
		e.to[j], e.w[j] = x.to, x.strength
	}
}

// filter drops the neighbours for which gone is set, keeping the order.
func (e *edges) filter(l *list, gone []bool) {
	k := l.off
	for i := l.off; i < l.off+uint32(l.n); i++ {
		if !gone[e.to[i]] {
			e.to[k], e.w[k] = e.to[i], e.w[i]
			k++
		}
	}
	l.n = uint16(k - l.off)
}

// find returns the tie to a neighbour, if it is in the list.
func (e *edges) find(l *list, to uint32) (strength, bool) {
	for i, t := range e.to[l.off : int(l.off)+int(l.n)] {
		if t == to {
			return e.w[int(l.off)+i], true
		}
	}
	return strength{}, false
}

// grow returns s with at least n elements.
func grow[T any](s []T, n int) []T {
	if n <= len(s) {
		return s
	}
	if n <= cap(s) {
		return s[:n]
	}
	t := make([]T, n, max(n, 2*len(s)))
	copy(t, s)
	return t
}
