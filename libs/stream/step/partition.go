package step

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/sillage-io/sillage/libs/stream/record"
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
	// Foreign, where it is set, reads the records of a topic that somebody else
	// writes: see [Foreign]. It is pure. An error sends the record to the
	// dead-letter topic.
	Foreign func(*record.Record, *Foreign) error
	// PassTo are the topics that get this partition's clock.
	PassTo []Target
	// Model is the type of the records that hold what the fitter of a shop has
	// learnt, for a fold that is [Modelled]; empty: such records are skipped.
	Model string
	// Broadcast are the topics whose every partition the fold may publish to at once.
	Broadcast []Target
	// DeadLetters is the topic of what cannot be folded.
	DeadLetters string
	// Types that the fold knows; others are counted and skipped.
	Types []string
	// Wants, where it is set, says of each fact of these types whether it can
	// change anything; one that cannot is skipped as if its type were unknown.
	// It is pure.
	Wants func(Fact) bool
	// Offline leaves a batch's Write empty: whoever folds a log beside its owner
	// wants what follows from it, and in the end Dump and Logs.
	Offline bool
	// MaxDirty entities and MaxOuts messages end a batch, within a tick too.
	MaxDirty int
	MaxOuts  int
}

// Foreign is what a record that somebody else wrote means here: its headers say
// nothing of Sillage. Such a topic has no clock, so its records are folded on
// arrival, and wake-ups before a later record of their entity. Nothing in it
// tells a repeat; its writers are taken to append once.
type Foreign struct {
	Name      []byte // shop/id, to be appended to what is there: the room is used again
	Type      string // one of Config.Types; set to the first before the call
	ID        string // empty: the record's place in the log
	EventTime int64  // milliseconds UTC
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
	Unknown    int64 `json:"unknown"` // of a type, or such, that the fold has no use for
	Dead       int64 `json:"dead"`
	Published  int64 `json:"published"`
	Woken      int64 `json:"woken"`
	Requeued   int64 `json:"requeued,omitempty"` // dead, and put back
}

// meta is the part of a partition's state that belongs to no entity.
type meta struct {
	clocks
	Highest map[string]*record.Position `json:"highest,omitempty"` // by source log/partition
	Imports map[string]*ImportCount     `json:"imports,omitempty"` // by shop/import
	Counts  Counts                      `json:"counts"`
	Hours   []int64                     `json:"hours,omitempty"` // append-time hours with dedupe ids
	Weeks   []int64                     `json:"weeks,omitempty"` // append-time weeks with records that died
	Passed  Instant                     `json:"passed,omitempty"`
	// IncompleteSince is the offset at which a gap of the log was stepped over.
	IncompleteSince []int64 `json:"incomplete_since,omitempty"`
}

// MetaKey is the name under which the store keeps what belongs to no entity.
const MetaKey = ""

// entity is one entity in the owner's memory.
type entity[S any] struct {
	name  string // in the store
	key   Key
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

// Partition folds one partition of a topic. It is not safe for concurrent use.
type Partition[S any] struct {
	cfg   Config
	fold  Fold[S]
	codec Codec[S]
	types map[string]bool

	meta     meta
	entities map[string]*entity[S]
	models   models
	alarms   map[string]*alarmQueue // by shop
	facts    map[string]*factQueue  // by shop, by effective time
	offsets  offsetQueue
	sources  map[string]*source // by log/partition, as positions name them
	source   *source            // the one that was asked for last
	names    map[string]string  // types, without an allocation for each record
	largest  int                // bytes of an entity so far
	// The import that was asked for last.
	lastImport struct {
		shop, id string
		count    *ImportCount
	}
	values  arena               // of entities to be written
	held    arena               // of facts that wait
	sorting []keyed             // room to put in order what is due
	reading map[string]bool     // positions seen in a second reading
	seen    map[uint64]struct{} // ids of client records
	hours   map[int64][]uint64  // the same by hour of append time
	letters map[int64]int64     // offsets of records that died and were not put back, with their week
	waits   int
	kept    int // of what waits, in the archive
	// The latest append time that was folded.
	appended int64
	// The store has an archive: it goes when nothing of it waits any more.
	archived bool

	next     int64
	keyDone  string
	ordinal  int32
	settling *settling

	// The batch in hand.
	eff     Effects
	head    header[S]
	foreign Foreign
	dirty   []*entity[S]   // in the order of their first change
	last    *record.Record // done, but not in anchor yet
	newSeen map[int64][]byte
	oldSeen []int64
	anchor  string
	// Records that died or were put back, by week.
	newLetters map[int64][]byte
	oldLetters []int64
}

// NewPartition returns an empty partition.
func NewPartition[S any](cfg Config, fold Fold[S], codec Codec[S]) *Partition[S] {
	p := &Partition[S]{cfg: cfg.withDefaults(), fold: fold, codec: codec, types: map[string]bool{}, names: map[string]string{}}
	for _, t := range cfg.Types {
		p.types[t], p.names[t] = true, t
	}
	for _, t := range []string{TypeTick, TypeImport, TypeShop, cfg.Model} {
		p.names[t] = t
	}
	p.reset()
	return p
}

func (p *Partition[S]) reset() {
	p.meta = meta{}
	p.meta.init()
	p.meta.sources, p.meta.own, p.meta.single = p.cfg.Sources, p.cfg.Partition, p.cfg.Client || p.cfg.Foreign != nil
	p.meta.Highest = map[string]*record.Position{}
	p.meta.Imports = map[string]*ImportCount{}
	p.entities = map[string]*entity[S]{}
	p.models = newModels(p.fold)
	p.alarms = map[string]*alarmQueue{}
	p.facts = map[string]*factQueue{}
	p.offsets = offsetQueue{}
	p.sources, p.source, p.lastImport.count = map[string]*source{}, nil, nil
	p.reading = map[string]bool{}
	p.seen, p.hours = map[uint64]struct{}{}, map[int64][]uint64{}
	p.letters, p.appended = map[int64]int64{}, 0
	p.waits, p.kept, p.archived, p.next, p.keyDone, p.ordinal, p.settling = 0, 0, false, 0, "", 0, nil
	p.newLetters, p.oldLetters = map[int64][]byte{}, nil
	p.eff, p.values, p.dirty, p.newSeen, p.oldSeen = Effects{}, arena{}, nil, map[int64][]byte{}, nil
	p.eff.foreign, p.eff.broadcast = p.cfg.Foreign != nil, p.cfg.Broadcast
	p.anchor, p.last, p.head = "", nil, header[S]{}
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

// source is a partition that records are derived from.
type source struct {
	name      string // log/partition
	log       string
	partition int32
	highest   *record.Position // known; nil: none
}

// note keeps the position of a record that is known from now on.
func (p *Partition[S]) note(s *source, at record.Position) {
	if s.highest == nil {
		s.highest = new(record.Position)
		p.meta.Highest[s.name] = s.highest
	}
	*s.highest = at
}

// sourceOf is the source that a position's first half names.
func (p *Partition[S]) sourceOf(name []byte) (*source, error) {
	if s := p.source; s != nil && s.name == string(name) {
		return s, nil
	}
	if s := p.sources[string(name)]; s != nil {
		p.source = s
		return s, nil
	}
	pos, err := record.ParsePosition(string(name) + "/0/0")
	if err != nil {
		return nil, err
	}
	if len(p.sources) >= 1<<16 { // nobody has so many: nonsense, which is set aside
		clear(p.sources)
	}
	s := &source{name: string(name), log: pos.Log, partition: pos.Partition}
	s.highest = p.meta.Highest[s.name]
	p.sources[s.name], p.source = s, s
	return s, nil
}

// header is a record's envelope.
type header[S any] struct {
	fact      Fact
	key       Key
	name      string     // the key as it stands in the record
	ent       *entity[S] // called name; nil where there is none yet
	effective Instant
	source    *source // of a derived record
	position  record.Position
	derived   bool
	control   bool
	shared    bool   // of a shop, and of no entity
	requeued  string // put back, for the processor of this name
	err       error
}

// readHead reads a record's headers. What it returns is good until the next
// call.
func (p *Partition[S]) readHead(r *record.Record) *header[S] {
	h := &p.head
	*h = header[S]{fact: Fact{Value: r.Value, Offset: r.Offset}}
	if p.cfg.Foreign != nil {
		p.readForeign(r, h)
		return h
	}
	var position, effective []byte
	for i := range r.Headers {
		v := r.Headers[i].Value
		switch r.Headers[i].Key {
		case record.HeaderID:
			h.fact.ID = string(v)
		case record.HeaderType:
			var ok bool
			if h.fact.Type, ok = p.names[string(v)]; !ok {
				h.fact.Type = string(v)
			}
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
		case record.HeaderRequeueFor:
			h.requeued = string(v)
		}
	}
	h.control = h.fact.Type == TypeTick || h.fact.Type == TypeImport || h.fact.Type == TypeShop
	if !p.cfg.Client {
		from, offset, ordinal, ok := record.CutPosition(position)
		if !ok {
			h.err = fmt.Errorf("position %q: want log/partition/offset/ordinal", position)
			return h
		}
		if h.source, h.err = p.sourceOf(from); h.err != nil {
			return h
		}
		h.position = record.Position{Log: h.source.log, Partition: h.source.partition, Offset: offset, Ordinal: ordinal}
		h.derived = true
	}
	if h.control {
		return h
	}
	if h.derived && len(r.Key) == 0 && !p.types[h.fact.Type] { // put into every partition
		h.shared = true
		if h.fact.Shop = string(r.Header(record.HeaderShop)); h.fact.Shop == "" {
			h.err = errors.New("neither a key nor a shop")
		}
		return h
	}
	if !p.identify(h, r.Key) {
		return h
	}
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

// readForeign asks the processor what a record means that somebody else wrote.
func (p *Partition[S]) readForeign(r *record.Record, h *header[S]) {
	f := &p.foreign
	*f = Foreign{Name: f.Name[:0]}
	if len(p.cfg.Types) > 0 {
		f.Type = p.cfg.Types[0]
	}
	if h.err = p.cfg.Foreign(r, f); h.err == nil && p.identify(h, f.Name) {
		h.fact.ID, h.fact.Type, h.fact.EventTime = f.ID, f.Type, f.EventTime
	}
}

// identify finds whom a record is about.
func (p *Partition[S]) identify(h *header[S], name []byte) bool {
	if h.ent = p.entities[string(name)]; h.ent != nil {
		h.name, h.key = h.ent.name, h.ent.key
	} else {
		var ok bool
		h.name = string(name)
		if h.key, ok = splitKey(h.name); !ok {
			h.err = fmt.Errorf("key %q: want shop/id", name)
			return false
		}
	}
	h.fact.Key, h.fact.Shop = h.key.ID, h.key.Shop
	return true
}

// Fold folds records in order until all are folded or the batch is full. What
// it returns as rest has to be given again, after the batch is in the store.
func (p *Partition[S]) Fold(recs []record.Record) (Batch, []record.Record, error) {
	for i := range recs {
		r := &recs[i]
		if r.Offset < p.next {
			continue
		}
		done := p.one(r)
		if !done {
			return p.batch(i), recs[i:], nil
		}
		p.next, p.last, p.keyDone, p.ordinal = r.Offset+1, r, "", 0
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
func (p *Partition[S]) one(r *record.Record) bool {
	p.eff.source = record.Position{Log: p.cfg.LogID, Partition: p.cfg.Partition, Offset: r.Offset, Ordinal: p.ordinal}
	if p.settling != nil {
		// The record's advance is under way: it was judged when it came.
		return p.settle(r)
	}
	h := p.readHead(r)
	if h.requeued != "" {
		p.requeued(r, h)
		return true
	}
	if h.err != nil {
		p.dead(r, h.err)
		return true
	}
	if h.derived {
		if last := h.source.highest; last != nil && !h.position.After(*last) {
			p.meta.Counts.Duplicates++
			return true
		}
		if !h.control { // a control record's is noted with its last part
			p.note(h.source, h.position)
		}
	}
	if h.control {
		return p.control(r, h)
	}
	if h.shared {
		p.learn(r, h)
		return true
	}
	if !p.wants(h) {
		p.meta.Counts.Unknown++
		return true
	}
	if p.cfg.Client {
		p.client(r, h)
		return true
	}
	if p.cfg.Foreign != nil {
		p.stamp(r, h, FromMillis(h.fact.EventTime))
		return true
	}
	if p.cfg.Order == InTimeOrder {
		shop := p.meta.shop(h.key.Shop)
		if h.effective < shop.Clock {
			// Cannot happen while the writer stamps behind its own clock; if it
			// does, the record counts now rather than never. It does not wait:
			// whoever reads it again would take it for folded.
			p.arrive(h, shop.Clock, r)
			return true
		}
		p.wait(h, r, false)
		return true
	}
	p.arrive(h, h.effective, r)
	return true
}

// wants tells whether a fact is folded at all.
func (p *Partition[S]) wants(h *header[S]) bool {
	return p.types[h.fact.Type] && (p.cfg.Wants == nil || p.cfg.Wants(h.fact))
}

// client judges and folds a client record.
func (p *Partition[S]) client(r *record.Record, h *header[S]) {
	e, err := readEnvelope(r.Value)
	if err != nil {
		p.dead(r, fmt.Errorf("decode event: %w", err))
		return
	}
	if e.shop != h.key.Shop {
		p.dead(r, fmt.Errorf("event of shop %q under a key of shop %q", e.shop, h.key.Shop))
		return
	}
	h.fact.ID, h.fact.EventTime, h.fact.Historical = e.messageID, e.eventTime, e.imported
	if e.imported {
		count := p.count(e.shop, e.importID)
		if e.sequence <= count.Sequence {
			count.Duplicates++
			p.meta.Counts.Duplicates++
			return
		}
		count.Sequence = e.sequence
		before := p.meta.Counts.Dead
		p.stamp(r, h, max(FromMillis(e.eventTime), Instant(e.notBefore)))
		if p.meta.Counts.Dead > before {
			count.Dead++
			count.DeadLines += e.lines
		} else {
			count.Folded++
			count.Lines += e.lines
		}
		return
	}
	if !p.fresh(r.AppendTime, h.name, e.keyID, e.messageID) {
		p.meta.Counts.Duplicates++
		return
	}
	p.stamp(r, h, FromMillis(e.eventTime))
}

// count is the tally of an import.
func (p *Partition[S]) count(shop, id string) *ImportCount {
	if p.lastImport.count != nil && p.lastImport.shop == shop && p.lastImport.id == id {
		return p.lastImport.count
	}
	name := shop + "/" + id
	c := p.meta.Imports[name]
	if c == nil {
		c = &ImportCount{}
		p.meta.Imports[name] = c
	}
	p.lastImport.shop, p.lastImport.id, p.lastImport.count = shop, id, c
	return c
}

// fresh notes a message id, and tells whether it is new within 48 hours of
// append time.
func (p *Partition[S]) fresh(appended int64, key, sender, id string) bool {
	d := xxhash.New()
	for _, part := range [...]string{key, "\x00", sender, "\x00", id} {
		_, _ = d.WriteString(part)
	}
	hash := d.Sum64()
	if _, ok := p.seen[hash]; ok {
		return false
	}
	hour := appended / 3_600_000
	if _, ok := p.hours[hour]; !ok {
		p.hours[hour] = nil
		p.meta.Hours = append(p.meta.Hours, hour)
		slices.Sort(p.meta.Hours)
		for len(p.meta.Hours) > 0 && p.meta.Hours[0] < p.meta.Hours[len(p.meta.Hours)-1]-dedupeHours {
			old := p.meta.Hours[0]
			p.meta.Hours = p.meta.Hours[1:]
			for _, id := range p.hours[old] {
				delete(p.seen, id)
			}
			delete(p.hours, old)
			delete(p.newSeen, old)
			p.oldSeen = append(p.oldSeen, old)
		}
		if _, kept := p.hours[hour]; !kept {
			return true // appended long before what was last seen: remembered by nobody
		}
	}
	p.seen[hash] = struct{}{}
	p.hours[hour] = append(p.hours[hour], hash)
	p.newSeen[hour] = binary.LittleEndian.AppendUint64(p.newSeen[hour], hash)
	return true
}

// stamp gives a client record its effective time, earliest or later, and folds
// it.
func (p *Partition[S]) stamp(r *record.Record, h *header[S], earliest Instant) {
	now := max(earliest, p.meta.shop(h.key.Shop).Clock)
	if h.ent != nil {
		now = max(now, h.ent.last+1)
	}
	p.arrive(h, now, r)
	// The fold may have dropped the entity.
	if ent := h.ent; !ent.gone && ent.last != now {
		ent.last = now
		p.touch(ent)
	}
}

// arrive folds a record that counts now, behind what fell due before.
func (p *Partition[S]) arrive(h *header[S], now Instant, r *record.Record) {
	p.meta.shop(h.key.Shop)
	if h.ent == nil {
		h.ent = p.entity(h.name, h.key)
	}
	p.wakeUntil(h.ent, now)
	if h.ent.gone { // dropped by a wake-up: this is a new life
		h.ent = p.entity(h.name, h.key)
	}
	if err := p.record(h.ent, &h.fact, now); err != nil {
		p.dead(r, err)
	}
}

// entity returns an entity, made on first sight.
func (p *Partition[S]) entity(name string, key Key) *entity[S] {
	ent := p.entities[name]
	if ent == nil {
		ent = &entity[S]{name: name, key: key}
		p.entities[name] = ent
	}
	return ent
}

// touch notes that an entity has to be written.
func (p *Partition[S]) touch(ent *entity[S]) {
	if !ent.dirty {
		ent.dirty = true
		p.dirty = append(p.dirty, ent)
	}
}

// record folds one fact.
func (p *Partition[S]) record(ent *entity[S], f *Fact, now Instant) error {
	e := &p.eff
	e.key, e.cause, e.now, e.eventTime = ent.key, f.ID, now, f.EventTime
	e.historical, e.trace, e.kinds = f.Historical, f.Trace, e.kinds[:0]
	e.unobserved, e.model = p.meta.unobserved(p.meta.shop(ent.key.Shop)), p.models.of(ent.key.Shop)
	e.wake, e.wakeSet, e.drop = 0, false, false
	outs, ordinal := len(e.outs), e.source.Ordinal
	if err := p.foldRecord(&ent.state, f, now); err != nil {
		e.outs, e.source.Ordinal = e.outs[:outs], ordinal
		p.touch(ent)
		return err
	}
	p.meta.Counts.Folded++
	p.after(ent, now)
	return nil
}

// foldRecord and foldWake run the fold; a panic is an error.
func (p *Partition[S]) foldRecord(state *S, f *Fact, now Instant) (err error) {
	defer panicked(&err)
	return p.fold.Record(state, *f, now, &p.eff)
}

func (p *Partition[S]) foldWake(state *S, key Key, now Instant) (err error) {
	defer panicked(&err)
	p.fold.Wake(state, key, now, &p.eff)
	return nil
}

func panicked(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("fold panicked: %v", r)
	}
}

// after takes over what a fold asked for.
func (p *Partition[S]) after(ent *entity[S], earliest Instant) {
	e := &p.eff
	p.touch(ent)
	if e.drop {
		ent.gone = true
		delete(p.entities, ent.name)
		return
	}
	if e.wakeSet {
		wake := e.wake
		if wake != 0 {
			wake = max(wake, earliest)
		}
		if wake != ent.wake {
			ent.wake = wake
			p.index(ent.name, wake)
		}
	}
}

// wakeUntil wakes an entity for all that is due strictly before limit.
func (p *Partition[S]) wakeUntil(ent *entity[S], limit Instant) {
	for ent.wake != 0 && !ent.gone {
		unobserved := p.meta.unobserved(p.meta.shop(ent.key.Shop))
		due := observed(ent.wake, unobserved)
		if due >= limit {
			if due != ent.wake {
				ent.wake = due
				p.touch(ent)
				p.index(ent.name, due)
			}
			return
		}
		e := &p.eff
		e.key, e.cause, e.now, e.eventTime = ent.key, ent.name+"@"+strconv.FormatInt(int64(due), 10), due, due.Millis()
		e.historical = p.meta.shop(ent.key.Shop).mode() != ModeLive
		e.trace, e.kinds, e.unobserved, e.model = "", e.kinds[:0], unobserved, p.models.of(ent.key.Shop)
		e.wake, e.wakeSet, e.drop = 0, true, false
		outs, ordinal := len(e.outs), e.source.Ordinal
		if err := p.foldWake(&ent.state, ent.key, due); err != nil {
			// A wake-up has no record to put aside: the entity sleeps, counted.
			e.outs, e.source.Ordinal = e.outs[:outs], ordinal
			e.wake, e.wakeSet = 0, true
			p.meta.Counts.Dead++
		}
		p.meta.Counts.Woken++
		ent.wake = 0
		p.after(ent, due+1)
	}
}

// wait holds a fact back. Kept says that the state has its record, and the log
// need not.
func (p *Partition[S]) wait(h *header[S], r *record.Record, kept bool) {
	w := p.offsets.room()
	p.held.room(len(h.fact.Value) + packedSize(r.Headers))
	from := len(p.held.free)
	p.held.free = append(p.held.free, h.fact.Value...)
	h.fact.Value = p.held.cut(from)
	*w = waiting{fact: h.fact, name: h.name, effective: h.effective, origin: origin{appended: r.AppendTime, kept: kept}}
	from = len(p.held.free)
	p.held.free = packHeaders(p.held.free, r.Headers)
	w.headers = p.held.cut(from)
	q := p.facts[h.key.Shop]
	if q == nil {
		q = &factQueue{}
		p.facts[h.key.Shop] = q
	}
	q.add(w)
	if kept {
		p.kept++
	} else {
		p.offsets.add(w)
	}
	p.waits++
}
