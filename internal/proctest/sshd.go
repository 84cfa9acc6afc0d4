package proctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// sshdLimit is how long sshd may take to start.
const sshdLimit = 30 * time.Second

// SSHD is OpenSSH's server with a configuration and keys of its own, for the user who runs the
// tests. Its methods are for one goroutine.
type SSHD struct {
	Addr    string // host:port, the same after a restart
	User    string
	KeyFile string // logs in
	HostKey string // as in a known_hosts file, without the host

	config string
	cmd    *exec.Cmd
	out    bytes.Buffer
}

// StartSSHD starts an SSH server, which ends with the test.
func StartSSHD(tb testing.TB) *SSHD {
	tb.Helper()
	me, err := user.Current()
	if err != nil {
		tb.Fatal(err)
	}
	if me.Uid == "0" {
		separation(tb)
	}
	dir := ShortDir(tb)
	port := FreePort(tb)
	s := &SSHD{
		Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), User: me.Username,
		KeyFile: filepath.Join(dir, "key"), config: filepath.Join(dir, "sshd_config"),
	}
	host := filepath.Join(dir, "host")
	for _, file := range []string{s.KeyFile, host} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput(); err != nil {
			tb.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	key, err := os.ReadFile(host + ".pub")
	if err != nil {
		tb.Fatal(err)
	}
	s.HostKey = string(key)
	write(tb, s.config, fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
LogLevel ERROR
Subsystem sftp internal-sftp
`, port, host, s.KeyFile))
	tb.Cleanup(func() {
		if err := s.Stop(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("sshd's log:\n%s", s.out.String())
		}
	})
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// separation makes the directory that sshd wants when root runs it.
func separation(tb testing.TB) {
	tb.Helper()
	const dir = "/run/sshd"
	switch err := os.Mkdir(dir, 0o755); {
	case err == nil:
		tb.Cleanup(func() { _ = os.Remove(dir) })
	case !errors.Is(err, fs.ErrExist):
		tb.Fatal(err)
	}
}

// Start starts the server again after Stop.
func (s *SSHD) Start(ctx context.Context) error {
	s.cmd = exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", s.config)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.WaitDelay = time.Second // for sessions, which keep its standard error
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("starting sshd: %w", err)
	}
	_, err := Wait(ctx, sshdLimit, func() bool {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("waiting for sshd: %w", err)
	}
	return nil
}

// Stop kills the server: connections to it are refused from then on. Its sessions live as long
// as their connections.
func (s *SSHD) Stop() error {
	if s.cmd == nil {
		return nil
	}
	err := s.cmd.Process.Kill()
	if err == nil {
		_ = s.cmd.Wait() // it was killed
	}
	s.cmd = nil
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
