package state

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/sillage-io/sillage/libs/stream/step"
)

// Bases are snapshots of partitions in a directory: one file each, checksummed,
// the newest two of every partition. It is safe for concurrent use as long as
// one goroutine at a time saves one partition.
type Bases struct{ dir string }

// NewBases keeps bases in dir, which it makes.
func NewBases(dir string) (*Bases, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of bases: %w", err)
	}
	return &Bases{dir: dir}, nil
}

// Base is one snapshot.
type Base struct {
	Next  int64
	Mark  string
	State step.State
}

const (
	baseMagic = "sillage base 1\n"
	baseEnd   = ".base"
)

func (b *Bases) folder(tag string) string { return filepath.Join(b.dir, tag) }

// Save writes a base durably: it is on disk, whole, or not there.
func (b *Bases) Save(tag string, next int64, s step.State, mark string) error {
	dir := b.folder(tag)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of %s: %w", tag, err)
	}
	name := filepath.Join(dir, baseName(next))
	tmp, err := os.CreateTemp(dir, "tmp-*")
	if err != nil {
		return fmt.Errorf("save a base of %s: %w", tag, err)
	}
	_, err = tmp.Write(encodeBase(next, s, mark))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("save a base of %s: %w", tag, err)
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // not every system can
		d.Close()
	}
	names, err := b.names(tag)
	if err != nil {
		return err
	}
	for _, old := range names[:max(0, len(names)-2)] {
		_ = os.Remove(filepath.Join(dir, old))
	}
	return nil
}

// Only removes all bases of a partition but the one at next.
func (b *Bases) Only(tag string, next int64) error {
	names, err := b.names(tag)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if name != baseName(next) {
			errs = append(errs, os.Remove(filepath.Join(b.folder(tag), name)))
		}
	}
	return errors.Join(errs...)
}

func baseName(next int64) string { return fmt.Sprintf("%020d%s", next, baseEnd) }

// names lists the base files of a partition, oldest first.
func (b *Bases) names(tag string) ([]string, error) {
	entries, err := os.ReadDir(b.folder(tag))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list bases of %s: %w", tag, err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), baseEnd) {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// Newest reads the newest base that is whole; nil where there is none. Damaged
// ones are named in the error beside a base that is whole.
func (b *Bases) Newest(tag string) (*Base, error) {
	names, err := b.names(tag)
	if err != nil {
		return nil, err
	}
	var damaged []error
	for _, name := range slices.Backward(names) {
		data, err := os.ReadFile(filepath.Join(b.folder(tag), name))
		if err == nil {
			var base *Base
			if base, err = decodeBase(data); err == nil {
				return base, errors.Join(damaged...)
			}
		}
		damaged = append(damaged, fmt.Errorf("base %s/%s: %w", tag, name, err))
	}
	return nil, errors.Join(damaged...)
}

// OldestBase reads the older of the bases kept, which is what the log must go on
// from if the newest is damaged; nil where there are not yet two of them.
func (b *Bases) OldestBase(tag string) (*Base, error) {
	for range 3 {
		names, err := b.names(tag)
		if err != nil || len(names) < 2 {
			return nil, err
		}
		data, err := os.ReadFile(filepath.Join(b.folder(tag), names[0]))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a newer one has taken its place meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read a base of %s: %w", tag, err)
		}
		base, err := decodeBase(data)
		if err != nil {
			return nil, fmt.Errorf("base %s/%s: %w", tag, names[0], err)
		}
		return base, nil
	}
	return nil, nil //nolint:nilnil // bases are taken faster than they are read: the next time, then
}

// Tags lists the partitions that have bases.
func (b *Bases) Tags() ([]string, error) {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, fmt.Errorf("list bases: %w", err)
	}
	var tags []string
	for _, e := range entries {
		if e.IsDir() {
			tags = append(tags, e.Name())
		}
	}
	return tags, nil
}

func encodeBase(next int64, s step.State, mark string) []byte {
	size := 64
	for _, e := range s.Entities {
		size += len(e.Key) + len(e.Value) + 8
	}
	body := make([]byte, 0, size)
	str := func(v []byte) {
		body = binary.AppendUvarint(body, uint64(len(v)))
		body = append(body, v...)
	}
	body = binary.AppendVarint(body, next)
	str([]byte(mark))
	str([]byte(s.Fence))
	body = binary.AppendUvarint(body, uint64(len(s.Entities)))
	for _, e := range s.Entities {
		str([]byte(e.Key))
		str(e.Value)
	}
	body = binary.AppendUvarint(body, uint64(len(s.Logs)))
	for _, l := range s.Logs {
		str([]byte(l.Name))
		str(l.Data)
	}
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(fmt.Sprintf("make an encoder: %v", err)) // only for options that are wrong
	}
	defer w.Close()
	packed := w.EncodeAll(body, []byte(baseMagic))
	sum := make([]byte, 8)
	binary.BigEndian.PutUint64(sum, xxhash.Sum64(packed))
	return append(packed, sum...)
}

func decodeBase(data []byte) (*Base, error) {
	if len(data) < len(baseMagic)+8 || string(data[:len(baseMagic)]) != baseMagic {
		return nil, errors.New("not a base of a known format")
	}
	body, sum := data[:len(data)-8], data[len(data)-8:]
	if binary.BigEndian.Uint64(sum) != xxhash.Sum64(body) {
		return nil, fmt.Errorf("checksum %s does not fit", hex.EncodeToString(sum))
	}
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body, err = r.DecodeAll(body[len(baseMagic):], nil)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	short := false
	number := func() uint64 {
		v, n := binary.Uvarint(body)
		if n <= 0 {
			short = true
			return 0
		}
		body = body[n:]
		return v
	}
	str := func() []byte {
		n := number()
		if n > uint64(len(body)) {
			short = true
			return nil
		}
		v := body[:n:n]
		body = body[n:]
		return v
	}
	base := &Base{}
	next, n := binary.Varint(body)
	if n <= 0 {
		return nil, errors.New("cut off")
	}
	body = body[n:]
	base.Next, base.Mark, base.State.Fence = next, string(str()), string(str())
	for i := number(); i > 0 && !short; i-- {
		base.State.Entities = append(base.State.Entities, step.Entity{Key: string(str()), Value: str()})
	}
	for i := number(); i > 0 && !short; i-- {
		base.State.Logs = append(base.State.Logs, step.LogAppend{Name: string(str()), Data: str()})
	}
	if short || len(body) > 0 {
		return nil, errors.New("cut off or too long")
	}
	return base, nil
}
