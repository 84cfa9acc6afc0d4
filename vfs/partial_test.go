package vfs

import (
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
)

// A rename that replaces says that the upload may: that it was opened for a free name is over then.
func TestExclusiveUploadRenamedOverAFile(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "old")
	f := v.open("/t", OpenCreate|OpenExclusive)
	v.write(f, 0, "new")
	wantNil(t, "rename", v.Rename(t.Context(), "/t", "/f", true))
	v.close(f)
	want(t, "content", v.get("/f"), "new")
}

// A disk tells only once that it has lost what was written: nothing goes on behind bytes that could not be
// flushed, but what a checkpoint has flushed before stays.
func TestNothingIsResumedThatCouldNotBeFlushed(t *testing.T) {
	for name, flushed := range map[string]int64{"no checkpoint": -1, "behind a checkpoint": 100_000} {
		t.Run(name, func(t *testing.T) {
			faulty := disktest.NewFaulty(disk.OS{})
			sys, _ := fullTestSystem(t, func(c *Config) { c.Disk = faulty })
			v := visit(t, sys, "u", PermFull, "/")
			f := v.open("/f", OpenWrite|OpenCreate)
			v.write(f, 0, big("a"))
			if flushed > 0 {
				wantNil(t, "fsync", f.Sync(t.Context()))
				v.write(f, flushed, big("b"))
			}
			faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "*.spool", Err: syscall.EIO, Times: 1})
			wantKind(t, "close", f.Close(), KindDisk)
			want(t, "failed", faulty.Hits(), 1)
			want(t, "size of the partial", v.size("/f"), flushed)
			if flushed < 0 {
				wantSpoolFreed(t, testShare(t, sys))
			}
		})
	}
}
