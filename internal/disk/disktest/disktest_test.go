package disktest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree describes a directory as "name=content" and "name/", in order.
func tree(t testing.TB, root string) string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			out = append(out, rel+"/")
			return nil
		}
		b, err := os.ReadFile(path)
		out = append(out, rel+"="+string(b))
		return err
	}))
	return strings.Join(out, " ")
}

func put(t testing.TB, fsys disk.FS, path, content string, sync bool) {
	t.Helper()
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	must(t, err)
	if sync {
		must(t, f.Sync())
	}
	must(t, f.Close())
}

func TestRecorderRegularVariants(t *testing.T) {
	root := t.TempDir()
	in := func(name string) string { return filepath.Join(root, name) }
	must(t, os.WriteFile(in("old"), []byte("old"), 0o600))
	r, err := disktest.NewRecorder(root)
	must(t, err)
	put(t, r, in("a"), "synced", true)
	must(t, r.SyncDir(root))
	put(t, r, in("a"), "newer!", false) // truncates first
	put(t, r, in("b"), "never synced", false)
	must(t, r.Rename(in("old"), in("renamed")))
	must(t, r.MkdirAll(in("d/e"), 0o700))
	put(t, r, in("d/e/f"), "deep", true)

	for _, tt := range []struct {
		v    disktest.Variant
		want string
	}{
		{disktest.Variant{Data: disktest.DataDropped, Names: disktest.NamesDropped}, "a=synced old=old"},
		{disktest.Variant{Data: disktest.DataKept, Names: disktest.NamesDropped}, "a=newer! old=old"},
		{disktest.Variant{Data: disktest.DataDropped, Names: disktest.NamesKept}, "a=synced b= d/ d/e/ d/e/f=deep renamed=old"},
		{disktest.Variant{Data: disktest.DataKept, Names: disktest.NamesKept}, "a=newer! b=never synced d/ d/e/ d/e/f=deep renamed=old"},
	} {
		dest := t.TempDir()
		must(t, r.Materialize(r.Point(), tt.v, dest))
		if got := tree(t, dest); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.v, got, tt.want)
		}
	}
	if got := tree(t, root); got != "a=newer! b=never synced d/ d/e/ d/e/f=deep renamed=old" {
		t.Errorf("what the code itself sees: got %q", got)
	}
}

// TestRecorderReplace is the classic: write aside, sync, rename, sync the directory.
func TestRecorderReplace(t *testing.T) {
	replace := func(t *testing.T, ignore func(disktest.Op, string) bool) (r *disktest.Recorder, done int) {
		root := t.TempDir()
		must(t, os.WriteFile(filepath.Join(root, "x"), []byte("old"), 0o600))
		r, err := disktest.NewRecorder(root)
		must(t, err)
		r.IgnoreSyncs(ignore)
		put(t, r, filepath.Join(root, "x.tmp"), "new", true)
		must(t, r.Rename(filepath.Join(root, "x.tmp"), filepath.Join(root, "x")))
		must(t, r.SyncDir(root))
		return r, r.Point()
	}
	check := func(t *testing.T, r *disktest.Recorder, done int) (bad int) {
		for _, point := range r.SyncPoints() {
			for _, v := range disktest.Variants(8) {
				dest := t.TempDir()
				must(t, r.Materialize(point, v, dest))
				b, err := os.ReadFile(filepath.Join(dest, "x"))
				if err != nil || string(b) != "new" && (point >= done || string(b) != "old") {
					bad++
				}
			}
		}
		return bad
	}
	r, done := replace(t, nil)
	if bad := check(t, r, done); bad != 0 {
		t.Errorf("%d images lost a file that was replaced correctly\n%s", bad, r.Log(r.Point()))
	}
	for _, op := range []disktest.Op{disktest.OpSync, disktest.OpSyncDir} {
		r, done := replace(t, func(o disktest.Op, _ string) bool { return o == op })
		if check(t, r, done) == 0 {
			t.Errorf("no image shows that a sync (kind %d) is missing", op)
		}
	}
}

func TestRecorderTornIsRepeatable(t *testing.T) {
	root := t.TempDir()
	r, err := disktest.NewRecorder(root)
	must(t, err)
	for i := range 5 {
		put(t, r, filepath.Join(root, fmt.Sprint(i)), strings.Repeat(fmt.Sprint(i), 3000), false)
	}
	seen := map[string]bool{}
	for _, v := range disktest.Variants(6)[4:] {
		var got [2]string
		for i := range got {
			dest := t.TempDir()
			must(t, r.Materialize(r.Point(), v, dest))
			got[i] = tree(t, dest)
		}
		if got[0] != got[1] {
			t.Errorf("%v: two images of one variant differ", v)
		}
		seen[got[0]] = true
	}
	if len(seen) < 4 {
		t.Errorf("6 seeds gave only %d different images", len(seen))
	}
}

func TestRecorderRemoveAndOverwrite(t *testing.T) {
	root := t.TempDir()
	r, err := disktest.NewRecorder(root)
	must(t, err)
	a := filepath.Join(root, "a")
	put(t, r, a, "one", true)
	must(t, r.SyncDir(root))
	must(t, r.Remove(a))
	put(t, r, a, "two", true)
	before := disktest.Variant{Data: disktest.DataDropped, Names: disktest.NamesDropped}
	dest := t.TempDir()
	must(t, r.Materialize(r.Point(), before, dest))
	if got := tree(t, dest); got != "a=one" {
		t.Errorf("removal and new file not synced: got %q", got)
	}
	must(t, r.SyncDir(root))
	dest = t.TempDir()
	must(t, r.Materialize(r.Point(), before, dest))
	if got := tree(t, dest); got != "a=two" {
		t.Errorf("after the directory's sync: got %q", got)
	}
}

func TestRecorderFindsForeignFiles(t *testing.T) {
	root := t.TempDir()
	r, err := disktest.NewRecorder(root)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(root, "d"), 0o700))
	must(t, os.WriteFile(filepath.Join(root, "d", "x.tmp"), []byte("foreign"), 0o600))
	must(t, r.Rename(filepath.Join(root, "d", "x.tmp"), filepath.Join(root, "d", "x")))
	must(t, r.SyncDir(filepath.Join(root, "d")))
	dest := t.TempDir()
	must(t, r.Materialize(r.Point(), disktest.Variant{}, dest))
	if got := tree(t, dest); got != "d/ d/x=foreign" {
		t.Errorf("got %q", got)
	}
}

func TestFaulty(t *testing.T) {
	root := t.TempDir()
	f := disktest.NewFaulty(disk.OS{})
	off := f.Add(disktest.Fault{Ops: disktest.OpWrite, Path: "*.dat", After: 1, Times: 1, Err: syscall.ENOSPC, Short: 2})
	file, err := f.OpenFile(filepath.Join(root, "x.dat"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	_, err = file.WriteAt([]byte("first"), 0)
	must(t, err)
	if n, err := file.WriteAt([]byte("second"), 5); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("second write: got %d, %v; want 2 bytes and no space", n, err)
	}
	_, err = file.WriteAt([]byte("third"), 7)
	must(t, err)
	must(t, file.Close())
	if got := tree(t, root); got != "x.dat=firstsethird" {
		t.Errorf("content: got %q", got)
	}
	off()
	f.Add(disktest.Fault{Ops: disktest.OpSyncDir | disktest.OpRename, Err: syscall.EIO})
	if err := f.SyncDir(root); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync directory: got %v", err)
	}
	if err := f.Rename(filepath.Join(root, "x.dat"), filepath.Join(root, "y")); !errors.Is(err, syscall.EIO) {
		t.Errorf("rename: got %v", err)
	}
	f.Clear()
	must(t, f.SyncDir(root))
	if got := f.Hits(); got != 3 {
		t.Errorf("hits: got %d, want 3", got)
	}
}

// What a killed process had made and not made durable is durable for the next one.
func TestMkdirDurableAfterAKill(t *testing.T) {
	for _, made := range []string{"", "a", "a/b", "a/b/c"} {
		root := t.TempDir()
		r, err := disktest.NewRecorder(root)
		must(t, err)
		if made != "" {
			killed := func(disktest.Op, string) bool { return true }
			if dir := filepath.Dir(made); dir != "." {
				must(t, disk.MkdirDurable(r, filepath.Join(root, dir), 0o700))
			}
			r.IgnoreSyncs(killed)
			must(t, disk.MkdirDurable(r, filepath.Join(root, made), 0o700))
			r.IgnoreSyncs(nil)
		}
		must(t, disk.MkdirDurable(r, filepath.Join(root, "a/b/c"), 0o700))
		dest := t.TempDir()
		must(t, r.Materialize(r.Point(), disktest.Variant{Data: disktest.DataDropped, Names: disktest.NamesDropped}, dest))
		if got := tree(t, dest); got != "a/ a/b/ a/b/c/" {
			t.Errorf("after a kill that left %q: got %q", made, got)
		}
	}
}

// A power loss while a file is written anew leaves what was there before or all of the new.
func TestWriteFileAfterAPowerLoss(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "f")
	must(t, os.WriteFile(path, []byte("before, and longer than the new one"), 0o600))
	r, err := disktest.NewRecorder(root)
	must(t, err)
	first := r.Point()
	must(t, disk.WriteFile(r, path, []byte("after"), 0o600))
	for point := first; point <= r.Point(); point++ {
		for _, v := range disktest.Variants(8) {
			dest := t.TempDir()
			must(t, r.Materialize(point, v, dest))
			got, err := disk.ReadFile(disk.OS{}, filepath.Join(dest, "f"), 100)
			must(t, err)
			if s := string(got); s != "after" && (s != "before, and longer than the new one" || point == r.Point()) {
				t.Errorf("at %d with %v: got %q\n%s", point, v, got, r.Log(point))
			}
		}
	}
	if _, err := disk.ReadFile(disk.OS{}, path, 4); !errors.Is(err, disk.ErrTooLarge) {
		t.Errorf("5 bytes where 4 are allowed: got %v, want %v", err, disk.ErrTooLarge)
	}
}
