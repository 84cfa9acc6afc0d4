package vfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// A client learns what is wrong from the Kind alone, so each cause must have the right one.
func TestErrorKind(t *testing.T) {
	path := func(errno syscall.Errno) error { return &fs.PathError{Op: "open", Path: "/x", Err: errno} }
	tests := []struct {
		name string
		err  error
		want Kind
	}{
		{"an error with a kind", errKind("x", Root(), KindBusy), KindBusy},
		{"full disk", fmt.Errorf("spool: %w", path(syscall.ENOSPC)), KindNoSpace},
		{"quota", path(syscall.EDQUOT), KindNoSpace},
		{"read-only disk", fmt.Errorf("spool: %w", path(syscall.EROFS)), KindDisk},
		{"broken disk", path(syscall.EIO), KindDisk},
		{"data directory not there", path(syscall.ENOENT), KindDisk},
		{"data directory not ours", path(syscall.EACCES), KindDisk},
		{"disk below an error without a kind", errCause("x", Root(), KindOther, path(syscall.EIO)), KindDisk},
		{"store", fmt.Errorf("%w: %w", snapshotter.ErrUnavailable, path(syscall.ENOSPC)), KindUnavailable},
		{"snapshot removed", snapshotter.ErrNoSnapshot, KindUnavailable},
		{"snapshot removed below an open file", errCause("read", Name{}, KindOther, snapshotter.ErrNoSnapshot), KindUnavailable},
		{"cancelled", context.Canceled, KindClosed},
		{"anything else", errors.New("x"), KindOther},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := errorKind(tt.err); got != tt.want {
				t.Errorf("errorKind: %v, want %v", got, tt.want)
			}
			var e *Error
			if err := journalError("put", Root(), tt.err); !errors.As(err, &e) || e.Kind != tt.want {
				t.Errorf("journalError: %v, want %v", err, tt.want)
			}
		})
	}
}

// What goes to the log says each thing once.
func TestClientError(t *testing.T) {
	name, full := Name{"/f"}, errors.New("the disk is full")
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"of the same operation, without a name", errCause("write", Name{}, KindNoSpace, full), "write /f: no space left: the disk is full"},
		{"complete", errCause("write", name, KindNoSpace, full), "write /f: no space left: the disk is full"},
		{"of another operation", errCause("seal", Name{}, KindNoSpace, full), "write /f: no space left: seal: no space left: the disk is full"},
		{"of a system call", syscall.ENOSPC, "write /f: no space left: no space left on device"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := clientError("write", name, tt.err)
			if err.Error() != tt.want || KindOf(err) != KindNoSpace {
				t.Errorf("got %q, want %q", err, tt.want)
			}
		})
	}
	if err := clientError("write", name, nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}
