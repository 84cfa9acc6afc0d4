package pull

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"
)

// What a disk refuses is no lost connection, although every syscall.Errno has the methods of a net.Error.
func TestFailOS(t *testing.T) {
	dial := func(errno syscall.Errno) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}
	}
	path := func(errno syscall.Errno) error { return &fs.PathError{Op: "open", Path: "/x", Err: errno} }
	for _, tt := range []struct {
		err  error
		want Kind
	}{
		{path(syscall.ENOSPC), KindOther},
		{path(syscall.EROFS), KindOther},
		{path(syscall.EIO), KindOther},
		{path(syscall.ENAMETOOLONG), KindOther},
		{path(syscall.EACCES), KindPermission},
		{path(syscall.ENOTDIR), KindNotFound},
		{path(syscall.ETIMEDOUT), KindConnection}, // of a network file system
		{dial(syscall.ECONNREFUSED), KindConnection},
		{dial(syscall.EHOSTUNREACH), KindConnection},
		{os.NewSyscallError("read", syscall.ECONNRESET), KindConnection},
		{errors.New("something else"), KindOther},
	} {
		if got := KindOf(failOS("open", "/x", tt.err)); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}

func TestNoDirectory(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const want = "something else is there: it is no directory"
	if _, err := NewFS(file); err == nil || err.Error() != "open "+file+": "+want {
		t.Errorf("a source: %v", err)
	}
	if _, err := NewFSTarget(file); err == nil || err.Error() != "open "+file+": "+want {
		t.Errorf("a target: %v", err)
	}
}
