package vfs

import (
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
)

// A record that could not be flushed may be found by the next start all the same. The bytes
// that it names must be there then, as they were when it was written.
func TestRestartAfterFailedPublication(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before string // what is there already
		off    int64  // of what is uploaded
		resume bool   // the client comes back at once
	}{
		{name: "over a complete file", before: "old"},
		{name: "under a free name"},
		{name: "behind a hole", off: 1},
		{name: "resumed", resume: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo, faulty := t.TempDir(), newMemRepository(), disktest.NewFaulty(disk.OS{})
			sys := openTestSystem(t, dir, repo, func(c *Config) { c.Disk = faulty })
			v := visit(t, sys, "u", PermFull, "/")
			v.put("/other", "for the journal to have a segment")
			if tt.before != "" {
				v.put("/f", tt.before)
				commitShare(t, testShare(t, sys))
			}
			f := v.open("/f", OpenWrite|OpenCreate|OpenTruncate)
			v.write(f, tt.off, big("b"))
			repair := faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "*.wal*", Err: syscall.EIO})
			wantKind(t, "close", f.Close(), KindDisk)
			if tt.resume {
				_, err := v.Open(t.Context(), "/f", OpenWrite, AttrSet{})
				wantKind(t, "resume while the journal fails", err, KindDisk)
			}
			crash(t, sys)
			repair()
			sys = openTestSystem(t, dir, repo)
			defer closeSystem(t, sys)
			s := testShare(t, sys)
			v = visit(t, sys, "u", PermFull, "/")
			if got, whole := v.get("/f"), string(make([]byte, tt.off))+big("b"); tt.before == "" || got != tt.before {
				want(t, "the upload is whole", got == whole, true)
			}
			v.put("/f", big("c"))
			commitShare(t, s)
			wantSpoolFreed(t, s)
		})
	}
}

// What was kept for such a start goes when the journal works again, and can be resumed.
func TestFailedPublicationGoesOn(t *testing.T) {
	faulty := disktest.NewFaulty(disk.OS{})
	sys, _ := fullTestSystem(t, func(c *Config) { c.Disk = faulty })
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/old", "old")
	for _, name := range []string{"/old", "/new"} {
		f := v.open(name, OpenWrite|OpenCreate|OpenTruncate)
		v.write(f, 0, big("b"))
		repair := faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "*.wal*", Err: syscall.EIO})
		wantKind(t, "close", f.Close(), KindDisk)
		repair()
	}
	f := v.open("/new", OpenWrite)
	v.write(f, int64(len(big("b"))), "end")
	v.close(f)
	want(t, "resumed", v.get("/new"), big("b")+"end")
	want(t, "not replaced", v.get("/old"), "old")
	commitShare(t, s)
	wantSpoolFreed(t, s)
}
