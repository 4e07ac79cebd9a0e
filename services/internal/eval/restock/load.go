package restock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// Reasons why rows are not used.
const (
	rejectReturn   = "a return: what was wanted was wanted, and demand is never negative"
	rejectVoid     = "an order line and the credit note that took it back on the same day"
	rejectFree     = "no price: an adjustment, a sample or a loss"
	rejectCharge   = "a charge, not a product: its code does not begin with five digits as nearly all others do"
	rejectNegative = "negative units"
	rejectFar      = "a date far from all others"
	rejectHuge     = "more units than can be counted"
	rejectNothing  = "no units"
)

// maxCells bounds series times periods, which are held in memory.
const maxCells = 400e6

// maxGap is how many days without a row may lie inside a history. What is
// beyond such a gap and is less than a thousandth of the rows is a mistaken date.
const maxGap = 400

// ReadOrders reads lines of orders: a day is a period. Non-products, free lines and
// returns are left out; a line that is credited whole on its own day never was.
func ReadOrders(ctx context.Context, path string, o eval.Options) (*History, eval.Source, error) {
	const (
		date = iota
		product
		units
		price
		customer
		place
	)
	t, err := eval.Open(ctx, path, []eval.Column{
		date:     {Name: "date", Aliases: []string{"ts", "timestamp", "time", "datetime", "day", "order_date", "ordered_at", "invoice_date", "created_at", "purchase_date", "event_time"}, Kind: eval.Date},
		product:  {Name: "product", Aliases: []string{"stock_code", "sku", "product_id", "item_id", "item", "article", "article_id", "part", "product_code"}},
		units:    {Name: "units", Aliases: []string{"quantity", "qty", "unit_count", "pieces"}, Kind: eval.Number},
		price:    {Name: "price", Aliases: []string{"unit_price", "item_price"}, Kind: eval.Amount, Optional: true},
		customer: {Name: "customer", Aliases: []string{"customer_id", "user_id", "client_id", "cust_id", "household_id"}, Optional: true},
		place:    {Name: "location", Aliases: []string{"store", "store_id", "warehouse", "warehouse_id", "location_id"}, Optional: true},
	}, o)
	if err != nil {
		return nil, eval.Source{}, err
	}
	defer t.Close()
	type sale struct {
		series int32
		units  int64
		who    string
	}
	h := &History{Period: 1, Orders: true}
	ids := newNames(h)
	today, lines := restock.Day(math.MinInt32), map[sale][]int{}
	var voided int64
	for t.Next() {
		at, id := t.Time(date), t.Text(product)
		n := t.Number(units)
		var paid float64
		if t.Has(price) {
			paid = t.Amount(price)
		}
		who := t.Text(customer)
		if !t.Valid() {
			continue
		}
		switch {
		case n == 0:
			t.Reject(rejectNothing)
			continue
		case math.Abs(n) > maxUnits:
			t.Reject(rejectHuge)
			continue
		}
		day := dayOf(at, zone(o))
		series := ids.of(t.Text(place), id, "")
		if day != today {
			today = day
			clear(lines)
		}
		if n < 0 {
			key := sale{series, round(-n), who}
			if same := lines[key]; len(same) > 0 && who != "" {
				h.Lines[same[len(same)-1]].Units = 0
				lines[key] = same[:len(same)-1]
				voided++
				t.Reject(rejectVoid)
				continue
			}
			t.Reject(rejectReturn)
			continue
		}
		if t.Has(price) && !(paid > 0) {
			t.Reject(rejectFree)
			continue
		}
		key := sale{series, round(n), who}
		if who != "" {
			lines[key] = append(lines[key], len(h.Lines))
		}
		h.Lines = append(h.Lines, Line{Period: int32(day), Series: series, Units: int32(round(n)), Price: float32(paid)})
	}
	source, err := t.Finish()
	if err != nil {
		return nil, source, err
	}
	also(&source, rejectVoid, voided)
	also(&source, rejectCharge, h.dropCharges())
	return h.finished(path, &source)
}

// fiveDigits is how the codes of most shops' products begin, behind a place.
var fiveDigits = regexp.MustCompile(`^(.*/)?[0-9]{5}`)

// dropCharges leaves out what is no product, where nine lines of ten say how a
// product's code looks, and returns how many lines that were.
func (h *History) dropCharges() int64 {
	product := make([]bool, len(h.Series))
	for i, s := range h.Series {
		product[i] = fiveDigits.MatchString(s.ID)
	}
	like := 0
	for _, l := range h.Lines {
		if product[l.Series] {
			like++
		}
	}
	all := len(h.Lines)
	if float64(like) < .9*float64(all) {
		return 0
	}
	h.Lines = slices.DeleteFunc(h.Lines, func(l Line) bool { return !product[l.Series] })
	return int64(all - like)
}

// maxUnits bounds the units of a row.
const maxUnits = 1e9

// round is the nearest whole number of units, and at least 1 of any: fractions of a
// unit are demand, too.
func round(v float64) int64 { return max(1, int64(v+.5)) }

// dayOf is the local day of a time.
func dayOf(at time.Time, in *time.Location) restock.Day {
	y, m, d := at.In(in).Date()
	return restock.Day(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

// also counts rows that were found not to be used after they were read.
func also(s *eval.Source, reason string, rows int64) {
	if rows == 0 {
		return
	}
	for i := range s.Rejected {
		if s.Rejected[i].Reason == reason {
			s.Rejected[i].Rows += rows
			return
		}
	}
	s.Rejected = append(s.Rejected, eval.Rejection{Reason: reason, Rows: rows})
}

// names gives series their numbers.
type names struct {
	h      *History
	series map[[2]string]int32
	groups map[string]uint16
}

func newNames(h *History) *names {
	return &names{h: h, series: map[[2]string]int32{}, groups: map[string]uint16{}}
}

func (n *names) of(place, product, category string) int32 {
	key := [2]string{place, product}
	if i, ok := n.series[key]; ok {
		return i
	}
	i := int32(len(n.h.Series))
	n.series[key] = i
	id := product
	if place != "" {
		id = place + "/" + product
	}
	group, ok := n.groups[category]
	if !ok {
		group = uint16(len(n.groups))
		n.groups[category] = group
	}
	n.h.Series = append(n.h.Series, Series{ID: id, Group: group})
	return i
}

// finished cuts off dates that lie far from all others, numbers the periods from the
// first, and adds the lines up.
func (h *History) finished(path string, source *eval.Source) (*History, eval.Source, error) {
	slices.SortStableFunc(h.Lines, func(a, b Line) int { return int(a.Period) - int(b.Period) })
	all := len(h.Lines)
	h.Lines = h.withoutStrays()
	also(source, rejectFar, int64(all-len(h.Lines)))
	if !slices.ContainsFunc(h.Lines, func(l Line) bool { return l.Units > 0 }) {
		return nil, *source, fmt.Errorf("read %s: no demand in it: not one of its %d rows sells a unit", path, source.Rows)
	}
	first, last := h.Lines[0].Period, h.Lines[len(h.Lines)-1].Period
	days := slices.Sorted(maps.Keys(h.days)) // periods in which nothing was sold are part of it, too
	for _, d := range slices.Backward(days) {
		if d < first && first-d < int32(maxGap/h.Period) {
			first = d
		}
	}
	for _, d := range days {
		if d > last && d-last < int32(maxGap/h.Period) {
			last = d
		}
	}
	h.days = nil
	h.First += restock.Day(first)
	for i := range h.Lines {
		h.Lines[i].Period -= first
	}
	h.Periods = int(last-first) + 1
	if cells := float64(h.Periods) * float64(len(h.Series)); cells > maxCells {
		return nil, *source, fmt.Errorf("read %s: %d series of %d periods are more than fit into memory (%.0f million cells): split the file by product", path, len(h.Series), h.Periods, maxCells/1e6)
	}
	h.add()
	return h, *source, nil
}

// withoutStrays cuts off lines beyond a gap of more than maxGap days that are
// less than a thousandth of all.
func (h *History) withoutStrays() []Line {
	few := 1 + len(h.Lines)/1000
	gap := int32(maxGap / h.Period)
	from, to := 0, len(h.Lines)
	for i := 1; i < len(h.Lines); i++ {
		if h.Lines[i].Period-h.Lines[i-1].Period <= gap {
			continue
		}
		if i <= few {
			from = i
		} else if len(h.Lines)-i <= few {
			to = i
			break
		}
	}
	return h.Lines[from:to]
}

// columns of a table of demand.
const (
	colDate = iota
	colUnits
	colProduct
	colPlace
	colCategory
	colPrice
	colDeal
	colFeature
	colWeek
)

func tableColumns(byWeek bool) []eval.Column {
	c := []eval.Column{
		colDate:     {Name: "date", Aliases: []string{"day", "ds", "ts", "timestamp", "month", "week_start", "week_ending", "period"}, Kind: eval.Date, Optional: byWeek},
		colUnits:    {Name: "units", Aliases: []string{"demand", "quantity", "qty", "unit_sales", "units_sold", "sales", "sold", "y"}, Kind: eval.Number},
		colProduct:  {Name: "product", Aliases: []string{"item_id", "item", "sku", "product_id", "stock_code", "part", "part_id", "article", "article_id", "upc", "unique_id", "series", "brand"}, Optional: true},
		colPlace:    {Name: "location", Aliases: []string{"store_id", "store", "store_nbr", "shop", "warehouse", "warehouse_id", "site"}, Optional: true},
		colCategory: {Name: "category", Aliases: []string{"cat_id", "dept_id", "department", "family", "brand"}, Optional: true},
		colPrice:    {Name: "price", Aliases: []string{"sell_price", "unit_price", "price_per_oz", "price_per_unit"}, Kind: eval.Amount, Optional: true},
		colDeal:     {Name: "deal", Aliases: []string{"promo", "promotion", "onpromotion", "on_promotion", "discount"}, Kind: eval.Number, Optional: true},
		colFeature:  {Name: "feature", Aliases: []string{"feat", "featured", "leaflet"}, Kind: eval.Number, Optional: true},
	}
	if byWeek {
		c = append(c, eval.Column{Name: "week", Aliases: []string{"wk", "week_no", "week_id", "wm_yr_wk"}, Kind: eval.Number})
	}
	return c
}

// wideColumn is a column that is a period: d_17, w3, m_12, 2015-03-01, 1998-01.
var wideColumn = regexp.MustCompile(`^(?:([dwmDWM])_?(\d{1,5})|(\d{4}-\d{2}(?:-\d{2})?))$`)

// ReadDemand reads a table of demand: a row for each series and period, or a row for
// each series with a column for each period. Periods are days, weeks or months, as the
// dates or names of the columns say.
func ReadDemand(ctx context.Context, path string, o eval.Options) (*History, eval.Source, error) {
	header, err := eval.Header(path)
	if err != nil {
		return nil, eval.Source{}, err
	}
	wide, byWeek, dated := 0, o.Map["week"] != "", o.Map["date"] != ""
	for _, name := range header {
		if wideColumn.MatchString(strings.TrimSpace(name)) {
			wide++
		}
		switch eval.Normal(name) {
		case "week", "wk", "weekno", "weekid", "wmyrwk":
			byWeek = true
		case "date", "day", "ds", "ts", "timestamp", "month", "weekstart", "weekending", "period":
			dated = true
		}
	}
	if wide >= 8 && wide > len(header)/2 {
		return readWide(ctx, path, header, o)
	}
	return readLong(ctx, path, byWeek && !dated, o)
}

func readLong(ctx context.Context, path string, byWeek bool, o eval.Options) (*History, eval.Source, error) {
	t, err := eval.Open(ctx, path, tableColumns(byWeek), o)
	if err != nil {
		return nil, eval.Source{}, err
	}
	defer t.Close()
	h := &History{Period: 1, Offers: t.Has(colPrice) || t.Has(colDeal) || t.Has(colFeature), days: map[int32]bool{}}
	id := newNames(h)
	byPlace := t.Has(colPlace)
	for t.Next() {
		n := t.Number(colUnits)
		l := Line{}
		if byWeek {
			l.Period = int32(min(max(t.Number(colWeek), -1e6), 1e6))
		} else {
			l.Period = int32(dayOf(t.Time(colDate), zone(o)))
		}
		if t.Has(colPrice) {
			l.Price = float32(max(t.Amount(colPrice), 0))
		}
		l.Deal, l.Feature = float32(t.Number(colDeal)), float32(t.Number(colFeature))
		product, place, category := t.Text(colProduct), t.Text(colPlace), t.Text(colCategory)
		if !t.Valid() {
			continue
		}
		switch {
		case n < 0:
			t.Reject(rejectNegative)
			continue
		case n > maxUnits:
			t.Reject(rejectHuge)
			continue
		case n > 0:
			l.Units = int32(round(n))
		}
		// Prices act alike for a product at all places; at one place, in a category.
		if byPlace && category == "" {
			category = product
		}
		l.Series = id.of(place, product, category)
		h.days[l.Period] = true
		if l.Units > 0 || h.Offers {
			h.Lines = append(h.Lines, l)
		}
	}
	source, err := t.Finish()
	if err != nil {
		return nil, source, err
	}
	if byWeek {
		h.Period = 7
	} else {
		h.sumUp()
	}
	h.oneGroup(byPlace)
	return h.finished(path, &source)
}

// oneGroup puts all products into one group where there is but one place: a product
// alone says little of prices.
func (h *History) oneGroup(byPlace bool) {
	places := map[string]bool{}
	for _, s := range h.Series {
		place, _, _ := strings.Cut(s.ID, "/")
		places[place] = true
	}
	if byPlace && len(places) > 1 {
		return
	}
	for i := range h.Series {
		h.Series[i].Group = 0
	}
}

// sumUp tells the period from the distances between the days that occur, and
// renumbers the lines.
func (h *History) sumUp() {
	days := slices.Sorted(maps.Keys(h.days))
	if len(days) < 3 {
		return
	}
	gaps := make([]int32, len(days)-1)
	for i := range gaps {
		gaps[i] = days[i+1] - days[i]
	}
	slices.Sort(gaps)
	number := func(day int32) int32 { return day }
	switch typical := gaps[len(gaps)/2]; {
	case typical >= 28 && typical <= 31:
		h.Period = month
		number = func(day int32) int32 {
			at := time.Unix(int64(day)*86400, 0).UTC()
			return int32(at.Year()*12 + int(at.Month()) - 1)
		}
	case typical == 7:
		h.Period = 7
		number = func(day int32) int32 { return (day - days[0]%7) / 7 }
	}
	for i := range h.Lines {
		h.Lines[i].Period = number(h.Lines[i].Period)
	}
	clear(h.days)
	for _, d := range days {
		h.days[number(d)] = true
	}
}

// month is the mean length of a month in days.
const month = 365.2425 / 12

func zone(o eval.Options) *time.Location {
	if o.Location == nil {
		return time.UTC
	}
	return o.Location
}

// readWide reads a table with a column for each period.
func readWide(ctx context.Context, path string, header []string, o eval.Options) (*History, eval.Source, error) {
	cols := []eval.Column{
		{Name: "product", Aliases: []string{"item_id", "item", "sku", "product_id", "part", "id", "unique_id", "article"}, Optional: true},
		{Name: "location", Aliases: []string{"store_id", "store", "shop", "warehouse"}, Optional: true},
	}
	const first = 2
	h := &History{days: map[int32]bool{}}
	var at []int32
	for _, name := range header {
		name = strings.TrimSpace(name)
		m := wideColumn.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		if m[3] != "" {
			form := "2006-01-02"
			if len(m[3]) == 7 {
				form = "2006-01"
			}
			day, err := time.Parse(form, m[3])
			if err != nil {
				return nil, eval.Source{}, fmt.Errorf("read %s: column %q is no date: %w", path, name, err)
			}
			at = append(at, int32(day.Unix()/86400))
		} else {
			n, err := strconv.Atoi(m[2])
			if err != nil {
				return nil, eval.Source{}, fmt.Errorf("read %s: column %q: %w", path, name, err)
			}
			at = append(at, int32(n))
			switch strings.ToLower(m[1]) {
			case "d":
				h.Period = 1
			case "w":
				h.Period = 7
			default:
				h.Period = month
			}
		}
		cols = append(cols, eval.Column{Name: name, Kind: eval.Number, Optional: true})
	}
	if slices.Max(at)-slices.Min(at) > 40000 {
		return nil, eval.Source{}, errors.New("read " + path + ": its columns span more periods than can be: they must be of one kind, as d_1, d_2 and so on, or dates")
	}
	t, err := eval.Open(ctx, path, cols, o)
	if err != nil {
		return nil, eval.Source{}, err
	}
	defer t.Close()
	for _, p := range at {
		h.days[p] = true
	}
	id := newNames(h)
	for t.Next() {
		product, place := t.Text(0), t.Text(1)
		units := make([]float64, len(at))
		bad := false
		for i := range units {
			units[i] = t.Number(first + i)
			bad = bad || units[i] < 0 || units[i] > maxUnits
		}
		if !t.Valid() {
			continue
		}
		if bad {
			t.Reject(rejectNegative)
			continue
		}
		if product == "" {
			product = strconv.FormatInt(t.Line(), 10)
		}
		series := id.of(place, product, "")
		for i, n := range units {
			if n > 0 {
				h.Lines = append(h.Lines, Line{Period: at[i], Series: series, Units: int32(round(n))})
			}
		}
	}
	source, err := t.Finish()
	if err != nil {
		return nil, source, err
	}
	if h.Period == 0 {
		h.Period = 1
		h.sumUp()
	}
	return h.finished(path, &source)
}
