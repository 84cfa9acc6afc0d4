package vfs

import (
	"fmt"
	"io/fs"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// While the store is away, what is not known is not called missing: neither is it made anew, nor is a client told that it is gone.
func TestAwayIsNotMissing(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	s := testShare(t, sys)
	mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
	mustDo(t, s, put(t, s, "/d/f", "one"))
	commitShare(t, s)
	defer func() { closeSystem(t, sys) }()
	v := visit(t, sys, "u", PermFull, "/")
	repo.FailName("/d", fmt.Errorf("%w: open CONFIG: %w", snapshotter.ErrUnavailable, fs.ErrNotExist))
	_, err := v.Stat(t.Context(), "/d/f")
	want(t, "stat", KindOf(err), KindUnavailable)
	_, err = v.Stat(t.Context(), "/.snapshots/latest/d")
	want(t, "stat in a snapshot", KindOf(err), KindUnavailable)
	_, err = v.Stat(t.Context(), "/d/.snapshots/latest")
	want(t, "stat in a history", KindOf(err), KindUnavailable)
	want(t, "mkdir", KindOf(v.Mkdir(t.Context(), "/d", AttrSet{})), KindUnavailable)
	_, err = v.ReadDir(t.Context(), "/d")
	want(t, "list", KindOf(err), KindUnavailable)
	repo.FailName("/d", nil)
	want(t, "live tree", contents(t, s), map[string]string{"/d": "dir", "/d/f": "one"})
}
