package recommender

import (
	"errors"
	"fmt"
	"time"

	"github.com/sillage-io/sillage/libs/domain/recommend"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
)

// Name is the processor's name.
const Name = "recommender.visitors"

// ModelVersion names what answers.
const ModelVersion = "sessions-1"

// Config is the service's configuration.
type Config struct {
	IdentitySecret string        `yaml:"identity-secret" usage:"key of the hash that makes profile ids; the same in all services, never changed" secret:"true"`
	StoreTimeout   time.Duration `yaml:"store-timeout" usage:"how long an answer waits for the visitor's state before it goes without"`
	PerCategory    int           `yaml:"per-category" usage:"most products of one category in an answer; 0: no bound"`
	PerBrand       int           `yaml:"per-brand" usage:"most products of one brand in an answer; 0: no bound"`
	MaxItems       int           `yaml:"max-items" usage:"products a shop's index holds at once"`
	MaxSessions    int           `yaml:"max-sessions" usage:"sessions a shop's index holds at once"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	d := recommend.DefaultConfig()
	return Config{StoreTimeout: 10 * time.Millisecond, MaxItems: d.MaxItems, MaxSessions: d.MaxSessions}
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if len(c.IdentitySecret) < 16 {
		errs = append(errs, errors.New("identity-secret: at least 16 characters"))
	}
	if c.StoreTimeout <= 0 {
		errs = append(errs, fmt.Errorf("store-timeout: %v is not positive", c.StoreTimeout))
	}
	if c.PerCategory < 0 || c.PerBrand < 0 {
		errs = append(errs, errors.New("per-category and per-brand: not below 0"))
	}
	errs = append(errs, c.index().Validate())
	return errors.Join(errs...)
}

func (c Config) index() recommend.Config {
	d := recommend.DefaultConfig()
	d.MaxItems, d.MaxSessions = c.MaxItems, c.MaxSessions
	return d
}

// Processor is recommender.visitors.
func Processor(_ Config) stream.Processor {
	return stream.Processor{
		Name: Name, Topic: topics.Activity, Layout: state.PerKey, Order: step.OnArrival,
		Types: []string{topics.TypeActivity, topics.TypeMerged}, FoldVersion: 1,
		Outputs: []string{topics.RecommendationDeltas},
		New:     stream.Of[Visitor](Fold{}, Codec{}),
	}
}
