package snapshotter

import (
	"bytes"
	"context"
	"sort"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
)

// rawCursor goes through the keys of an index, ordered as strings, that are a directory or below
// it.
type rawCursor struct {
	x      *rawIndex
	leaves []rawLeaf
	leaf   int      // which one is next
	n      *rawNode // that leaf, nil when it was not read
	i      int      // the next key of it
	top    string
	inside string // what keys below top begin with

	ok  bool // key and mac are the next ones
	key string
	mac objects.MAC
}

// newRawCursor begins at the first key; of a nil index there is none.
func newRawCursor(ctx context.Context, x *rawIndex, top string) (*rawCursor, error) {
	c := &rawCursor{x: x, top: top, inside: below(top)}
	if x == nil {
		return c, nil
	}
	var err error
	if c.leaves, err = x.leaves(ctx); err != nil {
		return nil, err
	}
	c.leaf = sort.Search(len(c.leaves)-1, func(i int) bool { return c.leaves[i+1].first > top })
	return c, c.next(ctx)
}

// next goes to the next key.
func (c *rawCursor) next(ctx context.Context) error {
	c.ok = false
	for c.leaf < len(c.leaves) {
		if err := c.read(ctx); err != nil {
			return err
		}
		for c.i < len(c.n.keys) {
			k := c.n.bytes(c.i)
			switch {
			case string(k) == c.top || bytes.HasPrefix(k, []byte(c.inside)):
				c.ok, c.key, c.mac = true, string(k), c.n.value(c.i)
				c.i++
				return nil
			case string(k) > c.inside: // and so are all that follow
				c.leaf = len(c.leaves)
				return nil
			}
			c.i++
		}
		c.leaf++
		c.n, c.i = nil, 0
	}
	return nil
}

func (c *rawCursor) read(ctx context.Context) (err error) {
	if c.n == nil {
		if err = ctx.Err(); err == nil {
			c.n, err = c.x.node(c.leaves[c.leaf].mac)
		}
	}
	return err
}

// atLeaf reports whether the next key, key and mac, is the first of a leaf.
func (c *rawCursor) atLeaf() bool {
	return c.ok && c.i == 1 && len(c.n.keys) > 0 && c.n.key(0) == c.key
}

// skipLeaf goes to the first key of the next leaf.
func (c *rawCursor) skipLeaf(ctx context.Context) error {
	c.leaf++
	c.n, c.i = nil, 0
	return c.next(ctx)
}

// sameEntries reports whether two leaves, at whose first keys cursors are, have the same keys and
// values; and rest, whether all leaves behind them have as well.
func sameEntries(a, b *rawCursor) (same, rest bool) {
	if a.leaves[a.leaf].mac == b.leaves[b.leaf].mac {
		return true, true // a leaf has the MAC of the next one
	}
	x, y := a.n.data, b.n.data
	n := len(x) - len(objects.MAC{})
	if len(x) != len(y) || n < len(nextField) || !strings.HasSuffix(string(x[n-len(nextField):n]), nextField) {
		return false, false
	}
	return bytes.Equal(x[:n], y[:n]), false
}
