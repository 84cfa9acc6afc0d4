package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/header"
	"github.com/PlakarKorp/kloset/snapshot/vfs"
	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/errgroup"

	"github.com/snapgate/gateway/store"
)

const (
	// copyDirs is how many directories are copied at a time: each is in memory, three times
	// where it differs from that of the base.
	copyDirs = 4
	// copyFiles is how many files are, and copySummaries summaries. A source that is elsewhere
	// takes tens of milliseconds for each.
	copyFiles     = 16
	copySummaries = 16
	// copyMovedObjects bounds the objects that are remembered of places of the base that are
	// gone: what was renamed is not read.
	copyMovedObjects = 1 << 17
)

// copying is one snapshot being copied. The new indexes in the target are those of the base
// there, edited, as in an incremental commit: the entries of a directory whose dirpack has the
// MAC that it has in the base, in the source, are in the target already, with all that they
// refer to. Of a directory that differs, the entries that do not are taken from the base's in
// the target.
type copying struct {
	c    *Copier
	lock *store.Lock // on the target
	from *Snapshotter
	src  *record
	tree *snapTree // of src
	base *record   // in the source; nil for none
	was  *snapTree // of base
	old  *head     // of base, in the target
	ours ID        // of base, in the target

	files  chan struct{} // bounds files under way
	chunks chan struct{} // bounds chunks in memory
	moved  *lru.Cache[objects.MAC, objects.MAC]
	alike  *lru.Cache[objects.MAC, objects.MAC] // objects of the source, and what the target has for them; nil for none
	points checkpoints
	losses int // of what is put ahead of commits, when the copy began

	mu  sync.Mutex
	inc *increment // guarded by mu, but for its writer
}

// copyOn makes the copy. It needs s.write of the target and lock.
func (c *Copier) copyOn(ctx context.Context, src *record, base ID, lock *store.Lock) error {
	to := c.to
	a, end, err := to.begin(ctx, Meta{Share: src.snap.Share}, newFailures(nil, 0), lock)
	if err != nil {
		return &TargetError{err}
	}
	defer end()
	x := &copying{
		c: c, lock: lock, from: c.from, src: src,
		files: make(chan struct{}, copyFiles), chunks: make(chan struct{}, copyChunks),
	}
	x.points.last.Store(time.Now().UnixNano())
	x.losses, _ = to.early.lost()
	if x.moved, err = lru.New[objects.MAC, objects.MAC](copyMovedObjects); err != nil {
		return fmt.Errorf("cache of objects: %w", err)
	}
	if err := x.open(ctx, base); err != nil {
		return err
	}
	w := to.newWriter(a.rw, a.packer, to.committed)
	x.inc = to.newIncrement(w, x.old)
	defer x.inc.close()
	h, err := x.build(ctx)
	w.close()
	if perr := a.packer.failed(); perr != nil && !errors.Is(perr, context.Canceled) {
		err = &TargetError{perr}
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		// What was put since the last checkpoint becomes part of this snapshot's state.
		if err = to.early.adopt(ctx, a.take); err != nil {
			err = &TargetError{err}
		}
	}
	if err == nil {
		err = x.lost()
	}
	var r *record
	if err == nil {
		a.builder.Header = h
		if r, err = a.put(a.builder); err != nil {
			err = &TargetError{err}
		}
	}
	if err != nil {
		to.heads.Remove(x.ours) // its leaves were taken apart
		return err
	}
	to.keepHead(r.snap.ID, x.ours, x.inc.new)
	to.published(ctx, r)
	to.early.settle()
	to.sound(r, nil)
	c.snapshots.Add(1)
	return nil
}

// open opens what is read.
func (x *copying) open(ctx context.Context, base ID) (err error) {
	if x.tree, err = x.from.tree(x.src); err != nil {
		return &sourceError{err}
	}
	if x.alike, err = x.c.instead.objects(ctx, x); err != nil {
		return err
	}
	x.old = x.c.to.emptyHead()
	if base.IsZero() {
		return nil
	}
	x.base = x.from.known(base)
	if x.base == nil {
		return &baseError{ErrNoSnapshot}
	}
	there := x.c.there(&x.base.snap)
	if there == nil {
		return &baseError{ErrNoSnapshot}
	}
	x.ours = there.snap.ID
	if x.base.dirpack == (objects.MAC{}) || x.base.summary == (objects.MAC{}) || x.src.dirpack == (objects.MAC{}) {
		return &baseError{errInconsistent}
	}
	if x.was, err = x.from.tree(x.base); err != nil {
		return &baseError{err}
	}
	if x.old, err = x.c.to.head(there); err != nil {
		return &baseError{err}
	}
	return nil
}

// build makes all of the snapshot but its header, which it returns.
func (x *copying) build(ctx context.Context) (*header.Header, error) {
	h, err := x.header()
	if err != nil {
		return nil, err
	}
	x.inc.in = x.c.to.ingester(x.inc.w)
	defer x.inc.in.release()
	if err := x.walk(ctx); err != nil {
		return nil, err
	}
	src := &h.Sources[0]
	x.c.to.failpoint(FailCommitEntries)
	if err := x.inc.index(&src.Summary); err != nil {
		return nil, err
	}
	if err := x.count(); err != nil {
		return nil, err
	}
	x.c.to.failpoint(FailCommitIndexes)
	macs := map[string]objects.MAC{
		"content-type": x.inc.new.types.mac, "dirpack": x.inc.new.dirs.mac, "summary": x.inc.new.summaries.mac,
	}
	for i := range src.Indexes {
		mac, ok := macs[src.Indexes[i].Name]
		if !ok || src.Indexes[i].Type != "btree" {
			return nil, &sourceError{fmt.Errorf("index %q of type %q is not known", src.Indexes[i].Name, src.Indexes[i].Type)}
		}
		src.Indexes[i].Value = mac
	}
	src.VFS.Root = x.inc.new.paths.mac
	if src.VFS.Xattrs, err = x.values(ctx, src.VFS.Xattrs, resources.RT_XATTR_BTREE, resources.RT_XATTR_NODE, x.xattr); err != nil {
		return nil, err
	}
	src.VFS.Errors, err = x.values(ctx, src.VFS.Errors, resources.RT_ERROR_BTREE, resources.RT_ERROR_NODE, x.failure)
	x.inc.new.vfs = src.VFS
	return h, err
}

// header reads the header of the snapshot. A signature is of the header with the MACs of its
// store: the copy has none.
func (x *copying) header() (*header.Header, error) {
	id := x.src.snap.ID
	data, err := x.from.blob(resources.RT_SNAPSHOT, objects.MAC(id))
	if err != nil {
		return nil, &sourceError{err}
	}
	h, err := header.NewFromBytes(data)
	if err != nil {
		return nil, &sourceError{fmt.Errorf("decode header: %w", err)}
	}
	if h.Identifier != objects.MAC(id) || len(h.Sources) != 1 {
		return nil, &sourceError{fmt.Errorf("header of snapshot %x with %d sources", h.Identifier[:4], len(h.Sources))}
	}
	if h.Identity.Identifier != uuid.Nil {
		x.c.to.log.Info("the copy of a signed snapshot is not signed", "snapshot", id.String())
		h.Identity = header.Identity{}
	}
	x.c.instead.rename(h)
	return h, nil
}

// walk copies the entries of all directories that differ from those of the base, and all
// summaries.
func (x *copying) walk(ctx context.Context) error {
	if err := x.root(); err != nil {
		return err
	}
	if x.tree.dirpack == nil {
		if err := x.paths(ctx); err != nil {
			return err
		}
		return x.summaries(ctx)
	}
	var was *index
	if x.was != nil {
		was = x.was.dirpack
		if err := x.compare(ctx, was, x.tree.dirpack, copyDirs, x.vanished); err != nil {
			return err
		}
	}
	if err := x.compare(ctx, was, x.tree.dirpack, copyDirs, x.dir); err != nil {
		return err
	}
	return x.summaries(ctx)
}

// root copies the entry of the root, which is in no directory.
func (x *copying) root() error {
	mac, ok, err := x.tree.paths.Find("/")
	if err == nil && !ok {
		err = fmt.Errorf("%w: no root", errInconsistent)
	}
	if err != nil {
		return &sourceError{readError("index", err)}
	}
	if x.was != nil {
		if was, ok, err := x.was.paths.Find("/"); err == nil && ok && was == mac {
			return nil
		}
	}
	e, err := x.tree.entry(mac)
	if err != nil {
		return &sourceError{err}
	}
	own := *e // the other one is shared
	_, err = x.inc.putEntry(&own)
	return err
}

// paths copies the entries of a snapshot without an index of directories, one by one.
func (x *copying) paths(ctx context.Context) error {
	cur, err := newCursor(x.tree.paths)
	for ; err == nil && cur.ok; err = cur.next() {
		if cur.key == "/" {
			continue
		}
		e, err := x.tree.entry(cur.mac)
		if err != nil {
			return &sourceError{err}
		}
		own := *e // the other one is shared
		if own.HasObject() {
			if own.Object, err = x.object(ctx, own.Object, objectPair{}); err != nil {
				return fmt.Errorf("%q: %w", cur.key, err)
			}
		}
		x.c.entries.Add(1)
		if _, err := x.inc.putEntry(&own); err != nil {
			return err
		}
	}
	if err != nil {
		return &sourceError{err}
	}
	return nil
}

// basePair is what the base has in a directory, in the source and in the target.
type basePair struct{ from, to map[string]*dirEntry }

// baseDir reads a directory of the base from both stores.
func (x *copying) baseDir(dir string, mac objects.MAC) (p basePair, err error) {
	if mac == (objects.MAC{}) {
		return p, nil
	}
	from, err := x.from.readDirpack(mac)
	if err != nil {
		return p, &baseError{err}
	}
	there, ok, err := x.old.dirs.find(x.c.to, dir)
	if err == nil && !ok {
		err = fmt.Errorf("%w: no entries of directory %q", errInconsistent, dir)
	}
	if err != nil {
		return p, &baseError{err}
	}
	to, err := x.c.to.readDirpack(there)
	if err != nil {
		return p, &baseError{err}
	}
	p.from, p.to = from.byName(), to.byName()
	if len(p.from) != len(p.to) {
		return p, &baseError{fmt.Errorf("%w: %d and %d entries of directory %q", errInconsistent, len(p.from), len(p.to), dir)}
	}
	for name := range p.from {
		if p.to[name] == nil {
			return p, &baseError{fmt.Errorf("%w: %q is not in directory %q of the copy", errInconsistent, name, dir)}
		}
	}
	return p, nil
}

// object returns the object of a name, when that is a file with one in both stores.
func (p basePair) object(name string) (o objectPair, err error) {
	if p.from[name] == nil {
		return o, nil
	}
	from, err := p.from[name].stored()
	if err != nil {
		return o, &baseError{err}
	}
	to, err := p.to[name].stored()
	if err != nil {
		return o, &baseError{err}
	}
	if from.HasObject() && to.HasObject() {
		o = objectPair{from.Object, to.Object}
	}
	return o, nil
}

func (d *dirData) byName() map[string]*dirEntry {
	m := make(map[string]*dirEntry, len(d.entries))
	for i := range d.entries {
		m[d.entries[i].name] = &d.entries[i]
	}
	return m
}

// mac is the MAC of the entry, which ends its frame.
func (e *dirEntry) mac() objects.MAC { return objects.MAC(e.frame[len(e.frame)-len(objects.MAC{}):]) }

// vanished remembers the contents of files that are not in their place any more: they may be in
// another one.
func (x *copying) vanished(_ context.Context, d difference) error {
	if d.was == (objects.MAC{}) {
		return nil
	}
	base, err := x.baseDir(d.key, d.was)
	if err != nil {
		return err
	}
	now := map[string]*dirEntry{}
	if d.now != (objects.MAC{}) {
		dir, err := x.from.readDirpack(d.now)
		if err != nil {
			return &sourceError{err}
		}
		now = dir.byName()
	}
	for name, e := range base.from {
		if n := now[name]; e.isDir() || n != nil && n.mac() == e.mac() {
			continue
		}
		was, err := base.object(name)
		if err != nil {
			return err
		}
		if was != (objectPair{}) {
			x.moved.Add(was.from, was.to)
		}
	}
	return nil
}

// dir copies a directory that is new or differs from that of the base, or notes that one is gone.
func (x *copying) dir(ctx context.Context, d difference) error {
	base, err := x.baseDir(d.key, d.was)
	if err != nil {
		return err
	}
	now := &dirData{}
	if d.now != (objects.MAC{}) {
		if now, err = x.from.readDirpack(d.now); err != nil {
			return &sourceError{err}
		}
	}
	out, err := x.translate(ctx, base, now)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(d.key, base, now)
	if d.now == (objects.MAC{}) {
		x.inc.dirs.drop(d.key)
		return nil
	}
	entries := make([]dirEntry, len(out))
	for i, e := range out {
		if e == nil {
			entries[i] = *base.to[now.entries[i].name]
			continue
		}
		if entries[i], err = x.inc.putEntry(e); err != nil {
			return err
		}
	}
	mac, err := x.inc.in.dirpack(ctx, newDir(entries).raw)
	if err != nil {
		return err
	}
	x.inc.dirs.set(d.key, mac)
	return nil
}

// translate returns the entries of a directory as the target has them, nil for those that are
// as in the base.
func (x *copying) translate(ctx context.Context, base basePair, now *dirData) ([]*storedEntry, error) {
	out := make([]*storedEntry, len(now.entries))
	group, ctx := errgroup.WithContext(ctx)
	for i := range now.entries {
		e := &now.entries[i]
		if b := base.from[e.name]; b != nil && b.mac() == e.mac() {
			continue
		}
		x.c.entries.Add(1)
		stored, err := e.stored()
		if err != nil {
			return nil, errors.Join(&sourceError{err}, group.Wait())
		}
		out[i] = stored
		if !stored.HasObject() {
			continue
		}
		was, err := base.object(e.name)
		if err != nil {
			return nil, errors.Join(err, group.Wait())
		}
		select {
		case x.files <- struct{}{}:
		case <-ctx.Done():
			return nil, errors.Join(group.Wait(), ctx.Err())
		}
		group.Go(func() (err error) {
			defer func() { <-x.files }()
			stored.Object, err = x.object(ctx, stored.Object, was)
			if err != nil {
				return fmt.Errorf("%q: %w", stored.Path(), err)
			}
			return nil
		})
	}
	return out, group.Wait()
}

// drop notes what the indexes of paths and types lose of a directory. It needs x.mu.
func (x *copying) drop(dir string, base basePair, now *dirData) {
	if len(base.from) == 0 {
		return
	}
	is := now.byName()
	for name, was := range base.from {
		p := below(dir) + name
		e := is[name]
		if e == nil {
			x.inc.paths.drop(p)
		}
		if !was.isDir() && (e == nil || e.isDir() || e.mac() != was.mac()) {
			// A key that stays is set again by the entry.
			x.inc.types.drop(typeKey(was.file.ContentType, p))
		}
	}
}

// summaries copies the summaries of directories, which name no other blob.
func (x *copying) summaries(ctx context.Context) error {
	now, err := x.index(x.src.summary)
	if err != nil {
		return &sourceError{err}
	}
	var was *index
	if x.base != nil {
		if was, err = x.index(x.base.summary); err != nil {
			return &baseError{err}
		}
	}
	return x.compare(ctx, was, now, copySummaries, func(_ context.Context, d difference) error {
		if d.now == (objects.MAC{}) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.inc.summaries.drop(d.key)
			return nil
		}
		data, err := x.c.readBlob(resources.RT_VFS_SUMMARY, d.now)
		if err != nil {
			return err
		}
		mac := x.inc.w.computeMAC(data)
		x.inc.w.put(resources.RT_VFS_SUMMARY, mac, data)
		x.mu.Lock()
		defer x.mu.Unlock()
		x.inc.summaries.set(d.key, mac)
		return nil
	})
}

// count compares how much the indexes have grown with what the source says of the two snapshots:
// a directory that lacks what the index of paths has would make a copy that lacks it.
func (x *copying) count() error {
	want, err := x.counts(x.src, x.tree)
	if err != nil {
		return &sourceError{err}
	}
	if x.base != nil {
		was, err := x.counts(x.base, x.was)
		if err != nil {
			return &baseError{err}
		}
		for i := range want {
			want[i] -= was[i]
		}
	}
	made := x.inc.new
	for i, got := range []int{made.paths.grown, made.types.grown, made.dirs.grown} {
		if got != want[i] {
			err := fmt.Errorf("%w: an index grew by %d entries, that of the source by %d", errInconsistent, got, want[i])
			if x.base != nil {
				return &baseError{err}
			}
			return &sourceError{err}
		}
	}
	return nil
}

// counts returns how many names, names of files and directories a snapshot has: of ours the
// summary of the root says it, which an incremental commit has compared; others may count there
// what they could not read.
func (x *copying) counts(r *record, t *snapTree) (n [3]int, err error) {
	types, err := x.index(r.types)
	if err != nil {
		return n, err
	}
	summaries, err := x.index(r.summary)
	if err != nil {
		return n, err
	}
	if !r.snap.Foreign() && summaries != nil {
		mac, ok, err := summaries.Find("/")
		if err != nil || !ok {
			return n, errors.Join(err, fmt.Errorf("%w: no summary of the root", errInconsistent))
		}
		data, err := x.from.blob(resources.RT_VFS_SUMMARY, mac)
		if err != nil {
			return n, err
		}
		sum, err := vfs.SummaryFromBytes(data)
		if err != nil {
			return n, err
		}
		names, dirs := sizes(sum)
		return [3]int{names + 1, names - dirs, dirs + 1}, nil // and the root
	}
	for i, x := range []*index{t.paths, types, t.dirpack} {
		cur, err := newCursor(x)
		for ; err == nil && cur.ok; err = cur.next() {
			n[i]++
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// index opens an index of the source other than that of paths; nil for none.
func (x *copying) index(mac objects.MAC) (*index, error) {
	if mac == (objects.MAC{}) {
		return nil, nil
	}
	return x.from.openIndex(mac, resources.RT_BTREE_ROOT, resources.RT_BTREE_NODE, strings.Compare)
}
