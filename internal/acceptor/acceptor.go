package acceptor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Conn is a connection that a server has accepted. Drain and Close may be called at any
// time, from any goroutine.
type Conn interface {
	// Serve runs the connection. It returns when that has ended and so has everything
	// that it started; the end of ctx ends it at once.
	Serve(ctx context.Context)
	// Drain ends the connection when it has no transfer under way, or as soon as that is so.
	// It may wait for a peer that takes nothing, until Close.
	Drain()
	// Close ends the connection at once. It does not wait.
	Close()
}

// Accepted is what is known of a connection when it is accepted.
type Accepted struct {
	net.Conn
	Addr   netip.Addr // of the peer, an IPv4-mapped one as IPv4; zero when the listener has none
	Ticket *Ticket
}

// Config configures an Acceptor.
type Config struct {
	Name   string // the server's, in errors: "ssh server"
	Limits Limits // with defaults filled in
	Logger *slog.Logger
	// Refusal is the line that tells a refused peer why, in the words of the protocol.
	Refusal func(why error) string
}

// Acceptor accepts connections. Safe for concurrent use.
type Acceptor struct {
	cfg       Config
	admission *admission
	refused   rate.Sometimes // log lines
	dropped   rate.Sometimes // log lines
	acceptedN atomic.Uint64  // since the start
	refusedN  atomic.Uint64  // with those that were dropped

	mu        sync.Mutex // guards what follows
	conns     map[Conn]struct{}
	listeners map[net.Listener]struct{}
	draining  bool
	idle      chan struct{} // closed when draining and conns is empty
}

// New makes an Acceptor.
func New(cfg Config) *Acceptor {
	return &Acceptor{
		cfg:       cfg,
		admission: newAdmission(cfg.Limits),
		refused:   rate.Sometimes{Interval: refusedInterval},
		dropped:   rate.Sometimes{Interval: refusedInterval},
		conns:     make(map[Conn]struct{}),
		listeners: make(map[net.Listener]struct{}),
		idle:      make(chan struct{}),
	}
}

// Accept errors that pass (no descriptors left) are waited out between these.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// Serve accepts connections on ln, which it closes, until ctx ends or Shutdown is called:
// then it returns nil, after everything that it started has ended. When ctx ends, its
// connections are closed at once. It may be called for several listeners. start makes the
// Conn of a connection that is let in.
func (a *Acceptor) Serve(ctx context.Context, ln net.Listener, start func(Accepted) Conn) error {
	if !a.addListener(ln) {
		_ = ln.Close()
		return nil // told to end before it began
	}
	defer a.removeListener(ln)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // wakes Accept, which tells
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		nc, err := Accept(ctx, ln, a.cfg.Logger)
		switch {
		case err == nil:
			a.accept(ctx, nc, &conns, start)
		case ctx.Err() != nil:
			cancel()
			return nil
		case a.isDraining():
			// Shutdown ends the connections; conns waits for them.
			defer cancel()
			conns.Wait()
			return nil
		default:
			cancel()
			return fmt.Errorf("%s: accept: %w", a.cfg.Name, err)
		}
	}
}

// Accept accepts one connection on ln. An error that may pass, as when there are no descriptors left, is
// logged and waited out, however often it comes: it must not end a server. Accept returns only those that
// do not pass: net.ErrClosed, os.ErrDeadlineExceeded of a deadline of ln, and ctx's error when ctx ends
// while it waits; the end of ctx does not wake ln. It may be called from several goroutines.
func Accept(ctx context.Context, ln net.Listener, log *slog.Logger) (net.Conn, error) {
	var delay time.Duration
	for {
		nc, err := ln.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nc, err
		}
		delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
		log.Warn("cannot accept a connection", "err", err, "retry_in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// accept starts a connection, or refuses it.
func (a *Acceptor) accept(ctx context.Context, nc net.Conn, conns *sync.WaitGroup, start func(Accepted) Conn) {
	addr := remoteAddr(nc)
	ctx, cancel := context.WithCancel(ctx)
	t, dropped, err := a.admission.enter(addr, cancel)
	if err != nil {
		cancel()
		a.refusedN.Add(1)
		// A flood of connections must not become a flood of log lines.
		a.refused.Do(func() {
			a.cfg.Logger.Warn("connection refused", "remote", nc.RemoteAddr().String(), "err", err)
		})
		a.refuse(nc, err)
		return
	}
	a.acceptedN.Add(1)
	if dropped != nil {
		a.refusedN.Add(1)
		a.dropped.Do(func() {
			a.cfg.Logger.Warn("connection dropped for a newer one", "remote", dropped.addr.String(), "err", ErrTooManyHandshakes)
		})
		dropped.end()
	}
	c := start(Accepted{nc, addr, t})
	if !a.addConn(c) {
		cancel()
		t.leave()
		_ = nc.Close() // accepted while the listener was closed
		return
	}
	conns.Go(func() {
		defer a.forget(c)
		defer t.leave()
		defer cancel()
		c.Serve(ctx)
	})
}

// refusedInterval is how often refused connections are logged, and dropped ones.
const refusedInterval = time.Second

// refuseTimeout is how long telling a refused peer may take; the line fits any buffer.
const refuseTimeout = 100 * time.Millisecond

func (a *Acceptor) refuse(nc net.Conn, why error) {
	_ = nc.SetWriteDeadline(time.Now().Add(refuseTimeout)) // the peer learns less, no more
	_, _ = nc.Write([]byte(a.cfg.Refusal(why)))
	_ = nc.Close()
}

func remoteAddr(nc net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.Addr{} // not TCP
	}
	return ap.Addr().Unmap().WithZone("")
}

// Shutdown stops accepting connections and drains those that there are. When ctx ends,
// the rest is closed. It returns ctx's error when it came to that.
func (a *Acceptor) Shutdown(ctx context.Context) error {
	a.mu.Lock()
	if !a.draining {
		a.draining = true
		if len(a.conns) == 0 {
			close(a.idle)
		}
	}
	for ln := range a.listeners {
		_ = ln.Close() // Serve reports what matters
	}
	conns := make([]Conn, 0, len(a.conns))
	for c := range a.conns {
		conns = append(conns, c)
	}
	a.mu.Unlock()
	// Side by side: a peer that takes nothing holds up its own end only, and no longer than
	// until its connection is closed below.
	var drains sync.WaitGroup
	defer drains.Wait()
	for _, c := range conns {
		drains.Go(c.Drain)
	}
	select {
	case <-a.idle:
		return nil
	case <-ctx.Done():
	}
	for _, c := range conns {
		c.Close()
	}
	<-a.idle
	return ctx.Err()
}

func (a *Acceptor) addListener(ln net.Listener) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return false
	}
	a.listeners[ln] = struct{}{}
	return true
}

func (a *Acceptor) removeListener(ln net.Listener) {
	a.mu.Lock()
	delete(a.listeners, ln)
	a.mu.Unlock()
	_ = ln.Close() // closed already, mostly
}

func (a *Acceptor) isDraining() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.draining
}

func (a *Acceptor) addConn(c Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return false
	}
	a.conns[c] = struct{}{}
	return true
}

func (a *Acceptor) forget(c Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.conns, c)
	if a.draining && len(a.conns) == 0 {
		close(a.idle)
	}
}
