package vfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/journal"
)

func journalPos(pos uint64) journal.Position { return journal.Position(pos) }

// commitNext makes a snapshot of the oldest sealed set and reports whether there was one.
// On an error the set stays, and the next call tries again. Called by the committer only.
func (s *share) commitNext(ctx context.Context) (bool, error) {
	more, err := s.commitOldest(ctx)
	if err != nil {
		s.intake.failed()
	}
	return more, err
}

func (s *share) commitOldest(ctx context.Context) (bool, error) {
	if err := s.settle(ctx); err != nil {
		return true, err
	}
	began := time.Now()
	set, last := s.oldest()
	if set == nil {
		return false, nil
	}
	real := false
	set.changes = 0
	set.tree.diff(func(_ snapshotter.Change, _ *node, isReal bool) bool {
		real = real || isReal
		set.changes++
		return true
	})
	done := committedRecord{
		upTo: uint64(set.upTo), id: last.id, sequence: last.sequence,
		time: last.time, suffix: last.suffix, lenient: last.lenient,
	}
	// Without a snapshot nothing would tell a restart that files are missing on purpose.
	if real || set.leftOut > 0 {
		id, meta, err := s.store(ctx, set, last)
		if err != nil && ctx.Err() == nil && set.damaged.any() {
			leftOut, lerr := s.leaveOut(ctx, set)
			switch {
			case lerr != nil:
				return true, lerr
			case leftOut:
				return s.commitOldest(ctx)
			}
		}
		if errors.Is(err, snapshotter.ErrNoSnapshot) {
			replaced, rerr := s.replaceHead(ctx)
			switch {
			case rerr != nil:
				return true, rerr
			case replaced:
				return s.commitOldest(ctx) // the set is above the new head now
			}
		}
		if err != nil {
			return true, err
		}
		done.id, done.sequence, done.time, done.suffix = id, meta.Sequence, meta.Time, meta.Suffix
	}
	if err := s.advance(ctx, set, done); err != nil {
		return true, fmt.Errorf("take over the snapshot: %w", err)
	}
	s.log.Info("committed", "share", s.name, "snapshot", done.id.String(), "reason", set.reason,
		"changes", len(set.ops), "new", real)
	s.tell(Commit{
		Snapshot: done.id, New: real, Reason: set.reason, Changes: len(set.ops),
		Users: slices.Sorted(maps.Keys(set.users)), Dur: time.Since(began),
	})
	return true, nil
}

// oldest returns the sealed set that is to be committed next, nil when there is none, and the last commit.
func (s *share) oldest() (*changeSet, committedRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ledger.sealed) == 0 {
		return nil, s.ledger.last
	}
	return s.ledger.sealed[0], s.ledger.last
}

// store makes the snapshot of a set, unless an attempt that seemed to fail has made it.
func (s *share) store(ctx context.Context, set *changeSet, last committedRecord) (snapshotter.ID, snapshotter.Meta, error) {
	meta := s.meta(set, last)
	if set.tried {
		made, err := s.madeBefore(ctx, set, last)
		if err != nil {
			return made.ID, meta, err
		}
		if !made.ID.IsZero() {
			meta.Sequence, meta.Time, meta.Suffix = made.Sequence, made.Time, made.Suffix
			return made.ID, meta, nil
		}
	}
	if err := s.awaitAhead(ctx, set); err != nil {
		return snapshotter.ID{}, meta, err
	}
	set.tried = true
	set.damaged.reset()
	id, err := s.system.cfg.Repository.Commit(ctx, set.tree.head, s.changes(set), meta)
	return id, meta, err
}

// changes is the difference to the head as a commit takes it; it can be walked twice.
func (s *share) changes(set *changeSet) iter.Seq2[snapshotter.Change, error] {
	return func(yield func(snapshotter.Change, error) bool) {
		read := 0
		set.tree.diff(func(c snapshotter.Change, n *node, _ bool) bool {
			if read++; read%intakeStep == 0 || read == set.changes {
				// Changes and operations are not the same, but there are about as many.
				s.intake.progress(len(set.ops) * read / max(set.changes, 1))
			}
			if c.Kind == snapshotter.File && c.From == "" {
				c.Content = contentSource{s, n.content, c.Path, &set.damaged}
				c.Ingested = n.content.early().ingest()
			}
			return yield(c, nil)
		})
	}
}

// meta describes the snapshot that a set becomes.
func (s *share) meta(set *changeSet, last committedRecord) snapshotter.Meta {
	m := snapshotter.Meta{
		Share: s.name, ShareID: s.id, GatewayID: s.system.gatewayID,
		Journal:   uint64(set.upTo),
		Time:      time.Now().UTC(),
		Users:     slices.Sorted(maps.Keys(set.users)),
		Protocols: slices.Sorted(maps.Keys(set.protocol)),
		Reason:    set.reason,
		// Uploads wait for the commit, or will: they must not keep it from its work.
		Urgent:  set.reason == reasonBacklog || s.intake.pressed(),
		LeftOut: set.leftOut,
	}
	m.Follow(snapshotter.Snapshot{ID: last.id, Sequence: last.sequence, Time: last.time, Suffix: last.suffix})
	return m
}

// advance makes a snapshot the head: what was accepted after it is replayed above it.
func (s *share) advance(ctx context.Context, set *changeSet, done committedRecord) error {
	r := &rebase{now: time.Now().UTC()}
	var err error
	if done.id == set.tree.head {
		r.tree, err = newTree(ctx, done.id, set.tree.base, r.now)
		if err == nil && set.tree.base == nil {
			r.tree.root.attr = set.tree.root.attr // a root that no snapshot holds yet
		}
	} else {
		r.tree, err = s.openHead(ctx, done.id)
	}
	if err != nil {
		return err
	}
	r.lenient = r.tree.lossy() || done.lenient
	// Only the next set is put above the new head, and the live tree when none is sealed:
	// trees above older heads stay right, and many sets cost no more than their changes.
	// Most of the replay happens beside the sequencer; it then only adds the newest.
	if err := r.replay(ctx, s, s.setsAfter(set)[:1]); err != nil {
		return err
	}
	// From here on readers may use the snapshot: it is there, whatever becomes of the rest.
	set.tree.diff(func(c snapshotter.Change, n *node, _ bool) bool {
		if n.content != nil {
			n.content.moved(baseRef{done.id, c.Path, n.content.size})
		}
		return true
	})
	return s.exec(ctx, func() error {
		next := s.setsAfter(set)[0]
		if err := r.replay(s.seq.ctx, s, []setOps{next}); err != nil {
			return err
		}
		made := done.id != s.head().id
		done.version = s.seq.version
		done.lenient = done.lenient && (next.sealed || len(next.ops) > 0) // what comes is accepted over this head
		hole := s.forget(set)
		s.mu.Lock()
		s.ledger.sealed = slices.Delete(s.ledger.sealed, 0, 1)
		s.ledger.last = done
		s.ledger.bytes -= int64(len(set.ops)) * nodeCost
		s.ledger.holes -= hole
		if next.sealed {
			next.set.tree = r.sealed[next.set]
		}
		s.mu.Unlock()
		s.intake.committed(len(set.ops))
		s.system.stored(set.bytes)
		if !next.sealed {
			s.live.Store(r.tree)
		}
		if full := s.noteCommit(done); full && made {
			// Space must come from somewhere: the snapshot is durable and its header has the
			// position, so the bytes may go before the note is written. Without a snapshot, as of
			// changes that undo each other, nothing else has it.
			s.removeFreed()
		}
		return nil
	})
}

// openHead returns the unchanged tree of a snapshot.
func (s *share) openHead(ctx context.Context, id snapshotter.ID) (*tree, error) {
	view, err := s.system.cfg.Repository.View(ctx, id)
	if err != nil {
		return nil, baseError("open head", Root(), err)
	}
	return newTree(ctx, id, holdView(view, func() { s.loseHead(id) }), time.Now().UTC())
}

// setsAfter lists the sets that are pending after the oldest, the open one last, with
// the operations that they have now.
func (s *share) setsAfter(first *changeSet) []setOps {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []setOps
	for _, set := range s.ledger.sealed {
		if set != first {
			out = append(out, setOps{set, set.ops, true})
		}
	}
	return append(out, setOps{s.ledger.open, s.ledger.open.ops, false})
}

type setOps struct {
	set    *changeSet
	ops    []*op
	sealed bool
}

// rebase replays pending sets over a new head. replay may be called again with more.
type rebase struct {
	tree    *tree
	now     time.Time
	lenient bool // the head may lack what the operations were accepted over
	sealed  map[*changeSet]*tree
	done    map[*changeSet]int // operations replayed
}

func (r *rebase) replay(ctx context.Context, s *share, sets []setOps) error {
	if r.done == nil {
		r.done, r.sealed = map[*changeSet]int{}, map[*changeSet]*tree{}
	}
	for _, set := range sets {
		for _, o := range set.ops[r.done[set.set]:] {
			t, err := s.reapply(ctx, r.tree, o, set.set.number, r.lenient)
			if err != nil {
				return fmt.Errorf("replay %v: %w", o.kind, err)
			}
			r.tree = t
			r.done[set.set]++
		}
		if set.sealed && r.sealed[set.set] == nil {
			t, err := r.tree.hide(ctx, set.set.carried)
			if err != nil {
				return err
			}
			r.sealed[set.set] = t
		}
	}
	return nil
}

// hide returns t without the changes at names: the file or link that the head has there
// shows. Above another head than they were made over there may be no such directory, and then no such change.
func (t *tree) hide(ctx context.Context, names []Name) (*tree, error) {
	for _, name := range names {
		out, dir, err := t.edit(ctx, name.Parent())
		switch {
		case err != nil && isMisfit(err):
			continue
		case err != nil:
			return nil, err
		}
		below, err := t.baseChild(ctx, dir, name.Base())
		if err != nil {
			return nil, err
		}
		if kid := dir.kids.get(name.Base()); kid != nil {
			out.grown += below.bytes() - kid.bytes()
		}
		switch {
		case below != nil && below.typ == TypeDir:
			// The head has a directory there that was removed: the file that waits for its
			// rename could not be put in its place again.
			dir.setKid(name.Base(), &node{})
		default:
			dir.kids = dir.kids.without(name.Base())
		}
		t = out
	}
	return t, nil
}

// hold counts the operations of pending sets that need a spool file, and returns by how many bytes holes are more.
func (q *sequencer) hold(o *op) (hole int64) {
	if o.content != nil && o.content.spool != 0 {
		q.spooled[o.content.spool]++
	}
	return q.holes.hold(o)
}

// forget marks the spool files of a committed set for removal, but for those that a later
// set goes on with, and returns by how many bytes holes are less.
func (s *share) forget(set *changeSet) (hole int64) {
	for _, o := range set.ops {
		hole += s.seq.holes.release(o)
		if o.content == nil || o.content.spool == 0 {
			continue
		}
		id := o.content.spool
		if s.seq.spooled[id]--; s.seq.spooled[id] <= 0 {
			delete(s.seq.spooled, id)
			s.seq.free = append(s.seq.free, id)
		}
	}
	return hole
}

// trimBytes is how large the journal may grow before a commit trims it: trimming means
// writing the partials, and what is known of cut-off overwrites, again and removing files, so it is not for every small commit.
const trimBytes = 8 << 20

// trimAt is that size. With a small spool it is less, so that what the journals of all
// shares still hold of committed changes leaves room for new ones.
func (s *share) trimAt() int64 {
	var shares int64
	for _, sh := range s.system.allShares() {
		if sh.source == nil {
			shares++
		}
	}
	return min(trimBytes, s.system.cfg.Limits.SpoolBytes/(16*max(shares, 1)))
}

// noteCommit writes down that a set is in a snapshot, and frees what that set held. When
// the note cannot be written, the header of the snapshot says the same at recovery, if one was
// made now; the note is tried again with the next batch. It reports whether the disk is full.
func (s *share) noteCommit(done committedRecord) (full bool) {
	trim := s.journal.Bytes() >= s.trimAt()
	records := append([][]byte(nil), s.seq.lost...)
	if trim {
		for _, p := range s.uploads.partials() {
			records = append(records, (&op{kind: opPartial, time: p.time, partial: &p}).encode())
		}
		for k, at := range s.uploads.cutOff(time.Now()) {
			records = append(records, (&op{kind: opTorn, time: at, user: k.user, name: k.name}).encode())
		}
	}
	note := (&op{kind: opCommitted, time: time.Now().UTC(), commit: &done}).encode()
	_, err := s.journal.Append(append(records, note), true)
	s.noteJournal(err)
	if err != nil {
		s.seq.lost = append(append(s.seq.lost, s.seq.unsynced...), note)
		s.seq.unsynced = nil
		return disk.IsFull(err)
	}
	s.seq.unsynced, s.seq.lost = nil, nil
	s.removeFreed()
	if trim {
		if err := s.journal.Trim(journalPos(done.upTo)); err != nil {
			s.log.Warn("journal cannot be trimmed", "share", s.name, "err", err)
		}
	}
	s.pulse()
	return false
}

// releaseFreed removes the spool files of committed sets once the note of their commit,
// which had to be written again, is durable.
func (s *share) releaseFreed() {
	if len(s.seq.lost)+len(s.seq.unsynced) == 0 {
		s.removeFreed()
	}
}

func (s *share) removeFreed() {
	for _, id := range s.seq.free {
		if err := s.spool.Remove(id); err != nil {
			s.log.Warn("spool file cannot be removed", "share", s.name, "err", err)
		}
	}
	s.seq.free = nil
}
