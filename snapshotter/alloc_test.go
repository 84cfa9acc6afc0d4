//go:build !race

package snapshotter_test

import (
	"runtime"
	"slices"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// TestCommitAllocates bounds what a small commit allocates: a chunker alone has buffers of
// several megabytes, and is kept for the next commit. The collector may empty pools before
// some of the commits, so it is the median that counts; the race detector empties them at
// random.
func TestCommitAllocates(t *testing.T) {
	const commits, limit = 11, 24 << 20
	r := newRig(t)
	want := baseTree()
	id := r.commit(r.commit(snapshotter.ID{}, want.all()...), put("/x", file(90, "x")))
	var allocated []uint64
	var before, after runtime.MemStats
	for i := range commits {
		runtime.ReadMemStats(&before)
		id = r.commit(id, put("/x", file(uint64(100+i), "y")))
		runtime.ReadMemStats(&after)
		allocated = append(allocated, after.TotalAlloc-before.TotalAlloc)
	}
	slices.Sort(allocated)
	if median := allocated[commits/2]; median > limit {
		t.Errorf("%d bytes a commit, want at most %d; all: %d", median, limit, allocated)
	}
}
