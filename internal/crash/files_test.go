//go:build crash

package crash

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// files is a tree on the local disk that changes between rounds.
type files struct {
	t   *testing.T
	dir string
	rng *rand.Rand
	n   int // names made so far
}

// newFiles makes a tree of some 60 names.
func newFiles(t *testing.T, dir string, rng *rand.Rand) *files {
	t.Helper()
	f := &files{t: t, dir: dir, rng: rng}
	f.must(os.Mkdir(dir, 0o755))
	for _, name := range []string{"a", "a/b", "a/b/c", "empty", "not utf-8 \xff", "closed"} {
		f.must(os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	for range 40 {
		f.add(rng.Int64N(64 << 10))
	}
	for range 4 {
		f.add(1<<20 + rng.Int64N(2<<20))
	}
	for i := range 6 {
		f.link(filepath.Join(dir, "a", fmt.Sprintf("link%d", i)))
	}
	f.must(os.WriteFile(filepath.Join(dir, "closed", "in it"), []byte("what it has"), 0o400))
	f.must(os.Chmod(filepath.Join(dir, "closed"), 0o500))
	f.settle()
	return f
}

func (f *files) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// add makes a file in one of the directories.
func (f *files) add(size int64) {
	f.t.Helper()
	f.n++
	dirs := []string{"", "a", "a/b", "a/b/c", "not utf-8 \xff"}
	f.write(filepath.Join(f.dir, dirs[f.rng.IntN(len(dirs))], fmt.Sprintf("file %d", f.n)), size)
}

func (f *files) write(path string, size int64) {
	f.t.Helper()
	f.must(os.WriteFile(path, Bytes(f.rng.Uint64()|1, size), 0o600))
	f.must(os.Chmod(path, []fs.FileMode{0o400, 0o600, 0o644, 0o755}[f.rng.IntN(4)]))
}

func (f *files) link(path string) {
	f.t.Helper()
	f.n++
	f.must(os.Symlink(fmt.Sprintf("../nowhere/%d", f.n), path))
}

// change adds files, rewrites some, removes some, and changes attributes and links.
func (f *files) change() {
	f.t.Helper()
	for range 6 {
		f.add(f.rng.Int64N(64 << 10))
	}
	f.add(1<<20 + f.rng.Int64N(2<<20))
	var regular, links []string
	f.must(filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case filepath.Base(filepath.Dir(path)) == "closed":
		case d.Type().IsRegular():
			regular = append(regular, path)
		case d.Type() == fs.ModeSymlink:
			links = append(links, path)
		}
		return nil
	}))
	f.rng.Shuffle(len(regular), func(i, j int) { regular[i], regular[j] = regular[j], regular[i] })
	for i, path := range regular[:9] {
		switch i % 3 {
		case 0:
			f.must(os.Remove(path))
		case 1:
			f.must(os.Chmod(path, 0o640))
		case 2:
			f.must(os.Remove(path)) // it may be read-only
			f.write(path, f.rng.Int64N(128<<10))
		}
	}
	path := links[f.rng.IntN(len(links))]
	f.must(os.Remove(path))
	f.link(path)
	f.settle()
}

// settle gives everything that was made or changed just now a time of its own, long ago and
// with nanoseconds, directories last.
func (f *files) settle() {
	f.t.Helper()
	recent := time.Now().Add(-time.Hour)
	var dirs []string
	set := func(path string) {
		ts := unix.NsecToTimespec(recent.Add(-time.Duration(f.rng.Int64N(int64(1000 * time.Hour)))).UnixNano())
		f.must(unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	f.must(filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		switch {
		case err != nil || fi.ModTime().Before(recent):
			return err
		case d.IsDir():
			dirs = append(dirs, path)
		default:
			set(path)
		}
		return nil
	}))
	for _, dir := range dirs {
		set(dir)
	}
}

// copyTo makes a copy of the tree, with all attributes.
func (f *files) copyTo(dir string) {
	f.t.Helper()
	if out, err := exec.Command("cp", "-a", f.dir, dir).CombinedOutput(); err != nil {
		f.t.Fatalf("cp: %v: %s", err, out)
	}
}

// description says of each name below a directory what it is, the times in seconds: SFTP has no
// more.
func description(t *testing.T, dir string) map[string]string {
	t.Helper()
	out, err := described(dir)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// described is description of a directory that may change meanwhile.
func described(dir string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir { // a destination that was there keeps its attributes
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%v %s", fi.Mode(), fi.ModTime().Truncate(time.Second).UTC().Format(time.RFC3339))
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d bytes, %.12s", len(data), Sum(data))
		case fi.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " to " + target
		}
		out[strings.TrimPrefix(path, dir+"/")] = text
		return nil
	})
	return out, err
}

// differences says in what got differs from want.
func differences(got, want map[string]string) string {
	all := maps.Clone(want)
	maps.Copy(all, got)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if got[name] != want[name] {
			lines = append(lines, fmt.Sprintf("%q: got %q, want %q", name, got[name], want[name]))
		}
	}
	return strings.Join(lines, "\n")
}
