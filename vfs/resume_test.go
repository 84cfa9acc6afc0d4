package vfs

import (
	"errors"
	"io/fs"
	"testing"
	"time"
)

// A partial belongs to one handle: of two that resume it at the same moment, and of one
// that resumes what is being given up, only one gets it.
func TestResumeOnce(t *testing.T) {
	sys, _ := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	wantNil(t, "abort", f.Abort())
	part, ok := s.uploads.partial("u", mustName(t, "/f"))
	want(t, "there is a partial", ok, true)
	claim := func() (*upload, error) {
		u := newUpload(s, "u")
		u.spoolNo.Store(uint64(part.spool))
		return u, s.uploads.add(u, part.name)
	}
	first, err := claim()
	wantNil(t, "first", err)
	_, err = claim()
	wantKind(t, "second", err, KindBusy)
	s.uploads.remove(first)
	wantNil(t, "give up", s.giveUp(t.Context(), part))
	_, err = claim()
	wantKind(t, "after it was given up", err, KindBusy)
}

// A partial that somebody has gone on with and published is not renamed any more: its spool
// file belongs to the complete version, which would go with the partial.
func TestRenameOfAPartialThatWasPublished(t *testing.T) {
	sys, _ := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	wantNil(t, "abort", f.Abort())
	part, ok := s.uploads.partial("u", mustName(t, "/f"))
	want(t, "there is a partial", ok, true)
	f = v.open("/f", OpenWrite)
	wantKind(t, "while it is resumed", s.movePartial(t.Context(), part, mustName(t, "/g")), KindBusy)
	v.close(f)
	wantKind(t, "once it is published", s.movePartial(t.Context(), part, mustName(t, "/g")), KindBusy)
	want(t, "partial", v.size("/g"), -1)
	want(t, "version", v.get("/f") == big("a"), true)
}

// A client that resumes an upload at the moment in which its old handle is closed in order
// goes on with the complete version: with an empty file it would put its tail behind a hole.
func TestResumeWhilePublished(t *testing.T) {
	sys, _ := fullTestSystem(t)
	s := testShare(t, sys)
	a, b := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	for _, tt := range []struct {
		name string
		who  visitor
	}{{"/same", a}, {"/other", b}} {
		f := a.open(tt.name, OpenWrite|OpenCreate)
		a.write(f, 0, big("a"))
		name, w, err := tt.who.start("open", tt.name)
		wantNil(t, "parse", err)
		p, err := w.walk(t.Context(), name, true)
		wantNil(t, "walk", err)
		a.close(f)
		f.up.spoolNo.Store(0) // published, and for a moment still in the table
		wantNil(t, "add", s.uploads.add(f.up, name))
		g := &File{session: tt.who.Session, share: s, name: name, flag: OpenWrite | OpenCreate | OpenResume}
		if err := tt.who.openWrite(t.Context(), g, p, AttrSet{}); !errors.Is(err, errStale) {
			t.Errorf("%s: open: got %v, want errStale", tt.name, err)
		}
		s.uploads.remove(f.up)
		w.release()
	}
}

// Removing and renaming a partial are durable when they are answered, as for any other file.
func TestChangesOfPartialsAreDurable(t *testing.T) {
	sys, _ := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, big("a"))
	wantNil(t, "abort", f.Abort())
	unsynced := func() (n int) {
		wantNil(t, "exec", s.exec(t.Context(), func() error { n = len(s.seq.unsynced); return nil }))
		return n
	}
	wantNil(t, "rename", v.Rename(t.Context(), "/f", "/g", false))
	want(t, "unsynced after the rename", unsynced(), 0)
	want(t, "size", v.size("/g"), 100_000)
	want(t, "size under the old name", v.size("/f"), -1)
	wantNil(t, "rename onto itself", v.Rename(t.Context(), "/g", "/g", true))
	wantKind(t, "rename onto itself, which is there", v.Rename(t.Context(), "/g", "/g", false), KindExist)
	want(t, "size after that", v.size("/g"), 100_000)
	wantNil(t, "remove", v.Remove(t.Context(), "/g"))
	want(t, "unsynced after the removal", unsynced(), 0)
	wantSpoolFreed(t, s)
}

// After an overwrite was cut off, nothing is put behind any part of the old version: that is
// not what the client has sent. An append that was cut off can be sent again.
func TestResumeOverTheOldVersion(t *testing.T) {
	for _, row := range []struct {
		name string
		flag OpenFlag
		off  int64
		kind Kind // of the resume
	}{
		{"overwrite", OpenWrite | OpenTruncate, 0, KindTorn},
		{"update of the start", OpenWrite, 0, KindTorn},
		{"update over the end", OpenResume, 3, KindTorn},
		{"append", OpenResume, 10, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			sys, _ := fullTestSystem(t)
			v := visit(t, sys, "u", PermFull, "/")
			v.put("/f", "0123456789")
			f := v.open("/f", row.flag)
			v.write(f, row.off, "new bytes, many of them")
			wantNil(t, "abort", f.Abort())
			want(t, "old version", v.get("/f"), "0123456789")
			again := visit(t, sys, "u", PermFull, "/")
			f, err := again.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
			if row.kind != 0 {
				wantKind(t, "resume", err, row.kind)
				again.put("/f", "whole")
				want(t, "new version", v.get("/f"), "whole")
				f, err = again.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
				wantNil(t, "resume of a whole one", err)
				wantNil(t, "abort", f.Abort())
				return
			}
			wantNil(t, "resume", err)
			again.write(f, 10, "abc")
			again.close(f)
			want(t, "new version", v.get("/f"), "0123456789abc")
		})
	}
}

// A client whose line breaks in an overwrite comes back before the server knows of it, or after the server
// has died: it goes by the size of the old version all the same, and is not let.
func TestResumeOfOverwriteUnderWay(t *testing.T) {
	old, half := big("o"), big("n")
	for _, row := range []struct {
		name  string
		flag  OpenFlag
		off   int64
		crash bool
		kind  Kind // of the resume
	}{
		{"overwrite", OpenWrite | OpenTruncate, 0, false, KindTorn},
		{"overwrite, then a crash", OpenWrite | OpenTruncate, 0, true, KindTorn},
		{"update over the end", OpenWrite, 50_000, false, KindTorn},
		{"update over the end, then a crash", OpenWrite, 50_000, true, KindTorn},
		{"append", OpenWrite | OpenResume, 100_000, false, 0},
		{"append, then a crash", OpenWrite | OpenResume, 100_000, true, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			v := visit(t, sys, "u", PermFull, "/")
			v.put("/f", old)
			f := v.open("/f", row.flag)
			v.write(f, row.off, half)
			f.up.background.Wait()
			if row.crash {
				crash(t, sys)
				sys = openTestSystem(t, dir, repo)
			}
			again, other := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "other", PermFull, "/")
			for who, kind := range map[visitor]Kind{again: row.kind, other: 0} {
				f, err := who.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
				if kind != 0 {
					wantKind(t, "APPE", err, kind)
				} else {
					wantNil(t, "APPE", err)
					wantNil(t, "abort", f.Abort())
				}
				f = who.open("/f", OpenWrite)
				_, err = f.WriteAt([]byte("tail"), 100_000)
				if kind != 0 {
					wantKind(t, "reput", err, kind)
				} else {
					wantNil(t, "reput", err)
				}
				wantNil(t, "abort", f.Abort())
			}
			want(t, "the old version", again.get("/f") == old, true)
			again.put("/f", "whole")
			f = again.open("/f", OpenWrite|OpenResume)
			again.write(f, 5, "+")
			again.close(f)
			want(t, "after a whole upload", again.get("/f"), "whole+")
		})
	}
}

// That an overwrite was cut off goes with the file it was about, and ends with it.
func TestTornFollowsTheFile(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	v := visit(t, sys, "u", PermFull, "/")
	wantNil(t, "mkdir", v.Mkdir(t.Context(), "/d", AttrSet{}))
	cutOff := func(path string) {
		v.put(path, "0123456789")
		wantNil(t, "abort", v.open(path, OpenWrite|OpenTruncate).Abort()) // before its first byte
	}
	appends := func(path string) error {
		f, err := v.Open(t.Context(), path, OpenWrite|OpenResume, AttrSet{})
		if err == nil {
			wantNil(t, "abort", f.Abort())
		}
		return err
	}
	for _, path := range []string{"/d/f", "/replaced", "/removed", "/away", "/taken"} {
		cutOff(path)
		wantKind(t, path, appends(path), KindTorn)
	}
	wantNil(t, "rename of the directory", v.Rename(t.Context(), "/d", "/e", false))
	v.put("/new", "whole")
	wantNil(t, "rename over it", v.Rename(t.Context(), "/new", "/replaced", true))
	wantNil(t, "remove", v.Remove(t.Context(), "/removed"))
	other := visit(t, sys, "other", PermFull, "/")
	other.put("/removed", "another")
	wantNil(t, "rename of the file", v.Rename(t.Context(), "/away", "/there", false))
	wantNil(t, "another's rename of the file", other.Rename(t.Context(), "/taken", "/elsewhere", false))
	for _, path := range []string{"/away", "/taken"} {
		other.put(path, "another")
	}
	for _, when := range []string{"running", "after a crash", "after the journal was trimmed"} {
		wantKind(t, "in the renamed directory, "+when, appends("/e/f"), KindTorn)
		wantNil(t, "replaced, "+when, appends("/replaced"))
		for _, path := range []string{"/removed", "/away", "/there", "/taken"} {
			wantNil(t, path+", "+when, appends(path))
		}
		wantKind(t, "where another has renamed it, "+when, appends("/elsewhere"), KindTorn)
		if when == "after a crash" {
			sys.cfg.Limits.SpoolBytes = 16 // any journal is trimmed by a commit
		}
		mustDo(t, testShare(t, sys), put(t, testShare(t, sys), "/more", "x"))
		commitShare(t, testShare(t, sys))
		crash(t, sys)
		sys = openTestSystem(t, dir, repo)
		v = visit(t, sys, "u", PermFull, "/")
	}
}

// A client that has sent the file again while its old line was still taken for alive may append to it,
// then and when the old upload has ended.
func TestTornIsOverAfterAWholeUpload(t *testing.T) {
	for name, again := range map[string]func(v visitor){
		"overwritten": func(v visitor) { v.put("/f", "whole") },
		"renamed over it": func(v visitor) {
			v.put("/n", "whole")
			wantNil(t, "rename", v.Rename(t.Context(), "/n", "/f", true))
		},
	} {
		t.Run(name, func(t *testing.T) {
			sys, _ := fullTestSystem(t)
			dead, v := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
			v.put("/f", "old")
			f := dead.open("/f", OpenWrite|OpenTruncate)
			dead.write(f, 0, big("n"))
			f.up.background.Wait()
			again(v)
			for range 2 {
				g := v.open("/f", OpenWrite|OpenResume)
				wantNil(t, "abort", g.Abort())
				wantNil(t, "the line breaks", dead.Close())
			}
		})
	}
}

// What is put over a file only as it was seen is no upload that somebody resumes: where it fails, nothing is torn.
func TestNotTornByARestore(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "old")
	was, err := v.Lstat(t.Context(), "/f")
	wantNil(t, "lstat", err)
	for name, end := range map[string]func(f *File){
		"aborted": func(f *File) { wantNil(t, "abort", f.Abort()) },
		"changed": func(f *File) {
			visit(t, sys, "other", PermFull, "/").put("/f", "another's")
			wantKind(t, "close", f.Close(), KindChanged)
		},
	} {
		f := v.open("/f", OpenWrite|OpenTruncate)
		wantNil(t, "publish over", f.PublishOver(&was))
		v.write(f, 0, big("n"))
		f.up.background.Wait()
		end(f)
		_, err := v.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
		wantNil(t, "resume after it was "+name, err)
	}
}

// A job that tries each day to append to what it has torn is refused for as long as it tries.
func TestTornAsLongAsItIsTried(t *testing.T) {
	const day = 24 * time.Hour
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	v := visit(t, sys, "u", PermFull, "/")
	for path, at := range map[string]time.Duration{"/tried": -29 * day, "/forgotten": -31 * day, "/ahead": 400 * day} {
		v.put(path, "old")
		testShare(t, sys).uploads.tear("u", mustName(t, path), time.Now().Add(at))
	}
	tries := func(path string, kind Kind) {
		t.Helper()
		f, err := v.Open(t.Context(), path, OpenWrite|OpenResume, AttrSet{})
		if kind == 0 {
			wantNil(t, path, err)
			wantNil(t, "abort", f.Abort())
			return
		}
		wantKind(t, path, err, kind)
	}
	tries("/tried", KindTorn)
	tries("/forgotten", 0)
	tries("/ahead", KindTorn)
	_, since := testShare(t, sys).uploads.torn("u", nil, mustName(t, "/ahead"), time.Now())
	want(t, "ahead of the clock", since.After(time.Now()), false)
	crash(t, sys)
	sys = openTestSystem(t, dir, repo)
	v = visit(t, sys, "u", PermFull, "/")
	tries("/tried", KindTorn)
	_, since = testShare(t, sys).uploads.torn("u", nil, mustName(t, "/tried"), time.Now())
	want(t, "tried lately", time.Since(since) < day, true)
	v.put("/tried", "whole")
	tries("/tried", 0)
}

// An upload under way that is renamed onto a complete file is about to replace it, as one that has begun as
// its overwrite.
func TestTornByARenamedUpload(t *testing.T) {
	sys, _ := fullTestSystem(t)
	dead, v := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	v.put("/f", "old")
	f := dead.open("/f.part", OpenWrite|OpenCreate)
	dead.write(f, 0, big("n"))
	v.put("/f.part", "another's")
	wantNil(t, "remove", v.Remove(t.Context(), "/f.part"))
	wantNil(t, "rename", dead.Rename(t.Context(), "/f.part", "/f", true))
	for range 2 {
		_, err := v.Open(t.Context(), "/f", OpenWrite|OpenResume, AttrSet{})
		wantKind(t, "resume", err, KindTorn)
		wantNil(t, "the line breaks", dead.Close())
	}
}

// Of operations that share a flush, each is about what those before it have left, as in a replay.
func TestTornInOneBatch(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	v := visit(t, sys, "u", PermFull, "/")
	for _, dir := range []string{"/d", "/g", "/p"} {
		wantNil(t, "mkdir", v.Mkdir(t.Context(), dir, AttrSet{}))
	}
	for _, path := range []string{"/f", "/d/f", "/g/f", "/new"} {
		v.put(path, "old")
	}
	f := v.open("/p/p", OpenWrite|OpenCreate)
	v.write(f, 0, big("n"))
	wantNil(t, "abort", f.Abort())
	s := testShare(t, sys)
	part, ok := s.uploads.partial("u", mustName(t, "/p/p"))
	want(t, "there is a partial", ok, true)
	torn := func(path string) *op { return &op{kind: opTorn, user: "u", name: mustName(t, path)} }
	rename := func(from, to string) *op {
		return &op{kind: opRename, user: "u", name: mustName(t, from), to: mustName(t, to)}
	}
	reqs := []*request{}
	for _, o := range []*op{
		put(t, s, "/f", "whole"), torn("/f"), // what is torn is not there any more
		rename("/new", "/g/f"), rename("/g", "/h"), torn("/h/f"),
		torn("/d/f"), rename("/d", "/e"),
		{kind: opPartialGone, user: "u", partial: &part}, rename("/p", "/q"),
	} {
		reqs = append(reqs, &request{op: o, done: make(chan error, 1)})
	}
	wantNil(t, "exec", s.exec(t.Context(), func() error { s.process(reqs); return nil }))
	for _, r := range reqs {
		if err := <-r.done; err != nil && !errors.Is(err, errNotTorn) {
			t.Errorf("%v: %v", r.op.kind, err)
		}
	}
	for _, when := range []string{"running", "after a crash"} {
		for path, kind := range map[string]Kind{"/f": 0, "/h/f": 0, "/e/f": KindTorn} {
			f, err := v.Open(t.Context(), path, OpenWrite|OpenResume, AttrSet{})
			if kind == 0 {
				wantNil(t, path+", "+when, err)
				wantNil(t, "abort", f.Abort())
			} else {
				wantKind(t, path+", "+when, err, kind)
			}
		}
		want(t, "the partial, "+when, v.size("/q/p"), -1)
		crash(t, sys)
		sys = openTestSystem(t, dir, repo)
		v = visit(t, sys, "u", PermFull, "/")
	}
}

// A directory that is renamed over an empty one brings its partials along: those that it meets are gone,
// with their bytes.
func TestPartialMeetsAnother(t *testing.T) {
	sys, _ := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	for _, dir := range []string{"/a", "/b"} {
		wantNil(t, "mkdir", v.Mkdir(t.Context(), dir, AttrSet{}))
		f := v.open(dir+"/x", OpenWrite|OpenCreate)
		v.write(f, 0, big(dir[1:]))
		wantNil(t, "abort", f.Abort())
	}
	wantNil(t, "rename", v.Rename(t.Context(), "/a", "/b", true))
	f := v.open("/b/x", OpenWrite|OpenRead|OpenResume)
	p := make([]byte, 1)
	if _, err := f.ReadAt(p, 0); err != nil || p[0] != 'a' {
		t.Errorf("resumed: %q, %v, want that which came along", p, err)
	}
	wantNil(t, "abort", f.Abort())
	wantNil(t, "remove", v.Remove(t.Context(), "/b/x"))
	wantSpoolFreed(t, s)
}

// A close that sets nothing but attributes is durable when it is answered, as any other.
func TestCloseWithAttributesIsDurable(t *testing.T) {
	sys, _ := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "x")
	f := v.open("/f", OpenWrite)
	mode := fs.FileMode(0o600)
	wantNil(t, "fsetstat", f.SetAttr(t.Context(), AttrSet{Mode: &mode}))
	v.close(f)
	wantNil(t, "exec", s.exec(t.Context(), func() error { want(t, "unsynced", len(s.seq.unsynced), 0); return nil }))
	info, err := v.Stat(t.Context(), "/f")
	wantNil(t, "stat", err)
	want(t, "mode", info.Mode, mode)
}
