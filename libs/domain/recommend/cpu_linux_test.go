package recommend

import (
	"syscall"
	"time"
	"unsafe"
)

// threadCPU is the processor time of the calling thread: what an answer costs,
// whoever else is running. The caller locks its goroutine to the thread.
func threadCPU() time.Duration {
	var t syscall.Timespec
	const threadCPUTime = 3 // CLOCK_THREAD_CPUTIME_ID
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, threadCPUTime, uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
		panic(errno)
	}
	return time.Duration(t.Nano())
}
