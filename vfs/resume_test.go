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
