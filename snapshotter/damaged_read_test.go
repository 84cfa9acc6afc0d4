package snapshotter_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestReadDamaged changes a byte in each packfile of a store: what is read is refused, not
// given out, also where no encryption notices it.
func TestReadDamaged(t *testing.T) {
	for name, options := range map[string][]func(*store.Config){"encrypted": nil, "plain": {storetest.Plaintext}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options...)
			content := string(randomBytes(t, 3<<20))
			id := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/f", file(1, content)))
			v, err := r.View(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			f, err := v.Open(t.Context(), "/f") // the names are read
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			flipBytes(t, filepath.Join(strings.TrimPrefix(r.store.Location(), "fs://"), "packfiles"))
			p := make([]byte, len(content))
			if _, err := f.ReadAt(p, 0); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("read: %v, want %v", err, store.ErrDamaged)
			}
		})
	}
}

// TestReadCutShort cuts off each packfile of a store: nothing that is read ends early as if it ended there.
func TestReadCutShort(t *testing.T) {
	r := newRig(t, storetest.Plaintext)
	content := string(randomBytes(t, 3<<20))
	id := r.commit(snapshotter.ID{}, put("/", dir(0)), put("/d", dir(0)), put("/d/g", file(1, "g")), put("/f", file(1, content)))
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	f, err := v.Open(t.Context(), "/f") // the names are read
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	truncateFiles(t, filepath.Join(strings.TrimPrefix(r.store.Location(), "fs://"), "packfiles"))
	cutShort := func(what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, io.EOF) || !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: %v, want %v and no end of the file", what, err, store.ErrDamaged)
		}
	}
	_, err = f.ReadAt(make([]byte, len(content)), 0)
	cutShort("read", err)
	_, err = v.ReadDir(t.Context(), "/d", "", 10)
	cutShort("list", err)
}

// truncateFiles leaves 1,000 bytes of each file below dir.
func truncateFiles(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Truncate(path, 1000)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// flipBytes changes a byte of each file below dir, every 100,000 bytes.
func flipBytes(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i := 50_000; i < len(data); i += 100_000 {
			data[i] ^= 1
		}
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
