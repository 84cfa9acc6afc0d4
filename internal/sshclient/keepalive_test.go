package sshclient

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// pipe connects a client to a server in memory, so that time is a bubble's. Once frozen is set, what the
// server answers is lost.
func pipe(t *testing.T, h *hop, frozen *atomic.Bool) *Client {
	t.Helper()
	s := &server{tb: t, config: &ssh.ServerConfig{NoClientAuth: true}}
	s.config.AddHostKey(testSigner(t, hostKey))
	// A relay sits between the two: both begin with a Write, which waits for a Read.
	client, near := net.Pipe()
	far, srv := net.Pipe()
	relay := func(to, from net.Conn, lost func() bool) {
		defer to.Close()
		defer from.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if lost() {
				continue
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	s.tasks.Go(func() { relay(far, near, func() bool { return false }) })
	s.tasks.Go(func() { relay(near, far, frozen.Load) })
	s.tasks.Go(func() { s.serve(srv) })
	g := newGuardedConn(client)
	c := &Client{d: &Dialer{cfg: Config{Host: h.name}}, target: h, root: client, guards: []*guardedConn{g}, ended: make(chan struct{})}
	conn, chans, reqs, err := ssh.NewClientConn(g, h.name, &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()}) //nolint:gosec // there is no network
	if err != nil {
		t.Fatal(err)
	}
	c.hops = []*ssh.Client{ssh.NewClient(conn, chans, reqs)}
	c.start()
	t.Cleanup(func() {
		_ = c.Close()
		s.tasks.Wait()
	})
	return c
}

// TestKeepAlive checks that a peer which answers nothing is noticed, and one that only does
// not know the request is not.
func TestKeepAlive(t *testing.T) {
	const every, count = time.Minute, 3
	synctest.Test(t, func(t *testing.T) {
		var frozen atomic.Bool
		c := pipe(t, &hop{name: "web", keepAlive: every, keepAliveCount: count}, &frozen)
		client, err := c.SFTP(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.Done():
			t.Fatalf("the connection to the living peer ended: %v", c.Err())
		case <-time.After(10 * count * every):
		}
		frozen.Store(true)
		began := time.Now()
		<-c.Done()
		if took := time.Since(began); took < count*every || took > (count+2)*every {
			t.Errorf("a dead peer was noticed after %v", took)
		}
		checkError(t, c.Err(), KindTimeout, "no answer for 3m0s")
		if _, err := client.Stat("/"); err == nil {
			t.Error("a dead peer answers")
		}
	})
}
