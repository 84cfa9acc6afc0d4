package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
)

// TestRunFullDisk: a run into a store whose disk becomes full ends at once, and the next one goes on when there is room.
func TestRunFullDisk(t *testing.T) {
	disk := storetest.NewFaultFS()
	s, err := snapshotter.New(t.Context(), snapshotter.Config{Store: storetest.New(t, func(cfg *store.Config) { cfg.Disk = disk })})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r := (&runs{rig: &rig{Snapshotter: s, t: t}}).fresh(t)
	f := newFake()
	for i := range 40 {
		f.file(fmt.Sprintf("/%d", i), strings.Repeat(fmt.Sprint("file ", i), 1<<17))
	}
	var log bytes.Buffer
	r.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	disk.Fail(func(op storetest.Op, path string) error {
		if op == storetest.OpWrite && strings.Contains(path, "/packfiles/") {
			return syscall.EDQUOT // which says the same
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), awayPatience/4) // others use the machine
	defer cancel()
	r.cfg.Report = &Report{}
	if _, err := Run(ctx, f, r.cfg); !errors.Is(err, syscall.EDQUOT) || ctx.Err() != nil {
		t.Errorf("got %v, %v, want %v at once", err, ctx.Err(), syscall.EDQUOT)
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("it warns:\n%s", &log)
	}
	disk.Fail(nil)
}

// TestRunAfterLoss: what the store has lost is missing from one snapshot and not from the next, also when the source has
// lost it, too.
func TestRunAfterLoss(t *testing.T) {
	dir := t.TempDir()
	s, err := snapshotter.New(t.Context(), snapshotter.Config{Store: storetest.Open(t, storetest.Config(dir))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r := (&runs{rig: &rig{Snapshotter: s, t: t}}).fresh(t)
	f := newFake()
	large := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large) // it does not fail
	f.file("/small", "s")
	r.run(f, true)
	f.file("/large", string(large)) // in packfiles of its own
	r.run(f, true)
	lose := func() {
		packfiles, err := filepath.Glob(filepath.Join(dir, "store", "packfiles", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packfiles {
			if fi, err := os.Stat(p); err != nil || fi.Size() > 1<<19 {
				if err := errors.Join(err, os.Remove(p)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	lose()
	f.file("/new", "n")
	if snap, _ := r.run(f, true); snap.Lost != 1 || snap.Files != 2 {
		t.Fatalf("lost %d of %d files", snap.Lost, snap.Files)
	}
	if snap, _ := r.run(f, true); snap.Lost != 0 || snap.Files != 3 || r.content("/large") != string(large) {
		t.Errorf("the next: lost %d of %d files", snap.Lost, snap.Files)
	}
	r.run(f, false)
	lose()
	f.file("/new", "other")
	if snap, _ := r.run(f, true); snap.Lost != 1 {
		t.Fatalf("lost again: %d", snap.Lost)
	}
	f.remove("/large")
	if snap, _ := r.run(f, true); snap.Lost != 0 || snap.Files != 2 {
		t.Errorf("removed: lost %d of %d files", snap.Lost, snap.Files)
	}
	r.run(f, false)
}

// TestWaitingIsToldOnce: whoever stores beside others does not repeat that the store is waited for; but it is told of the next time.
func TestWaitingIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := &run{cfg: RunConfig{Name: "web1", Log: slog.New(slog.NewTextHandler(&log, nil))}}
		for away := 1; away <= 2; away++ {
			back := time.Now().Add(time.Minute)
			var workers sync.WaitGroup
			for range 8 {
				workers.Go(func() {
					err := r.patient(t.Context(), func() error {
						if time.Now().Before(back) {
							return snapshotter.ErrUnavailable
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			workers.Wait()
			if told := strings.Count(log.String(), "the store is waited for"); told != away {
				t.Errorf("it is told %d times, want %d", told, away)
			}
		}
	})
}
