// Command sillage runs Sillage in one process, feeds it, and looks into it.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/web"
	"github.com/sillage-io/sillage/services/internal/host"
)

func main() { os.Exit(host.Execute(root())) }

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "sillage",
		Short:         "Predictive marketing on the wake that shoppers leave",
		Long:          "Sillage reads clicks and orders while they happen, and tells a shop what to show,\nwho is about to leave, and what is about to run out.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       web.Version(),
	}
	c.AddCommand(upCommand(), replayCommand(), simulateCommand(), evalCommand(), statusCommand(), tailCommand(), verifyCommand(), dlqCommand(), rebuildCommand(), speakCommand(), snapshotCommand(), modelCommand(), topicsCommand(), shopCommand(), keyCommand(), doctorCommand(), versionCommand())
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, Run: func(c *cobra.Command, _ []string) {
		fmt.Fprintln(c.OutOrStdout(), web.Version())
	}}
}
