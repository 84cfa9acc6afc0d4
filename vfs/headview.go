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
type headView struct{ View }

func holdView(v View) *headView {
	h := &headView{v}
	runtime.AddCleanup(h, func(v View) { _ = v.Close() }, v)
	return h
}

// awayView stands in for the head while the store is away: every call tries to open the
// real view first.
type awayView struct {
	repo Repository
	id   snapshotter.ID
	gone func() // called, with mu held, when there is no such snapshot

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
		if errors.Is(err, snapshotter.ErrNoSnapshot) && !errors.Is(err, snapshotter.ErrDamaged) {
			v.gone()
		}
		return nil, err
	}
	v.view = holdView(view)
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
