// Package e2e runs the commands as a user would, kills them as no user would,
// and compares what they leave behind.
package e2e
