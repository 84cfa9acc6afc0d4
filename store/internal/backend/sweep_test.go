package backend_test

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapgate/gateway/internal/disk"
	"github.com/snapgate/gateway/store/internal/backend"
	"github.com/snapgate/gateway/store/storetest"
)

// TestSweepOtherClock sweeps a store on a machine whose clock is two hours behind ours: what another
// installation is writing stays, and what one had begun two hours before goes.
func TestSweepOtherClock(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, root, token string) backend.Backend{
		"local": func(_ *testing.T, root, token string) backend.Backend {
			return backend.NewLocal(disk.OS{}, root, token)
		},
		"sftp": func(t *testing.T, root, token string) backend.Backend {
			b := backend.NewSFTP(backend.SFTPConfig{Dialer: newPipeDialer(t), Root: root, Token: token, Retries: 1})
			t.Cleanup(func() { _ = b.Close() })
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "store")
			writer, sweeper := open(t, root, "writer"), open(t, root, "sweeper")
			if err := writer.Create(t.Context()); err != nil {
				t.Fatal(err)
			}
			putString(t, writer, backend.ConfigName, "config")
			dead := filepath.Join(root, backend.StatesDir, "tmp.dead-1")
			if err := os.WriteFile(dead, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			file := storetest.FileName(backend.PackfilesDir, 1)
			swept := false
			_, err := writer.Put(t.Context(), file, readerFunc(func(p []byte) (int, error) {
				if swept {
					return 0, io.EOF
				}
				swept = true
				there := time.Now().Add(-2 * time.Hour)
				stampAll(t, root, there)
				stamp(t, dead, there.Add(-2*time.Hour))
				if err := sweeper.Sweep(t.Context(), time.Now()); err != nil {
					t.Error(err)
				}
				return copy(p, "packfile"), nil
			}))
			if err != nil {
				t.Error(err)
			}
			wantFiles(t, root, file, "packfile")
		})
	}
}

// stampAll gives everything in a directory the time at which it was last written to.
func stampAll(t *testing.T, root string, at time.Time) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		stamp(t, path, at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func stamp(t *testing.T, path string, at time.Time) {
	t.Helper()
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}
