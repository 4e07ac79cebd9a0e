package collector

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Mode is how a shop's time runs.
type Mode string

// A shop is new until the first event; then it is live, or importing and at
// rest after the import's end.
const (
	ModeNew       Mode = "new"
	ModeLive      Mode = "live"
	ModeImporting Mode = "importing"
	ModeResting   Mode = "resting"
)

// Shop is what the collector knows of a shop.
type Shop struct {
	Name     string    `json:"name"`
	Mode     Mode      `json:"mode"`
	Since    time.Time `json:"since"`
	ImportID string    `json:"import_id,omitempty"`
}

// takesEvents tells whether live events are taken.
func (s Shop) takesEvents() bool { return s.Mode == ModeNew || s.Mode == ModeLive }

// importing tells whether the shop takes the import.
func (s Shop) importing(id string) bool { return s.Mode == ModeImporting && s.ImportID == id }

// Shops is the register of shops, in a file. It is safe for concurrent use.
type Shops struct {
	file string

	mu    sync.RWMutex
	shops map[string]Shop
}

// LoadShops reads the register; a file that is not there holds none.
func LoadShops(file string) (*Shops, error) {
	s := &Shops{file: file, shops: map[string]Shop{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the register of shops: %w", err)
	}
	var all []Shop
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("read the register of shops %s: %w", file, err)
	}
	for _, shop := range all {
		s.shops[shop.Name] = shop
	}
	return s, nil
}

// Get returns a shop; one never heard of is new.
func (s *Shops) Get(name string) Shop {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if shop, ok := s.shops[name]; ok {
		return shop
	}
	return Shop{Name: name, Mode: ModeNew}
}

// All lists the shops by name.
func (s *Shops) All() []Shop {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return sorted(s.shops)
}

// open makes a shop live that nobody has heard of, for it has live events now,
// and returns the shop as it is.
func (s *Shops) open(name string, now time.Time) (Shop, error) {
	shop := s.Get(name)
	if shop.Mode != ModeNew {
		return shop, nil
	}
	live := Shop{Name: name, Mode: ModeLive, Since: now.UTC()}
	ok, err := s.change(shop, live)
	if err != nil {
		return shop, err
	}
	if !ok {
		return s.Get(name), nil
	}
	return live, nil
}

// change changes a shop durably, if it still is what it was; it tells whether.
func (s *Shops) change(was, is Shop) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, had := s.shops[is.Name]
	if !had {
		before = Shop{Name: is.Name, Mode: ModeNew}
	}
	if before.Mode != was.Mode || before.ImportID != was.ImportID {
		return false, nil
	}
	next := maps.Clone(s.shops)
	next[is.Name] = is
	data, err := json.MarshalIndent(sorted(next), "", "  ")
	if err == nil {
		err = replace(s.file, append(data, '\n'))
	}
	if err != nil {
		return false, fmt.Errorf("note shop %s: %w", is.Name, err)
	}
	s.shops = next
	return true, nil
}

func sorted(shops map[string]Shop) []Shop {
	all := slices.AppendSeq(make([]Shop, 0, len(shops)), maps.Values(shops))
	slices.SortFunc(all, func(a, b Shop) int { return strings.Compare(a.Name, b.Name) })
	return all
}
