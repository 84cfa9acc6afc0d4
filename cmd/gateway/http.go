package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/vfs"
	"github.com/snapgate/gateway/websrv"
)

// httpServing is a web server with its port.
type httpServing struct {
	server   *websrv.Server
	listener net.Listener
	tls      *atomic.Pointer[tls.Config] // nil: no TLS
	// operators are the users who are told of everything.
	operators atomic.Pointer[[]string]
	// proxies are believed when they say whom they ask for.
	proxies atomic.Pointer[[]netip.Prefix]
}

// openHTTP makes the web server and opens its port.
func (s *serving) openHTTP(ctx context.Context) (*httpServing, error) {
	section := s.cfg.HTTP
	h := &httpServing{}
	h.operators.Store(&section.Operators)
	h.proxies.Store(&section.TrustedProxies)
	wc := websrv.Config{Proxies: func() []netip.Prefix { return *h.proxies.Load() }, Healthy: s.healthy, Ready: s.ready, Hosts: section.Hosts, Viewer: s.viewer(h), Logger: s.log}
	if section.Metrics {
		wc.Metrics = s.events.metrics.Handler()
	}
	if host, _, err := net.SplitHostPort(section.Listen); err == nil && host != "" {
		wc.Hosts = append([]string{host}, wc.Hosts...)
	}
	var err error
	if h.tls, err = loadTLS(&section.TLS); err != nil {
		return nil, err
	}
	if h.tls != nil {
		wc.TLS = h.tls.Load
	}
	if h.server, err = websrv.New(wc); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	if h.listener, err = lc.Listen(ctx, "tcp", section.Listen); err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	return h, nil
}

// close closes the port of a server that has not been started.
func (h *httpServing) close() error {
	if h == nil {
		return nil
	}
	return h.listener.Close()
}

// start serves the port.
func (h *httpServing) start(ctx context.Context, s *serving, run func(func() error)) {
	run(func() error { return h.server.Serve(ctx, h.listener) })
	s.log.Info("serving http", "addr", h.listener.Addr().String(), "tls", h.tls != nil, "metrics", s.cfg.HTTP.Metrics, "viewer", s.cfg.HTTP.Viewer)
}

// lastAnswers is how long answers may take that are under way when the gateway ends.
const lastAnswers = time.Second

// shutdown lets answers end. It comes after the other servers' end, so that somebody who asks
// meanwhile is told of it.
func (h *httpServing) shutdown() {
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastAnswers)
	defer cancel()
	_ = h.server.Shutdown(ctx) // an answer that is cut off is asked for again elsewhere
}

// errBusy says that the main loop does not answer.
var errBusy = errors.New("the main loop does not answer")

// healthy says whether the main loop turns.
func (s *serving) healthy(ctx context.Context) error {
	select {
	case s.pings <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errBusy
	}
}

// ready says whether uploads are taken, and what is not as it should be, without names: who
// reads it has not logged in.
func (s *serving) ready(ctx context.Context) (ready bool, lines []string) {
	if s.draining.Load() {
		return false, []string{"the gateway is shutting down"}
	}
	ready = true
	if err := s.system.Accepting(); err != nil {
		ready = false
		lines = append(lines, "uploads are refused: "+refusedWord(err))
	}
	if found := s.probe.look(ctx); found.store != nil {
		lines = append(lines, "store: "+storeWord(found.store)+"; accepting into the spool")
	}
	failing, slowed, refusing := 0, 0, 0
	st := s.system.Status()
	for i := range st.Shares {
		if st.Shares[i].CommitError != nil {
			failing++
		}
		if st.Shares[i].Refusing {
			refusing++
		} else if st.Shares[i].Slowed {
			slowed++
		}
	}
	if failing > 0 {
		lines = append(lines, fmt.Sprintf("commits fail in %d of %s; the changes are kept", failing, count(len(st.Shares), "share", "shares")))
	}
	if refusing > 0 {
		lines = append(lines, fmt.Sprintf("changes are refused in %d of %s: too many wait for their commit", refusing, count(len(st.Shares), "share", "shares")))
	}
	if slowed > 0 {
		lines = append(lines, fmt.Sprintf("uploads are slowed down in %d of %s: many changes wait for their commit", slowed, count(len(st.Shares), "share", "shares")))
	}
	if st.SpoolBytes > nearlyFull(st.SpoolLimit) {
		lines = append(lines, "the spool is nearly full")
	}
	return ready, lines
}

// nearlyFull is the part of a limit that is worth a word.
func nearlyFull(limit int64) int64 { return limit / 10 * 9 }

// refusedWord says why uploads are refused. Only what vfs says itself is told: what the
// system says may name files.
func refusedWord(err error) string {
	var ve *vfs.Error
	if errors.As(err, &ve) && ve.Err != nil && (ve.Kind == vfs.KindNoSpace || ve.Kind == vfs.KindDisk) {
		return ve.Err.Error()
	}
	return "the disk of the data directory cannot be asked for its free space"
}

// storeWord says in a few words why the store cannot be used.
func storeWord(err error) string {
	switch {
	case errors.Is(err, store.ErrReplaced):
		return "is another one than before"
	case errors.Is(err, store.ErrLogin):
		return "its server does not let the gateway log in"
	case errors.Is(err, store.ErrRefused):
		return "its server refuses access"
	case errors.Is(err, store.ErrServer):
		return "its server does not answer as it should"
	}
	return "cannot be reached"
}

// loadTLS loads what is configured of TLS, nil when nothing is.
func loadTLS(t *config.TLS) (*atomic.Pointer[tls.Config], error) {
	if !t.Usable() {
		return nil, nil
	}
	cfg, err := tlsConfig(t)
	if err != nil {
		return nil, err
	}
	var p atomic.Pointer[tls.Config]
	p.Store(cfg)
	return &p, nil
}

// reloadTLS takes over certificate, key and client_ca for new connections, into what loadTLS
// has made. What is wrong with them leaves the old ones in force.
func reloadTLS(p *atomic.Pointer[tls.Config], t *config.TLS) error {
	if p == nil || !t.Usable() {
		return nil
	}
	cfg, err := tlsConfig(t)
	if err != nil {
		return err
	}
	p.Store(cfg)
	return nil
}
