package vfstest

import (
	"io/fs"
	"slices"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/vfs"
)

// historyCases are the promises about snapshots as clients see them.
func historyCases() []testCase {
	return []testCase{
		{"snapshots are listed and read", browsing},
		{"every directory shows its own versions", versionsOfDirectory},
		{"latest follows the head", latestFollows},
		{"snapshots are read-only everywhere", readOnlyViews},
		{"snapshots do not nest", viewsDoNotNest},
		{"no completed version is lost", noVersionLost},
		{"probes leave no snapshot", probesLeaveNothing},
		{"temporary names wait for their rename", temporaryNames},
		{"uploads in progress are in no snapshot", nothingHalf},
		{"no change, no snapshot", noChangeNoSnapshot},
		{"a file is restored by a link", restoreByLink},
		{"live tree and snapshot are filesystems", asFS},
	}
}

// snapshots lists the names below .snapshots without latest, oldest first.
func (c *suite) snapshots(cl Client) []string {
	c.Helper()
	infos, err := cl.List("/.snapshots")
	if err != nil {
		c.Fatalf("list /.snapshots: %v", err)
	}
	var names []string
	for _, info := range infos {
		if info.Name != "latest" {
			names = append(names, info.Name)
		}
	}
	return names
}

// newest returns the snapshot that a commit made, which must be one more than before.
func (c *suite) newest(cl Client, before []string) string {
	c.Helper()
	names := c.snapshots(cl)
	fresh := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(before, n) })
	if len(fresh) != 1 {
		c.Fatalf("snapshots %q after %q, want one more", names, before)
	}
	return "/.snapshots/" + fresh[0]
}

func browsing(c *suite) {
	cl := c.alice()
	if names := c.snapshots(cl); len(names) != 0 {
		c.Errorf("a new share has snapshots: %q", names)
	}
	c.together(func() { c.makeTree(cl, "/a") })
	c.commit()
	first := c.newest(cl, nil)
	before := c.snapshots(cl)
	c.together(func() {
		c.put(cl, "/a/small", pattern(7, 300))
		c.ok("remove", cl.Remove("/a/sub/large"))
		c.ok("rename", cl.Rename("/a/sub", "/a/other", false))
	})
	c.commit()
	second := c.newest(cl, before)
	c.wantDir(cl, first, "a")
	c.wantTree(cl, first+"/a")
	c.wantDir(cl, second+"/a", "empty", "link", "other", "small")
	c.wantFile(cl, second+"/a/small", pattern(7, 300))
	c.wantMissing(cl, second+"/a/sub")
	c.wantFile(cl, "/.snapshots/latest/a/small", pattern(7, 300))
	c.wantMissing(cl, "/.snapshots/none")
	c.wantMissing(cl, first+"/none")
	c.wantTree(c.client("bob"), first+"/a")
	info, err := cl.Stat(first + "/a/sub/large")
	if err != nil || info.Mode&0o222 != 0 || info.Size != 150_000 || info.Name != "large" {
		c.Errorf("stat in a snapshot: %+v, %v", info, err)
	}
	c.wantDir(cl, "/", "a")
	for _, path := range []string{"/.snapshots", first, "/.snapshots/latest"} {
		if info, err := cl.Stat(path); err != nil || info.Type != vfs.TypeDir || info.Mode&0o222 != 0 {
			c.Errorf("stat %q: %+v, %v", path, info, err)
		}
	}
}

func versionsOfDirectory(c *suite) {
	cl := c.alice()
	c.together(func() { c.makeTree(cl, "/a") })
	c.commit()
	first := c.snapshots(cl)[0]
	c.wantDir(cl, "/a/.snapshots/"+first, "empty", "link", "small", "sub")
	c.wantFile(cl, "/a/sub/.snapshots/"+first+"/large", pattern(2, 150_000))
	c.wantFile(cl, "/a/.snapshots/latest/sub/large", pattern(2, 150_000))
	c.wantDir(cl, "/a/sub", "deep", "large")
	c.ok("remove", cl.Remove("/a/sub/large"))
	c.commit()
	c.wantMissing(cl, "/a/sub/.snapshots/latest/large")
	c.wantFile(cl, "/a/sub/.snapshots/"+first+"/large", pattern(2, 150_000))
}

func latestFollows(c *suite) {
	cl := c.alice()
	for i := range 4 {
		c.put(cl, "/f", pattern(i, 1000*i))
		c.commit()
		c.wantFile(cl, "/.snapshots/latest/f", pattern(i, 1000*i))
	}
	c.put(cl, "/g", pattern(1, 5))
	if c.mode == asItStands {
		c.wantMissing(cl, "/.snapshots/latest/g")
	}
	c.commit()
	c.wantFile(cl, "/.snapshots/latest/g", pattern(1, 5))
}

func readOnlyViews(c *suite) {
	cl := c.alice()
	c.together(func() { c.makeTree(cl, "/a") })
	c.put(cl, "/f", pattern(3, 10))
	c.commit()
	name := c.snapshots(cl)[0]
	for _, dir := range []string{"/.snapshots", "/.snapshots/latest", "/.snapshots/latest/a", "/a/.snapshots/" + name} {
		for _, flag := range c.flags(create, update, vfs.OpenWrite, vfs.OpenRead|vfs.OpenWrite, create|vfs.OpenExclusive, resume) {
			f, err := cl.Open(dir+"/small", flag)
			if dir == "/.snapshots/latest" || dir == "/.snapshots" {
				c.wantKind("open for writing in "+dir, err, vfs.KindPermission, vfs.KindNotExist)
			} else {
				c.wantKind("open for writing in "+dir, err, vfs.KindPermission, vfs.KindExist)
			}
			if err == nil {
				c.ok("close", f.Close())
			}
		}
		c.wantKind("mkdir in "+dir, cl.Mkdir(dir+"/new"), vfs.KindPermission)
		c.wantKind("symlink in "+dir, cl.Symlink("x", dir+"/new"), vfs.KindPermission)
		if c.has(HardLinks) {
			c.wantKind("link into "+dir, cl.Link("/f", dir+"/new"), vfs.KindPermission)
		}
		c.wantKind("rename into "+dir, cl.Rename("/f", dir+"/new", true), vfs.KindPermission)
		c.wantKind("setattr of "+dir, cl.SetAttr(dir, vfs.AttrSet{Mode: ptr(fs.FileMode(0o777))}), vfs.KindPermission)
		c.wantKind("rmdir of "+dir, cl.Rmdir(dir), vfs.KindPermission)
	}
	for _, dir := range []string{"/.snapshots/latest/a", "/a/.snapshots/" + name} {
		c.wantKind("remove in "+dir, cl.Remove(dir+"/small"), vfs.KindPermission)
		c.wantKind("rmdir in "+dir, cl.Rmdir(dir+"/empty"), vfs.KindPermission)
		c.wantKind("rename in "+dir, cl.Rename(dir+"/small", dir+"/other", true), vfs.KindPermission)
		c.wantKind("rename out of "+dir, cl.Rename(dir+"/small", "/stolen", true), vfs.KindPermission)
		if c.has(Resize) {
			c.wantKind("set size in "+dir, cl.SetAttr(dir+"/small", vfs.AttrSet{Size: ptr[int64](0)}), vfs.KindPermission)
		}
		c.wantTree(cl, dir)
	}
	c.wantKind("rename of a snapshot", cl.Rename("/.snapshots/"+name, "/.snapshots/x", true), vfs.KindPermission)
	c.wantDir(cl, "/", "a", "f")
}

func viewsDoNotNest(c *suite) {
	cl := c.alice()
	c.together(func() { c.makeTree(cl, "/a") })
	c.commit()
	for _, path := range []string{
		"/.snapshots/.snapshots", "/.snapshots/latest/.snapshots", "/.snapshots/latest/a/.snapshots/latest", "/a/.snapshots/latest/sub/.snapshots",
	} {
		_, err := cl.Stat(path)
		c.wantKind("stat "+path, err, vfs.KindNotExist)
		_, err = cl.List(path)
		c.wantKind("list "+path, err, vfs.KindNotExist)
	}
	// ".." is about names, not about where a view came from.
	c.wantFile(cl, "/.snapshots/latest/../../a/small", pattern(1, 100))
}

// holder returns the path of a file with these bytes in some snapshot, "" when there is
// none.
func (c *suite) holder(cl Client, path string, want []byte) string {
	c.Helper()
	for _, name := range c.snapshots(cl) {
		full := "/.snapshots/" + name + path
		if _, err := cl.Lstat(full); err == nil && slices.Equal(c.get(cl, full), want) {
			return full
		}
	}
	return ""
}

func noVersionLost(c *suite) {
	cl := c.alice()
	destroyers := []struct {
		needs Feature
		do    func(path string)
	}{
		{0, func(path string) { c.put(cl, path, pattern(50, 10)) }},
		{Resize, func(path string) {
			c.ok("set size", cl.SetAttr(path, vfs.AttrSet{Size: ptr[int64](5)}))
		}},
		{Update, func(path string) {
			f := c.open(cl, path, vfs.OpenWrite)
			c.write(f, 3, pattern(51, 3))
			c.ok("close", f.Close())
		}},
		{0, func(path string) {
			c.put(cl, "/other", pattern(52, 20))
			c.ok("rename over", cl.Rename("/other", path, true))
		}},
		{0, func(path string) { c.ok("remove", c.client("bob").Remove(path)) }},
	}
	for i, destroy := range destroyers {
		path := "/" + string(rune('a'+i))
		for j := range 3 {
			c.put(cl, path, pattern(i*10+j, 30_000*(j+1)))
			if c.has(destroy.needs) {
				destroy.do(path)
			}
		}
	}
	c.commit()
	for i := range destroyers {
		path := "/" + string(rune('a'+i))
		for j := range 3 {
			if c.holder(cl, path, pattern(i*10+j, 30_000*(j+1))) == "" {
				c.Errorf("version %d of %s is in no snapshot", j, path)
			}
		}
	}
}

// probeAge is up to which age a client's own version leaves nothing when the client deletes it.
const probeAge = 2 * time.Second

func probesLeaveNothing(c *suite) {
	cl := c.alice()
	c.put(cl, "/keep", pattern(1, 10))
	c.commit()
	before := c.snapshots(cl)
	probes, most := []string{"/empty", "/probe"}, 1
	c.together(func() {
		began := time.Now()
		c.put(cl, "/.lock", pattern(2, 30))
		c.ok("remove", cl.Remove("/.lock"))
		if time.Since(began) < probeAge {
			probes = append(probes, "/.lock")
		} else {
			most++ // on a slow machine it is a version like any other
		}
		c.put(cl, "/empty", nil)
		c.ok("remove", cl.Remove("/empty"))
		c.ok("mkdir", cl.Mkdir("/probe"))
		c.ok("rmdir", cl.Rmdir("/probe"))
	})
	c.commit()
	for _, name := range c.snapshots(cl) {
		for _, probe := range probes {
			c.wantMissing(cl, "/.snapshots/"+name+probe)
		}
	}
	if n := len(c.snapshots(cl)) - len(before); n > most {
		c.Errorf("probes made %d snapshots", n)
	}
}

func temporaryNames(c *suite) {
	cl := c.alice()
	c.put(cl, "/keep", pattern(1, 10))
	for _, n := range []int{500, 100_000} {
		c.put(cl, "/report.pdf.part", pattern(2, n))
		c.commit()
		c.wantFile(cl, "/report.pdf.part", pattern(2, n))
		c.wantMissing(cl, "/.snapshots/latest/report.pdf.part")
		c.put(cl, "/other", pattern(3, n))
		c.commit()
		c.wantFile(cl, "/report.pdf.part", pattern(2, n))
		c.wantDir(cl, "/.snapshots/latest", "keep", "other")
		c.ok("rename", cl.Rename("/report.pdf.part", "/report.pdf", false))
		c.commit()
		c.wantFile(cl, "/.snapshots/latest/report.pdf", pattern(2, n))
		c.ok("remove", cl.Remove("/report.pdf"))
		c.ok("remove", cl.Remove("/other"))
		c.commit()
	}
	for _, name := range c.snapshots(cl) {
		c.wantMissing(cl, "/.snapshots/"+name+"/report.pdf.part")
	}
	// One that takes the place of a stored directory.
	c.ok("mkdir", cl.Mkdir("/x.part"))
	c.put(cl, "/x.part/f", pattern(4, 10))
	c.commit()
	c.ok("remove", cl.Remove("/x.part/f"))
	c.ok("rmdir", cl.Rmdir("/x.part"))
	c.put(cl, "/x.part", pattern(5, 100))
	c.commit()
	c.wantFile(cl, "/x.part", pattern(5, 100))
	c.wantMissing(cl, "/.snapshots/latest/x.part")
	c.ok("rename", cl.Rename("/x.part", "/x", false))
	c.commit()
	c.wantFile(cl, "/.snapshots/latest/x", pattern(5, 100))
	// A directory's time is not that of a commit.
	c.ok("mkdir", cl.Mkdir("/d"))
	c.put(cl, "/d/y.part", pattern(6, 100))
	c.ok("set time", cl.SetAttr("/d", vfs.AttrSet{ModTime: ptr(then())}))
	c.commit()
	c.wantAttr(cl, "/d", 0o755, then())
	c.ok("rename", cl.Rename("/d/y.part", "/d/y", false))
}

func nothingHalf(c *suite) {
	cl := c.alice()
	c.put(cl, "/old", pattern(1, 1000))
	fresh := c.open(cl, "/new", create)
	c.write(fresh, 0, pattern(2, 100_000))
	over := c.open(cl, "/old", create)
	c.write(over, 0, pattern(3, 10))
	c.put(cl, "/other", pattern(4, 10))
	c.commit()
	c.wantDir(cl, "/.snapshots/latest", "old", "other")
	c.wantFile(cl, "/.snapshots/latest/old", pattern(1, 1000))
	c.ok("close", fresh.Close())
	c.ok("close", over.Close())
	c.commit()
	c.wantDir(cl, "/.snapshots/latest", "new", "old", "other")
	c.wantFile(cl, "/.snapshots/latest/new", pattern(2, 100_000))
	c.wantFile(cl, "/.snapshots/latest/old", pattern(3, 10))
}

func noChangeNoSnapshot(c *suite) {
	cl := c.alice()
	c.commit()
	c.commit()
	if names := c.snapshots(cl); len(names) != 0 {
		c.Errorf("snapshots %q of an empty share", names)
	}
	c.put(cl, "/f", pattern(1, 10))
	c.commit()
	before := c.snapshots(cl)
	c.wantFile(cl, "/f", pattern(1, 10))
	c.commit()
	for _, flag := range c.flags(vfs.OpenRead | vfs.OpenWrite) {
		f := c.open(cl, "/f", flag)
		c.ok("close", f.Close())
	}
	c.commit()
	if diff := cmp.Diff(before, c.snapshots(cl)); diff != "" {
		c.Errorf("snapshots without a change (-before +after):\n%s", diff)
	}
}

func restoreByLink(c *suite) {
	cl := c.alice()
	for i, n := range []int{100, 150_000} {
		path := "/" + string(rune('a'+i))
		c.put(cl, path, pattern(i, n))
		c.commit()
		stored := c.holder(cl, path, pattern(i, n))
		c.ok("remove", cl.Remove(path))
		c.ok("link", cl.Link(stored, path))
		c.wantFile(cl, path, pattern(i, n))
		c.put(cl, path+"2", pattern(9, 10))
		c.commit()
		c.wantFile(cl, path, pattern(i, n))
		c.wantFile(cl, "/.snapshots/latest"+path, pattern(i, n))
	}
}

func asFS(c *suite) {
	cl := c.alice()
	c.together(func() {
		c.makeTree(cl, "/a")
		c.ok("remove", cl.Remove("/a/link")) // fstest follows no links of ours
		c.put(cl, "/top", pattern(5, 70_000))
	})
	for _, root := range []string{"/", "/.snapshots/latest"} {
		if root != "/" {
			c.commit()
		}
		fsys := clientFS{cl, root}
		if err := fstest.TestFS(fsys, "top", "a/small", "a/sub/large", "a/sub/deep/none", "a/empty"); err != nil {
			c.Errorf("%s: %v", root, err)
		}
	}
}
