package restock

import (
	"github.com/sillage-io/sillage/libs/domain/restock"
)

// Line is demand for a series in a period: a line of an order, or a row of a table.
type Line struct {
	Period, Series int32
	Units          int32
	Price          float32 // of a unit; 0: not known
	Deal, Feature  float32 // promotion, as the table says; 0: none
}

// Series is one product at one place.
type Series struct {
	ID    string
	Group uint16 // products whose prices act alike
	First int    // period of the first demand

	units  []float64 // by period, from First
	offers []restock.Offer
}

// History is the demand of a shop, cleaned, in the order of time.
type History struct {
	Period  float64     // length of a period in days
	First   restock.Day // of period 0: days since 1970 where a period is a day
	Periods int
	Series  []Series
	Lines   []Line         // by period
	Offers  bool           // prices are those asked, and not only those paid
	days    map[int32]bool // periods that rows name, while they are read
	Orders  bool           // lines are lines of orders, and not rows of a table
}

// add adds the sorted lines up.
func (h *History) add() {
	for i := range h.Series {
		h.Series[i].First = h.Periods
	}
	for _, l := range h.Lines {
		s := &h.Series[l.Series]
		if l.Units > 0 && int(l.Period) < s.First {
			s.First = int(l.Period)
		}
	}
	for i := range h.Series {
		s := &h.Series[i]
		s.units = make([]float64, h.Periods-s.First)
		if h.Offers {
			s.offers = make([]restock.Offer, len(s.units))
		}
	}
	for _, l := range h.Lines {
		if s := &h.Series[l.Series]; int(l.Period) >= s.First {
			s.units[int(l.Period)-s.First] += float64(l.Units)
			if h.Offers {
				s.offers[int(l.Period)-s.First] = l.offer()
			}
		}
	}
}

// sum is the demand of a series in [from, to).
func (s *Series) sum(from, to int) float64 {
	var sum float64
	for t := max(from-s.First, 0); t < min(to-s.First, len(s.units)); t++ {
		sum += s.units[t]
	}
	return sum
}

// at is the demand of a series in a period.
func (s *Series) at(t int) float64 {
	if t < s.First {
		return 0
	}
	return s.units[t-s.First]
}

// offer is what a row of a table says of how a product is offered.
func (l *Line) offer() restock.Offer {
	return restock.Offer{Price: float64(l.Price), Deal: float64(l.Deal), Feature: float64(l.Feature)}
}

// demanded is how many series have any demand.
func (h *History) demanded() (n int) {
	for i := range h.Series {
		if h.Series[i].First < h.Periods {
			n++
		}
	}
	return n
}
