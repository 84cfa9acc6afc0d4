package pull

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// put writes a file, and makes what is above it.
func put(tb testing.TB, path, text string) {
	tb.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644), os.Chtimes(path, then, then)); err != nil {
		tb.Fatal(err)
	}
}

// shape is all that a tree has, a line a path.
func shape(tb testing.TB, dir string) (lines []string) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(p)
		if err != nil {
			return err
		}
		e := fsEntry(strings.TrimPrefix(p, dir), fi)
		data := []byte(nil)
		if e.Type == File {
			if data, err = os.ReadFile(p); err != nil {
				return err
			}
		}
		lines = append(lines, fmt.Sprintf("%+v %q", e, data))
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return lines
}

// twoUsers is a tree in which a and b have the same names.
func twoUsers(tb testing.TB) (dir string, f *FS) {
	tb.Helper()
	dir = tb.TempDir()
	put(tb, filepath.Join(dir, "own"), "own")
	for _, user := range []string{"a/d", "b"} {
		put(tb, filepath.Join(dir, user, "f"), user+"'s secret")
		put(tb, filepath.Join(dir, user, "x/g"), user+"'s mail")
		if err := errors.Join(os.Mkdir(filepath.Join(dir, user, "void"), 0o755), os.Symlink("f", filepath.Join(dir, user, "l"))); err != nil {
			tb.Fatal(err)
		}
	}
	f, err := NewFSTarget(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return dir, f
}

// swap puts a symbolic link to b in the place of a/d.
func swap(tb testing.TB, dir string) {
	tb.Helper()
	d := filepath.Join(dir, "a/d")
	if err := errors.Join(os.Rename(d, filepath.Join(dir, "a/away")), os.Symlink("../b", d)); err != nil {
		tb.Fatal(err)
	}
}

// A directory becomes a link to another user's after it was listed. os.Root would follow it, as it stays inside.
func TestFSFollowsNoLinkInside(t *testing.T) {
	all := Attributes{Mode: 0o777, HasMode: true, ModTime: time.Unix(1, 0), HasOwner: true, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	each := func(Entry) error { return nil }
	for name, do := range map[string]func(ctx context.Context, f *FS) error{
		"stat":                func(ctx context.Context, f *FS) error { _, err := f.Lstat(ctx, "/a/d/f"); return err },
		"read":                func(ctx context.Context, f *FS) error { _, err := f.Open(ctx, "/a/d/f", 0, 1); return err },
		"read deeper":         func(ctx context.Context, f *FS) error { _, err := f.Open(ctx, "/a/d/x/g", 0, 1); return err },
		"list":                func(ctx context.Context, f *FS) error { return f.ReadDir(ctx, "/a/d/x", each) },
		"list the link":       func(ctx context.Context, f *FS) error { return f.ReadDir(ctx, "/a/d", each) },
		"readlink":            func(ctx context.Context, f *FS) error { _, err := f.Readlink(ctx, "/a/d/l"); return err },
		"make":                func(ctx context.Context, f *FS) error { return f.Mkdir(ctx, "/a/d/new") },
		"create":              func(ctx context.Context, f *FS) error { _, err := f.Create(ctx, "/a/d/new", 0); return err },
		"resume":              func(ctx context.Context, f *FS) error { _, err := f.Create(ctx, "/a/d/f", 1); return err },
		"rename":              func(ctx context.Context, f *FS) error { return f.Rename(ctx, "/a/d/f", "/a/d/new") },
		"rename to":           func(ctx context.Context, f *FS) error { return f.Rename(ctx, "/own", "/a/d/f") },
		"rename from":         func(ctx context.Context, f *FS) error { return f.Rename(ctx, "/a/d/f", "/new") },
		"link":                func(ctx context.Context, f *FS) error { return f.Symlink(ctx, "/", "/a/d/new") },
		"attributes":          func(ctx context.Context, f *FS) error { return f.SetAttributes(ctx, "/a/d/f", File, all) },
		"attributes of a dir": func(ctx context.Context, f *FS) error { return f.SetAttributes(ctx, "/a/d/x", Dir, all) },
		"attributes as a dir": func(ctx context.Context, f *FS) error { return f.SetAttributes(ctx, "/a/d", Dir, all) },
		"attributes as a file": func(ctx context.Context, f *FS) error {
			return f.SetAttributes(ctx, "/a/d", File, Attributes{Mode: 0o777, HasMode: true})
		},
		"attributes of a link":  func(ctx context.Context, f *FS) error { return f.SetAttributes(ctx, "/a/d/l", Symlink, all) },
		"remove":                func(ctx context.Context, f *FS) error { return f.Remove(ctx, "/a/d/f", File) },
		"remove a directory":    func(ctx context.Context, f *FS) error { return f.Remove(ctx, "/a/d/void", Dir) },
		"sync":                  func(ctx context.Context, f *FS) error { return f.SyncDir(ctx, "/a/d/x") },
		"sync what it leads to": func(ctx context.Context, f *FS) error { return f.SyncDir(ctx, "/a/d") },
	} {
		t.Run(name, func(t *testing.T) {
			dir, f := twoUsers(t)
			swap(t, dir)
			before := shape(t, dir)
			err := do(t.Context(), f)
			if err == nil || KindOf(err) != KindConflict || !strings.Contains(err.Error(), "is a symbolic link, which is not followed") {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(before, shape(t, dir)); diff != "" {
				t.Errorf("it has changed something (-before +after):\n%s", diff)
			}
		})
	}
}

// What is open stays the file that was opened, and the time of another user's file is not touched.
func TestFSWriterFollowsNoLinkInside(t *testing.T) {
	dir, f := twoUsers(t)
	w, err := f.Create(t.Context(), "/a/d/f", 3)
	if err != nil {
		t.Fatal(err)
	}
	swap(t, dir)
	b := filepath.Join(dir, "b")
	before := shape(t, b)
	var lacks *AttributeError
	if err := w.Finish(t.Context(), Attributes{Mode: 0o640, HasMode: true, ModTime: time.Unix(1, 0)}); !errors.As(err, &lacks) {
		t.Errorf("got %v, want a file without its time", err)
	}
	if diff := cmp.Diff(before, shape(t, b)); diff != "" {
		t.Errorf("it has changed something (-before +after):\n%s", diff)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "a/away/f")); err != nil || string(data) != "a/d" {
		t.Errorf("what was opened has %q, %v", data, err)
	}
}

// A temporary file is another user's, by a link of either kind, when writing is to go on.
func TestFSResumesItsOwnFileOnly(t *testing.T) {
	for name, link := range map[string]func(old, path string) error{"symbolic": os.Symlink, "hard": os.Link} {
		t.Run(name, func(t *testing.T) {
			dir, f := twoUsers(t)
			if err := link(filepath.Join(dir, "b/f"), filepath.Join(dir, "a/.f.part")); err != nil {
				t.Fatal(err)
			}
			for _, offset := range []int64{0, 1} {
				if w, err := f.Create(t.Context(), "/a/.f.part", offset); err == nil || KindOf(err) != KindConflict {
					t.Errorf("at %d: %v, %v", offset, w, err)
				}
			}
			if data, err := os.ReadFile(filepath.Join(dir, "b/f")); err != nil || string(data) != "b's secret" {
				t.Errorf("the other file has %q, %v", data, err)
			}
		})
	}
}

// Nanoseconds since 1970 in 64 bits end in 2262.
func TestSetAttributesFarTime(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "f"), "x")
	put(t, filepath.Join(dir, "g"), "x")
	f, err := NewFSTarget(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, year := range []int{1600, 2400} {
		when := time.Date(year, 1, 2, 3, 4, 5, 0, time.UTC)
		ts := unix.Timespec{Sec: when.Unix()}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, "g"), []unix.Timespec{ts, ts}, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.SetAttributes(t.Context(), "/f", File, Attributes{ModTime: when}); err != nil {
			t.Fatal(err)
		}
		got, gerr := f.Lstat(t.Context(), "/f")
		want, werr := f.Lstat(t.Context(), "/g") // a file system may have the nearest
		if gerr != nil || werr != nil || !got.ModTime.Equal(want.ModTime) {
			t.Errorf("%v is %v, want %v (%v, %v)", when, got.ModTime, want.ModTime, gerr, werr)
		}
	}
}

// What vanishes between the reading of its name and a look at it is not there, and is no problem.
func TestFSVanished(t *testing.T) {
	dir := t.TempDir()
	const files = 3
	for i := range files {
		put(t, filepath.Join(dir, fmt.Sprint(i)), "x")
	}
	f, err := NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var seen []Entry
	err = f.ReadDir(t.Context(), "/", func(e Entry) error {
		if seen = append(seen, e); len(seen) > 1 {
			return nil
		}
		for i := range files { // their names have been read together
			if name := fmt.Sprint(i); name != e.Name {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || len(seen) != 1 || seen[0].Err != nil {
		t.Errorf("%+v, %v", seen, err)
	}
}

// A name that is listed and cannot be found, again and again, has not vanished: what the base has there would be taken for removed.
func TestFSListedAndNotThere(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "lost", "z"} {
		put(t, filepath.Join(dir, name), "x")
	}
	f, err := NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.lstat = func(dir int, name string) (unix.Stat_t, error) {
		if name == "lost" {
			return unix.Stat_t{}, unix.ENOENT
		}
		return lstatAt(dir, name)
	}
	var names []string
	err = f.ReadDir(t.Context(), "/", func(e Entry) error {
		if names = append(names, e.Name); e.Name == "lost" != (e.Err != nil) {
			t.Errorf("%s: %v", e.Name, e.Err)
		}
		return nil
	})
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"a", "lost", "z"}) {
		t.Errorf("%q, %v", names, err)
	}
}
