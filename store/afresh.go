package store

import (
	"context"
	"fmt"

	"github.com/PlakarKorp/kloset/kcontext"
	"github.com/PlakarKorp/kloset/repository"
)

// afresh is a view of the store, as kloset has it, beside the one that everybody uses.
type afresh struct {
	kctx *kcontext.KContext
	repo *repository.Repository
}

// Afresh returns kloset's view of the store, as of the last Refresh, for whoever is to prove what is in
// it: all of it is read from the store, metadata too, which otherwise may come from local copies; and
// it ends with ctx, which kloset's own does not. kloset does with it so many things at a time. done
// must be called when it is not used any more. Safe for concurrent use.
func (s *Store) Afresh(ctx context.Context, parallel int) (repo *repository.Repository, done func(), err error) {
	a, err := s.takeAfresh()
	if err != nil {
		return nil, nil, err
	}
	// Nobody else has it, so nobody reads these.
	a.kctx.Context, a.kctx.Cancel = context.WithCancelCause(ctx)
	a.kctx.MaxConcurrency = parallel
	return a.repo, func() {
		a.kctx.Cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.spare = append(s.spare, a)
	}, nil
}

// takeAfresh takes a view that nobody uses, or makes one, with a handle of its own on the index.
func (s *Store) takeAfresh() (*afresh, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.spare); n > 0 {
		a := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return a, nil
	}
	// A connection without a mirror.
	a := &afresh{kctx: kcontext.NewKContextFrom(s.kctx)}
	var err error
	if a.repo, err = repository.NewNoRebuild(a.kctx, s.key, &conn{connector: s.conn.connector}, s.sound, true); err != nil {
		return nil, fmt.Errorf("open repository: %w", s.CacheError(err))
	}
	return a, nil
}
