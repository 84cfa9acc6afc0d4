package vfstest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
	"github.com/snapgate/gateway/vfs"
)

// aheadRig is a live tree above a real store.
type aheadRig struct {
	t     *testing.T
	store *store.Store
	snaps *snapshotter.Snapshotter
	cfg   vfs.Config
	sys   *vfs.System
	sess  *vfs.Session
	put   chan struct{} // a packfile was put ahead of a commit
	read  *countedReads
	held  atomic.Bool // commits wait for commit; see heldCommits
}

// heldCommits is a store that takes no snapshot while held: the committer would make one by itself of what has its bytes in an old
// snapshot, before a test, on a busy machine, has come to remove these.
type heldCommits struct {
	vfs.Repository
	held *atomic.Bool
}

func (h heldCommits) Commit(ctx context.Context, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error], meta snapshotter.Meta) (snapshotter.ID, error) {
	if h.held.Load() {
		return snapshotter.ID{}, fmt.Errorf("%w: held", snapshotter.ErrUnavailable)
	}
	return h.Repository.Commit(ctx, base, changes, meta)
}

func (r *aheadRig) repository() vfs.Repository {
	return heldCommits{vfs.FromSnapshotter(r.snaps), &r.held}
}

func newAheadRig(t *testing.T, options ...func(*store.Config)) *aheadRig {
	t.Helper()
	r := &aheadRig{t: t, store: storetest.New(t, options...), put: make(chan struct{}, 1), read: new(countedReads)}
	var err error
	r.snaps, err = snapshotter.New(t.Context(), snapshotter.Config{Store: r.store, Failpoint: func(name string) {
		if name == snapshotter.FailEarlyPutAfter {
			select {
			case r.put <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := r.store.DeriveKey("spool")
	if err != nil {
		t.Fatal(err)
	}
	r.cfg = vfs.Config{
		DataDir: t.TempDir(), Disk: r.read, Repository: r.repository(), SpoolKey: key,
		Shares: []vfs.ShareConfig{{Name: "main", When: vfs.WhenManual}},
	}
	r.open()
	t.Cleanup(func() {
		if err := errors.Join(r.sys.Close(context.Background()), r.snaps.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *aheadRig) open() {
	r.t.Helper()
	var err error
	if r.sys, err = vfs.Open(r.t.Context(), r.cfg); err != nil {
		r.t.Fatal(err)
	}
	p := &vfs.Principal{User: "alice", Perms: vfs.PermFull, Mounts: []vfs.Mount{{At: vfs.Root(), Share: "main", Root: vfs.Root()}}}
	if r.sess, err = r.sys.Session(r.t.Context(), p, vfs.ConnInfo{Conn: "1"}); err != nil {
		r.t.Fatal(err)
	}
}

// upload opens a new file and writes the first bytes of data; the caller goes on.
func (r *aheadRig) upload(name string, data []byte) *vfs.File {
	r.t.Helper()
	f, err := r.sess.Open(r.t.Context(), name, vfs.OpenWrite|vfs.OpenCreate|vfs.OpenTruncate, vfs.AttrSet{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(f, data, 0)
	return f
}

// write writes in the requests of OpenSSH's client, of which some are late.
func (r *aheadRig) write(f *vfs.File, data []byte, off int) {
	r.t.Helper()
	const request = 255 << 10
	for at := 0; at < len(data); at += 2 * request {
		for _, from := range []int{at + request, at} {
			if from >= len(data) {
				continue
			}
			to := min(from+request, len(data))
			if _, err := f.WriteAt(data[from:to], int64(off+from)); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// awaitPut waits until something was put into the store ahead of a commit.
func (r *aheadRig) awaitPut() {
	r.t.Helper()
	select {
	case <-r.put:
	case <-time.After(2 * time.Minute):
		r.t.Fatal("nothing was put into the store while the upload arrived")
	}
}

func (r *aheadRig) close(f *vfs.File) {
	r.t.Helper()
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// expect commits, and compares a file of the snapshot; kloset's own check must pass.
func (r *aheadRig) expect(files map[string][]byte) {
	r.t.Helper()
	id, err := r.sys.Commit(r.t.Context(), "main")
	if err != nil {
		r.t.Fatal(err)
	}
	v, err := r.snaps.View(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	defer v.Close()
	for name, want := range files {
		f, err := v.Open(r.t.Context(), name)
		if err != nil {
			r.t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		if err := errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, want) {
			r.t.Errorf("%s in the snapshot is not what was uploaded (%d bytes of %d, %v)", name, len(got), len(want), err)
		}
	}
	if err := r.snaps.Check(r.t.Context(), id); err != nil {
		r.t.Error(err)
	}
}

// countedReads is the local disk without its syncs, and counts what is read of spool files.
type countedReads struct {
	disk.OS
	bytes atomic.Int64
}

type countedFile struct {
	disk.File
	bytes *atomic.Int64
}

func (c *countedReads) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := c.OS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	n := &c.bytes
	if !strings.HasSuffix(path, ".spool") {
		n = new(atomic.Int64)
	}
	return countedFile{f, n}, nil
}

func (c *countedReads) SyncDir(string) error { return nil }

func (f countedFile) Sync() error { return nil }

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.bytes.Add(int64(n))
	return n, err
}

func randomData(seed byte, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // never fails
	return data
}

// TestLinksAreReadOnce: a commit reads what several names have once.
func TestLinksAreReadOnce(t *testing.T) {
	r := newAheadRig(t)
	data := randomData(1, 3<<20)
	r.close(r.upload("/f", data))
	files := map[string][]byte{"/f": data}
	for n := range 3 {
		name := fmt.Sprint("/link", n)
		if err := r.sess.Link(t.Context(), "/f", name); err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	r.read.bytes.Store(0)
	r.expect(files)
	if n := r.read.bytes.Load(); n < int64(len(data)) || n > int64(len(data))*3/2 {
		t.Errorf("%d bytes were read of the spool for a file of %d bytes and its links", n, len(data))
	}
}

// TestUploadArrivesAhead: a large upload is in the store, for the greatest part, before it is
// closed, and its commit does not read it again.
func TestUploadArrivesAhead(t *testing.T) {
	for name, option := range map[string]func(*store.Config){"encrypted": func(*store.Config) {}, "plaintext": storetest.Plaintext} {
		if testing.Short() && name == "plaintext" { // the race detector sees the same in the other
			continue
		}
		t.Run(name, func(t *testing.T) {
			r := newAheadRig(t, option)
			data := randomData(1, 70<<20+4711)
			f := r.upload("/large", data)
			r.awaitPut()
			r.close(f)
			r.expect(map[string][]byte{"/large": data})
			if n := r.read.bytes.Load(); n > int64(len(data))*3/2 {
				t.Errorf("%d bytes were read of a spool file of %d", n, len(data))
			}
		})
	}
}

// TestUploadChangesAfterIngest: what is written again after it was put into the store is what
// the snapshot has.
func TestUploadChangesAfterIngest(t *testing.T) {
	data := randomData(2, 40<<20)
	for name, change := range map[string]func(r *aheadRig, f *vfs.File) []byte{
		"written again": func(r *aheadRig, f *vfs.File) []byte {
			want := bytes.Clone(data)
			copy(want[1<<20:], "something else")
			r.write(f, want[1<<20:1<<20+14], 1<<20)
			return want
		},
		"cut and gone on with": func(r *aheadRig, f *vfs.File) []byte {
			size := int64(20 << 20)
			if err := f.SetAttr(r.t.Context(), vfs.AttrSet{Size: &size}); err != nil {
				r.t.Fatal(err)
			}
			more := randomData(3, 10<<20)
			r.write(f, more, int(size))
			return append(bytes.Clone(data[:size]), more...)
		},
		"begun anew": func(r *aheadRig, f *vfs.File) []byte {
			var size int64
			if err := f.SetAttr(r.t.Context(), vfs.AttrSet{Size: &size}); err != nil {
				r.t.Fatal(err)
			}
			other := randomData(4, 41<<20)
			r.write(f, other, 0)
			return other
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newAheadRig(t)
			f := r.upload("/large", data)
			r.awaitPut()
			want := change(r, f)
			r.close(f)
			r.expect(map[string][]byte{"/large": want})
		})
	}
}

// TestUploadCutOffAfterIngest: an upload that was cut off is in no snapshot, whatever the store
// has of it, and can be resumed.
func TestUploadCutOffAfterIngest(t *testing.T) {
	r := newAheadRig(t)
	data := randomData(5, 40<<20)
	f := r.upload("/large", data[:36<<20])
	r.awaitPut()
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	r.close(r.upload("/small", data[:100]))
	r.expect(map[string][]byte{"/small": data[:100]})
	if list, err := r.sess.Stat(t.Context(), "/large"); err == nil && list.Size == int64(len(data)) {
		t.Error("an upload that was cut off is complete")
	}
	f, err := r.sess.Open(t.Context(), "/large", vfs.OpenWrite|vfs.OpenCreate|vfs.OpenResume, vfs.AttrSet{})
	if err != nil {
		t.Fatal(err)
	}
	r.write(f, data[36<<20:], 36<<20)
	r.close(f)
	r.expect(map[string][]byte{"/large": data, "/small": data[:100]})
}

// TestRestartAfterIngest ends the process in the middle of an ingest: nothing is left running,
// and the next start commits from the spool.
func TestRestartAfterIngest(t *testing.T) {
	r := newAheadRig(t)
	before := goleak.IgnoreCurrent()
	if err := r.sys.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.open()
	data := randomData(6, 48<<20)
	f := r.upload("/large", data)
	r.awaitPut()
	r.close(f)
	ended, cancel := context.WithCancel(t.Context())
	cancel() // there is no time for a last commit
	if err := r.sys.Close(ended); err != nil {
		t.Fatal(err)
	}
	if err := r.snaps.Close(); err != nil {
		t.Fatal(err)
	}
	noneLeft(t, before, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
	var err error
	if r.snaps, err = snapshotter.New(t.Context(), snapshotter.Config{Store: r.store}); err != nil {
		t.Fatal(err)
	}
	r.cfg.Repository = vfs.FromSnapshotter(r.snaps)
	r.open()
	r.expect(map[string][]byte{"/large": data})
}

// noneLeft fails when there are goroutines that do not end. kloset's end by themselves, but not before it returns,
// and goleak itself waits for less than half a second.
func noneLeft(t *testing.T, but ...goleak.Option) {
	t.Helper()
	err := goleak.Find(but...)
	for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); {
		err = goleak.Find(but...)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestManyUploadsAhead has more uploads at once than there are turns, some of the same bytes.
func TestManyUploadsAhead(t *testing.T) {
	r := newAheadRig(t)
	files := make(map[string][]byte)
	var uploads sync.WaitGroup
	for i := range 6 {
		name, data := fmt.Sprintf("/f%d", i), randomData(byte(10+i%4), 12<<20)
		files[name] = data
		uploads.Go(func() {
			f, err := r.sess.Open(t.Context(), name, vfs.OpenWrite|vfs.OpenCreate|vfs.OpenTruncate, vfs.AttrSet{})
			if err == nil {
				_, err = f.WriteAt(data, 0)
			}
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	uploads.Wait()
	r.expect(files)
}
