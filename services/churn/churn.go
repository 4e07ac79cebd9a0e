package churn

import (
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/sillage-io/sillage/libs/domain/churn"

	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
	"github.com/sillage-io/sillage/services/internal/host"
)

// Name is the processor's name.
const Name = "churn.customers"

// ShippedVersion names the parameters that decide where no model is pinned and none
// was learnt yet.
const ShippedVersion = "mbgcnbd-shipped-1"

// Config is the service's configuration.
type Config struct {
	IdentitySecret string  `yaml:"identity-secret" usage:"key of the hash that makes profile ids; the same in all services, never changed" secret:"true"`
	Timezone       string  `yaml:"timezone" usage:"IANA name of the zone whose days the shop lives by"`
	Threshold      float64 `yaml:"threshold" usage:"probability of no order within the horizon at which an alert is raised, between 0 and 1"`
	HorizonDays    float64 `yaml:"horizon-days" usage:"days for which the probability is asked"`
	QuietDays      float64 `yaml:"quiet-days" usage:"days of silence below which nobody is alerted"`
	Holdout        float64 `yaml:"holdout" usage:"share of alerts that no action may follow, for comparison, 0 to 1"`
	Pinned         bool    `yaml:"pinned" usage:"the shipped model decides, or that of model-file, and not what each shop teaches while it runs"`
	ModelFile      string  `yaml:"model-file" usage:"model that is pinned, as sillage model fit writes it; another one judges the past anew: sillage rebuild"`

	// Model is what ModelFile holds; nil: the shipped one.
	Model *churn.Model `yaml:"-"`
}

// Loaded reads ModelFile.
func (c Config) Loaded() (Config, error) {
	if c.ModelFile == "" {
		return c, nil
	}
	data, err := os.ReadFile(c.ModelFile)
	if err != nil {
		return c, fmt.Errorf("model-file: %w", err)
	}
	m, _, err := churn.ReadModel(data)
	if err != nil {
		return c, fmt.Errorf("model-file %s: %w", c.ModelFile, err)
	}
	c.Model = &m
	s := c.policy()
	if err := m.Into(&s); err != nil {
		return c, fmt.Errorf("model-file %s: %w", c.ModelFile, err)
	}
	return c, nil
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	p := churn.DefaultPolicy()
	return Config{Timezone: "UTC", Threshold: p.Theta, HorizonDays: p.HorizonDays, QuietDays: p.QuietDays, Holdout: p.Holdout}
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if len(c.IdentitySecret) < 16 {
		errs = append(errs, errors.New("identity-secret: at least 16 characters"))
	}
	if _, err := time.LoadLocation(c.Timezone); err != nil {
		errs = append(errs, fmt.Errorf("timezone: %w", err))
	} else {
		s := c.policy()
		errs = append(errs, s.Validate())
	}
	_, err := c.Loaded()
	return errors.Join(append(errs, err)...)
}

// pinned tells whether model records are not listened to.
func (c Config) pinned() bool { return c.Pinned || c.ModelFile != "" || c.Model != nil }

// setting is what decisions read until a fitter has said something, without gaps,
// and the name of the model.
func (c Config) setting() (churn.Setting, string) {
	s := c.policy()
	if c.Model == nil {
		return s, ShippedVersion
	}
	version, err := c.Model.Version()
	if err := errors.Join(err, c.Model.Into(&s)); err != nil {
		panic(err) // a model that was not Loaded
	}
	return s, version
}

// policy is the setting with the shipped model.
func (c Config) policy() churn.Setting {
	s := churn.DefaultSetting()
	s.Policy.Theta, s.Policy.HorizonDays, s.Policy.QuietDays, s.Policy.Holdout = c.Threshold, c.HorizonDays, c.QuietDays, c.Holdout
	if loc, err := time.LoadLocation(c.Timezone); err == nil {
		s.Location = loc
	}
	return s
}

// Processor is churn.customers.
func Processor(cfg Config) stream.Processor {
	p := stream.Processor{
		Name: Name, Topic: topics.Activity, Layout: state.Buckets, Order: step.InTimeOrder,
		Types: []string{topics.TypeActivity, topics.TypeMerged}, Wants: wants, FoldVersion: 3,
		Outputs: []string{topics.ChurnAlerts, topics.ChurnState, topics.ChurnStats},
		New:     stream.Of[Customer](NewFold(cfg), Codec{}),
	}
	if !cfg.pinned() {
		p.Model = topics.TypeChurnModel
	}
	return p
}

// Processors are all of the service.
func Processors(cfg Config) []stream.Processor {
	return []stream.Processor{Processor(cfg), Fitter(cfg)}
}

// Part is the service as a part of a process.
func Part(h *host.Host, cfg Config) (host.Part, error) {
	cfg, err := cfg.Loaded()
	if err != nil {
		return host.Part{}, err
	}
	p, fitter := Processor(cfg), Fitter(cfg)
	server := NewServer(cfg, Deps{Lookup: h.LookupOne(p), Clock: h.Clock(p), Watch: h.Watch})
	return host.Part{
		Processors: []stream.Processor{p, fitter}, Components: []service.Component{h.Component(p), h.Component(fitter)},
		Register: func(s *grpc.Server) { churnv1.RegisterChurnServiceServer(s, server) },
	}, nil
}
