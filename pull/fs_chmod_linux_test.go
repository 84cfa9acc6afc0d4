package pull

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
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

// A directory that its owner may not search, or not read, is made accessible again, and gets its time.
func TestSetAttributesInaccessible(t *testing.T) {
	both := []Attributes{{ModTime: then, Mode: 0o700, HasMode: true}}
	for mode, calls := range map[os.FileMode][]Attributes{
		0o444: {{ModTime: then}, {Mode: 0o700, HasMode: true}},
		0o311: both, 0o300: both, 0o000: both,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			root := t.TempDir()
			d := filepath.Join(root, "d")
			if err := errors.Join(os.Mkdir(d, 0o755), os.Chmod(d, mode)); err != nil {
				t.Fatal(err)
			}
			const nobody = 65534
			privileged := os.Geteuid() == 0
			if privileged {
				if err := os.Chown(d, nobody, nobody); err != nil {
					t.Fatal(err)
				}
			}
			f, err := NewFSTarget(root)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			done := make(chan error)
			go func() {
				runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine
				if privileged {
					if err := unix.Setfsuid(nobody); err != nil {
						done <- err
						return
					}
				}
				for _, a := range calls {
					if err := f.SetAttributes(t.Context(), "/d", Dir, a); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if fi, err := os.Stat(d); err != nil || fi.Mode().Perm() != 0o700 || !fi.ModTime().Equal(then) {
				t.Errorf("%v, %v, %v", fi.Mode(), fi.ModTime(), err)
			}
		})
	}
}

// Whoever may not give something away sets all else, and no setuid or setgid, which would be its own.
func TestSetAttributesWithoutOwner(t *testing.T) {
	const nobody = 65534
	root := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(root, "d"), 0o700), os.WriteFile(filepath.Join(root, "f"), nil, 0o600), os.Symlink("f", filepath.Join(root, "l"))); err != nil {
		t.Fatal(err)
	}
	types, group := map[string]Type{"d": Dir, "f": File, "l": Symlink}, os.Getgid()
	privileged := os.Geteuid() == 0 // who may give everything away
	for name := range types {
		if privileged {
			group = nobody
			if err := os.Lchown(filepath.Join(root, name), nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, err := NewFSTarget(root)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set := make(chan map[string]error)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine
		errs := map[string]error{}
		if privileged {
			errs["fsuid"] = unix.Setfsuid(nobody)
		}
		for name, typ := range types {
			errs[name] = f.SetAttributes(t.Context(), "/"+name, typ, Attributes{
				ModTime: then, Mode: 0o750 | fs.ModeSetuid | fs.ModeSetgid, HasMode: true, UID: 1, GID: uint32(group), HasOwner: true,
			})
		}
		set <- errs
	}()
	errs := <-set
	if errs["fsuid"] != nil {
		t.Fatal(errs["fsuid"])
	}
	for name, typ := range types {
		fi, err := os.Lstat(filepath.Join(root, name))
		if KindOf(errs[name]) != KindPermission || err != nil || !fi.ModTime().Equal(then) ||
			typ != Symlink && fi.Mode()&^fs.ModeDir != 0o750 {
			t.Errorf("%s: %v; %v, %v, %v", name, errs[name], fi.Mode(), fi.ModTime(), err)
		}
	}
}
