package snapshotter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/resources"
)

// missingPaths bounds the paths that a MissingError names.
const missingPaths = 100_000

// MissingError says which files a commit could not make because the store lacks some of their
// chunks: what was put was not written after all, or maintenance has removed it. There is no
// snapshot. They are to be stored again.
type MissingError struct {
	Paths []string // the first 100,000, in no order
	N     int      // all of them
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("the store does not have the contents of %d files any more, %q for one", e.N, e.Paths[0])
}

// missing collects the files of a MissingError. Safe for concurrent use.
type missing struct {
	mu sync.Mutex
	e  MissingError // guarded by mu
}

func (m *missing) add(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.e.N++
	if len(m.e.Paths) < missingPaths {
		m.e.Paths = append(m.e.Paths, path)
	}
}

func (m *missing) any() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.e.N > 0
}

// err is the error, if there is one.
func (m *missing) err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.e.N == 0 {
		return nil
	}
	return &m.e
}

// Store puts a content into the store ahead of the commit that will have it, and returns what
// Change.Stored takes. When the commit comes it may turn out not to be there (MissingError):
// the bytes of a content reach the store together with others, later, and nothing keeps
// maintenance from removing them. Safe for concurrent use; a content that is no small file
// needs some 2 MiB of memory while it is read, and 8 MiB where its chunks are long.
//
// Errors: those of the content; ErrUnavailable and ErrBusy when the store cannot be written,
// for some seconds at least.
func (s *Snapshotter) Store(ctx context.Context, c Content) (stored []byte, err error) {
	rd, err := c.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rd.Close()) }()
	g := s.NewIngest(io.Discard)
	g.sum, g.once = s.plainSum(), true
	defer g.Rest()
	if size := c.Size(); size <= s.oneChunk {
		err = g.one(rd, size)
	} else {
		err = g.stream(ctx, rd, size)
	}
	if err != nil {
		return nil, err
	}
	return g.Seal()
}

// one puts a content that is a single chunk.
func (g *Ingest) one(rd io.Reader, size int64) error {
	if err := g.s.readSmall(rd, size, g.add); err != nil {
		return err
	}
	return g.end(size, true)
}

// stream puts a content as its chunks arrive.
func (g *Ingest) stream(ctx context.Context, rd io.Reader, size int64) error {
	if err := g.wake(); err != nil {
		return err
	}
	g.cutter.reset(rd)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece, err := g.cutter.next()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(piece) > 0 {
			if err := g.add(piece); err != nil {
				return err
			}
		}
		if err != nil {
			return g.end(size, true)
		}
	}
}

func sizeError(announced, read int64) error {
	return fmt.Errorf("%d bytes announced, %d read: %w", announced, read, io.ErrUnexpectedEOF)
}

// A sealed file is a byte that says how it is encoded, the MAC of the content, the content
// type, and of each chunk the MAC, the length and the entropy; then sealCheck bytes of the
// MAC of all this, with the key of the store. Numbers are varints but for the entropy.
const (
	sealMany  = 1 // chunks, and how many
	sealOne   = 2 // chunk, which has the MAC of the content
	sealCheck = 8
)

var errSeal = errors.New("not what was sealed")

// Seal returns what Change.Stored takes of a file that was put whole: some 70 bytes, and 45 for
// each chunk of more than one. It holds as long as the store has the chunks, in other
// processes, too.
func (g *Ingest) Seal() ([]byte, error) {
	if !g.done {
		return nil, fmt.Errorf("seal of %d bytes: %w", g.file.size, io.ErrUnexpectedEOF)
	}
	obj := g.file.obj
	one := len(obj.Chunks) == 1 && obj.Chunks[0].ContentMAC == obj.ContentMAC
	kind := byte(sealMany)
	if one {
		kind = sealOne
	}
	out := make([]byte, 0, 96+45*(len(obj.Chunks)-1))
	out = append(out, kind)
	out = append(out, obj.ContentMAC[:]...)
	out = binary.AppendUvarint(out, uint64(len(obj.ContentType)))
	out = append(out, obj.ContentType...)
	if !one {
		out = binary.AppendUvarint(out, uint64(len(obj.Chunks)))
	}
	for i := range obj.Chunks {
		c := &obj.Chunks[i]
		if !one {
			out = append(out, c.ContentMAC[:]...)
		}
		out = binary.AppendUvarint(out, uint64(c.Length))
		out = binary.LittleEndian.AppendUint64(out, math.Float64bits(c.Entropy))
	}
	mac := g.s.repo.ComputeMAC(out)
	return append(out, mac[:sealCheck]...), nil
}

// unseal is the opposite of Seal.
func (s *Snapshotter) unseal(data []byte) (*fileObject, error) {
	n := len(data) - sealCheck
	if n < 1+len(objects.MAC{}) {
		return nil, errSeal
	}
	if mac := s.repo.ComputeMAC(data[:n]); string(mac[:sealCheck]) != string(data[n:]) {
		return nil, errSeal
	}
	f := newFileObject()
	d := sealed(data[1:n])
	f.obj.ContentMAC = d.mac()
	f.obj.ContentType = string(d.take(d.uvarint()))
	count := uint64(1)
	if data[0] == sealMany {
		count = d.uvarint()
	}
	if count > uint64(len(d)) { // a chunk has more than a byte
		return nil, errSeal
	}
	f.obj.Chunks = make([]objects.Chunk, count)
	for i := range f.obj.Chunks {
		c := objects.NewChunk()
		c.ContentMAC = f.obj.ContentMAC
		if data[0] == sealMany {
			c.ContentMAC = d.mac()
		}
		c.Length = uint32(d.uvarint())
		if bits := d.take(8); len(bits) == 8 {
			c.Entropy = math.Float64frombits(binary.LittleEndian.Uint64(bits))
		}
		f.entropy += c.Entropy * float64(c.Length)
		f.size += int64(c.Length)
		f.obj.Chunks[i] = *c
	}
	if d == nil || len(d) != 0 {
		return nil, errSeal
	}
	return f, nil
}

// sealed is what is left of a sealed file; nil when it has ended too early.
type sealed []byte

func (d *sealed) take(n uint64) []byte {
	if n > uint64(len(*d)) {
		*d = nil
		return nil
	}
	out := (*d)[:n]
	*d = (*d)[n:]
	return out
}

func (d *sealed) mac() (m objects.MAC) {
	copy(m[:], d.take(uint64(len(m))))
	return m
}

func (d *sealed) uvarint() uint64 {
	v, n := binary.Uvarint(*d)
	if n <= 0 {
		*d = nil
		return 0
	}
	*d = (*d)[n:]
	return v
}

// unsealed returns a sealed file, nil when the store lacks some of it.
func (s *Snapshotter) unsealed(path string, data []byte, exists func(resources.Type, objects.MAC) bool) *fileObject {
	f, err := s.unseal(data)
	n := 0
	if err == nil {
		n = f.missing(exists)
	}
	if err != nil || n > 0 {
		s.log.Debug("a file that was put into the store ahead of the commit is not there", "path", path, "missing_chunks", n, "err", err)
		return nil
	}
	return f
}

// missing is how many of its chunks the store lacks, as far as that is known.
func (f *fileObject) missing(exists func(resources.Type, objects.MAC) bool) (n int) {
	if len(f.obj.Chunks) == 1 {
		if !exists(resources.RT_CHUNK, f.obj.Chunks[0].ContentMAC) {
			n = 1
		}
		return n
	}
	seen := make(map[objects.MAC]struct{}, len(f.obj.Chunks))
	for i := range f.obj.Chunks {
		mac := f.obj.Chunks[i].ContentMAC
		if _, ok := seen[mac]; ok {
			continue
		}
		seen[mac] = struct{}{}
		if !exists(resources.RT_CHUNK, mac) {
			n++
		}
	}
	return n
}
