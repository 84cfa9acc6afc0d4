// Package spool holds the bytes of uploads from their first WRITE until a commit has put
// them into the store: small ones in memory (they later ride in the journal), larger ones
// in numbered files, encrypted by sector.
//
// Locks, in the order in which they are taken: File.io, File.mu, File.hashMu, Spool.mu.
package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/snapgate/gateway/internal/disk"
)

// ID numbers a spool file, from 1; never reused.
type ID uint64

const (
	suffix = ".spool"
	// poolFiles is how many empty files with durable names are kept ready, so that no
	// upload waits for a directory to be synced. They are made in one go.
	poolFiles = 8
)

// The failpoints.
const (
	FailBeforeSync = "spool-before-sync" // the content is written, not synced
	FailAfterSync  = "spool-after-sync"  // the content is durable, nobody knows yet
)

// The errors that callers test for, besides those of the disk.
var (
	ErrClosed = errors.New("spool file is closed")
	ErrRange  = errors.New("offset or size is negative or too large")
)

// Config configures a Spool.
type Config struct {
	Disk        disk.FS
	Dir         string            // mode 0700; made when missing
	Key         []byte            // 32 bytes that wrap the files' random keys; nil: plain
	InlineBytes int               // a file up to this stays in memory; beyond, it moves to a spool file
	After       ID                // no new file gets a number at or below this (the highest known to the journal)
	Failpoint   func(name string) // may be nil
}

// Spool is a directory of spool files. Safe for concurrent use.
type Spool struct {
	cfg   Config
	bufs  sync.Pool    // of *[chunkBytes]byte, for encryption
	early atomic.Int64 // bytes that wait to be hashed, in all files

	refill chan struct{} // asks the refiller for files; capacity 1
	stop   chan struct{} // closed by Close
	done   chan struct{} // closed by the refiller when it has ended

	mu     sync.Mutex // guards the rest; held for no I/O
	next   ID
	found  map[ID]bool  // there at Open, until Keep
	sizes  map[ID]int64 // what each file counts in Bytes
	total  int64        // of sizes and of memory
	ready  []*body      // empty files with durable names
	stuck  []ID         // could not be removed yet
	closed bool
}

// Open opens the spool directory. Files are kept until Keep is called.
func Open(cfg Config) (*Spool, error) {
	if cfg.Disk == nil || cfg.Dir == "" {
		return nil, errors.New("spool: Disk and Dir are required")
	}
	if cfg.Key != nil && len(cfg.Key) != keyBytes {
		return nil, fmt.Errorf("spool: key has %d bytes, want %d", len(cfg.Key), keyBytes)
	}
	if cfg.InlineBytes < 0 {
		return nil, fmt.Errorf("spool: inline bytes %d are negative", cfg.InlineBytes)
	}
	if cfg.Failpoint == nil {
		cfg.Failpoint = func(string) {}
	}
	if err := disk.MkdirDurable(cfg.Disk, cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: make directory: %w", err)
	}
	s := &Spool{
		cfg:    cfg,
		bufs:   sync.Pool{New: func() any { return new([chunkBytes]byte) }},
		refill: make(chan struct{}, 1),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		next:   cfg.After + 1,
		found:  make(map[ID]bool),
		sizes:  make(map[ID]int64),
	}
	if err := s.list(); err != nil {
		return nil, err
	}
	go s.refiller()
	return s, nil
}

// list takes stock of the files in the directory. Other names are left alone.
func (s *Spool) list() error {
	ents, err := s.cfg.Disk.ReadDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	for _, e := range ents {
		base, ok := strings.CutSuffix(e.Name(), suffix)
		n, err := strconv.ParseUint(base, 16, 64)
		if !ok || err != nil || len(base) != 16 || n == 0 {
			continue
		}
		id := ID(n)
		var size int64
		if fi, err := e.Info(); err == nil {
			size = fi.Size()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("spool: %w", err)
		}
		s.found[id] = true
		s.sizes[id] = size
		s.total += size
		s.next = max(s.next, id+1)
	}
	return nil
}

// Keep removes every file that was in the directory at Open and whose ID is not in live
// (recovery) and returns how many of them had content. Calling it again does nothing.
func (s *Spool) Keep(live map[ID]bool) (int, error) {
	s.mu.Lock()
	var gone []ID
	for id := range s.found {
		if !live[id] {
			gone = append(gone, id)
		}
	}
	clear(s.found)
	for id := range live {
		s.next = max(s.next, id+1)
	}
	s.mu.Unlock()
	n := 0
	var errs []error
	for _, id := range gone {
		s.mu.Lock()
		size := s.sizes[id]
		s.mu.Unlock()
		if err := s.Remove(id); err != nil {
			errs = append(errs, err)
		} else if size > headerBytes { // an empty one was only kept ready
			n++
		}
	}
	return n, errors.Join(errs...)
}

// Create makes a new, empty file; it costs nothing on disk until it outgrows InlineBytes.
func (s *Spool) Create() *File { return &File{s: s} }

// Reopen opens a spool file for resuming: extents say which ranges are valid, what lies
// outside them is forgotten. Its hash is not known. The error is ErrDamaged when the file
// is shorter than the extents.
func (s *Spool) Reopen(id ID, size int64, extents []Extent) (*File, error) {
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("spool: reopen %d: %w", id, ErrRange)
	}
	b, err := s.open(id, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	ext := normal(extents, size)
	if err := b.holds(ext); err != nil {
		return nil, errors.Join(fmt.Errorf("spool: %s: %w", s.path(id), err), b.file.Close())
	}
	f := &File{s: s, disk: b, size: size, ext: ext, held: ext.bytes(), hash: &prefixHash{total: &s.early}}
	f.id.Store(uint64(id))
	f.account()
	return f, nil
}

// Reader opens a spool file for reading only. The extents, when given, say which ranges
// are valid: the others read as zeros. Without them an encrypted file must be read where
// it was written only.
func (s *Spool) Reader(id ID, size int64, extents ...Extent) (*Reader, error) {
	b, err := s.open(id, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if len(extents) == 0 {
		return &Reader{body: b, size: size, ext: normal([]Extent{{Off: 0, Len: size}}, size)}, nil
	}
	ext := normal(extents, size)
	if err := b.holds(ext); err != nil {
		return nil, errors.Join(fmt.Errorf("spool: %s: %w", s.path(id), err), b.file.Close())
	}
	return &Reader{body: b, size: size, ext: ext}, nil
}

// Follow opens a spool file for reading while it is being written. What is read must have
// been written; of an encrypted file, the sector (SectorBytes) that the last byte written is
// in must not be read, unless nothing is written any more.
func (s *Spool) Follow(id ID) (*Reader, error) {
	b, err := s.open(id, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &Reader{body: b, size: MaxSize, ext: extents{{Off: 0, Len: MaxSize}}}, nil
}

func (s *Spool) open(id ID, flag int) (*body, error) {
	f, err := s.cfg.Disk.OpenFile(s.path(id), flag, 0)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	c, err := readHeader(f, id, s.cfg.Key)
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("spool: %s: %w", s.path(id), err)
	}
	return &body{id: id, file: f, c: c, bufs: &s.bufs}, nil
}

// Remove removes a spool file; open Files and Readers keep working until they are closed.
// The removal is not durable by itself: after a power loss Keep removes the file again.
// A file that cannot be removed counts until a later Remove, of any file, has worked: then
// it is removed as well.
func (s *Spool) Remove(id ID) error {
	if err := s.remove(id); err != nil {
		s.mu.Lock()
		s.stuck = append(s.stuck, id)
		s.mu.Unlock()
		return err
	}
	s.mu.Lock()
	stuck := s.stuck
	s.stuck = nil
	s.mu.Unlock()
	for i, id := range stuck {
		if s.remove(id) != nil { // told when it was first tried
			s.mu.Lock()
			s.stuck = append(s.stuck, stuck[i:]...)
			s.mu.Unlock()
			break
		}
	}
	return nil
}

func (s *Spool) remove(id ID) error {
	if err := s.cfg.Disk.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	s.forget(id)
	return nil
}

// forget stops counting a file.
func (s *Spool) forget(id ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total -= s.sizes[id]
	delete(s.sizes, id)
	delete(s.found, id)
}

// Bytes is what the files occupy (upper bound, including memory buffers).
func (s *Spool) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Close stops the background work and removes the empty files that were kept ready. Open
// Files stay usable, but none of them can leave memory any more.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	<-s.done
	s.mu.Lock()
	ready := s.ready
	s.ready = nil
	s.mu.Unlock()
	var errs []error
	for _, b := range ready {
		errs = append(errs, b.file.Close(), s.Remove(b.id))
	}
	return errors.Join(errs...)
}

// take returns an empty file whose name is durable.
func (s *Spool) take() (*body, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, fmt.Errorf("spool: %w", ErrClosed)
	}
	var b *body
	if n := len(s.ready); n > 0 {
		b, s.ready = s.ready[n-1], s.ready[:n-1]
	}
	low := len(s.ready) <= poolFiles/2
	s.mu.Unlock()
	if low {
		// Last, so that the refiller does not compete with this one for the disk.
		defer func() {
			select {
			case s.refill <- struct{}{}:
			default: // asked already
			}
		}()
	}
	if b != nil {
		return b, nil
	}
	b, err := s.makeFile()
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Disk.SyncDir(s.cfg.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("spool: %w", err), b.file.Close(), s.Remove(b.id))
	}
	return b, nil
}

// refiller makes files ready when asked to. A failure is not reported: who needs a file
// next makes it, and meets the same error.
func (s *Spool) refiller() {
	defer close(s.done)
	for {
		select {
		case <-s.stop:
			return
		case <-s.refill:
		}
		s.mu.Lock()
		want := poolFiles - len(s.ready)
		s.mu.Unlock()
		var made []*body
		for range want {
			b, err := s.makeFile()
			if err != nil {
				break
			}
			made = append(made, b)
		}
		if len(made) == 0 {
			continue
		}
		if err := s.cfg.Disk.SyncDir(s.cfg.Dir); err != nil {
			for _, b := range made {
				_, _ = b.file.Close(), s.Remove(b.id) // empty; Keep removes what stays
			}
			continue
		}
		s.mu.Lock()
		s.ready = append(s.ready, made...)
		s.mu.Unlock()
	}
}

// makeFile makes an empty file. Its name is not durable yet; its header becomes so with
// the content, by the first File.Sync.
func (s *Spool) makeFile() (*body, error) {
	s.mu.Lock()
	id := s.next
	s.next++
	s.sizes[id] = headerBytes
	s.total += headerBytes
	s.mu.Unlock()
	head, c, err := newHeader(id, s.cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	f, err := s.cfg.Disk.OpenFile(s.path(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		s.forget(id) // there is nothing to remove
		return nil, fmt.Errorf("spool: %w", err)
	}
	b := &body{id: id, file: f, c: c, bufs: &s.bufs}
	if err := b.writeHeader(head); err != nil {
		return nil, errors.Join(fmt.Errorf("spool: %w", err), f.Close(), s.Remove(id))
	}
	return b, nil
}

// resize sets what a file counts in Bytes.
func (s *Spool) resize(id ID, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.sizes[id]; ok { // not removed meanwhile
		s.total += size - old
		s.sizes[id] = size
	}
}

// grow adds to Bytes what a file holds in memory.
func (s *Spool) grow(n int64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total += n
}

func (s *Spool) path(id ID) string {
	return filepath.Join(s.cfg.Dir, fmt.Sprintf("%016x%s", uint64(id), suffix))
}
