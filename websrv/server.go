package websrv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/acceptor"
)

// Config configures a Server. Healthy, Ready and Logger are needed.
type Config struct {
	// Healthy says what keeps the process from working; nil: nothing. Its context ends after
	// HealthTimeout.
	Healthy func(ctx context.Context) error
	// Ready says whether uploads are taken, and in a line each what is not as it should be.
	Ready func(ctx context.Context) (ready bool, lines []string)
	// Metrics answers /metrics; nil: there is no such page.
	Metrics http.Handler
	// Hosts are names, beside addresses and localhost, by which the server may be asked.
	Hosts []string
	// Proxies are the addresses of proxies that are believed when they say whom they ask for; nil: none.
	Proxies func() []netip.Prefix
	// TLS returns the settings for new connections; nil: there is no TLS.
	TLS func() *tls.Config
	// Viewer has the pages; nil: there are none.
	Viewer *Viewer
	Logger *slog.Logger
}

// Timeouts and limits. Requests are small, and so are answers, but for downloads, which have limits
// of their own: a monitoring system is there within seconds, and everybody else may go.
const (
	headerTimeout = 5 * time.Second  // for the request, the handshake of TLS included
	writeTimeout  = 30 * time.Second // for the answer, which collecting metrics and checking a password are part of
	idleTimeout   = 2 * time.Minute  // between requests; Prometheus asks every 15 s to 1 min
	maxHeader     = 8 << 10          // bytes
	maxConns      = 128              // at once
	maxAddrConns  = 32               // of these from one address that is no trusted proxy's; a browser makes 6
)

// HealthTimeout is how long /healthz and /readyz wait for what they ask.
const HealthTimeout = 5 * time.Second

// Server answers HTTP. Safe for concurrent use.
type Server struct {
	cfg   Config
	hosts map[string]bool
	http  *http.Server
	pages *viewer // nil: there are none
	gate  *gate
	hint  sync.Once // of a proxy that is not believed

	mu     sync.Mutex // guards conns, and in it since when each idles
	conns  map[*countedConn]struct{}
	served sync.WaitGroup // connections that Serve has accepted
}

// New makes a server; the configuration is checked.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Healthy == nil || cfg.Ready == nil:
		return nil, errors.New("web server: nothing to tell")
	case cfg.Logger == nil:
		return nil, errors.New("web server: no logger")
	}
	s := &Server{cfg: cfg, hosts: map[string]bool{"localhost": true}, gate: newGate(), conns: map[*countedConn]struct{}{}}
	for _, h := range cfg.Hosts {
		s.hosts[strings.ToLower(strings.TrimSuffix(h, "."))] = true
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /readyz", s.ready)
	if cfg.Metrics != nil {
		mux.Handle("GET /metrics", cfg.Metrics)
	}
	if cfg.Viewer != nil {
		var err error
		if s.pages, err = newViewer(*cfg.Viewer, &cfg); err != nil {
			return nil, err
		}
		s.pages.register(mux)
	}
	s.http = &http.Server{
		Handler:           s.guard(mux),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnState:         s.noteState,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Serve answers on ln, which it closes, until ctx ends or Shutdown is called; then it returns
// nil. When ctx ends, connections are closed at once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() }) // wakes Accept, which tells
	defer stop()
	ln = newLimited(ln, s)
	if s.cfg.TLS != nil {
		ln = tls.NewListener(ln, &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"http/1.1"},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				return s.cfg.TLS(), nil
			},
		})
	}
	var chores sync.WaitGroup
	over := make(chan struct{})
	if s.pages != nil {
		chores.Go(func() { s.pages.housekeep(over) })
	}
	err := s.http.Serve(ln)
	s.served.Wait()
	s.gate.wait()
	close(over)
	chores.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("web server: %w", err)
}

// Drain lets downloads and restores end that are under way, until ctx ends, and no more of them begin;
// everything else is answered as before. It returns ctx's error when it came to that.
func (s *Server) Drain(ctx context.Context) error {
	if s.pages == nil {
		return nil
	}
	select {
	case <-s.pages.transfers.end():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown stops accepting connections and lets answers end that are under way, until ctx
// ends. It returns ctx's error when it came to that.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close() // what is left is cut off
	}
	return err
}

// guard is before every page.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if !s.allowed(r.Host) {
			http.Error(w, "unknown host; add it to http.hosts", http.StatusMisdirectedRequest)
			return
		}
		if !s.gate.enter() {
			http.Error(w, "the gateway is shutting down", http.StatusServiceUnavailable)
			return
		}
		defer s.gate.leave()
		next.ServeHTTP(w, s.fromProxy(r))
	})
}

// allowed reports whether the server may be asked by this Host.
func (s *Server) allowed(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if s.hosts[name] {
		return true
	}
	// No name leads here by way of an address: no page of somebody else's can have it.
	_, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), HealthTimeout)
	defer cancel()
	if err := s.cfg.Healthy(ctx); err != nil {
		text(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	text(w, http.StatusOK, "ok")
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), HealthTimeout)
	defer cancel()
	ready, lines := s.cfg.Ready(ctx)
	status, word := http.StatusOK, "ready"
	if !ready {
		status, word = http.StatusServiceUnavailable, "not ready"
	}
	text(w, status, append([]string{word}, lines...)...)
}

func text(w http.ResponseWriter, status int, lines ...string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, strings.Join(lines, "\n")+"\n") // fails with the connection
}

// limited accepts maxConns connections at once, and maxAddrConns of an address. When there are more, it closes
// the one that idles longest, or else the new one.
type limited struct {
	net.Listener
	server *Server
	accept func() (net.Conn, error)
	cancel context.CancelFunc // ends what accept waits out
}

func newLimited(ln net.Listener, s *Server) *limited {
	ctx, cancel := context.WithCancel(context.Background())
	return &limited{
		Listener: ln, server: s, cancel: cancel,
		// http.Server takes what it does not know as temporary for the end, as when the kernel has no buffers.
		accept: func() (net.Conn, error) { return acceptor.Accept(ctx, ln, s.cfg.Logger) },
	}
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.cancel()
	return l.Listener.Close()
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.accept()
		if err != nil {
			return nil, err
		}
		counted := &countedConn{Conn: c, server: l.server}
		if at, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			counted.from = at.Addr().Unmap()
		}
		if l.server.enter(counted) {
			return counted, nil
		}
		_ = c.Close()
	}
}

// enter takes a connection in if there is a place for it.
func (s *Server) enter(c *countedConn) bool {
	most := maxAddrConns
	if s.cfg.Proxies != nil && within(s.cfg.Proxies(), c.from) {
		most = maxConns
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	same := func(o *countedConn) bool { return o.from == c.from }
	all := func(*countedConn) bool { return true }
	if !s.room(same, most) || !s.room(all, maxConns) {
		return false
	}
	s.conns[c] = struct{}{}
	s.served.Add(1)
	return true
}

// room makes sure that there are fewer than most connections of a kind; mu is held.
func (s *Server) room(of func(*countedConn) bool, most int) bool {
	n, oldest := 0, (*countedConn)(nil)
	for c := range s.conns {
		if !of(c) {
			continue
		}
		if n++; !c.idle.IsZero() && (oldest == nil || c.idle.Before(oldest.idle)) {
			oldest = c
		}
	}
	if n < most {
		return true
	}
	if oldest == nil {
		return false
	}
	delete(s.conns, oldest)
	_ = oldest.Conn.Close() // which wakes its goroutine; that closes it as well
	return true
}

// noteState notes since when a connection waits for its next request.
func (s *Server) noteState(c net.Conn, state http.ConnState) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	counted, ok := c.(*countedConn)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if counted.idle = (time.Time{}); state == http.StateIdle {
		counted.idle = time.Now()
	}
}

// countedConn leaves the count when it is closed.
type countedConn struct {
	net.Conn
	server *Server
	from   netip.Addr
	idle   time.Time // since when; zero: it does not; guarded by the server's mu
	once   sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.server.mu.Lock()
		delete(c.server.conns, c)
		c.server.mu.Unlock()
		c.server.served.Done()
	})
	return c.Conn.Close()
}
