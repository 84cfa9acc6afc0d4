package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// ownName is the view name of one of the share's own snapshots.
func ownName(s snapshotter.Snapshot) string {
	return s.ViewName(snapshotter.Lineage{GatewayID: s.GatewayID, ShareID: s.ShareID})
}

// viewNames lists the view names of share "s", oldest first, which are all its own.
func viewNames(t *testing.T, repo *memRepository) []string {
	t.Helper()
	list, err := repo.Snapshots(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range slices.Backward(list) {
		out = append(out, ownName(s))
	}
	return out
}

func TestHistory(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	s := testShare(t, sys)
	want(t, "no history yet", v.list("/.snapshots"), []string{})
	v.put("/f", "one")
	commitShare(t, s)
	v.put("/f", "two")
	v.mkdir("/d")
	v.put("/d/g", "deep")
	commitShare(t, s)
	v.put("/f", "three")
	names := viewNames(t, repo)

	want(t, "names", v.list("/.snapshots"), append(slices.Clone(names), "latest"))
	want(t, "oldest", v.get("/.snapshots/"+names[0]+"/f"), "one")
	want(t, "newest", v.get("/.snapshots/"+names[1]+"/f"), "two")
	want(t, "latest", v.get("/.snapshots/latest/f"), "two")
	want(t, "live", v.get("/f"), "three")
	want(t, "root of a view", v.list("/.snapshots/"+names[1]), []string{"d", "f"})
	want(t, "versions of a directory", v.list("/d/.snapshots"), []string{names[1], "latest"})
	want(t, "below a directory", v.get("/d/.snapshots/latest/g"), "deep")
	want(t, "a version without the directory", v.list("/d/.snapshots/"+names[0]), []string{"<no such file or directory>"})
	want(t, "not listed", v.list("/"), []string{"d", "f"})
	want(t, "no nesting", v.list("/.snapshots/latest/.snapshots"), []string{"<no such file or directory>"})
	want(t, "not in a history either", v.list("/.snapshots/.snapshots"), []string{"<no such file or directory>"})
	want(t, "below a file", v.list("/f/.snapshots"), []string{"<not a directory>"})
	i, err := v.Stat(t.Context(), "/.snapshots/latest/f")
	wantNil(t, "stat", err)
	want(t, "mode without write bits", i.Mode, 0o444)
	i, err = v.Stat(t.Context(), "/d/.snapshots")
	wantNil(t, "stat of a history", err)
	want(t, "type", i.Type, TypeDir)
	p, err := v.RealPath(t.Context(), "/d/.snapshots/latest/../latest/g")
	wantNil(t, "realpath", err)
	want(t, "realpath", p, "/d/.snapshots/latest/g")
}

// Setuid, setgid and sticky bits are shown as they were set, in views without write bits.
func TestSpecialBitsAreShown(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "f")
	v.mkdir("/d")
	for path, mode := range map[string]fs.FileMode{"/f": 0o755 | fs.ModeSetuid | fs.ModeSetgid, "/d": 0o777 | fs.ModeSticky} {
		if err := v.SetAttr(t.Context(), path, AttrSet{Mode: &mode}, true); err != nil {
			t.Fatal(err)
		}
		if i, err := v.Stat(t.Context(), path); err != nil || i.Mode != mode {
			t.Errorf("%s: mode %v, %v, want %v", path, i.Mode, err, mode)
		}
	}
	commitShare(t, testShare(t, sys))
	for path, mode := range map[string]fs.FileMode{"/f": 0o555 | fs.ModeSetuid | fs.ModeSetgid, "/d": 0o555 | fs.ModeSticky} {
		if i, err := v.Stat(t.Context(), "/.snapshots/latest"+path); err != nil || i.Mode != mode {
			t.Errorf("%s in a view: mode %v, %v, want %v", path, i.Mode, err, mode)
		}
	}
}

func TestViewsAreReadOnly(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) { c.Shares[0].Aliases = []string{".zfs/snapshot", "@GMT", "~snapshot"} })
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "f")
	v.mkdir("/d")
	commitShare(t, testShare(t, sys))
	ctx := t.Context()
	size, mode := int64(0), AttrSet{}
	m := readOnlyMode(0o600)
	mode.Mode = &m
	for _, dir := range []string{
		"/.snapshots/latest", "/.snapshots", "/d/.snapshots", "/.zfs", "/.zfs/snapshot", "/~snapshot/latest",
		"/d/.snapshots/latest",
	} {
		for what, err := range map[string]error{
			"create":      openClose(dir+"/new", OpenCreate)(ctx, v),
			"exclusive":   openClose(dir+"/new", OpenCreate|OpenExclusive)(ctx, v),
			"mkdir":       v.Mkdir(ctx, dir+"/new", AttrSet{}),
			"symlink":     v.Symlink(ctx, "f", dir+"/new"),
			"link into":   v.Link(ctx, "/f", dir+"/new"),
			"rename into": v.Rename(ctx, "/f", dir+"/new", true),
			"rename":      v.Rename(ctx, dir, "/new", false),
			"rename over": v.Rename(ctx, "/d", dir, true),
			"rmdir":       v.Rmdir(ctx, dir),
			"remove":      v.Remove(ctx, dir),
			"set mode":    v.SetAttr(ctx, dir, mode, true),
		} {
			wantKind(t, what+" "+dir, err, KindPermission)
		}
	}
	file := "/.snapshots/latest/f"
	for what, err := range map[string]error{
		"append":      openClose(file, OpenWrite)(ctx, v),
		"overwrite":   openClose(file, OpenWrite|OpenTruncate)(ctx, v),
		"read-write":  openClose(file, OpenRead|OpenWrite)(ctx, v),
		"remove":      v.Remove(ctx, file),
		"rename":      v.Rename(ctx, file, "/new", false),
		"rename over": v.Rename(ctx, "/f", file, true),
		"set size":    v.SetAttr(ctx, file, AttrSet{Size: &size}, true),
	} {
		wantKind(t, what, err, KindPermission)
	}
	for _, reserved := range []string{"/.snapshots", "/d/.snapshots", "/.zfs", "/~snapshot"} {
		wantKind(t, "mkdir "+reserved, v.Mkdir(ctx, reserved, AttrSet{}), KindPermission)
		wantKind(t, "create "+reserved, openClose(reserved, OpenCreate)(ctx, v), KindPermission)
		wantKind(t, "rename to "+reserved, v.Rename(ctx, "/f", reserved, false), KindPermission)
	}
	want(t, "live", contents(t, testShare(t, sys)), map[string]string{"/d": "dir", "/f": "f"})
}

func TestViewsAreConfined(t *testing.T) {
	sys, _ := fullTestSystem(t)
	admin := visit(t, sys, "admin", PermFull, "/")
	admin.put("/secret", "secret")
	commitShare(t, testShare(t, sys))
	v := visit(t, sys, "u", PermFull, "/home/u")
	want(t, "a root that no snapshot has", v.list("/.snapshots"), []string{})
	v.put("/secret", "mine")
	v.mkdir("/a")
	v.mkdir("/a/b")
	v.put("/a/b/x", "x")
	for name, target := range map[string]string{
		"abs": "/secret", "up": "../../../../../../../../secret", "here": "x", "dir": "/a/b",
		"out": "/.snapshots/latest/secret", "root": "/", "parent": "../..",
	} {
		v.symlink(target, "/a/b/"+name)
	}
	commitShare(t, testShare(t, sys))
	v.put("/secret", "changed")
	for _, view := range []string{"/.snapshots/latest/a/b", "/a/.snapshots/latest/b", "/a/b/.snapshots/latest"} {
		want(t, view+" absolute", v.get(view+"/abs"), "mine")
		want(t, view+" dots", v.get(view+"/up"), "mine")
		want(t, view+" beside", v.get(view+"/here"), "x")
		want(t, view+" directory", v.get(view+"/dir/x"), "x")
		want(t, view+" to a view", v.get(view+"/out"), "<no such file or directory>")
		want(t, view+" root", v.list(view+"/root"), []string{"a", "secret"})
		want(t, view+" parent", v.list(view+"/parent"), []string{"a", "secret"})
		want(t, view+" through two", v.get(view+"/dir/abs"), "mine")
	}
	want(t, "admin sees all", admin.get("/.snapshots/latest/secret"), "secret")
	want(t, "views of a mount's root", len(v.list("/.snapshots")), 2)
}

func TestHistoryNeedsPermission(t *testing.T) {
	sys, _ := fullTestSystem(t, func(c *Config) {
		c.Shares[0].VisibleHistory = true
		c.Shares[0].Aliases = []string{".snapshot"}
	})
	admin := visit(t, sys, "admin", PermFull, "/")
	admin.put("/-first", "f")
	admin.put("/f", "f")
	commitShare(t, testShare(t, sys))
	want(t, "visible", admin.list("/"), []string{"-first", ".snapshots", "f"})
	v := visit(t, sys, "u", PermFull&^PermHistory, "/")
	want(t, "not for everybody", v.list("/"), []string{"-first", "f"})
	for _, path := range []string{"/.snapshots", "/.snapshots/latest", "/.snapshot", "/.snapshots/latest/f"} {
		_, err := v.Stat(t.Context(), path)
		wantKind(t, path, err, KindPermission)
	}
	v.symlink(".snapshots/latest", "/l")
	want(t, "through a link", v.get("/l/f"), "<permission denied>")
}

// The name of a version stays the same when others are pruned, also those that another gateway
// has made in the same second.
func TestVersionNamesStay(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	s := testShare(t, sys)
	v.put("/f", "one")
	own := commitShare(t, s)
	head := s.head()
	other := otherCommit(t, repo, snapshotter.Meta{GatewayID: "another", ShareID: "x", Sequence: 1, Suffix: 7, Time: head.time})
	plain := head.time.Format("2006-01-02T15-04-05Z")
	marked := plain + "-" + other.String()[:8]
	want(t, "both", v.list("/.snapshots"), []string{plain, marked, "latest"})
	repo.Remove(own)
	want(t, "without the own one", v.list("/.snapshots"), []string{marked, "latest"})
	want(t, "by its name", v.list("/.snapshots/"+marked), []string{"other-another"})
}

func TestAliases(t *testing.T) {
	sys, repo := fullTestSystem(t, func(c *Config) {
		c.Shares[0].Aliases = []string{".zfs/snapshot", ".snapshot", "~snapshot", "@GMT"}
	})
	v := visit(t, sys, "u", PermFull, "/")
	v.mkdir("/d")
	v.put("/d/f", "old")
	commitShare(t, testShare(t, sys))
	list, err := repo.Snapshots(t.Context(), "s")
	wantNil(t, "snapshots", err)
	name := ownName(list[0])
	v.put("/d/f", "new")
	for _, alias := range []string{".zfs/snapshot", ".snapshot", "~snapshot", ".snapshots"} {
		want(t, alias, v.list("/"+alias), []string{name, "latest"})
		want(t, alias+" below", v.get("/d/"+alias+"/latest/f"), "old")
	}
	want(t, "first half", v.list("/.zfs"), []string{"snapshot"})
	want(t, "another second half", v.get("/.zfs/other"), "<no such file or directory>")
	gmt := list[0].Time.UTC().Format(gmtLayout)
	want(t, gmt, v.get("/d/"+gmt+"/f"), "old")
	want(t, "another time", v.get("/d/@GMT-1999.01.01-00.00.00/f"), "<no such file or directory>")
	v.put("/@GMT-not-a-time", "just a name")
	want(t, "listing", v.list("/"), []string{"@GMT-not-a-time", "d"})
}

func TestRealEntryWinsOverAlias(t *testing.T) {
	sys, _ := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/~snapshot", "real")
	cfg := *testShare(t, sys).config()
	cfg.Aliases = []string{"~snapshot"}
	wantNil(t, "reload", sys.Reload(t.Context(), []ShareConfig{cfg}))
	want(t, "content", v.get("/~snapshot"), "real")
	wantNil(t, "remove", v.Remove(t.Context(), "/~snapshot"))
	want(t, "alias", v.list("/~snapshot"), []string{})
}

func TestForeignSnapshots(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", "ours")
	commitShare(t, testShare(t, sys))
	when := time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)
	id, err := repo.Add("s", "/srv/data", when, fstest.MapFS{
		"srv/data/f":            {Data: []byte("theirs")},
		"srv/data/sub/g":        {Data: []byte("g")},
		"srv/data/.snapshots/x": {Data: []byte("real")},
		"etc/passwd":            {Data: []byte("no")},
	})
	wantNil(t, "add", err)
	name := "2040-01-02T03-04-05Z-" + id.String()[:8]
	want(t, "content", v.get("/.snapshots/"+name+"/f"), "theirs")
	want(t, "root", v.list("/.snapshots/"+name), []string{".snapshots", "f", "sub"})
	want(t, "a real entry of the reserved name", v.get("/.snapshots/"+name+"/.snapshots/x"), "real")
	want(t, "latest stays our own", v.get("/.snapshots/latest/f"), "ours")
	sub := visit(t, sys, "w", PermFull, "/sub")
	want(t, "a user's root in it", sub.get("/.snapshots/"+name+"/g"), "g")
	want(t, "latest where we have none", sub.get("/.snapshots/latest/g"), "g")
	repo.Remove(id)
	want(t, "pruned", v.list("/.snapshots/"+name), []string{"<no such file or directory>"})
}

// Another gateway may store a share of the same name in the same store. Its snapshots are
// shown, but they are no state that this share ever had.
func TestSnapshotsOfAnotherGateway(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	commit := func(at time.Time, seq uint64) snapshotter.ID {
		t.Helper()
		id, err := repo.Commit(t.Context(), snapshotter.ID{}, func(yield func(snapshotter.Change, error) bool) {
			yield(snapshotter.Change{Path: "/theirs", Kind: snapshotter.Dir, Version: 1}, nil)
		}, snapshotter.Meta{Share: "s", ShareID: "theirs", GatewayID: "other", Sequence: seq, Time: at})
		wantNil(t, "commit", err)
		return id
	}
	commit(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), 1)
	want(t, "latest where this share has none", v.list("/.snapshots/latest"), []string{"theirs"})
	v.put("/f", "ours")
	commitShare(t, testShare(t, sys))
	id := commit(time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC), 2)
	want(t, "latest", v.list("/.snapshots/latest"), []string{"f"})
	want(t, "theirs", v.list("/.snapshots/2040-01-02T03-04-05Z-"+id.String()[:8]), []string{"theirs"})
	want(t, "live", v.list("/"), []string{"f"})
}

func TestRestoreFromAView(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", big("a"))
	v.symlink("f", "/l")
	commitShare(t, testShare(t, sys))
	wantNil(t, "remove", v.Remove(t.Context(), "/f"))
	commitShare(t, testShare(t, sys))
	old := "/.snapshots/" + viewNames(t, repo)[0]
	from, to := v.open(old+"/f", OpenRead), v.open("/g", OpenCreate)
	repo.FailReads(errors.New("no bytes are to be had"))
	wantNil(t, "link", v.Link(t.Context(), old+"/f", "/f"))
	wantNil(t, "link of a link", v.Link(t.Context(), old+"/l", "/l2"))
	wantNil(t, "copy", v.CopyData(t.Context(), from, 0, 0, to, 0))
	v.close(to)
	v.close(from)
	repo.FailReads(nil)
	want(t, "link", v.get("/f"), big("a"))
	want(t, "copy", v.get("/g"), big("a"))
	want(t, "link of a link", v.get("/l2"), big("a"))
	wantKind(t, "link to a taken name", v.Link(t.Context(), old+"/f", "/g"), KindExist)
	commitShare(t, testShare(t, sys))
	want(t, "committed", v.get("/.snapshots/latest/g"), big("a"))
}

func TestStoreAway(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	v.put("/f", big("a"))
	commitShare(t, testShare(t, sys))
	repo.FailReads(fmt.Errorf("read: %w", snapshotter.ErrUnavailable))
	want(t, "stored bytes", v.get("/f"), "<store unavailable, try again later>")
	v.put("/new", big("b"))
	want(t, "uploads go on", v.get("/new"), big("b"))
	want(t, "names", v.list("/"), []string{"f", "new"})
	repo.FailReads(nil)
	want(t, "back", v.get("/f"), big("a"))
}

func TestViewCacheIsBounded(t *testing.T) {
	sys, repo := fullTestSystem(t)
	v := visit(t, sys, "u", PermFull, "/")
	s := testShare(t, sys)
	for i := range openViews + 5 {
		v.put("/f", fmt.Sprint(i))
		commitShare(t, s)
	}
	names := viewNames(t, repo)
	first := v.open("/.snapshots/"+names[0]+"/f", OpenRead)
	for i, name := range names {
		want(t, name, v.get("/.snapshots/"+name+"/f"), fmt.Sprint(i))
	}
	want(t, "cached", s.views.recent.Len(), openViews)
	got := make([]byte, 1)
	_, err := first.ReadAt(got, 0)
	wantNil(t, "read of one that was evicted", err)
	want(t, "bytes", string(got), "0")
	v.close(first)
}
