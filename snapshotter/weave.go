package snapshotter

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/vmihailenco/msgpack/v5"
)

// weaveEntries is how many entries of an index that is being made are in memory, at about 100
// bytes each: a leaf of kloset's Builder that is converted, or one into which very many come,
// is divided before its beginning is known.
const weaveEntries = 1 << 16

// draft is the entries of a leaf that is being made.
type draft struct {
	keys   []string
	values []objects.MAC
}

// before puts entries in front of the draft's.
func (d draft) before(keys []string, values []objects.MAC) draft {
	if len(d.keys) == 0 {
		return draft{keys, values}
	}
	return draft{slices.Concat(keys, d.keys), slices.Concat(values, d.values)}
}

// edit makes the index that differs by edits. A key to be removed must be there. Everything new
// is put; what it takes from x that is not needed there any more is noted in x's leaves.
func (x *leafIndex) edit(s *Snapshotter, edits descending, w blobWriter) (*leafIndex, error) {
	return x.weave(s, edits, w, false)
}

// convert makes the index anew, with leaves of our size.
func (x *leafIndex) convert(s *Snapshotter, edits descending, w blobWriter) (*leafIndex, error) {
	return x.weave(s, edits, w, true)
}

// weaver makes an index out of another one and edits, from the last leaf to the first, since
// each has the MAC of the next. It holds few entries at a time.
type weaver struct {
	s    *Snapshotter
	w    blobWriter
	x    *leafIndex
	most int // entries held

	edits descending
	edit  *indexEdit // the next one, nil at the end

	held   draft        // not a leaf yet: what is before it may come to it
	next   *objects.MAC // of the leaf that was made last, which is the one behind
	leaves []*leaf      // the last one first
	grown  int
}

func (x *leafIndex) weave(s *Snapshotter, edits descending, w blobWriter, anew bool) (*leafIndex, error) {
	v := &weaver{s: s, w: w, x: x, most: s.weaveEntries, edits: edits}
	if err := v.advance(); err != nil {
		return nil, err
	}
	old := x.leaves
	if len(old) == 0 {
		old = []*leaf{nil}
	}
	var behind *objects.MAC // what the old leaf has as its next one
	for i, l := range slices.Backward(old) {
		mac := behind
		if l != nil {
			behind = &l.mac
		}
		var err error
		if !anew && l != nil && (v.edit == nil || i > 0 && x.cmp(v.edit.key, l.first) < 0) {
			err = v.keep(l, mac)
		} else {
			err = v.change(l, i == 0, anew)
		}
		if err != nil {
			return nil, err
		}
	}
	return v.finish()
}

// advance goes on to the next edit.
func (v *weaver) advance() (err error) {
	v.edit, err = v.edits.next()
	return err
}

// keep takes over a leaf that no edit concerns. next is the one that it has behind it.
func (v *weaver) keep(l *leaf, next *objects.MAC) error {
	if n := len(v.held.keys); n > 0 && n < v.x.shape.min { // this one would be written again in any case
		n, err := v.x.decode(v.s, l)
		if err != nil {
			return err
		}
		v.held = v.held.before(n.Keys, n.Values)
		return v.flush(0)
	}
	if err := v.flush(0); err != nil {
		return err
	}
	if sameMAC(next, v.next) {
		v.add(l)
		return nil
	}
	return v.relink(l)
}

// change applies the edits that concern a leaf, nil for one without entries. With anew it is
// divided and joined as if it were new.
func (v *weaver) change(l *leaf, first, anew bool) error {
	base := new(node)
	if l != nil {
		var err error
		if base, err = v.x.decode(v.s, l); err != nil {
			return err
		}
	}
	if n := len(v.held.keys); n >= v.x.shape.min && !anew {
		if err := v.flush(0); err != nil {
			return err
		}
	}
	keys, values := base.Keys, base.Values
	for more := true; more; {
		var batch []indexEdit
		for len(batch) < v.most && v.edit != nil && (first || v.x.cmp(v.edit.key, l.first) >= 0) {
			batch = append(batch, *v.edit)
			if err := v.advance(); err != nil {
				return err
			}
		}
		slices.Reverse(batch)
		from := 0
		if more = len(batch) == v.most; more {
			from, _ = slices.BinarySearchFunc(keys, batch[0].key, v.x.cmp)
		}
		d, err := v.x.merge(keys[from:], values[from:], batch)
		if err != nil {
			return err
		}
		v.grown += len(d.keys) - (len(keys) - from)
		keys, values = keys[:from], values[:from]
		v.held = v.held.before(d.keys, d.values)
		if len(v.held.keys) > v.most {
			if err := v.flush(1); err != nil {
				return err
			}
		}
	}
	return nil
}

// merge returns entries after edits, both of which are in order.
func (x *leafIndex) merge(keys []string, values []objects.MAC, edits []indexEdit) (draft, error) {
	d := draft{
		keys:   make([]string, 0, len(keys)+len(edits)),
		values: make([]objects.MAC, 0, len(keys)+len(edits)),
	}
	i := 0
	for _, e := range edits {
		for i < len(keys) && x.cmp(keys[i], e.key) < 0 {
			d.keys, d.values = append(d.keys, keys[i]), append(d.values, values[i])
			i++
		}
		here := i < len(keys) && keys[i] == e.key
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
	d.keys, d.values = append(d.keys, keys[i:]...), append(d.values, values[i:]...)
	return d, nil
}

// flush makes leaves of the right size of what is held, but for the first ones.
func (v *weaver) flush(but int) error {
	n, shape := len(v.held.keys), v.x.shape
	if n == 0 {
		return nil
	}
	pieces := 1
	if n > shape.max {
		pieces = (n + shape.fill - 1) / shape.fill
	}
	for p := pieces - 1; p >= but; p-- {
		from, to := p*n/pieces, (p+1)*n/pieces
		if err := v.encode(draft{v.held.keys[from:to], v.held.values[from:to]}); err != nil {
			return err
		}
	}
	but = but * n / pieces
	// What goes on being held is not to keep the rest.
	v.held = draft{slices.Clone(v.held.keys[:but]), slices.Clone(v.held.values[:but])}
	return nil
}

// encode makes a leaf.
func (v *weaver) encode(d draft) error {
	raw, err := msgpack.Marshal(&node{Keys: d.keys, Values: d.values, Next: v.next})
	if err != nil {
		return err
	}
	first := ""
	if len(d.keys) > 0 {
		first = d.keys[0]
	}
	v.put(first, raw)
	return nil
}

// put puts an encoded leaf, which is kept when there is room.
func (v *weaver) put(first string, raw []byte) {
	l := &leaf{first: first, mac: v.w.computeMAC(raw)}
	v.w.put(v.x.node, l.mac, raw)
	if room := v.x.room; room == nil || *room >= int64(len(raw)) {
		l.raw = raw
		if room != nil {
			*room -= int64(len(raw))
		}
	}
	v.add(l)
}

func (v *weaver) add(l *leaf) {
	v.leaves = append(v.leaves, l)
	v.next = &l.mac
}

func sameMAC(a, b *objects.MAC) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// nextField is how the last field of an encoded leaf begins: the MAC of the next leaf.
const nextField = "\xa4next\xc4\x20"

// relink gives an old leaf another next one, without decoding it when that is possible.
// The bytes are taken from the old leaf, which has to be read again should it be needed: of
// a large index, only one version is in memory.
func (v *weaver) relink(l *leaf) error {
	raw, err := v.x.read(v.s, l)
	if err != nil {
		return err
	}
	n := len(raw) - len(objects.MAC{})
	if v.next == nil || n < len(nextField) || !bytes.Equal(raw[n-len(nextField):n], []byte(nextField)) {
		old, err := v.x.decode(v.s, l)
		if err != nil {
			return err
		}
		return v.encode(draft{old.Keys, old.Values})
	}
	l.raw = nil
	copy(raw[n:], v.next[:])
	v.put(l.first, raw)
	return nil
}

// finish makes the first leaf and the nodes above.
func (v *weaver) finish() (*leafIndex, error) {
	if v.edit != nil {
		return nil, fmt.Errorf("%w: %q is in no leaf", errInconsistent, v.edit.key)
	}
	if err := v.flush(0); err != nil {
		return nil, err
	}
	if len(v.leaves) == 0 { // an index without entries has one leaf without entries
		if err := v.encode(draft{}); err != nil {
			return nil, err
		}
	}
	slices.Reverse(v.leaves)
	if l := v.leaves[0]; l.first != "" {
		v.leaves[0] = &leaf{mac: l.mac, raw: l.raw}
	}
	x := v.x
	y := &leafIndex{node: x.node, root: x.root, cmp: x.cmp, shape: x.shape, leaves: v.leaves, grown: v.grown}
	return y, y.top(v.w)
}

// inOrder hands out edits that are in order already.
func inOrder(list []indexEdit) descending { return &listed{list} }
