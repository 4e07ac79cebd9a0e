package record

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Header names. The ce_ names are those of CloudEvents' Kafka binding in
// binary mode; the others are Sillage's own.
const (
	HeaderID          = "ce_id"
	HeaderType        = "ce_type"
	HeaderSource      = "ce_source"
	HeaderSubject     = "ce_subject"
	HeaderTime        = "ce_time" // event time, milliseconds UTC, decimal
	HeaderSpecVersion = "ce_specversion"
	HeaderShop        = "shop"           // the tenant
	HeaderEffective   = "effective-time" // microseconds UTC, decimal; derived records only
	HeaderPosition    = "position"       // Position.String; derived records only
	HeaderHistorical  = "historical"     // "1" where an import caused the record
	HeaderTraceParent = "traceparent"
	HeaderEmittedAt   = "emitted-at" // wall time, milliseconds UTC: outside the payload, so that repeats are equal
	HeaderContentType = "content-type"
)

// Headers of a dead letter, behind those of the record that died.
const (
	HeaderReason        = "dlq-reason"
	HeaderDeadProcessor = "dlq-processor"    // that could not fold it
	HeaderDeadOrigin    = "dlq-origin"       // topic/partition/offset of the record that died
	HeaderDeadPosition  = "dlq-position"     // Position.String of the letter itself; the log is the origin's
	HeaderDeadAppended  = "dlq-appended"     // when the record was appended, milliseconds UTC
	HeaderDeadFold      = "dlq-fold-version" // of the processor
	HeaderDeadAttempts  = "dlq-attempts"     // how often it has been folded in vain
)

// Headers of a record that an operator has put back into the topic it died in,
// behind those that it had.
const (
	HeaderRequeueFor     = "requeue-for"     // the only processor that may fold it
	HeaderRequeueOf      = "requeue-of"      // log/partition/offset of the record that died
	HeaderRequeueAttempt = "requeue-attempt" // which one this is, from 2 on
	HeaderRequeueBy      = "requeue-by"      // who put it back
	HeaderRequeueAt      = "requeue-at"      // when, milliseconds UTC
	HeaderRequeueWhy     = "requeue-why"
)

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Record is one Kafka record, as fetched or about to be appended.
//
// The byte slices of a fetched record share the memory of the fetch; who keeps
// one beyond the batch copies it.
type Record struct {
	Topic      string
	Partition  int32
	Offset     int64
	AppendTime int64 // wall time of the append, milliseconds UTC
	Key        []byte
	Value      []byte
	Headers    []Header
}

// Header returns the value of the first header called name, or nil.
func (r *Record) Header(name string) []byte {
	for i := range r.Headers {
		if r.Headers[i].Key == name {
			return r.Headers[i].Value
		}
	}
	return nil
}

// Position is where a derived record comes from: the record that was being
// folded when it was made, and its place among what that record made.
// Positions of one (Log, Partition) only grow in every partition they are
// written to, which is what makes a highest position enough to drop repeats.
type Position struct {
	Log       string // source log id: cluster id and topic id
	Partition int32
	Offset    int64
	Ordinal   int32
}

// After tells whether p comes after o in the same source partition.
func (p Position) After(o Position) bool {
	if p.Offset != o.Offset {
		return p.Offset > o.Offset
	}
	return p.Ordinal > o.Ordinal
}

// String is the form that stands in the position header:
// log/partition/offset/ordinal.
func (p Position) String() string { return string(p.Append(make([]byte, 0, len(p.Log)+32))) }

// Append appends what String returns.
func (p Position) Append(b []byte) []byte {
	b = append(b, p.Log...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(p.Partition), 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, p.Offset, 10)
	b = append(b, '/')
	return strconv.AppendInt(b, int64(p.Ordinal), 10)
}

// CutPosition takes what String wrote apart: the source, which is log and
// partition, and the place in it. Without allocations, for who knows the source
// from the record before; ParsePosition checks everything.
func CutPosition(b []byte) (source []byte, offset int64, ordinal int32, ok bool) {
	rest, o, ok := cutNumber(b)
	if !ok || o > math.MaxInt32 {
		return nil, 0, 0, false
	}
	source, offset, ok = cutNumber(rest)
	return source, offset, int32(o), ok
}

// cutNumber cuts the decimal number behind the last slash off.
func cutNumber(b []byte) (rest []byte, n int64, ok bool) {
	cut := bytes.LastIndexByte(b, '/')
	if cut < 0 || cut == len(b)-1 || len(b)-cut > 20 { // 19 digits
		return nil, 0, false
	}
	for _, c := range b[cut+1:] {
		if c < '0' || c > '9' {
			return nil, 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return b[:cut], n, n >= 0 // 19 digits that are too many end below 0
}

// ParsePosition reads what String wrote.
func ParsePosition(s string) (Position, error) {
	var p Position
	rest := s
	var field [3]int64
	for i := 2; i >= 0; i-- {
		cut := strings.LastIndexByte(rest, '/')
		if cut < 0 {
			return p, fmt.Errorf("position %q: want log/partition/offset/ordinal", s)
		}
		bits := 64
		if i != 1 {
			bits = 32
		}
		n, err := strconv.ParseInt(rest[cut+1:], 10, bits)
		if err != nil || n < 0 {
			return p, fmt.Errorf("position %q: %q is not a number in range", s, rest[cut+1:])
		}
		field[i], rest = n, rest[:cut]
	}
	if rest == "" {
		return p, fmt.Errorf("position %q: no log id", s)
	}
	return Position{Log: rest, Partition: int32(field[0]), Offset: field[1], Ordinal: int32(field[2])}, nil
}

// ByKey as an Out's partition lets the key choose it.
const ByKey int32 = -1

// Out is a record about to be appended.
type Out struct {
	Topic     string
	Partition int32 // ByKey: murmur2 of the key over the topic's partitions
	Key       []byte
	Value     []byte
	Headers   []Header
}
