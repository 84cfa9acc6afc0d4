package snapshotter_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

func (r *rig) checker() *snapshotter.Checker {
	r.t.Helper()
	c, err := r.NewChecker()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// contentsOf returns the packfiles that a sample of a snapshot reads from the store: those of the bytes of files, as there are
// local copies of metadata.
func contentsOf(t *testing.T, srv *storetest.SFTPServer, c *snapshotter.Checker, id snapshotter.ID) []string {
	t.Helper()
	names := srv.ReadBy(func() {
		if s, err := c.Sample(t.Context(), id, 1); err != nil || len(s.Damaged) > 0 {
			t.Errorf("%v, %v", s.Damaged, err)
		}
	})
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, "packfiles/") })
}

// packfilesOf is contentsOf, and wants one.
func packfilesOf(t *testing.T, srv *storetest.SFTPServer, c *snapshotter.Checker, id snapshotter.ID) []string {
	t.Helper()
	names := contentsOf(t, srv, c, id)
	if len(names) != 1 {
		t.Fatalf("a sample reads %q, want one packfile", names)
	}
	return names
}

// failing makes reading these files fail.
func failing(names []string) func(string) error {
	return func(name string) error {
		if slices.Contains(names, name) {
			return errors.New("the disk does not answer")
		}
		return nil
	}
}

// wantDamaged wants the paths that a sample has found damaged.
func wantDamaged(t *testing.T, what string, s snapshotter.Sampled, want ...string) {
	t.Helper()
	var got []string
	for _, d := range s.Damaged {
		got = append(got, d.Path)
		if !errors.Is(d.Err, store.ErrDamaged) || errors.Is(d.Err, snapshotter.ErrUnavailable) {
			t.Errorf("%s: %s: got %v, want %v", what, d.Path, d.Err, store.ErrDamaged)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q to be damaged, want %q", what, got, want)
	}
}

// TestSampleShared: what could not be read of one snapshot is not taken for good in another one that has it, too.
func TestSampleShared(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	f := file(1, string(randomBytes(t, 2<<20)))
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/d", dir(0)), put("/d/f", f), put("/d/z", file(1, "z")))
	two := r.commit(one, put("/e", dir(0)), put("/e/f", f), put("/e/g", file(2, "g")))
	three := r.commit(two, remove("/d"))
	ids := []snapshotter.ID{one, two, three}
	packfiles := packfilesOf(t, srv, r.checker(), one)

	srv.FailReads(failing(packfiles))
	c := r.checker()
	for i, id := range ids {
		_, err := c.Sample(t.Context(), id, 1)
		wantUnread(t, "snapshot "+string(rune('1'+i)), err)
	}
	srv.FailReads(nil)
	for _, id := range ids { // with the same Checker
		s, err := c.Sample(t.Context(), id, 1)
		if err != nil || len(s.Damaged) > 0 {
			t.Errorf("when it can be read again: %v, %v", s.Damaged, err)
		}
	}

	for _, name := range packfiles {
		srv.Remove(name)
	}
	c = r.checker()
	// The first of two that are the same in a snapshot; z is in the same packfile.
	for i, want := range [][]string{{"/d/f", "/d/z"}, {"/d/f", "/d/z"}, {"/e/f"}} {
		s, err := c.Sample(t.Context(), ids[i], 1)
		if err != nil {
			t.Error(err)
		}
		wantDamaged(t, "snapshot "+string(rune('1'+i)), s, want...)
	}
}

// TestSampleUnreadBesideDamage: what could not be read hides nothing that is damaged in the same snapshot.
func TestSampleUnreadBesideDamage(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/a", file(1, string(randomBytes(t, 2<<20)))))
	two := r.commit(one, put("/b", file(2, string(randomBytes(t, 2<<20)))))
	c := r.checker()
	a, b := packfilesOf(t, srv, c, one), packfilesOf(t, srv, c, two)
	srv.FailReads(failing(a))
	srv.Remove(b[0])
	s, err := r.checker().Sample(t.Context(), two, 1)
	wantUnread(t, "sample", err)
	if err == nil || !strings.Contains(err.Error(), "/a: ") {
		t.Errorf("got %v, want it to name /a", err)
	}
	wantDamaged(t, "sample", s, "/b")
}

// TestSampleUnreadIndex: a snapshot whose indexes a store that can be reached does not give is unread, and others are read.
func TestSampleUnreadIndex(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use, func(cfg *store.Config) { cfg.MirrorBytes = 1 }) // no local copies of metadata
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/a", file(1, "a")))
	before := srv.Files("packfiles")
	two := r.commit(one, put("/b", file(2, "b")))
	added := slices.DeleteFunc(srv.Files("packfiles"), func(name string) bool { return slices.Contains(before, name) })
	srv.FailReads(failing(added))
	c := newSnapshotter(t, r.store)
	checker, err := c.NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	defer checker.Close()
	_, err = checker.Sample(t.Context(), two, 1)
	wantUnread(t, "sample", err)
	if s, err := checker.Sample(t.Context(), one, 1); err != nil || len(s.Damaged) > 0 || s.Files != 1 {
		t.Errorf("the other one: got %+v, %v", s, err)
	}
}

// TestCheckerRemoved: that a snapshot was removed is proven by a state that says so, in the store; not by the index, nor while
// states cannot be read.
func TestCheckerRemoved(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	one := r.commit(snapshotter.ID{}, put("/", dir(0)))
	two := r.commit(one, put("/a", dir(1)))
	c := r.checker()
	want := func(what string, id snapshotter.ID, want bool, kind error) {
		t.Helper()
		if got, err := c.Removed(t.Context(), id); got != want || !errors.Is(err, kind) {
			t.Errorf("%s: got %v, %v, want %v, %v", what, got, err, want, kind)
		}
	}
	want("before", one, false, nil)
	before := srv.Files("states")
	if err := r.Remove(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	added := slices.DeleteFunc(srv.Files("states"), func(name string) bool { return slices.Contains(before, name) })
	if len(added) != 1 {
		t.Fatalf("a removal writes %q, want one state", added)
	}
	want("removed", one, true, nil)
	want("the other one", two, false, nil)
	srv.FailReads(failing(added))
	want("while its state cannot be read", one, false, snapshotter.ErrUnavailable)
	srv.FailReads(failing(before))
	want("while others cannot be read", one, true, nil)
	srv.FailReads(nil)
	srv.Remove(added[0])
	if told, err := r.store.RemovalTold(t.Context(), objects.MAC(one)); told || err != nil {
		t.Errorf("without its state: got %v, %v", told, err)
	}
}

// TestCheckReadsOnce: to name the files that are damaged, or unread, no file is read again that was found good.
func TestCheckReadsOnce(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/good", file(1, string(randomBytes(t, 4<<20)))))
	two := r.commit(one, put("/bad", file(2, string(randomBytes(t, 2<<20)))))
	good := packfilesOf(t, srv, r.checker(), one)
	all := srv.ReadBy(func() {
		if _, err := r.checker().Sample(t.Context(), two, 1); err != nil {
			t.Error(err)
		}
	})
	bad := slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, "packfiles/") || name == good[0] })
	readBy := func(check func() error) int64 {
		t.Helper()
		before := srv.BytesRead()
		if err := check(); err == nil {
			t.Error("it is good")
		}
		return srv.BytesRead() - before
	}
	compare := func(what string, want ...string) {
		t.Helper()
		var s snapshotter.Sampled
		once := readBy(func() error { return r.checker().Check(t.Context(), two) })
		named := readBy(func() (err error) {
			s, err = r.checker().CheckFiles(t.Context(), two)
			return err
		})
		wantDamaged(t, what, s, want...)
		if once < 4<<20 || named-once > 1<<20 {
			t.Errorf("%s: %d bytes are read to check, %d to name what is not good, too", what, once, named)
		}
	}
	srv.FailReads(failing(bad))
	compare("unread")
	srv.FailReads(nil)
	srv.Remove(bad[0])
	compare("damaged", "/bad")
}

// many makes a snapshot with files of its own packfile.
func (r *rig) many(t *testing.T, base snapshotter.ID, name string) snapshotter.ID {
	t.Helper()
	changes := []snapshotter.Change{put("/"+name, dir(0))}
	if base.IsZero() {
		changes = append([]snapshotter.Change{put("/", dir(0))}, changes...)
	}
	for i := range 32 {
		changes = append(changes, put(fmt.Sprintf("/%s/%02d", name, i), file(uint64(i+1), string(randomBytes(t, 40<<10)))))
	}
	return r.commit(base, changes...)
}

// added lists the packfiles of at least so many bytes that were not there before.
func added(srv elsewhere, before []string, least int64) []string {
	return slices.DeleteFunc(srv.Files("packfiles"), func(name string) bool { return slices.Contains(before, name) || srv.Size(name) < least })
}

// TestCheckGivesUp: a server that gives nothing of many packfiles is not asked for each file; what was not looked at is unread. As
// long as it gives others, what comes after those is read.
func TestCheckGivesUp(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use, storetest.Plaintext)
	var last snapshotter.ID
	var contents []string
	var gone []snapshotter.Change
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		before := srv.Files("packfiles")
		last = r.many(t, last, name)
		contents = append(contents, added(srv, before, 1<<20)...)
		gone = append(gone, remove("/"+name))
	}
	if len(contents) != 8 {
		t.Fatalf("%d packfiles of contents, want 8", len(contents))
	}
	const files = 8 * 32
	var asked atomic.Int64
	fail := func(names []string) {
		asked.Store(0)
		srv.FailReads(func(name string) error {
			err := failing(names)(name)
			if err != nil {
				asked.Add(1)
			}
			return err
		})
	}
	for way, check := range map[string]func(c *snapshotter.Checker) (snapshotter.Sampled, error){
		"check":  func(c *snapshotter.Checker) (snapshotter.Sampled, error) { return c.CheckFiles(t.Context(), last) },
		"sample": func(c *snapshotter.Checker) (snapshotter.Sampled, error) { return c.Sample(t.Context(), last, 1) },
	} {
		fail(srv.Files("packfiles"))
		c := r.checker()
		s, err := check(c)
		wantUnread(t, way, err)
		wantDamaged(t, way, s)
		wantUnread(t, way+": given up", c.GaveUp())
		if n := asked.Load(); n > files { // each file would be some
			t.Errorf("%s: %d tries for %d files", way, n, files)
		}

		// One that is bad does not keep the others from being read.
		fail(contents[3:4])
		c = r.checker()
		_, err = check(c)
		wantUnread(t, way, err)
		if n := asked.Load(); n > 100 || c.GaveUp() != nil {
			t.Errorf("%s: %d tries for one packfile, given up: %v", way, n, c.GaveUp())
		}
		if !strings.Contains(err.Error(), "/d/") || !strings.Contains(err.Error(), "and 31 more files") {
			t.Errorf("%s: got %v, want what is unread", way, err)
		}
		srv.FailReads(nil)
		if _, err := check(c); err != nil {
			t.Errorf("%s: when it can be read again: %v", way, err)
		}
	}

	last = r.many(t, last, "i")
	next := r.commit(last, gone...)
	srv.FailReads(failing(contents))
	c := r.checker()
	s, err := c.Sample(t.Context(), last, 1)
	wantUnread(t, "the first", err)
	wantDamaged(t, "the first", s)
	if err := c.GaveUp(); err != nil {
		t.Errorf("given up: %v", err)
	}
	if s, err := c.Sample(t.Context(), next, 1); err != nil || len(s.Damaged) > 0 {
		t.Errorf("the second: got %v, %v, want it to be good", s.Damaged, err)
	}
}

// TestCheckLongBadStretch: many packfiles side by side that are bad, all of one file, do not end a check, and what is damaged is named.
// When the whole server fails from there on, the check ends, and names the file.
func TestCheckLongBadStretch(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use, storetest.Plaintext)
	snapshotter.SetChunkSizes(r.Snapshotter, 32<<10, 64<<10, 128<<10)
	snapshotter.SetRotateBlobs(r.Snapshotter, 1<<20, 512<<10)
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/vm", file(1, string(randomBytes(t, 10<<20)))))
	reader := r.checker()
	bad := contentsOf(t, srv, reader, one)
	if len(bad) < 16 {
		t.Fatalf("%d packfiles of contents, want 16 or more", len(bad))
	}
	two := r.commit(one, put("/a", file(2, string(randomBytes(t, 1<<20)))))
	damaged := contentsOf(t, srv, reader, two) // of /a
	if len(damaged) == 0 {
		t.Fatal("no packfiles of /a")
	}

	var ended atomic.Bool
	srv.FailReads(func(name string) error {
		if err := failing(bad)(name); err != nil {
			ended.Store(true)
		}
		if ended.Load() && strings.HasPrefix(name, "packfiles/") {
			return errors.New("the disk does not answer")
		}
		return nil
	})
	c := r.checker()
	_, err := c.CheckFiles(t.Context(), one)
	wantUnread(t, "without an end", err)
	wantUnread(t, "without an end: given up", c.GaveUp())
	if err == nil || !strings.Contains(err.Error(), "/vm: ") {
		t.Errorf("without an end: got %v, want it to name /vm", err)
	}

	for _, name := range damaged {
		srv.Remove(name)
	}
	srv.FailReads(failing(bad))
	c = r.checker()
	s, err := c.CheckFiles(t.Context(), two)
	wantUnread(t, "bad stretch", err)
	wantDamaged(t, "bad stretch", s, "/a")
	if err := c.GaveUp(); err != nil {
		t.Errorf("bad stretch: given up: %v", err)
	}
}

// TestCheckFilesKeeps: after a directory that is damaged, what else a snapshot has is not read anew each time.
func TestCheckFilesKeeps(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use, func(cfg *store.Config) { cfg.MirrorBytes = 1 }) // no local copies of metadata
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/z", file(1, string(randomBytes(t, 4<<20)))))
	before := srv.Files("packfiles")
	two := r.commit(one, put("/d00", dir(1)), put("/d00/f", file(2, "f")))
	lost := added(srv, before, 0)
	three := r.commit(two, put("/e", dir(2)))
	for _, name := range lost {
		srv.Remove(name)
	}
	c, err := newSnapshotter(t, r.store).NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, atLeast := range []int64{4 << 20, 0, 0} {
		was := srv.BytesRead()
		s, err := c.CheckFiles(t.Context(), three)
		if err == nil || errors.Is(err, snapshotter.ErrUnavailable) {
			t.Errorf("got %v, want damage", err)
		}
		wantDamaged(t, "check", s, "/d00")
		if n := srv.BytesRead() - was; n < atLeast || n > atLeast+1<<20 {
			t.Errorf("check %d reads %d bytes, want %d and metadata", i+1, n, atLeast)
		}
	}
}

// TestCheckFilesUnreadThenDamaged: what was unread is not taken for good when it can be read, or is found damaged, later.
func TestCheckFilesUnreadThenDamaged(t *testing.T) {
	srv, r, id := newServed(t)
	c := r.checker()
	contents := packfilesOf(t, srv, r.checker(), id)
	srv.FailReads(failing(contents))
	s, err := c.CheckFiles(t.Context(), id)
	wantUnread(t, "unread", err)
	wantDamaged(t, "unread", s)
	srv.FailReads(nil)
	for _, name := range contents {
		srv.Remove(name)
	}
	s, err = c.CheckFiles(t.Context(), id)
	if err == nil || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("missing: got %v, want damage", err)
	}
	wantDamaged(t, "missing", s, "/f")
}

// TestCheckFilesWithoutDirs: that a snapshot has no index of directories makes nothing damaged.
func TestCheckFilesWithoutDirs(t *testing.T) {
	srv, r, id := newServed(t)
	contents := packfilesOf(t, srv, r.checker(), id)
	r.WithoutDirs(id)
	srv.FailReads(failing(contents))
	c := r.checker()
	s, err := c.CheckFiles(t.Context(), id)
	wantUnread(t, "unread", err)
	wantDamaged(t, "unread", s)
	srv.FailReads(nil)
	if _, err := c.CheckFiles(t.Context(), id); err != nil {
		t.Errorf("when it can be read: %v", err)
	}
	if _, err := r.checker().Sample(t.Context(), id, 0.01); err != nil {
		t.Errorf("a sample: %v", err)
	}
	srv.FailReads(failing(contents))
	s, err = r.checker().Sample(t.Context(), id, 0.01)
	wantUnread(t, "a sample that is unread", err)
	wantDamaged(t, "a sample that is unread", s)
}

// TestCheckFilesWrongWhole: a file whose chunks are what was written, and which is not as a whole, is damaged, also beside one that
// is unread, and after a part of it was.
func TestCheckFilesWrongWhole(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	data := randomBytes(t, 6<<20)
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/a", file(1, string(data))))
	r.SpoilSums()
	before := srv.Files("packfiles")
	c := r.patch(one, "/a", data)
	c.write(1<<20, randomBytes(t, 64<<10))
	change := put("/a", file(2, ""))
	change.Content = c
	two := r.commit(one, change)
	changed := added(srv, before, 64<<10)
	before = srv.Files("packfiles")
	three := r.commit(two, put("/b", file(3, string(randomBytes(t, 2<<20)))))
	other := added(srv, before, 1<<20)
	if len(changed) == 0 || len(other) != 1 {
		t.Fatalf("packfiles of a part of /a: %q, of /b: %q", changed, other)
	}

	srv.FailReads(failing(other))
	s, err := r.checker().CheckFiles(t.Context(), three)
	wantUnread(t, "beside what is unread", err)
	wantDamaged(t, "beside what is unread", s, "/a")

	var once atomic.Bool
	srv.FailReads(func(name string) error {
		if err := failing(changed)(name); err != nil && once.CompareAndSwap(false, true) {
			return err
		}
		return nil
	})
	checker := r.checker()
	s, err = checker.CheckFiles(t.Context(), two)
	wantUnread(t, "a part was unread", err)
	wantDamaged(t, "a part was unread", s)
	s, err = checker.CheckFiles(t.Context(), two)
	if err == nil || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("a part was unread before: got %v, want damage", err)
	}
	wantDamaged(t, "a part was unread before", s, "/a")
}

// TestSampleMissingDirectories: directories that are missing are damaged, however many there are, also beside a file that is unread.
func TestSampleMissingDirectories(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use, func(cfg *store.Config) { cfg.MirrorBytes = 1 }) // no local copies of metadata
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/a", file(1, string(randomBytes(t, 2<<20)))))
	contents := srv.Files("packfiles")
	contents = slices.DeleteFunc(contents, func(name string) bool { return srv.Size(name) < 1<<20 })
	before := srv.Files("packfiles")
	var changes []snapshotter.Change
	var want []string
	for i := range 12 {
		name := fmt.Sprintf("/d%02d", i)
		want = append(want, name)
		changes = append(changes, put(name, dir(1)), put(name+"/f", file(uint64(i+1), name)))
	}
	two := r.commit(one, changes...)
	added := slices.DeleteFunc(srv.Files("packfiles"), func(name string) bool { return slices.Contains(before, name) })
	three := r.commit(two, put("/z", dir(2)))
	srv.FailReads(failing(contents))
	for _, name := range added {
		srv.Remove(name)
	}
	c, err := newSnapshotter(t, r.store).NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Sample(t.Context(), three, 1)
	wantUnread(t, "sample", err)
	wantDamaged(t, "sample", s, want...)
	if err := c.GaveUp(); err != nil {
		t.Errorf("given up: %v", err)
	}
}
