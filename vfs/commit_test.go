package vfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
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

// The disk is full, and nothing has noted that a set is committed: its spool files go if the header of a snapshot says so.
func TestNoteCommitOnFullDisk(t *testing.T) {
	for _, tt := range []struct {
		made bool
		full error
	}{{false, syscall.ENOSPC}, {true, syscall.ENOSPC}, {true, syscall.EDQUOT}} {
		made := tt.made
		t.Run(fmt.Sprintf("snapshot %v, %v", made, tt.full), func(t *testing.T) {
			dir, repo, faulty := t.TempDir(), newMemRepository(), disktest.NewFaulty(disk.OS{})
			sys := openTestSystem(t, dir, repo, func(c *Config) { c.Disk, c.Shares[0].Versions = faulty, VersionsLast })
			s := testShare(t, sys)
			all := map[string]string{"/f": "one"}
			mustDo(t, s, put(t, s, "/f", "one"))
			commitShare(t, s)
			if made {
				all["/f"] = "two"
				mustDo(t, s, put(t, s, "/f", "two"))
			}
			spooled := put(t, s, "/g", strings.Repeat("y", 200))
			mustDo(t, s, spooled)
			mustDo(t, s, &op{kind: opRemove, name: Name{"/g"}})
			wantNil(t, "seal", s.seal(t.Context(), "test"))
			faulty.Add(disktest.Fault{Ops: disktest.OpWrite | disktest.OpCreate, Path: "*.wal*", Err: tt.full})
			wantNil(t, "between", s.committer.between(t.Context(), func(ctx context.Context) error {
				_, err := s.commitNext(ctx)
				return err
			}))
			want(t, "sealed", s.pendingSets(), 0)
			r, err := s.spool.Reader(spooled.content.spool, spooled.content.size, spooled.content.extents...)
			if err == nil {
				err = r.Close()
			}
			want(t, "the spool file is gone", errors.Is(err, fs.ErrNotExist), made)
			crash(t, sys)

			sys = openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			s = testShare(t, sys)
			want(t, "live tree", contents(t, s), all)
			mustDo(t, s, put(t, s, "/h", "three"))
			all["/h"] = "three"
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
		})
	}
}
