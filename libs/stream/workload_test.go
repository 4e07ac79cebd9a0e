package stream_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/bits"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/stream/step"
)

// The workload on which stream processors are compared: event i is a function
// of i alone, so that every processor can be fed the same bytes. 200,000 users
// with a Zipf law of 1.1, 250 bytes an event, a state of 172 bytes a user, and a
// follow-up for every fiftieth event.
const (
	benchPartitions = 8
	benchUsers      = 200_000
	benchEvent      = 250
	benchState      = 172
	benchEvery      = 50
	benchShop       = "bench"
	benchType       = "bench.event"
	benchStart      = 1_700_000_000_000_000 // us: time of event 0
	benchPeriod     = 1000                  // us from one event to the next
)

// workload makes events.
type workload struct{ cumulative []uint64 }

func newWorkload() *workload {
	w := &workload{cumulative: make([]uint64, benchUsers)}
	var sum uint64
	for r := range w.cumulative {
		sum += uint64(math.Floor(4294967296.0 / math.Pow(float64(r+1), 1.1)))
		w.cumulative[r] = sum
	}
	return w
}

// random is number 64 i + k of SplitMix64.
func random(i, k uint64) uint64 {
	z := 20261123 + (i*64+k+1)*0x9E3779B97F4A7C15
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

func below(r, n uint64) uint64 {
	high, _ := bits.Mul64(r, n)
	return high
}

// user is whom event i is about: rank 1 is the most frequent.
func (w *workload) user(i uint64) uint64 {
	u := below(random(i, 0), w.cumulative[benchUsers-1])
	return uint64(sort.Search(benchUsers, func(j int) bool { return w.cumulative[j] > u })) + 1
}

// event writes event i, which happened at us, into b.
func (w *workload) event(b []byte, i, us uint64) (user uint64) {
	be := binary.BigEndian
	user = w.user(i)
	product := below(random(i, 2), 50_000)
	kind, t := byte(7), below(random(i, 1), 100)
	for k, end := range [...]uint64{60, 75, 85, 89, 93, 96, 98} {
		if t < end {
			kind = byte(k)
			break
		}
	}
	b[0], b[25], b[26], b[35] = 1, kind, byte(product%12), 0
	be.PutUint64(b[1:], i)
	be.PutUint64(b[9:], user)
	be.PutUint64(b[17:], us)
	be.PutUint32(b[27:], uint32(product))
	be.PutUint32(b[31:], uint32(below(random(i, 3), 20_000)+99))
	be.PutUint64(b[36:], random(i, 4))
	be.PutUint64(b[44:], random(i, 5))
	be.PutUint16(b[52:], 196)
	var r uint64
	for j := range uint64(196) {
		if j%16 == 0 {
			r = random(i, 8+j/16)
		}
		b[54+j] = "0123456789abcdef"[r>>(60-4*(j%16))&15]
	}
	return user
}

// raw is event i as the peers append it: no headers, the user's number as key.
func (w *workload) raw(topic string, i, us uint64) record.Out {
	b := make([]byte, benchEvent)
	user := w.event(b, i, us)
	return record.Out{Topic: topic, Partition: int32(user % benchPartitions), Key: b[9:17:17], Value: b}
}

// readRaw is what such a record means to Sillage.
func readRaw(r *record.Record, f *step.Foreign) error {
	if len(r.Value) != benchEvent || r.Value[0] != 1 {
		return fmt.Errorf("event of %d bytes", len(r.Value))
	}
	f.Name = appendUser(f.Name, binary.BigEndian.Uint64(r.Value[9:]))
	f.EventTime = int64(binary.BigEndian.Uint64(r.Value[17:])) / 1000
	return nil
}

func appendUser(b []byte, user uint64) []byte {
	b = append(b, benchShop+"/"...)
	return strconv.AppendUint(b, user, 10)
}

// shopper is a user's state.
type shopper struct {
	total      uint32
	types      [8]uint32
	categories [12]uint32
	seen       int64
	recent     [20]uint32
}

// shopping is the fold of the workload.
type shopping struct {
	out   string // topic of the follow-ups
	meter *meter
	count *atomic.Int64
}

func (f shopping) Record(s *shopper, fact step.Fact, _ step.Instant, out *step.Effects) error {
	be := binary.BigEndian
	v := fact.Value
	if len(v) != benchEvent {
		return fmt.Errorf("event of %d bytes", len(v))
	}
	s.total++
	s.types[v[25]]++
	s.categories[v[26]]++
	s.seen = max(s.seen, int64(be.Uint64(v[17:])))
	product := be.Uint32(v[27:])
	s.recent[(s.total-1)%20] = product
	if be.Uint64(v[1:])%benchEvery == 0 {
		b := make([]byte, 0, 32)
		b = append(append(append(b, v[1:9]...), v[9:17]...), v[17:25]...)
		b = be.AppendUint32(be.AppendUint32(b, s.total), product)
		out.Publish(step.Message{Topic: f.out, Key: out.Key().ID, Type: "bench.follow-up", Kind: "f", Value: b})
	}
	if f.count.Add(1) == 1 {
		f.meter.first()
	}
	return nil
}

func (f shopping) Wake(*shopper, step.Key, step.Instant, *step.Effects) {}

type shopperCodec struct{}

func (shopperCodec) Append(b []byte, s *shopper) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, s.total)
	for _, n := range s.types {
		b = be.AppendUint32(b, n)
	}
	for _, n := range s.categories {
		b = be.AppendUint32(b, n)
	}
	b = be.AppendUint64(b, uint64(s.seen))
	for _, n := range s.recent {
		b = be.AppendUint32(b, n)
	}
	return b
}

func (shopperCodec) Unmarshal(b []byte, s *shopper) error {
	if len(b) != benchState {
		return fmt.Errorf("state of %d bytes", len(b))
	}
	be := binary.BigEndian
	next := func() uint32 {
		n := be.Uint32(b)
		b = b[4:]
		return n
	}
	s.total = next()
	for i := range s.types {
		s.types[i] = next()
	}
	for i := range s.categories {
		s.categories[i] = next()
	}
	s.seen = int64(be.Uint64(b))
	b = b[8:]
	for i := range s.recent {
		s.recent[i] = next()
	}
	return nil
}

// meter counts what the partitions of a processor fold.
type meter struct {
	mu     sync.Mutex
	counts []*atomic.Int64
	began  time.Time
}

// add returns a counter for one partition.
func (m *meter) add() *atomic.Int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := new(atomic.Int64)
	m.counts = append(m.counts, c)
	return c
}

func (m *meter) first() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.began.IsZero() {
		m.began = time.Now()
	}
}

// folded is how many events were folded, and since when.
func (m *meter) folded() (n int64, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.counts {
		n += c.Load()
	}
	return n, m.began
}

func TestWorkloadIsThePeers(t *testing.T) {
	if got, want := workloadSum(20_000), "f105810650a52a6925cc5e1bf2b7e65cf9d3f06537f20f6d608f859fda575104"; got != want {
		t.Errorf("SHA-256 of the first 20,000 events is %s, want %s", got, want)
	}
	s := shopper{total: 3, types: [8]uint32{7: 2}, categories: [12]uint32{1: 5}, seen: 99, recent: [20]uint32{19: 4}}
	b := shopperCodec{}.Append(nil, &s)
	var again shopper
	if err := (shopperCodec{}).Unmarshal(b, &again); err != nil || again != s || len(b) != benchState {
		t.Errorf("state of %d bytes reads as %+v, %v; want %+v", len(b), again, err, s)
	}
}

// workloadSum is the SHA-256 of the first n events.
func workloadSum(n uint64) string {
	w, h, b := newWorkload(), sha256.New(), make([]byte, benchEvent)
	for i := range n {
		w.event(b, i, benchStart+i*benchPeriod)
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// BenchmarkFold folds one partition of the workload in memory, without broker
// and store: raw records, derived records as they come, and in order of time.
func BenchmarkFold(b *testing.B) {
	const n = 200_000
	w := newWorkload()
	one := func(at func(i uint64) record.Out, total uint64) (recs []record.Record) {
		for i := range total {
			if o := at(i); o.Partition == 1 {
				recs = append(recs, record.Record{Partition: 1, Offset: int64(len(recs)), Key: o.Key, Value: o.Value, Headers: o.Headers})
			}
		}
		return recs
	}
	raw := one(func(i uint64) record.Out { return w.raw("in", i, benchStart+i*benchPeriod) }, n)
	come := one(func(i uint64) record.Out { return derived(w, "in", i) }, n)
	for _, c := range []struct {
		name  string
		recs  []record.Record
		order step.Order
	}{{"raw", raw, step.OnArrival}, {"derived", come, step.OnArrival}, {"in time order", come, step.InTimeOrder}} {
		b.Run(c.name, func(b *testing.B) {
			p := benchProcessor("fold", "in", "out", &meter{})
			if p.Order = c.order; c.name != "raw" {
				p.Foreign = nil
			}
			b.ReportAllocs()
			records := 0
			for b.Loop() {
				folder := p.New(p.Config("log", 1, benchPartitions))
				if err := folder.Restore(step.State{}, step.Fence{}); err != nil {
					b.Fatal(err)
				}
				for from := 0; from < len(c.recs); from += 3000 {
					for rest := c.recs[from:min(from+3000, len(c.recs))]; len(rest) > 0; {
						var err error
						if _, rest, err = folder.Fold(rest); err != nil {
							b.Fatal(err)
						}
						folder.Settled()
					}
				}
				records += len(c.recs)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(records), "ns/record")
		})
	}
}
