package journal

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/snapgate/gateway/internal/disk"
)

// recover reads and verifies all segments. It changes nothing before all are found good.
func (j *Journal) recover() error {
	nums, leftovers, err := j.list()
	if err != nil {
		return err
	}
	for _, n := range nums {
		s, err := j.openHeader(n)
		if err != nil {
			return err
		}
		j.segs = append(j.segs, s)
	}
	var tail tail
	for i, s := range j.segs {
		if i+1 < len(j.segs) {
			err = j.verifyOld(s, j.segs[i+1])
		} else {
			tail, err = j.verifyNewest(s)
		}
		if err != nil {
			return err
		}
	}
	if n := len(j.segs); n > 0 {
		s := j.segs[n-1]
		j.last = max(s.lastPos(), tail.seen)
		if err := j.settle(s, tail); err != nil {
			return err
		}
	}
	for _, p := range leftovers {
		if err := j.cfg.Disk.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("journal: remove leftover: %w", err)
		}
	}
	return nil
}

// list returns the numbers of the segments, in order, and the paths of unfinished ones.
func (j *Journal) list() (nums []uint64, leftovers []string, err error) {
	ents, err := j.cfg.Disk.ReadDir(j.cfg.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("journal: %w", err)
	}
	for _, e := range ents {
		name, unfinished := e.Name(), false
		base, ok := strings.CutSuffix(name, suffix)
		if !ok {
			base, unfinished = strings.CutSuffix(name, tmpSuffix)
		}
		n, err := strconv.ParseUint(base, 16, 64)
		if err != nil || len(base) != 16 || n == 0 || !(ok || unfinished) {
			continue
		}
		j.nextNum = max(j.nextNum, n+1)
		if unfinished {
			leftovers = append(leftovers, filepath.Join(j.cfg.Dir, name))
		} else {
			nums = append(nums, n)
		}
	}
	slices.SortFunc(nums, cmp.Compare[uint64])
	return nums, leftovers, nil
}

func (j *Journal) openHeader(num uint64) (*segment, error) {
	path := j.segmentPath(num)
	f, err := j.cfg.Disk.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close() // read only: nothing to lose
	b := make([]byte, headerBytes)
	if err := readFull(f, b, 0); err != nil && !errors.Is(err, errFrame) {
		return nil, fmt.Errorf("journal: read %s: %w", path, err)
	}
	h, seal, err := parseHeader(b, j.cfg.Key)
	switch {
	case errors.Is(err, ErrKey), errors.Is(err, ErrVersion):
		return nil, fmt.Errorf("journal: %s: %w", path, err)
	case err == nil && h.num != num:
		err = fmt.Errorf("is segment %d by its header", h.num)
		fallthrough
	case err != nil:
		return nil, &DamageError{Path: path, Err: err}
	}
	return &segment{header: h, path: path, seal: seal, end: headerBytes}, nil
}

// verifyOld indexes the records of a segment that has a successor: those up to the
// successor's prevEnd count and must be there.
func (j *Journal) verifyOld(s, next *segment) error {
	if next.prevEnd < s.prevEnd || next.base < s.base {
		return &DamageError{Path: next.path, Err: errors.New("positions before those of an earlier segment")}
	}
	sc, err := j.scan(s)
	if err != nil {
		return err
	}
	defer sc.close()
	for pos := s.base; pos <= next.prevEnd; pos++ {
		f, err := sc.next()
		if err == nil && (f.kind != kindRecord || f.pos != pos) {
			err = fmt.Errorf("record %d is missing: %w", pos, errFrame)
		}
		if err != nil {
			return sc.failure(err)
		}
		s.offs = append(s.offs, uint32((sc.off-f.size)/frameAlign))
		s.end = sc.off
	}
	return nil
}

// tail is what recovery found at the end of the newest segment.
type tail struct {
	synced int64    // the segment is known to be durable up to here
	seen   Position // highest position seen, in cut records, too
}

// verifyNewest indexes the complete batches of the newest segment and decides whether
// what follows is a torn tail (see doc.go).
func (j *Journal) verifyNewest(s *segment) (tail, error) {
	sc, err := j.scan(s)
	if err != nil {
		return tail{}, err
	}
	defer sc.close()
	t := tail{synced: headerBytes}
	var batch []uint32
	for {
		start := sc.off
		f, err := sc.next()
		want := s.base + Position(len(s.offs)+len(batch))
		if err == nil && f.kind == kindEnd && len(batch) == 0 {
			// A clean close: everything before is durable, nothing follows.
			t.synced = s.end
			return t, nil
		}
		if err == nil && (f.kind != kindRecord || f.pos != want) {
			err = errFrame
		}
		if errors.Is(err, errFrame) {
			return t, j.judgeTail(sc, s, start, &t)
		}
		if err != nil {
			return tail{}, sc.failure(err)
		}
		t.seen = max(t.seen, f.pos)
		t.synced = max(t.synced, min(f.synced, s.end))
		batch = append(batch, uint32(start/frameAlign))
		if f.rest == 0 {
			s.offs = append(s.offs, batch...)
			s.end = sc.off
			batch = batch[:0]
		}
	}
}

// judgeTail searches what follows the bad frame at bad for a frame that says that the
// segment had been durable beyond its last complete batch.
func (j *Journal) judgeTail(sc *scanner, s *segment, bad int64, t *tail) error {
	const window = 1 << 20
	buf := make([]byte, window)
	for off := bad; sc.size-off >= frameHeader; {
		n, err := sc.file.ReadAt(buf[:min(window, sc.size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return sc.failure(err)
		}
		if n < frameHeader {
			return nil
		}
		i := 0
		for ; i+frameHeader <= n; i += frameAlign {
			if binary.LittleEndian.Uint32(buf[i:]) != frameMagic {
				continue
			}
			// The header's checksum is enough: what an intact header says was true when
			// it was written, whatever became of the payload.
			f, _, ok := s.seal.parse(buf[i:n])
			if !ok {
				continue
			}
			if f.synced > s.end {
				return &DamageError{Path: s.path, Offset: bad, Err: fmt.Errorf(
					"%w, but offset %d was synced before", errFrame, f.synced)}
			}
			t.seen = max(t.seen, f.pos)
		}
		off += int64(i)
	}
	return nil
}

// settle makes durable what was accepted of the newest segment. After a failed sync the
// page cache may hold bytes that the disk does not, and hold them for clean; so they are
// written again before the sync.
func (j *Journal) settle(s *segment, t tail) (err error) {
	if t.synced >= s.end {
		return nil
	}
	f, err := j.cfg.Disk.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("journal: %w", cerr)
		}
	}()
	buf := make([]byte, min(writeChunk, s.end-t.synced))
	for off := t.synced; off < s.end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), s.end-off)]
		if err := readFull(f, buf, off); err != nil {
			return fmt.Errorf("journal: read %s: %w", s.path, err)
		}
		if n, err := f.WriteAt(buf, off); err != nil || n < len(buf) {
			return fmt.Errorf("journal: settle %s: %w", s.path, errors.Join(err, shortWrite(n, len(buf))))
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("journal: settle: %w", err)
	}
	return nil
}

// scanner reads the frames of a segment in order.
type scanner struct {
	file disk.File
	seg  *segment
	r    *bufio.Reader
	off  int64 // of the next frame
	size int64
	body []byte
}

func (j *Journal) scan(s *segment) (*scanner, error) {
	f, err := j.cfg.Disk.OpenFile(s.path, os.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	size, err := f.Size()
	if err != nil {
		_ = f.Close() // read only
		return nil, fmt.Errorf("journal: %w", err)
	}
	r := io.NewSectionReader(f, headerBytes, max(0, size-headerBytes))
	return &scanner{file: f, seg: s, r: bufio.NewReaderSize(r, 256<<10), off: headerBytes, size: size}, nil
}

func (sc *scanner) close() { _ = sc.file.Close() } // read only: nothing to lose

// next returns the next frame, without its payload, and advances. The error is errFrame
// where there is no intact one, also at the end of the file.
func (sc *scanner) next() (frame, error) {
	var head [frameHeader]byte
	if err := sc.read(head[:]); err != nil {
		return frame{}, err
	}
	f, n, ok := sc.seg.seal.parse(head[:])
	if !ok || f.size > sc.size-sc.off {
		return frame{}, errFrame
	}
	rest := int(f.size) - frameHeader
	sc.body = slices.Grow(sc.body[:0], rest)[:rest]
	if err := sc.read(sc.body); err != nil {
		return frame{}, err
	}
	if sc.seg.seal.aead != nil {
		n += gcmTag
	}
	if _, ok := sc.seg.seal.open(head[:], sc.body[:n], f); !ok {
		return frame{}, errFrame
	}
	sc.off += f.size
	return f, nil
}

func (sc *scanner) read(p []byte) error {
	_, err := io.ReadFull(sc.r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errFrame
	}
	return err
}

// failure says what went wrong at the scanner's place: damage, or the disk's own error.
func (sc *scanner) failure(err error) error {
	if errors.Is(err, errFrame) {
		return &DamageError{Path: sc.seg.path, Offset: sc.off, Err: err}
	}
	return fmt.Errorf("journal: read %s: %w", sc.seg.path, err)
}
