// Package remote opens the remotes that the configuration describes: sources to pull from and
// destinations to restore to.
package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/pull"
)

// Options are what the configuration does not say.
type Options struct {
	// Ask asks a person for a password or passphrase. It must be nil when nobody is there.
	Ask func(ctx context.Context, question string) ([]byte, error)
	Log *slog.Logger // gets warnings; nil drops them
}

// Open opens a remote for reading. An SFTP or FTP server is connected to at the first call.
func Open(ctx context.Context, r *config.Remote, opt Options) (pull.Remote, error) {
	if r.Location.Scheme != pull.SchemeFS {
		return server(ctx, r, opt)
	}
	fs, err := pull.NewFS(r.Location.Path)
	if err != nil {
		return nil, err
	}
	return fs, nil
}

// OpenTarget opens a remote for writing. Nothing is made or connected to yet.
func OpenTarget(ctx context.Context, r *config.Remote, opt Options) (pull.Target, error) {
	if r.Location.Scheme != pull.SchemeFS {
		return server(ctx, r, opt)
	}
	fs, err := pull.NewFSTarget(r.Location.Path)
	if err != nil {
		return nil, err
	}
	return fs, nil
}

// server opens a remote that is no directory of this machine.
func server(ctx context.Context, r *config.Remote, opt Options) (pull.Target, error) {
	if r.Location.Scheme == pull.SchemeSFTP {
		cfg, err := SFTPConfig(r, opt)
		if err != nil {
			return nil, err
		}
		return pull.NewSFTP(cfg)
	}
	cfg, err := FTPConfig(ctx, r, opt)
	if err != nil {
		return nil, err
	}
	return pull.NewFTP(cfg)
}

// SFTPConfig says how to reach a remote whose scheme is sftp.
func SFTPConfig(r *config.Remote, opt Options) (pull.SFTPConfig, error) {
	d, err := Dialer(r, opt)
	if err != nil {
		return pull.SFTPConfig{}, err
	}
	return pull.SFTPConfig{
		Dial: func(ctx context.Context) (io.ReadWriteCloser, error) { return d.Stream(ctx) },
		Root: r.Location.Path, Home: r.Location.Home, Connections: r.Connections, Timeout: r.Timeout,
	}, nil
}

// Dialer makes connections to a remote whose scheme is sftp.
func Dialer(r *config.Remote, opt Options) (*sshclient.Dialer, error) {
	cfg := sshclient.Config{
		Host: r.Location.Host, Port: r.Location.Port, User: r.Location.User,
		Jump: r.Jump, IdentityFiles: r.Identities, Agent: r.Agent, Legacy: r.Legacy, Timeout: r.Timeout, Log: opt.Log,
	}
	// What an operator says is for all of a login; a slow server is not to meet the default.
	cfg.Total = r.Timeout
	if r.Timeout > sshclient.DefaultLoginTimeout {
		cfg.LoginTimeout = r.Timeout
	}
	var err error
	if cfg.Transport, err = sshclient.ParseTransport(r.Transport); err != nil {
		return nil, err
	}
	if cfg.HostKeys, err = sshclient.ParseHostKeyPolicy(r.HostKey); err != nil {
		return nil, err
	}
	if r.Insecure {
		cfg.HostKeys = sshclient.Insecure
	}
	if r.KnownHosts != "" {
		cfg.KnownHosts = []string{r.KnownHosts}
	}
	if r.SSHConfig != "" {
		cfg.Files = []string{r.SSHConfig}
	}
	if cfg.Transport == sshclient.OpenSSH {
		return sshclient.New(cfg) // it takes no secrets
	}
	key, err := r.PrivateKey()
	if err != nil {
		return nil, err
	}
	if key != nil {
		cfg.PrivateKeys = []sshclient.PEM{key}
	}
	cfg.Password = sshclient.Secret{File: r.PasswordFile, Env: r.PasswordEnv, Ask: opt.Ask}
	cfg.Passphrase = sshclient.Secret{File: r.PassphraseFile, Env: r.PassphraseEnv, Ask: opt.Ask}
	return sshclient.New(cfg)
}

// ErrNoPassword means that a server wants a password and the configuration has none.
var ErrNoPassword = errors.New("no password")

// FTPConfig says how to reach a remote whose scheme is ftp or ftps. It reads the password.
func FTPConfig(ctx context.Context, r *config.Remote, opt Options) (pull.FTPConfig, error) {
	cfg := pull.FTPConfig{
		Addr: r.Location.Addr(), User: r.Location.User, Root: r.Location.Path, Home: r.Location.Home,
		Connections: r.Connections, Timeout: r.Timeout, Implicit: r.TLS == config.TLSImplicit,
	}
	if r.TLS != config.TLSOff {
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: r.TLSInsecure}
		if r.CAFile != "" {
			roots, err := authorities(r.CAFile)
			if err != nil {
				return cfg, err
			}
			cfg.TLS.RootCAs = roots
		}
	}
	secret := sshclient.Secret{File: r.PasswordFile, Env: r.PasswordEnv, Ask: opt.Ask}
	switch cfg.User {
	case "":
		return cfg, nil // anonymous
	case "anonymous", "ftp":
		secret.Ask = nil
		if secret.IsZero() {
			return cfg, nil
		}
	}
	if secret.IsZero() {
		return cfg, fmt.Errorf("%s: %w for the user %q", cfg.Addr, ErrNoPassword, cfg.User)
	}
	password, err := secret.Get(ctx, fmt.Sprintf("password of %s at %s", cfg.User, cfg.Addr))
	cfg.Password = string(password)
	return cfg, err
}

// authorities are those of the system and those of a file.
func authorities(file string) (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	if !roots.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("ca_file: %s: no certificate in it", file)
	}
	return roots, nil
}
