package vfstest

import (
	"bytes"
	"strings"

	"github.com/snapgate/gateway/vfs"
)

func quotaCases() []testCase {
	return []testCase{
		{"a quota bounds the live tree", quotaOfTree},
		{"an upload beyond the quota fails when its bytes come", quotaEarly},
		{"no way around the quota", quotaAround},
		{"a smaller quota lets everything shrink", quotaShrinks},
	}
}

// kib is n KiB of a byte.
func kib(n int) []byte { return bytes.Repeat([]byte{byte(n)}, n<<10) }

func (c *suite) limit(quota int) {
	c.Helper()
	c.ok("set the quota", c.sys.Limit(int64(quota)<<10))
}

// wantQuota checks that a step was refused because of the quota, and says so.
func (c *suite) wantQuota(what string, err error) {
	c.Helper()
	c.wantKind(what, err, vfs.KindQuota)
	if err != nil && !strings.Contains(err.Error(), vfs.KindQuota.String()) {
		c.Errorf("%s: the text does not say why: %v", what, err)
	}
}

func quotaOfTree(c *suite) {
	c.limit(200)
	cl := c.alice()
	c.put(cl, "/a", kib(120))
	c.wantQuota("beyond the quota", upload(cl, "/b", kib(81)))
	if _, err := cl.Lstat("/b"); err == nil {
		if names, err := cl.List("/"); err != nil || len(names) != 1 { // what is left of it is a partial
			c.Errorf("after it %v are listed, %v", names, err)
		}
	}
	c.put(cl, "/b", kib(80))
	c.wantQuota("one byte", upload(cl, "/c", []byte{1}))
	c.put(cl, "/none", nil)
	c.ok("mkdir", cl.Mkdir("/d"))
	// An overwrite counts the difference, and one that is refused leaves the old version.
	c.put(cl, "/a", kib(110))
	c.put(cl, "/a", kib(120))
	c.wantQuota("an overwrite", upload(cl, "/a", kib(121)))
	c.wantFile(cl, "/a", kib(120))
	// What goes gives room at once.
	c.ok("rename over it", cl.Rename("/b", "/a", true))
	c.put(cl, "/d/c", kib(120))
	c.wantQuota("beyond the quota again", upload(cl, "/e", []byte{1}))
	c.ok("remove", cl.Remove("/d/c"))
	c.put(cl, "/e", kib(119))
	c.ok("rename a directory", cl.Rename("/d", "/f", true))
	c.wantQuota("beyond the quota at last", upload(cl, "/f/g", kib(2)))
	c.limit(0)
	c.put(cl, "/f/g", kib(300))
}

func quotaEarly(c *suite) {
	c.limit(1 << 10)
	cl := c.alice()
	f := c.open(cl, "/big", create)
	data := make([]byte, 64<<10)
	var err error
	sent := 0
	for ; err == nil && sent < 64<<20; sent += len(data) {
		_, err = f.WriteAt(data, int64(sent))
	}
	if closeErr := f.Close(); err == nil || c.target.Remote && !strings.Contains(err.Error(), vfs.KindQuota.String()) {
		err = closeErr // a stream has its reply at the end
	}
	c.wantQuota("an upload without an end", err)
	if sent >= 64<<20 {
		c.Errorf("%d bytes were taken before it was refused", sent)
	}
}

func quotaAround(c *suite) {
	c.limit(200)
	cl := c.alice()
	c.put(cl, "/a", kib(120))
	if c.has(HardLinks) {
		c.wantQuota("a link", cl.Link("/a", "/b"))
		c.commit()
		c.wantQuota("a link to a snapshot", cl.Link("/.snapshots/latest/a", "/b"))
	}
	if c.has(Resize) {
		big, small := int64(201<<10), int64(10<<10)
		c.wantQuota("a larger size", cl.SetAttr("/a", vfs.AttrSet{Size: &big}))
		c.ok("a smaller size", cl.SetAttr("/a", vfs.AttrSet{Size: &small}))
		c.put(cl, "/b", kib(190))
		c.wantQuota("no room for it", upload(cl, "/c", []byte{1}))
		c.ok("remove", cl.Remove("/b"))
	}
	if c.has(Update) {
		f := c.open(cl, "/sparse", create)
		_, err := f.WriteAt([]byte{1}, 300<<10)
		c.wantQuota("a hole", err)
		c.wantError("close after it", f.Close())
		f = c.open(cl, "/a", update)
		_, err = f.WriteAt([]byte{1}, 200<<10)
		c.wantQuota("an append", err)
		c.wantError("close after it", f.Close())
	}
	if c.has(Handles) { // two at a time have room for one
		f, g := c.open(cl, "/one", create), c.open(cl, "/two", create)
		c.write(f, 0, kib(60))
		_, err := g.WriteAt(kib(200), 0)
		c.wantQuota("beside another upload", err)
		c.wantError("close after it", g.Close())
		c.ok("close", f.Close())
	}
}

func quotaShrinks(c *suite) {
	cl := c.alice()
	c.put(cl, "/a", kib(120))
	c.put(cl, "/b", kib(120))
	c.limit(50)
	c.wantQuota("a new file", upload(cl, "/c", []byte{1}))
	c.put(cl, "/a", kib(100))
	c.ok("rename", cl.Rename("/a", "/d", true))
	c.ok("remove", cl.Remove("/d"))
	c.put(cl, "/b", kib(49))
	c.put(cl, "/c", kib(1))
	c.wantQuota("a byte more", upload(cl, "/e", []byte{1}))
}
