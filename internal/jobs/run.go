package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
)

// Bounds of the pause after a failed run, which doubles from failure to failure. The pause itself
// is drawn from its upper half: 30 s to a minute after the first failure, 30 to 60 minutes at
// last.
const (
	retryFirst = time.Minute
	retryMax   = time.Hour
)

// retryPause is how long to wait after so many failures in a row.
func retryPause(failures int) time.Duration {
	pause := retryMax
	if shift := failures - 1; shift < 6 { // a minute << 6 is beyond an hour
		pause = retryFirst << shift
	}
	return pause/2 + rand.N(pause/2)
}

// retryError is an error that another try may not meet.
type retryError struct{ err error }

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// Retry marks an error of a run as one that another try may not meet, as a server that is away.
// Other errors wait for the next time of the schedule: a wrong password that is tried again and
// again locks the account.
func Retry(err error) error {
	if err == nil {
		return nil
	}
	return &retryError{err}
}

// start starts a run. The caller holds mu, and e does not run.
func (s *Scheduler) start(ctx context.Context, runs *sync.WaitGroup, e *entry, reason string) *run {
	now := s.now()
	r := &run{
		job: e.job, reason: reason, done: make(chan struct{}),
		owed: reason != byRequest || !e.state.Due.After(now) || !e.state.Retry.IsZero(),
	}
	ctx, r.cancel = context.WithCancelCause(ctx)
	e.run, e.waiting, e.earliest, e.ahead = r, false, time.Time{}, time.Time{}
	e.state.Retry = time.Time{}
	if !e.state.Due.After(now) {
		r.due, e.state.Due = e.state.Due, dueAfter(e.job.Schedule, now)
	}
	e.state.Start, e.state.End, e.state.Result = now, time.Time{}, Running
	if reason != byRequest {
		s.running++
	}
	runs.Go(func() { s.run(ctx, e, r) })
	return r
}

// run does one run of a job.
func (s *Scheduler) run(ctx context.Context, e *entry, r *run) {
	defer r.cancel(nil)
	s.save(e) // before anything is done: a kill from now on is noticed
	attrs := []slog.Attr{slog.String("job", r.job.Name), slog.String("kind", r.job.Kind), slog.String("reason", r.reason)}
	if !r.due.IsZero() {
		attrs = append(attrs, slog.Time("due", r.due))
	}
	s.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "job started", attrs...)
	began := time.Now()
	out, err := s.call(ctx, r.job)
	dur := time.Since(began)
	if left := s.finish(ctx, e, r, out, err); !left.IsZero() {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a job was due again while it ran; that run is left out",
			slog.String("job", r.job.Name), slog.Time("due", left))
	}
	s.save(e)
	s.mu.Lock()
	r.status, r.err = s.status(e, s.now()), err
	r.status.Running = false
	e.run = nil
	if r.reason != byRequest {
		s.running--
	}
	if e.removed && s.jobs[e.job.Name] == e {
		delete(s.jobs, e.job.Name)
	}
	s.mu.Unlock()
	s.report(ctx, r, out, dur)
	s.cfg.Ended(r.status, dur, err)
	close(r.done)
	s.pulse()
}

// call calls the job's function and contains its panics.
func (s *Scheduler) call(ctx context.Context, j Job) (out Outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "job panicked",
				slog.String("job", j.Name), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = fmt.Errorf("a defect of this program: panic: %v", p)
		}
	}()
	return j.Run(ctx)
}

// finish puts the end of a run into its state. It returns the time that is left out because the
// run was not over then, zero for none.
func (s *Scheduler) finish(ctx context.Context, e *entry, r *run, out Outcome, err error) (left time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, st := s.now(), &e.state
	st.End = now
	st.Error, st.Hint, st.Summary = "", "", shortened(out.Summary)
	if out.Snapshot != "" {
		st.Snapshot = out.Snapshot
	}
	if !st.Due.After(now) {
		left, st.Due = st.Due, dueAfter(e.job.Schedule, now)
	}
	var again *retryError
	switch {
	case err == nil:
		st.Result, st.Success, st.Failures = OK, now, 0
		if out.Partial {
			st.Result = Partial
		}
		return left
	case errors.Is(context.Cause(ctx), errTakenBack):
		st.Result, st.Error = Stopped, errTakenBack.Error()
		if r.owed {
			st.Retry = now.Add(retryPause(1))
		}
		return left
	case ctx.Err() != nil:
		st.Result, st.Error = Stopped, errShutdown.Error()
		if r.owed {
			st.Retry = now // at the next start
		}
		return left
	}
	st.Result, st.Error, st.Hint = Failed, shortened(err.Error()), shortened(s.cfg.Hint(err))
	st.Failures++
	if errors.As(err, &again) && r.owed {
		st.Retry = now.Add(retryPause(st.Failures))
	}
	return left
}

// report logs the end of a run.
func (s *Scheduler) report(ctx context.Context, r *run, out Outcome, dur time.Duration) {
	st := &r.status.State
	attrs := []slog.Attr{
		slog.String("job", r.job.Name), slog.String("kind", r.job.Kind),
		slog.String("result", string(st.Result)), slog.Duration("dur", dur.Round(time.Millisecond)),
	}
	if out.Snapshot != "" {
		attrs = append(attrs, slog.String("snapshot", out.Snapshot))
	}
	if st.Summary != "" {
		attrs = append(attrs, slog.String("summary", st.Summary))
	}
	level := slog.LevelInfo
	switch st.Result {
	case Partial:
		level = slog.LevelWarn
	case Failed:
		level = slog.LevelError
		if !st.Retry.IsZero() {
			level = slog.LevelWarn
		}
		attrs = append(attrs, slog.Int("failures", st.Failures), slog.Any("err", r.err))
	case Stopped:
		attrs = append(attrs, slog.String("why", st.Error))
	}
	if !r.status.Next.IsZero() {
		attrs = append(attrs, slog.Time("next", r.status.Next))
	}
	s.cfg.Logger.LogAttrs(ctx, level, "job ended", attrs...)
}
