package churn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sillage-io/sillage/services/internal/eval"
)

// Shop is a history of orders by customer. Days count from the day of the first
// order, which is day 0.
type Shop struct {
	First     time.Time // midnight UTC of the date of day 0
	Days      int       // of the last order
	Orders    int       // customer-days
	Customers []Customer
	Priced    bool // orders have amounts
}

// Customer is the days on which somebody ordered, ascending, and what was spent on
// each.
type Customer struct {
	ID    string
	Days  []int32
	Spend []float64
}

// Columns are those that [Read] looks for.
func Columns() []eval.Column {
	return []eval.Column{
		{Name: "date", Kind: eval.Date, Aliases: []string{"ts", "timestamp", "time", "datetime", "day", "order_date", "invoice_date", "purchase_date", "transaction_date", "created_at", "ordered_at", "order_purchase_timestamp"}},
		{Name: "customer", Aliases: []string{"customer_id", "cust", "cust_id", "client", "client_id", "user", "user_id", "member_id", "household_id", "customer_unique_id", "visitor_id", "buyer_id", "id"}},
		{Name: "amount", Kind: eval.Amount, Optional: true, Aliases: []string{"amount_usd", "amount_eur", "amount_gbp", "total", "order_total", "total_price", "spend", "sales", "sales_value", "revenue", "value", "net", "payment_value"}},
		{Name: "order", Optional: true, Aliases: []string{"order_id", "invoice", "invoice_no", "invoice_id", "basket_id", "transaction_id", "receipt_no"}},
		{Name: "quantity", Kind: eval.Number, Optional: true, Aliases: []string{"qty", "units"}},
		{Name: "price", Kind: eval.Amount, Optional: true, Aliases: []string{"unit_price", "item_price", "price_each"}},
	}
}

// Indices of Columns.
const (
	colDate = iota
	colCustomer
	colAmount
	colOrder
	colQuantity
	colPrice
)

// Rules says in words which rows count, for whoever reads the figures.
func Rules() []string {
	return []string{
		"All orders of a customer on one day are one transaction; the lines of an invoice are added up.",
		"Rows without a customer do not count.",
		"Order numbers that begin with C and hold digits otherwise are credit notes, with A bad debts: neither is an order, and neither takes one back.",
		"Where rows are invoice lines (a quantity and a price), those without a positive quantity and price do not count.",
		"Where rows have an amount, negative ones are refunds and do not count; 0 is an order.",
	}
}

// Read reads a file of orders or of invoice lines.
func Read(ctx context.Context, path string, o eval.Options) (*Shop, eval.Source, error) {
	t, err := eval.Open(ctx, path, Columns(), o)
	if err != nil {
		return nil, eval.Source{}, err
	}
	defer t.Close()
	loc := o.Location
	if loc == nil {
		loc = time.UTC
	}
	b := builder{index: map[string]int{}}
	b.shop.Priced = t.Has(colAmount) || t.Has(colQuantity) && t.Has(colPrice)
	for t.Next() {
		at, who := t.Time(colDate), strings.TrimSuffix(t.Text(colCustomer), ".0")
		if !t.Valid() {
			continue
		}
		if who == "" || strings.EqualFold(who, "nan") || strings.EqualFold(who, "null") || strings.EqualFold(who, "na") {
			t.Reject("no customer")
			continue
		}
		if t.Has(colOrder) {
			switch mark(t.Text(colOrder)) {
			case 'C':
				t.Reject("credit note")
				continue
			case 'A':
				t.Reject("bad debt")
				continue
			}
		}
		var value float64
		switch {
		case t.Has(colAmount):
			if value = t.Amount(colAmount); t.Valid() && value < 0 {
				t.Reject("refund: a negative amount")
				continue
			}
		case t.Has(colQuantity):
			value = t.Number(colQuantity)
			if t.Valid() && !t.Empty(colQuantity) && value <= 0 {
				t.Reject("no positive quantity")
				continue
			}
			if t.Has(colPrice) {
				price := t.Amount(colPrice)
				if t.Valid() && price <= 0 {
					t.Reject("no positive price")
					continue
				}
				value *= price
			}
		}
		if !t.Valid() {
			continue
		}
		y, m, d := at.In(loc).Date()
		b.add(who, time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix()/86400, value)
	}
	source, err := t.Finish()
	if err != nil {
		return nil, source, err
	}
	return b.finish(), source, nil
}

// mark tells credit notes and bad debts by the letter before a number.
func mark(order string) byte {
	if len(order) < 2 || order[0] != 'C' && order[0] != 'c' && order[0] != 'A' {
		return 0
	}
	for _, r := range order[1:] {
		if r < '0' || r > '9' {
			return 0
		}
	}
	if order[0] == 'c' {
		return 'C'
	}
	return order[0]
}

// builder collects orders in any order of time.
type builder struct {
	index map[string]int
	shop  Shop
	days  [][]dayOf
}

type dayOf struct {
	day   int64
	spend float64
}

func (b *builder) add(who string, day int64, spend float64) {
	i, ok := b.index[who]
	if !ok {
		i = len(b.days)
		who = strings.Clone(who)
		b.index[who] = i
		b.days = append(b.days, nil)
		b.shop.Customers = append(b.shop.Customers, Customer{ID: who})
	}
	if n := len(b.days[i]); n > 0 && b.days[i][n-1].day == day {
		b.days[i][n-1].spend += spend
		return
	}
	b.days[i] = append(b.days[i], dayOf{day, spend})
}

// finish sorts days, merges equal ones, and sorts customers by their name, so that
// the order of rows in a file changes nothing.
func (b *builder) finish() *Shop {
	first, last := int64(0), int64(0)
	for i, days := range b.days {
		slices.SortStableFunc(days, func(x, y dayOf) int { return cmp.Compare(x.day, y.day) })
		out := days[:0]
		for _, d := range days {
			if n := len(out); n > 0 && out[n-1].day == d.day {
				out[n-1].spend += d.spend
				continue
			}
			out = append(out, d)
		}
		b.days[i] = out
		if i == 0 || out[0].day < first {
			first = out[0].day
		}
		if i == 0 || out[len(out)-1].day > last {
			last = out[len(out)-1].day
		}
	}
	for i, days := range b.days {
		c := &b.shop.Customers[i]
		c.Days, c.Spend = make([]int32, len(days)), make([]float64, len(days))
		for j, d := range days {
			c.Days[j], c.Spend[j] = int32(d.day-first), d.spend
		}
		b.shop.Orders += len(days)
	}
	slices.SortFunc(b.shop.Customers, func(x, y Customer) int { return cmp.Compare(x.ID, y.ID) })
	b.shop.First, b.shop.Days = time.Unix(first*86400, 0).UTC(), int(last-first)
	return &b.shop
}

// Origin is the day that a flag names: a date, or a number of days after the first
// order of the file.
func (s *Shop) Origin(name string) (int, error) {
	if n, err := strconv.Atoi(name); err == nil && n < 100_000 {
		return n, nil
	}
	at, err := time.Parse(time.DateOnly, name)
	if err != nil {
		return 0, fmt.Errorf("origin %q is neither a date such as 2011-03-01 nor a day number such as 272", name)
	}
	return int((at.Unix() - s.First.Unix()) / 86400), nil
}

// Date is the date of a day.
func (s *Shop) Date(day int) string { return s.First.AddDate(0, 0, day).Format(time.DateOnly) }

// ErrOrigin is wrapped where labels cannot be known or nothing can be learnt.
var ErrOrigin = errors.New("nothing to score")

// check says what is wrong with an origin.
func (s *Shop) check(origin, horizon int) error {
	switch {
	case horizon < 1 || horizon > 3650:
		return fmt.Errorf("%w: a horizon of %d days is not inside [1, 3650]", ErrOrigin, horizon)
	case s.Days < horizon:
		return fmt.Errorf("%w: orders from %s to %s span %d days, and a horizon of %d days has to follow the origin", ErrOrigin, s.Date(0), s.Date(s.Days), s.Days, horizon)
	case origin < 0:
		return fmt.Errorf("%w: the origin, %s, is before the first order, %s", ErrOrigin, s.Date(origin), s.Date(0))
	case origin+horizon > s.Days:
		return fmt.Errorf("%w: who orders until %s is not known, the last order is of %s; the latest origin for %d days is %s (day %d)",
			ErrOrigin, s.Date(origin+horizon), s.Date(s.Days), horizon, s.Date(s.Days-horizon), s.Days-horizon)
	}
	return nil
}
