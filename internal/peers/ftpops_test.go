//go:build peers

package peers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/snapgate/gateway/internal/proctest"
)

const (
	resumeGet operation = "resume get"
	trees     operation = "trees"
)

func ftpOperations() []operation {
	return []operation{put, get, overwrite, resume, resumeGet, rename, renameOver, setAttr, mkdir, remove, trees, abort, list, history}
}

const ftpIntro = `
## FTP and FTPS

The same over FTP, where "TLS" stands for AUTH TLS with a certificate that the client checks,
and "implicit TLS" for TLS from the first byte; each login was seen to be encrypted, or not.
Right outcomes are seen over SFTP. *resume* goes on with an upload whose client was killed,
*resume get* with a download, both without sending again what was there. *abort* kills the
client (kill -9) in the middle of an upload over an existing file and of one to a new name:
the old file must stay as it was, and nothing new may be listed. *trees* uploads a directory
with its subdirectories, again after changes, and downloads it: all must be the same byte for
byte.

`

// ftpLogin is what the gateway logs of a login over FTP.
var ftpLogin = regexp.MustCompile(`msg=login .*conn=ftp-.* protocol=(\S+)`)

// cutOff is what it logs at the end of a connection with an upload that was cut off.
var cutOff = regexp.MustCompile(`msg="session ended" .*conn=ftp-.* written_bytes=(\d+) .* aborted=1`)

// program is a command line with its additional environment.
type program struct {
	vars []string
	name string
	args []string
}

// start runs a program to its end.
func (e *env) start(p program, stdin string) (string, error) {
	e.t.Helper()
	return e.run(stdin, p.vars, p.name, p.args...)
}

// stream is a program that uploads its standard input to a remote name.
type stream func(e *env, remote string) program

// killTries is how often a client is killed anew whose bytes were all on their way: they are
// dropped when the gateway sees the end of the control connection first.
const killTries = 5

// killed has a program upload data to a remote name from a pipe that holds no more than
// that, kills it when it has read that, and waits for the gateway to notice.
func (e *env) killed(up stream, remote string, data []byte) error {
	for range killTries {
		if arrived, err := e.kill(up(e, remote), data); err != nil || arrived {
			return err
		}
	}
	return errors.New("the client sends nothing before it is killed")
}

// kill is one try of killed. It reports whether some bytes arrived.
func (e *env) kill(p program, data []byte) (arrived bool, err error) {
	cmd := exec.Command(p.name, p.args...)
	cmd.Env = append(append(os.Environ(), p.vars...), "HOME="+e.local, "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return false, err
	}
	seen := len(cutOff.FindAllString(e.g.Log(), -1))
	if err := cmd.Start(); err != nil {
		return false, err
	}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	limit := time.AfterFunc(commandLimit, kill)
	_, err = stdin.Write(data) // the program may have ended
	limit.Stop()
	kill()
	_ = cmd.Wait() // killed: its status says nothing
	if err != nil {
		return false, fmt.Errorf("%s does not read on: %w\n%s", p.name, err, out.String())
	}
	var found [][]string
	noticed := func() bool {
		found = cutOff.FindAllStringSubmatch(e.g.Log(), -1)[seen:]
		return len(found) > 0
	}
	if _, err := proctest.Wait(e.t.Context(), noticeLimit, noticed); err != nil {
		return false, fmt.Errorf("the gateway does not notice that the client was killed: %w\n%s", err, out.String())
	}
	return found[0][1] != "0", nil
}

// kills is how often a client is killed, at different places.
const kills = 4

func killWith(up stream) func(*env) error {
	return func(e *env) error {
		remote, old := e.remote("f", 5000)
		for i := range kills {
			name := []string{remote, path.Join(e.dir, "new")}[i%2]
			if err := e.killed(up, name, e.bytes(cutAfter>>2+e.rng.IntN(cutAfter))); err != nil {
				return err
			}
			names, err := e.names()
			if err != nil {
				return err
			}
			if names != "f" {
				return fmt.Errorf("after %d uploads that were cut off, the directory lists %q", i+1, names)
			}
			if err := e.holds(remote, old); err != nil {
				return err
			}
		}
		return nil
	}
}

// resumeKilled kills a client and has it go on. What had arrived is different in the local
// file by then: a client that sends it again is found out.
func resumeKilled(up stream, again func(e *env, local, remote string, kept int64) error) func(*env) error {
	return func(e *env) error {
		data := e.bytes(cutSize)
		remote := path.Join(e.dir, "f")
		if err := e.killed(up, remote, data[:cutAfter]); err != nil {
			return err
		}
		if names, err := e.names(); err != nil || names != "" {
			return fmt.Errorf("a cut-off upload is listed: %q, %w", names, err)
		}
		info, err := e.see.Stat(remote)
		if err != nil || info.Size() == 0 {
			return fmt.Errorf("nothing is kept of a cut-off upload: %w", err)
		}
		local, err := e.halfFile(data, int(info.Size()))
		if err != nil {
			return err
		}
		if err := again(e, local, remote, info.Size()); err != nil {
			return err
		}
		return e.holds(remote, data)
	}
}

// halfFile makes a local file that has data but for the first n bytes, which are others.
func (e *env) halfFile(data []byte, n int) (string, error) {
	local := filepath.Join(e.local, "f")
	return local, os.WriteFile(local, append(e.bytes(n), data[n:]...), 0o644)
}

// resumeGetWith has a client go on with a download of which it has other bytes: one that
// fetches these again is found out.
func resumeGetWith(again transfer) func(*env) error {
	return func(e *env) error {
		remote, data := e.remote("f", cutSize)
		local := filepath.Join(e.local, "f")
		have := e.bytes(cutAfter)
		if err := os.WriteFile(local, have, 0o644); err != nil {
			return err
		}
		if err := again(e, local, remote); err != nil {
			return err
		}
		return same(local, append(have, data[cutAfter:]...))
	}
}

// tree is files by relative path; directories have nil.
type tree map[string][]byte

// write makes a tree below a local directory.
func (t tree) write(dir string) error {
	for name, data := range t {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if data == nil {
			if err := os.MkdirAll(full, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(full, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// diff says in what another tree differs.
func (t tree) diff(got tree) error {
	var err error
	for name, data := range t {
		other, there := got[name]
		if !there || !bytes.Equal(data, other) || (data == nil) != (other == nil) {
			err = errors.Join(err, fmt.Errorf("%s: there: %v, %d bytes, want %d; not the same", name, there, len(other), len(data)))
		}
	}
	for name := range got {
		if _, wanted := t[name]; !wanted {
			err = errors.Join(err, fmt.Errorf("%s: should not be there", name))
		}
	}
	return err
}

func localTree(dir string) (tree, error) {
	t := tree{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			t[rel] = nil
			return nil
		}
		t[rel], err = os.ReadFile(name)
		return err
	})
	return t, err
}

// remoteTree reads one through the other connection.
func (e *env) remoteTree(dir string) (tree, error) {
	t := tree{}
	for w := e.see.Walk(dir); w.Step(); {
		if err := w.Err(); err != nil {
			return nil, err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(w.Path(), dir), "/")
		switch {
		case rel == "":
		case w.Stat().IsDir():
			t[rel] = nil
		default:
			f, err := e.see.Open(w.Path())
			if err != nil {
				return nil, err
			}
			data, err := io.ReadAll(f)
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
			t[rel] = data
		}
	}
	return t, nil
}

// sample makes a tree.
func (e *env) sample() tree {
	t := tree{"empty": nil, "a b": nil, "deep": nil, "deep/er": nil, "a b/ünï.txt": e.bytes(10)}
	for i, size := range []int{0, 1, 1000, 70_000, 600_000} {
		t[fmt.Sprintf("f%d", i)] = e.bytes(size)
		t[fmt.Sprintf("deep/er/g%d.bin", i)] = e.bytes(size / 2)
	}
	return t
}

// treesWith has a client keep a directory on the gateway as a local one, and then another
// local one as that; clients that do not delete get no deletions. A client without an
// upload gets the directory from elsewhere.
func treesWith(up, down transfer, deletes bool) func(*env) error {
	return func(e *env) error {
		source, remote, copied := filepath.Join(e.local, "tree"), path.Join(e.dir, "tree"), filepath.Join(e.local, "copy", "tree")
		want := e.sample()
		changed := maps.Clone(want)
		changed["f2"], changed["deep/new"] = e.bytes(1500), e.bytes(2000)
		if deletes {
			delete(changed, "f1")
			delete(changed, "deep/er/g1.bin")
		}
		for _, dir := range []string{source, copied} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		for _, want := range []tree{want, changed} {
			if err := errors.Join(os.RemoveAll(source), want.write(source)); err != nil {
				return err
			}
			if err := up(e, source, remote); err != nil {
				return err
			}
			got, err := e.remoteTree(remote)
			if err == nil {
				err = want.diff(got)
			}
			if err != nil {
				return fmt.Errorf("uploading a tree: %w", err)
			}
			if down == nil {
				continue
			}
			if err := down(e, copied, remote); err != nil {
				return err
			}
			if got, err = localTree(copied); err == nil {
				err = want.diff(got)
			}
			if err != nil {
				return fmt.Errorf("downloading a tree: %w", err)
			}
		}
		return nil
	}
}

// upTree puts a tree on the gateway, for a client that only downloads.
func upTree(e *env, local, remote string) error {
	t, err := localTree(local)
	if err != nil {
		return err
	}
	for name, data := range t {
		full := path.Join(remote, name)
		if data == nil {
			err = e.see.MkdirAll(full)
		} else if err = e.see.MkdirAll(path.Dir(full)); err == nil {
			err = e.fill(full, data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fill gives a remote file its bytes.
func (e *env) fill(remote string, data []byte) error {
	f, err := e.see.Create(remote)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// quote writes a text in double quotes, as the command languages of clients want it.
func quote(s string) string { return strconv.Quote(s) }
