package vfs

import (
	"context"
	"errors"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// errComplete ends a partial whose name has a complete file: nobody could resume it.
var errComplete = errors.New("a complete file has the name")

// publish makes what f and the handles that share the upload wrote a complete version of
// its name, durably, and ends f. When it fails, the upload has become a partial, or is gone
// when there was nothing to keep. done is false when there was nothing to publish. room is
// that of its change, and what has become of it.
func (u *upload) publish(ctx context.Context, f *File, room roomState) (done bool, _ roomState, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.usable(f); err != nil {
		return false, room, err
	}
	u.background.Wait() // nothing starts it while mu is held
	delete(u.handles, f)
	if !u.changed {
		if len(u.handles) > 0 {
			return false, room, nil
		}
		return false, room, u.leave(u.discard())
	}
	var o *op
	if err = u.failure(); err == nil {
		o, err = u.putOp(ctx, f)
	}
	if err == nil && u.repeats(ctx, f, o) {
		u.whole(ctx)
		return true, room, u.leave(u.discard())
	}
	if err == nil {
		o.room = room
		err = u.share.do(ctx, o)
		room = o.room
	}
	if err != nil && KindOf(err) == KindChanged {
		return false, room, joinClose(err, u.leave(u.discard())) // somebody else's file is not to be gone on with
	}
	if err != nil {
		u.doubtful = o != nil && o.doubtful
		return false, room, joinClose(err, u.keep(ctx))
	}
	u.share.uploads.made.add(o.version, u.user, f.session.id, time.Now())
	f.version, f.content, f.bytes, f.size = o.version, o.content, o.content.fingerprint(), o.content.size
	if err := u.letGo(o.content); err != nil {
		// The version is safe: it was synced before.
		f.session.log.Warn("closing a spool file", "share", u.share.name, "err", err)
	}
	if len(u.handles) > 0 {
		u.goOn(o.content)
		return true, room, u.share.sweep()
	}
	u.done, u.state = o.content, uploadPublished
	return true, room, u.leave(nil)
}

// letGo closes the spool file of a version that has been published; mu is held for writing.
func (u *upload) letGo(c *content) error {
	file := u.file
	u.file, u.ahead = nil, nil
	switch {
	case file == nil:
		return nil
	case c.spool == 0:
		return file.Discard() // the journal or the base has it all
	}
	return file.Close()
}

// goOn lets the handles that are left continue above the version that another one has
// just published; mu is held for writing.
func (u *upload) goOn(c *content) {
	// Closing what was read from before cannot lose anything.
	_ = u.base.close()
	u.base.is(baseRef{}, c)
	u.base.limit = c.size
	u.changed = false
	u.written.Store(0)
	u.unsaved.Store(0)
	u.saved.Store(0)
	u.newest = partial{}
	u.spoolNo.Store(0)
	u.rewrites.Store(false)
	u.noted.Store(false)
	u.share.uploads.settle(u, true)
	u.meta.Lock()
	u.mtime, u.set = false, 0
	u.meta.Unlock()
	// When that does not work now, the first read tries again.
	_ = u.pinBase(context.Background())
}

// leave takes a finished upload out of the table and lets go of what it read from.
func (u *upload) leave(err error) error {
	if u.state == uploadOpen {
		u.state = uploadEnded
	}
	u.ahead.drop()
	u.give()
	u.share.uploads.remove(u)
	return joinClose(joinClose(err, u.base.close()), u.share.sweep())
}

// putOp is the operation that publishes the upload; mu is held for writing.
func (u *upload) putOp(ctx context.Context, f *File) (*op, error) {
	c, err := u.content(ctx)
	if err != nil {
		return nil, err
	}
	u.meta.Lock()
	attr := u.attr
	if !u.mtime {
		attr.ModTime = time.Unix(0, u.quiet.Load()).UTC()
	}
	u.meta.Unlock()
	o := f.session.op(opPut)
	o.name, o.attr, o.content, o.upload = u.name(), attr, c, u
	o.parents = o.name.Parent() == u.root
	may := u.mayPublish(ctx, o, f.session.principal.Perms)
	o.check = func(t *tree) error { return u.inherit(ctx, t, o, may(t)) }
	return o, nil
}

// mayPublish decides, against the tree that the version goes into, whether the principal
// may put it there: the name may have been taken, and the upload renamed, since it was opened. mu is held.
func (u *upload) mayPublish(ctx context.Context, o *op, perms Perm) func(t *tree) error {
	over := u.over
	return func(t *tree) error {
		name, exclusive := u.goesTo()
		o.name, o.noReplace = name, exclusive // what is checked is what is done
		n, err := t.existing(ctx, name)
		switch {
		case err != nil:
			return err
		case over != nil && !over.still(name, n):
			return errKind("close", name, KindChanged)
		case n == nil && !u.onto && !perms.allows(actCreate, false):
			return errKind("close", name, KindPermission)
		case n == nil:
			return nil
		case n.typ == TypeDir:
			return errKind("close", name, KindIsDir)
		case !exclusive && !perms.allows(actOverwrite, false):
			return errKind("close", name, KindPermission)
		}
		return nil
	}
}

// inherit gives the version the attributes of the file that it continues, as they are at
// that moment, but for those that the writer has set. err is passed on.
func (u *upload) inherit(ctx context.Context, t *tree, o *op, err error) error {
	if err != nil || !u.onto {
		return err
	}
	n, err := t.existing(ctx, o.name)
	if err != nil || n == nil || n.typ != TypeFile {
		return err
	}
	u.meta.Lock()
	asked := u.set
	u.meta.Unlock()
	if asked&setMode == 0 {
		o.attr.Mode = n.attr.Mode
	}
	if asked&setUID == 0 {
		o.attr.UID = n.attr.UID
	}
	if asked&setGID == 0 {
		o.attr.GID = n.attr.GID
	}
	return nil
}

// existing is lookup for a name that may be free: the node is nil then.
func (t *tree) existing(ctx context.Context, name Name) (*node, error) {
	n, err := t.lookup(ctx, name)
	if err != nil && KindOf(err) == KindNotExist {
		return nil, nil
	}
	return n, err
}

// content makes the spooled bytes durable and describes them; mu is held for writing.
func (u *upload) content(ctx context.Context) (*content, error) {
	size := u.size.Load()
	c := &content{size: size}
	shown, err := u.settleBase(ctx)
	if err != nil {
		return nil, err
	}
	if shown {
		c.base = u.base.ref
		c.base.size = u.base.limit
		if len(u.file.Extents()) > 0 {
			if err := u.syncFile(true); err != nil {
				return nil, err
			}
			c.spool, c.extents = u.file.ID(), u.file.Extents()
		}
		return c, nil
	}
	if u.file.Size() != size {
		if err := u.file.Truncate(size); err != nil {
			return nil, err
		}
	}
	if data, ok := u.file.Inline(); ok {
		c.inRecord, c.inline = true, data
	} else {
		if err := u.syncFile(false); err != nil {
			return nil, err
		}
		c.spool, c.extents = u.file.ID(), u.file.Extents()
	}
	c.hash, c.hasHash = u.file.Hash()
	u.putAhead(c)
	return c, nil
}

// syncFile makes the spool file durable, moving it to disk with force.
func (u *upload) syncFile(force bool) error {
	if err := u.file.Sync(force); err != nil {
		return err
	}
	u.spoolNo.Store(uint64(u.file.ID()))
	return nil
}

// settleBase reports whether parts of a stored base show through what was written. Of a
// base that no snapshot has yet those parts are copied, since its bytes may move; and
// those of a small file, so that it can ride in the journal.
func (u *upload) settleBase(ctx context.Context) (bool, error) {
	if !u.base.exists() || u.base.limit == 0 {
		return false, nil
	}
	gaps := gapsBelow(u.file.Extents(), u.base.limit)
	if len(gaps) == 0 {
		return false, nil
	}
	if u.base.content != nil {
		if _, _, stored := u.base.content.where(); stored.path != "" {
			u.base.is(stored, u.base.content)
		}
	}
	stored := u.base.ref.path != ""
	if stored && u.size.Load() > int64(u.share.system.cfg.Limits.InlineBytes) {
		return true, nil
	}
	switch err := u.copyUp(ctx, gaps); {
	case err == nil:
		return false, nil
	case stored && errorKind(err) == KindUnavailable && !errors.Is(err, snapshotter.ErrNoSnapshot) && !errors.Is(err, snapshotter.ErrLost):
		return true, nil // the store is away: refer to it
	default:
		return false, err
	}
}

// gapsBelow lists what of [0,limit) no extent covers.
func gapsBelow(xs []spool.Extent, limit int64) []spool.Extent {
	var gaps []spool.Extent
	at := int64(0)
	for _, x := range xs {
		if x.Off >= limit {
			break
		}
		if x.Off > at {
			gaps = append(gaps, spool.Extent{Off: at, Len: x.Off - at})
		}
		at = max(at, x.Off+x.Len)
	}
	if at < limit {
		gaps = append(gaps, spool.Extent{Off: at, Len: limit - at})
	}
	return gaps
}

// copyUp copies parts of the base into the spool file.
func (u *upload) copyUp(ctx context.Context, gaps []spool.Extent) error {
	base, err := u.openBase(ctx)
	if err != nil {
		return err
	}
	buf := make([]byte, copyPiece)
	for _, g := range gaps {
		for off := g.Off; off < g.Off+g.Len; {
			p := buf[:min(int64(len(buf)), g.Off+g.Len-off)]
			if err := u.share.admit(int64(len(p))); err != nil {
				return err
			}
			if err := readPiece(base, p, off); err != nil {
				return err
			}
			if _, err := u.file.WriteAt(p, off); err != nil {
				return err
			}
			off += int64(len(p))
		}
	}
	return nil
}

// abort ends f without publication: when it was the upload's last handle, what is there
// becomes a partial.
func (u *upload) abort(ctx context.Context, f *File) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.usable(f); err != nil {
		return err
	}
	u.background.Wait()
	delete(u.handles, f)
	if len(u.handles) > 0 {
		return nil
	}
	return u.keep(ctx)
}

// keep turns the upload into a partial when there is something to resume, and discards it
// else; mu is held for writing and no checkpoint runs.
func (u *upload) keep(ctx context.Context) error {
	if u.prefix() == 0 || u.file == nil || len(u.file.Extents()) == 0 {
		if u.rewrites.Load() {
			u.tear(ctx)
		}
		return u.leave(u.discard())
	}
	switch err := u.record(ctx, false, false); {
	case err == nil:
		if u.rewrites.Load() {
			u.tear(ctx) // perhaps it was not known that a complete file has the name
		}
		err = u.leave(u.file.Close())
		return joinClose(err, u.share.boundPartials(ctx, u.user))
	case errors.Is(err, errComplete):
		if !u.appends() {
			u.tear(ctx)
		}
		return u.leave(u.discard())
	default:
		if !u.appends() {
			u.tear(ctx)
		}
		if u.file.Lost() {
			return u.leave(joinClose(err, u.keepRecorded()))
		}
		// The journal does not take it. It can be resumed until the process ends.
		if id := u.spoolID(); id != 0 {
			p := u.partial(u.name())
			p.doubtful = u.doubtful
			u.share.uploads.put(p)
		}
		return u.leave(joinClose(err, u.file.Close()))
	}
}

// keepRecorded ends an upload whose spool file could not be flushed: no more of it is kept than a checkpoint
// has, which was flushed before.
func (u *upload) keepRecorded() error {
	p, ok := u.share.uploads.spooled(u.spoolID())
	if !ok || p.size > u.prefix() { // it was cut since
		return u.discard()
	}
	p.doubtful = u.doubtful
	u.share.uploads.put(p)
	return u.file.Close()
}

// tear notes that the upload does not become the file that its name has, and that the principal must
// not go on behind that one; u.mu is held for writing. When the journal does not take it, it is known until the process ends.
func (u *upload) tear(ctx context.Context) {
	if u.over != nil {
		return // what it was for looks before it tries again
	}
	err := u.journalTorn(ctx, true)
	if err == nil || errors.Is(err, errNotTorn) {
		return
	}
	name := u.name()
	if has, err := u.share.current().hasFile(ctx, name); has || err != nil {
		u.share.uploads.tear(u.user, name, time.Now())
	}
}

// errNotTorn says that there is no complete file at the upload's name, or one that its principal has
// sent since.
var errNotTorn = errors.New("nothing is torn")

// journalTorn records that the file at the upload's name is being overwritten, or was about to be. It
// becomes durable with the next flush; flush waits for that.
func (u *upload) journalTorn(ctx context.Context, flush bool) error {
	o := &op{kind: opTorn, user: u.user, flush: flush}
	o.check = func(t *tree) error {
		o.name = u.name()
		if u.table.overtaken(u) {
			return errNotTorn
		}
		o.onto = u.table.follows(u)
		if has, err := t.hasFile(ctx, o.name); !has && err == nil {
			return errNotTorn
		}
		return nil // while nobody can say whether a complete file has the name, one may have it
	}
	return u.share.do(ctx, o)
}

// hasFile reports whether a complete file has the name. An error says that it is not known.
func (t *tree) hasFile(ctx context.Context, name Name) (bool, error) {
	n, err := t.lookup(ctx, name)
	if err == nil {
		return n.typ == TypeFile, nil
	}
	if k := KindOf(err); k == KindNotExist || k == KindNotDir {
		return false, nil
	}
	return false, err
}

// whole notes, for an upload that repeats what the name has, that nothing is torn there. When the journal does
// not take it, it is known until the process ends.
func (u *upload) whole(ctx context.Context) {
	o := &op{kind: opWhole, user: u.user}
	o.check = func(*tree) error { o.name = u.name(); return nil }
	if err := u.share.do(ctx, o); err != nil {
		u.share.uploads.whole(u.user, u.name())
		u.share.log.Warn("note of a file that was sent again", "share", u.share.name, "err", err)
	}
}

// torn asks the upload table, for the principal of a session who wants to go on behind the file that name has. What
// is refused is remembered from then on anew: a job tries it with each of its runs.
func (s *share) torn(ctx context.Context, user string, owner *Session, name Name) bool {
	now := time.Now()
	torn, since := s.uploads.torn(user, owner, name, now)
	if !torn || since.IsZero() || now.Sub(since) < cutRefresh {
		return torn
	}
	o := &op{kind: opTorn, name: name, user: user}
	o.check = func(*tree) error {
		if !s.uploads.isCut(user, name) {
			return errNotTorn // it was sent again meanwhile
		}
		return nil
	}
	if err := s.do(ctx, o); err != nil && !errors.Is(err, errNotTorn) {
		s.log.Warn("note of an overwrite", "share", s.name, "err", err)
	}
	return true
}

// note is journalTorn for the case that the process dies.
func (u *upload) note() {
	err := u.journalTorn(context.Background(), false)
	if err == nil || errors.Is(err, errNotTorn) {
		u.unnoted.Store(false)
		return
	}
	if !u.unnoted.Swap(true) {
		u.share.log.Warn("note of an overwrite", "share", u.share.name, "err", err)
	}
	u.late.Reset(noteRetry)
}

// appends reports whether the upload only adds to the end of the version below: a client
// that goes by the size of that one goes on in the right place. mu is held.
func (u *upload) appends() bool {
	b := &u.base
	size := b.ref.size
	if b.content != nil {
		size = b.content.size
	}
	xs := u.file.Extents()
	return b.exists() && b.limit == size && len(xs) == 1 && xs[0].Off == size
}

// discard throws the spooled bytes away, and the record of a checkpoint of them.
func (u *upload) discard() error {
	if u.file == nil {
		return nil
	}
	err := u.unsave(context.Background())
	if u.doubtful {
		err = joinClose(err, u.file.Close())
		u.share.removeLater(u.file.ID())
	} else {
		err = joinClose(err, u.file.Discard())
	}
	u.file = nil
	return err
}

// removeLater removes a spool file once the journal has taken another record.
func (s *share) removeLater(id spool.ID) {
	if id == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubtful = append(s.doubtful, id)
}

// partial describes what is durable of the upload under a name.
func (u *upload) partial(name Name) partial {
	xs := u.file.Extents()
	p := partial{name: name, user: u.user, spool: u.file.ID(), extents: xs, time: time.Now().UTC()}
	if u.base.ref.path != "" && u.base.limit > 0 {
		p.base = u.base.ref
		p.base.size = u.base.limit
	}
	p.size = min(contiguous(xs, p.base.size), u.size.Load())
	p.extents = cutExtents(xs, p.size)
	return p
}

// cutExtents is the part of extents below size.
func cutExtents(xs []spool.Extent, size int64) []spool.Extent {
	var out []spool.Extent
	for _, x := range xs {
		if x.Off >= size {
			break
		}
		x.Len = min(x.Len, size-x.Off)
		out = append(out, x)
	}
	return out
}

// record journals what there is of the upload as a partial. Unless always is set, it is
// errComplete when a complete file has the name. flush waits for the disk. Of two that run at a time, the one
// that comes last does not take back what the other has recorded.
func (u *upload) record(ctx context.Context, always, flush bool) error {
	// What is described must not be more than what is synced, so describe first.
	p := u.partial(Name{})
	if err := u.syncFile(true); err != nil {
		return err
	}
	p.spool = u.file.ID()
	o := &op{kind: opPartial, user: u.user, partial: &p, flush: flush}
	o.check = func(t *tree) error {
		name := u.name() // here, so that no rename can come in between
		if !always {
			if n, err := t.lookup(ctx, name); err == nil && n.typ == TypeFile {
				return errComplete
			}
		}
		if p.size < u.newest.size || p.size == u.newest.size && covered(p.extents) < covered(u.newest.extents) {
			p = u.newest
		}
		p.name = name
		u.newest = p
		u.saved.Store(p.size)
		return nil
	}
	if err := u.share.do(ctx, o); err != nil {
		return err
	}
	return u.share.sweep()
}

// covered is how many bytes extents have.
func covered(xs []spool.Extent) (n int64) {
	for _, x := range xs {
		n += x.Len
	}
	return n
}

// resave replaces the journalled partial after a truncation; mu is held for writing.
func (u *upload) resave(ctx context.Context) error {
	u.newest = partial{}
	if u.prefix() > 0 && len(u.file.Extents()) > 0 {
		return u.record(ctx, true, true)
	}
	u.saved.Store(0)
	return u.unsave(ctx)
}

// unsave takes the record of the upload's bytes out of the journal.
func (u *upload) unsave(ctx context.Context) error {
	if p, ok := u.share.uploads.spooled(u.spoolID()); ok {
		return u.share.giveUp(ctx, p)
	}
	return nil
}

// checkpoint records what was written so far, for the case that the process dies.
func (u *upload) checkpoint() {
	defer u.saving.Store(false)
	u.unsaved.Store(0)
	u.savedAt.Store(time.Now().UnixNano())
	if err := u.record(context.Background(), false, false); err != nil && !errors.Is(err, errComplete) {
		u.share.log.Warn("checkpoint of an upload", "share", u.share.name, "err", err)
	}
}

// sync makes what was written so far durable as a partial.
func (u *upload) sync(ctx context.Context, f *File) error {
	if err := u.enter(f); err != nil {
		return err
	}
	defer u.mu.RUnlock()
	if err := u.failure(); err != nil {
		return err
	}
	if u.file == nil || len(u.file.Extents()) == 0 {
		return nil
	}
	// A checkpoint would add nothing, but for what is written from here on.
	began, before := time.Now(), u.unsaved.Swap(0)
	if err := u.record(ctx, true, true); err != nil {
		u.unsaved.Add(before)
		return err
	}
	u.savedAt.Store(began.UnixNano())
	return nil
}

// sweep removes spool files of partials that were given up.
func (s *share) sweep() error {
	var errs []error
	for _, id := range s.uploads.sweep() {
		errs = append(errs, s.spool.Remove(id))
	}
	return errors.Join(errs...)
}

// giveUp journals that a partial is gone and removes its bytes. The record becomes durable
// with the next flush: it may come back after a power loss, and cannot be resumed then.
func (s *share) giveUp(ctx context.Context, p partial) error { return s.partialGone(ctx, p, false) }

// partialGone is giveUp; flush waits for the disk.
func (s *share) partialGone(ctx context.Context, p partial, flush bool) error {
	err := s.do(ctx, &op{kind: opPartialGone, user: p.user, partial: &partial{name: p.name, user: p.user}, flush: flush})
	return joinClose(err, s.sweep())
}

// expirePartials gives up the partials that are older than the share keeps them.
func (s *share) expirePartials(ctx context.Context, now time.Time) error {
	var errs []error
	for _, p := range s.uploads.expired(now.Add(-s.config().PartialMaxAge)) {
		if err := s.dropPartial(ctx, p); !errors.Is(err, errResumed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, s.sweep())...)
}
