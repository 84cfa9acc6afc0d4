//go:build crash

package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"math/rand/v2"

	"github.com/snapgate/gateway/internal/proctest"
)

// client is a program that works on one directory of the gateway.
type client struct {
	user string
	dir  string // its directory on the gateway
	tree Tree   // what must be there
	sftp bool   // OpenSSH's sftp, not crashclient
	ftp  bool   // over FTP
	tls  bool   // the same, encrypted

	log string // path of this round's log
}

// clientRun is a client's process.
type clientRun struct {
	*client
	cmd    *exec.Cmd
	output strings.Builder
	done   chan struct{} // closed when it has ended; err is set then
	err    error
}

// batchOps is how many operations a batch file for OpenSSH's sftp has: more than it gets
// done in a round.
const batchOps = 60

// start runs the client; it ends when the gateway does.
func (c *client) start(t *testing.T, g *proctest.Gateway, dir string, round int, seed uint64) (*clientRun, error) {
	t.Helper()
	base := filepath.Join(dir, fmt.Sprintf("%s-%d", path.Base(c.dir), round))
	c.log = base + ".log"
	run := &clientRun{client: c, done: make(chan struct{})}
	if c.sftp {
		batch, err := c.writeBatch(t, base, seed)
		if err != nil {
			return nil, err
		}
		run.cmd = exec.Command("sftp", "-q", "-F", g.Client.SSHConfig, "-b", batch, c.user+"@gateway")
	} else {
		if err := c.tree.Save(base + ".tree"); err != nil {
			return nil, err
		}
		args := []string{"-addr", g.Client.Addr(), "-key", g.Client.KeyFile}
		if c.ftp {
			args = []string{"-ftp", fmt.Sprintf("-tls=%t", c.tls), "-addr", g.FTP.Addr(), "-password", g.Client.Password}
		}
		args = append(args, "-user", c.user, "-dir", c.dir, "-tree", base+".tree", "-log", c.log, "-seed", fmt.Sprint(seed))
		run.cmd = exec.Command(proctest.Binary(t, "crashclient"), args...)
	}
	run.cmd.Stdout, run.cmd.Stderr = &run.output, &run.output
	run.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := run.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a client: %w", err)
	}
	go func() {
		run.err = run.cmd.Wait()
		close(run.done)
	}()
	return run, nil
}

// kill ends a client that hangs, with its children.
func (r *clientRun) kill() { _ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) }

// writeBatch writes a batch file for OpenSSH's sftp, and the files that it sends. Local
// commands in it log each operation.
func (c *client) writeBatch(t *testing.T, base string, seed uint64) (string, error) {
	t.Helper()
	planner := NewPlanner(c.dir, c.tree, rand.New(rand.NewPCG(seed, 1)))
	planner.Whole = true
	if err := os.Mkdir(base, 0o700); err != nil {
		return "", err
	}
	logger := proctest.Binary(t, "crashclient") + " -log " + c.log
	var b strings.Builder
	for range batchOps {
		op, err := planner.Next()
		if err != nil {
			return "", err
		}
		begin, err := json.Marshal(op)
		if err != nil {
			return "", err
		}
		line := fmt.Sprintf("%s %s", map[Kind]string{Remove: "rm", Mkdir: "mkdir", Rmdir: "rmdir"}[op.Kind], op.Path)
		switch op.Kind {
		case Put:
			local := filepath.Join(base, fmt.Sprint(op.Seq))
			if err := os.WriteFile(local, Bytes(op.Seed, op.Size), 0o600); err != nil {
				return "", err
			}
			line = fmt.Sprintf("put %s %s", local, op.Path)
		case Rename, Replace:
			line = fmt.Sprintf("rename %s %s", op.Path, op.To)
		}
		fmt.Fprintf(&b, "!%s -begin '%s'\n%s\n!%s -ack %d\n", logger, begin, line, logger, op.Seq)
	}
	return base + ".batch", os.WriteFile(base+".batch", []byte(b.String()), 0o600)
}

// observe reads the tree below dir as the gateway shows it.
func observe(session *proctest.SFTP, dir string) (Tree, error) {
	tree := Tree{}
	var mu sync.Mutex // guards tree and errs
	var errs error
	var wait sync.WaitGroup
	slots := make(chan struct{}, 4)
	read := func(name, key string) {
		defer wait.Done()
		slots <- struct{}{}
		defer func() { <-slots }()
		data, err := readFile(session, name)
		mu.Lock()
		defer mu.Unlock()
		errs = errors.Join(errs, err)
		tree[key] = Node{Size: int64(len(data)), Sum: Sum(data)}
	}
	var list func(dir, key string) error
	list = func(dir, key string) error {
		infos, err := session.ReadDirContext(context.Background(), dir)
		if err != nil {
			return fmt.Errorf("listing %s: %w", dir, err)
		}
		for _, info := range infos {
			name, key := path.Join(dir, info.Name()), path.Join(key, info.Name())
			if !info.IsDir() {
				wait.Add(1)
				go read(name, key)
				continue
			}
			mu.Lock()
			tree[key] = Node{Dir: true}
			mu.Unlock()
			if err := list(name, key); err != nil {
				return err
			}
		}
		return nil
	}
	err := list(dir, path.Join("/", path.Base(dir)))
	wait.Wait()
	return tree, errors.Join(err, errs)
}

func readFile(session *proctest.SFTP, name string) ([]byte, error) {
	f, err := session.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}
