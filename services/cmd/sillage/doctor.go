package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/state"
)

func doctorCommand() *cobra.Command {
	var r reach
	var production, asJSON bool
	c := &cobra.Command{
		Use: "doctor", Short: "Look for settings of broker and store that put state at risk", Args: cobra.NoArgs,
		Long: `Ask broker and store for their settings, and compare logs with the state that was folded
from them. What must not stay as it is makes it end with an error; the rest are warnings.
Each finding says what to do. It changes nothing, and does not look at services.`,
		RunE: func(c *cobra.Command, _ []string) error {
			op, done, err := r.operator(true)
			if err != nil {
				return err
			}
			defer done()
			found, err := op.Doctor(c.Context(), processors(defaultUp()), production)
			if err != nil {
				return err
			}
			refused := 0
			for _, f := range found {
				if f.Refuse {
					refused++
				}
			}
			w := c.OutOrStdout()
			if asJSON {
				if err := indented(w, append([]state.Finding{}, found...)); err != nil {
					return err
				}
			} else {
				if len(found) == 0 {
					fmt.Fprintln(w, "nothing found")
				}
				for _, f := range found {
					level := "warning"
					if f.Refuse {
						level = "REFUSED"
					}
					fmt.Fprintf(w, "%s  %s: %s\n         fix: %s\n", level, f.Where, f.What, f.Fix)
				}
			}
			if refused > 0 {
				return fmt.Errorf("%d findings that must not stay, %d warnings", refused, len(found)-refused)
			}
			return nil
		},
	}
	r.brokerFlags(c)
	r.storeFlags(c)
	c.Flags().BoolVar(&production, "production", false, "refuse also what one broker on a desk may do: no replicas")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}
