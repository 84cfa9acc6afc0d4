//go:build peers

package peers

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/snapgate/gateway/internal/proctest"
	"github.com/snapgate/gateway/pull"
)

// ftpPass is the password of ftpUser with all servers.
const (
	ftpUser = "alice"
	ftpPass = "correct horse"
)

// Names of ftpTree.
const (
	latin    = "a/latin-\xe4"
	oddBytes = "a/bytes-\xff\xfe"
	trailing = "trail "
)

// ftpServer is an FTP server of somebody else's, or an SFTP server of theirs.
type ftpServer struct {
	name    string
	program string // in build/servers, or on PATH
	// start returns the command that serves dir in the foreground on a port, and the location
	// of dir with the settings of a source.
	start func(t *testing.T, r *ftpRig, program, dir string, port int) (cmd *exec.Cmd, location, keys string)
	// modes says that modes come back, seconds that times do to the second, and not to the
	// minute.
	modes, seconds bool
	links          bool // there are symbolic links
	// unread and renamed are paths of ftpTree that it does not keep byte for byte: the first cannot be read, the
	// other one cannot be given to a file. All are reported.
	unread  []string
	renamed string
}

// ftpRig has what the servers need: a certificate, and a directory for configurations.
type ftpRig struct{ dir, cert, key, both string }

func newFTPRig(t *testing.T) *ftpRig {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the servers need root")
	}
	dir := proctest.ShortDir(t)
	r := &ftpRig{dir, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem")}
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", r.key, "-out", r.cert,
		"-days", "30", "-subj", "/CN=peer", "-addext", "subjectAltName=IP:127.0.0.1").CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	var both []byte
	for _, file := range []string{r.key, r.cert} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, data...)
	}
	r.write(t, "both.pem", string(both))
	return r
}

// write writes a file of a configuration, readable to its owner alone.
func (r *ftpRig) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// login has the keys of a source that logs in with ftpPass.
func (r *ftpRig) login(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("password_file: %q", r.write(t, "password", ftpPass+"\n"))
}

// servers is where the packages are unpacked.
func servers(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join("../../build/servers", path))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func startProFTPD(modules string, settings string, location func(port int) string, keys func(t *testing.T, r *ftpRig, port int) string) func(*testing.T, *ftpRig, string, string, int) (*exec.Cmd, string, string) {
	return func(t *testing.T, r *ftpRig, program, dir string, port int) (*exec.Cmd, string, string) {
		hash, err := exec.Command("perl", "-e", "print crypt($ARGV[0], '$6$saltsalt$')", ftpPass).Output()
		if err != nil {
			t.Fatal(err)
		}
		users := r.write(t, "passwd", fmt.Sprintf("%s:%s:0:0::%s:/bin/sh\n", ftpUser, hash, dir))
		expand := strings.NewReplacer("CERT", r.cert, "KEY", r.key, "DIR", r.dir)
		config := r.write(t, "proftpd.conf", fmt.Sprintf(`ServerType standalone
ServerName peer
DefaultAddress 127.0.0.1
Port %d
UseIPv6 off
User root
Group root
ModulePath %s
%s
PidFile %[4]s/pid
ScoreboardFile %[4]s/score
SystemLog %[4]s/log
DelayEngine off
WtmpLog off
TransferLog none
AuthOrder mod_auth_file.c
AuthUserFile %[5]s
RequireValidShell off
RootLogin on
UseFtpUsers off
DefaultRoot ~
AllowOverwrite on
AllowStoreRestart on
%[6]s
`, port, servers(t, "usr/lib/proftpd"), modules, r.dir, users, expand.Replace(settings)))
		return exec.Command(program, "-n", "-c", config), location(port), keys(t, r, port)
	}
}

func ftpLocation(port int) string { return fmt.Sprintf("ftp://%s@127.0.0.1:%d/", ftpUser, port) }

// checked has the keys of a source that checks the server's certificate.
func checked(t *testing.T, r *ftpRig, _ int) string {
	return fmt.Sprintf("%s, ca_file: %q", r.login(t), r.cert)
}

func ftpServers() []ftpServer {
	return []ftpServer{
		{
			// It takes \xff for the beginning of a command of Telnet (RFC 959 section 4).
			name: "proftpd, TLS", program: "usr/sbin/proftpd", modes: true, seconds: true, unread: []string{oddBytes},
			start: startProFTPD("LoadModule mod_tls.c",
				"TLSEngine on\nTLSRSACertificateFile CERT\nTLSRSACertificateKeyFile KEY\nTLSRequired on\nTLSLog DIR/tls", ftpLocation, checked),
		},
		{
			name: "proftpd, implicit TLS", program: "usr/sbin/proftpd", modes: true, seconds: true, unread: []string{oddBytes},
			start: startProFTPD("LoadModule mod_tls.c",
				"TLSEngine on\nTLSRSACertificateFile CERT\nTLSRSACertificateKeyFile KEY\nTLSRequired on\nTLSOptions UseImplicitSSL\nTLSLog DIR/tls",
				func(port int) string { return fmt.Sprintf("ftps://%s@127.0.0.1:%d/", ftpUser, port) }, checked),
		},
		{
			// Targets of links that are relative are absolute when they are read, as DefaultRoot confines the login.
			name: "proftpd, mod_sftp", program: "usr/sbin/proftpd", modes: true, seconds: true, links: true,
			start: startProFTPD("LoadModule mod_sftp.c", "SFTPEngine on\nSFTPHostKey DIR/host\nSFTPLog DIR/sftp",
				func(port int) string { return fmt.Sprintf("sftp://%s@127.0.0.1:%d/", ftpUser, port) },
				func(t *testing.T, r *ftpRig, port int) string {
					host := filepath.Join(r.dir, "host")
					if out, err := exec.Command("ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", host).CombinedOutput(); err != nil {
						t.Fatalf("ssh-keygen: %v: %s", err, out)
					}
					key, err := os.ReadFile(host + ".pub")
					if err != nil {
						t.Fatal(err)
					}
					known := r.write(t, "known", fmt.Sprintf("[127.0.0.1]:%d %s", port, key))
					return fmt.Sprintf("%s, known_hosts: %q, ssh_config: %q, agent: none", r.login(t), known, r.write(t, "none", ""))
				}),
		},
		{
			// It makes underscores of blanks at the end.
			name: "pure-ftpd, TLS", program: "usr/sbin/pure-ftpd", modes: true, seconds: true, renamed: trailing,
			start: func(t *testing.T, r *ftpRig, program, dir string, port int) (*exec.Cmd, string, string) {
				users, db := filepath.Join(r.dir, "users"), filepath.Join(r.dir, "users.pdb")
				add := exec.Command(servers(t, "usr/bin/pure-pw"), "useradd", ftpUser, "-f", users, "-F", db, "-u", "65534", "-g", "65534", "-d", dir, "-m")
				add.Stdin = strings.NewReader(ftpPass + "\n" + ftpPass + "\n")
				if out, err := add.CombinedOutput(); err != nil {
					t.Fatalf("pure-pw: %v: %s", err, out)
				}
				// Virtual users are not root.
				if err := os.Chown(dir, 65534, 65534); err != nil {
					t.Fatal(err)
				}
				return exec.Command(program, "-l", "puredb:"+db, "-S", fmt.Sprintf("127.0.0.1,%d", port), "-E", "-A", "-H", "-Y", "2", "-2", r.both, "-g", filepath.Join(r.dir, "pid")),
					ftpLocation(port), checked(t, r, port)
			},
		},
		{
			// Anonymous, since other accounts would be those of the machine. It wants the data
			// connection to continue the TLS session of the control connection.
			name: "vsftpd, TLS with session reuse", program: "usr/sbin/vsftpd", seconds: false,
			start: func(t *testing.T, r *ftpRig, program, dir string, port int) (*exec.Cmd, string, string) {
				// It serves no root that the account can write to: daemon has a directory below.
				empty, back := filepath.Join(r.dir, "empty"), filepath.Join(dir, "back")
				if err := errors.Join(os.Mkdir(empty, 0o755), os.Mkdir(back, 0o755), os.Chown(back, 1, 1)); err != nil {
					t.Fatal(err)
				}
				config := r.write(t, "vsftpd.conf", fmt.Sprintf(`listen=YES
listen_address=127.0.0.1
listen_port=%d
background=NO
anonymous_enable=YES
no_anon_password=YES
local_enable=NO
anon_root=%s
anon_world_readable_only=NO
ftp_username=daemon
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_umask=022
secure_chroot_dir=%s
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
require_ssl_reuse=YES
ssl_ciphers=HIGH
rsa_cert_file=%s
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
`, port, dir, empty, r.both))
				return exec.Command(program, config), fmt.Sprintf("ftp://127.0.0.1:%d/", port), fmt.Sprintf("ca_file: %q", r.cert)
			},
		},
		{
			// It makes question marks of bytes that are not UTF-8.
			name: "pyftpdlib", program: "/usr/bin/python3", seconds: true, modes: true, unread: []string{latin, oddBytes},
			start: func(t *testing.T, r *ftpRig, program, dir string, port int) (*exec.Cmd, string, string) {
				script := r.write(t, "serve.py", fmt.Sprintf(`
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import TLS_FTPHandler
from pyftpdlib.servers import FTPServer
a = DummyAuthorizer()
a.add_user(%q, %q, %q, perm='elradfmwMT')
h = TLS_FTPHandler
h.authorizer, h.certfile, h.tls_control_required, h.tls_data_required = a, %q, True, True
h.use_gmt_times = True
FTPServer(('127.0.0.1', %d), h).serve_forever()
`, ftpUser, ftpPass, dir, r.both, port))
				return exec.Command(program, script), ftpLocation(port), checked(t, r, port)
			},
		},
	}
}

// TestFTPServers pulls a tree from each FTP server of Debian, has stock plakar check it, and
// restores it to another directory of the server and to a local one.
func TestFTPServers(t *testing.T) {
	for _, s := range ftpServers() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			testFTPServer(t, s)
		})
	}
}

func testFTPServer(t *testing.T, s ftpServer) {
	program := s.program
	if !filepath.IsAbs(program) {
		program = servers(t, program)
	}
	if !installed(t, program) {
		t.SkipNow()
	}
	r := newFTPRig(t)
	root := filepath.Join(proctest.ShortDir(t), "files")
	tree := filepath.Join(root, "tree")
	want := ftpTree(t, tree, s)
	port := proctest.FreePort(t)
	cmd, location, keys := s.start(t, r, program, root, port)
	proctest.StartServer(t, s.name, fmt.Sprintf("127.0.0.1:%d", port), cmd)

	g := proctest.NewGateway(t, proctest.Options{Extra: fmt.Sprintf(
		"sources: { peer: { location: %q, %s, timeout: 20s, connections: 3 }, gone: { location: %[4]q, %[2]s } }\n"+
			"destinations: { back: { location: %[3]q, %[2]s, timeout: 20s }, new: { location: %[4]q, %[2]s } }\n",
		location+"tree", keys, location+"back", location+"gone")})
	out, err := g.Command(t.Context(), "pull", "peer")
	if err = reported(err, s.unread...); err != nil {
		t.Fatal(err)
	}
	for _, name := range s.unread {
		delete(want, "/"+name)
	}
	id := strings.TrimSpace(out)
	plakar := proctest.NewPlakar(t, g.Store, g.PassFile)
	if err := plakar.Check(t.Context(), id[:8]); err != nil {
		t.Error(err)
	}
	local := filepath.Join(t.TempDir(), "local")
	if _, err := g.Command(t.Context(), "restore", "peer", "--to", local); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, ftpDescribe(t, local, s)); diff != "" {
		t.Errorf("pulled and restored (-want +got):\n%s", diff)
	}
	// What is not there is told, and could be made.
	if _, err := g.Command(t.Context(), "pull", "gone"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a directory that is not there: %v", err)
	}
	if _, err := g.Command(t.Context(), "restore", "peer", "--to", "new", "--dry-run"); err != nil {
		t.Errorf("a dry run to a directory that is not there: %v", err)
	}
	again, err := g.Command(t.Context(), "pull", "--quiet", "peer")
	if reported(err, s.unread...) != nil || strings.TrimSpace(again) != id {
		t.Errorf("nothing has changed: %q, %v; want %s", again, err, id)
	}
	_, err = g.Command(t.Context(), "restore", "peer", "--to", "back", "--verify")
	back := ftpDescribe(t, filepath.Join(root, "back"), s)
	var named []string
	if s.renamed != "" {
		named = []string{s.renamed}
		delete(want, "/"+s.renamed)
		delete(back, "/"+strings.TrimSpace(s.renamed)+"_")
	}
	if err = reported(err, named...); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, back); diff != "" {
		t.Errorf("restored to the server (-want +got):\n%s", diff)
	}
}

// reported returns the error of a command that has not named just the paths that it is to name.
func reported(err error, paths ...string) error {
	if len(paths) == 0 {
		return err
	}
	count := "\n" + pull.Count(int64(len(paths)), "problem", "problems") + ":\n"
	if err == nil || !strings.Contains(err.Error(), count) {
		return fmt.Errorf("%d paths are to be reported: %w", len(paths), err)
	}
	for _, p := range paths {
		shown := strings.TrimRightFunc(p, func(r rune) bool { return r == utf8.RuneError || r == ' ' }) // as it is
		if !strings.Contains(err.Error(), "/"+shown) {
			return fmt.Errorf("%q is to be reported: %w", p, err)
		}
	}
	return nil
}

// ftpTree makes a tree of what a server carries and describes it.
func ftpTree(t *testing.T, dir string, s ftpServer) map[string]string {
	t.Helper()
	tree := []planted{
		{"empty", 0, 0o644}, {"one", 1, 0o604}, {"with blanks  in it", 5000, 0o644}, {"a/b/c/deep", 100, 0o755},
		{"a/ünï", 10, 0o644}, {"large", 5<<20 + 7, 0o644}, {"-rw-r--r--", 3, 0o644},
		{latin, 20, 0o604}, {oddBytes, 21, 0o604}, {" lead", 22, 0o604}, {trailing, 23, 0o604},
	}
	for i := range 40 { // more than there are connections: transfers are prepared
		tree = append(tree, planted{fmt.Sprintf("many/%02d", i), 100 + i, 0o644})
	}
	plant(t, dir, newRand(11), time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC), tree)
	if err := os.Mkdir(filepath.Join(dir, "a", "nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
	if s.links {
		for name, target := range map[string]string{"link": "/tree/a/b", "a/nowhere": "/not/there"} {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return ftpDescribe(t, dir, s)
}

// ftpDescribe describes a tree as far as a server shows it.
func ftpDescribe(t *testing.T, dir string, s ftpServer) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		var line strings.Builder
		switch info.Mode().Type() {
		case fs.ModeDir:
			line.WriteString("directory")
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line.WriteString("link to " + target)
		default:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			precision := time.Minute
			if s.seconds {
				precision = time.Second
			}
			fmt.Fprintf(&line, "%d bytes %x %v", len(data), sha256.Sum256(data), info.ModTime().UTC().Truncate(precision))
		}
		if s.modes {
			fmt.Fprintf(&line, " %v", info.Mode().Perm())
		}
		out[path[len(dir):]] = line.String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
