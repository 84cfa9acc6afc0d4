package ftpsrv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/vfs"
)

// conn is one connection, from accept to its end. Commands are handled one after the other
// by the loop, which runs in the goroutine of the library; a transfer runs beside it.
type conn struct {
	server   *Server
	id       string
	addr     netip.Addr
	local    netip.Addr // the address that the client has reached
	ticket   *acceptor.Ticket
	implicit bool
	ctl      *control
	engine   *engine
	tls      *tls.Config // nil: none
	started  time.Time

	// These belong to the loop; those that are set at the login do not change after it.
	ctx       context.Context //nolint:containedctx // afero's methods are not given one; ends with the connection
	log       *slog.Logger
	user      string // of USER
	loggedIn  string // who has logged in
	tries     int    // failed logins
	sess      *vfs.Session
	protected bool // PROT P
	epsvAll   bool
	data      dataPort    // prepared by PASV and the like; nil: none
	unused    *time.Timer // gives data up; nil before the first one
	offset    int64       // of REST
	announced int64       // by ALLO, -1: nothing
	facts     facts
	hash      string // of OPTS HASH
	renames   string // of RNFR, absolute; "" when the last one failed, and after RNTO
	asciiType bool   // what TYPE said; it makes no difference
	held      *command
	seq       uint64 // of the command that is being handled

	lines chan command  // after the login, of readAhead
	dead  chan struct{} // closed when the control connection has ended, after the login

	count  counters
	failed atomic.Bool // the connection is to end after the current command

	mu       sync.Mutex // guards the rest
	draining bool
	busy     bool // the greeting is being sent, or a command handled
	transfer *exchange
	aborted  uint64 // the newest ABOR: of transfers that were asked for before it, none goes on
}

// counters are what a session did.
type counters struct {
	read, written atomic.Int64 // bytes of files
	files         atomic.Int64 // transfers begun
	uploaded      atomic.Int64 // published
	aborted       atomic.Int64 // uploads that were cut off
}

func (s *Server) newConn(a acceptor.Accepted, implicit bool) *conn {
	c := &conn{
		server: s, id: fmt.Sprintf("ftp-%d", s.lastConn.Add(1)), addr: a.Addr, ticket: a.Ticket,
		implicit: implicit, ctl: newControl(a.Conn), started: time.Now(),
		announced: -1, hash: defaultHash, facts: allFacts(),
		lines: make(chan command, readAheadLines), dead: make(chan struct{}),
	}
	if ap, err := netip.ParseAddrPort(a.LocalAddr().String()); err == nil {
		c.local = ap.Addr().Unmap().WithZone("")
	}
	c.log = s.cfg.Logger.With("conn", c.id, "remote", a.RemoteAddr().String())
	if s.cfg.TLS != nil {
		c.tls = s.cfg.TLS()
	}
	return c
}

// Serve implements acceptor.Conn.
func (c *conn) Serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.ctx = ctx
	stop := context.AfterFunc(ctx, c.Close)
	defer stop()
	defer c.Close()
	if err := c.begin(); err != nil {
		c.log.Debug("connection ended before login", "err", err)
		return
	}
	if !c.enter(true) { // else busy with the greeting, so that a shutdown finds no half of it
		c.ctl.lastWords(errDrained.Error())
		return
	}
	c.engine = newEngine(c)
	c.engine.run()
	cancel()
	c.Close()
	c.end()
}

// begin sets the deadline for the login, and makes the handshake of implicit TLS.
func (c *conn) begin() error {
	if err := c.ctl.raw.SetReadDeadline(time.Now().Add(c.server.cfg.LoginTimeout)); err != nil {
		return err
	}
	if !c.implicit {
		return nil
	}
	c.protected = true
	return c.handshake(nil)
}

// handshake makes the control connection a TLS one.
func (c *conn) handshake(ready func()) error {
	ctx, cancel := context.WithDeadline(c.ctx, c.started.Add(c.server.cfg.LoginTimeout))
	defer cancel()
	return c.ctl.startTLS(ctx, c.tls, ready)
}

// end waits for what the connection started, and ends its session.
func (c *conn) end() {
	c.cut(errGone)
	c.closeData()
	if t := c.currentTransfer(); t != nil {
		<-t.done
	}
	if c.sess == nil {
		if c.tries > 0 {
			c.log.Warn("login failed", "user", clip(c.user), "attempts", c.tries)
		}
		return
	}
	<-c.dead // readAhead has ended
	if err := c.sess.Close(); err != nil {
		c.log.Error("ending the session", "err", err)
	}
	c.log.Info("session ended", "dur", time.Since(c.started), "read_bytes", c.count.read.Load(),
		"written_bytes", c.count.written.Load(), "files", c.count.files.Load(),
		"uploaded", c.count.uploaded.Load(), "aborted", c.count.aborted.Load())
	c.server.cfg.Observer.LoggedOut(Logout{
		Peer: c.peer(c.loggedIn), Dur: time.Since(c.started), Read: c.count.read.Load(), Written: c.count.written.Load(),
		Uploads: c.count.uploaded.Load(), Files: c.count.files.Load(),
	})
}

// Close implements acceptor.Conn.
func (c *conn) Close() { c.ctl.close() }

// Drain implements acceptor.Conn.
func (c *conn) Drain() {
	c.mu.Lock()
	c.draining = true
	idle := !c.busy && c.transfer == nil
	c.mu.Unlock()
	if idle {
		c.ctl.lastWords(errDrained.Error())
		c.Close()
	}
}

// enter notes that the connection is now busy, or waits for the next command; false says
// that it is to end instead. One step, so that Drain finds it in one state or the other.
func (c *conn) enter(busy bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy && !c.draining
	return !c.draining
}

var (
	errGone    = errors.New("the client is gone")
	errAborted = errors.New("aborted by the client")
	errDrained = errors.New("the server is shutting down")
)

// readAheadLines is how many commands may wait while one is handled; clients that
// pipeline send a handful. One that sends more is cut off: reading has to go on, since the
// end of the connection shows there.
const readAheadLines = 64

// maxNoops is how many NOOPs in a row count as one command beyond the first: clients keep the control
// connection alive with one every 15 s or so while a transfer takes hours, and are answered behind it.
const maxNoops = 1 << 16

// readAhead reads commands after the login, so that the end of the connection and ABOR are
// noticed during a transfer.
func (c *conn) readAhead() {
	defer close(c.dead)
	var last command
	for seq := uint64(1); ; seq++ {
		cmd := readCommand(c.ctl.in)
		cmd.seq = seq
		if cmd.err != nil && !errors.Is(cmd.err, errLineTooLong) {
			c.log.Debug("control connection ended", "err", cmd.err)
			return
		}
		if cmd.verb == "ABOR" {
			c.abort(seq)
		}
		if cmd.verb == "NOOP" {
			if last.follow() {
				continue
			}
			cmd.more = new(atomic.Int64)
		}
		last = cmd
		select {
		case c.lines <- cmd:
		default:
			c.log.Warn("connection closed", "err", "too many commands at once")
			c.ctl.close()
			return
		}
	}
}

// read returns the next command; its err says why there is none.
func (c *conn) read() command {
	if c.held != nil {
		cmd := *c.held
		c.held = nil
		return cmd
	}
	if c.sess == nil {
		return readCommand(c.ctl.in)
	}
	timer := time.NewTimer(c.server.cfg.IdleTimeout)
	defer timer.Stop()
	select {
	case cmd := <-c.lines:
		return cmd
	default:
	}
	select {
	case cmd := <-c.lines:
		return cmd
	case <-c.dead:
		select {
		case cmd := <-c.lines: // sent before the end
			return cmd
		default:
			return command{err: errGone}
		}
	case <-timer.C:
		c.ctl.lastWords(fmt.Sprintf("nothing happened for %v", c.server.cfg.IdleTimeout))
		return command{err: errors.New("idle")}
	}
}

// awaitTransfer handles what may be asked while a transfer is under way. It returns when
// that has ended; another command waits, too.
func (c *conn) awaitTransfer(t *exchange) {
	lines := c.lines
	for {
		select {
		case <-t.done:
			return
		case <-c.dead:
			c.cut(errGone)
			<-t.done
			return
		case cmd := <-lines:
			if cmd.verb == "STAT" && cmd.arg == "" && !t.over.Load() {
				c.status(t)
				continue
			}
			c.held = &cmd
			lines = nil
		}
	}
}

// next returns the line for the library; false ends the connection. Commands that the
// library does not know, or not well enough, are handled on the way.
func (c *conn) next() (x *exchange, ok bool) {
	defer c.recovered("connection", func() { x, ok = nil, false })
	if t := c.currentTransfer(); t != nil {
		c.awaitTransfer(t)
		t.job.release()
		c.setTransfer(nil)
	}
	for !c.failed.Load() {
		if x := c.engine.queued(); x != nil {
			return x, true
		}
		if !c.enter(false) {
			c.ctl.lastWords(errDrained.Error())
			return nil, false
		}
		cmd := c.read()
		if !c.enter(true) {
			c.ctl.lastWords(errDrained.Error())
			return nil, false
		}
		switch {
		case errors.Is(cmd.err, errLineTooLong):
			c.ctl.reply(codeUnknown, "line too long")
		case cmd.err != nil:
			return nil, false
		default:
			c.handle(cmd)
		}
	}
	return nil, false
}

// recovered logs a panic, so that it does not end the process.
func (c *conn) recovered(op string, then func()) {
	if r := recover(); r != nil {
		c.log.Error("panic", "op", op, "value", r, "stack", string(debug.Stack()))
		then()
	}
}

// currentTransfer is the transfer under way, nil when there is none.
func (c *conn) currentTransfer() *exchange {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.transfer
}

// setTransfer notes the transfer that begins, nil when it has ended. An ABOR that came
// right behind it may have been read already.
func (c *conn) setTransfer(x *exchange) {
	c.mu.Lock()
	c.transfer = x
	aborted := x != nil && x.seq < c.aborted
	c.mu.Unlock()
	if aborted {
		x.cancel(errAborted)
	}
}

// abort cuts off the transfer that was asked for before the line seq, whether it has begun
// or not.
func (c *conn) abort(seq uint64) {
	c.mu.Lock()
	c.aborted = seq
	c.mu.Unlock()
	c.cut(errAborted)
}

// cut ends the transfer that is under way, if there is one.
func (c *conn) cut(why error) {
	if t := c.currentTransfer(); t != nil {
		t.cancel(why)
	}
}

// closeData gives up a data connection that was prepared and not used.
func (c *conn) closeData() {
	if c.data != nil {
		c.unused.Stop()
		c.data.close()
		c.data = nil
	}
}

// gone reports whether the control connection has ended.
func (c *conn) gone() bool {
	select {
	case <-c.dead:
		return true
	default:
		return peerGone(c.ctl.raw)
	}
}

// clip shortens what a peer sent, for the log.
func clip(s string) string {
	const longest = 64
	if len(s) > longest {
		return s[:longest] + "…"
	}
	return s
}

// tcpConn is the TCP connection below c, nil when there is none.
func tcpConn(c net.Conn) *net.TCPConn {
	t, _ := c.(*net.TCPConn)
	return t
}
