// Package service runs the parts of a process: it starts them in order, each
// when the one before is ready, says truthfully whether all are, and stops them
// in reverse order within one budget when the process is told to end or a part
// fails.
package service
