package snapshotter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
)

// patched is a stored file with changes, in memory: what a client leaves that has opened it
// without truncation.
type patched struct {
	r     *rig
	patch snapshotter.Patch
	data  []byte // what it is now
}

// patch begins a change of a stored file whose bytes are data.
func (r *rig) patch(base snapshotter.ID, path string, data []byte) *patched {
	return &patched{r, snapshotter.Patch{Base: base, Path: path, Size: int64(len(data))}, bytes.Clone(data)}
}

// write writes p at off, beyond the end with zeros before it.
func (c *patched) write(off int, p []byte) {
	c.truncate(max(len(c.data), off))
	c.data = append(c.data[:off], append(bytes.Clone(p), c.data[min(off+len(p), len(c.data)):]...)...)
	begin, end := int64(off), int64(off+len(p))
	var out []snapshotter.Range
	for _, w := range c.patch.Written {
		if w.Off+w.Len < begin || w.Off > end {
			out = append(out, w)
			continue
		}
		begin, end = min(begin, w.Off), max(end, w.Off+w.Len)
	}
	i := 0
	for i < len(out) && out[i].Off < begin {
		i++
	}
	out = append(out[:i:i], append([]snapshotter.Range{{Off: begin, Len: end - begin}}, out[i:]...)...)
	c.patch.Written = out
}

// truncate sets the size.
func (c *patched) truncate(n int) {
	if n > len(c.data) {
		c.data = append(c.data, make([]byte, n-len(c.data))...)
		return
	}
	c.data = c.data[:n]
	c.patch.Size = min(c.patch.Size, int64(n))
	var out []snapshotter.Range
	for _, w := range c.patch.Written {
		if w.Len = min(w.Len, int64(n)-w.Off); w.Len > 0 {
			out = append(out, w)
		}
	}
	c.patch.Written = out
}

func (c *patched) Size() int64                      { return int64(len(c.data)) }
func (c *patched) Patch() (snapshotter.Patch, bool) { return c.patch, true }

func (c *patched) Open(context.Context) (io.ReadCloser, error) {
	return nil, errors.New("a patched content is read as a whole")
}

// OpenAt reads what was not written from the store, as a gateway does.
func (c *patched) OpenAt(ctx context.Context) (snapshotter.ReaderAt, error) {
	v, err := c.r.View(ctx, c.patch.Base)
	if err != nil {
		return nil, err
	}
	f, err := v.Open(ctx, c.patch.Path)
	if err != nil {
		return nil, err
	}
	return overlay{f, c}, nil
}

type overlay struct {
	*snapshotter.Reader
	c *patched
}

func (o overlay) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, o.c.data[off:])
	for i := 0; i < n; {
		end := o.c.unchanged(off+int64(i), off+int64(n))
		if end == off+int64(i) {
			i++
			continue
		}
		m := int(end-off) - i
		if _, err := o.Reader.ReadAt(p[i:i+m], off+int64(i)); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		i += m
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// unchanged returns where the unchanged part that begins at begin ends, at most at end.
func (c *patched) unchanged(begin, end int64) int64 {
	end = max(begin, min(end, c.patch.Size))
	for _, w := range c.patch.Written {
		switch {
		case w.Off <= begin && begin < w.Off+w.Len:
			return begin
		case w.Off > begin:
			end = min(end, w.Off)
		}
	}
	return end
}

// bytesLike returns n bytes of one of several kinds, as the chunker sees them: random, of few
// cuts (the longest chunks), and mixed.
func bytesLike(rng *rand.Rand, n int) []byte {
	p := make([]byte, n)
	kind := rng.IntN(3)
	for i := 0; i < n; {
		run := min(n-i, 1+rng.IntN(20_000))
		if kind == 0 || kind == 2 && rng.IntN(2) == 0 {
			for k := i; k < i+run; k++ {
				p[k] = byte(rng.Uint32())
			}
		}
		i += run
	}
	return p
}

// The sizes of chunks in tests of many edits.
const leastChunk, normalChunk, mostChunk = 256, 1024, 4096

// edits are what clients do to stored files.
func edits() map[string]func(rng *rand.Rand, c *patched, cuts []int) {
	return map[string]func(rng *rand.Rand, c *patched, cuts []int){
		"nothing": func(*rand.Rand, *patched, []int) {},
		"overwrite": func(rng *rand.Rand, c *patched, _ []int) {
			c.write(rng.IntN(len(c.data)+1), bytesLike(rng, rng.IntN(3000)))
		},
		"one byte": func(rng *rand.Rand, c *patched, _ []int) {
			c.write(rng.IntN(len(c.data)+1), []byte{byte(rng.Uint32())})
		},
		"a byte at a cut": func(rng *rand.Rand, c *patched, cuts []int) {
			c.write(max(0, cuts[rng.IntN(len(cuts))]-1+rng.IntN(3)), []byte{byte(rng.Uint32())})
		},
		"the same bytes again": func(rng *rand.Rand, c *patched, _ []int) {
			off := rng.IntN(len(c.data) + 1)
			c.write(off, bytes.Clone(c.data[off:off+rng.IntN(len(c.data)-off+1)]))
		},
		"append":       func(rng *rand.Rand, c *patched, _ []int) { c.write(len(c.data), bytesLike(rng, 1+rng.IntN(9000))) },
		"truncate":     func(rng *rand.Rand, c *patched, _ []int) { c.truncate(rng.IntN(len(c.data) + 1)) },
		"cut at a cut": func(rng *rand.Rand, c *patched, cuts []int) { c.truncate(min(len(c.data), cuts[rng.IntN(len(cuts))])) },
		"truncate and append": func(rng *rand.Rand, c *patched, _ []int) {
			c.truncate(rng.IntN(len(c.data) + 1))
			c.write(len(c.data), bytesLike(rng, 1+rng.IntN(9000)))
		},
		"extend": func(rng *rand.Rand, c *patched, _ []int) { c.truncate(len(c.data) + rng.IntN(9000)) },
		"beyond end": func(rng *rand.Rand, c *patched, _ []int) {
			c.write(len(c.data)+rng.IntN(5000), bytesLike(rng, rng.IntN(500)))
		},
		"near the end": func(rng *rand.Rand, c *patched, _ []int) {
			c.write(max(0, len(c.data)-rng.IntN(mostChunk)), bytesLike(rng, rng.IntN(50)))
		},
		"in the first chunk": func(rng *rand.Rand, c *patched, _ []int) { c.write(0, []byte("\x89PNG\r\n\x1a\n")) },
		"many ranges": func(rng *rand.Rand, c *patched, _ []int) {
			for range 30 {
				c.write(rng.IntN(len(c.data)+1), bytesLike(rng, rng.IntN(40)))
			}
		},
	}
}

// TestPatchedEqualsWhole changes stored files at random and compares the objects that a
// commit makes of the changes with those that it makes of the whole contents, to the last
// bit. What was changed is committed first, so that the check finds chunks that are not
// stored.
func TestPatchedEqualsWhole(t *testing.T) {
	for name, edit := range edits() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			snapshotter.SetChunkSizes(r.Snapshotter, leastChunk, normalChunk, mostChunk)
			snapshotter.SetSumGroup(r.Snapshotter, 1024)
			rng := rand.New(rand.NewPCG(3, uint64(len(name))))
			const files = 12
			rounds := 4
			if testing.Short() { // the race detector sees the same again in the others
				rounds = 1
			}
			datas := make([][]byte, files)
			changes := []snapshotter.Change{put("/", dir(0))}
			for i := range datas {
				datas[i] = bytesLike(rng, []int{0, 1, leastChunk, leastChunk + 1, 100_000}[min(i, 4)])
				changes = append(changes, put(patchedName(i), file(uint64(100+i), string(datas[i]))))
			}
			id := r.commit(snapshotter.ID{}, changes...)
			for round := range rounds {
				if rng.IntN(2) == 0 {
					r.ForgetSums()
				}
				patches, wholes := changes[:0:0], changes[:0:0]
				for i := range datas {
					c := r.patch(id, patchedName(i), datas[i])
					for range 1 + rng.IntN(2) {
						edit(rng, c, r.cuts(id, patchedName(i)))
					}
					version := uint64(1000*(round+1) + i)
					changed := put(patchedName(i), file(version, ""))
					changed.Content = c
					patches, wholes = append(patches, changed), append(wholes, put(patchedName(i), file(version, string(c.data))))
					datas[i] = c.data
				}
				made := r.commitPatched(t, id, patches)
				if err := r.Check(t.Context(), made); err != nil {
					t.Fatalf("check: %v", err)
				}
				whole := r.commit(id, wholes...)
				for i := range datas {
					r.sameObject(made, whole, patchedName(i))
				}
				id = made
			}
		})
	}
}

func patchedName(i int) string { return fmt.Sprintf("/file-%02d", i) }

// commitPatched commits contents that may not be read as a whole, but for those of files that
// were, or become, empty.
func (r *rig) commitPatched(tb testing.TB, base snapshotter.ID, changes []snapshotter.Change) snapshotter.ID {
	tb.Helper()
	for i := range changes {
		if c := changes[i].Content.(*patched); c.patch.Size == 0 {
			changes[i].Content = bytesContent(c.data)
		}
	}
	return r.commit(base, changes...)
}

// cuts are where the chunks of a file begin, and its end.
func (r *rig) cuts(id snapshotter.ID, path string) []int {
	r.t.Helper()
	obj, _, err := r.Object(r.t.Context(), id, path)
	if err != nil {
		r.t.Fatal(err)
	}
	cuts := []int{0}
	for _, c := range obj.Chunks {
		cuts = append(cuts, cuts[len(cuts)-1]+int(c.Length))
	}
	return cuts
}

// sameObject compares the objects of a file in two snapshots.
func (r *rig) sameObject(got, want snapshotter.ID, path string) {
	r.t.Helper()
	a, aMAC, err := r.Object(r.t.Context(), got, path)
	if err != nil {
		r.t.Fatal(err)
	}
	b, bMAC, err := r.Object(r.t.Context(), want, path)
	if err != nil {
		r.t.Fatal(err)
	}
	if d := cmp.Diff(b, a); d != "" || aMAC != bMAC {
		r.t.Errorf("%s: object (-whole +patched):\n%s", path, d)
	}
}

// watch counts the chunks, and their bytes, that a snapshotter reads from its store.
type watch struct{ chunks, bytes atomic.Int64 }

func (r *rig) watch() *watch {
	w := new(watch)
	r.WatchChunks(func(_ objects.MAC, n int) {
		w.chunks.Add(1)
		w.bytes.Add(int64(n))
	})
	return w
}

// TestChangeReadsTheEdges has chunks of the usual size. What is appended to a file that this
// process has hashed, or written over a part of it, costs reading the chunks around it; another
// process reads the file once. Both make what kloset's Builder makes.
func TestChangeReadsTheEdges(t *testing.T) {
	for _, tt := range []struct {
		name  string
		at    func(size int) int
		known bool  // the hashes of the file
		most  int64 // chunks, when they are
	}{
		{"append", func(size int) int { return size }, true, 2},
		{"append, hashes not known", func(size int) int { return size }, false, 0},
		{"middle", func(size int) int { return size / 2 }, true, 4},
		{"middle, hashes not known", func(size int) int { return size / 2 }, false, 0},
		{"beginning", func(int) int { return 0 }, true, 7}, // readers that begin there read ahead
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			rng := rand.New(rand.NewPCG(1, 9))
			data := make([]byte, 10<<20)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			id := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/log", file(1, string(data))))
			if !tt.known {
				r.ForgetSums()
			}
			watch := r.watch()
			r.ForgetChunks()
			c := r.patch(id, "/log", data)
			c.write(tt.at(len(data)), bytes.Repeat([]byte("line\n"), 800))
			change := put("/log", file(2, ""))
			change.Content = c
			made := r.commit(id, change)
			n, all := watch.chunks.Load(), int64(len(r.cuts(id, "/log"))-1)
			if tt.known && n > tt.most || !tt.known && n != all {
				t.Errorf("read %d chunks of %d, %d bytes", n, all, watch.bytes.Load())
			}
			r.expect(made, tree{"/": dir(0), "/log": file(2, string(c.data))})
			r.sameObject(made, r.rebuild(t, id, seq([]snapshotter.Change{put("/log", file(3, string(c.data)))})), "/log")
		})
	}
}

// TestShortPatch has a content end before it should: there is no snapshot.
func TestShortPatch(t *testing.T) {
	r := newRig(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	id := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/f", file(1, string(data))))
	c := r.patch(id, "/f", data)
	c.write(len(data), []byte("more"))
	change := put("/f", file(2, ""))
	change.Content = short{c}
	m := meta(9)
	m.Parent = id
	if _, err := r.Commit(t.Context(), id, seq([]snapshotter.Change{change}), m); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("commit: got %v, want an unexpected end", err)
	}
}

// short says that it has one byte more than it has.
type short struct{ *patched }

func (s short) Size() int64 { return s.patched.Size() + 1 }

// TestUnchangedIsNotRead links a file of an old snapshot into the share: it is taken over.
func TestUnchangedIsNotRead(t *testing.T) {
	r := newRig(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	old := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/f", file(1, string(data))))
	head := r.commit(old, remove("/f"))
	r.ForgetSums()
	watch := r.watch()
	r.ForgetChunks()
	change := put("/g", file(2, ""))
	change.Content = r.patch(old, "/f", data)
	made := r.commit(head, change)
	if n := watch.chunks.Load(); n != 0 {
		t.Errorf("%d chunks were read", n)
	}
	r.expect(made, tree{"/": dir(0), "/g": file(2, string(data))})
}

// TestPatchOfLostChunks appends to a file of an old snapshot whose chunks the store has lost.
// They are stored again when their bytes are at hand; otherwise there is no snapshot.
func TestPatchOfLostChunks(t *testing.T) {
	for _, cached := range []bool{true, false} {
		t.Run(fmt.Sprint("cached=", cached), func(t *testing.T) {
			l := newLossRig(t)
			defer func() { l.stop(t) }()
			whole := baseTree()
			whole["/large"] = l.large
			l.expect(l.second, whole) // which reads it into memory
			if !cached {
				l.ForgetChunks()
			}
			removeAll(t, l.contents)
			head := l.commit(l.second, put("/x", file(30, "x"))) // without /large
			c := l.patch(l.second, "/large", []byte(l.large.Data))
			c.write(len(c.data), []byte("more"))
			change := put("/y", file(31, ""))
			change.Content = c
			m := meta(9)
			m.Parent = head
			id, err := l.Commit(t.Context(), head, seq([]snapshotter.Change{change}), m)
			if !cached {
				if !errors.Is(err, snapshotter.ErrUnavailable) {
					t.Errorf("commit: got %v, want ErrUnavailable", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := baseTree()
			want["/x"], want["/y"] = file(30, "x"), file(31, string(c.data))
			l.checkedElsewhere(t, id, want)
		})
	}
}
