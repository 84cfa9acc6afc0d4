package vfs

import (
	"context"
	"errors"
	"path"
	"slices"
	"time"

	"github.com/snapgate/gateway/vfs/internal/spool"
)

// request is something that the sequencer does: an operation, or a function that wants to
// be alone with the share's state.
type request struct {
	op    *op
	run   func() error
	asked time.Time  // when a session asked for op
	done  chan error // capacity 1
}

const (
	// queueLength bounds the requests that wait for the sequencer; more block their sender.
	queueLength = 512
	// lazySync is how long an acknowledged attribute change may stay unsynced.
	lazySync = time.Second
	// ownDelete is the age up to which a creator deletes its version again without that
	// the version gets a snapshot: probes and lock files. It counts from when the creator was
	// told of the version to when it asks for the deletion: a slow disk does not add to it.
	ownDelete = 2 * time.Second
	// maxCarried and maxCarriedBytes bound what a seal carries over: files, and bytes of
	// those that ride in the journal.
	maxCarried      = 10_000
	maxCarriedBytes = 16 << 20
)

// sequencer is the state that the sequencer's goroutine keeps to itself.
type sequencer struct {
	ctx     context.Context // of lookups in the head; ends with the share
	version uint64          // the highest version number given
	temps   bool            // the tree may hold names that wait for their rename
	// unsynced are records that the journal has and the disk may not; lost are those that a
	// failed flush took along: they are written again with the next batch.
	unsynced, lost [][]byte
	// free are spool files that may go once the note of their commit is durable.
	free []spool.ID
	// spooled counts the pending operations that need a spool file.
	spooled map[spool.ID]int
	holes   holes // of the pending operations
	// sealAt is how many changes the open set has when sealing it is tried again.
	sealAt int
	// failing is set while the journal cannot be written, to log it once.
	failing bool
}

// sequence runs until the share stops; what was handed over before is still done.
func (s *share) sequence() {
	defer close(s.ended)
	flush := time.NewTimer(lazySync)
	defer flush.Stop()
	for {
		select {
		case r := <-s.requests:
			s.process(s.drain(r))
		case <-flush.C:
			if len(s.seq.unsynced)+len(s.seq.lost) > 0 {
				s.flush(&stage{tree: s.current(), version: s.seq.version, sync: true})
			}
			flush.Reset(lazySync)
		case <-s.stop:
			for {
				select {
				case r := <-s.requests:
					s.process(s.drain(r))
				default:
					if len(s.seq.unsynced)+len(s.seq.lost) > 0 {
						s.flush(&stage{tree: s.current(), version: s.seq.version, sync: true})
					}
					return
				}
			}
		}
	}
}

// drain returns first and everything that waits behind it: they will share one flush.
func (s *share) drain(first *request) []*request {
	batch := []*request{first}
	for len(batch) < queueLength {
		select {
		case r := <-s.requests:
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// stage is a batch on its way: accepted, not yet durable.
type stage struct {
	tree    *tree
	version uint64
	ops     []*op
	reqs    []*request // reqs[i] waits for ops[i]; nil when nobody does
	moves   []*moved   // what has followed its renames
	holes   int64      // bytes of its files that nobody has sent
	sync    bool
}

func (st *stage) add(t *tree, o *op, r *request) {
	st.tree = t
	st.ops = append(st.ops, o)
	st.reqs = append(st.reqs, r)
	if o.kind == opPut {
		st.holes += o.content.hole()
	}
	switch o.kind {
	case opSetattr, opPartial, opPartialGone, opTorn, opWhole:
		st.sync = st.sync || o.flush
	default:
		st.sync = true
	}
}

// partialsBelow reports whether something in the batch is about a partial below a directory.
func (st *stage) partialsBelow(dir Name) bool {
	return slices.ContainsFunc(st.ops, func(o *op) bool {
		return o.partial != nil && o.partial.name != dir && o.partial.name.HasPrefix(dir)
	})
}

// mends reports whether the principal of an opTorn has, in the batch, put something whole at its name.
func (st *stage) mends(torn *op) bool {
	name := torn.name
	for _, o := range slices.Backward(st.ops) {
		at := o.to
		if o.kind == opPut || o.kind == opWhole {
			at = o.name
		}
		if o.user == torn.user && at == name && !(o.kind == opRename && torn.onto) {
			return true
		}
		if o.kind == opRename {
			name = name.Rebase(o.to, o.name) // what it had before
		}
	}
	return false
}

func (s *share) newStage() *stage {
	return &stage{tree: s.current(), version: s.seq.version}
}

// process carries out a batch of requests.
func (s *share) process(reqs []*request) {
	st := s.newStage()
	for _, r := range reqs {
		if r.run != nil {
			s.flush(st)
			r.done <- r.run()
			st = s.newStage()
			continue
		}
		var err error
		if st, err = s.accept(st, r); err != nil {
			r.done <- err
		}
	}
	s.flush(st)
	s.sealFull()
}

// sealFull closes the open set when it has as many changes as a commit may take at a time.
func (s *share) sealFull() {
	n := len(s.ledger.open.ops)
	if n < max(setChanges, s.seq.sealAt) {
		return
	}
	s.seq.sealAt = n + setChanges/16 // if it fails, not with every batch
	if err := s.sealNow(reasonBacklog); err != nil {
		s.log.Warn("a full change set cannot be sealed", "share", s.name, "err", err)
		return
	}
	s.seq.sealAt = 0
}

// accept adds an operation to the batch, or says why not. When the operation destroys a
// version that must get a snapshot of its own, the batch is flushed and the set sealed
// first; the batch to go on with is returned.
func (s *share) accept(st *stage, r *request) (*stage, error) {
	o := r.op
	if h := s.headless.Load(); h != nil && o.kind.changes() {
		return st, h.refusal(o.kind.String(), o.name)
	}
	o.time = time.Now().UTC()
	if o.upload != nil {
		o.name = o.upload.name()
	}
	if o.kind == opRename && st.partialsBelow(o.name) {
		s.flush(st) // the table has them then, and the rename moves them
		st = s.newStage()
	}
	if o.parents {
		if err := s.addParents(st, o); err != nil {
			return st, err
		}
	}
	if o.check != nil {
		if err := o.check(st.tree); err != nil {
			return st, err
		}
	}
	if o.kind == opTorn && st.mends(o) {
		return st, errNotTorn
	}
	if err := s.refuseOpenBelow(st.tree, o); err != nil {
		return st, err
	}
	if destroys, err := s.destroys(st.tree, o, r.asked, s.ledger.open.number); err != nil {
		return st, err
	} else if destroys {
		// Try first: an operation that will be refused seals nothing.
		t, err := st.tree.apply(s.seq.ctx, o, 0)
		if err == nil {
			err = s.fits(st, o, t)
		}
		if err != nil {
			return st, err
		}
		s.flush(st)
		if err := s.sealNow("version"); err != nil {
			return s.newStage(), err
		}
		st = s.newStage()
		if o.check != nil { // what was before it in the batch may not have happened
			if err := o.check(st.tree); err != nil {
				return st, err
			}
		}
	}
	return st, s.applyTo(st, o, r)
}

// applyTo applies o to the batch's tree and adds it to the batch.
func (s *share) applyTo(st *stage, o *op, r *request) error {
	switch o.kind {
	case opPut, opMkdir, opSymlink, opLink:
		st.version++
		o.version = st.version
	}
	t, err := st.tree.apply(s.seq.ctx, o, s.ledger.open.number)
	if err == nil {
		err = s.fits(st, o, t)
	}
	if err != nil {
		return err
	}
	if t == st.tree && o.kind == opRename {
		r.done <- nil // onto itself: nothing to do
		return nil
	}
	if o.kind == opRename {
		s.uploads.leave(o.name)
		s.uploads.departs(o)
		st.moves = append(st.moves, s.uploads.move(o.name, o.to))
	}
	st.add(t, o, r)
	return nil
}

// addParents makes the directories above o's place that are missing.
func (s *share) addParents(st *stage, o *op) error {
	at := o.name
	if !o.to.IsZero() {
		at = o.to
	}
	dir := Root()
	for _, elem := range at.Parent().Elems() {
		dir = dir.Join(elem)
		n, err := st.tree.lookup(s.seq.ctx, dir)
		switch {
		case err == nil && n.typ == TypeDir:
			continue
		case err == nil:
			return errKind(o.kind.String(), dir, KindNotDir)
		case KindOf(err) != KindNotExist:
			return err
		}
		mk := &op{kind: opMkdir, name: dir, time: o.time, user: o.user, protocol: o.protocol, session: o.session}
		mk.attr.Mode, mk.attr.ModTime = 0o755, o.time
		if err := s.applyTo(st, mk, nil); err != nil {
			return err
		}
	}
	return nil
}

// refuseOpenBelow refuses to take a directory away while an upload is open below it.
func (s *share) refuseOpenBelow(t *tree, o *op) error {
	at := o.name
	switch {
	case o.kind == opRename && !o.noReplace && o.name != o.to:
		at = o.to
	case o.kind != opRemove:
		return nil
	}
	n, err := t.lookup(s.seq.ctx, at)
	if err != nil || n.typ != TypeDir {
		return nil // apply will say what is wrong
	}
	if !s.uploads.leave(at) {
		return errKind(o.kind.String(), at, KindBusy)
	}
	return nil
}

// destroys reports whether o takes away a completed version that neither a snapshot nor a
// sealed set holds, but only the set with the number open. asked is when a session asked for o.
func (s *share) destroys(t *tree, o *op, asked time.Time, open uint64) (bool, error) {
	if s.config().Versions == VersionsLast {
		return false, nil
	}
	at := o.name
	switch o.kind {
	case opPut, opRemove:
	case opRename:
		if o.name == o.to {
			return false, nil
		}
		at = o.to
	default:
		return false, nil
	}
	n, err := t.lookup(s.seq.ctx, at)
	if err != nil {
		if k := KindOf(err); k == KindNotExist || k == KindNotDir {
			return false, nil
		}
		return false, err
	}
	if n.typ != TypeFile || n.content == nil || n.size == 0 || n.set != open || s.isTemp(at) {
		return false, nil
	}
	if o.kind != opRemove || o.session == 0 || n.session != o.session {
		return true, nil
	}
	return asked.Sub(s.uploads.made.since(n.version, n.born)) >= ownDelete, nil
}

// flush makes a batch durable, then visible, then answers. When the journal cannot be
// written, nothing of the batch has happened.
func (s *share) flush(st *stage) {
	defer s.uploads.arrived()
	records := make([][]byte, 0, len(s.seq.lost)+len(st.ops))
	records = append(records, s.seq.lost...)
	for _, o := range st.ops {
		records = append(records, o.encode())
	}
	if len(records) == 0 && !(st.sync && len(s.seq.unsynced) > 0) {
		return
	}
	var first uint64
	pos, err := s.journal.Append(records, st.sync)
	if err == nil {
		first = uint64(pos) + uint64(len(s.seq.lost))
	}
	s.noteJournal(err)
	if err != nil {
		s.seq.lost = append(s.seq.lost, s.seq.unsynced...)
		s.seq.unsynced = nil
		for _, m := range slices.Backward(st.moves) {
			s.uploads.moveBack(m)
		}
		for i, r := range st.reqs {
			st.ops[i].doubtful = true
			if r != nil {
				r.done <- journalError(st.ops[i].kind.String(), st.ops[i].name, err)
			}
		}
		return
	}
	if st.sync {
		s.seq.unsynced, s.seq.lost = nil, nil
	} else {
		s.seq.unsynced = append(s.seq.unsynced, records...)
		s.seq.lost = nil
	}
	s.publish(st, first)
}

// publish makes a journalled batch visible and answers those who wait for it.
func (s *share) publish(st *stage, first uint64) {
	s.claims.mu.Lock()
	s.mu.Lock()
	for i, o := range st.ops {
		if o.upload != nil {
			o.upload.unclaim()
			o.upload.replaced = o.content.size // of handles that go on
		}
		s.note(o, first+uint64(i))
	}
	s.seq.free = append(s.seq.free, s.doubtful...)
	s.doubtful = nil
	s.mu.Unlock()
	for _, m := range st.moves {
		s.uploads.settleMove(m)
	}
	s.seq.version = st.version
	s.live.Store(st.tree)
	s.claims.mu.Unlock()
	for _, r := range st.reqs {
		if r != nil {
			r.done <- nil
		}
	}
	s.releaseFreed()
	s.pulse()
}

// note enters a journalled operation into the ledger and the upload table. s.mu is held.
func (s *share) note(o *op, pos uint64) {
	if s.uploads.learn(o) {
		return
	}
	switch o.kind {
	case opSeal, opCommitted:
		return
	case opPut:
		if o.content.inRecord {
			o.content.written(journalPos(pos))
		}
		s.uploads.published(o.user, o.name, o.content.spool)
	}
	s.uploads.mend(o)
	s.seq.temps = s.seq.temps || s.isTemp(o.name) || !o.to.IsZero() && s.isTemp(o.to)
	o.check, o.upload = nil, nil // they would keep the session alive
	o.noReplace = false          // it was decided, and a lower head may have the name
	s.ledger.open.add(o, s.isTemp)
	s.ledger.holes += s.seq.hold(o)
	s.ledger.bytes += nodeCost
	if o.room == roomTaken {
		o.room = roomKept
	} else {
		s.intake.made(1)
	}
}

// noteJournal logs when the journal stops and starts to work.
func (s *share) noteJournal(err error) {
	if s.seq.failing != (err != nil) {
		s.mu.Lock()
		s.trouble.journal = err
		s.mu.Unlock()
	}
	switch {
	case err != nil && !s.seq.failing:
		s.seq.failing = true
		s.log.Error("journal cannot be written, changes are refused", "share", s.name, "err", err)
	case err == nil && s.seq.failing:
		s.seq.failing = false
		s.log.Info("journal can be written again", "share", s.name)
	}
}

// sealNow closes the open set. Names that wait for their rename are left out of it and
// carried over into the next one, as fresh records behind the seal.
func (s *share) sealNow(reason string) error {
	set := s.ledger.open
	if len(set.ops) == 0 {
		return nil
	}
	if h := s.headless.Load(); h != nil { // the live tree lacks them
		return h.refusal("seal", Name{})
	}
	now := time.Now().UTC()
	t := s.current()
	carry, err := s.carry(t, now)
	if err != nil {
		return err
	}
	// Everything that can fail comes before the record: from then on the set is closed.
	next := newChangeSet(set.number + 1)
	carried := make([]Name, len(carry))
	for i, o := range carry {
		carried[i] = o.name
	}
	sealed, err := t.hide(s.seq.ctx, carried)
	if err != nil {
		return err
	}
	for _, o := range carry {
		if t, err = t.apply(s.seq.ctx, o, next.number); err != nil {
			return err
		}
	}
	records := append([][]byte(nil), s.seq.lost...)
	seal := &op{kind: opSeal, time: now, reason: reason}
	records = append(records, seal.encode())
	for _, o := range carry {
		records = append(records, o.encode())
	}
	first, err := s.journal.Append(records, true)
	s.noteJournal(err)
	if err != nil {
		s.seq.lost = append(s.seq.lost, s.seq.unsynced...)
		s.seq.unsynced = nil
		return journalError("seal", Name{}, err)
	}
	sealPos := uint64(first) + uint64(len(s.seq.lost))
	s.seq.unsynced, s.seq.lost = nil, nil

	set.upTo, set.reason, set.sealed = journalPos(sealPos), reason, now
	set.tree, set.carried = sealed, carried
	s.mu.Lock()
	s.ledger.sealed = append(s.ledger.sealed, set)
	s.ledger.open = next
	for i, o := range carry {
		s.note(o, sealPos+1+uint64(i))
	}
	s.mu.Unlock()
	s.live.Store(t)
	s.pulse()
	return nil
}

// carry returns puts that repeat the uncommitted files whose names wait for a rename. While sets wait the live tree stays
// above an older head, with files that are committed by now, and what the spool had of those may be gone: they are
// committed under their new names as they stand.
func (s *share) carry(t *tree, now time.Time) ([]*op, error) {
	if !s.seq.temps {
		return nil, nil
	}
	var out []*op
	t.eachPending(func(name Name, n *node) bool {
		if !s.isTemp(name) || now.Sub(n.born) >= s.config().TempMaxAge {
			return true
		}
		if _, _, stored := n.content.where(); stored.path != "" {
			return true
		}
		o := &op{
			kind: opPut, name: name, attr: n.attr, version: n.version, time: n.born,
			session: n.session, content: n.content, mask: keepDirTime,
		}
		out = append(out, o)
		return true
	})
	out = mayWait(out, min(maxCarried, s.intake.most()/4))
	for _, o := range out {
		if o.content.inRecord {
			if err := o.content.reload(s); err != nil {
				return nil, err
			}
		}
	}
	s.seq.temps = len(out) > 0
	return out, nil
}

// mayWait returns the newest of the files that wait for their rename, as many as a seal may
// repeat: every seal writes them again, and those that ride in the journal with their bytes.
// The others are committed as they stand.
func mayWait(files []*op, most int) []*op {
	slices.SortFunc(files, func(a, b *op) int { return b.time.Compare(a.time) })
	var inline int64
	for i, o := range files {
		if o.content.inRecord {
			inline += o.content.size
		}
		if i == most || inline > maxCarriedBytes {
			return files[:i]
		}
	}
	return files
}

// eachPending calls f for every file whose bytes no snapshot holds yet.
func (t *tree) eachPending(f func(name Name, n *node) bool) {
	eachPending("/", t.root, f)
}

// eachPending returns false when f did.
func eachPending(at string, n *node, f func(name Name, n *node) bool) bool {
	next := n.kids.after("")
	for kid, ok := next(); ok; kid, ok = next() {
		name := path.Join(at, kid.name)
		switch {
		case kid.node.typ == TypeDir:
			if !eachPending(name, kid.node, f) {
				return false
			}
		case kid.node.typ == TypeFile && kid.node.content != nil && kid.node.set != 0:
			if !f(Name{name}, kid.node) {
				return false
			}
		}
	}
	return true
}

// reload brings inline bytes back into memory for a second record.
func (c *content) reload(s *share) error {
	r, err := s.openContent(s.seq.ctx, c)
	if err != nil {
		return err
	}
	data := make([]byte, c.size)
	if err := readPiece(r, data, 0); c.size > 0 && err != nil {
		return errors.Join(err, r.Close())
	}
	c.mu.Lock()
	c.inline = data
	c.mu.Unlock()
	return r.Close()
}
