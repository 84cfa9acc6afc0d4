package vfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// At a start the head cannot be read, or something of it that what is pending needs. The gateway starts, other shares go on,
// nothing is lost of what was accepted and nothing taken that may not belong where it would come to be; and as soon as the head
// can be read all is above it, in the order in which it was accepted.
func TestStartWithUnreadHead(t *testing.T) {
	away := fmt.Errorf("%w: open CONFIG: %w", snapshotter.ErrUnavailable, fs.ErrNotExist) // as of a disk that is not mounted
	for _, tt := range []struct {
		name  string
		spoil func(repo *memRepository, head snapshotter.ID)
		mend  func(repo *memRepository)
	}{
		{"its header is lacking",
			func(r *memRepository, head snapshotter.ID) { r.Lack(head) },
			func(r *memRepository) { r.Lack(snapshotter.ID{}) }},
		{"the store is away",
			func(r *memRepository, _ snapshotter.ID) { r.FailIndex(away) },
			func(r *memRepository) { r.FailIndex(nil) }},
		{"its root is damaged",
			func(r *memRepository, _ snapshotter.ID) { r.FailName("/", snapshotter.ErrDamaged) },
			func(r *memRepository) { r.FailName("/", nil) }},
		{"a directory is damaged",
			func(r *memRepository, _ snapshotter.ID) { r.FailName("/d", snapshotter.ErrDamaged) },
			func(r *memRepository) { r.FailName("/d", nil) }},
		{"a directory is unavailable",
			func(r *memRepository, _ snapshotter.ID) { r.FailName("/d", snapshotter.ErrUnavailable) },
			func(r *memRepository) { r.FailName("/d", nil) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			two := func(c *Config) { c.Shares = append(c.Shares, ShareConfig{Name: "other", When: WhenManual}) }
			sys := openTestSystem(t, dir, repo, two)
			s := testShare(t, sys)
			for _, o := range []*op{put(t, s, "/f", "one"), {kind: opMkdir, name: Name{"/d"}}, put(t, s, "/d/g", "two"), put(t, s, "/d/gone", "three")} {
				mustDo(t, s, o)
			}
			head := commitShare(t, s)
			pendAbove(t, s)
			all := contents(t, s)
			crash(t, sys)

			tt.spoil(repo, head)
			for range 2 { // the next start finds the same
				sys = openTestSystem(t, dir, repo, two)
				staysHeadless(t, sys, repo, head)
				crash(t, sys)
			}
			sys = openTestSystem(t, dir, repo, two)
			defer func() { closeSystem(t, sys) }()
			s = testShare(t, sys)
			// Between two attempts, or the committer may find the head before the change comes.
			wantNil(t, "between", s.committer.between(t.Context(), func(ctx context.Context) error {
				tt.mend(repo)
				if err := s.do(ctx, put(t, s, "/early", "x")); KindOf(err) != KindUnavailable {
					t.Errorf("a change before what is pending is above the head: got %v", err)
				}
				return nil
			}))
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), without(all, "/x.part"))
			want(t, "live tree", contents(t, s), all)
			list, err := repo.Snapshots(t.Context(), "s")
			if err != nil || len(list) != 3 || list[1].Parent != head {
				t.Errorf("snapshots: %+v, %v; want one of each set, upon the head", list, err)
			}
			mustDo(t, s, put(t, s, "/e/last", "six"))
			want(t, "snapshot of what came then", viewContents(t, repo, commitShare(t, s))["/e/last"], "six")
		})
	}
}

// pendAbove leaves a sealed set, with a name that waits for its rename, and an open one.
func pendAbove(t *testing.T, s *share) {
	t.Helper()
	for _, o := range []*op{
		put(t, s, "/d/new", "four"), put(t, s, "/x.part", "waits"),
		{kind: opRename, name: Name{"/d/g"}, to: Name{"/g"}},
	} {
		mustDo(t, s, o)
	}
	wantNil(t, "seal", s.seal(t.Context(), "test"))
	for _, o := range []*op{
		{kind: opRemove, name: Name{"/d/gone"}},
		{kind: opRename, name: Name{"/d"}, to: Name{"/e"}},
		put(t, s, "/e/last", "five"),
	} {
		mustDo(t, s, o)
	}
}

// staysHeadless looks at a system whose share s cannot read its head.
func staysHeadless(t *testing.T, sys *System, repo *memRepository, head snapshotter.ID) {
	t.Helper()
	s := testShare(t, sys)
	unavailable := func(what string, err error) {
		t.Helper()
		if err == nil || KindOf(err) != KindUnavailable {
			t.Errorf("%s: got %v, want %v", what, err, KindUnavailable)
		}
	}
	want(t, "head", s.head().id, head)
	want(t, "pending", s.status().Changes, 7)
	if _, ok := sys.Needed()[head]; !ok {
		t.Error("the head may be removed")
	}
	v := visit(t, sys, "u", PermFull, "/")
	_, err := v.Stat(t.Context(), "/f")
	unavailable("stat", err)
	unavailable("mkdir", v.Mkdir(t.Context(), "/n", AttrSet{}))
	unavailable("remove", v.Remove(t.Context(), "/f"))
	_, err = v.Open(t.Context(), "/n", OpenWrite|OpenCreate|OpenTruncate, AttrSet{})
	unavailable("upload", err)
	unavailable("put", s.do(t.Context(), put(t, s, "/n", "new")))
	unavailable("seal", s.seal(t.Context(), "test"))
	_, err = sys.Commit(t.Context(), "s")
	if !errors.Is(err, snapshotter.ErrUnavailable) && !errors.Is(err, snapshotter.ErrDamaged) {
		t.Errorf("commit: got %v, want that the head cannot be read", err)
	}
	want(t, "made", repo.Counts().Commits, 1)
	other, _ := sys.share("other")
	mustDo(t, other, &op{kind: opSetattr, name: Root(), mask: setMode, attr: snapshotter.Attr{Mode: 0o755}})
}

func without(all map[string]string, name string) map[string]string {
	out := map[string]string{}
	for k, v := range all {
		if k != name {
			out[k] = v
		}
	}
	return out
}

// The head is removed while a share waits for it: the share goes on from what is left, after a restart too, before anything is committed.
func TestUnreadHeadRemoved(t *testing.T) {
	for _, tt := range []struct {
		name                      string
		attempt, restart, unreads bool // in this order: unreads is of a start that cannot read what it needs of what is left
	}{
		{name: "running"},
		{name: "restarted", restart: true},
		{name: "restarted after an attempt", attempt: true, restart: true},
		{name: "what is left cannot be read", restart: true, unreads: true},
		{name: "what is left cannot be read after an attempt", attempt: true, restart: true, unreads: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/f", "one"))
			commitShare(t, s)
			mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
			head := commitShare(t, s)
			mustDo(t, s, put(t, s, "/d/new", "two"))
			crash(t, sys)

			repo.Lack(head)
			sys = openTestSystem(t, dir, repo)
			s = testShare(t, sys)
			want(t, "waits", s.headless.Load() != nil, true)
			repo.Remove(head)
			repo.Lack(snapshotter.ID{})
			if tt.attempt {
				wantNil(t, "between", s.committer.between(t.Context(), func(ctx context.Context) error {
					return s.committer.attempt(ctx, "") // it seals nothing
				}))
				want(t, "waits after an attempt", s.headless.Load() != nil, false)
			}
			if tt.restart {
				crash(t, sys)
				if tt.unreads {
					repo.FailName("/d", snapshotter.ErrUnavailable)
				}
				sys = openTestSystem(t, dir, repo)
				s = testShare(t, sys)
				want(t, "waits after a restart", s.headless.Load() != nil, tt.unreads)
				want(t, "pending", s.status().Changes, 1)
				repo.FailName("/d", nil)
			}
			defer func() { closeSystem(t, sys) }()
			all := map[string]string{"/f": "one", "/d": "dir", "/d/new": "two"}
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, s)), all)
			want(t, "live tree", contents(t, s), all)
		})
	}
}

// A share without any snapshot has no head that could be lost: what a stand-in says of an older one is settled by one attempt, and not
// tried for ever.
func TestNoHeadIsLost(t *testing.T) {
	sys := openTestSystem(t, t.TempDir(), newMemRepository())
	defer closeSystem(t, sys)
	s := testShare(t, sys)
	s.loseHead(snapshotter.ID{1})
	want(t, "an older head is lost", s.policyState().headless, false)
	wantNil(t, "between", s.committer.between(t.Context(), func(ctx context.Context) error {
		s.headLost.Store(true)
		err := s.committer.attempt(ctx, "")
		want(t, "no head is lost after an attempt", s.policyState().headless, false)
		return err
	}))
}

// A share whose head was made anew while it waited for it goes on at once.
func TestReopenUnreadHead(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	s := testShare(t, sys)
	mustDo(t, s, put(t, s, "/f", "one"))
	head := commitShare(t, s)
	mustDo(t, s, put(t, s, "/g", "two"))
	crash(t, sys)
	repo.Lack(head)
	sys = openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	s = testShare(t, sys)
	if err := sys.Reopen(t.Context(), []snapshotter.ID{head}); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("reopen: got %v, want %v", err, snapshotter.ErrUnavailable)
	}
	repo.Lack(snapshotter.ID{})
	wantNil(t, "reopen", sys.Reopen(t.Context(), []snapshotter.ID{head}))
	want(t, "live tree", contents(t, s), map[string]string{"/f": "one", "/g": "two"})
	mustDo(t, s, put(t, s, "/h", "three"))
}

// While the head cannot be read, each attempt to commit is told of as one that has failed, whether a set is due to be closed or not, and
// changes are refused for what it is, not for want of room, and without waiting for that.
func TestUnreadHeadFailsCommits(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	s := testShare(t, sys)
	mustDo(t, s, put(t, s, "/f", "one"))
	head := commitShare(t, s)
	mustDo(t, s, put(t, s, "/g", "two"))
	crash(t, sys)
	repo.Lack(head)
	told := &witness{}
	sys = openTestSystem(t, dir, repo, watched(told), func(c *Config) {
		c.Shares[0].When, c.Limits.Changes = WhenClose, 1
	})
	defer func() {
		repo.Lack(snapshotter.ID{})
		closeSystem(t, sys)
	}()
	s = testShare(t, sys)
	for _, reason := range []string{"", "close"} {
		wantNil(t, "between", s.committer.between(t.Context(), func(ctx context.Context) error {
			s.intake.committed(0) // as if none had failed
			told.take()
			if err := s.committer.attempt(ctx, reason); !errors.Is(err, snapshotter.ErrUnavailable) {
				t.Errorf("commit for reason %q: got %v, want %v", reason, err, snapshotter.ErrUnavailable)
			}
			want(t, "told for reason "+reason, told.take(), `commit s: 0 changes by [], reason "", new false: failed`)
			want(t, "no room for reason "+reason, s.intake.refuses(), true)
			return nil
		}))
	}
	over, cancel := context.WithCancel(t.Context())
	cancel() // a wait for room would end with it
	for _, o := range []*op{{kind: opMkdir, name: Name{"/n"}}, put(t, s, "/n", "new"), {kind: opRemove, name: Name{"/f"}}} {
		if err := s.do(over, o); KindOf(err) != KindUnavailable {
			t.Errorf("%v: got %v, want %v", o.kind, err, KindUnavailable)
		}
	}
}

// stuckRepository has views of which nothing but the root can be looked up before the look-up is given up.
type stuckRepository struct {
	*memRepository
	entered chan struct{} // a look-up waits; capacity 1
}

func (r *stuckRepository) View(ctx context.Context, id snapshotter.ID) (View, error) {
	v, err := r.memRepository.View(ctx, id)
	if err != nil {
		return nil, err
	}
	return stuckView{v, r.entered}, nil
}

type stuckView struct {
	View
	entered chan<- struct{}
}

func (v stuckView) Lstat(ctx context.Context, path string) (snapshotter.Entry, error) {
	if path == "/" {
		return v.View.Lstat(ctx, path)
	}
	select {
	case v.entered <- struct{}{}:
	default:
	}
	if ctx.Done() == nil {
		return snapshotter.Entry{}, errors.New("a look-up that nothing can end")
	}
	<-ctx.Done()
	return snapshotter.Entry{}, ctx.Err()
}

// Many changes are put above a head that can be read again, or above what is left in its place, or the store hangs: the gateway ends
// all the same when it has to, and they wait for the next start.
func TestEndWhileHeadIsReopened(t *testing.T) {
	for _, removed := range []bool{false, true} {
		t.Run(fmt.Sprintf("removed %v", removed), func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			mustDo(t, s, &op{kind: opMkdir, name: Name{"/d"}})
			commitShare(t, s)
			mustDo(t, s, put(t, s, "/f", "one"))
			head := commitShare(t, s)
			mustDo(t, s, put(t, s, "/d/g", "two"))
			crash(t, sys)
			repo.Lack(head)
			stuck := &stuckRepository{repo, make(chan struct{}, 1)}
			sys = openTestSystem(t, dir, stuck)
			if removed {
				repo.Remove(head)
			}
			repo.Lack(snapshotter.ID{})
			over, cancel := context.WithCancel(t.Context())
			committed := make(chan error, 1)
			go func() {
				_, err := sys.Commit(over, "s")
				committed <- err
			}()
			<-stuck.entered
			cancel()
			wantNil(t, "close", sys.Close(over))
			if err := <-committed; KindOf(err) != KindClosed {
				t.Errorf("commit: got %v, want %v", err, KindClosed)
			}
			sys = openTestSystem(t, dir, repo)
			defer closeSystem(t, sys)
			all := map[string]string{"/d": "dir", "/d/g": "two", "/f": "one"}
			if removed {
				delete(all, "/f")
			}
			want(t, "next snapshot", viewContents(t, repo, commitShare(t, testShare(t, sys))), all)
		})
	}
}

// A start says once that the last snapshot cannot be read, whether changes wait above it or not, and nothing when it can.
func TestStartTellsOfUnreadHead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		damaged bool
		pending bool
		errors  int
	}{
		{"it can be read", false, false, 0},
		{"nothing waits", true, false, 1},
		{"a change waits", true, true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), newMemRepository()
			sys := openTestSystem(t, dir, repo)
			mustDo(t, testShare(t, sys), put(t, testShare(t, sys), "/f", "one"))
			head := commitShare(t, testShare(t, sys))
			if tt.pending {
				mustDo(t, testShare(t, sys), put(t, testShare(t, sys), "/g", "two"))
			}
			crash(t, sys)
			if tt.damaged {
				repo.FailName("/", snapshotter.ErrDamaged)
			}
			var log bytes.Buffer // read when all that may write to it has ended
			sys = openTestSystem(t, dir, repo, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			crash(t, sys)
			if got := strings.Count(log.String(), "level=ERROR"); got != tt.errors || got > 0 && !strings.Contains(log.String(), head.String()) {
				t.Errorf("got %d errors, want %d that names the snapshot:\n%s", got, tt.errors, log.String())
			}
		})
	}
}

// The note of a commit is lost, the next start finds the store away, and the head that it knows is removed until the store is back: the
// snapshot of that commit is not taken for one that the changes in it belong above, and the start after that goes on from it.
func TestUnreadHeadRemovedBelowUnnotedCommit(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	s := testShare(t, sys)
	mustDo(t, s, put(t, s, "/f", "one"))
	head := commitShare(t, s)
	mustDo(t, s, put(t, s, "/g", "two"))
	mustDo(t, s, &op{kind: opRename, name: Name{"/f"}, to: Name{"/h"}})
	died := errors.New("the process died here")
	repo.FailAfterCommit(died)
	if _, err := sys.Commit(t.Context(), "s"); !errors.Is(err, died) {
		t.Fatalf("commit: got %v, want %v", err, died)
	}
	crash(t, sys)
	repo.FailAfterCommit(nil)

	repo.FailIndex(snapshotter.ErrUnavailable)
	sys = openTestSystem(t, dir, repo)
	want(t, "waits", testShare(t, sys).headless.Load() != nil, true)
	repo.Remove(head)
	repo.FailIndex(nil)
	if id, err := sys.Commit(t.Context(), "s"); err == nil {
		t.Errorf("commit above a snapshot that has the changes already: made %s", id)
	}
	if err := testShare(t, sys).do(t.Context(), put(t, testShare(t, sys), "/i", "three")); KindOf(err) != KindUnavailable {
		t.Errorf("change above what may have been made twice: got %v, want %v", err, KindUnavailable)
	}
	crash(t, sys)

	sys = openTestSystem(t, dir, repo)
	defer func() { closeSystem(t, sys) }()
	s = testShare(t, sys)
	all := map[string]string{"/g": "two", "/h": "one"}
	want(t, "live tree", contents(t, s), all)
	want(t, "snapshot", viewContents(t, repo, commitShare(t, s)), all)
	want(t, "made", repo.Counts().Commits, 2)
}

// atHandRepository is out of reach while away is set, but for views: of what copies of the metadata are at hand, also of a snapshot that was
// removed meanwhile.
type atHandRepository struct {
	*memRepository
	away bool // set while no System is open
	kept map[snapshotter.ID]View
}

func (r *atHandRepository) AllSnapshots(ctx context.Context, share string, now bool) ([]snapshotter.Snapshot, error) {
	if r.away {
		return nil, snapshotter.ErrUnavailable
	}
	return r.memRepository.AllSnapshots(ctx, share, now)
}

func (r *atHandRepository) View(ctx context.Context, id snapshotter.ID) (View, error) {
	if v := r.kept[id]; r.away && v != nil {
		return v, nil
	}
	return r.memRepository.View(ctx, id)
}

// A start finds the head removed, or a commit that is not noted, and the process dies before it commits: the next start, which finds the store
// away and the names of the head that was noted at hand, knows what the one before has found.
func TestStartAwayAfterHeadWasFound(t *testing.T) {
	large := strings.Repeat("two", 100) // in the spool
	for _, tt := range []struct {
		name    string
		removed bool
		want    map[string]string
	}{
		{"the head was removed", true, map[string]string{"/kept": "one", "/g": "dir"}},
		{"a commit was not noted", false, map[string]string{"/kept": "one", "/f": large, "/g": "dir"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, repo := t.TempDir(), &atHandRepository{memRepository: newMemRepository(), kept: map[snapshotter.ID]View{}}
			sys := openTestSystem(t, dir, repo)
			s := testShare(t, sys)
			mustDo(t, s, put(t, s, "/kept", "one"))
			head := commitShare(t, s)
			if tt.removed {
				mustDo(t, s, put(t, s, "/g", "gone"))
				head = commitShare(t, s)
			} else {
				mustDo(t, s, put(t, s, "/f", large))
				died := errors.New("the process died here")
				repo.FailAfterCommit(died)
				if _, err := sys.Commit(t.Context(), "s"); !errors.Is(err, died) {
					t.Fatalf("commit: got %v, want %v", err, died)
				}
				repo.FailAfterCommit(nil)
			}
			view, err := repo.View(t.Context(), head)
			wantNil(t, "view", err)
			defer func() { wantNil(t, "close", view.Close()) }()
			repo.kept[head] = view
			crash(t, sys)
			if tt.removed {
				repo.Remove(head)
			}

			sys = openTestSystem(t, dir, repo)
			s = testShare(t, sys)
			mustDo(t, s, &op{kind: opMkdir, name: Name{"/g"}})
			crash(t, sys)

			repo.away = true
			sys = openTestSystem(t, dir, repo)
			want(t, "live tree while the store is away", contents(t, testShare(t, sys)), tt.want)
			crash(t, sys)
			repo.away = false
			sys = openTestSystem(t, dir, repo)
			defer func() { closeSystem(t, sys) }()
			s = testShare(t, sys)
			want(t, "next snapshot", viewContents(t, repo.memRepository, commitShare(t, s)), tt.want)
			want(t, "live tree", contents(t, s), tt.want)
		})
	}
}
