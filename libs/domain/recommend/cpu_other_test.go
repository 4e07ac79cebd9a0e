//go:build !linux

package recommend

import "time"

var processStart = time.Now()

// threadCPU is wall time where there is no clock of a thread's processor time.
func threadCPU() time.Duration { return time.Since(processStart) }
