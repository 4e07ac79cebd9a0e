package host

import (
	"context"
	"sync"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxLearnt bounds the models that are kept ready, at 100 kB each at most.
const maxLearnt = 256

// Learnt reads what the fitters of the shops have learnt, for who answers beside the
// fold: the last model record that the store has of a shop, made ready once. It is
// safe for concurrent use.
type Learnt[M any] struct {
	lookup func(ctx context.Context, shop, id string) ([]byte, bool, error)
	read   func(data []byte) (M, error)

	mu   sync.Mutex
	kept map[string]learnt[M] // by shop
}

// learnt is a model, and what it was read from.
type learnt[M any] struct {
	sum   uint64
	model M
}

// NewLearnt returns a reader of the models that lookup finds ([Host.LookupOne]) and
// read makes ready.
func NewLearnt[M any](lookup func(ctx context.Context, shop, id string) ([]byte, bool, error), read func(data []byte) (M, error)) *Learnt[M] {
	return &Learnt[M]{lookup: lookup, read: read, kept: map[string]learnt[M]{}}
}

// Of returns a shop's model, and false where nothing was learnt of it yet. An error is
// a gRPC status.
func (l *Learnt[M]) Of(ctx context.Context, shop string) (m M, ok bool, err error) {
	data, ok, err := l.lookup(ctx, shop, "")
	if err != nil {
		return m, false, status.Errorf(codes.Unavailable, "the store does not answer: %v", err)
	}
	if !ok {
		return m, false, nil
	}
	sum := xxhash.Sum64(data)
	l.mu.Lock()
	known, ok := l.kept[shop]
	l.mu.Unlock()
	if ok && known.sum == sum {
		return known.model, true, nil
	}
	if m, err = l.read(data); err != nil {
		return m, false, status.Errorf(codes.DataLoss, "what was learnt of shop %s: %v", shop, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.kept) >= maxLearnt {
		clear(l.kept)
	}
	l.kept[shop] = learnt[M]{sum, m}
	return m, true, nil
}
