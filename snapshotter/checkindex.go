package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/PlakarKorp/kloset/btree"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/snapgate/gateway/store"
)

// checkBatch is how many blobs are looked for and read together, at about 100 bytes of memory each: in the order in which they lie
// in packfiles, most of them are read with others.
const checkBatch = 1 << 16

// indexCheck reads what kloset's check leaves out of a snapshot that has an index of directories: kloset takes entries from
// dirpacks, and of its indexes it reads only what it needs for that. Files are opened by the index of paths and its entries. It is for
// one goroutine.
type indexCheck struct {
	s *Snapshotter
	// sound is what was read and found good; of nodes, with all that is below them.
	sound map[checkKey]struct{}
	bad   map[checkKey]error // what is damaged, with ErrDamaged
}

func newIndexCheck(s *Snapshotter) *indexCheck {
	return &indexCheck{s: s, sound: make(map[checkKey]struct{}), bad: make(map[checkKey]error)}
}

// checkKey tells blobs apart in little memory: a type, and as much of a MAC as no two of a store share.
type checkKey [16]byte

func checkKeyOf(typ resources.Type, mac objects.MAC) (k checkKey) {
	k[0] = byte(typ)
	copy(k[1:], mac[:])
	return k
}

// damaged returns why an entry is, nil if it is not, or was not read.
func (x *indexCheck) damaged(entry objects.MAC) error {
	return x.bad[checkKeyOf(resources.RT_VFS_ENTRY, entry)]
}

// checkedIndex is an index of a snapshot; values is 0 when what its leaves name is read by others.
type checkedIndex struct {
	what                string
	mac                 objects.MAC
	root, nodes, values resources.Type
}

func (r *record) indexes() []checkedIndex {
	return []checkedIndex{
		{"index of paths", r.vfs.Root, resources.RT_VFS_BTREE, resources.RT_VFS_NODE, resources.RT_VFS_ENTRY},
		{"index of directories", r.dirpack, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, 0},
		{"index of types", r.types, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, 0},
		{"index of summaries", r.summary, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, resources.RT_VFS_SUMMARY},
		{"index of errors", r.vfs.Errors, resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, resources.RT_ERROR_ENTRY},
		{"index of extended attributes", r.vfs.Xattrs, resources.RT_XATTR_BTREE, resources.RT_XATTR_NODE, resources.RT_XATTR_ENTRY},
	}
}

// indexPass is an indexCheck of one snapshot.
type indexPass struct {
	*indexCheck
	repo *repository.Repository // of store.Afresh
	// patience bounds reading after what was not given; nil: it ends then.
	patience *store.Patience
	nodes    []checkKey // that are good
	first    error      // the first damage, else the first that was not given
	n        int        // how much is damaged
}

// check reads the indexes of a snapshot, and what they name, as far as nothing of it was found good before. It goes on after what is
// damaged, up to damagedMost, and, with patience, after what is not given. Errors: ErrDamaged; else ErrUnavailable; that of ctx.
func (x *indexCheck) check(ctx context.Context, repo *repository.Repository, r *record, patience *store.Patience) error {
	p := &indexPass{indexCheck: x, repo: repo, patience: patience}
	for _, index := range r.indexes() {
		if index.mac == (objects.MAC{}) {
			continue
		}
		if err := p.index(ctx, index); errors.Is(err, errStop) {
			break
		} else if err != nil {
			return err
		}
	}
	if p.first != nil {
		return p.first // a node that is good may have something below it that is not
	}
	for _, k := range p.nodes {
		x.sound[k] = struct{}{}
	}
	return nil
}

func (p *indexPass) index(ctx context.Context, index checkedIndex) error {
	var next []objects.MAC
	err := p.read(ctx, index.what, index.root, p.left(nil, index.root, index.mac), func(_ objects.MAC, data []byte) error {
		var tree btree.BTree[string, objects.MAC, objects.MAC]
		if err := msgpack.Unmarshal(data, &tree); err != nil {
			return err
		}
		next = p.left(next, index.nodes, tree.Root)
		return nil
	})
	var level, values []objects.MAC
	for depth := 0; err == nil && len(next) > 0; depth++ {
		if depth > maxIndexDepth {
			return p.failed(fmt.Errorf("%s: %w: it has more than %d levels", index.what, store.ErrDamaged, maxIndexDepth))
		}
		slices.SortFunc(next, func(a, b objects.MAC) int { return bytes.Compare(a[:], b[:]) })
		level, next = slices.Compact(next), nil
		err = p.read(ctx, "node of the "+index.what, index.nodes, level, func(mac objects.MAC, data []byte) error {
			n, err := toRawNode(mac, data)
			if err != nil {
				return err
			}
			for i := range len(n.pointers) / rawMAC {
				next = p.left(next, index.nodes, n.pointer(i))
			}
			for i := range len(n.values) / rawMAC {
				if index.values != 0 {
					values = p.left(values, index.values, n.value(i))
				}
			}
			return nil
		})
	}
	if err == nil {
		err = p.read(ctx, "entry of the "+index.what, index.values, values, nil)
	}
	return err
}

// left adds a blob to a list unless it was found good.
func (p *indexPass) left(list []objects.MAC, typ resources.Type, mac objects.MAC) []objects.MAC {
	if _, ok := p.sound[checkKeyOf(typ, mac)]; ok {
		return list
	}
	return append(list, mac)
}

// read reads blobs. What nodes of an index hold it gives to node, which is nil for others. The error errStop says that enough is not good.
func (p *indexPass) read(ctx context.Context, what string, typ resources.Type, list []objects.MAC, node func(mac objects.MAC, data []byte) error) error {
	for batch := range slices.Chunk(list, checkBatch) {
		todo := make([]objects.MAC, 0, len(batch))
		for _, mac := range batch {
			if err := p.bad[checkKeyOf(typ, mac)]; err == nil {
				todo = append(todo, mac)
			} else if err := p.failed(err); err != nil {
				return err
			}
		}
		err := p.s.store.EachBlobOf(ctx, p.repo, typ, todo, func(mac objects.MAC, data []byte, err error) error {
			k := checkKeyOf(typ, mac)
			if err == nil && node != nil {
				err = node(mac, data)
			}
			switch {
			case err == nil && node != nil:
				p.nodes = append(p.nodes, k)
				return nil
			case err == nil:
				p.sound[k] = struct{}{}
				return nil
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, ErrUnavailable):
				err = fmt.Errorf("%s: %w", what, err)
			default:
				err = fmt.Errorf("%s: %w: %w", what, store.ErrDamaged, err)
				p.bad[k] = err
			}
			return p.failed(err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// failed notes what is not good. The error errStop says that it is enough.
func (p *indexPass) failed(err error) error {
	unread := errors.Is(err, ErrUnavailable)
	if p.first == nil || !unread && errors.Is(p.first, ErrUnavailable) {
		p.first = err
	}
	if unread {
		if p.patience == nil || p.patience.Over() != nil {
			return errStop
		}
		return nil
	}
	if p.n++; p.n == damagedMost {
		return errStop
	}
	return nil
}
