package snapshotter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/resources"
	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// counted is a Content that counts how often it is opened.
type counted struct {
	bytesContent
	opens *int
}

func (c counted) Open(ctx context.Context) (io.ReadCloser, error) {
	*c.opens++
	return c.bytesContent.Open(ctx)
}

// feed has all of data ingested, at the end of each of the sizes and at the end.
func feed(tb testing.TB, g *snapshotter.Ingest, data []byte, sizes ...int) error {
	tb.Helper()
	for _, size := range sizes {
		// What has not arrived must not be read.
		if err := g.Feed(tb.Context(), bytes.NewReader(data[:size]), int64(size), false); err != nil {
			return err
		}
		if size%2 == 0 {
			g.Rest()
		}
	}
	return g.Feed(tb.Context(), bytes.NewReader(data), int64(len(data)), true)
}

// ingest has all of data ingested, and makes sure that each byte was seen once.
func (r *rig) ingest(data []byte, sizes ...int) *snapshotter.Ingest {
	r.t.Helper()
	var seen bytes.Buffer
	g := r.NewIngest(&seen)
	if err := feed(r.t, g, data, sizes...); err != nil {
		r.t.Fatalf("ingest: %v", err)
	}
	if !bytes.Equal(seen.Bytes(), data) {
		r.t.Fatal("what was seen is not the file")
	}
	return g
}

// arrived is the change that makes a file which was ingested, and the count of how often its
// content is read.
func arrived(p string, version uint64, data []byte, g *snapshotter.Ingest) (snapshotter.Change, *int) {
	c := put(p, file(version, ""))
	opens := new(int)
	c.Content, c.Ingested = counted{data, opens}, g
	return c, opens
}

// packSizes lists the packfiles of a store and their sizes.
func packSizes(t *testing.T, s *store.Store) map[string]int64 {
	t.Helper()
	return packfiles(t, filepath.Dir(strings.TrimPrefix(s.Location(), "fs://")))
}

func total(sizes map[string]int64) (n int64) {
	for _, size := range sizes {
		n += size
	}
	return n
}

// TestIngestMakesTheSameSnapshot: what was ingested while it arrived, in whatever pieces,
// becomes the same objects and entries as what a commit reads, and is not read again.
func TestIngestMakesTheSameSnapshot(t *testing.T) {
	text := []byte(strings.Repeat("all work and no play makes jack a dull boy\n", 500_000))
	random := randomBytes(t, 27<<20+12345)
	for name, option := range map[string]func(*store.Config){"encrypted": func(*store.Config) {}, "plaintext": storetest.Plaintext} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, option)
			changes := []snapshotter.Change{put("/", dir(0))}
			var opened []*int
			for i, f := range []struct {
				data  []byte
				sizes []int
			}{
				{random, []int{9 << 20, 17<<20 + 1, 17<<20 + 1, 27 << 20}},
				{random[:8<<20], nil},
				{random[:100], nil},
				{text, []int{1 << 20, 8<<20 + 3, 20 << 20}},
				{make([]byte, 9<<20), []int{8<<20 + 1}},
			} {
				c, opens := arrived(fmt.Sprintf("/f%d.bin", i), uint64(i+1), f.data, r.ingest(f.data, f.sizes...))
				changes, opened = append(changes, c), append(opened, opens)
			}
			early := r.commit(snapshotter.ID{}, changes...)
			for i, n := range opened {
				if *n != 0 {
					t.Errorf("file %d was read %d times by the commit", i, *n)
				}
			}
			for i := range changes {
				changes[i].Ingested = nil
			}
			late := r.commit(snapshotter.ID{}, changes...)
			got, err := r.Contents(early)
			want, werr := r.Contents(late)
			if err := errors.Join(err, werr); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("a commit without (-) and with (+) what was ingested:\n%s", d)
			}
			if err := r.Check(t.Context(), early); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestIngestStoresOnce: what the store has is not put again, nor is what somebody else puts
// at the same time.
func TestIngestStoresOnce(t *testing.T) {
	r := newRig(t)
	data := randomBytes(t, 24<<20)
	a, b := r.NewIngest(io.Discard), r.NewIngest(io.Discard)
	var both sync.WaitGroup
	for _, g := range []*snapshotter.Ingest{a, b} {
		both.Go(func() {
			if err := feed(t, g, data, 12<<20, 20<<20); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	first, _ := arrived("/a", 1, data, a)
	second, _ := arrived("/b", 2, data, b)
	id := r.commit(snapshotter.ID{}, put("/", dir(0)), first, second)
	if n := total(packSizes(t, r.store)); n > int64(len(data))+1<<20 {
		t.Errorf("%d bytes in the store of one content of %d", n, len(data))
	}
	before := packSizes(t, r.store)
	again, opens := arrived("/a", 3, data, r.ingest(data, 16<<20))
	id = r.commit(id, again)
	if n := total(packSizes(t, r.store)) - total(before); n > 64<<10 || *opens != 0 {
		t.Errorf("the same bytes once more: the store grew by %d bytes, they were read %d times", n, *opens)
	}
	if err := r.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// TestIngestGivenUp: what was put for an upload that came to nothing is known to the store
// after the next commit, and of use for the next one who brings the same bytes.
func TestIngestGivenUp(t *testing.T) {
	r := newRig(t)
	data := randomBytes(t, 24<<20)
	g := r.NewIngest(io.Discard)
	if err := g.Feed(t.Context(), bytes.NewReader(data), int64(len(data)), false); err != nil {
		t.Fatal(err)
	}
	g.Rest()
	done := g.Offset()
	if done < 16<<20 {
		t.Fatalf("%d bytes ingested", done)
	}
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	r.expect(first, baseTree())

	other := newSnapshotter(t, storetest.Open(t, otherConfig(r.store)))
	before := total(packSizes(t, r.store))
	x := put("/x", file(20, string(data[:done])))
	m := meta(2)
	m.Parent = first
	id, err := other.Commit(t.Context(), first, seq([]snapshotter.Change{x}), m)
	if err != nil {
		t.Fatal(err)
	}
	if n := total(packSizes(t, r.store)) - before; n > 4<<20 { // its last chunk ends elsewhere
		t.Errorf("the store grew by %d bytes for what was put before", n)
	}
	r.expect(id, with(map[string]*item{"/x": ptr(file(20, string(data[:done])))}))
}

// TestIngestLost takes packfiles away, in the ways of maintenance, after what was ingested
// is in them: the commit reads the file itself.
func TestIngestLost(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, r *rig, packs map[string]int64){
		"removed": func(t *testing.T, _ *rig, packs map[string]int64) {
			for p := range packs {
				if err := os.Remove(p); err != nil {
					t.Fatal(err)
				}
				return
			}
		},
		"marked": func(t *testing.T, r *rig, packs map[string]int64) {
			for p := range packs {
				mac, err := snapshotter.ParseID(filepath.Base(p))
				if err != nil {
					t.Fatal(err)
				}
				colour(t, r, objects.MAC(mac))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			base := r.commit(snapshotter.ID{}, baseTree().all()...)
			before := packSizes(t, r.store)
			data := randomBytes(t, 34<<20)
			x, opens := arrived("/x", 20, data, r.ingest(data))
			r.FlushEarly()
			packs := packSizes(t, r.store)
			for p := range before {
				delete(packs, p)
			}
			if len(packs) < 2 {
				t.Fatalf("%d packfiles were put ahead of the commit", len(packs))
			}
			lose(t, r, packs)
			id := r.commit(base, x)
			if *opens != 1 {
				t.Errorf("the file was read %d times", *opens)
			}
			r.expect(id, with(map[string]*item{"/x": ptr(file(20, string(data)))}))
		})
	}
}

// colour marks a packfile for removal, as maintenance does that runs elsewhere.
func colour(t *testing.T, r *rig, mac objects.MAC) {
	t.Helper()
	repo := storetest.Open(t, otherConfig(r.store)).Repository()
	id := objects.RandomMAC()
	cache, err := repo.AppContext().GetCache().Scan(id)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	w := repo.NewRepositoryWriter(cache, id, repository.DefaultType, "")
	w.PackerManager.Wait()
	if err := errors.Join(w.DeleteStateResource(resources.RT_PACKFILE, mac), w.CommitTransaction(id)); err != nil {
		t.Fatal(err)
	}
}

// TestIngestWhileStoreIsAway: an upload is left to its commit when the store goes away in the
// middle of it, and nothing is added to a store that somebody maintains.
func TestIngestWhileStoreIsAway(t *testing.T) {
	data := randomBytes(t, 40<<20)
	for name, hinder := range map[string]func(t *testing.T, r *rig) (end func()){
		"away": func(t *testing.T, r *rig) func() {
			path := strings.TrimPrefix(r.store.Location(), "fs://")
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := os.Rename(path+".away", path); err != nil {
					t.Fatal(err)
				}
			}
		},
		"maintained": func(t *testing.T, r *rig) func() { return storetest.LockExclusively(t, r.store, "vault") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			base := r.commit(snapshotter.ID{}, baseTree().all()...)
			g := r.NewIngest(io.Discard)
			if err := g.Feed(t.Context(), bytes.NewReader(data), 20<<20, false); err != nil {
				t.Fatal(err)
			}
			before := packSizes(t, r.store)
			end := hinder(t, r)
			// That it goes wrong may show with these bytes only, or when they are written.
			err := g.Feed(t.Context(), bytes.NewReader(data), int64(len(data)), true)
			r.FlushEarly()
			end()
			if d := cmp.Diff(before, packSizes(t, r.store)); d != "" {
				t.Errorf("the store has changed:\n%s", d)
			}
			x, opens := arrived("/x", 20, data, g)
			if err != nil {
				x.Ingested = nil
			}
			id := r.commit(base, x)
			if *opens != 1 {
				t.Errorf("the file was read %d times", *opens)
			}
			r.expect(id, with(map[string]*item{"/x": ptr(file(20, string(data)))}))
		})
	}
}

// TestIngestSurvivesFailedCommits: a commit that fails after it has taken over what was
// ingested leaves it to the next one.
func TestIngestSurvivesFailedCommits(t *testing.T) {
	fsys := storetest.NewFaultFS()
	r := newRig(t, func(cfg *store.Config) { cfg.Disk = fsys })
	base := r.commit(snapshotter.ID{}, baseTree().all()...)
	data := randomBytes(t, 20<<20)
	x, opens := arrived("/x", 20, data, r.ingest(data))
	errChanges := errors.New("journal unreadable")
	var broken iter.Seq2[snapshotter.Change, error] = func(yield func(snapshotter.Change, error) bool) {
		_ = yield(x, nil) && yield(snapshotter.Change{}, errChanges)
	}
	if _, err := r.Commit(t.Context(), base, broken, meta(2)); !errors.Is(err, errChanges) {
		t.Errorf("got %v, want %v", err, errChanges)
	}
	fsys.Fail(func(op storetest.Op, path string) error {
		if op == storetest.OpSync && strings.Contains(path, "states") {
			return errors.New("disk on fire")
		}
		return nil
	})
	if _, err := r.Commit(t.Context(), base, seq([]snapshotter.Change{x}), meta(2)); err == nil {
		t.Error("a commit on a failing disk succeeded")
	}
	fsys.Fail(nil)
	id := r.commit(base, x)
	if *opens != 0 {
		t.Errorf("the file was read %d times", *opens)
	}
	want := with(map[string]*item{"/x": ptr(file(20, string(data)))})
	r.expect(id, want)

	// A rebuild by kloset's Builder reads it, and puts no chunk twice.
	before := total(packSizes(t, r.store))
	more := randomBytes(t, 20<<20)
	y, _ := arrived("/y", 21, more, r.ingest(more))
	m := meta(9)
	m.Parent = id
	id, err := r.Rebuild(t.Context(), id, seq([]snapshotter.Change{y}), m)
	if err != nil {
		t.Fatal(err)
	}
	if n := total(packSizes(t, r.store)) - before; n > int64(len(more))+1<<20 {
		t.Errorf("the store grew by %d bytes by a file of %d", n, len(more))
	}
	want["/y"] = file(21, string(more))
	r.expect(id, want)
}

// TestIngestOfAnotherFile: an Ingest that is not finished, or of another size, is not used.
func TestIngestOfAnotherFile(t *testing.T) {
	r := newRig(t)
	base := r.commit(snapshotter.ID{}, baseTree().all()...)
	data := randomBytes(t, 9<<20)
	half := r.NewIngest(io.Discard)
	if err := half.Feed(t.Context(), bytes.NewReader(data), int64(len(data)), false); err != nil {
		t.Fatal(err)
	}
	for i, g := range []*snapshotter.Ingest{half, r.ingest(data[:len(data)-1])} {
		x, opens := arrived("/x", uint64(20+i), data, g)
		base = r.commit(base, x)
		if *opens != 1 {
			t.Errorf("case %d: the file was read %d times", i, *opens)
		}
	}
	r.expect(base, with(map[string]*item{"/x": ptr(file(21, string(data)))}))
	if err := half.Feed(t.Context(), bytes.NewReader(data), 1, true); err == nil {
		t.Error("a file that has become shorter was taken")
	}
}

// TestIngestEndsWithTheSnapshotter: nothing is left running, and later bytes are refused.
func TestIngestEndsWithTheSnapshotter(t *testing.T) {
	s := storetest.New(t)
	snap, err := snapshotter.New(t.Context(), snapshotter.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	before := settled()
	data := randomBytes(t, 30<<20)
	g := snap.NewIngest(io.Discard)
	if err := g.Feed(t.Context(), bytes.NewReader(data), 20<<20, false); err != nil {
		t.Fatal(err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	if err := g.Feed(t.Context(), bytes.NewReader(data), int64(len(data)), true); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: got %v, want %v", err, context.Canceled)
	}
	if n := goroutines(before); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}
