package sshsrv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/internal/acceptor"
)

// Reasons to close a connection that has logged in.
var (
	errTooManyChannels = errors.New("too many channels at once")
	errStalled         = errors.New("the client takes no answers")
)

// Server serves SFTP. Safe for concurrent use.
type Server struct {
	cfg      Config
	normal   *ssh.ServerConfig // without callbacks; copied for each connection
	legacy   *ssh.ServerConfig
	acceptor *acceptor.Acceptor
	memory   *memory
	lastConn atomic.Uint64
}

// New makes a server; the configuration is checked.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("ssh server: %w", err)
	}
	s := &Server{
		cfg:    cfg,
		memory: newMemory(cfg.Limits),
		acceptor: acceptor.New(acceptor.Config{
			Name: "ssh server", Limits: cfg.Limits.Admission, Logger: cfg.Logger,
			// A line before the identification (RFC 4253 section 4.2).
			Refusal: func(why error) string { return why.Error() + "\r\n" },
		}),
	}
	if s.normal, err = algorithms(false, cfg.ChaCha20).serverConfig(cfg.HostKeys); err != nil {
		return nil, fmt.Errorf("ssh server: %w", err)
	}
	if s.legacy, err = algorithms(true, cfg.ChaCha20).serverConfig(cfg.HostKeys); err != nil {
		return nil, fmt.Errorf("ssh server: %w", err)
	}
	return s, nil
}

// Serve accepts connections on ln, which it closes, until ctx ends or Shutdown is called:
// then it returns nil, after everything that it started has ended. When ctx ends, its
// connections are closed at once. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.acceptor.Serve(ctx, ln, func(a acceptor.Accepted) acceptor.Conn { return s.newConn(a) })
}

func (s *Server) newConn(a acceptor.Accepted) *conn {
	c := &conn{
		server: s,
		id:     fmt.Sprintf("sftp-%d", s.lastConn.Add(1)),
		nc:     newTimedConn(a.Conn, s.cfg.PeerTimeout),
		addr:   a.Addr,
		ticket: a.Ticket,
	}
	c.log = s.cfg.Logger.With("conn", c.id, "remote", a.RemoteAddr().String())
	return c
}

// Shutdown stops accepting connections and ends those that have no file open. The others
// may go on with the files they have open until ctx ends; then they are closed, and their
// uploads become partials. It returns ctx's error when it came to that.
func (s *Server) Shutdown(ctx context.Context) error { return s.acceptor.Shutdown(ctx) }

// Stats counts the server's connections.
func (s *Server) Stats() Stats { return s.acceptor.Stats() }
