package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/gabriel-vasile/mimetype"
)

// Patched is a Content that is a stored file but for what was written to it. An incremental
// commit takes over those chunks of the file that are chunks of the content too, and reads
// the others with OpenAt. Everybody else reads it with Open.
type Patched interface {
	Content
	// Patch says what of the content is in a snapshot. ok is false when that is nothing, or
	// when the content must be read as a whole.
	Patch() (p Patch, ok bool)
	// OpenAt opens the content for reading in places. What it reads is what Open gives.
	OpenAt(ctx context.Context) (ReaderAt, error)
}

// Patch says how a content differs from a stored file.
type Patch struct {
	Base    ID
	Path    string  // of the file, in the view of Base
	Size    int64   // so many bytes of the file count, from its beginning
	Written []Range // what of the content is not the file's, besides all from Size on; in order, apart
}

// Range is a part of a file, in bytes.
type Range struct{ Off, Len int64 }

// ReaderAt reads a content in places.
type ReaderAt interface {
	io.ReaderAt
	io.Closer
}

// patched makes the object of a content from the one of the file below it: the same object,
// to the last bit, that file makes of the whole. ok is false when that is not possible.
func (in *ingester) patched(ctx context.Context, content Patched) (o object, ok bool, err error) {
	p, ok := content.Patch()
	size := content.Size()
	if !ok || p.Size <= 0 || p.Size > size {
		return object{}, false, nil
	}
	if err := in.ready(); err != nil {
		return object{}, true, err
	}
	old, err := in.s.fileObject(ctx, p.Base, p.Path)
	if err != nil || !in.cutsAlike(old) || old.Size() < p.Size {
		// Whatever is wrong with the file, reading it says it best.
		return object{}, false, nil
	}
	rd, err := content.OpenAt(ctx)
	if err != nil {
		return object{}, true, err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	r := newReuse(in, old, p, size, rd)
	if err := r.run(ctx); err != nil {
		return object{}, true, err
	}
	mac, err := in.put(r.obj)
	return object{mac, size, uint64(len(r.obj.Chunks)), r.obj.Entropy, r.obj.ContentType}, true, err
}

// fileObject returns the object of a file of a snapshot, also of one that was removed.
func (s *Snapshotter) fileObject(ctx context.Context, id ID, path string) (*objects.Object, error) {
	r := s.known(id)
	if r == nil {
		var err error
		if r, err = s.left(id); err != nil {
			return nil, fmt.Errorf("base: %w", err)
		}
	}
	t, err := s.tree(r)
	if err != nil {
		return nil, err
	}
	e, err := (&View{tree: t, snap: r.snap}).stored(ctx, path)
	if err != nil {
		return nil, err
	}
	if !e.FileInfo.Lmode.IsRegular() || !e.HasObject() {
		return nil, fmt.Errorf("base %q: %w: not a file", path, fs.ErrInvalid)
	}
	return s.object(e.Object)
}

// fastCDC reports whether the store's chunker is one that reuse.keeps is about.
func (s *Snapshotter) fastCDC() bool {
	switch strings.ToLower(s.chunking.Algorithm) {
	case "fastcdc", "kfastcdc", "fastcdc-v1.0.0":
		return true
	}
	return false
}

// cutsAlike reports whether an object looks as if the chunker of this store had made it.
// With another one's cuts, the new object would hold the right bytes, but share fewer chunks
// with others.
func (in *ingester) cutsAlike(o *objects.Object) bool {
	if !in.s.fastCDC() {
		return false
	}
	today := objects.NewChunk()
	for i, c := range o.Chunks {
		if c.Version != today.Version || c.Flags != today.Flags || int(c.Length) > in.cutter.max {
			return false
		}
		if i < len(o.Chunks)-1 && int(c.Length) < in.cutter.min {
			return false
		}
	}
	return o.ContentType != ""
}

// reuse makes a new object from an old one and from what was written since.
//
// FastCDC decides on a cut by the bytes since the last cut and the one behind the new cut,
// and by nothing else, unless the stream ends first or the chunk becomes too long. So where
// an old cut and a new one meet, the old chunks that follow are the new ones, up to the one
// that, with the byte behind it, is not as it was; and what is cut anew from there on meets
// the old cuts again soon after the change.
type reuse struct {
	in    *ingester
	old   *objects.Object
	cuts  []int64 // where each old chunk begins, and the size behind the last
	patch Patch
	size  int64 // of the new content
	rd    io.ReaderAt
	limit int64 // how far the chunker reads, 0 when it is somewhere else

	obj     *objects.Object
	entropy float64 // times bytes, so far
	sum     *contentSum
}

func newReuse(in *ingester, old *objects.Object, p Patch, size int64, rd io.ReaderAt) *reuse {
	r := &reuse{in: in, old: old, patch: p, size: size, rd: rd, obj: objects.NewObject()}
	r.cuts = make([]int64, len(old.Chunks)+1)
	for i, c := range old.Chunks {
		r.cuts[i+1] = r.cuts[i] + int64(c.Length)
	}
	r.sum = r.newSum()
	return r
}

// newSum begins the MAC of the content, for which no bytes are needed where the sums of
// groups are known.
func (r *reuse) newSum() *contentSum {
	sums, group := r.in.s.sums.get(r.old.ContentMAC), r.in.s.sums.group
	if r.same() || sums == nil || r.size <= group { // one group is the root of its tree
		return r.in.s.newSum(nil)
	}
	return r.in.s.newSum(func(i int64) (groupSum, bool) {
		if i >= int64(len(sums)) || !r.unchanged(i*group, (i+1)*group) {
			return groupSum{}, false
		}
		return sums[i], true
	})
}

// same reports whether the content is the old one.
func (r *reuse) same() bool {
	end := r.cuts[len(r.old.Chunks)]
	return end == r.size && r.unchanged(0, end)
}

// finish completes the object.
func (r *reuse) finish() (err error) {
	r.obj.Entropy = r.entropy / float64(r.size)
	if r.same() {
		r.obj.ContentMAC = r.old.ContentMAC
		return nil
	}
	if r.obj.ContentMAC, err = r.sum.finish(r.size); err != nil {
		return err
	}
	r.in.s.sums.keep(r.obj.ContentMAC, r.sum.sums, r.old.ContentMAC)
	return nil
}

// run walks over the new content.
func (r *reuse) run(ctx context.Context) error {
	r.limit = 0 // the chunker is not at the place
	for at := int64(0); at < r.size; {
		if err := errors.Join(ctx.Err(), r.in.w.packer.failed()); err != nil {
			return err
		}
		var n int64
		var err error
		if k := sort.Search(len(r.old.Chunks), func(k int) bool { return r.cuts[k] >= at }); r.keeps(k, at) {
			r.limit = 0
			n, err = r.take(k)
		} else {
			n, err = r.cut(at)
		}
		if err != nil {
			return err
		}
		at += n
	}
	return r.finish()
}

// unchanged reports whether the bytes from begin to end are the old ones.
func (r *reuse) unchanged(begin, end int64) bool {
	w := r.patch.Written
	i := sort.Search(len(w), func(i int) bool { return w[i].Off+w[i].Len > begin })
	return end <= r.patch.Size && (i == len(w) || w[i].Off >= end)
}

// keeps reports whether the old chunk k begins at a place where a new chunk begins, and is
// that chunk. One that the store has lost is cut anew like one that was written to.
func (r *reuse) keeps(k int, at int64) bool {
	if k == len(r.old.Chunks) || r.cuts[k] != at {
		return false
	}
	end := r.cuts[k+1]
	if !r.unchanged(at, end) {
		return false
	}
	longest := end-at == int64(r.in.cutter.max)
	if end != r.size && !longest && !r.unchanged(end, end+1) {
		return false
	}
	return r.in.w.has(resources.RT_CHUNK, r.old.Chunks[k].ContentMAC)
}

// take takes over the old chunk k and returns its length.
func (r *reuse) take(k int) (int64, error) {
	c := r.old.Chunks[k]
	if !r.same() && r.sum.wants(r.cuts[k], r.cuts[k+1]) {
		data, err := r.read(k)
		if err != nil {
			return 0, err
		}
		r.sum.write(data, r.cuts[k])
	}
	r.add(c, func() string { return r.old.ContentType })
	return int64(c.Length), nil
}

// read returns the bytes of the old chunk k, and has the next ones read meanwhile.
func (r *reuse) read(k int) ([]byte, error) {
	for next := k + 1; next <= k+readAhead && next < len(r.old.Chunks); next++ {
		if r.unchanged(r.cuts[next], r.cuts[next+1]) && r.sum.wants(r.cuts[next], r.cuts[next+1]) {
			r.in.s.chunks.prefetch(r.old.Chunks[next].ContentMAC)
		}
	}
	c := &r.old.Chunks[k]
	data, err := r.in.s.chunks.get(c.ContentMAC)
	if err == nil && len(data) != int(c.Length) {
		err = fmt.Errorf("chunk %x has %d bytes, its object says %d: %w", c.ContentMAC[:4], len(data), c.Length, io.ErrUnexpectedEOF)
	}
	if err != nil { // whoever gives the content is to know of it, and knows whose the chunk is
		if _, rerr := r.rd.ReadAt(make([]byte, 1), r.cuts[k]); rerr != nil && !errors.Is(rerr, io.EOF) {
			err = rerr
		}
	}
	return data, err
}

// cut makes a chunk of what is at at, and returns its length.
func (r *reuse) cut(at int64) (int64, error) {
	piece, err := r.next(at)
	if err != nil {
		return 0, err
	}
	n := int64(len(piece))
	if r.sum.wants(at, at+n) {
		r.sum.write(piece, at)
	}
	c := objects.NewChunk()
	c.ContentMAC, c.Length, c.Entropy = r.in.w.computeMAC(piece), uint32(n), entropy(piece)
	r.add(*c, func() string { return mimetype.Detect(piece).String() })
	r.in.w.putChunk(c.ContentMAC, piece, false, r.in.cutter)
	return n, nil
}

// next returns what the chunker cuts off at at. It wants to see as much as the longest chunk
// may have, most of which is unchanged and does not matter, so it is shown no more than up to
// where an old chunk may be taken over again. When it would cut there, because it takes that
// for the end, it is shown more.
func (r *reuse) next(at int64) ([]byte, error) {
	if r.limit == 0 {
		r.show(at, at)
	}
	for {
		piece, err := r.in.cutter.next()
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		n := int64(len(piece))
		if at+n < r.limit || r.limit == r.size || n == int64(r.in.cutter.max) {
			return piece, nil
		}
		r.show(at, at+2*(r.limit-at))
	}
}

// show has the chunker cut what begins at at and reaches beyond from.
func (r *reuse) show(at, from int64) {
	r.limit = r.size
	k := sort.Search(len(r.old.Chunks), func(k int) bool { return r.cuts[k] > from })
	for ; k < len(r.old.Chunks) && r.cuts[k] < r.size; k++ {
		if r.unchanged(r.cuts[k], r.cuts[k]+1) {
			r.limit = r.cuts[k] + 1 // with the byte that decides on the cut before it
			break
		}
	}
	r.in.cutter.reset(&edge{r.rd, at, r.limit})
}

// edge reads a part of a content. Where the content ends before it should, there is an error
// instead of the end that the chunker would make a cut of.
type edge struct {
	rd      io.ReaderAt
	at, end int64
}

func (e *edge) Read(p []byte) (int, error) {
	if e.at == e.end {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), e.end-e.at)]
	n, err := e.rd.ReadAt(p, e.at)
	e.at += int64(n)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || errors.Is(err, io.EOF):
		err = fmt.Errorf("%d bytes announced, %d read: %w", e.end, e.at, io.ErrUnexpectedEOF)
	}
	return n, err
}

// add adds a chunk to the object, whose type the first one decides.
func (r *reuse) add(c objects.Chunk, contentType func() string) {
	if len(r.obj.Chunks) == 0 {
		r.obj.ContentType = contentType()
	}
	r.entropy += c.Entropy * float64(c.Length)
	r.obj.Chunks = append(r.obj.Chunks, c)
}
