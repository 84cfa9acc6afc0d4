package snapshotter

import (
	"bufio"
	"cmp"
	"container/heap"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/PlakarKorp/kloset/objects"
)

const (
	// editRun is how many edits of an index are in memory, at some 150 bytes each, and
	// editRunKeys how many bytes their keys have. More are sorted and go to a temporary file,
	// run after run, which are merged.
	editRun     = 1 << 16
	editRunKeys = 16 << 20
	// editBuffer is what is read ahead of each run: 1,000 runs are 65 million edits.
	editBuffer = 16 << 10
)

// indexEdit is what becomes of a key.
type indexEdit struct {
	key    string
	value  objects.MAC
	number uint64 // of those of one key the last counts
	remove bool   // if nothing else becomes of it
}

// edits collects what becomes of an index. Many of them are in a temporary file without a name.
// It is for one goroutine.
type edits struct {
	cmp func(a, b string) int // orders keys
	dir string                // where the file goes
	run int                   // edits in memory

	list []indexEdit
	keys int // bytes of the keys in list
	n    uint64
	file *runFile // nil while all is in list
	err  error    // of the file: the first one
}

// newEdits makes a list of edits of an index with keys in that order.
func (s *Snapshotter) newEdits(cmp func(a, b string) int) *edits {
	return &edits{cmp: cmp, dir: s.editDir, run: s.editRun}
}

// set notes that a key gets a value.
func (l *edits) set(key string, mac objects.MAC) { l.add(indexEdit{key: key, value: mac}) }

// drop notes that a key goes, unless it gets another value.
func (l *edits) drop(key string) { l.add(indexEdit{key: key, remove: true}) }

func (l *edits) add(e indexEdit) {
	e.number = l.n
	l.n++
	l.list = append(l.list, e)
	if l.keys += len(e.key); len(l.list) >= l.run || l.keys >= editRunKeys {
		l.spill()
	}
}

// spill makes a run of what is in memory.
func (l *edits) spill() {
	defer func() {
		clear(l.list)
		l.list, l.keys = l.list[:0], 0
	}()
	if l.err != nil {
		return
	}
	if l.file == nil {
		if l.file, l.err = newRunFile(l.dir); l.err != nil {
			return
		}
	}
	l.err = l.file.add(l.sorted())
}

// order puts the edits of one key together, the one that counts first.
func (l *edits) order(a, b indexEdit) int {
	if n := cmp.Or(l.cmp(a.key, b.key), cmp.Compare(a.key, b.key)); n != 0 {
		return n
	}
	if a.remove != b.remove {
		if a.remove {
			return 1
		}
		return -1
	}
	return cmp.Compare(b.number, a.number)
}

// sorted orders what is in memory by key, each key once.
func (l *edits) sorted() []indexEdit {
	slices.SortFunc(l.list, l.order)
	return slices.CompactFunc(l.list, func(a, b indexEdit) bool { return a.key == b.key })
}

// close drops the edits.
func (l *edits) close() {
	if l.file != nil {
		_ = l.file.f.Close() // it has no name
	}
	l.list, l.file = nil, nil
}

// descending hands out edits from the last key to the first, each key once.
type descending interface {
	// next returns nil at the end.
	next() (*indexEdit, error)
}

// descend begins to hand out the edits; no more are added.
func (l *edits) descend() (descending, error) {
	if l.err != nil || l.file == nil {
		return &listed{l.sorted()}, l.err
	}
	if l.spill(); l.err != nil {
		return nil, l.err
	}
	m := &mergedRuns{order: l.order}
	for i := range l.file.runs {
		if err := m.push(l.file.open(i)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// listed is edits in memory, in order.
type listed struct{ list []indexEdit }

func (l *listed) next() (*indexEdit, error) {
	n := len(l.list)
	if n == 0 {
		return nil, nil
	}
	e := &l.list[n-1]
	l.list = l.list[:n-1]
	return e, nil
}

// mergedRuns merges runs, each of which is from the last key to the first. It is a heap of their
// next edits.
type mergedRuns struct {
	order func(a, b indexEdit) int
	heads []runHead
}

// runHead is a run with its next edit.
type runHead struct {
	e  indexEdit
	in *bufio.Reader
}

// Len, Less, Swap, Push and Pop implement heap.Interface: the last key is the first. Of edits of
// one key the one that counts comes last.
func (m *mergedRuns) Len() int           { return len(m.heads) }
func (m *mergedRuns) Less(i, j int) bool { return m.order(m.heads[i].e, m.heads[j].e) > 0 }
func (m *mergedRuns) Swap(i, j int)      { m.heads[i], m.heads[j] = m.heads[j], m.heads[i] }
func (m *mergedRuns) Push(x any)         { m.heads = append(m.heads, x.(runHead)) }
func (m *mergedRuns) Pop() any {
	last := m.heads[len(m.heads)-1]
	m.heads = m.heads[:len(m.heads)-1]
	return last
}

// push adds a run, unless it is at its end.
func (m *mergedRuns) push(in *bufio.Reader) error {
	e, err := readEdit(in)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		heap.Push(m, runHead{e, in})
	}
	return err
}

func (m *mergedRuns) next() (*indexEdit, error) {
	if len(m.heads) == 0 {
		return nil, nil
	}
	e := m.heads[0].e
	for {
		if err := m.advance(); err != nil {
			return nil, err
		}
		if len(m.heads) == 0 || m.heads[0].e.key != e.key {
			return &e, nil
		}
		e = m.heads[0].e
	}
}

// advance goes on to the next edit.
func (m *mergedRuns) advance() error {
	e, err := readEdit(m.heads[0].in)
	switch {
	case errors.Is(err, io.EOF):
		heap.Pop(m)
		return nil
	case err == nil:
		m.heads[0].e = e
		heap.Fix(m, 0)
	}
	return err
}

// runFile is a temporary file without a name, of runs of edits. It has names of files that the
// store may keep secret, so it is encrypted, under a key that is in memory only.
type runFile struct {
	f     *os.File
	block cipher.Block
	runs  []int64 // where each begins
	size  int64
}

func newRunFile(dir string) (*runFile, error) {
	f, err := os.CreateTemp(dir, "edits-*")
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, fmt.Errorf("temporary file: %w", errors.Join(err, f.Close()))
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &runFile{f: f, block: block}, nil
}

// stream is the key stream of a run: each has the upper half of the counter for itself.
func (r *runFile) stream(run int) cipher.Stream {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[:8], uint64(run))
	return cipher.NewCTR(r.block, iv[:])
}

// add writes a run, from the last to the first.
func (r *runFile) add(list []indexEdit) error {
	out := bufio.NewWriterSize(cipher.StreamWriter{
		S: r.stream(len(r.runs)), W: io.NewOffsetWriter(r.f, r.size),
	}, 4*editBuffer)
	r.runs = append(r.runs, r.size)
	var buf []byte
	for _, e := range slices.Backward(list) {
		buf = e.append(buf[:0])
		r.size += int64(len(buf))
		if _, err := out.Write(buf); err != nil {
			return fmt.Errorf("temporary file: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	return nil
}

// open begins to read a run.
func (r *runFile) open(run int) *bufio.Reader {
	end := r.size
	if run+1 < len(r.runs) {
		end = r.runs[run+1]
	}
	part := io.NewSectionReader(r.f, r.runs[run], end-r.runs[run])
	return bufio.NewReaderSize(cipher.StreamReader{S: r.stream(run), R: part}, editBuffer)
}

// append adds the edit to b, as readEdit reads it.
func (e *indexEdit) append(b []byte) []byte {
	kind := uint64(0)
	if e.remove {
		kind = 1
	}
	b = binary.AppendUvarint(b, e.number<<1|kind)
	b = binary.AppendUvarint(b, uint64(len(e.key)))
	b = append(b, e.key...)
	if !e.remove {
		b = append(b, e.value[:]...)
	}
	return b
}

// readEdit reads what append wrote; io.EOF comes between edits only.
func readEdit(in *bufio.Reader) (e indexEdit, err error) {
	if _, err := in.Peek(1); err != nil {
		return e, err
	}
	number, err := binary.ReadUvarint(in)
	n, nerr := binary.ReadUvarint(in)
	if err = errors.Join(err, nerr); err == nil && n > editRunKeys {
		err = fmt.Errorf("a key of %d bytes", n)
	}
	if err != nil {
		return e, cutShort(err)
	}
	e.number, e.remove = number>>1, number&1 != 0
	key := make([]byte, n)
	_, err = io.ReadFull(in, key)
	if err == nil && !e.remove {
		_, err = io.ReadFull(in, e.value[:])
	}
	if err != nil {
		return e, cutShort(err)
	}
	e.key = string(key)
	return e, nil
}

// cutShort is the error of an edit that is not whole: never the io.EOF of a run.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("temporary file: %w", err)
}
