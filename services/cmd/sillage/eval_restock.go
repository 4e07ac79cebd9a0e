package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/services/internal/eval"
	"github.com/sillage-io/sillage/services/internal/eval/restock"
)

func evalRestockCommand() *cobra.Command {
	var f evalFlags
	var orders, demand string
	cfg := restock.Config{HorizonDays: 28, Methods: []string{"all"}, Inventory: true}
	c := &cobra.Command{
		Use: "restock (--orders FILE | --demand FILE)", Args: cobra.NoArgs,
		Short: "Measure demand forecasts and stock policies on a history of orders or demand",
		Long: `Replay a history, forecast the demand for every product of its last five months as a
distribution, and judge the forecasts of each method over the same cases. For orders, simulate
stock under each method, and compare what service costs in days of stock.

--orders is lines of orders: date, product, units, and where there are any price, customer and
location. Returns are not taken from demand; a line that its customer is credited whole on the same
day never was; lines without a price are no demand; where nine codes of ten begin with five digits,
the others are charges and no products.

--demand is a table: date (or week), product, location, units, price, deal, feature; or a row for
each product with a column for each period (d_1, d_2 ... or dates). Its prices are taken as a plan that
is known ahead.

Methods: all, ` + strings.Join(restock.Methods(), ", ") + `.`,
		Example: `  sillage eval restock --orders invoice-lines.csv.gz --report report
  sillage eval restock --orders orders.csv --method online,window,tsb --inventory=false --json
  sillage eval restock --demand m5.csv --horizon 28 --map product=item_id --map units=sales
  sillage eval restock --demand demand-by-month.csv.gz --horizon 90`,
		RunE: func(c *cobra.Command, _ []string) error {
			if (orders == "") == (demand == "") {
				return errors.New("name one file: --orders FILE or --demand FILE")
			}
			o, err := f.options(c.ErrOrStderr())
			if err != nil {
				return err
			}
			cfg.Seed = f.seed
			read, path := restock.ReadOrders, orders
			if demand != "" {
				read, path = restock.ReadDemand, demand
			}
			h, source, err := read(c.Context(), path, o)
			if err != nil {
				return err
			}
			results, err := restock.Evaluate(c.Context(), h, cfg, o.Progress)
			if err != nil {
				return err
			}
			run := f.run([]eval.Source{source}, cfg.Settings(h)...)
			if f.report != "" {
				r, err := restock.Report(h, results, run)
				if err != nil {
					return err
				}
				if err := f.writeReport(r, c.ErrOrStderr()); err != nil {
					return err
				}
			}
			if f.json {
				return eval.JSON(c.OutOrStdout(), results...)
			}
			return printRestock(c.OutOrStdout(), h, source, results)
		},
	}
	c.Flags().StringVar(&orders, "orders", "", "file of order lines")
	c.Flags().StringVar(&demand, "demand", "", "file of demand by period")
	c.Flags().Float64Var(&cfg.HorizonDays, "horizon", cfg.HorizonDays, "days that a forecast spans")
	c.Flags().StringSliceVar(&cfg.Methods, "method", cfg.Methods, "methods to run")
	c.Flags().BoolVar(&cfg.Inventory, "inventory", cfg.Inventory, "simulate stock where the file is of orders")
	f.bind(c)
	return c
}

// printRestock prints a table for people.
func printRestock(w io.Writer, h *restock.History, source eval.Source, results []restock.Result) error {
	fmt.Fprintf(w, "%s: %d of %d rows used, %d series, %d periods of %.4g days\n", source.Path, source.Used(), source.Rows, len(h.Series), h.Periods, h.Period)
	for _, r := range source.Rejected {
		fmt.Fprintf(w, "  %d rows not used: %s\n", r.Rows, r.Reason)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "method\tSPL\tSPL .95\tSPL .99\tcover .95\tcover .99\tWAPE\tbias\tdays at 97 %\tout at 50 d\tsignals/order\t")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Method, r.SPL.Format(3), r.SPL95.Format(3), r.SPL99.Format(3), r.Cov95.Format(3), r.Cov99.Format(3),
			r.WAPE.Format(3), r.Bias.Format(3), r.DaysAtFill.Format(1), r.OutPct.Format(2), r.SignalsPerOrder.Format(2))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print results: %w", err)
	}
	return nil
}
