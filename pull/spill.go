package pull

import (
	"bufio"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// runEntries is how many entries of one directory are sorted in memory, at entryBytes
	// each; a longer directory goes to a temporary file in sorted runs, which are merged.
	runEntries = 16_384
	// entryBytes is what an entry takes in memory, as a rule; see Entry.weight.
	entryBytes = 200
	// runBuffer is what is read ahead of each run: 600 runs are ten million entries.
	runBuffer = 8 << 10
	// runsOfSize is after how many runs they get twice as long: however long a listing is, and whatever its links
	// lead to, the buffers of runs take little beside its entries.
	runsOfSize = 1024
)

// entrySource yields the entries of a directory in byte order of their names.
type entrySource interface {
	// next returns io.EOF at the end.
	next() (Entry, error)
	// inMemory is the weight of the entries in memory.
	inMemory() int
}

// sorter sorts the entries of one directory.
type sorter struct {
	dir  string // where temporary files go
	run  int    // weight of a run
	mem  []Entry
	held int      // weight of mem
	file *os.File // without a name; nil while all is in memory
	size int64    // of file
	runs []int64  // where each run begins
	buf  []byte
}

func (s *sorter) add(e Entry) error {
	s.mem = append(s.mem, e)
	if s.held += e.weight(); s.held < s.run {
		return nil
	}
	return s.spill()
}

func (s *sorter) sort() {
	slices.SortStableFunc(s.mem, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
}

func (s *sorter) spill() error {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "listing-*")
		if err != nil {
			return fmt.Errorf("temporary file: %w", err)
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("temporary file: %w", err)
		}
	}
	s.sort()
	s.buf = s.buf[:0]
	for i := range s.mem {
		s.buf = s.mem[i].append(s.buf)
	}
	if _, err := s.file.WriteAt(s.buf, s.size); err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	s.runs = append(s.runs, s.size)
	s.size += int64(len(s.buf))
	clear(s.mem)
	s.mem, s.held = s.mem[:0], 0
	if len(s.runs)%runsOfSize == 0 {
		s.run *= 2
	}
	return nil
}

// finish returns the entries. The file stays open for them.
func (s *sorter) finish() (entrySource, error) {
	if s.file == nil {
		s.sort()
		return &memSource{s.mem, s.held}, nil
	}
	if len(s.mem) > 0 {
		if err := s.spill(); err != nil {
			return nil, err
		}
	}
	m := &mergeSource{}
	for i, begin := range s.runs {
		end := s.size
		if i+1 < len(s.runs) {
			end = s.runs[i+1]
		}
		in := bufio.NewReaderSize(io.NewSectionReader(s.file, begin, end-begin), runBuffer)
		if err := m.push(in, i); err != nil {
			return nil, err
		}
	}
	s.mem, s.buf = nil, nil
	return m, nil
}

// discard drops what there is.
func (s *sorter) discard() {
	if s.file != nil {
		_ = s.file.Close()
	}
}

type memSource struct {
	list []Entry
	held int // weight of list, before any was taken
}

func (m *memSource) next() (Entry, error) {
	if len(m.list) == 0 {
		return Entry{}, io.EOF
	}
	e := m.list[0]
	m.list[0] = Entry{}
	m.list = m.list[1:]
	return e, nil
}

func (m *memSource) inMemory() int { return m.held }

// mergeSource merges runs. It is a heap of their first entries.
type mergeSource struct{ heads []runHead }

type runHead struct {
	e   Entry
	in  *bufio.Reader
	run int // earlier runs first, so that the order of equal names stays
}

func (m *mergeSource) Len() int { return len(m.heads) }
func (m *mergeSource) Less(i, j int) bool {
	if c := strings.Compare(m.heads[i].e.Name, m.heads[j].e.Name); c != 0 {
		return c < 0
	}
	return m.heads[i].run < m.heads[j].run
}
func (m *mergeSource) Swap(i, j int) { m.heads[i], m.heads[j] = m.heads[j], m.heads[i] }
func (m *mergeSource) Push(x any)    { m.heads = append(m.heads, x.(runHead)) }
func (m *mergeSource) Pop() any {
	last := m.heads[len(m.heads)-1]
	m.heads = m.heads[:len(m.heads)-1]
	return last
}

func (m *mergeSource) push(in *bufio.Reader, run int) error {
	e, err := readEntry(in)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	heap.Push(m, runHead{e, in, run})
	return nil
}

func (m *mergeSource) next() (Entry, error) {
	if len(m.heads) == 0 {
		return Entry{}, io.EOF
	}
	h := heap.Pop(m).(runHead)
	return h.e, m.push(h.in, h.run)
}

// inMemory counts the entries that a scan looks ahead, and what is read ahead of each run.
func (m *mergeSource) inMemory() int { return scanWindow + len(m.heads)*(runBuffer/entryBytes) }

// weight is for how many entries of the usual size one counts where memory is bounded: the target of a
// link can be longer than all the rest.
func (e *Entry) weight() int { return 1 + len(e.Target)/entryBytes }

// append adds the entry to b, as readEntry reads it.
func (e *Entry) append(b []byte) []byte {
	flags := uint64(0)
	for i, on := range []bool{e.HasMode, e.HasOwner} {
		if on {
			flags |= 1 << i
		}
	}
	for _, n := range []uint64{
		uint64(e.Type), flags, uint64(e.Size), uint64(e.Mode), uint64(e.Precision), uint64(e.UID), uint64(e.GID),
	} {
		b = binary.AppendUvarint(b, n)
	}
	b = binary.AppendVarint(b, e.ModTime.Unix())
	b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	for _, s := range []string{e.Name, e.Target} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// readEntry reads what append wrote; io.EOF comes between entries only.
func readEntry(in *bufio.Reader) (Entry, error) {
	var e Entry
	if _, err := in.Peek(1); err != nil {
		return e, err
	}
	var err error
	number := func() uint64 {
		n, nerr := binary.ReadUvarint(in)
		err = errors.Join(err, nerr)
		return n
	}
	text := func() string {
		n := number()
		if err != nil || n > maxListLine {
			err = errors.Join(err, fmt.Errorf("temporary file: a text of %d bytes", n))
			return ""
		}
		b := make([]byte, n)
		_, rerr := io.ReadFull(in, b)
		err = errors.Join(err, rerr)
		return string(b)
	}
	e.Type = Type(number())
	flags := number()
	e.HasMode, e.HasOwner = flags&1 != 0, flags&2 != 0
	e.Size, e.Mode, e.Precision = int64(number()), fs.FileMode(number()), time.Duration(number())
	e.UID, e.GID = uint32(number()), uint32(number())
	sec, serr := binary.ReadVarint(in)
	e.ModTime = time.Unix(sec, int64(number())).UTC()
	e.Name, e.Target = text(), text()
	if err = errors.Join(err, serr); err != nil {
		return Entry{}, fmt.Errorf("temporary file: %w", noEOF(err))
	}
	return e, nil
}
