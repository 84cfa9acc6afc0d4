package vfstest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/snapgate/gateway/vfs"
)

// treeCases are the promises about directories and renames.
func treeCases() []testCase {
	return []testCase{
		{"making directories", makingDirectories},
		{"removing files and directories", removing},
		{"renaming a file refuses or replaces", renamingFiles},
		{"renaming a directory moves everything", renamingDirectories},
		{"what a rename refuses", renameRefused},
		{"names swap and come back", swapping},
		{"names that change their type", changingType},
		{"a moved tree that changes on", movedTreeChanges},
		{"large directories list completely and in order", largeDirectory},
		{"deep paths", deepPaths},
		{"a tree is removed and made again", removedAndMadeAgain},
	}
}

func makingDirectories(c *suite) {
	cl := c.alice()
	c.ok("mkdir", cl.Mkdir("/a"))
	c.ok("mkdir with a slash", cl.Mkdir("/a/b/"))
	c.ok("mkdir relative", cl.Mkdir("a/c"))
	c.wantDir(cl, "/a", "b", "c")
	c.wantDir(cl, "/a/b")
	c.put(cl, "/f", nil)
	c.wantKind("again", cl.Mkdir("/a"), vfs.KindExist)
	c.wantKind("over a file", cl.Mkdir("/f"), vfs.KindExist)
	c.wantKind("root", cl.Mkdir("/"), vfs.KindExist)
	c.wantKind("below nothing", cl.Mkdir("/x/y"), vfs.KindNotExist)
	c.wantKind("below a file", cl.Mkdir("/f/y"), vfs.KindNotDir)
	if info, err := cl.Stat("/a"); err != nil || info.Type != vfs.TypeDir || info.Name != "a" {
		c.Errorf("stat: %+v, %v", info, err)
	}
	if info, err := cl.Stat("/"); err != nil || info.Type != vfs.TypeDir {
		c.Errorf("stat of the root: %+v, %v", info, err)
	}
	c.wantDir(cl, "/", "a", "f")
}

func removing(c *suite) {
	cl := c.alice()
	c.ok("mkdir", cl.Mkdir("/d"))
	c.ok("mkdir", cl.Mkdir("/d/e"))
	c.put(cl, "/d/f", pattern(1, 100))
	c.wantKind("rmdir of a directory with entries", cl.Rmdir("/d"), vfs.KindNotEmpty)
	c.wantKind("rmdir of a file", cl.Rmdir("/d/f"), vfs.KindNotDir)
	c.wantKind("remove of a directory", cl.Remove("/d/e"), vfs.KindIsDir)
	c.wantKind("remove of nothing", cl.Remove("/d/x"), vfs.KindNotExist)
	c.wantKind("rmdir of nothing", cl.Rmdir("/x"), vfs.KindNotExist)
	c.wantKind("remove below a file", cl.Remove("/d/f/x"), vfs.KindNotDir)
	c.wantError("rmdir of the root", cl.Rmdir("/"))
	c.wantError("remove of the root", cl.Remove("/"))
	c.wantDir(cl, "/d", "e", "f")
	c.ok("remove", cl.Remove("/d/f"))
	c.wantMissing(cl, "/d/f")
	c.wantKind("remove again", cl.Remove("/d/f"), vfs.KindNotExist)
	c.wantKind("rmdir while e is there", cl.Rmdir("/d"), vfs.KindNotEmpty)
	c.ok("rmdir", cl.Rmdir("/d/e"))
	c.ok("rmdir", cl.Rmdir("/d"))
	c.wantMissing(cl, "/d")
	c.wantDir(cl, "/")
}

func renamingFiles(c *suite) {
	cl := c.alice()
	a, b := pattern(1, 70_000), pattern(2, 500)
	c.put(cl, "/a", a)
	c.put(cl, "/b", b)
	if c.has(NoReplace) {
		c.wantKind("plain rename over a file", cl.Rename("/a", "/b", false), vfs.KindExist)
		c.wantFile(cl, "/a", a)
		c.wantFile(cl, "/b", b)
	}
	c.ok("plain rename to a free name", cl.Rename("/a", "/c", false))
	c.wantMissing(cl, "/a")
	c.wantFile(cl, "/c", a)
	c.ok("replacing rename", cl.Rename("/c", "/b", true))
	c.wantMissing(cl, "/c")
	c.wantFile(cl, "/b", a)
	c.ok("replacing rename to a free name", cl.Rename("/b", "/d", true))
	c.ok("replacing rename to itself", cl.Rename("/d", "/d", true))
	c.wantFile(cl, "/d", a)
	c.wantKind("rename of nothing", cl.Rename("/none", "/x", false), vfs.KindNotExist)
	c.wantKind("rename of nothing over a file", cl.Rename("/none", "/d", true), vfs.KindNotExist)
	c.wantDir(cl, "/", "d")
	c.put(cl, "/report.pdf.part", b)
	c.ok("rename from a temporary name over the file", cl.Rename("/report.pdf.part", "/d", true))
	c.wantFile(cl, "/d", b)
	c.wantDir(cl, "/", "d")
}

// makeTree makes a small tree of every kind of entry at dir.
func (c *suite) makeTree(cl Client, dir string) {
	c.Helper()
	c.ok("mkdir", cl.Mkdir(dir))
	c.ok("mkdir", cl.Mkdir(dir+"/sub"))
	c.ok("mkdir", cl.Mkdir(dir+"/sub/deep"))
	c.ok("mkdir", cl.Mkdir(dir+"/empty"))
	c.put(cl, dir+"/small", pattern(1, 100))
	c.put(cl, dir+"/sub/large", pattern(2, 150_000))
	c.put(cl, dir+"/sub/deep/none", nil)
	c.ok("symlink", cl.Symlink("sub/large", dir+"/link"))
}

func (c *suite) wantTree(cl Client, dir string) {
	c.Helper()
	c.wantDir(cl, dir, "empty", "link", "small", "sub")
	c.wantDir(cl, dir+"/sub", "deep", "large")
	c.wantDir(cl, dir+"/sub/deep", "none")
	c.wantDir(cl, dir+"/empty")
	c.wantFile(cl, dir+"/small", pattern(1, 100))
	c.wantFile(cl, dir+"/sub/large", pattern(2, 150_000))
	c.wantFile(cl, dir+"/link", pattern(2, 150_000))
	c.wantFile(cl, dir+"/sub/deep/none", nil)
}

func renamingDirectories(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/a")
	c.ok("rename", cl.Rename("/a", "/b", false))
	c.wantTree(cl, "/b")
	c.wantMissing(cl, "/a")
	c.wantMissing(cl, "/a/sub/large")
	c.ok("mkdir", cl.Mkdir("/x"))
	c.ok("rename into a directory", cl.Rename("/b", "/x/y", false))
	c.wantTree(cl, "/x/y")
	c.ok("rename of the directory above", cl.Rename("/x", "/b", false))
	c.wantTree(cl, "/b/y")
	c.ok("mkdir", cl.Mkdir("/free"))
	if c.has(NoReplace) {
		c.wantKind("plain rename over an empty directory", cl.Rename("/b/y", "/free", false), vfs.KindExist)
	}
	c.ok("replacing rename over an empty directory", cl.Rename("/b/y", "/free", true))
	c.wantTree(cl, "/free")
	c.wantDir(cl, "/b")
	c.wantDir(cl, "/", "b", "free")
}

func renameRefused(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/a")
	c.ok("mkdir", cl.Mkdir("/d"))
	c.put(cl, "/f", pattern(3, 10))
	for _, tt := range []struct {
		what, from, to string
		replace        bool
		kinds          []vfs.Kind
	}{
		{"into itself", "/a", "/a/sub/x", false, []vfs.Kind{vfs.KindInvalid}},
		{"into itself, replacing", "/a", "/a/x", true, []vfs.Kind{vfs.KindInvalid}},
		{"over the directory above", "/a/sub", "/a", true, []vfs.Kind{vfs.KindNotEmpty}},
		{"over a full directory", "/d", "/a", true, []vfs.Kind{vfs.KindNotEmpty}},
		{"a directory over a file", "/d", "/f", true, []vfs.Kind{vfs.KindNotDir}},
		{"a file over a directory", "/f", "/d", true, []vfs.Kind{vfs.KindIsDir}},
		{"a file over a directory, plain", "/f", "/d", false, []vfs.Kind{vfs.KindExist, vfs.KindIsDir}},
		{"below nothing", "/f", "/none/f", true, []vfs.Kind{vfs.KindNotExist}},
		{"below a file", "/d", "/f/d", true, []vfs.Kind{vfs.KindNotDir}},
		{"the root", "/", "/x", true, []vfs.Kind{vfs.KindPermission, vfs.KindInvalid, vfs.KindBusy}},
		{"over the root", "/d", "/", true, []vfs.Kind{vfs.KindPermission, vfs.KindInvalid, vfs.KindBusy, vfs.KindNotEmpty}},
	} {
		c.wantKind(tt.what, cl.Rename(tt.from, tt.to, tt.replace), tt.kinds...)
	}
	c.wantTree(cl, "/a")
	c.wantDir(cl, "/", "a", "d", "f")
}

func swapping(c *suite) {
	cl := c.alice()
	c.put(cl, "/a", pattern(1, 70_000))
	c.put(cl, "/b", pattern(2, 100))
	c.makeTree(cl, "/x")
	c.ok("mkdir", cl.Mkdir("/y"))
	for i := range 3 {
		for _, pair := range [][2]string{{"/a", "/b"}, {"/x", "/y"}} {
			c.ok("rename", cl.Rename(pair[0], "/swap", false))
			c.ok("rename", cl.Rename(pair[1], pair[0], false))
			c.ok("rename", cl.Rename("/swap", pair[1], false))
		}
		if i%2 == 0 {
			c.wantFile(cl, "/a", pattern(2, 100))
			c.wantFile(cl, "/b", pattern(1, 70_000))
			c.wantTree(cl, "/y")
			c.wantDir(cl, "/x")
		} else {
			c.wantFile(cl, "/b", pattern(2, 100))
			c.wantTree(cl, "/x")
		}
	}
	c.wantDir(cl, "/", "a", "b", "x", "y")
}

func changingType(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/t")
	makers := []struct {
		do, undo func()
		check    func()
	}{
		{func() { c.put(cl, "/n", pattern(1, 100)) }, func() { c.ok("remove", cl.Remove("/n")) },
			func() { c.wantFile(cl, "/n", pattern(1, 100)) }},
		{func() { c.ok("mkdir", cl.Mkdir("/n")) }, func() { c.ok("rmdir", cl.Rmdir("/n")) },
			func() { c.wantDir(cl, "/n") }},
		{func() { c.ok("symlink", cl.Symlink("t/small", "/n")) }, func() { c.ok("remove", cl.Remove("/n")) },
			func() { c.wantFile(cl, "/n", pattern(1, 100)); c.wantLink(cl, "/n", "t/small") }},
		{func() { c.ok("rename", cl.Rename("/t", "/n", false)) }, func() { c.ok("rename", cl.Rename("/n", "/t", false)) },
			func() { c.wantTree(cl, "/n") }},
	}
	for _, i := range []int{0, 1, 2, 3, 1, 0, 3, 2, 0} {
		makers[i].do()
		makers[i].check()
		makers[i].undo()
		c.wantMissing(cl, "/n")
	}
	c.wantTree(cl, "/t")
	makers[1].do()
}

func movedTreeChanges(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/a")
	c.commit()
	c.ok("rename", cl.Rename("/a", "/b", false))
	c.put(cl, "/b/sub/new", pattern(3, 10))
	c.ok("remove", cl.Remove("/b/small"))
	c.ok("rename", cl.Rename("/b/sub", "/b/moved", false))
	c.put(cl, "/b/moved/large", pattern(4, 20))
	c.ok("mkdir", cl.Mkdir("/a"))
	c.put(cl, "/a/small", pattern(5, 30))
	c.ok("rename", cl.Rename("/b/moved/deep", "/a/deep", false))
	c.ok("rename", cl.Rename("/b", "/a/b", false))
	c.wantDir(cl, "/", "a")
	c.wantDir(cl, "/a", "b", "deep", "small")
	c.wantDir(cl, "/a/b", "empty", "link", "moved")
	c.wantDir(cl, "/a/b/moved", "large", "new")
	c.wantDir(cl, "/a/deep", "none")
	c.wantFile(cl, "/a/small", pattern(5, 30))
	c.wantFile(cl, "/a/b/moved/large", pattern(4, 20))
	c.wantFile(cl, "/a/b/moved/new", pattern(3, 10))
	c.wantFile(cl, "/a/deep/none", nil)
}

// largeCount is beyond every page size in the way of a listing. The race detector, which is slow, sees the
// same with less.
const largeCount, largeCountShort = 2000, 700

func largeDirectory(c *suite) {
	cl := c.alice()
	count := largeCount
	if testing.Short() {
		count = largeCountShort
	}
	var want []string
	c.ok("mkdir", cl.Mkdir("/d"))
	c.together(func() {
		for i := range count {
			name := fmt.Sprintf("%d", i*7919%100_003)
			want = append(want, name)
			path := "/d/" + name
			switch {
			case c.target.Costly && i%20 > 3:
				c.ok("symlink", cl.Symlink("none", path))
			case i%3 == 0:
				c.ok("mkdir", cl.Mkdir(path))
			default:
				c.put(cl, path, pattern(i, 10))
			}
		}
	})
	slices.Sort(want)
	c.wantDir(cl, "/d", want...)
	// Some of the stored ones go, some new ones come in between.
	gone := want[500]
	c.together(func() {
		if info, err := cl.Lstat("/d/" + gone); err == nil && info.Type == vfs.TypeDir {
			c.ok("rmdir", cl.Rmdir("/d/"+gone))
		} else {
			c.ok("remove", cl.Remove("/d/"+gone))
		}
		c.put(cl, "/d/"+want[100]+"+", nil)
		c.put(cl, "/d/zzz", nil)
	})
	want = slices.Delete(want, 500, 501)
	want = append(want, want[100]+"+", "zzz")
	slices.Sort(want)
	c.wantDir(cl, "/d", want...)
	c.ok("rename", cl.Rename("/d", "/e", false))
	c.wantDir(cl, "/e", want...)
}

func deepPaths(c *suite) {
	cl := c.alice()
	path := ""
	c.together(func() {
		for i := range 60 {
			path += fmt.Sprintf("/level-%d", i)
			c.ok("mkdir", cl.Mkdir(path))
		}
	})
	c.put(cl, path+"/f", pattern(1, 70_000))
	c.wantFile(cl, path+"/f", pattern(1, 70_000))
	c.wantFile(cl, path+strings.Repeat("/..", 60)+path+"/./f", pattern(1, 70_000))
	c.ok("rename", cl.Rename("/level-0", "/top", false))
	moved := "/top" + strings.TrimPrefix(path, "/level-0")
	c.wantFile(cl, moved+"/f", pattern(1, 70_000))
	c.wantMissing(cl, path)
	c.wantKind("rmdir", cl.Rmdir("/top"), vfs.KindNotEmpty)
}

func removedAndMadeAgain(c *suite) {
	cl := c.alice()
	for range 3 {
		c.makeTree(cl, "/a")
		c.wantTree(cl, "/a")
		for _, f := range []string{"/a/small", "/a/link", "/a/sub/large", "/a/sub/deep/none"} {
			c.ok("remove", cl.Remove(f))
		}
		for _, d := range []string{"/a/sub/deep", "/a/sub", "/a/empty", "/a"} {
			c.ok("rmdir", cl.Rmdir(d))
		}
		c.wantMissing(cl, "/a")
		c.wantDir(cl, "/")
	}
	c.makeTree(cl, "/a")
}
