package pull

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// NewFSTarget opens a directory for writing. When it is missing, MakeRoot makes it; until then
// nothing but Lstat is of use.
func NewFSTarget(dir string) (*FS, error) {
	f, err := NewFS(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &FS{dir: filepath.Clean(dir)}, nil
	}
	return f, err
}

// makeDurably makes a directory and those above it, so that they survive a power loss.
func makeDurably(dir string) error {
	switch err := os.Mkdir(dir, newDirMode); {
	case err == nil:
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir:
		if err := makeDurably(filepath.Dir(dir)); err != nil {
			return err
		}
		return makeDurably(dir)
	default:
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(syncDir(parent), parent.Close())
}

// syncDir makes names durable. Some network file systems cannot, and do it on their own terms.
func syncDir(d *os.File) error {
	err := d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// MakeRoot implements Target. It must not be called beside other methods.
func (f *FS) MakeRoot(ctx context.Context) (made bool, err error) {
	if f.root != nil || ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err := makeDurably(f.dir); err != nil {
		return false, failOS("make", f.dir, err)
	}
	if f.root, err = os.OpenRoot(f.dir); err != nil {
		return false, failOS("open", f.dir, err)
	}
	return true, nil
}

// Mkdir implements Target.
func (f *FS) Mkdir(ctx context.Context, path string) error {
	return f.do(ctx, "make", path, func() error { return f.root.Mkdir(local(path), newDirMode) })
}

func (f *FS) do(ctx context.Context, op, path string, fn func() error) error {
	if err := errors.Join(ctx.Err(), checkPath(op, path)); err != nil {
		return err
	}
	if f.root == nil {
		return fail(op, path, KindNotFound, fs.ErrNotExist)
	}
	if err := fn(); err != nil {
		return failOS(op, path, err)
	}
	return nil
}

// Create implements Target.
func (f *FS) Create(ctx context.Context, path string, offset int64) (Writer, error) {
	w := &fsWriter{f: f, path: path, size: offset}
	err := f.do(ctx, "write", path, func() (err error) {
		flags := os.O_WRONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
		if offset == 0 {
			flags |= os.O_CREATE | os.O_EXCL
		}
		if w.file, err = f.root.OpenFile(local(path), flags, newFileMode); err != nil {
			return err
		}
		if offset > 0 {
			var fi fs.FileInfo
			if fi, err = w.file.Stat(); err == nil && !fi.Mode().IsRegular() {
				err = fail("write", path, KindSpecial, nil)
			}
			if err == nil {
				err = w.file.Truncate(offset)
			}
			if err == nil {
				_, err = w.file.Seek(offset, 0)
			}
			if err != nil {
				return errors.Join(err, w.file.Close())
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// fsWriter is a Writer.
type fsWriter struct {
	f    *FS
	path string
	file *os.File // nil when it was closed
	size int64    // of the file
}

func (w *fsWriter) Write(ctx context.Context, p []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := w.file.Write(p)
	w.size += int64(n)
	if err != nil {
		return failOS("write", w.path, err)
	}
	return nil
}

func (w *fsWriter) Sync(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := w.file.Sync(); err != nil {
		return 0, failOS("write", w.path, err)
	}
	return w.size, nil
}

func (w *fsWriter) Finish(ctx context.Context, a Attributes) error {
	defer w.Abort()
	lacks := w.attributes(a)
	_, err := w.Sync(ctx)
	file := w.file
	w.file = nil
	if cerr := file.Close(); cerr != nil {
		err = errors.Join(err, failOS("write", w.path, cerr))
	}
	if err == nil && lacks != nil {
		err = &AttributeError{lacks}
	}
	return err
}

// attributes sets what it can, and returns the first error.
func (w *fsWriter) attributes(a Attributes) (err error) {
	if a.HasOwner { // first: it takes setuid away
		if cerr := w.file.Chown(int(a.UID), int(a.GID)); cerr != nil {
			err = failOS("set the owner of", w.path, cerr)
			a.Mode &^= fs.ModeSetuid | fs.ModeSetgid
		}
	}
	if a.HasMode {
		if cerr := w.file.Chmod(a.Mode); cerr != nil && err == nil {
			err = failOS("set the mode of", w.path, cerr)
		}
	}
	if !a.ModTime.IsZero() {
		if cerr := w.f.setTime(w.path, a.ModTime); cerr != nil && err == nil {
			err = failOS("set the time of", w.path, cerr)
		}
	}
	return err
}

func (w *fsWriter) Abort() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
}

// setTime sets the time of what is at a path, of a symbolic link itself.
func (f *FS) setTime(path string, t time.Time) error {
	dir, err := f.root.Open(filepath.Dir(local(path)))
	if err != nil {
		return err
	}
	defer dir.Close()
	ts := unix.NsecToTimespec(t.UnixNano())
	name := filepath.Base(local(path))
	rc, err := dir.SyscallConn()
	if err != nil {
		return err
	}
	var terr error
	err = rc.Control(func(fd uintptr) {
		terr = unix.UtimesNanoAt(int(fd), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
	return errors.Join(err, terr)
}

// Rename implements Target.
func (f *FS) Rename(ctx context.Context, from, to string) error {
	return errors.Join(checkPath("rename", from), f.do(ctx, "rename", to, func() error { return f.root.Rename(local(from), local(to)) }))
}

// Symlink implements Target. The target may be anything: it is not followed.
func (f *FS) Symlink(ctx context.Context, target, path string) error {
	return f.do(ctx, "link", path, func() error { return f.root.Symlink(target, local(path)) })
}

// SetAttributes implements Target. Modes of symbolic links are left. For a directory it is
// SyncDir, too: what it sets may be that nobody can open it any more.
func (f *FS) SetAttributes(ctx context.Context, path string, t Type, a Attributes) (err error) {
	if t == Dir {
		return f.do(ctx, "set attributes of", path, func() error { return f.setDir(ctx, path, a) })
	}
	return f.setAttributes(ctx, path, t, a)
}

func (f *FS) setDir(ctx context.Context, path string, a Attributes) error {
	d, err := f.root.Open(local(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return errors.Join(f.setAttributes(ctx, path, Dir, a), syncDir(d)) // its names are there in any case
}

func (f *FS) setAttributes(ctx context.Context, path string, t Type, a Attributes) error {
	if a.HasOwner {
		if err := f.do(ctx, "set the owner of", path, func() error { return f.root.Lchown(local(path), int(a.UID), int(a.GID)) }); err != nil {
			return err
		}
	}
	if !a.ModTime.IsZero() {
		if err := f.do(ctx, "set the time of", path, func() error { return f.setTime(path, a.ModTime) }); err != nil {
			return err
		}
	}
	if a.HasMode && t != Symlink {
		return f.chmod(ctx, path, a.Mode)
	}
	return nil
}

// chmod changes what is there, unless it is a symbolic link.
func (f *FS) chmod(ctx context.Context, path string, mode fs.FileMode) error {
	return f.do(ctx, "set the mode of", path, func() error {
		fi, err := f.root.Lstat(local(path))
		if err != nil {
			return err
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			return fail("set the mode of", path, KindConflict, errors.New("it is a symbolic link"))
		}
		return f.root.Chmod(local(path), mode)
	})
}

// Remove implements Target.
func (f *FS) Remove(ctx context.Context, path string, _ Type) error {
	return f.do(ctx, "remove", path, func() error {
		if path == "/" {
			return fs.ErrInvalid
		}
		return f.root.Remove(local(path))
	})
}

// SyncDir implements DirSyncer.
func (f *FS) SyncDir(ctx context.Context, path string) error {
	return f.do(ctx, "sync", path, func() error {
		d, err := f.root.Open(local(path))
		if err != nil {
			return err
		}
		return errors.Join(syncDir(d), d.Close())
	})
}

// Writes implements Target. Whether the owner may be set shows when it is.
func (f *FS) Writes(ctx context.Context) (Writes, error) {
	return Writes{Mode: true, ModTime: true, DirMode: true, DirTime: true, Owner: true, Symlinks: true, Durable: true}, ctx.Err()
}
