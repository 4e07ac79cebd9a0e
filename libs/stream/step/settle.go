package step

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// settling is a clock's advance that is folded entity by entity.
type settling struct {
	names []string           // who is due, in key order
	facts []*waiting         // of these, in the same order
	upto  map[string]Instant // by shop
	// The clocks before the record: written with all parts but the last, so
	// that a second reading finds the record new.
	before times
}

// times is what a control record changes of a partition's own state.
type times struct {
	clocks  clocks
	imports map[string]*ImportCount
}

// times is a copy of what a control record may change.
func (m *meta) times() times {
	t := times{clocks: m.clocks, imports: make(map[string]*ImportCount, len(m.Imports))}
	t.clocks.Wall = maps.Clone(m.Wall)
	t.clocks.Shops = make(map[string]*shopState, len(m.Shops))
	for name, s := range m.Shops {
		c := *s
		c.Sources = maps.Clone(s.Sources)
		c.Unobserved = slices.Clone(s.Unobserved)
		t.clocks.Shops[name] = &c
	}
	t.clocks.Unobserved = slices.Clone(m.Unobserved)
	for name, i := range m.Imports {
		c := *i
		t.imports[name] = &c
	}
	return t
}

// control folds a tick or a mark: time moves.
func (p *Partition[S]) control(r *record.Record, h *header[S]) bool {
	before := p.meta.times()
	shops, err := p.advance(r, h)
	if err != nil {
		p.dead(r, err)
		return true
	}
	if shops == nil {
		p.noted(h)
		return true
	}
	p.settling = p.due(shops)
	p.settling.before = before
	return p.settle(r)
}

// noted keeps a control record's position, with its last part.
func (p *Partition[S]) noted(h *header[S]) {
	if h.derived {
		p.note(h.source, h.position)
	}
}

// advance returns the shops whose clock a control record moves, with their
// new clock; nil where it says nothing new.
func (p *Partition[S]) advance(r *record.Record, h *header[S]) (map[string]Instant, error) {
	p.meta.cached = nil // what was not observed may be more, or concern more
	source := p.cfg.Partition
	if h.derived {
		source = h.position.Partition
	}
	switch h.fact.Type {
	case TypeTick:
		var t eventv1.Tick
		if err := proto.Unmarshal(r.Value, &t); err != nil {
			return nil, fmt.Errorf("decode tick: %w", err)
		}
		at := Instant(t.TimeUs)
		wall, heard := p.meta.Wall[source]
		if heard && at <= wall {
			return nil, nil
		}
		if p.cfg.Client && at > FromMillis(r.AppendTime)+5*60*1_000_000 {
			p.meta.Counts.Unknown++
			return nil, nil
		}
		p.meta.Wall[source] = at
		if p.cfg.Client && heard && at-wall > outageGap {
			p.meta.Unobserved = union(append(p.meta.Unobserved, Interval{From: wall, To: at}))
		}
		if t.UnobservedToUs > 0 {
			p.meta.Unobserved = union(append(p.meta.Unobserved, Interval{From: Instant(t.UnobservedFromUs), To: Instant(t.UnobservedToUs)}))
		}
	case TypeImport:
		var m eventv1.ImportMark
		if err := proto.Unmarshal(r.Value, &m); err != nil {
			return nil, fmt.Errorf("decode import mark: %w", err)
		}
		count := p.count(m.Shop, m.ImportId)
		if p.cfg.Client {
			if m.Sequence <= count.Sequence {
				count.Duplicates++
				p.meta.Counts.Duplicates++
				return nil, nil
			}
		}
		count.Sequence, count.Line = max(count.Sequence, m.Sequence), max(count.Line, m.Line)
		shop := p.meta.shop(m.Shop)
		if !shop.Imported {
			shop.Imported, shop.Sources = true, map[int32]sourceClock{}
			shop.Clock = never
		}
		src, ok := shop.Sources[source]
		if !ok {
			src.Clock = never
		}
		switch m.Step {
		case eventv1.ImportMark_STEP_BEGUN:
			src.Mode = ModeImporting
		case eventv1.ImportMark_STEP_TICK:
			src.Mode, src.Clock = ModeImporting, max(src.Clock, Instant(m.TimeUs))
		case eventv1.ImportMark_STEP_ENDED:
			src.Mode, src.Clock = ModeResting, max(src.Clock, Instant(m.TimeUs))
			count.Ended = true
		default:
			return nil, fmt.Errorf("import mark of unknown step %d", m.Step)
		}
		shop.Sources[source] = src
	case TypeShop:
		var m eventv1.ShopMark
		if err := proto.Unmarshal(r.Value, &m); err != nil {
			return nil, fmt.Errorf("decode shop mark: %w", err)
		}
		shop := p.meta.shop(m.Shop)
		if !shop.Imported || shop.Sources[source].Mode == ModeLive {
			return nil, nil
		}
		src := shop.Sources[source]
		if from, to := src.Clock, Instant(m.TimeUs); to-from > outageGap {
			shop.Unobserved = union(append(shop.Unobserved, Interval{From: from, To: to}))
		}
		src.Mode, src.Clock = ModeLive, max(src.Clock, Instant(m.TimeUs))
		shop.Sources[source] = src
		shop.Since = max(shop.Since, Instant(m.TimeUs))
	}
	moved := map[string]Instant{}
	for _, name := range p.meta.names() {
		if now := p.meta.now(p.meta.Shops[name]); now > p.meta.Shops[name].Clock {
			moved[name] = now
		}
	}
	return moved, nil
}

// due lists, in key order, the entities with something before the new clocks.
func (p *Partition[S]) due(moved map[string]Instant) *settling {
	s := &settling{upto: moved}
	var woken []string
	// The order of names: a shop's name ends with the slash.
	shops := slices.SortedFunc(maps.Keys(moved), func(a, b string) int { return strings.Compare(a+"/", b+"/") })
	for _, shop := range shops {
		upto := moved[shop]
		if q := p.facts[shop]; q != nil {
			p.sorting = p.sorting[:0]
			for w := q.take(upto); w != nil; w = q.take(upto) {
				p.sorting = append(p.sorting, key8(w, len(shop)+1))
			}
			slices.SortFunc(p.sorting, keyedOrder)
			s.facts = slices.Grow(s.facts, len(p.sorting))
			for i := range p.sorting {
				s.facts = append(s.facts, p.sorting[i].waiting)
			}
			clear(p.sorting)
		}
		if q := p.alarms[shop]; q != nil {
			for a, ok := q.take(upto); ok; a, ok = q.take(upto) {
				if ent := p.entities[a.key]; ent != nil && ent.wake == a.due {
					woken = append(woken, a.key)
				}
			}
		}
	}
	for i, w := range s.facts {
		if i == 0 || w.name != s.facts[i-1].name {
			s.names = append(s.names, w.name)
		}
	}
	if woken != nil {
		s.names = append(s.names, woken...)
		slices.Sort(s.names)
		s.names = slices.Compact(s.names)
	}
	return s
}

// settle lives the lives of the entities that are due, one after the other,
// up to the new clocks; then the clocks move, and are passed on.
func (p *Partition[S]) settle(r *record.Record) bool {
	s := p.settling
	for len(s.names) > 0 {
		name, n := s.names[0], 0
		for n < len(s.facts) && s.facts[n].name == name {
			n++
		}
		facts := s.facts[:n]
		s.names, s.facts = s.names[1:], s.facts[n:]
		key, _ := splitKey(name)
		if p.keyDone == "" || name > p.keyDone {
			p.live(name, key, facts, s.upto[key.Shop])
			p.keyDone, p.ordinal = name, p.eff.source.Ordinal
		}
		for _, w := range facts {
			w.done = true
			p.waits--
			if w.kept {
				p.kept--
			}
		}
		if len(s.names) > 0 && (len(p.dirty) >= p.cfg.MaxDirty || len(p.eff.outs) >= p.cfg.MaxOuts) {
			return false
		}
	}
	p.settling = nil
	for shop, upto := range s.upto {
		p.meta.Shops[shop].Clock = upto
	}
	h := p.readHead(r)
	p.noted(h)
	p.passOn(r, h)
	return true
}

// live folds one entity's facts and wake-ups in order of time, facts first.
func (p *Partition[S]) live(name string, key Key, facts []*waiting, upto Instant) {
	ent := p.entities[name]
	for _, w := range facts {
		if ent == nil {
			ent = p.entity(name, key)
		}
		p.wakeUntil(ent, w.effective)
		if ent.gone { // dropped by a wake-up: this is a new life
			ent = p.entity(name, key)
		}
		if err := p.record(ent, &w.fact, w.effective); err != nil {
			p.deadFact(w, err)
		}
		if ent.gone {
			ent = nil
		}
	}
	if ent != nil {
		p.wakeUntil(ent, upto)
	}
}

// passOn appends a control record to every partition of the topics behind.
func (p *Partition[S]) passOn(r *record.Record, h *header[S]) {
	if len(p.cfg.PassTo) == 0 {
		return
	}
	value := r.Value
	if h.fact.Type == TypeTick {
		var t eventv1.Tick
		if proto.Unmarshal(r.Value, &t) != nil {
			return
		}
		at := Instant(t.TimeUs)
		gap := p.meta.Unobserved
		if n := len(gap); n > 0 && gap[n-1].To == at {
			t.UnobservedFromUs, t.UnobservedToUs = int64(gap[n-1].From), int64(gap[n-1].To)
		} else if at/TickPeriod == p.meta.Passed/TickPeriod {
			return // at most one a period, whatever the number of collectors
		}
		p.meta.Passed = at
		value, _ = proto.MarshalOptions{Deterministic: true}.Marshal(&t)
	}
	for _, to := range p.cfg.PassTo {
		for i := range to.Partitions {
			p.eff.outs = append(p.eff.outs, pending{
				out: record.Out{Topic: to.Topic, Partition: i, Value: value, Headers: []record.Header{
					{Key: record.HeaderSpecVersion, Value: []byte("1.0")},
					{Key: record.HeaderID, Value: []byte("tick/" + strconv.Itoa(int(p.cfg.Partition)) + "/" + strconv.FormatInt(r.Offset, 10))},
					{Key: record.HeaderType, Value: []byte(h.fact.Type)},
					{Key: record.HeaderSource, Value: []byte("/sillage")},
					{Key: record.HeaderPosition, Value: []byte(p.eff.source.String())},
				}},
				offset: r.Offset,
			})
			p.eff.source.Ordinal++
		}
	}
}
