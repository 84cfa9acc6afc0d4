package pull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// NewFSTarget opens a directory for writing. When it is missing, MakeRoot makes it; until then
// nothing but Lstat is of use.
func NewFSTarget(dir string) (*FS, error) {
	f, err := NewFS(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &FS{dir: filepath.Clean(dir), lstat: lstatAt}, nil
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
	if f.root, err = openRoot(f.dir); err != nil {
		return false, failOS("open", f.dir, err)
	}
	return true, nil
}

// Mkdir implements Target.
func (f *FS) Mkdir(ctx context.Context, path string) error {
	return f.do(ctx, "make", path, func(dir int, name string) error {
		return uninterrupted(func() error { return unix.Mkdirat(dir, name, newDirMode) })
	})
}

// Create implements Target.
func (f *FS) Create(ctx context.Context, path string, offset int64) (Writer, error) {
	w := &fsWriter{f: f, path: path, size: offset}
	err := f.do(ctx, "write", path, func(dir int, name string) error {
		flags := unix.O_WRONLY
		if offset == 0 {
			flags |= unix.O_CREAT | unix.O_EXCL
		}
		file, st, err := openFileAt(dir, name, path, flags)
		if errors.Is(err, errLink) {
			return fmt.Errorf("it is %w", err)
		}
		if err == nil && offset > 0 {
			err = resume(file, st, offset)
		}
		if err != nil && file != nil {
			err = errors.Join(err, file.Close())
		}
		w.file = file
		return err
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// resume cuts a file at offset, where writing goes on.
func resume(file *os.File, st *unix.Stat_t, offset int64) error {
	if st.Nlink > 1 { // which no temporary file of ours has
		return fail("write", file.Name(), KindConflict, errors.New("it is another file, too: a hard link"))
	}
	if err := file.Truncate(offset); err != nil {
		return err
	}
	_, err := file.Seek(offset, io.SeekStart)
	return err
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
		if cerr := w.setTime(a.ModTime); cerr != nil && err == nil {
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

func (w *fsWriter) setTime(t time.Time) error {
	return w.f.at(w.path, func(dir int, name string) error { return setTimeAt(dir, name, t) })
}

// Rename implements Target.
func (f *FS) Rename(ctx context.Context, from, to string) error {
	return f.do(ctx, "rename", from, func(fromDir int, fromName string) error {
		return f.do(ctx, "rename", to, func(toDir int, toName string) error {
			return uninterrupted(func() error { return unix.Renameat(fromDir, fromName, toDir, toName) })
		})
	})
}

// Symlink implements Target. The target may be anything: it is not followed.
func (f *FS) Symlink(ctx context.Context, target, path string) error {
	return f.do(ctx, "link", path, func(dir int, name string) error {
		return uninterrupted(func() error { return unix.Symlinkat(target, dir, name) })
	})
}

// SetAttributes implements Target. Modes of symbolic links are left. For a directory it is
// SyncDir, too: what it sets may be that nobody can open it any more. One that cannot be opened
// gets its attributes when a mode is among them, and is not synced.
func (f *FS) SetAttributes(ctx context.Context, path string, t Type, a Attributes) error {
	byName := func() error {
		return f.do(ctx, "set attributes of", path, func(dir int, name string) error { return setAt(dir, name, path, t, a) })
	}
	if t != Dir {
		return byName()
	}
	d, err := f.openDir(ctx, "set attributes of", path)
	if err != nil && KindOf(err) == KindPermission && a.HasMode && path != "/" {
		return byName() // its owner may do so without the right to read it
	}
	if err != nil {
		return err
	}
	defer d.Close()
	err = errors.Join(setDir(int(d.Fd()), path, a), syncDir(d)) // its names are there in any case
	if err != nil {
		return failOS("set attributes of", path, err)
	}
	return nil
}

// setDir sets attributes of an open directory, which need not be searchable: its "." cannot be named then. The time
// comes first, while the directory is still its owner's. It sets what it can, and returns the first error: without its
// owner, setuid and setgid would be of somebody else. path is for messages.
func setDir(dir int, path string, a Attributes) (err error) {
	if !a.ModTime.IsZero() {
		terr := setTimeAt(dir, ".", a.ModTime)
		if errors.Is(terr, unix.EACCES) {
			terr = setTimeOpened(dir, a.ModTime)
		}
		if terr != nil {
			err = failOS("set the time of", path, terr)
		}
	}
	if a.HasOwner {
		if oerr := uninterrupted(func() error { return unix.Fchown(dir, int(a.UID), int(a.GID)) }); oerr != nil {
			err = cmp.Or(err, failOS("set the owner of", path, oerr))
			a.Mode &^= fs.ModeSetuid | fs.ModeSetgid
		}
	}
	if a.HasMode {
		if merr := uninterrupted(func() error { return unix.Fchmod(dir, modeNumber(a.Mode)) }); merr != nil {
			err = cmp.Or(err, failOS("set the mode of", path, merr))
		}
	}
	return err
}

// setAt sets attributes of what a directory has under a name, as setDir does, the owner first. path is for messages.
func setAt(dir int, name, path string, t Type, a Attributes) (err error) {
	if a.HasOwner {
		oerr := uninterrupted(func() error { return unix.Fchownat(dir, name, int(a.UID), int(a.GID), unix.AT_SYMLINK_NOFOLLOW) })
		if oerr != nil {
			err = failOS("set the owner of", path, oerr)
			a.Mode &^= fs.ModeSetuid | fs.ModeSetgid
		}
	}
	if !a.ModTime.IsZero() {
		if terr := setTimeAt(dir, name, a.ModTime); terr != nil {
			err = cmp.Or(err, failOS("set the time of", path, terr))
		}
	}
	if !a.HasMode || t == Symlink {
		return err
	}
	switch merr := chmodAt(dir, name, modeNumber(a.Mode)); {
	case errors.Is(merr, errLink):
		return cmp.Or(err, fail("set the mode of", path, KindConflict, fmt.Errorf("it is %w", merr)))
	case merr != nil:
		return cmp.Or(err, failOS("set the mode of", path, merr))
	}
	return err
}

// Remove implements Target.
func (f *FS) Remove(ctx context.Context, path string, _ Type) error {
	return f.do(ctx, "remove", path, func(dir int, name string) error {
		if path == "/" {
			return fs.ErrInvalid
		}
		return removeAt(dir, name)
	})
}

// SyncDir implements DirSyncer.
func (f *FS) SyncDir(ctx context.Context, path string) error {
	d, err := f.openDir(ctx, "sync", path)
	if err != nil {
		return err
	}
	if err := errors.Join(syncDir(d), d.Close()); err != nil {
		return failOS("sync", path, err)
	}
	return nil
}

// Writes implements Target. Whether the owner may be set shows when it is.
func (f *FS) Writes(ctx context.Context) (Writes, error) {
	return Writes{Mode: true, ModTime: true, DirMode: true, DirTime: true, Owner: true, Symlinks: true, Durable: true}, ctx.Err()
}
