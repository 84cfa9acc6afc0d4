package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/cmd/gateway/internal/auth"
	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/ftpsrv"
	"github.com/snapgate/gateway/vfs"
)

// ftpServing is an FTP server with its ports.
type ftpServing struct {
	server   *ftpsrv.Server
	listener net.Listener // plain, explicit TLS, or implicit TLS when that is the mode
	implicit net.Listener // nil without tls.mode both
	mode     config.TLSMode
	tls      *atomic.Pointer[tls.Config] // nil: no TLS
}

// openFTP makes the server and opens its ports; on an error nothing stays open.
func (s *serving) openFTP(ctx context.Context) (*ftpServing, error) {
	section := s.cfg.FTP
	f := &ftpServing{mode: section.TLS.Mode}
	fc := s.cfg.FTPConfig()
	fc.Auth, fc.Sessions, fc.Logger, fc.Observer = ftpAuthenticator{s.users}, s.system.Session, s.log, s.events
	var err error
	if f.tls, err = loadTLS(&section.TLS); err != nil {
		return nil, err
	}
	if f.tls != nil {
		fc.TLS = f.tls.Load
	}
	if f.server, err = ftpsrv.New(fc); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	if f.listener, err = lc.Listen(ctx, "tcp", section.Listen); err != nil {
		return nil, fmt.Errorf("ftp: %w", err)
	}
	if section.ImplicitListen != "" {
		if f.implicit, err = lc.Listen(ctx, "tcp", section.ImplicitListen); err != nil {
			return nil, errors.Join(fmt.Errorf("ftp: %w", err), f.listener.Close())
		}
	}
	return f, nil
}

// close closes the ports of a server that has not been started.
func (f *ftpServing) close() error {
	if f == nil {
		return nil
	}
	err := f.listener.Close()
	if f.implicit != nil {
		err = errors.Join(err, f.implicit.Close())
	}
	return err
}

// start serves the ports.
func (f *ftpServing) start(ctx context.Context, s *serving, run func(func() error)) {
	serve := f.server.Serve
	if f.mode == config.TLSImplicit {
		serve = f.server.ServeImplicit
	}
	run(func() error { return serve(ctx, f.listener) })
	s.log.Info("serving ftp", "addr", f.listener.Addr().String(), "tls", f.tlsWord(f.mode == config.TLSImplicit))
	if f.implicit != nil {
		run(func() error { return f.server.ServeImplicit(ctx, f.implicit) })
		s.log.Info("serving ftp", "addr", f.implicit.Addr().String(), "tls", f.tlsWord(true))
	}
}

// listeners lists the open ports.
func (f *ftpServing) listeners() []control.Listener {
	list := []control.Listener{{Server: "ftp", Addr: f.listener.Addr().String(), TLS: f.tlsWord(f.mode == config.TLSImplicit)}}
	if f.implicit != nil {
		list = append(list, control.Listener{Server: "ftp", Addr: f.implicit.Addr().String(), TLS: f.tlsWord(true)})
	}
	return list
}

func (f *ftpServing) tlsWord(implicit bool) string {
	switch {
	case f.tls == nil:
		return "off"
	case implicit:
		return "implicit"
	default:
		return "explicit"
	}
}

// expiryWarning is how long before its end a certificate is warned of.
const expiryWarning = 14 * 24 * time.Hour

// tlsConfig loads certificate and key. Go's list of cipher suites is the one to have.
func tlsConfig(t *config.TLS) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err != nil {
		hint := "name PEM files: the certificate with its chain, and its private key"
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			hint = "check the paths and who may read them"
		}
		return nil, &hintedError{err: fmt.Errorf("certificate %s, key %s: %w", t.Certificate, t.Key, err), hint: hint}
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if t.ClientCA == "" {
		return cfg, nil
	}
	data, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("client_ca: %w", err)
	}
	cfg.ClientCAs = x509.NewCertPool()
	if !cfg.ClientCAs.AppendCertsFromPEM(data) {
		return nil, &hintedError{
			err:  fmt.Errorf("client_ca %s: no certificate in it", t.ClientCA),
			hint: "name a PEM file with the certificates of those who sign clients' certificates",
		}
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	return cfg, nil
}

// certificateWarning says that a certificate ends soon, "" when it does not.
func certificateWarning(cfg *tls.Config, now time.Time) string {
	leaf := cfg.Certificates[0].Leaf
	switch {
	case leaf == nil:
		return ""
	case now.After(leaf.NotAfter):
		return "the certificate has expired, on " + leaf.NotAfter.UTC().Format(time.DateOnly)
	case now.Add(expiryWarning).After(leaf.NotAfter):
		return "the certificate expires on " + leaf.NotAfter.UTC().Format(time.DateOnly)
	}
	return ""
}

// ftpAuthenticator adapts a Directory to what the FTP server asks.
type ftpAuthenticator struct{ users *auth.Directory }

// Password checks a password.
func (a ftpAuthenticator) Password(ctx context.Context, c ftpsrv.ConnMeta, password []byte) (*vfs.Principal, error) {
	return a.users.Password(ctx, c.User, password, c.Remote)
}
