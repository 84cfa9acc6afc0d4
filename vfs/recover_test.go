package vfs

import (
	"runtime"
	"testing"

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
