package snapshotter_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

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

// packfilesOf returns the packfiles that are read for a path: those of its bytes, as metadata has local copies.
func (r *rig) packfilesOf(srv *storetest.SFTPServer, id snapshotter.ID, path string) []string {
	r.t.Helper()
	var mu sync.Mutex
	names := make(map[string]bool)
	srv.FailReads(func(name string) error {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(name, "packfiles/") {
			names[name] = true
		}
		return nil
	})
	defer srv.FailReads(nil)
	v, err := r.View(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	defer v.Close()
	e, err := v.Lstat(r.t.Context(), path)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := readInto(r.t.Context(), v, path, e, tree{}); err != nil {
		r.t.Fatal(err)
	}
	if len(names) == 0 {
		r.t.Fatalf("%s is in no packfile", path)
	}
	return slices.Collect(maps.Keys(names))
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
	packfiles := r.packfilesOf(srv, one, "/d/f")

	srv.FailReads(func(name string) error {
		if slices.Contains(packfiles, name) {
			return errors.New("the disk does not answer")
		}
		return nil
	})
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
