package recommend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	mathbits "math/bits"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/sillage-io/sillage/libs/domain/recommend"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// Click is one event.
type Click struct {
	At      int64  // milliseconds since 1970
	Session uint32 // number, in the order of first clicks
	Item    uint32 // index into Log.Items
	Kind    recommend.Kind
	Last    bool // of its session
}

// Log is a history in time order. What it takes of the memory are the ids of items,
// a bit a click, a bit a session, and Reading.Hold clicks; all others are in a
// temporary file. Close it.
type Log struct {
	Name     string   // of the file, without folder and ends
	Items    []string // ids
	Clicks   int64
	Sessions int
	Scored   int    // sessions that are scored
	Timed    bool   // times are the file's own
	How      string // how it was divided, in words
	From     time.Time
	Until    time.Time

	tape   tape
	last   bits // clicks that are the last of their session
	tested bits // sessions that are scored
}

// Test tells whether a session is scored.
func (l *Log) Test(session uint32) bool { return l.tested.has(int64(session)) }

// Each hands out all clicks in time order, until f returns an error, which it
// returns. It reads a long log from the disk.
func (l *Log) Each(f func(Click) error) error {
	return l.tape.each(func(i int64, c Click) error {
		c.Last = l.last.has(i)
		return f(c)
	})
}

// Close lets go of the clicks, and of the file that they are in.
func (l *Log) Close() { l.tape.close() }

// Reading says how a log is read.
type Reading struct {
	TestDays   float64       // sessions that end in so many last days are scored; 0: the file's own split, else a tenth of its span, 1 to 7 days
	TestSplit  string        // value of the split column that is scored
	Gap        time.Duration // silence that ends a session where the file names visitors and no sessions
	Silence    time.Duration // silence that ends a session that the file names: the name may come again for another one
	PerSession time.Duration // time between two sessions where the file has none
	PerClick   time.Duration // time between two clicks where the file has none
	Hold       int           // clicks held in memory; more go to temporary files, which are gone at the end
}

// DefaultReading returns the defaults.
func DefaultReading() Reading {
	return Reading{TestSplit: "test", Gap: 30 * time.Minute, Silence: 24 * time.Hour, PerSession: time.Minute, PerClick: time.Second, Hold: 4_000_000}
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
	}{{"gap", r.Gap}, {"silence", r.Silence}, {"per-session", r.PerSession}, {"per-click", r.PerClick}} {
		if d.d < time.Millisecond || d.d > 365*24*time.Hour {
			errs = append(errs, fmt.Errorf("%s: %v is not between 1ms and 8760h", d.name, d.d))
		}
	}
	if r.Hold < 1 || r.Hold > 1<<30 {
		errs = append(errs, fmt.Errorf("hold: %d is not inside [1, %d]", r.Hold, 1<<30))
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
	b := &builder{
		items: map[string]uint32{}, splits: map[string]int64{},
		clicks: spool{hold: r.Hold, tell: o.Tell},
	}
	defer b.clicks.close()
	b.log.Name, b.log.tape.hold = name(path), r.Hold
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
	if err := b.finish(ctx, r, o.Progress); err != nil {
		b.log.Close()
		if errors.Is(err, ctx.Err()) {
			return nil, src, err
		}
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
	log     Log
	items   map[string]uint32
	splits  map[string]int64
	clicks  spool
	silence time.Duration // that ends a session
	ordered bool          // the file has positions, which order the clicks of an instant
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
		i = uint32(len(b.items))
		b.items[string(id)] = i
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
	b.silence = max(r.Silence, r.PerClick)
	b.clicks.share = t.Share
	for k := int64(0); t.Next(); k++ {
		part := unsaid
		if t.Has(split) {
			part = b.split(t.Bytes(split), r)
		}
		ids := fields(t.Bytes(items))
		if !t.Valid() || part == aside {
			continue
		}
		at := begin + k*r.PerSession.Milliseconds()
		for i, id := range ids {
			c := record{at: at + int64(i)*r.PerClick.Milliseconds(), key: uint64(k), item: b.item(id), part: part}
			if err := b.clicks.add(c); err != nil {
				return eval.Source{}, fmt.Errorf("read %s: %w", path, err)
			}
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
	b.silence = r.Silence
	if !t.Has(session) {
		who = visitor
		b.silence = r.Gap
	}
	b.log.Timed, b.ordered, b.clicks.share = true, t.Has(position), t.Share
	for t.Next() {
		c := record{at: t.Time(at).UnixMilli() + int64(t.Number(timeframe))}
		key, id := t.Bytes(who), t.Bytes(item)
		if len(key) == 0 {
			t.Reject(t.Name(who) + " is empty")
			continue
		}
		var known bool
		if c.kind, known = kindOf(t.Bytes(kind)); !known {
			t.Reject("an event that is no view, cart or order")
			continue
		}
		pos := t.Number(position)
		if !t.Valid() {
			continue
		}
		if t.Has(split) && r.TestDays == 0 {
			if c.part = b.split(t.Bytes(split), r); c.part == aside {
				continue
			}
		}
		// Of ten million names two share a hash with a probability of 3e-6.
		c.key, c.item = xxhash.Sum64(key), b.item(id)
		c.pos = int32(math.Max(math.MinInt32, math.Min(math.MaxInt32, pos)))
		if err := b.clicks.add(c); err != nil {
			return eval.Source{}, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return t.Finish()
}

// sorted hands out the clicks in time order. Within an instant, sessions stand
// one behind the other as the file has them, and the file's position orders the
// clicks of each, where there is one.
func (b *builder) sorted(ctx context.Context, f func(record) error) error {
	if !b.ordered {
		return b.clicks.each(ctx, f)
	}
	var instant []record
	place := map[uint64]uint32{}
	flush := func() error {
		clear(place)
		for i := range instant {
			r := &instant[i]
			p, ok := place[r.key]
			if !ok {
				p = uint32(i)
				place[r.key] = p
			}
			r.seq = p
		}
		slices.SortStableFunc(instant, func(x, y record) int {
			return cmp.Or(cmp.Compare(x.seq, y.seq), cmp.Compare(x.pos, y.pos))
		})
		for _, r := range instant {
			if err := f(r); err != nil {
				return err
			}
		}
		instant = instant[:0]
		return nil
	}
	err := b.clicks.each(ctx, func(r record) error {
		if len(instant) > 0 && instant[0].at != r.at {
			if err := flush(); err != nil {
				return err
			}
		}
		instant = append(instant, r)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// finish gives sessions and items their numbers, and divides the log.
func (b *builder) finish(ctx context.Context, r Reading, p *eval.Progress) error {
	l := &b.log
	if l.Clicks = b.clicks.n; l.Clicks == 0 {
		return errors.New("no session has an item")
	}
	late := b.clicks.late
	numbers := l.number(b.items)
	b.items = nil
	p.Start("putting in order", l.Clicks)
	defer p.Done()
	open := newOpenSessions(b.silence.Milliseconds(), func(s *openSession) { l.last.set(s.click) })
	n, first, early, until := int64(0), int64(0), int64(0), int64(0)
	err := b.sorted(ctx, func(c record) error {
		if n%4096 == 0 {
			p.At(n)
		}
		s := open.click(c.key, c.at, n)
		if c.part == tested { // a session that is in both is scored
			l.tested.set(int64(s))
		}
		if n == 0 {
			first = c.at
		}
		if n == l.Clicks/100 {
			early = c.at
		}
		until = c.at
		n++
		return l.tape.add(Click{At: c.at, Session: s, Item: c.item, Kind: c.kind})
	})
	if err != nil {
		return err
	}
	open.end()
	l.Sessions = int(open.sessions)
	if err := l.tape.number(numbers); err != nil {
		return err
	}
	l.From, l.Until = time.UnixMilli(first).UTC(), time.UnixMilli(until).UTC()
	if err := b.divide(r, early, until); err != nil {
		return err
	}
	if late > 0 && l.Timed {
		l.How += fmt.Sprintf("; %d of %d clicks stood behind a later one and were put in order", late, l.Clicks)
	}
	return b.check(ctx)
}

// divide says which sessions are scored. Early is the time that a hundredth of
// all clicks is before: the days of a log are counted from there, so that a few
// mistaken dates do not stretch them.
func (b *builder) divide(r Reading, early, until int64) error {
	l := &b.log
	if len(b.splits) > 0 {
		if b.splits[r.TestSplit] == 0 && l.tested == nil {
			return fmt.Errorf("no row has split %s, which is what is scored; there are %s; --test-split names another, --test-days divides by time", r.TestSplit, counts(b.splits))
		}
		l.How = fmt.Sprintf("the file's own split (%s): %s is scored, train is learned from", counts(b.splits), r.TestSplit)
		return nil
	}
	days := r.TestDays
	if days == 0 {
		days = math.Min(7, math.Max(1, math.Round(float64(until-early)/86_400_000/10)))
	}
	from := until - int64(days*86_400_000)
	l.How = fmt.Sprintf("sessions that end in the last %g days are scored, the others are learned from", days)
	if days == 1 {
		l.How = "sessions that end in the last day are scored, the others are learned from"
	}
	return l.Each(func(c Click) error {
		if c.At > from {
			l.tested.set(int64(c.Session))
		}
		return nil
	})
}

// number gives items their numbers in the order of their ids, and returns them by
// the number that they had. Methods that break ties by number then do so in a way
// that does not depend on the order of rows.
func (l *Log) number(items map[string]uint32) []uint32 {
	l.Items = make([]string, 0, len(items))
	for id := range items {
		l.Items = append(l.Items, id)
	}
	slices.SortFunc(l.Items, compareIDs)
	numbers := make([]uint32, len(items))
	for i, id := range l.Items {
		numbers[items[id]] = uint32(i)
	}
	return numbers
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
func (b *builder) check(ctx context.Context) error {
	l := &b.log
	for _, word := range l.tested {
		l.Scored += mathbits.OnesCount64(word)
	}
	if l.Scored == l.Sessions {
		return fmt.Errorf("all sessions are scored and none is left to learn from (%s to %s): a smaller --test-days leaves some", l.From.Format(time.DateTime), l.Until.Format(time.DateTime))
	}
	enough := errors.New("enough") // a scored session that goes on
	err := l.Each(func(c Click) error {
		if !c.Last && l.Test(c.Session) {
			return enough
		}
		return ctx.Err()
	})
	if errors.Is(err, enough) {
		return nil
	}
	return cmp.Or(err, errors.New("no scored session has two items, so there is nothing to predict: a larger --test-days scores more"))
}

func counts(m map[string]int64) string {
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
