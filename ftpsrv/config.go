package ftpsrv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/snapgate/gateway/internal/acceptor"
	"github.com/snapgate/gateway/vfs"
)

// ConnMeta says who asks to be let in, before anything about it is proven.
type ConnMeta struct {
	User   string     // the name that the client gave; not proven, any bytes
	Remote netip.Addr // the peer's address, an IPv4-mapped one as IPv4; zero when the listener has none
	Conn   string     // the connection's name in the log
	TLS    bool       // the control connection is encrypted
}

// Authenticator decides who may log in. The server calls it from many connections at
// once. Every error means "no"; the client learns no more than that its login is
// incorrect. Errors are logged, so they must not hold a password.
//
// Delays, lock-out, the cost of password hashing and the restrictions of an account are
// the implementation's: the server waits as long as a call takes, up to the deadline for
// logging in, after which ctx ends.
type Authenticator interface {
	// Password checks a password. The slice must not be kept.
	Password(ctx context.Context, conn ConnMeta, password []byte) (*vfs.Principal, error)
}

// Config configures a Server. Auth, Sessions and Logger are needed; the zero value of
// every other field is its default.
type Config struct {
	Auth Authenticator
	// Sessions starts the session of a connection that has logged in; (*vfs.System).Session
	// is one. The server closes the session.
	Sessions func(ctx context.Context, p *vfs.Principal, from vfs.ConnInfo) (*vfs.Session, error)
	Logger   *slog.Logger
	Observer Observer // is told of logins; nil: nobody

	// TLS returns the settings for new connections. One connection uses what it got for
	// all its data connections, so that sessions resume. Nil: there is no TLS.
	TLS func() *tls.Config
	// TLSRequired refuses logins and transfers that are not encrypted.
	TLSRequired bool

	Greeting string // the text of the 220 reply; "snapgate FTP"

	// PassivePorts are the ports for passive data connections; the zero range lets the
	// system choose.
	PassivePorts PortRange
	// PublicIP is what PASV tells clients from elsewhere: an IPv4 address, or a host name,
	// which is looked up again. Empty: the address that the client has reached.
	PublicIP string
	// DisableActive refuses PORT and EPRT.
	DisableActive bool
	// ForeignData lets a data connection come from, or go to, another address than that of
	// the control connection: server to server copies, and some clusters, need it.
	ForeignData bool

	LoginTimeout   time.Duration // TLS handshake and login together; 30 s
	IdleTimeout    time.Duration // a connection without command and transfer for so long is closed; 5 min
	DataTimeout    time.Duration // a data connection on which nothing moves for so long is given up; 2 min
	ConnectTimeout time.Duration // for a data connection to be made; 30 s
	FailureDelay   time.Duration // before the reply to a wrong password; 1 s
	// CloseGrace is how long after the end of an upload the control connection is watched:
	// that of a client that was killed ends, too, and ABOR may come there. 50 ms; at most
	// 20 ms with TLS, where only ABOR is waited for, and none when ALLO has told the size.
	CloseGrace time.Duration
	// abortGrace bounds CloseGrace with TLS; 20 ms.
	abortGrace time.Duration

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
	LoginTries int // failed ones on one connection; 6
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// IsZero reports whether the range is none.
func (r PortRange) IsZero() bool { return r == PortRange{} }

const (
	defaultGreeting       = "snapgate FTP"
	defaultLoginTimeout   = 30 * time.Second
	defaultIdleTimeout    = 5 * time.Minute
	defaultDataTimeout    = 2 * time.Minute
	defaultConnectTimeout = 30 * time.Second
	defaultFailureDelay   = time.Second
	// defaultCloseGrace is what a killed client's kernel needs to end its connections one
	// after the other: measured, 20 ms was too little once in 252 kills on a machine with a
	// load of 5 a core, and 50 ms in none of 216.
	defaultCloseGrace = 50 * time.Millisecond
	// defaultAbortGrace is how long an ABOR may be behind the end of an encrypted upload that the
	// client has ended by itself: a client that was killed cannot send close_notify.
	defaultAbortGrace = 20 * time.Millisecond
	defaultLoginTries = 6
)

// withDefaults validates c and fills in what is left out.
func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Auth == nil:
		return c, errors.New("no authenticator")
	case c.Sessions == nil:
		return c, errors.New("no sessions")
	case c.Logger == nil:
		return c, errors.New("no logger")
	case c.TLSRequired && c.TLS == nil:
		return c, errors.New("TLS is required and not configured")
	case c.PassivePorts.First > c.PassivePorts.Last || c.PassivePorts.First == 0 && c.PassivePorts.Last != 0:
		return c, fmt.Errorf("passive ports %d-%d are no range", c.PassivePorts.First, c.PassivePorts.Last)
	}
	if c.Observer == nil {
		c.Observer = acceptor.Silent{}
	}
	if ip := net.ParseIP(c.PublicIP); ip != nil && ip.To4() == nil {
		return c, fmt.Errorf("public IP %s: PASV can tell IPv4 addresses only", c.PublicIP)
	}
	if c.Greeting == "" {
		c.Greeting = defaultGreeting
	}
	if strings.ContainsFunc(c.Greeting, func(r rune) bool { return r < ' ' }) {
		return c, errors.New("the greeting has control characters")
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"login timeout", &c.LoginTimeout, defaultLoginTimeout},
		{"idle timeout", &c.IdleTimeout, defaultIdleTimeout},
		{"data timeout", &c.DataTimeout, defaultDataTimeout},
		{"connect timeout", &c.ConnectTimeout, defaultConnectTimeout},
		{"failure delay", &c.FailureDelay, defaultFailureDelay},
		{"close grace", &c.CloseGrace, defaultCloseGrace},
		{"grace of ABOR", &c.abortGrace, defaultAbortGrace},
	} {
		if *d.value < 0 {
			return c, fmt.Errorf("%s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.Limits.LoginTries < 0 {
		return c, errors.New("limit on login attempts is negative")
	}
	if c.Limits.LoginTries == 0 {
		c.Limits.LoginTries = defaultLoginTries
	}
	var err error
	c.Limits.Admission, err = c.Limits.Admission.WithDefaults()
	return c, err
}
