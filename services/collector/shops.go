package collector

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
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
	all := make([]Shop, 0, len(s.shops))
	for _, shop := range s.shops {
		all = append(all, shop)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// set changes a shop durably.
func (s *Shops) set(shop Shop) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shops[shop.Name].Mode == shop.Mode && s.shops[shop.Name].ImportID == shop.ImportID {
		return nil
	}
	before, had := s.shops[shop.Name]
	s.shops[shop.Name] = shop
	all := make([]Shop, 0, len(s.shops))
	for _, shop := range s.shops {
		all = append(all, shop)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	data, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = replace(s.file, append(data, '\n'))
	}
	if err != nil {
		if had {
			s.shops[shop.Name] = before
		} else {
			delete(s.shops, shop.Name)
		}
		return fmt.Errorf("note shop %s: %w", shop.Name, err)
	}
	return nil
}
