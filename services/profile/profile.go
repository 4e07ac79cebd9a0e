package profile

import (
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	profilev1 "github.com/sillage-io/sillage/proto/gen/go/sillage/profile/v1"
	"github.com/sillage-io/sillage/services/internal/host"
)

// Name is the processor's name.
const Name = "profile.devices"

// Config is the service's configuration.
type Config struct {
	IdentitySecret string        `yaml:"identity-secret" usage:"key of the hash that makes profile ids; the same in all services, never changed" secret:"true"`
	SessionGap     time.Duration `yaml:"session-gap" usage:"silence after which a visit is over"`
}

// DefaultConfig returns the defaults; the secret has none.
func DefaultConfig() Config { return Config{SessionGap: 30 * time.Minute} }

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if len(c.IdentitySecret) < 16 {
		errs = append(errs, errors.New("identity-secret: at least 16 characters"))
	}
	if c.SessionGap < time.Minute || c.SessionGap > 24*time.Hour {
		errs = append(errs, errors.New("session-gap: between a minute and a day"))
	}
	return errors.Join(errs...)
}

// Processor is profile.devices.
func Processor(cfg Config) stream.Processor {
	return stream.Processor{
		Name: Name, Topic: topics.Events, Layout: state.PerKey, Order: step.OnArrival, Client: true,
		PassTo: []string{topics.Activity, topics.Supply}, Types: []string{step.TypeEvent}, FoldVersion: 1,
		Outputs: []string{topics.Activity, topics.Supply, topics.Catalog},
		New:     stream.Of[Device](NewFold(cfg), Codec{}),
	}
}

// Part is the service as a part of a process.
func Part(h *host.Host, cfg Config) (host.Part, error) {
	p := Processor(cfg)
	server := NewServer(Deps{Secret: []byte(cfg.IdentitySecret), Lookup: h.LookupOne(p)})
	return host.Part{
		Processors: []stream.Processor{p}, Components: []service.Component{h.Component(p)},
		Register: func(s *grpc.Server) { profilev1.RegisterProfileServiceServer(s, server) },
	}, nil
}
