package snapshotter_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
)

// badDisk makes reading a file fail as that of a bad sector does: it becomes the memory of this process, of which nothing is
// mapped where the file was.
func badDisk(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/mem", path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(path); !errors.Is(err, syscall.EIO) {
		t.Fatalf("read %s: got %v, want %v", path, err, syscall.EIO)
	}
}

// TestSampleBadSector: what a local disk cannot read is damaged: reading it again changes nothing.
func TestSampleBadSector(t *testing.T) {
	var root string
	r := newRig(t, func(cfg *store.Config) { root = cfg.Location[len("fs://"):] })
	one := r.commit(snapshotter.ID{}, put("/", dir(0)))
	before := packfilesBelow(t, root)
	two := r.commit(one, put("/f", file(1, string(randomBytes(t, 2<<20)))))
	for path, size := range packfilesBelow(t, root) {
		if _, ok := before[path]; !ok && size > 1<<20 {
			badDisk(t, path)
		}
	}
	if err := r.Check(t.Context(), two); err == nil || errors.Is(err, snapshotter.ErrUnavailable) {
		t.Errorf("check: got %v, want damage", err)
	}
	s, err := r.checker().Sample(t.Context(), two, 1)
	if err != nil {
		t.Errorf("sample: %v", err)
	}
	wantDamaged(t, "sample", s, "/f")
}

// packfilesBelow returns the packfiles of a local store with their sizes.
func packfilesBelow(t *testing.T, root string) map[string]int64 {
	t.Helper()
	sizes := make(map[string]int64)
	err := filepath.WalkDir(filepath.Join(root, "packfiles"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			sizes[path] = fi.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sizes
}

// TestHeaderBadSector: while a local disk cannot read the header of a snapshot, whoever opens the store lists none, and is told
// of which file that is; which snapshots there are without it is not known. What is listed already stays so. Once the file is
// away, the header counts as missing, and the others are listed.
func TestHeaderBadSector(t *testing.T) {
	var cfg store.Config
	r := newRig(t, func(c *store.Config) { cfg = *c })
	root := cfg.Location[len("fs://"):]
	one := r.commit(snapshotter.ID{}, put("/", dir(0)))
	before := packfilesBelow(t, root)
	two := r.commit(one, put("/f", file(1, "text")))
	var bad string
	for path := range packfilesBelow(t, root) {
		if _, ok := before[path]; !ok {
			bad = path
		}
	}
	badDisk(t, bad)
	if list, err := r.Snapshots(t.Context(), ""); err != nil || len(list) != 2 {
		t.Errorf("what is listed already: %v, %v", list, err)
	}
	cfg.CacheDir, cfg.KeepDir, cfg.NoSweep = "", "", true
	st, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s, err := snapshotter.New(t.Context(), snapshotter.Config{Store: st, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := s.Snapshots(t.Context(), "")
	if !errors.Is(err, snapshotter.ErrUnavailable) || !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), bad) || len(list) > 0 {
		t.Errorf("list: %v, %v, want none, as %s cannot be read", list, err, bad)
	}
	if view, err := s.View(t.Context(), one); err != nil {
		t.Errorf("the other snapshot by its id: %v", err)
	} else {
		view.Close()
	}
	if _, err := s.Scrub(t.Context(), snapshotter.ScrubConfig{Dir: t.TempDir(), Scope: snapshotter.ScrubAll}); !errors.Is(err, syscall.EIO) {
		t.Errorf("a scrub: %v, want %v", err, syscall.EIO)
	}
	rep, err := r.Scrub(t.Context(), snapshotter.ScrubConfig{Dir: t.TempDir(), Scope: snapshotter.ScrubAll})
	if damage := rep.State.Damage; err != nil || len(damage) != 1 || damage[0].File != filepath.Base(bad) {
		t.Errorf("a scrub by who has listed it: %v, %v, want %s", damage, err, bad)
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Snapshots(t.Context(), ""); err != nil || len(list) != 1 || list[0].ID != one {
		t.Errorf("list without the file: %v, %v, want %v", list, err, one)
	}
	if lost, err := s.Unreadable(t.Context()); err != nil || len(lost) != 1 || lost[0] != two {
		t.Errorf("unreadable: %v, %v, want %v", lost, err, two)
	}
}
