package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/PlakarKorp/kloset/btree"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	"github.com/vmihailenco/msgpack/v5"
)

type (
	// storedEntry is an entry as a snapshot has it; shared, never changed.
	storedEntry = vfs.Entry
	// node is a node of a snapshot's indexes.
	node = btree.Node[string, objects.MAC, objects.MAC]
	// index is one of a snapshot's indexes.
	index = btree.BTree[string, objects.MAC, objects.MAC]
)

// snapTree is the tree of one snapshot, in absolute paths of the snapshot. Safe for
// concurrent use.
type snapTree struct {
	s       *Snapshotter
	paths   *index // path to entry
	dirpack *index // path of a directory to its dirpack object; nil when there is none
}

// tree opens the indexes of a snapshot.
func (s *Snapshotter) tree(r *record) (*snapTree, error) {
	if t, ok := s.trees.Get(r.snap.ID); ok {
		return t, nil
	}
	t, err := s.newTree(r)
	if err != nil {
		return nil, err
	}
	s.trees.Add(r.snap.ID, t)
	return t, nil
}

func (s *Snapshotter) newTree(r *record) (*snapTree, error) {
	t := &snapTree{s: s}
	var err error
	t.paths, err = s.openIndex(r.vfs.Root, resources.RT_VFS_BTREE, resources.RT_VFS_NODE, vfs.PathCmp)
	if err != nil {
		return nil, err
	}
	if r.dirpack != (objects.MAC{}) {
		t.dirpack, err = s.openIndex(r.dirpack, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, strings.Compare)
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (s *Snapshotter) openIndex(root objects.MAC, rootType, nodeType resources.Type, cmp func(a, b string) int) (*index, error) {
	data, err := s.blob(rootType, root)
	if err != nil {
		return nil, readError("index", err)
	}
	t, err := btree.Deserialize(bytes.NewReader(data), &nodeStore{s, nodeType}, cmp)
	if err != nil {
		return nil, readError("index", err)
	}
	return t, nil
}

// nodeStore reads the nodes of indexes through the node cache: nodes are named by what
// they hold, so snapshots share them.
type nodeStore struct {
	s   *Snapshotter
	typ resources.Type
}

func (ns *nodeStore) Get(mac objects.MAC) (*node, error) {
	if n, ok := ns.s.nodes.Get(mac); ok {
		return n, nil
	}
	data, err := ns.s.blob(ns.typ, mac)
	if err != nil {
		return nil, err
	}
	n := new(node)
	if err := msgpack.Unmarshal(data, n); err != nil {
		return nil, fmt.Errorf("decode index node: %w", err)
	}
	ns.s.nodes.Add(mac, n)
	return n, nil
}

func (ns *nodeStore) Update(objects.MAC, *node) error { return repository.ErrStoreReadOnly }

func (ns *nodeStore) Put(*node) (objects.MAC, error) {
	return objects.MAC{}, repository.ErrStoreReadOnly
}

func (ns *nodeStore) Close() error { return nil }

// lookup returns the entry at path; fs.ErrNotExist when there is none.
func (t *snapTree) lookup(path string) (*storedEntry, error) {
	mac, ok, err := t.paths.Find(path)
	if err != nil {
		return nil, readError("index", err)
	}
	if !ok {
		return nil, fs.ErrNotExist
	}
	return t.entry(mac)
}

func (t *snapTree) entry(mac objects.MAC) (*storedEntry, error) {
	if e, ok := t.s.entries.Get(mac); ok {
		return e, nil
	}
	data, err := t.s.blob(resources.RT_VFS_ENTRY, mac)
	if err != nil {
		return nil, readError("entry", err)
	}
	e, err := vfs.EntryFromBytes(data)
	if err != nil {
		return nil, readError("entry", err)
	}
	e.MAC = mac
	t.s.entries.Add(mac, e)
	return e, nil
}

// open opens the content of a regular file.
func (t *snapTree) open(e *storedEntry) (*Reader, error) {
	if !e.FileInfo.Mode().IsRegular() || !e.HasObject() {
		return newReader(t.s.chunks, new(objects.Object)), nil
	}
	return t.s.openObject(e.Object)
}

func (s *Snapshotter) openObject(mac objects.MAC) (*Reader, error) {
	obj, err := s.object(mac)
	if err != nil {
		return nil, err
	}
	return newReader(s.chunks, obj), nil
}

func (s *Snapshotter) object(mac objects.MAC) (*objects.Object, error) {
	return objectBy(s.blob, mac)
}

func objectBy(blob func(resources.Type, objects.MAC) ([]byte, error), mac objects.MAC) (*objects.Object, error) {
	data, err := blob(resources.RT_OBJECT, mac)
	if err != nil {
		return nil, readError("object", err)
	}
	obj, err := objects.NewObjectFromBytes(data)
	if err != nil {
		return nil, readError("object", err)
	}
	return obj, nil
}

// readDir returns up to n entries of a directory, in byte order of their names, that come
// after the name after. Fewer than n mean the end.
func (t *snapTree) readDir(path, after string, n int) ([]*storedEntry, error) {
	if t.dirpack != nil {
		mac, ok, err := t.dirpack.Find(path)
		if err != nil {
			return nil, readError("directory index", err)
		}
		if ok {
			d, err := t.s.dir(mac)
			if err != nil {
				return nil, err
			}
			return d.read(after, n)
		}
	}
	if e, err := t.lookup(path); err != nil {
		return nil, err
	} else if !e.IsDir() {
		return nil, errNotDir
	}
	return t.scanDir(path, after, n)
}

// errNotDir says that a path of a directory operation is none.
var errNotDir = errors.New("not a directory")

// scanDir is readDir by the index of paths, for snapshots without dirpacks. The index is
// ordered by depth, then by path, so the entries of a directory are neighbours.
func (t *snapTree) scanDir(path, after string, n int) ([]*storedEntry, error) {
	prefix := path
	if prefix != "/" {
		prefix += "/"
	}
	it, err := t.paths.ScanFrom(prefix + after)
	if err != nil {
		return nil, readError("index", err)
	}
	var entries []*storedEntry
	for len(entries) < n && it.Next() {
		p, mac := it.Current()
		name, ok := strings.CutPrefix(p, prefix)
		if !ok || strings.Contains(name, "/") {
			break
		}
		if name == "" || name <= after {
			continue
		}
		e, err := t.entry(mac)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	if err := it.Err(); err != nil {
		return nil, readError("index", err)
	}
	return entries, nil
}
