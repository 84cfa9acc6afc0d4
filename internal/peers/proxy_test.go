//go:build peers

package peers

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cutter is a network that fails: it forwards one connection to the gateway, stalls when
// the client has sent a number of bytes, and breaks when the gateway has nothing more to
// say to these.
type cutter struct {
	ln     net.Listener
	to     string
	left   int64
	wait   sync.WaitGroup
	spoken atomic.Int64 // bytes from the gateway
}

// Write counts what the gateway sends.
func (c *cutter) Write(p []byte) (int, error) {
	c.spoken.Add(int64(len(p)))
	return len(p), nil
}

// awaitQuiet returns when the gateway has been silent for quiet.
func (c *cutter) awaitQuiet() {
	const quiet = 300 * time.Millisecond
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	for last := int64(-1); last != c.spoken.Load(); <-tick.C {
		last = c.spoken.Load()
	}
}

// newCutter listens on a port of its own until the test ends.
func newCutter(t *testing.T, to string, bytes int64) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln, to: to, left: bytes}
	c.wait.Add(1)
	go c.serve()
	t.Cleanup(func() {
		_ = ln.Close()
		c.wait.Wait()
	})
	return c
}

// port is where clients connect to.
func (c *cutter) port() int { return c.ln.Addr().(*net.TCPAddr).Port }

// serve forwards the first connection; there is no second chance.
func (c *cutter) serve() {
	defer c.wait.Done()
	client, err := c.ln.Accept()
	if err != nil {
		return
	}
	_ = c.ln.Close()
	defer client.Close()
	server, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer server.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(client, io.TeeReader(server, c)) // until the client is gone
		_, _ = io.Copy(io.Discard, server)              // unread bytes would make the close below a reset
	}()
	if n, _ := io.CopyN(server, client, c.left); n == c.left { // fewer when the client is done before
		c.awaitQuiet()
	}
	_ = client.Close()
	_ = server.(*net.TCPConn).CloseWrite() // what was sent so far arrives
	<-done
}
