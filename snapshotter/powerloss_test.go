package snapshotter_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/disk/disktest"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// commitLog is what a recorded run did to a store, and when its commits had returned.
type commitLog struct {
	rec     *disktest.Recorder
	created int // the store was open
	acked   []int
	ids     []snapshotter.ID
	trees   []tree
}

// recordCommits makes a store and two snapshots on a recorded disk. ignore takes syncs
// out of the code.
func recordCommits(t *testing.T, ignore func(op disktest.Op, path string) bool, options ...func(*snapshotter.Snapshotter)) *commitLog {
	t.Helper()
	root := t.TempDir()
	rec, err := disktest.NewRecorder(root)
	if err != nil {
		t.Fatal(err)
	}
	rec.IgnoreSyncs(ignore)
	cfg := storetest.Config(t.TempDir())
	cfg.Location = "fs://" + filepath.Join(root, "store")
	cfg.Disk = rec
	s := storetest.Open(t, cfg)
	log := &commitLog{rec: rec, created: rec.Point()}
	r := &rig{Snapshotter: newSnapshotter(t, s), t: t, store: s}
	for _, option := range options {
		option(r.Snapshotter)
	}
	want := baseTree()
	id := snapshotter.ID{}
	changes := want.all()
	for i := range 2 {
		id = r.commit(id, changes...)
		log.acked = append(log.acked, rec.Point())
		log.ids = append(log.ids, id)
		log.trees = append(log.trees, want)
		p := fmt.Sprintf("/new%d", i)
		q := p + "s"
		want = with(map[string]*item{
			p: ptr(file(uint64(50+i), strings.Repeat(p, 100_000))),
			q: ptr(file(uint64(60+i), strings.Repeat(q, 1000))),
		})
		changes = []snapshotter.Change{put(p, want[p]), r.store1(put(q, want[q]))}
		changes[0].Ingested = r.ingest([]byte(want[p].Data)) // while it arrived
	}
	return log
}

// check opens what a power loss leaves and looks for what had been acknowledged.
func (l *commitLog) check(t *testing.T, point int, v disktest.Variant) error {
	t.Helper()
	dir, err := os.MkdirTemp("", "powerloss")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := l.rec.Materialize(point, v, dir); err != nil {
		t.Fatal(err)
	}
	cfg := storetest.Config(dir)
	cfg.CacheDir, cfg.KeepDir = "", ""
	cfg.Create = point < l.created
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer s.Close()
	snap, err := snapshotter.New(t.Context(), snapshotter.Config{Store: s})
	if err != nil {
		return err
	}
	defer snap.Close()
	list, err := snap.Snapshots(t.Context(), "")
	if err != nil {
		return err
	}
	found := make(map[snapshotter.ID]bool)
	for _, sn := range list {
		found[sn.ID] = true
	}
	r := &rig{Snapshotter: snap, t: t, store: s}
	var errs []error
	for i, id := range l.ids {
		if !found[id] {
			if point >= l.acked[i] {
				errs = append(errs, fmt.Errorf("acknowledged snapshot %d is not there", i))
			}
			continue
		}
		if err := snap.Check(t.Context(), id); err != nil {
			errs = append(errs, err)
			continue
		}
		if d := cmp.Diff(l.trees[i], r.read(id)); d != "" {
			errs = append(errs, fmt.Errorf("snapshot %d: %s", i, d))
		}
	}
	return errors.Join(errs...)
}

// TestPowerLoss fails the power before and after every sync of a store's life.
func TestPowerLoss(t *testing.T) {
	log := recordCommits(t, nil)
	for _, point := range log.rec.SyncPoints() {
		variants := []disktest.Variant{
			{Data: disktest.DataDropped, Names: disktest.NamesKept}, // what a rename without a sync suffers from
			{Data: disktest.DataTorn, Names: disktest.NamesMixed, Seed: uint64(point)},
		}
		if point >= log.created {
			variants = append(variants, disktest.Variant{Data: disktest.DataKept, Names: disktest.NamesDropped})
		}
		for _, v := range variants {
			if err := log.check(t, point, v); err != nil {
				t.Errorf("power loss at %d, %v: %v\n%s", point, v, err, log.rec.Log(point))
				return
			}
		}
	}
}

// TestPowerLossNoticesMissingSync takes the syncs out of the code one by one: without any
// of them TestPowerLoss would fail.
func TestPowerLossNoticesMissingSync(t *testing.T) {
	tests := []struct {
		name string
		op   disktest.Op
		path string
	}{
		{"packfile", disktest.OpSync, "packfiles/"},
		{"packfile directory", disktest.OpSyncDir, "packfiles/"},
		{"state", disktest.OpSync, "states/"},
		{"state directory", disktest.OpSyncDir, "states/"},
		{"configuration", disktest.OpSync, "CONFIG"},
		{"store directory", disktest.OpSyncDir, "store"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := recordCommits(t, func(op disktest.Op, path string) bool {
				return op == tt.op && (strings.Contains(path+"/", "/"+tt.path) || tt.path == path)
			})
			last := log.rec.Point()
			for _, v := range disktest.Variants(3) {
				if log.check(t, last, v) != nil {
					return
				}
			}
			t.Error("nothing is lost without it")
		})
	}
}
