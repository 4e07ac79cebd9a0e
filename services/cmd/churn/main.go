// Command churn raises an alert when a customer is about to leave.
package main

import (
	"os"

	"github.com/sillage-io/sillage/services/churn"
	"github.com/sillage-io/sillage/services/internal/host"
)

func main() {
	os.Exit(host.Main(host.Service[churn.Config]{
		Name: "churn", Short: "Raise an alert when a customer is about to leave",
		Defaults: churn.DefaultConfig(), Part: churn.Part,
	}))
}
