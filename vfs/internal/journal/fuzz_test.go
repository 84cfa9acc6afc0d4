package journal_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/vfs/internal/journal"
)

// FuzzOpen opens whatever stands in a segment. It never panics nor takes memory beyond
// the file's size, and what it recovers it recovers again.
func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	cfg := journal.Config{Disk: unsynced{disk.OS{}}, Dir: filepath.Join(dir, "seed")}
	twoLives(f, cfg, false)
	for _, name := range segments(f, cfg) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-11])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg := journal.Config{Disk: unsynced{disk.OS{}}, Dir: t.TempDir()}
		path := filepath.Join(cfg.Dir, "0000000000000002.wal")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(cfg)
		if err != nil {
			return
		}
		first := strings.Join(records(t, j), ",")
		pos := appendOK(t, j, true, "more")
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, cfg)
		if got, err := j.Read(pos); err != nil || string(got) != "more" {
			t.Errorf("the appended record: got %q, %v", got, err)
		}
		second := strings.Join(records(t, j), ",")
		if !strings.HasPrefix(second, first) {
			t.Errorf("recovered %q, then %q", first, second)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
