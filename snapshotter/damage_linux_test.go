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
	"github.com/snapgate/gateway/store/storetest"
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

// TestRepairUnreadHeader: after such a start, of two snapshots, a repair from a copy of the files brings back what that has, and says what of
// the rest is in the way. Nothing is lost before, or removed, and as soon as all headers are there it goes on as if nothing had been.
func TestRepairUnreadHeader(t *testing.T) {
	l := newLossRig(t)
	defer func() { l.stop(t) }()
	third := l.commit(l.second, put("/third", file(30, "third")))
	var meta3 []string
	for p := range packfiles(t, l.dir) {
		if !slices.Contains(slices.Concat(l.meta1, l.meta2, l.contents), p) {
			meta3 = append(meta3, p)
		}
	}
	synced := newSnapshotter(t, storetest.New(t))
	copier := newCopier(t, l.Snapshotter, synced)
	for _, id := range []snapshotter.ID{l.first, l.second, third} {
		if err := copier.Copy(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	cfg := storetest.Config(t.TempDir())
	root, other := filepath.Join(l.dir, "store"), cfg.Location[len("fs://"):]
	if err := os.CopyFS(other, os.DirFS(root)); err != nil {
		t.Fatal(err)
	}
	there := map[string][]byte{} // what the copy does not have at first
	for _, p := range meta3 {
		name, err := filepath.Rel(root, p)
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.Join(other, name)
		raw, err := os.ReadFile(name)
		if err := errors.Join(err, os.Remove(name)); err != nil {
			t.Fatal(err)
		}
		there[name] = raw
	}
	l.stop(t)
	removeAll(t, l.meta2, meta3)
	for _, p := range slices.Concat(l.meta2, meta3) {
		badDisk(t, filepath.Join(l.dir, "cache", "metadata", filepath.Base(p)))
	}
	l.start(t)
	if _, err := l.AllSnapshots(t.Context(), "main"); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Fatalf("all snapshots: got %v, want %v", err, snapshotter.ErrUnavailable)
	}

	scrub := snapshotter.ScrubConfig{Dir: filepath.Join(l.dir, "scrub"), Scope: snapshotter.ScrubAll}
	gone := len(l.meta2) + len(meta3)
	rep, err := l.Scrub(t.Context(), scrub)
	if err != nil || len(rep.State.Damage) != gone {
		t.Fatalf("scrub: %d files are damaged, want %d; %v", len(rep.State.Damage), gone, err)
	}
	scrub.GiveUp = []string{l.second.String(), third.String()}
	if rep, err := l.Scrub(t.Context(), scrub); !errors.Is(err, snapshotter.ErrUnavailable) || len(rep.GivenUp) > 0 {
		t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, snapshotter.ErrUnavailable)
	}
	// Copies of the snapshots do not do: what may be there still is not made anew.
	scrub.GiveUp, scrub.Repair, scrub.From = nil, true, synced
	if rep, err := l.Scrub(t.Context(), scrub); err != nil || rep.Repaired+len(rep.Replaced) > 0 || len(rep.State.Damage) != gone {
		t.Errorf("repair from copies of the snapshots: %+v, %v", rep, err)
	}
	states, err := filepath.Glob(filepath.Join(root, "states", "*", "*"))
	if err != nil || len(states) == 0 {
		t.Fatalf("states: %v, %v", states, err)
	}
	change(t, states[0], flip(8*20)) // which is repaired as well
	scrub.From = newSnapshotter(t, storetest.Open(t, cfg))
	rep, err = l.Scrub(t.Context(), scrub)
	if err != nil || rep.Repaired != len(l.meta2)+1 || len(rep.State.Damage) != len(meta3) {
		t.Fatalf("repair: %d files are repaired, %+v are not; %v", rep.Repaired, rep.State.Damage, err)
	}
	if d := rep.State.Damage[0]; !d.Missing() || !strings.Contains(d.Repair, "local copy") {
		t.Errorf("what is not repaired: %+v", d)
	}
	if list, err := l.Snapshots(t.Context(), "main"); err != nil || len(list) != 2 || list[0].ID != l.second {
		t.Errorf("snapshots: %+v, %v; want two", list, err)
	}
	if lost, err := l.store.LostPackfiles(); err != nil || len(lost) > 0 {
		t.Errorf("%d packfiles count as lost, %v", len(lost), err)
	}

	for name, raw := range there {
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rep, err = l.Scrub(t.Context(), scrub)
	if err != nil || rep.Repaired != len(meta3) || len(rep.State.Damage) != 0 {
		t.Fatalf("repair: %d files are repaired, %+v are not; %v", rep.Repaired, rep.State.Damage, err)
	}
	if list, err := l.AllSnapshots(t.Context(), "main"); err != nil || len(list) != 3 || list[0].ID != third {
		t.Errorf("all snapshots: %+v, %v; want three", list, err)
	}
	id := l.commit(third, put("/new", file(30, "new")))
	l.checkedElsewhere(t, id, with(map[string]*item{"/large": ptr(l.large), "/third": ptr(file(30, "third")), "/new": ptr(file(30, "new"))}))
}

// TestScrubNothingListed: when no header can be read at all, the packfiles may be on a disk that is not mounted: none is called damaged, and
// none is written.
func TestScrubNothingListed(t *testing.T) {
	l := newLossRig(t)
	defer func() { l.stop(t) }()
	cfg := storetest.Config(t.TempDir())
	root := filepath.Join(l.dir, "store")
	if err := os.CopyFS(cfg.Location[len("fs://"):], os.DirFS(root)); err != nil {
		t.Fatal(err)
	}
	l.stop(t)
	for _, p := range slices.Concat(l.meta1, l.meta2) {
		badDisk(t, filepath.Join(l.dir, "cache", "metadata", filepath.Base(p)))
	}
	if err := os.RemoveAll(filepath.Join(root, "packfiles")); err != nil {
		t.Fatal(err)
	}
	l.start(t)
	rep, err := l.Scrub(t.Context(), snapshotter.ScrubConfig{
		Dir: filepath.Join(l.dir, "scrub"), Scope: snapshotter.ScrubAll, Repair: true, From: newSnapshotter(t, storetest.Open(t, cfg)),
	})
	if !errors.Is(err, snapshotter.ErrUnavailable) || rep.Repaired > 0 || len(rep.State.Damage) > 0 {
		t.Errorf("repaired %d, %d damaged, %v; want %v", rep.Repaired, len(rep.State.Damage), err, snapshotter.ErrUnavailable)
	}
}
