package vfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/snapshotter"
)

// history is what a recorded run did: after each step, the tree that it left and the
// moment at which the client had been told, and the moments of the commits.
type history struct {
	*memRepository
	rec     *disktest.Recorder
	steps   []historyStep
	commits []committedAt
}

type historyStep struct {
	acked int // everything up to here has returned
	tree  model
}

type committedAt struct {
	point int // what was on the disk when the snapshot appeared
	id    snapshotter.ID
}

// Commit notes when a snapshot is made.
func (h *history) Commit(ctx context.Context, base snapshotter.ID, changes iter.Seq2[snapshotter.Change, error], meta snapshotter.Meta) (snapshotter.ID, error) {
	point := h.rec.Point()
	id, err := h.memRepository.Commit(ctx, base, changes, meta)
	if err == nil {
		h.commits = append(h.commits, committedAt{point, id})
	}
	return id, err
}

// record runs a random history of n steps with commits in between over a recorded disk.
func recordHistory(t *testing.T, seed uint64, n int, ignore func(op disktest.Op, path string) bool) *history {
	t.Helper()
	root := t.TempDir()
	rec, err := disktest.NewRecorder(root)
	if err != nil {
		t.Fatal(err)
	}
	rec.IgnoreSyncs(ignore)
	h := &history{rec: rec, memRepository: newMemRepository()}
	sys := openTestSystem(t, filepath.Join(root, "data"), h, func(c *Config) { c.Disk = rec })
	s := testShare(t, sys)
	m, rnd := newModel(), rand.New(rand.NewPCG(seed, 2))
	h.steps = append(h.steps, historyStep{rec.Point(), newModel()})
	for i := range n {
		if i%8 == 7 {
			commitShare(t, s)
			h.steps = append(h.steps, historyStep{rec.Point(), maps.Clone(m)})
			continue
		}
		o, data := randomOp(t, s, rnd)
		if ok := m.apply(o, data); ok != (s.do(t.Context(), o) == nil) {
			t.Fatalf("step %d: %v %v %v: model says %v", i, o.kind, o.name, o.to, ok)
		}
		h.steps = append(h.steps, historyStep{rec.Point(), maps.Clone(m)})
	}
	crash(t, sys)
	// Recovered systems commit what is sealed by themselves, but there is one store for all.
	h.FailCommits(snapshotter.ErrUnavailable)
	return h
}

// check recovers from the image of a power loss and compares: everything acknowledged by
// then is there, and besides it at most the operation that was under way.
func (h *history) check(t *testing.T, point int, v disktest.Variant) (err error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "powerloss")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := h.rec.Materialize(point, v, dir); err != nil {
		t.Fatal(err)
	}
	acked := -1
	for i, st := range h.steps {
		if st.acked <= point {
			acked = i
		}
	}
	sys, err := Open(t.Context(), Config{
		DataDir: filepath.Join(dir, "data"), Repository: h.memRepository, SpoolKey: slices.Repeat([]byte{7}, 32),
		Shares: []ShareConfig{{Name: "s", When: WhenManual}}, Disk: disk.OS{},
	})
	if err != nil {
		return fmt.Errorf("recovery: %w", err)
	}
	got := withAttributes(t, testShare(t, sys))
	crash(t, sys)
	var errs []error
	for i := max(acked, 0); i < len(h.steps) && i <= acked+1; i++ {
		diff := cmp.Diff(map[string]string(h.steps[i].tree), got)
		if diff == "" {
			return nil
		}
		errs = append(errs, fmt.Errorf("not step %d (-want +got):\n%s", i, diff))
	}
	return errors.Join(errs...)
}

// walk checks every sync point from the last to the first, so that snapshots can be taken
// out of the store as their commits come to lie in the future.
func (h *history) walk(t *testing.T, variants []disktest.Variant, every int) error {
	t.Helper()
	for i, point := range slices.Backward(h.rec.SyncPoints()) {
		for len(h.commits) > 0 && h.commits[len(h.commits)-1].point > point {
			h.Remove(h.commits[len(h.commits)-1].id)
			h.commits = h.commits[:len(h.commits)-1]
		}
		if i%every != 0 {
			continue
		}
		for _, v := range variants {
			if err := h.check(t, point, v); err != nil {
				return fmt.Errorf("power loss at %d, %v: %w", point, v, err)
			}
		}
	}
	return nil
}

// At whatever moment the power fails, and whatever the disk made of unsynced writes and
// names, the next start has everything that was acknowledged.
func TestPowerLoss(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := recordHistory(t, seed, 40, nil)
			if err := h.walk(t, disktest.Variants(2), 1); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPowerLoss notices each sync that is taken out of the code.
func TestPowerLossNoticesMissingSync(t *testing.T) {
	tests := []struct {
		name   string
		ignore func(op disktest.Op, path string) bool
	}{
		{"journal segments", func(op disktest.Op, path string) bool {
			return op == disktest.OpSync && strings.Contains(path, "/journal/")
		}},
		{"journal directory", func(op disktest.Op, path string) bool {
			return op == disktest.OpSyncDir && strings.HasSuffix(path, "/journal")
		}},
		{"spool files", func(op disktest.Op, path string) bool {
			return op == disktest.OpSync && strings.Contains(path, "/spool/")
		}},
		{"spool directory", func(op disktest.Op, path string) bool {
			return op == disktest.OpSyncDir && strings.HasSuffix(path, "/spool")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := recordHistory(t, 0, 20, tt.ignore)
			if err := h.walk(t, disktest.Variants(0), 1); err == nil {
				t.Error("nothing was noticed without the sync")
			}
		})
	}
}
