package sshclient

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func keyText(tb testing.TB, n byte) string {
	tb.Helper()
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(testPublicKey(tb, n))))
}

func TestVerify(t *testing.T) {
	key, other := keyText(t, hostKey), keyText(t, otherKey)
	const good = Kind(255) // stands for no error
	for name, test := range map[string]struct {
		hop   hop
		lines string
		want  Kind
	}{
		"known":                   {hop{host: "web", port: 22}, "web " + key, good},
		"unknown":                 {hop{host: "web", port: 22}, "db " + key, KindHostKeyUnknown},
		"empty":                   {hop{host: "web", port: 22}, "", KindHostKeyUnknown},
		"changed":                 {hop{host: "web", port: 22}, "web " + other, KindHostKeyChanged},
		"one of two":              {hop{host: "web", port: 22}, "web " + other + "\nweb " + key, good},
		"list":                    {hop{host: "web", port: 22}, "db,web,192.0.2.1 " + key, good},
		"pattern":                 {hop{host: "a.example.com", port: 22}, "*.example.com " + key, good},
		"negated":                 {hop{host: "a.example.com", port: 22}, "!a.*,*.example.com " + key, KindHostKeyUnknown},
		"upper case":              {hop{host: "web", port: 22}, "WEB " + key, good},
		"hashed":                  {hop{host: "web", port: 22}, knownhosts.HashHostname("web") + " " + key, good},
		"hashed, other":           {hop{host: "web", port: 22}, knownhosts.HashHostname("db") + " " + key, KindHostKeyUnknown},
		"hashed, changed":         {hop{host: "web", port: 22}, knownhosts.HashHostname("web") + " " + other, KindHostKeyChanged},
		"hashed with port":        {hop{host: "web", port: 2222}, knownhosts.HashHostname("[web]:2222") + " " + key, good},
		"port":                    {hop{host: "web", port: 2222}, "[web]:2222 " + key, good},
		"other port":              {hop{host: "web", port: 2222}, "[web]:2223 " + key, KindHostKeyUnknown},
		"port not named":          {hop{host: "web", port: 2222}, "web " + key, good},
		"port not named, other":   {hop{host: "web", port: 2222}, "web " + other, KindHostKeyUnknown},
		"port decides":            {hop{host: "web", port: 2222}, "web " + key + "\n[web]:2222 " + other, KindHostKeyChanged},
		"IPv6":                    {hop{host: "2001:db8::1", port: 22}, "2001:db8::1 " + key, good},
		"IPv6 with port":          {hop{host: "2001:db8::1", port: 2222}, "[2001:db8::1]:2222 " + key, good},
		"alias":                   {hop{host: "web", port: 2222, hostKeyAlias: "Cluster"}, "cluster " + key, good},
		"alias, not the name":     {hop{host: "web", port: 22, hostKeyAlias: "cluster"}, "web " + key, KindHostKeyUnknown},
		"revoked":                 {hop{host: "web", port: 22}, "web " + key + "\n@revoked * " + key, KindHostKeyRevoked},
		"other revoked":           {hop{host: "web", port: 22}, "web " + key + "\n@revoked * " + other, good},
		"authority is no key":     {hop{host: "web", port: 22}, "@cert-authority web " + key, KindHostKeyUnknown},
		"unreadable line":         {hop{host: "web", port: 22}, "db ssh-new AAAA\n???\nweb " + key, good},
		"unknown marker":          {hop{host: "web", port: 22}, "@foo web " + key, KindHostKeyUnknown},
		"comments and empty ones": {hop{host: "web", port: 22}, "# x\n\n  web\t" + key + " me@here\r\n", good},
	} {
		t.Run(name, func(t *testing.T) {
			test.hop.name = test.hop.host
			file := writeFile(t, filepath.Join(t.TempDir(), "kh"), test.lines)
			test.hop.knownHosts = []string{file, filepath.Join(t.TempDir(), "missing")}
			known, err := test.hop.readKnownHosts()
			if err == nil {
				err = known.verify(&test.hop, testPublicKey(t, hostKey))
			}
			got := good
			if err != nil {
				got = KindOf(err)
			}
			if got != test.want {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestVerifyAsSSHKeygen compares which lines are for a name with "ssh-keygen -F".
func TestVerifyAsSSHKeygen(t *testing.T) {
	key := keyText(t, hostKey)
	lines := []string{
		"web " + key, "db,web " + key, "WEB " + key, "w*b " + key, "w?b " + key, "!web,* " + key, "* " + key, "[web]:2222 " + key, "[web]:* " + key,
		"[w*]:2222 " + key, knownhosts.HashHostname("web") + " " + key, knownhosts.HashHostname("[web]:2222") + " " + key, "|1|bad|bad " + key,
		"web,!web " + key, "2001:db8::1 " + key, "[2001:db8::1]:2222 " + key, "web.example.com " + key,
	}
	for _, host := range []hop{{host: "web", port: 22}, {host: "web", port: 2222}, {host: "2001:db8::1", port: 22}, {host: "2001:db8::1", port: 2222}} {
		for _, line := range lines {
			file := writeFile(t, filepath.Join(t.TempDir(), "kh"), line+"\n")
			out, err := exec.Command("ssh-keygen", "-F", host.knownName(), "-f", file).Output()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			parsed, err := parseKnownHosts(file, []byte(line))
			if err != nil {
				t.Fatal(err)
			}
			got := len(parsed) > 0 && parsed[0].matches(host.knownName())
			if want := len(out) > 0; got != want {
				t.Errorf("%.40s… for %s: we say %v, ssh-keygen %v", line, host.knownName(), got, want)
			}
		}
	}
}

func TestHostKeyErrors(t *testing.T) {
	s := newServer(t, nil)
	cfg := s.client()
	none := filepath.Join(t.TempDir(), "kh")
	cfg.KnownHosts = []string{none}
	e := failure(t, cfg, KindHostKeyUnknown, ssh.FingerprintSHA256(testPublicKey(t, hostKey)), "accept-new", none)
	if want := strings.TrimSpace(knownLineFor(t, s.name(), hostKey)); e.Line != want {
		t.Errorf("the line to add is %q, want %q", e.Line, want)
	}
	// The line of the message makes it work.
	writeFile(t, none, e.Line+"\n")
	works(t, dial(t, cfg))

	cfg.KnownHosts = []string{s.known(otherKey)}
	for _, policy := range []HostKeyPolicy{Strict, AcceptNew} {
		cfg.HostKeys = policy
		e = failure(t, cfg, KindHostKeyChanged, ssh.FingerprintSHA256(testPublicKey(t, hostKey)), ssh.FingerprintSHA256(testPublicKey(t, otherKey)),
			cfg.KnownHosts[0]+":1", "ssh-keygen -R '"+s.name()+"'")
		if len(e.Known) != 1 || e.Known[0].Line != 1 {
			t.Errorf("known keys are %v", e.Known)
		}
	}
	if got, err := os.ReadFile(cfg.KnownHosts[0]); err != nil || strings.Count(string(got), "\n") != 1 {
		t.Errorf("known_hosts was changed: %q, %v", got, err)
	}
}

func TestInsecureIsLoud(t *testing.T) {
	s := newServer(t, nil)
	cfg := s.client()
	var log logged
	cfg.KnownHosts, cfg.HostKeys, cfg.Log = []string{s.known(otherKey)}, Insecure, log.logger()
	works(t, dial(t, cfg))
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "not checked") {
		t.Errorf("logged %q", log.String())
	}
}

// TestAcceptNewAtOnce has many connections see a new server at once: one line is added, the
// file and its directory are private, and a missing last newline is no trap.
func TestAcceptNewAtOnce(t *testing.T) {
	s := newServer(t, nil)
	for name, before := range map[string]string{"new file": "", "no last newline": knownLineFor(t, "other", otherKey)[:40] + "\n# end"} {
		t.Run(name, func(t *testing.T) {
			cfg := s.client()
			var log logged
			file := filepath.Join(t.TempDir(), ".ssh", "known_hosts")
			if before != "" {
				writeFile(t, file, before)
			}
			cfg.KnownHosts, cfg.HostKeys, cfg.Log = []string{file}, AcceptNew, log.logger()
			var g errgroup.Group
			for range 4 {
				d, err := New(cfg) // each with a lock of its own
				if err != nil {
					t.Fatal(err)
				}
				for range 3 {
					g.Go(func() error {
						c, err := d.Dial(t.Context())
						if err != nil {
							return err
						}
						return c.Close()
					})
				}
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := knownLineFor(t, s.name(), hostKey)
			if before != "" {
				want = before + "\n" + want
			}
			if string(got) != want {
				t.Errorf("known_hosts is %q, want %q", got, want)
			}
			if before == "" {
				checkMode(t, file, 0o600)
				checkMode(t, filepath.Dir(file), 0o700|os.ModeDir)
			}
			if n := strings.Count(log.String(), "is trusted from now on"); n != 1 {
				t.Errorf("%d warnings that a key is trusted", n)
			}
			// Another server at that address is refused from now on.
			imposter := newServer(t, func(s *server) {
				s.config.ServerVersion = "SSH-2.0-ownkeys"
				s.config.AddHostKey(testSigner(t, otherKey))
			})
			writeFile(t, file, strings.ReplaceAll(string(got), s.name(), imposter.name()))
			cfg.Port = imposter.port()
			failure(t, cfg, KindHostKeyChanged)
		})
	}
}

// TestKeysKeptNowhere connects with the lines of ssh_config that take each key and keep none.
func TestKeysKeptNowhere(t *testing.T) {
	s := newServer(t, nil)
	cfg := s.client()
	cfg.KnownHosts = nil
	cfg.Files = []string{writeFile(t, filepath.Join(t.TempDir(), "config"), "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n")}
	works(t, dial(t, cfg))
}

func checkMode(t *testing.T, file string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s has mode %v, want %v", file, info.Mode(), want)
	}
}

// TestLockedForEver does not wait for ever for a process that holds the lock.
func TestLockedForEver(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "kh"), "")
	open := func() *os.File {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	holder, waiter := open(), open()
	if err := lockFile(holder, 0); err != nil {
		t.Fatal(err)
	}
	if err := lockFile(waiter, 20*time.Millisecond); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatalf("got %v", err)
	}
	_ = holder.Close()
	if err := lockFile(waiter, patience); err != nil {
		t.Fatal(err)
	}
}

// TestAcceptNewHashed checks that HashKnownHosts hashes the name.
func TestAcceptNewHashed(t *testing.T) {
	s := newServer(t, nil)
	cfg := s.client()
	file := filepath.Join(t.TempDir(), "kh")
	cfg.KnownHosts = nil
	cfg.Files = []string{writeFile(t, filepath.Join(t.TempDir(), "c"), "HashKnownHosts yes\nStrictHostKeyChecking accept-new\nUserKnownHostsFile "+file+"\n")}
	works(t, dial(t, cfg))
	works(t, dial(t, cfg))
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(got); !strings.HasPrefix(text, "|1|") || strings.Count(text, "\n") != 1 || strings.Contains(text, "127.0.0.1") {
		t.Errorf("known_hosts is %q", text)
	}
}

// TestSeveralHostKeys checks that a server with several keys is asked for the known one.
func TestSeveralHostKeys(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, func(s *server) { s.config.AddHostKey(signer) }) // besides the ed25519 one
	cfg := s.client()
	cfg.KnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "kh"), s.name()+" "+string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}
	works(t, dial(t, cfg))
}

// hostCertificate is a certificate that authority n signs for a host's key.
func hostCertificate(t *testing.T, n byte, typ uint32, principals ...string) ssh.Signer {
	t.Helper()
	cert := &ssh.Certificate{Key: testPublicKey(t, hostKey), CertType: typ, ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, testSigner(t, n)); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewCertSigner(cert, testSigner(t, hostKey))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHostCertificates(t *testing.T) {
	const authority = 31
	for name, test := range map[string]struct {
		typ        uint32
		principals []string
		line       string
		ok         bool
	}{
		"good":           {ssh.HostCert, []string{"127.0.0.1"}, "@cert-authority 127.0.0.1 ", true},
		"pattern":        {ssh.HostCert, []string{"127.0.0.*"}, "@cert-authority * ", true},
		"other host":     {ssh.HostCert, []string{"db"}, "@cert-authority * ", false},
		"user's":         {ssh.UserCert, []string{"127.0.0.1"}, "@cert-authority * ", false},
		"not the host's": {ssh.HostCert, []string{"127.0.0.1"}, "@cert-authority *.example.com ", false},
		"revoked":        {ssh.HostCert, []string{"127.0.0.1"}, "@revoked * " + keyText(t, authority) + "\n@cert-authority * ", false},
	} {
		t.Run(name, func(t *testing.T) {
			signer := hostCertificate(t, authority, test.typ, test.principals...)
			s := newServer(t, func(s *server) {
				s.config.ServerVersion = "SSH-2.0-ownkeys"
				s.config.AddHostKey(signer)
				s.config.AddHostKey(testSigner(t, hostKey)) // what it shows to who knows no authority
			})
			cfg := s.client()
			cfg.KnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "kh"), test.line+keyText(t, authority)+"\n")}
			if test.ok {
				works(t, dial(t, cfg))
				return
			}
			c, err := Dial(t.Context(), cfg)
			if err == nil {
				_ = c.Close()
			}
			if k := KindOf(err); k != KindHostKeyUnknown && k != KindHostKeyRevoked {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestBadCertificate checks that the key of a certificate which is not good counts like any other, as
// with ssh, unless it is revoked.
func TestBadCertificate(t *testing.T) {
	const authority = 31
	cert := &ssh.Certificate{Key: testPublicKey(t, hostKey), CertType: ssh.HostCert, ValidPrincipals: []string{"web"}, ValidBefore: 1}
	if err := cert.SignCert(rand.Reader, testSigner(t, authority)); err != nil {
		t.Fatal(err)
	}
	key, other, ca := "web "+keyText(t, hostKey)+"\n", "web "+keyText(t, otherKey)+"\n", keyText(t, authority)
	const good = Kind(255) // stands for no error
	for name, test := range map[string]struct {
		lines string
		want  Kind
	}{
		"key known":                    {key, good},
		"key unknown":                  {"", KindHostKeyUnknown},
		"other key known":              {other, KindHostKeyChanged},
		"key known, authority revoked": {key + "@revoked * " + ca + "\n", KindHostKeyRevoked},
		"key known and revoked":        {key + "@revoked * " + keyText(t, hostKey) + "\n", KindHostKeyRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hop{name: "web", host: "web", port: 22}
			lines, err := parseKnownHosts("kh", []byte("@cert-authority * "+ca+"\n"+test.lines))
			if err != nil {
				t.Fatal(err)
			}
			got := good
			err = knownHosts(lines).verify(h, cert)
			if err != nil {
				got = KindOf(err)
			}
			if got != test.want {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			var e *Error
			if errors.As(err, &e) && got == KindHostKeyUnknown && (e.Line != "" || !strings.Contains(e.Error(), "certificate")) {
				t.Errorf("%v, with the line %q: want that of the certificate, which accept-new does not take", err, e.Line)
			}
		})
	}
}

// TestJump goes through two jump hosts, each with a key of its own, and checks that the
// password of the server is not shown to them.
func TestJump(t *testing.T) {
	var seen []string
	spy := func(s *server) {
		s.forward = true
		s.config.PasswordCallback = func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			seen = append(seen, string(p))
			return nil, errors.New("no")
		}
	}
	a, b := newServer(t, spy), newServer(t, spy)
	last := newServer(t, func(s *server) {
		s.config.PublicKeyCallback = nil
		s.config.PasswordCallback = func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			if string(p) != "secret" {
				return nil, errors.New("no")
			}
			return nil, nil
		}
	})
	cfg := last.client()
	cfg.Password = Secret{Bytes: []byte("secret")}
	cfg.Jump = "me@" + strings.Trim(a.addr, " ") + ",me@" + b.addr
	known := knownLineFor(t, a.name(), hostKey) + knownLineFor(t, b.name(), hostKey) + knownLineFor(t, last.name(), hostKey)
	cfg.KnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "kh"), known)}
	works(t, dial(t, cfg))
	if a.connections() != 1 || b.connections() != 1 || last.connections() != 1 {
		t.Errorf("connections: %d, %d, %d", a.connections(), b.connections(), last.connections())
	}
	// Each hop's key is checked.
	for _, s := range []*server{a, b, last} {
		cfg.KnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "kh"), strings.ReplaceAll(known, knownLineFor(t, s.name(), hostKey), ""))}
		failure(t, cfg, KindHostKeyUnknown, s.addr)
	}
	// What a jump host cannot reach.
	cfg.KnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "kh"), known)}
	dead := cfg
	dead.Port = 1
	failure(t, dead, KindRefused, "127.0.0.1:1", "jump host")
	closed := newServer(t, nil)
	cfg.Jump = "me@" + closed.addr
	cfg.KnownHosts = []string{closed.known(hostKey)}
	failure(t, cfg, KindUnreachable, "AllowTcpForwarding")
	if len(seen) > 0 {
		t.Errorf("jump hosts saw passwords: %q", seen)
	}
}

// TestIPv6 reaches hosts by addresses of IPv6, which the jump hosts stand for, and finds their keys by them.
func TestIPv6(t *testing.T) {
	forwards := func(addr, to string) func(*server) {
		return func(s *server) { s.forward, s.routes = true, map[string]string{addr: to} }
	}
	last := newServer(t, nil)
	b := newServer(t, forwards("[2001:db8::1]:2222", last.addr))
	a := newServer(t, forwards("[2001:db8::2]:22", b.addr))
	cfg := last.client()
	cfg.Host, cfg.Port, cfg.Jump = "2001:db8::1", 2222, "me@"+a.addr+",me@[2001:db8::2]"
	names := []string{a.name(), "2001:db8::2", "[2001:db8::1]:2222"}
	for i := range names {
		var known string
		for j, name := range names {
			if j != i {
				known += knownLineFor(t, name, hostKey)
			}
		}
		file := filepath.Join(t.TempDir(), "known")
		cfg.KnownHosts = []string{writeFile(t, file, known)}
		failure(t, cfg, KindHostKeyUnknown, names[i])
		writeFile(t, file, known+knownLineFor(t, names[i], hostKey))
		works(t, dial(t, cfg))
	}
	if last.connections() != len(names)+1 { // one of them when its own key was not known
		t.Errorf("%d connections", last.connections())
	}
}

// TestJumpByAlias resolves each hop through ssh_config.
func TestJumpByAlias(t *testing.T) {
	jump, last := newServer(t, func(s *server) { s.forward = true }), newServer(t, nil)
	cfg := last.client()
	key := cfg.IdentityFiles[0]
	file := writeFile(t, filepath.Join(t.TempDir(), "kh"), knownLineFor(t, "the-jump", hostKey)+knownLineFor(t, "the-server", hostKey))
	cfg.IdentityFiles, cfg.KnownHosts, cfg.Host, cfg.Port, cfg.User = nil, nil, "web", 0, ""
	cfg.Files = []string{writeFile(t, filepath.Join(t.TempDir(), "c"), strings.NewReplacer("FILE", file, "KEY", key, "JUMP", portOf(jump), "LAST", portOf(last)).Replace(`Host web
  ProxyJump bastion
  Port LAST
  HostKeyAlias the-server
Host bastion
  Port JUMP
  HostKeyAlias the-jump
Host *
  HostName 127.0.0.1
  IdentityFile KEY
  UserKnownHostsFile FILE
  User bob
`))}
	c := dial(t, cfg)
	works(t, c)
	if user := c.SSH().User(); user != "bob" {
		t.Errorf("user %q", user)
	}
	if got := jump.connections(); got != 1 {
		t.Errorf("%d connections to the jump host", got)
	}
}

func portOf(s *server) string { return s.addr[strings.LastIndexByte(s.addr, ':')+1:] }

func TestOrder(t *testing.T) {
	lines, err := parseKnownHosts("f", []byte("web "+keyText(t, hostKey)+"\n@cert-authority db "+keyText(t, otherKey)+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	known, all := knownHosts(lines), defaultAlgorithms(false).hostKeys
	got := known.order(&hop{host: "web", port: 22}, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoED25519, ssh.CertAlgoED25519v01})
	if want := []string{ssh.KeyAlgoED25519, ssh.KeyAlgoRSASHA512}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := known.order(&hop{host: "db", port: 22}, all); got[0] != ssh.CertAlgoED25519v01 {
		t.Errorf("with an authority, %v comes first", got[0])
	}
	if got := known.order(&hop{host: "new", port: 22}, all); got[0] != ssh.KeyAlgoED25519 {
		t.Errorf("without a line, %v comes first", got[0])
	}
}
