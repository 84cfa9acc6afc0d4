package snapshotter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"strings"
	"time"

	"github.com/PlakarKorp/kloset/objects"
)

// Query says what Search looks for. The zero Query is all.
type Query struct {
	// Path is the directory below which is looked for; "" for "/".
	Path string
	// Name tells by its path in the view whether an entry is meant; nil for all. It is called in
	// several goroutines.
	Name func(path string) bool
	// ContentType is what the bytes of a file look like: "image/png", or "image/*"; "" for
	// anything. This and the fields below leave out directories.
	ContentType string
	MinSize     int64 // bytes
	MaxSize     int64 // 0 for any size, -1 for empty files
	After       time.Time
	Before      time.Time
	// Entries asks for more than paths.
	Entries bool
}

// Found is an entry that Search has found. Entry has no more than its name unless Entries was set.
type Found struct {
	Path  string
	Entry Entry
}

// needsEntry reports whether a query cannot be answered by names and content types alone.
func (q *Query) needsEntry() bool {
	return q.MinSize > 0 || q.MaxSize != 0 || !q.After.IsZero() || !q.Before.IsZero()
}

// Matches tells whether an entry is meant, at a path that is below Path.
func (q *Query) Matches(path string, e Entry) bool {
	return (q.Name == nil || q.Name(path)) && q.fits(&e) && (q.ContentType == "" || isType(e.ContentType, q.ContentType))
}

// fits tells whether an entry is meant, as far as kind, size and time go.
func (q *Query) fits(e *Entry) bool {
	if !q.needsEntry() && q.ContentType == "" {
		return true
	}
	switch {
	case e.Kind == Dir:
		return false
	case (q.MinSize > 0 || q.MaxSize != 0 || q.ContentType != "") && e.Kind != File:
		return false
	case e.Size < q.MinSize, q.MaxSize > 0 && e.Size > q.MaxSize, q.MaxSize < 0 && e.Size > 0:
		return false
	case !q.After.IsZero() && e.Attr.ModTime.Before(q.After), !q.Before.IsZero() && !e.Attr.ModTime.Before(q.Before):
		return false
	}
	return true
}

// isType reports whether a content type is the one that is meant, or one of its kind.
func isType(contentType, want string) bool {
	contentType, _, _ = strings.Cut(contentType, ";")
	if kind, ok := strings.CutSuffix(want, "/*"); ok {
		return strings.HasPrefix(contentType, kind+"/")
	}
	return contentType == want
}

// searchParallel is how many pieces of an index, or directories, are read at a time: a core is
// busy with one, others wait for the store.
func searchParallel() int { return 2 * cores() }

// Search finds entries: by names and content types in the snapshot's indexes, of which a part is in
// memory at a time, and by sizes and times in the directories that can have such files. Paths come
// in no order that callers may count on. Errors: fs.ErrInvalid when Path is no directory, and
// fs.ErrNotExist, ErrUnavailable.
func (v *View) Search(ctx context.Context, q Query) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		if q.Path == "" {
			q.Path = "/"
		}
		err := v.search(ctx, q, func(f Found) error {
			if !yield(f, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(Found{}, v.fail("search", q.Path, err))
		}
	}
}

// errStop ends an iteration that nobody wants to go on.
var errStop = errors.New("stopped")

func (v *View) search(ctx context.Context, q Query, yield func(Found) error) error {
	e, err := v.stored(ctx, q.Path)
	if err != nil {
		return err
	}
	if !e.IsDir() {
		return errNotDir
	}
	r, err := v.tree.s.record(ctx, v.snap.ID)
	if err != nil {
		return err
	}
	x := &searching{v: v, r: r, q: q, yield: yield}
	if x.top, err = v.abs(q.Path); err != nil {
		return err
	}
	switch {
	case v.tree.dirpack == nil:
		return x.walk(ctx, q.Path)
	case q.needsEntry():
		return x.directories(ctx)
	case q.ContentType != "" && r.types != (objects.MAC{}):
		return x.types(ctx)
	case q.ContentType != "":
		return x.directories(ctx)
	}
	return x.names(ctx)
}

// searching is a search that is under way.
type searching struct {
	v     *View
	r     *record
	q     Query
	top   string // the path in the snapshot of what is searched
	yield func(Found) error
}

// take takes an entry, when it is meant.
func (x *searching) take(p string, e *storedEntry) error {
	if f := (Found{p, entryOf(e)}); x.q.Matches(p, f.Entry) {
		return x.yield(f)
	}
	return nil
}

// walk searches directory by directory, in snapshots that have no index of directories.
func (x *searching) walk(ctx context.Context, dir string) error {
	p, err := x.v.abs(dir)
	if err != nil {
		return err
	}
	for after := ""; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := x.v.tree.readDir(p, after, fsPage)
		if err != nil {
			return err
		}
		for _, e := range page {
			after = e.Name()
			child := below(dir) + after
			if err := x.take(child, e); err != nil {
				return err
			}
			if e.IsDir() {
				if err := x.walk(ctx, child); err != nil {
					return err
				}
			}
		}
		if len(page) < fsPage {
			return nil
		}
	}
}

// hit is a path in an index.
type hit struct {
	path string // in the view
	mac  objects.MAC
}

// names searches the index of paths.
func (x *searching) names(ctx context.Context) error {
	paths, err := x.v.tree.s.rawPaths(x.r)
	if err != nil {
		return err
	}
	leaves, err := paths.leaves(ctx)
	if err != nil {
		return err
	}
	prefix := []byte(below(x.top))
	return x.leaves(ctx, paths, leaves, func(key []byte) (string, bool) {
		if len(key) <= len(prefix) || string(key[:len(prefix)]) != string(prefix) {
			return "", false
		}
		p := x.v.rel(string(key))
		return p, x.q.Name == nil || x.q.Name(p)
	})
}

// types searches the index of content types, where it has the ones that are meant.
func (x *searching) types(ctx context.Context) error {
	types, err := x.v.tree.s.rawOther(x.r.types)
	if err != nil {
		return err
	}
	leaves, err := types.leaves(ctx)
	if err != nil {
		return err
	}
	from := "/" + strings.TrimSuffix(x.q.ContentType, "*")
	if !strings.HasSuffix(from, "/") {
		from += "/"
	}
	var there []rawLeaf
	for i, l := range leaves {
		last := i+1 == len(leaves)
		if (last || leaves[i+1].first > from) && l.first <= from+"\xff" {
			there = append(there, l)
		}
	}
	inside := below(x.top)
	return x.leaves(ctx, types, there, func(key []byte) (string, bool) {
		k := string(key)
		if !strings.HasPrefix(k, from) {
			return "", false
		}
		p := k[len(from)-1:]
		if strings.HasSuffix(x.q.ContentType, "/*") { // the rest of the type is before the path
			i := strings.IndexByte(p[1:], '/')
			if i < 0 {
				return "", false
			}
			p = p[i+1:]
		}
		if !strings.HasPrefix(p, inside) {
			return "", false
		}
		p = x.v.rel(p)
		return p, x.q.Name == nil || x.q.Name(p)
	})
}

// leaves searches leaves of an index; is gives the path that a key stands for, and tells whether
// it is meant.
func (x *searching) leaves(ctx context.Context, in *rawIndex, leaves []rawLeaf, is func(key []byte) (string, bool)) error {
	items := func(yield func(rawLeaf, error) bool) {
		for _, l := range leaves {
			if !yield(l, nil) {
				return
			}
		}
	}
	work := func(ctx context.Context, l rawLeaf) ([]Found, error) {
		n, err := in.node(l.mac)
		if err != nil {
			return nil, err
		}
		var hits []hit
		for i := range n.keys {
			if p, ok := is(n.bytes(i)); ok {
				hits = append(hits, hit{p, n.value(i)})
			}
		}
		return x.describe(ctx, hits)
	}
	return ordered(ctx, searchParallel(), items, work, x.all)
}

func (x *searching) all(found []Found) error {
	for _, f := range found {
		if err := x.yield(f); err != nil {
			return err
		}
	}
	return nil
}

// manyOfOne is from how many entries of one directory on they are read from the directory, which
// has them all in one object, in place of one by one.
const manyOfOne = 16

// describe makes entries of what was found by name.
func (x *searching) describe(ctx context.Context, hits []hit) ([]Found, error) {
	found := make([]Found, 0, len(hits))
	if !x.q.Entries {
		for _, h := range hits {
			found = append(found, Found{h.path, Entry{Name: path.Base(h.path)}})
		}
		return found, nil
	}
	for len(hits) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		dir, n := path.Dir(hits[0].path), 1
		for n < len(hits) && path.Dir(hits[n].path) == dir {
			n++
		}
		var err error
		if n >= manyOfOne {
			found, err = x.together(found, dir, hits[:n])
		} else {
			found, err = x.singly(found, hits[:n])
		}
		if err != nil {
			return nil, err
		}
		hits = hits[n:]
	}
	return found, nil
}

func (x *searching) singly(found []Found, hits []hit) ([]Found, error) {
	for _, h := range hits {
		e, err := x.v.tree.entry(h.mac)
		if err != nil {
			return nil, err
		}
		found = append(found, Found{h.path, entryOf(e)})
	}
	return found, nil
}

// together reads hits of one directory, which are in the order of their names.
func (x *searching) together(found []Found, dir string, hits []hit) ([]Found, error) {
	abs, err := x.v.abs(dir)
	if err != nil {
		return nil, err
	}
	mac, ok, err := x.v.tree.dirpack.Find(abs)
	if err != nil || !ok {
		return nil, errors.Join(err, fmt.Errorf("%w: no entries of directory %q", errInconsistent, dir))
	}
	fr, err := x.v.tree.s.frames(mac)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(hits); {
		frame, err := fr.next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: %q is not in its directory", errInconsistent, hits[i].path)
		}
		if err != nil {
			return nil, err
		}
		if frameMAC(frame) != hits[i].mac {
			continue
		}
		e, err := decodeEntry(frame)
		if err != nil {
			return nil, readError("directory", err)
		}
		found = append(found, Found{hits[i].path, entryOf(e)})
		i++
	}
	return found, nil
}

// frames reads the entries of a directory one by one, without decoding them.
type frames struct {
	rd   *bufio.Reader // nil for a directory that is one chunk
	buf  []byte        // of rd, the last entry
	rest []byte        // of that chunk
}

// frames opens a directory. A chunk that is all of it is not kept: whoever goes through all
// directories would drive out what others read.
func (s *Snapshotter) frames(mac objects.MAC) (*frames, error) {
	obj, err := s.object(mac)
	if err != nil {
		return nil, err
	}
	if len(obj.Chunks) != 1 {
		r := newReader(s.chunks, obj)
		return &frames{rd: bufio.NewReaderSize(io.NewSectionReader(r, 0, r.Size()), dirBufSize)}, nil
	}
	c := &obj.Chunks[0]
	data, err := s.loadChunk(c.ContentMAC)
	if err == nil && len(data) != int(c.Length) {
		err = readError("directory", chunkSizeError(c.ContentMAC, len(data), int64(c.Length)))
	}
	return &frames{rest: data}, err
}

// next returns the next entry as it is encoded, for decodeEntry, until it is called again; io.EOF at
// the end.
func (f *frames) next() ([]byte, error) {
	if f.rd == nil {
		return f.cut()
	}
	frame, _, err := readRawFrame(f.rd, f.buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, readError("directory", err)
	}
	f.buf = frame
	return frame, err
}

// cut takes the next entry from the chunk.
func (f *frames) cut() ([]byte, error) {
	if len(f.rest) == 0 {
		return nil, io.EOF
	}
	frame, err := firstFrame(f.rest)
	if err != nil {
		return nil, readError("directory", err)
	}
	f.rest = f.rest[frameHead+len(frame):]
	return frame, nil
}

// frameMAC is the MAC of an entry as it is encoded.
func frameMAC(frame []byte) objects.MAC {
	return objects.MAC(frame[len(frame)-len(objects.MAC{}):])
}

// searchedDir is a directory that has entries which may be meant.
type searchedDir struct {
	dir     string // in the view
	mac     objects.MAC
	summary objects.MAC // zero when there is none that could leave it out
}

// directories searches the directories.
func (x *searching) directories(ctx context.Context) error {
	dirs, err := x.v.tree.s.rawOther(x.r.dirpack)
	if err != nil {
		return err
	}
	sums, err := x.summaries(ctx)
	if err != nil {
		return err
	}
	items := func(yield func(searchedDir, error) bool) {
		cur, err := newRawCursor(ctx, dirs, x.top)
		for ; err == nil && cur.ok; err = cur.next(ctx) {
			var sum objects.MAC
			if sum, err = sums.of(ctx, cur.key); err != nil {
				break
			}
			if !yield(searchedDir{x.v.rel(cur.key), cur.mac, sum}, nil) {
				return
			}
		}
		if err != nil {
			yield(searchedDir{}, err)
		}
	}
	return ordered(ctx, searchParallel(), items, x.directory, x.all)
}

func (x *searching) directory(ctx context.Context, d searchedDir) ([]Found, error) {
	if may, err := x.may(d.summary); err != nil || !may {
		return nil, err
	}
	fr, err := x.v.tree.s.frames(d.mac)
	if err != nil {
		return nil, err
	}
	var found []Found
	for n := 0; ; n++ {
		if n%fsPage == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		frame, err := fr.next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if f, ok, err := x.meant(d.dir, frame); err != nil {
			return nil, readError("directory", err)
		} else if ok {
			found = append(found, f)
		}
	}
}

// meant looks at an entry, and decodes it if it must.
func (x *searching) meant(dir string, frame []byte) (f Found, ok bool, err error) {
	if raw, parsed := parseEntry(frame); parsed {
		e := raw.entry()
		if !x.q.fits(&e) || x.q.ContentType != "" && !(raw.mode.IsRegular() && isType(string(raw.contentType), x.q.ContentType)) {
			return f, false, nil
		}
		name := string(raw.name)
		if f.Path = below(dir) + name; x.q.Name != nil && !x.q.Name(f.Path) {
			return f, false, nil
		}
		if f.Entry.Name = name; !x.q.Entries {
			return f, true, nil
		}
	}
	e, err := decodeEntry(frame)
	if err != nil {
		return f, false, err
	}
	f = Found{below(dir) + e.Name(), entryOf(e)}
	return f, x.q.Matches(f.Path, f.Entry), nil
}

// dirSummaries finds the summaries of directories, in the order of these.
type dirSummaries struct {
	cur *rawCursor // nil: they are not asked
}

func (x *searching) summaries(ctx context.Context) (*dirSummaries, error) {
	if x.r.summary == (objects.MAC{}) || x.q.MinSize <= 0 && x.q.After.IsZero() {
		return new(dirSummaries), nil
	}
	idx, err := x.v.tree.s.rawOther(x.r.summary)
	if err != nil {
		return nil, err
	}
	cur, err := newRawCursor(ctx, idx, x.top)
	return &dirSummaries{cur}, err
}

// of is the summary of a directory, zero for none.
func (s *dirSummaries) of(ctx context.Context, dir string) (objects.MAC, error) {
	if s.cur == nil {
		return objects.MAC{}, nil
	}
	for s.cur.ok && s.cur.key < dir {
		if err := s.cur.next(ctx); err != nil {
			return objects.MAC{}, err
		}
	}
	if !s.cur.ok || s.cur.key != dir {
		return objects.MAC{}, nil
	}
	return s.cur.mac, nil
}

// may reports whether files that are directly in a directory may be meant, by its summary. Of the
// limits that summaries have, the lower ones leave out what is zero.
func (x *searching) may(summary objects.MAC) (bool, error) {
	if summary == (objects.MAC{}) {
		return true, nil
	}
	sum, err := x.v.tree.s.readSummary(summary)
	if err != nil {
		return false, err
	}
	d := &sum.Directory
	if x.q.MinSize > 0 && d.MaxSize < uint64(x.q.MinSize) {
		return false, nil
	}
	return x.q.After.IsZero() || d.MaxModTime <= 0 || d.MaxModTime >= x.q.After.Unix(), nil
}
