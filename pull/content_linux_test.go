package pull

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a local disk lists as empty is read: files of the kernel have more, or cannot be read at all, and another user's
// may not be opened.
func TestFSEmpty(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"empty": 0o644, "secret": 0o000} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		dir, path string
		want      Kind
		text      string // "" when it is read
	}{
		{dir, "/empty", 0, ""},
		{dir, "/secret", KindPermission, "permission denied"},
		{"/proc/self", "/status", KindProtocol, "there is more than the 0 bytes"},
		{"/proc/self", "/mem", KindOther, "input/output error"}, // nothing is at 0
	} {
		t.Run(tt.path[1:], func(t *testing.T) {
			f, err := NewFS(tt.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			e, err := f.Lstat(t.Context(), tt.path)
			if err != nil || e.Type != File || e.Size != 0 {
				t.Fatalf("%+v, %v", e, err)
			}
			// A file of /proc may have been written at any time.
			e.Precision = 0
			caps, err := f.Capabilities(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			read := func() ([]byte, error) {
				return (&file{r: f, caps: caps, retry: quick, path: tt.path, seen: e}).whole(t.Context())
			}
			if tt.want == KindPermission {
				read = unprivileged(read)
			}
			data, err := read()
			switch {
			case tt.text == "" && err == nil && len(data) == 0:
			case tt.text == "" || err == nil || KindOf(err) != tt.want || !strings.Contains(err.Error(), tt.text):
				t.Errorf("%q, %v", data, err)
			}
		})
	}
}

// unprivileged is fn as a user calls it for whom permissions count, also when a test is root.
func unprivileged(fn func() ([]byte, error)) func() ([]byte, error) {
	return func() (data []byte, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if os.Geteuid() == 0 {
				runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine
				const nobody = 65534
				if err = unix.Setfsuid(nobody); err != nil {
					return
				}
			}
			data, err = fn()
		}()
		<-done
		return data, err
	}
}

// A byte behind what a file had is not waited for, as that of the kernel's log would be: to a regular file it makes no
// difference, so it is the descriptor that tells.
func TestFSStatDoesNotWait(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "")
	f, err := NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rd, err := f.Open(t.Context(), "/f", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	r := rd.(*fsReader)
	if _, err := r.Stat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(r.file.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#o, %v", flags, err)
	}
}
