//go:build peers

package peers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapgate/gateway/internal/proctest"
)

// stores has stores of an account that is confined to a directory, as such accounts are set up: what it may write to is
// root's, and its group's. One is that directory, which stays as it was, and one is below it.
func (r *sshdRig) stores(t *testing.T, s *sshd) {
	known := r.known(t, s, "host")
	tree := filepath.Join(t.TempDir(), "tree")
	pullTree(t, tree)
	for _, tt := range []struct {
		name, top, at string
		want          os.FileMode // of the store's directory
	}{
		{"at the top", "team", "/team", 0o775},
		{"below", "others", "/others/store", 0o700},
	} {
		t.Run(tt.name, func(t *testing.T) {
			jail := r.path("root/jail")
			top := filepath.Join(jail, tt.top)
			if err := errors.Join(os.Mkdir(top, 0o700), os.Chown(top, 0, sshdGID), os.Chmod(top, 0o775)); err != nil {
				t.Fatal(err)
			}
			g := proctest.NewGateway(t, proctest.Options{Store: fmt.Sprintf(
				"{ location: %q, identity_file: %q, known_hosts: %q, ssh_config: %q, plaintext: true, create: true }",
				fmt.Sprintf("sftp://%s@127.0.0.1:%d%s", sshdJail, s.port, tt.at), r.path("user"), known, r.text(t, ""))})
			if _, err := g.Command(t.Context(), "import", tree, "main"); err != nil {
				t.Fatal(err)
			}
			if out, err := g.Command(t.Context(), "store", "check"); err != nil || !strings.Contains(out, " main good\n") {
				t.Errorf("store check, %v:\n%s", err, out)
			}
			fi, err := os.Stat(filepath.Join(jail, tt.at))
			if err != nil {
				t.Fatal(err)
			}
			if got := fi.Mode().Perm(); got != tt.want {
				t.Errorf("mode of %s: got %o, want %o", tt.at, got, tt.want)
			}
		})
	}
}
