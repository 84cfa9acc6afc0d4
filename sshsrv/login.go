package sshsrv

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

// Where a login keeps what it found out in ssh.Permissions.
type permPrincipal struct{}

// protocol is what sessions are called after.
const protocol = "sftp"

const (
	permMethod = "method"
	permKey    = "key" // the fingerprint
)

// maxLogged bounds what a peer can put into the log in one attribute.
const maxLogged = 64

// maxOffered is how many of a peer's algorithms are logged; OpenSSH offers about 15.
const maxOffered = 32

// clip shortens what a peer sent.
func clip(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "…"
	}
	return s
}

// errDenied is all that x/crypto learns of a refusal.
var errDenied = errors.New("permission denied")

// authConfig is the connection's configuration: the profile of its network, and callbacks
// that ask the authenticator. Each call returns Permissions of its own, so that x/crypto
// hands back exactly what the attempt that succeeded was given. ctx is the connection's,
// login ends with the handshake's deadline.
func (c *conn) authConfig(ctx, login context.Context) *ssh.ServerConfig {
	cfg := *c.server.normal
	for _, p := range c.server.cfg.LegacyFrom {
		if p.Contains(c.addr) {
			cfg = *c.server.legacy
			break
		}
	}
	cfg.MaxAuthTries = c.server.cfg.Limits.AuthTries
	// gliderlabs sets NoClientAuth, because it has no handlers of its own. This closes
	// the door again: "none" fails as if NoClientAuth were not set.
	cfg.NoClientAuthCallback = func(ssh.ConnMetadata) (*ssh.Permissions, error) { return nil, ssh.ErrNoAuth }
	cfg.PasswordCallback = func(m ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
		p, err := c.server.cfg.Auth.Password(login, c.meta(m), password)
		if err = denied(p, err); err != nil {
			c.log.Info("password refused", "user", clip(m.User()), "err", err)
			c.refused(err)
			c.tellLogin(m, clip(m.User()), "password", "", err)
			return nil, errDenied
		}
		return c.login(ctx, login, m, permissions(p, "password", ""))
	}
	cfg.PublicKeyCallback = func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if _, ok := key.(*ssh.Certificate); ok {
			c.log.Debug("certificate refused", "user", clip(m.User()))
			return nil, errDenied
		}
		fingerprint := ssh.FingerprintSHA256(key)
		p, err := c.server.cfg.Auth.PublicKey(login, c.meta(m), key)
		if err = denied(p, err); err != nil {
			c.log.Debug("key refused", "user", clip(m.User()), "key", fingerprint, "err", err)
			c.refused(err)
			if len(c.offered) < maxOffered {
				c.offered = append(c.offered, fingerprint)
			}
			return nil, errDenied
		}
		return permissions(p, "publickey", fingerprint), nil
	}
	cfg.VerifiedPublicKeyCallback = func(m ssh.ConnMetadata, _ ssh.PublicKey, perms *ssh.Permissions, _ string) (*ssh.Permissions, error) {
		return c.login(ctx, login, m, perms)
	}
	return &cfg
}

// login is the last step of an attempt: a password was right, or the possession of a key
// is proven, for which perms were made. It is here and not after the handshake because
// gliderlabs says nothing when that is done.
func (c *conn) login(ctx, login context.Context, m ssh.ConnMetadata, perms *ssh.Permissions) (*ssh.Permissions, error) {
	p := principalOf(perms)
	if p == nil || c.loggedIn || login.Err() != nil {
		return nil, errDenied // too late, for all that can be
	}
	if err := c.ticket.LoggedIn(p.User); err != nil {
		c.log.Warn("connection refused", "user", p.User, "err", err)
		c.refused(err)
		c.tellLogin(m, p.User, perms.Extensions[permMethod], perms.Extensions[permKey], err)
		return nil, &ssh.BannerError{Err: errDenied, Message: err.Error() + "\r\n"}
	}
	c.loggedIn, c.user = true, p.User
	c.log = c.log.With("user", p.User)
	if err := c.nc.establish(); err != nil {
		c.log.Info("connection lost", "err", err)
		return nil, errDenied
	}
	c.log.Info("login", "method", perms.Extensions[permMethod], "key", perms.Extensions[permKey],
		"client", clip(string(m.ClientVersion())))
	c.tellLogin(m, p.User, perms.Extensions[permMethod], perms.Extensions[permKey], nil)
	c.touch()
	c.watcher.Go(func() { c.watch(ctx) })
	return perms, nil
}

// logFailure reports a connection that ended before the login. Mere port scans and
// health checks are no news.
func (c *conn) logFailure(err error) {
	var auth *ssh.ServerAuthError
	if errors.As(err, &auth) && len(auth.Errors) > 1 {
		reason := strings.Join(c.refusals, "; ")
		if reason == "" {
			reason = auth.Errors[len(auth.Errors)-1].Error()
		}
		c.log.Warn("login failed", "user", c.tried, "attempts", len(auth.Errors)-1, "err", reason)
		if len(c.offered) > 0 { // passwords were told of when they came
			c.server.cfg.Observer.LoggedIn(Login{
				Peer: c.peer(c.tried), Method: "publickey", Key: strings.Join(c.offered, ","), Err: errors.New(reason),
			})
		}
		return
	}
	// An old device shows no reason, so the operator has to learn it here.
	var algo *ssh.AlgorithmNegotiationError
	if errors.As(err, &algo) {
		offered := make([]string, 0, maxOffered)
		for _, name := range algo.RequestedAlgorithms[:min(len(algo.RequestedAlgorithms), maxOffered)] {
			offered = append(offered, clip(name))
		}
		c.log.Warn("no common algorithm", "for", algo.What, "offered", strings.Join(offered, ","))
		return
	}
	c.log.Debug("connection ended before login", "err", err)
}

// tellLogin tells the observer of an attempt.
func (c *conn) tellLogin(m ssh.ConnMetadata, user, method, key string, err error) {
	c.server.cfg.Observer.LoggedIn(Login{
		Peer: c.peer(user), Method: method, Key: key, Client: clip(string(m.ClientVersion())), Err: err,
	})
}

func (c *conn) peer(user string) Peer {
	return Peer{User: user, Protocol: protocol, Remote: c.nc.RemoteAddr().String(), Conn: c.id}
}

// refused notes why an attempt failed. Clients offer keys that are not listed before one
// that has expired: each reason counts, once.
func (c *conn) refused(err error) {
	if reason := err.Error(); !slices.Contains(c.refusals, reason) {
		c.refusals = append(c.refusals, reason)
	}
}

func (c *conn) meta(m ssh.ConnMetadata) ConnMeta {
	c.tried = clip(m.User()) // callbacks run one after the other, before the handshake returns
	return ConnMeta{User: m.User(), Remote: c.addr, Conn: c.id}
}

func denied(p *vfs.Principal, err error) error {
	if err == nil && p == nil {
		return errors.New("no principal")
	}
	return err
}

func permissions(p *vfs.Principal, method, key string) *ssh.Permissions {
	return &ssh.Permissions{
		Extensions: map[string]string{permMethod: method, permKey: key},
		ExtraData:  map[any]any{permPrincipal{}: p},
	}
}

// principalOf returns who Permissions were made for, nil when they are not ours.
func principalOf(perms *ssh.Permissions) *vfs.Principal {
	if perms == nil {
		return nil
	}
	p, _ := perms.ExtraData[permPrincipal{}].(*vfs.Principal)
	return p
}
