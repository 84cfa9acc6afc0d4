package snapshotter

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/vmihailenco/msgpack/v5"
)

const (
	// dirMarkEvery is after how many entries the position in a dirpack is noted: a page
	// that begins anywhere decodes at most so many entries in vain.
	dirMarkEvery = 64
	// dirFrameMax bounds an entry in a dirpack: name, target and extended attributes take
	// some KiB at most, so more is damage.
	dirFrameMax = 16 << 20
	// dirBufSize is how much of a dirpack is looked at in one go.
	dirBufSize = 64 << 10
)

// dirIndex reads a dirpack, the object that holds the entries of one directory in byte
// order of their names, in pages. It holds no entries: only, for every dirMarkEvery of
// them, where they are. Safe for concurrent use.
type dirIndex struct {
	r *Reader

	mu    sync.Mutex
	marks []dirMark // guarded by mu: in order; without gaps from the beginning
}

// dirMark says that the entry called name begins at off and is number ordinal.
type dirMark struct {
	name    string
	off     int64
	ordinal int
}

// dir returns the index of a dirpack.
func (s *Snapshotter) dir(mac objects.MAC) (*dirIndex, error) {
	if d, ok := s.dirs.Get(mac); ok {
		return d, nil
	}
	r, err := s.openObject(mac)
	if err != nil {
		return nil, err
	}
	d := &dirIndex{r: r}
	s.dirs.Add(mac, d)
	return d, nil
}

// read returns up to n entries after a name.
func (d *dirIndex) read(after string, n int) ([]*storedEntry, error) {
	if n <= 0 {
		return nil, nil
	}
	at := d.before(after)
	rd := bufio.NewReaderSize(io.NewSectionReader(d.r, at.off, d.r.Size()-at.off), dirBufSize)
	off, ordinal := at.off, at.ordinal
	var entries []*storedEntry
	for len(entries) < n {
		e, size, err := readFrame(rd)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, readError("directory", err)
		}
		name := e.Name()
		if ordinal%dirMarkEvery == 0 {
			d.mark(dirMark{name, off, ordinal})
		}
		if name > after || after == "" {
			entries = append(entries, e)
		}
		off += size
		ordinal++
	}
	return entries, nil
}

// before returns the last mark that is not behind the name after.
func (d *dirIndex) before(after string) dirMark {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := sort.Search(len(d.marks), func(i int) bool { return d.marks[i].name > after })
	if i == 0 {
		return dirMark{}
	}
	return d.marks[i-1]
}

func (d *dirIndex) mark(m dirMark) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.ordinal == len(d.marks)*dirMarkEvery {
		d.marks = append(d.marks, m)
	}
}

// frameHead is the length of what is before an entry in a dirpack: a type byte, and the
// length of the rest, which is the entry and its MAC.
const frameHead = 5

// readFrame reads one entry.
func readFrame(rd *bufio.Reader) (*storedEntry, int64, error) {
	frame, size, err := readRawFrame(rd, nil)
	if err != nil {
		return nil, 0, err
	}
	e, err := decodeEntry(frame)
	return e, size, err
}

// readRawFrame reads one entry, for decodeEntry, into buf or what it makes in its place, and tells
// how long it is with its head.
func readRawFrame(rd *bufio.Reader, buf []byte) ([]byte, int64, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(rd, head[:1]); err != nil {
		return nil, 0, err // io.EOF: the end
	}
	if _, err := io.ReadFull(rd, head[1:]); err != nil {
		return nil, 0, noEOF(err)
	}
	size, err := frameSize(head[:])
	if err != nil {
		return nil, 0, err
	}
	frame := slices.Grow(buf[:0], size)[:size]
	if _, err := io.ReadFull(rd, frame); err != nil {
		return nil, 0, noEOF(err)
	}
	return frame, frameHead + int64(size), nil
}

// firstFrame is the entry that data begins with, for decodeEntry.
func firstFrame(data []byte) ([]byte, error) {
	if len(data) < frameHead {
		return nil, io.ErrUnexpectedEOF
	}
	size, err := frameSize(data[:frameHead])
	if err != nil {
		return nil, err
	}
	if len(data)-frameHead < size {
		return nil, io.ErrUnexpectedEOF
	}
	return data[frameHead : frameHead+size], nil
}

// decodeFrame decodes the entry that data begins with, and tells where the next begins.
func decodeFrame(data []byte) (*storedEntry, int, error) {
	frame, err := firstFrame(data)
	if err != nil {
		return nil, 0, err
	}
	e, err := decodeEntry(frame)
	return e, frameHead + len(frame), err
}

func frameSize(head []byte) (int, error) {
	size := binary.LittleEndian.Uint32(head[1:])
	if size < uint32(len(objects.MAC{})) || size > dirFrameMax {
		return 0, fmt.Errorf("entry of %d bytes", size)
	}
	return int(size), nil
}

// decodeEntry decodes an entry with its MAC behind it.
func decodeEntry(frame []byte) (*storedEntry, error) {
	e := new(storedEntry)
	data := frame[:len(frame)-len(e.MAC)]
	if err := msgpack.Unmarshal(data, e); err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	copy(e.MAC[:], frame[len(data):])
	return e, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
