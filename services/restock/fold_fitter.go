package restock

import (
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sillage-io/sillage/libs/domain/restock"
	"github.com/sillage-io/sillage/libs/stream/step"
	"github.com/sillage-io/sillage/libs/topics"
	restockv1 "github.com/sillage-io/sillage/proto/gen/go/sillage/restock/v1"
)

// model is what products are forecast with beside their own past, and its name.
type model struct {
	layer   *restock.Layer // nil: nothing was learnt yet, or it is not asked for
	version string
}

// shipped is the model of a shop of which nothing was learnt.
func shipped() *model { return &model{version: ModelVersion} }

// readModel reads a model record. Its version names the day until which it was learnt,
// and what it says.
func readModel(data []byte) (*model, error) {
	var v restockv1.Layer
	if err := proto.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("decode a layer: %w", err)
	}
	m := &model{layer: new(restock.Layer)}
	if err := m.layer.UnmarshalBinary(v.Pool); err != nil {
		return nil, err
	}
	until := time.Unix(int64(m.layer.Until())*86400, 0).UTC().Format("20060102")
	m.version = fmt.Sprintf("%s+%s.%08x", ModelVersion, until, uint32(xxhash.Sum64(v.Pool)))
	return m, nil
}

// FitterFold folds what the products of a shop tell into its pool, and broadcasts a
// layer when one is due.
type FitterFold struct{}

// Record hears one product.
func (FitterFold) Record(p *restock.Pool, fact step.Fact, _ step.Instant, out *step.Effects) error {
	var v restockv1.Stat
	if err := proto.Unmarshal(fact.Value, &v); err != nil {
		return fmt.Errorf("decode a stat: %w", err)
	}
	var told restock.Told
	if err := told.UnmarshalBinary(v.Stats); err != nil {
		return err
	}
	p.Hear(told)
	layer, due := p.Next()
	if !due {
		return nil
	}
	packed, _ := layer.MarshalBinary() // never fails
	out.Publish(step.Message{
		Topic: topics.Supply, Broadcast: true, Type: topics.TypeRestockLayer, Kind: "layer",
		Value: marshal(&restockv1.Layer{Pool: packed, Sample: 1 / float64(uint64(1)<<layer.Sampling())}),
	})
	return nil
}

// Wake is never called: a fitter acts on what it hears.
func (FitterFold) Wake(*restock.Pool, step.Key, step.Instant, *step.Effects) {}

// FitterCodec is how a pool lies in the store: it has a version of its own.
type FitterCodec struct{}

// Append appends the pool's bytes.
func (FitterCodec) Append(b []byte, p *restock.Pool) []byte {
	b, _ = p.AppendBinary(b) // never fails
	return b
}

// Unmarshal reads what any version has written.
func (FitterCodec) Unmarshal(b []byte, p *restock.Pool) error { return p.UnmarshalBinary(b) }
