package snapshotter_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/background"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestCatchUp: whoever asks what is in the store waits for a commit only if there is something that it
// keeps him from taking over.
func TestCatchUp(t *testing.T) {
	var inside func()
	st := storetest.New(t)
	r := &rig{t: t, store: st, Snapshotter: newSnapshotter(t, st, func(c *snapshotter.Config) {
		c.Failpoint = func(name string) {
			if name == snapshotter.FailCommitEntries && inside != nil {
				inside()
			}
		}
	})}
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	other := &rig{t: t, store: storetest.Open(t, otherConfig(st)), n: 10}
	other.Snapshotter = newSnapshotter(t, other.store)
	caughtUp := func() <-chan error {
		done := make(chan error, 1)
		go func() { done <- r.CatchUp(t.Context(), 0) }()
		return done
	}

	inside = func() {
		select {
		case err := <-caughtUp():
			if err != nil {
				t.Errorf("beside a commit: %v", err)
			}
		case <-time.After(2 * time.Minute):
			t.Error("it waits for a commit although there is nothing to take over")
		}
	}
	second := r.commit(first, put("/new", file(20, "new")))

	var theirs snapshotter.ID
	var waiting <-chan error
	inside = func() {
		theirs = other.commit(snapshotter.ID{}, put("/theirs", file(1, "theirs")))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.CatchUp(ended, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("who gives up: %v", err)
		}
		if err := r.CatchUp(t.Context(), time.Nanosecond); !errors.Is(err, snapshotter.ErrBusy) {
			t.Errorf("who has no patience: %v", err)
		}
		waiting = caughtUp()
	}
	third := r.commit(second, put("/new", file(21, "newer")))
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	got := listed(t, r.Snapshotter)
	for _, id := range []snapshotter.ID{first, second, third, theirs} {
		if !slices.Contains(got, id) {
			t.Errorf("%s is not listed", id)
		}
	}
}

// TestCatchUpToCommit: a snapshot that another process has made, and whose header is missing from the store by now, keeps nobody from a commit
// that only asks first what is there; who only looks changes nothing.
func TestCatchUpToCommit(t *testing.T) {
	k := newScrubRig(t)
	other := &rig{t: t, store: storetest.Open(t, otherConfig(k.store)), n: 10}
	other.Snapshotter = newSnapshotter(t, other.store)
	before := k.files("packfiles")
	missing := other.commit(snapshotter.ID{}, put("/missing", file(1, "missing")))
	var gone [][]string
	for _, path := range k.files("packfiles") {
		if !slices.Contains(before, path) {
			gone = append(gone, []string{path})
		}
	}
	theirs := other.commit(snapshotter.ID{}, put("/theirs", file(1, "theirs")))
	removeAll(t, gone...)
	for range 2 {
		if err := k.CatchUp(t.Context(), 0); !errors.Is(err, snapshotter.ErrUnavailable) {
			t.Fatalf("who only looks: %v, want %v", err, snapshotter.ErrUnavailable)
		}
	}
	if err := k.CatchUpToCommit(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := listed(t, k.Snapshotter)
	for _, id := range []snapshotter.ID{k.first, k.last, theirs} {
		if !slices.Contains(got, id) {
			t.Errorf("%s is not listed", id)
		}
	}
	if slices.Contains(got, missing) {
		t.Error("the snapshot without its header is listed")
	}
}

// TestCheckEnds: a check whose context has ended reads nothing more, and says nothing of damage.
func TestCheckEnds(t *testing.T) {
	r := newRig(t)
	id := r.commit(snapshotter.ID{}, baseTree().all()...)
	for in, ctx := range map[string]context.Context{"the foreground": t.Context(), "the background": background.With(t.Context())} {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := r.Check(ended, id); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrDamaged) {
			t.Errorf("in %s: got %v, want %v", in, err, context.Canceled)
		}
		if err := r.Check(ctx, id); err != nil {
			t.Errorf("in %s: %v", in, err)
		}
	}
}
