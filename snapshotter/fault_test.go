package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// goroutines lets kloset's goroutines end, which they do by themselves but not before it
// returns, until at most limit are left, and returns how many there are.
func goroutines(limit int) int {
	n := runtime.NumGoroutine()
	for deadline := time.Now().Add(time.Minute); n > limit && time.Now().Before(deadline); {
		runtime.Gosched()
		n = runtime.NumGoroutine()
	}
	return n
}

// settled is the number of goroutines when it has not changed for a while.
func settled() int {
	n, same := runtime.NumGoroutine(), 0
	for same < 1000 {
		runtime.Gosched()
		if k := runtime.NumGoroutine(); k == n {
			same++
		} else {
			n, same = k, 0
		}
	}
	return n
}

func descriptors(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// TestCommitOnFaultyStore fails every operation on the store's files in turn.
func TestCommitOnFaultyStore(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB: a packfile of its own
	for _, where := range []string{"packfiles", "states"} {
		for _, op := range []storetest.Op{storetest.OpOpen, storetest.OpWrite, storetest.OpSync, storetest.OpRename, storetest.OpSyncDir} {
			t.Run(where+" "+string(op), func(t *testing.T) {
				dir := t.TempDir()
				fsys := storetest.NewFaultFS()
				cfg := storetest.Config(dir)
				cfg.Disk = fsys
				r := &rig{Snapshotter: nil, t: t, store: storetest.Open(t, cfg)}
				r.Snapshotter = newSnapshotter(t, r.store)
				first := r.commit(snapshotter.ID{}, baseTree().all()...)
				before, fds := settled(), 0

				fsys.Fail(func(o storetest.Op, path string) error {
					if o == op && strings.Contains(path, "/"+where) {
						return syscall.ENOSPC
					}
					return nil
				})
				for n := range 3 {
					_, err := r.Commit(t.Context(), first, seq([]snapshotter.Change{put("/big", file(20, big))}), meta(2))
					if n == 0 { // SQLite may keep a descriptor that it has no use for, once
						fds = descriptors(t)
					}
					if !errors.Is(err, snapshotter.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
						t.Fatalf("got %v, want ErrUnavailable and ENOSPC", err)
					}
				}
				if n := goroutines(before); n > before {
					t.Errorf("%d goroutines, %d before the failures", n, before)
				}
				if n := descriptors(t); n > fds {
					t.Errorf("%d descriptors, %d after the first failure", n, fds)
				}
				list, err := r.Snapshots(t.Context(), "main")
				if err != nil || len(list) != 1 {
					t.Errorf("snapshots: %d, %v; want 1", len(list), err)
				}
				fsys.Fail(nil)
				for _, pattern := range []string{"store/*/*/tmp.*", "store/locks/*", "cache/2.0.0/store/*/*.state", "cache/2.0.0/dbstorer-*"} {
					left, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern)))
					if err != nil || len(left) > 0 {
						t.Errorf("left behind: %v %v", left, err)
					}
				}

				id := r.commit(first, put("/big", file(20, big)))
				want := with(map[string]*item{"/big": ptr(file(20, big))})
				r.expect(id, want)
				// Another process finds the same: one snapshot more, and no half ones.
				cfg.CacheDir = ""
				other := newSnapshotter(t, storetest.Open(t, cfg))
				list, err = other.Snapshots(t.Context(), "")
				if err != nil || len(list) != 2 || list[0].ID != id {
					t.Errorf("another process sees %d snapshots, %v", len(list), err)
				}
			})
		}
	}
}

func TestCommitWhileStoreIsAway(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, store: storetest.Open(t, storetest.Config(dir))}
	r.Snapshotter = newSnapshotter(t, r.store)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	path := filepath.Join(dir, "store")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	changes := []snapshotter.Change{put("/x", file(20, "x"))}
	if _, err := r.Commit(t.Context(), first, seq(changes), meta(2)); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("commit: got %v, want ErrUnavailable", err)
	}
	if list, err := r.Snapshots(t.Context(), "main"); err != nil || len(list) != 1 {
		t.Errorf("list while away: %d, %v; want what was known", len(list), err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made where the store was: %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	r.expect(r.commit(first, changes...), with(map[string]*item{"/x": ptr(file(20, "x"))}))
}

func TestStartWhileStoreIsAway(t *testing.T) {
	dir := t.TempDir()
	cfg := storetest.Config(dir)
	r := &rig{t: t, store: storetest.Open(t, cfg)}
	r.Snapshotter = newSnapshotter(t, r.store)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	path := filepath.Join(dir, "store")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}

	cfg.CacheDir = filepath.Join(dir, "cache2")
	late := newSnapshotter(t, storetest.Open(t, cfg))
	if _, err := late.Snapshots(t.Context(), "main"); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("list: got %v, want ErrUnavailable", err)
	}
	if _, _, err := late.Latest(t.Context(), "gateway-1", "share-1"); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("latest: got %v, want ErrUnavailable", err)
	}
	if _, err := late.View(t.Context(), first); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("view: got %v, want ErrUnavailable", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	back := &rig{Snapshotter: late, t: t, n: 1}
	back.expect(first, baseTree())
	back.expect(back.commit(first, put("/x", file(20, "x"))), with(map[string]*item{"/x": ptr(file(20, "x"))}))
}

// TestNamesWhileStoreIsAway starts after a reboot without the store: the head's names and
// attributes are there, and its contents are not.
func TestNamesWhileStoreIsAway(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		dir := t.TempDir()
		cfg := storetest.Config(dir)
		s, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		first := &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}
		want := with(map[string]*item{"/large": ptr(file(30, string(randomBytes(t, 3<<20))))})
		id := first.commit(snapshotter.ID{}, baseTree().all()...)
		id = first.commit(id, put("/large", want["/large"]))
		if err := errors.Join(first.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "store")
		if err := errors.Join(os.Rename(path, path+".away"),
			os.WriteFile(filepath.Join(dir, "cache", "boot"), []byte("another one"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if damaged {
			tearFiles(t, filepath.Join(dir, "cache", "metadata"))
		}

		r := &rig{t: t, store: storetest.Open(t, cfg), n: 2}
		r.Snapshotter = newSnapshotter(t, r.store)
		v, err := r.View(t.Context(), id)
		if damaged {
			if !errors.Is(err, snapshotter.ErrUnavailable) {
				t.Errorf("with torn copies: got %v, want ErrUnavailable", err)
			}
		} else {
			if err != nil {
				t.Fatalf("view while away: %v", err)
			}
			for p, it := range want {
				e, err := v.Lstat(t.Context(), p)
				if err != nil || e.Attr != it.Attr || e.Version != it.Version {
					t.Errorf("lstat %s while away: %+v, %v", p, e, err)
				}
			}
			if list, err := v.ReadDir(t.Context(), "/a", "", 10); err != nil || len(list) != 2 {
				t.Errorf("list while away: %v, %v", list, err)
			}
			f, err := v.Open(t.Context(), "/large")
			if err == nil {
				_, err = f.ReadAt(make([]byte, 10), 0)
			}
			if !errors.Is(err, snapshotter.ErrUnavailable) {
				t.Errorf("content while away: got %v, want ErrUnavailable", err)
			}
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		r.expect(id, want)
		want["/x"] = file(40, "x")
		r.expect(r.commit(id, put("/x", want["/x"])), want)
	}
}

// tearFiles cuts the files of a directory short, as a loss of power may.
func tearFiles(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		p := filepath.Join(dir, f.Name())
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, fi.Size()/2); err != nil {
			t.Fatal(err)
		}
	}
}

// failingContent is a Content that goes wrong.
type failingContent struct {
	size int64
	rd   func() (io.ReadCloser, error)
}

func (c failingContent) Size() int64                                 { return c.size }
func (c failingContent) Open(context.Context) (io.ReadCloser, error) { return c.rd() }

func TestCommitContentErrors(t *testing.T) {
	errDisk := errors.New("disk on fire")
	data := func(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }
	tests := []struct {
		name    string
		content failingContent
		want    error
	}{
		{"open fails", failingContent{5, func() (io.ReadCloser, error) { return nil, errDisk }}, errDisk},
		{"read fails", failingContent{5, func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("abc"), errReader{errDisk})), nil
		}}, errDisk},
		{"too short", failingContent{5, func() (io.ReadCloser, error) { return data("abcd"), nil }}, io.ErrUnexpectedEOF},
		{"too long", failingContent{5, func() (io.ReadCloser, error) { return data("abcdef"), nil }}, io.ErrUnexpectedEOF},
		{"empty but announced", failingContent{5, func() (io.ReadCloser, error) { return data(""), nil }}, io.ErrUnexpectedEOF},
	}
	r := newRig(t)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := put("/x", file(20, ""))
			c.Content = tt.content
			if _, err := r.Commit(t.Context(), first, seq([]snapshotter.Change{c}), meta(2)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if list, err := r.Snapshots(t.Context(), ""); err != nil || len(list) != 1 {
				t.Errorf("snapshots: %d, %v; want 1", len(list), err)
			}
		})
	}
	r.expect(r.commit(first), baseTree())
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestCommitIteratorErrorAndCancel(t *testing.T) {
	errChanges := errors.New("journal unreadable")
	r := newRig(t)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	broken := func(yield func(snapshotter.Change, error) bool) {
		_ = yield(put("/x", file(20, "x")), nil) && yield(snapshotter.Change{}, errChanges)
	}
	if _, err := r.Commit(t.Context(), first, broken, meta(2)); !errors.Is(err, errChanges) {
		t.Errorf("got %v, want %v", err, errChanges)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stopping iter.Seq2[snapshotter.Change, error] = func(yield func(snapshotter.Change, error) bool) {
		cancel()
		yield(put("/x", file(20, "x")), nil)
	}
	if _, err := r.Commit(ctx, first, stopping, meta(2)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	r.expect(r.commit(first), baseTree())
}

func TestCommitOnRemovedBase(t *testing.T) {
	r := newRig(t)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	second := r.commit(first, put("/x", file(20, "x")))
	removeSnapshot(t, r, second)
	changes := []snapshotter.Change{put("/y", file(21, "y"))}
	if _, err := r.Commit(t.Context(), second, seq(changes), meta(3)); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("got %v, want ErrNoSnapshot", err)
	}
	if _, err := r.Snapshot(t.Context(), second); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("snapshot: got %v, want ErrNoSnapshot", err)
	}
	r.expect(r.commit(first, changes...), with(map[string]*item{"/y": ptr(file(21, "y"))}))
}

// removeSnapshot does what plakar rm does, in what stands for another process.
func removeSnapshot(t *testing.T, r *rig, id snapshotter.ID) {
	t.Helper()
	other := storetest.Open(t, otherConfig(r.store))
	if err := other.Repository().DeleteSnapshot([32]byte(id)); err != nil {
		t.Fatal(err)
	}
}

// otherConfig opens the store of s once more, with a cache of its own.
func otherConfig(s *store.Store) store.Config {
	cfg := storetest.Config("")
	cfg.Location, cfg.CacheDir, cfg.KeepDir, cfg.Create = s.Location(), "", "", false
	return cfg
}

func TestCommitWhileStoreIsMaintained(t *testing.T) {
	r := newRig(t)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	release := storetest.LockExclusively(t, r.store, "vault")
	_, err := r.Commit(t.Context(), first, seq(nil), meta(2))
	var locked *store.LockedError
	if !errors.Is(err, snapshotter.ErrBusy) || !errors.As(err, &locked) || locked.Host != "vault" {
		t.Errorf("got %v, want ErrBusy by host vault", err)
	}
	r.expect(first, baseTree()) // readers go on
	release()
	r.expect(r.commit(first), baseTree())
}

// TestManyCommits commits many times in a row: nothing may pile up in the process.
func TestManyCommits(t *testing.T) {
	r := newRig(t)
	want := baseTree()
	id := r.commit(snapshotter.ID{}, want.all()...)
	id = r.commit(id)
	before, fds := settled(), descriptors(t)
	for i := range 30 {
		p := fmt.Sprintf("/b/%02d", i)
		want[p] = file(uint64(100+i), strings.Repeat(p, 1000))
		id = r.commit(id, put(p, want[p]))
	}
	if n := goroutines(before); n > before {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before\n%s", n, before, buf[:runtime.Stack(buf, true)])
	}
	if n := descriptors(t); n > fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
	r.expect(id, want)
	list, err := r.Snapshots(t.Context(), "main")
	if err != nil || len(list) != 32 {
		t.Fatalf("%d snapshots, %v; want 32", len(list), err)
	}
	if list[0].ID != id || !slices.IsSortedFunc(list, func(a, b snapshotter.Snapshot) int { return b.Time.Compare(a.Time) }) {
		t.Error("list is not newest first")
	}
}

func TestFailpoints(t *testing.T) {
	var hit []string
	s := storetest.New(t)
	r := &rig{Snapshotter: newSnapshotter(t, s, func(cfg *snapshotter.Config) {
		cfg.Failpoint = func(name string) { hit = append(hit, name) }
	}), t: t, store: s}
	x, _ := arrived("/x", 20, []byte("x"), r.ingest([]byte("x")))
	r.commit(r.commit(snapshotter.ID{}, baseTree().all()...), x)
	for _, name := range snapshotter.Failpoints() {
		if !slices.Contains(hit, name) {
			t.Errorf("failpoint %s was not reached", name)
		}
	}
}

// TestCopyOfStorePath: kloset leaves out source paths that look like its own store's.
func TestCopyOfStorePath(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, store: storetest.Open(t, storetest.Config(dir))}
	r.Snapshotter = newSnapshotter(t, r.store)
	want := tree{"/": {Kind: snapshotter.Dir, Attr: attr(0o755, 0)}}
	for p := filepath.Join(dir, "store", "CONFIG"); p != "/"; p = filepath.Dir(p) {
		want[p] = someDir(len(p))
	}
	want[filepath.Join(dir, "store", "CONFIG")] = file(1, "not the real one")
	r.expect(r.commit(snapshotter.ID{}, want.all()...), want)
}

func someDir(n int) item {
	return item{Kind: snapshotter.Dir, Attr: attr(0o700, n), Version: uint64(n)}
}

// TestStoreFromCopy puts an older copy of the store in its place, as after the loss of a
// disk. What the local index knows of the time since must not be taken for stored.
func TestStoreFromCopy(t *testing.T) {
	for _, restart := range []bool{false, true} {
		dir := t.TempDir()
		cfg := storetest.Config(dir)
		s, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}
		path, older := filepath.Join(dir, "store"), filepath.Join(dir, "older")
		first := r.commit(snapshotter.ID{}, baseTree().all()...)
		if err := os.CopyFS(older, os.DirFS(path)); err != nil {
			t.Fatal(err)
		}
		x := put("/x", file(20, string(randomBytes(t, 2<<20))))
		second := r.commit(first, x)
		if err := errors.Join(os.RemoveAll(path), os.Rename(older, path)); err != nil {
			t.Fatal(err)
		}
		if restart {
			if err := errors.Join(r.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}
			r = &rig{t: t, store: storetest.Open(t, cfg), n: 2}
			r.Snapshotter = newSnapshotter(t, r.store)
		}
		if _, err := r.Commit(t.Context(), second, seq(nil), meta(3)); !errors.Is(err, snapshotter.ErrNoSnapshot) {
			t.Errorf("commit on a snapshot that is gone: got %v, want ErrNoSnapshot", err)
		}
		id := r.commit(first, x)
		r.expect(id, with(map[string]*item{"/x": ptr(file(20, string(x.Content.(bytesContent))))}))
		r.expect(first, baseTree())
	}
}
