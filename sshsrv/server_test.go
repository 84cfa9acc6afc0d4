package sshsrv

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/internal/logtest"
	"github.com/snapgate/gateway/vfs"
)

func newKey(tb testing.TB, kind string) ssh.Signer {
	tb.Helper()
	var key any
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return signer
}

// fakeAuth knows users by password and key.
type fakeAuth struct {
	passwords map[string]string
	keys      map[string]string // marshalled key to user
	mu        sync.Mutex
	calls     []ConnMeta
	panics    bool          // Password does
	delay     chan struct{} // Password waits for it or for ctx, when not nil
	called    chan struct{} // Password sends on it, when not nil
}

func (a *fakeAuth) Password(ctx context.Context, m ConnMeta, password []byte) (*vfs.Principal, error) {
	a.mu.Lock()
	a.calls = append(a.calls, m)
	a.mu.Unlock()
	if a.called != nil {
		a.called <- struct{}{}
	}
	if a.panics {
		panic("password")
	}
	if a.delay != nil {
		select {
		case <-a.delay:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if want, ok := a.passwords[m.User]; !ok || want != string(password) {
		return nil, errors.New("wrong password")
	}
	return &vfs.Principal{User: m.User}, nil
}

// waitCalls returns when Password was called n times.
func (a *fakeAuth) waitCalls(tb testing.TB, n int) {
	tb.Helper()
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		a.mu.Lock()
		got := len(a.calls)
		a.mu.Unlock()
		if got >= n {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%d calls of Password, want %d", got, n)
		}
	}
}

func (a *fakeAuth) PublicKey(_ context.Context, m ConnMeta, key ssh.PublicKey) (*vfs.Principal, error) {
	user, ok := a.keys[string(key.Marshal())]
	if !ok || user != m.User && m.User != "any" {
		return nil, errors.New("unknown key")
	}
	return &vfs.Principal{User: user}, nil
}

// testServer is a server on a local port.
type testServer struct {
	*Server
	addr   string
	auth   *fakeAuth
	log    *logtest.Buffer
	served chan error
	users  chan string // principals for which a session was started
}

func startServer(tb testing.TB, change func(*Config)) *testServer {
	tb.Helper()
	return startServerOn(tb, change, func(ln net.Listener) net.Listener { return ln })
}

// startServerOn is startServer with a listener of the test's.
func startServerOn(tb testing.TB, change func(*Config), wrap func(net.Listener) net.Listener) *testServer {
	tb.Helper()
	ts := &testServer{
		auth:   &fakeAuth{passwords: map[string]string{"alice": "secret", "bob": "hidden"}, keys: map[string]string{}},
		log:    &logtest.Buffer{},
		served: make(chan error, 1),
		users:  make(chan string, 100),
	}
	cfg := Config{
		HostKeys: []ssh.Signer{newKey(tb, "ed25519")},
		Auth:     ts.auth,
		Sessions: func(_ context.Context, p *vfs.Principal, _ vfs.ConnInfo) (*vfs.Session, error) {
			ts.users <- p.User
			return nil, errors.New("no file system here")
		},
		Logger: slog.New(slog.NewTextHandler(ts.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if ts.Server, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ts.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ts.served <- ts.Serve(ctx, wrap(ln))
	}()
	tb.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			tb.Error("Serve does not return")
		}
	})
	return ts
}

func clientConfig(user string, auth ...ssh.AuthMethod) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User: user, Auth: auth, Timeout: patience,
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // a test's own server
	}
}

func (ts *testServer) dial(tb testing.TB, cfg *ssh.ClientConfig) (*ssh.Client, error) {
	tb.Helper()
	c, err := ssh.Dial("tcp", ts.addr, cfg)
	if err == nil {
		tb.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (ts *testServer) mustDial(tb testing.TB) *ssh.Client {
	tb.Helper()
	c, err := ts.dial(tb, clientConfig("alice", ssh.Password("secret")))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestNewValidates(t *testing.T) {
	key := newKey(t, "ed25519")
	good := Config{
		HostKeys: []ssh.Signer{key}, Auth: &fakeAuth{}, Logger: slog.New(slog.DiscardHandler),
		Sessions: func(context.Context, *vfs.Principal, vfs.ConnInfo) (*vfs.Session, error) { return nil, nil },
	}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no key", func(c *Config) { c.HostKeys = nil }, "no host key"},
		{"two keys of a type", func(c *Config) { c.HostKeys = append(c.HostKeys, newKey(t, "ed25519")) }, "two host keys"},
		{"no authenticator", func(c *Config) { c.Auth = nil }, "no authenticator"},
		{"no sessions", func(c *Config) { c.Sessions = nil }, "no sessions"},
		{"no logger", func(c *Config) { c.Logger = nil }, "no logger"},
		{"version", func(c *Config) { c.Version = "snapgate" }, "SSH-2.0-"},
		{"negative limit", func(c *Config) { c.Limits.PerUser = -1 }, "negative"},
		{"negative time", func(c *Config) { c.KeepAlive = -1 }, "negative"},
		{"peer timeout", func(c *Config) { c.PeerTimeout = time.Second }, "not longer than keepalive"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			cfg.HostKeys = slices.Clone(good.HostKeys)
			tt.change(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	ts := startServer(t, nil)
	mine, other := newKey(t, "ed25519"), newKey(t, "ecdsa")
	ts.auth.keys[string(mine.PublicKey().Marshal())] = "alice"
	tests := []struct {
		name string
		cfg  *ssh.ClientConfig
		ok   bool
	}{
		{"password", clientConfig("alice", ssh.Password("secret")), true},
		{"wrong password", clientConfig("alice", ssh.Password("SECRET-typed")), false},
		{"unknown user", clientConfig("carol", ssh.Password("secret")), false},
		{"key", clientConfig("alice", ssh.PublicKeys(mine)), true},
		{"second key", clientConfig("alice", ssh.PublicKeys(other, mine)), true},
		{"unknown key", clientConfig("alice", ssh.PublicKeys(other)), false},
		{"nothing", clientConfig("alice"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ts.dial(t, tt.cfg)
			if (err == nil) != tt.ok {
				t.Fatalf("error = %v, want success %v", err, tt.ok)
			}
			if err == nil {
				if got := string(c.ServerVersion()); got != "SSH-2.0-snapgate" {
					t.Errorf("version = %q", got)
				}
			}
		})
	}
	ts.log.Wait(t, `msg="login failed"`)
	ts.log.Wait(t, "user=carol attempts=")
	if log := ts.log.String(); strings.Contains(log, "secret") || strings.Contains(log, "SECRET-typed") {
		t.Error("a password is in the log")
	}
	ts.auth.mu.Lock()
	defer ts.auth.mu.Unlock()
	if got := ts.auth.calls[0].Remote; got != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("remote = %v", got)
	}
}

// offerOnly asks the server about a key and takes no answer for a yes, so that x/crypto's
// client goes on to its next key.
type offerOnly struct {
	ssh.PublicKey
	marshalled int
}

// Marshal is the key when it is offered, and another when the answer is compared.
func (o *offerOnly) Marshal() []byte {
	b := o.PublicKey.Marshal()
	if o.marshalled++; o.marshalled > 1 {
		b[len(b)-1] ^= 1
	}
	return b
}

type offerSigner struct{ key *offerOnly }

func (o offerSigner) PublicKey() ssh.PublicKey { return o.key }

func (offerSigner) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return nil, errors.New("no private key")
}

// The client is only told that it is denied; the operator must see why.
func TestFailedLoginIsExplained(t *testing.T) {
	ts := startServer(t, nil)
	cfg := clientConfig("alice", ssh.PublicKeys(newKey(t, "ed25519"), newKey(t, "ecdsa")), ssh.Password("wrong"))
	if _, err := ts.dial(t, cfg); err == nil {
		t.Fatal("logged in")
	}
	ts.log.Wait(t, `msg="login failed"`)
	ts.log.Wait(t, `user=alice attempts=3 err="unknown key; wrong password"`)
}

// ledger is an Observer that sends what it is told.
type ledger chan string

func (l ledger) LoggedIn(e Login) {
	l <- fmt.Sprintf("%s %s %s %s: %v", e.Protocol, e.User, e.Method, e.Key, e.Err)
}

func (l ledger) LoggedOut(e Logout) { l <- fmt.Sprintf("%s %s left, %s", e.Protocol, e.User, e.Conn) }

// An observer is told of each login and each refusal once: of the keys that were refused only
// when none was good, and of a key that was only offered never.
func TestObserver(t *testing.T) {
	told := make(ledger, 100)
	ts := startServer(t, func(c *Config) { c.Observer = told })
	mine, other, third := newKey(t, "ed25519"), newKey(t, "ecdsa"), newKey(t, "ecdsa")
	ts.auth.keys[string(mine.PublicKey().Marshal())] = "alice"
	print := ssh.FingerprintSHA256
	for _, tt := range []struct {
		name string
		cfg  *ssh.ClientConfig
		want []string
	}{
		{"password", clientConfig("alice", ssh.Password("secret")), []string{"sftp alice password : <nil>", "sftp alice left, sftp-1"}},
		{"wrong password", clientConfig("bob", ssh.Password("oops")), []string{"sftp bob password : wrong password"}},
		{"second key", clientConfig("alice", ssh.PublicKeys(other, mine)), []string{
			"sftp alice publickey " + print(mine.PublicKey()) + ": <nil>", "sftp alice left, sftp-3",
		}},
		{"unknown keys", clientConfig("alice", ssh.PublicKeys(other, third)), []string{
			"sftp alice publickey " + print(other.PublicKey()) + "," + print(third.PublicKey()) + ": unknown key",
		}},
		{"nothing", clientConfig("alice"), nil},
	} {
		c, err := ts.dial(t, tt.cfg)
		if err == nil {
			_ = c.Close()
		}
		for _, want := range tt.want {
			if got := <-told; got != want {
				t.Errorf("%s: got %q, want %q", tt.name, got, want)
			}
		}
	}
	if st := ts.Stats(); st.Accepted != 5 || st.Refused != 0 {
		t.Errorf("counts %+v, want 5 connections", st)
	}
	select {
	case got := <-told:
		t.Errorf("more was told: %q", got)
	default:
	}
}

// CVE-2024-45337: a key that was merely offered must not decide who somebody is. The
// user "any" may log in with either key and is whoever owns it.
func TestOfferedKeyIsNoIdentity(t *testing.T) {
	ts := startServer(t, nil)
	bobs, mine := newKey(t, "ed25519"), newKey(t, "ed25519")
	ts.auth.keys[string(bobs.PublicKey().Marshal())] = "bob"
	ts.auth.keys[string(mine.PublicKey().Marshal())] = "alice"
	ts.auth.passwords["any"] = "secret"
	offer := func() ssh.Signer { return offerSigner{&offerOnly{PublicKey: bobs.PublicKey()}} }
	tests := []struct {
		name string
		auth []ssh.AuthMethod
		want string // "": no login
	}{
		{"own key", []ssh.AuthMethod{ssh.PublicKeys(mine)}, "alice"},
		{"another's key", []ssh.AuthMethod{ssh.PublicKeys(offer())}, ""},
		{"another's key, then one's own", []ssh.AuthMethod{ssh.PublicKeys(offer(), mine)}, "alice"},
		{"another's key, then a password", []ssh.AuthMethod{ssh.PublicKeys(offer()), ssh.Password("secret")}, "any"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ts.dial(t, clientConfig("any", tt.auth...))
			if (err == nil) != (tt.want != "") {
				t.Fatalf("login: %v", err)
			}
			if err != nil {
				return
			}
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Run("snapshot") // fails, after the session's start has told us who we are
			if got := <-ts.users; got != tt.want {
				t.Errorf("principal = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	ts := startServer(t, nil)
	c := ts.mustDial(t)
	t.Run("port forwarding", func(t *testing.T) {
		if _, err := c.Dial("tcp", ts.addr); err == nil {
			t.Error("direct-tcpip is served")
		}
		if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
			t.Error("tcpip-forward is served")
		}
	})
	t.Run("session requests", func(t *testing.T) {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Setenv("LANG", "C"); err == nil {
			t.Error("env is accepted")
		}
		if err := s.RequestPty("xterm", 24, 80, nil); err == nil {
			t.Error("pty-req is accepted")
		}
		if ok, err := s.SendRequest("auth-agent-req@openssh.com", true, nil); ok || err != nil {
			t.Errorf("agent: %v, %v", ok, err)
		}
		if err := s.RequestSubsystem("netconf"); err == nil {
			t.Error("another subsystem is accepted")
		}
	})
	for _, tt := range []struct{ name, line, want string }{
		{"scp", "scp -t /tmp", "old scp protocol"},
		{"command", "rm -rf /", "unknown command"},
		{"shell", "", "SFTP only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			s.Stderr = &stderr
			if tt.line == "" {
				if err = s.Shell(); err == nil {
					err = s.Wait()
				}
			} else {
				err = s.Run(tt.line)
			}
			var exit *ssh.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 1 {
				t.Errorf("error = %v, want exit status 1", err)
			}
			if !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("stderr = %q, want %q", &stderr, tt.want)
			}
		})
	}
}

func TestShutdown(t *testing.T) {
	ts := startServer(t, nil)
	c := ts.mustDial(t)
	if err := ts.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-ts.served; err != nil {
		t.Errorf("Serve = %v", err)
	}
	_ = c.Wait()
	if _, err := ts.dial(t, clientConfig("alice", ssh.Password("secret"))); err == nil {
		t.Error("a connection after Shutdown")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ts.Serve(context.Background(), ln); err != nil {
		t.Errorf("Serve after Shutdown = %v", err)
	}
	if nc, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		nc.Close()
		t.Error("a listener stays open after Shutdown")
	}
}

// A panic in the authenticator costs its connection and nothing else.
func TestPanicInLogin(t *testing.T) {
	ts := startServer(t, nil)
	ts.auth.panics = true
	if _, err := ts.dial(t, clientConfig("alice", ssh.Password("secret"))); err == nil {
		t.Error("logged in")
	}
	ts.log.Wait(t, "level=ERROR msg=panic")
	ts.auth.panics = false
	ts.mustDial(t)
}
