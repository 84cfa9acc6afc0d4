package vfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// fakeShare is a share as a committer sees it: numbered changes, sealed sets of them, and
// snapshots.
type fakeShare struct {
	notify chan struct{}
	log    bytes.Buffer // written by the committer's goroutine, read when it waits

	mu        sync.Mutex
	st        policyState
	open      int   // changes in the current set
	sets      []int // changes in each sealed set
	snapshots []string
	reasons   []string
	attempts  []time.Time
	fail      error
	hold      chan struct{} // when set, a commit waits for it
}

func (f *fakeShare) change(upload bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.open == 0 {
		f.st.oldestChange = now
	}
	f.open++
	f.st.lastChange = now
	f.st.completedUpload = f.st.completedUpload || upload
	f.pulse()
}

func (f *fakeShare) edit(change func(*policyState)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.st)
	f.pulse()
}

func (f *fakeShare) setFail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *fakeShare) pulse() {
	select {
	case f.notify <- struct{}{}:
	default:
	}
}

func (f *fakeShare) state() policyState {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st
}

func (f *fakeShare) seal(_ context.Context, reason string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == 0 {
		return nil
	}
	f.sets = append(f.sets, f.open)
	f.reasons = append(f.reasons, reason)
	if f.st.sealed == 0 {
		f.st.oldestSealed = time.Now()
	}
	f.st.sealed++
	f.open, f.st.oldestChange, f.st.completedUpload = 0, time.Time{}, false
	return nil
}

func (f *fakeShare) commitNext(ctx context.Context) (bool, error) {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.sets) == 0 && !f.st.headless {
		return false, nil
	}
	f.attempts = append(f.attempts, time.Now())
	if f.fail != nil {
		return true, f.fail
	}
	if f.st.headless = false; len(f.sets) == 0 {
		return false, nil
	}
	f.snapshots = append(f.snapshots, fmt.Sprintf("%s:%d", f.reasons[0], f.sets[0]))
	f.sets, f.reasons = f.sets[1:], f.reasons[1:]
	if f.st.sealed--; f.st.sealed == 0 {
		f.st.oldestSealed = time.Time{}
	}
	return true, nil
}

// made lists the snapshots so far as "reason:changes".
func (f *fakeShare) made() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.snapshots)
}

// commits runs test in a bubble beside a committer of cfg, and waits for its end.
func commits(t *testing.T, cfg ShareConfig, test func(t *testing.T, f *fakeShare, c *committer)) {
	t.Helper()
	commitsFrom(t, cfg, nothing, nothing, test)
}

func nothing(*fakeShare) {}

// commitsFrom is commits of a share that something has happened to before the committer was made, and then
// before its goroutine began to run.
func commitsFrom(t *testing.T, cfg ShareConfig, before, then func(*fakeShare), test func(t *testing.T, f *fakeShare, c *committer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeShare{notify: make(chan struct{}, 1)}
		before(f)
		cfg.Name = "main"
		c := newCommitter(committerConfig{
			share: cfg, logger: slog.New(slog.NewTextHandler(&f.log, nil)),
			state: f.state, notify: f.notify, seal: f.seal, commitNext: f.commitNext,
		})
		then(f)
		ctx, cancel := context.WithCancel(t.Context())
		go c.run(ctx)
		synctest.Wait()
		test(t, f, c)
		cancel()
		<-c.ended
		if err := c.request(t.Context(), "manual"); err == nil || KindOf(err) != KindClosed {
			t.Errorf("request after the end: %v", err)
		}
	})
}

func wantMade(t *testing.T, f *fakeShare, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := f.made(); !slices.Equal(got, want) {
		t.Errorf("snapshots %q, want %q", got, want)
	}
}

func TestCommitterFollowsThePolicy(t *testing.T) {
	t.Run("close", func(t *testing.T) {
		commits(t, ShareConfig{When: WhenClose}, func(t *testing.T, f *fakeShare, c *committer) {
			f.change(false)
			wantMade(t, f)
			f.change(true)
			wantMade(t, f, "close:2")
			f.change(false)
			time.Sleep(2*time.Second - 1)
			wantMade(t, f, "close:2")
			time.Sleep(1)
			wantMade(t, f, "close:2", "close:1")
		})
	})
	t.Run("batch", func(t *testing.T) {
		commits(t, ShareConfig{}, func(t *testing.T, f *fakeShare, c *committer) {
			f.edit(func(st *policyState) { st.sessions, st.openUploads = 1, 1 })
			f.change(true)
			time.Sleep(10 * time.Minute)
			wantMade(t, f)
			f.edit(func(st *policyState) { st.sessions, st.openUploads, st.lastSessionEnd = 0, 0, time.Now() })
			wantMade(t, f, "batch:1") // quiet for long
			f.change(true)
			time.Sleep(4 * time.Second)
			wantMade(t, f, "batch:1")
			time.Sleep(time.Second)
			wantMade(t, f, "batch:1", "batch:1")
		})
	})
	t.Run("schedule", func(t *testing.T) {
		hourly := func(after time.Time) time.Time { return after.Truncate(time.Hour).Add(time.Hour) }
		commits(t, ShareConfig{When: WhenSchedule, Next: hourly}, func(t *testing.T, f *fakeShare, c *committer) {
			time.Sleep(10 * time.Minute)
			f.change(true)
			time.Sleep(50*time.Minute - 1)
			wantMade(t, f)
			time.Sleep(1)
			wantMade(t, f, "schedule:1")
			time.Sleep(5 * time.Hour)
			wantMade(t, f, "schedule:1")
		})
	})
}

func TestCommitterReload(t *testing.T) {
	commits(t, ShareConfig{When: WhenManual}, func(t *testing.T, f *fakeShare, c *committer) {
		f.change(true)
		time.Sleep(time.Hour)
		wantMade(t, f)
		c.reload(ShareConfig{Name: "main", When: WhenClose})
		wantMade(t, f, "close:1")
	})
}

func TestCommitterRequests(t *testing.T) {
	t.Run("commits what is there, once", func(t *testing.T) {
		commits(t, ShareConfig{When: WhenManual}, func(t *testing.T, f *fakeShare, c *committer) {
			f.change(true)
			for range 2 {
				if err := c.request(t.Context(), "manual"); err != nil {
					t.Error(err)
				}
			}
			wantMade(t, f, "manual:1")
		})
	})
	t.Run("at the same time share a commit", func(t *testing.T) {
		commits(t, ShareConfig{When: WhenManual}, func(t *testing.T, f *fakeShare, c *committer) {
			hold := make(chan struct{})
			f.hold = hold
			f.change(true)
			first := make(chan error)
			go func() { first <- c.request(t.Context(), "manual") }()
			synctest.Wait() // the first commit is under way
			var rest sync.WaitGroup
			for range 10 {
				f.change(true)
				rest.Go(func() {
					if err := c.request(t.Context(), "stored"); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			close(hold)
			if err := <-first; err != nil {
				t.Error(err)
			}
			rest.Wait()
			wantMade(t, f, "manual:1", "stored:10")
		})
	})
	t.Run("give up with their context, the commit does not", func(t *testing.T) {
		commits(t, ShareConfig{When: WhenManual}, func(t *testing.T, f *fakeShare, c *committer) {
			hold := make(chan struct{})
			f.hold = hold
			f.change(true)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := c.request(ctx, "stored"); err == nil || KindOf(err) != KindTimeout {
				t.Errorf("got %v, want KindTimeout", err)
			}
			close(hold)
			wantMade(t, f, "stored:1")
		})
	})
	t.Run("end with the committer", func(t *testing.T) {
		var result error
		commits(t, ShareConfig{When: WhenManual}, func(t *testing.T, f *fakeShare, c *committer) {
			f.hold = make(chan struct{})
			f.change(true)
			go func() { result = c.request(context.WithoutCancel(t.Context()), "stored") }()
			synctest.Wait()
		})
		if result == nil || KindOf(result) != KindClosed {
			t.Errorf("got %v, want KindClosed", result)
		}
	})
}

func TestCommitterFailures(t *testing.T) {
	away := fmt.Errorf("dial: %w", snapshotter.ErrUnavailable)
	t.Run("are retried with longer pauses, and logged", func(t *testing.T) {
		commits(t, ShareConfig{When: WhenClose}, func(t *testing.T, f *fakeShare, c *committer) {
			f.setFail(away)
			f.change(true)
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			tries := slices.Clone(f.attempts)
			if len(tries) < 12 || len(tries) > 25 {
				t.Fatalf("%d attempts in ten minutes", len(tries))
			}
			for i := 1; i < len(tries); i++ {
				low, high := min(time.Second<<(i-1), 30*time.Second), min(2*time.Second<<(i-1), time.Minute)
				if i > 10 {
					low, high = 30*time.Second, time.Minute
				}
				if pause := tries[i].Sub(tries[i-1]); pause < low || pause > high {
					t.Errorf("pause %d is %v, want %v to %v", i, pause, low, high)
				}
			}
			if got := strings.Count(f.log.String(), "level=WARN"); got != len(tries) {
				t.Errorf("%d warnings for %d failures", got, len(tries))
			}
			if !strings.Contains(f.log.String(), "attempt=3") {
				t.Errorf("no attempt number in the log:\n%s", f.log.String())
			}
			f.setFail(nil)
			time.Sleep(time.Minute)
			wantMade(t, f, "close:1")
			if !strings.Contains(f.log.String(), "commits work again") {
				t.Error("the log does not say that it is over")
			}
			f.setFail(away)
			f.change(true)
			synctest.Wait()
			at := time.Now()
			f.setFail(nil)
			time.Sleep(2 * time.Second)
			wantMade(t, f, "close:1", "close:1")
			if pause := f.attempts[len(f.attempts)-1].Sub(at); pause < time.Second {
				t.Errorf("first retry after %v", pause)
			}
		})
	})
	t.Run("are retried whatever the policy says", func(t *testing.T) {
		commits(t, ShareConfig{When: WhenManual}, func(t *testing.T, f *fakeShare, c *committer) {
			f.setFail(away)
			f.change(true)
			if err := c.request(t.Context(), "manual"); err == nil || KindOf(err) != KindUnavailable {
				t.Errorf("got %v, want KindUnavailable", err)
			}
			f.change(true) // not asked for
			f.setFail(nil)
			time.Sleep(time.Minute)
			wantMade(t, f, "manual:1")
		})
	})
	t.Run("answer requests at once, after a fresh attempt", func(t *testing.T) {
		commits(t, ShareConfig{When: WhenClose}, func(t *testing.T, f *fakeShare, c *committer) {
			f.setFail(away)
			f.change(true)
			time.Sleep(time.Minute)
			start := time.Now()
			full := errors.New("disk full")
			f.setFail(full)
			err := c.request(t.Context(), "manual")
			if !errors.Is(err, full) || KindOf(err) != KindOther {
				t.Errorf("got %v, want the error of a fresh attempt", err)
			}
			if waited := time.Since(start); waited != 0 {
				t.Errorf("answered after %v", waited)
			}
			f.setFail(nil)
			if err := c.request(t.Context(), "manual"); err != nil {
				t.Error(err)
			}
			wantMade(t, f, "close:1")
		})
	})
}

func TestCommitterSealedSets(t *testing.T) {
	sealAll := func(f *fakeShare, n int) {
		for range n {
			f.change(false)
			_ = f.seal(context.Background(), "seal")
		}
		f.pulse()
	}
	t.Run("soon, together, without the current set", func(t *testing.T) {
		commits(t, ShareConfig{}, func(t *testing.T, f *fakeShare, c *committer) {
			f.edit(func(st *policyState) { st.sessions = 1 })
			sealAll(f, 2)
			time.Sleep(sealDelay - 1)
			f.change(false)
			wantMade(t, f)
			time.Sleep(1)
			wantMade(t, f, "seal:1", "seal:1")
		})
	})
	t.Run("of an earlier process at once", func(t *testing.T) {
		two := func(f *fakeShare) { sealAll(f, 2) }
		commitsFrom(t, ShareConfig{When: WhenManual}, two, nothing, func(t *testing.T, f *fakeShare, c *committer) {
			wantMade(t, f, "seal:1", "seal:1")
		})
	})
	t.Run("of the first moments are none of an earlier process", func(t *testing.T) {
		two := func(f *fakeShare) { sealAll(f, 2) }
		commitsFrom(t, ShareConfig{When: WhenManual}, nothing, two, func(t *testing.T, f *fakeShare, c *committer) {
			time.Sleep(time.Hour)
			wantMade(t, f)
		})
	})
	t.Run("many, whatever the policy", func(t *testing.T) {
		commits(t, ShareConfig{When: WhenManual, MaxPending: 4}, func(t *testing.T, f *fakeShare, c *committer) {
			sealAll(f, 2)
			time.Sleep(time.Hour)
			wantMade(t, f)
			sealAll(f, 1)
			wantMade(t, f, "seal:1", "seal:1", "seal:1")
		})
	})
}

// A state in which the policy wants a commit that then finds nothing to do must not keep
// the committer busy.
func TestCommitterDoesNotSpin(t *testing.T) {
	commits(t, ShareConfig{When: WhenClose}, func(t *testing.T, f *fakeShare, c *committer) {
		f.edit(func(st *policyState) {
			st.oldestChange, st.lastChange, st.completedUpload = time.Now(), time.Now(), true
		})
		time.Sleep(time.Hour) // a spinning committer never lets the bubble's clock go on
		wantMade(t, f)
		f.change(true)
		wantMade(t, f, "close:1")
	})
}

// A share that waits for its head looks for it by itself, whatever its policy.
func TestCommitterLooksForHead(t *testing.T) {
	commitsFrom(t, ShareConfig{When: WhenManual}, func(f *fakeShare) {
		f.st.headless, f.fail = true, snapshotter.ErrUnavailable
	}, nothing, func(t *testing.T, f *fakeShare, c *committer) {
		time.Sleep(10 * time.Minute)
		f.mu.Lock()
		n := len(f.attempts)
		f.mu.Unlock()
		if n < 10 || n > 40 {
			t.Errorf("%d attempts in ten minutes, want one a minute or a few more", n)
		}
		f.setFail(nil)
		time.Sleep(time.Minute)
		want(t, "waits", f.state().headless, false)
	})
}

// Whoever waits for the committer does not keep it from looking for the head: an attempt that tried nothing would pass for one that
// worked, and end the pauses between failures.
func TestCommitterLooksForHeadFirst(t *testing.T) {
	commits(t, ShareConfig{When: WhenManual}, func(t *testing.T, f *fakeShare, c *committer) {
		f.setFail(snapshotter.ErrUnavailable)
		tries := func() int {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.attempts)
		}
		next := commitCall{done: make(chan error, 1), run: func(context.Context) error {
			want(t, "attempts before the next call", tries(), 1)
			return nil
		}}
		wantNil(t, "between", c.between(t.Context(), func(context.Context) error {
			f.edit(func(st *policyState) { st.headless = true })
			return c.enqueue(func() { c.calls = append(c.calls, next) })
		}))
		wantNil(t, "next", <-next.done)
		synctest.Wait()
		if strings.Contains(f.log.String(), "commits work again") {
			t.Errorf("nothing works, and the log says otherwise:\n%s", f.log.String())
		}
	})
}
