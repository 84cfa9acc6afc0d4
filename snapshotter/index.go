package snapshotter

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/PlakarKorp/kloset/btree"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/vmihailenco/msgpack/v5"
)

// The shape of the indexes that incremental commits write. kloset's leaves are linked: each
// has the MAC of the next, so a change rewrites all leaves before it, and how many bytes
// that is does not depend on the size of a leaf. Large ones have less around them, and are
// written and read faster.
//
// indexOrder is the order that the root of an index tells, which kloset's readers take for
// the number of nodes to keep in memory. Its Builder writes 50, by which we know indexes
// that are to be converted.
const indexOrder = 64

// indexShape says how large nodes become.
type indexShape struct {
	max    int // entries of a leaf, at most
	fill   int // entries of the pieces that a leaf is split into
	min    int // a leaf with less is joined with the one before
	fanout int // children of an inner node, at most
}

func defaultShape() indexShape { return indexShape{max: 1024, fill: 768, min: 256, fanout: 1024} }

// leavesAtLeast is into how many leaves an index is divided, as far as they do not become
// smaller than leafAtLeast entries: a change writes all of its leaf again, and half of a
// small index should be less than kloset's Builder writes.
const (
	leavesAtLeast = 8
	leafAtLeast   = 64
)

// fit makes the leaves of small indexes small.
func (s indexShape) fit(entries int) indexShape {
	if most := max(entries/leavesAtLeast, leafAtLeast); most < s.max {
		return indexShape{max: most, fill: most * 3 / 4, min: most / 4, fanout: s.fanout}
	}
	return s
}

// errInconsistent means that an index is not what it should be. The commit is made by a
// full rebuild then.
var errInconsistent = errors.New("index is not consistent")

// leaf is a leaf of an index. It is never changed, but for raw.
type leaf struct {
	first string // the lower bound of its keys; "" for the first leaf
	mac   objects.MAC
	// raw is the encoded node, nil when it is not kept. A commit that gives the leaf
	// another next one takes it away (see chain).
	raw []byte
}

// leafIndex is one of the indexes of a snapshot, ready to be changed: its leaves in order.
// Inner nodes are made anew each time. It is never changed: edit makes another one, which
// shares the leaves that did not change.
type leafIndex struct {
	node, root resources.Type
	cmp        func(a, b string) int
	shape      indexShape
	leaves     []*leaf
	mac        objects.MAC // of the root record
	grown      int         // entries more than what it was made from, while it is being made
	// room is how many bytes of encoded leaves may be kept in memory, while it is being made;
	// nil for all.
	room *int64
}

// blobWriter takes blobs that are new.
type blobWriter interface {
	put(typ resources.Type, mac objects.MAC, data []byte)
	computeMAC(data []byte) objects.MAC
}

// loadIndex reads the leaves of an index that an incremental commit has written, by its
// inner nodes alone; ok is false for one that somebody else has, which must be converted.
func (s *Snapshotter) loadIndex(mac objects.MAC, root, node resources.Type, cmp func(a, b string) int) (x *leafIndex, ok bool, err error) {
	data, err := s.blob(root, mac)
	if err != nil {
		return nil, false, readError("index", err)
	}
	var tree btree.BTree[string, objects.MAC, objects.MAC]
	if err := msgpack.Unmarshal(data, &tree); err != nil {
		return nil, false, readError("index", err)
	}
	x = &leafIndex{node: node, root: root, cmp: cmp, shape: s.shape, mac: mac}
	if err := x.collect(&nodeStore{s, node}, tree.Root, "", 0); err != nil {
		return nil, false, err
	}
	return x, tree.Order == indexOrder, nil
}

// maxIndexDepth is far beyond what any tree has: deeper is damage.
const maxIndexDepth = 16

// collect adds the leaves below a node.
func (x *leafIndex) collect(nodes *nodeStore, mac objects.MAC, first string, depth int) error {
	n, err := nodes.Get(mac)
	if err != nil {
		return readError("index", err)
	}
	if len(n.Pointers) == 0 {
		x.leaves = append(x.leaves, &leaf{first: first, mac: mac})
		return nil
	}
	if depth > maxIndexDepth || len(n.Pointers) != len(n.Keys)+1 {
		return fmt.Errorf("%w: node %x", errInconsistent, mac[:4])
	}
	for i, child := range n.Pointers {
		if i > 0 {
			first = n.Keys[i-1]
		}
		if err := x.collect(nodes, child, first, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// find returns the value of a key.
func (x *leafIndex) find(s *Snapshotter, key string) (objects.MAC, bool, error) {
	if len(x.leaves) == 0 {
		return objects.MAC{}, false, nil
	}
	n, err := x.decode(s, x.leaves[x.at(key)])
	if err != nil {
		return objects.MAC{}, false, err
	}
	i, ok := slices.BinarySearchFunc(n.Keys, key, x.cmp)
	if !ok {
		return objects.MAC{}, false, nil
	}
	return n.Values[i], true, nil
}

// at is the number of the leaf that has a key or would have it.
func (x *leafIndex) at(key string) int {
	// The first leaf has no lower bound.
	i := sort.Search(len(x.leaves)-1, func(i int) bool { return x.cmp(x.leaves[i+1].first, key) > 0 })
	return i
}

// decode returns a leaf's node, which must not be changed.
func (x *leafIndex) decode(s *Snapshotter, l *leaf) (*node, error) {
	if n, ok := s.nodes.Get(l.mac); ok {
		return n, nil
	}
	raw, err := x.read(s, l)
	if err != nil {
		return nil, err
	}
	n := new(node)
	if err := msgpack.Unmarshal(raw, n); err != nil {
		return nil, readError("index", err)
	}
	if len(n.Keys) != len(n.Values) || len(n.Pointers) != 0 {
		return nil, fmt.Errorf("%w: leaf %x", errInconsistent, l.mac[:4])
	}
	s.nodes.Add(l.mac, n)
	return n, nil
}

// read returns a leaf as it is encoded.
func (x *leafIndex) read(s *Snapshotter, l *leaf) ([]byte, error) {
	if l.raw != nil {
		return l.raw, nil
	}
	raw, err := s.blob(x.node, l.mac)
	if err != nil {
		return nil, readError("index", err)
	}
	return raw, nil
}

// top makes the inner nodes and the root record.
func (x *leafIndex) top(w blobWriter) error {
	var keys []string
	var macs []objects.MAC
	for _, l := range x.leaves {
		keys, macs = append(keys, l.first), append(macs, l.mac)
	}
	for len(macs) > 1 {
		var upKeys []string
		var upMACs []objects.MAC
		pieces := (len(macs) + x.shape.fanout - 1) / x.shape.fanout
		for p := range pieces {
			from, to := p*len(macs)/pieces, (p+1)*len(macs)/pieces
			raw, err := msgpack.Marshal(&node{Keys: keys[from+1 : to], Pointers: macs[from:to]})
			if err != nil {
				return err
			}
			mac := w.computeMAC(raw)
			w.put(x.node, mac, raw)
			upKeys, upMACs = append(upKeys, keys[from]), append(upMACs, mac)
		}
		keys, macs = upKeys, upMACs
	}
	raw, err := msgpack.Marshal(&btree.BTree[string, objects.MAC, objects.MAC]{Order: indexOrder, Root: macs[0]})
	if err != nil {
		return err
	}
	x.mac = w.computeMAC(raw)
	w.put(x.root, x.mac, raw)
	return nil
}
