package sshclient

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

// TestMain fails when anything that a test started is still there at the end.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits for something that must happen.
const patience = 30 * time.Second

// testAddr is an address of nobody.
type testAddr struct{}

func (testAddr) Network() string { return "tcp" }
func (testAddr) String() string  { return "192.0.2.1:22" }

// testKey is a key that depends on n only.
func testKey(tb testing.TB, n byte) ed25519.PrivateKey {
	tb.Helper()
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func testSigner(tb testing.TB, n byte) ssh.Signer {
	tb.Helper()
	s, err := ssh.NewSignerFromKey(testKey(tb, n))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func testPublicKey(tb testing.TB, n byte) ssh.PublicKey {
	tb.Helper()
	return testSigner(tb, n).PublicKey()
}

// keyFile writes a private key, encrypted when passphrase is not empty.
func keyFile(tb testing.TB, n byte, passphrase string) string {
	tb.Helper()
	return writeFile(tb, filepath.Join(tb.TempDir(), "key"+strconv.Itoa(int(n))), string(keyPEM(tb, n, passphrase)))
}

func keyPEM(tb testing.TB, n byte, passphrase string) []byte {
	tb.Helper()
	block, err := ssh.MarshalPrivateKey(testKey(tb, n), "")
	if err != nil {
		tb.Fatal(err)
	}
	if passphrase == "" {
		return pem.EncodeToMemory(block)
	}
	// One round of the key derivation: x/crypto writes 16, which take a second with the
	// race detector.
	file := writeFile(tb, filepath.Join(tb.TempDir(), "key"), string(pem.EncodeToMemory(block)))
	if out, err := exec.Command("ssh-keygen", "-q", "-p", "-a", "1", "-N", passphrase, "-f", file).CombinedOutput(); err != nil {
		tb.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// Keys of the tests' servers and users.
const (
	hostKey  = 1
	otherKey = 2
	userKey  = 11
)

// server is an SSH server in this process.
type server struct {
	tb     testing.TB
	config *ssh.ServerConfig
	addr   string

	// session runs a session's subsystem; nil serves SFTP from memory.
	session func(ch ssh.Channel)
	// subsystem and forward say whether those are allowed; silent, that global requests
	// and what comes after them get no answer.
	noSubsystem, forward bool
	// routes are where it forwards to in place of addresses, host:port.
	routes map[string]string

	mu      sync.Mutex // guards what follows
	offered []string   // fingerprints of keys
	tasks   sync.WaitGroup
	conns   []net.Conn
	open    int // connections so far
}

// newServer starts a server that takes the user's key. change may alter it before that.
func newServer(tb testing.TB, change func(s *server)) *server {
	tb.Helper()
	s := &server{tb: tb, config: &ssh.ServerConfig{}}
	user := testPublicKey(tb, userKey)
	s.config.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		s.mu.Lock()
		s.offered = append(s.offered, ssh.FingerprintSHA256(key))
		s.mu.Unlock()
		if sameKey(key, user) {
			return nil, nil
		}
		return nil, errors.New("not this key")
	}
	if change != nil {
		change(s)
	}
	if change == nil || !s.hasHostKey() {
		s.config.AddHostKey(testSigner(tb, hostKey))
	}
	s.addr = s.listen(s.serve)
	return s
}

// hasHostKey is true when change has set algorithms of its own kind.
func (s *server) hasHostKey() bool { return s.config.ServerVersion == "SSH-2.0-ownkeys" }

// listen runs handle for each connection; all end with the test.
func (s *server) listen(handle func(net.Conn)) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tasks.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns, s.open = append(s.conns, conn), s.open+1
			s.mu.Unlock()
			s.tasks.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	s.tb.Cleanup(func() {
		_ = ln.Close()
		s.cut()
		s.tasks.Wait()
	})
	return ln.Addr().String()
}

// cut closes all connections.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
}

func (s *server) serve(conn net.Conn) {
	sc, chans, reqs, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		return
	}
	defer sc.Close()
	s.tasks.Go(func() { ssh.DiscardRequests(reqs) })
	for nc := range chans {
		switch {
		case nc.ChannelType() == "session":
			ch, in, err := nc.Accept()
			if err != nil {
				return
			}
			s.tasks.Go(func() { s.requests(ch, in) })
		case nc.ChannelType() == "direct-tcpip" && s.forward:
			s.tasks.Go(func() { s.pass(nc) })
		default:
			_ = nc.Reject(ssh.Prohibited, "administratively prohibited")
		}
	}
}

func (s *server) requests(ch ssh.Channel, in <-chan *ssh.Request) {
	for req := range in {
		ok := req.Type == "subsystem" && !s.noSubsystem
		_ = req.Reply(ok, nil)
		if !ok {
			continue
		}
		s.tasks.Go(func() {
			defer ch.Close()
			if s.session != nil {
				s.session(ch)
				return
			}
			_ = sftp.NewRequestServer(ch, sftp.InMemHandler()).Serve()
		})
	}
}

// pass connects a channel to where the client wants.
func (s *server) pass(nc ssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if err := ssh.Unmarshal(nc.ExtraData(), &to); err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	addr := net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port)))
	conn, err := net.Dial("tcp", cmp.Or(s.routes[addr], addr))
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "Connection refused")
		return
	}
	s.mu.Lock()
	s.conns = append(s.conns, conn)
	s.mu.Unlock()
	ch, reqs, err := nc.Accept()
	if err != nil {
		_ = conn.Close()
		return
	}
	s.tasks.Go(func() { ssh.DiscardRequests(reqs) })
	s.tasks.Go(func() {
		_, _ = io.Copy(ch, conn)
		_ = ch.Close()
	})
	_, _ = io.Copy(conn, ch)
	_ = conn.Close()
}

// offers are the keys that clients offered so far.
func (s *server) offers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.offered...)
}

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// name is what known_hosts calls the server.
func (s *server) name() string {
	host, port, _ := net.SplitHostPort(s.addr)
	return "[" + host + "]:" + port
}

func (s *server) port() int {
	_, port, _ := net.SplitHostPort(s.addr)
	n, _ := strconv.Atoi(port)
	return n
}

// known writes a known_hosts file with the server's key.
func (s *server) known(n byte) string {
	s.tb.Helper()
	return writeFile(s.tb, filepath.Join(s.tb.TempDir(), "known_hosts"), knownLineFor(s.tb, s.name(), n))
}

func knownLineFor(tb testing.TB, name string, n byte) string {
	tb.Helper()
	return name + " " + string(ssh.MarshalAuthorizedKey(testPublicKey(tb, n)))
}

// client is a configuration with which the server lets us in.
func (s *server) client() Config {
	s.tb.Helper()
	return Config{
		Host: "127.0.0.1", Port: s.port(), User: "me", Files: []string{}, Agent: AgentNone,
		IdentityFiles: []string{keyFile(s.tb, userKey, "")}, KnownHosts: []string{s.known(hostKey)},
		local: testMachine(s.tb.TempDir()),
	}
}

// dial connects and closes the connection at the end of the test.
func dial(t *testing.T, cfg Config) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := Dial(ctx, cfg)
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, HintOf(err))
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// works checks that files can be written and read.
func works(t *testing.T, c *Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err := c.SFTP(ctx)
	if err != nil {
		t.Fatalf("%v\nhint: %s", err, HintOf(err))
	}
	was := c.Heard()
	if _, err := client.ReadDir("/"); err != nil {
		t.Fatal(err)
	}
	if !c.Heard().After(was) {
		t.Error("what the server has said was not heard")
	}
	if err := client.Close(); err != nil {
		t.Errorf("closing a session: %v", err)
	}
}

// failure dials and returns the error, which must be of a kind, with a hint, and have all
// of parts in its text and hint.
func failure(t *testing.T, cfg Config, kind Kind, parts ...string) *Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := Dial(ctx, cfg)
	if err == nil {
		_, err = c.SFTP(ctx)
		_ = c.Close()
	}
	return checkError(t, err, kind, parts...)
}

func checkError(t *testing.T, err error, kind Kind, parts ...string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, kind) {
		t.Fatalf("got %v (%v), want the kind %v", err, KindOf(err), kind)
	}
	if e.Hint == "" {
		t.Errorf("%v has no hint", err)
	}
	for _, part := range parts {
		if !strings.Contains(e.Error()+"\n"+e.Hint, part) {
			t.Errorf("%q is neither in %q nor in the hint %q", part, e.Error(), e.Hint)
		}
	}
	t.Logf("%v\nhint: %s", e, e.Hint)
	return e
}

// logged collects what is logged.
type logged struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
