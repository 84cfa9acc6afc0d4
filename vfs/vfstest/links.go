package vfstest

import (
	"fmt"
	"strings"

	"github.com/snapgate/gateway/vfs"
)

// linkCases are the promises about symbolic and hard links.
func linkCases() []testCase {
	return []testCase{
		{"symbolic links to files", symlinkFiles},
		{"symbolic links to directories", symlinkDirectories},
		{"symbolic links stay inside", symlinkConfinement},
		{"symbolic links that loop", symlinkLoops},
		{"real paths", realPaths},
		{"hard links share content, not fate", hardLinks},
		{"hard links that are refused", hardLinksRefused},
	}
}

// wantLink checks that path is a symbolic link with exactly this target.
func (c *suite) wantLink(cl Client, path, target string) {
	c.Helper()
	info, err := cl.Lstat(path)
	if err != nil || info.Type != vfs.TypeSymlink {
		c.Errorf("lstat %q: %+v, %v, want a symbolic link", path, info, err)
	}
	if got, err := cl.Readlink(path); err != nil || got != target {
		c.Errorf("readlink %q = %q, %v, want %q", path, got, err, target)
	}
}

func symlinkFiles(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/a")
	c.ok("symlink", cl.Symlink("a/small", "/rel"))
	c.ok("symlink", cl.Symlink("/a/small", "/abs"))
	c.ok("symlink", cl.Symlink("../../rel", "/a/sub/chain"))
	c.ok("symlink", cl.Symlink("none", "/dangling"))
	for path, target := range map[string]string{"/rel": "a/small", "/abs": "/a/small", "/a/sub/chain": "../../rel"} {
		c.wantLink(cl, path, target)
		c.wantFile(cl, path, pattern(1, 100))
	}
	c.wantLink(cl, "/dangling", "none")
	_, err := cl.Stat("/dangling")
	c.wantKind("stat of a dangling link", err, vfs.KindNotExist)
	_, err = cl.Open("/dangling", vfs.OpenRead)
	c.wantKind("open of a dangling link", err, vfs.KindNotExist)
	c.wantKind("symlink over a file", cl.Symlink("x", "/a/small"), vfs.KindExist)
	c.wantKind("symlink over a link", cl.Symlink("x", "/dangling"), vfs.KindExist)
	c.wantKind("symlink below nothing", cl.Symlink("x", "/none/l"), vfs.KindNotExist)
	_, err = cl.Readlink("/a/small")
	c.wantKind("readlink of a file", err, vfs.KindInvalid)
	_, err = cl.Readlink("/nothing")
	c.wantKind("readlink of nothing", err, vfs.KindNotExist)

	f := c.open(cl, "/a/sub/chain", update)
	c.write(f, 0, pattern(5, 200))
	c.ok("close", f.Close())
	c.wantLink(cl, "/rel", "a/small")
	c.wantFile(cl, "/a/small", pattern(5, 200))
	c.ok("set time", cl.SetAttr("/abs", vfs.AttrSet{ModTime: ptr(then())}))
	if info, err := cl.Lstat("/a/small"); err != nil || !info.ModTime.Equal(then()) {
		c.Errorf("setting a time through a link: %v, %v", info.ModTime, err)
	}
	c.ok("rename of a link", cl.Rename("/rel", "/renamed", false))
	c.wantLink(cl, "/renamed", "a/small")
	c.ok("rename over a link", cl.Rename("/abs", "/renamed", true))
	c.wantLink(cl, "/renamed", "/a/small")
	c.ok("remove of a link", cl.Remove("/renamed"))
	c.wantFile(cl, "/a/small", pattern(5, 200))
	c.wantMissing(cl, "/renamed")
}

func symlinkDirectories(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/a")
	c.ok("symlink", cl.Symlink("a", "/l"))
	c.ok("symlink", cl.Symlink("sub/", "/a/s"))
	c.wantDir(cl, "/l", "empty", "link", "s", "small", "sub")
	c.wantFile(cl, "/l/sub/large", pattern(2, 150_000))
	c.wantFile(cl, "/l/s/large", pattern(2, 150_000))
	c.put(cl, "/l/s/new", pattern(3, 10))
	c.ok("mkdir", cl.Mkdir("/l/dir"))
	c.wantFile(cl, "/a/sub/new", pattern(3, 10))
	c.ok("rename", cl.Rename("/l/s/new", "/l/dir/new", false))
	c.wantFile(cl, "/a/dir/new", pattern(3, 10))
	c.wantKind("rmdir of a link", cl.Rmdir("/l"), vfs.KindNotDir)
	c.ok("remove", cl.Remove("/l/dir/new"))
	c.ok("rmdir", cl.Rmdir("/l/dir"))
	c.ok("remove of the link", cl.Remove("/a/s"))
	c.wantTree(cl, "/a")
	c.wantTree(cl, "/l")
}

func symlinkConfinement(c *suite) {
	cl := c.alice()
	c.ok("mkdir", cl.Mkdir("/a"))
	c.ok("mkdir", cl.Mkdir("/etc"))
	c.put(cl, "/etc/passwd", pattern(1, 100))
	for i, target := range []string{"/etc/passwd", "../../../../../../etc/passwd", "/../../etc/passwd", "../etc//./passwd"} {
		path := fmt.Sprintf("/a/l%d", i)
		c.ok("symlink", cl.Symlink(target, path))
		c.wantLink(cl, path, target)
		c.wantFile(cl, path, pattern(1, 100))
	}
	for i, target := range []string{"/proc/self/root/etc/passwd", "/etc/shadow", "../../../../../../../../etc/hostname", "/dev/null"} {
		path := fmt.Sprintf("/a/out%d", i)
		c.ok("symlink", cl.Symlink(target, path))
		_, err := cl.Open(path, vfs.OpenRead)
		c.wantKind("open through "+target, err, vfs.KindNotExist)
		_, err = cl.List(path)
		c.wantError("list "+target, err)
	}
	c.ok("symlink", cl.Symlink("/", "/a/root"))
	c.ok("symlink", cl.Symlink("..", "/a/up"))
	c.wantDir(cl, "/a/root", "a", "etc")
	c.wantDir(cl, "/a/up", "a", "etc")
	c.wantDir(cl, "/a/root/a/up/a/root/etc", "passwd")
	c.wantKind("an empty target", cl.Symlink("", "/a/none"), vfs.KindInvalid, vfs.KindNotExist, vfs.KindBadName)
}

func symlinkLoops(c *suite) {
	cl := c.alice()
	c.ok("symlink", cl.Symlink("b", "/a"))
	c.ok("symlink", cl.Symlink("a", "/b"))
	c.ok("symlink", cl.Symlink("self", "/self"))
	c.ok("symlink", cl.Symlink("x/..", "/x"))
	for _, path := range []string{"/a", "/self", "/self/y", "/x"} {
		_, err := cl.Stat(path)
		c.wantKind("stat "+path, err, vfs.KindLoop)
		_, err = cl.Open(path, vfs.OpenRead)
		c.wantKind("open "+path, err, vfs.KindLoop)
		_, err = cl.List(path)
		c.wantKind("list "+path, err, vfs.KindLoop)
	}
	_, err := cl.Open("/a", create)
	c.wantKind("create through a loop", err, vfs.KindLoop, vfs.KindExist)
	c.wantDir(cl, "/", "a", "b", "self", "x")
	// A chain is no loop as long as it is not too long.
	c.put(cl, "/f", pattern(1, 10))
	last := "f"
	for i := range 20 {
		c.together(func() { c.ok("symlink", cl.Symlink(last, fmt.Sprintf("/chain%d", i))) })
		last = fmt.Sprintf("chain%d", i)
	}
	c.wantFile(cl, "/"+last, pattern(1, 10))
}

func realPaths(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/a")
	c.ok("symlink", cl.Symlink("a/sub", "/l"))
	for raw, want := range map[string]string{
		"":                "/",
		"a":               "/a",
		"l":               "/a/sub",
		"/l/deep":         "/a/sub/deep",
		"/l/large":        "/a/sub/large",
		"/a/link":         "/a/sub/large",
		"/l/missing":      "/a/sub/missing",
		"/missing":        "/missing",
		"/a/../a/./small": "/a/small",
	} {
		got, err := cl.RealPath(raw)
		if err != nil || got != want {
			c.Errorf("realpath %q = %q, %v, want %q", raw, got, err, want)
		}
	}
}

func hardLinks(c *suite) {
	cl := c.alice()
	for i, n := range []int{100, 150_000} {
		from, to := fmt.Sprintf("/f%d", i), fmt.Sprintf("/g%d", i)
		c.put(cl, from, pattern(1, n))
		c.ok("link", cl.Link(from, to))
		c.wantFile(cl, to, pattern(1, n))
		c.put(cl, from, pattern(2, n/2))
		c.wantFile(cl, from, pattern(2, n/2))
		c.wantFile(cl, to, pattern(1, n))
		c.ok("remove", cl.Remove(from))
		c.wantFile(cl, to, pattern(1, n))
		c.ok("link back", cl.Link(to, from))
		f := c.open(cl, to, vfs.OpenWrite)
		c.write(f, 10, []byte(strings.Repeat("x", 20)))
		c.ok("close", f.Close())
		c.wantFile(cl, from, pattern(1, n))
		c.ok("rename", cl.Rename(from, "/h", true))
		c.wantFile(cl, "/h", pattern(1, n))
	}
}

func hardLinksRefused(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/a")
	c.put(cl, "/f", pattern(1, 10))
	c.wantKind("over a file", cl.Link("/f", "/a/small"), vfs.KindExist)
	c.wantKind("over itself", cl.Link("/f", "/f"), vfs.KindExist)
	c.wantKind("of nothing", cl.Link("/none", "/g"), vfs.KindNotExist)
	c.wantKind("below nothing", cl.Link("/f", "/none/g"), vfs.KindNotExist)
	c.wantError("of a directory", cl.Link("/a", "/b"))
	c.wantTree(cl, "/a")
	c.wantDir(cl, "/", "a", "f")
}
