package snapshotter

import (
	"context"
	"errors"
	"fmt"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/store"
)

// Keep makes what was put ahead of commits, by whomever, known to all who open the store: a
// state without a snapshot tells of it, as those of plakar's checkpoints do. Without, what a
// process has put that dies before its commit would be put again by the next one, and lie
// around until maintenance takes it for what was cut off. What no snapshot comes to need after all
// is garbage that maintenance reclaims. It does nothing when there is nothing to keep.
//
// Errors: ErrBusy, ErrUnavailable. What was put is safe from them: the next call, or the next
// commit, does the same.
func (s *Snapshotter) Keep(ctx context.Context) (err error) {
	s.enter()
	defer s.write.Unlock()
	lock, unlock, err := s.lockStore(ctx)
	if err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	defer unlock()
	if err := s.keep(ctx, lock); err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	return nil
}

// keep needs s.write and a lock on the store.
func (s *Snapshotter) keep(ctx context.Context, lock *store.Lock) error {
	id := objects.RandomMAC()
	delta, err := s.repo.AppContext().GetCache().Scan(objects.RandomMAC())
	if err != nil {
		return fmt.Errorf("state delta: %w", err)
	}
	defer func() { _ = delta.Close() }() // in memory
	rw := s.repo.NewRepositoryWriter(delta, id, repository.DefaultType, "")
	rw.PackerManager.Wait() // ends kloset's own packer
	take := func(b *batch, live map[objects.MAC]struct{}) (bool, error) {
		_, err := b.copyTo(id, delta, live)
		return false, err
	}
	if err := s.early.adopt(ctx, take); err != nil {
		return s.store.CacheError(err)
	}
	any := false
	for range delta.GetPackfiles() {
		any = true
		break
	}
	if any {
		if err := lock.Valid(); err != nil {
			return err
		}
		if err := rw.CommitTransaction(id); err != nil {
			return errors.Join(store.Unavailable("state", err), s.store.DropState(id))
		}
		s.ingested(ctx, id)
	}
	s.early.settle()
	return nil
}
