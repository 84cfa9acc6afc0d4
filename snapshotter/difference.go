package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"

	"github.com/PlakarKorp/kloset/objects"
)

// Difference is a path at which two snapshots differ.
type Difference struct {
	Path     string
	Was, Now *Entry // nil: it is not there
}

// Diff lists what differs between two views at a path and below it: what is there in one of them
// alone, and what has other bytes, attributes or another target. Directories that have the same
// entries in both are not read, and pieces of the indexes that both share are read once. A
// directory comes before what is in it. The path need not be there in both. Errors: fs.ErrNotExist
// when it is in neither, ErrUnavailable.
func Diff(ctx context.Context, was, now *View, path string) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		err := diff(ctx, was, now, path, func(d Difference) error {
			if !yield(d, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(Difference{}, now.fail("compare", path, err))
		}
	}
}

func diff(ctx context.Context, was, now *View, path string, yield func(Difference) error) error {
	a, aerr := was.stored(ctx, path)
	b, berr := now.stored(ctx, path)
	for _, err := range []error{aerr, berr} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	switch {
	case aerr != nil && berr != nil:
		return aerr
	case aerr != nil:
		a = nil
	case berr != nil:
		b = nil
	}
	x := &differing{was: was, now: now, yield: yield}
	if err := x.pair(path, a, b); err != nil {
		return err
	}
	if was.tree.dirpack == nil || now.tree.dirpack == nil {
		return x.walk(ctx, path, a, b)
	}
	return x.indexes(ctx, path, a, b)
}

// differing is a comparison that is under way.
type differing struct {
	was, now *View
	yield    func(Difference) error
}

// pair compares what is at a path; nil for nothing.
func (x *differing) pair(path string, a, b *storedEntry) error {
	d := Difference{Path: path}
	if a != nil {
		e := entryOf(a)
		d.Was = &e
	}
	if b != nil {
		e := entryOf(b)
		d.Now = &e
	}
	if a != nil && b != nil && (a.MAC != (objects.MAC{}) && a.MAC == b.MAC || same(*d.Was, *d.Now)) || a == nil && b == nil {
		return nil
	}
	return x.yield(d)
}

// same reports whether two entries differ in nothing that anybody sees: a file that was stored
// again is another version with another number.
func same(a, b Entry) bool {
	mtime := a.Attr.ModTime.Equal(b.Attr.ModTime)
	a.Version, a.Name, a.Attr.ModTime = b.Version, b.Name, b.Attr.ModTime // the root may have a name of its own
	a.Entropy = b.Entropy                                                 // the bytes are compared by their object
	return mtime && a == b
}

// cursor begins to list the directories of a view from a path on; none when that is none.
func (x *differing) cursor(ctx context.Context, v *View, path string, e *storedEntry) (*rawCursor, error) {
	if e == nil || !e.IsDir() {
		return newRawCursor(ctx, nil, "/")
	}
	r, err := v.tree.s.record(ctx, v.snap.ID)
	if err != nil {
		return nil, err
	}
	dirs, err := v.tree.s.rawOther(r.dirpack)
	if err != nil {
		return nil, err
	}
	top, err := v.abs(path)
	if err != nil {
		return nil, err
	}
	return newRawCursor(ctx, dirs, top)
}

// indexes compares the indexes of directories, and the directories that differ.
func (x *differing) indexes(ctx context.Context, path string, ea, eb *storedEntry) error {
	a, err := x.cursor(ctx, x.was, path, ea)
	if err != nil {
		return err
	}
	b, err := x.cursor(ctx, x.now, path, eb)
	if err != nil {
		return err
	}
	alike := x.was.snap.Root == x.now.snap.Root
	for a.ok || b.ok {
		if alike && a.atLeaf() && b.atLeaf() {
			same, rest := sameEntries(a, b)
			if rest {
				return nil
			}
			if same {
				if err := errors.Join(a.skipLeaf(ctx), b.skipLeaf(ctx)); err != nil {
					return err
				}
				continue
			}
		}
		order := 0
		ka, kb := x.was.rel(a.key), x.now.rel(b.key)
		switch {
		case !a.ok || b.ok && ka > kb:
			order, ka = 1, kb
		case !b.ok || ka < kb:
			order = -1
		}
		var was, now objects.MAC
		if order <= 0 {
			was = a.mac
		}
		if order >= 0 {
			now = b.mac
		}
		if was != now {
			if err := x.directory(ctx, ka, was, now); err != nil {
				return err
			}
		}
		if order <= 0 {
			if err := a.next(ctx); err != nil {
				return err
			}
		}
		if order >= 0 {
			if err := b.next(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// entryReader reads the entries of a directory, and decodes one when it is asked for.
type entryReader struct {
	from  *frames
	frame []byte // nil at the end
	entry *storedEntry
}

func (x *differing) entries(v *View, mac objects.MAC) (*entryReader, error) {
	r := &entryReader{}
	if mac == (objects.MAC{}) {
		return r, nil
	}
	var err error
	if r.from, err = v.tree.s.frames(mac); err != nil {
		return nil, err
	}
	return r, r.next()
}

func (r *entryReader) next() (err error) {
	r.frame, r.entry = nil, nil
	if r.frame, err = r.from.next(); errors.Is(err, io.EOF) {
		r.frame, err = nil, nil
	}
	return err
}

// decode decodes the entry, nil at the end.
func (r *entryReader) decode() (*storedEntry, error) {
	if r.entry == nil && r.frame != nil {
		e, err := decodeEntry(r.frame)
		if err != nil {
			return nil, readError("directory", err)
		}
		r.entry = e
	}
	return r.entry, nil
}

// directory compares the entries of a directory; a zero MAC is none.
func (x *differing) directory(ctx context.Context, dir string, was, now objects.MAC) error {
	a, err := x.entries(x.was, was)
	if err != nil {
		return err
	}
	b, err := x.entries(x.now, now)
	if err != nil {
		return err
	}
	for a.frame != nil || b.frame != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		if a.frame != nil && bytes.Equal(a.frame, b.frame) {
			if err := errors.Join(a.next(), b.next()); err != nil {
				return err
			}
			continue
		}
		if err := x.merge(dir, a, b); err != nil {
			return err
		}
	}
	return nil
}

// merge takes the entry that comes first from one of two directories, or from both.
func (x *differing) merge(dir string, a, b *entryReader) error {
	ea, err := a.decode()
	if err != nil {
		return err
	}
	eb, err := b.decode()
	if err != nil {
		return err
	}
	switch {
	case ea == nil || eb != nil && ea.Name() > eb.Name():
		ea = nil
	case eb == nil || ea.Name() < eb.Name():
		eb = nil
	}
	name := ""
	if ea != nil {
		name = ea.Name()
		err = a.next()
	}
	if eb != nil {
		name = eb.Name()
		err = errors.Join(err, b.next())
	}
	if err != nil {
		return err
	}
	return x.pair(below(dir)+name, ea, eb)
}

// walk compares directory by directory, for snapshots without an index of directories.
func (x *differing) walk(ctx context.Context, dir string, ea, eb *storedEntry) error {
	var lists [2][]*storedEntry
	for i, side := range []struct {
		v *View
		e *storedEntry
	}{{x.was, ea}, {x.now, eb}} {
		if side.e == nil || !side.e.IsDir() {
			continue
		}
		abs, err := side.v.abs(dir)
		if err != nil {
			return err
		}
		if lists[i], err = side.v.tree.readDir(abs, "", int(^uint(0)>>1)); err != nil {
			return err
		}
	}
	a, b := lists[0], lists[1]
	for len(a) > 0 || len(b) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		var ea, eb *storedEntry
		if len(a) > 0 && (len(b) == 0 || a[0].Name() <= b[0].Name()) {
			ea = a[0]
		}
		if len(b) > 0 && (len(a) == 0 || b[0].Name() <= a[0].Name()) {
			eb = b[0]
		}
		name := ""
		if ea != nil {
			name, a = ea.Name(), a[1:]
		}
		if eb != nil {
			name, b = eb.Name(), b[1:]
		}
		p := below(dir) + name
		if err := x.pair(p, ea, eb); err != nil {
			return err
		}
		if ea != nil && ea.IsDir() || eb != nil && eb.IsDir() {
			if err := x.walk(ctx, p, ea, eb); err != nil {
				return err
			}
		}
	}
	return nil
}
