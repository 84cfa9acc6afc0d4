package sshclient

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// viaSSH is a configuration that reaches the server through the system's ssh.
func (s *server) viaSSH() Config {
	s.tb.Helper()
	cfg := s.client()
	cfg.Transport = OpenSSH
	cfg.Files = []string{writeFile(s.tb, filepath.Join(s.tb.TempDir(), "c"), "IdentitiesOnly yes\n")}
	return cfg
}

func TestOpenSSH(t *testing.T) {
	s := newServer(t, nil)
	c := dial(t, s.viaSSH())
	works(t, c)
	works(t, c)
	if c.SSH() != nil {
		t.Error("there is no ssh.Client")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	<-c.Done()
	if _, err := c.SFTP(t.Context()); err == nil {
		t.Error("a session after Close")
	}
}

// TestOpenSSHInsecure reaches a server whose key no file has: ssh takes it only when it has a file to add it to.
func TestOpenSSHInsecure(t *testing.T) {
	cfg := newServer(t, nil).viaSSH()
	cfg.KnownHosts, cfg.HostKeys = nil, Insecure
	works(t, dial(t, cfg))
}

func TestOpenSSHErrors(t *testing.T) {
	s := newServer(t, nil)
	noSubsystem := newServer(t, func(s *server) { s.noSubsystem = true })
	greeting := newServer(t, func(s *server) { s.session = greet })
	closed := func() int {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().(*net.TCPAddr).Port
	}()
	for name, test := range map[string]struct {
		change func(c *Config)
		kind   Kind
		parts  []string
	}{
		"wrong key":   {func(c *Config) { c.IdentityFiles = []string{keyFile(t, 12, "")} }, KindAuth, []string{"Permission denied", "authorized_keys"}},
		"unknown":     {func(c *Config) { c.KnownHosts, c.HostKeys = []string{"/nowhere/kh"}, Strict }, KindHostKeyUnknown, []string{"ssh-keyscan"}},
		"changed":     {func(c *Config) { c.KnownHosts = []string{s.known(otherKey)} }, KindHostKeyChanged, []string{ssh.FingerprintSHA256(testPublicKey(t, hostKey)), ":1"}},
		"refused":     {func(c *Config) { c.Port = closed }, KindRefused, []string{"refused"}},
		"no name":     {func(c *Config) { c.Host = "no-such-host.invalid" }, KindDNS, []string{"no-such-host.invalid"}},
		"subsystem":   {func(c *Config) { c.Port, c.KnownHosts = noSubsystem.port(), []string{noSubsystem.known(hostKey)} }, KindSubsystem, []string{"Subsystem sftp"}},
		"text":        {func(c *Config) { c.Port, c.KnownHosts = greeting.port(), []string{greeting.known(hostKey)} }, KindSubsystem, []string{`text instead of SFTP: "Welcome to ?[31mdb1!"`, "start files"}},
		"encrypted":   {func(c *Config) { c.IdentityFiles = []string{keyFile(t, userKey, "x")} }, KindAuth, []string{"agent"}},
		"bad setting": {func(c *Config) { c.Files = []string{writeFile(t, filepath.Join(t.TempDir(), "c"), "Nonsense yes\n")} }, KindConfig, []string{"nonsense", "ssh -G"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.viaSSH()
			test.change(&cfg)
			streamFailure(t, cfg, test.kind, test.parts...)
			e := failure(t, cfg, test.kind, test.parts...)
			if test.kind == KindAuth && !slices.Equal(e.Offered, []string{"publickey"}) {
				t.Errorf("offered methods are %v", e.Offered)
			}
			if test.kind == KindHostKeyChanged && (len(e.Known) != 1 || e.Known[0].Fingerprint != ssh.FingerprintSHA256(testPublicKey(t, otherKey))) {
				t.Errorf("known keys are %v", e.Known)
			}
		})
	}
}

// TestOpenSSHMatch has the configuration that the native transport sends here.
func TestOpenSSHMatch(t *testing.T) {
	s := newServer(t, nil)
	cfg := s.viaSSH()
	key := cfg.IdentityFiles[0]
	cfg.IdentityFiles, cfg.Host = nil, "web"
	cfg.Files = []string{writeFile(t, filepath.Join(t.TempDir(), "c"), "Match originalhost web exec \"exit 0\"\n  HostName 127.0.0.1\n  HostKeyAlias "+
		s.name()+"\n  IdentitiesOnly yes\n  IdentityFile "+key+"\n")}
	works(t, dial(t, cfg))
	cfg.Transport = Native
	failure(t, cfg, KindUnsupported, "Match exec", "transport: openssh")
}

func TestOpenSSHCancel(t *testing.T) {
	s := &server{tb: t}
	reached := make(chan struct{}, 1)
	release := make(chan struct{})
	s.addr = s.listen(func(net.Conn) {
		reached <- struct{}{}
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	if _, err := Dial(ctx, s.viaSSH()); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	cfg := s.viaSSH()
	cfg.LoginTimeout = 100 * time.Millisecond
	failure(t, cfg, KindTimeout, "no login within 100ms")
}

// viaJumps makes a configuration that reaches a server through the system's ssh and two jump hosts. Its files have
// names that a shell and ssh would take for something else.
func viaJumps(t *testing.T) (cfg Config, servers []*server, known string) {
	t.Helper()
	last := newServer(t, nil)
	for range 2 {
		servers = append(servers, newServer(t, func(s *server) { s.forward = true }))
	}
	cfg = last.viaSSH()
	cfg.Jump = "me@" + servers[0].addr + ",me@" + servers[1].addr
	servers = append(servers, last)
	dir := filepath.Join(t.TempDir(), `a "b' $HOME %h \`+"`c` &# ü!(~)*")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(cfg.IdentityFiles[0])
	if err != nil {
		t.Fatal(err)
	}
	cfg.IdentityFiles = []string{writeFile(t, filepath.Join(dir, "key"), string(key))}
	cfg.Files = []string{writeFile(t, filepath.Join(dir, "config"), "IdentitiesOnly yes\n")}
	for _, s := range servers {
		known += knownLineFor(t, s.name(), hostKey)
	}
	dir = strings.ReplaceAll(dir, "%", "") // tokens count in names of known_hosts files
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg.KnownHosts, cfg.HostKeys = []string{writeFile(t, filepath.Join(dir, "known"), known)}, Strict
	return cfg, servers, known
}

// TestOpenSSHJump has jump hosts that only the settings know: ssh's own ProxyJump gives them none.
func TestOpenSSHJump(t *testing.T) {
	cfg, servers, known := viaJumps(t)
	t.Setenv("SHELL", "/bin/false") // as accounts of services have it
	works(t, dial(t, cfg))
	for _, s := range servers {
		if got := s.connections(); got != 1 {
			t.Errorf("%d connections to %s", got, s.addr)
		}
	}
	for _, s := range servers { // the key of each is checked
		cfg.KnownHosts = []string{writeFile(t, filepath.Join(t.TempDir(), "kh"), strings.ReplaceAll(known, knownLineFor(t, s.name(), hostKey), ""))}
		failure(t, cfg, KindHostKeyUnknown)
	}
	cfg.HostKeys, cfg.KnownHosts = Insecure, nil
	works(t, dial(t, cfg))
}

// TestOpenSSHAsksNobody has an ssh that ssh starts by itself, for a jump host of ssh_config: it has no BatchMode.
func TestOpenSSHAsksNobody(t *testing.T) {
	jump := newServer(t, func(s *server) { s.forward = true })
	cfg := newServer(t, nil).viaSSH()
	dir := t.TempDir()
	cfg.Files = []string{writeFile(t, filepath.Join(dir, "c"), "Host bastion\n HostName 127.0.0.1\n Port "+portOf(jump)+"\n ProxyJump none\n"+
		"Host *\n ProxyJump bastion\n IdentitiesOnly yes\n UserKnownHostsFile "+filepath.Join(dir, "none")+"\n GlobalKnownHostsFile none\n")}
	asked := filepath.Join(dir, "asked")
	ask := writeFile(t, filepath.Join(dir, "ask"), "#!/bin/sh\n: > "+asked+"\necho yes\n")
	if err := os.Chmod(ask, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_ASKPASS", ask)
	t.Setenv("SSH_ASKPASS_REQUIRE", "force")
	failure(t, cfg, KindHostKeyUnknown)
	if _, err := os.Stat(asked); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("somebody was asked: %v", err)
	}
}

// TestSSHArgs checks that a name can be nothing but a name, and that ssh never asks.
func TestSSHArgs(t *testing.T) {
	d, err := New(Config{Host: "web", Transport: OpenSSH, User: "a", KnownHosts: []string{`/k "x" \y`, "/z"}, Jump: "b", HostKeys: AcceptNew, KeepAlive: 1500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	args, err := d.sshArgs()
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(args, " ")
	for _, part := range []string{`BatchMode="yes"`, `UserKnownHostsFile="/k \"x\" \\y" "/z"`, `ServerAliveInterval="2"`, `StrictHostKeyChecking="accept-new"`} {
		if !strings.Contains(line, part) {
			t.Errorf("%q is not in %q", part, line)
		}
	}
	if strings.Contains(line, "ProxyJump") || !strings.Contains(line, `ProxyCommand=ssh -x -a -T`) || strings.Count(line, "BatchMode=") != 2 {
		t.Errorf("the jump host has no options of its own in %q", line)
	}
	if tail := args[len(args)-4:]; !slices.Equal(tail, []string{"-s", "--", "web", "sftp"}) {
		t.Errorf("the arguments end in %q", tail)
	}
	d.cfg.Jump = "none"
	if args, err := d.sshArgs(); err != nil || !slices.Contains(args, "ProxyJump=none") {
		t.Errorf("jump: none makes %q, %v", args, err)
	}
	d.cfg.IdentityFiles = []string{"/k\nProxyCommand=x"}
	if _, err := d.sshArgs(); KindOf(err) != KindConfig || err == nil {
		t.Errorf("a line break passed: %v", err)
	}
}
