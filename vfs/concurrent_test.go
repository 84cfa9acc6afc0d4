package vfs

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"
)

// Everything at once on a few names: the race detector watches, and at the end nothing is
// open, half or lost.
func TestConcurrentUse(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) { c.Limits.InlineBytes = 1000 })
	admin := visit(t, sys, "admin", PermFull, "/")
	admin.mkdir("/d")
	ctx := t.Context()
	pieces := [][]byte{bytes.Repeat([]byte("a"), 3000), bytes.Repeat([]byte("b"), 500)}

	const rounds = 15
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range rounds {
				s, err := sys.Session(ctx, admin.principal, ConnInfo{Protocol: "test"})
				if err != nil {
					t.Error(err)
					return
				}
				f, err := s.Open(ctx, fmt.Sprintf("/d/f%d", n%2), OpenRead|OpenWrite|OpenCreate, AttrSet{})
				if err == nil {
					useConcurrently(t, s, f, pieces[n%2])
				}
				if i%2 == 0 && err == nil {
					_ = f.Close() // another session may have taken it over
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for n := range rounds {
			from, to := "/d", "/e"
			if n%2 == 1 {
				from, to = to, from
			}
			if err := admin.Rename(ctx, from, to, false); err != nil {
				t.Error(err)
			}
			if _, err := admin.Snapshot(ctx, "/"); err != nil {
				t.Error(err)
			}
			admin.list("/d/.snapshots")
			admin.get("/.snapshots/latest/d/f0")
		}
	})
	wg.Wait()
	want(t, "open uploads", testShare(t, sys).uploads.count(), 0)
	want(t, "open handles", sys.handles.count(), 0)
}

func useConcurrently(t *testing.T, s *Session, f *File, piece []byte) {
	t.Helper()
	ctx := t.Context()
	size := int64(len(piece))
	var wg sync.WaitGroup
	for _, do := range []func(){
		func() { _, _ = f.WriteAt(piece, 0) },
		func() { _, _ = f.WriteAt(piece, size) },
		func() { _, _ = f.ReadAt(make([]byte, 100), size-50) },
		func() { _ = f.SetAttr(ctx, AttrSet{Size: &size, ModTime: &time.Time{}}) },
		func() { _ = f.Sync(ctx) },
		func() { _, _ = f.Stat(ctx) },
		func() { _, _ = s.Stat(ctx, f.Name().String()) },
	} {
		wg.Go(do)
	}
	wg.Wait()
}
