package websrv

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs"
)

const (
	historyDir = ".snapshots"
	latestName = "latest"
)

// place is where a name is: in which mount, and in the live tree or in a snapshot.
type place struct {
	name  vfs.Name
	mount *vfs.Mount // nil: the root above several mounts, or nothing
	snap  string     // the name of a snapshot below .snapshots, "" in the live tree
	live  vfs.Name   // the same name in the live tree
}

// place tells where a name is. It looks at nothing but the name.
func (x *visit) place(name vfs.Name) place {
	p := place{name: name, live: name}
	for i := range x.who.Mounts {
		if m := &x.who.Mounts[i]; name.HasPrefix(m.At) {
			p.mount = m
		}
	}
	if p.mount == nil {
		return p
	}
	elems := name.Elems()
	at := len(p.mount.At.Elems())
	if i := slices.Index(elems[at:], historyDir); i >= 0 {
		i += at
		p.live = p.mount.At
		for _, e := range elems[at:i] {
			p.live = p.live.Join(e)
		}
		if i+1 < len(elems) {
			p.snap = elems[i+1]
			for _, e := range elems[i+2:] {
				p.live = p.live.Join(e)
			}
		}
	}
	return p
}

// inHistory reports whether the place is a list of snapshots.
func (p *place) inHistory() bool { return p.name != p.live && p.snap == "" }

// inMount is the place's name in the live tree, seen from its mount: "/" or "/a/b".
func (p *place) inMount() string { return p.live.Rebase(p.mount.At, vfs.Root()).String() }

// viewName is a name of a mount ("/" or "/a/b") in a snapshot, as the principal sees it.
func viewName(m *vfs.Mount, snap, name string) string {
	return strings.TrimSuffix(m.At.Join(historyDir).Join(snap).String()+strings.TrimSuffix(name, "/"), "/")
}

// liveName is a name of a mount in the live tree, as the principal sees it.
func liveName(m *vfs.Mount, name string) string {
	if m.At.IsRoot() {
		return name
	}
	return strings.TrimSuffix(m.At.String()+name, "/")
}

// reach is how far a principal sees into the snapshots of a mount, beside what its session shows.
// All that pages ask the store itself goes through it, with names as the mount has them; below
// them is nothing but the mount's root. A session decides the rest.
type reach struct {
	x       *visit
	mount   *vfs.Mount
	lineage snapshotter.Lineage
	list    []snapshotter.Snapshot // newest first
}

// reach is the one place where it is decided who may look through snapshots: whoever may list names
// and enter the history, in the shares that are mounted for it, and below their roots.
func (x *visit) reach(m *vfs.Mount) (*reach, error) {
	switch {
	case m == nil:
		return nil, &vfs.Error{Op: "history", Name: x.name, Kind: vfs.KindNotExist}
	case !x.who.Perms.Has(vfs.PermList|vfs.PermHistory) || !slices.Contains(x.who.Mounts, *m):
		return nil, &vfs.Error{Op: "history", Name: x.name, Kind: vfs.KindPermission}
	}
	list, err := x.v.cfg.Snapshots.Snapshots(x.ctx, m.Share)
	if err != nil {
		return nil, err
	}
	return &reach{x: x, mount: m, lineage: x.v.cfg.Lineage(m.Share), list: list}, nil
}

// whole reports whether the principal sees all of the share, so that figures of a whole snapshot
// are no news of what others have.
func (r *reach) whole() bool { return r.mount.Root.IsRoot() }

// nameOf is the name of a snapshot below .snapshots.
func (r *reach) nameOf(s *snapshotter.Snapshot) string { return s.ViewName(r.lineage) }

// find finds a snapshot by its name below .snapshots; "" is the latest.
func (r *reach) find(name string) (*snapshotter.Snapshot, error) {
	var latest *snapshotter.Snapshot
	for i := range r.list {
		s := &r.list[i]
		if name != "" && name != latestName {
			if r.nameOf(s) == name {
				return s, nil
			}
			continue
		}
		// As vfs has it: the share's own, the one with the highest number.
		if latest == nil || s.Of(r.lineage) && (!latest.Of(r.lineage) || s.Sequence > latest.Sequence) {
			latest = s
		}
	}
	if latest == nil {
		return nil, &vfs.Error{Op: "find snapshot", Name: r.x.name, Kind: vfs.KindNotExist}
	}
	return latest, nil
}

// open opens a snapshot.
func (r *reach) open(ctx context.Context, s *snapshotter.Snapshot) (*snapshotter.View, error) {
	return r.x.v.cfg.Snapshots.View(ctx, s.ID)
}

// path is a name of the mount in a view.
func (r *reach) path(name string) string {
	n, err := vfs.ParseName(name, vfs.Limits{})
	if err != nil {
		n = vfs.Root()
	}
	return n.Rebase(vfs.Root(), r.mount.Root).String()
}

// name is a path of a view as the mount has it.
func (r *reach) name(path string) string {
	n, err := vfs.ParseName(path, vfs.Limits{})
	if err != nil || !n.HasPrefix(r.mount.Root) {
		return "/"
	}
	return n.Rebase(r.mount.Root, vfs.Root()).String()
}

// has reports whether the root of the mount is in a snapshot.
func (r *reach) has(ctx context.Context, s *snapshotter.Snapshot) (bool, error) {
	if r.whole() {
		return true, nil
	}
	_, err := r.x.sess.Stat(ctx, viewName(r.mount, r.nameOf(s), "/"))
	switch {
	case err == nil:
		return true, nil
	case vfs.KindOf(err) == vfs.KindNotExist:
		return false, nil
	}
	return false, err
}

// snapLine is a snapshot in a list.
type snapLine struct {
	Name   string
	Label  string // its time
	Stamp  string
	Ago    string
	Browse string
	Latest bool
	Whole  bool // what follows is known
	Files  string
	Size   string
	Errors uint64
	Reason string
	Users  []string
}

func (r *reach) line(s *snapshotter.Snapshot, now time.Time) snapLine {
	l := snapLine{
		Name: r.nameOf(s), Label: clock(s.Time), Stamp: stamp(s.Time), Ago: ago(s.Time, now), Whole: r.whole(),
		Browse: link("browse", viewName(r.mount, r.nameOf(s), "/")),
	}
	// Of several of one second, and of others' snapshots, the name has more than a time.
	if more := l.Name[min(len(l.Name), len(viewTime)):]; more != "" {
		l.Label += " (" + strings.TrimPrefix(more, "-") + ")"
	}
	if !l.Whole {
		return l
	}
	l.Files, l.Size, l.Errors = count(s.Files, "file", "files"), size(int64(s.Size)), s.Errors+s.Lost
	for _, tag := range s.Tags {
		switch k, v, _ := strings.Cut(tag, "="); k {
		case "reason":
			l.Reason = shown(v)
		case "user":
			l.Users = append(l.Users, shown(v))
		}
	}
	return l
}

// viewTime is how names of snapshots begin.
const viewTime = "2006-01-02T15-04-05Z"

// snapLabel is the name of a snapshot as people read it: its time, in the zone of all times of pages.
func snapLabel(name string) string {
	t, err := time.Parse(viewTime, name[:min(len(name), len(viewTime))])
	if err != nil {
		return shown(name)
	}
	label := clock(t)
	if more := name[len(viewTime):]; more != "" {
		label += " (" + shown(strings.TrimPrefix(more, "-")) + ")"
	}
	return label
}

// crumb is a part of a name, with a link to it; "" for none.
type crumb struct{ Text, To string }

// crumbs are the parts of the name of a place. Of one in a snapshot they lead to the same snapshot.
func (x *visit) crumbs(p *place) []crumb {
	list := []crumb{{"All files", link("browse", "/")}}
	at := vfs.Root()
	if p.snap != "" {
		for _, e := range p.mount.At.Elems() {
			at = at.Join(e)
			list = append(list, crumb{shown(e), link("browse", at.String())})
		}
		top := viewName(p.mount, p.snap, "/")
		list = append(list, crumb{"as of " + snapLabel(p.snap), link("browse", top)})
		rel, at := "", p.inMount()
		if at != "/" {
			for _, e := range strings.Split(at[1:], "/") {
				rel += "/" + e
				list = append(list, crumb{shown(e), link("browse", top+rel)})
			}
		}
		return list
	}
	for _, e := range p.name.Elems() {
		at = at.Join(e)
		text := shown(e)
		if e == historyDir {
			text = "snapshots"
		}
		list = append(list, crumb{text, link("browse", at.String())})
	}
	return list
}
