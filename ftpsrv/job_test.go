package ftpsrv

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/snapgate/gateway/internal/acceptor"
)

// A connection over which a million files go does not keep the contexts of their transfers.
func TestTransfersAreReleased(t *testing.T) {
	ts := startServer(t, hasty)
	conns := make(chan *conn, 1)
	ln := listenLocal(t)
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		served <- ts.acceptor.Serve(ctx, ln, func(a acceptor.Accepted) acceptor.Conn {
			c := ts.newConn(a, false)
			conns <- c
			return c
		})
	}()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	c := newClient(t, ts, ln.Addr().String())
	c.want(codeReady)
	c.login("user")
	c.mustPut("/f", []byte("text"))
	conn := <-conns
	for _, line := range []string{"RETR /f", "LIST /", "STOR /g"} {
		addr, err := c.passive()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.send(line); err != nil {
			t.Fatal(err)
		}
		c.do("STAT", codeSystem) // the transfer waits for its data connection
		running := conn.currentTransfer()
		if running == nil {
			t.Fatalf("%s: no transfer is under way", line)
		}
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.want(codeOpening)
		if line != "STOR /g" {
			_, err = io.Copy(io.Discard, nc)
		}
		if err := errors.Join(err, nc.Close(), c.finish()); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		c.do("NOOP", codeOK)
		if running.job.ctx.Err() == nil {
			t.Errorf("%s: its context is kept", line)
		}
	}
}
