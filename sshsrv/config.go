package sshsrv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/vfs"
)

// Config configures a Server. HostKeys, Auth, Sessions and Logger are needed; the zero
// value of every other field is its default.
type Config struct {
	// HostKeys are the server's keys, one of a type. RSA keys sign with SHA-2, with SHA-1
	// only for LegacyFrom.
	HostKeys []ssh.Signer
	// Auth decides who may log in.
	Auth Authenticator
	// Sessions starts the session of a connection that has logged in; (*vfs.System).Session
	// is one. The server closes the session.
	Sessions func(ctx context.Context, p *vfs.Principal, from vfs.ConnInfo) (*vfs.Session, error)
	Logger   *slog.Logger
	Observer Observer // is told of logins; nil: nobody

	Version string // the identification (RFC 4253 section 4.2); "SSH-2.0-snapgate"
	Banner  string // shown before the login (RFC 4252 section 5.4); none

	HandshakeTimeout time.Duration // key exchange and login together; 30 s
	KeepAlive        time.Duration // a silent peer is asked for a sign of life this often; 30 s
	PeerTimeout      time.Duration // a peer that is silent, or takes nothing, for so long is dead; 4 times KeepAlive
	IdleTimeout      time.Duration // a connection without a request for so long is closed; 0: never

	// LegacyFrom are networks of old devices: from there ssh-rsa signatures,
	// diffie-hellman-group14 with SHA-1 and the like are taken, too.
	LegacyFrom []netip.Prefix
	// ChaCha20 offers chacha20-poly1305. Clients prefer it when they can have it, and it
	// halves their throughput here against AES-GCM.
	ChaCha20 bool

	Limits Limits
}

// Admission bounds connections.
type Admission = acceptor.Limits

// Observer is told of logins and of the ends of sessions.
type Observer = acceptor.Observer

// Login is an attempt to log in.
type Login = acceptor.Login

// Logout is the end of a session.
type Logout = acceptor.Logout

// Peer is who is at the other end of a connection.
type Peer = acceptor.Peer

// Stats counts connections.
type Stats = acceptor.Stats

// Limits bound what clients can make the server hold; 0 is the default.
type Limits struct {
	Admission
	Channels     int // open at once on one connection; 10, as OpenSSH's MaxSessions
	UserChannels int // open at once of one user; 256
	Handles      int // open at once of a session; 1,000. The sessions enforce it: clients are told
	AuthTries    int // failed attempts on one connection; 6, as OpenSSH's MaxAuthTries

	// TransferMemory is for the data of READs and WRITEs that are in work, in bytes; 256 MiB.
	// Where it is used up, channels go on with one request at a time each.
	TransferMemory int64
	// UserTransferMemory is what one user can have of it; a quarter.
	UserTransferMemory int64
}

const (
	versionPrefix           = "SSH-2.0-"
	defaultVersion          = versionPrefix + "snapgate"
	defaultHandshakeTimeout = 30 * time.Second
	defaultKeepAlive        = 30 * time.Second
	// peerTimeoutFactor is how many signs of life may be missing: OpenSSH's default of 3
	// and the time for one to arrive.
	peerTimeoutFactor = 4

	defaultChannels  = 10
	defaultHandles   = 1000
	defaultAuthTries = 6
)

// withDefaults validates c and fills in what is left out.
func (c Config) withDefaults() (Config, error) {
	switch {
	case len(c.HostKeys) == 0:
		return c, errors.New("no host key")
	case c.Auth == nil:
		return c, errors.New("no authenticator")
	case c.Sessions == nil:
		return c, errors.New("no sessions")
	case c.Logger == nil:
		return c, errors.New("no logger")
	}
	if c.Observer == nil {
		c.Observer = acceptor.Silent{}
	}
	if c.Version == "" {
		c.Version = defaultVersion
	}
	if !strings.HasPrefix(c.Version, versionPrefix) || len(c.Version) > 253 || strings.ContainsFunc(c.Version, func(r rune) bool { return r < ' ' || r > '~' }) {
		return c, fmt.Errorf("version %q: want SSH-2.0- and printable ASCII, at most 253 bytes", c.Version)
	}
	types := make(map[string]bool)
	for _, k := range c.HostKeys {
		t := k.PublicKey().Type()
		if types[t] {
			return c, fmt.Errorf("two host keys of type %s", t)
		}
		types[t] = true
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"handshake timeout", &c.HandshakeTimeout, defaultHandshakeTimeout},
		{"keepalive", &c.KeepAlive, defaultKeepAlive},
		{"idle timeout", &c.IdleTimeout, 0},
		{"peer timeout", &c.PeerTimeout, peerTimeoutFactor * max(c.KeepAlive, 0)},
	} {
		if *d.value < 0 {
			return c, fmt.Errorf("%s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.PeerTimeout == 0 {
		c.PeerTimeout = peerTimeoutFactor * c.KeepAlive
	}
	if c.PeerTimeout <= c.KeepAlive {
		return c, errors.New("peer timeout is not longer than keepalive")
	}
	var err error
	c.Limits, err = c.Limits.withDefaults()
	return c, err
}

func (l Limits) withDefaults() (Limits, error) {
	for _, f := range []struct {
		name  string
		value *int
		def   int
	}{
		{"channels", &l.Channels, defaultChannels},
		{"channels of a user", &l.UserChannels, defaultUserChannels},
		{"handles of a session", &l.Handles, defaultHandles},
		{"login attempts", &l.AuthTries, defaultAuthTries},
	} {
		if *f.value < 0 {
			return l, fmt.Errorf("limit on %s is negative", f.name)
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	if l.TransferMemory < 0 || l.UserTransferMemory < 0 {
		return l, errors.New("limit on the memory of transfers is negative")
	}
	if l.TransferMemory == 0 {
		l.TransferMemory = defaultTransferMemory
	}
	if l.UserTransferMemory == 0 {
		l.UserTransferMemory = l.TransferMemory / userMemoryPart
	}
	var err error
	l.Admission, err = l.Admission.WithDefaults()
	return l, err
}
