package sshsrv

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

func TestChannelLimit(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.Channels = 2 })
	c := ts.mustDial(t)
	var open []*ssh.Session
	for range 2 {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	if _, err := c.NewSession(); err == nil {
		t.Error("a third channel is served")
	}
	open[0].Close()
	for deadline := time.Now().Add(patience); ; {
		s, err := c.NewSession()
		if err == nil {
			s.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a closed channel is counted for ever")
		}
	}
}

// The channels of a user are counted over connections, and by user.
func TestUserChannelLimit(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.UserChannels = 2 })
	var first *ssh.Session
	for range 2 {
		s, err := ts.mustDial(t).NewSession()
		if err != nil {
			t.Fatal(err)
		}
		first = s
	}
	c := ts.mustDial(t)
	if _, err := c.NewSession(); err == nil {
		t.Error("a third channel of the user is served")
	}
	bob, err := ts.dial(t, clientConfig("bob", ssh.Password("hidden")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.NewSession(); err != nil {
		t.Errorf("another user's channel: %v", err)
	}
	first.Close()
	for deadline := time.Now().Add(patience); ; {
		if _, err := c.NewSession(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a closed channel is counted for ever")
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	dialAll := func(t *testing.T, ts *testServer, n int) (ok int) {
		t.Helper()
		for range n {
			if _, err := ts.dial(t, clientConfig("alice", ssh.Password("secret"))); err == nil {
				ok++
			}
		}
		return ok
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"in all", func(c *Config) { c.Limits.Connections = 2 }, "too many connections"},
		{"of an address", func(c *Config) { c.Limits.PerAddress = 2 }, "from this address"},
		{"of a user", func(c *Config) { c.Limits.PerUser = 2 }, "of this user"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ts := startServer(t, tt.change)
			dialAll(t, ts, 3)
			ts.log.Wait(t, tt.want)
		})
	}
}

// Connections that do not log in lock nobody out: the oldest has to go, and a login that is
// under way ends with its connection.
func TestHandshakesMakeRoom(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.HandshakesPerAddress = 2 })
	ts.auth.delay = make(chan struct{})
	slow := make(chan error, 1)
	go func() {
		_, err := ts.dial(t, clientConfig("alice", ssh.Password("secret")))
		slow <- err
	}()
	ts.auth.waitCalls(t, 1)
	nc, err := net.Dial("tcp", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.ReadFull(nc, make([]byte, len(defaultVersion))); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = ts.dial(t, clientConfig("alice", ssh.Password("secret"))) }()
	select {
	case err := <-slow:
		if err == nil {
			t.Error("the oldest has logged in")
		}
	case <-time.After(patience):
		t.Fatal("the oldest stays")
	}
	ts.log.Wait(t, "connection dropped for a newer one")
	ts.auth.waitCalls(t, 2)
	close(ts.auth.delay)
	ts.log.Wait(t, "msg=login")
}

func TestHandshakeTimeout(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.HandshakeTimeout = 50 * time.Millisecond })
	t.Run("silence", func(t *testing.T) {
		nc, err := net.Dial("tcp", ts.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, nc); err != nil {
			t.Errorf("the server does not hang up: %v", err)
		}
	})
	t.Run("slow authenticator", func(t *testing.T) {
		ts.auth.delay = make(chan struct{})
		if _, err := ts.dial(t, clientConfig("alice", ssh.Password("secret"))); err == nil {
			t.Error("logged in after the deadline")
		}
	})
}

// Bytes that trickle in do not move the handshake's deadline.
func TestHandshakeTimeoutOfSlowPeer(t *testing.T) {
	const timeout = 100 * time.Millisecond
	ts := startServer(t, func(c *Config) { c.HandshakeTimeout = timeout })
	nc, err := net.Dial("tcp", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	tick := time.NewTicker(timeout / 20)
	defer tick.Stop()
	start := time.Now()
	_, err = io.WriteString(nc, "SSH-2.0-")
	for n := 0; err == nil && n < 200; n++ { // the identification may have 255 bytes
		<-tick.C
		_, err = io.WriteString(nc, "x")
	}
	if err == nil {
		t.Errorf("the server still listens after %v", time.Since(start))
	}
}

// The operator must learn why an old device cannot connect: it shows no reason itself.
func TestNoCommonAlgorithmIsLogged(t *testing.T) {
	ts := startServer(t, nil)
	cfg := clientConfig("alice", ssh.Password("secret"))
	cfg.Ciphers, cfg.MACs = []string{ssh.CipherAES128CTR}, []string{ssh.HMACSHA1}
	if _, err := ts.dial(t, cfg); err == nil {
		t.Fatal("got a connection with an old algorithm")
	}
	ts.log.Wait(t, `msg="no common algorithm"`)
	ts.log.Wait(t, "offered=hmac-sha1")
}

// A peer that is gone without a word is noticed by the keepalive, and only such a one.
func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		ts := startServerOn(t, func(c *Config) { c.KeepAlive, c.PeerTimeout = time.Second, 4*time.Second }, ln.instead)
		mute := &muteConn{Conn: ln.dial()}
		sc, chans, reqs, err := ssh.NewClientConn(mute, ts.addr, clientConfig("alice", ssh.Password("secret")))
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(reqs) // answers keepalives
		go func() {
			for range chans {
			}
		}()
		defer sc.Close()
		ended := make(chan struct{})
		go func() { _ = sc.Wait(); close(ended) }()
		select {
		case <-ended:
			t.Fatal("a live peer was cut off")
		case <-time.After(time.Minute):
		}
		mute.mute()
		start := time.Now()
		ts.log.Wait(t, "session ended")
		if took := time.Since(start); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("a dead peer was noticed after %v, want about 4 s", took)
		}
	})
}

// muteConn stops sending, as a peer without power does.
type muteConn struct {
	net.Conn
	mu    sync.Mutex
	quiet bool
}

func (m *muteConn) mute() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.quiet = true
}

func (m *muteConn) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.quiet {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// A client that lives, but takes no answers on a channel, is cut off as one that is dead.
func TestStalledChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		ts := startServerOn(t, func(c *Config) {
			c.Sessions = func(context.Context, *vfs.Principal, vfs.ConnInfo) (*vfs.Session, error) { return nil, nil }
		}, ln.instead)
		sc, chans, reqs, err := ssh.NewClientConn(ln.dial(), ts.addr, clientConfig("alice", ssh.Password("secret")))
		if err != nil {
			t.Fatal(err)
		}
		c := ssh.NewClient(sc, chans, reqs) // answers keepalives
		ch, chReqs, err := c.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(chReqs)
		if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"})); !ok || err != nil {
			t.Fatal(ok, err)
		}
		go func() {
			_, err := ch.Write(newPacket(fxpInit).uint32(protocolVersion).packet())
			ids := strings.Repeat("\x00\x00\x00\x01", 50_000)
			for id := uint32(0); err == nil; id++ { // each answer has 200 kB, the window 2 MiB
				_, err = ch.Write(newPacket(fxpExtended).uint32(id).string(extUsersGroups).string(ids).string("").packet())
			}
		}()
		ended := make(chan struct{})
		go func() { _ = c.Wait(); close(ended) }()
		start := time.Now()
		select {
		case <-ended:
		case <-time.After(time.Hour):
			t.Fatal("the connection stays")
		}
		if took := time.Since(start); took < 2*time.Minute || took > 3*time.Minute {
			t.Errorf("ended after %v, want 2 min", took)
		}
		ts.log.Wait(t, errStalled.Error())
		ts.log.Wait(t, "session ended")
	})
}

func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 3 * time.Second
		ln := newPipeListener()
		ts := startServerOn(t, func(c *Config) { c.IdleTimeout = timeout }, ln.instead)
		c, chans, reqs, err := ssh.NewClientConn(ln.dial(), ts.addr, clientConfig("alice", ssh.Password("secret")))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_ = ssh.NewClient(c, chans, reqs).Wait()
		if took := time.Since(start); took < timeout || took > 2*timeout {
			t.Errorf("an idle connection ended after %v, want %v", took, timeout)
		}
		ts.log.Wait(t, "connection idle")
	})
}

// A client that never answers a keepalive, but is heard of, is idle all the same.
func TestIdleTimeoutWithoutAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = time.Minute
		ln := newPipeListener()
		ts := startServerOn(t, func(c *Config) { c.KeepAlive, c.IdleTimeout = time.Second, timeout }, ln.instead)
		sc, _, _, err := ssh.NewClientConn(ln.dial(), ts.addr, clientConfig("alice", ssh.Password("secret")))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for err == nil && time.Since(start) < time.Hour {
			time.Sleep(1500 * time.Millisecond) //nolint:forbidigo // in a synctest bubble
			_, _, err = sc.SendRequest("unknown", false, nil)
		}
		if took := time.Since(start); took < timeout || took > 2*timeout {
			t.Errorf("an idle connection ended after %v, want %v", took, timeout)
		}
		_ = sc.Close()
		ts.log.Wait(t, "connection idle")
	})
}

func TestAlgorithms(t *testing.T) {
	keys := []ssh.Signer{newKey(t, "ed25519"), newKey(t, "ecdsa"), newKey(t, "rsa")}
	dial := func(t *testing.T, legacy bool, change func(*ssh.ClientConfig)) (string, error) {
		t.Helper()
		ts := startServer(t, func(c *Config) {
			c.HostKeys = keys
			if legacy {
				c.LegacyFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}
		})
		cfg := clientConfig("alice", ssh.Password("secret"))
		var host string
		cfg.HostKeyCallback = func(_ string, _ net.Addr, key ssh.PublicKey) error { host = key.Type(); return nil }
		change(cfg)
		_, err := ts.dial(t, cfg)
		return host, err
	}
	tests := []struct {
		name           string
		change         func(*ssh.ClientConfig)
		normal, legacy bool
	}{
		{"mlkem", func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.KeyExchangeMLKEM768X25519} }, true, true},
		{"group16", func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.KeyExchangeDH16SHA512} }, true, true},
		{"nist kex", func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.KeyExchangeECDHP256} }, false, true},
		{"group14-sha1", func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.InsecureKeyExchangeDH14SHA1} }, false, true},
		{"group1", func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.InsecureKeyExchangeDH1SHA1} }, false, false},
		{"ctr", func(c *ssh.ClientConfig) { c.Ciphers = []string{ssh.CipherAES128CTR} }, true, true},
		{"chacha", func(c *ssh.ClientConfig) { c.Ciphers = []string{ssh.CipherChaCha20Poly1305} }, false, false},
		{"cbc", func(c *ssh.ClientConfig) { c.Ciphers = []string{ssh.InsecureCipherAES128CBC} }, false, false},
		{"sha1 mac", func(c *ssh.ClientConfig) {
			c.Ciphers, c.MACs = []string{ssh.CipherAES128CTR}, []string{ssh.HMACSHA1}
		}, false, true},
		{"rsa-sha2", func(c *ssh.ClientConfig) { c.HostKeyAlgorithms = []string{ssh.KeyAlgoRSASHA512} }, true, true},
		{"ssh-rsa", func(c *ssh.ClientConfig) { c.HostKeyAlgorithms = []string{ssh.KeyAlgoRSA} }, false, true},
		{"ecdsa", func(c *ssh.ClientConfig) { c.HostKeyAlgorithms = []string{ssh.KeyAlgoECDSA256} }, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := dial(t, false, tt.change); (err == nil) != tt.normal {
				t.Errorf("normally: %v, want success %v", err, tt.normal)
			}
			if _, err := dial(t, true, tt.change); (err == nil) != tt.legacy {
				t.Errorf("legacy: %v, want success %v", err, tt.legacy)
			}
		})
	}
}

// TestFleetLogsInAtOnce: with the default limits, 200 clients behind one address may all wait
// for their password to be checked at the same time.
func TestFleetLogsInAtOnce(t *testing.T) {
	const fleet, enough = 200, 2 * time.Minute
	ts := startServer(t, func(c *Config) { c.HandshakeTimeout = enough })
	ts.auth.delay, ts.auth.called = make(chan struct{}), make(chan struct{}, fleet)
	clients := make(chan *ssh.Client, fleet)
	for range fleet {
		go func() {
			cfg := clientConfig("alice", ssh.Password("secret"))
			cfg.Timeout = enough
			c, err := ssh.Dial("tcp", ts.addr, cfg)
			if err != nil {
				t.Errorf("login: %v", err)
			}
			clients <- c
		}()
	}
	timeout := time.After(enough)
	for n := range fleet {
		select {
		case <-ts.auth.called:
		case <-timeout:
			t.Fatalf("%d clients have come to their password, want %d", n, fleet)
		}
	}
	close(ts.auth.delay)
	for range fleet {
		if c := <-clients; c != nil {
			defer c.Close()
		}
	}
}
