package sshsrv

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/snapgate/gateway/vfs"
)

// gliderlabs lets clients in that prove nothing when it has no handlers of its own.
func TestNoneIsRefused(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.AuthTries = 1 })
	_, err := ts.dial(t, clientConfig("alice"))
	if err == nil {
		t.Fatal("logged in with nothing")
	}
	if !strings.Contains(err.Error(), "attempted methods [none]") {
		t.Errorf("error = %v", err)
	}
	ts.mustDial(t) // asking for the methods is no failed attempt
	ts.auth.mu.Lock()
	defer ts.auth.mu.Unlock()
	if len(ts.auth.calls) != 1 {
		t.Errorf("%d passwords checked, want 1", len(ts.auth.calls))
	}
}

// What gliderlabs offers beyond sessions is not to be had.
func TestGlobalRequestsAreRefused(t *testing.T) {
	c := startServer(t, nil).mustDial(t)
	for _, name := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "keepalive@openssh.com", "unknown"} {
		if ok, _, err := c.SendRequest(name, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	for _, typ := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "tun@openssh.com", "default", ""} {
		if _, _, err := c.OpenChannel(typ, nil); err == nil {
			t.Errorf("a channel of type %q is served", typ)
		}
	}
}

func TestRefusedUserIsTold(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.PerUser = 1 })
	ts.mustDial(t)
	cfg := clientConfig("alice", ssh.Password("secret"))
	var mu sync.Mutex
	var banners []string
	cfg.BannerCallback = func(message string) error {
		mu.Lock()
		defer mu.Unlock()
		banners = append(banners, message)
		return nil
	}
	if _, err := ts.dial(t, cfg); err == nil {
		t.Error("a second connection of a user is served")
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.ContainsFunc(banners, func(s string) bool { return strings.Contains(s, "too many connections of this user") }) {
		t.Errorf("banners %q", banners)
	}
}

// gated is a connection whose Writes wait for its end once it is shut.
type gated struct {
	net.Conn
	shut   chan struct{} // closed: Writes wait
	closed chan struct{}
	once   sync.Once
}

func (g *gated) Write(p []byte) (int, error) {
	select {
	case <-g.shut:
		<-g.closed
		return 0, net.ErrClosed
	default:
		return g.Conn.Write(p)
	}
}

func (g *gated) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.Conn.Close()
}

// gatedListener hands out its connections.
type gatedListener struct {
	net.Listener
	conns chan *gated
}

func (l gatedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &gated{Conn: nc, shut: make(chan struct{}), closed: make(chan struct{})}
	l.conns <- g
	return g, nil
}

// A client that opens channels and takes no answers does not get a goroutine for each.
func TestChannelFlood(t *testing.T) {
	conns := make(chan *gated, 1)
	ts := startServerOn(t, nil, func(ln net.Listener) net.Listener { return gatedListener{ln, conns} })
	c := ts.mustDial(t)
	g := <-conns
	close(g.shut)
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 10 * (defaultChannels + maxRefusals) {
		wg.Go(func() {
			if _, _, err := c.OpenChannel("session", nil); err == nil {
				t.Error("a channel without an answer")
			}
		})
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the connection stays")
	}
	ts.log.Wait(t, "session ended")
	if n := strings.Count(ts.log.String(), "too many channels at once"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

// A peer that takes nothing cannot hold up Shutdown: its idle channel is closed with a
// packet, which must not be waited for beyond the deadline.
func TestShutdownOfStalledPeer(t *testing.T) {
	conns := make(chan *gated, 1)
	ts := startServerOn(t, func(c *Config) {
		c.Sessions = func(context.Context, *vfs.Principal, vfs.ConnInfo) (*vfs.Session, error) { return nil, nil }
	}, func(ln net.Listener) net.Listener { return gatedListener{ln, conns} })
	c := ts.mustDial(t)
	g := <-conns
	if _, err := sftp.NewClient(c); err != nil {
		t.Fatal(err)
	}
	close(g.shut)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- ts.Shutdown(ctx) }()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown = %v, want %v", err, context.DeadlineExceeded)
		}
	case <-time.After(patience):
		t.Error("Shutdown waits for a peer that takes nothing")
		_ = g.Close()
		<-ended
	}
}

// smallListener makes connections that buffer next to nothing.
type smallListener struct{ net.Listener }

func (l smallListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return nc, nc.(*net.TCPConn).SetWriteBuffer(4 << 10)
}

// stuckConn takes nothing any more, as a stopped process does.
type stuckConn struct {
	net.Conn
	stuck chan struct{} // closed: Reads wait
	ended chan struct{}
}

func (s stuckConn) Read(p []byte) (int, error) {
	select {
	case <-s.stuck:
		<-s.ended
		return 0, net.ErrClosed
	default:
		return s.Conn.Read(p)
	}
}

// A peer that sends on but takes no answers is cut off.
func TestStalledPeer(t *testing.T) {
	ts := startServerOn(t, func(c *Config) { c.KeepAlive, c.PeerTimeout = 20*time.Millisecond, 100*time.Millisecond },
		func(ln net.Listener) net.Listener { return smallListener{ln} })
	nc, err := net.Dial("tcp", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	mine := stuckConn{nc, make(chan struct{}), make(chan struct{})}
	sc, chans, reqs, err := ssh.NewClientConn(mine, ts.addr, clientConfig("alice", ssh.Password("secret")))
	if err != nil {
		t.Fatal(err)
	}
	c := ssh.NewClient(sc, chans, reqs)
	ts.log.Wait(t, "msg=login")
	close(mine.stuck)
	var wg sync.WaitGroup
	for range 2000 { // their refusals fill the buffers
		wg.Go(func() { _, _, _ = c.OpenChannel("unknown", nil) })
	}
	wg.Go(func() {
		for err := error(nil); err == nil; {
			_, _, err = c.SendRequest("unknown", false, nil)
		}
	})
	ts.log.Wait(t, "session ended")
	close(mine.ended)
	_ = c.Close()
	wg.Wait()
}

// When Serve has returned, the goroutines that gliderlabs started end, too, and nothing
// is done for channels that came late.
func TestServeLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	ts := startServer(t, nil)
	var wg sync.WaitGroup
	for range 5 {
		c := ts.mustDial(t)
		for range 20 {
			wg.Go(func() {
				if s, err := c.NewSession(); err == nil {
					_ = s.RequestSubsystem("sftp")
				}
				_, _, _ = c.SendRequest("unknown", true, nil)
			})
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = ts.Shutdown(ctx)
	if err := <-ts.served; err != nil {
		t.Errorf("Serve = %v", err)
	}
	wg.Wait()
	goleak.VerifyNone(t, before)

	late := &conn{ended: true}
	late.handleChannel(t.Context(), nil, nil)
}
