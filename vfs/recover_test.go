package vfs

import (
	"io/fs"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What a seal carried over stands in the journal. Settings that have changed since must
// not make recovery leave something out of the set that nothing carries.
func TestRecoverSealUnderOtherSettings(t *testing.T) {
	tests := []struct {
		name          string
		before, after []string // temporary names
	}{
		{"a name has become temporary", []string{"*.tmp"}, []string{"*.tmp", "*.dat"}},
		{"a name is temporary no more", []string{"*.tmp"}, []string{"*.part"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo, func(c *Config) { c.Shares[0].TempNames = tt.before })
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/a.dat", "one"))
			mustDo(t, s, put(t, s, "/b.tmp", "two"))
			if err := s.seal(t.Context(), "test"); err != nil {
				t.Fatal(err)
			}
			crash(t, sys)
			sys = openTestSystem(t, dir, repo, func(c *Config) { c.Shares[0].TempNames = tt.after })
			defer closeSystem(t, sys)
			s = testShare(t, sys)
			for s.pendingSets() > 0 { // a start commits what is sealed by itself
				runtime.Gosched()
			}
			want := map[string]string{"/a.dat": "one", "/b.tmp": "two"}
			if diff := cmp.Diff(want, contents(t, s)); diff != "" {
				t.Errorf("live tree after the commit (-want +got):\n%s", diff)
			}
		})
	}
}

// A client that uploads and then renames or sets the time must be able to when the gateway
// was restarted in between, even if it may only create.
func TestOwnUploadsAfterRestart(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	visit(t, sys, "u", PermFull, "/").put("/f.part", "x")
	visit(t, sys, "other", PermFull, "/").put("/g", "x")
	crash(t, sys)
	sys = openTestSystem(t, dir, repo)
	defer closeSystem(t, sys)
	v, mode := visit(t, sys, "u", PermList|PermCreate, "/"), fs.FileMode(0o600)
	wantNil(t, "rename", v.Rename(t.Context(), "/f.part", "/f", false))
	wantNil(t, "setattr", v.SetAttr(t.Context(), "/f", AttrSet{Mode: &mode}, false))
	wantKind(t, "rename another's", v.Rename(t.Context(), "/g", "/h", false), KindPermission)

	made := newCreations()
	now := time.Now()
	made.recall(&op{version: 1, user: "u", time: now.Add(-ownWindow)}, now)
	made.recall(&op{version: 2, user: "u", time: now.Add(1 - ownWindow)}, now)
	made.recall(&op{version: 3, time: now}, now)
	want(t, "too old", made.own(1, "u", 7, now), false)
	want(t, "young enough", made.own(2, "u", 7, now), true)
	want(t, "later", made.own(2, "u", 7, now.Add(time.Second)), false)
	want(t, "nobody's", made.own(3, "", 7, now), false)
}
