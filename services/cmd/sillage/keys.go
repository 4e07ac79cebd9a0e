package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/services/collector"
)

func keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "List, add and revoke write keys"}
	var dir string
	c.PersistentFlags().StringVar(&dir, "data-dir", defaultUp().DataDir, "data directory of up")
	file := func() string { return filepath.Join(dir, "keys.yaml") }
	var asJSON bool
	list := &cobra.Command{Use: "list", Short: "List the keys", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		keys, err := collector.ReadKeys(file())
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(keys)
		}
		t := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "ID\tKIND\tSHOP\tORIGINS\tKEY")
		for _, k := range keys {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", k.ID, k.Kind, k.Shop, strings.Join(k.Origins, ","), k.Key)
		}
		return t.Flush()
	}}
	list.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	var origins []string
	add := &cobra.Command{
		Use: "add public SHOP | secret SHOP | admin", Short: "Add a key of a shop, or of an operator, and print it", Args: cobra.RangeArgs(1, 2), ValidArgs: []string{"public", "secret", "admin"},
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := collector.ReadKeys(file())
			if err != nil {
				return err
			}
			shop := ""
			if len(args) == 2 {
				shop = args[1]
			}
			k, err := collector.NewKey(collector.KeyKind(args[0]), shop)
			if err != nil {
				return err
			}
			k.Origins = origins
			if err := k.Validate(); err != nil {
				return err
			}
			if err := collector.WriteKeys(file(), append(keys, k)); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), k.Key)
			return nil
		},
	}
	add.Flags().StringSliceVar(&origins, "origin", nil, "origins such as https://shop.example that a public key may be used from; none: any")
	revoke := &cobra.Command{Use: "revoke ID", Short: "Revoke a key", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		keys, err := collector.ReadKeys(file())
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(slices.Clone(keys), func(k collector.Key) bool { return k.ID == args[0] })
		if len(left) == len(keys) {
			return fmt.Errorf("no key has the id %s: sillage key list shows them", args[0])
		}
		if err := collector.WriteKeys(file(), left); err != nil {
			return err
		}
		fmt.Fprintln(c.OutOrStdout(), "revoked; a running collector notices within seconds")
		return nil
	}}
	c.AddCommand(list, add, revoke)
	return c
}

// adminKey is the first admin key of a data directory.
func adminKey(dir string) (string, error) {
	keys, err := collector.ReadKeys(filepath.Join(dir, "keys.yaml"))
	if err != nil {
		return "", err
	}
	for _, k := range keys {
		if k.Kind == collector.Admin {
			return k.Key, nil
		}
	}
	return "", fmt.Errorf("no admin key in %s (give --key, or the --data-dir of up)", dir)
}

func shopCommand() *cobra.Command {
	c := &cobra.Command{Use: "shop", Short: "List shops, add one, or let one live by the wall clock"}
	var dir, url, key string
	c.PersistentFlags().StringVar(&dir, "data-dir", defaultUp().DataDir, "data directory of up")
	c.PersistentFlags().StringVar(&url, "collector", "http://"+defaultUp().HTTP.Listen, "where the collector answers")
	c.PersistentFlags().StringVar(&key, "key", "", "an admin key; empty: that of the data directory")
	call := func(c *cobra.Command, method, path string, into any) error {
		if key == "" {
			k, err := adminKey(dir)
			if err != nil {
				return err
			}
			key = k
		}
		req, err := http.NewRequestWithContext(c.Context(), method, url+path, nil)
		if err != nil {
			return fmt.Errorf("ask the collector: %w", err)
		}
		req.SetBasicAuth(key, "")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("ask the collector (is sillage up?): %w", err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return fmt.Errorf("ask the collector: %w", err)
		}
		if res.StatusCode != http.StatusOK {
			var said struct {
				Error string `json:"error"`
			}
			if json.Unmarshal(body, &said) == nil && said.Error != "" {
				return errors.New(said.Error)
			}
			return fmt.Errorf("the collector answers %s", res.Status)
		}
		return json.Unmarshal(body, into)
	}
	var asJSON bool
	list := &cobra.Command{Use: "list", Short: "List the shops", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		var shops []collector.Shop
		if err := call(c, http.MethodGet, "/v1/sillage/shops", &shops); err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(c.OutOrStdout()).Encode(shops)
		}
		t := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "SHOP\tMODE\tSINCE\tIMPORT")
		for _, s := range shops {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Name, s.Mode, s.Since.UTC().Format("2006-01-02 15:04:05"), s.ImportID)
		}
		return t.Flush()
	}}
	list.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	live := &cobra.Command{Use: "live SHOP", Short: "Let a shop that rests after an import live by the wall clock", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		var s collector.Shop
		if err := call(c, http.MethodPost, "/v1/sillage/shops/"+args[0]+"/live", &s); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "shop %s is live since %s\n", s.Name, s.Since.UTC().Format("2006-01-02 15:04:05"))
		return nil
	}}
	create := &cobra.Command{Use: "create SHOP", Short: "Make a public and a secret key for a new shop", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		file := filepath.Join(dir, "keys.yaml")
		keys, err := collector.ReadKeys(file)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(keys, func(k collector.Key) bool { return k.Shop == args[0] }) {
			return fmt.Errorf("shop %s has keys: sillage key list shows them", args[0])
		}
		for _, kind := range []collector.KeyKind{collector.Public, collector.Secret} {
			k, err := collector.NewKey(kind, args[0])
			if err != nil {
				return err
			}
			if err := k.Validate(); err != nil {
				return err
			}
			keys = append(keys, k)
			fmt.Fprintf(c.OutOrStdout(), "%s %s\n", kind, k.Key)
		}
		return collector.WriteKeys(file, keys)
	}}
	c.AddCommand(list, create, live)
	return c
}
