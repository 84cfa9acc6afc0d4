package ftpsrv

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/snapgate/gateway/internal/acceptor"
)

// Server serves FTP (RFC 959) and FTP over TLS (RFC 4217). Safe for concurrent use.
type Server struct {
	cfg      Config
	acceptor *acceptor.Acceptor
	commands map[string]spec
	public   *publicIP
	lastConn atomic.Uint64
	buffers  sync.Pool // of *[]byte: see buffer
}

// New makes a server; the configuration is checked.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("ftp server: %w", err)
	}
	return &Server{
		cfg:      cfg,
		commands: commandTable(),
		buffers: sync.Pool{New: func() any {
			b := make([]byte, pieceBytes)
			return &b
		}},
		public: newPublicIP(cfg.PublicIP, cfg.Logger),
		acceptor: acceptor.New(acceptor.Config{
			Name: "ftp server", Limits: cfg.Limits.Admission, Logger: cfg.Logger,
			Refusal: func(why error) string { return fmt.Sprintf("%d %v\r\n", codeUnavailable, why) },
		}),
	}, nil
}

// Serve accepts connections on ln, which it closes, until ctx ends or Shutdown is called:
// then it returns nil, after everything that it started has ended. When ctx ends, its
// connections are closed at once. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.acceptor.Serve(ctx, ln, func(a acceptor.Accepted) acceptor.Conn { return s.newConn(a, false) })
}

// ServeImplicit is Serve for connections that begin with the TLS handshake ("implicit"
// FTPS, port 990). The configuration must have TLS.
func (s *Server) ServeImplicit(ctx context.Context, ln net.Listener) error {
	if s.cfg.TLS == nil {
		_ = ln.Close()
		return fmt.Errorf("ftp server: implicit TLS without TLS")
	}
	return s.acceptor.Serve(ctx, ln, func(a acceptor.Accepted) acceptor.Conn { return s.newConn(a, true) })
}

// Shutdown stops accepting connections and ends those without a transfer. Transfers that
// are under way may go on until ctx ends; then they are cut off, and uploads become
// partials. It returns ctx's error when it came to that.
func (s *Server) Shutdown(ctx context.Context) error { return s.acceptor.Shutdown(ctx) }

// Stats counts the server's connections.
func (s *Server) Stats() Stats { return s.acceptor.Stats() }
