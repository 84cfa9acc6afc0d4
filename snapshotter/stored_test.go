package snapshotter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// store1 puts the content of a change into the store ahead of its commit.
func (r *rig) store1(c snapshotter.Change) snapshotter.Change {
	r.t.Helper()
	stored, err := r.Store(r.t.Context(), c.Content)
	if err != nil {
		r.t.Fatalf("store %q: %v", c.Path, err)
	}
	c.Content, c.Stored = nil, stored
	return c
}

// storedTree is a tree of files of all sizes that matter to how they are stored, which are
// small for rigs made by storedRig.
func storedTree(t *testing.T) tree {
	tr := tree{"/": dir(0), "/sub": dir(1)}
	for i, size := range []int{0, 1, 100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200 << 10, 3 << 20} {
		tr[fmt.Sprintf("/f%d.bin", i)] = file(uint64(10+i), string(randomBytes(t, size)))
		tr[fmt.Sprintf("/sub/t%d.txt", i)] = file(uint64(30+i), strings.Repeat("text\n", size/5+1)[:size])
	}
	return tr
}

func storedRig(t *testing.T) *rig {
	r := newRig(t)
	snapshotter.SetChunkSizes(r.Snapshotter, 64<<10, 128<<10, 512<<10)
	return r
}

// TestStoredMakesTheSameSnapshot: files that were stored ahead of a commit become the same
// objects and entries as those that it reads, incrementally and through the Builder.
func TestStoredMakesTheSameSnapshot(t *testing.T) {
	r := newRig(t)
	want := tree{"/": dir(0), "/sub": dir(1)}
	for i, size := range []int{0, 1, 100, 512<<10 - 1, 512 << 10, 512<<10 + 1, 9 << 20} {
		want[fmt.Sprintf("/f%d.bin", i)] = file(uint64(10+i), string(randomBytes(t, size)))
		want[fmt.Sprintf("/sub/t%d.txt", i)] = file(uint64(30+i), strings.Repeat("text\n", size/5+1)[:size])
	}
	id := r.commit(snapshotter.ID{}, want.all()...)
	wantContents, err := r.Contents(id)
	if err != nil {
		t.Fatal(err)
	}
	for name, commit := range map[string]commitFunc{"incremental": r.Commit, "Builder": r.Rebuild} {
		t.Run(name, func(t *testing.T) {
			changes := want.all()
			for i, c := range changes {
				if c.Content != nil {
					changes[i] = r.store1(c)
				}
			}
			before := total(packSizes(t, r.store))
			r.n++
			id, err := commit(t.Context(), snapshotter.ID{}, seq(changes), meta(r.n))
			if err != nil {
				t.Fatal(err)
			}
			if n := total(packSizes(t, r.store)) - before; n > 256<<10 {
				t.Errorf("the store grew by %d bytes", n)
			}
			got, err := r.Contents(id)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(wantContents, got); d != "" {
				t.Errorf("read by the commit (-), stored before (+):\n%s", d)
			}
			r.expect(id, want)
		})
	}
}

// TestStoredFirst: nothing but what was stored ahead has the bytes.
func TestStoredFirst(t *testing.T) {
	for name, way := range map[string]func(*rig) commitFunc{
		"incremental": func(r *rig) commitFunc { return r.Commit },
		"Builder":     func(r *rig) commitFunc { return r.Rebuild },
	} {
		t.Run(name, func(t *testing.T) {
			r := storedRig(t)
			want := storedTree(t)
			changes := want.all()
			for i, c := range changes {
				if c.Content != nil {
					changes[i] = r.store1(c)
				}
			}
			id, err := way(r)(t.Context(), snapshotter.ID{}, seq(changes), meta(1))
			if err != nil {
				t.Fatal(err)
			}
			r.expect(id, want)
		})
	}
}

// TestStoredAsSealed: Feed and Store make the same of the same bytes.
func TestStoredAsSealed(t *testing.T) {
	r := storedRig(t)
	for p, it := range storedTree(t) {
		if it.Kind != snapshotter.File {
			continue
		}
		sealed, err := r.ingest([]byte(it.Data), len(it.Data)/2).Seal()
		if err != nil {
			t.Fatal(err)
		}
		if c := r.store1(put(p, it)); !bytes.Equal(sealed, c.Stored) {
			t.Errorf("%s: %x fed, %x stored", p, sealed, c.Stored)
		}
		if n := len(sealed); len(it.Data) <= 64<<10 && n > 96 {
			t.Errorf("%s: %d bytes for a file of one chunk", p, n)
		}
	}
	half := r.NewIngest(io.Discard)
	data := randomBytes(t, 1<<20)
	if err := half.Feed(t.Context(), bytes.NewReader(data), int64(len(data)), false); err != nil {
		t.Fatal(err)
	}
	if _, err := half.Seal(); err == nil {
		t.Error("half a file was sealed")
	}
}

// TestStoredMissing: when what was stored is not there any more, there is no snapshot, and the
// error names all the files; with a Content, or stored again, they become part of it.
func TestStoredMissing(t *testing.T) {
	for name, way := range map[string]func(*rig) commitFunc{
		"incremental": func(r *rig) commitFunc { return r.Commit },
		"Builder":     func(r *rig) commitFunc { return r.Rebuild },
	} {
		t.Run(name, func(t *testing.T) {
			r := storedRig(t)
			base := r.commit(snapshotter.ID{}, baseTree().all()...)
			before := packSizes(t, r.store)
			want := with(map[string]*item{
				"/a/x": ptr(file(20, string(randomBytes(t, 1000)))),
				"/a/y": ptr(file(21, string(randomBytes(t, 1<<20)))),
			})
			x, y := r.store1(put("/a/x", want["/a/x"])), r.store1(put("/a/y", want["/a/y"]))
			there := r.store1(put("/z", file(22, baseTree()["/b/two"].Data))) // is in the base
			want["/z"] = file(22, baseTree()["/b/two"].Data)
			r.FlushEarly()
			for p := range packSizes(t, r.store) {
				if _, old := before[p]; !old {
					if err := os.Remove(p); err != nil {
						t.Fatal(err)
					}
				}
			}
			m := meta(2)
			m.Parent = base
			_, err := way(r)(t.Context(), base, seq([]snapshotter.Change{x, y, there}), m)
			var missing *snapshotter.MissingError
			if !errors.As(err, &missing) || missing.N != 2 || len(missing.Paths) != 2 ||
				missing.Paths[0]+missing.Paths[1] != "/a/x/a/y" && missing.Paths[0]+missing.Paths[1] != "/a/y/a/x" {
				t.Fatalf("got %v, want both files to be missing", err)
			}
			if list, err := r.Snapshots(t.Context(), ""); err != nil || len(list) != 1 {
				t.Errorf("%d snapshots, %v", len(list), err)
			}
			x.Content = bytesContent(want["/a/x"].Data)
			y = r.store1(put("/a/y", want["/a/y"]))
			id, err := way(r)(t.Context(), base, seq([]snapshotter.Change{x, y, there}), m)
			if err != nil {
				t.Fatal(err)
			}
			r.expect(id, want)
		})
	}
}

// TestStoredDamaged: what is not what Store has returned, for this store, is missing.
func TestStoredDamaged(t *testing.T) {
	r := storedRig(t)
	one, many := put("/x", file(20, "x")), put("/x", file(20, string(randomBytes(t, 1<<20))))
	damaged := [][]byte{{}, {1}, storedRig(t).store1(one).Stored}
	for _, c := range []snapshotter.Change{one, many} {
		good := r.store1(c).Stored
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 0x40
			damaged = append(damaged, good[:i], bad)
			// Nor does what only the key of the store could have made do any harm.
			_ = r.Unseals(r.Reseal(bad))
			if i < len(good)-8 && r.Unseals(r.Reseal(good[:i+8])) {
				t.Errorf("%x was taken for the whole of %x", good[:i], good)
			}
		}
	}
	changes := []snapshotter.Change{put("/", dir(0))}
	for i, d := range damaged {
		x := put(fmt.Sprintf("/x%05d", i), file(20, ""))
		x.Content, x.Stored = nil, d
		changes = append(changes, x)
	}
	for name, commit := range map[string]commitFunc{"incremental": r.Commit, "Builder": r.Rebuild} {
		var missing *snapshotter.MissingError
		if _, err := commit(t.Context(), snapshotter.ID{}, seq(changes), meta(1)); !errors.As(err, &missing) || missing.N != len(damaged) {
			t.Errorf("%s: got %v, want all %d to be missing", name, err, len(damaged))
		}
	}
}

// brokenContent is a content whose bytes are not what was announced.
type brokenContent struct {
	size int64
	data []byte
	err  error
}

func (c brokenContent) Size() int64 { return c.size }

func (c brokenContent) Open(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(c.data), failingReader{c.err})), nil
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// TestStoreInsistsOnTheSize: what is shorter, longer or breaks off is not stored.
func TestStoreInsistsOnTheSize(t *testing.T) {
	r := storedRig(t)
	errLine := errors.New("line dropped")
	for _, n := range []int{100, 1 << 20} {
		data := randomBytes(t, n)
		for name, tt := range map[string]struct {
			c    brokenContent
			want error
		}{
			"shorter": {brokenContent{int64(n) + 1, data, io.EOF}, io.ErrUnexpectedEOF},
			"longer":  {brokenContent{int64(n) - 1, data, io.EOF}, io.ErrUnexpectedEOF},
			"broken":  {brokenContent{int64(n) + 9, data, errLine}, errLine},
			"late":    {brokenContent{int64(n), data, errLine}, errLine},
		} {
			if _, err := r.Store(t.Context(), tt.c); !errors.Is(err, tt.want) {
				t.Errorf("%d bytes, %s: got %v, want %v", n, name, err, tt.want)
			}
		}
	}
}

// TestStoreManySmall stores many small files from several goroutines: they share packfiles.
func TestStoreManySmall(t *testing.T) {
	r := newRig(t)
	const workers, each = 8, 250
	changes := make([]snapshotter.Change, workers*each)
	want := tree{"/": dir(0)}
	for i := range changes {
		p := fmt.Sprintf("/f%05d", i)
		want[p] = file(uint64(i+1), fmt.Sprint("content ", i, strings.Repeat(" ", i)))
		changes[i] = put(p, want[p])
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w * each; i < (w+1)*each; i++ {
				stored, err := r.Store(t.Context(), changes[i].Content)
				if err != nil {
					t.Error(err)
					return
				}
				changes[i].Content, changes[i].Stored = nil, stored
			}
		})
	}
	wg.Wait()
	id := r.commit(snapshotter.ID{}, append([]snapshotter.Change{put("/", dir(0))}, changes...)...)
	if n := len(packSizes(t, r.store)); n > 3 {
		t.Errorf("%d packfiles", n)
	}
	r.expect(id, want)
}

// TestStoreWhileStoreIsAway: that nothing can be stored now is told, and files whose bytes were
// lost in memory are missing.
func TestStoreWhileStoreIsAway(t *testing.T) {
	r := storedRig(t)
	base := r.commit(snapshotter.ID{}, baseTree().all()...)
	x := r.store1(put("/x", file(20, "x")))
	end := storetest.LockExclusively(t, r.store, "vault")
	r.FlushEarly() // what fails is known with the next one
	_, first := r.Store(t.Context(), bytesContent("y"))
	r.FlushEarly()
	_, second := r.Store(t.Context(), bytesContent("z"))
	end()
	if !errors.Is(errors.Join(first, second), snapshotter.ErrBusy) {
		t.Errorf("while another process maintains the store: got %v, %v", first, second)
	}
	var missing *snapshotter.MissingError
	if _, err := r.Commit(t.Context(), base, seq([]snapshotter.Change{x}), meta(2)); !errors.As(err, &missing) {
		t.Errorf("got %v, want the file to be missing", err)
	}
}
