package vfs

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// TestNeeded: what a pending change or an open upload takes bytes from is needed until a snapshot has
// them; an open view is not.
func TestNeeded(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	s := testShare(t, sys)
	expect := func(what string, ids ...snapshotter.ID) {
		t.Helper()
		got := sys.Needed()
		for _, id := range ids {
			if _, ok := got[id]; !ok {
				t.Errorf("%s: %s is needed", what, id)
			}
		}
		if len(got) != len(ids) {
			t.Errorf("%s: %v are needed, want %v", what, slices.Collect(maps.Keys(got)), ids)
		}
	}
	expect("an empty share")
	v.put("/f", "one")
	expect("changes of their own")
	first := commitShare(t, s)
	expect("the head", first)
	v.put("/f", "two")
	v.put("/other", "other")
	second := commitShare(t, s)
	expect("another head", second)

	// A copy of a file of an old snapshot.
	old := "/.snapshots/" + viewNames(t, repo)[0]
	wantNil(t, "link", v.Link(t.Context(), old+"/f", "/restored"))
	expect("a file that was restored", first, second)
	third := commitShare(t, s)
	expect("and committed", third)

	// An upload that continues what is stored.
	f := v.open("/other", OpenWrite)
	v.write(f, 2, "X")
	reader := v.open(old+"/f", OpenRead)
	v.put("/f", "three")
	fourth := commitShare(t, s)
	expect("an upload above an older head", third, fourth)
	wantNil(t, "abort", f.Abort())
	v.put("/f", "four")
	fifth := commitShare(t, s)
	expect("after it was cut off, while the old version stays", fifth)
	v.close(reader)
}

// TestNeededBehindHead: while sets wait, files of the live tree are in snapshots between its head and the newest. What is
// written to one of them takes bytes from there.
func TestNeededBehindHead(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	s := testShare(t, sys)
	var between snapshotter.ID
	wantNil(t, "commits", s.committer.between(t.Context(), func(ctx context.Context) error { // so that no other comes
		for _, path := range []string{"/one", "/two", "/three"} {
			v.put(path, big("a"))
			wantNil(t, "seal", s.seal(ctx, "test"))
		}
		for i := range 2 {
			more, err := s.commitNext(ctx)
			wantNil(t, "commit", err)
			want(t, "a set that waits", more, true)
			if i == 0 {
				between = s.head().id
			}
		}
		n, err := s.current().lookup(ctx, Name{"/one"})
		wantNil(t, "lookup", err)
		want(t, "where an append takes its bytes from", storedRef(s.current(), n).id, between)
		if _, ok := sys.Needed()[between]; !ok {
			t.Error("the snapshot between is needed")
		}
		return nil
	}))
	commitShare(t, s)
	if _, ok := sys.Needed()[between]; ok {
		t.Error("the snapshot between is not needed once the live tree is above the newest")
	}
}

// TestNeededWaitsForNothing: a removal asks under the lock of commits, and who has an upload may wait for that.
func TestNeededWaitsForNothing(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", big("a"))
	head := commitShare(t, testShare(t, sys))
	f := v.open("/f", OpenWrite)
	f.up.mu.Lock()
	needed := make(chan map[snapshotter.ID]struct{}, 1)
	go func() { needed <- sys.Needed() }()
	select {
	case got := <-needed:
		if _, ok := got[head]; !ok {
			t.Error("the head is needed")
		}
	case <-time.After(time.Minute):
		t.Error("it waits for an upload")
	}
	f.up.mu.Unlock()
	wantNil(t, "abort", f.Abort())
}
