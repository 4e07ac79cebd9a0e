// Command restock raises a signal when a product is about to run out.
package main

import (
	"os"

	"github.com/sillage-io/sillage/services/internal/host"
	"github.com/sillage-io/sillage/services/restock"
)

func main() {
	os.Exit(host.Main(host.Service[restock.Config]{
		Name: "restock", Short: "Raise a signal when a product is about to run out",
		Defaults: restock.DefaultConfig(), Part: restock.Part,
	}))
}
