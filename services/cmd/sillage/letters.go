package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/record"
	"github.com/sillage-io/sillage/libs/topics"
)

func dlqCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "dlq", Short: "Look at records that could not be folded, and put them back",
		Long: `A record that a processor cannot fold goes to ` + topics.DeadLetters + ` as it came, with the reason: a dead
letter. Nothing waits for it, and nothing is lost. Once the reason is gone (another
version of the service, or a record that had to come first), requeue puts it back.`,
	}
	c.AddCommand(dlqListCommand(), dlqShowCommand(), dlqRequeueCommand())
	return c
}

// letterFlags choose letters.
type letterFlags struct {
	filter       stream.LetterFilter
	since, until string
	all          bool
}

func (f *letterFlags) bind(c *cobra.Command) {
	c.Flags().StringVar(&f.filter.Shop, "shop", "", "only of this shop")
	c.Flags().StringVar(&f.filter.Processor, "processor", "", "only what this processor could not fold")
	c.Flags().StringVar(&f.filter.Topic, "topic", "", "only records of this topic")
	c.Flags().Int32Var(&f.filter.Partition, "partition", -1, "only records of this partition of their topic; -1: all")
	c.Flags().StringVar(&f.filter.Reason, "reason", "", "only where the reason contains this")
	c.Flags().StringVar(&f.since, "since", "", "only what died since then: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 2h")
	c.Flags().StringVar(&f.until, "until", "", "only what died before then, as --since")
	c.Flags().Int64Var(&f.filter.FromOffset, "from-offset", 0, "only records from this offset of their partition on")
	c.Flags().Int64Var(&f.filter.ToOffset, "to-offset", 0, "only records before this offset; 0: no limit")
	c.Flags().IntVar(&f.filter.Limit, "limit", 0, "at most so many, oldest first; 0: all")
	_ = c.RegisterFlagCompletionFunc("processor", completeProcessors)
	_ = c.RegisterFlagCompletionFunc("topic", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{topics.Events, topics.Activity, topics.Supply}, cobra.ShellCompDirectiveNoFileComp
	})
}

// completeProcessors offers the names of the processors.
func completeProcessors(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, p := range processors(defaultUp()) {
		if !slices.Contains(args, p.Name) {
			names = append(names, p.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// choose is the filter that the flags say.
func (f *letterFlags) choose(ids []string) (stream.LetterFilter, error) {
	filter := f.filter
	filter.IDs = ids
	var errs [2]error
	filter.Since, errs[0] = moment("--since", f.since)
	filter.Until, errs[1] = moment("--until", f.until)
	if filter.Processor != "" && !slices.ContainsFunc(processors(defaultUp()), func(p stream.Processor) bool { return p.Name == filter.Processor }) {
		return filter, unknownProcessor(filter.Processor)
	}
	return filter, errors.Join(errs[:]...)
}

func unknownProcessor(name string) error {
	var names []string
	for _, p := range processors(defaultUp()) {
		names = append(names, p.Name)
	}
	return fmt.Errorf("no processor is called %s; there are %s", name, strings.Join(names, ", "))
}

// moment reads a time, or how long ago it was.
func moment(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%s %q is neither a time such as 2026-01-31T12:00:00Z nor how long ago, such as 2h", flag, s)
}

// operator connects to broker and, where it is asked for, store.
func (r *reach) operator(store bool) (op *stream.Operator, done func(), err error) {
	client, err := r.client()
	if err != nil {
		return nil, nil, err
	}
	op = &stream.Operator{Client: client}
	if !store {
		return op, client.Close, nil
	}
	if op.Store, err = r.store(); err != nil {
		client.Close()
		return nil, nil, err
	}
	return op, func() { op.Store.Close(); client.Close() }, nil
}

func dlqListCommand() *cobra.Command {
	var r reach
	var f letterFlags
	var asJSON, requeued bool
	c := &cobra.Command{
		Use: "list", Short: "List dead letters, oldest first, and count their reasons", Args: cobra.NoArgs,
		Long: `List the letters that nobody has put back yet, and how many there are of each reason.
It reads all of ` + topics.DeadLetters + `, and changes nothing.`,
		Example: "  sillage dlq list --processor restock.products --reason timezone --since 24h",
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := f.choose(nil)
			if err != nil {
				return err
			}
			filter.Requeued, filter.Open = requeued || f.all, f.all
			op, done, err := r.operator(false)
			if err != nil {
				return err
			}
			defer done()
			letters, reasons, unknown, err := op.Letters(c.Context(), filter)
			if err != nil {
				return err
			}
			if asJSON {
				return indented(c.OutOrStdout(), struct {
					Letters []stream.Letter `json:"letters"`
					Reasons map[string]int  `json:"reasons"`
					Unknown int             `json:"unreadable,omitempty"`
				}{append([]stream.Letter{}, letters...), reasons, unknown})
			}
			return printLetters(c.OutOrStdout(), letters, reasons, unknown)
		},
	}
	r.brokerFlags(c)
	f.bind(c)
	c.Flags().BoolVar(&requeued, "requeued", false, "those that were put back, in place of those that are open")
	c.Flags().BoolVar(&f.all, "all", false, "those that were put back, too")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON, with counts by reason")
	return c
}

func indented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printLetters(w io.Writer, letters []stream.Letter, reasons map[string]int, unknown int) error {
	if len(letters) == 0 {
		fmt.Fprintln(w, "no dead letters")
	} else {
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "ID\tPROCESSOR\tRECORD\tSHOP\tTYPE\tDIED\tATTEMPTS\tREASON")
		for _, l := range letters {
			reason := l.Reason
			if l.Requeued != nil {
				reason = fmt.Sprintf("put back by %s at %s: %s", l.Requeued.By, l.Requeued.At.Format(time.DateTime), reason)
			}
			fmt.Fprintf(t, "%s\t%s\t%s/%d@%d\t%s\t%s\t%s\t%d\t%s\n", l.ID, l.Processor, l.Topic, l.Partition, l.Offset, l.Shop, l.Type, l.Died.Format(time.DateTime), l.Attempts, short(reason, 100))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
		names := slices.SortedFunc(maps.Keys(reasons), func(a, b string) int {
			if reasons[a] != reasons[b] {
				return reasons[b] - reasons[a]
			}
			return strings.Compare(a, b)
		})
		for i, name := range names {
			if i == 20 {
				fmt.Fprintf(w, "and %d other reasons\n", len(names)-i)
				break
			}
			fmt.Fprintf(w, "%7d  %s\n", reasons[name], short(name, 120))
		}
	}
	if unknown > 0 {
		fmt.Fprintf(w, "%d records of %s are not letters of a form that this program knows: sillage tail %s shows them\n", unknown, topics.DeadLetters, topics.DeadLetters)
	}
	return nil
}

// short is one line of at most n characters.
func short(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-3]) + "..."
}

func dlqShowCommand() *cobra.Command {
	var r reach
	var asJSON bool
	c := &cobra.Command{
		Use: "show ID", Short: "Show one dead letter: reason, headers, decoded value", Args: cobra.ExactArgs(1),
		Long: "Show a letter and the record that died, as it came. The beginning of an id is enough.",
		RunE: func(c *cobra.Command, args []string) error {
			op, done, err := r.operator(false)
			if err != nil {
				return err
			}
			defer done()
			letters, _, _, err := op.Letters(c.Context(), stream.LetterFilter{IDs: args, Partition: -1, Open: true, Requeued: true})
			if err != nil {
				return err
			}
			if len(letters) != 1 {
				return fmt.Errorf("%d letters have an id that begins with %s", len(letters), args[0])
			}
			origin, err := op.Origin(c.Context(), letters[0])
			if err != nil {
				return err
			}
			return showLetter(c.OutOrStdout(), letters[0], &origin, asJSON)
		},
	}
	r.brokerFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON, with the value's bytes in base 64")
	return c
}

func showLetter(w io.Writer, l stream.Letter, r *record.Record, asJSON bool) error {
	if asJSON {
		type header struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		}
		out := struct {
			stream.Letter

			Headers []header        `json:"headers"`
			Raw     []byte          `json:"raw"`
			Data    json.RawMessage `json:"data"`
		}{Letter: l, Headers: []header{}, Raw: r.Value, Data: data(r)}
		for _, h := range r.Headers {
			out.Headers = append(out.Headers, header{h.Key, string(h.Value)})
		}
		return indented(w, out)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("letter", l.ID)
	row("reason", l.Reason)
	row("processor", fmt.Sprintf("%s, fold version %d, attempt %d", l.Processor, l.FoldVersion, l.Attempts))
	row("record", fmt.Sprintf("%s/%d@%d of log %s", l.Topic, l.Partition, l.Offset, l.Log))
	row("appended", l.Appended.Format(time.RFC3339Nano))
	row("died", l.Died.Format(time.RFC3339Nano))
	if q := l.Requeued; q != nil {
		row("put back", fmt.Sprintf("by %s at %s, as %s/%d@%d: %s", q.By, q.At.Format(time.DateTime), l.Topic, l.Partition, q.Offset, q.Why))
	} else {
		row("put back", "no (sillage dlq requeue "+l.ID+")")
	}
	row("key", fmt.Sprintf("%q", r.Key))
	for _, h := range r.Headers {
		row("  "+h.Key, printable(h.Value))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "value, %d bytes\n    %s\n", len(r.Value), data(r))
	return err
}

// printable is a header's value for a terminal.
func printable(b []byte) string {
	if utf8.Valid(b) && !strings.ContainsFunc(string(b), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return string(b)
	}
	return fmt.Sprintf("%q", b)
}

func dlqRequeueCommand() *cobra.Command {
	var r reach
	var f letterFlags
	var asJSON, dry bool
	var by, why string
	var wait time.Duration
	c := &cobra.Command{
		Use: "requeue [ID...]", Short: "Put the records of dead letters back",
		Long: `Append the records of letters to the end of the partition in which they died, for the
processor that could not fold them; others that read the topic pass them over. They keep
their id and their event time, and count now. Each letter is answered by a record that
says who has put it back, when and why. However often a letter is put back, and whatever
crashes meanwhile, its record is folded once. One that cannot be folded again becomes a
letter of its own.

Choose letters by their ids (their beginnings are enough), by filters, or all.`,
		Example: "  sillage dlq requeue --processor churn.customers --reason 'unknown currency' --why 'fixed in 1.4.2' --dry-run",
		RunE: func(c *cobra.Command, args []string) error {
			filter, err := f.choose(args)
			if err != nil {
				return err
			}
			none := stream.LetterFilter{Partition: -1, Limit: filter.Limit}
			if fmt.Sprint(filter) == fmt.Sprint(none) && !f.all {
				return errors.New("give the ids of letters, filters, or --all")
			}
			op, done, err := r.operator(wait > 0)
			if err != nil {
				return err
			}
			defer done()
			letters, _, _, err := op.Letters(c.Context(), filter)
			if err != nil {
				return err
			}
			return requeue(c, op, letters, by, why, wait, dry, asJSON)
		},
	}
	r.brokerFlags(c)
	r.storeFlags(c)
	f.bind(c)
	c.Flags().BoolVar(&f.all, "all", false, "all letters that are open")
	c.Flags().StringVar(&by, "by", whoami(), "who puts them back")
	c.Flags().StringVar(&why, "why", "", "why now, for those who ask later")
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be put back, and change nothing")
	c.Flags().DurationVar(&wait, "wait", 0, "wait so long until they are folded, and say which have died again; 0: do not wait")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a letter")
	return c
}

func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

func requeue(c *cobra.Command, op *stream.Operator, letters []stream.Letter, by, why string, wait time.Duration, dry, asJSON bool) error {
	w, ps := c.OutOrStdout(), processors(defaultUp())
	e := json.NewEncoder(w)
	var failed error
	say := func(l stream.Letter) {
		if asJSON {
			failed = errors.Join(failed, e.Encode(l))
			return
		}
		what := "would be put back"
		if l.Requeued != nil {
			what = fmt.Sprintf("put back as %s/%d@%d", l.Topic, l.Partition, l.Requeued.Offset)
		}
		fmt.Fprintf(w, "%s  %s  %s/%d@%d  %s\n", l.ID, l.Processor, l.Topic, l.Partition, l.Offset, what)
	}
	if dry {
		logs := map[string]string{}
		n := 0
		for _, l := range letters {
			if err := op.Requeueable(c.Context(), ps, l, logs); err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			n++
			say(l)
		}
		fmt.Fprintf(c.ErrOrStderr(), "%d of %d letters would be put back\n", n, len(letters))
		return failed
	}
	done, err := op.Requeue(c.Context(), ps, letters, by, why, say)
	fmt.Fprintf(c.ErrOrStderr(), "%d of %d letters put back\n", len(done), len(letters))
	if err = errors.Join(err, failed); err != nil || wait == 0 || len(done) == 0 {
		return err
	}
	died, err := op.Again(c.Context(), ps, done, wait)
	if err != nil {
		return err
	}
	for _, l := range died {
		fmt.Fprintf(c.ErrOrStderr(), "%s  died again: %s\n", l.ID, short(l.Reason, 120))
	}
	if len(died) > 0 {
		return fmt.Errorf("%d of %d died again", len(died), len(done))
	}
	fmt.Fprintf(c.ErrOrStderr(), "all %d are folded\n", len(done))
	return nil
}
