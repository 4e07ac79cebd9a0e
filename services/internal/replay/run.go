package replay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/sillage-io/sillage/services/collector"
)

// Target is where a replay goes.
type Target struct {
	URL    string // of the collector
	Key    string // an admin key, or a secret key of the shop
	Shop   string
	Append bool // the shop may hold an import already
}

// Plan is what a first reading of the file found.
type Plan struct {
	ImportID    string
	Description string
	Lines       int64 // of data in the file, times repeats
	Items       int64
	First, Last time.Time
	Grid        time.Duration
	Span        time.Duration // by which a repeat is shifted
	Rejected    map[string]int64
	customers   map[string]struct{}
	products    map[string]struct{}
	sessions    map[string]struct{}
	wrong       map[int64]bool // items dated far ahead of what follows
}

// Customers is how many different customers the file names.
func (p *Plan) Customers() int { return len(p.customers) }

// Products is how many different products the file names.
func (p *Plan) Products() int { return len(p.products) }

// Sessions is how many different devices or sessions the file names.
func (p *Plan) Sessions() int { return len(p.sessions) }

// maxAhead is how far ahead of later lines a line may be dated.
const maxAhead = 24 * time.Hour

// aheadReason is why a line is rejected that would make the rest count late.
const aheadReason = "dated more than a day ahead of the lines that follow it"

// grids are the distances of ticks, from which the finest is taken that keeps
// ticks below 5 % of the records, of which a line makes about three. The grid is
// the file's, whatever the number of partitions; it is sized for the default one,
// where a round of ticks is N + 2 N^2 = 528 records.
var grids = []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}

// Prepare reads the file once.
func Prepare(ctx context.Context, name string, o Options, repeat int) (*Plan, error) {
	hash, err := Hash(name)
	if err != nil {
		return nil, err
	}
	p := &Plan{Rejected: map[string]int64{}, customers: map[string]struct{}{}, products: map[string]struct{}{}, sessions: map[string]struct{}{}, wrong: map[int64]bool{}}
	f, err := Open(name, o, func(int64, string) {})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var seconds []int64
	for {
		item, err := f.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s at line %d: %w", name, f.Lines(), err)
		}
		if len(seconds)%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		seconds = append(seconds, item.At.Unix())
		e := &item.Event
		if e.UserID != "" {
			p.customers[e.UserID] = struct{}{}
		}
		if e.AnonymousID != "" {
			p.sessions[e.AnonymousID] = struct{}{}
		}
		if q := e.Properties; q != nil {
			if q.ProductID != "" {
				p.products[q.ProductID] = struct{}{}
			}
			for _, l := range q.Products {
				if !l.Charge {
					p.products[l.ProductID] = struct{}{}
				}
			}
		}
	}
	p.Lines, p.Items = f.Lines()*int64(repeat), int64(len(seconds))*int64(repeat)
	if len(seconds) == 0 {
		return nil, fmt.Errorf("%s: none of %d lines became an event", name, f.Lines())
	}
	least := seconds[len(seconds)-1]
	for i, second := range slices.Backward(seconds) {
		if second > least+int64(maxAhead/time.Second) {
			p.wrong[int64(i)] = true
			continue
		}
		least = min(least, second)
	}
	first, last := least, int64(0)
	for i, s := range seconds {
		if !p.wrong[int64(i)] {
			last = max(last, s)
		}
	}
	p.First, p.Last = time.Unix(first, 0).UTC(), time.Unix(last, 0).UTC()
	p.Span = p.Last.Sub(p.First).Truncate(24*time.Hour) + 24*time.Hour
	p.Grid = grids[len(grids)-1]
	for _, grid := range slices.Backward(grids) {
		if ticks := int64(p.Last.Sub(p.First)/grid) + 1; ticks*528 <= 3*f.Lines()/20 {
			p.Grid = grid
		}
	}
	settings := fmt.Sprintf("%s sha256=%s format=%s tz=%s from=%s to=%s limit=%d repeat=%d stock=%s%s seed=%d columns=%v currency=%s",
		"1", hash, o.Format, o.Location, stamp(o.From), stamp(o.To), o.Limit, repeat, o.Stock, o.StockCSV, o.Seed, o.Columns, o.Currency)
	sum := sha256.Sum256([]byte(settings))
	p.ImportID, p.Description = hex.EncodeToString(sum[:8]), settings
	return p, nil
}

// Progress is how far a replay is.
type Progress struct {
	Lines    int64 // read
	Sent     int64 // lines given to the collector and acknowledged
	Rejected int64 // lines
	At       time.Time
}

// Runner replays a file.
type Runner struct {
	Target   Target
	Client   *http.Client
	Log      *slog.Logger
	Speed    float64 // of the file's time; 0: as fast as it goes
	Repeat   int
	From     int64 // ordinal behind which to begin: what is before is in the log
	Reject   Reject
	Progress func(Progress)
	Waiting  func(error) // the collector is away; nil when it is back
}

const (
	maxItems = 5000
	maxBytes = 6 << 20
)

// Outcome is what a replay sent.
type Outcome struct {
	Progress

	Events   int64
	End      time.Time // where the shop's clock stands at the end
	Rejected map[string]int64
	Skipped  int64 // lines that were in the log from before
}

// Run sends the file as the plan says, until all is acknowledged.
func (r *Runner) Run(ctx context.Context, name string, o Options, p *Plan) (*Outcome, error) {
	out := &Outcome{Rejected: map[string]int64{}}
	s := &sender{r: r, plan: p, out: out}
	s.mark("begun", p.First.Add(-time.Duration(r.Repeat-1)*p.Span), p.Description, 0)
	begin := time.Now()
	for pass := range r.Repeat {
		// The last pass stands at the file's own times, the others before it:
		// nothing is dated ahead of now.
		shift := -time.Duration(r.Repeat-1-pass) * p.Span
		base := p.Lines / int64(r.Repeat) * int64(pass)
		f, err := Open(name, o, func(line int64, reason string) { s.reject(base+line, 1, reason) })
		if err != nil {
			return out, err
		}
		err = s.file(ctx, f, pass, shift, base, begin)
		f.Close()
		if err != nil {
			return out, err
		}
	}
	end := time.UnixMicro(s.maxTime).Add(time.Second)
	s.mark("ended", end, "", out.Lines)
	out.End = end.UTC()
	return out, s.flush(ctx)
}

// sender collects items into requests.
type sender struct {
	r       *Runner
	plan    *Plan
	out     *Outcome
	ordinal int64
	maxTime int64 // running maximum of the file's time, microseconds
	ticked  int64 // last point of the grid
	req     []collector.ImportItem
	bytes   int
	lines   int64 // of what is in req
	rank    int   // of an event among those of its line
	last    int64
}

func (s *sender) reject(line, lines int64, reason string) {
	s.out.Progress.Rejected += lines
	s.out.Rejected[reason] += lines
	for i := range lines {
		s.r.Reject(line+i, reason)
	}
}

func (s *sender) mark(what string, at time.Time, description string, line int64) {
	s.ordinal++
	s.req = append(s.req, collector.ImportItem{Ordinal: s.ordinal, Line: line, Mark: what, TimeUS: at.UnixMicro(), Description: description})
}

// file sends one pass over the file.
func (s *sender) file(ctx context.Context, f *File, pass int, shift time.Duration, base int64, begin time.Time) error {
	grid := s.plan.Grid.Microseconds()
	for index := int64(0); ; index++ {
		item, err := f.Next()
		s.out.Lines = base + f.Lines()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read line %d: %w", f.Lines(), err)
		}
		if s.plan.wrong[index] {
			s.reject(base+item.Line, int64(item.Lines), aheadReason)
			continue
		}
		at := item.At.Add(shift)
		if us := at.UnixMicro(); us > s.maxTime {
			s.maxTime = us
		}
		if s.ticked == 0 {
			s.ticked = s.maxTime / grid * grid
		}
		if point := s.maxTime / grid * grid; point > s.ticked {
			// The tick says that everything before this point has come.
			s.mark("tick", time.UnixMicro(point), "", base+item.Line-1)
			s.ticked = point
		}
		if s.r.Speed > 0 {
			if err := s.pace(ctx, begin, at); err != nil {
				return err
			}
		}
		if line := base + item.Line; line != s.last {
			s.last, s.rank = line, 0
		}
		e := item.Event
		if pass > 0 { // other visitors, other orders: the log again, not the same facts
			e = again(e, pass)
		}
		data, err := encode(e, at, fmt.Sprintf("%s-%010d.%d", s.plan.ImportID, base+item.Line, s.rank))
		if err != nil {
			return fmt.Errorf("line %d: %w", item.Line, err)
		}
		s.rank++
		s.ordinal++
		s.req = append(s.req, collector.ImportItem{Ordinal: s.ordinal, Line: base + item.Line, Lines: item.Lines, NotBeforeUS: s.maxTime, Event: data})
		s.bytes += len(data)
		s.lines += int64(item.Lines)
		if len(s.req) >= maxItems || s.bytes >= maxBytes {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
}

// encode is an event as the collector reads it.
func encode(e Event, at time.Time, id string) (json.RawMessage, error) {
	if e.Raw != nil {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(e.Raw, &m); err != nil {
			return nil, err
		}
		m["timestamp"], m["messageId"] = mustJSON(stamp(at)), mustJSON(id)
		return mustJSON(m), nil
	}
	e.Timestamp, e.MessageID = stamp(at), id
	return json.Marshal(e)
}

// again makes a repeat's event another one's: sessions and orders are new.
func again(e Event, pass int) Event {
	suffix := fmt.Sprintf("+%d", pass)
	if e.AnonymousID != "" {
		e.AnonymousID += suffix
	}
	if e.Properties != nil && e.Properties.OrderID != "" {
		p := *e.Properties
		p.OrderID += suffix
		e.Properties = &p
	}
	return e
}

// pace waits until the file's time has come at the speed asked for.
func (s *sender) pace(ctx context.Context, begin, at time.Time) error {
	due := begin.Add(time.Duration(float64(at.Sub(s.plan.First)+time.Duration(s.r.Repeat-1)*s.plan.Span) / s.r.Speed))
	wait := time.Until(due)
	if wait <= 0 {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flush sends what has been collected, until it is acknowledged.
func (s *sender) flush(ctx context.Context) error {
	items, lines := s.req, s.lines
	s.req, s.bytes, s.lines = nil, 0, 0
	if len(items) == 0 {
		return nil
	}
	if items[len(items)-1].Ordinal <= s.r.From {
		s.out.Skipped += lines
		s.out.Sent += lines
		s.report(items)
		return nil
	}
	body, err := json.Marshal(collector.ImportRequest{Shop: s.r.Target.Shop, ImportID: s.plan.ImportID, Append: s.r.Target.Append, Items: items})
	if err != nil {
		return fmt.Errorf("encode a request: %w", err)
	}
	res, err := s.post(ctx, body)
	if err != nil {
		return err
	}
	for _, bad := range res.Rejected {
		for i := range items {
			if items[i].Ordinal == bad.Ordinal {
				lines -= int64(items[i].Lines)
				s.reject(bad.Line, int64(items[i].Lines), bad.Reason)
			}
		}
	}
	s.out.Sent += lines
	s.out.Events += int64(res.Accepted)
	s.report(items)
	return nil
}

func (s *sender) report(items []collector.ImportItem) {
	for _, item := range slices.Backward(items) {
		if t := item.NotBeforeUS; t > 0 {
			s.out.At = time.UnixMicro(t).UTC()
			break
		}
	}
	if s.r.Progress != nil {
		s.r.Progress(s.out.Progress)
	}
}

// ErrRefused says that the collector will not take the import.
var ErrRefused = errors.New("the collector refuses the import")

// post sends one request; while the collector is away or full it waits.
func (s *sender) post(ctx context.Context, body []byte) (*collector.ImportResult, error) {
	waiting := false
	for n := 0; ; n++ {
		res, err := s.once(ctx, body)
		if err == nil {
			if waiting && s.r.Waiting != nil {
				s.r.Waiting(nil)
			}
			return res, nil
		}
		if errors.Is(err, ErrRefused) || ctx.Err() != nil {
			return nil, err
		}
		if !waiting && n > 0 && s.r.Waiting != nil {
			s.r.Waiting(err)
			waiting = true
		}
		t := time.NewTimer(min(50*time.Millisecond<<min(n, 6), 2*time.Second))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

func (s *sender) once(ctx context.Context, body []byte) (*collector.ImportResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.r.Target.URL+"/v1/sillage/import", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	req.SetBasicAuth(s.r.Target.Key, "")
	req.Header.Set("Content-Type", "application/json")
	res, err := s.r.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK {
		var r collector.ImportResult
		if err := json.Unmarshal(answer, &r); err != nil {
			return nil, fmt.Errorf("read the collector's answer: %w", err)
		}
		return &r, nil
	}
	var said struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(answer, &said) // what is no JSON is shown as it is
	if said.Error == "" {
		said.Error = string(answer[:min(len(answer), 200)])
	}
	err = fmt.Errorf("%s: %s", res.Status, said.Error)
	if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrRefused, err)
}
