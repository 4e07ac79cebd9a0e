package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	service "github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/internal/eval"
	"github.com/sillage-io/sillage/services/internal/eval/churn"
)

func evalChurnCommand() *cobra.Command {
	var flags evalFlags
	var orders, model, modelOut string
	var origins []string
	horizon := 90
	c := &cobra.Command{
		Use: "churn", Short: "Measure who-is-leaving predictions on a file of orders", Args: cobra.NoArgs,
		Long: `Live through the orders of a file up to a day, as the churn service would, and tell for each
customer how probable it is that he orders nothing in the days after it; then look.

The file has a date and a customer in each row, and may have amounts, or quantities and unit prices
of invoice lines. ` + strings.Join(churn.Rules(), " "),
		Example: "  sillage eval churn --orders orders.csv --origin 2011-03-01 --horizon 90\n  sillage eval churn --orders orders.csv.gz --origin 272,363 --horizon 91 --model online --json",
		RunE: func(c *cobra.Command, _ []string) error {
			if orders == "" {
				return errors.New("--orders: missing; which file of orders?")
			}
			o, err := flags.options(c.ErrOrStderr())
			if err != nil {
				return err
			}
			shop, source, err := churn.Read(c.Context(), orders, o)
			if err != nil {
				return err
			}
			cfg := churn.DefaultConfig()
			cfg.Horizon, cfg.Seed, cfg.Progress = horizon, flags.seed, o.Progress
			if model != "" && model != "all" {
				cfg.Models = strings.Split(model, ",")
			}
			if len(origins) == 0 {
				origins = []string{shop.Date(shop.Days - horizon)}
			}
			var errs []error
			for _, name := range origins {
				day, err := shop.Origin(strings.TrimSpace(name))
				errs = append(errs, err)
				cfg.Origins = append(cfg.Origins, day)
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			results, err := churn.Evaluate(c.Context(), shop, cfg)
			if err != nil {
				return err
			}
			if flags.report != "" {
				r, err := churn.Report(flags.run([]eval.Source{source}, churn.Settings(cfg, shop)...), shop, cfg, results)
				if err != nil {
					return err
				}
				if err := flags.writeReport(r, c.ErrOrStderr()); err != nil {
					return err
				}
			}
			if modelOut != "" {
				if err := writeModel(modelOut, shop, source, results); err != nil {
					return err
				}
			}
			if flags.json {
				if !flags.quiet {
					rejected(c.ErrOrStderr(), source)
				}
				return eval.JSON(c.OutOrStdout(), results...)
			}
			return printChurn(c.OutOrStdout(), shop, source, results)
		},
	}
	flags.bind(c)
	f := c.Flags()
	f.StringVar(&orders, "orders", "", "file of orders or invoice lines")
	f.StringSliceVar(&origins, "origin", nil, "last day that is known: a date, or days after the first order; several by commas; default: the last with a whole horizon after it")
	f.IntVar(&horizon, "horizon", horizon, "days without an order that make a churner")
	f.StringVar(&modelOut, "model-out", "", "file for what the online model has learnt at the last origin, for up --churn-model")
	f.StringVar(&model, "model", "all", strings.Join(churn.Models(), ", ")+", several by commas, or all")
	return c
}

// writeModel writes what was learnt at the last origin.
func writeModel(path string, shop *churn.Shop, source eval.Source, results []churn.Result) error {
	setting, day, ok := churn.Learnt(results)
	if !ok {
		return errors.New("--model-out: the online model is not among --model")
	}
	var b bytes.Buffer
	m := service.NewModel(setting, shop.First.AddDate(0, 0, day), source.SHA256)
	if err := m.Write(&b); err != nil {
		return fmt.Errorf("write the model: %w", err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the model: %w", err)
	}
	return nil
}

func printChurn(w io.Writer, shop *churn.Shop, source eval.Source, results []churn.Result) error {
	fmt.Fprintf(w, "%s: %d customers, %d order days from %s to %s\n", source.Path, len(shop.Customers), shop.Orders, shop.Date(0), shop.Date(shop.Days))
	rejected(w, source)
	last := -1
	for _, r := range results {
		if r.Day != last {
			last = r.Day
			fmt.Fprintf(w, "\norigin %s (day %d), %d days: %d customers, %s of them ordered nothing\n", r.Origin, r.Day, r.HorizonDays, r.Customers, r.BaseRate.Format(3))
			fmt.Fprintf(w, "%-8s %6s %7s %6s %6s | %-26s %-26s | 81%% recall: %7s %6s | earlier than fixed silence: %5s %5s\n",
				"model", "AUC", "Brier", "ECE", "slope", "AUC less that of the base", "Brier gained on it", "flagged", "FPR", "20%", "10%")
		}
		fmt.Fprintf(w, "%-8s %6s %7s %6s %6s | %-26s %-26s | %19s %6s | %33s %5s\n", r.Model, r.AUC.Format(4), r.Brier.Format(4), r.ECE.Format(3), r.Slope.Format(2),
			span(r.AUCGain), span(r.BrierGain), r.Flagged.Format(3), r.FalsePos.Format(3), r.Lead.Format(1), r.LeadStrict.Format(1))
	}
	return nil
}

// rejected says which rows were not used.
func rejected(w io.Writer, source eval.Source) {
	for _, r := range source.Rejected {
		fmt.Fprintf(w, "  %d of %d rows not used: %s (first in line %d)\n", r.Rows, source.Rows, r.Reason, r.Line)
	}
}

func span(i churn.Interval) string {
	return i.Value.Format(4) + " [" + i.Low.Format(4) + ", " + i.High.Format(4) + "]"
}
