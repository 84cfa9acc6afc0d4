package vfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"testing"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// Uploads whose spooled bytes are gone hold their share's commits up, unless the operator
// says otherwise: then they are left out, and everything else goes on, restarts included.
func TestLeaveOutDamaged(t *testing.T) {
	for _, tt := range []struct {
		name    string
		damage  func(t *testing.T, file string)
		atStart bool // noticed by a start, too
	}{
		{"missing", func(t *testing.T, file string) { wantNil(t, "remove", os.Remove(file)) }, true},
		{"short", func(t *testing.T, file string) { wantNil(t, "cut", os.Truncate(file, 4096+70_000)) }, true},
		{"rotten", func(t *testing.T, file string) {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			wantNil(t, "open", err)
			_, err = f.WriteAt([]byte("rotten"), 4096+50_000)
			wantNil(t, "write", err)
			wantNil(t, "close", f.Close())
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			leaveOut := func(c *Config) { c.LeaveOutDamaged = true }
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			v := visit(t, sys, "u", PermFull, "/")
			v.put("/old.bin", "old")
			commitShare(t, s)

			// A set that is sealed, and one above it which is about the same files.
			v.put("/old.bin", big("a"))
			v.put("/new.bin", big("b"))
			v.put("/good.bin", big("c"))
			v.put("/small", "1")
			for _, path := range []string{"/old.bin", "/new.bin"} {
				n, err := s.current().lookup(t.Context(), mustName(t, path))
				wantNil(t, "lookup", err)
				tt.damage(t, s.dir(fmt.Sprintf("spool/%016x.spool", uint64(n.content.spool))))
			}
			_, err := sys.Commit(t.Context(), "s")
			if !errors.Is(err, ErrUploadDamaged) {
				t.Fatalf("commit: got %v, want ErrUploadDamaged", err)
			}
			wantNil(t, "rename", v.Rename(t.Context(), "/new.bin", "/renamed.bin", false))
			v.put("/later", "2")
			crash(t, sys)

			if tt.atStart {
				_, err := Open(t.Context(), Config{
					DataDir: dir, Repository: repo, SpoolKey: bytes.Repeat([]byte{7}, 32),
					Shares: []ShareConfig{{Name: "s", When: WhenManual}},
				})
				if !errors.Is(err, ErrUploadDamaged) {
					t.Fatalf("open: got %v, want ErrUploadDamaged", err)
				}
			}
			sys = openTestSystem(t, dir, repo, leaveOut)
			s = testShare(t, sys)
			got := viewContents(t, repo, commitShare(t, s))
			want(t, "old", got["/old.bin"], "old")
			want(t, "good", got["/good.bin"] == big("c"), true)
			want(t, "small", got["/small"], "1")
			want(t, "later", got["/later"], "2")
			want(t, "files", len(got), 4)

			// All is well from now on, without the exception too.
			crash(t, sys)
			sys = openTestSystem(t, dir, repo)
			v = visit(t, sys, "u", PermFull, "/")
			want(t, "old", v.get("/old.bin"), "old")
			v.put("/new.bin", big("b"))
			got = viewContents(t, repo, commitShare(t, testShare(t, sys)))
			want(t, "again", got["/new.bin"] == big("b"), true)
			closeSystem(t, sys)
		})
	}
}

// spoilingRepository calls spoil before each commit.
type spoilingRepository struct {
	*memRepository
	spoil func()
}

func (r *spoilingRepository) Commit(ctx context.Context, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error], meta snapshotter.Meta) (snapshotter.ID, error) {
	r.spoil()
	return r.memRepository.Commit(ctx, base, changes, meta)
}

// TestLeftOutIsNotAcknowledged: with acknowledge: stored, an upload that was left out of its snapshot is not acknowledged.
func TestLeftOutIsNotAcknowledged(t *testing.T) {
	repo := &spoilingRepository{memRepository: newMemRepository(), spoil: func() {}}
	sys := openTestSystem(t, t.TempDir(), repo, func(c *Config) {
		c.LeaveOutDamaged = true
		c.Shares[0].When, c.Shares[0].AckStored, c.Shares[0].AckTimeout = WhenClose, true, time.Minute
	})
	defer closeSystem(t, sys)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	spoil := func(path string) {
		repo.spoil = func() {
			repo.spoil = func() {}
			n, err := s.current().lookup(t.Context(), mustName(t, path))
			wantNil(t, "lookup", err)
			wantNil(t, "remove", os.Remove(s.dir(fmt.Sprintf("spool/%016x.spool", uint64(n.content.spool)))))
		}
	}
	spoil("/f")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	wantKind(t, "close", f.Close(), KindDisk)
	want(t, "published", f.Published(), false)

	v.put("/g.part", big("b"))
	spoil("/g")
	wantKind(t, "rename", v.Rename(t.Context(), "/g.part", "/g", false), KindDisk)

	v.put("/f", big("a"))
	want(t, "sent again", v.get("/.snapshots/latest/f"), big("a"))
}
