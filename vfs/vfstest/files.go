package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/snapgate/gateway/vfs"
)

func ptr[T any](v T) *T { return &v }

// fileCases are the promises about the bytes and attributes of files.
func fileCases() []testCase {
	return []testCase{
		{"files of every size come back", filesOfEverySize},
		{"writes in any order and with gaps", writesInAnyOrder},
		{"overwriting replaces the whole file", overwrite},
		{"overwriting without truncation, with a size at the end", overwriteInPlace},
		{"appending", appending},
		{"updates in the middle keep the rest", updateInTheMiddle},
		{"a handle reads its own writes", readOwnWrites},
		{"the size of an open upload can be set", sizeOnHandle},
		{"the size of a closed file can be set", sizeByPath},
		{"time and mode of an open upload appear with it", attributesOnHandle},
		{"time and mode can be set by name", attributesByPath},
		{"exclusive creation", exclusive},
		{"opening what cannot be opened", openRefused},
		{"reading at and beyond the end", readBeyondEnd},
		{"many uploads at once", manyUploads},
	}
}

func filesOfEverySize(c *suite) {
	cl := c.alice()
	// Around the limits of what rides in the journal and of packets.
	sizes := []int{0, 1, packet, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300<<10 + 7}
	for i, n := range sizes {
		c.put(cl, fmt.Sprintf("/f%d", i), pattern(i, n))
	}
	for i, n := range sizes {
		c.wantFile(cl, fmt.Sprintf("/f%d", i), pattern(i, n))
	}
	infos, err := cl.List("/")
	if err != nil || len(infos) != len(sizes) {
		c.Fatalf("list: %d entries, %v", len(infos), err)
	}
	for i, info := range infos {
		if info.Size != int64(sizes[i]) || info.Type != vfs.TypeFile {
			c.Errorf("entry %d: %+v, want a file of %d bytes", i, info, sizes[i])
		}
	}
}

func writesInAnyOrder(c *suite) {
	cl := c.alice()
	for seed, size := range []int{20 << 10, 200 << 10} {
		path := fmt.Sprintf("/f%d", seed)
		rng := rand.New(rand.NewPCG(1, uint64(seed)))
		want := make([]byte, size)
		copy(want[size-100:], pattern(seed, 100))
		f := c.open(cl, path, create)
		c.write(f, int64(size)-100, want[size-100:])
		for i := range 30 {
			off := rng.IntN(size - 100)
			piece := pattern(i, rng.IntN(min(5000, size-off)))
			copy(want[off:], piece)
			c.together(func() { c.write(f, int64(off), piece) })
		}
		c.ok("close", f.Close())
		c.wantFile(cl, path, want)
	}
}

func overwrite(c *suite) {
	cl := c.alice()
	for i, n := range []int{100, 70_000, 50, 0, 200_000, 130_000} {
		c.put(cl, "/f", pattern(i, n))
		c.wantFile(cl, "/f", pattern(i, n))
	}
	c.wantDir(cl, "/", "f")
}

func overwriteInPlace(c *suite) {
	cl := c.alice()
	c.put(cl, "/f", pattern(1, 150_000))
	// As scp does it: no truncation, all the bytes, then the size.
	f := c.open(cl, "/f", update)
	c.write(f, 0, pattern(2, 90_000))
	if c.has(Handles) {
		c.ok("set size", f.SetAttr(vfs.AttrSet{Size: ptr[int64](90_000)}))
	}
	c.ok("close", f.Close())
	c.wantFile(cl, "/f", pattern(2, 90_000))
}

func appending(c *suite) {
	cl := c.alice()
	var want []byte
	for i, n := range []int{10, 40_000, 60_000, 1, 100_000} {
		f := c.open(cl, "/log", update)
		if c.has(Handles) {
			info, err := f.Stat()
			if err != nil || info.Size != int64(len(want)) {
				c.Errorf("stat of the handle: %d bytes, %v, want %d", info.Size, err, len(want))
			}
		}
		c.write(f, int64(len(want)), pattern(i, n))
		c.ok("close", f.Close())
		want = append(want, pattern(i, n)...)
		c.wantFile(cl, "/log", want)
	}
}

func updateInTheMiddle(c *suite) {
	cl := c.alice()
	for i, size := range []int{5_000, 260_000} {
		path := fmt.Sprintf("/f%d", i)
		want := pattern(i, size)
		c.put(cl, path, want)
		for j, off := range []int{1_000, 0, size - 10, size + 500, 3_000} {
			piece := pattern(10+j, 600)
			f := c.open(cl, path, vfs.OpenWrite)
			c.write(f, int64(off), piece)
			c.ok("close", f.Close())
			if grown := off + len(piece); grown > len(want) {
				want = append(want, make([]byte, grown-len(want))...)
			}
			copy(want[off:], piece)
			c.wantFile(cl, path, want)
		}
	}
}

func readOwnWrites(c *suite) {
	cl := c.alice()
	c.put(cl, "/f", pattern(1, 100_000))
	want := pattern(1, 100_000)
	f := c.open(cl, "/f", vfs.OpenRead|vfs.OpenWrite)
	for i, off := range []int{50, 99_000, 120_000, 0} {
		piece := pattern(5+i, 2_000)
		c.write(f, int64(off), piece)
		if grown := off + len(piece); grown > len(want) {
			want = append(want, make([]byte, grown-len(want))...)
		}
		copy(want[off:], piece)
		got, err := readAll(f)
		if err != nil || !bytes.Equal(got, want) {
			c.Errorf("after write %d: %s, %v", i, firstDifference(got, want), err)
		}
	}
	c.ok("close", f.Close())
	c.wantFile(cl, "/f", want)
}

func sizeOnHandle(c *suite) {
	cl := c.alice()
	for i, size := range []int{8_000, 150_000} {
		for _, flag := range []vfs.OpenFlag{create, update} {
			path := fmt.Sprintf("/f%d-%d", i, flag)
			data := pattern(i, size)
			if flag == update { // then the bytes are those of the stored file
				c.put(cl, path, data)
			}
			f := c.open(cl, path, flag)
			if flag == create {
				c.write(f, 0, data)
			}
			c.ok("shrink", f.SetAttr(vfs.AttrSet{Size: ptr(int64(size / 2))}))
			c.ok("grow", f.SetAttr(vfs.AttrSet{Size: ptr(int64(size))}))
			if info, err := f.Stat(); err != nil || info.Size != int64(size) {
				c.Errorf("stat: %d bytes, %v", info.Size, err)
			}
			c.write(f, int64(size-10), data[:10])
			c.ok("close", f.Close())
			want := append(bytes.Clone(data[:size/2]), make([]byte, size-size/2)...)
			copy(want[size-10:], data[:10])
			c.wantFile(cl, path, want)
		}
	}
}

func sizeByPath(c *suite) {
	cl := c.alice()
	for i, size := range []int{8_000, 150_000} {
		path := fmt.Sprintf("/f%d", i)
		want := pattern(i, size)
		c.put(cl, path, want)
		for _, n := range []int{size / 2, size / 4, size, 0, 100} {
			c.ok("set size", cl.SetAttr(path, vfs.AttrSet{Size: ptr(int64(n))}))
			if n < len(want) {
				want = want[:n:n]
			} else {
				want = append(want, make([]byte, n-len(want))...)
			}
			c.wantFile(cl, path, want)
		}
	}
	c.ok("mkdir", cl.Mkdir("/d"))
	c.wantError("size of a directory", cl.SetAttr("/d", vfs.AttrSet{Size: ptr[int64](0)}))
	c.wantKind("size of nothing", cl.SetAttr("/none", vfs.AttrSet{Size: ptr[int64](0)}), vfs.KindNotExist)
}

// then is a time that no test runs at.
func then() time.Time { return time.Date(2019, 7, 20, 20, 17, 40, 0, time.UTC) }

func (c *suite) wantAttr(cl Client, path string, mode fs.FileMode, mtime time.Time) {
	c.Helper()
	info, err := cl.Stat(path)
	if err != nil || info.Mode.Perm() != mode || !info.ModTime.Truncate(time.Second).Equal(mtime) {
		c.Errorf("%q: mode %v, time %v, %v, want %v, %v", path, info.Mode, info.ModTime, err, mode, mtime)
	}
}

func attributesOnHandle(c *suite) {
	cl := c.alice()
	for _, path := range []string{"/new", "/old"} {
		if path == "/old" {
			c.put(cl, path, pattern(1, 10))
		}
		f := c.open(cl, path, create)
		c.write(f, 0, pattern(2, 1000))
		c.ok("set mode and time", f.SetAttr(vfs.AttrSet{Mode: ptr(fs.FileMode(0o640)), ModTime: ptr(then())}))
		c.write(f, 1000, pattern(3, 1000))
		c.ok("close", f.Close())
		c.wantAttr(cl, path, 0o640, then())
		c.wantFile(cl, path, append(pattern(2, 1000), pattern(3, 1000)...))
	}
}

func attributesByPath(c *suite) {
	cl := c.alice()
	c.put(cl, "/f", pattern(1, 100))
	c.ok("mkdir", cl.Mkdir("/d"))
	for _, path := range []string{"/f", "/d"} {
		c.ok("set mode", cl.SetAttr(path, vfs.AttrSet{Mode: ptr(fs.FileMode(0o700))}))
		c.ok("set time", cl.SetAttr(path, vfs.AttrSet{ModTime: ptr(then())}))
		c.wantAttr(cl, path, 0o700, then())
	}
	c.wantFile(cl, "/f", pattern(1, 100))
	c.ok("rename", cl.Rename("/f", "/g", false))
	c.wantAttr(cl, "/g", 0o700, then())
	before := time.Now().Add(-time.Minute)
	c.put(cl, "/g", pattern(2, 100))
	if info, err := cl.Stat("/g"); err != nil || info.ModTime.Before(before) {
		c.Errorf("an overwritten file keeps its time: %v, %v", info.ModTime, err)
	}
	c.put(cl, "/d/x", nil)
	if info, err := cl.Stat("/d"); err != nil || info.ModTime.Before(before) {
		c.Errorf("a directory keeps its time when a file is made in it: %v, %v", info.ModTime, err)
	}
	c.wantKind("set time of nothing", cl.SetAttr("/none", vfs.AttrSet{ModTime: ptr(then())}), vfs.KindNotExist)
}

func exclusive(c *suite) {
	cl := c.alice()
	flag := create | vfs.OpenExclusive
	f := c.open(cl, "/f", flag)
	c.write(f, 0, pattern(1, 100))
	c.ok("close", f.Close())
	c.wantFile(cl, "/f", pattern(1, 100))
	_, err := cl.Open("/f", flag)
	c.wantKind("a second time", err, vfs.KindExist)
	c.ok("mkdir", cl.Mkdir("/d"))
	_, err = cl.Open("/d", flag)
	c.wantKind("over a directory", err, vfs.KindExist, vfs.KindIsDir)
	c.ok("symlink", cl.Symlink("nowhere", "/l"))
	_, err = cl.Open("/l", flag)
	c.wantKind("over a dangling link", err, vfs.KindExist)
	c.wantFile(cl, "/f", pattern(1, 100))
}

func openRefused(c *suite) {
	cl := c.alice()
	c.put(cl, "/f", pattern(1, 100))
	c.ok("mkdir", cl.Mkdir("/d"))
	for _, tt := range []struct {
		what, path string
		flag       vfs.OpenFlag
		kinds      []vfs.Kind
	}{
		{"read nothing", "/none", vfs.OpenRead, []vfs.Kind{vfs.KindNotExist}},
		{"write nothing without create", "/none", vfs.OpenWrite, []vfs.Kind{vfs.KindNotExist}},
		{"read below nothing", "/none/f", vfs.OpenRead, []vfs.Kind{vfs.KindNotExist}},
		{"create below nothing", "/none/f", create, []vfs.Kind{vfs.KindNotExist}},
		{"read below a file", "/f/x", vfs.OpenRead, []vfs.Kind{vfs.KindNotDir}},
		{"create below a file", "/f/x", create, []vfs.Kind{vfs.KindNotDir}},
		{"write a directory", "/d", create, []vfs.Kind{vfs.KindIsDir}},
		{"update a directory", "/d", update, []vfs.Kind{vfs.KindIsDir}},
		{"write the root", "/", create, []vfs.Kind{vfs.KindIsDir}},
	} {
		f, err := cl.Open(tt.path, tt.flag)
		c.wantKind(tt.what, err, tt.kinds...)
		if err == nil {
			c.ok("close", f.Close())
		}
	}
	_, err := cl.List("/f")
	c.wantKind("list a file", err, vfs.KindNotDir)
	_, err = cl.List("/none")
	c.wantKind("list nothing", err, vfs.KindNotExist)
	c.wantDir(cl, "/", "d", "f")
}

func readBeyondEnd(c *suite) {
	cl := c.alice()
	c.put(cl, "/f", pattern(1, 100))
	f := c.open(cl, "/f", vfs.OpenRead)
	buf := make([]byte, 50)
	for _, tt := range []struct {
		off  int64
		n    int
		last bool
	}{{0, 50, false}, {50, 50, false}, {80, 20, true}, {100, 0, true}, {5000, 0, true}} {
		n, err := f.ReadAt(buf, tt.off)
		if n != tt.n || tt.last && !isEOF(err) || !tt.last && err != nil && !isEOF(err) {
			c.Errorf("read at %d: %d, %v, want %d bytes, end %v", tt.off, n, err, tt.n, tt.last)
		}
	}
	c.ok("close", f.Close())
	c.put(cl, "/empty", nil)
	f = c.open(cl, "/empty", vfs.OpenRead)
	if n, err := f.ReadAt(buf, 0); n != 0 || !isEOF(err) {
		c.Errorf("read of an empty file: %d, %v", n, err)
	}
	c.ok("close", f.Close())
}

func manyUploads(c *suite) {
	c.together(func() {
		var all sync.WaitGroup
		for i := range 8 {
			cl := c.client([]string{"alice", "bob"}[i%2])
			all.Go(func() {
				for j := range 6 {
					if err := upload(cl, fmt.Sprintf("/f%d-%d", i, j), pattern(i*10+j, 40_000*j)); err != nil {
						c.Errorf("upload %d-%d: %v", i, j, err)
					}
				}
			})
		}
		all.Wait()
	})
	cl := c.alice()
	for i := range 8 {
		for j := range 6 {
			c.wantFile(cl, fmt.Sprintf("/f%d-%d", i, j), pattern(i*10+j, 40_000*j))
		}
	}
}

// upload is put for goroutines, which must not end the test.
func upload(cl Client, path string, data []byte) error {
	f, err := cl.Open(path, create)
	if err != nil {
		return err
	}
	for off := 0; off < len(data); off += packet {
		if _, err := f.WriteAt(data[off:min(off+packet, len(data))], int64(off)); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
