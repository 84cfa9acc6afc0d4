package vfs

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// newTestIntakes makes intakes of as many shares as there are wake-ups.
func newTestIntakes(limit, shares int) (*intakes, []*intake) {
	all := newIntakes(limit)
	var out []*intake
	for range shares {
		out = append(out, all.add(func() {}))
	}
	return all, out
}

func pendingChanges(i *intake) int {
	i.all.mu.Lock()
	defer i.all.mu.Unlock()
	return i.pending
}

// enterAll lets changes in until one would wait, and returns how many there were.
func enterAll(t *testing.T, i *intake) int {
	t.Helper()
	for n := 0; ; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- i.enter(ctx) }()
		synctest.Wait()
		select {
		case err := <-done:
			cancel()
			wantNil(t, "enter", err)
		default:
			cancel() // there is room, so it is let in all the same: take it back
			wantNil(t, "enter after its client is gone", <-done)
			i.leave()
			return n
		}
	}
}

// Beyond the window operations are let in one for each change that a commit has read, in the
// order of their coming.
func TestIntakeFollowsCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, is := newTestIntakes(1200, 1)
		i := is[0]
		began := time.Now()
		want(t, "let in at once", enterAll(t, i), 300)
		order := make(chan int, 100)
		for n := range 100 {
			go func() {
				if err := i.enter(t.Context()); err != nil {
					t.Error(err)
				}
				order <- n
			}()
			synctest.Wait()
		}
		for read := range 50 {
			i.progress(read + 1)
			want(t, "turn", <-order, read)
			synctest.Wait()
			want(t, "let in besides", len(order), 0)
		}
		i.progress(100)
		synctest.Wait()
		want(t, "let in at last", len(order), 50)
		want(t, "time that passed", time.Since(began), 0)
		i.committed(300)
		want(t, "let in after the commit", enterAll(t, i), 200)
	})
}

// Whose turn does not come waits, the longer the more changes there are, but never longer than
// a client waits for an answer, while there is room.
func TestIntakeSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, is := newTestIntakes(1200, 1)
		i := is[0]
		i.made(300)
		var last time.Duration
		for n := range 800 - 300 {
			began := time.Now()
			wantNil(t, "enter", i.enter(t.Context()))
			took := time.Since(began)
			if took < last || took > intakePatience {
				t.Fatalf("change %d waited for %v, the one before for %v", n, took, last)
			}
			if n == 0 && took > 10*time.Millisecond {
				t.Errorf("the first beyond the window waited for %v", took)
			}
			last = took
		}
		want(t, "the last that there is room for waited", last, intakePatience)
	})
}

// Without room, operations are refused when the store is away, within the time that a client
// waits; a busy gateway lets them wait.
func TestIntakeFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, is := newTestIntakes(1200, 1)
		i := is[0]
		i.made(800)
		busy := make(chan error, 1)
		go func() { busy <- i.enter(t.Context()) }()
		for read := range 100 { // more than eight minutes of a commit that is slow
			<-time.After(5 * time.Second)
			i.progress(read + 1)
			synctest.Wait()
			want(t, "refused or let in", len(busy), 0)
		}
		i.committed(100)
		<-time.After(intakePatience)
		wantNil(t, "enter after a commit", <-busy)

		i.made(99)
		want(t, "refuses", i.refuses(), false)
		i.failed()
		want(t, "refuses", i.refuses(), true)
		began := time.Now()
		wantKind(t, "enter while the store is away", i.enter(t.Context()), KindNoSpace)
		wantKind(t, "ready while the store is away", i.ready(t.Context()), KindNoSpace)
		if took := time.Since(began); took > 2*intakePatience {
			t.Errorf("two refusals took %v", took)
		}
		back := make(chan error, 1)
		go func() { back <- i.ready(t.Context()) }()
		synctest.Wait()
		i.committed(800)
		wantNil(t, "ready when the store is back", <-back)
		want(t, "pending", i.pending, 0)
	})
}

// A commit that hangs without an error holds an operation up for a bounded time, too.
func TestIntakeHungCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, is := newTestIntakes(1200, 1)
		is[0].made(800)
		began := time.Now()
		wantKind(t, "enter", is[0].enter(t.Context()), KindNoSpace)
		want(t, "time until the refusal", time.Since(began), intakeTries*intakePatience)
	})
}

// The end of a client or of the system ends a wait at once. What there is room for is done.
func TestIntakeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, is := newTestIntakes(1200, 1)
		i := is[0]
		i.made(799)
		began := time.Now()
		for _, wantErr := range []Kind{0, KindClosed} {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- i.enter(ctx) }()
			synctest.Wait()
			cancel()
			err := <-done
			if wantErr == 0 {
				wantNil(t, "with room", err)
			} else {
				wantKind(t, "without room", err, wantErr)
			}
		}
		done := make(chan error, 1)
		go func() { done <- i.enter(t.Context()) }()
		synctest.Wait()
		all.close()
		wantKind(t, "at the end of the system", <-done, KindClosed)
		want(t, "time that passed", time.Since(began), 0)
		want(t, "waiting", len(i.waiting), 0)
	})
}

// One share's flood leaves others room, however many there are, and a commit of one lets the
// others have more.
func TestIntakeIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, is := newTestIntakes(64_000, 40)
		for n, i := range is {
			began := time.Now()
			want(t, fmt.Sprintf("share %d is let in at once", n), enterAll(t, i) >= 64_000/64*3/8, true)
			want(t, "time that passed", time.Since(began), 0)
			i.made(max(i.most()-i.pending, 0)) // it floods until it is full
		}
		before := is[39].most()
		is[0].committed(is[0].pending)
		if after := is[39].most(); after <= before {
			t.Errorf("the last share may have %d changes, and %d before the commit", after, before)
		}
	})
}

// A share commits early when its own changes are many, and one with few when those of others
// leave no room.
func TestIntakePressed(t *testing.T) {
	_, is := newTestIntakes(1200, 3)
	want(t, "empty", is[0].pressed(), false)
	is[0].made(224)
	want(t, "below three quarters of the window", is[0].pressed(), false)
	is[0].made(1)
	want(t, "at three quarters of the window", is[0].pressed(), true)
	is[0].progress(1)
	want(t, "when a commit takes them", is[0].pressed(), false)

	_, is = newTestIntakes(1200, 3)
	is[0].made(20)
	is[1].made(700)
	want(t, "with few, while another has many", is[0].pressed(), false)
	is[2].made(400)
	want(t, "with few, while others have nearly all", is[0].pressed(), true)
}

// fullShare is a share whose store is away, with as many changes as it may have.
func fullShare(t *testing.T) (*System, *memRepository, visitor) {
	t.Helper()
	sys, repo := fullTestSystem(t, func(c *Config) {
		c.Limits.Changes = 30
		c.Shares = append(c.Shares, ShareConfig{Name: "other", When: WhenManual})
	})
	repo.FailCommits(snapshotter.ErrUnavailable)
	t.Cleanup(func() { repo.FailCommits(nil) })
	v := visit(t, sys, "u", PermFull, "/")
	v.mkdir("/d")
	for n := 0; ; n++ {
		f, err := v.Open(t.Context(), fmt.Sprint("/d/f", n), OpenWrite|OpenCreate, AttrSet{})
		if err != nil {
			wantKind(t, "open", err, KindNoSpace)
			want(t, "files", n, 19)
			return sys, repo, v
		}
		v.write(f, 0, "x")
		v.close(f)
	}
}

// While the store is away and changes are as many as may be, what would add one is refused,
// deletions, too. Reading and listing go on without a wait, and so does another share. When the
// store is back, all goes on.
func TestFullOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, repo, v := fullShare(t)
		now := time.Now()
		for n := range 19 {
			want(t, "read", v.get(fmt.Sprint("/d/f", n)), "x")
		}
		want(t, "listed", len(v.list("/d")), 19)
		other := visitMounts(t, sys, "u", PermFull, Mount{At: Root(), Share: "other", Root: Root()})
		other.mkdir("/d")
		other.put("/d/f", "x")
		want(t, "time that passed", time.Since(now), 0)

		mode := AttrSet{Mode: new(defaultFileMode)}
		for name, f := range map[string]func() error{
			"mkdir":   func() error { return v.Mkdir(t.Context(), "/e", AttrSet{}) },
			"symlink": func() error { return v.Symlink(t.Context(), "x", "/l") },
			"link":    func() error { return v.Link(t.Context(), "/d/f1", "/g") },
			"remove":  func() error { return v.Remove(t.Context(), "/d/f1") },
			"rename":  func() error { return v.Rename(t.Context(), "/d/f1", "/d/g", false) },
			"setattr": func() error { return v.SetAttr(t.Context(), "/d/f1", mode, false) },
		} {
			began := time.Now()
			wantKind(t, name, f(), KindNoSpace)
			if took := time.Since(began); took > intakePatience {
				t.Errorf("%s was refused after %v", name, took)
			}
		}
		st, err := v.StatFS(t.Context(), "/")
		wantNil(t, "statfs", err)
		want(t, "free blocks", st.BlocksAvail, 0)

		repo.FailCommits(nil)
		<-time.After(retryMax) // by then the commit is tried again
		synctest.Wait()
		now = time.Now()
		v.put("/d/more", "x")
		wantNil(t, "remove", v.Remove(t.Context(), "/d/f1"))
		want(t, "time that passed", time.Since(now), 0)
	})
}

// An upload that was open when room ran out is refused at its close, and can be resumed.
func TestFullOfChangesAtClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, repo := fullTestSystem(t, func(c *Config) { c.Limits.Changes = 30 })
		v := visit(t, sys, "u", PermFull, "/")
		f := v.open("/f", OpenWrite|OpenCreate)
		v.write(f, 0, "half")
		repo.FailCommits(snapshotter.ErrUnavailable)
		for n := range 20 {
			v.mkdir(fmt.Sprint("/d", n))
		}
		wantKind(t, "close", f.Close(), KindNoSpace)
		repo.FailCommits(nil)
		<-time.After(retryMax)
		synctest.Wait()
		f = v.open("/f", OpenWrite|OpenResume)
		info, err := f.Stat(t.Context())
		wantNil(t, "stat", err)
		want(t, "size", info.Size, 4)
		v.write(f, 4, " whole")
		v.close(f)
		want(t, "content", v.get("/f"), "half whole")
	})
}

// A flood is slowed down to the rate of commits: with a commit that does not end, only as many
// uploads are accepted as the bound allows, and none fails; when it ends, they all are.
func TestFloodGoesOnWithCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, repo := fullTestSystem(t, func(c *Config) { c.Limits.Changes = 300 })
		v := visit(t, sys, "u", PermFull, "/")
		gate := repo.Block()
		defer gate.Release()
		const clients, each = 8, 40
		done := make(chan error, clients)
		for c := range clients {
			v.mkdir(fmt.Sprint("/c", c))
			go func() {
				done <- func() error {
					for n := range each {
						f, err := v.Open(t.Context(), fmt.Sprintf("/c%d/f%d", c, n), OpenWrite|OpenCreate, AttrSet{})
						if err != nil {
							return err
						}
						if _, err := f.WriteAt([]byte("x"), 0); err != nil {
							return err
						}
						if err := f.Close(); err != nil {
							return err
						}
					}
					return nil
				}()
			}()
		}
		<-gate.Entered()
		<-time.After(intakePatience)
		if n := pendingChanges(testShare(t, sys).intake); n > 200 {
			t.Errorf("%d changes pend, more than the share may have", n)
		}
		synctest.Wait()
		if st := sys.Status().Shares[0]; st.Waiting == 0 || !st.Slowed || st.Refusing {
			t.Errorf("status while clients wait: %+v", st)
		}
		gate.Release()
		for range clients {
			wantNil(t, "a client", <-done)
		}
		commitShare(t, testShare(t, sys))
		want(t, "pending", pendingChanges(testShare(t, sys).intake), 0)
		<-time.After(slowedFor)
		if st := sys.Status().Shares[0]; st.Waiting != 0 || st.Slowed {
			t.Errorf("status when nobody has waited for %v: %+v", slowedFor, st)
		}
		want(t, "committed by backlog", repo.Counts().Commits > 1, true)
		for c := range clients {
			want(t, "files", len(v.list(fmt.Sprint("/c", c))), each)
		}
	})
}

// A close whose client goes away while it waits ends at once: the upload is whole, so it is
// published where there is room, and can be resumed where there is none.
func TestClientLeavesWaitingClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sys, repo := fullTestSystem(t, func(c *Config) { c.Limits.Changes = 30 })
		v := visit(t, sys, "u", PermFull, "/")
		room, none := v.open("/room", OpenWrite|OpenCreate), v.open("/none", OpenWrite|OpenCreate)
		v.write(room, 0, "whole")
		v.write(none, 0, "whole")
		repo.FailCommits(snapshotter.ErrUnavailable)
		for n := range 19 {
			v.mkdir(fmt.Sprint("/d", n))
		}
		began := time.Now()
		leave := func(f *File) error {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.CloseContext(ctx) }()
			synctest.Wait()
			want(t, "ended before its client left", len(done), 0)
			cancel()
			return <-done
		}
		wantNil(t, "close with room", leave(room))
		wantKind(t, "close without room", leave(none), KindClosed)
		want(t, "time that passed", time.Since(began), 0)
		want(t, "published", v.get("/room"), "whole")
		repo.FailCommits(nil)
		<-time.After(retryMax)
		synctest.Wait()
		f := v.open("/none", OpenWrite|OpenResume)
		want(t, "left of the other", f.up.size.Load(), 5)
		v.close(f)
	})
}

// A share with more changes in its journal than it may have, of an older version or a larger
// limit, opens all the same, and commits them.
func TestRecoverMoreChangesThanMayBe(t *testing.T) {
	dir, repo := t.TempDir(), newMemRepository()
	sys := openTestSystem(t, dir, repo)
	v := visit(t, sys, "u", PermFull, "/")
	for n := range 100 {
		v.mkdir(fmt.Sprint("/d", n))
	}
	crash(t, sys)
	sys = openTestSystem(t, dir, repo, func(c *Config) { c.Limits.Changes = 30 })
	defer closeSystem(t, sys)
	s := testShare(t, sys)
	v = visit(t, sys, "u", PermFull, "/")
	v.mkdir("/more") // waits for the commit
	commitShare(t, s)
	want(t, "pending", pendingChanges(s.intake), 0)
	want(t, "listed", len(v.list("/")), 101)
}
