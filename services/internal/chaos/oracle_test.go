package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	"github.com/sillage-io/sillage/services/internal/lab"
)

// patiently asks again where a busy machine has not answered in time.
func patiently(ctx context.Context, ask func() error) error {
	for until := time.Now().Add(recoverWithin); ; time.Sleep(10 * pollEvery) {
		err := ask()
		if err == nil || ctx.Err() != nil || time.Now().After(until) {
			return err
		}
	}
}

// fetch reads from one partition.
func (r *rig) fetch(ctx context.Context, topic string, partition int32, offset int64) (f broker.Fetched, err error) {
	err = patiently(ctx, func() error {
		got, err := r.client.Fetch(ctx, []broker.PartitionOffset{{Topic: topic, Partition: partition, Offset: offset}}, time.Second, 4<<20)
		if err == nil {
			f, err = got[0], got[0].Err
		}
		return err
	})
	if err != nil {
		return f, fmt.Errorf("read %s/%d at %d: %w", topic, partition, offset, err)
	}
	return f, nil
}

func (r *rig) bounds(ctx context.Context, topic string, partition int32) (start, end int64, err error) {
	err = patiently(ctx, func() (err error) {
		start, end, err = r.client.Bounds(ctx, topic, partition)
		return err
	})
	return start, end, err
}

// scan calls each for every record that stands in a topic now.
func (r *rig) scan(ctx context.Context, topic string, each func(*record.Record) error) error {
	for i := range int32(partitions) {
		start, end, err := r.bounds(ctx, topic, i)
		if err != nil {
			return err
		}
		for at := start; at < end; {
			got, err := r.fetch(ctx, topic, i, at)
			if err != nil {
				return err
			}
			at = max(at, got.Next)
			for j := range got.Records {
				if got.Records[j].Offset >= end {
					break
				}
				if err := each(&got.Records[j]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// tailOf reads the last n records of a partition, or fewer.
func (r *rig) tailOf(ctx context.Context, topic string, partition int32, n int64) ([]record.Record, error) {
	start, end, err := r.bounds(ctx, topic, partition)
	if err != nil || start == end {
		return nil, err
	}
	got, err := r.fetch(ctx, topic, partition, max(start, end-n))
	return got.Records, err
}

// judge compares what was acknowledged with the log, the log with the state, and
// what was published with what follows from the log.
func (r *rig) judge(led *ledger, sent *load, p *poison, summary string) {
	t := r.t
	led.end = r.burden()
	r.rewound(led)
	led.Acknowledged, led.SentAgain, led.Repeated = sent.acked.Load(), sent.again.Load(), sent.repeated.Load()
	led.Rejected, led.Refused = sent.rejected, sent.refused
	for _, w := range sent.unexpected {
		t.Errorf("the collector: %s", w)
	}
	if err := r.arrivals(led, sent); err != nil {
		t.Fatal(err)
	}
	if led.Lost > 0 {
		t.Errorf("%d acknowledged events are not in the log", led.Lost)
	}
	if err := r.standing(led); err != nil {
		t.Fatal(err)
	}
	r.verdicts(led)
	for _, topic := range []string{topics.ChurnAlerts, topics.RestockSignals, topics.ChurnState, topics.RestockState} {
		if err := r.outside(led, topic); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.deadLetters(led, p); err != nil {
		t.Fatal(err)
	}
	if r.has(keepsProducers) {
		if err := r.batches(led); err != nil {
			t.Fatal(err)
		}
	}
	if led.Plain == nil {
		t.Error("the producers beside have counted nothing")
	}
	if ours := led.Plain["idempotent"]; r.has(keepsProducers) && ours.Lost+ours.Twice+ours.Disordered > 0 {
		t.Errorf("the idempotent producer beside: %+v", ours)
	}
	if !reconciled(summary) {
		t.Errorf("the import does not add up:\n%s", summary)
	}
	for _, h := range r.halts() {
		t.Errorf("halted: %s", h)
	}
	led.Exits = r.ended
	// Bounded: what was there at the beginning, and room for what is learnt since.
	for name, b := range led.end {
		was := led.begin[name]
		if b.Goroutines > 2*was.Goroutines+200 {
			t.Errorf("%s has %d goroutines, %d at the beginning", name, b.Goroutines, was.Goroutines)
		}
		if limit := was.Resident + 512<<20 + 3000*led.Acknowledged; b.Resident > limit {
			t.Errorf("%s holds %d MiB of memory, %d at the beginning", name, b.Resident>>20, was.Resident>>20)
		}
	}
}

// arrivals reads events.v1 and counts each event.
func (r *rig) arrivals(led *ledger, sent *load) error {
	counts := make([][]uint8, len(sent.senders))
	for i, s := range sent.senders {
		counts[i] = make([]uint8, len(s.acked))
	}
	others := map[uint64]struct{}{} // not of the load, by what tells two apart
	var e eventv1.Event
	err := r.scan(r.t.Context(), topics.Events, func(rec *record.Record) error {
		if string(rec.Header(record.HeaderType)) != step.TypeEvent {
			return nil
		}
		if sender, n, ok := parseID(string(rec.Header(record.HeaderID))); ok && sender < len(counts) && n < len(counts[sender]) {
			c := &counts[sender][n]
			*c = min(254, *c) + 1
			led.Records++
			return nil
		}
		if err := proto.Unmarshal(rec.Value, &e); err != nil || e.MessageId == "" && e.Import == nil {
			return nil //nolint:nilerr // poison
		}
		key := string(rec.Key) + "|" + e.KeyId + "|" + e.MessageId
		if i := e.Import; i != nil {
			key = fmt.Sprintf("%s|%s|%d|%d", e.Shop, i.ImportId, rec.Partition, i.Sequence)
			led.imported[e.Shop] = true
		}
		others[xxhash.Sum64String(key)] = struct{}{}
		return nil
	})
	if err != nil {
		return err
	}
	for i, s := range sent.senders {
		for n, acked := range s.acked {
			switch c := counts[i][n]; {
			case acked && c == 0:
				led.Lost++
			case c > 0:
				led.Distinct++
				if c > 1 {
					led.TwiceInLog++
				}
			}
		}
	}
	led.Distinct += int64(len(others))
	return nil
}

// standing asks how the partitions stand: counted once, no gaps, never beyond the
// end of the log.
func (r *rig) standing(led *ledger) error {
	var all []stream.Standing
	err := patiently(r.t.Context(), func() (err error) {
		all, err = stream.Survey(r.t.Context(), r.client, r.state, processors())
		return err
	})
	if err != nil {
		return err
	}
	var folded, dead int64
	for _, s := range all {
		if s.Next > s.End {
			r.t.Errorf("%s/%d is at %d, its log ends at %d", s.Processor, s.Partition, s.Next, s.End)
		}
		if len(s.Status.Incomplete) > 0 {
			led.Gaps += len(s.Status.Incomplete)
			r.t.Errorf("%s/%d says that it has missed something at %v", s.Processor, s.Partition, s.Status.Incomplete)
		}
		dead += s.Status.Counts.Dead
		if s.Topic == topics.Events {
			folded += s.Status.Counts.Folded
			led.Duplicates += s.Status.Counts.Duplicates
		}
	}
	led.Folded, led.Dead = folded, dead
	if folded != led.Distinct {
		r.t.Errorf("%d events were folded, %d different ones stand in the log", folded, led.Distinct)
	}
	return nil
}

// verdicts folds the log offline, with the command that operators use.
func (r *rig) verdicts(led *ledger) {
	want := len(processors()) * partitions
	var all []stream.Verdict
	var said string
	for range 3 { // it reads from a broker that may be busy
		c := r.command(r.t.Context(), "verify", "--json")
		var out, errs bytes.Buffer
		c.Stdout, c.Stderr = &out, &errs
		err := c.Run() // what it finds is judged below
		said = fmt.Sprintf("%v: %s%s", err, out.String(), errs.String())
		all = nil
		for line := range strings.Lines(out.String()) {
			var v stream.Verdict
			if json.Unmarshal([]byte(line), &v) == nil {
				all = append(all, v)
			}
		}
		if len(all) == want {
			break
		}
	}
	if led.Verified = len(all); led.Verified != want {
		r.t.Errorf("%d partitions were verified, want %d: %s", led.Verified, want, said)
	}
	for _, v := range all {
		if !v.OK() || v.From > 0 {
			r.t.Errorf("%s/%d is not what its log says (from %d): %v %v", v.Processor, v.Partition, v.From, v.Different, v.Examples)
		}
		k := led.effects(v.Processor)
		k.Due += v.Effects
		k.Missing += v.Missing
		k.Wrong += v.Unexplained
		k.RecordsAgain += v.Repeats
	}
}

// outside reads a topic that leaves the system: an id says one thing only.
func (r *rig) outside(led *ledger, topic string) error {
	said := map[string]uint64{}
	k := led.effects(topic)
	return r.scan(r.t.Context(), topic, func(rec *record.Record) error {
		id, hash := string(rec.Header(record.HeaderID)), xxhash.Sum64(rec.Value)
		switch before, ok := said[id]; {
		case !ok:
			said[id] = hash
			k.Due++
		case before != hash:
			k.Wrong++
			r.t.Errorf("%s says two things under the id %s", topic, id)
		default:
			k.RecordsAgain++
		}
		return nil
	})
}

// deadLetters compares what was set aside with the poison in the log.
func (r *rig) deadLetters(led *ledger, p *poison) error {
	origins := map[string]bool{}
	err := r.scan(r.t.Context(), topics.DeadLetters, func(rec *record.Record) error {
		origins[string(rec.Header("dlq-processor"))+"|"+string(rec.Header("dlq-origin"))] = true
		return nil
	})
	if err != nil {
		return err
	}
	led.Poison, led.DeadLetters, led.Appended, led.Ticks = p.dead, int64(len(origins)), p.repeats, p.ticked
	// One record may be dead to several readers.
	if led.DeadLetters < p.dead || led.DeadLetters != led.Dead {
		r.t.Errorf("%d dead letters of %d records that are poison; the processors have counted %d", led.DeadLetters, p.dead, led.Dead)
	}
	return nil
}

// batches reads the broker's own files: no batch of an idempotent producer may
// stand in a log twice, whatever answers were lost.
func (r *rig) batches(led *ledger) error {
	type batch struct {
		producer int64
		epoch    int16
		sequence int32
	}
	const head = 61
	dirs, err := filepath.Glob(filepath.Join(r.broker.Dir, "data", "*.v1-*"))
	if err == nil && len(dirs) == 0 {
		dirs, err = filepath.Glob(filepath.Join(r.broker.Dir, "1", "data", "*.v1-*"))
	}
	if err != nil || len(dirs) == 0 {
		return fmt.Errorf("find the broker's files: %d found: %w", len(dirs), err)
	}
	for _, dir := range dirs {
		seen := map[batch]int64{}
		files, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil {
			return err
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			for len(data) >= head {
				size := int(binary.BigEndian.Uint32(data[8:])) + 12
				offset := int64(binary.BigEndian.Uint64(data))
				if size < head || size > len(data) {
					break // being written
				}
				b := batch{int64(binary.BigEndian.Uint64(data[43:])), int16(binary.BigEndian.Uint16(data[51:])), int32(binary.BigEndian.Uint32(data[53:]))}
				if b.producer >= 0 {
					led.Batches++
					if before, ok := seen[b]; ok && before != offset {
						led.BatchesTwice++
						r.t.Errorf("%s: batch %+v stands at %d and at %d", filepath.Base(dir), b, before, offset)
					}
					seen[b] = offset
				}
				data = data[size:]
			}
		}
	}
	return nil
}

var numbers = regexp.MustCompile(`lines=(\d+) sent=(\d+) acked=(\d+) rejected=(\d+) folded=(\d+) lost=0 duplicated=0`)

// reconciled tells whether a replay says that everything was folded once.
func reconciled(summary string) bool {
	m := numbers.FindStringSubmatch(summary)
	return m != nil && m[2] == m[3] && m[3] == m[5]
}

// burden is what a process holds.
type burden struct {
	Resident   int64 `json:"resident"`
	Goroutines int64 `json:"goroutines"`
}

var (
	goroutines = regexp.MustCompile(`(?m)^go_goroutines (\S+)`)
	rewinds    = regexp.MustCompile(`(?m)^sillage_processor_rewinds_total(\S*) (\S+)`)
)

// burden asks all processes.
func (r *rig) burden() map[string]burden {
	all := map[string]burden{}
	for _, p := range r.services {
		var b burden
		b.Resident, _ = lab.Resident(p.Pid())
		var text string
		err := patiently(r.t.Context(), func() (err error) {
			text, err = get("http://" + r.admin[p.Name()] + "/metrics")
			return err
		})
		if err != nil {
			r.t.Errorf("ask %s for its metrics: %v", p.Name(), err)
			continue
		}
		if m := goroutines.FindStringSubmatch(text); m != nil {
			b.Goroutines, _ = strconv.ParseInt(m[1], 10, 64)
		}
		all[p.Name()] = b
	}
	return all
}

// rewound adds up how often partitions went back to what the store holds. The
// counters begin anew with a claim, so what is counted is what they grow by.
func (r *rig) rewound(led *ledger) {
	for _, p := range r.folding() {
		text, err := get("http://" + r.admin[p.Name()] + "/metrics")
		if err != nil {
			continue // the next one tells
		}
		for _, m := range rewinds.FindAllStringSubmatch(text, -1) {
			n, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				continue
			}
			if before := led.rewound[m[1]]; int64(n) > before {
				led.Rewinds += int64(n) - before
			}
			led.rewound[m[1]] = int64(n)
		}
	}
}

func get(url string) (string, error) {
	c := http.Client{Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	res, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", errors.New(res.Status)
	}
	data, err := io.ReadAll(res.Body)
	return string(data), err
}
