package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Batch says who writes a record batch.
type Batch struct {
	ProducerID int64
	Epoch      int16
	Sequence   int32 // of the first record
	Time       int64 // wall time, milliseconds UTC: of all records
}

// Layout of a version 2 record batch (KIP-98).
const (
	batchHeader   = 61
	offsetLength  = 8
	offsetMagic   = 16
	offsetCRC     = 17
	offsetAttr    = 21
	offsetLast    = 23
	offsetBaseTS  = 27
	offsetMaxTS   = 35
	offsetPID     = 43
	offsetEpoch   = 51
	offsetSeq     = 53
	offsetCount   = 57
	attrCodec     = 0x07
	attrAppend    = 0x08
	attrControl   = 0x20
	maxInflated   = 64 << 20
	noTimestamp   = -1
	minRecordSize = 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrBatch is wrapped by every error about the bytes of a record batch.
var ErrBatch = errors.New("record batch is damaged")

// AppendBatch appends the records as one uncompressed batch, as a broker takes
// it. The same arguments give the same bytes.
func AppendBatch(dst []byte, b Batch, outs []Out) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, batchHeader)...)
	for i := range outs {
		dst = appendRecord(dst, int64(i), &outs[i])
	}
	return closeBatch(dst, start, b, len(outs))
}

// AppendBatchOf is AppendBatch of those of outs that which names, in its order.
func AppendBatchOf(dst []byte, b Batch, outs []Out, which []int) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, batchHeader)...)
	for i, o := range which {
		dst = appendRecord(dst, int64(i), &outs[o])
	}
	return closeBatch(dst, start, b, len(which))
}

// closeBatch writes the head of a batch of n records that begins at start.
func closeBatch(dst []byte, start int, b Batch, n int) []byte {
	h := dst[start:]
	be := binary.BigEndian
	be.PutUint32(h[offsetLength:], uint32(len(h)-offsetLength-4))
	be.PutUint32(h[12:], 0xffffffff) // partition leader epoch: unknown
	h[offsetMagic] = 2
	be.PutUint32(h[offsetLast:], uint32(n-1))
	be.PutUint64(h[offsetBaseTS:], uint64(b.Time))
	be.PutUint64(h[offsetMaxTS:], uint64(b.Time))
	be.PutUint64(h[offsetPID:], uint64(b.ProducerID))
	be.PutUint16(h[offsetEpoch:], uint16(b.Epoch))
	be.PutUint32(h[offsetSeq:], uint32(b.Sequence))
	be.PutUint32(h[offsetCount:], uint32(n))
	be.PutUint32(h[offsetCRC:], crc32.Checksum(h[offsetAttr:], castagnoli))
	return dst
}

// RecordSize is about how many bytes an Out takes in a batch.
func RecordSize(o *Out) int {
	n := 24 + len(o.Key) + len(o.Value)
	for i := range o.Headers {
		n += 6 + len(o.Headers[i].Key) + len(o.Headers[i].Value)
	}
	return n
}

func appendRecord(dst []byte, delta int64, o *Out) []byte {
	size := 1 + varintLen(0) + varintLen(delta) + bytesLen(o.Key) + bytesLen(o.Value) + varintLen(int64(len(o.Headers)))
	for i := range o.Headers {
		size += varintLen(int64(len(o.Headers[i].Key))) + len(o.Headers[i].Key) + bytesLen(o.Headers[i].Value)
	}
	dst = binary.AppendVarint(dst, int64(size))
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, 0)
	dst = binary.AppendVarint(dst, delta)
	dst = appendBytes(dst, o.Key)
	dst = appendBytes(dst, o.Value)
	dst = binary.AppendVarint(dst, int64(len(o.Headers)))
	for i := range o.Headers {
		dst = binary.AppendVarint(dst, int64(len(o.Headers[i].Key)))
		dst = append(dst, o.Headers[i].Key...)
		dst = appendBytes(dst, o.Headers[i].Value)
	}
	return dst
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	dst = binary.AppendVarint(dst, int64(len(b)))
	return append(dst, b...)
}

func bytesLen(b []byte) int {
	if b == nil {
		return 1
	}
	return varintLen(int64(len(b))) + len(b)
}

func varintLen(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}

// LeaderEpoch is the epoch of the leader that took the last whole batch of data
// that ends before next; -1 where there is none.
func LeaderEpoch(data []byte, next int64) int32 {
	be := binary.BigEndian
	epoch := int32(-1)
	for len(data) >= batchHeader {
		size := int64(int32(be.Uint32(data[offsetLength:]))) + offsetLength + 4
		if size < batchHeader || int64(len(data)) < size || int64(be.Uint64(data))+int64(int32(be.Uint32(data[offsetLast:]))) >= next {
			break
		}
		epoch = int32(be.Uint32(data[offsetLength+4:]))
		data = data[size:]
	}
	return epoch
}

// DecodeBatches decodes the record batches of a fetch answer. Records below
// wanted are left out (a batch is answered whole), control batches too; next
// is the offset behind the last whole batch, so that a fetch goes on behind
// what was left out. A batch cut off at the end is no error.
func DecodeBatches(topic string, partition int32, wanted int64, data []byte) (recs []Record, next int64, err error) {
	next = wanted
	be := binary.BigEndian
	recs = make([]Record, 0, countRecords(data))
	for len(data) >= batchHeader {
		base := int64(be.Uint64(data))
		length := int64(int32(be.Uint32(data[offsetLength:])))
		if length < batchHeader-offsetLength-4 {
			return recs, next, fmt.Errorf("%w: %d bytes long", ErrBatch, length)
		}
		if int64(len(data)) < length+offsetLength+4 {
			return recs, next, nil
		}
		b := data[:length+offsetLength+4]
		data = data[len(b):]
		if b[offsetMagic] != 2 {
			return recs, next, fmt.Errorf("%w: message format %d, want 2", ErrBatch, b[offsetMagic])
		}
		last := base + int64(int32(be.Uint32(b[offsetLast:])))
		if last < next {
			continue
		}
		if crc32.Checksum(b[offsetAttr:], castagnoli) != be.Uint32(b[offsetCRC:]) {
			return recs, next, fmt.Errorf("%w: checksum of the batch at offset %d", ErrBatch, base)
		}
		attr := be.Uint16(b[offsetAttr:])
		if attr&attrControl == 0 {
			body, err := inflate(int(attr&attrCodec), b[batchHeader:])
			if err != nil {
				return recs, next, fmt.Errorf("%w: inflate the batch at offset %d: %w", ErrBatch, base, err)
			}
			head := batchHead{
				topic: topic, partition: partition, base: base, wanted: wanted, count: int(int32(be.Uint32(b[offsetCount:]))),
				ts: int64(be.Uint64(b[offsetBaseTS:])), appended: noTimestamp,
			}
			if attr&attrAppend != 0 {
				head.appended = int64(be.Uint64(b[offsetMaxTS:]))
			}
			if recs, err = head.records(recs, body); err != nil {
				return recs, next, fmt.Errorf("%w: batch at offset %d: %w", ErrBatch, base, err)
			}
		}
		next = last + 1
	}
	return recs, next, nil
}

// countRecords is about how many records lie in the batches of an answer.
func countRecords(data []byte) int {
	n, most := 0, len(data)/minRecordSize
	for len(data) >= batchHeader {
		length := int64(int32(binary.BigEndian.Uint32(data[offsetLength:])))
		if length < 0 || int64(len(data)) < length+offsetLength+4 {
			break
		}
		n += max(0, int(int32(binary.BigEndian.Uint32(data[offsetCount:]))))
		data = data[length+offsetLength+4:]
	}
	return min(n, most)
}

type batchHead struct {
	topic                      string
	partition                  int32
	base, wanted, ts, appended int64
	count                      int
}

// records decodes a batch's body.
func (h *batchHead) records(recs []Record, body []byte) ([]Record, error) {
	if h.count < 0 || h.count > len(body)/minRecordSize+1 {
		return recs, fmt.Errorf("%d records in %d bytes", h.count, len(body))
	}
	r := reader{data: body}
	recs = slices.Grow(recs, h.count)
	var slab []Header // of many records
	for k := range h.count {
		size := r.varint()
		if r.bad || size < 0 || size > int64(len(r.data)) {
			return recs, errors.New("record is cut off")
		}
		one := reader{data: r.data[:size]}
		r.data = r.data[size:]
		one.byte()
		ts := one.varint()
		offset := h.base + one.varint()
		rec := Record{Topic: h.topic, Partition: h.partition, Offset: offset, AppendTime: h.ts + ts, Key: one.bytes(), Value: one.bytes()}
		if h.appended != noTimestamp {
			rec.AppendTime = h.appended
		}
		n := one.varint()
		if one.bad || n < 0 || n > int64(len(one.data)) {
			return recs, errors.New("record is malformed")
		}
		if n > 0 {
			if int64(len(slab)) < n {
				// The records of a batch mostly have equally many.
				slab = make([]Header, n*int64(min(h.count-k, 64)))
			}
			rec.Headers, slab = slab[:n:n], slab[n:]
			for i := range rec.Headers {
				rec.Headers[i] = Header{Key: headerName(one.bytes()), Value: one.bytes()}
			}
		}
		if one.bad {
			return recs, errors.New("record's headers are malformed")
		}
		if offset >= h.wanted {
			recs = append(recs, rec)
		}
	}
	return recs, nil
}

// headerName is a header's name, without an allocation where it is one of ours.
func headerName(b []byte) string {
	switch string(b) {
	case HeaderID:
		return HeaderID
	case HeaderType:
		return HeaderType
	case HeaderSource:
		return HeaderSource
	case HeaderSubject:
		return HeaderSubject
	case HeaderTime:
		return HeaderTime
	case HeaderSpecVersion:
		return HeaderSpecVersion
	case HeaderShop:
		return HeaderShop
	case HeaderEffective:
		return HeaderEffective
	case HeaderPosition:
		return HeaderPosition
	case HeaderHistorical:
		return HeaderHistorical
	case HeaderTraceParent:
		return HeaderTraceParent
	case HeaderEmittedAt:
		return HeaderEmittedAt
	case HeaderContentType:
		return HeaderContentType
	}
	return string(b)
}

// reader reads varints and byte strings; bad once anything was cut off.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) byte() {
	if len(r.data) == 0 {
		r.bad = true
		return
	}
	r.data = r.data[1:]
}

func (r *reader) bytes() []byte {
	n := r.varint()
	if n == -1 {
		return nil
	}
	if n < 0 || n > int64(len(r.data)) {
		r.bad, r.data = true, nil
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

// inflate undoes a batch's compression; what it gives is bounded.
func inflate(codec int, data []byte) ([]byte, error) {
	switch codec {
	case 0:
		return data, nil
	case 1:
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return bounded(z)
	case 2:
		return unsnappy(data)
	case 3:
		return bounded(lz4.NewReader(bytes.NewReader(data)))
	case 4:
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxInflated))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return bounded(z)
	}
	return nil, fmt.Errorf("unknown compression %d", codec)
}

func bounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxInflated+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxInflated {
		return nil, fmt.Errorf("more than %d bytes", maxInflated)
	}
	return b, nil
}

// unsnappy reads both forms: plain blocks, and the framing of Java's xerial.
func unsnappy(data []byte) ([]byte, error) {
	const xerial = "\x82SNAPPY\x00"
	if len(data) < 16 || string(data[:8]) != xerial {
		return block(nil, data)
	}
	var out []byte
	for data = data[16:]; len(data) >= 4; {
		n := int64(binary.BigEndian.Uint32(data))
		if n > int64(len(data)-4) {
			return nil, errors.New("snappy block is cut off")
		}
		var err error
		if out, err = block(out, data[4:4+n]); err != nil {
			return nil, err
		}
		data = data[4+n:]
	}
	return out, nil
}

func block(dst, data []byte) ([]byte, error) {
	n, err := s2.DecodedLen(data)
	if err != nil {
		return nil, err
	}
	if n+len(dst) > maxInflated {
		return nil, fmt.Errorf("more than %d bytes", maxInflated)
	}
	b, err := s2.Decode(nil, data)
	if err != nil {
		return nil, err
	}
	return append(dst, b...), nil
}
