package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/PlakarKorp/kloset/objects"
	"github.com/PlakarKorp/kloset/repository"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store/internal/backend"
)

// TestLockValid states when a commit may rely on its lock.
func TestLockValid(t *testing.T) {
	tests := []struct {
		name string
		age  time.Duration // of the last refresh, by the time of day
		gone bool
		want error
	}{
		{name: "just taken"},
		{name: "refreshed in time", age: repository.LOCK_TTL - time.Minute},
		// The clock that durations are measured with stands still while a machine sleeps.
		{name: "slept too long", age: repository.LOCK_TTL, want: ErrUnavailable},
		{name: "removed", gone: true, want: ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			l := &Lock{s: &Store{files: backend.NewLocal(disk.OS{}, root, "")}, id: objects.RandomMAC(), refreshed: time.Now().Round(0).Add(-tt.age)}
			write := func() {
				t.Helper()
				if err := os.WriteFile(filepath.Join(root, lockName(l.id)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(root, backend.LocksDir), 0o700); err != nil {
				t.Fatal(err)
			}
			if !tt.gone {
				write()
			}
			if err := l.Valid(); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			// What happened while it did not count cannot be undone.
			l.refreshed = time.Now()
			write()
			if err := l.Valid(); !errors.Is(err, tt.want) {
				t.Errorf("after a refresh: got %v, want %v", err, tt.want)
			}
		})
	}
}
