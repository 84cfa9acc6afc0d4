package vfs

import (
	"github.com/snapgate/gateway/snapshotter"
)

// diff calls emit for every way in which t differs from its head, in the order and terms
// of snapshotter.Change. real is false for what is only a consequence: the mtime of a
// directory whose entries changed, or the root of the first snapshot. Changes of files come
// without Content: where From is empty, it is n.content.
func (t *tree) diff(emit func(c snapshotter.Change, n *node, real bool) bool) {
	d := differ{head: t.head, emit: emit}
	d.dir(Root(), t.root)
}

// differ walks the changed nodes of a tree; each method reports whether to go on.
type differ struct {
	head snapshotter.ID
	emit func(c snapshotter.Change, n *node, real bool) bool
}

func (d differ) dir(name Name, n *node) bool {
	moved := n.from != name.String()
	if moved || n.dirty || n.touched {
		real := n.dirty || moved
		if name.IsRoot() && n.from == "" {
			real = n.dirty
		}
		c := snapshotter.Change{Path: name.String(), Kind: snapshotter.Dir, From: n.from, Attr: n.attr, Version: n.version}
		if !d.emit(c, n, real) {
			return false
		}
	}
	next := n.kids.after("")
	for kid, ok := next(); ok; kid, ok = next() {
		if !d.child(name.Join(kid.name), kid.node) {
			return false
		}
	}
	return true
}

func (d differ) child(name Name, n *node) bool {
	c := snapshotter.Change{
		Path: name.String(), From: n.from, Attr: n.attr, Version: n.version, Target: n.target,
	}
	switch {
	case n.typ == 0:
		return d.emit(snapshotter.Change{Path: name.String(), Kind: snapshotter.Removed}, n, true)
	case n.typ == TypeDir:
		return d.dir(name, n)
	case n.from == name.String() && !n.dirty:
		return true
	case n.typ == TypeSymlink:
		c.Kind = snapshotter.Symlink
	default:
		c.Kind = snapshotter.File
		if n.content != nil {
			c.From = n.content.wholeIn(d.head)
		}
	}
	return d.emit(c, n, true)
}
