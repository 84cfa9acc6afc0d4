package vfs

import (
	"slices"
	"sort"
)

// kids is an immutable ordered map from the names in a directory to nodes; nil is the empty
// one. It is a B-tree: a change copies the path to where it is and shares the rest, and a
// name costs little more than its string and its pointer, as there may be very many. What a
// deletion leaves is not merged, but for the last of its kind.
type kids struct {
	names []string // in byte order; of a branch: none below is less
	nodes []*node  // of a leaf, by name
	below []*kids  // of a branch, by name; nil for a leaf
}

// kidsMax is how many names a part of the tree has at most: a change copies as many.
const kidsMax = 32

// get returns the node called name, nil when there is none.
func (k *kids) get(name string) *node {
	for k != nil {
		i, ok := slices.BinarySearch(k.names, name)
		switch {
		case k.below != nil:
			k = k.below[k.branch(name)]
		case ok:
			return k.nodes[i]
		default:
			return nil
		}
	}
	return nil
}

// branch is the place in below where a name belongs.
func (k *kids) branch(name string) int {
	i := sort.Search(len(k.names), func(i int) bool { return k.names[i] > name })
	return max(i-1, 0)
}

// put returns k with n under a name.
func (k *kids) put(name string, n *node) *kids {
	if k == nil {
		return &kids{names: []string{name}, nodes: []*node{n}}
	}
	left, right := k.with(name, n)
	if right == nil {
		return left
	}
	return &kids{names: []string{left.names[0], right.names[0]}, below: []*kids{left, right}}
}

// with is put for a part of the tree, which may become two.
func (k *kids) with(name string, n *node) (left, right *kids) {
	if k.below == nil {
		i, ok := slices.BinarySearch(k.names, name)
		if ok {
			out := &kids{names: k.names, nodes: slices.Clone(k.nodes)}
			out.nodes[i] = n
			return out, nil
		}
		return (&kids{names: inserted(k.names, i, name), nodes: inserted(k.nodes, i, n)}).split(i)
	}
	i := k.branch(name)
	left, right = k.below[i].with(name, n)
	out := &kids{names: k.names, below: slices.Clone(k.below)}
	out.below[i] = left
	if left.names[0] < k.names[i] {
		out.names = slices.Clone(k.names)
		out.names[i] = left.names[0]
	}
	if right == nil {
		return out, nil
	}
	out.names, out.below = inserted(out.names, i+1, right.names[0]), inserted(out.below, i+1, right)
	return out.split(i + 1)
}

// split halves a part that has become too large by the name at i. Names that come in order
// leave full parts behind.
func (k *kids) split(i int) (left, right *kids) {
	if len(k.names) <= kidsMax {
		return k, nil
	}
	at := len(k.names) / 2
	if i == len(k.names)-1 {
		at = i
	}
	left, right = &kids{names: slices.Clone(k.names[:at])}, &kids{names: slices.Clone(k.names[at:])}
	if k.below == nil {
		left.nodes, right.nodes = slices.Clone(k.nodes[:at]), slices.Clone(k.nodes[at:])
	} else {
		left.below, right.below = slices.Clone(k.below[:at]), slices.Clone(k.below[at:])
	}
	return left, right
}

// without returns k without a name.
func (k *kids) without(name string) *kids {
	if k == nil {
		return nil
	}
	if k.below == nil {
		i, ok := slices.BinarySearch(k.names, name)
		switch {
		case !ok:
			return k
		case len(k.names) == 1:
			return nil
		}
		return &kids{names: removed(k.names, i), nodes: removed(k.nodes, i)}
	}
	i := k.branch(name)
	part := k.below[i].without(name)
	switch {
	case part == k.below[i]:
		return k
	case part != nil:
		out := &kids{names: k.names, below: slices.Clone(k.below)}
		out.below[i] = part
		return out
	case len(k.below) == 2:
		return k.below[1-i]
	}
	return &kids{names: removed(k.names, i), below: removed(k.below, i)}
}

// inserted and removed return a copy of s with v at i, and without what is at i.
func inserted[T any](s []T, i int, v T) []T {
	out := make([]T, len(s)+1)
	copy(out, s[:i])
	out[i] = v
	copy(out[i+1:], s[i:])
	return out
}

func removed[T any](s []T, i int) []T {
	out := make([]T, len(s)-1)
	copy(out, s[:i])
	copy(out[i:], s[i+1:])
	return out
}

// kidsAt is a place in a part of the tree: what comes next.
type kidsAt struct {
	k *kids
	i int
}

// after iterates over the names after a name ("": all), in byte order.
func (k *kids) after(name string) func() (dirEntry, bool) {
	var way []kidsAt
	for k != nil && k.below != nil {
		i := k.branch(name)
		way = append(way, kidsAt{k, i + 1})
		k = k.below[i]
	}
	if k != nil {
		way = append(way, kidsAt{k, sort.Search(len(k.names), func(i int) bool { return k.names[i] > name })})
	}
	return func() (dirEntry, bool) {
		for len(way) > 0 {
			at := &way[len(way)-1]
			i := at.i
			switch {
			case i == len(at.k.names):
				way = way[:len(way)-1]
			case at.k.below == nil:
				at.i++
				return dirEntry{at.k.names[i], at.k.nodes[i]}, true
			default:
				at.i++
				way = append(way, kidsAt{at.k.below[i], 0})
			}
		}
		return dirEntry{}, false
	}
}
