package spool

import (
	"cmp"
	"errors"
	"slices"
)

// Extent is a range of bytes that was written.
type Extent struct{ Off, Len int64 }

// End is the offset after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// maxExtents bounds what one file costs in memory (16 bytes each) and in the journal
// record of its partial. A client gets there only by writing with gaps on purpose.
const maxExtents = 1 << 16

// ErrFragmented says that a file has too many gaps between the ranges written so far.
var ErrFragmented = errors.New("too many separate ranges")

// extents are written ranges in order; they neither touch nor overlap.
type extents []Extent

// find returns the index of the first extent that ends at or after off.
func (x extents) find(off int64) int {
	i, _ := slices.BinarySearchFunc(x, off, func(e Extent, off int64) int {
		return cmp.Compare(e.End(), off)
	})
	return i
}

// add merges a range and returns how many bytes it added.
func (x extents) add(off, n int64) (extents, int64) {
	if n <= 0 {
		return x, 0
	}
	i := x.find(off)
	end := off + n
	k := i
	var had int64
	for ; k < len(x) && x[k].Off <= end; k++ {
		off = min(off, x[k].Off)
		end = max(end, x[k].End())
		had += x[k].Len
	}
	return slices.Replace(x, i, k, Extent{off, end - off}), end - off - had
}

// full reports whether adding a range that touches nothing would exceed maxExtents.
func (x extents) full(off, n int64) bool {
	if len(x) < maxExtents {
		return false
	}
	i := x.find(off)
	return i == len(x) || x[i].Off > off+n
}

// cut forgets everything at or above size.
func (x extents) cut(size int64) extents {
	i, _ := slices.BinarySearchFunc(x, size, func(e Extent, size int64) int {
		return cmp.Compare(e.End(), size)
	})
	if i < len(x) && x[i].Off < size {
		x[i].Len = size - x[i].Off
		i++
	}
	return x[:i]
}

// within returns the parts of the extents that lie in a range.
func (x extents) within(off, n int64) extents {
	var out extents
	for i := x.find(off); i < len(x) && x[i].Off < off+n; i++ {
		lo, hi := max(off, x[i].Off), min(off+n, x[i].End())
		if hi > lo {
			out = append(out, Extent{lo, hi - lo})
		}
	}
	return out
}

// bytes is the sum of the lengths.
func (x extents) bytes() int64 {
	var n int64
	for _, e := range x {
		n += e.Len
	}
	return n
}

// normal returns a sorted and merged copy without what lies outside of [0, size).
func normal(list []Extent, size int64) extents {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	var x extents
	for _, e := range sorted {
		lo, hi := max(0, e.Off), min(size, e.End())
		x, _ = x.add(lo, hi-lo)
	}
	return x
}
