// Package telemetry sets up what a process says of itself: log lines, metrics
// (for Prometheus, and by OTLP where an endpoint is given) and traces (by
// OTLP). Nothing is global: who logs or measures is handed a [Telemetry].
package telemetry
