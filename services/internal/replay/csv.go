package replay

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// columns splits a line of CSV. Quoted line ends do not occur in the formats
// that are read line by line.
func columns(line []byte) ([]string, error) {
	if bytes.IndexByte(line, '"') < 0 {
		return strings.Split(string(line), ","), nil
	}
	return csv.NewReader(bytes.NewReader(line)).Read()
}

// header finds columns by name.
func header(lines *lineReader, need ...string) (map[string]int, error) {
	line, err := lines.read()
	if err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	names, err := columns(bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")))
	if err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	at := map[string]int{}
	for i, n := range names {
		at[strings.TrimSpace(n)] = i
	}
	var errs []error
	for _, n := range need {
		if _, ok := at[n]; !ok {
			errs = append(errs, fmt.Errorf("no column %q; the header is %s", n, strings.Join(names, ",")))
		}
	}
	return at, errors.Join(errs...)
}

// clicks reads session logs: ts (seconds since 1970), session_id, item_id.
type clicks struct {
	lines              *lineReader
	o                  Options
	reject             Reject
	ts, session, item1 int
}

func newClicks(lines *lineReader, o Options, reject Reject) (*clicks, error) {
	at, err := header(lines, "ts", "session_id", "item_id")
	if err != nil {
		return nil, err
	}
	return &clicks{lines: lines, o: o, reject: reject, ts: at["ts"], session: at["session_id"], item1: at["item_id"]}, nil
}

func (c *clicks) next() (Item, error) {
	for {
		line, n, err := c.lines.data()
		if err != nil {
			if errors.Is(err, errLong) {
				c.reject(n, err.Error())
				continue
			}
			return Item{}, err
		}
		f, err := columns(line)
		if err != nil || len(f) <= max(c.ts, c.session, c.item1) {
			c.reject(n, "not enough columns")
			continue
		}
		sec, err := strconv.ParseFloat(f[c.ts], 64)
		if err != nil || sec < 0 || sec > 1e11 {
			c.reject(n, fmt.Sprintf("ts: %q is not seconds since 1970", f[c.ts]))
			continue
		}
		at := time.UnixMilli(int64(sec * 1000)).UTC()
		if !c.o.within(at) {
			c.reject(n, outside)
			continue
		}
		return Item{Line: n, Lines: 1, At: at, Event: Event{
			Type: "track", Event: "Product Viewed", AnonymousID: f[c.session], Properties: &Properties{ProductID: f[c.item1]},
		}}, nil
	}
}

// segment reads one call of the Segment API a line.
type segment struct {
	lines  *lineReader
	o      Options
	reject Reject
}

func (s *segment) next() (Item, error) {
	for {
		line, n, err := s.lines.data()
		if err != nil {
			if errors.Is(err, errLong) {
				s.reject(n, err.Error())
				continue
			}
			return Item{}, err
		}
		var e map[string]json.RawMessage
		if err := json.Unmarshal(line, &e); err != nil {
			s.reject(n, "not JSON: "+err.Error())
			continue
		}
		var said string
		for _, name := range []string{"timestamp", "originalTimestamp", "sentAt"} {
			if json.Unmarshal(e[name], &said) == nil && said != "" {
				break
			}
		}
		at, err := time.Parse(time.RFC3339Nano, said)
		if err != nil {
			s.reject(n, fmt.Sprintf("timestamp: %q is not ISO 8601", said))
			continue
		}
		if !s.o.within(at) {
			s.reject(n, outside)
			continue
		}
		e["timestamp"] = json.RawMessage(strconv.Quote(stamp(at)))
		return Item{Line: n, Lines: 1, At: at, Event: Event{Raw: mustJSON(e)}}, nil
	}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err)) // of values that came from JSON
	}
	return b
}

// table reads any CSV with a mapping of columns.
type table struct {
	lines  *lineReader
	o      Options
	reject Reject
	at     map[string]int
	event  string
}

// TableFields are what columns may be mapped to.
func TableFields() []string {
	return []string{"timestamp", "event", "user_id", "anonymous_id", "product_id", "name", "category", "brand", "price", "quantity", "currency", "order_id", "total", "units", "query"}
}

func newTable(lines *lineReader, o Options, reject Reject) (*table, error) {
	at, err := header(lines)
	if err != nil {
		return nil, err
	}
	t := &table{lines: lines, o: o, reject: reject, at: map[string]int{}}
	var errs []error
	for field, column := range o.Columns {
		if name, ok := strings.CutPrefix(column, "="); ok && field == "event" {
			t.event = name
			continue
		}
		known := false
		for _, f := range TableFields() {
			known = known || f == field
		}
		if !known {
			errs = append(errs, fmt.Errorf("nothing is called %q; columns can be mapped to %s", field, strings.Join(TableFields(), ", ")))
		}
		i, ok := at[column]
		if !ok {
			errs = append(errs, fmt.Errorf("no column %q for %s", column, field))
		}
		t.at[field] = i
	}
	if _, ok := o.Columns["timestamp"]; !ok {
		errs = append(errs, errors.New("no column is mapped to timestamp (--map timestamp=COLUMN)"))
	}
	if _, ok := o.Columns["event"]; !ok {
		errs = append(errs, errors.New("nothing says which event a line is (--map event=COLUMN, or event==NAME for all)"))
	}
	return t, errors.Join(errs...)
}

// times are the forms of time that tables have.
var times = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"}

// parseTime reads a time; one without a zone is of location.
func parseTime(s string, location *time.Location) (time.Time, error) {
	for _, form := range times {
		if t, err := time.ParseInLocation(form, s, location); err == nil {
			return t, nil
		}
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && n > 0 {
		if n > 1e11 {
			return time.UnixMilli(int64(n)), nil
		}
		return time.UnixMilli(int64(n * 1000)), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time", s)
}

func (t *table) next() (Item, error) {
	for {
		line, n, err := t.lines.data()
		if err != nil {
			if errors.Is(err, errLong) {
				t.reject(n, err.Error())
				continue
			}
			return Item{}, err
		}
		f, err := columns(line)
		if err != nil {
			t.reject(n, err.Error())
			continue
		}
		get := func(field string) string {
			if i, ok := t.at[field]; ok && i < len(f) {
				return strings.TrimSpace(f[i])
			}
			return ""
		}
		at, err := parseTime(get("timestamp"), t.o.Location)
		if err != nil {
			t.reject(n, "timestamp: "+err.Error())
			continue
		}
		if !t.o.within(at) {
			t.reject(n, outside)
			continue
		}
		name := t.event
		if name == "" {
			name = get("event")
		}
		currency := get("currency")
		if currency == "" {
			currency = t.o.Currency
		}
		p := &Properties{Currency: currency, OrderID: get("order_id"), Total: get("total"), Units: get("units"), Query: get("query")}
		if p.OrderID != "" && get("product_id") != "" {
			quantity, err := strconv.ParseInt(get("quantity"), 10, 64)
			if get("quantity") == "" {
				quantity, err = 1, nil
			}
			if err != nil {
				t.reject(n, fmt.Sprintf("quantity: %q is not a whole number", get("quantity")))
				continue
			}
			p.Products = []Product{{ProductID: get("product_id"), Name: get("name"), Price: get("price"), Quantity: quantity}}
		} else {
			p.ProductID, p.Name, p.Category, p.Brand, p.Price, p.Quantity = get("product_id"), get("name"), get("category"), get("brand"), get("price"), get("quantity")
		}
		return Item{Line: n, Lines: 1, At: at, Event: Event{Type: "track", Event: name, UserID: get("user_id"), AnonymousID: get("anonymous_id"), Properties: p}}, nil
	}
}
