package snapshotter_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

func TestViewIsAnFS(t *testing.T) {
	r := newRig(t)
	id := r.commit(snapshotter.ID{}, baseTree().all()...)
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	err = fstest.TestFS(v.FS(t.Context()), "a", "a/one", "a/sub", "a/sub/deep", "a/sub/link", "a.b", "b/two", "empty", "zero")
	if err != nil {
		t.Error(err)
	}
}

func TestViewErrors(t *testing.T) {
	r := newRig(t)
	id := r.commit(snapshotter.ID{}, baseTree().all()...)
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	lstat := func(ctx context.Context, p string) error { _, err := v.Lstat(ctx, p); return err }
	readDir := func(ctx context.Context, p string) error { _, err := v.ReadDir(ctx, p, "", 10); return err }
	open := func(ctx context.Context, p string) error { _, err := v.Open(ctx, p); return err }
	tests := []struct {
		name string
		do   func(context.Context, string) error
		dead bool // the context is cancelled
		path string
		want error
	}{
		{"lstat missing", lstat, false, "/nope", fs.ErrNotExist},
		{"lstat below missing", lstat, false, "/nope/x", fs.ErrNotExist},
		{"lstat below a file", lstat, false, "/a.b/x", fs.ErrNotExist},
		{"lstat relative", lstat, false, "a", fs.ErrInvalid},
		{"lstat dotted", lstat, false, "/a/../b", fs.ErrInvalid},
		{"lstat canceled", lstat, true, "/a", context.Canceled},
		{"list missing", readDir, false, "/nope", fs.ErrNotExist},
		{"list a file", readDir, false, "/a.b", fs.ErrInvalid},
		{"list a symlink", readDir, false, "/a/sub/link", fs.ErrInvalid},
		{"open missing", open, false, "/nope", fs.ErrNotExist},
		{"open a directory", open, false, "/a", fs.ErrInvalid},
		{"open a symlink", open, false, "/a/sub/link", fs.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			if tt.dead {
				ctx = canceled
			}
			if err := tt.do(ctx, tt.path); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if _, err := r.View(t.Context(), snapshotter.ID{1}); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("unknown snapshot: got %v, want ErrNoSnapshot", err)
	}
}

// TestReadDirFromAnywhere lists a directory from after every name there is, and some
// there are not, before and after it was read through.
func TestReadDirFromAnywhere(t *testing.T) {
	const n = 300
	want := tree{"/": dir(0)}
	for i := range n {
		want[fmt.Sprintf("/%04d", 2*i)] = file(uint64(i+1), "")
	}
	r := newRig(t)
	v, err := r.View(t.Context(), r.commit(snapshotter.ID{}, want.all()...))
	if err != nil {
		t.Fatal(err)
	}
	check := func(i int) {
		t.Helper()
		entries, err := v.ReadDir(t.Context(), "/", fmt.Sprintf("%04d", i), 2)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name)
		}
		var exp []string
		for k := i/2 + 1; k < n && len(exp) < 2; k++ {
			exp = append(exp, fmt.Sprintf("%04d", 2*k))
		}
		if fmt.Sprint(got) != fmt.Sprint(exp) {
			t.Errorf("after %04d: got %v, want %v", i, got, exp)
		}
	}
	for _, i := range []int{500, 3, 598, 130, 131, 599} {
		check(i)
	}
	for i := range 2 * n {
		check(i)
	}
}

func randomBytes(tb testing.TB, n int) []byte {
	tb.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		tb.Fatal(err)
	}
	return b
}

// stored commits one file and opens it.
func (r *rig) stored(data []byte) *snapshotter.Reader {
	r.t.Helper()
	c := put("/f", file(1, ""))
	c.Content = bytesContent(data)
	v, err := r.View(r.t.Context(), r.commit(snapshotter.ID{}, put("/", dir(0)), c))
	if err != nil {
		r.t.Fatal(err)
	}
	f, err := v.Open(r.t.Context(), "/f")
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

func TestReaderAgainstBytes(t *testing.T) {
	kinds, reads := [][]func(*store.Config){nil, {storetest.Plaintext}}, 30
	if testing.Short() {
		kinds, reads = kinds[:1], 10
	}
	for _, opts := range kinds {
		s := storetest.New(t, opts...)
		// A cache of a few chunks, so that some are read again.
		r := &rig{Snapshotter: newSnapshotter(t, s, func(cfg *snapshotter.Config) { cfg.ChunkCacheBytes = 3 << 20 }), t: t, store: s}
		data := randomBytes(t, 7<<20)
		f := r.stored(data)
		if f.Size() != int64(len(data)) {
			t.Fatalf("size %d, want %d", f.Size(), len(data))
		}
		rnd := mathrand.New(mathrand.NewPCG(1, 2))
		var wg sync.WaitGroup
		for range 4 {
			offs := make([]int64, reads)
			for i := range offs {
				offs[i] = rnd.Int64N(int64(len(data)) + 100)
			}
			size := rnd.IntN(3 << 20)
			wg.Go(func() {
				for _, off := range offs {
					p := make([]byte, size)
					n, err := f.ReadAt(p, off)
					want := data[min(off, int64(len(data))):min(off+int64(size), int64(len(data)))]
					if !bytes.Equal(p[:n], want) || (err != nil && !errors.Is(err, io.EOF)) || (err == nil) != (n == size) {
						t.Errorf("ReadAt(%d bytes, %d): %d bytes, %v; want %d", size, off, n, err, len(want))
					}
				}
			})
		}
		wg.Wait()
		all := []byte(nil)
		for int64(len(all)) < f.Size() {
			n := 1 + rnd.IntN(2<<20)
			got, err := f.Slice(int64(len(all)), n)
			if err != nil || len(got) == 0 || len(got) > n {
				t.Fatalf("Slice(%d, %d): %d bytes, %v", len(all), n, len(got), err)
			}
			all = append(all, got...)
		}
		if !bytes.Equal(all, data) {
			t.Error("slices are not the content")
		}
		if got, err := f.Slice(f.Size(), 1); len(got) != 0 || err != io.EOF { //nolint:errorlint // exactly this one
			t.Errorf("slice at the end: %d bytes, %v", len(got), err)
		}
		if _, err := f.Slice(-1, 1); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("slice at a negative offset: %v", err)
		}
		if n, err := f.ReadAt(make([]byte, 1), -1); n != 0 || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("negative offset: %d, %v", n, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		if _, err := f.Slice(0, 1); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("slice after close: %v", err)
		}
	}
}

// TestReaderReportsDamage flips a byte of the content in a plaintext store, which has
// nothing but the MACs of chunks against it.
func TestReaderReportsDamage(t *testing.T) {
	dir := t.TempDir()
	cfg := storetest.Config(dir)
	storetest.Plaintext(&cfg)
	r := &rig{t: t, store: storetest.Open(t, cfg)}
	r.Snapshotter = newSnapshotter(t, r.store)
	data := randomBytes(t, 1<<20)
	f := r.stored(data)
	packs, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range packs {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		i := bytes.Index(raw, data[1000:1100]) // random bytes are stored as they are
		if i < 0 {
			continue
		}
		raw[i] ^= 1
		found = true
		if err := os.WriteFile(p, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !found {
		t.Fatal("content not found in the store")
	}
	if _, err := f.ReadAt(make([]byte, 100), 1000); err == nil || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("damaged content: got %v", err)
	}
}

func TestReaderWhileStoreIsAway(t *testing.T) {
	dir := t.TempDir()
	r := &rig{t: t, store: storetest.Open(t, storetest.Config(dir))}
	r.Snapshotter = newSnapshotter(t, r.store)
	data := randomBytes(t, 3<<20) // small contents are kept with the metadata
	f := r.stored(data)
	path := filepath.Join(dir, "store")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1000)
	if _, err := f.ReadAt(p, 0); !errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(p, 0); err != nil || !bytes.Equal(p, data[:1000]) {
		t.Errorf("after it came back: %v", err)
	}
}

// TestReadersBesideCommits reads while commits run and snapshots are listed.
func TestReadersBesideCommits(t *testing.T) {
	r := newRig(t)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				v, err := r.View(t.Context(), first)
				if err != nil {
					t.Error(err)
					return
				}
				f, err := v.Open(t.Context(), "/a/sub/deep")
				if err != nil {
					t.Error(err)
					return
				}
				p := make([]byte, 4)
				if _, err := f.ReadAt(p, 0); err != nil || string(p) != "deep" {
					t.Errorf("read %q, %v", p, err)
				}
				if _, err := r.Snapshots(t.Context(), "main"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	id := first
	for i := range 5 {
		id = r.commit(id, put(fmt.Sprintf("/n%d", i), file(uint64(100+i), strings.Repeat("x", i*1000))))
	}
	cancel()
	wg.Wait()
	if err := r.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func benchmarkReader(b *testing.B, size int, cache int64) *snapshotter.Reader {
	b.Helper()
	s := storetest.New(b)
	r := &rig{Snapshotter: newSnapshotter(b, s, func(cfg *snapshotter.Config) { cfg.ChunkCacheBytes = cache }), t: b, store: s}
	return r.stored(randomBytes(b, size))
}

func BenchmarkReadSequential32K(b *testing.B) {
	const size = 128 << 20
	f := benchmarkReader(b, size, 32<<20)
	p := make([]byte, 32<<10)
	b.SetBytes(size)
	for b.Loop() {
		for off := int64(0); off < size; off += int64(len(p)) {
			if _, err := f.ReadAt(p, off); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkReadRandom32K(b *testing.B) {
	const size = 128 << 20
	f := benchmarkReader(b, size, 8<<20)
	p := make([]byte, 32<<10)
	rnd := mathrand.New(mathrand.NewPCG(1, 2))
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := f.ReadAt(p, rnd.Int64N(size-int64(len(p)))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadWarm32K(b *testing.B) {
	f := benchmarkReader(b, 4<<20, 32<<20)
	p := make([]byte, 32<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := f.ReadAt(p, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
