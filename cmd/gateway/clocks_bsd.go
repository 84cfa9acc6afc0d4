//go:build darwin || freebsd

package main

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// bootID names the current boot of the machine, "" when it is not known. (kern.boottime would not
// do: it changes when the clock is set.)
func bootID() string {
	name := "kern.boot_id"
	if runtime.GOOS == "darwin" {
		name = "kern.bootsessionuuid"
	}
	id, err := unix.Sysctl(name)
	if err != nil {
		return ""
	}
	return id
}

// uptime is how long the machine has been up.
func uptime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}
