package websrv

import (
	"slices"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

// versionsMost is how many versions of a file a page has.
const versionsMost = 500

// versionLine is a version of a file.
type versionLine struct {
	entryLine
	Snap    snapLine // the first that has it
	Until   string   // the last one's time, when it is another
	In      string   // in how many it is
	Hash    string
	Gone    *snapLine // the first in which nothing is there any more
	Restore string
	Compare string // with the version before
}

// history shows the versions of a file, the newest first.
func (v *viewer) history(x *visit) error {
	defer x.limited()()
	p := x.place(x.name)
	r, err := x.reach(p.mount)
	if err != nil {
		return err
	}
	if p.inMount() == "/" {
		return &vfs.Error{Op: "history", Name: x.name, Kind: vfs.KindIsDir}
	}
	done, err := x.turn(v.searches)
	if err != nil {
		return err
	}
	defer done()
	name := p.inMount()
	var versions []snapshotter.Version
	var unread []snapshotter.Unread
	if len(r.list) > 0 {
		head, err := r.find("")
		if err != nil {
			return err
		}
		if versions, unread, err = v.cfg.Snapshots.History(x.ctx, snapshotter.Line(r.list, *head), r.path(name)); err != nil {
			return err
		}
	}
	if len(versions) == 0 && len(unread) == 0 {
		if _, err := x.sess.Lstat(x.ctx, p.live.String()); err != nil {
			return err
		}
	}
	d := struct {
		frame
		tools
		Name     string
		Versions []versionLine
		Unread   string
		Most     bool
	}{frame: v.frame(x.login, "Versions of "+shown(p.live.Base())), tools: x.tools(&p, false), Name: shown(p.live.Base())}
	d.Here = "browse"
	if len(unread) > 0 {
		d.Unread = count(uint64(len(unread)), "snapshot", "snapshots") + " could not be read"
	}
	slices.Reverse(versions)
	if d.Most = len(versions) > versionsMost; d.Most {
		versions = versions[:versionsMost]
	}
	for i := range versions {
		l := r.version(name, &versions[i], d.frame)
		if i+1 < len(versions) {
			l.Compare = query(link("diff", p.live.String()), "from", r.nameOf(&versions[i+1].Last), "to", r.nameOf(&versions[i].First))
		}
		d.Versions = append(d.Versions, l)
	}
	return x.show("history", d)
}

func (r *reach) version(name string, ver *snapshotter.Version, f frame) versionLine {
	l := versionLine{
		entryLine: r.entry(&ver.First, r.path(name), &ver.Entry), Snap: r.line(&ver.First, f.Now), In: count(uint64(ver.Snapshots), "snapshot", "snapshots"),
	}
	if ver.Last.ID != ver.First.ID {
		l.Until = clock(ver.Last.Time)
	}
	if !ver.Gone.ID.IsZero() {
		gone := r.line(&ver.Gone, f.Now)
		l.Gone = &gone
	}
	perms := r.x.who.Perms
	if ver.Entry.Kind != snapshotter.File || !perms.Has(vfs.PermRead) {
		return l
	}
	l.Hash = ver.Hash[:min(len(ver.Hash), 16)]
	if (perms.Has(vfs.PermCreate) || perms.Has(vfs.PermOverwrite)) && !r.x.v.readOnly(r.mount.Share) {
		l.Restore = link("restore", viewName(r.mount, r.nameOf(&ver.First), name))
	}
	return l
}
