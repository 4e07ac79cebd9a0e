package restock

// NextClose returns the close of a day of which something was told, and false where
// nobody wants to know: no stock is known, and nobody listens to what products tell. It
// is to be asked after every fact, in place of the dearer [Product.NextWake]: the day is
// closed soon after it is over, however many facts it brings, and what no close within
// reach would change is searched once, at that close.
//
// The instant is the local midnight after now and an offset in microseconds, as of
// NextWake.
func (p *Product) NextClose(now int64, offset int64, s *Setting) (int64, bool) {
	if !p.known || !p.stockKnown && s.Tell == nil {
		return 0, false
	}
	return max(now, s.Start(max(s.Day(now), p.open)+1)+offset), true
}

// NextTold returns when the product's open week ends, of which it is to tell even if
// nothing happens: a week without sales is evidence, too. False where nobody listens.
func (p *Product) NextTold(now int64, offset int64, s *Setting) (int64, bool) {
	if !p.known || s.Tell == nil {
		return 0, false
	}
	week := Day(s.week())
	end := p.first + week*((p.open-p.first)/week+1)
	return max(now, s.Start(end)+offset), true
}
