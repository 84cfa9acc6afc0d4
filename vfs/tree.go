package vfs

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// tree is an immutable version of a share's live tree: the head snapshot and, above it,
// nodes for what differs. Every accepted operation makes a new tree that shares all but
// the changed path with the old one, so readers never lock and never wait.
type tree struct {
	root *node
	head snapshotter.ID
	base View // the head; nil when there is none
	// grown is by how many bytes the files are more than those of the head.
	grown int64
}

// bytes is the sum of the sizes of the files. While the store is away, and was at the start, the
// head's may not be known; they are left out then.
func (t *tree) bytes() int64 {
	if t.base == nil {
		return t.grown
	}
	return max(0, t.base.Bytes()+t.grown)
}

// bytes is what a node counts itself, nil for none.
func (n *node) bytes() int64 {
	if n == nil || n.typ != TypeFile {
		return 0
	}
	return n.size
}

// node is a name in a tree. Nodes are immutable once they are part of a tree.
type node struct {
	typ     FileType // 0 is a whiteout: it hides the head's entry
	unknown bool     // the root's attributes are made up: the store was away at the start
	dirty   bool     // differs from the head by itself, not only below
	touched bool     // a directory whose mtime alone moved because its entries changed
	attr    snapshotter.Attr
	version uint64
	size    int64
	target  string
	names   *ownerNames // as the snapshot has them; of clean nodes only

	// from is the path in the head that this node continues, "" for a new one. A file
	// with from and no content has the head's bytes; a directory with from has the
	// head's entries except where kids has another word.
	from    string
	content *content
	kids    *kids // directories: changed names only; nil for none

	set     uint64    // the change set that published this version, 0 when the head has it
	session uint64    // the session that published it
	born    time.Time // when it was accepted
}

// ownerNames are the names of a file's owner and group.
type ownerNames struct{ owner, group string }

// newTree returns the tree of a head without changes; an empty one when base is nil.
func newTree(ctx context.Context, head snapshotter.ID, base View, now time.Time) (*tree, error) {
	t := &tree{head: head, base: base}
	if base == nil {
		t.root = &node{typ: TypeDir, attr: snapshotter.Attr{Mode: 0o755, ModTime: now}, touched: true}
		return t, nil
	}
	e, err := base.Lstat(ctx, "/")
	if err != nil {
		return nil, baseError("open head", Root(), err)
	}
	t.root = nodeOf(e, "/")
	return t, nil
}

// unknownTree returns the tree of a head of which nothing is known: its root is there, and the rest is for base to tell.
func unknownTree(head snapshotter.ID, base View, mod time.Time) *tree {
	root := &node{typ: TypeDir, from: "/", unknown: true, attr: snapshotter.Attr{Mode: 0o755, ModTime: mod}}
	return &tree{root: root, head: head, base: base}
}

// lossy reports whether the head may lack what accepted operations are about, because the
// store had lost it.
func (t *tree) lossy() bool { return t.base != nil && t.base.Lossy() }

// nodeOf returns the clean node of an entry of the head.
func nodeOf(e snapshotter.Entry, from string) *node {
	n := &node{
		attr: e.Attr, version: e.Version, size: e.Size, target: e.Target,
		from: from,
	}
	if e.Owner != "" || e.Group != "" {
		n.names = &ownerNames{e.Owner, e.Group}
	}
	switch e.Kind {
	case snapshotter.Dir:
		n.typ = TypeDir
	case snapshotter.Symlink:
		n.typ = TypeSymlink
	default:
		n.typ = TypeFile
	}
	return n
}

// isMissing reports whether err, of a View, says that it has no such name. A store that is not there says of its own files
// that they do not exist: that is nothing about the name.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) && !errors.Is(err, snapshotter.ErrUnavailable)
}

// baseError makes an *Error of what a View of the head, or of what changes take bytes from, returned. That there is no such snapshot says nothing
// about the name: another one is the head soon.
func baseError(op string, name Name, err error) error {
	switch {
	case isMissing(err):
		return errCause(op, name, KindNotExist, err)
	case errors.Is(err, snapshotter.ErrUnavailable), errors.Is(err, snapshotter.ErrBusy),
		errors.Is(err, snapshotter.ErrNoSnapshot), KindOf(err) == KindUnavailable:
		return errCause(op, name, KindUnavailable, err)
	default:
		return errCause(op, name, KindOther, err)
	}
}

// lookup returns the node at name. It follows no symbolic links: a link or file in the
// middle is KindNotDir, a missing name KindNotExist.
func (t *tree) lookup(ctx context.Context, name Name) (*node, error) {
	n := t.root
	elems := name.Elems()
	for i, elem := range elems {
		if n.typ != TypeDir {
			return nil, errKind("lookup", name, KindNotDir)
		}
		if n.kids == nil && n.from != "" && i < len(elems)-1 {
			// Nothing below differs from the head: ask it for the whole rest at once, and
			// element by element only to tell a missing name from a file in the middle.
			rest := path.Join(n.from, strings.Join(elems[i:], "/"))
			if e, err := t.base.Lstat(ctx, rest); err == nil {
				return nodeOf(e, rest), nil
			} else if !isMissing(err) {
				return nil, baseError("lookup", name, err)
			}
		}
		child, err := t.child(ctx, n, elem)
		if err != nil {
			return nil, err
		}
		if child == nil {
			return nil, errKind("lookup", name, KindNotExist)
		}
		n = child
	}
	return n, nil
}

// child returns the node called elem in directory n, nil when there is none.
func (t *tree) child(ctx context.Context, n *node, elem string) (*node, error) {
	if c := n.kids.get(elem); c != nil {
		if c.typ == 0 {
			return nil, nil
		}
		return c, nil
	}
	return t.baseChild(ctx, n, elem)
}

// baseChild returns what the head has as elem in the directory that n continues.
func (t *tree) baseChild(ctx context.Context, n *node, elem string) (*node, error) {
	if n.from == "" {
		return nil, nil
	}
	from := path.Join(n.from, elem)
	e, err := t.base.Lstat(ctx, from)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, baseError("lookup", Name{from}, err)
	}
	return nodeOf(e, from), nil
}

// dirEntry is a named node.
type dirEntry struct {
	name string
	node *node
}

// list returns up to n entries of the directory at name, in byte order, after the name
// after ("" starts). Fewer than n mean the end.
func (t *tree) list(ctx context.Context, name Name, after string, n int) ([]dirEntry, error) {
	dir, err := t.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if dir.typ != TypeDir {
		return nil, errKind("list", name, KindNotDir)
	}
	return t.listNode(ctx, dir, name, after, n)
}

// listNode is list for a directory that was looked up; name is for errors.
func (t *tree) listNode(ctx context.Context, dir *node, name Name, after string, n int) ([]dirEntry, error) {
	next := dir.kids.after(after)
	kid, haveKid := next()
	var out []dirEntry
	for len(out) < n {
		var page []snapshotter.Entry
		if dir.from != "" {
			var err error
			if page, err = t.base.ReadDir(ctx, dir.from, after, n); err != nil {
				return nil, baseError("list", name, err)
			}
		}
		for _, e := range page {
			for haveKid && kid.name < e.Name && len(out) < n {
				if kid.node.typ != 0 {
					out = append(out, kid)
				}
				kid, haveKid = next()
			}
			if len(out) == n {
				return out, nil
			}
			if haveKid && kid.name == e.Name {
				if kid.node.typ != 0 {
					out = append(out, kid)
				}
				kid, haveKid = next()
			} else {
				out = append(out, dirEntry{e.Name, nodeOf(e, path.Join(dir.from, e.Name))})
			}
			after = e.Name
			if len(out) == n {
				return out, nil
			}
		}
		if len(page) == n { // there may be more in the head
			continue
		}
		for haveKid && len(out) < n {
			if kid.node.typ != 0 {
				out = append(out, kid)
			}
			kid, haveKid = next()
		}
		return out, nil
	}
	return out, nil
}

// empty reports whether the directory at name has no entries.
func (t *tree) empty(ctx context.Context, dir *node, name Name) (bool, error) {
	entries, err := t.listNode(ctx, dir, name, "", 1)
	return len(entries) == 0, err
}

// edit returns a new tree in which the directories from the root down to dir are copies
// that the caller may change, and the copy of dir.
func (t *tree) edit(ctx context.Context, dir Name) (*tree, *node, error) {
	out, err := t.editRoot(ctx)
	if err != nil {
		return nil, nil, err
	}
	cur := out.root
	for _, elem := range dir.Elems() {
		child, err := t.child(ctx, cur, elem)
		switch {
		case err != nil:
			return nil, nil, err
		case child == nil:
			return nil, nil, errKind("lookup", dir, KindNotExist)
		case child.typ != TypeDir:
			return nil, nil, errKind("lookup", dir, KindNotDir)
		}
		c := *child
		cur.setKid(elem, &c)
		cur = &c
	}
	return out, cur, nil
}

// editRoot returns a new tree whose root the caller may change.
func (t *tree) editRoot(ctx context.Context) (*tree, error) {
	root := *t.root
	if root.unknown {
		e, err := t.base.Lstat(ctx, "/")
		if err != nil {
			return nil, baseError("lookup", Root(), err)
		}
		root.attr, root.unknown = e.Attr, false
	}
	return &tree{root: &root, head: t.head, base: t.base, grown: t.grown}, nil
}

// setKid puts child under a name; n must be a copy that no reader has seen.
func (n *node) setKid(elem string, child *node) {
	n.kids = n.kids.put(elem, child)
}

// dropKid takes a name away: with a whiteout when the head has it.
func (t *tree) dropKid(ctx context.Context, n *node, elem string) error {
	below, err := t.baseChild(ctx, n, elem)
	if err != nil {
		return err
	}
	if below != nil {
		n.setKid(elem, &node{})
		return nil
	}
	n.kids = n.kids.without(elem)
	return nil
}

// touch moves a directory's mtime because an entry came or went.
func (n *node) touch(now time.Time) {
	n.attr.ModTime = now
	n.touched = true
}
