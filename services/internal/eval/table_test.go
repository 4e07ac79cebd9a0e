package eval

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// file writes a file to read.
func file(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history.csv")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func packed(t testing.TB, content string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// orders are the columns of the tests.
func orders() []Column {
	return []Column{
		{Name: "date", Aliases: []string{"ts", "timestamp", "invoice date"}, Kind: Date},
		{Name: "customer", Aliases: []string{"customer_id"}},
		{Name: "amount", Aliases: []string{"amount_usd", "price"}, Kind: Amount, Optional: true},
		{Name: "quantity", Aliases: []string{"qty"}, Kind: Number, Optional: true},
	}
}

// order is a row of the tests.
type order struct {
	At       string
	Customer string
	Amount   float64
	Quantity int64
}

// read reads all valid rows.
func read(t testing.TB, path string, o Options) ([]order, Source, error) {
	t.Helper()
	tab, err := Open(context.Background(), path, orders(), o)
	if err != nil {
		return nil, Source{}, err
	}
	var out []order
	for tab.Next() {
		r := order{At: tab.Time(0).Format(time.RFC3339Nano), Customer: tab.Text(1), Amount: tab.Amount(2), Quantity: tab.Int(3)}
		if tab.Valid() {
			out = append(out, r)
		}
	}
	s, err := tab.Finish()
	return out, s, err
}

func TestReadsWhatShopsExport(t *testing.T) {
	want := []order{{"2011-05-31T09:30:00Z", "7", 1234.5, 2}, {"2011-06-01T00:00:00Z", "émile, \"x\"", 3, -1}}
	for name, content := range map[string]string{
		"comma":              "date,customer,amount,quantity\n2011-05-31T09:30:00Z,7,1234.50,2\n2011-06-01,\"émile, \"\"x\"\"\",3,-1\n",
		"semicolon":          "Customer ID;Qty;Price;Invoice Date\n7;2;1.234,50;31.05.2011 9:30\n\"émile, \"\"x\"\"\";-1;3,00;1.6.2011\n",
		"tab, CRLF and BOM":  "\xef\xbb\xbfTimestamp\tcustomer-id\tamount_usd\tqty\r\n2011-05-31 09:30\t7\t$1,234.5\t2\r\n2011-06-01 00:00:00\t\"émile, \"\"x\"\"\"\t$3\t-1\r\n",
		"no end of line":     "date,customer,amount,quantity\n2011-05-31T09:30,7,1234.50,2\n2011-06-01,\"émile, \"\"x\"\"\",3,-1",
		"American":           "date,customer,amount,quantity\n5/31/2011 9:30,7,\"1,234.50\",2\n6/1/2011,\"émile, \"\"x\"\"\",3,-1\n",
		"seconds since 1970": "ts,customer,amount,quantity\n1306834200,7,1234.5,2\n1306886400,\"émile, \"\"x\"\"\",3,-1\n",
		"milliseconds":       "ts,customer,amount,quantity\n1306834200000,7,1234.5,2\n1306886400000,\"émile, \"\"x\"\"\",3,-1\n",
		"zones":              "ts,customer,amount,quantity\n2011-05-31T11:30:00+02:00,7,EUR 1234.5,2\n2011-05-31 19:00:00.000-0500,\"émile, \"\"x\"\"\",3.00 EUR,-1\n",
		"blank lines":        "\n\ndate,customer,amount,quantity\n\n2011-05-31T09:30:00Z,7,1234.50,2\n\r\n2011-06-01,\"émile, \"\"x\"\"\",3,-1\n\n",
		"separators at end":  "date,customer,amount,quantity\n2011-05-31T09:30:00Z,7,1234.50,2,,\n2011-06-01,\"émile, \"\"x\"\"\",3,-1,\n",
		"Latin-1":            "date,customer,amount,quantity\n2011-05-31T09:30:00Z,7,1234.50,2\n2011-06-01,\"\xe9mile, \"\"x\"\"\",3,-1\n",
		"other columns":      "x,date,y,customer,amount,z,quantity\n,2011-05-31T09:30:00Z,,7,1234.50,,2\n1,2011-06-01,2,\"émile, \"\"x\"\"\",3,3,-1\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []string{content, packed(t, content)} {
				got, s, err := read(t, file(t, c), Options{})
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Error(d)
				}
				sum := sha256.Sum256([]byte(c))
				if s.SHA256 != hex.EncodeToString(sum[:]) || s.Rows != 2 || s.Used() != 2 || s.Bytes != int64(len(c)) {
					t.Errorf("source %+v", s)
				}
			}
		})
	}
}

func TestCompactDatesAndQuotedLineEnds(t *testing.T) {
	got, _, err := read(t, file(t, "date,customer\n20110531,\"a\nb\"\n20110601,5\" candle\n"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []order{{"2011-05-31T00:00:00Z", "a\nb", 0, 0}, {"2011-06-01T00:00:00Z", `5" candle`, 0, 0}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestZoneOfTimesThatNameNone(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := read(t, file(t, "date,customer\n2011-05-31 09:30,7\n2011-01-31T09:30:00Z,7\n"), Options{Location: paris})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].At != "2011-05-31T07:30:00Z" || got[1].At != "2011-01-31T09:30:00Z" {
		t.Error(got)
	}
}

// A log sorted by time may say only far behind the first rows whether the day or
// the month stands first.
func TestDayOrMonthFirst(t *testing.T) {
	many := strings.Repeat("03/04/2011,7\n", 3*sampleRows)
	for _, c := range []struct{ name, content, format, first, err string }{
		{"decided late: day", "date,customer\n" + many + "13/04/2011,7\n", "", "2011-04-03", ""},
		{"decided late: month", "date,customer\n" + many + "04/13/2011,7\n", "", "2011-03-04", ""},
		{"never decided", "date,customer\n" + many, "", "", "--date-format dmy or mdy"},
		{"said", "date,customer\n" + many, "dmy", "2011-04-03", ""},
		{"both", "date,customer\n03/04/2011,7\n13/04/2011,7\n04/13/2011,7\n", "", "", "line 3 (13/04/2011) and the month first on line 4 (04/13/2011)"},
		{"layout", "date,customer\n3 Apr 2011,7\n", "2 Jan 2006", "2011-04-03", ""},
		{"no layout", "date,customer\n3 Apr 2011,7\n", "day-month", "", "neither one of"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := read(t, file(t, c.content), Options{DateFormat: c.format})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got[0].At != c.first+"T00:00:00Z" {
				t.Errorf("first date %s, want %s", got[0].At, c.first)
			}
		})
	}
}

func TestErrorsSayWhereAndWhatToDo(t *testing.T) {
	whole := packed(t, "date,customer\n"+strings.Repeat("2011-05-31,7\n2011-06-30,8\n", 30_000))
	damaged := []byte(whole)
	damaged[len(damaged)-6] ^= 0xff // of the checksum
	for name, c := range map[string]struct {
		content string
		want    []string
	}{
		"empty":               {"", []string{"empty", "header"}},
		"blank":               {"\n \n", []string{"empty"}},
		"empty gzip":          {packed(t, ""), []string{"empty"}},
		"header only":         {"date,customer\n", []string{"a header and no row"}},
		"unknown columns":     {"a,b\n1,2\n", []string{"no column for date", "looked for date, ts, timestamp, invoice date", "the header is a, b", "--map date=COLUMN", "--map customer=COLUMN"}},
		"same name twice":     {"date,date,customer\n2011-05-31,2011-05-31,7\n", []string{"columns 1 and 2", "--map date=COLUMN"}},
		"no dates":            {"date,customer\nyesterday,7\ntoday,8\n", []string{"line 2", `"yesterday" is not a date`, "--map date=COLUMN", "--date-format"}},
		"no amounts":          {"date,customer,amount\n2011-05-31,7,lots\n", []string{"line 2", `column "amount"`, `"lots"`, "--map amount=COLUMN"}},
		"bytes":               {"\x00\x01\x02\x03", []string{"line 1", "no CSV"}},
		"zero byte later":     {"date,customer\n2011-05-31,\x00\n", []string{"line 2", "no CSV"}},
		"workbook":            {"PK\x03\x04rest", []string{"Excel"}},
		"UTF-16":              {"\xff\xfed\x00a\x00", []string{"UTF-16", "UTF-8"}},
		"zstd":                {"\x28\xb5\x2f\xfdrest", []string{"zstd"}},
		"gzip twice":          {packed(t, whole), []string{"gzip inside gzip"}},
		"cut gzip":            {whole[:len(whole)/2], []string{"ends in the middle", "gzip -t"}},
		"cut gzip header":     {whole[:5], []string{"ends in the middle"}},
		"cut checksum":        {whole[:len(whole)-3], []string{"line 60001", "ends in the middle"}},
		"damaged gzip":        {string(damaged), []string{"damaged", "gzip -t"}},
		"open quote":          {"date,customer\n2011-05-31,\"7\n2011-06-30,8\n", []string{"line 2, column 2", "never closed"}},
		"open quote, endless": {"date,customer\n2011-05-31,7\n2011-05-31,\"7\n" + strings.Repeat("2011-06-30,8\n", 200_000), []string{"line 3, column 2", "not closed within 1024 KiB"}},
		"no line ends":        {"date,customer\n" + strings.Repeat("x", 2<<20), []string{"line 2", "longer than 1024 KiB"}},
		"old Mac":             {"date,customer\r2011-05-31,7\r", []string{"carriage return"}},
		"all rejected":        {"date,customer\n2011-05-31,\n2011-05-31,\n", []string{"none of its 2 rows", "line 2", "customer is empty"}},
		"ragged":              {"date,customer\n2011-05-31\n", []string{"number of columns"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := file(t, c.content)
			_, _, err := read(t, path, Options{})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(c.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
	if _, _, err := read(t, "/nowhere/at/all.csv", Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, _, err := read(t, t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("folder: %v", err)
	}
}

func TestMapWins(t *testing.T) {
	path := file(t, "date,when,customer,who\n2011-05-31,2012-01-01,7,8\n")
	got, s, err := read(t, path, Options{Map: map[string]string{"date": "When", "customer": "who"}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]order{{"2012-01-01T00:00:00Z", "8", 0, 0}}, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Found{{"date", "when", "ymd"}, {"customer", "who", ""}}, s.Columns); d != "" {
		t.Error(d)
	}
	_, _, err = read(t, path, Options{Map: map[string]string{"date": "nothing", "client": "who"}})
	for _, want := range []string{`no column "nothing"`, "date, when, customer, who", "nothing is called client", "date, customer, amount, quantity"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

// Some public logs have no header line.
func TestHeaderOfAFileThatHasNone(t *testing.T) {
	content := "7,\"2011-05-31\",0\n8,2011-06-01,0\n"
	for _, c := range []string{content, packed(t, content)} {
		got, s, err := read(t, file(t, c), Options{Header: []string{"customer", "ts", "x"}})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]order{{"2011-05-31T00:00:00Z", "7", 0, 0}, {"2011-06-01T00:00:00Z", "8", 0, 0}}, got); d != "" || s.Rows != 2 {
			t.Errorf("%d rows: %s", s.Rows, d)
		}
	}
	if _, _, err := read(t, file(t, content), Options{Header: []string{"customer", "ts"}}); err == nil || !strings.Contains(err.Error(), "--header names 2 columns (customer, ts), line 1 has 3") {
		t.Errorf("too few names: %v", err)
	}
	if _, _, err := read(t, file(t, content), Options{}); err == nil || !strings.Contains(err.Error(), "--header NAME,NAME") {
		t.Errorf("no names: %v", err)
	}
	// A date that only a later row decides is looked for behind the same first line.
	got, _, err := read(t, file(t, strings.Repeat("7,03/04/2011\n", 3*sampleRows)+"7,13/04/2011\n"), Options{Header: []string{"customer", "ts"}})
	if err != nil || got[0].At != "2011-04-03T00:00:00Z" || len(got) != 3*sampleRows+1 {
		t.Errorf("%d rows, %v", len(got), err)
	}
}

func TestRejectedRowsAreCountedByReason(t *testing.T) {
	_, s, err := read(t, file(t, `date,customer,amount,quantity
2011-05-31,7,1,1
2011-06-31,7,1,1
2011-06-30,,1,1
2011-06-30,7,NaN,1
2011-06-30,7,1,1e400
2011-06-30,7,1,1.5
2011-06-30,7,€1,1
2011-06-30,7,$1,1
2011-06-30,7
2011-06-30,7,,
nonsense,,,
2011-06-30,7,5,1
2011-06-30,7,5,1
`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Rejection{
		{"date is not a date or time of the form ymd", 2, 3},
		{"amount is in another currency than €", 1, 9},
		{"amount is not an amount of money", 1, 5},
		{"another number of columns than the header", 1, 10},
		{"customer is empty", 1, 4},
		{"quantity is not a number", 1, 6},
		{"quantity is not a whole number", 1, 7},
	}
	if d := cmp.Diff(want, s.Rejected); d != "" {
		t.Error(d)
	}
	if s.Rows != 13 || s.Used() != 5 {
		t.Errorf("%d rows, %d used, want 13 and 5", s.Rows, s.Used())
	}
}

func TestReadingStopsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tab, err := Open(ctx, file(t, "date,customer\n"+strings.Repeat("2011-05-31,7\n", 10_000)), orders(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	n := 0
	for tab.Next() {
		n++
	}
	if _, err := tab.Finish(); !errors.Is(err, context.Canceled) || n > 4096 {
		t.Errorf("%d rows, then %v", n, err)
	}
}

func TestHeader(t *testing.T) {
	got, err := Header(file(t, packed(t, "split;session_no;items\ntrain;1;1 2\n")))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"split", "session_no", "items"}, got); d != "" {
		t.Error(d)
	}
}

// FuzzTable reads anything: no panic, and no figure that is not finite.
func FuzzTable(f *testing.F) {
	f.Add([]byte("date,customer,amount,quantity\n2011-05-31T09:30:00Z,7,1.234,50,2\n"))
	f.Add([]byte("\xef\xbb\xbfts;customer;price;qty\r\n1306834200;\"a\"\"b\nc\";1.234,50;-1e3\r\n"))
	f.Add([]byte("date\tcustomer\n31/12/2011\t\"open"))
	f.Add([]byte(packed(f, "date,customer\n12/12/2011,5\n")))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Add([]byte("date,customer,amount\n2011-02-30,x,(5)\n2011-1-3 4:5,x,-$5\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		got, s, err := read(t, file(t, string(content)), Options{})
		if err != nil {
			return
		}
		if int64(len(got)) != s.Used() {
			t.Errorf("%d rows handed out as valid, %d counted", len(got), s.Used())
		}
		for _, r := range got {
			if !Figure(r.Amount).Defined() || r.Customer == "" {
				t.Errorf("%+v", r)
			}
		}
	})
}
