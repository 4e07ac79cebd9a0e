package broker

import (
	"context"
	"errors"
	"sync"

	"github.com/sillage-io/sillage/libs/stream/record"
)

// ErrBusy says that more waits to be appended than is allowed to: the broker
// is away or slow.
var ErrBusy = errors.New("too much waits for the broker")

// maxWaiting bounds the bytes that wait for the request in flight to come
// back.
const maxWaiting = 64 << 20

// SharedProducer appends for many goroutines: what comes while a request is
// under way goes out together in the next one. It adds no delay of its own.
// What one goroutine appends stands in the log in the order of its calls, and
// a record accepted before another one (see [SharedProducer.Produce]) never
// stands behind it in the same partition.
type SharedProducer struct {
	client *Client

	mu      sync.Mutex
	waiting []submission
	size    int
	closed  bool
	wake    chan struct{} // 1: something waits
	done    chan struct{}
	ctx     context.Context //nolint:containedctx // of the sending goroutine, ended by Close
	cancel  context.CancelFunc
}

type submission struct {
	outs   []record.Out
	answer chan error
}

// NewSharedProducer starts a producer; Close ends it.
func (c *Client) NewSharedProducer() *SharedProducer {
	ctx, cancel := context.WithCancel(context.Background())
	p := &SharedProducer{client: c, wake: make(chan struct{}, 1), done: make(chan struct{}), ctx: ctx, cancel: cancel}
	go p.run()
	return p
}

// Produce appends outs and returns when all are acknowledged by all in-sync
// replicas, or not known to be: then some may be in the log. Where ctx ends
// first, what was accepted is still appended. It returns ErrBusy, having
// accepted nothing, where too much waits.
func (p *SharedProducer) Produce(ctx context.Context, outs []record.Out) error {
	if len(outs) == 0 {
		return nil
	}
	size := 0
	for i := range outs {
		size += record.RecordSize(&outs[i])
	}
	s := submission{outs: outs, answer: make(chan error, 1)}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return context.Canceled
	}
	if p.size > 0 && p.size+size > maxWaiting {
		p.mu.Unlock()
		return ErrBusy
	}
	p.waiting, p.size = append(p.waiting, s), p.size+size
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-s.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Idle tells whether nothing waits and nothing is under way.
func (p *SharedProducer) Idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size == 0
}

// Close appends what waits, until ctx ends, and stops.
func (p *SharedProducer) Close(ctx context.Context) {
	p.mu.Lock()
	already := p.closed
	p.closed = true
	p.mu.Unlock()
	if !already {
		close(p.wake)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	p.cancel()
	<-p.done
}

func (p *SharedProducer) run() {
	defer close(p.done)
	var producer *Producer
	for range p.wake {
		producer = p.drain(producer)
	}
	p.drain(producer)
}

// drain sends until nothing waits.
func (p *SharedProducer) drain(producer *Producer) *Producer {
	for {
		p.mu.Lock()
		batch := p.waiting
		p.waiting = nil
		p.mu.Unlock()
		if len(batch) == 0 {
			return producer
		}
		n, size := 0, 0
		for _, s := range batch {
			n += len(s.outs)
		}
		outs := make([]record.Out, 0, n)
		for _, s := range batch {
			outs = append(outs, s.outs...)
		}
		for i := range outs {
			size += record.RecordSize(&outs[i])
		}
		var err error
		if producer == nil {
			var id ProducerID
			if id, err = p.client.InitProducerID(p.ctx); err == nil {
				producer = p.client.NewProducer(id)
			}
		}
		if err == nil {
			if _, err = producer.Produce(p.ctx, outs); err != nil {
				producer = nil
			}
		}
		for _, s := range batch {
			s.answer <- err
		}
		p.mu.Lock()
		p.size -= size
		p.mu.Unlock()
	}
}
