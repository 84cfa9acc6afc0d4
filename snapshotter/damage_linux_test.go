package snapshotter_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
