package snapshotter

import (
	"context"
	"errors"
	"fmt"

	"github.com/PlakarKorp/kloset/caching"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/store"
)

// delta is a state that is made without a snapshot. What it is to say is in memory until put.
type delta struct {
	s     *Snapshotter
	id    objects.MAC
	cache *caching.ScanCache
	rw    *repository.RepositoryWriter
}

// newDelta begins a state. It needs s.write and a lock on the store, until close.
func (s *Snapshotter) newDelta() (*delta, error) {
	d := &delta{s: s, id: objects.RandomMAC()}
	var err error
	if d.cache, err = s.repo.AppContext().GetCache().Scan(objects.RandomMAC()); err != nil {
		return nil, fmt.Errorf("state delta: %w", err)
	}
	d.rw = s.repo.NewRepositoryWriter(d.cache, d.id, repository.DefaultType, "")
	d.rw.PackerManager.Wait() // ends kloset's own packer
	return d, nil
}

// put writes the state if the lock still counts, and takes it over. It is durable when put returns
// nil; what failed is taken out of the store again. Errors: ErrUnavailable, those of Lock.Valid.
func (d *delta) put(ctx context.Context, lock *store.Lock) error {
	if err := lock.Valid(); err != nil {
		return err
	}
	if err := d.rw.CommitTransaction(d.id); err != nil {
		return errors.Join(store.Unavailable("state", err), d.s.store.DropState(d.id))
	}
	d.s.ingested(ctx, d.id)
	return nil
}

// close gives back the memory.
func (d *delta) close() { _ = d.cache.Close() }
