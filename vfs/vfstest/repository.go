// Package vfstest holds what tests of a live tree need: a Repository in memory, and a
// conformance suite that runs against a vfs.Session, and over the network against a
// server of one.
package vfstest

import (
	"context"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
	"github.com/snapgate/gateway/vfs/internal/memstore"
)

// Repository is a vfs.Repository in memory that is strict about the changes it is given
// and can be made to fail and to wait: see the methods of memstore.Repository, which it
// has all. Safe for concurrent use; it outlives any number of Systems.
type Repository struct{ *memstore.Repository }

// NewRepository returns an empty Repository.
func NewRepository() *Repository { return &Repository{memstore.New()} }

// View implements vfs.Repository.
func (r *Repository) View(ctx context.Context, id snapshotter.ID) (vfs.View, error) {
	v, err := r.Repository.View(ctx, id)
	if err != nil {
		return nil, err
	}
	return view{v}, nil
}

type view struct{ *memstore.View }

// Open implements vfs.View.
func (v view) Open(ctx context.Context, path string) (vfs.Reader, error) {
	f, err := v.View.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

var _ vfs.Repository = (*Repository)(nil)
