package snapshotter_test

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// editsRig is a rig whose commits have few edits in memory, and its cache directory.
func editsRig(t *testing.T) (r *rig, cache string) {
	t.Helper()
	cfg := storetest.Config(t.TempDir())
	st := storetest.Open(t, cfg)
	r = &rig{Snapshotter: newSnapshotter(t, st), t: t, store: st}
	snapshotter.SetEdits(r.Snapshotter, 50, 64)
	snapshotter.SetLeafSize(r.Snapshotter, 16)
	return r, cfg.CacheDir
}

// filesIn40s is a tree of n files in directories of 40.
func filesIn40s(n int) tree {
	want := tree{"/": dir(0)}
	for i := range n {
		want[fmt.Sprintf("/d%02d", i/40)] = dir(i / 40)
		want[fmt.Sprintf("/d%02d/f%04d", i/40, i)] = file(uint64(1000+i), fmt.Sprint(i))
	}
	return want
}

// TestManyEditsMakeLeavesOfUsualSize: what comes into an index piece by piece is divided as what
// comes at once, and a pull keeps none of it in memory.
func TestManyEditsMakeLeavesOfUsualSize(t *testing.T) {
	r, _ := editsRig(t)
	const most = 16
	want := filesIn40s(600)
	m := meta(1)
	m.Source = snapshotter.Source{Type: "sftp", Origin: "host"}
	id, err := r.Commit(t.Context(), snapshotter.ID{}, seq(want.all()), m)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.KeptLeaves(id); n != 0 {
		t.Errorf("%d bytes of leaves of a pull are kept", n)
	}
	sizes, err := r.LeafSizes(id)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for i, n := range sizes {
		sum += n
		if n > most || i > 0 && n < most/4 {
			t.Errorf("leaf %d of %d has %d entries, want %d to %d", i, len(sizes), n, most/4, most)
		}
	}
	if sum != len(want) || len(sizes) > 4*len(want)/most {
		t.Errorf("%d entries in %d leaves, want %d", sum, len(sizes), len(want))
	}
	if d := cmp.Diff(want, r.read(id)); d != "" {
		t.Errorf("tree (-want +got):\n%s", d)
	}
	// And all of it goes again, but for one.
	id = r.commit(id, remove("/d00"), put("/d01", want["/d01"]), remove("/d03/f0120"))
	for name := range want {
		if name == "/d00" || filepath.Dir(name) == "/d00" || filepath.Dir(name) == "/d01" || name == "/d03/f0120" {
			delete(want, name)
		}
	}
	want["/d01"] = dir(1)
	if d := cmp.Diff(want, r.read(id)); d != "" {
		t.Errorf("tree after much was removed (-want +got):\n%s", d)
	}
	if err := r.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// TestEditsLeaveNoFiles: the files of edits have no names, whether the commit succeeds or not,
// and one that cannot be made is the error of the commit.
func TestEditsLeaveNoFiles(t *testing.T) {
	r, cache := editsRig(t)
	want := filesIn40s(200)
	var seen []string
	look := func() {
		err := filepath.WalkDir(cache, func(path string, e fs.DirEntry, err error) error {
			if ok, _ := filepath.Match("edits-*", filepath.Base(path)); ok {
				seen = append(seen, path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	changes := func(yield func(snapshotter.Change, error) bool) {
		for _, c := range want.all() {
			if !yield(c, nil) {
				return
			}
		}
		look()
	}
	id, err := r.Commit(t.Context(), snapshotter.ID{}, changes, meta(1))
	if err != nil {
		t.Fatal(err)
	}
	look()
	if len(seen) > 0 {
		t.Errorf("files %q", seen)
	}
	snapshotter.SetEditsDir(r.Snapshotter, filepath.Join(cache, "nowhere"))
	more := want.all()
	if _, err := r.Commit(t.Context(), id, seq(more), meta(2)); err == nil {
		t.Error("a commit succeeds without a place for its edits")
	}
	snapshotter.SetEditsDir(r.Snapshotter, cache)
	if d := cmp.Diff(want, r.read(r.commit(id, more...))); d != "" {
		t.Errorf("tree after a failure (-want +got):\n%s", d)
	}
}
