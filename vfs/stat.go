package vfs

import (
	"context"
	"math"
	"path/filepath"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/snapshotter"
)

// Stat describes path, following symbolic links. An upload that this session has open
// there is described by what has arrived so far. Where there is no complete file, the
// principal's own partial is described, so that a client learns where to go on.
func (s *Session) Stat(ctx context.Context, path string) (Info, error) {
	return s.stat(ctx, "stat", path, true)
}

// Lstat describes path itself.
func (s *Session) Lstat(ctx context.Context, path string) (Info, error) {
	return s.stat(ctx, "lstat", path, false)
}

func (s *Session) stat(ctx context.Context, op, path string, follow bool) (Info, error) {
	name, w, err := s.start(op, path)
	if err != nil {
		return Info{}, err
	}
	defer w.release()
	p, err := w.walk(ctx, name, follow)
	if err != nil {
		return Info{}, s.hide(clientError(op, name, err))
	}
	if i, ok := s.uploadInfo(p, name.Base()); ok {
		return i, nil
	}
	own := p.kind == placeLive && p.node != nil && s.own(p.mount.share, p.node.version)
	root := p.isMount() || p.kind == placeRoot && !p.absent // known from the login
	if !root && !s.principal.Perms.allows(actStat, own) {
		return Info{}, errKind(op, name, KindPermission)
	}
	if p.absent {
		return Info{}, errKind(op, name, KindNotExist)
	}
	return p.info(name.Base(), s.started), nil
}

// start parses a client's path and readies a walker.
func (s *Session) start(op, path string) (Name, *walker, error) {
	name, err := ParseName(path, s.limits)
	if err != nil {
		return Name{}, nil, errCause(op, Name{}, errorKind(err), err)
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return Name{}, nil, errKind(op, name, KindClosed)
	}
	return name, s.walker(), nil
}

// hide keeps what a principal without PermList may not learn: whether a name exists.
func (s *Session) hide(err error) error {
	if s.principal.Perms.allows(actStat, false) {
		return err
	}
	switch e, _ := err.(*Error); errorKind(err) { //nolint:errorlint // clientError made it
	case KindNotExist, KindNotDir, KindLoop:
		return errCause(e.Op, e.Name, KindPermission, e.Err)
	}
	return err
}

// uploadInfo describes the upload or partial that the session sees at a place.
func (s *Session) uploadInfo(p *place, base string) (Info, bool) {
	if p.kind != placeLive || p.typ() != TypeFile && !p.absent {
		return Info{}, false
	}
	if u := s.openUpload(p); u != nil {
		return u.info(base), true
	}
	if !p.absent {
		return Info{}, false
	}
	table := p.mount.share.uploads
	if part, ok := table.partial(s.principal.User, p.dir); ok {
		return partialInfo(base, part.size, part.time), true
	}
	now := time.Now()
	u := table.find(p.dir, func(u *upload) bool { return u.user == s.principal.User && u.dead(now) })
	if u == nil {
		return Info{}, false
	}
	i := u.info(base)
	u.mu.RLock()
	i.Size = u.prefix()
	u.mu.RUnlock()
	return i, true
}

// openUpload returns the newest upload that this session has open at a place.
func (s *Session) openUpload(p *place) *upload {
	return p.mount.share.uploads.find(p.dir, func(u *upload) bool { return u.owner.Load() == s })
}

// ReadDir opens a directory for listing. It counts as an open handle until it is closed.
func (s *Session) ReadDir(ctx context.Context, path string) (*Dir, error) {
	name, w, err := s.start("readdir", path)
	if err != nil {
		return nil, err
	}
	if !s.principal.Perms.allows(actList, false) {
		return nil, errKind("readdir", name, KindPermission)
	}
	d, err := s.openDir(ctx, w, name)
	if err != nil {
		w.release()
		return nil, clientError("readdir", name, err)
	}
	return d, nil
}

func (s *Session) openDir(ctx context.Context, w *walker, name Name) (*Dir, error) {
	p, err := w.walk(ctx, name, true)
	switch {
	case err != nil:
		return nil, err
	case p.absent:
		return nil, errKind("readdir", name, KindNotExist)
	case p.typ() != TypeDir:
		return nil, errKind("readdir", name, KindNotDir)
	}
	d, err := s.newDir(ctx, w, p)
	if err != nil {
		return nil, err
	}
	if err := s.reserve("readdir", name); err != nil {
		return nil, err
	}
	if err := s.keepDir(d); err != nil {
		s.unreserve()
		return nil, err
	}
	return d, nil
}

// Readlink returns a symbolic link's target as it was given.
func (s *Session) Readlink(ctx context.Context, path string) (string, error) {
	name, w, err := s.start("readlink", path)
	if err != nil {
		return "", err
	}
	defer w.release()
	if !s.principal.Perms.allows(actReadlink, false) {
		return "", errKind("readlink", name, KindPermission)
	}
	p, err := w.walk(ctx, name, false)
	switch {
	case err != nil:
		return "", clientError("readlink", name, err)
	case p.absent:
		return "", errKind("readlink", name, KindNotExist)
	case p.typ() != TypeSymlink:
		return "", errKind("readlink", name, KindInvalid)
	}
	return p.target(), nil
}

// RealPath canonicalises path; existing symbolic links are resolved, missing last
// elements are allowed, as OpenSSH's server does. For a principal without PermList it
// looks at nothing.
func (s *Session) RealPath(ctx context.Context, path string) (string, error) {
	name, w, err := s.start("realpath", path)
	if err != nil {
		return "", err
	}
	defer w.release()
	if !s.principal.Perms.allows(actStat, false) {
		return name.String(), nil
	}
	p, err := w.walk(ctx, name, true)
	if err != nil {
		return "", clientError("realpath", name, err)
	}
	return p.name.String(), nil
}

// StatFS reports space, free of what a quota or the spool limit takes away.
func (s *Session) StatFS(ctx context.Context, path string) (StatFS, error) {
	name, w, err := s.start("statfs", path)
	if err != nil {
		return StatFS{}, err
	}
	defer w.release()
	p, err := w.walk(ctx, name, true)
	switch {
	case err != nil:
		return StatFS{}, s.hide(clientError("statfs", name, err))
	case p.absent:
		return StatFS{}, s.hide(errKind("statfs", name, KindNotExist))
	}
	mount := p.mount
	if mount == nil {
		mount = &s.mounts[0]
	}
	out := mount.share.space()
	out.NameMax = uint64(s.limits.NameBytes)
	out.ReadOnly = out.ReadOnly || p.refuseWrite("statfs") != nil
	return out, nil
}

// statBlock is the block size reported where the disk does not tell one.
const statBlock = 4096

// space is what clients may still upload: the disk's free space without the reserve for a
// commit, and not more than the spool limit leaves.
func (s *share) space() StatFS {
	limits := s.system.cfg.Limits
	left := uint64(min(max(0, limits.SpoolBytes-s.system.pending()), s.system.storeLeft()))
	dir := filepath.Join(s.system.cfg.DataDir, sharesDir)
	if s.source == nil && s.intake.refuses() {
		left = 0
	}
	if s.source != nil {
		dir = s.system.cfg.DataDir // there may be no other share
	}
	du, err := disk.Usage(dir)
	if err != nil {
		// Where the system does not tell, the limit is all there is.
		n := uint64(limits.SpoolBytes)
		du = disk.Space{BlockSize: statBlock, Total: n, Free: n, Avail: n, Files: math.MaxUint32, FilesFree: math.MaxUint32}
	}
	bs := max(du.BlockSize, 1)
	free := du.Avail - min(du.Avail, uint64(limits.ReserveBytes))
	free = min(free, left)
	total, room := du.Total, free
	if s.source == nil {
		if left, quota := s.quotaLeft(); quota > 0 {
			total, free = uint64(quota), min(free, uint64(left))
		}
	}
	return StatFS{
		BlockSize: bs, Blocks: total / bs, BlocksFree: free / bs, BlocksAvail: free / bs, SpoolAvail: room / bs,
		Files: du.Files, FilesFree: du.FilesFree, ReadOnly: du.ReadOnly,
	}
}

// Snapshot commits the share at path now and returns the head.
func (s *Session) Snapshot(ctx context.Context, path string) (id snapshotter.ID, err error) {
	ev := s.event(EventSnapshot, path)
	defer func() { ev.done(err) }()
	name, w, err := s.start("snapshot", path)
	if err != nil {
		return snapshotter.ID{}, err
	}
	defer w.release()
	if !s.principal.Perms.allows(actSnapshot, false) {
		return snapshotter.ID{}, errKind("snapshot", name, KindPermission)
	}
	p, err := w.walk(ctx, name, true)
	switch {
	case err != nil:
		return snapshotter.ID{}, clientError("snapshot", name, err)
	case p.absent || p.mount == nil:
		return snapshotter.ID{}, errKind("snapshot", name, KindNotExist)
	}
	ev.at(p)
	id, err = s.system.Commit(ctx, p.mount.share.name)
	if ev != nil && err == nil {
		ev.Snapshot = id.String()
	}
	return id, clientError("snapshot", name, err)
}
