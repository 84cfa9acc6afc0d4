package vfstest_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
	"github.com/snapgate/gateway/vfs"
)

// commitLimit is how long a commit may take that has to do with what was removed: far longer than it takes.
const commitLimit = time.Minute

// commit commits, and nothing is held any more. If that does not end it ends the tests, with all stacks: nothing could be closed.
func (r *aheadRig) commit() (snapshotter.ID, error) {
	r.t.Helper()
	r.held.Store(false)
	defer time.AfterFunc(commitLimit, func() { panic("a commit does not end") }).Stop()
	return r.sys.Commit(r.t.Context(), "main")
}

// head commits, which must work.
func (r *aheadRig) head() snapshotter.ID {
	r.t.Helper()
	id, err := r.commit()
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

// restart ends everything without a last commit, and starts it again.
func (r *aheadRig) restart() {
	r.t.Helper()
	ended, cancel := context.WithCancel(r.t.Context())
	cancel()
	if err := errors.Join(r.sys.Close(ended), r.snaps.Close()); err != nil {
		r.t.Fatal(err)
	}
	var err error
	if r.snaps, err = snapshotter.New(r.t.Context(), snapshotter.Config{Store: r.store}); err != nil {
		r.t.Fatal(err)
	}
	r.cfg.Repository = r.repository()
	r.open()
}

// plakarRemoves removes a snapshot as plakar does, whatever it is.
func (r *aheadRig) plakarRemoves(id snapshotter.ID) {
	r.t.Helper()
	if err := r.otherStore().Repository().DeleteSnapshot([32]byte(id)); err != nil {
		r.t.Fatal(err)
	}
}

// otherStore opens the store, a plaintext one, as another process does, which has no local copies of this one.
func (r *aheadRig) otherStore() *store.Store {
	r.t.Helper()
	cfg := storetest.Config("")
	storetest.Plaintext(&cfg)
	cfg.Location, cfg.CacheDir, cfg.KeepDir, cfg.Create = r.store.Location(), "", "", false
	return storetest.Open(r.t, cfg)
}

// TestBaseRemoved commits changes of large files that take bytes from snapshots which have been removed from the
// store meanwhile: the bytes are there until maintenance, and what was accepted is kept.
func TestBaseRemoved(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		between := func(*aheadRig) {}
		if restarts {
			between = (*aheadRig).restart
		}
		t.Run(fmt.Sprintf("head, restarts %v", restarts), func(t *testing.T) {
			r := newAheadRig(t, storetest.Plaintext)
			data := randomData(1, 1<<20+1000)
			r.close(r.upload("/f", data[:1<<20]))
			head := r.head()
			f, err := r.sess.Open(t.Context(), "/f", vfs.OpenWrite, vfs.AttrSet{})
			if err != nil {
				t.Fatal(err)
			}
			r.write(f, data[1<<20:], 1<<20)
			r.close(f)
			r.plakarRemoves(head)
			between(r)
			r.head()
			r.expect(map[string][]byte{"/f": data})
		})
		t.Run(fmt.Sprintf("old, restarts %v", restarts), func(t *testing.T) {
			r := newAheadRig(t, storetest.Plaintext)
			data := randomData(1, 1<<20)
			r.restoreRemoved(data)
			between(r)
			r.head()
			r.expect(map[string][]byte{"/linked": data, "/f": []byte("new")})
		})
	}
}

// restoreRemoved links a file of an old snapshot, which is then removed.
func (r *aheadRig) restoreRemoved(data []byte) {
	r.t.Helper()
	if err := r.snaps.Remove(r.t.Context(), r.linkOld(data)); err != nil {
		r.t.Fatal(err)
	}
}

// linkOld links a file of an old snapshot, which it returns. Nothing is committed before commit.
func (r *aheadRig) linkOld(data []byte) snapshotter.ID {
	r.t.Helper()
	r.close(r.upload("/f", data))
	old := r.head()
	snap, err := r.snaps.Snapshot(r.t.Context(), old)
	if err != nil {
		r.t.Fatal(err)
	}
	r.close(r.upload("/f", []byte("new")))
	r.head()
	r.held.Store(true)
	if err := r.sess.Link(r.t.Context(), "/.snapshots/"+snap.ViewName(r.sys.Lineage("main"))+"/f", "/linked"); err != nil {
		r.t.Fatal(err)
	}
	return old
}

// TestBaseGone has maintenance reclaim what a pending change takes from a removed snapshot: its share says so, and goes
// on without the change when the operator wants that.
func TestBaseGone(t *testing.T) {
	r := newAheadRig(t, storetest.Plaintext)
	// So large that there are packfiles which have nothing but its chunks: the one that has the header stays.
	r.restoreRemoved(randomData(1, 9<<20))
	r.restart() // nobody has a view of it open
	for range 2 {
		cfg := snapshotter.MaintainConfig{Dir: t.TempDir(), Now: func() time.Time { return time.Now().Add(time.Hour) }}
		if _, err := r.snaps.Maintain(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	r.leavesLinkedOut()
}

// leavesLinkedOut checks that the bytes of a pending /linked are gone: nothing is committed, but without it when the operator
// wants that.
func (r *aheadRig) leavesLinkedOut() {
	r.t.Helper()
	for range 2 {
		if _, err := r.commit(); !errors.Is(err, vfs.ErrBaseGone) {
			r.t.Fatalf("commit: %v, want %v", err, vfs.ErrBaseGone)
		}
	}
	r.cfg.LeaveOutDamaged = true
	r.restart()
	id := r.head()
	v, err := r.snaps.View(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := v.Lstat(r.t.Context(), "/linked"); !errors.Is(err, fs.ErrNotExist) {
		r.t.Errorf("what could not be read: %v, want %v", err, fs.ErrNotExist)
	}
	if tags := v.Snapshot().Tags; !slices.Contains(tags, "lost=1") {
		r.t.Errorf("the snapshot does not say that it lacks something: its tags are %q", tags)
	}
	r.expect(map[string][]byte{"/f": []byte("new")})
}

// TestBaseDamaged spoils the header of a snapshot that a pending change takes bytes from: it is not gone, and the change is
// not left out whatever the operator has said, but committed when the header is there again. Of a snapshot that was removed nothing
// brings the header back: it is gone. One that is missing with its packfile, and was not removed, may come back likewise.
func TestBaseDamaged(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*aheadRig, snapshotter.ID) (undo func())
		want  error
	}{
		"listed":  {(*aheadRig).spoilHeader, snapshotter.ErrDamaged},
		"missing": {(*aheadRig).loseHeader, snapshotter.ErrLost},
	} {
		t.Run(name, func(t *testing.T) {
			r := newAheadRig(t, storetest.Plaintext)
			data := randomData(1, 1<<20)
			undo := tt.spoil(r, r.linkOld(data))
			r.cfg.LeaveOutDamaged = true
			r.restart()
			for range 2 {
				if _, err := r.commit(); !errors.Is(err, tt.want) || errors.Is(err, vfs.ErrBaseGone) {
					t.Fatalf("commit: %v, want %v and not %v", err, tt.want, vfs.ErrBaseGone)
				}
			}
			undo()
			r.restart()
			r.head()
			r.expect(map[string][]byte{"/linked": data, "/f": []byte("new")})
		})
	}
	t.Run("removed, and only its chunks are", func(t *testing.T) {
		r := newAheadRig(t, storetest.Plaintext)
		r.close(r.upload("/f", []byte("new")))
		r.head()
		r.close(r.upload("/linked", randomData(1, 9<<20)))
		old := r.head()
		f, err := r.sess.Open(t.Context(), "/linked", vfs.OpenWrite, vfs.AttrSet{})
		if err != nil {
			t.Fatal(err)
		}
		r.write(f, []byte("behind"), 9<<20)
		r.close(f)
		r.plakarRemoves(old)
		r.spoilChunks()
		r.restart()
		r.leavesLinkedOut()
	})
	t.Run("removed", func(t *testing.T) {
		r := newAheadRig(t, storetest.Plaintext)
		old := r.linkOld(randomData(1, 1<<20))
		if err := r.snaps.Remove(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		r.spoilHeader(old)
		r.restart()
		r.leavesLinkedOut()
	})
}

// TestBaseLost: the store has lost chunks of a listed snapshot, or does not give back what was written, and a pending append takes bytes from
// it. Its share says what it is about, and goes on without it when the operator wants that. While the store does not give the chunks, they are not lost.
func TestBaseLost(t *testing.T) {
	// So large that there are packfiles which have nothing but its chunks: the one that has the header stays.
	data := randomData(1, 9<<20)
	appended := func(t *testing.T, options ...func(*store.Config)) (r *aheadRig, head snapshotter.ID) {
		t.Helper()
		r = newAheadRig(t, append(options, storetest.Plaintext)...)
		r.close(r.upload("/f", data))
		head = r.head()
		f, err := r.sess.Open(t.Context(), "/f", vfs.OpenWrite, vfs.AttrSet{})
		if err != nil {
			t.Fatal(err)
		}
		r.write(f, []byte("behind"), len(data))
		r.close(f)
		r.close(r.upload("/g", []byte("beside")))
		return r, head
	}
	for _, tt := range []struct {
		name  string
		spoil func(*aheadRig, snapshotter.ID)
		lost  string // the tag of the next snapshot
	}{
		{"missing", (*aheadRig).loseChunks, "lost=2"}, // the upload, and the file that it continues
		{"damaged", func(r *aheadRig, _ snapshotter.ID) { r.spoilChunks() }, "lost=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, head := appended(t)
			tt.spoil(r, head)
			r.restart() // nobody has chunks in memory
			for range 2 {
				if _, err := r.commit(); !errors.Is(err, vfs.ErrBaseLost) || !strings.Contains(err.Error(), "/f") {
					t.Fatalf("commit: %v, want %v of /f", err, vfs.ErrBaseLost)
				}
			}
			r.cfg.LeaveOutDamaged = true
			r.restart()
			v, err := r.snaps.View(t.Context(), r.head())
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			if e, err := v.Lstat(t.Context(), "/g"); err != nil || e.Size != int64(len("beside")) {
				t.Errorf("what was uploaded beside it: %+v, %v", e, err)
			}
			if e, err := v.Lstat(t.Context(), "/f"); err == nil && e.Size != int64(len(data)) {
				t.Errorf("what could not be read is in the snapshot: %+v", e)
			}
			if tags := v.Snapshot().Tags; !slices.Contains(tags, tt.lost) {
				t.Errorf("tags %q, want %s", tags, tt.lost)
			}
		})
	}
	t.Run("missing, and sent again", func(t *testing.T) {
		r, head := appended(t)
		r.loseChunks(head)
		r.cfg.LeaveOutDamaged = true
		r.restart()
		r.head()
		r.close(r.upload("/f", append(slices.Clone(data), "behind"...)))
		r.expect(map[string][]byte{"/f": append(slices.Clone(data), "behind"...), "/g": []byte("beside")})
	})
	for _, errno := range []error{syscall.EIO, syscall.ENOENT} {
		t.Run(fmt.Sprintf("the store answers %v", errno), func(t *testing.T) {
			disk := storetest.NewFaultFS()
			r, _ := appended(t, func(cfg *store.Config) { cfg.Disk = disk })
			r.cfg.LeaveOutDamaged = true
			r.restart()
			disk.Fail(func(op storetest.Op, path string) error {
				if op == storetest.OpOpen && strings.Contains(path, "/packfiles/") && !strings.HasSuffix(path, ".tmp") {
					return &fs.PathError{Op: "open", Path: path, Err: errno}
				}
				return nil
			})
			if _, err := r.commit(); err == nil || errors.Is(err, vfs.ErrBaseLost) || errors.Is(err, vfs.ErrBaseGone) {
				t.Errorf("commit: %v, want an error of the store", err)
			}
			disk.Fail(nil)
			r.expect(map[string][]byte{"/f": append(slices.Clone(data), "behind"...), "/g": []byte("beside")})
		})
	}
}

// loseChunks takes the packfiles out of the store that are large, and so have little but chunks, and do not have the header of a snapshot.
func (r *aheadRig) loseChunks(head snapshotter.ID) {
	r.t.Helper()
	keep := r.filesWith(head)
	list, err := filepath.Glob(filepath.Join(strings.TrimPrefix(r.store.Location(), "fs://"), "packfiles", "*", "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	lost := 0
	for _, path := range list {
		fi, err := os.Stat(path)
		if err != nil {
			r.t.Fatal(err)
		}
		if fi.Size() < 1<<20 || slices.Contains(keep, path) {
			continue
		}
		if err := os.Remove(path); err != nil {
			r.t.Fatal(err)
		}
		lost++
	}
	if lost == 0 {
		r.t.Fatal("no packfile has nothing but chunks")
	}
}

// snapshotBlob is the type of the blobs that are headers: its number is part of the format.
const snapshotBlob = 5

// frameHeader is how many bytes a packfile has before its contents.
const frameHeader = 16

// headerOf is where the header of a snapshot is.
func headerOf(t testing.TB, st *store.Store, id snapshotter.ID) store.Place {
	t.Helper()
	places, err := st.PlacesOf(snapshotBlob, [32]byte(id))
	if err != nil || len(places) != 1 {
		t.Fatalf("the header is in %v, %v", places, err)
	}
	return places[0]
}

// spoilHeader makes the header of a snapshot unreadable, in the store and in the local copy, until undo is called.
func (r *aheadRig) spoilHeader(id snapshotter.ID) (undo func()) {
	r.t.Helper()
	return r.spoilBeside(id, func(blobs []byte, place store.Place) []byte { return blobs[place.Offset:][:place.Length] })
}

// loseHeader takes the packfile with the header of a snapshot out of the store, and its local copy, until undo is called.
func (r *aheadRig) loseHeader(id snapshotter.ID) (undo func()) {
	r.t.Helper()
	undo = r.spoilBeside(id, func([]byte, store.Place) []byte { return nil })
	for _, path := range r.filesWith(id) {
		if err := os.Remove(path); err != nil {
			r.t.Fatal(err)
		}
	}
	return undo
}

// spoilRest makes unreadable what the packfile with the header of a snapshot has before that.
func (r *aheadRig) spoilRest(id snapshotter.ID) {
	r.t.Helper()
	r.spoilBeside(id, func(blobs []byte, place store.Place) []byte { return blobs[:place.Offset] })
}

// spoilBeside makes a part of the packfile with the header of a snapshot unreadable, in the store and in the local copy, until undo is
// called: what pick picks of its blobs, of which the header is at a place.
func (r *aheadRig) spoilBeside(id snapshotter.ID, pick func(blobs []byte, place store.Place) []byte) (undo func()) {
	r.t.Helper()
	place := headerOf(r.t, r.store, id)
	was := map[string][]byte{}
	for _, path := range r.filesWith(id) {
		data, err := os.ReadFile(path)
		if err != nil {
			r.t.Fatal(err)
		}
		was[path] = data
		data = bytes.Clone(data)
		bad := pick(data[frameHeader:], place)
		for i := range bad {
			bad[i] ^= 0xff
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	return func() {
		for path, data := range was {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				r.t.Error(err)
			}
		}
	}
}

// filesWith are the packfile with the header of a snapshot and its local copy.
func (r *aheadRig) filesWith(id snapshotter.ID) (paths []string) {
	r.t.Helper()
	place := headerOf(r.t, r.store, id)
	name := hex.EncodeToString(place.Packfile[:])
	err := filepath.WalkDir(filepath.Dir(strings.TrimPrefix(r.store.Location(), "fs://")), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() == name {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) == 0 {
		r.t.Fatalf("the header is in %d files, %v", len(paths), err)
	}
	return paths
}

// damageHead leaves a share with two snapshots, an upload that waits, and a rename of a file that only the head has, whose header is
// damaged until undo is called.
func (r *aheadRig) damageHead() (head snapshotter.ID, undo func()) {
	r.t.Helper()
	r.close(r.upload("/f", randomData(1, 1<<20)))
	r.head()
	r.close(r.upload("/h", []byte("two")))
	head = r.head()
	r.close(r.upload("/g", []byte("three")))
	if err := r.sess.Rename(r.t.Context(), "/h", "/k", false); err != nil {
		r.t.Fatal(err)
	}
	return head, r.spoilHeader(head)
}

// waits checks that nothing is committed for a head that is damaged, which nobody calls removed.
func (r *aheadRig) waits() {
	r.t.Helper()
	for range 2 {
		if _, err := r.commit(); !errors.Is(err, snapshotter.ErrDamaged) || strings.Contains(err.Error(), "removed") {
			r.t.Fatalf("commit: %v, want %v and nothing that was removed", err, snapshotter.ErrDamaged)
		}
	}
}

// continues commits, which must be upon a snapshot.
func (r *aheadRig) continues(parent snapshotter.ID) {
	r.t.Helper()
	snap, err := r.snaps.Snapshot(r.t.Context(), r.head())
	if err != nil || snap.Parent != parent {
		r.t.Errorf("the next snapshot continues %s, %v; want %s", snap.Parent, err, parent)
	}
}

// giveUp gives a snapshot up.
func (r *aheadRig) giveUp(id snapshotter.ID) {
	r.t.Helper()
	cfg := snapshotter.ScrubConfig{Dir: r.t.TempDir(), Scope: snapshotter.ScrubAll, GiveUp: []string{id.String()}}
	if rep, err := r.snaps.Scrub(r.t.Context(), cfg); err != nil || !slices.Equal(rep.GivenUp, []snapshotter.ID{id}) {
		r.t.Fatalf("given up: %v, %v; want %s", rep.GivenUp, err, id)
	}
}

// TestHeadDamaged spoils the header of the head: nobody has removed it, so its share goes back to no older snapshot, but waits until the header is
// there again, or the head is given up.
func TestHeadDamaged(t *testing.T) {
	all := map[string][]byte{"/f": randomData(1, 1<<20), "/g": []byte("three"), "/k": []byte("two")}
	for _, restarts := range []bool{false, true} {
		between := func(*aheadRig) {}
		if restarts {
			between = (*aheadRig).restart
		}
		t.Run(fmt.Sprintf("at start, restarts %v", restarts), func(t *testing.T) {
			r := newAheadRig(t, storetest.Plaintext)
			head, undo := r.damageHead()
			r.restart()
			r.waits()
			undo()
			between(r)
			r.continues(head)
			r.expect(all)
		})
		t.Run(fmt.Sprintf("running, restarts %v", restarts), func(t *testing.T) {
			r := newAheadRig(t, storetest.Plaintext)
			head, undo := r.damageHead()
			r.losePackfile(1 << 20) // so that the headers are read again
			r.waits()
			undo()
			between(r)
			r.continues(head)
			r.expect(map[string][]byte{"/g": all["/g"], "/k": all["/k"]})
		})
	}
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprintf("given up, restarts %v", restarts), func(t *testing.T) {
			r := newAheadRig(t, storetest.Plaintext)
			head, _ := r.damageHead()
			before, err := r.snaps.Snapshot(t.Context(), head)
			if err != nil {
				t.Fatal(err)
			}
			r.restart()
			r.waits()
			r.giveUp(head)
			if restarts {
				r.restart()
			}
			r.continues(before.Parent)
			r.expect(map[string][]byte{"/f": all["/f"], "/g": all["/g"]})
		})
	}
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprintf("removed, and its root is damaged, restarts %v", restarts), func(t *testing.T) {
			r := newAheadRig(t, storetest.Plaintext)
			r.close(r.upload("/f", all["/f"]))
			before := r.head()
			r.close(r.upload("/h", []byte("two")))
			head := r.head()
			r.close(r.upload("/g", all["/g"]))
			r.plakarRemoves(head)
			r.spoilRest(head)
			if restarts {
				r.restart()
			}
			r.continues(before)
			r.expect(map[string][]byte{"/f": all["/f"], "/g": all["/g"]})
		})
	}
	t.Run("removed while its share waits for its root", func(t *testing.T) {
		r := newAheadRig(t, storetest.Plaintext)
		r.close(r.upload("/f", all["/f"]))
		before := r.head()
		r.close(r.upload("/h", []byte("two")))
		head := r.head()
		r.close(r.upload("/g", all["/g"]))
		r.spoilRest(head)
		r.restart()
		r.waits()
		r.plakarRemoves(head)
		if err := r.snaps.Refresh(t.Context()); err != nil { // as happens every few seconds
			t.Fatal(err)
		}
		r.continues(before)
		r.expect(map[string][]byte{"/f": all["/f"], "/g": all["/g"]})
	})
	t.Run("given up, nothing waits", func(t *testing.T) {
		r := newAheadRig(t, storetest.Plaintext)
		r.close(r.upload("/f", all["/f"]))
		before := r.head()
		r.close(r.upload("/h", []byte("two")))
		head := r.head()
		r.spoilHeader(head)
		r.restart()
		r.giveUp(head)
		if err := r.sys.Reopen(t.Context(), []snapshotter.ID{head}); err != nil {
			t.Fatal(err)
		}
		r.close(r.upload("/g", all["/g"]))
		r.continues(before)
		r.expect(map[string][]byte{"/f": all["/f"], "/g": all["/g"]})
	})
}

// spoilChunks makes chunks of the packfiles unreadable that are large, and so have little else.
func (r *aheadRig) spoilChunks() {
	r.t.Helper()
	list, err := filepath.Glob(filepath.Join(strings.TrimPrefix(r.store.Location(), "fs://"), "packfiles", "*", "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, path := range list {
		data, err := os.ReadFile(path)
		if err != nil {
			r.t.Fatal(err)
		}
		for at := 64 << 10; at < len(data)-(64<<10); at += 64 << 10 {
			data[at] ^= 0xff
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

// losePackfile removes the packfile of about a size from the store.
func (r *aheadRig) losePackfile(size int64) {
	r.t.Helper()
	list, err := filepath.Glob(filepath.Join(strings.TrimPrefix(r.store.Location(), "fs://"), "packfiles", "*", "*"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, path := range list {
		if fi, err := os.Stat(path); err != nil || fi.Size() > size && fi.Size() < size+size/4 {
			if err := errors.Join(err, os.Remove(path)); err != nil {
				r.t.Fatal(err)
			}
			return
		}
	}
	r.t.Fatalf("no packfile of about %d bytes", size)
}

// TestLostReply has a commit fail although its state was put, a moment after snapshots were listed: there is one snapshot
// of its changes when it was tried again.
func TestLostReply(t *testing.T) {
	disk := storetest.NewFaultFS()
	r := newAheadRig(t, storetest.Plaintext, func(cfg *store.Config) { cfg.Disk = disk })
	r.close(r.upload("/f", []byte("one")))
	r.head()
	r.close(r.upload("/f", []byte("two")))
	if _, err := r.snaps.Snapshots(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	r.loseReply(disk)
	r.expect(map[string][]byte{"/f": []byte("two")})
	list, err := r.snaps.Snapshots(t.Context(), "main")
	if err != nil || len(list) != 2 {
		t.Errorf("%d snapshots, %v; want 2", len(list), err)
	}
}

// loseReply has a commit fail after its state was put.
func (r *aheadRig) loseReply(disk *storetest.FaultFS) {
	r.t.Helper()
	lost := errors.New("the reply is lost")
	disk.Fail(func(op storetest.Op, path string) error {
		if strings.Contains(path, "/states/") && (op == storetest.OpSyncDir || op == storetest.OpRemove) {
			return lost
		}
		return nil
	})
	if _, err := r.commit(); !errors.Is(err, lost) {
		r.t.Fatalf("commit: %v, want %v", err, lost)
	}
	disk.Fail(nil)
}

// TestLostReplyBesideLostHeader has a commit that has failed made again while the store lacks the header of a snapshot which another gateway
// has made meanwhile: that is counted as lost, as by a commit that had not failed before.
func TestLostReplyBesideLostHeader(t *testing.T) {
	disk := storetest.NewFaultFS()
	r := newAheadRig(t, storetest.Plaintext, func(cfg *store.Config) { cfg.Disk = disk })
	r.close(r.upload("/f", []byte("one")))
	r.head()
	r.close(r.upload("/f", []byte("two")))
	r.loseReply(disk)

	st := r.otherStore()
	other, err := snapshotter.New(t.Context(), snapshotter.Config{Store: st})
	if err != nil {
		t.Fatal(err)
	}
	id, err := other.Commit(t.Context(), snapshotter.ID{}, func(func(snapshotter.Change, error) bool) {},
		snapshotter.Meta{Share: "other", ShareID: "share-2", GatewayID: "gateway-2", Sequence: 1, Time: time.Now(), Reason: "close"})
	if err != nil {
		t.Fatal(err)
	}
	header := headerOf(t, st, id).Packfile
	name := hex.EncodeToString(header[:])
	if err := errors.Join(other.Close(), os.Remove(filepath.Join(strings.TrimPrefix(r.store.Location(), "fs://"), "packfiles", name[:2], name))); err != nil {
		t.Fatal(err)
	}
	r.expect(map[string][]byte{"/f": []byte("two")})
	list, err := r.snaps.Snapshots(t.Context(), "")
	if err != nil || len(list) != 2 {
		t.Errorf("%d snapshots, %v; want 2", len(list), err)
	}
}
