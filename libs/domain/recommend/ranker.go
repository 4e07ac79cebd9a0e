package recommend

import "math"

// feature is a coordinate of what the ranker sees of a candidate. All lie in
// about 0..1, so that one learning rate serves them all.
type feature int

const (
	// Votes of sessions: in relation to the largest, and their octaves.
	sessionsLinear feature = iota
	sessionsLog
	sessionsAheadLinear
	sessionsAheadLog
	sessionsLastLinear
	sessionsLastLog
	votesLog
	// Shares: as they are, and their octaves.
	stepLinear
	stepLog
	aheadLinear
	aheadLog
	behindLinear
	behindLog
	earlierAheadLinear
	earlierAheadLog
	earlierBehindLinear
	earlierBehindLog
	walkLinear
	walkLog
	cartsLog
	ordersLog
	basketLog
	shelfLinear
	// The item itself.
	popularity // octaves of sessions that had it
	weekly     // octaves of events in the last week
	rising     // last day in relation to the last week
	resting    // days since it was last seen
	// The session's own items.
	ownItem
	ownRecent
	ownTimes
	current
	currentReloaded
	currentAlone
	// Likeness to the current item.
	sameCategory
	sameBrand
	samePrice
	features
)

// row are the features of a candidate.
type row [features]float32

// Heads and buckets of the ranker: browsing and the cart ask for different
// things, and so do short and long sessions.
const (
	browseHead = iota
	cartHead
	heads
)

const buckets = 4

// bucketOf returns the bucket of a session with n distinct items.
func bucketOf(n int) int {
	switch {
	case n <= 2:
		return max(n-1, 0)
	case n <= 4:
		return 2
	}
	return 3
}

func headOf(s Surface) int {
	if s == SurfaceCart {
		return cartHead
	}
	return browseHead
}

// prior are the weights before anything is learned: similar sessions lead, the
// counted relations help, and on the cart page what was carted and bought leads.
var prior = [heads]row{
	browseHead: {
		sessionsLinear: 2, sessionsLog: 2, aheadLog: 1, earlierAheadLog: .5, walkLog: 1, stepLinear: 1,
		cartsLog: .3, ordersLog: .3, basketLog: .2, shelfLinear: .5, sameCategory: .2,
	},
	cartHead: {
		sessionsLinear: 1, sessionsLog: 1, aheadLog: .3, walkLog: .5,
		cartsLog: 2, ordersLog: 1.5, basketLog: 3, shelfLinear: .2,
	},
}

// ranker is a linear model per head and bucket, learned one event at a time:
// listwise softmax over the candidates, AdaGrad (Duchi et al., JMLR 2011), pulled
// towards the prior. A bucket's weights are what all buckets share plus its own,
// so that a rare bucket starts from the others' experience.
type ranker struct {
	head   [heads]head
	second network // behind the browsing head
}

type head struct {
	learned uint64
	shared  coordinates
	own     [buckets]coordinates
	sum     [buckets]row // shared plus own, what answers use
}

// coordinates are weights with their sums of squared gradients.
type coordinates struct{ w, g row }

func (r *ranker) reset() {
	r.second.reset()
	for h := range r.head {
		r.head[h] = head{shared: coordinates{w: prior[h]}}
		for b := range r.head[h].sum {
			r.head[h].add(b)
		}
	}
}

func (h *head) add(b int) {
	for f := range h.sum[b] {
		h.sum[b][f] = h.shared.w[f] + h.own[b].w[f]
	}
}

// step descends along a gradient.
func (h *head) step(b int, cfg *Config, of int, grad *row) {
	rate, pull := float32(cfg.LearningRate), float32(cfg.PriorPull)
	for f, d := range grad {
		c := &h.shared
		d0 := d + pull*(c.w[f]-prior[of][f])
		c.g[f] += d0 * d0
		c.w[f] -= rate * d0 / float32(math.Sqrt(float64(c.g[f])+1e-2))
		c = &h.own[b]
		d1 := d + pull*c.w[f]
		c.g[f] += d1 * d1
		c.w[f] -= rate * d1 / float32(math.Sqrt(float64(c.g[f])+1e-2))
	}
	h.learned++
	for k := range h.sum {
		h.add(k)
	}
}

// dot is the score of a candidate.
func dot(a, b *row) float32 {
	var s0, s1, s2, s3 float32
	for k := 0; k < int(features)-3; k += 4 {
		s0 += a[k] * b[k]
		s1 += a[k+1] * b[k+1]
		s2 += a[k+2] * b[k+2]
		s3 += a[k+3] * b[k+3]
	}
	for k := int(features) &^ 3; k < int(features); k++ {
		s0 += a[k] * b[k]
	}
	return s0 + s1 + (s2 + s3)
}

// octaves maps a share or relation of 1 to 1, and every halving to 1/depth less,
// down to 0.
func octaves(x float32) float32 {
	const depth = 12
	if x <= 0 {
		return 0
	}
	return max(0, min(1, 1+log2(x)*(1.0/depth)))
}

// describe fills the features of all candidates.
func (x *Index) describe(q *Query, s *Scratch) {
	var most [3]float32
	ahead := uint32(0) // all at once: see fetch
	for k := range s.cands {
		c := &s.cands[k]
		it := &x.items[c.item]
		ahead += it.sessions + math.Float32bits(it.count[Week]) // its first line and its second
		for f := range most {
			most[f] = max(most[f], c.from[f])
		}
	}
	s.fetched = ahead
	for f, m := range most {
		if m > 0 {
			most[f] = 1 / m
		}
	}
	cur := &x.items[s.query[0].item]
	day, week := float32(x.win[Day].worth(q.Now)), float32(x.win[Week].worth(q.Now))
	alone := float32(0)
	if len(s.query) == 1 {
		alone = 1
	}
	reloaded := min(1, float32(s.reloads)/float32(2))
	for k := range s.cands {
		c, f := &s.cands[k], &s.feats[k]
		it := &x.items[c.item]
		*f = row{}
		if v := c.from[fromSessions] * most[0]; v > 0 {
			f[sessionsLinear], f[sessionsLog] = v, octaves(v)
			v = c.from[fromSessionsAhead] * most[1]
			f[sessionsAheadLinear], f[sessionsAheadLog] = v, octaves(v)
			v = c.from[fromSessionsLast] * most[2]
			f[sessionsLastLinear], f[sessionsLastLog] = v, octaves(v)
			f[votesLog] = log2(1+c.from[fromVotes]) * (1. / 8)
		}
		for j := range feature(6) {
			if v := c.from[fromStep+source(j)]; v > 0 {
				f[stepLinear+2*j], f[stepLog+2*j] = min(v, 1), octaves(v)
			}
		}
		f[cartsLog] = octaves(c.from[fromCarts])
		f[ordersLog] = octaves(c.from[fromOrders])
		f[basketLog] = octaves(c.from[fromBasket])
		f[shelfLinear] = c.from[fromShelf]

		f[popularity] = log2(1+float32(it.sessions)) * (1. / 16)
		w := it.count[Week] * week
		f[weekly] = log2(1+w) * (1. / 16)
		f[rising] = min(1, (it.count[Day]*day*7+.5)/(w+.5)*(1./8))
		f[resting] = float32(min(max(float64(q.Now)-float64(it.seen), 0)*(1/(30*dayMillis)), 1))

		if m := &s.marks[c.item]; m.pos > 0 {
			p := int(m.pos - 1)
			f[ownItem] = 1
			f[ownRecent] = x.queryStep[p]
			f[ownTimes] = min(1, float32(s.query[p].times-1)*.5)
			if p == 0 {
				f[current], f[currentReloaded], f[currentAlone] = 1, reloaded, alone
			}
		}
		if it.category != 0 && it.category == cur.category {
			f[sameCategory] = 1
		}
		if it.brand != 0 && it.brand == cur.brand {
			f[sameBrand] = 1
		}
		if it.octave != 0 && cur.octave != 0 {
			d := it.octave - cur.octave
			f[samePrice] = 1 / (1 + d*d)
		}
	}
}

// judge gives every candidate its logit.
func (x *Index) judge(q *Query, s *Scratch) {
	w := &x.ranker.head[headOf(q.Surface)].sum[bucketOf(len(s.query))]
	s.logits = s.logits[:len(s.cands)]
	for k := range s.cands {
		s.logits[k] = dot(&s.feats[k], w)
	}
}

// softmax returns the largest logit and the sum of all exponentials in relation
// to it.
func softmax(logits []float32) (top float32, sum float64) {
	top = logits[0]
	for _, l := range logits {
		top = max(top, l)
	}
	for _, l := range logits {
		sum += math.Exp(float64(l - top))
	}
	return top, sum
}

// Learn teaches the ranker that target came next where q was asked: one step of
// gradient descent on the negative logarithm of its probability among the
// candidates. It reports whether there was anything to learn: an answer that q
// forbids, or that no source proposes, teaches nothing. Call it before the event
// is applied. It needs exclusive access to the index and costs about as much as
// an answer.
func (x *Index) Learn(q Query, target string, s *Scratch) bool {
	q.Now = max(q.Now, x.latest)
	if q.Surface >= surfaces {
		q.Surface = SurfaceHome
	}
	t, ok := x.id[target]
	if !ok {
		return false
	}
	s.begin(x)
	x.read(&q, s)
	if len(s.query) == 0 || s.mark(t).is&blocked != 0 {
		return false
	}
	x.gather(&q, s)
	place := uint32(s.marks[t].cand)
	if place == 0 {
		return false
	}
	x.describe(&q, s)
	x.judge(&q, s)
	h := headOf(q.Surface)
	if h == browseHead && x.cfg.SecondRate > 0 {
		s.pile()
		x.lookAgain(s)
		for k := range s.looks {
			if s.looks[k].place == place-1 {
				x.ranker.second.teach(s.looks, k, float32(x.cfg.SecondRate))
				break
			}
		}
	}
	var grad row
	top, sum := softmax(s.logits)
	for k := range s.cands {
		p := float32(math.Exp(float64(s.logits[k]-top)) / sum)
		if p < 1e-6 {
			continue
		}
		for f, v := range s.feats[k] {
			grad[f] += p * v
		}
	}
	for f, v := range s.feats[place-1] {
		grad[f] -= v
	}
	x.ranker.head[h].step(bucketOf(len(s.query)), &x.cfg, h, &grad)
	return true
}

// Observe takes an event of the running shop: it learns from it where its
// session is one of those that teach ([Index.Teaches]), then applies it. A view
// teaches the browsing head what was looked at next; a cart or order teaches the
// cart head what was added to the cart as it was. Every index that sees the same
// deltas learns the same. It needs exclusive access.
func (x *Index) Observe(d Delta, s *Scratch) {
	of := SurfaceProduct
	if d.Kind != View {
		of = SurfaceCart
	}
	if d.First && x.Teaches(d.Session, of) {
		x.learnFrom(d, of, s)
	}
	x.Apply(d)
}

// Teaches tells whether the ranker of a surface learns from a session: while it
// has learned from fewer than Config.LearnWarm events from all, then from one in
// Config.LearnEvery, chosen by key, and from fewer as what it knows grows.
func (x *Index) Teaches(session uint64, of Surface) bool {
	if x.cfg.LearnEvery == 0 {
		return false
	}
	const mix = 0x9e3779b97f4a7c15 // 2^64 / golden ratio
	learned := x.ranker.head[headOf(of)].learned
	return learned < uint64(x.cfg.LearnWarm) || session*mix>>32%(uint64(x.cfg.LearnEvery)+learned/learnSlower) == 0
}

// learnSlower is after how many lessons one session less teaches.
const learnSlower = 50_000

func (x *Index) learnFrom(d Delta, of Surface, s *Scratch) {
	q := Query{Session: d.Session, Now: d.At, Surface: of}
	from := 0
	if of == SurfaceCart {
		for from < len(d.Previous) && d.Previous[from].Kind < Cart {
			from++ // what was seen since the last addition led here, and was not known then
		}
	}
	s.asked = s.asked[:0]
	for k := len(d.Previous) - 1; k >= from; k-- {
		if d.Previous[k].Item != d.Item {
			s.asked = append(s.asked, QueryItem(d.Previous[k]))
		}
	}
	q.Items = s.asked
	x.Learn(q, d.Item, s)
}
