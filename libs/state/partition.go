package state

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/sillage-io/sillage/libs/stream/step"
)

// Partition is one owner's side of a partition: one connection that watches
// the fence. It is not safe for concurrent use.
type Partition struct {
	store   *Store
	keys    keys
	layout  Layout
	conn    *redis.Conn
	armed   string
	missing bool // there is no fence

	n     int                 // Buckets: how many; 0 where not read
	names map[string]struct{} // PerKey: names in the list; nil where not read
	logs  map[string]struct{} // logs in the set; nil where not read
}

// Partition returns the owner's side of the partition called tag. Nothing is
// opened before Arm.
func (s *Store) Partition(tag string, layout Layout) *Partition {
	return &Partition{store: s, keys: keys{tag}, layout: layout}
}

// Close closes the connection.
func (p *Partition) Close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

func (p *Partition) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.store.cfg.Timeout)
}

// Arm opens a new connection, watches the fence and returns it; "" where there
// is none. What earlier connections have learned is forgotten.
func (p *Partition) Arm(ctx context.Context) (string, error) {
	p.Close()
	p.n, p.names, p.logs = 0, nil, nil
	ctx, cancel := p.deadline(ctx)
	defer cancel()
	conn, err := p.store.conn(ctx, p.keys.fence())
	if err != nil {
		return "", fmt.Errorf("arm %s: %w", p.keys.tag, err)
	}
	p.conn = conn
	pipe := conn.Pipeline()
	// The connection may have been another owner's, who watched another fence.
	pipe.Do(ctx, "UNWATCH")
	pipe.Do(ctx, "WATCH", p.keys.fence())
	fence := pipe.Get(ctx, p.keys.fence())
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		p.Close()
		return "", fmt.Errorf("arm %s: %w", p.keys.tag, err)
	}
	return p.took(fence), nil
}

func (p *Partition) took(fence *redis.StringCmd) string {
	p.armed, p.missing = fence.Val(), errors.Is(fence.Err(), redis.Nil)
	return p.armed
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
	ctx, cancel := p.deadline(ctx)
	defer cancel()
	if err := p.learn(ctx, w); err != nil {
		p.Close()
		return step.NotWritten, "", err
	}
	pipe := p.conn.Pipeline()
	pipe.Do(ctx, "MULTI")
	p.fill(ctx, pipe, w)
	exec := pipe.Do(ctx, "EXEC")
	pipe.Do(ctx, "WATCH", p.keys.fence())
	fence := pipe.Get(ctx, p.keys.fence())
	cmds, err := pipe.Exec(ctx)
	return p.judge(cmds, exec, fence, err)
}

// judge says what became of a write.
func (p *Partition) judge(cmds []redis.Cmder, exec *redis.Cmd, fence *redis.StringCmd, err error) (step.Outcome, string, error) {
	if err == nil {
		replies, _ := exec.Val().([]any)
		for _, r := range replies {
			if e, ok := r.(error); ok {
				p.Close()
				return step.Refused, "", fmt.Errorf("write %s: %w", p.keys.tag, e)
			}
		}
		p.took(fence)
		return step.Applied, p.armed, nil
	}
	if errors.Is(exec.Err(), redis.Nil) {
		// The fence was touched: nothing is written.
		current := p.took(fence)
		p.names, p.logs, p.n = nil, nil, 0
		return step.Lost, current, nil
	}
	reply := refusal(cmds)
	p.Close()
	if reply == nil {
		return step.Ambiguous, "", fmt.Errorf("write %s: %w", p.keys.tag, err)
	}
	for _, passing := range []string{"LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN", "CLUSTERDOWN", "MOVED", "ASK", "BUSY", "MISCONF"} {
		if strings.HasPrefix(reply.Error(), passing) {
			return step.NotWritten, "", fmt.Errorf("write %s: %w", p.keys.tag, reply)
		}
	}
	return step.Refused, "", fmt.Errorf("write %s: %w", p.keys.tag, reply)
}

// refusal is the first reply that is an error, nil where no reply came.
func refusal(cmds []redis.Cmder) error {
	var first error
	for _, c := range cmds {
		var reply redis.Error
		e := c.Err()
		if e == nil || errors.Is(e, redis.Nil) || !errors.As(e, &reply) {
			continue
		}
		if !strings.HasPrefix(e.Error(), "EXECABORT") {
			return e
		}
		first = e
	}
	return first
}

// learn reads the names that a write has to know, on the armed connection.
func (p *Partition) learn(ctx context.Context, w step.Write) error {
	if len(w.Entities) == 0 && len(w.Logs) == 0 && !w.Wipe {
		return nil
	}
	if p.logs != nil && (p.n > 0 || p.names != nil) {
		return nil
	}
	pipe := p.conn.Pipeline()
	n, names, logs := pipe.Get(ctx, p.keys.buckets()), pipe.Get(ctx, p.keys.names()), pipe.SMembers(ctx, p.keys.logs())
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("read the names of %s: %w", p.keys.tag, err)
	}
	return p.learned(n.Val(), names.Val(), logs.Val())
}

func (p *Partition) learned(n, names string, logs []string) error {
	p.logs = make(map[string]struct{}, len(logs))
	for _, l := range logs {
		p.logs[l] = struct{}{}
	}
	p.names, p.n = nil, 0
	if p.layout == PerKey {
		p.names = map[string]struct{}{}
		for b := []byte(names); len(b) > 0; {
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
func (p *Partition) fill(ctx context.Context, pipe redis.Pipeliner, w step.Write) {
	if w.Wipe {
		p.wipe(ctx, pipe)
	}
	set := []any{"MSET", p.keys.fence(), w.Target}
	var named []byte
	var gone []any
	hset, hdel := map[int][]any{}, map[int][]any{}
	for _, e := range w.Entities {
		if e.Key == step.MetaKey {
			set = append(set, p.keys.meta(), e.Value)
			continue
		}
		if p.layout == PerKey {
			if e.Value == nil {
				gone = append(gone, p.keys.entity(e.Key))
				continue
			}
			set = append(set, p.keys.entity(e.Key), e.Value)
			if _, ok := p.names[e.Key]; !ok {
				p.names[e.Key] = struct{}{}
				named = binary.AppendUvarint(named, uint64(len(e.Key)))
				named = append(named, e.Key...)
			}
			continue
		}
		i := bucketOf(e.Key, p.n)
		if e.Value == nil {
			if hdel[i] == nil {
				hdel[i] = []any{"HDEL", p.keys.bucket(i)}
			}
			hdel[i] = append(hdel[i], e.Key)
			continue
		}
		if hset[i] == nil {
			hset[i] = []any{"HSET", p.keys.bucket(i)}
		}
		hset[i] = append(hset[i], e.Key, e.Value)
	}
	if p.layout == Buckets && len(hset) > 0 {
		set = append(set, p.keys.buckets(), p.n)
	}
	pipe.Do(ctx, set...)
	for _, i := range sorted(hdel) {
		pipe.Do(ctx, hdel[i]...)
	}
	for _, i := range sorted(hset) {
		pipe.Do(ctx, hset[i]...)
	}
	if len(gone) > 0 {
		pipe.Do(ctx, append([]any{"DEL"}, gone...)...)
	}
	if len(named) > 0 {
		pipe.Do(ctx, "APPEND", p.keys.names(), named)
	}
	for _, l := range w.Logs {
		if l.Data == nil {
			pipe.Do(ctx, "DEL", p.keys.log(l.Name))
			pipe.Do(ctx, "SREM", p.keys.logs(), l.Name)
			delete(p.logs, l.Name)
			continue
		}
		if _, ok := p.logs[l.Name]; !ok {
			p.logs[l.Name] = struct{}{}
			pipe.Do(ctx, "SADD", p.keys.logs(), l.Name)
		}
		pipe.Do(ctx, "APPEND", p.keys.log(l.Name), l.Data)
	}
}

func sorted(m map[int][]any) []int {
	is := make([]int, 0, len(m))
	for i := range m {
		is = append(is, i)
	}
	sort.Ints(is)
	return is
}

// wipe deletes all of the partition but its fence, which the same write sets.
func (p *Partition) wipe(ctx context.Context, pipe redis.Pipeliner) {
	del := []any{"DEL", p.keys.meta(), p.keys.names(), p.keys.buckets(), p.keys.logs()}
	for l := range p.logs {
		del = append(del, p.keys.log(l))
	}
	for name := range p.names {
		del = append(del, p.keys.entity(name))
	}
	for i := range p.n {
		del = append(del, p.keys.bucket(i))
	}
	pipe.Do(ctx, del...)
	p.logs = map[string]struct{}{}
	if p.layout == PerKey {
		p.names = map[string]struct{}{}
	} else {
		p.n = p.store.cfg.Buckets
	}
}

// loadBatch is how many keys or hashes one round trip of a load asks for.
const loadBatch = 512

// Load reads all of the partition on the armed connection, and the fence last: a
// write that succeeds afterwards proves that what was read is still so.
func (p *Partition) Load(ctx context.Context) (step.State, error) {
	if p.conn == nil {
		return step.State{}, errors.New("not armed")
	}
	var s step.State
	ctx, cancel := context.WithTimeout(ctx, 10*p.store.cfg.Timeout)
	defer cancel()
	fail := func(err error) (step.State, error) {
		p.Close()
		return step.State{}, fmt.Errorf("load %s: %w", p.keys.tag, err)
	}
	if err := p.learn(ctx, step.Write{Wipe: true}); err != nil {
		return fail(err)
	}
	meta, err := p.conn.Get(ctx, p.keys.meta()).Bytes()
	switch {
	case err == nil:
		s.Entities = append(s.Entities, step.Entity{Key: step.MetaKey, Value: meta})
	case !errors.Is(err, redis.Nil):
		return fail(err)
	}
	if p.layout == PerKey {
		err = p.loadKeys(ctx, &s)
	} else {
		err = p.loadBuckets(ctx, &s)
	}
	if err != nil {
		return fail(err)
	}
	logs := make([]string, 0, len(p.logs))
	for l := range p.logs {
		logs = append(logs, l)
	}
	sort.Strings(logs)
	for _, l := range logs {
		data, err := p.conn.Get(ctx, p.keys.log(l)).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return fail(err)
		}
		s.Logs = append(s.Logs, step.LogAppend{Name: l, Data: data})
	}
	// Last of all: whoever has claimed it meanwhile is seen, and what was read
	// under two owners is not taken for the state of one.
	if s.Fence, err = p.conn.Get(ctx, p.keys.fence()).Result(); err != nil && !errors.Is(err, redis.Nil) {
		return fail(err)
	}
	return s, nil
}

func (p *Partition) loadKeys(ctx context.Context, s *step.State) error {
	names := make([]string, 0, len(p.names))
	for n := range p.names {
		names = append(names, n)
	}
	sort.Strings(names)
	for len(names) > 0 {
		some := names[:min(loadBatch, len(names))]
		names = names[len(some):]
		full := make([]string, len(some))
		for i, n := range some {
			full[i] = p.keys.entity(n)
		}
		values, err := p.conn.MGet(ctx, full...).Result()
		if err != nil {
			return err
		}
		for i, v := range values {
			if text, ok := v.(string); ok {
				s.Entities = append(s.Entities, step.Entity{Key: some[i], Value: []byte(text)})
			}
		}
	}
	return nil
}

func (p *Partition) loadBuckets(ctx context.Context, s *step.State) error {
	for from := 0; from < p.n; from += loadBatch {
		pipe := p.conn.Pipeline()
		var cmds []*redis.SliceCmd
		for i := from; i < min(from+loadBatch, p.n); i++ {
			c := redis.NewSliceCmd(ctx, "HGETALL", p.keys.bucket(i))
			_ = pipe.Process(ctx, c)
			cmds = append(cmds, c)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return err
		}
		for _, c := range cmds {
			pairs := c.Val()
			for i := 0; i+1 < len(pairs); i += 2 {
				name, _ := pairs[i].(string)
				value, _ := pairs[i+1].(string)
				s.Entities = append(s.Entities, step.Entity{Key: name, Value: []byte(value)})
			}
		}
	}
	sort.Slice(s.Entities, func(i, j int) bool { return s.Entities[i].Key < s.Entities[j].Key })
	return nil
}
