package snapshotter_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
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
		lost, err := r.Unreadable(t.Context())
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

// stuckContent is a Content that does not come.
type stuckContent struct {
	bytesContent
	asked chan struct{}
}

func (c stuckContent) Open(ctx context.Context) (io.ReadCloser, error) {
	close(c.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestUnreadableBesideCommit asks for what cannot be read while a commit goes on: who gives up waiting has waited.
func TestUnreadableBesideCommit(t *testing.T) {
	k := newScrubRig(t)
	k.forget()
	k.lose(k.last)
	cfg := otherConfig(k.store)
	cfg.CacheDir = t.TempDir()
	r := newSnapshotter(t, storetest.Open(t, cfg))
	if err := r.TakeStock(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	c := put("/stuck", file(77, "never comes"))
	stuck := stuckContent{bytesContent("never comes"), make(chan struct{})}
	c.Content = stuck
	var wg sync.WaitGroup
	wg.Go(func() {
		if id, err := r.Commit(ctx, snapshotter.ID{}, seq([]snapshotter.Change{put("/", dir(0)), c}), meta(77)); err == nil {
			t.Errorf("committed %s", id)
		}
	})
	<-stuck.asked
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if lost, err := r.Unreadable(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("beside a commit: %v, %v", lost, err)
	}
	stop()
	wg.Wait()
	if lost, err := r.Unreadable(t.Context()); err != nil || !slices.Equal(lost, []snapshotter.ID{k.last}) {
		t.Errorf("after it: %v, %v", lost, err)
	}
}
