package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
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

// TestHeaderOfAnother: who has the store, and not its key, moves the header of a snapshot to where that of a later one was. It
// does not pass for that.
func TestHeaderOfAnother(t *testing.T) {
	k := newScrubRig(t)
	bySize := map[uint32]snapshotter.ID{k.headerOf(k.last).Length: k.last}
	var older, newer snapshotter.ID
	for i := range uint64(200) {
		newer = k.commit(k.last, put("/f", file(i, fmt.Sprint(i))))
		k.last = newer
		size := k.headerOf(newer).Length
		if older = bySize[size]; older != (snapshotter.ID{}) {
			break
		}
		bySize[size] = newer
	}
	if older == (snapshotter.ID{}) {
		t.Fatal("no two headers have the same size")
	}
	from, to := k.headerOf(older), k.headerOf(newer)
	header, err := os.ReadFile(k.packfileOf(older))
	if err != nil {
		t.Fatal(err)
	}
	header = header[frameHeader+from.Offset:][:from.Length]
	change(t, k.packfileOf(newer), func(data []byte) []byte {
		copy(data[frameHeader+to.Offset:], header)
		return data
	})
	s := newSnapshotter(t, storetest.Open(t, otherConfig(k.store)), func(c *snapshotter.Config) { c.ReadOnly = true })
	list, err := s.Snapshots(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, snap := range list {
		if snap.ID == newer {
			t.Errorf("%s is listed, with the header of %s", newer, older)
		}
	}
	if lost, err := s.Unreadable(t.Context()); err != nil || !slices.Equal(lost, []snapshotter.ID{newer}) {
		t.Errorf("unreadable %v, %v, want %s", lost, err, newer)
	}
	if _, err := s.View(t.Context(), newer); err == nil {
		t.Errorf("%s can be looked at", newer)
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

// beforeContent is a Content before whose first byte something is done.
type beforeContent struct {
	bytesContent
	do func() error
}

func (c beforeContent) Open(ctx context.Context) (io.ReadCloser, error) {
	if err := c.do(); err != nil {
		return nil, err
	}
	return c.bytesContent.Open(ctx)
}

// TestScrubLooksAtLoss removes one of two packfiles that have the same content. As long as the states lead readers to it, who only looks calls
// it missing; when they say that it is, nothing is damaged.
func TestScrubLooksAtLoss(t *testing.T) {
	k := newScrubRig(t)
	s := storetest.Open(t, otherConfig(k.store))
	other := &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s, n: 10}
	const size = 2 << 20
	twice := file(1, noise(2, size))
	slow := put("/theirs", twice)
	slow.Content = beforeContent{bytesContent(twice.Data), sync.OnceValue(func() error {
		_, err := k.Commit(t.Context(), k.last, seq([]snapshotter.Change{put("/ours", twice)}), meta(9))
		return err
	})}
	other.commit(snapshotter.ID{}, slow)
	removeAll(t, []string{k.content(size)})
	k.content(size) // there is another

	cfg := otherConfig(k.store)
	cfg.CacheDir = t.TempDir()
	looks := newSnapshotter(t, storetest.Open(t, cfg), func(c *snapshotter.Config) { c.ReadOnly = true })
	scrub := func() snapshotter.ScrubReport {
		t.Helper()
		rep, err := looks.Scrub(t.Context(), k.config(snapshotter.ScrubAll))
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	for range 2 {
		if d := scrub().State.Damage; len(d) != 1 || !d[0].Missing() {
			t.Errorf("damage: %+v, want a packfile that is missing", d)
		}
	}
	if err := k.Refresh(t.Context()); err != nil { // it may be the packfile of the other
		t.Fatal(err)
	}
	k.noteLoss()
	k.sound(scrub())
}
