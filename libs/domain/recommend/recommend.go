package recommend

import (
	"math"
	"slices"
)

// weight of each source by surface, on sources scaled to a largest value of 1.
// They are fixed: the neighbour search has weight 1, the others were chosen on
// the last training days of a public click log (views only), and those of carts
// and orders by judgement: a product page offers alternatives, a cart what goes
// with its contents.
var weight = [surfaces][sources]float64{
	SurfaceHome: {
		knn: 1, source(next): .2, source(together): .4, walk: .4, own: .7,
		source(cartedAfter): .3, source(boughtAfter): .3, source(boughtWith): .2,
	},
	SurfaceProduct: {
		knn: 1, source(next): .2, source(together): .4, walk: .4, own: .7,
		source(cartedAfter): .3, source(boughtAfter): .3, source(boughtWith): .2,
	},
	SurfaceCart: {
		knn: .4, source(next): .1, source(together): .15, walk: .15, own: .3,
		source(cartedAfter): .8, source(boughtAfter): .5, source(boughtWith): 1,
	},
}

// smoothing is the weight of the unseen in a relation's row, in fresh pairs: a
// neighbour seen once does not become a certainty.
const smoothing = 1.0

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
	if len(s.query) > 0 {
		x.relate(&q, s)
		x.reoffer(s)
		x.walk(&q, s)
		x.neighbours(&q, s)
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

// read takes the query's newest distinct known items and marks what must not be
// shown.
func (x *Index) read(q *Query, s *Scratch) {
	for _, id := range q.Exclude {
		if i, ok := x.id[id]; ok {
			s.mark(i).blocked = true
		}
	}
	for _, id := range q.Purchased {
		if i, ok := x.id[id]; ok {
			s.mark(i).blocked = true
		}
	}
	for k := len(q.Items) - 1; k >= 0; k-- {
		e := &q.Items[k]
		i, ok := x.id[e.Item]
		if !ok {
			continue
		}
		m := s.mark(i)
		if !q.KeepSeen || k == len(q.Items)-1 || e.Kind >= Order {
			m.blocked = true
		}
		switch {
		case m.pos > 0:
			p := &s.query[m.pos-1]
			p.kind = max(p.kind, e.Kind)
		case len(s.query) < x.cfg.QueryItems:
			s.query = append(s.query, queryItem{i, e.Kind})
			m.pos = uint8(len(s.query))
		}
	}
}

// relate adds the counted relations of the query's items: the share of a
// neighbour in its row, smoothed, weighted by the query item's position.
func (x *Index) relate(q *Query, s *Scratch) {
	worth := x.pair.worth(q.Now)
	for r := range relations {
		if weight[q.Surface][r] == 0 {
			continue
		}
		e := &x.near[r]
		for pos, qi := range s.query {
			l := &x.items[qi.item].near[r]
			if l.n == 0 {
				continue
			}
			scale := x.row(e, l, worth)
			if q.Surface != SurfaceCart || qi.kind != Cart { // a cart is a set: no item of it is older
				scale *= x.countedStep[pos]
			}
			for k := l.off; k < l.off+uint32(l.n); k++ {
				if c := s.candidate(x, e.to[k]); c != nil {
					c.add(source(r), e.w[k]*scale, qi.item, e.n[k])
				}
			}
		}
	}
}

// reoffer lets the session's earlier items come back where the query allows it.
func (x *Index) reoffer(s *Scratch) {
	for pos, qi := range s.query {
		if c := s.candidate(x, qi.item); c != nil {
			c.add(own, x.queryStep[pos], qi.item, 1)
		}
	}
}

// row returns the factor from a list's stored weights to smoothed shares.
func (x *Index) row(e *edges, l *list, worth float64) float32 {
	sum := 0.0
	for _, w := range e.w[l.off : l.off+uint32(l.n)] {
		sum += float64(w)
	}
	return float32(worth / (sum*worth + smoothing))
}

// walk goes two steps from the newest items: to the strongest neighbours seen
// together or next, and on to theirs (S-Walk, Choi et al., WSDM 2022, with
// counted instead of solved matrices, cut at two steps).
func (x *Index) walk(q *Query, s *Scratch) {
	if x.cfg.WalkFanout == 0 {
		return
	}
	worth := x.pair.worth(q.Now)
	e := &x.near[together]
	for pos, qi := range s.query {
		if pos == walkItems {
			break
		}
		l := &x.items[qi.item].near[together]
		scale := x.row(e, l, worth) * x.countedStep[pos]
		s.hops = s.hops[:0]
		for k := l.off; k < l.off+uint32(l.n); k++ {
			s.hop(hop{e.to[k], e.w[k] * scale, e.n[k]}, x.cfg.WalkFanout)
		}
		for _, h := range s.hops {
			l2 := &x.items[h.item].near[together]
			scale2 := x.row(e, l2, worth) * h.p
			for k := l2.off; k < l2.off+uint32(l2.n); k++ {
				if c := s.candidate(x, e.to[k]); c != nil {
					c.add(walk, e.w[k]*scale2, h.item, min(h.n, e.n[k]))
				}
			}
		}
	}
}

// walkItems is how many of the newest items the walk starts from.
const walkItems = 3

// hop keeps the strongest hops, heaviest first.
func (s *Scratch) hop(h hop, limit int) {
	n := len(s.hops)
	if n == limit {
		if h.p <= s.hops[n-1].p {
			return
		}
		n--
	} else {
		s.hops = append(s.hops, h)
	}
	for n > 0 && s.hops[n-1].p < h.p {
		s.hops[n] = s.hops[n-1]
		n--
	}
	s.hops[n] = h
}

// neighbours adds the votes of the most similar sessions: similarity is the sum
// of the positions' weights of shared items, over the root of the session's
// length, times the age's weight; an item gets it times the weight of the newest
// shared item's position and of its own distance from that item.
func (x *Index) neighbours(q *Query, s *Scratch) {
	own := none
	if seq, ok := x.session[q.Session]; ok && q.Session != 0 {
		own = seq
	}
	for pos, qi := range s.query {
		post := &x.items[qi.item].post
		for k := range int(post.n) {
			seq := x.posts.at(post, k)
			slot, held := x.slot(seq)
			if !held {
				break // what is older is gone too
			}
			if seq == own {
				continue
			}
			v := &s.visits[slot]
			if v.epoch != s.epoch {
				if len(s.touched) == x.cfg.M {
					continue
				}
				*v = slotMark{epoch: s.epoch}
				s.touched = append(s.touched, uint32(slot))
			}
			v.sim += x.queryStep[pos]
		}
	}
	perStep := ageResolution / (x.cfg.AgeDays * dayMillis)
	head := uint32(int(x.nextSeq) % x.cfg.MaxSessions)
	for _, slot := range s.touched {
		length := x.sessLen[slot]
		if length == 0 {
			continue
		}
		age := (float64(q.Now) - float64(x.sessLast[slot])) * perStep
		step := int(min(max(age, 0), ageSteps-1))
		newer := head - slot // slots are filled in turn
		if slot >= head {
			newer += uint32(x.cfg.MaxSessions)
		}
		s.near = append(s.near, neighbour{
			sim: s.visits[slot].sim * x.age[step] * s.roots[length], slot: slot, age: newer,
		})
	}
	near := s.near
	if len(near) > x.cfg.K {
		selectFirst(near, x.cfg.K)
		near = near[:x.cfg.K]
	}
	back := float32(x.cfg.Backward)
	for _, nb := range near {
		base := int(nb.slot) * x.cfg.SessionLength
		run := x.sessItem[base : base+int(x.sessLen[nb.slot])]
		match, at := uint8(math.MaxUint8), 0
		for p, i := range run {
			if m := &s.marks[i]; m.epoch == s.epoch && m.pos > 0 && m.pos-1 < match {
				match, at = m.pos-1, p
			}
		}
		if match == math.MaxUint8 { // the shared item has left the session's log
			continue
		}
		vote := nb.sim * x.matchStep[match]
		for p, i := range run {
			if c := s.candidate(x, i); c != nil {
				w := vote
				if p < at {
					w *= x.distance[at-p] * back
				} else {
					w *= x.distance[p-at]
				}
				c.feat[knn] += w
				c.n[knn]++
			}
		}
	}
}

// rank adds the sources up and appends the best candidates.
func (x *Index) rank(q *Query, s *Scratch, dst []Answer, n int) []Answer {
	var most [sources]float32
	total := math.Log(float64(max(x.total, 1)))
	for k := range s.cands {
		c := &s.cands[k]
		if c.feat[knn] > 0 {
			idf := max(0, total-math.Log(float64(max(x.items[c.item].sessions, 1))))
			c.feat[knn] *= float32(1 + x.cfg.IDFWeight*idf)
		}
		for f, v := range c.feat {
			most[f] = max(most[f], v)
		}
	}
	for f, v := range most {
		s.inverse[f] = 0
		if v > 0 {
			s.inverse[f] = weight[q.Surface][f] / float64(v)
		}
	}
	for k := range s.cands {
		c := &s.cands[k]
		score := 0.0
		for f, v := range c.feat {
			score += s.inverse[f] * float64(v)
		}
		if score > 0 {
			s.heap = append(s.heap, ranked{score, c.item, uint32(k)})
		}
	}
	s.heapify()
	level := Personal
	if len(s.query) == 1 {
		level = Item
	}
	for n > 0 && len(s.heap) > 0 {
		r := s.pop()
		if !x.take(q, s, r.item) {
			continue
		}
		n--
		dst = append(dst, Answer{
			Item: x.ids[r.item], Name: x.names[r.item], Score: r.score, Level: level,
			Reasons: x.explain(s, &s.cands[r.place], r.score),
		})
	}
	return dst
}

// take answers an item if the caps allow it.
func (x *Index) take(q *Query, s *Scratch, i uint32) bool {
	m := s.mark(i)
	it := &x.items[i]
	if m.taken || m.blocked || it.inactive {
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
	m.taken = true
	s.taken = append(s.taken, i)
	return true
}

// explain names the sources that carried a candidate, strongest first.
func (x *Index) explain(s *Scratch, c *candidate, score float64) []Reason {
	from := len(s.reasons)
	var used [sources]bool
	for range reasonsPerAnswer {
		f, part := sources, 0.0
		for src := range sources {
			if p := s.inverse[src] * float64(c.feat[src]); p > part && !used[src] && c.n[src] > 0 {
				f, part = src, p
			}
		}
		if f == sources {
			break
		}
		used[f] = true
		r := Reason{Kind: reasonOf[f], Count: c.n[f], Share: part / score}
		if f != knn && f != own {
			r.Item = x.ids[c.from[f]]
		}
		s.reasons = append(s.reasons, r)
	}
	return s.reasons[from:len(s.reasons):len(s.reasons)]
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
		most := x.items[x.top[w][0]].count[w] * worth[w]
		scale[w] = worth[w] / max(most, x.cfg.TrendingFloor, 1e-9) / float64(Month)
	}
	s.heap = s.heap[:0]
	for w := range Month {
		for _, i := range x.top[w] {
			m := s.mark(i)
			it := &x.items[i]
			if m.filled || m.taken || m.blocked || it.inactive {
				continue
			}
			m.filled = true
			if max(it.count[Day]*worth[Day], it.count[Week]*worth[Week]) < x.cfg.TrendingFloor {
				continue
			}
			score := 0.0
			for v := range Month {
				score += it.count[v] * scale[v]
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
			if p := it.count[w] * scale[w]; p > part && it.count[w]*worth[w] >= 1 {
				lead, part = w, p
			}
		}
		s.reasons = append(s.reasons, Reason{
			Kind: TrendingNow, Window: lead, Share: part / r.score,
			Count: uint32(min(math.Round(it.count[lead]*worth[lead]), math.MaxUint32)),
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
	for _, i := range x.top[Month] {
		if n == 0 {
			break
		}
		if !x.take(q, s, i) {
			continue
		}
		n--
		it := &x.items[i]
		s.reasons = append(s.reasons, Reason{Kind: PopularItem, Count: it.sessions, Share: 1})
		score := 0.0
		if most := x.items[x.top[Month][0]].count[Month]; most > 0 {
			score = it.count[Month] / most
		}
		dst = append(dst, Answer{
			Item: x.ids[i], Name: x.names[i], Score: score, Level: Popular,
			Reasons: slices.Clip(s.reasons[len(s.reasons)-1:]),
		})
	}
	return dst
}

func inverseRoot(i int) float32 {
	if i == 0 {
		return 0
	}
	return float32(1 / math.Sqrt(float64(i)))
}
