package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/telemetry"
	"github.com/sillage-io/sillage/services/collector"
	"github.com/sillage-io/sillage/services/internal/simulator"
)

func simulateCommand() *cobra.Command {
	cfg := simulator.DefaultConfig()
	var dir string
	var duration time.Duration
	c := &cobra.Command{
		Use: "simulate", Short: "Let a simulated shop live on a collector", Args: cobra.NoArgs,
		Long: `Let a simulated shop live on a collector until it is told to stop: at first its past, as an
import, where the shop has none yet, and then visits, carts, orders and deliveries. What is true of
its customers and products follows from the seed. up --demo does the same inside up.

The shop needs a public and a secret key: sillage shop create NAME makes them.`,
		RunE: func(c *cobra.Command, _ []string) error {
			keys, err := collector.ReadKeys(filepath.Join(dir, "keys.yaml"))
			if err != nil {
				return err
			}
			for _, k := range keys {
				switch {
				case k.Kind == collector.Admin && cfg.Admin == "":
					cfg.Admin = k.Key
				case k.Kind == collector.Public && k.Shop == cfg.Shop:
					cfg.Public = k.Key
				case k.Kind == collector.Secret && k.Shop == cfg.Shop:
					cfg.Secret = k.Key
				}
			}
			if cfg.Admin == "" || cfg.Public == "" || cfg.Secret == "" {
				return fmt.Errorf("%s has no admin key, or no public and secret key of shop %s (sillage shop create %s)", filepath.Join(dir, "keys.yaml"), cfg.Shop, cfg.Shop)
			}
			if cfg.EventsPerSecond <= 0 || cfg.EventsPerSecond > 10_000 {
				return fmt.Errorf("--rate: %g is not between 0 and 10000", cfg.EventsPerSecond)
			}
			cfg.Client, cfg.Log = http.DefaultClient, telemetry.Logger(telemetry.DefaultConfig(), os.Stderr)
			ctx := c.Context()
			if duration > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, duration)
				defer cancel()
			}
			cfg.Log.Info("simulating", slog.String("shop", cfg.Shop), slog.String("collector", cfg.URL), slog.Float64("events_per_second", cfg.EventsPerSecond))
			return simulator.Run(ctx, cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.URL, "collector", "http://"+defaultUp().HTTP.Listen, "where the collector answers")
	f.StringVar(&cfg.Shop, "shop", cfg.Shop, "shop that lives")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "seed of the shop")
	f.Float64Var(&cfg.EventsPerSecond, "rate", cfg.EventsPerSecond, "events a second")
	f.DurationVar(&duration, "duration", 0, "how long; 0: until told to stop")
	f.StringVar(&dir, "data-dir", defaultUp().DataDir, "data directory of up, for the keys")
	return c
}
