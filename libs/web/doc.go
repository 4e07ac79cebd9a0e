// Package web is the HTTP side of a process: a server with limits that stops
// gracefully, and what operators ask of it (/livez, /readyz, /metrics,
// /debug/pprof, /version).
package web
