package pull

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// fsPage is how many names of a directory are read at a time.
	fsPage = 1024
	// fsParallel is how many calls make sense on a local disk: enough for one that seeks.
	fsParallel = 8
)

// FS is a Remote on a local directory. Nothing outside of it is reached, whatever symbolic
// links are put into it meanwhile.
type FS struct {
	root *os.Root // nil before MakeRoot, when NewFSTarget has found nothing
	dir  string   // for MakeRoot
}

var _ Remote = (*FS)(nil)

// NewFS opens a directory. dir itself may be a symbolic link.
func NewFS(dir string) (*FS, error) {
	root, err := os.OpenRoot(dir)
	if err == nil {
		return &FS{root: root}, nil
	}
	if fi, serr := os.Stat(dir); serr == nil && !fi.IsDir() {
		return nil, failf("open", dir, KindConflict, "it is no directory")
	}
	return nil, failOS("open", dir, err)
}

// Lstat implements Remote.
func (f *FS) Lstat(ctx context.Context, path string) (Entry, error) {
	fi, err := f.lstat(ctx, "stat", path)
	if err != nil {
		return Entry{}, err
	}
	name := base(path)
	if path == "/" {
		name = "/"
	}
	return fsEntry(name, fi), nil
}

func (f *FS) lstat(ctx context.Context, op, path string) (fs.FileInfo, error) {
	if err := errors.Join(ctx.Err(), checkPath(op, path)); err != nil {
		return nil, err
	}
	if f.root == nil {
		return nil, fail(op, path, KindNotFound, fs.ErrNotExist)
	}
	fi, err := f.root.Lstat(local(path))
	if err != nil {
		return nil, failOS(op, path, err)
	}
	return fi, nil
}

// local is a path as os.Root takes it.
func local(path string) string {
	if path == "/" {
		return "."
	}
	return filepath.FromSlash(path[1:])
}

// ReadDir implements Remote.
func (f *FS) ReadDir(ctx context.Context, path string, each func(Entry) error) error {
	fi, err := f.lstat(ctx, "list", path)
	if err != nil {
		return err
	}
	if !fi.IsDir() { // a link to a directory would be followed
		return fail("list", path, KindNotFound, syscall.ENOTDIR)
	}
	dir, err := f.root.OpenRoot(local(path))
	if err != nil {
		return failOS("list", path, err)
	}
	defer dir.Close()
	names, err := dir.Open(".")
	if err != nil {
		return failOS("list", path, err)
	}
	defer names.Close()
	for {
		page, err := names.Readdirnames(fsPage)
		for _, name := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := each(f.entry(dir, path, name)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failOS("list", path, err)
		}
	}
}

func (f *FS) entry(dir *os.Root, path, name string) Entry {
	if err := checkName(path, name); err != nil {
		return Entry{Name: name, Err: err}
	}
	fi, err := dir.Lstat(name)
	if err != nil {
		return Entry{Name: name, Err: failOS("stat", child(path, name), err)}
	}
	return fsEntry(name, fi)
}

func fsEntry(name string, fi fs.FileInfo) Entry {
	e := Entry{
		Name: name, Mode: fi.Mode() & modeBits, HasMode: true,
		ModTime: fi.ModTime().UTC(), Precision: time.Nanosecond,
	}
	switch {
	case fi.Mode().IsRegular():
		e.Type, e.Size = File, fi.Size()
	case fi.IsDir():
		e.Type = Dir
	case fi.Mode()&fs.ModeSymlink != 0:
		e.Type = Symlink
	default:
		e.Type = Special
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		e.UID, e.GID, e.HasOwner = st.Uid, st.Gid, true
	}
	return e
}

// Open implements Remote; the reader is a Stater.
func (f *FS) Open(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	fi, err := f.lstat(ctx, "open", path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fail("open", path, KindSpecial, nil)
	}
	// Not blocking: it may have become a pipe.
	file, err := f.root.OpenFile(local(path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, failOS("open", path, err)
	}
	opened, err := file.Stat()
	if err == nil && !os.SameFile(fi, opened) {
		err = fail("open", path, KindChanged, nil)
	}
	if err != nil {
		return nil, errors.Join(failOS("open", path, err), file.Close())
	}
	return &fsReader{ctx: ctx, path: path, file: file, in: io.NewSectionReader(file, offset, length)}, nil
}

// fsReader is a reader for a goroutine at a time.
type fsReader struct {
	ctx  context.Context
	path string
	file *os.File
	in   *io.SectionReader
}

func (r *fsReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = failOS("read", r.path, err)
	}
	return n, err
}

func (r *fsReader) Stat(context.Context) (Entry, error) {
	fi, err := r.file.Stat()
	if err != nil {
		return Entry{}, failOS("stat", r.path, err)
	}
	name := base(r.path)
	return fsEntry(name, fi), nil
}

func (r *fsReader) Close() error { return r.file.Close() }

// Readlink implements Remote.
func (f *FS) Readlink(ctx context.Context, path string) (string, error) {
	if err := errors.Join(ctx.Err(), checkPath("readlink", path)); err != nil {
		return "", err
	}
	target, err := f.root.Readlink(local(path))
	if err != nil {
		return "", failOS("readlink", path, err)
	}
	return target, nil
}

// Capabilities implements Remote.
func (f *FS) Capabilities(context.Context) (Capabilities, error) {
	return Capabilities{
		Mode: true, Owner: true, Symlinks: true, RawNames: true, Ranges: true,
		Precision: time.Nanosecond, Parallel: fsParallel,
	}, nil
}

// Close implements Remote.
func (f *FS) Close() error {
	if f.root == nil {
		return nil
	}
	return f.root.Close()
}
