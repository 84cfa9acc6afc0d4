package vfs

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// lookPause is how long a source believes what it has found: looking costs a walk over the
// list of all snapshots, which the repository itself brings up to date every few seconds.
const lookPause = 500 * time.Millisecond

// source is what the share of a pulled source has in the place of a journal, a spool and a
// sequencer: it shows the newest snapshot of its lineage, whatever process has made it, and
// is never written. It does nothing while nobody asks. Safe for concurrent use.
type source struct {
	share *share
	pause time.Duration
	// turn is held by whoever looks for the newest snapshot, which may take long when the
	// store is far away; capacity 1.
	turn  chan struct{}
	shown atomic.Pointer[shown] // nil before the first look
}

// shown is what a source shows, as of a moment.
type shown struct {
	tree *tree
	at   time.Time
	// err says why tree only stands in for one that could not be opened, or, while an
	// older one is shown, why the newest could not be.
	err     error
	standIn bool
}

// openSource opens the share of a source. It looks for nothing yet, so that a store which is
// away keeps nobody from starting.
func openSource(sys *System, cfg ShareConfig) (*share, error) {
	s := &share{
		system: sys, name: cfg.Name, log: sys.log, started: time.Now().UTC(),
		uploads: newUploads(), // none, ever
	}
	s.source = &source{share: s, pause: lookPause, turn: make(chan struct{}, 1)}
	s.cfg.Store(&cfg)
	var err error
	if s.views, err = newViews(cfg.Name, sys.cfg.Repository, sys.log); err != nil {
		return nil, err
	}
	s.id, err = loadSourceID(sys.cfg.Disk, sys.cfg.DataDir, cfg.Name)
	return s, err
}

// shown returns the tree that a reader sees now.
func (s *share) shown(ctx context.Context) *tree {
	if s.source != nil {
		return s.source.current(ctx)
	}
	return s.current()
}

// current returns the newest snapshot's tree. One caller at a time looks for another one,
// while the others go on with what there is. When there is nothing to show, the tree is one
// whose root alone is known and below which everything fails for the same reason.
func (src *source) current(ctx context.Context) *tree {
	now := src.shown.Load()
	if src.fresh(now) {
		return now.tree
	}
	if now != nil && !now.standIn {
		select {
		case src.turn <- struct{}{}:
		default:
			return now.tree
		}
	} else {
		select {
		case src.turn <- struct{}{}:
		case <-ctx.Done():
			return src.standIn(ctx.Err()).tree
		}
	}
	defer func() { <-src.turn }()
	if now = src.shown.Load(); src.fresh(now) { // somebody was quicker
		return now.tree
	}
	next := src.look(ctx, now)
	if next.err != nil && ctx.Err() != nil {
		return next.tree // that a client went away says nothing about the store
	}
	src.note(now, next)
	return next.tree
}

func (src *source) fresh(now *shown) bool { return now != nil && time.Since(now.at) < src.pause }

// note makes next what is shown, and logs when it begins to lack something, and when not any
// more.
func (src *source) note(now, next *shown) {
	failed := now != nil && now.err != nil
	switch {
	case next.err != nil && !failed:
		src.share.log.Warn("the newest snapshot of a source cannot be shown", "share", src.share.name, "err", next.err)
	case next.err == nil && failed:
		src.share.log.Info("the newest snapshot of a source is shown again", "share", src.share.name)
	}
	src.shown.Store(next)
}

// look finds what is to be shown after now, which is nil at first.
func (src *source) look(ctx context.Context, now *shown) *shown {
	t, err := src.newest(ctx, now)
	switch {
	case err == nil:
		return &shown{tree: t, at: time.Now()}
	case now != nil && !now.standIn:
		return &shown{tree: now.tree, at: time.Now(), err: err}
	}
	return src.standIn(err)
}

// newest opens the newest snapshot of the lineage that is still there: the tree of now, when
// it is that.
func (src *source) newest(ctx context.Context, now *shown) (*tree, error) {
	s := src.share
	list, err := s.system.cfg.Repository.AllSnapshots(ctx, s.name, false)
	if err != nil {
		return nil, err
	}
	own := slices.DeleteFunc(list, func(snap snapshotter.Snapshot) bool { return !snap.Of(s.lineage()) })
	// Not by time, which is that of whatever clock. Of two with one number, which only copies
	// of a data directory can make, the list has the newer first.
	slices.SortStableFunc(own, func(a, b snapshotter.Snapshot) int { return cmp.Compare(b.Sequence, a.Sequence) })
	for _, snap := range own {
		if now != nil && !now.standIn && now.tree.head == snap.ID {
			return now.tree, nil
		}
		t, err := s.openHead(ctx, snap.ID)
		if errors.Is(err, snapshotter.ErrNoSnapshot) {
			continue // removed since it was listed
		}
		return t, err
	}
	if now != nil && !now.standIn && now.tree.base == nil {
		return now.tree, nil
	}
	return newTree(ctx, snapshotter.ID{}, nil, s.started)
}

// standIn shows a root below which everything fails with err.
func (src *source) standIn(err error) *shown {
	t := unknownTree(snapshotter.ID{}, failedView{err}, src.share.started)
	return &shown{tree: t, at: time.Now(), err: err, standIn: true}
}

// retire ends a source that is no longer configured, once no session has it mounted.
func (s *share) retire() {
	s.mu.Lock()
	s.retired = true
	idle := s.people.open == 0
	s.mu.Unlock()
	if idle {
		s.endSource()
	}
}

func (s *share) endSource() {
	if err := s.source.close(); err != nil {
		// It was only read: nothing can be lost.
		s.log.Warn("closing a source", "share", s.name, "err", err)
	}
}

// close lets go of what is open for reading.
func (src *source) close() error {
	src.shown.Store(nil)
	return src.share.views.close()
}

// failedView is a snapshot that could not be opened.
type failedView struct{ err error }

func (v failedView) Lstat(context.Context, string) (snapshotter.Entry, error) {
	return snapshotter.Entry{}, v.err
}

func (v failedView) ReadDir(context.Context, string, string, int) ([]snapshotter.Entry, error) {
	return nil, v.err
}

func (v failedView) Open(context.Context, string) (Reader, error) { return nil, v.err }

func (v failedView) Lossy() bool { return false }

func (v failedView) Bytes() int64 { return 0 }

func (v failedView) Close() error { return nil }
