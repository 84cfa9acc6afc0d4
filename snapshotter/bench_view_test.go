//go:build soak

package snapshotter_test

import (
	"errors"
	"fmt"
	"os"
	"path"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// viewFiles is the size of the share that is searched; FILES and FULL=1 say otherwise.
func viewFiles(tb testing.TB) int {
	n := 100_000
	if full() {
		n = 1_000_000
	}
	return fromEnv(tb, "FILES", n)
}

// BenchmarkSearch searches a share of many files, in directories of 100, and compares it with the
// snapshot before, of which one file differs.
func BenchmarkSearch(b *testing.B) {
	n := viewFiles(b)
	c := &benchCommits{rig: &rig{t: b, store: storetest.New(b)}, b: b, n: n, perDir: 100, version: 90_000_000}
	c.Snapshotter = newSnapshotter(b, c.store)
	first := c.commitSeq(b, snapshotter.ID{}, benchTree(n, c.perDir))
	second := c.commit(first, c.change(n/2))
	wanted := path.Base(benchName(n/2, c.perDir))
	for _, t := range []struct {
		name string
		q    snapshotter.Query
		want int
	}{
		{"name", snapshotter.Query{Name: func(p string) bool { return path.Base(p) == wanted }, Entries: true}, 1},
		{"glob", snapshotter.Query{Name: func(p string) bool { ok, err := path.Match("*77.dat", path.Base(p)); return ok && err == nil }}, n / 100},
		{"type", snapshotter.Query{ContentType: "image/*"}, 0},
		{"size", snapshotter.Query{MinSize: 1000}, 1},
		{"empty", snapshotter.Query{MaxSize: -1}, 0},
		{"all", snapshotter.Query{}, n + n/c.perDir},
	} {
		b.Run(t.name, func(b *testing.B) {
			resetPeak(b)
			for b.Loop() {
				v, err := c.View(b.Context(), second)
				if err != nil {
					b.Fatal(err)
				}
				found := 0
				for _, err := range v.Search(b.Context(), t.q) {
					if err != nil {
						b.Fatal(err)
					}
					found++
				}
				if found != t.want {
					b.Fatalf("%d found, want %d", found, t.want)
				}
			}
			b.ReportMetric(float64(rss(b, "VmHWM")), "peak-MiB")
		})
	}
	b.Run("diff", func(b *testing.B) {
		was, now := c.view(first), c.view(second)
		for b.Loop() {
			found := 0
			for _, err := range snapshotter.Diff(b.Context(), was, now, "/") {
				if err != nil {
					b.Fatal(err)
				}
				found++
			}
			if found != 1 {
				b.Fatalf("%d differences", found)
			}
		}
	})
}

// BenchmarkHistory lists the versions of a file that 1,000 snapshots have, of which every tenth
// changes it, and all of them another one.
func BenchmarkHistory(b *testing.B) {
	const snapshots, every = 1000, 10
	n := fromEnv(b, "FILES", 10_000)
	c := &benchCommits{rig: &rig{t: b, store: storetest.New(b)}, b: b, n: n, perDir: 100, version: 90_000_000}
	c.Snapshotter = newSnapshotter(b, c.store)
	id := c.commitSeq(b, snapshotter.ID{}, benchTree(n, c.perDir))
	line := []snapshotter.Snapshot{c.view(id).Snapshot()}
	for i := range snapshots - 1 {
		place := i % n
		if i%every == 0 {
			place = n / 2
		}
		id = c.commit(id, c.change(place))
		line = append(line, c.view(id).Snapshot())
	}
	b.Run("one path", func(b *testing.B) {
		resetPeak(b)
		for b.Loop() {
			versions, unread, err := c.History(b.Context(), line, benchName(n/2, c.perDir))
			if err != nil || len(unread) > 0 || len(versions) != 1+(snapshots-1+every-1)/every {
				b.Fatalf("%d versions, %v, %v", len(versions), unread, err)
			}
		}
		b.ReportMetric(float64(rss(b, "VmHWM")), "peak-MiB")
	})
	b.Run("all differences", func(b *testing.B) {
		for b.Loop() {
			found := 0
			for i := range line[1:] {
				for _, err := range snapshotter.Diff(b.Context(), c.view(line[i].ID), c.view(line[i+1].ID), "/") {
					if err != nil {
						b.Fatal(err)
					}
					found++
				}
			}
			if found != snapshots-1 {
				b.Fatalf("%d differences", found)
			}
		}
	})
}

// BenchmarkColdOpen opens a store of SNAPSHOTS (1,000) snapshots without what an earlier process has kept
// of it, and lists them.
func BenchmarkColdOpen(b *testing.B) {
	n := fromEnv(b, "SNAPSHOTS", 1000)
	cfg := storetest.Config(b.TempDir())
	c := &benchCommits{rig: &rig{t: b, store: storetest.Open(b, cfg)}, b: b, n: 1000, perDir: 100, version: 90_000_000}
	c.Snapshotter = newSnapshotter(b, c.store)
	id := c.commitSeq(b, snapshotter.ID{}, benchTree(c.n, c.perDir))
	for i := range n - 1 {
		id = c.commit(id, c.change(i*7919%c.n))
	}
	resetPeak(b)
	for i := 0; b.Loop(); i++ {
		cold := cfg
		cold.CacheDir = fmt.Sprintf("%s-%d", cfg.CacheDir, i)
		st, err := store.Open(b.Context(), cold)
		if err != nil {
			b.Fatal(err)
		}
		s, err := snapshotter.New(b.Context(), snapshotter.Config{Store: st})
		if err != nil {
			b.Fatal(err)
		}
		list, err := s.Snapshots(b.Context(), "")
		if err != nil || len(list) != n {
			b.Fatalf("%d snapshots, %v; want %d", len(list), err, n)
		}
		if err := errors.Join(s.Close(), st.Close(), os.RemoveAll(cold.CacheDir)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rss(b, "VmHWM")), "peak-MiB")
}
