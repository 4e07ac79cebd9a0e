package main

import (
	"context"
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
	"github.com/sillage-io/sillage/libs/stream/step"
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
another system and pinned (up --models pinned=NAME). Where none is pinned, what each shop teaches
while the system runs decides, and the shipped ones until it has taught something. There are models
of churn: export --shop writes what a running system has learnt.`,
	}
	c.PersistentFlags().StringVar(&dir, "data-dir", defaultUp().DataDir, "data directory of up; models are in its folder models")
	c.AddCommand(modelListCommand(&dir), modelFitCommand(&dir), modelExportCommand(&dir), modelImportCommand(&dir))
	return c
}

func modelListCommand(dir *string) *cobra.Command {
	var asJSON bool
	var r reach
	var shops []string
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
		for _, shop := range shops {
			m, version, err := r.learntModel(c.Context(), shop)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			lines = append(lines, line{Name: "of " + shop, Predictor: "churn", Version: version, Learnt: m.Learnt})
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
				from = fmt.Sprintf("%d customers, %s to %s", l.Learnt.Customers, l.Learnt.From, l.Learnt.To)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", l.Name, l.Predictor, l.Version, from)
		}
		return errors.Join(append(errs, t.Flush())...)
	}}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	r.storeFlags(c)
	c.Flags().StringSliceVar(&shops, "shop", nil, "and what a running system has learnt of these shops")
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
	var r reach
	var shop string
	c := &cobra.Command{
		Use: "export NAME [FILE] | export --shop SHOP [FILE]", Short: "Write a model to a file, or to standard output", Args: cobra.RangeArgs(0, 2),
		Example: "  sillage model export --shop main spring.json\n  sillage model import --name spring spring.json",
		RunE: func(c *cobra.Command, args []string) error {
			var m churn.Model
			var err error
			switch {
			case shop != "":
				m, _, err = r.learntModel(c.Context(), shop)
			case len(args) == 0:
				return errors.New("which model? Give its name, or a shop by --shop")
			case args[0] == "shipped":
				m = churn.ModelOf("shipped", churn.DefaultSetting(), churn.Learnt{})
			default:
				m, _, err = readModel(modelPath(*dir, args[0]))
			}
			if err != nil {
				return err
			}
			if shop == "" {
				args = args[1:]
			}
			data, err := m.AppendJSON(nil)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				_, err = c.OutOrStdout().Write(data)
				return err
			}
			return os.WriteFile(args[0], data, 0o644)
		},
	}
	r.storeFlags(c)
	c.Flags().StringVar(&shop, "shop", "", "the model that a running system has learnt of this shop, in place of one by name")
	return c
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
	if m, version, err = churn.ReadModel(data); err != nil {
		return m, "", fmt.Errorf("%s: %w", file, err)
	}
	return m, version, nil
}

// learntModel asks a running system for what a shop has taught it: each partition
// of the customers holds it.
func (r *reach) learntModel(ctx context.Context, shop string) (m churn.Model, version string, err error) {
	store, err := r.store()
	if err != nil {
		return m, "", err
	}
	defer store.Close()
	p := services.Processor(services.DefaultConfig())
	value, ok, err := store.Read(ctx, p.Tag(0), p.Layout, step.ModelName(shop))
	if err != nil {
		return m, "", fmt.Errorf("read the model of shop %s: %w", shop, err)
	}
	if !ok {
		return m, "", fmt.Errorf("shop %s has taught nothing yet; the shipped model decides", shop)
	}
	data, err := step.StateOf(value)
	if err != nil {
		return m, "", fmt.Errorf("read the model of shop %s: %w", shop, err)
	}
	return services.ReadModelRecord(data)
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
	data, err := m.AppendJSON(nil)
	if err != nil {
		return err
	}
	file := modelPath(dir, m.Name)
	if strings.HasSuffix(m.Name, ".json") {
		return fmt.Errorf("name %s: without .json", m.Name)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make the folder of models: %w", err)
	}
	if err := os.WriteFile(file+".new", data, 0o644); err != nil {
		return fmt.Errorf("write model %s: %w", m.Name, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write model %s: %w", m.Name, err)
	}
	_, err = fmt.Fprintf(w, "model %s, version %s, in %s; it decides with: sillage up --models pinned=%s\n", m.Name, version, file, m.Name)
	return err
}
