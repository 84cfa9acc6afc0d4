package sshclient

import (
	"errors"
	"net"
	"sync/atomic"

	"github.com/snapgate/gateway/internal/gather"
)

// maxHandshake is how much a server may send before the login is over, in bytes: a key
// exchange takes a few thousand, texts up to maxBanner are allowed, and a hostile server can
// repeat both without end.
const maxHandshake = 1 << 20

var errFlood = errors.New("the server sends more than 1 MiB before the login")

// guardedConn counts what is read, limits it while the handshake runs, and keeps the first
// error. What is written is joined: see gather.
type guardedConn struct {
	net.Conn
	out      *gather.Writer
	received atomic.Int64
	most     atomic.Int64 // 0: no limit
	failure  atomic.Pointer[error]
}

func newGuardedConn(conn net.Conn) *guardedConn {
	c := &guardedConn{Conn: conn}
	c.out = gather.NewWriter(noting{c})
	return c
}

// noting keeps errors of what is written later, too.
type noting struct{ c *guardedConn }

func (n noting) Write(p []byte) (int, error) {
	written, err := n.c.Conn.Write(p)
	n.c.note(err)
	return written, err
}

func (c *guardedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	total := c.received.Add(int64(n))
	if most := c.most.Load(); most > 0 && total > most {
		err = errFlood
	}
	c.note(err)
	return n, err
}

func (c *guardedConn) Write(p []byte) (int, error) {
	return c.out.Write(p)
}

func (c *guardedConn) note(err error) {
	if err != nil {
		c.failure.CompareAndSwap(nil, &err)
	}
}

// broken returns the first error of the connection, nil while there is none.
func (c *guardedConn) broken() error {
	if err := c.failure.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *guardedConn) limit(n int64) { c.most.Store(n) }
func (c *guardedConn) unlimit()      { c.most.Store(0) }
