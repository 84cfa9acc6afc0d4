package pull

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/snapgate/gateway/internal/sshclient"
)

// Kind classifies an Error.
type Kind uint8

// The kinds of errors.
const (
	KindOther       Kind = iota // the server refuses, or something that has no kind
	KindNotFound                // no such file or directory
	KindPermission              // the server does not let us
	KindConnection              // the connection was lost or could not be made; may be tried again
	KindChanged                 // size or time are not what they were, or became others in a read
	KindShort                   // fewer bytes than were announced
	KindListing                 // a line of a listing that cannot be understood, or a cut listing
	KindName                    // a name that no path element can have
	KindLimit                   // too deep, too long, or too many
	KindSpecial                 // neither file, directory nor symbolic link
	KindProtocol                // the server does not keep to the protocol
	KindUnsupported             // not a thing that this server or protocol does
	KindConflict                // something else is there, which is not replaced
	KindDiffers                 // what was written reads back differently
	KindBreaks                  // the connection is lost each time here, and not elsewhere
	KindBusy                    // the server refuses for now; may be tried again
)

// String is the word of reports.
func (k Kind) String() string {
	switch k {
	case KindNotFound:
		return "not found"
	case KindPermission:
		return "permission denied"
	case KindConnection:
		return "connection lost"
	case KindChanged:
		return "changed while read"
	case KindShort:
		return "cut short"
	case KindListing:
		return "listing not understood"
	case KindName:
		return "name not possible"
	case KindLimit:
		return "limit exceeded"
	case KindSpecial:
		return "not a file, directory or link"
	case KindProtocol:
		return "protocol violated"
	case KindUnsupported:
		return "not supported"
	case KindConflict:
		return "something else is there"
	case KindDiffers:
		return "reads back differently"
	case KindBreaks:
		return "breaks the connection each time"
	case KindBusy:
		return "refused for now"
	default:
		return "failure"
	}
}

// MarshalText makes JSON say the word.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// ErrDataConnection means that an FTP server has answered, and the connection for the bytes of a file or a listing
// could not be made to it.
var ErrDataConnection = errors.New("data connection")

// ErrSilent means that an FTP server has neither sent nor taken anything for as long as it may keep us waiting. The connection has ended.
var ErrSilent = errors.New("no answer")

// ErrNotDirectory means that a location is not of a directory.
var ErrNotDirectory = errors.New("it is no directory")

// Error is the error type of this package. Callers test Kind, with KindOf.
type Error struct {
	Op   string // "list", "read", "stat", …
	Path string // as the remote has it below its root; may be empty
	Kind Kind
	Err  error // the cause; may be nil
}

func (e *Error) Error() string {
	s := e.Op
	if e.Path != "" {
		s += " " + quotePath(e.Path)
	}
	s += ": " + e.Kind.String()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the Kind of the first *Error in err's chain, KindOther when there is none.
// It must not be called with nil.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindOther
}

func fail(op, path string, kind Kind, cause error) error {
	return &Error{Op: op, Path: path, Kind: kind, Err: cause}
}

func failf(op, path string, kind Kind, format string, args ...any) error {
	return &Error{Op: op, Path: path, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// failOS sorts an error of the operating system or of the network.
func failOS(op, path string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	kind := KindOther
	var ssh *sshclient.Error
	switch {
	case errors.As(err, &ssh):
		kind = sshKind(ssh)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		kind = KindNotFound
	case errors.Is(err, fs.ErrPermission):
		kind = KindPermission
	case errors.Is(err, fs.ErrExist):
		kind = KindConflict
	case isConnection(err):
		kind = KindConnection
	}
	return fail(op, path, kind, err)
}

// sshKind sorts an error of the SSH client: what may be over by itself is a lost connection, and
// what either side refuses is not.
func sshKind(e *sshclient.Error) Kind {
	switch e.Kind {
	case sshclient.KindTimeout, sshclient.KindDNS, sshclient.KindRefused, sshclient.KindUnreachable, sshclient.KindClosed:
		return KindConnection
	case sshclient.KindAuth, sshclient.KindHostKeyUnknown, sshclient.KindHostKeyChanged, sshclient.KindHostKeyRevoked:
		return KindPermission
	case sshclient.KindProtocol:
		return KindProtocol
	case sshclient.KindOther:
		if e.Err != nil && isConnection(e.Err) {
			return KindConnection
		}
	}
	return KindOther
}

// isConnection reports whether err says that a connection broke, or could not be made for a
// reason that may pass.
func isConnection(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrSilent) || isNetwork(err) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, fs.ErrClosed)
}

// isNetwork reports whether err is of the network. Every syscall.Errno is a net.Error, also one of a
// disk: without a net.OpError around it only one that says so is.
func isNetwork(err error) bool {
	var ne net.Error
	if !errors.As(err, &ne) {
		return false
	}
	_, bare := ne.(syscall.Errno)
	return !bare || ne.Timeout()
}
