package recommender

import (
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/domain/recommend"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
)

const (
	maxItems     = 50 // of the visit at hand
	maxPurchased = 100
	// maxPrevious is how many earlier products a delta carries: as many steps
	// back as the index pairs.
	maxPrevious = 8
	keptItems   = 8 // of the last visit, for a visitor who comes back
)

// Visitor is what is remembered of a profile.
type Visitor struct {
	Session   uint64 // of the visit at hand; 0: none
	Items     []Touched
	Purchased []string // latest last
	LastSeen  int64    // ms
	Refuses   bool     // personalisation: nothing else is kept
}

// Touched is a product of the visit, latest last.
type Touched struct {
	Item  string
	Kinds uint8 // bit 1<<recommend.Kind for each kind seen
	At    int64 // ms, of the latest
}

// kind is the strongest thing done with the product.
func (t Touched) kind() recommend.Kind {
	switch {
	case t.Kinds&(1<<recommend.Order) != 0:
		return recommend.Order
	case t.Kinds&(1<<recommend.Cart) != 0:
		return recommend.Cart
	}
	return recommend.View
}

// Fold folds what visitors do.
type Fold struct{}

// kinds are those of events that touch products.
var kinds = map[eventv1.Kind]recommend.Kind{
	eventv1.Kind_KIND_PRODUCT_VIEWED:  recommend.View,
	eventv1.Kind_KIND_PRODUCT_ADDED:   recommend.Cart,
	eventv1.Kind_KIND_ORDER_COMPLETED: recommend.Order,
}

// wireKinds are the same the other way round.
var wireKinds = [...]eventv1.Kind{
	recommend.View: eventv1.Kind_KIND_PRODUCT_VIEWED, recommend.Cart: eventv1.Kind_KIND_PRODUCT_ADDED, recommend.Order: eventv1.Kind_KIND_ORDER_COMPLETED,
}

// Record folds one activity.
func (Fold) Record(v *Visitor, fact step.Fact, _ step.Instant, out *step.Effects) error {
	if fact.Type == topics.TypeMerged {
		out.Drop()
		return nil
	}
	var a profilev1.Activity
	if err := proto.Unmarshal(fact.Value, &a); err != nil {
		return fmt.Errorf("decode activity: %w", err)
	}
	if a.Consent != nil {
		v.Refuses = a.Consent.RefusesPersonalisation
	}
	if v.Refuses {
		*v = Visitor{Refuses: true}
		return nil
	}
	v.LastSeen = max(v.LastSeen, a.EventTimeMs)
	if a.Kind == eventv1.Kind_KIND_SESSION_ENDED {
		v.Session = 0
		v.Items = slices.Clone(v.Items[max(0, len(v.Items)-keptItems):])
		for i := range v.Items {
			v.Items[i].Kinds = 1 << v.Items[i].kind()
		}
		return nil
	}
	kind, ok := kinds[a.Kind]
	if !ok {
		return nil
	}
	session := sessionOf(&a, out.Key())
	if session != v.Session {
		v.Session, v.Items = session, nil
	}
	for i, l := range a.Lines {
		if l.Charge || l.ProductId == "" {
			continue
		}
		v.touch(l.ProductId, kind, a.EventTimeMs, i, &a, out)
	}
	return nil
}

// sessionOf names the visit; an order from a server is one of its own.
func sessionOf(a *profilev1.Activity, key step.Key) uint64 {
	name := key.String() + "|s|" + a.SessionId
	if a.SessionId == "" {
		name = key.String() + "|o|" + a.Order.GetOrderId()
	}
	return recommend.SessionKey(name, 0)
}

// touch notes a product, and publishes that it joined the session. What is
// published again under a user was counted under the device.
func (v *Visitor) touch(item string, kind recommend.Kind, at int64, line int, a *profilev1.Activity, out *step.Effects) {
	i := slices.IndexFunc(v.Items, func(t Touched) bool { return t.Item == item })
	t := Touched{Item: item}
	if i >= 0 {
		t = v.Items[i]
		v.Items = slices.Delete(v.Items, i, i+1)
	}
	first := t.Kinds&(1<<kind) == 0
	if !a.Replayed {
		d := &recommenderv1.Delta{Session: v.Session, ProductId: item, Kind: wireKinds[kind], EventTimeMs: at, First: first}
		for j := len(v.Items) - 1; j >= 0 && len(d.Previous) < maxPrevious; j-- {
			p := v.Items[j]
			d.Previous = append(d.Previous, &recommenderv1.Item{ProductId: p.Item, Kind: wireKinds[p.kind()], EventTimeMs: p.At})
		}
		value, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
		if err != nil {
			panic(fmt.Sprintf("marshal a delta: %v", err)) // only for text that is not UTF-8, which did not come through Unmarshal
		}
		out.Publish(step.Message{
			Topic: topics.RecommendationDeltas, Key: strconv.FormatUint(v.Session, 36), Type: topics.TypeDelta, Kind: "delta." + strconv.Itoa(line), EventTime: at, Value: value,
		})
	}
	t.Kinds |= 1 << kind
	t.At = max(t.At, at)
	v.Items = append(v.Items, t)
	if len(v.Items) > maxItems {
		v.Items = slices.Clone(v.Items[len(v.Items)-maxItems:])
	}
	if kind == recommend.Order {
		v.Purchased = slices.DeleteFunc(v.Purchased, func(p string) bool { return p == item })
		v.Purchased = append(v.Purchased, item)
		v.Purchased = slices.Clone(v.Purchased[max(0, len(v.Purchased)-maxPurchased):])
	}
}

// Wake never happens: nobody sets a wake-up.
func (Fold) Wake(*Visitor, step.Key, step.Instant, *step.Effects) {}
