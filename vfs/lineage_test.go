package vfs

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// When somebody removes the head from the store, what only it held is gone, but nothing
// that was accepted after it, whether the gateway runs or starts then.
func TestHeadRemovedFromStore(t *testing.T) {
	for _, restart := range []bool{false, true} {
		name := "running"
		if restart {
			name = "at start"
		}
		t.Run(name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/kept", "one"))
			commitShare(t, s)
			mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
			head := commitShare(t, s)
			mustDo(t, s, put(t, s, "/d/new", "two"))
			mustDo(t, s, &op{kind: opRename, name: Name{"/d"}, to: Name{"/e"}})
			repo.Remove(head)
			if restart {
				crash(t, sys)
				sys = openTestSystem(t, dir, repo)
				s = testShare(t, sys)
			}
			defer func() { closeSystem(t, sys) }()
			id := commitShare(t, s)
			want := map[string]string{"/kept": "one", "/e": "dir", "/e/new": "two"}
			if diff := cmp.Diff(want, viewContents(t, repo, id)); diff != "" {
				t.Errorf("next snapshot (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, contents(t, s)); diff != "" {
				t.Errorf("live tree (-want +got):\n%s", diff)
			}
		})
	}
}

// A clock that has gone back since a change was accepted does not put its commit off.
func TestClockGoneBack(t *testing.T) {
	sys := openTestSystem(t, t.TempDir(), newMemRepository())
	defer closeSystem(t, sys)
	s := testShare(t, sys)
	mustDo(t, s, put(t, s, "/f", "one"))
	s.mu.Lock()
	s.ledger.open.oldest = time.Now().Add(24 * time.Hour)
	s.ledger.open.newest = s.ledger.open.oldest
	s.mu.Unlock()
	cfg := ShareConfig{Name: "s", When: WhenClose}.withDefaults()
	if d := decide(cfg, s.policyState(), time.Now()); !d.commit {
		t.Errorf("decision %+v, want a commit", d)
	}
}
