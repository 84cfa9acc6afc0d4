package vfs

import "testing"

// A principal that may write into a file but not read it must not read it through its own
// upload of it; what it has sent itself it may read.
func TestUploadsShowNothingWithoutRead(t *testing.T) {
	for _, tt := range []struct {
		name       string
		write      OpenFlag
		read       OpenFlag
		want       string
		shownToAll string // to one with PermRead
	}{
		{"above a file", OpenWrite, OpenRead, "<permission denied>", "NEWret"},
		{"above a file, for both", OpenWrite, OpenRead | OpenWrite, "<permission denied>", "NEWret"},
		{"instead of a file", OpenWrite | OpenTruncate, OpenRead, "NEW", "NEW"},
		{"instead of a file, for both", OpenWrite | OpenTruncate, OpenRead | OpenWrite, "<permission denied>", "NEW"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, stored := range []bool{false, true} {
				sys, _ := fullTestSystem(t)
				all := visit(t, sys, "all", PermFull, "/")
				all.put("/f", "secret")
				if stored {
					commitShare(t, testShare(t, sys))
				}
				v := visit(t, sys, "u", PermFull&^PermRead, "/")
				for who, shown := range map[visitor]string{v: tt.want, all: tt.shownToAll} {
					f := who.open("/f", tt.write)
					who.write(f, 0, "NEW")
					var got string
					p := make([]byte, 6)
					if r, err := who.Open(t.Context(), "/f", tt.read, AttrSet{}); err != nil {
						got = bracket(err)
					} else {
						n, _ := r.ReadAt(p, 0)
						got = string(p[:n])
						wantNil(t, "abort", r.Abort())
					}
					want(t, "read by "+who.Principal().User, got, shown)
					wantNil(t, "abort", f.Abort())
				}
			}
		})
	}
}
