package recommend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/sillage-io/sillage/libs/domain/recommend"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// Click is one event. It takes 24 bytes.
type Click struct {
	At      int64  // milliseconds since 1970
	Session uint32 // index, in the order of first clicks
	Item    uint32 // index into Log.Items
	Kind    recommend.Kind
}

// Log is a history in memory: about 24 bytes a click and what the ids take.
type Log struct {
	Name   string   // of the file, without folder and ends
	Items  []string // ids
	Clicks []Click  // in time order
	Test   []bool   // by session: it is scored
	Timed  bool     // times are the file's own
	How    string   // how it was divided, in words
	From   time.Time
	Until  time.Time
}

// Reading says how a log is read.
type Reading struct {
	TestDays   float64       // sessions that end in so many last days are scored; 0: the file's own split, else a tenth of its span, 1 to 7 days
	TestSplit  string        // value of the split column that is scored
	Gap        time.Duration // silence that ends a session where the file names visitors and no sessions
	PerSession time.Duration // time between two sessions where the file has none
	PerClick   time.Duration // time between two clicks where the file has none
}

// DefaultReading returns the defaults.
func DefaultReading() Reading {
	return Reading{TestSplit: "test", Gap: 30 * time.Minute, PerSession: time.Minute, PerClick: time.Second}
}

// Validate reports every setting outside its range.
func (r Reading) Validate() error {
	var errs []error
	if !(r.TestDays >= 0 && r.TestDays <= 36_500) {
		errs = append(errs, fmt.Errorf("test-days: %g is not inside [0, 36500]", r.TestDays))
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"gap", r.Gap}, {"per-session", r.PerSession}, {"per-click", r.PerClick}} {
		if d.d < time.Millisecond || d.d > 365*24*time.Hour {
			errs = append(errs, fmt.Errorf("%s: %v is not between 1ms and 8760h", d.name, d.d))
		}
	}
	return errors.Join(errs...)
}

// train is the name of the split that is learned from.
const train = "train"

// Read reads a session file (split, session_no, items: one session a line, items
// separated by spaces, lines in time order) or a click file (one event a line:
// time, session or visitor, item).
func Read(ctx context.Context, path string, r Reading, o eval.Options) (*Log, eval.Source, error) {
	header := o.Header
	if header == nil {
		var err error
		if header, err = eval.Header(path); err != nil {
			return nil, eval.Source{}, err
		}
	}
	sessions := o.Map["items"] != ""
	for _, h := range header {
		sessions = sessions || eval.Normal(h) == "items" || eval.Normal(h) == "itemids"
	}
	b := &builder{items: map[string]uint32{}, sessions: map[uint64]uint32{}, splits: map[string]int{}}
	b.log.Name = name(path)
	var src eval.Source
	var err error
	if sessions {
		src, err = b.readSessions(ctx, path, r, o)
	} else {
		src, err = b.readClicks(ctx, path, r, o)
	}
	if err != nil {
		return nil, src, err
	}
	if err := b.finish(r); err != nil {
		return nil, src, fmt.Errorf("read %s: %w", path, err)
	}
	return &b.log, src, nil
}

// name is a file's name without folder and ends.
func name(path string) string {
	s := filepath.Base(path)
	for _, end := range []string{".gz", ".csv", ".tsv", ".txt", ".dat"} {
		s = strings.TrimSuffix(s, end)
	}
	return s
}

// builder gathers a log.
type builder struct {
	log      Log
	items    map[string]uint32
	sessions map[uint64]uint32 // by hash: two of ten million share one with a probability of 3e-6
	part     []uint8           // by session: which split
	splits   map[string]int
	order    []int32 // of clicks: position in the session, where the file has one
}

// Parts of a log by split.
const (
	unsaid uint8 = iota
	trained
	tested
	aside
)

func (b *builder) item(id []byte) uint32 {
	i, ok := b.items[string(id)]
	if !ok {
		i = uint32(len(b.log.Items))
		s := string(id)
		b.items[s] = i
		b.log.Items = append(b.log.Items, s)
	}
	return i
}

func (b *builder) session(id []byte, part uint8) uint32 {
	key := xxhash.Sum64(id)
	i, ok := b.sessions[key]
	if !ok {
		i = uint32(len(b.part))
		b.sessions[key] = i
		b.part = append(b.part, part)
	}
	return i
}

// split says to which part a value of the split column belongs.
func (b *builder) split(v []byte, r Reading) uint8 {
	b.splits[string(v)]++
	switch strings.ToLower(string(v)) {
	case strings.ToLower(r.TestSplit):
		return tested
	case train, "training":
		return trained
	default:
		return aside
	}
}

func (b *builder) readSessions(ctx context.Context, path string, r Reading, o eval.Options) (eval.Source, error) {
	const split, number, items = 0, 1, 2
	t, err := eval.Open(ctx, path, []eval.Column{
		split:  {Name: "split", Aliases: []string{"set", "part"}, Optional: true},
		number: {Name: "session_no", Aliases: []string{"session", "session_id", "session_number"}, Optional: true},
		items:  {Name: "items", Aliases: []string{"item_ids"}},
	}, o)
	if err != nil {
		return eval.Source{}, err
	}
	defer t.Close()
	begin := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() // any day: only distances count
	for k := int64(0); t.Next(); k++ {
		part := unsaid
		if t.Has(split) {
			part = b.split(t.Bytes(split), r)
		}
		ids := fields(t.Bytes(items))
		if !t.Valid() || part == aside {
			continue
		}
		s := uint32(len(b.part))
		b.part = append(b.part, part)
		at := begin + k*r.PerSession.Milliseconds()
		for i, id := range ids {
			b.log.Clicks = append(b.log.Clicks, Click{At: at + int64(i)*r.PerClick.Milliseconds(), Session: s, Item: b.item(id)})
		}
	}
	return t.Finish()
}

// fields splits at white space, without copying.
func fields(b []byte) (out [][]byte) {
	start := -1
	for i, c := range b {
		if space := c == ' ' || c == '\t' || c == '\n' || c == '\r'; space && start >= 0 {
			out, start = append(out, b[start:i]), -1
		} else if !space && start < 0 {
			start = i
		}
	}
	if start >= 0 {
		out = append(out, b[start:])
	}
	return out
}

// kinds are what behaviours are called.
func kindOf(v []byte) (recommend.Kind, bool) {
	switch eval.Normal(string(v)) {
	case "", "view", "pv", "click", "clicks", "pageview", "productviewed", "detail", "impression", "1":
		return recommend.View, true
	case "cart", "carts", "addtocart", "add", "basket", "productadded", "fav", "favorite", "favourite", "wishlist":
		return recommend.Cart, true
	case "buy", "order", "orders", "purchase", "transaction", "bought", "sale", "ordercompleted":
		return recommend.Order, true
	default:
		return 0, false
	}
}

func (b *builder) readClicks(ctx context.Context, path string, r Reading, o eval.Options) (eval.Source, error) {
	const at, session, visitor, item, kind, split, position, timeframe = 0, 1, 2, 3, 4, 5, 6, 7
	t, err := eval.Open(ctx, path, []eval.Column{
		at:        {Name: "ts", Aliases: []string{"timestamp", "time", "event_time", "eventtime", "datetime", "event_date", "date", "day", "created_at"}, Kind: eval.Date},
		session:   {Name: "session", Aliases: []string{"session_id", "session_no", "sessionkey", "visit_id", "visit"}, Optional: true},
		visitor:   {Name: "visitor", Aliases: []string{"visitor_id", "user_id", "user", "customer_id", "device_id", "client_id", "anonymous_id"}, Optional: true},
		item:      {Name: "item", Aliases: []string{"item_id", "product_id", "product", "sku", "article_id", "aid", "stock_code"}},
		kind:      {Name: "kind", Aliases: []string{"behavior", "behaviour", "event", "event_type", "action", "type"}, Optional: true},
		split:     {Name: "split", Aliases: []string{"set", "part"}, Optional: true},
		position:  {Name: "position", Aliases: []string{"click_no", "click_number", "order", "seq", "sequence", "event_no"}, Kind: eval.Number, Optional: true},
		timeframe: {Name: "timeframe", Kind: eval.Number, Optional: true},
	}, o)
	if err != nil {
		return eval.Source{}, err
	}
	defer t.Close()
	if !t.Has(session) && !t.Has(visitor) {
		return eval.Source{}, fmt.Errorf("read %s: no column names a session or a visitor: say which one does with --map session=COLUMN or --map visitor=COLUMN", path)
	}
	who := session
	if !t.Has(session) {
		who = visitor
	}
	b.log.Timed = true
	ordered := t.Has(position)
	for t.Next() {
		c := Click{At: t.Time(at).UnixMilli() + int64(t.Number(timeframe))}
		key, id := t.Bytes(who), t.Bytes(item)
		if len(key) == 0 {
			t.Reject(t.Name(who) + " is empty")
			continue
		}
		var known bool
		if c.Kind, known = kindOf(t.Bytes(kind)); !known {
			t.Reject("an event that is no view, cart or order")
			continue
		}
		pos := t.Number(position)
		if !t.Valid() {
			continue
		}
		part := unsaid
		if t.Has(split) && r.TestDays == 0 {
			if part = b.split(t.Bytes(split), r); part == aside {
				continue
			}
		}
		c.Item = b.item(id)
		c.Session = b.session(key, part)
		if b.part[c.Session] != part {
			b.part[c.Session] = max(b.part[c.Session], part) // a session that is in both is scored
		}
		b.log.Clicks = append(b.log.Clicks, c)
		if ordered {
			b.order = append(b.order, int32(math.Max(math.MinInt32, math.Min(math.MaxInt32, pos))))
		}
	}
	src, err := t.Finish()
	if err != nil {
		return src, err
	}
	b.sort()
	if who == visitor {
		b.cut(r.Gap.Milliseconds())
	}
	return src, nil
}

// sort brings clicks into time order; where times are equal the file's position
// in the session decides, then the order of lines.
func (b *builder) sort() {
	clicks := b.log.Clicks
	if b.order == nil {
		if !slices.IsSortedFunc(clicks, byTime) {
			slices.SortStableFunc(clicks, byTime)
		}
		return
	}
	at := make([]int, len(clicks))
	for i := range at {
		at[i] = i
	}
	slices.SortStableFunc(at, func(i, j int) int {
		x, y := clicks[i], clicks[j]
		if c := cmp.Compare(x.At, y.At); c != 0 {
			return c
		}
		// Within one instant sessions stand one behind the other.
		return cmp.Or(cmp.Compare(x.Session, y.Session), cmp.Compare(b.order[i], b.order[j]))
	})
	sorted := make([]Click, len(clicks))
	for i, k := range at {
		sorted[i] = clicks[k]
	}
	b.log.Clicks, b.order = sorted, nil
}

func byTime(x, y Click) int { return cmp.Compare(x.At, y.At) }

// cut ends a visitor's session after a silence.
func (b *builder) cut(gap int64) {
	type open struct {
		session uint32
		last    int64
	}
	now := make([]open, len(b.part))
	seen := make([]bool, len(b.part))
	var part []uint8
	for i := range b.log.Clicks {
		c := &b.log.Clicks[i]
		v := c.Session
		if o := now[v]; !seen[v] || c.At-o.last > gap {
			now[v].session = uint32(len(part))
			seen[v] = true
			part = append(part, b.part[v])
		}
		now[v].last = c.At
		c.Session = now[v].session
	}
	b.part = part
}

// finish divides the log.
func (b *builder) finish(r Reading) error {
	l := &b.log
	if len(l.Clicks) == 0 {
		return errors.New("no session has an item")
	}
	b.sessions, b.items = nil, nil
	l.number()
	slices.SortStableFunc(l.Clicks, byTime)
	l.From, l.Until = time.UnixMilli(l.Clicks[0].At).UTC(), time.UnixMilli(l.Clicks[len(l.Clicks)-1].At).UTC()
	l.Test = make([]bool, len(b.part))
	switch {
	case len(b.splits) > 0:
		if b.splits[r.TestSplit] == 0 && !slices.Contains(b.part, tested) {
			return fmt.Errorf("no row has split %s, which is what is scored; there are %s; --test-split names another, --test-days divides by time", r.TestSplit, counts(b.splits))
		}
		for s, p := range b.part {
			l.Test[s] = p == tested
		}
		l.How = fmt.Sprintf("the file's own split (%s): %s is scored, train is learned from", counts(b.splits), r.TestSplit)
	default:
		days := r.TestDays
		span := float64(l.Clicks[len(l.Clicks)-1].At-l.Clicks[len(l.Clicks)/100].At) / 86_400_000
		if days == 0 {
			days = math.Min(7, math.Max(1, math.Round(span/10)))
		}
		from := l.Clicks[len(l.Clicks)-1].At - int64(days*86_400_000)
		for _, c := range l.Clicks {
			if c.At > from {
				l.Test[c.Session] = true
			}
		}
		l.How = fmt.Sprintf("sessions that end in the last %g days are scored, the others are learned from", days)
		if days == 1 {
			l.How = "sessions that end in the last day are scored, the others are learned from"
		}
	}
	return b.check()
}

// number gives items their numbers in the order of their ids. Methods that break
// ties by number then do so in a way that does not depend on the order of rows.
func (l *Log) number() {
	order := make([]uint32, len(l.Items))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return compareIDs(l.Items[a], l.Items[b]) })
	number, items := make([]uint32, len(order)), make([]string, len(order))
	for i, old := range order {
		number[old], items[i] = uint32(i), l.Items[old]
	}
	for i := range l.Clicks {
		l.Clicks[i].Item = number[l.Clicks[i].Item]
	}
	l.Items = items
}

// compareIDs orders whole numbers by value, before all other ids.
func compareIDs(a, b string) int {
	whole := func(s string) bool { return strings.Trim(s, "0123456789") == "" && !strings.HasPrefix(s, "0") }
	switch x, y := whole(a), whole(b); {
	case x && y:
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	case x:
		return -1
	case y:
		return 1
	default:
		return strings.Compare(a, b)
	}
}

// check refuses logs that leave nothing to learn from or to score.
func (b *builder) check() error {
	l := &b.log
	learned, sizes := false, make([]int32, len(l.Test))
	for _, c := range l.Clicks {
		learned = learned || !l.Test[c.Session]
		sizes[c.Session]++
	}
	if !learned {
		return fmt.Errorf("all sessions are scored and none is left to learn from (%s to %s): a smaller --test-days leaves some", l.From.Format(time.DateTime), l.Until.Format(time.DateTime))
	}
	for s, n := range sizes {
		if n > 1 && l.Test[s] {
			return nil
		}
	}
	return errors.New("no scored session has two items, so there is nothing to predict: a larger --test-days scores more")
}

func counts(m map[string]int) string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	for i, n := range names {
		names[i] = fmt.Sprintf("%d %s", m[n], n)
		if i == 9 && len(names) > 10 {
			return strings.Join(names[:10], ", ") + ", ..."
		}
	}
	return strings.Join(names, ", ")
}

// learned returns the clicks of each session that is not scored, sessions in the
// order they end.
func (l *Log) learned() [][]uint32 {
	sizes := make([]uint32, len(l.Test)+1)
	for _, c := range l.Clicks {
		if !l.Test[c.Session] {
			sizes[c.Session+1]++
		}
	}
	for s := range l.Test {
		sizes[s+1] += sizes[s]
	}
	all := make([]uint32, sizes[len(l.Test)])
	fill := slices.Clone(sizes)
	for i, c := range l.Clicks {
		if !l.Test[c.Session] {
			all[fill[c.Session]] = uint32(i)
			fill[c.Session]++
		}
	}
	var out [][]uint32
	for s := range l.Test {
		if sizes[s] < sizes[s+1] {
			out = append(out, all[sizes[s]:sizes[s+1]])
		}
	}
	slices.SortStableFunc(out, func(a, b []uint32) int { return cmp.Compare(a[len(a)-1], b[len(b)-1]) })
	return out
}
