package step

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// maxReason bounds the reason that a dead letter carries: it comes from a fold,
// and may quote what it could not read.
const maxReason = 1000

// letterWeeks is how long a partition remembers which records died, so that each
// can be put back once: longer than the dead-letter topic keeps them.
const letterWeeks = 5

const week = 7 * 24 * 3_600_000 // ms

// letterLog is the store's log of the records that died in a week of append
// time: their offsets, and once more the offset of one that was put back.
func letterLog(week int64) string { return "dead." + strconv.FormatInt(week, 10) }

// dead sends a record to the dead-letter topic, as it came, with the reason and
// what is needed to put it back.
func (p *Partition[S]) dead(r *record.Record, reason error) {
	p.meta.Counts.Dead++
	p.letter(r.Offset, r.AppendTime)
	if p.cfg.DeadLetters == "" {
		return
	}
	attempt := 1
	if n, err := strconv.Atoi(string(r.Header(record.HeaderRequeueAttempt))); err == nil && n > 1 {
		attempt = n
	}
	text := strings.ToValidUTF8(reason.Error(), "?")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "..."
	}
	headers := append(slices.Clip(slices.Clone(r.Headers)),
		record.Header{Key: record.HeaderReason, Value: []byte(text)},
		record.Header{Key: record.HeaderDeadProcessor, Value: []byte(p.cfg.Processor)},
		record.Header{Key: record.HeaderDeadOrigin, Value: fmt.Appendf(nil, "%s/%d/%d", p.cfg.Topic, p.cfg.Partition, r.Offset)},
		record.Header{Key: record.HeaderDeadPosition, Value: []byte(p.eff.source.String())},
		record.Header{Key: record.HeaderDeadAppended, Value: strconv.AppendInt(nil, r.AppendTime, 10)},
		record.Header{Key: record.HeaderDeadFold, Value: strconv.AppendInt(nil, int64(p.cfg.FoldVersion), 10)},
		record.Header{Key: record.HeaderDeadAttempts, Value: strconv.AppendInt(nil, int64(attempt), 10)},
	)
	part := record.ByKey
	if len(r.Key) == 0 {
		part = 0
	}
	p.eff.outs = append(p.eff.outs, pending{
		out:    record.Out{Topic: p.cfg.DeadLetters, Partition: part, Key: slices.Clone(r.Key), Value: slices.Clone(r.Value), Headers: headers},
		offset: p.eff.source.Offset,
	})
	p.eff.source.Ordinal++
}

// deadFact is dead for a fact that has waited.
func (p *Partition[S]) deadFact(w *waiting, reason error) {
	r := w.record(p.cfg)
	p.dead(&r, reason)
}

// letter remembers that the record at an offset died.
func (p *Partition[S]) letter(offset, appended int64) {
	at := appended / week
	if !slices.Contains(p.meta.Weeks, at) {
		p.meta.Weeks = append(p.meta.Weeks, at)
		slices.Sort(p.meta.Weeks)
		for last := p.meta.Weeks[len(p.meta.Weeks)-1]; p.meta.Weeks[0] < last-letterWeeks; {
			old := p.meta.Weeks[0]
			p.meta.Weeks = slices.Delete(p.meta.Weeks, 0, 1)
			delete(p.newLetters, old)
			p.oldLetters = append(p.oldLetters, old)
			for offset, w := range p.letters {
				if w == old {
					delete(p.letters, offset)
				}
			}
		}
		if !slices.Contains(p.meta.Weeks, at) {
			return // appended long before what died last: the letter has expired, too
		}
	}
	p.letters[offset] = at
	p.newLetters[at] = binary.LittleEndian.AppendUint64(p.newLetters[at], uint64(offset))
}

// open takes the record at an offset out of those that died; false where it is
// none of them (any more).
func (p *Partition[S]) open(offset int64) bool {
	at, ok := p.letters[offset]
	if !ok {
		return false
	}
	delete(p.letters, offset)
	p.newLetters[at] = binary.LittleEndian.AppendUint64(p.newLetters[at], uint64(offset))
	return true
}

// restoreLetters reads a log of dead records.
func (p *Partition[S]) restoreLetters(name string, data []byte) error {
	at, err := strconv.ParseInt(strings.TrimPrefix(name, "dead."), 10, 64)
	if err != nil {
		return fmt.Errorf("read the log of dead records %q: %w", name, err)
	}
	for ; len(data) >= 8; data = data[8:] {
		offset := int64(binary.LittleEndian.Uint64(data))
		if _, ok := p.letters[offset]; ok {
			delete(p.letters, offset)
			continue
		}
		p.letters[offset] = at
	}
	return nil
}

// letterLogs are the logs of those that died and were not put back.
func (p *Partition[S]) letterLogs() []LogAppend {
	var logs []LogAppend
	for _, at := range p.meta.Weeks {
		var offsets []int64
		for offset, w := range p.letters {
			if w == at {
				offsets = append(offsets, offset)
			}
		}
		slices.Sort(offsets)
		var data []byte
		for _, offset := range offsets {
			data = binary.LittleEndian.AppendUint64(data, uint64(offset))
		}
		if data != nil {
			logs = append(logs, LogAppend{Name: letterLog(at), Data: data})
		}
	}
	return logs
}

// requeued folds a record that an operator has put back: only where it was put
// back for this processor, and only if it died here and was not put back before.
// Who has folded the first one already must not fold it again, and a state that
// was rebuilt with a fold that knows better has it already. Known ids and
// positions are not asked: the first one has left them. It keeps its id and its
// event time, and counts now.
func (p *Partition[S]) requeued(r *record.Record, h *header[S]) {
	if h.requeued != p.cfg.Processor || h.control || h.shared { // the next model is there already
		p.meta.Counts.Unknown++
		return
	}
	of, offset, err := parseRequeueOf(string(r.Header(record.HeaderRequeueOf)))
	if err != nil || of != p.cfg.LogID+"/"+strconv.Itoa(int(p.cfg.Partition)) || !p.open(offset) {
		p.meta.Counts.Duplicates++
		return
	}
	p.meta.Counts.Requeued++
	switch {
	case h.err != nil:
		p.dead(r, h.err)
	case !p.wants(h):
		p.meta.Counts.Unknown++
	case p.cfg.Client:
		p.clientAgain(r, h)
	default:
		// All that is older has been lived: it counts now, in either order.
		p.arrive(h, max(h.effective, p.meta.shop(h.key.Shop).Clock), r)
	}
}

// parseRequeueOf takes log/partition/offset apart.
func parseRequeueOf(s string) (source string, offset int64, err error) {
	cut := strings.LastIndexByte(s, '/')
	if cut < 0 {
		return "", 0, fmt.Errorf("%s %q: want log/partition/offset", record.HeaderRequeueOf, s)
	}
	offset, err = strconv.ParseInt(s[cut+1:], 10, 64)
	return s[:cut], offset, err
}

// clientAgain is client for a record that was put back.
func (p *Partition[S]) clientAgain(r *record.Record, h *header[S]) {
	e, err := readEnvelope(r.Value)
	if err == nil && e.shop != h.key.Shop {
		err = fmt.Errorf("event of shop %q under a key of shop %q", e.shop, h.key.Shop)
	}
	if err != nil {
		p.dead(r, err)
		return
	}
	h.fact.ID, h.fact.EventTime, h.fact.Historical = e.messageID, e.eventTime, e.imported
	before := p.meta.Counts.Dead
	p.stamp(r, h, max(FromMillis(e.eventTime), Instant(e.notBefore)))
	if e.imported && p.meta.Counts.Dead == before {
		count := p.count(e.shop, e.importID)
		count.Folded++
		count.Lines += e.lines
		if count.Dead > 0 {
			count.Dead--
			count.DeadLines -= e.lines
		}
	}
}

// origin is what a fact that waits keeps of its record beside the fact: enough to
// write the record again, byte for byte.
type origin struct {
	appended int64
	headers  []byte // packed
	kept     bool   // in the archive of the state, not in the log
	done     bool   // folded: its place in the offset queue is void
}

// packed are the names that packed headers do not spell out, in the order in
// which [Effects.Publish] writes them.
var packed = [...]string{
	record.HeaderSpecVersion, record.HeaderID, record.HeaderType, record.HeaderSource,
	record.HeaderTime, record.HeaderShop, record.HeaderEffective, record.HeaderPosition,
	record.HeaderSubject, record.HeaderHistorical, record.HeaderTraceParent, record.HeaderContentType,
}

// packHeaders appends headers as one string of bytes: of each the number of its
// name in packed, or their number and the name, and its value.
func packHeaders(dst []byte, headers []record.Header) []byte {
	at := 0 // where the next name stands, mostly
	for i := range headers {
		h := &headers[i]
		n := 0
		for n < len(packed) && packed[at] != h.Key {
			n++
			if at++; at == len(packed) {
				at = 0
			}
		}
		if n == len(packed) {
			dst = append(dst, byte(len(packed)))
			dst = binary.AppendUvarint(dst, uint64(len(h.Key)))
			dst = append(dst, h.Key...)
		} else {
			dst = append(dst, byte(at))
		}
		if h.Value == nil {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(h.Value))+1)
		dst = append(dst, h.Value...)
	}
	return dst
}

// packedSize is at least what packHeaders appends.
func packedSize(headers []record.Header) (n int) {
	for i := range headers {
		n += 1 + 2*binary.MaxVarintLen32 + len(headers[i].Key) + len(headers[i].Value)
	}
	return n
}

// unpackHeaders reads what packHeaders has written.
func unpackHeaders(data []byte) (headers []record.Header) {
	take := func(n uint64) []byte {
		b := data[:n:n]
		data = data[n:]
		return b
	}
	number := func() uint64 {
		v, n := binary.Uvarint(data)
		data = data[n:]
		return v
	}
	for len(data) > 0 {
		var h record.Header
		if name := take(1)[0]; int(name) < len(packed) {
			h.Key = packed[name]
		} else {
			h.Key = string(take(number()))
		}
		if n := number(); n > 0 {
			h.Value = take(n - 1)
		}
		headers = append(headers, h)
	}
	return headers
}

// record is the record that the fact came in.
func (w *waiting) record(cfg Config) record.Record {
	return record.Record{
		Topic: cfg.Topic, Partition: cfg.Partition, Offset: w.fact.Offset, AppendTime: w.appended,
		Key: []byte(w.name), Value: w.fact.Value, Headers: unpackHeaders(w.headers),
	}
}

// archiveLog is the store's log of facts that wait and need not be in Kafka's: a
// snapshot carries them, and what has waited for long goes there. It is deleted
// when none of it waits any more.
const archiveLog = "waiting"

// Archive returns the records that wait as a log of the state. A state that has
// it, with a fence whose Low is its Next, needs nothing of Kafka's log below
// Next.
func (p *Partition[S]) Archive() LogAppend { return p.archive(func(*waiting) bool { return true }) }

// archive encodes some of the facts that wait, in the order of their offsets; no
// Data where there are none.
func (p *Partition[S]) archive(which func(*waiting) bool) LogAppend {
	var all []*waiting
	for _, q := range p.facts {
		for _, w := range q.heap {
			if !w.done && which(w.waiting) {
				all = append(all, w.waiting)
			}
		}
	}
	slices.SortFunc(all, func(a, b *waiting) int { return cmp.Compare(a.fact.Offset, b.fact.Offset) })
	return LogAppend{Name: archiveLog, Data: p.pack(all)}
}

// What waits goes from Kafka's log into the archive: where it has waited for an
// hour of append time, or where more waits than a claim should have to read
// again. At most archiveBatch facts go with one batch.
const (
	archiveAfter = 3_600_000 // ms
	archiveOver  = 200_000
	archiveBatch = 5_000
)

// archiveOld takes the oldest facts that wait into the archive: a source that is
// stuck, or an import that never ends, must not hold the log for ever. It returns
// what becomes of the archive's log.
func (p *Partition[S]) archiveOld() (logs []LogAppend) {
	if p.archived && p.kept == 0 {
		p.archived = false
		logs = append(logs, LogAppend{Name: archiveLog})
	}
	var old []*waiting
	for w := p.offsets.head(); w != nil && len(old) < archiveBatch; w = p.offsets.head() {
		if p.appended-w.appended < archiveAfter && p.waits-p.kept <= archiveOver {
			break
		}
		w.kept = true
		p.kept++
		old = append(old, w)
	}
	if old != nil {
		p.archived = true
		logs = append(logs, LogAppend{Name: archiveLog, Data: p.pack(old)})
	}
	return logs
}

// pack encodes facts.
func (p *Partition[S]) pack(all []*waiting) []byte {
	var data []byte
	bytes := func(b []byte) {
		data = binary.AppendUvarint(data, uint64(len(b)))
		data = append(data, b...)
	}
	for _, w := range all {
		r := w.record(p.cfg)
		data = binary.AppendVarint(data, r.Offset)
		data = binary.AppendVarint(data, r.AppendTime)
		data = binary.AppendVarint(data, int64(w.effective))
		bytes(r.Key)
		bytes(r.Value)
		data = binary.AppendUvarint(data, uint64(len(r.Headers)))
		for _, h := range r.Headers {
			bytes([]byte(h.Key))
			bytes(h.Value)
		}
	}
	return data
}

var errArchive = errors.New("archive of what waits is cut off")

// restoreArchive lets what a snapshot carried wait again. What was effective
// before the clock has been folded since.
func (p *Partition[S]) restoreArchive(data []byte) error {
	short := false
	number := func() int64 {
		v, n := binary.Varint(data)
		if n <= 0 {
			short = true
			return 0
		}
		data = data[n:]
		return v
	}
	count := func() uint64 {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			short = true
			return 0
		}
		data = data[n:]
		return v
	}
	bytes := func() []byte {
		n := count()
		if n > uint64(len(data)) {
			short = true
			return nil
		}
		b := slices.Clone(data[:n])
		data = data[n:]
		return b
	}
	for len(data) > 0 {
		r := record.Record{Topic: p.cfg.Topic, Partition: p.cfg.Partition, Offset: number(), AppendTime: number()}
		effective := Instant(number())
		r.Key, r.Value = bytes(), bytes()
		for n := count(); n > 0 && !short; n-- {
			r.Headers = append(r.Headers, record.Header{Key: string(bytes()), Value: bytes()})
		}
		if short {
			return errArchive
		}
		h := p.readHead(&r)
		if h.err != nil || h.control || !p.wants(h) {
			continue
		}
		if shop := p.meta.Shops[h.key.Shop]; shop != nil && effective < shop.Clock {
			continue
		}
		h.effective = effective
		// A copy of it may stand where the log is read again.
		p.reading[string(r.Header(record.HeaderPosition))] = true
		p.wait(h, &r, true)
	}
	p.archived = true
	return nil
}
