package ftpsrv

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// replyTimeout is how long a client may take to accept a reply; then it is dead.
const replyTimeout = 30 * time.Second

// control is the control connection.
type control struct {
	raw net.Conn
	// in belongs to the goroutine that reads commands: the loop's before the login, that of
	// readAhead after it.
	in *bufio.Reader

	out  sync.Mutex // guards conn for writing; held while a reply is written; a leaf
	conn net.Conn   // raw, or TLS on it
}

func newControl(raw net.Conn) *control {
	return &control{raw: raw, conn: raw, in: bufio.NewReaderSize(raw, maxLine)}
}

var errPlaintextAfterAuth = errors.New("commands in plain text after AUTH TLS")

// startTLS makes it a TLS connection; ready, when not nil, is called when nothing that
// was sent in plain text can be taken for something that came encrypted.
func (c *control) startTLS(ctx context.Context, cfg *tls.Config, ready func()) error {
	if c.in.Buffered() > 0 {
		return errPlaintextAfterAuth
	}
	if ready != nil {
		ready()
	}
	t := tls.Server(c.raw, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	c.out.Lock()
	defer c.out.Unlock()
	c.conn = t
	c.in = bufio.NewReaderSize(t, maxLine)
	return nil
}

// encrypted reports whether it is a TLS connection.
func (c *control) encrypted() bool {
	c.out.Lock()
	defer c.out.Unlock()
	_, ok := c.conn.(*tls.Conn)
	return ok
}

// reply sends a reply; several lines make it a multi-line one (RFC 959 section 4.2). An
// error means that the client is gone, which is noticed by reading.
func (c *control) reply(code int, lines ...string) {
	var b strings.Builder
	for i, line := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		if i > 0 && i < len(lines)-1 {
			// Lines between begin with a space, so that none looks like the last one.
			b.WriteString(" " + printable(line) + "\r\n")
			continue
		}
		fmt.Fprintf(&b, "%d%s%s\r\n", code, sep, printable(line))
	}
	c.write(b.String())
}

// write sends text that is part of a reply.
func (c *control) write(text string) {
	c.out.Lock()
	defer c.out.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(replyTimeout)) // fails with the connection
	if _, err := c.conn.Write([]byte(text)); err != nil {
		_ = c.raw.Close() // a reply that is missing would shift all that follow
	}
}

// lastWords tells why the connection ends, when the client takes it at once.
func (c *control) lastWords(text string) {
	const patience = 100 * time.Millisecond
	if !c.out.TryLock() {
		return // a reply hangs already
	}
	defer c.out.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprintf(c.conn, "%d %s\r\n", codeUnavailable, text)
}

// close ends the connection at once.
func (c *control) close() { _ = c.raw.Close() } // a second one fails, and nothing depends on it
