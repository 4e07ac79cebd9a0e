package step_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// seeds is how many random worlds a test lives through.
func seeds(t *testing.T, n uint64) uint64 {
	t.Helper()
	if testing.Short() {
		return n / 5
	}
	return n
}

// TestLiveShop is the check that matters, with wall ticks: a customer due to
// cross at day 100.3, an order effective at 100.6, fetched together, ticks
// anywhere: raised at 100.3, recovered at 100.6. And an order exactly at its
// due: nothing raised.
func TestLiveShop(t *testing.T) {
	start := int64(1_000_000) * 1000
	for name, c := range map[string]struct {
		second int64
		want   []string
	}{
		"order after the crossing": {start + threshold + 3*day/10, []string{
			fmt.Sprintf("raised/s/u0/%d", (start+threshold)*1000),
			fmt.Sprintf("recovered/s/u0/%d", (start+threshold+3*day/10)*1000),
		}},
		"order exactly at the crossing": {start + threshold, nil},
		"order before the crossing":     {start + threshold - 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range seeds(t, 40) {
				w := newWorld(int32(1+seed%3), seed, true)
				p := w.partitionOf([]byte("s/d0"))
				w.event(1, p, 0, 0, 0, start, 0, "order")
				// A repeat of the same message counts once.
				w.event(1, p, 0, 0, 0, start, 0, "order")
				// The first tick stands anywhere; from then on at most an hour
				// apart, or it would be an outage.
				if seed%2 == 0 {
					for at := start + threshold - day/48 + int64(seed)*1000; at < c.second; at += day / 48 {
						for q := range w.n {
							w.tick(q, at)
						}
					}
				}
				w.event(2, p, 0, 0, 0, c.second, 0, "order")
				for at := c.second + 1; seed%2 == 0 && at < c.second+day; at += day / 48 {
					for q := range w.n {
						w.tick(q, at)
					}
				}
				for q := range w.n {
					w.tick(q, c.second+day)
				}
				w.settle(t)
				want := c.want
				if diff := cmp.Diff(want, w.effects(), cmp.Transformer("empty", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
					t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
				}
			}
		})
	}
}

// TestSlowSourceHoldsTimeBack: a reader's clock is the minimum over its
// sources; silence of one partition invents nothing.
func TestSlowSourceHoldsTimeBack(t *testing.T) {
	start := int64(1_000_000) * 1000
	w := newWorld(2, 1, false)
	p := w.partitionOf([]byte("s/d0"))
	w.event(1, p, 0, 0, 0, start, 0, "order")
	w.tick(p, start+threshold*2)
	w.settle(t)
	if got := w.effects(); len(got) != 0 {
		t.Fatalf("alerts %v while a source is silent, want none", got)
	}
	w.tick(1-p, start+threshold*2)
	w.settle(t)
	// The ticks stand 200 days after the first: no outage, for there was no
	// tick before them.
	want := []string{fmt.Sprintf("raised/s/u0/%d", (start+threshold)*1000)}
	if diff := cmp.Diff(want, w.effects()); diff != "" {
		t.Fatalf("alerts once all sources have spoken (-want +got):\n%s", diff)
	}
}

// TestOutageDelaysSilence: what falls due in unobserved time fires at its end.
func TestOutageDelaysSilence(t *testing.T) {
	start := int64(1_000_000) * 1000
	w := newWorld(2, 1, false)
	p := w.partitionOf([]byte("s/d0"))
	w.event(1, p, 0, 0, 0, start, 0, "order")
	for q := range w.n {
		w.tick(q, start+threshold-day) // the last tick before the outage
		w.tick(q, start+threshold+5*day)
		w.tick(q, start+threshold+5*day+2000)
	}
	w.settle(t)
	want := []string{fmt.Sprintf("raised/s/u0/%d", (start+threshold+5*day)*1000)}
	if diff := cmp.Diff(want, w.effects()); diff != "" {
		t.Fatalf("alert at the outage's end (-want +got):\n%s", diff)
	}
}

// TestPoisonGoesAside: what cannot be folded or decoded is kept with its
// reason, and the rest proceeds.
func TestPoisonGoesAside(t *testing.T) {
	w := newWorld(1, 1, false)
	w.event(1, 0, 0, 0, 0, 1_000_000_000, 0, "poison")
	for _, o := range []record.Out{
		{Topic: "events", Key: []byte("s/d0"), Value: []byte{0xff, 0xff}, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeEvent)}}},
		{Topic: "events", Key: []byte("no shop"), Value: nil, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeEvent)}}},
		{Topic: "events", Value: nil},
		{Topic: "events", Value: []byte{0xff}, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(step.TypeTick)}}},
		{Topic: "activity", Key: []byte("s/u1"), Value: nil, Headers: []record.Header{{Key: record.HeaderType, Value: []byte(typeFact)}, {Key: record.HeaderPosition, Value: []byte("nonsense")}}},
	} {
		w.append(o)
	}
	w.event(2, 0, 0, 0, 0, 1_000_000_000, 0, "order")
	w.settle(t)
	reasons := 0
	dead := w.topics["dead"][0].recs
	for i := range dead {
		if len(dead[i].Header(record.HeaderReason)) > 0 {
			reasons++
		}
	}
	if reasons != 6 || len(dead) != 6 {
		t.Errorf("%d dead letters, %d with a reason, want 6", len(dead), reasons)
	}
	if got := len(w.topics["activity"][0].recs); got != 2 { // the stray record and the order
		t.Errorf("%d activity records, want 2: the order behind the poison counts", got)
	}
}

func TestFenceRoundTrip(t *testing.T) {
	f := step.Fence{LogID: "c:u", FoldVersion: 3, Nonce: "n", Next: 7, Low: 5, Anchor: "a", ProducerID: 9, Epoch: 2, KeyDone: "s/a|b:c", Ordinal: 4, Released: true}
	got, err := step.ParseFence(f.String())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, got); diff != "" {
		t.Errorf("fence (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"", "a|b", "l|x|n|1|1|a|1:1|:0|0", "l|1|n|1|1|a|1|:0|0", "l|1|n|1|1|a|1:99999|:0|0", "l|1|n|1|1|a|1:1|!:0|0"} {
		if _, err := step.ParseFence(bad); err == nil {
			t.Errorf("ParseFence(%q): no error", bad)
		}
	}
	m := step.Mark{LogID: "c:u", ProducerID: 4, Epoch: 1, Offset: 10}
	if got, err := step.ParseMark(m.String()); err != nil || got != m {
		t.Errorf("mark: got %v, %v, want %v", got, err, m)
	}
}

// TestEnvelopeIsTheEvents: what the protocol scans is what decoding gives.
func TestEnvelopeIsTheEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		e := &eventv1.Event{
			MessageId: text.Draw(t, "message"), Shop: text.Draw(t, "shop"), KeyId: text.Draw(t, "key"), Name: text.Draw(t, "name"), EventTimeMs: rapid.Int64().Draw(t, "time"),
			Lines: []*eventv1.Line{{ProductId: text.Draw(t, "product"), Price: &eventv1.Money{Micros: 1}}}, PropertiesJson: rapid.SliceOf(rapid.Byte()).Draw(t, "json"),
		}
		if rapid.Bool().Draw(t, "imported") {
			e.Import = &eventv1.Import{
				ImportId: text.Draw(t, "import"), Sequence: rapid.Int64().Draw(t, "sequence"), NotBeforeUs: rapid.Int64().Draw(t, "not before"),
				Line: rapid.Int64().Draw(t, "line"), Lines: rapid.Uint32().Draw(t, "lines"),
			}
		}
		b, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := step.ReadEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		i := e.Import
		want := step.Envelope{MessageID: e.MessageId, Shop: e.Shop, KeyID: e.KeyId, EventTime: e.EventTimeMs, Imported: i != nil, ImportID: i.GetImportId(), Sequence: i.GetSequence(), NotBefore: i.GetNotBeforeUs(), Lines: int64(i.GetLines())}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

// TestStopDoesNotWaitForAReading: whoever is told to stop while it reads again what
// waits lets go at once; the store has it all, and the next owner reads it anyway.
func TestStopDoesNotWaitForAReading(t *testing.T) {
	cfg := step.Config{Processor: "customers", Topic: "activity", LogID: "log", FoldVersion: 1, Order: step.InTimeOrder, Sources: 1, Types: []string{typeFact}}
	m := step.NewMachine(cfg, step.NewPartition[customer](cfg, customerFold{}, asJSON[customer]{}), "seed")
	fence := step.Fence{LogID: "log", FoldVersion: 1, Nonce: "n", Next: 9, Low: 3, Anchor: "a", ProducerID: 1, Epoch: 1}
	current := fence.String()
	for range 20 {
		switch c := m.Next(); c.Op {
		case step.OpArm:
			m.Done(step.Result{Fence: current})
		case step.OpReadMark:
			m.Done(step.Result{Commit: 9, Mark: step.Mark{LogID: "log", ProducerID: 1, Epoch: 1, Offset: 9}.String()})
		case step.OpReadBounds:
			m.Done(step.Result{Start: 0, End: 20})
		case step.OpReadAnchor:
			m.Done(step.Result{}) // expired: counted, no halt
		case step.OpClaim:
			current = c.Write.Target
			m.Done(step.Result{Outcome: step.Applied, Current: current})
		case step.OpLoad:
			m.Done(step.Result{State: step.State{Fence: current}})
		case step.OpCommitClaim:
			m.Done(step.Result{})
		case step.OpFetch:
			if c.Offset != 3 {
				t.Fatalf("reads from %d, want 3, the oldest that waits", c.Offset)
			}
			m.Stop()
			m.Done(step.Result{})
			if got := m.Next().Op; got != step.OpRelease {
				t.Errorf("%v after it was told to stop, want release", got)
			}
			return
		default:
			t.Fatalf("asked for %v", c.Op)
		}
	}
	t.Fatal("never got to read")
}
