package vfs

import (
	"context"
	"io/fs"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// Every change goes the same way: the name is resolved, refuseWrite and the access table
// say what can be said at once, and the operation is handed to the share with a check that
// decides the rest against the tree that it is about to change.

// change resolves path without following a last link, for a change of what is there.
func (s *Session) change(ctx context.Context, w *walker, op string, name Name, follow bool) (*place, error) {
	p, err := w.walk(ctx, name, follow)
	if err != nil {
		return nil, s.hide(clientError(op, name, err))
	}
	if err := p.refuseWrite(op); err != nil {
		return nil, err
	}
	return p, nil
}

// entry refuses what cannot be done to the root of a mount.
func (s *Session) entry(op string, p *place) error {
	if p.isMount() {
		return errKind(op, p.name, KindPermission)
	}
	return nil
}

// allow refuses an action that the principal has no permission for.
func (s *Session) allow(op string, name Name, a action) error {
	if !s.principal.Perms.allows(a, false) {
		return errKind(op, name, KindPermission)
	}
	return nil
}

// do hands an operation to the share of a place and remembers what it made.
func (s *Session) do(ctx context.Context, sh *share, o *op) error {
	if err := sh.do(ctx, o); err != nil {
		return err
	}
	switch o.kind {
	case opPut, opMkdir, opSymlink, opLink:
		sh.uploads.made.add(o.version, s.principal.User, s.id, time.Now())
	}
	return nil
}

// Mkdir makes a directory.
func (s *Session) Mkdir(ctx context.Context, path string, attr AttrSet) (err error) {
	ev := s.event(EventMkdir, path)
	defer func() { ev.done(err) }()
	name, w, err := s.start("mkdir", path)
	if err != nil {
		return err
	}
	defer w.release()
	p, err := s.change(ctx, w, "mkdir", name, false)
	if err != nil {
		return err
	}
	ev.at(p)
	if err := s.allow("mkdir", name, actMkdir); err != nil {
		return err
	}
	if p.isMount() {
		return errKind("mkdir", name, KindExist)
	}
	o := s.op(opMkdir)
	o.name, o.parents = p.dir, p.dir.Parent() == p.mount.Root
	o.attr, _ = attr.apply(snapshotter.Attr{Mode: defaultDirMode, ModTime: time.Now().UTC()}, 0)
	return clientError("mkdir", name, s.do(ctx, p.mount.share, o))
}

// Symlink makes path a symbolic link to target. The target is kept as it is; where it
// leads is decided when the link is followed.
func (s *Session) Symlink(ctx context.Context, target, path string) (err error) {
	ev := s.event(EventSymlink, path)
	defer func() { ev.done(err) }()
	name, w, err := s.start("symlink", path)
	if err != nil {
		return err
	}
	defer w.release()
	p, err := s.change(ctx, w, "symlink", name, false)
	if err != nil {
		return err
	}
	ev.at(p)
	if err := s.allow("symlink", name, actSymlink); err != nil {
		return err
	}
	switch {
	case target == "":
		return errKind("symlink", name, KindNotExist) // as symlink(2) has it
	case len(target) > s.limits.PathBytes || strings.IndexByte(target, 0) >= 0:
		return errKind("symlink", name, KindBadName)
	case p.isMount():
		return errKind("symlink", name, KindExist)
	}
	o := s.op(opSymlink)
	o.name, o.target, o.parents = p.dir, target, p.dir.Parent() == p.mount.Root
	o.attr = snapshotter.Attr{Mode: fs.ModePerm, ModTime: time.Now().UTC()}
	return clientError("symlink", name, s.do(ctx, p.mount.share, o))
}

// Remove removes a file or a symbolic link. The principal's own partial, where there is
// no complete file, is given up; an upload that is still open is KindBusy.
func (s *Session) Remove(ctx context.Context, path string) error {
	return s.remove(ctx, "remove", path, false)
}

// Rmdir removes an empty directory. It is KindBusy while an upload is open below.
func (s *Session) Rmdir(ctx context.Context, path string) error {
	return s.remove(ctx, "rmdir", path, true)
}

func (s *Session) remove(ctx context.Context, op, path string, dir bool) (err error) {
	ev := s.event(EventOp(op), path)
	defer func() { ev.done(err) }()
	name, w, err := s.start(op, path)
	if err != nil {
		return err
	}
	defer w.release()
	p, err := s.change(ctx, w, op, name, false)
	if err != nil {
		return err
	}
	ev.at(p)
	if err := s.entry(op, p); err != nil {
		return err
	}
	sh := p.mount.share
	if part, ok := sh.uploads.partial(s.principal.User, p.dir); ok && p.absent && !dir {
		return clientError(op, name, sh.partialGone(ctx, part, true))
	}
	if err := s.allow(op, name, actRemove); err != nil {
		return err
	}
	if p.absent && !dir && s.openUpload(p) != nil {
		return errKind(op, name, KindBusy)
	}
	o := s.op(opRemove)
	o.name = p.dir
	o.check = func(t *tree) error {
		n, err := t.lookup(ctx, o.name)
		switch {
		case err != nil:
			return err
		case dir && n.typ != TypeDir:
			return errKind(op, o.name, KindNotDir)
		case !dir && n.typ == TypeDir:
			return errKind(op, o.name, KindIsDir)
		}
		return nil
	}
	return clientError(op, name, sh.do(ctx, o))
}

// Rename renames a file or directory; replace lets it replace an existing file, or an
// empty directory by a directory, as POSIX rename does. Across shares it is
// KindUnsupported. To a free name it needs rename, or create for an own upload; over an
// existing one overwrite as well.
//
// Where from is no complete file but an upload that this session has open, or the
// principal's partial, it is that upload that gets the new name.
func (s *Session) Rename(ctx context.Context, from, to string, replace bool) (err error) {
	ev := s.event(EventRename, from)
	defer func() { ev.done(err) }()
	name, w, err := s.start("rename", from)
	if err != nil {
		return err
	}
	defer w.release()
	toName, err := ParseName(to, s.limits)
	if err != nil {
		return errCause("rename", Name{}, errorKind(err), err)
	}
	src, err := s.change(ctx, w, "rename", name, false)
	if err != nil {
		return err
	}
	dst, err := s.change(ctx, w, "rename", toName, false)
	if err != nil {
		return err
	}
	ev.at(src)
	ev.to(to, dst)
	if err := s.entry("rename", src); err != nil {
		return err
	}
	if err := s.entry("rename", dst); err != nil {
		return err
	}
	if src.mount.share != dst.mount.share {
		return errKind("rename", name, KindUnsupported)
	}
	if src.absent {
		return clientError("rename", name, s.renameUpload(ctx, src, dst, replace))
	}
	o := s.op(opRename)
	o.name, o.to, o.noReplace = src.dir, dst.dir, !replace
	o.parents = dst.dir.Parent() == dst.mount.Root
	may := s.mayRename(ctx, src.mount.share, o)
	var moved *content
	o.check = func(t *tree) error {
		if n, err := t.lookup(ctx, o.name); err == nil {
			moved = n.content
		}
		return may(t)
	}
	if err := s.do(ctx, src.mount.share, o); err != nil {
		return clientError("rename", name, err)
	}
	if !src.mount.share.isTemp(o.name) {
		return nil
	}
	// With acknowledge: stored it is this rename that completes the upload, not its CLOSE.
	return clientError("rename", name, src.mount.share.waitStored(ctx, o.to, moved))
}

// mayRename decides what depends on what is at both names.
func (s *Session) mayRename(ctx context.Context, sh *share, o *op) func(t *tree) error {
	return func(t *tree) error {
		n, err := t.lookup(ctx, o.name)
		if err != nil {
			return err
		}
		perms := s.principal.Perms
		if !perms.allows(actRename, n.typ == TypeFile && s.own(sh, n.version)) {
			return errKind("rename", o.name, KindPermission)
		}
		if o.name == o.to {
			if o.noReplace {
				return errKind("rename", o.to, KindExist) // it is there, as for any other name
			}
			return nil
		}
		old, err := t.existing(ctx, o.to)
		if old != nil && !o.noReplace && !perms.allows(actReplace, false) {
			return errKind("rename", o.to, KindPermission)
		}
		return err
	}
}

// renameUpload gives an upload in progress or a partial another name. It takes effect with
// the publication, which checks again.
func (s *Session) renameUpload(ctx context.Context, src, dst *place, replace bool) error {
	sh, user := src.mount.share, s.principal.User
	open := s.openUpload(src)
	part, ok := sh.uploads.partial(user, src.dir)
	switch {
	case open == nil && !ok:
		return s.hide(errKind("rename", src.name, KindNotExist))
	case src.dir == dst.dir && !replace:
		return errKind("rename", src.name, KindExist) // it is there, as for any other name
	case src.dir == dst.dir:
		return nil
	case dst.typ() == TypeDir:
		return errKind("rename", src.name, KindIsDir)
	case !dst.absent && !replace:
		return errKind("rename", src.name, KindExist)
	case !dst.absent && !s.principal.Perms.allows(actReplace, false):
		return errKind("rename", src.name, KindPermission)
	case open != nil:
		return sh.uploads.moveOne(open, dst.dir, !dst.absent, replace)
	case !dst.absent:
		return errKind("rename", src.name, KindExist) // nobody could reach it there
	}
	return sh.movePartial(ctx, part, dst.dir)
}

// movePartial gives a partial another name. By now somebody may have gone on with it, and
// published its spool file: then it is a partial no more.
func (s *share) movePartial(ctx context.Context, part partial, to Name) error {
	moved := part
	moved.name, moved.time = to, time.Now().UTC()
	o := &op{kind: opPartial, user: part.user, partial: &moved}
	o.check = func(*tree) error {
		if now, ok := s.uploads.partial(part.user, part.name); !ok || now.spool != part.spool {
			return errKind("rename", part.name, KindBusy)
		}
		return nil
	}
	if err := s.do(ctx, o); err != nil {
		return err
	}
	return s.partialGone(ctx, part, true) // not its bytes: the new record has them
}

// Link makes to a copy of the file from that shares its content (from may lie in a view).
// Links across shares are KindUnsupported; a symbolic link is copied as one.
func (s *Session) Link(ctx context.Context, from, to string) (err error) {
	ev := s.event(EventLink, from)
	defer func() { ev.done(err) }()
	name, w, err := s.start("link", from)
	if err != nil {
		return err
	}
	defer w.release()
	toName, err := ParseName(to, s.limits)
	if err != nil {
		return errCause("link", Name{}, errorKind(err), err)
	}
	dst, err := s.change(ctx, w, "link", toName, false)
	if err != nil {
		return err
	}
	if err := s.allow("link", name, actLink); err != nil {
		return err
	}
	src, err := w.walk(ctx, name, false)
	ev.at(src)
	ev.to(to, dst)
	switch {
	case err != nil:
		return clientError("link", name, err)
	case src.absent:
		return errKind("link", name, KindNotExist)
	case src.typ() == TypeDir:
		return errKind("link", name, KindPermission) // as link(2) has it
	case src.mount.share != dst.mount.share:
		return errKind("link", name, KindUnsupported)
	case dst.isMount():
		return errKind("link", name, KindExist)
	}
	return clientError("link", name, s.do(ctx, dst.mount.share, s.linkOp(src, dst)))
}

// linkOp is the operation that puts a copy of src at dst.
func (s *Session) linkOp(src, dst *place) *op {
	var o *op
	switch {
	case src.typ() == TypeSymlink:
		o = s.op(opSymlink)
		o.name, o.target = dst.dir, src.target()
		o.attr = snapshotter.Attr{Mode: fs.ModePerm, ModTime: time.Now().UTC()}
	case src.kind == placeLive:
		o = s.op(opLink)
		o.name, o.to = src.dir, dst.dir
	default:
		o = s.op(opPut)
		o.name, o.attr = dst.dir, src.entry.Attr
		o.content = &content{
			size: src.entry.Size,
			base: baseRef{src.snap.ID, src.path, src.entry.Size},
		}
	}
	o.noReplace, o.parents = true, dst.dir.Parent() == dst.mount.Root
	return o
}

// SetAttr sets attributes; follow says whether a symbolic link is followed. Setting the
// size of a closed file makes a new version of it. On an upload that this session has
// open, they take effect with its publication.
func (s *Session) SetAttr(ctx context.Context, path string, set AttrSet, follow bool) (err error) {
	ev := s.event(EventSetAttr, path)
	ev.sets(set)
	defer func() { ev.done(err) }()
	name, w, err := s.start("setattr", path)
	if err != nil {
		return err
	}
	defer w.release()
	p, err := s.change(ctx, w, "setattr", name, follow)
	if err != nil {
		return err
	}
	ev.at(p)
	if p.typ() != TypeDir {
		if u := s.openUpload(p); u != nil {
			return clientError("setattr", name, u.setAll(ctx, u.anyHandle(s), set))
		}
	}
	switch {
	case p.absent:
		return s.hide(errKind("setattr", name, KindNotExist))
	case p.node == nil: // a mount's root that has not been made yet
		return errKind("setattr", name, KindPermission)
	}
	if set.Size != nil {
		if err := s.resize(ctx, p, *set.Size); err != nil {
			return clientError("setattr", name, err)
		}
	}
	attr, mask := set.apply(snapshotter.Attr{}, 0)
	if mask == 0 {
		return nil
	}
	return clientError("setattr", name, p.mount.share.do(ctx, s.setattrOp(ctx, p.mount.share, p.dir, attr, mask)))
}

// setattrOp is the operation that sets attributes of a complete file or a directory.
func (s *Session) setattrOp(ctx context.Context, sh *share, name Name, attr snapshotter.Attr, mask attrMask) *op {
	o := s.op(opSetattr)
	o.name, o.attr, o.mask = name, attr, mask
	o.check = func(t *tree) error {
		n, err := t.lookup(ctx, name)
		if err != nil {
			return err
		}
		if !s.principal.Perms.allows(actSetattr, s.own(sh, n.version)) {
			return errKind("setattr", name, KindPermission)
		}
		return nil
	}
	return o
}

// resize truncates or grows a complete file through a handle of its own. The size that it
// has already changes nothing.
func (s *Session) resize(ctx context.Context, p *place, size int64) error {
	switch {
	case p.typ() == TypeDir:
		return errKind("setattr", p.name, KindIsDir)
	case p.typ() != TypeFile || size < 0:
		return errKind("setattr", p.name, KindInvalid)
	case size == p.node.size:
		return nil
	}
	f, err := s.Open(ctx, p.name.String(), OpenWrite, AttrSet{})
	if err != nil {
		return err
	}
	if err := f.SetAttr(ctx, AttrSet{Size: &size}); err != nil {
		return joinClose(err, f.Abort())
	}
	return f.CloseContext(ctx)
}
