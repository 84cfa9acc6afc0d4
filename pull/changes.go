package pull

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// defaultChangeMemory is how many bytes of changes are kept in memory, at some 200 a file:
// 80,000 files.
const defaultChangeMemory = 16 << 20

// changeList keeps the changes of a commit until it comes, in a temporary file without a name
// when they are many. It is for one goroutine at a time.
type changeList struct {
	dir    string // where the file goes; "" for the system's
	memory int
	// content makes the content of a file again, for a commit that finds it missing.
	content func(path string, seen Entry) snapshotter.Content

	buf  []byte
	file *os.File // nil while all is in buf
	size int64    // of file
	n    int
}

// add appends a change as Fetch yields it.
func (l *changeList) add(c snapshotter.Change) error {
	l.buf = appendChange(l.buf, c)
	l.n++
	if len(l.buf) < l.memory {
		return nil
	}
	return l.flush()
}

func (l *changeList) flush() error {
	if l.file == nil {
		f, err := os.CreateTemp(l.dir, "changes-*")
		if err != nil {
			return fmt.Errorf("temporary file: %w", err)
		}
		l.file = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("temporary file: %w", err)
		}
	}
	if _, err := l.file.WriteAt(l.buf, l.size); err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	l.size += int64(len(l.buf))
	l.buf = l.buf[:0]
	return nil
}

// all yields the changes in their order; it can be called again.
func (l *changeList) all() iter.Seq2[snapshotter.Change, error] {
	return func(yield func(snapshotter.Change, error) bool) {
		var stored io.Reader = bytes.NewReader(l.buf)
		if l.file != nil {
			stored = io.MultiReader(io.NewSectionReader(l.file, 0, l.size), stored)
		}
		in := bufio.NewReaderSize(stored, 256<<10)
		for range l.n {
			c, err := l.read(in)
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// close drops the changes.
func (l *changeList) close() {
	if l.file != nil {
		_ = l.file.Close() // it has no name
	}
}

// appendChange adds a change to b as changeList.read reads it: of its content, what a reader
// needs to read it again.
func appendChange(b []byte, c snapshotter.Change) []byte {
	for _, n := range []uint64{uint64(c.Kind), c.Version, uint64(c.Attr.Mode), uint64(c.Attr.UID), uint64(c.Attr.GID)} {
		b = binary.AppendUvarint(b, n)
	}
	b = binary.AppendVarint(b, c.Attr.ModTime.Unix())
	b = binary.AppendUvarint(b, uint64(c.Attr.ModTime.Nanosecond()))
	for _, s := range []string{c.Path, c.From, c.Target, string(c.Stored)} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	f, ok := c.Content.(*file)
	if !ok {
		return append(b, 0)
	}
	b = append(b, 1)
	return f.seen.append(b)
}

func (l *changeList) read(in *bufio.Reader) (c snapshotter.Change, err error) {
	number := func() uint64 {
		n, nerr := binary.ReadUvarint(in)
		err = errors.Join(err, nerr)
		return n
	}
	text := func() []byte {
		n := number()
		if err != nil {
			return nil
		}
		b := make([]byte, n)
		_, rerr := io.ReadFull(in, b)
		err = errors.Join(err, rerr)
		return b
	}
	c.Kind, c.Version = snapshotter.ChangeKind(number()), number()
	c.Attr.Mode, c.Attr.UID, c.Attr.GID = fs.FileMode(number()), uint32(number()), uint32(number())
	sec, serr := binary.ReadVarint(in)
	c.Attr.ModTime = time.Unix(sec, int64(number())).UTC()
	c.Path, c.From, c.Target = string(text()), string(text()), string(text())
	if c.Stored = text(); len(c.Stored) == 0 {
		c.Stored = nil
	}
	has, rerr := in.ReadByte()
	if err = errors.Join(err, serr, rerr); err == nil && has == 1 {
		var seen Entry
		if seen, err = readEntry(in); err == nil {
			c.Content = l.content(c.Path, seen)
		}
	}
	if err != nil {
		return snapshotter.Change{}, fmt.Errorf("temporary file: %w", noEOF(err))
	}
	return c, nil
}
