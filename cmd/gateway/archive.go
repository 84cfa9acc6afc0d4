package main

import (
	"archive/tar"
	"archive/zip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/snapgate/gateway/cmd/gateway/internal/snapref"
	"github.com/snapgate/gateway/snapshotter"
)

// archiver is an archive that is being written.
type archiver interface {
	// add adds an entry; body writes the bytes of a file, e.Size of them.
	add(name string, e snapshotter.Entry, body func(io.Writer) error) error
	Close() error
}

// archive writes an archive to standard output: what lies in a directory lies at its root.
func (g *getCommand) archive(ctx context.Context, v *viewing, view *snapshotter.View, found snapref.Found, top snapshotter.Entry) error {
	var a archiver = tarArchive{tar.NewWriter(v.out)}
	if g.zip {
		a = zipArchive{zip.NewWriter(v.out)}
	}
	left := 0
	each := func(p string, e snapshotter.Entry) error {
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
			left++
			_, _ = fmt.Fprintf(v.p.stderr, "left out: %s: no file can have that name\n", printable(p))
			if e.Kind == snapshotter.Dir {
				return errSkipped
			}
			return nil
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p, found.Path), "/")
		if p == found.Path {
			name = path.Base(p)
		}
		return a.add(name, e, func(w io.Writer) error { return copyFile(ctx, w, view, p) })
	}
	var err error
	if top.Kind == snapshotter.Dir {
		err = walk(ctx, view, found.Path, each)
	} else {
		err = each(found.Path, top)
	}
	if err != nil {
		return err // without the end of the archive, which tells whoever reads it
	}
	if err := a.Close(); err != nil {
		return err
	}
	if n := len((&restoreCommand{}).lacks(ctx, view, found)); n > 0 {
		_, _ = fmt.Fprintf(v.p.stderr, "the snapshot lacks %s that could not be captured: see gateway info\n", count(n, "path", "paths"))
	}
	if left > 0 {
		return &incompleteError{count(left, "name was", "names were") + " left out"}
	}
	return nil
}

// tarArchive is a tar archive.
type tarArchive struct{ *tar.Writer }

func (a tarArchive) add(name string, e snapshotter.Entry, body func(io.Writer) error) error {
	h := &tar.Header{
		Name: name, Typeflag: tar.TypeReg, Size: e.Size, Mode: int64(unixBits(e.Attr.Mode)), ModTime: e.Attr.ModTime,
		Uid: int(e.Attr.UID), Gid: int(e.Attr.GID), Uname: e.Owner, Gname: e.Group, Format: tar.FormatPAX,
	}
	switch e.Kind {
	case snapshotter.Dir:
		h.Typeflag, h.Name, h.Size = tar.TypeDir, name+"/", 0
	case snapshotter.Symlink:
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, e.Target, 0
	}
	if err := a.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	return body(a)
}

// zipArchive is a zip archive.
type zipArchive struct{ *zip.Writer }

func (a zipArchive) add(name string, e snapshotter.Entry, body func(io.Writer) error) error {
	h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: e.Attr.ModTime}
	switch e.Kind {
	case snapshotter.Dir:
		h.Name, h.Method = name+"/", zip.Store
		h.SetMode(e.Attr.Mode | fs.ModeDir)
	case snapshotter.Symlink:
		h.Method = zip.Store
		h.SetMode(e.Attr.Mode | fs.ModeSymlink)
		body = func(w io.Writer) error { _, err := io.WriteString(w, e.Target); return err }
	default:
		h.SetMode(e.Attr.Mode)
	}
	w, err := a.CreateHeader(h)
	if err != nil || e.Kind == snapshotter.Dir {
		return err
	}
	return body(w)
}
