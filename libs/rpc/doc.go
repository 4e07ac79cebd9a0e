// Package rpc is the gRPC side of a process: a server with health, reflection
// and limits that stops gracefully, and a client.
package rpc
