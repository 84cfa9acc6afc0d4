package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile puts data into the file path, which is durable when it returns. It is written beside
// its place, as path with ".new" added, and renamed there, so that a crash leaves either what was
// there before or all of it.
func WriteFile(fsys FS, path string, data []byte, perm fs.FileMode) error {
	f, err := fsys.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(path+".new", path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// ReadFile returns what a file holds. One of more than limit bytes is ErrTooLarge.
func ReadFile(fsys FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size > limit {
		err = &fs.PathError{Op: "read", Path: path, Err: ErrTooLarge}
	}
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.NewSectionReader(f, 0, size))
	}
	return data, errors.Join(err, f.Close())
}

// ErrTooLarge says that a file is larger than anybody would have written it.
var ErrTooLarge = errors.New("the file is too large")
