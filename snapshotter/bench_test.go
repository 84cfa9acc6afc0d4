package snapshotter_test

import (
	"fmt"
	"iter"
	"os"
	"strings"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// benchTree yields a tree of n files of 100 bytes in directories of perDir.
func benchTree(n, perDir int) iter.Seq2[snapshotter.Change, error] {
	return func(yield func(snapshotter.Change, error) bool) {
		if !yield(put("/", dir(0)), nil) {
			return
		}
		for i := range n {
			d := i / perDir
			if i%perDir == 0 {
				if !yield(put(fmt.Sprintf("/directory-%05d", d), dir(d%3600)), nil) {
					return
				}
			}
			if !yield(put(benchName(i, perDir), file(uint64(i+10_000_000), fmt.Sprintf("content of file %d", i))), nil) {
				return
			}
		}
	}
}

func benchName(i, perDir int) string {
	return fmt.Sprintf("/directory-%05d/file-%07d.dat", i/perDir, i)
}

// BenchmarkCommitOneFile commits one changed file of 4 KiB on top of trees of several
// sizes, at the first, a middle and the last place in the order of the keys, incrementally
// and, for the smaller trees, through kloset's Builder with its cache.
func BenchmarkCommitOneFile(b *testing.B) {
	sizes := []int{1_000, 10_000, 100_000}
	if os.Getenv("SCALE") != "" {
		sizes = append(sizes, 1_000_000)
	}
	for _, n := range sizes {
		b.Run(fmt.Sprintf("files=%d", n), func(b *testing.B) { benchCommits(b, n, 100) })
	}
	b.Run("flat=100000", func(b *testing.B) { benchCommits(b, 100_000, 100_000) })
}

func benchCommits(b *testing.B, n, perDir int) {
	r := newRig(b)
	id := r.commitSeq(b, snapshotter.ID{}, benchTree(n, perDir))
	version := uint64(90_000_000)
	change := func(i int) snapshotter.Change {
		version++
		return put(benchName(i, perDir), file(version, strings.Repeat(fmt.Sprintf("%08d", version), 512)))
	}
	id = r.commit(id, change(n/2)) // what is read once
	for _, at := range []struct {
		name string
		i    int
	}{{"first", 0}, {"middle", n / 2}, {"last", n - 1}} {
		b.Run(at.name, func(b *testing.B) {
			for b.Loop() {
				id = r.commit(id, change(at.i))
			}
		})
	}
	if n > 10_000 && os.Getenv("BUILDER") == "" {
		return
	}
	b.Run("builder", func(b *testing.B) {
		for b.Loop() {
			r.n++
			m := meta(r.n)
			m.Parent = id
			var err error
			if id, err = r.Rebuild(b.Context(), id, seq([]snapshotter.Change{change(n / 2)}), m); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func (r *rig) commitSeq(b *testing.B, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error]) snapshotter.ID {
	b.Helper()
	r.n++
	id, err := r.Commit(b.Context(), base, changes, meta(r.n))
	if err != nil {
		b.Fatalf("commit: %v", err)
	}
	return id
}
