// Package lab runs the product's own binaries, real brokers and stores for
// tests: it builds, starts, kills, freezes and restarts them, and puts a proxy
// between them that breaks connections. It is for tests alone.
package lab
