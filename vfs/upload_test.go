package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// big is larger than what rides in the journal, so it takes the way through a spool file.
func big(c string) string { return strings.Repeat(c, 100_000) }

func TestUploadsTable(t *testing.T) {
	name := func(s string) Name { return mustName(t, s) }
	table := newUploads()
	idle := 0
	table.idle = func() { idle++ }
	add := func(at string, onto, exclusive bool) *upload {
		u := &upload{user: "u", onto: onto, exclusive: exclusive}
		if err := table.add(u, name(at)); err != nil {
			t.Fatal(err)
		}
		return u
	}
	fresh, onto := add("/a/x", false, false), add("/a/x", true, false)
	below := add("/a/d/y", false, true)
	wantKind(t, "second exclusive", table.add(&upload{exclusive: true}, name("/a/d/y")), KindExist)
	want(t, "below /a/d", table.leave(name("/a/d")), false)
	want(t, "below /a/x", table.leave(name("/a/x")), true)
	want(t, "below /a/dd", table.leave(name("/a/dd")), true)
	want(t, "open below what leaves", errors.Is(table.add(&upload{}, name("/a/dd/x")), errLeaving), true)
	table.arrived()

	table.move(name("/a/x"), name("/b"))
	want(t, "a fresh upload stays with its name", fresh.name().String(), "/a/x")
	want(t, "one on a file follows it", onto.name().String(), "/b")
	table.put(partial{name: name("/a/p"), user: "u", spool: 1})
	table.put(partial{name: name("/a"), user: "u", spool: 2})
	table.move(name("/a"), name("/z/a"))
	want(t, "below a directory", fresh.name().String(), "/z/a/x")
	want(t, "deep below", below.name().String(), "/z/a/d/y")
	replaced := add("/z/new", true, false)
	moved := table.move(name("/b"), name("/z/new"))
	want(t, "its file is gone", replaced.onto, false)
	later := add("/z/new", true, false)
	table.moveBack(moved)
	want(t, "undone", onto.name().String(), "/b")
	want(t, "one on a file that was not replaced", replaced.name().String(), "/z/new")
	want(t, "it still has its file", replaced.onto, true)
	want(t, "one that was opened meanwhile", later.name().String(), "/z/new")
	table.remove(later)
	table.remove(replaced)

	_, ok := table.partial("u", name("/z/a/p"))
	want(t, "partial follows", ok, true)
	_, ok = table.partial("u", name("/a"))
	want(t, "partial of the name itself stays", ok, true)
	_, ok = table.partial("v", name("/z/a/p"))
	want(t, "partial of another", ok, false)

	want(t, "open", table.count(), 3)
	for _, u := range []*upload{fresh, onto, below, below} {
		table.remove(u)
	}
	want(t, "open", table.count(), 0)
	want(t, "idle", idle, 1)
}

func TestUploadsOrphans(t *testing.T) {
	at := mustName(t, "/p")
	table := newUploads()
	table.put(partial{name: at, user: "u", spool: 1})
	table.put(partial{name: at, user: "u", spool: 1, size: 2})
	want(t, "a newer checkpoint frees nothing", len(table.sweep()), 0)
	table.put(partial{name: at, user: "u", spool: 2})
	want(t, "a replaced one", table.sweep(), []spool.ID{1})
	want(t, "only once", len(table.sweep()), 0)
	table.published("u", at, 2)
	want(t, "published", len(table.sweep()), 0)
	want(t, "is no partial", len(table.partials()), 0)

	table.put(partial{name: at, user: "u", spool: 3})
	table.published("u", at, 4)
	want(t, "superseded", table.sweep(), []spool.ID{3})
	table.put(partial{name: at, user: "u", spool: 5})
	table.put(partial{name: mustName(t, "/q"), user: "u", spool: 5})
	table.gone("u", at)
	want(t, "renamed", len(table.sweep()), 0)
	u := &upload{user: "u"}
	u.spoolNo.Store(5)
	wantNil(t, "add", table.add(u, mustName(t, "/q")))
	_, ok := table.partial("u", mustName(t, "/q"))
	want(t, "a live handle's checkpoint is no partial", ok, false)
	table.gone("u", mustName(t, "/q"))
	want(t, "in use", len(table.sweep()), 0)
}

func TestExtentArithmetic(t *testing.T) {
	xs := func(v ...int64) (out []spool.Extent) {
		for i := 0; i < len(v); i += 2 {
			out = append(out, spool.Extent{Off: v[i], Len: v[i+1]})
		}
		return out
	}
	for _, tt := range []struct {
		name  string
		xs    []spool.Extent
		limit int64
		gaps  []spool.Extent
		reach int64
	}{
		{"nothing", nil, 0, nil, 0},
		{"base only", nil, 10, xs(0, 10), 10},
		{"covered", xs(0, 20), 10, nil, 20},
		{"appended", xs(10, 5), 10, xs(0, 10), 15},
		{"behind a hole", xs(11, 5), 10, xs(0, 10), 10},
		{"in the middle", xs(3, 2, 7, 1), 10, xs(0, 3, 5, 2, 8, 2), 10},
		{"no base", xs(0, 3, 5, 2), 0, nil, 3},
		{"hole at the start", xs(1, 3), 0, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want(t, "gaps", gapsBelow(tt.xs, tt.limit), tt.gaps)
			want(t, "reach", contiguous(tt.xs, tt.limit), tt.reach)
		})
	}
	want(t, "cut", cutExtents(xs(0, 3, 5, 9, 20, 1), 7), xs(0, 3, 5, 2))
}

func TestCutOffUploads(t *testing.T) {
	for _, data := range []string{"small", big("x")} {
		sys, _ := fullTestSystem(t)
		a := visit(t, sys, "u", PermFull, "/")
		n := int64(len(data))
		half := a.open("/f", OpenWrite|OpenCreate|OpenTruncate)
		a.write(half, 0, data)
		alive(half)
		want(t, "own size", a.size("/f"), n)
		other := visit(t, sys, "other", PermFull, "/")
		b := visit(t, sys, "u", PermFull, "/")
		want(t, "another principal", other.size("/f"), -1)
		want(t, "another session", b.size("/f"), -1)
		want(t, "own listing", a.list("/"), []string{})
		want(t, "own reading", a.get("/f"), data)
		wantNil(t, "drop", a.Close())

		want(t, "partial", b.size("/f"), n)
		want(t, "of another principal", other.size("/f"), -1)
		want(t, "listing", b.list("/"), []string{})
		want(t, "reading", b.get("/f"), "<no such file or directory>")
		for _, flag := range []OpenFlag{OpenWrite, OpenWrite | OpenCreate, OpenResume} {
			f := b.open("/f", flag)
			b.write(f, n, "+")
			n++
			wantNil(t, "abort", f.Abort())
			want(t, "continued", b.size("/f"), n)
		}
		f := b.open("/f", OpenWrite|OpenCreate)
		b.write(f, n, "!")
		b.close(f)
		want(t, "completed", other.get("/f"), data+"+++!")
		wantNil(t, "remove", other.Remove(t.Context(), "/f"))
		want(t, "the partial is gone with its completion", b.size("/f"), -1)
		want(t, "spool", testShare(t, sys).uploads.partials(), []partial{})
	}
}

func TestNoPartialIsLeft(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/there", "complete")
	for _, tt := range []struct {
		name string
		path string
		flag OpenFlag
		off  int64
		data string
		size int64
	}{
		{"of an empty upload", "/e", OpenCreate, 0, "", -1},
		{"without its beginning", "/h", OpenCreate, 10, big("x"), -1},
		{"under a complete file", "/there", OpenWrite | OpenTruncate, 0, big("y"), 8},
		{"of changes to a complete file", "/there", OpenWrite, 4, big("y"), 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := v.open(tt.path, tt.flag)
			if tt.data != "" {
				v.write(f, tt.off, tt.data)
			}
			wantNil(t, "abort", f.Abort())
			want(t, "size", v.size(tt.path), tt.size)
			want(t, "partials", len(testShare(t, sys).uploads.partials()), 0)
		})
	}
	want(t, "the complete file", v.get("/there"), "complete")
}

func TestPartialEndsAtItsFirstGap(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenCreate)
	v.write(f, 0, "0123")
	v.write(f, 6, big("x"))
	wantNil(t, "abort", f.Abort())
	want(t, "size", v.size("/f"), 4)
	f = v.open("/f", OpenWrite)
	v.write(f, 4, "45")
	v.close(f)
	want(t, "nothing of the rest comes back", v.get("/f"), "012345")
}

func TestTakeOver(t *testing.T) {
	sys, _ := fullTestSystem(t)
	dead, v := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	old := dead.open("/f", OpenWrite|OpenCreate)
	dead.write(old, 0, big("a"))
	old.up.quiet.Store(time.Now().Add(-deadAfter).UnixNano() - 1)
	f := v.open("/f", OpenWrite|OpenCreate)
	i, err := f.Stat(t.Context())
	wantNil(t, "fstat", err)
	want(t, "size", i.Size, 100_000)
	_, err = old.WriteAt([]byte("late"), 0)
	wantKind(t, "the old handle's write", err, KindBusy)
	v.write(f, 100_000, "b")
	wantKind(t, "its close", old.Close(), KindBusy)
	v.close(f)
	want(t, "content", v.get("/f"), big("a")+"b")

	// Not with truncation, and not another principal's.
	first := dead.open("/g", OpenWrite|OpenCreate|OpenTruncate)
	dead.write(first, 0, "first")
	v.put("/g", "second")
	want(t, "last close so far", v.get("/g"), "second")
	dead.close(first)
	want(t, "last close wins", v.get("/g"), "first")

	// Nor from a handle that is in use, unless the client says that it resumes.
	first = dead.open("/i", OpenWrite|OpenCreate)
	dead.write(first, 0, "first")
	alive(first)
	busy := v.open("/i", OpenWrite|OpenCreate)
	v.write(busy, 0, "second")
	v.close(busy)
	dead.close(first)
	want(t, "each made a version", v.get("/i"), "first")
	first = dead.open("/j", OpenWrite|OpenCreate)
	dead.write(first, 0, "half")
	resumed := v.open("/j", OpenWrite|OpenCreate|OpenResume)
	v.write(resumed, 4, " whole")
	v.close(resumed)
	want(t, "resumed", v.get("/j"), "half whole")
	wantKind(t, "the old handle", first.Close(), KindBusy)

	// What the old handle was to be published over binds it alone.
	first = dead.open("/k", OpenWrite|OpenCreate)
	wantNil(t, "publish over", first.PublishOver(nil))
	dead.write(first, 0, "half")
	resumed = v.open("/k", OpenWrite|OpenCreate|OpenResume)
	v.write(resumed, 4, " whole")
	visit(t, sys, "w", PermFull, "/").put("/k", "theirs")
	v.close(resumed)
	want(t, "resumed over what came in between", v.get("/k"), "half whole")

	first = dead.open("/h", OpenWrite|OpenCreate)
	dead.write(first, 0, "mine")
	other := visit(t, sys, "other", PermFull, "/")
	second := other.open("/h", OpenWrite|OpenCreate)
	other.write(second, 0, "x")
	dead.close(first)
	other.close(second)
	want(t, "two principals", v.get("/h"), "x")
}

// A client that reconnects asks for the size before the server knows that the old line is
// dead: a handle that has been quiet shows as a partial to its principal's other sessions.
func TestQuietUploadShowsToItsPrincipal(t *testing.T) {
	sys, _ := fullTestSystem(t)
	dead, v := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	f := dead.open("/f", OpenWrite|OpenCreate)
	dead.write(f, 0, "half")
	dead.write(f, 100, "beyond a gap")
	alive(f)
	want(t, "at once", v.size("/f"), -1)
	f.up.quiet.Store(time.Now().Add(-deadAfter).UnixNano() - 1)
	want(t, "later", v.size("/f"), 4)
	want(t, "to others", visit(t, sys, "w", PermFull, "/").size("/f"), -1)
	want(t, "to itself", dead.size("/f"), 112)
}

func TestResumeAfterCrash(t *testing.T) {
	repo := newMemRepository()
	dir := t.TempDir()
	sys := openTestSystem(t, dir, repo)
	v := visit(t, sys, "u", PermFull, "/")
	v.mkdir("/d")
	f := v.open("/d/f", OpenWrite|OpenCreate)
	v.write(f, 0, "synced")
	wantNil(t, "sync", f.Sync(t.Context()))
	noCheckpoint(f)
	v.write(f, 6, "lost")
	g := v.open("/d/g", OpenWrite|OpenCreate) // never synced
	noCheckpoint(g)
	v.write(g, 0, big("g"))
	wantNil(t, "rename above", v.Rename(t.Context(), "/d", "/e", false))
	crash(t, sys)

	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	v = visit(t, sys, "u", PermFull, "/")
	want(t, "synced part", v.size("/e/f"), 6)
	want(t, "what was not synced", v.size("/e/g"), -1)
	want(t, "listing", v.list("/e"), []string{})
	f = v.open("/e/f", OpenResume)
	v.write(f, 6, "!")
	v.close(f)
	want(t, "completed", v.get("/e/f"), "synced!")
}

// A client that resumes counts on the bytes that it was told of: when they are gone the
// resume fails, and only what comes after it starts anew.
func TestResumeOfDamagedPartial(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("x"))
	wantNil(t, "abort", f.Abort())
	s := testShare(t, sys)
	wantNil(t, "remove the spool file", s.spool.Remove(s.uploads.partials()[0].spool))
	_, err := v.Open(t.Context(), "/f", OpenWrite|OpenCreate, AttrSet{})
	wantKind(t, "resume", err, KindDisk)
	want(t, "size", v.size("/f"), -1)
	f = v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, "new")
	v.close(f)
	want(t, "content", v.get("/f"), "new")
	want(t, "open handles", sys.handles.count(), 0)
}

// A client that resumes a cut-off overwrite goes by the size of the old version, which is
// still there: its tail must not be put on the old head.
func TestResumeOfCutOverwrite(t *testing.T) {
	sys, _ := fullTestSystem(t)
	dead, v := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	v.put("/f", "old version")
	f := dead.open("/f", OpenWrite|OpenCreate|OpenTruncate)
	dead.write(f, 0, "new ver")
	wantNil(t, "the line breaks", dead.Close())
	f = v.open("/f", OpenWrite|OpenCreate)
	_, err := f.WriteAt([]byte("tail"), v.size("/f"))
	wantKind(t, "reput", err, KindTorn)
	wantNil(t, "abort", f.Abort())
	want(t, "the old version", v.get("/f"), "old version")

	// Others may append, and so may the principal after a whole upload.
	other := visit(t, sys, "other", PermFull, "/")
	f = other.open("/f", OpenWrite)
	other.write(f, 11, "+")
	other.close(f)
	want(t, "appended by another principal", v.get("/f"), "old version+")
	f = v.open("/f", OpenWrite|OpenCreate) // as scp does
	v.write(f, 0, "whole new version")
	v.close(f)
	f = v.open("/f", OpenWrite)
	v.write(f, 17, "+")
	v.close(f)
	want(t, "appended after a whole upload", v.get("/f"), "whole new version+")
}

// alive has an upload pass for one that is in use, however slow the machine is.
func alive(f *File) { f.up.quiet.Store(time.Now().Add(time.Hour).UnixNano()) }

// noCheckpoint has no time make a checkpoint of an upload due, however slow the machine is.
func noCheckpoint(f *File) { f.up.savedAt.Store(time.Now().Add(time.Hour).UnixNano()) }

// What an fsync has made durable makes no checkpoint due, by its bytes or by its age; when it has failed, it does.
func TestNoCheckpointAfterFsync(t *testing.T) {
	faulty := disktest.NewFaulty(disk.OS{})
	sys, _ := fullTestSystem(t, func(c *Config) { c.Disk = faulty })
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	write := func(off int64) {
		v.write(f, off, big("x"))
		f.up.background.Wait()
	}
	noCheckpoint(f)
	write(0)
	f.up.savedAt.Store(0)
	f.up.unsaved.Store(checkpointBytes)
	began := time.Now().UnixNano()
	wantNil(t, "fsync", f.Sync(t.Context()))
	if at := f.up.savedAt.Load(); at < began {
		t.Errorf("the age counts from %v, before the fsync", time.Unix(0, at))
	}
	noCheckpoint(f)
	write(100_000)
	want(t, "recorded with a write after it", f.up.saved.Load(), 100_000)
	f.up.unsaved.Store(checkpointBytes - 1)
	faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "*.wal*", Err: syscall.EIO, Times: 1})
	wantKind(t, "fsync", f.Sync(t.Context()), KindDisk)
	write(200_000)
	want(t, "recorded with a write after one that has failed", f.up.saved.Load(), 300_000)
	v.close(f)
}

// On a slow line a checkpoint is due after a while, however little has arrived.
func TestCheckpointOfSlowUpload(t *testing.T) {
	repo := newMemRepository()
	dir := t.TempDir()
	sys := openTestSystem(t, dir, repo)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	f.up.savedAt.Store(time.Now().Add(-checkpointEvery).UnixNano())
	v.write(f, 100_000, big("b"))
	f.up.background.Wait()
	crash(t, sys)
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	want(t, "the partial after a crash", visit(t, sys, "u", PermFull, "/").size("/f"), 200_000)
}

func TestCheckpoint(t *testing.T) {
	repo := newMemRepository()
	dir := t.TempDir()
	sys := openTestSystem(t, dir, repo)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	noCheckpoint(f) // but for the bytes
	piece := bytes.Repeat([]byte("abcdefgh"), 1<<17)
	for off := int64(0); off < checkpointBytes+1<<20; off += int64(len(piece)) {
		if _, err := f.WriteAt(piece, off); err != nil {
			t.Fatal(err)
		}
	}
	f.up.background.Wait()
	crash(t, sys)
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	v = visit(t, sys, "u", PermFull, "/")
	if n := v.size("/f"); n < checkpointBytes {
		t.Errorf("after a crash the partial has %d bytes, want %d at least", n, checkpointBytes)
	}
	f = v.open("/f", OpenResume)
	var size int64
	if i, err := f.Stat(t.Context()); err == nil {
		size = i.Size
	}
	got := make([]byte, 8)
	f.flag |= OpenRead
	if _, err := f.ReadAt(got, size-size%8-8); err != nil || string(got) != "abcdefgh" {
		t.Errorf("the end of the partial reads %q, %v", got, err)
	}
	wantNil(t, "abort", f.Abort())
}

func TestUnchangedHandlePublishesNothing(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "data")
	node := func() *node {
		n, err := testShare(t, sys).current().lookup(t.Context(), mustName(t, "/f"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := node().version
	f := v.open("/f", OpenWrite|OpenCreate)
	size := int64(4)
	wantNil(t, "set the size it has", f.SetAttr(t.Context(), AttrSet{Size: &size}))
	v.close(f)
	want(t, "version", node().version, before)

	mode := fs.FileMode(0o600)
	f = v.open("/f", OpenWrite)
	wantNil(t, "set mode", f.SetAttr(t.Context(), AttrSet{Mode: &mode}))
	v.close(f)
	want(t, "version", node().version, before)
	want(t, "mode", node().attr.Mode, mode)

	v.put("/e", "")
	want(t, "an empty file", v.size("/e"), 0)
	v.close(v.open("/e2", OpenWrite|OpenCreate))
	want(t, "an empty file without a write", v.get("/e2"), "")
}

func TestAttributesTakeEffectWithPublication(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "o", PermFull, "/")
	when, mode, size := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC), fs.FileMode(0o640), int64(3)
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, "data")
	wantNil(t, "by path", v.SetAttr(t.Context(), "/f", AttrSet{ModTime: &when, Size: &size}, true))
	wantNil(t, "by handle", f.SetAttr(t.Context(), AttrSet{Mode: &mode}))
	i, err := v.Stat(t.Context(), "/f")
	wantNil(t, "stat", err)
	want(t, "own view", []any{i.Size, i.ModTime, i.Mode}, []any{size, when, mode})
	want(t, "others", other.size("/f"), -1)
	v.close(f)
	i, err = other.Stat(t.Context(), "/f")
	wantNil(t, "stat", err)
	want(t, "published", []any{i.Size, i.ModTime, i.Mode}, []any{size, when, mode})
	v.put("/f", "new")
	i, err = other.Stat(t.Context(), "/f")
	wantNil(t, "stat", err)
	want(t, "an overwritten file keeps its mode", i.Mode, mode)
	if time.Since(i.ModTime) > time.Hour {
		t.Errorf("an overwritten file has the old time %v", i.ModTime)
	}
}

// Handles of one session on one name are one file to the client, as on any filesystem.
func TestHandlesOfASessionShareAnUpload(t *testing.T) {
	for _, start := range []string{"", "old"} {
		sys, _ := fullTestSystem(t)
		v, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "o", PermFull, "/")
		if start != "" {
			v.put("/f", start)
		}
		a := v.open("/f", OpenWrite|OpenCreate|OpenTruncate)
		v.write(a, 0, "aaaa")
		b := v.open("/f", OpenRead|OpenWrite|OpenCreate)
		v.write(b, 2, "bbbb")
		got := make([]byte, 6)
		_, err := b.ReadAt(got, 0)
		wantNil(t, "read", err)
		want(t, "b reads what a wrote", string(got), "aabbbb")
		_, err = v.Open(t.Context(), "/f", OpenCreate|OpenExclusive, AttrSet{})
		wantKind(t, "exclusive open", err, KindExist)
		v.close(b)
		want(t, "published by the first close", other.get("/f"), "aabbbb")
		v.write(a, 0, "c")
		c := v.open("/f", OpenWrite)
		wantNil(t, "abort of one", c.Abort())
		v.close(a)
		want(t, "and by the second", other.get("/f"), "cabbbb")
		want(t, "open uploads", testShare(t, sys).uploads.count(), 0)
	}
}

// What a truncation took away must not come back from a checkpoint as bytes nobody wrote.
func TestCheckpointAfterTruncation(t *testing.T) {
	repo := newMemRepository()
	dir := t.TempDir()
	sys := openTestSystem(t, dir, repo)
	v := visit(t, sys, "u", PermFull, "/")
	small, none := int64(10), int64(0)
	for path, size := range map[string]*int64{"/f": &small, "/g": &none} {
		f := v.open(path, OpenWrite|OpenCreate)
		v.write(f, 0, big("x"))
		wantNil(t, "sync", f.Sync(t.Context()))
		wantNil(t, "truncate", f.SetAttr(t.Context(), AttrSet{Size: size}))
		noCheckpoint(f)
		v.write(f, 50_000, big("y"))
	}
	crash(t, sys)
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	v = visit(t, sys, "u", PermFull, "/")
	want(t, "shortened", v.size("/f"), 10)
	want(t, "emptied", v.size("/g"), -1)
}

func TestAcknowledgeStored(t *testing.T) {
	sys, repo := fullTestSystem(t, func(c *Config) {
		c.Shares[0].When, c.Shares[0].AckStored = WhenClose, true
		c.Shares[0].AckTimeout = time.Minute
	})
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", big("a"))
	want(t, "in a snapshot when acknowledged", v.get("/.snapshots/latest/f"), big("a"))
	v.put("/g.part", "x")
	want(t, "temp names do not wait", v.size("/.snapshots/latest/g.part"), -1)
	wantNil(t, "rename", v.Rename(t.Context(), "/g.part", "/g", false))
	want(t, "their rename does", v.get("/.snapshots/latest/g"), "x")

	repo.FailCommits(snapshotter.ErrUnavailable)
	f := v.open("/f", OpenWrite|OpenTruncate)
	v.write(f, 0, big("b"))
	wantKind(t, "while the store is away", f.Close(), KindUnavailable)
	want(t, "the change stays", v.get("/f"), big("b"))
	node, err := testShare(t, sys).current().lookup(t.Context(), mustName(t, "/f"))
	wantNil(t, "lookup", err)
	repo.FailCommits(nil)
	v.put("/f", big("b"))
	again, err := testShare(t, sys).current().lookup(t.Context(), mustName(t, "/f"))
	wantNil(t, "lookup", err)
	want(t, "a retry makes no second version", again.version, node.version)
	want(t, "stored", v.get("/.snapshots/latest/f"), big("b"))
}

func TestExclusive(t *testing.T) {
	sys, _ := fullTestSystem(t)
	a, b := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	f := a.open("/lock", OpenCreate|OpenExclusive)
	_, err := b.Open(t.Context(), "/lock", OpenCreate|OpenExclusive, AttrSet{})
	wantKind(t, "second exclusive open", err, KindExist)
	b.put("/lock", "b")
	wantKind(t, "close when the name was taken", f.Close(), KindExist)
	want(t, "the first to publish", a.get("/lock"), "b")
	_, err = a.Open(t.Context(), "/lock", OpenCreate|OpenExclusive, AttrSet{})
	wantKind(t, "exclusive open of a file", err, KindExist)

	// It starts anew, even where there is a partial.
	f = a.open("/p", OpenCreate)
	a.write(f, 0, "long partial")
	wantNil(t, "abort", f.Abort())
	f = a.open("/p", OpenCreate|OpenExclusive)
	a.write(f, 0, "new")
	a.close(f)
	want(t, "content", a.get("/p"), "new")
}

// What somebody has looked at is replaced, and nothing else, whatever others do until it is published.
func TestPublishOver(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before string // "": nothing has the name
		then   func(t *testing.T, v visitor)
		kind   Kind // KindOther: it is published
		after  string
	}{
		{name: "nothing happens", before: "old", then: func(*testing.T, visitor) {}, after: "new"},
		{name: "nothing was there", then: func(*testing.T, visitor) {}, after: "new"},
		{name: "another version", before: "old", then: func(_ *testing.T, v visitor) { v.put("/d/f", "oth") }, kind: KindChanged, after: "oth"},
		{name: "created", then: func(_ *testing.T, v visitor) { v.put("/d/f", "oth") }, kind: KindChanged, after: "oth"},
		{name: "removed", before: "old", then: func(t *testing.T, v visitor) {
			wantNil(t, "remove", v.Remove(t.Context(), "/d/f"))
		}, kind: KindChanged, after: "<no such file or directory>"},
		{name: "removed and made again", before: "old", then: func(t *testing.T, v visitor) {
			wantNil(t, "remove", v.Remove(t.Context(), "/d/f"))
			v.put("/d/f", "old")
		}, kind: KindChanged, after: "old"},
		{name: "another file renamed over it", before: "old", then: func(t *testing.T, v visitor) {
			v.put("/g", "oth")
			wantNil(t, "rename", v.Rename(t.Context(), "/g", "/d/f", true))
		}, kind: KindChanged, after: "oth"},
		{name: "moved away", before: "old", then: func(t *testing.T, v visitor) {
			wantNil(t, "rename", v.Rename(t.Context(), "/d/f", "/d/g", false))
		}, kind: KindChanged, after: "<no such file or directory>"},
		{name: "directory moved", before: "old", then: func(t *testing.T, v visitor) {
			wantNil(t, "rename", v.Rename(t.Context(), "/d", "/e", false))
			v.mkdir("/d")
			v.put("/d/f", "oth")
		}, kind: KindChanged, after: "oth"},
		{name: "a directory now", before: "old", then: func(t *testing.T, v visitor) {
			wantNil(t, "remove", v.Remove(t.Context(), "/d/f"))
			v.mkdir("/d/f")
		}, kind: KindChanged, after: "<is a directory>"},
		{name: "in a snapshot meanwhile", before: "old", then: func(t *testing.T, v visitor) {
			commitShare(t, testShare(t, v.system))
		}, after: "new"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sys, _ := fullTestSystem(t)
			admin, v := visit(t, sys, "admin", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
			admin.mkdir("/d")
			flag, was := OpenWrite|OpenCreate|OpenExclusive, (*Info)(nil)
			if tt.before != "" {
				admin.put("/d/f", tt.before)
				info, err := v.Lstat(t.Context(), "/d/f")
				wantNil(t, "lstat", err)
				flag, was = OpenWrite|OpenTruncate, &info
			}
			f := v.open("/d/f", flag)
			wantNil(t, "publish over", f.PublishOver(was))
			v.write(f, 0, "new")
			tt.then(t, admin)
			if err := f.Close(); tt.kind != KindOther {
				wantKind(t, "close", err, tt.kind)
			} else {
				wantNil(t, "close", err)
			}
			want(t, "content", admin.get("/d/f"), tt.after)
			want(t, "what is left of the upload", len(testShare(t, sys).uploads.partials()), 0)
		})
	}
}

func TestPublishRefused(t *testing.T) {
	sys, _ := fullTestSystem(t)
	admin, v := visit(t, sys, "admin", PermFull, "/"), visit(t, sys, "u", PermCreate|PermList, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, "mine")
	admin.put("/f", "theirs")
	wantKind(t, "close on a name that was taken", f.Close(), KindPermission)
	want(t, "content", admin.get("/f"), "theirs")

	f = v.open("/d", OpenWrite|OpenCreate)
	v.write(f, 0, "mine")
	admin.mkdir("/d")
	wantKind(t, "close on a directory", f.Close(), KindIsDir)
}

func TestRenameOfAnUpload(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermCreate|PermList, "/")
	admin := visit(t, sys, "admin", PermFull, "/")
	admin.put("/taken", "x")
	f := v.open("/a.part", OpenWrite|OpenCreate)
	v.write(f, 0, "data")
	wantKind(t, "to a taken name", v.Rename(t.Context(), "/a.part", "/taken", false), KindExist)
	wantKind(t, "over a taken name", v.Rename(t.Context(), "/a.part", "/taken", true), KindPermission)
	wantNil(t, "rename", v.Rename(t.Context(), "/a.part", "/a", false))
	want(t, "not published yet", admin.size("/a"), -1)
	v.close(f)
	want(t, "list", v.list("/"), []string{"a", "taken"})

	f = v.open("/b.part", OpenWrite|OpenCreate)
	v.write(f, 0, big("b"))
	wantNil(t, "abort", f.Abort())
	wantNil(t, "rename of a partial", v.Rename(t.Context(), "/b.part", "/b", false))
	want(t, "old name", v.size("/b.part"), -1)
	want(t, "new name", v.size("/b"), 100_000)
	f = v.open("/b", OpenResume)
	v.write(f, 100_000, "!")
	v.close(f)
	want(t, "content", admin.get("/b"), big("b")+"!")
	wantKind(t, "another's", admin.Rename(t.Context(), "/c.part", "/c", false), KindNotExist)
}

func TestRemoveOfAPartial(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("x"))
	wantKind(t, "while it is open", v.Remove(t.Context(), "/f"), KindBusy)
	wantNil(t, "abort", f.Abort())
	wantKind(t, "another's", visit(t, sys, "o", PermFull, "/").Remove(t.Context(), "/f"), KindNotExist)
	wantNil(t, "remove", v.Remove(t.Context(), "/f"))
	want(t, "size", v.size("/f"), -1)
	wantSpoolFreed(t, testShare(t, sys))
}

// wantSpoolFreed expects that nothing of an upload of 100,000 bytes is spooled any more;
// the empty files that the spool keeps ready may be there.
func wantSpoolFreed(t *testing.T, s *share) {
	t.Helper()
	if n := s.spool.Bytes(); n > 50_000 {
		t.Errorf("%d bytes are still spooled", n)
	}
}

func TestPartialsExpire(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("x"))
	wantNil(t, "abort", f.Abort())
	s := testShare(t, sys)
	age := s.config().PartialMaxAge
	wantNil(t, "early", s.expirePartials(t.Context(), time.Now().Add(age-time.Minute)))
	want(t, "size", v.size("/f"), 100_000)
	wantNil(t, "late", s.expirePartials(t.Context(), time.Now().Add(age+time.Minute)))
	want(t, "size", v.size("/f"), -1)
	wantSpoolFreed(t, s)
}

// Changes to a file that is in a snapshot, in the spool or in the journal, against a
// byte-slice model, read back before and after the close.
func TestRandomChanges(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	rnd := rand.New(rand.NewPCG(1, 2))
	var model []byte
	v.put("/f", "")
	for round := range 60 {
		f := v.open("/f", OpenRead|OpenWrite)
		for range 1 + rnd.IntN(6) {
			switch off := rnd.IntN(200_000); rnd.IntN(4) {
			case 0:
				size := int64(off)
				wantNil(t, "truncate", f.SetAttr(t.Context(), AttrSet{Size: &size}))
				model = append(model, make([]byte, max(0, off-len(model)))...)[:off]
			default:
				p := bytes.Repeat([]byte{byte('a' + rnd.IntN(26))}, 1+rnd.IntN(90_000))
				v.write(f, int64(off), string(p))
				model = append(model, make([]byte, max(0, off+len(p)-len(model)))...)
				copy(model[off:], p)
			}
			got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
			if err != nil || !bytes.Equal(got, model) {
				t.Fatalf("round %d: the handle does not read what was written: %d bytes, want %d, %v", round, len(got), len(model), err)
			}
		}
		v.close(f)
		if got := v.get("/f"); got != string(model) {
			t.Fatalf("round %d: the published file differs", round)
		}
		if rnd.IntN(3) == 0 {
			commitShare(t, testShare(t, sys))
			if got := v.get("/.snapshots/latest/f"); got != string(model) {
				t.Fatalf("round %d: the snapshot differs", round)
			}
		}
	}
}

// Appending to a stored file refers to it: its bytes are not read.
func TestAppendDoesNotReadTheFile(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", big("a"))
	commitShare(t, testShare(t, sys))
	repo.FailReads(errors.New("no bytes are to be had"))
	f := v.open("/f", OpenWrite)
	v.write(f, 100_000, "b")
	v.close(f)
	want(t, "size", v.size("/f"), 100_001)
	repo.FailReads(nil)
	want(t, "content", v.get("/f"), big("a")+"b")
}

// What a small stored file has is copied when something is appended to it. While the store is away it is referred to; what the store has lost is
// not: the close fails, and the client sends it whole.
func TestAppendToLostFile(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "one")
	commitShare(t, testShare(t, sys))
	away := fmt.Errorf("read chunk: %w: it is not there", snapshotter.ErrUnavailable)
	repo.FailReads(fmt.Errorf("%w: %w", snapshotter.ErrLost, away))
	f := v.open("/f", OpenWrite)
	v.write(f, 3, "two")
	if err := f.Close(); !errors.Is(err, snapshotter.ErrLost) {
		t.Errorf("close of an append to a file that is lost: got %v, want %v", err, snapshotter.ErrLost)
	}
	repo.FailReads(away)
	f = v.open("/f", OpenWrite)
	v.write(f, 3, "two")
	v.close(f)
	repo.FailReads(nil)
	want(t, "what was appended while the store was away", v.get("/f"), "onetwo")
}

func TestCopyData(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", big("a"))
	commitShare(t, testShare(t, sys))
	copyTo := func(path string, off, n, toOff int64) error {
		from, to := v.open("/f", OpenRead), v.open(path, OpenCreate|OpenTruncate)
		err := v.CopyData(t.Context(), from, off, n, to, toOff)
		return errors.Join(err, to.Close(), from.Close())
	}
	from, to := v.open("/f", OpenRead), v.open("/whole", OpenCreate)
	repo.FailReads(errors.New("no bytes are to be had"))
	wantNil(t, "whole copy", v.CopyData(t.Context(), from, 0, 0, to, 0))
	v.close(to)
	repo.FailReads(nil)
	v.close(from)
	want(t, "whole copy", v.get("/whole"), big("a"))
	wantNil(t, "part", copyTo("/part", 99_990, 5, 2))
	want(t, "part", v.get("/part"), "\x00\x00aaaaa")
	err := copyTo("/beyond", 99_990, 20, 0)
	want(t, "beyond the end", errors.Is(err, io.EOF), true)

	blind := visit(t, sys, "u", PermFull&^PermRead, "/")
	f := blind.open("/own", OpenCreate|OpenRead)
	blind.write(f, 0, "x")
	wantKind(t, "without read", blind.CopyData(t.Context(), f, 0, 0, blind.open("/copy", OpenCreate), 0), KindPermission)
}

func TestOwnUploadReadAfterItsEnd(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenCreate)
	v.write(f, 0, big("x"))
	r, cut := v.open("/f", OpenRead), v.open("/g", OpenCreate)
	v.write(cut, 0, "x")
	r2 := v.open("/g", OpenRead)
	v.close(f)
	wantNil(t, "abort", cut.Abort())
	p := make([]byte, 10)
	_, err := r.ReadAt(p, 5)
	wantNil(t, "read of the published", err)
	want(t, "bytes", string(p), "xxxxxxxxxx")
	_, err = r2.ReadAt(p, 0)
	wantKind(t, "read of what was aborted", err, KindClosed)
}
