// Package profile turns what clients sent into what a profile did and what
// happened to a product.
//
// It consumes events.v1 on arrival, keeps for each device its current user,
// its visit and its last anonymous facts, and emits activity.v1 (keyed by
// profile), supply.v1 and catalog.v1 (keyed by product) and the clock for both.
// It answers who a visitor is (ProfileService).
//
// Identity is a pure function of ids (package identity). When a device becomes
// known, its anonymous facts are published again under the user; nothing is
// ever written back, and two known users are never merged.
package profile
