package state

import (
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Layout is how a partition's entities lie in the store.
type Layout int

const (
	// Buckets spreads entities over a fixed number of hashes: least memory
	// (an entity of 112 bytes takes 143 in a hash of 32, 190 as a key) and the
	// fastest claim.
	Buckets Layout = iota
	// PerKey gives each entity a key: cheapest to write and to read one.
	PerKey
)

// keys are the names of one partition's keys: all in one hash slot.
type keys struct{ tag string }

func (k keys) fence() string             { return "{" + k.tag + "}f" }
func (k keys) meta() string              { return "{" + k.tag + "}m" }
func (k keys) buckets() string           { return "{" + k.tag + "}n" } // how many hashes
func (k keys) names() string             { return "{" + k.tag + "}k" } // PerKey: all keys ever made
func (k keys) logs() string              { return "{" + k.tag + "}l" } // names of the logs
func (k keys) log(name string) string    { return "{" + k.tag + "}l:" + name }
func (k keys) entity(name string) string { return "{" + k.tag + "}e:" + name }
func (k keys) bucket(i int) string       { return "{" + k.tag + "}b:" + strconv.Itoa(i) }

// bucketOf is the hash that an entity lies in.
func bucketOf(name string, n int) int { return int(xxhash.Sum64String(name) % uint64(n)) }
