package snapshotter_test

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"
	"github.com/PlakarKorp/kloset/snapshot"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store/storetest"
)

// commitFailed commits changes with what could not be captured.
func (r *rig) commitFailed(base snapshotter.ID, changes []snapshotter.Change, list ...snapshotter.Failure) snapshotter.ID {
	r.t.Helper()
	r.n++
	m := meta(r.n)
	m.Parent, m.Errors = base, failed(list...)
	id, err := r.Commit(r.t.Context(), base, seq(changes), m)
	if err != nil {
		r.t.Fatalf("commit: %v", err)
	}
	return id
}

// TestErrorsAreReplaced: each snapshot has the errors it was given, and no others; one without
// any has none. Another process reads the same.
func TestErrorsAreReplaced(t *testing.T) {
	r := newRig(t)
	id := r.commitFailed(snapshotter.ID{}, baseTree().all(),
		snapshotter.Failure{Path: "/a/sub/deep", Text: "permission denied"}, snapshotter.Failure{Path: "/b/\xff\xfe", Text: "gone"})
	want := map[string]string{"/a/sub/deep": "permission denied", "/b/\xff\xfe": "gone"}
	if d := cmp.Diff(want, r.failures(id)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	r.expect(id, baseTree())
	id = r.commitFailed(id, nil, snapshotter.Failure{Path: "/a/one", Text: "gone"})
	other := &rig{t: t, store: r.store, Snapshotter: newSnapshotter(t, storetest.Open(t, otherConfig(r.store)))}
	if d := cmp.Diff(map[string]string{"/a/one": "gone"}, other.failures(id)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	id = r.commit(id, put("/b/new", file(20, "new")))
	if got := r.failures(id); len(got) > 0 {
		t.Errorf("an upload has errors: %v", got)
	}
	if counts, err := r.ErrorCounts(t.Context(), id); err != nil || len(counts) > 0 {
		t.Errorf("directories with errors: %v, %v", counts, err)
	}
	r.expect(id, with(map[string]*item{"/b/new": ptr(file(20, "new"))}))
}

// inSummaries are the numbers that the summaries of directories have when kloset's Builder makes
// them: of paths in and below each directory, whose own directory is there.
func inSummaries(tr tree, list map[string]string) map[string]uint64 {
	want := map[string]uint64{}
	for p := range list {
		dir := path.Dir(p)
		if p == "/" || tr[dir].Kind != snapshotter.Dir {
			continue
		}
		for ; ; dir = path.Dir(dir) {
			want[dir]++
			if dir == "/" {
				break
			}
		}
	}
	return want
}

// TestErrorsInSummaries: directories are counted anew where the errors differ, whether or not
// anything else changes there, and nothing else is written for it.
func TestErrorsInSummaries(t *testing.T) {
	r := newRig(t)
	tr := tree{"/": dir(0)}
	for _, d := range []string{"/a", "/a/b", "/a/b/c", "/a.b", "/a/b!", "/d"} {
		tr[d] = dir(1)
		for i := range 40 {
			tr[fmt.Sprintf("%s/f%02d", d, i)] = file(uint64(len(tr)+100), "x")
		}
	}
	id := r.commit(snapshotter.ID{}, tr.all()...)
	plain, err := r.Contents(id)
	if err != nil {
		t.Fatal(err)
	}
	for i, list := range []map[string]string{
		{"/a/b/c/f00": "x", "/a/b/c/none": "x", "/a.b/f01": "x"},
		{"/a/b/c/f00": "y", "/a/b/c/none": "y", "/a.b/f01": "y"}, // the numbers are the same
		{"/a/b!/f00": "x", "/a/b/c/none": "x", "/": "x", "/a": "x"},
		{"/nowhere/x": "x", "/a/f01/x": "x", "/d/f01": "x"},
		{},
	} {
		var failures []snapshotter.Failure
		for p, text := range list {
			failures = append(failures, snapshotter.Failure{Path: p, Text: text})
		}
		before := total(packSizes(t, r.store))
		if i%2 == 0 {
			r.ForgetHeads()
		}
		id = r.commitFailed(id, nil, failures...)
		if n := total(packSizes(t, r.store)) - before; n > 32<<10 {
			t.Errorf("case %d: the store grew by %d bytes", i, n)
		}
		counts, err := r.ErrorCounts(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(inSummaries(tr, list), counts, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("case %d, errors of directories (-want +got):\n%s", i, d)
		}
		if d := cmp.Diff(list, r.failures(id), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("case %d (-want +got):\n%s", i, d)
		}
		got, err := r.Contents(id)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(plain, got, cmpopts.IgnoreMapEntries(func(k, _ string) bool {
			return strings.HasPrefix(k, "summary ") || k == "errors"
		})); d != "" {
			t.Errorf("case %d: something else has changed:\n%s", i, d)
		}
		if len(list) == 0 && !cmp.Equal(plain, got) {
			t.Errorf("case %d: not what it was:\n%s", i, cmp.Diff(plain, got))
		}
		if err := r.Check(t.Context(), id); err != nil {
			t.Errorf("case %d: %v", i, err)
		}
	}
}

// hostile are failures that no honest caller has, and what is kept of them.
var hostile = []struct {
	failure snapshotter.Failure
	want    snapshotter.Failure
}{
	{snapshotter.Failure{Path: "", Text: "x"}, snapshotter.Failure{Path: "/", Text: `"": x`}},
	{snapshotter.Failure{Path: "/a/../b", Text: "x"}, snapshotter.Failure{Path: "/a", Text: `"/a/../b": x`}},
	{snapshotter.Failure{Path: "relative", Text: "x"}, snapshotter.Failure{Path: "/", Text: `"relative": x`}},
	{snapshotter.Failure{Path: "/b//c", Text: "x"}, snapshotter.Failure{Path: "/b", Text: `"/b//c": x`}},
	{snapshotter.Failure{Path: "/c/d/", Text: "x"}, snapshotter.Failure{Path: "/c/d", Text: `"/c/d/": x`}},
	{snapshotter.Failure{Path: "/d/e\x00f", Text: "x"}, snapshotter.Failure{Path: "/d", Text: `"/d/e\x00f": x`}},
	{snapshotter.Failure{Path: "/e", Text: "one\ntwo\r\x1b[2J\u202e\xff"}, snapshotter.Failure{Path: "/e", Text: "one two \uFFFD[2J\uFFFD\uFFFD"}},
	{snapshotter.Failure{Path: "/\xffroot", Text: "kloset cannot keep this name"}, snapshotter.Failure{Path: "/\xffroot", Text: "kloset cannot keep this name"}},
	{snapshotter.Failure{Path: "/f", Text: strings.Repeat("ü", 1<<19)}, snapshotter.Failure{Path: "/f", Text: strings.Repeat("ü", 510) + "…"}},
	{snapshotter.Failure{Path: "/g", Text: strings.Repeat("\xff", 1<<20)}, snapshotter.Failure{Path: "/g", Text: strings.Repeat("\uFFFD", 340) + "…"}},
	{snapshotter.Failure{Path: "/h", Text: ""}, snapshotter.Failure{Path: "/h", Text: ""}},
}

// TestErrorsOfHostileServers: paths that no entry could have and texts that would do harm to a
// terminal, or are endless, become what a list can show, in both ways to commit.
func TestErrorsOfHostileServers(t *testing.T) {
	r := newRig(t)
	for name, commit := range map[string]commitFunc{"incremental": r.Commit, "Builder": r.Rebuild} {
		t.Run(name, func(t *testing.T) {
			for _, tt := range hostile {
				r.n++
				m := meta(r.n)
				m.Errors = failed(tt.failure)
				id, err := commit(t.Context(), snapshotter.ID{}, seq(baseTree().all()), m)
				if err != nil {
					t.Errorf("%.40q: %v", tt.failure, err)
					continue
				}
				if d := cmp.Diff(map[string]string{tt.want.Path: tt.want.Text}, r.failures(id)); d != "" {
					t.Errorf("%.40q (-want +got):\n%s", tt.failure, d)
				}
			}
			var all []snapshotter.Failure
			for range 3 {
				for _, tt := range hostile {
					all = append(all, tt.failure)
				}
			}
			r.n++
			m := meta(r.n)
			m.Errors = failed(all...)
			id, err := commit(t.Context(), snapshotter.ID{}, seq(baseTree().all()), m)
			if err != nil {
				t.Fatal(err)
			}
			for p, text := range r.failures(id) {
				if len(text) > 1<<10 || !utf8.ValidString(text) {
					t.Errorf("%q: %q", p, text)
				}
			}
			r.expect(id, baseTree())
		})
	}
}

// manyErrors yields n failures in /a, with paths of at least so many bytes.
func manyErrors(n, bytes int) func() iter.Seq[snapshotter.Failure] {
	return func() iter.Seq[snapshotter.Failure] {
		return func(yield func(snapshotter.Failure) bool) {
			for i := range n {
				if !yield(snapshotter.Failure{Path: fmt.Sprintf("/a/%0*d", bytes, i), Text: "x"}) {
					return
				}
			}
		}
	}
}

// TestErrorsAreBounded: so many errors are listed, and so many bytes of them, whatever comes.
func TestErrorsAreBounded(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		n, bytes, listed int
	}{
		{100_005, 1, 100_000},
		{70, 1_000_000, 67}, // of 64 MiB
	} {
		list, total := snapshotter.ListFailures(r.Snapshotter, manyErrors(tt.n, tt.bytes))
		want := snapshotter.Failure{Path: "/", Text: fmt.Sprint(tt.n-tt.listed, " failures are not listed")}
		if len(list) != tt.listed+1 || list[0] != want || total != uint64(tt.n) {
			t.Errorf("of %d errors %d are listed and %d counted, the first is %+v; want %d and %+v", tt.n, len(list), total, list[0], tt.listed+1, want)
		}
	}
}

// TestErrorsWithoutEnd: what is too much to list is counted.
func TestErrorsWithoutEnd(t *testing.T) {
	r := newRig(t)
	const limit, n = 2000, 2000 + 5
	snapshotter.SetFailuresMax(r.Snapshotter, limit)
	m := meta(1)
	m.Errors = manyErrors(n, 1)
	id, err := r.Commit(t.Context(), snapshotter.ID{}, seq(baseTree().all()), m)
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Snapshot().Errors; got != n {
		t.Errorf("%d errors counted, want %d", got, n)
	}
	listed, first := 0, snapshotter.Failure{}
	for f, err := range v.Errors(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if listed == 0 {
			first = f
		}
		listed++
	}
	if want := (snapshotter.Failure{Path: "/", Text: "5 failures are not listed"}); listed != n-4 || first != want {
		t.Errorf("%d errors listed, %+v first", listed, first)
	}
	if err := r.Check(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// TestErrorsAreSynchronised: kloset copies a snapshot with errors to another store, where it
// compares the numbers of its own summaries with ours.
func TestErrorsAreSynchronised(t *testing.T) {
	r := newRig(t)
	id := r.commitFailed(snapshotter.ID{}, baseTree().all(),
		snapshotter.Failure{Path: "/", Text: "cut off"}, snapshotter.Failure{Path: "/a/one", Text: "gone"},
		snapshotter.Failure{Path: "/a/none", Text: "denied"}, snapshotter.Failure{Path: "/nowhere/x", Text: "x"},
		snapshotter.Failure{Path: "/a/sub", Text: "denied"}, snapshotter.Failure{Path: "/b/\xff", Text: "x"})
	want := r.failures(id)

	dst := &rig{t: t, store: storetest.New(t)}
	repo := dst.store.Repository()
	b, err := snapshot.Create(repo, repository.DefaultType, "", objects.MAC(id), &snapshot.BuilderOptions{Name: "default", NoCheckpoint: true})
	if err != nil {
		t.Fatal(err)
	}
	src, err := snapshot.Load(r.store.Repository(), objects.MAC(id))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := errors.Join(src.Synchronize(b), b.Close()); err != nil {
		t.Fatal(err)
	}
	dst.Snapshotter = newSnapshotter(t, dst.store)
	if d := cmp.Diff(want, dst.failures(id)); d != "" {
		t.Errorf("-source +copy:\n%s", d)
	}
	dst.expect(id, baseTree())
}

// TestErrorsOfForeignSnapshots: what plakar could not read is shown by the paths of the view.
func TestErrorsOfForeignSnapshots(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := backup(t, r.store, dir, "main", filepath.Join(dir, "sub/secret"), filepath.Join(dir, "there"))
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for f, err := range v.Errors(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, f.Path+": "+f.Text)
	}
	if d := cmp.Diff([]string{"/sub/secret: permission denied", "/there: permission denied"}, got); d != "" || v.Snapshot().Errors != 1 {
		// kloset counts only what lacks in a directory that is there.
		t.Errorf("%d errors (-want +got):\n%s", v.Snapshot().Errors, d)
	}
}
