package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/web"
	"github.com/sillage-io/sillage/services/internal/eval"
)

// evalCommand holds one command a predictor.
func evalCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "eval", Short: "Measure the predictors on a file of a shop's own history, beside plain methods",
		Long: `Measure the packages that the services run, on a file that you name, beside plain methods over
the same cases. Nothing has to be running, and nothing is sent anywhere.

A file is delimited text with a header line (comma, semicolon, tab or bar; plain or gzip). Columns
are found by their usual names; --map NAME=COLUMN names others, and --header names all columns of
a file without a header line. --json prints one object a line,
--report DIR writes a page with plots that needs no network, and the plots as PNG files.`,
	}
	c.AddCommand(evalRecommendCommand(), evalChurnCommand(), evalRestockCommand())
	for _, sub := range c.Commands() {
		run := sub.RunE
		sub.RunE = func(c *cobra.Command, args []string) error { return interrupted(run(c, args)) }
	}
	return c
}

// interrupted says what a run that was told to stop leaves: a shell that only
// falls silent leaves one to wonder.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted: no result, no report, and no temporary file is left")
	}
	return err
}

// evalFlags are the flags that all evaluations have.
type evalFlags struct {
	json, quiet            bool
	report, dateFormat, tz string
	maps, header           []string
	seed                   uint64
}

// bind adds the flags to a command.
func (e *evalFlags) bind(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&e.json, "json", false, "one JSON object a line: one for each method")
	f.StringVar(&e.report, "report", "", "folder for report.html and its plots as PNG files; it is made")
	e.bindReading(c)
}

// bindReading adds those of a command that reads a file and writes no report.
func (e *evalFlags) bindReading(c *cobra.Command) {
	f := c.Flags()
	f.Uint64Var(&e.seed, "seed", 1, "seed of all that is drawn")
	f.StringArrayVar(&e.maps, "map", nil, "NAME=COLUMN, where a column has no usual name; several times")
	f.StringSliceVar(&e.header, "header", nil, "names of all columns, where the file has no header line: session,ts,item")
	f.StringVar(&e.dateFormat, "date-format", "", "ymd, yyyymmdd, unix, unixms, dmy, mdy, or a layout such as \"02 Jan 2006 15:04\"; empty: what the values say")
	f.StringVar(&e.tz, "tz", "UTC", "IANA name of the zone of times that name none")
	f.BoolVar(&e.quiet, "quiet", false, "no progress")
}

// options are how files are read. What is wrong with flags is told at once.
func (e *evalFlags) options(stderr io.Writer) (eval.Options, error) {
	o := eval.Options{Map: map[string]string{}, Header: e.header, DateFormat: e.dateFormat}
	var errs []error
	for _, m := range e.maps {
		name, column, ok := strings.Cut(m, "=")
		if !ok || name == "" || column == "" {
			errs = append(errs, fmt.Errorf("--map %q: want NAME=COLUMN", m))
			continue
		}
		if old, twice := o.Map[name]; twice && old != column {
			errs = append(errs, fmt.Errorf("--map %s: named twice, %s and %s", name, old, column))
		}
		o.Map[name] = column
	}
	var err error
	if o.Location, err = time.LoadLocation(e.tz); err != nil {
		errs = append(errs, fmt.Errorf("--tz: %w", err))
	}
	o.Progress = eval.NewProgress(stderr, e.quiet || e.json)
	if !e.quiet {
		o.Tell = func(line string) {
			o.Progress.Clear()
			fmt.Fprintln(stderr, line)
		}
	}
	return o, errors.Join(errs...)
}

// run is what makes the results repeatable.
func (e *evalFlags) run(files []eval.Source, settings ...eval.Setting) eval.Run {
	return eval.Run{Command: commandLine(os.Args), Version: web.Version(), Seed: e.seed, Files: files, Settings: settings}
}

// commandLine is a command as a shell takes it.
func commandLine(args []string) string {
	var b strings.Builder
	for i, a := range args {
		switch {
		case i == 0:
			a = "sillage"
		case a == "" || strings.ContainsAny(a, " \t\n'\"\\$`&|;<>()*?[]{}~#!"):
			a = " '" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		default:
			a = " " + a
		}
		b.WriteString(a)
	}
	return b.String()
}

// writeReport writes the report where one is wanted, and says where it is.
func (e *evalFlags) writeReport(r *eval.Report, stderr io.Writer) error {
	if e.report == "" {
		return nil
	}
	path, err := r.Write(e.report)
	if err == nil && !e.quiet {
		fmt.Fprintln(stderr, "report:", path)
	}
	return err
}
