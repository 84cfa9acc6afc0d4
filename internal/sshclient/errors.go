package sshclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// Kind classifies an Error. A Kind is an error itself, so that errors.Is(err, KindDNS)
// works.
type Kind uint8

// The kinds of errors.
const (
	KindOther          Kind = iota // none of the below
	KindAuth                       // the server took none of the keys and passwords
	KindHostKeyUnknown             // no known_hosts line for the server
	KindHostKeyChanged             // another key than known_hosts has
	KindHostKeyRevoked             // a key that known_hosts revokes
	KindSubsystem                  // the server has no SFTP, or something else answers
	KindChroot                     // logged in, then thrown out: the chroot directory, shell or home is missing
	KindEncryptedKey               // the server takes a key that is encrypted, and there is no passphrase
	KindKey                        // a key, certificate, passphrase or agent cannot be used
	KindTimeout                    // no answer in time, or no longer an answer
	KindDNS                        // the name has no address
	KindRefused                    // nothing listens on the port
	KindUnreachable                // no route to the host
	KindAlgorithm                  // no algorithm in common
	KindConfig                     // a setting or ssh_config is wrong
	KindUnsupported                // ssh_config asks for what needs the openssh transport
	KindClosed                     // the server or the network ended the connection
	KindProtocol                   // what answers does not speak SSH as it should
)

// String says what happened, in the words of the troubleshooting table of docs/REMOTES.md.
func (k Kind) String() string {
	switch k {
	case KindAuth:
		return "authentication failed"
	case KindHostKeyUnknown:
		return "host key unknown"
	case KindHostKeyChanged:
		return "host key changed"
	case KindHostKeyRevoked:
		return "host key revoked"
	case KindSubsystem:
		return "no SFTP"
	case KindChroot:
		return "session refused after login"
	case KindEncryptedKey:
		return "encrypted key without passphrase"
	case KindKey:
		return "key not usable"
	case KindTimeout:
		return "timed out"
	case KindDNS:
		return "host name not found"
	case KindRefused:
		return "connection refused"
	case KindUnreachable:
		return "network unreachable"
	case KindAlgorithm:
		return "no common algorithm"
	case KindConfig:
		return "configuration"
	case KindUnsupported:
		return "not possible with the native transport"
	case KindClosed:
		return "connection closed"
	case KindProtocol:
		return "not a proper SSH server"
	default:
		return "failed"
	}
}

// Error is the text of the kind.
func (k Kind) Error() string { return k.String() }

// Error is the error type of this package. No field ever has a secret.
type Error struct {
	Kind   Kind
	Host   string // the server or the jump host that it is about, as "name" or "name (host:port)"
	Detail string // why, in one line; may be empty
	Hint   string // what to try; lines
	Err    error  // the cause; may be nil

	// Tried and Offered are the authentication methods of KindAuth: what was tried, with the
	// keys' fingerprints, and what the server takes.
	Tried, Offered []string
	// Fingerprint is the server's key (SHA256:…) for the kinds of host keys, Line the
	// known_hosts line that would trust it (of KindHostKeyUnknown only), Known what
	// known_hosts has instead.
	Fingerprint string
	Line        string
	Known       []KnownKey
}

// KnownKey is a key that a known_hosts file has for a server.
type KnownKey struct {
	File        string
	Line        int // from 1
	Type        string
	Fingerprint string // SHA256:…
}

// String is the place and the key.
func (k KnownKey) String() string {
	return fmt.Sprintf("%s:%d %s %s", k.File, k.Line, k.Type, k.Fingerprint)
}

// Error says what happened and why, without the hint.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Host != "" {
		b.WriteString(e.Host + ": ")
	}
	b.WriteString(e.Kind.String())
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Err != nil && e.Err.Error() != e.Kind.String() {
		cause, said := strings.CutSuffix(e.Err.Error(), ": "+e.Kind.String())
		if said { // what is left is whom the system was asked for: "dial tcp 192.0.2.1:22: connect"
			cause = strings.TrimSuffix(cause, ": connect")
		}
		b.WriteString(": " + cause)
	}
	// Parts of it are what a server says.
	return strings.NewReplacer("\n", " ", "\x00", "?").Replace(printable([]byte(b.String())))
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the error's Kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// KindOf returns the Kind of the first *Error in err's chain, KindOther when there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindOther
}

// HintOf returns the hint of the first *Error in err's chain, or "".
func HintOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

func configError(format string, args ...any) *Error {
	return &Error{Kind: KindConfig, Err: fmt.Errorf(format, args...)}
}

// stageTimeout is the cause with which a stage's time limit ends its context.
type stageTimeout struct {
	stage string
	limit fmt.Stringer
}

func (t *stageTimeout) Error() string { return fmt.Sprintf("no %s within %v", t.stage, t.limit) }

// Timeout makes the error a net.Error's kind of timeout.
func (t *stageTimeout) Timeout() bool { return true }

// connectError classifies what went wrong while host was being connected to or talked to. An
// error that has its kind already keeps it. ctx is that of the stage.
func connectError(ctx context.Context, host string, err error) error {
	var known *Error
	if errors.As(err, &known) {
		if known.Host == "" {
			known.Host = host
		}
		return known
	}
	if cause := context.Cause(ctx); cause != nil {
		var limit *stageTimeout
		if errors.As(cause, &limit) {
			return timeoutError(host, limit)
		}
		// The caller gave up: errors.Is(err, context.Canceled) must hold.
		return &Error{Kind: kindOfEnd(cause), Host: host, Err: cause}
	}
	return networkError(host, err)
}

func kindOfEnd(cause error) Kind {
	if errors.Is(cause, context.DeadlineExceeded) {
		return KindTimeout
	}
	return KindOther
}

func timeoutError(host string, cause error) *Error {
	return &Error{
		Kind: KindTimeout, Host: host, Err: cause,
		Hint: "is the server up, and does a firewall let this machine through? a slow one needs a longer timeout",
	}
}

func networkError(host string, err error) *Error {
	e := &Error{Kind: KindOther, Host: host, Err: err}
	var dns *net.DNSError
	var algorithm *ssh.AlgorithmNegotiationError
	var timeout interface{ Timeout() bool }
	var open *ssh.OpenChannelError
	switch {
	case errors.As(err, &algorithm):
		return algorithmError(host, algorithm)
	case errors.As(err, &dns) && dns.IsNotFound, errors.As(err, &dns) && !dns.Timeout():
		e.Kind = KindDNS
		e.Hint = "is the name spelled right? when it is an alias, is it in ~/.ssh/config of this account (in the home that passwd has, whatever HOME says), and does its Host line match?"
	case errors.As(err, &open):
		// A jump host says that it could not reach the next one; the reason is its text.
		e.Kind, e.Hint = KindUnreachable, "the jump host could not open the connection: is the next host's name and port right, and does the jump host allow forwarding (AllowTcpForwarding)?"
		switch {
		case strings.Contains(open.Message, "refused"):
			e.Kind = KindRefused
		case strings.Contains(open.Message, "unknown host"), strings.Contains(open.Message, "not known"):
			e.Kind = KindDNS
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Kind, e.Hint = KindRefused, "does the SSH server run, and on that port?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		e.Kind, e.Hint = KindUnreachable, "is the address right, and is there a route (VPN, IPv6) to it?"
	case errors.As(err, &timeout) && timeout.Timeout():
		return timeoutError(host, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.Kind, e.Hint = KindClosed, "the server ended the connection: its log says why (MaxStartups, a ban of this address, a port that is not SSH?)"
	}
	return e
}

func algorithmError(host string, err *ssh.AlgorithmNegotiationError) *Error {
	return &Error{
		Kind: KindAlgorithm, Host: host,
		Detail: fmt.Sprintf("%s: the server has %s, we have %s", err.What, algorithmList(err.RequestedAlgorithms), algorithmList(err.SupportedAlgorithms)),
		Hint:   "update the server; for a device that cannot be updated, allow old algorithms with legacy: true, or those it needs by HostKeyAlgorithms, KexAlgorithms, Ciphers and MACs in ssh_config",
	}
}

// algorithmList joins names without the pseudo-algorithms that announce extensions (RFC 8308,
// kex-strict of OpenSSH).
func algorithmList(names []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(names), func(s string) bool {
		return strings.HasPrefix(s, "ext-info-") || strings.HasPrefix(s, "kex-strict-")
	}), ",")
}
