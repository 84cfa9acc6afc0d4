package snapshotter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/PlakarKorp/kloset/btree"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/header"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	"github.com/google/uuid"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/snapgate/gateway/store"
)

// entryChunks is up to how many chunks are noted with the entry, and not with its object.
const entryChunks = 8

// marker reads what snapshots refer to, as far as the marks do not know it yet. What it reads is
// compared with its MAC: from a node that has changed on the disk, it would miss what is below.
type marker struct {
	s *Snapshotter
	m *marks
}

// markIndex tells the indexes of a snapshot that are known: what a snapshot has that this program
// does not know must not be maintained by it.
func markIndex(name string) (kind byte, ok bool) {
	switch name {
	case "content-type":
		return markTypes, true
	case "dirpack":
		return markDirs, true
	case "summary":
		return markSummaries, true
	}
	return 0, false
}

// need makes sure that the marks know a thing, and all that is below it.
func (k *marker) need(ctx context.Context, kind byte, mac objects.MAC) (markKey, error) {
	key := keyOf(kind, mac)
	if k.m.has(key) {
		return key, nil
	}
	if err := ctx.Err(); err != nil {
		return key, err
	}
	v, err := k.look(ctx, kind, mac)
	if err != nil {
		return key, err
	}
	return key, k.m.put(key, v)
}

// into adds a thing to what another one refers to; a MAC that is zero is none.
func (k *marker) into(ctx context.Context, v *marked, kind byte, mac objects.MAC) error {
	if mac == (objects.MAC{}) {
		return nil
	}
	key, err := k.need(ctx, kind, mac)
	v.things = append(v.things, key)
	return err
}

func (k *marker) blob(typ resources.Type, mac objects.MAC) ([]byte, error) {
	data, err := k.s.blob(typ, mac)
	if err == nil && typ != resources.RT_SNAPSHOT && k.s.repo.ComputeMAC(data) != mac {
		err = fmt.Errorf("%s %x: %w", typ, mac[:4], store.ErrDamaged)
	}
	return data, err
}

func (k *marker) look(ctx context.Context, kind byte, mac objects.MAC) (*marked, error) {
	switch kind {
	case markSnapshot:
		return k.snapshot(ctx, mac)
	case markState:
		facts, err := k.s.store.ReadState(ctx, mac)
		return &marked{facts: facts}, err
	case markPaths:
		return k.root(ctx, resources.RT_VFS_BTREE, mac, markPathNode)
	case markErrors:
		return k.root(ctx, resources.RT_ERROR_BTREE, mac, markErrorNode)
	case markXattrs:
		return k.root(ctx, resources.RT_XATTR_BTREE, mac, markXattrNode)
	case markTypes:
		return k.root(ctx, resources.RT_BTREE_ROOT, mac, markTypeNode)
	case markDirs:
		return k.root(ctx, resources.RT_BTREE_ROOT, mac, markDirNode)
	case markSummaries:
		return k.root(ctx, resources.RT_BTREE_ROOT, mac, markSummaryNode)
	case markPathNode:
		return k.node(ctx, resources.RT_VFS_NODE, mac, kind)
	case markErrorNode:
		return k.node(ctx, resources.RT_ERROR_NODE, mac, kind)
	case markXattrNode:
		return k.node(ctx, resources.RT_XATTR_NODE, mac, kind)
	case markTypeNode, markDirNode, markSummaryNode:
		return k.node(ctx, resources.RT_BTREE_NODE, mac, kind)
	case markEntry:
		return k.entry(ctx, mac)
	case markXattr:
		return k.xattr(ctx, mac)
	case markObject:
		return k.object(mac)
	}
	return nil, fmt.Errorf("mark: kind %d", kind)
}

func (k *marker) snapshot(ctx context.Context, id objects.MAC) (*marked, error) {
	data, err := k.blob(resources.RT_SNAPSHOT, id)
	if err != nil {
		return nil, err
	}
	h, err := header.NewFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("decode header: %w", err)
	}
	if h.Identifier != id {
		return nil, fmt.Errorf("header of snapshot %x: %w", h.Identifier[:4], store.ErrDamaged)
	}
	v := &marked{blobs: []markBlob{blobMark(resources.RT_SNAPSHOT, id)}}
	if h.Identity.Identifier != uuid.Nil {
		v.blobs = append(v.blobs, blobMark(resources.RT_SIGNATURE, id))
	}
	if len(h.Sources) == 0 {
		return nil, errors.New("snapshot has no source")
	}
	for i := range h.Sources {
		src := &h.Sources[i]
		err := errors.Join(k.into(ctx, v, markPaths, src.VFS.Root), k.into(ctx, v, markErrors, src.VFS.Errors), k.into(ctx, v, markXattrs, src.VFS.Xattrs))
		for _, index := range src.Indexes {
			kind, ok := markIndex(index.Name)
			if !ok {
				return nil, fmt.Errorf("index %q is not known: %w", index.Name, store.ErrNewerVersion)
			}
			err = errors.Join(err, k.into(ctx, v, kind, index.Value))
		}
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (k *marker) root(ctx context.Context, typ resources.Type, mac objects.MAC, nodes byte) (*marked, error) {
	data, err := k.blob(typ, mac)
	if err != nil {
		return nil, err
	}
	var tree btree.BTree[string, objects.MAC, objects.MAC]
	if err := msgpack.Unmarshal(data, &tree); err != nil {
		return nil, fmt.Errorf("decode index: %w", err)
	}
	v := &marked{blobs: []markBlob{blobMark(typ, mac)}}
	if tree.Root == (objects.MAC{}) {
		return nil, fmt.Errorf("index %x has no root: %w", mac[:4], store.ErrDamaged)
	}
	return v, k.into(ctx, v, nodes, tree.Root)
}

func (k *marker) node(ctx context.Context, typ resources.Type, mac objects.MAC, kind byte) (*marked, error) {
	data, err := k.blob(typ, mac)
	if err != nil {
		return nil, err
	}
	var n node
	if err := msgpack.Unmarshal(data, &n); err != nil {
		return nil, fmt.Errorf("decode index node: %w", err)
	}
	v := &marked{blobs: []markBlob{blobMark(typ, mac)}}
	for _, child := range n.Pointers {
		if err := k.into(ctx, v, kind, child); err != nil {
			return nil, err
		}
	}
	if len(n.Values) == 0 || kind == markTypeNode { // the values of that one are entries of the index of paths
		return v, nil
	}
	// kloset links leaves, so a change makes those before it anew; what they hold stays.
	key := valuesKey(kind, n.Values)
	if !k.m.has(key) {
		held, err := k.values(ctx, kind, n.Values)
		if err == nil {
			err = k.m.put(key, held)
		}
		if err != nil {
			return nil, err
		}
	}
	v.things = append(v.things, key)
	return v, nil
}

// valuesKey names the values of leaves of a kind.
func valuesKey(kind byte, values []objects.MAC) markKey {
	h := sha256.New()
	h.Write([]byte{kind})
	for i := range values {
		h.Write(values[i][:])
	}
	return keyOf(markValues, objects.MAC(h.Sum(nil)))
}

func (k *marker) values(ctx context.Context, kind byte, values []objects.MAC) (*marked, error) {
	v := new(marked)
	for _, mac := range values {
		var err error
		switch kind {
		case markPathNode:
			err = k.into(ctx, v, markEntry, mac)
		case markXattrNode:
			err = k.into(ctx, v, markXattr, mac)
		case markDirNode:
			err = k.into(ctx, v, markObject, mac)
		case markErrorNode:
			v.blobs = append(v.blobs, blobMark(resources.RT_ERROR_ENTRY, mac))
		case markSummaryNode:
			v.blobs = append(v.blobs, blobMark(resources.RT_VFS_SUMMARY, mac))
		}
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (k *marker) entry(ctx context.Context, mac objects.MAC) (*marked, error) {
	data, err := k.blob(resources.RT_VFS_ENTRY, mac)
	if err != nil {
		return nil, err
	}
	e, err := vfs.EntryFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	v := &marked{blobs: []markBlob{blobMark(resources.RT_VFS_ENTRY, mac)}}
	if !e.HasObject() {
		return v, nil
	}
	if k.m.has(keyOf(markObject, e.Object)) {
		return v, k.into(ctx, v, markObject, e.Object)
	}
	obj, err := k.object(e.Object)
	if err != nil {
		return nil, err
	}
	if len(obj.blobs) <= 1+entryChunks {
		v.blobs = append(v.blobs, obj.blobs...)
		return v, nil
	}
	key := keyOf(markObject, e.Object)
	v.things = append(v.things, key)
	return v, k.m.put(key, obj)
}

func (k *marker) xattr(ctx context.Context, mac objects.MAC) (*marked, error) {
	data, err := k.blob(resources.RT_XATTR_ENTRY, mac)
	if err != nil {
		return nil, err
	}
	x, err := vfs.XattrFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("decode extended attribute: %w", err)
	}
	v := &marked{blobs: []markBlob{blobMark(resources.RT_XATTR_ENTRY, mac)}}
	err = k.into(ctx, v, markObject, x.Object)
	if isLost(err) {
		// plakar's maintenance does not count it, so it may be gone.
		return &marked{blobs: v.blobs}, nil
	}
	return v, err
}

func (k *marker) object(mac objects.MAC) (*marked, error) {
	data, err := k.blob(resources.RT_OBJECT, mac)
	if err != nil {
		return nil, err
	}
	obj, err := objects.NewObjectFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("decode object: %w", err)
	}
	v := &marked{blobs: make([]markBlob, 1, 1+len(obj.Chunks))}
	v.blobs[0] = blobMark(resources.RT_OBJECT, mac)
	for i := range obj.Chunks {
		v.blobs = append(v.blobs, blobMark(resources.RT_CHUNK, obj.Chunks[i].ContentMAC))
	}
	return v, nil
}

// roots returns the snapshots of the store, by what its states say and not by the index, which is
// a cache: what it has lost would be taken for removed. freed are, by packfile, the states that take its colour away; untold are
// those of them, of packfiles that any state says were removed, after which none says so: somebody was cut off.
func (k *marker) roots(ctx context.Context, states []objects.MAC) (there map[ID]struct{}, freed, untold map[objects.MAC][]objects.MAC, err error) {
	there, freed, untold = make(map[ID]struct{}), make(map[objects.MAC][]objects.MAC), make(map[objects.MAC][]objects.MAC)
	told := make(map[objects.MAC][]objects.MAC) // the states after which one says that a packfile was removed
	removed := make(map[ID]struct{})
	var restored []objects.MAC
	for _, id := range states {
		key, err := k.need(ctx, markState, id)
		if err != nil {
			return nil, nil, nil, err
		}
		v, err := k.m.get(key)
		if err != nil {
			return nil, nil, nil, err
		}
		for _, mac := range v.facts.Snapshots {
			there[ID(mac)] = struct{}{}
		}
		for _, mac := range v.facts.Removed {
			removed[ID(mac)] = struct{}{}
		}
		restored = append(restored, v.facts.Restored...)
		for _, mac := range v.facts.Freed {
			freed[mac] = append(freed[mac], id)
		}
		for _, mac := range v.facts.Buried {
			told[mac] = append(told[mac], v.facts.Parent)
		}
	}
	for mac, after := range told {
		for _, id := range freed[mac] {
			if !slices.Contains(after, id) {
				untold[mac] = append(untold[mac], id)
			}
		}
	}
	for _, id := range restored {
		delete(removed, ID(id))
	}
	for id := range removed {
		delete(there, id)
	}
	listed, err := k.s.store.Snapshots()
	if err != nil {
		return nil, nil, nil, err
	}
	for _, id := range listed { // of states that are gone meanwhile
		there[ID(id)] = struct{}{}
	}
	return there, freed, untold, nil
}
