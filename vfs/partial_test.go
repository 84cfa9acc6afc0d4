package vfs

import "testing"

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
