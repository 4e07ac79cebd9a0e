package eval

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// longestRow bounds what one row may take, with all its quoted line ends. A
// quote that is never closed ends there and not with the memory.
const longestRow = 1 << 20

// mostColumns bounds the fields of a row.
const mostColumns = 4096

// RowError is a row that ends the reading of a file.
type RowError struct {
	Line   int64 // of the file, from 1
	Column int   // field, from 1; 0 where it is about the whole row
	Why    string
}

func (e *RowError) Error() string {
	if e.Column > 0 {
		return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Why)
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Why)
}

// rows splits a file into rows of fields. Fields live until the next row.
type rows struct {
	in     *bufio.Reader
	comma  byte
	line   int64 // lines read so far
	first  int64 // first line of the row in fields
	buf    []byte
	ends   []int // of the fields, in clean
	clean  []byte
	fields [][]byte
	again  bool // the row in buf is to be handed out once more
}

func newRows(in io.Reader, comma byte) *rows {
	return &rows{in: bufio.NewReaderSize(in, 1<<18), comma: comma}
}

// more appends the next line, with its end, to the row.
func (r *rows) more() error {
	start := len(r.buf)
	for {
		part, err := r.in.ReadSlice('\n')
		if len(r.buf)+len(part) > longestRow {
			why := fmt.Sprintf("longer than %d KiB: this is no table with line ends", longestRow>>10)
			if start > 0 {
				why = fmt.Sprintf("a quote that opens here is not closed within %d KiB: close it, or write it twice (\"\") where it belongs to the text", longestRow>>10)
			}
			return &RowError{Line: r.first, Why: why}
		}
		r.buf = append(r.buf, part...)
		switch {
		case err == nil:
			r.line++
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(r.buf) > start:
			r.line++
			return nil
		default:
			return err
		}
	}
}

// next reads a row that is not blank. After an error of the reader, io.EOF
// among them, there is no row.
func (r *rows) next() ([][]byte, error) {
	if r.again {
		r.again = false
		return r.split()
	}
	for {
		r.buf, r.first = r.buf[:0], r.line+1
		if err := r.more(); err != nil {
			return nil, err
		}
		if len(bytes.TrimRight(r.buf, "\r\n \t")) > 0 || r.comma == '\t' && bytes.IndexByte(r.buf, '\t') >= 0 {
			return r.split()
		}
	}
}

// split cuts the row into fields and reads on where a quoted one has line ends.
func (r *rows) split() ([][]byte, error) {
	r.clean, r.ends = r.clean[:0], r.ends[:0]
	i := 0
	for {
		if len(r.ends) == mostColumns {
			return nil, &RowError{Line: r.first, Why: fmt.Sprintf("more than %d columns: this is no table that can be read", mostColumns)}
		}
		var err error
		if i < len(r.buf) && r.buf[i] == '"' {
			i, err = r.quoted(i + 1)
		} else {
			i = r.plain(i)
		}
		r.ends = append(r.ends, len(r.clean))
		if err != nil {
			return nil, err
		}
		if i >= len(r.buf) || r.buf[i] != r.comma {
			break
		}
		i++
	}
	r.fields = r.fields[:0]
	start := 0
	for _, end := range r.ends {
		r.fields = append(r.fields, r.clean[start:end:end])
		start = end
	}
	return r.fields, nil
}

// plain takes a field that does not begin with a quote, and returns where it
// ends. Quotes inside are part of it: 5" candle.
func (r *rows) plain(i int) int {
	rest := r.buf[i:]
	n := bytes.IndexByte(rest, r.comma)
	if n < 0 {
		n = len(bytes.TrimRight(rest, "\r\n"))
	}
	r.clean = append(r.clean, rest[:n]...)
	return i + n
}

// quoted takes a field behind its opening quote. What stands between the closing
// quote and the next separator is kept, as spreadsheets do.
func (r *rows) quoted(i int) (int, error) {
	for {
		n := bytes.IndexByte(r.buf[i:], '"')
		if n < 0 {
			r.clean = append(r.clean, r.buf[i:]...)
			i = len(r.buf)
			if err := r.more(); err != nil {
				if errors.Is(err, io.EOF) {
					return i, &RowError{Line: r.first, Column: len(r.ends) + 1, Why: `a quote that opens here is never closed: close it, or write it twice ("") where it belongs to the text`}
				}
				if row, ok := errors.AsType[*RowError](err); ok {
					row.Column = len(r.ends) + 1
				}
				return i, err
			}
			continue
		}
		r.clean = append(r.clean, r.buf[i:i+n]...)
		i += n + 1
		if i < len(r.buf) && r.buf[i] == '"' {
			r.clean = append(r.clean, '"')
			i++
			continue
		}
		return r.plain(i), nil
	}
}
