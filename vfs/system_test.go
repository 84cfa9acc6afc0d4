package vfs

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/snapgate/gateway/internal/disk/disktest"
)

// Reloads at the same time open a new share once, and none opens one after the end.
func TestReloadNewShare(t *testing.T) {
	sys, _ := fullTestSystem(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := sys.Reload(t.Context(), []ShareConfig{{Name: "s", When: WhenManual}, {Name: "new", When: WhenManual}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	want(t, "recovered", len(sys.recovered), 2)
	closeSystem(t, sys)
	for i := range 2 {
		err := sys.Reload(t.Context(), []ShareConfig{{Name: fmt.Sprint("late", i)}})
		wantKind(t, "after the end", err, KindClosed)
	}
}

// An id that a killed process has made and not made durable must not be lost when this one
// uses it: its snapshots would belong to nobody.
func TestIDIsDurableAfterAKill(t *testing.T) {
	root := t.TempDir()
	rec, err := disktest.NewRecorder(root)
	wantNil(t, "recorder", err)
	rec.IgnoreSyncs(func(op disktest.Op, _ string) bool { return op == disktest.OpSyncDir })
	made, err := loadID(rec, root, "share-id")
	wantNil(t, "make", err)
	rec.IgnoreSyncs(nil)
	found, err := loadID(rec, root, "share-id")
	wantNil(t, "load", err)
	want(t, "id", found, made)
	dest := t.TempDir()
	wantNil(t, "power loss", rec.Materialize(rec.Point(), disktest.Variant{Data: disktest.DataDropped, Names: disktest.NamesDropped}, dest))
	data, err := os.ReadFile(filepath.Join(dest, "share-id"))
	wantNil(t, "read", err)
	want(t, "id after a power loss", string(data), made+"\n")
}
