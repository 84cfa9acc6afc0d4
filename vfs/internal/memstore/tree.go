package memstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing/fstest"

	"github.com/snapgate/gateway/snapshotter"
)

// node is an entry of a snapshot's tree; immutable once the snapshot is stored.
type node struct {
	kind    snapshotter.ChangeKind
	attr    snapshotter.Attr
	version uint64
	data    []byte
	target  string
	kids    map[string]*node
	names   []string // of kids, sorted
}

func emptyRoot() *node {
	return &node{kind: snapshotter.Dir, attr: snapshotter.Attr{Mode: 0o755}, kids: map[string]*node{}}
}

func elems(p string) []string {
	if p == "/" {
		return nil
	}
	return strings.Split(p[1:], "/")
}

// find returns the node at a canonical path, nil when there is none.
func (n *node) find(p string) *node {
	for _, e := range elems(p) {
		if n = n.kids[e]; n == nil {
			return nil
		}
	}
	return n
}

func (n *node) set(name string, kid *node) {
	i, ok := slices.BinarySearch(n.names, name)
	switch {
	case kid == nil && ok:
		n.names = slices.Delete(n.names, i, i+1)
		delete(n.kids, name)
		return
	case kid == nil:
		return
	case !ok:
		n.names = slices.Insert(n.names, i, name)
	}
	n.kids[name] = kid
}

func (n *node) clone() *node {
	c := *n
	c.kids, c.names = maps.Clone(n.kids), slices.Clone(n.names)
	return &c
}

func (n *node) usage() (files, size uint64) {
	if n.kind == snapshotter.File {
		return 1, uint64(len(n.data))
	}
	for _, kid := range n.kids {
		f, s := kid.usage()
		files, size = files+f, size+s
	}
	return files, size
}

func (n *node) dump(p string, out map[string]string) {
	switch n.kind {
	case snapshotter.File:
		out[p] = string(n.data)
	case snapshotter.Symlink:
		out[p] = "-> " + n.target
	default:
		out[strings.TrimSuffix(p, "/")+"/"] = ""
		for name, kid := range n.kids {
			kid.dump(path.Join(p, name), out)
		}
	}
}

func (n *node) entry(name string) snapshotter.Entry {
	return snapshotter.Entry{
		Name: name, Kind: n.kind, Attr: n.attr, Size: int64(len(n.data)), Version: n.version, Target: n.target,
	}
}

// applier makes a new tree of a base and changes; nodes that it owns are its own copies.
type applier struct {
	base, root *node
	owned      map[*node]bool
	last       string
}

func (a *applier) apply(ctx context.Context, c snapshotter.Change) error {
	if !isCanonical(c.Path) {
		return errors.New("path is not canonical")
	}
	if a.last != "" && !depthFirstLess(a.last, c.Path) {
		return fmt.Errorf("out of order after %q", a.last)
	}
	a.last = c.Path
	if c.Attr.Mode&fs.ModeType != 0 {
		return fmt.Errorf("mode %v has type bits", c.Attr.Mode)
	}
	n, err := a.make(ctx, c)
	if err != nil {
		return err
	}
	if c.Path == "/" {
		if n == nil || n.kind != snapshotter.Dir {
			return errors.New("the root must be a directory")
		}
		a.root = n
		return nil
	}
	dir, err := a.own(path.Dir(c.Path))
	if err != nil {
		return err
	}
	name := path.Base(c.Path)
	if n == nil && dir.kids[name] == nil {
		return errors.New("removes what is not there")
	}
	dir.set(name, n)
	return nil
}

// make returns the node that a change leaves at its path, nil for Removed.
func (a *applier) make(ctx context.Context, c snapshotter.Change) (*node, error) {
	from, err := a.from(c)
	if err != nil {
		return nil, err
	}
	n := &node{kind: c.Kind, attr: c.Attr, version: c.Version}
	switch c.Kind {
	case snapshotter.Removed:
		return nil, nil
	case snapshotter.Dir:
		n.kids = map[string]*node{}
		if from != nil {
			n.kids, n.names = maps.Clone(from.kids), slices.Clone(from.names)
		}
		a.owned[n] = true
		return n, nil
	case snapshotter.Symlink:
		if c.Target == "" {
			return nil, errors.New("a symbolic link without target")
		}
		n.target = c.Target
		return n, nil
	case snapshotter.File:
		if c.Content == nil {
			if from == nil {
				return nil, errors.New("a file with neither content nor From")
			}
			n.data = from.data
			return n, nil
		}
		n.data, err = readContent(ctx, c.Content)
		return n, err
	}
	return nil, fmt.Errorf("kind %d", c.Kind)
}

// from finds the base node that a change continues.
func (a *applier) from(c snapshotter.Change) (*node, error) {
	if c.From == "" {
		return nil, nil
	}
	if !isCanonical(c.From) {
		return nil, fmt.Errorf("from %q is not canonical", c.From)
	}
	n := a.base.find(c.From)
	if n == nil {
		return nil, fmt.Errorf("from %q is not in the base", c.From)
	}
	if n.kind != c.Kind {
		return nil, fmt.Errorf("from %q is another kind of thing in the base", c.From)
	}
	return n, nil
}

// own returns the directory at p of the new tree, copied so that it can be changed.
func (a *applier) own(p string) (*node, error) {
	if !a.owned[a.root] {
		a.root = a.root.clone()
		a.owned[a.root] = true
	}
	n := a.root
	for _, e := range elems(p) {
		kid := n.kids[e]
		switch {
		case kid == nil:
			return nil, fmt.Errorf("parent element %q is missing", e)
		case kid.kind != snapshotter.Dir:
			return nil, fmt.Errorf("parent element %q is not a directory", e)
		case !a.owned[kid]:
			kid = kid.clone()
			a.owned[kid] = true
			n.kids[e] = kid
		}
		n = kid
	}
	return n, nil
}

func readContent(ctx context.Context, c snapshotter.Content) (data []byte, err error) {
	rc, err := c.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open content: %w", err)
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	data, err = io.ReadAll(rc)
	if err != nil {
		return nil, fmt.Errorf("read content: %w", err)
	}
	if int64(len(data)) != c.Size() {
		return nil, fmt.Errorf("content has %d bytes, its size says %d", len(data), c.Size())
	}
	return data, nil
}

func isCanonical(p string) bool {
	return strings.HasPrefix(p, "/") && path.Clean(p) == p && strings.IndexByte(p, 0) < 0
}

// depthFirstLess compares element by element, so that "/a/b" comes before "/a.b".
func depthFirstLess(p, q string) bool { return slices.Compare(elems(p), elems(q)) < 0 }

func fromMap(files fstest.MapFS) (*node, error) {
	root := emptyRoot()
	version := uint64(1 << 40) // out of the way of a gateway's own
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !fs.ValidPath(name) || name == "." {
			return nil, fmt.Errorf("memstore: %q is not a valid path", name)
		}
		f := files[name]
		dir := root
		parts := strings.Split(name, "/")
		for _, e := range parts[:len(parts)-1] {
			if dir.kids[e] == nil {
				dir.set(e, emptyRoot())
			}
			dir = dir.kids[e]
		}
		n := &node{attr: snapshotter.Attr{Mode: f.Mode.Perm(), ModTime: f.ModTime}, version: version}
		version++
		switch f.Mode.Type() {
		case fs.ModeDir:
			n.kind, n.kids = snapshotter.Dir, map[string]*node{}
		case fs.ModeSymlink:
			n.kind, n.target = snapshotter.Symlink, string(f.Data)
		default:
			n.kind, n.data = snapshotter.File, f.Data
		}
		if old := dir.kids[parts[len(parts)-1]]; old == nil || old.kind != n.kind {
			dir.set(parts[len(parts)-1], n)
		}
	}
	return root, nil
}
