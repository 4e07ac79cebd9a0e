// Package config fills a configuration from, in rising order of weight, its
// defaults, a YAML file, the environment and flags.
//
// A configuration is a struct with defaults in it. Its fields carry
// `yaml:"name" usage:"one line"`, a secret also `secret:"true"`; nested structs
// give dotted names. The flag of broker.tls.enabled is --broker.tls.enabled, its
// variable SILLAGE_BROKER_TLS_ENABLED. All mistakes are reported at once.
package config
