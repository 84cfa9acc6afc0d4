package snapshotter_test

import (
	"errors"
	"os"
	"testing"

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
