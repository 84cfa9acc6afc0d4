package vfs

import (
	"context"
	"fmt"
	"unicode/utf8"
)

// fitting applies an operation to a head of lower standing than it was accepted over: see reapply.
type fitting struct {
	tree      *tree // in the end, with the operation
	o         *op
	set       uint64
	nameBytes int   // of the longest name
	aside     []*op // the renames of what was in the way
}

// apply makes what the place of the operation needs, and applies it. Nothing of the tree counts after an error.
func (f *fitting) apply(ctx context.Context) error {
	at, version := f.o.name, f.o.version
	if !f.o.to.IsZero() {
		n, err := f.tree.lookup(ctx, f.o.name)
		if err != nil {
			return err
		}
		at, version = f.o.to, n.version
	}
	dir := Root()
	for _, elem := range at.Parent().Elems() {
		dir = dir.Join(elem)
		old, err := f.tree.existing(ctx, dir)
		if err != nil {
			return err
		}
		if old != nil && old.typ == TypeDir {
			continue
		}
		mk := &op{kind: opMkdir, name: dir, time: f.o.time, version: version}
		mk.attr.Mode, mk.attr.ModTime = 0o755, f.o.time
		if err := f.place(ctx, mk, dir, old); err != nil {
			return err
		}
	}
	old, err := f.tree.existing(ctx, at)
	if err != nil {
		return err
	}
	return f.place(ctx, f.o, at, old)
}

// place applies o, which puts something at a name, where old is now.
func (f *fitting) place(ctx context.Context, o *op, at Name, old *node) error {
	next, err := f.tree.apply(ctx, o, f.set)
	switch {
	case err == nil:
		f.tree = next
		return nil
	case old == nil || !isMisfit(err) || o.kind == opMkdir && old.typ == TypeDir:
		return err // a directory that was to be made is there
	}
	if err := f.makeWay(ctx, at, old); err != nil {
		return err
	}
	if next, err = f.tree.apply(ctx, o, f.set); err == nil {
		f.tree = next
	}
	return err
}

// makeWay takes away what has a name although it was removed. A file or link of the snapshot is in its history, as it is when an upload
// replaces it. A directory has too much below it to be sure of that, and anything that pends is in no snapshot: they get a free name beside it.
func (f *fitting) makeWay(ctx context.Context, name Name, old *node) error {
	way := &op{kind: opRemove, name: name, time: f.o.time}
	if old.typ == TypeDir || old.dirty {
		to, err := f.free(ctx, name)
		if err != nil {
			return err
		}
		way = &op{kind: opRename, name: name, to: to, time: f.o.time}
		f.aside = append(f.aside, way)
	}
	next, err := f.tree.apply(ctx, way, f.set)
	if err == nil {
		f.tree = next
	}
	return err
}

// free returns a name beside another one that nothing has. It depends on the tree alone, so that a replay finds the same.
func (f *fitting) free(ctx context.Context, name Name) (Name, error) {
	for n := 1; ; n++ {
		suffix := ".aside"
		if n > 1 {
			suffix += fmt.Sprint("-", n)
		}
		base := name.Base()
		if most := max(f.nameBytes-len(suffix), 0); len(base) > most {
			for most > 0 && !utf8.RuneStart(base[most]) {
				most--
			}
			base = base[:most]
		}
		to := name.Parent().Join(base + suffix)
		if old, err := f.tree.existing(ctx, to); err != nil || old == nil {
			return to, err
		}
	}
}
