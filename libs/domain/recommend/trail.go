package recommend

// Trail is a session on its way, for whoever has events and not deltas: an
// evaluation, a test, an import. It keeps what the session did and says what an
// index must be told. The zero value is a session with key 0, which takes part in
// everything but is never left out of the neighbours. Reuse it with [Trail.Begin].
// It is not safe for concurrent use.
type Trail struct {
	key      uint64
	items    []QueryItem
	previous []Previous // newest first, one entry an item with its strongest kind
	kinds    []uint8    // of previous: a bit for each kind it was seen with
	delta    []Previous
}

// trailItems is how many events and items a trail remembers: more than any index
// uses.
const trailItems = 256

// Begin starts another session, keeping the memory.
func (t *Trail) Begin(key uint64) {
	t.key, t.items, t.previous, t.kinds = key, t.items[:0], t.previous[:0], t.kinds[:0]
}

// Items are the session's events so far, oldest first, for [Query.Items]. They
// are valid until the next Add or Begin.
func (t *Trail) Items() []QueryItem { return t.items }

// Add appends an event and returns the delta that tells of it, whose Previous is
// valid until the next Add or Begin.
func (t *Trail) Add(item string, kind Kind, at int64) Delta {
	if len(t.items) == trailItems {
		t.items = t.items[:copy(t.items, t.items[1:])]
	}
	t.items = append(t.items, QueryItem{item, kind, at})
	d := Delta{Session: t.key, Item: item, Kind: kind, At: at, First: true}
	found := -1
	t.delta = t.delta[:0]
	for i, p := range t.previous {
		if p.Item == item {
			found = i
		} else {
			t.delta = append(t.delta, p)
		}
	}
	d.Previous = t.delta
	p, kinds := Previous{item, kind, at}, uint8(0)
	if found >= 0 {
		p.Kind, kinds = max(kind, t.previous[found].Kind), t.kinds[found]
		copy(t.previous[1:], t.previous[:found])
		copy(t.kinds[1:], t.kinds[:found])
	} else {
		if len(t.previous) < trailItems {
			t.previous, t.kinds = append(t.previous, p), append(t.kinds, 0)
		}
		copy(t.previous[1:], t.previous)
		copy(t.kinds[1:], t.kinds)
	}
	d.First = kinds&(1<<kind) == 0
	t.previous[0], t.kinds[0] = p, kinds|1<<kind
	return d
}
