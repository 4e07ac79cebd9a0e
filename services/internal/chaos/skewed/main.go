// Command skewed is the collector with a clock that a file sets wrong: by the
// duration that stands in it. Chaos runs use it for outages of days and for clocks
// that jump.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/web"
	"github.com/sillage-io/sillage/services/collector"
	"github.com/sillage-io/sillage/services/internal/host"
)

// config is the collector's, and where its clock is set.
type config struct {
	Collector collector.Config `yaml:",inline"`
	Clock     string           `yaml:"clock-file" usage:"file that says by how much the clock is wrong"`
}

// Validate reports all mistakes.
func (c config) Validate() error { return c.Collector.Validate() }

func main() {
	os.Exit(host.Main(host.Service[config]{
		Name: "skewed", Short: "Take events by a clock that is wrong",
		Defaults: config{Collector: collector.DefaultConfig()}, Part: part,
		Storeless: true,
	}))
}

// clock reads the time; a file that is being written does not count.
type clock struct{ file string }

func (c clock) now() time.Time {
	data, err := os.ReadFile(c.file)
	if err != nil {
		return time.Now()
	}
	off, err := time.ParseDuration(strings.TrimSpace(string(data)))
	if err != nil {
		return time.Now()
	}
	return time.Now().Add(off)
}

func part(h *host.Host, cfg config) (host.Part, error) {
	producer := h.Client.NewSharedProducer()
	closing := service.Component{Name: "skewed.producer", Run: func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}, Close: func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		producer.Close(ctx)
	}}
	c, err := collector.New(cfg.Collector, collector.Deps{Publish: producer.Produce, Partitions: h.Partitions, Now: clock{cfg.Clock}.now, Log: h.Log})
	if err != nil {
		closing.Close()
		return host.Part{}, err
	}
	server, err := web.Listen("collector", "http.listen", cfg.Collector.HTTP, c.Handler(), h.Log)
	if err != nil {
		closing.Close()
		return host.Part{}, fmt.Errorf("listen: %w", err)
	}
	return host.Part{Components: []service.Component{closing, {Name: "skewed.ticks", Run: c.Run}, server.Component()}}, nil
}
