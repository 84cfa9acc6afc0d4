package snapshotter_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// TestKeep: what a process has put ahead of a commit that never came is not put again by the
// next one, once it was kept.
func TestKeep(t *testing.T) {
	r := newRig(t)
	data := [][]byte{randomBytes(t, 5<<20), []byte("small"), randomBytes(t, 1000)}
	if err := r.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	states := func() int {
		t.Helper()
		list, err := r.store.States(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := states()
	store := func(s *snapshotter.Snapshotter) (stored [][]byte) {
		t.Helper()
		for _, d := range data {
			one, err := s.Store(t.Context(), bytesContent(d))
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, one)
		}
		return stored
	}
	first := store(r.Snapshotter)
	if err := r.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := states(); n != before+1 {
		t.Errorf("%d states, want %d", n, before+1)
	}
	if err := r.Keep(t.Context()); err != nil || states() != before+1 {
		t.Errorf("nothing to keep: %v, %d states", err, states())
	}
	packs := packSizes(t, r.store)

	// Another process puts the same, and commits it.
	other := newSnapshotter(t, storetest.Open(t, otherConfig(r.store)))
	again := store(other)
	other.FlushEarly()
	if n := len(packSizes(t, r.store)); n != len(packs) {
		t.Errorf("%d packfiles, %d before: it was put again", n, len(packs))
	}
	changes := []snapshotter.Change{put("/", dir(0))}
	for i := range data {
		if !bytes.Equal(first[i], again[i]) {
			t.Errorf("content %d is sealed otherwise", i)
		}
		c := put([]string{"/a", "/b", "/c"}[i], file(uint64(i+1), ""))
		c.Content, c.Stored = nil, first[i] // of the process that has died
		changes = append(changes, c)
	}
	id, err := other.Commit(t.Context(), snapshotter.ID{}, seq(changes), meta(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Check(t.Context(), id); err != nil {
		t.Error(err)
	}

	release := storetest.LockExclusively(t, r.store, "elsewhere")
	if err := r.Keep(t.Context()); !errors.Is(err, snapshotter.ErrBusy) {
		t.Errorf("under maintenance: %v", err)
	}
	release()

	// The first one goes on as well, and finds the snapshot.
	if _, err := r.Store(t.Context(), bytesContent("more")); err != nil {
		t.Fatal(err)
	}
	if err := r.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.View(t.Context(), id); err != nil {
		t.Error(err)
	}
}
