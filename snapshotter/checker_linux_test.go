package snapshotter_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
