package vfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/vfs/internal/journal"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// baseRef names a file's bytes in a snapshot.
type baseRef struct {
	id   snapshotter.ID
	path string // "" for no file
	size int64  // how many of its bytes count, from the start: a truncation lowers it
}

// content is where the bytes of a completed version are: in the journal record that
// published it, in a spool file, in part or as a whole in a stored file, and, once a
// commit has taken it over, in a snapshot. It is shared by nodes, handles and pending
// sets; safe for concurrent use once it is published.
type content struct {
	size    int64
	hash    [32]byte
	hasHash bool

	inRecord bool           // the bytes ride in the journal record
	inline   []byte         // those bytes, until the record is written
	spool    spool.ID       // 0 for none
	extents  []spool.Extent // what of [0,size) is in the spool file; the rest is base's, or zeros
	base     baseRef
	linked   bool // it is the base file, no more and no less; not recorded

	shared atomic.Bool // several names may have it, as links do: a commit reads it once; not recorded

	mu     sync.Mutex // guards the rest; a leaf
	pos    journal.Position
	stored *baseRef // once a snapshot has it
	ahead  *ahead   // puts the bytes into the store before that; nil for nothing
	// leftOut is why the snapshot that was to have it does not; nil else.
	leftOut error
}

// early returns what puts the bytes into the store ahead of the commit.
func (c *content) early() *ahead {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead
}

// restored reports whether nothing but a snapshot has the bytes.
func (c *content) restored() bool {
	return c.base.path != "" && c.spool == 0 && !c.inRecord && c.size > 0
}

// where returns the journal record and the snapshot file that hold the bytes now.
func (c *content) where() (journal.Position, []byte, baseRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stored == nil {
		return c.pos, c.inline, baseRef{}
	}
	return c.pos, c.inline, *c.stored
}

// written notes that the record at pos carries the content; the copy in memory goes.
func (c *content) written(pos journal.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pos, c.inline = pos, nil
}

// moved notes that a snapshot holds the content.
func (c *content) moved(to baseRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stored == nil {
		c.stored = &to
	}
	c.ahead, c.leftOut = nil, nil
}

// leaveOut notes why no snapshot gets the content.
func (c *content) leaveOut(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leftOut = why
}

// lost is what leaveOut has noted; nil for no content.
func (c *content) lost() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leftOut
}

// open opens the bytes of a file node of this share for reading, wherever they are. The
// Reader stays valid whatever happens to the name, the spool file and the head meanwhile.
func (s *share) open(ctx context.Context, t *tree, n *node) (Reader, error) {
	if n.content != nil {
		return s.openContent(ctx, n.content)
	}
	r, err := t.base.Open(ctx, n.from)
	if err != nil {
		return nil, baseError("open", Name{n.from}, err)
	}
	return r, nil
}

// openContent opens a content. A commit may move the bytes from the spool to the store, and
// a seal to another record, at any moment: what cannot be opened is looked for again as long
// as it has moved.
func (s *share) openContent(ctx context.Context, c *content) (Reader, error) {
	for {
		pos, _, stored := c.where()
		r, err := s.tryOpen(ctx, c, stored)
		if err == nil {
			return r, nil
		}
		if newPos, _, now := c.where(); newPos == pos && now == stored {
			return nil, err
		}
	}
}

func (s *share) tryOpen(ctx context.Context, c *content, stored baseRef) (Reader, error) {
	if stored.path != "" {
		return s.openStored(ctx, stored)
	}
	if c.inRecord {
		return s.openInline(c)
	}
	r := &pieces{size: c.size, extents: c.extents}
	if c.spool != 0 {
		spooled, err := s.spool.Reader(c.spool, c.size, c.extents...)
		if err != nil {
			return nil, errCause("open", Name{}, KindOther, &spoolError{err})
		}
		r.spool, r.closers = spooled, append(r.closers, spooled)
	}
	if c.base.path != "" {
		base, err := s.openStored(ctx, c.base)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.base, r.baseSize, r.closers = base, c.base.size, append(r.closers, base)
	}
	return r, nil
}

func (s *share) openInline(c *content) (Reader, error) {
	pos, data, _ := c.where()
	if data == nil && c.size > 0 {
		rec, err := s.journal.Read(pos)
		if err != nil {
			return nil, errCause("open", Name{}, KindOther, err)
		}
		if data, err = decodeInline(rec); err != nil {
			return nil, errCause("open", Name{}, KindOther, err)
		}
	}
	return bytesReader(data), nil
}

// openStored opens a file of a snapshot: of the head through the view that the tree holds,
// of an older one through a view of its own.
func (s *share) openStored(ctx context.Context, ref baseRef) (Reader, error) {
	if t := s.current(); t.base != nil && t.head == ref.id {
		r, err := t.base.Open(ctx, ref.path)
		if err != nil {
			return nil, baseError("open", Name{ref.path}, err)
		}
		return r, nil
	}
	v, err := s.system.cfg.Repository.View(ctx, ref.id)
	if err != nil {
		return nil, baseError("open", Name{ref.path}, &unopenedError{err})
	}
	r, err := v.Open(ctx, ref.path)
	if err != nil {
		return nil, errors.Join(baseError("open", Name{ref.path}, err), v.Close())
	}
	return &viewReader{r, v}, nil
}

// viewReader closes its view with itself.
type viewReader struct {
	Reader
	view View
}

func (r *viewReader) Close() error { return errors.Join(r.Reader.Close(), r.view.Close()) }

// bytesReader is a Reader over bytes in memory.
type bytesReader []byte

func (b bytesReader) Size() int64  { return int64(len(b)) }
func (b bytesReader) Close() error { return nil }

func (b bytesReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errKind("read", Name{}, KindInvalid)
	}
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// pieces reads a file that is put together from a spool file, a stored file and zeros: a
// content, or an upload as it would be if it were published now.
type pieces struct {
	size     int64
	extents  []spool.Extent
	spool    io.ReaderAt // not nil when there are extents
	base     io.ReaderAt // not nil when baseSize is not 0
	baseSize int64       // how much of base counts
	closers  []io.Closer
}

func (r *pieces) Size() int64 { return r.size }

func (r *pieces) Close() error {
	errs := make([]error, 0, len(r.closers))
	for _, c := range r.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (r *pieces) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errKind("read", Name{}, KindInvalid)
	}
	n := 0
	for n < len(p) && off < r.size {
		src, end := r.source(off)
		m := int(min(int64(len(p)-n), end-off))
		if err := readPiece(src, p[n:n+m], off); err != nil {
			if src == r.spool {
				err = &spoolError{err}
			}
			return n, err
		}
		n += m
		off += int64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// source returns what holds the byte at off (nil: it is zero), and where that ends.
func (r *pieces) source(off int64) (io.ReaderAt, int64) {
	end := r.size
	i := sort.Search(len(r.extents), func(i int) bool { return r.extents[i].Off+r.extents[i].Len > off })
	if i < len(r.extents) {
		x := r.extents[i]
		if x.Off <= off {
			return r.spool, min(end, x.Off+x.Len)
		}
		end = min(end, x.Off)
	}
	if off < r.baseSize {
		return r.base, min(end, r.baseSize)
	}
	return nil, end
}

func readPiece(src io.ReaderAt, p []byte, off int64) error {
	if src == nil {
		clear(p)
		return nil
	}
	if n, err := src.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return errCause("read", Name{}, KindOther, err)
	}
	return nil
}

// wholeIn returns the path of the file of a snapshot whose bytes c is, "" for none.
func (c *content) wholeIn(id snapshotter.ID) string {
	if !c.linked || c.base.id != id {
		return ""
	}
	return c.base.path
}

// contentSource is a content as a commit reads it: to its end or to the first error, or, of
// one that continues a stored file, what is new. It is a snapshotter.Patched and a snapshotter.Shared.
type contentSource struct {
	share *share
	c     *content
	path  string
	bad   *damagedUploads
}

func (s contentSource) Size() int64 { return s.c.size }

// Identity implements snapshotter.Shared.
func (s contentSource) Identity() any {
	if !s.c.shared.Load() {
		return nil
	}
	return s.c
}

func (s contentSource) Open(ctx context.Context) (io.ReadCloser, error) {
	r, err := s.share.openContent(ctx, s.c)
	if err != nil {
		return nil, s.bad.note(s.c, err)
	}
	var in io.Reader = io.NewSectionReader(r, 0, s.c.size)
	if s.c.hasHash {
		in = &verifier{in: in, left: s.c.size, want: s.c.hash, hash: blake3.New(), path: s.path}
	}
	return contentReader{in, r, s}, nil
}

// Patch implements snapshotter.Patched. What has a hash is read as a whole, to compare it; of
// what shows parts of a stored file nothing has one.
func (s contentSource) Patch() (p snapshotter.Patch, ok bool) {
	if _, _, stored := s.c.where(); stored.path != "" {
		return snapshotter.Patch{Base: stored.id, Path: stored.path, Size: stored.size}, true
	}
	if s.c.hasHash || s.c.base.path == "" {
		return p, false
	}
	p = snapshotter.Patch{Base: s.c.base.id, Path: s.c.base.path, Size: s.c.base.size}
	for _, x := range s.c.extents {
		p.Written = append(p.Written, snapshotter.Range(x))
	}
	return p, true
}

// OpenAt implements snapshotter.Patched.
func (s contentSource) OpenAt(ctx context.Context) (snapshotter.ReaderAt, error) {
	r, err := s.share.openContent(ctx, s.c)
	if err != nil {
		return nil, s.bad.note(s.c, err)
	}
	return contentReaderAt{r, s}, nil
}

// contentReaderAt notes why a content cannot be read.
type contentReaderAt struct {
	Reader
	source contentSource
}

func (r contentReaderAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(p, off)
	return n, r.source.bad.note(r.source.c, err)
}

// contentReader notes why a content cannot be read.
type contentReader struct {
	io.Reader
	io.Closer
	source contentSource
}

func (r contentReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	return n, r.source.bad.note(r.source.c, err)
}

// errRotten says that spooled bytes are not those that were uploaded. A commit stops there:
// a snapshot of them would pass for good for ever.
var errRotten = errors.New("the spooled bytes are not those that were uploaded")

// verifier hands on what hashes to want. With the bytes that complete a wrong hash it fails
// instead.
type verifier struct {
	in   io.Reader
	left int64
	want [32]byte
	hash *blake3.Hasher
	path string // for the error
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.in.Read(p)
	_, _ = v.hash.Write(p[:n]) // never fails
	v.left -= int64(n)
	if v.left == 0 && n > 0 && !bytes.Equal(v.hash.Sum(nil), v.want[:]) {
		return 0, fmt.Errorf("%s: %w", v.path, errRotten)
	}
	return n, err
}
