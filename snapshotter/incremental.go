package snapshotter

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"time"

	"github.com/PlakarKorp/kloset/connectors"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/PlakarKorp/kloset/snapshot/header"
	"github.com/PlakarKorp/kloset/snapshot/vfs"

	"github.com/snapgate/gateway/store"
)

// maxEdits is how many entries an incremental commit may touch: what becomes of them is in
// temporary files, of about 250 bytes each. More are a full rebuild.
const maxEdits = 200_000_000

// errTooMuch says that a commit touches more than maxEdits entries.
var errTooMuch = errors.New("too many entries for an incremental commit")

// incremental makes a snapshot that differs from base by changes, and writes only what
// differs. Errors: those of Commit, and errInconsistent and errTooMuch, after which a full
// rebuild may do.
func (s *Snapshotter) incremental(ctx context.Context, base *record, changes iter.Seq2[Change, error], meta Meta, f *failures, lock *store.Lock) (*record, error) {
	a, end, err := s.begin(ctx, meta, f, lock)
	if err != nil {
		return nil, err
	}
	defer end()
	h := s.emptyHead()
	if base != nil {
		if h, err = s.head(base); err != nil {
			return nil, err
		}
		a.lostBefore = base.snap.Lost
	}
	count, err := s.newRecount(base, f)
	if err != nil {
		return nil, err
	}
	w := s.newWriter(a.rw, a.packer, s.committed)
	c := s.newIncrement(w, h)
	defer c.close()
	c.meta, c.now, c.failures, c.recount = meta, a.time(), f, count
	c.relieve = func() error { _, err := a.relieve(); return err }
	c.failuresToo = base != nil && base.snap.Errors > 0 || len(f.list) > 0
	if meta.pulled() {
		c.room = 0 // the next pull is a while off
	}
	src, err := c.build(ctx, changes)
	w.close()
	// The packer knows best why nothing can be written.
	if perr := a.packer.failed(); perr != nil && !errors.Is(perr, context.Canceled) {
		err = perr
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if base != nil {
			s.heads.Remove(base.snap.ID)
		}
		return nil, err
	}
	a.builder.Header.Sources = []header.Source{*src}
	r, err := a.publish(a.builder)
	if err != nil {
		if base != nil {
			s.heads.Remove(base.snap.ID)
		}
		return nil, err
	}
	parent := ID{}
	if base != nil {
		parent = base.snap.ID
	}
	s.keepHead(r.snap.ID, parent, c.new)
	return r, nil
}

// increment is an incremental commit under way.
type increment struct {
	s    *Snapshotter
	w    *writer
	old  *head
	new  *head
	meta Meta
	now  time.Time

	failures    *failures
	recount     *recount
	failuresToo bool // there are some, or were in the base

	relieve func() error // writes a state when there is much to tell

	in      *ingester // for directories
	feed    *feed
	shared  sharedObjects
	missing missing

	most uint64 // entries

	paths, types, dirs, summaries *edits
	room                          int64 // bytes of encoded leaves that may be kept
}

// newIncrement begins an incremental commit on top of a head.
func (s *Snapshotter) newIncrement(w *writer, old *head) *increment {
	return &increment{
		s: s, w: w, old: old, most: maxEdits, room: s.indexBytes,
		paths: s.newEdits(old.paths.cmp), types: s.newEdits(old.types.cmp),
		dirs: s.newEdits(old.dirs.cmp), summaries: s.newEdits(old.summaries.cmp),
	}
}

// close drops what the commit has on the disk.
func (c *increment) close() {
	for _, l := range []*edits{c.paths, c.types, c.dirs, c.summaries} {
		l.close()
	}
}

// noted is why what becomes of entries cannot be kept, nil when it is.
func (c *increment) noted() error {
	if c.paths.n >= c.most {
		return errTooMuch
	}
	return cmp.Or(c.paths.err, c.types.err, c.dirs.err, c.summaries.err)
}

// change is a Change with what has become of its content.
type change struct {
	Change
	obj object
}

// hasContent reports whether there are bytes that the base does not have.
func (ch *change) hasContent() bool {
	return ch.Kind == File && (ch.Content != nil || ch.Stored != nil)
}

// build makes all of the snapshot but its header.
func (c *increment) build(ctx context.Context, changes iter.Seq2[Change, error]) (*header.Source, error) {
	c.feed = newFeed(c, changes)
	defer c.feed.stop()
	c.in = c.s.ingester(c.w)
	defer c.in.release()
	sum, err := c.root(ctx)
	if err != nil {
		return nil, err
	}
	if ch, err := c.feed.peek(ctx); ch != nil || err != nil {
		if err == nil {
			err = fmt.Errorf("change %q: %w: out of order or below something that is not a directory", ch.Path, fs.ErrInvalid)
		}
		return nil, err
	}
	c.s.failpoint(FailCommitEntries)
	if err := c.index(sum); err != nil {
		return nil, err
	}
	if err := c.count(sum); err != nil {
		return nil, err
	}
	c.s.failpoint(FailCommitIndexes)
	src := header.NewSource()
	src.Importer = c.meta.importer()
	src.VFS = header.VFS{Root: c.new.paths.mac, Xattrs: c.new.vfs.Xattrs, Errors: c.new.vfs.Errors}
	src.Summary = *sum
	src.Indexes = []header.Index{
		{Name: "content-type", Type: "btree", Value: c.new.types.mac},
		{Name: "dirpack", Type: "btree", Value: c.new.dirs.mac},
		{Name: "summary", Type: "btree", Value: c.new.summaries.mac},
	}
	return &src, nil
}

// content makes the object of a changed file.
func (c *increment) content(ctx context.Context, in *ingester, ch *change) (err error) {
	if ch.Stored != nil {
		f := c.s.unsealed(ch.Path, ch.Stored, c.w.exists)
		if f != nil {
			ch.obj, err = in.putFile(ch.Path, f)
			return err
		}
		if ch.Content == nil {
			c.missing.add(ch.Path)
			return nil
		}
	}
	if s, is := ch.Content.(Shared); is {
		if id := s.Identity(); id != nil {
			ch.obj, err = c.shared.once(ctx, id, func() (object, error) {
				err := c.read(ctx, in, ch)
				return ch.obj, err
			})
			return err
		}
	}
	return c.read(ctx, in, ch)
}

// read makes the object of a changed file that has a Content.
func (c *increment) read(ctx context.Context, in *ingester, ch *change) (err error) {
	var ok bool
	if ch.obj, ok, err = c.ingested(in, ch); ok || err != nil {
		return err
	}
	if p, is := ch.Content.(Patched); is {
		if ch.obj, ok, err = in.patched(ctx, p); ok {
			return err
		}
	}
	rd, err := ch.Content.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	ch.obj, err = in.file(ctx, ch.Path, rd, ch.Content.Size())
	return err
}

// root makes the root and everything below it that changes.
func (c *increment) root(ctx context.Context) (*vfs.Summary, error) {
	from := "/"
	if len(c.old.paths.leaves) == 0 {
		from = ""
	}
	ch := Change{Path: "/", Kind: Dir, Attr: Attr{Mode: 0o755, ModTime: c.now}}
	first, err := c.feed.peek(ctx)
	if err != nil {
		return nil, err
	}
	given := first != nil && first.Path == "/"
	if given {
		ch = first.Change
		c.feed.take()
		if ch.Kind != Dir {
			return nil, fmt.Errorf("change %q: %w: the root stays a directory", ch.Path, fs.ErrInvalid)
		}
	}
	if given || from == "" {
		if _, err := c.putEntry(changedEntry(&ch, object{}, "")); err != nil {
			return nil, err
		}
		if given {
			from = ch.From
		}
	}
	if from != "/" && len(c.old.paths.leaves) > 0 {
		if err := c.removeBelow("/"); err != nil {
			return nil, err
		}
	}
	return c.dir(ctx, "/", from)
}

// next returns the name below dir that the next change is at or below, and whether it is
// at it; "" when the next change is not below dir.
func (c *increment) next(ctx context.Context, dir string) (name string, direct bool, err error) {
	ch, err := c.feed.peek(ctx)
	if ch == nil || err != nil {
		return "", false, err
	}
	name, direct = childOf(dir, ch.Path)
	return name, direct, nil
}

// dir makes the directory at p, which continues the base directory from ("" for none), with
// the changes below it, and returns its summary. Its own entry is the caller's business.
func (c *increment) dir(ctx context.Context, p, from string) (*vfs.Summary, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var base []dirEntry
	if from != "" {
		d, err := c.s.dirData(c.old, from)
		if err != nil {
			return nil, fmt.Errorf("base %q: %w", from, err)
		}
		base = d.entries
	}
	moved := p != from
	sum := &vfs.Summary{}
	out := make([]dirEntry, 0, len(base)+1)
	changed := moved
	for i := 0; ; {
		name, direct, err := c.next(ctx, p)
		if err = cmp.Or(err, c.relieve()); err != nil {
			return nil, err
		}
		if i == len(base) && name == "" {
			break
		}
		if name == "" || i < len(base) && base[i].name < name {
			e, err := c.kept(ctx, p, from, base[i], sum)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
			i++
			continue
		}
		var here *dirEntry
		if i < len(base) && base[i].name == name {
			here = &base[i]
			i++
		}
		e, keep, err := c.touched(ctx, p, from, here, direct, sum)
		if err != nil {
			return nil, err
		}
		changed = changed || direct
		if keep {
			out = append(out, e)
		}
	}
	sum.Below.Errors += c.failures.in[p]
	sum.UpdateAverages()
	if err := c.putSummary(p, sum); err != nil {
		return nil, err
	}
	if !changed {
		return sum, nil
	}
	d := newDir(out)
	mac, err := c.in.dirpack(ctx, d.raw)
	if err != nil {
		return nil, err
	}
	if !c.meta.pulled() {
		c.s.dirDatas.add(mac, d) // of the base of a next commit, soon
	}
	c.dirs.set(p, mac)
	return sum, nil
}

// kept adds an entry of the base that no change is at or below to the directory at p.
func (c *increment) kept(ctx context.Context, p, from string, e dirEntry, sum *vfs.Summary) (dirEntry, error) {
	if p == from {
		if !e.isDir() {
			addFile(sum, &e)
			return e, nil
		}
		below, err := c.recounted(below(from) + e.name)
		if err != nil {
			return e, err
		}
		addDir(sum, below)
		return e, nil
	}
	return c.move(ctx, p, from, e, sum)
}

// move adds an entry of the base directory from to the directory at p, where it has not
// been: it names its directory, so it is a new one.
func (c *increment) move(ctx context.Context, p, from string, e dirEntry, sum *vfs.Summary) (dirEntry, error) {
	moved, err := e.stored()
	if err != nil {
		return e, err
	}
	moved.ParentPath = p
	made, err := c.putEntry(moved)
	if err != nil {
		return e, err
	}
	if !made.isDir() {
		addFile(sum, &made)
		return made, nil
	}
	s, err := c.dir(ctx, below(p)+e.name, below(from)+e.name)
	if err != nil {
		return e, err
	}
	addDir(sum, s)
	return made, nil
}

// touched adds what a change leaves at a name below the directory at p, or, when it is not
// direct, a directory below which there are changes. keep is false when nothing is left.
func (c *increment) touched(ctx context.Context, p, from string, here *dirEntry, direct bool, sum *vfs.Summary) (e dirEntry, keep bool, err error) {
	ch, err := c.feed.peek(ctx)
	if err != nil {
		return e, false, err
	}
	if !direct {
		if here == nil || !here.isDir() {
			return e, false, fmt.Errorf("change %q: %w: above it is no directory", ch.Path, fs.ErrInvalid)
		}
		if p != from {
			e, err = c.move(ctx, p, from, *here, sum)
			return e, true, err
		}
		s, err := c.dir(ctx, below(p)+here.name, below(from)+here.name)
		if err != nil {
			return e, false, err
		}
		addDir(sum, s)
		return *here, true, nil
	}
	c.feed.take()
	// What the base has in this place goes, unless the change is about this very thing.
	if here != nil && p == from && (ch.Kind != Dir || ch.From != ch.Path) {
		if err := c.remove(ch.Path, here); err != nil {
			return e, false, err
		}
	}
	switch ch.Kind {
	case Removed:
		return e, false, nil
	case Dir:
		e, err = c.changedDir(ctx, ch, sum)
	case File, Symlink:
		e, err = c.changedFile(ch, sum)
	default:
		err = fmt.Errorf("change %q: %w: kind %d", ch.Path, fs.ErrInvalid, ch.Kind)
	}
	return e, true, err
}

func (c *increment) changedDir(ctx context.Context, ch *change, sum *vfs.Summary) (dirEntry, error) {
	if ch.From != "" {
		if err := c.isDir(ch.From); err != nil {
			return dirEntry{}, err
		}
	}
	e, err := c.putEntry(changedEntry(&ch.Change, object{}, ""))
	if err != nil {
		return e, err
	}
	s, err := c.dir(ctx, ch.Path, ch.From)
	if err != nil {
		return e, err
	}
	addDir(sum, s)
	return e, nil
}

// isDir makes sure that a base path is a directory.
func (c *increment) isDir(p string) error {
	_, ok, err := c.old.dirs.find(c.s, p)
	if err != nil {
		return err
	}
	if ok {
		return nil
	}
	if _, ok, err = c.old.paths.find(c.s, p); err == nil && ok {
		return fmt.Errorf("base %q: %w: not a directory", p, fs.ErrInvalid)
	}
	return errors.Join(fmt.Errorf("base %q: %w", p, fs.ErrNotExist), err)
}

func (c *increment) changedFile(ch *change, sum *vfs.Summary) (dirEntry, error) {
	obj, target := ch.obj, ""
	switch {
	case ch.Kind == Symlink && ch.Target == "":
		return dirEntry{}, fmt.Errorf("change %q: %w: symbolic link to nothing", ch.Path, fs.ErrInvalid)
	case ch.Kind == Symlink:
		obj, target = object{contentType: notRegular, size: int64(len(ch.Target))}, ch.Target
	case !ch.hasContent():
		var err error
		if obj, err = c.stored(ch); err != nil {
			return dirEntry{}, err
		}
	}
	e, err := c.putEntry(changedEntry(&ch.Change, obj, target))
	if err != nil {
		return e, err
	}
	addFile(sum, &e)
	return e, nil
}

// stored is the object of the base file that a change continues.
func (c *increment) stored(ch *change) (object, error) {
	if ch.From == "" {
		return object{}, fmt.Errorf("change %q: %w: file without content", ch.Path, fs.ErrInvalid)
	}
	mac, ok, err := c.old.paths.find(c.s, ch.From)
	if err != nil {
		return object{}, err
	}
	if !ok {
		return object{}, fmt.Errorf("base %q: %w", ch.From, fs.ErrNotExist)
	}
	e, err := (&snapTree{s: c.s}).entry(mac)
	if err != nil {
		return object{}, err
	}
	if !e.FileInfo.Lmode.IsRegular() {
		return object{}, fmt.Errorf("base %q: %w: not a file", ch.From, fs.ErrInvalid)
	}
	return object{e.Object, e.FileInfo.Lsize, e.Chunks, e.Entropy, e.ContentType}, nil
}

// changedEntry is the entry of a change.
func changedEntry(ch *Change, obj object, target string) *storedEntry {
	var typ fs.FileMode
	switch ch.Kind {
	case Dir:
		typ = fs.ModeDir
	case Symlink:
		typ = fs.ModeSymlink
	}
	e := vfs.NewEntry(path.Dir(ch.Path), &connectors.Record{
		Pathname: ch.Path, Target: target, FileInfo: fileInfo(ch, typ, obj.size),
	})
	if ch.Kind != Dir {
		e.Object, e.Chunks, e.Entropy, e.ContentType = obj.mac, obj.chunks, obj.entropy, obj.contentType
	}
	return e
}

// The types of frames in a dirpack.
const (
	frameDir  = 1
	frameFile = 2
)

// putEntry puts an entry, notes it for the indexes of paths and types, and returns it as
// its directory has it.
func (c *increment) putEntry(e *storedEntry) (dirEntry, error) {
	p := e.Path()
	if len(p) > 1 && p[1] == 0xff {
		// kloset lists paths below "/" up to "/\xff" and would leave this one out.
		return dirEntry{}, fmt.Errorf("%q: %w: kloset cannot keep a name at the root that begins with byte 0xff", p, fs.ErrInvalid)
	}
	if err := c.noted(); err != nil {
		return dirEntry{}, err
	}
	data, err := e.ToBytes()
	if err != nil {
		return dirEntry{}, err
	}
	mac := c.w.computeMAC(data)
	c.w.put(resources.RT_VFS_ENTRY, mac, data)
	e.MAC = mac
	typ, key := byte(frameDir), p
	if !e.IsDir() {
		typ, key = frameFile, typeKey(e.ContentType, p)
		c.types.set(key, mac)
	}
	c.paths.set(key[len(key)-len(p):], mac) // one string for both
	frame := make([]byte, 0, frameHead+len(data)+len(mac))
	frame = append(frame, typ)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(data)+len(mac)))
	frame = append(append(frame, data...), mac[:]...)
	return newDirEntry(frame, e, nil), nil
}

// remove notes that an entry of the base, at its own path, and all below it, go.
func (c *increment) remove(p string, e *dirEntry) error {
	if err := c.noted(); err != nil {
		return err
	}
	c.paths.drop(p)
	if !e.isDir() {
		c.types.drop(typeKey(e.file.ContentType, p))
		return nil
	}
	c.dirs.drop(p)
	c.summaries.drop(p)
	return c.removeBelow(p)
}

func (c *increment) removeBelow(p string) error {
	d, err := c.s.dirData(c.old, p)
	if err != nil {
		return err
	}
	for i := range d.entries {
		if err := c.remove(below(p)+d.entries[i].name, &d.entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func addFile(sum *vfs.Summary, e *dirEntry) {
	sum.Directory.Children++
	sum.UpdateWithFileSummary(&e.file)
}

func addDir(sum, below *vfs.Summary) {
	sum.Directory.Children++
	sum.Directory.Directories++
	sum.UpdateBelow(below)
}
