package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/snapgate/gateway/internal/sshclient"
	"github.com/snapgate/gateway/store/internal/backend"
)

// SFTP says how a store on an SFTP server is reached, besides its location. What is zero is left
// to ssh_config, and then to the defaults of docs/REMOTES.md.
type SFTP struct {
	// IdentityFiles are private keys to log in with. An agent is asked as ssh does it.
	IdentityFiles []string
	// PassphraseFile (its first line) or PassphraseEnv (a variable) opens encrypted keys.
	PassphraseFile, PassphraseEnv string
	// PasswordFile (its first line) or PasswordEnv (a variable) is a password to log in with.
	PasswordFile, PasswordEnv string
	// KnownHosts replaces all other known_hosts files; "" leaves them.
	KnownHosts string
	// HostKey says what an unknown host key is: "strict", "accept-new" or "insecure".
	HostKey string
	// ConfigFile is the ssh_config file, "" for ~/.ssh/config and /etc/ssh/ssh_config.
	ConfigFile string
	// Legacy allows algorithms that servers of about 2010 need.
	Legacy bool
	// Transport is "native" (also when empty), or "openssh" for processes of ssh.
	Transport string
	// Timeout bounds connecting and logging in, and how long a request may stand still; 0: 30 s.
	Timeout time.Duration
	// Connections is how many are used at most; 0: 4.
	Connections int
}

// sftpTimeout is the default of SFTP.Timeout. A login must not take as long as a server may
// allow it, since names are looked up behind it.
const sftpTimeout = 30 * time.Second

// connectSFTP makes the backend of a store on an SFTP server, and what has its connections.
func connectSFTP(at location, cfg SFTP, token string, log *slog.Logger) (b backend.Backend, server *backend.SFTP, err error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = sftpTimeout
	}
	user, host, port := at.account()
	sc := sshclient.Config{
		Host: host, Port: port, User: user, IdentityFiles: cfg.IdentityFiles,
		Password:   sshclient.Secret{File: cfg.PasswordFile, Env: cfg.PasswordEnv},
		Passphrase: sshclient.Secret{File: cfg.PassphraseFile, Env: cfg.PassphraseEnv}, Legacy: cfg.Legacy,
		Timeout: cfg.Timeout, LoginTimeout: cfg.Timeout, Log: log,
	}
	if cfg.KnownHosts != "" {
		sc.KnownHosts = []string{cfg.KnownHosts}
	}
	if cfg.ConfigFile != "" {
		sc.Files = []string{cfg.ConfigFile}
	}
	if sc.HostKeys, err = sshclient.ParseHostKeyPolicy(cfg.HostKey); err != nil {
		return nil, nil, err
	}
	if sc.Transport, err = sshclient.ParseTransport(cfg.Transport); err != nil {
		return nil, nil, err
	}
	dialer, err := sshclient.New(sc)
	if err != nil {
		return nil, nil, err
	}
	files := backend.NewSFTP(backend.SFTPConfig{
		Dialer: sftpDialer{dialer}, Root: at.path, Token: token, Connections: cfg.Connections, Timeout: cfg.Timeout,
	})
	return backend.NewFailFast(files, min(remotePause, cfg.Timeout)), files, nil
}

// sftpDialer is the backend's dialer. Each connection has one session.
type sftpDialer struct{ *sshclient.Dialer }

// Dial implements backend.SFTPDialer.
func (d sftpDialer) Dial(ctx context.Context) (*backend.SFTPLink, error) {
	conn, err := d.Dialer.Dial(ctx)
	if err != nil {
		return nil, &dialError{err}
	}
	client, err := conn.SFTP(ctx)
	if err != nil {
		_ = conn.Close() // it has failed
		return nil, &dialError{err}
	}
	return &backend.SFTPLink{Client: client, HangUp: conn.Close, Heard: conn.Heard}, nil
}

// dialError is why there is no connection. It hides what its causes are: a file of a key that
// does not exist must not pass for one of the store that does not, nor a login that took too
// long for a caller that gave up.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }

// Is makes errors.Is(err, ErrLogin) true when the server was reached, and either side refuses the
// other. All else may be over by itself.
func (e *dialError) Is(target error) bool {
	if target != ErrLogin {
		return false
	}
	switch sshclient.KindOf(e.err) {
	case sshclient.KindAuth, sshclient.KindHostKeyUnknown, sshclient.KindHostKeyChanged, sshclient.KindHostKeyRevoked,
		sshclient.KindEncryptedKey, sshclient.KindKey, sshclient.KindAlgorithm, sshclient.KindConfig, sshclient.KindUnsupported:
		return true
	}
	return false
}

// As finds the error of the SSH client.
func (e *dialError) As(target any) bool {
	found, ok := target.(**sshclient.Error)
	return ok && errors.As(e.err, found)
}

// Hint returns what to try about an error of reaching a store, or "" when nothing is known that
// the error itself does not say.
func Hint(err error) string { return sshclient.HintOf(err) }
