package commerce

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// MicrosPerUnit is the number of micros in one unit of a currency.
const MicrosPerUnit = 1_000_000

var (
	// ErrCurrency is wrapped by errors about a currency code.
	ErrCurrency = errors.New("not a currency code")
	// ErrMismatch is wrapped where amounts of two currencies meet.
	ErrMismatch = errors.New("currencies differ")
	// ErrOverflow is wrapped where an amount does not fit into 64 bits of micros.
	ErrOverflow = errors.New("amount out of range")
	// ErrAmount is wrapped where text is no amount.
	ErrAmount = errors.New("not an amount")
)

// Money is an amount in micros, millionths of a currency's unit, so that sums are
// exact. Its range is about 9.2 million million units, either sign. The zero
// value is no money of no currency; it may be added to any.
type Money struct {
	Currency string // ISO 4217, three capital letters
	Micros   int64
}

// NewMoney returns an amount after checking the currency code, which may come in
// small letters.
func NewMoney(currency string, micros int64) (Money, error) {
	c, err := Currency(currency)
	if err != nil {
		return Money{}, err
	}
	return Money{c, micros}, nil
}

// ParseMoney reads a decimal such as "19.99", "-3" or "1e3" as an amount. Digits
// below a micro are rounded half away from zero. Grouping and decimal commas are
// refused: their meaning depends on the place.
func ParseMoney(currency, amount string) (Money, error) {
	c, err := Currency(currency)
	if err != nil {
		return Money{}, err
	}
	m, err := ParseMicros(amount)
	if err != nil {
		return Money{}, err
	}
	return Money{c, m}, nil
}

// ParseMicros reads a decimal as micros, as [ParseMoney] does.
func ParseMicros(amount string) (int64, error) {
	s := strings.TrimSpace(amount)
	fail := func(err error) (int64, error) { return 0, fmt.Errorf("parse amount %q: %w", clipped(amount), err) }
	if s == "" || len(s) > 64 {
		return fail(ErrAmount)
	}
	negative := s[0] == '-'
	if s[0] == '-' || s[0] == '+' {
		s = s[1:]
	}
	exponent := 0
	if k := strings.IndexAny(s, "eE"); k >= 0 {
		e, err := strconv.Atoi(s[k+1:])
		if err != nil || e < -99 || e > 99 {
			return fail(ErrAmount)
		}
		exponent, s = e, s[:k]
	}
	whole, fraction, point := strings.Cut(s, ".")
	digits := whole + fraction
	if digits == "" || point && fraction == "" && whole == "" || strings.Trim(digits, "0123456789") != "" {
		return fail(ErrAmount)
	}
	// The value is digits x 10^scale micros.
	scale := 6 + exponent - len(fraction)
	digits = strings.TrimLeft(digits, "0")
	if digits == "" {
		return 0, nil
	}
	up := false
	if scale < 0 {
		cut := len(digits) + scale
		if cut < 0 {
			return 0, nil
		}
		up = digits[cut] >= '5'
		digits = digits[:cut]
	} else {
		if len(digits)+scale > 19 {
			return fail(ErrOverflow)
		}
		digits += strings.Repeat("0", scale)
	}
	v := uint64(0)
	if digits != "" {
		var err error
		if v, err = strconv.ParseUint(digits, 10, 64); err != nil {
			return fail(ErrOverflow)
		}
	}
	if up {
		v++ // v is below 2^64-1: ParseUint has at most 19 of 20 digits where digits were cut, or overflowed
	}
	switch {
	case negative && v == 1<<63:
		return math.MinInt64, nil
	case v > math.MaxInt64:
		return fail(ErrOverflow)
	case negative:
		return -int64(v), nil
	default:
		return int64(v), nil
	}
}

// MicrosOf converts a JSON number's double to micros, rounded half away from zero
// at the shortest decimal that is this double, so that 19.99 is 19,990,000.
func MicrosOf(amount float64) (int64, error) {
	if math.IsNaN(amount) || math.IsInf(amount, 0) {
		return 0, fmt.Errorf("convert amount %g: %w", amount, ErrAmount)
	}
	return ParseMicros(strconv.FormatFloat(amount, 'e', -1, 64))
}

// Add returns m + n. An amount without currency and micros takes the other's
// currency.
func (m Money) Add(n Money) (Money, error) {
	c, err := m.common(n)
	if err != nil {
		return Money{}, err
	}
	sum := m.Micros + n.Micros
	if n.Micros > 0 && sum < m.Micros || n.Micros < 0 && sum > m.Micros {
		return Money{}, fmt.Errorf("add %s and %s: %w", m, n, ErrOverflow)
	}
	return Money{c, sum}, nil
}

// Sub returns m - n.
func (m Money) Sub(n Money) (Money, error) {
	c, err := m.common(n)
	if err != nil {
		return Money{}, err
	}
	d := m.Micros - n.Micros
	if n.Micros > 0 && d > m.Micros || n.Micros < 0 && d < m.Micros {
		return Money{}, fmt.Errorf("subtract %s from %s: %w", n, m, ErrOverflow)
	}
	return Money{c, d}, nil
}

// Times returns m taken k times, such as a price by a quantity.
func (m Money) Times(k int64) (Money, error) {
	hi, lo := bits.Mul64(magnitude(m.Micros), magnitude(k))
	negative := (m.Micros < 0) != (k < 0)
	limit := uint64(math.MaxInt64)
	if negative {
		limit++
	}
	if hi != 0 || lo > limit {
		return Money{}, fmt.Errorf("take %s times %d: %w", m, k, ErrOverflow)
	}
	if negative {
		return Money{m.Currency, -int64(lo)}, nil // also right for 2^63, which is its own negative
	}
	return Money{m.Currency, int64(lo)}, nil
}

// Compare returns -1, 0 or 1 as m is less than, equal to or greater than n.
func (m Money) Compare(n Money) (int, error) {
	if _, err := m.common(n); err != nil {
		return 0, err
	}
	switch {
	case m.Micros < n.Micros:
		return -1, nil
	case m.Micros > n.Micros:
		return 1, nil
	default:
		return 0, nil
	}
}

func (m Money) common(n Money) (string, error) {
	switch {
	case m.Currency == n.Currency, n == Money{}:
		return m.Currency, nil
	case m == Money{}:
		return n.Currency, nil
	default:
		return "", fmt.Errorf("%s and %s: %w", m, n, ErrMismatch)
	}
}

// Amount formats the number alone, with at least two and at most six decimals,
// such as "19.99"; [ParseMicros] reads it back.
func (m Money) Amount() string {
	v := magnitude(m.Micros)
	s := fmt.Sprintf("%d.%06d", v/MicrosPerUnit, v%MicrosPerUnit)
	for s[len(s)-1] == '0' && s[len(s)-3] != '.' {
		s = s[:len(s)-1]
	}
	if m.Micros < 0 {
		s = "-" + s
	}
	return s
}

// String formats as "19.99 EUR".
func (m Money) String() string {
	if m.Currency == "" {
		return m.Amount()
	}
	return m.Amount() + " " + m.Currency
}

func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// clipped keeps error texts short.
func clipped(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// Currency returns the code in capitals if ISO 4217 lists it as money in use,
// or an error that wraps [ErrCurrency]. Precious metals, test codes and accounting
// units are refused: a shop does not sell in them.
func Currency(code string) (string, error) {
	c := strings.ToUpper(strings.TrimSpace(code))
	if len(c) != 3 || !strings.Contains(currencies, " "+c+" ") {
		return "", fmt.Errorf("%q: %w", clipped(code), ErrCurrency)
	}
	return c, nil
}

// currencies are the ISO 4217 codes of national currencies in use, and those
// replaced since 2023 that stored orders still carry (ANG, BGN, HRK, SLL, ZWL).
const currencies = " AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD" +
	" CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD" +
	" HKD HNL HRK HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD" +
	" MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG" +
	" QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS" +
	" UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG ZWL "
