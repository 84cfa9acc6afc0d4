package vfs

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/snapgate/gateway/snapshotter"
)

// headView is a head's view as trees hold it: it is closed when no tree that builds on it
// is left, since a listing may go on with an old tree for as long as its client likes.
type headView struct {
	View
	gone func() // called when what is asked for is not there any more, as the snapshot was removed
}

func holdView(v View, gone func()) *headView {
	h := &headView{v, gone}
	runtime.AddCleanup(h, func(v View) { _ = v.Close() }, v)
	return h
}

// isGone reports whether err says that a snapshot was removed, or is lost: not that something of it can be repaired.
func isGone(err error) bool {
	return errors.Is(err, snapshotter.ErrNoSnapshot) && !errors.Is(err, snapshotter.ErrDamaged)
}

// saw passes an error of the view on.
func (h *headView) saw(err error) error { return sawGone(err, h.gone) }

// sawGone passes err on, and calls gone when it says so.
func sawGone(err error, gone func()) error {
	if isGone(err) {
		gone()
	}
	return err
}

func (h *headView) Lstat(ctx context.Context, path string) (snapshotter.Entry, error) {
	e, err := h.View.Lstat(ctx, path)
	return e, h.saw(err)
}

func (h *headView) ReadDir(ctx context.Context, path, after string, n int) ([]snapshotter.Entry, error) {
	list, err := h.View.ReadDir(ctx, path, after, n)
	return list, h.saw(err)
}

func (h *headView) Open(ctx context.Context, path string) (Reader, error) {
	r, err := h.View.Open(ctx, path)
	if err != nil {
		return nil, h.saw(err)
	}
	return &headReader{r, h.gone}, nil
}

// headReader reads a file of a head; it may outlive its view.
type headReader struct {
	Reader
	gone func()
}

func (r *headReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	return n, sawGone(err, r.gone)
}

// awayView stands in for the head while the store is away: every call tries to open the
// real view first.
type awayView struct {
	repo Repository
	id   snapshotter.ID
	gone func() // called, perhaps with mu held, when there is no such snapshot

	mu    sync.Mutex // guards view; held while it is opened, so that one try is made at a time
	view  View
	bytes atomic.Int64 // the view's, 0 before
}

func (v *awayView) open(ctx context.Context) (View, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.view != nil {
		return v.view, nil
	}
	view, err := v.repo.View(ctx, v.id)
	if err != nil {
		if isGone(err) {
			v.gone()
		}
		return nil, &unopenedError{err}
	}
	v.view = holdView(view, v.gone)
	v.bytes.Store(view.Bytes())
	return v.view, nil
}

func (v *awayView) Lstat(ctx context.Context, path string) (snapshotter.Entry, error) {
	view, err := v.open(ctx)
	if err != nil {
		return snapshotter.Entry{}, err
	}
	return view.Lstat(ctx, path)
}

func (v *awayView) ReadDir(ctx context.Context, path, after string, n int) ([]snapshotter.Entry, error) {
	view, err := v.open(ctx)
	if err != nil {
		return nil, err
	}
	return view.ReadDir(ctx, path, after, n)
}

func (v *awayView) Open(ctx context.Context, path string) (Reader, error) {
	view, err := v.open(ctx)
	if err != nil {
		return nil, err
	}
	return view.Open(ctx, path)
}

func (v *awayView) Lossy() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.view != nil && v.view.Lossy()
}

func (v *awayView) Bytes() int64 { return v.bytes.Load() }

// Close does nothing: the view behind it is closed when it is no longer referred to.
func (v *awayView) Close() error { return nil }
