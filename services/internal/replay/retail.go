package replay

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"
)

// retail reads UCI Online Retail II: one line of an invoice a line of the
// file. Consecutive lines of an invoice are one order, at the first line's
// time; invoices that begin with C are refunds, with A bad debts (rejected);
// negative quantities elsewhere are stock adjustments; codes that do not begin
// with five digits are charges.
type retail struct {
	lines  *lineReader
	o      Options
	reject Reject
	at     map[string]int

	held    *row // first line of the next invoice
	ready   []Item
	named   map[string]bool // product and description that the catalogue has been told
	buyer   *buyer
	levels  []level
	scratch []row
	over    bool
}

// row is one line.
type row struct {
	n        int64
	at       time.Time
	invoice  string
	code     string
	name     string
	quantity int64
	price    string
	micros   int64
	customer string
}

func newRetail(lines *lineReader, o Options, reject Reject) (*retail, error) {
	at, err := header(lines, "ts", "invoice_no", "stock_code", "description", "quantity", "unit_price", "customer_id")
	if err != nil {
		return nil, err
	}
	r := &retail{lines: lines, o: o, reject: reject, at: at, named: map[string]bool{}}
	switch {
	case o.Stock == "simulate":
		r.buyer = newBuyer(o.Seed)
	case o.StockCSV != "":
		if r.levels, err = readLevels(o.StockCSV, o.Location); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// row reads the next good line.
func (r *retail) row() (*row, error) {
	for {
		line, n, err := r.lines.data()
		if err != nil {
			if errors.Is(err, errLong) {
				r.reject(n, err.Error())
				continue
			}
			return nil, err
		}
		f, err := columns(line)
		if err != nil {
			r.reject(n, err.Error())
			continue
		}
		get := func(name string) string {
			if i := r.at[name]; i < len(f) {
				return strings.TrimSpace(f[i])
			}
			return ""
		}
		v := &row{n: n, invoice: get("invoice_no"), code: get("stock_code"), name: get("description"), price: get("unit_price"), customer: strings.TrimSuffix(get("customer_id"), ".0")}
		if v.invoice == "" || v.code == "" {
			r.reject(n, "no invoice or stock code")
			continue
		}
		if v.invoice[0] == 'A' {
			r.reject(n, "bad debt, which is neither sale nor refund")
			continue
		}
		if v.at, err = parseTime(get("ts"), r.o.Location); err != nil {
			r.reject(n, "ts: "+err.Error())
			continue
		}
		if !r.o.within(v.at) {
			r.reject(n, outside)
			continue
		}
		if v.quantity, err = strconv.ParseInt(get("quantity"), 10, 64); err != nil || v.quantity == 0 {
			r.reject(n, fmt.Sprintf("quantity: %q is not a whole number other than 0", get("quantity")))
			continue
		}
		price, err := strconv.ParseFloat(v.price, 64)
		if err != nil || price < 0 {
			r.reject(n, fmt.Sprintf("unit_price: %q is not a price", v.price))
			continue
		}
		v.micros = int64(price*1e6 + .5)
		if !isProduct(v.code) && v.quantity < 0 && v.invoice[0] != 'C' {
			r.reject(n, "a charge taken back outside of a refund")
			continue
		}
		return v, nil
	}
}

// isProduct tells products from postage, fees and samples.
func isProduct(code string) bool {
	if len(code) < 5 {
		return false
	}
	for i := range 5 {
		if code[i] < '0' || code[i] > '9' {
			return false
		}
	}
	return true
}

func (r *retail) next() (Item, error) {
	for len(r.ready) == 0 {
		if r.over {
			return Item{}, io.EOF
		}
		if err := r.invoice(); err != nil {
			return Item{}, err
		}
	}
	item := r.ready[0]
	r.ready = r.ready[1:]
	return item, nil
}

// invoice reads one invoice, and makes what it tells ready.
func (r *retail) invoice() error {
	rows := r.scratch[:0]
	if r.held != nil {
		rows = append(rows, *r.held)
		r.held = nil
	}
	for {
		v, err := r.row()
		if errors.Is(err, io.EOF) {
			r.over = true
			break
		}
		if err != nil {
			return err
		}
		if len(rows) > 0 && v.invoice != rows[0].invoice {
			r.held = v
			break
		}
		rows = append(rows, *v)
	}
	r.scratch = rows
	if len(rows) == 0 {
		return nil
	}
	at := rows[0].at
	r.before(at, rows[0].n)
	var sold []row
	for _, v := range rows {
		if v.quantity < 0 && v.invoice[0] != 'C' {
			r.ready = append(r.ready, Item{Line: v.n, Lines: 1, At: v.at, Event: Event{
				Type: "track", Event: "Stock Adjusted", Properties: &Properties{ProductID: v.code, Units: strconv.FormatInt(v.quantity, 10)},
			}})
			r.buyer.adjusted(v.code, v.quantity)
			continue
		}
		sold = append(sold, v)
	}
	if len(sold) > 0 {
		r.order(sold)
	}
	return nil
}

// maxOrder keeps an event below the collector's 32 KiB.
const maxOrder = 28 << 10

// order makes an order or a refund ready, in parts where it is large.
func (r *retail) order(rows []row) {
	refund := rows[0].invoice[0] == 'C'
	name := "Order Completed"
	if refund {
		name = "Order Refunded"
	}
	var parts [][]row
	size := maxOrder
	var total int64
	for _, v := range rows {
		q := max(v.quantity, -v.quantity)
		total += q * v.micros
		if !refund {
			r.catalogue(v)
		}
		one := 90 + len(v.code) + len(v.price)
		if size+one > maxOrder {
			parts, size = append(parts, nil), 400
		}
		size += one
		parts[len(parts)-1] = append(parts[len(parts)-1], v)
	}
	for i, part := range parts {
		p := &Properties{OrderID: rows[0].invoice, Currency: "GBP", Total: micros(total)}
		if len(parts) > 1 {
			p.Part, p.Parts = uint32(i+1), uint32(len(parts))
		}
		for _, v := range part {
			q := max(v.quantity, -v.quantity)
			p.Products = append(p.Products, Product{ProductID: v.code, Price: v.price, Quantity: q, Charge: !isProduct(v.code)})
			switch {
			case !isProduct(v.code):
			case refund:
				r.buyer.adjusted(v.code, q)
			default:
				r.buyer.sold(v.code, q, v.at)
			}
		}
		r.ready = append(r.ready, Item{Line: part[0].n, Lines: uint32(len(part)), At: rows[0].at, Event: Event{
			Type: "track", Event: name, UserID: rows[0].customer, Properties: p,
		}})
	}
}

func micros(v int64) string {
	return fmt.Sprintf("%d.%06d", v/1_000_000, v%1_000_000)
}

// catalogue tells a product's name where it is new.
func (r *retail) catalogue(v row) {
	if !isProduct(v.code) || v.name == "" || v.micros == 0 || r.named[v.code+"|"+v.name] {
		return
	}
	r.named[v.code+"|"+v.name] = true
	r.ready = append(r.ready, Item{Line: v.n, At: v.at, Event: Event{
		Type: "track", Event: "Product Updated", Properties: &Properties{ProductID: v.code, Name: v.name, Price: v.price, Currency: "GBP"},
	}})
	if r.buyer.opens(v.code) {
		units := r.buyer.open(v.code, v.quantity)
		r.ready = append(r.ready, Item{Line: v.n, At: v.at, Event: Event{
			Type: "track", Event: "Stock Level Changed", Properties: &Properties{ProductID: v.code, Units: strconv.FormatInt(units, 10)},
		}})
	}
}

// before makes ready what the buyer did, or a file of levels says, up to a
// time.
func (r *retail) before(at time.Time, line int64) {
	for len(r.levels) > 0 && !r.levels[0].at.After(at) {
		l := r.levels[0]
		r.levels = r.levels[1:]
		r.ready = append(r.ready, Item{Line: line, At: l.at, Event: Event{
			Type: "track", Event: "Stock Level Changed", Properties: &Properties{ProductID: l.product, Units: strconv.FormatInt(l.units, 10)},
		}})
	}
	for _, d := range r.buyer.until(at) {
		p := &Properties{ProductID: d.product, Units: strconv.FormatInt(d.units, 10), PurchaseOrderID: d.order}
		name := "Goods Received"
		if !d.receipt {
			name = "Purchase Order Placed"
			p.Due = stamp(d.due)
		}
		r.ready = append(r.ready, Item{Line: line, At: d.at, Event: Event{Type: "track", Event: name, Properties: p}})
	}
}

// level is a line of a file of stock levels: ts, product_id, units.
type level struct {
	at      time.Time
	product string
	units   int64
}

func readLevels(name string, location *time.Location) ([]level, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open the stock levels: %w", err)
	}
	defer f.Close()
	lines := &lineReader{in: newBuffered(f)}
	at, err := header(lines, "ts", "product_id", "units")
	if err != nil {
		return nil, fmt.Errorf("stock levels %s: %w", name, err)
	}
	var all []level
	for {
		line, n, err := lines.data()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("stock levels %s, line %d: %w", name, n, err)
		}
		c, err := columns(line)
		if err != nil || len(c) <= max(at["ts"], at["product_id"], at["units"]) {
			return nil, fmt.Errorf("stock levels %s, line %d: not enough columns", name, n)
		}
		when, err := parseTime(c[at["ts"]], location)
		if err != nil {
			return nil, fmt.Errorf("stock levels %s, line %d: %w", name, n, err)
		}
		units, err := strconv.ParseInt(c[at["units"]], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("stock levels %s, line %d: units %q", name, n, c[at["units"]])
		}
		all = append(all, level{when, c[at["product_id"]], units})
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].at.Before(all[j].at) })
	return all, nil
}

// buyer is a plain buyer for a shop that tells no stock: at the first sale a
// product has some weeks of it; each Monday morning what has fallen below three
// weeks of recent sales is ordered up to six, and comes after five to fifteen
// days. It knows the file's past and a seed, and nothing of what Sillage says.
// A nil buyer buys nothing.
type buyer struct {
	random   *rand.Rand
	products map[string]*bought
	names    []string // in order of appearance
	review   time.Time
	due      []delivery // by time
	orders   int
}

type bought struct {
	onHand, onOrder int64
	weeks           [4]int64 // sales of the last weeks, this one first
}

type delivery struct {
	at, due time.Time
	product string
	order   string
	units   int64
	receipt bool
}

func newBuyer(seed uint64) *buyer {
	return &buyer{random: rand.New(rand.NewPCG(seed, 0x51)), products: map[string]*bought{}}
}

func (b *buyer) opens(code string) bool { return b != nil && b.products[code] == nil }

// open is the opening stock.
func (b *buyer) open(code string, first int64) int64 {
	units := 20 + 6*first + int64(b.random.IntN(40))
	b.products[code] = &bought{onHand: units}
	b.names = append(b.names, code)
	return units
}

func (b *buyer) sold(code string, units int64, _ time.Time) {
	if b == nil || b.products[code] == nil {
		return
	}
	p := b.products[code]
	p.onHand -= units
	p.weeks[0] += units
}

func (b *buyer) adjusted(code string, units int64) {
	if b != nil && b.products[code] != nil {
		b.products[code].onHand += units
	}
}

// until does what is due up to a time.
func (b *buyer) until(at time.Time) []delivery {
	if b == nil {
		return nil
	}
	if b.review.IsZero() {
		b.review = monday(at)
	}
	var done []delivery
	for {
		next := b.review
		if len(b.due) > 0 && b.due[0].at.Before(next) {
			next = b.due[0].at
		}
		if next.After(at) {
			return done
		}
		if len(b.due) > 0 && b.due[0].at.Equal(next) {
			d := b.due[0]
			b.due = b.due[1:]
			p := b.products[d.product]
			p.onHand, p.onOrder = p.onHand+d.units, p.onOrder-d.units
			done = append(done, d)
			continue
		}
		done = append(done, b.reviewed(next)...)
		b.review = next.AddDate(0, 0, 7)
	}
}

// monday is the first Monday, 06:00, after a time.
func monday(at time.Time) time.Time {
	d := time.Date(at.Year(), at.Month(), at.Day(), 6, 0, 0, 0, at.Location())
	for d.Weekday() != time.Monday || !d.After(at) {
		d = d.AddDate(0, 0, 1)
	}
	return d
}

func (b *buyer) reviewed(now time.Time) []delivery {
	var placed []delivery
	for _, code := range b.names {
		p := b.products[code]
		rate := float64(p.weeks[0]+p.weeks[1]+p.weeks[2]+p.weeks[3]) / 4
		position := float64(p.onHand + p.onOrder)
		if position < 3*rate || position < 0 {
			units := int64(6*rate-position) + 1
			b.orders++
			lead := time.Duration(5*24+b.random.IntN(10*24)) * time.Hour
			order := fmt.Sprintf("po-%d", b.orders)
			placed = append(placed, delivery{at: now, due: now.AddDate(0, 0, 10), product: code, order: order, units: units})
			b.due = append(b.due, delivery{at: now.Add(lead), product: code, order: order, units: units, receipt: true})
			p.onOrder += units
		}
		p.weeks = [4]int64{0, p.weeks[0], p.weeks[1], p.weeks[2]}
	}
	sort.SliceStable(b.due, func(i, j int) bool { return b.due[i].at.Before(b.due[j].at) })
	return placed
}
