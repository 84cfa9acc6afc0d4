package snapshotter

import (
	"fmt"
	"io"
	"io/fs"
	"sort"
	"sync/atomic"
	"time"

	"github.com/PlakarKorp/kloset/objects"
)

const (
	// readAhead is how many chunks (of about 1 MiB) a sequential reader is kept ahead: decoding one
	// takes about nearChunk on one core, so this keeps two to four cores busy.
	readAhead = 4
	nearChunk = 10 * time.Millisecond
	// maxReadAhead is the same for a store that is far: at 50 ms a round trip, and three of them for
	// a chunk, it is 150 MiB a second.
	maxReadAhead = 24
)

// Reader reads the bytes of a stored file. Safe for concurrent use; it stays valid when
// its View is closed.
type Reader struct {
	cache   *chunkCache
	chunks  []objects.MAC
	offsets []int64 // where each chunk begins, and the size behind the last
	origin  origin  // as the View's
	// at is the highest chunk of the run that is being read in order, plus one; run is how
	// many chunks the run has had.
	at     atomic.Int64
	run    atomic.Int64
	closed atomic.Bool
}

func newReader(cache *chunkCache, obj *objects.Object) *Reader {
	r := &Reader{
		cache:   cache,
		chunks:  make([]objects.MAC, len(obj.Chunks)),
		offsets: make([]int64, len(obj.Chunks)+1),
	}
	for i, c := range obj.Chunks {
		r.chunks[i] = c.ContentMAC
		r.offsets[i+1] = r.offsets[i] + int64(c.Length)
	}
	return r
}

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if r.closed.Load() {
		return 0, fs.ErrClosed
	}
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	n := 0
	for n < len(p) {
		data, err := r.from(off + int64(n))
		if err != nil {
			return n, err
		}
		n += copy(p[n:], data)
	}
	return n, nil
}

// Slice returns up to n bytes at off, n being positive, without a copy: those that one chunk holds, and at least one
// of them. It is io.EOF at the end. They stay what they are, and must not be changed.
func (r *Reader) Slice(off int64, n int) ([]byte, error) {
	switch {
	case r.closed.Load():
		return nil, fs.ErrClosed
	case off < 0:
		return nil, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	data, err := r.from(off)
	return data[:min(len(data), n)], err
}

// from returns the bytes from off to the end of the chunk that has it, or io.EOF.
func (r *Reader) from(off int64) ([]byte, error) {
	// The last that begins at or before off.
	i := sort.Search(len(r.chunks), func(i int) bool { return r.offsets[i+1] > off })
	if i == len(r.chunks) {
		return nil, io.EOF
	}
	r.advance(i)
	data, err := r.cache.get(r.chunks[i])
	if err != nil {
		return nil, r.origin.error(err)
	}
	if want := r.offsets[i+1] - r.offsets[i]; int64(len(data)) != want {
		return nil, chunkSizeError(r.chunks[i], len(data), want)
	}
	return data[off-r.offsets[i]:], nil
}

// advance notes that chunk i is being read and reads ahead when that continues a run. The
// reads of one run may overtake each other: several requests are under way at once.
func (r *Reader) advance(i int) {
	at := r.at.Load()
	switch {
	case int64(i) == at: // the next one, or the first of the file
		if !r.at.CompareAndSwap(at, at+1) {
			return
		}
		// Little at first: many readers want the beginning of a file and no more.
		ahead := min(r.cache.depth(), 2*int(r.run.Add(1))-1)
		for k := i + 1; k <= i+ahead && k < len(r.chunks); k++ {
			r.cache.prefetch(r.chunks[k])
		}
	case int64(i) > at || int64(i) < at-2: // a jump; what follows it would be a run
		if r.at.CompareAndSwap(at, int64(i)+1) {
			r.run.Store(0)
		}
	}
}

// Size is the size of the file in bytes.
func (r *Reader) Size() int64 { return r.offsets[len(r.chunks)] }

// Close makes further reads fail.
func (r *Reader) Close() error {
	r.closed.Store(true)
	return nil
}

func chunkSizeError(mac objects.MAC, is int, want int64) error {
	return fmt.Errorf("chunk %x has %d bytes, its object says %d: %w", mac[:4], is, want, io.ErrUnexpectedEOF)
}
