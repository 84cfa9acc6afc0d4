package vfs

import (
	"maps"
	"slices"
	"testing"

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
