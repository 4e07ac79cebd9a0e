package recommend

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
)

// Version 1 of the snapshot had no frames and no ranker, double-precision
// counters with landmarks of their own, and for views two relations: what came
// next, and what was seen together either way. It is still read, once: what is
// written is always of the newest version.

// scaleV1 is a decay of version 1, with the factor from its weights to weights at
// the latest time.
type scaleV1 struct {
	decay
	factor float64
}

func (x *Index) restoreV1(d *decoder) {
	var scales [1 + windows]scaleV1
	for i := range scales {
		scales[i].tau = d.f64()
		scales[i].landmark, scales[i].set = d.int(), d.flag()
	}
	x.total, x.latest, x.refused = d.uint(math.MaxUint64), d.int(), d.uint(math.MaxUint64)
	for i, scale := range x.decays() {
		s := &scales[i]
		if !(s.tau > 0) {
			d.fail("a decay time of %g ms", s.tau)
			return
		}
		if s.set {
			s.factor = s.worth(x.latest)
			scale.landmark, scale.set = x.latest, true
		}
	}
	for range d.uint(maxTexts) {
		t := d.text(maxID)
		if _, twice := x.texts[t]; twice {
			d.fail("category or brand %q stands twice", t)
			return
		}
		x.internText(t)
	}
	skip := x.restoreSessionsV1(d)
	n := d.uint(1 << 26)
	for i := uint32(0); uint64(i) < n && d.err == nil; i++ {
		x.restoreItemV1(d, i, uint32(n), skip, &scales)
	}
	for range d.uint(n) {
		if i := d.uint(n); d.err == nil && i < n && !x.items[i].used {
			x.spare = append(x.spare, uint32(i))
		} else {
			d.fail("an item both used and spare")
			return
		}
	}
	if d.err == nil && len(x.spare)+len(x.id) != int(n) {
		d.fail("%d items, of which %d used and %d spare", n, len(x.id), len(x.spare))
	}
	size := d.uint(math.MaxUint16)
	for range windows { // made anew below
		for range d.uint(size) {
			if d.uint(n); d.err != nil {
				return
			}
		}
	}
	x.check(d)
	if d.err != nil {
		return
	}
	for w := range windows {
		x.rebuildTop(w)
	}
	for i := range x.items {
		x.offer(uint32(i))
		x.climb(uint32(i))
	}
}

// restoreSessionsV1 returns how many of the oldest do not fit into the log.
func (x *Index) restoreSessionsV1(d *decoder) (skip int) {
	held := int(d.uint(1 << 28))
	skip = max(0, held-x.cfg.MaxSessions)
	total := x.total
	for k := 0; k < held && d.err == nil; k++ {
		key, last, n := d.uint(math.MaxUint64), d.int(), int(d.uint(255))
		if k >= skip {
			if _, twice := x.session[key]; twice {
				d.fail("session %d stands twice", key)
				return skip
			}
			x.open(key, last)
		}
		drop := max(0, n-x.cfg.SessionLength)
		for p := range n {
			i := uint32(d.uint(math.MaxUint32))
			if s := k - skip; s >= 0 && p >= drop {
				x.sessItem[s*x.cfg.SessionLength+p-drop] = i
				x.visits[s].n = uint8(p - drop + 1)
			}
		}
	}
	x.total = total
	return skip
}

func (x *Index) restoreItemV1(d *decoder, i, n uint32, skip int, scales *[1 + windows]scaleV1) {
	x.items = append(x.items, item{})
	x.ids, x.names = append(x.ids, ""), append(x.names, "")
	it := &x.items[i]
	if !d.flag() {
		return
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
		c := d.f64() * scales[1+w].factor
		if !(c >= 0 && c <= math.MaxFloat32) {
			d.fail("a count of %g", c)
			return
		}
		it.count[w] = float32(c)
	}
	for range d.uint(math.MaxUint16) {
		s := int(d.uint(1<<28)) - skip
		if d.err != nil {
			return
		}
		if s >= len(x.visits) {
			d.fail("item %q names session %d of %d", id, s, len(x.visits))
			return
		}
		if s >= 0 {
			x.posts.push(&it.post, uint32(s))
		}
	}
	next := x.edgesV1(d, n, scales[0].factor)
	together := x.edgesV1(d, n, scales[0].factor)
	for k := range together { // either way, less what came after, came before
		t := &together[k]
		t.behind, t.ahead = t.ahead, 0
		if p := slices.IndexFunc(next, func(e edge) bool { return e.to == t.to }); p >= 0 {
			t.ahead, t.behind = next[p].ahead, max(0, t.behind-next[p].ahead)
			next = slices.Delete(next, p, p+1)
		}
	}
	x.takeEdgesV1(viewed, it, together)
	x.takeEdgesV1(viewed, it, next)
	for r := cartedAfter; r < relations; r++ {
		x.takeEdgesV1(r, it, x.edgesV1(d, n, scales[0].factor))
	}
}

// edgesV1 reads one list.
func (x *Index) edgesV1(d *decoder, n uint32, factor float64) []edge {
	var list []edge
	for range d.uint(math.MaxUint16) {
		to := uint32(d.uint(uint64(n)))
		w, count := float32(float64(d.weight())*factor), uint32(d.uint(math.MaxUint32))
		if d.err != nil {
			return nil
		}
		list = append(list, edge{to, strength{ahead: w, n: count}})
	}
	return list
}

// takeEdgesV1 adds a list to a row. How much of what came later came directly
// next is not known: all of it, until it is counted.
func (x *Index) takeEdgesV1(r relation, it *item, list []edge) {
	for _, e := range list {
		if r == viewed {
			e.step = e.ahead
		}
		m := &it.out[r]
		m.step += e.step
		m.ahead += e.ahead
		m.behind += e.behind
		x.near[r].append(&it.near[r], e)
	}
}

// plain reads n bytes that are not framed.
func (d *decoder) plain(n int) {
	k := copy(d.mem, d.buf)
	b := d.mem[k:n]
	d.full(b)
	d.sum = crc32.Update(d.sum, d.table, b)
	d.buf = d.mem[:n]
}

// endV1 checks the checksum, which follows at once.
func (d *decoder) endV1() {
	want := d.sum
	var b [4]byte
	d.full(b[:])
	if got := binary.LittleEndian.Uint32(b[:]); got != want {
		d.fail("checksum %08x, want %08x", got, want)
	}
}
