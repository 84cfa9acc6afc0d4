package snapshotter

import (
	"fmt"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
)

// index makes the indexes of the new snapshot, whose root has the summary sum.
func (c *increment) index(sum *vfs.Summary) error {
	names, dirs := sizes(sum)
	c.new = c.s.emptyHead()
	c.new.vfs = c.old.vfs
	for _, x := range []struct {
		old   *leafIndex
		new   **leafIndex
		edits *edits
		size  int
	}{
		{c.old.paths, &c.new.paths, c.paths, names}, {c.old.types, &c.new.types, c.types, names - dirs},
		{c.old.dirs, &c.new.dirs, c.dirs, dirs}, {c.old.summaries, &c.new.summaries, c.summaries, dirs},
	} {
		old := *x.old
		old.shape, old.room = c.s.shape.fit(x.size), &c.room
		edit := old.edit
		if !c.old.converted {
			edit = old.convert
		}
		edits, err := x.edits.descend()
		if err != nil {
			return err
		}
		made, err := edit(c.s, edits, c.w)
		x.edits.close() // they may be many
		if err != nil {
			return err
		}
		*x.new = made
	}
	if c.new.vfs.Xattrs == (objects.MAC{}) {
		if err := c.emptyIndexes(); err != nil {
			return err
		}
	}
	if c.failuresToo {
		mac, err := c.failures.index(c.s, c.w)
		if err != nil {
			return err
		}
		c.new.vfs.Errors = mac
	}
	return nil
}

// sizes are the numbers of names and of directories below a directory.
func sizes(s *vfs.Summary) (names, dirs int) {
	return int(s.Directory.Children + s.Below.Children), int(s.Directory.Directories + s.Below.Directories)
}

// count compares how much the indexes have grown with what the summaries of the root, old
// and new, say: those were made from the directories.
func (c *increment) count(sum *vfs.Summary) error {
	old := new(vfs.Summary)
	names, dirs := 1, 1 // the root, when there was no tree
	if len(c.old.paths.leaves) > 0 {
		var err error
		if old, err = c.old.summary(c.s, "/"); err != nil {
			return err
		}
		names, dirs = 0, 0
	}
	n1, d1 := sizes(sum)
	n0, d0 := sizes(old)
	names, dirs = names+n1-n0, dirs+d1-d0
	for _, x := range []struct {
		index *leafIndex
		want  int
	}{
		{c.new.paths, names}, {c.new.types, names - dirs}, {c.new.dirs, dirs}, {c.new.summaries, dirs},
	} {
		if x.index.grown != x.want {
			return fmt.Errorf("%w: an index grew by %d entries, the directories by %d", errInconsistent, x.index.grown, x.want)
		}
	}
	return nil
}

// emptyIndexes makes the indexes of extended attributes and of errors, which have no
// entries here.
func (c *increment) emptyIndexes() error {
	for _, x := range []struct {
		root, node resources.Type
		mac        *objects.MAC
	}{
		{resources.RT_XATTR_BTREE, resources.RT_XATTR_NODE, &c.new.vfs.Xattrs},
		{resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, &c.new.vfs.Errors},
	} {
		i := &leafIndex{root: x.root, node: x.node, cmp: strings.Compare, shape: c.s.shape}
		made, err := i.edit(c.s, inOrder(nil), c.w)
		if err != nil {
			return err
		}
		*x.mac = made.mac
	}
	return nil
}
