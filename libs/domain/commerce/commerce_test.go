package commerce

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseMicros(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     int64
		err      error
	}{
		{"cents", "19.99", 19_990_000, nil},
		{"whole", "3", 3_000_000, nil},
		{"negative, signed, blanks", " -0.5 ", -500_000, nil},
		{"plus", "+1", 1_000_000, nil},
		{"no whole part", ".5", 500_000, nil},
		{"no fraction", "5.", 5_000_000, nil},
		{"exponent", "1e3", 1_000_000_000, nil},
		{"negative exponent", "125E-2", 1_250_000, nil},
		{"half a micro rounds away", "0.0000005", 1, nil},
		{"and below zero", "-0.0000005", -1, nil},
		{"under half a micro is nothing", "0.00000049999", 0, nil},
		{"far under a micro", "1e-99", 0, nil},
		{"a carry through all digits", "0.9999995", 1_000_000, nil},
		{"zeros", "000.000", 0, nil},
		{"zero with a great exponent", "0e99", 0, nil},
		{"largest", "9223372036854.775807", math.MaxInt64, nil},
		{"smallest", "-9223372036854.775808", math.MinInt64, nil},
		{"one above the largest", "9223372036854.775808", 0, ErrOverflow},
		{"rounds above the largest", "9223372036854.7758075", 0, ErrOverflow},
		{"twenty nines", "99999999999999999999", 0, ErrOverflow},
		{"great exponent", "1e99", 0, ErrOverflow},
		{"empty", "", 0, ErrAmount},
		{"a point", ".", 0, ErrAmount},
		{"two points", "1.2.3", 0, ErrAmount},
		{"two signs", "--1", 0, ErrAmount},
		{"decimal comma", "1,50", 0, ErrAmount},
		{"grouping", "1,000.00", 0, ErrAmount},
		{"symbol", "$5", 0, ErrAmount},
		{"not a number", "NaN", 0, ErrAmount},
		{"hexadecimal", "0x10", 0, ErrAmount},
		{"exponent without digits", "1e", 0, ErrAmount},
		{"absurd exponent", "1e999999", 0, ErrAmount},
		{"too long", strings.Repeat("1", 65), 0, ErrAmount},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseMicros(tc.in)
			if got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("%q is %d (%v), want %d (%v)", tc.in, got, err, tc.want, tc.err)
			}
		})
	}
}

func TestMicrosOfDoubles(t *testing.T) {
	for _, tc := range []struct {
		in   float64
		want int64
		err  error
	}{
		{19.99, 19_990_000, nil},
		{0.1 + 0.2, 300_000, nil},
		{-1e-7, 0, nil},
		{1e13, 0, ErrOverflow},
		{math.MaxFloat64, 0, ErrAmount},
		{math.NaN(), 0, ErrAmount},
		{math.Inf(1), 0, ErrAmount},
	} {
		if got, err := MicrosOf(tc.in); got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%g is %d (%v), want %d (%v)", tc.in, got, err, tc.want, tc.err)
		}
	}
}

func TestMoneyFormats(t *testing.T) {
	for _, tc := range []struct {
		in   Money
		want string
	}{
		{Money{"EUR", 19_990_000}, "19.99 EUR"},
		{Money{"EUR", 5_000_000}, "5.00 EUR"},
		{Money{"JPY", 1_000_000_000}, "1000.00 JPY"},
		{Money{"EUR", 100}, "0.0001 EUR"},
		{Money{"EUR", -1}, "-0.000001 EUR"},
		{Money{"EUR", 1_500_000}, "1.50 EUR"},
		{Money{"", 0}, "0.00"},
		{Money{"EUR", math.MinInt64}, "-9223372036854.775808 EUR"},
	} {
		if got := tc.in.String(); got != tc.want {
			t.Errorf("%d is %q, want %q", tc.in.Micros, got, tc.want)
		}
	}
}

// TestMoneyAgainstBigIntegers compares the arithmetic with unbounded integers.
func TestMoneyAgainstBigIntegers(t *testing.T) {
	check := func(t *rapid.T, what string, got Money, err error, want *big.Int) {
		if want.IsInt64() != (err == nil) || err == nil && (got.Micros != want.Int64() || got.Currency != "EUR") {
			t.Errorf("%s is %v (%v), want %v", what, got, err, want)
		}
		if err != nil && !errors.Is(err, ErrOverflow) {
			t.Errorf("%s: %v does not wrap ErrOverflow", what, err)
		}
	}
	edge := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64, -1, 0, 1, math.MinInt64 / 2, 1 << 62}))
	rapid.Check(t, func(t *rapid.T) {
		a, b := edge.Draw(t, "a"), edge.Draw(t, "b")
		m, n := Money{"EUR", a}, Money{"EUR", b}
		got, err := m.Add(n)
		check(t, "sum", got, err, new(big.Int).Add(big.NewInt(a), big.NewInt(b)))
		got, err = m.Sub(n)
		check(t, "difference", got, err, new(big.Int).Sub(big.NewInt(a), big.NewInt(b)))
		got, err = m.Times(b)
		check(t, "product", got, err, new(big.Int).Mul(big.NewInt(a), big.NewInt(b)))
		if c, err := m.Compare(n); err != nil || c != big.NewInt(a).Cmp(big.NewInt(b)) {
			t.Errorf("compare %d (%v)", c, err)
		}
		if back, err := ParseMicros(m.Amount()); err != nil || back != a {
			t.Errorf("%s reads back as %d (%v), want %d", m.Amount(), back, err, a)
		}
	})
}

func TestCurrenciesDoNotMix(t *testing.T) {
	e, d := Money{"EUR", 1}, Money{"USD", 1}
	_, err1 := e.Add(d)
	_, err2 := e.Sub(d)
	_, err3 := e.Compare(d)
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, ErrMismatch) {
			t.Errorf("%v, want ErrMismatch", err)
		}
	}
	for _, sum := range []func() (Money, error){func() (Money, error) { return e.Add(Money{}) }, func() (Money, error) { return Money{}.Add(e) }} {
		if got, err := sum(); err != nil || got != e {
			t.Errorf("with nothing: %v (%v), want %v", got, err, e)
		}
	}
}

func TestCurrency(t *testing.T) {
	for _, tc := range []struct {
		in, want string
	}{
		{"EUR", "EUR"},
		{" usd ", "USD"},
		{"JPY", "JPY"},
		{"XAU", ""},
		{"XXX", ""},
		{"", ""},
		{"EURO", ""},
		{"E R", ""},
		{" EU", ""},
		{"€", ""},
	} {
		got, err := Currency(tc.in)
		if got != tc.want || (err == nil) != (tc.want != "") || err != nil && !errors.Is(err, ErrCurrency) {
			t.Errorf("%q is %q (%v), want %q", tc.in, got, err, tc.want)
		}
	}
	if m, err := NewMoney("gbp", 7); err != nil || m != (Money{"GBP", 7}) {
		t.Errorf("NewMoney: %v (%v)", m, err)
	}
	if _, err := ParseMoney("???", "1"); !errors.Is(err, ErrCurrency) {
		t.Errorf("ParseMoney: %v, want ErrCurrency", err)
	}
	if m, err := ParseMoney("eur", "1.5"); err != nil || m != (Money{"EUR", 1_500_000}) {
		t.Errorf("ParseMoney: %v (%v)", m, err)
	}
}

func FuzzParseMicros(f *testing.F) {
	f.Add("19.99")
	f.Add("-9223372036854.775808")
	f.Add("1e-7")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseMicros(s)
		if err != nil {
			return
		}
		want, ok := new(big.Rat).SetString(strings.TrimSpace(s))
		if !ok {
			t.Fatalf("%q is no number, but gives %d", s, got)
		}
		want.Mul(want, big.NewRat(MicrosPerUnit, 1))
		half := big.NewRat(1, 2)
		if diff := new(big.Rat).Sub(want, new(big.Rat).SetInt64(got)); diff.Abs(diff).Cmp(half) > 0 {
			t.Fatalf("%q gives %d micros, want %s", s, got, want.FloatString(3))
		}
	})
}

func TestLookupEvent(t *testing.T) {
	all := Events()
	if len(all) != 34 {
		t.Errorf("%d events, want 28 of commerce and 6 of e-mail", len(all))
	}
	for _, e := range all {
		if e.String() == "" {
			t.Errorf("event %d has no name", e)
		}
		for _, form := range []string{e.String(), strings.ToLower(e.String()), strings.ReplaceAll(e.String(), " ", "_")} {
			if got := LookupEvent(form); got != e {
				t.Errorf("%q is %q, want %q", form, got, e)
			}
		}
	}
	for name, want := range map[string]Event{
		"Viewed Product": ProductViewed, "Added Product": ProductAdded, "Removed Product": ProductRemoved,
		"Completed Order": OrderCompleted, "Viewed Product Category": ProductListViewed, "Started Checkout": CheckoutStarted,
		"Order Canceled": OrderCancelled, "productAdded": ProductAdded, "Email Unsubscribed": EmailUnsubscribed,
		"": UnknownEvent, "Product Exploded": UnknownEvent, strings.Repeat("x", 1000): UnknownEvent,
	} {
		if got := LookupEvent(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	if UnknownEvent.String() != "" || Event(255).String() != "" {
		t.Error("an unknown event has a name")
	}
}

func TestCheckID(t *testing.T) {
	for _, tc := range []struct {
		name, id string
		want     IDVerdict
	}{
		{"mail address", "ada@example.com", IDGood},
		{"number", "10", IDGood},
		{"UUID", "3f2c0000-0000-4000-8000-00000000000a", IDGood},
		{"contains a placeholder", "guest-77", IDGood},
		{"letters of any script", "Zoë", IDGood},
		{"absent", "", IDAbsent},
		{"blanks", "  ", IDPlaceholder},
		{"null", "null", IDPlaceholder},
		{"undefined, capitals", "UNDEFINED", IDPlaceholder},
		{"quoted", `"null"`, IDPlaceholder},
		{"NaN", "NaN", IDPlaceholder},
		{"zero", "0", IDPlaceholder},
		{"nil UUID", "00000000-0000-0000-0000-000000000000", IDPlaceholder},
		{"object", "[object Object]", IDPlaceholder},
		{"guest", "guest", IDPlaceholder},
		{"longest", strings.Repeat("a", MaxID), IDGood},
		{"too long", strings.Repeat("a", MaxID+1), IDTooLong},
		{"line break", "a\nb", IDMalformed},
		{"not UTF-8", "a\xff", IDMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := CheckID(tc.id); got != tc.want {
				t.Errorf("%q is %s, want %s", tc.id, got, tc.want)
			}
		})
	}
}
