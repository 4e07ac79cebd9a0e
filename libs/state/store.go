package state

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/sillage-io/sillage/libs/stream/step"
)

// Store is Redis or Valkey, for owners and readers. It is safe for concurrent
// use.
type Store struct {
	cfg    Config
	client redis.UniversalClient // of readers, and who knows the way to a node

	mu      sync.Mutex
	buckets map[string]int // how many hashes a partition has, as last read
}

// Open makes a store. It does not dial yet: see [Store.Ping].
func Open(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	client, err := cfg.client()
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, client: client, buckets: map[string]int{}}, nil
}

// Close closes all connections but those of partitions.
func (s *Store) Close() error { return s.client.Close() }

// Ping asks whether the store answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping the store at %s: %w", strings.Join(s.cfg.Addrs, ","), err)
	}
	return nil
}

// conn opens a connection to the node that holds key, for an owner. Again: the
// last one went wrong, so that a cluster may have another layout.
func (s *Store) conn(ctx context.Context, key string, again bool) (*conn, error) {
	switch c := s.client.(type) {
	case *redis.Client: // a sentinel's dials the master of the moment
		return dial(ctx, c.Options(), s.cfg.Timeout)
	case *redis.ClusterClient:
		if again {
			c.ReloadState(ctx)
		}
		ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
		defer cancel()
		node, err := c.MasterForKey(ctx, key)
		if err != nil {
			return nil, err
		}
		return dial(ctx, node.Options(), s.cfg.Timeout)
	}
	return nil, fmt.Errorf("no connection from a %T", s.client)
}

// Read returns one entity's bytes; ok is false where there is none. It costs
// one round trip.
func (s *Store) Read(ctx context.Context, tag string, layout Layout, name string) (value []byte, ok bool, err error) {
	values, err := s.ReadMany(ctx, []Place{{Tag: tag, Layout: layout, Name: name}})
	if err != nil {
		return nil, false, err
	}
	return values[0], values[0] != nil, nil
}

// Place names one entity.
type Place struct {
	Tag    string
	Layout Layout
	Name   string
}

// ReadMany returns the entities' bytes, nil where there is none, in one round
// trip (two where a partition was rebuilt with another number of hashes).
func (s *Store) ReadMany(ctx context.Context, places []Place) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	for range 3 {
		values, stale, err := s.readMany(ctx, places)
		if err != nil {
			return nil, fmt.Errorf("read %d entities: %w", len(places), err)
		}
		if !stale {
			return values, nil
		}
	}
	return nil, errors.New("read entities: their partitions are being rebuilt")
}

func (s *Store) readMany(ctx context.Context, places []Place) (values [][]byte, stale bool, err error) {
	pipe := s.client.Pipeline()
	got, counts, used := make([]*redis.StringCmd, len(places)), make([]*redis.StringCmd, len(places)), make([]int, len(places))
	for i, p := range places {
		k := keys{p.Tag}
		switch {
		case p.Name == step.MetaKey:
			got[i] = pipe.Get(ctx, k.meta())
		case p.Layout == PerKey:
			got[i] = pipe.Get(ctx, k.entity(p.Name))
		default:
			used[i] = s.bucketCount(p.Tag)
			counts[i] = pipe.Get(ctx, k.buckets())
			got[i] = pipe.HGet(ctx, k.bucket(bucketOf(p.Name, used[i])), p.Name)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, false, err
	}
	values = make([][]byte, len(places))
	for i := range places {
		if counts[i] != nil {
			if n, err := strconv.Atoi(counts[i].Val()); err == nil && n != used[i] && n > 0 {
				s.mu.Lock()
				s.buckets[places[i].Tag] = n
				s.mu.Unlock()
				stale = true
				continue
			}
		}
		b, err := got[i].Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, false, err
		}
		if err == nil {
			values[i] = b
		}
	}
	return values, stale, nil
}

func (s *Store) bucketCount(tag string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.buckets[tag]; n > 0 {
		return n
	}
	return s.cfg.Buckets
}

// Fence reads a partition's fence; "" where there is none.
func (s *Store) Fence(ctx context.Context, tag string) (string, error) {
	fence, err := s.client.Get(ctx, keys{tag}.fence()).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("read the fence of %s: %w", tag, err)
	}
	return fence, nil
}

// Dump reads all of a partition, as it was at one moment: if an owner writes
// meanwhile, it reads again.
func (s *Store) Dump(ctx context.Context, tag string, layout Layout) (step.State, error) {
	p := s.Partition(tag, layout)
	defer p.Close()
	for range 20 {
		if _, err := p.Arm(ctx); err != nil {
			return step.State{}, err
		}
		st, err := p.Load(ctx)
		if err != nil {
			return step.State{}, err
		}
		same, err := p.same(ctx)
		if err != nil {
			return step.State{}, fmt.Errorf("dump %s: %w", tag, err)
		}
		if same {
			return st, nil
		}
	}
	return step.State{}, fmt.Errorf("dump %s: its owner writes faster than it can be read", tag)
}

// Restore puts a state in the place of whatever the partition holds.
func (s *Store) Restore(ctx context.Context, tag string, layout Layout, st step.State) error {
	p := s.Partition(tag, layout)
	defer p.Close()
	fence, err := p.Arm(ctx)
	if err != nil {
		return err
	}
	outcome, _, err := p.Apply(ctx, step.Write{Base: fence, Target: st.Fence, Wipe: true, Entities: st.Entities, Logs: st.Logs})
	if err == nil && outcome != step.Applied {
		err = errors.New("an owner is writing it")
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", tag, err)
	}
	return nil
}

// Finding is something about a server that puts state at risk.
type Finding struct {
	Refuse bool   `json:"refuse"` // do not run like this; otherwise a warning
	Where  string `json:"where"`
	What   string `json:"what"`
	Fix    string `json:"fix"`
}

// Doctor lists what is wrong with the store's settings for a processor's state.
// What a store does not tell is not judged.
func (s *Store) Doctor(ctx context.Context) ([]Finding, error) {
	if err := s.Ping(ctx); err != nil {
		return nil, err
	}
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return diagnose(ctx, "store", s.client), nil
	}
	var mu sync.Mutex
	var found []Finding
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		some := diagnose(ctx, "store "+c.Options().Addr, c)
		mu.Lock()
		defer mu.Unlock()
		found = append(found, some...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask the cluster's masters for their settings: %w", err)
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Where+found[i].What < found[j].Where+found[j].What })
	return found, nil
}

// diagnose judges one server.
func diagnose(ctx context.Context, where string, c redis.Cmdable) []Finding {
	config := func(name string) string {
		m, err := c.ConfigGet(ctx, name).Result()
		if err != nil {
			return ""
		}
		return m[name]
	}
	var found []Finding
	add := func(refuse bool, fix, format string, args ...any) {
		found = append(found, Finding{Refuse: refuse, Where: where, What: fmt.Sprintf(format, args...), Fix: fix})
	}
	if p := config("maxmemory-policy"); p != "" && p != "noeviction" {
		add(true, "CONFIG SET maxmemory-policy noeviction, and in redis.conf", "maxmemory-policy is %s: state would be evicted without a word", p)
	}
	if info, err := c.Info(ctx, "stats").Result(); err == nil {
		if n := infoNumber(info, "evicted_keys"); n > 0 {
			add(true, "set maxmemory-policy noeviction, sillage rebuild every processor, then CONFIG RESETSTAT", "%d keys were evicted: state is missing", n)
		}
	}
	if v := config("appendonly"); v == "no" {
		add(false, "CONFIG SET appendonly yes, and in redis.conf", "appendonly is no: after a crash the state is that of the last dump, and is folded again from there")
	}
	for _, limit := range []struct {
		name  string
		least int
	}{{"hash-max-listpack-entries", 128}, {"hash-max-listpack-value", 512}} {
		if v, err := strconv.Atoi(config(limit.name)); err == nil && v < limit.least {
			add(true, fmt.Sprintf("CONFIG SET %s %d, and in redis.conf; state that is there shrinks as it is written", limit.name, limit.least),
				"%s is %d: hashes of entities turn into tables, which take a third more memory and twice the time", limit.name, v)
		}
	}
	return found
}

// infoNumber finds a number in the answer of INFO.
func infoNumber(info, name string) int64 {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
