package snapshotter_test

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// line makes a share with n snapshots, the oldest first, each with a file more.
func (r *rig) line(n int) []snapshotter.ID {
	r.t.Helper()
	ids := []snapshotter.ID{r.commit(snapshotter.ID{}, baseTree().all()...)}
	for i := 1; i < n; i++ {
		ids = append(ids, r.commit(ids[i-1], put("/line"+string(rune('0'+i)), file(uint64(500+i), "version"))))
	}
	return ids
}

// listed are the snapshots that a snapshotter lists, the oldest first.
func listed(tb testing.TB, s *snapshotter.Snapshotter) []snapshotter.ID {
	tb.Helper()
	if err := s.Refresh(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	list, err := s.Snapshots(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	var ids []snapshotter.ID
	for _, snap := range slices.Backward(list) {
		ids = append(ids, snap.ID)
	}
	return ids
}

// klosetLists are the snapshots that kloset itself lists after a cold start.
func klosetLists(t *testing.T, r *rig) map[snapshotter.ID]bool {
	t.Helper()
	found := map[snapshotter.ID]bool{}
	for id, err := range storetest.Open(t, otherConfig(r.store)).Repository().ListSnapshots() {
		if err != nil {
			t.Fatal(err)
		}
		found[snapshotter.ID(id)] = true
	}
	return found
}

// TestRemove: what was removed is listed by nobody any more; what is left is whole, and can be
// built upon.
func TestRemove(t *testing.T) {
	r := newRig(t)
	ids := r.line(5)
	other := newSnapshotter(t, storetest.Open(t, otherConfig(r.store)))
	open, err := r.View(t.Context(), ids[1])
	if err != nil {
		t.Fatal(err)
	}
	gone := []snapshotter.ID{ids[1], ids[3], ids[1], {9}} // one twice, one that never was
	if err := r.Remove(t.Context(), gone...); err != nil {
		t.Fatal(err)
	}
	want := []snapshotter.ID{ids[0], ids[2], ids[4]}
	if got := listed(t, r.Snapshotter); !slices.Equal(got, want) {
		t.Errorf("listed here: %v, want %v", got, want)
	}
	if got := listed(t, other); !slices.Equal(got, want) {
		t.Errorf("listed by another process: %v, want %v", got, want)
	}
	if got := klosetLists(t, r); len(got) != 3 || !got[ids[0]] || !got[ids[2]] || !got[ids[4]] {
		t.Errorf("listed by kloset: %v", got)
	}
	if _, err := other.Snapshot(t.Context(), ids[1]); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("a removed snapshot elsewhere: %v, want %v", err, snapshotter.ErrNoSnapshot)
	}
	if _, err := other.View(t.Context(), snapshotter.ID{9}); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("one that never was: %v, want %v", err, snapshotter.ErrNoSnapshot)
	}

	// Who has it open reads on, and who has yet to open it can; nothing is gone before maintenance.
	elsewhere, err := other.View(t.Context(), ids[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*snapshotter.View{open, elsewhere} {
		f, err := v.Open(t.Context(), "/line1")
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size())); err != nil || string(data) != "version" {
			t.Errorf("read from a removed snapshot: %q, %v", data, err)
		}
		if err := errors.Join(f.Close(), v.Close()); err != nil {
			t.Error(err)
		}
	}

	// Again, and with nothing left to do.
	if err := r.Remove(t.Context(), gone...); err != nil {
		t.Errorf("once more: %v", err)
	}
	next := r.commit(ids[4], put("/next", file(900, "next")))
	for _, id := range append(want, next) {
		if err := r.Check(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}

// TestRemoveRefuses: the newest of a line and pinned snapshots stay, whoever asks, and nothing of a
// request that names one is done.
func TestRemoveRefuses(t *testing.T) {
	r := newRig(t)
	ids := r.line(4)
	if err := r.Remove(t.Context(), ids[0], ids[3]); !errors.Is(err, snapshotter.ErrNewest) {
		t.Errorf("the head: %v, want %v", err, snapshotter.ErrNewest)
	}
	other := newSnapshotter(t, storetest.Open(t, otherConfig(r.store)))
	if err := other.Pin(t.Context(), ids[1]); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(t.Context(), ids[0], ids[1]); !errors.Is(err, snapshotter.ErrPinned) {
		t.Errorf("pinned by another process: %v, want %v", err, snapshotter.ErrPinned)
	}
	needed := func() map[snapshotter.ID]struct{} { return map[snapshotter.ID]struct{}{ids[2]: {}} }
	if err := r.RemoveUnneeded(t.Context(), needed, ids[0], ids[2]); !errors.Is(err, snapshotter.ErrNeeded) {
		t.Errorf("needed: %v, want %v", err, snapshotter.ErrNeeded)
	}
	release := storetest.LockExclusively(t, r.store, "elsewhere")
	if err := r.Remove(t.Context(), ids[0]); !errors.Is(err, snapshotter.ErrBusy) {
		t.Errorf("under maintenance: %v, want %v", err, snapshotter.ErrBusy)
	}
	release()
	if got := listed(t, r.Snapshotter); !slices.Equal(got, ids) {
		t.Errorf("listed: %v, want %v", got, ids)
	}
}

// TestPins: pins are in the store, so that all who open it see them, also with a cold cache, and
// kloset opens it as before.
func TestPins(t *testing.T) {
	r := newRig(t)
	ids := r.line(3)
	pins := func(s *snapshotter.Snapshotter) []snapshotter.ID {
		t.Helper()
		got, err := s.Pins(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var sorted []snapshotter.ID
		for _, id := range ids {
			if when, ok := got[id]; ok && !when.IsZero() {
				sorted = append(sorted, id)
			}
		}
		if len(sorted) != len(got) {
			t.Errorf("pins of unknown snapshots: %v", got)
		}
		return sorted
	}
	for range 2 { // the second does nothing
		if err := r.Pin(t.Context(), ids[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Pin(t.Context(), ids[1]); err != nil {
		t.Fatal(err)
	}
	if err := r.Pin(t.Context(), snapshotter.ID{9}); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("pin nothing: %v, want %v", err, snapshotter.ErrNoSnapshot)
	}
	if err := r.Unpin(t.Context(), ids[2]); !errors.Is(err, snapshotter.ErrNotPinned) {
		t.Errorf("unpin what is not pinned: %v, want %v", err, snapshotter.ErrNotPinned)
	}
	cold := func() *snapshotter.Snapshotter {
		return newSnapshotter(t, storetest.Open(t, otherConfig(r.store)))
	}
	other := cold()
	if got, want := pins(other), ids[:2]; !slices.Equal(got, want) {
		t.Errorf("pins %v, want %v", got, want)
	}
	// Unpinned, pinned again and unpinned by others: the last word counts.
	if err := other.Unpin(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Unpin(t.Context(), ids[1]), r.Pin(t.Context(), ids[1])); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*snapshotter.Snapshotter{"here": r.Snapshotter, "elsewhere": other, "cold": cold()} {
		if got, want := pins(s), ids[1:2]; !slices.Equal(got, want) {
			t.Errorf("%s: pins %v, want %v", name, got, want)
		}
	}
	if got := klosetLists(t, r); len(got) != 3 {
		t.Errorf("kloset lists %v", got)
	}
	if err := r.Remove(t.Context(), ids[0]); err != nil {
		t.Errorf("remove what was unpinned: %v", err)
	}
	if gone, err := r.store.Deleted(objects.MAC(ids[0])); err != nil || !gone {
		t.Errorf("deleted: %v, %v", gone, err)
	}
	if err := r.Check(t.Context(), ids[1]); err != nil {
		t.Error(err)
	}
}

// TestPinBesideRemoval: another process pins a snapshot when it has been decided that it goes. It
// is told that it cannot, and afterwards that it is gone; nobody takes a removed snapshot for pinned.
func TestPinBesideRemoval(t *testing.T) {
	st := storetest.New(t)
	var pin func()
	s, err := snapshotter.New(t.Context(), snapshotter.Config{Store: st, Failpoint: func(name string) {
		if name == snapshotter.FailRemoveBefore {
			pin()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r := &rig{t: t, store: st, Snapshotter: s}
	ids := r.line(4)
	elsewhere := storetest.Open(t, otherConfig(st))
	other := newSnapshotter(t, elsewhere)

	pinned := errors.New("not tried")
	pin = func() { pinned = other.Pin(t.Context(), ids[1]) }
	if err := r.Remove(t.Context(), ids[1]); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(pinned, snapshotter.ErrBusy) {
		t.Errorf("pin while it is removed: %v, want %v", pinned, snapshotter.ErrBusy)
	}
	if err := other.Pin(t.Context(), ids[1]); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("pin when it is removed: %v, want %v", err, snapshotter.ErrNoSnapshot)
	}

	// Beside somebody who holds a lock for long snapshots are removed all the same.
	lock, err := elsewhere.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pin = func() {}
	if err := r.Remove(t.Context(), ids[0]); err != nil {
		t.Errorf("beside a shared lock: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
	if got := listed(t, r.Snapshotter); !slices.Equal(got, ids[2:]) {
		t.Errorf("listed: %v, want %v", got, ids[2:])
	}
}
