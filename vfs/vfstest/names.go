package vfstest

import (
	"slices"
	"strings"

	"github.com/snapgate/gateway/vfs"
)

// nameCases are the promises about the bytes of names.
func nameCases() []testCase {
	return []testCase{
		{"names of any bytes", oddNames},
		{"hostile spellings of paths stay inside", hostilePaths},
		{"names that are refused", refusedNames},
		{"reserved names cannot be made", reservedNames},
		{"names differ by every byte", similarNames},
	}
}

func oddNames(c *suite) {
	cl := c.alice()
	names := []string{
		" ", "  two", "...", "-rf", "a\\b", "ä", "a\u0308", "\xfe\xff\x80", "new\nline", "tab\t", "\x01\x7f", "*?[a-z]", "'\"`$(x)",
		"CON", "C:", "#", "%2e%2e", "~", ".hidden", strings.Repeat("n", 255), "日本語", "\u202etxt.exe", "a;b|c&d", "\x1b[2J",
	}
	if !c.has(LineBreak) {
		names = slices.DeleteFunc(names, func(name string) bool { return strings.Contains(name, "\n") })
	}
	c.ok("mkdir", cl.Mkdir("/odd"))
	for i, name := range names {
		c.put(cl, "/odd/"+name, pattern(i, 50))
	}
	for i, name := range names {
		c.wantFile(cl, "/odd/"+name, pattern(i, 50))
	}
	slices.Sort(names)
	c.wantDir(cl, "/odd", names...)
	c.commit()
	c.wantDir(cl, "/.snapshots/latest/odd", names...)
	for _, name := range names {
		c.ok("rename", cl.Rename("/odd/"+name, "/"+name, false))
		c.ok("mkdir", cl.Mkdir("/odd/"+name))
	}
	c.wantDir(cl, "/odd", names...)
}

func hostilePaths(c *suite) {
	cl := c.alice()
	c.makeTree(cl, "/a")
	for _, tt := range []struct{ raw, want string }{
		{"a/small", "/a/small"},
		{"/a//small", "/a/small"},
		{"//a/./small", "/a/small"},
		{"/../a/small", "/a/small"},
		{"../../../a/small", "/a/small"},
		{"/a/sub/../small", "/a/small"},
		{"/a/none/../small", "/a/small"},
		{"/a/sub/../../../../a/small", "/a/small"},
		{"./a/./././small", "/a/small"},
	} {
		got, err := cl.RealPath(tt.raw)
		if err != nil || got != tt.want {
			c.Errorf("realpath %q = %q, %v, want %q", tt.raw, got, err, tt.want)
		}
		c.wantFile(cl, tt.raw, pattern(1, 100))
	}
	for _, raw := range []string{
		"/etc/passwd", "../../../../etc/passwd", "/proc/self/environ", "..\\..\\etc", "file:///etc/passwd", "%2e%2e/%2e%2e/etc/passwd",
		"/a/../../../../../../etc/hostname", "/dev/null",
	} {
		_, err := cl.Open(raw, vfs.OpenRead)
		c.wantKind("open "+raw, err, vfs.KindNotExist)
	}
	for i, raw := range []string{"/x/../y1", "../y2", "//y3//", "./././y4", "/../../../y5"} {
		c.put(cl, raw, pattern(i, 10))
	}
	c.ok("rename", cl.Rename("/../y1", "../../z1", false))
	c.wantDir(cl, "/", "a", "y2", "y3", "y4", "y5", "z1")
	for raw, want := range map[string]string{"": "/", ".": "/", "..": "/", "/..": "/", "/a/..": "/", "//": "/"} {
		got, err := cl.RealPath(raw)
		if err != nil || got != want {
			c.Errorf("realpath %q = %q, %v, want %q", raw, got, err, want)
		}
	}
}

func refusedNames(c *suite) {
	cl := c.alice()
	c.put(cl, "/f", pattern(1, 10))
	deep := strings.Repeat("/"+strings.Repeat("d", 200), 21)
	for what, path := range map[string]string{
		"NUL": "/a\x00b", "NUL at the end": "/f\x00", "a long name": "/" + strings.Repeat("n", 256), "a long path": deep,
		"0xff at the start": "/\xff\xfe",
	} {
		_, err := cl.Open(path, create)
		c.wantKind("create "+what, err, vfs.KindBadName)
		_, err = cl.Open(path, vfs.OpenRead)
		c.wantKind("open "+what, err, vfs.KindBadName)
		c.wantKind("mkdir "+what, cl.Mkdir(path), vfs.KindBadName)
		c.wantKind("rename to "+what, cl.Rename("/f", path, true), vfs.KindBadName)
		c.wantKind("symlink at "+what, cl.Symlink("f", path), vfs.KindBadName)
		if c.has(HardLinks) {
			c.wantKind("link to "+what, cl.Link("/f", path), vfs.KindBadName)
		}
		_, err = cl.Stat(path)
		c.wantKind("stat "+what, err, vfs.KindBadName)
	}
	c.wantDir(cl, "/", "f")
}

func reservedNames(c *suite) {
	cl := c.alice()
	c.ok("mkdir", cl.Mkdir("/d"))
	c.put(cl, "/f", pattern(1, 10))
	c.ok("mkdir", cl.Mkdir("/e"))
	kinds := []vfs.Kind{vfs.KindPermission, vfs.KindBadName, vfs.KindExist}
	for _, dir := range []string{"", "/d"} {
		path := dir + "/.snapshots"
		for _, flag := range c.flags(create, update, create|vfs.OpenExclusive, resume) {
			_, err := cl.Open(path, flag)
			c.wantKind("create "+path, err, append(kinds, vfs.KindIsDir)...)
		}
		c.wantKind("mkdir "+path, cl.Mkdir(path), kinds...)
		c.wantKind("symlink "+path, cl.Symlink("f", path), kinds...)
		if c.has(HardLinks) {
			c.wantKind("link "+path, cl.Link("/f", path), kinds...)
		}
		for _, replace := range []bool{false, true} {
			c.wantKind("rename a file to "+path, cl.Rename("/f", path, replace), append(kinds, vfs.KindIsDir)...)
			c.wantKind("rename a directory to "+path, cl.Rename("/e", path, replace), append(kinds, vfs.KindNotEmpty)...)
			c.wantKind("rename away "+path, cl.Rename(path, "/x", replace), vfs.KindPermission)
		}
		c.wantKind("rmdir "+path, cl.Rmdir(path), vfs.KindPermission)
		c.wantKind("remove "+path, cl.Remove(path), vfs.KindPermission, vfs.KindIsDir)
		c.wantKind("setattr "+path, cl.SetAttr(path, vfs.AttrSet{ModTime: ptr(then())}), vfs.KindPermission)
	}
	c.wantDir(cl, "/", "d", "e", "f")
	c.wantDir(cl, "/d")
	// Only the exact name is reserved.
	for _, path := range []string{"/.snapshots2", "/.Snapshots", "/d/snapshots"} {
		c.put(cl, path, nil)
	}
}

func similarNames(c *suite) {
	cl := c.alice()
	names := []string{"a", "A", "a ", "a.", "a\u0301", "á", "a-b", "a.b", "a/b", "ab"}
	c.ok("mkdir", cl.Mkdir("/x"))
	c.ok("mkdir", cl.Mkdir("/x/dir"))
	var want []string
	for i, name := range names {
		if name == "a/b" {
			continue
		}
		c.put(cl, "/x/"+name, pattern(i, 20))
		want = append(want, name)
	}
	// "dir", "dir-x" and "dir.x" sort between and after the entries of dir as bytes.
	for _, name := range []string{"dir-x", "dir.x", "dir!", "dir0"} {
		c.ok("mkdir", cl.Mkdir("/x/"+name))
		c.put(cl, "/x/"+name+"/f", pattern(9, 20))
		want = append(want, name)
	}
	c.put(cl, "/x/dir/f", pattern(8, 20))
	want = append(want, "dir")
	slices.Sort(want)
	c.wantDir(cl, "/x", want...)
	c.ok("rename", cl.Rename("/x/dir", "/x/dir#", false))
	c.wantFile(cl, "/x/dir#/f", pattern(8, 20))
	c.wantFile(cl, "/x/dir-x/f", pattern(9, 20))
	c.wantFile(cl, "/x/dir.x/f", pattern(9, 20))
}
