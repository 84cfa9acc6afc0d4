package vfs

import (
	"testing"
	"testing/synctest"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

const mib = 1 << 20

func TestHole(t *testing.T) {
	for name, tc := range map[string]struct {
		c    *content
		hole int64
	}{
		"whole":                 {&content{size: 100, extents: []spool.Extent{{Off: 0, Len: 100}}}, 0},
		"nothing sent":          {&content{size: 100}, 100},
		"between":               {&content{size: 100, extents: []spool.Extent{{Off: 0, Len: 10}, {Off: 60, Len: 40}}}, 50},
		"behind":                {&content{size: 100, extents: []spool.Extent{{Off: 0, Len: 10}}}, 90},
		"in the journal":        {&content{size: 100, inRecord: true}, 0},
		"stored":                {&content{size: 100, base: baseRef{path: "/f", size: 100}}, 0},
		"stored, and written":   {&content{size: 100, base: baseRef{path: "/f", size: 100}, extents: []spool.Extent{{Off: 10, Len: 20}}}, 0},
		"behind what is stored": {&content{size: 100, base: baseRef{path: "/f", size: 40}, extents: []spool.Extent{{Off: 30, Len: 20}, {Off: 90, Len: 10}}}, 40},
	} {
		want(t, name, tc.c.hole(), tc.hole)
	}
}

// hollow makes a handle of a new file of a size of which nothing was sent.
func (v visitor) hollow(path string, size int64) *File {
	v.t.Helper()
	f := v.open(path, OpenWrite|OpenCreate)
	wantNil(v.t, "size of "+path, f.SetAttr(v.t.Context(), AttrSet{Size: &size}))
	return f
}

// What nobody has sent costs a commit time, but no space: it is bounded by itself, in uploads that are under way
// at the same time and after a restart, too, and takes no room from what is sent.
func TestHolesAreBounded(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	limit := func(bytes int64) func(*Config) { return func(c *Config) { c.Limits.SpoolBytes = bytes } }
	sys := openTestSystem(t, dir, repo, limit(4*mib))
	v := visit(t, sys, "u", PermFull, "/")
	a, b := v.hollow("/a", 3*mib), v.hollow("/b", 3*mib)
	v.close(a)
	err := b.Close()
	wantKind(t, "close of the second", err, KindNoSpace)
	v.put("/sent", string(make([]byte, 3*mib)))
	want(t, "holes", sys.Status().Holes, 3*mib)
	crash(t, sys)

	sys = openTestSystem(t, dir, repo, limit(2*mib)) // less than what was accepted
	defer func() { closeSystem(t, sys) }()
	v = visit(t, sys, "u", PermFull, "/")
	want(t, "holes after a restart", sys.Status().Holes, 3*mib)
	commitShare(t, testShare(t, sys))
	want(t, "size of the first", v.size("/a"), 3*mib)
	want(t, "holes after a commit", sys.Status().Holes, 0)
	v.close(v.hollow("/b", mib))
	want(t, "holes of the next", sys.Status().Holes, mib)
}

// Those that are closed at the same moment, and whose records are one batch, are counted together.
func TestHolesOfOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, _ := fullTestSystem(t, func(c *Config) { c.Limits.SpoolBytes = 4 * mib })
		s, v := testShare(t, sys), visit(t, sys, "u", PermFull, "/")
		files := []*File{v.hollow("/a", 3*mib), v.hollow("/b", 3*mib)}
		hold, held := make(chan struct{}), make(chan error, 1)
		go func() { held <- s.exec(t.Context(), func() error { <-hold; return nil }) }()
		synctest.Wait()
		closed := make(chan error, len(files))
		for _, f := range files {
			go func() { closed <- f.Close() }()
		}
		synctest.Wait()
		close(hold)
		wantNil(t, "exec", <-held)
		refused := 0
		for range files {
			if err := <-closed; err != nil {
				wantKind(t, "close", err, KindNoSpace)
				refused++
			}
		}
		want(t, "refused", refused, 1)
	})
}

// A file that waits for its rename is in one set after the other, and counts once.
func TestHoleThatIsCarriedOver(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	v := visit(t, sys, "u", PermFull, "/")
	v.close(v.hollow("/f.part", 3*mib))
	repo.FailCommits(snapshotter.ErrUnavailable)
	for _, path := range []string{"/x", "/y"} {
		v.put(path, path)
		wantNil(t, "seal", testShare(t, sys).seal(t.Context(), "test"))
	}
	want(t, "holes", sys.Status().Holes, 3*mib)
	crash(t, sys)
	sys = openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	v = visit(t, sys, "u", PermFull, "/")
	want(t, "holes after a restart", sys.Status().Holes, 3*mib)
	repo.FailCommits(nil)
	commitShare(t, testShare(t, sys))
	want(t, "holes of what still waits", sys.Status().Holes, 3*mib)
	wantNil(t, "rename", v.Rename(t.Context(), "/f.part", "/f", false))
	commitShare(t, testShare(t, sys))
	want(t, "holes at last", sys.Status().Holes, 0)
}
