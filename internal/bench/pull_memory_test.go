//go:build bench

package bench

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// invented is an SFTP server in this process with a tree that is nowhere: so many files, each with
// its name for content, in directories of perDir.
type invented struct {
	files int
	when  time.Time

	once   sync.Once
	listed chan struct{} // closed when a directory is listed for the first time
}

// inventedInfo describes an entry.
type inventedInfo struct {
	name string
	dir  bool
	when time.Time
}

func (i inventedInfo) Name() string       { return i.name }
func (i inventedInfo) Size() int64        { return int64(len(i.name)) }
func (i inventedInfo) ModTime() time.Time { return i.when }
func (i inventedInfo) IsDir() bool        { return i.dir }
func (i inventedInfo) Sys() any           { return nil }
func (i inventedInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// inventedList is a listing.
type inventedList []fs.FileInfo

func (l inventedList) ListAt(to []fs.FileInfo, off int64) (int, error) {
	if off >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(to, l[off:])
	if int(off)+n == len(l) {
		return n, io.EOF
	}
	return n, nil
}

// Filelist implements sftp.FileLister.
func (v *invented) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	dir := r.Filepath == "/" || strings.HasPrefix(path.Base(r.Filepath), "dir-")
	if r.Method != "List" {
		return inventedList{inventedInfo{path.Base(r.Filepath), dir, v.when}}, nil
	}
	v.once.Do(func() { close(v.listed) })
	var list inventedList
	if r.Filepath == "/" {
		for d := range v.files / perDir {
			list = append(list, inventedInfo{dirName(d)[1:], true, v.when})
		}
		return list, nil
	}
	for i := range perDir {
		list = append(list, inventedInfo{fmt.Sprintf("%s-%02d", path.Base(r.Filepath)[4:], i), false, v.when})
	}
	return list, nil
}

// Fileread implements sftp.FileReader.
func (v *invented) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	return strings.NewReader(path.Base(r.Filepath)), nil
}

// Filewrite implements sftp.FileWriter.
func (v *invented) Filewrite(*sftp.Request) (io.WriterAt, error) { return nil, os.ErrPermission }

// Filecmd implements sftp.FileCmder.
func (v *invented) Filecmd(*sftp.Request) error { return os.ErrPermission }

// serve serves on a port of its own until the test ends.
func (v *invented) serve(t *testing.T) (port int) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(key)
	return listen(t, func(conn net.Conn) { v.session(conn, config) })
}

// session serves one connection.
func (v *invented) session(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for channel := range channels {
		ch, reqs, err := channel.Accept()
		if err != nil {
			return
		}
		go func() {
			for req := range reqs {
				_ = req.Reply(req.Type == "subsystem", nil)
			}
		}()
		go func() {
			_ = sftp.NewRequestServer(ch, sftp.Handlers{FileGet: v, FilePut: v, FileCmd: v, FileList: v}).Serve()
			_ = ch.Close()
		}()
	}
}

// TestPullMemory pulls a tree of very many small files (FILES), twice, and tells the highest memory of it
// from when the listing has begun: the derivation of the key, before, takes 256 MiB.
func TestPullMemory(t *testing.T) {
	sizes := []int{20_000, 100_000}
	if full() {
		sizes = []int{100_000, 1_000_000}
	}
	if s := os.Getenv("FILES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		sizes = []int{n}
	}
	for _, files := range sizes {
		v := &invented{files: files, when: time.Now().Add(-time.Hour)}
		port := v.serve(t)
		secret := filepath.Join(t.TempDir(), "password")
		write(t, secret, "any")
		settings := fmt.Sprintf("{ location: \"sftp://u@127.0.0.1/\", port: %d, insecure_ignore_host_key: true, agent: none, password_file: %q }", port, secret)
		g := puller(t, settings, settings)
		for _, what := range []string{"first", "nothing changed"} {
			v.once, v.listed = sync.Once{}, make(chan struct{})
			mib := 0
			took := seconds(func() { mib = v.peakOf(t, g.Config) })
			tell(t, "pull of %d files, %s: %.1f s, peak RSS %d MiB", files, what, took, mib)
		}
	}
}

// peakOf pulls, and returns the highest memory in MiB.
func (v *invented) peakOf(t *testing.T, config string) (mib int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	binary, err := filepath.Abs("../../bin/gateway")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, binary, "pull", "--quiet", "peer", "-c", config)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	listed := v.listed
	for {
		select {
		case <-listed:
			write(t, "/proc/"+strconv.Itoa(cmd.Process.Pid)+"/clear_refs", "5")
			listed = nil
		case <-tick.C:
			if now, ok := highest(cmd.Process.Pid); ok && listed == nil {
				mib = now
			}
		case err := <-ended:
			if err != nil {
				t.Fatalf("pull: %v\n%s", err, out.String())
			}
			return mib
		}
	}
}
