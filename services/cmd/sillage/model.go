package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/domain/churn"
	evalchurn "github.com/sillage-io/sillage/services/internal/eval/churn"

	services "github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/restock"
)

// modelPath is the file of a model: one of the data directory by its name, or a
// file where it is called one.
func modelPath(dataDir, name string) string {
	if strings.ContainsRune(name, os.PathSeparator) || strings.HasSuffix(name, ".json") {
		return name
	}
	return filepath.Join(dataDir, "models", name+".json")
}

func modelCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "model", Short: "List, learn, export and import the models that decide",
		Long: `A model is what was learnt from a shop's history, as a file that can be read, kept, carried to
another system and pinned (up --models pinned=NAME). Where none is pinned the shipped ones decide.
Today there are models of churn; the recommender learns while it runs, and restock's parameters
are shipped.`,
	}
	c.PersistentFlags().StringVar(&dir, "data-dir", defaultUp().DataDir, "data directory of up; models are in its folder models")
	c.AddCommand(modelListCommand(&dir), modelFitCommand(&dir), modelExportCommand(&dir), modelImportCommand(&dir))
	return c
}

func modelListCommand(dir *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "list", Short: "List the models", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		files, err := filepath.Glob(filepath.Join(*dir, "models", "*.json"))
		if err != nil {
			return err
		}
		type line struct {
			Name      string       `json:"name"`
			Predictor string       `json:"predictor"`
			Version   string       `json:"version"`
			Learnt    churn.Learnt `json:"learnt"`
		}
		lines := []line{
			{Name: "shipped", Predictor: "churn", Version: services.ShippedVersion},
			{Name: "shipped", Predictor: "restock", Version: restock.ModelVersion},
		}
		var errs []error
		for _, file := range files {
			m, version, err := readModel(file)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			lines = append(lines, line{Name: m.Name, Predictor: "churn", Version: version, Learnt: m.Learnt})
		}
		out := c.OutOrStdout()
		if asJSON {
			errs = append(errs, json.NewEncoder(out).Encode(lines))
			return errors.Join(errs...)
		}
		t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "NAME\tPREDICTOR\tVERSION\tLEARNT FROM")
		for _, l := range lines {
			from := "public data"
			if l.Learnt.Customers > 0 {
				from = fmt.Sprintf("%d customers, %d orders, %s to %s", l.Learnt.Customers, l.Learnt.Orders, l.Learnt.From, l.Learnt.To)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", l.Name, l.Predictor, l.Version, from)
		}
		return errors.Join(append(errs, t.Flush())...)
	}}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func modelFitCommand(dir *string) *cobra.Command {
	var flags evalFlags
	var orders, name string
	horizon := int(services.DefaultConfig().HorizonDays)
	c := &cobra.Command{
		Use: "fit churn --orders FILE --name NAME", Short: "Learn a model from a file of orders", Args: cobra.ExactArgs(1), ValidArgs: []string{"churn"},
		Long: `Live through all orders of a file, as sillage eval churn does up to an origin, and keep what was
learnt. sillage eval churn --orders FILE tells first how good it is.`,
		Example: "  sillage model fit churn --orders orders.csv --name spring\n  sillage up --models pinned=spring",
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] != "churn" {
				return fmt.Errorf("%s: only churn has models to be fitted from a file", args[0])
			}
			if orders == "" || name == "" {
				return errors.New("--orders and --name: both are needed")
			}
			o, err := flags.options(c.ErrOrStderr())
			if err != nil {
				return err
			}
			shop, source, err := evalchurn.Read(c.Context(), orders, o)
			if err != nil {
				return err
			}
			cfg := evalchurn.DefaultConfig()
			cfg.Horizon, cfg.Seed, cfg.Progress = horizon, flags.seed, o.Progress
			m, err := evalchurn.Train(c.Context(), shop, name, cfg)
			if err != nil {
				return fmt.Errorf("%s: %w", orders, err)
			}
			m.Learnt.SHA256 = source.SHA256
			return keepModel(c.OutOrStdout(), *dir, m)
		},
	}
	flags.bindReading(c)
	f := c.Flags()
	f.StringVar(&orders, "orders", "", "file of orders or invoice lines")
	f.StringVar(&name, "name", "", "what the model is called")
	f.IntVar(&horizon, "horizon", horizon, "days without an order that make a churner: those of the service")
	return c
}

func modelExportCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "export NAME [FILE]", Short: "Write a model to a file, or to standard output", Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			m := churn.ModelOf("shipped", churn.DefaultSetting(), churn.Learnt{})
			if args[0] != m.Name {
				var err error
				if m, _, err = readModel(modelPath(*dir, args[0])); err != nil {
					return err
				}
			}
			data, err := json.MarshalIndent(m, "", "  ")
			if err != nil {
				return fmt.Errorf("write model %s: %w", m.Name, err)
			}
			data = append(data, '\n')
			if len(args) == 1 {
				_, err = c.OutOrStdout().Write(data)
				return err
			}
			return os.WriteFile(args[1], data, 0o644)
		},
	}
}

func modelImportCommand(dir *string) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "import FILE", Short: "Check a model and put it where up finds it by its name", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			m, _, err := readModel(args[0])
			if err != nil {
				return err
			}
			if name != "" {
				m.Name = name
			}
			return keepModel(c.OutOrStdout(), *dir, m)
		},
	}
	c.Flags().StringVar(&name, "name", "", "another name for it")
	return c
}

// readModel reads and checks a model.
func readModel(file string) (m churn.Model, version string, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return m, "", fmt.Errorf("no model %s: sillage model list tells which there are", file)
	}
	if err != nil {
		return m, "", fmt.Errorf("read a model: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, "", fmt.Errorf("%s: %w", file, err)
	}
	version, err = m.Version()
	return m, version, err
}

// keepModel writes a model into the data directory, whole or not at all.
func keepModel(w io.Writer, dir string, m churn.Model) error {
	if m.Name == "shipped" {
		return errors.New("--name: shipped is taken")
	}
	if err := m.Validate(); err != nil {
		return err
	}
	version, err := m.Version()
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write model %s: %w", m.Name, err)
	}
	file := modelPath(dir, m.Name)
	if strings.HasSuffix(m.Name, ".json") {
		return fmt.Errorf("name %s: without .json", m.Name)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make the folder of models: %w", err)
	}
	if err := os.WriteFile(file+".new", append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write model %s: %w", m.Name, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write model %s: %w", m.Name, err)
	}
	_, err = fmt.Fprintf(w, "model %s, version %s, in %s; it decides with: sillage up --models pinned=%s\n", m.Name, version, file, m.Name)
	return err
}
