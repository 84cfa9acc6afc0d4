package websrv

import (
	"errors"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/snapgate/gateway/vfs"
)

// listPage is how many entries of a directory a page has.
const listPage = 200

// entryLine is an entry in a list.
type entryLine struct {
	Name   string // as it is shown
	To     string
	Kind   string // folder, file, link
	Target string // of a link
	Size   string
	Time   string
	Stamp  string
	Mode   string
	Save   string // where it is downloaded from
}

// browse shows a directory: a page of it, from the name after.
func (v *viewer) browse(x *visit) error {
	defer x.limited()()
	p := x.place(x.name)
	if p.mount != nil && p.inHistory() {
		http.Redirect(x.w, x.r, link("snapshots", p.mount.At.String()), http.StatusSeeOther)
		return nil
	}
	info, err := x.sess.Stat(x.ctx, x.name.String())
	if err != nil {
		return err
	}
	if info.Type != vfs.TypeDir {
		http.Redirect(x.w, x.r, link("view", x.name.String()), http.StatusSeeOther)
		return nil
	}
	after := x.r.URL.Query().Get("after")
	list, more, err := x.list(x.name, after, listPage)
	if err != nil {
		return err
	}
	d := struct {
		frame
		tools
		Entries []entryLine
		First   string // the first page, when this is another one
		Next    string
	}{frame: v.frame(x.login, title(&p)), tools: x.tools(&p, true)}
	d.Here = "browse"
	for i := range list {
		d.Entries = append(d.Entries, x.entry(x.name, &list[i]))
	}
	here := link("browse", x.name.String())
	if after != "" {
		d.First = here
	}
	if more {
		d.Next = query(here, "after", list[len(list)-1].Name)
	}
	return x.show("browse", d)
}

// list lists up to n entries that come after a name, and tells whether there are more.
func (x *visit) list(dir vfs.Name, after string, n int) (list []vfs.Info, more bool, err error) {
	d, err := x.sess.ReadDir(x.ctx, dir.String())
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if after != "" {
		d.Skip(after)
	}
	list, err = d.Next(x.ctx, n+1)
	if errors.Is(err, io.EOF) {
		return nil, false, nil
	}
	if len(list) > n {
		return list[:n], true, err
	}
	return list, false, err
}

// entry is an entry of a directory as a page shows it.
func (x *visit) entry(dir vfs.Name, i *vfs.Info) entryLine {
	name := dir.Join(i.Name)
	e := entryLine{
		Name: shown(i.Name), Kind: "file", Time: clock(i.ModTime), Stamp: stamp(i.ModTime), Mode: modeText(i.Type, i.Mode),
		To: link("view", name.String()),
	}
	switch i.Type {
	case vfs.TypeDir:
		e.Kind, e.To = "folder", link("browse", name.String())
	case vfs.TypeSymlink:
		e.Kind, e.To = "link", link("browse", name.String())
		if target, err := x.sess.Readlink(x.ctx, name.String()); err == nil {
			e.Target = shown(target)
		}
	default:
		e.Size = size(i.Size)
		if x.who.Perms.Has(vfs.PermRead) {
			e.Save = link("file", name.String())
		}
	}
	return e
}

// tools are what can be done with a place, and where it is.
type tools struct {
	Crumbs    []crumb
	Snapshot  string // its name as people read it, "" in the live tree
	Live      string // the same in the live tree
	Snapshots string // the time line
	Search    string // where a form leads
	At        string // of the snapshot, for the form
	Archive   string // the directory as an archive
	Save      string // the file
	Versions  string // of the file
	Compare   string
	Restore   string // the file of a snapshot into the live tree
}

// tools names what the principal may do here; whether it may is decided again when it does.
func (x *visit) tools(p *place, dir bool) tools {
	t := tools{Crumbs: x.crumbs(p), Snapshot: snapLabel(p.snap), At: p.snap}
	if p.snap != "" {
		t.Live = link("browse", p.live.String())
	}
	perms := x.who.Perms
	if perms.Has(vfs.PermRead) && p.mount != nil {
		if dir && perms.Has(vfs.PermList) {
			t.Archive = link("zip", p.name.String())
		}
		if !dir {
			t.Save = link("file", p.name.String())
		}
	}
	if p.mount == nil || !perms.Has(vfs.PermList|vfs.PermHistory) {
		return t
	}
	t.Snapshots = link("snapshots", p.mount.At.String())
	t.Compare = query(link("diff", p.live.String()), "to", p.snap)
	if dir {
		t.Search = link("search", p.live.String())
		return t
	}
	t.Versions = link("history", p.live.String())
	if p.snap != "" && perms.Has(vfs.PermRead) && (perms.Has(vfs.PermCreate) || perms.Has(vfs.PermOverwrite)) && !x.v.readOnly(p.mount.Share) {
		t.Restore = link("restore", p.name.String())
	}
	return t
}

// readOnly reports whether a share is a source's.
func (v *viewer) readOnly(share string) bool {
	st := v.cfg.Status()
	for i := range st.Shares {
		if st.Shares[i].Name == share {
			return st.Shares[i].Source
		}
	}
	return false
}

// title is the name of a place for the head of its page.
func title(p *place) string {
	name := "All files"
	if !p.live.IsRoot() {
		name = shown(path.Base(p.live.String()))
	}
	if p.snap != "" {
		name = strings.TrimSpace(name + " as of " + snapLabel(p.snap))
	}
	return name
}
