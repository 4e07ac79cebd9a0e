// Command recommender answers what to show to a visitor, while the page is made.
package main

import (
	"os"

	"github.com/sillage-io/sillage/services/internal/host"
	"github.com/sillage-io/sillage/services/recommender"
)

func main() {
	os.Exit(host.Main(host.Service[recommender.Config]{
		Name: "recommender", Short: "Answer what to show to a visitor, over gRPC",
		Defaults: recommender.DefaultConfig(), Part: recommender.Part,
	}))
}
