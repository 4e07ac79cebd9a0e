package recommend

import (
	"bufio"
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/sillage-io/sillage/libs/domain/recommend"
)

// record is a click as it stands in the file, before sessions have numbers.
type record struct {
	at   int64
	key  uint64 // of who clicked: a hash, or the line of a session file
	seq  uint32 // place in the run, so that equal times stay in the order of the file
	item uint32
	pos  int32 // in the session, where the file has one
	kind recommend.Kind
	part uint8
}

const recordBytes = 8 + 8 + 4 + 4 + 1 + 1

func (r *record) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(r.at))
	b = binary.LittleEndian.AppendUint64(b, r.key)
	b = binary.LittleEndian.AppendUint32(b, r.item)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.pos))
	return append(b, byte(r.kind), r.part)
}

func (r *record) read(b []byte) {
	word := binary.LittleEndian
	r.at, r.key = int64(word.Uint64(b)), word.Uint64(b[8:])
	r.item, r.pos = word.Uint32(b[16:]), int32(word.Uint32(b[20:]))
	r.kind, r.part = recommend.Kind(b[24]), b[25]
}

// spool brings records into time order in memory that does not grow with them:
// so many are held and sorted at a time, runs beyond the first go to a temporary
// file, and all are merged at the end. Equal times stay in the order they came.
type spool struct {
	hold  int
	run   []record
	file  *tempFile
	ends  []int64 // of the runs in file, in bytes
	n     int64
	late  int64 // records that came after a later one
	last  int64
	mixed bool // the run is out of order
	tell  func(string)
	share func() float64 // of the input that is read; 0 where that is not known
}

func (s *spool) add(r record) error {
	if len(s.run) == s.hold {
		if err := s.spill(); err != nil {
			return err
		}
	}
	if s.n > 0 && r.at < s.last {
		s.late++
		s.mixed = true
	} else {
		s.last = r.at
	}
	r.seq = uint32(len(s.run))
	s.run = append(s.run, r)
	s.n++
	return nil
}

func (s *spool) sort() {
	if s.mixed {
		slices.SortFunc(s.run, func(a, b record) int {
			return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq))
		})
	}
	s.mixed = false
}

// spill writes the run to the file.
func (s *spool) spill() error {
	if s.file == nil {
		s.announce()
		f, err := openTemp()
		if err != nil {
			return err
		}
		s.file = f
	}
	s.sort()
	for i := range s.run {
		if err := s.file.write(s.run[i].append(s.file.room(recordBytes))); err != nil {
			return err
		}
	}
	if err := s.file.flush(); err != nil {
		return err
	}
	s.ends, s.run = append(s.ends, s.file.n), s.run[:0]
	return nil
}

// announce says that the disk is used, and about how much of it.
func (s *spool) announce() {
	if s.tell == nil {
		return
	}
	much := "as much as the clicks need"
	if share := s.share(); share > 0 {
		much = fmt.Sprintf("about %.1f GB", float64(s.n)/share*(recordBytes+tapeBytes)/1e9)
	}
	s.tell(fmt.Sprintf("more than %d clicks: the others go to temporary files in %s, %s; they are gone when this ends, however it ends", s.hold, os.TempDir(), much))
}

// each hands out all records in time order, once, and lets go of them.
func (s *spool) each(ctx context.Context, f func(record) error) error {
	defer s.close()
	if s.file == nil {
		s.sort()
		for i, r := range s.run {
			if i%4096 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if err := f(r); err != nil {
				return err
			}
		}
		return nil
	}
	if len(s.run) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.run = nil
	m := merge{}
	from := int64(0)
	for k, end := range s.ends {
		r := &sortedRun{in: bufio.NewReaderSize(io.NewSectionReader(s.file.f, from, end-from), 1<<17), number: k}
		from = end
		if err := r.next(); err != nil {
			return err
		}
		m = append(m, r)
	}
	heap.Init(&m)
	for n := 0; len(m) > 0; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := f(m[0].head); err != nil {
			return err
		}
		switch err := m[0].next(); {
		case errors.Is(err, io.EOF):
			heap.Pop(&m)
		case err != nil:
			return err
		default:
			heap.Fix(&m, 0)
		}
	}
	return nil
}

func (s *spool) close() {
	s.run = nil
	if s.file != nil {
		s.file.close()
		s.file = nil
	}
}

// sortedRun is a sorted part of a spool's file.
type sortedRun struct {
	in     *bufio.Reader
	number int
	head   record
	buf    [recordBytes]byte
}

func (r *sortedRun) next() error {
	if _, err := io.ReadFull(r.in, r.buf[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return fmt.Errorf("read a temporary file: %w", err)
	}
	r.head.read(r.buf[:])
	return nil
}

// merge is a heap of runs: the earliest record first, of equal ones that of the
// earlier run.
type merge []*sortedRun

func (m merge) Len() int      { return len(m) }
func (m merge) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m merge) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(m[i].head.at, m[j].head.at), cmp.Compare(m[i].number, m[j].number)) < 0
}
func (m *merge) Push(x any) { *m = append(*m, x.(*sortedRun)) }
func (m *merge) Pop() any {
	old := *m
	last := old[len(old)-1]
	*m = old[:len(old)-1]
	return last
}

// tape is clicks in time order, in memory while they are few, else in a temporary
// file.
type tape struct {
	hold  int
	few   []Click
	file  *tempFile
	n     int64
	items []uint32 // numbers of the items in file
}

// tapeBytes is what a click takes in the file of a tape; its item shares a word
// with its kind.
const tapeBytes = 16

func (t *tape) add(c Click) error {
	t.n++
	if t.file == nil && len(t.few) < t.hold {
		t.few = append(t.few, c)
		return nil
	}
	if t.file == nil {
		f, err := openTemp()
		if err != nil {
			return err
		}
		t.file = f
		for _, c := range t.few {
			if err := t.write(c); err != nil {
				return err
			}
		}
		t.few = nil
	}
	return t.write(c)
}

func (t *tape) write(c Click) error {
	b := binary.LittleEndian.AppendUint64(t.file.room(tapeBytes), uint64(c.At))
	b = binary.LittleEndian.AppendUint32(b, c.Session)
	return t.file.write(binary.LittleEndian.AppendUint32(b, c.Item<<2|uint32(c.Kind)))
}

// number renames items.
func (t *tape) number(items []uint32) error {
	for i := range t.few {
		t.few[i].Item = items[t.few[i].Item]
	}
	if t.file != nil {
		t.items = items
		return t.file.flush()
	}
	return nil
}

// each hands out all clicks, as often as wanted.
func (t *tape) each(f func(i int64, c Click) error) error {
	for i, c := range t.few {
		if err := f(int64(i), c); err != nil {
			return err
		}
	}
	if t.file == nil {
		return nil
	}
	in := bufio.NewReaderSize(io.NewSectionReader(t.file.f, 0, t.file.n), 1<<18)
	var b [tapeBytes]byte
	for i := range t.n {
		if _, err := io.ReadFull(in, b[:]); err != nil {
			return fmt.Errorf("read a temporary file: %w", err)
		}
		item := binary.LittleEndian.Uint32(b[12:])
		c := Click{At: int64(binary.LittleEndian.Uint64(b[:])), Session: binary.LittleEndian.Uint32(b[8:]), Item: t.items[item>>2], Kind: recommend.Kind(item & 3)}
		if err := f(i, c); err != nil {
			return err
		}
	}
	return nil
}

func (t *tape) close() {
	if t.file != nil {
		t.file.close()
		t.file = nil
	}
	t.few = nil
}

// tempFile is written once, then read. Where the system lets go of the name of an
// open file, it has none: nothing is left behind by any end, not even by a kill.
type tempFile struct {
	f   *os.File
	buf []byte
	n   int64 // bytes in the file
	own bool  // it still has its name
}

func openTemp() (*tempFile, error) {
	f, err := os.CreateTemp("", "sillage-eval-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w: the variable TMPDIR names another folder", err)
	}
	return &tempFile{f: f, buf: make([]byte, 0, 1<<18), own: os.Remove(f.Name()) != nil}, nil
}

// room returns the buffer, with room for so many bytes; write takes it back.
func (t *tempFile) room(n int) []byte {
	if cap(t.buf)-len(t.buf) < n {
		t.buf = slices.Grow(t.buf, n)
	}
	return t.buf
}

func (t *tempFile) write(b []byte) error {
	if t.buf = b; len(b) < 1<<18-64 {
		return nil
	}
	return t.flush()
}

func (t *tempFile) flush() error {
	n, err := t.f.Write(t.buf)
	t.n += int64(n)
	t.buf = t.buf[:0]
	if err != nil {
		return fmt.Errorf("write a temporary file of %.1f GB in %s: %w: the variable TMPDIR names a folder with more room", float64(t.n)/1e9, os.TempDir(), err)
	}
	return nil
}

func (t *tempFile) close() {
	_ = t.f.Close() // it was read to its end, or nobody wants it any more
	if t.own {
		_ = os.Remove(t.f.Name())
	}
}

// bits is a set of small numbers, an eighth of a byte each.
type bits []uint64

func (b *bits) set(i int64) {
	for int64(len(*b)) <= i>>6 {
		*b = append(*b, 0)
	}
	(*b)[i>>6] |= 1 << (i & 63)
}

func (b *bits) has(i int64) bool { return i>>6 < int64(len(*b)) && (*b)[i>>6]>>(i&63)&1 == 1 }

// openSession is a session that may go on.
type openSession struct {
	key            uint64
	number         uint32
	last           int64 // time of its last click
	click          int64 // number of that
	earlier, later *openSession
}

// openSessions are those that may go on, in the order of their last clicks.
type openSessions struct {
	silence  int64 // that ends one
	at       map[uint64]*openSession
	ring     openSession // between its latest and its earliest
	spare    []*openSession
	sessions uint32 // begun so far
	ended    func(*openSession)
}

func newOpenSessions(silence int64, ended func(*openSession)) *openSessions {
	o := &openSessions{silence: silence, at: map[uint64]*openSession{}, ended: ended}
	o.ring.earlier, o.ring.later = &o.ring, &o.ring
	return o
}

// click returns the number of the session that a click belongs to.
func (o *openSessions) click(key uint64, at, n int64) uint32 {
	o.until(at)
	s := o.at[key]
	if s == nil {
		if k := len(o.spare); k > 0 {
			s, o.spare = o.spare[k-1], o.spare[:k-1]
		} else {
			s = new(openSession)
		}
		s.key, s.number = key, o.sessions
		o.sessions++
		o.at[key] = s
	} else {
		s.earlier.later, s.later.earlier = s.later, s.earlier
	}
	s.last, s.click = at, n
	s.earlier, s.later = o.ring.earlier, &o.ring
	s.earlier.later, o.ring.earlier = s, s
	return s.number
}

// until ends the sessions that have been silent for too long.
func (o *openSessions) until(now int64) {
	for s := o.ring.later; s != &o.ring && now-s.last > o.silence; s = o.ring.later {
		o.ring.later, s.later.earlier = s.later, &o.ring
		delete(o.at, s.key)
		o.ended(s)
		o.spare = append(o.spare, s)
	}
}

// end ends all.
func (o *openSessions) end() {
	for s := o.ring.later; s != &o.ring; s = s.later {
		o.ended(s)
	}
	o.at, o.spare = nil, nil
}
