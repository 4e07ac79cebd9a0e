package stream

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
)

// Letter is a dead letter: a record that a processor could not fold.
type Letter struct {
	ID          string    `json:"id"` // of processor and record
	Processor   string    `json:"processor"`
	Log         string    `json:"log"`
	Topic       string    `json:"topic"`
	Partition   int32     `json:"partition"`
	Offset      int64     `json:"offset"`
	Shop        string    `json:"shop,omitempty"`
	Key         string    `json:"key,omitempty"`
	Type        string    `json:"type,omitempty"`
	EventID     string    `json:"event_id,omitempty"`
	EventTime   int64     `json:"event_time_ms,omitempty"`
	Appended    time.Time `json:"appended"` // the record
	Died        time.Time `json:"died"`     // the letter was appended
	Reason      string    `json:"reason"`
	Attempts    int       `json:"attempts"`
	FoldVersion int       `json:"fold_version"`
	Bytes       int       `json:"bytes"`
	Requeued    *Requeued `json:"requeued,omitempty"` // nil: open

	at Place // of the letter
	in int64
}

// Requeued says what became of a letter.
type Requeued struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Why    string    `json:"why,omitempty"`
	Offset int64     `json:"offset"` // of the record that was put back; -1: not known
}

// TypeRequeued is the type of the record that answers a dead letter.
const TypeRequeued = "sillage.dlq.requeued.v1"

const (
	headerAnswers  = "dlq-answers"         // id of the letter
	headerAnswered = "dlq-requeued-offset" // of the record that was put back
)

// letterID names what a processor could not fold.
func letterID(processor, log string, partition int32, offset int64) string {
	var sum [8]byte
	h := xxhash.Sum64String(fmt.Sprintf("%s|%s|%d|%d", processor, log, partition, offset))
	for i := range sum {
		sum[i] = byte(h >> (56 - 8*i))
	}
	return hex.EncodeToString(sum[:])
}

// readLetter reads a letter's headers.
func readLetter(r *record.Record) (Letter, error) {
	l := Letter{
		Processor: string(r.Header(record.HeaderDeadProcessor)), Reason: string(r.Header(record.HeaderReason)), Key: string(r.Key),
		Type: string(r.Header(record.HeaderType)), EventID: string(r.Header(record.HeaderID)), Bytes: len(r.Value),
		Died: time.UnixMilli(r.AppendTime).UTC(), at: Place{Topic: r.Topic, Partition: r.Partition}, in: r.Offset,
	}
	var err error
	number := func(name string) (n int64) {
		v := string(r.Header(name))
		n, e := strconv.ParseInt(v, 10, 64)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s %q is no number", name, v))
		}
		return n
	}
	l.EventTime, _ = strconv.ParseInt(string(r.Header(record.HeaderTime)), 10, 64)
	l.Appended = time.UnixMilli(number(record.HeaderDeadAppended)).UTC()
	l.FoldVersion, l.Attempts = int(number(record.HeaderDeadFold)), int(number(record.HeaderDeadAttempts))
	position, e := record.ParsePosition(string(r.Header(record.HeaderDeadPosition)))
	l.Log = position.Log
	origin := strings.Split(string(r.Header(record.HeaderDeadOrigin)), "/")
	if e != nil || len(origin) != 3 {
		return l, errors.Join(err, e, fmt.Errorf("%s %q: want topic/partition/offset", record.HeaderDeadOrigin, r.Header(record.HeaderDeadOrigin)))
	}
	l.Topic = origin[0]
	partition, e1 := strconv.ParseInt(origin[1], 10, 32)
	offset, e2 := strconv.ParseInt(origin[2], 10, 64)
	l.Partition, l.Offset = int32(partition), offset
	l.Shop = string(r.Header(record.HeaderShop))
	if shop, _, ok := strings.Cut(l.Key, "/"); ok && l.Shop == "" {
		l.Shop = shop
	}
	l.ID = letterID(l.Processor, l.Log, l.Partition, l.Offset)
	return l, errors.Join(err, e1, e2)
}

// LetterFilter chooses letters; the zero value, all that are open.
type LetterFilter struct {
	IDs                    []string // or beginnings of them
	Shop, Processor, Topic string
	Reason                 string    // part of it
	Since, Until           time.Time // when the letter was appended; zero: no limit
	Partition              int32     // of the record that died, with FromOffset and ToOffset; -1: all
	FromOffset, ToOffset   int64     // of the record that died, ToOffset excluded; 0: no limit
	Requeued, Open         bool      // neither: open ones
	Limit                  int       // 0: none
}

func (f LetterFilter) wants(l *Letter) bool {
	open, requeued := f.Open || !f.Requeued, f.Requeued
	return (l.Requeued == nil && open || l.Requeued != nil && requeued) &&
		(f.Shop == "" || f.Shop == l.Shop) && (f.Processor == "" || f.Processor == l.Processor) && (f.Topic == "" || f.Topic == l.Topic) &&
		(f.Partition < 0 || f.Partition == l.Partition) && strings.Contains(l.Reason, f.Reason) &&
		(f.Since.IsZero() || !l.Died.Before(f.Since)) && (f.Until.IsZero() || l.Died.Before(f.Until)) &&
		l.Offset >= f.FromOffset && (f.ToOffset == 0 || l.Offset < f.ToOffset) &&
		(len(f.IDs) == 0 || slices.ContainsFunc(f.IDs, func(id string) bool { return strings.HasPrefix(l.ID, id) }))
}

// Letters reads the dead-letter topic: the letters that the filter wants, oldest
// first, each once, how many there are of each reason, whatever the limit, and how
// many records there are that are no letters of a form that is known.
func (o *Operator) Letters(ctx context.Context, f LetterFilter) (letters []Letter, reasons map[string]int, unknown int, err error) {
	all := map[string]*Letter{}
	answers := map[string]Requeued{}
	n, err := o.Client.Partitions(ctx, topics.DeadLetters)
	if err != nil {
		return nil, nil, 0, err
	}
	for i := range int32(n) {
		err := o.scan(ctx, topics.DeadLetters, i, func(r *record.Record) error {
			if id := string(r.Header(headerAnswers)); id != "" {
				if _, ok := answers[id]; !ok {
					answers[id] = readAnswer(r)
				}
				return nil
			}
			l, err := readLetter(r)
			if err != nil {
				unknown++
				return nil //nolint:nilerr // counted
			}
			if _, ok := all[l.ID]; !ok { // a crash repeats letters, too
				all[l.ID] = &l
			}
			return nil
		})
		if err != nil {
			return nil, nil, 0, err
		}
	}
	reasons = map[string]int{}
	for id, l := range all {
		if a, ok := answers[id]; ok {
			l.Requeued = &a
		}
		if f.wants(l) {
			letters = append(letters, *l)
			reasons[l.Reason]++
		}
	}
	sort.Slice(letters, func(i, j int) bool {
		a, b := &letters[i], &letters[j]
		switch {
		case !a.Died.Equal(b.Died):
			return a.Died.Before(b.Died)
		case a.Topic != b.Topic:
			return a.Topic < b.Topic
		case a.Partition != b.Partition:
			return a.Partition < b.Partition
		case a.Offset != b.Offset:
			return a.Offset < b.Offset
		}
		return a.Processor < b.Processor
	})
	if f.Limit > 0 && len(letters) > f.Limit {
		letters = letters[:f.Limit]
	}
	return letters, reasons, unknown, nil
}

func readAnswer(r *record.Record) Requeued {
	a := Requeued{By: string(r.Header(record.HeaderRequeueBy)), Why: string(r.Header(record.HeaderRequeueWhy)), Offset: -1}
	if ms, err := strconv.ParseInt(string(r.Header(record.HeaderRequeueAt)), 10, 64); err == nil {
		a.At = time.UnixMilli(ms).UTC()
	}
	if n, err := strconv.ParseInt(string(r.Header(headerAnswered)), 10, 64); err == nil {
		a.Offset = n
	}
	return a
}

// scan reads a partition from its start to its end.
func (o *Operator) scan(ctx context.Context, topic string, partition int32, each func(*record.Record) error) error {
	at, end, err := o.Client.Bounds(ctx, topic, partition)
	if err != nil {
		return err
	}
	for at < end {
		got, err := o.Client.Fetch(ctx, []broker.PartitionOffset{{Topic: topic, Partition: partition, Offset: at}}, time.Second, 4<<20)
		if err == nil {
			err = got[0].Err
		}
		if errors.Is(err, broker.ErrOutOfRange) { // cut while it is read
			start, _, e := o.Client.Bounds(ctx, topic, partition)
			if e == nil && start > at {
				at = start
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("read %s/%d at %d: %w", topic, partition, at, err)
		}
		for i := range got[0].Records {
			if got[0].Records[i].Offset >= end {
				break
			}
			if err := each(&got[0].Records[i]); err != nil {
				return err
			}
		}
		at = max(at, got[0].Next)
	}
	return nil
}

// Origin reads the record that died, as it came: the letter has all of it.
func (o *Operator) Origin(ctx context.Context, l Letter) (record.Record, error) {
	got, err := o.Client.Fetch(ctx, []broker.PartitionOffset{{Topic: l.at.Topic, Partition: l.at.Partition, Offset: l.in}}, time.Second, 64<<10)
	if err == nil {
		err = got[0].Err
	}
	if err != nil {
		return record.Record{}, fmt.Errorf("read letter %s: %w", l.ID, err)
	}
	for _, r := range got[0].Records {
		if r.Offset != l.in {
			continue
		}
		r.Topic, r.Partition, r.Offset, r.AppendTime = l.Topic, l.Partition, l.Offset, l.Appended.UnixMilli()
		r.Headers = without(r.Headers, record.HeaderReason, record.HeaderDeadProcessor, record.HeaderDeadOrigin, record.HeaderDeadPosition, record.HeaderDeadAppended, record.HeaderDeadFold, record.HeaderDeadAttempts)
		return r, nil
	}
	return record.Record{}, fmt.Errorf("read letter %s: %w", l.ID, broker.ErrOutOfRange)
}

// without cuts headers off the end, where they stand in this order.
func without(headers []record.Header, names ...string) []record.Header {
	from := len(headers) - len(names)
	if from < 0 {
		return headers
	}
	for i, name := range names {
		if headers[from+i].Key != name {
			return headers
		}
	}
	return headers[:from:from]
}

// requeueHeaders are those that Requeue adds, in their order.
var requeueHeaders = []string{record.HeaderRequeueFor, record.HeaderRequeueOf, record.HeaderRequeueAttempt, record.HeaderRequeueBy, record.HeaderRequeueAt, record.HeaderRequeueWhy}

// ErrNotRequeued says why a letter cannot be put back.
var ErrNotRequeued = errors.New("cannot be put back")

// Requeue puts the records of letters back, at the end of the partition in which
// they died and for the processor that could not fold them; it answers each letter
// with a record that says so. Whatever happens in between, and however often it is
// done, that processor folds each once: its state knows which records died, and
// takes each back once. It returns the letters with what became of them; for those
// that cannot be put back, errors are joined.
func (o *Operator) Requeue(ctx context.Context, ps []Processor, letters []Letter, by, why string, each func(Letter)) (done []Letter, err error) {
	const some = 200
	id, err := o.Client.InitProducerID(ctx)
	if err != nil {
		return nil, err
	}
	producer := o.Client.NewProducer(id)
	letters = slices.Clone(letters)
	sort.SliceStable(letters, func(i, j int) bool { return letters[i].Offset < letters[j].Offset })
	logs := map[string]string{}
	var errs []error
	for len(letters) > 0 {
		batch := letters[:min(some, len(letters))]
		letters = letters[len(batch):]
		var outs, answers []record.Out
		var put []Letter
		for _, l := range batch {
			out, err := o.again(ctx, ps, l, logs, by, why)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			outs, put = append(outs, out), append(put, l)
		}
		offsets, err := producer.Produce(ctx, outs)
		if err != nil {
			return done, errors.Join(append(errs, fmt.Errorf("put %d records back (some may be): %w", len(outs), err))...)
		}
		now := time.Now().UTC()
		for i := range put {
			put[i].Requeued = &Requeued{By: by, At: now.Truncate(time.Millisecond), Why: why, Offset: offsets[i]}
			answers = append(answers, answer(put[i]))
		}
		if _, err := producer.Produce(ctx, answers); err != nil {
			return done, errors.Join(append(errs, fmt.Errorf("answer %d letters (their records are put back): %w", len(answers), err))...)
		}
		for _, l := range put {
			each(l)
		}
		done = append(done, put...)
	}
	return done, errors.Join(errs...)
}

// Requeueable tells why a letter cannot be put back; nil where it can.
func (o *Operator) Requeueable(ctx context.Context, ps []Processor, l Letter, logs map[string]string) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("letter %s %w: %s", l.ID, ErrNotRequeued, fmt.Sprintf(format, args...))
	}
	if l.Requeued != nil {
		return no("%s has done so at %s", l.Requeued.By, l.Requeued.At.Format(time.DateTime))
	}
	if l.Type == step.TypeTick || l.Type == step.TypeImport || l.Type == step.TypeShop {
		return no("a %s carries the time, which has gone on", l.Type)
	}
	i := slices.IndexFunc(ps, func(p Processor) bool { return p.Name == l.Processor })
	if i < 0 {
		return no("there is no processor %s", l.Processor)
	}
	if ps[i].Topic != l.Topic {
		return no("%s reads %s, not %s", l.Processor, ps[i].Topic, l.Topic)
	}
	if _, ok := logs[l.Topic]; !ok {
		id, err := o.Client.LogID(ctx, l.Topic)
		if err != nil {
			return err
		}
		logs[l.Topic] = id
	}
	if logs[l.Topic] != l.Log {
		return no("it died in another log: %s was made again since", l.Topic)
	}
	return nil
}

// again is the record to be put back.
func (o *Operator) again(ctx context.Context, ps []Processor, l Letter, logs map[string]string, by, why string) (record.Out, error) {
	if err := o.Requeueable(ctx, ps, l, logs); err != nil {
		return record.Out{}, err
	}
	r, err := o.Origin(ctx, l)
	if err != nil {
		return record.Out{}, err
	}
	values := map[string]string{
		record.HeaderRequeueFor: l.Processor, record.HeaderRequeueOf: fmt.Sprintf("%s/%d/%d", l.Log, l.Partition, l.Offset),
		record.HeaderRequeueAttempt: strconv.Itoa(l.Attempts + 1), record.HeaderRequeueBy: by, record.HeaderRequeueWhy: why,
		record.HeaderRequeueAt: strconv.FormatInt(time.Now().UnixMilli(), 10),
	}
	headers := slices.Clip(without(r.Headers, requeueHeaders...))
	for _, name := range requeueHeaders {
		headers = append(headers, record.Header{Key: name, Value: []byte(values[name])})
	}
	return record.Out{Topic: l.Topic, Partition: l.Partition, Key: slices.Clone(r.Key), Value: slices.Clone(r.Value), Headers: headers}, nil
}

// answer is the record that says of a letter that its record was put back.
func answer(l Letter) record.Out {
	return record.Out{Topic: l.at.Topic, Partition: l.at.Partition, Key: []byte(l.Key), Headers: []record.Header{
		{Key: record.HeaderSpecVersion, Value: []byte("1.0")},
		{Key: record.HeaderID, Value: []byte("requeued/" + l.ID + "/" + strconv.Itoa(l.Attempts))},
		{Key: record.HeaderType, Value: []byte(TypeRequeued)},
		{Key: record.HeaderSource, Value: []byte("/sillage")},
		{Key: headerAnswers, Value: []byte(l.ID)},
		{Key: headerAnswered, Value: strconv.AppendInt(nil, l.Requeued.Offset, 10)},
		{Key: record.HeaderRequeueBy, Value: []byte(l.Requeued.By)},
		{Key: record.HeaderRequeueAt, Value: strconv.AppendInt(nil, l.Requeued.At.UnixMilli(), 10)},
		{Key: record.HeaderRequeueWhy, Value: []byte(l.Requeued.Why)},
	}}
}

// Again waits, at most for limit, until the records that Requeue has put back are
// folded, and returns the letters of those that have died again.
func (o *Operator) Again(ctx context.Context, ps []Processor, put []Letter, limit time.Duration) ([]Letter, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	places := map[string]bool{}
	for _, l := range put {
		if l.Requeued == nil || l.Requeued.Offset < 0 {
			continue
		}
		i := slices.IndexFunc(ps, func(p Processor) bool { return p.Name == l.Processor })
		if i < 0 {
			return nil, fmt.Errorf("there is no processor %s", l.Processor)
		}
		places[letterID(l.Processor, l.Log, l.Partition, l.Requeued.Offset)] = true
		for {
			raw, err := o.Store.Fence(ctx, ps[i].Tag(l.Partition))
			if err == nil && raw != "" {
				var f step.Fence
				if f, err = step.ParseFence(raw); err == nil && f.Next > l.Requeued.Offset {
					break
				}
			}
			if err != nil && ctx.Err() == nil {
				return nil, err
			}
			if !sleep(ctx, ctx, 100*time.Millisecond) || ctx.Err() != nil {
				return nil, fmt.Errorf("wait for %s/%d to fold %s/%d@%d: %w", l.Processor, l.Partition, l.Topic, l.Partition, l.Requeued.Offset, ctx.Err())
			}
		}
	}
	all, _, _, err := o.Letters(ctx, LetterFilter{Partition: -1, Open: true, Requeued: true})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(l Letter) bool { return !places[l.ID] }), nil
}
