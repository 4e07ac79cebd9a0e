package eval

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// most is the largest number that is read: beyond it sums lose whole units.
const most = 1e15

// number reads a decimal number whose fraction begins with point and whose
// thousands may be grouped with the other of point and comma, a space or an
// apostrophe. NaN, infinities, exponents beyond reason and hex are none.
func number(b []byte, point byte) (float64, bool) {
	b = bytes.TrimSpace(b)
	negative := false
	if n := len(b); n > 2 && b[0] == '(' && b[n-1] == ')' { // as accountants write it
		negative, b = true, bytes.TrimSpace(b[1:n-1])
	}
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		negative, b = negative != (b[0] == '-'), b[1:]
	}
	if len(b) == 0 || len(b) > 40 {
		return 0, false
	}
	var clean [48]byte
	out := clean[:0]
	group := byte(0)      // separator of thousands in use
	since, digits := 0, 0 // digits since it, and in all
	fraction, exponent := false, false
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch {
		case c >= '0' && c <= '9':
			since++
			digits++
			out = append(out, c)
		case exponent:
			return 0, false
		case c == point && !fraction:
			if group != 0 && since != 3 {
				return 0, false
			}
			fraction = true
			out = append(out, '.')
		case (c == 'e' || c == 'E') && digits > 0 && group == 0 && i+1 < len(b):
			exponent = true
			out = append(out, 'e')
			if i+2 < len(b) && (b[i+1] == '-' || b[i+1] == '+') {
				out = append(out, b[i+1])
				i++
			}
		case !fraction && (c == ',' || c == '.' || c == ' ' || c == '\'') && digits > 0:
			if group != 0 && (c != group || since != 3) || group == 0 && since > 3 {
				return 0, false
			}
			group, since = c, 0
		default:
			return 0, false
		}
	}
	if digits == 0 || group != 0 && !fraction && since != 3 {
		return 0, false
	}
	v, err := strconv.ParseFloat(string(out), 64)
	if err != nil || math.IsNaN(v) || math.Abs(v) > most {
		return 0, false
	}
	if negative && v != 0 {
		v = -v
	}
	return v, true
}

// decimal decides which of '.' and ',' begins the fraction in a column, from
// values that say so. Where none does it is a comma in a file separated by
// semicolons, as the lands that write the one write the other.
func decimal(values []string, separator byte) byte {
	comma, point := 0, 0
	for _, v := range values {
		c, p := strings.LastIndexByte(v, ','), strings.LastIndexByte(v, '.')
		switch {
		case c >= 0 && p >= 0: // the last one is the fraction
			if c > p {
				comma++
			} else {
				point++
			}
		case c >= 0 && strings.Count(v, ",") == 1 && digitsAfter(v, c) != 3:
			comma++
		case c >= 0 && strings.Count(v, ",") > 1: // groups of thousands
			point++
		case p >= 0 && strings.Count(v, ".") == 1 && digitsAfter(v, p) != 3:
			point++
		case p >= 0 && strings.Count(v, ".") > 1:
			comma++
		}
	}
	switch {
	case comma > point:
		return ','
	case point > comma:
		return '.'
	case separator == ';':
		return ','
	default:
		return '.'
	}
}

func digitsAfter(v string, at int) int {
	n := 0
	for i := at + 1; i < len(v) && v[i] >= '0' && v[i] <= '9'; i++ {
		n++
	}
	return n
}

// money splits an amount from the currency that stands before or behind it: $5,
// 5,00 €, EUR 5. The currency is "" where there is none.
func money(b []byte) (amount []byte, currency string) {
	b = bytes.TrimSpace(b)
	sign := []byte(nil)
	if len(b) > 1 && b[0] == '-' && (b[1] < '0' || b[1] > '9') { // -$5
		sign, b = b[:1], b[1:]
	}
	start, end := 0, len(b)
	for start < end && !amountByte(b[start]) {
		start++
	}
	for end > start && !amountByte(b[end-1]) {
		end--
	}
	if start == 0 && end == len(b) {
		return b, ""
	}
	before, after := strings.TrimSpace(string(b[:start])), strings.TrimSpace(string(b[end:]))
	if before != "" && after != "" || !currencyMark(before+after) {
		return b, ""
	}
	return append(slices.Clone(sign), b[start:end]...), strings.ToUpper(before + after)
}

func amountByte(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == ',' || c == '-' || c == '+' || c == '(' || c == ')'
}

// currencyMark tells whether a text can be a currency: a symbol, or letters.
func currencyMark(s string) bool {
	switch s {
	case "$", "£", "€", "¥", "₹", "zł", "kr", "Fr", "R$", "US$", "A$", "C$":
		return true
	}
	if len(s) != 3 {
		return false
	}
	for i := range len(s) {
		if c := s[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}

// dateForm is how a column writes its times.
type dateForm struct {
	name   string // as --date-format takes it
	layout string // of the time package; "" for the ones read by hand
	parse  func(b []byte, in *time.Location) (time.Time, bool)
}

// dateForms are all forms that are tried, in this order. A column has the first
// that all its values have.
func dateForms() []dateForm {
	return []dateForm{
		{name: "ymd", parse: isoTime},
		{name: "yyyymmdd", parse: compactDate},
		{name: "unix", parse: unixTime(time.Second)},
		{name: "unixms", parse: unixTime(time.Millisecond)},
		{name: "dmy", parse: slashed(true)},
		{name: "mdy", parse: slashed(false)},
	}
}

// dateFormOf returns the form that a user names, which may be a layout of Go's
// time package.
func dateFormOf(name string) (dateForm, error) {
	var names []string
	for _, f := range dateForms() {
		if f.name == name {
			return f, nil
		}
		names = append(names, f.name)
	}
	if !strings.Contains(name, "06") { // every layout has a year
		return dateForm{}, fmt.Errorf("--date-format %q is neither one of %s nor a layout such as \"02 Jan 2006 15:04\" (Go's reference time)", name, strings.Join(names, ", "))
	}
	return dateForm{name: name, layout: name, parse: func(b []byte, in *time.Location) (time.Time, bool) {
		t, err := time.ParseInLocation(name, string(b), in)
		return t.UTC(), err == nil && sane(t)
	}}, nil
}

// sane keeps years where nanoseconds since 1970 fit.
func sane(t time.Time) bool { return t.Year() >= 1900 && t.Year() <= 2200 }

// digits reads exactly n digits.
func digits(b []byte, n int) (int, []byte, bool) {
	if len(b) < n {
		return 0, b, false
	}
	v := 0
	for _, c := range b[:n] {
		if c < '0' || c > '9' {
			return 0, b, false
		}
		v = 10*v + int(c-'0')
	}
	return v, b[n:], true
}

// pair reads one or two digits.
func pair(b []byte) (int, []byte, bool) {
	v, i := 0, 0
	for i < 2 && i < len(b) && b[i] >= '0' && b[i] <= '9' {
		v = 10*v + int(b[i]-'0')
		i++
	}
	return v, b[i:], i > 0
}

// isoTime reads 2006-01-02, 2006/01/02 and 2006-01, alone or followed by a time
// of day and a zone, as RFC 3339 and its relatives write them.
func isoTime(b []byte, in *time.Location) (time.Time, bool) {
	y, b, ok := digits(b, 4)
	if !ok || len(b) == 0 || b[0] != '-' && b[0] != '/' {
		return time.Time{}, false
	}
	sep := b[0]
	m, b, ok := pair(b[1:])
	if !ok {
		return time.Time{}, false
	}
	d := 1
	if len(b) > 0 {
		if b[0] != sep {
			return time.Time{}, false
		}
		if d, b, ok = pair(b[1:]); !ok {
			return time.Time{}, false
		}
	}
	return clock(y, m, d, b, in)
}

// compactDate reads 20060102.
func compactDate(b []byte, in *time.Location) (time.Time, bool) {
	if len(b) != 8 {
		return time.Time{}, false
	}
	y, b, ok := digits(b, 4)
	m, b, ok2 := digits(b, 2)
	d, b, ok3 := digits(b, 2)
	if !ok || !ok2 || !ok3 {
		return time.Time{}, false
	}
	return clock(y, m, d, b, in)
}

// slashed reads 02/01/2006, 2.1.2006 or 02-01-2006, the day or the month first.
func slashed(dayFirst bool) func(b []byte, in *time.Location) (time.Time, bool) {
	return func(b []byte, in *time.Location) (time.Time, bool) {
		d, b, ok := pair(b)
		if !ok || len(b) == 0 || b[0] != '/' && b[0] != '.' && b[0] != '-' {
			return time.Time{}, false
		}
		sep := b[0]
		m, b, ok := pair(b[1:])
		if !ok || len(b) == 0 || b[0] != sep {
			return time.Time{}, false
		}
		y, b, ok := digits(b[1:], 4)
		if !ok {
			return time.Time{}, false
		}
		if !dayFirst {
			d, m = m, d
		}
		return clock(y, m, d, b, in)
	}
}

// clock reads the time of day behind a date, and the zone behind that.
func clock(y, m, d int, b []byte, in *time.Location) (time.Time, bool) {
	if m < 1 || m > 12 || y < 1900 || y > 2200 {
		return time.Time{}, false
	}
	if d < 1 || d > time.Date(y, time.Month(m)+1, 0, 0, 0, 0, 0, time.UTC).Day() {
		return time.Time{}, false
	}
	var hour, minute, sec, nano int
	var ok bool
	zone := in
	if len(b) > 0 {
		if b[0] != ' ' && b[0] != 'T' && b[0] != 't' {
			return time.Time{}, false
		}
		if hour, b, ok = pair(b[1:]); !ok || len(b) == 0 || b[0] != ':' {
			return time.Time{}, false
		}
		if minute, b, ok = digits(b[1:], 2); !ok {
			return time.Time{}, false
		}
		if len(b) > 0 && b[0] == ':' {
			if sec, b, ok = digits(b[1:], 2); !ok {
				return time.Time{}, false
			}
			if nano, b, ok = fraction(b); !ok {
				return time.Time{}, false
			}
		}
		if zone, ok = offset(bytes.TrimSpace(b), in); !ok || hour > 23 || minute > 59 || sec > 60 {
			return time.Time{}, false
		}
	}
	return time.Date(y, time.Month(m), d, hour, minute, sec, nano, zone).UTC(), true
}

// fraction reads the part of a second behind a point.
func fraction(b []byte) (int, []byte, bool) {
	if len(b) == 0 || b[0] != '.' && b[0] != ',' {
		return 0, b, true
	}
	b = b[1:]
	nano, n := 0, 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		if n < 9 {
			nano = 10*nano + int(b[n]-'0')
		}
		n++
	}
	if n == 0 {
		return 0, b, false
	}
	for i := n; i < 9; i++ {
		nano *= 10
	}
	return nano, b[n:], true
}

// offset reads Z, UTC, +02:00, +0200 or +02; nothing means the given zone.
func offset(b []byte, in *time.Location) (*time.Location, bool) {
	switch {
	case len(b) == 0:
		return in, true
	case string(b) == "Z" || string(b) == "z" || string(b) == "UTC" || string(b) == "GMT":
		return time.UTC, true
	case b[0] != '+' && b[0] != '-':
		return nil, false
	}
	h, rest, ok := digits(b[1:], 2)
	if !ok {
		return nil, false
	}
	m := 0
	if len(rest) > 0 {
		if rest[0] == ':' {
			rest = rest[1:]
		}
		if m, rest, ok = digits(rest, 2); !ok || len(rest) > 0 {
			return nil, false
		}
	}
	if h > 14 || m > 59 {
		return nil, false
	}
	s := 3600*h + 60*m
	if b[0] == '-' {
		s = -s
	}
	if s == 0 {
		return time.UTC, true
	}
	return time.FixedZone("", s), true
}

// unixTime reads whole or broken seconds or milliseconds since 1970. Which of
// the two is told by the size: seconds reach 5e9 in the year 2128, and that many
// milliseconds were passed in February 1970. Before 1973 it takes neither, so
// that counters and years are no times.
func unixTime(unit time.Duration) func(b []byte, in *time.Location) (time.Time, bool) {
	lo, hi := 1e8, 5e9
	if unit == time.Millisecond {
		lo, hi = 1e11, 5e12
	}
	return func(b []byte, _ *time.Location) (time.Time, bool) {
		if len(b) == 0 || b[0] < '0' || b[0] > '9' || len(b) > 24 {
			return time.Time{}, false
		}
		v, err := strconv.ParseInt(string(b), 10, 64)
		if err == nil {
			if float64(v) < lo || float64(v) >= hi {
				return time.Time{}, false
			}
			if unit == time.Millisecond {
				return time.UnixMilli(v).UTC(), true
			}
			return time.Unix(v, 0).UTC(), true
		}
		f, ok := number(b, '.')
		if !ok || f < lo || f >= hi {
			return time.Time{}, false
		}
		return time.UnixMicro(int64(f * float64(unit/time.Microsecond))).UTC(), true
	}
}

// text is a cell as UTF-8. What is none is taken as Latin-1, which older exports
// still are.
func text(b []byte) string {
	b = bytes.TrimSpace(b)
	if utf8.Valid(b) {
		return string(b)
	}
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}
