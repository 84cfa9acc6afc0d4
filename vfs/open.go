package vfs

import (
	"context"
	"errors"
	"time"
)

// errStale says that what was found at a name has been replaced before it could be opened.
var errStale = errors.New("the file was replaced meanwhile")

// openTries is how often a name is looked up again for that reason.
const openTries = 5

// Open opens a file. attr are the attributes of a file that it creates; its Size is
// ignored.
//
// OpenTruncate and OpenExclusive start a new upload. Without them a write handle
// continues what is there: the complete file, or, where there is none, this principal's
// partial or the upload of another of its handles, which that handle then loses. What a
// handle writes becomes visible to others when it is closed; a session sees its own
// uploads by their exact name.
func (s *Session) Open(ctx context.Context, path string, flag OpenFlag, attr AttrSet) (_ *File, err error) {
	defer func() {
		if err != nil {
			s.event(openEvent(flag), path).done(err)
		}
	}()
	name, w, err := s.start("open", path)
	if err != nil {
		return nil, err
	}
	defer func() { w.release() }()
	if flag&OpenExclusive != 0 {
		flag |= OpenCreate
	}
	if flag&(OpenCreate|OpenTruncate|OpenResume) != 0 {
		flag |= OpenWrite
	}
	if flag&(OpenRead|OpenWrite) == 0 {
		return nil, errKind("open", name, KindInvalid)
	}
	if err := s.reserve("open", name); err != nil {
		return nil, err
	}
	f, err := s.openFile(ctx, w, name, flag, attr)
	for try := 1; try < openTries && errors.Is(err, errStale); try++ {
		w.release()
		w = s.walker()
		f, err = s.openFile(ctx, w, name, flag, attr)
	}
	if err != nil {
		s.unreserve()
		return nil, clientError("open", name, err)
	}
	return f, nil
}

// openEvent is what the end of a file tells of that is opened with flag.
func openEvent(flag OpenFlag) EventOp {
	if flag&OpenWrite != 0 {
		return EventUpload
	}
	return EventDownload
}

func (s *Session) openFile(ctx context.Context, w *walker, name Name, flag OpenFlag, attr AttrSet) (*File, error) {
	p, err := w.walk(ctx, name, flag&OpenExclusive == 0)
	if err != nil {
		return nil, s.hide(err)
	}
	f := &File{session: s, name: p.name, flag: flag}
	if p.mount != nil {
		f.share = p.mount.share
	}
	f.event = s.event(openEvent(flag), name.String())
	f.event.at(p)
	if flag&OpenWrite != 0 {
		err = s.openWrite(ctx, f, p, attr)
	} else {
		err = s.openRead(ctx, f, p)
	}
	if err != nil {
		return nil, err
	}
	if err := s.keep(f); err != nil {
		if f.writer {
			return nil, joinClose(err, f.up.abort(ctx, f))
		}
		return nil, joinClose(err, f.release())
	}
	return f, nil
}

// openRead opens what is complete, or the session's own upload.
func (s *Session) openRead(ctx context.Context, f *File, p *place) error {
	if p.kind == placeLive && p.typ() != TypeDir {
		if u := s.openUpload(p); u != nil {
			if err := s.mayReadUpload(u); err != nil {
				return err
			}
			f.up = u
			return nil
		}
	}
	switch {
	case !s.principal.Perms.allows(actRead, false):
		return errKind("open", p.name, KindPermission)
	case p.absent:
		return errKind("open", p.name, KindNotExist)
	case p.typ() != TypeFile:
		return errKind("open", p.name, KindIsDir)
	}
	f.info = p.info(p.name.Base(), s.started)
	var err error
	if p.kind == placeLive {
		f.stored = storedRef(p.tree, p.node)
		if f.reader, err = p.mount.share.open(ctx, p.tree, p.node); err != nil && p.replaced(ctx) {
			err = errors.Join(errStale, err) // its bytes may have gone with it
		}
		return err
	}
	f.stored = baseRef{p.snap.ID, p.path, p.entry.Size}
	views := p.mount.share.views
	h, err := views.acquire(ctx, p.snap.ID) // for as long as the handle, not the walker, lives
	if err != nil {
		return err
	}
	f.done = func() error { return views.release(h) }
	if f.reader, err = h.Open(ctx, p.path); err != nil {
		return joinClose(viewError(err), f.done())
	}
	return nil
}

// replaced reports whether the live name leads to another version now than was found there.
func (p *place) replaced(ctx context.Context) bool {
	now, err := p.mount.share.shown(ctx).lookup(ctx, p.dir)
	return err == nil && now.version != p.node.version
}

// mayReadUpload refuses to read an upload through which an older version shows to a
// principal without PermRead. What the session has sent itself it may always read.
func (s *Session) mayReadUpload(u *upload) error {
	if s.principal.Perms.allows(actRead, false) {
		return nil
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.base.exists() {
		return errKind("open", Name{}, KindPermission)
	}
	return nil
}

// storedRef is where a snapshot has the bytes of a live file, zero when none has them yet.
func storedRef(t *tree, n *node) baseRef {
	if n.content == nil {
		return baseRef{t.head, n.from, n.size}
	}
	_, _, stored := n.content.where()
	return stored
}

// openWrite opens an upload: a new one, one above the complete file, or a continued one.
func (s *Session) openWrite(ctx context.Context, f *File, p *place, attr AttrSet) error {
	if err := p.refuseWrite("open"); err != nil {
		return err
	}
	perms := s.principal.Perms
	switch {
	case p.typ() == TypeDir:
		return errKind("open", p.name, KindIsDir)
	case f.flag&OpenExclusive != 0 && !p.absent && perms.allows(actStat, false):
		return errKind("open", p.name, KindExist)
	case !p.absent && (f.flag&OpenExclusive != 0 || !perms.allows(actOverwrite, false)):
		return errKind("open", p.name, KindPermission)
	case !p.absent && f.flag&OpenRead != 0 && f.flag&OpenTruncate == 0 && !perms.allows(actRead, false):
		return errKind("open", p.name, KindPermission)
	}
	if own := s.openUpload(p); own != nil && f.flag&OpenTruncate == 0 {
		switch {
		case f.flag&OpenExclusive != 0:
			return errKind("open", p.name, KindExist) // the session sees it by name
		case f.flag&OpenRead != 0:
			if err := s.mayReadUpload(own); err != nil {
				return err
			}
		}
		switch {
		case own.join(f):
			return nil
		case own.published():
			return errStale // its version is to be continued
		}
	}
	if !p.absent && f.flag&OpenResume != 0 && p.mount.share.torn(ctx, s.principal.User, s, p.dir) {
		// What the client wants to go on with is gone; what is there is another version.
		return errKind("open", p.name, KindTorn)
	}
	if p.absent && f.flag&(OpenTruncate|OpenExclusive) == 0 {
		if done, err := s.resume(ctx, f, p); done || err != nil {
			return err
		}
	}
	switch {
	case p.absent && f.flag&OpenCreate == 0:
		return errKind("open", p.name, KindNotExist)
	case p.absent && !perms.allows(actCreate, false):
		return errKind("open", p.name, KindPermission)
	}
	if err := p.mount.share.intake.ready(ctx); err != nil {
		return err // rather than when all its bytes are here
	}
	u := newUpload(p.mount.share, s.principal.User)
	u.root, u.exclusive = p.mount.Root, f.flag&OpenExclusive != 0
	if p.absent {
		u.attr, _ = attr.apply(u.attr, 0)
		u.mtime = attr.ModTime != nil
	} else {
		u.onto, u.replaced = true, p.node.bytes()
		u.attr = p.node.attr // an overwritten file keeps its mode and owner
	}
	if !p.absent && f.flag&OpenTruncate == 0 {
		if err := u.above(ctx, p.tree, p.node); err != nil {
			return err
		}
	} else {
		u.touch() // nobody else has it yet
		u.rewrites.Store(!p.absent)
	}
	if err := s.register(ctx, f, p, u); err != nil {
		return joinClose(err, u.base.close())
	}
	return nil
}

// register enters an upload into the table. A rename of a directory above may have come in
// between: then the place is gone, and the client may try again. One that is on its way is
// waited for, and the place looked up again.
func (s *Session) register(ctx context.Context, f *File, p *place, u *upload) error {
	f.up, f.writer = u, true
	u.handles[f] = true
	u.owner.Store(s)
	table := p.mount.share.uploads
	switch err := table.add(u, p.dir); {
	case errors.Is(err, errLeaving):
		if err := p.mount.share.exec(ctx, func() error { return nil }); err != nil {
			return err
		}
		return errors.Join(errStale, errKind("open", p.name, KindBusy))
	case err != nil:
		return err
	}
	if p.dir.Parent() == p.mount.Root {
		return nil
	}
	now := u.name().Parent()
	n, err := p.mount.share.current().lookup(ctx, now)
	if err == nil && n.typ != TypeDir {
		err = errKind("open", p.name, KindNotDir)
	}
	if err != nil {
		table.remove(u)
		return err
	}
	return nil
}

// resume continues the principal's upload or partial at a free name; done is false when
// there is none.
func (s *Session) resume(ctx context.Context, f *File, p *place) (done bool, err error) {
	sh, user := p.mount.share, s.principal.User
	if !s.principal.Perms.allows(actCreate, false) {
		return false, nil // the caller says what is missing
	}
	// An upload that another session is busy with is not taken from it, unless the client
	// says that it resumes: two clients of one account may send the same new name (scp opens
	// without truncation), and each makes a version then.
	now := time.Now()
	live := sh.uploads.find(p.dir, func(u *upload) bool {
		return u.user == user && !u.onto && (u.owner.Load() == s || f.flag&OpenResume != 0 || u.dead(now))
	})
	if live != nil {
		if err := live.takeOver(f); err == nil {
			return true, nil
		} else if KindOf(err) != KindNotExist {
			return false, err
		}
		if live.published() {
			return false, errStale // its version is to be continued
		}
	}
	part, ok := sh.uploads.partial(user, p.dir)
	if !ok {
		return false, nil
	}
	if part.doubtful {
		// The bytes must not change before a new record says that they are a partial.
		part.doubtful = false
		if err := sh.do(ctx, &op{kind: opPartial, user: user, partial: &part, flush: true}); err != nil {
			return false, err
		}
	}
	u := newUpload(sh, user)
	u.root, u.changed = p.mount.Root, true
	if u.file, err = sh.spool.Reopen(part.spool, part.size, part.extents); err != nil {
		if !isDamage(&spoolError{err}) {
			return false, err // the process is in trouble, not the bytes
		}
		// Its bytes are gone or damaged. This open fails, since the client may count on
		// them; the next one starts anew.
		return false, joinClose(err, sh.giveUp(ctx, part))
	}
	u.spoolNo.Store(uint64(part.spool))
	u.saved.Store(part.size)
	u.written.Store(part.size)
	u.size.Store(part.size)
	u.base.ref, u.base.limit = part.base, part.base.size
	// Without room for all of it, what the client truncates or writes decides.
	_ = u.claim(part.size)
	if err := s.register(ctx, f, p, u); err != nil {
		u.give()
		return false, joinClose(err, u.file.Close())
	}
	return true, nil
}

// CopyData copies n bytes (0: to the end) between two open files of this session on the
// server's side; a whole copy into an empty file shares the stored content. When from
// ends before n bytes, io.EOF is in the error's chain.
func (s *Session) CopyData(ctx context.Context, from *File, off, n int64, to *File, toOff int64) error {
	switch {
	case from == nil || to == nil || from.session != s || to.session != s || off < 0 || n < 0 || toOff < 0:
		return errKind("copy", Name{}, KindInvalid)
	case !s.principal.Perms.allows(actRead, false):
		return errKind("copy", from.name, KindPermission)
	case !to.writer:
		return errKind("copy", to.name, KindPermission)
	}
	if err := from.begin("copy", OpenRead); err != nil {
		return err
	}
	ref := from.stored
	from.mu.RUnlock()
	whole := off == 0 && toOff == 0 && (n == 0 || n == ref.size)
	if from.up == nil && whole {
		if done, err := to.up.adopt(to, ref); done {
			return clientError("copy", to.name, err)
		}
	}
	return from.copyTo(ctx, off, n, to, toOff)
}
