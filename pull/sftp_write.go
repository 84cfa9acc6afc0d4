package pull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/snapgate/gateway/pull/internal/sftpclient"
)

// errReversed says that symbolic links cannot be made in either order of the arguments.
var errReversed = errors.New("the server does not make the link that it was asked for")

// MakeRoot implements Target.
func (s *SFTP) MakeRoot(ctx context.Context) (made bool, err error) {
	conn, err := s.pool.get(ctx)
	if err != nil {
		return false, sftpError(ctx, "make", "", err)
	}
	defer s.pool.put(conn)
	root := s.cfg.Root
	if s.cfg.Home {
		root = strings.TrimSuffix("./"+root, "/")
	}
	made, err = makeRemote(root, func(p string) error {
		_, err := conn.s.Stat(ctx, p)
		return sftpError(ctx, "make", p, err)
	}, func(p string) error {
		return sftpError(ctx, "make", p, reason(ctx, conn.s, p, conn.s.Mkdir(ctx, p, newDirMode)))
	})
	return made, err
}

// makeRemote makes the directory root and those above it, from the first that is missing.
func makeRemote(root string, stat, mkdir func(string) error) (made bool, err error) {
	switch err := stat(root); {
	case err == nil:
		return false, nil
	case KindOf(err) != KindNotFound:
		return false, err
	}
	if i := strings.LastIndexByte(root, '/'); i > 0 {
		if _, err := makeRemote(root[:i], stat, mkdir); err != nil {
			return false, err
		}
	}
	return true, mkdir(root)
}

// Mkdir implements Target.
func (s *SFTP) Mkdir(ctx context.Context, path string) error {
	return s.with(ctx, "make", path, func(c *sftpclient.Client, full string) error {
		return reason(ctx, c, full, c.Mkdir(ctx, full, newDirMode))
	})
}

// reason adds to an error of writing what the server does not say of it: that the file system of a path is full
// or read-only.
func reason(ctx context.Context, c *sftpclient.Client, full string, err error) error {
	var st *sftpclient.StatusError
	if !errors.As(err, &st) || !st.Failure() {
		return err
	}
	room, rerr := c.Room(ctx, full[:max(strings.LastIndexByte(full, '/'), 1)])
	switch {
	case rerr != nil:
		return err
	case room.ReadOnly:
		return fmt.Errorf("%w: %w", err, syscall.EROFS)
	case room.Full:
		return fmt.Errorf("%w: %w", err, syscall.ENOSPC)
	}
	return err
}

// Create implements Target. 2 MiB are under way at a time.
func (s *SFTP) Create(ctx context.Context, path string, offset int64) (Writer, error) {
	conn, full, err := s.get(ctx, "write", path)
	if err != nil {
		return nil, err
	}
	w := &sftpWriter{s: s, conn: conn, path: path, full: full}
	if offset > 0 {
		err = cutSFTP(ctx, conn.s, path, full, uint64(offset))
	}
	if err == nil {
		w.up, err = conn.s.Create(ctx, full, offset, newFileMode, offset == 0)
	}
	if err != nil {
		err = reason(ctx, conn.s, full, err)
		s.pool.put(conn)
		return nil, sftpError(ctx, "write", path, err)
	}
	return w, nil
}

// cutSFTP makes a file end at size, if it does not yet.
func cutSFTP(ctx context.Context, c *sftpclient.Client, path, full string, size uint64) error {
	a, err := c.Lstat(ctx, full)
	switch {
	case err != nil:
		return err
	case a.HasMode && a.Mode&sftpclient.ModeType != sftpclient.ModeFile, !a.HasSize, a.Size < size:
		return failf("write", path, KindUnsupported, "it is no file of %d bytes", size)
	case a.Size == size:
		return nil
	}
	return c.Setstat(ctx, full, sftpclient.Set{HasSize: true, Size: size})
}

// sftpWriter is a Writer.
type sftpWriter struct {
	s    *SFTP
	conn *pooled[*sftpclient.Client]
	up   *sftpclient.Upload // nil when it was closed
	path string
	full string // as the server knows it

	beside  *besideSync // under way, nil for none
	lost    error       // of one before
	durable int64       // so much of the file is on the server's disk
	alone   bool        // there is no use in asking over another connection
}

func (w *sftpWriter) Write(ctx context.Context, p []byte) error {
	_, err := w.up.Write(ctx, p)
	return sftpError(ctx, "write", w.path, w.reason(ctx, err))
}

func (w *sftpWriter) Sync(ctx context.Context) (int64, error) {
	busy, err := w.besideEnded(false)
	if busy || err != nil || w.syncBeside(ctx) {
		return w.durable, sftpError(ctx, "write", w.path, err)
	}
	durable, err := w.up.Sync(ctx)
	w.durable = max(w.durable, durable)
	return w.durable, sftpError(ctx, "write", w.path, w.reason(ctx, err))
}

func (w *sftpWriter) reason(ctx context.Context, err error) error {
	return reason(ctx, w.conn.s, w.full, err)
}

func (w *sftpWriter) Finish(ctx context.Context, a Attributes) error {
	refused, err := w.up.Finish(ctx, sftpSets(a, &w.s.noFsetstat)...)
	if _, lost := w.besideEnded(true); err == nil {
		err = lost
	}
	err = w.reason(ctx, err)
	w.up = nil
	w.s.pool.put(w.conn)
	if err != nil {
		return sftpError(ctx, "write", w.path, err)
	}
	for i, rerr := range refused {
		if rerr = learnSetstat(i, rerr, &w.s.noFsetstat); rerr != nil && err == nil {
			err = &AttributeError{sftpError(ctx, "set attributes of", w.path, rerr)}
		}
	}
	return err
}

func (w *sftpWriter) Abort() {
	if w.up != nil {
		w.up.Abort()
		if w.beside != nil {
			w.beside.cancel() // whatever it says, the file is given up
			_, _ = w.besideEnded(true)
		}
		w.up = nil
		w.s.pool.put(w.conn)
	}
}

// sftpSets are the requests that set attributes, the owner first: it takes setuid away. cannot says
// that the server does not know those of modes and times.
func sftpSets(a Attributes, cannot *atomic.Bool) []sftpclient.Set {
	sets := []sftpclient.Set{{HasOwner: a.HasOwner, UID: a.UID, GID: a.GID}}
	if cannot.Load() {
		return sets
	}
	return append(sets, sftpclient.Set{HasMode: a.HasMode, Mode: modeNumber(a.Mode), ModTime: a.ModTime})
}

// learnSetstat notes that the server does not know the request of a mode and a time, the one at 1 in
// sftpSets, and returns any other error.
func learnSetstat(i int, err error, cannot *atomic.Bool) error {
	var st *sftpclient.StatusError
	if i == 1 && errors.As(err, &st) && st.Unsupported() {
		cannot.Store(true)
		return nil
	}
	return err
}

// Rename implements Target. On a server without posix-rename@openssh.com the old file makes room
// first, when it refuses: see makeRoom.
func (s *SFTP) Rename(ctx context.Context, from, to string) error {
	if err := checkPath("rename", from); err != nil {
		return err
	}
	return s.with(ctx, "rename", to, func(c *sftpclient.Client, full string) error {
		old := strings.TrimSuffix(full, to) + from
		err := c.Rename(ctx, old, full)
		var st *sftpclient.StatusError
		if err == nil || c.Has("posix-rename@openssh.com") || !errors.As(err, &st) || st.Permission() || st.NotExist() {
			return err
		}
		a, serr := c.Lstat(ctx, full)
		if serr != nil || a.HasMode && a.Mode&sftpclient.ModeType == sftpclient.ModeDir {
			return err
		}
		whole := context.WithoutCancel(ctx) // not to end while neither of the files has the name
		return makeRoom(c, old, full, err, func(from, into string) error { return c.Rename(whole, from, into) },
			func(p string) error { return c.Remove(whole, p) })
	})
}

// Symlink implements Target.
func (s *SFTP) Symlink(ctx context.Context, target, path string) error {
	if strings.IndexByte(target, 0) >= 0 || target == "" {
		return failf("link", path, KindName, "the target is %s", quote(target))
	}
	return s.with(ctx, "link", path, func(c *sftpclient.Client, full string) error {
		reversed, err := s.symlinkOrder(ctx, c, strings.TrimSuffix(full, path))
		if err != nil {
			return err
		}
		return reason(ctx, c, full, c.Symlink(ctx, target, full, reversed))
	})
}

// symlinkOrder finds out, once, in which order the server takes the arguments of SYMLINK: by a
// link between two names of our own, so that no order makes anything else.
func (s *SFTP) symlinkOrder(ctx context.Context, c *sftpclient.Client, top string) (reversed bool, err error) {
	s.links.Lock() // held while asking: the others need the answer, too
	defer s.links.Unlock()
	if s.order != nil {
		return *s.order, nil
	}
	for range orderAttempts {
		if reversed, err = askOrder(ctx, c, top); err == nil {
			s.order = &reversed
			return reversed, nil
		}
		if c.Err() != nil || ctx.Err() != nil {
			break
		}
	}
	return false, err
}

// orderAttempts is how often the question is asked: another restore may take the link away.
const orderAttempts = 3

// askOrder makes the link, and looks which of the names it has. The names are always the same, so
// that one that was left behind is found, tells as much, and goes.
func askOrder(ctx context.Context, c *sftpclient.Client, top string) (reversed bool, err error) {
	target, link := top+"/.snapgate-order-a", top+"/.snapgate-order-b"
	made := c.Symlink(ctx, target, link, false)
	if c.Err() != nil {
		return false, made
	}
	at, lerr := c.ReadLink(ctx, link)
	back, terr := c.ReadLink(ctx, target)
	if lerr == nil {
		_ = c.Remove(ctx, link)
	}
	if terr == nil {
		_ = c.Remove(ctx, target)
	}
	switch {
	case lerr == nil && at == target:
		return false, nil
	case terr == nil && back == link:
		return true, nil
	case made != nil:
		return false, made // or what was in its way is away now
	}
	return false, errors.Join(errReversed, lerr, terr)
}

// SetAttributes implements Target. Without lsetstat@openssh.com those of symbolic links are
// left.
func (s *SFTP) SetAttributes(ctx context.Context, path string, t Type, a Attributes) error {
	return s.with(ctx, "set attributes of", path, func(c *sftpclient.Client, full string) error {
		if t == Symlink {
			if !c.Has("lsetstat@openssh.com") {
				return nil
			}
			a.HasMode = false
		}
		cannot := &s.noSetstat
		var first error
		for i, set := range sftpSets(a, cannot) {
			if set == (sftpclient.Set{Mode: set.Mode}) {
				continue
			}
			if t == Symlink {
				cannot = new(atomic.Bool) // that of a link says nothing of others
			}
			if first != nil {
				set.Mode &^= 0o6000 // of somebody else
			}
			err := learnSetstat(i, s.setstat(ctx, c, full, t, set), cannot)
			var st *sftpclient.StatusError
			if err != nil && (!errors.As(err, &st) || st.Lost()) {
				return err
			}
			first = cmp.Or(first, err)
		}
		return first
	})
}

// setstat sets attributes of what a path names, where possible of nothing else: OpenSSH's server
// refuses modes in lsetstat@openssh.com where the system has no way to set them without following
// links, as in a root directory without /proc.
func (s *SFTP) setstat(ctx context.Context, c *sftpclient.Client, full string, t Type, set sftpclient.Set) error {
	switch {
	case t == Symlink:
		return c.Lsetstat(ctx, full, set)
	case !c.Has("lsetstat@openssh.com"):
		return c.Setstat(ctx, full, set)
	}
	var refused error
	if !s.noLsetstat.Load() {
		refused = c.Lsetstat(ctx, full, set)
		var st *sftpclient.StatusError
		if !errors.As(refused, &st) || st.NotExist() || st.Permission() || st.Lost() {
			return refused
		}
	}
	now, err := c.Lstat(ctx, full)
	if err != nil {
		return err
	}
	if e := sftpEntry(full, sftpclient.Name{Attrs: now}); e.Type != t {
		return failf("set attributes of", full, KindChanged, "it is something else by now")
	}
	if err = c.Setstat(ctx, full, set); err == nil && refused != nil {
		s.noLsetstat.Store(true)
	}
	return err
}

// Remove implements Target.
func (s *SFTP) Remove(ctx context.Context, path string, t Type) error {
	return s.with(ctx, "remove", path, func(c *sftpclient.Client, full string) error {
		switch {
		case path == "/":
			return failf("remove", path, KindName, "it is the root")
		case t == Dir:
			return c.Rmdir(ctx, full)
		}
		return c.Remove(ctx, full)
	})
}

// Writes implements Target.
func (s *SFTP) Writes(ctx context.Context) (Writes, error) {
	var w Writes
	conn, err := s.pool.get(ctx)
	if err != nil {
		return w, sftpError(ctx, "connect", "", err)
	}
	defer s.pool.put(conn)
	files, dirs := !s.noFsetstat.Load(), !s.noSetstat.Load()
	return Writes{Mode: files, ModTime: files, DirMode: dirs, DirTime: dirs, Owner: true, Symlinks: true, Durable: conn.s.Has(sftpclient.Fsync)}, nil
}
