package snapshotter_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// TestGiveUpBadDisk: what a disk does not give may be given another time, as by one that is attached by a line.
func TestGiveUpBadDisk(t *testing.T) {
	k := newScrubRig(t)
	k.forget()
	k.headersOf(k.last)
	k.afresh()
	k.scrub(snapshotter.ScrubAll)
	badDisk(t, k.packfileOf(k.last))
	if rep, err := k.giveUp(k.last); !errors.Is(err, snapshotter.ErrUnavailable) || len(rep.GivenUp) > 0 {
		t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, snapshotter.ErrUnavailable)
	}
}

// TestGiveUpWhileCopyIsOnBadDisk: nor does it give what a copy of the files may have.
func TestGiveUpWhileCopyIsOnBadDisk(t *testing.T) {
	k := newScrubRig(t)
	from, root := k.fileCopy()
	k.forget()
	path := k.packfileOf(k.last)
	k.headersOf(k.last)
	k.afresh()
	k.scrub(snapshotter.ScrubAll)
	name, err := filepath.Rel(k.root, path)
	if err != nil {
		t.Fatal(err)
	}
	badDisk(t, filepath.Join(root, name))
	cfg := k.config(snapshotter.ScrubDamaged)
	cfg.GiveUp, cfg.From = []string{k.last.String()}, from
	if rep, err := k.Scrub(t.Context(), cfg); !errors.Is(err, snapshotter.ErrUnavailable) || len(rep.GivenUp) > 0 {
		t.Errorf("given up: %v, %v, want %v", rep.GivenUp, err, snapshotter.ErrUnavailable)
	}
}

// TestGiveUpWhileLocalCopyIsOnBadDisk: nor does it give what a local copy has, which is kept.
func TestGiveUpWhileLocalCopyIsOnBadDisk(t *testing.T) {
	k := newScrubRig(t)
	k.headersOf(k.last)
	k.afresh()
	k.scrub(snapshotter.ScrubAll)
	kept := k.copyOf(k.last)
	badDisk(t, kept)
	k.giveUpInVain(k.last, snapshotter.ErrUnavailable)
	if _, err := os.Lstat(kept); err != nil {
		t.Errorf("the local copy: %v", err)
	}
}
