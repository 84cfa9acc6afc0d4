//go:build peers

package peers

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/proctest"
)

// planted is a file of a tree that is pulled.
type planted struct {
	name string
	size int
	mode fs.FileMode
}

// plant makes files of random bytes below a directory, each an hour younger than the one before.
func plant(t *testing.T, dir string, rng *rand.Rand, when time.Time, files []planted) {
	t.Helper()
	for i, f := range files {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, f.size)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		if err := os.WriteFile(path, data, f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, when, when.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
}

// pullTree makes a tree that has what a pull is to capture, and further files.
func pullTree(t *testing.T, dir string, more ...planted) {
	t.Helper()
	when := time.Date(2021, 2, 3, 4, 5, 6, 0, time.UTC)
	plant(t, dir, newRand(7), when, append([]planted{
		{"empty", 0, 0o644}, {"one", 1, 0o600}, {"small", 5000, 0o640},
		{"a/b/c/deep", 100, 0o755}, {"a/ nam\te", 3, 0o644}, {"a/bytes-\xff\xfe", 10, 0o644}, {"a/ünï", 10, 0o600},
	}, more...))
	if err := os.Mkdir(filepath.Join(dir, "a", "nothing"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": "a/b", "a/nowhere": "../not/there"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		when = when.Add(-time.Hour)
		return os.Chtimes(path, when, when)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// describe has a line for every path of a tree: type, mode, user and group; of files and directories the time;
// of files size and a hash; of links where they lead.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			out[path[len(dir):]] = line + " to " + target
			return err
		}
		line += " " + info.ModTime().UTC().Format(time.RFC3339)
		if !e.IsDir() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d bytes %x", len(data), sha256.Sum256(data))
		}
		out[path[len(dir):]] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(out, "") // how it is restored depends on where
	return out
}

// TestPull pulls a tree from OpenSSH's server, also over connections that break, and has stock
// plakar check and restore it.
func TestPull(t *testing.T) {
	sshd := proctest.StartSSHD(t)
	tree := filepath.Join(t.TempDir(), "tree")
	pullTree(t, tree, planted{"just a range", 16 << 20, 0o644}, planted{"large", 20<<20 + 3, 0o444})
	want := describe(t, tree)
	for _, tt := range []struct {
		name, keys string
		trouble    proctest.Trouble
	}{
		{"native", "", proctest.Trouble{}},
		{"openssh", "transport: openssh, ", proctest.Trouble{}},
		{"connections that break", "", proctest.Trouble{Down: 6 << 20}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			proxy := proctest.StartProxy(t, sshd.Addr)
			proxy.Set(tt.trouble)
			host, port, _ := strings.Cut(proxy.Addr, ":")
			dir := t.TempDir()
			known, empty := filepath.Join(dir, "known_hosts"), filepath.Join(dir, "empty")
			for file, text := range map[string]string{known: fmt.Sprintf("[%s]:%s %s", host, port, sshd.HostKey), empty: ""} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			g := proctest.NewGateway(t, proctest.Options{Extra: fmt.Sprintf(
				"sources: { web1: { location: %q, identity: %q, known_hosts: %q, ssh_config: %q, %sagent: none } }\n",
				"sftp://"+sshd.User+"@"+proxy.Addr+tree, sshd.KeyFile, known, empty, tt.keys)})
			out, err := g.Command(t.Context(), "pull", "web1")
			if err != nil {
				t.Fatal(err)
			}
			id := strings.TrimSpace(out)
			plakar := proctest.NewPlakar(t, g.Store, g.PassFile)
			if err := plakar.Check(t.Context(), id[:8]); err != nil {
				t.Error(err)
			}
			restored := filepath.Join(dir, "restored")
			if _, err := plakar.Run(t.Context(), "restore", "-to", restored, id[:8]+":/"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, describe(t, restored)); diff != "" {
				t.Errorf("restored (-want +got):\n%s", diff)
			}
			again, err := g.Command(t.Context(), "pull", "--quiet", "web1")
			if err != nil || strings.TrimSpace(again) != id {
				t.Errorf("nothing has changed: %q, %v; want %s", again, err, id)
			}
		})
	}
}
