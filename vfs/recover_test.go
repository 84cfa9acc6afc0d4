package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/snapshotter"
)

// What a seal carried over stands in the journal. Settings that have changed since must
// not make recovery leave something out of the set that nothing carries.
func TestRecoverSealUnderOtherSettings(t *testing.T) {
	tests := []struct {
		name          string
		before, after []string // temporary names
	}{
		{"a name has become temporary", []string{"*.tmp"}, []string{"*.tmp", "*.dat"}},
		{"a name is temporary no more", []string{"*.tmp"}, []string{"*.part"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo, func(c *Config) { c.Shares[0].TempNames = tt.before })
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/a.dat", "one"))
			mustDo(t, s, put(t, s, "/b.tmp", "two"))
			if err := s.seal(t.Context(), "test"); err != nil {
				t.Fatal(err)
			}
			crash(t, sys)
			sys = openTestSystem(t, dir, repo, func(c *Config) { c.Shares[0].TempNames = tt.after })
			defer closeSystem(t, sys)
			s = testShare(t, sys)
			for s.pendingSets() > 0 { // a start commits what is sealed by itself
				runtime.Gosched()
			}
			want := map[string]string{"/a.dat": "one", "/b.tmp": "two"}
			if diff := cmp.Diff(want, contents(t, s)); diff != "" {
				t.Errorf("live tree after the commit (-want +got):\n%s", diff)
			}
		})
	}
}

// A client that uploads and then renames or sets the time must be able to when the gateway
// was restarted in between, even if it may only create.
func TestOwnUploadsAfterRestart(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	visit(t, sys, "u", PermFull, "/").put("/f.part", "x")
	visit(t, sys, "other", PermFull, "/").put("/g", "x")
	crash(t, sys)
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	v, mode := visit(t, sys, "u", PermList|PermCreate, "/"), fs.FileMode(0o600)
	wantNil(t, "rename", v.Rename(t.Context(), "/f.part", "/f", false))
	wantNil(t, "setattr", v.SetAttr(t.Context(), "/f", AttrSet{Mode: &mode}, false))
	wantKind(t, "rename another's", v.Rename(t.Context(), "/g", "/h", false), KindPermission)

	made := newCreations()
	now := time.Now()
	made.recall(&op{version: 1, user: "u", time: now.Add(-ownWindow)}, now)
	made.recall(&op{version: 2, user: "u", time: now.Add(1 - ownWindow)}, now)
	made.recall(&op{version: 3, time: now}, now)
	want(t, "too old", made.own(1, "u", 7, now), false)
	want(t, "young enough", made.own(2, "u", 7, now), true)
	want(t, "later", made.own(2, "u", 7, now.Add(time.Second)), false)
	want(t, "nobody's", made.own(3, "", 7, now), false)
}

// A start finds a snapshot that is not noted, and cannot note it: the spool files stay, since the store may be away at the next
// start, and go with the note.
func TestStartOnBadDiskAfterUnnotedCommit(t *testing.T) {
	for _, away := range []bool{true, false} {
		t.Run(fmt.Sprintf("the store is away next %v", away), func(t *testing.T) {
			dir, repo, faulty := t.TempDir(), newMemRepository(), disktest.NewFaulty(disk.OS{})
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/f", "one"))
			commitShare(t, s)
			all := map[string]string{"/f": "one", "/g": strings.Repeat("two", 100)}
			spooled := put(t, s, "/g", all["/g"])
			mustDo(t, s, spooled)
			died := errors.New("the process died here")
			repo.FailAfterCommit(died)
			if _, err := sys.Commit(t.Context(), "s"); !errors.Is(err, died) {
				t.Fatalf("commit: got %v, want %v", err, died)
			}
			repo.FailAfterCommit(nil)
			crash(t, sys)

			faulty.Add(disktest.Fault{Ops: disktest.OpWrite | disktest.OpCreate, Path: "*.wal*", Err: syscall.EIO})
			sys = openTestSystem(t, dir, repo, func(c *Config) { c.Disk = faulty })
			want(t, "live tree on a bad disk", contents(t, testShare(t, sys)), all)
			if away {
				crash(t, sys)
				repo.FailIndex(snapshotter.ErrUnavailable)
				sys = openTestSystem(t, dir, repo)
				repo.FailIndex(nil)
			}
			defer func() { closeSystem(t, sys) }()
			faulty.Clear()
			s = testShare(t, sys)
			commitShare(t, s) // with the store back the share has its head again
			all["/h"] = "three"
			mustDo(t, s, put(t, s, "/h", all["/h"]))
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
			_, err := s.spool.Reader(spooled.content.spool, spooled.content.size, spooled.content.extents...)
			want(t, "the spool file is gone", errors.Is(err, fs.ErrNotExist), true)
		})
	}
}

// freeingDisk calls freed after a file of the spool was removed.
type freeingDisk struct {
	disk.FS
	freed func(path string)
}

func (d freeingDisk) Remove(path string) error {
	err := d.FS.Remove(path)
	if err == nil && filepath.Ext(path) == ".spool" {
		d.freed(path)
	}
	return err
}

// A start finds a snapshot that is not noted, on a full disk: spool files of what that has go, the largest first, until there is room for the note,
// and uploads are taken again.
func TestStartOnFullDiskAfterUnnotedCommit(t *testing.T) {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		t.Run(full.Error(), func(t *testing.T) {
			dir, repo, faulty := t.TempDir(), newMemRepository(), disktest.NewFaulty(disk.OS{})
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			all := map[string]string{}
			sizes := map[string]int{}
			for i, size := range []int{2000, 4000, 1000, 3000} {
				name := fmt.Sprint("/", i)
				all[name] = strings.Repeat("x", size)
				o := put(t, s, name, all[name])
				mustDo(t, s, o)
				sizes[fmt.Sprintf("%016x.spool", o.content.spool)] = size
			}
			died := errors.New("the process died here")
			repo.FailAfterCommit(died)
			if _, err := sys.Commit(t.Context(), "s"); !errors.Is(err, died) {
				t.Fatalf("commit: got %v, want %v", err, died)
			}
			repo.FailAfterCommit(nil)
			crash(t, sys)

			noSpace := faulty.Add(disktest.Fault{Ops: disktest.OpWrite | disktest.OpCreate, Path: "*.wal*", Err: full})
			var removed []int
			room := false
			freed := func(path string) {
				if !room {
					removed = append(removed, sizes[filepath.Base(path)])
				}
				if len(removed) == 2 {
					room = true
					noSpace()
				}
			}
			sys = openTestSystem(t, dir, repo, func(c *Config) { c.Disk = freeingDisk{faulty, freed} })
			want(t, "removed until there is room", removed, []int{4000, 3000})
			s = testShare(t, sys)
			want(t, "bytes in the spool", s.spool.Bytes(), 0)
			all["/h"] = "new"
			mustDo(t, s, put(t, s, "/h", all["/h"]))
			crash(t, sys)

			repo.FailIndex(snapshotter.ErrUnavailable)
			sys = openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			repo.FailIndex(nil)
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, testShare(t, sys))), all)
		})
	}
}
