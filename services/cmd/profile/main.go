// Command profile resolves identity and sessions, and hands events on to the
// predictors.
package main

import (
	"os"

	"github.com/sillage-io/sillage/services/internal/host"
	"github.com/sillage-io/sillage/services/profile"
)

func main() {
	os.Exit(host.Main(host.Service[profile.Config]{
		Name: "profile", Short: "Resolve identity and sessions, and hand events on to the predictors",
		Defaults: profile.DefaultConfig(), Part: profile.Part,
	}))
}
