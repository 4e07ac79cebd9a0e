package restock

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	restockv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/restock/v1"
)

// Product is what is remembered of a product.
type Product struct {
	restock.Product
	Name     string
	Standing [16]byte // id of the last signal; zero where there was none
	Recent   []Seen   // oldest first
}

// Seen is an order line that was folded.
type Seen struct {
	ID    uint64
	Known int64 // when it counted, minutes since 1970
}

const (
	rememberFor = 7 * 24 * 60 // minutes
	maxRecent   = 128
	minute      = 60 * 1_000_000
	hour        = 3600 * 1_000_000
	day         = 24 * hour
)

// Fold folds what happens to products.
type Fold struct {
	setting restock.Setting
	pinned  bool
}

// NewFold returns the fold of restock.products.
func NewFold(cfg Config) Fold { return Fold{setting: cfg.setting(), pinned: cfg.Pinned} }

// Model reads what the shop's fitter has learnt.
func (Fold) Model(_ string, data []byte) (any, error) { return readModel(data) }

// with is the setting with what was not observed, and the layer in force.
func (f Fold) with(unobserved []step.Interval, m *model) *restock.Setting {
	s := f.setting
	s.Layer = m.layer
	if len(unobserved) > 0 {
		s.Observed = func(from, to int64) int64 { return step.Observed(unobserved, from, to) }
	}
	return &s
}

// call is one call of the fold.
type call struct {
	*restock.Setting
	model *model
	told  restock.Told
	out   *step.Effects
}

// begin says what a call decides with. Who is asked by the layer in force tells what
// closed days and weeks were like.
func (f Fold) begin(out *step.Effects) *call {
	m, learnt := out.Model().(*model)
	if !learnt {
		m = shipped()
	}
	c := &call{Setting: f.with(out.Unobserved(), m), model: m, out: out}
	if !f.pinned && m.layer.Asks(out.Key().ID) {
		c.told.Sampling = m.layer.Sampling()
		c.Tell = func(s restock.Stat) { c.told.Stats = append(c.told.Stats, s) }
	}
	return c
}

// end publishes what was told.
func (c *call) end() {
	if len(c.told.Stats) == 0 {
		return
	}
	packed, _ := c.told.AppendBinary(nil) // never fails
	c.out.Publish(step.Message{Topic: topics.RestockStats, Key: statsKey, Type: topics.TypeRestockStat, Kind: "stat", Subject: c.out.Key().ID, Value: marshal(&restockv1.Stat{Stats: packed})})
}

// statsKey is where all products of a shop tell of themselves.
const statsKey = "products"

// marshal encodes a message, byte for byte the same everywhere.
func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", m, err)) // only for text that is not UTF-8
	}
	return b
}

// Record folds one fact.
func (f Fold) Record(p *Product, fact step.Fact, now step.Instant, out *step.Effects) error {
	var v profilev1.Supply
	if err := proto.Unmarshal(fact.Value, &v); err != nil {
		return fmt.Errorf("decode supply: %w", err)
	}
	s, at := f.begin(out), int64(now)
	units := v.Units
	var signal restock.Signal
	var said bool
	switch v.Kind {
	case eventv1.Kind_KIND_ORDER_COMPLETED, eventv1.Kind_KIND_ORDER_REFUNDED, eventv1.Kind_KIND_ORDER_CANCELLED:
		if units < 0 {
			units = -units
		}
		if units == 0 || p.again(&v, at/minute) {
			p.named(&v)
			return nil
		}
		switch v.Kind {
		case eventv1.Kind_KIND_ORDER_COMPLETED:
			signal, said = p.Sale(at, units, max(v.Price.GetMicros(), 0), s.Setting)
		case eventv1.Kind_KIND_ORDER_REFUNDED:
			signal, said = p.Return(at, units, s.Setting)
		default:
			signal, said = p.Cancel(at, units, s.Setting)
		}
	case eventv1.Kind_KIND_STOCK_LEVEL:
		signal, said = p.StockLevel(at, units, s.Setting)
	case eventv1.Kind_KIND_STOCK_ADJUSTED:
		signal, said = p.StockAdjust(at, units, s.Setting)
	case eventv1.Kind_KIND_PURCHASE_ORDERED:
		if v.PackSize > 0 || v.MinimumOrder > 0 {
			signal, said = p.Terms(at, v.PackSize, v.MinimumOrder, s.Setting)
			s.say(p, signal, said)
		}
		signal, said = p.PurchaseOrder(at, units, v.DueMs*1000, s.Setting)
	case eventv1.Kind_KIND_GOODS_RECEIVED:
		signal, said = p.Receipt(at, units, 0, s.Setting)
	case eventv1.Kind_KIND_CATALOG_CHANGED: // the name is all of it
		p.named(&v)
		return nil
	default:
		return fmt.Errorf("supply of kind %s", v.Kind)
	}
	p.named(&v)
	s.say(p, signal, said)
	if at, ok := p.NextClose(at, s.offset(), s.Setting); ok {
		out.WakeAt(step.Instant(at))
	} else {
		out.Sleep()
	}
	s.end()
	return nil
}

// named takes over the product's name.
func (p *Product) named(v *profilev1.Supply) {
	if v.Name != "" {
		p.Name = v.Name
	}
}

// Wake closes days, decides, and asks when to look again.
func (f Fold) Wake(p *Product, _ step.Key, now step.Instant, out *step.Effects) {
	s := f.begin(out)
	signal, said := p.Wake(int64(now), s.Setting)
	s.say(p, signal, said)
	at, decides := p.NextWake(int64(now), s.offset(), s.Setting)
	if told, tells := p.NextTold(int64(now), s.offset(), s.Setting); tells && (!decides || told < at) {
		at, decides = told, true
	}
	if decides {
		out.WakeAt(step.Instant(at))
	} else {
		out.Sleep()
	}
	s.end()
}

// offset spreads what is due at midnight over an hour.
func (c *call) offset() int64 { return int64(xxhash.Sum64String(c.out.Key().String()) % hour) }

// again notes an order line, and tells whether it was folded before.
func (p *Product) again(v *profilev1.Supply, now int64) bool {
	for len(p.Recent) > 0 && (p.Recent[0].Known < now-rememberFor || len(p.Recent) >= maxRecent) {
		p.Recent = p.Recent[1:]
	}
	id := xxhash.Sum64String(v.OrderId + "|" + strconv.Itoa(int(v.Line)) + "|" + strconv.Itoa(int(v.Version)) + "|" + v.Kind.String())
	for i := range p.Recent {
		if p.Recent[i].ID == id {
			return true
		}
	}
	p.Recent = append(slices.Clip(p.Recent), Seen{ID: id, Known: now})
	return false
}

// say publishes a signal.
func (c *call) say(p *Product, s restock.Signal, said bool) {
	if !said {
		return
	}
	key, out := c.out.Key(), c.out
	v := payload(s, key, p.Name, c.model.version, out.Historical())
	if s.Kind != restock.Raised && p.Standing != ([16]byte{}) {
		v.SupersededSignalID = hex.EncodeToString(p.Standing[:])
	}
	p.Standing = signalID(key, s.Cycle, s.Revision, v.Kind)
	v.SignalID = hex.EncodeToString(p.Standing[:])
	value, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal a signal: %v", err)) // only for infinite numbers
	}
	for _, topic := range []string{topics.RestockSignals, topics.RestockState} {
		out.Publish(step.Message{Topic: topic, Key: key.ID, Type: topics.TypeSignal, ID: v.SignalID, Subject: key.ID, EventTime: s.Due / 1000, Value: value, JSON: true})
	}
}

// signalID says what happened to which product, in which cycle.
func signalID(key step.Key, cycle uint32, revision uint16, kind string) (id [16]byte) {
	sum := sha256.Sum256([]byte("restock signal|" + key.String() + "|" + strconv.Itoa(int(cycle)) + "|" + strconv.Itoa(int(revision)) + "|" + kind))
	copy(id[:], sum[:])
	return id
}
