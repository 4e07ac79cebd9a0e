package simulator

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strconv"
	"time"

	"github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/services/collector"
)

// Product is one of the shop's products.
type Product struct {
	ID, Name, Category string
	Price              float64
	Popularity         float64 // relative
	Stock              int64   // units on hand, as the simulator counts
}

// Shop is the simulated shop.
type Shop struct {
	Products []Product
	random   *rand.Rand
	pending  []moment // of the past, still to come: goods on their way
	byGroup  [][]int  // product indices by category
	weights  []float64
}

var (
	categories = []string{"Tea", "Coffee", "Cups", "Kettles", "Candles", "Books", "Linen", "Garden"}
	adjectives = []string{"Quiet", "Amber", "Harbour", "Winter", "Cedar", "Copper", "Morning", "Velvet", "Linden", "Salt"}
	nouns      = map[string][]string{
		"Tea": {"Assam", "Sencha", "Rooibos"}, "Coffee": {"Espresso", "Filter", "Decaf"}, "Cups": {"Mug", "Bowl", "Tumbler"}, "Kettles": {"Kettle", "Teapot", "Press"},
		"Candles": {"Candle", "Lantern", "Taper"}, "Books": {"Atlas", "Notebook", "Almanac"}, "Linen": {"Towel", "Apron", "Throw"}, "Garden": {"Trowel", "Planter", "Twine"},
	}
)

// New makes the shop of a seed.
func New(seed uint64) *Shop {
	s := &Shop{random: rand.New(rand.NewPCG(seed, 0x5111a6e)), byGroup: make([][]int, len(categories))}
	for g, category := range categories {
		for i := range 10 {
			p := Product{
				ID: fmt.Sprintf("%s-%02d", category[:3], i+1), Name: adjectives[i] + " " + nouns[category][i%3], Category: category,
				Price: 4 + math.Round(s.random.Float64()*4000)/100, Popularity: 1 / math.Pow(float64(1+s.random.IntN(20)), .7),
			}
			s.byGroup[g] = append(s.byGroup[g], len(s.Products))
			s.Products = append(s.Products, p)
			s.weights = append(s.weights, p.Popularity)
		}
	}
	return s
}

// pick draws a product, of the same category as before with a probability.
func (s *Shop) pick(before int, loyal float64) int {
	if before >= 0 && s.random.Float64() < loyal {
		group := s.byGroup[before/10]
		return group[s.random.IntN(len(group))]
	}
	total := 0.0
	for _, w := range s.weights {
		total += w
	}
	at := s.random.Float64() * total
	for i, w := range s.weights {
		if at -= w; at < 0 {
			return i
		}
	}
	return len(s.weights) - 1
}

// call is a call of the Segment API.
type call struct {
	Type        string         `json:"type"`
	Event       string         `json:"event,omitempty"`
	MessageID   string         `json:"messageId"`
	AnonymousID string         `json:"anonymousId,omitempty"`
	UserID      string         `json:"userId,omitempty"`
	Timestamp   string         `json:"timestamp"`
	Properties  map[string]any `json:"properties,omitempty"`
}

// moment is a call at its time.
type moment struct {
	at   time.Time
	call call
}

// historyDays is how much of the past the shop has when it opens.
const historyDays = 120

// crossers is how many customers are about to be noticed as leaving, within
// the first hours.
const crossers = 400

// History is the shop's past up to now, as items of an import.
func (s *Shop) History(importID string, now time.Time) ([]collector.ImportItem, error) {
	begin := now.AddDate(0, 0, -historyDays)
	var all []moment
	for i := range s.Products {
		p := &s.Products[i]
		p.Stock = int64(40 + 120*p.Popularity)
		all = append(all,
			moment{begin, call{Type: "track", Event: "Product Updated", Properties: map[string]any{"product_id": p.ID, "name": p.Name, "category": p.Category, "price": p.Price, "currency": "EUR"}}},
			moment{begin, call{Type: "track", Event: "Stock Level Changed", Properties: map[string]any{"product_id": p.ID, "units": p.Stock}}})
	}
	type sale struct {
		at       time.Time
		customer string
	}
	var sales []sale
	for c := range 900 { // customers with habits; one in eight leaves after each order
		gap := 6 + s.random.ExpFloat64()*22
		at := begin.Add(time.Duration(s.random.Float64() * historyDays * .9 * 24 * float64(time.Hour)))
		for at.Before(now) {
			sales = append(sales, sale{at, fmt.Sprintf("customer-%04d", c)})
			if s.random.Float64() < .125 {
				break
			}
			at = at.Add(time.Duration((.3 + .7*s.random.ExpFloat64()) * gap * 24 * float64(time.Hour)))
		}
	}
	for c := range crossers {
		for _, at := range s.crossing(now, begin) {
			sales = append(sales, sale{at, fmt.Sprintf("regular-%04d", c)})
		}
	}
	sort.SliceStable(sales, func(i, j int) bool { return sales[i].at.Before(sales[j].at) })
	review := begin.Add(24 * time.Hour)
	for n, o := range sales {
		for !review.After(o.at) {
			all = append(all, s.reorder(review, "h")...)
			review = review.Add(24 * time.Hour)
		}
		all = append(all, moment{o.at, s.order("order-h"+strconv.Itoa(n), o.customer, "", 1+s.random.IntN(3))})
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].at.Before(all[j].at) })
	for len(all) > 0 && !all[len(all)-1].at.Before(now) {
		s.pending = append(s.pending, all[len(all)-1])
		all = all[:len(all)-1]
	}
	items := []collector.ImportItem{{Ordinal: 1, Mark: "begun", TimeUS: begin.UnixMicro(), Description: "history of the simulated shop"}}
	latest, ticked := int64(0), begin
	for i, m := range all {
		latest = max(latest, m.at.UnixMicro())
		if m.at.Sub(ticked) >= 24*time.Hour {
			ticked = ticked.Add(m.at.Sub(ticked).Truncate(24 * time.Hour))
			items = append(items, collector.ImportItem{Ordinal: int64(len(items) + 1), Mark: "tick", TimeUS: ticked.UnixMicro(), Line: int64(i)})
		}
		m.call.Timestamp, m.call.MessageID = m.at.UTC().Format(time.RFC3339Nano), fmt.Sprintf("%s-%08d", importID, i+1)
		data, err := json.Marshal(m.call)
		if err != nil {
			return nil, fmt.Errorf("encode an event: %w", err)
		}
		items = append(items, collector.ImportItem{Ordinal: int64(len(items) + 1), Line: int64(i + 1), Lines: 1, NotBeforeUS: latest, Event: data})
	}
	return append(items, collector.ImportItem{Ordinal: int64(len(items) + 1), Mark: "ended", TimeUS: now.UnixMicro(), Line: int64(len(all))}), nil
}

// crossing is the orders of a regular customer whose silence will be noticed
// within the next hours: found by asking the model itself.
func (s *Shop) crossing(now, begin time.Time) []time.Time {
	setting := churn.DefaultSetting()
	soon := s.random.Float64() // densest at the beginning
	due := now.Add(20*time.Second + time.Duration(soon*soon*3*float64(time.Hour)))
	for range 20 {
		gap, n := 2+s.random.Float64()*6, 2+s.random.IntN(6)
		var c churn.Customer
		first := begin.UnixMicro()
		var at []int64
		for i := range n {
			t := first + int64(float64(i)*gap*24*float64(time.Hour/time.Microsecond))
			at = append(at, t)
			c.Order(t, t, 20_000_000, "EUR", &setting)
		}
		last := at[n-1]
		wake, ok := last, true
		for range 50 { // a wake-up may come early: ask again until it raises
			if wake, ok = c.NextWake(wake, &setting); !ok {
				break
			}
			probe := c
			if _, raised := probe.Wake(wake, 0, &setting); raised {
				break
			}
			wake++
		}
		shift := due.UnixMicro() - wake
		if !ok || first+shift < begin.UnixMicro() || last+shift >= now.UnixMicro() {
			continue
		}
		orders := make([]time.Time, n)
		for i := range at {
			orders[i] = time.UnixMicro(at[i] + shift)
		}
		return orders
	}
	return nil
}

// order is a completed order of some products.
func (s *Shop) order(id, customer, device string, lines int) call {
	var products []map[string]any
	total, before := 0.0, -1
	for range lines {
		before = s.pick(before, .6)
		p := &s.Products[before]
		n := 1 + s.random.IntN(2)
		p.Stock -= int64(n)
		total += float64(n) * p.Price
		products = append(products, map[string]any{"product_id": p.ID, "name": p.Name, "category": p.Category, "price": p.Price, "quantity": n})
	}
	return call{Type: "track", Event: "Order Completed", UserID: customer, AnonymousID: device, Properties: map[string]any{
		"order_id": id, "total": math.Round(total*100) / 100, "currency": "EUR", "products": products,
	}}
}

// reorder is what the buyer does at a review: what is short comes at once.
func (s *Shop) reorder(at time.Time, where string) []moment {
	var all []moment
	for i := range s.Products {
		p := &s.Products[i]
		if float64(p.Stock) > 5+12*p.Popularity {
			continue
		}
		units := int64(40 + 120*p.Popularity)
		p.Stock += units
		order := fmt.Sprintf("po-%s-%d-%s", where, at.Unix(), p.ID)
		props := func() map[string]any {
			return map[string]any{"product_id": p.ID, "units": units, "purchase_order_id": order}
		}
		all = append(all, moment{at, call{Type: "track", Event: "Purchase Order Placed", Properties: props()}},
			moment{at.Add(5 * 24 * time.Hour), call{Type: "track", Event: "Goods Received", Properties: props()}})
	}
	return all
}
