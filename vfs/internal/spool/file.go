package spool

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
)

// MaxSize bounds offsets, so that headers and padding never overflow: 4 EiB.
const MaxSize = 1 << 62

// File is an upload being written. All methods are safe for concurrent use; WriteAt never
// blocks for another offset (pkg/sftp's workers would deadlock). Where two concurrent
// writes overlap, either wins; a read of bytes that are being written is undefined.
type File struct {
	s  *Spool
	id atomic.Uint64 // 0 while in memory

	// io excludes the change of a part of a sector (held for writing, with its disk I/O)
	// from everything else that touches sectors (held for reading).
	io sync.RWMutex

	mu     sync.Mutex // guards the rest but hash; held for I/O only while leaving memory
	size   int64
	ext    extents
	held   int64  // bytes in ext
	mem    []byte // the content while in memory; gaps are zero
	disk   *body  // nil while in memory
	err    error  // after a failed write or sync: what every later one returns
	lost   bool   // a sync has failed
	closed bool
	memory int64 // what counts in Spool.Bytes for memory

	hashMu sync.Mutex
	hash   *prefixHash  // nil while in memory
	cuts   atomic.Int64 // how often the spool file was cut; changed with hashMu held

	// flush is held while the spool file is synced: the system tells one caller only that a flush has failed.
	flush sync.Mutex
}

// WriteAt writes at any offset; p is not kept. Gaps read as zeros and are not extents. A
// failure poisons the file: every later WriteAt and Sync returns it. ErrFragmented, which
// refuses a write that would make too many gaps, does not.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > MaxSize-int64(len(p)) {
		return 0, fmt.Errorf("spool: write: %w", ErrRange)
	}
	cuts := f.cuts.Load()
	inMemory, err := f.writeMemory(p, off)
	if err != nil {
		return 0, err
	}
	if inMemory || len(p) == 0 {
		return len(p), nil
	}
	if err := f.writeDisk(p, off); err != nil {
		return 0, f.poison(err)
	}
	f.hashMu.Lock()
	defer f.hashMu.Unlock()
	if f.cuts.Load() != cuts {
		f.hash.giveUp() // whether the cut came before or after these bytes is not known
	} else {
		f.hash.write(p, off)
	}
	return len(p), nil
}

// writeMemory takes a write that fits into memory and moves the file to disk for one that
// does not.
func (f *File) writeMemory(p []byte, off int64) (done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return false, err
	}
	if f.ext.full(off, int64(len(p))) {
		return false, fmt.Errorf("spool: write: %w", ErrFragmented)
	}
	end := off + int64(len(p))
	if f.disk == nil && max(end, f.size) > int64(f.s.cfg.InlineBytes) {
		if err := f.spill(); err != nil {
			f.err = err
			return false, err
		}
	}
	if f.disk != nil {
		return false, nil
	}
	if len(p) == 0 {
		return true, nil
	}
	if n := int64(len(f.mem)); n < end {
		f.mem = slices.Grow(f.mem, int(end-n))[:end]
		clear(f.mem[n:])
		f.remember()
	}
	copy(f.mem[off:], p)
	f.add(off, len(p))
	return true, nil
}

// usable returns why the file cannot be written. The caller holds mu.
func (f *File) usable() error {
	if f.closed {
		return fmt.Errorf("spool: %w", ErrClosed)
	}
	return f.err
}

// spill moves the content from memory to a spool file. The caller holds mu.
func (f *File) spill() error {
	b, err := f.s.take()
	if err != nil {
		return err
	}
	f.disk = b
	f.id.Store(uint64(b.id))
	f.hashMu.Lock() // for Hashed
	defer f.hashMu.Unlock()
	f.hash = newPrefixHash(&f.s.early)
	if len(f.mem) > 0 {
		content := f.mem
		if b.c != nil {
			content = make([]byte, (len(f.mem)+sectorBytes-1)&^(sectorBytes-1))
			copy(content, f.mem)
		}
		if err := b.writeSectors(content, 0); err != nil {
			return fmt.Errorf("spool: write: %w", err)
		}
		for _, e := range f.ext {
			f.hash.write(f.mem[e.Off:e.End()], e.Off)
		}
	}
	f.mem = nil
	f.remember()
	f.account()
	return nil
}

// writeDisk writes to the spool file, one part sector after the other.
func (f *File) writeDisk(p []byte, off int64) error {
	if f.disk.c != nil {
		if in := int(off % sectorBytes); in != 0 || len(p) < sectorBytes {
			n := min(len(p), sectorBytes-in)
			if err := f.writePart(p[:n], off); err != nil {
				return err
			}
			p, off = p[n:], off+int64(n)
		}
		whole := len(p) &^ (sectorBytes - 1)
		if whole < len(p) {
			if err := f.writePart(p[whole:], off+int64(whole)); err != nil {
				return err
			}
			p = p[:whole]
		}
	}
	if len(p) == 0 {
		return nil
	}
	f.io.RLock()
	defer f.io.RUnlock()
	if err := f.disk.writeSectors(p, off); err != nil {
		return err
	}
	f.written(off, len(p))
	return nil
}

// writePart changes part of a sector: nobody else may touch it between the read and the
// record of what is valid.
func (f *File) writePart(p []byte, off int64) error {
	f.io.Lock()
	defer f.io.Unlock()
	f.mu.Lock()
	valid := f.ext.within(off&^(sectorBytes-1), sectorBytes)
	f.mu.Unlock()
	if err := f.disk.modifySector(p, off, valid); err != nil {
		return err
	}
	f.written(off, len(p))
	return nil
}

// written records a range. The caller holds io.
func (f *File) written(off int64, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(off, n)
	f.account()
}

// add records a range. The caller holds mu.
func (f *File) add(off int64, n int) {
	var grown int64
	f.ext, grown = f.ext.add(off, int64(n))
	f.held += grown
	f.size = max(f.size, off+int64(n))
}

// poison remembers the first failure and returns it.
func (f *File) poison(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = fmt.Errorf("spool: write: %w", err)
	}
	return f.err
}

// account tells the spool what the file occupies on disk. The caller holds mu.
func (f *File) account() {
	if f.disk != nil {
		// A range may touch a block at each end that it does not fill.
		f.s.resize(f.disk.id, headerBytes+f.held+int64(len(f.ext))*2*sectorBytes)
	}
}

// remember tells the spool what the file occupies in memory. The caller holds mu.
func (f *File) remember() {
	n := int64(cap(f.mem))
	f.s.grow(n - f.memory)
	f.memory = n
}

// ReadAt reads what was written; gaps below Size read as zeros. At Size it is io.EOF.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("spool: read: %w", ErrRange)
	}
	f.io.RLock()
	defer f.io.RUnlock()
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return 0, fmt.Errorf("spool: read: %w", ErrClosed)
	}
	var eof error
	if rest := max(0, f.size-off); int64(len(p)) > rest {
		p, eof = p[:rest], io.EOF
	}
	if f.disk == nil {
		defer f.mu.Unlock()
		n := 0
		if off < int64(len(f.mem)) {
			n = copy(p, f.mem[off:])
		}
		clear(p[n:])
		return len(p), eof
	}
	valid := f.ext.within(off, int64(len(p)))
	f.mu.Unlock()
	if err := f.disk.readMasked(p, off, valid); err != nil {
		return 0, fmt.Errorf("spool: read: %w", err)
	}
	return len(p), eof
}

// Truncate sets the size; growth makes a gap.
func (f *File) Truncate(size int64) error {
	if size < 0 || size > MaxSize {
		return fmt.Errorf("spool: truncate: %w", ErrRange)
	}
	f.io.Lock()
	defer f.io.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return err
	}
	if size < f.size {
		f.ext = f.ext.cut(size)
		f.held = f.ext.bytes()
		if f.disk == nil {
			f.mem = f.mem[:min(size, int64(len(f.mem)))]
		} else if err := f.cutDisk(size); err != nil {
			f.err = fmt.Errorf("spool: truncate: %w", err)
			return f.err
		}
	}
	f.size = size
	return nil
}

// cutDisk cuts the spool file. The caller holds io and mu: I/O under mu is right here, as
// io keeps everybody out anyway.
func (f *File) cutDisk(size int64) error {
	f.hashMu.Lock()
	f.cuts.Add(1)
	f.hash.truncate(size)
	f.hashMu.Unlock()
	end := size
	if f.disk.c != nil {
		end = (size + sectorBytes - 1) &^ (sectorBytes - 1)
	}
	have, err := f.disk.file.Size()
	if err == nil && have > headerBytes+end {
		err = f.disk.file.Truncate(headerBytes + end)
	}
	f.account()
	return err
}

// Size is the highest end of a write or Truncate.
func (f *File) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

// Extents lists the written ranges, merged, in order.
func (f *File) Extents() []Extent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ext)
}

// Prefix is the length of the contiguous range from 0 that was written.
func (f *File) Prefix() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ext) == 0 || f.ext[0].Off > 0 {
		return 0
	}
	return f.ext[0].Len
}

// Inline returns the whole content when it is still in memory only (ID is 0 then). The
// caller must not change data; a later write to the file may.
func (f *File) Inline() (data []byte, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.disk != nil || f.closed || f.size > int64(f.s.cfg.InlineBytes) {
		return nil, false
	}
	if n := int64(len(f.mem)); n < f.size { // a gap at the end
		f.mem = slices.Grow(f.mem, int(f.size-n))[:f.size]
		clear(f.mem[n:])
		f.remember()
	}
	return f.mem[:f.size:f.size], true
}

// Sync makes the content durable in its spool file (moving it out of memory when force
// is set); for an inline file without force it does nothing. Writes that have not
// returned yet are not covered.
func (f *File) Sync(force bool) error {
	synced, err := f.sync(force)
	if synced {
		f.s.cfg.Failpoint(FailAfterSync)
	}
	return err
}

// sync is Sync. It reports whether there was something to sync.
func (f *File) sync(force bool) (bool, error) {
	f.flush.Lock()
	defer f.flush.Unlock()
	f.mu.Lock()
	err := f.usable()
	if err == nil && f.disk == nil && (force || f.size > int64(f.s.cfg.InlineBytes)) {
		if err = f.spill(); err != nil {
			f.err = err
		}
	}
	b := f.disk
	f.mu.Unlock()
	if err != nil || b == nil {
		return false, err
	}
	f.s.cfg.Failpoint(FailBeforeSync)
	if err := b.file.Sync(); err != nil {
		f.mu.Lock()
		f.lost = true
		f.mu.Unlock()
		return false, f.poison(err)
	}
	return true, nil
}

// Lost reports whether a Sync has failed: what was written since the last one that has not may be gone
// without that a later one, after a Reopen, would tell.
func (f *File) Lost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

// ID is the number of the spool file, 0 while the content is in memory only.
func (f *File) ID() ID { return ID(f.id.Load()) }

// Hash returns the BLAKE3-256 of the whole content when it is known: it is computed while
// bytes arrive, in order but for a reorder window (16 MiB, 64 MiB in all files); ok is
// false for what was written far out of order, written again, or cut below what was hashed.
// A file that is cut to nothing starts afresh.
func (f *File) Hash() (sum [32]byte, ok bool) {
	f.mu.Lock()
	size, inMemory := f.size, f.disk == nil
	if inMemory {
		defer f.mu.Unlock()
		if f.closed || int64(len(f.mem)) < size {
			return sum, false
		}
		return blake3.Sum256(f.mem), true
	}
	f.mu.Unlock()
	f.hashMu.Lock()
	defer f.hashMu.Unlock()
	return f.hash.sum(size)
}

// Hashed returns how many bytes from the start are hashed, which are in the spool file and
// will not change as long as ok stays true and cuts stays the same. It is false for a file
// whose hash will not be known, and for one in memory.
func (f *File) Hashed() (n, cuts int64, ok bool) {
	if f.ID() == 0 {
		return 0, 0, false
	}
	f.hashMu.Lock()
	defer f.hashMu.Unlock()
	if f.hash == nil || f.hash.h == nil {
		return 0, 0, false
	}
	return f.hash.done, f.cuts.Load(), true
}

// Close releases the descriptor and keeps the spool file.
func (f *File) Close() error {
	f.io.Lock()
	defer f.io.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	f.mem = nil
	f.remember()
	if f.disk == nil {
		return nil
	}
	f.hashMu.Lock()
	f.hash.close()
	f.hashMu.Unlock()
	if err := f.disk.file.Close(); err != nil {
		return fmt.Errorf("spool: close: %w", err)
	}
	return nil
}

// Discard closes and removes.
func (f *File) Discard() error {
	err := f.Close()
	if id := f.ID(); id != 0 {
		if rerr := f.s.Remove(id); err == nil {
			err = rerr
		}
	}
	return err
}

// Reader reads a spool file at any offset. Safe for concurrent use.
type Reader struct {
	body *body
	size int64
	ext  extents
}

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("spool: read: %w", ErrRange)
	}
	var eof error
	if rest := max(0, r.size-off); int64(len(p)) > rest {
		p, eof = p[:rest], io.EOF
	}
	if err := r.body.readMasked(p, off, r.ext.within(off, int64(len(p)))); err != nil {
		return 0, fmt.Errorf("spool: read: %w", err)
	}
	return len(p), eof
}

// Close implements io.Closer.
func (r *Reader) Close() error { return r.body.file.Close() }
