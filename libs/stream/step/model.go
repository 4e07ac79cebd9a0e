package step

import (
	"maps"
	"slices"
	"strings"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// ModelName is the name under which the store keeps a shop's last model record, in
// every partition: that of an entity without an id.
func ModelName(shop string) string { return shop + "/" }

// shopOfModel is the shop whose model is kept under a name; false where the name is
// an entity's.
func shopOfModel(name string) (string, bool) {
	shop, id, ok := strings.Cut(name, "/")
	return shop, ok && id == ""
}

// models are what the fitters of the shops have learnt, as the last model records
// said. They are state: a record counts from where it stands in the log, whoever
// reads it.
type models struct {
	fold    Modelled // nil: nobody reads them
	kept    map[string]model
	changed []Entity // not in the store yet
	// The shop that was asked for last.
	lastShop string
	last     any
}

// model is a shop's, as the store keeps it and as the fold reads it.
type model struct {
	data []byte
	read any
}

func newModels(fold any) models {
	reads, _ := fold.(Modelled)
	return models{fold: reads, kept: map[string]model{}}
}

// of is what the fold made of a shop's model; nil where there is none.
func (m *models) of(shop string) any {
	if len(m.kept) == 0 {
		return nil
	}
	if m.lastShop != shop {
		m.lastShop, m.last = shop, m.kept[shop].read
	}
	return m.last
}

// set takes over a shop's model.
func (m *models) set(shop string, value []byte) (err error) {
	defer panicked(&err)
	read, err := m.fold.Model(shop, value)
	if err != nil {
		return err
	}
	data := append([]byte{entityVersion, 0, 0}, value...) // never wakes, was never stamped
	m.kept[shop], m.lastShop = model{data, read}, ""
	return nil
}

// restore takes over what the store holds.
func (m *models) restore(shop string, data []byte) error {
	_, _, value, err := splitEntity(data)
	if err != nil {
		return err
	}
	if m.fold == nil {
		m.kept[shop] = model{data: data}
		return nil
	}
	return m.set(shop, value)
}

// all are the models as the store keeps them.
func (m *models) all() []Entity {
	var all []Entity
	for _, shop := range slices.Sorted(maps.Keys(m.kept)) {
		all = append(all, Entity{Key: ModelName(shop), Value: m.kept[shop].data})
	}
	return all
}

// learn folds a record that is a shop's and no entity's: it counts at once, never
// waits, and is no news to a second reading.
func (p *Partition[S]) learn(r *record.Record, h *header[S]) {
	if p.cfg.Model == "" || h.fact.Type != p.cfg.Model || p.models.fold == nil {
		p.meta.Counts.Unknown++
		return
	}
	if err := p.models.set(h.fact.Shop, r.Value); err != nil {
		p.dead(r, err)
		return
	}
	p.meta.Counts.Folded++
	name := ModelName(h.fact.Shop)
	p.models.changed = slices.DeleteFunc(p.models.changed, func(e Entity) bool { return e.Key == name })
	p.models.changed = append(p.models.changed, Entity{Key: name, Value: p.models.kept[h.fact.Shop].data})
}
