//go:build peers

package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/proctest"
	"github.com/snapgate/gateway/internal/sshclient"
)

// Accounts of the servers that we are a client of.
const (
	sshdUser = "sgupload" // key, certificate or password
	sshdJail = "sgjailed" // chrooted, internal-sftp
	sshdLost = "sglost"   // its chroot directory is missing
	sshdKey  = "sgkey"    // key only
	sshdPass = "correct horse battery"
)

// sshdUsers are the accounts. The first has the user id sshdUID, the others those that follow; all are in
// the group sshdGID.
func sshdUsers() []string { return []string{sshdUser, sshdJail, sshdLost, sshdKey} }

const sshdUID, sshdGID = 65100, 65534

// sshdRig is a directory with keys, and sshds that use them.
type sshdRig struct {
	t    *testing.T
	dir  string
	home string // of the accounts
}

// sshd is OpenSSH's server as root, in a mount namespace of its own: there it has accounts
// with passwords and a directory to chroot to, and the machine keeps its own.
type sshd struct {
	name string
	port int
}

func newSSHDRig(t *testing.T) *sshdRig {
	t.Helper()
	// sshd takes its accounts from /etc/passwd, which only root can replace.
	if os.Getuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("needs root")
	}
	for _, program := range []string{"/usr/sbin/sshd", "unshare", "ssh-keygen", "ssh-agent", "perl"} {
		if !installed(t, program) {
			t.SkipNow()
		}
	}
	r := &sshdRig{t: t, dir: proctest.ShortDir(t)}
	r.home = filepath.Join(r.dir, "home")
	for dir, mode := range map[string]os.FileMode{"": 0o755, "home": 0o777, "root": 0o755, "root/jail": 0o755, "root/jail/up": 0o777, "auth": 0o755} {
		path := filepath.Join(r.dir, dir)
		if err := errors.Join(os.MkdirAll(path, mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"user", "ca", "hostca", "stranger"} {
		r.keygen("-t", "ed25519", "-N", "", "-f", r.path(key))
	}
	r.keygen("-t", "rsa", "-b", "2048", "-N", "", "-f", r.path("rsa"))
	r.keygen("-t", "ed25519", "-N", sshdPass, "-f", r.path("locked"))
	r.keygen("-t", "ed25519", "-N", "", "-f", r.path("certified"))
	r.keygen("-s", r.path("ca"), "-I", "me", "-n", sshdUser, r.path("certified.pub"))
	var keys []byte
	for _, key := range []string{"user", "rsa", "locked"} {
		keys = append(keys, r.read(key+".pub")...)
	}
	for _, user := range sshdUsers() {
		r.write("auth/"+user, string(keys), 0o644)
	}
	r.accounts()
	return r
}

// accounts writes the passwd and shadow files of the servers.
func (r *sshdRig) accounts() {
	r.t.Helper()
	hash, err := exec.Command("perl", "-e", "print crypt($ARGV[0], '$6$saltsalt$')", sshdPass).Output()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, name := range []string{"passwd", "shadow"} {
		text, err := os.ReadFile("/etc/" + name)
		if err != nil {
			r.t.Fatal(err)
		}
		for i, user := range sshdUsers() {
			if name == "passwd" {
				text = fmt.Appendf(text, "%s:x:%d:%d::%s:/bin/sh\n", user, sshdUID+i, sshdGID, r.home)
			} else {
				text = fmt.Appendf(text, "%s:%s:20000:0:99999:7:::\n", user, hash)
			}
		}
		r.write("etc-"+name, string(text), 0o600)
	}
	if err := os.Chmod(r.path("etc-passwd"), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *sshdRig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *sshdRig) read(name string) []byte {
	r.t.Helper()
	data, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return data
}

func (r *sshdRig) write(name, text string, mode os.FileMode) string {
	r.t.Helper()
	path := r.path(name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *sshdRig) keygen(args ...string) {
	r.t.Helper()
	if out, err := exec.Command("ssh-keygen", append([]string{"-q"}, args...)...).CombinedOutput(); err != nil {
		r.t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
}

// start starts a server with host keys of its own (ed25519 with a certificate, RSA) and
// further lines of configuration.
func (r *sshdRig) start(name string, lines ...string) *sshd {
	r.t.Helper()
	s := &sshd{name: name, port: proctest.FreePort(r.t)}
	r.keygen("-t", "ed25519", "-N", "", "-f", r.path(name+"-host"))
	r.keygen("-t", "rsa", "-b", "2048", "-N", "", "-f", r.path(name+"-hostrsa"))
	r.keygen("-s", r.path("hostca"), "-h", "-I", name, "-n", name+".example", r.path(name+"-host.pub"))
	config := r.write(name+"-sshd_config", fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s
HostKey %s
HostCertificate %s
AuthorizedKeysFile %s/%%u
TrustedUserCAKeys %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication yes
KbdInteractiveAuthentication no
LogLevel FATAL
%s
Match User %s
  ChrootDirectory /mnt/jail
  ForceCommand internal-sftp
Match User %s
  ChrootDirectory /mnt/missing
  ForceCommand internal-sftp
Match User %s
  PasswordAuthentication no
`, s.port, r.path(name+"-host"), r.path(name+"-hostrsa"), r.path(name+"-host-cert.pub"), r.path("auth"), r.path("ca.pub"),
		strings.Join(lines, "\n"), sshdJail, sshdLost, sshdKey), 0o600)
	script := `set -e
mount --bind "$1/etc-passwd" /etc/passwd
mount --bind "$1/etc-shadow" /etc/shadow
mount --bind "$1/root" /mnt
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
exec /usr/sbin/sshd -D -e -f "$2"`
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", r.dir, config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	up := func() bool {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	if _, err := proctest.Wait(r.t.Context(), time.Minute, up); err != nil {
		r.t.Fatalf("sshd %s: %v", name, err)
	}
	return s
}

// known is a known_hosts file with a server's key.
func (r *sshdRig) known(t *testing.T, s *sshd, key string) string {
	t.Helper()
	return r.text(t, fmt.Sprintf("[127.0.0.1]:%d %s", s.port, r.read(s.name+"-"+key+".pub")))
}

func (r *sshdRig) text(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// client is a configuration that the server accepts.
func (r *sshdRig) client(t *testing.T, s *sshd) sshclient.Config {
	t.Helper()
	return sshclient.Config{
		Host: "127.0.0.1", Port: s.port, User: sshdUser, Files: []string{}, Agent: sshclient.AgentNone,
		IdentityFiles: []string{r.path("user")}, KnownHosts: []string{r.known(t, s, "host")},
	}
}

// roundTrip stores a file in dir, reads it back and removes it.
func roundTrip(t *testing.T, cfg sshclient.Config, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	c, err := sshclient.Dial(ctx, cfg)
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, sshclient.HintOf(err))
	}
	defer c.Close()
	client, err := c.SFTP(ctx)
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, sshclient.HintOf(err))
	}
	defer client.Close()
	name := dir + "/" + strings.ReplaceAll(t.Name(), "/", "-")
	want := bytes.Repeat([]byte("snapgate"), 100_000)
	f, err := client.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = client.Open(name); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(want), err)
	}
	if err := errors.Join(f.Close(), client.Remove(name)); err != nil {
		t.Error(err)
	}
}

// dialFails dials, which must end in an error of a kind with parts in its text or hint.
func dialFails(t *testing.T, cfg sshclient.Config, kind sshclient.Kind, parts ...string) *sshclient.Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	c, err := sshclient.Dial(ctx, cfg)
	if err == nil {
		_, err = c.SFTP(ctx)
		_ = c.Close()
	}
	var e *sshclient.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("got %v (%v), want the kind %v", err, sshclient.KindOf(err), kind)
	}
	for _, part := range parts {
		if !strings.Contains(e.Error()+"\n"+e.Hint, part) {
			t.Errorf("%q is neither in %q nor in the hint %q", part, e.Error(), e.Hint)
		}
	}
	return e
}

// TestSSHClient logs in to OpenSSH's server in the ways that people set it up.
func TestSSHClient(t *testing.T) {
	r := newSSHDRig(t)
	s := r.start("one", "Subsystem sftp internal-sftp")
	t.Run("logins", func(t *testing.T) {
		for name, change := range map[string]func(t *testing.T, c *sshclient.Config){
			"key":      func(*testing.T, *sshclient.Config) {},
			"key only": func(_ *testing.T, c *sshclient.Config) { c.User = sshdKey },
			"RSA key":  func(_ *testing.T, c *sshclient.Config) { c.IdentityFiles = []string{r.path("rsa")} },
			"encrypted key": func(_ *testing.T, c *sshclient.Config) {
				c.IdentityFiles, c.Passphrase.Bytes = []string{r.path("locked")}, []byte(sshdPass)
			},
			"password":     func(_ *testing.T, c *sshclient.Config) { c.IdentityFiles, c.Password.Bytes = nil, []byte(sshdPass) },
			"certificate":  func(_ *testing.T, c *sshclient.Config) { c.IdentityFiles = []string{r.path("certified")} },
			"agent":        func(t *testing.T, c *sshclient.Config) { c.IdentityFiles, c.Agent = nil, r.agent(t) },
			"RSA host key": func(t *testing.T, c *sshclient.Config) { c.KnownHosts = []string{r.known(t, s, "hostrsa")} },
			"host certificate": func(t *testing.T, c *sshclient.Config) {
				c.Files = []string{r.text(t, "HostKeyAlias one.example\n")}
				c.KnownHosts = []string{r.text(t, "@cert-authority *.example "+string(r.read("hostca.pub")))}
			},
			"hashed known_hosts": func(t *testing.T, c *sshclient.Config) {
				r.keygen("-H", "-f", c.KnownHosts[0])
				if text, err := os.ReadFile(c.KnownHosts[0]); err != nil || !bytes.HasPrefix(text, []byte("|1|")) {
					t.Fatalf("%q, %v", text, err)
				}
			},
			"system's ssh": func(t *testing.T, c *sshclient.Config) {
				c.Transport, c.Files = sshclient.OpenSSH, []string{r.text(t, "IdentitiesOnly yes\n")}
			},
			"legacy algorithms": func(_ *testing.T, c *sshclient.Config) { c.Legacy = true },
			"Match, system's ssh": func(t *testing.T, c *sshclient.Config) {
				c.Transport, c.Host = sshclient.OpenSSH, "alias"
				c.Files = []string{r.text(t, "Match originalhost alias exec true\n  HostName 127.0.0.1\n")}
			},
		} {
			t.Run(name, func(t *testing.T) {
				cfg := r.client(t, s)
				change(t, &cfg)
				roundTrip(t, cfg, r.home)
			})
		}
	})
	t.Run("refusals", func(t *testing.T) { r.refusals(t, s) })
	t.Run("accept-new", func(t *testing.T) { r.acceptNew(t, s) })
	t.Run("jump hosts", func(t *testing.T) { r.jump(t, s) })
	t.Run("chroot", func(t *testing.T) { r.chroot(t, s) })
	t.Run("stores", func(t *testing.T) { r.stores(t, s) })
	t.Run("pull and restore", func(t *testing.T) { r.pulls(t, s) })
}

// agent starts ssh-agent with a key, and returns its socket.
func (r *sshdRig) agent(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(proctest.ShortDir(t), "agent")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	there := func() bool { _, err := os.Stat(socket); return err == nil }
	if _, err := proctest.Wait(t.Context(), time.Minute, there); err != nil {
		t.Fatal(err)
	}
	add := exec.Command("ssh-add", "-q", r.path("user"))
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return socket
}

func (r *sshdRig) refusals(t *testing.T, s *sshd) {
	cfg := r.client(t, s)
	cfg.IdentityFiles = []string{r.path("stranger")}
	e := dialFails(t, cfg, sshclient.KindAuth, "tried publickey", "authorized_keys")
	if !slices.Equal(e.Offered, []string{"publickey", "password"}) {
		t.Errorf("offered methods are %v", e.Offered)
	}
	cfg.User, cfg.Password.Bytes = sshdKey, []byte(sshdPass)
	if e = dialFails(t, cfg, sshclient.KindAuth); !slices.Equal(e.Offered, []string{"publickey"}) {
		t.Errorf("offered methods of a key-only account are %v", e.Offered)
	}
	cfg = r.client(t, s)
	cfg.IdentityFiles = []string{r.path("locked")}
	dialFails(t, cfg, sshclient.KindEncryptedKey, "ssh-add")
	cfg.IdentityFiles, cfg.Password.Bytes = nil, []byte("wrong")
	dialFails(t, cfg, sshclient.KindAuth, "tried password")
	// More keys than MaxAuthTries allows.
	cfg = r.client(t, s)
	cfg.IdentityFiles = nil
	for i := range 8 {
		key := filepath.Join(t.TempDir(), fmt.Sprint("k", i))
		r.keygen("-t", "ed25519", "-N", "", "-f", key)
		cfg.IdentityFiles = append(cfg.IdentityFiles, key)
	}
	dialFails(t, cfg, sshclient.KindAuth, "3 more keys were not tried")
	none := r.start("none")
	dialFails(t, r.client(t, none), sshclient.KindSubsystem, "Subsystem sftp")
	old := r.start("old", "KexAlgorithms diffie-hellman-group14-sha1", "Subsystem sftp internal-sftp")
	cfg = r.client(t, old)
	dialFails(t, cfg, sshclient.KindAlgorithm, "legacy")
	cfg.Legacy = true
	roundTrip(t, cfg, r.home)
}

func (r *sshdRig) acceptNew(t *testing.T, s *sshd) {
	cfg := r.client(t, s)
	file := filepath.Join(t.TempDir(), "ssh", "known_hosts")
	cfg.KnownHosts = []string{file}
	dialFails(t, cfg, sshclient.KindHostKeyUnknown, "accept-new", fmt.Sprintf("[127.0.0.1]:%d ssh-ed25519 ", s.port))
	cfg.HostKeys = sshclient.AcceptNew
	roundTrip(t, cfg, r.home)
	cfg.HostKeys = sshclient.Strict
	roundTrip(t, cfg, r.home)
	// The system's ssh understands the line.
	cfg.Transport, cfg.Files = sshclient.OpenSSH, nil
	roundTrip(t, cfg, r.home)
	// The server is another one now.
	cfg = r.client(t, s)
	cfg.KnownHosts = []string{r.text(t, fmt.Sprintf("[127.0.0.1]:%d %s", s.port, r.read("stranger.pub")))}
	for _, policy := range []sshclient.HostKeyPolicy{sshclient.Strict, sshclient.AcceptNew} {
		cfg.HostKeys = policy
		dialFails(t, cfg, sshclient.KindHostKeyChanged, cfg.KnownHosts[0]+":1", "ssh-keygen -R")
	}
	cfg.Transport, cfg.Files = sshclient.OpenSSH, nil
	dialFails(t, cfg, sshclient.KindHostKeyChanged, cfg.KnownHosts[0]+":1")
}

// jump goes through two other servers, by aliases of ssh_config, with both transports.
func (r *sshdRig) jump(t *testing.T, s *sshd) {
	outer, inner := r.start("outer"), r.start("inner")
	var known strings.Builder
	for _, h := range []*sshd{s, outer, inner} {
		fmt.Fprintf(&known, "%s %s", h.name, r.read(h.name+"-host.pub"))
	}
	config := r.text(t, fmt.Sprintf(`Host web
  Port %d
  HostKeyAlias one
  ProxyJump outer,inner
Host outer
  Port %d
  HostKeyAlias outer
Host inner
  Port %d
  HostKeyAlias inner
Host *
  HostName 127.0.0.1
  User %s
  IdentityFile %s
  IdentitiesOnly yes
  UserKnownHostsFile %s
  GlobalKnownHostsFile none
`, s.port, outer.port, inner.port, sshdUser, r.path("user"), r.text(t, known.String())))
	for _, transport := range []sshclient.Transport{sshclient.Native, sshclient.OpenSSH} {
		roundTrip(t, sshclient.Config{Host: "web", Files: []string{config}, Transport: transport}, r.home)
	}
	cfg := r.client(t, s)
	cfg.Jump = fmt.Sprintf("%s@127.0.0.1:%d", sshdKey, outer.port)
	dialFails(t, cfg, sshclient.KindHostKeyUnknown, strconv.Itoa(outer.port))
	settings := cfg
	settings.KnownHosts = append(slices.Clone(cfg.KnownHosts), r.known(t, outer, "host"))
	settings.Files, settings.Transport = []string{r.text(t, "")}, sshclient.OpenSSH
	roundTrip(t, settings, r.home)
	noForward := r.start("noforward", "AllowTcpForwarding no")
	cfg.Jump = fmt.Sprintf("%s@127.0.0.1:%d", sshdKey, noForward.port)
	cfg.KnownHosts = append(cfg.KnownHosts, r.known(t, noForward, "host"))
	dialFails(t, cfg, sshclient.KindUnreachable, "AllowTcpForwarding")
}

// chroot checks accounts that are confined to a directory, one of which is missing.
func (r *sshdRig) chroot(t *testing.T, s *sshd) {
	cfg := r.client(t, s)
	cfg.User = sshdJail
	roundTrip(t, cfg, "/up")
	c, err := sshclient.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	client, err := c.SFTP(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Stat("/mnt/jail/up"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a path from outside: %v", err)
	}
	if err := client.Mkdir("/new"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("mkdir in the jail: %v", err)
	}
	cfg.User = sshdLost
	dialFails(t, cfg, sshclient.KindChroot, "ChrootDirectory")
	cfg.Transport, cfg.Files = sshclient.OpenSSH, nil
	dialFails(t, cfg, sshclient.KindChroot, "ChrootDirectory")
}

// pulls has a tree of an account pulled, and restored beside it: by one that is confined to a directory, by one that may
// use a key only, and through a jump host.
func (r *sshdRig) pulls(t *testing.T, s *sshd) {
	hop := r.start("hop")
	known := r.text(t, fmt.Sprintf("[127.0.0.1]:%d %s[127.0.0.1]:%d %s", s.port, r.read("one-host.pub"), hop.port, r.read("hop-host.pub")))
	jump := fmt.Sprintf("%s@127.0.0.1:%d", sshdKey, hop.port)
	for _, tt := range []struct {
		name, user string
		dir        string // where the account has its trees
		path       string // of that, as it sees it
		keys       string
	}{
		{"chroot", sshdJail, r.path("root/jail/up"), "/up", ""},
		{"key only", sshdKey, r.home, r.home, ""},
		{"jump host", sshdUser, r.home, r.home, fmt.Sprintf(", jump: %q", jump)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tree, back := tt.user+"-tree", tt.user+"-back"
			dir := filepath.Join(tt.dir, tree)
			pullTree(t, dir, planted{"large", 3<<20 + 1, 0o444})
			uid := sshdUID + slices.Index(sshdUsers(), tt.user)
			err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, uid, sshdGID))
			})
			if err != nil {
				t.Fatal(err)
			}
			want := describe(t, dir)
			keys := fmt.Sprintf("identity: %q, known_hosts: %q, ssh_config: %q, agent: none%s", r.path("user"), known, r.text(t, ""), tt.keys)
			at := fmt.Sprintf("sftp://%s@127.0.0.1:%d%s/", tt.user, s.port, tt.path)
			g := proctest.NewGateway(t, proctest.Options{
				Store: "{ location: ./data/store, plaintext: true, create: true }",
				Extra: fmt.Sprintf("sources: { peer: { location: %q, %s } }\ndestinations: { back: { location: %q, %[2]s } }\n", at+tree, keys, at+back),
			})
			for _, args := range [][]string{{"pull", "peer"}, {"restore", "peer", "--to", "back", "--verify"}} {
				if _, err := g.Command(t.Context(), args[0], args[1:]...); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, describe(t, filepath.Join(tt.dir, back))); diff != "" {
				t.Errorf("restored (-want +got):\n%s", diff)
			}
		})
	}
}
