package sshsrv

import (
	"context"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	gliderlabs "github.com/gliderlabs/ssh"

	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/vfs"
)

// conn is one connection, from accept to its end.
type conn struct {
	server *Server
	id     string
	nc     *timedConn
	addr   netip.Addr
	ticket *acceptor.Ticket

	// These belong to the goroutine of Serve, in which the login happens; what is started
	// after the login reads them.
	log      *slog.Logger
	front    gliderlabs.Context // of the connection at gliderlabs
	tried    string             // the user name of the last attempt to log in
	refusals []string           // why attempts failed, each reason once
	offered  []string           // fingerprints of keys that were refused, the first ones
	loggedIn bool
	user     string // who has logged in
	watcher  sync.WaitGroup

	count      counters
	lastActive atomic.Int64 // Unix time in nanoseconds of the last request

	mu        sync.Mutex     // guards what follows; taken before a shim's
	principal *vfs.Principal // that of the ServerConn's Permissions
	session   *vfs.Session
	shims     map[*shim]struct{}
	channels  int  // being served
	handlers  int  // goroutines for channels, those that refuse one included
	ended     bool // no more handlers
	draining  bool
	running   sync.WaitGroup // handlers; nothing is added once ended is set
}

// Serve implements acceptor.Conn: it runs the connection and returns when the peer has
// left, ctx has ended, or Close was called, and everything that it started has ended.
func (c *conn) Serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, c.Close)
	defer stop()
	defer c.end(time.Now())
	defer c.Close()
	defer cancel()
	defer c.recovered("connection")
	timeout := c.server.cfg.HandshakeTimeout
	if err := c.nc.begin(timeout); err != nil {
		c.logFailure(err)
		return
	}
	login, cancelLogin := context.WithTimeout(ctx, timeout)
	defer cancelLogin()
	c.frontEnd(ctx, login).HandleConn(c.nc)
}

// end waits for what Serve started, when the connection is closed and its context done.
func (c *conn) end(start time.Time) {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.running.Wait()
	c.watcher.Wait()
	if sc := c.serverConn(); sc != nil {
		_ = sc.Wait() // the reason is in what the channels reported
	}
	c.endSession()
	if c.loggedIn {
		c.log.Info("session ended", "dur", time.Since(start), "read_bytes", c.count.read.Load(),
			"written_bytes", c.count.written.Load(), "files", c.count.files.Load(),
			"uploaded", c.count.uploaded.Load(), "aborted", c.count.aborted.Load(), "failures", c.count.failures.Load())
		c.server.cfg.Observer.LoggedOut(Logout{
			Peer: c.peer(c.user), Dur: time.Since(start), Read: c.count.read.Load(), Written: c.count.written.Load(),
			Uploads: c.count.uploaded.Load(), Files: c.count.files.Load(),
		})
	}
}

// recovered logs a panic and ends the connection, so that it does not end the process.
// Handlers have a recover of their own, which ends no more than the request.
func (c *conn) recovered(where string) {
	if r := recover(); r != nil {
		c.log.Error("panic", "op", where, "value", r, "stack", string(debug.Stack()))
		c.Close()
	}
}

// watch sends keepalives to a silent peer, whose answers feed the deadline of Read, and
// ends a connection that has been idle for too long.
func (c *conn) watch(ctx context.Context) {
	cfg := c.server.cfg
	interval := cfg.KeepAlive
	if cfg.IdleTimeout > 0 {
		interval = min(interval, cfg.IdleTimeout)
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var asked atomic.Bool // an answer is waited for; not here, as it may never come
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if idle := time.Since(time.Unix(0, c.lastActive.Load())); cfg.IdleTimeout > 0 && idle >= cfg.IdleTimeout {
			c.log.Info("connection idle", "idle", idle)
			c.Close()
			return
		}
		sc := c.serverConn()
		if sc == nil || c.nc.silence() < interval || !asked.CompareAndSwap(false, true) {
			continue // nil: the answer to the login is still on its way
		}
		c.watcher.Go(func() {
			defer asked.Store(false)
			_, _, _ = sc.SendRequest("keepalive@openssh.com", true, nil) // fails with the connection
		})
	}
}

// touch notes that the client asked for something.
func (c *conn) touch() { c.lastActive.Store(time.Now().UnixNano()) }

// Close implements acceptor.Conn: it ends the connection at once.
func (c *conn) Close() { _ = c.nc.Close() } // a second one fails, and nothing depends on it

// Drain implements acceptor.Conn: it ends the connection when it has no file open, or as
// soon as that is so.
func (c *conn) Drain() {
	c.mu.Lock()
	c.draining = true
	idle := len(c.shims) == 0
	shims := make([]*shim, 0, len(c.shims))
	for s := range c.shims {
		shims = append(shims, s)
	}
	c.mu.Unlock()
	if idle {
		c.Close()
		return
	}
	for _, s := range shims {
		s.drain()
	}
}

// addShim registers a running subsystem; false means that the connection is draining.
func (c *conn) addShim(s *shim) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return false
	}
	if c.shims == nil {
		c.shims = make(map[*shim]struct{})
	}
	c.shims[s] = struct{}{}
	return true
}

// removeShim closes a draining connection with its last subsystem.
func (c *conn) removeShim(s *shim) {
	c.mu.Lock()
	delete(c.shims, s)
	last := c.draining && len(c.shims) == 0
	c.mu.Unlock()
	if last {
		c.Close()
	}
}

// vfsSession returns the connection's session, which its channels share.
func (c *conn) vfsSession(ctx context.Context) (*vfs.Session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		return c.session, nil
	}
	// Made under the lock, so that two channels do not make two; it reads no file data.
	sess, err := c.server.cfg.Sessions(ctx, c.principal, vfs.ConnInfo{
		Protocol: protocol, Remote: c.nc.RemoteAddr().String(), Conn: c.id,
	})
	if err != nil {
		return nil, err
	}
	c.session = sess
	return sess, nil
}

func (c *conn) endSession() {
	c.mu.Lock()
	sess := c.session
	c.session = nil
	c.mu.Unlock()
	if sess == nil {
		return
	}
	if err := sess.Close(); err != nil {
		c.log.Warn("cannot end the session", "err", err)
	}
}
