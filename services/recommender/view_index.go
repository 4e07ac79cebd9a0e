package recommender

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/domain/recommend"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/topics"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
)

// Index is a replica's memory of all shops, built from the deltas and the
// catalogue. It is safe for concurrent use.
type Index struct {
	cfg recommend.Config

	mu      sync.RWMutex
	shops   map[string]*shopIndex
	highest map[string]record.Position // by topic and source partition: repeats are dropped
	counts  IndexCounts
	scratch recommend.Scratch // of the ranker's lessons
}

type shopIndex struct {
	mu    sync.RWMutex
	index *recommend.Index
}

// IndexCounts are what became of the records read.
type IndexCounts struct{ Applied, Repeated, Unknown, Bad int64 }

// NewIndex returns an empty index.
func NewIndex(cfg Config) *Index {
	return &Index{cfg: cfg.index(), shops: map[string]*shopIndex{}, highest: map[string]record.Position{}}
}

// Counts returns what became of the records read.
func (x *Index) Counts() IndexCounts {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.counts
}

// shop returns a shop's index, nil where there is none.
func (x *Index) shop(name string) *shopIndex {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.shops[name]
}

// Apply takes one record of recommendation.deltas.v1 or catalog.v1. What cannot
// be read is counted and left: a view has nobody to send it to.
func (x *Index) Apply(r record.Record) error {
	var apply func(*recommend.Index)
	shop, _, _ := strings.Cut(string(r.Key), "/")
	x.mu.Lock()
	defer x.mu.Unlock()
	pos, err := record.ParsePosition(string(r.Header(record.HeaderPosition)))
	if err != nil {
		x.counts.Bad++
		return nil
	}
	source := r.Topic + "/" + strconv.Itoa(int(r.Partition)) + "/" + pos.Log + "/" + strconv.Itoa(int(pos.Partition))
	if last, ok := x.highest[source]; ok && !pos.After(last) {
		x.counts.Repeated++
		return nil
	}
	x.highest[source] = pos
	switch string(r.Header(record.HeaderType)) {
	case topics.TypeDelta:
		var d recommenderv1.Delta
		if proto.Unmarshal(r.Value, &d) != nil {
			x.counts.Bad++
			return nil
		}
		apply = func(i *recommend.Index) { i.Observe(delta(&d), &x.scratch) }
	case topics.TypeProduct:
		var p profilev1.Product
		if proto.Unmarshal(r.Value, &p) != nil {
			x.counts.Bad++
			return nil
		}
		apply = func(i *recommend.Index) {
			i.SetProduct(p.ProductId, p.Name, p.Category, p.Brand, p.Price.GetMicros(), p.Active)
		}
	default:
		x.counts.Unknown++
		return nil
	}
	s := x.shops[shop]
	if s == nil {
		s = &shopIndex{index: recommend.New(x.cfg)}
		x.shops[shop] = s
	}
	s.mu.Lock()
	apply(s.index)
	s.mu.Unlock()
	x.counts.Applied++
	return nil
}

func delta(d *recommenderv1.Delta) recommend.Delta {
	n := recommend.Delta{Session: d.Session, Item: d.ProductId, Kind: kinds[d.Kind], At: d.EventTimeMs, First: d.First}
	if len(d.Previous) > 0 {
		n.Previous = make([]recommend.Previous, len(d.Previous))
		for i, p := range d.Previous {
			n.Previous[i] = recommend.Previous{Item: p.ProductId, Kind: kinds[p.Kind], At: p.EventTimeMs}
		}
	}
	return n
}

// snapshotHead stands in front of the shops' indexes.
type snapshotHead struct {
	Version int                        `json:"version"`
	LogIDs  map[string]string          `json:"log_ids"`
	Next    map[string]int64           `json:"next"` // by topic/partition
	Highest map[string]record.Position `json:"highest"`
	Shops   []string                   `json:"shops"`
	Counts  IndexCounts                `json:"counts"`
}

const snapshotVersion = 1

// ErrSnapshot says that a snapshot is none of these logs or of another version.
var ErrSnapshot = errors.New("snapshot cannot be used")

// Snapshot writes a snapshot that goes on at next, of the logs named.
func (x *Index) Snapshot(w io.Writer, next map[stream.Place]int64, logIDs map[string]string) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	head := snapshotHead{Version: snapshotVersion, LogIDs: logIDs, Next: map[string]int64{}, Highest: x.highest, Counts: x.counts}
	for p, at := range next {
		head.Next[p.Topic+"/"+strconv.Itoa(int(p.Partition))] = at
	}
	for name := range x.shops {
		head.Shops = append(head.Shops, name)
	}
	sort.Strings(head.Shops)
	buffered := bufio.NewWriterSize(w, 1<<20)
	line, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	if _, err := buffered.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write a snapshot: %w", err)
	}
	for _, name := range head.Shops {
		s := x.shops[name]
		s.mu.RLock()
		_, err := s.index.WriteTo(buffered)
		s.mu.RUnlock()
		if err != nil {
			return fmt.Errorf("write the index of %s: %w", name, err)
		}
	}
	return buffered.Flush()
}

// Restore takes over a snapshot of the same logs, and returns where it goes on.
func (x *Index) Restore(r io.Reader, logIDs map[string]string) (map[stream.Place]int64, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read a snapshot: %w", err)
	}
	var head snapshotHead
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if head.Version != snapshotVersion {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrSnapshot, head.Version, snapshotVersion)
	}
	for topic, id := range logIDs {
		if head.LogIDs[topic] != id {
			return nil, fmt.Errorf("%w: it is of log %s of %s, which is now %s", ErrSnapshot, head.LogIDs[topic], topic, id)
		}
	}
	shops := map[string]*shopIndex{}
	for _, name := range head.Shops {
		index, err := recommend.ReadIndex(in, x.cfg)
		if err != nil {
			return nil, fmt.Errorf("%w: index of %s: %w", ErrSnapshot, name, err)
		}
		shops[name] = &shopIndex{index: index}
	}
	next := map[stream.Place]int64{}
	for place, at := range head.Next {
		topic, part, _ := strings.Cut(place, "/")
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, fmt.Errorf("%w: place %q", ErrSnapshot, place)
		}
		next[stream.Place{Topic: topic, Partition: int32(n)}] = at
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shops, x.highest, x.counts = shops, head.Highest, head.Counts
	if x.highest == nil {
		x.highest = map[string]record.Position{}
	}
	return next, nil
}

// Save writes a snapshot to a file, whole or not at all, and makes its directory.
func (x *Index) Save(name string, next map[stream.Place]int64, logIDs map[string]string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("save a snapshot: %w", err)
	}
	tmp := name + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return fmt.Errorf("save a snapshot: %w", err)
	}
	err = errors.Join(x.Snapshot(f, next, logIDs), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// answer computes an answer from a shop's index, nil where the shop is unknown.
func (x *Index) answer(shop string, q recommend.Query, s *recommend.Scratch, dst []recommend.Answer) []recommend.Answer {
	i := x.shop(shop)
	if i == nil {
		return dst
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.index.Recommend(q, s, dst)
}

// name is a product's name, "" where the catalogue has none.
func (x *Index) name(shop, item string) string {
	i := x.shop(shop)
	if i == nil {
		return ""
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	p, _ := i.index.Product(item)
	return p.Name
}

// snapshotEvery is how often a replica saves its index.
const snapshotEvery = time.Minute
