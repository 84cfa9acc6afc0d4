package sshsrv

import (
	"net"
	"sync/atomic"
	"time"
)

// timedConn keeps the deadlines of a connection: the whole handshake has one, and after
// the login every Read and Write has its own. Whoever uses it as a net.Conn cannot move
// them: gliderlabs takes all deadlines away before each Read and Write.
type timedConn struct {
	conn        net.Conn
	timeout     time.Duration
	established atomic.Bool
	lastRead    atomic.Int64 // Unix time in nanoseconds
}

var _ net.Conn = (*timedConn)(nil)

func newTimedConn(nc net.Conn, timeout time.Duration) *timedConn {
	return &timedConn{conn: nc, timeout: timeout}
}

// begin starts the handshake's deadline.
func (c *timedConn) begin(handshake time.Duration) error {
	return c.conn.SetDeadline(time.Now().Add(handshake))
}

// establish ends the handshake's deadline.
func (c *timedConn) establish() error {
	c.lastRead.Store(time.Now().UnixNano())
	c.established.Store(true)
	return c.conn.SetDeadline(time.Now().Add(c.timeout))
}

// Read implements net.Conn. A peer that sends nothing for the timeout is dead: a live one
// answers keepalives.
func (c *timedConn) Read(p []byte) (int, error) {
	if c.established.Load() {
		if err := c.conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
			return 0, err
		}
	}
	n, err := c.conn.Read(p)
	if n > 0 {
		c.lastRead.Store(time.Now().UnixNano())
	}
	return n, err
}

// Write implements net.Conn. A peer that takes nothing for the timeout is dead. After an
// error the connection is of no use; it is closed here, so that its end does not wait for
// somebody to look at the error.
func (c *timedConn) Write(p []byte) (int, error) {
	if c.established.Load() {
		if err := c.conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return 0, err
		}
	}
	n, err := c.conn.Write(p)
	if err != nil {
		_ = c.Close() // what failed is told by err
	}
	return n, err
}

// silence is how long the peer has sent nothing.
func (c *timedConn) silence() time.Duration {
	return time.Since(time.Unix(0, c.lastRead.Load()))
}

// Close implements net.Conn.
func (c *timedConn) Close() error { return c.conn.Close() }

// LocalAddr implements net.Conn.
func (c *timedConn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *timedConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline implements net.Conn, without effect.
func (*timedConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn, without effect.
func (*timedConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn, without effect.
func (*timedConn) SetWriteDeadline(time.Time) error { return nil }
