package vfs

import (
	"context"
	"time"
)

// Open opens a file. attr are the attributes of a file that it creates; its Size is
// ignored.
//
// OpenTruncate and OpenExclusive start a new upload. Without them a write handle
// continues what is there: the complete file, or, where there is none, this principal's
// partial or the upload of another of its handles, which that handle then loses. What a
// handle writes becomes visible to others when it is closed; a session sees its own
// uploads by their exact name.
func (s *Session) Open(ctx context.Context, path string, flag OpenFlag, attr AttrSet) (*File, error) {
	name, w, err := s.start("open", path)
	if err != nil {
		return nil, err
	}
	defer w.release()
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
	if err != nil {
		s.unreserve()
		return nil, clientError("open", name, err)
	}
	return f, nil
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
		f.reader, err = p.mount.share.open(ctx, p.tree, p.node)
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
	case !p.absent && f.flag&OpenResume != 0 && p.mount.share.uploads.torn(s.principal.User, p.dir, time.Now()):
		// What the client wants to go on with is gone; what is there is another version.
		return errKind("open", p.name, KindTorn)
	}
	if own := s.openUpload(p); own != nil && f.flag&OpenTruncate == 0 {
		switch {
		case f.flag&OpenExclusive != 0:
			return errKind("open", p.name, KindExist) // the session sees it by name
		case own.join(f):
			return nil
		}
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
	u := newUpload(p.mount.share, s.principal.User)
	u.root, u.exclusive = p.mount.Root, f.flag&OpenExclusive != 0
	if p.absent {
		u.attr, _ = attr.apply(u.attr, 0)
		u.mtime = attr.ModTime != nil
	} else {
		u.onto = true
		u.attr = p.node.attr // an overwritten file keeps its mode and owner
	}
	if !p.absent && f.flag&OpenTruncate == 0 {
		if err := u.above(ctx, p.tree, p.node); err != nil {
			return err
		}
	} else {
		u.touch() // nobody else has it yet
	}
	if err := s.register(ctx, f, p, u); err != nil {
		return joinClose(err, u.base.close())
	}
	return nil
}

// register enters an upload into the table. A rename of a directory above may have come in
// between: then the place is gone, and the client may try again.
func (s *Session) register(ctx context.Context, f *File, p *place, u *upload) error {
	f.up, f.writer = u, true
	u.handles[f] = true
	u.owner.Store(s)
	table := p.mount.share.uploads
	if err := table.add(u, p.dir); err != nil {
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
		} else if KindOf(err) != KindNotExist { // else it ended this moment
			return false, err
		}
	}
	part, ok := sh.uploads.partial(user, p.dir)
	if !ok {
		return false, nil
	}
	u := newUpload(sh, user)
	u.root, u.changed = p.mount.Root, true
	if u.file, err = sh.spool.Reopen(part.spool, part.size, part.extents); err != nil {
		// Its bytes are gone or damaged. This open fails, since the client may count on
		// them; the next one starts anew.
		return false, joinClose(err, sh.giveUp(ctx, part))
	}
	u.spoolNo.Store(uint64(part.spool))
	u.saved.Store(part.size)
	u.written.Store(part.size)
	u.size.Store(part.size)
	u.base.ref, u.base.limit = part.base, part.base.size
	if err := s.register(ctx, f, p, u); err != nil {
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
	if from.up == nil && whole && to.up.adopt(to, ref) {
		return nil
	}
	return from.copyTo(ctx, off, n, to, toOff)
}
