package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"sort"
	"strings"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/gabriel-vasile/mimetype"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/zeebo/blake3"
)

const (
	// hashStateCacheSize bounds the hash states that are kept, of 11 KiB each.
	hashStateCacheSize = 256
	// edgeRead is how much is read at a time where chunks are made anew: the chunker fills a
	// buffer of twice its largest chunk, which is more than most edges need.
	edgeRead = 512 << 10
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
	defer r.sum.release()
	if err := r.run(ctx); err != nil {
		return object{}, true, err
	}
	mac, err := in.put(r.obj)
	return object{mac, size, uint64(len(r.obj.Chunks)), r.obj.Entropy, r.obj.ContentType}, true, err
}

// fileObject returns the object of a file of a snapshot.
func (s *Snapshotter) fileObject(ctx context.Context, id ID, path string) (*objects.Object, error) {
	r := s.known(id)
	if r == nil {
		return nil, fmt.Errorf("base %s: %w", id, ErrNoSnapshot)
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

// cutsAlike reports whether an object looks as if the chunker of this store had made it.
// With another one's cuts, the new object would hold the right bytes, but share fewer chunks
// with others.
func (in *ingester) cutsAlike(o *objects.Object) bool {
	switch strings.ToLower(in.s.repo.Configuration().Chunking.Algorithm) {
	case "fastcdc", "kfastcdc", "fastcdc-v1.0.0": // what reuse.keeps is about
	default:
		return false
	}
	today := objects.NewChunk()
	for i, c := range o.Chunks {
		if c.Version != today.Version || c.Flags != today.Flags || int(c.Length) > in.chunker.MaxSize() {
			return false
		}
		if i < len(o.Chunks)-1 && int(c.Length) < in.chunker.MinSize() {
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

// newSum starts the MAC of the content, where possible at the end of what is unchanged: the
// rest is all that is read for it then.
func (r *reuse) newSum() *contentSum {
	end := r.cuts[len(r.old.Chunks)]
	if r.unchanged(0, end) {
		if end == r.size {
			return &contentSum{from: end, known: &r.old.ContentMAC, release: func() {}}
		}
		if h := r.in.s.hashes.resume(r.old.ContentMAC); h != nil {
			return &contentSum{h: h, from: end, of: r.old.ContentMAC, release: func() {}}
		}
	}
	h, release := r.in.w.rw.GetPooledMACHasher()
	return &contentSum{h: h, release: release}
}

// run walks over the new content.
func (r *reuse) run(ctx context.Context) error {
	cutting := false // the chunker is at the place
	for at := int64(0); at < r.size; {
		if err := errors.Join(ctx.Err(), r.in.w.packer.failed()); err != nil {
			return err
		}
		var n int64
		var err error
		if k := sort.Search(len(r.old.Chunks), func(k int) bool { return r.cuts[k] >= at }); r.keeps(k, at) {
			cutting = false
			n, err = r.take(k)
		} else {
			if !cutting {
				r.in.chunker.Reset(&edge{r.rd, at, r.size})
				cutting = true
			}
			n, err = r.cut(at)
		}
		if err != nil {
			return err
		}
		at += n
	}
	r.obj.Entropy = r.entropy / float64(r.size)
	r.obj.ContentMAC = r.sum.finish(r.in.s.hashes)
	return nil
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
	longest := end-at == int64(r.in.chunker.MaxSize())
	if end != r.size && !longest && !r.unchanged(end, end+1) {
		return false
	}
	return r.in.w.has(resources.RT_CHUNK, r.old.Chunks[k].ContentMAC)
}

// take takes over the old chunk k and returns its length.
func (r *reuse) take(k int) (int64, error) {
	c := r.old.Chunks[k]
	if r.sum.wants(r.cuts[k+1]) {
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
		if r.unchanged(r.cuts[next], r.cuts[next+1]) {
			r.in.s.chunks.prefetch(r.old.Chunks[next].ContentMAC)
		}
	}
	c := &r.old.Chunks[k]
	data, err := r.in.s.chunks.get(c.ContentMAC)
	if err == nil && len(data) != int(c.Length) {
		err = fmt.Errorf("chunk %x has %d bytes, its object says %d: %w", c.ContentMAC[:4], len(data), c.Length, io.ErrUnexpectedEOF)
	}
	return data, err
}

// cut makes a chunk of what the chunker has next, which is at at, and returns its length.
func (r *reuse) cut(at int64) (int64, error) {
	piece, err := r.in.chunker.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if len(piece) == 0 {
		return 0, fmt.Errorf("%d bytes announced, %d read: %w", r.size, at, io.ErrUnexpectedEOF)
	}
	data := bytes.Clone(piece) // the chunker uses it again
	r.sum.write(data, at)
	c := objects.NewChunk()
	c.ContentMAC, c.Length, c.Entropy = r.in.w.computeMAC(data), uint32(len(data)), entropy(data)
	r.add(*c, func() string { return mimetype.Detect(data).String() })
	r.in.w.add(resources.RT_CHUNK, c.ContentMAC, data, false)
	return int64(len(data)), nil
}

// add adds a chunk to the object, whose type the first one decides.
func (r *reuse) add(c objects.Chunk, contentType func() string) {
	if len(r.obj.Chunks) == 0 {
		r.obj.ContentType = contentType()
	}
	r.entropy += c.Entropy * float64(c.Length)
	r.obj.Chunks = append(r.obj.Chunks, c)
}

// edge reads a content from one place on, a little at a time.
type edge struct {
	rd      io.ReaderAt
	at, end int64
}

func (e *edge) Read(p []byte) (int, error) {
	if e.at == e.end {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), edgeRead, e.end-e.at)]
	n, err := e.rd.ReadAt(p, e.at)
	e.at += int64(n)
	if errors.Is(err, io.EOF) && n == len(p) {
		err = nil // the end is where the content says it is
	}
	return n, err
}

// contentSum is the MAC of a content that is being made of pieces in their order.
type contentSum struct {
	h       hash.Hash
	from    int64        // what is before has been hashed,
	of      objects.MAC  // and is the content with this MAC
	known   *objects.MAC // not nil: this is it
	release func()       // gives h back
}

// wants reports whether a piece that ends at end is needed.
func (s *contentSum) wants(end int64) bool { return end > s.from }

func (s *contentSum) write(data []byte, at int64) {
	if skip := s.from - at; skip > 0 {
		data = data[min(skip, int64(len(data))):]
	}
	if s.h != nil {
		s.h.Write(data)
	}
}

// finish returns the MAC, and has the state kept instead of the one that it began with: a
// file that grows all the time would drive out those of all others. When this commit fails,
// the next one reads the whole file.
func (s *contentSum) finish(keep *hashStates) (mac objects.MAC) {
	if s.known != nil {
		return *s.known
	}
	keep.byMAC.Remove(s.of)
	keep.finish(s.h, &mac)
	return mac
}

// hashStates keeps, for contents that were hashed lately, the state in which the hash can
// go on, so that what is appended is all that has to be read. Safe for concurrent use.
type hashStates struct {
	byMAC *lru.Cache[objects.MAC, *blake3.Hasher] // by the MAC of the content; never changed
}

func newHashStates() (*hashStates, error) {
	c, err := lru.New[objects.MAC, *blake3.Hasher](hashStateCacheSize)
	if err != nil {
		return nil, fmt.Errorf("hash states: %w", err)
	}
	return &hashStates{c}, nil
}

// finish gives sum the MAC of a content that h has hashed, and keeps the state of h. The
// store may hash with something that has no state to keep.
func (x *hashStates) finish(h hash.Hash, sum *objects.MAC) {
	b, ok := h.(*blake3.Hasher)
	if !ok {
		copy(sum[:], h.Sum(nil))
		return
	}
	state := b.Clone() // Sum moves what is in the hasher
	copy(sum[:], b.Sum(nil))
	x.byMAC.Add(*sum, state)
}

// resume returns a hasher that has hashed the content with the MAC mac, nil for none.
func (x *hashStates) resume(mac objects.MAC) hash.Hash {
	b, ok := x.byMAC.Get(mac)
	if !ok {
		return nil
	}
	return b.Clone()
}
