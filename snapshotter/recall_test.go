package snapshotter_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// spoilHeaders makes the headers of snapshots unreadable, in the store and in the local copy, until undo is called.
func (l *lossRig) spoilHeaders(t *testing.T, ids ...snapshotter.ID) (undo func()) {
	t.Helper()
	was := map[string][]byte{}
	for _, id := range ids {
		places, err := l.store.PlacesOf(resources.RT_SNAPSHOT, objects.MAC(id))
		if err != nil || len(places) != 1 {
			t.Fatalf("the header is in %v, %v", places, err)
		}
		name := snapshotter.ID(places[0].Packfile).String()
		files, err := filepath.Glob(filepath.Join(l.dir, "*", "*", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range append(files, filepath.Join(l.dir, "store", "packfiles", name[:2], name)) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			was[path] = slices.Clone(data)
			const frameHeader = 16
			for i := range places[0].Length {
				data[frameHeader+places[0].Offset+uint64(i)] ^= 0xff
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return func() {
		for path, data := range was {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestHeaderPutBack: a snapshot whose header is damaged is not listed, and not gone; when the header is there again, it is
// listed again, and can be built upon, without a restart.
func TestHeaderPutBack(t *testing.T) {
	for _, asks := range []string{"commit", "view", "gone", "list", "refresh"} {
		t.Run(asks, func(t *testing.T) {
			l := newLossRig(t)
			defer func() { l.stop(t) }()
			undo := l.spoilHeaders(t, l.first, l.second)
			l.stop(t)
			l.start(t)
			listed := func(want ...snapshotter.ID) {
				t.Helper()
				list, err := l.Snapshots(t.Context(), "")
				var got []snapshotter.ID
				for _, snap := range list {
					got = append(got, snap.ID)
				}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("listed: %v, %v, want %v", got, err, want)
				}
			}
			x := []snapshotter.Change{put("/x", file(30, "x"))}
			for range 2 {
				l.MakeDue()
				listed()
				if _, err := l.Commit(t.Context(), l.second, seq(x), meta(9)); !errors.Is(err, snapshotter.ErrNoSnapshot) {
					t.Fatalf("commit on it: got %v, want %v", err, snapshotter.ErrNoSnapshot)
				}
				if _, err := l.View(t.Context(), l.second); !errors.Is(err, store.ErrDamaged) {
					t.Fatalf("view: got %v, want %v", err, store.ErrDamaged)
				}
				if gone, err := l.Gone(t.Context(), l.second); gone || err != nil {
					t.Fatalf("gone: got %v, %v", gone, err)
				}
			}
			undo()
			var err error
			switch asks {
			case "commit":
				id, err := l.Commit(t.Context(), l.second, seq(x), meta(9))
				if err != nil {
					t.Fatal(err)
				}
				listed(id, l.second, l.first)
				return
			case "view":
				_, err = l.View(t.Context(), l.second)
			case "gone":
				_, err = l.Gone(t.Context(), l.second)
			case "list":
				l.MakeDue()
			case "refresh":
				l.MakeDue()
				err = l.Refresh(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
			listed(l.second, l.first)
		})
	}
}

// TestGone: a snapshot is gone when a state says that it was removed, when it is lost, and when no state tells of it.
func TestGone(t *testing.T) {
	l := newLossRig(t)
	defer func() { l.stop(t) }()
	gone := func(what string, id snapshotter.ID, want bool) {
		t.Helper()
		if got, err := l.Gone(t.Context(), id); got != want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", what, got, err, want)
		}
	}
	states := func() []string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(l.dir, "store", "states", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	gone("listed", l.first, false)
	gone("none", snapshotter.ID{1}, true)
	before := states()
	if err := l.Remove(t.Context(), l.first); err != nil {
		t.Fatal(err)
	}
	gone("removed", l.first, true)
	for _, path := range states() {
		if slices.Contains(before, path) {
			continue
		}
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		write := func(data []byte) {
			t.Helper()
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(append(slices.Clone(was[:len(was)/2]), make([]byte, len(was)-len(was)/2)...))
		if _, err := l.Gone(t.Context(), l.first); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, store.ErrDamaged) {
			t.Errorf("removed, and what tells of it damaged: got %v, want %v and %v", err, store.ErrUnavailable, store.ErrDamaged)
		}
		write(was)
		gone("removed, and what tells of it repaired", l.first, true)
	}
	gone("listed", l.second, false)
	undo := l.spoilHeaders(t, l.first)
	gone("removed, and damaged", l.first, true)
	undo()
	removeAll(t, l.meta2)
	l.stop(t)
	if err := l.dropMirror(); err != nil {
		t.Fatal(err)
	}
	l.start(t)
	gone("lost", l.second, true)
}
