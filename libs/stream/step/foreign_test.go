package step_test

import (
	"encoding/binary"
	"errors"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// lives counts the facts of a life, which ends ten microseconds after the last.
type lives struct{}

func (lives) Record(s *uint64, f step.Fact, now step.Instant, out *step.Effects) error {
	*s++
	out.WakeAt(now + 10)
	out.Publish(step.Message{Topic: "out", Key: f.Key, Type: "seen", Kind: "seen"})
	return nil
}

func (lives) Wake(_ *uint64, _ step.Key, _ step.Instant, out *step.Effects) { out.Drop() }

type livesCodec struct{}

func (livesCodec) Append(b []byte, s *uint64) []byte { return binary.AppendUvarint(b, *s) }

func (livesCodec) Unmarshal(b []byte, s *uint64) error {
	*s, _ = binary.Uvarint(b)
	return nil
}

// foreign is a topic of others, whose records have a number as their key and
// milliseconds as their value.
func foreign() step.Config {
	return step.Config{Processor: "p", Topic: "theirs", Partition: 3, LogID: "log", Types: []string{"theirs"}, DeadLetters: "dead", Foreign: func(r *record.Record, f *step.Foreign) error {
		ms, err := strconv.ParseInt(string(r.Value), 10, 64)
		if err != nil {
			return errors.New("no time")
		}
		f.Name = append(append(f.Name, "shop/"...), r.Key...)
		f.EventTime = ms
		return nil
	}}
}

func TestRecordsOfOthersAreFolded(t *testing.T) {
	p := step.NewPartition[uint64](foreign(), lives{}, livesCodec{})
	if err := p.Restore(step.State{}, step.Fence{}); err != nil {
		t.Fatal(err)
	}
	b, rest, err := p.Fold([]record.Record{
		{Offset: 5, Key: []byte("a"), Value: []byte("1000")},
		{Offset: 6, Key: []byte("b"), Value: []byte("1000")},
		{Offset: 7, Key: []byte("a"), Value: []byte("soon")},
		{Offset: 8, Key: []byte("a"), Value: []byte("990")}, // older than what it follows: known late
	})
	if err != nil || len(rest) > 0 {
		t.Fatal(rest, err)
	}
	type out struct{ Topic, Key, ID, Effective, Position string }
	var got []out
	for i := range b.Outs {
		o := record.Record{Headers: b.Outs[i].Headers}
		got = append(got, out{
			b.Outs[i].Topic, string(b.Outs[i].Key), string(o.Header(record.HeaderID)),
			string(o.Header(record.HeaderEffective)), string(o.Header(record.HeaderPosition)),
		})
	}
	want := []out{
		{"out", "shop/a", "log/3/5/seen", "1000000", "log/3/5/0"},
		{"out", "shop/b", "log/3/6/seen", "1000000", "log/3/6/0"},
		{"dead", "a", "", "", ""},
		{"out", "shop/a", "log/3/8/seen", "1000001", "log/3/8/0"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what follows (-want +got):\n%s", d)
	}
	if b.Next != 9 || p.Status().Entities != 2 {
		t.Errorf("next %d, %d entities; want 9 and 2", b.Next, p.Status().Entities)
	}
}

func TestRecordsOfOthersCannotWait(t *testing.T) {
	cfg := foreign()
	cfg.Order = step.InTimeOrder
	if err := step.NewPartition[uint64](cfg, lives{}, livesCodec{}).Restore(step.State{}, step.Fence{}); err == nil {
		t.Error("records without a clock are held back for ever, and nobody is told")
	}
}

// TestALifeBeginsAgain: a wake-up ends an entity's life, and the record that
// made it due begins the next one.
func TestALifeBeginsAgain(t *testing.T) {
	p := step.NewPartition[uint64](foreign(), lives{}, livesCodec{})
	if err := p.Restore(step.State{}, step.Fence{}); err != nil {
		t.Fatal(err)
	}
	for i, ms := range []string{"1", "2", "3"} {
		b, _, err := p.Fold([]record.Record{{Offset: int64(i), Key: []byte("a"), Value: []byte(ms)}})
		if err != nil {
			t.Fatal(err)
		}
		p.Settled()
		if e := b.Write.Entities[0]; e.Key != "shop/a" || e.Value == nil {
			t.Fatalf("after record %d the store keeps %q for %q", i, e.Value, e.Key)
		}
	}
	data, err := step.StateOf(p.Dump()[1].Value)
	if err != nil {
		t.Fatal(err)
	}
	if want := []byte{1}; !cmp.Equal(data, want) {
		t.Errorf("the third life has seen %v facts, want %v", data, want)
	}
}
