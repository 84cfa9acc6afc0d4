package backend_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/snapgate/gateway/store/internal/backend"
)

// TestSFTPWithoutModes has servers that set no modes, and say so in several ways: they can hold a store. TestSFTPOpenSSH has
// one more.
func TestSFTPWithoutModes(t *testing.T) {
	for name, status := range map[string]uint32{
		"unsupported": fxOpUnsupported, "denied": fxPermissionDenied, "failure": fxFailure,
	} {
		t.Run(name, func(t *testing.T) {
			d := newPipeDialer(t)
			d.answers = &sftpAnswers{}
			d.answers.set(status, 0, always, fxpSetstat, fxpFsetstat)
			root := filepath.Join(t.TempDir(), "store")
			b := openSFTP(t, d, root)
			if err := b.Create(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, name := range replaceable() {
				putString(t, b, name, "data")
				wantFiles(t, root, name, "data")
			}
		})
	}
}

// TestSFTPKeepsMode: a directory that is made for a store is for its account alone, and one that was there is as it was.
func TestSFTPKeepsMode(t *testing.T) {
	for _, tt := range []struct {
		name  string
		there os.FileMode // 0: it is not
		want  os.FileMode
	}{
		{"made", 0, 0o700},
		{"there", 0o770, 0o770},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "store")
			if tt.there != 0 {
				if err := os.Mkdir(root, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(root, tt.there); err != nil { // whatever the umask is
					t.Fatal(err)
				}
			}
			b := openSFTP(t, newPipeDialer(t), root)
			if err := b.Create(t.Context()); err != nil {
				t.Fatal(err)
			}
			putString(t, b, backend.ConfigName, "config")
			for path, want := range map[string]os.FileMode{root: tt.want, filepath.Join(root, backend.ConfigName): 0o600} {
				fi, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if got := fi.Mode().Perm(); got != want {
					t.Errorf("mode of %s: got %o, want %o", path, got, want)
				}
			}
		})
	}
}
