package vfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/snapshotter"
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

// Sets pend when the head is removed. Each is put above the snapshot of the one before it, which lacks as well what only the head
// held: in the same process, after a restart, and when the note of a commit was lost.
func TestHeadRemovedBelowSets(t *testing.T) {
	for _, tt := range []struct {
		name                        string
		replace, lose, commit, dies bool // before all is committed, in this order: lose loses what is noted
	}{
		{name: "running"},
		{name: "at start", dies: true},
		{name: "the head was replaced", replace: true, dies: true},
		{name: "a set was committed", commit: true, dies: true},
		{name: "a set was committed, and nothing noted", lose: true, commit: true, dies: true},
		{name: "the head was replaced, and a set was committed and not noted", replace: true, lose: true, commit: true, dies: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo, faulty := t.TempDir(), newMemRepository(), disktest.NewFaulty(disk.OS{})
			sys := openTestSystem(t, dir, repo, func(c *Config) { c.Disk = faulty })
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/kept", "one"))
			commitShare(t, s)
			mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
			mustDo(t, s, put(t, s, "/f", "gone"))
			head := commitShare(t, s)
			for _, set := range [][]*op{
				{put(t, s, "/a", "two")},
				{put(t, s, "/d/new", "three"), {kind: opRename, name: Name{"/f"}, to: Name{"/g"}}},
				{put(t, s, "/d/last", "four"), {kind: opSetattr, name: Name{"/g"}, mask: setMode, attr: snapshotter.Attr{Mode: 0o600}}},
			} {
				wantNil(t, "seal", s.seal(t.Context(), "test")) // the last one stays open
				for _, o := range set {
					mustDo(t, s, o)
				}
			}
			want(t, "sealed", s.pendingSets(), 2)
			repo.Remove(head)
			wantNil(t, "between", s.committer.between(t.Context(), func(ctx context.Context) error {
				if tt.replace {
					replaced, err := s.replaceHead(ctx)
					wantNil(t, "replace", err)
					want(t, "replaced", replaced, true)
				}
				if tt.lose {
					faulty.Add(disktest.Fault{Ops: disktest.OpWrite | disktest.OpCreate, Path: "*.wal*", Err: syscall.EIO})
				}
				if tt.commit {
					_, err := s.commitNext(ctx)
					wantNil(t, "commit", err)
					want(t, "sealed after a commit", s.pendingSets(), 1)
				}
				return nil
			}))
			if tt.dies {
				crash(t, sys)
				sys = openTestSystem(t, dir, repo)
				s = testShare(t, sys)
			}
			defer func() { closeSystem(t, sys) }()
			all := map[string]string{"/kept": "one", "/a": "two", "/d": "dir", "/d/new": "three", "/d/last": "four"}
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
			want(t, "live tree", contents(t, s), all)
			want(t, "snapshots", repo.Counts().Commits, 5)
			want(t, "what comes may lack what it is about", s.head().lenient, false)
		})
	}
}

// A start does not find the head, as the store is an older copy. When the right one is there again, its head is the head, as long as no snapshot
// was made without it, and what was accepted meanwhile is above it.
func TestHeadReturns(t *testing.T) {
	change := func(t *testing.T, s *share) { mustDo(t, s, put(t, s, "/h", "three")) }
	for _, tt := range []struct {
		name      string
		only      bool // the head is the only snapshot of the share
		unnoted   bool // another one was made above it, and its note lost
		meanwhile func(t *testing.T, s *share)
		want      map[string]string
	}{
		{name: "nothing pends", want: map[string]string{"/f": "one", "/g": "two"}},
		{name: "it is the only one", only: true, want: map[string]string{"/g": "two"}},
		{name: "a change pends", meanwhile: change, want: map[string]string{"/f": "one", "/g": "two", "/h": "three"}},
		{
			name: "its name is taken meanwhile", want: map[string]string{"/f": "one", "/g": "dir", "/g/h": "three"},
			meanwhile: func(t *testing.T, s *share) {
				mustDo(t, s, &op{kind: opSetattr, name: Name{"/f"}, mask: setMode, attr: snapshotter.Attr{Mode: 0o600}})
				mustDo(t, s, &op{kind: opRemove, name: Name{"/f"}})
				mustDo(t, s, put(t, s, "/f", "one"))
				mustDo(t, s, &op{kind: opMkdir, name: Name{"/g"}})
				mustDo(t, s, put(t, s, "/g/h", "three"))
			},
		},
		{
			name: "changes without effect were committed", want: map[string]string{"/f": "one", "/g": "two", "/h": "three"},
			meanwhile: func(t *testing.T, s *share) {
				head := s.head()
				probe := put(t, s, "/x", "x")
				mustDo(t, s, probe)
				s.uploads.made.add(probe.version, "u", 1, time.Now().Add(time.Hour)) // it is young, however slow the machine is
				mustDo(t, s, &op{kind: opRemove, name: Name{"/x"}, session: 1})
				want(t, "head after changes without effect", commitShare(t, s), head.id)
				want(t, "they are noted", s.head().upTo > head.upTo, true)
				change(t, s)
			},
		},
		{name: "another is above it", unnoted: true, meanwhile: change, want: map[string]string{"/f": "one", "/g": "two", "/h": "three", "/i": "four"}},
		{
			name: "another was made without it", want: map[string]string{"/f": "one", "/h": "three"},
			meanwhile: func(t *testing.T, s *share) { change(t, s); commitShare(t, s) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			if !tt.only {
				mustDo(t, s, put(t, s, "/f", "one"))
				commitShare(t, s)
			}
			mustDo(t, s, put(t, s, "/g", "two"))
			head := commitShare(t, s)
			if tt.unnoted {
				mustDo(t, s, put(t, s, "/i", "four"))
				died := errors.New("the process died here")
				repo.FailAfterCommit(died)
				if _, err := sys.Commit(t.Context(), "s"); !errors.Is(err, died) {
					t.Fatalf("commit: got %v, want %v", err, died)
				}
				repo.FailAfterCommit(nil)
			}
			crash(t, sys)
			list, err := repo.Snapshots(t.Context(), "s")
			wantNil(t, "list", err)
			var back []func()
			for _, snap := range list {
				if snap.ID == head || snap.Parent == head {
					back = append(back, repo.TakeAway(snap.ID))
				}
			}
			release := func() {}
			if tt.unnoted { // what waits in a closed set is committed at once
				release = repo.Block().Release
			}
			sys = openTestSystem(t, dir, repo)
			s = testShare(t, sys)
			want(t, "the head's file while it is not there", contents(t, s)["/g"], "")
			if tt.meanwhile != nil {
				tt.meanwhile(t, s)
			}
			crash(t, sys)
			release()
			for _, f := range slices.Backward(back) {
				f()
			}
			for _, moment := range []string{"when it is there again", "after another start"} {
				sys = openTestSystem(t, dir, repo)
				want(t, "live tree "+moment, contents(t, testShare(t, sys)), tt.want)
				crash(t, sys)
			}
			sys = openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			s = testShare(t, sys)
			mustDo(t, s, put(t, s, "/last", "five"))
			tt.want["/last"] = "five"
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), tt.want)
		})
	}
}

// What removed a file, or made a directory, is removed as the head. What was accepted for a name that was free above it has that name
// all the same, after a restart as before.
func TestHeadRemovedBelowNewNames(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			for _, name := range []string{"/a", "/b", "/kept"} {
				mustDo(t, s, put(t, s, name, "one"))
			}
			commitShare(t, s)
			for _, o := range []*op{{kind: opRemove, name: Name{"/a"}}, {kind: opRemove, name: Name{"/b"}}, {kind: opMkdir, name: Name{"/d"}}} {
				mustDo(t, s, o)
			}
			head := commitShare(t, s)
			exclusive := put(t, s, "/a", "two")
			exclusive.noReplace = true
			for _, o := range []*op{
				exclusive,
				put(t, s, "/b.part", "three"),
				{kind: opRename, name: Name{"/b.part"}, to: Name{"/b"}, noReplace: true},
				put(t, s, "/c.part", "four"),
				{kind: opRename, name: Name{"/c.part"}, to: Name{"/d/c"}},
				{kind: opLink, name: Name{"/d/c"}, to: Name{"/d/e"}, noReplace: true},
				{kind: opRename, name: Name{"/kept"}, to: Name{"/d/kept"}},
			} {
				mustDo(t, s, o)
			}
			repo.Remove(head)
			if restart {
				crash(t, sys)
				sys = openTestSystem(t, dir, repo)
				s = testShare(t, sys)
			}
			defer func() { closeSystem(t, sys) }()
			all := map[string]string{"/a": "two", "/b": "three", "/d": "dir", "/d/c": "four", "/d/e": "four", "/d/kept": "one"}
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
			want(t, "live tree", contents(t, s), all)
		})
	}
}

// The snapshot that is left has something of another type at names that were free above the removed head. What was accepted there has its name,
// and nothing that pends is lost, in sets and after restarts, too; a directory that is in the way is put beside it.
func TestHeadRemovedBelowOtherTypes(t *testing.T) {
	type puts func(name, data string) *op
	mkdir := func(name string) *op { return &op{kind: opMkdir, name: Name{name}} }
	link := func(name, to string) *op { return &op{kind: opLink, name: Name{name}, to: Name{to}} }
	symlink := func(name string) *op { return &op{kind: opSymlink, name: Name{name}, target: "x"} }
	remove := func(name string) *op { return &op{kind: opRemove, name: Name{name}} }
	rename := func(name, to string) *op { return &op{kind: opRename, name: Name{name}, to: Name{to}} }
	long := "/" + strings.Repeat("ä", 127) // 254 bytes of at most 255
	for _, tt := range []struct {
		name                string
		left, head, pending func(put puts) []*op
		want                map[string]string
		oneSet              bool // what happens depends on what is in a snapshot
	}{
		{
			name:    "a directory for a file",
			left:    func(put puts) []*op { return []*op{put("/d", "old")} },
			head:    func(puts) []*op { return []*op{remove("/d")} },
			pending: func(put puts) []*op { return []*op{mkdir("/d"), put("/d/f", "new")} },
			want:    map[string]string{"/d": "dir", "/d/f": "new"},
		},
		{
			name:    "a link for a file",
			left:    func(put puts) []*op { return []*op{put("/b", "old")} },
			head:    func(puts) []*op { return []*op{remove("/b")} },
			pending: func(put puts) []*op { return []*op{put("/a", "new"), link("/a", "/b"), remove("/a")} },
			want:    map[string]string{"/b": "new"},
		},
		{
			name:    "a symbolic link for a file",
			left:    func(put puts) []*op { return []*op{put("/l", "old")} },
			head:    func(puts) []*op { return []*op{remove("/l")} },
			pending: func(puts) []*op { return []*op{symlink("/l")} },
			want:    map[string]string{"/l": "-> x"},
		},
		{
			name:    "below a directory for a symbolic link",
			left:    func(puts) []*op { return []*op{symlink("/d")} },
			head:    func(puts) []*op { return []*op{remove("/d"), mkdir("/d")} },
			pending: func(put puts) []*op { return []*op{put("/d/f", "new")} },
			want:    map[string]string{"/d": "dir", "/d/f": "new"},
		},
		{
			name: "below a directory for a file that was changed",
			left: func(put puts) []*op { return []*op{put("/d", "old")} },
			head: func(puts) []*op { return []*op{remove("/d"), mkdir("/d")} },
			pending: func(put puts) []*op {
				return []*op{{kind: opSetattr, name: Name{"/d"}, mask: setMode, attr: snapshotter.Attr{Mode: 0o700}}, put("/d/f", "new")}
			},
			want: map[string]string{"/d": "dir", "/d/f": "new", "/d.aside": "old"}, oneSet: true,
		},
		{
			name:    "a file for a directory",
			left:    func(put puts) []*op { return []*op{mkdir("/x"), put("/x/f", "old")} },
			head:    func(puts) []*op { return []*op{remove("/x/f"), remove("/x")} },
			pending: func(put puts) []*op { return []*op{put("/x", "new"), link("/x", "/y")} },
			want:    map[string]string{"/x": "new", "/y": "new", "/x.aside": "dir", "/x.aside/f": "old"},
		},
		{
			name:    "a file that is renamed, for a directory",
			left:    func(put puts) []*op { return []*op{mkdir("/x"), put("/x/f", "old")} },
			head:    func(puts) []*op { return []*op{remove("/x/f"), remove("/x")} },
			pending: func(put puts) []*op { return []*op{put("/x.part", "new"), rename("/x.part", "/x")} },
			want:    map[string]string{"/x": "new", "/x.aside": "dir", "/x.aside/f": "old"},
		},
		{
			name: "a directory that is renamed, for one with files",
			left: func(put puts) []*op { return []*op{mkdir("/d"), put("/d/f", "old")} },
			head: func(puts) []*op { return []*op{remove("/d/f"), remove("/d")} },
			pending: func(put puts) []*op {
				return []*op{mkdir("/n"), put("/n/g", "new"), rename("/n", "/d"), mkdir("/n"), put("/n/g", "newer")}
			},
			want: map[string]string{"/d": "dir", "/d/g": "new", "/n": "dir", "/n/g": "newer", "/d.aside": "dir", "/d.aside/f": "old"},
		},
		{
			name:    "a directory that is renamed, for a file",
			left:    func(put puts) []*op { return []*op{put("/d", "old")} },
			head:    func(puts) []*op { return []*op{remove("/d")} },
			pending: func(put puts) []*op { return []*op{mkdir("/n"), put("/n/g", "new"), rename("/n", "/d")} },
			want:    map[string]string{"/d": "dir", "/d/g": "new"},
		},
		{
			name: "a long name, and what is beside it is taken",
			left: func(put puts) []*op {
				return []*op{mkdir(long), put(long+"/f", "old"), put(long[:1+248]+".aside", "taken")}
			},
			head:    func(puts) []*op { return []*op{remove(long + "/f"), remove(long)} },
			pending: func(put puts) []*op { return []*op{put(long, "new")} },
			want: map[string]string{
				long: "new", long[:1+248] + ".aside": "taken", long[:1+246] + ".aside-2": "dir", long[:1+246] + ".aside-2/f": "old",
			},
		},
	} {
		for _, sealed := range []bool{false, true} {
			if sealed && tt.oneSet {
				continue
			}
			for _, restart := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, sealed %v, restart %v", tt.name, sealed, restart), func(t *testing.T) {
					dir, repo := t.TempDir(), newMemRepository()
					sys := openTestSystem(t, dir, repo)
					defer func() { closeSystem(t, sys) }()
					s := testShare(t, sys)
					do := func(ops func(puts) []*op, seal bool) {
						t.Helper()
						for _, o := range ops(func(name, data string) *op { return put(t, s, name, data) }) {
							mustDo(t, s, o)
							if seal {
								wantNil(t, "seal", s.seal(t.Context(), "test"))
							}
						}
					}
					do(tt.left, false)
					commitShare(t, s)
					do(tt.head, false)
					head := commitShare(t, s)
					do(tt.pending, sealed)
					repo.Remove(head)
					again := func() {
						crash(t, sys)
						sys = openTestSystem(t, dir, repo)
						s = testShare(t, sys)
						want(t, "live tree after a restart", contents(t, s), tt.want)
					}
					if restart {
						again()
					}
					want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), tt.want)
					want(t, "live tree", contents(t, s), tt.want)
					again()
				})
			}
		}
	}
}

// The directory of a file that waits for its rename went with the head: the file gets it back, and the set without it is committed.
func TestHeadRemovedBelowCarried(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
			head := commitShare(t, s)
			mustDo(t, s, put(t, s, "/a", "one"))
			mustDo(t, s, &op{kind: opRename, name: Name{"/a"}, to: Name{"/d/b.part"}})
			mustDo(t, s, put(t, s, "/c", "two"))
			wantNil(t, "seal", s.seal(t.Context(), "test"))
			repo.Remove(head)
			if restart {
				crash(t, sys)
				sys = openTestSystem(t, dir, repo)
				s = testShare(t, sys)
			}
			defer func() { closeSystem(t, sys) }()
			all := map[string]string{"/c": "two", "/d": "dir", "/d/b.part": "one"}
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), without(all, "/d/b.part"))
			want(t, "live tree", contents(t, s), all)
		})
	}
}

// failingView lacks a name, and fails from the second look-up of it on.
type failingView struct {
	View
	name   string
	err    error
	looked int
}

func (v *failingView) Lstat(ctx context.Context, path string) (snapshotter.Entry, error) {
	if path == v.name {
		if v.looked++; v.looked > 1 {
			return snapshotter.Entry{}, v.err
		}
	}
	return v.View.Lstat(ctx, path)
}

// What an upload needs is not in a lower head, and then the store fails: the upload is tried again, not dropped.
func TestReapplyWhileStoreFails(t *testing.T) {
	repo := newMemRepository()
	sys := openTestSystem(t, t.TempDir(), repo)
	defer closeSystem(t, sys)
	s := testShare(t, sys)
	mustDo(t, s, put(t, s, "/f", "one"))
	head := commitShare(t, s)
	for _, fails := range []error{nil, snapshotter.ErrUnavailable, snapshotter.ErrDamaged, context.Canceled} {
		for _, o := range []*op{
			put(t, s, "/d/e/new", "two"), {kind: opMkdir, name: Name{"/d/e/new"}}, {kind: opSymlink, name: Name{"/d/e/new"}, target: "x"},
		} {
			t.Run(fmt.Sprintf("%v: %v", o.kind, fails), func(t *testing.T) {
				base, err := repo.View(t.Context(), head)
				wantNil(t, "view", err)
				defer func() { wantNil(t, "close", base.Close()) }()
				view := base
				if fails != nil {
					view = &failingView{View: base, name: "/d", err: fails}
				}
				above, err := newTree(t.Context(), head, view, time.Now())
				wantNil(t, "tree", err)
				got, err := s.reapply(t.Context(), above, o, 1, true)
				switch {
				case fails != nil:
					if !errors.Is(err, fails) {
						t.Errorf("got %v, want %v", err, fails)
					}
				default:
					wantNil(t, "reapply", err)
					_, err = got.lookup(t.Context(), o.name)
					wantNil(t, "look up", err)
				}
			})
		}
	}
}

// standInRepository has other snapshots in place of some.
type standInRepository struct {
	*memRepository
	made map[snapshotter.ID]snapshotter.ID
}

func (r *standInRepository) View(ctx context.Context, id snapshotter.ID) (View, error) {
	if made, ok := r.made[id]; ok {
		id = made
	}
	return r.memRepository.View(ctx, id)
}

// A share whose head was made anew shows what was made, with what is pending, and no other share does.
func TestReopen(t *testing.T) {
	repo := &standInRepository{memRepository: newMemRepository()}
	sys := openTestSystem(t, t.TempDir(), repo)
	defer closeSystem(t, sys)
	s := testShare(t, sys)
	wantNil(t, "reopen without a head", sys.Reopen(t.Context(), []snapshotter.ID{{}}))
	mustDo(t, s, put(t, s, "/f", "one"))
	head := commitShare(t, s)
	mustDo(t, s, put(t, s, "/g", "two"))
	made, err := repo.Add("made", "/", time.Now(), fstest.MapFS{"f": {Data: []byte("one"), Mode: 0o644}, "mark": {Data: []byte("made anew"), Mode: 0o644}})
	wantNil(t, "add", err)
	repo.made = map[snapshotter.ID]snapshotter.ID{head: made}
	wantNil(t, "reopen of others", sys.Reopen(t.Context(), []snapshotter.ID{made}))
	want(t, "live tree before", contents(t, s), map[string]string{"/f": "one", "/g": "two"})
	wantNil(t, "reopen", sys.Reopen(t.Context(), []snapshotter.ID{made, head}))
	want(t, "live tree after", contents(t, s), map[string]string{"/f": "one", "/g": "two", "/mark": "made anew"})
	want(t, "head", s.head().id, head)
}

// otherCommit makes a snapshot as another gateway would, or this one's copy.
func otherCommit(t *testing.T, repo *memRepository, m snapshotter.Meta) snapshotter.ID {
	t.Helper()
	m.Share, m.Reason = "s", "other"
	attr := snapshotter.Attr{Mode: 0o755, ModTime: m.Time}
	id, err := repo.Commit(t.Context(), m.Parent, func(yield func(snapshotter.Change, error) bool) {
		yield(snapshotter.Change{Path: "/other-" + m.GatewayID, Kind: snapshotter.Dir, Attr: attr}, nil)
	}, m)
	wantNil(t, "commit of another", err)
	return id
}

// What others make under the share's name, whatever identity they claim, does not become its
// head, and nothing that was accepted is taken for part of it.
func TestOthersNeverBecomeHead(t *testing.T) {
	for _, tt := range []struct {
		name  string
		clone bool // a copy of the whole data directory, which goes on from an older head
		// made has a copy of the data directory make snapshots; our journal has reached the given position then. It returns what
		// there is beside /g at last, and whether the head is another one.
		made func(t *testing.T, repo *memRepository, m snapshotter.Meta, first, head snapshotter.ID, reached uint64) (f string, moved bool)
	}{
		{name: "another gateway with this share's id"},
		{name: "a copy of the data directory", clone: true},
		{name: "a copy from the same head", made: func(t *testing.T, repo *memRepository, m snapshotter.Meta, _, head snapshotter.ID, reached uint64) (string, bool) {
			m.Parent, m.Sequence, m.Journal = head, 3, reached
			otherCommit(t, repo, m)
			return "two", false
		}},
		{name: "a copy from the same head, which has gone on", made: func(t *testing.T, repo *memRepository, m snapshotter.Meta, _, head snapshotter.ID, reached uint64) (string, bool) {
			m.Parent, m.Sequence, m.Journal = head, 3, reached
			m.Parent, m.Sequence, m.Journal, m.Suffix = otherCommit(t, repo, m), 4, 900, 8
			otherCommit(t, repo, m)
			return "two", false
		}},
		{name: "a copy from the same head, before our last position", made: func(t *testing.T, repo *memRepository, m snapshotter.Meta, _, head snapshotter.ID, reached uint64) (string, bool) {
			m.Parent, m.Sequence, m.Journal = head, 3, reached-1 // the note of the head
			otherCommit(t, repo, m)
			return "two", false
		}},
		{name: "a copy from an older head, and the head removed", made: func(t *testing.T, repo *memRepository, m snapshotter.Meta, first, head snapshotter.ID, reached uint64) (string, bool) {
			m.Parent, m.Sequence, m.Journal = first, 3, reached
			otherCommit(t, repo, m)
			repo.Remove(head)
			return "one", true
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/f", "one"))
			first := commitShare(t, s)
			mustDo(t, s, put(t, s, "/f", "two"))
			head := commitShare(t, s)
			m := snapshotter.Meta{GatewayID: "another", ShareID: s.id, Sequence: 9, Journal: 900, Time: time.Now().UTC()}
			if tt.clone {
				m.GatewayID, m.Parent, m.Sequence, m.Suffix = sys.GatewayID(), first, 2, 7
				m.Parent = otherCommit(t, repo, m)
				m.Sequence, m.Suffix = 9, 8
			}
			if tt.made == nil {
				otherCommit(t, repo, m)
			}
			mustDo(t, s, put(t, s, "/g", "accepted"))
			f, moved := "two", false
			if tt.made != nil {
				m.GatewayID, m.Suffix = sys.GatewayID(), 7
				f, moved = tt.made(t, repo, m, first, head, uint64(s.journal.Last()))
			}
			crash(t, sys)
			sys = openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			s = testShare(t, sys)
			want(t, "the head is another one", s.head().id != head, moved)
			left := map[string]string{"/f": f, "/g": "accepted"}
			want(t, "live tree", contents(t, s), left)
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), left)
		})
	}
}

// An identity that was made anew does not lose the head that the journal knows.
func TestNewGatewayID(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	mustDo(t, testShare(t, sys), put(t, testShare(t, sys), "/f", "one"))
	commitShare(t, testShare(t, sys))
	crash(t, sys)
	wantNil(t, "remove", os.Remove(filepath.Join(dir, gatewayIDName)))
	sys = openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	s := testShare(t, sys)
	mustDo(t, s, put(t, s, "/g", "two"))
	want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), map[string]string{"/f": "one", "/g": "two"})
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
	check := func() {
		t.Helper()
		st := s.policyState()
		if d := decide(cfg, st, time.Now()); !d.commit {
			t.Errorf("decision %+v, want a commit", d)
		}
		if again := s.policyState(); again != st {
			t.Errorf("the state is %+v, then %+v", st, again)
		}
	}
	check()
	s.mu.Lock()
	s.started = time.Now().Add(12 * time.Hour).UTC() // it was that late when the share was opened
	s.mu.Unlock()
	check()
}

// What was committed when the process died is not committed again, even if the store is
// away at the next start and cannot say so.
func TestStartWithoutStoreAfterCommits(t *testing.T) {
	dir, repo, faulty := t.TempDir(), newMemRepository(), disktest.NewFaulty(disk.OS{})
	sys := openTestSystem(t, dir, repo, func(c *Config) { c.Disk = faulty })
	s := testShare(t, sys)
	gate := repo.Block() // what is sealed is committed at once
	defer gate.Release()
	for _, data := range []string{"one", "two"} {
		mustDo(t, s, put(t, s, "/f", data))
		wantNil(t, "seal", s.seal(t.Context(), "test"))
	}
	faulty.Add(disktest.Fault{Ops: disktest.OpWrite | disktest.OpCreate, Path: "*.wal*", Err: syscall.EIO})
	gate.Release()
	commitShare(t, s) // the notes of both commits are lost
	crash(t, sys)

	repo.FailIndex(snapshotter.ErrUnavailable)
	sys = openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	s = testShare(t, sys)
	want(t, "pending", s.pendingSets(), 2)
	repo.FailIndex(nil)
	commitShare(t, s)
	list, err := repo.Snapshots(t.Context(), "s")
	wantNil(t, "list", err)
	want(t, "snapshots", len(list), 2)
	want(t, "live tree", contents(t, s), map[string]string{"/f": "two"})
	mustDo(t, s, put(t, s, "/f", "three"))
	want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), map[string]string{"/f": "three"})
}

// At a start the store lacks the header of a snapshot, and nobody knows whether it is lost. Was it the head, the share does not
// go back to an older one, even though that is listed; was it another one, the live tree can be read.
func TestStartWithoutHeader(t *testing.T) {
	for _, lacks := range []string{"the head", "another one"} {
		t.Run(lacks, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/f", "one"))
			lacking := commitShare(t, s)
			mustDo(t, s, put(t, s, "/g", "two"))
			head := commitShare(t, s)
			if lacks == "the head" {
				lacking = head
			} else { // what is pending needs the names of the head
				mustDo(t, s, put(t, s, "/new", "three"))
				wantNil(t, "seal", s.seal(t.Context(), "test"))
			}
			crash(t, sys)

			repo.Lack(lacking)
			sys = openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			s = testShare(t, sys)
			all := map[string]string{"/f": "one", "/g": "two", "/new": "three"}
			if lacking != head {
				want(t, "live tree", contents(t, s), all)
				_, err := sys.Commit(t.Context(), "s")
				if !errors.Is(err, snapshotter.ErrUnavailable) {
					t.Errorf("commit: got %v, want %v", err, snapshotter.ErrUnavailable)
				}
			} else if err := s.do(t.Context(), put(t, s, "/new", "three")); !errors.Is(err, snapshotter.ErrUnavailable) {
				t.Errorf("write: got %v, want %v", err, snapshotter.ErrUnavailable)
			}
			listed, err := s.views.snapshots(t.Context())
			if err != nil || len(listed) != 1 || listed[0].ID == lacking {
				t.Errorf("listed: %+v, %v; want the other one", listed, err)
			}
			if latest, err := s.version(t.Context(), Root(), latestName); !errors.Is(err, snapshotter.ErrUnavailable) {
				t.Errorf("latest: got %+v, %v, want %v", latest, err, snapshotter.ErrUnavailable)
			}
			want(t, "head", s.head().id, head)
			v := visit(t, sys, "u", PermFull, "/")
			want(t, "history", v.list("/.snapshots"), []string{listed[0].ViewName(s.lineage())})

			repo.Lack(snapshotter.ID{})
			want(t, "latest is listed", slices.Contains(v.list("/.snapshots"), latestName), true)
			if lacking == head {
				mustDo(t, s, put(t, s, "/new", "three"))
			}
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
			want(t, "live tree", contents(t, s), all)
			list, err := repo.Snapshots(t.Context(), "s")
			if err != nil || len(list) != 3 || list[0].Parent != head {
				t.Errorf("snapshots: %+v, %v; want one more, upon the head", list, err)
			}
		})
	}
}

// What the store has lost leaves the live tree. Operations that were accepted meanwhile and
// were about it are dropped, and the others are not held up, whether the gateway runs on or
// starts then.
func TestStoreHasLostFiles(t *testing.T) {
	for _, restart := range []bool{false, true} {
		name := "running"
		if restart {
			name = "at start"
		}
		t.Run(name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			for _, p := range []string{"/kept", "/lost", "/lost2"} {
				mustDo(t, s, put(t, s, p, p))
			}
			commitShare(t, s)
			repo.Lose("/lost", "/lost2")
			for i, o := range []*op{ // three sets
				put(t, s, "/new", "one"),
				{kind: opRename, name: Name{"/lost"}, to: Name{"/moved"}},
				{kind: opRename, name: Name{"/lost2"}, to: Name{"/moved2"}},
			} {
				mustDo(t, s, o)
				if i == 0 {
					mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
				}
				wantNil(t, "seal", s.seal(t.Context(), "test"))
			}
			mustDo(t, s, put(t, s, "/d/last", "two"))
			if restart {
				more, err := s.commitNext(t.Context())
				wantNil(t, "commit", err)
				want(t, "a set was committed", more, true)
				crash(t, sys)
				sys = openTestSystem(t, dir, repo)
				s = testShare(t, sys)
			}
			defer func() { closeSystem(t, sys) }()
			id := commitShare(t, s)
			left := map[string]string{"/kept": "/kept", "/new": "one", "/d": "dir", "/d/last": "two"}
			want(t, "next snapshot", viewContents(t, repo, id), left)
			want(t, "live tree", contents(t, s), left)
		})
	}
}
