package churn

import (
	"errors"
	"fmt"
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

// ShippedModel names the parameters that decide where no model is configured.
const ShippedModel = "mbgcnbd-shipped-1"

// Config is the service's configuration.
type Config struct {
	IdentitySecret string  `yaml:"identity-secret" usage:"key of the hash that makes profile ids; the same in all services, never changed" secret:"true"`
	Timezone       string  `yaml:"timezone" usage:"IANA name of the zone whose days the shop lives by"`
	Threshold      float64 `yaml:"threshold" usage:"probability of no order within the horizon at which an alert is raised, between 0 and 1"`
	HorizonDays    float64 `yaml:"horizon-days" usage:"days for which the probability is asked"`
	QuietDays      float64 `yaml:"quiet-days" usage:"days of silence below which nobody is alerted"`
	Model          string  `yaml:"model" usage:"file of a model learnt from the shop's orders (sillage eval churn --model-out); empty: the shipped one"`
	Holdout        float64 `yaml:"holdout" usage:"share of alerts that no action may follow, for comparison, 0 to 1"`
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
	if _, _, err := c.setting(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// setting is what decisions read, without gaps, and the name of its model.
func (c Config) setting() (churn.Setting, string, error) {
	s, version := churn.DefaultSetting(), ShippedModel
	s.Policy.Theta, s.Policy.HorizonDays, s.Policy.QuietDays, s.Policy.Holdout = c.Threshold, c.HorizonDays, c.QuietDays, c.Holdout
	var errs []error
	loc, err := time.LoadLocation(c.Timezone)
	if err != nil {
		errs = append(errs, fmt.Errorf("timezone: %w", err))
	} else {
		s.Location = loc
	}
	if c.Model == "" {
		return s, version, errors.Join(append(errs, s.Validate())...)
	}
	m, version, err := readModel(c.Model)
	if err == nil {
		err = m.apply(&s)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("model: %w", err))
	}
	return s, version, errors.Join(errs...)
}

// Processor is churn.customers.
func Processor(cfg Config) stream.Processor {
	return stream.Processor{
		Name: Name, Topic: topics.Activity, Layout: state.Buckets, Order: step.InTimeOrder,
		Types: []string{topics.TypeActivity, topics.TypeMerged}, Wants: wants, FoldVersion: 2,
		Outputs: []string{topics.ChurnAlerts, topics.ChurnState},
		New:     stream.Of[Customer](NewFold(cfg), Codec{}),
	}
}

// Part is the service as a part of a process.
func Part(h *host.Host, cfg Config) (host.Part, error) {
	if err := cfg.Validate(); err != nil {
		return host.Part{}, fmt.Errorf("churn: %w", err)
	}
	p := Processor(cfg)
	server := NewServer(cfg, Deps{Lookup: h.LookupOne(p), Clock: h.Clock(p), Watch: h.Watch})
	return host.Part{
		Processors: []stream.Processor{p}, Components: []service.Component{h.Component(p)},
		Register: func(s *grpc.Server) { churnv1.RegisterChurnServiceServer(s, server) },
	}, nil
}
