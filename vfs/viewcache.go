package vfs

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/snapgate/gateway/snapshotter"
)

const (
	// openViews is how many snapshots of a share stay open for reading. An open one costs
	// its index root and a few cached nodes; clients that compare versions use a handful.
	openViews = 16
	// knownDirs is how many answers to "does this snapshot have that directory" are kept,
	// about 200 bytes each. Snapshots do not change, so the answers stay true.
	knownDirs = 16384
)

// views are the snapshots of a share that are open for reading. Each is opened when it is
// first needed, kept while it is among the most recently used, and closed when, besides,
// nobody reads from it. Safe for concurrent use.
type views struct {
	share string
	repo  Repository
	log   *slog.Logger
	known *lru.Cache[viewDir, bool]

	mu     sync.Mutex // guards the rest and the fields of heldViews; not held across I/O
	open   map[snapshotter.ID]*heldView
	recent *list.List // of *heldView, the most recently used first
	closed bool
}

type viewDir struct {
	id  snapshotter.ID
	dir string
}

// heldView is an open snapshot that is in use until release is called.
type heldView struct {
	View
	snap   snapshotter.ID
	ready  chan struct{} // closed when View or err is there
	err    error
	refs   int
	recent *list.Element // nil when it is no longer cached
}

func newViews(share string, repo Repository, log *slog.Logger) (*views, error) {
	known, err := lru.New[viewDir, bool](knownDirs)
	if err != nil {
		return nil, err
	}
	return &views{
		share: share, repo: repo, log: log, known: known,
		open: map[snapshotter.ID]*heldView{}, recent: list.New(),
	}, nil
}

// snapshots lists the share's snapshots, newest first.
func (v *views) snapshots(ctx context.Context) ([]snapshotter.Snapshot, error) {
	snaps, err := v.repo.Snapshots(ctx, v.share)
	if err != nil {
		return nil, viewError(err)
	}
	return snaps, nil
}

// allSnapshots is snapshots that fails while it is not known that all are in the list.
func (v *views) allSnapshots(ctx context.Context) ([]snapshotter.Snapshot, error) {
	snaps, err := v.repo.AllSnapshots(ctx, v.share, false)
	if err != nil {
		return nil, viewError(err)
	}
	return snaps, nil
}

// acquire opens a snapshot, or shares the open one. The caller must release it.
func (v *views) acquire(ctx context.Context, id snapshotter.ID) (*heldView, error) {
	for {
		h, mine, err := v.hold(id)
		if err != nil {
			return nil, err
		}
		if mine {
			h.View, h.err = v.repo.View(ctx, id)
			close(h.ready)
		} else {
			select {
			case <-h.ready:
			case <-ctx.Done():
				return nil, errors.Join(errCause("open snapshot", Name{}, KindClosed, ctx.Err()), v.release(h))
			}
		}
		if h.err == nil {
			return h, nil
		}
		v.drop(h)
		// Another caller's patience is not ours.
		if errors.Is(h.err, context.Canceled) && ctx.Err() == nil && !mine {
			continue
		}
		return nil, viewError(h.err)
	}
}

// hold returns the entry of a snapshot with one more reference; mine says that the caller
// has to open it.
func (v *views) hold(id snapshotter.ID) (h *heldView, mine bool, err error) {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil, false, errKind("open snapshot", Name{}, KindClosed)
	}
	h = v.open[id]
	if h == nil {
		h, mine = &heldView{snap: id, ready: make(chan struct{})}, true
		h.recent = v.recent.PushFront(h)
		v.open[id] = h
	} else {
		v.recent.MoveToFront(h.recent)
	}
	h.refs++
	idle := v.evict(openViews)
	v.mu.Unlock()
	if err := closeViews(idle); err != nil {
		// They are read-only: nothing can be lost.
		v.log.Warn("closing a snapshot", "share", v.share, "err", err)
	}
	return h, mine, nil
}

// evict takes the least recently used views out of the cache until keep are left, and
// returns those that nobody uses; mu is held.
func (v *views) evict(keep int) []*heldView {
	var idle []*heldView
	for v.recent.Len() > keep {
		h := v.forget(v.recent.Back().Value.(*heldView))
		if h.refs == 0 {
			idle = append(idle, h)
		}
	}
	return idle
}

// forget takes h out of the cache; mu is held.
func (v *views) forget(h *heldView) *heldView {
	if h.recent != nil {
		v.recent.Remove(h.recent)
		h.recent = nil
		delete(v.open, h.snap)
	}
	return h
}

// drop is release for a view that could not be opened.
func (v *views) drop(h *heldView) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forget(h)
	h.refs--
}

// release ends a use. The error is one of closing the view, when that was due.
func (v *views) release(h *heldView) error {
	v.mu.Lock()
	h.refs--
	last := h.refs == 0 && h.recent == nil
	v.mu.Unlock()
	if last {
		return closeViews([]*heldView{h})
	}
	return nil
}

// close closes what nobody uses; the rest closes with its last use.
func (v *views) close() error {
	v.mu.Lock()
	v.closed = true
	idle := v.evict(0)
	v.mu.Unlock()
	return closeViews(idle)
}

func closeViews(idle []*heldView) error {
	var errs []error
	for _, h := range idle {
		<-h.ready
		if h.View != nil {
			errs = append(errs, h.Close())
		}
	}
	return errors.Join(errs...)
}

// hasDir reports whether a snapshot has a directory at a path of the snapshot.
func (v *views) hasDir(ctx context.Context, id snapshotter.ID, dir string) (bool, error) {
	if dir == "/" {
		return true, nil
	}
	key := viewDir{id, dir}
	if has, ok := v.known.Get(key); ok {
		return has, nil
	}
	h, err := v.acquire(ctx, id)
	if err != nil {
		return false, err
	}
	e, err := h.Lstat(ctx, dir)
	err = errors.Join(skipNotExist(err), v.release(h))
	if err != nil {
		return false, viewError(err)
	}
	has := e.Kind == snapshotter.Dir
	v.known.Add(key, has)
	return has, nil
}

func skipNotExist(err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}

// viewError makes an *Error of what a Repository or View returned.
func viewError(err error) error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return err
	case errors.Is(err, snapshotter.ErrNoSnapshot):
		return errCause("open snapshot", Name{}, KindNotExist, err)
	}
	return baseError("open snapshot", Name{}, err)
}
