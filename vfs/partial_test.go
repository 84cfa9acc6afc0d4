package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/journal"
	"github.com/snapgate/gateway/vfs/internal/spool"
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

// One that was renamed so that it replaces nothing replaces nothing later.
func TestExclusiveUploadRenamedReplacesNothing(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "other", PermFull, "/")
	f := v.open("/t", OpenCreate|OpenExclusive)
	v.write(f, 0, "new")
	wantNil(t, "rename", v.Rename(t.Context(), "/t", "/f", false))
	other.put("/f", "other's")
	wantKind(t, "close", f.Close(), KindExist)
	want(t, "content", v.get("/f"), "other's")
}

// Who sends all of a file again may go on behind it: what was cut off before is of no use any more.
func TestFileThatIsThereIsSentAgainWhole(t *testing.T) {
	dir, repo, timeout := t.TempDir(), newMemRepository(), 50*time.Millisecond
	stored := func(c *Config) {
		c.Shares[0].When, c.Shares[0].AckStored, c.Shares[0].AckTimeout = WhenClose, true, timeout
	}
	sys := openTestSystem(t, dir, repo, stored)
	defer func() { closeSystem(t, sys) }()
	v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "other", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	wantNil(t, "abort", f.Abort())
	gate := repo.Block()
	f = other.open("/f", OpenWrite|OpenCreate)
	other.write(f, 0, big("a"))
	wantKind(t, "close", f.Close(), KindTimeout) // so that who sends it again makes no other version
	gate.Release()
	s := testShare(t, sys)
	commitShare(t, s)
	timeout = time.Minute
	s.cfg.Store(&ShareConfig{Name: "s", When: WhenClose, AckStored: true, AckTimeout: timeout, MaxPending: 10})
	_, err := v.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
	wantKind(t, "resume", err, KindTorn)
	v.put("/f", big("a"))
	for range 2 {
		f, err := v.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
		wantNil(t, "resume", err)
		if err == nil {
			wantNil(t, "close", f.Close())
		}
		crash(t, sys)
		sys = openTestSystem(t, dir, repo, stored)
		v = visit(t, sys, "u", PermFull, "/")
	}
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
			noCheckpoint(f)
			v.write(f, 0, big("a"))
			if flushed > 0 {
				wantNil(t, "fsync", f.Sync(t.Context()))
				noCheckpoint(f)
				v.write(f, flushed, big("b"))
			}
			faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "*.spool", Err: syscall.EIO, Times: 1})
			wantKind(t, "close", f.Close(), KindDisk)
			want(t, "failed", faulty.Hits(), 1)
			want(t, "size of the partial", v.size("/f"), flushed)
			if flushed < 0 {
				g := v.open("/g", OpenWrite|OpenCreate)
				noCheckpoint(g)
				v.write(g, 0, big("a"))
				faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "*.spool", Err: syscall.EIO, Times: 1})
				wantKind(t, "abort", g.Abort(), KindDisk)
				wantSpoolFreed(t, testShare(t, sys))
			}
		})
	}
}

// failpoint makes a system call, in the failpoint of a name, the function that is armed, once.
func failpoint(name string) (armed chan<- func(), change func(c *Config)) {
	ch := make(chan func(), 1)
	return ch, func(c *Config) {
		c.Failpoint = func(at string) {
			if at != name {
				return
			}
			select {
			case f := <-ch:
				f()
			default:
			}
		}
	}
}

// A rename that fails at last takes nothing along but what it had moved.
func TestRenameThatCannotBeJournalled(t *testing.T) {
	faulty := disktest.NewFaulty(disk.OS{})
	armed, change := failpoint(journal.FailBeforeSync)
	sys, _ := fullTestSystem(t, func(c *Config) { c.Disk = faulty }, change)
	v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "other", PermFull, "/")
	v.put("/a", "a")
	v.put("/f", "old")
	commitShare(t, testShare(t, sys)) // else the rename is preceded by a seal
	var f *File
	armed <- func() { f = other.open("/f", OpenWrite|OpenTruncate) }
	faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "*.wal*", Err: syscall.EIO, Times: 1})
	wantKind(t, "rename", v.Rename(t.Context(), "/a", "/f", true), KindDisk)
	other.write(f, 0, "new")
	other.close(f)
	want(t, "the file that was opened", v.get("/f"), "new")
	want(t, "the file that was to be renamed", v.get("/a"), "a")
}

// Partials that a renamed directory met are there again when the rename has failed, with their bytes.
func TestPartialsOfARenameThatCannotBeJournalled(t *testing.T) {
	faulty := disktest.NewFaulty(disk.OS{})
	armed, change := failpoint(journal.FailBeforeSync)
	sys, _ := fullTestSystem(t, func(c *Config) { c.Disk = faulty }, change)
	v := visit(t, sys, "u", PermFull, "/")
	for i, dir := range []string{"/a", "/b"} {
		v.mkdir(dir)
		f := v.open(dir+"/x", OpenWrite|OpenCreate)
		v.write(f, 0, big("x")[i:])
		wantNil(t, "abort", f.Abort())
	}
	s := testShare(t, sys)
	armed <- func() { wantNil(t, "sweep", s.sweep()) }
	faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "*.wal*", Err: syscall.EIO, Times: 1})
	wantKind(t, "rename", v.Rename(t.Context(), "/a", "/b", true), KindDisk)
	for i, path := range []string{"/a/x", "/b/x"} {
		want(t, path, v.size(path), int64(100_000-i))
		v.close(v.open(path, OpenResume))
		want(t, path+" resumed", v.get(path) == big("x")[i:], true)
	}
}

// A checkpoint that has begun before an fsync and ends after it does not take back what that has said.
func TestFsyncBesideACheckpoint(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	armed, change := failpoint(spool.FailAfterSync)
	sys := openTestSystem(t, dir, repo, change)
	defer func() { closeSystem(t, sys) }()
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	noCheckpoint(f)
	v.write(f, 0, big("a"))
	synced := make(chan struct{})
	armed <- func() { // in the checkpoint
		defer close(synced)
		v.write(f, 100_001, big("b"))
		wantNil(t, "fsync", f.Sync(t.Context()))
	}
	f.up.savedAt.Store(0) // one is due
	v.write(f, 100_000, "+")
	<-synced
	f.up.background.Wait()
	crash(t, sys)
	sys = openTestSystem(t, dir, repo)
	v = visit(t, sys, "u", PermFull, "/")
	want(t, "size of the partial", v.size("/f"), 200_001)
}

// Who goes on with an upload of a new file, whose name somebody else has taken meanwhile, is not let put a tail
// behind another's head.
func TestResumeAfterAnotherHasPublished(t *testing.T) {
	for name, cutOff := range map[string]bool{"cut off": true, "line is broken": false} {
		t.Run(name, func(t *testing.T) {
			sys, _ := fullTestSystem(t)
			alice, bob := visit(t, sys, "alice", PermFull, "/"), visit(t, sys, "bob", PermFull, "/")
			f := alice.open("/f", OpenWrite|OpenCreate)
			alice.write(f, 0, big("a"))
			if cutOff {
				wantNil(t, "abort", f.Abort())
			}
			bob.put("/f", "bob's")
			again := visit(t, sys, "alice", PermFull, "/")
			_, err := again.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
			wantKind(t, "APPE", err, KindTorn)
			f = again.open("/f", OpenWrite)
			_, err = f.WriteAt([]byte("tail"), 5)
			wantKind(t, "reput", err, KindTorn)
			wantNil(t, "abort", f.Abort())
			want(t, "bob's file", bob.get("/f"), "bob's")
			f = bob.open("/f", OpenWrite|OpenResume)
			bob.write(f, 5, " own")
			bob.close(f)
			again.put("/f", "alice's")
			f = again.open("/f", OpenWrite|OpenResume)
			again.write(f, 7, " own")
			again.close(f)
			want(t, "after she has sent it again", bob.get("/f"), "alice's own")
		})
	}
}

// A partial is over when its user puts something else at its name.
func TestPartialIsReplaced(t *testing.T) {
	for name, replace := range map[string]func(v visitor) error{
		"by a rename": func(v visitor) error { return v.Rename(v.t.Context(), "/new", "/x", true) },
		"by a link":   func(v visitor) error { return v.Link(v.t.Context(), "/new", "/x") },
	} {
		t.Run(name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			v := visit(t, sys, "u", PermFull, "/")
			f := v.open("/x", OpenWrite|OpenCreate)
			v.write(f, 0, big("a"))
			wantNil(t, "abort", f.Abort())
			v.put("/new", "new")
			wantNil(t, "replace", replace(v))
			wantNil(t, "remove", v.Remove(t.Context(), "/x"))
			for _, when := range []string{"running", "after a crash"} {
				want(t, "size, "+when, v.size("/x"), -1)
				crash(t, sys)
				sys = openTestSystem(t, dir, repo)
				v = visit(t, sys, "u", PermFull, "/")
			}
		})
	}
}

// That a partial cannot be opened now does not end it.
func TestPartialThatCannotBeOpenedNow(t *testing.T) {
	faulty := disktest.NewFaulty(disk.OS{})
	sys, _ := fullTestSystem(t, func(c *Config) { c.Disk = faulty })
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	wantNil(t, "abort", f.Abort())
	faulty.Add(disktest.Fault{Ops: disktest.OpOpen, Path: "*.spool", Err: syscall.EMFILE, Times: 1})
	_, err := v.Open(t.Context(), "/f", OpenResume, AttrSet{})
	wantKind(t, "resume", err, KindDisk)
	want(t, "failed", faulty.Hits(), 1)
	want(t, "size", v.size("/f"), 100_000)
	f = v.open("/f", OpenResume)
	v.write(f, 100_000, "!")
	v.close(f)
	want(t, "content", v.get("/f") == big("a")+"!", true)
}

// The journal learns of an overwrite also when no write comes that could tell it, or when it has not taken it at first.
func TestOverwriteIsNotedWithoutAWrite(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails int
		late  bool // the truncation is a request of its own, later
	}{{name: "silent"}, {name: "not taken at first", fails: 1}, {name: "cut later", late: true}} {
		fails := tt.fails
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, repo, faulty := t.TempDir(), newMemRepository(), disktest.NewFaulty(disk.OS{})
				sys := openTestSystem(t, dir, repo, func(c *Config) { c.Disk = faulty })
				defer func() { closeSystem(t, sys) }()
				v := visit(t, sys, "u", PermFull, "/")
				v.put("/f", "old")
				if tt.late {
					f := v.open("/f", OpenWrite)
					<-time.After(2 * noteAfter)
					wantNil(t, "truncate", f.SetAttr(t.Context(), AttrSet{Size: new(int64)}))
				} else {
					v.open("/f", OpenWrite|OpenTruncate)
				}
				if fails > 0 {
					faulty.Add(disktest.Fault{Ops: disktest.OpWrite, Path: "*.wal*", Err: syscall.EIO, Times: fails})
				}
				<-time.After(noteRetry + 3*noteAfter)
				synctest.Wait()
				want(t, "failed", faulty.Hits(), fails)
				faulty.Clear()
				crash(t, sys)
				sys = openTestSystem(t, dir, repo)
				v = visit(t, sys, "u", PermFull, "/")
				_, err := v.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
				wantKind(t, "resume", err, KindTorn)
			})
		})
	}
}

// While nobody can say whether a complete file has the name, one may have it. That lasts.
func TestTornWhileTheStoreIsAway(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	v := visit(t, sys, "u", PermFull, "/")
	v.mkdir("/d")
	v.put("/d/f", "old")
	commitShare(t, testShare(t, sys))
	f := v.open("/d/f", OpenWrite|OpenTruncate)
	repo.FailIndex(snapshotter.ErrUnavailable)
	wantNil(t, "abort", f.Abort())
	repo.FailIndex(nil)
	for range 2 {
		_, err := v.Open(t.Context(), "/d/f", OpenWrite|OpenResume, AttrSet{})
		wantKind(t, "resume", err, KindTorn)
		crash(t, sys)
		sys = openTestSystem(t, dir, repo)
		v = visit(t, sys, "u", PermFull, "/")
	}
}

// An upload that gets another name while it is open is no partial of its old one.
func TestPartialOfARenamedUpload(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f.part", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	wantNil(t, "fsync", f.Sync(t.Context()))
	wantNil(t, "rename", v.Rename(t.Context(), "/f.part", "/f", false))
	v.write(f, 100_000, "+")
	wantNil(t, "abort", f.Abort())
	for _, when := range []string{"running", "after a crash"} {
		want(t, "size under the old name, "+when, v.size("/f.part"), -1)
		want(t, "size under the new name, "+when, v.size("/f"), 100_001)
		crash(t, sys)
		sys = openTestSystem(t, dir, repo)
		v = visit(t, sys, "u", PermFull, "/")
	}
	f = v.open("/f", OpenResume)
	v.close(f)
	want(t, "content", v.get("/f") == big("a")+"+", true)
}

// That a line has broken in an overwrite is durable when the upload has ended: its principal may be back at once.
func TestTornIsDurable(t *testing.T) {
	sys, _ := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "old")
	f := v.open("/f", OpenWrite|OpenTruncate)
	v.write(f, 0, "new")
	wantNil(t, "abort", f.Abort())
	wantNil(t, "exec", s.exec(t.Context(), func() error { want(t, "unsynced", len(s.seq.unsynced), 0); return nil }))
	want(t, "noted", s.uploads.isCut("u", mustName(t, "/f")), true)
}

// A file that is renamed while its overwrite is cut off is torn under its new name.
func TestTornInTheBatchOfItsRename(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/a", "old")
	f := v.open("/a", OpenWrite|OpenTruncate)
	var wg sync.WaitGroup
	wantNil(t, "exec", s.exec(t.Context(), func() error { // in the sequencer: what comes now is one batch
		for i, do := range []func() error{
			func() error { return v.Rename(t.Context(), "/a", "/f", false) },
			f.Abort,
		} {
			wg.Go(func() { wantNil(t, "in the batch", do()) })
			for len(s.requests) <= i {
				runtime.Gosched()
			}
		}
		return nil
	}))
	wg.Wait()
	for _, when := range []string{"running", "after a crash"} {
		_, err := v.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
		wantKind(t, "resume, "+when, err, KindTorn)
		crash(t, sys)
		sys = openTestSystem(t, dir, repo)
		v = visit(t, sys, "u", PermFull, "/")
	}
}

// While a directory is being renamed, what is known of cut-off overwrites below counts for handles that were
// opened before.
func TestTornWhileRenamed(t *testing.T) {
	armed, change := failpoint(journal.FailBeforeSync)
	sys, _ := fullTestSystem(t, change)
	v := visit(t, sys, "u", PermFull, "/")
	v.mkdir("/d")
	v.put("/d/f", "0123456789")
	wantNil(t, "abort", v.open("/d/f", OpenWrite|OpenTruncate).Abort())
	f := v.open("/d/f", OpenWrite)
	var err error
	armed <- func() { _, err = f.WriteAt([]byte("tail"), 10) }
	wantNil(t, "rename", v.Rename(t.Context(), "/d", "/e", false))
	wantKind(t, "write", err, KindTorn)
	_, err = f.WriteAt([]byte("tail"), 10)
	wantKind(t, "write after it", err, KindTorn)
	wantNil(t, "abort", f.Abort())
}

// cutOff leaves a partial of a size at a path a moment later, in a bubble, and returns its spool file.
func (v visitor) cutOff(s *share, path string, size int) (file string) {
	v.t.Helper()
	f := v.open(path, OpenWrite|OpenCreate)
	v.write(f, 0, string(make([]byte, size)))
	<-time.After(time.Millisecond)
	wantNil(v.t, "abort of "+path, f.Abort())
	return filepath.Join(s.dir("spool"), fmt.Sprintf("%016x.spool", f.up.spoolID()))
}

func allowPartials(s *share, most int) {
	s.uploads.mu.Lock()
	defer s.uploads.mu.Unlock()
	s.uploads.most = most
}

// The newest partials of a principal are kept, as many as it may have; others' are not counted, nor what somebody goes on with.
func TestPartialsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, repo := t.TempDir(), newMemRepository()
		sys := openTestSystem(t, dir, repo)
		s := testShare(t, sys)
		synctest.Wait() // the share has looked for partials beyond its bounds, and does so again in a while
		allowPartials(s, 3)
		v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "other", PermFull, "/")
		files := []string{other.cutOff(s, "/other", 100_000)}
		for n := range 5 {
			files = append(files, v.cutOff(s, fmt.Sprint("/", n), 100_000+n))
		}
		for _, moment := range []string{"then", "after a restart"} {
			want(t, "other's "+moment, other.size("/other"), 100_000)
			for n := range 5 {
				size := int64(100_000 + n)
				if n < 2 {
					size = -1
				}
				want(t, fmt.Sprint("size of ", n, " ", moment), v.size(fmt.Sprint("/", n)), size)
			}
			for n, file := range files {
				_, err := os.Stat(file)
				want(t, fmt.Sprint("spool file ", n, " is gone ", moment), errors.Is(err, fs.ErrNotExist), n == 1 || n == 2)
			}
			want(t, "partials "+moment, sys.Status().Partials, 4)
			crash(t, sys)
			sys = openTestSystem(t, dir, repo)
			v, other = visit(t, sys, "u", PermFull, "/"), visit(t, sys, "other", PermFull, "/")
		}
		defer func() { closeSystem(t, sys) }()
		s = testShare(t, sys)
		f := v.open("/2", OpenResume)
		synctest.Wait()
		allowPartials(s, 1)
		v.cutOff(s, "/5", 100_000)
		want(t, "the last", v.size("/5"), 100_000)
		want(t, "one before it", v.size("/4"), -1)
		want(t, "partials that nobody goes on with", sys.Status().Partials, 2)
		v.close(f)
		want(t, "size of what somebody went on with", len(v.get("/2")), 100_002)
	})
}

// Partials of one principal leave room in the spool for others' uploads, whatever their number; the newest is kept all the same.
func TestBytesOfPartialsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, repo := t.TempDir(), newMemRepository()
		sys := openTestSystem(t, dir, repo)
		v := visit(t, sys, "u", PermFull, "/")
		for n := range 3 {
			v.cutOff(testShare(t, sys), fmt.Sprint("/", n), mib)
		}
		want(t, "bytes of partials", sys.Status().PartialBytes/mib, 3)
		crash(t, sys)

		sys = openTestSystem(t, dir, repo, func(c *Config) { c.Limits.SpoolBytes = 4 * mib }) // half of which is enough for one
		defer func() { closeSystem(t, sys) }()
		s := testShare(t, sys)
		v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "other", PermFull, "/")
		synctest.Wait() // the share has looked for partials beyond its bounds
		for n, size := range []int64{-1, -1, mib} {
			want(t, fmt.Sprint("size of ", n), v.size(fmt.Sprint("/", n)), size)
		}
		v.cutOff(s, "/large", 5*mib/2)
		want(t, "the one before it", v.size("/2"), -1)
		want(t, "size of the large one", v.size("/large"), 5*mib/2)
		other.cutOff(s, "/a", mib/2)
		other.cutOff(s, "/b", mib/2)
		want(t, "other's first", other.size("/a"), -1)
		want(t, "other's second", other.size("/b"), mib/2)
		want(t, "the large one", v.size("/large"), 5*mib/2)
	})
}

// A partial that its client has resumed and was cut off from again since it was found to be one of the oldest is not given up: it goes on in the
// same spool file.
func TestResumedPartialIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, _ := fullTestSystem(t)
		s := testShare(t, sys)
		v := visit(t, sys, "u", PermFull, "/")
		v.cutOff(s, "/f", 100_000)
		v.cutOff(s, "/g", 100_000)
		synctest.Wait()
		allowPartials(s, 1)
		list := s.uploads.beyond("u", s.partialLimit("u"))
		want(t, "beyond the bound", len(list), 1)
		allowPartials(s, 2)
		f := v.open("/f", OpenResume)
		v.write(f, 100_000, "more")
		<-time.After(time.Millisecond)
		wantNil(t, "abort", f.Abort())
		if err := s.dropPartial(t.Context(), list[0]); !errors.Is(err, errResumed) {
			t.Errorf("give up: got %v, want %v", err, errResumed)
		}
		want(t, "size", v.size("/f"), 100_004)
	})
}

// Who goes on by the size of a file that somebody else has put at the name of an upload is refused as well when what was left of that is given up.
func TestResumeAfterPartialIsGivenUp(t *testing.T) {
	for _, expired := range []bool{false, true} {
		t.Run(fmt.Sprintf("expired %v", expired), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, repo := t.TempDir(), newMemRepository()
				sys := openTestSystem(t, dir, repo)
				defer func() { closeSystem(t, sys) }()
				s := testShare(t, sys)
				synctest.Wait()
				alice, bob := visit(t, sys, "alice", PermFull, "/"), visit(t, sys, "bob", PermFull, "/")
				alice.cutOff(s, "/f", 100_000)
				alice.cutOff(s, "/free", 100_000)
				bob.put("/f", big("b"))
				if expired {
					wantNil(t, "expire", s.expirePartials(t.Context(), time.Now().Add(s.config().PartialMaxAge+time.Minute)))
				} else {
					allowPartials(s, 1)
					alice.cutOff(s, "/g", 100_000)
				}
				for _, moment := range []string{"then", "after a restart"} {
					_, kept := s.uploads.partial("alice", Name{"/f"})
					want(t, "a partial "+moment, kept, false)
					_, err := alice.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
					wantKind(t, "resume "+moment, err, KindTorn)
					want(t, "size of what has a free name "+moment, alice.size("/free"), -1)
					crash(t, sys)
					sys = openTestSystem(t, dir, repo)
					s = testShare(t, sys)
					alice = visit(t, sys, "alice", PermFull, "/")
				}
			})
		})
	}
}
