// Package proctest runs the project's programs as real processes for tests: a gateway with
// a configuration of its own, what a client needs to reach it (key, password, ssh_config,
// known_hosts), and the stock plakar command. Binaries are built by make beforehand.
package proctest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// pollEvery is how often a condition of another process is looked at.
const pollEvery = 10 * time.Millisecond

// Root is the directory of the repository: the nearest one upwards with a Makefile.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "Makefile")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("no Makefile in this directory or above")
		}
		dir = parent
	}
}

// Binary is the path of a program in the repository's bin directory. A missing one fails
// the test with the command that builds it.
func Binary(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(Root(tb), "bin", name)
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("%v: run make bin/%s", err, name)
	}
	return path
}

// ShortDir is a temporary directory with a short path, for sockets (their paths are
// limited to about 100 bytes). It is removed when the test ends, except after a failure
// when the environment variable KEEP is set.
func ShortDir(tb testing.TB) string {
	tb.Helper()
	return shortDir(tb, "/tmp")
}

func shortDir(tb testing.TB, parent string) string {
	tb.Helper()
	dir, err := os.MkdirTemp(parent, "sg")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() && os.Getenv("KEEP") != "" {
			tb.Logf("kept: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("removing a temporary directory: %v", err)
		}
	})
	return dir
}

// FreePort finds a TCP port of 127.0.0.1 that nothing listens on. No other call, of this process or of
// another one, returns it until the test ends, though nothing may listen there for a while.
func FreePort(tb testing.TB) int {
	tb.Helper()
	for {
		port, err := PickPort()
		if err != nil {
			tb.Fatal(err)
		}
		if runtime.GOOS != "linux" { // which alone has names of sockets that are no files
			return port
		}
		taken, err := net.Listen("unix", fmt.Sprintf("@snapgate-port-%d", port))
		if err == nil {
			tb.Cleanup(func() { _ = taken.Close() })
			return port
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			tb.Fatal(err)
		}
	}
}

// PickPort finds such a port, outside of the range that systems take the ports of outgoing
// connections from: a test may make many of them before a server listens.
func PickPort() (int, error) {
	const low, high, tries = 15_000, 32_000, 100
	var failures error
	for range tries {
		port := low + rand.IntN(high-low)
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, ln.Close()
		}
		failures = err
	}
	return 0, failures
}

// ErrTimeout is returned by Wait when the condition did not come true in time.
var ErrTimeout = errors.New("condition did not come true in time")

// Wait polls cond, a condition of another process, until it is true, limit has passed
// (ErrTimeout) or ctx ends. It returns how long that took.
func Wait(ctx context.Context, limit time.Duration, cond func() bool) (time.Duration, error) {
	start := time.Now()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if cond() {
			return time.Since(start), nil
		}
		if time.Since(start) > limit {
			return time.Since(start), ErrTimeout
		}
		select {
		case <-ctx.Done():
			return time.Since(start), ctx.Err()
		case <-tick.C:
		}
	}
}

// Result is how a process ended.
type Result struct {
	Stdout string
	Output string // standard output and error as they came
	Status int    // exit status, -1 when a signal ended it
}

// Tail is the end of the output, as much as fits into a message.
func (r Result) Tail() string { return r.Output[max(0, len(r.Output)-4000):] }

// Run runs a program to its end, with standard input from stdin. It is killed, with all
// that it started, when limit has passed or the test ends.
func Run(ctx context.Context, limit time.Duration, stdin string, env []string, name string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal to ask questions on
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	var out output
	cmd.Stdin = stringReader(stdin)
	cmd.Stdout = out.stdout()
	cmd.Stderr = out.both()
	err := cmd.Run()
	res := Result{Stdout: out.stdoutString(), Output: out.String(), Status: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		return res, fmt.Errorf("%s: %w after %v\n%s", filepath.Base(name), ctx.Err(), limit, res.Tail())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return res, fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return res, nil
}
