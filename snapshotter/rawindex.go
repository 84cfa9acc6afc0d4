package snapshotter

import (
	"context"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"

	"github.com/PlakarKorp/kloset/btree"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	"github.com/vmihailenco/msgpack/v5"
)

// rawNode is a node of an index as it is encoded, with the places of its keys. To decode it would
// make a string and a MAC of each, which costs more than to read it; whoever looks for some of a
// million keys needs few of them.
type rawNode struct {
	data     []byte
	keys     [][2]uint32 // from and to in data
	values   []byte      // of a leaf
	pointers []byte      // of an inner node
}

// rawMAC is how long a MAC is as it is encoded: a type byte, a length, and 32 bytes.
const rawMAC = 2 + len(objects.MAC{})

func (n *rawNode) key(i int) string { return string(n.data[n.keys[i][0]:n.keys[i][1]]) }

// bytes is the key without a copy.
func (n *rawNode) bytes(i int) []byte { return n.data[n.keys[i][0]:n.keys[i][1]] }

func (n *rawNode) value(i int) objects.MAC { return objects.MAC(n.values[i*rawMAC+2 : (i+1)*rawMAC]) }
func (n *rawNode) pointer(i int) objects.MAC {
	return objects.MAC(n.pointers[i*rawMAC+2 : (i+1)*rawMAC])
}

// parseNode takes a node apart; false when it is not encoded as kloset and we do it.
func parseNode(data []byte) (*rawNode, bool) {
	p := rawParser{data: data}
	n := &rawNode{data: data}
	for range p.length(0x80, 0xde) {
		switch name := p.text(); string(data[name[0]:name[1]]) {
		case "keys":
			count := p.list()
			n.keys = make([][2]uint32, 0, min(count, len(data)))
			for range count {
				n.keys = append(n.keys, p.text())
				if p.bad {
					return nil, false
				}
			}
		case "values":
			n.values = p.macs()
		case "pointers":
			n.pointers = p.macs()
		default:
			p.skip()
		}
		if p.bad {
			return nil, false
		}
	}
	leaf := len(n.pointers) == 0 && len(n.values) == len(n.keys)*rawMAC
	inner := len(n.values) == 0 && len(n.pointers) == (len(n.keys)+1)*rawMAC
	return n, !p.bad && p.at == len(data) && (leaf || inner)
}

// rawParser goes through MessagePack, as far as nodes of indexes use it.
type rawParser struct {
	data []byte
	at   int
	bad  bool
}

// take returns the next n bytes, zeros when there are not so many.
func (p *rawParser) take(n int) []byte {
	if p.bad || n < 0 || n > len(p.data)-p.at {
		p.bad = true
		return make([]byte, 8)[:min(max(n, 0), 8)]
	}
	p.at += n
	return p.data[p.at-n : p.at]
}

// length reads the length of a map or a list: with the type in the upper half of a byte, or in
// two or four bytes behind it.
func (p *rawParser) length(short, long byte) int {
	switch c := p.take(1)[0]; {
	case c&0xf0 == short:
		return int(c & 0x0f)
	case c == long:
		return int(binary.BigEndian.Uint16(p.take(2)))
	case c == long+1:
		return int(binary.BigEndian.Uint32(p.take(4)))
	}
	p.bad = true
	return 0
}

// list reads the length of a list; nil is none.
func (p *rawParser) list() int {
	if p.at < len(p.data) && p.data[p.at] == 0xc0 {
		p.at++
		return 0
	}
	return p.length(0x90, 0xdc)
}

// text reads a string.
func (p *rawParser) text() [2]uint32 {
	n := 0
	switch c := p.take(1)[0]; {
	case c&0xe0 == 0xa0:
		n = int(c & 0x1f)
	case c == 0xd9:
		n = int(p.take(1)[0])
	case c == 0xda:
		n = int(binary.BigEndian.Uint16(p.take(2)))
	case c == 0xdb:
		n = int(binary.BigEndian.Uint32(p.take(4)))
	default:
		p.bad = true
	}
	from := p.at
	p.take(n)
	if p.bad {
		return [2]uint32{}
	}
	return [2]uint32{uint32(from), uint32(p.at)}
}

// macs reads a list of MACs.
func (p *rawParser) macs() []byte {
	n := p.list()
	if n > len(p.data)/rawMAC {
		p.bad = true
		return nil
	}
	list := p.take(n * rawMAC)
	if p.bad {
		return nil
	}
	for i := range n {
		if list[i*rawMAC] != 0xc4 || int(list[i*rawMAC+1]) != rawMAC-2 {
			p.bad = true
			return nil
		}
	}
	return list
}

// skip goes over a number, nil or a MAC: what else a node has.
func (p *rawParser) skip() {
	switch c := p.take(1)[0]; {
	case c < 0x80 || c >= 0xe0 || c == 0xc0:
	case c == 0xc4:
		p.take(int(p.take(1)[0]))
	case c == 0xcc || c == 0xd0:
		p.take(1)
	case c == 0xcd || c == 0xd1:
		p.take(2)
	case c == 0xce || c == 0xd2:
		p.take(4)
	case c == 0xcf || c == 0xd3:
		p.take(8)
	default:
		p.bad = true
	}
}

// rawIndex is an index that is read node by node, without the cache: what goes through it once
// would drive out all else.
type rawIndex struct {
	s    *Snapshotter
	typ  resources.Type // of its nodes
	cmp  func(a, b string) int
	root objects.MAC
	// sound has nodes compared with their MACs.
	sound bool
	// read reads nodes; nil is Snapshotter.blob.
	read func(resources.Type, objects.MAC) ([]byte, error)
}

// rawPaths is the index of paths of a snapshot.
func (s *Snapshotter) rawPaths(r *record) (*rawIndex, error) {
	return s.rawIndex(r.vfs.Root, resources.RT_VFS_BTREE, resources.RT_VFS_NODE, vfs.PathCmp)
}

// rawOther is another index of a snapshot; nil for one that it does not have.
func (s *Snapshotter) rawOther(mac objects.MAC) (*rawIndex, error) {
	if mac == (objects.MAC{}) {
		return nil, nil
	}
	return s.rawIndex(mac, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, strings.Compare)
}

func (s *Snapshotter) rawIndex(mac objects.MAC, root, node resources.Type, cmp func(a, b string) int) (*rawIndex, error) {
	data, err := s.blob(root, mac)
	if err != nil {
		return nil, readError("index", err)
	}
	var tree btree.BTree[string, objects.MAC, objects.MAC]
	if err := msgpack.Unmarshal(data, &tree); err != nil {
		return nil, readError("index", err)
	}
	return &rawIndex{s: s, typ: node, cmp: cmp, root: tree.Root}, nil
}

// node reads a node.
func (x *rawIndex) node(mac objects.MAC) (*rawNode, error) {
	read := x.read
	switch {
	case x.sound:
		read = x.s.soundBlob
	case read == nil:
		read = x.s.blob
	}
	data, err := read(x.typ, mac)
	if err != nil {
		return nil, readError("index", err)
	}
	return toRawNode(mac, data)
}

// toRawNode takes a node apart, whoever has encoded it.
func toRawNode(mac objects.MAC, data []byte) (*rawNode, error) {
	if n, ok := parseNode(data); ok {
		return n, nil
	}
	// Of another encoder. What it decodes to is encoded as ours.
	n := new(node)
	if err := msgpack.Unmarshal(data, n); err != nil {
		return nil, readError("index", err)
	}
	data, err := msgpack.Marshal(n)
	if err != nil {
		return nil, err
	}
	raw, ok := parseNode(data)
	if !ok {
		return nil, fmt.Errorf("%w: node %x", errInconsistent, mac[:4])
	}
	return raw, nil
}

// find returns the value of a key.
func (x *rawIndex) find(key string) (value objects.MAC, ok bool, err error) {
	value, _, ok, err = x.findIn(key)
	return value, ok, err
}

// findIn is find that returns the leaf as well which has the key, or would have it.
func (x *rawIndex) findIn(key string) (value, leaf objects.MAC, ok bool, err error) {
	mac := x.root
	for range maxIndexDepth {
		n, err := x.node(mac)
		if err != nil {
			return objects.MAC{}, objects.MAC{}, false, err
		}
		if len(n.pointers) > 0 {
			mac = n.pointer(sort.Search(len(n.keys), func(i int) bool { return x.cmp(n.key(i), key) > 0 }))
			continue
		}
		i := sort.Search(len(n.keys), func(i int) bool { return x.cmp(n.key(i), key) >= 0 })
		if i == len(n.keys) || n.key(i) != key {
			return objects.MAC{}, mac, false, nil
		}
		return n.value(i), mac, true, nil
	}
	return objects.MAC{}, objects.MAC{}, false, fmt.Errorf("%w: index of more than %d levels", errInconsistent, maxIndexDepth)
}

// rawLeaf is a leaf that was not read: its keys are from first on, and before the next leaf's.
type rawLeaf struct {
	first string // "" for the first leaf
	mac   objects.MAC
}

// leaves lists the leaves, by the inner nodes alone.
func (x *rawIndex) leaves(ctx context.Context) ([]rawLeaf, error) {
	// All leaves are at the same depth, which the first branch shows.
	level := []rawLeaf{{mac: x.root}}
	for range maxIndexDepth {
		n, err := x.node(level[0].mac)
		if err != nil {
			return nil, err
		}
		if len(n.pointers) == 0 {
			return level, nil
		}
		var next []rawLeaf
		for i, l := range level {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if i > 0 {
				if n, err = x.node(l.mac); err != nil {
					return nil, err
				}
			}
			if len(n.pointers) == 0 {
				return nil, fmt.Errorf("%w: leaves at several depths", errInconsistent)
			}
			for k := range len(n.keys) + 1 {
				first := l.first
				if k > 0 {
					first = n.key(k - 1)
				}
				next = append(next, rawLeaf{first, n.pointer(k)})
			}
		}
		level = next
	}
	return nil, fmt.Errorf("%w: index of more than %d levels", errInconsistent, maxIndexDepth)
}
