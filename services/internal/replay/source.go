package replay

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Item is one event that some lines of a file tell.
type Item struct {
	Line  int64 // first line, from 1; of an event that no line tells, the last one read
	Lines uint32
	At    time.Time
	Event Event
}

// Event is a call of the Segment API.
type Event struct {
	Type        string      `json:"type"`
	Event       string      `json:"event,omitempty"`
	MessageID   string      `json:"messageId"`
	AnonymousID string      `json:"anonymousId,omitempty"`
	UserID      string      `json:"userId,omitempty"`
	Timestamp   string      `json:"timestamp"`
	Properties  *Properties `json:"properties,omitempty"`
	Raw         []byte      `json:"-"` // in place of all the others
}

// Properties are those that files tell.
type Properties struct {
	ProductID       string    `json:"product_id,omitempty"`
	Name            string    `json:"name,omitempty"`
	Category        string    `json:"category,omitempty"`
	Brand           string    `json:"brand,omitempty"`
	Price           string    `json:"price,omitempty"`
	Quantity        string    `json:"quantity,omitempty"`
	Currency        string    `json:"currency,omitempty"`
	OrderID         string    `json:"order_id,omitempty"`
	Total           string    `json:"total,omitempty"`
	Part            uint32    `json:"part,omitempty"`
	Parts           uint32    `json:"parts,omitempty"`
	Products        []Product `json:"products,omitempty"`
	Units           string    `json:"units,omitempty"`
	PurchaseOrderID string    `json:"purchase_order_id,omitempty"`
	Due             string    `json:"due,omitempty"`
	Query           string    `json:"query,omitempty"`
}

// Product is one line of an order.
type Product struct {
	ProductID string `json:"product_id,omitempty"`
	Name      string `json:"name,omitempty"`
	Price     string `json:"price,omitempty"`
	Quantity  int64  `json:"quantity"`
	Charge    bool   `json:"charge,omitempty"`
}

// Options choose what of a file is read, and how.
type Options struct {
	Format   string
	Location *time.Location // of times without a zone
	From, To time.Time      // zero: no bound; To excluded
	Limit    int64          // lines; 0: all
	Columns  map[string]string
	Currency string
	Stock    string // "", or simulate
	StockCSV string // file of stock levels
	Seed     uint64
}

// Reject takes a line that becomes no event.
type Reject func(line int64, reason string)

// reader makes items of lines.
type reader interface {
	// next returns the next item, or io.EOF.
	next() (Item, error)
}

// Formats lists what can be read.
func Formats() []string { return []string{"uci-online-retail", "clicks", "segment-jsonl", "csv"} }

// File is an open file of a format.
type File struct {
	r     reader
	close func() error
	lines *lineReader
}

// Open opens a file, gzip or plain.
func Open(name string, o Options, reject Reject) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open the file: %w", err)
	}
	buffered := bufio.NewReaderSize(f, 1<<20)
	var in io.Reader = buffered
	if head, _ := buffered.Peek(2); len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b {
		if in, err = gzip.NewReader(buffered); err != nil {
			f.Close()
			return nil, fmt.Errorf("inflate %s: %w", name, err)
		}
	}
	lines := &lineReader{in: bufio.NewReaderSize(in, 1<<20), limit: o.Limit}
	file := &File{close: f.Close, lines: lines}
	bounded := func(line int64, reason string) {
		if reject != nil {
			reject(line, reason)
		}
	}
	switch o.Format {
	case "uci-online-retail":
		file.r, err = newRetail(lines, o, bounded)
	case "clicks":
		file.r, err = newClicks(lines, o, bounded)
	case "segment-jsonl":
		file.r = &segment{lines: lines, o: o, reject: bounded}
	case "csv":
		file.r, err = newTable(lines, o, bounded)
	default:
		err = fmt.Errorf("format %q is none of %s", o.Format, strings.Join(Formats(), ", "))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return file, nil
}

// Next returns the next item, or io.EOF.
func (f *File) Next() (Item, error) { return f.r.next() }

// Lines is how many lines of data were read, the header left out.
func (f *File) Lines() int64 { return f.lines.n }

// Close closes the file.
func (f *File) Close() error { return f.close() }

// Hash is the SHA-256 of a file's bytes.
func Hash(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("open the file: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// lineReader reads lines and counts them.
type lineReader struct {
	in    *bufio.Reader
	limit int64
	n     int64 // lines of data so far
}

// maxLine is longer than any event may be.
const maxLine = 1 << 20

var errLong = errors.New("line longer than 1 MiB")

// read returns the next line without its end. A line that is too long is
// skipped and reported as errLong.
func (l *lineReader) read() ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := l.in.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			long = true
		} else {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0 && !long) {
			return nil, err
		}
		break
	}
	if long {
		return nil, errLong
	}
	for n := len(line); n > 0 && (line[n-1] == '\n' || line[n-1] == '\r'); n-- {
		line = line[:n-1]
	}
	return line, nil
}

// data returns the next line of data and its number, from 1.
func (l *lineReader) data() ([]byte, int64, error) {
	if l.limit > 0 && l.n >= l.limit {
		return nil, l.n, io.EOF
	}
	line, err := l.read()
	if err != nil && !errors.Is(err, errLong) {
		return nil, l.n, err
	}
	l.n++
	return line, l.n, err
}

// within tells whether a time is asked for.
func (o *Options) within(at time.Time) bool {
	return (o.From.IsZero() || !at.Before(o.From)) && (o.To.IsZero() || at.Before(o.To))
}

// outside is the reason of lines that were not asked for.
const outside = "outside of --from and --to"

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999999Z07:00") }

func newBuffered(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 64<<10) }
