package background

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// niceness is how much nicer the background is than the process: a quarter of a core that
// somebody else wants too (sched(7)), and it is interrupted when somebody wakes up. With 10 it is
// a tenth, and changes pile up while uploads keep all cores busy.
const niceness = 5

func do(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Until the goroutine ends: the runtime then ends the thread, which could not be raised
		// again without privileges. Nor does the runtime start others from it, which would
		// inherit that.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The runtime never ends the first thread, whose priority is what ps(1) shows of
			// the process: it is kept here until another one has done it.
			defer runtime.UnlockOSThread()
			do(f)
			return
		}
		if lower() != nil { // a sandbox that forbids it
			runtime.UnlockOSThread()
		}
		f()
	}()
	<-done
}

// lower makes the calling thread nicer. setpriority(2) takes a thread where POSIX has a
// process, and getpriority gives 20 less nice.
func lower() error {
	have, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return err
	}
	return unix.Setpriority(unix.PRIO_PROCESS, 0, min(20-have+niceness, 19))
}
