package vfs

import (
	"context"

	"github.com/snapgate/gateway/snapshotter"
)

// apply returns the tree after o, or the reason why o cannot be. It has no effects, so
// the sequencer uses it to decide and recovery to replay: o.version and o.time must be
// set, and set is the number of the change set that o belongs to.
func (t *tree) apply(ctx context.Context, o *op, set uint64) (*tree, error) {
	switch o.kind {
	case opPut:
		return t.place(ctx, o, o.name, &node{
			typ: TypeFile, attr: o.attr, version: o.version, size: o.content.size, content: o.content,
		}, set)
	case opMkdir:
		return t.place(ctx, o, o.name, &node{typ: TypeDir, attr: o.attr, version: o.version}, set)
	case opSymlink:
		return t.place(ctx, o, o.name, &node{
			typ: TypeSymlink, attr: o.attr, version: o.version, target: o.target, size: int64(len(o.target)),
		}, set)
	case opLink:
		return t.link(ctx, o, set)
	case opRemove:
		return t.remove(ctx, o)
	case opRename:
		return t.rename(ctx, o)
	case opSetattr:
		return t.setattr(ctx, o)
	}
	return t, nil // seals, commits and partials do not concern the tree
}

// place puts n at name. A file replaces a file or link unless o.noReplace; directories
// and links need a free name.
func (t *tree) place(ctx context.Context, o *op, name Name, n *node, set uint64) (*tree, error) {
	opName := o.kind.String()
	if name.IsRoot() {
		return nil, errKind(opName, name, KindExist)
	}
	out, dir, err := t.edit(ctx, name.Parent())
	if err != nil {
		return nil, err
	}
	old, err := t.child(ctx, dir, name.Base())
	if err != nil {
		return nil, err
	}
	switch {
	case old == nil && o.mask&keepDirTime != 0:
	case old == nil:
		dir.touch(o.time)
	case o.noReplace || o.kind != opPut:
		return nil, errKind(opName, name, KindExist)
	case old.typ == TypeDir:
		return nil, errKind(opName, name, KindIsDir)
	}
	n.dirty, n.set, n.session, n.born = true, set, o.session, o.time
	dir.setKid(name.Base(), n)
	out.grown += n.bytes() - old.bytes()
	return out, nil
}

// link puts a second node for the content of o.name at o.to.
func (t *tree) link(ctx context.Context, o *op, set uint64) (*tree, error) {
	src, err := t.lookup(ctx, o.name)
	if err != nil {
		return nil, err
	}
	if src.typ != TypeFile {
		return nil, errKind("link", o.name, KindInvalid)
	}
	c := src.content
	if c == nil {
		c = &content{size: src.size, base: baseRef{t.head, src.from, src.size}, linked: true}
	}
	c.shared.Store(true) // if the link comes to nothing, too: then it says too much
	return t.place(ctx, o, o.to, &node{
		typ: TypeFile, attr: src.attr, version: o.version, size: src.size, content: c,
	}, set)
}

// remove takes a file, a link or an empty directory away.
func (t *tree) remove(ctx context.Context, o *op) (*tree, error) {
	if o.name.IsRoot() {
		return nil, errKind("remove", o.name, KindPermission)
	}
	out, dir, err := t.edit(ctx, o.name.Parent())
	if err != nil {
		return nil, err
	}
	old, err := t.child(ctx, dir, o.name.Base())
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, errKind("remove", o.name, KindNotExist)
	}
	if old.typ == TypeDir {
		if empty, err := t.empty(ctx, old, o.name); err != nil {
			return nil, err
		} else if !empty {
			return nil, errKind("remove", o.name, KindNotEmpty)
		}
	}
	if err := t.dropKid(ctx, dir, o.name.Base()); err != nil {
		return nil, err
	}
	dir.touch(o.time)
	out.grown -= old.bytes()
	return out, nil
}

// rename moves a node, by the rules of POSIX rename: a file or link replaces one, a
// directory an empty directory.
func (t *tree) rename(ctx context.Context, o *op) (*tree, error) {
	if o.name.IsRoot() || o.to.IsRoot() {
		return nil, errKind("rename", o.name, KindPermission)
	}
	src, err := t.lookup(ctx, o.name)
	if err != nil {
		return nil, err
	}
	if o.name == o.to {
		return t, nil
	}
	if o.to.HasPrefix(o.name) {
		return nil, errKind("rename", o.to, KindInvalid)
	}
	old, err := t.mayReplace(ctx, o, src)
	if err != nil {
		return nil, err
	}
	out, dir, err := t.edit(ctx, o.name.Parent())
	if err != nil {
		return nil, err
	}
	if err := t.dropKid(ctx, dir, o.name.Base()); err != nil {
		return nil, err
	}
	dir.touch(o.time)
	out, dir, err = out.edit(ctx, o.to.Parent())
	if err != nil {
		return nil, err
	}
	moved := *src
	dir.setKid(o.to.Base(), &moved)
	dir.touch(o.time)
	out.grown -= old.bytes()
	return out, nil
}

// mayReplace decides whether what is at o.to may give way to src, and returns it, nil for nothing.
func (t *tree) mayReplace(ctx context.Context, o *op, src *node) (*node, error) {
	old, err := t.existing(ctx, o.to)
	if err != nil || old == nil {
		return nil, err
	}
	switch {
	case o.noReplace:
		return nil, errKind("rename", o.to, KindExist)
	case old.typ == TypeDir && src.typ != TypeDir:
		return nil, errKind("rename", o.to, KindIsDir)
	case old.typ != TypeDir && src.typ == TypeDir:
		return nil, errKind("rename", o.to, KindNotDir)
	case old.typ != TypeDir:
		return old, nil
	}
	if empty, err := t.empty(ctx, old, o.to); err != nil {
		return nil, err
	} else if !empty {
		return nil, errKind("rename", o.to, KindNotEmpty)
	}
	return old, nil
}

// setattr changes the attributes that o.mask names.
func (t *tree) setattr(ctx context.Context, o *op) (*tree, error) {
	if o.name.IsRoot() {
		out, err := t.editRoot(ctx)
		if err != nil {
			return nil, err
		}
		out.root.set1(o)
		return out, nil
	}
	out, dir, err := t.edit(ctx, o.name.Parent())
	if err != nil {
		return nil, err
	}
	old, err := t.child(ctx, dir, o.name.Base())
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, errKind("setattr", o.name, KindNotExist)
	}
	n := *old
	n.set1(o)
	dir.setKid(o.name.Base(), &n)
	return out, nil
}

// set1 applies the attributes of an opSetattr to a copy of a node.
func (n *node) set1(o *op) {
	a := n.attr
	if o.mask&setMode != 0 {
		a.Mode = o.attr.Mode
	}
	if o.mask&setMtime != 0 {
		a.ModTime = o.attr.ModTime
	}
	if o.mask&setUID != 0 {
		a.UID = o.attr.UID
	}
	if o.mask&setGID != 0 {
		a.GID = o.attr.GID
	}
	if !sameAttr(a, n.attr) {
		n.attr, n.dirty = a, true
	}
}

func sameAttr(a, b snapshotter.Attr) bool {
	return a.Mode == b.Mode && a.ModTime.Equal(b.ModTime) && a.UID == b.UID && a.GID == b.GID
}

// changes reports whether an operation of the kind pends until a commit.
func (k opKind) changes() bool { return k >= opPut && k <= opLink }

// String is the operation's name in errors and logs.
func (k opKind) String() string {
	switch k {
	case opPut:
		return "put"
	case opMkdir:
		return "mkdir"
	case opSymlink:
		return "symlink"
	case opRemove:
		return "remove"
	case opRename:
		return "rename"
	case opSetattr:
		return "setattr"
	case opLink:
		return "link"
	case opSeal:
		return "seal"
	case opCommitted:
		return "committed"
	case opPartial:
		return "partial"
	case opPartialGone:
		return "partial gone"
	case opTorn:
		return "torn"
	case opWhole:
		return "whole"
	default:
		return "unknown"
	}
}
