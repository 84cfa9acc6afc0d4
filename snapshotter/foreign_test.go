package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/PlakarKorp/integrations/fs/importer"
	"github.com/PlakarKorp/kloset/connectors"
	klosetimporter "github.com/PlakarKorp/kloset/connectors/importer"
	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/snapshot"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// failingImporter is an importer that cannot read some paths.
type failingImporter struct {
	klosetimporter.Importer
	unreadable []string
}

func (i failingImporter) Import(ctx context.Context, records chan<- *connectors.Record, results <-chan *connectors.Result) error {
	for _, p := range i.unreadable {
		records <- connectors.NewError(p, fs.ErrPermission)
	}
	return i.Importer.Import(ctx, records, results)
}

// backup does what plakar backup does: kloset's Builder with its own packer and commit, in
// what stands for another process.
func backup(t *testing.T, s *store.Store, dir, dataset string, unreadable ...string) snapshotter.ID {
	t.Helper()
	other := storetest.Open(t, otherConfig(s))
	repo := other.Repository()
	b, err := snapshot.Create(repo, repository.DefaultType, "", objects.NilMac, &snapshot.BuilderOptions{
		Name: "default", Dataset: dataset, NoCheckpoint: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	imp, err := importer.NewFSImporter(t.Context(), &connectors.Options{Hostname: "web1", MaxConcurrency: 1}, "fs",
		map[string]string{"location": "fs://" + dir})
	if err != nil {
		t.Fatal(err)
	}
	src, err := snapshot.NewSource(t.Context(), failingImporter{imp, unreadable})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Backup(src), b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
	return snapshotter.ID(b.Header.Identifier)
}

func TestForeignSnapshots(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte(data), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/passwd", "root:x")
	write("big", strings.Repeat("0123456789", 300_000))
	if err := os.Symlink("etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}

	r := newRig(t)
	own := r.commit(snapshotter.ID{}, baseTree().all()...)
	named := backup(t, r.store, dir, "main")
	unnamed := backup(t, r.store, dir, "")
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	shares, err := r.Shares(t.Context())
	if err != nil || strings.Join(shares, " ") != "main web1" {
		t.Errorf("shares %q, %v", shares, err)
	}
	list, err := r.Snapshots(t.Context(), "main")
	if err != nil || len(list) != 2 {
		t.Fatalf("%d snapshots of main, %v; want 2", len(list), err)
	}
	for _, snap := range list {
		if snap.Foreign() != (snap.ID == named) || !snap.Foreign() && snap.ID != own {
			t.Errorf("%+v", snap)
		}
		if snap.Foreign() && (snap.Root != dir || snap.Source != "fs://web1"+dir || snap.Files != 2) {
			t.Errorf("foreign %+v", snap)
		}
	}
	if latest, ok, err := r.Latest(t.Context(), "gateway-1", "share-1"); err != nil || !ok || latest.ID != own {
		t.Errorf("a foreign snapshot became the head: %v %v %v", latest.ID, ok, err)
	}

	// Seen from its source directory, and no file above that.
	got := r.read(unnamed)
	if s := strings.Join(got.paths(), " "); s != "/ /big /etc /etc/passwd /link" {
		t.Errorf("paths %s", s)
	}
	if got["/etc/passwd"].Data != "root:x" || len(got["/big"].Data) != 3_000_000 || got["/link"].Target != "etc/passwd" {
		t.Error("foreign contents are not what was backed up")
	}
	if err := r.Check(t.Context(), unnamed); err != nil {
		t.Error(err)
	}

	// A foreign base can be built upon: in paths of the snapshot.
	id := r.commit(named, put("/new", file(20, "new")))
	if err := r.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
	tree := r.read(id)
	if tree["/new"].Data != "new" || tree[dir+"/etc/passwd"].Data != "root:x" {
		t.Errorf("paths %v", tree.paths())
	}
	// And the other process reads what was made here.
	other := newSnapshotter(t, storetest.Open(t, otherConfig(r.store)))
	if err := other.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// TestKlosetReadsOurs reads files with kloset's own reader, as plakar cat and restore do:
// it asks for ranges of many chunks, and for more than it needs, by chance.
func TestKlosetReadsOurs(t *testing.T) {
	r := newRig(t)
	want := tree{"/": dir(0)}
	for i, size := range []int{0, 1, 4000, 700_000, 3 << 20, 9 << 20} {
		want[fmt.Sprintf("/f%d", i)] = file(uint64(i+1), string(randomBytes(t, size)))
	}
	id := r.commit(snapshotter.ID{}, want.all()...)
	other := storetest.Open(t, otherConfig(r.store))
	snap, err := snapshot.Load(other.Repository(), objects.MAC(id))
	if err != nil {
		t.Fatal(err)
	}
	files, err := snap.Filesystem()
	if err != nil {
		t.Fatal(err)
	}
	for p, it := range want {
		if it.Kind != snapshotter.File {
			continue
		}
		for range 5 {
			f, err := files.Open(p)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(f)
			if err != nil || string(data) != it.Data {
				t.Errorf("%s: %d bytes of %d, %v", p, len(data), len(it.Data), err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
