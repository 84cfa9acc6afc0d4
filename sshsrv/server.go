package sshsrv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"
)

// Server serves SFTP. Safe for concurrent use.
type Server struct {
	cfg       Config
	normal    *ssh.ServerConfig // without callbacks; copied for each connection
	legacy    *ssh.ServerConfig
	admission *admission
	lastConn  atomic.Uint64
	refused   rate.Sometimes

	mu        sync.Mutex // guards what follows; taken before a shim's
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	draining  bool
	idle      chan struct{} // closed when draining and conns is empty
}

// New makes a server; the configuration is checked.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("ssh server: %w", err)
	}
	s := &Server{
		cfg:       cfg,
		admission: newAdmission(cfg.Limits),
		conns:     make(map[*conn]struct{}),
		listeners: make(map[net.Listener]struct{}),
		idle:      make(chan struct{}),
		refused:   rate.Sometimes{Interval: refusedInterval},
	}
	if s.normal, err = algorithms(false, cfg.ChaCha20).serverConfig(cfg.HostKeys); err != nil {
		return nil, fmt.Errorf("ssh server: %w", err)
	}
	if s.legacy, err = algorithms(true, cfg.ChaCha20).serverConfig(cfg.HostKeys); err != nil {
		return nil, fmt.Errorf("ssh server: %w", err)
	}
	return s, nil
}

// Accept errors that pass (no descriptors left) are waited out between these.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// Serve accepts connections on ln, which it closes, until ctx ends or Shutdown is called:
// then it returns nil, after everything that it started has ended. When ctx ends, its
// connections are closed at once. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if !s.addListener(ln) {
		return errors.Join(errors.New("ssh server: shut down"), ln.Close())
	}
	defer s.removeListener(ln)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // wakes Accept, which tells
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	var delay time.Duration
	for {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			s.accept(ctx, nc, &conns)
			continue
		case ctx.Err() != nil:
			cancel()
			return nil
		case s.isDraining():
			// Shutdown ends the connections; conns waits for them.
			defer cancel()
			conns.Wait()
			return nil
		case errors.Is(err, net.ErrClosed):
			cancel()
			return fmt.Errorf("ssh server: accept: %w", err)
		}
		delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
		s.cfg.Logger.Warn("cannot accept a connection", "err", err, "retry_in", delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// accept starts a connection, or refuses it.
func (s *Server) accept(ctx context.Context, nc net.Conn, conns *sync.WaitGroup) {
	addr := remoteAddr(nc)
	t, err := s.admission.enter(addr)
	if err != nil {
		// A flood of connections must not become a flood of log lines.
		s.refused.Do(func() {
			s.cfg.Logger.Warn("connection refused", "remote", nc.RemoteAddr().String(), "err", err)
		})
		refuse(nc, err)
		return
	}
	c := &conn{
		server: s,
		id:     fmt.Sprintf("sftp-%d", s.lastConn.Add(1)),
		nc:     newTimedConn(nc, s.cfg.PeerTimeout),
		addr:   addr,
		ticket: t,
	}
	c.log = s.cfg.Logger.With("conn", c.id, "remote", nc.RemoteAddr().String())
	if !s.addConn(c) {
		t.leave()
		_ = nc.Close() // accepted while the listener was closed
		return
	}
	conns.Go(func() {
		defer s.forget(c)
		defer t.leave()
		c.serve(ctx)
	})
}

// refusedInterval is how often refused connections are logged.
const refusedInterval = time.Second

// refuseTimeout is how long telling a refused peer may take; the line fits any buffer.
const refuseTimeout = 100 * time.Millisecond

// refuse tells why, in a line before the identification (RFC 4253 section 4.2).
func refuse(nc net.Conn, why error) {
	_ = nc.SetWriteDeadline(time.Now().Add(refuseTimeout)) // the peer learns less, no more
	_, _ = nc.Write([]byte(why.Error() + "\r\n"))
	_ = nc.Close()
}

func remoteAddr(nc net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.Addr{} // not TCP
	}
	return ap.Addr().Unmap().WithZone("")
}

// Shutdown stops accepting connections and ends those that have no file open. The others
// may go on with the files they have open until ctx ends; then they are closed, and their
// uploads become partials. It returns ctx's error when it came to that.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.draining {
		s.draining = true
		if len(s.conns) == 0 {
			close(s.idle)
		}
	}
	for ln := range s.listeners {
		_ = ln.Close() // Serve reports what matters
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	// Side by side: a peer that takes nothing holds up the end of its own channels only,
	// and no longer than until its connection is closed below.
	var drains sync.WaitGroup
	defer drains.Wait()
	for _, c := range conns {
		drains.Go(c.drain)
	}
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	for _, c := range conns {
		c.close()
	}
	<-s.idle
	return ctx.Err()
}

func (s *Server) addListener(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) removeListener(ln net.Listener) {
	s.mu.Lock()
	delete(s.listeners, ln)
	s.mu.Unlock()
	_ = ln.Close() // closed already, mostly
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

func (s *Server) addConn(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.draining && len(s.conns) == 0 {
		close(s.idle)
	}
}
