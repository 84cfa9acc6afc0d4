package snapshotter_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// giveUp gives snapshots up, by the first digits of their ids.
func (k *scrubRig) giveUp(ids ...snapshotter.ID) (snapshotter.ScrubReport, error) {
	k.t.Helper()
	cfg := k.config(snapshotter.ScrubDamaged)
	for _, id := range ids {
		cfg.GiveUp = append(cfg.GiveUp, id.String()[:12])
	}
	return k.Scrub(k.t.Context(), cfg)
}

// giveUpInVain checks that a snapshot is not given up, for that reason.
func (k *scrubRig) giveUpInVain(id snapshotter.ID, want error) {
	k.t.Helper()
	if rep, err := k.giveUp(id); !errors.Is(err, want) || len(rep.GivenUp) > 0 {
		k.t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, want)
	}
}

// age dates the packfiles of the store back.
func (k *scrubRig) age() {
	k.t.Helper()
	then := time.Now().Add(-time.Hour)
	for _, path := range k.files("packfiles") {
		if err := os.Chtimes(path, then, then); err != nil {
			k.t.Fatal(err)
		}
	}
}

// TestGiveUp has a snapshot whose header is damaged or missing, pinned and the newest of its line, and no copy of it: it is named
// until it is given up, and no snapshot that can be read is. Then nothing is damaged, for this process and for others.
func TestGiveUp(t *testing.T) {
	for name, spoil := range map[string]func(k *scrubRig){
		"missing": func(k *scrubRig) { k.lose(k.last) },
		"missing, and noticed": func(k *scrubRig) {
			k.lose(k.last)
			k.noteLoss()
		},
		"damaged": func(k *scrubRig) {
			for _, x := range k.regions() {
				if x.what == "snapshot" && x.path == k.packfileOf(k.last) {
					change(k.t, x.path, flip(8*x.from))
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t)
			if err := k.Pin(t.Context(), k.last); err != nil {
				t.Fatal(err)
			}
			k.forget()
			k.age()
			spoil(k)
			cfg := otherConfig(k.store) // of another process, which has never seen it whole
			cfg.CacheDir = t.TempDir()
			s := storetest.Open(t, cfg)
			k.rig = &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}
			if rep := k.scrub(snapshotter.ScrubAll); rep.State.Sound() {
				t.Fatal("nothing is damaged")
			}

			if _, err := k.giveUp(k.first); !errors.Is(err, snapshotter.ErrReadable) {
				t.Errorf("one that can be read: got %v, want %v", err, snapshotter.ErrReadable)
			}
			if _, err := k.giveUp(k.last, k.first); !errors.Is(err, snapshotter.ErrReadable) {
				t.Errorf("with one that can be read: got %v, want %v", err, snapshotter.ErrReadable)
			}
			if rep := k.scrub(snapshotter.ScrubDamaged); rep.State.Sound() {
				t.Error("it was given up with one that can be read")
			}
			rep, err := k.giveUp(k.last)
			if err != nil || len(rep.GivenUp) != 1 || rep.GivenUp[0] != k.last {
				t.Fatalf("given up: %v, %v", rep.GivenUp, err)
			}
			k.sound(rep)
			k.sound(k.scrub(snapshotter.ScrubAll))

			other := newSnapshotter(t, storetest.Open(t, otherConfig(k.store)))
			if lost, err := other.Unreadable(t.Context()); err != nil || len(lost) > 0 {
				t.Errorf("unreadable for others: %v, %v", lost, err)
			}
			if err := other.Check(t.Context(), k.first); err != nil {
				t.Errorf("the other snapshot: %v", err)
			}
			if _, err := k.giveUp(k.last); !errors.Is(err, snapshotter.ErrNoSnapshot) {
				t.Errorf("again: got %v, want %v", err, snapshotter.ErrNoSnapshot)
			}
		})
	}
}

// TestGiveUpUnknown: of an id that no snapshot has that is said, also in a store without snapshots, which is not unavailable.
func TestGiveUpUnknown(t *testing.T) {
	cfg := snapshotter.ScrubConfig{Dir: t.TempDir(), Scope: snapshotter.ScrubDamaged, GiveUp: []string{"3f2a61c0d1e2"}}
	_, err := newRig(t).Scrub(t.Context(), cfg)
	if !errors.Is(err, snapshotter.ErrNoSnapshot) || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, snapshotter.ErrNoSnapshot)
	}
}

// TestGiveUpWhatIsBack: a packfile that was missing when it was looked last, and is back, keeps its snapshot.
func TestGiveUpWhatIsBack(t *testing.T) {
	k := newScrubRig(t)
	k.forget()
	path := k.packfileOf(k.last)
	was := read(t, path)
	k.lose(k.last)
	k.noteLoss()
	k.scrub(snapshotter.ScrubAll)
	if err := os.WriteFile(path, []byte(was), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.giveUp(k.last); !errors.Is(err, snapshotter.ErrReadable) {
		t.Errorf("got %v, want %v", err, snapshotter.ErrReadable)
	}
	k.whole()
}

// headersOf flips a bit of the headers of snapshots.
func (k *scrubRig) headersOf(ids ...snapshotter.ID) {
	k.t.Helper()
	paths := make(map[string]bool)
	for _, id := range ids {
		paths[k.packfileOf(id)] = true
	}
	for _, x := range k.regions() {
		if x.what == "snapshot" && paths[x.path] {
			change(k.t, x.path, flip(8*x.from))
		}
	}
}

// afresh has the rig use what another process knows, which has the same local copies.
func (k *scrubRig) afresh() {
	k.t.Helper()
	k.Snapshotter = newSnapshotter(k.t, k.store)
}

// TestGiveUpRepairs: what the local copies have is repaired, not given up, be it missing or damaged.
func TestGiveUpRepairs(t *testing.T) {
	for name, spoil := range map[string]func(k *scrubRig){
		"missing": func(k *scrubRig) { k.lose(k.last) },
		"damaged": func(k *scrubRig) { k.headersOf(k.last) },
	} {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t)
			spoil(k)
			k.scrub(snapshotter.ScrubAll)
			k.afresh()
			if rep, err := k.giveUp(k.last); !errors.Is(err, snapshotter.ErrReadable) || len(rep.GivenUp) > 0 || !rep.State.Sound() {
				t.Errorf("got %v, %v, want %v and nothing damaged", rep, err, snapshotter.ErrReadable)
			}
			k.whole()
		})
	}
}

// TestGiveUpReplaces: what another store has a copy of is made anew, not given up; what it may have stays.
func TestGiveUpReplaces(t *testing.T) {
	k, from, was := newReplaceRig(t)
	k.headersOf(k.last)
	k.afresh()
	k.scrub(snapshotter.ScrubAll)
	cfg := k.config(snapshotter.ScrubDamaged)
	cfg.GiveUp, cfg.From = []string{k.last.String()}, from
	rep, err := k.Scrub(t.Context(), cfg)
	if err != nil || len(rep.GivenUp) > 0 || len(rep.Replaced) != 1 || rep.Replaced[0].Old != k.last {
		t.Fatalf("given up: %v, replaced: %v, %v", rep.GivenUp, rep.Replaced, err)
	}
	k.sound(rep)
	if list, err := k.Snapshots(t.Context(), ""); err != nil || len(list) != len(was) {
		t.Errorf("%d snapshots, %v, want %d", len(list), err, len(was))
	}
}

// TestGiveUpWhileCopyIsUnknown: a snapshot that cannot be read in the store to repair from may be the copy.
func TestGiveUpWhileCopyIsUnknown(t *testing.T) {
	k, _, _ := newReplaceRig(t)
	k.headersOf(k.last)
	k.afresh()
	k.scrub(snapshotter.ScrubAll)
	other := newScrubRig(t)
	other.forget()
	other.headersOf(other.last)
	other.afresh()
	cfg := k.config(snapshotter.ScrubDamaged)
	cfg.GiveUp, cfg.From = []string{k.last.String()}, other.Snapshotter
	if rep, err := k.Scrub(t.Context(), cfg); !errors.Is(err, snapshotter.ErrReadable) || len(rep.GivenUp) > 0 {
		t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, snapshotter.ErrReadable)
	}
}

// TestGiveUpWhileCopyIsAway: a copy of the files that cannot be read may have the header.
func TestGiveUpWhileCopyIsAway(t *testing.T) {
	k := newScrubRig(t)
	from, root := k.fileCopy()
	k.forget()
	k.headersOf(k.last)
	k.afresh()
	k.scrub(snapshotter.ScrubAll)
	giveUp := func(want error) {
		t.Helper()
		cfg := k.config(snapshotter.ScrubDamaged)
		cfg.GiveUp, cfg.From = []string{k.last.String()}, from
		if rep, err := k.Scrub(t.Context(), cfg); !errors.Is(err, want) || len(rep.GivenUp) > 0 {
			t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, want)
		}
	}
	if err := os.Rename(root, root+".away"); err != nil {
		t.Fatal(err)
	}
	giveUp(snapshotter.ErrUnavailable)
	if err := os.Rename(root+".away", root); err != nil {
		t.Fatal(err)
	}
	giveUp(snapshotter.ErrReadable) // it is repaired
	k.whole()
}

// TestGiveUpBeforeScrub: what no scrub has found damaged was not tried to be repaired.
func TestGiveUpBeforeScrub(t *testing.T) {
	k := newScrubRig(t)
	k.forget()
	k.scrub(snapshotter.ScrubAll)
	k.lose(k.last)
	k.noteLoss()
	if rep, err := k.giveUp(k.last); !errors.Is(err, snapshotter.ErrReadable) || len(rep.GivenUp) > 0 {
		t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, snapshotter.ErrReadable)
	}
}

// TestGiveUpSoundHeader: a snapshot of which all metadata but the header are damaged, and that is not listed as others are
// missing, too, is not given up.
func TestGiveUpSoundHeader(t *testing.T) {
	k := newScrubRig(t)
	k.forget()
	path := k.packfileOf(k.last)
	for _, x := range k.regions() {
		if x.path == path && x.what != "snapshot" && !x.part {
			change(t, x.path, flip(8*x.from))
		}
	}
	change(t, k.content(1<<20), func([]byte) []byte { return nil })
	k.afresh()
	k.scrub(snapshotter.ScrubAll)
	k.noteLoss()
	if lost, err := k.Unreadable(t.Context()); err != nil || len(lost) != 1 || lost[0] != k.last {
		t.Fatalf("unreadable: %v, %v", lost, err)
	}
	if rep, err := k.giveUp(k.last); !errors.Is(err, snapshotter.ErrReadable) || len(rep.GivenUp) > 0 {
		t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, snapshotter.ErrReadable)
	}
}

// TestGiveUpWithoutPackfiles: a server whose packfiles are somewhere else for a while has none; nothing is given up.
func TestGiveUpWithoutPackfiles(t *testing.T) {
	srv := storetest.ServeSFTP(t)
	k := newScrubRig(t, srv.Use)
	k.scrub(snapshotter.ScrubAll)
	k.forget()
	files := srv.Files("packfiles")
	for _, name := range files {
		srv.Rename(name, filepath.Base(name))
	}
	again := otherConfig(k.store) // what this process has listed may do for a while
	again.CacheDir = t.TempDir()
	srv.Use(&again)
	s := storetest.Open(t, again)
	k.rig = &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}
	k.scrub(snapshotter.ScrubAll)
	for _, ids := range [][]snapshotter.ID{{k.last}, {k.first, k.last}} {
		if rep, err := k.giveUp(ids...); !errors.Is(err, snapshotter.ErrUnavailable) || len(rep.GivenUp) > 0 {
			t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, snapshotter.ErrUnavailable)
		}
	}
	for _, name := range files {
		srv.Rename(filepath.Base(name), name)
	}
	cfg := otherConfig(k.store)
	srv.Use(&cfg)
	other := newSnapshotter(t, storetest.Open(t, cfg))
	if err := other.TakeStock(t.Context()); err != nil { // as whoever commits does
		t.Fatal(err)
	}
	for _, id := range []snapshotter.ID{k.first, k.last} {
		if err := other.Check(t.Context(), id); err != nil {
			t.Errorf("%s, when the packfiles are back: %v", id, err)
		}
	}
}

// TestGiveUpBesideCopies: while the packfiles are on a disk that is not mounted, local copies are put back into the place where it
// is mounted. That a snapshot can be read then does not mean that another one is lost.
func TestGiveUpBesideCopies(t *testing.T) {
	for name, begin := range map[string]func(k *scrubRig){
		"not noticed yet": func(*scrubRig) {},
		"put back by another process": func(k *scrubRig) {
			k.noteLoss()
			k.afresh()
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newScrubRig(t)
			k.scrub(snapshotter.ScrubAll)
			if err := os.Remove(k.copyOf(k.last)); err != nil {
				t.Fatal(err)
			}
			packs := filepath.Join(k.root, "packfiles")
			bucket := filepath.Dir(k.packfileOf(k.first)) // which the first that puts something back makes
			if err := errors.Join(os.Rename(packs, packs+".away"), os.MkdirAll(bucket, 0o700)); err != nil {
				t.Fatal(err)
			}
			begin(k)
			k.scrub(snapshotter.ScrubAll)
			k.giveUpInVain(k.last, snapshotter.ErrUnavailable)
			k.giveUpInVain(k.last, snapshotter.ErrUnavailable) // what is missing is noted by now
			if _, err := k.Snapshot(t.Context(), k.first); err != nil {
				t.Fatalf("the one that was put back: %v", err)
			}
			if err := errors.Join(os.RemoveAll(packs), os.Rename(packs+".away", packs)); err != nil {
				t.Fatal(err)
			}
			k.noteLoss()
			k.whole()
		})
	}
}

// TestGiveUpByDatesOfStore: the clock of the store is another one, which counts for what was put back.
func TestGiveUpByDatesOfStore(t *testing.T) {
	k := newScrubRig(t)
	k.forget()
	k.lose(k.last)
	k.age()
	then := time.Now().Add(-2 * time.Hour)
	for _, path := range k.files("states") {
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	k.afresh()
	k.scrub(snapshotter.ScrubAll)
	k.giveUpInVain(k.last, snapshotter.ErrUnavailable)
}

// TestGiveUpBesideAnother: another command has the local copies, of which one may be what is lacking.
func TestGiveUpBesideAnother(t *testing.T) {
	k := newScrubRig(t)
	k.headersOf(k.last)
	s := storetest.Open(t, k.Config)
	k.Snapshotter = newSnapshotter(t, s)
	k.scrub(snapshotter.ScrubAll)
	k.giveUpInVain(k.last, snapshotter.ErrBusy)
}
