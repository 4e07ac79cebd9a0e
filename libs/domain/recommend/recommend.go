package recommend

import (
	"math"
	"slices"
)

// Recommend appends up to q.N answers to dst, best first. Personal or item
// answers come first, then trending ones, then popular ones; each says which it
// is. An index that knows nothing that may be shown gives none. It allocates
// only where dst or s must grow.
func (x *Index) Recommend(q Query, s *Scratch, dst []Answer) []Answer {
	n := min(q.N, x.cfg.MaxAnswers)
	if n <= 0 {
		return dst
	}
	if q.Surface >= surfaces {
		q.Surface = SurfaceHome
	}
	q.Now = max(q.Now, x.latest) // an answer never lies before what it is made of
	s.begin(x)
	x.read(&q, s)
	first := len(dst)
	if len(s.query) > 0 && q.Method != ByPopularity {
		x.gather(&q, s)
		x.score(&q, s)
		dst = x.rank(&q, s, dst, n)
	}
	if len(dst)-first < n {
		dst = x.trending(&q, s, dst, n-(len(dst)-first))
	}
	if len(dst)-first < n {
		dst = x.popular(&q, s, dst, n-(len(dst)-first))
	}
	return dst
}

// score gives every candidate its place in the heap: its probability to come
// next, or what a plain method counts of it.
func (x *Index) score(q *Query, s *Scratch) {
	if len(s.cands) == 0 {
		return
	}
	if q.Method == Hybrid {
		x.describe(q, s)
		x.judge(q, s)
		s.pile()
		return
	}
	for k := range s.cands {
		if v := s.cands[k].by(q.Method); v > 0 {
			s.heap = append(s.heap, ranked{float64(v), s.cands[k].item, uint32(k)})
		}
	}
}

// pile makes a heap of the candidates by their logits.
func (s *Scratch) pile() {
	s.heap = s.heap[:0]
	for k, l := range s.logits {
		s.heap = append(s.heap, ranked{float64(l), s.cands[k].item, uint32(k)})
	}
	s.heapify()
}

// by is the score of a plain method.
func (c *candidate) by(m Method) float32 {
	switch m {
	case BySessions:
		return c.from[fromSessions]
	case ByTransition:
		return c.from[fromStep]
	default:
		return c.from[fromAhead] + c.from[fromBehind] + c.from[fromEarlierAhead] + c.from[fromEarlierBehind]
	}
}

// rank appends the best candidates.
func (x *Index) rank(q *Query, s *Scratch, dst []Answer, n int) []Answer {
	if len(s.heap) == 0 {
		return dst
	}
	level := Personal
	if len(s.query) == 1 {
		level = Item
	}
	put := func(r ranked, score float64) {
		if !x.take(q, s, r.item) {
			return
		}
		n--
		a := Answer{Item: x.ids[r.item], Name: x.names[r.item], Score: score, Level: level}
		if !q.Bare {
			a.Reasons = x.explain(q, s, int(r.place))
		}
		dst = append(dst, a)
	}
	if q.Method != Hybrid {
		for s.heapify(); n > 0 && len(s.heap) > 0; {
			r := s.pop()
			put(r, r.score)
		}
		return dst
	}
	top, sum := softmax(s.logits)
	score := func(logit float64) float64 { return math.Exp(logit-float64(top)) / sum }
	least := 1.0
	if x.ranker.second.on && x.cfg.SecondRate > 0 && headOf(q.Surface) == browseHead {
		x.lookAgain(s)
		// Of the probability that the linear ranker gives them all together, each
		// gets its part by the second stage.
		before, after := 0.0, 0.0
		for k := range s.looks {
			before += score(float64(s.looks[k].logit))
		}
		x.ranker.second.refine(s.looks)
		most := s.looks[0].logit
		for k := range s.looks {
			most = max(most, s.looks[k].logit)
		}
		for k := range s.looks {
			after += math.Exp(float64(s.looks[k].logit - most))
		}
		rest := len(s.heap)
		for k := range s.looks {
			l := &s.looks[k]
			s.heap = append(s.heap, ranked{math.Exp(float64(l.logit-most)) / after * before, s.cands[l.place].item, l.place})
		}
		again := s.heap[rest:]
		slices.SortFunc(again, func(a, b ranked) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		for _, r := range again {
			if n == 0 {
				return dst
			}
			least = min(least, r.score)
			put(r, r.score)
		}
		s.heap = s.heap[:rest]
	}
	for n > 0 && len(s.heap) > 0 {
		r := s.pop()
		put(r, min(least, score(r.score)))
	}
	return dst
}

// take answers an item if the caps allow it.
func (x *Index) take(q *Query, s *Scratch, i uint32) bool {
	m := s.mark(i)
	it := &x.items[i]
	if m.is&(blocked|taken) != 0 || x.hidden.has(i) {
		return false
	}
	if q.PerCategory > 0 || q.PerBrand > 0 {
		category, brand := 0, 0
		for _, t := range s.taken {
			if it.category != 0 && x.items[t].category == it.category {
				category++
			}
			if it.brand != 0 && x.items[t].brand == it.brand {
				brand++
			}
		}
		if q.PerCategory > 0 && category >= q.PerCategory || q.PerBrand > 0 && brand >= q.PerBrand {
			return false
		}
	}
	m.is |= taken
	s.taken = append(s.taken, i)
	return true
}

// trending appends what the shop looks at now: the mean over hour, day and week
// of an item's decayed count, each in relation to the largest.
func (x *Index) trending(q *Query, s *Scratch, dst []Answer, n int) []Answer {
	var worth, scale [Month]float64
	for w := range Month {
		if len(x.top[w]) == 0 {
			return dst
		}
		worth[w] = x.win[w].worth(q.Now)
		most := float64(x.heaviest(w)) * worth[w]
		scale[w] = worth[w] / max(most, x.cfg.TrendingFloor, 1e-9) / float64(Month)
	}
	s.heap = s.heap[:0]
	for w := range Month {
		for _, i := range x.top[w] {
			m := s.mark(i)
			it := &x.items[i]
			if m.is != 0 || x.hidden.has(i) {
				continue
			}
			m.is |= filled
			if max(float64(it.count[Day])*worth[Day], float64(it.count[Week])*worth[Week]) < x.cfg.TrendingFloor {
				continue
			}
			score := 0.0
			for v := range Month {
				score += float64(it.count[v]) * scale[v]
			}
			if score > 0 {
				s.heap = append(s.heap, ranked{score, i, 0})
			}
		}
	}
	s.heapify()
	for n > 0 && len(s.heap) > 0 {
		r := s.pop()
		if !x.take(q, s, r.item) {
			continue
		}
		n--
		it := &x.items[r.item]
		lead, part := Week, 0.0
		for w := range Month {
			if p := float64(it.count[w]) * scale[w]; p > part && float64(it.count[w])*worth[w] >= 1 {
				lead, part = w, p
			}
		}
		s.reasons = append(s.reasons, Reason{
			Kind: TrendingNow, Window: lead, Share: part / r.score,
			Count: uint32(min(math.Round(float64(it.count[lead])*worth[lead]), math.MaxUint32)),
		})
		dst = append(dst, Answer{
			Item: x.ids[r.item], Name: x.names[r.item], Score: r.score, Level: Trending,
			Reasons: slices.Clip(s.reasons[len(s.reasons)-1:]),
		})
	}
	return dst
}

// popular appends what was looked at over the last weeks, in relation to the
// first of the list.
func (x *Index) popular(q *Query, s *Scratch, dst []Answer, n int) []Answer {
	s.heap = s.heap[:0]
	for _, i := range x.top[Month] {
		s.heap = append(s.heap, ranked{float64(x.items[i].count[Month]), i, 0})
	}
	s.heapify()
	most := float64(x.heaviest(Month))
	for n > 0 && len(s.heap) > 0 {
		r := s.pop()
		if !x.take(q, s, r.item) {
			continue
		}
		n--
		s.reasons = append(s.reasons, Reason{Kind: PopularItem, Count: x.items[r.item].sessions, Share: 1})
		score := 0.0
		if most > 0 {
			score = r.score / most
		}
		dst = append(dst, Answer{
			Item: x.ids[r.item], Name: x.names[r.item], Score: score, Level: Popular,
			Reasons: slices.Clip(s.reasons[len(s.reasons)-1:]),
		})
	}
	return dst
}
