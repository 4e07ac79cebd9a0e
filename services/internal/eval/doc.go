// Package eval is what the evaluations of `sillage eval` share: reading a
// table that somebody else wrote, showing how far a run is, intervals that say
// whether a difference is more than luck, and a report that stands alone.
//
// # Reading
//
// [Open] finds the columns of a delimited file by their usual names and hands
// its rows over one by one, in memory that does not grow with the file:
//
//	t, err := eval.Open(path, []eval.Column{
//		{Name: "date", Aliases: []string{"ts", "timestamp"}, Kind: eval.Date},
//		{Name: "customer", Aliases: []string{"customer_id"}},
//		{Name: "amount", Kind: eval.Amount, Optional: true},
//	}, eval.Options{})
//	...
//	defer t.Close()
//	for t.Next() {
//		at, who := t.Time(0), t.Text(1)
//		if !t.Valid() { // a cell that was asked for cannot be read
//			continue
//		}
//		...
//	}
//	source, err := t.Finish()
//
// What a file cannot decide itself it asks for: two columns of the same name, a
// date that may begin with the day or with the month. How dates and numbers are
// written is decided once a column, never row by row.
//
// # Judging
//
// [Bootstrap], [BootstrapRatio] and [BootstrapStatistic] give intervals by
// resampling whole units (sessions, customers, series), because the cases of one
// unit are not independent.
//
// # Telling
//
// [Report] writes one HTML page that needs no network, and its plots as PNG
// files beside it. [JSON] writes one object a line; a figure that is not defined
// is null there, because JSON has no NaN: see [Figure].
package eval
