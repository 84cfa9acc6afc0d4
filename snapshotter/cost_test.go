package snapshotter_test

import (
	"runtime"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// TestCommitAllocates bounds what a small commit allocates: a chunker alone has buffers of
// several megabytes, and is kept for the next commit.
func TestCommitAllocates(t *testing.T) {
	const commits, limit = 10, 8 << 20
	r := newRig(t)
	want := baseTree()
	id := r.commit(r.commit(snapshotter.ID{}, want.all()...), put("/x", file(90, "x")))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range commits {
		id = r.commit(id, put("/x", file(uint64(100+i), "y")))
	}
	runtime.ReadMemStats(&after)
	if per := (after.TotalAlloc - before.TotalAlloc) / commits; per > limit {
		t.Errorf("%d bytes a commit, want at most %d", per, limit)
	}
}
