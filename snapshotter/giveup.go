package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// ErrReadable means that a snapshot is not given up, as it can be read, or as one was made in its place.
var ErrReadable = errors.New("the snapshot can be read, or another one was made in its place")

// giveUpDigits is how many digits of an id have to be given at least.
const giveUpDigits = 8

// accepted takes over what somebody says who knows that it does not come back.
func (r *scrubbing) accepted(ctx context.Context) (err error) {
	if r.cfg.Accept {
		if err := r.accept(ctx); err != nil {
			return err
		}
	}
	if len(r.cfg.GiveUp) > 0 {
		r.report.GivenUp, err = r.s.giveUp(ctx, r.cfg.GiveUp)
	}
	return err
}

// giveUp removes snapshots of which nothing can be read, whoever has made them, pinned or the newest of its line or not: there
// is nothing to be kept. First it looks under the lock for what is back, or can be put back from the local copies. It is
// all or nothing. What is removed stays removed when its packfile is found later.
//
// Errors: ErrNoSnapshot and ErrReadable, of any of them; ErrBusy, ErrUnavailable.
func (s *Snapshotter) giveUp(ctx context.Context, refs []string) (gone []ID, err error) {
	lock := func(ctx context.Context) (*store.Lock, func(), error) {
		lock, unlock, err := s.lockAlone(ctx)
		if err != nil {
			return nil, nil, err
		}
		if err := s.takeStock(ctx); err != nil {
			unlock()
			return nil, nil, err
		}
		return lock, unlock, nil
	}
	err = s.alter(ctx, lock, func(rw *repository.RepositoryWriter) (bool, error) {
		for _, ref := range refs {
			id, err := s.lost(ctx, ref)
			if err != nil {
				return false, err
			}
			if slices.Contains(gone, id) {
				continue
			}
			if err := rw.DeleteStateResource(resources.RT_SNAPSHOT, objects.MAC(id)); err != nil {
				return false, fmt.Errorf("state delta: %w", err)
			}
			gone = append(gone, id)
		}
		return true, nil
	}, func() {})
	if err != nil {
		return nil, fmt.Errorf("give up: %w", err)
	}
	for _, id := range gone {
		s.log.Warn("a snapshot that cannot be read was given up", "snapshot", id.String())
	}
	return gone, nil
}

// lost finds the one snapshot whose id begins so, and makes sure that it cannot be read. It needs s.write and a lock on the
// store.
func (s *Snapshotter) lost(ctx context.Context, ref string) (ID, error) {
	due, err := s.due()
	if err != nil {
		return ID{}, err
	}
	var found []ID
	for _, mac := range due {
		if id := ID(mac); strings.HasPrefix(id.String(), strings.ToLower(ref)) && !slices.Contains(found, id) {
			found = append(found, id)
		}
	}
	switch {
	case len(ref) < giveUpDigits:
		return ID{}, fmt.Errorf("%q: at least %d digits of an id are needed", ref, giveUpDigits)
	case len(found) == 0:
		return ID{}, fmt.Errorf("snapshot %q: %w", ref, ErrNoSnapshot)
	case len(found) > 1:
		return ID{}, fmt.Errorf("%q begins the ids of %d snapshots", ref, len(found))
	}
	id := found[0]
	if s.known(id) != nil {
		return ID{}, fmt.Errorf("snapshot %s: %w", id, ErrReadable)
	}
	r, err := s.loadRecord(id)
	if err == nil {
		err = s.usable(r)
	}
	switch err = s.asDamage(ctx, err); {
	case err == nil: // it is back, and not listed yet
		return ID{}, fmt.Errorf("snapshot %s: %w", id, ErrReadable)
	case ctx.Err() != nil:
		return ID{}, ctx.Err()
	case store.IsIO(err): // that says nothing
		return ID{}, store.Unavailable("read snapshot "+id.String(), err)
	}
	return id, nil
}
