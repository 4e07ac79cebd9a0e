package recommend

import (
	"cmp"
	"math"
	"slices"
	"unicode/utf8"
)

// relation is a kind of counted neighbourhood.
type relation uint8

const (
	viewed      relation = iota // seen in one session: directly next, later, earlier
	cartedAfter                 // put into the cart after it was seen, directed; both ways between items of one cart
	boughtAfter                 // bought after it was seen, directed
	boughtWith                  // in one order or one session's orders, both ways
	relations
)

// bits is a set of items.
type bits []uint64

func (b *bits) has(i uint32) bool { return int(i>>6) < len(*b) && (*b)[i>>6]>>(i&63)&1 != 0 }

func (b *bits) put(i uint32, in bool) {
	if !in && int(i>>6) >= len(*b) {
		return
	}
	*b = grow(*b, int(i>>6)+1)
	if in {
		(*b)[i>>6] |= 1 << (i & 63)
	} else {
		(*b)[i>>6] &^= 1 << (i & 63)
	}
}

// none stands for no item.
const none = ^uint32(0)

// item is what the index knows of one item, without its strings. It holds no
// pointer, so that the garbage collector does not look at it. What an answer
// reads of every candidate comes first, to lie in one cache line.
type item struct {
	sessions        uint32  // sessions that had it
	category, brand uint32  // interned; 0 is none
	octave          float32 // log2 of the price in millionths, 0 where there is none
	seen            int64   // milliseconds since 1970
	count           [windows]float32
	used            bool
	post            ring

	near [relations]list
	out  [relations]mass
	rank [windows]uint16 // place in the top list of the window plus 1; 0 where it is not in it

	price int64
}

// mass is the sum of what was ever added to a relation's row, in forward decay,
// pruned neighbours included: what shares are of.
type mass struct{ step, ahead, behind float32 }

// slot is a session in the log.
type slot struct {
	last int64 // milliseconds since 1970
	n    uint8 // items
}

// shelf is what a category offers to visitors of its other items.
type shelf struct {
	top   []uint32 // heaviest first by the popular counter, at most shelfTop
	fresh []uint32 // latest named by the catalogue or first seen, newest first, at most shelfFresh
}

const shelfTop, shelfFresh = 16, 8

// Index holds one shop. See the package comment for who may call what when.
type Index struct {
	cfg Config

	id    map[string]uint32
	ids   []string
	names []string
	items []item
	spare []uint32 // dropped items, to be used again
	// Items that may not be shown. Answers ask for each candidate, and these bits
	// stay in the processor where the items do not.
	hidden bits

	texts   map[string]uint32 // categories and brands
	text    []string
	shelves []shelf // by text, of categories

	session  map[uint64]uint32 // key to sequence number; writes only, and once per answer
	nextSeq  uint32            // sequence number of the next session; its slot is seq mod MaxSessions
	total    uint64            // sessions ever
	sessKey  []uint64
	visits   []slot
	sessItem []uint32 // SessionLength per slot

	posts postings
	near  [relations]edges
	pair  decay
	win   [windows]decay
	top   [windows][]uint32 // the heaviest items, as heaps with the lightest first

	latest  int64
	refused uint64

	ranker ranker

	stepWeight                                  []float64
	queryStep, matchStep, distance, countedStep []float32
	age                                         []float32
	gone                                        []bool // of a drop
	fetched                                     uint32 // so that what only reads is not left out
}

// maxID bounds the length of an item id, in bytes; longer ids are refused.
const maxID = 200

// maxName bounds the name of a product, in bytes; longer ones are cut.
const maxName = 1024

// maxTexts bounds the distinct categories and brands; later ones count as none.
const maxTexts = 1 << 16

// New returns an empty index. It panics if cfg is not valid, which a caller
// checks before with [Config.Validate].
func New(cfg Config) *Index {
	if err := cfg.Validate(); err != nil {
		panic(err)
	}
	x := &Index{
		cfg: cfg, id: map[string]uint32{}, session: map[uint64]uint32{},
		texts: map[string]uint32{"": 0}, text: []string{""}, shelves: make([]shelf, 1),
	}
	x.ranker.reset()
	x.posts.cap = cfg.PostingsPerItem
	for r := range x.near {
		x.near[r].keep = cfg.NeighboursPerItem
		x.near[r].cap = 2 * cfg.NeighboursPerItem
	}
	x.pair = decay{tau: cfg.PairDays * dayMillis / math.Ln2}
	for w, tau := range [windows]float64{hourMillis, dayMillis, 7 * dayMillis, cfg.PopularDays * dayMillis / math.Ln2} {
		x.win[w] = decay{tau: tau}
	}
	x.stepWeight = make([]float64, cfg.Steps)
	for i := range x.stepWeight {
		x.stepWeight[i] = 1 / float64(i+1)
	}
	x.queryStep = expTable(cfg.QueryItems, cfg.QueryStep)
	x.matchStep = expTable(cfg.QueryItems, cfg.MatchStep)
	x.countedStep = expTable(cfg.QueryItems, cfg.CountedStep)
	x.distance = expTable(cfg.SessionLength, cfg.Distance)
	x.age = expTable(ageSteps, ageResolution)
	return x
}

// Stats are sizes of an index.
type Stats struct {
	Items    int    // held
	Sessions int    // held in the log
	Total    uint64 // sessions ever
	Edges    int    // neighbour slots allocated, over all relations
	Postings int    // posting slots allocated
	Refused  uint64 // deltas and products whose item id was empty or longer than 200 bytes
	Latest   int64  // latest time of a delta, milliseconds since 1970
}

// Stats returns the sizes.
func (x *Index) Stats() Stats {
	s := Stats{
		Items: len(x.id), Sessions: len(x.session), Total: x.total, Postings: len(x.posts.seq),
		Refused: x.refused, Latest: x.latest,
	}
	for r := range x.near {
		s.Edges += len(x.near[r].to)
	}
	return s
}

// SetProduct tells what the catalogue says of an item: price in millionths of
// the shop's currency, and whether it may be shown. An item the catalogue never
// named may be shown and has no name.
func (x *Index) SetProduct(id, name, category, brand string, price int64, active bool) {
	i, ok := x.intern(id, x.latest)
	if !ok {
		x.refused++
		return
	}
	it := &x.items[i]
	x.names[i] = clip(name)
	if c := x.internText(category); c != it.category {
		x.unshelve(i)
		it.category = c
		x.offer(i)
		x.climb(i)
	}
	it.brand = x.internText(brand)
	it.price = price
	x.hidden.put(i, !active)
	it.octave = octaveOf(price)
}

// octaveOf is the binary logarithm of a price, 0 where there is none.
func octaveOf(price int64) float32 {
	if price <= 0 {
		return 0
	}
	return log2(float32(price))
}

// offer puts an item at the head of its category's newest.
func (x *Index) offer(i uint32) {
	c := x.items[i].category
	if c == 0 {
		return
	}
	f := x.shelves[c].fresh
	if len(f) < shelfFresh {
		f = append(f, 0)
	}
	copy(f[1:], f)
	f[0] = i
	x.shelves[c].fresh = f
}

// unshelve takes an item out of its category's lists.
func (x *Index) unshelve(i uint32) {
	s := &x.shelves[x.items[i].category]
	same := func(j uint32) bool { return j == i }
	s.top, s.fresh = slices.DeleteFunc(s.top, same), slices.DeleteFunc(s.fresh, same)
}

// climb restores the order of a category's top list after an item's popular
// count went up.
func (x *Index) climb(i uint32) {
	it := &x.items[i]
	if it.category == 0 || it.count[Month] == 0 {
		return
	}
	s := &x.shelves[it.category]
	p := slices.Index(s.top, i)
	if p < 0 {
		switch {
		case len(s.top) < shelfTop:
			s.top = append(s.top, i)
		case it.count[Month] > x.items[s.top[shelfTop-1]].count[Month]:
			s.top[shelfTop-1] = i
		default:
			return
		}
		p = len(s.top) - 1
	}
	for ; p > 0 && it.count[Month] > x.items[s.top[p-1]].count[Month]; p-- {
		s.top[p], s.top[p-1] = s.top[p-1], s.top[p]
	}
}

// clip bounds a product's name to maxName bytes, at a character's border.
func clip(s string) string {
	if len(s) <= maxName {
		return s
	}
	s = s[:maxName]
	for i := 1; i <= utf8.UTFMax; i++ {
		if r := len(s) - i; utf8.RuneStart(s[r]) {
			if !utf8.FullRuneInString(s[r:]) {
				return s[:r]
			}
			break
		}
	}
	return s
}

func (x *Index) internText(s string) uint32 {
	if t, ok := x.texts[s]; ok {
		return t
	}
	if len(s) > maxID || len(x.text) >= maxTexts {
		return 0
	}
	t := uint32(len(x.text))
	x.texts[s], x.text = t, append(x.text, s)
	x.shelves = append(x.shelves, shelf{})
	return t
}

// intern returns the number of an item, a new one if it is not known.
func (x *Index) intern(id string, at int64) (uint32, bool) {
	if i, ok := x.id[id]; ok {
		x.items[i].seen = max(x.items[i].seen, at)
		return i, true
	}
	if id == "" || len(id) > maxID {
		return none, false
	}
	if len(x.id) >= x.cfg.MaxItems {
		x.drop(max(1, x.cfg.MaxItems/16))
	}
	var i uint32
	if n := len(x.spare); n > 0 {
		i = x.spare[n-1]
		x.spare = x.spare[:n-1]
	} else {
		i = uint32(len(x.items))
		x.items = append(x.items, item{})
		x.ids, x.names = append(x.ids, ""), append(x.names, "")
	}
	x.items[i] = item{used: true, seen: at}
	x.hidden.put(i, false)
	x.id[id], x.ids[i] = i, id
	return i, true
}

// drop forgets the n items that were not seen for longest. It walks the whole
// index; since it makes room for many items at once, an insert costs little on
// average.
func (x *Index) drop(n int) {
	order := make([]uint32, 0, len(x.id))
	for i := range x.items {
		if x.items[i].used {
			order = append(order, uint32(i))
		}
	}
	slices.SortFunc(order, func(a, b uint32) int {
		return cmp.Or(cmp.Compare(x.items[a].seen, x.items[b].seen), cmp.Compare(a, b))
	})
	x.gone = slices.Grow(x.gone[:0], len(x.items))[:len(x.items)]
	clear(x.gone)
	for _, i := range order[:n] {
		x.gone[i] = true
	}
	for s := range x.visits {
		run := x.run(s)
		k := 0
		for _, i := range run {
			if !x.gone[i] {
				run[k] = i
				k++
			}
		}
		x.visits[s].n = uint8(k)
	}
	for w := range x.top {
		left := slices.DeleteFunc(x.top[w], func(i uint32) bool { return x.gone[i] })
		x.top[w] = left[:0]
		for _, i := range left {
			x.top[w] = append(x.top[w], i)
			x.settle(Window(w), len(x.top[w])-1, i)
		}
	}
	for i := range x.items {
		it := &x.items[i]
		if !it.used {
			continue
		}
		if !x.gone[i] {
			for r := range it.near {
				x.near[r].filter(&it.near[r], x.gone)
			}
			continue
		}
		x.unshelve(uint32(i))
		x.posts.release(it.post.off, it.post.class)
		for r := range it.near {
			x.near[r].release(it.near[r].off, it.near[r].class)
		}
		delete(x.id, x.ids[i])
		x.ids[i], x.names[i] = "", ""
		x.hidden.put(uint32(i), false)
		*it = item{}
	}
	for j := n - 1; j >= 0; j-- { // handed out oldest first
		x.spare = append(x.spare, order[j])
	}
}

// kindWeight is what an event counts in the popular counter: the labels of the
// OTTO competition's metric family, orders above carts.
var kindWeight = [...]float64{View: 1, Cart: 6, Order: 12}

// Apply adds one delta. Its times must be believed ones: a delta from a far
// future makes everything before it weigh nothing, as that much silence would.
func (x *Index) Apply(d Delta) {
	if d.Kind > Order {
		d.Kind = View
	}
	j, ok := x.intern(d.Item, d.At)
	if !ok {
		x.refused++
		return
	}
	x.latest = max(x.latest, d.At)
	run := x.run(x.join(d.Session, j, d.At))
	if d.First {
		x.bump(j, d.At, d.Kind)
	}

	w, shift := x.pair.weight(d.At)
	if shift != 1 {
		x.rescale(shift)
	}
	x.fetch(run[max(0, len(run)-x.cfg.Steps-1):])
	back := len(run)
	for step, p := range d.Previous {
		if step == x.cfg.Steps {
			break
		}
		if p.Item == d.Item {
			continue
		}
		i, ok := none, false
		for back > 0 && !ok { // the session's log most often has it next
			back--
			i, ok = run[back], x.ids[run[back]] == p.Item
		}
		if !ok {
			back = 0
			if i, ok = x.pin(p.Item, d.At, j); !ok {
				continue
			}
		}
		gap := max(0, float64(d.At)-float64(p.At)) / hourMillis
		near := w // close in time
		if gap > 0 {
			near *= math.Exp2(-gap / x.cfg.PairGapHours)
		}
		byStep := float32(near * x.stepWeight[step]) // and close in the session
		switch d.Kind {
		case View:
			t := strength{ahead: byStep}
			if step == 0 {
				t.step = byStep
			}
			if d.First {
				t.n = 1
			}
			x.link(viewed, i, j, t)
			x.link(viewed, j, i, strength{behind: byStep, n: t.n})
		case Cart:
			if d.First {
				x.link(cartedAfter, i, j, strength{ahead: byStep, n: 1})
				if p.Kind >= Cart {
					x.link(cartedAfter, j, i, strength{ahead: byStep, n: 1})
				}
			}
		case Order:
			if !d.First {
				break
			}
			if p.Kind == Order { // all lines of an order are equally close
				x.link(boughtWith, i, j, strength{ahead: float32(near), n: 1})
				x.link(boughtWith, j, i, strength{ahead: float32(near), n: 1})
			} else {
				x.link(boughtAfter, i, j, strength{ahead: byStep, n: 1})
			}
		}
	}
}

// fetch reads of items what an event is about to read of them, all at once: the
// processor then waits for the slowest of them and not for one after the other.
func (x *Index) fetch(run []uint32) {
	n, e := uint32(0), &x.near[viewed]
	for _, i := range run {
		n += uint32(x.ids[i][0]) + uint32(x.items[i].near[viewed].n)
	}
	for _, i := range run {
		if l := &x.items[i].near[viewed]; l.n > 0 {
			n += e.to[l.off] + e.w[l.off].n
		}
	}
	x.fetched = n
}

// pin interns a previous item without letting that drop the delta's own.
func (x *Index) pin(id string, at int64, own uint32) (uint32, bool) {
	if i, ok := x.id[id]; ok {
		return i, true
	}
	if len(x.id) >= x.cfg.MaxItems {
		return none, false // a memory of what was dropped does not bring it back
	}
	i, ok := x.intern(id, at)
	return i, ok && i != own
}

func (x *Index) link(r relation, from, to uint32, t strength) {
	it := &x.items[from]
	m := &it.out[r]
	m.step += t.step
	m.ahead += t.ahead
	m.behind += t.behind
	x.near[r].add(&it.near[r], edge{to, t})
}

// rescale moves all pair weights to a new landmark.
func (x *Index) rescale(shift float64) {
	f := float32(shift)
	for r := range x.near {
		w := x.near[r].w
		for i := range w {
			w[i].step *= f
			w[i].ahead *= f
			w[i].behind *= f
		}
	}
	for i := range x.items {
		for r := range x.items[i].out {
			m := &x.items[i].out[r]
			m.step *= f
			m.ahead *= f
			m.behind *= f
		}
	}
}

// run are the items of a session's slot, in the order they joined.
func (x *Index) run(s int) []uint32 {
	base := s * x.cfg.SessionLength
	return x.sessItem[base : base+int(x.visits[s].n)]
}

// join puts an item into a session's log and the session into the item's ring,
// and returns the session's slot.
func (x *Index) join(key uint64, j uint32, at int64) (s int) {
	seq, known := x.session[key]
	if !known {
		seq = x.open(key, at)
	}
	s = int(seq) % x.cfg.MaxSessions
	v := &x.visits[s]
	v.last = max(v.last, at)
	run := x.sessItem[s*x.cfg.SessionLength : (s+1)*x.cfg.SessionLength]
	n := int(v.n)
	if slices.Contains(run[:n], j) {
		return s
	}
	if n == len(run) {
		copy(run, run[1:])
		n--
	}
	run[n] = j
	v.n = uint8(n + 1)
	it := &x.items[j]
	if it.sessions < math.MaxUint32 {
		it.sessions++
	}
	x.posts.push(&it.post, seq)
	return s
}

// open starts a session's slot, overwriting the oldest when the log is full.
func (x *Index) open(key uint64, at int64) uint32 {
	seq := x.nextSeq
	// Slots are seq mod MaxSessions, so the sequence wraps at a multiple of it.
	x.nextSeq++
	if x.nextSeq == x.wrap() {
		x.nextSeq = 0
	}
	x.total++
	s := int(seq) % x.cfg.MaxSessions
	if s < len(x.sessKey) {
		delete(x.session, x.sessKey[s])
	} else {
		x.sessKey, x.visits = append(x.sessKey, 0), append(x.visits, slot{})
		x.sessItem = grow(x.sessItem, len(x.sessItem)+x.cfg.SessionLength)
	}
	x.sessKey[s], x.visits[s] = key, slot{last: at}
	x.session[key] = seq
	return seq
}

// wrap is the number at which sequence numbers start again.
func (x *Index) wrap() uint32 {
	return math.MaxUint32 / uint32(x.cfg.MaxSessions) * uint32(x.cfg.MaxSessions)
}

// slot returns the place of a session in the log, if it is still there.
func (x *Index) slot(seq uint32) (int, bool) {
	age := x.nextSeq - 1 - seq
	if seq >= x.nextSeq {
		age += x.wrap()
	}
	return int(seq) % x.cfg.MaxSessions, age < uint32(len(x.sessKey))
}

// bump counts an event in every window.
func (x *Index) bump(j uint32, at int64, kind Kind) {
	for w := range x.win {
		add, shift := x.win[w].weight(at)
		if shift != 1 {
			for i := range x.items {
				x.items[i].count[w] *= float32(shift)
			}
		}
		if Window(w) == Month {
			add *= kindWeight[kind]
		}
		x.items[j].count[w] += float32(add)
		x.rise(Window(w), j)
	}
	x.climb(j)
}

// rise restores the order of a top list after the count of j went up. The list
// is a heap with its lightest item first. Since stored counts only ever grow, an
// item outside it can enter only when it is counted itself, so it holds the
// heaviest exactly.
func (x *Index) rise(w Window, j uint32) {
	top := x.top[w]
	p := int(x.items[j].rank[w]) - 1
	if p < 0 {
		if len(top) < x.cfg.TopItems { // at the end, and up to where it belongs
			x.top[w] = append(top, j)
			x.settle(w, len(top), j)
			return
		}
		if x.items[j].count[w] <= x.items[top[0]].count[w] {
			return
		}
		x.items[top[0]].rank[w] = 0
		p = 0
	}
	for { // heavier than before: down
		c := 2*p + 1
		if c >= len(top) {
			break
		}
		if c+1 < len(top) && x.items[top[c+1]].count[w] < x.items[top[c]].count[w] {
			c++
		}
		if x.items[top[c]].count[w] >= x.items[j].count[w] {
			break
		}
		top[p] = top[c]
		x.items[top[p]].rank[w] = uint16(p + 1)
		p = c
	}
	top[p] = j
	x.items[j].rank[w] = uint16(p + 1)
}

// settle moves an item at the end of a top list up to where it belongs.
func (x *Index) settle(w Window, p int, j uint32) {
	top := x.top[w]
	for p > 0 {
		parent := (p - 1) / 2
		if x.items[top[parent]].count[w] <= x.items[j].count[w] {
			break
		}
		top[p] = top[parent]
		x.items[top[p]].rank[w] = uint16(p + 1)
		p = parent
	}
	top[p] = j
	x.items[j].rank[w] = uint16(p + 1)
}

// heaviest returns the largest count of a window, 0 where there is none.
func (x *Index) heaviest(w Window) float32 {
	most := float32(0)
	for _, i := range x.top[w] {
		most = max(most, x.items[i].count[w])
	}
	return most
}

// Product is what the catalogue said of an item.
type Product struct {
	Name, Category, Brand string
	Price                 int64 // millionths of the shop's currency
	Active                bool  // true where the catalogue never named the item
}

// Product returns what is known of an item, and whether anything is.
func (x *Index) Product(id string) (Product, bool) {
	i, ok := x.id[id]
	if !ok {
		return Product{}, false
	}
	it := &x.items[i]
	return Product{x.names[i], x.text[it.category], x.text[it.brand], it.price, !x.hidden.has(i)}, true
}
