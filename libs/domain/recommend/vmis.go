package recommend

import (
	"cmp"
	"math"
	"slices"
)

// VMIS is the reference method VMIS-kNN (Kersbergen, Sprangers and Schelter,
// SIGMOD 2022) as its authors publish it in Serenade: the weight of the newest
// shared item falls by 0.1 a step and is not cut at 0, inverse document frequency
// counts the index's entries, and the current item is taken out of the answer. It
// is built once from finished sessions; the served form is [Index]. It is not safe
// for concurrent use: its working memory is its own, and an answer allocates
// nothing.
type VMIS struct {
	// KeepCurrent lets the current item be answered, as the published figures of
	// other methods have it.
	KeepCurrent bool

	m, k int
	id   map[uint32]uint32 // item to its number here
	ids  []uint32

	last      []int64 // of sessions, by rising time; a session's number is its recency
	start     []uint32
	items     []uint32 // of session s: items[start[s]:start[s+1]]
	listStart []uint32
	list      []uint32 // sessions of item i, newest first: list[listStart[i]:listStart[i+1]]
	epoch     uint32
	sims      []vmisMark // by session
	votes     []vmisVote // by item
	recent    []uint32   // sessions looked at; once they are m, a heap with the oldest first
	near      []neighbour
	query     []uint32
	touched   []uint32
	answers   []VMISAnswer
}

// vmisMark is a sum that counts only in its epoch.
type vmisMark struct {
	sum   float64
	epoch uint32
}

// vmisVote is what an answer needs of an item, in half a cache line.
type vmisVote struct {
	sum, idf float64
	epoch    uint32 // that sum counts in
	asked    uint32 // epoch that the item is part of the session in
	step     uint32 // and where, the newest item at 0
}

// VMISSession is a finished session.
type VMISSession struct {
	Last  int64 // time of its last event, any unit
	Items []uint32
}

// NewVMIS builds the reference over sessions, of which those with more than
// longest distinct items are left out; Serenade takes the 99.5th percentile. Each
// item lists its m most recent sessions; an answer looks at m sessions and lets k
// of them vote.
func NewVMIS(sessions []VMISSession, m, k, longest int, idfWeight float64) *VMIS {
	v := &VMIS{m: m, k: k, id: map[uint32]uint32{}, start: []uint32{0}}
	order := make([]int, len(sessions))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sessions[a].Last, sessions[b].Last) })
	var distinct, count []uint32
	for _, o := range order {
		distinct = append(distinct[:0], sessions[o].Items...)
		slices.Sort(distinct)
		distinct = slices.Compact(distinct)
		if len(distinct) > longest {
			continue
		}
		for _, id := range distinct {
			i, ok := v.id[id]
			if !ok {
				i = uint32(len(v.ids))
				v.id[id], v.ids, count = i, append(v.ids, id), append(count, 0)
			}
			v.items = append(v.items, i)
			count[i]++
		}
		v.last, v.start = append(v.last, sessions[o].Last), append(v.start, uint32(len(v.items)))
	}
	v.votes = make([]vmisVote, len(v.ids))
	v.listStart = make([]uint32, len(v.ids)+1)
	for i, n := range count {
		v.votes[i].idf = math.Log(float64(len(v.items))/float64(n)) * idfWeight
		if v.votes[i].idf <= 0 {
			v.votes[i].idf = 1
		}
		v.listStart[i+1] = v.listStart[i] + uint32(min(int(n), m))
	}
	v.list = make([]uint32, v.listStart[len(v.ids)])
	clear(count)
	for s := range slices.Backward(v.last) {
		for _, i := range v.items[v.start[s]:v.start[s+1]] {
			if at := v.listStart[i] + count[i]; at < v.listStart[i+1] {
				v.list[at] = uint32(s)
				count[i]++
			}
		}
	}
	v.sims = make([]vmisMark, len(v.last))
	return v
}

// VMISAnswer is an item of the reference's answer.
type VMISAnswer struct {
	Item  uint32
	Score float64
}

// Recommend returns up to n items for a session, oldest item first. Ties go to
// the newer session and the smaller item. The answer is valid until the next call.
func (v *VMIS) Recommend(session []uint32, n int) []VMISAnswer {
	if len(session) == 0 || n <= 0 {
		return nil
	}
	v.begin()
	v.look(session)
	v.vote()
	return v.best(session[len(session)-1], n)
}

func (v *VMIS) begin() {
	if v.epoch++; v.epoch == 0 {
		clear(v.sims)
		for i := range v.votes {
			v.votes[i].epoch, v.votes[i].asked = 0, 0
		}
		v.epoch = 1
	}
	v.recent, v.near, v.query, v.touched = v.recent[:0], v.near[:0], v.query[:0], v.touched[:0]
}

// look gathers the m most recent sessions that share an item, with their
// similarities. query becomes the session, newest item first, as numbers.
func (v *VMIS) look(session []uint32) {
	distinct := 0
	for pos := range session {
		i, ok := v.id[session[pos]]
		if !ok {
			i = none
		}
		if !slices.Contains(session[:pos], session[pos]) {
			distinct++
		}
		v.query = append(v.query, i)
	}
	slices.Reverse(v.query)
	for pos, i := range v.query {
		if i == none || slices.Contains(v.query[:pos], i) {
			continue
		}
		v.votes[i].asked, v.votes[i].step = v.epoch, uint32(pos)
		weight := float64(len(session)-pos) / float64(distinct)
		for _, s := range v.list[v.listStart[i]:v.listStart[i+1]] {
			mark := &v.sims[s]
			if mark.epoch == v.epoch {
				mark.sum += weight
				continue
			}
			if len(v.recent) < v.m {
				*mark = vmisMark{weight, v.epoch}
				if v.recent = append(v.recent, s); len(v.recent) == v.m {
					for p := v.m/2 - 1; p >= 0; p-- {
						v.sink(p)
					}
				}
				continue
			}
			oldest := v.recent[0]
			if v.last[s] <= v.last[oldest] {
				break // the rest of the list is older still
			}
			v.sims[oldest].epoch = v.epoch - 1
			*mark = vmisMark{weight, v.epoch}
			v.recent[0] = s
			v.sink(0)
		}
	}
}

// sink restores the heap of recent sessions below p.
func (v *VMIS) sink(p int) {
	h := v.recent
	for {
		c := 2*p + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if h[p] <= h[c] {
			return
		}
		h[p], h[c] = h[c], h[p]
		p = c
	}
}

// vote lets the k most similar sessions vote for their items.
func (v *VMIS) vote() {
	for _, s := range v.recent {
		v.near = append(v.near, neighbour{math.Float64bits(v.sims[s].sum), s, ^s})
	}
	if len(v.near) > v.k {
		selectFirst(v.near, v.k)
		v.near = v.near[:v.k]
	}
	for _, nb := range v.near {
		items := v.items[v.start[nb.slot]:v.start[nb.slot+1]]
		step := uint32(len(v.query))
		for _, i := range items {
			if m := &v.votes[i]; m.asked == v.epoch {
				step = min(step, m.step)
			}
		}
		weight := 0.0
		if step < 99 {
			weight = 1 - 0.1*float64(step+1)
		}
		weight *= math.Float64frombits(nb.sim)
		for _, i := range items {
			m := &v.votes[i]
			if m.epoch != v.epoch {
				m.sum, m.epoch = 0, v.epoch
				v.touched = append(v.touched, i)
			}
			m.sum += weight * m.idf
		}
	}
}

func (a VMISAnswer) worse(b VMISAnswer) bool {
	return a.Score < b.Score || a.Score == b.Score && a.Item > b.Item
}

// sinkWorst restores a heap with the worst answer first, below p.
func sinkWorst(h []VMISAnswer, p int) {
	for {
		c := 2*p + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1].worse(h[c]) {
			c++
		}
		if !h[c].worse(h[p]) {
			return
		}
		h[p], h[c] = h[c], h[p]
		p = c
	}
}

// best returns the n items with the most votes: a heap of the n best so far, the
// worst of them first, then sorted.
func (v *VMIS) best(current uint32, n int) []VMISAnswer {
	h := v.answers[:0]
	for _, i := range v.touched {
		a := VMISAnswer{v.ids[i], v.votes[i].sum}
		switch {
		case a.Item == current && !v.KeepCurrent:
		case len(h) < n:
			h = append(h, a)
			if len(h) == n {
				for p := n/2 - 1; p >= 0; p-- {
					sinkWorst(h, p)
				}
			}
		case h[0].worse(a):
			h[0] = a
			sinkWorst(h, 0)
		}
	}
	v.answers = h
	slices.SortFunc(h, func(a, b VMISAnswer) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Item, b.Item))
	})
	return h
}
