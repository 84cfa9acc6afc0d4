package websrv

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/snapgate/gateway/vfs"
)

// archive answers with a directory as a zip archive, as the session shows it. What goes wrong on
// the way ends it without its index: nobody takes it for whole.
func (v *viewer) archive(x *visit) error {
	if p := x.place(x.name); p.snap == latestName {
		return x.toLatest("zip", &p)
	}
	info, err := x.sess.Stat(x.ctx, x.name.String())
	switch {
	case err != nil:
		return err
	case info.Type != vfs.TypeDir:
		return &vfs.Error{Op: "archive", Name: x.name, Kind: vfs.KindNotDir}
	case !x.who.Perms.Has(vfs.PermRead | vfs.PermList):
		return &vfs.Error{Op: "archive", Name: x.name, Kind: vfs.KindPermission}
	}
	done, err := x.turn(v.archives)
	if err != nil {
		return err
	}
	defer done()
	dir, err := x.sess.ReadDir(x.ctx, x.name.String())
	if err != nil {
		return err
	}
	h := x.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Security-Policy", sandboxed)
	h.Set("Content-Disposition", disposition(archiveName(x)))
	if x.r.Method == http.MethodHead {
		return dir.Close()
	}
	w := x.patient()
	a := &archiving{x: x, zip: zip.NewWriter(w), buf: make([]byte, copyBuffer)}
	err = a.directory(x.name, "", dir)
	if err == nil {
		err = a.zip.Close()
	}
	if err != nil {
		w.cut()
		if x.ctx.Err() == nil {
			v.log.Error("an archive was cut off", "conn", x.login.id, "principal", x.login.user, "path", x.name.String(), "err", err)
		}
	}
	return nil
}

// toLatest leads to a page of the snapshot that is the latest one now: the next one may come meanwhile.
func (x *visit) toLatest(page string, p *place) error {
	r, err := x.reach(p.mount)
	if err != nil {
		return err
	}
	snap, err := r.find(latestName)
	if err != nil {
		return err
	}
	http.Redirect(x.w, x.r, link(page, viewName(p.mount, r.nameOf(snap), p.inMount())), http.StatusSeeOther)
	return nil
}

// archiveName is the name that an archive is saved under.
func archiveName(x *visit) string {
	p := x.place(x.name)
	name := p.live.Base()
	if p.live.IsRoot() {
		name = "files"
		if p.mount != nil {
			name = p.mount.Share
		}
	}
	if p.snap != "" {
		name += "-" + p.snap
	}
	return name + ".zip"
}

// copyBuffer is how much of a file is copied at a time.
const copyBuffer = 256 << 10

// archiving is an archive that is being made.
type archiving struct {
	x       *visit
	zip     *zip.Writer
	buf     []byte
	entries int
	names   int // bytes
}

// What an archive may have: each entry takes some hundred bytes of memory, and its whole name, until the index is written.
const (
	archiveEntries = 500_000
	archiveNames   = 64 << 20 // bytes of names: 134 for each of so many entries
)

var (
	errArchiveEntries = fmt.Errorf("there are more than %d files; restore them with SFTP, or gateway get --zip", archiveEntries)
	errArchiveNames   = fmt.Errorf("the names of its files have more than %d MiB; restore them with SFTP, or gateway get --zip", archiveNames>>20)
)

// count counts an entry by the name that it has in the archive, and says whether it is one too many.
func (a *archiving) count(in string) error {
	a.entries++
	a.names += len(in)
	switch {
	case a.entries > archiveEntries:
		return errArchiveEntries
	case a.names > archiveNames:
		return errArchiveNames
	}
	return nil
}

// directory adds what is in a directory, and closes it.
func (a *archiving) directory(name vfs.Name, in string, d *vfs.Dir) (err error) {
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		page, err := d.Next(a.x.ctx, listPage)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range page {
			if page[i].Name == historyDir {
				continue // where it is listed: it would not end
			}
			if err := a.entry(name.Join(page[i].Name), in+page[i].Name, &page[i]); err != nil {
				return err
			}
		}
	}
}

// entry adds an entry. Names with a backslash are left as they are: they are names here.
func (a *archiving) entry(name vfs.Name, in string, i *vfs.Info) error {
	if err := a.count(in); err != nil {
		return err
	}
	h := &zip.FileHeader{Name: in, Method: zip.Deflate, Modified: i.ModTime}
	switch i.Type {
	case vfs.TypeDir:
		h.Name, h.Method = in+"/", zip.Store
		h.SetMode(i.Mode | fs.ModeDir)
		if _, err := a.zip.CreateHeader(h); err != nil {
			return err
		}
		d, err := a.x.sess.ReadDir(a.x.ctx, name.String())
		if err != nil {
			return err
		}
		return a.directory(name, in+"/", d)
	case vfs.TypeSymlink:
		target, err := a.x.sess.Readlink(a.x.ctx, name.String())
		if err != nil {
			return err
		}
		h.Method = zip.Store
		h.SetMode(i.Mode | fs.ModeSymlink)
		w, err := a.zip.CreateHeader(h)
		if err == nil {
			_, err = io.Copy(w, strings.NewReader(target))
		}
		return err
	}
	h.SetMode(i.Mode)
	return a.file(name, h)
}

// file adds a file. One of the live tree that has gone since it was listed is left out, as if it had
// gone before; unless the directory that it was listed in has gone: what else is in there is not gone.
func (a *archiving) file(name vfs.Name, h *zip.FileHeader) (err error) {
	f, err := a.x.sess.Open(a.x.ctx, name.String(), vfs.OpenRead, vfs.AttrSet{})
	if err != nil {
		k := vfs.KindOf(err)
		if p := a.x.place(name); p.snap != "" || k != vfs.KindNotExist && k != vfs.KindIsDir {
			return err // in a snapshot nothing goes
		}
		_, err = a.x.sess.Stat(a.x.ctx, name.Parent().String())
		return err
	}
	defer func() { err = errors.Join(err, f.CloseContext(a.x.ctx)) }()
	info, err := f.Stat(a.x.ctx)
	if err != nil {
		return err
	}
	a.x.login.files.Add(1)
	w, err := a.zip.CreateHeader(h)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(w, io.NewSectionReader(f, 0, info.Size), a.buf)
	if err == nil && n != info.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
