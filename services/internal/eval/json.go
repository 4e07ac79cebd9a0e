package eval

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
)

// Figure is a number of a result. In JSON it has at most seven significant
// digits, and is null where it is not defined: a mean of nothing, a rate of no
// cases.
type Figure float64

// Defined tells whether the figure is a finite number.
func (f Figure) Defined() bool { return !math.IsNaN(float64(f)) && !math.IsInf(float64(f), 0) }

// MarshalJSON implements json.Marshaler.
func (f Figure) MarshalJSON() ([]byte, error) {
	if !f.Defined() {
		return []byte("null"), nil
	}
	v, err := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', 7, 64), 64)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// UnmarshalJSON implements json.Unmarshaler.
func (f *Figure) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*f = Figure(math.NaN())
		return nil
	}
	v, err := strconv.ParseFloat(string(b), 64)
	*f = Figure(v)
	return err
}

// Format writes the figure with so many digits behind the point, or "-".
func (f Figure) Format(digits int) string {
	if !f.Defined() {
		return "-"
	}
	return strconv.FormatFloat(float64(f), 'f', digits, 64)
}

// JSON writes one object a line.
func JSON[T any](w io.Writer, results ...T) error {
	e := json.NewEncoder(w)
	for _, r := range results {
		if err := e.Encode(r); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	return nil
}
