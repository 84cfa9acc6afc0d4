package backend_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapgate/gateway/store/internal/backend"
	"github.com/snapgate/gateway/store/storetest"
)

func TestLocal(t *testing.T) {
	storetest.TestBackend(t, func(t *testing.T) backend.Backend {
		return backend.NewLocal(storetest.NewFaultFS(), filepath.Join(t.TempDir(), "store"), "token")
	})
}

// TestLocalFaults has every step of a Put fail, at once and in the middle, and take its time.
func TestLocalFaults(t *testing.T) {
	storetest.TestBackendFaults(t, func(t *testing.T) (backend.Backend, []storetest.Fault) {
		fsys := storetest.NewFaultFS()
		faults := []storetest.Fault{{Name: "slow", Start: func() func() {
			n := 0
			fsys.Fail(func(storetest.Op, string) error {
				if n++; n%16 == 0 {
					<-time.After(time.Millisecond)
				}
				return nil
			})
			return func() { fsys.Fail(nil) }
		}}}
		for _, op := range []storetest.Op{
			storetest.OpOpen, storetest.OpWrite, storetest.OpSync, storetest.OpRename, storetest.OpSyncDir, storetest.OpReadDir,
		} {
			for name, skip := range map[string]int{"": 0, ", the third time": 2} {
				faults = append(faults, storetest.Fault{Name: string(op) + name, Start: func() func() {
					n := 0
					fsys.Fail(func(o storetest.Op, path string) error {
						if o != op || !strings.Contains(path, backend.PackfilesDir) {
							return nil
						}
						if n++; n <= skip {
							return nil
						}
						return syscall.EIO
					})
					return func() { fsys.Fail(nil) }
				}})
			}
		}
		return backend.NewLocal(fsys, filepath.Join(t.TempDir(), "store"), "token"), faults
	})
}
