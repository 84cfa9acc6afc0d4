package vfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// visitor is a session of a user as a test uses it.
type visitor struct {
	*Session
	t testing.TB
}

// visit starts a session of user in share "s"; root is the directory it sees.
func visit(tb testing.TB, sys *System, user string, perms Perm, root string) visitor {
	tb.Helper()
	return visitMounts(tb, sys, user, perms, Mount{At: Root(), Share: "s", Root: mustName(tb, root)})
}

func visitMounts(tb testing.TB, sys *System, user string, perms Perm, mounts ...Mount) visitor {
	tb.Helper()
	s, err := sys.Session(context.Background(), &Principal{User: user, Perms: perms, Mounts: mounts}, ConnInfo{Protocol: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return visitor{s, tb}
}

// fullTestSystem is a system with one share, which is closed with the test.
func fullTestSystem(t *testing.T, change ...func(*Config)) (*System, *memRepository) {
	t.Helper()
	repo := newMemRepository()
	sys := openTestSystem(t, t.TempDir(), repo, change...)
	t.Cleanup(func() { closeSystem(t, sys) })
	return sys, repo
}

func (v visitor) open(path string, flag OpenFlag) *File {
	v.t.Helper()
	f, err := v.Open(v.t.Context(), path, flag, AttrSet{})
	if err != nil {
		v.t.Fatalf("open %s: %v", path, err)
	}
	return f
}

func (v visitor) write(f *File, off int64, data string) {
	v.t.Helper()
	if _, err := f.WriteAt([]byte(data), off); err != nil {
		v.t.Fatalf("write: %v", err)
	}
}

func (v visitor) close(f *File) {
	v.t.Helper()
	if err := f.Close(); err != nil {
		v.t.Fatalf("close: %v", err)
	}
}

// put uploads a file as most clients do.
func (v visitor) put(path, data string) {
	v.t.Helper()
	f := v.open(path, OpenWrite|OpenCreate|OpenTruncate)
	v.write(f, 0, data)
	v.close(f)
}

func (v visitor) mkdir(path string) {
	v.t.Helper()
	if err := v.Mkdir(v.t.Context(), path, AttrSet{}); err != nil {
		v.t.Fatal(err)
	}
}

func (v visitor) symlink(target, path string) {
	v.t.Helper()
	if err := v.Symlink(v.t.Context(), target, path); err != nil {
		v.t.Fatal(err)
	}
}

// get reads a file to its end; an error is its kind's text in angle brackets.
func (v visitor) get(path string) string {
	v.t.Helper()
	f, err := v.Open(v.t.Context(), path, OpenRead, AttrSet{})
	if err != nil {
		return bracket(err)
	}
	defer v.close(f)
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	if err != nil {
		return bracket(err)
	}
	return string(data)
}

func bracket(err error) string { return "<" + KindOf(err).String() + ">" }

// size is the size that a stat of path reports, -1 when there is nothing.
func (v visitor) size(path string) int64 {
	v.t.Helper()
	i, err := v.Stat(v.t.Context(), path)
	if err != nil {
		if KindOf(err) != KindNotExist {
			v.t.Errorf("stat %s: %v", path, err)
		}
		return -1
	}
	return i.Size
}

// list is the names in a directory, in the order of the listing.
func (v visitor) list(path string) []string {
	v.t.Helper()
	d, err := v.ReadDir(v.t.Context(), path)
	if err != nil {
		return []string{bracket(err)}
	}
	defer func() {
		if err := d.Close(); err != nil {
			v.t.Error(err)
		}
	}()
	names := []string{}
	for {
		page, err := d.Next(v.t.Context(), 3)
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			return append(names, bracket(err))
		}
		for _, i := range page {
			names = append(names, i.Name)
		}
	}
}

func want[T any](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantKind(tb testing.TB, what string, err error, kind Kind) {
	tb.Helper()
	if err == nil || KindOf(err) != kind {
		tb.Errorf("%s: got %v, want kind %q", what, err, kind)
	}
}

func wantNil(tb testing.TB, what string, err error) {
	tb.Helper()
	if err != nil {
		tb.Errorf("%s: %v", what, err)
	}
}

func TestPermissions(t *testing.T) {
	size := int64(1)
	mode := fs.FileMode(0o600)
	ops := []struct {
		name  string
		needs Perm
		do    func(ctx context.Context, v visitor) error
	}{
		{"stat", PermList, func(ctx context.Context, v visitor) error { _, err := v.Stat(ctx, "/f"); return err }},
		{"list", PermList, func(ctx context.Context, v visitor) error {
			d, err := v.ReadDir(ctx, "/")
			if err == nil {
				err = d.Close()
			}
			return err
		}},
		{"readlink", PermList, func(ctx context.Context, v visitor) error { _, err := v.Readlink(ctx, "/l"); return err }},
		{"read", PermRead, openClose("/f", OpenRead)},
		{"create", PermCreate, openClose("/new", OpenWrite|OpenCreate)},
		{"create exclusively", PermCreate, openClose("/new", OpenCreate|OpenExclusive)},
		{"overwrite", PermOverwrite, openClose("/f", OpenWrite|OpenCreate|OpenTruncate)},
		{"append", PermOverwrite, openClose("/f", OpenWrite)},
		{"resume a complete file", PermOverwrite, openClose("/f", OpenResume)},
		{"mkdir", PermMkdir, func(ctx context.Context, v visitor) error { return v.Mkdir(ctx, "/new", AttrSet{}) }},
		{"remove", PermDelete, func(ctx context.Context, v visitor) error { return v.Remove(ctx, "/f") }},
		{"rmdir", PermDelete, func(ctx context.Context, v visitor) error { return v.Rmdir(ctx, "/d") }},
		{"rename", PermRename, func(ctx context.Context, v visitor) error { return v.Rename(ctx, "/f", "/new", false) }},
		{"rename a directory", PermRename, func(ctx context.Context, v visitor) error { return v.Rename(ctx, "/d", "/new", false) }},
		{"rename over", PermRename | PermOverwrite, func(ctx context.Context, v visitor) error { return v.Rename(ctx, "/f", "/g", true) }},
		{"set mode", PermSetattr, func(ctx context.Context, v visitor) error {
			return v.SetAttr(ctx, "/f", AttrSet{Mode: &mode}, true)
		}},
		{"set size", PermOverwrite, func(ctx context.Context, v visitor) error {
			return v.SetAttr(ctx, "/f", AttrSet{Size: &size}, true)
		}},
		{"symlink", PermLink | PermCreate, func(ctx context.Context, v visitor) error { return v.Symlink(ctx, "f", "/new") }},
		{"link", PermLink | PermCreate | PermRead, func(ctx context.Context, v visitor) error { return v.Link(ctx, "/f", "/new") }},
		{"enter a view", PermHistory | PermList, func(ctx context.Context, v visitor) error {
			_, err := v.Stat(ctx, "/.snapshots/latest/f")
			return err
		}},
		{"read in a view", PermHistory | PermRead, openClose("/.snapshots/latest/f", OpenRead)},
		{"snapshot", PermSnapshot, func(ctx context.Context, v visitor) error { _, err := v.Snapshot(ctx, "/"); return err }},
	}
	for _, op := range ops {
		t.Run(op.name, func(t *testing.T) {
			sys, _ := fullTestSystem(t)
			admin := visit(t, sys, "admin", PermFull, "/")
			admin.put("/f", "old")
			admin.put("/g", "other")
			admin.mkdir("/d")
			admin.symlink("f", "/l")
			commitShare(t, testShare(t, sys))
			before := contents(t, testShare(t, sys))
			for bit := Perm(1); bit < PermFull; bit <<= 1 {
				if op.needs&bit == 0 {
					continue
				}
				v := visit(t, sys, "user", PermFull&^bit, "/")
				wantKind(t, fmt.Sprintf("without %#x", bit), op.do(t.Context(), v), KindPermission)
				want(t, "tree after a refusal", contents(t, testShare(t, sys)), before)
			}
			wantNil(t, "with what it needs", op.do(t.Context(), visit(t, sys, "user", op.needs, "/")))
		})
	}
}

func openClose(path string, flag OpenFlag) func(ctx context.Context, v visitor) error {
	return func(ctx context.Context, v visitor) error {
		f, err := v.Open(ctx, path, flag, AttrSet{})
		if err != nil {
			return err
		}
		return f.Close()
	}
}

func TestWithoutListNamesStayUnknown(t *testing.T) {
	sys, _ := fullTestSystem(t)
	visit(t, sys, "admin", PermFull, "/").put("/secret", "x")
	v := visit(t, sys, "drop", PermCreate|PermMkdir, "/")
	ctx := t.Context()
	for _, name := range []string{"/secret", "/missing", "/secret/below", "/missing/below"} {
		_, err := v.Stat(ctx, name)
		wantKind(t, "stat "+name, err, KindPermission)
		wantKind(t, "setattr "+name, v.SetAttr(ctx, name, AttrSet{ModTime: &time.Time{}}, true), KindPermission)
		_, err = v.Open(ctx, name, OpenRead, AttrSet{})
		wantKind(t, "open "+name, err, KindPermission)
		wantKind(t, "rename "+name, v.Rename(ctx, name, "/x", false), KindPermission)
	}
	_, err := v.Open(ctx, "/secret", OpenCreate|OpenExclusive, AttrSet{})
	wantKind(t, "exclusive open", err, KindPermission)
	i, err := v.Stat(ctx, "/")
	wantNil(t, "stat of the root", err)
	want(t, "type of the root", i.Type, TypeDir)
	v.mkdir("/mine")
	i, err = v.Stat(ctx, "/mine")
	wantNil(t, "stat of an own directory", err)
	want(t, "its type", i.Type, TypeDir)
}

// An upload-only principal must be able to do what WinSCP, scp and firewalls do after an
// upload: look at it, set its time, rename it to its final name.
func TestOwnUploadsWithCreateOnly(t *testing.T) {
	sys, _ := fullTestSystem(t)
	admin := visit(t, sys, "admin", PermFull, "/")
	admin.put("/taken", "x")
	v := visit(t, sys, "drop", PermCreate, "/")
	other := visit(t, sys, "drop", PermCreate, "/")
	ctx := t.Context()
	when := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

	v.put("/report.filepart", "hello")
	for _, who := range []visitor{v, other} {
		wantNil(t, "set time", who.SetAttr(ctx, "/report.filepart", AttrSet{ModTime: &when}, true))
		want(t, "size", who.size("/report.filepart"), 5)
	}
	wantKind(t, "rename over", v.Rename(ctx, "/report.filepart", "/taken", true), KindPermission)
	wantKind(t, "rename to a taken name", v.Rename(ctx, "/report.filepart", "/taken", false), KindExist)
	wantNil(t, "rename", v.Rename(ctx, "/report.filepart", "/report", false))
	want(t, "size", v.size("/report"), 5)
	i, err := admin.Stat(ctx, "/report")
	wantNil(t, "stat", err)
	want(t, "time", i.ModTime, when)

	wantKind(t, "append", openClose("/report", OpenWrite)(ctx, v), KindPermission)
	wantKind(t, "remove", v.Remove(ctx, "/report"), KindPermission)
	wantKind(t, "read", openClose("/report", OpenRead)(ctx, v), KindPermission)
	stranger := visit(t, sys, "stranger", PermCreate, "/")
	_, err = stranger.Stat(ctx, "/report")
	wantKind(t, "stat by another principal", err, KindPermission)
}

func TestCreationsExpire(t *testing.T) {
	c := newCreations()
	now := time.Unix(1e9, 0)
	c.add(1, "u", 7, now)
	for _, tt := range []struct {
		name    string
		version uint64
		user    string
		session uint64
		after   time.Duration
		want    bool
	}{
		{"the session", 1, "u", 7, 0, true},
		{"the session, later", 1, "u", 7, time.Hour, true},
		{"the principal", 1, "u", 8, ownWindow - 1, true},
		{"the principal, too late", 1, "u", 8, ownWindow, false},
		{"another principal", 1, "v", 7, 0, false},
		{"another version", 2, "u", 7, 0, false},
	} {
		want(t, tt.name, c.own(tt.version, tt.user, tt.session, now.Add(tt.after)), tt.want)
	}
	for i := range uint64(ownMax) {
		c.add(10+i, "u", 7, now)
	}
	want(t, "the oldest is forgotten", c.own(1, "u", 7, now), false)
	want(t, "the newest is not", c.own(9+ownMax, "u", 7, now), true)
}

func TestSessionClose(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	f := v.open("/f", OpenWrite|OpenCreate)
	v.write(f, 0, "half")
	d, err := v.ReadDir(t.Context(), "/")
	wantNil(t, "readdir", err)
	wantNil(t, "close", v.Close())
	wantNil(t, "second close", v.Close())
	_, err = f.WriteAt([]byte("x"), 4)
	wantKind(t, "write", err, KindClosed)
	wantKind(t, "close of the file", f.Close(), KindClosed)
	_, err = d.Next(t.Context(), 1)
	wantKind(t, "next", err, KindClosed)
	_, err = v.Stat(t.Context(), "/")
	wantKind(t, "stat", err, KindClosed)
	_, err = v.Open(t.Context(), "/g", OpenCreate, AttrSet{})
	wantKind(t, "open", err, KindClosed)
	want(t, "open handles", sys.handles.count(), 0)
}

func TestHandleLimits(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) { c.Limits.SessionFiles, c.Limits.OpenHandles = 2, 5 })
	a, b := visit(t, sys, "u", PermFull, "/"), visit(t, sys, "u", PermFull, "/")
	f := a.open("/1", OpenCreate)
	a.open("/2", OpenCreate)
	_, err := a.Open(t.Context(), "/3", OpenCreate, AttrSet{})
	wantKind(t, "third of a session", err, KindTooMany)
	b.open("/3", OpenCreate)
	_, err = b.ReadDir(t.Context(), "/")
	wantKind(t, "fourth of a user", err, KindTooMany)
	a.close(f)
	_, err = b.Open(t.Context(), "/missing", OpenRead, AttrSet{})
	wantKind(t, "a failed open", err, KindNotExist)
	d, err := b.ReadDir(t.Context(), "/")
	wantNil(t, "after a close", err)
	wantNil(t, "close", d.Close())
}

// A user that opens whatever it can leaves handles for the next one; all together have no more than there are.
func TestHandlesAreLeftForOthers(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) { c.Limits.SessionFiles, c.Limits.OpenHandles = 4, 8 })
	got := map[string]int{}
	for _, user := range []string{"a", "b", "c", "d"} {
		for range 2 { // sessions
			v := visit(t, sys, user, PermFull, "/")
			for n := range 4 {
				f, err := v.Open(t.Context(), fmt.Sprintf("/%s%d", user, n), OpenCreate, AttrSet{})
				if err != nil {
					wantKind(t, "open", err, KindTooMany)
					break
				}
				t.Cleanup(func() { _ = f.Abort() })
				got[user]++
			}
		}
	}
	if d := cmp.Diff(map[string]int{"a": 5, "b": 2, "c": 1}, got); d != "" {
		t.Errorf("open handles of users (-want +got):\n%s", d)
	}
	want(t, "open handles", sys.Status().Handles, 8)
}

func TestMounts(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) {
		c.Shares = append(c.Shares, ShareConfig{Name: "t", When: WhenManual})
	})
	v := visitMounts(t, sys, "u", PermFull,
		Mount{At: mustName(t, "/b"), Share: "t", Root: Root()},
		Mount{At: mustName(t, "/a"), Share: "s", Root: mustName(t, "/in")},
		Mount{At: mustName(t, "/c"), Share: "s", Root: mustName(t, "/out")},
	)
	ctx := t.Context()
	want(t, "root", v.list("/"), []string{"a", "b", "c"})
	want(t, "missing root directory", v.list("/a"), []string{})
	v.put("/a/f", "one")
	v.put("/b/f", "two")
	want(t, "share s", contents(t, testShare(t, sys)), map[string]string{"/in": "dir", "/in/f": "one"})
	wantNil(t, "rename within a share", v.Rename(ctx, "/a/f", "/c/g", false))
	want(t, "moved", v.get("/c/g"), "one")
	wantKind(t, "rename across shares", v.Rename(ctx, "/b/f", "/c/f", false), KindUnsupported)
	wantKind(t, "link across shares", v.Link(ctx, "/b/f", "/c/f"), KindUnsupported)
	for what, err := range map[string]error{
		"mkdir in the root":    v.Mkdir(ctx, "/new", AttrSet{}),
		"create in the root":   openClose("/new", OpenCreate)(ctx, v),
		"remove of a mount":    v.Rmdir(ctx, "/a"),
		"rename of a mount":    v.Rename(ctx, "/a", "/c/x", false),
		"rename over a mount":  v.Rename(ctx, "/c/g", "/b", true),
		"symlink in the root":  v.Symlink(ctx, "a", "/l"),
		"setattr of the root":  v.SetAttr(ctx, "/", AttrSet{ModTime: &time.Time{}}, true),
		"link into the root":   v.Link(ctx, "/c/g", "/g"),
		"rename into the root": v.Rename(ctx, "/c/g", "/g", false),
	} {
		wantKind(t, what, err, KindPermission)
	}
	wantKind(t, "mkdir of a mount", v.Mkdir(ctx, "/a", AttrSet{}), KindExist)
	_, err := v.Stat(ctx, "/nothing/here")
	wantKind(t, "stat of no mount", err, KindNotExist)
	v.symlink("/b/f", "/a/l")
	want(t, "a link to another mount", v.get("/a/l"), "two")
	want(t, "history at the root", v.list("/.snapshots"), []string{"<no such file or directory>"})
}

func TestSymlinksStayInside(t *testing.T) {
	sys, _ := fullTestSystem(t)
	admin := visit(t, sys, "admin", PermFull, "/")
	admin.put("/secret", "secret")
	v := visit(t, sys, "u", PermFull, "/home/u")
	v.put("/secret", "mine")
	v.mkdir("/d")
	v.put("/d/f", "f")
	for _, tt := range []struct{ target, want string }{
		{"/secret", "mine"},
		{"../secret", "mine"},
		{"../../../../../../secret", "mine"},
		{"/../../secret", "mine"},
		{"f", "f"},
		{"./f", "f"},
		{".//../d/./f", "f"},
		{"/d/../secret", "mine"},
		{"/home/u/secret", "<no such file or directory>"},
		{"f/../f", "<not a directory>"},
		{"missing/../f", "<no such file or directory>"},
		{"l", "<too many levels of symbolic links>"},
		{"/d/l/x", "<too many levels of symbolic links>"},
		{strings.Repeat("x", 300), "<name not allowed>"},
		{".", "<is a directory>"},
		{"/", "<is a directory>"},
	} {
		t.Run(tt.target, func(t *testing.T) {
			v := visitor{v.Session, t}
			v.symlink(tt.target, "/d/l")
			want(t, "read through the link", v.get("/d/l"), tt.want)
			got, err := v.Readlink(t.Context(), "/d/l")
			wantNil(t, "readlink", err)
			want(t, "target", got, tt.target)
			i, err := v.Lstat(t.Context(), "/d/l")
			wantNil(t, "lstat", err)
			want(t, "type", i.Type, TypeSymlink)
			wantNil(t, "remove", v.Remove(t.Context(), "/d/l"))
		})
	}
	want(t, "nothing was removed", v.get("/d/f"), "f")

	v.symlink("/d", "/dl")
	want(t, "in the middle", v.get("/dl/f"), "f")
	v.put("/dl/g", "g")
	want(t, "create below a link", v.get("/d/g"), "g")
	v.symlink("../new", "/d/dangling")
	v.put("/d/dangling", "new")
	want(t, "create through a dangling link", v.get("/new"), "new")
	p, err := v.RealPath(t.Context(), "/dl/missing")
	wantNil(t, "realpath", err)
	want(t, "realpath", p, "/d/missing")
	_, err = v.RealPath(t.Context(), "/missing/x")
	wantKind(t, "realpath below nothing", err, KindNotExist)
	_, err = v.Open(t.Context(), "/d/dangling", OpenCreate|OpenExclusive, AttrSet{})
	wantKind(t, "exclusive open of a link", err, KindExist)

	// A root that somebody turned into a link leads nowhere.
	admin.symlink("/", "/home/evil")
	evil := visit(t, sys, "e", PermFull, "/home/evil")
	want(t, "root that is a link", evil.list("/"), []string{"<not a directory>"})
	want(t, "below a root that is a link", evil.get("/secret"), "<not a directory>")
}

// Whatever links say, a walk ends below the principal's root, in the live tree and in views.
func TestRandomLinksStayInside(t *testing.T) {
	sys, _ := fullTestSystem(t)
	root := mustName(t, "/home/u")
	v := visit(t, sys, "u", PermFull, root.String())
	rnd := rand.New(rand.NewPCG(3, 4))
	words := []string{"..", "..", "..", ".", "", "a", "b", "l0", "l1", "l2", "l3", "home", "u", ".snapshots", "latest", "x"}
	random := func() string {
		elems := make([]string, 1+rnd.IntN(6))
		for i := range elems {
			elems[i] = words[rnd.IntN(len(words))]
		}
		return strings.Repeat("/", rnd.IntN(2)) + strings.Join(elems, "/")
	}
	v.mkdir("/a")
	v.mkdir("/a/b")
	v.put("/x", "x")
	reached := map[placeKind]int{}
	for range 40 {
		for _, link := range []string{"/l0", "/a/l1", "/a/b/l2", "/a/b/l3"} {
			if err := v.Remove(t.Context(), link); err != nil && KindOf(err) != KindNotExist {
				t.Fatal(err)
			}
			if target := random(); target != "" {
				v.symlink(target, link)
			}
		}
		commitShare(t, testShare(t, sys))
		for range 50 {
			path := random()
			name, w, err := v.start("test", path)
			wantNil(t, path, err)
			p, err := w.walk(t.Context(), name, true)
			if err == nil {
				reached[p.kind]++
				switch {
				case !p.dir.HasPrefix(root):
					t.Errorf("%s leads to %s", path, p.dir)
				case p.kind == placeView && !mustName(t, p.path).HasPrefix(root):
					t.Errorf("%s leads to %s in a snapshot", path, p.path)
				}
				// What RealPath says leads to the same place, without links.
				again, err := w.walk(t.Context(), p.name, false)
				wantNil(t, "walk of "+p.name.String(), err)
				if err == nil && (again.dir != p.dir || again.path != p.path || again.kind != p.kind) {
					t.Errorf("%s is %s, which leads to %s, not %s", path, p.name, again.dir, p.dir)
				}
			}
			w.release()
		}
	}
	for _, kind := range []placeKind{placeLive, placeHistory, placeView} {
		if reached[kind] == 0 {
			t.Errorf("no walk reached a place of kind %d", kind)
		}
	}
}

func TestListingIsOneVersion(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.mkdir("/d")
	var names []string
	for i := range 10 {
		name := fmt.Sprintf("f%02d", i)
		names = append(names, name)
		v.put("/d/"+name, "x")
	}
	commitShare(t, testShare(t, sys))
	d, err := v.ReadDir(t.Context(), "/d")
	wantNil(t, "readdir", err)
	first, err := d.Next(t.Context(), 4)
	wantNil(t, "next", err)
	wantNil(t, "remove", v.Remove(t.Context(), "/d/f05"))
	v.put("/d/f045", "new")
	wantNil(t, "rename", v.Rename(t.Context(), "/d", "/e", false))
	rest, err := d.Next(t.Context(), 100)
	wantNil(t, "next", err)
	var got []string
	for _, i := range append(first, rest...) {
		got = append(got, i.Name)
	}
	want(t, "names", got, names)
	_, err = d.Next(t.Context(), 1)
	want(t, "end", errors.Is(err, io.EOF), true)
	wantNil(t, "close", d.Close())
}

func TestErrorsNameTheClientsPath(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/hidden/root")
	v.mkdir("/d")
	for what, err := range map[string]error{
		"mkdir":  v.Mkdir(t.Context(), "/d", AttrSet{}),
		"remove": v.Remove(t.Context(), "/d"),
		"rename": v.Rename(t.Context(), "/d", "/d/x", false),
		"open":   openClose("/d", OpenRead)(t.Context(), v),
	} {
		var e *Error
		if !errors.As(err, &e) || e.Name.String() != "/d" || e.Op != what {
			t.Errorf("%s: got %#v, want the client's name and op", what, err)
		}
	}
}

func TestStatFS(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) { c.Limits.SpoolBytes = 1 << 20 })
	v := visit(t, sys, "u", PermFull, "/")
	got, err := v.StatFS(t.Context(), "/")
	wantNil(t, "statfs", err)
	if free := got.BlocksAvail * got.BlockSize; free > 1<<20 || got.BlockSize == 0 || got.NameMax != 255 || got.ReadOnly {
		t.Errorf("got %+v, want at most the spool limit free", got)
	}
	f := v.open("/f", OpenCreate)
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 2<<20), 0)
	wantKind(t, "write beyond the limit", err, KindNoSpace)
	wantKind(t, "close after a failed write", f.Close(), KindNoSpace)
	want(t, "nothing is shown as complete", v.list("/"), []string{})
}
