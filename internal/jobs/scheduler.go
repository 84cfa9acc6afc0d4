package jobs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snapgate/gateway/internal/disk"
)

// Job is what is to be done, and when.
type Job struct {
	// Name names the job and the file of its state: no slash, no dot in front.
	Name string
	// Kind is a word for people, as "pull".
	Kind string
	// Schedule says when it runs.
	Schedule *Cron
	// Jitter is the most that a run starts after its time: 0 is a hundredth of the time between
	// two runs, 5 minutes at most; none below 0. More than half of the time between two
	// runs is never used.
	Jitter time.Duration
	// Run does it. It must return soon after ctx has ended. Its error, which must hold no
	// secret, is kept and logged; see [Retry].
	Run func(ctx context.Context) (Outcome, error)
}

// Outcome is what a run tells. It counts with an error, too.
type Outcome struct {
	Snapshot string // that it made or found
	Partial  bool   // something was left out
	Summary  string // one line
}

// Config is what a Scheduler needs.
type Config struct {
	// Dir is the directory of the states. It is made when it is missing.
	Dir string
	// Disk is where Dir is; nil is the machine's file system.
	Disk disk.FS
	// Seed tells this gateway from others: it decides on jitter.
	Seed string
	// Parallel is how many jobs run at once, without those that were asked for; 0 is
	// DefaultParallel.
	Parallel int
	// Logger gets a line for each start and end of a run.
	Logger *slog.Logger
	// Hint says what to try about an error of a run; it may be nil.
	Hint func(error) string
	// Ended is told of each run that has ended: what the job is now, how long it took, and its
	// error. It may be nil. It is called from many goroutines at once.
	Ended func(Status, time.Duration, error)
	// Now is the wall clock; nil is the machine's.
	Now func() time.Time
}

// DefaultParallel is what Config.Parallel defaults to: a job keeps a core busy, or waits for a
// network, beside clients that must not notice.
const DefaultParallel = 2

// Bounds of the default jitter.
const (
	jitterShare = 100
	jitterMax   = 5 * time.Minute
)

// maxNap bounds the time between two looks at the wall clock, which can be set while a timer
// runs, and which goes on while the machine sleeps.
const maxNap = time.Minute

var (
	// ErrUnknown means that there is no such job.
	ErrUnknown = errors.New("no such job")
	// ErrRunning means that the job runs already.
	ErrRunning = errors.New("it runs already")
	// ErrStopped means that the scheduler has been told to stop.
	ErrStopped = errors.New("the gateway is shutting down")
)

// Causes of the end of a run's context.
var (
	errShutdown  = errors.New("the gateway was shut down")
	errTakenBack = errors.New("whoever asked for the run has left")
)

// Scheduler runs jobs. Safe for concurrent use.
type Scheduler struct {
	cfg      Config
	wake     chan struct{} // pulsed when something may be due; capacity 1
	requests chan *request // to Serve
	ended    chan struct{} // closed when Serve starts nothing more
	setting  sync.Mutex    // held by Set

	mu      sync.Mutex // guards the rest
	jobs    map[string]*entry
	running int       // jobs that run by the schedule
	wall    time.Time // when the clocks were looked at, by the wall clock
	mono    time.Time // and by the monotonic one
}

// entry is a job with its state. Scheduler.mu guards it, but for saving.
type entry struct {
	job   Job
	state State

	run      *run      // under way, nil for none
	waiting  bool      // due, but too many run
	removed  bool      // it goes when its run has ended
	earliest time.Time // do not start before; set at a start for what was missed
	loaded   time.Time // when that was
	ahead    time.Time // what Due was before the clock was set back

	saving sync.Mutex // held while the state is written
}

// run is one run of a job.
type run struct {
	job    Job
	reason string
	due    time.Time // of the schedule; zero when none has come since the run before
	owed   bool      // by the schedule
	cancel context.CancelCauseFunc
	status Status // valid when done is closed, like err
	err    error
	done   chan struct{} // closed when the state is saved
}

// request asks for a run now.
type request struct {
	name string
	run  *run
	err  error
	done chan struct{} // closed when run or err is set
}

// New returns a scheduler without jobs that does nothing until Serve is called.
func New(cfg Config) (*Scheduler, error) {
	switch {
	case cfg.Dir == "":
		return nil, errors.New("jobs: no directory")
	case cfg.Logger == nil:
		return nil, errors.New("jobs: no logger")
	case cfg.Parallel < 0:
		return nil, errors.New("jobs: negative Parallel")
	}
	if cfg.Disk == nil {
		cfg.Disk = disk.OS{}
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = DefaultParallel
	}
	if cfg.Hint == nil {
		cfg.Hint = func(error) string { return "" }
	}
	if cfg.Ended == nil {
		cfg.Ended = func(Status, time.Duration, error) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Scheduler{
		cfg: cfg, wake: make(chan struct{}, 1), requests: make(chan *request),
		ended: make(chan struct{}), jobs: map[string]*entry{},
	}, nil
}

// now is the wall clock without the monotonic one, which would be compared in its place.
func (s *Scheduler) now() time.Time { return s.cfg.Now().Round(0) }

// check refuses a list that cannot be scheduled.
func check(list []Job) error {
	names := map[string]bool{}
	for _, j := range list {
		switch {
		case j.Name == "" || j.Name[0] == '.' || strings.ContainsAny(j.Name, "/\x00"):
			return fmt.Errorf("jobs: bad name %q", j.Name)
		case names[j.Name]:
			return fmt.Errorf("jobs: two jobs of the name %s", j.Name)
		case j.Schedule == nil || j.Run == nil:
			return fmt.Errorf("jobs: %s has no schedule or nothing to do", j.Name)
		}
		names[j.Name] = true
	}
	return nil
}

// Set replaces the jobs. Those that run are not disturbed: a changed job runs as it is now the
// next time, one that is gone does not run again. Errors of the disk are logged, and the jobs run
// nevertheless.
func (s *Scheduler) Set(list []Job) error {
	if err := check(list); err != nil {
		return err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	if len(list) > 0 {
		if err := disk.MkdirDurable(s.cfg.Disk, s.cfg.Dir, 0o700); err != nil {
			s.cfg.Logger.Warn("states of jobs cannot be kept", "err", err)
		}
	}
	names := map[string]bool{}
	for _, j := range list {
		names[j.Name] = true
		if e := s.change(j); e != nil {
			s.save(e)
			continue
		}
		e := s.load(j)
		s.save(e)
		s.mu.Lock()
		s.jobs[j.Name] = e
		s.mu.Unlock()
	}
	s.mu.Lock()
	for name, e := range s.jobs {
		if !names[name] {
			e.removed = true
			if e.run == nil {
				delete(s.jobs, name)
			}
		}
	}
	s.mu.Unlock()
	s.pulse()
	return nil
}

// change takes over a new definition of a job that is there; nil when it is not.
func (s *Scheduler) change(j Job) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.jobs[j.Name]
	if e == nil {
		return nil
	}
	e.job, e.removed = j, false
	s.follow(e, s.now())
	return e
}

// follow makes a state follow the schedule of its job. What was due before that has changed
// stays due. The caller holds mu, or alone has the entry.
func (s *Scheduler) follow(e *entry, now time.Time) {
	if text := e.job.Schedule.String(); e.state.Schedule != text {
		e.state.Schedule = text
		if e.state.Due.After(now) {
			e.state.Due = dueAfter(e.job.Schedule, now)
		}
	}
}

// dueAfter is the next time of a schedule, or one that nobody sees when there is none: a leap day
// may be more than the five years away that are looked through.
func dueAfter(c *Cron, now time.Time) time.Time {
	if next := c.Next(now); !next.IsZero() {
		return next
	}
	return now.AddDate(100, 0, 0)
}

// load makes an entry from what is kept of a job.
func (s *Scheduler) load(j Job) *entry {
	now := s.now()
	e := &entry{job: j, loaded: now}
	state, err := readState(s.cfg.Disk, s.cfg.Dir, j.Name)
	switch {
	case err == nil:
		e.state = state
	case errors.Is(err, errNoState):
		e.state = State{Due: dueAfter(j.Schedule, now)}
	default:
		s.cfg.Logger.Warn("the state of a job cannot be read and is made anew; it runs once more", "job", j.Name, "err", err)
		e.state = State{Due: now}
	}
	e.state.Version = stateVersion
	s.follow(e, now)
	if e.state.Result == Running {
		e.state.Result, e.state.End = Interrupted, time.Time{}
		e.state.Error, e.state.Hint = "the gateway ended while it ran", ""
		e.state.Failures++
		e.state.Retry = now
		if n := e.state.Failures; n > 1 { // perhaps the run itself kills the process
			e.state.Retry = e.state.Start.Add(retryPause(n - 1))
		}
	}
	if at, _ := s.startAt(e, now); !at.After(now) {
		// Not all the gateways of a site that has its power back in one second.
		e.earliest = now.Add(s.jitter(&e.job, e.state.Due))
		if e.state.Due.After(now) {
			s.cfg.Logger.Info("a run of a job that has not come to its end is made up", "job", j.Name, "began", e.state.Start, "result", string(e.state.Result), "at", e.earliest)
		} else {
			s.cfg.Logger.Info("a job was missed and is made up", "job", j.Name, "due", e.state.Due, "at", e.earliest)
		}
	}
	return e
}

// save writes the state of an entry.
func (s *Scheduler) save(e *entry) {
	e.saving.Lock()
	defer e.saving.Unlock()
	s.mu.Lock()
	name, state := e.job.Name, e.state
	s.mu.Unlock()
	if err := writeState(s.cfg.Disk, s.cfg.Dir, name, &state); err != nil {
		s.cfg.Logger.Warn("the state of a job was not saved", "job", name, "err", err)
	}
}

// jitter is how long after a time of its schedule a job starts: always the same of one job of
// one gateway.
func (s *Scheduler) jitter(j *Job, due time.Time) time.Duration {
	between := j.Schedule.Next(due).Sub(due)
	most := j.Jitter
	switch {
	case most < 0:
		return 0
	case most == 0:
		most = min(between/jitterShare, jitterMax)
	}
	most = max(min(most, between/2), 0)
	sum := sha256.Sum256([]byte(s.cfg.Seed + "\x00" + j.Name))
	return time.Duration(float64(binary.BigEndian.Uint64(sum[:8])) / (1 << 64) * float64(most))
}

// The reasons of a run.
const (
	bySchedule = "schedule"
	byRetry    = "retry"
	byMissed   = "missed" // while the gateway was down, or cut off when it ended
	byRequest  = "request"
)

// startAt is when an entry starts next, and why. The caller holds mu.
func (s *Scheduler) startAt(e *entry, now time.Time) (at time.Time, reason string) {
	s.backwards(e, now)
	at, reason = e.state.Due.Add(s.jitter(&e.job, e.state.Due)), bySchedule
	if r := e.state.Retry; !r.IsZero() && r.Before(at) {
		at, reason = r, byRetry
	}
	if !e.earliest.IsZero() {
		at, reason = later(at, e.earliest), byMissed
	}
	return at, reason
}

// backwards corrects what lies too far in the future because the clock has been set back. The
// caller holds mu.
func (s *Scheduler) backwards(e *entry, now time.Time) {
	if now.Before(e.loaded) && e.earliest.After(now) {
		e.earliest = now
	}
	if r := now.Add(retryMax); e.state.Retry.After(r) {
		e.state.Retry = r
	}
	// The time before this one is had: Next(now) is either that, or it never was.
	second := dueAfter(e.job.Schedule, dueAfter(e.job.Schedule, now))
	if e.state.Due.After(second) {
		e.ahead = later(e.ahead, e.state.Due)
		e.state.Due = second
	}
}

// forwards takes back what backwards has done, when the clock was set forward since the last
// call. The caller holds mu.
func (s *Scheduler) forwards(wall, mono time.Time) {
	const precision = time.Second // of a clock that nobody sets
	if !s.mono.IsZero() && wall.Sub(s.wall)-mono.Sub(s.mono) > precision {
		for _, e := range s.jobs {
			e.state.Due, e.ahead = later(e.state.Due, e.ahead), time.Time{}
		}
	}
	s.wall, s.mono = wall, mono
}

// Status describes a job.
type Status struct {
	Name     string
	Kind     string
	Schedule *Cron
	State    State
	Running  bool
	Waiting  bool      // due, but too many others run
	Next     time.Time // when it starts next
}

// List describes all jobs in the order of their names.
func (s *Scheduler) List() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Status
	now := s.now()
	for _, name := range slices.Sorted(maps.Keys(s.jobs)) {
		list = append(list, s.status(s.jobs[name], now))
	}
	return list
}

// status describes an entry. The caller holds mu.
func (s *Scheduler) status(e *entry, now time.Time) Status {
	st := Status{
		Name: e.job.Name, Kind: e.job.Kind, Schedule: e.job.Schedule,
		State: e.state, Running: e.run != nil, Waiting: e.waiting,
	}
	if !e.removed {
		st.Next, _ = s.startAt(e, now)
	}
	return st
}

// Serve runs jobs until ctx ends. Then it tells those that run to stop, and returns when all of
// them have. It must be called once.
func (s *Scheduler) Serve(ctx context.Context) {
	var runs sync.WaitGroup
	defer runs.Wait()
	defer close(s.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(s.step(ctx, &runs))
		select {
		case <-ctx.Done():
		case <-s.wake:
		case r := <-s.requests:
			r.run, r.err = s.startNow(ctx, &runs, r.name)
			close(r.done)
		case <-timer.C:
		}
	}
}

// step starts what is due and returns how long nothing is.
func (s *Scheduler) step(ctx context.Context, runs *sync.WaitGroup) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	type candidate struct {
		*entry
		at     time.Time
		reason string
	}
	var due []candidate
	nap, now := maxNap, s.now()
	s.forwards(now, time.Now())
	for _, e := range s.jobs {
		if e.run != nil || e.removed {
			continue
		}
		at, reason := s.startAt(e, now)
		if at.After(now) {
			e.waiting = false
			nap = min(nap, at.Sub(now))
			continue
		}
		due = append(due, candidate{e, at, reason})
	}
	slices.SortFunc(due, func(a, b candidate) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.job.Name, b.job.Name))
	})
	for _, d := range due {
		d.waiting = s.running >= s.cfg.Parallel
		if !d.waiting {
			s.start(ctx, runs, d.entry, d.reason)
		}
	}
	return nap
}

func (s *Scheduler) startNow(ctx context.Context, runs *sync.WaitGroup, name string) (*run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.jobs[name]
	switch {
	case e == nil || e.removed:
		return nil, fmt.Errorf("job %s: %w", name, ErrUnknown)
	case e.run != nil:
		return nil, fmt.Errorf("job %s: %w", name, ErrRunning)
	}
	return s.start(ctx, runs, e, byRequest), nil
}

func (s *Scheduler) pulse() {
	select {
	case s.wake <- struct{}{}:
	default: // one is pending
	}
}

// RunNow runs a job at once, how many others may be running, and returns when it has ended. The
// run is stopped when ctx ends. started, when not nil, is called when it has begun. The error is
// ErrUnknown, ErrRunning, ErrStopped, or the run's.
func (s *Scheduler) RunNow(ctx context.Context, name string, started func()) (Status, error) {
	r := &request{name: name, done: make(chan struct{})}
	select {
	case s.requests <- r:
		<-r.done
	case <-s.ended:
		return Status{}, ErrStopped
	case <-ctx.Done():
		return Status{}, context.Cause(ctx)
	}
	if r.err != nil {
		return Status{}, r.err
	}
	stop := context.AfterFunc(ctx, func() { r.run.cancel(errTakenBack) })
	defer stop()
	if started != nil {
		started()
	}
	<-r.run.done
	return r.run.status, r.run.err
}
