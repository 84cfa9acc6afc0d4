package snapshotter

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// fsPage is how many entries a directory of FS reads at a time.
const fsPage = 512

// fsLinks is how many symbolic links are followed in one path, as Linux has it.
const fsLinks = 40

// FS returns the view as an fs.FS, which also implements fs.StatFS, fs.ReadDirFS and
// fs.ReadLinkFS; its regular files implement io.ReaderAt and io.Seeker. ctx bounds all that
// is done with it. Symbolic links are followed as long as they stay inside.
func (v *View) FS(ctx context.Context) fs.FS { return &viewFS{ctx: ctx, v: v} }

// viewFS holds a context because fs.FS has no other way to pass one.
type viewFS struct {
	ctx context.Context //nolint:containedctx // see above
	v   *View
}

var (
	_ fs.StatFS     = (*viewFS)(nil)
	_ fs.ReadDirFS  = (*viewFS)(nil)
	_ fs.ReadLinkFS = (*viewFS)(nil)
)

// lstat describes what is at a name.
func (f *viewFS) lstat(op, name string) (fileInfoFS, error) {
	if !fs.ValidPath(name) {
		return fileInfoFS{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return f.info(op, name, path.Join("/", name))
}

// stat is lstat that follows symbolic links. It also gives the path that they lead to.
func (f *viewFS) stat(op, name string) (fileInfoFS, string, error) {
	if !fs.ValidPath(name) {
		return fileInfoFS{}, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	p, err := f.resolve(path.Join("/", name))
	if err != nil {
		return fileInfoFS{}, "", &fs.PathError{Op: op, Path: name, Err: err}
	}
	fi, err := f.info(op, name, p)
	return fi, p, err
}

func (f *viewFS) info(op, name, p string) (fileInfoFS, error) {
	e, err := f.v.Lstat(f.ctx, p)
	if err != nil {
		return fileInfoFS{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	e.Name = path.Base(name)
	return fileInfoFS{e}, nil
}

// resolve replaces the symbolic links in a path, one at a time. ".." never leads out of
// the view.
func (f *viewFS) resolve(p string) (string, error) {
	done, rest := "/", strings.TrimPrefix(p, "/")
	for links := 0; rest != ""; {
		var elem string
		elem, rest, _ = strings.Cut(rest, "/")
		next := path.Join(done, elem)
		e, err := f.v.Lstat(f.ctx, next)
		if err != nil {
			return "", err
		}
		if e.Kind != Symlink {
			done = next
			continue
		}
		if links++; links > fsLinks {
			return "", fmt.Errorf("%w: more than %d symbolic links", fs.ErrInvalid, fsLinks)
		}
		target := e.Target
		if !path.IsAbs(target) {
			target = path.Join(done, target)
		}
		done, rest = "/", strings.TrimPrefix(path.Join("/", target, rest), "/")
	}
	return done, nil
}

func (f *viewFS) Open(name string) (fs.File, error) {
	fi, p, err := f.stat("open", name)
	if err != nil {
		return nil, err
	}
	if fi.e.Kind == Dir {
		return &fsDir{f: f, fi: fi, name: name, path: p}, nil
	}
	r, err := f.v.Open(f.ctx, p)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &fsFile{SectionReader: io.NewSectionReader(r, 0, r.Size()), r: r, fi: fi}, nil
}

func (f *viewFS) Stat(name string) (fs.FileInfo, error) {
	fi, _, err := f.stat("stat", name)
	if err != nil {
		return nil, err
	}
	return fi, nil
}

func (f *viewFS) Lstat(name string) (fs.FileInfo, error) {
	fi, err := f.lstat("lstat", name)
	if err != nil {
		return nil, err
	}
	return fi, nil
}

func (f *viewFS) ReadLink(name string) (string, error) {
	fi, err := f.lstat("readlink", name)
	if err != nil {
		return "", err
	}
	if fi.e.Kind != Symlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return fi.e.Target, nil
}

func (f *viewFS) ReadDir(name string) ([]fs.DirEntry, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	d, ok := file.(*fsDir)
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errNotDir}
	}
	return d.ReadDir(-1)
}

// fsFile is an open regular file.
type fsFile struct {
	*io.SectionReader
	r  *Reader
	fi fileInfoFS
}

func (f *fsFile) Stat() (fs.FileInfo, error) { return f.fi, nil }
func (f *fsFile) Close() error               { return f.r.Close() }

// fsDir is an open directory.
type fsDir struct {
	f     *viewFS
	fi    fileInfoFS
	name  string
	path  string
	after string
	done  bool
}

func (d *fsDir) Stat() (fs.FileInfo, error) { return d.fi, nil }
func (d *fsDir) Close() error               { return nil }

func (d *fsDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (d *fsDir) ReadDir(n int) ([]fs.DirEntry, error) {
	var entries []fs.DirEntry
	for !d.done && (n <= 0 || len(entries) < n) {
		want := fsPage
		if n > 0 {
			want = min(want, n-len(entries))
		}
		page, err := d.f.v.ReadDir(d.f.ctx, d.path, d.after, want)
		if err != nil {
			return entries, &fs.PathError{Op: "readdir", Path: d.name, Err: err}
		}
		for _, e := range page {
			entries = append(entries, fs.FileInfoToDirEntry(fileInfoFS{e}))
			d.after = e.Name
		}
		d.done = len(page) < want
	}
	if n > 0 && len(entries) == 0 {
		return nil, io.EOF
	}
	return entries, nil
}

// fileInfoFS is an Entry as an fs.FileInfo.
type fileInfoFS struct{ e Entry }

func (fi fileInfoFS) Name() string       { return fi.e.Name }
func (fi fileInfoFS) Size() int64        { return fi.e.Size }
func (fi fileInfoFS) ModTime() time.Time { return fi.e.Attr.ModTime }
func (fi fileInfoFS) IsDir() bool        { return fi.e.Kind == Dir }

// Sys returns the Entry.
func (fi fileInfoFS) Sys() any { return fi.e }

func (fi fileInfoFS) Mode() fs.FileMode {
	switch fi.e.Kind {
	case Dir:
		return fi.e.Attr.Mode | fs.ModeDir
	case Symlink:
		return fi.e.Attr.Mode | fs.ModeSymlink
	}
	return fi.e.Attr.Mode
}
