package backend_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/snapgate/gateway/store/internal/backend"
	"github.com/snapgate/gateway/store/storetest"
)

func openSFTP(t *testing.T, d backend.SFTPDialer, root string) *backend.SFTP {
	b := backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: root, Token: "token"})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// TestSFTPOpenSSH runs the suite with OpenSSH's server, as it is, and where it may neither set modes nor rename in its own
// way: renames of the protocol do not replace.
func TestSFTPOpenSSH(t *testing.T) {
	for name, args := range map[string][]string{"with all": nil, "without modes and posix-rename": {"-P", "posix-rename,setstat,fsetstat"}} {
		t.Run(name, func(t *testing.T) {
			d := storetest.NewOpenSSH(t, args...)
			storetest.TestBackend(t, func(t *testing.T) backend.Backend { return openSFTP(t, d, filepath.Join(t.TempDir(), "store")) })
		})
	}
}

// replaceable are files that are replaced: a changed passphrase, a packfile that is put back, a lock that
// is refreshed.
func replaceable() []string {
	return []string{backend.ConfigName, storetest.FileName(backend.PackfilesDir, 1), storetest.FileName(backend.LocksDir, 1)}
}

// TestSFTPSyncsNames: a file has its name, on the server's disk, when Put has returned. OpenSSH's server tells what it does.
func TestSFTPSyncsNames(t *testing.T) {
	for _, name := range replaceable() {
		root := filepath.Join(t.TempDir(), "store")
		d := storetest.NewOpenSSH(t, "-e", "-l", "VERBOSE")
		var log bytes.Buffer
		d.Log = &log
		b := backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: root, Token: "token", Connections: 1})
		err := b.Create(t.Context())
		if err == nil {
			err = backend.PutBytes(t.Context(), b, name, []byte("new"))
		}
		if err := errors.Join(err, b.Close()); err != nil {
			t.Fatal(err)
		}
		_, after, ok := strings.Cut(log.String(), fmt.Sprintf("new %q", filepath.Join(root, name)))
		if !ok {
			t.Fatalf("%s: no rename in\n%s", name, &log)
		}
		synced := strings.Contains(after, fmt.Sprintf("fsync %q", filepath.Join(root, name)))
		if lock := strings.HasPrefix(name, backend.LocksDir); synced == lock {
			t.Errorf("%s: synced %v after the rename:\n%s", name, synced, after)
		}
	}
}

// TestSFTPSyncLost loses the connection when the server is to write a name to its disk: that is repeated, and a Put without
// it has failed.
func TestSFTPSyncLost(t *testing.T) {
	name := storetest.FileName(backend.StatesDir, 1)
	for _, always := range []bool{false, true} {
		d := storetest.NewOpenSSH(t)
		b := openSFTP(t, d, filepath.Join(t.TempDir(), "store"))
		lost := errors.New("lost")
		renamed, times := false, 0
		if err := b.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil { // nothing of the connections so far may see what changes
			t.Fatal(err)
		}
		d.Syncing = func() error {
			if !renamed {
				renamed = true // the next follows it
				return nil
			}
			if times++; times == 1 || always {
				return lost
			}
			return nil
		}
		if err := backend.PutBytes(t.Context(), b, name, []byte("new")); (err != nil) != always || times < 2 {
			t.Errorf("always %v: put: %v, asked %d times", always, err, times)
		}
	}
}

// TestSFTPRenameForbidden has a server that permits no rename: the file that is there stays.
func TestSFTPRenameForbidden(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	b, forbidden := openSFTP(t, storetest.NewOpenSSH(t), root), openSFTP(t, storetest.NewOpenSSH(t, "-P", "posix-rename,rename"), root)
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range replaceable() {
		putString(t, b, name, "old")
		if err := backend.PutBytes(t.Context(), forbidden, name, []byte("new")); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: put: %v", name, err)
		}
		wantFiles(t, root, name, "old")
	}
}

func putString(t *testing.T, b backend.Files, name, data string) {
	t.Helper()
	if err := backend.PutBytes(t.Context(), b, name, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// wantFiles compares a file with what it should be, as the disk has it, and looks for leftovers of others.
func wantFiles(t *testing.T, root, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(root, name))
	if err != nil || string(got) != want {
		t.Errorf("%s is %q, %v, want %q", name, got, err, want)
	}
	if left := leftovers(t, root); len(left) > 0 {
		t.Errorf("%s: left over: %q", name, left)
	}
}

// leftovers lists what is in a store and belongs to no store.
func leftovers(t *testing.T, root string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && (strings.HasPrefix(e.Name(), "tmp.") || strings.HasSuffix(e.Name(), ".old")) {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// newVersion3 is a backend on a server that has no extensions, and its directory. Set gives another
// answer to the renames that it would do.
func newVersion3(t *testing.T) (d *pipeDialer, b *backend.SFTP, root string, set func(func(from, to string) renameFault)) {
	t.Helper()
	if err := sftp.SetSFTPExtensions(); err != nil { // of the process: no test here is parallel to others
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sftp.SetSFTPExtensions("hardlink@openssh.com", "posix-rename@openssh.com", "statvfs@openssh.com"); err != nil {
			t.Error(err)
		}
	})
	d = newPipeDialer(t)
	set = func(fault func(from, to string) renameFault) {
		version3 := func(from, to string) renameFault {
			if _, err := os.Lstat(to); err == nil {
				return renameRefused
			}
			if fault != nil {
				return fault(from, to)
			}
			return renameDone
		}
		d.rename.Store(&version3)
	}
	set(nil)
	root = filepath.Join(t.TempDir(), "store")
	b = backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: root, Token: "token", Retries: 1})
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d, b, root, set
}

// TestSFTPReplaceRefused has a server that gives no temporary file its name, or moves none aside: what is
// there stays, and nothing else does.
func TestSFTPReplaceRefused(t *testing.T) {
	_, b, root, set := newVersion3(t)
	for _, name := range replaceable() {
		for what, refused := range map[string]func(from, to string) bool{
			"the new name":  func(from, _ string) bool { return strings.HasPrefix(filepath.Base(from), "tmp.") },
			"the other":     func(_, to string) bool { return strings.HasSuffix(to, ".old") },
			"every rename":  func(string, string) bool { return true },
			"nothing (new)": func(string, string) bool { return false },
		} {
			set(nil)
			putString(t, b, name, "old")
			wantFiles(t, root, name, "old")
			set(func(from, to string) renameFault {
				if refused(from, to) {
					return renameRefused
				}
				return renameDone
			})
			want := "old"
			err := backend.PutBytes(t.Context(), b, name, []byte("new"))
			if err == nil {
				want = "new"
			}
			if ok := strings.HasPrefix(what, "nothing"); ok != (err == nil) {
				t.Errorf("%s, %s: put: %v", name, what, err)
			}
			wantFiles(t, root, name, want)
		}
	}
}

// TestSFTPReplaceKilled ends while neither file has the name: it is read as it was, and has its name
// again after the next start. What was removed does not come back.
func TestSFTPReplaceKilled(t *testing.T) {
	d, b, root, set := newVersion3(t)
	die := func(name string) {
		t.Helper()
		putString(t, b, name, "old")
		set(func(from, _ string) renameFault {
			if !strings.HasPrefix(filepath.Base(from), "tmp.") {
				return renameDone
			}
			d.trouble(true, 0, 0)
			return renameLost
		})
		err := backend.PutBytes(t.Context(), b, name, []byte("new"))
		d.trouble(false, 0, 0)
		set(nil)
		for _, left := range leftovers(t, root) {
			if strings.HasPrefix(filepath.Base(left), "tmp.") { // what is left of the new file does not matter
				if err := os.Remove(left); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, serr := os.Lstat(filepath.Join(root, name)); err == nil || !os.IsNotExist(serr) {
			t.Fatalf("%s: put: %v; the name: %v", name, err, serr)
		}
	}
	names := replaceable()
	for _, name := range names {
		die(name)
	}
	var listed []string
	if err := b.List(t.Context(), "", func(name string) error { listed = append(listed, name); return nil }); err != nil || len(listed) > 0 {
		t.Errorf("listed: %q, %v", listed, err)
	}
	for _, name := range names {
		got, err := backend.GetBytes(t.Context(), b, name, 100)
		info, serr := b.Stat(t.Context(), name)
		if string(got) != "old" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if strings.HasPrefix(name, backend.LocksDir) { // nobody else sees it
			if !errors.Is(serr, os.ErrNotExist) {
				t.Errorf("%s: %+v, %v", name, info, serr)
			}
		} else if serr != nil || info.Size != 3 || info.Name != name {
			t.Errorf("%s: %+v, %v", name, info, serr)
		}
	}
	if err := b.Sweep(t.Context(), time.Now()); err != nil {
		t.Error(err)
	}
	for _, name := range names {
		wantFiles(t, root, name, "old")
	}

	name := names[0]
	die(name)
	putString(t, b, name, "newer") // beside one that is aside
	putString(t, b, name, "newest")
	wantFiles(t, root, name, "newest")
	die(name)
	putString(t, b, name, "newer")
	if err := b.Sweep(t.Context(), time.Now()); err != nil {
		t.Error(err)
	}
	wantFiles(t, root, name, "newer")
	die(name)
	putString(t, b, name, "newer")
	if err := b.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
	if info, err := b.Stat(t.Context(), name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was removed and is there: %+v, %v", name, info, err)
	}
}

// TestSFTPReplaceLost has the connection end while neither file has the name: Put puts the other back by
// another one.
func TestSFTPReplaceLost(t *testing.T) {
	_, b, root, set := newVersion3(t)
	for _, name := range replaceable() {
		putString(t, b, name, "old")
		lost := false
		set(func(from, _ string) renameFault {
			if lost || !strings.HasPrefix(filepath.Base(from), "tmp.") {
				return renameDone
			}
			lost = true
			return renameLost
		})
		if err := backend.PutBytes(t.Context(), b, name, []byte("new")); err == nil || !lost {
			t.Errorf("%s: put: %v", name, err)
		}
		set(nil)
		wantFiles(t, root, name, "old")
	}
}

// TestSFTPReplaceTwice reads a file that is replaced twice meanwhile: it is aside when its name is looked at, has the name when
// it is looked for aside, and is aside again.
func TestSFTPReplaceTwice(t *testing.T) {
	d, b, root, set := newVersion3(t)
	name := storetest.FileName(backend.PackfilesDir, 1)
	putString(t, b, name, "old")
	between, resume := make(chan struct{}), make(chan struct{})
	set(func(from, _ string) renameFault {
		if strings.HasPrefix(filepath.Base(from), "tmp.") { // the other is aside
			between <- struct{}{}
			<-resume
		}
		return renameDone
	})
	replace := func(data string) <-chan error {
		done := make(chan error, 1)
		go func() { done <- backend.PutBytes(t.Context(), b, name, []byte(data)) }()
		<-between
		return done
	}
	first := replace("first")
	var second <-chan error
	looks := 0
	answered := func(path string) {
		if filepath.Base(path) != filepath.Base(name) && !strings.HasSuffix(path, ".old") {
			return // a temporary file
		}
		switch looks++; looks {
		case 1:
			resume <- struct{}{}
			if err := <-first; err != nil {
				t.Errorf("put: %v", err)
			}
		case 2:
			second = replace("second")
		}
	}
	d.answered.Store(&answered)
	type read struct {
		data []byte
		err  error
	}
	result := make(chan read, 1)
	go func() {
		data, err := backend.GetBytes(t.Context(), b, name, 100)
		result <- read{data, err}
	}()
	for len(result) == 0 && !waitsFor("sync.RWMutex.RLock", "backend.(*SFTP).either") {
		runtime.Gosched()
	}
	if len(result) == 0 {
		resume <- struct{}{}
	}
	if got := <-result; string(got.data) != "second" || got.err != nil {
		t.Errorf("read: %q, %v", got.data, got.err)
		resume <- struct{}{}
	}
	if err := <-second; err != nil {
		t.Errorf("put: %v", err)
	}
	wantFiles(t, root, name, "second")
}

// waitsFor reports whether a call of a function waits for something, in the words of the runtime.
func waitsFor(what, function string) bool {
	buf := make([]byte, 1<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if head, calls, _ := strings.Cut(g, "\n"); strings.Contains(head, "["+what) && strings.Contains(calls, function) {
			return true
		}
	}
	return false
}

// TestSFTPLockTemporary looks at a store while a lock is put: plakar's connector takes what is in locks
// for locks. It is put where the directory is missing, too.
func TestSFTPLockTemporary(t *testing.T) {
	d := newPipeDialer(t)
	root := filepath.Join(t.TempDir(), "store")
	b := backend.NewSFTP(backend.SFTPConfig{Dialer: d, Root: root, Token: "token"})
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := storetest.FileName(backend.LocksDir, 1)
	looked := false
	if _, err := b.Put(t.Context(), name, readerFunc(func([]byte) (int, error) {
		entries, err := os.ReadDir(filepath.Join(root, backend.LocksDir))
		if tmp := leftovers(t, root); err != nil || len(entries) > 0 || len(tmp) != 1 {
			t.Errorf("among locks: %v, %v; temporary files: %q", entries, err, tmp)
		}
		looked = true
		return 0, io.EOF
	})); err != nil || !looked {
		t.Fatalf("put: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(root, backend.LocksDir)); err != nil {
		t.Fatal(err)
	}
	if err := backend.PutBytes(t.Context(), b, name, nil); err == nil || len(leftovers(t, root)) > 0 {
		t.Errorf("put where there is no store: %v, left over: %q", err, leftovers(t, root))
	}
	putString(t, b, backend.ConfigName, "config")
	putString(t, b, name, "a lock")
	got, err := backend.GetBytes(t.Context(), b, name, 100)
	if err != nil || !bytes.Equal(got, []byte("a lock")) {
		t.Errorf("%q, %v", got, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
