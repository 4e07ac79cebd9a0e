package collector

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"gopkg.in/yaml.v3"
)

// KeyKind says what a write key may do.
type KeyKind string

// A public key stands in web pages and may report what visitors do; a secret
// one is held by the shop's servers and may report orders, stock and
// catalogue, too; an admin key may act for every shop.
const (
	Public KeyKind = "public"
	Secret KeyKind = "secret"
	Admin  KeyKind = "admin"
)

// Key is a write key.
type Key struct {
	ID      string   `yaml:"id"`
	Key     string   `yaml:"key"`
	Kind    KeyKind  `yaml:"kind"`
	Shop    string   `yaml:"shop,omitempty"`    // not of an admin key
	Origins []string `yaml:"origins,omitempty"` // of a public key; none: any
}

// Validate reports all mistakes.
func (k Key) Validate() error {
	var errs []error
	if k.ID == "" {
		errs = append(errs, errors.New("id: missing"))
	}
	if len(k.Key) < 8 {
		errs = append(errs, fmt.Errorf("key of %q: shorter than 8 characters", k.ID))
	}
	switch k.Kind {
	case Public, Secret:
		errs = append(errs, CheckShop(k.Shop))
	case Admin:
		if k.Shop != "" {
			errs = append(errs, fmt.Errorf("key %q: an admin key has no shop", k.ID))
		}
	default:
		errs = append(errs, fmt.Errorf("key %q: kind %q is none of public, secret, admin", k.ID, k.Kind))
	}
	return errors.Join(errs...)
}

// CheckShop tells what is wrong with a shop's name: it becomes part of keys and
// paths.
func CheckShop(name string) error {
	if name == "" || len(name) > 64 {
		return fmt.Errorf("shop %q: 1 to 64 characters", name)
	}
	for _, c := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", c) {
			return fmt.Errorf("shop %q: letters, digits, dash, underscore and dot only", name)
		}
	}
	return nil
}

// NewKey makes a key nobody can guess.
func NewKey(kind KeyKind, shop string) (Key, error) {
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return Key{}, fmt.Errorf("make a key: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(b[:])
	id := string(kind) + "-" + text[:6]
	return Key{ID: id, Key: string(kind[:1]) + "k_" + text, Kind: kind, Shop: shop}, nil
}

// ReadKeys reads a file of keys; one that is not there holds none.
func ReadKeys(name string) ([]Key, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	var file struct {
		Keys []Key `yaml:"keys"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read keys of %s: %w", name, withoutValues(err))
	}
	var errs []error
	ids, secrets := map[string]bool{}, map[string]string{}
	for _, k := range file.Keys {
		errs = append(errs, k.Validate())
		if ids[k.ID] {
			errs = append(errs, fmt.Errorf("key %q: twice", k.ID))
		}
		ids[k.ID] = true
		if other, ok := secrets[k.Key]; ok && other != k.ID {
			errs = append(errs, fmt.Errorf("keys %q and %q: the same key", other, k.ID))
		}
		secrets[k.Key] = k.ID
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("read keys of %s: %w", name, err)
	}
	return file.Keys, nil
}

// withoutValues is an error of the YAML decoder without what it quotes of the
// file: that may be a part of a key.
func withoutValues(err error) error {
	said := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if bad := (*yaml.TypeError)(nil); errors.As(err, &bad) {
		said = bad.Errors
	}
	var lines []string
	for _, e := range said {
		if line, _, ok := strings.Cut(e, ":"); ok && strings.HasPrefix(line, "line ") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return errors.New(`not YAML, or no list under "keys"`)
	}
	return fmt.Errorf("%s: not YAML, or not what a list of keys holds", strings.Join(lines, ", "))
}

// WriteKeys writes a file of keys, whole or not at all, readable by its owner
// only.
func WriteKeys(name string, keys []Key) error {
	data, err := yaml.Marshal(struct {
		Keys []Key `yaml:"keys"`
	}{keys})
	if err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	return replace(name, data)
}

// replace writes a file durably, whole or not at all.
func replace(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", name, err)
	}
	// The name is durable when the directory is; some systems cannot sync one.
	if dir, err := os.Open(filepath.Dir(name)); err == nil {
		_ = dir.Sync()
		_ = dir.Close()
	}
	return nil
}

// Keys are the write keys in force. They are safe for concurrent use.
type Keys struct {
	file string
	log  *slog.Logger
	held atomic.Pointer[heldKeys]
	read time.Time
	size int64
}

type heldKeys struct {
	byHash  map[[32]byte]Key
	origins map[string]bool
	any     bool // a public key allows every origin
}

// LoadKeys reads the keys of a file.
func LoadKeys(file string, log *slog.Logger) (*Keys, error) {
	k := &Keys{file: file, log: log}
	return k, k.load()
}

func (k *Keys) load() error {
	if info, err := os.Stat(k.file); err == nil {
		k.read, k.size = info.ModTime(), info.Size()
	}
	all, err := ReadKeys(k.file)
	if err != nil {
		return err
	}
	h := &heldKeys{byHash: map[[32]byte]Key{}, origins: map[string]bool{}}
	for _, key := range all {
		h.byHash[sha256.Sum256([]byte(key.Key))] = key
		if key.Kind == Public && len(key.Origins) == 0 {
			h.any = true
		}
		for _, o := range key.Origins {
			h.origins[o] = true
		}
	}
	k.held.Store(h)
	return nil
}

// Watch reads the file again when it changes, until ctx ends. A file with
// mistakes leaves the keys as they are, and is logged.
func (k *Keys) Watch(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		info, err := os.Stat(k.file)
		if err != nil || (info.ModTime().Equal(k.read) && info.Size() == k.size) {
			continue
		}
		if err := k.load(); err != nil {
			k.log.Error("keys left as they were", slog.Any("err", err))
			continue
		}
		k.log.Info("keys read again", slog.Int("keys", len(k.held.Load().byHash)))
	}
}

// find looks a key up by its hash: the time it takes tells nothing of keys.
func (k *Keys) find(key string) (Key, bool) {
	found, ok := k.held.Load().byHash[sha256.Sum256([]byte(key))]
	return found, ok
}

// allows tells whether some public key may be used from an origin.
func (k *Keys) allows(origin string) bool {
	h := k.held.Load()
	return h.any || h.origins[origin]
}

func (k Key) allows(origin string) bool {
	if k.Kind != Public || len(k.Origins) == 0 || origin == "" {
		return true
	}
	return slices.Contains(k.Origins, origin)
}
