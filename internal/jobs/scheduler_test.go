package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/internal/logtest"
)

// rig is a scheduler in a bubble, which begins on 2000-01-01 at midnight. Its wall clock can be
// set.
type rig struct {
	*Scheduler
	t   *testing.T
	cfg Config
	log *logtest.Buffer

	mu    sync.Mutex
	shift time.Duration // of the wall clock
	runs  []string      // "name time" of each start
	most  int           // at once
	now   int
	fail  error // of the runs of failing

	stop func()
}

// inBubble runs test with a scheduler that is not served yet.
func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, log: &logtest.Buffer{}}
		r.cfg = Config{
			Dir: filepath.Join(dir, "jobs"), Seed: "gateway", Logger: slog.New(slog.NewTextHandler(r.log, nil)), Now: r.wall,
			Hint: func(err error) string { return "look at " + err.Error() },
		}
		r.restart()
		test(t, r)
	})
}

// restart makes a new scheduler on the states of the old one, which must not be served any more.
func (r *rig) restart() {
	r.t.Helper()
	var err error
	if r.Scheduler, err = New(r.cfg); err != nil {
		r.t.Fatal(err)
	}
}

// serve serves until the test or stop ends it.
func (r *rig) serve() {
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Serve(ctx)
	}()
	r.stop = func() {
		cancel()
		<-ended
	}
	r.t.Cleanup(r.stop)
}

func (r *rig) wall() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.shift).UTC()
}

// set sets the wall clock forward, or back.
func (r *rig) set(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shift += by
}

func (r *rig) jobs(list ...Job) {
	r.t.Helper()
	if err := r.Set(list); err != nil {
		r.t.Fatal(err)
	}
}

// job is a job without jitter that takes some time and ends with what end returns, nil for
// success.
func (r *rig) job(name, line string, takes time.Duration, end func() error) Job {
	r.t.Helper()
	c, err := ParseCron(line, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return Job{Name: name, Kind: "pull", Schedule: c, Jitter: -1, Run: func(ctx context.Context) (Outcome, error) {
		r.mu.Lock()
		r.runs = append(r.runs, name+" "+time.Now().Add(r.shift).UTC().Format("2 15:04:05"))
		r.now++
		r.most = max(r.most, r.now)
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			r.now--
			r.mu.Unlock()
		}()
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		}
		if end != nil {
			return Outcome{}, end()
		}
		return Outcome{Snapshot: "abcd", Summary: "two files"}, nil
	}}
}

// failing is what a job ends with: what was set with failWith.
func (r *rig) failing() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fail
}

func (r *rig) failWith(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// want compares the starts since it was called last.
func (r *rig) want(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.runs, want) {
		r.t.Errorf("ran %q, want %q\n%s", r.runs, want, r.log.String())
	}
	r.runs = nil
}

// status is the job's status.
func (r *rig) status(name string) Status {
	r.t.Helper()
	for _, st := range r.List() {
		if st.Name == name {
			return st
		}
	}
	r.t.Fatalf("no job %s", name)
	return Status{}
}

func (r *rig) kept(name string) State {
	r.t.Helper()
	s, err := ReadState(disk.OS{}, r.cfg.Dir, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func TestRunsAtItsTimes(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("web1", "0 2 * * *", time.Minute, nil))
		r.serve()
		r.pass(72 * time.Hour)
		r.want("web1 1 02:00:00", "web1 2 02:00:00", "web1 3 02:00:00")
		st := r.status("web1")
		start := time.Date(2000, 1, 3, 2, 0, 0, 0, time.UTC)
		if st.State.Result != OK || !st.State.Start.Equal(start) || !st.State.Success.Equal(start.Add(time.Minute)) ||
			st.State.Snapshot != "abcd" || st.State.Summary != "two files" || !st.Next.Equal(start.Add(24*time.Hour)) {
			t.Errorf("got %+v", st)
		}
		if got := r.kept("web1"); !got.End.Equal(st.State.End) || got.Result != OK {
			t.Errorf("kept %+v", got)
		}
		r.log.Wait(t, "level=INFO", `msg="job started"`, "job=web1", "kind=pull", "reason=schedule", "due=2000-01-03T02:00:00.000Z")
		r.log.Wait(t, "level=INFO", `msg="job ended"`, "job=web1", "result=ok", "dur=1m0s", "snapshot=abcd", `summary="two files"`, "next=2000-01-04T02:00:00.000Z")
	})
}

func TestJitter(t *testing.T) {
	line := func(s string) *Cron {
		c, err := ParseCron(s, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	due := time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		job  Job
		most time.Duration
	}{
		"daily":           {Job{Schedule: line("0 2 * * *")}, 5 * time.Minute},
		"hourly":          {Job{Schedule: line("0 * * * *")}, 36 * time.Second},
		"minutes":         {Job{Schedule: line("* * * * *")}, 600 * time.Millisecond},
		"none":            {Job{Schedule: line("0 2 * * *"), Jitter: -1}, 0},
		"an hour":         {Job{Schedule: line("0 2 * * *"), Jitter: time.Hour}, time.Hour},
		"no day of hours": {Job{Schedule: line("0 * * * *"), Jitter: 24 * time.Hour}, 30 * time.Minute},
	} {
		var least, most time.Duration = time.Hour, 0
		for i := range 200 {
			s := Scheduler{cfg: Config{Seed: fmt.Sprint(i)}}
			test.job.Name = "web1"
			got := s.jitter(&test.job, due)
			least, most = min(least, got), max(most, got)
			if again := s.jitter(&test.job, due.Add(24*time.Hour)); got != again {
				t.Errorf("%s: %v on one day, %v on another", name, got, again)
			}
			test.job.Name = "web2"
			if got == s.jitter(&test.job, due) && test.most > 0 {
				t.Errorf("%s: two jobs start at once, after %v", name, got)
			}
		}
		if least < 0 || least > test.most/10 || most > test.most || most < test.most/10*9 {
			t.Errorf("%s: from %v to %v, want 0 to %v", name, least, most, test.most)
		}
	}
}

func TestJitterDelaysTheStart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		j := r.job("web1", "0 2 * * *", time.Minute, nil)
		j.Jitter = time.Hour
		r.jobs(j)
		r.serve()
		next := r.status("web1").Next
		if due := time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC); !next.After(due) || next.After(due.Add(time.Hour)) {
			t.Errorf("it starts at %v", next)
		}
		r.pass(26 * time.Hour)
		r.want("web1 " + next.Format("2 15:04:05"))
	})
}

func TestNoOverlap(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("web1", "0 * * * *", 90*time.Minute, nil))
		r.serve()
		r.pass(5 * time.Hour)
		r.want("web1 1 01:00:00", "web1 1 03:00:00", "web1 1 05:00:00")
		r.log.Wait(t, "level=WARN", "a job was due again while it ran; that run is left out", "job=web1", "due=2000-01-01T02:00:00.000Z")
	})
}

func TestParallel(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var list []Job
		for _, name := range []string{"e", "d", "c", "b", "a"} {
			list = append(list, r.job(name, "0 2 * * *", 10*time.Minute, nil))
		}
		r.jobs(list...)
		r.serve()
		r.pass(2*time.Hour + 5*time.Minute)
		for name, want := range map[string]bool{"a": false, "b": false, "c": true, "d": true, "e": true} {
			if st := r.status(name); st.Waiting != want || st.Running == want {
				t.Errorf("%s: waiting %v, running %v", name, st.Waiting, st.Running)
			}
		}
		// One that was asked for neither waits nor takes a place.
		if _, err := r.RunNow(t.Context(), "e", nil); err != nil {
			t.Error(err)
		}
		r.pass(22 * time.Hour)
		slices.Sort(r.runs[:2])
		slices.Sort(r.runs[3:5])
		r.want("a 1 02:00:00", "b 1 02:00:00", "e 1 02:05:00", "c 1 02:10:00", "d 1 02:10:00")
		if r.most != 3 {
			t.Errorf("%d at once, want 2 and the one that was asked for", r.most)
		}
	})
}

func TestRetries(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.failWith(Retry(errors.New("server is away")))
		r.jobs(r.job("web1", "0 2 * * *", time.Second, r.failing))
		r.serve()
		r.pass(2 * time.Hour)
		// The pauses are random: from half of what they double to.
		for n, most := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour} {
			r.pass(time.Second)
			st := r.status("web1")
			if st.State.Result != Failed || st.State.Failures != n+1 || st.State.Error != "server is away" || st.State.Hint != "look at server is away" {
				t.Fatalf("after %d failures: %+v", n+1, st.State)
			}
			pause := st.Next.Sub(st.State.End)
			if pause < most/2 || pause > most {
				t.Errorf("after %d failures it waits %v, want %v at most", n+1, pause, most)
			}
			r.pass(pause)
		}
		r.log.Wait(t, "level=WARN", "job ended", "result=failed", "failures=3", `err="server is away"`)
		r.failWith(nil)
		r.pass(18 * time.Hour) // up to the next time of the schedule it is longer
		if n := len(r.runs); n != 9 {
			t.Errorf("%d runs, want 8 that failed and one that did not", n)
		}
		if st := r.status("web1").State; st.Result != OK || st.Failures != 0 || st.Error != "" || !st.Retry.IsZero() {
			t.Errorf("after success: %+v", st)
		}
	})
}

// A retry that would come after the next time of the schedule is not made.
func TestRetryAndSchedule(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("web1", "* * * * *", 50*time.Second, func() error { return Retry(errors.New("away")) }))
		r.serve()
		r.pass(3*time.Minute + 30*time.Second)
		r.want("web1 1 00:01:00", "web1 1 00:02:00", "web1 1 00:03:00")
	})
}

func TestLastingFailureWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("web1", "0 2 * * *", time.Second, func() error { return errors.New("wrong password") }))
		r.serve()
		r.pass(48 * time.Hour)
		r.want("web1 1 02:00:00", "web1 2 02:00:00")
		r.log.Wait(t, "level=ERROR", "job ended", "result=failed", "failures=2", `err="wrong password"`)
	})
}

func TestMissedIsMadeUpOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		j := r.job("web1", "0 2 * * *", time.Minute, nil)
		r.jobs(j)
		r.serve()
		r.stop()
		r.pass(4*24*time.Hour + 12*time.Hour)
		r.want()
		r.restart()
		r.jobs(j)
		r.serve()
		r.pass(24 * time.Hour)
		r.want("web1 5 12:00:00", "web1 6 02:00:00")
		r.log.Wait(t, "a job was missed and is made up", "due=2000-01-01T02:00:00.000Z")

		// Nothing was missed.
		r.stop()
		r.pass(time.Hour)
		r.restart()
		r.jobs(j)
		r.serve()
		r.pass(time.Hour)
		r.want()
	})
}

// Many gateways that have their power back do not come at once.
func TestMissedHasJitter(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		j := r.job("web1", "0 2 * * *", time.Minute, nil)
		j.Jitter = time.Hour
		r.jobs(j)
		r.pass(12 * time.Hour)
		r.restart()
		r.jobs(j)
		r.serve()
		at := r.status("web1").Next
		if early := time.Date(2000, 1, 1, 12, 0, 0, 0, time.UTC); !at.After(early) || at.After(early.Add(time.Hour)) {
			t.Errorf("it is made up at %v", at)
		}
		r.pass(time.Hour)
		r.want("web1 " + at.Format("2 15:04:05"))
	})
}

// What a kill leaves is a state that says that the job runs.
func TestInterruptedIsMadeUpOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		j := r.job("web1", "0 2 * * *", time.Minute, nil)
		kill := func() {
			state := r.kept("web1")
			state.Result, state.Start = Running, r.wall()
			state.Due = time.Date(2000, 1, 2, 2, 0, 0, 0, time.UTC)
			if err := writeState(disk.OS{}, r.cfg.Dir, "web1", &state); err != nil {
				t.Fatal(err)
			}
			r.restart()
			r.jobs(j)
		}
		r.jobs(j)
		kill()
		if st := r.status("web1").State; st.Result != Interrupted || st.Failures != 1 || st.Error != "the gateway ended while it ran" {
			t.Errorf("got %+v", st)
		}
		// Killed again before it ran: perhaps by what the job does.
		kill()
		st := r.status("web1")
		if pause := st.Next.Sub(r.wall()); pause < 30*time.Second || pause > time.Minute || st.State.Failures != 2 {
			t.Errorf("after the second: %v, %+v", pause, st)
		}
		r.serve()
		r.pass(time.Hour)
		r.want("web1 " + st.Next.Format("2 15:04:05"))
		// No time of the schedule was missed, and none of those to come is told of.
		r.log.Wait(t, "a run of a job that has not come to its end is made up", "began=2000-01-01T00:00:00.000Z", "result=interrupted")
		r.log.Wait(t, "job started", "reason=retry")
		if text := r.log.String(); strings.Contains(text, "missed") || strings.Contains(text, "due=") {
			t.Errorf("the log has a time that was not due:\n%s", text)
		}
		if st := r.status("web1").State; st.Result != OK || st.Failures != 0 {
			t.Errorf("then: %+v", st)
		}
	})
}

func TestDamagedStateIsReplaced(t *testing.T) {
	for name, data := range map[string]string{
		"empty": "", "cut": `{"version": 1, "due`, "no state": "{}", "another version": `{"version": 99, "due": "2000-01-02T02:00:00Z"}`,
		"too large": strings.Repeat(" ", maxState) + "{}",
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				if err := os.MkdirAll(r.cfg.Dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(statePath(r.cfg.Dir, "web1"), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
				r.jobs(r.job("web1", "0 2 * * *", time.Minute, nil))
				r.log.Wait(t, "level=WARN", "the state of a job cannot be read and is made anew", "job=web1")
				r.serve()
				r.pass(time.Hour)
				r.want("web1 1 00:00:00")
				if got := r.kept("web1"); got.Result != OK {
					t.Errorf("kept %+v", got)
				}
			})
		})
	}
}

// A disk that fails stops no job.
func TestDiskFails(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		faulty := disktest.NewFaulty(disk.OS{})
		faulty.Add(disktest.Fault{Ops: disktest.OpAll, Err: syscall.EIO})
		r.cfg.Disk = faulty
		r.restart()
		r.jobs(r.job("web1", "0 * * * *", time.Minute, nil))
		r.serve()
		r.pass(time.Hour)
		r.want("web1 1 00:00:00", "web1 1 01:00:00") // the first since it is not known when it ran
		r.log.Wait(t, "level=WARN", "the state of a job was not saved", "job=web1")
		if st := r.status("web1"); !st.Running {
			t.Errorf("got %+v", st)
		}
	})
}

// When a run begins, the state that a power loss leaves says so.
func TestStateIsDurableBeforeTheRun(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if err := os.MkdirAll(r.cfg.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		recorder, err := disktest.NewRecorder(r.cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		r.cfg.Disk = recorder
		r.restart()
		j := r.job("web1", "0 2 * * *", time.Minute, nil)
		run, point := j.Run, 0
		j.Run = func(ctx context.Context) (Outcome, error) {
			point = recorder.Point()
			return run(ctx)
		}
		r.jobs(j)
		r.serve()
		r.pass(3 * time.Hour)
		for _, test := range []struct {
			name  string
			point int
			want  Result
		}{{"at the start", point, Running}, {"at the end", recorder.Point(), OK}} {
			for _, v := range disktest.Variants(4) {
				dir := t.TempDir()
				if err := recorder.Materialize(test.point, v, dir); err != nil {
					t.Fatal(err)
				}
				if got, err := ReadState(disk.OS{}, dir, "web1"); err != nil || got.Result != test.want {
					t.Errorf("%s, %v: got %+v, %v", test.name, v, got, err)
				}
			}
		}
	})
}

func TestClockSetForward(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("web1", "0 * * * *", time.Second, nil))
		r.serve()
		r.pass(30*time.Minute + time.Second)
		r.set(5 * time.Hour)
		r.pass(time.Minute) // it looks at the clock that often
		r.want("web1 1 05:31:00")
		r.pass(time.Hour)
		r.want("web1 1 06:00:00")
	})
}

func TestClockSetBack(t *testing.T) {
	for name, by := range map[string]time.Duration{
		"a second": time.Second, "half an hour": 30 * time.Minute, "two hours": 2 * time.Hour, "a day": 24 * time.Hour, "thirty years": 30 * 365 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				var starts []time.Time
				j := r.job("web1", "0 * * * *", 0, nil)
				run := j.Run
				j.Run = func(ctx context.Context) (Outcome, error) {
					starts = append(starts, time.Now())
					return run(ctx)
				}
				r.jobs(j)
				r.serve()
				r.pass(time.Hour)
				r.want("web1 1 01:00:00")
				r.set(-by)
				r.pass(4 * time.Hour)
				if len(starts) < 3 {
					t.Fatalf("it ran at %v only\n%s", starts, r.log.String())
				}
				for i := range starts[1:] {
					if gap := starts[i+1].Sub(starts[i]); gap < time.Hour || gap > 2*time.Hour {
						t.Errorf("two runs are %v apart", gap)
					}
				}
			})
		})
	}
}

// From 2097 on there is no leap day for more than the five years that are looked through.
func TestNoNextTime(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		j := r.job("web1", "0 2 29 2 *", 0, nil)
		r.set(97 * 365 * 24 * time.Hour)
		if next := j.Schedule.Next(r.wall()); !next.IsZero() {
			t.Fatalf("the next time is %v", next)
		}
		r.jobs(j)
		r.serve()
		r.pass(time.Hour)
		r.want()
		if _, err := r.RunNow(t.Context(), "web1", nil); err != nil {
			t.Error(err)
		}
		r.pass(time.Hour)
		if n := len(r.runs); n != 1 {
			t.Errorf("%d runs, want the one that was asked for", n)
		}
	})
}

func TestClockSetBackAndForward(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("web1", "0 * * * *", 0, nil))
		r.serve()
		r.pass(time.Hour + time.Minute)
		r.want("web1 1 01:00:00")
		r.set(-3 * time.Hour)
		r.pass(10 * time.Minute)
		r.set(3 * time.Hour)
		r.pass(time.Hour)
		r.want("web1 1 02:00:00")
	})
}

// A machine without a clock of its own starts in another decade, and is corrected later.
func TestClockIsWrongAtTheStart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		j := r.job("web1", "0 2 * * *", time.Second, nil)
		r.jobs(j)
		r.serve()
		r.pass(12 * time.Hour)
		r.want("web1 1 02:00:00")
		r.stop()
		r.set(-20 * 365 * 24 * time.Hour)
		r.restart()
		r.jobs(j)
		r.serve()
		r.pass(time.Hour)
		r.set(20 * 365 * 24 * time.Hour)
		r.pass(24 * time.Hour)
		r.want("web1 2 02:00:00")
	})
}

func TestReload(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b, c := r.job("a", "0 * * * *", 10*time.Minute, nil), r.job("b", "0 * * * *", 10*time.Minute, nil), r.job("c", "30 * * * *", 0, nil)
		r.jobs(a, b)
		r.serve()
		r.pass(time.Hour + 5*time.Minute) // both run
		slices.Sort(r.runs)
		r.want("a 1 01:00:00", "b 1 01:00:00")
		changed := r.job("b", "15 * * * *", 0, nil)
		r.jobs(changed, c) // a is gone, b has changed, c is new
		if st := r.status("a"); !st.Running || !st.Next.IsZero() {
			t.Errorf("a, which runs its last: %+v", st)
		}
		r.pass(time.Hour)
		r.want("b 1 01:15:00", "c 1 01:30:00")
		if got := r.kept("a"); got.Result != OK {
			t.Errorf("the run of a that was taken out was disturbed: %+v", got)
		}
		if n := len(r.List()); n != 2 {
			t.Errorf("%d jobs, want 2", n)
		}
		// It comes back, and has missed 02:00.
		r.jobs(a, changed, c)
		r.pass(4 * time.Minute)
		r.want("a 1 02:05:00")
	})
}

// A schedule that did not hold yet was not missed.
func TestChangedScheduleMissesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("a", "0 2 * * *", 0, nil))
		r.serve()
		r.pass(12 * time.Hour)
		r.stop()
		r.restart()
		r.jobs(r.job("a", "0 * * * *", 0, nil))
		r.serve()
		r.pass(time.Hour)
		r.want("a 1 02:00:00", "a 1 13:00:00")
	})
}

func TestShutdown(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		j := r.job("web1", "0 2 * * *", time.Hour, nil)
		r.jobs(j)
		r.serve()
		r.pass(2*time.Hour + 10*time.Minute)
		r.stop()
		r.want("web1 1 02:00:00")
		if got := r.kept("web1"); got.Result != Stopped || got.Error != "the gateway was shut down" || got.Failures != 0 {
			t.Errorf("kept %+v", got)
		}
		r.log.Wait(t, "level=INFO", "job ended", "result=stopped", `why="the gateway was shut down"`)
		if _, err := r.RunNow(t.Context(), "web1", nil); !errors.Is(err, ErrStopped) {
			t.Errorf("a run after the end: got %v, want %v", err, ErrStopped)
		}
		r.restart()
		r.jobs(j)
		r.serve()
		r.pass(2 * time.Hour)
		r.want("web1 1 02:10:00")
		r.log.Wait(t, "job started", "reason=missed")
	})
}

func TestPanicIsContained(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("web1", "0 * * * *", 0, func() error { panic("oops") }), r.job("web2", "30 * * * *", 0, nil))
		r.serve()
		r.pass(2 * time.Hour)
		r.want("web2 1 00:30:00", "web1 1 01:00:00", "web2 1 01:30:00", "web1 1 02:00:00")
		r.log.Wait(t, "level=ERROR", "job panicked", "job=web1", "panic=oops", "scheduler_test.go")
		if st := r.status("web1").State; st.Result != Failed || st.Error != "a defect of this program: panic: oops" {
			t.Errorf("got %+v", st)
		}
	})
}

func TestRunNow(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.jobs(r.job("web1", "0 2 * * *", 10*time.Minute, r.failing))
		r.serve()
		if _, err := r.RunNow(t.Context(), "web2", nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v, want %v", err, ErrUnknown)
		}
		began := false
		st, err := r.RunNow(t.Context(), "web1", func() {
			began = true
			if _, err := r.RunNow(t.Context(), "web1", nil); !errors.Is(err, ErrRunning) {
				t.Errorf("got %v, want %v", err, ErrRunning)
			}
		})
		if err != nil || !began || st.Running || st.State.Result != OK || !st.Next.Equal(time.Date(2000, 1, 1, 2, 0, 0, 0, time.UTC)) {
			t.Errorf("got %+v, %v", st, err)
		}
		// The failure of one that was asked for is not repeated.
		r.failWith(Retry(errors.New("away")))
		if st, err = r.RunNow(t.Context(), "web1", nil); err == nil || err.Error() != "away" || st.State.Result != Failed {
			t.Errorf("got %+v, %v", st, err)
		}
		r.pass(time.Hour)
		r.want("web1 1 00:00:00", "web1 1 00:10:00")
		r.failWith(nil)

		// Whoever leaves takes the run back.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if st, err = r.RunNow(ctx, "web1", nil); !errors.Is(err, context.Canceled) || st.State.Result != Stopped {
			t.Errorf("got %+v, %v", st, err)
		}
		r.pass(time.Hour)
		r.want("web1 1 01:20:00", "web1 1 02:00:00")
	})
}

// A run that was asked for while one is owed takes its place.
func TestRunNowInPlaceOfARetry(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.failWith(Retry(errors.New("away")))
		r.jobs(r.job("web1", "0 2 * * *", 0, r.failing))
		r.serve()
		r.pass(2*time.Hour + time.Second)
		if _, err := r.RunNow(t.Context(), "web1", nil); err == nil {
			t.Error("it did not fail")
		}
		if st := r.status("web1"); st.State.Failures != 2 || st.Next.Sub(r.wall()) > 2*time.Minute {
			t.Errorf("the run is still owed, got %+v", st)
		}
		r.failWith(nil)
		if _, err := r.RunNow(t.Context(), "web1", nil); err != nil {
			t.Error(err)
		}
		r.pass(12 * time.Hour)
		r.want("web1 1 02:00:00", "web1 1 02:00:01", "web1 1 02:00:01")
	})
}

func TestSetRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		good := r.job("web1", "0 2 * * *", 0, nil)
		for want, j := range map[string]Job{
			`jobs: bad name ""`:                           {Schedule: good.Schedule, Run: good.Run},
			`jobs: bad name "../x"`:                       {Name: "../x", Schedule: good.Schedule, Run: good.Run},
			"jobs: two jobs of the name web1":             good,
			"jobs: web2 has no schedule or nothing to do": {Name: "web2", Run: good.Run},
			"jobs: web3 has no schedule or nothing to do": {Name: "web3", Schedule: good.Schedule},
		} {
			if err := r.Set([]Job{good, j}); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if n := len(r.List()); n != 0 {
			t.Errorf("%d jobs, want none", n)
		}
	})
}
