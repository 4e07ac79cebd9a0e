package profile

import (
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/domain/identity"
	"github.com/sillage-io/sillage/libs/domain/session"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
)

// maxAnonymous is how many facts of an unknown device are kept for the day it
// becomes known.
const maxAnonymous = 64

// Device is what is remembered of a device (or of a user or order that events
// came from without one).
type Device struct {
	User      string // current user; "" while unknown
	Visit     session.Visit
	SessionID string
	Counts    Counts
	LastSeen  int64    // ms
	Anonymous [][]byte // activities, oldest first
}

// Counts are what happened in a visit.
type Counts struct {
	Pages, Products, Searches, CartAdds, Orders uint32
}

// Fold folds client events.
type Fold struct {
	secret []byte
	window session.Window
}

// NewFold returns the fold of profile.devices.
func NewFold(cfg Config) Fold {
	w := session.DefaultWindow()
	w.Gap, w.Items = cfg.SessionGap.Milliseconds(), 8
	return Fold{secret: []byte(cfg.IdentitySecret), window: w}
}

// Record folds one client event.
func (f Fold) Record(d *Device, fact step.Fact, now step.Instant, out *step.Effects) error {
	var e eventv1.Event
	if err := proto.Unmarshal(fact.Value, &e); err != nil {
		return fmt.Errorf("decode event: %w", err)
	}
	switch e.Kind {
	case eventv1.Kind_KIND_STOCK_LEVEL, eventv1.Kind_KIND_STOCK_ADJUSTED, eventv1.Kind_KIND_PURCHASE_ORDERED, eventv1.Kind_KIND_GOODS_RECEIVED:
		return f.stock(&e, out)
	case eventv1.Kind_KIND_CATALOG_CHANGED:
		return f.catalog(&e, out)
	}
	return f.behaviour(d, &e, now, out)
}

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", m, err)) // only for text that is not UTF-8, which did not come through Unmarshal
	}
	return b
}

var errUntrusted = errors.New("a public key may not report stock or change the catalogue")

// stock passes a fact about a product on.
func (f Fold) stock(e *eventv1.Event, out *step.Effects) error {
	if e.KeyKind != eventv1.KeyKind_KEY_KIND_SECRET {
		return errUntrusted
	}
	s := e.Stock
	if s == nil || s.ProductId == "" {
		return errors.New("stock event without a product")
	}
	out.Publish(step.Message{Topic: topics.Supply, Key: s.ProductId, Type: topics.TypeSupply, Kind: "supply", Subject: s.ProductId, Value: marshal(&profilev1.Supply{
		ProductId: s.ProductId, Kind: e.Kind, EventTimeMs: e.EventTimeMs, Units: s.Units, PurchaseOrderId: s.PurchaseOrderId, DueMs: s.DueMs, PackSize: s.PackSize, MinimumOrder: s.MinimumOrder,
	})})
	return nil
}

// catalog passes what a product is on.
func (f Fold) catalog(e *eventv1.Event, out *step.Effects) error {
	if e.KeyKind != eventv1.KeyKind_KEY_KIND_SECRET {
		return errUntrusted
	}
	if len(e.Lines) != 1 || e.Lines[0].ProductId == "" {
		return errors.New("catalogue event without a product")
	}
	l := e.Lines[0]
	out.Publish(step.Message{Topic: topics.Catalog, Key: l.ProductId, Type: topics.TypeProduct, Kind: "product", Subject: l.ProductId, Value: marshal(&profilev1.Product{
		Shop: e.Shop, ProductId: l.ProductId, Name: l.Name, Category: l.Category, Brand: l.Brand, Price: l.Price, Active: l.Quantity >= 0,
	})})
	out.Publish(step.Message{Topic: topics.Supply, Key: l.ProductId, Type: topics.TypeSupply, Kind: "supply", Subject: l.ProductId, Value: marshal(&profilev1.Supply{
		ProductId: l.ProductId, Kind: e.Kind, EventTimeMs: e.EventTimeMs, Name: l.Name, Category: l.Category, Price: l.Price,
	})})
	return nil
}

// behaviour folds what a visitor or customer did.
func (f Fold) behaviour(d *Device, e *eventv1.Event, now step.Instant, out *step.Effects) error {
	key := out.Key().String()
	if e.UserId != "" && e.UserId != d.User {
		f.known(d, e, key, out)
	}
	d.LastSeen = max(d.LastSeen, e.EventTimeMs)
	if e.AnonymousId != "" || e.KeyKind == eventv1.KeyKind_KEY_KIND_PUBLIC {
		f.visit(d, e, key, now, out)
	}
	if e.Kind == eventv1.Kind_KIND_SIGNED_OUT {
		d.User = ""
		return nil
	}
	refused := e.Consent.GetRefusesAnalytics()
	switch {
	case isOrder(e.Kind):
		if e.Order == nil || e.Order.OrderId == "" {
			return fmt.Errorf("%s without an order id", e.Kind)
		}
		if e.KeyKind == eventv1.KeyKind_KEY_KIND_SECRET {
			f.supply(e, out)
		}
	case refused || !published(e.Kind):
		return nil
	}
	a := &profilev1.Activity{
		ProfileId: identity.Who(f.secret, e.Shop, e.UserId, d.User, key), Known: d.User != "" || e.UserId != "",
		Kind: e.Kind, EventTimeMs: e.EventTimeMs, SessionId: d.SessionID,
		Lines: e.Lines, Order: e.Order, Text: e.Text, Consent: e.Consent,
	}
	value := marshal(a)
	if !a.Known {
		d.Anonymous = keep(d.Anonymous, value, isOrder(e.Kind))
	}
	out.Publish(step.Message{Topic: topics.Activity, Key: a.ProfileId, Type: topics.TypeActivity, Kind: "activity", Subject: a.ProfileId, Value: value})
	return nil
}

func isOrder(k eventv1.Kind) bool {
	return k == eventv1.Kind_KIND_ORDER_COMPLETED || k == eventv1.Kind_KIND_ORDER_REFUNDED || k == eventv1.Kind_KIND_ORDER_CANCELLED
}

// published tells what readers of activity have a use for. A page view is
// counted in its visit.
func published(k eventv1.Kind) bool {
	switch k {
	case eventv1.Kind_KIND_UNSPECIFIED, eventv1.Kind_KIND_OTHER, eventv1.Kind_KIND_IDENTIFY, eventv1.Kind_KIND_PAGE_VIEWED:
		return false
	}
	return true
}

// keep appends an anonymous fact. Where there is no room, the oldest one that
// is no order goes.
func keep(facts [][]byte, fact []byte, order bool) [][]byte {
	if len(facts) < maxAnonymous {
		return append(facts, fact)
	}
	for i, old := range facts {
		var a profilev1.Activity
		if proto.Unmarshal(old, &a) == nil && isOrder(a.Kind) {
			continue
		}
		return append(append(facts[:i:i], facts[i+1:]...), fact)
	}
	if !order {
		return facts
	}
	return append(facts[1:len(facts):len(facts)], fact)
}

// known notes the device's user. What an unknown device did is published again
// under the user it turned out to be.
func (f Fold) known(d *Device, e *eventv1.Event, key string, out *step.Effects) {
	if d.User == "" && len(d.Anonymous) > 0 {
		user := identity.ProfileID(f.secret, e.Shop, e.UserId)
		device := identity.DeviceProfileID(f.secret, e.Shop, key)
		for i, old := range d.Anonymous {
			var a profilev1.Activity
			if proto.Unmarshal(old, &a) != nil {
				continue
			}
			a.ProfileId, a.Known, a.Replayed = user, true, true
			out.Publish(step.Message{
				Topic: topics.Activity, Key: user, Type: topics.TypeActivity, Kind: "again." + strconv.Itoa(i), Subject: user,
				EventTime: a.EventTimeMs, Value: marshal(&a),
			})
		}
		out.Publish(step.Message{Topic: topics.Activity, Key: device, Type: topics.TypeMerged, Kind: "merged", Subject: device, Value: marshal(&profilev1.Merged{
			AnonymousProfileId: device, ProfileId: user, EventTimeMs: e.EventTimeMs,
		})})
	}
	d.User, d.Anonymous = e.UserId, nil
}

// visit counts the event in the device's visit, which it may open.
func (f Fold) visit(d *Device, e *eventv1.Event, key string, now step.Instant, out *step.Effects) {
	item := ""
	switch e.Kind {
	case eventv1.Kind_KIND_PRODUCT_VIEWED, eventv1.Kind_KIND_PRODUCT_CLICKED, eventv1.Kind_KIND_PRODUCT_ADDED:
		if len(e.Lines) > 0 {
			item = e.Lines[0].ProductId
		}
	}
	visit, closed := f.window.Add(d.Visit, item, e.EventTimeMs)
	if closed != nil {
		f.ended(d, closed, key, out)
	}
	if visit.Opened != d.Visit.Opened || !d.Visit.Open() {
		d.Counts = Counts{}
		d.SessionID = e.SessionId
		if d.SessionID == "" {
			d.SessionID = identity.DeviceProfileID(f.secret, e.Shop, key+"@"+strconv.FormatInt(visit.Opened, 10))[:16]
		}
	}
	d.Visit = visit
	c := &d.Counts
	switch e.Kind {
	case eventv1.Kind_KIND_PAGE_VIEWED:
		c.Pages++
	case eventv1.Kind_KIND_PRODUCT_VIEWED:
		c.Products++
	case eventv1.Kind_KIND_PRODUCTS_SEARCHED:
		c.Searches++
	case eventv1.Kind_KIND_PRODUCT_ADDED:
		c.CartAdds++
	case eventv1.Kind_KIND_ORDER_COMPLETED:
		c.Orders++
	}
	out.WakeAt(max(step.FromMillis(f.window.Due(visit)), now))
}

// ended publishes a finished visit.
func (f Fold) ended(d *Device, v *session.Visit, key string, out *step.Effects) {
	id := identity.Who(f.secret, out.Key().Shop, "", d.User, key)
	c := d.Counts
	out.Publish(step.Message{
		Topic: topics.Activity, Key: id, Type: topics.TypeActivity, Kind: "session-ended", Subject: id, EventTime: v.Last,
		Value: marshal(&profilev1.Activity{
			ProfileId: id, Known: d.User != "", Kind: eventv1.Kind_KIND_SESSION_ENDED, EventTimeMs: v.Last, SessionId: d.SessionID,
			Session: &profilev1.Session{StartedMs: v.Start, EndedMs: v.Last, Pages: c.Pages, Products: c.Products, Searches: c.Searches, CartAdds: c.CartAdds, Orders: c.Orders},
		}),
	})
}

// Wake ends the visit.
func (f Fold) Wake(d *Device, key step.Key, _ step.Instant, out *step.Effects) {
	if !d.Visit.Open() {
		return
	}
	f.ended(d, &d.Visit, key.String(), out)
	items := d.Visit.Items
	d.Visit, d.Counts, d.SessionID = session.Visit{Items: items}, Counts{}, ""
}

// supply tells each product of an order of it.
func (f Fold) supply(e *eventv1.Event, out *step.Effects) {
	first := max(e.Order.Part, 1) - 1
	for i, l := range e.Lines {
		if l.Charge || l.ProductId == "" || l.Quantity == 0 {
			continue
		}
		n := first<<16 | uint32(i)
		out.Publish(step.Message{
			Topic: topics.Supply, Key: l.ProductId, Type: topics.TypeSupply, Kind: "supply." + strconv.Itoa(int(n)), Subject: l.ProductId,
			Value: marshal(&profilev1.Supply{
				ProductId: l.ProductId, Kind: e.Kind, EventTimeMs: e.EventTimeMs, Units: l.Quantity, Price: l.Price,
				OrderId: e.Order.OrderId, Line: n, Version: e.Order.Version, Category: l.Category, Name: l.Name,
			}),
		})
	}
}
