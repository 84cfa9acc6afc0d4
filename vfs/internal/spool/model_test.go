package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/vfs/internal/spool"
)

// model is what a file should hold: a byte slice, and which of its bytes were written.
type model struct {
	data    []byte
	written []bool
}

func (m *model) write(p []byte, off int) {
	if len(p) > 0 {
		m.resize(max(len(m.data), off+len(p)))
	}
	copy(m.data[min(off, len(m.data)):], p)
	for i := range p {
		m.written[off+i] = true
	}
}

func (m *model) resize(n int) {
	for len(m.data) < n {
		m.data = append(m.data, 0)
		m.written = append(m.written, false)
	}
	m.data, m.written = m.data[:n], m.written[:n]
}

func (m *model) extents() (x []spool.Extent) {
	for i := 0; i < len(m.written); i++ {
		if !m.written[i] {
			continue
		}
		start := i
		for i < len(m.written) && m.written[i] {
			i++
		}
		x = append(x, spool.Extent{Off: int64(start), Len: int64(i - start)})
	}
	return x
}

// compare checks everything that a File tells.
func (m *model) compare(t testing.TB, f *spool.File) {
	t.Helper()
	if got := f.Size(); got != int64(len(m.data)) {
		t.Fatalf("size: got %d, want %d", got, len(m.data))
	}
	want := m.extents()
	if got := f.Extents(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("extents: got %v, want %v", got, want)
	}
	prefix := int64(0)
	if len(want) > 0 && want[0].Off == 0 {
		prefix = want[0].Len
	}
	if got := f.Prefix(); got != prefix {
		t.Fatalf("prefix: got %d, want %d", got, prefix)
	}
	got := make([]byte, len(m.data)+10)
	n, err := f.ReadAt(got, 0)
	if !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], m.data) {
		t.Fatalf("content: got %d bytes, %v; want %d; first difference at %d", n, err, len(m.data), differs(got[:n], m.data))
	}
	if sum, ok := f.Hash(); ok && sum != blake3.Sum256(m.data) {
		t.Fatal("the hash is wrong")
	}
	if data, ok := f.Inline(); ok && !bytes.Equal(data, m.data) {
		t.Fatal("the inline content is wrong")
	}
}

func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// operate applies the operations that a byte string encodes to a file and to the model.
func operate(t testing.TB, s *spool.Spool, script []byte) {
	t.Helper()
	const limit = 40 << 10 // below and above a few sectors
	m := &model{}
	f := s.Create()
	number := func(max int) int {
		var n int
		for range 3 {
			if len(script) > 0 {
				n = n<<8 | int(script[0])
				script = script[1:]
			}
		}
		return n % (max + 1)
	}
	for step := 0; len(script) > 0; step++ {
		op := script[0]
		script = script[1:]
		switch op % 8 {
		case 0, 1, 2: // anywhere
			off, n := number(limit), number(9000)
			p := pattern(n, uint64(step))
			write(t, f, p, int64(off))
			m.write(p, off)
		case 3, 4: // go on at the end
			p := pattern(number(9000), uint64(step))
			off := min(len(m.data), 2*limit)
			write(t, f, p, int64(off))
			m.write(p, off)
		case 5:
			n := number(limit)
			if err := f.Truncate(int64(n)); err != nil {
				t.Fatal(err)
			}
			m.resize(n)
		case 6:
			if err := f.Sync(op&8 != 0); err != nil {
				t.Fatal(err)
			}
		case 7:
			off, n := number(limit), number(9000)
			got := make([]byte, n)
			k, err := f.ReadAt(got, int64(off))
			want := m.data[min(off, len(m.data)):min(off+n, len(m.data))]
			if !bytes.Equal(got[:k], want) || (err == nil) != (len(want) == n) {
				t.Fatalf("step %d: read %d at %d: got %d bytes, %v", step, n, off, k, err)
			}
		}
		m.compare(t, f)
	}
	reread(t, s, f, m)
}

// reread closes a file and reads it back by its number, and continues it.
func reread(t testing.TB, s *spool.Spool, f *spool.File, m *model) {
	t.Helper()
	if err := f.Sync(true); err != nil {
		t.Fatal(err)
	}
	id, size, ext := f.ID(), f.Size(), f.Extents()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := s.Reader(id, size, ext...)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if n, err := r.ReadAt(got, 0); err != nil && len(ext) > 0 || n != len(got) || len(ext) > 0 && !bytes.Equal(got, m.data) {
		t.Fatalf("reader: got %d bytes, %v", n, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := s.Reopen(id, size, ext)
	if err != nil {
		t.Fatal(err)
	}
	m.compare(t, g)
	p := pattern(5000, 99)
	write(t, g, p, 1234)
	m.write(p, 1234)
	m.compare(t, g)
	if err := g.Discard(); err != nil {
		t.Fatal(err)
	}
}

func TestModel(t *testing.T) {
	modes(t, func(t *testing.T, cfg spool.Config) {
		cfg.InlineBytes = 16 << 10
		cfg.Disk = unsynced{cfg.Disk}
		s := open(t, cfg)
		r := rand.New(rand.NewPCG(1, 2))
		for range 15 {
			script := make([]byte, 100)
			for i := range script {
				script[i] = byte(r.Uint32())
			}
			operate(t, s, script)
		}
		if got := s.Bytes(); got > 8*4096 {
			t.Errorf("bytes after everything was discarded: got %d, want no more than the empty files", got)
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"), false)
	f.Add([]byte{0, 0, 0x40, 0, 0, 0x10, 1, 5, 0, 0x10, 0, 6, 8, 7}, true)
	f.Fuzz(func(t *testing.T, script []byte, sealed bool) {
		cfg := spool.Config{Disk: unsynced{}, Dir: t.TempDir(), InlineBytes: 8 << 10}
		if sealed {
			cfg.Key = bytes.Repeat([]byte{1}, 32)
		}
		operate(t, open(t, cfg), script[:min(len(script), 200)])
	})
}

// TestConcurrentWriters writes the parts of a file from several goroutines, as the
// workers of an SFTP server do: neighbours share sectors.
func TestConcurrentWriters(t *testing.T) {
	modes(t, func(t *testing.T, cfg spool.Config) {
		cfg.Disk = unsynced{cfg.Disk}
		s := open(t, cfg)
		for _, packet := range []int{1000, 32 << 10, 33333} {
			data := pattern(packet*40+17, uint64(packet))
			f := s.Create()
			next := make(chan int)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for off := range next {
						p := data[off:min(len(data), off+packet)]
						if n, err := f.WriteAt(p, int64(off)); n != len(p) || err != nil {
							t.Errorf("write: got %d, %v", n, err)
						}
						back := make([]byte, len(p))
						if _, err := f.ReadAt(back, int64(off)); err != nil || !bytes.Equal(back, p) {
							t.Errorf("packet %d: reading back the part at %d: %v", packet, off, err)
						}
					}
				})
			}
			for off := 0; off < len(data); off += packet {
				next <- off
			}
			close(next)
			wg.Wait()
			got := make([]byte, len(data))
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
				t.Errorf("packet %d: content differs at %d, %v", packet, differs(got, data), err)
			}
			if sum, ok := f.Hash(); !ok || sum != blake3.Sum256(data) {
				t.Errorf("packet %d: hash ok %v", packet, ok)
			}
			if err := f.Discard(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestHashOfConcurrentCuts writes and cuts a file at once: whatever comes of it, a hash
// that is given is the right one.
func TestHashOfConcurrentCuts(t *testing.T) {
	s := open(t, spool.Config{Disk: unsynced{}, Dir: t.TempDir()})
	for round := range 200 {
		f := s.Create()
		var wg sync.WaitGroup
		for part := range 4 {
			wg.Go(func() {
				if _, err := f.WriteAt(pattern(1000, uint64(part)), int64(part)*1000); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if err := f.Truncate(int64(round%3) * 1000); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		all := make([]byte, f.Size())
		if _, err := f.ReadAt(all, 0); err != nil {
			t.Fatal(err)
		}
		if sum, ok := f.Hash(); ok && sum != blake3.Sum256(all) {
			t.Fatal("wrong hash")
		}
		if err := f.Discard(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHash(t *testing.T) {
	const block = 1 << 20
	data := pattern(20*block, 5)
	at := func(i int) ([]byte, int64) { return data[i*block : (i+1)*block], int64(i) * block }
	for _, tt := range []struct {
		name  string
		order []int // blocks
		then  func(t *testing.T, f *spool.File)
		want  bool
	}{
		{"in order", []int{0, 1, 2, 3}, nil, true},
		{"within the window", []int{3, 1, 2, 0}, nil, true},
		{"as far as the window goes", []int{16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, nil, true},
		{"beyond the window", []int{19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, nil, false},
		{"with a gap", []int{0, 2}, nil, false},
		{"written twice", []int{0, 1, 0}, nil, false},
		{"written twice early", []int{0, 2, 2, 1}, nil, false},
		{"cut below", []int{0, 1}, func(t *testing.T, f *spool.File) {
			if err := f.Truncate(block); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"grown by truncation", []int{0, 1}, func(t *testing.T, f *spool.File) {
			if err := f.Truncate(3 * block); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"set to its own size", []int{0, 1}, func(t *testing.T, f *spool.File) {
			if err := f.Truncate(2 * block); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"cut to nothing and written again", []int{0, 1}, func(t *testing.T, f *spool.File) {
			if err := f.Truncate(0); err != nil {
				t.Fatal(err)
			}
			write(t, f, data[:block], 0)
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modes(t, func(t *testing.T, cfg spool.Config) {
				cfg.Disk = unsynced{cfg.Disk}
				s := open(t, cfg)
				f := s.Create()
				for _, i := range tt.order {
					p, off := at(i)
					write(t, f, p, off)
				}
				if tt.then != nil {
					tt.then(t, f)
				}
				sum, ok := f.Hash()
				if ok != tt.want {
					t.Errorf("known: got %v, want %v", ok, tt.want)
				}
				all := make([]byte, f.Size())
				if _, err := f.ReadAt(all, 0); err != nil {
					t.Fatal(err)
				}
				if ok && sum != blake3.Sum256(all) {
					t.Error("wrong hash")
				}
				if err := f.Discard(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestReorderMemoryIsBounded leaves the first byte of many files out: what is kept in
// memory for their hashes stays bounded, is given back, and the others keep their hash.
func TestReorderMemoryIsBounded(t *testing.T) {
	s := open(t, spool.Config{Disk: disk.OS{}, Dir: t.TempDir(), InlineBytes: 0})
	p := pattern(1<<20, 5)
	var files []*spool.File
	for range 2 * spool.ReorderTotal / len(p) {
		f := s.Create()
		write(t, f, p[1:], 1)
		files = append(files, f)
		if got := s.Early(); got > spool.ReorderTotal {
			t.Fatalf("%d files keep %d bytes in memory", len(files), got)
		}
	}
	if got := s.Early(); got < spool.ReorderTotal/2 {
		t.Fatalf("%d files keep only %d bytes in memory", len(files), got)
	}
	write(t, files[0], p[:1], 0)
	if sum, ok := files[0].Hash(); !ok || sum != blake3.Sum256(p) {
		t.Errorf("hash of the first file: %x, %v", sum, ok)
	}
	last := files[len(files)-1]
	write(t, last, p[:1], 0)
	if _, ok := last.Hash(); ok {
		t.Error("the last file has a hash, the memory for it should have been spent")
	}
	got := make([]byte, len(p))
	if _, err := last.ReadAt(got, 0); err != nil || !bytes.Equal(got, p) {
		t.Errorf("the last file reads as something else: %v", err)
	}
	if err := files[1].Truncate(0); err != nil {
		t.Fatal(err)
	}
	write(t, files[1], p, 0)
	if sum, ok := files[1].Hash(); !ok || sum != blake3.Sum256(p) {
		t.Errorf("hash after a cut to nothing: %x, %v", sum, ok)
	}
	for _, f := range files {
		if err := f.Discard(); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Early(); got != 0 {
		t.Errorf("%d bytes are still kept after all files were closed", got)
	}
}
