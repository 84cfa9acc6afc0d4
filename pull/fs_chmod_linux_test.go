package pull

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Kernels older than 6.6 have one of the two ways.
func TestChmodAt(t *testing.T) {
	for name, chmod := range map[string]func(dir int, name string, mode uint32) error{"call": chmodAt, "opened": chmodOpened} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			put(t, filepath.Join(path, "f"), "x")
			dir, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if err := os.Symlink("f", filepath.Join(path, "l")); err != nil {
				t.Fatal(err)
			}
			for _, mode := range []uint32{0, 0o4750} { // the first takes away the right to read it
				if err := chmod(int(dir.Fd()), "f", mode); err != nil {
					t.Fatal(err)
				}
				if fi, err := os.Stat(filepath.Join(path, "f")); err != nil || modeNumber(fi.Mode()) != mode {
					t.Errorf("mode %v, %v; want %o", fi.Mode(), err, mode)
				}
			}
			if err := chmod(int(dir.Fd()), "l", 0o777); !errors.Is(err, errLink) {
				t.Errorf("of a link: %v", err)
			}
			if fi, err := os.Stat(filepath.Join(path, "f")); err != nil || modeNumber(fi.Mode()) != 0o4750 {
				t.Errorf("what the link leads to has %v, %v", fi.Mode(), err)
			}
		})
	}
}
