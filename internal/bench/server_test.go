//go:build bench

package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/internal/proctest"
)

const (
	alice = "alice"
	// cipher is what both servers are spoken to with: the fastest that both have.
	cipher = "aes128-gcm@openssh.com"
	// limit bounds one client process.
	limit = 15 * time.Minute
	// tmpfs is a disk whose flushes cost nothing.
	tmpfs = "/dev/shm"
	// disk is where the machine's own disk is.
	disk = "/tmp"
)

// server is one side of a measurement.
type server struct {
	name   string
	config string // ssh_config of its clients
	user   string
	dir    string // remote directory to work in
	addr   string
	signer ssh.Signer
	pid    int
	g      *proctest.Gateway // nil for sshd
}

// full reports whether the sizes of docs/BENCHMARKS.md are asked for, which take long.
func full() bool { return os.Getenv("FULL") != "" }

// gateway starts a gateway whose data are below parent.
func gateway(t *testing.T, parent, share string, limits ...string) *server {
	t.Helper()
	limits = append(limits, "connections_per_address: 1000, connections_per_user: 1000, handshakes: 1000, handshakes_per_address: 1000")
	g := proctest.NewGateway(t, proctest.Options{Parent: parent, Shares: map[string]string{"main": share},
		Verify: proctest.VerifyNew, Extra: "limits: { " + strings.Join(limits, ", ") + " }\n"})
	if _, err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &server{name: "gateway", config: g.Client.SSHConfig, user: alice, dir: "/", addr: g.Client.Addr(), signer: signer(t, g.Client.KeyFile), pid: g.Pid(), g: g}
}

func signer(t *testing.T, file string) ssh.Signer {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sshd starts OpenSSH's server with a configuration and keys of its own; its files are
// below parent.
func sshd(t *testing.T, parent string) *server {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" {
		separation(t)
	}
	dir, err := os.MkdirTemp(parent, "sshd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{name: "sshd", config: filepath.Join(dir, "ssh_config"), user: me.Username, dir: filepath.Join(dir, "files")}
	port := proctest.FreePort(t)
	s.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	key, host := filepath.Join(dir, "key"), filepath.Join(dir, "host")
	for _, file := range []string{key, host} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file)
	}
	s.signer = signer(t, key)
	write(t, filepath.Join(dir, "sshd_config"), fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 1000
LogLevel FATAL
Subsystem sftp internal-sftp
`, port, host, key))
	pub, err := os.ReadFile(host + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "known_hosts"), fmt.Sprintf("sshd %s", pub))
	write(t, s.config, fmt.Sprintf(`Host *
  HostName 127.0.0.1
  HostKeyAlias sshd
  Port %d
  IdentityFile %s
  IdentitiesOnly yes
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  BatchMode yes
  LogLevel ERROR
`, port, key, filepath.Join(dir, "known_hosts")))
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.pid = proctest.StartServer(t, "sshd", s.addr, exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(dir, "sshd_config")))
	return s
}

// separation makes the directory that sshd wants when root runs it.
func separation(t *testing.T) {
	t.Helper()
	const dir = "/run/sshd"
	switch err := os.Mkdir(dir, 0o755); {
	case err == nil:
		t.Cleanup(func() { _ = os.Remove(dir) })
	case !errors.Is(err, fs.ErrExist):
		t.Fatal(err)
	}
}

// run runs a program to its end.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	res, err := proctest.Run(t.Context(), limit, "", nil, name, args...)
	if err == nil && res.Status != 0 {
		err = fmt.Errorf("status %d\n%s", res.Status, res.Tail())
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sftp runs OpenSSH's client with commands.
func (s *server) sftp(t *testing.T, commands ...string) {
	t.Helper()
	batch := filepath.Join(t.TempDir(), "batch")
	write(t, batch, strings.Join(commands, "\n")+"\n")
	run(t, "sftp", "-q", "-F", s.config, "-c", cipher, "-b", batch, s.user+"@"+s.name)
}

// client is a session of a client in this process.
type client struct {
	*sftp.Client
	conn *ssh.Client
}

func (c client) Close() error { return errors.Join(c.Client.Close(), c.conn.Close()) }

func (s *server) login(ctx context.Context) (client, error) {
	config := &ssh.ClientConfig{Config: ssh.Config{Ciphers: []string{cipher}}, User: s.user,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(s.signer)},
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil }, // it was started by this test
		Timeout:         time.Minute}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return client{}, err
	}
	sc, channels, requests, err := ssh.NewClientConn(conn, s.addr, config)
	if err != nil {
		return client{}, errors.Join(err, conn.Close())
	}
	c := client{conn: ssh.NewClient(sc, channels, requests)}
	if c.Client, err = sftp.NewClient(c.conn); err != nil {
		return client{}, errors.Join(err, c.conn.Close())
	}
	return c, nil
}

// snapshots counts the snapshots of a gateway.
func snapshots(t *testing.T, c client) int {
	t.Helper()
	list, err := c.ReadDir("/.snapshots")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fi := range list {
		if fi.Name() != "latest" {
			n++
		}
	}
	return n
}

// remote joins the server's directory with a path.
func (s *server) remote(p string) string { return path.Join(s.dir, p) }

// peak resets (with "reset") or reads the highest resident memory of a process, in MiB.
func (s *server) resetPeak(t *testing.T) {
	t.Helper()
	write(t, fmt.Sprintf("/proc/%d/clear_refs", s.pid), "5")
}

func (s *server) peak(t *testing.T) int {
	t.Helper()
	mib, ok := highest(s.pid)
	if !ok {
		t.Fatal("no VmHWM")
	}
	return mib
}

// highest is the highest resident memory of a process, in MiB, while there is one.
func highest(pid int) (mib int, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.Atoi(f[1])
			return kib / 1024, err == nil
		}
	}
	return 0, false
}
