package vfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// headless is why what is pending in a share is not above its head: something of the head that it needs could not be read at
// the start. Until it can, the share has its sets without trees, shows nothing but its history, and takes no changes: what
// they would be about is not known. The committer looks for the head as it tries to commit.
type headless struct{ err error }

// refusal is what whoever wants to change something is told.
func (h *headless) refusal(op string, name Name) error {
	return errCause(op, name, KindUnavailable, h.err)
}

// isUnread reports whether err says that a head cannot be read now. That there is no such snapshot says so as well: of a head that was
// removed, as far as anybody can tell, another one is the head by now.
func isUnread(err error) bool {
	return KindOf(err) == KindUnavailable || errors.Is(err, snapshotter.ErrDamaged) || errors.Is(err, snapshotter.ErrNoSnapshot)
}

// behead makes the share, which nobody uses yet, one that waits for its head.
func (s *share) behead(h *headless) {
	last := s.ledger.last
	for _, set := range s.ledger.sealed {
		set.tree = nil // as of another set may be that of none
	}
	// Not a view that opens the head once it is there: what is pending would not be above it.
	err := errCause("open head", Root(), KindUnavailable, h.err)
	s.live.Store(unknownTree(last.id, failedView{err}, last.time))
	s.headless.Store(h)
	s.log.Error("the last snapshot of a share cannot be read, and changes wait that belong above it: they are kept, and the share shows its history alone "+
		"and takes no uploads until it can be read, which is tried again by itself; if the store can be reached, gateway scrub names what is damaged or missing, "+
		"and gateway scrub --repair gets it back from a copy", "share", s.name, "snapshot", last.id.String(), "err", h.err)
}

// loseHead has the committer look for the head, of which its view, or what stands in for that, did not find something as it was removed:
// without pending changes no commit would ever notice, and without it no change can be made. A view may outlive that id's time as the head.
func (s *share) loseHead(id snapshotter.ID) {
	s.mu.Lock()
	lost := s.ledger.last.id == id
	if lost {
		s.headLost.Store(true) // with mu held: another head cannot take its place in between, of which it would not be true
	}
	s.mu.Unlock()
	if lost {
		s.pulse()
	}
}

// settle puts what is pending above the head, if that could not be read at the start, or seems to have been removed while it was read.
// Called by the committer only.
func (s *share) settle(ctx context.Context) error {
	if s.headless.Load() == nil && !s.headLost.Load() {
		return nil
	}
	if err := s.regainHead(ctx); err != nil {
		return fmt.Errorf("the last snapshot, which the changes belong above, cannot be read: %w", err)
	}
	if s.headLost.Load() {
		return nil // the commit that follows takes the next one over
	}
	s.log.Info("the last snapshot can be read again, and changes go on above it", "share", s.name, "snapshot", s.head().id.String())
	return nil
}

// regainHead is reopenHead that goes on from what is left when the head is gone, also when parts of it are there, or damaged: nothing
// brings back what was removed.
func (s *share) regainHead(ctx context.Context) error {
	lost := s.headLost.Load() // of which some may be there
	var err error
	if !lost {
		err = s.reopenHead(ctx)
		if !errors.Is(err, snapshotter.ErrNoSnapshot) && !errors.Is(err, snapshotter.ErrDamaged) {
			return err
		}
	}
	newest, gone, nerr := s.newest(ctx)
	switch {
	case nerr != nil:
		return nerr
	case !gone && lost:
		return s.reopenHead(ctx)
	case !gone:
		return err
	case newest.Sequence > s.head().sequence:
		// It is one of what is pending, whose note was lost: changes would be made twice. At a start findHead sees to it, and later
		// madeBefore, when it is the next one.
		if made, err := s.madeNext(ctx); made || err != nil {
			return err
		}
		return fmt.Errorf("the head was removed, and snapshot %s may have some of the changes already: restart the gateway, which finds out which", newest.ID)
	}
	if replaced, rerr := s.replaceHead(ctx); replaced || rerr != nil {
		return rerr
	}
	if lost {
		return s.reopenHead(ctx) // it was put back meanwhile
	}
	return err
}

// madeNext reports whether the next snapshot has been made already, by an attempt that seemed to fail.
func (s *share) madeNext(ctx context.Context) (bool, error) {
	set, last := s.oldest()
	if set == nil || !set.tried || set.tree == nil {
		return false, nil
	}
	made, err := s.madeBefore(ctx, set, last)
	return !made.ID.IsZero(), err
}

// triedAny reports whether there may be a snapshot of a set that is pending.
func (s *share) triedAny() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.ledger.sealed, func(set *changeSet) bool { return set.tried })
}

// settleAndSeal is seal for the committer. That the head cannot be read is a failed commit, as where there is nothing to seal.
func (s *share) settleAndSeal(ctx context.Context, reason string) error {
	began := time.Now()
	if err := s.settle(ctx); err != nil {
		s.intake.failed()
		if ctx.Err() == nil {
			s.tell(Commit{Dur: time.Since(began), Err: err})
		}
		return err
	}
	return s.seal(ctx, reason)
}
