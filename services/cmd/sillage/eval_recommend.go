package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/services/internal/eval"
	"github.com/sillage-io/sillage/services/internal/eval/recommend"
)

// evalRecommend are the flags of eval recommend.
type evalRecommend struct {
	evalFlags
	sessions, method, mode, baseline, current string
	linear                                    bool
	reading                                   recommend.Reading
	cfg                                       recommend.Config
}

func evalRecommendCommand() *cobra.Command {
	o := evalRecommend{reading: recommend.DefaultReading(), cfg: recommend.DefaultConfig()}
	c := &cobra.Command{
		Use: "recommend --sessions FILE", Short: "How often the next item is among the first 20", Args: cobra.NoArgs,
		Long: `Ask for 20 items before each click of the scored sessions, and see whether the click is among them.

Two kinds of files are read:
  sessions  one session a line, in time order: split (train or test), session_no, items (separated
            by spaces). There are no times: a session begins each --per-session.
  clicks    one event a line: time, session or visitor, item; perhaps kind (view, cart, order),
            position in the session, and split (train or test). Sessions that end in the last
            --test-days are scored, unless the file says itself which ones are.

The mode frozen learns from all sessions before and then moves nothing, as papers do; online
predicts, scores and then learns each event, in time order, as production does. Both score the same
cases. Of more scored sessions than --score so many are drawn.

Clicks beyond --hold go to temporary files in TMPDIR, 42 bytes each, so that a file of any length can
be read; they have no name there and are gone however this ends. Names of columns for --map: ts, session, visitor, item, kind, split, position; or split,
session_no, items.`,
		Example: `  sillage eval recommend --sessions clicks.csv.gz --method all --report report
  sillage eval recommend --sessions clicks.csv --mode online --test-days 2 --map session=visit --json
  sillage eval recommend --sessions yoochoose-clicks.dat --header session,ts,item,category --test-days 1
  TMPDIR=/big sillage eval recommend --sessions a-year-of-clicks.csv.gz`,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.measure(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.sessions, "sessions", "", "file of sessions or clicks")
	f.StringVar(&o.mode, "mode", string(o.cfg.Mode), "frozen or online")
	f.StringVar(&o.method, "method", string(recommend.Hybrid), strings.Join(names(recommend.Methods()), ", ")+", or all")
	f.StringVar(&o.baseline, "baseline", string(o.cfg.Baseline), "method that the others are compared with, or none")
	f.StringVar(&o.current, "current", "", "keep or drop: whether the current item may be recommended; empty: keep for sessions, drop for clicks, as their authors do")
	f.Float64Var(&o.reading.TestDays, "test-days", 0, "clicks: sessions that end in so many last days are scored; 0: as the file says itself, else a tenth of its span, 1 to 7 days")
	f.StringVar(&o.reading.TestSplit, "test-split", o.reading.TestSplit, "value of the column split that is scored")
	f.DurationVar(&o.reading.Gap, "gap", o.reading.Gap, "clicks of visitors: silence that ends a session")
	f.DurationVar(&o.reading.Silence, "silence", o.reading.Silence, "clicks of sessions: silence that ends one; its name may come again for another")
	f.IntVar(&o.reading.Hold, "hold", o.reading.Hold, "clicks held in memory (a million take about 60 MB while they are read); more go to temporary files")
	f.IntVar(&o.cfg.Sessions, "score", o.cfg.Sessions, "scored sessions at most; of more, so many are drawn")
	f.DurationVar(&o.reading.PerSession, "per-session", o.reading.PerSession, "sessions: time from one to the next, which the file does not say")
	f.DurationVar(&o.reading.PerClick, "per-click", o.reading.PerClick, "sessions: time from one click to the next")
	f.BoolVar(&o.linear, "linear", false, "hybrid: the linear ranker alone, without the second stage")
	f.IntVar(&o.cfg.VMIS.M, "vmis-m", o.cfg.VMIS.M, "vmis: sessions looked at")
	f.IntVar(&o.cfg.VMIS.K, "vmis-k", o.cfg.VMIS.K, "vmis: sessions that vote")
	f.IntVar(&o.cfg.VMIS.Last, "vmis-last", o.cfg.VMIS.Last, "vmis: newest items of the session that are used")
	f.IntVar(&o.cfg.VMIS.Held, "vmis-held", o.cfg.VMIS.Held, "vmis: newest sessions that it is built from")
	f.Float64Var(&o.cfg.VMIS.IDF, "vmis-idf", o.cfg.VMIS.IDF, "vmis: weight of the inverse document frequency")
	f.IntVar(&o.cfg.Resamples, "resamples", o.cfg.Resamples, "samples that intervals are taken from")
	o.bind(c)
	return c
}

func names[T ~string](v []T) []string {
	out := make([]string, len(v))
	for i, x := range v {
		out[i] = string(x)
	}
	return out
}

// check reads the flags; all mistakes are told at once.
func (o *evalRecommend) check(stderr io.Writer) (eval.Options, error) {
	opts, err := o.options(stderr)
	errs := []error{err}
	if o.sessions == "" {
		errs = append(errs, errors.New("--sessions names the file"))
	}
	o.cfg.Mode, o.cfg.Seed = recommend.Mode(o.mode), o.seed
	if o.linear {
		o.cfg.Index.SecondRate = 0
	}
	if o.cfg.Methods, err = recommend.MethodsOf(o.method); err != nil {
		errs = append(errs, err)
		o.cfg.Methods = recommend.Methods()
	}
	o.cfg.Baseline = ""
	if o.baseline != "none" && o.baseline != "" {
		b, err := recommend.MethodsOf(o.baseline)
		if err != nil || len(b) != 1 {
			errs = append(errs, fmt.Errorf("baseline: %q is neither none nor one of %s", o.baseline, strings.Join(names(recommend.Methods()), ", ")))
		} else {
			o.cfg.Baseline = b[0]
		}
	}
	if o.current != "" && o.current != "keep" && o.current != "drop" {
		errs = append(errs, fmt.Errorf("current: %q is neither keep nor drop", o.current))
	}
	return opts, errors.Join(append(errs, o.reading.Validate(), o.cfg.Validate())...)
}

func (o *evalRecommend) measure(ctx context.Context, stdout, stderr io.Writer) error {
	opts, err := o.check(stderr)
	if err != nil {
		return err
	}
	log, src, err := recommend.Read(ctx, o.sessions, o.reading, opts)
	if err != nil {
		return err
	}
	o.cfg.KeepCurrent = o.current == "keep" || o.current == "" && !log.Timed
	defer log.Close()
	out, err := recommend.Run(ctx, log, o.cfg, opts.Progress)
	if err != nil {
		return err
	}
	run := o.run([]eval.Source{src}, out.Settings(o.reading)...)
	if o.report != "" {
		r, err := out.Report(run)
		if err != nil {
			return err
		}
		if err := o.writeReport(r, stderr); err != nil {
			return err
		}
	}
	if o.json {
		results := out.Results(false)
		for i := range results {
			results[i].Run = &run
		}
		return eval.JSON(stdout, results...)
	}
	return o.print(stdout, log, src, out.Results(true))
}

func (o *evalRecommend) print(w io.Writer, log *recommend.Log, src eval.Source, results []recommend.Result) error {
	first := results[0]
	fmt.Fprintf(w, "%s: %d clicks, %d items, %s; %s\n", log.Name, log.Clicks, len(log.Items), log.Span(), log.How)
	for _, r := range src.Rejected {
		fmt.Fprintf(w, "not used: %d rows, the first on line %d: %s\n", r.Rows, r.Line, r.Reason)
	}
	fmt.Fprintf(w, "%s: %d cases of %d sessions, current item: %s\n\n", first.Mode, first.Cases, first.Sessions, first.Current)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "method\tHR@20\tMRR@20\tNDCG@20\tcoverage\tdiscovery HR\tyoung HR\tp50 us\tp99 us\tp99.5 us\t")
	for _, r := range results {
		young := "-"
		if r.Young != nil {
			young = r.Young.HR20.Format(4)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Method, r.HR20.Format(4), r.MRR20.Format(4), r.NDCG20.Format(4), r.Coverage.Format(3),
			r.Discovery.HR20.Format(4), young, r.Kernel.P50.Format(1), r.Kernel.P99.Format(1), r.Kernel.P995.Format(1))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		if a := r.Against; a != nil {
			fmt.Fprintf(w, "\n%s against %s: HR@20 %+.4f [%+.4f, %+.4f], MRR@20 %+.4f [%+.4f, %+.4f]", r.Method, a.Method, a.HR20.Value, a.HR20.Low, a.HR20.High, a.MRR20.Value, a.MRR20.Low, a.MRR20.High)
		}
	}
	_, err := fmt.Fprintf(w, "\nindex: %s us an event, %s us a step of learning, built in %s s, %s MB\n", first.Update.Format(2), first.Learn.Format(1), first.Build.Format(2), first.Heap.Format(1))
	return err
}
