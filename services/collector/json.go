package collector

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// What follows walks over JSON that json.Valid has accepted, without copying
// and without looking at any byte but once a level: a call is checked once and
// then read field by field. Decoding into structs of raw messages would check
// every byte again at every level, which was most of a call's time.

// members calls each for the members of an object, in order; it tells whether
// v is one. A key is given without its quotes and escapes.
func members(v []byte, each func(key, value []byte)) bool {
	i := space(v, 0)
	if i >= len(v) || v[i] != '{' {
		return false
	}
	for i = space(v, i+1); v[i] != '}'; {
		end := skip(v, i)
		quoted := v[i:end]
		i = space(v, space(v, end)+1) // behind the colon
		end = skip(v, i)
		if in := quoted[1 : len(quoted)-1]; isPlain(in) {
			each(in, v[i:end])
		} else {
			each([]byte(unquoted(quoted)), v[i:end])
		}
		if i = space(v, end); v[i] == ',' {
			i = space(v, i+1)
		}
	}
	return true
}

// elements calls each for the elements of an array, in order; it tells whether
// v is one.
func elements(v []byte, each func(value []byte)) bool {
	i := space(v, 0)
	if i >= len(v) || v[i] != '[' {
		return false
	}
	for i = space(v, i+1); v[i] != ']'; {
		end := skip(v, i)
		each(v[i:end])
		if i = space(v, end); v[i] == ',' {
			i = space(v, i+1)
		}
	}
	return true
}

// space returns the index of the first byte from i on that is not white space.
func space(v []byte, i int) int {
	for i < len(v) && (v[i] == ' ' || v[i] == '\n' || v[i] == '\r' || v[i] == '\t') {
		i++
	}
	return i
}

// skip returns the index behind the value that begins at i.
func skip(v []byte, i int) int {
	depth := 0
	for i < len(v) {
		switch v[i] {
		case '"':
			i = quote(v, i+1)
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		default:
			if depth > 0 {
				i++
				continue
			}
			for i < len(v) && v[i] != ',' && v[i] != ']' && v[i] != '}' && v[i] > ' ' {
				i++
			}
			return i
		}
		i++
		if depth == 0 {
			return i
		}
	}
	return i
}

// quote returns the index of the quote that ends the string whose inside begins
// at i.
func quote(v []byte, i int) int {
	for from := i; ; i++ {
		i += bytes.IndexByte(v[i:], '"')
		escapes := 0
		for i-escapes > from && v[i-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
}

// text is the value of a field that holds a string or a number: ids come as
// both. Anything else is noText, so that one field of another type costs that
// field and not the whole event.
type text string

// noText stands for a value that is neither a string nor a number. It is no
// good id, amount, number or time, so whoever needs the field refuses it.
const noText text = "\x00"

// textOf reads a string, a number or null.
func textOf(v []byte) text {
	switch {
	case len(v) == 0 || v[0] == 'n':
		return ""
	case v[0] == '"':
		if in := v[1 : len(v)-1]; isPlain(in) {
			return text(strings.TrimSpace(string(in)))
		}
		return text(strings.TrimSpace(unquoted(v)))
	case v[0] == '-' || (v[0] >= '0' && v[0] <= '9'):
		return text(v)
	}
	return noText
}

// orEmpty is the text of a field that may be left out.
func (t text) orEmpty() string {
	if t == noText {
		return ""
	}
	return string(t)
}

// isPlain tells whether the inside of a JSON string stands for itself, as
// nearly all do: no escapes, and UTF-8.
func isPlain(b []byte) bool {
	for i, c := range b {
		if c == '\\' {
			return false
		}
		if c >= utf8.RuneSelf {
			return utf8.Valid(b[i:]) && bytes.IndexByte(b[i:], '\\') < 0
		}
	}
	return true
}

func unquoted(v []byte) string {
	var s string
	_ = json.Unmarshal(v, &s) // it is valid
	return s
}
