package recommend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
)

// ErrSnapshot is wrapped by every error of [ReadIndex] that says that the bytes
// are not a snapshot this version can restore; other errors come from the reader.
var ErrSnapshot = errors.New("not a usable snapshot")

const (
	snapshotMagic   = "SILLRECO"
	snapshotVersion = 2
)

// WriteTo writes a snapshot: a magic word, a version, the content, and a CRC-32C
// of it all. It only reads the index. Equal indexes write equal bytes, and so
// does an index restored from a snapshot under the same Config.
func (x *Index) WriteTo(w io.Writer) (int64, error) {
	e := &encoder{w: w, table: castagnoli(), buf: make([]byte, 0, chunk)}
	e.buf = append(e.buf, snapshotMagic...)
	e.uint(snapshotVersion)
	for _, d := range x.decays() {
		e.f64(d.tau)
		e.int(d.landmark)
		e.flag(d.set)
	}
	e.uint(x.total)
	e.int(x.latest)
	e.uint(x.refused)
	e.uint(uint64(len(x.text) - 1))
	for _, t := range x.text[1:] {
		e.text(t)
	}

	// Sessions oldest first, numbered from 0.
	held := len(x.visits)
	oldest := 0
	if held == x.cfg.MaxSessions {
		oldest = int(x.nextSeq) % x.cfg.MaxSessions
	}
	e.uint(uint64(held))
	for k := range held {
		s := (oldest + k) % held
		e.u64(x.sessKey[s])
		e.u64(uint64(x.visits[s].last))
		e.u8(x.visits[s].n)
	}
	for k := range held {
		for _, i := range x.run((oldest + k) % held) {
			e.u32(i)
		}
	}
	x.writeItems(e, oldest, held)
	for r := range x.near {
		x.writeEdges(e, relation(r))
	}
	e.uint(uint64(len(x.spare)))
	for _, i := range x.spare {
		e.u32(i)
	}
	e.uint(uint64(x.cfg.TopItems))
	for w := range x.top {
		e.list(x.top[w])
	}
	for _, s := range x.shelves {
		e.list(s.top)
		e.list(s.fresh)
	}
	x.ranker.write(e)
	e.end()
	if e.err != nil {
		return e.n, fmt.Errorf("write recommender snapshot: %w", e.err)
	}
	return e.n, nil
}

// list writes item numbers.
func (e *encoder) list(items []uint32) {
	e.uint(uint64(len(items)))
	for _, i := range items {
		e.u32(i)
	}
}

// live is how many of an item's postings are of sessions still in the log.
func (x *Index) live(post *ring) int {
	live := 0 // newest first
	for live < int(post.n) {
		if _, ok := x.slot(x.posts.at(post, live)); !ok {
			break
		}
		live++
	}
	return live
}

// slots is how much room runs of certain lengths need: what a reader allocates at
// once.
func (x *Index) slots(b *blocks, length func(*item) int) (n uint64) {
	for i := range x.items {
		n += uint64(b.size(b.classOf(length(&x.items[i]))))
	}
	return n
}

func (x *Index) writeItems(e *encoder, oldest, held int) {
	e.uint(uint64(len(x.items)))
	e.uint(x.slots(&x.posts.blocks, func(it *item) int { return x.live(&it.post) }))
	for i := range x.items {
		it := &x.items[i]
		e.flag(it.used)
		if !it.used {
			continue
		}
		e.text(x.ids[i])
		e.text(x.names[i])
		e.uint(uint64(it.category))
		e.uint(uint64(it.brand))
		e.int(it.price)
		e.flag(x.hidden.has(uint32(i)))
		e.int(it.seen)
		e.uint(uint64(it.sessions))
		for _, c := range it.count {
			e.f32(c)
		}
		live := x.live(&it.post)
		e.uint(uint64(live))
		for k := live - 1; k >= 0; k-- {
			s, _ := x.slot(x.posts.at(&it.post, k))
			e.u32(uint32((s - oldest + held) % held))
		}
	}
}

func (x *Index) writeEdges(e *encoder, r relation) {
	near := &x.near[r]
	e.uint(x.slots(&near.blocks, func(it *item) int { return int(it.near[r].n) }))
	for i := range x.items {
		it := &x.items[i]
		l := &it.near[r]
		e.uint(uint64(l.n))
		if l.n == 0 && it.out[r] == (mass{}) {
			e.flag(false)
			continue
		}
		e.flag(true)
		m := &it.out[r]
		e.f32(m.step)
		e.f32(m.ahead)
		e.f32(m.behind)
		for k := l.off; k < l.off+uint32(l.n); k++ {
			w := &near.w[k]
			e.room()
			b := binary.LittleEndian.AppendUint32(e.buf, near.to[k])
			b = binary.LittleEndian.AppendUint32(b, w.n)
			e.buf = b
			e.f32(w.step)
			e.f32(w.ahead)
			e.f32(w.behind)
		}
	}
}

// decays are all scales, in the order of the snapshot.
func (x *Index) decays() []*decay {
	ds := []*decay{&x.pair}
	for w := range x.win {
		ds = append(ds, &x.win[w])
	}
	return ds
}

// ReadIndex restores a snapshot under cfg. Decay times must be those of the
// snapshot; smaller caps keep what is newest or heaviest. Bytes that are not a
// whole, unchanged snapshot of a known version give an error that wraps [ErrSnapshot], never a
// partial index. It reads up to the snapshot's end and not further.
func ReadIndex(r io.Reader, cfg Config) (*Index, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("read recommender snapshot: %w", err)
	}
	// Version 1 begins with the magic word, later ones with the length of a frame.
	var head [len(snapshotMagic)]byte
	_, err := io.ReadFull(r, head[:])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it ends too early", ErrSnapshot)
	}
	if err != nil {
		return nil, fmt.Errorf("read recommender snapshot: %w", err)
	}
	x := New(cfg)
	var d *decoder
	if string(head[:]) == snapshotMagic {
		// Small pieces are read, and none too many: nothing may be buffered here.
		d = &decoder{r: r, table: castagnoli(), loose: true}
		d.sum = crc32.Update(0, d.table, head[:])
		if v := d.uint(math.MaxUint64); v != 1 {
			d.fail("version %d, want 1 or %d", v, snapshotVersion)
		}
		x.restoreV1(d)
		d.endV1()
	} else {
		d = &decoder{r: io.MultiReader(bytes.NewReader(head[:]), r), table: castagnoli()}
		x.restore(d)
		d.end()
	}
	if d.err != nil {
		return nil, fmt.Errorf("read recommender snapshot: %w", d.err)
	}
	for len(x.id) > cfg.MaxItems {
		x.drop(len(x.id) - cfg.MaxItems)
	}
	return x, nil
}

func (x *Index) restore(d *decoder) {
	if !d.need(len(snapshotMagic)) {
		return
	}
	if string(d.take(len(snapshotMagic))) != snapshotMagic {
		d.fail("it does not begin with %q", snapshotMagic)
		return
	}
	if v := d.uint(math.MaxUint64); v != snapshotVersion {
		d.fail("version %d, want %d", v, snapshotVersion)
		return
	}
	for _, scale := range x.decays() {
		if tau := d.f64(); tau != scale.tau {
			d.fail("a decay time of %g ms, configured is %g ms", tau, scale.tau)
			return
		}
		scale.landmark, scale.set = d.int(), d.flag()
	}
	x.total, x.latest, x.refused = d.uint(math.MaxUint64), d.int(), d.uint(math.MaxUint64)
	for range d.uint(maxTexts) {
		t := d.text(maxID)
		if _, twice := x.texts[t]; twice {
			d.fail("category or brand %q stands twice", t)
			return
		}
		x.internText(t)
	}
	skip := x.restoreSessions(d)
	x.restoreItems(d, skip)
	for r := range x.near {
		x.restoreEdges(d, relation(r))
	}
	n := uint64(len(x.items))
	d.each(int(d.uint(n)), 4, func(_ int, b []byte) {
		if i := binary.LittleEndian.Uint32(b); uint64(i) < n && !x.items[i].used {
			x.spare = append(x.spare, i)
		} else {
			d.fail("an item both used and spare")
		}
	})
	if d.err == nil && len(x.spare)+len(x.id) != int(n) {
		d.fail("%d items, of which %d used and %d spare", n, len(x.id), len(x.spare))
	}
	x.restoreTop(d)
	x.restoreShelves(d)
	x.ranker.restore(d)
	x.check(d)
}

// restoreSessions returns how many of the oldest do not fit into the log.
func (x *Index) restoreSessions(d *decoder) (skip int) {
	held := int(d.uint(1 << 28))
	skip = max(0, held-x.cfg.MaxSessions)
	total := x.total
	const size = 17
	var lengths []uint8
	d.each(held, size, func(k int, b []byte) {
		if k == 0 {
			n := min(held, x.cfg.MaxSessions, 1<<20)
			x.session = make(map[uint64]uint32, n)
			x.sessKey, x.visits = make([]uint64, 0, n), make([]slot, 0, n)
			x.sessItem = make([]uint32, 0, n*x.cfg.SessionLength)
		}
		key := binary.LittleEndian.Uint64(b)
		lengths = append(lengths, b[16])
		if k < skip {
			return
		}
		before := len(x.session)
		x.open(key, int64(binary.LittleEndian.Uint64(b[8:])))
		if len(x.session) == before {
			d.fail("session %d stands twice", key)
		}
	})
	x.total = total
	for k, n := range lengths {
		drop := max(0, int(n)-x.cfg.SessionLength)
		s := k - skip
		d.each(int(n), 4, func(p int, b []byte) {
			if s >= 0 && p >= drop {
				x.sessItem[s*x.cfg.SessionLength+p-drop] = binary.LittleEndian.Uint32(b)
				x.visits[s].n++
			}
		})
		if d.err != nil {
			break
		}
	}
	return skip
}

func (x *Index) restoreItems(d *decoder, skip int) {
	n := uint32(d.uint(1 << 26))
	// A liar gets no more than this.
	x.id = make(map[string]uint32, min(n, 1<<20))
	x.items = make([]item, 0, min(n, 1<<16))
	x.posts.seq = reserve(x.posts.seq, d.uint(math.MaxUint32), 4*len(x.sessItem))
	for i := uint32(0); i < n && d.err == nil; i++ {
		x.items = append(x.items, item{})
		x.ids, x.names = append(x.ids, ""), append(x.names, "")
		it := &x.items[i]
		if !d.flag() {
			continue
		}
		it.used = true
		id := d.text(maxID)
		if _, twice := x.id[id]; twice || id == "" {
			d.fail("item %q stands twice or has no id", id)
			return
		}
		x.id[id], x.ids[i], x.names[i] = i, id, d.text(maxName)
		it.category, it.brand = uint32(d.uint(uint64(len(x.text)-1))), uint32(d.uint(uint64(len(x.text)-1)))
		it.price = d.int()
		x.hidden.put(i, d.flag())
		it.seen = d.int()
		it.octave = octaveOf(it.price)
		it.sessions = uint32(d.uint(math.MaxUint32))
		for w := range it.count {
			it.count[w] = d.weight()
		}
		live := int(d.uint(math.MaxUint16))
		d.each(live, 4, func(_ int, b []byte) {
			s := int(binary.LittleEndian.Uint32(b)) - skip
			if s >= len(x.visits) {
				d.fail("item %q names session %d of %d", id, s, len(x.visits))
			} else if s >= 0 {
				x.posts.push(&it.post, uint32(s))
			}
		})
	}
}

func (x *Index) restoreEdges(d *decoder, r relation) {
	near := &x.near[r]
	room, most := d.uint(math.MaxUint32), 3*len(x.items)*near.cap
	near.to, near.w = reserve(near.to, room, most), reserve(near.w, room, most)
	for i := range x.items {
		n := int(d.uint(math.MaxUint16))
		if !d.flag() {
			if n > 0 {
				d.fail("neighbours of no weight")
			}
			if d.err != nil {
				return
			}
			continue
		}
		it := &x.items[i]
		it.out[r] = mass{d.weight(), d.weight(), d.weight()}
		l := &it.near[r]
		if n > 0 && n <= near.cap {
			near.enlarge(l, near.classOf(n))
		}
		for n > 0 {
			k := min(n, chunk/edgeBytes)
			if !d.need(k * edgeBytes) {
				return
			}
			d.edges(d.take(k*edgeBytes), near, l)
			n -= k
		}
		if d.err != nil {
			return
		}
	}
}

// edgeBytes is what a neighbour takes in a snapshot.
const edgeBytes = 20

// edges reads whole neighbours to the end of a list. There are millions of them.
func (d *decoder) edges(b []byte, near *edges, l *list) {
	word := binary.LittleEndian.Uint32
	room := near.size(l.class) - int(l.n)
	direct := len(b)/edgeBytes <= room
	at := int(l.off) + int(l.n)
	for ; len(b) >= edgeBytes; b = b[edgeBytes:] {
		step, ahead, behind := word(b[8:]), word(b[12:]), word(b[16:])
		// The bits of numbers that are not negative and finite are below those of
		// the infinity.
		if max(step, ahead, behind) >= infinity {
			d.fail("weights of %g, %g and %g", math.Float32frombits(step), math.Float32frombits(ahead), math.Float32frombits(behind))
			return
		}
		to, s := word(b), strength{math.Float32frombits(step), math.Float32frombits(ahead), math.Float32frombits(behind), word(b[4:])}
		if !direct { // under a smaller cap
			near.append(l, edge{to, s})
			continue
		}
		near.to[at], near.w[at] = to, s
		at++
	}
	if direct {
		l.n = uint16(at - int(l.off))
	}
}

// infinity are the bits of the single-precision one.
const infinity = 0x7f800000

// reserve returns an empty slice with room for what a snapshot says it needs, and
// at most for what may be believed.
func reserve[T any](s []T, room uint64, most int) []T {
	if n := int(min(room, uint64(most))); n > cap(s) {
		return make([]T, 0, n)
	}
	return s
}

// numbers reads a list of known items.
func (x *Index) numbers(d *decoder, most int, f func(i uint32)) {
	d.each(int(d.uint(uint64(most))), 4, func(_ int, b []byte) {
		if i := binary.LittleEndian.Uint32(b); int(i) < len(x.items) && x.items[i].used {
			f(i)
		} else {
			d.fail("a list names item %d", i)
		}
	})
}

// restoreTop reads the top lists, or makes them anew if their length changed.
func (x *Index) restoreTop(d *decoder) {
	size := int(d.uint(math.MaxUint16))
	for w := range x.top {
		x.numbers(d, size, func(i uint32) {
			if x.items[i].rank[w] != 0 {
				d.fail("a top list names item %d twice", i)
				return
			}
			x.top[w] = append(x.top[w], i)
			x.items[i].rank[w] = uint16(len(x.top[w]))
			if p := len(x.top[w]) - 1; x.items[x.top[w][max(p-1, 0)/2]].count[w] > x.items[i].count[w] {
				d.fail("a top list is out of order")
			}
		})
		if d.err == nil && size != x.cfg.TopItems {
			x.rebuildTop(Window(w))
		}
	}
}

func (x *Index) restoreShelves(d *decoder) {
	for c := range x.shelves {
		s := &x.shelves[c]
		keep := func(to *[]uint32) func(i uint32) {
			return func(i uint32) {
				if x.items[i].category != uint32(c) || c == 0 || slices.Contains(*to, i) {
					d.fail("item %d is on the shelf of a category not its own, or twice", i)
					return
				}
				*to = append(*to, i)
			}
		}
		x.numbers(d, shelfTop, keep(&s.top))
		x.numbers(d, shelfFresh, keep(&s.fresh))
		if d.err != nil {
			return
		}
	}
}

func (x *Index) rebuildTop(w Window) {
	x.top[w] = x.top[w][:0]
	for i := range x.items {
		x.items[i].rank[w] = 0
	}
	for i := range x.items {
		if x.items[i].used && x.items[i].count[w] > 0 {
			x.rise(w, uint32(i))
		}
	}
}

// check makes sure that every item number points to an item.
func (x *Index) check(d *decoder) {
	if d.err != nil {
		return
	}
	var used bits
	for i := range x.items {
		used.put(uint32(i), x.items[i].used)
	}
	good := used.has
	for s := range x.visits {
		for _, i := range x.run(s) {
			if !good(i) {
				d.fail("a session names item %d", i)
				return
			}
		}
	}
	for i := range x.items {
		it := &x.items[i]
		for r := range it.near {
			l := it.near[r]
			if l.n > 0 && !it.used {
				d.fail("neighbours of no item")
				return
			}
			for _, to := range x.near[r].to[l.off : l.off+uint32(l.n)] {
				if !good(to) {
					d.fail("a neighbour is item %d", to)
					return
				}
			}
		}
	}
}

// write puts the ranker into a snapshot, with its measures.
func (r *ranker) write(e *encoder) {
	e.uint(heads)
	e.uint(buckets)
	e.uint(uint64(features))
	e.uint(uint64(inputs))
	e.uint(hidden)
	for h := range r.head {
		e.uint(r.head[h].learned)
		r.head[h].each(func(c *coordinates) {
			for f := range c.w {
				e.f32(c.w[f])
				e.f32(c.g[f])
			}
		})
	}
	r.second.write(e)
}

func (n *network) write(e *encoder) {
	for f := range n.in {
		for h := range n.in[f] {
			e.f32(n.in[f][h])
			e.f32(n.inGrad[f][h])
		}
	}
	for h := range n.out {
		e.f32(n.out[h])
		e.f32(n.outGrad[h])
	}
	e.uint(n.lessons)
	e.u64(math.Float64bits(n.mean))
	e.u64(math.Float64bits(n.square))
	e.flag(n.on)
}

func (n *network) restore(d *decoder) {
	for f := range n.in {
		for h := range n.in[f] {
			n.in[f][h], n.inGrad[f][h] = d.coordinate(), d.weight()
		}
	}
	for h := range n.out {
		n.out[h], n.outGrad[h] = d.coordinate(), d.weight()
	}
	n.lessons = d.uint(math.MaxUint64)
	n.mean, n.square, n.on = d.f64(), d.f64(), d.flag()
	if !(n.mean >= -1 && n.mean <= 1 && n.square >= 0 && n.square <= 1) {
		d.fail("a gate at %g and %g", n.mean, n.square)
	}
}

// each visits all coordinates in a fixed order.
func (h *head) each(f func(*coordinates)) {
	f(&h.shared)
	for b := range h.own {
		f(&h.own[b])
	}
}

func (r *ranker) restore(d *decoder) {
	if d.uint(math.MaxUint8) != heads || d.uint(math.MaxUint8) != buckets || d.uint(math.MaxUint8) != uint64(features) ||
		d.uint(math.MaxUint8) != uint64(inputs) || d.uint(math.MaxUint8) != hidden {
		d.fail("a ranker of other measures")
		return
	}
	for h := range r.head {
		h := &r.head[h]
		h.learned = d.uint(math.MaxUint64)
		h.each(func(c *coordinates) {
			for f := range c.w {
				c.w[f], c.g[f] = d.coordinate(), d.weight()
			}
		})
		for b := range h.sum {
			h.add(b)
		}
	}
	r.second.restore(d)
}
