package sshsrv

import (
	"errors"
	"io"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/vfs"
)

// Status codes of version 3 (draft-ietf-secsh-filexfer-02 section 7).
const (
	statusOK               uint32 = 0
	statusEOF              uint32 = 1
	statusNoSuchFile       uint32 = 2
	statusPermissionDenied uint32 = 3
	statusFailure          uint32 = 4
	statusBadMessage       uint32 = 5
	statusOpUnsupported    uint32 = 8
)

// statusError is an error as the client gets it: a code and a text that holds nothing
// but the text of a Kind.
type statusError struct {
	code uint32
	text string
}

func (e *statusError) Error() string { return e.text }

// Unwrap gives pkg/sftp the code: it looks for its own error values only.
func (e *statusError) Unwrap() error {
	switch e.code {
	case statusEOF:
		return io.EOF
	case statusNoSuchFile:
		return sftp.ErrSSHFxNoSuchFile
	case statusPermissionDenied:
		return sftp.ErrSSHFxPermissionDenied
	case statusBadMessage:
		return sftp.ErrSSHFxBadMessage
	case statusOpUnsupported:
		return sftp.ErrSSHFxOpUnsupported
	default:
		return sftp.ErrSSHFxFailure
	}
}

// toStatus turns an error into what the client is told; nil stays nil. The cause goes to
// the log, never to the client.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var se *statusError
	if errors.As(err, &se) {
		return se
	}
	if err == io.EOF { //nolint:errorlint // a cause that is one is no end of a file
		return &statusError{statusEOF, "end of file"}
	}
	kind := vfs.KindOf(err)
	return &statusError{kindStatus(kind), kind.String()}
}

// kindError is a refusal that this package decides by itself.
func kindError(kind vfs.Kind) error { return &statusError{kindStatus(kind), kind.String()} }

// kindStatus is the one place where a Kind becomes a status code. It is what OpenSSH's
// sftp-server makes of the errno for the same situation (errno_to_portable).
func kindStatus(kind vfs.Kind) uint32 {
	switch kind {
	case vfs.KindNotExist, // ENOENT
		vfs.KindNotDir, // ENOTDIR
		vfs.KindLoop:   // ELOOP
		return statusNoSuchFile
	case vfs.KindPermission: // EACCES, EPERM
		return statusPermissionDenied
	case vfs.KindBadName, // ENAMETOOLONG
		vfs.KindInvalid: // EINVAL
		return statusBadMessage
	case vfs.KindUnsupported: // ENOSYS
		return statusOpUnsupported
	case vfs.KindExist, // EEXIST
		vfs.KindIsDir,       // EISDIR
		vfs.KindNotEmpty,    // ENOTEMPTY
		vfs.KindBusy,        // EBUSY
		vfs.KindNoSpace,     // ENOSPC
		vfs.KindQuota,       // EDQUOT
		vfs.KindTooMany,     // EMFILE
		vfs.KindUnavailable, // EIO
		vfs.KindDisk,        // EIO, EROFS
		vfs.KindTorn, vfs.KindChanged,
		vfs.KindTimeout, // ETIMEDOUT
		vfs.KindClosed,
		vfs.KindOther:
		return statusFailure
	default:
		return statusFailure
	}
}

// statusCode is the code of an error of toStatus, statusOK for nil.
func statusCode(err error) (uint32, string) {
	if err == nil {
		return statusOK, "success"
	}
	var se *statusError
	if !errors.As(toStatus(err), &se) {
		return statusFailure, vfs.KindOther.String()
	}
	return se.code, se.text
}
