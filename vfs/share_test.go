package vfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/journal"
)

// openTestSystem opens a System with one share, "s", that commits only when told to.
func openTestSystem(t *testing.T, dir string, repo Repository, change ...func(*Config)) *System {
	t.Helper()
	cfg := Config{
		DataDir: dir, Repository: repo, SpoolKey: bytes.Repeat([]byte{7}, 32),
		Shares: []ShareConfig{{Name: "s", When: WhenManual}},
	}
	for _, f := range change {
		f(&cfg)
	}
	sys, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sys
}

// crash ends a System as kill -9 would: nothing is committed or written any more.
func crash(t *testing.T, sys *System) {
	t.Helper()
	for _, s := range sys.allShares() {
		s.stopCommits()
		<-s.committer.ended
		s.chores.Wait()
		close(s.stop)
		<-s.ended
		if err := errors.Join(s.spool.Close(), s.journal.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := sys.lock.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func closeSystem(t *testing.T, sys *System) {
	t.Helper()
	if err := sys.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func testShare(t *testing.T, sys *System) *share {
	t.Helper()
	s, ok := sys.share("s")
	if !ok {
		t.Fatal("no share s")
	}
	return s
}

func mustDo(t *testing.T, s *share, o *op) {
	t.Helper()
	if err := s.do(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// put makes an upload's op, inline up to 100 bytes and through the spool beyond.
func put(t *testing.T, s *share, name, data string) *op {
	t.Helper()
	o := &op{kind: opPut, name: Name{name}, user: "u", protocol: "test", session: 1}
	o.attr = snapshotter.Attr{Mode: 0o644, ModTime: time.Unix(1e9, 0).UTC()}
	if len(data) <= 100 {
		o.content = &content{size: int64(len(data)), inRecord: true, inline: []byte(data)}
		return o
	}
	f := s.spool.Create()
	if _, err := f.WriteAt([]byte(data), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(true); err != nil {
		t.Fatal(err)
	}
	o.content = &content{size: int64(len(data)), spool: f.ID(), extents: f.Extents()}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return o
}

func commitShare(t *testing.T, s *share) snapshotter.ID {
	t.Helper()
	id, err := s.system.Commit(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// contents reads a whole tree: path to "dir", "-> target" or a file's bytes.
func contents(t *testing.T, s *share) map[string]string {
	t.Helper()
	out := withAttributes(t, s)
	maps.DeleteFunc(out, func(key, _ string) bool { return key[0] != '/' })
	return out
}

// withAttributes is contents with, for each path, what attrText says of it.
func withAttributes(t *testing.T, s *share) map[string]string {
	t.Helper()
	out := map[string]string{attrKey("/"): attrText(s.current().root.attr, true)}
	tr := s.current()
	var walk func(dir Name)
	walk = func(dir Name) {
		for after := ""; ; {
			page, err := tr.list(t.Context(), dir, after, 7)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page {
				name := dir.Join(e.name)
				after = e.name
				out[attrKey(name.String())] = attrText(e.node.attr, e.node.typ == TypeDir)
				switch e.node.typ {
				case TypeDir:
					out[name.String()] = "dir"
					walk(name)
				case TypeSymlink:
					out[name.String()] = "-> " + e.node.target
				default:
					out[name.String()] = readNode(t, s, tr, e.node)
				}
			}
			if len(page) < 7 {
				return
			}
		}
	}
	walk(Root())
	return out
}

func readNode(t *testing.T, s *share, tr *tree, n *node) string {
	t.Helper()
	r, err := s.open(t.Context(), tr, n)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(io.NewSectionReader(r, 0, n.size))
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// attrKey is what a path's attributes stand under.
func attrKey(p string) string { return "attr " + p }

// attrText describes attributes, without the time of directories, which moves by itself.
func attrText(a snapshotter.Attr, dir bool) string {
	if dir {
		return fmt.Sprintf("%v %d:%d", a.Mode, a.UID, a.GID)
	}
	return fmt.Sprintf("%v %d:%d %v", a.Mode, a.UID, a.GID, a.ModTime.UTC().Format(time.RFC3339))
}

// viewContents reads a snapshot as contents reads a tree.
func viewContents(t *testing.T, repo Repository, id snapshotter.ID) map[string]string {
	t.Helper()
	out := viewWithAttributes(t, repo, id)
	maps.DeleteFunc(out, func(key, _ string) bool { return key[0] != '/' })
	return out
}

func viewWithAttributes(t *testing.T, repo Repository, id snapshotter.ID) map[string]string {
	t.Helper()
	v, err := repo.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	root, err := v.Lstat(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{attrKey("/"): attrText(root.Attr, true)}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := v.ReadDir(t.Context(), dir, "", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			p := path.Join(dir, e.Name)
			out[attrKey(p)] = attrText(e.Attr, e.Kind == snapshotter.Dir)
			switch e.Kind {
			case snapshotter.Dir:
				out[p] = "dir"
				walk(p)
			case snapshotter.Symlink:
				out[p] = "-> " + e.Target
			default:
				r, err := v.Open(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				data, err := io.ReadAll(io.NewSectionReader(r, 0, e.Size))
				if err = errors.Join(err, r.Close()); err != nil {
					t.Fatal(err)
				}
				out[p] = string(data)
			}
		}
	}
	walk("/")
	return out
}

// With versions: all, each completed version that is overwritten or removed is in a
// snapshot of its own; the exempt ones are not.
func TestVersionsGetSnapshots(t *testing.T) {
	tests := []struct {
		name string
		do   func(t *testing.T, s *share)
		want []string // what the snapshots, oldest first, have at /f ("-" nothing)
	}{
		{"overwrite", func(t *testing.T, s *share) {
			mustDo(t, s, put(t, s, "/f", "one"))
			mustDo(t, s, put(t, s, "/f", "two"))
		}, []string{"one", "two"}},
		{"remove", func(t *testing.T, s *share) {
			mustDo(t, s, put(t, s, "/f", "one"))
			mustDo(t, s, &op{kind: opRemove, name: Name{"/f"}})
		}, []string{"one", "-"}},
		{"rename over", func(t *testing.T, s *share) {
			mustDo(t, s, put(t, s, "/f", "one"))
			mustDo(t, s, put(t, s, "/f.tmp", "two"))
			mustDo(t, s, &op{kind: opRename, name: Name{"/f.tmp"}, to: Name{"/f"}})
		}, []string{"one", "two"}},
		{"own probe", func(t *testing.T, s *share) {
			mustDo(t, s, put(t, s, "/f", "probe"))
			mustDo(t, s, &op{kind: opRemove, name: Name{"/f"}, session: 1})
		}, nil},
		{"zero bytes", func(t *testing.T, s *share) {
			mustDo(t, s, put(t, s, "/f", ""))
			mustDo(t, s, put(t, s, "/f", "full"))
		}, []string{"full"}},
		{"refused", func(t *testing.T, s *share) {
			mustDo(t, s, put(t, s, "/f", "one"))
			if err := s.do(t.Context(), &op{kind: opRename, name: Name{"/gone"}, to: Name{"/f"}}); KindOf(err) != KindNotExist {
				t.Fatalf("rename of a missing file: %v", err)
			}
		}, []string{"one"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				repo := newMemRepository()
				sys := openTestSystem(t, t.TempDir(), repo)
				defer closeSystem(t, sys)
				s := testShare(t, sys)
				tt.do(t, s)
				commitShare(t, s)
				list, err := repo.Snapshots(t.Context(), "s")
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, snap := range slices.Backward(list) {
					c, ok := viewContents(t, repo, snap.ID)["/f"]
					if !ok {
						c = "-"
					}
					got = append(got, c)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("snapshots of /f (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The age of what its creator deletes again is that at the client, however slow the disk is.
func TestOwnDeleteOnSlowDisk(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(v, other visitor, armed chan<- func())
		want int
	}{
		{"its upload takes long", func(v, _ visitor, armed chan<- func()) {
			f := v.open("/f", OpenCreate)
			v.write(f, 0, "probe")
			armed <- func() {
				f.up.late.Stop() // it would wait for the close, and the bubble's clock for it
				<-time.After(2 * ownDelete)
			}
			v.close(f)
		}, 0},
		{"its deletion waits for another's change", func(v, other visitor, armed chan<- func()) {
			v.put("/f", "probe")
			armed <- func() { <-time.After(2 * ownDelete) }
			go func() { wantNil(other.t, "mkdir", other.Mkdir(other.t.Context(), "/d", AttrSet{})) }()
			synctest.Wait()
		}, 0},
		{"the client is slow", func(v, _ visitor, _ chan<- func()) {
			v.put("/f", "probe")
			<-time.After(ownDelete)
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				armed, change := failpoint(journal.FailBeforeSync)
				sys, _ := fullTestSystem(t, change)
				v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "w", PermFull, "/")
				tt.do(v, other, armed)
				wantNil(t, "remove", v.Remove(t.Context(), "/f"))
				want(t, "sealed sets", testShare(t, sys).pendingSets(), tt.want)
			})
		})
	}
}

// A process that dies between the store's commit and the journal's note of it neither
// loses nor repeats a change.
func TestCrashAfterCommit(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	s := testShare(t, sys)
	mustDo(t, s, put(t, s, "/a", "one"))
	lost := errors.New("the process died here")
	repo.FailAfterCommit(lost)
	if _, err := sys.Commit(t.Context(), "s"); !errors.Is(err, lost) {
		t.Fatalf("commit: %v", err)
	}
	crash(t, sys)
	repo.FailAfterCommit(nil)
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	s = testShare(t, sys)
	if got := contents(t, s)["/a"]; got != "one" {
		t.Errorf("live /a = %q, want %q", got, "one")
	}
	commitShare(t, s)
	if list, err := repo.Snapshots(t.Context(), "s"); err != nil || len(list) != 1 {
		t.Errorf("%d snapshots, %v, want 1", len(list), err)
	}
}

// What is refused by a full disk is not visible, and the share goes on when there is room.
func TestJournalFull(t *testing.T) {
	repo := newMemRepository()
	faulty := newFaultyDisk()
	sys := openTestSystem(t, t.TempDir(), repo, func(c *Config) { c.Disk = faulty })
	defer closeSystem(t, sys)
	s := testShare(t, sys)
	mustDo(t, s, put(t, s, "/a", "one"))
	faulty.fail(fs.ErrPermission)
	if err := s.do(t.Context(), put(t, s, "/a", "two")); err == nil {
		t.Fatal("a put that cannot be journalled succeeded")
	}
	if err := s.do(t.Context(), &op{kind: opMkdir, name: Name{"/d"}}); err == nil {
		t.Fatal("a mkdir that cannot be journalled succeeded")
	}
	want := map[string]string{"/a": "one"}
	if diff := cmp.Diff(want, contents(t, s)); diff != "" {
		t.Errorf("live tree after failures (-want +got):\n%s", diff)
	}
	faulty.fail(nil)
	mustDo(t, s, put(t, s, "/b", "three"))
	want["/b"] = "three"
	if diff := cmp.Diff(want, contents(t, s)); diff != "" {
		t.Errorf("live tree when the disk is back (-want +got):\n%s", diff)
	}
}

// faultyDisk is the real disk whose writes can be made to fail.
type faultyDisk struct {
	disk.OS
	err atomic.Pointer[error]
}

func newFaultyDisk() *faultyDisk { return &faultyDisk{} }

func (d *faultyDisk) fail(err error) {
	if err == nil {
		d.err.Store(nil)
		return
	}
	d.err.Store(&err)
}

func (d *faultyDisk) OpenFile(path string, flag int, perm fs.FileMode) (disk.File, error) {
	f, err := d.OS.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{f, d}, nil
}

type faultyFile struct {
	disk.File
	disk *faultyDisk
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.err.Load(); err != nil {
		return 0, *err
	}
	return f.File.WriteAt(p, off)
}
