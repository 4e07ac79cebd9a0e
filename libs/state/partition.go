package state

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/sillage-io/sillage/libs/stream/step"
)

// Partition is one owner's side of a partition: one connection that watches
// the fence. It is not safe for concurrent use.
type Partition struct {
	store  *Store
	keys   keys
	layout Layout
	conn   *conn
	armed  string
	moved  bool // the node that was asked last may not be the right one

	n     int                 // Buckets: how many; 0 where not read
	names map[string]struct{} // PerKey: names in the list; nil where not read
	logs  map[string]struct{} // logs in the set; nil where not read

	buckets []bucketed // of the write in hand
}

// bucketed is an entity of a write with its bucket.
type bucketed struct{ bucket, entity int }

// Partition returns the owner's side of the partition called tag. Nothing is
// opened before Arm.
func (s *Store) Partition(tag string, layout Layout) *Partition {
	return &Partition{store: s, keys: keys{tag}, layout: layout}
}

// Close closes the connection.
func (p *Partition) Close() {
	if p.conn != nil {
		p.conn.close()
		p.conn = nil
	}
}

// broken closes the connection after an error: where the store has several
// nodes, the partition may have moved.
func (p *Partition) broken() {
	p.Close()
	p.moved = true
}

// Arm opens a new connection, watches the fence and returns it; "" where there
// is none. What earlier connections have learned is forgotten.
func (p *Partition) Arm(ctx context.Context) (string, error) {
	p.Close()
	p.n, p.names, p.logs = 0, nil, nil
	c, err := p.store.conn(ctx, p.keys.fence(), p.moved)
	if err != nil {
		p.moved = true
		return "", fmt.Errorf("arm %s: %w", p.keys.tag, err)
	}
	p.conn, p.moved = c, false
	c.command("WATCH", p.keys.fence())
	c.command("GET", p.keys.fence())
	if _, err = c.flush(ctx, p.store.cfg.Timeout); err == nil {
		err = p.took()
	}
	if err != nil {
		p.broken()
		return "", fmt.Errorf("arm %s: %w", p.keys.tag, err)
	}
	return p.armed, nil
}

// took reads the answers to WATCH and GET of the fence.
func (p *Partition) took() error {
	watch := p.conn.skip()
	if no := reply(""); watch != nil && !errors.As(watch, &no) {
		return watch
	}
	fence, _, err := p.conn.value()
	if err = errors.Join(watch, err); err != nil {
		return err
	}
	p.armed = string(fence)
	return nil
}

// Apply makes one atomic write: everything, if the fence is still w.Base, or
// nothing. Where it is Lost, current is the fence as it stands.
func (p *Partition) Apply(ctx context.Context, w step.Write) (outcome step.Outcome, current string, err error) {
	if p.conn == nil {
		return step.NotWritten, "", errors.New("not armed")
	}
	if p.armed != w.Base {
		return step.Lost, p.armed, nil
	}
	if err := p.learn(ctx, w); err != nil {
		p.broken()
		return step.NotWritten, "", err
	}
	c := p.conn
	c.command("MULTI")
	p.fill(w)
	c.command("EXEC")
	c.command("WATCH", p.keys.fence()) // arms the next write in the same round trip
	c.command("GET", p.keys.fence())
	answers, err := c.flush(ctx, p.store.cfg.Timeout)
	if err == nil {
		outcome, err = p.judge(answers - 3)
	} else {
		outcome = step.Ambiguous
	}
	if err != nil {
		p.broken()
		return outcome, "", fmt.Errorf("write %s: %w", p.keys.tag, err)
	}
	return outcome, p.armed, nil
}

// judge reads the answers to a write of so many commands before its EXEC, and
// says what became of it. After an error the connection is of no use.
func (p *Partition) judge(commands int) (step.Outcome, error) {
	c := p.conn
	var refused error // the first command that is
	for range commands {
		if err := c.skip(); err != nil {
			if no := reply(""); errors.As(err, &no) {
				if refused == nil {
					refused = err
				}
				continue
			}
			return refusal(refused, err)
		}
	}
	n, err := c.array()
	switch no := reply(""); {
	case refused != nil:
		return refusal(refused, nil)
	case errors.As(err, &no):
		return refusal(err, nil)
	case err != nil:
		return step.Ambiguous, err
	case n < 0:
		// The fence was touched: nothing is written.
		if err := p.took(); err != nil {
			return step.NotWritten, err
		}
		p.names, p.logs, p.n = nil, nil, 0
		return step.Lost, nil
	}
	for range n {
		if err := c.skip(); err != nil {
			if no := reply(""); !errors.As(err, &no) {
				return step.Ambiguous, err
			}
			refused = errors.Join(refused, err)
		}
	}
	if refused != nil {
		return step.Refused, refused
	}
	if err := p.took(); err != nil {
		return step.Ambiguous, err // it is written; arming again will say so
	}
	return step.Applied, nil
}

// refusal is what became of a write of which the server has refused a command:
// nothing is written. Where it has refused none, lost is why its answer is not
// known.
func refusal(refused, lost error) (step.Outcome, error) {
	if refused == nil {
		return step.Ambiguous, lost
	}
	for _, passing := range []string{"LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN", "MOVED", "ASK", "BUSY", "MISCONF"} {
		if strings.HasPrefix(refused.Error(), passing) {
			return step.NotWritten, refused
		}
	}
	return step.Refused, refused
}

// learn reads the names that a write has to know, on the armed connection:
// once.
func (p *Partition) learn(ctx context.Context, w step.Write) error {
	if len(w.Entities) == 0 && len(w.Logs) == 0 && !w.Wipe {
		return nil
	}
	if p.logs != nil && (p.n > 0 || p.names != nil) {
		return nil
	}
	c := p.conn
	c.command("GET", p.keys.buckets())
	c.command("GET", p.keys.names())
	c.command("SMEMBERS", p.keys.logs())
	if _, err := c.flush(ctx, p.store.cfg.Timeout); err != nil {
		return fmt.Errorf("read the names of %s: %w", p.keys.tag, err)
	}
	n, _, err := c.value()
	names, _, err2 := c.value()
	if err = errors.Join(err, err2); err != nil {
		return fmt.Errorf("read the names of %s: %w", p.keys.tag, err)
	}
	count, err := c.array()
	var logs []string
	for range max(count, 0) {
		var l []byte
		if l, _, err = c.value(); err != nil {
			break
		}
		logs = append(logs, string(l))
	}
	if err != nil {
		return fmt.Errorf("read the names of %s: %w", p.keys.tag, err)
	}
	return p.learned(string(n), names, logs)
}

func (p *Partition) learned(n string, names []byte, logs []string) error {
	p.logs = make(map[string]struct{}, len(logs))
	for _, l := range logs {
		p.logs[l] = struct{}{}
	}
	p.names, p.n = nil, 0
	if p.layout == PerKey {
		p.names = map[string]struct{}{}
		for b := names; len(b) > 0; {
			size, k := binary.Uvarint(b)
			if k <= 0 || uint64(len(b)-k) < size {
				return fmt.Errorf("list of names of %s is damaged", p.keys.tag)
			}
			p.names[string(b[k:k+int(size)])] = struct{}{}
			b = b[k+int(size):]
		}
		return nil
	}
	p.n = p.store.cfg.Buckets
	if n != "" {
		v, err := strconv.Atoi(n)
		if err != nil || v < 1 {
			return fmt.Errorf("number of buckets of %s is %q", p.keys.tag, n)
		}
		p.n = v
	}
	return nil
}

// fill puts the commands of a write into a transaction.
func (p *Partition) fill(w step.Write) {
	if w.Wipe {
		p.wipe()
	}
	if p.layout == PerKey {
		p.fillKeys(w)
	} else {
		p.fillBuckets(w)
	}
	c := p.conn
	for _, l := range w.Logs {
		if l.Data == nil {
			c.command("DEL", p.keys.log(l.Name))
			c.command("SREM", p.keys.logs(), l.Name)
			delete(p.logs, l.Name)
			continue
		}
		if _, ok := p.logs[l.Name]; !ok {
			p.logs[l.Name] = struct{}{}
			c.command("SADD", p.keys.logs(), l.Name)
		}
		c.begin(3)
		c.arg("APPEND")
		c.arg(p.keys.log(l.Name))
		c.bytes(l.Data)
	}
}

func (p *Partition) fillKeys(w step.Write) {
	c, prefix := p.conn, p.keys.entity("")
	gone := 0
	for i := range w.Entities {
		if w.Entities[i].Value == nil && w.Entities[i].Key != step.MetaKey {
			gone++
		}
	}
	c.begin(3 + 2*(len(w.Entities)-gone))
	c.arg("MSET")
	c.arg(p.keys.fence())
	c.arg(w.Target)
	var named []byte
	for i := range w.Entities {
		switch e := &w.Entities[i]; {
		case e.Key == step.MetaKey:
			c.arg(p.keys.meta())
			c.bytes(e.Value)
		case e.Value != nil:
			c.key(prefix, e.Key)
			c.bytes(e.Value)
			if _, ok := p.names[e.Key]; !ok {
				p.names[e.Key] = struct{}{}
				named = append(binary.AppendUvarint(named, uint64(len(e.Key))), e.Key...)
			}
		}
	}
	if gone > 0 {
		c.begin(1 + gone)
		c.arg("DEL")
		for i := range w.Entities {
			if e := &w.Entities[i]; e.Value == nil && e.Key != step.MetaKey {
				c.key(prefix, e.Key)
			}
		}
	}
	if len(named) > 0 {
		c.begin(3)
		c.arg("APPEND")
		c.arg(p.keys.names())
		c.bytes(named)
	}
}

func (p *Partition) fillBuckets(w step.Write) {
	c := p.conn
	all, meta := p.buckets[:0], -1
	for i := range w.Entities {
		if w.Entities[i].Key == step.MetaKey {
			meta = i
			continue
		}
		all = append(all, bucketed{bucketOf(w.Entities[i].Key, p.n), i})
	}
	p.buckets = all
	slices.SortFunc(all, func(a, b bucketed) int { return cmp.Or(a.bucket-b.bucket, a.entity-b.entity) })
	pairs := 1
	if meta >= 0 {
		pairs++
	}
	if len(all) > 0 {
		pairs++
	}
	c.begin(1 + 2*pairs)
	c.arg("MSET")
	c.arg(p.keys.fence())
	c.arg(w.Target)
	if meta >= 0 {
		c.arg(p.keys.meta())
		c.bytes(w.Entities[meta].Value)
	}
	if len(all) > 0 {
		c.arg(p.keys.buckets())
		c.arg(strconv.Itoa(p.n))
	}
	for len(all) > 0 {
		n, gone := 0, 0
		for n < len(all) && all[n].bucket == all[0].bucket {
			if w.Entities[all[n].entity].Value == nil {
				gone++
			}
			n++
		}
		one, key := all[:n], p.keys.bucket(all[0].bucket)
		all = all[n:]
		if gone > 0 {
			c.begin(2 + gone)
			c.arg("HDEL")
			c.arg(key)
			for _, b := range one {
				if e := &w.Entities[b.entity]; e.Value == nil {
					c.arg(e.Key)
				}
			}
		}
		if gone < n {
			c.begin(2 + 2*(n-gone))
			c.arg("HSET")
			c.arg(key)
			for _, b := range one {
				if e := &w.Entities[b.entity]; e.Value != nil {
					c.arg(e.Key)
					c.bytes(e.Value)
				}
			}
		}
	}
}

// wipe deletes all of the partition but its fence, which the same write sets.
func (p *Partition) wipe() {
	c := p.conn
	c.begin(5 + len(p.logs) + len(p.names) + p.n)
	c.arg("DEL")
	c.arg(p.keys.meta())
	c.arg(p.keys.names())
	c.arg(p.keys.buckets())
	c.arg(p.keys.logs())
	for l := range p.logs {
		c.arg(p.keys.log(l))
	}
	for name := range p.names {
		c.arg(p.keys.entity(name))
	}
	for i := range p.n {
		c.arg(p.keys.bucket(i))
	}
	p.logs = map[string]struct{}{}
	if p.layout == PerKey {
		p.names = map[string]struct{}{}
	} else {
		p.n = p.store.cfg.Buckets
	}
}

// Load reads all of the partition on the armed connection, and the fence last: a
// write that succeeds afterwards proves that what was read is still so.
func (p *Partition) Load(ctx context.Context) (step.State, error) {
	if p.conn == nil {
		return step.State{}, errors.New("not armed")
	}
	var s step.State
	err := p.learn(ctx, step.Write{Wipe: true})
	if err == nil {
		err = p.load(ctx, &s)
	}
	if err == nil {
		// Whoever has claimed it meanwhile is seen, and what was read under two
		// owners is not taken for the state of one.
		s.Fence, err = p.fenceNow(ctx)
	}
	if err != nil {
		p.broken()
		return step.State{}, fmt.Errorf("load %s: %w", p.keys.tag, err)
	}
	return s, nil
}

// fenceNow reads the fence, which stays watched as it was.
func (p *Partition) fenceNow(ctx context.Context) (string, error) {
	p.conn.command("GET", p.keys.fence())
	if _, err := p.conn.flush(ctx, p.store.cfg.Timeout); err != nil {
		return "", err
	}
	fence, _, err := p.conn.value()
	return string(fence), err
}

func (p *Partition) load(ctx context.Context, s *step.State) error {
	logs := make([]string, 0, len(p.logs))
	for l := range p.logs {
		logs = append(logs, l)
	}
	sort.Strings(logs)
	c := p.conn
	c.command("GET", p.keys.meta())
	for _, l := range logs {
		c.command("GET", p.keys.log(l))
	}
	if _, err := c.flush(ctx, p.store.cfg.Timeout); err != nil {
		return err
	}
	meta, ok, err := c.value()
	if err != nil {
		return err
	}
	if ok {
		s.Entities = append(s.Entities, step.Entity{Key: step.MetaKey, Value: meta})
	}
	for _, l := range logs {
		data, _, err := c.value()
		if err != nil {
			return err
		}
		s.Logs = append(s.Logs, step.LogAppend{Name: l, Data: data})
	}
	if p.layout == PerKey {
		return p.loadKeys(ctx, s)
	}
	return p.loadBuckets(ctx, s)
}

// loadBatch is how many keys one request of a load asks for, and loadAhead how
// many requests are under way: the server answers one while
// another is read here.
const (
	loadBatch = 256
	loadAhead = 4
)

// ahead sends request 0 to n-1 and reads their answers in order, some requests
// being under way at a time.
func (p *Partition) ahead(ctx context.Context, n int, ask func(i int), hear func(i int) error) error {
	for i := range n + loadAhead {
		if i < n {
			ask(i)
			if _, err := p.conn.flush(ctx, p.store.cfg.Timeout); err != nil {
				return err
			}
		}
		if i >= loadAhead {
			if err := hear(i - loadAhead); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Partition) loadKeys(ctx context.Context, s *step.State) error {
	names := make([]string, 0, len(p.names))
	for n := range p.names {
		names = append(names, n)
	}
	sort.Strings(names)
	c, prefix := p.conn, p.keys.entity("")
	some := func(i int) []string { return names[i*loadBatch : min((i+1)*loadBatch, len(names))] }
	return p.ahead(ctx, (len(names)+loadBatch-1)/loadBatch, func(i int) {
		c.begin(1 + len(some(i)))
		c.arg("MGET")
		for _, name := range some(i) {
			c.key(prefix, name)
		}
	}, func(i int) error {
		if n, err := c.array(); err != nil || n != len(some(i)) {
			return errors.Join(err, fmt.Errorf("%d values for %d names", n, len(some(i))))
		}
		for _, name := range some(i) {
			value, ok, err := c.value()
			if err != nil {
				return err
			}
			if ok {
				s.Entities = append(s.Entities, step.Entity{Key: name, Value: value})
			}
		}
		return nil
	})
}

func (p *Partition) loadBuckets(ctx context.Context, s *step.State) error {
	c := p.conn
	const some = 16 // entities of a few hundred keys
	last := func(i int) int { return min((i+1)*some, p.n) }
	err := p.ahead(ctx, (p.n+some-1)/some, func(i int) {
		for b := i * some; b < last(i); b++ {
			c.command("HGETALL", p.keys.bucket(b))
		}
	}, func(i int) error {
		for b := i * some; b < last(i); b++ {
			if err := p.loadBucket(s); err != nil {
				return err
			}
		}
		return nil
	})
	sort.Slice(s.Entities, func(i, j int) bool { return s.Entities[i].Key < s.Entities[j].Key })
	return err
}

func (p *Partition) loadBucket(s *step.State) error {
	n, err := p.conn.array()
	if err != nil {
		return err
	}
	for range n / 2 {
		name, _, err := p.conn.value()
		if err != nil {
			return err
		}
		value, _, err := p.conn.value()
		if err != nil {
			return err
		}
		s.Entities = append(s.Entities, step.Entity{Key: string(name), Value: value})
	}
	return nil
}

// same tells whether the fence is untouched since it was armed: an empty
// transaction does.
func (p *Partition) same(ctx context.Context) (bool, error) {
	c := p.conn
	c.command("MULTI")
	c.command("PING")
	c.command("EXEC")
	n, err := c.flush(ctx, p.store.cfg.Timeout)
	for range n - 1 {
		if err == nil {
			err = c.skip()
		}
	}
	if err != nil {
		return false, err
	}
	if n, err = c.array(); err != nil || n < 0 {
		return false, err
	}
	return true, c.skip()
}
