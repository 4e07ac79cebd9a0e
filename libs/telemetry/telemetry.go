package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
)

// Config says what is told, and to whom.
type Config struct {
	LogLevel  string  `yaml:"log-level" usage:"debug, info, warn or error"`
	LogFormat string  `yaml:"log-format" usage:"text, json, or auto: text on a terminal"`
	OTLP      string  `yaml:"otlp" usage:"host:port of an OpenTelemetry collector (gRPC, in clear); empty: none"`
	Sample    float64 `yaml:"sample" usage:"share of traces that are sent, 0 to 1"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{LogLevel: "info", LogFormat: "auto", Sample: .01} }

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		errs = append(errs, fmt.Errorf("log-level: %q is none of debug, info, warn, error", c.LogLevel))
	}
	switch c.LogFormat {
	case "text", "json", "auto":
	default:
		errs = append(errs, fmt.Errorf("log-format: %q is none of text, json, auto", c.LogFormat))
	}
	if c.Sample < 0 || c.Sample > 1 {
		errs = append(errs, fmt.Errorf("sample: %g is not between 0 and 1", c.Sample))
	}
	return errors.Join(errs...)
}

// Telemetry is handed to who logs, measures or traces.
type Telemetry struct {
	Log     *slog.Logger
	Meter   metric.Meter
	Tracer  trace.Tracer
	Metrics http.Handler // for Prometheus

	meters   metric.MeterProvider
	tracers  trace.TracerProvider
	shutdown []func(context.Context) error
}

// RPC makes a gRPC server measure and trace its calls.
func (t *Telemetry) RPC() grpc.ServerOption {
	return grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithMeterProvider(t.meters), otelgrpc.WithTracerProvider(t.tracers), otelgrpc.WithPropagators(propagation.TraceContext{}),
	))
}

// Logger makes a logger alone.
func Logger(cfg Config, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // checked by Validate
	o := &slog.HandlerOptions{Level: level}
	text := cfg.LogFormat == "text"
	if f, ok := w.(*os.File); ok && cfg.LogFormat == "auto" {
		info, err := f.Stat()
		text = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	if text {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

// Open sets everything up for a process called name.
func Open(ctx context.Context, cfg Config, name, version string, w io.Writer) (*Telemetry, error) {
	t := &Telemetry{Log: Logger(cfg, w)}
	res := resource.NewSchemaless(attribute.String("service.name", name), attribute.String("service.version", version))
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithNamespace("sillage"), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("set up metrics: %w", err)
	}
	t.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	readers := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(exporter)}
	t.tracers = noop.NewTracerProvider()
	if cfg.OTLP != "" {
		metrics, err := otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpoint(cfg.OTLP), otlpmetricgrpc.WithInsecure())
		if err != nil {
			return nil, fmt.Errorf("set up metrics for %s: %w", cfg.OTLP, err)
		}
		readers = append(readers, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(metrics)))
		traces, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(cfg.OTLP), otlptracegrpc.WithInsecure())
		if err != nil {
			return nil, fmt.Errorf("set up traces for %s: %w", cfg.OTLP, err)
		}
		tracing := sdktrace.NewTracerProvider(sdktrace.WithBatcher(traces), sdktrace.WithResource(res),
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.Sample))))
		t.tracers = tracing
		t.shutdown = append(t.shutdown, tracing.Shutdown)
	}
	measuring := sdkmetric.NewMeterProvider(readers...)
	t.meters = measuring
	t.Meter, t.Tracer = measuring.Meter(name), t.tracers.Tracer(name)
	t.shutdown = append(t.shutdown, measuring.Shutdown)
	return t, nil
}

// Close sends what is left, until ctx ends.
func (t *Telemetry) Close(ctx context.Context) error {
	var errs []error
	for _, f := range t.shutdown {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

// Inject returns the traceparent of the span in ctx, nil where there is none.
func Inject(ctx context.Context) []byte {
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	if v := c["traceparent"]; v != "" {
		return []byte(v)
	}
	return nil
}

// Extract returns ctx with the remote span that a traceparent names.
func Extract(ctx context.Context, traceparent []byte) context.Context {
	if len(traceparent) == 0 {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": string(traceparent)})
}
