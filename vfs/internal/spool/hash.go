package spool

import (
	"sync/atomic"

	"github.com/zeebo/blake3"
)

// The bounds of the copies of bytes that arrived before their turn. OpenSSH's client has 64
// requests of 255 KiB on their way, and while one waits for a processor or for the disk, all
// others may overtake it.
const (
	reorderBytes  = 16 << 20
	reorderPieces = 256 // and in so many pieces, as each new one is compared with all
	// reorderTotal bounds the copies of all files together: a client may keep thousands
	// of files open, each with its first bytes missing.
	reorderTotal = 64 << 20
)

// prefixHash hashes content while it arrives, in order but for a window. It is not
// safe for concurrent use.
type prefixHash struct {
	h       *blake3.Hasher // nil: given up
	done    int64          // bytes hashed
	early   map[int64][]byte
	waiting int           // bytes in early
	total   *atomic.Int64 // bytes in early of all files
	closed  bool          // nothing comes any more but what is in flight
}

func newPrefixHash(total *atomic.Int64) *prefixHash {
	return &prefixHash{h: blake3.New(), total: total}
}

// write takes a range that is not written again; for a range that is, and for one too far
// ahead, it gives up.
func (x *prefixHash) write(p []byte, off int64) {
	switch {
	case x.h == nil || len(p) == 0:
	case off < x.done:
		x.giveUp()
	case off > x.done:
		if x.closed || x.waiting+len(p) > reorderBytes || len(x.early) == reorderPieces || x.overlaps(off, int64(len(p))) {
			x.giveUp()
			return
		}
		x.keep(len(p))
		if x.total.Load() > reorderTotal {
			x.giveUp()
			return
		}
		if x.early == nil {
			x.early = make(map[int64][]byte)
		}
		x.early[off] = append([]byte(nil), p...)
	default:
		if x.overlaps(off, int64(len(p))) {
			x.giveUp()
			return
		}
		_, _ = x.h.Write(p) // never fails
		x.done += int64(len(p))
		x.drain()
	}
}

// drain hashes what was waiting for its turn.
func (x *prefixHash) drain() {
	for {
		p, ok := x.early[x.done]
		if !ok {
			return
		}
		delete(x.early, x.done)
		x.keep(-len(p))
		_, _ = x.h.Write(p) // never fails
		x.done += int64(len(p))
	}
}

// overlaps reports whether a range meets a waiting one: then it is written twice.
func (x *prefixHash) overlaps(off, n int64) bool {
	for o, p := range x.early {
		if o < off+n && off < o+int64(len(p)) {
			return true
		}
	}
	return false
}

// truncate takes a new size of the content.
func (x *prefixHash) truncate(size int64) {
	if size == 0 {
		x.giveUp()
		x.h = blake3.New()
		return
	}
	if x.h == nil {
		return
	}
	if size < x.done {
		x.giveUp()
		return
	}
	for o, p := range x.early {
		if keep := size - o; keep < int64(len(p)) {
			x.keep(-len(p))
			delete(x.early, o)
			if keep > 0 {
				x.early[o] = p[:keep]
				x.keep(int(keep))
			}
		}
	}
}

// keep counts n more bytes (fewer when negative) in early.
func (x *prefixHash) keep(n int) {
	x.waiting += n
	x.total.Add(int64(n))
}

// giveUp forgets everything: the hash is not known any more.
func (x *prefixHash) giveUp() {
	x.keep(-x.waiting)
	*x = prefixHash{total: x.total}
}

// close forgets what waits for its turn, which will not come.
func (x *prefixHash) close() {
	x.closed = true
	if x.waiting > 0 {
		x.giveUp()
	}
}

// sum returns the hash when exactly size bytes were hashed.
func (x *prefixHash) sum(size int64) (sum [32]byte, ok bool) {
	if x.h == nil || x.done != size {
		return sum, false
	}
	x.h.Sum(sum[:0])
	return sum, true
}
