package snapshotter_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// unopened returns the paths of a snapshot that cannot be looked up, as whoever has nothing of it in memory finds.
func (r *rig) unopened(id snapshotter.ID, paths []string) (bad []string) {
	r.t.Helper()
	v, err := newSnapshotter(r.t, r.store).View(r.t.Context(), id)
	if err != nil {
		return paths
	}
	defer v.Close()
	for _, p := range paths {
		if _, err := v.Lstat(r.t.Context(), p); err != nil {
			bad = append(bad, p)
		}
	}
	return bad
}

// TestCheckReadsIndexes flips a bit of blobs of each type: a check finds what kloset's leaves out, and so does a sample where it keeps files
// from being opened, whose entries are named.
func TestCheckReadsIndexes(t *testing.T) {
	k := newScrubRig(t, storetest.Plaintext)
	want := baseTree()
	want["/large"] = file(20, "large")
	var changes []snapshotter.Change
	for i := range 150 { // so that the index of paths has several leaves
		p := fmt.Sprintf("/b/%03d", i)
		want[p] = file(uint64(100+i), p)
		changes = append(changes, put(p, want[p]))
	}
	id := k.commit(k.last, changes...)
	paths := want.paths()
	if err := k.Check(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	tried, shut := make(map[string]int), make(map[string]int)
	for _, x := range k.regions() {
		if x.part || x.padding || x.what == "chunk" || x.what == "object" {
			continue
		}
		tried[x.what]++
		if n := tried[x.what]; x.what == "vfs-entry" && n%40 != 1 || !strings.HasPrefix(x.what, "vfs-") && n > 2 {
			continue
		}
		bit := 4 * (x.from + x.to)
		for !k.matters(x, bit) {
			bit++
		}
		undo := change(t, x.path, flip(bit))
		name := fmt.Sprintf("%s at %d of %s", x.what, x.from, filepath.Base(x.path)[:8])
		var found []error
		for _, of := range []snapshotter.ID{id, k.last, k.first} {
			if err := k.Check(t.Context(), of); err != nil {
				found = append(found, err)
				break
			}
		}
		if len(found) == 0 {
			t.Errorf("%s: all snapshots are good", name)
		}
		for _, err := range found {
			if errors.Is(err, snapshotter.ErrUnavailable) {
				t.Errorf("%s: got %v, want damage", name, err)
			}
		}
		if bad := k.unopened(id, paths); len(bad) > 0 {
			shut[x.what]++
			s, err := k.checker().CheckFiles(t.Context(), id)
			if err == nil {
				t.Errorf("%s: the snapshot is good, and %q cannot be opened", name, bad)
			}
			if x.what == "vfs-entry" && bad[0] != "/" {
				wantDamaged(t, name, s, bad...)
			}
			s, err = snapshotterChecker(t, k.rig).Sample(t.Context(), id, 1)
			file := slices.ContainsFunc(bad, func(p string) bool { return want[p].Data != "" })
			if file && err == nil && len(s.Damaged) == 0 {
				t.Errorf("%s: the sample is good, and %q cannot be opened", name, bad)
			}
		}
		undo()
	}
	for _, what := range []string{"vfs-entry", "vfs-node", "vfs-btree", "vfs-summary", "btree-node", "btree-root", "error-entry", "error-node", "error-btree", "xattr-node", "xattr-btree", "snapshot"} {
		if tried[what] == 0 {
			t.Errorf("no blob of type %s", what)
		}
	}
	if shut["vfs-entry"] == 0 || shut["vfs-node"] < 3 || shut["vfs-btree"] == 0 {
		t.Errorf("what keeps files from being opened: %v", shut)
	}
}

// TestSampleReadsLaterIndexes: files of a snapshot that a sample has found good in one before cannot be opened, as a node of its own index of
// paths is damaged: the sample names them, those of a directory that is as it was, too.
func TestSampleReadsLaterIndexes(t *testing.T) {
	k := newScrubRig(t, storetest.Plaintext)
	want := baseTree()
	for _, d := range []string{"/y", "/z"} {
		want[d] = dir(0)
		for i := range 150 {
			p := fmt.Sprintf("%s/%03d", d, i)
			want[p] = file(uint64(1000+len(want)), p)
		}
	}
	one := k.commit(snapshotter.ID{}, want.all()...)
	before := k.files("packfiles")
	want["/z/149"] = file(5000, "another") // the last one, so that all leaves are written again
	two := k.commit(one, put("/z/149", want["/z/149"]))
	sample := func(name string) (second snapshotter.Sampled, err error) {
		t.Helper()
		c := snapshotterChecker(t, k.rig)
		if s, err := c.Sample(t.Context(), one, 1); err != nil || len(s.Damaged) > 0 {
			t.Errorf("%s: the first: %v, %v", name, s.Damaged, err)
		}
		return c.Sample(t.Context(), two, 1)
	}
	if s, err := sample("sound"); err != nil || len(s.Damaged) > 0 || s.Files != 1 {
		t.Errorf("sound: %+v, %v, want one file read", s, err)
	}
	paths := want.paths()
	untouched := 0 // nodes that have files of /y
	for _, x := range k.regions() {
		if x.what != "vfs-node" || slices.Contains(before, x.path) {
			continue
		}
		bit := 4 * (x.from + x.to)
		for !k.matters(x, bit) {
			bit++
		}
		undo := change(t, x.path, flip(bit))
		files := slices.DeleteFunc(k.unopened(two, paths), func(p string) bool { return want[p].Kind != snapshotter.File })
		s, err := sample(x.what)
		undo()
		if err != nil {
			t.Error(err)
		}
		var named []string
		for _, d := range s.Damaged {
			named = append(named, d.Path)
		}
		slices.Sort(files)
		slices.Sort(named)
		if !slices.Equal(files, named) {
			t.Errorf("node at %d: %q cannot be opened, and the sample has named %q", x.from, files, named)
		}
		if slices.ContainsFunc(files, func(p string) bool { return strings.HasPrefix(p, "/y/") }) {
			untouched++
		}
	}
	if untouched < 2 {
		t.Errorf("%d nodes with files of /y", untouched)
	}
}

// snapshotterChecker is a Checker that has nothing in memory.
func snapshotterChecker(t *testing.T, r *rig) *snapshotter.Checker {
	t.Helper()
	c, err := newSnapshotter(t, r.store).NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestCheckIndexOnce: entries are read many at a time, once for all snapshots that have them.
func TestCheckIndexOnce(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	const links = 1000
	changes := []snapshotter.Change{put("/", dir(0))}
	for i := range links {
		changes = append(changes, put(fmt.Sprintf("/%04d", i), link(uint64(i+1), strings.Repeat("target", 20)+fmt.Sprint(i))))
	}
	one := r.commit(snapshotter.ID{}, changes...)
	two := r.commit(one, put("/more", link(links+1, "target")))
	var asked atomic.Int64
	srv.FailReads(func(string) error {
		asked.Add(1)
		return nil
	})
	c := r.checker()
	var first int64
	for i, id := range []snapshotter.ID{one, two} {
		was := srv.BytesRead()
		asked.Store(0)
		if err := c.Check(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		read := srv.BytesRead() - was
		if i == 0 {
			first = read
		} else if read > first*2/3 { // the directory and its index are others
			t.Errorf("the second check reads %d bytes, the first %d", read, first)
		}
		if n := asked.Load(); n > links/5 {
			t.Errorf("check %d asks %d times, for %d entries", i+1, n, links)
		}
	}
}

// TestCheckEntriesUnread: entries that the server of a store does not give are unread, and not damaged; a local copy of them proves
// nothing. When they are missing, they are damaged, in each snapshot that has them, and the files that they are of are named.
func TestCheckEntriesUnread(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	one := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/d", dir(0)), put("/d/one", link(1, "target")))
	before := srv.Files("packfiles")
	two := r.commit(one, put("/d/two", link(2, "target")))
	entries := added(srv, before, 0)
	three := r.commit(two, put("/d/three", link(3, "target")))
	four := r.commit(three, put("/d/four", link(4, "target")))
	srv.FailReads(failing(entries))
	c := r.checker()
	for range 2 {
		s, err := c.CheckFiles(t.Context(), three)
		wantUnread(t, "not given", err)
		wantDamaged(t, "not given", s)
	}
	srv.FailReads(nil)
	if _, err := c.CheckFiles(t.Context(), three); err != nil {
		t.Errorf("given again: %v", err)
	}
	for _, name := range entries {
		srv.Remove(name)
	}
	c = r.checker()
	for _, id := range []snapshotter.ID{three, four} {
		s, err := c.CheckFiles(t.Context(), id)
		if !errors.Is(err, store.ErrDamaged) || errors.Is(err, snapshotter.ErrUnavailable) {
			t.Errorf("missing: got %v, want %v", err, store.ErrDamaged)
		}
		wantDamaged(t, "missing", s, "/d/two")
	}
	if _, err := c.CheckFiles(t.Context(), one); err != nil {
		t.Errorf("a snapshot without them: %v", err)
	}
	srv.FailReads(failing(before))
	s, err := r.checker().CheckFiles(t.Context(), three)
	if !errors.Is(err, store.ErrDamaged) || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("missing beside others that are not given: got %v, want %v", err, store.ErrDamaged)
	}
	wantDamaged(t, "missing beside others that are not given", s, "/d/two")
}

// TestCheckIndexDamagedBesideUnread: contents that are not given do not hide that leaves of the index of paths are missing, by which files
// are opened; no file can be named as damaged then.
func TestCheckIndexDamagedBesideUnread(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	r := newRig(t, srv.Use)
	changes := []snapshotter.Change{put("/", dir(0)), put("/a", file(1, string(randomBytes(t, 2<<20)))), put("/b", dir(0))}
	for i := range 200 {
		changes = append(changes, put(fmt.Sprintf("/b/%03d", i), link(uint64(i+100), "target")))
	}
	one := r.commit(snapshotter.ID{}, changes...)
	contents := packfilesOf(t, srv, r.checker(), one)
	before := srv.Files("packfiles")
	two := r.commit(one, remove("/b/199")) // writes all leaves again, and no entry
	leaves := added(srv, before, 0)
	three := r.commit(two, put("/b/000", link(900, "another"))) // writes the first leaf again
	if s, err := r.checker().CheckFiles(t.Context(), three); err != nil || len(s.Damaged) > 0 {
		t.Fatalf("before: %v, %v", s.Damaged, err)
	}
	srv.FailReads(failing(contents))
	c := r.checker()
	_, err := c.CheckFiles(t.Context(), three)
	wantUnread(t, "contents alone", err)
	for _, name := range leaves {
		srv.Remove(name)
	}
	s, err := r.checker().CheckFiles(t.Context(), three)
	if !errors.Is(err, store.ErrDamaged) || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("with leaves missing: got %v, want %v", err, store.ErrDamaged)
	}
	wantDamaged(t, "with leaves missing", s)
	srv.FailReads(nil)
	if _, err := c.CheckFiles(t.Context(), one); err != nil {
		t.Errorf("when it can be read again, without them: %v", err)
	}
}
