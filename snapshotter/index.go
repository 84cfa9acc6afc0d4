package snapshotter

import (
	"bytes"
	"cmp"
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
}

// indexEdit is what becomes of a key.
type indexEdit struct {
	key    string
	value  objects.MAC
	number uint32 // of those of one key the last counts
	remove bool   // if nothing else becomes of it
}

// edits collects what becomes of an index.
type edits []indexEdit

// set notes that a key gets a value.
func (l *edits) set(key string, mac objects.MAC) {
	*l = append(*l, indexEdit{key: key, value: mac, number: uint32(len(*l))})
}

// drop notes that a key goes, unless it gets another value.
func (l *edits) drop(key string) {
	*l = append(*l, indexEdit{key: key, remove: true, number: uint32(len(*l))})
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

// draft is a leaf of an index that is being made: an old one, or the entries of a new one.
type draft struct {
	old    *leaf
	first  string
	keys   []string
	values []objects.MAC
}

// edit makes the index that differs by edits, which must be ordered and have each key once.
// A key to be removed must be there. Everything new is put; what it takes from x that is
// not needed there any more is noted in x's leaves.
func (x *leafIndex) edit(s *Snapshotter, edits []indexEdit, w blobWriter) (*leafIndex, error) {
	drafts, grown, err := x.apply(s, edits)
	if err != nil {
		return nil, err
	}
	y, err := x.chain(s, drafts, w)
	if err != nil {
		return nil, err
	}
	y.grown = grown
	return y, nil
}

// convert makes the index anew, with leaves of our size.
func (x *leafIndex) convert(s *Snapshotter, edits []indexEdit, w blobWriter) (*leafIndex, error) {
	drafts, grown, err := x.apply(s, edits)
	if err != nil {
		return nil, err
	}
	var all draft
	for _, d := range drafts {
		if d.old != nil {
			n, err := x.decode(s, d.old)
			if err != nil {
				return nil, err
			}
			d.keys, d.values = n.Keys, n.Values
		}
		all.keys, all.values = append(all.keys, d.keys...), append(all.values, d.values...)
	}
	y, err := x.chain(s, x.split(nil, all), w)
	if err != nil {
		return nil, err
	}
	y.grown = grown
	return y, nil
}

// apply applies edits to the leaves that they concern, and tells how many entries there are
// more than before.
func (x *leafIndex) apply(s *Snapshotter, edits []indexEdit) (out []draft, grown int, err error) {
	old := x.leaves
	if len(old) == 0 {
		old = []*leaf{nil}
	}
	for i, l := range old {
		n := len(edits)
		if i+1 < len(old) {
			n = sort.Search(len(edits), func(k int) bool { return x.cmp(edits[k].key, old[i+1].first) >= 0 })
		}
		if n == 0 {
			if l != nil {
				out = append(out, draft{old: l, first: l.first})
			}
			continue
		}
		base := new(node)
		if l != nil {
			if base, err = x.decode(s, l); err != nil {
				return nil, 0, err
			}
		}
		d, err := x.merge(base, edits[:n])
		if err != nil {
			return nil, 0, err
		}
		grown += len(d.keys) - len(base.Keys)
		edits = edits[n:]
		if out, err = x.join(s, out, d); err != nil {
			return nil, 0, err
		}
	}
	return out, grown, nil
}

// merge returns the entries of a leaf after edits.
func (x *leafIndex) merge(n *node, edits []indexEdit) (draft, error) {
	d := draft{
		keys:   make([]string, 0, len(n.Keys)+len(edits)),
		values: make([]objects.MAC, 0, len(n.Keys)+len(edits)),
	}
	i := 0
	for _, e := range edits {
		for i < len(n.Keys) && x.cmp(n.Keys[i], e.key) < 0 {
			d.keys, d.values = append(d.keys, n.Keys[i]), append(d.values, n.Values[i])
			i++
		}
		here := i < len(n.Keys) && n.Keys[i] == e.key
		if here {
			i++
		}
		if e.remove {
			if !here {
				return d, fmt.Errorf("%w: %q is not there to be removed", errInconsistent, e.key)
			}
			continue
		}
		d.keys, d.values = append(d.keys, e.key), append(d.values, e.value)
	}
	d.keys, d.values = append(d.keys, n.Keys[i:]...), append(d.values, n.Values[i:]...)
	return d, nil
}

// join adds a changed leaf: split when it is too large, together with the one before when
// it is too small. The one before would be written again in any case.
func (x *leafIndex) join(s *Snapshotter, out []draft, d draft) ([]draft, error) {
	if len(d.keys) == 0 {
		return out, nil
	}
	if len(d.keys) < x.shape.min && len(out) > 0 {
		before := out[len(out)-1]
		if before.old != nil {
			n, err := x.decode(s, before.old)
			if err != nil {
				return nil, err
			}
			before.keys, before.values = n.Keys, n.Values
		}
		d.keys = slices.Concat(before.keys, d.keys)
		d.values = slices.Concat(before.values, d.values)
		out = out[:len(out)-1]
	}
	return x.split(out, d), nil
}

// split adds a draft in pieces of the right size.
func (x *leafIndex) split(out []draft, d draft) []draft {
	n := len(d.keys)
	pieces := 1
	if n > x.shape.max {
		pieces = (n + x.shape.fill - 1) / x.shape.fill
	}
	for p := range pieces {
		from, to := p*n/pieces, (p+1)*n/pieces
		if from == to {
			continue
		}
		out = append(out, draft{first: d.keys[from], keys: d.keys[from:to], values: d.values[from:to]})
	}
	return out
}

// chain links drafts, from the last to the first, puts what is new, and makes the index.
func (x *leafIndex) chain(s *Snapshotter, drafts []draft, w blobWriter) (*leafIndex, error) {
	y := &leafIndex{node: x.node, root: x.root, cmp: x.cmp, shape: x.shape, leaves: make([]*leaf, len(drafts))}
	place := make(map[*leaf]int, len(x.leaves))
	for i, l := range x.leaves {
		place[l] = i
	}
	var next *objects.MAC
	for i := len(drafts) - 1; i >= 0; i-- {
		d := drafts[i]
		if i == 0 {
			d.first = ""
		}
		var after *objects.MAC // what the old leaf has as its next one
		if d.old != nil {
			if k := place[d.old] + 1; k < len(x.leaves) {
				after = &x.leaves[k].mac
			}
		}
		var l *leaf
		var err error
		switch {
		case d.old != nil && sameMAC(after, next):
			l = d.old
			if l.first != d.first {
				l = &leaf{first: d.first, mac: l.mac, raw: l.raw}
			}
		case d.old != nil:
			l, err = x.relink(s, d, next, w)
		default:
			l, err = encodeLeaf(d, next, w, x.node)
		}
		if err != nil {
			return nil, err
		}
		y.leaves[i], next = l, &l.mac
	}
	if len(y.leaves) == 0 { // an index without entries has one leaf without entries
		l, err := encodeLeaf(draft{}, nil, w, x.node)
		if err != nil {
			return nil, err
		}
		y.leaves = []*leaf{l}
	}
	return y, y.top(w)
}

func sameMAC(a, b *objects.MAC) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// nextField is how the last field of an encoded leaf begins: the MAC of the next leaf.
const nextField = "\xa4next\xc4\x20"

// relink gives an old leaf another next one, without decoding it when that is possible.
// The bytes are taken from the old leaf, which has to be read again should it be needed: of
// a large index, only one version is in memory.
func (x *leafIndex) relink(s *Snapshotter, d draft, next *objects.MAC, w blobWriter) (*leaf, error) {
	raw, err := x.read(s, d.old)
	if err != nil {
		return nil, err
	}
	n := len(raw) - len(objects.MAC{})
	if next == nil || n < len(nextField) || !bytes.Equal(raw[n-len(nextField):n], []byte(nextField)) {
		old, err := x.decode(s, d.old)
		if err != nil {
			return nil, err
		}
		d.keys, d.values = old.Keys, old.Values
		return encodeLeaf(d, next, w, x.node)
	}
	d.old.raw = nil
	copy(raw[n:], next[:])
	l := &leaf{first: d.first, mac: w.computeMAC(raw), raw: raw}
	w.put(x.node, l.mac, raw)
	return l, nil
}

func encodeLeaf(d draft, next *objects.MAC, w blobWriter, typ resources.Type) (*leaf, error) {
	raw, err := msgpack.Marshal(&node{Keys: d.keys, Values: d.values, Next: next})
	if err != nil {
		return nil, err
	}
	l := &leaf{first: d.first, mac: w.computeMAC(raw), raw: raw}
	w.put(typ, l.mac, raw)
	return l, nil
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

// sorted orders edits by key, each key once.
func (l edits) sorted(compare func(a, b string) int) []indexEdit {
	slices.SortFunc(l, func(a, b indexEdit) int {
		if n := cmp.Or(compare(a.key, b.key), cmp.Compare(a.key, b.key)); n != 0 {
			return n
		}
		if a.remove != b.remove {
			if a.remove {
				return 1
			}
			return -1
		}
		return cmp.Compare(b.number, a.number)
	})
	return slices.CompactFunc(l, func(a, b indexEdit) bool { return a.key == b.key })
}
