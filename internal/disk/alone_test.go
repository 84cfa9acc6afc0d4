//go:build unix

package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/snapgate/gateway/internal/disk"
)

// However many want to make something at once, it is made once, and no file is left.
func TestAlone(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.lock")
	var made atomic.Bool
	var calls atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			err := disk.Alone(name, func() error {
				if !made.Load() {
					calls.Add(1)
					made.Store(true)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("made %d times, want once", n)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock file: %v, want none", err)
	}
}

// A call that fails does not keep the next one from trying.
func TestAloneFails(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.lock")
	broken := errors.New("broken")
	if err := disk.Alone(name, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if err := disk.Alone(name, func() error { return nil }); err != nil {
		t.Error(err)
	}
}
