package stream

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
)

// Verdict is what an offline fold of a partition's log found.
type Verdict struct {
	Processor string
	Partition int32
	From, To  int64 // offsets folded, To excluded
	Entities  int
	Digest    string // of the state as it should be
	// Differences of the state, at most a few named.
	Different []string
	// Effects that should be in the topics behind, the missing among them, and
	// what stands there without reason. Repeats are records with the position
	// of one before: harmless, readers drop them.
	Effects, Missing, Unexplained, Repeats int64
	Examples                               []string
	// Expired effects may have gone with the log of the topic behind. Withheld
	// ones were folded in silence, before an operator let the partition speak.
	Expired, Withheld int64
	Dead              int64
}

// OK tells whether state and effects are exactly what the log says.
func (v Verdict) OK() bool { return len(v.Different) == 0 && v.Missing == 0 && v.Unexplained == 0 }

// ErrUnverifiable says why a partition cannot be folded again.
var ErrUnverifiable = errors.New("cannot be verified")

// Verify folds a partition's log again, from its start up to where the store
// stands, and compares the state byte by byte, and what was published effect
// by effect. Where the log has lost its start, it goes on from the older base of
// bases, where there are any, and says so in From: what was before is believed.
// It reads only; it may run beside the owner.
func Verify(ctx context.Context, client *broker.Client, store *state.Store, bases *state.Bases, p Processor, partition int32) (Verdict, error) {
	return verifyHeld(ctx, client, bases, p, partition, func() (step.State, step.Fence, error) { return settled(ctx, store, p, partition) })
}

// VerifySnapshot is Verify for a snapshot in a directory in place of the store.
func VerifySnapshot(ctx context.Context, client *broker.Client, dir string, bases *state.Bases, p Processor, partition int32) (Verdict, error) {
	if _, err := readManifest(dir); err != nil {
		return Verdict{}, err
	}
	snapshot, err := state.NewBases(dir)
	if err != nil {
		return Verdict{}, err
	}
	return verifyHeld(ctx, client, bases, p, partition, func() (step.State, step.Fence, error) {
		base, err := snapshot.Newest(p.Tag(partition))
		if err != nil || base == nil {
			return step.State{}, step.Fence{}, err
		}
		fence, err := step.ParseFence(base.State.Fence)
		return base.State, fence, err
	})
}

func verifyHeld(ctx context.Context, client *broker.Client, bases *state.Bases, p Processor, partition int32, read func() (step.State, step.Fence, error)) (Verdict, error) {
	for n := 0; ; n++ {
		v, err := verify(ctx, client, bases, p, partition, read)
		// The log was cut, or a base gave way to a newer one, while it was read.
		if n >= 5 || !errors.Is(err, broker.ErrOutOfRange) {
			return v, err
		}
	}
}

func verify(ctx context.Context, client *broker.Client, bases *state.Bases, p Processor, partition int32, read func() (step.State, step.Fence, error)) (Verdict, error) {
	v := Verdict{Processor: p.Name, Partition: partition}
	logID, err := client.LogID(ctx, p.Topic)
	if err != nil {
		return v, err
	}
	sources, err := client.Partitions(ctx, p.Topic)
	if err != nil {
		return v, err
	}
	start, _, err := client.Bounds(ctx, p.Topic, partition)
	if err != nil {
		return v, err
	}
	held, fence, err := read()
	if err != nil {
		return v, err
	}
	if fence.LogID == "" {
		return v, fmt.Errorf("%s/%d: %w: nobody has claimed it yet", p.Name, partition, ErrUnverifiable)
	}
	if fence.LogID != logID {
		return v, fmt.Errorf("%s/%d: %w: its state is of log %s, the topic is %s", p.Name, partition, ErrUnverifiable, fence.LogID, logID)
	}
	from, err := beginning(bases, p, partition, logID, start)
	if err != nil {
		return v, err
	}
	if fence.FoldVersion != p.FoldVersion {
		return v, fmt.Errorf("%s/%d: %w: its state is of fold version %d, this program has %d", p.Name, partition, ErrUnverifiable, fence.FoldVersion, p.FoldVersion)
	}
	if from.Next > fence.Next {
		return v, fmt.Errorf("%s/%d: the base at %d is newer than the state that was read: %w", p.Name, partition, from.Next, broker.ErrOutOfRange)
	}
	v.From, v.To = from.Next, fence.Next
	folder, effects, err := again(ctx, client, p, partition, sources, logID, from, fence.Next)
	if err != nil {
		return v, err
	}
	should := folder.Dump()
	status := folder.Status()
	v.Entities, v.Dead = status.Entities, status.Counts.Dead
	v.Digest = digest(should)
	v.Different = differences(should, held.Entities)
	return v, compareEffects(ctx, client, p, partition, logID, fence.Voice, effects, &v)
}

// settled reads the state at a moment at which no tick is half settled.
func settled(ctx context.Context, store *state.Store, p Processor, partition int32) (step.State, step.Fence, error) {
	for n := 0; ; n++ {
		held, err := store.Dump(ctx, p.Tag(partition), p.Layout)
		if err != nil {
			return held, step.Fence{}, err
		}
		if held.Fence == "" {
			return held, step.Fence{}, nil
		}
		fence, err := step.ParseFence(held.Fence)
		if err != nil || fence.KeyDone == "" {
			return held, fence, err
		}
		if n > 100 || !sleep(ctx, ctx, 50*time.Millisecond) || ctx.Err() != nil {
			return held, fence, fmt.Errorf("%s/%d: %w: a tick is half settled", p.Name, partition, ErrUnverifiable)
		}
	}
}

// effect is one record that should be in a topic behind.
type effect struct {
	topic, id string
	hash      uint64
	offset    int64
	seen      bool
}

// beginning is what to fold on from: nothing at the log's start, or the older
// base.
func beginning(bases *state.Bases, p Processor, partition int32, logID string, start int64) (*state.Base, error) {
	if start == 0 {
		return &state.Base{State: step.State{Fence: step.Fence{LogID: logID}.String()}}, nil
	}
	cannot := func(why string) error {
		return fmt.Errorf("%s/%d: %w: the log begins at offset %d, %s", p.Name, partition, ErrUnverifiable, start, why)
	}
	if bases == nil {
		return nil, cannot("and no bases are at hand")
	}
	base, err := bases.OldestBase(p.Tag(partition))
	if err != nil {
		return nil, cannot(err.Error())
	}
	if base == nil {
		return nil, cannot("and there are not two bases yet")
	}
	fence, err := step.ParseFence(base.State.Fence)
	if err != nil || fence.LogID != logID || min(fence.Low, fence.Next) < start {
		return nil, cannot(fmt.Sprintf("and the base at %d needs more of it", base.Next))
	}
	return base, nil
}

// again folds the log from a base on, up to an offset.
func again(ctx context.Context, client *broker.Client, p Processor, partition int32, sources int, logID string, base *state.Base, to int64) (step.Folder, map[string]*effect, error) {
	folder := p.New(offline(p.Config(logID, partition, sources)))
	fence, err := step.ParseFence(base.State.Fence)
	if err != nil {
		return nil, nil, err
	}
	if err := folder.Restore(base.State, fence); err != nil {
		return nil, nil, err
	}
	effects := map[string]*effect{}
	for at := min(fence.Low, fence.Next); at < to; {
		got, err := client.Fetch(ctx, []broker.PartitionOffset{{Topic: p.Topic, Partition: partition, Offset: at}}, time.Second, 4<<20)
		if err == nil {
			err = got[0].Err
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the log at %d: %w", at, err)
		}
		recs := got[0].Records
		at = max(at, got[0].Next)
		for len(recs) > 0 && recs[len(recs)-1].Offset >= to {
			recs = recs[:len(recs)-1]
		}
		if waited := before(recs, fence.Next); waited > 0 {
			if err := folder.Reread(recs[:waited]); err != nil {
				return nil, nil, fmt.Errorf("read again what waits: %w", err)
			}
			recs = recs[waited:]
		}
		for len(recs) > 0 {
			var b step.Batch
			if b, recs, err = folder.Fold(recs); err != nil {
				return nil, nil, fmt.Errorf("fold again: %w", err)
			}
			folder.Settled()
			for i := range b.Outs {
				o := &b.Outs[i]
				if pos := headerOf(o.Headers, positionIn(o.Topic)); pos != "" {
					effects[place(o.Topic, o.Partition, pos)] = &effect{topic: o.Topic, id: headerOf(o.Headers, record.HeaderID), hash: xxhash.Sum64(o.Value), offset: b.Offsets[i]}
				}
			}
		}
	}
	return folder, effects, nil
}

// offline is a configuration to fold a log beside its owner.
func offline(c step.Config) step.Config {
	c.Offline = true
	return c
}

// before is how many records stand below an offset.
func before(recs []record.Record, offset int64) int {
	return sort.Search(len(recs), func(i int) bool { return recs[i].Offset >= offset })
}

// positionIn is the header that says where a record of a topic comes from: a dead
// letter has that of the record that died, beside its own.
func positionIn(topic string) string {
	if topic == topics.DeadLetters {
		return record.HeaderDeadPosition
	}
	return record.HeaderPosition
}

// place tells effects of one position apart: a tick goes to many partitions.
func place(topic string, partition int32, position string) string {
	if partition == record.ByKey {
		return topic + "|" + position
	}
	return topic + "|" + position + "|" + strconv.Itoa(int(partition))
}

func headerOf(headers []record.Header, name string) string {
	for i := range headers {
		if headers[i].Key == name {
			return string(headers[i].Value)
		}
	}
	return ""
}

func digest(entities []step.Entity) string {
	d := xxhash.New()
	for _, e := range entities {
		_, _ = d.WriteString(strconv.Itoa(len(e.Key)) + ":" + e.Key + strconv.Itoa(len(e.Value)) + ":")
		_, _ = d.Write(e.Value)
	}
	return hex.EncodeToString(d.Sum(nil))
}

// maxExamples is how many differences are named.
const maxExamples = 5

func differences(should, is []step.Entity) []string {
	sort.Slice(is, func(i, j int) bool { return is[i].Key < is[j].Key })
	held := make(map[string][]byte, len(is))
	for _, e := range is {
		held[e.Key] = e.Value
	}
	var found []string
	note := func(s string) {
		if len(found) < maxExamples {
			found = append(found, s)
		}
	}
	for _, e := range should {
		got, ok := held[e.Key]
		delete(held, e.Key)
		switch {
		case !ok:
			note(fmt.Sprintf("%q is missing", e.Key))
		case !bytes.Equal(got, e.Value) && e.Key == step.MetaKey:
			note(fmt.Sprintf("the partition's own state is %s, should be %s", got, e.Value))
		case !bytes.Equal(got, e.Value):
			note(fmt.Sprintf("%q differs", e.Key))
		}
	}
	for key := range held {
		note(fmt.Sprintf("%q should not be there", key))
	}
	return found
}

// compareEffects reads the topics behind.
func compareEffects(ctx context.Context, client *broker.Client, p Processor, partition int32, logID string, voice step.Voice, effects map[string]*effect, v *Verdict) error {
	outputs := append([]string{topics.DeadLetters}, p.Outputs...)
	outputs = append(outputs, p.PassTo...)
	outputs = append(outputs, p.Broadcast...)
	sort.Strings(outputs)
	trimmed := map[string]bool{}
	example := func(s string) {
		if len(v.Examples) < maxExamples {
			v.Examples = append(v.Examples, s)
		}
	}
	last := ""
	for _, topic := range outputs {
		if topic == last {
			continue
		}
		last = topic
		n, err := client.Partitions(ctx, topic)
		if err != nil {
			return err
		}
		for i := range int32(n) {
			start, end, err := client.Bounds(ctx, topic, i)
			if err != nil {
				return err
			}
			trimmed[topic] = trimmed[topic] || start > 0
			for at := start; at < end; {
				got, err := client.Fetch(ctx, []broker.PartitionOffset{{Topic: topic, Partition: i, Offset: at}}, time.Second, 4<<20)
				if err == nil {
					err = got[0].Err
				}
				if errors.Is(err, broker.ErrOutOfRange) {
					// Cut while it was read: what is gone counts as expired.
					trimmed[topic] = true
					if start, _, err = client.Bounds(ctx, topic, i); err == nil && start > at {
						at = start
						continue
					}
					err = errors.Join(err, broker.ErrOutOfRange)
				}
				if err != nil {
					return fmt.Errorf("read %s/%d at %d: %w", topic, i, at, err)
				}
				at = max(at, got[0].Next)
				for j := range got[0].Records {
					r := &got[0].Records[j]
					if r.Header(record.HeaderRequeueFor) != nil && topic != topics.DeadLetters {
						continue // put back by an operator: a repeat for all but one
					}
					if topic == topics.DeadLetters && string(r.Header(record.HeaderDeadProcessor)) != p.Name {
						continue
					}
					header := string(r.Header(positionIn(topic)))
					pos, err := record.ParsePosition(header)
					if err != nil || pos.Log != logID || pos.Partition != partition || pos.Offset < v.From || pos.Offset >= v.To {
						continue
					}
					e := effects[place(topic, record.ByKey, header)]
					if e == nil {
						e = effects[place(topic, i, header)]
					}
					switch {
					case e == nil:
						v.Unexplained++
						example(fmt.Sprintf("%s/%d@%d: nothing in the log causes %s", topic, i, r.Offset, r.Header(record.HeaderID)))
					case e.hash != xxhash.Sum64(r.Value):
						v.Unexplained++
						example(fmt.Sprintf("%s/%d@%d: %s has another payload", topic, i, r.Offset, e.id))
					case e.seen:
						v.Repeats++
					default:
						e.seen = true
					}
				}
			}
		}
	}
	compacted := map[string]bool{}
	for _, s := range Specs(1) {
		compacted[s.Name] = s.Compact
	}
	for _, e := range effects {
		v.Effects++
		if e.seen {
			continue
		}
		if trimmed[e.topic] || compacted[e.topic] {
			v.Expired++
			continue
		}
		if voice.Silent != "" || (voice.Word == step.WordSpeak || voice.Word == step.WordSpoken) && e.offset < voice.From {
			v.Withheld++
			continue
		}
		v.Missing++
		example(fmt.Sprintf("%s: %s is missing", e.topic, e.id))
	}
	return nil
}
