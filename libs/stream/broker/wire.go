package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/segmentio/kafka-go/protocol"
)

// exchange is a request that this package writes and reads itself, because
// kafka-go knows only an older version or none. The transport routes it.
type exchange struct {
	key      protocol.ApiKey
	version  int16
	flexible bool // of the request and response headers (KIP-482)
	client   string
	body     []byte
	routes   []route // partitions whose common leader it goes to; none: any broker
	answer   []byte
}

type route struct {
	topic     string
	partition int32
}

// ApiKey names the request.
func (e *exchange) ApiKey() protocol.ApiKey { return e.key } //nolint:staticcheck // the name is the library's

// Required tells the transport that the exchange writes itself.
func (e *exchange) Required(map[protocol.ApiKey]int16) bool { return true }

const maxAnswer = 256 << 20

// RawExchange writes the request and reads the answer.
func (e *exchange) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	const correlation = 1
	b := make([]byte, 4, 32+len(e.body))
	b = binary.BigEndian.AppendUint16(b, uint16(e.key))
	b = binary.BigEndian.AppendUint16(b, uint16(e.version))
	b = binary.BigEndian.AppendUint32(b, correlation)
	b = appendString(b, e.client)
	if e.flexible {
		b = append(b, 0)
	}
	b = append(b, e.body...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	if _, err := rw.Write(b); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 4 || size > maxAnswer {
		return nil, fmt.Errorf("answer of %d bytes", size)
	}
	if got := binary.BigEndian.Uint32(head[4:]); got != correlation {
		return nil, fmt.Errorf("answer to request %d, want %d", got, correlation)
	}
	e.answer = make([]byte, size-4)
	if _, err := io.ReadFull(rw, e.answer); err != nil {
		return nil, err
	}
	if e.flexible {
		r := reader{b: e.answer}
		r.tags()
		e.answer = r.b
	}
	return e, nil
}

// routed is an exchange for the leader of its partitions.
type routed struct{ exchange }

// Broker finds the leader.
func (e *routed) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	found := protocol.Broker{ID: -1}
	for _, r := range e.routes {
		topic, ok := cluster.Topics[r.topic]
		if !ok {
			return found, protocol.NewErrNoTopic(r.topic)
		}
		p, ok := topic.Partitions[r.partition]
		if !ok {
			return found, protocol.NewErrNoPartition(r.topic, r.partition)
		}
		b, ok := cluster.Brokers[p.Leader]
		if !ok {
			return found, protocol.NewErrNoLeader(r.topic, r.partition)
		}
		if found.ID >= 0 && b.ID != found.ID {
			return found, fmt.Errorf("partitions of two leaders in one request (%d and %d)", found.ID, b.ID)
		}
		found = b
	}
	return found, nil
}

// directed is an exchange for one broker.
type directed struct {
	exchange
	node int32
}

// Broker finds it.
func (e *directed) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	b, ok := cluster.Brokers[e.node]
	if !ok {
		return b, fmt.Errorf("broker %d is not there", e.node)
	}
	return b, nil
}

var (
	_ protocol.RawExchanger  = (*exchange)(nil)
	_ protocol.BrokerMessage = (*routed)(nil)
	_ protocol.BrokerMessage = (*directed)(nil)
)

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// appendNullable writes a string where none is something else than an empty one.
func appendNullable(b []byte, s string) []byte {
	if s == "" {
		return appendInt16(b, -1)
	}
	return appendString(b, s)
}

func appendBytes(b, v []byte) []byte {
	return append(appendInt32(b, int32(len(v))), v...)
}

func appendInt16(b []byte, v int16) []byte { return binary.BigEndian.AppendUint16(b, uint16(v)) }
func appendInt32(b []byte, v int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(v)) }
func appendInt64(b []byte, v int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(v)) }

var errShort = errors.New("answer is cut off")

// reader reads the protocol's primitive types; after the first error it
// returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		if r.err == nil {
			r.err = errShort
		}
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) int8() int8 {
	if b := r.take(1); b != nil {
		return int8(b[0])
	}
	return 0
}

func (r *reader) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *reader) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// count reads the length of an array, at most what is left.
func (r *reader) count() int {
	n := int(r.int32())
	if n < 0 {
		return 0
	}
	if n > len(r.b) {
		r.err = errShort
		return 0
	}
	return n
}

func (r *reader) string() string {
	n := int(r.int16())
	if n < 0 {
		return ""
	}
	return string(r.take(n))
}

func (r *reader) bytes() []byte {
	n := int(r.int32())
	if n < 0 {
		return nil
	}
	return r.take(n)
}

func (r *reader) uvarint() int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > 1<<31 {
		if r.err == nil {
			r.err = errShort
		}
		return 0
	}
	r.b = r.b[n:]
	return int(v)
}

// compact reads a compact (KIP-482) string; null reads as empty.
func (r *reader) compact() string {
	n := r.uvarint()
	if n == 0 {
		return ""
	}
	return string(r.take(n - 1))
}

// compactCount reads the length of a compact array.
func (r *reader) compactCount() int {
	n := r.uvarint() - 1
	if n > len(r.b) {
		r.err = errShort
		return 0
	}
	return max(n, 0)
}

// compactBytes reads compact bytes; null reads as nil.
func (r *reader) compactBytes() []byte {
	n := r.uvarint()
	if n == 0 {
		return nil
	}
	return r.take(n - 1)
}

func (r *reader) topicID() (id topicID) {
	copy(id[:], r.take(len(id)))
	return id
}

// tags skips tagged fields.
func (r *reader) tags() { r.tagged(-1) }

// tagged skips tagged fields, and tells whether one of them is number n.
func (r *reader) tagged(n int) (found bool) {
	for range r.uvarint() {
		if r.uvarint() == n {
			found = true
		}
		r.take(r.uvarint())
	}
	return found
}

// divergence skips the tagged fields of a fetched partition, and tells whether
// the broker says that its log differs from what was read.
func (r *reader) divergence() bool { return r.tagged(0) }
