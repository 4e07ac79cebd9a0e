package step

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// ShopStatus is a shop's time in a partition, for people.
type ShopStatus struct {
	Mode    ShopMode
	Clock   Instant // never heard: 0
	HeldBy  int32   // the source that holds the clock back
	Sources int
}

// PartitionStatus is what an owner knows of its partition.
type PartitionStatus struct {
	Counts     Counts
	Entities   int
	Waiting    int
	Shops      map[string]ShopStatus
	Imports    map[string]ImportCount
	Incomplete []int64
}

// Restore takes over what the store holds, in place of all in memory.
func (p *Partition[S]) Restore(s State, f Fence) error {
	if p.cfg.Foreign != nil && (p.cfg.Order != OnArrival || p.cfg.Client) {
		return errors.New("a topic that others write has no clock: its records are folded on arrival")
	}
	p.reset()
	p.next, p.anchor, p.keyDone, p.ordinal = f.Next, f.Anchor, f.KeyDone, f.Ordinal
	for _, e := range s.Entities {
		if e.Key == MetaKey {
			if err := json.Unmarshal(e.Value, &p.meta); err != nil {
				return fmt.Errorf("read the partition's own state: %w", err)
			}
			p.meta.init()
			continue
		}
		if shop, ok := shopOfModel(e.Key); ok {
			if err := p.models.restore(shop, e.Value); err != nil {
				return fmt.Errorf("read the model of shop %q: %w", shop, err)
			}
			continue
		}
		ent := &entity[S]{name: e.Key}
		ent.key, _ = splitKey(e.Key)
		if err := p.unmarshal(e.Value, ent); err != nil {
			return fmt.Errorf("read entity %q: %w", e.Key, err)
		}
		p.entities[e.Key] = ent
		p.index(e.Key, ent.wake)
	}
	for _, l := range s.Logs {
		switch {
		case l.Name == archiveLog:
			continue
		case strings.HasPrefix(l.Name, "dead."):
			if err := p.restoreLetters(l.Name, l.Data); err != nil {
				return err
			}
			continue
		}
		hour, err := strconv.ParseInt(l.Name, 10, 64)
		if err != nil {
			return fmt.Errorf("read dedupe log %q: %w", l.Name, err)
		}
		ids := make([]uint64, 0, len(l.Data)/8)
		for data := l.Data; len(data) >= 8; data = data[8:] {
			id := binary.LittleEndian.Uint64(data)
			ids = append(ids, id)
			p.seen[id] = struct{}{}
		}
		p.hours[hour] = ids
	}
	for _, l := range s.Logs {
		if l.Name == archiveLog { // which is judged by all the rest
			return p.restoreArchive(l.Data)
		}
	}
	return nil
}

// unmarshal reads an entity: wake-up, last effective time, state.
func (p *Partition[S]) unmarshal(data []byte, e *entity[S]) error {
	wake, last, state, err := splitEntity(data)
	if err != nil {
		return err
	}
	e.wake, e.last = wake, last
	return p.codec.Unmarshal(state, &e.state)
}

const entityVersion = 1

func splitEntity(data []byte) (wake, last Instant, state []byte, err error) {
	if len(data) < 3 || data[0] != entityVersion {
		return 0, 0, nil, errors.New("not an entity of a known version")
	}
	w, n := binary.Varint(data[1:])
	if n <= 0 {
		return 0, 0, nil, errors.New("entity is cut off")
	}
	l, m := binary.Varint(data[1+n:])
	if m <= 0 {
		return 0, 0, nil, errors.New("entity is cut off")
	}
	return Instant(w), Instant(l), data[1+n+m:], nil
}

// StateOf returns the fold's part of an entity's bytes, for who reads the
// store beside the owner.
func StateOf(data []byte) ([]byte, error) {
	_, _, state, err := splitEntity(data)
	return state, err
}

func (p *Partition[S]) marshal(e *entity[S]) []byte {
	a := &p.values
	a.room(p.largest)
	from := len(a.free)
	a.free = append(a.free, entityVersion)
	a.free = binary.AppendVarint(a.free, int64(e.wake))
	a.free = binary.AppendVarint(a.free, int64(e.last))
	a.free = p.codec.Append(a.free, &e.state)
	p.largest = max(p.largest, len(a.free)-from)
	return a.cut(from)
}

// Reread takes records of [low, next) again: what still waits, waits again.
func (p *Partition[S]) Reread(recs []record.Record) error {
	for i := range recs {
		r := &recs[i]
		if r.Offset >= p.next {
			return nil
		}
		head := p.readHead(r)
		if head.err != nil || head.control || head.requeued != "" || !p.wants(head) {
			continue
		}
		shop := p.meta.Shops[head.key.Shop]
		if shop != nil && head.effective < shop.Clock {
			continue
		}
		at := string(r.Header(record.HeaderPosition))
		if p.reading[at] {
			continue
		}
		p.reading[at] = true
		p.wait(head, r, false)
	}
	return nil
}

// Gap notes that the log has lost records at offset; folding goes on there.
func (p *Partition[S]) Gap(offset int64) {
	p.next = offset
	p.keyDone, p.ordinal = "", 0
	p.meta.IncompleteSince = append(p.meta.IncompleteSince, offset)
}

// batch closes the batch in hand.
func (p *Partition[S]) batch(records int) Batch {
	if p.last != nil {
		p.appended = max(p.appended, p.last.AppendTime)
		p.anchor, p.last = Anchor(p.last), nil
	}
	var archive []LogAppend
	if p.settling == nil { // between two parts nothing moves
		archive = p.archiveOld()
	}
	b := Batch{Next: p.next, Low: p.low(), Anchor: p.anchor, KeyDone: p.keyDone, Ordinal: p.ordinal, Records: records}
	if p.settling == nil {
		b.KeyDone, b.Ordinal = "", 0
	}
	if !p.cfg.Offline {
		b.Write.Entities = make([]Entity, 0, len(p.dirty)+1)
	}
	for _, ent := range p.dirty {
		ent.dirty = false
		switch {
		case p.cfg.Offline:
		case !ent.gone:
			b.Write.Entities = append(b.Write.Entities, Entity{Key: ent.name, Value: p.marshal(ent)})
		case p.entities[ent.name] == nil: // nor is there a later one of that name
			b.Write.Entities = append(b.Write.Entities, Entity{Key: ent.name})
		}
	}
	clear(p.dirty)
	p.meta.Counts.Published += int64(len(p.eff.outs))
	b.Outs, b.Offsets = make([]record.Out, len(p.eff.outs)), make([]int64, len(p.eff.outs))
	for i := range p.eff.outs {
		b.Outs[i], b.Offsets[i] = p.eff.outs[i].out, p.eff.outs[i].offset
	}
	if !p.cfg.Offline {
		p.write(&b.Write, archive)
	}
	p.models.changed = nil
	p.newLetters, p.oldLetters = map[int64][]byte{}, nil
	p.dirty, p.eff.outs, p.newSeen, p.oldSeen = p.dirty[:0], nil, map[int64][]byte{}, nil
	return b
}

// write adds to w what belongs to no entity.
func (p *Partition[S]) write(w *Write, archive []LogAppend) {
	w.Entities = append(w.Entities, Entity{Key: MetaKey, Value: p.metaBytes()})
	w.Entities = append(w.Entities, p.models.changed...)
	for _, hour := range p.meta.Hours {
		if data := p.newSeen[hour]; len(data) > 0 {
			w.Logs = append(w.Logs, LogAppend{Name: strconv.FormatInt(hour, 10), Data: data})
		}
	}
	for _, hour := range p.oldSeen {
		w.Logs = append(w.Logs, LogAppend{Name: strconv.FormatInt(hour, 10)})
	}
	for _, at := range p.meta.Weeks {
		if data := p.newLetters[at]; len(data) > 0 {
			w.Logs = append(w.Logs, LogAppend{Name: letterLog(at), Data: data})
		}
	}
	for _, at := range p.oldLetters {
		w.Logs = append(w.Logs, LogAppend{Name: letterLog(at)})
	}
	w.Logs = append(w.Logs, archive...)
}

func (p *Partition[S]) metaBytes() []byte {
	m := p.meta
	if p.settling != nil {
		m.clocks, m.Imports = p.settling.before.clocks, p.settling.before.imports
	}
	data, err := json.Marshal(&m)
	if err != nil {
		// Maps of strings and numbers always marshal.
		panic(fmt.Sprintf("marshal a partition's own state: %v", err))
	}
	return data
}

// low is the oldest offset that still waits.
func (p *Partition[S]) low() int64 {
	if w := p.offsets.head(); w != nil {
		return min(w.fact.Offset, p.next)
	}
	return p.next
}

// Settled is called when the batch is in the store.
func (p *Partition[S]) Settled() {
	if len(p.reading) > 0 { // after a claim: the room of many goes with them
		p.reading = map[string]bool{}
	}
}

// Dump returns the whole state in key order, as the store holds it between
// two batches: nothing where nothing has come.
func (p *Partition[S]) Dump() []Entity {
	if p.next == 0 && p.keyDone == "" {
		return nil
	}
	all := make([]Entity, 0, len(p.entities)+1)
	for name, ent := range p.entities {
		all = append(all, Entity{Key: name, Value: p.marshal(ent)})
	}
	all = append(all, p.models.all()...)
	all = append(all, Entity{Key: MetaKey, Value: p.metaBytes()})
	sort.Slice(all, func(i, j int) bool { return all[i].Key < all[j].Key })
	return all
}

// Logs returns the dedupe ids by hour, ids in order.
func (p *Partition[S]) Logs() []LogAppend {
	var logs []LogAppend
	for _, hour := range p.meta.Hours {
		ids := slices.Sorted(slices.Values(p.hours[hour]))
		data := make([]byte, 0, len(ids)*8)
		for _, id := range ids {
			data = binary.LittleEndian.AppendUint64(data, id)
		}
		logs = append(logs, LogAppend{Name: strconv.FormatInt(hour, 10), Data: data})
	}
	logs = append(logs, p.letterLogs()...)
	if p.kept > 0 {
		logs = append(logs, p.archive(func(w *waiting) bool { return w.kept }))
	}
	return logs
}

// Status tells how the partition stands. It reads the partition's memory: the
// owner calls it between two steps.
func (p *Partition[S]) Status() PartitionStatus {
	st := p.meta.status()
	st.Entities, st.Waiting = len(p.entities), p.waits
	return st
}

// StatusOf reads, from a partition's own state as the store keeps it (the
// entity called MetaKey), how the partition stands; what only its owner knows
// is left out.
func StatusOf(data []byte, cfg Config) (PartitionStatus, error) {
	var m meta
	if err := json.Unmarshal(data, &m); err != nil {
		return PartitionStatus{}, fmt.Errorf("read the partition's own state: %w", err)
	}
	m.init()
	m.sources, m.own, m.single = cfg.Sources, cfg.Partition, cfg.Client
	return m.status(), nil
}

func (m *meta) status() PartitionStatus {
	st := PartitionStatus{
		Counts: m.Counts, Shops: map[string]ShopStatus{}, Imports: map[string]ImportCount{}, Incomplete: m.IncompleteSince,
	}
	for name, shop := range m.Shops {
		if shop.Clock == never && len(shop.Sources) == 0 {
			continue // nobody has told the time: a fitter's topic has no ticks
		}
		st.Shops[name] = ShopStatus{Mode: shop.mode(), Clock: max(shop.Clock, 0), HeldBy: m.heldBy(shop), Sources: len(shop.Sources)}
	}
	for name, c := range m.Imports {
		st.Imports[name] = *c
	}
	return st
}

// heldBy is the source whose clock is lowest.
func (m *meta) heldBy(shop *shopState) int32 {
	if m.single {
		return m.own
	}
	held, least := int32(0), Instant(1<<62)
	for i := range int32(m.sources) {
		at, heard := m.Wall[i]
		if !heard {
			at = never
		}
		if shop.Imported {
			if src, ok := shop.Sources[i]; !ok {
				at = never
			} else if src.Mode == ModeLive {
				at = max(at, src.Clock)
			} else {
				at = src.Clock
			}
		}
		if at < least {
			held, least = i, at
		}
	}
	return held
}
