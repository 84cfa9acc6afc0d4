package vfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/vfs/internal/journal"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// Recovery says what opening a share found.
type Recovery struct {
	Share    string
	Changes  int  // accepted operations that no snapshot holds yet
	Partials int  // uploads that can be resumed
	Removed  int  // leftovers of the spool that were removed
	Away     bool // the store could not be reached; the head is opened when it is back
	Headless bool // the changes wait for their head, which cannot be read
}

// openShare opens a share's journal and spool and brings its live tree back: the head
// and, replayed above it, what was accepted since.
func openShare(ctx context.Context, sys *System, cfg ShareConfig) (_ *share, rec Recovery, err error) {
	cfg = cfg.withDefaults()
	rec.Share = cfg.Name
	if cfg.Source {
		s, err := openSource(sys, cfg)
		if err != nil {
			return nil, rec, fmt.Errorf("source %s: %w", cfg.Name, err)
		}
		return s, rec, nil
	}
	s, err := newShare(ctx, sys, cfg)
	if err != nil {
		return nil, rec, fmt.Errorf("share %s: %w", cfg.Name, err)
	}
	defer func() {
		if err != nil {
			sys.intakes.remove(s.intake)
			err = errors.Join(fmt.Errorf("share %s: %w", cfg.Name, err), s.closeFiles())
		}
	}()
	ops, err := s.openJournal()
	if err != nil {
		return nil, rec, err
	}
	if err := s.openSpool(ops); err != nil {
		return nil, rec, err
	}
	if err := s.recover(ctx, ops, &rec); err != nil {
		return nil, rec, err
	}
	go s.sequence()
	s.startCommitter()
	return s, rec, nil
}

// newShare returns a share without files.
func newShare(ctx context.Context, sys *System, cfg ShareConfig) (*share, error) {
	now := time.Now()
	s := &share{
		system: sys, name: cfg.Name, log: sys.log, started: now.UTC(), begun: now,
		uploads:  newUploads(),
		aheads:   newAheads(),
		requests: make(chan *request, queueLength),
		stop:     make(chan struct{}),
		ended:    make(chan struct{}),
		changed:  make(chan struct{}, 1),
	}
	s.uploads.idle = s.pulse
	s.intake = sys.intakes.add(s.pulse)
	s.cfg.Store(&cfg)
	s.ledger.open = newChangeSet(1)
	s.seq.ctx = context.WithoutCancel(ctx)
	s.seq.spooled, s.seq.holes = map[spool.ID]int{}, holes{}
	var err error
	if s.views, err = newViews(cfg.Name, sys.cfg.Repository, sys.log); err != nil {
		return nil, err
	}
	s.id, err = loadID(sys.cfg.Disk, s.dir(""), shareIDName)
	return s, err
}

// dir is where the share keeps something in the data directory.
func (s *share) dir(what string) string {
	return filepath.Join(s.system.cfg.DataDir, sharesDir, s.name, what)
}

// replayed is an operation found in the journal.
type replayed struct {
	pos journal.Position
	op  *op
}

// openJournal opens the journal and returns what it holds, committed or not.
func (s *share) openJournal() ([]replayed, error) {
	key, err := s.system.key("journal", s.id)
	if err != nil {
		return nil, err
	}
	s.journal, err = journal.Open(journal.Config{
		Disk: s.system.cfg.Disk, Dir: s.dir("journal"), Key: key, Failpoint: s.system.cfg.Failpoint,
	})
	if err != nil {
		return nil, err
	}
	var ops []replayed
	for r, err := range s.journal.Records() {
		if err != nil {
			return nil, err
		}
		o, err := decodeOp(r.Payload)
		if err != nil {
			return nil, fmt.Errorf("journal record %d: %w", r.Pos, err)
		}
		if o.kind == opCommitted {
			s.ledger.last = *o.commit
			s.seq.version = max(s.seq.version, o.commit.version)
		}
		s.seq.version = max(s.seq.version, o.version)
		ops = append(ops, replayed{r.Pos, o})
	}
	return ops, nil
}

// openSpool opens the spool. No file gets a number that the journal knows already.
func (s *share) openSpool(ops []replayed) error {
	var highest spool.ID
	for _, r := range ops {
		if r.op.content != nil {
			highest = max(highest, r.op.content.spool)
		}
		if r.op.partial != nil {
			highest = max(highest, r.op.partial.spool)
		}
	}
	key, err := s.system.key("spool", s.id)
	if err != nil {
		return err
	}
	s.spool, err = spool.Open(spool.Config{
		Disk: s.system.cfg.Disk, Dir: s.dir("spool"), Key: key, After: highest,
		InlineBytes: s.system.cfg.Limits.InlineBytes, Failpoint: s.system.cfg.Failpoint,
	})
	return err
}

// closeFiles closes what is open of journal and spool.
func (s *share) closeFiles() error {
	var errs []error
	if s.spool != nil {
		errs = append(errs, s.spool.Close())
	}
	if s.journal != nil {
		errs = append(errs, s.journal.Close())
	}
	return errors.Join(errs...)
}

// recover replays the journal over the head.
func (s *share) recover(ctx context.Context, ops []replayed, rec *Recovery) error {
	noted := s.ledger.last
	away, err := s.findHead(ctx, sealsOf(ops))
	if err != nil {
		return err
	}
	rec.Away = away
	// A journal that has lost its newest records must not give out again what a snapshot
	// says it holds.
	s.journal.Skip(journalPos(s.ledger.last.upTo))
	t, unread, err := s.headTree(ctx, away)
	if err != nil {
		return err
	}
	live, err := s.replay(ctx, t, ops, s.ledger.last.lenient || t.lossy())
	if err != nil {
		return err
	}
	rec.Headless = s.headless.Load() != nil
	if unread != nil && !rec.Headless { // nothing else says so
		s.log.Error("the last snapshot of a share cannot be read, and neither can its files until it can; if the store can be reached, "+
			"gateway scrub names what is damaged or missing, and gateway scrub --repair gets it back from a copy",
			"share", s.name, "snapshot", s.ledger.last.id.String(), "err", unread)
	}
	full := false
	if s.ledger.last != noted {
		// The store may be away at the next start, which could not find this out again: what was accepted over the head that was
		// found belongs above that one, and of what it has the spool files go below.
		s.ledger.last.version = s.seq.version
		full = s.noteCommit(s.ledger.last)
	}
	keep := map[spool.ID]bool{}
	for id := range live {
		keep[id] = true
	}
	partials := s.uploads.partials()
	for _, p := range partials {
		keep[p.spool] = true
	}
	rec.Partials = len(partials)
	s.keepUnnoted(ops, noted.upTo, keep)
	if rec.Removed, err = s.spool.Keep(keep); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if full {
		s.noteOnFullDisk()
	}
	for _, set := range s.ledger.sealed {
		rec.Changes += len(set.ops)
	}
	rec.Changes += len(s.ledger.open.ops)
	return nil
}

// keepUnnoted keeps the spool files of changes behind upTo, which are in a snapshot, until the journal has taken the note that says so:
// those that have the most bytes are freed first.
func (s *share) keepUnnoted(ops []replayed, upTo uint64, keep map[spool.ID]bool) {
	if len(s.seq.lost) == 0 {
		return
	}
	sizes := map[spool.ID]int64{}
	for _, r := range ops {
		if c := r.op.content; c != nil && c.spool != 0 && uint64(r.pos) > upTo && !keep[c.spool] {
			sizes[c.spool] = max(sizes[c.spool], covered(c.extents))
		}
	}
	unnoted := slices.SortedFunc(maps.Keys(sizes), func(a, b spool.ID) int { return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b)) })
	for _, id := range unnoted {
		keep[id] = true
	}
	s.seq.free = append(s.seq.free, unnoted...)
}

// noteOnFullDisk gives up kept spool files one by one until the journal takes the note of their commit: without space for that nothing would
// be taken, and the header of the snapshot says the same unless the store is away at the next start.
func (s *share) noteOnFullDisk() {
	for len(s.seq.lost) > 0 {
		_, err := s.journal.Append(s.seq.lost, true)
		s.noteJournal(err)
		switch {
		case err == nil:
			s.seq.lost = nil
			s.removeFreed()
			return
		case len(s.seq.free) == 0 || !disk.IsFull(err):
			return // it is tried again with the next batch
		}
		id := s.seq.free[0]
		s.seq.free = s.seq.free[1:]
		if err := s.spool.Remove(id); err != nil {
			s.log.Warn("spool file cannot be removed", "share", s.name, "err", err)
		}
	}
}

// headTree opens the head, or stands in for it while it cannot be read; unread is why that is, unless the store is known to be away.
func (s *share) headTree(ctx context.Context, away bool) (t *tree, unread, err error) {
	id := s.ledger.last.id
	if id.IsZero() {
		t, err = newTree(ctx, id, nil, time.Now().UTC())
		return t, nil, err
	}
	if !away {
		if t, unread = s.openHead(ctx, id); unread == nil || !isUnread(unread) {
			return t, nil, unread
		}
	}
	base := &awayView{repo: s.system.cfg.Repository, id: id, gone: func() { s.loseHead(id) }}
	if t, err := newTree(ctx, id, base, time.Now().UTC()); err == nil {
		return t, nil, nil // its names are at hand
	}
	return unknownTree(id, base, s.ledger.last.time), unread, nil
}

// replay applies what the head does not have, rebuilds the sets and the upload table, and
// returns the spool files that are still needed. While what it needs of the head cannot be read, the sets are rebuilt
// without their trees, and wait for the head: see settle.
func (s *share) replay(ctx context.Context, t *tree, ops []replayed, lenient bool) (map[spool.ID]*content, error) {
	live := map[spool.ID]*content{}
	var unread error // why nothing is applied any more
	applied := func(next *tree, err error) error {
		if err != nil && isUnread(err) {
			unread, next, err = err, nil, nil
		}
		t = next
		return err
	}
	for i, r := range ops {
		o := r.op
		s.uploads.made.recall(o, s.started)
		if s.uploads.learn(o) {
			continue
		}
		switch o.kind {
		case opPut:
			s.uploads.published(o.user, o.name, o.content.spool)
		case opRename:
			s.uploads.settleMove(s.uploads.move(o.name, o.to))
		}
		s.uploads.mend(o)
		if uint64(r.pos) <= s.ledger.last.upTo {
			continue
		}
		if o.kind == opSeal {
			if err := applied(t, s.replaySeal(ctx, t, r, ops[i+1:])); err != nil {
				return nil, err
			}
			continue
		}
		if o.kind == opCommitted {
			continue
		}
		if o.content != nil {
			o.content.written(r.pos)
			if o.content.spool != 0 {
				live[o.content.spool] = o.content
			}
		}
		if unread == nil {
			if err := applied(s.reapply(ctx, t, o, s.ledger.open.number, lenient)); err != nil {
				return nil, fmt.Errorf("replay journal record %d (%v %s): %w", r.pos, o.kind, o.name, err)
			}
		}
		s.seq.temps = s.seq.temps || s.isTemp(o.name) || !o.to.IsZero() && s.isTemp(o.to)
		s.ledger.open.add(o, s.isTemp)
		s.ledger.holes += s.seq.hold(o)
		s.ledger.bytes += nodeCost
		s.intake.made(1)
	}
	if unread != nil {
		s.behead(&headless{unread})
	} else {
		s.live.Store(t)
	}
	return live, s.checkSpool(live)
}

// replaySeal closes the open set as the sequencer did. What it carried over follows in the
// journal, in the seal's own batch: settings and the clock may say something else by now. The set gets its tree of t, if
// there is one and the head can be read; that it cannot is an error of a set that is closed.
func (s *share) replaySeal(ctx context.Context, t *tree, r replayed, after []replayed) error {
	set := s.ledger.open
	if len(set.ops) == 0 {
		return nil
	}
	for _, next := range after {
		if next.op.kind != opPut || next.op.mask&keepDirTime == 0 {
			break
		}
		set.carried = append(set.carried, next.op.name)
	}
	var err error
	if t != nil {
		if set.tree, err = t.hide(ctx, set.carried); err != nil && !isUnread(err) {
			return err
		}
	}
	set.upTo, set.reason, set.sealed = r.pos, r.op.reason, r.op.time
	set.tried = true // perhaps: when the store is away now, nobody knows
	s.ledger.sealed = append(s.ledger.sealed, set)
	s.ledger.open = newChangeSet(set.number + 1)
	return err
}

// checkSpool makes sure that every acknowledged upload still has its bytes.
func (s *share) checkSpool(live map[spool.ID]*content) error {
	for _, id := range slices.Sorted(maps.Keys(live)) {
		r, err := s.spool.Reader(id, live[id].size, live[id].extents...)
		if err != nil {
			err = fmt.Errorf("spool file %d of an accepted upload: %w", id, err)
			switch {
			case !isDamage(&spoolError{err}):
				return err
			case s.system.cfg.LeaveOutDamaged:
				continue // the next commit tells which file it is
			}
			return fmt.Errorf("%w: %w", ErrUploadDamaged, err)
		}
		if err := r.Close(); err != nil {
			return fmt.Errorf("spool file %d: %w", id, err)
		}
	}
	return nil
}

// nothing reports whether there was nothing to recover.
func (r Recovery) nothing() bool {
	return r.Changes == 0 && r.Partials == 0 && r.Removed == 0 && !r.Away && !r.Headless
}
