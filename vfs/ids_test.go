package vfs

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/snapgate/gateway/snapshotter"
)

// However many processes make a source's lineage at once, there is one, which a System on
// the directory has as well.
func TestSourceLineage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	want(t, "before", StoredSourceLineage(dir, "web"), snapshotter.Lineage{})
	var wg sync.WaitGroup
	got := make([]snapshotter.Lineage, 8)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = SourceLineage(dir, "web"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, l := range got {
		want(t, "lineage", l, got[0])
	}
	want(t, "stored", StoredSourceLineage(dir, "web"), got[0])
	sys := openTestSystem(t, dir, newMemRepository())
	want(t, "gateway id", sys.GatewayID(), got[0].GatewayID)
	closeSystem(t, sys)
	other, err := SourceLineage(dir, "mail")
	wantNil(t, "another source", err)
	if other.ShareID == got[0].ShareID || other.GatewayID != got[0].GatewayID {
		t.Errorf("another source has %v beside %v", other, got[0])
	}
	entries, err := os.ReadDir(filepath.Join(dir, "sources", "web"))
	wantNil(t, "list", err)
	want(t, "files left", len(entries), 1)
}

// A source's name never leads out of its directory.
func TestSourceLineageName(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"", ".", "..", "a/b", "/", "../x"} {
		if l, err := SourceLineage(dir, name); err == nil {
			t.Errorf("%q: lineage %v", name, l)
		}
		want(t, name, StoredSourceLineage(dir, name), snapshotter.Lineage{})
	}
}
