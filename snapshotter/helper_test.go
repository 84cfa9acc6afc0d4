package snapshotter_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

var t0 = time.Date(2026, 11, 21, 19, 4, 29, 0, time.UTC)

// bytesContent is a Content in memory.
type bytesContent []byte

func (b bytesContent) Size() int64 { return int64(len(b)) }

func (b bytesContent) Open(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b)), nil
}

// item is what a tree has at a path.
type item struct {
	Kind    snapshotter.ChangeKind
	Attr    snapshotter.Attr
	Version uint64
	Data    string
	Target  string
}

// tree is a model of a snapshot's tree: paths to items, "/" among them.
type tree map[string]item

func attr(mode fs.FileMode, sec int) snapshotter.Attr {
	return snapshotter.Attr{Mode: mode, ModTime: t0.Add(time.Duration(sec) * time.Second), UID: 1000, GID: 100}
}

func dir(sec int) item {
	return item{Kind: snapshotter.Dir, Attr: attr(0o755, sec), Version: uint64(1000 + sec)}
}

func file(version uint64, data string) item {
	return item{Kind: snapshotter.File, Attr: attr(0o644, 0), Version: version, Data: data}
}

func link(version uint64, target string) item {
	return item{Kind: snapshotter.Symlink, Attr: attr(0o777, 0), Version: version, Target: target}
}

// put is the change that makes a new item.
func put(p string, it item) snapshotter.Change {
	c := snapshotter.Change{Path: p, Kind: it.Kind, Attr: it.Attr, Version: it.Version, Target: it.Target}
	if it.Kind == snapshotter.File {
		c.Content = bytesContent(it.Data)
	}
	return c
}

func remove(p string) snapshotter.Change {
	return snapshotter.Change{Path: p, Kind: snapshotter.Removed}
}

// from makes c continue a base path.
func from(base string, c snapshotter.Change) snapshotter.Change {
	c.From = base
	c.Content = nil
	return c
}

// all returns the changes that make a whole tree.
func (t tree) all() []snapshotter.Change {
	var changes []snapshotter.Change
	for _, p := range t.paths() {
		changes = append(changes, put(p, t[p]))
	}
	return changes
}

// paths returns the paths in the order of changes.
func (t tree) paths() []string {
	return slices.SortedFunc(maps.Keys(t), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
}

func seq(changes []snapshotter.Change) iter.Seq2[snapshotter.Change, error] {
	return func(yield func(snapshotter.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// commitFunc is a way to commit.
type commitFunc func(context.Context, snapshotter.ID, iter.Seq2[snapshotter.Change, error], snapshotter.Meta) (snapshotter.ID, error)

func meta(n uint64) snapshotter.Meta {
	return snapshotter.Meta{
		Share: "main", ShareID: "share-1", GatewayID: "gateway-1", Sequence: n, Journal: 10 * n,
		Time: t0.Add(time.Duration(n) * time.Second), Reason: "close",
	}
}

func newSnapshotter(tb testing.TB, s *store.Store, options ...func(*snapshotter.Config)) *snapshotter.Snapshotter {
	tb.Helper()
	cfg := snapshotter.Config{Store: s}
	for _, option := range options {
		option(&cfg)
	}
	snap, err := snapshotter.New(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("new snapshotter: %v", err)
	}
	tb.Cleanup(func() {
		if err := snap.Close(); err != nil {
			tb.Errorf("close snapshotter: %v", err)
		}
	})
	return snap
}

// rig is a snapshotter with a store of its own.
type rig struct {
	*snapshotter.Snapshotter
	t     testing.TB
	store *store.Store
	n     uint64
}

func newRig(tb testing.TB, options ...func(*store.Config)) *rig {
	tb.Helper()
	s := storetest.New(tb, options...)
	return &rig{Snapshotter: newSnapshotter(tb, s), t: tb, store: s}
}

// commit commits changes and fails the test when that fails.
func (r *rig) commit(base snapshotter.ID, changes ...snapshotter.Change) snapshotter.ID {
	r.t.Helper()
	r.n++
	m := meta(r.n)
	m.Parent = base
	id, err := r.Commit(r.t.Context(), base, seq(changes), m)
	if err != nil {
		r.t.Fatalf("commit: %v", err)
	}
	return id
}

// failures reads what a snapshot says could not be captured, and makes sure that it says so in
// order, and how many there are.
func (r *rig) failures(id snapshotter.ID) map[string]string {
	r.t.Helper()
	v, err := r.View(r.t.Context(), id)
	if err != nil {
		r.t.Fatalf("view: %v", err)
	}
	defer v.Close()
	got, last := make(map[string]string), ""
	for f, err := range v.Errors(r.t.Context()) {
		if err != nil {
			r.t.Fatal(err)
		}
		if f.Path <= last {
			r.t.Errorf("error of %q after %q", f.Path, last)
		}
		got[f.Path], last = f.Text, f.Path
	}
	if n := v.Snapshot().Errors; n != uint64(len(got)) {
		r.t.Errorf("%d errors listed, %d counted", len(got), n)
	}
	return got
}

// read reads the tree of a snapshot through a View.
func (r *rig) read(id snapshotter.ID) tree {
	r.t.Helper()
	v, err := r.View(r.t.Context(), id)
	if err != nil {
		r.t.Fatalf("view: %v", err)
	}
	defer v.Close()
	got := make(tree)
	root, err := v.Lstat(r.t.Context(), "/")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := readInto(r.t.Context(), v, "/", root, got); err != nil {
		r.t.Fatal(err)
	}
	return got
}

func readInto(ctx context.Context, v *snapshotter.View, p string, e snapshotter.Entry, got tree) error {
	again, err := v.Lstat(ctx, p)
	if err != nil {
		return err
	}
	if d := cmp.Diff(e, again); d != "" {
		return fmt.Errorf("%s: listed and by name differ: %s", p, d)
	}
	it := item{Kind: e.Kind, Attr: e.Attr, Version: e.Version, Target: e.Target}
	switch e.Kind {
	case snapshotter.Dir:
		after := ""
		for {
			const page = 3
			entries, err := v.ReadDir(ctx, p, after, page)
			if err != nil {
				return err
			}
			for _, child := range entries {
				if child.Name <= after && after != "" {
					return fmt.Errorf("%s: %q after %q", p, child.Name, after)
				}
				after = child.Name
				if err := readInto(ctx, v, path.Join(p, child.Name), child, got); err != nil {
					return err
				}
			}
			if len(entries) < page {
				break
			}
		}
	case snapshotter.File:
		f, err := v.Open(ctx, p)
		if err != nil {
			return err
		}
		defer f.Close()
		if f.Size() != e.Size {
			return fmt.Errorf("%s: size %d listed, %d opened", p, e.Size, f.Size())
		}
		data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		it.Data = string(data)
	}
	got[p] = it
	return nil
}

// expect compares a snapshot with a model and runs kloset's check on it.
func (r *rig) expect(id snapshotter.ID, want tree) {
	r.t.Helper()
	if d := cmp.Diff(want, r.read(id)); d != "" {
		r.t.Errorf("tree (-want +got):\n%s", d)
	}
	if err := r.Check(r.t.Context(), id); err != nil {
		r.t.Errorf("check: %v", err)
	}
}
