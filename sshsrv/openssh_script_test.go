package sshsrv

import "strings"

func deviations() map[string]deviation {
	const (
		lexical  = "paths are lexical"
		noAppend = "APPEND is ignored"
		failed   = "CLOSE after a failed WRITE"
		keep     = "times set on an open file stay"
		root     = "the root cannot be removed"
		dirOpen  = "OPEN of a directory"
	)
	return map[string]deviation{
		"directory for reading":      {"handle", "status 4", dirOpen},
		"stat file/":                 {"status 2", "flags f mode 100644 size 1", lexical},
		"lstat file/":                {"status 2", "flags f mode 100644 size 1", lexical},
		"stat file/.":                {"status 2", "flags f mode 100644 size 1", lexical},
		"lstat file/.":               {"status 2", "flags f mode 100644 size 1", lexical},
		"stat file/..":               {"status 2", "flags f mode 40755", lexical},
		"lstat file/..":              {"status 2", "flags f mode 40755", lexical},
		"stat none/../file":          {"status 2", "flags f mode 100644 size 1", lexical},
		"lstat none/../file":         {"status 2", "flags f mode 100644 size 1", lexical},
		"stat moved":                 {"flags f mode 100644 size 9", "flags f mode 100644 size 9 mtime 8000", keep},
		"rmdir of .":                 {"status 5", "status 3", root},
		"get after append: read":     {`data "ab2ABC6789\x00\x00\x00\x00EXY"`, `data "XY2ABC6789\x00\x00\x00\x00E"`, noAppend},
		"close after a failed write": {"status 0", "status 5", failed},
	}
}

func scriptOpen(s *script) {
	s.put("file", "0123456789")
	s.attrs("mkdir dir", fxpMkdir, "dir", wireAttrs{})
	s.open("missing", "missing", fxfRead)
	s.open("missing for writing", "missing", fxfWrite)
	s.open("missing parent", "none/file", fxfWrite|fxfCreate)
	s.open("below a file", "file/x", fxfRead)
	s.open("create below a file", "file/x", fxfWrite|fxfCreate)
	s.open("exclusive on a file", "file", fxfWrite|fxfCreate|fxfExcl)
	s.open("exclusive on a directory", "dir", fxfWrite|fxfCreate|fxfExcl)
	s.open("exclusive", "new", fxfWrite|fxfCreate|fxfExcl)
	s.handle("exclusive: close", fxpClose, "exclusive")
	s.stat("new")
	s.open("directory for writing", "dir", fxfWrite)
	s.open("directory with create", "dir", fxfWrite|fxfCreate)
	s.open("no flags", "file", 0)
	s.read("no flags: read", "no flags", 0, 3)
	s.handle("no flags: close", fxpClose, "no flags")
	s.open("empty name", "", fxfRead)
	s.open("long name", strings.Repeat("x", 256), fxfWrite|fxfCreate)
	s.open("longest name", strings.Repeat("x", 255), fxfWrite|fxfCreate)
	s.handle("longest name: close", fxpClose, "longest name")
	s.step("mode", fxpOpen, func(e *encoder, _ func(string) string) {
		wire(e.string("moded").uint32(fxfWrite|fxfCreate), wireAttrs{flags: attrPermissions, mode: 0o100600})
	})
	s.handle("mode: close", fxpClose, "mode")
	s.stat("moded")
	s.step("mode 0666", fxpOpen, func(e *encoder, _ func(string) string) {
		a := wireAttrs{flags: attrPermissions | attrSize | attrTimes, mode: 0o666, size: 9, mtime: 5}
		wire(e.string("moded2").uint32(fxfWrite|fxfCreate), a)
	})
	s.handle("mode 0666: close", fxpClose, "mode 0666")
	s.stat("moded2")
	s.attrs("mkdir 01777", fxpMkdir, "dir2", wireAttrs{flags: attrPermissions | attrTimes, mode: 0o1777, mtime: 5})
	s.stat("dir2")
	s.attrs("mkdir 06755", fxpMkdir, "dir3", wireAttrs{flags: attrPermissions, mode: 0o6755})
	s.path("directory with special bits asked for", fxpStat, "dir3")
	s.attrs("set sticky bit", fxpSetstat, "dir3", wireAttrs{flags: attrPermissions, mode: 0o1700})
	s.path("directory with the sticky bit", fxpStat, "dir3")
	s.step("mode 06777", fxpOpen, func(e *encoder, _ func(string) string) {
		wire(e.string("moded3").uint32(fxfWrite|fxfCreate), wireAttrs{flags: attrPermissions, mode: 0o6777})
	})
	s.handle("mode 06777: fstat", fxpFstat, "mode 06777")
	s.handle("mode 06777: close", fxpClose, "mode 06777")
	s.path("created with special bits", fxpStat, "moded3")
	s.attrs("set special bits", fxpSetstat, "moded2", wireAttrs{flags: attrPermissions, mode: 0o6755})
	s.path("special bits", fxpStat, "moded2")
	s.open("truncate", "file", fxfWrite|fxfTrunc)
	s.handle("truncate: close", fxpClose, "truncate")
	s.stat("file")
	s.open("directory for reading", "dir", fxfRead)
}

func scriptIO(s *script) {
	s.put("file", "0123456789")
	s.open("r", "file", fxfRead)
	s.read("read", "r", 2, 4)
	s.read("read across the end", "r", 8, 100)
	s.read("read at the end", "r", 10, 1)
	s.read("read beyond the end", "r", 1000, 1)
	s.read("read nothing", "r", 0, 0)
	s.read("read at 2^63", "r", 1<<63, 1)
	s.write("write to a reader", "r", 0, "x")
	s.handle("readdir of a file", fxpReaddir, "r")
	s.open("w", "file", fxfWrite)
	s.read("read of a writer", "w", 0, 1)
	s.write("write", "w", 3, "ABC")
	s.write("write nothing", "w", 0, "")
	s.write("write beyond the end", "w", 14, "E")
	s.handle("fstat of a writer", fxpFstat, "w")
	s.handle("close of a writer", fxpClose, "w")
	s.open("w2", "file", fxfWrite)
	s.write("write at 2^63", "w2", 1<<63, "x")
	s.handle("close after a failed write", fxpClose, "w2")
	s.get("get", "file")
	s.open("rw", "file", fxfRead|fxfWrite)
	s.write("rw: write", "rw", 0, "ab")
	s.read("rw: read own write", "rw", 0, 4)
	s.handle("rw: close", fxpClose, "rw")
	s.handle("close twice", fxpClose, "rw")
	s.read("bad handle: read", "bad", 0, 1)
	s.write("bad handle: write", "bad", 0, "x")
	s.handle("bad handle: close", fxpClose, "bad")
	s.handle("bad handle: fstat", fxpFstat, "bad")
	s.attrs("bad handle: fsetstat", fxpFsetstat, "bad", wireAttrs{})
	s.handle("bad handle: readdir", fxpReaddir, "bad")
	s.path("opendir", fxpOpendir, ".")
	s.read("read of a directory", "opendir", 0, 1)
	s.handle("fstat of a directory", fxpFstat, "opendir")
	s.handle("opendir: close", fxpClose, "opendir")
	s.open("append", "file", fxfWrite|fxfAppend)
	s.write("append: write at 0", "append", 0, "XY")
	s.handle("append: close", fxpClose, "append")
	s.get("get after append", "file")
}

func scriptAttributes(s *script) {
	size := func(n uint64) wireAttrs { return wireAttrs{flags: attrSize, size: n} }
	mode := func(m uint32) wireAttrs { return wireAttrs{flags: attrPermissions, mode: m} }
	times := func(t uint32) wireAttrs { return wireAttrs{flags: attrTimes, atime: t, mtime: t} }
	s.put("file", "0123456789")
	s.attrs("mkdir dir", fxpMkdir, "dir", mode(0o750))
	s.stat("dir")
	s.attrs("set nothing", fxpSetstat, "file", wireAttrs{})
	s.attrs("set mode", fxpSetstat, "file", mode(0o640))
	s.attrs("set times", fxpSetstat, "file", times(1000000))
	s.stat("file")
	s.attrs("set time 0", fxpSetstat, "file", times(0))
	s.path("lstat file", fxpLstat, "file")
	s.attrs("set mode with type", fxpSetstat, "file", mode(0o100604))
	s.path("mode with type", fxpStat, "file")
	s.attrs("set owner", fxpSetstat, "file", wireAttrs{flags: attrUIDGID, uid: 12, gid: 34})
	s.attrs("shrink", fxpSetstat, "file", size(4))
	s.get("shrunk", "file")
	s.attrs("grow", fxpSetstat, "file", size(6))
	s.get("grown", "file")
	s.attrs("size 2^63", fxpSetstat, "file", size(1<<63))
	s.attrs("size of a directory", fxpSetstat, "dir", size(0))
	s.attrs("mode of a directory", fxpSetstat, "dir", mode(0o700))
	s.attrs("times of a directory", fxpSetstat, "dir", times(2000000))
	s.path("directory with attributes", fxpStat, "dir")
	s.attrs("attributes of what is missing", fxpSetstat, "missing", mode(0o600))
	s.attrs("attributes below a file", fxpSetstat, "file/x", mode(0o600))
	s.attrs("attributes of nothing", fxpSetstat, "", mode(0o600))
	s.open("w", "file", fxfWrite)
	s.attrs("fsetstat size", fxpFsetstat, "w", size(2))
	s.attrs("fsetstat times", fxpFsetstat, "w", times(3000000))
	s.attrs("fsetstat mode", fxpFsetstat, "w", mode(0o400))
	s.handle("fstat", fxpFstat, "w")
	s.handle("close", fxpClose, "w")
	s.path("stat after close", fxpStat, "file")
	s.open("r", "file", fxfRead)
	s.attrs("fsetstat size of a reader", fxpFsetstat, "r", size(1))
	s.attrs("fsetstat mode of a reader", fxpFsetstat, "r", mode(0o644))
	s.attrs("fsetstat times of a reader", fxpFsetstat, "r", times(4000000))
	s.path("stat after fsetstat of a reader", fxpStat, "file")
	s.handle("close r", fxpClose, "r")
}

func scriptDirectories(s *script) {
	s.put("file", "x")
	s.attrs("mkdir", fxpMkdir, "dir", wireAttrs{})
	s.stat("dir")
	s.attrs("mkdir again", fxpMkdir, "dir", wireAttrs{})
	s.attrs("mkdir over a file", fxpMkdir, "file", wireAttrs{})
	s.attrs("mkdir in nothing", fxpMkdir, "none/dir", wireAttrs{})
	s.attrs("mkdir below a file", fxpMkdir, "file/dir", wireAttrs{})
	s.attrs("mkdir with slash", fxpMkdir, "slash/", wireAttrs{})
	s.attrs("mkdir of .", fxpMkdir, ".", wireAttrs{})
	s.attrs("mkdir of nothing", fxpMkdir, "", wireAttrs{})
	s.attrs("mkdir long", fxpMkdir, strings.Repeat("d", 256), wireAttrs{})
	s.put("dir/a", "a")
	s.put("dir/b", "b")
	s.list("list", "dir")
	s.list("list root", ".")
	s.path("opendir of a file", fxpOpendir, "file")
	s.path("opendir of nothing", fxpOpendir, "none")
	s.path("opendir below a file", fxpOpendir, "file/x")
	s.path("opendir of no name", fxpOpendir, "")
	s.path("rmdir full", fxpRmdir, "dir")
	s.path("rmdir of a file", fxpRmdir, "file")
	s.path("rmdir of nothing", fxpRmdir, "none")
	s.path("rmdir of .", fxpRmdir, ".")
	s.path("remove a directory", fxpRemove, "dir")
	s.path("remove nothing", fxpRemove, "none")
	s.path("remove below a file", fxpRemove, "file/x")
	s.path("remove no name", fxpRemove, "")
	s.path("remove a", fxpRemove, "dir/a")
	s.path("remove b", fxpRemove, "dir/b")
	s.list("list empty", "dir")
	s.path("rmdir", fxpRmdir, "dir")
	s.stat("dir ")
	s.path("stat removed", fxpStat, "dir")
}

func scriptRename(s *script) {
	s.put("a", "a")
	s.put("b", "b")
	for _, d := range []string{"d1", "d2", "full"} {
		s.attrs("mkdir "+d, fxpMkdir, d, wireAttrs{})
	}
	s.put("full/x", "x")
	s.two("rename nothing", fxpRename, "none", "c")
	s.two("rename over a file", fxpRename, "a", "b")
	s.two("rename to itself", fxpRename, "a", "a")
	s.two("rename into nothing", fxpRename, "a", "none/a")
	s.two("rename below a file", fxpRename, "a", "b/a")
	s.two("rename over a directory", fxpRename, "a", "d1")
	s.two("rename a directory over one", fxpRename, "d1", "d2")
	s.two("rename a directory over a file", fxpRename, "d1", "b")
	s.two("rename a directory into itself", fxpRename, "d1", "d1/x")
	s.two("rename no name", fxpRename, "", "x")
	s.two("rename to no name", fxpRename, "a", "")
	s.two("rename", fxpRename, "a", "c")
	s.get("renamed", "c")
	s.two("rename a full directory", fxpRename, "full", "full2")
	s.get("moved", "full2/x")
	posix := func(name, from, to string) { s.ext(name, extPosixRename, from, to) }
	posix("posix nothing", "none", "c")
	posix("posix over a file", "b", "c")
	s.get("replaced", "c")
	posix("posix to itself", "c", "c")
	posix("posix file over directory", "c", "d1")
	posix("posix directory over file", "d1", "c")
	posix("posix directory over empty", "d1", "d2")
	posix("posix directory over full", "d2", "full2")
	posix("posix into itself", "d2", "d2/x")
	posix("posix into nothing", "c", "none/c")
	posix("posix below a file", "c", "c/x")
	posix("posix no name", "", "x")
	s.list("what is left", ".")
}

func scriptLinks(s *script) {
	s.put("file", "0123")
	s.attrs("mkdir dir", fxpMkdir, "dir", wireAttrs{})
	s.two("symlink", fxpSymlink, "file", "link")
	s.path("readlink", fxpReadlink, "link")
	s.path("lstat", fxpLstat, "link")
	s.stat("link")
	s.get("read through a link", "link")
	s.two("symlink over a file", fxpSymlink, "x", "file")
	s.two("symlink in nothing", fxpSymlink, "x", "none/link")
	s.two("symlink to no name", fxpSymlink, "", "empty")
	s.two("symlink without a name", fxpSymlink, "x", "")
	s.two("symlink odd", fxpSymlink, "../up//and/./down", "odd")
	s.path("readlink odd", fxpReadlink, "odd")
	s.path("readlink of a file", fxpReadlink, "file")
	s.path("readlink of nothing", fxpReadlink, "none")
	s.two("dangling", fxpSymlink, "nowhere", "dangling")
	s.stat("dangling")
	s.open("open dangling", "dangling", fxfRead)
	s.open("exclusive on a link", "dangling", fxfWrite|fxfCreate|fxfExcl)
	s.open("create through a link", "dangling", fxfWrite|fxfCreate)
	s.handle("create through a link: close", fxpClose, "create through a link")
	s.stat("nowhere")
	s.two("loop 1", fxpSymlink, "loop2", "loop1")
	s.two("loop 2", fxpSymlink, "loop1", "loop2")
	s.stat("loop1")
	s.open("open a loop", "loop1", fxfRead)
	s.path("realpath of a loop", fxpOpendir, "loop1")
	s.two("to dir", fxpSymlink, "dir", "todir")
	s.put("todir/inside", "in")
	s.get("inside", "dir/inside")
	s.list("list through a link", "todir")
	s.path("rmdir of a link", fxpRmdir, "todir")
	s.path("remove a link", fxpRemove, "todir")
	s.stat("dir/inside")
	s.attrs("setstat through a link", fxpSetstat, "link", wireAttrs{flags: attrPermissions, mode: 0o600})
	s.path("mode behind the link", fxpStat, "file")
	link := func(name, from, to string) { s.ext(name, extHardlink, from, to) }
	link("hardlink", "file", "hard")
	s.get("read a hard link", "hard")
	link("hardlink over a file", "file", "hard")
	link("hardlink of nothing", "none", "hard2")
	link("hardlink in nothing", "file", "none/hard")
	link("hardlink of a directory", "dir", "hard2")
	link("hardlink of no name", "", "hard2")
	s.two("rename a link", fxpRename, "link", "link2")
	s.path("readlink renamed", fxpReadlink, "link2")
}

func scriptPaths(s *script) {
	s.put("file", "x")
	s.attrs("mkdir dir", fxpMkdir, "dir", wireAttrs{})
	s.put("dir/in", "in")
	for _, p := range []string{
		".", "./file", "dir/.", "dir/..", "dir/../file", "dir//in", "dir/./in", "file/", "file/.", "file/..",
		"none/../file", "dir/", "none/", "file/x", "", strings.Repeat("x", 256), strings.Repeat("x/", 3000) + "x",
	} {
		name := p
		if len(name) > 20 {
			name = name[:3] + "…"
		}
		s.path("stat "+name, fxpStat, p)
		s.path("lstat "+name, fxpLstat, p)
	}
	s.path("odd name", fxpStat, "n\xff\x01\n")
	s.put("n\xff\x01\n", "odd")
	s.list("list", ".")
}

func scriptExtensions(s *script) {
	s.put("file", "0123456789")
	s.two("symlink", fxpSymlink, "file", "link")
	s.ext("limits", extLimits)
	s.ext("statvfs", extStatVFS, ".")
	s.ext("statvfs of nothing", extStatVFS, "none")
	s.open("r", "file", fxfRead)
	s.open("w", "copy", fxfRead|fxfWrite|fxfCreate)
	s.ext("fstatvfs", extFstatVFS, "r")
	s.ext("fstatvfs of a bad handle", extFstatVFS, "bad")
	s.ext("fsync", extFsync, "w")
	s.ext("fsync of a reader", extFsync, "r")
	s.ext("fsync of a bad handle", extFsync, "bad")
	copyData := func(name, from string, off, n uint64, to string, toOff uint64) {
		s.step(name, fxpExtended, func(e *encoder, h func(string) string) {
			e.string(extCopyData).string(h(from)).uint64(off).uint64(n).string(h(to)).uint64(toOff)
		})
	}
	copyData("copy all", "r", 0, 0, "w", 0)
	s.handle("fstat after copy", fxpFstat, "w")
	copyData("copy a part", "r", 2, 3, "w", 12)
	copyData("copy beyond the end", "r", 8, 100, "w", 0)
	copyData("copy from the end", "r", 10, 0, "w", 0)
	copyData("copy to itself", "r", 0, 0, "r", 0)
	copyData("copy to a reader", "w", 0, 0, "r", 0)
	copyData("copy from a bad handle", "bad", 0, 0, "w", 0)
	s.read("read the copy", "w", 0, 100)
	s.handle("close r", fxpClose, "r")
	s.handle("close w", fxpClose, "w")
	lset := func(name, path string, a wireAttrs) {
		s.step(name, fxpExtended, func(e *encoder, _ func(string) string) { wire(e.string(extLsetstat).string(path), a) })
	}
	lset("lsetstat times", "link", wireAttrs{flags: attrTimes, atime: 5, mtime: 5000})
	s.path("lstat after lsetstat", fxpLstat, "link")
	lset("lsetstat owner", "link", wireAttrs{flags: attrUIDGID, uid: 1, gid: 1})
	lset("lsetstat size", "link", wireAttrs{flags: attrSize, size: 1})
	lset("lsetstat mode of a file", "file", wireAttrs{flags: attrPermissions, mode: 0o600})
	lset("lsetstat mode of a link", "link", wireAttrs{flags: attrPermissions, mode: 0o600})
	lset("lsetstat of nothing", "none", wireAttrs{flags: attrTimes})
	s.ext("home of nobody", extHomeDirectory, "nobody-of-that-name")
	s.ext("expand ~nobody", extExpandPath, "~nobody-of-that-name/x")
	s.ext("unknown extension", "unknown@example.com", "x")
	s.step("users and groups", fxpExtended, func(e *encoder, _ func(string) string) {
		e.string(extUsersGroups).string("\x7f\xff\xff\xf0").string("")
	})
}

// scriptOpenFiles: what happens to a file that is open for writing.
func scriptOpenFiles(s *script) {
	s.put("file", "old")
	s.open("w", "new", fxfWrite|fxfCreate)
	s.write("write", "w", 0, "12345")
	s.path("stat of an open upload", fxpStat, "new")
	s.attrs("setstat of an open upload", fxpSetstat, "new", wireAttrs{flags: attrTimes, atime: 7, mtime: 7000})
	s.handle("fstat after setstat", fxpFstat, "w")
	s.handle("close", fxpClose, "w")
	s.path("stat after close", fxpStat, "new")
	s.open("w2", "file", fxfWrite|fxfTrunc)
	s.write("write 2", "w2", 0, "new text")
	s.two("rename while open", fxpRename, "file", "moved")
	s.attrs("fsetstat after rename", fxpFsetstat, "w2", wireAttrs{flags: attrTimes, atime: 8, mtime: 8000})
	s.write("write after rename", "w2", 8, "!")
	s.handle("close 2", fxpClose, "w2")
	s.get("get moved", "moved")
	s.path("stat moved", fxpStat, "moved")
	s.open("r", "moved", fxfRead)
	s.put("moved", "another")
	s.handle("close r", fxpClose, "r")
	s.open("r2", "moved", fxfRead)
	s.path("remove while open", fxpRemove, "moved")
	s.read("read after remove", "r2", 0, 100)
	s.handle("fstat after remove", fxpFstat, "r2")
	s.handle("close r2", fxpClose, "r2")
	s.path("stat removed", fxpStat, "moved")
}
