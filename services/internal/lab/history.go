package lab

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"testing"
	"time"
)

// History writes a shop's history in the form of UCI Online Retail: customers
// with habits of their own, some of whom leave, and products that sell at
// different rates.
func History(t testing.TB, lines int) string {
	t.Helper()
	random := rand.New(rand.NewPCG(7, 11))
	var b bytes.Buffer
	b.WriteString("ts,invoice_no,stock_code,description,quantity,unit_price,customer_id,country\n")
	type order struct {
		at       time.Time
		customer int
	}
	var orders []order
	begin := time.Date(2020, 1, 1, 8, 0, 0, 0, time.UTC)
	for c := range lines / 60 {
		gap := 3 + random.ExpFloat64()*25
		at := begin.Add(time.Duration(random.Float64() * 200 * 24 * float64(time.Hour)))
		for at.Before(begin.AddDate(1, 0, 0)) {
			orders = append(orders, order{at.Truncate(time.Minute), c})
			if random.Float64() < .12 {
				break
			}
			at = at.Add(time.Duration((.2 + random.ExpFloat64()) * gap * 24 * float64(time.Hour)))
		}
	}
	sort.Slice(orders, func(i, j int) bool { return orders[i].at.Before(orders[j].at) })
	n := 0
	for i, o := range orders {
		for range 1 + random.IntN(8) {
			p := int(random.ExpFloat64() * 12)
			invoice, quantity := strconv.Itoa(500000+i), 1+random.IntN(6)
			if i%50 == 49 {
				invoice, quantity = "C"+invoice, -1
			}
			customer := strconv.Itoa(10000 + o.customer)
			if i%7 == 6 {
				customer = ""
			}
			fmt.Fprintf(&b, "%s,%s,%d,PRODUCT %d,%d,%d.%02d,%s,United Kingdom\n", o.at.Format("2006-01-02T15:04:05"), invoice, 20000+p, p, quantity, 1+p%9, p%100, customer)
			n++
		}
		if n >= lines {
			break
		}
	}
	name := filepath.Join(t.TempDir(), "history.csv")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
