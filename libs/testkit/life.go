package testkit

import (
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// Shop is the shop that everything happens in.
const Shop = "shop"

// Life is one partition of a processor. It is not safe for concurrent use.
type Life struct {
	t      *testing.T
	client bool
	folder step.Folder
	offset int64
	outs   []record.Out
}

// New returns an empty partition of p, whose clock comes from one source.
func New(t *testing.T, p stream.Processor) *Life {
	t.Helper()
	l := &Life{t: t, client: p.Client, folder: p.New(p.Config("log", 0, 1))}
	if err := l.folder.Restore(step.State{}, step.Fence{LogID: "log"}); err != nil {
		t.Fatal(err)
	}
	return l
}

// Event appends a client record, for a processor that reads them.
func (l *Life) Event(key string, e *eventv1.Event) {
	l.t.Helper()
	e.Shop = Shop
	l.append(Shop+"/"+key, step.TypeEvent, e.MessageId, e.EventTimeMs, time.UnixMilli(e.EventTimeMs), e)
}

// Fact appends a derived record that was true at, and counts from then on.
func (l *Life) Fact(key, kind string, at time.Time, m proto.Message) {
	l.t.Helper()
	l.append(Shop+"/"+key, kind, "fact-"+strconv.FormatInt(l.offset, 10), at.UnixMilli(), at, m)
}

// Tick says that it is at.
func (l *Life) Tick(at time.Time) {
	l.t.Helper()
	l.append("", step.TypeTick, "tick", at.UnixMilli(), at, &eventv1.Tick{TimeUs: at.UnixMicro()})
}

// Outage says that it is to, and that nothing was observed since from: what
// profile makes of two ticks that are far apart.
func (l *Life) Outage(from, to time.Time) {
	l.t.Helper()
	tick := &eventv1.Tick{TimeUs: to.UnixMicro(), UnobservedFromUs: from.UnixMicro(), UnobservedToUs: to.UnixMicro()}
	l.append("", step.TypeTick, "tick", to.UnixMilli(), to, tick)
}

// Until ticks every half an hour, which is often enough for no stretch to count
// as an outage, and last at end.
func (l *Life) Until(from, end time.Time) {
	l.t.Helper()
	for at := from; at.Before(end); at = at.Add(30 * time.Minute) {
		l.Tick(at)
	}
	l.Tick(end)
}

func (l *Life) append(key, kind, id string, eventTime int64, effective time.Time, m proto.Message) {
	l.t.Helper()
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		l.t.Fatal(err)
	}
	r := record.Record{Topic: topics.Events, Offset: l.offset, AppendTime: effective.UnixMilli(), Value: value, Headers: []record.Header{
		{Key: record.HeaderID, Value: []byte(id)}, {Key: record.HeaderType, Value: []byte(kind)}, {Key: record.HeaderTime, Value: strconv.AppendInt(nil, eventTime, 10)},
	}}
	if key != "" {
		r.Key = []byte(key)
	}
	if !l.client {
		r.Headers = append(r.Headers,
			record.Header{Key: record.HeaderEffective, Value: strconv.AppendInt(nil, effective.UnixMicro(), 10)},
			record.Header{Key: record.HeaderPosition, Value: []byte(record.Position{Log: "events", Offset: l.offset}.String())})
	}
	l.offset++
	for rest := []record.Record{r}; len(rest) > 0; {
		var b step.Batch
		if b, rest, err = l.folder.Fold(rest); err != nil {
			l.t.Fatal(err)
		}
		for _, o := range b.Outs {
			if o.Topic == topics.DeadLetters {
				l.t.Logf("dead letter: %s", header(o, record.HeaderReason))
			}
			l.outs = append(l.outs, o)
		}
		l.folder.Settled()
	}
}

// Outs returns what followed in a topic, ticks and marks left out, since the
// last call for it.
func (l *Life) Outs(topic string) []record.Out {
	var found, left []record.Out
	for _, o := range l.outs {
		switch {
		case o.Topic != topic:
			left = append(left, o)
		case header(o, record.HeaderType) != step.TypeTick:
			found = append(found, o)
		}
	}
	l.outs = left
	return found
}

func header(o record.Out, name string) string {
	for _, h := range o.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// State returns the codec's bytes of an entity, nil where there is none.
func (l *Life) State(key string) []byte {
	l.t.Helper()
	for _, e := range l.folder.Dump() {
		if e.Key != Shop+"/"+key {
			continue
		}
		b, err := step.StateOf(e.Value)
		if err != nil {
			l.t.Fatal(err)
		}
		return b
	}
	return nil
}
