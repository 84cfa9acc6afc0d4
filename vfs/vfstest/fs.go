package vfstest

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// clientFS shows a directory of a Client as an fs.FS, so that testing/fstest can check it.
type clientFS struct {
	cl   Client
	root string
}

// Open implements fs.FS.
func (f clientFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	full := path.Join(f.root, name)
	info, err := f.cl.Stat(full)
	if err != nil {
		// Which error it is, the other cases check.
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.Join(fs.ErrNotExist, err)}
	}
	if name == "." {
		info.Name = "."
	}
	if info.Type == vfs.TypeDir {
		return &clientDir{cl: f.cl, path: full, info: info}, nil
	}
	file, err := f.cl.Open(full, vfs.OpenRead)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &clientFile{SectionReader: io.NewSectionReader(file, 0, info.Size), file: file, info: info}, nil
}

type clientFile struct {
	*io.SectionReader
	file File
	info vfs.Info
}

func (f *clientFile) Stat() (fs.FileInfo, error) { return fileInfo{f.info}, nil }
func (f *clientFile) Close() error               { return f.file.Close() }

// clientDir is an open directory.
type clientDir struct {
	cl      Client
	path    string
	info    vfs.Info
	entries []fs.DirEntry
	read    bool
}

func (d *clientDir) Stat() (fs.FileInfo, error) { return fileInfo{d.info}, nil }
func (d *clientDir) Close() error               { return nil }
func (d *clientDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (d *clientDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		infos, err := d.cl.List(d.path)
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			d.entries = append(d.entries, fs.FileInfoToDirEntry(fileInfo{info}))
		}
		slices.SortFunc(d.entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		d.read = true
	}
	if n > 0 && len(d.entries) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.entries) {
		n = len(d.entries)
	}
	page := d.entries[:n]
	d.entries = d.entries[n:]
	return page, nil
}

// fileInfo is a vfs.Info as an fs.FileInfo.
type fileInfo struct{ vfs.Info }

func (i fileInfo) Name() string       { return i.Info.Name }
func (i fileInfo) Size() int64        { return i.Info.Size }
func (i fileInfo) ModTime() time.Time { return i.Info.ModTime }
func (i fileInfo) IsDir() bool        { return i.Type == vfs.TypeDir }
func (i fileInfo) Sys() any           { return nil }
func (i fileInfo) Mode() fs.FileMode {
	switch i.Type {
	case vfs.TypeDir:
		return i.Info.Mode | fs.ModeDir
	case vfs.TypeSymlink:
		return i.Info.Mode | fs.ModeSymlink
	}
	return i.Info.Mode
}
