package snapshotter_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// states is how many states a store has.
func states(t *testing.T, s *store.Store) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(strings.TrimPrefix(s.Location(), "fs://"), "states"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// manyFiles is a tree of small files.
func manyFiles(n int) tree {
	tr := tree{"/": dir(0)}
	for i := range n {
		d := fmt.Sprintf("/d%02d", i/20)
		tr[d] = dir(1)
		tr[fmt.Sprintf("%s/f%04d", d, i)] = file(uint64(i+100), fmt.Sprint("content ", i))
	}
	return tr
}

// TestCommitOfMany: a commit that writes much tells of it in several states, whether it reads
// the contents or they were stored before; the snapshot is the same, here and elsewhere.
func TestCommitOfMany(t *testing.T) {
	want := manyFiles(300)
	for name, stored := range map[string]bool{"read": false, "stored": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			snapshotter.SetRotateBlobs(r.Snapshotter, 100, 8<<10)
			changes := want.all()
			for i, c := range changes {
				if stored && c.Content != nil {
					changes[i] = r.store1(c)
				}
			}
			id := r.commit(snapshotter.ID{}, changes...)
			if n := states(t, r.store); n < 5 {
				t.Errorf("%d states", n)
			}
			r.expect(id, want)
			got, err := r.Contents(id)
			if err != nil {
				t.Fatal(err)
			}
			snapshotter.SetRotateBlobs(r.Snapshotter, 1<<20, 1<<20)
			plain, err := r.Contents(r.commit(snapshotter.ID{}, want.all()...))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(plain, got); d != "" {
				t.Errorf("with one state (-), with many (+):\n%s", d)
			}
			list, err := r.Snapshots(t.Context(), "")
			if err != nil || len(list) != 2 {
				t.Errorf("%d snapshots, %v", len(list), err)
			}
			other := &rig{t: t, store: storetest.Open(t, otherConfig(r.store))}
			other.Snapshotter = newSnapshotter(t, other.store)
			other.expect(id, want)
			again := put("/d00/new", file(5, "new"))
			want := manyFiles(300)
			want["/d00/new"] = file(5, "new")
			r.expect(r.commit(id, again), want)
		})
	}
}

// TestCommitOfManyFails: a commit that fails after some of its states leaves no snapshot, and
// the next one succeeds, with what was written.
func TestCommitOfManyFails(t *testing.T) {
	fsys := storetest.NewFaultFS()
	r := newRig(t, func(cfg *store.Config) { cfg.Disk = fsys })
	snapshotter.SetRotateBlobs(r.Snapshotter, 100, 8<<10)
	want := manyFiles(300)
	for fail := 1; fail < 4; fail++ {
		changes := want.all()
		for i, c := range changes {
			if c.Content != nil && i%2 == 0 {
				changes[i] = r.store1(c)
			}
		}
		n := 0
		fsys.Fail(func(op storetest.Op, path string) error {
			if op == storetest.OpSync && strings.Contains(path, "/states/") {
				if n++; n == fail {
					return syscall.ENOSPC
				}
			}
			return nil
		})
		_, err := r.Commit(t.Context(), snapshotter.ID{}, seq(changes), meta(1))
		fsys.Fail(nil)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%d: got %v, want ENOSPC", fail, err)
		}
		if list, err := r.Snapshots(t.Context(), ""); err != nil || len(list) != 0 {
			t.Errorf("%d: %d snapshots, %v", fail, len(list), err)
		}
	}
	r.expect(r.commit(snapshotter.ID{}, want.all()...), want)
}

// TestPowerLossInCommitOfMany fails the power at some of the syncs of commits with several
// states.
func TestPowerLossInCommitOfMany(t *testing.T) {
	log := recordCommits(t, nil, func(s *snapshotter.Snapshotter) { snapshotter.SetRotateBlobs(s, 5, 2<<10) })
	points := log.rec.SyncPoints()
	for i, point := range points {
		if point < log.created || i%3 > 0 {
			continue
		}
		v := disktest.Variant{Data: disktest.DataTorn, Names: disktest.NamesMixed, Seed: uint64(point)}
		if err := log.check(t, point, v); err != nil {
			t.Errorf("power loss at %d, %v: %v\n%s", point, v, err, log.rec.Log(point))
			return
		}
	}
}
