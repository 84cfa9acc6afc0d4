package vfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/snapgate/gateway/snapshotter"
)

// pulls makes snapshots as pulls of the source "web" do.
type pulls struct {
	t       testing.TB
	repo    Repository
	lineage snapshotter.Lineage
	last    snapshotter.ID
	number  uint64
	version uint64
}

// sourceSystem is a system with the source "web" beside the share "s"; it looks for a newer
// snapshot each time.
func sourceSystem(t *testing.T, change ...func(*Config)) (*System, *memRepository, *pulls) {
	t.Helper()
	change = append(change, func(c *Config) { c.Shares = append(c.Shares, ShareConfig{Name: "web", Source: true}) })
	sys, repo := fullTestSystem(t, change...)
	sh, _ := sys.share("web")
	sh.source.pause = 0
	lineage, err := SourceLineage(sys.cfg.DataDir, "web")
	wantNil(t, "lineage", err)
	want(t, "lineage", sys.Lineage("web"), lineage)
	// The versions of a pull are not those of the shares beside it: memstore tells contents apart by
	// version alone, so they count from elsewhere.
	return sys, repo, &pulls{t: t, repo: repo, lineage: lineage, version: 1 << 32}
}

// text is the content of a file.
type text string

func (s text) Size() int64 { return int64(len(s)) }
func (s text) Open(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(s))), nil
}

// pull makes a snapshot of files by path: a directory ends with a slash, a link's content
// begins with "-> ".
func (p *pulls) pull(files map[string]string) snapshotter.ID {
	p.t.Helper()
	p.number++
	return p.make(files, snapshotter.Meta{
		Share: "web", GatewayID: p.lineage.GatewayID, ShareID: p.lineage.ShareID, Sequence: p.number,
		Time: time.Date(2026, 11, 26, 8, 0, int(p.number), 0, time.UTC), Reason: "pull", Parent: p.last,
	})
}

func (p *pulls) make(files map[string]string, m snapshotter.Meta) snapshotter.ID {
	p.t.Helper()
	var changes []snapshotter.Change
	if !m.Parent.IsZero() { // everything is new each time
		v, err := p.repo.View(p.t.Context(), m.Parent)
		wantNil(p.t, "view", err)
		old, err := v.ReadDir(p.t.Context(), "/", "", 1000)
		wantNil(p.t, "read directory", errors.Join(err, v.Close()))
		for _, e := range old {
			if files["/"+e.Name] == "" && files["/"+e.Name+"/"] == "" {
				changes = append(changes, snapshotter.Change{Path: "/" + e.Name, Kind: snapshotter.Removed})
			}
		}
	}
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, content := range files {
		p.version++
		c := snapshotter.Change{Path: strings.TrimSuffix(name, "/"), Kind: snapshotter.File, Version: p.version, Attr: snapshotter.Attr{Mode: 0o644, ModTime: when}}
		target, link := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			c.Kind, c.Attr.Mode = snapshotter.Dir, 0o755
		case link:
			c.Kind, c.Target = snapshotter.Symlink, target
		default:
			c.Content = text(content)
		}
		changes = append(changes, c)
	}
	slices.SortFunc(changes, func(a, b snapshotter.Change) int {
		return strings.Compare(strings.ReplaceAll(a.Path, "/", "\x00"), strings.ReplaceAll(b.Path, "/", "\x00"))
	})
	id, err := p.repo.Commit(p.t.Context(), m.Parent, func(yield func(snapshotter.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}, m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.last = id
	return id
}

// A source shows the newest snapshot of its lineage, and a session keeps what it has open.
func TestSourceShowsNewest(t *testing.T) {
	sys, repo, p := sourceSystem(t)
	v := visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "web", Root: Root()})
	want(t, "before the first pull", v.list("/"), []string{})
	want(t, "its history", v.list("/.snapshots"), []string{})
	want(t, "a file", v.get("/f"), "<no such file or directory>")

	first := p.pull(map[string]string{"/f": "one", "/d/": "/", "/d/g": "deep", "/l": "-> d/g"})
	want(t, "after it", v.list("/"), []string{"d", "f", "l"})
	want(t, "a file", v.get("/f"), "one")
	want(t, "through a link", v.get("/l"), "deep")
	i, err := v.Stat(t.Context(), "/f")
	wantNil(t, "stat", err)
	want(t, "mode without write bits", i.Mode, 0o444)
	want(t, "size", i.Size, 3)
	if i, err = v.Stat(t.Context(), "/"); err != nil || i.Mode&0o222 != 0 {
		t.Errorf("root %+v, %v", i, err)
	}

	f, d := v.open("/f", OpenRead), openDirectory(v, "/")
	second := p.pull(map[string]string{"/f": "two", "/new": "new"})
	want(t, "after the second", v.list("/"), []string{"f", "new"})
	want(t, "a file", v.get("/f"), "two")
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
	wantNil(t, "read", err)
	want(t, "the open file", string(data), "one")
	page, err := d.Next(t.Context(), 10)
	wantNil(t, "list", err)
	want(t, "the open listing", len(page), 3)
	want(t, "history", len(v.list("/.snapshots")), 3)
	want(t, "latest", v.get("/.snapshots/latest/f"), "two")
	want(t, "a directory's history", v.list("/d"), []string{"<no such file or directory>"})
	v.close(f)
	wantNil(t, "close", d.Close())

	repo.Remove(second)
	want(t, "after its removal", v.get("/f"), "one")
	repo.Remove(first)
	want(t, "after the last one's", v.list("/"), []string{})
}

func openDirectory(v visitor, path string) *Dir {
	v.t.Helper()
	d, err := v.ReadDir(v.t.Context(), path)
	if err != nil {
		v.t.Fatal(err)
	}
	return d
}

// The number decides, not the clock, and only in the source's own lineage.
func TestSourceOwnLineageByNumber(t *testing.T) {
	sys, repo, p := sourceSystem(t)
	v := visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "web", Root: Root()})
	meta := func(number uint64, hour int) snapshotter.Meta {
		return snapshotter.Meta{
			Share: "web", GatewayID: p.lineage.GatewayID, ShareID: p.lineage.ShareID, Sequence: number,
			Time: time.Date(2026, 11, 26, hour, 0, 0, 0, time.UTC), Reason: "pull", Parent: p.last,
		}
	}
	p.make(map[string]string{"/f": "one"}, meta(1, 9))
	p.make(map[string]string{"/f": "two"}, meta(2, 8))
	other := meta(7, 10)
	other.ShareID, other.Parent = "another", snapshotter.ID{}
	p.make(map[string]string{"/f": "other"}, other)
	_, err := repo.Add("web", "/srv", other.Time.Add(time.Hour), fstest.MapFS{"srv/f": {Data: []byte("foreign")}})
	wantNil(t, "foreign", err)
	want(t, "live", v.get("/f"), "two")
	want(t, "latest", v.get("/.snapshots/latest/f"), "two")
	names := v.list("/.snapshots")
	want(t, "all are listed", len(names), 5)
	want(t, "the foreign one", v.get("/.snapshots/"+names[3]+"/f"), "foreign")
}

// Every operation that changes something is refused, whatever the user may do, and nothing
// is made for a mount's root that no snapshot has.
func TestSourceRefusesWrites(t *testing.T) {
	sys, _, p := sourceSystem(t)
	p.pull(map[string]string{"/f": "one", "/d/": "/", "/d/g": "deep", "/empty/": "/"})
	ctx := t.Context()
	size, mode, now := int64(0), fs.FileMode(0o600), time.Now()
	for _, root := range []string{"/", "/none", "/d"} {
		v := visitMounts(t, sys, "u", PermFull, Mount{At: Root(), Share: "web", Root: mustName(t, root)})
		for what, err := range map[string]error{
			"create":        openClose("/new", OpenCreate)(ctx, v),
			"exclusive":     openClose("/new", OpenCreate|OpenExclusive)(ctx, v),
			"resume":        openClose("/new", OpenCreate|OpenResume)(ctx, v),
			"mkdir":         v.Mkdir(ctx, "/new", AttrSet{}),
			"mkdir root":    v.Mkdir(ctx, "/", AttrSet{}),
			"symlink":       v.Symlink(ctx, "f", "/new"),
			"rmdir root":    v.Rmdir(ctx, "/"),
			"remove root":   v.Remove(ctx, "/"),
			"rename root":   v.Rename(ctx, "/", "/new", false),
			"set mode":      v.SetAttr(ctx, "/", AttrSet{Mode: &mode}, true),
			"set time":      v.SetAttr(ctx, "/", AttrSet{ModTime: &now}, true),
			"remove no one": v.Remove(ctx, "/new"),
			"commit":        commitAt(ctx, v, "/"),
		} {
			wantKind(t, what+" at "+root, err, KindPermission)
		}
	}
	v := visitMounts(t, sys, "u", PermFull, Mount{At: Root(), Share: "web", Root: Root()})
	for what, err := range map[string]error{
		"append":      openClose("/f", OpenWrite)(ctx, v),
		"overwrite":   openClose("/f", OpenWrite|OpenTruncate)(ctx, v),
		"read-write":  openClose("/f", OpenRead|OpenWrite)(ctx, v),
		"remove":      v.Remove(ctx, "/f"),
		"rmdir":       v.Rmdir(ctx, "/empty"),
		"rename":      v.Rename(ctx, "/f", "/new", false),
		"rename over": v.Rename(ctx, "/f", "/d/g", true),
		"link":        v.Link(ctx, "/f", "/new"),
		"from a view": v.Link(ctx, "/.snapshots/latest/f", "/new"),
		"set size":    v.SetAttr(ctx, "/f", AttrSet{Size: &size}, true),
		"set mode":    v.SetAttr(ctx, "/f", AttrSet{Mode: &mode}, false),
		"mkdir below": v.Mkdir(ctx, "/d/new", AttrSet{}),
	} {
		wantKind(t, what, err, KindPermission)
	}
	f := v.open("/f", OpenRead)
	_, err := f.WriteAt([]byte("x"), 0)
	wantKind(t, "write", err, KindPermission)
	wantKind(t, "set size of an open file", f.SetAttr(ctx, AttrSet{Size: &size}), KindPermission)
	v.close(f)
	st, err := v.StatFS(ctx, "/")
	wantNil(t, "statfs", err)
	want(t, "read-only", st.ReadOnly, true)
	want(t, "tree", v.list("/"), []string{"d", "empty", "f"})
	want(t, "no history", len(v.list("/.snapshots")), 2)
	none := visitMounts(t, sys, "u", PermFull, Mount{At: Root(), Share: "web", Root: mustName(t, "/none")})
	want(t, "a root that is not there", none.list("/"), []string{})
	_, err = sys.Commit(ctx, "web")
	if !errors.Is(err, ErrSource) {
		t.Errorf("commit: %v", err)
	}
}

func commitAt(ctx context.Context, v visitor, path string) error {
	_, err := v.Snapshot(ctx, path)
	return err
}

// What a user may do in a source is what it may do elsewhere.
func TestSourceNeedsPermissions(t *testing.T) {
	sys, _, p := sourceSystem(t)
	p.pull(map[string]string{"/f": "one"})
	web := Mount{At: Root(), Share: "web", Root: Root()}
	want(t, "list without list", visitMounts(t, sys, "u", PermRead, web).list("/"), []string{"<permission denied>"})
	want(t, "read without read", visitMounts(t, sys, "u", PermList, web).get("/f"), "<permission denied>")
	want(t, "history without history", visitMounts(t, sys, "u", PermList|PermRead, web).list("/.snapshots"), []string{"<permission denied>"})
}

// Beside a share that can be written a source is where files are copied from.
func TestSourceCopyFrom(t *testing.T) {
	sys, repo, p := sourceSystem(t)
	p.pull(map[string]string{"/f": "pulled", "/big": big("b")})
	v := visitMounts(t, sys, "u", PermFull,
		Mount{At: mustName(t, "/s"), Share: "s", Root: Root()}, Mount{At: mustName(t, "/web"), Share: "web", Root: Root()})
	want(t, "root", v.list("/"), []string{"s", "web"})
	for _, from := range []string{"/web/f", "/web/big", "/web/.snapshots/latest/big"} {
		src, to := v.open(from, OpenRead), v.open("/s/"+filepath.Base(from), OpenWrite|OpenCreate|OpenTruncate)
		wantNil(t, "copy", v.CopyData(t.Context(), src, 0, 0, to, 0))
		v.close(src)
		v.close(to)
	}
	wantKind(t, "link", v.Link(t.Context(), "/web/f", "/s/l"), KindUnsupported)
	wantKind(t, "rename", v.Rename(t.Context(), "/web/f", "/s/l", false), KindPermission)
	wantKind(t, "rename into", v.Rename(t.Context(), "/s/f", "/web/l", false), KindPermission)
	wantKind(t, "rename over", v.Rename(t.Context(), "/s/f", "/web/f", true), KindPermission)
	id := commitShare(t, testShare(t, sys))
	want(t, "snapshot", viewContents(t, repo, id), map[string]string{"/f": "pulled", "/big": big("b")})
	want(t, "copy", v.get("/s/f"), "pulled")
}

// While the store is away a source shows what it has seen, or says so, and comes back.
func TestSourceStoreAway(t *testing.T) {
	sys, repo, p := sourceSystem(t)
	p.pull(map[string]string{"/f": "one"})
	v := visitMounts(t, sys, "u", PermFull,
		Mount{At: mustName(t, "/s"), Share: "s", Root: Root()}, Mount{At: mustName(t, "/web"), Share: "web", Root: Root()})
	repo.FailIndex(snapshotter.ErrUnavailable)
	want(t, "never seen", v.list("/web"), []string{"<store unavailable, try again later>"})
	want(t, "a file", v.get("/web/f"), "<store unavailable, try again later>")
	want(t, "the root above", v.list("/"), []string{"s", "web"})
	wantKind(t, "mkdir", v.Mkdir(t.Context(), "/web/x", AttrSet{}), KindUnavailable)
	repo.FailIndex(nil)
	want(t, "back", v.get("/web/f"), "one")
	repo.FailReads(snapshotter.ErrUnavailable)
	want(t, "bytes out of reach", v.get("/web/f"), "<store unavailable, try again later>")
	repo.FailReads(nil)
	want(t, "back", v.get("/web/f"), "one")
}

// That a client went away while it looked says nothing about the store to the next one.
func TestSourceClientGone(t *testing.T) {
	sys, repo, p := sourceSystem(t)
	p.pull(map[string]string{"/f": "one"})
	sh, _ := sys.share("web")
	sh.source.pause = time.Hour
	v := visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "web", Root: Root()})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	repo.FailIndex(context.Canceled)
	_, err := v.Stat(ctx, "/f")
	wantKind(t, "stat", err, KindClosed)
	repo.FailIndex(nil)
	want(t, "another", v.get("/f"), "one")
}

// Files are opened and listed while snapshots come and go; each is whole.
func TestSourceWhileSnapshotsCome(t *testing.T) {
	sys, repo, p := sourceSystem(t)
	files := func(n int) map[string]string {
		return map[string]string{"/a": fmt.Sprint(n), "/b": fmt.Sprint(n), fmt.Sprintf("/only%d", n): "x"}
	}
	p.pull(files(0))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			v := visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "web", Root: Root()})
			for {
				select {
				case <-done:
					return
				default:
				}
				names := v.list("/")
				if len(names) != 3 || names[0] != "a" || names[1] != "b" || !strings.HasPrefix(names[2], "only") {
					t.Errorf("listed %q", names)
				}
				if got := v.get("/b"); strings.HasPrefix(got, "<") {
					t.Errorf("read %q", got)
				}
				if got := v.get("/.snapshots/latest/a"); strings.HasPrefix(got, "<") && got != "<no such file or directory>" {
					t.Errorf("read %q", got)
				}
			}
		})
	}
	for n := 1; n <= 50; n++ {
		old := p.last
		p.pull(files(n))
		if n%3 == 0 {
			repo.Remove(old)
		}
	}
	close(done)
	wg.Wait()
	v := visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "web", Root: Root()})
	want(t, "at the end", v.get("/a"), "50")
	if t.Failed() {
		return
	}
	wantNil(t, "close", v.Session.Close())
}

// A reload adds sources and takes them away; sessions that have one mounted keep it.
func TestSourceReload(t *testing.T) {
	sys, repo, p := sourceSystem(t)
	p.pull(map[string]string{"/f": "one"})
	live := ShareConfig{Name: "s", When: WhenManual}
	v := visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "web", Root: Root()})
	want(t, "before", v.get("/.snapshots/latest/f"), "one")

	// One that fails changes nothing.
	wantNil(t, "a file in place of a share", os.WriteFile(filepath.Join(sys.cfg.DataDir, sharesDir, "bad"), nil, 0o600))
	sh, _ := sys.share("s")
	quiet := sh.config().Quiet
	err := sys.Reload(t.Context(), []ShareConfig{{Name: "s", When: WhenClose, Quiet: time.Hour}, {Name: "good"}, {Name: "bad"}})
	want(t, "a reload that fails", err != nil, true)
	sh, _ = sys.share("s")
	want(t, "the policy then", sh.config().Quiet, quiet)
	_, ok := sys.share("good")
	want(t, "a new share then", ok, false)
	wantNil(t, "close", visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "web", Root: Root()}).Session.Close())

	wantNil(t, "reload", sys.Reload(t.Context(), []ShareConfig{live, {Name: "mail", Source: true}}))
	want(t, "a session of a source that went", v.get("/.snapshots/latest/f"), "one")
	_, err = sys.Session(t.Context(), &Principal{User: "u", Mounts: []Mount{{At: Root(), Share: "web", Root: Root()}}}, ConnInfo{})
	wantKind(t, "a new one", err, KindNotExist)
	wantNil(t, "close", v.Session.Close())
	want(t, "views that stay open", repo.Counts().OpenViews <= 2, true)
	want(t, "the new source", visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "mail", Root: Root()}).list("/"), []string{})

	// A source becomes a share at once, a share a source with the next start.
	wantNil(t, "reload", sys.Reload(t.Context(), []ShareConfig{{Name: "s", Source: true}, {Name: "mail", When: WhenManual}}))
	visitMounts(t, sys, "u", PermFull, Mount{At: Root(), Share: "mail", Root: Root()}).put("/f", "mail")
	visit(t, sys, "u", PermFull, "/").put("/f", "still a share")
}

// A source costs nothing while nobody looks: neither a goroutine nor a call of the store.
func TestManySourcesAreIdle(t *testing.T) {
	repo := newMemRepository()
	before := runtime.NumGoroutine()
	sys := openTestSystem(t, t.TempDir(), repo, func(c *Config) {
		c.Shares = nil
		for i := range 300 {
			c.Shares = append(c.Shares, ShareConfig{Name: fmt.Sprint("source", i), Source: true})
		}
	})
	defer closeSystem(t, sys)
	want(t, "recovered", sys.Recovered(), "")
	want(t, "shares", len(sys.allShares()), 300)
	if n := runtime.NumGoroutine() - before; n > 5 {
		t.Errorf("%d goroutines for 300 sources", n)
	}
	for _, sh := range sys.allShares() {
		if sh.source.shown.Load() != nil {
			t.Errorf("%s was looked at", sh.name)
		}
	}
	st, err := visitMounts(t, sys, "u", PermReadOnly, Mount{At: Root(), Share: "source7", Root: Root()}).StatFS(t.Context(), "/")
	if err != nil || st.Blocks == 0 || !st.ReadOnly {
		t.Errorf("statfs %+v, %v", st, err)
	}
}
