package step

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// Instant is a moment in microseconds since 1970, UTC.
type Instant int64

// Millis is the moment in milliseconds, rounded down.
func (t Instant) Millis() int64 { return int64(t) / 1000 }

// FromMillis is the Instant of a time in milliseconds.
func FromMillis(ms int64) Instant { return Instant(ms * 1000) }

// Fact is a record as a fold sees it.
type Fact struct {
	ID         string // ce_id
	Type       string // ce_type
	Shop       string
	Key        string // the record's key, without the shop
	EventTime  int64  // milliseconds UTC: when it was true
	Historical bool   // caused by an import
	Value      []byte // valid during the call only
	Offset     int64
	Trace      string // traceparent
}

// Fold decides for one entity. It is pure: what it reads are its arguments,
// what it does is in out. The same calls give the same state and effects,
// byte for byte, in any process.
type Fold[S any] interface {
	// Record folds a fact that counts now. An error sends the record to the
	// dead-letter topic with the error as its reason; s must then be unchanged.
	Record(s *S, f Fact, now Instant, out *Effects) error
	// Wake is called when the entity's wake-up is due.
	Wake(s *S, key Key, now Instant, out *Effects)
}

// Modelled is a [Fold] that reads what somebody else has learnt across the
// entities of a shop: the shop's fitter, which broadcasts it as model records of
// type [Config.Model]. Model makes of the last one what [Effects.Model] hands out;
// it is pure, is called once for each, and once at a claim, and its result is
// shared by all entities and only read. An error sends the record to the
// dead-letter topic, and the model before it stays.
type Modelled interface {
	Model(shop string, data []byte) (any, error)
}

// Codec turns an entity's state into the store's bytes and back. Unmarshal
// reads every version ever written.
type Codec[S any] interface {
	Append(dst []byte, s *S) []byte
	Unmarshal(data []byte, s *S) error
}

// Key names an entity: the shop, and the record key within it.
type Key struct {
	Shop string
	ID   string
}

// String is the entity's name in the store.
func (k Key) String() string { return k.Shop + "/" + k.ID }

// Interval is a stretch of time in which nothing was observed.
type Interval struct {
	From, To Instant
}

// Message is something that follows from a fold.
type Message struct {
	Topic     string
	Key       string // chooses the partition, with the shop in front
	Broadcast bool   // into every partition of Topic, which is one of [Config.Broadcast]; Key is not read
	Type      string
	ID        string // outside ids only; inside, the runtime makes one of cause, kind and number
	Kind      string // short name of what follows, part of the id
	Subject   string
	EventTime int64 // milliseconds UTC; 0: now
	Value     []byte
	JSON      bool // the value is JSON, not protobuf
}

// Effects collects what follows from one call of a fold.
type Effects struct {
	key        Key
	cause      string // id of the fact, or entity and due time
	now        Instant
	eventTime  int64
	historical bool
	trace      string
	source     record.Position // of the record being folded; Ordinal counts
	unobserved []Interval
	model      any
	foreign    bool     // the record is somebody else's
	broadcast  []Target // see Config
	kinds      []kindCount

	outs    []pending
	wake    Instant
	wakeSet bool
	drop    bool

	bytes   arena
	headers []record.Header // room for those of the next messages
}

// kindCount is how many messages of a kind one call has published.
type kindCount struct {
	kind string
	n    int
}

// pending is an effect with the offset that caused it.
type pending struct {
	out    record.Out
	offset int64
}

// arena cuts small byte strings out of large pieces, which live as long as any
// of the strings: those of one batch go together.
type arena struct{ free []byte }

const arenaPiece = 32 << 10

// room makes sure that n more bytes lie in one piece.
func (a *arena) room(n int) {
	if cap(a.free)-len(a.free) < n {
		a.free = make([]byte, 0, max(n, arenaPiece))
	}
}

// cut returns what was appended since from.
func (a *arena) cut(from int) []byte { return a.free[from:len(a.free):len(a.free)] }

func (a *arena) text(parts ...string) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	a.room(n)
	from := len(a.free)
	for _, p := range parts {
		a.free = append(a.free, p...)
	}
	return a.cut(from)
}

func (a *arena) number(v int64) []byte {
	a.room(20)
	from := len(a.free)
	a.free = strconv.AppendInt(a.free, v, 10)
	return a.cut(from)
}

func (a *arena) position(p record.Position) []byte {
	a.room(len(p.Log) + 64)
	from := len(a.free)
	a.free = p.Append(a.free)
	return a.cut(from)
}

// count tells how many messages of a kind the call has published before.
func (e *Effects) count(kind string) int {
	for i := range e.kinds {
		if k := &e.kinds[i]; k.kind == kind {
			k.n++
			return k.n - 1
		}
	}
	e.kinds = append(e.kinds, kindCount{kind, 1})
	return 0
}

// What is the same in the headers of every message.
const (
	specVersion     = "1.0" // of CloudEvents
	sourcePrefix    = "/sillage/"
	contentProtobuf = "application/protobuf"
	contentJSON     = "application/json"
)

// maxHeaders is how many headers a message may have.
const maxHeaders = 12

// Publish appends m to what follows.
func (e *Effects) Publish(m Message) {
	id := e.id(m)
	if !m.Broadcast {
		e.publish(m, id, record.ByKey, e.bytes.text(e.key.Shop, "/", m.Key))
		return
	}
	at := slices.IndexFunc(e.broadcast, func(t Target) bool { return t.Topic == m.Topic })
	if at < 0 {
		panic(fmt.Sprintf("%q is no topic that this processor may broadcast to", m.Topic))
	}
	for i := range e.broadcast[at].Partitions {
		e.publish(m, id, i, nil)
	}
}

// id names a message after what causes it.
func (e *Effects) id(m Message) []byte {
	b := &e.bytes
	if m.ID != "" {
		return b.text(m.ID)
	}
	cause := e.cause
	if cause == "" && e.foreign { // nobody named the record: its place does
		cause = e.source.Log + "/" + strconv.Itoa(int(e.source.Partition)) + "/" + strconv.FormatInt(e.source.Offset, 10)
	}
	if n := e.count(m.Kind); n > 0 {
		return b.text(cause, "/", m.Kind, ".", strconv.Itoa(n))
	}
	return b.text(cause, "/", m.Kind)
}

// publish appends one record.
func (e *Effects) publish(m Message, id []byte, partition int32, key []byte) {
	b := &e.bytes
	at := m.EventTime
	if at == 0 {
		at = e.eventTime
	}
	if cap(e.headers)-len(e.headers) < maxHeaders {
		e.headers = make([]record.Header, 0, 64*maxHeaders)
	}
	from := len(e.headers)
	headers := append(e.headers,
		record.Header{Key: record.HeaderSpecVersion, Value: b.text(specVersion)},
		record.Header{Key: record.HeaderID, Value: id},
		record.Header{Key: record.HeaderType, Value: b.text(m.Type)},
		record.Header{Key: record.HeaderSource, Value: b.text(sourcePrefix, e.key.Shop)},
		record.Header{Key: record.HeaderTime, Value: b.number(at)},
		record.Header{Key: record.HeaderShop, Value: b.text(e.key.Shop)},
		record.Header{Key: record.HeaderEffective, Value: b.number(int64(e.now))},
		record.Header{Key: record.HeaderPosition, Value: b.position(e.source)},
	)
	if m.Subject != "" {
		headers = append(headers, record.Header{Key: record.HeaderSubject, Value: b.text(m.Subject)})
	}
	if e.historical {
		headers = append(headers, record.Header{Key: record.HeaderHistorical, Value: b.text("1")})
	}
	if e.trace != "" {
		headers = append(headers, record.Header{Key: record.HeaderTraceParent, Value: b.text(e.trace)})
	}
	kind := contentProtobuf
	if m.JSON {
		kind = contentJSON
	}
	headers = append(headers, record.Header{Key: record.HeaderContentType, Value: b.text(kind)})
	e.headers = headers
	e.outs = append(e.outs, pending{
		out:    record.Out{Topic: m.Topic, Partition: partition, Key: key, Value: m.Value, Headers: headers[from:len(headers):len(headers)]},
		offset: e.source.Offset,
	})
	e.source.Ordinal++
}

// WakeAt sets the entity's wake-up, in place of an earlier one. A wake-up is
// never set before now.
func (e *Effects) WakeAt(t Instant) { e.wake, e.wakeSet = t, true }

// Sleep clears the entity's wake-up.
func (e *Effects) Sleep() { e.wake, e.wakeSet = 0, true }

// Drop forgets the entity.
func (e *Effects) Drop() { e.drop = true }

// Key is the entity being folded.
func (e *Effects) Key() Key { return e.key }

// Historical tells whether an import caused what is being folded.
func (e *Effects) Historical() bool { return e.historical }

// Model is what the shop's fitter has learnt, as the fold's [Modelled] made it of
// the last model record; nil where there was none.
func (e *Effects) Model() any { return e.model }

// Unobserved lists the stretches of the shop's time in which nothing was
// observed, in order: silence in them is no silence.
func (e *Effects) Unobserved() []Interval { return e.unobserved }
