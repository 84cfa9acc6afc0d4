package vfs

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// placeKind is the part of a principal's name space that a place is in.
type placeKind uint8

const (
	placeRoot    placeKind = iota + 1 // the read-only root above several mounts
	placeLive                         // a live tree
	placeHistory                      // a .snapshots directory
	placeAlias                        // the first half of a two-element alias of it
	placeView                         // inside a snapshot
)

// mountPoint is a Mount with its share.
type mountPoint struct {
	Mount
	share *share
}

// place is where a client's name leads.
type place struct {
	kind  placeKind
	name  Name        // canonical, in the principal's name space, links resolved
	mount *mountPoint // nil at placeRoot

	// dir is the name in the share: of the live file or directory, or of the directory
	// whose versions a history shows. node is the live node, nil when the name is free or
	// when it is a mount's root that has not been made yet (absent is false then).
	dir    Name
	tree   *tree
	node   *node
	absent bool

	// rest is the element that an alias still needs.
	rest string

	// A view: the snapshot, the directory of the share that its name was entered at, where
	// in the snapshot the place is, and what is there.
	snap  snapshotter.Snapshot
	view  *heldView
	path  string
	entry snapshotter.Entry
}

// typ is what is at the place, 0 when nothing is.
func (p *place) typ() FileType {
	switch {
	case p.absent:
		return 0
	case p.kind == placeLive && p.node != nil:
		return p.node.typ
	case p.kind == placeView && p.entry.Kind == snapshotter.Symlink:
		return TypeSymlink
	case p.kind == placeView && p.entry.Kind != snapshotter.Dir:
		return TypeFile
	}
	return TypeDir
}

// isMount reports whether the place is the root of a mount in a live tree.
func (p *place) isMount() bool { return p.kind == placeLive && p.dir == p.mount.Root }

// target is the target of the symbolic link at the place.
func (p *place) target() string {
	if p.kind == placeView {
		return p.entry.Target
	}
	return p.node.target
}

// walker resolves names for one operation: it sees one version of each live tree, and
// holds the views that it passes until release is called.
type walker struct {
	s     *Session
	trees map[*share]*tree
	held  map[snapshotter.ID]*heldView
	links int
	undo  []func()
}

func (s *Session) walker() *walker {
	return &walker{s: s, trees: map[*share]*tree{}, held: map[snapshotter.ID]*heldView{}}
}

// release gives back the views. Closing one that was read from cannot lose anything.
func (w *walker) release() {
	for _, f := range w.undo {
		f()
	}
	w.undo, w.held = nil, nil
}

func (w *walker) tree(ctx context.Context, s *share) *tree {
	t := w.trees[s]
	if t == nil {
		t = s.shown(ctx)
		w.trees[s] = t
	}
	return t
}

// acquire opens a snapshot for as long as the walker lives.
func (w *walker) acquire(ctx context.Context, s *share, id snapshotter.ID) (*heldView, error) {
	if h := w.held[id]; h != nil {
		return h, nil
	}
	h, err := s.views.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	w.held[id] = h
	w.undo = append(w.undo, func() {
		if err := s.views.release(h); err != nil {
			w.s.log.Warn("closing a snapshot", "share", s.name, "snapshot", id.String(), "err", err)
		}
	})
	return h, nil
}

// pathStep is an element that is still to be walked. ".." in the target of a link never goes
// above base, an index into the stack: the root of the principal or of the view.
type pathStep struct {
	elem string
	base int
}

// walk resolves name. Symbolic links in the middle are followed, a last one when follow is
// set. A last element that does not exist gives a place that is absent; everything else
// that is missing is an error.
func (w *walker) walk(ctx context.Context, name Name, follow bool) (*place, error) {
	if p := w.direct(ctx, name, follow); p != nil {
		return p, nil
	}
	root, err := w.root(ctx)
	if err != nil {
		return nil, w.fail(name, err)
	}
	stack := []*place{root}
	queue := pathSteps(name.Elems(), 0, nil)
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		cur := stack[len(stack)-1]
		if s.elem == ".." {
			if cur.typ() != TypeDir {
				return nil, errKind("lookup", name, KindNotDir)
			}
			if len(stack)-1 > s.base {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		next, err := w.step(ctx, cur, s.elem)
		if err != nil {
			return nil, w.fail(name, err)
		}
		if next.absent && len(queue) > 0 {
			return nil, errKind("lookup", name, KindNotExist)
		}
		if next.typ() == TypeSymlink && (follow || len(queue) > 0) {
			if stack, queue, err = w.expand(ctx, stack, next, queue); err != nil {
				return nil, w.fail(name, err)
			}
			continue
		}
		stack = append(stack, next)
	}
	p := stack[len(stack)-1]
	if len(p.name.String()) > w.s.limits.PathBytes {
		return nil, errKind("lookup", name, KindBadName)
	}
	return p, nil
}

// fail is the error for a name that cannot be walked.
func (w *walker) fail(name Name, err error) error {
	return errCause("lookup", name, errorKind(err), err)
}

func pathSteps(elems []string, base int, rest []pathStep) []pathStep {
	out := make([]pathStep, 0, len(elems)+len(rest))
	for _, e := range elems {
		if e != "" && e != "." {
			out = append(out, pathStep{e, base})
		}
	}
	return append(out, rest...)
}

// expand puts the target of the link at next in front of the queue. A target is taken in
// the principal's name space as in a chroot: absolute ones begin at its root, and ".."
// stops there. In a view, the root is that of the view, so no link leads out of it.
func (w *walker) expand(ctx context.Context, stack []*place, next *place, queue []pathStep) ([]*place, []pathStep, error) {
	if w.links++; w.links > w.s.limits.SymlinkDepth {
		return nil, nil, errKind("lookup", next.name, KindLoop)
	}
	target := next.target()
	if target == "" {
		return nil, nil, errKind("lookup", next.name, KindNotExist)
	}
	elems := strings.Split(target, "/")
	for _, e := range elems {
		if len(e) > w.s.limits.NameBytes || strings.IndexByte(e, 0) >= 0 {
			return nil, nil, errKind("lookup", next.name, KindBadName)
		}
	}
	base := 0
	if next.kind == placeView {
		var err error
		if stack, base, err = w.viewStack(ctx, stack[len(stack)-1]); err != nil {
			return nil, nil, err
		}
	}
	if target[0] == '/' {
		stack = stack[:base+1]
	}
	return stack, pathSteps(elems, base, queue), nil
}

// viewStack is the way to dir, a directory in a view, from the root of the mount's history
// down, wherever the view was entered; base is the index of the view's root.
func (w *walker) viewStack(ctx context.Context, dir *place) (stack []*place, base int, err error) {
	cur, err := w.root(ctx)
	if err != nil {
		return nil, 0, err
	}
	stack = []*place{cur}
	way := append(dir.mount.At.Elems(), historyDir, dir.snap.ViewName(dir.mount.share.lineage()))
	base = len(way)
	root := viewPath(&dir.snap, dir.mount.Root)
	way = append(way, strings.Split(strings.TrimPrefix(dir.path, root), "/")...)
	for _, elem := range way {
		if elem == "" {
			continue
		}
		if cur, err = w.step(ctx, cur, elem); err != nil {
			return nil, 0, err
		}
		stack = append(stack, cur)
	}
	return stack, base, nil
}

// direct is the quick way to a live name without links and reserved names on it, nearly
// every name; nil when it must be walked.
func (w *walker) direct(ctx context.Context, name Name, follow bool) *place {
	m := w.s.mountOf(name)
	if m == nil || strings.Contains(name.String(), "/"+historyDir) {
		return nil
	}
	p := w.live(ctx, m, name, name.Rebase(m.At, m.Root))
	n, err := p.tree.lookup(ctx, p.dir)
	if err != nil || n.typ == TypeSymlink && follow || n.typ != TypeDir && p.isMount() {
		return nil
	}
	p.node = n
	return p
}

func (w *walker) live(ctx context.Context, m *mountPoint, name, dir Name) *place {
	return &place{kind: placeLive, name: name, mount: m, dir: dir, tree: w.tree(ctx, m.share)}
}

// root is the place "/".
func (w *walker) root(ctx context.Context) (*place, error) {
	if m := w.s.mountOf(Root()); m != nil {
		return w.mounted(ctx, m)
	}
	return &place{kind: placeRoot, name: Root()}, nil
}

// mounted is the root of a mount. A share whose directory has not been made yet shows an
// empty one; a link there is not followed, since it could lead anywhere.
func (w *walker) mounted(ctx context.Context, m *mountPoint) (*place, error) {
	p := w.live(ctx, m, m.At, m.Root)
	n, err := p.tree.lookup(ctx, p.dir)
	switch {
	case err != nil && KindOf(err) == KindNotExist:
		return p, nil
	case err != nil:
		return nil, err
	case n.typ != TypeDir:
		return nil, errKind("lookup", m.At, KindNotDir)
	}
	p.node = n
	return p, nil
}

// step goes from a directory to its entry elem.
func (w *walker) step(ctx context.Context, cur *place, elem string) (*place, error) {
	name := cur.name.Join(elem)
	if cur.typ() != TypeDir {
		return nil, errKind("lookup", name, KindNotDir)
	}
	switch cur.kind {
	case placeRoot:
		if m := w.s.mountOf(name); m != nil {
			return w.mounted(ctx, m)
		}
		return &place{kind: placeRoot, name: name, absent: true}, nil
	case placeLive:
		return w.stepLive(ctx, cur, name, elem)
	case placeAlias:
		if elem == cur.rest {
			return w.history(cur, name, placeHistory, "")
		}
		return &place{kind: placeAlias, name: name, mount: cur.mount, dir: cur.dir, absent: true}, nil
	case placeHistory:
		return w.enter(ctx, cur, name, elem)
	}
	return w.stepView(ctx, cur, name, elem)
}

func (w *walker) stepLive(ctx context.Context, cur *place, name Name, elem string) (*place, error) {
	kind, rest := historyAlias(cur.mount.share.config(), elem)
	if kind != 0 && elem == historyDir {
		return w.history(cur, name, kind, rest)
	}
	p := w.live(ctx, cur.mount, name, cur.dir.Join(elem))
	if cur.node != nil {
		n, err := p.tree.lookup(ctx, p.dir)
		if err == nil {
			p.node = n
			return p, nil
		}
		if KindOf(err) != KindNotExist {
			return nil, err
		}
	}
	switch kind { // a real entry wins over an alias
	case placeView:
		h, err := w.history(cur, name, placeHistory, "")
		if err != nil {
			return nil, err
		}
		return w.enter(ctx, h, name, elem)
	case placeHistory, placeAlias:
		return w.history(cur, name, kind, rest)
	}
	p.absent = true
	return p, nil
}

// history is the .snapshots directory, or an alias of it, of a live directory.
func (w *walker) history(cur *place, name Name, kind placeKind, rest string) (*place, error) {
	if !w.s.principal.Perms.allows(actHistory, false) {
		return nil, errKind("lookup", name, KindPermission)
	}
	return &place{kind: kind, name: name, mount: cur.mount, dir: cur.dir, rest: rest}, nil
}

// enter goes from a history to one of its versions.
func (w *walker) enter(ctx context.Context, cur *place, name Name, elem string) (*place, error) {
	snap, err := cur.mount.share.version(ctx, cur.dir, elem)
	if err != nil {
		if KindOf(err) == KindNotExist {
			return &place{kind: placeHistory, name: name, mount: cur.mount, dir: cur.dir, absent: true}, nil
		}
		return nil, err
	}
	h, err := w.acquire(ctx, cur.mount.share, snap.ID)
	if err != nil {
		return nil, err
	}
	p := &place{
		kind: placeView, name: name, mount: cur.mount, dir: cur.dir,
		snap: snap, view: h, path: viewPath(&snap, cur.dir),
	}
	if p.entry, err = h.Lstat(ctx, p.path); err != nil {
		return nil, viewError(err)
	}
	return p, nil
}

func (w *walker) stepView(ctx context.Context, cur *place, name Name, elem string) (*place, error) {
	p := *cur
	p.name, p.path = name, path.Join(cur.path, elem)
	var err error
	if p.entry, err = cur.view.Lstat(ctx, p.path); err != nil {
		if !isMissing(err) {
			return nil, viewError(err)
		}
		p.absent = true
	}
	return &p, nil
}

// mountOf returns the mount that name is in: the one at "/", or else the one whose first
// element it has. It is nil for the root above several mounts and for what is not there.
func (s *Session) mountOf(name Name) *mountPoint {
	for i := range s.mounts {
		if name.HasPrefix(s.mounts[i].At) {
			return &s.mounts[i]
		}
	}
	return nil
}

// info describes what is at the place; base is the entry's name.
func (p *place) info(base string, started time.Time) Info {
	switch {
	case p.kind == placeView:
		return entryInfo(&p.entry, base)
	case p.kind == placeLive && p.node != nil:
		return p.nodeInfo(p.node, base)
	case p.kind == placeLive && p.mount.share.source == nil:
		i := syntheticDir(base, started)
		i.Mode = 0o755
		return i
	}
	return syntheticDir(base, started)
}

// nodeInfo describes a node of the live tree that p is in.
func (p *place) nodeInfo(n *node, base string) Info {
	i := Info{
		Name: base, Type: n.typ, Mode: n.attr.Mode & modeBits, Size: n.size,
		ModTime: n.attr.ModTime, UID: n.attr.UID, GID: n.attr.GID,
		Links: 1, Version: n.version,
	}
	if n.names != nil {
		i.Owner, i.Group = n.names.owner, n.names.group
	}
	switch n.typ {
	case TypeDir:
		i.Size = 0
	case TypeSymlink:
		i.Size = int64(len(n.target))
	}
	if p.mount.share.source != nil {
		i.Mode = readOnlyMode(i.Mode)
	}
	return i
}
