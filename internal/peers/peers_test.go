//go:build peers

package peers

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/snapgate/gateway/internal/proctest"
)

var update = flag.Bool("update", false, "write docs/PEERS.md")

const (
	// alice is the account that the clients use, but for the large directory: that is in a
	// share of its own, which keeps the other's commits small.
	alice = "alice"
	bob   = "bob"
	// dave is the account of the FTP clients.
	dave = "dave"
	// carol sees what plakar itself has backed up on this machine.
	carol = "carol"
	// noticeLimit is how long the gateway may take to notice a connection that was cut.
	noticeLimit = 30 * time.Second
	// commandLimit bounds one client process.
	commandLimit = 90 * time.Second
	// manyFiles is the size of the large directory.
	manyFiles = 10_000
	manyDir   = "/many"
	// cutSize is the size of files whose upload is cut, cutAfter where.
	cutSize  = 4 << 20
	cutAfter = 2 << 20
)

// env is what an operation of a client works with.
type env struct {
	t     *testing.T
	g     *proctest.Gateway
	see   *proctest.SFTP // another connection of the same user
	user  string
	share string // of the user
	dir   string // remote directory of its own
	local string // local directory of its own
	port  int    // where to connect: the gateway, or a network that fails
	rng   *rand.Rand
}

func clients() []client {
	return []client{
		opensshSFTP(), opensshSCP(), sshfs(), lftp(), psftp(), rclone(), paramiko(), restic(),
	}
}

func TestPeers(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	g := proctest.NewGateway(t, proctest.Options{
		Shares: map[string]string{
			"main": "{ snapshot: { when: close } }", "ftp": "{ snapshot: { when: manual }, versions: last }",
			"large": "{ snapshot: { when: manual } }", host: "{ snapshot: { when: manual } }",
		},
		Users: []proctest.User{{Name: alice, Share: "main"}, {Name: bob, Share: "large"}, {Name: carol, Share: host}, {Name: dave, Share: "ftp"}},
		FTP:   true,
	})
	if _, err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := fill(t, g); err != nil {
		t.Fatalf("making a directory of %d files: %v", manyFiles, err)
	}
	login := func(user string) *proctest.SFTP {
		session, err := g.Client.Login(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	see, seeFTP := login(alice), login(dave)
	defer see.Close()
	defer seeFTP.Close()
	var missing atomic.Bool // a client's program
	rows := func(clients []client, ops []operation, e env) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			for _, c := range clients {
				t.Run(c.name, func(t *testing.T) {
					if !installed(t, c.program) {
						missing.Store(true)
						t.SkipNow()
					}
					runClient(t, c, ops, e)
				})
			}
		}
	}
	t.Run("clients", func(t *testing.T) {
		t.Run("SFTP", rows(clients(), operations(), env{g: g, see: see, user: alice, share: "main"}))
		t.Run("FTP", rows(ftpClients(), ftpOperations(), env{g: g, see: seeFTP, user: dave, share: "ftp"}))
	})
	t.Run("plakar", func(t *testing.T) { runPlakar(t, g, see) })
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	// All clients, all operations.
	if flag.Lookup("test.run").Value.String() == "" && !missing.Load() && !t.Failed() {
		comparePage(t)
	}
}

// installed reports whether a program is there. In CI, a missing one fails the test.
func installed(t *testing.T, program string) bool {
	t.Helper()
	_, err := exec.LookPath(program)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("%v: see .ci/packages", err)
	}
	if err != nil {
		t.Logf("%v: see .ci/packages", err)
	}
	return err == nil
}

// runClient runs a client's operations, each in directories of its own; base is what they
// have in common.
func runClient(t *testing.T, c client, ops []operation, base env) {
	for i, op := range ops {
		cell, known := c.cells[op]
		if !known {
			t.Errorf("the table says nothing of %s", op)
		}
		if cell.do == nil {
			continue
		}
		t.Run(string(op), func(t *testing.T) {
			e := base
			e.t, e.local, e.port, e.rng = t, t.TempDir(), e.g.Port, newRand(uint64(i))
			e.dir = "/" + strings.ReplaceAll(c.name, " ", "-") + "-" + fmt.Sprint(i)
			if err := e.see.Mkdir(e.dir); err != nil {
				t.Fatal(err)
			}
			since := len(e.g.Log())
			if err := cell.do(&e); err != nil {
				t.Error(err)
			}
			if err := c.protocols(e.g.Log()[since:]); err != nil {
				t.Error(err)
			}
		})
	}
}

func comparePage(t *testing.T) {
	t.Helper()
	file := filepath.Join(proctest.Root(t), "docs", "PEERS.md")
	want := page(clients(), ftpClients(), plakarRows())
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/PEERS.md is not what this test found: run make peers-update")
	}
}

// fill makes the large directory.
func fill(t *testing.T, g *proctest.Gateway) error {
	t.Helper()
	see, err := g.Client.Login(t.Context(), bob)
	if err != nil {
		return err
	}
	defer see.Close()
	if err := see.Mkdir(manyDir); err != nil {
		return err
	}
	var group errgroup.Group
	const workers = 32 // enough that the server can group their flushes
	for w := range workers {
		group.Go(func() error {
			for i := w; i < manyFiles; i += workers {
				f, err := see.Create(fmt.Sprintf("%s/file-%05d", manyDir, i))
				if err != nil {
					return err
				}
				if err := f.Close(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// run runs a client program; a status other than 0 is an error.
func (e *env) run(stdin string, vars []string, name string, args ...string) (string, error) {
	e.t.Helper()
	vars = append(vars, "HOME="+e.local, "LC_ALL=C.UTF-8")
	res, err := proctest.Run(e.t.Context(), commandLimit, stdin, vars, name, args...)
	if err == nil && res.Status != 0 {
		err = fmt.Errorf("%s: status %d\n%s", name, res.Status, res.Tail())
	}
	return res.Stdout, err
}

// file makes a local file of random bytes.
func (e *env) file(name string, size int) (local string, data []byte) {
	e.t.Helper()
	data = e.bytes(size)
	local = filepath.Join(e.local, name)
	if err := os.WriteFile(local, data, 0o644); err != nil {
		e.t.Fatal(err)
	}
	return local, data
}

func (e *env) bytes(size int) []byte {
	var key [32]byte
	for i := range key {
		key[i] = byte(e.rng.Uint32())
	}
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	return data
}

// remote makes a complete remote file through the other connection.
func (e *env) remote(name string, size int) (remote string, data []byte) {
	e.t.Helper()
	data = e.bytes(size)
	remote = path.Join(e.dir, name)
	f, err := e.see.Create(remote)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return remote, data
}

// holds checks through the other connection that a remote file has these bytes.
func (e *env) holds(remote string, want []byte) error {
	f, err := e.see.Open(remote)
	if err != nil {
		return fmt.Errorf("%s: %w", remote, err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("%s: %w", remote, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s: has %d bytes, want %d; not the same", remote, len(got), len(want))
	}
	return nil
}

// same checks that a local file has these bytes.
func same(local string, want []byte) error {
	got, err := os.ReadFile(local)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s: has %d bytes, want %d; not the same", filepath.Base(local), len(got), len(want))
	}
	return nil
}

// names lists the operation's remote directory.
func (e *env) names() (string, error) {
	infos, err := e.see.ReadDirContext(e.t.Context(), e.dir)
	var names []string
	for _, info := range infos {
		names = append(names, info.Name())
	}
	return strings.Join(names, " "), err
}

// gone checks that a remote name does not exist.
func (e *env) gone(remote string) error {
	if _, err := e.see.Lstat(remote); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s should be gone: lstat: %w", remote, err)
	}
	return nil
}

// isDir checks that a remote name is a directory.
func (e *env) isDir(remote string) error {
	info, err := e.see.Lstat(remote)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", remote)
	}
	return err
}

// pointsTo checks a remote symbolic link.
func (e *env) pointsTo(remote, want string) error {
	got, err := e.see.ReadLink(remote)
	if err == nil && got != want {
		err = fmt.Errorf("%s points to %q, want %q", remote, got, want)
	}
	return err
}

// attrs checks a remote file's permission bits and, unless zero, its time.
func (e *env) attrs(remote string, mode os.FileMode, mtime time.Time) error {
	info, err := e.see.Stat(remote)
	if err != nil {
		return err
	}
	if got := info.Mode().Perm(); got != mode {
		return fmt.Errorf("%s: mode %o, want %o", remote, got, mode)
	}
	if got := info.ModTime(); !mtime.IsZero() && !got.Equal(mtime) {
		return fmt.Errorf("%s: time %v, want %v", remote, got.UTC(), mtime.UTC())
	}
	return nil
}

// oldTime is a time in the past that files are given.
func oldTime() time.Time { return time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC) }

// agedFile makes a local file with oldTime and a mode.
func (e *env) agedFile(name string, mode os.FileMode) string {
	e.t.Helper()
	local, _ := e.file(name, 1000)
	if err := errors.Join(os.Chmod(local, mode), os.Chtimes(local, oldTime(), oldTime())); err != nil {
		e.t.Fatal(err)
	}
	return local
}

// cut makes the client's next connection break after cutAfter bytes.
func (e *env) cut() { e.port = newCutter(e.t, e.g.Client.Addr(), cutAfter).port() }

// mend connects the client to the gateway itself again.
func (e *env) mend() { e.port = e.g.Port }

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 7)) }
