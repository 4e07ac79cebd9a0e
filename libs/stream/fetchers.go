package stream

import (
	"sync"

	"github.com/sillage-io/sillage/libs/stream/broker"
)

// fetchers are the fetchers of a runtime's processors, each shared by the
// processor's partitions and open as long as one of them is owned. They are safe
// for concurrent use.
type fetchers struct {
	mu   sync.Mutex
	open map[string]*fetcher // by processor
}

type fetcher struct {
	*broker.Fetcher
	users int
}

// reader returns a partition's reader; release ends it.
func (r *Runtime) reader(p Processor, partition int32) (reader *broker.Reader, release func()) {
	r.fetchers.mu.Lock()
	defer r.fetchers.mu.Unlock()
	f := r.fetchers.open[p.Name]
	if f == nil {
		f = &fetcher{Fetcher: r.client.NewFetcher(p.Topic, broker.FetcherConfig{Wait: r.cfg.FetchWait, Bytes: r.cfg.FetchBytes, Total: r.cfg.FetchTotal, Gather: r.cfg.Gather})}
		r.fetchers.open[p.Name] = f
	}
	f.users++
	reader = f.Reader(partition)
	return reader, func() {
		reader.Close()
		r.fetchers.mu.Lock()
		f.users--
		last := f.users == 0
		if last {
			delete(r.fetchers.open, p.Name)
		}
		r.fetchers.mu.Unlock()
		if last {
			f.Close()
		}
	}
}
