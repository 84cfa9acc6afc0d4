package vfs

import "testing"

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
