package eval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// Kind is what a column holds.
type Kind uint8

// Kinds of columns.
const (
	Text   Kind = iota
	Number      // a decimal number
	Amount      // a decimal number, perhaps with a currency
	Date        // a time or a day
)

// String returns the kind in words.
func (k Kind) String() string {
	return [...]string{"text", "a number", "an amount of money", "a date or time"}[min(k, 3)]
}

// Column is a column that an evaluation reads.
type Column struct {
	Name     string   // what it is called in messages and by --map
	Aliases  []string // other usual names; case, space, "_", "-" and "." do not count
	Kind     Kind
	Optional bool // the file may do without it, and so may a row
}

// Options say how a file is read.
type Options struct {
	Map        map[string]string // name of a column to its header in the file; wins over usual names
	Header     []string          // names of the columns of a file that has no header line; nil: its first line has them
	DateFormat string            // ymd, yyyymmdd, unix, unixms, dmy, mdy or a layout of the time package; "": what the values say
	Location   *time.Location    // of times that name no zone; nil: UTC
	Progress   *Progress         // nil: not shown
	Tell       func(line string) // what somebody should know while it runs; nil: nobody asks
}

// Source says what was read, for a report.
type Source struct {
	Path      string      `json:"path"`
	SHA256    string      `json:"sha256"` // of the file as it lies on the disk
	Bytes     int64       `json:"bytes"`
	Gzip      bool        `json:"gzip"`
	Separator string      `json:"separator"`
	Rows      int64       `json:"rows"` // without the header
	Columns   []Found     `json:"columns"`
	Rejected  []Rejection `json:"rejected"`
}

// Used is the number of rows that were not rejected.
func (s Source) Used() int64 {
	n := s.Rows
	for _, r := range s.Rejected {
		n -= r.Rows
	}
	return n
}

// Found is a column as it stands in the file.
type Found struct {
	Name   string `json:"name"`
	Header string `json:"header"`
	Form   string `json:"form,omitempty"` // how dates or numbers are written
}

// Rejection is a reason why rows were not used.
type Rejection struct {
	Reason string `json:"reason"`
	Rows   int64  `json:"rows"`
	Line   int64  `json:"first_line"`
}

// mostReasons bounds what a file can make the table remember.
const mostReasons = 100

// Table reads rows. It is not safe for concurrent use.
type Table struct {
	ctx     context.Context //nolint:containedctx // a Table is an iteration, and lives as long as it
	path    string
	cols    []Column
	opts    Options
	in      *input
	rows    *rows
	comma   byte
	header  []string
	at      []int // field of each column; -1: none
	forms   []dateForm
	decimal []byte
	marks   []string // first currency of each column

	ahead   []row // rows that decided how columns are written
	served  int
	fields  [][]byte
	line    int64
	bad     string // why the current row is not valid
	counted bool   // the current row is rejected already

	n        int64
	rejected map[string]*Rejection
	err      error
}

// row is a row kept.
type row struct {
	line   int64
	fields [][]byte
}

// sampleRows and sampleBytes bound the rows that decide how a file is written.
const (
	sampleRows  = 2000
	sampleBytes = 4 << 20
)

// Open finds the columns of a delimited file (comma, semicolon, tab or bar,
// which the header decides; plain or gzip, which the content decides) and
// decides how its dates and numbers are written. A column of the result is
// addressed by its index in columns. An error says what was looked for, what is
// there, and which --map helps.
func Open(ctx context.Context, path string, columns []Column, o Options) (*Table, error) {
	if o.Location == nil {
		o.Location = time.UTC
	}
	t := &Table{ctx: ctx, path: path, cols: columns, opts: o, rejected: map[string]*Rejection{}}
	if err := t.open(); err != nil {
		if t.in != nil {
			t.in.f.Close()
		}
		return nil, err
	}
	return t, nil
}

func (t *Table) open() error {
	var err error
	if t.in, t.rows, t.header, err = openRows(t.path, t.opts.Header); err != nil {
		return err
	}
	t.comma = t.rows.comma
	if err := t.recognise(); err != nil {
		return fmt.Errorf("read %s: %w", t.path, err)
	}
	t.sample()
	if err := t.decide(); err != nil {
		return fmt.Errorf("read %s: %w", t.path, err)
	}
	t.opts.Progress.Start("reading", t.in.size)
	return nil
}

// Header reads the names of a file's columns.
func Header(path string) ([]string, error) {
	in, _, header, err := openRows(path, nil)
	if in != nil {
		in.f.Close()
	}
	return header, err
}

// openRows opens a file up to behind its header. Where names are given it has
// none, and its first line is a row.
func openRows(path string, names []string) (*input, *rows, []string, error) {
	in, err := openInput(path)
	if err != nil {
		return nil, nil, nil, err
	}
	r := newRows(in.plain, ',')
	r.buf, r.first = r.buf[:0], 1
	for {
		if err := r.more(); err != nil {
			return in, nil, nil, fmt.Errorf("read the header of %s: %w", path, in.explain(err, 1))
		}
		if len(bytes.TrimSpace(r.buf)) > 0 {
			break
		}
		r.buf, r.first = r.buf[:0], r.line+1
	}
	if bytes.IndexByte(bytes.TrimRight(r.buf, "\r\n"), '\r') >= 0 {
		return in, nil, nil, fmt.Errorf("read %s: its lines end with a bare carriage return, as on old Macs: save it with line feeds", path)
	}
	r.comma = separator(r.buf)
	fields, err := r.split()
	if err != nil {
		return in, nil, nil, fmt.Errorf("read the header of %s: %w", path, in.explain(err, 1))
	}
	if names != nil {
		if len(names) != len(fields) {
			return in, nil, nil, fmt.Errorf("read %s: --header names %d columns (%s), line %d has %d", path, len(names), strings.Join(names, ", "), r.first, len(fields))
		}
		r.again = true
		return in, r, names, nil
	}
	var header []string
	for _, f := range fields {
		header = append(header, text(f))
	}
	return in, r, header, nil
}

// separator is what stands most often in a header, outside of quotes.
func separator(line []byte) byte {
	best, most := byte(','), 0
	for _, c := range []byte{',', ';', '\t', '|'} {
		n, quoted := 0, false
		for _, b := range line {
			switch b {
			case '"':
				quoted = !quoted
			case c:
				if !quoted {
					n++
				}
			}
		}
		if n > most {
			best, most = c, n
		}
	}
	return best
}

// Normal is a name as columns are compared: lower case, without space, "_", "-"
// and ".".
func Normal(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(" _-.", r) {
			return -1
		}
		return r
	}, strings.ToLower(strings.TrimSpace(name)))
}

// recognise finds every column in the header. A header is one column only.
func (t *Table) recognise() error {
	t.at = slices.Repeat([]int{-1}, len(t.cols))
	taken := map[int]string{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(t.opts.Map)) {
		want := t.opts.Map[name]
		c := slices.IndexFunc(t.cols, func(c Column) bool { return Normal(c.Name) == Normal(name) })
		if c < 0 {
			var names []string
			for _, c := range t.cols {
				names = append(names, c.Name)
			}
			errs = append(errs, fmt.Errorf("--map %s=%s: nothing is called %s here; the names are %s", name, want, name, strings.Join(names, ", ")))
			continue
		}
		i := slices.Index(t.header, want)
		if i < 0 {
			i = slices.IndexFunc(t.header, func(h string) bool { return Normal(h) == Normal(want) })
		}
		if i < 0 {
			errs = append(errs, fmt.Errorf("--map %s=%s: the file has no column %q; its header is %s", name, want, want, strings.Join(t.header, ", ")))
			continue
		}
		t.at[c] = i
		taken[i] = t.cols[c].Name
	}
	for c, col := range t.cols {
		if t.at[c] >= 0 {
			continue
		}
		for _, alias := range append([]string{col.Name}, col.Aliases...) {
			var here []int
			for i, h := range t.header {
				if _, used := taken[i]; !used && Normal(h) == Normal(alias) {
					here = append(here, i)
				}
			}
			if len(here) > 1 {
				errs = append(errs, fmt.Errorf("columns %d and %d are both called %q: rename one, or choose with --map %s=COLUMN", here[0]+1, here[1]+1, t.header[here[0]], col.Name))
			}
			if len(here) > 0 {
				t.at[c] = here[0]
				taken[here[0]] = col.Name
				break
			}
		}
		if t.at[c] < 0 && !col.Optional {
			errs = append(errs, fmt.Errorf("no column for %s (%s): looked for %s; the header is %s; say which one it is with --map %s=COLUMN",
				col.Name, col.Kind, strings.Join(append([]string{col.Name}, col.Aliases...), ", "), strings.Join(t.header, ", "), col.Name))
		}
	}
	if len(errs) > 0 && t.opts.Header == nil && slices.ContainsFunc(t.header, func(h string) bool { _, ok := number([]byte(h), '.'); return ok }) {
		errs = append(errs, errors.New("the first line has figures in it: if it is no header, --header NAME,NAME names the columns"))
	}
	return errors.Join(errs...)
}

// sample keeps the first rows. An error in them is met again when they are
// served.
func (t *Table) sample() {
	size := 0
	for len(t.ahead) < sampleRows && size < sampleBytes {
		fields, err := t.rows.next()
		if err != nil {
			t.err = t.in.explain(err, t.rows.line)
			return
		}
		r := row{line: t.rows.first, fields: make([][]byte, len(fields))}
		for i, f := range fields {
			r.fields[i] = bytes.Clone(f)
			size += len(f)
		}
		t.ahead = append(t.ahead, r)
	}
}

// decide chooses the form of dates and numbers of each column.
func (t *Table) decide() error {
	t.forms, t.decimal, t.marks = make([]dateForm, len(t.cols)), make([]byte, len(t.cols)), make([]string, len(t.cols))
	var errs []error
	for c, col := range t.cols {
		if t.at[c] < 0 || col.Kind == Text {
			continue
		}
		var cells []cell
		for _, r := range t.ahead {
			if v := t.cell(r.fields, c); len(v) > 0 {
				cells = append(cells, cell{r.line, v})
			}
		}
		var err error
		if col.Kind == Date {
			t.forms[c], err = t.dateForm(c, cells)
		} else {
			err = t.numberForm(c, cells)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// cell is a value and where it stands.
type cell struct {
	line  int64
	value []byte
}

// cell is the trimmed content of a column; empty where there is none.
func (t *Table) cell(fields [][]byte, c int) []byte {
	if i := t.at[c]; i >= 0 && i < len(fields) {
		return bytes.TrimSpace(fields[i])
	}
	return nil
}

// wrong is the error of a column whose values are mostly something else.
func (t *Table) wrong(c int, first cell, bad, all int) error {
	return fmt.Errorf("line %d, column %q: %q is not %s, nor are %d of the first %d values: is this the column? --map %s=COLUMN names another",
		first.line, t.header[t.at[c]], clip(first.value), t.cols[c].Kind, bad, all, t.cols[c].Name)
}

// clip shortens a value for a message.
func clip(b []byte) string {
	if len(b) > 40 {
		return text(b[:40]) + "..."
	}
	return text(b)
}

func (t *Table) numberForm(c int, cells []cell) error {
	var values []string
	for _, v := range cells {
		b := v.value
		if t.cols[c].Kind == Amount {
			b, _ = money(b)
		}
		values = append(values, string(b))
	}
	t.decimal[c] = decimal(values, t.comma)
	bad, first := 0, -1
	for i, v := range values {
		if _, ok := number([]byte(v), t.decimal[c]); !ok {
			bad++
			if first < 0 {
				first = i
			}
		}
	}
	if 2*bad > len(cells) {
		return t.wrong(c, cells[first], bad, len(cells))
	}
	return nil
}

func (t *Table) dateForm(c int, cells []cell) (dateForm, error) {
	if t.opts.DateFormat != "" {
		return dateFormOf(t.opts.DateFormat)
	}
	forms := dateForms()
	counts := make([]int, len(forms))
	best := 0
	var v vote
	for _, cell := range cells {
		for i, f := range forms {
			if _, ok := f.parse(cell.value, t.opts.Location); ok {
				counts[i]++
				if counts[i] > counts[best] {
					best = i
				}
			}
		}
		v.add(cell)
	}
	if len(cells) > 0 && 2*counts[best] < len(cells) {
		bad, first := 0, cell{}
		for _, cell := range cells {
			if _, ok := forms[best].parse(cell.value, t.opts.Location); !ok {
				if bad == 0 {
					first = cell
				}
				bad++
			}
		}
		err := t.wrong(c, first, bad, len(cells))
		return forms[best], fmt.Errorf("%w; another way to write dates is named by --date-format (dmy, mdy or a layout such as \"02 Jan 2006\")", err)
	}
	if name := forms[best].name; len(cells) == 0 || name != "dmy" && name != "mdy" {
		return forms[best], nil
	}
	if !v.decided() {
		if err := t.scan(c, &v); err != nil {
			return forms[best], err
		}
	}
	return v.form(t.header[t.at[c]], cells[0])
}

// vote is what the values of a column say about which of day and month stands
// first.
type vote struct{ day, month cell }

func (v *vote) add(c cell) {
	_, d := slashed(true)(c.value, time.UTC)
	_, m := slashed(false)(c.value, time.UTC)
	if d && !m && v.day.line == 0 {
		v.day = cell{c.line, bytes.Clone(c.value)}
	}
	if m && !d && v.month.line == 0 {
		v.month = cell{c.line, bytes.Clone(c.value)}
	}
}

func (v *vote) decided() bool { return v.day.line > 0 || v.month.line > 0 }

func (v *vote) form(header string, any cell) (dateForm, error) {
	name := "dmy"
	switch {
	case v.day.line > 0 && v.month.line > 0:
		return dateForm{}, fmt.Errorf("column %q has the day first on line %d (%s) and the month first on line %d (%s): choose with --date-format dmy or mdy, rows of the other form are then rejected",
			header, v.day.line, v.day.value, v.month.line, v.month.value)
	case v.month.line > 0:
		name = "mdy"
	case v.day.line == 0:
		return dateForm{}, fmt.Errorf("column %q: nothing in the file says whether %s (line %d) begins with the day or with the month: say it with --date-format dmy or mdy", header, any.value, any.line)
	}
	return dateFormOf(name)
}

// scan reads the file once more, for a value that decides.
func (t *Table) scan(c int, v *vote) error {
	if t.in.size == 0 {
		return fmt.Errorf("column %q: the first %d rows do not say whether dates begin with the day or with the month: say it with --date-format dmy or mdy", t.header[t.at[c]], len(t.ahead))
	}
	in, r, _, err := openRows(t.path, t.opts.Header)
	if err != nil {
		return err
	}
	defer in.f.Close()
	for n := 0; !v.decided(); n++ {
		if n%4096 == 0 && t.ctx.Err() != nil {
			return t.ctx.Err()
		}
		fields, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return in.explain(err, r.line)
		}
		v.add(cell{r.first, t.cell(fields, c)})
	}
	return nil
}

// explain turns an error of the reader into one that says where and what to do.
func (s *input) explain(err error, line int64) error {
	var row *RowError
	if errors.Is(err, io.EOF) || errors.As(err, &row) {
		return err
	}
	if s.gzip {
		return gzipError(err, line)
	}
	return &RowError{Line: line, Why: err.Error()}
}

// Has tells whether the file has a column.
func (t *Table) Has(c int) bool { return t.at[c] >= 0 }

// Name is what a column is called in messages.
func (t *Table) Name(c int) string { return t.cols[c].Name }

// Next goes to the next row, and tells whether there is one. Rows that have too
// few or too many fields are rejected here.
func (t *Table) Next() bool {
	for {
		if t.n%4096 == 0 {
			t.opts.Progress.At(t.in.read)
			if err := t.ctx.Err(); err != nil {
				t.err = err
				return false
			}
		}
		if t.served < len(t.ahead) {
			r := t.ahead[t.served]
			t.ahead[t.served] = row{}
			t.served++
			t.fields, t.line = r.fields, r.line
		} else {
			if t.err != nil {
				return false
			}
			t.ahead, t.served = nil, 0
			fields, err := t.rows.next()
			if err != nil {
				t.err = t.in.explain(err, t.rows.line)
				return false
			}
			t.fields, t.line = fields, t.rows.first
		}
		t.n++
		t.bad, t.counted = "", false
		if len(t.fields) == len(t.header) {
			return true
		}
		if len(t.fields) > len(t.header) && !slices.ContainsFunc(t.fields[len(t.header):], func(f []byte) bool { return len(bytes.TrimSpace(f)) > 0 }) {
			return true // separators at the end
		}
		t.Reject("another number of columns than the header")
	}
}

// Share is the part of the file that has been read, 0 where its size is not known.
func (t *Table) Share() float64 {
	if t.in.size == 0 {
		return 0
	}
	return min(1, float64(t.in.read)/float64(t.in.size))
}

// Line is the line of the file that the current row begins on, from 1.
func (t *Table) Line() int64 { return t.line }

// Valid tells whether all that was asked of the current row could be read. A row
// that is not valid is counted as rejected, under its first reason.
func (t *Table) Valid() bool {
	if t.bad == "" {
		return true
	}
	t.Reject(t.bad)
	return false
}

// Reject counts the current row as not used. Reasons should be few.
func (t *Table) Reject(reason string) {
	if t.counted {
		return
	}
	t.counted = true
	r := t.rejected[reason]
	if r == nil {
		if len(t.rejected) >= mostReasons {
			reason = "other reasons"
			r = t.rejected[reason]
		}
		if r == nil {
			r = &Rejection{Reason: reason, Line: t.line}
			t.rejected[reason] = r
		}
	}
	r.Rows++
}

// value is the cell that a getter reads; nil where the row has none or is not
// valid for want of it.
func (t *Table) value(c int) []byte {
	b := t.cell(t.fields, c)
	if len(b) == 0 && !t.cols[c].Optional {
		t.fail(c, "is empty")
	}
	return b
}

func (t *Table) fail(c int, why string) {
	if t.bad == "" {
		t.bad = t.cols[c].Name + " " + why
	}
}

// Empty tells whether the row has nothing in a column.
func (t *Table) Empty(c int) bool { return len(t.cell(t.fields, c)) == 0 }

// Bytes is a cell without the space around it, as it stands. It lives until
// Next. An empty cell of a column that is not optional makes the row invalid.
func (t *Table) Bytes(c int) []byte { return t.value(c) }

// Text is a cell as valid UTF-8.
func (t *Table) Text(c int) string { return text(t.value(c)) }

// Number is a cell as a finite number; 0 where an optional one is empty.
func (t *Table) Number(c int) float64 {
	b := t.value(c)
	if len(b) == 0 {
		return 0
	}
	v, ok := number(b, t.point(c))
	if !ok {
		t.fail(c, "is not a number")
	}
	return v
}

// Int is a cell as a whole number; 0 where an optional one is empty.
func (t *Table) Int(c int) int64 {
	v := t.Number(c)
	n := int64(v)
	if float64(n) != v {
		t.fail(c, "is not a whole number")
	}
	return n
}

// Amount is a cell as an amount of money in units of its currency; 0 where an
// optional one is empty. All rows of a column are in the currency of its first
// one: others are rejected, because amounts of several currencies have no sum.
func (t *Table) Amount(c int) float64 {
	b := t.value(c)
	if len(b) == 0 {
		return 0
	}
	b, mark := money(b)
	v, ok := number(b, t.point(c))
	if !ok {
		t.fail(c, "is not an amount of money")
		return 0
	}
	if mark != "" {
		if t.marks[c] == "" {
			t.marks[c] = mark
		}
		if t.marks[c] != mark {
			t.fail(c, "is in another currency than "+t.marks[c])
		}
	}
	return v
}

func (t *Table) point(c int) byte {
	if t.decimal[c] == 0 {
		return '.'
	}
	return t.decimal[c]
}

// Time is a cell as a time, in UTC; the zero time where an optional one is
// empty.
func (t *Table) Time(c int) time.Time {
	b := t.value(c)
	if len(b) == 0 {
		return time.Time{}
	}
	at, ok := t.forms[c].parse(b, t.opts.Location)
	if !ok {
		t.fail(c, "is not a date or time of the form "+t.forms[c].name)
	}
	return at
}

// Finish reads the rest of the file for its hash, closes it, and says what was
// read. It is an error that the reading ended before the file did, or that not
// one row could be used.
func (t *Table) Finish() (Source, error) {
	defer t.Close()
	if t.err != nil && !errors.Is(t.err, io.EOF) {
		if errors.Is(t.err, t.ctx.Err()) {
			return Source{}, t.err
		}
		return Source{}, fmt.Errorf("read %s: %w", t.path, t.err)
	}
	sum, err := t.in.hash()
	if err != nil {
		return Source{}, fmt.Errorf("read %s: %w", t.path, err)
	}
	t.opts.Progress.Done()
	s := Source{Path: t.path, SHA256: sum, Bytes: max(t.in.read, t.in.size), Gzip: t.in.gzip, Separator: string(t.comma), Rows: t.n}
	for c, col := range t.cols {
		if t.at[c] < 0 {
			continue
		}
		f := Found{Name: col.Name, Header: t.header[t.at[c]]}
		switch {
		case col.Kind == Date:
			f.Form = t.forms[c].name
		case t.decimal[c] == ',':
			f.Form = "decimal comma"
		}
		if t.marks[c] != "" {
			f.Form = strings.TrimSpace(f.Form + " " + t.marks[c])
		}
		s.Columns = append(s.Columns, f)
	}
	for _, reason := range slices.Sorted(maps.Keys(t.rejected)) {
		s.Rejected = append(s.Rejected, *t.rejected[reason])
	}
	slices.SortStableFunc(s.Rejected, func(a, b Rejection) int { return int(b.Rows - a.Rows) })
	switch {
	case t.n == 0:
		return s, fmt.Errorf("read %s: there is a header and no row", t.path)
	case s.Used() == 0:
		r := s.Rejected[0]
		return s, fmt.Errorf("read %s: none of its %d rows can be used; line %d, as %d of them: %s", t.path, t.n, r.Line, r.Rows, r.Reason)
	}
	return s, nil
}

// Close closes the file. Reading ends where it is.
func (t *Table) Close() error {
	t.opts.Progress.Done()
	if err := t.in.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
