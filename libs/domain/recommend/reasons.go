package recommend

// reasonsPerAnswer is the number of reasons given, strongest first.
const reasonsPerAnswer = 3

// group is a kind of evidence with the features that speak for it.
type group struct {
	kind        ReasonKind
	first, last feature
}

var groups = [...]group{
	{SimilarSessions, sessionsLinear, votesLog},
	{ViewedAfter, stepLinear, aheadLog},
	{SeenTogether, behindLinear, earlierBehindLog},
	{RelatedThrough, walkLinear, walkLog},
	{CartedAfter, cartsLog, cartsLog},
	{BoughtAfter, ordersLog, ordersLog},
	{BoughtWith, basketLog, basketLog},
	{SameCategory, shelfLinear, shelfLinear},
	{SeenBefore, ownItem, currentAlone},
}

// explain names the evidence that carried a candidate, strongest first. It is
// counted now, for the few items that are answered, and not while candidates are
// gathered.
func (x *Index) explain(q *Query, s *Scratch, place int) []Reason {
	c, f := &s.cands[place], &s.feats[place]
	w := &x.ranker.head[headOf(q.Surface)].sum[bucketOf(len(s.query))]
	var part [len(groups)]float32
	total := float32(0)
	for g, of := range groups {
		if q.Method != Hybrid {
			break // what was not ranked by features was not described either
		}
		for k := of.first; k <= of.last; k++ {
			part[g] += w[k] * f[k]
		}
		if part[g] > 0 {
			total += part[g]
		}
	}
	from := len(s.reasons)
	for len(s.reasons)-from < reasonsPerAnswer {
		best := 0
		for g := range part {
			if part[g] > part[best] {
				best = g
			}
		}
		if part[best] <= 0 {
			break
		}
		share := float64(part[best] / total)
		part[best] = 0
		if r, ok := x.evidence(s, c, groups[best].kind); ok {
			r.Share = share
			s.reasons = append(s.reasons, r)
		}
	}
	if len(s.reasons) == from { // what carried it has no single number: say the plainest
		r := Reason{Kind: PopularItem, Count: x.items[c.item].sessions, Share: 1}
		for _, g := range groups {
			if e, ok := x.evidence(s, c, g.kind); ok {
				r = e
				r.Share = 1
				break
			}
		}
		s.reasons = append(s.reasons, r)
	}
	return s.reasons[from:len(s.reasons):len(s.reasons)]
}

// evidence counts what stands behind a kind of reason.
func (x *Index) evidence(s *Scratch, c *candidate, kind ReasonKind) (Reason, bool) {
	r := Reason{Kind: kind}
	switch kind {
	case SimilarSessions:
		r.Count = uint32(c.from[fromVotes])
		return r, r.Count > 0
	case ViewedAfter, SeenTogether:
		most := float32(0)
		for pos, qi := range s.query {
			if kind == ViewedAfter && pos > 0 {
				break
			}
			t, ok := x.near[viewed].find(&x.items[qi.item].near[viewed], c.item)
			if !ok || kind == ViewedAfter && t.ahead <= 0 {
				continue
			}
			if v := t.total() * x.countedStep[pos]; v > most || r.Count == 0 {
				most, r.Item, r.Count = v, x.ids[qi.item], t.n
			}
		}
		return r, r.Count > 0
	case RelatedThrough:
		if c.from[fromWalk] <= 0 {
			return r, false
		}
		t, ok := x.near[viewed].find(&x.items[c.via].near[viewed], c.item)
		r.Item, r.Count = x.ids[c.via], t.n
		return r, ok
	case CartedAfter, BoughtAfter, BoughtWith:
		rel := cartedAfter + relation(kind-CartedAfter)
		for _, qi := range s.query {
			if t, ok := x.near[rel].find(&x.items[qi.item].near[rel], c.item); ok && t.n > r.Count {
				r.Item, r.Count = x.ids[qi.item], t.n
			}
		}
		return r, r.Count > 0
	case SeenBefore:
		if m := &s.marks[c.item]; m.pos > 0 {
			r.Count = uint32(s.query[m.pos-1].times)
		}
		return r, r.Count > 0
	case SameCategory:
		cur := s.query[0].item
		r.Item, r.Count = x.ids[cur], x.items[c.item].sessions
		category := x.items[cur].category
		return r, category != 0 && category == x.items[c.item].category
	}
	return r, false
}
