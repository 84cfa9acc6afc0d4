package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

func (r *rig) view(id snapshotter.ID) *snapshotter.View {
	r.t.Helper()
	v, err := r.View(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

// under reports whether a path is below a directory, or is it.
func under(p, dir string) bool { return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/") }

// search lists the paths that a search finds, in byte order.
func (r *rig) search(id snapshotter.ID, q snapshotter.Query) []string {
	r.t.Helper()
	v := r.view(id)
	var got []string
	for f, err := range v.Search(r.t.Context(), q) {
		if err != nil {
			r.t.Fatal(err)
		}
		got = append(got, f.Path)
		if f.Entry.Name != path.Base(f.Path) {
			r.t.Errorf("%s is called %q", f.Path, f.Entry.Name)
		}
		if !q.Entries {
			continue
		}
		e, err := v.Lstat(r.t.Context(), f.Path)
		if err != nil {
			r.t.Fatal(err)
		}
		if d := cmp.Diff(e, f.Entry); d != "" {
			r.t.Errorf("%s: by name and found differ: %s", f.Path, d)
		}
	}
	slices.Sort(got)
	return got
}

// wanted lists the paths of a model that a query means.
func (t tree) wanted(q snapshotter.Query, types map[string]string) []string {
	var want []string
	for p, it := range t {
		if p == "/" || !under(p, q.Path) || p == q.Path {
			continue
		}
		e := snapshotter.Entry{Kind: it.Kind, Attr: it.Attr, Size: int64(len(it.Data)), ContentType: types[p]}
		if q.Matches(p, e) {
			want = append(want, p)
		}
	}
	slices.Sort(want)
	return want
}

// TestSearchAndDiffRandom compares searches, differences and histories of random trees with what
// a model says.
func TestSearchAndDiffRandom(t *testing.T) {
	seeds := 6
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			st := storetest.New(t)
			r := &rig{t: t, store: st, Snapshotter: newSnapshotter(t, st)}
			snapshotter.SetLeafSize(r.Snapshotter, 4+seed%3*20)
			h := newHistory(uint64(900 + seed))
			var trees []tree
			var ids []snapshotter.ID
			var id snapshotter.ID
			for n := range 12 {
				changes := h.next()
				if n == 0 {
					changes = h.now.all()
				}
				r.n++
				m := meta(r.n)
				m.Parent = id
				var err error
				commit := r.Commit
				if n%5 == 4 { // with the indexes that kloset's Builder writes
					commit = r.Rebuild
				}
				if id, err = commit(t.Context(), id, seq(changes), m); err != nil {
					t.Fatal(err)
				}
				trees, ids = append(trees, maps.Clone(h.now)), append(ids, id)
				r.searches(id, h.now)
			}
			for i := range trees {
				for _, k := range []int{0, max(i-1, 0), len(trees) - 1} {
					for _, p := range append(h.dirs()[:min(3, len(h.dirs()))], "/a", "/x") {
						r.differs(ids[i], ids[k], trees[i], trees[k], p)
					}
				}
			}
			r.histories(ids, trees)
		})
	}
}

// searches compares searches of a snapshot with its tree.
func (r *rig) searches(id snapshotter.ID, now tree) {
	r.t.Helper()
	types := map[string]string{}
	v := r.view(id)
	for p, it := range now {
		if it.Kind == snapshotter.File {
			e, err := v.Lstat(r.t.Context(), p)
			if err != nil {
				r.t.Fatal(err)
			}
			types[p] = e.ContentType
		}
	}
	dirs := []string{"/"}
	for p, it := range now {
		if it.Kind == snapshotter.Dir && len(dirs) < 4 {
			dirs = append(dirs, p)
		}
	}
	for _, dir := range dirs {
		for name, q := range map[string]snapshotter.Query{
			"all":           {},
			"all described": {Entries: true},
			"by name":       {Name: func(p string) bool { return strings.HasPrefix(path.Base(p), "x") }, Entries: true},
			"by type":       {ContentType: "image/png"},
			"by kind":       {ContentType: "text/*", Entries: true},
			"no type":       {ContentType: "video/*"},
			"large":         {MinSize: 200},
			"small":         {MaxSize: 100, Entries: true},
			"empty":         {MaxSize: -1},
			"new":           {After: t0.Add(20 * time.Second)},
			"old and named": {Before: t0.Add(10 * time.Second), Name: func(p string) bool { return strings.Contains(p, "n") }},
			"large text":    {MinSize: 50, ContentType: "text/plain"},
		} {
			q.Path = dir
			if d := cmp.Diff(now.wanted(q, types), r.search(id, q), cmpopts.EquateEmpty()); d != "" {
				r.t.Errorf("%s in %s (-want +got):\n%s", name, dir, d)
			}
		}
	}
}

// differs compares the differences of two snapshots with those of their trees.
func (r *rig) differs(a, b snapshotter.ID, was, now tree, top string) {
	r.t.Helper()
	want := map[string]string{}
	for _, p := range slices.Concat(was.paths(), now.paths()) {
		if !under(p, top) {
			continue
		}
		x, before := was[p]
		y, after := now[p]
		x.Version = y.Version
		switch {
		case !before:
			want[p] = "+"
		case !after:
			want[p] = "-"
		case x != y:
			want[p] = "M"
		}
	}
	_, before := was[top]
	_, after := now[top]
	got, last := map[string]string{}, ""
	for d, err := range snapshotter.Diff(r.t.Context(), r.view(a), r.view(b), top) {
		if !before && !after && errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if _, twice := got[d.Path]; twice {
			r.t.Errorf("%s twice, the second time after %s", d.Path, last)
		}
		last = d.Path
		switch {
		case d.Was == nil:
			got[d.Path] = "+"
		case d.Now == nil:
			got[d.Path] = "-"
		default:
			got[d.Path] = "M"
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		r.t.Errorf("differences at %s (-want +got):\n%s", top, d)
	}
}

// histories compares the histories of all paths with what trees say.
func (r *rig) histories(ids []snapshotter.ID, trees []tree) {
	r.t.Helper()
	line := make([]snapshotter.Snapshot, len(ids))
	paths := map[string]bool{"/nowhere": true}
	for i, id := range ids {
		line[i] = r.view(id).Snapshot()
		for p := range trees[i] {
			paths[p] = true
		}
	}
	type version struct {
		First, Last, Gone snapshotter.ID
		Snapshots         int
		Data, Target      string
		Kind              snapshotter.ChangeKind
	}
	for p := range paths {
		var want []version
		there := false
		for i, now := range trees {
			it, ok := now[p]
			last := len(want) - 1
			switch {
			case !ok && there:
				want[last].Gone = ids[i]
			case !ok:
			case there && want[last].Kind == it.Kind && want[last].Data == it.Data && want[last].Target == it.Target:
				want[last].Last = ids[i]
				want[last].Snapshots++
			default:
				want = append(want, version{First: ids[i], Last: ids[i], Snapshots: 1, Data: it.Data, Target: it.Target, Kind: it.Kind})
			}
			there = ok
		}
		versions, unread, err := r.History(r.t.Context(), line, p)
		if err != nil || len(unread) > 0 {
			r.t.Fatalf("%s: %v, %v", p, err, unread)
		}
		var got []version
		for _, v := range versions {
			x := version{First: v.First.ID, Last: v.Last.ID, Gone: v.Gone.ID, Snapshots: v.Snapshots, Target: v.Entry.Target, Kind: v.Entry.Kind}
			if v.Entry.Kind == snapshotter.File {
				x.Data = r.read(v.First.ID)[p].Data
			}
			got = append(got, x)
		}
		if d := cmp.Diff(want, got); d != "" {
			r.t.Errorf("history of %s (-want +got):\n%s", p, d)
		}
	}
}

// TestSearchForeign searches and compares snapshots of plakar, which are shown from the directory
// that they were made of.
func TestSearchForeign(t *testing.T) {
	base := t.TempDir()
	write := func(name, data string) {
		t.Helper()
		p := filepath.Join(base, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t)
	write("docs/a.txt", "one")
	write("docs/sub/b.txt", "two")
	write("c.png", "\x89PNG\r\n\x1a\n")
	first := backup(t, r.store, base, "main")
	write("docs/a.txt", "one more")
	write("docs/sub/new.txt", "three")
	if err := os.Remove(filepath.Join(base, "c.png")); err != nil {
		t.Fatal(err)
	}
	second := backup(t, r.store, base, "main")
	for name, tt := range map[string]struct {
		q    snapshotter.Query
		want []string
	}{
		"all":    {snapshotter.Query{}, []string{"/c.png", "/docs", "/docs/a.txt", "/docs/sub", "/docs/sub/b.txt"}},
		"name":   {snapshotter.Query{Name: func(p string) bool { return path.Ext(p) == ".txt" }, Entries: true}, []string{"/docs/a.txt", "/docs/sub/b.txt"}},
		"below":  {snapshotter.Query{Path: "/docs/sub"}, []string{"/docs/sub/b.txt"}},
		"type":   {snapshotter.Query{ContentType: "image/*"}, []string{"/c.png"}},
		"size":   {snapshotter.Query{MinSize: 4}, []string{"/c.png"}},
		"a type": {snapshotter.Query{Path: "/docs", ContentType: "text/plain", Entries: true}, []string{"/docs/a.txt", "/docs/sub/b.txt"}},
	} {
		if d := cmp.Diff(tt.want, r.search(first, tt.q)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	var got []string
	for d, err := range snapshotter.Diff(t.Context(), r.view(first), r.view(second), "/") {
		if err != nil {
			t.Fatal(err)
		}
		if d.Now == nil || d.Now.Kind != snapshotter.Dir {
			got = append(got, d.Path)
		}
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{"/c.png", "/docs/a.txt", "/docs/sub/new.txt"}, got); d != "" {
		t.Errorf("differences (-want +got):\n%s", d)
	}
	// With one of ours, whose root is another one.
	id := r.commit(snapshotter.ID{}, tree{"/": dir(0), "/docs": dir(1), "/docs/a.txt": file(1, "one more")}.all()...)
	got = nil
	for d, err := range snapshotter.Diff(t.Context(), r.view(second), r.view(id), "/docs") {
		if err != nil {
			t.Fatal(err)
		}
		if d.Was == nil || d.Now == nil {
			got = append(got, d.Path)
		}
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{"/docs/sub", "/docs/sub/b.txt", "/docs/sub/new.txt"}, got); d != "" {
		t.Errorf("with ours (-want +got):\n%s", d)
	}
}

func TestSearchErrors(t *testing.T) {
	r := newRig(t)
	id := r.commit(snapshotter.ID{}, baseTree().all()...)
	v := r.view(id)
	search := func(ctx context.Context, q snapshotter.Query) error {
		for _, err := range v.Search(ctx, q) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := search(t.Context(), snapshotter.Query{Path: "/nope"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below nothing: %v", err)
	}
	if err := search(t.Context(), snapshotter.Query{Path: "/a.b"}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("below a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, q := range []snapshotter.Query{{}, {MinSize: 1}, {ContentType: "text/*"}} {
		if err := search(ctx, q); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v after the end: %v", q, err)
		}
	}
	// A loop that is left early.
	n := 0
	for range v.Search(t.Context(), snapshotter.Query{}) {
		n++
		break
	}
	for range snapshotter.Diff(t.Context(), v, v, "/") {
		n++
	}
	if n != 1 {
		t.Errorf("%d found", n)
	}
}
