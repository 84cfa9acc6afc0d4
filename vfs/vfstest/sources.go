package vfstest

import (
	"io/fs"
	"testing/fstest"
	"time"

	"github.com/snapgate/gateway/vfs"
)

// Reader is the user of a System who sees, in the place of the share, the source that
// System.Pull makes snapshots of. It may do everything that is possible there.
const Reader = "reader"

// sourceCases are the promises about the read-only shares of sources.
func sourceCases() []testCase {
	return []testCase{
		{"a source shows its newest snapshot", sourceShowsNewest},
		{"a source keeps what is open", sourceKeepsOpen},
		{"a source is read-only", sourceIsReadOnly},
		{"a source is a filesystem", sourceAsFS},
	}
}

const (
	// pullLimit is how long a pull may take to be seen; the promise is some seconds.
	pullLimit = 20 * time.Second
	// pullPoll is how often it is looked for.
	pullPoll = 10 * time.Millisecond
)

// pull makes what is in the share the source's newest snapshot, which /mark shows, and
// waits until the source shows it.
func (c *suite) pull(cl, reader Client, mark string) {
	c.Helper()
	c.put(cl, "/mark", []byte(mark))
	c.commit()
	if err := c.sys.Pull(); err != nil {
		c.Fatalf("pull: %v", err)
	}
	deadline := time.After(pullLimit)
	poll := time.NewTicker(pullPoll)
	defer poll.Stop()
	for {
		if info, err := reader.Stat("/mark"); err == nil && info.Size == int64(len(mark)) && string(c.get(reader, "/mark")) == mark {
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			c.Fatalf("the source does not show what was pulled %v ago", pullLimit)
		}
	}
}

func sourceShowsNewest(c *suite) {
	cl, reader := c.alice(), c.client(Reader)
	c.wantDir(reader, "/")
	c.wantDir(reader, "/.snapshots")
	c.wantMissing(reader, "/a")
	c.makeTree(cl, "/a")
	c.pull(cl, reader, "one")
	c.wantDir(reader, "/", "a", "mark")
	c.wantTree(reader, "/a")
	c.wantLink(reader, "/a/link", "sub/large")
	for path, mode := range map[string]fs.FileMode{"/": 0o555, "/a": 0o555, "/a/small": 0o444, "/a/sub/large": 0o444} {
		if info, err := reader.Stat(path); err != nil || info.Mode&0o777 != mode {
			c.Errorf("stat %s: %+v, %v, want mode %o", path, info, err, mode)
		}
	}
	first := "/.snapshots/" + c.snapshots(reader)[0]
	c.wantTree(reader, first+"/a")
	c.wantTree(reader, "/a/.snapshots/latest")

	c.ok("remove", cl.Remove("/a/sub/large"))
	c.put(cl, "/a/small", pattern(7, 300))
	c.wantFile(reader, "/a/small", pattern(1, 100)) // not pulled yet
	c.pull(cl, reader, "two")
	c.wantDir(reader, "/a/sub", "deep")
	c.wantFile(reader, "/a/small", pattern(7, 300))
	c.wantFile(reader, "/.snapshots/latest/a/small", pattern(7, 300))
	c.wantTree(reader, first+"/a")
	if names := c.snapshots(reader); len(names) != 2 {
		c.Errorf("snapshots %q after two pulls", names)
	}
}

func sourceKeepsOpen(c *suite) {
	cl, reader := c.alice(), c.client(Reader)
	c.put(cl, "/f", pattern(1, 200_000))
	c.pull(cl, reader, "one")
	f := c.open(reader, "/f", vfs.OpenRead)
	c.put(cl, "/f", pattern(2, 10))
	c.pull(cl, reader, "two")
	c.wantFile(reader, "/f", pattern(2, 10))
	got := make([]byte, 200_000)
	if n, err := f.ReadAt(got, 0); n != len(got) || err != nil && !isEOF(err) || string(got) != string(pattern(1, 200_000)) {
		c.Errorf("the open file reads %d bytes, %v: %s", n, err, firstDifference(got, pattern(1, 200_000)))
	}
	c.ok("close", f.Close())
}

func sourceIsReadOnly(c *suite) {
	cl, reader := c.alice(), c.client(Reader)
	c.together(func() { c.makeTree(cl, "/a") })
	c.pull(cl, reader, "one")
	for _, dir := range []string{"", "/a"} {
		for _, flag := range c.flags(create, update, resume, create|vfs.OpenExclusive) {
			for _, name := range []string{"/new", "/small"} {
				f, err := reader.Open(dir+name, flag)
				c.wantKind("open for writing of "+dir+name, err, vfs.KindPermission)
				if err == nil {
					c.ok("close", f.Close())
				}
			}
		}
		c.wantKind("mkdir in "+dir, reader.Mkdir(dir+"/new"), vfs.KindPermission)
		c.wantKind("symlink in "+dir, reader.Symlink("x", dir+"/new"), vfs.KindPermission)
		c.wantKind("setattr", reader.SetAttr(dir+"/", vfs.AttrSet{Mode: ptr(fs.FileMode(0o777))}), vfs.KindPermission)
	}
	if c.has(HardLinks) {
		c.wantKind("link", reader.Link("/mark", "/new"), vfs.KindPermission)
		c.wantKind("link from a snapshot", reader.Link("/.snapshots/latest/mark", "/new"), vfs.KindPermission)
	}
	if c.has(Resize) {
		c.wantKind("set size", reader.SetAttr("/mark", vfs.AttrSet{Size: ptr[int64](0)}), vfs.KindPermission)
	}
	c.wantKind("remove", reader.Remove("/mark"), vfs.KindPermission)
	c.wantKind("rmdir", reader.Rmdir("/a/empty"), vfs.KindPermission)
	c.wantKind("rename", reader.Rename("/mark", "/new", true), vfs.KindPermission)
	c.wantKind("rename over", reader.Rename("/mark", "/a/small", true), vfs.KindPermission)
	c.wantKind("rename of a directory", reader.Rename("/a", "/b", true), vfs.KindPermission)
	c.wantDir(reader, "/", "a", "mark")
	c.wantTree(reader, "/a")
}

func sourceAsFS(c *suite) {
	cl, reader := c.alice(), c.client(Reader)
	c.makeTree(cl, "/a")
	c.ok("remove", cl.Remove("/a/link")) // fstest follows no links of ours
	c.pull(cl, reader, "one")
	for _, root := range []string{"/", "/.snapshots/latest"} {
		if err := fstest.TestFS(clientFS{reader, root}, "mark", "a/small", "a/sub/large", "a/sub/deep/none", "a/empty"); err != nil {
			c.Errorf("%s: %v", root, err)
		}
	}
}
