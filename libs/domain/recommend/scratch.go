package recommend

// mark is what one answer knows of an item; it counts only if epoch is the
// scratch's.
type mark struct {
	epoch uint32
	cand  uint16 // place in candidates plus 1; 0 is none
	pos   uint8  // place in the query plus 1, newest first; 0 is none
	is    uint8
} // 8 bytes: it is read for every item of every neighbour

// Bits of mark.is.
const (
	blocked uint8 = 1 << iota // may not be shown
	taken                     // answered already
	filled                    // in the trending heap
)

// slotMark is what one answer knows of a session slot.
type slotMark struct {
	epoch uint32
	sim   float32
}

// candidate is an item that may be answered, with what each source says.
type candidate struct {
	item uint32
	via  uint32 // item of the strongest first hop that led to it
	from [sources]float32
} // 64 bytes: one cache line

// ranked is an element of a heap: a candidate or item with its score.
type ranked struct {
	score float64
	item  uint32 // ties: the item known for longer first
	place uint32
}

func (a ranked) before(b ranked) bool {
	return a.score > b.score || a.score == b.score && a.item < b.item
}

// neighbour is a similar session. Similarities are not negative, so that their
// bits order them as they are, and in whole numbers no comparison has a third way.
type neighbour struct {
	sim  uint64 // bits of the similarity
	slot uint32
	age  uint32 // sessions begun since; ties: the newer session first
}

func (a neighbour) before(b neighbour) bool {
	return a.sim > b.sim || a.sim == b.sim && a.age < b.age
}

// Scratch is the working memory of [Index.Recommend] and [Index.Learn]: one per
// concurrent answer, reused, for example from a sync.Pool. The zero value is
// ready. It grows with the index and is of the same order for every answer after
// that: 12 bytes an item, 8 a session, and about a quarter of a megabyte.
type Scratch struct {
	epoch   uint32
	marks   []mark
	visits  []slotMark
	query   []queryItem
	reloads int // how often the current item was looked at twice in a row
	repeats int // events of the query on items it already had
	touched []uint32
	near    []neighbour
	cands   []candidate
	feats   []row
	logits  []float32
	heap    []ranked
	taken   []uint32
	reasons []Reason
	hops    []hop
	roots   []float32 // 1/sqrt(i)
	asked   []QueryItem
	looks   []look
	fetched uint32 // so that what only reads is not left out
}

type queryItem struct {
	item  uint32
	kind  Kind
	times uint8 // events on it
}

// hop is a neighbour followed in the first step of the walk.
type hop struct {
	item uint32
	p    float32
}

// begin makes room for an answer over x.
func (s *Scratch) begin(x *Index) {
	s.epoch++
	if s.epoch == 0 {
		clear(s.marks)
		clear(s.visits)
		s.epoch = 1
	}
	s.marks = grow(s.marks, len(x.items))
	s.visits = grow(s.visits, len(x.visits))
	if n := x.cfg.MaxCandidates; cap(s.cands) < n {
		s.cands, s.feats = make([]candidate, 0, n), make([]row, n)
		s.logits, s.looks = make([]float32, 0, n), make([]look, 0, secondTop)
	}
	if want := reasonsPerAnswer * x.cfg.MaxAnswers; cap(s.reasons) < want {
		s.reasons = make([]Reason, 0, want)
	}
	for i := len(s.roots); i <= x.cfg.SessionLength; i++ {
		s.roots = append(s.roots, inverseRoot(i))
	}
	s.query, s.touched, s.near, s.cands = s.query[:0], s.touched[:0], s.near[:0], s.cands[:0]
	s.heap, s.taken, s.reasons, s.logits = s.heap[:0], s.taken[:0], s.reasons[:0], s.logits[:0]
	s.reloads, s.repeats = 0, 0
}

// mark returns what this answer knows of item i.
func (s *Scratch) mark(i uint32) *mark {
	m := &s.marks[i]
	if m.epoch != s.epoch {
		*m = mark{epoch: s.epoch}
	}
	return m
}

// candidate returns the candidate of item i, a new one if it may be shown and
// there is room, or nil.
func (s *Scratch) candidate(x *Index, i uint32) *candidate {
	m := s.mark(i)
	if m.cand != 0 {
		return &s.cands[m.cand-1]
	}
	if m.is&blocked != 0 || len(s.cands) == x.cfg.MaxCandidates || x.hidden.has(i) {
		return nil
	}
	s.cands = s.cands[:len(s.cands)+1]
	c := &s.cands[len(s.cands)-1]
	*c = candidate{item: i}
	m.cand = uint16(len(s.cands))
	return c
}

// heapify orders the heap, its best element first.
func (s *Scratch) heapify() {
	for i := len(s.heap)/2 - 1; i >= 0; i-- {
		s.sink(i)
	}
}

// pop removes the best element.
func (s *Scratch) pop() ranked {
	top, last := s.heap[0], len(s.heap)-1
	s.heap[0] = s.heap[last]
	s.heap = s.heap[:last]
	s.sink(0)
	return top
}

func (s *Scratch) sink(i int) {
	h := s.heap
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1].before(h[c]) {
			c++
		}
		if !h[c].before(h[i]) {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}

// selectFirst moves the k first of a, by before, to its front (quickselect,
// median of three).
func selectFirst(a []neighbour, k int) {
	lo, hi := 0, len(a)-1
	for lo < hi {
		mid := lo + (hi-lo)/2
		if a[mid].before(a[lo]) {
			a[mid], a[lo] = a[lo], a[mid]
		}
		if a[hi].before(a[lo]) {
			a[hi], a[lo] = a[lo], a[hi]
		}
		if a[hi].before(a[mid]) {
			a[hi], a[mid] = a[mid], a[hi]
		}
		pivot := a[mid]
		i, j := lo, hi
		for i <= j {
			for a[i].before(pivot) {
				i++
			}
			for pivot.before(a[j]) {
				j--
			}
			if i <= j {
				a[i], a[j] = a[j], a[i]
				i++
				j--
			}
		}
		switch {
		case k-1 <= j:
			hi = j
		case k-1 >= i:
			lo = i
		default:
			return
		}
	}
}
