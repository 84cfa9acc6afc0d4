package snapshotter

import (
	"context"
	"fmt"

	"github.com/PlakarKorp/kloset/objects"

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
	d, err := s.newDelta()
	if err != nil {
		return err
	}
	defer d.close()
	take := func(b *batch, live map[objects.MAC]struct{}) (bool, error) {
		_, err := b.copyTo(d.id, d.cache, live)
		return false, err
	}
	if err := s.early.adopt(ctx, take); err != nil {
		return s.store.CacheError(err)
	}
	any := false
	for range d.cache.GetPackfiles() {
		any = true
		break
	}
	if any {
		if err := d.put(ctx, lock); err != nil {
			return err
		}
	}
	s.early.settle()
	return nil
}
