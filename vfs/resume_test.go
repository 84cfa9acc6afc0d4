package vfs

import (
	"errors"
	"testing"
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
