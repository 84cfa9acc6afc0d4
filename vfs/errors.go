package vfs

import (
	"errors"
	"fmt"
)

// Kind classifies an Error. It alone decides what a client is told.
type Kind uint8

// The kinds of errors.
const (
	KindOther       Kind = iota // internal failure; the client learns "failure" only
	KindNotExist                // no such file
	KindExist                   // the name is taken
	KindNotDir                  // a path element is not a directory
	KindIsDir                   // a file operation on a directory
	KindNotEmpty                // rmdir of a directory with entries
	KindBusy                    // an upload is open below, or the handle was taken over
	KindPermission              // the principal may not, or the place is read-only
	KindBadName                 // a name that is refused: too long, reserved, NUL, …
	KindInvalid                 // arguments that make no sense
	KindLoop                    // too many symbolic links
	KindNoSpace                 // spool, disk or store full
	KindUnavailable             // the store cannot be reached: stored bytes cannot be read now
	KindUnsupported             // not a thing this filesystem does
	KindTooMany                 // too many open handles
	KindTimeout                 // acknowledge: stored did not finish in time; the change stays
	KindClosed                  // the handle, session or system is closed
	KindTorn                    // an append to a file whose last overwrite by the same principal was cut off
	KindDisk                    // the disk below the data directory fails, or is read-only or not there
	KindChanged                 // what has the name is not what was looked at (File.PublishOver)
	KindQuota                   // the share's quota is used up
)

// String is the text that a client may see.
func (k Kind) String() string {
	switch k {
	case KindNotExist:
		return "no such file or directory"
	case KindExist:
		return "file exists"
	case KindNotDir:
		return "not a directory"
	case KindIsDir:
		return "is a directory"
	case KindNotEmpty:
		return "directory not empty"
	case KindBusy:
		return "resource busy"
	case KindPermission:
		return "permission denied"
	case KindBadName:
		return "name not allowed"
	case KindInvalid:
		return "invalid argument"
	case KindLoop:
		return "too many levels of symbolic links"
	case KindNoSpace:
		return "no space left"
	case KindUnavailable:
		return "store unavailable, try again later"
	case KindUnsupported:
		return "operation not supported"
	case KindTooMany:
		return "too many open files"
	case KindTimeout:
		return "timed out"
	case KindClosed:
		return "closed"
	case KindTorn:
		return "the last upload of this file was cut off, send it again from its start"
	case KindDisk:
		return "disk of the server does not work, try again later"
	case KindChanged:
		return "changed since it was looked at, look again"
	case KindQuota:
		return "quota exceeded"
	default:
		return "failure"
	}
}

// Error is the error type of this package. Callers test Kind, with KindOf, and show a
// client nothing but Kind's text and the client's own path.
type Error struct {
	Op   string // "open", "rename", …
	Name Name   // the canonical name, zero when there is none
	Kind Kind
	Err  error // the cause, for the log; may be nil
}

func (e *Error) Error() string {
	s := e.Op
	if !e.Name.IsZero() {
		s += " " + e.Name.String()
	}
	s += ": " + e.Kind.String()
	if e.Err != nil {
		s += fmt.Sprintf(": %v", e.Err)
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the Kind of the first *Error in err's chain, KindOther when there is
// none. It must not be called with nil.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindOther
}

func errKind(op string, name Name, kind Kind) error {
	return &Error{Op: op, Name: name, Kind: kind}
}

func errCause(op string, name Name, kind Kind, cause error) error {
	return &Error{Op: op, Name: name, Kind: kind, Err: cause}
}
