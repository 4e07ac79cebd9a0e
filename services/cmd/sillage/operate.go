package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/restock"
)

// foldFlags are what the folds depend on: who folds again has to fold the same.
func (r *reach) foldFlags(c *cobra.Command) {
	c.Flags().StringVar(&r.dataDir, "data-dir", defaultUp().DataDir, "data directory of up, for the identity secret and for bases, where logs have been cut")
	c.Flags().StringVar(&r.identitySecret, "identity-secret", "", "key of the profile ids, where it is not in the data directory")
	c.Flags().StringVar(&r.timezone, "timezone", "UTC", "as given to up")
	c.Flags().Float64Var(&r.threshold, "churn-threshold", churn.DefaultConfig().Threshold, "as given to up")
	c.Flags().StringVar(&r.models, "models", defaultUp().Models, "as given to up")
	c.Flags().Float64Var(&r.serviceLevel, "service-level", restock.DefaultConfig().ServiceLevel, "as given to up")
}

// folding connects an operator to all, with the processors' own folds.
func (r *reach) folding() (op *stream.Operator, ps []stream.Processor, done func(), err error) {
	if ps, err = r.processors(); err != nil {
		return nil, nil, nil, err
	}
	if op, done, err = r.operator(true); err != nil {
		return nil, nil, nil, err
	}
	if op.Bases, err = r.bases(); err != nil {
		done()
		return nil, nil, nil, err
	}
	return op, ps, done, nil
}

// named picks processors by name; none: all.
func named(ps []stream.Processor, names []string) ([]stream.Processor, error) {
	if len(names) == 0 {
		return ps, nil
	}
	var picked []stream.Processor
	for _, name := range names {
		i := slices.IndexFunc(ps, func(p stream.Processor) bool { return p.Name == name })
		if i < 0 {
			return nil, unknownProcessor(name)
		}
		picked = append(picked, ps[i])
	}
	return picked, nil
}

// partitionsOf are all partitions of a processor, or the one that was asked for.
func partitionsOf(ctx context.Context, op *stream.Operator, p stream.Processor, only int32) ([]int32, error) {
	if only >= 0 {
		return []int32{only}, nil
	}
	n, err := op.Client.Partitions(ctx, p.Topic)
	if err != nil {
		return nil, err
	}
	var all []int32
	for i := range int32(n) {
		all = append(all, i)
	}
	return all, nil
}

// progress prints how far it is, at most once a second.
func progress(w io.Writer) func(stream.Progress) {
	var said time.Time
	return func(p stream.Progress) {
		if now := time.Now(); now.Sub(said) >= time.Second && p.At < p.To {
			said = now
			fmt.Fprintf(w, "%s/%d: %d of %d records, %.0f a second, %v left\n", p.Processor, p.Partition, p.At-p.From, p.To-p.From, p.Rate(), p.Left().Round(time.Second))
		}
	}
}

func rebuildCommand() *cobra.Command {
	var r reach
	var o stream.RebuildOptions
	var only int32
	var asJSON bool
	c := &cobra.Command{
		Use: "rebuild PROCESSOR", Short: "Fold a processor's log again, and replace its state by what comes out", Args: cobra.ExactArgs(1),
		Long: `Fold the log of a processor's partitions again, compare with its state, and put what comes
out in its place, in one write a partition; then read it back. The service may run: it
works on meanwhile, and claims the partition again when its state has been replaced. What
was published is not published again (a batch in hand may be, with equal ids, which readers
drop). An interruption changes nothing: begin again.

Where the log has lost its start, it begins with a snapshot (--from), or, where up runs its
own store, with the older base in its data directory.`,
		Example:           "  sillage rebuild restock.products --partition 3 --dry-run",
		ValidArgsFunction: one(completeProcessors),
		RunE: func(c *cobra.Command, args []string) error {
			op, ps, done, err := r.folding()
			if err != nil {
				return err
			}
			defer done()
			picked, err := named(ps, args)
			if err != nil {
				return err
			}
			partitions, err := partitionsOf(c.Context(), op, picked[0], only)
			if err != nil {
				return err
			}
			o.Report = progress(c.ErrOrStderr())
			w := c.OutOrStdout()
			var folded int64
			var took time.Duration
			for _, i := range partitions {
				got, err := op.Rebuild(c.Context(), picked[0], i, o)
				if errors.Is(err, stream.ErrNothing) && len(partitions) > 1 {
					fmt.Fprintf(c.ErrOrStderr(), "%v: left as it is\n", err)
					continue
				}
				if err != nil {
					return err
				}
				folded, took = folded+got.To-got.From, took+got.Elapsed
				if asJSON {
					if err := json.NewEncoder(w).Encode(got); err != nil {
						return err
					}
					continue
				}
				printRebuilt(w, got, o)
			}
			if !asJSON && took > 0 {
				fmt.Fprintf(w, "%d records in %v: %.0f a second\n", folded, took.Round(time.Millisecond), float64(folded)/took.Seconds())
			}
			return nil
		},
	}
	r.brokerFlags(c)
	r.storeFlags(c)
	r.foldFlags(c)
	c.Flags().Int32Var(&only, "partition", -1, "only this partition; -1: all")
	c.Flags().StringVar(&o.From, "from", "", "directory of a snapshot to begin with, in place of the log's start")
	c.Flags().BoolVar(&o.Drop, "drop", false, "drop the state at once, and let the running service fold it again: for a state that does harm")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "fold and compare, and change nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a partition")
	_ = c.MarkFlagDirname("from")
	return c
}

func printRebuilt(w io.Writer, got stream.Rebuilt, o stream.RebuildOptions) {
	what := fmt.Sprintf("%d of its entities were something else", got.Changed)
	switch {
	case o.Drop && !got.Written:
		what = "would be dropped"
	case o.Drop:
		what = "dropped, and folded again by its service"
	case got.Changed == 0:
		what = "it was what the log says"
	}
	end := ""
	switch {
	case got.Verified:
		end = "; read back and equal, digest " + got.Digest
	case !got.Written && !o.Drop:
		end = "; nothing is written"
	}
	fmt.Fprintf(w, "%s/%d: %d records from %d on, %d entities: %s%s\n", got.Processor, got.Partition, got.To-got.From, got.From, got.Entities, what, end)
	for _, e := range got.Examples {
		fmt.Fprintf(w, "    %s\n", short(e, 200))
	}
}

// one completes one argument alone.
func one(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(c, args, to)
	}
}

func speakCommand() *cobra.Command {
	var r reach
	var from string
	var only int32
	var asJSON bool
	var o stream.SpeakFrom
	c := &cobra.Command{
		Use: "speak PROCESSOR", Short: "Let a processor that has gone silent publish again", Args: cobra.ExactArgs(1),
		Long: `A partition folds without publishing where nobody knows what was published (its emission
mark is gone), or where its log has lost records before they were folded. sillage status
says which. This ends it:

  --from now     what was folded in silence is never published
  --from mark    what was folded since the silence began is published now
  --from OFFSET  what the records there and behind it cause is published now

For the last two the state goes back to that offset, folded from the log, and is folded
again from there. The service may run, or not: it takes the decision up when it claims the
partition the next time, which is at once where it runs. Partitions that speak are left
alone.`,
		Example:           "  sillage speak churn.customers --from mark",
		ValidArgsFunction: one(completeProcessors),
		RunE: func(c *cobra.Command, args []string) error {
			switch from {
			case "now":
				o.Now = true
			case "mark":
				o.Mark = true
			default:
				n, err := strconv.ParseInt(from, 10, 64)
				if err != nil || n < 0 {
					return fmt.Errorf("--from %q is none of now, mark, an offset", from)
				}
				if only < 0 {
					return errors.New("--from OFFSET is of one partition: name it with --partition")
				}
				o.Offset = n
			}
			op, ps, done, err := r.folding()
			if err != nil {
				return err
			}
			defer done()
			picked, err := named(ps, args)
			if err != nil {
				return err
			}
			o.Report = progress(c.ErrOrStderr())
			return speak(c, op, picked[0], only, o, asJSON)
		},
	}
	r.brokerFlags(c)
	r.storeFlags(c)
	r.foldFlags(c)
	c.Flags().StringVar(&from, "from", "", "now, mark or an offset: see above")
	c.Flags().Int32Var(&only, "partition", -1, "only this partition; -1: all that are silent")
	c.Flags().StringVar(&o.Base, "base", "", "directory of a snapshot to fold from, where the log has lost its start")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be published, and change nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a partition")
	_ = c.MarkFlagRequired("from")
	_ = c.MarkFlagDirname("base")
	_ = c.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{"now", "mark"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func speak(c *cobra.Command, op *stream.Operator, p stream.Processor, only int32, o stream.SpeakFrom, asJSON bool) error {
	w := c.OutOrStdout()
	partitions, err := partitionsOf(c.Context(), op, p, only)
	if err != nil {
		return err
	}
	n := 0
	for _, i := range partitions {
		s, err := op.Speak(c.Context(), p, i, o)
		if only < 0 && (errors.Is(err, stream.ErrSpeaks) || errors.Is(err, stream.ErrNothing)) {
			continue
		}
		if err != nil {
			return err
		}
		n++
		if asJSON {
			if err := json.NewEncoder(w).Encode(s); err != nil {
				return err
			}
			continue
		}
		would := ""
		if !s.Written {
			would = "would "
		}
		fmt.Fprintf(w, "%s/%d (silent: %s): %sspeak from offset %d on; %d records are folded again\n", s.Processor, s.Partition, s.Was, would, s.From, s.Again)
	}
	if n == 0 {
		return fmt.Errorf("%s: no partition is silent", p.Name)
	}
	return nil
}

func snapshotCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "snapshot", Short: "Save the state of processors, and restore it",
		Long: `A snapshot is a directory with the state of each partition: entities, what waits for its
time, positions, clocks, fence and emission mark, each in a file with a checksum. It fits
the log it was folded from, and any store: the embedded one, Redis, a Cluster, Valkey.`,
	}
	c.AddCommand(snapshotSaveCommand(), snapshotShowCommand(), snapshotRestoreCommand())
	return c
}

func snapshotSaveCommand() *cobra.Command {
	var r reach
	var asJSON bool
	c := &cobra.Command{
		Use: "save DIR [PROCESSOR...]", Short: "Save the state of all processors, or of some, into an empty directory", Args: cobra.MinimumNArgs(1),
		Long: `Save the state of processors into a directory, which has to be empty or missing. Services
may run: each partition is as it was at one moment, and partitions need not agree, because
each goes on from its own offset. A directory without manifest.json was not finished.`,
		Example:           "  sillage snapshot save /backup/sillage/$(date +%F)",
		ValidArgsFunction: dirThenProcessors,
		RunE: func(c *cobra.Command, args []string) error {
			ps, err := named(processors(defaultUp()), args[1:])
			if err != nil {
				return err
			}
			op, done, err := r.operator(true)
			if err != nil {
				return err
			}
			defer done()
			m, err := op.Save(c.Context(), ps, args[0], func(p stream.SnapshotPart) {
				fmt.Fprintf(c.ErrOrStderr(), "%s/%d saved at %d\n", p.Processor, p.Partition, p.Next)
			})
			if err != nil {
				return err
			}
			return printManifest(c.OutOrStdout(), m, asJSON)
		},
	}
	r.brokerFlags(c)
	r.storeFlags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "the manifest as JSON")
	return c
}

// dirThenProcessors completes a directory, and names behind it.
func dirThenProcessors(c *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return completeProcessors(c, args, to)
}

func printManifest(w io.Writer, m *stream.Manifest, asJSON bool) error {
	if asJSON {
		return indented(w, m)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "taken %s\n", m.Taken.Format(time.RFC3339))
	fmt.Fprintln(t, "PROCESSOR\tPART\tNEXT\tMARK\tENTITIES\tWAITING\tDIGEST\tNOTE")
	for _, p := range m.Partitions {
		note := ""
		if p.Silent != "" {
			note = "silent (" + p.Silent + ") "
		}
		if p.Incomplete {
			note += "incomplete"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", p.Processor, p.Partition, p.Next, p.Mark, p.Entities, p.Waiting, p.Digest, note)
	}
	return t.Flush()
}

func snapshotShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "show DIR", Short: "Show what a snapshot holds", Args: cobra.ExactArgs(1), ValidArgsFunction: dirThenProcessors,
		RunE: func(c *cobra.Command, args []string) error {
			m, err := stream.ReadManifest(args[0])
			if err != nil {
				return err
			}
			return printManifest(c.OutOrStdout(), m, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func snapshotRestoreCommand() *cobra.Command {
	var r reach
	var o stream.RestoreOptions
	var asJSON bool
	c := &cobra.Command{
		Use: "restore DIR [PROCESSOR...]", Short: "Put the state of a snapshot into the store", Args: cobra.MinimumNArgs(1),
		Long: `Replace the state of processors by that of a snapshot. They go on from its offsets: what
the log has since is folded again, and what was published is not published again. Before
anything is written, all of it is checked: that the snapshot is of this log, that its files
are whole, that the log still has what came after it. Services have to be stopped, or told
by --force: then they claim their partitions again.`,
		ValidArgsFunction: dirThenProcessors,
		RunE: func(c *cobra.Command, args []string) error {
			all := processors(defaultUp())
			m, err := stream.ReadManifest(args[0])
			if err != nil {
				return err
			}
			names := args[1:]
			if len(names) == 0 {
				for _, p := range m.Processors {
					names = append(names, p.Processor)
				}
			}
			ps, err := named(all, names)
			if err != nil {
				return err
			}
			op, done, err := r.operator(true)
			if err != nil {
				return err
			}
			defer done()
			w := c.OutOrStdout()
			parts, err := op.Restore(c.Context(), ps, args[0], o, func(p stream.SnapshotPart) {
				if asJSON {
					_ = json.NewEncoder(w).Encode(p) // whose reader is gone: nobody to tell
					return
				}
				what := "would be restored"
				if p.Restored {
					what = "restored, read back and equal, digest " + p.Digest
				}
				fmt.Fprintf(w, "%s/%d at %d: %d entities, %d waiting: %s\n", p.Processor, p.Partition, p.Next, p.Entities, p.Waiting, what)
			})
			if err == nil && len(parts) == 0 {
				err = errors.New("the snapshot has none of these partitions")
			}
			return err
		},
	}
	r.brokerFlags(c)
	r.storeFlags(c)
	c.Flags().Int32Var(&o.Partition, "partition", -1, "only this partition; -1: all")
	c.Flags().BoolVar(&o.Force, "force", false, "also where services run, and where the log has lost records since")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "check everything, and change nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a partition")
	return c
}
