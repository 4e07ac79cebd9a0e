package step

import (
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
	n          map[string]int

	outs    []pending
	wake    Instant
	wakeSet bool
	drop    bool
}

// pending is an effect with the offset that caused it.
type pending struct {
	out    record.Out
	offset int64
}

// Publish appends m to what follows.
func (e *Effects) Publish(m Message) {
	id := m.ID
	if id == "" {
		if e.n == nil {
			e.n = map[string]int{}
		}
		id = e.cause + "/" + m.Kind
		if n := e.n[m.Kind]; n > 0 {
			id += "." + strconv.Itoa(n)
		}
		e.n[m.Kind]++
	}
	at := m.EventTime
	if at == 0 {
		at = e.eventTime
	}
	headers := make([]record.Header, 0, 12)
	headers = append(headers,
		record.Header{Key: record.HeaderSpecVersion, Value: []byte("1.0")},
		record.Header{Key: record.HeaderID, Value: []byte(id)},
		record.Header{Key: record.HeaderType, Value: []byte(m.Type)},
		record.Header{Key: record.HeaderSource, Value: []byte("/sillage/" + e.key.Shop)},
		record.Header{Key: record.HeaderTime, Value: strconv.AppendInt(nil, at, 10)},
		record.Header{Key: record.HeaderShop, Value: []byte(e.key.Shop)},
		record.Header{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, int64(e.now), 10)},
		record.Header{Key: record.HeaderPosition, Value: []byte(e.source.String())},
	)
	if m.Subject != "" {
		headers = append(headers, record.Header{Key: record.HeaderSubject, Value: []byte(m.Subject)})
	}
	if e.historical {
		headers = append(headers, record.Header{Key: record.HeaderHistorical, Value: []byte("1")})
	}
	if e.trace != "" {
		headers = append(headers, record.Header{Key: record.HeaderTraceParent, Value: []byte(e.trace)})
	}
	kind := "application/protobuf"
	if m.JSON {
		kind = "application/json"
	}
	headers = append(headers, record.Header{Key: record.HeaderContentType, Value: []byte(kind)})
	e.outs = append(e.outs, pending{
		out:    record.Out{Topic: m.Topic, Partition: record.ByKey, Key: []byte(e.key.Shop + "/" + m.Key), Value: m.Value, Headers: headers},
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

// Unobserved lists the stretches of the shop's time in which nothing was
// observed, in order: silence in them is no silence.
func (e *Effects) Unobserved() []Interval { return e.unobserved }
