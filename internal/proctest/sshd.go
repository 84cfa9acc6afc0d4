package proctest

import (
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

// SSHD is OpenSSH's server with a configuration and keys of its own, for the user who runs the
// tests. Its methods are for one goroutine.
type SSHD struct {
	daemon
	User    string
	KeyFile string // logs in
	HostKey string // as in a known_hosts file, without the host
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
		daemon: daemon{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), name: "sshd"},
		User:   me.Username, KeyFile: filepath.Join(dir, "key"),
	}
	config, host := filepath.Join(dir, "sshd_config"), filepath.Join(dir, "host")
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
	write(tb, config, fmt.Sprintf(`Port %d
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
	s.command = func() *exec.Cmd {
		cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", config)
		cmd.WaitDelay = time.Second // for sessions, which keep its standard error
		return cmd
	}
	s.begin(tb)
	return s
}

// separation makes the directory that sshd wants when root runs it. It stays: other servers, of other
// tests, need it at each login.
func separation(tb testing.TB) {
	tb.Helper()
	if err := os.Mkdir("/run/sshd", 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		tb.Fatal(err)
	}
}
