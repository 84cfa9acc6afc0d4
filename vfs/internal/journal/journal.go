// Package journal is an append-only, checksummed, optionally encrypted log of records in
// numbered segment files, the durable memory of one share between two commits. Doc.go
// describes the format and the rules of recovery.
package journal

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/snapgate/gateway/internal/disk"
)

// Position numbers a record: 1 for the first one ever, higher by one for each, never
// reused. The numbers of records that were lost by a failed write stay unused, so there
// are gaps.
type Position uint64

// MaxRecord is the longest payload in bytes: far above a record with 64 KiB of inline
// content and the longest list of extents.
const MaxRecord = 16 << 20

const (
	// defaultSegmentBytes bounds what recovery reads for one segment and what stays on
	// disk because of one record that is still needed.
	defaultSegmentBytes = 64 << 20
	// trimRollBytes is the size at which Trim ends the newest segment although it is not
	// full. Below, a new file and its three syncs cost more than the space is worth.
	trimRollBytes = 1 << 20
	// writeChunk bounds the buffer that a batch is encoded in, in bytes.
	writeChunk = 1 << 20
)

// The failpoints, in the order in which an Append or Trim passes them.
const (
	FailBeforeWrite   = "journal-before-write"   // nothing of the batch is written
	FailBeforeSync    = "journal-before-sync"    // the batch is written, not synced
	FailAfterSync     = "journal-after-sync"     // the batch is durable, nobody knows yet
	FailBeforeSegment = "journal-before-segment" // a new segment is written, not yet named
	FailAfterSegment  = "journal-after-segment"  // a new segment is named and durable
	FailBeforeTrim    = "journal-before-trim"    // a segment is about to be removed
	FailAfterTrim     = "journal-after-trim"     // a segment was removed
)

// The errors that callers test for.
var (
	ErrClosed   = errors.New("journal is closed")
	ErrTooLarge = errors.New("record is too large")
	ErrTrimmed  = errors.New("no such record")
	ErrKey      = errors.New("journal key does not fit")
	ErrVersion  = errors.New("journal was written by a newer version")
)

// DamageError says that a segment is damaged where a crash cannot have damaged it.
type DamageError struct {
	Path   string // of the segment
	Offset int64  // of the first damaged byte's frame
	Err    error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("journal segment %s is damaged at offset %d: %v", e.Path, e.Offset, e.Err)
}

// Unwrap returns the cause.
func (e *DamageError) Unwrap() error { return e.Err }

// Config configures a Journal.
type Config struct {
	Disk         disk.FS
	Dir          string            // holds the segments, mode 0700; made when missing
	Key          []byte            // 32 bytes that wrap the segments' random keys; nil: plain
	SegmentBytes int64             // a new segment starts beyond this; 0: 64 MiB
	Failpoint    func(name string) // may be nil
}

// Record is a record found at recovery.
type Record struct {
	Pos     Position
	Payload []byte
}

// Journal is an open journal. Append, Sync, Skip, Lost, Trim and Close are called by one
// goroutine; Read, Records, Last and Bytes may be called concurrently with everything.
type Journal struct {
	cfg Config

	// mu guards the rest. It is held for no I/O.
	mu     sync.RWMutex
	segs   []*segment // oldest first
	last   Position   // highest number given out
	closed bool

	// The rest belongs to the appending goroutine.

	active  disk.File // nil: the next Append starts a segment
	durable mark      // of the active segment: what was synced
	nextNum uint64    // of the next segment
	lost    []Position
	buf     []byte
}

// mark is a place in a segment.
type mark struct {
	end int64    // offset after the last frame
	pos Position // of the last record before end in the journal, 0 for none
	n   int      // records in the segment before end
}

// segment is what is known of a segment file.
type segment struct {
	header
	path string
	seal *sealer
	end  int64    // offset after the last frame that counts
	offs []uint32 // of the records, in units of frameAlign; record i has position base+i
	// Trim is about to remove the file: readers must not look for it any more, although it
	// may be there and count until its removal has succeeded.
	trimmed bool
}

// lastPos is the position of the newest record, or what is before the base when empty.
func (s *segment) lastPos() Position { return s.base + Position(len(s.offs)) - 1 }

// Open opens or creates the journal in cfg.Dir and verifies it: a torn tail of the newest
// segment is cut; damage anywhere else is an error (*DamageError) and nothing is touched.
// What it accepts of the newest segment is durable when it returns. Key files, locks and
// other names in Dir are left alone.
func Open(cfg Config) (*Journal, error) {
	if cfg.Disk == nil || cfg.Dir == "" {
		return nil, errors.New("journal: Disk and Dir are required")
	}
	if cfg.Key != nil && len(cfg.Key) != keyBytes {
		return nil, fmt.Errorf("journal: key has %d bytes, want %d", len(cfg.Key), keyBytes)
	}
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = defaultSegmentBytes
	}
	// Frame offsets are kept as 32-bit counts of frameAlign.
	cfg.SegmentBytes = min(cfg.SegmentBytes, 8<<30)
	if cfg.Failpoint == nil {
		cfg.Failpoint = func(string) {}
	}
	if err := disk.MkdirDurable(cfg.Disk, cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: make directory: %w", err)
	}
	j := &Journal{cfg: cfg, nextNum: 1}
	if err := j.recover(); err != nil {
		return nil, err
	}
	return j, nil
}

// Records yields every record still held, oldest first, up to the newest one at the time
// of the call. It stops after an error. Trimmed records may be among them as long as
// their segment is needed.
func (j *Journal) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		j.mu.RLock()
		segs := slices.Clone(j.segs)
		counts := make([]int, len(segs))
		for i, s := range segs {
			counts[i] = len(s.offs)
		}
		j.mu.RUnlock()
		for i, s := range segs {
			if !j.segmentRecords(s, counts[i], yield) {
				return
			}
		}
	}
}

func (j *Journal) segmentRecords(s *segment, n int, yield func(Record, error) bool) bool {
	if n == 0 {
		return true
	}
	f, err := j.cfg.Disk.OpenFile(s.path, os.O_RDONLY, 0)
	if err != nil {
		yield(Record{}, fmt.Errorf("journal: %w", err))
		return false
	}
	defer f.Close() // read only: nothing to lose
	for i := range n {
		pos := s.base + Position(i)
		p, err := j.readFrame(f, s, pos)
		if err != nil {
			yield(Record{}, err)
			return false
		}
		if !yield(Record{Pos: pos, Payload: p}, nil) {
			return false
		}
	}
	return true
}

// Last is the highest position given out so far, 0 when there never was one. The next
// Append's first record gets Last()+1.
func (j *Journal) Last() Position {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.last
}

// Skip makes sure that no record gets a position at or below pos, as after a snapshot was
// found to hold records that this journal no longer knows.
func (j *Journal) Skip(pos Position) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last = max(j.last, pos)
}

// Read returns the payload of a record. The error is ErrTrimmed when the journal does not
// hold it.
func (j *Journal) Read(pos Position) ([]byte, error) {
	s := j.find(pos)
	if s == nil {
		return nil, fmt.Errorf("journal: read record %d: %w", pos, ErrTrimmed)
	}
	f, err := j.cfg.Disk.OpenFile(s.path, os.O_RDONLY, 0)
	if err != nil {
		if j.find(pos) == nil { // trimmed in between
			err = ErrTrimmed
		}
		return nil, fmt.Errorf("journal: read record %d: %w", pos, err)
	}
	defer f.Close() // read only: nothing to lose
	return j.readFrame(f, s, pos)
}

// find returns the segment that holds a record, nil when there is none.
func (j *Journal) find(pos Position) *segment {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.closed {
		return nil
	}
	// The first segment that begins above pos; there may be several empty ones before it
	// that begin at the same position as the one that has the record.
	i, _ := slices.BinarySearchFunc(j.segs, pos, func(s *segment, p Position) int {
		if s.base > p {
			return 1
		}
		return -1
	})
	for i--; i >= 0; i-- {
		if s := j.segs[i]; len(s.offs) > 0 {
			if pos > s.lastPos() || s.trimmed {
				return nil
			}
			return s
		}
	}
	return nil
}

// readFrame reads and verifies one record of an open segment.
func (j *Journal) readFrame(f disk.File, s *segment, pos Position) ([]byte, error) {
	j.mu.RLock()
	i := int(pos - s.base)
	if i >= len(s.offs) {
		j.mu.RUnlock()
		return nil, fmt.Errorf("journal: read record %d: %w", pos, ErrTrimmed)
	}
	off, end := int64(s.offs[i])*frameAlign, s.end
	j.mu.RUnlock()
	fr, err := readFrameAt(f, s.seal, off, end)
	if err == nil && (fr.kind != kindRecord || fr.pos != pos) {
		err = errFrame
	}
	if errors.Is(err, errFrame) {
		return nil, &DamageError{Path: s.path, Offset: off, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("journal: read record %d: %w", pos, err)
	}
	return fr.payload, nil
}

// Bytes is what the segments occupy on disk.
func (j *Journal) Bytes() int64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	var n int64
	for _, s := range j.segs {
		n += s.end
	}
	return n
}

// Lost returns the positions of records that an earlier Append without sync had accepted
// and that failed before they were durable, and forgets them.
func (j *Journal) Lost() []Position {
	l := j.lost
	j.lost = nil
	return l
}

// segmentPath names a segment file.
func (j *Journal) segmentPath(num uint64) string {
	return filepath.Join(j.cfg.Dir, fmt.Sprintf("%016x%s", num, suffix))
}
