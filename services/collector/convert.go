package collector

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/sillage-io/sillage/libs/domain/commerce"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// batch is the body of a batch call, or of a single one (one item at the top).
type batch struct {
	Batch    []json.RawMessage `json:"batch"`
	SentAt   string            `json:"sentAt"`
	WriteKey string            `json:"writeKey"`
	Context  json.RawMessage   `json:"context"`
}

// item is one call of the Segment API.
type item struct {
	Type              string          `json:"type"`
	Event             string          `json:"event"`
	Name              string          `json:"name"`
	MessageID         string          `json:"messageId"`
	AnonymousID       text            `json:"anonymousId"`
	UserID            text            `json:"userId"`
	Timestamp         string          `json:"timestamp"`
	OriginalTimestamp string          `json:"originalTimestamp"`
	SentAt            string          `json:"sentAt"`
	WriteKey          string          `json:"writeKey"`
	Properties        json.RawMessage `json:"properties"`
	Traits            json.RawMessage `json:"traits"`
	Context           json.RawMessage `json:"context"`
}

// text takes a string or a number: ids come as both.
type text string

// UnmarshalJSON reads a string, a number or null.
func (t *text) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) == 0 || string(b) == "null":
		*t = ""
	case b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = text(strings.TrimSpace(s))
	case b[0] == '-' || (b[0] >= '0' && b[0] <= '9'):
		*t = text(b)
	default:
		return fmt.Errorf("%s is neither text nor a number", clip(string(b)))
	}
	return nil
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

// product is a product as the e-commerce specification writes it.
type product struct {
	ProductID text `json:"product_id"`
	SKU       text `json:"sku"`
	Name      text `json:"name"`
	Category  text `json:"category"`
	Brand     text `json:"brand"`
	Price     text `json:"price"`
	Quantity  text `json:"quantity"`
	Charge    bool `json:"charge"`
}

// properties are those that something is done with.
type properties struct {
	product
	Currency        text      `json:"currency"`
	Products        []product `json:"products"`
	OrderID         text      `json:"order_id"`
	Total           text      `json:"total"`
	Revenue         text      `json:"revenue"`
	Value           text      `json:"value"`
	Version         text      `json:"version"`
	Part            uint32    `json:"part"`
	Parts           uint32    `json:"parts"`
	Query           text      `json:"query"`
	CampaignID      text      `json:"campaign_id"`
	Path            text      `json:"path"`
	URL             text      `json:"url"`
	Level           text      `json:"level"`
	Units           text      `json:"units"`
	PurchaseOrderID text      `json:"purchase_order_id"`
	Due             string    `json:"due"`
	PackSize        text      `json:"pack_size"`
	MinimumOrder    text      `json:"minimum_order"`
	Active          *bool     `json:"active"`
}

// kinds are the canonical events that something is done with.
var kinds = map[commerce.Event]eventv1.Kind{
	commerce.ProductsSearched:       eventv1.Kind_KIND_PRODUCTS_SEARCHED,
	commerce.ProductListViewed:      eventv1.Kind_KIND_PRODUCT_LIST_VIEWED,
	commerce.ProductListFiltered:    eventv1.Kind_KIND_PRODUCT_LIST_VIEWED,
	commerce.ProductClicked:         eventv1.Kind_KIND_PRODUCT_CLICKED,
	commerce.ProductViewed:          eventv1.Kind_KIND_PRODUCT_VIEWED,
	commerce.ProductAdded:           eventv1.Kind_KIND_PRODUCT_ADDED,
	commerce.ProductRemoved:         eventv1.Kind_KIND_PRODUCT_REMOVED,
	commerce.CartViewed:             eventv1.Kind_KIND_CART_VIEWED,
	commerce.CheckoutStarted:        eventv1.Kind_KIND_CHECKOUT_STARTED,
	commerce.ProductAddedToWishlist: eventv1.Kind_KIND_WISHLIST_ADDED,
	commerce.OrderCompleted:         eventv1.Kind_KIND_ORDER_COMPLETED,
	commerce.OrderUpdated:           eventv1.Kind_KIND_ORDER_COMPLETED, // with a higher version
	commerce.OrderRefunded:          eventv1.Kind_KIND_ORDER_REFUNDED,
	commerce.OrderCancelled:         eventv1.Kind_KIND_ORDER_CANCELLED,
	commerce.EmailDelivered:         eventv1.Kind_KIND_EMAIL_DELIVERED,
	commerce.EmailOpened:            eventv1.Kind_KIND_EMAIL_OPENED,
	commerce.EmailLinkClicked:       eventv1.Kind_KIND_EMAIL_CLICKED,
	commerce.EmailBounced:           eventv1.Kind_KIND_EMAIL_BOUNCED,
	commerce.EmailUnsubscribed:      eventv1.Kind_KIND_UNSUBSCRIBED,
	commerce.EmailMarkedAsSpam:      eventv1.Kind_KIND_UNSUBSCRIBED,
}

// facts are the events of servers that the specification does not know.
var facts = map[string]eventv1.Kind{
	"stock level changed":   eventv1.Kind_KIND_STOCK_LEVEL,
	"stock adjusted":        eventv1.Kind_KIND_STOCK_ADJUSTED,
	"purchase order placed": eventv1.Kind_KIND_PURCHASE_ORDERED,
	"goods received":        eventv1.Kind_KIND_GOODS_RECEIVED,
	"product updated":       eventv1.Kind_KIND_CATALOG_CHANGED,
	"signed out":            eventv1.Kind_KIND_SIGNED_OUT,
}

func kindOf(it *item) (eventv1.Kind, error) {
	switch it.Type {
	case "track":
		if it.Event == "" {
			return 0, errors.New("event: a track call names its event")
		}
		if k, ok := kinds[commerce.LookupEvent(it.Event)]; ok {
			return k, nil
		}
		if k, ok := facts[strings.ToLower(it.Event)]; ok {
			return k, nil
		}
		return eventv1.Kind_KIND_OTHER, nil
	case "page", "screen":
		return eventv1.Kind_KIND_PAGE_VIEWED, nil
	case "identify":
		return eventv1.Kind_KIND_IDENTIFY, nil
	case "group", "alias":
		return eventv1.Kind_KIND_OTHER, nil
	case "":
		return 0, errors.New("type: missing")
	}
	return 0, fmt.Errorf("type: %q is none of track, identify, page, screen, group, alias", clip(it.Type))
}

// ofServers are the kinds that only a secret key may report.
func ofServers(k eventv1.Kind) bool {
	switch k {
	case eventv1.Kind_KIND_ORDER_COMPLETED, eventv1.Kind_KIND_ORDER_REFUNDED, eventv1.Kind_KIND_ORDER_CANCELLED:
		return true
	}
	return ofProduct(k)
}

// ofProduct are the kinds that are about a product and nobody's doing.
func ofProduct(k eventv1.Kind) bool {
	switch k {
	case eventv1.Kind_KIND_STOCK_LEVEL, eventv1.Kind_KIND_STOCK_ADJUSTED, eventv1.Kind_KIND_PURCHASE_ORDERED, eventv1.Kind_KIND_GOODS_RECEIVED, eventv1.Kind_KIND_CATALOG_CHANGED:
		return true
	}
	return false
}

// id checks an id; what names nobody is empty.
func id(what string, v text) (string, error) {
	switch verdict := commerce.CheckID(string(v)); verdict {
	case commerce.IDGood:
		return string(v), nil
	case commerce.IDAbsent, commerce.IDPlaceholder:
		return "", nil
	default:
		return "", fmt.Errorf("%s: %s", what, verdict)
	}
}

// Time rules of the event model: a browser's clock is corrected where it is
// more than correctAbove off; what lies ahead counts as now; older than
// oldest is no public key's to tell.
const (
	correctAbove = time.Minute
	ahead        = 5 * time.Minute
	oldest       = 30 * 24 * time.Hour
)

// when believes a time: what the client says, corrected by how far its clock
// is off.
func when(it *item, sentAt string, kind KeyKind, now time.Time, e *eventv1.Event) error {
	said := it.Timestamp
	if said == "" {
		said = it.OriginalTimestamp
	}
	at := now
	if said != "" {
		t, err := time.Parse(time.RFC3339Nano, said)
		if err != nil {
			return fmt.Errorf("timestamp: %q is not ISO 8601", clip(said))
		}
		if t.Year() < 1971 || t.Year() > 9999 {
			return fmt.Errorf("timestamp: %s is no time an event can have", clip(said))
		}
		at = t
		e.OriginalTimeMs = t.UnixMilli()
		if it.SentAt != "" {
			sentAt = it.SentAt
		}
		if kind == Public && sentAt != "" {
			if sent, err := time.Parse(time.RFC3339Nano, sentAt); err == nil {
				if skew := sent.Sub(now); skew.Abs() > correctAbove && skew.Abs() < 20*365*24*time.Hour {
					e.ClockSkewMs = skew.Milliseconds()
					at = at.Add(-skew)
				}
			}
		}
	}
	if kind == Public && now.Sub(at) > oldest {
		return fmt.Errorf("timestamp: %s is older than 30 days; older events need a secret key or an import", clip(said))
	}
	if at.After(now) {
		at = now // event time never lies behind the append: ahead or not, it counts as now
	}
	e.EventTimeMs, e.ReceivedAtMs = at.UnixMilli(), now.UnixMilli()
	return nil
}

// convert makes the event that an item tells.
func convert(it *item, key Key, e *eventv1.Event) error {
	kind, err := kindOf(it)
	if err != nil {
		return err
	}
	if ofServers(kind) && key.Kind == Public {
		return fmt.Errorf("event: %q needs a secret key", clip(it.Event))
	}
	var errs []error
	check := func(what string, v text) string {
		s, err := id(what, v)
		errs = append(errs, err)
		return s
	}
	e.Kind, e.Name = kind, it.Event
	if it.Type != "track" {
		e.Name = it.Name
	}
	if len(e.Name) > 200 {
		return errors.New("event: longer than 200 bytes")
	}
	e.AnonymousId, e.UserId = check("anonymousId", it.AnonymousID), check("userId", it.UserID)
	e.MessageId = it.MessageID
	if len(e.MessageId) > 200 {
		return errors.New("messageId: longer than 200 bytes")
	}
	var p properties
	if len(it.Properties) > 0 && string(it.Properties) != "null" {
		if err := json.Unmarshal(it.Properties, &p); err != nil {
			return fmt.Errorf("properties: %w", err)
		}
	}
	currency := ""
	if p.Currency != "" {
		c, err := commerce.Currency(string(p.Currency))
		errs = append(errs, err)
		currency = c
	}
	money := func(what string, v text) *eventv1.Money {
		if v == "" {
			return nil
		}
		micros, err := commerce.ParseMicros(string(v))
		if err != nil {
			if f, ferr := strconv.ParseFloat(string(v), 64); ferr == nil {
				micros, err = commerce.MicrosOf(f) // 1e3 is a number, too
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			return nil
		}
		return &eventv1.Money{Currency: currency, Micros: micros}
	}
	line := func(what string, q *product) {
		name := q.ProductID
		if name == "" {
			name = q.SKU
		}
		l := &eventv1.Line{
			ProductId: check(what+"product_id", name), Name: string(q.Name), Category: string(q.Category), Brand: string(q.Brand),
			Price: money(what+"price", q.Price), Charge: q.Charge,
		}
		l.Quantity = 1
		if q.Quantity != "" {
			n, err := whole(q.Quantity)
			if err != nil {
				errs = append(errs, fmt.Errorf("%squantity: %w", what, err))
			}
			l.Quantity = n
		}
		if l.ProductId != "" || l.Charge {
			e.Lines = append(e.Lines, l)
		}
	}
	switch {
	case ofProduct(kind):
		errs = append(errs, product1(kind, &p, e, check, line))
	case kind == eventv1.Kind_KIND_ORDER_COMPLETED || kind == eventv1.Kind_KIND_ORDER_REFUNDED || kind == eventv1.Kind_KIND_ORDER_CANCELLED:
		for i := range p.Products {
			line("products["+strconv.Itoa(i)+"].", &p.Products[i])
		}
		for _, l := range e.Lines {
			if l.Quantity < 0 {
				errs = append(errs, errors.New("products: a negative quantity is a refund or a stock adjustment, not a sale"))
				break
			}
		}
		total := p.Total
		if total == "" {
			total = p.Revenue
		}
		if total == "" {
			total = p.Value
		}
		version, err := whole(p.Version)
		if p.Version == "" {
			version, err = 0, nil
		}
		if err != nil || version < 0 || version > math.MaxUint32 {
			errs = append(errs, fmt.Errorf("version: %q is not a whole number", clip(string(p.Version))))
		}
		e.Order = &eventv1.Order{OrderId: check("order_id", p.OrderID), Total: money("total", total), Version: uint32(version), Part: p.Part, Parts: p.Parts}
		if e.Order.OrderId == "" {
			errs = append(errs, errors.New("order_id: missing"))
		}
	default:
		if p.ProductID != "" || p.SKU != "" {
			line("", &p.product)
		}
		for i := range p.Products {
			line("products["+strconv.Itoa(i)+"].", &p.Products[i])
		}
		e.Text = string(first(p.Query, p.CampaignID, p.Path, p.URL))
	}
	return errors.Join(errs...)
}

// product1 converts a fact about one product.
func product1(kind eventv1.Kind, p *properties, e *eventv1.Event, check func(string, text) string, line func(string, *product)) error {
	name := first(p.ProductID, p.SKU)
	if kind == eventv1.Kind_KIND_CATALOG_CHANGED {
		p.Quantity = "0"
		if p.Active != nil && !*p.Active {
			p.Quantity = "-1"
		}
		line("", &p.product)
		if len(e.Lines) == 0 {
			return errors.New("product_id: missing")
		}
		return nil
	}
	s := &eventv1.Stock{ProductId: check("product_id", name), PurchaseOrderId: check("purchase_order_id", p.PurchaseOrderID)}
	e.Stock = s
	var errs []error
	if s.ProductId == "" {
		errs = append(errs, errors.New("product_id: missing"))
	}
	units, err := whole(first(p.Units, p.Level, p.Quantity))
	if err != nil {
		errs = append(errs, fmt.Errorf("units: %w", err))
	}
	if units < 0 && kind == eventv1.Kind_KIND_GOODS_RECEIVED {
		errs = append(errs, fmt.Errorf("units: %d received", units))
	}
	s.Units = units
	for _, f := range []struct {
		what string
		in   text
		out  *uint32
	}{{"pack_size", p.PackSize, &s.PackSize}, {"minimum_order", p.MinimumOrder, &s.MinimumOrder}} {
		if f.in == "" {
			continue
		}
		n, err := whole(f.in)
		if err != nil || n < 0 || n > math.MaxUint32 {
			errs = append(errs, fmt.Errorf("%s: %q is not a whole number", f.what, clip(string(f.in))))
		}
		*f.out = uint32(n)
	}
	if p.Due != "" {
		due, err := time.Parse(time.RFC3339Nano, p.Due)
		if err != nil {
			errs = append(errs, fmt.Errorf("due: %q is not ISO 8601", clip(p.Due)))
		}
		s.DueMs = due.UnixMilli()
	}
	return errors.Join(errs...)
}

func first(all ...text) text {
	for _, t := range all {
		if t != "" {
			return t
		}
	}
	return ""
}

// maxUnits is more than anybody sells, and far from overflow.
const maxUnits = 1_000_000_000

// whole reads a whole number of units, also where it is written 3.0.
func whole(t text) (int64, error) {
	if t == "" {
		return 0, errors.New("missing")
	}
	n, err := strconv.ParseInt(string(t), 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(string(t), 64)
		if ferr != nil || f != math.Trunc(f) || math.Abs(f) > maxUnits {
			return 0, fmt.Errorf("%q is not a whole number", clip(string(t)))
		}
		n = int64(f)
	}
	if n > maxUnits || n < -maxUnits {
		return 0, fmt.Errorf("%d is out of range", n)
	}
	return n, nil
}

// consentOf reads what the visitor allows: Segment's consent object, and the
// Global Privacy Control header, which is an objection to marketing and
// personalisation.
func consentOf(context json.RawMessage, privacyControl bool) *eventv1.Consent {
	var c struct {
		Consent *struct {
			Categories map[string]bool `json:"categoryPreferences"`
		} `json:"consent"`
	}
	if len(context) > 0 && json.Unmarshal(context, &c) != nil {
		c.Consent = nil
	}
	if c.Consent == nil && !privacyControl {
		return nil
	}
	consent := &eventv1.Consent{RefusesPersonalisation: privacyControl, RefusesMarketing: privacyControl}
	if c.Consent != nil {
		for name, allowed := range c.Consent.Categories {
			if allowed {
				continue
			}
			switch n := strings.ToLower(name); {
			case strings.Contains(n, "analytic"), strings.Contains(n, "performance"):
				consent.RefusesAnalytics = true
			case strings.Contains(n, "personal"), strings.Contains(n, "functional"):
				consent.RefusesPersonalisation = true
			case strings.Contains(n, "market"), strings.Contains(n, "advert"), strings.Contains(n, "target"):
				consent.RefusesMarketing = true
			}
		}
	}
	return consent
}
