package watch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/cmd/gateway/internal/watch"
	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/internal/logtest"
	"github.com/snapgate/gateway/snapshotter"
)

// line is the lineage of a share.
func line(share string) snapshotter.Lineage {
	return snapshotter.Lineage{GatewayID: "gw", ShareID: "id-" + share}
}

// rig is a watcher over a list of snapshots.
type rig struct {
	*watch.Watcher
	cfg  watch.Config
	list []snapshotter.Snapshot // newest first, as a store lists them
	told []string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{}
	r.cfg = watch.Config{
		Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&logtest.Buffer{}, nil)),
		Snapshots: func(context.Context) ([]snapshotter.Snapshot, error) { return r.list, nil },
		Tell:      func(s snapshotter.Snapshot) { r.told = append(r.told, fmt.Sprintf("%s %d", s.Share, s.Sequence)) },
	}
	r.open(t)
	return r
}

func (r *rig) open(t *testing.T) {
	t.Helper()
	var err error
	if r.Watcher, err = watch.Open(r.cfg); err != nil {
		t.Fatal(err)
	}
}

// made adds a snapshot of a share, made now or before the start.
func (r *rig) made(share string, sequence uint64, at time.Time) {
	l := line(share)
	r.list = append([]snapshotter.Snapshot{{
		ID: snapshotter.ID{byte(sequence), share[0]}, Share: share, Sequence: sequence, Time: at, GatewayID: l.GatewayID, ShareID: l.ShareID,
	}}, r.list...)
}

// look looks at shares, and returns what was told.
func (r *rig) look(shares ...string) ([]string, error) {
	lines := map[string]snapshotter.Lineage{}
	for _, s := range shares {
		lines[s] = line(s)
	}
	r.told = nil
	err := r.Look(context.Background(), lines)
	return r.told, err
}

func (r *rig) want(t *testing.T, what string, shares []string, want ...string) {
	t.Helper()
	got, err := r.look(shares...)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%s: %v (-want +got):\n%s", what, err, d)
	}
}

// Each snapshot is told once and in order, also over restarts; what was there before the first start
// is not, and all of a share that is new is.
func TestOnce(t *testing.T) {
	r, a, ab := newRig(t), []string{"a"}, []string{"a", "b"}
	old := time.Now().Add(-time.Hour)
	r.made("a", 1, old)
	r.made("a", 2, old)
	r.want(t, "the first look", a)
	r.made("a", 3, time.Now())
	r.made("a", 4, old) // clocks can be set back
	r.want(t, "new ones", a, "a 3", "a 4")
	r.want(t, "nothing new", a)
	r.open(t)
	r.want(t, "a restart", a)
	r.made("a", 5, time.Now())
	r.made("b", 1, old)
	r.open(t)
	r.want(t, "another share", ab, "a 5", "b 1")
	r.list = r.list[1:] // retention removes one
	r.want(t, "a removed one", ab)
}

// A store that was away at the first start, or that has a snapshot by then already, loses none.
func TestFirstStart(t *testing.T) {
	r := newRig(t)
	away := errors.New("away")
	r.cfg.Snapshots = func(context.Context) ([]snapshotter.Snapshot, error) { return nil, away }
	r.open(t)
	if _, err := r.look("a"); !errors.Is(err, away) {
		t.Errorf("got %v, want %v", err, away)
	}
	r = newRig(t)
	r.made("a", 1, time.Now().Add(-time.Hour))
	r.made("a", 2, time.Now().Add(time.Second))
	r.want(t, "made since the start", []string{"a"}, "a 2")
}

// What could not be inspected, or noted, is done again; others do not wait for it.
func TestAgain(t *testing.T) {
	r, broken := newRig(t), errors.New("broken")
	faulty := disktest.NewFaulty(disk.OS{})
	fail := true
	var seen []string
	r.cfg.Disk = faulty
	r.cfg.Inspect = func(_ context.Context, n *watch.New) error {
		was := uint64(0)
		if n.Was != nil {
			was = n.Was.Sequence
		}
		seen = append(seen, fmt.Sprintf("%s %d-%d of %d, day %d", n.Share, was, n.Fresh[len(n.Fresh)-1].Sequence, len(n.All), n.Day.Changed))
		if n.Share == "a" && fail {
			return broken
		}
		n.Day.Changed++
		return nil
	}
	r.open(t)
	ab := []string{"a", "b"}
	r.want(t, "nothing there", ab)
	r.made("a", 1, time.Now())
	r.made("b", 1, time.Now())
	if told, err := r.look(ab...); !errors.Is(err, broken) || !cmp.Equal(told, []string{"b 1"}) {
		t.Errorf("told %v, %v; want b 1 and %v", told, err, broken)
	}
	fail = false
	faulty.Add(disktest.Fault{Ops: disktest.OpSync, Path: "watch.json.new", Times: 1, Err: syscall.EIO})
	if told, err := r.look(ab...); !errors.Is(err, syscall.EIO) || !cmp.Equal(told, []string{"a 1"}) {
		t.Errorf("told %v, %v; want a 1 and an error", told, err)
	}
	r.open(t) // a crash
	r.made("a", 2, time.Now())
	r.want(t, "after a crash", ab, "a 1", "a 2")
	want := []string{"a 0-1 of 1, day 0", "b 0-1 of 1, day 0", "a 0-1 of 1, day 0", "a 0-1 of 2, day 0", "a 1-2 of 2, day 1"}
	if d := cmp.Diff(want, seen); d != "" {
		t.Errorf("inspected (-want +got):\n%s", d)
	}
}

// A damaged state does not keep the gateway from starting.
func TestDamaged(t *testing.T) {
	r := newRig(t)
	if err := os.WriteFile(filepath.Join(r.cfg.Dir, "watch.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.open(t)
	r.made("a", 1, time.Now().Add(-time.Hour))
	r.want(t, "seen", []string{"a"})
	if _, err := watch.Open(watch.Config{}); err == nil {
		t.Error("an empty configuration is taken")
	}
}
