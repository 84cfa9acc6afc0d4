package vfstest

import (
	"bytes"
	"slices"

	"github.com/snapgate/gateway/vfs"
)

// uploadCases are the promises about uploads in progress, cut off and resumed, and about
// readers and writers that meet.
func uploadCases() []testCase {
	return []testCase{
		{"an upload is not there until its close", uploadAppearsAtClose},
		{"an overwriting upload leaves the old file until its close", oldUntilClose},
		{"an upload that is cut off never shows", cutOff},
		{"an upload that is cut off never replaces", cutOffOverwrite},
		{"its principal resumes what was cut off", resumed},
		{"others cannot see or resume it", notResumedByOthers},
		{"a new upload supersedes what was cut off", superseded},
		{"readers keep the version they opened", readersKeepVersion},
		{"of two writers the last close wins", lastCloseWins},
		{"an upload whose target is removed is published", removedMeanwhile},
		{"an upload follows its directory", uploadFollowsDirectory},
		{"a directory with an open upload stays", busyDirectory},
		{"a truncating open alone destroys nothing", openAloneDestroysNothing},
		{"sessions see each other's changes at once", readYourWrites},
	}
}

func uploadAppearsAtClose(c *suite) {
	cl, other := c.alice(), c.client("bob")
	for _, n := range []int{1000, 100_000} {
		f := c.open(cl, "/f", create)
		c.write(f, 0, pattern(1, n))
		c.wantDir(cl, "/")
		c.wantDir(other, "/")
		c.wantMissing(other, "/f")
		if c.has(Handles) {
			info, err := cl.Stat("/f")
			if err != nil || info.Size != int64(n) {
				c.Errorf("the session sees its own upload: %+v, %v, want %d bytes", info, err, n)
			}
		}
		c.ok("close", f.Close())
		c.wantFile(other, "/f", pattern(1, n))
		c.wantDir(other, "/", "f")
		c.ok("remove", cl.Remove("/f"))
	}
}

func oldUntilClose(c *suite) {
	cl, other := c.alice(), c.client("bob")
	old := pattern(1, 70_000)
	c.put(cl, "/f", old)
	for _, flag := range []vfs.OpenFlag{create, update} {
		f := c.open(cl, "/f", flag)
		c.write(f, 0, pattern(2, 90_000))
		c.wantFile(other, "/f", old)
		c.ok("close", f.Close())
		c.wantFile(other, "/f", pattern(2, 90_000))
		c.wantFile(cl, "/f", pattern(2, 90_000))
		c.put(cl, "/f", old)
	}
}

func cutOff(c *suite) {
	for _, n := range []int{0, 1000, 100_000} {
		cl, other := c.alice(), c.client("bob")
		f := c.open(cl, "/f", create)
		if n > 0 {
			c.write(f, 0, pattern(1, n))
		}
		c.ok("drop", cl.Drop())
		c.wantDir(other, "/")
		c.wantMissing(other, "/f")
		c.wantDir(c.alice(), "/")
	}
}

func cutOffOverwrite(c *suite) {
	old := pattern(1, 80_000)
	c.put(c.alice(), "/f", old)
	flags := []vfs.OpenFlag{create}
	if c.has(Update) { // else it is a resume, which is refused after the first
		flags = append(flags, update, vfs.OpenWrite)
	}
	for _, flag := range flags {
		cl := c.alice()
		f := c.open(cl, "/f", flag)
		c.write(f, 0, pattern(2, 1000))
		if c.has(Update) {
			c.write(f, 79_000, pattern(3, 5000))
		}
		c.ok("drop", cl.Drop())
		c.wantFile(c.alice(), "/f", old)
		c.wantFile(c.client("bob"), "/f", old)
	}
}

func resumed(c *suite) {
	want := pattern(1, 400_000)
	have := 0
	for _, next := range []int{1000, 100_000, 250_000, len(want)} {
		cl := c.alice()
		if have > 0 {
			info, err := cl.Stat("/f")
			if err != nil || info.Size != int64(have) {
				c.Fatalf("stat of the partial: %+v, %v, want %d bytes", info, err, have)
			}
			c.wantDir(cl, "/")
		}
		f := c.open(cl, "/f", resume)
		c.write(f, int64(have), want[have:next])
		have = next
		if have < len(want) {
			c.ok("drop", cl.Drop())
		} else {
			c.ok("close", f.Close())
		}
	}
	c.wantFile(c.alice(), "/f", want)
	c.wantFile(c.client("bob"), "/f", want)
}

func notResumedByOthers(c *suite) {
	cl := c.alice()
	f := c.open(cl, "/f", create)
	c.write(f, 0, pattern(1, 100_000))
	c.ok("drop", cl.Drop())
	bob := c.client("bob")
	c.wantMissing(bob, "/f")
	f = c.open(bob, "/f", resume)
	if c.has(Handles) {
		if info, err := f.Stat(); err != nil || info.Size != 0 {
			c.Errorf("another principal resumes at %d bytes, %v", info.Size, err)
		}
	}
	c.write(f, 0, pattern(2, 500))
	c.ok("close", f.Close())
	c.wantFile(bob, "/f", pattern(2, 500))
	c.wantFile(c.alice(), "/f", pattern(2, 500))
}

func superseded(c *suite) {
	cl := c.alice()
	f := c.open(cl, "/f", create)
	c.write(f, 0, pattern(1, 100_000))
	c.ok("drop", cl.Drop())
	cl = c.alice()
	c.put(cl, "/f", pattern(2, 10))
	c.wantFile(cl, "/f", pattern(2, 10))
	c.ok("remove", cl.Remove("/f"))
	c.wantMissing(c.client("bob"), "/f")
	c.wantDir(cl, "/")
}

func readersKeepVersion(c *suite) {
	cl, other := c.alice(), c.client("bob")
	for _, n := range []int{1000, 200_000} {
		old := pattern(1, n)
		for _, destroy := range []struct {
			what  string
			needs Feature
			do    func()
		}{
			{"overwrite", 0, func() { c.put(other, "/f", pattern(2, n/2)) }},
			{"update", Update, func() {
				f := c.open(other, "/f", vfs.OpenWrite)
				c.write(f, 10, pattern(3, 100))
				c.ok("close", f.Close())
			}},
			{"truncate", Resize, func() { c.ok("set size", other.SetAttr("/f", vfs.AttrSet{Size: ptr[int64](0)})) }},
			{"remove", 0, func() { c.ok("remove", other.Remove("/f")) }},
			{"rename over", 0, func() {
				c.put(other, "/g", pattern(4, 10))
				c.ok("rename", other.Rename("/g", "/f", true))
			}},
		} {
			if !c.has(destroy.needs) {
				continue
			}
			c.put(cl, "/f", old)
			f := c.open(cl, "/f", vfs.OpenRead)
			head := make([]byte, 100)
			if _, err := f.ReadAt(head, 0); err != nil {
				c.Errorf("read: %v", err)
			}
			destroy.do()
			got, err := readAll(f)
			if err != nil || !bytes.Equal(got, old) {
				c.Errorf("after %s a reader gets %s, %v", destroy.what, firstDifference(got, old), err)
			}
			c.ok("close", f.Close())
		}
	}
}

func lastCloseWins(c *suite) {
	a, b := c.alice(), c.client("bob")
	fa := c.open(a, "/f", create)
	fb := c.open(b, "/f", create)
	c.write(fb, 0, pattern(2, 2000))
	c.write(fa, 0, pattern(1, 1000))
	c.ok("close", fb.Close())
	c.wantFile(b, "/f", pattern(2, 2000))
	c.ok("close", fa.Close())
	c.wantFile(b, "/f", pattern(1, 1000))
}

func removedMeanwhile(c *suite) {
	cl, other := c.alice(), c.client("bob")
	for _, flag := range []vfs.OpenFlag{create, update} {
		c.put(cl, "/f", pattern(1, 100_000))
		f := c.open(cl, "/f", flag)
		c.write(f, 0, pattern(2, 100_000))
		c.ok("remove", other.Remove("/f"))
		c.wantMissing(other, "/f")
		c.ok("close", f.Close())
		c.wantFile(other, "/f", pattern(2, 100_000))
	}
	if !c.has(Update) {
		return
	}
	// An update goes on even when no snapshot has the file, and nobody else needs it: its
	// own creator deletes it at once, or it has a temporary name.
	for _, n := range []int{1000, 100_000} {
		for _, path := range []string{"/probe", "/probe.part"} {
			c.put(cl, path, pattern(3, n))
			f := c.open(other, path, vfs.OpenWrite)
			c.ok("remove", cl.Remove(path))
			c.put(cl, "/f", pattern(4, 10))
			c.commit()
			c.write(f, 10, pattern(5, 10))
			c.ok("close", f.Close())
			want := pattern(3, n)
			copy(want[10:], pattern(5, 10))
			c.wantFile(cl, path, want)
			c.ok("remove", cl.Remove(path))
		}
	}
}

func uploadFollowsDirectory(c *suite) {
	cl, other := c.alice(), c.client("bob")
	c.ok("mkdir", cl.Mkdir("/a"))
	c.ok("mkdir", cl.Mkdir("/a/b"))
	c.put(cl, "/a/b/old", pattern(1, 100_000))
	fresh := c.open(cl, "/a/b/new", create)
	c.write(fresh, 0, pattern(2, 70_000))
	old := c.open(cl, "/a/b/old", update)
	c.write(old, 100_000, pattern(3, 10))
	c.ok("rename", other.Rename("/a", "/moved", false))
	c.write(fresh, 70_000, pattern(2, 10))
	c.ok("close", fresh.Close())
	c.ok("close", old.Close())
	c.wantFile(other, "/moved/b/new", slices.Concat(pattern(2, 70_000), pattern(2, 10)))
	c.wantFile(other, "/moved/b/old", slices.Concat(pattern(1, 100_000), pattern(3, 10)))
	c.wantMissing(other, "/a")
	c.wantDir(other, "/", "moved")
}

func busyDirectory(c *suite) {
	cl, other := c.alice(), c.client("bob")
	c.ok("mkdir", cl.Mkdir("/d"))
	f := c.open(cl, "/d/f", create)
	c.write(f, 0, pattern(1, 100))
	c.wantKind("rmdir", other.Rmdir("/d"), vfs.KindBusy, vfs.KindNotEmpty)
	c.ok("close", f.Close())
	c.wantFile(other, "/d/f", pattern(1, 100))
	c.wantKind("rmdir", other.Rmdir("/d"), vfs.KindNotEmpty)
	c.ok("remove", other.Remove("/d/f"))
	c.ok("rmdir", other.Rmdir("/d"))
	c.wantMissing(other, "/d")
}

func openAloneDestroysNothing(c *suite) {
	cl, other := c.alice(), c.client("bob")
	c.put(cl, "/f", pattern(1, 100_000))
	f := c.open(cl, "/f", create)
	c.wantFile(other, "/f", pattern(1, 100_000))
	c.ok("drop", cl.Drop())
	c.wantFile(other, "/f", pattern(1, 100_000))
	_ = f
	// Closed in order, though, it is an empty file.
	cl = c.alice()
	f = c.open(cl, "/f", create)
	c.ok("close", f.Close())
	c.wantFile(other, "/f", nil)
}

func readYourWrites(c *suite) {
	a, b, c2 := c.alice(), c.client("bob"), c.alice()
	all := []Client{a, b, c2}
	see := func(check func(cl Client)) {
		for _, cl := range all {
			check(cl)
		}
	}
	c.ok("mkdir", a.Mkdir("/d"))
	see(func(cl Client) { c.wantDir(cl, "/d") })
	c.put(b, "/d/f", pattern(1, 500))
	see(func(cl Client) { c.wantFile(cl, "/d/f", pattern(1, 500)) })
	c.ok("rename", c2.Rename("/d/f", "/d/g", false))
	see(func(cl Client) { c.wantMissing(cl, "/d/f"); c.wantFile(cl, "/d/g", pattern(1, 500)) })
	c.ok("set time", a.SetAttr("/d/g", vfs.AttrSet{ModTime: ptr(then())}))
	see(func(cl Client) {
		if info, err := cl.Stat("/d/g"); err != nil || !info.ModTime.Equal(then()) {
			c.Errorf("time %v, %v", info.ModTime, err)
		}
	})
	c.put(c2, "/d/g", pattern(2, 80_000))
	see(func(cl Client) { c.wantFile(cl, "/d/g", pattern(2, 80_000)) })
	c.ok("symlink", b.Symlink("g", "/d/l"))
	see(func(cl Client) { c.wantFile(cl, "/d/l", pattern(2, 80_000)); c.wantDir(cl, "/d", "g", "l") })
	c.ok("remove", a.Remove("/d/g"))
	see(func(cl Client) { c.wantMissing(cl, "/d/g"); c.wantDir(cl, "/d", "l") })
}
