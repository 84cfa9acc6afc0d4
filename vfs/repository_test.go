package vfs

import (
	"context"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/memstore"
)

// memRepository is vfstest.Repository for the tests inside this package, which cannot
// import vfstest.
type memRepository struct{ *memstore.Repository }

func newMemRepository() *memRepository { return &memRepository{memstore.New()} }

func (r *memRepository) View(ctx context.Context, id snapshotter.ID) (View, error) {
	v, err := r.Repository.View(ctx, id)
	if err != nil {
		return nil, err
	}
	return memView{v}, nil
}

type memView struct{ *memstore.View }

func (v memView) Open(ctx context.Context, path string) (Reader, error) {
	f, err := v.View.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

var _ Repository = (*memRepository)(nil)
