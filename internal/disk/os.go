package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// OS is the file system of the machine. The zero value is ready to use.
type OS struct{}

var _ FS = OS{}

// OpenFile implements FS.
func (OS) OpenFile(path string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements FS.
func (OS) Rename(oldpath, newpath string) error { return os.Rename(oldpath, newpath) }

// Remove implements FS.
func (OS) Remove(path string) error { return os.Remove(path) }

// MkdirAll implements FS.
func (OS) MkdirAll(path string, perm fs.FileMode) error { return os.MkdirAll(path, perm) }

// ReadDir implements FS.
func (OS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

// SyncDir implements FS. File systems that cannot sync a directory (some network and FUSE
// ones) make its entries durable on their own terms; for them it does nothing.
func (OS) SyncDir(path string) (err error) {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := syncDir(d); err != nil && !dirSyncUnsupported(err) {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

// osFile is a File over *os.File.
type osFile struct{ f *os.File }

func (o osFile) ReadAt(p []byte, off int64) (int, error)  { return o.f.ReadAt(p, off) }
func (o osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }
func (o osFile) Close() error                             { return o.f.Close() }
func (o osFile) Truncate(size int64) error                { return o.f.Truncate(size) }

func (o osFile) Sync() error {
	if err := syncData(o.f); err != nil {
		return fmt.Errorf("sync %s: %w", o.f.Name(), err)
	}
	return nil
}

func (o osFile) Size() (int64, error) {
	fi, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// preallocate implements preallocator.
func (o osFile) preallocate(size int64) error { return preallocate(o.f, size) }

// preallocator is a File that can reserve blocks.
type preallocator interface{ preallocate(size int64) error }

// Preallocate reserves disk blocks for the first size bytes of f without changing its
// size. It is a hint: where the file or the system cannot do it, it does nothing. No space
// left is reported.
func Preallocate(f File, size int64) error {
	if p, ok := f.(preallocator); ok {
		return p.preallocate(size)
	}
	return nil
}

// MkdirDurable makes a directory and its missing parents and makes their names durable, also
// that of the lowest one that was there already: a process that was killed may have made it
// just before. It is not an error when the directory above that one cannot be opened.
func MkdirDurable(fsys FS, path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	var missing []string
	there := path
	for ; ; there = filepath.Dir(there) {
		_, err := fsys.ReadDir(there)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, there)
		if there == filepath.Dir(there) {
			break
		}
	}
	if err := fsys.SyncDir(filepath.Dir(there)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	// One at a time, so that there is never more than one whose name is not durable.
	for _, p := range slices.Backward(missing) {
		if err := fsys.MkdirAll(p, perm); err != nil {
			return err
		}
		if err := fsys.SyncDir(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}
