package journal

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/snapgate/gateway/internal/disk"
)

// Append writes a batch of records in order and, with sync, makes them and all before
// them durable; the first gets position Last()+1 as it was before the call. A batch is
// recovered as a whole or not at all.
//
// On any error none of the batch is in the journal: the segment is abandoned beyond the
// last durable record, unsynced records before the batch are lost as well (Lost reports
// them), and a new segment is started, now or, when that fails too, by the next Append.
// Only if the process dies before one could be started, recovery may still find the
// records that failed.
//
// A record above MaxRecord fails the call with ErrTooLarge and harms nothing.
func (j *Journal) Append(batch [][]byte, sync bool) (first Position, err error) {
	if j.closed { // written by this goroutine only
		return 0, fmt.Errorf("journal: append: %w", ErrClosed)
	}
	for _, p := range batch {
		if len(p) > MaxRecord {
			return 0, fmt.Errorf("journal: append %d bytes: %w", len(p), ErrTooLarge)
		}
	}
	first = j.last + 1
	if len(batch) == 0 {
		if sync {
			return first, j.Sync()
		}
		return first, nil
	}
	if err := j.prepare(); err != nil {
		return 0, fmt.Errorf("journal: new segment: %w", err)
	}
	j.cfg.Failpoint(FailBeforeWrite)
	s := j.segs[len(j.segs)-1]
	end, offs, err := j.write(s, first, batch)
	if err == nil && sync {
		err = j.syncActive(mark{end: end, pos: first + Position(len(batch)) - 1, n: len(s.offs) + len(batch)})
	}
	j.mu.Lock()
	// The numbers are used up even if it failed: their nonces were.
	j.last = first + Position(len(batch)) - 1
	if err == nil {
		s.offs = append(s.offs, offs...)
		s.end = end
	}
	j.mu.Unlock()
	if err != nil {
		j.abandon()
		return 0, fmt.Errorf("journal: append: %w", err)
	}
	return first, nil
}

// write encodes and writes a batch at the end of the active segment.
func (j *Journal) write(s *segment, first Position, batch [][]byte) (end int64, offs []uint32, err error) {
	buf, start := j.buf[:0], s.end
	end = start
	offs = make([]uint32, len(batch))
	flush := func() error {
		n, err := j.active.WriteAt(buf, start)
		if err == nil && n < len(buf) {
			err = io.ErrShortWrite
		}
		start += int64(len(buf))
		buf = buf[:0]
		return err
	}
	for i, p := range batch {
		offs[i] = uint32(end / frameAlign)
		end += s.seal.frameSize(len(p))
		if end/frameAlign > 1<<32-1 {
			return 0, nil, ErrTooLarge
		}
		buf = s.seal.append(buf, frame{
			kind: kindRecord, rest: uint32(len(batch) - 1 - i), pos: first + Position(i),
			synced: j.durable.end, payload: p,
		})
		if len(buf) >= writeChunk {
			if err := flush(); err != nil {
				return 0, nil, err
			}
		}
	}
	if len(buf) > 0 {
		if err := flush(); err != nil {
			return 0, nil, err
		}
	}
	if cap(buf) <= 2*writeChunk {
		j.buf = buf
	}
	return end, offs, nil
}

// Sync makes everything appended so far durable. On an error the unsynced records are
// lost, as after a failed Append.
func (j *Journal) Sync() error {
	if j.closed {
		return fmt.Errorf("journal: sync: %w", ErrClosed)
	}
	if err := j.syncRest(); err != nil {
		j.abandon()
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// syncRest syncs what is not durable in the active segment; it does not abandon it.
func (j *Journal) syncRest() error {
	if j.active == nil {
		return nil
	}
	s := j.segs[len(j.segs)-1]
	if j.durable.end == s.end {
		return nil
	}
	return j.syncActive(mark{end: s.end, pos: s.lastPos(), n: len(s.offs)})
}

func (j *Journal) syncActive(to mark) error {
	j.cfg.Failpoint(FailBeforeSync)
	if err := j.active.Sync(); err != nil {
		return err
	}
	j.cfg.Failpoint(FailAfterSync)
	j.durable = to
	return nil
}

// abandon gives up the active segment after a failure. What was not durable is forgotten;
// a new segment, whose header excludes it, is started at once if possible.
func (j *Journal) abandon() {
	j.drop()
	_ = j.roll() // the next Append tries again
}

// drop closes the active segment and forgets what is not durable in it. Its descriptor is
// not used again: after a failed sync the system may have thrown away what it could not
// write, and report success the next time.
func (j *Journal) drop() {
	if j.active == nil {
		return
	}
	_ = j.active.Close() // given up
	j.active = nil
	s := j.segs[len(j.segs)-1]
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := j.durable.n; i < len(s.offs); i++ {
		j.lost = append(j.lost, s.base+Position(i))
	}
	s.offs = s.offs[:j.durable.n:j.durable.n]
	s.end = j.durable.end
}

// prepare makes sure that there is an active segment with room.
func (j *Journal) prepare() error {
	if j.active != nil {
		s := j.segs[len(j.segs)-1]
		// Skip leaves a gap, which only a new segment can express.
		if s.end < j.cfg.SegmentBytes && s.lastPos() == j.last {
			return nil
		}
	}
	return j.roll()
}

// roll ends the active segment and starts a new one. The old one is never written again,
// even if this fails: the new one may be on disk and exclude what would follow.
func (j *Journal) roll() error {
	if j.active != nil {
		if err := j.syncRest(); err != nil {
			j.drop()
			return err
		}
		err := j.active.Close()
		j.active = nil
		if err != nil {
			return err
		}
	}
	h := header{num: j.nextNum, prevEnd: j.lastHeld(), base: j.last + 1}
	j.nextNum++
	f, s, err := j.create(h)
	if err != nil {
		return err
	}
	j.active = f
	j.durable = mark{end: s.end}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segs = append(j.segs, s)
	return nil
}

// lastHeld is the position of the newest record in the journal, or the base of what it
// remembers when there is none.
func (j *Journal) lastHeld() Position {
	for i := len(j.segs) - 1; i >= 0; i-- {
		if s := j.segs[i]; len(s.offs) > 0 {
			return s.lastPos()
		} else if i == 0 {
			return s.prevEnd
		}
	}
	return 0
}

// create makes a segment file, durable with its name.
func (j *Journal) create(h header) (disk.File, *segment, error) {
	raw, seal, err := newHeader(&h, j.cfg.Key)
	if err != nil {
		return nil, nil, err
	}
	path := j.segmentPath(h.num)
	tmp := path[:len(path)-len(suffix)] + tmpSuffix
	f, err := j.cfg.Disk.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (disk.File, *segment, error) {
		// Whatever is left under either name holds no record and is harmless.
		_, _, _ = f.Close(), j.cfg.Disk.Remove(tmp), j.cfg.Disk.Remove(path)
		return nil, nil, err
	}
	if n, err := f.WriteAt(raw, 0); err != nil || n < len(raw) {
		return fail(errors.Join(err, shortWrite(n, len(raw))))
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	j.cfg.Failpoint(FailBeforeSegment)
	if err := j.cfg.Disk.Rename(tmp, path); err != nil {
		return fail(err)
	}
	if err := j.cfg.Disk.SyncDir(j.cfg.Dir); err != nil {
		return fail(err)
	}
	j.cfg.Failpoint(FailAfterSegment)
	return f, &segment{header: h, path: path, seal: seal, end: headerBytes}, nil
}

func shortWrite(n, want int) error {
	if n < want {
		return io.ErrShortWrite
	}
	return nil
}

// Trim removes the segments all of whose records are at or below pos. When the newest one
// holds such records and is larger than 1 MiB, a new one is started first, so that it can
// go, now or with a later Trim. A small newest one stays: it remembers the position. An
// error leaves a journal that works; the next Trim tries again.
func (j *Journal) Trim(pos Position) error {
	if j.closed {
		return fmt.Errorf("journal: trim: %w", ErrClosed)
	}
	if len(j.segs) == 0 {
		return nil
	}
	if s := j.segs[len(j.segs)-1]; s.base <= pos && s.end > trimRollBytes {
		if err := j.roll(); err != nil {
			return fmt.Errorf("journal: trim: %w", err)
		}
	}
	for len(j.segs) > 1 && j.segs[0].lastPos() <= pos {
		s := j.segs[0]
		j.mu.Lock()
		s.trimmed = true
		j.mu.Unlock()
		j.cfg.Failpoint(FailBeforeTrim)
		if err := j.cfg.Disk.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("journal: trim: %w", err)
		}
		// Synced one by one: were a later one gone and an earlier one back after a power
		// loss, it would look like damage.
		if err := j.cfg.Disk.SyncDir(j.cfg.Dir); err != nil {
			return fmt.Errorf("journal: trim: %w", err)
		}
		j.cfg.Failpoint(FailAfterTrim)
		j.mu.Lock()
		j.segs = j.segs[1:]
		j.mu.Unlock()
	}
	return nil
}

// Close makes everything durable, marks the journal as closed cleanly, and closes it.
func (j *Journal) Close() error {
	if j.closed {
		return nil
	}
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	if j.active == nil {
		return nil
	}
	if err := j.syncRest(); err != nil {
		j.drop()
		return fmt.Errorf("journal: close: %w", err)
	}
	s := j.segs[len(j.segs)-1]
	// The mark vouches for all before it, so it may be written only now.
	mark := s.seal.append(nil, frame{kind: kindEnd, pos: j.last, synced: s.end})
	_, err := j.active.WriteAt(mark, s.end)
	err = errors.Join(err, j.active.Sync(), j.active.Close())
	j.active = nil
	if err != nil {
		return fmt.Errorf("journal: close: %w", err)
	}
	return nil
}
