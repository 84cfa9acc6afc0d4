package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// syncReporter is told how a sync gets on. All calls come one after the other.
type syncReporter interface {
	// planned comes first. What is unreadable has failed.
	planned(plan snapshotter.CopyPlan, copier *snapshotter.Copier)
	// checked comes for each copy that an earlier run has left without reading it back; err is why it
	// cannot be read.
	checked(s snapshotter.Snapshot, err error)
	// copying comes before each snapshot, copied after it; err is why it was not copied.
	copying(s snapshotter.Snapshot)
	copied(s snapshotter.Snapshot, err error)
	// finished comes last unless the sync ended with an error.
	finished()
}

// syncRun is one run of a sync.
type syncRun struct {
	cfg      *config.Config
	job      config.Sync
	refs     []string // shares, sources and snapshots; none for all
	dryRun   bool
	cheapKDF bool
	log      *slog.Logger

	from *snapshotter.Snapshotter // nil: it is opened
}

// run copies what is missing. What concerns one snapshot alone is reported, and the others go on;
// an error ends it.
func (s *syncRun) run(ctx context.Context, out syncReporter) (err error) {
	from, err := namedStore(s.cfg, s.job.From)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	to, err := namedStore(s.cfg, s.job.To)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if s.from == nil {
		end, oerr := s.open(ctx, from, false, func(snaps *snapshotter.Snapshotter, _ *store.Store) { s.from = snaps })
		if oerr != nil {
			return hintedOf(from, fmt.Errorf("sync: store %s: %w", from.Name, oerr))
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	var target *snapshotter.Snapshotter
	var bound *bounded
	end, err := s.open(ctx, to, !s.dryRun, func(snaps *snapshotter.Snapshotter, st *store.Store) {
		target, bound = snaps, boundOf(s.cfg, to, st)
	})
	if err != nil {
		return hintedOf(to, fmt.Errorf("sync: store %s: %w", to.Name, err))
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := s.copy(ctx, target, bound, out); err != nil {
		return copyError(from, to, err)
	}
	out.finished()
	return nil
}

// copyError is the error of a copy between two stores, with the hint of the one that it is of.
func copyError(from, to *config.Store, err error) error {
	of := from
	if target := (*snapshotter.TargetError)(nil); errors.As(err, &target) {
		of = to
	}
	return hintedOf(of, fmt.Errorf("sync from %s to %s: %w", from.Name, to.Name, err))
}

// dir is what the runs from one store to another have of their own.
func (s *syncRun) dir() string { return filepath.Join(s.cfg.DataDir, "sync", s.job.From, s.job.To) }

// lock keeps two runs from one store to another apart: the second would only do what the first
// does.
func (s *syncRun) lock() (unlock func() error, err error) {
	dir := s.dir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	lock, err := disk.Lock(dir)
	if errors.Is(err, disk.ErrLocked) {
		return nil, &hintedError{
			err:  fmt.Errorf("sync from %s to %s: it is running already: %w", s.job.From, s.job.To, err),
			hint: "wait for its end",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	return lock.Unlock, nil
}

// open opens a store beside whatever else uses it; one that is not to be created is only read.
func (s *syncRun) open(ctx context.Context, named *config.Store, create bool, use func(*snapshotter.Snapshotter, *store.Store)) (end func() error, err error) {
	point, err := failpoint()
	if err != nil {
		return nil, err
	}
	sc := s.cfg.StoreConfigOf(named, s.log, create)
	// The gateway has a cache of its own store.
	sc.CacheDir, sc.CheapKDF = cacheOf(filepath.Join(s.cfg.DataDir, "stores", named.Name, "cache"), !create), s.cheapKDF
	sc.NoSweep = !create
	st, err := store.Open(ctx, sc)
	if err != nil {
		return nil, err
	}
	stop := st.LeaveWhen(ctx, store.LeavePatience)
	snaps, err := snapshotter.New(ctx, snapshotter.Config{Store: st, Logger: s.log, Failpoint: point, ReadOnly: !create})
	if err != nil {
		stop()
		return nil, errors.Join(err, st.Close())
	}
	use(snaps, st)
	return func() error {
		err := snaps.Close()
		stop()
		return errors.Join(err, st.Close())
	}, nil
}

// copy copies what the target lacks, as long as it has room.
func (s *syncRun) copy(ctx context.Context, target *snapshotter.Snapshotter, bound *bounded, out syncReporter) (err error) {
	copier, err := snapshotter.NewCopier(snapshotter.CopierConfig{From: s.from, To: target, Verify: s.job.Verify})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, copier.Close()) }()
	want, single, err := s.wanted(ctx)
	if err != nil {
		return err
	}
	plan, err := copier.Plan(ctx, want)
	if err != nil {
		return err
	}
	if single {
		plan.Unreadable = nil // else it may be what is wanted
	}
	out.planned(plan, copier)
	if s.dryRun {
		return nil
	}
	var notes *unread
	if s.job.Verify {
		notes = &unread{filepath.Join(s.dir(), "unread")}
	}
	old, err := notes.list()
	if err != nil {
		return err
	}
	old = slices.DeleteFunc(old, func(id snapshotter.ID) bool { // those of this run are read when they are copied
		return slices.ContainsFunc(plan.Missing, func(snap snapshotter.Snapshot) bool { return snap.ID == id })
	})
	var notRead error
	if len(plan.Missing) > 0 {
		within, finish, err := bound.guard(ctx)
		switch {
		case errors.Is(err, errStoreFull): // says what to try
			return err
		case err != nil:
			return &snapshotter.TargetError{Err: err}
		}
		if notRead = finish(copyAll(within, copier, plan.Missing, notes, out)); notRead != nil && !errors.Is(notRead, snapshotter.ErrUnread) {
			return notRead
		}
	}
	return cmp.Or(notes.check(ctx, old, copier, target, out), notRead) // at the end: what is new does not wait for it
}

// copyAll copies snapshots one after the other. The error is ErrUnread when all were copied, and one could not be read
// back that the next run is to read again.
func copyAll(ctx context.Context, copier *snapshotter.Copier, missing []snapshotter.Snapshot, notes *unread, out syncReporter) (first error) {
	for _, snap := range missing {
		if err := notes.note(snap.ID); err != nil {
			return err
		}
		out.copying(snap)
		err := copier.Copy(ctx, snap.ID)
		if err != nil && !concernsOne(err) {
			return err
		}
		out.copied(snap, err)
		switch {
		case errors.Is(err, snapshotter.ErrUnread):
			first = cmp.Or(first, err)
			continue
		case errors.Is(err, snapshotter.ErrNotRead):
			continue
		}
		if err := notes.drop(snap.ID); err != nil {
			return err
		}
	}
	return first
}

// concernsOne reports whether an error of copying a snapshot is no reason not to copy others.
func concernsOne(err error) bool {
	for _, kind := range []error{
		snapshotter.ErrSourceDamaged, snapshotter.ErrNoSnapshot, snapshotter.ErrRemoved, snapshotter.ErrNotRead, snapshotter.ErrUnread,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// wanted chooses what was asked for; nil for everything. single says that it is single snapshots, and no share or source.
func (s *syncRun) wanted(ctx context.Context) (want func(snapshotter.Snapshot) bool, single bool, err error) {
	if len(s.refs) == 0 {
		return nil, false, nil
	}
	if err := s.from.Refresh(ctx); err != nil {
		return nil, false, fmt.Errorf("source: %w", err)
	}
	list, err := s.from.Snapshots(ctx, "")
	if err != nil {
		return nil, false, fmt.Errorf("source: %w", err)
	}
	shares, ids := map[string]bool{}, map[snapshotter.ID]bool{}
	for _, snap := range list {
		shares[snap.Share] = false
	}
	single = true
	for _, ref := range s.refs {
		if _, is := shares[ref]; is || s.configured(ref) {
			shares[ref], single = true, false
			continue
		}
		found, err := findCertain(ctx, ref, list, lineages(s.cfg), s.from)
		if err != nil {
			return nil, false, s.unknown(ref, err)
		}
		if found.Path != "/" {
			return nil, false, &hintedError{err: fmt.Errorf("%q names a path", ref), hint: "a whole snapshot is copied: leave the path out"}
		}
		ids[found.Snapshot.ID] = true
	}
	return func(snap snapshotter.Snapshot) bool { return shares[snap.Share] || ids[snap.ID] }, single, nil
}

// configured reports whether a share or source of that name is in the configuration: it may have no
// snapshot yet.
func (s *syncRun) configured(name string) bool {
	_, source := s.cfg.Source(name)
	return source || knownShare(s.cfg, name) == nil
}

// unknown says that there is neither a share nor a snapshot of that name.
func (s *syncRun) unknown(ref string, err error) error {
	var e *snapref.Error
	if !errors.As(err, &e) {
		return err
	}
	return &hintedError{err: fmt.Errorf("%q is no share or source with snapshots: %w", ref, err), hint: e.Hint}
}
