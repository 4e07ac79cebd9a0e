package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sillage-io/sillage/libs/config"
	"github.com/sillage-io/sillage/libs/rpc"
	"github.com/sillage-io/sillage/libs/service"
	"github.com/sillage-io/sillage/libs/state"
	"github.com/sillage-io/sillage/libs/stream/broker"
	"github.com/sillage-io/sillage/libs/telemetry"
	"github.com/sillage-io/sillage/libs/web"
)

// Process is what every process is told, whatever it runs.
type Process struct {
	Admin     web.Config       `yaml:"admin"`
	GRPC      rpc.Config       `yaml:"grpc"`
	Broker    broker.Config    `yaml:"broker"`
	Store     *state.Config    `yaml:"store"` // nil: it has none
	Service   service.Config   `yaml:"service"`
	Telemetry telemetry.Config `yaml:"telemetry"`
}

// DefaultProcess returns the defaults: it listens on loopback, and broker and
// store are not named.
func DefaultProcess() Process {
	store := state.DefaultConfig()
	return Process{
		Admin: web.Config{Listen: "127.0.0.1:8081"}, GRPC: rpc.Config{Listen: "127.0.0.1:8082"},
		Broker: broker.DefaultConfig(), Store: &store, Service: service.DefaultConfig(), Telemetry: telemetry.DefaultConfig(),
	}
}

// Validate reports all mistakes.
func (p Process) Validate() error {
	named := func(name string, err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	errs := []error{
		named("admin", p.Admin.Validate()), named("grpc", p.GRPC.Validate()), named("broker", p.Broker.Validate()),
		named("telemetry", p.Telemetry.Validate()),
	}
	if p.Store != nil {
		errs = append(errs, named("store", p.Store.Validate()))
	}
	return errors.Join(errs...)
}

// Frame is what the parts of a process are put into.
type Frame struct {
	Telemetry *telemetry.Telemetry
	Group     *service.Group
	Admin     *http.ServeMux // its pages; more may be registered
	AdminURL  string
	GRPC      *rpc.Server
}

// Run opens telemetry and the servers that every process has (admin and gRPC),
// calls build for the host and its parts, and runs them until ctx ends. It
// prints one line that begins with "ready" when everything answers.
func (p Process) Run(ctx context.Context, name string, stdout, stderr io.Writer, build func(context.Context, *Frame) (*Host, []Part, error)) error {
	tel, err := telemetry.Open(ctx, p.Telemetry, name, web.Version(), stderr)
	if err != nil {
		return err
	}
	defer func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := tel.Close(drain); err != nil {
			tel.Log.Warn("telemetry not sent", slog.Any("err", err))
		}
	}()
	if os.Getenv("GOGC") == "" {
		// Much of what a fold allocates dies with its batch: collecting half as
		// often costs some memory and saves a tenth of the processor.
		defer debug.SetGCPercent(debug.SetGCPercent(200))
	}
	f := &Frame{Telemetry: tel, Group: service.New(p.Service, tel.Log)}
	f.Admin = web.Admin(f.Group.Check, tel.Metrics)
	admin, err := web.Listen("admin", "admin.listen", p.Admin, f.Admin, tel.Log)
	if err != nil {
		return err
	}
	f.AdminURL = admin.URL()
	f.GRPC, err = rpc.Listen("grpc", "grpc.listen", p.GRPC, tel.Log, tel.RPC())
	if err != nil {
		return err
	}
	h, parts, err := build(ctx, f)
	if err != nil {
		return err
	}
	defer h.Close()
	addresses := []string{"admin=" + f.AdminURL, "grpc=" + f.GRPC.Addr()}
	components := []service.Component{admin.Component()}
	for _, part := range parts {
		components = append(components, part.Components...)
		addresses = append(addresses, part.Addresses...)
		if part.Register != nil {
			part.Register(f.GRPC.Server)
		}
		if part.Measure != nil {
			err = errors.Join(err, part.Measure(tel.Meter))
		}
	}
	if h.Runtime != nil {
		err = errors.Join(err, measure(tel.Meter, h.Runtime))
	}
	if err != nil {
		return fmt.Errorf("set up metrics: %w", err)
	}
	components = append(components, f.GRPC.Component())
	return f.Group.Run(ctx, func() { fmt.Fprintln(stdout, "ready", strings.Join(addresses, " ")) }, components...)
}

// Service is a service as a process of its own.
type Service[C interface{ Validate() error }] struct {
	Name, Short string
	Defaults    C
	Storeless   bool // it has no state of its own
	Part        func(*Host, C) (Part, error)
}

// settings is what the process of one service is told.
type settings[C interface{ Validate() error }] struct {
	Own     C       `yaml:",inline"`
	DataDir string  `yaml:"data-dir" usage:"directory of snapshots, which make the next start quick; empty: none are kept"`
	Process Process `yaml:",inline"`
}

// Validate reports all mistakes.
func (s settings[C]) Validate() error { return errors.Join(s.Own.Validate(), s.Process.Validate()) }

// Main runs a service until it is told to stop, and returns the exit code.
func Main[C interface{ Validate() error }](s Service[C]) int {
	cfg := settings[C]{Own: s.Defaults, Process: DefaultProcess()}
	cfg.Process.Broker.Brokers = []string{"127.0.0.1:9092"}
	cfg.Process.Store.Addrs = []string{"127.0.0.1:6379"}
	if s.Storeless {
		cfg.Process.Store = nil
	}
	long := s.Short + `.

It waits for broker, store and topics (sillage topics apply makes them). Every
flag can be a variable (--grpc.listen is SILLAGE_GRPC_LISTEN) or stand in the
YAML file that --config.file names; a flag wins over a variable over the file.`
	c := Command(s.Name, s.Short, long, &cfg, func(ctx context.Context, stdout, stderr io.Writer) error {
		return cfg.Process.Run(ctx, s.Name, stdout, stderr, func(ctx context.Context, f *Frame) (*Host, []Part, error) {
			h, err := Open(ctx, Config{Broker: cfg.Process.Broker, Store: cfg.Process.Store}, f.Telemetry.Log)
			if err != nil {
				return nil, nil, err
			}
			h.Dir = cfg.DataDir
			part, err := s.Part(h, cfg.Own)
			if err != nil {
				h.Close()
				return nil, nil, err
			}
			return h, []Part{part}, nil
		})
	})
	c.SilenceUsage, c.SilenceErrors, c.Version = true, true, web.Version()
	return Execute(c)
}

// Execute runs a command until it ends or the process is told to stop, prints
// its error, and returns the exit code.
func Execute(c *cobra.Command) int {
	ctx, stop := service.Signals(context.Background())
	err := c.ExecuteContext(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name(), err)
		return 1
	}
	return 0
}

// Command is a command that serves: the settings, a pointer to a struct with
// its defaults, are its flags, and --config.check and --config.print look at
// them without running.
func Command(use, short, long string, settings any, run func(ctx context.Context, stdout, stderr io.Writer) error) *cobra.Command {
	var check, show bool
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs}
	set := config.Bind(c.Flags(), settings)
	c.Flags().BoolVar(&check, "config.check", false, "check the settings and exit")
	c.Flags().BoolVar(&show, "config.print", false, "print the settings with where they come from, and exit")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := set.Load(os.Environ()); err != nil {
			return err
		}
		if show {
			return set.Print(c.OutOrStdout())
		}
		if check {
			fmt.Fprintln(c.OutOrStdout(), "settings are good")
			return nil
		}
		return run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
}
