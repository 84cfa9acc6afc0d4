package snapshotter_test

import (
	"errors"
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
