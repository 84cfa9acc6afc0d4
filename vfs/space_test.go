package vfs

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// Too many versions that wait for a snapshot hold up what would make more of them, and
// nothing else.
func TestSlowDownSparesNewNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, repo := fullTestSystem(t, func(c *Config) { c.Shares[0].MaxPending = 2 })
		repo.FailCommits(snapshotter.ErrUnavailable)
		defer repo.FailCommits(nil)
		s := testShare(t, sys)
		v := visit(t, sys, "u", PermFull, "/")
		for i := range 3 {
			v.put("/f", fmt.Sprint(i))
		}
		want(t, "sealed sets", s.pendingSets(), 2)
		began := time.Now()
		v.put("/new", "x")
		wantNil(t, "rename", v.Rename(t.Context(), "/new", "/newer", false))
		want(t, "wait of an upload under a new name", time.Since(began), 0)
	})
}

// A full spool refuses everything that would make it hold more, uploads without a byte and
// directories, too; what frees space, or only changes names, goes on.
func TestFullSpool(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) { c.Limits.SpoolBytes = 1 << 20 })
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "x")
	v.mkdir("/d")
	f := v.open("/big", OpenWrite|OpenCreate)
	v.write(f, 0, string(make([]byte, 900<<10)))
	_, err := f.WriteAt(make([]byte, 200<<10), 900<<10)
	wantKind(t, "write", err, KindNoSpace)
	sys.cfg.Limits.SpoolBytes = 900 << 10
	wantKind(t, "mkdir", v.Mkdir(t.Context(), "/e", AttrSet{}), KindNoSpace)
	wantKind(t, "symlink", v.Symlink(t.Context(), "x", "/l"), KindNoSpace)
	wantKind(t, "link", v.Link(t.Context(), "/f", "/g"), KindNoSpace)
	wantKind(t, "empty file", v.open("/empty", OpenWrite|OpenCreate).Close(), KindNoSpace)
	wantNil(t, "rename", v.Rename(t.Context(), "/f", "/d/f", false))
	mode := fs.FileMode(0o600)
	wantNil(t, "setattr", v.SetAttr(t.Context(), "/d/f", AttrSet{Mode: &mode}, false))
	wantNil(t, "remove", v.Remove(t.Context(), "/d/f"))
	wantNil(t, "rmdir", v.Rmdir(t.Context(), "/d"))
}

// A journal of changes that are all in snapshots does not fill a small spool for ever.
func TestSmallSpoolDrains(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) { c.Limits.SpoolBytes = 8 << 20 })
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	data := string(make([]byte, 60<<10))
	for i := range 300 { // 18 MiB, all of it in the journal
		v.put(filepath.Join("/", fmt.Sprint(i)), data)
		if i%20 == 19 {
			commitShare(t, s)
		}
	}
}

// A store that takes no more has uploads refused, with what waits for its commit counted; what
// removes or renames goes on, and all does when there is room again.
func TestFullStore(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	sys.SetStoreRoom(1<<20, "the limit of the store is reached")
	v.put("/f", string(make([]byte, 600<<10)))
	f := v.open("/g", OpenWrite|OpenCreate)
	_, err := f.WriteAt(make([]byte, 600<<10), 0)
	wantKind(t, "write", err, KindNoSpace)
	if !strings.Contains(err.Error(), "the limit of the store is reached") {
		t.Errorf("the error does not say why: %v", err)
	}
	wantNil(t, "accepting", sys.Accepting())
	commitShare(t, testShare(t, sys))
	_, err = f.WriteAt(make([]byte, 600<<10), 0)
	wantKind(t, "write after a commit", err, KindNoSpace)
	wantNil(t, "abort", f.Abort())
	st, err := v.StatFS(t.Context(), "/")
	wantNil(t, "statfs", err)
	if free := st.BlocksAvail * st.BlockSize; free > 424<<10 {
		t.Errorf("%d bytes are free, more than the store takes", free)
	}
	sys.SetStoreRoom(0, "the limit of the store is reached")
	wantKind(t, "accepting", sys.Accepting(), KindNoSpace)
	wantKind(t, "mkdir", v.Mkdir(t.Context(), "/e", AttrSet{}), KindNoSpace)
	wantNil(t, "rename", v.Rename(t.Context(), "/f", "/h", false))
	wantNil(t, "remove", v.Remove(t.Context(), "/h"))
	sys.SetStoreRoom(-1, "")
	wantNil(t, "accepting", sys.Accepting())
	v.put("/f", "x")
}
