package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/PlakarKorp/kloset/objects"

	"github.com/snapgate/gateway/internal/background"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store"
)

// DefaultGrace is how long maintenance leaves what nobody needs: plakar's own time.
const DefaultGrace = 7 * 24 * time.Hour

const (
	// maintainPatience is how long maintenance waits, by default, for others to let go of the store.
	maintainPatience = 10 * time.Minute
	// maintainPause is between two tries to lock the store, and at least between two times that it
	// is locked.
	maintainPause = 500 * time.Millisecond
	// claimLimit is how long commits of this process wait so that maintenance gets in between, and
	// claimPause between two looks.
	claimLimit = 2 * time.Second
	claimPause = 5 * time.Millisecond
	// exclusiveLimit is about how long the store is locked at a time. Commits wait meanwhile, and
	// those of other processes fail and are tried again.
	exclusiveLimit = 2 * time.Second
	// removeAtOnce is how many packfiles are removed between two looks at the clock.
	removeAtOnce = 64
	// surveysAtMost bounds how often a survey is made again because too much has changed since.
	surveysAtMost = 5
)

// The names that Config.Failpoint is called with by maintenance.
const (
	MaintainMarked   = "maintain-marked"
	MaintainCopied   = "maintain-copied"
	MaintainLocked   = "maintain-locked"
	MaintainState    = "maintain-state"    // it is in the store, and not known here
	MaintainBuried   = "maintain-buried"   // it is known, and no packfile has been removed
	MaintainRemoving = "maintain-removing" // some have
	MaintainUnlocked = "maintain-unlocked"
)

// MaintainPoints returns them.
func MaintainPoints() []string {
	return []string{MaintainMarked, MaintainCopied, MaintainLocked, MaintainState, MaintainBuried, MaintainRemoving, MaintainUnlocked}
}

// Errors of maintenance; test with errors.Is.
var (
	// ErrMaintaining means that another process maintains a store with the same Dir.
	ErrMaintaining = errors.New("the store is being maintained already")
	// ErrDoubt means that maintenance has given up because it cannot tell for certain what the
	// snapshots need. Nothing was removed.
	ErrDoubt = errors.New("it is not certain what the snapshots need, so nothing is removed")
)

// MaintainConfig configures Maintain.
type MaintainConfig struct {
	// Dir keeps what is known of the snapshots, so that the next run reads what is new. It is
	// made, and belongs to one run at a time.
	Dir string
	// Grace is how long a packfile must have been of no use before it is marked, and marked before
	// it is removed. Zero is meant as it stands: for tests.
	Grace time.Duration
	// Patience is how long to wait for others to let go of the store; 0: 10 minutes.
	Patience time.Duration
	// DryRun only tells what would be done.
	DryRun bool
	Now    func() time.Time // nil: time.Now
}

// MaintainCount counts packfiles.
type MaintainCount struct {
	Packfiles int
	Bytes     int64
}

func (c *MaintainCount) add(bytes int64) {
	c.Packfiles++
	c.Bytes += bytes
}

// MaintainReport says what Maintain has done, or would do.
type MaintainReport struct {
	Snapshots     int
	Before, After MaintainCount // all that is in the store
	Used          MaintainCount // packfiles that snapshots need, at least in part
	UsedBytes     int64         // what snapshots need
	Young         MaintainCount // of no use, and not for long enough to be marked
	Marked        MaintainCount // by this run
	Orphans       int           // of those marked: no state tells of them
	Spared        MaintainCount // of no use, and left alone as states are missing: their snapshots may need them
	Grace         MaintainCount // marked, and not for long enough to be removed; with Marked
	Until         time.Time     // when the next of those may be removed; zero for none
	Removed       MaintainCount
	Kept          MaintainCount // marked, and needed after all
	Lost          int           // blobs that snapshots need and that are missing from the store
	Rescued       int           // blobs that were stored again because only marked packfiles had them
	Locks         int           // of others, that did not count any more
	Locked        time.Duration // the longest time that the store was locked
}

// Maintain gives back the space of what no snapshot needs. It does so as plakar's maintenance
// does, and beside it: what is of no use is first marked in the store's states, so that nobody
// uses it any more, and removed after a grace period.
//
// Reading what the snapshots need takes no lock. The store is locked for a moment at a time, to
// mark and to remove; before that, under the lock, everything is looked at that has come since.
//
// While states are known to be missing, by the index, by earlier runs or by a scrub (see Distrust), nothing is marked, and nothing that is
// marked is removed: snapshots that a missing state told of may need what others tell of, too.
//
// Errors: ErrMaintaining, ErrDoubt (with ErrForgotten, see Distrust), ErrUnavailable; ErrBusy when others have had the store for all
// of Patience. What was done until then is done.
func (s *Snapshotter) Maintain(ctx context.Context, cfg MaintainConfig) (report MaintainReport, err error) {
	background.Do(func() { report, err = s.maintain(ctx, cfg) })
	if err != nil {
		err = fmt.Errorf("maintain: %w", s.store.CacheError(err))
	}
	return report, err
}

func (s *Snapshotter) maintain(ctx context.Context, cfg MaintainConfig) (report MaintainReport, err error) {
	if cfg.Dir == "" || cfg.Grace < 0 || cfg.Patience < 0 {
		return report, fmt.Errorf("directory %q, grace period of %s, patience of %s", cfg.Dir, cfg.Grace, cfg.Patience)
	}
	if cfg.Patience == 0 {
		cfg.Patience = maintainPatience
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return report, err
	}
	alone, err := disk.Lock(cfg.Dir)
	if errors.Is(err, disk.ErrLocked) {
		return report, ErrMaintaining
	}
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, alone.Unlock()) }()
	m, err := openMarks(cfg.Dir, s.store.ID())
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	r := &maintenance{s: s, cfg: cfg, marks: m, report: &report, dropped: s.store.DroppedLocks()}
	err = r.run(ctx)
	report.Locks = s.store.DroppedLocks() - r.dropped
	return report, err
}

// maintenance is one run.
type maintenance struct {
	s       *Snapshotter
	cfg     MaintainConfig
	marks   *marks
	report  *MaintainReport
	dropped int
}

func (r *maintenance) run(ctx context.Context) error {
	if err := r.known(); err != nil {
		return err
	}
	if err := r.waitFor(ctx, r.takeStock); err != nil {
		return err
	}
	v, err := r.survey(ctx)
	if err != nil {
		return err
	}
	if !r.cfg.DryRun && len(v.stranded) > 0 {
		if err := r.waitFor(ctx, func(ctx context.Context) error { return r.rescue(ctx, v.stranded) }); err != nil {
			return err
		}
		if v, err = r.survey(ctx); err != nil {
			return err
		}
	}
	r.tell(v)
	if r.cfg.DryRun {
		r.tellPlan(v)
		return nil
	}
	if err := r.reclaim(ctx, v); err != nil {
		return err
	}
	return errors.Join(r.after(ctx), r.marks.compact(r.s.store.ID(), func(k markKey) bool { return k[15] == markState }))
}

// known is an error while nobody knows what is damaged: what is marked may be the only sound copy.
func (r *maintenance) known() error {
	if r.s.forgotten.Load() {
		return fmt.Errorf("%w: %w", ErrDoubt, ErrForgotten)
	}
	return nil
}

// waitFor calls f, which needs s.write, when nobody else in this process writes to the store, and
// again as long as others do: at most for Patience.
func (r *maintenance) waitFor(ctx context.Context, f func(context.Context) error) error {
	for deadline := time.Now().Add(r.cfg.Patience); ; {
		err := r.s.claim(ctx)
		if err == nil {
			err = f(ctx)
			r.s.write.Unlock()
		}
		if !errors.Is(err, ErrBusy) || time.Now().After(deadline) {
			return err
		}
		if err := sleep(ctx, maintainPause); err != nil {
			return err
		}
	}
}

// claim locks write for maintenance; ErrBusy when somebody has it for long, as copies have.
func (s *Snapshotter) claim(ctx context.Context) error {
	s.gate.Lock()
	defer s.gate.Unlock()
	for deadline := time.Now().Add(claimLimit); !s.write.TryLock(); {
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: this gateway writes to it", ErrBusy)
		}
		if err := sleep(ctx, claimPause); err != nil {
			return err
		}
	}
	return nil
}

// takeStock takes over what others did, and finds out what is missing from the store.
func (r *maintenance) takeStock(ctx context.Context) error {
	if r.cfg.DryRun {
		return r.s.refresh(ctx)
	}
	_, unlock, err := r.s.lockStore(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return r.s.takeStock(ctx)
}

// tell reports what a survey has found.
func (r *maintenance) tell(v *survey) {
	rep := r.report
	rep.Snapshots, rep.Before, rep.After, rep.Lost = v.snapshots, v.total, v.total, v.lost
	rep.Used, rep.UsedBytes, rep.Young, rep.Grace, rep.Kept = v.used, v.usedBytes, v.young, v.grace, v.kept
	rep.Spared = v.spared
	if !v.until.IsZero() {
		rep.Until = v.until
	}
	if n := v.spared.Packfiles; n > 0 {
		r.s.log.Warn("packfiles of no use are left alone: states are missing from the store, and their snapshots may need them", "packfiles", n, "bytes", v.spared.Bytes)
	}
}

// tellPlan reports what would be done.
func (r *maintenance) tellPlan(v *survey) {
	rep := r.report
	for _, mac := range slices.Concat(v.bury, v.leftover) {
		rep.Removed.add(v.size(mac))
		rep.After.Packfiles--
		rep.After.Bytes -= v.size(mac)
	}
	for _, mac := range v.colour {
		rep.Marked.add(v.size(mac))
	}
	rep.Orphans, rep.Rescued = v.orphans, len(v.stranded)
	r.tellGrace()
}

// tellGrace counts what was marked just now among what is in its grace period.
func (r *maintenance) tellGrace() {
	rep := r.report
	rep.Grace.Packfiles += rep.Marked.Packfiles
	rep.Grace.Bytes += rep.Marked.Bytes
	if until := r.cfg.Now().Add(r.cfg.Grace); rep.Marked.Packfiles > 0 && rep.Until.IsZero() {
		rep.Until = until
	}
}

// after counts what is in the store at the end.
func (r *maintenance) after(ctx context.Context) error {
	r.tellGrace()
	if r.report.Removed.Packfiles == 0 && r.report.Rescued == 0 {
		return nil
	}
	listed, err := r.s.store.ListPackfiles(ctx)
	if err != nil {
		return err
	}
	sizes, err := r.sizes(ctx, listed, nil)
	if err != nil {
		return err
	}
	r.report.After = MaintainCount{}
	for mac := range listed {
		r.report.After.add(sizes[mac])
	}
	return nil
}

// statAtMost is how many packfiles of a store that is elsewhere are asked for their size. With more
// it is worked out from the index, without what is around the blobs.
const statAtMost = 2000

func (r *maintenance) sizes(ctx context.Context, listed map[objects.MAC]struct{}, packs map[objects.MAC]*packUse) (map[objects.MAC]int64, error) {
	sizes := make(map[objects.MAC]int64, len(listed))
	if r.s.store.Remote() && len(listed) > statAtMost {
		for mac := range listed {
			if p := packs[mac]; p != nil {
				sizes[mac] = p.bytes
			}
		}
		return sizes, nil
	}
	infos, err := r.s.store.StatPackfiles(ctx, slices.Collect(maps.Keys(listed)))
	for mac, fi := range infos {
		sizes[mac] = fi.Size
	}
	return sizes, err
}

// reclaim marks and removes, locking the store again and again for a moment.
func (r *maintenance) reclaim(ctx context.Context, v *survey) error {
	deadline := time.Now().Add(r.cfg.Patience)
	for surveys := 1; v.any(); {
		took, err := r.exclusively(ctx, func(ctx context.Context, lock *store.Lock) error { return r.section(ctx, lock, v) })
		r.report.Locked = max(r.report.Locked, took)
		switch {
		case errors.Is(err, ErrBusy):
			if time.Now().After(deadline) {
				return err
			}
		case errors.Is(err, errStaleSurvey) && surveys < surveysAtMost:
			surveys++
			fresh, err := r.survey(ctx)
			if err != nil {
				return err
			}
			v = fresh
		case errors.Is(err, errStaleSurvey):
			return fmt.Errorf("%w: %w", ErrBusy, err)
		case err != nil:
			return err
		default:
			r.s.failpoint(MaintainUnlocked)
			deadline = time.Now().Add(r.cfg.Patience)
		}
		if !v.any() {
			break
		}
		if err := sleep(ctx, max(maintainPause, took)); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exclusively calls f while nobody else has a lock on the store, and no commit of this process
// runs. It fails with ErrBusy when somebody does.
func (r *maintenance) exclusively(ctx context.Context, f func(context.Context, *store.Lock) error) (took time.Duration, err error) {
	if err := r.s.claim(ctx); err != nil {
		return 0, err
	}
	defer r.s.write.Unlock()
	if err := r.s.store.Available(ctx); err != nil {
		return 0, err
	}
	lock, err := r.s.store.LockExclusively(ctx)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	defer func() {
		if uerr := lock.Unlock(); uerr != nil {
			r.s.log.Warn("store lock not removed", "err", uerr)
		}
		took = time.Since(start)
	}()
	r.s.failpoint(MaintainLocked)
	return 0, f(ctx, lock)
}
