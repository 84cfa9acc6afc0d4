package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// fsPage is how many names of a directory are read at a time.
	fsPage = 1024
	// fsParallel is how many calls make sense on a local disk: enough for one that seeks.
	fsParallel = 8
)

// FS is a Remote on a local directory. Nothing outside of it is reached, and nothing in it by a symbolic link,
// whatever links are put into it meanwhile: a path with one in the middle is KindConflict.
type FS struct {
	root *os.File // nil before MakeRoot, when NewFSTarget has found nothing
	dir  string   // for MakeRoot
	// lstat is lstatAt, which tests replace.
	lstat func(dir int, name string) (unix.Stat_t, error)
}

var _ Remote = (*FS)(nil)

// NewFS opens a directory. dir itself may be a symbolic link.
func NewFS(dir string) (*FS, error) {
	root, err := openRoot(dir)
	if err == nil {
		return &FS{root: root, lstat: lstatAt}, nil
	}
	if fi, serr := os.Stat(dir); serr == nil && !fi.IsDir() {
		return nil, fail("open", dir, KindConflict, ErrNotDirectory)
	}
	return nil, failOS("open", dir, err)
}

func openRoot(dir string) (*os.File, error) { return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0) }

// Lstat implements Remote.
func (f *FS) Lstat(ctx context.Context, path string) (e Entry, err error) {
	err = f.do(ctx, "stat", path, func(dir int, name string) error {
		st, err := lstatAt(dir, name)
		if err != nil {
			return err
		}
		if path == "/" {
			name = "/"
		}
		e = statEntry(name, &st)
		return nil
	})
	return e, err
}

// ReadDir implements Remote. It leaves out what has vanished since its name was read, but not what is listed again and is not there
// all the same: so it is where a directory is damaged, and on file systems that do not find the names that they list.
func (f *FS) ReadDir(ctx context.Context, path string, each func(Entry) error) error {
	gone := make(map[string]struct{})
	err := f.eachName(ctx, path, func(dir int, name string) error {
		e := f.entry(dir, path, name)
		if e.Err != nil && KindOf(e.Err) == KindNotFound {
			gone[name] = struct{}{}
			return nil
		}
		return each(e)
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	err = f.eachName(ctx, path, func(dir int, name string) error {
		if _, ok := gone[name]; !ok {
			return nil
		}
		return each(f.entry(dir, path, name))
	})
	if KindOf(err) == KindNotFound { // it has vanished, too
		return nil
	}
	return err
}

// eachName calls each with the names in a directory.
func (f *FS) eachName(ctx context.Context, path string, each func(dir int, name string) error) error {
	dir, err := f.openDir(ctx, "list", path)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		page, err := dir.Readdirnames(fsPage)
		for _, name := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := each(int(dir.Fd()), name); err != nil {
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

// openDir opens a directory, which a symbolic link is not.
func (f *FS) openDir(ctx context.Context, op, path string) (d *os.File, err error) {
	err = f.do(ctx, op, path, func(dir int, name string) error {
		fd, err := openDirAt(dir, name)
		if errors.Is(err, errLink) {
			return fmt.Errorf("it is %w", err)
		}
		if err == nil {
			d = os.NewFile(uintptr(fd), path)
		}
		return err
	})
	return d, err
}

func (f *FS) entry(dir int, path, name string) Entry {
	if err := checkName(path, name); err != nil {
		return Entry{Name: name, Err: err}
	}
	st, err := f.lstat(dir, name)
	if err != nil {
		return Entry{Name: name, Err: failOS("stat", child(path, name), err)}
	}
	return statEntry(name, &st)
}

// Open implements Remote; the reader is a Stater.
func (f *FS) Open(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	var file *os.File
	err := f.do(ctx, "open", path, func(dir int, name string) error {
		seen, err := lstatAt(dir, name)
		if err != nil {
			return err
		}
		if fileType(&seen) != unix.S_IFREG { // opening a device does something
			return fail("open", path, KindSpecial, nil)
		}
		opened, now, err := openFileAt(dir, name, path, unix.O_RDONLY)
		if errors.Is(err, errLink) {
			return fail("open", path, KindChanged, err)
		}
		if err != nil {
			return err
		}
		if now.Dev != seen.Dev || now.Ino != seen.Ino {
			return errors.Join(fail("open", path, KindChanged, nil), opened.Close())
		}
		file = opened
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &fsReader{ctx: ctx, path: path, file: file, in: io.NewSectionReader(file, offset, length), end: offset + length}, nil
}

// fsReader is a reader for a goroutine at a time.
type fsReader struct {
	ctx  context.Context
	path string
	file *os.File
	in   *io.SectionReader
	end  int64 // of in
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

// Stat implements Stater. A size that more bytes than these are behind is not believed, where the end of the range is
// that of the file: what the kernel makes up says 0, as a rule, and FUSE what it likes.
func (r *fsReader) Stat(context.Context) (Entry, error) {
	more, err := r.more() // asked first, so that what its size says is not older
	if err != nil {
		return Entry{}, err
	}
	var st unix.Stat_t
	if err := uninterrupted(func() error { return unix.Fstat(int(r.file.Fd()), &st) }); err != nil {
		return Entry{}, failOS("stat", r.path, err)
	}
	e := statEntry(base(r.path), &st)
	if more && e.Size == r.end {
		return Entry{}, failf("read", r.path, KindProtocol, "there is more than the %d bytes that it has by its size", e.Size)
	}
	return e, nil
}

// more reports whether the file has a byte behind the range. It does not wait for one, as a log of the kernel would
// have it. That it cannot be read there says something of a file only of which nothing was read.
func (r *fsReader) more() (bool, error) {
	fd, n := int(r.file.Fd()), 0
	var one [1]byte
	err := unix.SetNonblock(fd, true)
	if err == nil {
		err = uninterrupted(func() (err error) {
			n, err = unix.Pread(fd, one[:], r.end)
			return err
		})
	}
	switch {
	case err == nil, r.end > 0:
		return n > 0, nil
	case errors.Is(err, unix.EAGAIN): // for failOS a connection that may come back
		return false, failf("read", r.path, KindOther, "it has nothing to read now: %w", err)
	}
	return false, failOS("read", r.path, err)
}

func (r *fsReader) Close() error { return r.file.Close() }

// Readlink implements Remote.
func (f *FS) Readlink(ctx context.Context, path string) (target string, err error) {
	err = f.do(ctx, "readlink", path, func(dir int, name string) (err error) {
		target, err = readlinkAt(dir, name)
		return err
	})
	return target, err
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
