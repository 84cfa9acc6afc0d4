package vfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// Many files that wait for their rename do not make every seal write all their bytes again:
// the oldest ones wait no more.
func TestSealCarriesALimitedNumber(t *testing.T) {
	sys, repo := fullTestSystem(t)
	s := testShare(t, sys)
	v := visit(t, sys, "u", PermFull, "/")
	const size = 60_000
	most := maxCarriedBytes / size
	data := strings.Repeat("y", size)
	for i := range most + 3 {
		v.put(fmt.Sprintf("/f%03d.tmp", i), data)
	}
	v.put("/x", "x")
	stored := func() []string {
		return slices.Sorted(maps.Keys(viewContents(t, repo, commitShare(t, s))))
	}
	want(t, "first snapshot", stored(), []string{"/f000.tmp", "/f001.tmp", "/f002.tmp", "/x"})
	want(t, "all are there", len(v.list("/")), most+4)
	want(t, "one that waits", v.get("/f003.tmp") == data, true)
	wantNil(t, "rename", v.Rename(t.Context(), "/f003.tmp", "/f003", false))
	want(t, "second snapshot", stored(), []string{"/f000.tmp", "/f001.tmp", "/f002.tmp", "/f003", "/x"})
}

func TestMayWait(t *testing.T) {
	files := func(n int, size int64, inRecord bool) (out []*op) {
		for i := range n {
			c := &content{size: size, inRecord: inRecord}
			out = append(out, &op{content: c, time: time.Unix(int64(i), 0)})
		}
		return out
	}
	for _, tt := range []struct {
		name  string
		files []*op
		want  int
	}{
		{"none", nil, 0},
		{"as many as may", files(maxCarried, 1, true), maxCarried},
		{"one more", files(maxCarried+1, 1, true), maxCarried},
		{"as much as may", files(16, maxCarriedBytes/16, true), 16},
		{"more than that", files(17, maxCarriedBytes/16, true), 16},
		{"spooled", files(17, maxCarriedBytes, false), 17},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := mayWait(slices.Clone(tt.files), maxCarried)
			want(t, "files", len(got), tt.want)
			if len(got) > 0 {
				want(t, "the newest", got[0] == tt.files[len(tt.files)-1], true)
			}
		})
	}
}
