package snapshotter_test

import (
	"errors"
	"slices"
	"strings"
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

// packfilesOf returns the packfiles that a sample of a snapshot reads from the store: those of the bytes of files, as there are
// local copies of metadata.
func packfilesOf(t *testing.T, srv *storetest.SFTPServer, c *snapshotter.Checker, id snapshotter.ID) []string {
	t.Helper()
	names := srv.ReadBy(func() {
		if s, err := c.Sample(t.Context(), id, 1); err != nil || len(s.Damaged) > 0 {
			t.Errorf("%v, %v", s.Damaged, err)
		}
	})
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, "packfiles/") })
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
