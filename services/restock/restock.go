package restock

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/sillage-io/sillage/libs/domain/restock"

	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	restockv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/restock/v1"
	"github.com/sillage-io/sillage/services/internal/host"
)

// Names of the processors.
const (
	Name       = "restock.products"
	FitterName = "restock.fitter"
)

// ModelVersion names the model that decides; behind a plus follows what it has learnt of
// the shop: until which day, and a checksum.
const ModelVersion = "gamma-poisson-2"

// Config is the service's configuration.
type Config struct {
	Timezone     string  `yaml:"timezone" usage:"IANA name of the zone whose days the shop lives by"`
	Target       string  `yaml:"target" usage:"what reorder points are to reach: cycle-service, fill-rate or economic"`
	ServiceLevel float64 `yaml:"service-level" usage:"of cycle-service: share of order cycles without a stock-out, between 0.5 and 1"`
	FillRate     float64 `yaml:"fill-rate" usage:"of fill-rate: share of units served from stock, between 0.5 and 1"`
	Margin       float64 `yaml:"margin" usage:"of economic, and of the worth of orders: what a unit sold earns, as a share of its price"`
	Goodwill     float64 `yaml:"goodwill" usage:"of economic: what a unit missed costs besides its margin, as a share of its price"`
	Markdown     float64 `yaml:"markdown" usage:"of economic: what a unit that was not wanted is likely to lose, as a share of its price"`
	HoldingRate  float64 `yaml:"holding-rate" usage:"what holding stock costs a year, as a share of its price"`
	ReviewDays   float64 `yaml:"review-days" usage:"days between two chances to order"`
	OrderDays    float64 `yaml:"order-days" usage:"days of demand that one order is to bring, where order-cost is 0 or no price is known"`
	OrderCost    float64 `yaml:"order-cost" usage:"what placing an order costs, in the money of the prices; above 0 orders have the economic quantity"`
	MaxCoverDays float64 `yaml:"max-cover-days" usage:"days of demand beyond which nothing is ordered, but for a supplier's minimum"`
	ShelfDays    float64 `yaml:"shelf-days" usage:"days for which a unit can be sold after it came; 0: it does not spoil"`
	LeadDays     float64 `yaml:"lead-days" usage:"days from order to receipt, believed until receipts are seen"`
	LeadCV       float64 `yaml:"lead-cv" usage:"coefficient of variation of the lead time, believed until receipts are seen"`
	Pinned       bool    `yaml:"pinned" usage:"nothing is learnt across a shop's products, and what was learnt is not used; to change it judges the past anew: sillage rebuild"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	p := restock.DefaultPolicy()
	return Config{
		Timezone: "UTC", Target: p.Target.String(), ServiceLevel: p.ServiceLevel, FillRate: p.FillRate, Margin: p.Margin, Goodwill: p.Goodwill,
		Markdown: p.Markdown, HoldingRate: p.HoldingRate, ReviewDays: p.ReviewDays, OrderDays: p.OrderDays, OrderCost: p.OrderCost,
		MaxCoverDays: p.MaxCoverDays, ShelfDays: p.ShelfDays, LeadDays: p.LeadDays, LeadCV: p.LeadCV,
	}
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if _, err := time.LoadLocation(c.Timezone); err != nil {
		errs = append(errs, fmt.Errorf("timezone: %w", err))
	}
	if _, err := restock.ParseTarget(c.Target); err != nil {
		errs = append(errs, err)
	}
	s := c.setting()
	return errors.Join(append(errs, s.Validate())...)
}

// setting is what decisions read, without gaps. What Validate refuses is left at its
// default.
func (c Config) setting() restock.Setting {
	s := restock.DefaultSetting()
	p := &s.Policy
	p.ServiceLevel, p.FillRate, p.Margin, p.Goodwill, p.Markdown, p.HoldingRate = c.ServiceLevel, c.FillRate, c.Margin, c.Goodwill, c.Markdown, c.HoldingRate
	p.ReviewDays, p.OrderDays, p.OrderCost, p.MaxCoverDays, p.ShelfDays = c.ReviewDays, c.OrderDays, c.OrderCost, c.MaxCoverDays, c.ShelfDays
	p.LeadDays, p.LeadCV = c.LeadDays, c.LeadCV
	if t, err := restock.ParseTarget(c.Target); err == nil {
		p.Target = t
	}
	if loc, err := time.LoadLocation(c.Timezone); err == nil {
		s.Location = loc
	}
	return s
}

// Processor is restock.products.
func Processor(cfg Config) stream.Processor {
	p := stream.Processor{
		Name: Name, Topic: topics.Supply, Layout: state.Buckets, Order: step.InTimeOrder,
		Types: []string{topics.TypeSupply}, FoldVersion: 3,
		Outputs: []string{topics.RestockSignals, topics.RestockState, topics.RestockStats},
		New:     stream.Of[Product](NewFold(cfg), Codec{}),
	}
	if !cfg.Pinned {
		p.Model = topics.TypeRestockLayer
	}
	return p
}

// Fitter is restock.fitter, which learns what the products of a shop share.
func Fitter() stream.Processor {
	return stream.Processor{
		Name: FitterName, Topic: topics.RestockStats, Layout: state.PerKey, Order: step.OnArrival,
		Types: []string{topics.TypeRestockStat}, FoldVersion: 1,
		Broadcast: []string{topics.Supply},
		New:       stream.Of[restock.Pool](FitterFold{}, FitterCodec{}),
	}
}

// Processors are all of the service.
func Processors(cfg Config) []stream.Processor { return []stream.Processor{Processor(cfg), Fitter()} }

// Part is the service as a part of a process.
func Part(h *host.Host, cfg Config) (host.Part, error) {
	p, fitter := Processor(cfg), Fitter()
	server := NewServer(cfg, Deps{Lookup: h.LookupOne(p), Clock: h.Clock(p), Watch: h.Watch})
	return host.Part{
		Processors: []stream.Processor{p, fitter}, Components: []service.Component{h.Component(p), h.Component(fitter)},
		Register: func(s *grpc.Server) { restockv1.RegisterRestockServiceServer(s, server) },
	}, nil
}
