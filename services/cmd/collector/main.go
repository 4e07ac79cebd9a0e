// Command collector is the front door: it takes events over HTTP and appends them
// to Kafka.
package main

import (
	"os"

	"github.com/sillage-io/sillage/services/collector"
	"github.com/sillage-io/sillage/services/internal/host"
)

func main() {
	os.Exit(host.Main(host.Service[collector.Config]{
		Name: "collector", Short: "Take events over HTTP (Segment's API) and append them to Kafka",
		Defaults: collector.DefaultConfig(), Part: collector.Part,
		Storeless: true,
	}))
}
