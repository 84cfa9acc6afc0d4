package pull

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// PartialTag is the tag of a snapshot that was made although the connection was lost for good:
// what was not reached is in it as the snapshot before has it.
const PartialTag = "partial=true"

const (
	// busyPatience is how long a store is waited for that somebody maintains: a lock that was
	// left behind expires after ten minutes.
	busyPatience = 11 * time.Minute
	// awayPatience is how long a store is waited for that cannot be reached, after its own
	// attempts.
	awayPatience = 2 * time.Minute
	// storePause is between attempts.
	storePause = 5 * time.Second
	// keepFirst, keepShare and keepInterval are how often a run makes what it has stored so far
	// known to the runs after it: what came since is stored twice when it is killed. That is half
	// a minute, or a sixteenth of what it has taken so far, and ten minutes at most: each time
	// leaves a file in the store for good, which opening it with empty caches reads.
	keepFirst    = 30 * time.Second
	keepShare    = 16
	keepInterval = 10 * time.Minute
	// KeepLimit is how long doing so may hold up the end of a run that has failed, or was interrupted.
	KeepLimit = time.Minute
)

// The failpoints of a run: a content is stored; what was stored is known to others; all is stored
// and nothing is committed; the snapshot is made; what is left for the next run is written. Those of
// snapshotter come between.
const (
	FailpointStored    = "pull-stored"
	FailpointKept      = "pull-kept"
	FailpointFetched   = "pull-fetched"
	FailpointCommitted = "pull-committed"
	FailpointNoted     = "pull-noted"
)

// ErrRunning means that another run of the same source is under way.
var ErrRunning = errors.New("another run of this source is under way")

// ErrTooLong means that a run has taken longer than it may.
var ErrTooLong = errors.New("the run takes too long")

// RunConfig says what a run pulls into which snapshots. Snapshots, Lineage, Name, Dir and
// Report are needed.
type RunConfig struct {
	Snapshots *snapshotter.Snapshotter
	// Lineage names the snapshots of the source, and Name is their share.
	Lineage snapshotter.Lineage
	Name    string
	// Dir is a directory of the source's own, which exists: its lock, and what a run leaves
	// for the next one.
	Dir string
	// Source goes into the snapshots.
	Source snapshotter.Source
	Reason string // as Meta.Reason; "" for "pull"

	Exclude  *Exclude
	Checksum bool // read all files, whatever their size and time say
	// Partial makes a snapshot also when the connection is lost for good, tagged PartialTag.
	Partial bool
	// Unchanged makes a snapshot also when nothing has changed.
	Unchanged bool
	Bandwidth int64 // bytes of contents a second; 0 for no limit
	Entries   int64 // as in ScanConfig
	// Limit is how long connecting, listing and reading may take; 0 for no limit. What was stored is kept.
	Limit time.Duration
	// Spent is how much of Limit has gone by before Run, as for a connection that was made then.
	Spent time.Duration
	// DryRun, when it is not nil, is called with every change, and nothing is stored. The
	// contents have not been read, and nothing is kept from another run.
	DryRun func(Planned) error

	// KeepEvery is how often what was stored so far is made known to the runs after this one; 0
	// for what costs a long run little.
	KeepEvery time.Duration

	Retry  Retry
	Report *Report
	Log    *slog.Logger // nil drops
	// Failpoint is called at named moments, the Failpoint constants. It is for crash tests.
	Failpoint func(name string)
}

// Planned is a change that a run would make.
type Planned struct {
	Path    string
	Kind    snapshotter.ChangeKind
	New     bool // the base has nothing at the path
	Content bool // of a file: its content would be read
	Size    int64
}

// Result is what a run has made.
type Result struct {
	// ID is the newest snapshot of the lineage, the zero ID when there is none; New says that
	// it is of this run.
	ID      snapshotter.ID
	New     bool
	Partial bool // the connection was lost for good
}

// Run pulls a remote into a snapshot, on top of the newest of its lineage. What could not be
// captured is in the Report and in the snapshot's errors; Run fails only when there is no
// snapshot because of it: when the connection is lost for good, unless cfg.Partial is set,
// when the remote's root cannot be listed, or for reasons of this side. A run that has failed,
// or was killed, leaves nothing that the next one is not to know. The caller closes r.
//
// Errors: ErrRunning; ErrTooLong and ErrEndless; those of Scan, Plan and Fetch; ErrUnavailable and ErrBusy of
// snapshotter, after some minutes of patience; ErrNoSnapshot when somebody removes the base
// meanwhile.
func Run(ctx context.Context, r Remote, cfg RunConfig) (Result, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Failpoint == nil {
		cfg.Failpoint = func(string) {}
	}
	began := time.Now()
	cfg.Report.Begin(began)
	defer func() { cfg.Report.End(time.Now()) }()
	if cfg.DryRun == nil {
		lock, err := disk.Lock(cfg.Dir)
		if errors.Is(err, disk.ErrLocked) {
			return Result{}, ErrRunning
		}
		if err != nil {
			return Result{}, err
		}
		defer func() { _ = lock.Unlock() }() // closing a file that was only locked
	}
	run := &run{cfg: cfg, r: newMeter(r, cfg.Bandwidth, cfg.Report), began: began}
	run.cfg.Retry = cfg.Retry.Watching(r)
	if err := run.limited(ctx, run.open); err != nil {
		return Result{}, err
	}
	if cfg.DryRun != nil {
		return Result{ID: run.base.ID}, run.limited(ctx, run.dry)
	}
	return run.pull(ctx)
}

// limited calls fn, which may take what is left of the time that a run may.
func (r *run) limited(ctx context.Context, fn func(context.Context) error) error {
	if r.cfg.Limit <= 0 {
		return fn(ctx)
	}
	within, cancel := context.WithDeadline(ctx, r.began.Add(r.cfg.Limit-r.cfg.Spent))
	defer cancel()
	err := fn(within)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: more than %v", ErrTooLong, r.cfg.Limit)
	}
	return err
}

// run is a run under way.
type run struct {
	cfg   RunConfig
	r     Remote
	caps  Capabilities
	began time.Time

	base    snapshotter.Snapshot
	view    *snapshotter.View // nil without a base
	last    state             // what the last run has left
	known   bool              // last is
	settled settled

	waits atomic.Bool // for the store, which was told
}

// open finds the base, and connects.
func (r *run) open(ctx context.Context) error {
	base, list, err := newest(ctx, r.cfg.Snapshots, r.cfg.Name, r.cfg.Lineage)
	if err != nil {
		return err
	}
	r.base = base
	if !base.ID.IsZero() {
		r.cfg.Report.expected.Store(int64(base.Files))
		if r.view, err = r.cfg.Snapshots.View(ctx, base.ID); err != nil {
			return err
		}
		if r.last, r.known = loadState(r.cfg.Dir, base.ID); r.known {
			r.settled = r.last.settled()
		} else {
			r.settled = settledBy(list, base)
		}
		r.moved()
	}
	return r.cfg.Retry.Connecting().Do(ctx, func() (_ bool, err error) {
		r.caps, err = r.r.Capabilities(ctx)
		return false, err
	})
}

// moved trusts nothing of the base when another location was read last: a file of the same size and
// time there need not be the same, as on two machines that were set up alike.
func (r *run) moved() {
	last, now := r.last.Location, r.cfg.Source.Location
	if last == "" {
		last = locationOf(r.base)
	}
	if last == "" || last == now {
		return
	}
	r.settled = settled{}
	r.cfg.Log.Warn("the location has changed, all files are read", "source", r.cfg.Name, "was", last, "is", now)
}

// plan lists and compares.
func (r *run) plan(ctx context.Context) iter.Seq2[snapshotter.Change, error] {
	items := Scan(ctx, r.r, ScanConfig{
		Exclude: r.cfg.Exclude, Retry: r.cfg.Retry, Report: r.cfg.Report, Partial: r.cfg.Partial, TempDir: r.cfg.Dir,
		Entries: r.cfg.Entries,
	})
	cfg := PlanConfig{
		Retry: r.cfg.Retry, Report: r.cfg.Report, Checksum: r.cfg.Checksum, Partial: r.cfg.Partial,
	}
	if r.view != nil {
		cfg.Base, cfg.Settled = r.view, r.settled.of
	}
	changes := Plan(ctx, r.r, items, cfg)
	return func(yield func(snapshotter.Change, error) bool) {
		for c, err := range changes {
			if !yield(c, err) {
				return
			}
		}
		r.cfg.Report.listed.Store(true)
	}
}

func (r *run) dry(ctx context.Context) error {
	for c, err := range r.plan(ctx) {
		if err != nil {
			return err
		}
		p := Planned{Path: c.Path, Kind: c.Kind, New: r.view == nil}
		if f, ok := c.Content.(*file); ok {
			p.Content, p.Size = true, f.seen.Size
		}
		if r.view != nil {
			_, err := r.view.Lstat(ctx, c.Path)
			if p.New = errors.Is(err, fs.ErrNotExist); err != nil && !p.New {
				return err
			}
		}
		if err := r.cfg.DryRun(p); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) pull(ctx context.Context) (Result, error) {
	list := &changeList{dir: r.cfg.Dir, memory: defaultChangeMemory, content: func(path string, seen Entry) snapshotter.Content {
		return &file{r: r.r, caps: r.caps, retry: r.cfg.Retry, path: path, seen: seen}
	}}
	defer list.close()
	if err := r.limited(ctx, func(ctx context.Context) error { return r.fetch(ctx, list) }); err != nil {
		r.keep(ctx)
		return Result{}, err
	}
	r.cfg.Failpoint(FailpointFetched)
	out := Result{ID: r.base.ID, Partial: r.partial()}
	problems := hashProblems(r.cfg.Report)
	// A base that says that it lacks something has a snapshot after it that does not.
	if list.n > 0 || r.cfg.Unchanged || r.base.ID.IsZero() || r.base.Lost > 0 || out.Partial || r.otherProblems(problems) {
		err := r.patient(ctx, func() (err error) {
			out.ID, err = r.cfg.Snapshots.Commit(ctx, r.base.ID, list.all(), r.meta(out.Partial))
			return err
		})
		if err != nil {
			r.keep(ctx)
			return Result{}, err
		}
		out.New = true
		r.cfg.Failpoint(FailpointCommitted)
	}
	next := r.settled.after(r.began, r.cfg.Report)
	left := newState(out.ID, next, problems)
	left.Location = r.cfg.Source.Location
	if err := left.save(r.cfg.Dir); err != nil {
		r.cfg.Log.Warn("what a run leaves for the next one is not written", "source", r.cfg.Name, "err", err)
	}
	r.cfg.Failpoint(FailpointNoted)
	return out, nil
}

// fetch stores the contents that have changed, and lists the changes.
func (r *run) fetch(ctx context.Context, list *changeList) error {
	fetched := Fetch(ctx, r.plan(ctx), FetchConfig{
		Ingest: r.ingest, Same: r.same, Report: r.cfg.Report, Partial: r.cfg.Partial,
	})
	kept := time.Now()
	for c, err := range fetched {
		if err == nil {
			err = list.add(c)
		}
		if err != nil {
			return err
		}
		if time.Since(kept) >= r.keepEvery(kept) {
			r.keep(ctx)
			kept = time.Now()
		}
	}
	return nil
}

// keepEvery is how long after the last time at kept the next one is.
func (r *run) keepEvery(kept time.Time) time.Duration {
	if r.cfg.KeepEvery > 0 {
		return r.cfg.KeepEvery
	}
	return min(max(kept.Sub(r.began)/keepShare, keepFirst), keepInterval)
}

// keep makes what was stored so far known to the runs after this one. When that is not
// possible, they store it again.
func (r *run) keep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), KeepLimit)
	defer cancel()
	if err := r.cfg.Snapshots.Keep(ctx); err != nil {
		r.cfg.Log.Info("what was stored so far is not known to others", "source", r.cfg.Name, "err", err)
		return
	}
	r.cfg.Failpoint(FailpointKept)
}

// partial reports whether the connection was lost for good.
func (r *run) partial() bool { return r.cfg.Partial && r.cfg.Report.problems.lostConnection() }

// otherProblems reports whether there were other problems than in the base.
func (r *run) otherProblems(now string) bool {
	if r.known {
		return now != r.last.Problems
	}
	return (now != "") != (r.base.Errors > 0)
}

// ingest stores a content.
func (r *run) ingest(ctx context.Context, c snapshotter.Change) (snapshotter.Change, error) {
	content := c.Content
	err := r.patient(ctx, func() (err error) {
		c.Stored, err = r.cfg.Snapshots.Store(ctx, content)
		return err
	})
	if err == nil {
		r.cfg.Failpoint(FailpointStored)
	}
	return c, err
}

// same reports whether the base has what was stored.
func (r *run) same(ctx context.Context, c snapshotter.Change) (bool, error) {
	if r.view == nil || c.Stored == nil {
		return false, nil
	}
	return r.view.Holds(ctx, c.Path, c.Stored)
}

// patient calls op again while the store is busy or away, for some minutes. A disk that is full is not waited for: what was stored so far is
// not taken away from it, and the next run goes on with that.
func (r *run) patient(ctx context.Context, op func() error) error {
	began := time.Now()
	for {
		err := op()
		limit := time.Duration(0)
		switch {
		case disk.IsFull(err):
		case errors.Is(err, snapshotter.ErrBusy):
			limit = busyPatience
		case errors.Is(err, snapshotter.ErrUnavailable):
			limit = awayPatience
		}
		if err == nil {
			r.waits.Store(false)
		}
		if time.Since(began) >= limit {
			return err
		}
		if !r.waits.Swap(true) {
			r.cfg.Log.Warn("the store is waited for", "source", r.cfg.Name, "err", err)
		}
		select {
		case <-time.After(storePause):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// meta describes the snapshot.
func (r *run) meta(partial bool) snapshotter.Meta {
	m := snapshotter.Meta{
		Share: r.cfg.Name, ShareID: r.cfg.Lineage.ShareID, GatewayID: r.cfg.Lineage.GatewayID,
		Time: r.began.UTC(), Reason: r.cfg.Reason, Source: r.cfg.Source,
	}
	if m.Reason == "" {
		m.Reason = "pull"
	}
	m.Follow(r.base)
	if partial {
		m.Tags = append(m.Tags, PartialTag)
	}
	if r.cfg.Report.Failed() > 0 {
		m.Errors = r.cfg.Report.failures
	}
	return m
}

// failures yields the problems for a snapshot's errors, each path once.
func (r *Report) failures() iter.Seq[snapshotter.Failure] {
	list, omitted := r.Problems()
	return func(yield func(snapshotter.Failure) bool) {
		var f snapshotter.Failure
		more := 0
		flush := func() bool {
			if f.Path == "" {
				return true
			}
			if more > 0 {
				f.Text = fmt.Sprintf("%s (and %s here)", f.Text, Count(int64(more), "more problem", "more problems"))
			}
			return yield(f)
		}
		if omitted > 0 {
			list = append([]Problem{{Path: "/", Text: Count(omitted, "problem", "problems") + " more than are listed"}}, list...)
		}
		for _, p := range list {
			switch {
			case p.Kind == KindSpecial:
			case p.Path == f.Path:
				more++
			default:
				if !flush() {
					return
				}
				f, more = snapshotter.Failure{Path: p.Path, Text: p.Text}, 0
			}
		}
		flush()
	}
}
