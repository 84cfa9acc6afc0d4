package proctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

// daemonLimit is how long a server may take to start.
const daemonLimit = 30 * time.Second

// daemon is a server of somebody else's that can be started again. Its methods are for one
// goroutine.
type daemon struct {
	Addr string // host:port, the same after a restart

	name    string
	command func() *exec.Cmd
	cmd     *exec.Cmd // nil when it does not run
	out     bytes.Buffer
}

// StartServer starts a server of somebody else's that listens on addr, and returns its process
// id. It ends with the test, which shows what it has said when it fails.
func StartServer(tb testing.TB, name, addr string, cmd *exec.Cmd) (pid int) {
	tb.Helper()
	cmd.WaitDelay = time.Second // for children, which keep its output
	d := &daemon{Addr: addr, name: name, command: func() *exec.Cmd { return cmd }}
	d.begin(tb)
	return d.cmd.Process.Pid
}

// begin starts the server, which ends with the test.
func (d *daemon) begin(tb testing.TB) {
	tb.Helper()
	tb.Cleanup(func() {
		if err := d.Stop(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("the log of %s:\n%s", d.name, d.out.String())
		}
	})
	if err := d.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// Start starts the server again after Stop.
func (d *daemon) Start(ctx context.Context) error {
	d.cmd = d.command()
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", d.name, err)
	}
	_, err := Wait(ctx, daemonLimit, func() bool {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.Addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", d.name, err)
	}
	return nil
}

// Stop kills the server: connections to it are refused from then on. Sessions that it has given
// processes of their own live as long as their connections.
func (d *daemon) Stop() error {
	if d.cmd == nil {
		return nil
	}
	err := d.cmd.Process.Kill()
	if err == nil {
		_ = d.cmd.Wait() // it was killed
	}
	d.cmd = nil
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
