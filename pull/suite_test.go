package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain fails when anything that a test started is still there at the end, but for what
// kloset leaves: a repository cannot be closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// patience bounds waits for something that another goroutine does.
const patience = time.Minute

// then is when the suite's files were changed: whole seconds, long ago.
var then = time.Date(2024, 2, 29, 13, 14, 15, 0, time.UTC)

// randomBytes are always the same for a size.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(b)
	return b
}

// house makes a directory with what the suite looks at.
func house(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name string, data []byte, mode fs.FileMode) {
		tb.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(p, data, mode); err != nil {
			tb.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			tb.Fatal(err)
		}
		if err := os.Chtimes(p, then, then); err != nil {
			tb.Fatal(err)
		}
	}
	write("empty", nil, 0o600)
	write("small", []byte("hello\n"), 0o640)
	write("exact", randomBytes(32768), 0o644)
	write("large", randomBytes(3<<20+17), 0o644)
	write(".hidden", []byte("h"), 0o644)
	write(" lead and  two", []byte("s"), 0o644)
	write("trail ", []byte("t"), 0o644)
	write("-rf", []byte("d"), 0o644)
	write("[a]*?", []byte("g"), 0o644)
	write("\xe4\xf6 latin", []byte("l"), 0o644)
	write("ünï", []byte("u"), 0o644)
	write("many/x", []byte("x"), 0o644)
	for i := range 300 {
		write(fmt.Sprintf("many/f%03d", i), []byte{byte(i)}, 0o644)
	}
	if err := os.MkdirAll(filepath.Join(dir, "deep/er/est"), 0o750); err != nil {
		tb.Fatal(err)
	}
	for link, target := range map[string]string{"link": "small", "dangling": "../no where", "dirlink": "many"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			tb.Fatal(err)
		}
	}
	if os.Getuid() == 0 { // others cannot give anything away
		for _, name := range givenAway() {
			if err := os.Lchown(filepath.Join(dir, name), givenUID, givenGID); err != nil {
				tb.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(dir, "exact"), 0o755|fs.ModeSetuid); err != nil { // the change of the owner takes it away
			tb.Fatal(err)
		}
	}
	return dir
}

// givenAway are the names in the root of house that belong to another user, when root made it. "exact"
// is a program that runs as its owner.
func givenAway() []string { return []string{"exact", "link", "deep"} }

// Whom they belong to.
const givenUID, givenGID = 65534, 7

// list lists a directory; entries with an error end the test.
func list(tb testing.TB, r Remote, dir string) map[string]Entry {
	tb.Helper()
	got := map[string]Entry{}
	err := r.ReadDir(tb.Context(), dir, func(e Entry) error {
		if _, twice := got[e.Name]; twice {
			tb.Errorf("%s: %q twice", dir, e.Name)
		}
		if e.Err != nil {
			tb.Errorf("%s: %v", dir, e.Err)
		}
		got[e.Name] = e
		return nil
	})
	if err != nil {
		tb.Fatalf("list %s: %v", dir, err)
	}
	return got
}

func readRange(ctx context.Context, r Remote, path string, offset, length int64) ([]byte, error) {
	rd, err := r.Open(ctx, path, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(rd)
	if cerr := rd.Close(); err == nil {
		err = cerr
	}
	return data, err
}

// testRemote is the conformance suite of Remotes. r shows dir, which house made.
func testRemote(t *testing.T, r Remote, dir string) {
	ctx := t.Context()
	caps, err := r.Capabilities(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if caps.Parallel < 1 {
		t.Errorf("Parallel is %d", caps.Parallel)
	}

	t.Run("list", func(t *testing.T) {
		got := list(t, r, "/")
		for _, name := range givenAway() {
			if e := got[name]; caps.Owner && os.Getuid() == 0 && (e.UID != givenUID || e.GID != givenGID) {
				t.Errorf("%q belongs to %d:%d, want %d:%d", name, e.UID, e.GID, givenUID, givenGID)
			}
		}
		des, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, de := range des {
			e, ok := got[de.Name()]
			if !ok {
				t.Errorf("%q is missing", de.Name())
				continue
			}
			delete(got, de.Name())
			fi, err := de.Info()
			if err != nil {
				t.Fatal(err)
			}
			checkEntry(t, caps, e, fi)
		}
		for name := range got {
			t.Errorf("%q is too much", name)
		}
		if n := len(list(t, r, "/many")); n != 301 {
			t.Errorf("%d entries in many, want 301", n)
		}
		if n := len(list(t, r, "/deep/er/est")); n != 0 {
			t.Errorf("%d entries in an empty directory", n)
		}
	})
	t.Run("stop listing", func(t *testing.T) {
		n := 0
		err := r.ReadDir(ctx, "/many", func(Entry) error { n++; return errStop })
		if !errors.Is(err, errStop) || n != 1 {
			t.Errorf("%v after %d entries, want the error of the callback after one", err, n)
		}
		list(t, r, "/many")
	})
	t.Run("stat", func(t *testing.T) {
		for _, name := range []string{"small", "large", "\xe4\xf6 latin", "[a]*?", " lead and  two", "trail ", "deep"} {
			e, err := r.Lstat(ctx, "/"+name)
			if err != nil {
				t.Errorf("stat %q: %v", name, err)
				continue
			}
			fi, err := os.Lstat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if e.Name != name {
				t.Errorf("stat %q has the name %q", name, e.Name)
			}
			if e.Type == File && (e.Size != fi.Size() || !e.ModTime.Equal(then) && caps.Exact) {
				t.Errorf("stat %q: %+v", name, e)
			}
		}
		if e, err := r.Lstat(ctx, "/"); err != nil || e.Type != Dir || e.Name != "/" {
			t.Errorf("stat /: %+v, %v", e, err)
		}
	})
	t.Run("read", func(t *testing.T) {
		for _, name := range []string{"empty", "small", "exact", "large", "-rf", "[a]*?", " lead and  two", "trail ", "\xe4\xf6 latin", "many/f007"} {
			want, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			got, err := readRange(ctx, r, "/"+name, 0, int64(len(want)))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %q: %d bytes, %v; want %d", name, len(got), err, len(want))
			}
		}
	})
	t.Run("read ranges", func(t *testing.T) {
		want, err := os.ReadFile(filepath.Join(dir, "large"))
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range [][2]int64{{0, 1}, {1, 70000}, {32768, 32768}, {3 << 20, 17}, {3<<20 + 16, 1}} {
			got, err := readRange(ctx, r, "/large", at[0], at[1])
			if at[0]+at[1] < int64(len(want)) && !caps.Ranges {
				continue // FTP sends all that comes after, which is too much
			}
			if err != nil || !bytes.Equal(got, want[at[0]:at[0]+at[1]]) {
				t.Errorf("range %v: %d bytes, %v", at, len(got), err)
			}
		}
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				name := fmt.Sprintf("/many/f%03d", i)
				if got, err := readRange(ctx, r, name, 0, 1); err != nil || len(got) != 1 || got[0] != byte(i) {
					t.Errorf("%s beside others: %x, %v", name, got, err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("close early", func(t *testing.T) {
		rd, err := r.Open(ctx, "/large", 0, 3<<20+17)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(rd, make([]byte, 10)); err != nil {
			t.Error(err)
		}
		rd.Close()
		if _, err := readRange(ctx, r, "/small", 0, 6); err != nil {
			t.Errorf("after an early close: %v", err)
		}
	})
	t.Run("links", func(t *testing.T) {
		if !caps.Symlinks {
			t.Fatal("every remote of this suite tells links")
		}
		got := list(t, r, "/")
		for name, want := range map[string]string{"link": "small", "dangling": "../no where", "dirlink": "many"} {
			target := got[name].Target
			if target == "" {
				var err error
				if target, err = r.Readlink(ctx, "/"+name); err != nil {
					t.Errorf("readlink %s: %v", name, err)
				}
			}
			if got[name].Type != Symlink || target != want {
				t.Errorf("%s is a %v to %q, want %q", name, got[name].Type, target, want)
			}
		}
	})
	t.Run("missing", func(t *testing.T) {
		_, serr := r.Lstat(ctx, "/nothing")
		_, oerr := readRange(ctx, r, "/nothing", 0, 1)
		lerr := r.ReadDir(ctx, "/nothing", func(Entry) error { return nil })
		for op, err := range map[string]error{"stat": serr, "open": oerr, "list": lerr} {
			if err == nil || KindOf(err) != KindNotFound {
				t.Errorf("%s of what is not there: %v", op, err)
			}
		}
	})
	t.Run("bad paths", func(t *testing.T) {
		for _, p := range []string{"", "a", "/a/../b", "/..", "//a", "/a/", "/a\x00b", "/./a"} {
			_, serr := r.Lstat(ctx, p)
			_, oerr := r.Open(ctx, p, 0, 1)
			_, rerr := r.Readlink(ctx, p)
			lerr := r.ReadDir(ctx, p, func(Entry) error { return nil })
			for op, err := range map[string]error{"stat": serr, "open": oerr, "list": lerr, "readlink": rerr} {
				if err == nil || KindOf(err) != KindName {
					t.Errorf("%s of %q: %v", op, p, err)
				}
			}
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		done, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := r.Lstat(done, "/small"); err == nil || KindOf(err) == KindConnection {
			t.Errorf("stat: %v", err)
		}
		if err := r.ReadDir(done, "/", func(Entry) error { return nil }); err == nil {
			t.Error("list: no error")
		}
		if _, err := readRange(done, r, "/large", 0, 3<<20+17); err == nil {
			t.Error("read: no error")
		}
		if _, err := r.Lstat(ctx, "/small"); err != nil {
			t.Errorf("after a cancelled call: %v", err)
		}
	})
}

func checkEntry(t *testing.T, caps Capabilities, e Entry, fi fs.FileInfo) {
	t.Helper()
	want := fsEntry(fi.Name(), fi)
	if e.Type != want.Type {
		t.Errorf("%q has the type %d, want %d", e.Name, e.Type, want.Type)
		return
	}
	if e.Type == File && e.Size != want.Size {
		t.Errorf("%q has %d bytes, want %d", e.Name, e.Size, want.Size)
	}
	if caps.Mode && e.Type != Symlink && (!e.HasMode || e.Mode != want.Mode) {
		t.Errorf("%q has the mode %v, want %v", e.Name, e.Mode, want.Mode)
	}
	if caps.Owner && (!e.HasOwner || e.UID != want.UID || e.GID != want.GID) {
		t.Errorf("%q belongs to %d:%d, want %d:%d", e.Name, e.UID, e.GID, want.UID, want.GID)
	}
	if e.Precision > 0 && (want.ModTime.Before(e.ModTime) || !want.ModTime.Before(e.ModTime.Add(e.Precision))) {
		t.Errorf("%q has the time %v within %v, want %v", e.Name, e.ModTime, e.Precision, want.ModTime)
	}
}

// fsEntry is the entry of what package os has seen.
func fsEntry(name string, fi fs.FileInfo) Entry {
	const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	e := Entry{
		Name: name, Mode: fi.Mode() & modeBits, HasMode: true,
		ModTime: fi.ModTime().UTC(), Precision: time.Nanosecond,
	}
	switch {
	case fi.Mode().IsRegular():
		e.Type, e.Size = File, fi.Size()
	case fi.IsDir():
		e.Type = Dir
	case fi.Mode()&fs.ModeSymlink != 0:
		e.Type = Symlink
	default:
		e.Type = Special
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		e.UID, e.GID, e.HasOwner = st.Uid, st.Gid, true
	}
	return e
}

func TestFS(t *testing.T) {
	dir := house(t)
	r, err := NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	testRemote(t, r, dir)
}

// What is put outside by a link that was a directory when it was listed is not reached.
func TestFSStaysInside(t *testing.T) {
	outside, dir := house(t), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "small"), filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	r, err := NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, p := range []string{"/out/small", "/file"} {
		if data, err := readRange(t.Context(), r, p, 0, 6); err == nil {
			t.Errorf("%s: read %q", p, data)
		}
	}
	for _, p := range []string{"/out", "/out/many"} {
		if err := r.ReadDir(t.Context(), p, func(Entry) error { return nil }); err == nil {
			t.Errorf("%s was listed", p)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, tt := range []struct {
		dir, name string
		ok        bool
	}{
		{"/", "a", true}, {"/", "...", true}, {"/", "a b\n", true}, {"/d", "\xff", true},
		{"/", "", false}, {"/", ".", false}, {"/", "..", false}, {"/", "../a", false}, {"/", "/", false},
		{"/", "a/b", false}, {"/", "a\x00", false}, {"/", "\xffa", false},
		{"/", strings.Repeat("n", 255), true}, {"/", strings.Repeat("n", 256), false},
		{"/" + strings.Repeat("d", 4000), strings.Repeat("n", 255), false},
	} {
		if err := checkName(tt.dir, tt.name); (err == nil) != tt.ok {
			t.Errorf("%.20q in %.20q: %v", tt.name, tt.dir, err)
		}
	}
}
