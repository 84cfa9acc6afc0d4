package vfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// newest returns the newest snapshot of the share's own lineage, and whether the head as
// it was noted is gone. Called by the committer only.
func (s *share) newest(ctx context.Context) (newest snapshotter.Snapshot, headGone bool, err error) {
	list, err := s.system.cfg.Repository.AllSnapshots(ctx, s.name, false)
	if err != nil {
		return newest, false, fmt.Errorf("list snapshots: %w", err)
	}
	last := s.head()
	if s.headless.Load() == nil && !s.triedAny() { // what is above the head was made by a copy of the data directory
		list = slices.DeleteFunc(slices.Clone(list), func(snap snapshotter.Snapshot) bool { return snap.Sequence > last.sequence })
	}
	return s.newestAbove(ctx, list, last, nil)
}

// newestAbove is newest of a list, for a note of the head, without those that the journal's seals, if given, say that others have made.
// That the head is not listed proves nothing: its header may be damaged, and then nobody has removed it, and a repair brings it back.
func (s *share) newestAbove(ctx context.Context, list []snapshotter.Snapshot, last committedRecord, sealed *seals) (newest snapshotter.Snapshot, headGone bool, err error) {
	byID := make(map[snapshotter.ID]*snapshotter.Snapshot, len(list))
	for i := range list { // also by what they were made in place of
		for _, id := range list[i].Replaces {
			byID[id] = &list[i]
		}
	}
	for i := range list {
		byID[list[i].ID] = &list[i]
	}
	// Whoever made it: it is the head because the journal says so.
	if _, listed := byID[last.id]; !listed && !last.id.IsZero() {
		if headGone, err = s.system.cfg.Repository.Gone(ctx, last.id); err != nil {
			return newest, false, fmt.Errorf("find out whether the last snapshot was removed: %w", err)
		}
	}
	for _, snap := range list {
		if !snap.Of(s.lineage()) || snap.Sequence <= newest.Sequence || !headGone && !last.id.IsZero() && !continues(byID, snap, last) {
			continue
		}
		if sealed.exclude(byID, snap, last) {
			s.log.Warn("a copy of the data directory has made a snapshot of this share above its last one, which does not go on from it",
				"share", s.name, "snapshot", snap.ID.String())
			continue
		}
		newest = snap
	}
	return newest, headGone, nil
}

// seals are where a journal has closed sets.
type seals struct {
	at  map[uint64]bool
	end uint64 // the last position that the journal has whole
}

// sealsOf are those of a journal that has these operations.
func sealsOf(ops []replayed) *seals {
	sealed := &seals{at: map[uint64]bool{}}
	for _, r := range ops {
		sealed.end = max(sealed.end, uint64(r.pos))
		if r.op.kind == opSeal {
			sealed.at[uint64(r.pos)] = true
		}
	}
	return sealed
}

// exclude reports whether a snapshot above the last commit that the journal knows is not of this share's making: it, or one that it goes back to,
// ends where the journal, which reaches that far, has closed no set. A commit is made of a set whose seal was flushed before. Of what
// lies behind the end of the journal nothing is known: it may have lost its newest records.
func (j *seals) exclude(byID map[snapshotter.ID]*snapshotter.Snapshot, snap snapshotter.Snapshot, last committedRecord) bool {
	for j != nil && snap.Sequence > last.sequence {
		if snap.Journal <= last.upTo || snap.Journal <= j.end && !j.at[snap.Journal] {
			return true
		}
		parent, ok := byID[snap.Parent]
		if !ok || parent.Sequence >= snap.Sequence {
			return false
		}
		snap = *parent
	}
	return false
}

// returned returns the listed snapshot that the last commit made, when the share goes on from an older one, as from one that was removed:
// it was away only, as the disk that was there was another one, or somebody has put it back. The number of the last commit stays the same when
// an older snapshot becomes the head, and grows with the next snapshot, from which on it is not the head's any more.
func (s *share) returned(list []snapshotter.Snapshot, last committedRecord) (snapshotter.Snapshot, bool) {
	for _, snap := range list {
		// A copy of the data directory may have made another one of the number. Of the journal the note may have more: changes
		// without effect become no snapshot.
		if snap.Of(s.lineage()) && snap.Sequence == last.sequence && snap.Time.Equal(last.time) && snap.Suffix == last.suffix && snap.Journal <= last.upTo {
			return snap, !slices.Contains(snap.IDs(), last.id)
		}
	}
	return snapshotter.Snapshot{}, false
}

// lineage names the share's own snapshots.
func (s *share) lineage() snapshotter.Lineage {
	return snapshotter.Lineage{GatewayID: s.system.gatewayID, ShareID: s.id}
}

// continues reports whether a snapshot of the lineage may have been made on top of the last
// commit that the journal knows. It was not when it goes back to another snapshot of that
// age or an older one: then a copy of the data directory has made it.
func continues(byID map[snapshotter.ID]*snapshotter.Snapshot, snap snapshotter.Snapshot, last committedRecord) bool {
	for snap.Sequence > last.sequence {
		if snap.Parent == last.id {
			return true
		}
		parent, ok := byID[snap.Parent]
		if !ok || parent.Sequence >= snap.Sequence {
			return true // removed meanwhile; or nonsense, which nobody can tell apart
		}
		snap = *parent
	}
	return snap.ID == last.id
}

// madeBefore returns the snapshot that an earlier attempt at a set's commit has left in
// the store although it failed, because the reply was lost, the new head could not be
// opened, or the process died and started again while the store was away; the zero Snapshot
// when there is none.
func (s *share) madeBefore(ctx context.Context, set *changeSet, last committedRecord) (snapshotter.Snapshot, error) {
	list, err := s.system.cfg.Repository.AllSnapshots(ctx, s.name, true)
	if err != nil {
		return snapshotter.Snapshot{}, fmt.Errorf("list snapshots: %w", err)
	}
	for _, snap := range list {
		// Not the newest alone: several commits may have been made whose notes were lost.
		if snap.Of(s.lineage()) && snap.Sequence == last.sequence+1 && snap.Parent == last.id && snap.Journal == uint64(set.upTo) {
			return snap, nil
		}
	}
	return snapshotter.Snapshot{}, nil
}

// findHead compares the journal's last commit with the store's lineage, for recovery: the
// process may have died between the two, or the head may have been removed since. away
// reports that the store could not be asked. What a copy of the data directory has made from the same head does not have what the journal
// says was accepted since.
func (s *share) findHead(ctx context.Context, sealed *seals) (away bool, err error) {
	newest, gone, err := s.lookForHead(ctx, sealed)
	if errors.Is(err, snapshotter.ErrUnavailable) || errors.Is(err, snapshotter.ErrBusy) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	last := &s.ledger.last
	switch {
	case newest.Sequence > last.sequence:
		s.log.Info("the store is ahead of the journal by a commit", "share", s.name, "snapshot", newest.ID.String())
		*last = committedRecord{
			upTo: newest.Journal, id: newest.ID, sequence: newest.Sequence,
			time: newest.Time, suffix: newest.Suffix, version: last.version,
			// The set may have been put above another head than the journal's, and what comes after it was accepted over that one.
			lenient: last.lenient || gone,
		}
	case gone:
		s.logRemovedHead(newest)
		last.id, last.lenient = newest.ID, true
	}
	return false, nil // of a head that cannot be read headTree says why
}

// lookForHead is newest for findHead: a head that has returned is noted first.
func (s *share) lookForHead(ctx context.Context, sealed *seals) (newest snapshotter.Snapshot, gone bool, err error) {
	list, err := s.system.cfg.Repository.AllSnapshots(ctx, s.name, false)
	if err != nil {
		return newest, false, fmt.Errorf("list snapshots: %w", err)
	}
	last := &s.ledger.last
	if head, ok := s.returned(list, *last); ok {
		s.log.Warn("the head that was not in the store is there again, going on from it",
			"share", s.name, "head", head.ID.String(), "instead", last.id.String())
		last.id, last.lenient = head.ID, true // what pends was accepted over the other one
	}
	return s.newestAbove(ctx, list, *last, sealed)
}

// logRemovedHead says that somebody took the head out of the store. What it alone held is
// gone, and it is their decision; what was accepted after it is kept.
func (s *share) logRemovedHead(instead snapshotter.Snapshot) {
	s.log.Error("the head was removed from the store, going on from the newest snapshot that is left",
		"share", s.name, "head", s.head().id.String(), "instead", instead.ID.String())
}

// replaceHead goes on from the newest snapshot that is left after the head was removed. It
// reports false when the head is there: then it is another snapshot that is missing, one
// that a pending change takes bytes from. A head that is there and cannot be read is an error.
func (s *share) replaceHead(ctx context.Context) (replaced bool, err error) {
	head := s.head().id
	newest, gone, err := s.newest(ctx)
	if err != nil || head.IsZero() {
		return false, err
	}
	if !gone {
		_, err := s.openHead(ctx, head)
		return false, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("the head was removed: %w", err)
		}
	}()
	r := &rebase{now: time.Now().UTC(), lenient: true}
	if newest.ID.IsZero() {
		r.tree, err = newTree(ctx, newest.ID, nil, r.now)
	} else {
		r.tree, err = s.openHead(ctx, newest.ID)
	}
	if err != nil {
		return false, err
	}
	if err := r.replay(ctx, s, s.setsAfter(nil)); err != nil {
		return false, err
	}
	s.logRemovedHead(newest)
	return true, s.exec(ctx, func() error {
		if err := s.rebaseAll(r, newest.ID); err != nil {
			return err
		}
		s.noteCommit(s.head())
		return nil
	})
}

// rebaseAll puts all that is pending above the tree of r, of which the snapshot is head. Called by the sequencer only, after most was
// replayed beside it: changes do not wait for that, and the end of the share ends it.
func (s *share) rebaseAll(r *rebase, head snapshotter.ID) error {
	if err := r.replay(s.seq.ctx, s, s.setsAfter(nil)); err != nil {
		return err
	}
	s.mu.Lock()
	last := &s.ledger.last
	last.id, last.lenient = head, last.lenient || r.lenient
	for _, set := range s.ledger.sealed {
		set.tree, set.leftOut = r.sealed[set], 0 // what was left out shows again
	}
	s.headLost.Store(false) // see loseHead
	s.mu.Unlock()
	s.live.Store(r.tree)
	s.headless.Store(nil)
	return nil
}

// Reopen has the shares that show some of the given snapshots open their heads anew, after others were made in
// the place of those, or they were given up: what they have open of them may be damaged. Sources do so by themselves.
func (s *System) Reopen(ctx context.Context, ids []snapshotter.ID) error {
	var errs []error
	for _, sh := range s.allShares() {
		if sh.source != nil || !slices.Contains(ids, sh.head().id) && !slices.Contains(ids, sh.current().head) {
			continue
		}
		if err := sh.committer.between(ctx, sh.regainHead); err != nil {
			errs = append(errs, fmt.Errorf("share %s: open head anew: %w", sh.name, err))
		}
	}
	return errors.Join(errs...)
}

// reopenHead puts what is pending above the head as the store has it now, by the id that the journal knows.
// Called by the committer only.
func (s *share) reopenHead(ctx context.Context) error {
	head := s.head().id
	if head.IsZero() { // of which nothing can be lost
		s.headLost.Store(false)
		return nil
	}
	r := &rebase{now: time.Now().UTC()}
	var err error
	if r.tree, err = s.openHead(ctx, head); err != nil {
		return err
	}
	r.lenient = r.tree.lossy() || s.head().lenient
	if err := r.replay(ctx, s, s.setsAfter(nil)); err != nil {
		return err
	}
	return s.exec(ctx, func() error { return s.rebaseAll(r, head) })
}

// reapply applies an accepted operation to another head than it was accepted over. When
// the head is lenient, one of lower standing, what an operation needs may be missing, and what has its name may be something that was
// removed by then: what comes to a name gets its directories back, and its place, and anything else has lost its object.
func (s *share) reapply(ctx context.Context, t *tree, o *op, set uint64, lenient bool) (*tree, error) {
	next, err := t.apply(ctx, o, set)
	if err == nil || !lenient {
		return next, err
	}
	if !isMisfit(err) {
		return nil, err
	}
	switch o.kind {
	case opPut, opMkdir, opSymlink, opRename, opLink:
		f := &fitting{tree: t, o: o, set: set, nameBytes: s.system.cfg.Limits.NameBytes}
		switch err := f.apply(ctx); {
		case err == nil:
			for _, m := range f.aside {
				s.log.Error("the name of a change is taken in the snapshot that is left in place of the head: what has it there was moved aside",
					"share", s.name, "op", o.kind.String(), "path", m.name.String(), "to", m.to.String())
			}
			return f.tree, nil
		case !isMisfit(err):
			return nil, err
		}
	}
	s.log.Warn("a change has lost what it was about", "share", s.name, "op", o.kind.String(), "err", err)
	return t, nil
}

// isMisfit reports whether err, of apply, says that the tree is another one than the operation needs, not that it cannot be read.
func isMisfit(err error) bool {
	switch KindOf(err) {
	case KindNotExist, KindNotDir, KindExist, KindNotEmpty, KindIsDir, KindInvalid:
		return true
	}
	return false
}
