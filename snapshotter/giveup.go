package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"

	"github.com/snapgate/gateway/store"
)

// ErrReadable means that a snapshot is not given up: it is not proven that its header is lost, or one was made in its place.
var ErrReadable = errors.New("its header is not lost, or another snapshot was made in its place")

// errNoCopyOf says why a snapshot is not made anew when there is nothing to make it of.
var errNoCopyOf = errors.New("the store to repair from has no copy of it")

// giveUpDigits is how many digits of an id have to be given at least.
const giveUpDigits = 8

// giveUpLost removes the snapshots of ScrubConfig.GiveUp, after all that a repair can do, and reads again what was damaged.
func (r *scrubbing) giveUpLost(ctx context.Context, done map[ledgerKey]bool) (err error) {
	if r.s.store.CopiesBusy() {
		return fmt.Errorf("give up: %w: another command uses the local copies of metadata, of which one may be what is lacking", ErrBusy)
	}
	if err := r.toldWhole(ctx); err != nil {
		return fmt.Errorf("give up: %w", err)
	}
	refs := slices.DeleteFunc(slices.Clone(r.cfg.GiveUp), func(ref string) bool {
		return len(ref) >= giveUpDigits && slices.ContainsFunc(r.report.Replaced, func(made Replaced) bool { return begins(made.Old, ref) })
	})
	if len(refs) == 0 {
		return nil
	}
	if err := r.copiesTold(ctx); err != nil {
		return fmt.Errorf("give up: %w", err)
	}
	if r.report.GivenUp, err = r.removeLost(ctx, refs); err != nil {
		return fmt.Errorf("give up: %w", err)
	}
	for k := range r.damage {
		delete(done, k)
	}
	if err := r.read(ctx, done); err != nil {
		return err
	}
	return r.unreadError()
}

// toldWhole returns an error unless it is known what there is to be lost, here and in the store to repair from.
func (r *scrubbing) toldWhole(ctx context.Context) error {
	if r.more {
		return fmt.Errorf("some of the damage to the store %w: read everything first", ErrUnread)
	}
	for _, k := range slices.AppendSeq(slices.Collect(maps.Keys(r.damage)), maps.Keys(r.ledger.at)) {
		if k.kind != ledgerPackfile && r.isDamaged(k) {
			return fmt.Errorf("%w: a %s is, and what it tells of may be all that is lacking", store.ErrDamaged, kindOf(k))
		}
	}
	if r.cfg.From == nil || r.from().ID() == r.s.store.ID() {
		return nil
	}
	hidden, err := r.cfg.From.Unreadable(ctx)
	if err == nil && len(hidden) > 0 {
		err = fmt.Errorf("the store to repair from has snapshots that cannot be read, of which one may be the copy: %w", ErrReadable)
	}
	return err
}

// copiesTold returns an error unless it is known that neither the local copies nor a copy of the store to repair from have one of
// the packfiles that are damaged. A repair goes on with other files when it does not know.
func (r *scrubbing) copiesTold(ctx context.Context) error {
	for k := range r.damage {
		_, err := r.s.store.CopyOfPackfile(ctx, k.mac, r.from())
		switch absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, repository.ErrPackfileNotFound); {
		case err == nil:
			return fmt.Errorf("packfile %x can be repaired: %w", k.mac[:], ErrReadable)
		case !errors.Is(err, store.ErrNoCopy):
			return err
		case store.IsIO(err) && !absent: // the disk of the copy does not give it
			return fmt.Errorf("%w: packfile %x of the copy of the store: %w", ErrUnavailable, k.mac[:], err)
		}
	}
	return nil
}

// begins reports whether the text of an id begins so.
func begins(id ID, ref string) bool { return strings.HasPrefix(id.String(), strings.ToLower(ref)) }

// removeLost removes snapshots whose headers are lost, whoever has made them, pinned or the newest of its line or not: there
// is nothing to be kept. First it looks under the lock for what is back, or can be put back from the local copies. It is
// all or nothing. What is removed stays removed when its packfile is found later.
//
// Errors: ErrNoSnapshot and ErrReadable, of any of them; ErrBusy, ErrUnavailable.
func (r *scrubbing) removeLost(ctx context.Context, refs []string) (gone []ID, err error) {
	s := r.s
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
		ids := make([]ID, len(refs))
		for i, ref := range refs {
			id, err := s.dueAs(ref)
			if err != nil {
				return false, err
			}
			ids[i] = id
		}
		if !s.anyReadable() {
			return false, fmt.Errorf("%w: no snapshot at all can be read: it may be the place of the packfiles that is not there", ErrUnavailable)
		}
		for _, id := range ids {
			if err := r.headerLost(ctx, id); err != nil {
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
		return nil, err
	}
	for _, id := range gone {
		s.log.Warn("a snapshot that cannot be read was given up", "snapshot", id.String())
	}
	return gone, nil
}

// anyReadable reports whether there is a snapshot that can be read.
func (s *Snapshotter) anyReadable() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.records) > 0
}

// dueAs finds the one snapshot that should be there and whose id begins so.
func (s *Snapshotter) dueAs(ref string) (ID, error) {
	due, err := s.due()
	if err != nil {
		return ID{}, err
	}
	var found []ID
	for _, mac := range due {
		if id := ID(mac); begins(id, ref) && !slices.Contains(found, id) {
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
	return found[0], nil
}

// headerLost returns nil when it is proven that the header of a snapshot is lost: this run has found it damaged or missing, has
// tried to repair that, and it is so now. That it cannot be read proves nothing: that may be a line, a disk, or
// an index of this machine. It needs s.write and a lock on the store, after takeStock.
func (r *scrubbing) headerLost(ctx context.Context, id ID) error {
	s, mac := r.s, objects.MAC(id)
	if s.known(id) != nil {
		return fmt.Errorf("snapshot %s: %w", id, ErrReadable)
	}
	switch cause := r.gaveUp[id]; {
	case cause == nil, errors.Is(cause, errNoCopyOf):
	default:
		return fmt.Errorf("snapshot %s has a copy in the store to repair from, of which it could not be made anew: %w", id, cause)
	}
	_, err := s.loadRecord(id)
	switch {
	case err == nil: // it is back, and not listed yet
		return fmt.Errorf("snapshot %s: %w", id, ErrReadable)
	case ctx.Err() != nil:
		return ctx.Err()
	case isLost(err), errors.Is(err, repository.ErrPackfileNotFound):
	case store.IsIO(s.store.CacheError(err)):
		return store.Unavailable("read snapshot "+id.String(), err)
	}
	unproven := fmt.Errorf("snapshot %s is in no file that this scrub has found damaged: %w", id, ErrReadable)
	if r.uses == nil {
		return unproven
	}
	if _, found := r.uses.used[store.BlobID{Type: resources.RT_SNAPSHOT, MAC: mac}]; !found {
		return unproven
	}
	places, err := s.store.PlacesOf(resources.RT_SNAPSHOT, mac)
	if err != nil {
		return err
	}
	missing, err := s.store.MissingPlacesOf(resources.RT_SNAPSHOT, mac)
	if err != nil {
		return err
	}
	if places = append(places, missing...); len(places) == 0 {
		return unproven
	}
	for _, at := range places {
		switch lost, err := r.placeLost(ctx, at); {
		case err != nil:
			return err
		case !lost:
			return unproven
		}
	}
	return nil
}

// placeLost reports whether what was in a place of the store is not there any more, which is read again.
func (r *scrubbing) placeLost(ctx context.Context, at store.Place) (bool, error) {
	if r.damage[ledgerKey{ledgerPackfile, at.Packfile}] == nil {
		return false, nil // whether it can be repaired was not tried
	}
	c, err := r.s.store.VerifyPackfile(ctx, at.Packfile, r.pace)
	if err == nil && c.Err != nil && !c.Missing && (store.IsIO(c.Err) || !errors.Is(c.Err, store.ErrDamaged)) {
		err = store.Unavailable("read packfile", c.Err)
	}
	if err != nil || !c.Missing {
		return slices.ContainsFunc(c.Damaged, func(bad store.Place) bool { return bad.Type == at.Type && bad.Blob == at.Blob }), err
	}
	there, err := r.s.store.Outlived(ctx, at.Packfile)
	if err == nil && !there {
		err = fmt.Errorf("%w: packfile %x is missing, and the store has none that is older: it may be the place of the packfiles that is not there", ErrUnavailable, at.Packfile[:])
	}
	return err == nil, err
}
