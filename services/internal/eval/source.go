package eval

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
)

// input is an opened file: plain or gzip, hashed and counted while it is read.
type input struct {
	f     *os.File
	size  int64 // 0 where the file does not know
	read  int64
	sum   hash.Hash
	plain io.Reader // what is inside
	gzip  bool
}

// Read counts and hashes what comes from the disk.
func (s *input) Read(p []byte) (int, error) {
	n, err := s.f.Read(p)
	s.read += int64(n)
	s.sum.Write(p[:n])
	return n, err
}

// openInput opens a file and looks at its first bytes.
func openInput(path string) (*input, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Unwrap(err))
	}
	s := &input{f: f, sum: sha256.New()}
	if err := s.begin(); err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

func (s *input) begin() error {
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("this is a folder; name a file in it")
	}
	if info.Mode().IsRegular() {
		s.size = info.Size()
	}
	raw := bufio.NewReaderSize(s, 1<<16)
	inside := raw
	head, err := raw.Peek(2)
	if err == nil && head[0] == 0x1f && head[1] == 0x8b {
		s.gzip = true
		z, err := gzip.NewReader(raw)
		if err != nil {
			return gzipError(err, 1)
		}
		inside = bufio.NewReaderSize(z, 1<<16)
	}
	head, err = inside.Peek(4096)
	if err != nil && !errors.Is(err, io.EOF) {
		if s.gzip {
			return gzipError(err, 1)
		}
		return err
	}
	if len(bytes.TrimSpace(bytes.TrimPrefix(head, bom))) == 0 {
		return errors.New("the file is empty: a header line and rows are wanted")
	}
	if err := looksBinary(head); err != nil {
		return err
	}
	if bytes.HasPrefix(head, bom) {
		if _, err := inside.Discard(len(bom)); err != nil {
			return err
		}
	}
	s.plain = inside
	return nil
}

var bom = []byte("\xef\xbb\xbf")

// looksBinary refuses what is no text, and says what it is where that is known.
func looksBinary(head []byte) error {
	for _, known := range []struct{ magic, what string }{
		{"PK\x03\x04", "a zip archive or an Excel workbook: unpack it, or export the sheet as CSV"},
		{"PAR1", "a Parquet file: export it as CSV"},
		{"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it (zstd -d), or use gzip"},
		{"BZh", "compressed with bzip2: unpack it (bzip2 -d), or use gzip"},
		{"\xfd7zXZ", "compressed with xz: unpack it (xz -d), or use gzip"},
		{"SQLite format 3", "an SQLite database: export the table as CSV"},
		{"%PDF", "a PDF"},
		{"\xff\xfe", "text in UTF-16: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"},
		{"\xfe\xff", "text in UTF-16: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"},
		{"\x1f\x8b", "gzip inside gzip: unpack it once"},
	} {
		if bytes.HasPrefix(head, []byte(known.magic)) {
			return fmt.Errorf("this is no CSV but %s", known.what)
		}
	}
	line := int64(1)
	for i, b := range head {
		switch {
		case b == '\n':
			line++
		case b == '\t' || b == '\r':
		case b < ' ' || b == 0x7f:
			return &RowError{Line: line, Why: fmt.Sprintf("byte %#02x at offset %d is no text: this is no CSV file", b, i)}
		}
	}
	if bad := notText(head); bad > len(head)/3 {
		return fmt.Errorf("%d of the first %d bytes are no text: this is no CSV file", bad, len(head))
	}
	return nil
}

// notText counts bytes outside ASCII that are no UTF-8. Latin-1 text has a few.
func notText(b []byte) int {
	bad := 0
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			bad++
		}
		b = b[n:]
	}
	return bad
}

// gzipError says what to do about a damaged archive.
func gzipError(err error, line int64) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return &RowError{Line: line, Why: "the gzip file ends in the middle: it was cut off; copy it again (gzip -t checks it)"}
	case errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader):
		return &RowError{Line: line, Why: "the gzip file is damaged (" + err.Error() + "): copy it again (gzip -t checks it)"}
	default:
		return &RowError{Line: line, Why: "the gzip file cannot be unpacked (" + err.Error() + "): copy it again (gzip -t checks it)"}
	}
}

// hash reads what is left and returns the SHA-256 of the file.
func (s *input) hash() (string, error) {
	if _, err := io.Copy(s.sum, s.f); err != nil {
		return "", err
	}
	return hex.EncodeToString(s.sum.Sum(nil)), nil
}
