package snapshotter_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/snapgate/gateway/internal/logtest"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// TestUnreadCopy: of a packfile that is missing there is a local copy that cannot be read, and of another one a copy that can be:
// the latter is put back. Nothing is said of the former, and nobody goes on without it, until the copy can be read.
func TestUnreadCopy(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(map[bool]string{false: "running", true: "at start"}[restart], func(t *testing.T) {
			l := newLossRig(t)
			defer func() { l.stop(t) }()
			kept := filepath.Join(l.dir, "cache", "metadata", filepath.Base(l.meta2[0]))
			raw, err := os.ReadFile(kept)
			if err != nil {
				t.Fatal(err)
			}
			states, err := l.store.States(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if restart {
				l.stop(t)
			}
			removeAll(t, l.meta1, l.meta2)
			badDisk(t, kept)
			if restart {
				l.start(t)
			}
			for range 2 {
				m := meta(9)
				m.Parent = l.second
				_, err := l.Commit(t.Context(), l.second, seq([]snapshotter.Change{put("/new", file(30, "new"))}), m)
				unread, ok := errors.AsType[*store.UnreadCopiesError](err)
				if !ok || !errors.Is(err, snapshotter.ErrUnavailable) || len(unread.Packfiles) != 1 {
					t.Errorf("commit: got %v, want %v", err, snapshotter.ErrUnavailable)
				}
			}
			for _, path := range l.meta1 {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("what another copy has is not put back: %v", err)
				}
			}
			lost, err := l.store.LostPackfiles()
			if err != nil || len(lost) > 0 {
				t.Errorf("%d packfiles count as lost, %v", len(lost), err)
			}
			if now, err := l.store.States(t.Context()); err != nil || len(now) != len(states) {
				t.Errorf("%d states after %d, %v", len(now), len(states), err)
			}

			if err := errors.Join(os.Remove(kept), os.WriteFile(kept, raw, 0o600)); err != nil {
				t.Fatal(err)
			}
			id := l.commit(l.second, put("/new", file(30, "new")))
			l.checkedElsewhere(t, id, with(map[string]*item{"/large": ptr(l.large), "/new": ptr(file(30, "new"))}))
		})
	}
}

// TestUnreadHeader: at a start the header of a snapshot is in such a packfile. What else there is can be listed and read, the log
// names the copy, and nobody takes another snapshot for the head, until the copy can be read.
func TestUnreadHeader(t *testing.T) {
	l := newLossRig(t)
	defer func() { l.stop(t) }()
	kept := map[string][]byte{}
	for _, p := range l.meta2 {
		p = filepath.Join(l.dir, "cache", "metadata", filepath.Base(p))
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		kept[p] = raw
	}
	states, err := l.store.States(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.stop(t)
	removeAll(t, l.meta2)
	for p := range kept {
		badDisk(t, p)
	}
	var log logtest.Buffer
	l.log = slog.New(slog.NewTextHandler(&log, nil))
	l.start(t)
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), filepath.Join(l.dir, "cache", "metadata", filepath.Base(l.meta2[0]))) {
		t.Errorf("the log does not name the copy:\n%s", log.String())
	}

	unread := func(what string, err error) {
		t.Helper()
		if _, ok := errors.AsType[*store.UnreadCopiesError](err); !ok || !errors.Is(err, snapshotter.ErrUnavailable) {
			t.Errorf("%s: got %v, want that a copy cannot be read", what, err)
		}
	}
	for range 2 {
		for _, share := range []string{"", "main"} {
			if list, err := l.Snapshots(t.Context(), share); err != nil || len(list) != 1 || list[0].ID != l.first {
				t.Errorf("snapshots of %q: %+v, %v; want the first", share, list, err)
			}
		}
		l.expect(l.first, baseTree())
		for _, share := range []string{"", "main", "other"} { // whose the other one is nobody knows
			_, err := l.AllSnapshots(t.Context(), share)
			unread("all snapshots of "+share, err)
		}
		if _, _, err := l.Latest(t.Context(), "gateway-1", "share-1"); !errors.Is(err, snapshotter.ErrUnavailable) {
			t.Errorf("latest: got %v, want %v", err, snapshotter.ErrUnavailable)
		}
		if _, err := l.View(t.Context(), l.second); !errors.Is(err, snapshotter.ErrUnavailable) {
			t.Errorf("view: got %v, want %v", err, snapshotter.ErrUnavailable)
		}
		for _, base := range []snapshotter.ID{l.first, l.second, {}} {
			m := meta(9)
			m.Parent = base
			_, err := l.Commit(t.Context(), base, seq([]snapshotter.Change{put("/new", file(30, "new"))}), m)
			unread("commit", err)
		}
		unread("remove", l.Remove(t.Context(), l.first))
		l.MakeDue()
	}
	if lost, err := l.Unreadable(t.Context()); err != nil || !slices.Equal(lost, []snapshotter.ID{l.second}) {
		t.Errorf("unreadable: %v, %v", lost, err)
	}
	if now, err := l.store.States(t.Context()); err != nil || len(now) != len(states) {
		t.Errorf("%d states after %d, %v", len(now), len(states), err)
	}

	for p, raw := range kept {
		if err := errors.Join(os.Remove(p), os.WriteFile(p, raw, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	l.MakeDue()
	list, err := l.AllSnapshots(t.Context(), "main") // nobody commits before
	if err != nil || len(list) != 2 || list[0].ID != l.second {
		t.Errorf("all snapshots: %+v, %v; want both", list, err)
	}
	for _, p := range l.meta2 {
		if _, err := os.Stat(p); err != nil {
			t.Errorf("it is not put back: %v", err)
		}
	}
	id := l.commit(l.second, put("/new", file(30, "new")))
	l.checkedElsewhere(t, id, with(map[string]*item{"/large": ptr(l.large), "/new": ptr(file(30, "new"))}))
}

// TestRepairBesideUnreadCopy: what is damaged beside such a packfile is repaired.
func TestRepairBesideUnreadCopy(t *testing.T) {
	k := newScrubRig(t)
	from, root := k.fileCopy()
	kept, path := k.copyOf(k.last), k.packfileOf(k.last)
	raw, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	name, err := filepath.Rel(k.root, path)
	if err := errors.Join(err, os.Remove(path), os.Remove(filepath.Join(root, name))); err != nil {
		t.Fatal(err)
	}
	badDisk(t, kept)
	k.spoilContent("", 1<<20)
	if n := len(k.scrub(snapshotter.ScrubAll).State.Damage); n != 2 {
		t.Fatalf("%d damaged, want 2", n)
	}
	rep := k.repair(from)
	if d := rep.State.Damage; rep.Repaired != 1 || len(d) != 1 || !strings.Contains(d[0].Repair, kept) {
		t.Errorf("%d files are repaired, %+v", rep.Repaired, d)
	}

	if err := errors.Join(os.Remove(kept), os.WriteFile(kept, raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	k.sound(k.repair(from))
	k.whole()
}
