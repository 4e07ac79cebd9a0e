package recommend

import "math"

// source is where a candidate comes from, and what it says of it.
type source uint8

const (
	fromSessions      source = iota // votes of similar sessions
	fromSessionsAhead               // of these, for items after the match
	fromSessionsLast                // of these, by sessions that had the current item
	fromVotes                       // how many similar sessions had it
	fromStep                        // share of the current item's direct successors
	fromAhead                       // share of what came after the current item
	fromBehind                      // share of what came before it
	fromEarlierAhead                // the same of the session's earlier items
	fromEarlierBehind
	fromWalk   // two hops from the newest items
	fromCarts  // shares of cartedAfter
	fromOrders // of boughtAfter
	fromBasket // of boughtWith
	fromShelf  // of its category, in relation to the first
	sources
)

// smoothing is the weight of the unseen in a relation's row, in fresh pairs: a
// neighbour seen once does not become a certainty.
const smoothing = 1.0

// walkItems is how many of the newest items the walk starts from, and
// walkLook how many of a list's first entries its second hop looks at.
const walkItems, walkLook = 2, 24

// read takes the query's newest distinct known items and marks what must not be
// shown.
func (x *Index) read(q *Query, s *Scratch) {
	for _, id := range q.Exclude {
		if i, ok := x.id[id]; ok {
			s.mark(i).is |= blocked
		}
	}
	for _, id := range q.Purchased {
		if i, ok := x.id[id]; ok {
			s.mark(i).is |= blocked
		}
	}
	for k := len(q.Items) - 1; k >= 0; k-- {
		e := &q.Items[k]
		if k > 0 && e.Item == q.Items[k-1].Item {
			s.reloads++
		}
		i, ok := x.id[e.Item]
		if !ok {
			continue
		}
		m := s.mark(i)
		current := k == len(q.Items)-1
		if current && !q.KeepCurrent || !current && m.pos != 1 && !q.KeepSeen || e.Kind >= Order {
			m.is |= blocked
		}
		switch {
		case m.pos > 0:
			p := &s.query[m.pos-1]
			p.kind = max(p.kind, e.Kind)
			p.times = min(p.times, math.MaxUint8-1) + 1
			s.repeats++
		case len(s.query) < x.cfg.QueryItems:
			s.query = append(s.query, queryItem{i, e.Kind, 1})
			m.pos = uint8(len(s.query))
		}
	}
}

// gather fills the candidates from all sources.
func (x *Index) gather(q *Query, s *Scratch) {
	x.relate(q, s)
	for _, qi := range s.query {
		s.candidate(x, qi.item)
	}
	x.neighbours(q, s)
	x.walk(q, s)
	x.shelve(s)
}

// relate adds the counted relations of the query's items: the share of a
// neighbour in its row, smoothed, weighted by the query item's position.
func (x *Index) relate(q *Query, s *Scratch) {
	unseen := float32(smoothing / max(x.pair.worth(q.Now), 1e-30))
	for pos, qi := range s.query {
		it := &x.items[qi.item]
		l, e, w := &it.near[viewed], &x.near[viewed], x.countedStep[pos]
		out := &it.out[viewed]
		step, ahead, behind := 1/(out.step+unseen), w/(out.ahead+unseen), w/(out.behind+unseen)
		to, ties := e.to[l.off:l.off+uint32(l.n)], e.w[l.off:l.off+uint32(l.n)]
		for k, t := range to {
			c := s.candidate(x, t)
			if c == nil {
				continue
			}
			if pos == 0 {
				c.from[fromStep] = ties[k].step * step
				c.from[fromAhead] = ties[k].ahead * ahead
				c.from[fromBehind] = ties[k].behind * behind
			} else {
				c.from[fromEarlierAhead] += ties[k].ahead * ahead
				c.from[fromEarlierBehind] += ties[k].behind * behind
			}
		}
		if q.Surface == SurfaceCart && qi.kind == Cart { // a cart is a set: no item of it is older
			w = 1
		}
		for r := cartedAfter; r < relations; r++ {
			l, e := &it.near[r], &x.near[r]
			if l.n == 0 {
				continue
			}
			scale := w / (it.out[r].ahead + unseen)
			for k := l.off; k < l.off+uint32(l.n); k++ {
				if c := s.candidate(x, e.to[k]); c != nil {
					c.from[fromCarts+source(r-cartedAfter)] += e.w[k].ahead * scale
				}
			}
		}
	}
}

// walk goes two steps from the newest items: to the strongest neighbours seen
// with them, and on to theirs (S-Walk, Choi et al., WSDM 2022, with counted
// instead of solved matrices, cut at two steps and at the head of each list).
func (x *Index) walk(q *Query, s *Scratch) {
	if x.cfg.WalkFanout == 0 {
		return
	}
	unseen := float32(smoothing / max(x.pair.worth(q.Now), 1e-30))
	e := &x.near[viewed]
	for pos, qi := range s.query {
		if pos == walkItems {
			break
		}
		it := &x.items[qi.item]
		l := &it.near[viewed]
		scale := x.countedStep[pos] / (it.out[viewed].ahead + it.out[viewed].behind + unseen)
		s.hops = s.hops[:0]
		for k := l.off; k < l.off+min(uint32(l.n), 2*walkLook); k++ {
			s.hop(hop{e.to[k], e.w[k].total() * scale}, x.cfg.WalkFanout)
		}
		ahead := uint32(0) // all at once: see fetch
		for _, h := range s.hops {
			ahead += uint32(x.items[h.item].near[viewed].n)
		}
		for _, h := range s.hops {
			if l := &x.items[h.item].near[viewed]; l.n > 0 {
				ahead += e.to[l.off] + e.w[l.off].n
			}
		}
		s.fetched = ahead
		for _, h := range s.hops {
			over := &x.items[h.item]
			l := &over.near[viewed]
			scale := h.p / (over.out[viewed].ahead + over.out[viewed].behind + unseen)
			for k := l.off; k < l.off+min(uint32(l.n), walkLook); k++ {
				c := s.candidate(x, e.to[k])
				if c == nil {
					continue
				}
				if c.from[fromWalk] == 0 {
					c.via = h.item
				}
				c.from[fromWalk] += e.w[k].total() * scale
			}
		}
	}
}

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

// shelve adds what the current item's category is asked for and what is new in
// it: the only way for a product nobody has looked at.
func (x *Index) shelve(s *Scratch) {
	category := x.items[s.query[0].item].category
	if category == 0 {
		return
	}
	shelf := &x.shelves[category]
	most := float32(0)
	if len(shelf.top) > 0 {
		most = x.items[shelf.top[0]].count[Month]
	}
	for _, i := range shelf.top {
		if c := s.candidate(x, i); c != nil && most > 0 {
			c.from[fromShelf] = max(x.items[i].count[Month]/most, shelfFloor)
		}
	}
	for _, i := range shelf.fresh {
		if c := s.candidate(x, i); c != nil {
			c.from[fromShelf] = max(c.from[fromShelf], shelfFloor)
		}
	}
}

// shelfFloor is what a category says of an item that is only new.
const shelfFloor = .05

// neighbours adds the votes of the most similar sessions: similarity is the sum
// of the positions' weights of shared items, over the root of the session's
// length, times the age's weight; an item gets it times the weight of the newest
// shared item's position and of its own distance from that item.
func (x *Index) neighbours(q *Query, s *Scratch) {
	if len(x.visits) == 0 {
		return
	}
	own := none
	if seq, ok := x.session[q.Session]; ok && q.Session != 0 {
		own = seq
	}
	held, slots := uint32(len(x.visits)), uint32(x.cfg.MaxSessions)
	newest := x.nextSeq - 1
	if x.nextSeq == 0 {
		newest = x.wrap() - 1
	}
	head := newest % slots // slots are filled in turn
	for pos, qi := range s.query {
		post := &x.items[qi.item].post
		w := x.queryStep[pos]
		for k := range int(post.n) {
			seq := x.posts.at(post, k)
			age := newest - seq
			if seq > newest {
				age += x.wrap()
			}
			if age >= held {
				break // what is older is gone too
			}
			if seq == own {
				continue
			}
			slot := head - age
			if age > head {
				slot += slots
			}
			v := &s.visits[slot]
			if v.epoch == s.epoch {
				v.sim += w
				continue
			}
			if len(s.touched) == x.cfg.M {
				continue
			}
			*v = slotMark{s.epoch, w}
			s.touched = append(s.touched, slot)
		}
	}
	perStep := ageResolution / (x.cfg.AgeDays * dayMillis)
	for _, slot := range s.touched {
		v := &x.visits[slot]
		if v.n == 0 {
			continue
		}
		step := int(min(max((float64(q.Now)-float64(v.last))*perStep, 0), ageSteps-1))
		newer := head - slot
		if slot > head {
			newer += slots
		}
		sim := s.visits[slot].sim * x.age[step] * s.roots[v.n]
		s.near = append(s.near, neighbour{sim: uint64(math.Float32bits(sim)), slot: slot, age: newer})
	}
	near := s.near
	if len(near) > x.cfg.K {
		selectFirst(near, x.cfg.K)
		near = near[:x.cfg.K]
	}
	ahead := uint32(0) // all at once: see fetch
	for _, nb := range near {
		ahead += x.sessItem[int(nb.slot)*x.cfg.SessionLength]
	}
	s.fetched = ahead
	back := float32(x.cfg.Backward)
	for _, nb := range near {
		run := x.run(int(nb.slot))
		match, at := uint8(math.MaxUint8), 0
		for p, i := range run {
			if m := &s.marks[i]; m.epoch == s.epoch && m.pos > 0 && m.pos-1 < match {
				match, at = m.pos-1, p
			}
		}
		if match == math.MaxUint8 { // the shared item has left the session's log
			continue
		}
		vote := math.Float32frombits(uint32(nb.sim)) * x.matchStep[match]
		for p, i := range run {
			c := s.candidate(x, i)
			if c == nil {
				continue
			}
			var w float32
			if p < at {
				w = vote * x.distance[at-p] * back
			} else {
				w = vote * x.distance[p-at]
				c.from[fromSessionsAhead] += w
			}
			c.from[fromSessions] += w
			if match == 0 {
				c.from[fromSessionsLast] += w
			}
			c.from[fromVotes]++
		}
	}
	// Rare items say more: the factor 1 + w ln(N/n).
	total, w := log2(float32(max(x.total, 1))), float32(x.cfg.IDFWeight*math.Ln2)
	for k := range s.cands {
		c := &s.cands[k]
		if c.from[fromSessions] > 0 {
			c.from[fromSessions] *= 1 + w*max(0, total-log2(float32(max(x.items[c.item].sessions, 1))))
		}
	}
}

func inverseRoot(i int) float32 {
	if i == 0 {
		return 0
	}
	return float32(1 / math.Sqrt(float64(i)))
}
