package step

import (
	"encoding/binary"
	"maps"
	"slices"
	"sort"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// Envelope is envelope, for the tests.
type Envelope struct {
	MessageID, Shop, KeyID string
	EventTime              int64
	Imported               bool
	ImportID               string
	Sequence, NotBefore    int64
	Lines                  int64
}

// ReadEnvelope is readEnvelope, for the tests.
func ReadEnvelope(b []byte) (Envelope, error) {
	e, err := readEnvelope(b)
	return Envelope{e.messageID, e.shop, e.keyID, e.eventTime, e.imported, e.importID, e.sequence, e.notBefore, e.lines}, err
}

// Stopping tells whether the machine was told to stop.
func (m *Machine) Stopping() bool { return m.stop }

// Idle tells whether the machine looks at its fence because nothing comes.
func (m *Machine) Idle() bool { return m.op == OpArm && m.after == OpFetch }

// Clone copies a machine with all that it drives, so that a search can try each
// of several things that may happen next.
func (m *Machine) Clone(folder Folder) *Machine {
	c := *m
	c.folder = folder
	return &c
}

// Encode appends what the machine's future depends on: of a claim that is lost,
// nothing.
func (m *Machine) Encode(b []byte) []byte {
	b = append(b, byte(m.op), byte(m.after), flag(m.stop), byte(m.claims))
	b = append(append(b, m.seed...), 0)
	if m.op == OpBackoff || m.op == OpDone || m.op == OpHalt || m.op == OpArm && m.after == 0 {
		return b
	}
	b = append(b, flag(m.fresh), flag(m.marked), byte(m.idle))
	for _, s := range []string{m.armed, m.fence.String(), m.mark.String()} {
		b = append(append(b, s...), 0)
	}
	for _, n := range []int64{m.producer.ID, int64(m.producer.Epoch), m.start, m.end, m.read, m.next, int64(len(m.rest))} {
		b = binary.AppendVarint(b, n)
	}
	if m.op == OpPublish {
		b = binary.AppendVarint(b, int64(len(m.batch.Outs)))
	}
	if m.op == OpPublish || m.op == OpClaim || m.op == OpApply || m.op == OpRelease || m.after != 0 {
		for _, s := range []string{m.write.Base, m.write.Target} {
			b = append(append(b, s...), 0)
		}
	}
	return b
}

// Loaded tells whether the partition holds what the machine has loaded.
func (m *Machine) Loaded() bool {
	return m.op > OpLoad && m.op != OpBackoff && m.op != OpDone && m.op != OpHalt || m.op == OpArm && m.after != 0 && m.after != OpLoad
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// Clone copies a partition. S is a plain value.
func (p *Partition[S]) Clone() *Partition[S] {
	c := *p
	at := p.meta.times()
	c.meta.clocks, c.meta.Imports = at.clocks, at.imports
	c.meta.cached, c.meta.lastShop = nil, nil
	c.meta.Hours = slices.Clone(p.meta.Hours)
	c.meta.Highest = make(map[string]*record.Position, len(p.meta.Highest))
	for name, at := range p.meta.Highest {
		one := *at
		c.meta.Highest[name] = &one
	}
	c.source, c.sources = nil, make(map[string]*source, len(p.sources))
	for name, s := range p.sources {
		one := *s
		one.highest = c.meta.Highest[name]
		c.sources[name] = &one
	}
	c.meta.IncompleteSince = slices.Clone(p.meta.IncompleteSince)
	c.lastImport.count = nil
	c.entities = make(map[string]*entity[S], len(p.entities))
	for name, e := range p.entities {
		one := *e
		c.entities[name] = &one
	}
	c.models.kept, c.models.changed = maps.Clone(p.models.kept), slices.Clone(p.models.changed)
	c.alarms = make(map[string]*alarmQueue, len(p.alarms))
	for shop, q := range p.alarms {
		c.alarms[shop] = &alarmQueue{heap: slices.Clone(q.heap)}
	}
	copies := map[*waiting]*waiting{}
	again := func(w *waiting) *waiting {
		if w == nil {
			return nil
		}
		if copies[w] == nil {
			one := *w
			copies[w] = &one
		}
		return copies[w]
	}
	c.facts = make(map[string]*factQueue, len(p.facts))
	for shop, q := range p.facts {
		one := &factQueue{}
		for _, w := range q.heap {
			one.heap = append(one.heap, queued{w.effective, again(w.waiting)})
		}
		c.facts[shop] = one
	}
	c.offsets = offsetQueue{taken: p.offsets.taken}
	for _, w := range p.offsets.items {
		c.offsets.items = append(c.offsets.items, again(w))
	}
	if s := p.settling; s != nil {
		one := *s
		one.names, one.facts = slices.Clone(s.names), nil
		for _, w := range s.facts {
			one.facts = append(one.facts, again(w))
		}
		c.settling = &one
	}
	c.reading, c.seen, c.hours = maps.Clone(p.reading), maps.Clone(p.seen), maps.Clone(p.hours)
	c.letters, c.newLetters, c.oldLetters = maps.Clone(p.letters), maps.Clone(p.newLetters), slices.Clone(p.oldLetters)
	c.held, c.sorting = arena{}, nil
	c.newSeen, c.oldSeen, c.dirty = maps.Clone(p.newSeen), slices.Clone(p.oldSeen), nil
	for _, e := range p.dirty {
		c.dirty = append(c.dirty, c.entities[e.name])
	}
	c.values, c.head, c.foreign = arena{}, header[S]{}, Foreign{}
	c.eff.outs, c.eff.kinds, c.eff.bytes, c.eff.headers = slices.Clone(p.eff.outs), nil, arena{}, nil
	return &c
}

// Encode appends what the partition's future depends on.
func (p *Partition[S]) Encode(b []byte) []byte {
	for _, e := range p.Dump() {
		b = append(b, e.Key...)
		b = append(b, 0)
		b = append(b, e.Value...)
	}
	for _, n := range []int64{p.next, int64(p.ordinal), int64(p.waits), int64(len(p.eff.outs)), int64(len(p.dirty))} {
		b = binary.AppendVarint(b, n)
	}
	b = append(b, p.keyDone...)
	var waits []string
	for _, q := range p.facts {
		for _, w := range q.heap {
			waits = append(waits, w.name+"@"+string(record.Position{Offset: w.fact.Offset}.Append(nil)))
		}
	}
	sort.Strings(waits)
	for _, w := range waits {
		b = append(b, w...)
	}
	if p.settling != nil {
		for _, k := range p.settling.names {
			b = append(b, k...)
		}
	}
	reading := make([]string, 0, len(p.reading))
	for at := range p.reading {
		reading = append(reading, at)
	}
	sort.Strings(reading)
	for _, at := range reading {
		b = append(b, at...)
	}
	return b
}
