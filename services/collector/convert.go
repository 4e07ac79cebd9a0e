package collector

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sillage-io/sillage/libs/domain/commerce"
	eventv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/event/v1"
)

// batch is the body of a batch call. The slices share the body's memory.
type batch struct {
	items    [][]byte
	has      bool // an array called batch
	sentAt   text
	writeKey text
	context  []byte
}

// readBatch reads the body of a call, which is valid JSON; it tells whether
// that is an object.
func readBatch(data []byte) (b batch, ok bool) {
	ok = members(data, func(key, v []byte) {
		switch string(key) {
		case "batch":
			b.items = nil // of two members of one name the last counts
			b.has = elements(v, func(v []byte) { b.items = append(b.items, v) })
		case "sentAt":
			b.sentAt = textOf(v)
		case "writeKey":
			b.writeKey = textOf(v)
		case "context":
			b.context = v
		}
	})
	return b, ok
}

// item is one call of the Segment API. The slices share the body's memory.
type item struct {
	kind, event, name, messageID         text // kind: of call
	anonymousID, userID                  text
	timestamp, originalTimestamp, sentAt text
	properties, context                  []byte
}

// readItem reads an item, which is valid JSON; it tells whether that is an
// object.
func readItem(raw []byte) (it item, ok bool) {
	ok = members(raw, func(key, v []byte) {
		switch string(key) {
		case "type":
			it.kind = textOf(v)
		case "event":
			it.event = textOf(v)
		case "name":
			it.name = textOf(v)
		case "messageId":
			it.messageID = textOf(v)
		case "anonymousId":
			it.anonymousID = textOf(v)
		case "userId":
			it.userID = textOf(v)
		case "timestamp":
			it.timestamp = textOf(v)
		case "originalTimestamp":
			it.originalTimestamp = textOf(v)
		case "sentAt":
			it.sentAt = textOf(v)
		case "properties":
			it.properties = v
		case "context":
			it.context = v
		}
	})
	return it, ok
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

// product is a product as the e-commerce specification writes it.
type product struct {
	productID, id, sku, name, category, brand, price, quantity text
	charge                                                     bool
}

func (p *product) member(key, v []byte) {
	switch string(key) {
	case "product_id":
		p.productID = textOf(v)
	case "id": // of the first e-commerce specification, as the Go clients still write it
		p.id = textOf(v)
	case "sku":
		p.sku = textOf(v)
	case "name":
		p.name = textOf(v)
	case "category":
		p.category = textOf(v)
	case "brand":
		p.brand = textOf(v)
	case "price":
		p.price = textOf(v)
	case "quantity":
		p.quantity = textOf(v)
	case "charge":
		p.charge = string(v) == "true"
	}
}

// properties are those that something is done with.
type properties struct {
	product
	products                           []product
	currency                           text
	orderID, total, revenue, value     text
	version, part, parts               text
	query, campaignID, path, url       text
	level, units, purchaseOrderID, due text
	packSize, minimumOrder             text
	inactive                           bool
}

// readProperties reads what it can; the error says what it could not.
func readProperties(raw []byte) (p properties, err error) {
	object := members(raw, func(key, v []byte) {
		switch string(key) {
		case "products":
			p.products = nil
			list := elements(v, func(v []byte) {
				var q product
				if !members(v, q.member) {
					err = fmt.Errorf("products[%d]: not an object", len(p.products))
				}
				if q.productID == "" {
					q.productID = q.id
				}
				p.products = append(p.products, q)
			})
			if !list && string(v) != "null" {
				err = errors.New("products: not a list")
			}
		case "currency":
			p.currency = textOf(v)
		case "order_id", "orderId": // the second by the Go clients
			p.orderID = textOf(v)
		case "total":
			p.total = textOf(v)
		case "revenue":
			p.revenue = textOf(v)
		case "value":
			p.value = textOf(v)
		case "version":
			p.version = textOf(v)
		case "part":
			p.part = textOf(v)
		case "parts":
			p.parts = textOf(v)
		case "query":
			p.query = textOf(v)
		case "campaign_id":
			p.campaignID = textOf(v)
		case "path":
			p.path = textOf(v)
		case "url":
			p.url = textOf(v)
		case "level":
			p.level = textOf(v)
		case "units":
			p.units = textOf(v)
		case "purchase_order_id":
			p.purchaseOrderID = textOf(v)
		case "due":
			p.due = textOf(v)
		case "pack_size":
			p.packSize = textOf(v)
		case "minimum_order":
			p.minimumOrder = textOf(v)
		case "active":
			p.inactive = string(v) == "false"
		default:
			p.member(key, v)
		}
	})
	if !object && len(raw) > 0 && string(raw) != "null" {
		return p, errors.New("properties: not an object")
	}
	return p, err
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

// facts are the events of servers that the specification does not know, by
// their names without case, spaces, underscores and hyphens.
var facts = map[string]eventv1.Kind{
	"stocklevelchanged":   eventv1.Kind_KIND_STOCK_LEVEL,
	"stockadjusted":       eventv1.Kind_KIND_STOCK_ADJUSTED,
	"purchaseorderplaced": eventv1.Kind_KIND_PURCHASE_ORDERED,
	"purchaseordered":     eventv1.Kind_KIND_PURCHASE_ORDERED,
	"goodsreceived":       eventv1.Kind_KIND_GOODS_RECEIVED,
	"productupdated":      eventv1.Kind_KIND_CATALOG_CHANGED,
	"catalogupdated":      eventv1.Kind_KIND_CATALOG_CHANGED,
	"signedout":           eventv1.Kind_KIND_SIGNED_OUT,
}

// folding drops what does not distinguish names, as commerce.LookupEvent does.
var folding = strings.NewReplacer(" ", "", "_", "", "-", "")

func kindOf(it *item) (eventv1.Kind, error) {
	switch it.kind {
	case "track":
		if it.event == "" || it.event == noText {
			return 0, errors.New("event: a track call names its event")
		}
		if k, ok := kinds[commerce.LookupEvent(string(it.event))]; ok {
			return k, nil
		}
		if len(it.event) <= maxName {
			if k, ok := facts[strings.ToLower(folding.Replace(string(it.event)))]; ok {
				return k, nil
			}
		}
		return eventv1.Kind_KIND_OTHER, nil
	case "page", "screen":
		return eventv1.Kind_KIND_PAGE_VIEWED, nil
	case "identify":
		return eventv1.Kind_KIND_IDENTIFY, nil
	case "group", "alias":
		return eventv1.Kind_KIND_OTHER, nil
	case "", noText:
		return 0, errors.New("type: missing")
	}
	return 0, fmt.Errorf("type: %q is none of track, identify, page, screen, group, alias", clip(string(it.kind)))
}

// isOrder are the kinds that are about an order.
func isOrder(k eventv1.Kind) bool {
	switch k {
	case eventv1.Kind_KIND_ORDER_COMPLETED, eventv1.Kind_KIND_ORDER_REFUNDED, eventv1.Kind_KIND_ORDER_CANCELLED:
		return true
	}
	return false
}

// ofServers are the kinds that only a secret key may report.
func ofServers(k eventv1.Kind) bool { return isOrder(k) || ofProduct(k) }

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
func when(it *item, sentAt text, kind KeyKind, now time.Time, e *eventv1.Event) error {
	said := it.timestamp
	if said == "" {
		said = it.originalTimestamp
	}
	at := now
	if said != "" {
		t, err := time.Parse(time.RFC3339Nano, string(said))
		if err != nil {
			return fmt.Errorf("timestamp: %q is not ISO 8601", clip(said.orEmpty()))
		}
		if t.Year() < 1971 || t.Year() > 9999 {
			return fmt.Errorf("timestamp: %s is no time an event can have", clip(string(said)))
		}
		at = t
		e.OriginalTimeMs = t.UnixMilli()
		if it.sentAt != "" {
			sentAt = it.sentAt
		}
		if kind == Public && sentAt != "" {
			if sent, err := time.Parse(time.RFC3339Nano, string(sentAt)); err == nil {
				if skew := sent.Sub(now); skew.Abs() > correctAbove && skew.Abs() < 20*365*24*time.Hour {
					e.ClockSkewMs = skew.Milliseconds()
					at = at.Add(-skew)
				}
			}
		}
	}
	if kind == Public && now.Sub(at) > oldest {
		return fmt.Errorf("timestamp: %s is older than 30 days; older events need a secret key or an import", clip(string(said)))
	}
	if at.After(now) {
		at = now // event time never lies behind the append: ahead or not, it counts as now
	}
	e.EventTimeMs, e.ReceivedAtMs = at.UnixMilli(), now.UnixMilli()
	return nil
}

// Longest name of an event and longest message id, in bytes.
const (
	maxName      = 200
	maxMessageID = 200
)

// convert makes the event that an item tells. Of orders, stock and catalogue
// everything has to be right, because decisions are made of them; of what a
// visitor does, a price or a product that cannot be read is left out, for the
// visit is worth more than the field (all of it stays in properties_json).
func convert(it *item, key Key, e *eventv1.Event) error {
	kind, err := kindOf(it)
	if err != nil {
		return err
	}
	if ofServers(kind) && key.Kind == Public {
		return fmt.Errorf("event: %q needs a secret key", clip(string(it.event)))
	}
	e.Kind, e.Name = kind, string(it.event)
	if it.kind != "track" {
		e.Name = it.name.orEmpty()
	}
	if len(e.Name) > maxName {
		return fmt.Errorf("event: a name longer than %d bytes", maxName)
	}
	if it.messageID == noText || len(it.messageID) > maxMessageID {
		return fmt.Errorf("messageId: a text of up to %d bytes is needed", maxMessageID)
	}
	e.MessageId = string(it.messageID)
	who := reader{strict: true}
	e.AnonymousId, e.UserId = who.id("anonymousId", it.anonymousID), who.id("userId", it.userID)
	if len(who.errs) > 0 {
		return errors.Join(who.errs...)
	}
	if kind == eventv1.Kind_KIND_OTHER || kind == eventv1.Kind_KIND_IDENTIFY || kind == eventv1.Kind_KIND_SIGNED_OUT {
		return nil // nothing is done with their properties, whatever they are
	}
	p, err := readProperties(it.properties)
	r := reader{strict: ofServers(kind)}
	r.note(err)
	if p.currency != "" {
		c, err := commerce.Currency(string(p.currency))
		r.note(err)
		r.currency = c
	}
	switch {
	case ofProduct(kind):
		r.note(fact(&r, kind, &p, e))
	case isOrder(kind):
		order(&r, &p, e)
	default:
		if p.productID != "" || p.sku != "" {
			r.line(e, "", &p.product)
		}
		for i := range p.products {
			r.line(e, "products["+strconv.Itoa(i)+"].", &p.products[i])
		}
		e.Text = first(p.query, p.campaignID, p.path, p.url).orEmpty()
	}
	return errors.Join(r.errs...)
}

// reader reads fields and collects what is wrong with them: where it is strict.
type reader struct {
	strict   bool
	currency string
	errs     []error
}

func (r *reader) note(err error) {
	if err != nil && r.strict {
		r.errs = append(r.errs, err)
	}
}

func (r *reader) id(what string, v text) string {
	s, err := id(what, v)
	r.note(err)
	return s
}

// money reads an amount; nil where there is none.
func (r *reader) money(what string, v text) *eventv1.Money {
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
		r.note(fmt.Errorf("%s: %w", what, err))
		return nil
	}
	return &eventv1.Money{Currency: r.currency, Micros: micros}
}

// count reads a whole number that is not negative; 0 where there is none.
func (r *reader) count(what string, v text) uint32 {
	if v == "" {
		return 0
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f != math.Trunc(f) || f < 0 || f > math.MaxUint32 {
		r.note(fmt.Errorf("%s: %q is not a whole number from 0 to %d", what, clip(v.orEmpty()), uint32(math.MaxUint32)))
		return 0
	}
	return uint32(f)
}

// line appends a product to the event's lines; one without an id is left out.
func (r *reader) line(e *eventv1.Event, what string, p *product) {
	l := &eventv1.Line{
		ProductId: r.id(what+"product_id", first(p.productID, p.sku)), Name: p.name.orEmpty(), Category: p.category.orEmpty(), Brand: p.brand.orEmpty(),
		Quantity: 1, Price: r.money(what+"price", p.price), Charge: p.charge,
	}
	if p.quantity != "" {
		n, err := whole(p.quantity)
		if err == nil {
			l.Quantity = n
		} else {
			r.note(fmt.Errorf("%squantity: %w", what, err))
		}
	}
	if l.ProductId != "" || l.Charge {
		e.Lines = append(e.Lines, l)
	}
}

// order converts an order, a refund or a cancellation.
func order(r *reader, p *properties, e *eventv1.Event) {
	for i := range p.products {
		r.line(e, "products["+strconv.Itoa(i)+"].", &p.products[i])
	}
	for _, l := range e.Lines {
		if l.Quantity < 0 {
			r.note(errors.New("products: a negative quantity is a refund or a stock adjustment, not a sale"))
			break
		}
	}
	e.Order = &eventv1.Order{
		OrderId: r.id("order_id", p.orderID), Total: r.money("total", first(p.total, p.revenue, p.value)),
		Version: r.count("version", p.version), Part: r.count("part", p.part), Parts: r.count("parts", p.parts),
	}
	if e.Order.OrderId == "" {
		r.note(errors.New("order_id: missing"))
	}
	if e.Order.Part > max(e.Order.Parts, 1) || (e.Order.Part == 0 && e.Order.Parts > 1) {
		r.note(fmt.Errorf("part: %d of %d", e.Order.Part, e.Order.Parts))
	}
}

// fact converts a fact about one product.
func fact(r *reader, kind eventv1.Kind, p *properties, e *eventv1.Event) error {
	if kind == eventv1.Kind_KIND_CATALOG_CHANGED {
		p.quantity = "0"
		if p.inactive {
			p.quantity = "-1"
		}
		r.line(e, "", &p.product)
		if len(e.Lines) == 0 || e.Lines[0].ProductId == "" {
			return errors.New("product_id: missing")
		}
		return nil
	}
	s := &eventv1.Stock{
		ProductId: r.id("product_id", first(p.productID, p.sku)), PurchaseOrderId: r.id("purchase_order_id", p.purchaseOrderID),
		PackSize: r.count("pack_size", p.packSize), MinimumOrder: r.count("minimum_order", p.minimumOrder),
	}
	e.Stock = s
	var errs []error
	if s.ProductId == "" {
		errs = append(errs, errors.New("product_id: missing"))
	}
	units, err := whole(first(p.units, p.level, p.quantity))
	if err != nil {
		errs = append(errs, fmt.Errorf("units: %w", err))
	}
	if units < 0 && kind == eventv1.Kind_KIND_GOODS_RECEIVED {
		errs = append(errs, fmt.Errorf("units: %d received", units))
	}
	s.Units = units
	if p.due != "" {
		due, err := time.Parse(time.RFC3339Nano, string(p.due))
		if err != nil {
			errs = append(errs, fmt.Errorf("due: %q is not ISO 8601", clip(p.due.orEmpty())))
		} else {
			s.DueMs = due.UnixMilli()
		}
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
			return 0, fmt.Errorf("%q is not a whole number", clip(t.orEmpty()))
		}
		n = int64(f)
	}
	if n > maxUnits || n < -maxUnits {
		return 0, fmt.Errorf("%d is out of range", n)
	}
	return n, nil
}

// surroundings are what is kept of an item's context.
type surroundings struct {
	json    []byte // whole but for the address, which is truncated, and traits, which are nobody's business here
	consent *eventv1.Consent
	agent   string // User-Agent
}

// read reads a context. Where it cannot be read, nothing is known of it.
func read(context []byte, privacyControl bool) surroundings {
	var s surroundings
	var consent []byte
	personal := false
	if members(context, func(key, v []byte) {
		switch {
		case string(key) == "userAgent":
			s.agent = textOf(v).orEmpty()
		case string(key) == "consent":
			consent = v
		case isPersonal(key):
			personal = true
		}
	}) {
		s.json = context
	}
	if personal {
		s.json = redacted(context)
	}
	s.consent = consentOf(consent, privacyControl)
	return s
}

// isPersonal tells what of a context is not kept as it is. Decoders take keys
// that differ in case only for one, so they are one here.
func isPersonal(key []byte) bool {
	return strings.EqualFold(string(key), "ip") || strings.EqualFold(string(key), "traits")
}

// redacted is a context without traits and with the network of the address
// only.
func redacted(context []byte) []byte {
	out := []byte{'{'}
	add := func(key, v []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		quoted, err := json.Marshal(string(key))
		if err != nil {
			return // text always can be quoted
		}
		out = append(append(append(out, quoted...), ':'), v...)
	}
	members(context, func(key, v []byte) {
		if !isPersonal(key) {
			add(key, v)
		} else if network := networkOf(textOf(v)); network != "" && strings.EqualFold(string(key), "ip") {
			add([]byte("ip"), []byte(strconv.Quote(network)))
		}
	})
	return append(out, '}')
}

// networkOf truncates an address: to 24 bits, or to 48 where it has 128. What
// is no address is left out.
func networkOf(ip text) string {
	addr, err := netip.ParseAddr(string(ip))
	if err != nil {
		return ""
	}
	addr = addr.Unmap().WithZone("")
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return ""
	}
	return network.Addr().String()
}

// merged is an item's context with what the batch's says beyond it.
func merged(item, batch []byte) []byte {
	if len(batch) == 0 || batch[0] != '{' {
		return item
	}
	if len(item) == 0 || item[0] != '{' {
		return batch
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(batch, &all) != nil || json.Unmarshal(item, &all) != nil {
		return item
	}
	data, err := json.Marshal(all)
	if err != nil {
		return item
	}
	return data
}

// isBot tells whether a User-Agent says that it is a crawler. It is about what
// says so itself; who hides is not found here.
func isBot(agent string) bool {
	a := strings.ToLower(agent)
	if strings.Contains(a, "crawler") || strings.Contains(a, "spider") || strings.Contains(a, "slurp") {
		return true
	}
	for {
		before, after, found := strings.Cut(a, "bot")
		if !found {
			return false
		}
		// Googlebot/2.1, but neither "both" nor the phones of Cubot.
		if !strings.HasSuffix(before, "cu") && (after == "" || after[0] < 'a' || after[0] > 'z') {
			return true
		}
		a = after
	}
}

// consentOf reads what the visitor allows: Segment's consent object, and the
// Global Privacy Control header, which is an objection to marketing and
// personalisation.
func consentOf(object []byte, privacyControl bool) *eventv1.Consent {
	if len(object) == 0 && !privacyControl {
		return nil
	}
	consent := &eventv1.Consent{RefusesPersonalisation: privacyControl, RefusesMarketing: privacyControl}
	said := members(object, func(key, v []byte) {
		if string(key) != "categoryPreferences" {
			return
		}
		members(v, func(name, v []byte) {
			if string(v) == "true" { // what is neither yes nor no counts as no
				return
			}
			switch n := strings.ToLower(string(name)); {
			case strings.Contains(n, "analytic"), strings.Contains(n, "performance"):
				consent.RefusesAnalytics = true
			case strings.Contains(n, "personal"), strings.Contains(n, "functional"):
				consent.RefusesPersonalisation = true
			case strings.Contains(n, "market"), strings.Contains(n, "advert"), strings.Contains(n, "target"):
				consent.RefusesMarketing = true
			}
		})
	})
	if !said && !privacyControl {
		return nil
	}
	return consent
}
