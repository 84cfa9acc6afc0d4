//go:build failpoint

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// keepEvery reads GATEWAY_KEEP_EVERY, the pull.RunConfig.KeepEvery of tests.
func keepEvery() time.Duration {
	d, _ := time.ParseDuration(os.Getenv("GATEWAY_KEEP_EVERY")) // 0 for none
	return d
}

// failpoint reads GATEWAY_FAILPOINT=name[:n] and returns what ends this process with
// SIGKILL, as a crash would, when the moment of that name comes for the nth time (the
// first without n). With GATEWAY_FAILPOINT_LOG=file the name of every moment that comes
// is appended to the file, one a line, before anything else happens.
func failpoint() (func(name string), error) {
	spec, logName := os.Getenv("GATEWAY_FAILPOINT"), os.Getenv("GATEWAY_FAILPOINT_LOG")
	if spec == "" && logName == "" {
		return nil, nil
	}
	target, count, hasCount := strings.Cut(spec, ":")
	nth := int64(1)
	if hasCount {
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("GATEWAY_FAILPOINT=%s: %w", spec, errors.New("want name or name:n, n from 1"))
		}
		nth = n
	}
	var log *os.File
	if logName != "" {
		var err error
		if log, err = os.OpenFile(logName, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return nil, fmt.Errorf("GATEWAY_FAILPOINT_LOG: %w", err)
		}
	}
	var hits atomic.Int64
	return func(name string) {
		if log != nil {
			_, _ = log.WriteString(name + "\n") // one write of a short line is not torn
		}
		if name == target && hits.Add(1) == nth {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // nothing more happens here before the signal arrives
		}
	}, nil
}
