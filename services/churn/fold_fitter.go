package churn

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/domain/churn"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	churnv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/churn/v1"
)

// FitterName is the name of the processor that learns.
const FitterName = "churn.fitter"

// fitterKey is the key of all stats of a shop: its fitter is one entity.
const fitterKey = "customers"

// Fitter is churn.fitter: it folds what customers' labels say, on arrival, and
// broadcasts the models that it learns from them to all customers.
func Fitter(cfg Config) stream.Processor {
	return stream.Processor{
		Name: FitterName, Topic: topics.ChurnStats, Layout: state.PerKey, Order: step.OnArrival,
		Types: []string{topics.TypeChurnStat}, FoldVersion: 1, Broadcast: []string{topics.Activity},
		New: stream.Of[churn.Fitter](FitterFold{config: churn.DefaultFitterConfig(), setting: cfg.policy()}, FitterCodec{}),
	}
}

// FitterFold folds the stats of a shop.
type FitterFold struct {
	config  churn.FitterConfig
	setting churn.Setting
}

// Record learns from a stat, and says the model where that is worth it.
func (f FitterFold) Record(s *churn.Fitter, fact step.Fact, _ step.Instant, out *step.Effects) error {
	stat, err := readStat(fact.Value)
	if err != nil {
		return err
	}
	m, worth := s.Learn(stat, f.config, &f.setting)
	if !worth {
		return nil
	}
	value, err := modelRecord(m)
	if err != nil {
		panic(err) // only for infinite numbers, which Learn does not give
	}
	out.Publish(step.Message{Topic: topics.Activity, Broadcast: true, Type: topics.TypeChurnModel, Kind: "model", Value: value})
	return nil
}

// Wake is never called: the fitter learns when something is said.
func (FitterFold) Wake(*churn.Fitter, step.Key, step.Instant, *step.Effects) {}

// FitterCodec is how a fitter lies in the store.
type FitterCodec struct{}

// Append appends the fitter's bytes.
func (FitterCodec) Append(b []byte, f *churn.Fitter) []byte {
	b, _ = f.AppendBinary(b) // never fails
	return b
}

// Unmarshal reads what any version has written.
func (FitterCodec) Unmarshal(b []byte, f *churn.Fitter) error { return f.UnmarshalBinary(b) }

// statRecord is a stat as it stands in churn.stats.v1.
func statRecord(s *churn.Stat) ([]byte, error) {
	packed, _ := s.AppendBinary(nil) // never fails
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(&churnv1.Stat{Example: packed})
	if err != nil {
		return nil, fmt.Errorf("encode a stat: %w", err)
	}
	return value, nil
}

func readStat(value []byte) (churn.Stat, error) {
	var r churnv1.Stat
	var s churn.Stat
	if err := proto.Unmarshal(value, &r); err != nil {
		return s, fmt.Errorf("decode a stat: %w", err)
	}
	if err := s.UnmarshalBinary(r.Example); err != nil {
		return s, fmt.Errorf("decode a stat: %w", err)
	}
	return s, nil
}

// modelRecord is a model as it stands in activity.v1: what a model file holds, and
// beside it for who reads no model file how many customers are asked.
func modelRecord(m churn.Model) ([]byte, error) {
	file, err := m.AppendJSON(nil)
	if err != nil {
		return nil, err
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(&churnv1.Model{Model: file, Sample: math.Exp2(-float64(m.Study.Halvings))})
	if err != nil {
		return nil, fmt.Errorf("encode model %s: %w", m.Name, err)
	}
	return value, nil
}

// ReadModelRecord reads what a fitter has broadcast, and the version.
func ReadModelRecord(value []byte) (m churn.Model, version string, err error) {
	var r churnv1.Model
	if err := proto.Unmarshal(value, &r); err != nil {
		return m, "", fmt.Errorf("decode a model record: %w", err)
	}
	return churn.ReadModel(r.Model)
}
