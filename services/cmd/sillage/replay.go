package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/topics"
	"github.com/sillage-io/sillage/services/collector"
	"github.com/sillage-io/sillage/services/internal/replay"
)

type replayOptions struct {
	reach
	collector, key, shop                 string
	speed, tz, from, to, stock, currency string
	columns                              []string
	limit                                int64
	repeat                               int
	seed                                 uint64
	dryRun, append, json                 bool
	rejects                              string
}

func replayCommand() *cobra.Command {
	var o replayOptions
	c := &cobra.Command{
		Use: "replay FORMAT FILE", Short: "Feed a file of a shop's history through the collector, as an import", Args: cobra.ExactArgs(2),
		Long: `Feed a file, gzip or plain, through the collector into a shop of its own, whose clock follows
the file. It returns when every processor has folded all of it. A replay that was killed goes on
where it was when it is started again with the same arguments.

Formats:
  uci-online-retail  UCI Online Retail II: invoice lines with quantities and prices
  clicks             session logs: ts (seconds since 1970), session_id, item_id
  segment-jsonl      one call of the Segment API a line
  csv                any table, with --map FIELD=COLUMN for each of
                     ` + strings.Join(replay.TableFields(), ", "),
		ValidArgs: replay.Formats(),
		RunE: func(c *cobra.Command, args []string) error {
			return runReplay(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), args[0], args[1], o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.collector, "collector", "http://"+defaultUp().HTTP.Listen, "where the collector answers")
	o.statusFlags(c)
	f.StringVar(&o.key, "key", "", "an admin key, or a secret key of the shop; empty: the admin key of the data directory")
	f.StringVar(&o.dataDir, "data-dir", defaultUp().DataDir, "data directory of up")
	f.StringVar(&o.shop, "shop", "", "shop that takes the import; empty: named like the file")
	f.StringVar(&o.speed, "speed", "max", "how many times faster than the file's time, or max")
	f.StringVar(&o.tz, "tz", "UTC", "IANA name of the zone of times that name none")
	f.StringVar(&o.from, "from", "", "first time that counts, such as 2010-01-01 or 2010-01-01T12:00:00Z")
	f.StringVar(&o.to, "to", "", "first time that counts no more")
	f.Int64Var(&o.limit, "limit", 0, "lines to read; 0: all")
	f.IntVar(&o.repeat, "repeat", 1, "how many times to send the log, each shifted behind the one before")
	f.StringVar(&o.stock, "stock", "", "simulate: opening stock, purchase orders and receipts of a plain buyer; or a CSV file of levels (ts, product_id, units)")
	f.Uint64Var(&o.seed, "seed", 1, "seed of --stock simulate")
	f.StringSliceVar(&o.columns, "map", nil, "csv: FIELD=COLUMN, several times")
	f.StringVar(&o.currency, "currency", "", "csv: currency where no column says")
	f.BoolVar(&o.dryRun, "dry-run", false, "read the file, say what would be sent, and send nothing")
	f.BoolVar(&o.append, "append", false, "the shop may hold an import already")
	f.StringVar(&o.rejects, "rejects", "", "CSV file for rejected lines with their reason; empty: FILE.rejects.csv in the working directory, where there are any")
	f.BoolVar(&o.json, "json", false, "the summary as one JSON object")
	return c
}

// readOptions are the options that decide what is read.
func (o replayOptions) readOptions(format string) (replay.Options, error) {
	r := replay.Options{Format: format, Limit: o.limit, Currency: o.currency, Seed: o.seed, Columns: map[string]string{}}
	var errs []error
	var err error
	if r.Location, err = time.LoadLocation(o.tz); err != nil {
		errs = append(errs, fmt.Errorf("--tz: %w", err))
		r.Location = time.UTC
	}
	for _, b := range []struct {
		flag, text string
		at         *time.Time
	}{{"from", o.from, &r.From}, {"to", o.to, &r.To}} {
		if b.text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, b.text)
		if err != nil {
			t, err = time.ParseInLocation(time.DateOnly, b.text, r.Location)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %q is no time such as 2010-01-01 or 2010-01-01T12:00:00Z", b.flag, b.text))
		}
		*b.at = t
	}
	for _, m := range o.columns {
		field, column, ok := strings.Cut(m, "=")
		if !ok {
			errs = append(errs, fmt.Errorf("--map %q: want FIELD=COLUMN", m))
		}
		r.Columns[field] = column
	}
	switch {
	case o.stock == "simulate":
		r.Stock = "simulate"
	case o.stock != "":
		r.StockCSV = o.stock
	}
	if o.stock != "" && format != "uci-online-retail" {
		errs = append(errs, errors.New("--stock: only uci-online-retail has orders to keep a stock by"))
	}
	if o.repeat < 1 || o.limit < 0 {
		errs = append(errs, errors.New("--repeat and --limit: at least 1 and 0"))
	}
	return r, errors.Join(errs...)
}

// shopName is a shop's name made of a file's.
func shopName(file string) string {
	name := filepath.Base(file)
	for _, end := range []string{".gz", ".csv", ".jsonl", ".json", ".txt"} {
		name = strings.TrimSuffix(name, end)
	}
	clean := strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", r) {
			return r
		}
		return '-'
	}, name)
	return clean[:min(len(clean), 64)]
}

func runReplay(ctx context.Context, stdout, stderr io.Writer, format, file string, o replayOptions) error {
	opts, err := o.readOptions(format)
	if err != nil {
		return err
	}
	speed := 0.0
	if o.speed != "max" {
		if speed, err = strconv.ParseFloat(o.speed, 64); err != nil || speed <= 0 || math.IsInf(speed, 0) {
			return fmt.Errorf("--speed %q is neither a positive number nor max", o.speed)
		}
	}
	if o.shop == "" {
		o.shop = shopName(file)
	}
	if err := collector.CheckShop(o.shop); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "reading %s\n", file)
	plan, err := replay.Prepare(ctx, file, opts, o.repeat)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%d lines, %d events, %s to %s, a tick each %s, into shop %s as import %s\n",
		plan.Lines, plan.Items, plan.First.Format(time.DateTime), plan.Last.Format(time.DateTime), plan.Grid, o.shop, plan.ImportID)
	if o.dryRun {
		return dryRun(stdout, file, opts, plan)
	}
	if o.key == "" {
		if o.key, err = adminKey(o.dataDir); err != nil {
			return err
		}
	}
	rejects := &rejectFile{name: o.rejects}
	if rejects.name == "" {
		rejects.name = filepath.Base(file) + ".rejects.csv"
	}
	defer rejects.close()
	from, err := reached(ctx, o, plan.ImportID)
	if err != nil {
		return err
	}
	if from > 0 {
		fmt.Fprintln(stderr, "going on where an earlier replay of this file stopped")
	}
	bar := newBar(stderr, plan.Lines)
	begin := time.Now()
	r := &replay.Runner{
		Target: replay.Target{URL: o.collector, Key: o.key, Shop: o.shop, Append: o.append}, Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler),
		Speed: speed, Repeat: o.repeat, From: from, Reject: rejects.add, Progress: func(p replay.Progress) { bar.at(p) },
		Waiting: func(err error) {
			if err != nil {
				fmt.Fprintf(stderr, "\nwaiting for the collector: %v\n", err)
			} else {
				fmt.Fprintln(stderr, "\nthe collector is back")
			}
		},
	}
	out, err := r.Run(ctx, file, opts, plan)
	bar.done()
	if err != nil {
		return err
	}
	sent := time.Since(begin)
	fmt.Fprintf(stderr, "all sent in %s; waiting until it is folded\n", sent.Round(time.Millisecond))
	s, err := settled(ctx, o, plan.ImportID, out.End, stderr)
	if err != nil {
		return err
	}
	sum := summarise(o.shop, plan, out, s, sent, time.Since(begin))
	if o.json {
		return json.NewEncoder(stdout).Encode(sum)
	}
	sum.print(stdout, rejects.path())
	if sum.Lost != 0 || sum.Duplicated != 0 {
		return errors.New("the numbers do not add up")
	}
	return nil
}

func dryRun(w io.Writer, file string, opts replay.Options, plan *replay.Plan) error {
	reasons := map[string]int64{}
	f, err := replay.Open(file, opts, func(_ int64, reason string) { reasons[reason]++ })
	if err != nil {
		return err
	}
	defer f.Close()
	events := map[string]int64{}
	for {
		item, err := f.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		events[item.Event.Event]++
	}
	fmt.Fprintf(w, "would send, of %d customers, %d products and %d sessions:\n", plan.Customers(), plan.Products(), plan.Sessions())
	printCounts(w, events)
	if len(reasons) > 0 {
		fmt.Fprintln(w, "would reject lines:")
		printCounts(w, reasons)
	}
	return nil
}

func printCounts(w io.Writer, counts map[string]int64) {
	names := make([]string, 0, len(counts))
	for n := range counts {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool {
		return counts[names[i]] > counts[names[j]] || counts[names[i]] == counts[names[j]] && names[i] < names[j]
	})
	for _, n := range names {
		what := n
		if what == "" {
			what = "(as the lines say)"
		}
		fmt.Fprintf(w, "%10d  %s\n", counts[n], what)
	}
}

// rejectFile takes rejected lines; it is made with the first.
type rejectFile struct {
	name string
	f    *os.File
	csv  *csv.Writer
	err  error
}

func (r *rejectFile) add(line int64, reason string) {
	if r.err != nil {
		return
	}
	if r.f == nil {
		if r.f, r.err = os.Create(r.name); r.err != nil {
			fmt.Fprintln(os.Stderr, "rejected lines are not written:", r.err)
			return
		}
		r.csv = csv.NewWriter(r.f)
		r.err = r.csv.Write([]string{"line", "reason"})
	}
	r.err = errors.Join(r.err, r.csv.Write([]string{strconv.FormatInt(line, 10), reason}))
}

func (r *rejectFile) path() string {
	if r.f == nil {
		return ""
	}
	return r.name
}

func (r *rejectFile) close() {
	if r.f != nil {
		r.csv.Flush()
		r.f.Close()
	}
}

// bar shows progress where somebody looks.
type bar struct{ b *progressbar.ProgressBar }

func newBar(w io.Writer, lines int64) *bar {
	f, ok := w.(*os.File)
	if !ok || !isatty.IsTerminal(f.Fd()) {
		return &bar{}
	}
	return &bar{progressbar.NewOptions64(lines, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("replay"), progressbar.OptionShowCount(),
		progressbar.OptionShowIts(), progressbar.OptionSetItsString("lines"), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionFullWidth())}
}

func (b *bar) at(p replay.Progress) {
	if b.b == nil {
		return
	}
	b.b.Describe(p.At.Format(time.DateTime))
	_ = b.b.Set64(p.Lines) // a terminal that cannot be written to is nobody's loss
}

func (b *bar) done() {
	if b.b != nil {
		_ = b.b.Finish()
		fmt.Fprintln(os.Stderr)
	}
}

// importName is how processors name an import.
func importName(shop, id string) string { return shop + "/" + id }

// firstHop is the processor that reads what the collector writes.
const firstHop = "profile.devices"

// reached is the ordinal up to which every partition has folded an import.
func reached(ctx context.Context, o replayOptions, id string) (int64, error) {
	s, err := o.status(ctx)
	for n := 0; err != nil && ctx.Err() == nil && n < 10; n++ { // it may just be starting again
		time.Sleep(500 * time.Millisecond)
		s, err = o.status(ctx)
	}
	if err != nil {
		return 0, err
	}
	least := int64(-1)
	for _, p := range s.Processors {
		if p.Processor != firstHop {
			continue
		}
		n := p.Status.Imports[importName(o.shop, id)].Sequence
		if least < 0 || n < least {
			least = n
		}
	}
	return max(least, 0), nil
}

// settled waits until every processor's clock of the shop has passed the end
// of the import, and those without a clock have folded what follows from it.
func settled(ctx context.Context, o replayOptions, id string, end time.Time, stderr io.Writer) (*status, error) {
	last, since := int64(-1), time.Now()
	for {
		s, err := o.status(ctx)
		if err == nil {
			behind, lag := 0, int64(0)
			for _, p := range s.Processors {
				lag += p.Lag()
				if t, ok := topics.Lookup(p.Topic); ok && t.Clock == "" {
					if p.Lag() > 0 {
						behind++
					}
					continue
				}
				if int64(p.Status.Shops[o.shop].Clock) < end.UnixMicro() || !p.Status.Imports[importName(o.shop, id)].Ended {
					behind++
				}
			}
			if behind == 0 {
				return s, nil
			}
			if lag != last {
				last, since = lag, time.Now()
			}
			if time.Since(since) > 30*time.Second {
				fmt.Fprintf(stderr, "%d partitions are behind, and nothing moves; sillage status tells more\n", behind)
				since = time.Now()
			}
		} else if ctx.Err() == nil && time.Since(since) > 10*time.Second {
			fmt.Fprintf(stderr, "waiting: %v\n", err)
			since = time.Now()
		}
		t := time.NewTimer(300 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

// summary is what a replay came to.
type summary struct {
	Shop       string           `json:"shop"`
	ImportID   string           `json:"import_id"`
	First      time.Time        `json:"first"`
	Last       time.Time        `json:"last"`
	Customers  int              `json:"customers"`
	Products   int              `json:"products"`
	Sessions   int              `json:"sessions"`
	Events     int64            `json:"events"`
	Lines      int64            `json:"lines"`
	Sent       int64            `json:"sent"`
	Acked      int64            `json:"acked"`
	Rejected   int64            `json:"rejected"`
	Folded     int64            `json:"folded"`
	Dead       int64            `json:"dead"`
	DeadLines  int64            `json:"dead_lines"`
	Lost       int64            `json:"lost"`
	Duplicated int64            `json:"duplicated"`
	Reasons    map[string]int64 `json:"rejected_by_reason"`
	SendTime   string           `json:"send_time"`
	WallTime   string           `json:"wall_time"`
	PerSecond  int64            `json:"lines_per_second"`

	processors []stream.Standing
}

// summarise puts the collector's answers beside the readers' own counters.
func summarise(shop string, p *replay.Plan, out *replay.Outcome, s *status, sent, wall time.Duration) *summary {
	sum := &summary{
		Shop: shop, ImportID: p.ImportID, First: p.First, Last: p.Last, Customers: p.Customers(), Products: p.Products(), Sessions: p.Sessions(), Events: p.Items,
		Lines: out.Lines, Sent: out.Lines - out.Progress.Rejected, Acked: out.Sent, Rejected: out.Progress.Rejected, Reasons: out.Rejected,
		SendTime: sent.Round(time.Millisecond).String(), WallTime: wall.Round(time.Millisecond).String(), PerSecond: int64(float64(out.Lines) / wall.Seconds()),
		processors: s.Processors,
	}
	for _, st := range s.Processors {
		if st.Processor == firstHop {
			count := st.Status.Imports[importName(shop, p.ImportID)]
			sum.Folded += count.Lines
			sum.Dead += count.Dead
			sum.DeadLines += count.DeadLines
		}
	}
	missing := sum.Acked - sum.Folded - sum.DeadLines
	sum.Lost, sum.Duplicated = max(missing, 0), max(-missing, 0)
	return sum
}

func (s *summary) print(w io.Writer, rejects string) {
	fmt.Fprintf(w, "lines=%d sent=%d acked=%d rejected=%d folded=%d lost=%d duplicated=%d\n\n", s.Lines, s.Sent, s.Acked, s.Rejected, s.Folded, s.Lost, s.Duplicated)
	fmt.Fprintf(w, "shop %s, %s to %s: %d customers, %d products, %d sessions\n", s.Shop, s.First.Format(time.DateTime), s.Last.Format(time.DateTime), s.Customers, s.Products, s.Sessions)
	fmt.Fprintf(w, "%d events in %s, %d lines/s until all was folded\n", s.Events, s.WallTime, s.PerSecond)
	if s.Dead > 0 {
		fmt.Fprintf(w, "%d events are dead letters: sillage dlq list\n", s.Dead)
	}
	totals := map[string]int64{}
	for _, p := range s.processors {
		totals[p.Processor] += p.Status.Counts.Published
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, name := range []string{"profile.devices", "recommender.visitors", "churn.customers", "restock.products"} {
		fmt.Fprintf(t, "%s\tpublished %d records in all\n", name, totals[name])
	}
	_ = t.Flush() // the same as the lines above
	if s.Rejected > 0 {
		fmt.Fprintf(w, "rejected lines (%s):\n", rejects)
		printCounts(w, s.Reasons)
	}
	fmt.Fprintf(w, "\nask next:\n  sillage tail churn.alerts.v1 --from start --until end --shop %s\n  sillage tail restock.signals.v1 --from start --until end --shop %s\n  sillage verify\n", s.Shop, s.Shop)
}
