package sshsrv

import (
	"context"
	"net/netip"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

// ConnMeta says who asks to be let in, before anything about it is proven.
type ConnMeta struct {
	User   string     // the name that the client gave; not proven, any bytes
	Remote netip.Addr // the peer's address, an IPv4-mapped one as IPv4; the zero Addr when the listener has none
	Conn   string     // the connection's name in the log
}

// Authenticator decides who may log in. The server calls it from many connections at
// once. Every error means "no" and is told to the client as nothing else than a failed
// attempt; it is logged, so it must not hold a password or key material.
//
// Delays, lock-out, the cost of password hashing and the restrictions of an account
// (addresses, expiry, options of an authorized key) are the implementation's: the server
// waits as long as a call takes, up to the handshake's deadline, after which ctx ends.
type Authenticator interface {
	// Password checks a password (RFC 4252 section 8). The slice must not be kept.
	Password(ctx context.Context, conn ConnMeta, password []byte) (*vfs.Principal, error)

	// PublicKey says whether key may log in (RFC 4252 section 7). It is called for keys
	// that a client merely offers, too: a nil error proves nothing about the client and
	// must not change any state, such as resetting a count of failures. An offered key
	// that is not known must not count as a failure either: agents offer many.
	PublicKey(ctx context.Context, conn ConnMeta, key ssh.PublicKey) (*vfs.Principal, error)
}
