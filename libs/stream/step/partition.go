package step

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream/record"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// Types of the control records that carry time.
const (
	TypeEvent  = "sillage.event.v1"
	TypeTick   = "sillage.tick.v1"
	TypeImport = "sillage.import.v1"
	TypeShop   = "sillage.shop.v1"
)

// TickPeriod is how often at most a processor passes its clock on.
const TickPeriod = Instant(1_000_000)

// outageGap is the least distance of two wall ticks that counts as an outage.
const outageGap = Instant(3600 * 1_000_000)

// dedupeHours is how long a client's message id is remembered, by append time.
const dedupeHours = 48

// Order says when a processor folds a record.
type Order int

const (
	// OnArrival folds each record when it comes. Allowed where an entity is
	// fed by one source in order, or where the fold commutes.
	OnArrival Order = iota
	// InTimeOrder holds records back until the clock has passed their
	// effective time, and folds each entity's records and wake-ups in order
	// of time.
	InTimeOrder
)

// Target is a topic that the clock is passed on to, with its partitions.
type Target struct {
	Topic      string
	Partitions int32
}

// Config says what a processor's partition is.
type Config struct {
	Processor   string // service.processor
	Topic       string
	Partition   int32
	LogID       string // of Topic
	FoldVersion int
	Order       Order
	// Client records (events.v1) have no effective time: they are stamped.
	// Otherwise the topic's records are derived from Sources partitions.
	Client  bool
	Sources int
	// PassTo are the topics that get this partition's clock.
	PassTo []Target
	// DeadLetters is the topic of what cannot be folded.
	DeadLetters string
	// Types that the fold knows; others are counted and skipped.
	Types []string
	// MaxDirty entities and MaxOuts messages end a batch, within a tick too.
	MaxDirty int
	MaxOuts  int
}

// withDefaults fills the bounds.
func (c Config) withDefaults() Config {
	if c.MaxDirty == 0 {
		c.MaxDirty = 4000
	}
	if c.MaxOuts == 0 {
		c.MaxOuts = 20000
	}
	return c
}

// ImportCount is what became of one import in one partition.
type ImportCount struct {
	Sequence   int64 `json:"sequence"`
	Folded     int64 `json:"folded"`
	Lines      int64 `json:"lines"`
	Duplicates int64 `json:"duplicates"`
	Dead       int64 `json:"dead"`
	DeadLines  int64 `json:"dead_lines,omitempty"`
	Ended      bool  `json:"ended"`
	Line       int64 `json:"line"` // of the last mark
}

// Counts are a partition's totals since the state began.
type Counts struct {
	Folded     int64 `json:"folded"`
	Duplicates int64 `json:"duplicates"`
	Unknown    int64 `json:"unknown"`
	Dead       int64 `json:"dead"`
	Published  int64 `json:"published"`
	Woken      int64 `json:"woken"`
}

// meta is the part of a partition's state that belongs to no entity.
type meta struct {
	clocks
	Highest map[string]record.Position `json:"highest,omitempty"` // by source log/partition
	Imports map[string]*ImportCount    `json:"imports,omitempty"` // by shop/import
	Counts  Counts                     `json:"counts"`
	Hours   []int64                    `json:"hours,omitempty"` // append-time hours with dedupe ids
	Passed  Instant                    `json:"passed,omitempty"`
	// IncompleteSince is the offset at which a gap of the log was stepped over.
	IncompleteSince []int64 `json:"incomplete_since,omitempty"`
}

// MetaKey is the name under which the store keeps what belongs to no entity.
const MetaKey = ""

// entity is one entity in the owner's memory.
type entity[S any] struct {
	state S
	wake  Instant // 0: none
	last  Instant // last effective time stamped
	dirty bool
	gone  bool
}

// Batch is what one step publishes and writes.
type Batch struct {
	Outs    []record.Out
	Offsets []int64 // of the record that each out follows from
	Write   Write   // without fences: the Machine adds them
	Next    int64
	Low     int64
	Anchor  string
	KeyDone string
	Ordinal int32
	Records int
}

// Folder is what a Machine drives: a Partition of any state.
type Folder interface {
	Restore(s State, f Fence) error
	Reread(recs []record.Record) error
	Fold(recs []record.Record) (b Batch, rest []record.Record, err error)
	Settled() // the batch is in the store
	Dump() []Entity
	Logs() []LogAppend
	Gap(offset int64)
	Status() PartitionStatus
}

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

// Partition folds one partition of a topic. It is not safe for concurrent use.
type Partition[S any] struct {
	cfg   Config
	fold  Fold[S]
	codec Codec[S]
	types map[string]bool

	meta     meta
	entities map[string]*entity[S]
	alarms   map[string]*alarmQueue // by shop
	facts    map[string]*factQueue  // by shop, by effective time
	offsets  factQueue              // what waits, by offset
	reading  map[string]bool        // positions seen in a second reading
	seen     map[int64]map[uint64]struct{}
	waits    int

	next     int64
	keyDone  string
	ordinal  int32
	settling *settling[S]

	// The batch in hand.
	eff     Effects
	dirty   []string
	newSeen map[int64][]byte
	oldSeen []int64
	anchor  string
}

// settling is a clock's advance that is folded entity by entity.
type settling[S any] struct {
	keys []string
	todo map[string][]*waiting
	upto map[string]Instant // by shop
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

// NewPartition returns an empty partition.
func NewPartition[S any](cfg Config, fold Fold[S], codec Codec[S]) *Partition[S] {
	p := &Partition[S]{cfg: cfg.withDefaults(), fold: fold, codec: codec, types: map[string]bool{}}
	for _, t := range cfg.Types {
		p.types[t] = true
	}
	p.reset()
	return p
}

func (p *Partition[S]) reset() {
	p.meta = meta{}
	p.meta.init()
	p.meta.sources, p.meta.own, p.meta.single = p.cfg.Sources, p.cfg.Partition, p.cfg.Client
	p.meta.Highest = map[string]record.Position{}
	p.meta.Imports = map[string]*ImportCount{}
	p.entities = map[string]*entity[S]{}
	p.alarms = map[string]*alarmQueue{}
	p.facts = map[string]*factQueue{}
	p.offsets = factQueue{less: func(a, b *waiting) bool { return a.fact.Offset < b.fact.Offset }}
	p.reading = map[string]bool{}
	p.seen = map[int64]map[uint64]struct{}{}
	p.waits, p.next, p.keyDone, p.ordinal, p.settling = 0, 0, "", 0, nil
	p.eff, p.dirty, p.newSeen, p.oldSeen, p.anchor = Effects{}, nil, map[int64][]byte{}, nil, ""
}

// Restore takes over what the store holds, in place of all in memory.
func (p *Partition[S]) Restore(s State, f Fence) error {
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
		ent := &entity[S]{}
		if err := p.unmarshal(e.Value, ent); err != nil {
			return fmt.Errorf("read entity %q: %w", e.Key, err)
		}
		p.entities[e.Key] = ent
		p.index(e.Key, ent.wake)
	}
	for _, l := range s.Logs {
		hour, err := strconv.ParseInt(l.Name, 10, 64)
		if err != nil {
			return fmt.Errorf("read dedupe log %q: %w", l.Name, err)
		}
		ids := make(map[uint64]struct{}, len(l.Data)/8)
		for data := l.Data; len(data) >= 8; data = data[8:] {
			ids[binary.LittleEndian.Uint64(data)] = struct{}{}
		}
		p.seen[hour] = ids
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
	b := make([]byte, 1, 160)
	b[0] = entityVersion
	b = binary.AppendVarint(b, int64(e.wake))
	b = binary.AppendVarint(b, int64(e.last))
	return p.codec.Append(b, &e.state)
}

func (p *Partition[S]) index(key string, wake Instant) {
	if wake == 0 {
		return
	}
	shop := shopOf(key)
	q := p.alarms[shop]
	if q == nil {
		q = &alarmQueue{}
		p.alarms[shop] = q
	}
	q.add(alarm{due: wake, key: key})
}

func shopOf(key string) string {
	shop, _, _ := strings.Cut(key, "/")
	return shop
}

func splitKey(key string) (Key, bool) {
	shop, id, ok := strings.Cut(key, "/")
	return Key{Shop: shop, ID: id}, ok && shop != "" && id != ""
}

// Reread takes records of [low, next) again: what still waits, waits again.
func (p *Partition[S]) Reread(recs []record.Record) error {
	for i := range recs {
		r := &recs[i]
		if r.Offset >= p.next {
			return nil
		}
		head := p.head(r)
		if head.err != nil || head.control || !p.types[head.fact.Type] {
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
		p.wait(head, at)
	}
	return nil
}

// Gap notes that the log has lost records at offset; folding goes on there.
func (p *Partition[S]) Gap(offset int64) {
	p.next = offset
	p.keyDone, p.ordinal = "", 0
	p.meta.IncompleteSince = append(p.meta.IncompleteSince, offset)
}

// header is a record's envelope.
type header struct {
	fact      Fact
	key       Key
	effective Instant
	position  record.Position
	derived   bool
	control   bool
	err       error
}

// head reads a record's headers.
func (p *Partition[S]) head(r *record.Record) header {
	h := header{fact: Fact{Value: r.Value, Offset: r.Offset}}
	var position, effective []byte
	for i := range r.Headers {
		v := r.Headers[i].Value
		switch r.Headers[i].Key {
		case record.HeaderID:
			h.fact.ID = string(v)
		case record.HeaderType:
			h.fact.Type = string(v)
		case record.HeaderTime:
			h.fact.EventTime, _ = strconv.ParseInt(string(v), 10, 64)
		case record.HeaderEffective:
			effective = v
		case record.HeaderPosition:
			position = v
		case record.HeaderHistorical:
			h.fact.Historical = string(v) == "1"
		case record.HeaderTraceParent:
			h.fact.Trace = string(v)
		}
	}
	h.control = h.fact.Type == TypeTick || h.fact.Type == TypeImport || h.fact.Type == TypeShop
	if !p.cfg.Client {
		pos, err := record.ParsePosition(string(position))
		if err != nil {
			h.err = err
			return h
		}
		h.position, h.derived = pos, true
	}
	if h.control {
		return h
	}
	key, ok := splitKey(string(r.Key))
	if !ok {
		h.err = fmt.Errorf("key %q: want shop/id", r.Key)
		return h
	}
	h.key, h.fact.Key, h.fact.Shop = key, key.ID, key.Shop
	if h.fact.Type == "" {
		h.err = errors.New("no ce_type header")
		return h
	}
	if h.derived {
		n, err := strconv.ParseInt(string(effective), 10, 64)
		if err != nil {
			h.err = fmt.Errorf("effective-time %q: %w", effective, err)
			return h
		}
		h.effective = Instant(n)
	}
	return h
}

// Fold folds records in order until all are folded or the batch is full. What
// it returns as rest has to be given again, after the batch is in the store.
func (p *Partition[S]) Fold(recs []record.Record) (Batch, []record.Record, error) {
	for i := range recs {
		r := &recs[i]
		if r.Offset < p.next {
			continue
		}
		done, err := p.one(r)
		if err != nil {
			return Batch{}, nil, err
		}
		if !done {
			return p.batch(i), recs[i:], nil
		}
		p.next, p.anchor, p.keyDone, p.ordinal = r.Offset+1, Anchor(r), "", 0
		if len(p.dirty) >= p.cfg.MaxDirty || len(p.eff.outs) >= p.cfg.MaxOuts {
			return p.batch(i + 1), recs[i+1:], nil
		}
	}
	return p.batch(len(recs)), nil, nil
}

// Anchor is the hash by which a record is known again.
func Anchor(r *record.Record) string {
	d := xxhash.New()
	_, _ = d.Write(r.Key)
	_, _ = d.Write([]byte{0})
	_, _ = d.Write(r.Value)
	for i := range r.Headers {
		_, _ = d.WriteString(r.Headers[i].Key)
		_, _ = d.Write(r.Headers[i].Value)
	}
	return strconv.FormatUint(d.Sum64(), 16)
}

// one folds one record. It returns false where the batch is full before the
// record is done: a tick settled in parts.
func (p *Partition[S]) one(r *record.Record) (bool, error) {
	p.eff.source = record.Position{Log: p.cfg.LogID, Partition: p.cfg.Partition, Offset: r.Offset, Ordinal: p.ordinal}
	if p.settling != nil {
		// The record's advance is under way: it was judged when it came.
		return p.settle(r)
	}
	h := p.head(r)
	if h.err != nil {
		p.dead(r, h.err)
		return true, nil
	}
	if h.derived {
		source := h.position.Log + "/" + strconv.Itoa(int(h.position.Partition))
		last, ok := p.meta.Highest[source]
		if ok && !h.position.After(last) {
			p.meta.Counts.Duplicates++
			return true, nil
		}
		if !h.control { // a control record's is noted with its last part
			p.meta.Highest[source] = h.position
		}
	}
	if h.control {
		return p.control(r, h)
	}
	if !p.types[h.fact.Type] {
		p.meta.Counts.Unknown++
		return true, nil
	}
	if p.cfg.Client {
		return true, p.client(r, h)
	}
	if p.cfg.Order == InTimeOrder {
		shop := p.meta.shop(h.key.Shop)
		if h.effective < shop.Clock {
			// Cannot happen while the writer stamps behind its own clock; if it
			// does, the record counts now rather than never.
			h.effective = shop.Clock
		}
		p.wait(h, "")
		return true, nil
	}
	p.arrive(h, h.effective, r)
	return true, nil
}

// client judges and folds a client record.
func (p *Partition[S]) client(r *record.Record, h header) error {
	var e eventv1.Event
	if err := proto.Unmarshal(r.Value, &e); err != nil {
		p.dead(r, fmt.Errorf("decode event: %w", err))
		return nil
	}
	if e.Shop != h.key.Shop {
		p.dead(r, fmt.Errorf("event of shop %q under a key of shop %q", e.Shop, h.key.Shop))
		return nil
	}
	if i := e.Import; i != nil {
		count := p.count(e.Shop, i.ImportId)
		if i.Sequence <= count.Sequence {
			count.Duplicates++
			p.meta.Counts.Duplicates++
			return nil
		}
		count.Sequence = i.Sequence
		before := p.meta.Counts.Dead
		p.stamp(r, h, &e)
		if p.meta.Counts.Dead > before {
			count.Dead++
			count.DeadLines += int64(i.Lines)
		} else {
			count.Folded++
			count.Lines += int64(i.Lines)
		}
		return nil
	}
	if !p.fresh(r.AppendTime, h.key.String()+"\x00"+e.KeyId+"\x00"+e.MessageId) {
		p.meta.Counts.Duplicates++
		return nil
	}
	p.stamp(r, h, &e)
	return nil
}

// count is the tally of an import.
func (p *Partition[S]) count(shop, id string) *ImportCount {
	name := shop + "/" + id
	c := p.meta.Imports[name]
	if c == nil {
		c = &ImportCount{}
		p.meta.Imports[name] = c
	}
	return c
}

// fresh notes a message id, and tells whether it is new within 48 hours of
// append time.
func (p *Partition[S]) fresh(appended int64, id string) bool {
	hash := xxhash.Sum64String(id)
	for _, ids := range p.seen {
		if _, ok := ids[hash]; ok {
			return false
		}
	}
	hour := appended / 3_600_000
	ids := p.seen[hour]
	if ids == nil {
		ids = map[uint64]struct{}{}
		p.seen[hour] = ids
		p.meta.Hours = append(p.meta.Hours, hour)
		sort.Slice(p.meta.Hours, func(i, j int) bool { return p.meta.Hours[i] < p.meta.Hours[j] })
		for len(p.meta.Hours) > 0 && p.meta.Hours[0] < p.meta.Hours[len(p.meta.Hours)-1]-dedupeHours {
			old := p.meta.Hours[0]
			p.meta.Hours = p.meta.Hours[1:]
			delete(p.seen, old)
			delete(p.newSeen, old)
			p.oldSeen = append(p.oldSeen, old)
		}
		if _, kept := p.seen[hour]; !kept {
			return true // appended long before what was last seen: remembered by nobody
		}
	}
	ids[hash] = struct{}{}
	p.newSeen[hour] = binary.LittleEndian.AppendUint64(p.newSeen[hour], hash)
	return true
}

// stamp gives a client record its effective time and folds it.
func (p *Partition[S]) stamp(r *record.Record, h header, e *eventv1.Event) {
	shop := p.meta.shop(h.key.Shop)
	h.fact.ID = e.MessageId
	h.fact.EventTime = e.EventTimeMs
	h.fact.Historical = e.Import != nil
	now := max(FromMillis(e.EventTimeMs), shop.Clock)
	if e.Import != nil {
		now = max(now, Instant(e.Import.NotBeforeUs))
	}
	if ent := p.entities[h.key.String()]; ent != nil {
		now = max(now, ent.last+1)
	}
	p.arrive(h, now, r)
	if ent := p.entities[h.key.String()]; ent != nil && ent.last != now {
		ent.last = now
		p.touch(h.key.String(), ent)
	}
}

// arrive folds a record that counts now, behind what fell due before.
func (p *Partition[S]) arrive(h header, now Instant, r *record.Record) {
	p.meta.shop(h.key.Shop)
	name := h.key.String()
	ent := p.entity(name)
	p.wakeUntil(name, h.key, ent, now)
	if err := p.record(name, h.key, ent, h.fact, now); err != nil {
		p.dead(r, err)
	}
}

// entity returns an entity, made on first sight.
func (p *Partition[S]) entity(name string) *entity[S] {
	ent := p.entities[name]
	if ent == nil {
		ent = &entity[S]{}
		p.entities[name] = ent
	}
	return ent
}

// touch notes that an entity has to be written.
func (p *Partition[S]) touch(name string, ent *entity[S]) {
	if !ent.dirty {
		ent.dirty = true
		p.dirty = append(p.dirty, name)
	}
}

// record folds one fact.
func (p *Partition[S]) record(name string, key Key, ent *entity[S], f Fact, now Instant) error {
	e := &p.eff
	e.key, e.cause, e.now, e.eventTime = key, f.ID, now, f.EventTime
	e.historical, e.trace, e.n = f.Historical, f.Trace, nil
	e.unobserved = p.meta.unobserved(p.meta.shop(key.Shop))
	e.wake, e.wakeSet, e.drop = 0, false, false
	outs, ordinal := len(e.outs), e.source.Ordinal
	if err := p.call(func() error { return p.fold.Record(&ent.state, f, now, e) }); err != nil {
		e.outs, e.source.Ordinal = e.outs[:outs], ordinal
		p.touch(name, ent)
		return err
	}
	p.meta.Counts.Folded++
	p.after(name, ent, now, now)
	return nil
}

// call runs a fold; a panic is an error, and the record a dead letter.
func (p *Partition[S]) call(fold func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("fold panicked: %v", r)
		}
	}()
	return fold()
}

// after takes over what a fold asked for.
func (p *Partition[S]) after(name string, ent *entity[S], now, earliest Instant) {
	e := &p.eff
	p.touch(name, ent)
	if e.drop {
		ent.gone = true
		delete(p.entities, name)
		return
	}
	if e.wakeSet {
		wake := e.wake
		if wake != 0 {
			wake = max(wake, earliest)
		}
		if wake != ent.wake {
			ent.wake = wake
			p.index(name, wake)
		}
	}
}

// wakeUntil wakes an entity for all that is due strictly before limit.
func (p *Partition[S]) wakeUntil(name string, key Key, ent *entity[S], limit Instant) {
	for ent.wake != 0 && !ent.gone {
		unobserved := p.meta.unobserved(p.meta.shop(key.Shop))
		due := observed(ent.wake, unobserved)
		if due >= limit {
			if due != ent.wake {
				ent.wake = due
				p.touch(name, ent)
				p.index(name, due)
			}
			return
		}
		e := &p.eff
		e.key, e.cause, e.now, e.eventTime = key, name+"@"+strconv.FormatInt(int64(due), 10), due, due.Millis()
		e.historical = p.meta.shop(key.Shop).mode() != ModeLive
		e.trace, e.n, e.unobserved = "", nil, unobserved
		e.wake, e.wakeSet, e.drop = 0, true, false
		outs, ordinal := len(e.outs), e.source.Ordinal
		err := p.call(func() error { p.fold.Wake(&ent.state, key, due, e); return nil })
		if err != nil {
			// A wake-up has no record to put aside: the entity sleeps, counted.
			e.outs, e.source.Ordinal = e.outs[:outs], ordinal
			e.wake, e.wakeSet = 0, true
			p.meta.Counts.Dead++
		}
		p.meta.Counts.Woken++
		ent.wake = 0
		p.after(name, ent, due, due+1)
	}
}

// wait holds a fact back.
func (p *Partition[S]) wait(h header, position string) {
	h.fact.Value = append([]byte(nil), h.fact.Value...)
	w := &waiting{fact: h.fact, key: h.key, effective: h.effective, position: position}
	q := p.facts[h.key.Shop]
	if q == nil {
		q = &factQueue{less: func(a, b *waiting) bool { return a.effective < b.effective }}
		p.facts[h.key.Shop] = q
	}
	q.add(w)
	p.offsets.add(w)
	p.waits++
}

// control folds a tick or a mark: time moves.
func (p *Partition[S]) control(r *record.Record, h header) (bool, error) {
	before := p.meta.times()
	shops, err := p.advance(r, h)
	if err != nil {
		p.dead(r, err)
		return true, nil
	}
	if shops == nil {
		p.noted(h)
		return true, nil
	}
	p.settling = p.due(shops)
	p.settling.before = before
	return p.settle(r)
}

// noted keeps a control record's position, with its last part.
func (p *Partition[S]) noted(h header) {
	if h.derived {
		p.meta.Highest[h.position.Log+"/"+strconv.Itoa(int(h.position.Partition))] = h.position
	}
}

// advance returns the shops whose clock a control record moves, with their
// new clock; nil where it says nothing new.
func (p *Partition[S]) advance(r *record.Record, h header) (map[string]Instant, error) {
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
func (p *Partition[S]) due(moved map[string]Instant) *settling[S] {
	s := &settling[S]{todo: map[string][]*waiting{}, upto: moved}
	for shop, upto := range moved {
		if q := p.facts[shop]; q != nil {
			for w := q.head(); w != nil && w.effective < upto; w = q.head() {
				q.take()
				name := w.key.String()
				s.todo[name] = append(s.todo[name], w)
			}
		}
		if q := p.alarms[shop]; q != nil {
			for len(*q) > 0 && (*q)[0].due < upto {
				a := q.take()
				if ent := p.entities[a.key]; ent != nil && ent.wake == a.due {
					if _, ok := s.todo[a.key]; !ok {
						s.todo[a.key] = nil
					}
				}
			}
		}
	}
	for name := range s.todo {
		s.keys = append(s.keys, name)
	}
	sort.Strings(s.keys)
	return s
}

// settle lives the lives of the entities that are due, one after the other,
// up to the new clocks; then the clocks move, and are passed on.
func (p *Partition[S]) settle(r *record.Record) (bool, error) {
	s := p.settling
	for len(s.keys) > 0 {
		name := s.keys[0]
		facts := s.todo[name]
		s.keys = s.keys[1:]
		delete(s.todo, name)
		key, _ := splitKey(name)
		if p.keyDone == "" || name > p.keyDone {
			p.live(name, key, facts, s.upto[key.Shop])
			p.keyDone, p.ordinal = name, p.eff.source.Ordinal
		}
		for _, w := range facts {
			w.done = true
			p.waits--
		}
		if len(s.keys) > 0 && (len(p.dirty) >= p.cfg.MaxDirty || len(p.eff.outs) >= p.cfg.MaxOuts) {
			return false, nil
		}
	}
	p.settling = nil
	for shop, upto := range s.upto {
		p.meta.Shops[shop].Clock = upto
	}
	h := p.head(r)
	p.noted(h)
	p.passOn(r, h)
	return true, nil
}

// live folds one entity's facts and wake-ups in order of time, facts first.
func (p *Partition[S]) live(name string, key Key, facts []*waiting, upto Instant) {
	sort.SliceStable(facts, func(i, j int) bool { return facts[i].before(facts[j]) })
	for _, w := range facts {
		ent := p.entity(name)
		p.wakeUntil(name, key, ent, w.effective)
		ent = p.entity(name)
		if err := p.record(name, key, ent, w.fact, w.effective); err != nil {
			p.deadFact(w, err)
		}
	}
	if ent := p.entities[name]; ent != nil {
		p.wakeUntil(name, key, ent, upto)
	}
}

// passOn appends a control record to every partition of the topics behind.
func (p *Partition[S]) passOn(r *record.Record, h header) {
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

// dead sends a record to the dead-letter topic, as it came, with the reason.
func (p *Partition[S]) dead(r *record.Record, reason error) {
	p.meta.Counts.Dead++
	headers := append(append([]record.Header(nil), r.Headers...),
		record.Header{Key: record.HeaderReason, Value: []byte(reason.Error())},
		record.Header{Key: "dlq-processor", Value: []byte(p.cfg.Processor)},
		record.Header{Key: "dlq-origin", Value: fmt.Appendf(nil, "%s/%d/%d", p.cfg.Topic, p.cfg.Partition, r.Offset)},
	)
	p.deadOut(r.Key, r.Value, headers, r.Offset)
}

// deadFact is dead for a fact that has waited.
func (p *Partition[S]) deadFact(w *waiting, reason error) {
	p.meta.Counts.Dead++
	headers := []record.Header{
		{Key: record.HeaderID, Value: []byte(w.fact.ID)},
		{Key: record.HeaderType, Value: []byte(w.fact.Type)},
		{Key: record.HeaderTime, Value: strconv.AppendInt(nil, w.fact.EventTime, 10)},
		{Key: record.HeaderReason, Value: []byte(reason.Error())},
		{Key: "dlq-processor", Value: []byte(p.cfg.Processor)},
		{Key: "dlq-origin", Value: fmt.Appendf(nil, "%s/%d/%d", p.cfg.Topic, p.cfg.Partition, w.fact.Offset)},
	}
	p.deadOut([]byte(w.key.String()), w.fact.Value, headers, w.fact.Offset)
}

func (p *Partition[S]) deadOut(key, value []byte, headers []record.Header, _ int64) {
	if p.cfg.DeadLetters == "" {
		return
	}
	part := record.ByKey
	if len(key) == 0 {
		part = 0
	}
	p.eff.outs = append(p.eff.outs, pending{
		out:    record.Out{Topic: p.cfg.DeadLetters, Partition: part, Key: key, Value: append([]byte(nil), value...), Headers: headers},
		offset: p.eff.source.Offset,
	})
	p.eff.source.Ordinal++
}

// batch closes the batch in hand.
func (p *Partition[S]) batch(records int) Batch {
	b := Batch{Next: p.next, Low: p.low(), Anchor: p.anchor, KeyDone: p.keyDone, Ordinal: p.ordinal, Records: records}
	if p.settling == nil {
		b.KeyDone, b.Ordinal = "", 0
	}
	sort.Strings(p.dirty)
	for _, name := range p.dirty {
		ent := p.entities[name]
		var value []byte
		if ent != nil {
			value = p.marshal(ent)
			ent.dirty = false
		}
		b.Write.Entities = append(b.Write.Entities, Entity{Key: name, Value: value})
	}
	p.meta.Counts.Published += int64(len(p.eff.outs))
	b.Outs, b.Offsets = make([]record.Out, len(p.eff.outs)), make([]int64, len(p.eff.outs))
	for i := range p.eff.outs {
		b.Outs[i], b.Offsets[i] = p.eff.outs[i].out, p.eff.outs[i].offset
	}
	b.Write.Entities = append(b.Write.Entities, Entity{Key: MetaKey, Value: p.metaBytes()})
	for _, hour := range p.meta.Hours {
		if data := p.newSeen[hour]; len(data) > 0 {
			b.Write.Logs = append(b.Write.Logs, LogAppend{Name: strconv.FormatInt(hour, 10), Data: data})
		}
	}
	for _, hour := range p.oldSeen {
		b.Write.Logs = append(b.Write.Logs, LogAppend{Name: strconv.FormatInt(hour, 10)})
	}
	p.dirty, p.eff.outs, p.newSeen, p.oldSeen = nil, nil, map[int64][]byte{}, nil
	return b
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
	for w := p.offsets.head(); w != nil; w = p.offsets.head() {
		if !w.done {
			return min(w.fact.Offset, p.next)
		}
		p.offsets.take()
	}
	return p.next
}

// Settled is called when the batch is in the store.
func (p *Partition[S]) Settled() { clear(p.reading) }

// Dump returns the whole state in key order, as the store holds it between
// two batches.
func (p *Partition[S]) Dump() []Entity {
	all := make([]Entity, 0, len(p.entities)+1)
	for name, ent := range p.entities {
		all = append(all, Entity{Key: name, Value: p.marshal(ent)})
	}
	all = append(all, Entity{Key: MetaKey, Value: p.metaBytes()})
	sort.Slice(all, func(i, j int) bool { return all[i].Key < all[j].Key })
	return all
}

// Logs returns the dedupe ids by hour, ids in order.
func (p *Partition[S]) Logs() []LogAppend {
	var logs []LogAppend
	for _, hour := range p.meta.Hours {
		ids := make([]uint64, 0, len(p.seen[hour]))
		for id := range p.seen[hour] {
			ids = append(ids, id)
		}
		sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
		data := make([]byte, 0, len(ids)*8)
		for _, id := range ids {
			data = binary.LittleEndian.AppendUint64(data, id)
		}
		logs = append(logs, LogAppend{Name: strconv.FormatInt(hour, 10), Data: data})
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
