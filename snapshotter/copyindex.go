package snapshotter

import (
	"context"
	"strings"

	"github.com/PlakarKorp/kloset/iterator"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	"golang.org/x/sync/errgroup"
)

// difference is a key that two indexes have different values for; a zero MAC is none.
type difference struct {
	key      string
	was, now objects.MAC
}

// compare calls each, in several goroutines, for what is different in two indexes, of the base
// and of the snapshot. was may be nil.
func (x *copying) compare(ctx context.Context, was, now *index, parallel int, each func(context.Context, difference) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	err := diffIndexes(was, now, func(d difference) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		group.Go(func() error { return each(ctx, d) })
		return nil
	})
	// What the goroutines say is the cause of a cancelled context.
	if gerr := group.Wait(); gerr != nil {
		return gerr
	}
	return err
}

// diffIndexes calls each for the keys whose values differ, in their order.
func diffIndexes(was, now *index, each func(difference) error) error {
	a, err := newCursor(was)
	if err != nil {
		return &baseError{err}
	}
	b, err := newCursor(now)
	if err != nil {
		return &sourceError{err}
	}
	for a.ok || b.ok {
		var d difference
		order := strings.Compare(a.key, b.key)
		switch {
		case !a.ok:
			order = 1
		case !b.ok:
			order = -1
		}
		if order <= 0 {
			d.key, d.was = a.key, a.mac
		}
		if order >= 0 {
			d.key, d.now = b.key, b.mac
		}
		if d.was != d.now {
			if err := each(d); err != nil {
				return err
			}
		}
		if order <= 0 {
			if err := a.next(); err != nil {
				return &baseError{err}
			}
		}
		if order >= 0 {
			if err := b.next(); err != nil {
				return &sourceError{err}
			}
		}
	}
	return nil
}

// cursor goes through an index.
type cursor struct {
	it  iterator.Iterator[string, objects.MAC]
	ok  bool // key and mac are the next ones
	key string
	mac objects.MAC
}

// newCursor begins at the first key; of a nil index there is none.
func newCursor(x *index) (*cursor, error) {
	c := &cursor{}
	if x == nil {
		return c, nil
	}
	var err error
	if c.it, err = x.ScanAll(); err != nil {
		return nil, readError("index", err)
	}
	return c, c.next()
}

func (c *cursor) next() error {
	if c.ok = c.it.Next(); c.ok {
		c.key, c.mac = c.it.Current()
		return nil
	}
	if err := c.it.Err(); err != nil {
		return readError("index", err)
	}
	return nil
}

// values copies an index whose values name at most objects, in the order that it has. The index
// of the base is taken when it is the same.
func (x *copying) values(ctx context.Context, mac objects.MAC, root, node resources.Type, copyValue func(context.Context, objects.MAC) (objects.MAC, error)) (objects.MAC, error) {
	if x.base != nil {
		for _, same := range [][2]objects.MAC{{x.base.vfs.Xattrs, x.old.vfs.Xattrs}, {x.base.vfs.Errors, x.old.vfs.Errors}} {
			if same[0] == mac {
				return same[1], nil
			}
		}
	}
	src, err := x.from.openIndex(mac, root, node, strings.Compare)
	if err != nil {
		return objects.MAC{}, &sourceError{err}
	}
	cur, err := newCursor(src)
	if err != nil {
		return objects.MAC{}, &sourceError{err}
	}
	var edits []indexEdit
	for cur.ok {
		value, err := copyValue(ctx, cur.mac)
		if err != nil {
			return objects.MAC{}, err
		}
		edits = append(edits, indexEdit{key: cur.key, value: value})
		if err := cur.next(); err != nil {
			return objects.MAC{}, &sourceError{err}
		}
	}
	empty := &leafIndex{root: root, node: node, cmp: strings.Compare, shape: x.c.to.shape.fit(len(edits))}
	made, err := empty.edit(x.c.to, inOrder(edits), x.inc.w)
	if err != nil {
		return objects.MAC{}, err
	}
	return made.mac, nil
}

// failure copies an entry of the index of errors.
func (x *copying) failure(_ context.Context, mac objects.MAC) (objects.MAC, error) {
	data, err := x.c.readBlob(resources.RT_ERROR_ENTRY, mac)
	if err != nil {
		return objects.MAC{}, err
	}
	mac = x.inc.w.computeMAC(data)
	x.inc.w.put(resources.RT_ERROR_ENTRY, mac, data)
	return mac, nil
}

// xattr copies an extended attribute.
func (x *copying) xattr(ctx context.Context, mac objects.MAC) (objects.MAC, error) {
	data, err := x.c.readBlob(resources.RT_XATTR_ENTRY, mac)
	if err != nil {
		return objects.MAC{}, err
	}
	attribute, err := vfs.XattrFromBytes(data)
	if err != nil {
		return objects.MAC{}, &sourceError{err}
	}
	if attribute.Object, err = x.object(ctx, attribute.Object, objectPair{}); err != nil {
		return objects.MAC{}, err
	}
	if data, err = attribute.ToBytes(); err != nil {
		return objects.MAC{}, err
	}
	mac = x.inc.w.computeMAC(data)
	x.inc.w.put(resources.RT_XATTR_ENTRY, mac, data)
	return mac, nil
}
