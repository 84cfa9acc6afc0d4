package snapshotter_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// TestListWithoutMissingHeader: who only reads lists the snapshots whose headers are there, and knows of the others. When none
// is there, it is the store that is away.
func TestListWithoutMissingHeader(t *testing.T) {
	k := newScrubRig(t)
	k.lose(k.last)
	list := func() ([]snapshotter.ID, []snapshotter.ID, error) {
		cfg := otherConfig(k.store)
		r := newSnapshotter(t, storetest.Open(t, cfg), func(c *snapshotter.Config) { c.ReadOnly = true })
		snaps, err := r.Snapshots(t.Context(), "")
		if err != nil {
			return nil, nil, err
		}
		var ids []snapshotter.ID
		for _, s := range snaps {
			ids = append(ids, s.ID)
		}
		lost, err := r.Unreadable()
		return ids, lost, err
	}
	ids, lost, err := list()
	if err != nil || !slices.Equal(ids, []snapshotter.ID{k.first}) || !slices.Equal(lost, []snapshotter.ID{k.last}) {
		t.Errorf("listed %v, unreadable %v, %v, want %s and %s", ids, lost, err, k.first, k.last)
	}
	packfiles := filepath.Join(k.root, "packfiles")
	if err := os.Rename(packfiles, packfiles+".away"); err != nil {
		t.Fatal(err)
	}
	if ids, lost, err := list(); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("without packfiles: listed %v, unreadable %v, %v", ids, lost, err)
	}
}
