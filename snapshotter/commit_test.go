package snapshotter_test

import (
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// base is the tree that the tests of changes begin with.
func baseTree() tree {
	return tree{
		"/":           dir(0),
		"/a":          dir(1),
		"/a/one":      file(11, "one"),
		"/a/sub":      dir(2),
		"/a/sub/deep": file(12, "deep"),
		"/a/sub/link": link(13, "../one"),
		"/a.b":        file(14, "beside a"),
		"/b":          dir(3),
		"/b/two":      file(15, "two"),
		"/empty":      dir(4),
		"/zero":       file(16, ""),
	}
}

// with returns the base tree with some paths changed; a nil item removes.
func with(changes map[string]*item) tree {
	t := maps.Clone(baseTree())
	for p, it := range changes {
		if it == nil {
			for q := range t {
				if q == p || strings.HasPrefix(q, p+"/") {
					delete(t, q)
				}
			}
			continue
		}
		t[p] = *it
	}
	return t
}

func ptr(it item) *item { return &it }

func TestCommitChanges(t *testing.T) {
	setuid := file(31, "setuid")
	setuid.Attr.Mode = 0o755 | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	chmod := baseTree()["/a/one"]
	chmod.Attr.Mode, chmod.Attr.UID, chmod.Version = 0o600, 7, 32
	raw := "/a/\xff\xfe\x01latin\xe9"
	moved := func(t tree, from, to string) tree {
		out := make(tree)
		for p, it := range t {
			if p == from || strings.HasPrefix(p, from+"/") {
				p = to + p[len(from):]
			}
			out[p] = it
		}
		return out
	}

	tests := []struct {
		name    string
		changes []snapshotter.Change
		want    tree
	}{
		{"nothing", nil, baseTree()},
		{"add", []snapshotter.Change{put("/a/new", file(20, "new"))},
			with(map[string]*item{"/a/new": ptr(file(20, "new"))})},
		{"add first and last", []snapshotter.Change{put("/!", file(20, "x")), put("/~", file(21, "y"))},
			with(map[string]*item{"/!": ptr(file(20, "x")), "/~": ptr(file(21, "y"))})},
		{"overwrite, same size and mtime", []snapshotter.Change{put("/a/one", file(20, "eno"))},
			with(map[string]*item{"/a/one": ptr(file(20, "eno"))})},
		{"delete file", []snapshotter.Change{remove("/a/one")},
			with(map[string]*item{"/a/one": nil})},
		{"delete tree", []snapshotter.Change{remove("/a")},
			with(map[string]*item{"/a": nil})},
		{"delete what is not there", []snapshotter.Change{remove("/nothing")}, baseTree()},
		{"rename directory", []snapshotter.Change{remove("/a"), from("/a", put("/c", baseTree()["/a"]))},
			moved(baseTree(), "/a", "/c")},
		{"rename directory into another", []snapshotter.Change{remove("/a"), from("/a", put("/b/a", baseTree()["/a"]))},
			moved(baseTree(), "/a", "/b/a")},
		{"rename directory and change inside",
			[]snapshotter.Change{
				remove("/a"),
				from("/a", put("/c", dir(9))),
				put("/c/new", file(20, "new")),
				remove("/c/one"),
				put("/c/sub/deep", file(21, "peed")),
			},
			func() tree {
				m := moved(baseTree(), "/a", "/c")
				m["/c"] = dir(9)
				m["/c/new"] = file(20, "new")
				delete(m, "/c/one")
				m["/c/sub/deep"] = file(21, "peed")
				return m
			}()},
		{"swap directories",
			[]snapshotter.Change{from("/b", put("/a", baseTree()["/b"])), from("/a", put("/b", baseTree()["/a"]))},
			moved(moved(moved(baseTree(), "/a", "/x"), "/b", "/a"), "/x", "/b")},
		{"swap files of one size",
			[]snapshotter.Change{
				from("/b/two", put("/a/one", baseTree()["/b/two"])),
				from("/a/one", put("/b/two", baseTree()["/a/one"])),
			},
			with(map[string]*item{"/a/one": ptr(baseTree()["/b/two"]), "/b/two": ptr(baseTree()["/a/one"])})},
		{"copy of a directory", []snapshotter.Change{from("/a/sub", put("/copy", dir(8)))},
			with(map[string]*item{"/copy": ptr(dir(8)), "/copy/deep": ptr(file(12, "deep")), "/copy/link": ptr(link(13, "../one"))})},
		{"attributes of a file", []snapshotter.Change{from("/a/one", put("/a/one", chmod))},
			with(map[string]*item{"/a/one": &chmod})},
		{"attributes of a directory", []snapshotter.Change{from("/a", put("/a", dir(50)))},
			with(map[string]*item{"/a": ptr(dir(50))})},
		{"attributes of the root", []snapshotter.Change{from("/", put("/", dir(60)))},
			with(map[string]*item{"/": ptr(dir(60))})},
		{"new root hides the base", []snapshotter.Change{put("/", dir(61)), put("/x", file(20, "x"))},
			tree{"/": dir(61), "/x": file(20, "x")}},
		{"symlink", []snapshotter.Change{put("/l", link(20, "a/one"))},
			with(map[string]*item{"/l": ptr(link(20, "a/one"))})},
		{"symlink changes target", []snapshotter.Change{put("/a/sub/link", link(20, "/abs"))},
			with(map[string]*item{"/a/sub/link": ptr(link(20, "/abs"))})},
		{"empty directory", []snapshotter.Change{put("/e", dir(5)), put("/e/e", dir(6))},
			with(map[string]*item{"/e": ptr(dir(5)), "/e/e": ptr(dir(6))})},
		{"new last directory", []snapshotter.Change{put("/z", dir(5)), put("/z/z", dir(6))},
			with(map[string]*item{"/z": ptr(dir(5)), "/z/z": ptr(dir(6))})},
		{"file becomes directory", []snapshotter.Change{put("/a.b", dir(5)), put("/a.b/x", file(20, "x"))},
			with(map[string]*item{"/a.b": ptr(dir(5)), "/a.b/x": ptr(file(20, "x"))})},
		{"directory becomes file", []snapshotter.Change{put("/a", file(20, "x"))},
			func() tree { m := with(map[string]*item{"/a": nil}); m["/a"] = file(20, "x"); return m }()},
		{"setuid, setgid, sticky", []snapshotter.Change{put("/s", setuid)},
			with(map[string]*item{"/s": &setuid})},
		{"name that is not UTF-8", []snapshotter.Change{put(raw, file(20, "raw"))},
			with(map[string]*item{raw: ptr(file(20, "raw"))})},
		{"change below unchanged directories", []snapshotter.Change{put("/a/sub/x", file(20, "x")), put("/a.b", file(21, "y"))},
			with(map[string]*item{"/a/sub/x": ptr(file(20, "x")), "/a.b": ptr(file(21, "y"))})},
	}
	r := newRig(t)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	r.expect(first, baseTree())
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &rig{Snapshotter: r.Snapshotter, t: t, store: r.store, n: r.n}
			id := r.commit(first, tt.changes...)
			r.expect(id, tt.want)
			// Unchanged content keeps its place behind a second generation too.
			r.expect(r.commit(id, put("/zz", file(99, "zz"))), func() tree {
				m := maps.Clone(tt.want)
				m["/zz"] = file(99, "zz")
				return m
			}())
		})
	}
	r.expect(first, baseTree())
}

func TestCommitRefusesNonsense(t *testing.T) {
	r := newRig(t)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	tests := []struct {
		name    string
		changes []snapshotter.Change
	}{
		{"out of order", []snapshotter.Change{put("/b/x", file(20, "")), put("/a/x", file(21, ""))}},
		{"twice", []snapshotter.Change{put("/x", file(20, "")), put("/x", file(21, ""))}},
		{"below a file", []snapshotter.Change{put("/a.b/x", file(20, ""))}},
		{"below nothing", []snapshotter.Change{put("/no/x", file(20, ""))}},
		{"below what is removed", []snapshotter.Change{remove("/a"), put("/a/x", file(20, ""))}},
		{"relative path", []snapshotter.Change{put("x", file(20, ""))}},
		{"path that is not clean", []snapshotter.Change{put("/a/../x", file(20, ""))}},
		{"root removed", []snapshotter.Change{remove("/")}},
		{"file from a directory", []snapshotter.Change{from("/a", put("/x", file(20, "")))}},
		{"directory from a file", []snapshotter.Change{from("/a.b", put("/x", dir(1)))}},
		{"file without content", []snapshotter.Change{from("", put("/x", file(20, "")))}},
		{"symlink to nothing", []snapshotter.Change{put("/x", link(20, ""))}},
		{"unknown kind", []snapshotter.Change{{Path: "/x", Kind: 77}}},
		{"name that kloset would drop", []snapshotter.Change{put("/\xffx", file(20, ""))}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.Commit(t.Context(), first, seq(tt.changes), meta(2))
			if err == nil {
				t.Fatal("commit succeeds")
			}
		})
	}
	list, err := r.Snapshots(t.Context(), "main")
	if err != nil || len(list) != 1 {
		t.Errorf("snapshots: %d, %v; want the first one only", len(list), err)
	}
}

func TestCommitManyEntries(t *testing.T) {
	const n = 10_000
	want := tree{"/": dir(0), "/big": dir(1)}
	for i := range n {
		want[fmt.Sprintf("/big/%05d", i)] = file(uint64(i+1), fmt.Sprint(i%7))
	}
	r := newRig(t, storetest.Plaintext)
	first := r.commit(snapshotter.ID{}, want.all()...)
	change := put("/big/05000", file(n+1, "x"))
	second := r.commit(first, change)
	want["/big/05000"] = file(n+1, "x")

	v, err := r.View(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	count, after := 0, ""
	for {
		page, err := v.ReadDir(t.Context(), "/big", after, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			it := want["/big/"+e.Name]
			if e.Version != it.Version || e.Size != int64(len(it.Data)) {
				t.Fatalf("%s: version %d size %d, want %d and %d", e.Name, e.Version, e.Size, it.Version, len(it.Data))
			}
			after = e.Name
			count++
		}
		if len(page) < 100 {
			break
		}
	}
	if count != n {
		t.Errorf("%d entries, want %d", count, n)
	}
	if err := r.Check(t.Context(), second); err != nil {
		t.Error(err)
	}
}

func TestCommitMeta(t *testing.T) {
	r := newRig(t)
	first := r.commit(snapshotter.ID{}, baseTree().all()...)
	m := meta(2)
	m.Parent, m.Suffix, m.Users, m.Protocols = first, 3, []string{"alice", "bob"}, []string{"sftp"}
	id, err := r.Commit(t.Context(), first, seq([]snapshotter.Change{put("/x", file(20, "12345"))}), m)
	if err != nil {
		t.Fatal(err)
	}
	// What another process reads from the store, not what this one remembers.
	other := newSnapshotter(t, r.store)
	got, err := other.Snapshot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got.Share != "main" || got.ShareID != m.ShareID || got.GatewayID != m.GatewayID || got.Sequence != 2 ||
		got.Parent != first || got.Journal != 20 || got.Suffix != 3 || !got.Time.Equal(m.Time) || got.Foreign() ||
		got.Root != "/" || got.Files != 6 || got.Size != uint64(len("one"+"deep"+"beside a"+"two"+"12345")) {
		t.Errorf("got %+v", got)
	}
	if tags := strings.Join(got.Tags, " "); tags != "user=alice user=bob protocol=sftp reason=close" {
		t.Errorf("tags %q", tags)
	}
	if name := got.ViewName(snapshotter.Lineage{GatewayID: m.GatewayID, ShareID: m.ShareID}); name != "2026-11-21T19-04-31Z-3" {
		t.Errorf("view name %q", name)
	}
	latest, ok, err := other.Latest(t.Context(), m.GatewayID, m.ShareID)
	if err != nil || !ok || latest.ID != id {
		t.Errorf("latest: %v %v %v, want %v", latest.ID, ok, err, id)
	}
	if _, ok, err := other.Latest(t.Context(), m.GatewayID, "another share"); ok || err != nil {
		t.Errorf("latest of another share: %v %v", ok, err)
	}
}

// TestCommitSource: a snapshot tells where its tree was pulled from, whichever way made it, and
// is of its lineage all the same.
func TestCommitSource(t *testing.T) {
	r := newRig(t)
	for name, commit := range map[string]func(*snapshotter.Snapshotter) commitFunc{
		"incremental": func(s *snapshotter.Snapshotter) commitFunc { return s.Commit },
		"Builder":     func(s *snapshotter.Snapshotter) commitFunc { return s.Rebuild },
	} {
		t.Run(name, func(t *testing.T) {
			r.n++
			m := meta(r.n)
			m.ShareID = name
			m.Source = snapshotter.Source{Type: "sftp", Origin: "web1", Location: "sftp://bob@web1:22/srv"}
			m.Tags = []string{"partial=true", "x=y"}
			id, err := commit(r.Snapshotter)(t.Context(), snapshotter.ID{}, seq(baseTree().all()), m)
			if err != nil {
				t.Fatal(err)
			}
			other := newSnapshotter(t, r.store)
			got, ok, err := other.Latest(t.Context(), m.GatewayID, m.ShareID)
			if err != nil || !ok || got.ID != id {
				t.Fatalf("latest: %v %v %v, want %v", got.ID, ok, err, id)
			}
			if got.Foreign() || got.Share != "main" || got.Root != "/" || got.Source != "sftp://web1/" {
				t.Errorf("got %+v", got)
			}
			want := "reason=close location=sftp://bob@web1:22/srv partial=true x=y"
			if tags := strings.Join(got.Tags, " "); tags != want {
				t.Errorf("tags %q, want %q", tags, want)
			}
			r.expect(id, baseTree())
		})
	}
}
