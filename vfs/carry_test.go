package vfs

import (
	"context"
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

// A file gets a name that waits for its rename when its set is committed and another one waits: nothing has its bytes but the
// snapshot, and no seal says that the spool has them.
func TestSealCarriesNothingCommitted(t *testing.T) {
	data := map[string]string{"inline": "one", "spooled": strings.Repeat("y", 200)}
	for _, bytes := range slices.Sorted(maps.Keys(data)) {
		for _, ends := range []struct {
			name string
			end  func(*testing.T, *System)
		}{{"killed", crash}, {"stopped", closeSystem}} {
			for _, kind := range []opKind{opRename, opLink} {
				t.Run(fmt.Sprintf("%s, %v, %s", bytes, kind, ends.name), func(t *testing.T) {
					dir, repo := t.TempDir(), newMemRepository()
					sys := openTestSystem(t, dir, repo)
					s := testShare(t, sys)
					mustDo(t, s, put(t, s, "/x", "zero"))
					commitShare(t, s)
					mustDo(t, s, put(t, s, "/y", data[bytes]))
					wantNil(t, "seal", s.seal(t.Context(), "test"))
					mustDo(t, s, put(t, s, "/z", "two"))
					wantNil(t, "seal", s.seal(t.Context(), "test"))
					wantNil(t, "between", s.committer.between(t.Context(), func(ctx context.Context) error {
						_, err := s.commitNext(ctx)
						return err
					}))
					want(t, "sealed", s.pendingSets(), 1)
					mustDo(t, s, &op{kind: kind, name: Name{"/y"}, to: Name{"/y.part"}})
					wantNil(t, "seal", s.seal(t.Context(), "test"))
					all := map[string]string{"/x": "zero", "/y.part": data[bytes], "/z": "two"}
					if kind == opLink {
						all["/y"] = data[bytes]
					}
					want(t, "live tree", contents(t, s), all)
					ends.end(t, sys)

					sys = openTestSystem(t, dir, repo)
					defer func() { closeSystem(t, sys) }()
					s = testShare(t, sys)
					want(t, "live tree after a restart", contents(t, s), all)
					want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
				})
			}
		}
	}
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
