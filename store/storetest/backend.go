package storetest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapgate/gateway/store/internal/backend"
)

const (
	// largeBytes is as large as the largest packfile, and a bit odd.
	largeBytes = 64<<20 + 4321
	// manyFiles are more than any server lists in one answer.
	manyFiles = 1100
)

// TestBackend checks that a backend keeps what package backend promises. open returns one in
// a place of its own, where there is nothing yet.
func TestBackend(t *testing.T, open func(t *testing.T) backend.Backend) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, backend.Backend)
	}{
		{"create", testCreate},
		{"put and get", testPutGet},
		{"ranges", testRanges},
		{"missing", testMissing},
		{"replace and remove", testReplace},
		{"large", testLarge},
		{"list", testList},
		{"list while writing", testListWhileWriting},
		{"source fails", testSourceFails},
		{"never half", testNeverHalf},
		{"concurrent", testConcurrent},
		{"cancel", testCancel},
		{"sweep", testSweep},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, open(t)) })
	}
}

// FileName returns the name of a packfile or state that depends on a number.
func FileName(dir string, n uint64) string {
	sum := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, n))
	if dir == backend.LocksDir {
		return dir + "/" + hex.EncodeToString(sum[:])
	}
	return backend.Bucket(dir, sum[0]) + "/" + hex.EncodeToString(sum[:])
}

// content returns bytes that depend on a seed.
func content(seed uint64, size int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(data)
	return data
}

func create(t *testing.T, b backend.Backend) {
	t.Helper()
	err := b.Create(t.Context())
	if err == nil {
		err = backend.PutBytes(t.Context(), b, backend.ConfigName, []byte("config"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, b backend.Files, name string, data []byte) {
	t.Helper()
	n, err := b.Put(t.Context(), name, bytes.NewReader(data))
	if err != nil || n != int64(len(data)) {
		t.Fatalf("Put %s: %d of %d, %v", name, n, len(data), err)
	}
}

// read reads a file as a whole.
func read(ctx context.Context, b backend.Files, name string) ([]byte, error) {
	rd, err := b.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(rd)
	return data, errors.Join(err, rd.Close())
}

func wantContent(t *testing.T, b backend.Files, name string, want []byte) {
	t.Helper()
	got, err := read(t.Context(), b, name)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("Get %s: %d bytes that are as put: %v, of %d, %v", name, len(got), bytes.Equal(got, want), len(want), err)
	}
	info, err := b.Stat(t.Context(), name)
	if err != nil || info.Size != int64(len(want)) || info.Name != name {
		t.Fatalf("Stat %s: %+v, %v, want size %d", name, info, err, len(want))
	}
	if age := time.Since(info.ModTime); age > time.Hour || age < -time.Hour {
		t.Errorf("Stat %s: changed at %v", name, info.ModTime)
	}
}

func names(t *testing.T, b backend.Files, dir string) []string {
	t.Helper()
	var names []string
	err := b.List(t.Context(), dir, func(name string) error {
		names = append(names, name)
		return nil
	})
	if ignoreNotExist(err) != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func wantNames(t *testing.T, b backend.Files, dir string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := names(t, b, dir); !slices.Equal(got, want) {
		t.Fatalf("List %q: got %d names, want %d\n%s\n%s", dir, len(got), len(want),
			strings.Join(got[:min(len(got), 9)], " "), strings.Join(want[:min(len(want), 9)], " "))
	}
}

func testCreate(t *testing.T, b backend.Backend) {
	if _, err := backend.GetBytes(t.Context(), b, backend.ConfigName, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("configuration before Create: %v", err)
	}
	for range 2 { // as after one that was cut off
		if err := b.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pack := FileName(backend.PackfilesDir, 1)
	create(t, b)
	put(t, b, pack, []byte("x"))
	var occupied *backend.OccupiedError
	if err := b.Create(t.Context()); !errors.As(err, &occupied) {
		t.Errorf("Create where a store is: %v", err)
	}
	if err := b.Remove(t.Context(), backend.ConfigName); err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context()); !errors.Is(err, backend.ErrOrphaned) {
		t.Errorf("Create where packfiles are: %v", err)
	}
}

func testPutGet(t *testing.T, b backend.Backend) {
	create(t, b)
	var all []string
	for i, dir := range []string{backend.PackfilesDir, backend.StatesDir, backend.LocksDir} {
		var here []string
		for j, size := range []int{0, 1, 1 << 10, 1<<20 + 7} {
			name, data := FileName(dir, uint64(10*i+j)), content(uint64(size), size)
			put(t, b, name, data)
			wantContent(t, b, name, data)
			here = append(here, name)
		}
		wantNames(t, b, dir, here...)
		all = append(all, here...)
	}
	wantContent(t, b, backend.ConfigName, []byte("config"))
	wantNames(t, b, "", append(all, backend.ConfigName)...)
}

func testRanges(t *testing.T, b backend.Backend) {
	create(t, b)
	name, data := FileName(backend.PackfilesDir, 1), content(1, 100_000)
	put(t, b, name, data)
	for _, r := range []struct{ offset, length int64 }{
		{0, -1}, {0, 0}, {0, 1}, {0, 100_000}, {1, 99_999}, {99_999, 1}, {50_000, 1000}, {70_000, -1},
		{99_999, 100}, {100_000, 10}, {200_000, 10}, {100_000, -1}, {0, 1 << 40},
	} {
		want := data[min(r.offset, 100_000):]
		if r.length >= 0 {
			want = want[:min(r.length, int64(len(want)))]
		}
		rd, err := b.Get(t.Context(), name, r.offset, r.length)
		if err != nil {
			t.Fatalf("Get %+v: %v", r, err)
		}
		got, err := io.ReadAll(rd)
		if err := errors.Join(err, rd.Close()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("Get %+v: %d bytes, want %d, %v", r, len(got), len(want), err)
		}
	}
}

func testMissing(t *testing.T, b backend.Backend) {
	for _, created := range []bool{false, true} {
		if created {
			create(t, b)
			put(t, b, FileName(backend.PackfilesDir, 2), []byte("another"))
		}
		name := FileName(backend.PackfilesDir, 1)
		for _, name := range []string{name, FileName(backend.StatesDir, 1), FileName(backend.LocksDir, 1)} {
			if rd, err := b.Get(t.Context(), name, 0, -1); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Get %s: %v, %v", name, rd, err)
			}
			if rd, err := b.Get(t.Context(), name, 5, 5); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Get %s, a part: %v, %v", name, rd, err)
			}
			if _, err := b.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Stat %s: %v", name, err)
			}
			if err := ignoreNotExist(b.Remove(t.Context(), name)); err != nil {
				t.Errorf("Remove %s: %v", name, err)
			}
		}
	}
}

func testReplace(t *testing.T, b backend.Backend) {
	create(t, b)
	name := FileName(backend.StatesDir, 1)
	for i, size := range []int{5000, 10, 0, 20_000} {
		data := content(uint64(i), size)
		put(t, b, name, data)
		wantContent(t, b, name, data)
		wantNames(t, b, backend.StatesDir, name)
	}
	if err := b.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat after Remove: %v", err)
	}
	wantNames(t, b, backend.StatesDir)
}

func testLarge(t *testing.T, b backend.Backend) {
	create(t, b)
	largeBytes := largeBytes
	if testing.Short() {
		largeBytes /= 8
	}
	name, data := FileName(backend.PackfilesDir, 1), content(1, largeBytes)
	// Not a bytes.Reader: what is put cannot be read a second time.
	n, err := b.Put(t.Context(), name, io.MultiReader(bytes.NewReader(data[:12345]), bytes.NewReader(data[12345:])))
	if err != nil || n != int64(largeBytes) {
		t.Fatalf("Put: %d, %v", n, err)
	}
	wantContent(t, b, name, data)
	for _, offset := range []int{0, largeBytes/4 - 1100, largeBytes / 2, largeBytes - 20} {
		rd, err := b.Get(t.Context(), name, int64(offset), 20)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(rd)
		if err := errors.Join(err, rd.Close()); err != nil || !bytes.Equal(got, data[offset:offset+20]) {
			t.Errorf("Get at %d: %x, want %x, %v", offset, got, data[offset:offset+20], err)
		}
	}
}

func testList(t *testing.T, b backend.Backend) {
	create(t, b)
	wantNames(t, b, backend.PackfilesDir)
	want := make([]string, manyFiles)
	var group errgroup
	for i := range want {
		want[i] = FileName(backend.PackfilesDir, uint64(i))
	}
	for part := range slices.Chunk(want, 100) {
		group.do(func() error {
			for _, name := range part {
				if err := backend.PutBytes(t.Context(), b, name, []byte(name)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.wait(t)
	put(t, b, FileName(backend.StatesDir, 1), nil)
	put(t, b, FileName(backend.LocksDir, 1), nil)
	wantNames(t, b, backend.PackfilesDir, want...)
	wantNames(t, b, backend.StatesDir, FileName(backend.StatesDir, 1))
	wantNames(t, b, backend.LocksDir, FileName(backend.LocksDir, 1))

	n, enough := 0, errors.New("enough")
	err := b.List(t.Context(), backend.PackfilesDir, func(string) error {
		if n++; n == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != 3 {
		t.Errorf("List that was ended: %d names, %v", n, err)
	}
}

// errgroup runs functions that return errors beside each other.
type errgroup struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	errs []error // guarded by mu
}

func (g *errgroup) do(fn func() error) {
	g.wg.Go(func() {
		err := fn()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.errs = append(g.errs, err)
	})
}

func (g *errgroup) wait(t *testing.T) {
	t.Helper()
	g.wg.Wait()
	if err := errors.Join(g.errs...); err != nil {
		t.Fatal(err)
	}
}

func testListWhileWriting(t *testing.T, b backend.Backend) {
	create(t, b)
	var before []string
	for i := range uint64(50) {
		name := FileName(backend.PackfilesDir, i)
		put(t, b, name, []byte("before"))
		before = append(before, name)
	}
	var group errgroup
	done := make(chan struct{})
	group.do(func() error {
		defer close(done)
		for i := uint64(50); i < 150; i++ {
			if err := backend.PutBytes(t.Context(), b, FileName(backend.PackfilesDir, i), content(i, 3000)); err != nil {
				return err
			}
		}
		return nil
	})
	for writing := true; writing; {
		select {
		case <-done:
			writing = false
		default:
		}
		listed := names(t, b, backend.PackfilesDir)
		for _, name := range before {
			if !slices.Contains(listed, name) {
				t.Errorf("%s is not listed", name)
			}
		}
		for _, name := range listed {
			if dir, base, ok := cutLast(name); !ok || len(base) != 64 || dir != backend.PackfilesDir+"/"+base[:2] {
				t.Errorf("listed: %q", name)
			}
		}
	}
	group.wait(t)
	if got := len(names(t, b, backend.PackfilesDir)); got != 150 {
		t.Errorf("%d files in the end", got)
	}
}

func cutLast(name string) (dir, base string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

// brokenSource yields some bytes and then an error.
type brokenSource struct {
	rd  io.Reader
	err error
}

func (s *brokenSource) Read(p []byte) (int, error) {
	n, err := s.rd.Read(p)
	if err == io.EOF {
		err = s.err
	}
	return n, err
}

func testSourceFails(t *testing.T, b backend.Backend) {
	create(t, b)
	errSource := errors.New("source fails")
	for i, size := range []int{0, 1000, 20 << 20} {
		for _, exists := range []bool{false, true} {
			name := FileName(backend.PackfilesDir, uint64(i))
			if exists {
				put(t, b, name, []byte("older"))
			}
			_, err := b.Put(t.Context(), name, &brokenSource{bytes.NewReader(content(1, size)), errSource})
			if !errors.Is(err, errSource) {
				t.Errorf("Put of a source that fails after %d bytes: %v", size, err)
			}
			if exists {
				wantContent(t, b, name, []byte("older"))
			} else if _, err := b.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after a source that fails after %d bytes: %v", size, err)
			}
		}
	}
}

// testNeverHalf reads a file that is replaced all the time.
func testNeverHalf(t *testing.T, b backend.Backend) {
	create(t, b)
	name := FileName(backend.StatesDir, 1)
	versions := [][]byte{content(1, 300_000), content(2, 2<<20), content(3, 7)}
	put(t, b, name, versions[0])
	var group errgroup
	done := make(chan struct{})
	group.do(func() error {
		defer close(done)
		for i := range 30 {
			if err := backend.PutBytes(t.Context(), b, name, versions[i%len(versions)]); err != nil {
				return err
			}
		}
		return nil
	})
	for range 3 {
		group.do(func() error {
			for {
				select {
				case <-done:
					return nil
				default:
				}
				got, err := read(t.Context(), b, name)
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(versions, func(v []byte) bool { return bytes.Equal(v, got) }) {
					return fmt.Errorf("read %d bytes that are no version", len(got))
				}
			}
		})
	}
	group.wait(t)
}

func testConcurrent(t *testing.T, b backend.Backend) {
	create(t, b)
	var group errgroup
	for w := range uint64(12) {
		group.do(func() error {
			for i := range uint64(8) {
				n := 100*w + i
				name, data := FileName(backend.PackfilesDir, n), content(n, int(n)*100)
				if err := backend.PutBytes(t.Context(), b, name, data); err != nil {
					return err
				}
				got, err := read(t.Context(), b, name)
				if err != nil || !bytes.Equal(got, data) {
					return fmt.Errorf("file %d: %d bytes, want %d, %w", n, len(got), len(data), err)
				}
				if i%2 == 0 {
					if err := b.Remove(t.Context(), name); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	group.wait(t)
	if got := len(names(t, b, backend.PackfilesDir)); got != 12*4 {
		t.Errorf("%d files are left, want %d", got, 12*4)
	}
}

// cancellingSource cancels a context when some bytes were read.
type cancellingSource struct {
	rd     io.Reader
	cancel func()
}

func (s *cancellingSource) Read(p []byte) (int, error) {
	s.cancel()
	return s.rd.Read(p)
}

func testCancel(t *testing.T, b backend.Backend) {
	create(t, b)
	there, name := FileName(backend.PackfilesDir, 1), FileName(backend.PackfilesDir, 2)
	put(t, b, there, []byte("there"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Put(ctx, name, strings.NewReader("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if _, err := b.Get(ctx, there, 0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: %v", err)
	}
	if _, err := b.Stat(ctx, there); !errors.Is(err, context.Canceled) {
		t.Errorf("Stat: %v", err)
	}
	// A list that ends because of this must not look complete.
	if err := b.List(ctx, "", func(string) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("List: %v", err)
	}
	if err := b.Remove(ctx, there); !errors.Is(err, context.Canceled) {
		t.Errorf("Remove: %v", err)
	}
	sizes := []int{1000, 40 << 20}
	if testing.Short() {
		sizes[1] = 2 << 20
	}
	for _, size := range sizes {
		ctx, cancel := context.WithCancel(t.Context())
		data := content(1, size)
		_, err := b.Put(ctx, name, &cancellingSource{bytes.NewReader(data), cancel})
		cancel()
		got, gerr := read(t.Context(), b, name)
		if err == nil && (gerr != nil || !bytes.Equal(got, data)) || err != nil && !errors.Is(gerr, fs.ErrNotExist) {
			t.Errorf("%d bytes, cancelled in the middle: Put %v, then %d bytes, %v", size, err, len(got), gerr)
		}
		if err := ignoreNotExist(b.Remove(t.Context(), name)); err != nil {
			t.Fatal(err)
		}
	}
	wantNames(t, b, "", backend.ConfigName, there)
}

func testSweep(t *testing.T, b backend.Backend) {
	if err := b.Sweep(t.Context(), time.Now()); err != nil {
		t.Errorf("Sweep of nothing: %v", err)
	}
	create(t, b)
	name, data := FileName(backend.PackfilesDir, 1), content(1, 20<<20)
	put(t, b, name, data)
	if err := b.Sweep(t.Context(), time.Now().Add(100*time.Hour)); err != nil {
		t.Error(err)
	}
	wantContent(t, b, name, data)
	wantNames(t, b, "", backend.ConfigName, name)
}

// Fault is something that goes wrong below a backend.
type Fault struct {
	Name string
	// Start makes it go wrong, until it is called off.
	Start func() (stop func())
	// Size is that of the larger file that is put meanwhile; 0: what no backend puts in one piece, 21 MiB.
	Size int
	// Refuses says that the first Put of that file must fail.
	Refuses bool
}

// TestBackendFaults puts files while something goes wrong. Whatever Put says must be so, and
// when all is well again another attempt works.
func TestBackendFaults(t *testing.T, open func(t *testing.T) (backend.Backend, []Fault)) {
	b, faults := open(t)
	create(t, b)
	want := []string{backend.ConfigName}
	older := content(99, 50_000)
	for i, fault := range faults {
		t.Run(fault.Name, func(t *testing.T) {
			sizes := []int{3000, cmp.Or(fault.Size, 21<<20)}
			if testing.Short() {
				sizes[1] = min(sizes[1], 2<<20)
			}
			for j, size := range sizes {
				data := content(uint64(j), size)
				existing := FileName(backend.PackfilesDir, uint64(100*i+10*j))
				fresh := FileName(backend.PackfilesDir, uint64(100*i+10*j+1))
				put(t, b, existing, older)
				stop := fault.Start()
				_, err1 := b.Put(t.Context(), existing, io.MultiReader(bytes.NewReader(data)))
				_, err2 := b.Put(t.Context(), fresh, io.MultiReader(bytes.NewReader(data)))
				stop()
				t.Logf("%d bytes: %v; %v", size, err1, err2)
				if fault.Refuses && j > 0 && err1 == nil {
					t.Errorf("%d bytes are acknowledged", size)
				}

				got, err := read(t.Context(), b, existing)
				if isNew := bytes.Equal(got, data); err != nil || !isNew && (err1 == nil || !bytes.Equal(got, older)) {
					t.Errorf("replaced: Put %v, then %d bytes, %v", err1, len(got), err)
				}
				got, err = read(t.Context(), b, fresh)
				if isNew := err == nil && bytes.Equal(got, data); !isNew && (err2 == nil || !errors.Is(err, fs.ErrNotExist)) {
					t.Errorf("fresh: Put %v, then %d bytes, %v", err2, len(got), err)
				}
				for _, name := range []string{existing, fresh} {
					put(t, b, name, data)
					wantContent(t, b, name, data)
					want = append(want, name)
				}
				wantNames(t, b, "", want...)
			}
			testReadFaults(t, b, fault, want)
		})
	}
}

// testReadFaults reads and lists while something goes wrong: right, or an error, and never
// that something is not there.
func testReadFaults(t *testing.T, b backend.Backend, fault Fault, want []string) {
	name := want[len(want)-1]
	data, err := read(t.Context(), b, name)
	if err != nil {
		t.Fatal(err)
	}
	stop := fault.Start()
	got, err := read(t.Context(), b, name)
	var listed []string
	lerr := b.List(t.Context(), "", func(name string) error {
		listed = append(listed, name)
		return nil
	})
	_, serr := b.Stat(t.Context(), name)
	stop()
	t.Logf("Get %v, List %v, Stat %v", err, lerr, serr)
	if err == nil && !bytes.Equal(got, data) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get: %d bytes of %d, %v", len(got), len(data), err)
	}
	if lerr == nil && len(listed) != len(want) || errors.Is(lerr, fs.ErrNotExist) {
		t.Errorf("List: %d names of %d, %v", len(listed), len(want), lerr)
	}
	if errors.Is(serr, fs.ErrNotExist) {
		t.Errorf("Stat: %v", serr)
	}
}
