package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/snapgate/gateway/cmd/gateway/internal/config"
	"github.com/snapgate/gateway/cmd/gateway/internal/control"
	"github.com/snapgate/gateway/internal/proctest"
	"github.com/snapgate/gateway/snapshotter"
	"github.com/snapgate/gateway/store"
	"github.com/snapgate/gateway/store/storetest"
	"github.com/snapgate/gateway/vfs"
)

// blockedCommand is a command that does not end when it is interrupted, as one whose store does not answer.
func blockedCommand() {
	_ = interruptible(context.Background(), "blocked", "", func(context.Context) error {
		_, _ = os.Stdout.WriteString("begun\n")
		<-make(chan struct{})
		return nil
	})
}

// TestSecondSignal: a command that does not end in order is ended by another signal.
func TestSecondSignal(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "blocked") // TestMain has put it into PATH
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // the state tells
	}()
	_, err = proctest.Wait(t.Context(), readyLimit, func() bool {
		select {
		case <-ended:
			return true
		default:
			_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended
			return false
		}
	})
	if err != nil {
		_ = cmd.Process.Kill()
		<-ended
		t.Fatalf("it goes on: %v", err)
	}
	if got := cmd.ProcessState.Sys().(syscall.WaitStatus); !got.Signaled() || got.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

// slowStore is a gateway's store whose server does not get on with writing packfiles until resume is called.
type slowStore struct {
	cfg    *config.Config
	server *storetest.SFTPServer
	begun  chan struct{} // closed when it is to write one
	resume func()
}

func newSlowStore(t *testing.T, p *program) *slowStore {
	t.Helper()
	srv := storetest.ServeSFTP(t)
	var at store.Config
	srv.Use(&at)
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := `version: 1
data_dir: ./data
store:
  location: ` + at.Location + `
  password_file: ` + at.SFTP.PasswordFile + `
  ssh_config: ` + at.SFTP.ConfigFile + `
  insecure_ignore_host_key: true
  timeout: 1h
  plaintext: true
  create: true
shares: { main: { snapshot: { when: manual } } }
`
	err := os.WriteFile(file, []byte(text), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := &slowStore{server: srv, begun: make(chan struct{})}
	if s.cfg, err = config.Load(file); err != nil {
		t.Fatal(err)
	}
	if err := p.withKeeper(t.Context(), s.cfg, func(*keeper) error { return nil }); err != nil { // makes the store
		t.Fatal(err)
	}
	resume := make(chan struct{})
	s.resume = sync.OnceFunc(func() { close(resume) })
	t.Cleanup(s.resume) // before the server waits for its end
	begin := sync.OnceFunc(func() { close(s.begun) })
	srv.FailWrites(func(name string) error {
		if strings.HasPrefix(name, "packfiles/") {
			begin()
			<-resume
		}
		return nil
	})
	return s
}

// returns calls do, which may interrupt its context, and must return although the store does not get on.
func (s *slowStore) returns(t *testing.T, name string, do func(ctx context.Context, interrupt func()) error) error {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	done := make(chan error, 1)
	go func() { done <- do(ctx, interrupt) }()
	limit, cancel := context.WithTimeout(t.Context(), readyLimit)
	defer cancel()
	select {
	case err := <-done:
		return err
	case <-limit.Done():
		s.resume()
		<-done
		t.Fatalf("%s goes on", name)
		return nil
	}
}

// leaveChange leaves a change in the journal of main.
func (s *slowStore) leaveChange(t *testing.T, p *program) {
	t.Helper()
	err := s.returns(t, "a gateway", func(ctx context.Context, interrupt func()) error {
		g, err := p.openGateway(ctx, s.cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		who := &vfs.Principal{User: "u", Mounts: []vfs.Mount{{At: vfs.Root(), Share: "main", Root: vfs.Root()}}, Perms: vfs.PermFull}
		sess, err := g.system.Session(ctx, who, vfs.ConnInfo{Conn: "1"})
		if err == nil {
			err = errors.Join(sess.Mkdir(ctx, "/dir", vfs.AttrSet{}), sess.Close())
		}
		interrupt()
		return errors.Join(err, g.close(ctx))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// commits resumes, and has main committed, which has had no snapshot before.
func (s *slowStore) commits(t *testing.T, p *program) {
	t.Helper()
	s.resume()
	var list []snapshotter.Snapshot
	err := errors.Join(
		p.withKeeper(t.Context(), s.cfg, func(*keeper) error { return nil }),
		p.withKeeper(t.Context(), s.cfg, func(k *keeper) (err error) {
			list, err = k.snapshots.Snapshots(t.Context(), "main")
			return err
		}),
	)
	if err != nil || len(list) != 1 {
		t.Errorf("a command that is not interrupted leaves %v, %v, want a snapshot", list, err)
	}
}

// TestInterruptedUnderWay: a commit that is under way when a command is interrupted does not wait for a store that does not get on, and
// removes its lock.
func TestInterruptedUnderWay(t *testing.T) {
	p := &program{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, cheapKDF: true}
	slow := newSlowStore(t, p)
	slow.leaveChange(t, p)
	err := slow.returns(t, "a command", func(ctx context.Context, interrupt func()) error {
		go func() {
			<-slow.begun
			interrupt()
		}()
		return p.withKeeper(ctx, slow.cfg, func(*keeper) error { return nil })
	})
	if err != nil {
		t.Errorf("it ends with %v", err) // what waits is in the journal
	}
	if locks := slow.server.Files("locks"); len(locks) > 0 {
		t.Errorf("it leaves %v", locks)
	}
	slow.commits(t, p)
}

// TestInterruptedCommits: a command that is interrupted does not commit what waits in the journal; one that is not does.
func TestInterruptedCommits(t *testing.T) {
	p := &program{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, cheapKDF: true}
	slow := newSlowStore(t, p)
	slow.leaveChange(t, p)
	err := slow.returns(t, "a command", func(ctx context.Context, interrupt func()) error {
		return p.withKeeper(ctx, slow.cfg, func(*keeper) error {
			interrupt()
			return ctx.Err()
		})
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil { // which is told of at once
		t.Fatal(err)
	}
	err = slow.returns(t, "an import", func(ctx context.Context, interrupt func()) error {
		ip := *p
		ip.stderr = &endingWriter{nth: 1, end: interrupt}
		_, _, err := ip.runImport(ctx, slow.cfg, control.Request{Op: control.OpImport, Share: "main", Dir: dir})
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("an import ends with %v", err)
	}
	slow.commits(t, p)
}

// TestInterruptedStart: a command that is interrupted while it reads what its store has, before it does anything, does not wait for a
// store that does not get on.
func TestInterruptedStart(t *testing.T) {
	p := &program{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, cheapKDF: true}
	slow := newSlowStore(t, p)
	slow.leaveChange(t, p)
	slow.commits(t, p)
	if err := os.RemoveAll(filepath.Join(slow.cfg.DataDir, "cache")); err != nil { // the headers are read from the server
		t.Fatal(err)
	}
	resume := make(chan struct{})
	slow.resume = sync.OnceFunc(func() { close(resume) })
	t.Cleanup(slow.resume)
	reads := make(chan struct{})
	begin := sync.OnceFunc(func() { close(reads) })
	slow.server.FailReads(func(name string) error {
		if strings.HasPrefix(name, "packfiles/") {
			begin()
			<-resume
		}
		return nil
	})
	err := slow.returns(t, "a command", func(ctx context.Context, interrupt func()) error {
		go func() {
			<-reads
			interrupt()
		}()
		return p.withKeeper(ctx, slow.cfg, func(*keeper) error { return nil })
	})
	select {
	case <-reads:
	default:
		t.Fatalf("it reads no header: %v", err)
	}
	if locks := slow.server.Files("locks"); len(locks) > 0 {
		t.Errorf("it leaves %v, and ends with %v", locks, err)
	}
}
