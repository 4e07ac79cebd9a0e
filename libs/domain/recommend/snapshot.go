package recommend

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
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
	snapshotVersion = 1
)

// encoder writes little-endian values and sums what it wrote.
type encoder struct {
	w   *bufio.Writer
	sum hash.Hash32
	n   int64
	buf [binary.MaxVarintLen64]byte
	err error
}

func (e *encoder) bytes(b []byte) {
	if e.err != nil {
		return
	}
	n, err := e.w.Write(b)
	e.n, e.err = e.n+int64(n), err
	e.sum.Write(b)
}

func (e *encoder) uint(v uint64) { e.bytes(binary.AppendUvarint(e.buf[:0], v)) }
func (e *encoder) int(v int64)   { e.bytes(binary.AppendVarint(e.buf[:0], v)) }
func (e *encoder) float(v float64) {
	e.bytes(binary.LittleEndian.AppendUint64(e.buf[:0], math.Float64bits(v)))
}

func (e *encoder) float32(v float32) {
	e.bytes(binary.LittleEndian.AppendUint32(e.buf[:0], math.Float32bits(v)))
}

func (e *encoder) text(s string) {
	e.uint(uint64(len(s)))
	e.bytes([]byte(s))
}

func (e *encoder) flag(b bool) {
	if b {
		e.uint(1)
	} else {
		e.uint(0)
	}
}

// WriteTo writes a snapshot: a magic word, a version, the content, and a CRC-32C
// of it all. It only reads the index. Equal indexes write equal bytes, and so
// does an index restored from a snapshot under the same Config.
func (x *Index) WriteTo(w io.Writer) (int64, error) {
	e := &encoder{w: bufio.NewWriterSize(w, 1<<16), sum: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	e.bytes([]byte(snapshotMagic))
	e.uint(snapshotVersion)
	for _, d := range x.decays() {
		e.float(d.tau)
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
	held := len(x.sessKey)
	oldest := 0
	if held == x.cfg.MaxSessions {
		oldest = int(x.nextSeq) % x.cfg.MaxSessions
	}
	e.uint(uint64(held))
	for k := range held {
		s := (oldest + k) % held
		e.uint(x.sessKey[s])
		e.int(x.sessLast[s])
		e.uint(uint64(x.sessLen[s]))
		for _, i := range x.sessItem[s*x.cfg.SessionLength : s*x.cfg.SessionLength+int(x.sessLen[s])] {
			e.uint(uint64(i))
		}
	}

	e.uint(uint64(len(x.items)))
	for i := range x.items {
		x.writeItem(e, uint32(i), oldest, held)
	}
	e.uint(uint64(len(x.spare)))
	for _, i := range x.spare {
		e.uint(uint64(i))
	}
	e.uint(uint64(x.cfg.TopItems))
	for w := range x.top {
		e.uint(uint64(len(x.top[w])))
		for _, i := range x.top[w] {
			e.uint(uint64(i))
		}
	}
	sum := e.sum.Sum32()
	e.bytes(binary.LittleEndian.AppendUint32(nil, sum))
	if e.err == nil {
		e.err = e.w.Flush()
	}
	if e.err != nil {
		return e.n, fmt.Errorf("write recommender snapshot: %w", e.err)
	}
	return e.n, nil
}

func (x *Index) writeItem(e *encoder, i uint32, oldest, held int) {
	it := &x.items[i]
	e.flag(it.used)
	if !it.used {
		return
	}
	e.text(x.ids[i])
	e.text(x.names[i])
	e.uint(uint64(it.category))
	e.uint(uint64(it.brand))
	e.int(it.price)
	e.flag(it.inactive)
	e.int(it.seen)
	e.uint(uint64(it.sessions))
	for _, c := range it.count {
		e.float(c)
	}
	live := 0 // newest first, the sessions still in the log
	for live < int(it.post.n) {
		if _, ok := x.slot(x.posts.at(&it.post, live)); !ok {
			break
		}
		live++
	}
	e.uint(uint64(live))
	for k := live - 1; k >= 0; k-- {
		s, _ := x.slot(x.posts.at(&it.post, k))
		e.uint(uint64((s - oldest + held) % held))
	}
	for r := range it.near {
		l, near := &it.near[r], &x.near[r]
		e.uint(uint64(l.n))
		for k := l.off; k < l.off+uint32(l.n); k++ {
			e.uint(uint64(near.to[k]))
			e.float32(near.w[k])
			e.uint(uint64(near.n[k]))
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

// decoder reads what an encoder wrote; after the first error it returns zeros.
type decoder struct {
	r   *bufio.Reader
	sum hash.Hash32
	err error
	buf [8]byte
	one [1]byte
}

func (d *decoder) fail(format string, a ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrSnapshot}, a...)...)
	}
}

func (d *decoder) bytes(b []byte) {
	if d.err != nil {
		clear(b)
		return
	}
	if _, err := io.ReadFull(d.r, b); err != nil {
		clear(b)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			d.fail("it ends early")
		} else {
			d.err = err
		}
		return
	}
	d.sum.Write(b)
}

// ReadByte makes the decoder fit for binary.ReadUvarint.
func (d *decoder) ReadByte() (byte, error) {
	d.bytes(d.one[:])
	return d.one[0], d.err
}

func (d *decoder) uint(most uint64) uint64 {
	if d.err != nil {
		return 0
	}
	v, err := binary.ReadUvarint(d)
	if err != nil && d.err == nil {
		d.fail("a number is too long")
	}
	if v > most {
		d.fail("%d where at most %d may stand", v, most)
	}
	if d.err != nil {
		return 0
	}
	return v
}

func (d *decoder) int() int64 {
	if d.err != nil {
		return 0
	}
	v, err := binary.ReadVarint(d)
	if err != nil && d.err == nil {
		d.fail("a number is too long")
	}
	return v
}

// float reads a finite number that is not negative.
func (d *decoder) float() float64 {
	d.bytes(d.buf[:8])
	v := math.Float64frombits(binary.LittleEndian.Uint64(d.buf[:8]))
	if !(v >= 0 && v <= math.MaxFloat64) {
		d.fail("a weight of %g", v)
		return 0
	}
	return v
}

func (d *decoder) float32() float32 {
	d.bytes(d.buf[:4])
	v := math.Float32frombits(binary.LittleEndian.Uint32(d.buf[:4]))
	if !(v >= 0 && v <= math.MaxFloat32) {
		d.fail("a weight of %g", v)
		return 0
	}
	return v
}

func (d *decoder) text(most uint64) string {
	b := make([]byte, d.uint(most))
	d.bytes(b)
	return string(b)
}

func (d *decoder) flag() bool { return d.uint(1) == 1 }

// ReadIndex restores a snapshot under cfg. Decay times must be those of the
// snapshot; smaller caps keep what is newest or heaviest. Bytes that are not a
// whole, unchanged snapshot give an error that wraps [ErrSnapshot], never a
// partial index.
func ReadIndex(r io.Reader, cfg Config) (*Index, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("read recommender snapshot: %w", err)
	}
	d := &decoder{r: bufio.NewReaderSize(r, 1<<16), sum: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	x := New(cfg)
	x.restore(d)
	want := d.sum.Sum32()
	d.bytes(d.buf[:4])
	if got := binary.LittleEndian.Uint32(d.buf[:4]); got != want {
		d.fail("checksum %08x, want %08x", got, want)
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
	var magic [len(snapshotMagic)]byte
	d.bytes(magic[:])
	if string(magic[:]) != snapshotMagic {
		d.fail("it does not begin with %q", snapshotMagic)
		return
	}
	if v := d.uint(math.MaxUint64); v != snapshotVersion {
		d.fail("version %d, want %d", v, snapshotVersion)
		return
	}
	for _, scale := range x.decays() {
		if tau := d.float(); tau != scale.tau {
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
	n := d.uint(1 << 26)
	for i := uint32(0); uint64(i) < n && d.err == nil; i++ {
		x.restoreItem(d, i, uint32(n), skip)
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
	x.restoreTop(d, n)
	x.check(d)
}

// restoreSessions returns how many of the oldest do not fit into the log.
func (x *Index) restoreSessions(d *decoder) (skip int) {
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
				x.sessLen[s] = uint8(p - drop + 1)
			}
		}
	}
	x.total = total
	return skip
}

func (x *Index) restoreItem(d *decoder, i, n uint32, skip int) {
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
	it.price, it.inactive, it.seen = d.int(), d.flag(), d.int()
	it.sessions = uint32(d.uint(math.MaxUint32))
	for w := range it.count {
		it.count[w] = d.float()
	}
	for range d.uint(math.MaxUint16) {
		s := int(d.uint(1<<28)) - skip
		if d.err != nil {
			return
		}
		if s >= len(x.sessKey) {
			d.fail("item %q names session %d of %d", id, s, len(x.sessKey))
			return
		}
		if s >= 0 {
			x.posts.push(&it.post, uint32(s))
		}
	}
	for r := range it.near {
		for range d.uint(math.MaxUint16) {
			to := uint32(d.uint(uint64(n)))
			w, count := d.float32(), uint32(d.uint(math.MaxUint32))
			if d.err != nil {
				return
			}
			x.near[r].append(&it.near[r], edge{to, w, count})
		}
	}
}

// restoreTop reads the top lists, or makes them anew if their length changed.
func (x *Index) restoreTop(d *decoder, n uint64) {
	size := int(d.uint(math.MaxUint16))
	for w := range x.top {
		for range d.uint(uint64(size)) {
			i := d.uint(n)
			if d.err != nil {
				return
			}
			if i >= n || !x.items[i].used || x.items[i].rank[w] != 0 {
				d.fail("a top list names item %d", i)
				return
			}
			x.top[w] = append(x.top[w], uint32(i))
			x.items[i].rank[w] = uint16(len(x.top[w]))
		}
		if size != x.cfg.TopItems {
			x.rebuildTop(Window(w))
		}
	}
}

func (x *Index) rebuildTop(w Window) {
	x.top[w] = x.top[w][:0]
	for i := range x.items {
		x.items[i].rank[w] = 0
		if x.items[i].used && x.items[i].count[w] > 0 {
			x.top[w] = append(x.top[w], uint32(i))
		}
	}
	slices.SortFunc(x.top[w], func(a, b uint32) int {
		return cmp.Or(cmp.Compare(x.items[b].count[w], x.items[a].count[w]), cmp.Compare(a, b))
	})
	x.top[w] = slices.Clone(x.top[w][:min(len(x.top[w]), x.cfg.TopItems)])
	for r, i := range x.top[w] {
		x.items[i].rank[w] = uint16(r + 1)
	}
}

// check makes sure that every item number points to an item.
func (x *Index) check(d *decoder) {
	if d.err != nil {
		return
	}
	good := func(i uint32) bool { return int(i) < len(x.items) && x.items[i].used }
	for s := range x.sessLen {
		for _, i := range x.sessItem[s*x.cfg.SessionLength : s*x.cfg.SessionLength+int(x.sessLen[s])] {
			if !good(i) {
				d.fail("a session names item %d", i)
				return
			}
		}
	}
	for i := range x.items {
		for r := range x.items[i].near {
			l := x.items[i].near[r]
			for _, to := range x.near[r].to[l.off : l.off+uint32(l.n)] {
				if !good(to) {
					d.fail("a neighbour is item %d", to)
					return
				}
			}
		}
	}
}
