package memstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
)

type text string

func (s text) Size() int64 { return int64(len(s)) }
func (s text) Open(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader([]byte(s))), nil
}

type short struct{ text }

func (s short) Size() int64 { return int64(len(s.text)) + 1 }

func seq(changes []snapshotter.Change) iter.Seq2[snapshotter.Change, error] {
	return func(yield func(snapshotter.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func file(path, content string, version uint64) snapshotter.Change {
	return snapshotter.Change{Path: path, Kind: snapshotter.File, Content: text(content), Version: version}
}

func dir(path, from string) snapshotter.Change {
	return snapshotter.Change{Path: path, Kind: snapshotter.Dir, From: from}
}

// meta is a valid Meta for the n-th commit of a share.
func meta(n uint64, parent snapshotter.ID) snapshotter.Meta {
	return snapshotter.Meta{
		Share: "main", GatewayID: "g", Sequence: n, Parent: parent, Journal: n * 10,
		Time: time.Date(2026, 11, 22, 8, 0, int(n), 0, time.UTC), Reason: "close",
	}
}

// start returns a repository with one snapshot.
func start(t *testing.T) (*Repository, snapshotter.ID) {
	t.Helper()
	r := New()
	id, err := r.Commit(t.Context(), snapshotter.ID{}, seq([]snapshotter.Change{
		dir("/a", ""), file("/a/f", "one", 1), dir("/a/sub", ""), file("/a/sub/g", "two", 2),
		{Path: "/l", Kind: snapshotter.Symlink, Target: "a/f", Version: 3},
	}), meta(1, snapshotter.ID{}))
	if err != nil {
		t.Fatal(err)
	}
	return r, id
}

func TestCommitAppliesNetChanges(t *testing.T) {
	removed := func(p string) snapshotter.Change { return snapshotter.Change{Path: p, Kind: snapshotter.Removed} }
	for _, tt := range []struct {
		name    string
		changes []snapshotter.Change
		want    map[string]string
	}{
		{"nothing", nil, map[string]string{"/": "", "/a/": "", "/a/f": "one", "/a/sub/": "", "/a/sub/g": "two", "/l": "-> a/f"}},
		{"a renamed directory with a change below",
			[]snapshotter.Change{removed("/a"), dir("/b", "/a"), removed("/b/f"), file("/b/sub/h", "new", 9)},
			map[string]string{"/": "", "/b/": "", "/b/sub/": "", "/b/sub/g": "two", "/b/sub/h": "new", "/l": "-> a/f"}},
		{"a directory replaced by a new one",
			[]snapshotter.Change{dir("/a", "")},
			map[string]string{"/": "", "/a/": "", "/l": "-> a/f"}},
		{"two names swapped",
			[]snapshotter.Change{
				{Path: "/a/f", Kind: snapshotter.File, From: "/a/sub/g", Version: 9},
				{Path: "/a/sub/g", Kind: snapshotter.File, From: "/a/f", Version: 10},
			},
			map[string]string{"/": "", "/a/": "", "/a/f": "two", "/a/sub/": "", "/a/sub/g": "one", "/l": "-> a/f"}},
		{"depth first order with a dot",
			[]snapshotter.Change{file("/a/f", "x", 9), file("/a.b", "y", 10), removed("/l")},
			map[string]string{"/": "", "/a/": "", "/a/f": "x", "/a.b": "y", "/a/sub/": "", "/a/sub/g": "two"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, base := start(t)
			before := r.Tree(base)
			id, err := r.Commit(t.Context(), base, seq(tt.changes), meta(2, base))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, r.Tree(id)); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, r.Tree(base)); diff != "" {
				t.Errorf("the base changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCommitRefuses(t *testing.T) {
	removed := func(p string) snapshotter.Change { return snapshotter.Change{Path: p, Kind: snapshotter.Removed} }
	for _, tt := range []struct {
		name    string
		changes []snapshotter.Change
		want    string
	}{
		{"siblings out of order", []snapshotter.Change{file("/c", "", 8), file("/b", "", 9)}, "out of order"},
		{"bytewise but not depth-first order", []snapshotter.Change{file("/a.b", "", 8), file("/a/x", "", 9)}, "out of order"},
		{"a path twice", []snapshotter.Change{file("/c", "", 8), file("/c", "", 9)}, "out of order"},
		{"missing parent", []snapshotter.Change{file("/no/x", "", 8)}, "is missing"},
		{"removed parent", []snapshotter.Change{removed("/a"), file("/a/x", "", 8)}, "is missing"},
		{"file as parent", []snapshotter.Change{file("/a/f/x", "", 8)}, "not a directory"},
		{"removal of nothing", []snapshotter.Change{removed("/no")}, "not there"},
		{"removal of the root", []snapshotter.Change{removed("/")}, "root"},
		{"from is missing", []snapshotter.Change{dir("/b", "/no")}, "not in the base"},
		{"from is in the new tree only", []snapshotter.Change{dir("/b", ""), dir("/c", "/b")}, "not in the base"},
		{"from is a file", []snapshotter.Change{dir("/b", "/a/f")}, "another kind"},
		{"neither content nor from", []snapshotter.Change{{Path: "/c", Kind: snapshotter.File, Version: 8}}, "neither"},
		{"no version", []snapshotter.Change{file("/c", "x", 0)}, "version"},
		{"a version used again", []snapshotter.Change{file("/a/f", "ONE", 1)}, "had another content"},
		{"a version used twice", []snapshotter.Change{file("/c", "x", 8), file("/d", "y", 8)}, "had another content"},
		{"unclean path", []snapshotter.Change{file("/a/../c", "x", 8)}, "canonical"},
		{"type bits", []snapshotter.Change{{Path: "/d", Kind: snapshotter.Dir, Attr: snapshotter.Attr{Mode: fs.ModeDir}}}, "type bits"},
		{"short content", []snapshotter.Change{{Path: "/c", Kind: snapshotter.File, Content: short{"x"}, Version: 8}}, "its size says"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, base := start(t)
			_, err := r.Commit(t.Context(), base, seq(tt.changes), meta(2, base))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if got := r.Counts(); got.Commits != 1 || got.Failed != 1 {
				t.Errorf("counts %+v", got)
			}
		})
	}
}

func TestCommitChecksMeta(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*snapshotter.Meta)
	}{
		{"sequence", func(m *snapshotter.Meta) { m.Sequence = 1 }},
		{"parent", func(m *snapshotter.Meta) { m.Parent = snapshotter.ID{} }},
		{"journal", func(m *snapshotter.Meta) { m.Journal = 9 }},
		{"view name", func(m *snapshotter.Meta) { m.Time = m.Time.Add(-time.Second) }},
		{"share", func(m *snapshotter.Meta) { m.Share = "" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, base := start(t)
			m := meta(2, base)
			tt.change(&m)
			if _, err := r.Commit(t.Context(), base, seq(nil), m); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestFaults(t *testing.T) {
	r, base := start(t)
	boom := errors.New("boom")
	r.FailCommits(boom)
	if _, err := r.Commit(t.Context(), base, seq(nil), meta(2, base)); !errors.Is(err, boom) {
		t.Errorf("commit: %v", err)
	}
	r.FailCommits(nil)
	r.FailAfterCommit(boom)
	if _, err := r.Commit(t.Context(), base, seq(nil), meta(2, base)); !errors.Is(err, boom) {
		t.Errorf("commit: %v", err)
	}
	if list, _ := r.Snapshots(t.Context(), "main"); len(list) != 2 || list[0].Sequence != 2 || list[1].ID != base {
		t.Errorf("snapshots %+v", list)
	}
	v, err := r.View(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.Open(t.Context(), "/a/f")
	if err != nil {
		t.Fatal(err)
	}
	r.FailReads(boom)
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, boom) {
		t.Errorf("read: %v", err)
	}
	if _, err := v.Lstat(t.Context(), "/a/f"); err != nil {
		t.Errorf("lstat while reads fail: %v", err)
	}
	r.FailReads(nil)
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil || string(got) != "one" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := errors.Join(f.Close(), v.Close()); err != nil {
		t.Error(err)
	}
	if c := r.Counts(); c.OpenReaders != 0 || c.OpenViews != 0 || c.Reads == 0 {
		t.Errorf("counts %+v", c)
	}
}

func TestBlockHoldsOneCommit(t *testing.T) {
	r, base := start(t)
	gate := r.Block()
	done := make(chan error)
	go func() {
		_, err := r.Commit(context.WithoutCancel(t.Context()), base, seq(nil), meta(2, base))
		done <- err
	}()
	<-gate.Entered()
	if list, _ := r.Snapshots(t.Context(), "main"); len(list) != 1 {
		t.Errorf("%d snapshots while the commit waits", len(list))
	}
	if _, err := r.Commit(t.Context(), base, seq(nil), meta(2, base)); err == nil {
		t.Error("a second commit at the same time was accepted")
	}
	gate.Release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestForeignSnapshotAndView(t *testing.T) {
	r, base := start(t)
	when := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	id, err := r.Add("main", "/srv", when, fstest.MapFS{
		"srv/a": {Data: []byte("x"), Mode: 0o640}, "srv/b/c": {Data: []byte("y")}, "srv/l": {Data: []byte("a"), Mode: fs.ModeSymlink | 0o777},
	})
	if err != nil {
		t.Fatal(err)
	}
	list, _ := r.Snapshots(t.Context(), "main")
	if len(list) != 2 || list[0].ID != id || !list[0].Foreign() || list[1].ID != base {
		t.Errorf("snapshots %+v", list)
	}
	v, err := r.View(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for after := ""; ; {
		page, err := v.ReadDir(t.Context(), "/srv", after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			names, after = append(names, e.Name), e.Name
		}
		if len(page) < 2 {
			break
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "l"}, names); diff != "" {
		t.Error(diff)
	}
	if _, err := v.Lstat(t.Context(), "/srv/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lstat of nothing: %v", err)
	}
	r.Remove(id)
	if _, err := r.View(t.Context(), id); !errors.Is(err, snapshotter.ErrNoSnapshot) {
		t.Errorf("view of a removed snapshot: %v", err)
	}
}
