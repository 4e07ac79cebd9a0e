//go:build !linux

package recommend

import (
	"sync/atomic"
	"time"
)

var begin atomic.Pointer[time.Time]

// threadTime is wall time here.
func threadTime() time.Duration {
	now := time.Now()
	begin.CompareAndSwap(nil, &now)
	return now.Sub(*begin.Load())
}

// timing says what is measured.
const timing = "wall time"
