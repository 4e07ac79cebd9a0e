package recommender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/sillage-io/sillage/libs/domain/recommend"
	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	recommenderv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/recommender/v1"
	"github.com/sillage-io/sillage/services/internal/host"
)

// Name is the processor's name.
const Name = "recommender.visitors"

// ModelVersion names what answers.
const ModelVersion = "hybrid-2"

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

// Part is the service as a part of a process. The index is read from its
// snapshot, where there is one, and then from the topics.
func Part(h *host.Host, cfg Config) (host.Part, error) {
	p := Processor(cfg)
	index := NewIndex(cfg)
	view := stream.NewView(h.Client, h.Log, stream.FromStart, index.Apply, topics.RecommendationDeltas, topics.Catalog)
	server := NewServer(cfg, index, Deps{Lookup: h.Lookup(p), Lag: view.Lag, Now: time.Now})
	var caught atomic.Bool
	return host.Part{
		Processors: []stream.Processor{p},
		Components: []service.Component{h.Component(p), {
			Name: Name + ".index",
			Run:  func(ctx context.Context) error { return follow(ctx, h, index, view) },
			Ready: func(context.Context) error {
				// Ready once the index has been up to date: an hour of deltas
				// behind would answer badly, a second is nothing.
				if lag := view.Lag(); !caught.Load() && behind(lag) {
					return fmt.Errorf("index is %d records behind: %w", lag, service.ErrBehind)
				}
				caught.Store(true)
				return nil
			},
		}},
		Register: func(s *grpc.Server) { recommenderv1.RegisterRecommenderServiceServer(s, server) },
	}, nil
}

// behind tells whether an index that lacks so many records has still to catch up; -1
// is not known yet.
func behind(lag int64) bool { return lag < 0 || lag > 1000 }

// untilNextSave is how long to read on before the next snapshot. Who has caught up
// saves once in a while. Who catches up may be killed before that, again and again,
// and would never get any further: it saves what it has read as often as costs a
// twentieth of its time.
func untilNextSave(took time.Duration, lag int64) time.Duration {
	if !behind(lag) {
		return snapshotEvery
	}
	return min(max(20*took, 3*time.Second), snapshotEvery)
}

// follow reads the topics into the index until ctx ends, with a snapshot now
// and then.
func follow(ctx context.Context, h *host.Host, index *Index, view *stream.View) error {
	logIDs := map[string]string{}
	for _, topic := range []string{topics.RecommendationDeltas, topics.Catalog} {
		id, err := h.Client.LogID(ctx, topic)
		if err != nil {
			return err
		}
		logIDs[topic] = id
	}
	file := ""
	if h.Dir != "" {
		file = filepath.Join(h.Dir, "recommender.index")
		if f, err := os.Open(file); err == nil {
			next, err := index.Restore(f, logIDs)
			f.Close()
			if err != nil {
				h.Log.Warn("index is built from the log", slog.Any("err", err))
			} else {
				view.Seek(next)
				h.Kept(next)
			}
		}
	}
	save := func() (took time.Duration) {
		if file == "" {
			return 0
		}
		view.Frozen(func(next map[stream.Place]int64) {
			began := time.Now()
			if err := index.Save(file, next, logIDs); err != nil {
				h.Log.Error("index not saved", slog.Any("err", err))
				return
			}
			took = time.Since(began)
			h.Kept(next)
		})
		return took
	}
	var saving sync.WaitGroup
	saving.Go(func() {
		var took time.Duration
		for {
			t := time.NewTimer(untilNextSave(took, view.Lag()))
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
				took = save()
			}
		}
	})
	err := view.Run(ctx)
	saving.Wait()
	save()
	return err
}
