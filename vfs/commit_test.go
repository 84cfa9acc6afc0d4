package vfs

import (
	"errors"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// A file that was restored from a snapshot which somebody has removed meanwhile cannot be
// committed. That is an error with a pause, not the loss of the head and no endless loop.
func TestRestoredFromRemovedSnapshot(t *testing.T) {
	sys, repo := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", big("a"))
	old := commitShare(t, s)
	wantNil(t, "remove", v.Remove(t.Context(), "/f"))
	head := commitShare(t, s)
	names := viewNames(t, repo)
	wantNil(t, "link", v.Link(t.Context(), "/.snapshots/"+names[0]+"/f", "/g"))
	repo.Remove(old)
	if _, err := sys.Commit(t.Context(), "s"); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Fatalf("commit: %v", err)
	}
	want(t, "head", s.head().id, head)
}
